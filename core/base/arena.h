#pragma once

/*
 * The memory of one call or one batch: allocated by moving a pointer, freed all at once. One thread at a time.
 * Small arenas keep their first block inline in the structure that embeds them, so that a short call allocates nothing.
 */

#include "base/buf.h"
#include "base/macro.h"

struct arena_block;

struct arena {
        struct arena_block *blocks; /* owned */
        uint8_t *next;              /* into the newest block */
        size_t left;
        size_t total; /* bytes of all blocks */
        size_t max;   /* bytes; beyond it allocations are NULL; 0: no maximum */
};

void arena_init(struct arena *a, size_t max);
/* Frees everything; the arena may be used again. */
void arena_done(struct arena *a);
/* 16-byte aligned, not cleared; NULL: no memory, or more than max. */
void *arena_alloc(struct arena *a, size_t size);
void *arena_alloc0(struct arena *a, size_t size);
void *arena_copy(struct arena *a, const void *data, size_t size);
/* Copies a string, or its first size bytes, and ends it with NUL. */
char *arena_string(struct arena *a, const char *s, size_t size);
