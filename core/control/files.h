#pragma once

/* The methods of the control service that bring files and take them, for service.c's table. Main loop only. */

#include "rpc/grpc.h"

/* backup.c */
void files_backup_tenant(struct grpc_call *call, struct bytes data);
void files_backup_cancel(struct grpc_call *call);
void files_backup_drained(struct grpc_call *call);
void files_backup_free(struct grpc_call *call);
/* restore.c */
void files_restore_tenant(struct grpc_call *call, struct bytes data);
void files_restore_end(struct grpc_call *call);
void files_restore_cancel(struct grpc_call *call);
void files_restore_free(struct grpc_call *call);

/* clone.c */
void files_clone_tenant(struct grpc_call *call, struct bytes data);
void files_clone_cancel(struct grpc_call *call);
void files_clone_free(struct grpc_call *call);

#define CONTROL_FILES_METHODS                                                                                          \
        {.path = "/stokehold.control.v1.Control/BackupTenant",                                                         \
                .server_streaming = true,                                                                              \
                .user_size = sizeof(void *),                                                                           \
                .on_message = files_backup_tenant,                                                                     \
                .on_cancel = files_backup_cancel,                                                                      \
                .on_drained = files_backup_drained,                                                                    \
                .on_free = files_backup_free},                                                                         \
                {.path = "/stokehold.control.v1.Control/RestoreTenant",                                                \
                        .client_streaming = true,                                                                      \
                        .server_streaming = true,                                                                      \
                        .user_size = sizeof(void *),                                                                   \
                        .on_message = files_restore_tenant,                                                            \
                        .on_half_close = files_restore_end,                                                            \
                        .on_cancel = files_restore_cancel,                                                             \
                        .on_free = files_restore_free},                                                                \
        {                                                                                                              \
                .path = "/stokehold.control.v1.Control/CloneTenant", .server_streaming = true,                         \
                .user_size = sizeof(void *), .on_message = files_clone_tenant, .on_cancel = files_clone_cancel,        \
                .on_free = files_clone_free                                                                            \
        }
