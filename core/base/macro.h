#pragma once

/*
 * The few macros that the whole core shares: clean-up attributes, ownership transfer, small allocations that cannot
 * fail, checks of our own bugs that stay on in production.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How the daemon sets malloc: from this size on it maps an allocation alone, and gives it back alone (bytes). */
#define MALLOC_MAPPED (256 * 1024)
/* A heap's free end is given back only beyond this, since it is soon needed again (bytes). */
#define MALLOC_KEPT (8 * 1024 * 1024)
/* Heaps, for all threads: values are made on the datastores' workers and freed on the shards, and with a heap for each thread the cache came to
 * occupy several times its size. */
#define MALLOC_HEAPS 2

#define cleanup(f) __attribute__((__cleanup__(f)))
#define printf_like(fmt, args) __attribute__((__format__(__printf__, fmt, args)))

/* steal(p): hands out p and leaves NULL behind, so that a cleanup() does not free it. */
#define steal(p)                                                                                                       \
        ({                                                                                                             \
                __auto_type _steal_ = (p);                                                                             \
                (p) = NULL;                                                                                            \
                _steal_;                                                                                               \
        })

/* DEFINE_FREEP(thing): defines thing_freep() for cleanup(), from thing_free(struct thing *), which takes NULL. */
#define DEFINE_FREEP(name)                                                                                             \
        static inline void name##_freep(struct name **p) {                                                             \
                name##_free(*p);                                                                                       \
        }

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define n_elements(a) (sizeof(a) / sizeof((a)[0]))
#define min_of(a, b) ((a) < (b) ? (a) : (b))
#define max_of(a, b) ((a) > (b) ? (a) : (b))

#define NSEC_PER_SEC UINT64_C(1000000000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_USEC UINT64_C(1000)

/* check(): asserts a bug of our own; never compiled out. Nothing that came from outside may reach one. */
#define check(expr)                                                                                                    \
        do {                                                                                                           \
                if (__builtin_expect(!(expr), 0)) {                                                                    \
                        fprintf(stderr, "%s:%d: %s: check failed: %s\n", __FILE__, __LINE__, __func__, #expr);         \
                        abort();                                                                                       \
                }                                                                                                      \
        } while (0)

/* For sizes that we choose ourselves: aborts when there is no memory. */
static inline void *xcalloc(size_t n, size_t size) {
        void *p = calloc(n ? n : 1, size ? size : 1);

        check(p);
        return p;
}
#define new0(type) ((type *)xcalloc(1, sizeof(type)))
/* The same for strings; NULL is an empty one. */
static inline char *xstrdup(const char *s) {
        char *copy = strdup(s ? s : "");

        check(copy);
        return copy;
}

static inline void freep(void *p) {
        free(*(void **)p);
}
