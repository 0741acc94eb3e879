#include "snapshot/save.h"

#include <pthread.h>
#include <string.h>

#include "base/owner.h"
#include "base/thread.h"
#include "rpc/digest.h"
#include "snapshot/write.h"

#define AHEAD_BYTES ((size_t)1024 * 1024)
#define MAX_ROUNDS 8 /* of the first pass, while compactions go on */

struct piece_made {
        struct piece_made *next;
        struct blob *blob; /* owned */
};

struct snapshot_save {
        struct snapshot_save_config config;
        struct lease_left *left; /* owned: config.plan's */
        char *name;              /* owned: config.source's */
        uint32_t owner;          /* base/owner.h: on whose behalf */
        pthread_t thread;

        /* The thread's. */
        struct blob *filling; /* owned */
        uint64_t n_bytes;     /* written */
        struct error err;

        /* Both's. */
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        struct stream *stream;    /* owned by the loop; the thread's to take from while it is there */
        bool wanted, with_values; /* the thread waits for a stream, up to: */
        uint64_t upto;
        int refused;                     /* negative errno: there will be none */
        struct piece_made *first, *last; /* owned */
        size_t n_ahead;                  /* bytes in them */
        struct snapshot_figures figures;
        bool stop, ended;
        int result;
        char reason[512];
        struct loop_task ready_task, stream_task;
        bool ready_posted, stream_posted;
        bool freed;
};

/* ---- on the thread */

/* Posts with the mutex held, once until it has run. */
static void post(struct snapshot_save *s, struct loop_task *task, bool *posted) {
        if (!*posted)
                loop_post(s->config.source.loop, task);
        *posted = true;
}

/* Waits until the taker has room. */
static int hand_over(struct snapshot_save *s) {
        struct piece_made *p;
        bool stop;

        if (!s->filling || !s->filling->size)
                return 0;
        p = new0(struct piece_made);
        p->blob = steal(s->filling);
        pthread_mutex_lock(&s->mutex);
        while (!s->stop && s->n_ahead && s->n_ahead + p->blob->size > s->config.ahead_bytes)
                pthread_cond_wait(&s->changed, &s->mutex);
        stop = s->stop;
        if (!stop) {
                s->n_ahead += p->blob->size;
                if (s->last)
                        s->last->next = p;
                else
                        s->first = p;
                s->last = p;
                post(s, &s->ready_task, &s->ready_posted);
        }
        pthread_mutex_unlock(&s->mutex);
        if (!stop)
                return 0;
        blob_unref(p->blob);
        free(p);
        return -ECANCELED;
}

static int write_piece(void *userdata, const void *data, size_t size, struct error *reterr) {
        struct snapshot_save *s = userdata;
        const uint8_t *from = data;

        /* The checksum goes alone, as etcd sends it. */
        if (s->n_bytes == s->figures.bytes - DIGEST_SIZE && hand_over(s) < 0)
                return error_set(reterr, -ECANCELED, "stopped");
        s->n_bytes += size;
        while (size > 0) {
                size_t n;

                if (!s->filling) {
                        s->filling = blob_new(SNAPSHOT_PIECE);
                        if (!s->filling)
                                return error_set(reterr, -ENOMEM, "no memory for the snapshot's next bytes");
                        s->filling->size = 0;
                }
                n = min_of(size, (size_t)SNAPSHOT_PIECE - s->filling->size);
                memcpy(s->filling->data + s->filling->size, from, n);
                s->filling->size += (uint32_t)n;
                from += n;
                size -= n;
                if (s->filling->size == SNAPSHOT_PIECE && hand_over(s) < 0)
                        return error_set(reterr, -ECANCELED, "stopped");
        }
        return 0;
}

/* The loop opens the stream of a pass, in place of the last one. */
static int open_stream(struct snapshot_save *s, bool with_values, uint64_t upto, struct stream **ret) {
        int r;

        pthread_mutex_lock(&s->mutex);
        s->wanted = true;
        s->with_values = with_values;
        s->upto = upto;
        post(s, &s->stream_task, &s->stream_posted);
        while (s->wanted && !s->stop)
                pthread_cond_wait(&s->changed, &s->mutex);
        r = s->stop ? -ECANCELED : s->refused;
        *ret = s->stream;
        pthread_mutex_unlock(&s->mutex);
        if (r < 0)
                return error_set(&s->err, r, "the log cannot be read");
        return 0;
}

/* 1: a piece; 0: the end. */
static int take(struct snapshot_save *s, struct stream *stream, struct stream_piece **ret) {
        struct stream_status status;
        int r = stream_take(stream, UINT64_MAX, ret);

        if (r == STREAM_PIECE)
                return 1;
        if (r == STREAM_END)
                return 0;
        stream_get_status(stream, &status);
        return error_set(&s->err, r < 0 ? r : -EIO, "%s", status.reason);
}

static int first_pass(struct snapshot_save *s, struct snapshot_plan *plan) {
        struct stream *stream;
        int r = open_stream(s, false, 0, &stream);

        while (r >= 0) {
                cleanup(stream_piece_freep) struct stream_piece *piece = NULL;

                r = take(s, stream, &piece);
                if (r == 0)
                        return snapshot_plan_finish(plan, &s->err);
                for (size_t i = 0; r > 0 && i < piece->n; i++)
                        if (snapshot_plan_add(plan, &piece->records[i], &s->err) < 0)
                                r = s->err.code;
        }
        return r;
}

static int second_pass(struct snapshot_save *s, struct snapshot_plan *plan) {
        struct snapshot_output output = {write_piece, s};
        cleanup(snapshot_writer_freep) struct snapshot_writer *writer = NULL;
        struct stream *stream;
        int r = open_stream(s, true, s->figures.end.seq, &stream);

        if (r >= 0)
                r = snapshot_writer_new(plan, &output, &writer, &s->err);
        while (r >= 0) {
                cleanup(stream_piece_freep) struct stream_piece *piece = NULL;

                r = take(s, stream, &piece);
                if (r == 0)
                        break;
                for (size_t i = 0; r > 0 && i < piece->n; i++)
                        if (snapshot_writer_add(writer, &piece->records[i], &s->err) < 0)
                                r = s->err.code;
        }
        if (r >= 0)
                r = snapshot_writer_finish(writer, &s->err);
        return r < 0 ? r : hand_over(s);
}

static int make(struct snapshot_save *s) {
        cleanup(snapshot_plan_freep) struct snapshot_plan *plan = NULL;
        int r = snapshot_plan_new(&s->config.plan, &plan);

        for (unsigned round = 0; r >= 0 && round < MAX_ROUNDS; round++) {
                r = first_pass(s, plan);
                if (r == SNAPSHOT_DONE)
                        break;
                if (r == -EAGAIN || r == -ESTALE) { /* others compact */
                        if (round + 1 == MAX_ROUNDS)
                                break;
                        error_done(&s->err);
                        s->err = (struct error){};
                        snapshot_plan_restart(plan);
                        r = SNAPSHOT_AGAIN;
                }
        }
        if (r == SNAPSHOT_AGAIN)
                return error_set(&s->err, -EAGAIN, "the log was compacted while it was read, %d times", MAX_ROUNDS);
        if (r < 0)
                return r;
        pthread_mutex_lock(&s->mutex);
        snapshot_plan_get(plan, &s->figures);
        pthread_mutex_unlock(&s->mutex);
        return second_pass(s, plan);
}

static void *run(void *userdata) {
        struct snapshot_save *s = userdata;
        int r;

        owner_set(s->owner);
        r = make(s);
        pthread_mutex_lock(&s->mutex);
        s->ended = true;
        s->result = r < 0 ? r : 0;
        snprintf(s->reason, sizeof(s->reason), "%s", r < 0 && s->err.text ? s->err.text : r < 0 ? strerror(-r) : "");
        if (!s->stop)
                post(s, &s->ready_task, &s->ready_posted);
        pthread_mutex_unlock(&s->mutex);
        error_done(&s->err);
        return NULL;
}

/* ---- on the loop */

static void release(struct snapshot_save *s) {
        struct piece_made *p;

        if (s->ready_posted || s->stream_posted)
                return; /* the task that comes last does it */
        while ((p = s->first)) {
                s->first = p->next;
                blob_unref(p->blob);
                free(p);
        }
        blob_unref(s->filling);
        pthread_cond_destroy(&s->changed);
        pthread_mutex_destroy(&s->mutex);
        free(s->left);
        free(s->name);
        free(s);
}

static void on_stream_wanted(struct loop_task *task) {
        struct snapshot_save *s = container_of(task, struct snapshot_save, stream_task);
        struct stream_config config = s->config.source;
        struct stream *before, *stream = NULL;
        int r;

        pthread_mutex_lock(&s->mutex);
        s->stream_posted = false;
        before = steal(s->stream); /* the thread waits for the next: it has left this one */
        config.with_values = s->with_values;
        config.upto = s->upto;
        pthread_mutex_unlock(&s->mutex);
        stream_free(before);
        if (s->freed) {
                release(s);
                return;
        }
        r = stream_new(&config, &stream);
        pthread_mutex_lock(&s->mutex);
        s->stream = stream;
        s->refused = r;
        s->wanted = false;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->mutex);
}

static void on_made(struct loop_task *task) {
        struct snapshot_save *s = container_of(task, struct snapshot_save, ready_task);

        pthread_mutex_lock(&s->mutex);
        s->ready_posted = false;
        pthread_mutex_unlock(&s->mutex);
        if (s->freed)
                release(s);
        else if (s->config.on_ready)
                s->config.on_ready(s->config.userdata);
}

int snapshot_save_new(const struct snapshot_save_config *config, struct snapshot_save **ret) {
        struct snapshot_save *s = new0(struct snapshot_save);
        size_t size = config->plan.n_left * sizeof(*config->plan.left);
        int r;

        s->config = *config;
        s->config.ahead_bytes = config->ahead_bytes ? config->ahead_bytes : AHEAD_BYTES;
        s->config.source.name = s->name = strdup(config->source.name);
        check(s->name);
        s->config.source.on_ready = NULL;
        s->config.source.after = 0;
        s->config.source.follow = false;
        s->config.plan.left = s->left = xcalloc(1, size);
        if (size)
                memcpy(s->left, config->plan.left, size);
        s->owner = owner_get();
        pthread_mutex_init(&s->mutex, NULL);
        pthread_cond_init(&s->changed, NULL);
        s->ready_task = (struct loop_task){.run = on_made, .owner = s->owner};
        s->stream_task = (struct loop_task){.run = on_stream_wanted, .owner = s->owner};
        r = thread_start(&s->thread, "snapshot", run, s);
        if (r < 0) {
                release(s);
                return r;
        }
        *ret = s;
        return 0;
}

void snapshot_save_free(struct snapshot_save *s) {
        struct stream *stream;

        if (!s)
                return;
        pthread_mutex_lock(&s->mutex);
        s->stop = true;
        stream = s->stream;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->mutex);
        if (stream)
                stream_stop(stream);
        pthread_join(s->thread, NULL);
        stream_free(steal(s->stream));
        s->freed = true;
        release(s);
}

int snapshot_save_next(struct snapshot_save *s, struct blob **ret) {
        struct piece_made *p;
        int r;

        pthread_mutex_lock(&s->mutex);
        p = s->first;
        if (p) {
                s->first = p->next;
                if (!s->first)
                        s->last = NULL;
                s->n_ahead -= p->blob->size;
                pthread_cond_broadcast(&s->changed);
                r = SAVE_PIECE;
        } else
                r = !s->ended ? SAVE_WAIT : s->result < 0 ? s->result : SAVE_END;
        pthread_mutex_unlock(&s->mutex);
        if (p) {
                *ret = p->blob;
                free(p);
        }
        return r;
}

const struct snapshot_figures *snapshot_save_figures(const struct snapshot_save *s) {
        return &s->figures;
}

const char *snapshot_save_reason(const struct snapshot_save *s) {
        return s->reason;
}
