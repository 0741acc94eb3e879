#pragma once

/*
 * An etcd v3 endpoint seen as its client: what an import reads and an export writes; etcd, kine, k3s, or one of our own tenants. Blocking: for a
 * thread of its own that runs a loop of its own, never for the main loop or a shard.
 *
 * Several endpoints are those of one cluster: where one does not answer the next is asked. A call that may be repeated is, for as long as the
 * client's patience lasts.
 */

#include <stdatomic.h>
#include <stokehold/rpc.pb-c.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/loop.h"
#include "rpc/grpc.h"
#include "rpc/tls.h"

struct etcd_client;

struct etcd_client_config {
        struct loop *loop;            /* borrowed: the thread's; nothing else runs it */
        const char *const *endpoints; /* copied: "https://HOST:PORT", "http://HOST:PORT", "unix:///PATH" */
        size_t n_endpoints;
        struct tls_client *tls; /* borrowed: for https; NULL: the system's authorities, no certificate */
        uint64_t patience_ns;   /* 0: 30 s */
        const atomic_bool
                *stopped; /* borrowed: once true all calls end with -ECANCELED; whoever sets it stops the loop too */
};

/* -EINVAL: an endpoint that is none, with the reason. Dials at the first call. */
int etcd_client_new(const struct etcd_client_config *config, struct etcd_client **ret, struct error *reterr);
void etcd_client_free(struct etcd_client *client);
DEFINE_FREEP(etcd_client)
/* The endpoint that answers, or that was asked last, for people. */
const char *etcd_client_endpoint(const struct etcd_client *client);

/*
 * One unary call that may be repeated. 0: *ret is the answer, in the arena; -EREMOTEIO: the server refused, *ret_code (may be NULL) tells how;
 * -EHOSTUNREACH: nobody answered; -ECANCELED; each with the reason.
 */
int etcd_client_call(struct etcd_client *client, const char *path, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, struct arena *arena, void *ret, enum grpc_code *ret_code,
        struct error *reterr);

/* From key to end (exclusive), "\0" as the end: all. */
struct etcd_span {
        struct bytes key, end;
};

/*
 * All keys of a span at one revision, in pages, in order of key. revision 0: the newest, which *ret_revision then is. Keys and values are valid
 * during visit only; a negative result of it ends the list and is handed on.
 */
int etcd_client_list(struct etcd_client *client, const struct etcd_span *span, int64_t revision, bool keys_only,
        int (*visit)(void *userdata, const Mvccpb__KeyValue *kv), void *userdata, int64_t *ret_revision,
        struct error *reterr);
/* The newest revision. */
int etcd_client_revision(
        struct etcd_client *client, const struct etcd_span *span, int64_t *ret_revision, struct error *reterr);

/* ---- leases */

/* A lease's time: granted 0 if there is none (any more). -EOPNOTSUPP: the server does not tell. */
int etcd_client_lease(
        struct etcd_client *client, int64_t id, int64_t *ret_granted, int64_t *ret_left, struct error *reterr);
/* All leases. -EOPNOTSUPP: the server does not tell. */
int etcd_client_leases(
        struct etcd_client *client, void (*visit)(void *userdata, int64_t id), void *userdata, struct error *reterr);

/* ---- one watch of a span, from a revision on (etcd_watch.c) */

struct etcd_watch;
struct etcd_watch_handler {
        /* In order; all events of a revision come in one call of etcd_watch_run(). Valid during the function only. Negative: ends the run. */
        int (*on_event)(void *userdata, const Mvccpb__Event *event);
        /* All events of this revision have been told; and all before it, unless the server was wrong: then those that it forgot follow. */
        int (*on_revision)(void *userdata, int64_t revision);
};
int etcd_watch_new(struct etcd_client *client, const struct etcd_span *span, int64_t from_revision,
        const struct etcd_watch_handler *handler, void *userdata, struct etcd_watch **ret);
/* Takes NULL. */
void etcd_watch_free(struct etcd_watch *watch);
DEFINE_FREEP(etcd_watch)
/* Serves the handler with what comes, until something has come or the time is over. A connection that is lost is made again, where it was, for
 * as long as the client's patience lasts. -ESTALE: the server has compacted what comes next; -EHOSTUNREACH, -ECANCELED, -EREMOTEIO, or what the
 * handler gave. */
int etcd_watch_run(struct etcd_watch *watch, uint64_t timeout_ns, struct error *reterr);
/* Asks for on_revision() to be told, soon. A server that does not answer is asked again, once a second at most. */
void etcd_watch_ask_progress(struct etcd_watch *watch);
/* The server has said that it watches, and the connection is there as far as anybody knows. */
bool etcd_watch_is_open(const struct etcd_watch *watch);
