#pragma once

/*
 * Range and RangeStream of the KV service: lists, packed by hand straight from the keyspace's slices.
 */

#include "keyspace/keyspace.h"
#include "rpc/grpc.h"

#define LIST_MAX_CHUNK (1024 * 1024) /* bytes of one chunk, where it has more than one key */

struct list {
        struct grpc_call *call;
        struct range_call range;
        struct blob **chunks; /* owned, and the blobs: packed, not yet sent; Range: all, RangeStream: at most one */
        size_t n_chunks, capacity;
        size_t n_bytes; /* in them */
        size_t room;    /* bytes left in the last chunk */
        bool is_stream;
        bool failed; /* no memory for a chunk */
};
#define LIST_USER_SIZE sizeof(struct list)

void range_on_message(struct grpc_call *call, struct bytes data);
void range_stream_on_message(struct grpc_call *call, struct bytes data);
void range_stream_on_drained(struct grpc_call *call);
void list_on_cancel(struct grpc_call *call);
void list_on_free(struct grpc_call *call);
