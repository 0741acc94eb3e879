#pragma once

/*
 * The inside of the client, shared by client.c (the connection), client_call.c (calls), client_unary.c and client_address.c. Nobody
 * else includes it.
 */

#include <nghttp2/nghttp2.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "rpc/client.h"
#include "rpc/framing.h"
#include "rpc/output.h"
#include "rpc/transport.h"

struct grpc_client {
        struct loop *loop;           /* borrowed */
        struct transport *transport; /* owned; NULL: none */
        struct loop_io io;
        struct loop_task flush;
        struct loop_task reap; /* deferred: ends calls on a connection that is lost */
        struct loop_timer connect_timer;
        nghttp2_session *session;
        struct output output;
        struct output_batch *batch; /* during a flush */
        LIST_HEAD(, grpc_client_call) calls;
        bool connecting, lost, freed;
        unsigned depth;  /* of events in progress */
        char *why;       /* owned; why it was lost */
        char *authority; /* owned */
};

struct grpc_client_call {
        struct grpc_client *client;
        LIST_ENTRY(grpc_client_call) entry;
        const struct grpc_client_handler *handler; /* borrowed */
        void *userdata;
        int32_t stream_id;
        bool half_closed, deferred, cancelled;
        bool in_message; /* on_message is on the stack: the call is not on the list, its end waits */
        bool has_status, bad_http;
        enum grpc_code status; /* as the server said */
        enum grpc_code local;  /* ours, when we end it; GRPC_OK: not */
        const char *local_text;
        struct buf text; /* grpc-message, decoded */
        struct send_queue queue;
        struct message_reader reader;
        struct loop_timer timer;
};

/* "unix:/path" or "tcp:ADDRESS:PORT". */
int client_address(const char *address, struct sockaddr_storage *ret, socklen_t *ret_size, struct error *reterr);
/* nghttp2's session, with our settings submitted. */
int client_session(struct grpc_client *c);
/* Something was submitted. */
void client_dirty(struct grpc_client *c);
/* After an event that began with c->depth++: the client may be gone after this. */
void client_leave(struct grpc_client *c);
/* on_end, and the memory. */
void client_call_end(struct grpc_client_call *call, enum grpc_code code, const char *message);
