#pragma once

/*
 * On whose behalf a thread works at this moment: a small number, whose meaning whoever gave it out knows; 0 is nobody's. It is
 * looked at when the process crashes, by a handler on the thread that did. A loop that keeps track (loop_track_owners()) sets it
 * before whatever it dispatches: descriptors, timers and tasks belong to whoever was at work when they were first used, and
 * so do the jobs that were submitted meanwhile, on the threads that run them. So it spreads by itself, from the listener of an endpoint
 * to all that its clients cause. It costs a load and a store a dispatch.
 */

#include <stdatomic.h>
#include <stdint.h>

/* Only the thread itself and its signal handlers touch it; relaxed, so that the compiler leaves each store where it is. */
extern __thread _Atomic uint32_t owner_now;

static inline uint32_t owner_get(void) {
        return atomic_load_explicit(&owner_now, memory_order_relaxed);
}
static inline void owner_set(uint32_t owner) {
        atomic_store_explicit(&owner_now, owner, memory_order_relaxed);
}
/* Whose a thing is that is being used: the first who did, as long as it is not made anew. */
static inline uint32_t owner_keep(uint32_t before) {
        return before ? before : owner_get();
}
