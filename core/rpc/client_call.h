#pragma once

/*
 * The inside of the client, shared by client.c (the connection), client_call.c (calls), client_http2.c (nghttp2's
 * callbacks), client_unary.c, client_address.c and client_lookup.c. Nobody
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
        LIST_HEAD(, grpc_client_call) drained; /* fell below the low mark during this flush */
        struct tls_client *tls;                /* ref; NULL: plain */
        char *host;                            /* owned; "": a Unix socket */
        struct client_lookup *lookup;          /* under way; NULL: not, or no more */
        struct client_place *places;           /* owned; where to dial, in turn */
        size_t n_places, at_place;
        bool connecting; /* up to the end of TLS's handshake */
        bool shaking;    /* connected, that handshake is under way */
        bool lost, freed;
        unsigned depth;  /* of events in progress */
        char *why;       /* owned; why it was lost */
        char *authority; /* owned */
        char *address;   /* owned; as given */
};

struct grpc_client_call {
        struct grpc_client *client;
        LIST_ENTRY(grpc_client_call) entry;
        const struct grpc_client_handler *handler; /* borrowed */
        void *userdata;
        int32_t stream_id;
        bool half_closed, deferred, cancelled;
        bool paused;
        bool over; /* its stream is closed, but what was kept has not been delivered: its end is code and end_text */
        bool above, in_drained;
        LIST_ENTRY(grpc_client_call) drained_entry;
        enum grpc_code code;
        const char *end_text;    /* static, or text.data */
        struct buf kept;         /* came while it was paused */
        struct loop_task resume; /* deferred */
        bool in_message;         /* on_message is on the stack: the call is not on the list, its end waits */
        bool has_status, bad_http;
        enum grpc_code status; /* as the server said */
        enum grpc_code local;  /* ours, when we end it; GRPC_OK: not */
        const char *local_text;
        struct buf text; /* grpc-message, decoded */
        struct send_queue queue;
        struct message_reader reader;
        struct loop_timer timer;
};

struct client_place {
        struct sockaddr_storage address;
        socklen_t size;
};

/* "unix:/path", or "tcp:HOST:PORT" and "tls:HOST:PORT": the host, without brackets ("" for a path), and the place if it is a path or numeric
 * (ret_place->size is 0 for a name); both are for the caller to free. */
int client_address(
        const char *address, struct client_place *ret_place, char **ret_host, char **ret_port, struct error *reterr);
/* Looks a name up on a thread of its own; done comes on the loop, with places to free or an error's words, unless it was abandoned before. */
struct client_lookup;
int client_lookup(struct loop *loop, const char *host, const char *port,
        void (*done)(void *userdata, struct client_place *places, size_t n_places, const char *error), void *userdata,
        struct client_lookup **ret);
void client_lookup_abandon(struct client_lookup *lookup);
/* nghttp2's session, with our settings submitted. */
int client_session(struct grpc_client *c);
/* Tells the calls that have room again. */
void client_run_drained(struct grpc_client *c);
/* Something was submitted. */
void client_dirty(struct grpc_client *c);
/* After an event that began with c->depth++: the client may be gone after this. */
void client_leave(struct grpc_client *c);
/* Messages that have come; false: the call has ended, maybe with the client. */
bool client_call_feed(struct grpc_client_call *call, const uint8_t *data, size_t size);
/* Its stream is reset, and when that is done it ends so. */
void client_call_reset(struct grpc_client_call *call, enum grpc_code code, const char *text);
/* What nghttp2 sends of a call. */
ssize_t client_read_queue(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
        nghttp2_data_source *source, void *user_data);
/* on_end, and the memory. */
void client_call_end(struct grpc_client_call *call, enum grpc_code code, const char *message);
