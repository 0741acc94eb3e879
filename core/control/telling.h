#pragma once

/*
 * A method that waits for something long: its call is told twice a second how far that has come, until the operation has its answer, which is
 * the last message, whichever call began it. Main loop only.
 */

#include "control/operation.h"
#include "fleet/fleet.h"

/* A call's user memory. */
struct telling {
        struct operation_request request; /* first: what operation.h finds there */
        struct loop_timer timer;
        struct grpc_call *call; /* borrowed */
        const char *name;       /* in the call's arena */
        /* How far the thing of this name is; NULL: nothing is to be told now. */
        struct blob *(*pack)(struct fleet *fleet, const char *name);
};

/* Begins to tell, if the call still waits. */
void telling_begin(
        struct grpc_call *call, const char *name, struct blob *(*pack)(struct fleet *fleet, const char *name));
/* The method's on_free. */
void telling_free(struct grpc_call *call);
