/*
 * The queue of a datastore: lanes, who takes from them, and who is woken. The idle worker that slept least is woken, alone, so that a busy one
 * keeps its caches. datastore_submit() runs on any thread, take and finish on the workers'.
 */
#include "driver/queue.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/owner.h"

/* Each so many jobs the classes are asked in the other order, so that commits never starve the rest. */
#define FAIRNESS 8

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
        if (!job->loop) {
                job->done(job);
                return;
        }
        job->task.run = on_posted;
        job->task.owner = job->owner;
        loop_post(job->loop, &job->task);
}

/* The idle worker that fits best: where sessions have a scope, one that is in that of the lane which is next. */
static struct session *take_idle(struct datastore *ds) {
        struct session **best = &ds->idle, *session;
        struct lane *lane = NULL;

        for (int c = 0; ds->scoped && c < N_CLASSES && !lane; c++)
                lane = class_may_run(ds, c) ? TAILQ_FIRST(&ds->ready[c]) : NULL;
        for (struct session **s = &ds->idle; lane && lane->name && *s; s = &(*s)->next_idle)
                if ((*s)->scope && strcmp((*s)->scope, lane->name) == 0) {
                        best = s;
                        break;
                }
        session = *best;
        if (session)
                *best = session->next_idle;
        return session;
}

/* Wakes one idle worker, or makes one, unless as many as there is work for are on their way. */
static void wake_one(struct datastore *ds) {
        struct session *session;
        int r;

        if (!runnable(ds) || ds->n_waking >= ds->n_ready)
                return;
        session = take_idle(ds);
        if (session) {
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
                session->deadline_ns = job->deadline_ns;
                session->started_ns = clock_now_ns();
                session->interrupted_ns = 0;
        }
        pthread_mutex_unlock(&ds->mutex);
        return job;
}

bool datastore_is_scoped(const struct datastore *ds) {
        return ds->scoped;
}

void datastore_connected(struct datastore *ds, struct session *session, struct stoke_session *connection,
        const struct stoke_keyspace *scope) {
        pthread_mutex_lock(&ds->mutex);
        while (session->interrupting)
                pthread_cond_wait(&ds->settled, &ds->mutex);
        ds->n_connected = ds->n_connected + (connection != NULL) - (session->connection != NULL);
        session->connection = connection;
        free(session->scope);
        session->scope = scope ? strdup(scope->name) : NULL;
        check(!scope || session->scope);
        if (scope)
                memcpy(session->scope_incarnation, scope->incarnation, sizeof(scope->incarnation));
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

struct datastore_job *datastore_unqueue(struct datastore *ds, uint64_t now, bool all) {
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

void datastore_post_all(struct datastore_job *jobs, int result, const char *reason) {
        while (jobs) {
                struct datastore_job *job = jobs;

                jobs = job->next;
                job->next = NULL;
                job->result = result;
                snprintf(job->reason, sizeof(job->reason), "%s", reason);
                post(job);
        }
}

/* ---- the submitters' side */

void datastore_submit(struct datastore *ds, struct datastore_job *job) {
        struct lane *lane;
        bool stopping;

        check((int)job->class >= 0 && job->class < N_CLASSES);
        job->ds = ds;
        job->owner = owner_keep(job->owner);
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
                datastore_post_all(job, -ECANCELED, "the datastore is being closed");
}

static bool is_for(const struct datastore_job *job, const char *keyspace) {
        return job->for_keyspace && strcmp(job->for_keyspace, keyspace) == 0;
}

static void hurry_lane(struct lane *lane, const char *keyspace, uint64_t now) {
        for (int c = 0; c < N_CLASSES; c++)
                for (struct datastore_job *job = lane->first[c]; job; job = job->next)
                        if (lane->name || is_for(job, keyspace))
                                job->deadline_ns = min_of(job->deadline_ns, now);
}

void datastore_hurry(struct datastore *ds, const char *keyspace) {
        uint64_t now = clock_now_ns();
        struct lane *lane, *other;

        pthread_mutex_lock(&ds->mutex);
        HASH_FIND_STR(ds->lanes, keyspace, lane);
        if (lane)
                hurry_lane(lane, keyspace, now);
        for (int c = 0; c < N_CLASSES; c++)
                TAILQ_FOREACH(other, &ds->ready[c], ready)
                        if (!other->name)
                                hurry_lane(other, keyspace, now);
        for (unsigned i = 0; i < ds->n_sessions; i++) {
                const struct datastore_job *job = ds->sessions[i]->job;

                if (job && ((lane && job->lane == lane) || is_for(job, keyspace)))
                        ds->sessions[i]->deadline_ns = min_of(ds->sessions[i]->deadline_ns, now);
        }
        pthread_mutex_unlock(&ds->mutex);
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
