#pragma once

/*
 * The first pass over a keyspace's log for a snapshot: without values, it finds what an etcd at the log's end would have, and from the sizes alone
 * where each page of the file will be. What etcd would have: all versions above the compacted revision; below it of each key the one that
 * lives at it; a tombstone at the compacted revision itself. It does not depend on how far deletions in the datastore have come.
 *
 * The compacted revision must be known before the first record comes, since its mark stands behind what it compacts. So it is assumed
 * (the keyspace mostly knows), and if the log turns out to have a newer mark the pass is made again: SNAPSHOT_AGAIN.
 *
 * Memory: 12 bytes a record; 16 to 43 a key that has a version below the compacted revision. Afterwards 8 bytes a version of the
 * snapshot. One thread at a time.
 */

#include <stokehold/driver.h>

#include "base/error.h"
#include "keyspace/keyspace.h"

/* As old as may be, so that every etcd that restores snapshots with a storage version takes it; 3.5 and older do not look. */
#define SNAPSHOT_STORAGE_VERSION "3.6.0"

struct snapshot_config {
        uint64_t member_id;            /* of the etcd that it is said to be from */
        uint64_t term;                 /* > 0 */
        int64_t compacted;             /* assumed; 0: never compacted */
        size_t max_bytes;              /* of memory for this pass; 0: no limit */
        const struct lease_left *left; /* ascending by id; borrowed; leases that are missing have all their time */
        size_t n_left;
};

struct snapshot_figures {
        int64_t revision, compacted;
        struct stoke_end end; /* of the log */
        uint64_t n_versions;  /* key-values and tombstones */
        uint64_t n_leases;
        uint64_t bytes; /* of the file, with its checksum */
};

enum snapshot_result {
        SNAPSHOT_DONE = 0,
        SNAPSHOT_AGAIN = 1, /* from the log's beginning, which has changed meanwhile */
};

struct snapshot_plan;
int snapshot_plan_new(const struct snapshot_config *config, struct snapshot_plan **ret);
void snapshot_plan_free(struct snapshot_plan *plan);
DEFINE_FREEP(snapshot_plan)
/* What was added is void: the log is read again. */
void snapshot_plan_restart(struct snapshot_plan *plan);
/* The next record, in order; its value is not looked at. -EUCLEAN: it cannot follow what came before; -ENOMEM: above max_bytes. */
int snapshot_plan_add(struct snapshot_plan *plan, const struct stoke_record *record, struct error *reterr);
/* The log's end. SNAPSHOT_AGAIN: everything again, and the plan has been restarted for that. */
int snapshot_plan_finish(struct snapshot_plan *plan, struct error *reterr);
/* After it is finished. */
void snapshot_plan_get(const struct snapshot_plan *plan, struct snapshot_figures *ret);
