#pragma once

/*
 * gRPC, client side: one connection, calls on it. Asynchronous, on a loop's thread; grpc_client_unary() runs a loop of its own for
 * programs that do one thing at a time (stokectl).
 */

#include "base/buf.h"
#include "base/error.h"
#include "base/loop.h"
#include "rpc/grpc.h"

struct grpc_client;
struct grpc_client_call;

struct grpc_client_handler {
        /* data is valid during the call only. */
        void (*on_message)(void *userdata, struct bytes data);
        /* Exactly once, last; message may be "". A connection that could not be made or was lost is UNAVAILABLE. */
        void (*on_end)(void *userdata, enum grpc_code code, const char *message);
};

/* address: "unix:/path" or "tcp:HOST:PORT". Connects at once; a failure shows in the calls. */
int grpc_client_new(struct loop *loop, const char *address, struct grpc_client **ret, struct error *reterr);
void grpc_client_free(struct grpc_client *client);
DEFINE_FREEP(grpc_client)

/* timeout_ns: 0 is none (sent as grpc-timeout and watched here too). The call is the client's and dead after on_end. */
int grpc_client_start(struct grpc_client *client, const char *path, uint64_t timeout_ns,
        const struct grpc_client_handler *handler, void *userdata, struct grpc_client_call **ret);
int grpc_client_send(struct grpc_client_call *call, struct bytes message);
void grpc_client_half_close(struct grpc_client_call *call);
/* on_end comes with CANCELLED, from within. */
void grpc_client_cancel(struct grpc_client_call *call);

/* One request, any number of responses: on_message for each (may be NULL for none wanted); returns the code, with the server's message
 * in reterr. Runs the client's loop until the end: not from within that loop. */
enum grpc_code grpc_client_unary(struct grpc_client *client, const char *path, uint64_t timeout_ns,
        struct bytes request, void (*on_message)(void *userdata, struct bytes data), void *userdata,
        struct error *reterr);
