#pragma once

/*
 * What the files of this room share: a keyspace's state, and who may do what to it. For core/keyspace only; everybody
 * else includes keyspace/keyspace.h.
 *
 * The state of opening is `condition`; the state of the log's head is `head`: at most one of an append, a catch-up and the
 * closing of an open question is under way, since each changes what the next must name as the log's end.
 */

#include <sys/queue.h>

#include "base/metrics.h"
#include "keyspace/history.h"
#include "keyspace/index.h"
#include "keyspace/keyspace.h"
#include "keyspace/memory.h"
#include "keyspace/record.h"
#include "keyspace/values.h"

/* A list of calls; a call is on at most one. */
struct call_list {
        struct keyspace_call *first, *last;
        size_t n;
};

enum head_state {
        HEAD_IDLE,      /* a batch may be begun */
        HEAD_APPENDING, /* commit.c: a batch is at the datastore */
        HEAD_LOADING,   /* load.c: the tail, or all, is being read */
        HEAD_PAUSED,    /* commit.c: waits before the next try */
};

/* A question under way; one that the keyspace has turned away from is nobody's, and is freed when it comes back. */
struct barrier_question {
        struct datastore_question question;
        struct keyspace *ks;
};
struct barrier {
        struct call_list waiting; /* for the next question */
        struct call_list asked;   /* wait for the one under way */
        struct call_list loading; /* wait until the index holds what is at `wanted` */
        struct stoke_end known;   /* the end when the question was sent */
        struct call_list free;    /* serializable: pass in the deferred work */
        struct loop_task free_task;
        struct stoke_end wanted;           /* the newest answer that `loading` waits for */
        struct stoke_end wanted_known;     /* the end when that question was sent */
        bool must_load;                    /* the answers contradict each other: only a load tells */
        bool loads;                        /* a load was begun for `loading`: whatever it brings will do */
        struct barrier_question *question; /* owned: under way; or NULL */
        struct loop_task task;
        struct loop_timer retry;
};

struct lease {
        UT_hash_handle hh;
        int64_t id;
        int64_t ttl;          /* seconds */
        uint64_t expires_ns;  /* from when this daemon learnt of it, or of its last keep-alive */
        uint64_t seq;         /* of its record */
        uint64_t renewed_seq; /* of the record that it counts from */
        uint64_t left_seq;    /* of the record that says what is left of it, unless it was kept alive since; else 0 */
        int64_t left_ms;
        struct lease_item *items; /* owned, uthash by entry: the keys attached to it */
        struct loop_timer timer;
        struct keyspace *ks;
        bool expiring; /* on ks->leases.expired */
        TAILQ_ENTRY(lease) link;
};
struct lease_item {
        UT_hash_handle hh;
        struct key_entry *entry; /* borrowed */
        struct lease *lease;
};
struct leases {
        struct lease *table; /* owned, uthash by id */
        size_t n_items;      /* of all leases */
        TAILQ_HEAD(, lease) expired;
        struct keyspace_call call; /* the one that ends what has expired */
        bool calling;
        struct loop_timer retry;
};

struct alarm {
        uint64_t member;
        int32_t type; /* enum alarm_type, or any number that a client chose */
        uint64_t seq; /* of its record */
};
struct alarms {
        struct alarm *list; /* owned, in the order they were raised */
        size_t n;
};

struct seq_list {
        uint64_t *seqs; /* owned */
        size_t n, capacity;
        uint64_t mark; /* of what is to be deleted: seq of the mark that names it */
};

struct compaction {
        struct seq_list *rounds; /* owned: of earlier marks, the first of all first: to be deleted before `dead` */
        size_t n_rounds;
        struct seq_list
                deleted; /* of the round that is being deleted, or was last: an installation's copy may have them still */
        unsigned generation;           /* of what is dead: what was named before it was dropped is not named again */
        uint64_t mark;                 /* seq of the newest mark applied; 0: none */
        bool own;                      /* this daemon appended it */
        bool pruning;                  /* history items below `compacted` are left */
        struct loop_timer timer;       /* the next slice of pruning */
        struct loop_timer retry;       /* the next try to delete */
        struct seq_list pending;       /* dead once a later mark stands */
        struct seq_list pending_later; /* tombstones likewise, one mark later still */
        struct seq_list later;         /* tombstones that the next mark may name */
        struct seq_list dead;          /* named by the newest mark: to be deleted */
        struct compact_job *job;       /* owned, under way */
        bool fenced;                   /* `first` was done for this mark */
        struct call_list physical;     /* Compact calls that wait for the deletions */
        struct call_list held;         /* Compact calls that wait for the previous mark's deletions */
};

/* Automatic compaction: what the revision was, some times ago. */
#define AUTO_SAMPLES 10
struct auto_compaction {
        struct loop_timer timer;
        int64_t samples[AUTO_SAMPLES]; /* a ring of revisions, `interval / AUTO_SAMPLES` apart */
        unsigned n_samples, at;
        unsigned quiet;    /* samples since somebody else compacted */
        bool others;       /* somebody else has compacted */
        int64_t compacted; /* as seen at the last sample */
        struct compact_call call;
        bool calling;
        uint64_t stopped_ns;      /* the keyspace was closed then, ... */
        int64_t stopped_revision; /* ... at this revision; 0: never */
};

/* idle.c: closing what nobody uses, and refusing what does not fit. */
struct idleness {
        struct loop_timer timer; /* open: looks whether it is idle; closed: opens it for a lease */
        struct loop_task slice;  /* of taking down */
        enum { IDLE_NOT, IDLE_EMPTYING, IDLE_RELEASING } phase;
        unsigned n_refused;        /* openings in a row */
        uint64_t refused_until_ns; /* who comes before is refused too */
        size_t needs;              /* bytes of memory, at least; 0: not known */
};
/* What a keyspace that was closed while idle knows of its leases; of its log, config.known says what it was. */
struct past_lease {
        int64_t id;
        uint64_t expires_ns;
};
struct past {
        struct past_lease *leases; /* owned, by id; only while it is closed */
        size_t n_leases;
        uint64_t expires_ns; /* the first of them */
};

/* pin.c, seal.c, switch.c: what stands in the way of calls and deletions, and going on elsewhere. */
struct log_pin {
        int64_t id;
        uint64_t seq;        /* of its first record */
        uint64_t expires_ns; /* from when this daemon learnt of it, as leases */
};
struct ended_migration {
        uint8_t id[16];
        struct stoke_end end; /* of its unseal */
        int64_t revision;
};
enum switch_phase {
        SWITCH_NONE,
        SWITCH_WAITING,   /* for what is under way at the old datastore; nothing new is begun there */
        SWITCH_RELEASING, /* the log is given back there */
        SWITCH_LOADING,   /* at the target, not yet served from there */
};
struct moving {
        struct call_list calls; /* seals, unseals, pins: before the queue, one a batch */
        struct call_list later; /* those that cannot be appended to a sealed log */

        unsigned n_holds;
        uint64_t held_ns; /* since when; 0: not held */
        bool sealed, told;
        uint8_t seal_id[16];
        struct stoke_end seal_end;
        int64_t seal_revision;
        struct ended_migration *ended; /* owned: whose unseal is in the log */
        size_t n_ended;
        struct loop_task told_task;

        TAILQ_HEAD(, pin) own; /* of this daemon */
        struct log_pin *pins;  /* owned: in the log, given up ones are not */
        size_t n_pins;
        struct loop_timer pins_timer; /* the next of them is over */

        enum switch_phase phase;
        struct keyspace_switch to;
        struct loop_task switch_task, ended_task;
        struct loop_timer hurry;
        size_t n_detached;            /* questions that nobody waits for */
        struct datastore_job *parked; /* to be submitted at the target, in order */
        /* How the last one ended, to be told. */
        void (*done)(void *userdata, int result, const char *reason);
        void *done_userdata;
        int result;
        char reason[256];
};

struct watch_hub {
        TAILQ_HEAD(watcher_list, watcher) watchers; /* all */
        size_t n_watchers;
        struct watcher **sorted;   /* synced ones by the start of their range, for publishing; owned */
        struct watcher **furthest; /* a tree over sorted[]: whose range reaches furthest below each node; owned */
        size_t n_sorted, sorted_capacity;
        bool stale;        /* sorted[] must be made anew */
        int64_t published; /* all synced watchers have what is up to this revision */
        unsigned busy;     /* watchers are walked: freed ones are reaped afterwards */
        bool reap;
        struct loop_task task, created_task;
};

struct keyspace {
        char *name;
        uint8_t incarnation[16];
        uint8_t daemon[16];
        uint64_t cluster_id, member_id;    /* what clients know it by */
        struct datastore *datastore;       /* borrowed */
        const struct stoke_driver *driver; /* its */
        struct stoke_limits limits;        /* the driver's, or tighter: the server's */
        struct loop *loop;                 /* borrowed */
        struct keyspace_config config;     /* without the strings */
        bool exclusive;                    /* nobody else can append: the index is current */

        char **endpoints; /* owned: URLs, only carried */
        size_t n_endpoints;

        enum keyspace_condition condition;
        char *reason; /* owned, or NULL */
        bool open;    /* the index is the log's; a reachable datastore is `condition` */
        bool acquired, closing, releasing;
        struct memory_user *memory; /* owned: its part of the budget, and when it was used last */
        struct idleness idle;
        struct past past;
        size_t n_jobs; /* at the datastore */
        void (*closed)(void *userdata);
        void *closed_userdata;
        struct loop_task close_task;

        /* The applied log. */
        struct stoke_end end;
        int64_t revision, compacted;
        uint8_t recovered[16]; /* id of the newest recovery in the log */
        struct index index;
        struct history history;
        struct values values;
        uint64_t bytes_live, bytes_log, n_versions;
        uint64_t sum;          /* over all versions and leases */
        uint64_t changed;      /* seq of the last record that brought one, or ended a lease */
        struct verify *verify; /* borrowed: compares a copy with it; or NULL */

        /* commit.c */
        struct call_list queue;
        enum head_state head;
        struct batch *batch;       /* owned: the one at the datastore, or of unknown outcome */
        struct batch *closer;      /* owned: a noop that shall settle the outcome of `batch` */
        struct call_list fetching; /* calls whose values are being read */
        struct call_list ranging;  /* ranges that are answered in slices */
        struct call_list late;     /* calls that end in this iteration's deferred work */
        struct loop_task late_task;
        size_t max_calls;    /* of the next batch; 0: as many as fit */
        uint64_t next_batch; /* number */
        struct loop_task begin_task;
        struct loop_timer pause_timer;
        unsigned n_failures;      /* in a row, with the end unchanged: the pause before the next try grows */
        unsigned n_quiet;         /* pauses in a row in which nobody else wrote */
        unsigned n_alone;         /* commits in a row without foreign records */
        bool was_stale;           /* the load under way was asked for by a refused append */
        bool loaded_nothing;      /* the last load found no new record */
        bool reload;              /* the last load failed: again after the pause */
        bool grown;               /* others have appended since the last load was begun, it was told */
        bool foreign;             /* somebody else has appended since this daemon opened it */
        uint64_t append_ns;       /* a moving mean of what an append takes */
        struct loop_timer ageing; /* ends calls whose time is over while nothing moves */
        struct call_list opening; /* calls from before it was open */

        struct load *load; /* owned, under way */
        struct datastore_question lost_question;
        struct loop_timer reopen;
        unsigned n_failed_opens;
        struct datastore_job release_job;
        struct stoke_keyspace release_name;
        struct datastore_subscription *subscription; /* shared: tells of growth; owned */
        struct loop_timer follow;                    /* shared: asks each second in case a notice was missed */
        struct keyspace_call follow_call;

        struct moving moving;
        struct barrier barrier;
        struct leases leases;
        struct alarms alarms;
        struct call_list hashing; /* hash.c: calls under way */
        struct compaction compaction;
        struct auto_compaction automatic;
        struct watch_hub hub;

        /* The longest slices so far, in the units and bytes that bound them. */
        size_t slice_units, slice_bytes;

        struct metric *m_commits, *m_records, *m_seconds, *m_refused;
};

/* ---- calls and lists (call.c) */

void calls_init(struct keyspace *ks);
void call_list_init(struct call_list *list);
void call_list_add(struct call_list *list, struct keyspace_call *call);
void call_list_add_first(struct call_list *list, struct keyspace_call *call);
/* Harmless when it is on none. */
void keyspace_call_unlink(struct keyspace_call *call);
struct keyspace_call *call_list_take(struct call_list *list);
/* Moves all of `from` to the end of `to`. */
void call_list_join(struct call_list *to, struct call_list *from);
/* Begins a call: true: go on; false: it waits for the opening (resume(call, 0) is called then, or the call ends). */
bool keyspace_enter(struct keyspace *ks, struct keyspace_call *call,
        void (*resume)(struct keyspace_call *call, enum keyspace_result result));
/* Takes the call off everything and calls done. Not from within the function that the caller called: keyspace_call_end_later(). */
void keyspace_call_end(struct keyspace_call *call, enum keyspace_result result);
void call_list_end(struct call_list *list, enum keyspace_result result);
/* Ends the call later in this iteration: for use within the function that the caller called. */
void keyspace_call_end_later(struct keyspace_call *call, enum keyspace_result result);
/* Ends those whose deadline is over, with KEYSPACE_TIMEOUT, or that have waited for longer than etcd would, with KEYSPACE_UNAVAILABLE
 * (patient: they may wait for as long as it takes). */
void call_list_age(struct keyspace *ks, struct call_list *list, bool patient);
/* Lost or dropped: for good, as far as this structure goes. */
static inline bool keyspace_is_over(const struct keyspace *ks) {
        return ks->condition == KEYSPACE_HISTORY_LOST || ks->condition == KEYSPACE_DROPPED;
}
static inline enum keyspace_result keyspace_over_result(const struct keyspace *ks) {
        return ks->condition == KEYSPACE_HISTORY_LOST ? KEYSPACE_LOST : KEYSPACE_UNAVAILABLE;
}
void keyspace_set_condition(struct keyspace *ks, enum keyspace_condition condition, const char *format, ...)
        printf_like(3, 4);
/* The index is the log's: calls and watches that waited go on. */
void keyspace_on_open(struct keyspace *ks);
struct stoke_keyspace keyspace_stoke(struct keyspace *ks);
/* Calls wait while nothing moves: their ages are looked at from now on. */
void keyspace_stalled(struct keyspace *ks);

/* ---- jobs: counted, so that closing can wait for them */

/* While the keyspace goes elsewhere it waits until it is there. */
void keyspace_submit(struct keyspace *ks, struct datastore_job *job);
void keyspace_submit_now(struct keyspace *ks, struct datastore_job *job);
void keyspace_ask(struct keyspace *ks, struct datastore_question *question);
void keyspace_job_ended(struct keyspace *ks);
/* Goes on with closing if it was waiting for the last job; last thing in each job's done. */
void keyspace_check_closed(struct keyspace *ks);
/* A job's deadline from a call's: at most 30 s from now. */
uint64_t keyspace_job_deadline(uint64_t deadline_ns);

/* Gives the log back to the datastore (exclusive drivers); ends in idle_on_released(), or in closing. */
void keyspace_release(struct keyspace *ks);
/* Of memory: what it has in index, history and leases. */
size_t keyspace_bytes(const struct keyspace *ks);

/* ---- idle.c */

void idle_init(struct keyspace *ks);
void idle_done(struct keyspace *ks);
/* The keyspace is open; after leases_restart(). */
void idle_on_open(struct keyspace *ks);
void idle_on_released(struct keyspace *ks);
/* It is closed for good. */
void idle_stop(struct keyspace *ks);
/* Ends an opening that found no room; bytes: that it had come to. */
void idle_refuse(struct keyspace *ks, size_t bytes);
/* Not to be opened for now: who comes gets KEYSPACE_UNAVAILABLE. */
bool idle_is_refused(const struct keyspace *ks);
/* Open, with no watch and nothing under way. */
bool keyspace_is_quiet(const struct keyspace *ks);
/* When a lease is over that was known before the keyspace was closed, and that nobody has renewed since; 0: count anew. */
uint64_t past_lease_expires(const struct keyspace *ks, const struct lease *l);

/* ---- the log's head (commit.c, load.c, apply.c) */

/* Applies one record: to the index, the history, the leases. value: NULL if it is not at hand. */
void keyspace_apply(struct keyspace *ks, const struct stoke_record *record, struct blob *value);
/* Empties the index and what hangs on it. */
void keyspace_forget(struct keyspace *ks);
/* Something may be to do at the head. */
void commit_kick(struct keyspace *ks);
/* The tail has been read and applied: what waited for it goes on. */
void commit_on_loaded(struct keyspace *ks);
/* Nothing could be read: after a pause it is tried again. */
void commit_on_load_failed(struct keyspace *ks);
/* Ends the calls of a batch that is not at the datastore right now: its outcome will not be told any more. */
void commit_give_up(struct keyspace *ks, enum keyspace_result result);
void commit_init(struct keyspace *ks);
void commit_done(struct keyspace *ks);
void keyspace_queue(struct keyspace *ks, struct keyspace_call *call,
        int (*evaluate)(struct keyspace_call *call, struct batch *batch));
/* Reads the tail; nothing else may be under way at the head. Ends in commit_on_loaded() or commit_on_load_failed(). */
void load_tail(struct keyspace *ks);
/* Opens the keyspace, unless that is under way. */
void load_open(struct keyspace *ks);
void load_done(struct keyspace *ks);
/* The index is the whole log's, and may be served from. */
void load_opened(struct keyspace *ks);
/* After the load failed, or what was loaded could not be continued: all of it again, after a pause. */
void load_again(struct keyspace *ks);
/* Appends what continues a log that was taken as it is; then load_opened(), or load_again(). */
void commit_recovery(struct keyspace *ks);
/* The answer to a load that waits for memory. */
void load_on_room(struct keyspace *ks, bool granted);
/* The keyspace is closed for good: one that waits need not any more. */
void load_on_closing(struct keyspace *ks);
/* Gives up a load of all that nobody sees yet. */
void load_give_up(struct keyspace *ks);
/* Hears of what others append from now on, and asks each second; ends with load_unfollow(). */
void load_follow(struct keyspace *ks);
void load_unfollow(struct keyspace *ks);
/* Loads at the target of a switch. */
void load_at_target(struct keyspace *ks);

/* seal.c: holds and seals */
void moving_init(struct keyspace *ks);
void moving_done(struct keyspace *ks);
/* The log is forgotten, with the pins and seals in it. */
void moving_forget(struct keyspace *ks);
static inline bool keyspace_is_held(const struct keyspace *ks) {
        return ks->moving.n_holds || ks->moving.sealed || ks->moving.phase != SWITCH_NONE;
}
void seal_apply(struct keyspace *ks, const struct stoke_record *record);
/* What holds has changed, or a call of `calls` has something to do. */
void hold_update(struct keyspace *ks);
/* As keyspace_queue(), past a hold. */
void moving_queue(struct keyspace *ks, struct keyspace_call *call,
        int (*evaluate)(struct keyspace_call *call, struct batch *batch));
/* pin.c */
void pin_apply(struct keyspace *ks, const struct stoke_record *record);
/* Nothing may be deleted from the datastore now. */
bool keyspace_is_pinned(const struct keyspace *ks);
/* What marks below this seq name is deleted all the same, since a pin of this daemon waits for that; 0: none does. */
uint64_t pins_wait_below(const struct keyspace *ks);
/* What they wait for may have come about. */
void pins_look(struct keyspace *ks);
/* The keyspace is being closed. */
void pins_stop(struct keyspace *ks);
/* switch.c: nothing new is begun at the datastore. */
static inline bool switch_waits(const struct keyspace *ks) {
        return ks->moving.phase == SWITCH_WAITING || ks->moving.phase == SWITCH_RELEASING;
}
/* Something that the switch waits for may have come about. */
void switch_kick(struct keyspace *ks);
/* The log at the target was loaded; or it cannot be: negative errno. */
void switch_on_loaded(struct keyspace *ks);
void switch_fail(struct keyspace *ks, int result);
void switch_on_released(struct keyspace *ks);
/* Keeps a job for the target. */
void switch_park(struct keyspace *ks, struct datastore_job *job);
/* The keyspace is being closed. */
void switch_stop(struct keyspace *ks);
void switch_init(struct keyspace *ks);
void switch_done(struct keyspace *ks);

/* barrier.c */
/* The answer of a question that is under way is not waited for any more. */
void barrier_turn_away(struct keyspace *ks);
/* Those that wait may go on. */
void barrier_go_on(struct keyspace *ks);
void barrier_wait(struct keyspace *ks, struct keyspace_call *call);
/* The index has moved, or the head is free. */
void barrier_kick(struct keyspace *ks);
void barrier_done(struct keyspace *ks);

/* lease.c */
void lease_attach(struct keyspace *ks, struct key_entry *entry, int64_t id);
void lease_detach(struct key_entry *entry);
void lease_apply(struct keyspace *ks, const struct stoke_record *record);
struct lease *lease_find(struct keyspace *ks, int64_t id);
void leases_done(struct keyspace *ks);
/* The same in steps of n items; true: all are gone. */
bool leases_drop_some(struct keyspace *ks, size_t n);
/* So long nobody could keep one alive. */
void leases_shift(struct keyspace *ks, uint64_t ns);
/* Ends what is over. */
void leases_kick(struct keyspace *ks);
/* The keyspace is open: nobody could keep a lease alive before, but those known from before it was closed go on. */
void leases_restart(struct keyspace *ks);

/* alarm.c */
void alarm_apply(struct keyspace *ks, const struct stoke_record *record);
void alarms_done(struct keyspace *ks);

/* compact.c */
void compaction_apply_mark(struct keyspace *ks, const struct stoke_record *record);
/* A record that no reader needs once a later mark stands. */
void compaction_add(struct keyspace *ks, uint64_t seq, bool is_tombstone);
/* The log is an installation from here on: what was deleted before counts as not deleted. */
void compaction_on_installed(struct keyspace *ks);
void compaction_kick(struct keyspace *ks);
/* Nothing that marks below this seq name is left to be deleted by this daemon. */
bool compaction_is_complete_below(struct keyspace *ks, uint64_t seq);
void compaction_done(struct keyspace *ks);
void compaction_forget(struct keyspace *ks);

/* recover.c: why the log that was loaded is not the one that was known (owned by the caller); NULL: it is. met: the record at the known end
 * was visited; met_other: one with its seq and another origin. */
char *recover_contradiction(const struct keyspace *ks, bool met, bool met_other);
/* The log's tail is not the one applied: HISTORY_LOST, with both ends where the datastore tells. */
void recover_lose_forked(struct keyspace *ks);
/* Whether the loaded log must be continued before it is served. */
bool recover_is_due(const struct keyspace *ks);
void recover_apply(struct keyspace *ks, const struct stoke_record *record);
static inline bool uuid_is_set(const uint8_t uuid[16]) {
        static const uint8_t zero[16];

        return memcmp(uuid, zero, sizeof(zero)) != 0;
}

/* hash.c: what a version, or a lease by its record, brings to a sum that does not depend on an order. */
uint64_t hash_version(const struct key_version *v);
uint64_t hash_lease(uint64_t seq);
/* verify.c: something that stood in the sum of what is known does not any more. */
void verify_forget(struct keyspace *ks, uint64_t seq, uint64_t hash);
/* All of it. */
void verify_void(struct keyspace *ks);

/* autocompact.c: from when the keyspace is open until it is closed */
void auto_compaction_start(struct keyspace *ks);
void auto_compaction_stop(struct keyspace *ks);

/* watch.c */
void watch_kick(struct keyspace *ks);
/* Serves the watchers now. */
void watch_publish(struct keyspace *ks);
void watch_on_compacted(struct keyspace *ks);
void watch_on_rebuilt(struct keyspace *ks);
void watch_on_open(struct keyspace *ks);
void watch_end_all(struct keyspace *ks, enum keyspace_result result);
void watch_done(struct keyspace *ks);

/* Whether a key is in an etcd range. */
static inline bool range_is_single(const struct key_range *r) {
        return r->end.size == 0;
}
static inline bool range_is_endless(const struct key_range *r) {
        return r->end.size == 1 && r->end.data[0] == 0;
}
static inline bool range_has(const struct key_range *r, struct bytes key) {
        if (range_is_single(r))
                return bytes_equal(r->key, key);
        return bytes_compare(key, r->key) >= 0 && (range_is_endless(r) || bytes_compare(key, r->end) < 0);
}
/* Whether key, which is not before the range's start, is behind its end. */
static inline bool range_ends_before(const struct key_range *r, struct bytes key) {
        if (range_is_single(r))
                return !bytes_equal(r->key, key);
        return !range_is_endless(r) && bytes_compare(key, r->end) >= 0;
}
