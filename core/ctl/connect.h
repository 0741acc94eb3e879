#pragma once

/* What call.c and stream.c share: the connection, and how a call's end is reported. Nobody else includes it. */

#include "ctl/ctl.h"

/* Makes the connection, unless there is one. CTL_OK, or what was reported. */
int ctl_connect(struct ctl *ctl);
/* Says what went wrong, if anything did; the exit code. timeout_ns: as it was asked with. */
int ctl_report(struct ctl *ctl, enum grpc_code code, const char *message, uint64_t timeout_ns);
