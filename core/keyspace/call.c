/*
 * What all calls of a keyspace have in common: the lists they wait on, their way in, their deadlines, their end. The
 * keyspace's loop only.
 */

#include <errno.h>

#include "keyspace/commit.h"

/* etcd gives up on a proposal after about seven seconds. */
#define CALL_PATIENCE_NS (7 * NSEC_PER_SEC)
#define AGEING_NS (100 * NSEC_PER_MSEC)

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
        if (!call->own.internal)
                memory_used(ks->memory, call->own.arrived_ns);

        if (ks->open && !ks->closing)
                return true;
        if (ks->closing || keyspace_is_over(ks)) {
                keyspace_call_end_later(call, ks->closing ? KEYSPACE_STOPPED : keyspace_over_result(ks));
                return false;
        }
        if (idle_is_refused(ks)) {
                keyspace_call_end_later(call, KEYSPACE_UNAVAILABLE);
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
                        call_list_add(call->own.moves ? &ks->moving.calls : &ks->queue, call);
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
                if (ks->batch->calls[i] && is_over(ks, ks->batch->calls[i], ks->batch->moves, &result))
                        keyspace_call_end(ks->batch->calls[i], result);
}

static void on_ageing(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, ageing);

        call_list_age(ks, &ks->opening, false);
        call_list_age(ks, &ks->queue, false);
        call_list_age(ks, &ks->moving.calls, true);
        call_list_age(ks, &ks->moving.later, true);
        call_list_age(ks, &ks->fetching, false);
        call_list_age(ks, &ks->barrier.waiting, false);
        call_list_age(ks, &ks->barrier.asked, false);
        call_list_age(ks, &ks->barrier.loading, false);
        call_list_age(ks, &ks->compaction.held, true);
        call_list_age(ks, &ks->compaction.physical, true);
        age_batch(ks);
        if (ks->opening.n || ks->queue.n || ks->moving.calls.n || ks->moving.later.n || ks->fetching.n ||
                ks->barrier.waiting.n || ks->barrier.asked.n || ks->barrier.loading.n || ks->compaction.held.n ||
                ks->compaction.physical.n || ks->batch)
                keyspace_stalled(ks);
}

void keyspace_stalled(struct keyspace *ks) {
        if (!ks->ageing.position)
                loop_timer_set(ks->loop, &ks->ageing, loop_now_ns(ks->loop) + AGEING_NS);
}

void calls_init(struct keyspace *ks) {
        ks->ageing.on_time = on_ageing;
        ks->late_task.run = on_late;
}
