#include "control/files.h"

/*
 * CloneTenant: how far it is, twice a second, and at the end the new tenant. A call that goes away undoes the clone, unless it is committed.
 *
 * The clone and the call end apart: whichever is last frees what they share.
 */

#include <stokehold/control.pb-c.h>
#include <string.h>

#include "control/answer.h"
#include "control/audit.h"
#include "control/method.h"
#include "fleet/clone.h"
#include "rpc/protobuf.h"

#define TELL_NS (500 * NSEC_PER_MSEC)

struct cloning {
        struct fleet *fleet;    /* borrowed */
        struct grpc_call *call; /* borrowed; NULL: it has ended */
        struct clone *clone;    /* borrowed; NULL: done */
        bool collecting;
        struct audit_change *change; /* owned, until it has ended */
        char *source, *name;         /* owned */
        struct loop_timer timer;
};

static void cloning_unref(struct cloning *c) {
        if (c->call || c->clone || c->collecting)
                return;
        loop_timer_clear(&c->timer);
        audit_change_free(c->change);
        free(c->source);
        free(c->name);
        free(c);
}

static void on_time(struct loop_timer *timer) {
        Stokehold__Control__V1__CloneTenantResponse response = STOKEHOLD__CONTROL__V1__CLONE_TENANT_RESPONSE__INIT;
        struct cloning *c = container_of(timer, struct cloning, timer);
        struct clone_figures figures;
        struct blob *packed;

        if (!c->call || !c->clone)
                return;
        clone_get(c->clone, &figures);
        response.bytes = figures.bytes;
        response.bytes_all = figures.bytes_all;
        packed = protobuf_pack(&response.base);
        if (packed)
                grpc_call_send(c->call, &packed, 1);
        loop_timer_set(grpc_call_loop(c->call), timer, clock_now_ns() + TELL_NS);
}

static void on_collected(void *userdata) {
        Stokehold__Control__V1__CloneTenantResponse response = STOKEHOLD__CONTROL__V1__CLONE_TENANT_RESPONSE__INIT;
        struct cloning *c = userdata;
        struct blob *packed;

        c->collecting = false;
        if (c->call) {
                response.tenant = answer_tenant(c->fleet, c->name, grpc_call_arena(c->call));
                packed = protobuf_pack(&response.base);
                if (packed)
                        grpc_call_reply(c->call, packed);
                else
                        grpc_call_finish(c->call, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
        }
        cloning_unref(c);
}

static void on_done(void *userdata, int result, const char *reason) {
        struct cloning *c = userdata;

        audit_end(steal(c->change), result < 0 ? method_code(result) : GRPC_OK, reason);
        c->clone = NULL;
        loop_timer_clear(&c->timer);
        if (result == 0) {
                c->collecting = true;
                fleet_collect(c->fleet, on_collected, c);
                return;
        }
        if (c->call)
                grpc_call_finish(c->call, method_code(result), reason);
        cloning_unref(c);
}

/* ---- the call: its memory has the pointer */

static struct cloning **of(struct grpc_call *call) {
        return grpc_call_user(call);
}

void files_clone_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__CloneTenantRequest *request =
                method_enter(call, data, &stokehold__control__v1__clone_tenant_request__descriptor, PEER_CHANGE);
        struct clone_config config = {.done = on_done};
        struct cloning *c;
        bool retain;

        if (!request)
                return;
        if (!method_policy(request->deletion_policy, &retain)) {
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, METHOD_POLICIES);
                return;
        }
        c = new0(struct cloning);
        c->fleet = method_fleet(call);
        c->call = call;
        c->source = strdup(request->name);
        c->name = strdup(request->clone);
        check(c->source && c->name);
        c->change = audit_begin(call, request->clone, request->datastore[0] ? request->datastore : NULL,
                "clone tenant \"%.63s\" as \"%.63s\"", request->name, request->clone);
        *of(call) = c;
        config.source = request->name;
        config.create = (struct fleet_create){
                .name = request->clone,
                .datastore = request->datastore,
                .quota_bytes = request->quota_bytes,
                .retain = retain,
        };
        config.userdata = c;
        c->clone = fleet_clone_tenant(c->fleet, &config);
        c->timer.on_time = on_time;
        loop_timer_set(grpc_call_loop(call), &c->timer, clock_now_ns() + TELL_NS);
}

void files_clone_cancel(struct grpc_call *call) {
        struct cloning *c = *of(call);

        if (!c)
                return;
        *of(call) = NULL;
        c->call = NULL;
        if (c->clone)
                clone_cancel(c->clone);
        else
                cloning_unref(c);
}

void files_clone_free(struct grpc_call *call) {
        struct cloning *c = *of(call);

        if (!c)
                return;
        c->call = NULL;
        cloning_unref(c);
}
