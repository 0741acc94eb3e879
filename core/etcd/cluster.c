/*
 * Cluster: the tenant is the one member of its cluster, and has no peers. No member can be added, removed or changed, and it is
 * said with the errors that an etcd has for it: an id that is not ours is not found; what would need another member to
 * take part is a re-configuration that not enough members are started for; no learner is taken; and ours is none
 * that could be promoted. The server's loop only.
 */

#include <stokehold/rpc.pb-c.h>

#include "etcd/header.h"
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

/* A peer's URL: a scheme that etcd knows, and host and port or a socket, nothing behind it. */
static bool is_peer_url(const char *url) {
        static const char *const schemes[] = {"http://", "https://", "unix://", "unixs://"};
        const char *rest = NULL, *colon;

        for (size_t i = 0; i < n_elements(schemes) && !rest; i++)
                if (strncmp(url, schemes[i], strlen(schemes[i])) == 0)
                        rest = url + strlen(schemes[i]);
        if (!rest || !*rest)
                return false;
        if (url[0] == 'u')
                return true;
        colon = strrchr(rest, ':');
        if (!colon || strchr(rest, '/') || !colon[1])
                return false;
        return strspn(colon + 1, "0123456789") == strlen(colon + 1);
}

static void member_add_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__MemberAddRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__member_add_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        if (!pb->n_peerurls)
                return etcd_fail(call, ETCD_MEMBER_BAD_URLS);
        for (size_t i = 0; i < pb->n_peerurls; i++)
                if (!is_peer_url(pb->peerurls[i]))
                        return etcd_fail(call, ETCD_MEMBER_BAD_URLS);
        etcd_fail(call, pb->islearner ? ETCD_TOO_MANY_LEARNERS : ETCD_MEMBERS_NOT_STARTED);
}

static void refuse(struct grpc_call *call, uint64_t id, enum etcd_status ours) {
        etcd_fail(call, id == keyspace_member_id(grpc_call_server_userdata(call)) ? ours : ETCD_MEMBER_NOT_FOUND);
}

static void member_remove_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__MemberRemoveRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__member_remove_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        refuse(call, pb->id, ETCD_MEMBERS_NOT_STARTED);
}

static void member_update_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__MemberUpdateRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__member_update_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        refuse(call, pb->id, ETCD_MEMBERS_NOT_STARTED);
}

static void member_promote_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__MemberPromoteRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__member_promote_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        refuse(call, pb->id, ETCD_MEMBER_NOT_LEARNER);
}

static const struct grpc_method methods[] = {
        {.path = "/etcdserverpb.Cluster/MemberAdd", .on_message = member_add_on_message},
        {.path = "/etcdserverpb.Cluster/MemberRemove", .on_message = member_remove_on_message},
        {.path = "/etcdserverpb.Cluster/MemberUpdate", .on_message = member_update_on_message},
        {.path = "/etcdserverpb.Cluster/MemberPromote", .on_message = member_promote_on_message},
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
