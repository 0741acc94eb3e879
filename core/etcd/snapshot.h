#pragma once

/*
 * Snapshot of the Maintenance service: a genuine etcd snapshot of the keyspace, as a stream.
 */

#include <sys/queue.h>

#include "keyspace/keyspace.h"
#include "rpc/grpc.h"
#include "snapshot/save.h"

struct snapshot_call {
        struct grpc_call *call; /* NULL: it never began, or it is over */
        struct keyspace *ks;    /* borrowed */
        struct keyspace_call barrier;
        struct pin *pin;            /* owned */
        struct snapshot_save *save; /* owned */
        struct loop_timer timer;
        uint64_t sent;  /* of the file */
        uint64_t taken; /* when it was last looked at */
        uint64_t taken_ns;
        LIST_ENTRY(snapshot_call) entry;
};

void snapshot_on_message(struct grpc_call *call, struct bytes data);
void snapshot_on_cancel(struct grpc_call *call);
void snapshot_on_drained(struct grpc_call *call);
void snapshot_on_free(struct grpc_call *call);
