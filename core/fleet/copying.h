#pragma once

/*
 * What is read of tenants while they are served: backups and clones. Each stands on its tenant's list, so that the tenant is not stopped, and its
 * datastore not closed, under it: it is told to end first. Included by fleet/state.h alone; main loop only.
 */

#include <sys/queue.h>

#include "base/macro.h"

struct assignment;
struct fleet;
struct fleet_store;

struct copying {
        struct assignment *assignment; /* borrowed; NULL: on no list */
        struct fleet_store *store;     /* borrowed: what it reads from */
        /* It is to end soon, with this reason; may be called again. It leaves the list when nothing of it is left at the tenant. */
        void (*cancel)(struct copying *c, const char *reason);
        LIST_ENTRY(copying) entry;
};
LIST_HEAD(copying_list, copying);

void copying_enter(struct copying *c, struct assignment *a);
/* The tenant goes on, if it has waited for that. */
void copying_leave(struct copying *c);
/* None is left; otherwise they are told to end, and the assignment's next step comes when they have. */
bool copying_is_over(struct assignment *a, const char *reason);
/* It is being read from. */
bool copying_holds(const struct fleet *fleet, const struct fleet_store *store);
