#pragma once

/*
 * A tenant whose data is being brought from elsewhere: by a restore or a clone, on the daemon that its record names. It becomes Ready when all of it is
 * committed, and is removed with all that was brought when it is not, or when that daemon has gone. Included by fleet/state.h alone; main loop only.
 */

#include "base/macro.h"

struct assignment;

struct installing {
        struct assignment *assignment; /* borrowed; NULL: it is over */
        /* It is to end, soon or at once, with this reason; may be called again. */
        void (*cancel)(struct installing *installing, const char *reason);
};

/* The assignment's record, in phase Installing, was written by this daemon for it. */
void installing_enter(struct installing *installing, struct assignment *a);
/* committed: the tenant is to be Ready. Its next step follows by itself. */
void installing_leave(struct installing *installing, bool committed);
/* Nothing brings it; otherwise that is told to end, and the next step comes when it has. */
bool installing_is_over(struct assignment *a, const char *reason);
/* A step of a tenant in phase Installing; true: nothing is left, the record is to go. */
bool installing_step(struct assignment *a);
