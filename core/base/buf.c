#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>

void buf_init(struct buf *b, size_t max) {
        *b = (struct buf){.max = max};
}

void buf_done(struct buf *b) {
        free(b->data);
        *b = (struct buf){.max = b->max};
}

int buf_reserve(struct buf *b, size_t n) {
        size_t want, capacity;
        uint8_t *data;

        if (b->capacity - b->size >= n)
                return 0;
        if (__builtin_add_overflow(b->size, n, &want))
                return -ENOMEM;
        if (b->max && want > b->max)
                return -EMSGSIZE;

        capacity = b->capacity ? b->capacity : 256;
        while (capacity < want)
                capacity += capacity / 2;
        if (b->max && capacity > b->max)
                capacity = b->max;

        data = realloc(b->data, capacity);
        if (!data)
                return -ENOMEM;
        b->data = data;
        b->capacity = capacity;
        return 0;
}

int buf_append(struct buf *b, const void *data, size_t n) {
        int r;

        r = buf_reserve(b, n);
        if (r < 0)
                return r;
        if (n)
                memcpy(b->data + b->size, data, n);
        b->size += n;
        return 0;
}

int buf_append_string(struct buf *b, const char *s) {
        return buf_append(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *format, ...) {
        va_list ap;
        int n, r;

        va_start(ap, format);
        n = vsnprintf(NULL, 0, format, ap);
        va_end(ap);
        if (n < 0)
                return -EINVAL;

        r = buf_reserve(b, (size_t)n + 1); /* vsnprintf ends with NUL, which is not counted */
        if (r < 0)
                return r;

        va_start(ap, format);
        (void)vsnprintf((char *)b->data + b->size, (size_t)n + 1, format, ap);
        va_end(ap);
        b->size += (size_t)n;
        return 0;
}

void buf_consume(struct buf *b, size_t n) {
        check(n <= b->size);
        b->size -= n;
        if (b->size)
                memmove(b->data, b->data + n, b->size);
}

struct blob *blob_new(size_t size) {
        struct blob *b;

        if (size > UINT32_MAX)
                return NULL;
        b = malloc(sizeof(*b) + size);
        if (!b)
                return NULL;
        b->n_refs = 1;
        b->size = (uint32_t)size;
        return b;
}

struct blob *blob_copy(const void *data, size_t size) {
        struct blob *b = blob_new(size);

        if (b && size)
                memcpy(b->data, data, size);
        return b;
}
