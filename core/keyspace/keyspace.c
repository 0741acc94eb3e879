/*
 * A keyspace's life: made, opened by its first call, closed; and what all its calls have in common: the lists they wait on,
 * their deadlines, their end. The keyspace's loop only.
 */

#include "keyspace/keyspace.h"

#include <errno.h>
#include <stdarg.h>

#include "base/log.h"
#include "keyspace/commit.h"

/* etcd gives up on a proposal after about seven seconds. */
#define CALL_PATIENCE_NS (7 * NSEC_PER_SEC)
#define JOB_PATIENCE_NS (30 * NSEC_PER_SEC)
#define AGEING_NS (100 * NSEC_PER_MSEC)

/* ---- lists */

void call_list_init(struct call_list *list) {
        *list = (struct call_list){};
}

void call_list_add(struct call_list *list, struct keyspace_call *call) {
        check(!call->own.list);
        call->own.next = NULL;
        call->own.previous = list->last;
        if (list->last)
                list->last->own.next = call;
        else
                list->first = call;
        list->last = call;
        list->n++;
        call->own.list = list;
}

void call_list_add_first(struct call_list *list, struct keyspace_call *call) {
        check(!call->own.list);
        call->own.previous = NULL;
        call->own.next = list->first;
        if (list->first)
                list->first->own.previous = call;
        else
                list->last = call;
        list->first = call;
        list->n++;
        call->own.list = list;
}

void keyspace_call_unlink(struct keyspace_call *call) {
        struct call_list *list = call->own.list;

        if (!list)
                return;
        if (call->own.previous)
                call->own.previous->own.next = call->own.next;
        else
                list->first = call->own.next;
        if (call->own.next)
                call->own.next->own.previous = call->own.previous;
        else
                list->last = call->own.previous;
        list->n--;
        call->own.next = call->own.previous = NULL;
        call->own.list = NULL;
}

struct keyspace_call *call_list_take(struct call_list *list) {
        struct keyspace_call *call = list->first;

        if (call)
                keyspace_call_unlink(call);
        return call;
}

void call_list_join(struct call_list *to, struct call_list *from) {
        struct keyspace_call *call;

        while ((call = call_list_take(from)))
                call_list_add(to, call);
}

/* ---- calls */

/* Takes the call off everything that knows it. */
static void detach(struct keyspace_call *call) {
        keyspace_call_unlink(call);
        if (call->own.batch) {
                call->own.batch->calls[call->own.slot] = NULL;
                call->own.batch = NULL;
        }
        if (call->own.fetch) {
                fetch_done(call->own.fetch);
                free(call->own.fetch);
                call->own.fetch = NULL;
        }
        call->own.keyspace = NULL;
}

void keyspace_call_end(struct keyspace_call *call, enum keyspace_result result) {
        void (*forget)(struct keyspace_call * call) = call->own.forget;

        detach(call);
        /* A range's state goes with it; a transaction's results are its caller's now. */
        if (forget && (result != KEYSPACE_OK || !call->own.evaluate))
                forget(call);
        call->done(call, result);
}

void call_list_end(struct call_list *list, enum keyspace_result result) {
        struct call_list all = {};
        struct keyspace_call *call;

        call_list_join(&all, list);
        while ((call = call_list_take(&all)))
                keyspace_call_end(call, result);
}

void keyspace_cancel(struct keyspace_call *call) {
        if (!call->own.keyspace)
                return;
        detach(call);
        if (call->own.forget)
                call->own.forget(call);
}

bool keyspace_enter(struct keyspace *ks, struct keyspace_call *call,
        void (*resume)(struct keyspace_call *call, enum keyspace_result result)) {
        check(!call->own.keyspace);
        call->own.keyspace = ks;
        call->own.resume = resume;
        call->own.list = NULL;
        call->own.batch = NULL;
        call->own.fetch = NULL;
        call->own.evaluate = NULL;
        call->own.fresh = false;
        call->own.reread = false;
        call->own.result = KEYSPACE_OK;
        call->own.arrived_ns = loop_now_ns(ks->loop);
        call->revision = 0;

        if (ks->open && !ks->closing)
                return true;
        if (ks->closing || ks->condition == KEYSPACE_HISTORY_LOST) {
                keyspace_call_end_later(call, ks->closing ? KEYSPACE_STOPPED : KEYSPACE_LOST);
                return false;
        }
        call_list_add(&ks->opening, call);
        keyspace_stalled(ks);
        load_open(ks);
        return false;
}

static void on_late(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, late_task);
        struct call_list all = {};
        struct keyspace_call *call;

        call_list_join(&all, &ks->late);
        while ((call = call_list_take(&all)))
                keyspace_call_end(call, call->own.result);
}

void keyspace_call_end_later(struct keyspace_call *call, enum keyspace_result result) {
        struct keyspace *ks = call->own.keyspace;

        call->own.result = result;
        keyspace_call_unlink(call);
        call_list_add(&ks->late, call);
        loop_defer(ks->loop, &ks->late_task);
}

/* What waited for the opening goes its way. */
void keyspace_on_open(struct keyspace *ks) {
        struct call_list all = {};
        struct keyspace_call *call;

        call_list_join(&all, &ks->opening);
        while ((call = call_list_take(&all)))
                if (call->own.evaluate) {
                        call_list_add(&ks->queue, call);
                        commit_kick(ks);
                } else
                        barrier_wait(ks, call);
        watch_on_open(ks);
}

static bool is_over(struct keyspace *ks, struct keyspace_call *call, bool patient, enum keyspace_result *ret) {
        uint64_t now = loop_now_ns(ks->loop);

        if (now >= call->deadline_ns) {
                *ret = KEYSPACE_TIMEOUT;
                return true;
        }
        if (ks->closing) {
                *ret = KEYSPACE_STOPPED;
                return true;
        }
        /* Just before the deadline the client still hears why. */
        if ((!patient && now - call->own.arrived_ns >= CALL_PATIENCE_NS) || now + AGEING_NS >= call->deadline_ns) {
                *ret = ks->condition == KEYSPACE_HISTORY_LOST ? KEYSPACE_LOST : KEYSPACE_UNAVAILABLE;
                return true;
        }
        return false;
}

void call_list_age(struct keyspace *ks, struct call_list *list, bool patient) {
        struct keyspace_call *call, *next;
        struct call_list over = {};
        enum keyspace_result result = KEYSPACE_OK;

        for (call = list->first; call; call = next) {
                next = call->own.next;
                if (!is_over(ks, call, patient, &result))
                        continue;
                keyspace_call_unlink(call);
                call->own.result = result;
                call_list_add(&over, call);
        }
        while ((call = call_list_take(&over)))
                keyspace_call_end(call, call->own.result);
}

/* While a batch's outcome is unknown its calls may give up; they are never sent again by us. */
static void age_batch(struct keyspace *ks) {
        enum keyspace_result result = KEYSPACE_OK;

        for (size_t i = 0; ks->batch && i < ks->batch->n_calls; i++)
                if (ks->batch->calls[i] && is_over(ks, ks->batch->calls[i], false, &result))
                        keyspace_call_end(ks->batch->calls[i], result);
}

static void on_ageing(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, ageing);

        call_list_age(ks, &ks->opening, false);
        call_list_age(ks, &ks->queue, false);
        call_list_age(ks, &ks->fetching, false);
        call_list_age(ks, &ks->barrier.waiting, false);
        call_list_age(ks, &ks->barrier.asked, false);
        call_list_age(ks, &ks->barrier.loading, false);
        call_list_age(ks, &ks->compaction.held, true);
        call_list_age(ks, &ks->compaction.physical, true);
        age_batch(ks);
        if (ks->opening.n || ks->queue.n || ks->fetching.n || ks->barrier.waiting.n || ks->barrier.asked.n ||
                ks->barrier.loading.n || ks->compaction.held.n || ks->compaction.physical.n || ks->batch)
                keyspace_stalled(ks);
}

void keyspace_stalled(struct keyspace *ks) {
        if (!ks->ageing.position)
                loop_timer_set(ks->loop, &ks->ageing, loop_now_ns(ks->loop) + AGEING_NS);
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
        ks->n_jobs++;
        job->loop = ks->loop;
        datastore_submit(ks->datastore, job);
}

void keyspace_job_ended(struct keyspace *ks) {
        check(ks->n_jobs > 0);
        ks->n_jobs--;
}

/* ---- condition */

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
        else if (condition == KEYSPACE_SERVING && before != KEYSPACE_SERVING)
                log_at(LOG_LEVEL_INFO, &context, "keyspace is open at revision %lld, %zu keys", (long long)ks->revision,
                        ks->index.n_alive);
        if (condition == KEYSPACE_HISTORY_LOST) {
                ks->open = false;
                call_list_end(&ks->opening, KEYSPACE_LOST);
                call_list_end(&ks->queue, KEYSPACE_LOST);
                call_list_end(&ks->fetching, KEYSPACE_LOST);
                call_list_end(&ks->ranging, KEYSPACE_LOST);
                call_list_end(&ks->compaction.held, KEYSPACE_LOST);
                call_list_end(&ks->compaction.physical, KEYSPACE_LOST);
                commit_give_up(ks, KEYSPACE_LOST);
                call_list_end(&ks->barrier.waiting, KEYSPACE_LOST);
                call_list_end(&ks->barrier.asked, KEYSPACE_LOST);
                call_list_end(&ks->barrier.loading, KEYSPACE_LOST);
                watch_end_all(ks, KEYSPACE_LOST);
        }
        if (ks->config.on_condition)
                ks->config.on_condition(ks->config.userdata);
}

void keyspace_get_status(struct keyspace *ks, struct keyspace_status *ret) {
        *ret = (struct keyspace_status){
                .condition = ks->condition,
                .reason = ks->reason ? ks->reason : "",
                .revision = ks->revision,
                .compacted = ks->compacted,
                .seq = ks->end.seq,
                .n_keys = ks->index.n_alive,
                .n_versions = ks->n_versions,
                .bytes_live = ks->bytes_live,
                .bytes_log = ks->bytes_log,
                .bytes_memory = ks->index.bytes + ks->n_versions * sizeof(struct key_version) +
                        ks->history.capacity * sizeof(struct history_item),
                .n_watchers = ks->hub.n_watchers,
                .n_leases = HASH_COUNT(ks->leases.table),
        };
}

const char *keyspace_name(const struct keyspace *ks) {
        return ks->name;
}

const uint8_t *keyspace_incarnation(const struct keyspace *ks) {
        return ks->incarnation;
}

struct loop *keyspace_loop(const struct keyspace *ks) {
        return ks->loop;
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

        ks = new0(struct keyspace);
        ks->name = strdup(config->name);
        if (!ks->name)
                return -ENOMEM;
        ks->config = *config;
        ks->config.name = ks->name;
        memcpy(ks->incarnation, config->incarnation, sizeof(ks->incarnation));
        memcpy(ks->daemon, config->daemon, sizeof(ks->daemon));
        ks->datastore = config->datastore;
        ks->driver = datastore_driver(config->datastore);
        ks->limits = ks->driver->limits;
        ks->exclusive = ks->driver->capabilities & STOKE_EXCLUSIVE;
        ks->loop = config->loop;
        ks->condition = KEYSPACE_CLOSED;
        ks->next_batch = 1;
        ks->ageing.on_time = on_ageing;
        ks->close_task.run = on_close;
        ks->late_task.run = on_late;
        commit_init(ks);
        TAILQ_INIT(&ks->leases.expired);
        TAILQ_INIT(&ks->hub.watchers);
        values_init(&ks->values, config->cache);

        if (metric_label(&labels, "tenant", ks->name) < 0 || buf_append(&labels, "", 1) < 0)
                return -ENOMEM;
        ks->m_commits = metric_counter("stokehold_commits_total", "Batches committed", (char *)labels.data);
        ks->m_records = metric_counter("stokehold_commit_records_total", "Records committed", (char *)labels.data);
        ks->m_seconds = metric_histogram("stokehold_commit_seconds", "From a batch's sending to its outcome",
                (char *)labels.data, metric_seconds_bounds, metric_seconds_n_bounds);

        *ret = steal(ks);
        return 0;
}

void keyspace_free(struct keyspace *ks) {
        if (!ks)
                return;
        check(ks->n_jobs == 0);
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
        keyspace_check_closed(ks);
}

/* Deferred, so that closed() is never called from within keyspace_close(). */
static void on_close(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, close_task);
        void (*closed)(void *userdata) = ks->closed;
        void *userdata = ks->closed_userdata;

        if (!ks->closing || ks->n_jobs)
                return;
        if (ks->acquired && !ks->released) {
                ks->released = true;
                ks->release_name = keyspace_stoke(ks);
                ks->release_job = (struct datastore_job){
                        .class = JOB_READ,
                        .keyspace = &ks->release_name,
                        .deadline_ns = UINT64_MAX,
                        .run = release_run,
                        .done = release_on_done,
                };
                keyspace_submit(ks, &ks->release_job);
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

        if (ks->subscription)
                datastore_unsubscribe(steal(ks->subscription));
        loop_timer_clear(&ks->reopen);
        loop_timer_clear(&ks->follow);
        loop_timer_clear(&ks->pause_timer);
        auto_compaction_stop(ks);
        call_list_end(&ks->opening, KEYSPACE_STOPPED);
        call_list_end(&ks->queue, KEYSPACE_STOPPED);
        call_list_end(&ks->fetching, KEYSPACE_STOPPED);
        call_list_end(&ks->ranging, KEYSPACE_STOPPED);
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
