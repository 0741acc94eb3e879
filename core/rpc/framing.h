#pragma once

/*
 * gRPC's length-prefixed messages, for both ends: a queue of messages to be sent, as references, and a reader that puts
 * received ones together. One loop's thread.
 */

#include "base/buf.h"
#include "rpc/output.h"

#define FRAMING_PREFIX 5

struct send_entry {
        struct blob *blob; /* ref; NULL: a prefix alone */
        uint32_t message;  /* size of the message that it begins */
        bool first;        /* the prefix goes before it */
};

/* Zeroed is empty. */
struct send_queue {
        struct send_entry *entries; /* few, or owned; a ring of capacity (a power of two) */
        struct send_entry few[2];
        uint32_t head, n, capacity;
        size_t offset; /* sent of the entry at head, its prefix included */
        size_t size;   /* bytes that remain, prefixes included */
};

/* One message made of parts, whose references are taken over whatever the result. 0, -ENOMEM, -EMSGSIZE (over 4 GiB). */
int send_queue_push(struct send_queue *q, struct blob *const *parts, size_t n_parts);
/* Moves n bytes, at most what is there and what the batch has room for, into the batch. */
void send_queue_emit(struct send_queue *q, struct output_batch *batch, size_t n);
/* A message has been sent in part. */
bool send_queue_broken(const struct send_queue *q);
void send_queue_done(struct send_queue *q);

enum {
        FRAMING_TOO_LARGE = 1,  /* reader->size says how large */
        FRAMING_COMPRESSED = 2, /* the compressed flag is set, or nonsense */
        FRAMING_STOPPED = 3,    /* on_message said so */
};

/* Zeroed is ready. */
struct message_reader {
        uint8_t prefix[FRAMING_PREFIX];
        uint8_t n_prefix;
        uint32_t size;
        struct buf partial; /* owned; of a message that came in pieces */
        size_t left;        /* FRAMING_STOPPED: bytes of the input behind the message at which it was */
};

/* Gives each message that is complete to on_message, which returns false to stop; data is the input, or reader->partial.data
 * (which on_message may take out of it). 0, one of the above, or -ENOMEM. */
int message_reader_feed(struct message_reader *reader, const uint8_t *data, size_t size, size_t max,
        bool (*on_message)(void *userdata, struct bytes message), void *userdata);
/* In the midst of a message. */
static inline bool message_reader_broken(const struct message_reader *reader) {
        return reader->n_prefix != 0;
}
void message_reader_done(struct message_reader *reader);
