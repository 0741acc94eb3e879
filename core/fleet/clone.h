#pragma once

/*
 * A tenant cloned: a new one with all that another one had at one moment, which is served meanwhile. Belongs to the main loop, as do the callbacks, which
 * never come from within a function here.
 */

#include "fleet/fleet.h"

struct clone;

struct clone_config {
        const char *source;         /* the tenant's name */
        struct fleet_create create; /* the new one; wait is not looked at; datastore "": the default one */
        /* Exactly once, last: 0: it is served. */
        fleet_done_fn done;
        void *userdata;
};
struct clone *fleet_clone_tenant(struct fleet *fleet, const struct clone_config *config);
/* It is undone, unless it is committed. done comes. None of these after done. */
void clone_cancel(struct clone *clone);
struct clone_figures {
        uint64_t bytes, bytes_all; /* keys and values; the second about */
};
void clone_get(struct clone *clone, struct clone_figures *ret);
