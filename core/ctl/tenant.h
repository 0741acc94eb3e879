#pragma once

/*
 * What commands on a tenant share. stokectl's only thread.
 */

#include <stokehold/control.pb-c.h>

#include "ctl/ctl.h"

/* All tenants, or (name) that one; what is wrong was reported. */
int tenant_fetch(struct ctl *ctl, const char *name, const Stokehold__Control__V1__ListTenantsResponse **ret);
