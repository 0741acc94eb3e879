#pragma once

/*
 * What can be done with a tenant's data where no daemon runs: from the settings, the definitions and the registry alone, as the daemon would
 * find them. Nothing is changed by it. This header is all that stokectl sees of the fleet, for `stokectl offline`; nothing behind it is
 * touched by any other command.
 *
 * In a process of its own, on the calling thread, which runs a loop meanwhile.
 */

#include "base/error.h"
#include "snapshot/plan.h"

struct offline_config {
        const char *config, *root, *plugins; /* as the daemon's options; one of the first two */
        const char *tenant;
        /* Both, or neither: where the data is, whatever the registry says. keyspace: "NAME/INCARNATION". */
        const char *datastore, *keyspace;
};

/* A snapshot of the tenant into fd, an empty file. 0; a negative errno with the reason: -ENOENT: no such tenant or datastore; -EBUSY: a daemon has it; what
 * is in the file is worth nothing then. A datastore that daemons share may be read beside them. */
int offline_snapshot(const struct offline_config *config, int fd, struct snapshot_figures *ret, struct error *reterr);
