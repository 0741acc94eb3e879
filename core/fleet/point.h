#pragma once

/*
 * The points of a migration, for tests alone: whoever is linked in and sets this is told of each before it is taken (tests/system/points.c has the daemon
 * die or stop there). Nothing in the daemon sets it. The main thread.
 */

extern void (*fleet_point)(const char *name);

static inline void point(const char *name) {
        if (fleet_point)
                fleet_point(name);
}
