/*
 * A load's reading half. load_read() and what it calls run on a datastore's worker, which visits the records, checks and copies them, and
 * hands them to the loop in pieces; of a load that is applied as it comes it waits while the loop is PIECES_AHEAD behind, until
 * its deadline or until it is told to stop. The rest is the loop's side of that queue.
 */

#include "keyspace/load.h"

#include <errno.h>

#define PIECE_RECORDS 1024
#define PIECE_BYTES (256 * 1024) /* of keys */
#define PIECES_AHEAD 4
#define MAX_ROUNDS 16

static void piece_free(struct piece *p) {
        if (!p)
                return;
        for (size_t i = 0; i < p->n; i++)
                blob_unref(p->blobs[i]);
        free(p->records);
        free(p->blobs);
        arena_done(&p->arena);
        free(p);
}

static void queue_add(struct piece_queue *q, struct piece *p) {
        p->next = NULL;
        if (q->last)
                q->last->next = p;
        else
                q->first = p;
        q->last = p;
        q->n++;
}

static struct piece *queue_take(struct piece_queue *q) {
        struct piece *p = q->first;

        if (!p)
                return NULL;
        q->first = p->next;
        if (!q->first)
                q->last = NULL;
        q->n--;
        return p;
}

static void queue_clear(struct piece_queue *q) {
        struct piece *p;

        while ((p = queue_take(q)))
                piece_free(p);
}

struct load *load_new(struct keyspace *ks) {
        struct load *l = new0(struct load);
        pthread_condattr_t monotonic;

        l->ks = ks;
        pthread_mutex_init(&l->mutex, NULL);
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&l->room, &monotonic);
        pthread_condattr_destroy(&monotonic);
        return l;
}

void load_free(struct load *l) {
        if (!l)
                return;
        loop_unslice(l->ks->loop, &l->slice);
        check(!l->posted);
        queue_clear(&l->pieces);
        queue_clear(&l->handed);
        piece_free(l->filling);
        pthread_cond_destroy(&l->room);
        pthread_mutex_destroy(&l->mutex);
        free(l);
}

/* ---- the loop's side */

void load_take_pieces(struct load *l) {
        struct piece *p;

        pthread_mutex_lock(&l->mutex);
        while ((p = queue_take(&l->handed)))
                queue_add(&l->pieces, p);
        pthread_mutex_unlock(&l->mutex);
}

void load_drop_piece(struct load *l) {
        piece_free(queue_take(&l->pieces));
        l->at = 0;
        pthread_mutex_lock(&l->mutex);
        l->n_ahead--;
        pthread_cond_signal(&l->room);
        pthread_mutex_unlock(&l->mutex);
}

void load_stop(struct load *l) {
        queue_clear(&l->pieces);
        pthread_mutex_lock(&l->mutex);
        l->stop = true;
        queue_clear(&l->handed);
        pthread_cond_signal(&l->room);
        pthread_mutex_unlock(&l->mutex);
}

/* ---- on the worker */

static int visit_end(void *userdata, size_t index, const struct stoke_end *end) {
        struct load *l = userdata;

        (void)index;
        l->end_at_start = end ? end->seq : 0;
        return 0;
}

/* Gives what was filled to the loop; waits while that is behind. */
static int hand_over(struct load *l) {
        struct timespec until = {
                .tv_sec = (time_t)(l->job.deadline_ns / NSEC_PER_SEC),
                .tv_nsec = (long)(l->job.deadline_ns % NSEC_PER_SEC),
        };
        int r = 0;

        if (!l->filling)
                return 0;
        pthread_mutex_lock(&l->mutex);
        queue_add(&l->handed, steal(l->filling));
        l->n_ahead++;
        if (l->as_it_comes && !l->posted) {
                l->posted = true;
                loop_post(l->ks->loop, &l->task);
        }
        while (l->as_it_comes && l->n_ahead >= PIECES_AHEAD && !l->stop && r == 0)
                r = -pthread_cond_timedwait(&l->room, &l->mutex, &until);
        if (l->stop)
                r = -ECANCELED;
        pthread_mutex_unlock(&l->mutex);
        return r;
}

/* Room for one more record; NULL: no memory. */
static struct piece *piece_for(struct load *l) {
        struct piece *p = l->filling;

        if (!p) {
                p = l->filling = new0(struct piece);
                arena_init(&p->arena, 0);
                p->restart = l->restart;
                l->restart = false;
        }
        if (p->n == p->capacity) {
                size_t capacity = p->capacity ? p->capacity * 2 : 16;
                struct stoke_record *records = realloc(p->records, capacity * sizeof(*records));
                struct blob **blobs;

                if (!records)
                        return NULL;
                p->records = records;
                blobs = realloc(p->blobs, capacity * sizeof(struct blob *));
                if (!blobs)
                        return NULL;
                p->blobs = blobs;
                p->capacity = capacity;
        }
        return p;
}

/* Counts what is kept until the driver is done; false: with that there would be more than there is room for. */
static bool keeps(struct load *l, size_t bytes) {
        struct memory_figures f;

        l->n_bytes += bytes;
        if (l->n_bytes / MEMORY_STEP == (l->n_bytes - bytes) / MEMORY_STEP)
                return true;
        memory_get_figures(l->ks->config.memory, &f);
        l->no_room = f.max_bytes && f.state_bytes + l->n_bytes > f.max_bytes;
        return !l->no_room;
}

static int visit_record(void *userdata, const struct stoke_record *record) {
        struct load *l = userdata;
        struct stoke_record *r;
        struct piece *p;

        if (l->after.seq == 0 && record->kind == RECORD_MARK && l->end_at_start && record->seq > l->end_at_start) {
                l->again = true;
                return 1;
        }
        if (record->value_size > UINT32_MAX || record->key_size > UINT32_MAX) {
                (void)snprintf(
                        l->damage, sizeof(l->damage), "record %llu is too large", (unsigned long long)record->seq);
                return 1;
        }
        p = piece_for(l);
        if (!p)
                return -ENOMEM;
        r = &p->records[p->n];
        *r = *record;
        r->key = arena_copy(&p->arena, record->key, record->key_size);
        if (!r->key)
                return -ENOMEM;
        p->blobs[p->n] = NULL;
        if (record->value || record->value_size == 0) {
                if (record_hash(record) != record->hash) {
                        (void)snprintf(l->damage, sizeof(l->damage), "record %llu does not have its hash",
                                (unsigned long long)record->seq);
                        return 1;
                }
                if (l->with_values && record->kind == RECORD_PUT) {
                        p->blobs[p->n] = blob_copy(record->value, record->value_size);
                        if (!p->blobs[p->n])
                                return -ENOMEM;
                }
        }
        r->value = NULL;
        p->n++;
        if (!l->as_it_comes && !keeps(l, sizeof(*r) + r->key_size + (p->blobs[p->n - 1] ? r->value_size : 0)))
                return 1;
        return p->n == PIECE_RECORDS || p->arena.total >= PIECE_BYTES ? hand_over(l) : 0;
}

/* What was visited is void. */
static void begin_again(struct load *l) {
        piece_free(steal(l->filling));
        if (!l->as_it_comes)
                queue_clear(&l->handed);
        l->restart = true;
        l->again = false;
        l->end_at_start = 0;
        l->n_bytes = 0;
}

int load_read(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct load *l = container_of(job, struct load, job);
        const struct stoke_driver *driver = datastore_driver(job->ds);
        int r;

        if (l->acquire && !l->acquired) {
                r = driver->acquire(session, &l->name, call);
                if (r != 0)
                        return r;
                l->acquired = true;
        }
        if (l->anew && driver->size >= offsetof(struct stoke_driver, server_limits) + sizeof(driver->server_limits) &&
                driver->server_limits) {
                r = driver->server_limits(session, &l->name, call, &l->limits);
                if (r != 0)
                        return r;
        }
        for (unsigned round = 0; round < MAX_ROUNDS; round++) {
                begin_again(l);
                if (l->after.seq == 0 && !(driver->capabilities & STOKE_EXCLUSIVE)) {
                        r = driver->ends(session, &l->name, 1, call, visit_end, l);
                        if (r != 0)
                                return r;
                        if (!l->end_at_start)
                                return STOKE_MISSING;
                }
                r = driver->load(session, &l->name, &l->after, l->with_values, call, visit_record, l, &l->end);
                if (r == 0)
                        r = hand_over(l);
                if (l->no_room) {
                        (void)snprintf(call->reason, call->reason_size,
                                "no memory for what others have appended (setting: memory)");
                        return -EAGAIN;
                }
                if (r != STOKE_STOPPED || !l->again)
                        return r;
        }
        (void)snprintf(
                call->reason, call->reason_size, "the log was compacted while it was read, %d times", MAX_ROUNDS);
        return -EAGAIN;
}
