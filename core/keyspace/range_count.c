/*
 * How many keys are alive in a range at a revision. Now: the index tells. Then: what is alive now, corrected by what has happened
 * since, or, where that is more, the entries one by one. Either is cut into pieces, since it may be long: what is looked at
 * has a revision that is read, or one between that and the one it began at, and those stay as they are until they are compacted. The
 * keyspace's loop only.
 */

#include "keyspace/range.h"

void range_place_set(struct range_place *place, struct bytes key) {
        if (key.size > place->capacity) {
                place->capacity = key.size * 2;
                place->copy = realloc(place->copy, place->capacity);
                check(place->copy);
        }
        if (key.size)
                memmove(place->copy, key.data, key.size);
        place->key = bytes_of(place->copy, key.size);
}

void range_place_done(struct range_place *place) {
        free(place->copy);
        *place = (struct range_place){};
}

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

bool range_counter_begin(
        struct range_counter *c, const struct keyspace *ks, const struct key_range *range, int64_t revision) {
        const struct history *h = &ks->history;
        size_t first, n = count_now(&ks->index, range);

        *c = (struct range_counter){
                .range = range, .revision = revision, .count = (int64_t)n, .counted_at = ks->revision};
        if (revision >= ks->revision)
                return true;
        first = history_find(h, revision + 1);
        if (first == h->n)
                return true;
        if (h->n - first <= n * 2 + 64) {
                c->by = COUNT_HISTORY;
                c->next_seq = history_at(h, first)->seq;
        } else {
                c->by = COUNT_INDEX;
                c->next.key = range->key;
                c->count = 0;
        }
        return false;
}

static bool by_history(struct range_counter *c, const struct keyspace *ks, int64_t *units) {
        const struct history *h = &ks->history;

        for (size_t i = history_find_seq(h, c->next_seq); i < h->n; i++) {
                const struct history_item *item = history_at(h, i);
                const struct key_version *v;

                if (item->revision > c->counted_at)
                        break;
                if (*units <= 0) {
                        c->next_seq = item->seq;
                        return false;
                }
                --*units;
                if (!range_has(c->range, key_entry_key(item->entry)))
                        continue;
                v = key_entry_at(item->entry, c->counted_at);
                if (v && v->seq == item->seq)
                        c->count += (int64_t)alive_at(item->entry, c->revision) - (int64_t)(v->version != 0);
        }
        return true;
}

static bool by_index(struct range_counter *c, const struct keyspace *ks, int64_t *units) {
        struct index_cursor cursor;
        struct key_entry *e;

        index_seek(&ks->index, c->next.key, &cursor);
        while ((e = index_next(&cursor)) && !range_ends_before(c->range, key_entry_key(e))) {
                if (*units <= 0) {
                        range_place_set(&c->next, key_entry_key(e));
                        return false;
                }
                --*units;
                c->count += alive_at(e, c->revision);
        }
        return true;
}

bool range_counter_go_on(struct range_counter *c, const struct keyspace *ks, int64_t *units) {
        bool done = true;

        switch (c->by) {
        case COUNT_DONE:
                break;
        case COUNT_HISTORY:
                done = by_history(c, ks, units);
                break;
        case COUNT_INDEX:
                done = by_index(c, ks, units);
                break;
        }
        if (done)
                c->by = COUNT_DONE;
        return done;
}

void range_counter_done(struct range_counter *c) {
        range_place_done(&c->next);
}
