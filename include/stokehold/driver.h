/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STOKEHOLD_DRIVER_H
#define STOKEHOLD_DRIVER_H

/*
 * The plugin ABI of Stokehold: what a driver for one kind of datastore is.
 *
 * A driver stores keyspaces. A keyspace is a log: records numbered 1, 2, 3, … (seq), appended only if the log still ends
 * where the appender says it does, read back in order, and deleted when the host names them, singly, as dead. A driver may
 * keep more beside it in its store where the backend needs that (its own numbers, lists of the dead). It knows nothing of etcd: keys are never searched, kinds never interpreted, everything but seq, origin and the grouping
 * rule below is carried as it is.
 *
 * A plugin is one shared object in the plugin directory that exports one symbol, `stoke_driver`, a const struct
 * stoke_driver. It is loaded with RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE and never unloaded. It writes nothing to stdio,
 * never exits or forks, installs no signal handlers, changes no locale, directory or environment; threads that it makes
 * block all signals. Link it with hidden visibility and -z defs.
 *
 * Threads. All functions but interrupt() run on the host's session threads and may block, until their deadline. A store
 * may be used by many threads at once, each with a session of its own; a session is used by one thread at a time. The
 * host makes sure that on one keyspace at most one function runs at a time in this daemon, but for wait() and ends().
 *
 * Memory never crosses. What the host passes is valid until the function returns; what the driver passes to a visitor is
 * valid until the visitor returns, and the host copies what it keeps.
 *
 * Results. 0: done. Positive: an outcome (enum stoke_outcome) that the host handles; each function names those that it may give.
 * Negative: an errno, with a reason in words in the call's buffer: the function has failed and may be repeated, since all
 * but append are idempotent. For append alone a negative errno also promises that nothing was and nothing will be
 * written; where that is not certain the outcome is STOKE_UNKNOWN. -ETIMEDOUT: the deadline; -ECANCELED: interrupt(); -ENOSPC: the datastore
 * is full; -EACCES: refused by permission; -EBUSY: somebody else is at it, try again later; -EMSGSIZE: above a limit;
 * -EUCLEAN: what is stored is damaged.
 *
 * ABI changelog
 *   1.0  first version
 *   1.1  scoped; ends may run beside other functions on the same keyspace
 *   1.2  read
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STOKE_DRIVER_MAGIC UINT64_C(0x73746f6b65647276) /* "stokedrv" */
#define STOKE_ABI_MAJOR 1                               /* must be equal */
#define STOKE_ABI_MINOR 2 /* grows by appending to structures; look at their size member */
#define STOKE_DRIVER_SYMBOL "stoke_driver"
#define STOKE_EXPORT __attribute__((__visibility__("default")))

enum stoke_outcome {
        STOKE_DONE = 0,
        /* append: it did not happen, nothing is held, and it never will. Usually the log has gone on; where its end is
         * unchanged (a deadlock, a rival that rolled back) the host tries again after a pause. */
        STOKE_STALE = 1,
        /* load: the record at the given seq has another origin: this is not the log that the host knew. */
        STOKE_FORKED = 2,
        /* load: the record at the given seq is gone, or a hole follows it: the host loads again from zero. */
        STOKE_COMPACTED = 3,
        /* No keyspace of this name and incarnation. */
        STOKE_MISSING = 4,
        /* acquire: another daemon has it. */
        STOKE_BUSY = 5,
        /* append, install_commit: whether it happened, or still will, is not known. */
        STOKE_UNKNOWN = 6,
        /* install_*: this installation id was aborted or committed before and can never be used again. */
        STOKE_ENDED = 7,
        /* The visitor returned non-zero, and the function stopped. */
        STOKE_STOPPED = 8,
};

/* Who appended a record: the incarnation of a daemon, and the number that it gave the batch. Compared bytewise. */
struct stoke_origin {
        uint8_t daemon[16];
        uint64_t batch;
};

/* The last record of a log. A keyspace that exists always has one. */
struct stoke_end {
        uint64_t seq;
        struct stoke_origin origin;
};

/*
 * One entry of the log. seq, batch numbers and revisions are at most INT64_MAX; a hash has all its 64 bits.
 *
 * Grouping: neighbours whose kinds have STOKE_KIND_GROUPED set and whose revisions are equal belong together: they are in one append, become
 * visible together, and no page of load ends between them. The host may append several groups in one batch.
 */
#define STOKE_KIND_GROUPED 0x80
struct stoke_record {
        uint64_t seq;
        int64_t revision;
        uint8_t kind;
        int64_t create_revision;
        int64_t version;
        int64_t lease;
        struct stoke_origin origin;
        uint64_t hash;   /* the host's, over the record; carried, never computed by a driver */
        const void *key; /* any bytes, case-sensitive; size 0 is allowed */
        size_t key_size;
        const void *value; /* NULL if the reader did without values; then value_size is still the stored size */
        size_t value_size;
};

/* A keyspace is known by its name ([a-z0-9][a-z0-9-]{0,62}) and its incarnation, a UUID. Every function checks the incarnation
 * in the same atomic step as its effect (simplest: by having it in the name of the table or file). */
struct stoke_keyspace {
        const char *name;
        uint8_t incarnation[16];
};

enum stoke_severity { STOKE_INFO = 0, STOKE_WARNING = 1, STOKE_PROBLEM = 2 };

/* How one call is bounded, and where its reason goes. */
struct stoke_call {
        size_t size;          /* of this structure, as the host saw it */
        uint64_t deadline_ns; /* CLOCK_MONOTONIC */
        char *reason; /* filled by the driver with a sentence without a full stop, for a negative result, for STOKE_BUSY and for STOKE_UNKNOWN; "" at first */
        size_t reason_size; /* bytes, with the final NUL; at least 256 */
};

/* Secrets of a datastore, asked for anew for every connection, so that they can be rotated. */
enum stoke_secret {
        STOKE_SECRET_USERNAME = 1,
        STOKE_SECRET_PASSWORD = 2,
        STOKE_SECRET_CA_CERTIFICATE = 3,
        STOKE_SECRET_CA_PRIVATE_KEY = 4,
        STOKE_SECRET_CLIENT_CERTIFICATE = 5,
        STOKE_SECRET_CLIENT_PRIVATE_KEY = 6,
};

/* What the host gives a store. Valid until close() returns; the functions may be called from any thread. */
struct stoke_host {
        size_t size;
        void *userdata;
        /* A line in the daemon's log, with the datastore's name beside it. level: as in syslog, 3 (error) to 7 (debug). */
        void (*log)(void *userdata, int level, const char *message);
        /* Visits the secret's bytes. 0; -ENOENT: not configured; negative errno with the reason. */
        int (*secret)(void *userdata, enum stoke_secret which,
                void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason,
                size_t reason_size);
        uint8_t daemon[16]; /* the incarnation of this daemon */
};

/* A datastore's definition, already validated as far as it is common to all drivers. */
struct stoke_setting {
        const char *name; /* as in spec: "path" (absolute here), or a key of spec.parameters */
        const char *value;
};
struct stoke_datastore {
        size_t size;
        const char *name;
        const char *const *endpoints; /* "host:port" */
        size_t n_endpoints;
        const struct stoke_setting *settings;
        size_t n_settings;
};

struct stoke_store;   /* the driver's: one open datastore */
struct stoke_session; /* the driver's: one connection to it */

struct stoke_keyspace_info {
        size_t size;
        const char *name;
        uint8_t incarnation[16];
        bool installing; /* an installation that was not committed yet; install_id is its */
        uint8_t install_id[16];
};

struct stoke_stat {
        size_t size;
        uint64_t n_records; /* may be an estimate */
        uint64_t bytes;     /* what the keyspace takes in the datastore, may be an estimate */
};

struct stoke_append {
        size_t size;
        struct stoke_end expected;          /* where the log must end */
        const struct stoke_record *records; /* seqs follow expected.seq without a hole; values present */
        size_t n_records;
        /* Optional on both sides: a driver that was refused twice may lock, visit the bounded gap with `gap`, and ask for the records
         * anew; called on the same thread. NULL: not offered. 0: records and n_records were set anew (valid until append returns);
         * non-zero: give up with STOKE_STALE. */
        int (*rebase)(void *userdata, struct stoke_end end, struct stoke_append *append);
        int (*gap)(void *userdata, const struct stoke_record *record);
        void *userdata;
};

struct stoke_compact {
        size_t size;
        uint64_t mark; /* seq of the mark that names them, durable before this call */
        /* This daemon's first step for this mark, whoever appended it: before it deletes anything the driver makes sure that no
         * append begun before the mark was durable can still land. Where an old append holds on, -ETIMEDOUT after about a second, so
         * that others do not queue behind it: nothing is deleted then. */
        bool first;
        const uint64_t *seqs; /* ascending, all below mark, at most 4,096 */
        size_t n_seqs;
};

struct stoke_read {
        size_t size;
        const uint8_t
                *installation; /* 16 bytes: what was fed under this id, begun and not committed; NULL: the keyspace */
        uint64_t after, upto;  /* seqs: those behind after, up to upto */
        uint32_t n_most;       /* records */
        bool with_values;      /* false: the driver may leave values out */
};

enum stoke_maturity { STOKE_STABLE = 0, STOKE_EXPERIMENTAL = 1 };

enum stoke_capability {
        STOKE_EXCLUSIVE = 1 << 0, /* one daemon at a time: acquire() and release() are there, ends() is never needed */
        STOKE_NOTIFIES = 1 << 1,  /* wait() is there */
};

struct stoke_limits {
        uint64_t record_bytes; /* key and value of one record */
        uint64_t batch_bytes;  /* keys and values of one append */
        /* Records of one append: no group begins behind so many. The last group may go beyond it, and one alone may have many times
         * as many, since the host places a whole transaction in one append; batch_bytes holds always. */
        uint32_t batch_records;
};

struct stoke_driver {
        uint64_t magic;     /* STOKE_DRIVER_MAGIC */
        uint32_t abi_major; /* STOKE_ABI_MAJOR */
        uint32_t abi_minor;
        size_t size;                /* sizeof(struct stoke_driver), as the plugin saw it */
        const char *name;           /* as in spec.driver: "PostgreSQL"; [A-Za-z][A-Za-z0-9-]{0,31} */
        const char *const *aliases; /* more names, ended by NULL; or NULL */
        const char *version;
        enum stoke_maturity maturity;
        uint32_t capabilities; /* enum stoke_capability */
        struct stoke_limits limits;

        /* Opens a datastore: checks the settings, reaches nothing yet. datastore and host stay valid until close. */
        int (*open)(const struct stoke_datastore *datastore, const struct stoke_host *host, struct stoke_call *call,
                struct stoke_store **ret);
        /* After the last session was disconnected. */
        void (*close)(struct stoke_store *store);
        /* Dials for real and reports what it finds: "latency", "version", "durability", "room", … with a value for humans.
         * -errno: cannot be used. Uses a connection of its own. */
        int (*check)(struct stoke_store *store, struct stoke_call *call,
                void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
                void *userdata);

        /* A session, able to reach keyspaces of this scope (NULL: the store's own; else a keyspace that has credentials or a
         * database of its own). disconnect takes NULL. */
        int (*connect)(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_call *call,
                struct stoke_session **ret);
        void (*disconnect)(struct stoke_session *session);
        /* Any thread, while the session is connected (never together with disconnect): makes the function that runs on this
         * session return soon, with -ECANCELED (append and install_commit: STOKE_UNKNOWN once the first byte was sent). Must not
         * block: no dialling, no waiting. Nothing runs: nothing happens, and the next function is not affected. */
        void (*interrupt)(struct stoke_session *session);

        /* STOKE_EXCLUSIVE only: takes the keyspace for this daemon, until release() or the daemon's death; load, values, append, stat and
         * compact ask for it. STOKE_BUSY (the reason says who), STOKE_MISSING. Taking twice in one daemon is STOKE_BUSY too. Without it those functions give
         * -ENOLCK (STOKE_MISSING if there is no such keyspace). ends, list and the install functions work without; drop of a keyspace
         * that is taken is -EBUSY. The lock is of the store, not of the session: it outlives disconnect. */
        int (*acquire)(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
        void (*release)(struct stoke_session *session, const struct stoke_keyspace *keyspace);

        /* Makes a keyspace whose log is the one record given (seq 1). Nothing is changed if it exists. -EEXIST: this
         * incarnation is being installed. Opening never creates. */
        int (*create)(struct stoke_session *session, const struct stoke_keyspace *keyspace,
                const struct stoke_record *first, struct stoke_call *call);
        /* Nothing is left of it, and of what was made for it. 0 also if there is none. Not an unfinished installation: that is abort's. */
        int (*drop)(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
        /* STOKE_STOPPED. */
        int (*list)(struct stoke_session *session, struct stoke_call *call,
                int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata);
        /* STOKE_MISSING. */
        int (*stat)(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
                struct stoke_stat *ret);

        /* Visits the records behind `after`, in order, and gives as the end the last record visited (or `after`): nothing that was
         * appended before the call began is left out, and no group is cut. after.seq 0: all records; holes are allowed then below the
         * newest mark of a compaction (the host knows). Otherwise the record at after.seq is
         * looked at first: another origin is STOKE_FORKED; absent, or a hole among those that follow, STOKE_COMPACTED (what was
         * visited before it is void). after.seq beyond the end is one of the two. with_values false: the driver may leave values out.
         * STOKE_FORKED, STOKE_COMPACTED, STOKE_MISSING, STOKE_STOPPED. */
        int (*load)(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
                bool with_values, struct stoke_call *call,
                int (*visit)(void *userdata, const struct stoke_record *record), void *userdata,
                struct stoke_end *ret_end);
        /* Visits the values of the seqs given (ascending, at most 4,096), in order; data NULL: there is no such record.
         * STOKE_MISSING, STOKE_STOPPED. */
        int (*values)(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs,
                size_t n_seqs, struct stoke_call *call,
                int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size), void *userdata);
        /* All of the records, durable on return, or none, and only if the log's end is the one expected: seq and origin. Never sent twice by
         * the driver. A deadline or an interrupt that comes after the first byte was sent is STOKE_UNKNOWN, never a negative errno; STOKE_MISSING
         * promises, as STOKE_STALE does, that nothing will land. The host keeps within the limits. STOKE_STALE, STOKE_MISSING, STOKE_UNKNOWN. */
        int (*append)(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
                struct stoke_call *call);
        /* The ends of many keyspaces, linearizable with append, in as few questions as the backend allows: visits each once, in any
         * order; end NULL: there is no such keyspace. STOKE_STOPPED. */
        int (*ends)(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
                struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
                void *userdata);
        /* STOKE_NOTIFIES only: blocks until keyspaces have grown or the deadline has passed, and visits their names. May wake for
         * nothing, may miss; need not tell of what this daemon appended itself. On a session of its own. -EOPNOTSUPP, at the deadline: this server,
         * or what stands before it, tells nothing. */
        int (*wait)(struct stoke_session *session, struct stoke_call *call,
                void (*grown)(void *userdata, const char *name), void *userdata);
        /* Deletes the records named; those gone already are no error. On 0 none of them is ever visited again, by load or by values,
         * whatever is left of it in the datastore. STOKE_MISSING. */
        int (*compact)(struct stoke_session *session, const struct stoke_keyspace *keyspace,
                const struct stoke_compact *compact, struct stoke_call *call);

        /* A whole keyspace brought from elsewhere, under an id, with the seqs it has there: invisible (but to list) until committed.
         * install_begin gives the last seq that is in already (0: none), to go on behind it; the same incarnation may be installed under one
         * id only at a time. feed: ascending seqs, holes allowed; those in already are skipped. commit: appends `last`, and the keyspace exists.
         * abort: durable; nothing is left but the knowledge that the id has ended; harmless for an unknown id, which then ends
         * too. STOKE_ENDED: the id was aborted, or (commit excepted, which then is done) committed. commit: STOKE_UNKNOWN. abort of a
         * committed id: STOKE_ENDED. begin where the keyspace exists, or is being installed under another id: -EEXIST. feed and commit of
         * what was never begun: STOKE_MISSING. A crash of the datastore may cost records that were fed (begin says what is left), never
         * those of a committed installation. */
        int (*install_begin)(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
                struct stoke_call *call, uint64_t *ret_seq);
        int (*install_feed)(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
                const struct stoke_record *records, size_t n_records, struct stoke_call *call);
        int (*install_commit)(struct stoke_session *session, const struct stoke_keyspace *keyspace,
                const uint8_t id[16], const struct stoke_record *last, struct stoke_call *call);
        int (*install_abort)(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
                struct stoke_call *call);

        /* Optional: the limits as this server has them (its packets, payloads, operations), which may be tighter than the
         * descriptor's; asked when a keyspace is opened. */
        int (*server_limits)(struct stoke_session *session, const struct stoke_keyspace *keyspace,
                struct stoke_call *call, struct stoke_limits *ret);

        /* Optional, since 1.1: whether in this store, by its definition, each keyspace has credentials or a database of its own. Then load,
         * values, append, ends (of that one keyspace), compact and server_limits run on sessions connected with the keyspace as their scope;
         * everything else on the store's own. Any thread; reaches nothing; the same answer for as long as the store is open. */
        bool (*scoped)(struct stoke_store *store);

        /* Optional, since 1.2, and needed wherever a keyspace is to be moved, backed up or cloned: visits records of a part of the log, in
         * order, whatever holes are in it; a group may be cut, as the host chose the part. A long log is read in many such calls, each well
         * below a second. It sees all that was appended before the last ends() whose answer was upto or beyond. On the session that load would
         * have (an installation: on the store's own; under another id it is STOKE_MISSING too, or has no records). STOKE_MISSING, STOKE_STOPPED. */
        int (*read)(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
                struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
                void *userdata);
};

#ifdef __cplusplus
}
#endif

#endif
