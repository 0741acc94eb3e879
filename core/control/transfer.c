#include "fleet/transfers.h"

/*
 * Imports and exports, finishing and aborting them. A call that waits is told how far it has come (telling.h); it goes on without the call.
 */

#include <stokehold/control.pb-c.h>
#include <string.h>

#include "control/answer.h"
#include "control/ending.h"
#include "control/method.h"
#include "control/telling.h"
#include "rpc/protobuf.h"

typedef Stokehold__Control__V1__Transfer Transfer;

/* ---- as messages */

static void on_view(void *userdata, const struct fleet_transfer_view *view) {
        struct answer_list *list = userdata;
        Transfer *t = answer_list_add(list, sizeof(*t));

        stokehold__control__v1__transfer__init(t);
        t->tenant = answer_text(list->arena, view->tenant);
        t->direction = view->is_import ? "import" : "export";
        t->from = answer_text(list->arena, view->status->from);
        t->to = answer_text(list->arena, view->status->to);
        t->phase = answer_text(list->arena, view->phase);
        t->reason = answer_text(list->arena, view->reason);
        t->ended = view->ended;
        t->started = answer_time(list->arena, view->started);
        t->finished = answer_time(list->arena, view->finished);
        t->keys = view->status->n_keys;
        t->bytes = view->status->bytes;
        t->carried = view->status->n_carried;
        t->events = view->status->n_events;
        t->revision = view->status->revision;
        t->source_revision = view->status->source_revision;
}

static struct blob *pack(struct fleet *fleet, const char *name, bool running) {
        struct blob *packed = NULL;
        struct arena arena;
        struct answer_list list = {.arena = &arena};

        arena_init(&arena, 0);
        if (fleet_find_transfer(fleet, name, on_view, &list) && !(running && ((Transfer *)list.items[0])->ended))
                packed = protobuf_pack(list.items[0]);
        arena_done(&arena);
        return packed;
}

static struct blob *pack_running(struct fleet *fleet, const char *name) {
        return pack(fleet, name, true);
}

/* ---- answering */

/* The fleet's last word for it. */
static void on_ended(void *userdata, int result, const char *reason) {
        struct ending *e = userdata;
        struct blob *packed;

        if (ending_refused(e, result, reason))
                return;
        packed = pack(e->fleet, e->name, false);
        if (packed)
                ending_finish_packed(e, packed);
        else
                ending_fail(e, GRPC_NOT_FOUND, "the tenant has another transfer by now");
}

/* Begun, and to be waited for. */
static void on_begun(void *userdata, int result, const char *reason) {
        struct ending *e = userdata;

        if (!ending_refused(e, result, reason))
                fleet_wait_for_transfer(e->fleet, e->name, on_ended, e);
}

/* ---- methods */

static struct bytes bytes_of_pb(ProtobufCBinaryData b) {
        return bytes_of(b.data, b.len);
}

static const char *first_url(const Stokehold__Control__V1__Endpoint *endpoint) {
        if (!endpoint || !endpoint->n_urls)
                return "nowhere";
        /* A password has no business there, but may be all the same. */
        return strchr(endpoint->urls[0], '@') ? "(an address with credentials in it)" : endpoint->urls[0];
}

/* False: the operation has ended. */
static bool fill(
        struct operation *op, const Stokehold__Control__V1__Endpoint *endpoint, struct fleet_transfer_request *ret) {
        if (!endpoint || !endpoint->n_urls) {
                operation_fail(op, GRPC_INVALID_ARGUMENT, "which etcd? an endpoint is needed");
                return false;
        }
        ret->endpoints = (const char *const *)endpoint->urls;
        ret->n_endpoints = endpoint->n_urls;
        ret->authorities = bytes_of_pb(endpoint->ca);
        ret->certificate = bytes_of_pb(endpoint->certificate);
        ret->key = bytes_of_pb(endpoint->key);
        ret->server_name = endpoint->server_name;
        return true;
}

/* Whoever needs the key has it; the call, which has the request as it came and as it was unpacked, may last for days. */
static void forget_key(Stokehold__Control__V1__Endpoint *endpoint, struct bytes data) {
        void *came;

        if (!endpoint->key.len)
                return;
        came = memmem(data.data, data.size, endpoint->key.data, endpoint->key.len);
        if (came && came != endpoint->key.data)
                explicit_bzero(came, endpoint->key.len);
        explicit_bzero(endpoint->key.data, endpoint->key.len);
}

void method_import_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ImportTenantRequest *request;
        struct fleet_transfer_request transfer = {};
        struct fleet_create create;
        struct operation *op;
        bool retain;

        request = method_enter(call, data, &stokehold__control__v1__import_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, "", data);
        operation_audit(op, "import tenant \"%.63s\" from %.200s", request->name, first_url(request->from));
        if (!fill(op, request->from, &transfer))
                return;
        if (!method_retains(op, request->deletion_policy, &retain))
                return;
        create = (struct fleet_create){
                .name = request->name,
                .datastore = request->datastore,
                .quota_bytes = request->quota_bytes,
                .retain = retain,
        };
        transfer.name = request->name;
        transfer.prefix = bytes_of_pb(request->prefix);
        transfer.has_new_prefix = request->has_new_prefix;
        transfer.new_prefix = bytes_of_pb(request->new_prefix);
        transfer.finish = request->finish;
        transfer.create = &create;
        if (!request->detach)
                telling_begin(call, request->name, pack_running);
        fleet_import_tenant(method_fleet(call), &transfer, request->detach ? on_ended : on_begun,
                ending_new(call, op, request->name));
        forget_key(request->from, data);
}

void method_export_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ExportTenantRequest *request;
        struct fleet_transfer_request transfer = {};
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__export_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, "", data);
        operation_audit(op, "export tenant \"%.63s\" to %.200s", request->name, first_url(request->to));
        if (!fill(op, request->to, &transfer))
                return;
        transfer.name = request->name;
        transfer.prefix = bytes_of_pb(request->prefix);
        transfer.has_new_prefix = request->has_new_prefix;
        transfer.new_prefix = bytes_of_pb(request->new_prefix);
        transfer.finish = request->finish;
        transfer.overwrite = request->overwrite;
        if (!request->detach)
                telling_begin(call, request->name, pack_running);
        fleet_export_tenant(method_fleet(call), &transfer, request->detach ? on_ended : on_begun,
                ending_new(call, op, request->name));
        forget_key(request->to, data);
}

void method_finish_transfer(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__FinishTransferRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__finish_transfer_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, "", data);
        operation_audit(op, "finish the transfer of tenant \"%.63s\"", request->name);
        telling_begin(call, request->name, pack_running);
        fleet_finish_transfer(method_fleet(call), request->name, on_ended, ending_new(call, op, request->name));
}

void method_abort_transfer(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__AbortTransferRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__abort_transfer_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, "", data);
        operation_audit(op, "abort the transfer of tenant \"%.63s\"", request->name);
        fleet_abort_transfer(method_fleet(call), request->name, on_ended, ending_new(call, op, request->name));
}

void method_list_transfers(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ListTransfersResponse response = STOKEHOLD__CONTROL__V1__LIST_TRANSFERS_RESPONSE__INIT;
        Stokehold__Control__V1__ListTransfersRequest *request;
        struct answer_list list = {.arena = grpc_call_arena(call)};

        request = method_enter(call, data, &stokehold__control__v1__list_transfers_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        if (!request->name[0])
                fleet_each_transfer(method_fleet(call), on_view, &list);
        else if (!fleet_find_transfer(method_fleet(call), request->name, on_view, &list)) {
                grpc_call_finish(call, GRPC_NOT_FOUND, "no import or export of this tenant is known to this daemon");
                return;
        }
        response.transfers = (Transfer **)list.items;
        response.n_transfers = list.n_items;
        grpc_call_reply(call, protobuf_pack(&response.base));
}
