/*
 * Streams. What decides runs on the stream's loop: one thing at a time is under way, a question for the log's end or a job that reads a part of
 * the log on a datastore's worker, and the next is begun when the consumer has room for it. The worker copies and checks records into a piece
 * and does not wait for anybody. Between a job and the next there is the queue, under a mutex, for a consumer on another thread.
 *
 * A stream that is freed while something is under way lives until that has come back.
 */

#include "keyspace/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>

#include "base/owner.h"
#include "keyspace/record.h"
#include "keyspace/stream_piece.h"

#define PIECE_BYTES ((size_t)512 * 1024)
#define AHEAD_BYTES ((size_t)4 * 1024 * 1024)
#define LEAST_RECORDS 16
#define FIRST_RECORDS 512
#define MOST_RECORDS 16384
#define RECORD_OVERHEAD 128          /* bytes that a record costs beside key and value */
#define READ_NS (10 * NSEC_PER_MSEC) /* commits of the keyspace wait for so long, or for one record */
#define READ_PATIENCE_NS (10 * NSEC_PER_SEC)
#define PATIENCE_NS (30 * NSEC_PER_SEC)
#define RETRY_NS (20 * NSEC_PER_MSEC)
#define LONGEST_RETRY_NS NSEC_PER_SEC
#define FOLLOW_NS (200 * NSEC_PER_MSEC)

struct stream {
        struct stream_config config; /* without the strings */
        char *name;                  /* owned */
        struct stoke_keyspace keyspace;
        const struct stoke_driver *driver;

        /* The loop's. */
        struct datastore_job job, release_job;
        struct datastore_question question;
        bool running, releasing, asking; /* they are under way */
        bool freed;
        bool acquired; /* the worker's while it is busy */
        struct stoke_read read;
        bool scanning;              /* all was read: are there new marks? */
        bool has_goal, asked_again; /* asked_again: the goal was asked for after all before it was read */
        bool finishing;
        struct stoke_end finish;
        struct stoke_end begin; /* the log's end at the beginning */
        uint64_t position;      /* all up to this seq was read */
        uint64_t scanned;
        uint64_t failing_ns; /* since when; 0: not */
        unsigned n_failures;
        uint32_t n_most;         /* records of the next read */
        struct loop_timer timer; /* nothing before that: a throttle, a pause */
        struct loop_task go_task, ready_task;

        /* The worker's, while a job runs. */
        struct stream_piece *filling; /* owned */
        struct stoke_end last;        /* read by this job; seq 0: nothing */
        int64_t revision;
        bool marked; /* a compaction since the beginning */
        uint64_t started_ns;
        int broken; /* negative errno, with the reason in `damage` */
        char damage[256];

        /* Everybody's, with the mutex. */
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        struct stream_piece *first, *newest; /* owned: read, not yet taken */
        size_t waiting_bytes;
        bool stop, posted;
        bool busy; /* the job has not left the worker */
        struct loop_task post_task;
        struct stream_status status;
};

static void go_on(struct stream *s);

static bool is_set(const uint8_t id[16]) {
        static const uint8_t zero[16];

        return memcmp(id, zero, sizeof(zero)) != 0;
}

static void maybe_free(struct stream *s) {
        struct stream_piece *p;
        bool posted;

        pthread_mutex_lock(&s->mutex);
        posted = s->posted;
        pthread_mutex_unlock(&s->mutex);
        if (!s->freed || s->running || s->releasing || s->asking || posted)
                return;
        while ((p = s->first)) {
                s->first = p->next;
                stream_piece_free(p);
        }
        stream_piece_free(s->filling);
        pthread_cond_destroy(&s->changed);
        pthread_mutex_destroy(&s->mutex);
        free(s->name);
        free(s);
}

/* ---- on a worker */

static int damaged(struct stream *s, int code, const char *format, ...) printf_like(3, 4);
static int damaged(struct stream *s, int code, const char *format, ...) {
        va_list args;

        va_start(args, format);
        (void)vsnprintf(s->damage, sizeof(s->damage), format, args);
        va_end(args);
        s->broken = code;
        return 1;
}

static int visit(void *userdata, const struct stoke_record *r) {
        struct stream *s = userdata;
        uint64_t before = s->last.seq ? s->last.seq : s->read.after;
        struct stream_piece *p;

        if (r->seq <= before || r->seq > INT64_MAX)
                return damaged(s, -EUCLEAN, "record %llu comes behind record %llu", (unsigned long long)r->seq,
                        (unsigned long long)before);
        /* What was appended since the beginning is all there, or somebody deletes. */
        if (before >= s->begin.seq && r->seq != before + 1)
                return damaged(s, -EAGAIN, "the log was compacted while it was read: record %llu has gone",
                        (unsigned long long)before + 1);
        if (r->kind == RECORD_MARK && r->seq > s->begin.seq)
                s->marked = true;
        s->last = (struct stoke_end){r->seq, r->origin};
        if (s->scanning)
                return 0;
        if ((r->value || r->value_size == 0) && record_hash(r) != r->hash)
                return damaged(s, -EUCLEAN, "record %llu does not have its hash", (unsigned long long)r->seq);
        if (s->config.with_values && !r->value && r->value_size)
                return damaged(s, -EUCLEAN, "record %llu came without its value", (unsigned long long)r->seq);
        if (!s->filling)
                s->filling = stream_piece_new();
        p = s->filling;
        if (stream_piece_add(p, r) < 0)
                return damaged(s, -ENOMEM, "no memory for record %llu", (unsigned long long)r->seq);
        s->revision = max_of(s->revision, r->revision);
        return p->bytes >= PIECE_BYTES || (p->n % 64 == 0 && clock_now_ns() - s->started_ns >= READ_NS);
}

static int release_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct stream *s = container_of(job, struct stream, release_job);

        (void)call;
        s->driver->release(session, &s->keyspace);
        return 0;
}

/* The worker has done with it; true: it is to be stopped (and, with unless_stopped, the worker has not). */
static bool leave(struct stream *s, bool unless_stopped) {
        bool stop;

        pthread_mutex_lock(&s->mutex);
        stop = s->stop;
        if (!stop || !unless_stopped || !s->acquired)
                s->busy = false;
        pthread_mutex_unlock(&s->mutex);
        return stop;
}

/* A stream that was freed meanwhile submits nothing more: what it has is given back here. */
static int read_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct stream *s = container_of(job, struct stream, job);
        int r = 0;

        if (s->config.acquire && !s->acquired) {
                r = s->driver->acquire(session, &s->keyspace, call);
                s->acquired = r == 0;
        }
        s->started_ns = clock_now_ns();
        if (r == 0)
                r = s->driver->read(session, &s->keyspace, &s->read, call, visit, s);
        if (leave(s, true) && s->acquired) {
                s->driver->release(session, &s->keyspace);
                s->acquired = false;
                (void)leave(s, false);
        }
        return r == STOKE_STOPPED ? 0 : r;
}

/* ---- on the loop */

static void on_ready(struct loop_task *task) {
        struct stream *s = container_of(task, struct stream, ready_task);

        s->config.on_ready(s->config.userdata);
}

static void tell(struct stream *s) {
        pthread_mutex_lock(&s->mutex);
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->mutex);
        if (s->config.on_ready && !s->freed)
                loop_defer(s->config.loop, &s->ready_task);
}

static void end(struct stream *s, int result, const char *reason) {
        if (s->status.ended)
                return;
        pthread_mutex_lock(&s->mutex);
        s->status.ended = true;
        s->status.result = result;
        (void)snprintf(s->status.reason, sizeof(s->status.reason), "%s",
                result == 0                   ? ""
                        : reason && reason[0] ? reason
                                              : strerror(-result));
        pthread_mutex_unlock(&s->mutex);
        loop_timer_clear(&s->timer);
        tell(s);
}

static void on_timer(struct loop_timer *timer) {
        go_on(container_of(timer, struct stream, timer));
}

static void pause_for(struct stream *s, uint64_t ns) {
        loop_timer_set(s->config.loop, &s->timer, clock_now_ns() + ns);
}

/* Tried again, unless it cannot help, or has not for too long. */
static void fail(struct stream *s, int result, const char *reason) {
        uint64_t now = clock_now_ns();
        uint64_t patience = s->config.patience_ns ? s->config.patience_ns : PATIENCE_NS;

        if (result > 0) { /* an outcome */
                reason = reason && reason[0]      ? reason
                        : result == STOKE_MISSING ? "the datastore has no keyspace of this incarnation"
                                                  : "another daemon has it";
                result = result == STOKE_MISSING ? -ENOENT : -EBUSY;
        }
        if (!s->failing_ns)
                s->failing_ns = now;
        if (result == -ENOENT || result == -EUCLEAN || result == -ENOMEM || result == -EINVAL || result == -EACCES ||
                (s->config.acquire && result == -EBUSY) || now - s->failing_ns >= patience) {
                end(s, result, reason);
                return;
        }
        pause_for(s, min_of(RETRY_NS << min_of(s->n_failures, 6u), LONGEST_RETRY_NS));
        s->n_failures++;
}

/* The piece goes to the consumer. */
static void hand_over(struct stream *s) {
        struct stream_piece *p = steal(s->filling);
        uint64_t bytes = p->bytes + p->n * RECORD_OVERHEAD;

        s->n_most =
                (uint32_t)min_of(max_of(PIECE_BYTES / (bytes / p->n), (uint64_t)LEAST_RECORDS), (uint64_t)MOST_RECORDS);
        pthread_mutex_lock(&s->mutex);
        s->status.end = s->last;
        s->status.revision = s->revision;
        s->status.n_records += p->n;
        s->status.bytes += p->bytes;
        s->waiting_bytes += p->bytes;
        if (s->newest)
                s->newest->next = p;
        else
                s->first = p;
        s->newest = p;
        pthread_mutex_unlock(&s->mutex);
        s->position = s->last.seq;
        bytes = throttle_take(s->config.throttle, bytes);
        if (bytes)
                pause_for(s, bytes);
        tell(s);
}

static bool follows(const struct stream *s) {
        return s->config.follow && !s->finishing;
}

/* The record at the goal was read: is it the one? */
static bool is_goal(const struct stream *s) {
        return s->config.upto || origin_equal(&s->last.origin, &s->status.goal.origin);
}

/* Nothing up to a record that was there. Without a pin that is how it looks when all of it was deleted, which does not get better. */
static void miss(struct stream *s) {
        if (s->config.pinned || is_set(s->config.installation))
                fail(s, -EIO, "the log ends before its end");
        else
                end(s, -EAGAIN, "the log was compacted while it was read");
}

static void on_read(struct datastore_job *job) {
        struct stream *s = container_of(job, struct stream, job);
        uint64_t goal = s->status.goal.seq;

        s->running = false;
        if (s->freed) {
                maybe_free(s);
                return;
        }
        if (s->status.ended) {
                go_on(s);
                return;
        }
        if (s->broken) {
                end(s, s->broken, s->damage);
        } else if (job->result != 0) {
                stream_piece_free(steal(s->filling));
                fail(s, job->result, job->reason);
        } else if (s->scanning) {
                s->scanned = s->last.seq ? s->last.seq : s->scanned;
                if (s->marked)
                        end(s, -EAGAIN, "the log was compacted while it was read");
                else if (s->scanned >= goal)
                        end(s, 0, NULL);
                else if (!s->last.seq)
                        miss(s);
        } else if (!s->last.seq) {
                miss(s);
        } else if (s->marked && !s->config.pinned) {
                end(s, -EAGAIN, "the log was compacted while it was read");
        } else if (s->last.seq > goal || (s->last.seq == goal && !is_goal(s))) {
                end(s, -ESTALE, "the log is not the one that was known");
        } else {
                s->failing_ns = 0;
                s->n_failures = 0;
                hand_over(s);
        }
        go_on(s);
}

static void submit(struct stream *s) {
        s->running = true;
        pthread_mutex_lock(&s->mutex);
        s->busy = true;
        pthread_mutex_unlock(&s->mutex);
        s->last = (struct stoke_end){};
        s->read = (struct stoke_read){
                .size = sizeof(s->read),
                .installation = is_set(s->config.installation) ? s->config.installation : NULL,
                .after = s->scanning ? s->scanned : s->position,
                .upto = s->status.goal.seq,
                .n_most = s->n_most,
                .with_values = s->config.with_values && !s->scanning,
        };
        s->job = (struct datastore_job){
                .class = JOB_BULK,
                .keyspace = &s->keyspace,
                .own_scope = is_set(s->config.installation),
                .deadline_ns = clock_now_ns() + READ_PATIENCE_NS,
                .loop = s->config.loop,
                .run = read_run,
                .done = on_read,
        };
        datastore_submit(s->config.datastore, &s->job);
}

static void on_released(struct datastore_job *job) {
        struct stream *s = container_of(job, struct stream, release_job);

        s->releasing = false;
        maybe_free(s);
}

static void release(struct stream *s) {
        s->acquired = false;
        s->releasing = true;
        s->release_job = (struct datastore_job){
                .class = JOB_BULK,
                .keyspace = &s->keyspace,
                .deadline_ns = UINT64_MAX,
                .loop = s->config.loop,
                .run = release_run,
                .done = on_released,
        };
        datastore_submit(s->config.datastore, &s->release_job);
}

static void on_asked(struct datastore_question *q) {
        struct stream *s = container_of(q, struct stream, question);

        s->asking = false;
        if (s->freed) {
                maybe_free(s);
                return;
        }
        if (s->status.ended) {
                go_on(s);
                return;
        }
        if (q->result != 0 || !q->found) {
                fail(s, q->result ? q->result : STOKE_MISSING, q->reason);
                go_on(s);
                return;
        }
        s->failing_ns = 0;
        s->n_failures = 0;
        if (q->end.seq < s->position || q->end.seq < s->config.upto) {
                end(s, -ESTALE, "the log is shorter than it was");
                go_on(s);
                return;
        }
        s->asked_again = s->has_goal;
        if (!s->has_goal)
                s->begin = q->end;
        s->has_goal = true;
        pthread_mutex_lock(&s->mutex);
        s->status.goal = s->finishing ? s->finish : q->end; /* it is there, though the answer may be from before */
        if (s->config.upto && !s->asked_again)
                s->status.goal = (struct stoke_end){.seq = s->config.upto};
        s->status.caught_up = follows(s) && s->position >= s->status.goal.seq;
        pthread_mutex_unlock(&s->mutex);
        if (follows(s) && s->position >= s->status.goal.seq)
                pause_for(s, FOLLOW_NS);
        if (s->status.caught_up)
                tell(s);
        go_on(s);
}

static void ask(struct stream *s) {
        s->asking = true;
        s->question.keyspace = s->keyspace;
        s->question.loop = s->config.loop;
        s->question.done = on_asked;
        datastore_ask(s->config.datastore, &s->question);
}

/* All up to the goal was read. */
static void at_goal(struct stream *s) {
        if (s->finishing && s->finish.seq <= s->position) {
                end(s, 0, NULL);
        } else if (s->config.follow) {
                ask(s);
        } else if (is_set(s->config.installation) || s->config.pinned) {
                end(s, 0, NULL);
        } else if (!s->asked_again) {
                ask(s);
        } else if (s->status.goal.seq > s->position) {
                s->scanning = true;
                s->scanned = s->position;
                submit(s);
        } else {
                end(s, 0, NULL);
        }
}

static void go_on(struct stream *s) {
        bool stop, room;

        if (s->freed || s->running || s->asking)
                return;
        pthread_mutex_lock(&s->mutex);
        stop = s->stop;
        room = s->waiting_bytes < (s->config.ahead_bytes ? s->config.ahead_bytes : AHEAD_BYTES);
        pthread_mutex_unlock(&s->mutex);
        if (stop)
                end(s, -ECANCELED, "it was stopped");
        if (s->status.ended && s->acquired)
                release(s);
        if (s->status.ended || s->timer.position || !room)
                return;
        if (!s->has_goal && is_set(s->config.installation)) {
                s->has_goal = true;
                s->begin.seq = UINT64_MAX;
                s->status.goal.seq = s->config.upto;
        }
        if (!s->has_goal)
                ask(s);
        else if (s->scanning || (s->position < s->status.goal.seq && !(s->asked_again && !s->config.follow)))
                submit(s);
        else
                at_goal(s);
        if (s->status.ended && s->acquired)
                release(s);
}

static void on_go(struct loop_task *task) {
        go_on(container_of(task, struct stream, go_task));
}

/* The consumer has made room, or wants no more. */
static void on_posted(struct loop_task *task) {
        struct stream *s = container_of(task, struct stream, post_task);

        pthread_mutex_lock(&s->mutex);
        s->posted = false;
        pthread_mutex_unlock(&s->mutex);
        if (s->freed)
                maybe_free(s);
        else
                go_on(s);
}

/* ---- what others call */

int stream_new(const struct stream_config *config, struct stream **ret) {
        const struct stoke_driver *driver = datastore_driver(config->datastore);
        struct stream *s;
        pthread_condattr_t monotonic;

        if (driver->size < offsetof(struct stoke_driver, read) + sizeof(driver->read) || !driver->read)
                return -ENOTSUP;
        if (is_set(config->installation) && !config->upto)
                return -EINVAL;
        s = new0(struct stream);
        s->config = *config;
        s->config.acquire = config->acquire && (driver->capabilities & STOKE_EXCLUSIVE);
        s->name = strdup(config->name);
        if (!s->name) {
                free(s);
                return -ENOMEM;
        }
        s->config.name = s->name;
        s->keyspace.name = s->name;
        memcpy(s->keyspace.incarnation, config->incarnation, sizeof(s->keyspace.incarnation));
        s->driver = driver;
        s->position = config->after;
        s->status.end.seq = config->after;
        s->n_most = FIRST_RECORDS;
        s->timer.on_time = on_timer;
        s->go_task.run = on_go;
        s->ready_task.run = on_ready;
        s->post_task.run = on_posted;
        pthread_mutex_init(&s->mutex, NULL);
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&s->changed, &monotonic);
        pthread_condattr_destroy(&monotonic);
        loop_defer(config->loop, &s->go_task);
        *ret = s;
        return 0;
}

void stream_free(struct stream *s) {
        bool left;

        if (!s)
                return;
        pthread_mutex_lock(&s->mutex);
        s->stop = true;
        left = !s->busy;
        pthread_mutex_unlock(&s->mutex);
        loop_timer_clear(&s->timer);
        loop_undefer(s->config.loop, &s->go_task);
        loop_undefer(s->config.loop, &s->ready_task);
        s->freed = true;
        if (left && s->acquired)
                release(s);
        maybe_free(s);
}

/* With the mutex. */
static int take(struct stream *s, struct stream_piece **ret) {
        struct stream_piece *p = s->first;

        if (!p)
                return !s->status.ended ? STREAM_WAIT : s->status.result ? s->status.result : STREAM_END;
        s->first = p->next;
        if (!s->first)
                s->newest = NULL;
        p->next = NULL;
        s->waiting_bytes -= p->bytes;
        *ret = p;
        return STREAM_PIECE;
}

int stream_next(struct stream *s, struct stream_piece **ret) {
        int r;

        *ret = NULL;
        pthread_mutex_lock(&s->mutex);
        r = take(s, ret);
        pthread_mutex_unlock(&s->mutex);
        if (r == STREAM_PIECE)
                loop_defer(s->config.loop, &s->go_task);
        return r;
}

static void post(struct stream *s) {
        if (!s->posted) {
                s->posted = true;
                s->post_task.owner = owner_get();
                loop_post(s->config.loop, &s->post_task);
        }
}

int stream_take(struct stream *s, uint64_t deadline_ns, struct stream_piece **ret) {
        struct timespec until = {
                .tv_sec = (time_t)(min_of(deadline_ns, (uint64_t)INT64_MAX) / NSEC_PER_SEC),
                .tv_nsec = (long)(min_of(deadline_ns, (uint64_t)INT64_MAX) % NSEC_PER_SEC),
        };
        int r;

        *ret = NULL;
        pthread_mutex_lock(&s->mutex);
        while ((r = take(s, ret)) == STREAM_WAIT && !s->stop)
                if (pthread_cond_timedwait(&s->changed, &s->mutex, &until) == ETIMEDOUT) {
                        r = take(s, ret);
                        break;
                }
        if (r == STREAM_WAIT && s->stop)
                r = -ECANCELED;
        if (r == STREAM_PIECE)
                post(s);
        pthread_mutex_unlock(&s->mutex);
        return r;
}

void stream_stop(struct stream *s) {
        pthread_mutex_lock(&s->mutex);
        s->stop = true;
        pthread_cond_broadcast(&s->changed);
        post(s);
        pthread_mutex_unlock(&s->mutex);
}

void stream_kick(struct stream *s) {
        if (!follows(s) || !s->status.caught_up || s->running || s->asking)
                return;
        loop_timer_clear(&s->timer);
        loop_defer(s->config.loop, &s->go_task);
}

void stream_finish(struct stream *s, const struct stoke_end *finish) {
        if (s->status.ended)
                return;
        s->finishing = true;
        s->finish = *finish;
        if (s->position > finish->seq ||
                (s->position == finish->seq && s->status.n_records && !end_equal(&s->status.end, finish))) {
                end(s, -ESTALE, "the log is not the one that was known");
                return;
        }
        pthread_mutex_lock(&s->mutex);
        s->status.caught_up = false;
        if (s->has_goal) /* it is known to be there */
                s->status.goal = *finish;
        pthread_mutex_unlock(&s->mutex);
        if (!s->running && !s->asking) {
                loop_timer_clear(&s->timer);
                loop_defer(s->config.loop, &s->go_task);
        }
}

void stream_get_status(struct stream *s, struct stream_status *ret) {
        pthread_mutex_lock(&s->mutex);
        *ret = s->status;
        pthread_mutex_unlock(&s->mutex);
}
