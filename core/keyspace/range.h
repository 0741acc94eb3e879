#pragma once

/*
 * What a range comes to: the items that pass the request's filters, sorted and cut as etcd does it. Shared by Range, which goes
 * over the index in slices, and by transactions, which go over the index with their batch on top.
 */

#include "keyspace/state.h"

/* A slice ends with the first that is reached. */
#define SLICE_KEYS 256           /* in an answer */
#define SLICE_BYTES (128 * 1024) /* of keys and values, and one value more */
#define SLICE_UNITS 4096         /* entries or history items looked at, pairs compared */
#define KEY_UNITS 4              /* of a key in an answer, against one that is only looked at */

struct range_item {
        struct bytes key; /* borrowed: valid while the index and the batch are not changed */
        struct key_version version;
        struct blob *value; /* a reference, or NULL: only for SORT_VALUE */
};

struct range_selection {
        const struct range_request *request;
        struct range_item *items; /* owned; in the order of keys */
        size_t n_items, capacity;
        size_t n_chosen; /* once it is finished: what the answer has */
        int64_t count;   /* all keys of the range, whatever the filters and the limit */
        bool more;
        /* A merge sort that can be left and taken up again: runs of `width`, the pair at `at` is being merged. */
        struct range_item **order, **spare; /* owned; NULL: in the order of keys */
        size_t width, at, left, right, n_merged;
};

void range_selection_init(struct range_selection *s, const struct range_request *request);
void range_selection_done(struct range_selection *s);
/* Counts the item, and keeps it if it passes the filters and can be in the answer. 0, -ENOMEM. */
int range_selection_add(struct range_selection *s, struct bytes key, const struct key_version *version);
/* Sorts and cuts, for about *units comparisons, which are taken off: false: not done yet, call again. For SORT_VALUE the items
 * have their values. Nothing may be added any more. */
bool range_selection_sort(struct range_selection *s, int64_t *units);
/* All of it at once. */
void range_selection_finish(struct range_selection *s);
/* The i-th of the answer's n_chosen, once it is finished. */
struct range_item *range_selection_get(const struct range_selection *s, size_t i);
/* Whether all items must be seen before the first is known. */
bool range_request_sorts(const struct range_request *request);
bool range_request_passes(const struct range_request *request, const struct key_version *version);
/* etcd 3.7 makes keys without values from its index, which has no leases. */
static inline bool range_request_tells_leases(const struct range_request *request) {
        return !request->keys_only || request->sort_target == SORT_VALUE;
}

/* A place in the index that outlives what happens to it: a key. */
struct range_place {
        struct bytes key; /* copied, or whoever set it directly keeps it valid */
        uint8_t *copy;    /* owned */
        size_t capacity;
};
void range_place_set(struct range_place *place, struct bytes key);
void range_place_done(struct range_place *place);

/* Counts the living keys of a range at a revision, in pieces, between which the keyspace may change. */
struct range_counter {
        const struct key_range *range; /* borrowed */
        int64_t revision;
        int64_t count; /* once it is done */
        enum { COUNT_DONE, COUNT_HISTORY, COUNT_INDEX } by;
        int64_t counted_at; /* by history: `count` began as of this revision */
        uint64_t next_seq;
        struct range_place next; /* by index */
};
/* True: it is done already. The revision is not compacted, now and whenever it goes on. */
bool range_counter_begin(
        struct range_counter *counter, const struct keyspace *ks, const struct key_range *range, int64_t revision);
/* For about *units entries or history items, which are taken off. True: done. */
bool range_counter_go_on(struct range_counter *counter, const struct keyspace *ks, int64_t *units);
void range_counter_done(struct range_counter *counter);
