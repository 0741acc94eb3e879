/*
 * Auth: who may come in is decided at the tenant's endpoint, so etcd's own authentication is never enabled, and no user or
 * role exists. Lists are empty, names are not found, and what would make or enable something is refused. The server's
 * loop only.
 */

#include "etcd/header.h"
#include "etcd/rpc.pb-c.h"
#include "etcd/services.h"
#include "etcd/status.h"
#include "rpc/protobuf.h"

/* A new etcd's. */
#define AUTH_REVISION 1

static int64_t revision_of(struct grpc_call *call) {
        struct keyspace_status status;

        keyspace_get_status(grpc_call_server_userdata(call), &status);
        return status.revision;
}

static void status_on_message(struct grpc_call *call, struct bytes data) {
        Etcdserverpb__AuthStatusResponse response = ETCDSERVERPB__AUTH_STATUS_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader pb_header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        struct etcd_header header;
        struct blob *message;

        if (!protobuf_unpack(&etcdserverpb__auth_status_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        etcd_header_init(&header, grpc_call_server_userdata(call), revision_of(call));
        ETCD_HEADER_FILL(&pb_header, &header);
        response.header = &pb_header;
        response.authrevision = AUTH_REVISION;
        message = protobuf_pack(&response.base);
        if (message)
                grpc_call_reply(call, message);
        else
                etcd_fail(call, ETCD_NO_MEMORY);
}

/* Lists of users and roles, and disabling what is not enabled. */
static void nothing_on_message(struct grpc_call *call, struct bytes data) {
        (void)data;
        etcd_reply_header(call, revision_of(call));
}

static void not_enabled_on_message(struct grpc_call *call, struct bytes data) {
        (void)data;
        etcd_fail(call, ETCD_AUTH_NOT_ENABLED);
}

static void enable_on_message(struct grpc_call *call, struct bytes data) {
        (void)data;
        etcd_fail(call, ETCD_ROOT_USER_NOT_EXIST);
}

static void user_on_message(struct grpc_call *call, struct bytes data) {
        (void)data;
        etcd_fail(call, ETCD_USER_NOT_FOUND);
}

static void role_on_message(struct grpc_call *call, struct bytes data) {
        (void)data;
        etcd_fail(call, ETCD_ROLE_NOT_FOUND);
}

static void user_add_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__AuthUserAddRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__auth_user_add_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        etcd_fail(call, pb->name[0] ? ETCD_AUTH_NOT_ENABLED : ETCD_USER_EMPTY);
}

static void role_add_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__AuthRoleAddRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__auth_role_add_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        etcd_fail(call, pb->name[0] ? ETCD_AUTH_NOT_ENABLED : ETCD_ROLE_EMPTY);
}

static const struct grpc_method methods[] = {
        {.path = "/etcdserverpb.Auth/AuthEnable", .on_message = enable_on_message},
        {.path = "/etcdserverpb.Auth/AuthDisable", .on_message = nothing_on_message},
        {.path = "/etcdserverpb.Auth/AuthStatus", .on_message = status_on_message},
        {.path = "/etcdserverpb.Auth/Authenticate", .on_message = not_enabled_on_message},
        {.path = "/etcdserverpb.Auth/UserAdd", .on_message = user_add_on_message},
        {.path = "/etcdserverpb.Auth/UserGet", .on_message = user_on_message},
        {.path = "/etcdserverpb.Auth/UserList", .on_message = nothing_on_message},
        {.path = "/etcdserverpb.Auth/UserDelete", .on_message = user_on_message},
        {.path = "/etcdserverpb.Auth/UserChangePassword", .on_message = user_on_message},
        {.path = "/etcdserverpb.Auth/UserGrantRole", .on_message = user_on_message},
        {.path = "/etcdserverpb.Auth/UserRevokeRole", .on_message = user_on_message},
        {.path = "/etcdserverpb.Auth/RoleAdd", .on_message = role_add_on_message},
        {.path = "/etcdserverpb.Auth/RoleGet", .on_message = role_on_message},
        {.path = "/etcdserverpb.Auth/RoleList", .on_message = nothing_on_message},
        {.path = "/etcdserverpb.Auth/RoleDelete", .on_message = role_on_message},
        {.path = "/etcdserverpb.Auth/RoleGrantPermission", .on_message = role_on_message},
        {.path = "/etcdserverpb.Auth/RoleRevokePermission", .on_message = role_on_message},
};

const struct grpc_service etcd_auth_service = {
        .name = "etcdserverpb.Auth",
        .methods = methods,
        .n_methods = n_elements(methods),
};
