#include "rpc/output.h"

#include <errno.h>
#include <limits.h>

/* Each thread's own, so that hundreds of connections share two buffers. A loop that is run from within another's callback
 * finds them taken and gets one from the heap. */
static _Thread_local struct output_batch thread_batch;
static _Thread_local bool thread_batch_taken;
static _Thread_local uint8_t thread_input[INPUT_BYTES];
static _Thread_local bool thread_input_taken;

struct output_batch *output_batch_get(void) {
        struct output_batch *b;

        if (!thread_batch_taken) {
                thread_batch_taken = true;
                b = &thread_batch;
        } else {
                b = malloc(sizeof(*b));
                if (!b)
                        return NULL;
        }
        b->n_bytes = b->n_parts = b->total = 0;
        return b;
}

static void batch_clear(struct output_batch *b) {
        for (size_t i = 0; i < b->n_parts; i++)
                blob_unref(b->blobs[i]);
        b->n_bytes = b->n_parts = b->total = 0;
}

void output_batch_done(struct output_batch *b) {
        if (!b)
                return;
        batch_clear(b);
        if (b == &thread_batch)
                thread_batch_taken = false;
        else
                free(b);
}

uint8_t *input_get(void) {
        if (!thread_input_taken) {
                thread_input_taken = true;
                return thread_input;
        }
        return malloc(INPUT_BYTES);
}

void input_done(uint8_t *data) {
        if (data == thread_input)
                thread_input_taken = false;
        else
                free(data);
}

bool output_batch_has_room(const struct output_batch *b) {
        return b->n_parts + 2 * (OUTPUT_FRAME / OUTPUT_COPY) + 2 <= OUTPUT_PARTS && b->total < OUTPUT_TOTAL &&
                b->n_bytes + OUTPUT_FRAME <= OUTPUT_BYTES;
}

void output_batch_copy(struct output_batch *b, const void *data, size_t n) {
        uint8_t *p = b->bytes + b->n_bytes;

        check(n <= OUTPUT_BYTES - b->n_bytes);
        if (!n)
                return;
        memcpy(p, data, n);
        b->n_bytes += n;
        b->total += n;
        if (b->n_parts && !b->blobs[b->n_parts - 1]) {
                b->iov[b->n_parts - 1].iov_len += n; /* copies follow one another in bytes */
                return;
        }
        check(b->n_parts < OUTPUT_PARTS);
        b->iov[b->n_parts] = (struct iovec){p, n};
        b->blobs[b->n_parts++] = NULL;
}

void output_batch_blob(struct output_batch *b, struct blob *blob, size_t offset, size_t n) {
        if (n <= OUTPUT_COPY) {
                output_batch_copy(b, blob->data + offset, n);
                return;
        }
        check(b->n_parts < OUTPUT_PARTS);
        b->iov[b->n_parts] = (struct iovec){blob->data + offset, n};
        b->blobs[b->n_parts++] = blob_ref(blob);
        b->total += n;
}

/* Keeps what follows the first `taken` bytes of the batch. */
static int output_keep(struct output *o, struct output_batch *b, size_t taken) {
        size_t i = 0;

        while (i < b->n_parts && taken >= b->iov[i].iov_len)
                taken -= b->iov[i++].iov_len;

        o->parts = calloc(b->n_parts - i, sizeof(*o->parts));
        if (!o->parts)
                return -ENOMEM;
        for (; i < b->n_parts; i++, taken = 0) {
                struct output_part *p = &o->parts[o->n_parts];
                const uint8_t *from = (const uint8_t *)b->iov[i].iov_base + taken;

                p->size = (uint32_t)(b->iov[i].iov_len - taken);
                if (b->blobs[i]) {
                        p->offset = (uint32_t)(from - b->blobs[i]->data);
                        p->blob = steal(b->blobs[i]);
                } else {
                        p->blob = blob_copy(from, p->size);
                        if (!p->blob)
                                return -ENOMEM;
                }
                o->n_parts++;
        }
        return 0;
}

int output_write(struct output *o, struct transport *t, struct output_batch *b) {
        ssize_t n;
        int r = 1;

        check(!output_blocked(o));
        if (!b->n_parts)
                return 1;

        n = transport_write(t, b->iov, b->n_parts);
        if (n == -EAGAIN)
                n = 0;
        if (n < 0)
                r = (int)n;
        else if ((size_t)n < b->total) {
                r = output_keep(o, b, (size_t)n);
                if (r < 0)
                        output_done(o);
        }
        batch_clear(b);
        return r;
}

int output_flush(struct output *o, struct transport *t) {
        while (output_blocked(o)) {
                struct iovec iov[64];
                size_t n_iov = 0;
                ssize_t n;

                for (size_t i = 0; i < o->n_parts && n_iov < n_elements(iov); i++) {
                        struct output_part *p = &o->parts[o->first + i];

                        iov[n_iov++] = (struct iovec){p->blob->data + p->offset, p->size};
                }
                n = transport_write(t, iov, n_iov);
                if (n == -EAGAIN)
                        return 0;
                if (n < 0)
                        return (int)n;
                while (n > 0) {
                        struct output_part *p = &o->parts[o->first];

                        if ((size_t)n < p->size) {
                                p->offset += (uint32_t)n;
                                p->size -= (uint32_t)n;
                                return 0;
                        }
                        n -= p->size;
                        blob_unref(p->blob);
                        o->first++;
                        o->n_parts--;
                }
        }
        output_done(o);
        return 1;
}

void output_done(struct output *o) {
        for (size_t i = 0; i < o->n_parts; i++)
                blob_unref(o->parts[o->first + i].blob);
        free(o->parts);
        *o = (struct output){};
}
