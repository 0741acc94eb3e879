#pragma once

/*
 * The timers of one loop: a binary heap by due time, whose nodes are embedded in their users' structures and know
 * their place, so that setting and clearing cost a logarithm and no memory. The loop's thread only; see base/loop.h for
 * what users call.
 */

#include "base/loop.h"

struct timer_heap {
        struct loop_timer **items; /* owned array of borrowed timers; items[0] is unused */
        size_t n_items;
        size_t capacity;
};

void timer_heap_done(struct timer_heap *heap);
void timer_heap_set(struct timer_heap *heap, struct loop_timer *timer, uint64_t due_ns);
void timer_heap_clear(struct timer_heap *heap, struct loop_timer *timer);
/* UINT64_MAX: none. */
uint64_t timer_heap_next(const struct timer_heap *heap);
/* Takes the first timer that is due at now_ns; NULL: none. */
struct loop_timer *timer_heap_take(struct timer_heap *heap, uint64_t now_ns);
