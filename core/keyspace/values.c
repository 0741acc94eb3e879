#include "keyspace/values.h"

#include <errno.h>
#include <sys/queue.h>

#include "keyspace/state.h"

/* Values looked at to make room for one, and in a slice. */
#define SHRINK_STEPS 64
#define SHRINK_SLICE 1024

struct cached_value {
        UT_hash_handle hh;
        TAILQ_ENTRY(cached_value) link; /* the clock's circle */
        struct values *values;
        struct key_entry *entry; /* whose `cached` this is; or NULL */
        struct blob *blob;       /* a reference */
        uint64_t seq;
        bool used;
};

struct value_cache {
        size_t bytes, max_bytes, n_values;
        uint64_t n_hits, n_misses;
        TAILQ_HEAD(, cached_value) clock; /* the hand is at its head */
        struct memory_cache memory;
        struct loop_task slice; /* of making room for others */
};

static void on_told(struct loop_task *task);
static void on_slice(struct loop_task *task);

struct value_cache *value_cache_new(size_t max_bytes, struct memory *memory, struct loop *loop) {
        struct value_cache *c = new0(struct value_cache);

        c->max_bytes = max_bytes;
        TAILQ_INIT(&c->clock);
        c->memory.task.run = on_told;
        c->slice.run = on_slice;
        memory_cache_add(memory, loop, &c->memory);
        return c;
}

void value_cache_free(struct value_cache *c) {
        if (!c)
                return;
        check(TAILQ_EMPTY(&c->clock));
        if (c->memory.memory)
                loop_unslice(c->memory.loop, &c->slice);
        memory_cache_remove(&c->memory);
        free(c);
}

void value_cache_get_figures(const struct value_cache *c, struct value_cache_figures *ret) {
        *ret = (struct value_cache_figures){
                .bytes = c->bytes,
                .max_bytes = c->max_bytes,
                .n_values = c->n_values,
                .n_hits = c->n_hits,
                .n_misses = c->n_misses,
        };
}

static size_t cost(const struct blob *blob) {
        return sizeof(struct cached_value) + sizeof(*blob) + blob->size + 32; /* malloc's own, the table's slot */
}

static void evict(struct cached_value *v) {
        struct value_cache *c = v->values->cache;

        if (v->entry)
                v->entry->cached = NULL;
        HASH_DEL(v->values->table, v);
        TAILQ_REMOVE(&c->clock, v, link);
        c->bytes -= cost(v->blob);
        c->n_values--;
        memory_cache_set(&c->memory, c->bytes);
        blob_unref(v->blob);
        free(v);
}

/* Makes room for so many more below the limit, in n steps at most; true: done. */
static bool shrink(struct value_cache *c, size_t bytes, size_t limit, size_t n) {
        struct cached_value *v;

        while (c->bytes + bytes > limit && (v = TAILQ_FIRST(&c->clock))) {
                if (n-- == 0)
                        return false;
                if (v->used) {
                        v->used = false;
                        TAILQ_REMOVE(&c->clock, v, link);
                        TAILQ_INSERT_TAIL(&c->clock, v, link);
                } else
                        evict(v);
        }
        return true;
}

/* What the budget leaves is come down to by and by, the cache's own size at once. */
static void make_room(struct value_cache *c, size_t bytes) {
        (void)shrink(c, bytes, memory_cache_most(&c->memory), SHRINK_STEPS);
        (void)shrink(c, bytes, c->max_bytes, SIZE_MAX);
}

static void on_slice(struct loop_task *task) {
        struct value_cache *c = container_of(task, struct value_cache, slice);

        if (!shrink(c, 0, memory_cache_most(&c->memory), SHRINK_SLICE))
                loop_slice(c->memory.loop, task);
}

/* Keyspaces need what values have. */
static void on_told(struct loop_task *task) {
        struct value_cache *c = container_of(task, struct value_cache, memory.task);

        memory_cache_told(&c->memory);
        loop_slice(c->memory.loop, &c->slice);
}

void values_init(struct values *values, struct value_cache *cache) {
        *values = (struct values){.cache = cache};
}

void values_done(struct values *values) {
        struct cached_value *v, *next;

        HASH_ITER(hh, values->table, v, next)
                evict(v);
}

static struct cached_value *find(struct values *values, uint64_t seq) {
        struct cached_value *v;

        HASH_FIND(hh, values->table, &seq, sizeof(seq), v);
        return v;
}

struct blob *values_get(struct values *values, uint64_t seq) {
        struct cached_value *v = find(values, seq);

        if (!v) {
                values->cache->n_misses++;
                return NULL;
        }
        values->cache->n_hits++;
        v->used = true;
        return blob_ref(v->blob);
}

struct blob *values_get_last(struct values *values, struct key_entry *entry) {
        struct cached_value *v = entry->cached;

        if (!v) {
                v = find(values, entry->last.seq);
                if (!v) {
                        values->cache->n_misses++;
                        return NULL;
                }
                v->entry = entry;
                entry->cached = v;
        }
        values->cache->n_hits++;
        v->used = true;
        return blob_ref(v->blob);
}

void values_unlink(struct key_entry *entry) {
        if (!entry->cached)
                return;
        entry->cached->entry = NULL;
        entry->cached = NULL;
}

void values_unlink_all(struct values *values) {
        struct cached_value *v, *next;

        HASH_ITER(hh, values->table, v, next)
                if (v->entry)
                        values_unlink(v->entry);
}

void values_put(struct values *values, uint64_t seq, struct blob *blob) {
        struct value_cache *c = values->cache;
        struct cached_value *v;

        if (cost(blob) > min_of(c->max_bytes, memory_cache_most(&c->memory)) || find(values, seq))
                return;
        make_room(c, cost(blob));
        v = new0(struct cached_value);
        v->values = values;
        v->seq = seq;
        v->blob = blob_ref(blob);
        HASH_ADD(hh, values->table, seq, sizeof(v->seq), v);
        TAILQ_INSERT_TAIL(&c->clock, v, link);
        c->bytes += cost(blob);
        c->n_values++;
        memory_cache_set(&c->memory, c->bytes);
}

void values_drop(struct values *values, uint64_t seq) {
        struct cached_value *v = find(values, seq);

        if (v)
                evict(v);
}

bool values_drop_some(struct values *values, size_t n) {
        struct cached_value *v, *next;

        HASH_ITER(hh, values->table, v, next) {
                if (n-- == 0)
                        return false;
                evict(v);
        }
        return true;
}

/* One question to the datastore. Its blobs are made on the worker's thread and handed over with the job. */
#define FETCH_PIECE 1024
struct fetch_job {
        struct datastore_job job;
        struct keyspace *ks;
        struct fetch *fetch; /* NULL: nobody waits any more */
        struct stoke_keyspace name;
        size_t first, n, n_visited; /* of seqs */
        struct blob *blobs[FETCH_PIECE];
        uint64_t seqs[FETCH_PIECE];
};

void fetch_add(struct fetch *f, uint64_t seq) {
        check(!f->job);
        if (f->n == f->capacity) {
                f->capacity = f->capacity ? f->capacity * 2 : 16;
                f->seqs = realloc(f->seqs, f->capacity * sizeof(*f->seqs));
                check(f->seqs);
        }
        f->seqs[f->n++] = seq;
}

static int visit_value(void *userdata, uint64_t seq, const void *data, size_t size) {
        struct fetch_job *j = userdata;

        if (j->n_visited >= j->n || j->seqs[j->n_visited] != seq)
                return -EPROTO;
        if (data) {
                j->blobs[j->n_visited] = blob_copy(data, size);
                if (!j->blobs[j->n_visited])
                        return -ENOMEM;
        }
        j->n_visited++;
        return 0;
}

static int fetch_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct fetch_job *j = container_of(job, struct fetch_job, job);
        int r;

        r = datastore_driver(job->ds)->values(session, &j->name, j->seqs, j->n, call, visit_value, j);
        if (r == STOKE_STOPPED || (r == 0 && j->n_visited != j->n))
                return -EPROTO;
        return r;
}

static void fetch_submit(struct fetch_job *j) {
        struct fetch *f = j->fetch;

        if (f) { /* else nobody waits any more: as it was */
                j->n = min_of(f->n - j->first, (size_t)FETCH_PIECE);
                memcpy(j->seqs, &f->seqs[j->first], j->n * sizeof(*j->seqs));
        }
        j->n_visited = 0;
        j->name = keyspace_stoke(j->ks);
        j->job.for_keyspace = j->name.name; /* not among its jobs: nobody waits for an append to read a value */
        memset(j->blobs, 0, sizeof(j->blobs));
        keyspace_submit(j->ks, &j->job);
}

void fetch_job_go_on(struct datastore_job *job) {
        fetch_submit(container_of(job, struct fetch_job, job));
}

static void fetch_on_done(struct datastore_job *job) {
        struct fetch_job *j = container_of(job, struct fetch_job, job);
        struct keyspace *ks = j->ks;
        struct fetch *f = j->fetch;
        int r = job->result;

        keyspace_job_ended(ks);
        if (r != 0 && f && (ks->moving.phase != SWITCH_NONE || job->ds != ks->datastore) && !ks->closing) {
                for (size_t i = 0; i < j->n; i++)
                        blob_unref(j->blobs[i]);
                fetch_submit(j); /* it is at the target, too */
                return;
        }
        for (size_t i = 0; i < j->n; i++) {
                if (!j->blobs[i])
                        continue;
                if (r == 0)
                        values_put(&ks->values, j->seqs[i], j->blobs[i]);
                if (r == 0 && f)
                        f->blobs[j->first + i] = j->blobs[i];
                else
                        blob_unref(j->blobs[i]);
        }
        if (f && r == 0 && j->first + j->n < f->n) {
                j->first += j->n;
                fetch_submit(j);
                return;
        }
        free(j);
        if (f) {
                f->job = NULL;
                f->done(f, r);
        }
        keyspace_check_closed(ks);
}

static int compare_seqs(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

void fetch_start(struct keyspace *ks, struct fetch *f, uint64_t deadline_ns) {
        struct fetch_job *j;
        size_t n = 0;

        check(f->n && !f->job && !f->blobs);
        qsort(f->seqs, f->n, sizeof(*f->seqs), compare_seqs);
        for (size_t i = 0; i < f->n; i++)
                if (n == 0 || f->seqs[i] != f->seqs[n - 1])
                        f->seqs[n++] = f->seqs[i];
        f->n = n;
        f->blobs = xcalloc(n, sizeof(*f->blobs));

        j = new0(struct fetch_job);
        j->ks = ks;
        j->fetch = f;
        j->name = keyspace_stoke(ks);
        j->job.class = JOB_READ;
        j->job.deadline_ns = keyspace_job_deadline(deadline_ns);
        j->job.run = fetch_run;
        j->job.done = fetch_on_done;
        f->job = j;
        fetch_submit(j);
}

struct blob *fetch_get(const struct fetch *f, uint64_t seq) {
        const uint64_t *p;

        if (!f->blobs || f->job)
                return NULL;
        p = bsearch(&seq, f->seqs, f->n, sizeof(seq), compare_seqs);
        return p && f->blobs[p - f->seqs] ? blob_ref(f->blobs[p - f->seqs]) : NULL;
}

void fetch_done(struct fetch *f) {
        if (f->job)
                f->job->fetch = NULL;
        for (size_t i = 0; f->blobs && i < f->n; i++)
                blob_unref(f->blobs[i]);
        free(f->blobs);
        free(f->seqs);
        *f = (struct fetch){.done = f->done};
}
