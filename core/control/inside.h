#pragma once

/*
 * What the methods of the control service share: service.c, which has the service and the short methods, backup.c, restore.c
 * and clone.c. Nobody else includes it. Main
 * loop only.
 */

#include "control/operation.h"
#include "control/peer.h"
#include "control/service.h"
#include "rpc/protobuf.h"

struct control {
        struct control_config config;
        struct peer_rules rules;
        struct grpc_server *server;         /* owned */
        struct listener *listener;          /* owned; NULL once closing */
        struct operation_table *operations; /* owned */
        uint64_t started_ns;
};

/* Of a negative result of the fleet's. */
enum grpc_code control_code(int result);
/* The request; NULL: the peer may not, or it is malformed, and the call was answered so. */
void *control_enter(struct grpc_call *call, struct bytes data, const ProtobufCMessageDescriptor *descriptor,
        enum peer_right needed);

/* backup.c */
#define CONTROL_USER_SIZE 64
void control_backup_tenant(struct grpc_call *call, struct bytes data);
void control_backup_cancel(struct grpc_call *call);
void control_backup_drained(struct grpc_call *call);
void control_backup_free(struct grpc_call *call);
/* restore.c */
void control_restore_tenant(struct grpc_call *call, struct bytes data);
void control_restore_end(struct grpc_call *call);
void control_restore_cancel(struct grpc_call *call);
void control_restore_free(struct grpc_call *call);

#define CONTROL_FILES_METHODS                                                                                          \
        {.path = "/stokehold.control.v1.Control/BackupTenant",                                                         \
                .server_streaming = true,                                                                              \
                .user_size = CONTROL_USER_SIZE,                                                                        \
                .on_message = control_backup_tenant,                                                                   \
                .on_cancel = control_backup_cancel,                                                                    \
                .on_drained = control_backup_drained,                                                                  \
                .on_free = control_backup_free},                                                                       \
        {.path = "/stokehold.control.v1.Control/RestoreTenant",                                                        \
                .client_streaming = true,                                                                              \
                .server_streaming = true,                                                                              \
                .user_size = CONTROL_USER_SIZE,                                                                        \
                .on_message = control_restore_tenant,                                                                  \
                .on_half_close = control_restore_end,                                                                  \
                .on_cancel = control_restore_cancel,                                                                   \
                .on_free = control_restore_free}
