#pragma once

/*
 * gRPC, server side: services made of methods, calls, messages. Belongs to one loop; everything here is for that
 * loop's thread only. Knows nothing of what the services do.
 *
 * A call lives from its headers to its end. Its handler gets the messages and the end of the client's stream, answers
 * with grpc_call_send() any number of times and ends the call with grpc_call_finish() exactly once, unless on_cancel()
 * came first. What has been handed to grpc_call_send() is written when the iteration ends; the call's memory (and its
 * arena) stays until the last byte was taken by the connection or the stream was reset, which is on_free().
 */

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/macro.h"

/* https://grpc.io/docs/guides/status-codes/ */
enum grpc_code {
        GRPC_OK = 0,
        GRPC_CANCELLED = 1,
        GRPC_UNKNOWN = 2,
        GRPC_INVALID_ARGUMENT = 3,
        GRPC_DEADLINE_EXCEEDED = 4,
        GRPC_NOT_FOUND = 5,
        GRPC_ALREADY_EXISTS = 6,
        GRPC_PERMISSION_DENIED = 7,
        GRPC_RESOURCE_EXHAUSTED = 8,
        GRPC_FAILED_PRECONDITION = 9,
        GRPC_ABORTED = 10,
        GRPC_OUT_OF_RANGE = 11,
        GRPC_UNIMPLEMENTED = 12,
        GRPC_INTERNAL = 13,
        GRPC_UNAVAILABLE = 14,
        GRPC_DATA_LOSS = 15,
        GRPC_UNAUTHENTICATED = 16,
};
/* "OK", "CANCELLED", … */
const char *grpc_code_name(enum grpc_code code);

struct grpc_call;
struct grpc_server;
struct tls_peer;
struct tls_server;
struct transport;

/* Who is at the other end of a connection. */
struct grpc_peer {
        bool local; /* Unix socket: the next fields are the kernel's word (SO_PEERCRED, SO_PEERGROUPS) */
        uint32_t uid, gid;
        int32_t pid;
        const uint32_t *groups; /* owned by the connection: supplementary groups */
        size_t n_groups;
        const struct tls_peer *tls; /* rpc/tls.h: its certificate, as long as the connection lives; NULL: it has none */
        const char *name;           /* for logs: "pid 17 uid 0", "127.0.0.1:4711", "10.0.0.9:4711 CN:berlin" */
};

struct grpc_method {
        const char *path; /* "/etcdserverpb.KV/Range" */
        bool client_streaming;
        bool server_streaming;
        size_t user_size; /* bytes of zeroed memory at grpc_call_user(), from the call's arena */
        /* A message has come; data is valid until on_free() for a method that is not client_streaming, else only during
         * this function. For a method that is not client_streaming it is called exactly once, when the client's side is
         * complete; a missing or second message has been answered already. */
        void (*on_message)(struct grpc_call *call, struct bytes data);
        /* client_streaming: the client will send no more. May be NULL. */
        void (*on_half_close)(struct grpc_call *call);
        /* The call ended from outside (reset by the client, deadline, connection lost, drain) before grpc_call_finish():
         * nothing may be sent any more. May be NULL. */
        void (*on_cancel)(struct grpc_call *call);
        /* grpc_call_pending() fell below the server's low mark after it had been above it. May be NULL. */
        void (*on_drained)(struct grpc_call *call);
        /* The last moment of the call's memory; after on_cancel() or finish. May be NULL. */
        void (*on_free)(struct grpc_call *call);
};

struct grpc_service {
        const char *name; /* "etcdserverpb.KV", for reflection and health */
        const struct grpc_method *methods;
        size_t n_methods;
};

/* Zero is the default, but for slow_ns. */
struct grpc_limits {
        size_t max_message;       /* bytes received; over it RESOURCE_EXHAUSTED; default 2 MiB (1.5 MiB + 512 KiB) */
        uint32_t max_streams;     /* a connection's; default 65536 */
        uint32_t max_connections; /* default 65536: more are accepted and closed at once, with a log line */
        size_t max_header_list;   /* bytes; default 16 KiB */
        uint64_t min_ping_ns;     /* pings more often than this are too many (ENHANCE_YOUR_CALM after a few); 5 s */
        uint64_t keepalive_ns;    /* silence after which the server pings; 2 h */
        uint64_t keepalive_timeout_ns; /* 20 s */
        uint64_t slow_ns;              /* unary calls that take longer are logged; 0: never */
        size_t low_mark;               /* bytes, see on_drained; 256 KiB */
};
extern const struct grpc_limits grpc_default_limits;

struct http1_responder; /* rpc/http1.h; NULL: HTTP/2 only */

struct grpc_server_config {
        struct loop *loop; /* borrowed */
        const char *name;  /* for logs and metrics: the tenant, or "control"; copied */
        struct grpc_limits limits;
        struct http1_responder *http1; /* borrowed; answers HTTP/1.1 on the same listeners */
        void *userdata;                /* grpc_call_server_userdata() */
        /* Admits a peer (after its credentials are known); NULL: everyone. False: closed at once, and grpc_server_accept() is -EACCES; who
         * refuses writes why. */
        bool (*admit)(void *userdata, const struct grpc_peer *peer);
        /* Called when a first connection has come and when the last one has gone; may be NULL. */
        void (*on_busy)(void *userdata, bool busy);
};

/* Methods unknown to all services are answered UNIMPLEMENTED. Adds grpc.health.v1.Health and server reflection (v1 and
 * v1alpha) by itself. */
int grpc_server_new(const struct grpc_server_config *config, struct grpc_server **ret);
/* descriptor: a serialized google.protobuf.FileDescriptorSet that describes it, borrowed for ever; may be empty (then the
 * service is listed by reflection, but not described). */
int grpc_server_add(struct grpc_server *server, const struct grpc_service *service, struct bytes descriptor);
/* Health as told by grpc.health.v1.Health; true at first. */
void grpc_server_set_serving(struct grpc_server *server, bool serving);
/* From now on calls are answered so, unread, unless the server has a method of that name; health says that it is not serving. message: borrowed for ever. */
void grpc_server_refuse(struct grpc_server *server, enum grpc_code code, const char *message);
/* Takes over a connected socket (see rpc/listener.h). */
int grpc_server_accept(struct grpc_server *server, int fd);
/* The same for any transport (one that a door has let in), taken over whatever the result. */
int grpc_server_accept_transport(struct grpc_server *server, struct transport *transport);
/* Compares the certificates of all open connections (HTTP/1 ones of config.http1 too) with a policy, some in each iteration, and closes those
 * that it would not let in under the same label: the peer gets GOAWAY, its calls end, with a log line. Called again, it begins anew; to be called
 * for each new policy, and now and then with the same one, since certificates expire. Takes a reference. */
void grpc_server_recheck(struct grpc_server *server, struct tls_server *now);
size_t grpc_server_n_connections(const struct grpc_server *server);
/* GOAWAY on all connections; running calls may end within the time, streams of server_streaming methods are cancelled with
 * UNAVAILABLE "etcdserver: server stopped"; then all is closed and done(userdata) is called. */
void grpc_server_drain(struct grpc_server *server, uint64_t timeout_ns, void (*done)(void *userdata), void *userdata);
/* Closes what is left at once: each call gets on_cancel() (if it had not ended) and on_free() before this returns (where a call's
 * own on_cancel() calls this, its on_free() may come after). May be called from within a method's handlers and from done(), which
 * must not touch a call or the server afterwards; not from within admit() or on_busy(). The server's metrics (label server="NAME") stay: whoever retires the name drops them with metric_drop(). */
void grpc_server_free(struct grpc_server *server);
DEFINE_FREEP(grpc_server)

void *grpc_call_user(struct grpc_call *call);
void *grpc_call_server_userdata(struct grpc_call *call);
struct loop *grpc_call_loop(struct grpc_call *call);
/* For what lives as long as the call. */
struct arena *grpc_call_arena(struct grpc_call *call);
const struct grpc_peer *grpc_call_peer(struct grpc_call *call);
const struct grpc_method *grpc_call_method(struct grpc_call *call);
/* CLOCK_MONOTONIC; UINT64_MAX: none. The server itself ends the call with DEADLINE_EXCEEDED then. */
uint64_t grpc_call_deadline(struct grpc_call *call);
/* A request header's value, name in lower case; false: absent. */
bool grpc_call_metadata(struct grpc_call *call, const char *name, struct bytes *ret);

/* Sends one message made of parts, in order; a reference to each part is taken over. Does nothing (but dropping the
 * references) after the end of the call. */
void grpc_call_send(struct grpc_call *call, struct blob *const *parts, size_t n_parts);
/* Bytes that were sent and not yet taken by the connection, which itself holds at most some 500 KiB that its socket has not taken. */
size_t grpc_call_pending(struct grpc_call *call);
/* client_streaming: the client is to stop sending, by HTTP/2's flow control; what is on its way still comes to on_message(), 1 MiB at most (and the
 * rest of a message that has begun). Other calls on its connection go on. */
void grpc_call_pause(struct grpc_call *call);
void grpc_call_resume(struct grpc_call *call);
/* Ends the call. message: may be NULL, copied, percent-encoded as gRPC wants it. */
void grpc_call_finish(struct grpc_call *call, enum grpc_code code, const char *message);
/* Unary: send and finish OK. */
void grpc_call_reply(struct grpc_call *call, struct blob *message);
/* True once finished or cancelled. */
bool grpc_call_ended(struct grpc_call *call);
