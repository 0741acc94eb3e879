#include "base/arena.h"

struct arena_block {
        struct arena_block *next;
        max_align_t data[];
};

#define ARENA_FIRST_BLOCK 1024
#define ARENA_LARGEST_BLOCK (256 * 1024)

void arena_init(struct arena *a, size_t max) {
        *a = (struct arena){.max = max};
}

void arena_done(struct arena *a) {
        struct arena_block *b, *next;

        for (b = a->blocks; b; b = next) {
                next = b->next;
                free(b);
        }
        arena_init(a, a->max);
}

void *arena_alloc(struct arena *a, size_t size) {
        struct arena_block *b;
        size_t block;
        void *p;

        if (size > SIZE_MAX - 64)
                return NULL;
        size = size ? (size + 15) & ~(size_t)15 : 16; /* never NULL but for want of memory */

        if (size > a->left) {
                block = a->total ? min_of(a->total, (size_t)ARENA_LARGEST_BLOCK) : ARENA_FIRST_BLOCK;
                block = max_of(block, size);
                if (a->max && a->total + block > a->max) {
                        block = size;
                        if (a->total + block > a->max)
                                return NULL;
                }
                b = malloc(sizeof(*b) + block);
                if (!b)
                        return NULL;
                b->next = a->blocks;
                a->blocks = b;
                a->total += block;
                /* A large one of its own does not displace the room that is left. */
                if (block == size && block > a->left && a->left >= 512)
                        return b->data;
                a->next = (uint8_t *)b->data;
                a->left = block;
        }

        p = a->next;
        a->next += size;
        a->left -= size;
        return p;
}

void *arena_alloc0(struct arena *a, size_t size) {
        void *p = arena_alloc(a, size);

        if (p)
                memset(p, 0, size);
        return p;
}

void *arena_copy(struct arena *a, const void *data, size_t size) {
        void *p = arena_alloc(a, size);

        if (p && size)
                memcpy(p, data, size);
        return p;
}

char *arena_string(struct arena *a, const char *s, size_t size) {
        char *p;

        if (size == SIZE_MAX)
                return NULL;
        p = arena_alloc(a, size + 1);
        if (p) {
                memcpy(p, s, size);
                p[size] = '\0';
        }
        return p;
}
