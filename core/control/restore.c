#include "control/files.h"

/*
 * RestoreTenant: the first message says what is to be done, the others bring the file. While the fleet has enough to do the client is paused; it is
 * told now and then how much has come, and at the end what has become of it.
 *
 * The restore and the call end apart: whichever is last frees what they share.
 */

#include <errno.h>
#include <stokehold/control.pb-c.h>
#include <string.h>

#include "control/answer.h"
#include "control/audit.h"
#include "control/method.h"
#include "rpc/protobuf.h"
#include "fleet/restore.h"

#define TELL_BYTES ((uint64_t)512 * 1024)

struct receiving {
        struct fleet *fleet;         /* borrowed */
        struct grpc_call *call;      /* borrowed; NULL: it has ended */
        struct restore *restore;     /* borrowed; NULL: not begun, or done */
        struct audit_change *change; /* owned, until it has ended */
        char *name;                  /* owned */
        bool over, collecting;
        uint64_t told;
};

static void receiving_unref(struct receiving *r) {
        if (r->call || r->restore || r->collecting)
                return;
        audit_change_free(r->change);
        free(r->name);
        free(r);
}

static void tell(struct receiving *r, bool all) {
        Stokehold__Control__V1__RestoreTenantResponse response = STOKEHOLD__CONTROL__V1__RESTORE_TENANT_RESPONSE__INIT;
        uint64_t taken = restore_taken(r->restore);
        struct blob *packed;

        if (!r->call || taken < r->told + (all ? 1 : TELL_BYTES))
                return;
        r->told = response.taken = taken;
        packed = protobuf_pack(&response.base);
        if (packed)
                grpc_call_send(r->call, &packed, 1);
}

static void on_room(void *userdata) {
        struct receiving *r = userdata;

        if (!r->call || !r->restore)
                return;
        tell(r, true);
        grpc_call_resume(r->call);
}

static void on_collected(void *userdata) {
        Stokehold__Control__V1__RestoreTenantResponse response = STOKEHOLD__CONTROL__V1__RESTORE_TENANT_RESPONSE__INIT;
        struct receiving *r = userdata;
        struct blob *packed;

        r->collecting = false;
        if (r->call) {
                response.taken = r->told;
                response.tenant = answer_tenant(r->fleet, r->name, grpc_call_arena(r->call));
                packed = protobuf_pack(&response.base);
                if (packed)
                        grpc_call_reply(r->call, packed);
                else
                        grpc_call_finish(r->call, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
        }
        receiving_unref(r);
}

static void on_done(void *userdata, int result, const char *reason) {
        struct receiving *r = userdata;

        audit_end(steal(r->change), result < 0 ? method_code(result) : GRPC_OK, reason);
        r->restore = NULL;
        if (result == 0) {
                r->collecting = true;
                fleet_collect(r->fleet, on_collected, r);
                return;
        }
        if (r->call)
                grpc_call_finish(r->call, method_code(result), reason);
        receiving_unref(r);
}

/* ---- the call: its memory has the pointer */

static struct receiving **of(struct grpc_call *call) {
        return grpc_call_user(call);
}

static const char *fault_of(const Stokehold__Control__V1__RestoreTenantRequest__Begin *begin) {
        bool retain;

        if (!method_policy(begin->deletion_policy, &retain))
                return METHOD_POLICIES;
        if (begin->above < 0 || begin->above > RESTORE_ABOVE_MAX)
                return "above must be a revision from 1 to 2^62, or 0";
        return NULL;
}

static void begin(struct grpc_call *call, const Stokehold__Control__V1__RestoreTenantRequest__Begin *begin) {
        struct receiving *r = new0(struct receiving);
        struct restore_config config = {
                .create = {.name = begin->name, .datastore = begin->datastore, .quota_bytes = begin->quota_bytes},
                .over = begin->over,
                .above = begin->above,
                .on_room = on_room,
                .done = on_done,
                .userdata = r,
        };

        (void)method_policy(begin->deletion_policy, &config.create.retain);
        r->fleet = method_fleet(call);
        r->call = call;
        r->over = begin->over;
        r->name = strdup(begin->name);
        check(r->name);
        r->change = audit_begin(call, begin->name, begin->datastore[0] ? begin->datastore : NULL,
                "restore tenant \"%.63s\"%s", begin->name, r->over ? " over what it had" : "");
        *of(call) = r;
        r->restore = fleet_restore_tenant(method_fleet(call), &config);
        if (restore_is_full(r->restore))
                grpc_call_pause(call);
}

/* The call has nothing more to do with it. */
static void leave(struct grpc_call *call) {
        struct receiving *r = *of(call);

        if (!r)
                return;
        *of(call) = NULL;
        r->call = NULL;
        if (r->restore)
                restore_cancel(r->restore);
        else
                receiving_unref(r);
}

void files_restore_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__RestoreTenantRequest *request;
        struct receiving *r = *of(call);
        struct protobuf_field field;
        struct bytes rest = data;

        if (!r) {
                request = method_enter(
                        call, data, &stokehold__control__v1__restore_tenant_request__descriptor, PEER_CHANGE);
                if (request && request->begin && fault_of(request->begin))
                        grpc_call_finish(call, GRPC_INVALID_ARGUMENT, fault_of(request->begin));
                else if (request && request->begin)
                        begin(call, request->begin);
                else if (request)
                        grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "the first message must say what is to be done");
                return;
        }
        if (!r->call || !r->restore)
                return;
        /* Of a message with data nothing else is looked at, and nothing copied. */
        if (protobuf_read_field(&rest, &field) != 1 || field.number != 2 || field.type != 2) {
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "all messages but the first must bring data");
                leave(call);
                return;
        }
        restore_feed(r->restore, field.bytes);
        if (restore_is_full(r->restore))
                grpc_call_pause(call);
        else
                tell(r, false);
}

void files_restore_end(struct grpc_call *call) {
        struct receiving *r = *of(call);

        if (!r)
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "nothing was asked for");
        else if (r->restore)
                restore_end(r->restore);
}

void files_restore_cancel(struct grpc_call *call) {
        leave(call);
}

void files_restore_free(struct grpc_call *call) {
        struct receiving *r = *of(call);

        if (!r)
                return;
        r->call = NULL;
        receiving_unref(r);
}
