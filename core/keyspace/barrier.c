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

/* The log is sealed, as far as it was read: it may go on elsewhere, and nothing that is asked here tells of that. */
static bool is_sealed(struct keyspace *ks, struct call_list *list) {
        if (!ks->moving.sealed)
                return false;
        call_list_join(&ks->barrier.waiting, list);
        keyspace_stalled(ks);
        return true;
}

static void wait_for(struct keyspace *ks, const struct stoke_end *end) {
        struct barrier *b = &ks->barrier;

        if (is_sealed(ks, &b->asked))
                return;
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
        struct barrier_question *question = container_of(q, struct barrier_question, question);
        struct keyspace *ks = question->ks;
        struct barrier *b = &ks->barrier;

        keyspace_job_ended(ks);
        if (b->question != question) {
                ks->moving.n_detached--;
        } else {
                b->question = NULL;
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
        }
        free(question);
        keyspace_check_closed(ks);
}

static void ask(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        if (b->question || !b->waiting.n || ks->closing || !ks->open || keyspace_is_held(ks))
                return;
        b->question = new0(struct barrier_question);
        b->question->ks = ks;
        b->known = ks->end;
        call_list_join(&b->asked, &b->waiting);
        keyspace_stalled(ks);
        b->question->question.keyspace = keyspace_stoke(ks);
        b->question->question.done = on_answer;
        keyspace_ask(ks, &b->question->question);
}

void barrier_turn_away(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        if (b->question) {
                b->question = NULL;
                ks->moving.n_detached++;
        }
        loop_timer_clear(&b->retry);
        call_list_join(&b->waiting, &b->asked);
        call_list_join(&b->waiting, &b->loading);
        b->must_load = b->loads = false;
}

void barrier_kick(struct keyspace *ks) {
        struct barrier *b = &ks->barrier;

        if (!b->loading.n || ks->head != HEAD_IDLE || is_sealed(ks, &b->loading))
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

        if (!ks->exclusive)
                ask(ks);
        else if (!keyspace_is_held(ks))
                pass(ks, &ks->barrier.waiting);
}

void barrier_go_on(struct keyspace *ks) {
        if (ks->barrier.waiting.n && !ks->barrier.retry.position)
                loop_defer(ks->loop, &ks->barrier.task);
}

static void on_free_task(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, barrier.free_task);

        pass(ks, &ks->barrier.free);
}

void barrier_wait(struct keyspace *ks, struct keyspace_call *call) {
        struct barrier *b = &ks->barrier;

        b->task.run = on_task;
        if (call->own.fresh) {
                /* Asks for no barrier: passes alone, in the deferred work. */
                call_list_add(&b->free, call);
                b->free_task.run = on_free_task;
                loop_defer(ks->loop, &b->free_task);
                return;
        }
        call_list_add(&b->waiting, call);
        if (keyspace_is_held(ks) || b->question) /* who had asked that may all have given up by now */
                keyspace_stalled(ks);
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

        check(!b->question);
        loop_timer_clear(&b->retry);
        if (ks->loop) {
                loop_undefer(ks->loop, &b->task);
                loop_undefer(ks->loop, &b->free_task);
        }
}
