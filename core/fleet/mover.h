#pragma once

/*
 * The hands of a migration (fleet/migration.h is its head): on the tenant's shard, beside its keyspace, they pin the log, copy it, follow it,
 * verify the copy; when they are told to, hold the clients' calls, seal the log, bring over the rest, and commit the installation. They know nothing of the
 * registry: what may be done next is the main thread's to say, which has written it down before.
 *
 * One that goes back (config.back) copies nothing: it only holds and seals.
 *
 * mover_new(), mover_free() and mover_seal(): the main thread; mover_there_*(): the shard's, in an errand; mover_get(): any.
 */

#include "fleet/shard.h"
#include "fleet/tenant.h"
#include "keyspace/stream.h"

struct mover;

struct mover_config {
        struct loop *home;                 /* borrowed: the main thread's, for on_change */
        struct loop *loop;                 /* borrowed: the shard's */
        struct keyspace *keyspace;         /* borrowed from the tenant, which stays until mover_there_stop() */
        struct datastore *source, *target; /* borrowed */
        const char *name;                  /* copied, */
        const char *target_name;           /* as this: the datastore's */
        uint8_t id[16], source_incarnation[16], target_incarnation[16];
        bool back;
        struct throttle *throttle;         /* borrowed */
        void (*on_change)(void *userdata); /* at home: the stage is another */
        void *userdata;
};

enum mover_stage {
        MOVER_COPYING,
        MOVER_READY,   /* what is left to copy is small, and the copy is right so far: mover_seal() may come */
        MOVER_SEALING, /* clients wait from here on */
        MOVER_COMMITTED, /* the source is sealed, the target complete: nothing is left but to say that it is the tenant's datastore */
        MOVER_FAILED, /* clients wait where the log is, or may be, sealed */
};

struct mover_figures {
        enum mover_stage stage;
        const char *step; /* for people: "pinning", "copying", "following", "verifying", "sealing", "committing", "" */
        char reason[256]; /* MOVER_FAILED */
        uint64_t bytes, n_records; /* copied */
        uint64_t bytes_all;        /* what was there at the beginning, keys and values of all records */
        uint64_t records_to_go;    /* at most: numbers may have gone */
        uint64_t began_ns, hold_began_ns;
        struct stoke_end sealed; /* the seal's record, once it stands, */
        int64_t sealed_revision; /* and the log's revision there: none above it was ever served */
};

struct mover *mover_new(const struct mover_config *config);
/* After mover_there_stop() is back, or before it was started. Takes NULL. */
void mover_free(struct mover *mover);
void mover_there_start(struct mover *mover);
/* Ends what is under way and gives up the pin and the hold (a seal goes on holding). Nothing of it is left on the shard then. */
void mover_there_stop(struct mover *mover);
/* Hold, seal, copy the rest, commit. */
void mover_seal(struct mover *mover);
void mover_get(struct mover *mover, struct mover_figures *ret);
