#pragma once

/*
 * Points of a migration at which tests have the daemon die, or stop as with SIGSTOP: STOKEHOLD_TEST_POINT="NAME=kill" or "NAME=stop", and with
 * "NAME=kill@2" at the second time. Only where the build was told to (-Dtest_points=true): elsewhere this is nothing.
 */

#ifdef STOKE_TEST_POINTS
void point(const char *name);
#else
static inline void point(const char *name) {
        (void)name;
}
#endif
