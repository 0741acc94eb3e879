/*
 * Read barriers: a call may be answered from the index once the index holds all that was acknowledged anywhere before the
 * call came. Where nobody else can append that is always so. Elsewhere all calls that wait share one cheap question to the
 * datastore, asked again for those that came later. The answer is compared with the end that was known when the question
 * was sent, never with a newer one. The keyspace's loop only.
 */

#include <errno.h>

#include "keyspace/state.h"

#define RETRY_NS (50 * NSEC_PER_MSEC)

struct ends_job {
        struct datastore_job job;
        struct keyspace *ks;
        struct stoke_keyspace name;
        struct stoke_end end;
        bool found;
};

static void ask(struct keyspace *ks);

/* Continues calls that have what they waited for. */
static void pass(struct keyspace *ks, struct call_list *list) {
        struct call_list all = {};
        struct keyspace_call *call;

        call_list_join(&all, list);
        while ((call = call_list_take(&all))) {
                call->own.fresh = true;
                if (call->own.resume)
                        call->own.resume(call, KEYSPACE_OK);
                else {
                        call->revision = ks->revision;
                        keyspace_call_end(call, KEYSPACE_OK);
                }
        }
}

static int visit_end(void *userdata, size_t index, const struct stoke_end *end) {
        struct ends_job *j = userdata;

        if (index == 0 && end) {
                j->end = *end;
                j->found = true;
        }
        return 0;
}

static int ends_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct ends_job *j = container_of(job, struct ends_job, job);

        return datastore_driver(job->ds)->ends(session, &j->name, 1, call, visit_end, j);
}

static void on_retry(struct loop_timer *timer) {
        ask(container_of(timer, struct keyspace, barrier.retry));
}

/* What they wait for is known: all that is at the end that the datastore told. */
static void wait_for(struct keyspace *ks, const struct stoke_end *end) {
        struct barrier *b = &ks->barrier;

        if (end_equal(end, &b->known) || (end->seq > b->known.seq && end->seq < ks->end.seq) ||
                (end->seq > b->known.seq && end_equal(end, &ks->end))) {
                pass(ks, &b->asked);
                return;
        }
        /* Longer than known, or another one: the load that follows tells. */
        b->wanted = max_of(b->wanted, max_of(end->seq, b->known.seq));
        b->must_load = true;
        call_list_join(&b->loading, &b->asked);
        barrier_kick(ks);
}

static void on_ends(struct datastore_job *job) {
        struct ends_job *j = container_of(job, struct ends_job, job);
        struct keyspace *ks = j->ks;
        struct barrier *b = &ks->barrier;
        int r = job->result;

        keyspace_job_ended(ks);
        b->job = NULL;
        if (!ks->closing && ks->open) {
                if (r == 0 && !j->found)
                        keyspace_set_condition(
                                ks, KEYSPACE_DROPPED, "the datastore has no keyspace of this incarnation");
                else if (r == 0) {
                        if (ks->condition == KEYSPACE_UNREACHABLE && ks->head == HEAD_IDLE)
                                keyspace_set_condition(ks, KEYSPACE_SERVING, "%s", "");
                        wait_for(ks, &j->end);
                } else {
                        keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s",
                                job->reason[0]  ? job->reason
                                        : r < 0 ? strerror(-r)
                                                : "");
                        call_list_join(&b->waiting, &b->asked);
                        b->retry.on_time = on_retry;
                        loop_timer_set(ks->loop, &b->retry, loop_now_ns(ks->loop) + RETRY_NS);
                        keyspace_stalled(ks);
                }
                if (b->waiting.n && !b->retry.position)
                        ask(ks);
        }
        free(j);
        keyspace_check_closed(ks);
}

static void ask(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;
        struct ends_job *j;

        if (b->job || !b->waiting.n || ks->closing || !ks->open)
                return;
        j = new0(struct ends_job);
        j->ks = ks;
        j->name = keyspace_stoke(ks);
        j->job = (struct datastore_job){
                .class = JOB_READ,
                .keyspace = &j->name,
                .deadline_ns = keyspace_job_deadline(UINT64_MAX),
                .run = ends_run,
                .done = on_ends,
        };
        b->job = j;
        b->known = ks->end;
        call_list_join(&b->asked, &b->waiting);
        keyspace_stalled(ks);
        keyspace_submit(ks, &j->job);
}

void barrier_kick(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        if (!b->loading.n) {
                b->must_load = false;
                return;
        }
        if (ks->head == HEAD_IDLE && b->must_load) {
                /* Even where the index seems long enough: an end of the same length may be another log's. */
                b->must_load = false;
                load_tail(ks);
        } else if (ks->head == HEAD_IDLE && ks->end.seq >= b->wanted) {
                b->wanted = 0;
                pass(ks, &b->loading);
        } else if (ks->head == HEAD_IDLE)
                load_tail(ks);
}

static void on_task(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, barrier.task);

        if (ks->exclusive)
                pass(ks, &ks->barrier.waiting);
        else
                ask(ks);
}

static void on_free_task(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, barrier.free_task);

        pass(ks, &ks->barrier.free);
}

void barrier_wait(struct keyspace *ks, struct keyspace_call *call) {
        struct barrier *b = &ks->barrier;

        b->task.run = on_task;
        if (call->own.fresh && !ks->exclusive) {
                /* Asks for no barrier: passes alone, in the deferred work. */
                call_list_add(&b->free, call);
                b->free_task.run = on_free_task;
                loop_defer(ks->loop, &b->free_task);
                return;
        }
        call_list_add(&b->waiting, call);
        if (!b->retry.position)
                loop_defer(ks->loop, &b->task);
}

void keyspace_barrier(struct keyspace *ks, struct keyspace_call *call) {
        if (keyspace_enter(ks, call, NULL))
                barrier_wait(ks, call);
}

void barrier_done(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        check(!b->job);
        loop_timer_clear(&b->retry);
        if (ks->loop) {
                loop_undefer(ks->loop, &b->task);
                loop_undefer(ks->loop, &b->free_task);
        }
}
