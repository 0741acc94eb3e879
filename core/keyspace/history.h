#pragma once

/*
 * What happened to the keys of a keyspace since it was compacted, in order: for watches that begin in the past, for counts at a
 * past revision, for compaction. An item is a record of a key; the version itself is in the key's entry (one transaction may
 * put and delete the same key, so a revision does not tell which). A ring that grows. The keyspace's loop only.
 */

#include "keyspace/index.h"

struct history_item {
        int64_t revision;
        uint64_t seq;
        struct key_entry *entry; /* borrowed: an entry outlives its items */
};

struct history {
        struct history_item *items; /* owned, a power of two of them */
        size_t capacity, first, n;
};

void history_done(struct history *h);
void history_push(struct history *h, int64_t revision, uint64_t seq, struct key_entry *entry);
/* From the oldest. */
static inline struct history_item *history_at(const struct history *h, size_t i) {
        return &h->items[(h->first + i) & (h->capacity - 1)];
}
/* How many items are of a revision below this one. */
size_t history_find(const struct history *h, int64_t revision);
/* How many items are of a record before this one. */
size_t history_find_seq(const struct history *h, uint64_t seq);
void history_drop(struct history *h, size_t n);
