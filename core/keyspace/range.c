/*
 * Range and RangeStream: a walk over the index at one revision, in slices, so that neither memory nor the loop is held up by
 * a long list. A slice is collected, its values are brought from the cache or the datastore, and it is handed on; then
 * the loop serves others before the next. The keyspace's loop only.
 */

#include "keyspace/range.h"

#include <errno.h>

#include "base/log.h"

#define SLICE_KEYS 512
#define SLICE_BYTES (512 * 1024)
#define SLICE_LOOKED 16384 /* entries, wanted or not */

/* A range that was not answered in one go. */
struct range_state {
        struct range_call *call;
        struct keyspace *ks;
        struct arena arena; /* keys of this slice, or of all of a sorted range */
        int64_t revision;
        struct bytes next; /* where the next slice begins */
        uint64_t n_emitted;
        bool at_end, paused, is_sorted, waiting, fetching;
        struct kv kvs[SLICE_KEYS];
        uint64_t seqs[SLICE_KEYS];
        size_t n_kvs;
        struct range_selection sorted;
        size_t n_sorted_emitted;
        struct fetch fetch;
        struct loop_timer timer;
};

/* ---- counting */

static size_t count_now(const struct index *index, const struct key_range *range) {
        const struct key_entry *e;
        size_t from, to;

        if (range_is_single(range)) {
                e = index_find(index, range->key);
                return e && e->alive;
        }
        from = index_rank(index, range->key);
        to = range_is_endless(range) ? index->n_alive : index_rank(index, range->end);
        return to > from ? to - from : 0;
}

static bool alive_at(const struct key_entry *e, int64_t revision) {
        const struct key_version *v = key_entry_at(e, revision);

        return v && v->version;
}

/* The keys alive in the range at a revision: what is alive now, corrected by what has happened since. */
size_t range_count(struct keyspace *ks, const struct key_range *range, int64_t revision) {
        size_t n = count_now(&ks->index, range), first, n_walked = 0;
        const struct history *h = &ks->history;
        struct index_cursor cursor;
        struct key_entry *e;

        if (revision >= ks->revision)
                return n;
        first = history_find(h, revision + 1);
        if (h->n - first <= n * 2 + 64) {
                for (size_t i = first; i < h->n; i++) {
                        struct history_item *item = history_at(h, i);

                        e = item->entry;
                        if (item->seq != e->last.seq || !range_has(range, key_entry_key(e)))
                                continue;
                        n += (size_t)alive_at(e, revision) - (size_t)e->alive;
                }
                return n;
        }

        index_seek(&ks->index, range->key, &cursor);
        while ((e = index_next(&cursor)) && !range_ends_before(range, key_entry_key(e)))
                n_walked += alive_at(e, revision);
        return n_walked;
}

/* ---- slices */

static void step(struct range_state *s);

static void slice_clear(struct range_state *s) {
        for (size_t i = 0; i < s->n_kvs; i++)
                blob_unref(s->kvs[i].value);
        s->n_kvs = 0;
}

static void state_free(struct range_state *s) {
        if (!s)
                return;
        loop_timer_clear(&s->timer);
        slice_clear(s);
        fetch_done(&s->fetch);
        range_selection_done(&s->sorted);
        arena_done(&s->arena);
        free(s);
}

static void forget(struct keyspace_call *call) {
        struct range_call *c = container_of(call, struct range_call, call);

        state_free(c->own.state);
        c->own.state = NULL;
}

static void on_fetched(struct fetch *fetch, int result) {
        struct range_state *s = container_of(fetch, struct range_state, fetch);
        struct keyspace_call *call = &s->call->call;

        s->fetching = false;
        if (result != 0) {
                keyspace_call_end(call, result == -ETIMEDOUT ? KEYSPACE_TIMEOUT : KEYSPACE_UNAVAILABLE);
                return;
        }
        step(s);
}

static void on_time(struct loop_timer *timer) {
        step(container_of(timer, struct range_state, timer));
}

/* Lets others have the loop first. */
static void later(struct range_state *s) {
        loop_timer_set(s->ks->loop, &s->timer, loop_now_ns(s->ks->loop) + 1);
}

static void kv_set(struct kv *kv, struct bytes key, const struct key_version *v) {
        *kv = (struct kv){
                .key = key,
                .create_revision = v->create_revision,
                .mod_revision = v->mod_revision,
                .version = v->version,
                .lease = v->lease,
                .value_size = v->value_size,
        };
}

/* Collects the next slice. Its keys are the index's own, good as long as nothing else runs. */
static void collect(struct range_state *s) {
        const struct range_request *r = &s->call->request;
        const struct key_version *v;
        struct index_cursor cursor;
        struct key_entry *e;
        size_t bytes = 0, n_looked = 0;

        index_seek(&s->ks->index, s->next, &cursor);
        for (;;) {
                e = index_next(&cursor);
                if (!e || range_ends_before(&r->range, key_entry_key(e))) {
                        s->at_end = true;
                        return;
                }
                if (++n_looked > SLICE_LOOKED) {
                        s->next = key_entry_key(e);
                        return;
                }
                v = key_entry_at(e, s->revision);
                if (!v || !v->version || !range_request_passes(r, v))
                        continue;
                if (r->limit > 0 && s->n_emitted + s->n_kvs == (uint64_t)r->limit) {
                        s->call->more = true;
                        s->at_end = true;
                        return;
                }
                if (s->n_kvs == SLICE_KEYS || bytes > SLICE_BYTES) {
                        s->next = key_entry_key(e); /* made lasting by whoever waits */
                        return;
                }
                kv_set(&s->kvs[s->n_kvs], key_entry_key(e), v);
                if (v == &e->last && !r->keys_only)
                        s->kvs[s->n_kvs].value = values_get_last(&s->ks->values, e);
                s->seqs[s->n_kvs++] = v->seq;
                bytes += v->value_size + e->key_size;
                if (range_is_single(&r->range)) {
                        s->at_end = true;
                        return;
                }
        }
}

static void collect_sorted(struct range_state *s) {
        while (s->n_kvs < SLICE_KEYS && s->n_sorted_emitted < s->sorted.n_items) {
                struct range_item *item = &s->sorted.items[s->n_sorted_emitted++];

                kv_set(&s->kvs[s->n_kvs], item->key, &item->version);
                s->kvs[s->n_kvs].value = s->call->request.keys_only ? NULL : steal(item->value);
                s->seqs[s->n_kvs++] = item->version.seq;
        }
        s->at_end = s->n_sorted_emitted == s->sorted.n_items;
}

static void on_caught_up(struct keyspace_call *call, enum keyspace_result result) {
        struct range_call *c = container_of(call, struct range_call, call);

        (void)result;
        call_list_add(&call->own.keyspace->ranging, call);
        step(c->own.state);
}

/* Values that were asked for are not there: compacted meanwhile, perhaps by another daemon, which the index will know
 * after a barrier; or lost. */
static void catch_up(struct range_state *s, size_t n_missing) {
        struct keyspace_call *call = &s->call->call;

        fetch_done(&s->fetch);
        if (call->own.reread) {
                log_error("%s: values of %zu records are not in the datastore", s->ks->name, n_missing);
                keyspace_call_end(call, KEYSPACE_LOST);
                return;
        }
        call->own.reread = true;
        call->own.fresh = false;
        call->own.resume = on_caught_up;
        keyspace_call_unlink(call);
        barrier_wait(s->ks, call);
}

/* Brings the slice's values. False: they are on their way. */
static bool bring_values(struct range_state *s) {
        size_t n_missing = 0;

        if (s->call->request.keys_only)
                return true;
        for (size_t i = 0; i < s->n_kvs; i++) {
                if (s->kvs[i].value)
                        continue;
                s->kvs[i].value = s->fetch.blobs ? fetch_get(&s->fetch, s->seqs[i]) : NULL;
                if (!s->kvs[i].value)
                        s->kvs[i].value = values_get(&s->ks->values, s->seqs[i]);
                if (s->kvs[i].value)
                        continue;
                if (s->fetch.blobs) {
                        n_missing++;
                        continue;
                }
                fetch_add(&s->fetch, s->seqs[i]);
                n_missing++;
        }
        if (!n_missing) {
                fetch_done(&s->fetch);
                return true;
        }
        if (s->fetch.blobs) {
                catch_up(s, n_missing);
                return false;
        }
        s->fetch.done = on_fetched;
        s->fetching = true;
        fetch_start(s->ks, &s->fetch, s->call->call.deadline_ns);
        return false;
}

/* Keys outlive the index's entries from here on. */
static void keep_keys(struct range_state *s) {
        if (s->is_sorted)
                return;
        for (size_t i = 0; i < s->n_kvs; i++) {
                void *copy = arena_copy(&s->arena, s->kvs[i].key.data, s->kvs[i].key.size);

                check(copy);
                s->kvs[i].key.data = copy;
        }
        if (!s->at_end) {
                void *copy = arena_copy(&s->arena, s->next.data, s->next.size);

                check(copy);
                s->next.data = copy;
        }
}

static int sort(struct range_state *s) {
        const struct range_request *r = &s->call->request;
        const struct key_version *v;
        struct index_cursor cursor;
        struct key_entry *e;
        size_t n_missing = 0;
        int result;

        if (!s->sorted.request) {
                range_selection_init(&s->sorted, r);
                index_seek(&s->ks->index, r->range.key, &cursor);
                while ((e = index_next(&cursor)) && !range_ends_before(&r->range, key_entry_key(e))) {
                        v = key_entry_at(e, s->revision);
                        if (!v || !v->version)
                                continue;
                        result = range_selection_add(&s->sorted, key_entry_key(e), v);
                        if (result < 0)
                                return result;
                }
                for (size_t i = 0; i < s->sorted.n_items; i++) {
                        struct bytes *key = &s->sorted.items[i].key;

                        key->data = arena_copy(&s->arena, key->data, key->size);
                        if (!key->data)
                                return -ENOMEM;
                }
        }
        if (r->sort_target == SORT_VALUE) {
                for (size_t i = 0; i < s->sorted.n_items; i++) {
                        struct range_item *item = &s->sorted.items[i];

                        if (!item->value)
                                item->value = s->fetch.blobs ? fetch_get(&s->fetch, item->version.seq)
                                                             : values_get(&s->ks->values, item->version.seq);
                        if (!item->value && !s->fetch.blobs)
                                fetch_add(&s->fetch, item->version.seq);
                        n_missing += !item->value;
                }
                if (n_missing && s->fetch.blobs) {
                        catch_up(s, n_missing);
                        return -EINPROGRESS;
                }
                if (n_missing) {
                        s->fetch.done = on_fetched;
                        s->fetching = true;
                        fetch_start(s->ks, &s->fetch, s->call->call.deadline_ns);
                        return -EINPROGRESS;
                }
                fetch_done(&s->fetch);
        }
        range_selection_finish(&s->sorted);
        s->is_sorted = true;
        s->call->more = s->sorted.more;
        return 0;
}

/* Goes on with whatever is next, until the range is done or something must be waited for. */
static void step(struct range_state *s) {
        struct range_call *c = s->call;
        struct keyspace_call *call = &c->call;
        bool go_on;
        int r;

        if (s->revision < s->ks->compacted && !(s->is_sorted && c->request.keys_only)) {
                keyspace_call_end(call, KEYSPACE_COMPACTED);
                return;
        }
        if (range_request_sorts(&c->request) && !s->is_sorted) {
                r = sort(s);
                if (r == -EINPROGRESS)
                        return;
                if (r != 0) {
                        keyspace_call_end(call, r < 0 ? KEYSPACE_UNAVAILABLE : (enum keyspace_result)r);
                        return;
                }
        }
        if (!s->waiting) {
                if (s->is_sorted)
                        collect_sorted(s);
                else
                        collect(s);
                keep_keys(s);
                s->waiting = true;
        }
        if (!bring_values(s))
                return;

        s->waiting = false;
        s->n_emitted += s->n_kvs;
        go_on = s->n_kvs == 0 || c->on_slice(c, s->kvs, s->n_kvs);
        if (c->own.state != s)
                return; /* cancelled from within */
        slice_clear(s);
        if (s->at_end) {
                keyspace_call_end(call, KEYSPACE_OK);
                return;
        }
        if (!s->is_sorted) { /* only `next` is still needed */
                struct bytes next = s->next;
                uint8_t *copy = malloc(next.size ? next.size : 1);

                check(copy);
                if (next.size)
                        memcpy(copy, next.data, next.size);
                arena_done(&s->arena);
                s->next.data = arena_copy(&s->arena, copy, next.size);
                check(s->next.data);
                free(copy);
        }
        if (go_on)
                later(s);
        else
                s->paused = true;
}

/* The hot case: one key, whose value is in memory. Nothing is kept. */
static bool answer_single(struct keyspace *ks, struct range_call *c, int64_t revision) {
        const struct range_request *r = &c->request;
        const struct key_version *v = NULL;
        struct key_entry *e = index_find(&ks->index, r->range.key);
        struct blob *value = NULL;
        struct kv kv;

        if (e)
                v = key_entry_at(e, revision);
        if (v && !v->version)
                v = NULL;
        c->count = v != NULL;
        if (v && !r->count_only && range_request_passes(r, v)) {
                if (!r->keys_only) {
                        value = v == &e->last ? values_get_last(&ks->values, e) : values_get(&ks->values, v->seq);
                        if (!value)
                                return false;
                }
                kv_set(&kv, key_entry_key(e), v);
                kv.value = value;
                (void)c->on_slice(c, &kv, 1);
                blob_unref(value);
                if (!c->call.own.keyspace)
                        return true; /* cancelled from within */
        }
        keyspace_call_end(&c->call, KEYSPACE_OK);
        return true;
}

static void begin(struct keyspace_call *call, enum keyspace_result result) {
        struct range_call *c = container_of(call, struct range_call, call);
        struct keyspace *ks = call->own.keyspace;
        const struct range_request *r = &c->request;
        int64_t revision = r->revision > 0 ? r->revision : ks->revision;
        struct range_state *s;

        (void)result;
        call->revision = ks->revision;
        if (revision > ks->revision) {
                keyspace_call_end(call, KEYSPACE_FUTURE_REVISION);
                return;
        }
        if (revision < ks->compacted) {
                keyspace_call_end(call, KEYSPACE_COMPACTED);
                return;
        }
        if (range_is_single(&r->range) && answer_single(ks, c, revision))
                return;

        c->count = (int64_t)range_count(ks, &r->range, revision);
        if (r->count_only) {
                keyspace_call_end(call, KEYSPACE_OK);
                return;
        }
        s = new0(struct range_state);
        arena_init(&s->arena, 0);
        s->call = c;
        s->ks = ks;
        s->revision = revision;
        s->next = r->range.key;
        s->timer.on_time = on_time;
        c->own.state = s;
        call_list_add(&ks->ranging, call);
        step(s);
}

void keyspace_range(struct keyspace *ks, struct range_call *c) {
        c->count = 0;
        c->more = false;
        c->own.state = NULL;
        c->call.own.forget = forget;
        if (c->request.serializable) {
                if (!keyspace_enter(ks, &c->call, begin))
                        return;
                c->call.own.fresh = true; /* the barrier lets it pass */
        } else if (!keyspace_enter(ks, &c->call, begin))
                return;
        barrier_wait(ks, &c->call);
}

void keyspace_range_resume(struct range_call *c) {
        struct range_state *s = c->own.state;

        if (s && s->paused) {
                s->paused = false;
                later(s);
        }
}
