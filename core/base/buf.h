#pragma once

/*
 * Bytes: borrowed (struct bytes), growing (struct buf, with a maximum from birth), and shared (struct blob, counted,
 * immutable). All are confined to one thread at a time; a blob's count is not atomic, so a blob stays on its shard.
 */

#include <string.h>

#include "base/macro.h"

struct bytes {
        const uint8_t *data; /* borrowed */
        size_t size;
};

static inline struct bytes bytes_of(const void *data, size_t size) {
        return (struct bytes){data, size};
}
static inline struct bytes bytes_of_string(const char *s) {
        return (struct bytes){(const uint8_t *)s, strlen(s)};
}
/* Bytewise, shorter first on a tie, as etcd orders keys. */
static inline int bytes_compare(struct bytes a, struct bytes b) {
        size_t n = min_of(a.size, b.size);
        int r = n ? memcmp(a.data, b.data, n) : 0;

        return r ? r : (a.size > b.size) - (a.size < b.size);
}
static inline bool bytes_equal(struct bytes a, struct bytes b) {
        return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

struct buf {
        uint8_t *data; /* owned */
        size_t size;
        size_t capacity;
        size_t max; /* bytes; an append beyond it is -EMSGSIZE; 0: no maximum */
};

void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);
/* Makes room for n more bytes at data + size. 0, -EMSGSIZE, -ENOMEM. */
int buf_reserve(struct buf *b, size_t n);
int buf_append(struct buf *b, const void *data, size_t n);
int buf_append_string(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *format, ...) printf_like(2, 3);
/* Forgets the first n bytes. */
void buf_consume(struct buf *b, size_t n);
static inline void buf_clear(struct buf *b) {
        b->size = 0;
}

struct blob {
        uint32_t n_refs;
        uint32_t size;
        uint8_t data[];
};

/* A blob of size uninitialised bytes (or a copy), count 1; NULL: no memory. */
struct blob *blob_new(size_t size);
struct blob *blob_copy(const void *data, size_t size);
static inline struct blob *blob_ref(struct blob *b) {
        b->n_refs++;
        return b;
}
/* Takes NULL. */
static inline void blob_unref(struct blob *b) {
        if (b && --b->n_refs == 0)
                free(b);
}
static inline struct bytes blob_bytes(const struct blob *b) {
        return b ? bytes_of(b->data, b->size) : (struct bytes){};
}
static inline void blob_unrefp(struct blob **b) {
        blob_unref(*b);
}
