#pragma once

/*
 * Tenants that the daemon has crashed with. Each crash that coincides with a tenant is written down, in STATE/quarantine.json; with
 * the second one the tenant is not opened any more until somebody asks for it, so that the others are served. What was written down
 * is forgotten when the daemon has run for a time without a crash.
 *
 * A crash coincides with the tenant that the thread which crashed worked for. Where it worked for nobody, the signal came from
 * outside, or the kernel killed the daemon for want of memory: with those that were being opened, if they were few; a daemon that opens hundreds
 * after a start must not put away hundreds. Who kills the daemon by hand leaves no trace.
 *
 * The main thread's.
 */

#include "base/error.h"
#include "base/loop.h"
#include "fleet/crash.h"

struct quarantine;
/* Reads what was written down, adds the last crash, writes. window_ns: borrowed, it may change: the time after which crashes are forgotten; 0:
 * they do not matter. Trouble with the file is logged, and does not keep the daemon from starting. */
struct quarantine *quarantine_new(
        struct loop *loop, const char *state_dir, const uint64_t *window_ns, const struct crash_report *report);
void quarantine_free(struct quarantine *q);
/* NULL, or why this tenant is not to be opened; valid until the next change. */
const char *quarantine_reason(const struct quarantine *q, const char *tenant);
/* It may be opened, as if it had never been part of a crash. Harmless for one that was not. */
void quarantine_forget(struct quarantine *q, const char *tenant);
