#include "control/method.h"

/*
 * Datastores and their drivers: looked at, checked, claimed for this registry. Main loop only.
 */

#include <errno.h>
#include <stokehold/control.pb-c.h>

#include "control/answer.h"
#include "control/ending.h"
#include "rpc/protobuf.h"

void method_list_drivers(struct grpc_call *call, struct bytes data) {
        if (!method_enter(call, data, &stokehold__control__v1__list_drivers_request__descriptor, PEER_VIEW))
                return;
        grpc_call_reply(call, protobuf_pack(&answer_drivers(method_fleet(call), grpc_call_arena(call))->base));
}

void method_list_datastores(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ListDatastoresRequest *request;
        Stokehold__Control__V1__ListDatastoresResponse *response;
        cleanup(freep) char *text = NULL;

        request = method_enter(call, data, &stokehold__control__v1__list_datastores_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        response = answer_datastores(method_fleet(call), request->name, grpc_call_arena(call));
        if (response) {
                grpc_call_reply(call, protobuf_pack(&response->base));
                return;
        }
        if (asprintf(&text, "no such datastore: %.253s", request->name) < 0)
                check(false);
        grpc_call_finish(call, GRPC_NOT_FOUND, text);
}

static void on_checked(
        void *userdata, int result, const char *reason, const struct fleet_check_item *items, size_t n_items) {
        static const char *const severities[] = {
                [STOKE_INFO] = "ok", [STOKE_WARNING] = "warning", [STOKE_PROBLEM] = "problem"};
        Stokehold__Control__V1__CheckDatastoreResponse response =
                STOKEHOLD__CONTROL__V1__CHECK_DATASTORE_RESPONSE__INIT;
        struct ending *e = userdata;

        if (result == -ENOENT) {
                ending_fail(e, GRPC_NOT_FOUND, "%s", reason);
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
        ending_finish(e, &response);
        for (size_t i = 0; i < n_items; i++)
                free(response.items[i]);
        free(response.items);
}

void method_check_datastore(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__CheckDatastoreRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__check_datastore_request__descriptor, PEER_VIEW);
        if (!request)
                return;
        op = method_begin(call, "", data);
        if (op)
                fleet_check_datastore(
                        method_fleet(call), request->name, on_checked, ending_new(call, op, request->name));
}

static void on_claimed(void *userdata, int result, const char *reason) {
        Stokehold__Control__V1__ClaimDatastoreResponse response =
                STOKEHOLD__CONTROL__V1__CLAIM_DATASTORE_RESPONSE__INIT;

        ending_finish_unless_refused(userdata, result, reason, &response);
}

void method_claim_datastore(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__ClaimDatastoreRequest *request;
        struct operation *op;

        request = method_enter(call, data, &stokehold__control__v1__claim_datastore_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, NULL, request->name, "claim datastore \"%.253s\"", request->name);
        fleet_claim_datastore(method_fleet(call), request->name, on_claimed, ending_new(call, op, NULL));
}
