#include "fleet/point.h"

/*
 * Built in only for tests. Main thread.
 */

#include <signal.h>
#include <stdlib.h>
#include <string.h>

void point(const char *name) {
        static unsigned n;
        const char *wanted = getenv("STOKEHOLD_TEST_POINT");
        const char *equals = wanted ? strchr(wanted, '=') : NULL, *at;
        unsigned nth = 1;

        if (!equals || strlen(name) != (size_t)(equals - wanted) || strncmp(name, wanted, strlen(name)) != 0)
                return;
        at = strchr(equals, '@');
        if (at)
                nth = (unsigned)strtoul(at + 1, NULL, 10);
        if (++n != nth)
                return;
        (void)raise(strncmp(equals + 1, "stop", 4) == 0 ? SIGSTOP : SIGKILL);
}
