#pragma once

/*
 * A small HTTP/1.1 responder for probes and scrapes: GET and HEAD of fixed paths, nothing else. Serves on the listeners of a
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

struct http1_route {
        const char *path; /* "/metrics" */
        void (*handle)(void *userdata, const char *query, struct http1_response *response);
};

struct http1_responder;
struct tls_server;

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
