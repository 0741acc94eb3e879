/*
 * Maintenance: Status, Alarm, Defragment, MoveLeader, Downgrade, as a cluster of one member answers them. What is about
 * another server's own store file (Hash, HashKV, Snapshot) is not offered and so UNIMPLEMENTED. The server's loop only.
 */

#include <ctype.h>

#include "etcd/header.h"
#include "etcd/rpc.pb-c.h"
#include "etcd/services.h"
#include "etcd/status.h"
#include "rpc/protobuf.h"

/* etcd's, where no quota is set. */
#define DEFAULT_QUOTA ((int64_t)2 * 1024 * 1024 * 1024)

struct opening {
        struct grpc_call *call;
        struct keyspace_call barrier;
};

static void reply(struct grpc_call *call, const ProtobufCMessage *response) {
        struct blob *message = protobuf_pack(response);

        if (message)
                grpc_call_reply(call, message);
        else
                etcd_fail(call, ETCD_NO_MEMORY);
}

static void fill_header(struct grpc_call *call, struct keyspace_status *status, Etcdserverpb__ResponseHeader *ret) {
        struct keyspace *ks = grpc_call_server_userdata(call);
        struct etcd_header header;

        keyspace_get_status(ks, status);
        etcd_header_init(&header, ks, status->revision);
        *ret = (Etcdserverpb__ResponseHeader)ETCDSERVERPB__RESPONSE_HEADER__INIT;
        ETCD_HEADER_FILL(ret, &header);
}

/* ---- Status */

static void status_reply(struct grpc_call *call) {
        Etcdserverpb__StatusResponse response = ETCDSERVERPB__STATUS_RESPONSE__INIT;
        Etcdserverpb__DowngradeInfo downgrade = ETCDSERVERPB__DOWNGRADE_INFO__INIT;
        Etcdserverpb__ResponseHeader header;
        uint64_t quota = keyspace_quota(grpc_call_server_userdata(call));
        struct keyspace_status status;
        char *errors[1];

        fill_header(call, &status, &header);
        response.header = &header;
        response.version = (char *)ETCD_VERSION;
        response.storageversion = (char *)ETCD_CLUSTER_VERSION;
        response.dbsize = (int64_t)status.bytes_log;
        response.dbsizeinuse = (int64_t)status.bytes_live;
        response.dbsizequota = quota ? (int64_t)quota : DEFAULT_QUOTA;
        response.leader = header.member_id;
        response.raftterm = ETCD_RAFT_TERM;
        response.raftindex = status.seq;
        response.raftappliedindex = status.seq;
        response.downgradeinfo = &downgrade;
        if (status.condition == KEYSPACE_UNREACHABLE || status.condition == KEYSPACE_HISTORY_LOST) {
                errors[0] = (char *)etcd_status_text(
                        status.condition == KEYSPACE_UNREACHABLE ? ETCD_UNHEALTHY : ETCD_CORRUPT);
                response.errors = errors;
                response.n_errors = 1;
        }
        reply(call, &response.base);
}

static void status_opened(struct keyspace_call *kc, enum keyspace_result result) {
        struct opening *o = container_of(kc, struct opening, barrier);

        if (result == KEYSPACE_OK)
                status_reply(o->call);
        else
                etcd_fail_result(o->call, result);
}

/* Status asks nobody, as etcd's; but a keyspace that nobody has used yet is opened first, or its revision would be none. */
static void status_on_message(struct grpc_call *call, struct bytes data) {
        struct keyspace *ks = grpc_call_server_userdata(call);
        struct opening *o = grpc_call_user(call);
        struct keyspace_status status;

        if (!protobuf_unpack(&etcdserverpb__status_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        keyspace_get_status(ks, &status);
        if (status.revision > 0)
                return status_reply(call);
        o->call = call;
        o->barrier.done = status_opened;
        o->barrier.deadline_ns = grpc_call_deadline(call);
        o->barrier.arena = grpc_call_arena(call);
        keyspace_barrier(ks, &o->barrier);
}

static void status_on_cancel(struct grpc_call *call) {
        struct opening *o = grpc_call_user(call);

        if (o->call)
                keyspace_cancel(&o->barrier);
}

/* ---- the rest */

static void alarm_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__AlarmRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__alarm_request__descriptor, grpc_call_arena(call), data);
        struct keyspace_status status;

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        if ((int)pb->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE)
                return etcd_fail(call, ETCD_ALARM_NOT_SETTABLE);
        keyspace_get_status(grpc_call_server_userdata(call), &status);
        etcd_reply_header(call, status.revision); /* none is raised */
}

/* The datastore looks after its own files. etcd answers without a header. */
static void defragment_on_message(struct grpc_call *call, struct bytes data) {
        Etcdserverpb__DefragmentResponse response = ETCDSERVERPB__DEFRAGMENT_RESPONSE__INIT;

        if (!protobuf_unpack(&etcdserverpb__defragment_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        reply(call, &response.base);
}

/* The one member is the leader, and can only be made what it is. */
static void move_leader_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__MoveLeaderRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__move_leader_request__descriptor, grpc_call_arena(call), data);
        Etcdserverpb__MoveLeaderResponse response = ETCDSERVERPB__MOVE_LEADER_RESPONSE__INIT;
        struct etcd_header header;

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        etcd_header_init(&header, grpc_call_server_userdata(call), 0);
        if (pb->targetid != header.member_id)
                return etcd_fail(call, ETCD_BAD_LEADER_TRANSFEREE);
        reply(call, &response.base);
}

/* MAJOR.MINOR or MAJOR.MINOR.PATCH, with what semantic versions allow behind it. */
static bool is_version(const char *s) {
        for (unsigned n = 1;; n++) {
                if (!isdigit((unsigned char)*s))
                        return false;
                while (isdigit((unsigned char)*s))
                        s++;
                if (*s == '.' && n < 3)
                        s++;
                else
                        return n >= 2 && (*s == '\0' || (n == 3 && (*s == '-' || *s == '+')));
        }
}

static void downgrade_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__DowngradeRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__downgrade_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        switch ((int)pb->action) {
        case ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__VALIDATE:
        case ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__ENABLE:
                return etcd_fail(call, is_version(pb->version) ? ETCD_DOWNGRADE_TARGET : ETCD_DOWNGRADE_VERSION_FORMAT);
        case ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__CANCEL:
                return etcd_fail(call, ETCD_DOWNGRADE_NONE);
        default:
                return etcd_fail(call, ETCD_UNKNOWN_METHOD);
        }
}

static const struct grpc_method methods[] = {
        {
                .path = "/etcdserverpb.Maintenance/Status",
                .user_size = sizeof(struct opening),
                .on_message = status_on_message,
                .on_cancel = status_on_cancel,
        },
        {.path = "/etcdserverpb.Maintenance/Alarm", .on_message = alarm_on_message},
        {.path = "/etcdserverpb.Maintenance/Defragment", .on_message = defragment_on_message},
        {.path = "/etcdserverpb.Maintenance/MoveLeader", .on_message = move_leader_on_message},
        {.path = "/etcdserverpb.Maintenance/Downgrade", .on_message = downgrade_on_message},
};

const struct grpc_service etcd_maintenance_service = {
        .name = "etcdserverpb.Maintenance",
        .methods = methods,
        .n_methods = n_elements(methods),
};
