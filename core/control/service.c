#include "control/service.h"

/*
 * The service: its methods, what all of them begin with, and those that are about the daemon as a whole; those about datastores and tenants are in files
 * of their own.
 *
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
#include "control/ending.h"
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

enum grpc_code method_code(int result) {
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

void *method_enter(struct grpc_call *call, struct bytes data, const ProtobufCMessageDescriptor *descriptor,
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

struct operation *method_begin(struct grpc_call *call, const char *key, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);

        return operation_begin(control->operations, grpc_call_user(call), call, key, data);
}

struct fleet *method_fleet(struct grpc_call *call) {
        struct control *control = grpc_call_server_userdata(call);

        return control->config.fleet;
}

bool method_policy(const char *policy, bool *ret_retain) {
        *ret_retain = strcmp(policy, "Retain") == 0;
        return *ret_retain || !policy[0] || strcmp(policy, "Delete") == 0;
}

bool method_retains(struct operation *op, const char *policy, bool *ret) {
        if (method_policy(policy, ret))
                return true;
        operation_fail(op, GRPC_INVALID_ARGUMENT, METHOD_POLICIES);
        return false;
}

static void on_cancel(struct grpc_call *call) {
        operation_leave(grpc_call_user(call));
}

/* ---- looking */

struct looking {
        struct control *control; /* borrowed */
        struct operation *op;
};

static void on_status(void *userdata) {
        cleanup(freep) struct looking *l = userdata;
        struct control *control = l->control;
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
        operation_finish(l->op, protobuf_pack(&response.base));
        arena_done(&arena);
}

static void status(struct grpc_call *call, struct bytes data) {
        struct operation *op;
        struct looking *l;

        if (!method_enter(call, data, &stokehold__control__v1__status_request__descriptor, PEER_VIEW))
                return;
        op = method_begin(call, "", data);
        if (!op)
                return;
        l = new0(struct looking);
        l->control = grpc_call_server_userdata(call);
        l->op = op;
        fleet_collect(method_fleet(call), on_status, l);
}

/* ---- changing */

static void on_reloaded(void *userdata, const char *const *errors, size_t n_errors) {
        Stokehold__Control__V1__ReloadResponse response = STOKEHOLD__CONTROL__V1__RELOAD_RESPONSE__INIT;

        response.errors = (char **)errors;
        response.n_errors = n_errors;
        ending_finish(userdata, &response);
}

static void reload(struct grpc_call *call, struct bytes data) {
        struct control *control = grpc_call_server_userdata(call);
        Stokehold__Control__V1__ReloadRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__reload_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, "", data);
        if (!op)
                return;
        operation_audit(op, "reload%s", request->enforce ? ", putting these definitions in force" : "");
        control->config.reload(control->config.userdata, request->enforce, on_reloaded, ending_new(call, op, NULL));
}

static void on_registry_recovered(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__RecoverRegistryResponse response =
                STOKEHOLD__CONTROL__V1__RECOVER_REGISTRY_RESPONSE__INIT;

        ending_finish_unless_refused(userdata, result, reason, &response);
}

static void recover_registry(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__RecoverRegistryRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__recover_registry_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit(op, "recover the registry, accepting what is lost");
        if (!request->accept_loss) {
                operation_fail(op, GRPC_INVALID_ARGUMENT,
                        "accept_loss must be set: tenants that were made since are not known any more");
                return;
        }
        fleet_recover_registry(method_fleet(call), on_registry_recovered, ending_new(call, op, NULL));
}

static void on_finalized(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__FinalizeUpgradeResponse response =
                STOKEHOLD__CONTROL__V1__FINALIZE_UPGRADE_RESPONSE__INIT;
        struct ending *e = userdata;
        struct fleet_summary summary;

        fleet_get_summary(e->fleet, &summary);
        response.format = summary.formats.current;
        ending_finish_unless_refused(e, result, reason, &response);
}

static void finalize_upgrade(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__FinalizeUpgradeRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__finalize_upgrade_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit(op, "finalize upgrade");
        fleet_finalize_upgrade(method_fleet(call), on_finalized, ending_new(call, op, NULL));
}

static void set_log_level(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__SetLogLevelResponse response = STOKEHOLD__CONTROL__V1__SET_LOG_LEVEL_RESPONSE__INIT;
        Stokehold__Control__V1__SetLogLevelRequest *request;
        enum log_level level;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__set_log_level_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, "", data);
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
        operation_finish(op, protobuf_pack(&response.base));
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
        METHOD("ListDrivers", method_list_drivers),
        METHOD("ListDatastores", method_list_datastores),
        METHOD("ListTenants", method_list_tenants),
        METHOD("CheckDatastore", method_check_datastore),
        METHOD("CreateTenant", method_create_tenant),
        METHOD("DeleteTenant", method_delete_tenant),
        METHOD("RecoverTenant", method_recover_tenant),
        METHOD("ResumeTenant", method_resume_tenant),
        METHOD("IssueCredentials", method_issue_credentials),
        METHOD("Reload", reload),
        METHOD("ClaimDatastore", method_claim_datastore),
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
