#pragma once

/*
 * Moving a tenant to another datastore while it is served, seen from the main thread. What is under way stands in the tenant's record
 * (struct registry_migration); this is what one daemon does for it. Included by fleet/state.h alone.
 *
 *     Preparing   an older former datastore's copy is dropped
 *     Copying     pinned, copied, followed, verified (fleet/mover.h), while clients go on
 *     Sealing     clients wait: the source is sealed, the rest brought over, the installation committed
 *     (the one write that makes the target the record's datastore, and the source its `previous`)
 *     Aborting    instead: the seal is lifted, the installation removed
 *
 * Each is recorded by compare-and-set before it is taken, and owned by one daemon. Of an owner that has gone the migration is taken over, and aborted; one
 * that had been switched is none any more. Whoever serves the tenant follows the record: assignment_step() has the keyspace go on where it says.
 */

#include "fleet/fleet.h"
#include "fleet/mover.h"

struct assignment;
struct fleet;
struct fleet_store;
struct registry_record;

struct migration {
        struct assignment *assignment; /* borrowed */
        uint8_t id[16];
        struct mover *mover; /* owned; NULL: not started */
        bool stopping;       /* the mover is being stopped */
        bool seal_told;
        struct fleet_store *store; /* borrowed, of the target: while the mover or a job uses it */

        /* A job at the target's or the former datastore. */
        struct datastore_job job;
        struct stoke_keyspace keyspace;
        uint8_t job_id[16];
        enum { MIGRATION_JOB_ABORT, MIGRATION_JOB_DROP, MIGRATION_JOB_LOOK } job_what;
        bool job_running;
        bool (*after)(struct assignment *a, int result, const char *reason);
        bool dirty;               /* LOOK: something was written since the installation */
        bool installed;           /* LOOK: it was found */
        uint8_t installation[16]; /* LOOK: whose */

        bool unsealed, removed;       /* Aborting: done */
        struct mover_figures figures; /* as last looked at, also when the mover has gone */
};

/* The next step of whatever its record says of moves; the tenant is Ready, and busy with nothing. */
void migration_step(struct assignment *a);
/* Nothing runs for it here (then true); otherwise it is stopped, and the assignment stepped when it is. */
bool migration_is_still(struct assignment *a);
/* What a tenant that is being deleted has elsewhere is removed: true when nothing is left. */
bool migration_remove_all(struct assignment *a);
/* Frees what there is; nothing may be running. */
void migration_free(struct assignment *a);
/* All that the assignment has of migrations; those who wait are answered. */
void migration_forget(struct assignment *a);
/* The seal that was read in the served log concerns this. From the shard's message. */
void migration_on_sealed(struct assignment *a, const uint8_t id[16]);
/* Answers those who wait for a migration that has ended by now. */
void migration_answer(struct assignment *a);
/* A daemon has come or gone. */
void migration_members_changed(struct fleet *fleet);
/* What was copied of it is worth nothing: the migration of the record to be, if there is one, is given up. */
void migration_spoil(struct registry_record *next, const char *reason);
/* Wishes become the next record, if there are any. */
void migration_take_wishes(struct assignment *a);
/* The datastore is the source, the target or a former one of a migration of this tenant. */
bool migration_uses(const struct assignment *a, const struct fleet_store *store);
/* It is being copied to, or looked into, at this moment. */
bool migration_holds(const struct assignment *a, const struct fleet_store *store);
/* Its definition names this datastore; NULL: none. It is moved there as soon as it can be. */
void migration_want(struct assignment *a, const char *datastore);

/* A restore over what the tenant has, which is a move to another log: the wish for it, whose id is given; the next step is the caller's. NULL: it
 * cannot be; done says why. Otherwise done comes when it has ended. */
struct assignment *migration_restore(
        struct fleet *fleet, const char *name, uint8_t ret_id[16], fleet_done_fn done, void *userdata);

/* migration_there.c: on the shard and back. */
/* The keyspace goes on as the record says. */
void migration_switch(struct assignment *a, struct fleet_store *store);
void migration_unseal(struct assignment *a, const uint8_t id[16]);
