#pragma once

/*
 * Output of a connection. What one iteration writes is gathered in a batch, of which a thread has one: small pieces are
 * copied, large ones are referenced; then one sendmsg() takes it. Only what the socket did not take stays with the
 * connection, in its backlog; so a connection that is idle, or whose peer reads, holds no memory for output.
 */

#include <sys/uio.h>

#include "base/buf.h"
#include "rpc/transport.h"

#define OUTPUT_BYTES (64 * 1024)  /* copied into a batch */
#define OUTPUT_PARTS 128          /* in a batch */
#define OUTPUT_TOTAL (512 * 1024) /* of a batch, copied or referenced */
#define OUTPUT_FRAME (16 * 1024 + 64)
#define OUTPUT_COPY 4096 /* up to this, pieces are copied */

struct output_batch {
        size_t n_bytes, n_parts, total;
        struct iovec iov[OUTPUT_PARTS];
        struct blob *blobs[OUTPUT_PARTS]; /* refs; NULL: the part is in bytes */
        uint8_t bytes[OUTPUT_BYTES];
};

struct output_part {
        struct blob *blob; /* ref */
        uint32_t offset, size;
};

struct output {
        struct output_part *parts; /* owned; the backlog */
        size_t first, n_parts;     /* those before first are gone */
};

/* The thread's batch, empty; NULL: no memory. Given back, empty, with output_batch_done(). */
struct output_batch *output_batch_get(void);
void output_batch_done(struct output_batch *batch);
/* There is room for one more frame of up to OUTPUT_FRAME bytes, made of whatever pieces. */
bool output_batch_has_room(const struct output_batch *batch);
void output_batch_copy(struct output_batch *batch, const void *data, size_t n);
/* References the blob, or copies from it if it is small. */
void output_batch_blob(struct output_batch *batch, struct blob *blob, size_t offset, size_t n);

/* Writes the batch and empties it; not while there is a backlog. 1: all was taken; 0: the rest is in the backlog;
 * negative errno: the connection is broken. */
int output_write(struct output *o, struct transport *t, struct output_batch *batch);
/* Writes the backlog; results as above. */
int output_flush(struct output *o, struct transport *t);
static inline bool output_blocked(const struct output *o) {
        return o->n_parts != 0;
}
void output_done(struct output *o);

/* The thread's buffer for reading, of INPUT_BYTES; NULL: no memory. */
#define INPUT_BYTES (64 * 1024)
uint8_t *input_get(void);
void input_done(uint8_t *data);
