/*
 * A keyspace's life: made, opened by its first call, closed; its condition, its jobs. The keyspace's loop only.
 */

#include "keyspace/keyspace.h"

#include <errno.h>
#include <stdarg.h>

#include "base/log.h"
#include "keyspace/commit.h"

#define JOB_PATIENCE_NS (30 * NSEC_PER_SEC)

const struct keyspace_limits keyspace_default_limits = {
        .request_bytes = (size_t)1536 * 1024,
        .txn_operations = 128,
        .txn_nesting = 48,
        .watches = 200000,
        .stream_watches = 100000,
        .watch_bytes = (size_t)1024 * 1024,
        .leases = 100000,
};

static void fill_limits(struct keyspace_limits *l) {
        const struct keyspace_limits *d = &keyspace_default_limits;

        l->request_bytes = l->request_bytes ? l->request_bytes : d->request_bytes;
        l->txn_operations = l->txn_operations ? l->txn_operations : d->txn_operations;
        l->txn_nesting = l->txn_nesting ? l->txn_nesting : d->txn_nesting;
        l->watches = l->watches ? l->watches : d->watches;
        l->stream_watches = l->stream_watches ? l->stream_watches : d->stream_watches;
        l->watch_bytes = l->watch_bytes ? l->watch_bytes : d->watch_bytes;
        l->leases = l->leases ? l->leases : d->leases;
}

uint64_t keyspace_job_deadline(uint64_t deadline_ns) {
        uint64_t most = clock_now_ns() + JOB_PATIENCE_NS;

        return min_of(deadline_ns, most);
}

struct stoke_keyspace keyspace_stoke(struct keyspace *ks) {
        struct stoke_keyspace k = {.name = ks->name};

        memcpy(k.incarnation, ks->incarnation, sizeof(k.incarnation));
        return k;
}

void keyspace_submit(struct keyspace *ks, struct datastore_job *job) {
        if (ks->moving.phase != SWITCH_NONE)
                switch_park(ks, job);
        else
                keyspace_submit_now(ks, job);
}

void keyspace_submit_now(struct keyspace *ks, struct datastore_job *job) {
        ks->n_jobs++;
        job->loop = ks->loop;
        datastore_submit(ks->datastore, job);
}

void keyspace_ask(struct keyspace *ks, struct datastore_question *question) {
        ks->n_jobs++;
        question->loop = ks->loop;
        datastore_ask(ks->datastore, question);
}

void keyspace_job_ended(struct keyspace *ks) {
        check(ks->n_jobs > 0);
        ks->n_jobs--;
        switch_kick(ks);
}

/* ---- condition */

/* Nobody is served any more. A keyspace that was dropped is gone for its clients, not corrupt. */
static void end_all(struct keyspace *ks, enum keyspace_result result) {
        ks->open = false;
        call_list_end(&ks->opening, result);
        call_list_end(&ks->queue, result);
        call_list_end(&ks->moving.calls, result);
        call_list_end(&ks->moving.later, result);
        call_list_end(&ks->fetching, result);
        call_list_end(&ks->ranging, result);
        call_list_end(&ks->hashing, result);
        call_list_end(&ks->compaction.held, result);
        call_list_end(&ks->compaction.physical, result);
        commit_give_up(ks, result);
        call_list_end(&ks->barrier.waiting, result);
        call_list_end(&ks->barrier.asked, result);
        call_list_end(&ks->barrier.loading, result);
        watch_end_all(ks, result);
}

void keyspace_set_condition(struct keyspace *ks, enum keyspace_condition condition, const char *format, ...) {
        struct log_context context = {.tenant = ks->name, .datastore = datastore_name(ks->datastore)};
        enum keyspace_condition before = ks->condition;
        char *reason = NULL;
        bool changed;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&reason, format, ap) < 0)
                reason = NULL;
        va_end(ap);
        changed = before != condition || strcmp(ks->reason ? ks->reason : "", reason ? reason : "") != 0;
        free(ks->reason);
        ks->reason = reason;
        ks->condition = condition;
        if (!changed)
                return;

        if (condition == KEYSPACE_UNREACHABLE)
                log_at(LOG_LEVEL_WARNING, &context, "keyspace is not reachable: %s", reason ? reason : "");
        else if (condition == KEYSPACE_HISTORY_LOST)
                log_at(LOG_LEVEL_ERROR, &context, "keyspace is stopped, its history was lost: %s",
                        reason ? reason : "");
        else if (condition == KEYSPACE_DROPPED)
                log_at(LOG_LEVEL_NOTICE, &context, "keyspace is stopped: %s", reason ? reason : "");
        else if (condition == KEYSPACE_NO_MEMORY)
                log_at(LOG_LEVEL_ERROR, &context, "keyspace is refused: %s", reason ? reason : "");
        else if (condition == KEYSPACE_SERVING && before != KEYSPACE_SERVING)
                log_at(LOG_LEVEL_INFO, &context, "keyspace is open at revision %lld, %zu keys", (long long)ks->revision,
                        ks->index.n_alive);
        if (keyspace_is_over(ks))
                end_all(ks, keyspace_over_result(ks));
        if (ks->config.on_condition)
                ks->config.on_condition(ks->config.userdata);
}

void keyspace_get_status(struct keyspace *ks, struct keyspace_status *ret) {
        *ret = (struct keyspace_status){
                .condition = ks->condition,
                .reason = ks->reason ? ks->reason : "",
                .revision = ks->revision,
                .compacted = ks->compacted,
                .end = ks->end,
                .n_keys = ks->index.n_alive,
                .n_versions = ks->n_versions,
                .bytes_live = ks->bytes_live,
                .bytes_log = ks->bytes_log,
                .bytes_memory = keyspace_bytes(ks),
                .n_watchers = ks->hub.n_watchers,
                .n_leases = ks->past.n_leases ? ks->past.n_leases : HASH_COUNT(ks->leases.table),
                .n_alarms = ks->alarms.n,
                .n_pins = ks->moving.n_pins,
                .held = keyspace_is_held(ks),
                .sealed = ks->moving.sealed,
                .switching = ks->moving.phase != SWITCH_NONE,
                .held_ns = ks->moving.held_ns ? clock_now_ns() - ks->moving.held_ns : 0,
        };
        memcpy(ret->seal_id, ks->moving.seal_id, sizeof(ret->seal_id));
}

const char *keyspace_name(const struct keyspace *ks) {
        return ks->name;
}

const uint8_t *keyspace_incarnation(const struct keyspace *ks) {
        return ks->incarnation;
}

struct datastore *keyspace_datastore(const struct keyspace *ks) {
        return ks->datastore;
}

struct loop *keyspace_loop(const struct keyspace *ks) {
        return ks->loop;
}

uint64_t keyspace_cluster_id(const struct keyspace *ks) {
        return ks->cluster_id;
}

uint64_t keyspace_member_id(const struct keyspace *ks) {
        return ks->member_id;
}

uint64_t keyspace_progress_notify_ns(const struct keyspace *ks) {
        return ks->config.progress_notify_ns;
}

const struct keyspace_limits *keyspace_limits(const struct keyspace *ks) {
        return &ks->config.limits;
}

uint64_t keyspace_quota(const struct keyspace *ks) {
        return ks->config.quota_bytes;
}

static void free_endpoints(struct keyspace *ks) {
        for (size_t i = 0; i < ks->n_endpoints; i++)
                free(ks->endpoints[i]);
        free(ks->endpoints);
        ks->endpoints = NULL;
        ks->n_endpoints = 0;
}

int keyspace_set_endpoints(struct keyspace *ks, const char *const *urls, size_t n_urls) {
        free_endpoints(ks);
        ks->endpoints = calloc(n_urls ? n_urls : 1, sizeof(char *));
        if (!ks->endpoints)
                return -ENOMEM;
        for (; ks->n_endpoints < n_urls; ks->n_endpoints++) {
                ks->endpoints[ks->n_endpoints] = strdup(urls[ks->n_endpoints]);
                if (!ks->endpoints[ks->n_endpoints])
                        return -ENOMEM;
        }
        return 0;
}

const char *const *keyspace_endpoints(const struct keyspace *ks, size_t *ret_n) {
        *ret_n = ks->n_endpoints;
        return (const char *const *)ks->endpoints;
}

/* ---- life */

static void on_close(struct loop_task *task);

int keyspace_new(const struct keyspace_config *config, struct keyspace **ret) {
        cleanup(keyspace_freep) struct keyspace *ks = NULL;
        cleanup(buf_done) struct buf labels = {};
        uint64_t halves[2];

        ks = new0(struct keyspace);
        ks->name = strdup(config->name);
        if (!ks->name)
                return -ENOMEM;
        ks->config = *config;
        ks->config.name = ks->name;
        fill_limits(&ks->config.limits);
        memcpy(ks->incarnation, config->incarnation, sizeof(ks->incarnation));
        memcpy(ks->daemon, config->daemon, sizeof(ks->daemon));
        memcpy(halves, uuid_is_set(config->cluster) ? config->cluster : config->incarnation, sizeof(halves));
        /* Neither may be zero: proto3 would leave it out, and clients take zero for "no such". */
        ks->cluster_id = (halves[0] ^ halves[1]) | 1;
        ks->member_id = hash_name(ks->name, ks->cluster_id) | 1;
        ks->datastore = config->datastore;
        ks->driver = datastore_driver(config->datastore);
        ks->limits = ks->driver->limits;
        ks->exclusive = ks->driver->capabilities & STOKE_EXCLUSIVE;
        ks->loop = config->loop;
        ks->condition = config->quarantined ? KEYSPACE_QUARANTINED : KEYSPACE_CLOSED;
        ks->next_batch = 1;
        ks->close_task.run = on_close;
        calls_init(ks);
        moving_init(ks);
        commit_init(ks);
        TAILQ_INIT(&ks->leases.expired);
        TAILQ_INIT(&ks->hub.watchers);
        values_init(&ks->values, config->cache);
        idle_init(ks);

        if (metric_label(&labels, "tenant", ks->name) < 0 || buf_append(&labels, "", 1) < 0)
                return -ENOMEM;
        ks->m_commits = metric_counter("stokehold_commits_total", "Batches committed", (char *)labels.data);
        ks->m_records = metric_counter("stokehold_commit_records_total", "Records committed", (char *)labels.data);
        ks->m_seconds = metric_histogram("stokehold_commit_seconds", "From a batch's sending to its outcome",
                (char *)labels.data, metric_seconds_bounds, metric_seconds_n_bounds);

        ks->m_refused = metric_counter(
                "stokehold_memory_refused_total", "Openings refused for want of memory", (char *)labels.data);

        *ret = steal(ks);
        return 0;
}

void keyspace_free(struct keyspace *ks) {
        if (!ks)
                return;
        check(ks->n_jobs == 0 && !ks->verify);
        loop_timer_clear(&ks->ageing);
        if (ks->loop) {
                loop_undefer(ks->loop, &ks->late_task);
                loop_undefer(ks->loop, &ks->close_task);
        }
        commit_done(ks);
        load_done(ks);
        barrier_done(ks);
        watch_done(ks);
        compaction_done(ks);
        auto_compaction_stop(ks);
        idle_done(ks);
        moving_done(ks);
        keyspace_forget(ks);
        values_done(&ks->values);
        free_endpoints(ks);
        free(ks->reason);
        free(ks->name);
        free(ks);
}

/* Runs on the worker: the driver's release() cannot fail. */
static int release_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct keyspace *ks = container_of(job, struct keyspace, release_job);

        (void)call;
        ks->driver->release(session, &ks->release_name);
        return 0;
}

static void release_on_done(struct datastore_job *job) {
        struct keyspace *ks = container_of(job, struct keyspace, release_job);

        keyspace_job_ended(ks);
        ks->releasing = ks->acquired = false;
        if (ks->closing)
                keyspace_check_closed(ks);
        else if (ks->moving.phase == SWITCH_RELEASING)
                switch_on_released(ks);
        else
                idle_on_released(ks);
}

void keyspace_release(struct keyspace *ks) {
        ks->releasing = true;
        ks->release_name = keyspace_stoke(ks);
        ks->release_job = (struct datastore_job){
                .class = JOB_READ,
                .keyspace = &ks->release_name,
                .deadline_ns = UINT64_MAX,
                .run = release_run,
                .done = release_on_done,
        };
        keyspace_submit_now(ks, &ks->release_job);
}

/* Deferred, so that closed() is never called from within keyspace_close(). */
static void on_close(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, close_task);
        void (*closed)(void *userdata) = ks->closed;
        void *userdata = ks->closed_userdata;

        if (!ks->closing || ks->n_jobs)
                return;
        /* Calls that came, or moved on, after the lists were ended: nobody would end them any more. */
        call_list_end(&ks->queue, KEYSPACE_STOPPED);
        call_list_end(&ks->moving.calls, KEYSPACE_STOPPED);
        call_list_end(&ks->moving.later, KEYSPACE_STOPPED);
        call_list_end(&ks->ranging, KEYSPACE_STOPPED);
        call_list_end(&ks->hashing, KEYSPACE_STOPPED);
        call_list_end(&ks->barrier.free, KEYSPACE_STOPPED);
        call_list_end(&ks->barrier.waiting, KEYSPACE_STOPPED);
        call_list_end(&ks->compaction.physical, KEYSPACE_STOPPED);
        while (ks->late.n)
                ks->late_task.run(&ks->late_task);
        watch_end_all(ks, KEYSPACE_STOPPED);
        if (ks->acquired && !ks->releasing) {
                keyspace_release(ks);
                return;
        }
        ks->closed = NULL;
        ks->condition = KEYSPACE_CLOSED;
        if (closed)
                closed(userdata);
}

void keyspace_check_closed(struct keyspace *ks) {
        if (ks->closing && !ks->n_jobs)
                loop_defer(ks->loop, &ks->close_task);
}

void keyspace_close(struct keyspace *ks, void (*done)(void *userdata), void *userdata) {
        check(!ks->closing);
        ks->closing = true;
        ks->closed = done;
        ks->closed_userdata = userdata;

        load_unfollow(ks);
        switch_stop(ks);
        pins_stop(ks);
        loop_timer_clear(&ks->reopen);
        loop_timer_clear(&ks->pause_timer);
        auto_compaction_stop(ks);
        idle_stop(ks);
        load_on_closing(ks);
        call_list_end(&ks->opening, KEYSPACE_STOPPED);
        call_list_end(&ks->queue, KEYSPACE_STOPPED);
        call_list_end(&ks->moving.calls, KEYSPACE_STOPPED);
        call_list_end(&ks->moving.later, KEYSPACE_STOPPED);
        call_list_end(&ks->fetching, KEYSPACE_STOPPED);
        call_list_end(&ks->ranging, KEYSPACE_STOPPED);
        call_list_end(&ks->hashing, KEYSPACE_STOPPED);
        call_list_end(&ks->barrier.waiting, KEYSPACE_STOPPED);
        call_list_end(&ks->barrier.asked, KEYSPACE_STOPPED);
        call_list_end(&ks->barrier.loading, KEYSPACE_STOPPED);
        call_list_end(&ks->compaction.held, KEYSPACE_STOPPED);
        call_list_end(&ks->compaction.physical, KEYSPACE_STOPPED);
        commit_give_up(ks, KEYSPACE_UNAVAILABLE);
        watch_end_all(ks, KEYSPACE_STOPPED);
        /* A batch that is at the datastore is answered when its outcome is known: it may well have been written. */
        loop_defer(ks->loop, &ks->close_task);
}
