#include "control/service.h"

/*
 * Each method: may this peer; unpack; begin an operation; ask the fleet; answer in its callback. The operation lives on if the call goes away, since
 * what was asked for goes on too; answers are made from what the fleet knows at that time.
 */

#include <stokehold/control.desc.h>
#include <stokehold/control.pb-c.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "control/answer.h"
#include "control/audit.h"
#include "control/files.h"
#include "control/method.h"
#include "control/operation.h"
#include "control/peer.h"
#include "control/telling.h"
#include "fleet/uuid.h"
#include "rpc/listener.h"
#include "rpc/protobuf.h"

struct control {
        struct control_config config;
        struct peer_rules rules;
        struct grpc_server *server;         /* owned */
        struct listener *listener;          /* owned; NULL once closing */
        struct operation_table *operations; /* owned */
        struct audit_refusals refusals;
        uint64_t started_ns;
};

/* What a callback of the fleet needs to answer an operation. */
struct answer {
        struct control *control;
        struct operation *op;
        char *name; /* owned; NULL: none */
};

static struct answer *answer_new(struct control *control, struct operation *op, const char *name) {
        struct answer *answer = new0(struct answer);

        answer->control = control;
        answer->op = op;
        answer->name = strdup(name ? name : "");
        check(answer->name);
        return answer;
}

static void answer_free(struct answer *answer) {
        free(answer->name);
        free(answer);
}

static enum grpc_code code_of(int result) {
        switch (result) {
        case -ENOENT:
                return GRPC_NOT_FOUND;
        case -EEXIST:
                return GRPC_ALREADY_EXISTS;
        case -EINVAL:
                return GRPC_INVALID_ARGUMENT;
        case -EBUSY:
                return GRPC_FAILED_PRECONDITION;
        case -ECANCELED:
                return GRPC_ABORTED;
        default:
                return GRPC_UNAVAILABLE;
        }
}

/* The request, or NULL after the call was answered. */
static void *enter(struct grpc_call *call, struct bytes data, const ProtobufCMessageDescriptor *descriptor,
        enum peer_right needed) {
        struct control *control = grpc_call_server_userdata(call);
        void *request;

        if (peer_right(&control->rules, grpc_call_peer(call)) < needed) {
                const char *why = needed == PEER_CHANGE ? "changing things is for root and members of " PEER_GROUP_ADMIN
                                                        : "looking is for root and members of " PEER_GROUP_VIEW
                                                          " and " PEER_GROUP_ADMIN;

                audit_refused(&control->refusals, grpc_call_peer(call), grpc_call_method(call)->path, why);
                grpc_call_finish(call, GRPC_PERMISSION_DENIED, why);
                return NULL;
        }
        request = protobuf_unpack(descriptor, grpc_call_arena(call), data);
        if (!request)
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "the request is malformed");
        return request;
}

static struct operation *begin(struct grpc_call *call, const char *key, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);

        return operation_begin(control->operations, grpc_call_user(call), call, key, data);
}

void *method_enter(struct grpc_call *call, struct bytes data, const ProtobufCMessageDescriptor *descriptor,
        enum peer_right needed) {
        return enter(call, data, descriptor, needed);
}

struct operation *method_begin(struct grpc_call *call, const char *key, struct bytes data) {
        return begin(call, key, data);
}

struct fleet *method_fleet(struct grpc_call *call) {
        struct control *control = grpc_call_server_userdata(call);

        return control->config.fleet;
}

enum grpc_code method_code(int result) {
        return code_of(result);
}

static void on_cancel(struct grpc_call *call) {
        operation_leave(grpc_call_user(call));
}

static void finish(struct operation *op, const void *message) {
        operation_finish(op, protobuf_pack(message));
}

/* Ends with what the fleet refused, and frees the answer; false: it did not refuse. */
static bool refused(struct answer *answer, int result, const char *reason) {
        if (result >= 0)
                return false;
        operation_fail(answer->op, code_of(result), "%s", reason);
        answer_free(answer);
        return true;
}

static void finish_unless_refused(struct answer *answer, int result, const char *reason, const void *message) {
        if (refused(answer, result, reason))
                return;
        finish(answer->op, message);
        answer_free(answer);
}

/* With the tenant as it is by now, in the message's field. */
static void finish_with_tenant(struct answer *answer, const void *message, Stokehold__Control__V1__Tenant **ret_field) {
        struct arena arena;

        arena_init(&arena, 0);
        *ret_field = answer_tenant(answer->control->config.fleet, answer->name, &arena);
        if (*ret_field)
                finish(answer->op, message);
        else
                operation_fail(answer->op, GRPC_NOT_FOUND, "tenant %s was deleted meanwhile", answer->name);
        arena_done(&arena);
        answer_free(answer);
}

/* ---- looking */

static void on_status(void *userdata) {
        struct answer *answer = userdata;
        struct control *control = answer->control;
        Stokehold__Control__V1__StatusResponse response = STOKEHOLD__CONTROL__V1__STATUS_RESPONSE__INIT;
        char daemon[UUID_TEXT_SIZE];
        struct arena arena;

        arena_init(&arena, 0);
        uuid_print(control->config.daemon, daemon);
        response.version = (char *)control->config.version;
        response.daemon = daemon;
        response.uptime_seconds = (int64_t)((clock_now_ns() - control->started_ns) / NSEC_PER_SEC);
        response.pid = getpid();
        response.log_level = (char *)log_level_name(log_get_level());
        answer_status(control->config.fleet, &response, &arena);
        finish(answer->op, &response);
        arena_done(&arena);
        answer_free(answer);
}

static void status(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        struct operation *op;

        if (!enter(call, data, &stokehold__control__v1__status_request__descriptor, PEER_VIEW))
                return;
        op = begin(call, "", data);
        if (op)
                fleet_collect(control->config.fleet, on_status, answer_new(control, op, NULL));
}

static void list_drivers(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);

        if (!enter(call, data, &stokehold__control__v1__list_drivers_request__descriptor, PEER_VIEW))
                return;
        grpc_call_reply(call, protobuf_pack(&answer_drivers(control->config.fleet, grpc_call_arena(call))->base));
}

static void list_datastores(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__ListDatastoresRequest *request;
        Stokehold__Control__V1__ListDatastoresResponse *response;
        cleanup(freep) char *text = NULL;

        request = enter(call, data, &stokehold__control__v1__list_datastores_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        response = answer_datastores(control->config.fleet, request->name, grpc_call_arena(call));
        if (response) {
                grpc_call_reply(call, protobuf_pack(&response->base));
                return;
        }
        if (asprintf(&text, "no such datastore: %.253s", request->name) < 0)
                check(false);
        grpc_call_finish(call, GRPC_NOT_FOUND, text);
}

static void on_tenants(void *userdata) {
        struct answer *answer = userdata;
        Stokehold__Control__V1__ListTenantsResponse *response;
        struct arena arena;

        arena_init(&arena, 0);
        response = answer_tenants(answer->control->config.fleet, answer->name, &arena);
        if (response)
                finish(answer->op, response);
        else
                operation_fail(answer->op, GRPC_NOT_FOUND, "no such tenant: %s", answer->name);
        arena_done(&arena);
        answer_free(answer);
}

static void list_tenants(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__ListTenantsRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__list_tenants_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        op = begin(call, "", data);
        if (op)
                fleet_collect(control->config.fleet, on_tenants, answer_new(control, op, request->name));
}

static void on_checked(
        void *userdata, int result, const char *reason, const struct fleet_check_item *items, size_t n_items) {
        static const char *const severities[] = {
                [STOKE_INFO] = "ok", [STOKE_WARNING] = "warning", [STOKE_PROBLEM] = "problem"};
        Stokehold__Control__V1__CheckDatastoreResponse response =
                STOKEHOLD__CONTROL__V1__CHECK_DATASTORE_RESPONSE__INIT;
        struct answer *answer = userdata;

        if (result == -ENOENT) {
                operation_fail(answer->op, GRPC_NOT_FOUND, "%s", reason);
                answer_free(answer);
                return;
        }
        response.ok = result == 0;
        response.reason = (char *)reason;
        response.n_items = n_items;
        response.items = xcalloc(n_items, sizeof(*response.items));
        for (size_t i = 0; i < n_items; i++) {
                Stokehold__Control__V1__CheckItem *item = new0(Stokehold__Control__V1__CheckItem);

                stokehold__control__v1__check_item__init(item);
                item->name = items[i].name;
                item->value = items[i].value;
                item->severity =
                        (char *)((size_t)items[i].severity < n_elements(severities) ? severities[items[i].severity]
                                                                                    : "problem");
                response.items[i] = item;
        }
        finish(answer->op, &response);
        for (size_t i = 0; i < n_items; i++)
                free(response.items[i]);
        free(response.items);
        answer_free(answer);
}

static void check_datastore(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__CheckDatastoreRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__check_datastore_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        op = begin(call, "", data);
        if (op)
                fleet_check_datastore(
                        control->config.fleet, request->name, on_checked, answer_new(control, op, request->name));
}

/* ---- changing */

static void on_tenant_collected(void *userdata) {
        Stokehold__Control__V1__CreateTenantResponse response = STOKEHOLD__CONTROL__V1__CREATE_TENANT_RESPONSE__INIT;

        finish_with_tenant(userdata, &response, &response.tenant);
}

static bool exists(struct control *control, const char *name) {
        struct arena arena;
        bool found;

        arena_init(&arena, 0);
        found = answer_tenant(control->config.fleet, name, &arena);
        arena_done(&arena);
        return found;
}

static void on_tenant_created(void *userdata, int result, const char *reason) {
        struct answer *answer = userdata;

        /* Recorded, but not (yet) served: the tenant itself says why. */
        if (result < 0 && (result != -EAGAIN || !exists(answer->control, answer->name))) {
                operation_fail(answer->op, code_of(result), "%s", reason);
                answer_free(answer);
                return;
        }
        if (result < 0)
                operation_audit(
                        answer->op, "create tenant \"%.63s\" (recorded, but not made yet: %s)", answer->name, reason);
        fleet_collect(answer->control->config.fleet, on_tenant_collected, answer);
}

bool method_retains(struct operation *op, const char *policy, bool *ret) {
        *ret = strcmp(policy, "Retain") == 0;
        if (*ret || !policy[0] || strcmp(policy, "Delete") == 0)
                return true;
        operation_fail(op, GRPC_INVALID_ARGUMENT, "deletion_policy must be \"Delete\" or \"Retain\"");
        return false;
}

static void create_tenant(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__CreateTenantRequest *request;
        struct fleet_create create;
        struct operation *op;
        bool retain;

        request = enter(call, data, &stokehold__control__v1__create_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
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
        fleet_create_tenant(control->config.fleet, &create, on_tenant_created, answer_new(control, op, request->name));
}

static void on_tenant_deleted(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__DeleteTenantResponse response = STOKEHOLD__CONTROL__V1__DELETE_TENANT_RESPONSE__INIT;

        finish_unless_refused(userdata, result, reason, &response);
}

static void delete_tenant(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__DeleteTenantRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__delete_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, request->name, NULL, "delete tenant \"%.63s\"%s", request->name,
                request->keep_data ? ", keeping its data" : "");
        fleet_delete_tenant(control->config.fleet, request->name, request->keep_data, on_tenant_deleted,
                answer_new(control, op, request->name));
}

static void on_recovered_collected(void *userdata) {
        Stokehold__Control__V1__RecoverTenantResponse response = STOKEHOLD__CONTROL__V1__RECOVER_TENANT_RESPONSE__INIT;

        finish_with_tenant(userdata, &response, &response.tenant);
}

static void on_tenant_recovered(void *userdata, int result, const char *reason) {
        struct answer *answer = userdata;

        if (!refused(answer, result, reason))
                fleet_collect(answer->control->config.fleet, on_recovered_collected, answer);
}

static void recover_tenant(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__RecoverTenantRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__recover_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
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
                control->config.fleet, request->name, on_tenant_recovered, answer_new(control, op, request->name));
}

static void on_resumed_collected(void *userdata) {
        Stokehold__Control__V1__ResumeTenantResponse response = STOKEHOLD__CONTROL__V1__RESUME_TENANT_RESPONSE__INIT;

        finish_with_tenant(userdata, &response, &response.tenant);
}

static void on_tenant_resumed(void *userdata, int result, const char *reason) {
        struct answer *answer = userdata;

        if (!refused(answer, result, reason))
                fleet_collect(answer->control->config.fleet, on_resumed_collected, answer);
}

static void resume_tenant(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__ResumeTenantRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__resume_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, request->name, NULL, "resume tenant \"%.63s\"", request->name);
        fleet_resume_tenant(
                control->config.fleet, request->name, on_tenant_resumed, answer_new(control, op, request->name));
}

static void on_reloaded(void *userdata, const char *const *errors, size_t n_errors) {
        Stokehold__Control__V1__ReloadResponse response = STOKEHOLD__CONTROL__V1__RELOAD_RESPONSE__INIT;
        struct answer *answer = userdata;

        response.errors = (char **)errors;
        response.n_errors = n_errors;
        finish(answer->op, &response);
        answer_free(answer);
}

static void reload(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__ReloadRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__reload_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, "", data);
        if (!op)
                return;
        operation_audit(op, "reload%s", request->enforce ? ", putting these definitions in force" : "");
        control->config.reload(control->config.userdata, request->enforce, on_reloaded, answer_new(control, op, NULL));
}

static void on_claimed(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__ClaimDatastoreResponse response =
                STOKEHOLD__CONTROL__V1__CLAIM_DATASTORE_RESPONSE__INIT;

        finish_unless_refused(userdata, result, reason, &response);
}

static void claim_datastore(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__ClaimDatastoreRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__claim_datastore_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, NULL, request->name, "claim datastore \"%.253s\"", request->name);
        fleet_claim_datastore(control->config.fleet, request->name, on_claimed, answer_new(control, op, NULL));
}

static void on_registry_recovered(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__RecoverRegistryResponse response =
                STOKEHOLD__CONTROL__V1__RECOVER_REGISTRY_RESPONSE__INIT;

        finish_unless_refused(userdata, result, reason, &response);
}

static void recover_registry(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__RecoverRegistryRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__recover_registry_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit(op, "recover the registry, accepting what is lost");
        if (!request->accept_loss) {
                operation_fail(op, GRPC_INVALID_ARGUMENT,
                        "accept_loss must be set: tenants that were made since are not known any more");
                return;
        }
        fleet_recover_registry(control->config.fleet, on_registry_recovered, answer_new(control, op, NULL));
}

static void on_finalized(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__FinalizeUpgradeResponse response =
                STOKEHOLD__CONTROL__V1__FINALIZE_UPGRADE_RESPONSE__INIT;
        struct answer *answer = userdata;
        struct fleet_summary summary;

        fleet_get_summary(answer->control->config.fleet, &summary);
        response.format = summary.formats.current;
        finish_unless_refused(answer, result, reason, &response);
}

static void finalize_upgrade(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__FinalizeUpgradeRequest *request;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__finalize_upgrade_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit(op, "finalize upgrade");
        fleet_finalize_upgrade(control->config.fleet, on_finalized, answer_new(control, op, NULL));
}

static void set_log_level(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__SetLogLevelResponse response = STOKEHOLD__CONTROL__V1__SET_LOG_LEVEL_RESPONSE__INIT;
        Stokehold__Control__V1__SetLogLevelRequest *request;
        enum log_level level;
        struct operation *op;

        request = enter(call, data, &stokehold__control__v1__set_log_level_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = begin(call, "", data);
        if (!op)
                return;
        operation_audit(op, "set log level to %.16s", request->level);
        if (log_level_parse(request->level, &level) < 0) {
                operation_fail(
                        op, GRPC_INVALID_ARGUMENT, "level must be one of error, warning, notice, info and debug");
                return;
        }
        response.previous = (char *)log_level_name(log_get_level());
        log_set_level(level);
        finish(op, &response);
}

/* ---- the service */

#define METHOD(name, function)                                                                                         \
        {                                                                                                              \
                .path = "/stokehold.control.v1.Control/" name, .user_size = sizeof(struct operation_request),          \
                .on_message = function, .on_cancel = on_cancel                                                         \
        }

#define TELLING(name, function)                                                                                        \
        {                                                                                                              \
                .path = "/stokehold.control.v1.Control/" name, .server_streaming = true,                               \
                .user_size = sizeof(struct telling), .on_message = function, .on_cancel = on_cancel,                   \
                .on_free = telling_free                                                                                \
        }

static const struct grpc_method methods[] = {
        TELLING("MigrateTenant", method_migrate_tenant),
        METHOD("ListMigrations", method_list_migrations),
        METHOD("ShowMigration", method_show_migration),
        METHOD("AbortMigration", method_abort_migration),
        METHOD("UndoMigration", method_undo_migration),
        TELLING("ImportTenant", method_import_tenant),
        TELLING("ExportTenant", method_export_tenant),
        TELLING("FinishTransfer", method_finish_transfer),
        METHOD("AbortTransfer", method_abort_transfer),
        METHOD("ListTransfers", method_list_transfers),
        CONTROL_FILES_METHODS,
        METHOD("Status", status),
        METHOD("ListDrivers", list_drivers),
        METHOD("ListDatastores", list_datastores),
        METHOD("ListTenants", list_tenants),
        METHOD("CheckDatastore", check_datastore),
        METHOD("CreateTenant", create_tenant),
        METHOD("DeleteTenant", delete_tenant),
        METHOD("RecoverTenant", recover_tenant),
        METHOD("ResumeTenant", resume_tenant),
        METHOD("IssueCredentials", method_issue_credentials),
        METHOD("Reload", reload),
        METHOD("ClaimDatastore", claim_datastore),
        METHOD("RecoverRegistry", recover_registry),
        METHOD("FinalizeUpgrade", finalize_upgrade),
        METHOD("SetLogLevel", set_log_level),
};

static const struct grpc_service service = {
        .name = "stokehold.control.v1.Control",
        .methods = methods,
        .n_methods = n_elements(methods),
};

static bool admit(void *userdata, const struct grpc_peer *peer) {
        struct control *control = userdata;

        if (peer_right(&control->rules, peer) != PEER_NOTHING)
                return true;
        audit_refused(&control->refusals, peer, "connect", "connection refused");
        return false;
}

static void on_accept(void *userdata, int fd) {
        struct control *control = userdata;
        int r = grpc_server_accept(control->server, fd);

        if (r < 0 && r != -EACCES) /* not admitted: is in the audit */
                log_warning("control: a connection could not be taken: %s", strerror(-r));
}

int control_new(const struct control_config *config, struct control **ret, struct error *reterr) {
        cleanup(control_freep) struct control *control = NULL;
        cleanup(freep) char *address = NULL;
        struct grpc_server_config server = {
                .loop = config->loop, .name = "control", .limits = grpc_default_limits, .admit = admit};
        int r;

        control = new0(struct control);
        control->config = *config;
        control->started_ns = clock_now_ns();
        control->operations = operation_table_new();
        control_reload(control);

        server.userdata = control;
        r = grpc_server_new(&server, &control->server);
        if (r < 0)
                return error_set(reterr, r, "control: %s", strerror(-r));
        r = grpc_server_add(
                control->server, &service, bytes_of(stoke_control_descriptor, stoke_control_descriptor_size));
        if (r < 0)
                return error_set(reterr, r, "control: %s", strerror(-r));
        if (asprintf(&address, "unix:%s", config->path) < 0)
                return -ENOMEM;
        /* With --config everybody may knock: who may come in is decided by the peer's credentials, not by the file's mode. */
        r = listener_new(
                config->loop, address, config->own_user ? 0600 : 0666, on_accept, control, &control->listener, reterr);
        if (r < 0)
                return r;

        *ret = steal(control);
        return 0;
}

void control_reload(struct control *control) {
        peer_rules_load(&control->rules, control->config.own_user);
}

void control_close(struct control *control, uint64_t timeout_ns, void (*done)(void *userdata), void *userdata) {
        listener_free(steal(control->listener));
        grpc_server_drain(control->server, timeout_ns, done, userdata);
}

void control_free(struct control *control) {
        if (!control)
                return;
        listener_free(control->listener);
        grpc_server_free(control->server);
        operation_table_free(control->operations);
        free(control);
}
