/*
 * Auth: who may come in is decided at the tenant's endpoint, so etcd's own authentication is never enabled, and no user or
 * role exists. All is answered as a new etcd answers: lists are empty, names are not found, disabling does nothing, enabling
 * wants a root user. Only where that etcd would begin to keep a user or a role, UserAdd and RoleAdd, the answer is that
 * authentication is not enabled, since nobody would ever ask for that user. The server's loop only.
 */

#include <stokehold/rpc.pb-c.h>

#include "etcd/header.h"
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

/* Whether it is a request of this kind; the call is ended if not. */
static const void *unpack(struct grpc_call *call, const ProtobufCMessageDescriptor *descriptor, struct bytes data) {
        const void *pb = protobuf_unpack(descriptor, grpc_call_arena(call), data);

        if (!pb)
                etcd_fail(call, ETCD_MALFORMED);
        return pb;
}

#define EMPTY_LIST(name, descriptor)                                                                                   \
        static void name(struct grpc_call *call, struct bytes data) {                                                  \
                if (unpack(call, &(descriptor), data))                                                                 \
                        etcd_reply_header(call, revision_of(call));                                                    \
        }
#define REFUSED(name, descriptor, status)                                                                              \
        static void name(struct grpc_call *call, struct bytes data) {                                                  \
                if (unpack(call, &(descriptor), data))                                                                 \
                        etcd_fail(call, status);                                                                       \
        }

EMPTY_LIST(user_list, etcdserverpb__auth_user_list_request__descriptor)
EMPTY_LIST(role_list, etcdserverpb__auth_role_list_request__descriptor)
EMPTY_LIST(disable, etcdserverpb__auth_disable_request__descriptor)
REFUSED(enable, etcdserverpb__auth_enable_request__descriptor, ETCD_ROOT_USER_NOT_EXIST)
REFUSED(authenticate, etcdserverpb__authenticate_request__descriptor, ETCD_AUTH_NOT_ENABLED)
REFUSED(user_get, etcdserverpb__auth_user_get_request__descriptor, ETCD_USER_NOT_FOUND)
REFUSED(user_delete, etcdserverpb__auth_user_delete_request__descriptor, ETCD_USER_NOT_FOUND)
REFUSED(user_change_password, etcdserverpb__auth_user_change_password_request__descriptor, ETCD_USER_NOT_FOUND)
REFUSED(user_grant_role, etcdserverpb__auth_user_grant_role_request__descriptor, ETCD_USER_NOT_FOUND)
REFUSED(user_revoke_role, etcdserverpb__auth_user_revoke_role_request__descriptor, ETCD_USER_NOT_FOUND)
REFUSED(role_get, etcdserverpb__auth_role_get_request__descriptor, ETCD_ROLE_NOT_FOUND)
REFUSED(role_delete, etcdserverpb__auth_role_delete_request__descriptor, ETCD_ROLE_NOT_FOUND)
REFUSED(role_revoke, etcdserverpb__auth_role_revoke_permission_request__descriptor, ETCD_ROLE_NOT_FOUND)

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

/* As etcd's isValidPermissionRange: no end is one key, "\\0" is all behind it. */
static bool is_range(struct bytes key, struct bytes end) {
        if (key.size == 0)
                return false;
        if (end.size == 0 || (end.size == 1 && end.data[0] == 0))
                return true;
        return bytes_compare(key, end) < 0;
}

/* The permission is looked at before the role. */
static void role_grant_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__AuthRoleGrantPermissionRequest *pb =
                unpack(call, &etcdserverpb__auth_role_grant_permission_request__descriptor, data);
        struct bytes key, end;

        if (!pb)
                return;
        if (!pb->perm)
                return etcd_fail(call, ETCD_PERMISSION_NOT_GIVEN);
        key = bytes_of(pb->perm->key.data, pb->perm->key.len);
        end = bytes_of(pb->perm->range_end.data, pb->perm->range_end.len);
        if (!is_range(key, end))
                return etcd_fail(call, ETCD_INVALID_AUTH_MGMT);
        etcd_fail(call, ETCD_ROLE_NOT_FOUND);
}

static const struct grpc_method methods[] = {
        {.path = "/etcdserverpb.Auth/AuthEnable", .on_message = enable},
        {.path = "/etcdserverpb.Auth/AuthDisable", .on_message = disable},
        {.path = "/etcdserverpb.Auth/AuthStatus", .on_message = status_on_message},
        {.path = "/etcdserverpb.Auth/Authenticate", .on_message = authenticate},
        {.path = "/etcdserverpb.Auth/UserAdd", .on_message = user_add_on_message},
        {.path = "/etcdserverpb.Auth/UserGet", .on_message = user_get},
        {.path = "/etcdserverpb.Auth/UserList", .on_message = user_list},
        {.path = "/etcdserverpb.Auth/UserDelete", .on_message = user_delete},
        {.path = "/etcdserverpb.Auth/UserChangePassword", .on_message = user_change_password},
        {.path = "/etcdserverpb.Auth/UserGrantRole", .on_message = user_grant_role},
        {.path = "/etcdserverpb.Auth/UserRevokeRole", .on_message = user_revoke_role},
        {.path = "/etcdserverpb.Auth/RoleAdd", .on_message = role_add_on_message},
        {.path = "/etcdserverpb.Auth/RoleGet", .on_message = role_get},
        {.path = "/etcdserverpb.Auth/RoleList", .on_message = role_list},
        {.path = "/etcdserverpb.Auth/RoleDelete", .on_message = role_delete},
        {.path = "/etcdserverpb.Auth/RoleGrantPermission", .on_message = role_grant_on_message},
        {.path = "/etcdserverpb.Auth/RoleRevokePermission", .on_message = role_revoke},
};

const struct grpc_service etcd_auth_service = {
        .name = "etcdserverpb.Auth",
        .methods = methods,
        .n_methods = n_elements(methods),
};
