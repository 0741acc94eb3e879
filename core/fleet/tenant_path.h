#pragma once

/*
 * The folders of a tenant's endpoint: RUNTIME/tenants/NAME, with etcd.sock in it, and the link NAME.sock beside it.
 * Any thread.
 */

#include <sys/types.h>

#include "base/error.h"

/* Makes or corrects the directory and the link; the socket itself is the listener's. owner, group: -1 leaves it. */
int tenant_make_paths(
        const char *runtime_dir, const char *name, mode_t socket_mode, uid_t owner, gid_t group, struct error *reterr);
