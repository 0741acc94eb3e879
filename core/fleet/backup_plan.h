#pragma once

/*
 * Backups by the clock, as spec.backup of a tenant's definition says: one daemon makes them (the host that alone reaches the datastore, otherwise the
 * first of those that live), at times that differ from tenant to tenant. What is there is learnt from the directory, so nothing is kept elsewhere.
 * Included by fleet/state.h alone; main loop only.
 */

#include <stdint.h>

struct assignment;
struct backup_plan;
struct fleet;

/* The tenant's definition, or what is known of the other daemons, may have changed. */
void backup_plan_update(struct assignment *a);
void backup_plan_free(struct assignment *a);
/* Who lives has changed. */
void backup_plans_members_changed(struct fleet *fleet);
/* For a scrape. */
void backup_plan_publish(struct assignment *a);

struct backup_plan_view {
        int64_t last;       /* the last good one: seconds since 1970; 0: none, or not known yet */
        uint64_t bytes;     /* of that file */
        const char *reason; /* "", or why the last attempt has failed; borrowed until the next event */
};
/* NULL is fine; zeroed where this daemon makes none. */
void backup_plan_get(const struct assignment *a, struct backup_plan_view *ret);
