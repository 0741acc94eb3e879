#include "base/timer.h"

static void place(struct timer_heap *heap, size_t i, struct loop_timer *timer) {
        heap->items[i] = timer;
        timer->position = (uint32_t)i;
}

static void sift_up(struct timer_heap *heap, size_t i) {
        struct loop_timer *timer = heap->items[i];

        for (; i > 1 && heap->items[i / 2]->due_ns > timer->due_ns; i /= 2)
                place(heap, i, heap->items[i / 2]);
        place(heap, i, timer);
}

static void sift_down(struct timer_heap *heap, size_t i) {
        struct loop_timer *timer = heap->items[i];

        for (;;) {
                size_t child = i * 2;

                if (child > heap->n_items)
                        break;
                if (child < heap->n_items && heap->items[child + 1]->due_ns < heap->items[child]->due_ns)
                        child++;
                if (heap->items[child]->due_ns >= timer->due_ns)
                        break;
                place(heap, i, heap->items[child]);
                i = child;
        }
        place(heap, i, timer);
}

void timer_heap_done(struct timer_heap *heap) {
        free(heap->items);
        *heap = (struct timer_heap){};
}

void timer_heap_set(struct timer_heap *heap, struct loop_timer *timer, uint64_t due_ns) {
        size_t i = timer->position;

        if (!i) {
                if (heap->n_items + 1 >= heap->capacity) {
                        heap->capacity = heap->capacity ? heap->capacity * 2 : 64;
                        heap->items = realloc(heap->items, heap->capacity * sizeof(*heap->items));
                        check(heap->items);
                }
                i = ++heap->n_items;
                place(heap, i, timer);
        }
        timer->due_ns = due_ns;
        sift_up(heap, i);
        sift_down(heap, timer->position);
}

void timer_heap_clear(struct timer_heap *heap, struct loop_timer *timer) {
        size_t i = timer->position;
        struct loop_timer *last;

        if (!i)
                return;
        timer->position = 0;
        last = heap->items[heap->n_items--];
        if (last == timer)
                return;
        place(heap, i, last);
        sift_up(heap, i);
        sift_down(heap, last->position);
}

uint64_t timer_heap_next(const struct timer_heap *heap) {
        return heap->n_items ? heap->items[1]->due_ns : UINT64_MAX;
}

struct loop_timer *timer_heap_take(struct timer_heap *heap, uint64_t now_ns) {
        struct loop_timer *timer;

        if (!heap->n_items || heap->items[1]->due_ns > now_ns)
                return NULL;
        timer = heap->items[1];
        timer_heap_clear(heap, timer);
        return timer;
}
