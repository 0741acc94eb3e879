#pragma once

/*
 * What a transaction sees while it is evaluated (txn.c): the index, what its batch has so far, what it has written itself;
 * its compares and its ranges over that. On the keyspace's loop; changes nothing but what is noted as missing.
 */

#include "keyspace/commit.h"
#include "keyspace/range.h"

/* Which branch each transaction takes, nested ones included, in the order in which they are met. etcd chooses them all
 * before it writes anything. */
struct txn_path {
        bool *passes; /* owned */
        size_t n, capacity, at;
};

struct txn_evaluator {
        struct batch *batch;
        struct txn_call *call;
        struct arena *arena;
        int64_t write_revision; /* what this transaction writes gets */
        bool wrote;
        struct bytes deleted_from; /* checking: what comes before deletes all from this key on; no data: nothing does */
        struct txn_path path;
        struct fetch *missing; /* probing: what is not in memory; NULL: executing */
        size_t n_missing;
};

/* What a read sees now: the newest revision, this transaction's own included once it has written. */
static inline int64_t txn_now(const struct txn_evaluator *e) {
        return e->wrote ? e->write_revision : e->write_revision - 1;
}

/* A reference; NULL: not in memory. */
struct blob *txn_value(const struct txn_evaluator *e, const struct key_version *v);

/* Probing: notes the value as missing unless it is in memory. */
void txn_probe_value(struct txn_evaluator *e, const struct key_version *v);

/* The key's present version; NULL where there is none, or it is deleted. */
const struct key_version *txn_find(const struct txn_evaluator *e, struct bytes key);

/* Means nothing while probing, once a value is missing. */
bool txn_compares_pass(struct txn_evaluator *e, const struct txn *txn);

/* The items of a range as the batch has them: filtered, sorted, cut. An enum keyspace_result, or -errno. */
int txn_range(struct txn_evaluator *e, const struct range_request *r, struct range_selection *ret);
