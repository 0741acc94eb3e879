#pragma once

/*
 * A tenant restored from a backup, whose bytes somebody brings. All is checked before anything is committed, and nothing is seen before that. Belongs to
 * the main loop, as do the callbacks, which never come from within a function here.
 */

#include "fleet/fleet.h"

#define RESTORE_ABOVE_MAX (INT64_MAX / 2)

struct restore;

struct restore_config {
        struct fleet_create create; /* wait is not looked at; datastore "": the default one */
        bool over;                  /* not of a new tenant: what this one has is replaced. Only the name is looked at */
        /* Its revisions go on above this one, and all below counts as compacted, as above whatever this daemon knows to have been served by the name.
         * 0: nothing more is known. At most RESTORE_ABOVE_MAX. */
        int64_t above;
        void (*on_room)(void *userdata); /* restore_is_full() is over */
        /* Exactly once, last: 0: it is served. */
        fleet_done_fn done;
        void *userdata;
};
struct restore *fleet_restore_tenant(struct fleet *fleet, const struct restore_config *config);
/* None of these after done. */
void restore_feed(struct restore *restore, struct bytes data);
bool restore_is_full(const struct restore *restore);
/* That was all of the file. */
void restore_end(struct restore *restore);
/* Nobody brings more of it: it is undone, unless it is being committed. done comes. */
void restore_cancel(struct restore *restore);
uint64_t restore_taken(const struct restore *restore);

/* For the steps of the migration that a restore over a tenant is (fleet/migration.c): how far this daemon has come with it. */
struct assignment;
struct fleet_store;
struct mover_figures;
enum restore_progress { RESTORE_GOES_ON, RESTORE_FAILED, RESTORE_DONE };
/* All of the file is fed into the installation. */
enum restore_progress restore_over_feed(struct assignment *a, struct fleet_store *target, const char **ret_reason);
/* The log is sealed: it is committed, above all that was served. */
enum restore_progress restore_over_commit(
        struct assignment *a, const struct mover_figures *sealed, const char **ret_reason);
/* There is a restore of the record's migration here. */
bool restore_is_over(const struct assignment *a);
/* It does not come to pass: nothing of it runs any more. */
void restore_over_end(struct assignment *a);
