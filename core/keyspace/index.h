#pragma once

/*
 * The ordered index of one keyspace: every key with its versions since compaction, in a B+ tree that also counts the
 * living keys below each node, so that the size of any range costs a logarithm. In memory only; the keyspace's loop only.
 * Values are not here (values.h), only where they are: a version names its record's seq.
 *
 * The tree is told which entries are alive by index_set_alive(); versions are its users' to change. An empty leaf is
 * removed, others are never merged: keys come back in the same places.
 */

#include "base/buf.h"
#include "base/macro.h"

struct lease_item;
struct cached_value;

/* One record that put or deleted the key. */
struct key_version {
        uint64_t seq;
        int64_t mod_revision, create_revision;
        int64_t version; /* 0: a tombstone */
        int64_t lease;
        uint32_t value_size;
        uint32_t hash; /* of the record, folded */
};

struct key_entry {
        struct key_version last;   /* mod_revision 0: none yet */
        struct key_version *older; /* owned, ascending; n_older of them */
        uint32_t n_older;
        uint32_t key_size;
        struct cached_value *cached;   /* of `last`, where values.c knows that it has it: spares the table; or NULL */
        struct lease_item *lease_item; /* owned by the lease that `last` is attached to; or NULL */
        bool alive;                    /* as the tree counts it */
        uint8_t key[];
};

static inline struct bytes key_entry_key(const struct key_entry *e) {
        return bytes_of(e->key, e->key_size);
}
/* The version that a reader at this revision sees; NULL: none (a tombstone is returned as it is). */
const struct key_version *key_entry_at(const struct key_entry *e, int64_t revision);
/* The version that this record made; NULL: pruned. */
const struct key_version *key_entry_by_seq(const struct key_entry *e, uint64_t seq);
/* The version just before v, which is e's; NULL: none is known. */
const struct key_version *key_entry_before(const struct key_entry *e, const struct key_version *v);
/* Makes v the newest version. */
void key_entry_push(struct key_entry *e, const struct key_version *v);

struct index_node;
struct index {
        struct index_node *root; /* owned; NULL: empty */
        size_t n_entries, n_alive;
        size_t bytes; /* of memory, about */
};

void index_done(struct index *index);
/* The same in steps: frees about n entries, from the end; true: it is empty. Until then it is good for nothing else. */
bool index_done_some(struct index *index, size_t n);
struct key_entry *index_find(const struct index *index, struct bytes key);
/* The entry is made if there is none. */
struct key_entry *index_get(struct index *index, struct bytes key);
void index_remove(struct index *index, struct key_entry *entry);
void index_set_alive(struct index *index, struct key_entry *entry, bool alive);
/* Keys alive before `key`, bytewise. */
size_t index_rank(const struct index *index, struct bytes key);

/* A place between entries; valid until entries are made or removed. */
struct index_cursor {
        const struct index_node *leaf;
        unsigned position;
};
/* At the first entry that is not before key. */
void index_seek(const struct index *index, struct bytes key, struct index_cursor *ret);
/* NULL at the end; moves on. */
struct key_entry *index_next(struct index_cursor *cursor);
