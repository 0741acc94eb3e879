/*
 * Linked into `stokehold-points`, which is never installed: the daemon dies, or stops as by SIGSTOP, when it comes to a point of a migration
 * (core/fleet/point.h): STOKEHOLD_TEST_POINT="NAME=kill" or "NAME=stop", "NAME=kill@2" at the second time.
 */

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "fleet/point.h"

static void on_point(const char *name) {
        static unsigned n;
        const char *wanted = getenv("STOKEHOLD_TEST_POINT");
        const char *equals = wanted ? strchr(wanted, '=') : NULL, *at;

        if (!equals || strlen(name) != (size_t)(equals - wanted) || strncmp(name, wanted, strlen(name)) != 0)
                return;
        at = strchr(equals, '@');
        if (++n != (at ? strtoul(at + 1, NULL, 10) : 1))
                return;
        (void)raise(strncmp(equals + 1, "stop", 4) == 0 ? SIGSTOP : SIGKILL);
}

__attribute__((constructor)) static void set(void) {
        fleet_point = on_point;
}
