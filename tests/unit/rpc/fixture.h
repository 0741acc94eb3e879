#pragma once

/*
 * A server with an echo service on a thread of its own, for the tests of the room rpc. What the service saw is counted in atomics.
 */

#include <stdatomic.h>

#include "base/loop.h"
#include "rpc/client.h"
#include "rpc/grpc.h"
#include "rpc/http1.h"
#include "rpc/listener.h"

struct fixture {
        char folder[32];
        char path[96];
        char address[104];
        struct loop *loop;
        struct listener *listener;
        struct grpc_server *server;
        struct http1_responder *http1;
        struct grpc_limits limits;
        atomic_int n_sleeps, n_calls, n_cancels, n_frees, n_drained, n_messages;
        atomic_int n_frees_when_freed;
        atomic_long pending_most, n_sunk;
        struct grpc_call *sink; /* the server's thread */
        atomic_int n_later;     /* answers given to /later over HTTP */
        atomic_int done;        /* drained */
        uint64_t drain_ns;
        struct loop_task task;
        atomic_int task_done;
        void (*task_run)(struct fixture *f);
};

/*
 * /test.Echo/Unary: the request, or N bytes for a request "size:N". /Hold: never answers. /Sleep: "ms:N" holds the
 * whole loop up for so long. /Bidi: each message back. /Stream: "count:N" messages of 64 KiB, kept below the low mark, then OK. /Fail: NOT_FOUND "no % such\n thing". /Free: frees the server.
 * /Sink: takes any number of messages, pauses at the first, and answers at the end. /FreeOnCancel: never answers, and frees the server when it is cancelled. /Peer: the peer and its header x-ask. /Groups: its groups.
 */
void fixture_start(struct fixture *f, const struct grpc_limits *limits);
void fixture_stop(struct fixture *f);
/* Runs on the server's thread and waits for it. */
void fixture_run(struct fixture *f, void (*run)(struct fixture *f));
/* Waits up to 5 s for *n to become at least value. */
bool fixture_wait(atomic_int *n, int value);
