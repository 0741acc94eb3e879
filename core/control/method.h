#pragma once

/*
 * What methods of the control service that are not in service.c take from it. Main loop only.
 */

#include <protobuf-c/protobuf-c.h>

#include "control/operation.h"
#include "control/peer.h"
#include "fleet/fleet.h"

/* The request, in the call's arena; NULL after the call was answered: the peer may not, or the request is malformed. */
void *method_enter(struct grpc_call *call, struct bytes data, const ProtobufCMessageDescriptor *descriptor,
        enum peer_right needed);
/* As operation_begin(). */
struct operation *method_begin(struct grpc_call *call, const char *key, struct bytes data);
struct fleet *method_fleet(struct grpc_call *call);
/* What a request's deletion_policy says; "": Delete. False: it says neither; method_retains() has ended the operation then. */
bool method_policy(const char *policy, bool *ret_retain);
bool method_retains(struct operation *op, const char *policy, bool *ret);
#define METHOD_POLICIES "deletion_policy must be \"Delete\" or \"Retain\""
/* gRPC's code for what the fleet refused with. */
enum grpc_code method_code(int result);

/* datastore.c */
void method_list_drivers(struct grpc_call *call, struct bytes data);
void method_list_datastores(struct grpc_call *call, struct bytes data);
void method_check_datastore(struct grpc_call *call, struct bytes data);
void method_claim_datastore(struct grpc_call *call, struct bytes data);

/* tenant.c */
void method_list_tenants(struct grpc_call *call, struct bytes data);
void method_create_tenant(struct grpc_call *call, struct bytes data);
void method_delete_tenant(struct grpc_call *call, struct bytes data);
void method_recover_tenant(struct grpc_call *call, struct bytes data);
void method_resume_tenant(struct grpc_call *call, struct bytes data);

/* migration.c */
void method_migrate_tenant(struct grpc_call *call, struct bytes data);
void method_list_migrations(struct grpc_call *call, struct bytes data);
void method_show_migration(struct grpc_call *call, struct bytes data);
void method_abort_migration(struct grpc_call *call, struct bytes data);
void method_undo_migration(struct grpc_call *call, struct bytes data);

/* transfer.c */
void method_import_tenant(struct grpc_call *call, struct bytes data);
void method_export_tenant(struct grpc_call *call, struct bytes data);
void method_finish_transfer(struct grpc_call *call, struct bytes data);
void method_abort_transfer(struct grpc_call *call, struct bytes data);
void method_list_transfers(struct grpc_call *call, struct bytes data);

/* credentials.c */
void method_issue_credentials(struct grpc_call *call, struct bytes data);
