/*
 * Progress of a Watch stream: "you have all up to this revision". Belongs to its stream; the server's loop only. Never says
 * more than what was sent before it.
 *
 * A ProgressRequest takes a barrier, so that the revision is not behind what was acknowledged anywhere before; then it waits
 * until each watch of the stream has been given all up to there, and is answered at once, for all of them, behind their events.
 * If the barrier fails it is not answered; nor (as by etcd) if the stream has no watch, or one that begins later than that.
 * A watch tells when it was given events, but not when a revision passed that had none for it: so who waits looks again
 * at the end of the iteration, and then after short pauses.
 */

#include "etcd/watch.h"

#define BARRIER_NS (5 * NSEC_PER_SEC)
#define RETRY_MIN_NS NSEC_PER_MSEC
#define RETRY_MAX_NS (64 * NSEC_PER_MSEC)

static void forget(struct watch_stream *s) {
        s->wanted = 0;
        s->latest = 0;
        loop_undefer(grpc_call_loop(s->call), &s->recheck);
        loop_timer_clear(&s->retry);
        s->retry_ns = 0;
}

/* Whether the question is settled: answered, or never to be. */
static bool settle(struct watch_stream *s) {
        int64_t position = INT64_MAX;
        bool any = false;

        for (struct watch *w = s->watches; w; w = w->hh.next) {
                if (!w->watcher)
                        continue;
                any = true;
                if (!w->created)
                        return false;
                if (w->start_revision > s->wanted) {
                        forget(s);
                        return true;
                }
                position = min_of(position, watcher_position(w->watcher));
        }
        if (!any) {
                forget(s);
                return true;
        }
        if (position < s->wanted)
                return false;
        if (position >= s->latest)
                forget(s);
        else
                s->wanted = s->latest;
        (void)watch_send(s, &(struct watch_message){.revision = position, .id = WATCH_ALL_IDS});
        return s->wanted == 0;
}

static void on_retry(struct loop_timer *timer) {
        struct watch_stream *s = container_of(timer, struct watch_stream, retry);

        if (!s->wanted || settle(s))
                return;
        s->retry_ns = min_of(max_of(s->retry_ns * 2, RETRY_MIN_NS), RETRY_MAX_NS);
        loop_timer_set(grpc_call_loop(s->call), &s->retry, clock_now_ns() + s->retry_ns);
}

static void on_recheck(struct loop_task *task) {
        struct watch_stream *s = container_of(task, struct watch_stream, recheck);

        on_retry(&s->retry);
}

void progress_try(struct watch_stream *s) {
        if (s->wanted)
                (void)settle(s);
}

static void ask(struct watch_stream *s);

static void on_barrier(struct keyspace_call *kc, enum keyspace_result result) {
        struct watch_stream *s = container_of(kc, struct watch_stream, barrier);

        s->asking = false;
        if (result == KEYSPACE_OK) {
                if (!s->wanted)
                        s->wanted = kc->revision;
                s->latest = kc->revision;
                if (!settle(s)) {
                        s->recheck.run = on_recheck;
                        s->retry.on_time = on_retry;
                        s->retry_ns = 0;
                        loop_defer(grpc_call_loop(s->call), &s->recheck);
                }
        }
        if (s->ask_again && !grpc_call_ended(s->call))
                ask(s);
}

static void ask(struct watch_stream *s) {
        s->ask_again = false;
        if (!s->watches)
                return;
        s->asking = true;
        s->barrier = (struct keyspace_call){
                .done = on_barrier,
                .deadline_ns = clock_now_ns() + BARRIER_NS,
                .arena = grpc_call_arena(s->call),
        };
        keyspace_barrier(s->ks, &s->barrier);
}

void progress_request(struct watch_stream *s) {
        /* A barrier that has begun already may be older than what this request must see. */
        if (s->asking)
                s->ask_again = true;
        else
                ask(s);
}

static void on_notify(struct loop_timer *timer) {
        struct watch_stream *s = container_of(timer, struct watch_stream, notify);
        struct keyspace_status status;
        struct watch *w, *next;
        bool any = false;

        keyspace_get_status(s->ks, &status);
        for (w = s->watches; w; w = next) {
                int64_t position;

                next = w->hh.next;
                if (!w->progress_notify || !w->watcher)
                        continue;
                any = true;
                position = watcher_position(w->watcher);
                /* Events have told as much already; the next time is its turn again. */
                if (w->quiet && w->created && w->synced && !w->paused && position >= status.revision &&
                        position >= w->start_revision &&
                        !watch_send(s, &(struct watch_message){.revision = position, .id = w->id}))
                        return;
                w->quiet = true;
        }
        s->notifying = any;
        if (any)
                loop_timer_set(
                        grpc_call_loop(s->call), &s->notify, clock_now_ns() + keyspace_progress_notify_ns(s->ks));
}

void progress_start_notifying(struct watch_stream *s) {
        uint64_t interval = keyspace_progress_notify_ns(s->ks);

        if (s->notifying || !interval)
                return;
        s->notifying = true;
        s->notify.on_time = on_notify;
        /* Up to a tenth later, so that streams made together are not served together. */
        loop_timer_set(grpc_call_loop(s->call), &s->notify,
                clock_now_ns() + interval + (uint64_t)((uintptr_t)s >> 4) * 7919 % (interval / 10 + 1));
}

void progress_stop(struct watch_stream *s) {
        if (s->asking)
                keyspace_cancel(&s->barrier);
        s->asking = false;
        s->ask_again = false;
        forget(s);
        loop_timer_clear(&s->notify);
        s->notifying = false;
}
