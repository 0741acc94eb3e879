#pragma once

/*
 * The end of an operation that the fleet answers later: what its callback needs for that. Main loop only.
 */

#include <stokehold/control.pb-c.h>

#include "control/operation.h"
#include "fleet/fleet.h"

struct ending {
        struct operation *op; /* until it has ended */
        struct fleet *fleet;  /* borrowed */
        char *name;           /* owned; "": none */
};

/* For an operation that the call has begun. name: what it is about, copied; NULL: nothing of that kind. */
struct ending *ending_new(struct grpc_call *call, struct operation *op, const char *name);
void ending_free(struct ending *e);

/* Each of these ends the operation, and frees the ending. */
void ending_finish(struct ending *e, const void *message);
/* Packed already, and taken over. */
void ending_finish_packed(struct ending *e, struct blob *packed);
void ending_fail(struct ending *e, enum grpc_code code, const char *format, ...) printf_like(3, 4);
void ending_finish_unless_refused(struct ending *e, int result, const char *reason, const void *message);
/* With the tenant as it is by now, put into the message's field. */
void ending_finish_with_tenant(struct ending *e, const void *message, Stokehold__Control__V1__Tenant **field);
/* Only if the fleet refused (result < 0); false: it did not, and nothing has ended. */
bool ending_refused(struct ending *e, int result, const char *reason);
