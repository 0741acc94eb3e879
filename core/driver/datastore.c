/*
 * The queue of a datastore. Each keyspace with work has a lane, on which one job runs at a time; lanes that can run stand in the
 * ready list of their best class, and a worker takes from the lists by class. One mutex guards it all and is held for
 * a few instructions only; the idle worker that slept least is woken, alone, so that a busy one keeps its caches.
 *
 * The reaper thread ends jobs whose deadline passed in the queue, and interrupts calls that run past theirs. It sleeps
 * while there is nothing to do.
 */
#include "driver/datastore.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include <uthash.h>

#include "base/log.h"
#include "base/metrics.h"
#include "driver/session.h"
#include "driver/subscription.h"

#define N_CLASSES 3
#define DEFAULT_SESSIONS 8
#define N_LATENCIES 1024
#define REAPER_NS (50 * NSEC_PER_MSEC)
/* How long a call may run past its deadline before it is interrupted, and how often again. */
#define INTERRUPT_GRACE_NS (250 * NSEC_PER_MSEC)
#define INTERRUPT_AGAIN_NS NSEC_PER_SEC
/* Each so many jobs the classes are asked in the other order, so that commits never starve the rest. */
#define FAIRNESS 8

struct lane {
        char *name; /* owned; NULL: of one job that belongs to no keyspace */
        UT_hash_handle hh;
        TAILQ_ENTRY(lane) ready;
        int ready_class; /* whose list it is on; -1: none */
        struct datastore_job *first[N_CLASSES], **last[N_CLASSES];
        struct datastore_job *running;
        size_t n_jobs;
};
TAILQ_HEAD(lane_list, lane);

struct datastore {
        char *name; /* owned */
        const struct stoke_driver *driver;
        struct stoke_store *store; /* owned */
        struct stoke_host host;
        datastore_secret_fn secret;
        void *secret_userdata;
        /* The copy that the driver may look at until close. */
        struct stoke_datastore definition;
        char **endpoints;
        struct stoke_setting *settings;

        pthread_mutex_t mutex;
        struct lane *lanes; /* by name */
        struct lane_list ready[N_CLASSES];
        size_t n_jobs, n_waiting;
        size_t n_ready;    /* lanes on the ready lists */
        unsigned n_waking; /* workers that were woken or made and have not looked yet */
        unsigned n_bulk, n_taken;
        bool stopping;

        struct session **sessions; /* owned */
        unsigned n_sessions, max_sessions, n_connected;
        struct session *idle; /* the one that slept least is first */

        pthread_t reaper;
        bool reaper_asleep;
        pthread_cond_t reaper_wake, settled;

        struct subscriptions *subscriptions; /* owned */

        uint32_t latencies_us[N_LATENCIES];
        uint64_t n_latencies;
        struct metric *append_seconds, *append_records, *sessions_gauge, *waiting_gauge;
};

/* ---- lanes. All with the mutex. */

static int best_class(const struct lane *lane) {
        for (int c = 0; c < N_CLASSES; c++)
                if (lane->first[c])
                        return c;
        return -1;
}

/* Puts the lane where it belongs now, or frees it if it has nothing left. */
static void lane_settle(struct datastore *ds, struct lane *lane) {
        int c = lane->running ? -1 : best_class(lane);

        if (c != lane->ready_class) {
                if (lane->ready_class >= 0)
                        TAILQ_REMOVE(&ds->ready[lane->ready_class], lane, ready);
                ds->n_ready = ds->n_ready + (c >= 0) - (lane->ready_class >= 0);
                if (c >= 0)
                        TAILQ_INSERT_TAIL(&ds->ready[c], lane, ready);
                lane->ready_class = c;
        }
        if (lane->n_jobs == 0) {
                if (lane->name)
                        HASH_DEL(ds->lanes, lane);
                free(lane->name);
                free(lane);
        }
}

static struct lane *lane_get(struct datastore *ds, const char *name) {
        struct lane *lane = NULL;

        if (name)
                HASH_FIND_STR(ds->lanes, name, lane);
        if (lane)
                return lane;
        lane = new0(struct lane);
        lane->ready_class = -1;
        for (int c = 0; c < N_CLASSES; c++)
                lane->last[c] = &lane->first[c];
        if (name) {
                lane->name = strdup(name);
                check(lane->name);
                HASH_ADD_KEYPTR(hh, ds->lanes, lane->name, strlen(lane->name), lane);
        }
        return lane;
}

static struct datastore_job *lane_pop(struct lane *lane, int c) {
        struct datastore_job *job = lane->first[c];

        lane->first[c] = job->next;
        if (!job->next)
                lane->last[c] = &lane->first[c];
        job->next = NULL;
        return job;
}

static bool class_may_run(const struct datastore *ds, int c) {
        return c != JOB_BULK || ds->n_bulk < max_of(1u, ds->max_sessions / 2);
}

static struct datastore_job *next_job(struct datastore *ds) {
        bool reversed = ++ds->n_taken % FAIRNESS == 0;

        for (int i = 0; i < N_CLASSES; i++) {
                int c = reversed ? N_CLASSES - 1 - i : i;
                struct lane *lane = TAILQ_FIRST(&ds->ready[c]);
                struct datastore_job *job;

                if (!lane || !class_may_run(ds, c))
                        continue;
                job = lane_pop(lane, c);
                lane->running = job;
                job->lane = lane;
                if (c == JOB_BULK)
                        ds->n_bulk++;
                ds->n_waiting--;
                lane_settle(ds, lane);
                return job;
        }
        return NULL;
}

/* Is there something that a worker could take now? */
static bool runnable(const struct datastore *ds) {
        for (int c = 0; c < N_CLASSES; c++)
                if (!TAILQ_EMPTY(&ds->ready[c]) && class_may_run(ds, c))
                        return true;
        return false;
}

static void on_posted(struct loop_task *task) {
        struct datastore_job *job = container_of(task, struct datastore_job, task);

        job->done(job);
}

static void post(struct datastore_job *job) {
        job->task.run = on_posted;
        loop_post(job->loop, &job->task);
}

/* Wakes one idle worker, or makes one, unless as many as there is work for are on their way. */
static void wake_one(struct datastore *ds) {
        struct session *session = ds->idle;
        int r;

        if (!runnable(ds) || ds->n_waking >= ds->n_ready)
                return;
        if (session) {
                ds->idle = session->next_idle;
                session->woken = true;
                ds->n_waking++;
                pthread_cond_signal(&session->wake);
                return;
        }
        if (ds->n_sessions == ds->max_sessions)
                return;
        session = new0(struct session);
        session->woken = true;
        r = session_start(session, ds);
        if (r < 0) {
                free(session);
                /* With others at work the job waits its turn; with none it ends at its deadline. */
                log_at(LOG_LEVEL_ERROR, &(struct log_context){.datastore = ds->name},
                        "cannot start a session's thread: %s", strerror(-r));
                return;
        }
        ds->n_waking++;
        ds->sessions[ds->n_sessions++] = session;
}

/* ---- the workers' side */

struct datastore_job *datastore_take(struct datastore *ds, struct session *session) {
        struct datastore_job *job;

        pthread_mutex_lock(&ds->mutex);
        for (;;) {
                if (session->woken) {
                        session->woken = false;
                        ds->n_waking--;
                }
                job = ds->stopping ? NULL : next_job(ds);
                if (job || ds->stopping)
                        break;
                session->next_idle = ds->idle;
                ds->idle = session;
                while (!session->woken && !ds->stopping)
                        pthread_cond_wait(&session->wake, &ds->mutex);
        }
        if (job) {
                /* What became ready with the last job's end may be for somebody who sleeps. */
                wake_one(ds);
                session->job = job;
                session->started_ns = clock_now_ns();
                session->interrupted_ns = 0;
        }
        pthread_mutex_unlock(&ds->mutex);
        return job;
}

void datastore_connected(struct datastore *ds, struct session *session, struct stoke_session *connection) {
        pthread_mutex_lock(&ds->mutex);
        while (session->interrupting)
                pthread_cond_wait(&ds->settled, &ds->mutex);
        ds->n_connected = ds->n_connected + (connection != NULL) - (session->connection != NULL);
        session->connection = connection;
        metric_set(ds->sessions_gauge, ds->n_connected);
        pthread_mutex_unlock(&ds->mutex);
}

void datastore_finish(struct datastore *ds, struct session *session, struct datastore_job *job, uint64_t elapsed_ns) {
        struct lane *lane = job->lane;

        if (job->class == JOB_COMMIT && job->ran) {
                metric_observe(ds->append_seconds, (double)elapsed_ns / 1e9);
                if (job->result == 0 && job->n_records)
                        metric_add(ds->append_records, (double)job->n_records);
        }
        pthread_mutex_lock(&ds->mutex);
        /* Whoever interrupts this call must have ended, or it would hit the next one. */
        while (session->interrupting)
                pthread_cond_wait(&ds->settled, &ds->mutex);
        session->job = NULL;
        if (job->class == JOB_COMMIT && job->ran && job->result == 0)
                ds->latencies_us[ds->n_latencies++ % N_LATENCIES] =
                        (uint32_t)min_of(elapsed_ns / 1000, (uint64_t)UINT32_MAX);
        if (job->class == JOB_BULK)
                ds->n_bulk--;
        ds->n_jobs--;
        lane->n_jobs--;
        lane->running = NULL;
        job->lane = NULL;
        lane_settle(ds, lane);
        metric_set(ds->waiting_gauge, (double)ds->n_waiting);
        pthread_mutex_unlock(&ds->mutex);
        post(job);
}

/* ---- the reaper */

/* Unlinks from the lanes what must not wait any longer (all: everything that waits) and returns it as a list. */
static struct datastore_job *unqueue(struct datastore *ds, uint64_t now, bool all) {
        struct datastore_job *out = NULL, **end = &out;

        for (int ready = 0; ready < 2; ready++) {
                /* Lanes without a name are found on the ready lists only, and always there while they wait. */
                struct lane *lane, *next;

                if (ready == 0) {
                        HASH_ITER(hh, ds->lanes, lane, next) {
                                for (int c = 0; c < N_CLASSES; c++)
                                        for (struct datastore_job **p = &lane->first[c]; *p;) {
                                                struct datastore_job *job = *p;

                                                if (!all && now < job->deadline_ns) {
                                                        p = &job->next;
                                                        continue;
                                                }
                                                *p = job->next;
                                                if (!job->next)
                                                        lane->last[c] = p;
                                                job->next = NULL;
                                                *end = job;
                                                end = &job->next;
                                                lane->n_jobs--;
                                                ds->n_jobs--;
                                                ds->n_waiting--;
                                        }
                                lane_settle(ds, lane);
                        }
                        continue;
                }
                for (int c = 0; c < N_CLASSES; c++)
                        for (lane = TAILQ_FIRST(&ds->ready[c]); lane; lane = next) {
                                next = TAILQ_NEXT(lane, ready);
                                if (lane->name || (!all && now < lane->first[c]->deadline_ns))
                                        continue;
                                *end = lane_pop(lane, c);
                                end = &(*end)->next;
                                lane->n_jobs--;
                                ds->n_jobs--;
                                ds->n_waiting--;
                                lane_settle(ds, lane);
                        }
        }
        return out;
}

static void post_all(struct datastore_job *jobs, int result, const char *reason) {
        while (jobs) {
                struct datastore_job *job = jobs;

                jobs = job->next;
                job->next = NULL;
                job->result = result;
                snprintf(job->reason, sizeof(job->reason), "%s", reason);
                post(job);
        }
}

/* Interrupts calls that run past their deadline (all: every call). The mutex is let go for each: interrupt may talk to a server. */
static void interrupt_late(struct datastore *ds, uint64_t now, bool all) {
        for (unsigned i = 0; i < ds->n_sessions; i++) {
                struct session *session = ds->sessions[i];
                struct stoke_session *connection = session->connection;
                uint64_t deadline;

                if (!session->job || !connection || session->interrupting)
                        continue;
                deadline = session->job->deadline_ns;
                if (!all && (now < deadline || now - deadline < INTERRUPT_GRACE_NS))
                        continue;
                if (!all && session->interrupted_ns && now - session->interrupted_ns < INTERRUPT_AGAIN_NS)
                        continue;
                session->interrupted_ns = now;
                session->interrupting = true;
                pthread_mutex_unlock(&ds->mutex);
                ds->driver->interrupt(connection);
                pthread_mutex_lock(&ds->mutex);
                session->interrupting = false;
                pthread_cond_broadcast(&ds->settled);
        }
}

static void *reap(void *userdata) {
        struct datastore *ds = userdata;

        pthread_mutex_lock(&ds->mutex);
        while (!ds->stopping) {
                struct datastore_job *late;
                struct timespec until;
                uint64_t now;

                if (ds->n_jobs == 0) {
                        ds->reaper_asleep = true;
                        pthread_cond_wait(&ds->reaper_wake, &ds->mutex);
                        ds->reaper_asleep = false;
                }
                now = clock_now_ns() + REAPER_NS;
                until = (struct timespec){
                        .tv_sec = (time_t)(now / NSEC_PER_SEC), .tv_nsec = (long)(now % NSEC_PER_SEC)};
                while (!ds->stopping && pthread_cond_timedwait(&ds->reaper_wake, &ds->mutex, &until) != ETIMEDOUT)
                        ;
                now = clock_now_ns();
                late = unqueue(ds, now, false);
                interrupt_late(ds, now, false);
                if (late) {
                        pthread_mutex_unlock(&ds->mutex);
                        post_all(late, -ETIMEDOUT, "the deadline passed while it waited for a session");
                        pthread_mutex_lock(&ds->mutex);
                }
        }
        pthread_mutex_unlock(&ds->mutex);
        return NULL;
}

/* ---- what the driver may ask of us */

static void on_log(void *userdata, int level, const char *message) {
        struct datastore *ds = userdata;
        struct log_context context = {.datastore = ds->name, .driver = ds->driver->name};

        level = min_of(max_of(level, (int)LOG_LEVEL_ERROR), (int)LOG_LEVEL_DEBUG);
        log_at((enum log_level)level, &context, "%s", message);
}

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size) {
        struct datastore *ds = userdata;

        if (!ds->secret)
                return -ENOENT;
        return ds->secret(ds->secret_userdata, which, visit, visitor, reason, reason_size);
}

/* ---- open and close */

static void datastore_free(struct datastore *ds) {
        for (size_t i = 0; i < ds->definition.n_endpoints; i++)
                free(ds->endpoints[i]);
        for (size_t i = 0; i < ds->definition.n_settings; i++) {
                free((char *)ds->settings[i].name);
                free((char *)ds->settings[i].value);
        }
        free(ds->endpoints);
        free(ds->settings);
        free(ds->sessions);
        free(ds->name);
        pthread_cond_destroy(&ds->reaper_wake);
        pthread_cond_destroy(&ds->settled);
        pthread_mutex_destroy(&ds->mutex);
        free(ds);
}

static char *copy(const char *s) {
        char *c = strdup(s);

        check(c);
        return c;
}

int datastore_open(const struct datastore_config *config, struct datastore **ret, struct error *reterr) {
        struct datastore *ds = new0(struct datastore);
        char reason[512] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC,
                .reason = reason,
                .reason_size = sizeof(reason)};
        pthread_condattr_t attr;
        struct buf label;
        char *labels;
        sigset_t all, before;
        int r;

        pthread_mutex_init(&ds->mutex, NULL);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&ds->reaper_wake, &attr);
        pthread_condattr_destroy(&attr);
        pthread_cond_init(&ds->settled, NULL);
        for (int c = 0; c < N_CLASSES; c++)
                TAILQ_INIT(&ds->ready[c]);
        ds->name = copy(config->name);
        ds->driver = config->plugin->driver;
        ds->max_sessions = config->n_sessions ? config->n_sessions : DEFAULT_SESSIONS;
        ds->sessions = xcalloc(ds->max_sessions, sizeof(struct session *));
        ds->secret = config->secret;
        ds->secret_userdata = config->secret_userdata;
        ds->endpoints = xcalloc(config->n_endpoints, sizeof(char *));
        for (size_t i = 0; i < config->n_endpoints; i++)
                ds->endpoints[i] = copy(config->endpoints[i]);
        ds->settings = xcalloc(config->n_settings, sizeof(*ds->settings));
        for (size_t i = 0; i < config->n_settings; i++)
                ds->settings[i] =
                        (struct stoke_setting){copy(config->settings[i].name), copy(config->settings[i].value)};
        ds->definition = (struct stoke_datastore){.size = sizeof(ds->definition),
                .name = ds->name,
                .endpoints = (const char *const *)ds->endpoints,
                .n_endpoints = config->n_endpoints,
                .settings = ds->settings,
                .n_settings = config->n_settings};
        ds->host = (struct stoke_host){.size = sizeof(ds->host), .userdata = ds, .log = on_log, .secret = on_secret};
        memcpy(ds->host.daemon, config->daemon, sizeof(ds->host.daemon));

        buf_init(&label, 0);
        check(metric_label(&label, "datastore", ds->name) == 0 && buf_append(&label, "", 1) == 0);
        labels = (char *)label.data;
        ds->append_seconds = metric_histogram("stokehold_append_seconds", "Time that a datastore took for an append.",
                labels, metric_seconds_bounds, metric_seconds_n_bounds);
        ds->append_records = metric_counter("stokehold_append_records_total", "Records appended.", labels);
        ds->sessions_gauge = metric_gauge("stokehold_sessions", "Sessions connected to a datastore.", labels);
        ds->waiting_gauge = metric_gauge("stokehold_jobs_waiting", "Jobs that wait for a session.", labels);
        buf_done(&label);

        r = ds->driver->open(&ds->definition, &ds->host, &call, &ds->store);
        if (r != 0) {
                r = error_set(
                        reterr, r < 0 ? r : -EINVAL, "%s", reason[0] ? reason : "the driver refuses this definition");
                datastore_free(ds);
                return r;
        }
        ds->subscriptions = subscriptions_new(ds->driver, ds->store);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = -pthread_create(&ds->reaper, NULL, reap, ds);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r < 0) {
                subscriptions_free(ds->subscriptions);
                ds->driver->close(ds->store);
                datastore_free(ds);
                return error_set(reterr, r, "cannot start a thread: %s", strerror(-r));
        }
        pthread_setname_np(ds->reaper, "store-reaper");
        *ret = ds;
        return 0;
}

void datastore_close(struct datastore *ds, uint64_t grace_ns) {
        struct datastore_job *waiting;
        uint64_t until = clock_now_ns() + grace_ns;
        bool busy = true;

        if (!ds)
                return;
        pthread_mutex_lock(&ds->mutex);
        ds->stopping = true;
        waiting = unqueue(ds, 0, true);
        pthread_cond_broadcast(&ds->reaper_wake);
        for (unsigned i = 0; i < ds->n_sessions; i++)
                pthread_cond_signal(&ds->sessions[i]->wake);
        pthread_mutex_unlock(&ds->mutex);
        post_all(waiting, -ECANCELED, "the datastore is being closed");
        pthread_join(ds->reaper, NULL);

        while (busy) {
                struct timespec pause = {.tv_nsec = 2 * (long)NSEC_PER_MSEC};

                pthread_mutex_lock(&ds->mutex);
                if (clock_now_ns() >= until) {
                        interrupt_late(ds, clock_now_ns(), true);
                        until = clock_now_ns() + 100 * NSEC_PER_MSEC;
                }
                busy = ds->n_jobs > 0;
                pthread_mutex_unlock(&ds->mutex);
                if (busy)
                        nanosleep(&pause, NULL);
        }
        for (unsigned i = 0; i < ds->n_sessions; i++) {
                session_join(ds->sessions[i]);
                free(ds->sessions[i]);
        }
        subscriptions_free(ds->subscriptions);
        ds->driver->close(ds->store);
        datastore_free(ds);
}

/* ---- the submitters' side */

const char *datastore_name(const struct datastore *ds) {
        return ds->name;
}

const struct stoke_driver *datastore_driver(const struct datastore *ds) {
        return ds->driver;
}

struct stoke_store *datastore_store(struct datastore *ds) {
        return ds->store;
}

void datastore_submit(struct datastore *ds, struct datastore_job *job) {
        struct lane *lane;
        bool stopping;

        check((int)job->class >= 0 && job->class < N_CLASSES);
        job->ds = ds;
        job->result = 0;
        job->ran = false;
        job->reason[0] = '\0';
        job->next = NULL;
        job->lane = NULL;
        job->submitted_ns = clock_now_ns();
        pthread_mutex_lock(&ds->mutex);
        stopping = ds->stopping;
        if (!stopping) {
                lane = lane_get(ds, job->keyspace ? job->keyspace->name : NULL);
                *lane->last[job->class] = job;
                lane->last[job->class] = &job->next;
                lane->n_jobs++;
                ds->n_jobs++;
                ds->n_waiting++;
                lane_settle(ds, lane);
                wake_one(ds);
                if (ds->reaper_asleep)
                        pthread_cond_signal(&ds->reaper_wake);
                metric_set(ds->waiting_gauge, (double)ds->n_waiting);
        }
        pthread_mutex_unlock(&ds->mutex);
        if (stopping)
                post_all(job, -ECANCELED, "the datastore is being closed");
}

size_t datastore_pending(struct datastore *ds, const char *keyspace) {
        struct lane *lane = NULL;
        size_t n;

        pthread_mutex_lock(&ds->mutex);
        if (keyspace)
                HASH_FIND_STR(ds->lanes, keyspace, lane);
        n = !keyspace ? ds->n_jobs : lane ? lane->n_jobs : 0;
        pthread_mutex_unlock(&ds->mutex);
        return n;
}

static int compare_latencies(const void *a, const void *b) {
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

void datastore_figures(struct datastore *ds, struct datastore_figures *ret) {
        uint32_t latencies[N_LATENCIES];
        size_t n;

        *ret = (struct datastore_figures){};
        pthread_mutex_lock(&ds->mutex);
        ret->n_sessions = ds->n_connected;
        ret->max_sessions = ds->max_sessions;
        ret->n_waiting = ds->n_waiting;
        n = (size_t)min_of(ds->n_latencies, (uint64_t)N_LATENCIES);
        memcpy(latencies, ds->latencies_us, n * sizeof(latencies[0]));
        pthread_mutex_unlock(&ds->mutex);
        if (n == 0)
                return;
        qsort(latencies, n, sizeof(latencies[0]), compare_latencies);
        ret->commit_p50_ns = latencies[n / 2] * NSEC_PER_USEC;
        ret->commit_p99_ns = latencies[n * 99 / 100] * NSEC_PER_USEC;
}

struct datastore_subscription *datastore_subscribe(
        struct datastore *ds, const char *keyspace, struct loop *loop, void (*grown)(void *userdata), void *userdata) {
        return subscriptions_add(ds->subscriptions, keyspace, loop, grown, userdata);
}
