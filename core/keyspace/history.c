#include "keyspace/history.h"

void history_done(struct history *h) {
        free(h->items);
        *h = (struct history){};
}

void history_push(struct history *h, int64_t revision, uint64_t seq, struct key_entry *entry) {
        if (h->n == h->capacity) {
                struct history grown = {.capacity = h->capacity ? h->capacity * 2 : 64, .n = h->n};

                grown.items = xcalloc(grown.capacity, sizeof(*grown.items));
                for (size_t i = 0; i < h->n; i++)
                        grown.items[i] = *history_at(h, i);
                free(h->items);
                *h = grown;
        }
        h->n++;
        *history_at(h, h->n - 1) = (struct history_item){revision, seq, entry};
}

size_t history_find(const struct history *h, int64_t revision) {
        size_t low = 0, high = h->n;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (history_at(h, middle)->revision < revision)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

size_t history_find_seq(const struct history *h, uint64_t seq) {
        size_t low = 0, high = h->n;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (history_at(h, middle)->seq < seq)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

void history_drop(struct history *h, size_t n) {
        check(n <= h->n);
        h->n -= n;
        if (h->capacity)
                h->first = (h->first + n) & (h->capacity - 1);
        if (h->n == 0)
                history_done(h);
}
