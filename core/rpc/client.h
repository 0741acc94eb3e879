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
struct tls_client;

struct grpc_client_handler {
        /* data is valid during the call only. */
        void (*on_message)(void *userdata, struct bytes data);
        /* Exactly once, last; message may be "". A connection that could not be made or was lost is UNAVAILABLE. */
        void (*on_end)(void *userdata, enum grpc_code code, const char *message);
        /* grpc_client_pending() fell below GRPC_CLIENT_LOW after it had been above it. May be NULL. */
        void (*on_drained)(void *userdata);
};

/* address: "unix:/path" or "tcp:HOST:PORT". Connects at once (a HOST that is a name is looked up on a thread of its own, its addresses are tried in
 * turn); a failure shows in the calls. */
int grpc_client_new(struct loop *loop, const char *address, struct grpc_client **ret, struct error *reterr);
/* The same over TLS: "tls:HOST:PORT"; a server that is not who it should be, or does not speak h2, is UNAVAILABLE with that reason. tls: a reference
 * is taken. */
int grpc_client_new_tls(
        struct loop *loop, const char *address, struct tls_client *tls, struct grpc_client **ret, struct error *reterr);
void grpc_client_free(struct grpc_client *client);
DEFINE_FREEP(grpc_client)

/* timeout_ns: 0 is none (sent as grpc-timeout and watched here too). The call is the client's and dead after on_end. */
int grpc_client_start(struct grpc_client *client, const char *path, uint64_t timeout_ns,
        const struct grpc_client_handler *handler, void *userdata, struct grpc_client_call **ret);
int grpc_client_send(struct grpc_client_call *call, struct bytes message);
/* Bytes that were given to grpc_client_send() and that the connection has not taken yet. Long streams stop at GRPC_CLIENT_LOW or
 * somewhat above it and go on in on_drained(). */
#define GRPC_CLIENT_LOW ((size_t)256 * 1024)
size_t grpc_client_pending(const struct grpc_client_call *call);
/* From now on on_message() is not called, and the server is told to stop: at most 4 MiB that are on their way are kept. on_end() comes only after
 * all messages, so not while paused, unless the call is cancelled, its time is over or the connection is lost (then what was kept is dropped). May
 * be called from within on_message(). */
void grpc_client_pause(struct grpc_client_call *call);
/* Goes on, in this iteration but not from within. */
void grpc_client_resume(struct grpc_client_call *call);
void grpc_client_half_close(struct grpc_client_call *call);
/* on_end comes with CANCELLED, from within. */
void grpc_client_cancel(struct grpc_client_call *call);

/* One request, any number of responses: on_message for each (may be NULL for none wanted); returns the code, with the server's message
 * in reterr. Runs the client's loop until the end: not from within that loop. */
enum grpc_code grpc_client_unary(struct grpc_client *client, const char *path, uint64_t timeout_ns,
        struct bytes request, void (*on_message)(void *userdata, struct bytes data), void *userdata,
        struct error *reterr);
