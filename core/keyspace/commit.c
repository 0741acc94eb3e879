/*
 * The commit queue. While a batch is at the datastore the next one gathers; a batch is evaluated when it can be sent, on
 * all that came before it, so whoever's append succeeds has seen the whole log. The keyspace's loop only; the append
 * itself runs on a worker.
 *
 * An append ends in one of four ways. It is done: applied, answered. It is stale: the tail is read, and unless the batch is
 * found there (a pooler may have sent it twice) the calls are evaluated again, in a batch of another number. It failed for certain: tried again after a pause. Or its outcome is unknown: then the
 * tail tells whether it landed; as long as the log ends where the append expected it may still land, and an internal
 * record of ours behind that end settles it. Calls may give up meanwhile; they are never evaluated again then.
 */

#include "keyspace/commit.h"

#include <errno.h>

#include "base/log.h"

#define BATCH_RECORDS 1024 /* where evaluation stops, though the last group may go beyond it */
#define BATCH_BYTES ((size_t)4 * 1024 * 1024)
#define APPEND_PATIENCE_NS (10 * NSEC_PER_SEC)
#define PAUSE_NS (2 * NSEC_PER_MSEC)
#define LONGEST_PAUSE_NS NSEC_PER_SEC
#define LONGEST_TURN_NS (100 * NSEC_PER_MSEC)
#define QUIET_PAUSES 8 /* in which nobody else wrote: then nobody else writes */
#define SLOW_COMMIT_NS (500 * NSEC_PER_MSEC)

static void begin(struct keyspace *ks);

/* ---- batches */

static struct batch *batch_new(struct keyspace *ks) {
        struct batch *b = new0(struct batch);

        b->ks = ks;
        arena_init(&b->arena, 0);
        b->base = ks->end;
        b->number = ks->next_batch++;
        b->revision = ks->revision;
        return b;
}

static void batch_free(struct batch *b) {
        if (!b)
                return;
        for (size_t i = 0; i < b->n_calls; i++)
                if (b->calls[i])
                        b->calls[i]->own.batch = NULL;
        for (size_t i = 0; i < b->n_records; i++)
                blob_unref(b->blobs[i]);
        index_done(&b->overlay);
        arena_done(&b->arena);
        free(b->alarms.list);
        free(b->leases);
        free(b->records);
        free(b->blobs);
        free(b->calls);
        free(b);
}

static void batch_add_call(struct batch *b, struct keyspace_call *call) {
        if (b->n_calls == b->calls_capacity) {
                b->calls_capacity = b->calls_capacity ? b->calls_capacity * 2 : 64;
                b->calls = realloc(b->calls, b->calls_capacity * sizeof(*b->calls));
                check(b->calls);
        }
        call->own.batch = b;
        call->own.slot = b->n_calls;
        b->calls[b->n_calls++] = call;
}

/* Its calls go back to where they came from, in their order, to be evaluated again. */
static void batch_abandon(struct batch *b) {
        struct keyspace *ks = b->ks;

        for (size_t i = b->n_calls; i-- > 0;) {
                struct keyspace_call *call = b->calls[i];

                if (!call)
                        continue;
                b->calls[i] = NULL;
                call->own.batch = NULL;
                call_list_add_first(b->moves ? &ks->moving.calls : &ks->queue, call);
        }
        batch_free(b);
}

static void batch_end_calls(struct batch *b, enum keyspace_result result) {
        for (size_t i = 0; i < b->n_calls; i++)
                if (b->calls[i])
                        keyspace_call_end(b->calls[i], result == KEYSPACE_OK ? b->calls[i]->own.result : result);
}

/* ---- sending */

static int append_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct batch *b = container_of(job, struct batch, job);

        return datastore_driver(job->ds)->append(session, &b->name, &b->append, call);
}

static void on_appended(struct datastore_job *job);

static void send(struct batch *b) {
        struct keyspace *ks = b->ks;

        check(ks->head == HEAD_IDLE);
        ks->head = HEAD_APPENDING;
        b->name = keyspace_stoke(ks);
        b->append = (struct stoke_append){
                .size = sizeof(b->append),
                .expected = b->base,
                .records = b->records,
                .n_records = b->n_records,
        };
        b->sent_ns = clock_now_ns();
        b->job = (struct datastore_job){
                .class = JOB_COMMIT,
                .n_records = b->n_records,
                .keyspace = &b->name,
                .deadline_ns = b->sent_ns + APPEND_PATIENCE_NS,
                .run = append_run,
                .done = on_appended,
        };
        keyspace_submit(ks, &b->job);
        keyspace_stalled(ks); /* looked at again only if it takes long */
}

static void pause_for(struct keyspace *ks, uint64_t ns) {
        ks->head = HEAD_PAUSED;
        loop_timer_set(ks->loop, &ks->pause_timer, loop_now_ns(ks->loop) + ns);
}

/* Twice as long after each failure, with a share of chance, so that rivals do not meet again. */
static void pause_after_failure(struct keyspace *ks) {
        uint64_t ns = PAUSE_NS << min_of(ks->n_failures, 9u);

        ks->n_failures++;
        ns = min_of(ns, LONGEST_PAUSE_NS);
        pause_for(ks, ns / 2 + (uint64_t)random() % (ns / 2 + 1));
        keyspace_stalled(ks);
}

/* The head is free, and something may have to be done there. */
static void go_on(struct keyspace *ks) {
        ks->head = HEAD_IDLE;
        hold_update(ks);
        watch_kick(ks);
        barrier_kick(ks);
        compaction_kick(ks);
        switch_kick(ks);
        if (ks->grown && ks->head == HEAD_IDLE)
                load_tail(ks); /* what it brings is evaluated on, rather than refused for */
        commit_kick(ks);
}

/* ---- the outcome */

static void succeed(struct batch *b) {
        struct keyspace *ks = b->ks;

        for (size_t i = 0; i < b->n_records; i++)
                keyspace_apply(ks, &b->records[i], b->blobs[i]);
        memory_set(ks->memory, keyspace_bytes(ks), false);
        metric_add(ks->m_commits, 1);
        metric_add(ks->m_records, (double)b->n_records);
}

static void fail_for_good(struct batch *b, enum keyspace_result result) {
        struct keyspace *ks = b->ks;

        batch_end_calls(b, result);
        batch_free(b);
        go_on(ks);
}

static void observe(struct batch *b) {
        struct keyspace *ks = b->ks;
        uint64_t ns = clock_now_ns() - b->sent_ns;
        uint64_t slow = ks->config.slow_commit_ns ? ks->config.slow_commit_ns : SLOW_COMMIT_NS;

        metric_observe(ks->m_seconds, (double)ns / 1e9);
        ks->append_ns = ks->append_ns ? (ks->append_ns * 7 + ns) / 8 : ns;
        if (ns > slow) {
                struct log_context context = {.tenant = ks->name, .datastore = datastore_name(ks->datastore)};

                log_at(LOG_LEVEL_WARNING, &context, "slow commit: %zu records took %llu ms", b->n_records,
                        (unsigned long long)(ns / NSEC_PER_MSEC));
        }
}

/* The noop is settled, one way or the other: what is left is the batch that it was sent for. */
static void on_closer_appended(struct keyspace *ks, int result, const char *reason) {
        struct batch *closer = ks->closer;

        ks->closer = NULL;
        if (result == 0) {
                succeed(closer);
                batch_free(closer);
                ks->n_failures = 0;
                if (ks->batch)
                        batch_abandon(steal(ks->batch)); /* something else follows its end: it can never land */
                go_on(ks);
                return;
        }
        batch_free(closer);
        if (result < 0)
                keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s", reason);
        if (ks->closing)
                return;
        if (result < 0 || result == STOKE_UNKNOWN)
                pause_after_failure(ks); /* then the tail is read anew */
        else
                load_tail(ks);
}

void commit_recovery(struct keyspace *ks) {
        struct batch *b = batch_new(ks);

        b->is_recovery = true;
        recover_evaluate(b);
        ks->head = HEAD_IDLE;
        ks->batch = b;
        send(b);
}

/* Whatever became of it, the log tells: it is there once, or the next try makes it. */
static void on_recovery_appended(struct keyspace *ks, int result, const char *reason) {
        struct batch *b = steal(ks->batch);

        if (result == 0)
                succeed(b);
        else
                keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "the log could not be continued: %s", reason);
        batch_free(b);
        if (ks->closing)
                return;
        if (result == 0) {
                load_opened(ks);
                return;
        }
        keyspace_forget(ks);
        load_again(ks);
}

static void on_appended(struct datastore_job *job) {
        struct batch *b = container_of(job, struct batch, job);
        struct keyspace *ks = b->ks;
        int r = job->result;

        keyspace_job_ended(ks);
        ks->head = HEAD_IDLE;
        if (r < 0 && job->reason[0] == '\0')
                (void)snprintf(job->reason, sizeof(job->reason), "%s", strerror(-r));

        if (b->is_noop) {
                on_closer_appended(ks, r, job->reason);
                if (ks->closing)
                        call_list_end(&ks->queue, KEYSPACE_STOPPED);
                keyspace_check_closed(ks);
                return;
        }

        if (b->is_recovery) {
                on_recovery_appended(ks, r, job->reason);
                keyspace_check_closed(ks);
                return;
        }

        switch (r) {
        case STOKE_DONE:
                observe(b);
                succeed(b);
                ks->batch = NULL;
                ks->n_failures = 0;
                ks->n_alone++;
                if (ks->condition == KEYSPACE_UNREACHABLE)
                        keyspace_set_condition(ks, KEYSPACE_SERVING, "%s", "");
                hold_update(ks); /* whoever is told that it is sealed finds it held */
                batch_end_calls(b, KEYSPACE_OK);
                batch_free(b);
                go_on(ks);
                break;
        case STOKE_STALE:
                ks->n_alone = 0;
                ks->was_stale = true;
                load_tail(ks); /* ks->batch stays: something between us and the datastore may have sent it twice */
                break;
        case STOKE_UNKNOWN:
                keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "the outcome of a commit is unknown: %s", job->reason);
                keyspace_stalled(ks);
                b->uncertain = true;
                load_tail(ks); /* ks->batch stays: it may have landed, or land still */
                break;
        case STOKE_MISSING:
                if (switch_waits(ks)) {
                        b->uncertain = true; /* dropped after it has moved: the log at the target tells */
                        break;
                }
                ks->batch = NULL;
                batch_end_calls(b, KEYSPACE_UNAVAILABLE);
                batch_free(b);
                keyspace_set_condition(ks, KEYSPACE_DROPPED, "the datastore has no keyspace of this incarnation");
                break;
        case -ENOSPC:
                ks->batch = NULL;
                keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s", job->reason);
                fail_for_good(b, KEYSPACE_NO_SPACE);
                break;
        case -EMSGSIZE:
                ks->batch = NULL;
                fail_for_good(b, KEYSPACE_TOO_LARGE);
                break;
        default:
                /* It was certainly not written. */
                ks->batch = NULL;
                keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s", job->reason);
                batch_abandon(b);
                pause_after_failure(ks);
                break;
        }
        if (ks->closing) {
                /* What could not be settled in time stays unknown to its callers. */
                if (ks->batch) {
                        batch_end_calls(ks->batch, KEYSPACE_UNAVAILABLE);
                        batch_free(steal(ks->batch));
                }
                call_list_end(&ks->queue, KEYSPACE_STOPPED);
        }
        keyspace_check_closed(ks);
}

static void send_closer(struct keyspace *ks) {
        struct batch *b = batch_new(ks);

        b->is_noop = true;
        batch_add(b, RECORD_NOOP, ks->revision, (struct bytes){}, NULL, 0, 0, 0);
        ks->closer = b;
        send(b);
}

void commit_on_loaded(struct keyspace *ks) {
        struct batch *b = ks->batch;

        ks->head = HEAD_IDLE;
        if (ks->condition == KEYSPACE_UNREACHABLE)
                keyspace_set_condition(ks, KEYSPACE_SERVING, "%s", "");
        if (ks->closing)
                return;
        hold_update(ks);
        if (b) {
                if (b->landed) {
                        ks->batch = NULL;
                        ks->n_failures = 0;
                        batch_end_calls(b, KEYSPACE_OK);
                        batch_free(b);
                } else if (switch_waits(ks)) {
                        go_on(ks); /* the log at the target tells */
                        return;
                } else if (b->uncertain && end_equal(&b->base, &ks->end) && !b->moves) {
                        send_closer(ks); /* what moves is made void by its own like */
                        return;
                } else {
                        ks->batch = NULL;
                        if (!ks->loaded_nothing)
                                ks->n_failures = 0;
                        batch_abandon(b);
                }
        }
        if (ks->was_stale && ks->loaded_nothing && (ks->queue.n || ks->moving.calls.n)) {
                /* Refused, and yet nobody has appended: a deadlock, or a rival that rolled back. */
                ks->was_stale = false;
                watch_kick(ks);
                barrier_kick(ks);
                if (ks->head == HEAD_IDLE)
                        pause_after_failure(ks);
                return;
        }
        ks->was_stale = false;
        go_on(ks);
}

void commit_on_load_failed(struct keyspace *ks) {
        ks->head = HEAD_IDLE;
        if (!ks->closing)
                pause_after_failure(ks);
        switch_kick(ks);
}

static void on_pause_over(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, pause_timer);

        ks->head = HEAD_IDLE;
        if (ks->batch || ks->reload)
                load_tail(ks);
        else
                go_on(ks);
}

/* ---- beginning */

static void requeue(struct keyspace_call *call, enum keyspace_result result) {
        struct keyspace *ks = call->own.keyspace;

        (void)result;
        call_list_add(&ks->queue, call);
        commit_kick(ks);
}

/* The call's values have come: it is the next to be evaluated. */
static void on_fetched(struct fetch *fetch, int result) {
        struct keyspace_call *call = fetch->call;
        struct keyspace *ks = call->own.keyspace;

        if (result != 0) {
                keyspace_call_end(call, result == -ETIMEDOUT ? KEYSPACE_TIMEOUT : KEYSPACE_UNAVAILABLE);
                return;
        }
        keyspace_call_unlink(call);
        for (size_t i = 0; i < fetch->n; i++) {
                if (fetch->blobs[i])
                        continue;
                if (call->own.reread) {
                        log_error("%s: the value of record %llu is not in the datastore", ks->name,
                                (unsigned long long)fetch->seqs[i]);
                        keyspace_call_end(call, KEYSPACE_LOST);
                        return;
                }
                /* Compacted meanwhile, perhaps by another daemon: the index, once it knows, does not lead there. */
                fetch_done(fetch);
                free(steal(call->own.fetch));
                call->own.reread = true;
                call->own.fresh = false;
                call->own.resume = requeue;
                barrier_wait(ks, call);
                return;
        }
        call_list_add_first(&ks->queue, call);
        commit_kick(ks);
}

static void fetch_for(struct keyspace *ks, struct keyspace_call *call) {
        struct fetch *f = call->own.fetch;

        call_list_add(&ks->fetching, call);
        keyspace_stalled(ks);
        f->call = call;
        f->done = on_fetched;
        fetch_start(ks, f, call->deadline_ns);
}

/* The last call has made the batch larger than the driver takes; but one group alone may have any number of records. */
static bool too_large(const struct batch *b) {
        const struct stoke_limits *limits = &b->ks->limits;

        return b->bytes > limits->batch_bytes || (b->n_calls > 1 && b->n_records > limits->batch_records);
}

/* What moves comes one at a time: nothing may follow a seal. */
static void gather_moving(struct batch *b) {
        struct keyspace *ks = b->ks;
        struct keyspace_call *call;
        int r;

        b->moves = true;
        while (b->n_calls == 0 && (call = call_list_take(&ks->moving.calls))) {
                r = call->own.evaluate(call, b);
                if (r == EVALUATE_HOLD)
                        call_list_add(&ks->moving.later, call);
                else
                        batch_add_call(b, call);
        }
}

/* Evaluates as many calls as a batch may have. */
static void gather(struct batch *b) {
        struct keyspace *ks = b->ks;
        const struct stoke_limits *limits = &ks->limits;
        size_t max_records = min_of((size_t)limits->batch_records, (size_t)BATCH_RECORDS);
        size_t max_bytes = min_of((size_t)limits->batch_bytes / 2, BATCH_BYTES);
        struct keyspace_call *call;
        int r;

        while ((call = ks->queue.first) && b->n_records < max_records && b->bytes < max_bytes &&
                (!ks->max_calls || b->n_calls < ks->max_calls)) {
                keyspace_call_unlink(call);
                r = call->own.evaluate(call, b);
                if (r == EVALUATE_FETCH)
                        fetch_for(ks, call);
                else if (r == EVALUATE_HOLD)
                        call_list_add(&ks->compaction.held, call);
                else if (r < 0)
                        keyspace_call_end(call, KEYSPACE_UNAVAILABLE);
                else
                        batch_add_call(b, call);
                if (too_large(b))
                        break;
        }
}

/* Nothing is to be written. What the answers say must hold now, so they wait for a barrier, unless one was begun after
 * they came, or nobody else writes; then they are evaluated once more on what it brought. */
static void answer_without_append(struct batch *b) {
        struct keyspace *ks = b->ks;

        for (size_t i = 0; i < b->n_calls; i++) {
                struct keyspace_call *call = b->calls[i];

                if (!call)
                        continue;
                if (ks->exclusive || call->own.fresh || b->moves) {
                        keyspace_call_end(call, call->own.result);
                        continue;
                }
                b->calls[i] = NULL;
                call->own.batch = NULL;
                call->own.resume = requeue;
                barrier_wait(ks, call);
        }
        batch_free(b);
}

static bool has_work(const struct keyspace *ks) {
        if (ks->moving.phase != SWITCH_NONE)
                return false;
        return ks->moving.calls.n || (ks->queue.n && !keyspace_is_held(ks));
}

static void begin(struct keyspace *ks) {
        struct batch *b;

        if (ks->head != HEAD_IDLE || !ks->open || ks->closing || ks->batch || !has_work(ks))
                return;
        if (ks->foreign && ks->n_alone >= 4 && !ks->moving.calls.n) {
                /* Others get their turn, as long as there are any. */
                ks->n_alone = 0;
                if (++ks->n_quiet > QUIET_PAUSES)
                        ks->foreign = false;
                pause_for(ks, min_of(3 * ks->append_ns, LONGEST_TURN_NS));
                return;
        }

        b = batch_new(ks);
        if (ks->moving.calls.n)
                gather_moving(b);
        else
                gather(b);
        ks->max_calls = 0;
        if (too_large(b)) {
                if (b->n_calls > 1) {
                        ks->max_calls = b->n_calls - 1;
                        batch_abandon(b);
                } else
                        fail_for_good(b, KEYSPACE_TOO_LARGE);
                commit_kick(ks);
                return;
        }
        if (!b->n_records) {
                answer_without_append(b);
                compaction_kick(ks); /* a Compact may wait for deletions that nobody has begun */
                keyspace_stalled(ks);
                commit_kick(ks);
                return;
        }
        ks->batch = b;
        send(b);
}

static void on_begin(struct loop_task *task) {
        begin(container_of(task, struct keyspace, begin_task));
}

void commit_kick(struct keyspace *ks) {
        if (ks->head == HEAD_IDLE && ks->open && !ks->closing && has_work(ks))
                loop_defer(ks->loop, &ks->begin_task);
}

void keyspace_queue(struct keyspace *ks, struct keyspace_call *call,
        int (*evaluate)(struct keyspace_call *call, struct batch *batch)) {
        size_t max = ks->config.max_queue ? ks->config.max_queue : 100000;
        bool open = keyspace_enter(ks, call, NULL);

        call->own.evaluate = evaluate;
        if (!open)
                return;
        if (ks->queue.n >= max) {
                keyspace_call_end_later(call, KEYSPACE_TOO_MANY_REQUESTS);
                return;
        }
        call_list_add(&ks->queue, call);
        commit_kick(ks);
        if (ks->head != HEAD_IDLE || keyspace_is_held(ks))
                keyspace_stalled(ks);
}

void commit_give_up(struct keyspace *ks, enum keyspace_result result) {
        if (!ks->batch || (ks->head == HEAD_APPENDING && !ks->closer))
                return;
        batch_end_calls(ks->batch, result);
        batch_free(steal(ks->batch));
}

void commit_init(struct keyspace *ks) {
        ks->begin_task.run = on_begin;
        ks->pause_timer.on_time = on_pause_over;
}

void commit_done(struct keyspace *ks) {
        loop_timer_clear(&ks->pause_timer);
        if (ks->loop)
                loop_undefer(ks->loop, &ks->begin_task);
        batch_free(steal(ks->batch));
        batch_free(steal(ks->closer));
}
