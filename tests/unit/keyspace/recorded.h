#pragma once

/*
 * A history recorded and checked: workers that read, create, update and delete a few keys by compare-and-set, each answer with its revision, and what
 * watchers from the beginning saw. What clients were told must be a history that one etcd could have produced. One thread.
 */

#include "engine.h"

#define HISTORY_KEYS 6

struct recorded;
struct operation {
        struct txn_call txn;
        struct range_call range;
        struct arena arena;
        struct txn tree;
        struct txn_op ops[2];
        struct compare compare;
        char key[8], value[16];
        unsigned number, worker;
        bool is_read, is_delete, done;
        int64_t expected_mod; /* of the compare */
        int64_t floor;        /* the highest revision that anybody had been told when it began */
        enum keyspace_result result;
        int64_t revision;
        /* What a read, or a failed compare, saw. */
        bool found;
        char seen[16];
        int64_t seen_mod;
        struct recorded *recorded;
};

struct recorded {
        unsigned *seed;
        unsigned n_operations;
        uint64_t patience_ns;
        /* Where this worker's next call goes. */
        struct keyspace *(*keyspace)(struct recorded *h, unsigned worker);
        /* After each answer; may be NULL. */
        void (*answered)(struct recorded *h);
        void *userdata;
        /* The history's own. */
        struct operation *operations; /* owned */
        unsigned n, n_done;
        int64_t told;
        int64_t guess[HISTORY_KEYS]; /* mod revisions that workers try */
        bool all_done;
};
void recorded_begin(struct recorded *h, unsigned n_workers);
void recorded_done(struct recorded *h);

/* What a watcher from the beginning saw. */
struct seen_event {
        int64_t revision;
        unsigned key;
        bool is_delete;
        char value[16];
};
struct seen {
        struct seen_event *events; /* owned */
        size_t n;
        bool synced;
        bool left_behind; /* what it needed was compacted */
        int64_t revision;
};
struct watcher *seen_watch(struct keyspace *ks, struct seen *seen);
/* The state of a key once the events up to a revision were applied; NULL: it is not there. */
const struct seen_event *seen_state(const struct seen *seen, unsigned key, int64_t revision);
/* Every operation against all the events there are; how many were answered. */
unsigned recorded_check(const struct recorded *h, const struct seen *all);
