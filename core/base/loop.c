#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#include "base/owner.h"
#include "base/thread.h"
#include "base/timer.h"

#define EVENTS_PER_WAKE 64

struct task_queue {
        struct loop_task *first, **tail;
};

struct loop {
        int epoll_fd;
        struct timer_heap timers;
        uint64_t now_ns;
        char name[16];

        /* Posted tasks: a stack that posters push to and the loop takes whole, so that neither waits for the other. */
        _Atomic(struct loop_task *) posted;
        int wake_fd;
        struct loop_io wake_io;
        atomic_bool stopping;

        struct task_queue deferred, slices;

        /* The batch being dispatched: loop_io_stop() blanks what it must not reach any more. */
        struct epoll_event ready[EVENTS_PER_WAKE];
        int n_ready, at_ready;

        sd_event *rare; /* owned; NULL until something rare is asked for */
        struct loop_io rare_io;
        void (*on_signal)(void *userdata, int signo);
        void *signal_userdata;

        pthread_t thread;
        bool has_thread;
        bool tracks; /* on whose behalf it works */
};

struct loop_watch {
        sd_event_source *source;
        void (*on_change)(void *userdata);
        void *userdata;
        struct loop_task task;
        struct loop *loop;
};

uint64_t clock_now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t loop_now_ns(struct loop *loop) {
        return loop->now_ns;
}

static void on_wake(struct loop_io *io, uint32_t events) {
        uint64_t n;

        (void)events;
        (void)!read(io->fd, &n, sizeof(n));
}

int loop_new(const char *name, struct loop **ret) {
        cleanup(loop_freep) struct loop *l = NULL;
        int r;

        l = new0(struct loop);
        l->epoll_fd = -EBADF;
        l->wake_fd = -EBADF;
        l->deferred.tail = &l->deferred.first;
        l->slices.tail = &l->slices.first;
        l->now_ns = clock_now_ns();
        (void)snprintf(l->name, sizeof(l->name), "%s", name);

        l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (l->epoll_fd < 0)
                return -errno;
        l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (l->wake_fd < 0)
                return -errno;
        l->wake_io.on_io = on_wake;
        r = loop_io_start(l, &l->wake_io, l->wake_fd, EPOLLIN);
        if (r < 0)
                return r;

        *ret = steal(l);
        return 0;
}

void loop_free(struct loop *l) {
        if (!l)
                return;
        sd_event_unref(l->rare);
        timer_heap_done(&l->timers);
        if (l->wake_fd >= 0)
                close(l->wake_fd);
        if (l->epoll_fd >= 0)
                close(l->epoll_fd);
        free(l);
}

static void enter(struct loop *l, uint32_t owner) {
        if (l->tracks)
                owner_set(owner);
}

static void run_task(struct loop *l, struct loop_task *task) {
        enter(l, task->owner);
        task->run(task);
}

static void run_posted(struct loop *l) {
        struct loop_task *stack, *list = NULL;

        stack = atomic_exchange_explicit(&l->posted, NULL, memory_order_acquire);
        while (stack) { /* newest first: turn it round */
                struct loop_task *next = stack->next;

                stack->next = list;
                list = stack;
                stack = next;
        }
        while (list) {
                struct loop_task *task = list;

                list = task->next; /* the task may be posted anew, or be gone, once it runs */
                task->next = NULL;
                run_task(l, task);
        }
}

static void queue_add(struct task_queue *q, struct loop_task *task) {
        if (task->queued)
                return;
        task->owner = owner_keep(task->owner);
        task->queued = true;
        task->next = NULL;
        *q->tail = task;
        q->tail = &task->next;
}

static void queue_remove(struct task_queue *q, struct loop_task *task) {
        struct loop_task **p;

        if (!task->queued)
                return;
        for (p = &q->first; *p != task; p = &(*p)->next)
                ;
        *p = task->next;
        if (!*p)
                q->tail = p;
        task->next = NULL;
        task->queued = false;
}

static void run_first(struct loop *l, struct task_queue *q) {
        struct loop_task *task = q->first;

        queue_remove(q, task);
        run_task(l, task);
}

static void run_deferred(struct loop *l) {
        while (l->deferred.first)
                run_first(l, &l->deferred);
}

static void run_slices(struct loop *l) {
        uint64_t until;

        if (!l->slices.first)
                return;
        until = clock_now_ns() + LOOP_SLICES_NS;
        do
                run_first(l, &l->slices);
        while (l->slices.first && clock_now_ns() < until);
}

/* Milliseconds until the next timer, rounded up; -1: none. */
static int wait_ms(struct loop *l) {
        uint64_t due = timer_heap_next(&l->timers), now;

        if (l->deferred.first || l->slices.first)
                return 0;
        if (due == UINT64_MAX)
                return -1;
        now = clock_now_ns();
        if (due <= now)
                return 0;
        return (int)min_of((due - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC, (uint64_t)60000);
}

int loop_run(struct loop *l) {
        struct loop_timer *timer;

        run_deferred(l);
        while (!atomic_load_explicit(&l->stopping, memory_order_acquire)) {
                int n = epoll_wait(l->epoll_fd, l->ready, EVENTS_PER_WAKE, wait_ms(l));

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                l->now_ns = clock_now_ns();

                l->n_ready = n;
                for (l->at_ready = 0; l->at_ready < l->n_ready; l->at_ready++) {
                        struct epoll_event *event = &l->ready[l->at_ready];
                        struct loop_io *io = event->data.ptr;

                        if (!io)
                                continue;
                        enter(l, io->owner);
                        io->on_io(io, event->events);
                }
                l->n_ready = 0;

                while ((timer = timer_heap_take(&l->timers, l->now_ns))) {
                        enter(l, timer->owner);
                        timer->on_time(timer);
                }
                run_posted(l);
                run_slices(l);
                run_deferred(l);
                enter(l, 0);
        }
        atomic_store_explicit(&l->stopping, false, memory_order_relaxed); /* it may be run again */
        run_posted(l);
        run_deferred(l);
        enter(l, 0);
        return 0;
}

static void *thread_main(void *userdata) {
        struct loop *l = userdata;
        int r;

        r = loop_run(l);
        check(r == 0);
        return NULL;
}

int loop_start_thread(struct loop *l) {
        int r;

        r = thread_start(&l->thread, l->name, thread_main, l);
        if (r < 0)
                return r;
        l->has_thread = true;
        return 0;
}

void loop_track_owners(struct loop *l) {
        l->tracks = true;
}

void loop_join(struct loop *l) {
        if (l->has_thread)
                pthread_join(l->thread, NULL);
        l->has_thread = false;
}

static void wake(struct loop *l) {
        uint64_t one = 1;

        (void)!write(l->wake_fd, &one, sizeof(one));
}

void loop_stop(struct loop *l) {
        atomic_store_explicit(&l->stopping, true, memory_order_release);
        wake(l);
}

void loop_post(struct loop *l, struct loop_task *task) {
        struct loop_task *head = atomic_load_explicit(&l->posted, memory_order_relaxed);

        do
                task->next = head;
        while (!atomic_compare_exchange_weak_explicit(
                &l->posted, &head, task, memory_order_release, memory_order_relaxed));

        /* Whoever finds the stack empty wakes the loop; those that come until it has taken the stack need not. */
        if (!head)
                wake(l);
}

void loop_defer(struct loop *l, struct loop_task *task) {
        queue_add(&l->deferred, task);
}

void loop_undefer(struct loop *l, struct loop_task *task) {
        queue_remove(&l->deferred, task);
}

void loop_slice(struct loop *l, struct loop_task *task) {
        queue_add(&l->slices, task);
}

void loop_unslice(struct loop *l, struct loop_task *task) {
        queue_remove(&l->slices, task);
}

int loop_io_start(struct loop *l, struct loop_io *io, int fd, uint32_t events) {
        struct epoll_event event = {.events = events, .data.ptr = io};

        check(!io->loop);
        if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                return -errno;
        io->loop = l;
        io->fd = fd;
        io->owner = owner_keep(io->owner);
        io->events = events;
        return 0;
}

int loop_io_modify(struct loop_io *io, uint32_t events) {
        struct epoll_event event = {.events = events, .data.ptr = io};

        if (io->events == events)
                return 0;
        if (epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &event) < 0)
                return -errno;
        io->events = events;
        return 0;
}

void loop_io_stop(struct loop_io *io) {
        struct loop *l = io->loop;

        if (!l)
                return;
        (void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
        for (int i = l->at_ready; i < l->n_ready; i++)
                if (l->ready[i].data.ptr == io)
                        l->ready[i].data.ptr = NULL;
        io->loop = NULL;
}

void loop_timer_set(struct loop *l, struct loop_timer *timer, uint64_t due_ns) {
        timer->loop = l;
        timer->owner = owner_keep(timer->owner);
        timer_heap_set(&l->timers, timer, due_ns);
}

void loop_timer_clear(struct loop_timer *timer) {
        if (timer->position)
                timer_heap_clear(&timer->loop->timers, timer);
}

/* sd-event's descriptor is readable when one of its sources is; each run dispatches one of them. The last run, which
 * finds nothing, has also made it ready to be polled again. */
static void on_rare(struct loop_io *io, uint32_t events) {
        struct loop *l = container_of(io, struct loop, rare_io);

        (void)events;
        while (sd_event_run(l->rare, 0) > 0)
                ;
}

static int rare_get(struct loop *l, sd_event **ret) {
        sd_event *e;
        int r;

        if (!l->rare) {
                r = sd_event_new(&e);
                if (r < 0)
                        return r;
                l->rare_io.on_io = on_rare;
                r = loop_io_start(l, &l->rare_io, sd_event_get_fd(e), EPOLLIN);
                if (r < 0) {
                        sd_event_unref(e);
                        return r;
                }
                l->rare = e;
        }
        *ret = l->rare;
        return 0;
}

static int on_sd_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        struct loop *l = userdata;

        (void)source;
        l->on_signal(l->signal_userdata, (int)info->ssi_signo);
        return 0;
}

int loop_signals(struct loop *l, const sigset_t *set, void (*on_signal)(void *userdata, int signo), void *userdata) {
        sd_event *e;
        int r;

        r = rare_get(l, &e);
        if (r < 0)
                return r;
        l->on_signal = on_signal;
        l->signal_userdata = userdata;
        for (int signo = 1; signo < _NSIG; signo++) {
                if (sigismember(set, signo) != 1)
                        continue;
                r = sd_event_add_signal(e, NULL, signo, on_sd_signal, l);
                if (r < 0)
                        return r;
        }
        on_rare(&l->rare_io, 0);
        return 0;
}

static void watch_run(struct loop_task *task) {
        struct loop_watch *w = container_of(task, struct loop_watch, task);

        w->on_change(w->userdata);
}

/* A burst of changes within one iteration is one call. */
static int on_sd_inotify(sd_event_source *source, const struct inotify_event *event, void *userdata) {
        struct loop_watch *w = userdata;

        (void)source;
        (void)event;
        loop_defer(w->loop, &w->task);
        return 0;
}

int loop_watch_directory(
        struct loop *l, const char *path, void (*on_change)(void *userdata), void *userdata, struct loop_watch **ret) {
        cleanup(loop_watch_freep) struct loop_watch *w = NULL;
        sd_event *e;
        int r;

        r = rare_get(l, &e);
        if (r < 0)
                return r;
        w = new0(struct loop_watch);
        w->loop = l;
        w->on_change = on_change;
        w->userdata = userdata;
        w->task.run = watch_run;
        r = sd_event_add_inotify(e, &w->source, path,
                IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_ATTRIB | IN_ONLYDIR,
                on_sd_inotify, w);
        if (r < 0)
                return r;
        on_rare(&l->rare_io, 0);

        *ret = steal(w);
        return 0;
}

void loop_watch_free(struct loop_watch *w) {
        if (!w)
                return;
        loop_undefer(w->loop, &w->task);
        sd_event_source_disable_unref(w->source);
        free(w);
}

int loop_watchdog(struct loop *l) {
        sd_event *e;
        int r;

        r = rare_get(l, &e);
        if (r < 0)
                return r;
        r = sd_event_set_watchdog(e, true);
        if (r < 0)
                return r;
        on_rare(&l->rare_io, 0);
        return 0;
}
