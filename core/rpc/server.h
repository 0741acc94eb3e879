#pragma once

/*
 * The inside of the gRPC server, shared by grpc.c (server, methods), connection.c, http2.c, keepalive.c, peer.c and recheck.c
 * (connections), call.c, request.c and page.c (calls), health.c and reflection.c. Nobody else includes it.
 *
 * Lifetimes. A connection is freed only at the top of one of its own events, never while nghttp2 is on the stack. A call is freed
 * when nghttp2 closes its stream or the connection goes, which is after everything the handlers do to it. A handler may
 * free the server from within: then calls are cancelled and freed at once (their memory waits on the list of free calls),
 * connections are marked dead, and server_leave() releases the rest when the last event has returned.
 */

#include <nghttp2/nghttp2.h>
#include <sys/queue.h>
#include <uthash.h>

#include "base/log.h"
#include "base/metrics.h"
#include "rpc/framing.h"
#include "rpc/grpc.h"
#include "rpc/output.h"
#include "rpc/transport.h"

#define CALL_ROOM 768
#define CALL_HEADERS 8
#define N_CODES 17
/* Bytes that wait to be sent on one connection, beyond which a peer that took none of them for a while gets no new answers, and
 * beyond which no peer does. */
#define CONNECTION_MAX_PENDING (64 * 1024 * 1024)
#define CONNECTION_MOST_PENDING ((size_t)1024 * 1024 * 1024)
#define CONNECTION_STALL_NS (5 * NSEC_PER_SEC)
/* Bytes of requests, their headers included, that one connection may have in memory (or 32 of the largest, if that is more). */
#define CONNECTION_MAX_HELD (64 * 1024 * 1024)

struct server_method {
        const struct grpc_method *method; /* borrowed; NULL: stands for all that are unknown */
        char *path;                       /* owned */
        UT_hash_handle hh;
        struct metric *codes[N_CODES]; /* found at first use */
        struct metric *seconds;        /* unary only */
};

struct server_service {
        const struct grpc_service *service; /* borrowed */
        struct bytes descriptor;
};

struct grpc_server {
        struct grpc_server_config config;
        char *name; /* owned */
        nghttp2_session_callbacks *callbacks;
        nghttp2_option *options;
        struct server_method *methods; /* uthash */
        struct server_method unknown;
        struct server_service *services; /* owned */
        size_t n_services;
        LIST_HEAD(, connection) connections;
        LIST_HEAD(, connection) dead; /* wait for server_leave() */
        size_t n_connections;         /* those that spoke HTTP/2, or nothing yet */
        SLIST_HEAD(, grpc_call) free_calls;
        size_t n_free_calls;
        struct metric *metric_connections;
        unsigned depth; /* of events in progress */
        bool zombie;    /* freed from within an event */
        bool busy;      /* as told to on_busy */
        bool serving;
        const char *refusal; /* NULL: none */
        enum grpc_code refusal_code;
        TAILQ_HEAD(, health_watch) health_watches;

        struct loop_task recheck_task; /* a slice */
        struct tls_server *recheck;    /* ref; NULL: none is under way */
        struct connection *recheck_at; /* the next one */
        bool recheck_http1;            /* it has come to those of the responder */

        bool draining, drained;
        struct loop_timer drain_timer;
        struct loop_task drain_task;
        void (*drain_done)(void *userdata);
        void *drain_userdata;
};

void server_enter(struct grpc_server *s);
/* The server may be gone after this. */
void server_leave(struct grpc_server *s);
struct server_method *server_method_find(struct grpc_server *s, struct bytes path);
/* "unknown service X" or "unknown method Y for service X", in the arena; NULL: no memory. */
char *server_method_unknown(struct grpc_server *s, struct bytes path, struct arena *arena);
void server_count(struct grpc_server *s, struct server_method *m, enum grpc_code code);
/* A connection came or went. */
void server_connections_changed(struct grpc_server *s);
void recheck_start(struct grpc_server *s, struct tls_server *now);
void recheck_stop(struct grpc_server *s);
/* The connection goes. */
void recheck_skip(struct grpc_server *s, struct connection *c);
int health_add(struct grpc_server *s);
void health_changed(struct grpc_server *s);
int reflection_add(struct grpc_server *s);

enum connection_state {
        CONNECTION_NEW, /* its first bytes tell what it speaks */
        CONNECTION_OPEN,
        CONNECTION_CLOSING,   /* what is queued is written, then the end is told */
        CONNECTION_LINGERING, /* waits until the peer has seen the end */
        CONNECTION_DEAD,      /* waits for server_leave() */
};

struct connection {
        struct grpc_server *server;
        LIST_ENTRY(connection) entry;
        enum connection_state state;
        struct transport *transport; /* owned; NULL: gone */
        struct loop_io io;
        struct loop_task flush;  /* deferred: writes once an iteration */
        struct loop_timer timer; /* preface, keepalive, linger */
        nghttp2_session *session;
        struct output output;
        struct output_batch *batch;    /* during a flush */
        struct grpc_call *header_call; /* whose header block is being read */
        LIST_HEAD(, grpc_call) calls;
        STAILQ_HEAD(, grpc_call) drained; /* fell below the low mark during this flush */
        size_t n_calls;
        size_t pending;               /* bytes in all send queues */
        size_t held;                  /* bytes of received messages */
        uint64_t read_ns, written_ns; /* last time that something came, or that some of a message was taken */
        uint64_t ping_sent_ns;        /* 0: no keepalive ping on its way */

        uint64_t last_ping_ns;
        unsigned ping_strikes;
        bool sent_since_ping;
        uint64_t flood_ns; /* the second that the counts below are of */
        unsigned n_resets, n_empty;

        bool read_first;  /* the deferred task is to read, not to write */
        bool settled;     /* SETTINGS have come */
        bool goaway_sent; /* the final one of a drain */
        struct grpc_peer peer;
        uint32_t *groups;  /* owned */
        char *peer_name;   /* owned */
        uint8_t first[24]; /* what came before it was known what it speaks */
        size_t n_first;
};

#define HTTP2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
/* The callbacks and options of all sessions. */
int http2_prepare(struct grpc_server *s);
/* A session, with our settings submitted. */
int http2_open(struct connection *c);

/* Credentials, address or certificate, and the name for logs. */
int connection_identify(struct connection *c);
/* Takes the transport over. */
int connection_new(struct grpc_server *s, struct transport *transport);
/* At the top of an event only; otherwise connection_kill(). */
void connection_free(struct connection *c);
/* Ends the calls and closes the transport, now; the memory goes in server_leave(). */
void connection_kill(struct connection *c);
/* All that are not being freed already, further up the stack. */
void connection_free_calls(struct connection *c);
/* As connection_kill(), with a line for debugging if why is given; error: a negative errno, or 0. */
void connection_over(struct connection *c, const char *why, int error);
/* No more calls: writes what is queued and goes. */
void connection_close(struct connection *c);
/* The same, telling the peer and the log why. */
void connection_goaway(struct connection *c, uint32_t error, const char *reason);
/* Something was submitted. */
void connection_dirty(struct connection *c);
/* The two steps of a graceful end: the announcement, then the real GOAWAY when the peer has seen it. */
void connection_drain(struct connection *c);
void connection_drain_goaway(struct connection *c);
/* Nothing runs any more on a connection that drains. */
void connection_call_gone(struct connection *c);

#define KEEPALIVE_MAX_RESETS 1000 /* a second */
/* The peer's SETTINGS have come. */
void keepalive_start(struct connection *c);
void keepalive_on_time(struct connection *c);
void keepalive_on_ping(struct connection *c);
void keepalive_count_reset(struct connection *c);
void keepalive_count_empty(struct connection *c, const char *reason);

struct call_header {
        nghttp2_rcbuf *name, *value; /* refs */
};

struct grpc_call {
        struct connection *conn;
        struct server_method *method;
        LIST_ENTRY(grpc_call) entry; /* of the connection */
        union {
                STAILQ_ENTRY(grpc_call) drained_entry;
                SLIST_ENTRY(grpc_call) free_entry;
        };
        int32_t stream_id;
        bool known : 1;       /* its handler has it: on_free is due */
        bool ended : 1;       /* finished, cancelled or refused */
        bool half_closed : 1; /* the client's side is complete */
        bool responded : 1;   /* response headers were submitted */
        bool finished : 1;    /* trailers are due after the queue */
        bool trailed : 1;     /* trailers were submitted */
        bool deferred : 1;    /* nghttp2 waits for resume */
        bool has_request : 1; /* not client_streaming: the message has come */
        bool above_mark : 1;
        bool in_drained : 1;
        bool paused : 1;              /* its client is to stop sending */
        bool gone : 1;                /* its stream is closed */
        bool promised : 1;            /* nghttp2 has framed bytes of the queue that are not in a batch yet */
        bool is_get : 1, is_head : 1; /* not gRPC: for the responder's routes */
        bool bad_method : 1, bad_te : 1, has_type : 1, bad_type : 1, bad_encoding : 1, bad_timeout : 1;
        uint8_t code;
        uint32_t header_bytes; /* of the header block, as SETTINGS_MAX_HEADER_LIST_SIZE counts */
        char *message;         /* in the arena: grpc-message, encoded */
        size_t message_size;
        struct bytes path;       /* in path_buf */
        nghttp2_rcbuf *path_buf; /* ref */
        uint64_t start_ns, timeout_ns, deadline_ns;
        struct loop_timer timer;
        struct send_queue queue;
        struct message_reader reader;
        struct bytes request;               /* in the arena, or request_owned */
        struct http1_request *page_request; /* borrowed; NULL: none is being answered */
        struct bytes page;                  /* in the arena: what remains of it to be sent */
        uint8_t *request_owned;
        size_t held;   /* of conn->held */
        size_t unread; /* bytes that came while paused: the client's window is smaller by them */
        void *user;
        struct call_header *headers; /* few, or in the arena */
        size_t n_headers, n_headers_room;
        struct call_header few[CALL_HEADERS];
        struct arena arena;
        max_align_t room[CALL_ROOM / sizeof(max_align_t)];
};

static inline bool vec_equal(nghttp2_vec v, const char *s) {
        return v.len == strlen(s) && memcmp(v.base, s, v.len) == 0;
}

/* NULL: no memory. */
struct grpc_call *call_new(struct connection *c, int32_t stream_id);
/* The stream is over: cancels if it had not ended, and frees. */
void call_free(struct grpc_call *call);
void call_trim(struct grpc_server *s);
/* Answers with a status. http: that of a response which is not even gRPC's, NULL: 200. */
void call_end(struct grpc_call *call, enum grpc_code code, const char *message, const char *http);
void call_on_header(struct grpc_call *call, nghttp2_rcbuf *name, nghttp2_rcbuf *value);
void call_on_headers_end(struct grpc_call *call);
void call_on_data(struct grpc_call *call, const uint8_t *data, size_t size);
void call_on_half_close(struct grpc_call *call);
/* A probe's GET or HEAD, by a client that prefers HTTP/2: answered as the HTTP/1 responder would. False: it has nothing there. */
bool page_answer(struct grpc_call *call);
/* Ends it from outside: on_cancel, then this status if the stream is still there. */
void call_abort(struct grpc_call *call, enum grpc_code code, const char *message);
void call_on_drained(struct grpc_call *call);
