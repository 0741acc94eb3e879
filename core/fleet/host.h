#pragma once

/*
 * Which host this is, among the daemons that share a registry: an id made once and kept in STATE/host-id, and the name that the system has.
 * What only one host can reach (a tenant in its SQLite) is recorded with that id. Main thread.
 */

#include "base/error.h"
#include "fleet/uuid.h"

struct host {
        char id[UUID_TEXT_SIZE];
        char *name; /* owned; for people */
};

/* Makes the id at the first start. A file that holds something else is an error: a new id would leave tenants behind. */
int host_read(const char *state_dir, struct host *ret, struct error *reterr);
void host_done(struct host *host);
