/*
 * An open datastore: a copy of its definition, the driver's store, and what the driver may ask of the host. Its jobs are in queue.c, the
 * threads that run them in session.c.
 */
#include "driver/datastore.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/thread.h"
#include "driver/queue.h"

#define DEFAULT_SESSIONS 8

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
        int r;

        pthread_mutex_init(&ds->mutex, NULL);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&ds->reaper_wake, &attr);
        pthread_condattr_destroy(&attr);
        pthread_cond_init(&ds->settled, NULL);
        for (int c = 0; c < N_CLASSES; c++)
                TAILQ_INIT(&ds->ready[c]);
        ds->last_question = &ds->questions;
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
        if (ds->driver->size >= offsetof(struct stoke_driver, scoped) + sizeof(ds->driver->scoped) &&
                ds->driver->scoped)
                ds->scoped = ds->driver->scoped(ds->store);
        ds->subscriptions = subscriptions_new(ds->driver, ds->store);
        r = thread_start(&ds->reaper, "store-reaper", datastore_reap, ds);
        if (r < 0) {
                subscriptions_free(ds->subscriptions);
                ds->driver->close(ds->store);
                datastore_free(ds);
                return error_set(reterr, r, "cannot start a thread: %s", strerror(-r));
        }
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
        waiting = datastore_unqueue(ds, 0, true);
        pthread_cond_broadcast(&ds->reaper_wake);
        for (unsigned i = 0; i < ds->n_sessions; i++)
                pthread_cond_signal(&ds->sessions[i]->wake);
        pthread_mutex_unlock(&ds->mutex);
        datastore_post_all(waiting, -ECANCELED, "the datastore is being closed");
        pthread_join(ds->reaper, NULL);

        while (busy) {
                struct timespec pause = {.tv_nsec = 2 * (long)NSEC_PER_MSEC};

                pthread_mutex_lock(&ds->mutex);
                if (clock_now_ns() >= until) {
                        datastore_interrupt_late(ds, clock_now_ns(), true);
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

/* ---- looking */

const char *datastore_name(const struct datastore *ds) {
        return ds->name;
}

const struct stoke_driver *datastore_driver(const struct datastore *ds) {
        return ds->driver;
}

struct stoke_store *datastore_store(struct datastore *ds) {
        return ds->store;
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
