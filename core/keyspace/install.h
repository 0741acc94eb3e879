#pragma once

/*
 * An installation: a keyspace brought from elsewhere into a datastore, record for record, under an id; invisible until it is committed. The
 * driver's four functions as jobs with callbacks, batched within the target's limits, repeated until their outcome is known.
 *
 * One loop's thread; callbacks come on it, never from within the function that asked; one function at a time (but for install_free()).
 * Results of callbacks: 0; STOKE_ENDED: the id was aborted, or (begin, feed, abort) committed; or negative errno, with the reason in words:
 * -EEXIST: the keyspace is there, or is being installed under another id; -EMSGSIZE: a record is above the target's limits; -ENOSPC;
 * -ESTALE (feed, commit): the target has lost records that it had (it crashed): begin says from where on they must be fed again.
 * What fails and may get better (a lost connection, a busy server) is tried again for config.patience_ns, an unknown outcome for as long as it is
 * unknown: a commit's callback comes when it is certain what became of it, or with STOKE_UNKNOWN when the patience is over; then nobody may say
 * "aborted" before install_abort() has.
 */

#include "keyspace/stream.h"

struct install;

struct install_config {
        struct datastore *datastore; /* borrowed: the target */
        const char *name;            /* copied */
        uint8_t incarnation[16];     /* the new one */
        uint8_t id[16];              /* of the migration, restore, clone, import; never used again once ended */
        struct loop *loop;           /* borrowed */
        uint64_t patience_ns;        /* 0: 30 s */
        void *userdata;
};
typedef void (*install_done_fn)(void *userdata, int result, const char *reason);

int install_new(const struct install_config *config, struct install **ret);
/* Callbacks end with this; a job under way is waited for behind the scenes. The installation stays as it is. Takes NULL. */
void install_free(struct install *install);
DEFINE_FREEP(install)

/* Begins, or goes on with one that was begun: then install_seq() says what is in. Learns the target's limits. */
void install_begin(struct install *install, install_done_fn done);
/* What callbacks get from now on. */
void install_set_userdata(struct install *install, void *userdata);
/* The last seq that is in; 0: none. After begin; moves with feed. */
uint64_t install_seq(const struct install *install);
/* As the target has them; after begin. */
const struct stoke_limits *install_limits(const struct install *install);
/* Takes the piece (with values, behind install_seq(); records that are in already are skipped) and feeds it in as many batches as needed. The
 * piece is freed when done is called, or by install_free(). */
void install_feed(struct install *install, struct stream_piece *piece, install_done_fn done);
/* Ends the log with RECORD_INSTALLED behind seq (the last one fed, checked), at this revision: the keyspace exists from then on. The same
 * arguments give the same record, whoever calls and however often. */
void install_commit(struct install *install, uint64_t seq, int64_t revision, install_done_fn done);
/* Durable: nothing is left, and the id can never be used again. STOKE_ENDED: it was committed. Needs no begin. */
void install_abort(struct install *install, install_done_fn done);

/* What install_commit() writes: for whoever must recognize it. key and value are borrowed from id. */
void install_record(const uint8_t id[16], uint64_t seq, int64_t revision, struct stoke_record *ret);

/* ---- a pump: a stream into an installation, reading and writing at the same time */

struct pump;
struct pump_config {
        struct stream_config source;  /* on_ready, userdata, after, with_values and loop are the pump's to set */
        struct install_config target; /* userdata and loop are the pump's to set */
        struct loop *loop;            /* borrowed */
        /* On the loop, all may be NULL. Now and then, each 200 ms at most. */
        void (*on_progress)(void *userdata);
        /* Following: for the first time all that was in the log when it was last asked for its end is fed (and again whenever it is so). */
        void (*on_caught_up)(void *userdata);
        /* It has ended, all that was read is fed: 0, or the result with its reason. Nothing is committed or aborted by the pump. */
        void (*on_done)(void *userdata, int result, const char *reason);
        void *userdata;
};
struct pump_status {
        bool begun;                /* install_begin() is done */
        uint64_t n_records, bytes; /* fed by this pump */
        uint64_t seq;              /* fed up to */
        int64_t revision;          /* the highest fed */
        struct stoke_end goal;     /* the source's end as last known; seq 0: not yet */
        uint64_t waiting_bytes;    /* read, not yet fed */
        bool caught_up;
};
/* Begins the installation (or goes on with it) and copies. The loop's thread, as all of these. */
int pump_new(const struct pump_config *config, struct pump **ret);
/* Stops; callbacks end with this. Takes NULL. */
void pump_free(struct pump *pump);
DEFINE_FREEP(pump)
void pump_get_status(struct pump *pump, struct pump_status *ret);
/* Following: as of stream_*(). */
void pump_kick(struct pump *pump);
void pump_finish(struct pump *pump, const struct stoke_end *end);
/* After on_done: to commit or abort. The pump's; its callbacks get config.userdata of the pump. */
struct install *pump_install(struct pump *pump);
