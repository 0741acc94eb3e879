#pragma once

/*
 * A log made at random, with all that an engine writes, and what an etcd would have at its end: for tests of snapshots. Records may be deleted
 * from it as compactions would.
 */

#include "keyspace/record.h"
#include "snapshot/plan.h"
#include "snapshot/write.h"

struct made_record {
        struct stoke_record r; /* key and value are owned */
        bool deleted;          /* physically */
        bool dead;             /* below the last mark, and named by it */
};

struct made_version {
        size_t record;
        int64_t sub;
};

struct made_log {
        struct made_record *records;
        size_t n, capacity;
        int64_t revision, compacted;
        size_t n_keys;
        struct stoke_origin origin;
};

struct made_shape {
        unsigned n_steps;
        unsigned n_keys;
        unsigned compact_percent; /* of steps */
        size_t (*value_size)(void);
        unsigned key_size;
};

void made_init(struct made_log *log);
void made_done(struct made_log *log);
struct stoke_record *made_add(struct made_log *log, uint8_t kind, int64_t revision, const void *key, size_t key_size,
        const void *value, size_t value_size);
/* For a record that was changed. */
void made_sign(struct stoke_record *r);
/* Random puts, deletions, transactions, leases, compactions. */
void made_fill(struct made_log *log, const struct made_shape *shape);
/* By looking at everything: the versions that a snapshot has, in order; owned by the caller. */
struct made_version *made_expect(const struct made_log *log, size_t *ret_n);
/* Which records the deletions of the last mark name, and deletes so many percent of them. */
void made_delete(struct made_log *log, unsigned percent);

/* The two passes into a file. assumed: the compacted revision that the plan begins with. percent: of the dead records that are deleted between the
 * passes. 0, or what failed. */
struct made_saved {
        struct snapshot_figures figures;
        unsigned n_rounds;
        char *error; /* owned */
};
int made_save(struct made_log *log, int64_t assumed, unsigned percent, int fd, struct made_saved *ret);
/* An output to the descriptor at userdata. */
int made_write_fd(void *userdata, const void *data, size_t size, struct error *reterr);
