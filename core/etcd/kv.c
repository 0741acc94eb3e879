/*
 * KV: Put, DeleteRange and Txn, which are all one transaction of the keyspace, and Compact. (Range and RangeStream: list.c.)
 * Each call's state is its user memory; the server's loop only.
 */

#include <stokehold/rpc.pb-c.h>

#include "etcd/convert.h"
#include "etcd/list.h"
#include "etcd/pack.h"
#include "etcd/services.h"
#include "rpc/protobuf.h"

enum shape { SHAPE_PUT, SHAPE_DELETE, SHAPE_TXN };

struct write {
        struct grpc_call *call;
        enum shape shape;
        struct txn_call txn_call;
        struct txn txn;
        struct txn_op op; /* of a Put or DeleteRange */
};

static void write_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct write *w = container_of(kc, struct write, txn_call.call);
        struct etcd_header header;
        struct blob *message = NULL;

        if (result != KEYSPACE_OK)
                return etcd_fail_result(w->call, result);

        etcd_header_init(&header, grpc_call_server_userdata(w->call), kc->revision);
        switch (w->shape) {
        case SHAPE_PUT:
                message = pack_put_response(&header, w->txn_call.result.results);
                break;
        case SHAPE_DELETE:
                message = pack_delete_response(&header, w->txn_call.result.results);
                break;
        case SHAPE_TXN:
                message = pack_txn_response(grpc_call_arena(w->call), &header, &w->txn, &w->txn_call.result);
                break;
        }
        txn_result_release(&w->txn_call);
        if (message)
                grpc_call_reply(w->call, message);
        else
                etcd_fail(w->call, ETCD_NO_MEMORY);
}

static void write_begin(struct grpc_call *call, struct write *w, enum etcd_status status) {
        if (status != ETCD_OK)
                return etcd_fail(call, status);
        w->call = call;
        w->txn_call.txn = &w->txn;
        w->txn_call.call.done = write_done;
        w->txn_call.call.deadline_ns = grpc_call_deadline(call);
        w->txn_call.call.arena = grpc_call_arena(call);
        keyspace_txn(grpc_call_server_userdata(call), &w->txn_call);
}

/* Before done there are no references to values in the result yet, and after it they were dropped. */
static void write_on_cancel(struct grpc_call *call) {
        struct write *w = grpc_call_user(call);

        if (w->call)
                keyspace_cancel(&w->txn_call.call);
}

static const struct keyspace_limits *limits_of(struct grpc_call *call) {
        return keyspace_limits(grpc_call_server_userdata(call));
}

static void put_on_message(struct grpc_call *call, struct bytes data) {
        struct write *w = grpc_call_user(call);

        w->shape = SHAPE_PUT;
        w->txn.success = &w->op;
        w->txn.n_success = 1;
        write_begin(call, w, convert_put(grpc_call_arena(call), data, limits_of(call), &w->op));
}

static void delete_on_message(struct grpc_call *call, struct bytes data) {
        struct write *w = grpc_call_user(call);

        w->shape = SHAPE_DELETE;
        w->txn.success = &w->op;
        w->txn.n_success = 1;
        write_begin(call, w, convert_delete(grpc_call_arena(call), data, limits_of(call), &w->op));
}

static void txn_on_message(struct grpc_call *call, struct bytes data) {
        struct write *w = grpc_call_user(call);
        bool read_only;

        w->shape = SHAPE_TXN;
        write_begin(call, w, convert_txn(grpc_call_arena(call), data, limits_of(call), &w->txn, &read_only));
}

struct compaction_call {
        struct grpc_call *call;
        struct compact_call compact;
};

static void compact_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct compaction_call *c = container_of(kc, struct compaction_call, compact.call);

        if (result == KEYSPACE_OK)
                etcd_reply_header(c->call, kc->revision);
        else
                etcd_fail_result(c->call, result);
}

static void compact_on_message(struct grpc_call *call, struct bytes data) {
        struct compaction_call *c = grpc_call_user(call);
        const Etcdserverpb__CompactionRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__compaction_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        c->call = call;
        c->compact.call.done = compact_done;
        c->compact.call.deadline_ns = grpc_call_deadline(call);
        c->compact.call.arena = grpc_call_arena(call);
        c->compact.revision_wanted = pb->revision;
        c->compact.physical = pb->physical;
        keyspace_compact(grpc_call_server_userdata(call), &c->compact);
}

static void compact_on_cancel(struct grpc_call *call) {
        struct compaction_call *c = grpc_call_user(call);

        if (c->call)
                keyspace_cancel(&c->compact.call);
}

static const struct grpc_method methods[] = {
        {
                .path = "/etcdserverpb.KV/Range",
                .user_size = LIST_USER_SIZE,
                .on_message = range_on_message,
                .on_cancel = list_on_cancel,
                .on_free = list_on_free,
        },
        {
                .path = "/etcdserverpb.KV/RangeStream",
                .server_streaming = true,
                .user_size = LIST_USER_SIZE,
                .on_message = range_stream_on_message,
                .on_cancel = list_on_cancel,
                .on_drained = range_stream_on_drained,
                .on_free = list_on_free,
        },
        {
                .path = "/etcdserverpb.KV/Put",
                .user_size = sizeof(struct write),
                .on_message = put_on_message,
                .on_cancel = write_on_cancel,
        },
        {
                .path = "/etcdserverpb.KV/DeleteRange",
                .user_size = sizeof(struct write),
                .on_message = delete_on_message,
                .on_cancel = write_on_cancel,
        },
        {
                .path = "/etcdserverpb.KV/Txn",
                .user_size = sizeof(struct write),
                .on_message = txn_on_message,
                .on_cancel = write_on_cancel,
        },
        {
                .path = "/etcdserverpb.KV/Compact",
                .user_size = sizeof(struct compaction_call),
                .on_message = compact_on_message,
                .on_cancel = compact_on_cancel,
        },
};

const struct grpc_service etcd_kv_service = {
        .name = "etcdserverpb.KV",
        .methods = methods,
        .n_methods = n_elements(methods),
};
