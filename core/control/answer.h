#pragma once

/*
 * What the fleet knows, as messages of stokehold.control.v1, in an arena. Main loop only; asks nobody.
 */

#include <stokehold/control.pb-c.h>

#include "base/arena.h"
#include "fleet/fleet.h"

/* name "": all. NULL: there is none of this name. */
Stokehold__Control__V1__ListDatastoresResponse *answer_datastores(
        struct fleet *fleet, const char *name, struct arena *arena);
Stokehold__Control__V1__ListTenantsResponse *answer_tenants(struct fleet *fleet, const char *name, struct arena *arena);
/* NULL: there is none of this name. */
Stokehold__Control__V1__Tenant *answer_tenant(struct fleet *fleet, const char *name, struct arena *arena);
Stokehold__Control__V1__ListDriversResponse *answer_drivers(struct fleet *fleet, struct arena *arena);
/* Messages that come one by one, for a repeated field. Zeroed before first use, but for the arena. */
struct answer_list {
        struct arena *arena;
        void **items;
        size_t n_items, n_allocated;
};
/* A new message of this size at its end, to be initialised. */
void *answer_list_add(struct answer_list *list, size_t size);
/* A copy; NULL: "". */
char *answer_text(struct arena *arena, const char *s);
/* NULL: "". */
char *answer_uuid(struct arena *arena, const uint8_t *uuid);
/* Seconds since 1970 as RFC 3339; "" for 0. */
char *answer_time(struct arena *arena, int64_t seconds);
/* All but version, daemon, uptime and pid, which the service knows. */
void answer_status(struct fleet *fleet, Stokehold__Control__V1__StatusResponse *response, struct arena *arena);
