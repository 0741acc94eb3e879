#pragma once

/*
 * A keyspace: one tenant's data, as an etcd would keep it, over the log that a driver stores. Belongs to one loop; every
 * function here is for that loop's thread only, every callback comes on it, never from within the function that asked
 * (but for keyspace_free and the cancel functions, which call nothing back).
 *
 * The keyspace opens itself at the first call: takes the log (exclusive drivers), loads it, builds the index. Calls that come before wait, up
 * to their deadlines. When it has not been used for a time it closes itself, until the next call.
 *
 * The rooms behind this header: index.c (ordered keys with their versions), values.c (bounded cache), history.c (what
 * happened since compaction), txn.c (evaluates), commit.c (queue, batches, outcomes), barrier.c (linearizable reads), range.c,
 * watch.c, lease.c, alarm.c, hash.c, compact.c, load.c (opening, catching up, rebuilding), idle.c (closing what nobody uses), memory.c (the
 * budget of all keyspaces), pin.c, seal.c and switch.c (moving). Beside it: stream.h (reads a log for others), install.h (writes one),
 * verify.h (compares).
 */

#include <stokehold/driver.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/loop.h"
#include "driver/datastore.h"

struct keyspace;
struct value_cache;
struct memory;
struct batch;
struct fetch;
struct call_list;

/* How calls end: 0, or an outcome; core/etcd/status.c has etcd's code and text for each. */
enum keyspace_result {
        KEYSPACE_OK = 0,
        KEYSPACE_COMPACTED,           /* "mvcc: required revision has been compacted" */
        KEYSPACE_FUTURE_REVISION,     /* "mvcc: required revision is a future revision" */
        KEYSPACE_LEASE_NOT_FOUND,     /* "requested lease not found" */
        KEYSPACE_LEASE_EXISTS,        /* "lease already exists" */
        KEYSPACE_LEASE_TTL_TOO_LARGE, /* "too large lease TTL" */
        KEYSPACE_KEY_NOT_FOUND,       /* ignore_value or ignore_lease on a key that is not there: "key not found" */
        KEYSPACE_NO_SPACE,            /* quota, or the datastore is full: "mvcc: database space exceeded" */
        KEYSPACE_TOO_LARGE,           /* more than the driver can take: "request is too large" */
        KEYSPACE_TIMEOUT,             /* the call's deadline has passed: "request timed out" */
        KEYSPACE_UNAVAILABLE, /* datastore not reachable, or a write's outcome unknown at its deadline: "unhealthy cluster" */
        KEYSPACE_STOPPED,           /* being closed: "server stopped" */
        KEYSPACE_LOST,              /* HistoryLost, or corrupt: "corrupt cluster" */
        KEYSPACE_TOO_MANY_REQUESTS, /* a queue is full: "too many requests" */
};

/* What a daemon knows of a log from its last life. */
struct keyspace_known {
        struct stoke_end end; /* seq 0: nothing */
        int64_t revision;
};

/* What one tenant's clients may do. Only carried, but for leases. Zero: the default. */
struct keyspace_limits {
        size_t request_bytes;    /* of a write; 1.5 MiB, as etcd's --max-request-bytes */
        unsigned txn_operations; /* 128, as etcd's --max-txn-ops */
        unsigned txn_nesting;    /* transactions within transactions; 48, and no more than that */
        size_t watches;          /* 200,000 */
        size_t stream_watches;   /* of one stream; 100,000 */
        size_t watch_bytes;      /* queued for a slow client of one stream, before its watches wait for it; 1 MiB */
        size_t leases;           /* 100,000 */
};
extern const struct keyspace_limits keyspace_default_limits;

struct keyspace_config {
        const char *name; /* the tenant's, copied */
        uint8_t incarnation[16];
        /* What clients know it by comes from this, and stays through migrations; all zero: the incarnation. */
        uint8_t cluster[16];
        uint8_t daemon[16];          /* this daemon's incarnation, for origins */
        struct datastore *datastore; /* borrowed */
        struct loop *loop;           /* borrowed */
        struct value_cache *cache;   /* borrowed, the shard's */
        struct memory *memory;       /* borrowed: keyspace/memory.h; NULL: no budget */
        uint64_t quota_bytes;        /* 0: none */
        uint64_t auto_compact_ns;    /* history kept by automatic compaction; 0: off */
        uint64_t idle_close_ns;      /* without clients for so long it is closed, until the next call; 0: never */
        uint64_t
                progress_notify_ns; /* how often idle watches are told where they are, if they asked for it; 0: never. Only carried */
        uint64_t slow_commit_ns; /* a commit that takes longer is logged; 0: 500 ms */
        size_t max_queue;        /* calls that wait for a batch; 0: 100,000 */
        struct keyspace_limits limits;
        struct keyspace_known known; /* a log that contradicts it is KEYSPACE_HISTORY_LOST */
        /* Not all zero: the log is taken as it is, whatever is known, and continued above this revision and its own, once for this id. */
        uint8_t recovery[16];
        int64_t recover_above;
        bool quarantined; /* it is not opened, whoever asks */
        /* Set while the log is read from its beginning; borrowed; may be NULL. */
        _Atomic uint32_t *opening;
        /* The keyspace's condition has changed: see keyspace_condition(). May be NULL. */
        void (*on_condition)(void *userdata);
        /* A seal was read in its log (not one that keyspace_seal() here is about to tell of): from now on all is held, until an unseal of the
         * same id is read or appended, or keyspace_switch(). The registry is to be asked what became of that migration. Comes again when the
         * keyspace is opened anew, or another seal is read. May be NULL. */
        void (*on_sealed)(void *userdata, const uint8_t id[16]);
        void *userdata;
};

int keyspace_new(const struct keyspace_config *config, struct keyspace **ret);
/* Ends all calls and watches with KEYSPACE_STOPPED, waits for what is under way at the datastore, gives the log back, and calls done
 * (may be NULL); then keyspace_free() may be called. */
void keyspace_close(struct keyspace *ks, void (*done)(void *userdata), void *userdata);
/* After keyspace_close() is done, or before anything was asked of it. */
void keyspace_free(struct keyspace *ks);
DEFINE_FREEP(keyspace)

/* The first record of a new keyspace's log, for driver.create: revision 1, as a fresh etcd has. hash and origin included. */
void keyspace_first_record(const uint8_t daemon[16], struct stoke_record *ret);

enum keyspace_condition {
        KEYSPACE_CLOSED, /* not opened yet, or closed after idling */
        KEYSPACE_OPENING,
        KEYSPACE_SERVING,
        KEYSPACE_UNREACHABLE,  /* opening failed, or the last commit or barrier did; tried again */
        KEYSPACE_HISTORY_LOST, /* the log is not the one that was known */
        KEYSPACE_DROPPED,      /* the datastore has no keyspace of this incarnation (any more) */
        KEYSPACE_NO_MEMORY,    /* opening was refused: it does not fit into memory; a later call tries again */
        KEYSPACE_QUARANTINED,  /* it is not opened, since the daemon has crashed with it */
};
struct keyspace_status {
        enum keyspace_condition condition;
        const char *reason; /* "" or why it is not serving; valid until the next event */
        int64_t revision;   /* applied */
        int64_t compacted;
        struct stoke_end end;  /* of the log, applied */
        uint64_t n_keys;       /* living */
        uint64_t n_versions;   /* in the index */
        uint64_t bytes_live;   /* keys and values of living keys: etcd's dbSizeInUse */
        uint64_t bytes_log;    /* keys and values of all records not yet deleted: etcd's dbSize */
        uint64_t bytes_memory; /* index, history and leases, without cached values */
        uint64_t n_watchers;
        uint64_t n_leases;
        uint64_t n_alarms; /* that stand */
        uint64_t n_pins;   /* that stand */
        bool held;         /* writes and linearizable reads wait: by keyspace_hold(), a seal, or a switch under way */
        bool sealed;       /* its log is, as far as it was read (`end`) */
        bool switching;    /* keyspace_switch() is under way */
        uint8_t seal_id[16];
        uint64_t held_ns; /* for how long by now; 0: not held */
};
void keyspace_get_status(struct keyspace *ks, struct keyspace_status *ret);
const char *keyspace_name(const struct keyspace *ks);
const uint8_t *keyspace_incarnation(const struct keyspace *ks);
struct loop *keyspace_loop(const struct keyspace *ks);
struct datastore *keyspace_datastore(const struct keyspace *ks);
/* What clients know it by, never 0: the cluster's id comes from config.cluster, the member's from the name beside it, so that all daemons
 * that serve it are one member. */
uint64_t keyspace_cluster_id(const struct keyspace *ks);
uint64_t keyspace_member_id(const struct keyspace *ks);
uint64_t keyspace_quota(const struct keyspace *ks);
const struct keyspace_limits *keyspace_limits(const struct keyspace *ks);
uint64_t keyspace_progress_notify_ns(const struct keyspace *ks);
/* Where clients reach it, as URLs: only carried, for MemberList. Copied; 0, -ENOMEM. */
int keyspace_set_endpoints(struct keyspace *ks, const char *const *urls, size_t n_urls);
const char *const *keyspace_endpoints(const struct keyspace *ks, size_t *ret_n);

/* ---- calls. Embedded in the caller's structure, zeroed before first use, alive until done or cancelled. */

struct keyspace_call {
        /* Set by the caller. */
        void (*done)(struct keyspace_call *call, enum keyspace_result result);
        uint64_t deadline_ns; /* CLOCK_MONOTONIC; UINT64_MAX: none */
        struct arena *arena;  /* for what is answered; borrowed until done or cancelled */
        /* Answered, at done: the revision for the response's header. For a write its own. */
        int64_t revision;
        /* The keyspace's own. */
        struct {
                struct keyspace *keyspace;
                struct keyspace_call *next, *previous; /* on `list` */
                struct call_list *list;
                int (*evaluate)(struct keyspace_call *call, struct batch *batch);
                void (*resume)(struct keyspace_call *call, enum keyspace_result result);
                void (*forget)(struct keyspace_call *call); /* drops what the call holds */
                struct fetch *fetch;                        /* owned: values that it needs */
                struct batch *batch;                        /* that it was evaluated in */
                size_t slot;                                /* there */
                uint64_t arrived_ns;
                enum keyspace_result result;
                bool fresh;    /* the index holds all that was acknowledged before the call */
                bool reread;   /* a value was not in the datastore: the log was caught up with once for that */
                bool internal; /* the keyspace's own: nobody uses it for that */
                bool moves;    /* a seal, an unseal, a pin: passes a hold */
        } own;
};
/* done will not be called; a write that is under way may still happen. Harmless after done. */
void keyspace_cancel(struct keyspace_call *call);

/* A key's version, as answered. */
struct kv {
        struct bytes key; /* in the call's arena, or valid as long as said where it is given */
        int64_t create_revision, mod_revision, version, lease;
        struct blob *value;  /* a reference of its holder's; NULL: not asked for */
        uint32_t value_size; /* of the stored value, also without it */
};

/* range_end as in etcd: empty: the one key; "\0": all from key on; otherwise up to it, exclusive. */
struct key_range {
        struct bytes key, end;
};

enum sort_target { SORT_KEY, SORT_VERSION, SORT_CREATE, SORT_MOD, SORT_VALUE };
enum sort_order { SORT_NONE, SORT_ASCEND, SORT_DESCEND };

struct range_request {
        struct key_range range;
        int64_t revision; /* 0: the newest */
        int64_t limit;    /* 0: none */
        bool keys_only, count_only, serializable;
        enum sort_target sort_target;
        enum sort_order sort_order;
        int64_t min_mod, max_mod, min_create, max_create; /* 0: none */
};

struct compare {
        enum { COMPARE_EQUAL, COMPARE_GREATER, COMPARE_LESS, COMPARE_NOT_EQUAL } result;
        enum { COMPARE_VERSION, COMPARE_CREATE, COMPARE_MOD, COMPARE_VALUE, COMPARE_LEASE } target;
        struct key_range range;
        int64_t number; /* for all targets but COMPARE_VALUE */
        struct bytes value;
};

struct txn;
struct txn_result;

enum txn_op_kind { OP_RANGE, OP_PUT, OP_DELETE, OP_TXN };
struct txn_op {
        enum txn_op_kind kind;
        union {
                struct range_request range;
                struct {
                        struct bytes key, value;
                        int64_t lease;
                        bool prev_kv, ignore_value, ignore_lease;
                } put;
                struct {
                        struct key_range range;
                        bool prev_kv;
                } delete;
                const struct txn *txn;
        };
};
struct txn {
        const struct compare *compares; /* all must hold */
        size_t n_compares;
        const struct txn_op *success, *failure;
        size_t n_success, n_failure;
};

struct op_result {
        enum txn_op_kind kind;
        int64_t revision; /* for the operation's own header, as etcd gives it */
        union {
                struct {
                        struct kv *kvs;
                        size_t n_kvs;
                        int64_t count;
                        bool more;
                } range;
                struct {
                        struct kv *prev; /* NULL: not asked for, or there was none */
                } put;
                struct {
                        int64_t deleted;
                        struct kv *prev;
                        size_t n_prev;
                } delete;
                struct txn_result *txn;
        };
};
struct txn_result {
        bool succeeded;
        struct op_result *results; /* of the branch taken, in the order of its operations */
        size_t n_results;
};

/* Put, DeleteRange and Txn are all this. The txn and all it points to must stay valid until done or cancelled (copies are made of what is
 * written). At done the result is in the call's arena; txn_result_release() drops its references to values. The caller has checked for
 * duplicate keys, numbers of operations and sizes. */
struct txn_call {
        struct keyspace_call call;
        const struct txn *txn;
        struct txn_result result;
};
void keyspace_txn(struct keyspace *ks, struct txn_call *call);
void txn_result_release(struct txn_call *call);

/* Range and RangeStream: the answer comes in slices, so that neither memory nor the loop is held up by a long one. */
struct range_call {
        struct keyspace_call call;
        struct range_request request; /* keys must stay valid until done or cancelled */
        /* The next kvs, in order, with their values (unless keys_only); the keys and references are valid during the function only
         * (blob_ref() to keep). false: pause; go on with keyspace_range_resume(). Not called at all with count_only. */
        bool (*on_slice)(struct range_call *call, const struct kv *kvs, size_t n_kvs);
        /* At the first slice and at done. */
        int64_t count;
        bool more;
        /* The keyspace's own. */
        struct {
                struct range_state *state; /* owned: a long one's */
        } own;
};
void keyspace_range(struct keyspace *ks, struct range_call *call);
void keyspace_range_resume(struct range_call *call);

/* Done once the index holds all that was acknowledged anywhere before the call: call.revision is its revision then. */
void keyspace_barrier(struct keyspace *ks, struct keyspace_call *call);
/* The same for who only wants to know whether it can be done: that is no use of the keyspace, which may be closed as idle all the same. */
void keyspace_probe(struct keyspace *ks, struct keyspace_call *call);

struct compact_call {
        struct keyspace_call call;
        int64_t revision_wanted;
        bool physical; /* done only after the records were deleted from the datastore */
        bool again; /* at the revision that is compacted already: for what has died since without a revision, such as keep-alives */
        struct {
                struct keyspace *keyspace;
                void (*done)(struct keyspace_call *call, enum keyspace_result result);
        } own;
};
void keyspace_compact(struct keyspace *ks, struct compact_call *call);

struct lease_call {
        struct keyspace_call call;
        int64_t id;  /* grant: 0: one is chosen */
        int64_t ttl; /* seconds. grant: asked for, then granted; keepalive: answered, 0 with KEYSPACE_LEASE_NOT_FOUND */
        bool with_keys; /* lease_time_to_live: keys are wanted */
        /* Answered by grant and time_to_live: seconds. */
        int64_t granted_ttl;
        struct bytes *keys; /* time_to_live: in the arena, ascending */
        size_t n_keys;
        /* Answered by leases. */
        int64_t *ids;
        size_t n_ids;
};
void keyspace_lease_grant(struct keyspace *ks, struct lease_call *call);
void keyspace_lease_revoke(struct keyspace *ks, struct lease_call *call);
void keyspace_lease_keep_alive(struct keyspace *ks, struct lease_call *call);
/* ttl: the remaining seconds, -1 for a lease that is not there (and the result is KEYSPACE_OK then, as etcd answers). */
void keyspace_lease_time_to_live(struct keyspace *ks, struct lease_call *call);
void keyspace_leases(struct keyspace *ks, struct lease_call *call);

/* All leases and what is left of their time, as this daemon counts it now: for whoever copies the log, which does not say. */
struct lease_left {
        int64_t id, ttl; /* seconds */
        int64_t left_ms;
};
/* Ascending by id, owned by the caller; NULL: none, or no memory (then *ret_n is not 0). */
struct lease_left *keyspace_leases_left(struct keyspace *ks, size_t *ret_n);

/* As etcd numbers them; clients may raise any number. */
enum alarm_type {
        ALARM_NONE = 0, /* of a request: all, or none */
        ALARM_NOSPACE = 1,
        ALARM_CORRUPT = 2, /* nothing is changed while it stands: KEYSPACE_LOST */
};
struct keyspace_alarm {
        uint64_t member;
        int32_t type;
};
struct alarm_call {
        struct keyspace_call call;
        enum { ALARM_GET, ALARM_ACTIVATE, ALARM_DEACTIVATE } action;
        uint64_t member; /* not looked at by GET, as in etcd */
        int32_t type;
        /* Answered, in the arena: those asked for; the one raised, or that stood; the one disarmed, if there was. */
        struct keyspace_alarm *alarms;
        size_t n_alarms;
};
/* At most 64 stand at a time: KEYSPACE_TOO_MANY_REQUESTS. NOSPACE is also raised by the first write beyond the quota. */
void keyspace_alarm(struct keyspace *ks, struct alarm_call *call);
/* Those that stand now, as far as this daemon knows; how many were written. */
size_t keyspace_alarms(const struct keyspace *ks, struct keyspace_alarm *ret, size_t n_most);

/* A hash over all that a reader can see at a revision: equal in every daemon, whatever was deleted from the datastore and whatever
 * serves. Made in slices on the loop, from memory. */
struct hash_call {
        struct keyspace_call call;
        int64_t revision_wanted; /* 0: the newest */
        /* Answered. */
        uint32_t hash;
        int64_t compacted, hashed; /* over what is above `compacted` (and what lives there), up to `hashed` */
        struct {
                struct loop_timer timer;
                uint8_t *next; /* owned: the key to go on with */
                size_t next_size;
                uint64_t sum;
        } own;
};
/* KEYSPACE_COMPACTED, KEYSPACE_FUTURE_REVISION. */
void keyspace_hash(struct keyspace *ks, struct hash_call *call);

/* ---- moving: pins, holds, seals, switches (pin.c, seal.c, switch.c) */

/*
 * A pin: while it stands, nothing is deleted from the datastore physically, by any daemon. Compactions go on and are answered (a
 * physical one too), their deletions wait. What is dead already when it is asked for is deleted first, which may take a while. A copy that begins once it stands (on_pinned) sees a log to which records are only added; what it
 * misses was dead before. Renewed by itself, in the log where others write it too.
 */
struct pin;
struct pin_config {
        uint64_t ttl_ns; /* for how long others honour it when this daemon has gone; 0: 60 s; whole seconds */
        /* It stands; the log ended so, at this revision, when it was asked for. Calls come on the loop. */
        void (*on_pinned)(void *userdata, const struct stoke_end *end, int64_t revision);
        /* It could not be renewed in time, or never came to stand: what was copied under it may be incomplete. It remains to be freed. */
        void (*on_lost)(void *userdata, const char *reason);
        void *userdata;
};
void keyspace_pin(struct keyspace *ks, const struct pin_config *config, struct pin **ret);
/* Gives it up, and frees it; also in a log that the keyspace was switched to meanwhile. Before keyspace_close(). Takes NULL. */
void keyspace_unpin(struct pin *pin);

/*
 * Holds calls: writes and linearizable reads (of leases, their keep-alives and ends too) wait, in order, up to their deadlines; then they
 * get what etcd without a leader gives, and are never evaluated later. Serializable reads and watches go on. Counted: each hold needs its
 * release. What is at the datastore already is answered as ever. A lease's time stands still meanwhile. A seal that was read holds by itself.
 */
void keyspace_hold(struct keyspace *ks);
void keyspace_release_hold(struct keyspace *ks);

/* Seals and unseals pass a hold. Both are repeated by themselves until they are certain, or the deadline is over (KEYSPACE_TIMEOUT,
 * KEYSPACE_UNAVAILABLE: it may have happened, or happen still; only keyspace_unseal() of the same id makes that void). */
struct seal_call {
        struct keyspace_call call;
        uint8_t id[16];     /* the migration's */
        const char *target; /* keyspace_seal(): for people; borrowed until done; may be NULL */
        /* Answered with KEYSPACE_OK. */
        enum {
                SEAL_STANDS, /* keyspace_seal(): the log is sealed under this id, and ends with `end` */
                SEAL_OTHER,  /* keyspace_seal(): it is sealed under another id; nothing was done */
                SEAL_VOID,   /* keyspace_seal(): this id's unseal was read: it can never seal again; nothing was done */
                SEAL_UNSEALED, /* keyspace_unseal(): the unseal is in the log */
        } outcome;
        struct stoke_end end; /* the seal's, or the unseal's record */
        int64_t revision;     /* the log's there */
        struct {
                struct keyspace *keyspace;
                void (*done)(struct keyspace_call *call, enum keyspace_result result);
                bool seals;
        } own;
};
/* Appends the seal behind all that was begun before. From then on the keyspace is sealed, and all is held. */
void keyspace_seal(struct keyspace *ks, struct seal_call *call);
/* Appends an unseal of this id, whether or not its seal is seen (one that is still under way becomes stale), unless it is in the log already.
 * Where it lifts the seal calls go on. */
void keyspace_unseal(struct keyspace *ks, struct seal_call *call);

/*
 * Goes on in another datastore. Where the log there is the same one (a migration), all stays as it is: index, watches, leases, cached values;
 * what is behind this keyspace's end is loaded from the target, and the calls that were held are answered there. An append whose outcome is not
 * known yet is settled by what is in that log. Where it is another log (a restore) all is loaded anew; watches are cancelled as compacted where
 * they must be, and go on where they can.
 *
 * What is under way at the old datastore is waited for (and hurried); an exclusive log is given back there, and taken at the target. One that is
 * closed is opened there by its next call; one that is KEYSPACE_DROPPED or HISTORY_LOST may be opened again. A target that cannot be reached is
 * tried again as any datastore is. One switch at a time; a later one replaces where to go as long as the first has not got there.
 */
struct keyspace_switch {
        struct datastore *datastore; /* borrowed */
        uint8_t incarnation[16];
        bool other_log;              /* it is not this keyspace's log that is there */
        struct keyspace_known known; /* other_log: what is known of it; else what is known stays */
        /* It is there: 0: it serves, or is closed and will be opened there; -ESTALE: the log there is not this keyspace's (HISTORY_LOST);
         * -ENOENT: there is none; -ECANCELED: it was closed meanwhile. May be NULL. */
        void (*done)(void *userdata, int result, const char *reason);
        void *userdata;
};
void keyspace_switch(struct keyspace *ks, const struct keyspace_switch *config);

/* ---- watching */

struct watch_event {
        bool is_delete;
        struct kv kv;   /* a delete: key and mod_revision only */
        bool has_prev;  /* if any watcher of this event asked for it */
        struct kv prev; /* with its value */
        /* For whoever sends the same event to many watchers: packed once, dropped by the hub. [1]: with prev. */
        struct blob *packed[2];
};

struct watcher;
struct watcher_config {
        struct key_range range; /* copied */
        int64_t start_revision; /* 0: behind the present one; in the future: silent until then */
        bool prev_kv, no_put, no_delete;
        void *userdata;
        /* The watch stands; comes first. revision: the keyspace's at this time. */
        void (*on_created)(void *userdata, int64_t revision);
        /* All events of one or more whole revisions, in order; with this all up to `revision` was delivered. The events are valid
         * during the function only. false: pause, go on with watcher_resume(). */
        bool (*on_events)(void *userdata, struct watch_event *const *events, size_t n_events, int64_t revision);
        /* It was behind (created in the past, paused) and has all up to `revision`, the newest, now. */
        void (*on_synced)(void *userdata, int64_t revision);
        /* The watch is dead (watcher_free() remains to be called): what it needs was compacted (KEYSPACE_COMPACTED, with the compacted
         * revision), or the keyspace is closed (KEYSPACE_STOPPED) or lost (KEYSPACE_LOST). */
        void (*on_cancelled)(void *userdata, enum keyspace_result result, int64_t compact_revision);
};
int keyspace_watch(struct keyspace *ks, const struct watcher_config *config, struct watcher **ret);
void watcher_resume(struct watcher *watcher);
/* All events up to this revision were delivered: the revision that a progress notification may carry. */
int64_t watcher_position(const struct watcher *watcher);
/* Callbacks end with this, also from within one. */
void watcher_free(struct watcher *watcher);
DEFINE_FREEP(watcher)

/* ---- the shard's cache of values, shared by its keyspaces */

/* memory: the budget that it shares, told on loop; both NULL: none. */
struct value_cache *value_cache_new(size_t max_bytes, struct memory *memory, struct loop *loop);
/* After the last keyspace. */
void value_cache_free(struct value_cache *cache);
DEFINE_FREEP(value_cache)
struct value_cache_figures {
        size_t bytes, max_bytes, n_values;
        uint64_t n_hits, n_misses;
};
void value_cache_get_figures(const struct value_cache *cache, struct value_cache_figures *ret);
