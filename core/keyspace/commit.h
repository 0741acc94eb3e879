#pragma once

/*
 * A batch: the calls that are committed together, what they were evaluated to, and the records for the log. Built and
 * answered on the keyspace's loop; the datastore's worker only reads the records while it appends them.
 */

#include "keyspace/state.h"

struct batch_lease {
        int64_t id;
        bool alive; /* granted, else revoked, by this batch */
};

struct batch {
        struct keyspace *ks;
        struct arena arena;
        struct stoke_end base; /* the end it was evaluated on, and expects */
        uint64_t number;
        int64_t revision; /* with what the batch has so far */

        struct stoke_record *records; /* owned array; keys in the arena, values in blobs[] */
        struct blob **blobs;          /* one reference each */
        size_t n_records, capacity, bytes;

        struct keyspace_call **calls; /* owned array; NULL: cancelled, or answered early */
        size_t n_calls, calls_capacity;

        struct index overlay; /* keys that it changes; versions' seqs are behind base.seq */
        struct batch_lease *leases;
        size_t n_leases, leases_capacity;

        struct alarms alarms; /* as they will be, if it changes them */
        bool alarms_changed;

        struct datastore_job job;
        struct stoke_append append;
        struct stoke_keyspace name;
        uint64_t sent_ns;
        bool is_noop;
        bool is_recovery;
        bool moves;     /* a call of ks->moving */
        bool uncertain; /* its outcome is unknown */
        bool landed;    /* its records were found in the log */
};

/* What an evaluation comes to, besides negative errno (-ENOMEM). */
enum evaluation {
        EVALUATED = 0,  /* call->own.result and what is answered are set; given when the batch stands */
        EVALUATE_FETCH, /* own.fetch holds values that it needs first; nothing was changed */
        EVALUATE_HOLD, /* a Compact that must wait for the previous one's deletions, a pin in a sealed log; nothing was changed */
};

/* Adds a record at the next seq. value: a reference is taken over, NULL: none. */
void batch_add(struct batch *b, enum record_kind kind, int64_t revision, struct bytes key, struct blob *value,
        int64_t create_revision, int64_t version, int64_t lease);
/* The newest version of a key, as the batch has it so far; NULL: none. */
const struct key_version *batch_find(const struct batch *b, struct bytes key);
/* A put or tombstone: a record, and its place in the overlay. */
void batch_put(struct batch *b, int64_t revision, struct bytes key, struct blob *value, int64_t create_revision,
        int64_t version, int64_t lease);
void batch_delete(struct batch *b, int64_t revision, struct bytes key);
bool batch_has_lease(const struct batch *b, int64_t id);
void batch_set_lease(struct batch *b, int64_t id, bool alive);

/* The keys of a range in order, as the batch has them so far at a revision. */
struct batch_cursor {
        const struct batch *batch;
        const struct key_range *range;
        int64_t revision;
        struct index_cursor base, overlay;
        struct key_entry *next_base, *next_overlay;
};
void batch_seek(const struct batch *b, const struct key_range *range, int64_t revision, struct batch_cursor *ret);
/* The next living key's version, and the key in *ret_key (valid while the batch is); NULL: no more. */
const struct key_version *batch_next(struct batch_cursor *c, struct bytes *ret_key);

/* alarm.c: whether an alarm or the quota forbids a write; raises NOSPACE. KEYSPACE_OK, KEYSPACE_NO_SPACE, KEYSPACE_LOST (the alarm
 * CORRUPT). A change: what frees room, but for transactions. */
enum keyspace_result alarm_check_txn(struct batch *b, const struct txn *txn);
enum keyspace_result alarm_check_grant(struct batch *b);
enum keyspace_result alarm_check_change(struct batch *b);

/* recover.c */
void recover_evaluate(struct batch *b);

/* txn.c */
int txn_evaluate(struct keyspace_call *call, struct batch *batch);
