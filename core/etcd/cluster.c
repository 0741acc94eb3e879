/*
 * Cluster: MemberList, with the tenant as the one member. Changing members is not offered and so UNIMPLEMENTED. The server's
 * loop only.
 */

#include "etcd/header.h"
#include "etcd/rpc.pb-c.h"
#include "etcd/services.h"
#include "etcd/status.h"
#include "rpc/protobuf.h"

struct member_list {
        struct grpc_call *call;
        struct keyspace_call barrier;
};

/* etcd's header has no revision here. */
static void member_list_reply(struct grpc_call *call) {
        struct keyspace *ks = grpc_call_server_userdata(call);
        Etcdserverpb__MemberListResponse response = ETCDSERVERPB__MEMBER_LIST_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader pb_header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        Etcdserverpb__Member member = ETCDSERVERPB__MEMBER__INIT, *members[] = {&member};
        struct etcd_header header;
        struct blob *message;

        etcd_header_init(&header, ks, 0);
        ETCD_HEADER_FILL(&pb_header, &header);
        member.id = header.member_id;
        member.name = (char *)keyspace_name(ks);
        member.clienturls = (char **)(uintptr_t)keyspace_endpoints(ks, &member.n_clienturls);
        response.header = &pb_header;
        response.members = members;
        response.n_members = 1;
        message = protobuf_pack(&response.base);
        if (message)
                grpc_call_reply(call, message);
        else
                etcd_fail(call, ETCD_NO_MEMORY);
}

static void member_list_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct member_list *m = container_of(kc, struct member_list, barrier);

        if (result == KEYSPACE_OK)
                member_list_reply(m->call);
        else
                etcd_fail_result(m->call, result);
}

static void member_list_on_message(struct grpc_call *call, struct bytes data) {
        struct member_list *m = grpc_call_user(call);
        const Etcdserverpb__MemberListRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__member_list_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        if (!pb->linearizable)
                return member_list_reply(call);
        m->call = call;
        m->barrier.done = member_list_done;
        m->barrier.deadline_ns = grpc_call_deadline(call);
        m->barrier.arena = grpc_call_arena(call);
        keyspace_barrier(grpc_call_server_userdata(call), &m->barrier);
}

static void member_list_on_cancel(struct grpc_call *call) {
        struct member_list *m = grpc_call_user(call);

        if (m->call)
                keyspace_cancel(&m->barrier);
}

static const struct grpc_method methods[] = {
        {
                .path = "/etcdserverpb.Cluster/MemberList",
                .user_size = sizeof(struct member_list),
                .on_message = member_list_on_message,
                .on_cancel = member_list_on_cancel,
        },
};

const struct grpc_service etcd_cluster_service = {
        .name = "etcdserverpb.Cluster",
        .methods = methods,
        .n_methods = n_elements(methods),
};
