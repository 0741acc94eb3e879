#pragma once

/*
 * The budget of memory for what all keyspaces of all shards hold: their state (index, history, leases) and, in the shards' caches,
 * values. Above it values leave first: the caches may hold what the state leaves, down to a small share. When the state alone is too
 * much, open keyspaces that nobody uses are closed, the one that was used longest ago first; and when that is not enough for a
 * keyspace that is being opened, it is refused. What watches, calls and connections take has limits of its own and is not in here.
 *
 * Sums are atomics that users change in steps of MEMORY_STEP, so that growing costs nothing most of the time. Who is to close is
 * decided under a mutex, held for a walk over the users at most; those who are asked are told on their own loop. One is asked at a
 * time, and the next when that one has given back what it had, or has said no.
 */

#include <stdatomic.h>

#include "base/loop.h"

#define MEMORY_STEP ((size_t)64 * 1024)

struct memory;
/* max_bytes 0: no budget. idle_ns: who was used since is not asked to close. */
struct memory *memory_new(uint64_t max_bytes, uint64_t idle_ns);
/* After the last user and cache. */
void memory_free(struct memory *memory);
DEFINE_FREEP(memory)

struct memory_figures {
        uint64_t max_bytes, state_bytes, value_bytes;
        uint64_t n_closed;    /* keyspaces that made room */
        uint64_t n_refused;   /* openings */
        uint64_t freed_bytes; /* that keyspaces had which were closed, since the start */
};
/* Any thread. NULL: all zero. */
void memory_get_figures(const struct memory *memory, struct memory_figures *ret);
/* Any thread, now and then: those who were in use the last time may not be any more. Takes NULL. */
void memory_poke(struct memory *memory);
/* What state may take at most. */
uint64_t memory_most(const struct memory *memory);

/* ---- users: keyspaces. Each on its loop's thread; all functions take a user of no budget (memory NULL). */

struct memory_handlers {
        /* Closes if it can: true: memory_done() follows when all is freed. */
        bool (*close)(void *userdata);
        /* The answer to memory_wait(). Refused: memory_done() follows when all is freed. */
        void (*answer)(void *userdata, bool granted);
};
struct memory_user;
/* userdata is not used after memory_user_free(). */
struct memory_user *memory_user_new(
        struct memory *memory, struct loop *loop, const struct memory_handlers *handlers, void *userdata);
void memory_user_free(struct memory_user *user);
/* Its bytes are these now. exactly: down to the byte, else when it is a step away. */
void memory_set(struct memory_user *user, size_t bytes, bool exactly);
/* It was used just now, and (open) may be asked to close. */
void memory_used(struct memory_user *user, uint64_t now_ns);
uint64_t memory_used_ns(const struct memory_user *user);
void memory_set_open(struct memory_user *user, bool open);
/* Whether the state of all keyspaces together is within the budget. */
bool memory_fits(const struct memory_user *user);
/* Waits for room; hopeless: it needs more than there will ever be, so nobody need close for it. */
void memory_wait(struct memory_user *user, bool hopeless);
void memory_done(struct memory_user *user);

/* ---- caches of values: each on its loop's thread */

struct memory_cache {
        struct memory *memory;
        struct loop *loop;
        struct loop_task task; /* posted when values must leave; run is the cache's */
        size_t published;
        /* Under the mutex. */
        bool posted;
        struct memory_cache *next;
};
void memory_cache_add(struct memory *memory, struct loop *loop, struct memory_cache *cache);
void memory_cache_remove(struct memory_cache *cache);
/* From within task: it may be posted again. */
void memory_cache_told(struct memory_cache *cache);
void memory_cache_set(struct memory_cache *cache, size_t bytes);
/* What this cache may hold at most, as things are. SIZE_MAX: no budget. */
size_t memory_cache_most(const struct memory_cache *cache);
