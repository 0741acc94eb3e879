#pragma once

/*
 * One event loop a thread: descriptors, timers, deferred work, and posting from other threads, which is the only way
 * from one thread to another. Everything but loop_post() and loop_stop() is for the loop's own thread only (or before
 * it runs). An iteration: wait, dispatch up to 64 ready descriptors, due timers, posted tasks, some slices, then deferred tasks
 * until none is left, so that work that many descriptors caused is done once (writes are flushed, batches are begun).
 *
 * The hot descriptors sit in an epoll set of our own, drained in batches; sd-event, which asks the kernel once for each
 * source that it dispatches, hangs below it for what is rare: signals, changed files, the watchdog.
 */

#include <signal.h>
#include <sys/epoll.h>

#include "base/macro.h"

struct loop;

/* All structures below are embedded in their user's, who owns them; zeroed memory is their idle state. */

struct loop_task {
        void (*run)(struct loop_task *task);
        struct loop_task *next; /* the loop's */
        bool queued;            /* the loop's, for deferred tasks and slices */
        uint32_t owner;         /* the loop's: base/owner.h */
};

struct loop_io {
        struct loop *loop; /* borrowed; NULL: idle */
        int fd;            /* borrowed: whoever opened it closes it, after loop_io_stop() */
        uint32_t events;   /* EPOLLIN, EPOLLOUT, … */
        uint32_t owner;    /* the loop's: base/owner.h */
        void (*on_io)(struct loop_io *io, uint32_t events);
};

struct loop_timer {
        struct loop *loop; /* borrowed */
        uint64_t due_ns;   /* CLOCK_MONOTONIC */
        uint32_t position; /* in the loop's heap, counted from 1; 0: idle */
        uint32_t owner;    /* the loop's: base/owner.h */
        void (*on_time)(struct loop_timer *timer);
};

/* name: the thread's name in tools, at most 15 bytes. */
int loop_new(const char *name, struct loop **ret);
/* Not while it runs. */
void loop_free(struct loop *loop);
DEFINE_FREEP(loop)

/* Runs on the calling thread until loop_stop(), and may be run again after that; pending posted tasks are run before it
 * returns. */
int loop_run(struct loop *loop);
/* Starts a thread that blocks all signals and runs the loop; loop_join() waits for its end. */
int loop_start_thread(struct loop *loop);
/* Before it runs: it keeps track of on whose behalf it works. */
void loop_track_owners(struct loop *loop);
void loop_join(struct loop *loop);
/* Any thread. */
void loop_stop(struct loop *loop);

/* Any thread. The task runs once, on the loop's thread, on behalf of whom its owner says, in the order of posting; it must stay alive until then and
 * must not be posted again before it has begun to run. Wakes are coalesced. */
void loop_post(struct loop *loop, struct loop_task *task);

/* At the end of the present iteration. Deferring a task that is queued already does nothing. */
void loop_defer(struct loop *loop, struct loop_task *task);
/* Takes a deferred task back; harmless if it is not queued. */
void loop_undefer(struct loop *loop, struct loop_task *task);

/*
 * A slice of long work: each iteration runs those that are queued, in turn, until LOOP_SLICES_NS have gone by (one at least), and
 * leaves the rest to the next, so that however many long works there are, descriptors have their turn. Who has more to do
 * queues itself again. A slice itself takes a bounded time, well below LOOP_SLICES_NS. Queueing twice does nothing.
 */
#define LOOP_SLICES_NS ((uint64_t)500 * NSEC_PER_USEC)
void loop_slice(struct loop *loop, struct loop_task *task);
/* Takes it back; harmless if it is not queued. */
void loop_unslice(struct loop *loop, struct loop_task *task);

int loop_io_start(struct loop *loop, struct loop_io *io, int fd, uint32_t events);
int loop_io_modify(struct loop_io *io, uint32_t events);
/* Harmless when idle. on_io is not called after this, not even for events already fetched. */
void loop_io_stop(struct loop_io *io);

/* (Re)arms; a time in the past fires in this or the next iteration. One shot. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t due_ns);
/* Harmless when idle. */
void loop_timer_clear(struct loop_timer *timer);

/* The time of this iteration's wake, CLOCK_MONOTONIC. */
uint64_t loop_now_ns(struct loop *loop);
/* The clock itself, any thread. */
uint64_t clock_now_ns(void);

/* Calls back on each of the signals in set, which must be blocked in every thread of the process. Once a loop. */
int loop_signals(struct loop *loop, const sigset_t *set, void (*on_signal)(void *userdata, int signo), void *userdata);
/* Calls back when something in the directory was written, renamed, made or removed (at least once for a burst). */
struct loop_watch;
int loop_watch_directory(struct loop *loop, const char *path, void (*on_change)(void *userdata), void *userdata,
        struct loop_watch **ret);
void loop_watch_free(struct loop_watch *watch);
DEFINE_FREEP(loop_watch)
/* Feeds systemd's watchdog where the unit asks for it. */
int loop_watchdog(struct loop *loop);
