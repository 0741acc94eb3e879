#include "control/method.h"

/*
 * Moving tenants. MigrateTenant streams how far it has come (telling.h).
 */

#include <stokehold/control.pb-c.h>
#include <string.h>

#include "control/answer.h"
#include "control/ending.h"
#include "control/telling.h"
#include "rpc/protobuf.h"

typedef Stokehold__Control__V1__Migration Migration;

/* ---- as messages */

static void on_view(void *userdata, const struct fleet_migration_view *view) {
        struct answer_list *list = userdata;
        Migration *m = answer_list_add(list, sizeof(*m));

        stokehold__control__v1__migration__init(m);
        m->id = answer_uuid(list->arena, view->id);
        m->tenant = answer_text(list->arena, view->tenant);
        m->from = answer_text(list->arena, view->from);
        m->to = answer_text(list->arena, view->to);
        m->phase = answer_text(list->arena, view->phase);
        m->step = answer_text(list->arena, view->step);
        m->reason = answer_text(list->arena, view->reason);
        m->ended = !view->is_running;
        m->back = view->back;
        m->owner = answer_uuid(list->arena, view->owner);
        m->started = answer_time(list->arena, view->started);
        m->finished = answer_time(list->arena, view->finished);
        m->bytes = view->bytes;
        m->bytes_all = view->bytes_all;
        m->records = view->records;
        m->records_to_go = view->records_to_go;
        m->bytes_per_second = view->rate;
        m->seconds_to_go = view->seconds_to_go;
        m->hold_ms = (double)view->hold_ns / 1e6;
        m->former = answer_text(list->arena, view->former);
        m->former_until = answer_time(list->arena, view->former_until);
}

/* NULL: it was never moved, or is not there. */
static Migration *migration_of(struct fleet *fleet, const char *tenant, struct arena *arena) {
        struct answer_list list = {.arena = arena};

        return fleet_find_migration(fleet, tenant, on_view, &list) ? list.items[0] : NULL;
}

/* ---- answering */

static void on_ended(void *userdata, int result, const char *reason) {
        struct ending *e = userdata;
        struct arena arena;
        Migration *m;

        arena_init(&arena, 0);
        m = migration_of(e->fleet, e->name, &arena);
        if (result >= 0 && !m)
                ending_fail(e, GRPC_NOT_FOUND, "tenant %s was deleted meanwhile", e->name);
        else
                ending_finish_unless_refused(e, result, reason, m);
        arena_done(&arena);
}

/* ---- methods */

static struct blob *pack_running(struct fleet *fleet, const char *name) {
        struct blob *packed;
        struct arena arena;
        Migration *m;

        arena_init(&arena, 0);
        m = migration_of(fleet, name, &arena);
        packed = m && !m->ended ? protobuf_pack(&m->base) : NULL;
        arena_done(&arena);
        return packed;
}

void method_migrate_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__MigrateTenantRequest *request;
        struct fleet_migrate migrate;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__migrate_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!request->detach)
                telling_begin(call, request->name, pack_running);
        if (!op)
                return;
        operation_audit(op, "migrate tenant \"%.63s\" to %.253s", request->name, request->datastore);
        if (!request->datastore[0] || request->retention_seconds < -1) {
                operation_fail(op, GRPC_INVALID_ARGUMENT,
                        request->datastore[0] ? "retention_seconds is negative" : "datastore: which one?");
                return;
        }
        migrate = (struct fleet_migrate){
                .name = request->name,
                .datastore = request->datastore,
                .retention_s = request->retention_seconds == 0 ? -1 : max_of(request->retention_seconds, INT64_C(0)),
                .wait = !request->detach,
        };
        fleet_migrate_tenant(method_fleet(call), &migrate, on_ended, ending_new(call, op, request->name));
}

void method_list_migrations(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ListMigrationsResponse response =
                STOKEHOLD__CONTROL__V1__LIST_MIGRATIONS_RESPONSE__INIT;
        struct answer_list list = {.arena = grpc_call_arena(call)};

        if (!method_enter(call, data, &stokehold__control__v1__list_migrations_request__descriptor, PEER_VIEW))
                return;
        fleet_each_migration(method_fleet(call), on_view, &list);
        response.migrations = (Migration **)list.items;
        response.n_migrations = list.n_items;
        grpc_call_reply(call, protobuf_pack(&response.base));
}

void method_show_migration(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ShowMigrationRequest *request;
        cleanup(freep) char *text = NULL;
        Migration *m;

        request = method_enter(call, data, &stokehold__control__v1__show_migration_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        m = migration_of(method_fleet(call), request->name, grpc_call_arena(call));
        if (m) {
                grpc_call_reply(call, protobuf_pack(&m->base));
                return;
        }
        check(asprintf(&text, "no tenant %.80s, or it was never moved", request->name) > 0);
        grpc_call_finish(call, GRPC_NOT_FOUND, text);
}

void method_abort_migration(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__AbortMigrationRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__abort_migration_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit(op, "abort the migration of tenant \"%.63s\"", request->name);
        fleet_abort_migration(method_fleet(call), request->name, on_ended, ending_new(call, op, request->name));
}

void method_undo_migration(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__UndoMigrationRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__undo_migration_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit(op, "undo the migration of tenant \"%.63s\"", request->name);
        fleet_undo_migration(method_fleet(call), request->name, on_ended, ending_new(call, op, request->name));
}
