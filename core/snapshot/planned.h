#pragma once

/*
 * What the two passes share: plan.c fills it, write.c reads it once it is finished. Private to the room.
 */

#include <uthash.h>

#include "keyspace/record.h"
#include "snapshot/bolt.h"
#include "snapshot/plan.h"
#include "snapshot/tree.h"

struct planned_lease {
        int64_t id, ttl;
        UT_hash_handle hh;
};
struct planned_alarm {
        uint64_t member, type;
};

struct key_slot {
        uint64_t hash; /* 96 bits of the key's, salted */
        uint32_t hash_more;
        uint32_t version; /* index + 1; 0: free */
};

struct snapshot_plan {
        struct snapshot_config config; /* with `left` borrowed */
        uint64_t salt;
        bool finished;

        /* The log so far. */
        struct stoke_end end;
        int64_t revision;
        int64_t marked;     /* the newest mark's */
        int64_t last_above; /* revision of the last version above the compacted one; 0: none */
        uint64_t *seqs;     /* owned: of versions, with DEAD; once finished: of those that live */
        uint32_t *sizes;    /* owned: of their values in the file; until finished */
        size_t n, capacity;
        struct key_slot *slots; /* owned: keys with versions up to the compacted revision; until finished */
        size_t n_keys, n_slots;
        struct planned_lease *leases;  /* owned */
        struct planned_lease **sorted; /* owned: by id, once finished */
        size_t n_leases;
        struct planned_alarm *alarms; /* owned */
        size_t n_alarms;

        /* Where things will be, in pages. */
        bool filler; /* a tombstone of no key, for a revision that no version has */
        uint64_t key_pages, lease_pages, key_root, lease_root, root, n_pages;
};

/* etcd's KeyValue of a record: its size, and what stands before and behind the value. */
size_t planned_value_size(const struct stoke_record *r);
/* Bytes of a lease's value. */
size_t planned_lease_size(const struct snapshot_plan *plan, const struct planned_lease *l, int64_t *ret_left);
/* The root's leaf, with the small buckets in it; the roots of the others as the plan has them. */
int planned_root(const struct snapshot_plan *plan, struct buf *elements, struct buf *data, unsigned *ret_n);
