/*
 * Read barriers: a call may be answered from the index once the index holds all that was acknowledged anywhere before the
 * call came. Where nobody else can append that is always so. Elsewhere all calls that wait share one cheap question to the
 * datastore, asked again for those that came later. The answer is compared with the end that was known when the question
 * was sent, never with a newer one. The keyspace's loop only.
 */

#include <errno.h>

#include "keyspace/state.h"

#define RETRY_NS (50 * NSEC_PER_MSEC)

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

static void on_retry(struct loop_timer *timer) {
        ask(container_of(timer, struct keyspace, barrier.retry));
}

/* Whether the index holds all that was at the end which the datastore told, in answer to a question that was sent when the log was known up
 * to `known`. Longer than known, and not beyond what was appended here since, it is an end that the index has passed; of the
 * same length it may be another log's, and what is shorter than known always is. */
static bool holds(const struct keyspace *ks, const struct stoke_end *end, const struct stoke_end *known) {
        if (end->seq <= known->seq)
                return end_equal(end, known);
        return end->seq < ks->end.seq || end_equal(end, &ks->end);
}

static void wait_for(struct keyspace *ks, const struct stoke_end *end) {
        struct barrier *b = &ks->barrier;

        if (holds(ks, end, &b->known)) {
                pass(ks, &b->asked);
                return;
        }
        /* Others that wait still were told an earlier end: whoever has the later one has theirs, if the log has only grown. */
        b->must_load = (b->loading.n && (b->must_load || end->seq < b->wanted.seq)) || end->seq <= b->known.seq;
        b->loads = false;
        b->wanted = *end;
        b->wanted_known = b->known;
        call_list_join(&b->loading, &b->asked);
        barrier_kick(ks);
}

static void on_answer(struct datastore_question *q) {
        struct barrier *b = container_of(q, struct barrier, question);
        struct keyspace *ks = container_of(b, struct keyspace, barrier);

        keyspace_job_ended(ks);
        b->asking = false;
        if (!ks->closing && ks->open) {
                if (q->result == 0 && !q->found)
                        keyspace_set_condition(
                                ks, KEYSPACE_DROPPED, "the datastore has no keyspace of this incarnation");
                else if (q->result == 0) {
                        if (ks->condition == KEYSPACE_UNREACHABLE && ks->head == HEAD_IDLE)
                                keyspace_set_condition(ks, KEYSPACE_SERVING, "%s", "");
                        wait_for(ks, &q->end);
                } else {
                        keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s",
                                q->reason[0]            ? q->reason
                                        : q->result < 0 ? strerror(-q->result)
                                                        : "");
                        call_list_join(&b->waiting, &b->asked);
                        b->retry.on_time = on_retry;
                        loop_timer_set(ks->loop, &b->retry, loop_now_ns(ks->loop) + RETRY_NS);
                        keyspace_stalled(ks);
                }
                if (b->waiting.n && !b->retry.position)
                        ask(ks);
        }
        keyspace_check_closed(ks);
}

static void ask(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        if (b->asking || !b->waiting.n || ks->closing || !ks->open)
                return;
        b->asking = true;
        b->known = ks->end;
        call_list_join(&b->asked, &b->waiting);
        keyspace_stalled(ks);
        b->question.keyspace = keyspace_stoke(ks);
        b->question.done = on_answer;
        keyspace_ask(ks, &b->question);
}

void barrier_kick(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        if (!b->loading.n || ks->head != HEAD_IDLE)
                return;
        if (b->loads ? ks->end.seq >= b->wanted.seq : !b->must_load && holds(ks, &b->wanted, &b->wanted_known)) {
                b->must_load = b->loads = false;
                pass(ks, &b->loading);
                return;
        }
        b->loads = true;
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

void keyspace_probe(struct keyspace *ks, struct keyspace_call *call) {
        call->own.internal = true;
        keyspace_barrier(ks, call);
}

void barrier_done(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        check(!b->asking);
        loop_timer_clear(&b->retry);
        if (ks->loop) {
                loop_undefer(ks->loop, &b->task);
                loop_undefer(ks->loop, &b->free_task);
        }
}
