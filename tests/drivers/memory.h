/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The knobs of the memory driver, for tests that link it statically (memory_source in meson.build, with the symbol stoke_driver). An instance is
 * named by the setting "instance"; all stores of a process that name the same one see the same data, and it lives until
 * memory_reset(). Any thread.
 *
 * Tests that load driver-memory.so have the same faults through settings, fixed at open:
 *   instance     name; default "default"
 *   seed         of the dice; default 1
 *   delay-us     each append, load, ends, values and compact sleeps so long (ended by interrupt and deadline)
 *   stale        probability that an append is refused though the end is right
 *   unknown-landed, unknown-lost   probability that an append is STOKE_UNKNOWN, and happened or not
 *   unknown-late the same, and it stays in limbo: it lands with the next function on that keyspace that comes `late-after`
 *                (default 2) calls later, if the end is still the one that it named
 *   fail-connect, fail-load   probability that these give -EIO
 */

#include <stokehold/driver.h>

struct memory_faults {
        double stale, unknown_landed, unknown_lost, unknown_late, fail_connect, fail_load;
        unsigned late_after;
        uint64_t delay_us;
};

enum memory_function {
        MEMORY_CONNECT,
        MEMORY_LOAD,
        MEMORY_VALUES,
        MEMORY_APPEND,
        MEMORY_ENDS,
        MEMORY_COMPACT,
        MEMORY_READ,
        MEMORY_FEED,
        MEMORY_COMMIT,
        MEMORY_ABORT,
        MEMORY_N_FUNCTIONS
};

extern const struct stoke_driver stoke_driver;

/* Forgets all data and settings of the instance. No store may have it open. */
void memory_reset(const char *instance);
/* Replaces the faults of all stores of this instance from now on; NULL: none. */
void memory_set_faults(const char *instance, const struct memory_faults *faults);
/* The next n calls of a function fail with code (negative errno), before they do anything. */
void memory_fail_next(const char *instance, enum memory_function function, unsigned n, int code);
/* The next load gives -EIO after it has visited n records; 0: not. */
void memory_cut_next_load(const char *instance, size_t n);
/* The next append is answered STOKE_UNKNOWN and stays in limbo until memory_land(). */
void memory_limbo_next(const char *instance);
/* Whether something is, on this keyspace. */
bool memory_in_limbo(const char *instance, const char *keyspace);
/* Lands what is in limbo on this keyspace where the end is still the one it named; true: it landed. */
bool memory_land(const char *instance, const char *keyspace);
/* Cuts the last n records off (a replica that lagged behind was promoted). */
void memory_forget(const char *instance, const char *keyspace, size_t n);
/* The same of an installation that is not committed (the server crashed, and had not synced them). */
void memory_lose(const char *instance, const char *keyspace, size_t n);
/* Takes one record out of an installation that is not committed, or (damages) changes its hash. */
void memory_spoil(const char *instance, const char *keyspace, uint64_t seq, bool damages);
/* Replaces the origin of the last record (another history of the same length). */
void memory_fork(const char *instance, const char *keyspace);
/* How often a function was called. */
uint64_t memory_calls(const char *instance, enum memory_function function);
