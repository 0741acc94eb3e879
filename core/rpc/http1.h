#pragma once

/*
 * A small HTTP/1.1 responder for probes and scrapes: GET and HEAD of fixed paths, or below them, nothing else. Serves on the listeners of a
 * gRPC server (which tells HTTP/1 from HTTP/2 by the first bytes) or on one of its own. One loop's thread.
 */

#include "base/buf.h"
#include "base/loop.h"
#include "rpc/transport.h"

struct http1_response {
        unsigned status;          /* 200 */
        const char *content_type; /* static */
        struct buf body;          /* filled by the handler, freed by the responder */
};

/* A request that is answered later. */
struct http1_request;
/* Once, from within ask() or later, on the responder's loop; also if the connection or the responder has gone meanwhile, when nothing is
 * said. The request is gone afterwards. What is in *response is taken over. */
void http1_request_answer(struct http1_request *request, struct http1_response *response);
struct loop *http1_request_loop(const struct http1_request *request);

struct http1_route {
        const char *path; /* "/metrics" */
        bool below;       /* and all that begins so: path ends with a slash */
        /* One of the two. rest: what follows the path of a route for all below it; both are borrowed during the function. */
        void (*handle)(void *userdata, const char *query, struct http1_response *response);
        void (*ask)(void *userdata, const char *rest, const char *query, struct http1_request *request);
};

struct http1_responder;
struct tls_server;

/* Asks the routes for a target ("/health?x=y") on behalf of somebody else than a connection of the responder's. answered comes once, on the responder's
 * loop, maybe from within, unless the request was abandoned before; what is in *response is the responder's. *ret is the request until then, or NULL where
 * there is none; it is set before answered is called, which may set it to NULL. 0; -ENOENT: no route has it. */
int http1_responder_ask(struct http1_responder *responder, const char *target,
        void (*answered)(void *userdata, struct http1_response *response), void *userdata, struct http1_request **ret);
void http1_request_abandon(struct http1_request *request);

/* routes: borrowed for ever. */
int http1_responder_new(struct loop *loop, const struct http1_route *routes, size_t n_routes, void *userdata,
        struct http1_responder **ret);
/* Takes over a socket with what was already read from it. At most 1,024 connections, 8 KiB a request, 30 s idle. */
int http1_responder_accept(struct http1_responder *responder, int fd, struct bytes already_read);
/* The same for any transport, taken over whatever the result. */
int http1_responder_accept_transport(
        struct http1_responder *responder, struct transport *transport, struct bytes already_read);
/* Closes connections whose certificate this policy would not let in: looks at the first n of them or, if
 * !first, at the next; false: all have been looked at. */
bool http1_responder_recheck(struct http1_responder *responder, struct tls_server *now, bool first, size_t n);
void http1_responder_free(struct http1_responder *responder);
DEFINE_FREEP(http1_responder)
