/*
 * Range and RangeStream: a walk over the index at one revision, in slices, so that neither memory nor the loop is held up by
 * a long list. Whatever takes time is cut: counting at a past revision, gathering and sorting, fetching values, and the answer
 * itself, whose slices are collected, brought their values from the cache or the datastore, and handed on. Between two slices
 * anything may happen to the keyspace. What is read stays the same, since it is named by its revision, or is found to be compacted; so
 * no place in the index is kept but as a key, and none in the history but as a seq. The keyspace's loop only.
 */

#include "keyspace/range.h"

#include <errno.h>

#include "base/log.h"

enum progress {
        GO_ON,
        LATER,   /* the slice is over */
        WAITING, /* for the datastore */
};

/* A range that was not answered in one go. Its phases are worked through in this order. */
struct range_state {
        struct range_call *call;
        struct keyspace *ks;
        int64_t revision;
        int64_t units; /* left of this slice */
        enum {
                COUNTING,
                GATHERING, /* of a sorted range: the items, their values, their order */
                VALUING,
                SORTING,
                ANSWERING,
        } phase;
        struct loop_task slice;
        struct fetch fetch;
        bool paused;

        struct range_counter counter;
        struct range_place next; /* where the walk goes on */

        struct range_selection sorted;
        struct arena sorted_keys;
        size_t n_valued, n_asked; /* items that have their values; those before n_asked will have them next */
        size_t n_sorted_emitted;

        /* The slice of the answer. */
        uint64_t n_emitted;
        bool at_end, collected;
        struct arena keys; /* of a slice that waits */
        struct kv kvs[SLICE_KEYS];
        uint64_t seqs[SLICE_KEYS];
        size_t n_kvs;
};

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
        loop_unslice(s->ks->loop, &s->slice);
        slice_clear(s);
        fetch_done(&s->fetch);
        range_selection_done(&s->sorted);
        arena_done(&s->sorted_keys);
        arena_done(&s->keys);
        range_place_done(&s->next);
        range_counter_done(&s->counter);
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

        if (result != 0) {
                keyspace_call_end(call, result == -ETIMEDOUT ? KEYSPACE_TIMEOUT : KEYSPACE_UNAVAILABLE);
                return;
        }
        loop_slice(s->ks->loop, &s->slice);
}

static void on_slice_time(struct loop_task *task) {
        step(container_of(task, struct range_state, slice));
}

static enum progress fetch_values(struct range_state *s) {
        s->fetch.done = on_fetched;
        fetch_start(s->ks, &s->fetch, s->call->call.deadline_ns);
        return WAITING;
}

static void on_caught_up(struct keyspace_call *call, enum keyspace_result result) {
        struct range_call *c = container_of(call, struct range_call, call);

        (void)result;
        call_list_add(&call->own.keyspace->ranging, call);
        step(c->own.state);
}

/* Values that were asked for are not there: compacted meanwhile, perhaps by another daemon, which the index will know
 * after a barrier; or lost. */
static enum progress catch_up(struct range_state *s, size_t n_missing) {
        struct keyspace_call *call = &s->call->call;

        fetch_done(&s->fetch);
        if (call->own.reread) {
                log_error("%s: values of %zu records are not in the datastore", s->ks->name, n_missing);
                keyspace_call_end(call, KEYSPACE_LOST);
                return WAITING;
        }
        call->own.reread = true;
        call->own.fresh = false;
        call->own.resume = on_caught_up;
        keyspace_call_unlink(call);
        barrier_wait(s->ks, call);
        return WAITING;
}

static void kv_set(struct kv *kv, const struct range_request *request, struct bytes key, const struct key_version *v) {
        *kv = (struct kv){
                .key = key,
                .create_revision = v->create_revision,
                .mod_revision = v->mod_revision,
                .version = v->version,
                .lease = range_request_tells_leases(request) ? v->lease : 0,
                .value_size = v->value_size,
        };
}

static enum progress count(struct range_state *s) {
        bool done = range_counter_go_on(&s->counter, s->ks, &s->units);

        s->call->count = s->counter.count;
        if (done)
                s->phase = GATHERING;
        return done ? GO_ON : LATER;
}

/* ---- sorted ranges */

static enum progress gather(struct range_state *s) {
        const struct range_request *r = &s->call->request;
        const struct key_version *v;
        struct index_cursor cursor;
        struct key_entry *e;

        if (!range_request_sorts(r)) {
                s->phase = ANSWERING;
                return GO_ON;
        }
        if (!s->sorted.request)
                range_selection_init(&s->sorted, r);
        index_seek(&s->ks->index, s->next.key, &cursor);
        while ((e = index_next(&cursor)) && !range_ends_before(&r->range, key_entry_key(e))) {
                size_t n_before = s->sorted.n_items;

                if (s->units <= 0) {
                        range_place_set(&s->next, key_entry_key(e));
                        return LATER;
                }
                s->units--;
                v = key_entry_at(e, s->revision);
                if (!v || !v->version)
                        continue;
                check(range_selection_add(&s->sorted, key_entry_key(e), v) == 0);
                if (s->sorted.n_items > n_before) { /* keys outlive the index's entries */
                        struct bytes *key = &s->sorted.items[n_before].key;

                        s->units--;
                        key->data = arena_copy(&s->sorted_keys, key->data, key->size);
                        check(key->data);
                }
        }
        s->phase = r->sort_target == SORT_VALUE ? VALUING : SORTING;
        return GO_ON;
}

/* Values to sort by: from the cache, or from the datastore, some at a time. */
static enum progress bring_sorted_values(struct range_state *s) {
        struct range_item *items = s->sorted.items;
        size_t n_missing = 0, bytes = 0;

        if (s->fetch.blobs) {
                for (size_t i = s->n_valued; i < s->n_asked; i++) {
                        if (!items[i].value)
                                items[i].value = fetch_get(&s->fetch, items[i].version.seq);
                        n_missing += !items[i].value;
                }
                if (n_missing)
                        return catch_up(s, n_missing);
                fetch_done(&s->fetch);
                s->n_valued = s->n_asked;
        }
        for (s->n_asked = s->n_valued; s->n_asked < s->sorted.n_items; s->n_asked++) {
                struct range_item *item = &items[s->n_asked];

                if (s->units <= 0 || n_missing == SLICE_KEYS || bytes > SLICE_BYTES)
                        break;
                s->units--;
                if (!item->value)
                        item->value = values_get(&s->ks->values, item->version.seq);
                if (!item->value) {
                        fetch_add(&s->fetch, item->version.seq);
                        bytes += item->version.value_size;
                        n_missing++;
                }
        }
        if (n_missing)
                return fetch_values(s);
        s->n_valued = s->n_asked;
        if (s->n_valued < s->sorted.n_items)
                return LATER;
        s->phase = SORTING;
        return GO_ON;
}

static enum progress sort_some(struct range_state *s) {
        if (!range_selection_sort(&s->sorted, &s->units))
                return LATER;
        s->call->more = s->sorted.more;
        s->phase = ANSWERING;
        return GO_ON;
}

/* ---- the answer */

/* Collects the next slice. Its keys are the index's own, good as long as nothing else runs. */
static void collect(struct range_state *s) {
        const struct range_request *r = &s->call->request;
        const struct key_version *v;
        struct index_cursor cursor;
        struct key_entry *e;
        size_t bytes = 0;

        index_seek(&s->ks->index, s->next.key, &cursor);
        for (;;) {
                e = index_next(&cursor);
                if (!e || range_ends_before(&r->range, key_entry_key(e))) {
                        s->at_end = true;
                        break;
                }
                if (s->units <= 0 || s->n_kvs == SLICE_KEYS || bytes > SLICE_BYTES) {
                        range_place_set(&s->next, key_entry_key(e));
                        break;
                }
                s->units--;
                v = key_entry_at(e, s->revision);
                if (!v || !v->version || !range_request_passes(r, v))
                        continue;
                if (r->limit > 0 && s->n_emitted + s->n_kvs == (uint64_t)r->limit) {
                        s->call->more = true;
                        s->at_end = true;
                        break;
                }
                s->units -= KEY_UNITS;
                kv_set(&s->kvs[s->n_kvs], r, key_entry_key(e), v);
                if (v == &e->last && !r->keys_only)
                        s->kvs[s->n_kvs].value = values_get_last(&s->ks->values, e);
                s->seqs[s->n_kvs++] = v->seq;
                bytes += (r->keys_only ? 0 : v->value_size) + e->key_size;
                if (range_is_single(&r->range)) {
                        s->at_end = true;
                        break;
                }
        }
        s->ks->slice_bytes = max_of(s->ks->slice_bytes, bytes);
}

static void collect_sorted(struct range_state *s) {
        bool keys_only = s->call->request.keys_only;
        size_t bytes = 0;

        while (s->n_sorted_emitted < s->sorted.n_chosen && s->units > 0 && s->n_kvs < SLICE_KEYS &&
                bytes <= SLICE_BYTES) {
                struct range_item *item = range_selection_get(&s->sorted, s->n_sorted_emitted++);

                s->units -= 1 + KEY_UNITS;
                kv_set(&s->kvs[s->n_kvs], &s->call->request, item->key, &item->version);
                s->kvs[s->n_kvs].value = keys_only ? NULL : steal(item->value);
                s->seqs[s->n_kvs++] = item->version.seq;
                bytes += (keys_only ? 0 : item->version.value_size) + item->key.size;
        }
        s->ks->slice_bytes = max_of(s->ks->slice_bytes, bytes);
        s->at_end = s->n_sorted_emitted == s->sorted.n_chosen;
}

/* The index's entries may go while the slice waits. */
static void keep_keys(struct range_state *s) {
        if (s->sorted.request)
                return;
        for (size_t i = 0; i < s->n_kvs; i++) {
                void *copy = arena_copy(&s->keys, s->kvs[i].key.data, s->kvs[i].key.size);

                check(copy);
                s->kvs[i].key.data = copy;
        }
}

/* The collected slice's values. */
static enum progress bring_values(struct range_state *s) {
        bool fetched = s->fetch.blobs;
        size_t n_missing = 0;

        if (s->call->request.keys_only)
                return GO_ON;
        for (size_t i = 0; i < s->n_kvs; i++) {
                if (s->kvs[i].value)
                        continue;
                s->kvs[i].value = fetched ? fetch_get(&s->fetch, s->seqs[i]) : NULL;
                if (!s->kvs[i].value)
                        s->kvs[i].value = values_get(&s->ks->values, s->seqs[i]);
                if (s->kvs[i].value)
                        continue;
                if (!fetched)
                        fetch_add(&s->fetch, s->seqs[i]);
                n_missing++;
        }
        if (!n_missing) {
                fetch_done(&s->fetch);
                return GO_ON;
        }
        if (!s->collected)
                keep_keys(s);
        s->collected = true;
        return fetched ? catch_up(s, n_missing) : fetch_values(s);
}

static void account(const struct range_state *s) {
        s->ks->slice_units = max_of(s->ks->slice_units, (size_t)(SLICE_UNITS - s->units));
}

/* The next slice of the answer. WAITING also when the state is gone. */
static enum progress answer(struct range_state *s) {
        struct range_call *c = s->call;
        enum progress progress;
        bool go_on;

        if (!s->collected) {
                if (s->sorted.request)
                        collect_sorted(s);
                else
                        collect(s);
        }
        progress = bring_values(s);
        if (progress != GO_ON)
                return progress; /* the state may be gone */

        s->collected = false;
        s->n_emitted += s->n_kvs;
        account(s);
        go_on = s->n_kvs == 0 || c->on_slice(c, s->kvs, s->n_kvs);
        if (c->own.state != s)
                return WAITING; /* cancelled from within */
        slice_clear(s);
        arena_done(&s->keys);
        if (s->at_end) {
                keyspace_call_end(&c->call, KEYSPACE_OK);
                return WAITING;
        }
        s->paused = !go_on;
        return go_on ? LATER : WAITING;
}

/* Whether the index and the log are not needed any more. */
static bool has_all(const struct range_state *s) {
        const struct range_request *r = &s->call->request;

        return s->sorted.request && s->phase >= SORTING && (r->keys_only || r->sort_target == SORT_VALUE);
}

static enum progress work(struct range_state *s) {
        switch (s->phase) {
        case COUNTING:
                return count(s);
        case GATHERING:
                return gather(s);
        case VALUING:
                return bring_sorted_values(s);
        case SORTING:
                return sort_some(s);
        case ANSWERING:
                return answer(s);
        }
        check(false);
        return WAITING;
}

/* One slice. */
static void step(struct range_state *s) {
        struct range_call *c = s->call;
        struct keyspace *ks = s->ks;
        enum progress progress = GO_ON;

        if (s->revision < ks->compacted && !has_all(s)) {
                keyspace_call_end(&c->call, KEYSPACE_COMPACTED);
                return;
        }
        s->units = SLICE_UNITS;
        while (progress == GO_ON) {
                if (s->phase >= GATHERING && c->request.count_only) {
                        keyspace_call_end(&c->call, KEYSPACE_OK);
                        return;
                }
                if (s->units <= 0) {
                        progress = LATER;
                        break;
                }
                progress = work(s);
        }
        if (progress == WAITING)
                return; /* it may be gone */
        if (progress == LATER) {
                account(s);
                loop_slice(ks->loop, &s->slice);
        }
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
                kv_set(&kv, r, key_entry_key(e), v);
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
        struct range_counter counter;
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

        if (range_counter_begin(&counter, ks, &r->range, revision) && r->count_only) {
                c->count = counter.count;
                keyspace_call_end(call, KEYSPACE_OK);
                return;
        }
        s = new0(struct range_state);
        s->call = c;
        s->ks = ks;
        s->revision = revision;
        s->counter = counter;
        s->next.key = r->range.key;
        s->slice.run = on_slice_time;
        c->own.state = s;
        call_list_add(&ks->ranging, call);
        step(s);
}

void keyspace_range(struct keyspace *ks, struct range_call *c) {
        bool open;

        c->count = 0;
        c->more = false;
        c->own.state = NULL;
        c->call.own.forget = forget;
        open = keyspace_enter(ks, &c->call, begin);
        if (c->request.serializable)
                c->call.own.fresh = true; /* the barrier lets it pass */
        if (open)
                barrier_wait(ks, &c->call);
}

void keyspace_range_resume(struct range_call *c) {
        struct range_state *s = c->own.state;

        if (s && s->paused) {
                s->paused = false;
                loop_slice(s->ks->loop, &s->slice);
        }
}
