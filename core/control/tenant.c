#include "control/method.h"

/*
 * Tenants: looked at, made, deleted, and brought back. What moves them is in migration.c, what brings them from files in restore.c.
 * Main loop only.
 */

#include <errno.h>
#include <stokehold/control.pb-c.h>

#include "control/answer.h"
#include "control/ending.h"
#include "rpc/protobuf.h"

static void on_tenants(void *userdata) {
        struct ending *e = userdata;
        Stokehold__Control__V1__ListTenantsResponse *response;
        struct arena arena;

        arena_init(&arena, 0);
        response = answer_tenants(e->fleet, e->name, &arena);
        if (response)
                ending_finish(e, response);
        else
                ending_fail(e, GRPC_NOT_FOUND, "no such tenant: %s", e->name);
        arena_done(&arena);
}

void method_list_tenants(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ListTenantsRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__list_tenants_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        op = method_begin(call, "", data);
        if (op)
                fleet_collect(method_fleet(call), on_tenants, ending_new(call, op, request->name));
}

static void on_tenant_collected(void *userdata) {
        Stokehold__Control__V1__CreateTenantResponse response = STOKEHOLD__CONTROL__V1__CREATE_TENANT_RESPONSE__INIT;

        ending_finish_with_tenant(userdata, &response, &response.tenant);
}

static bool exists(struct fleet *fleet, const char *name) {
        struct arena arena;
        bool found;

        arena_init(&arena, 0);
        found = answer_tenant(fleet, name, &arena);
        arena_done(&arena);
        return found;
}

static void on_tenant_created(void *userdata, int result, const char *reason) {
        struct ending *e = userdata;

        /* Recorded, but not (yet) served: the tenant itself says why. */
        if (result < 0 && (result != -EAGAIN || !exists(e->fleet, e->name))) {
                ending_fail(e, method_code(result), "%s", reason);
                return;
        }
        if (result < 0)
                operation_audit(e->op, "create tenant \"%.63s\" (recorded, but not made yet: %s)", e->name, reason);
        fleet_collect(e->fleet, on_tenant_collected, e);
}

void method_create_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__CreateTenantRequest *request;
        struct fleet_create create;
        struct operation *op;
        bool retain;

        request = method_enter(call, data, &stokehold__control__v1__create_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, request->name, request->datastore[0] ? request->datastore : NULL,
                "create tenant \"%.63s\" on %.253s", request->name,
                request->datastore[0] ? request->datastore : "the default datastore");
        if (!method_retains(op, request->deletion_policy, &retain))
                return;
        create = (struct fleet_create){
                .name = request->name,
                .datastore = request->datastore,
                .quota_bytes = request->quota_bytes,
                .retain = retain,
                .client_names = (const char *const *)request->client_names,
                .n_client_names = request->n_client_names,
                .wait = request->wait,
        };
        fleet_create_tenant(method_fleet(call), &create, on_tenant_created, ending_new(call, op, request->name));
}

static void on_tenant_deleted(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__DeleteTenantResponse response = STOKEHOLD__CONTROL__V1__DELETE_TENANT_RESPONSE__INIT;

        ending_finish_unless_refused(userdata, result, reason, &response);
}

void method_delete_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__DeleteTenantRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__delete_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, request->name, NULL, "delete tenant \"%.63s\"%s", request->name,
                request->keep_data ? ", keeping its data" : "");
        fleet_delete_tenant(method_fleet(call), request->name, request->keep_data, on_tenant_deleted,
                ending_new(call, op, request->name));
}

static void on_recovered_collected(void *userdata) {
        Stokehold__Control__V1__RecoverTenantResponse response = STOKEHOLD__CONTROL__V1__RECOVER_TENANT_RESPONSE__INIT;

        ending_finish_with_tenant(userdata, &response, &response.tenant);
}

static void on_tenant_recovered(void *userdata, int result, const char *reason) {
        struct ending *e = userdata;

        if (!ending_refused(e, result, reason))
                fleet_collect(e->fleet, on_recovered_collected, e);
}

void method_recover_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__RecoverTenantRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__recover_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(
                op, request->name, NULL, "recover tenant \"%.63s\", accepting what is lost", request->name);
        if (!request->accept_loss) {
                operation_fail(op, GRPC_INVALID_ARGUMENT,
                        "accept_loss must be set: writes that were acknowledged may be gone");
                return;
        }
        fleet_recover_tenant(
                method_fleet(call), request->name, on_tenant_recovered, ending_new(call, op, request->name));
}

static void on_resumed_collected(void *userdata) {
        Stokehold__Control__V1__ResumeTenantResponse response = STOKEHOLD__CONTROL__V1__RESUME_TENANT_RESPONSE__INIT;

        ending_finish_with_tenant(userdata, &response, &response.tenant);
}

static void on_tenant_resumed(void *userdata, int result, const char *reason) {
        struct ending *e = userdata;

        if (!ending_refused(e, result, reason))
                fleet_collect(e->fleet, on_resumed_collected, e);
}

void method_resume_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ResumeTenantRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__resume_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, request->name, NULL, "resume tenant \"%.63s\"", request->name);
        fleet_resume_tenant(method_fleet(call), request->name, on_tenant_resumed, ending_new(call, op, request->name));
}
