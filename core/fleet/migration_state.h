#pragma once

/* What the files of a migration (fleet/migration*.c) share with each other. Main loop only. */

#include "fleet/state.h"

bool migration_is_mine(const struct assignment *a);
/* a->next with its migration in another phase, to be written. */
struct registry_migration *migration_change(struct assignment *a, enum migration_phase phase);
/* Gives it up. */
void migration_abort(struct assignment *a, const char *reason);
/* Takes the migration out of the record to be, and says how it ended ("": well). */
void migration_ended(struct assignment *a, struct registry_record *next, const char *reason);
/* What this daemon does for it. */
struct migration *migration_get(struct assignment *a, const uint8_t id[16]);
/* The mover was stopped on the shard. */
void migration_mover_gone(struct assignment *a);

/* migration_requests.c: those who wait for the migration that is given up are told, before all that is left of it has gone. */
void migration_answer_failed(struct assignment *a);

/* migration_view.c: for the metrics. "done", "failed". */
void migration_count(const char *result, const struct mover_figures *figures, uint64_t hold_ns);
void migration_publish(const struct fleet *fleet);

/* migration_undo.c */
typedef bool (*migration_after_fn)(struct assignment *a, int result, const char *reason);
/* A job of the migration's at a datastore; after (on the main loop): a->migration has what it found. False: it is the assignment's turn. */
void migration_job(
        struct assignment *a, int what, const char *datastore, const uint8_t incarnation[16], migration_after_fn after);
void migration_step_aborting(struct assignment *a);
/* Where the data was before is dropped in time. */
void migration_step_former(struct assignment *a);

/* migration_there.c */
/* A seal that was read: asks the registry what it means, lifts one that means nothing. False: under way. */
bool migration_step_sealed(struct assignment *a);
