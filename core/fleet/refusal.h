#pragma once

/*
 * Clients whose tenant cannot be served here and now: a server that answers every call UNAVAILABLE, /health with 503, and lets its
 * connections go after a few seconds, so that they come again. A connection that was only closed would make clients wait ever longer before they
 * dial anew. One loop's thread.
 */

#include "base/loop.h"
#include "rpc/transport.h"

struct refusal;

/* unavailable: borrowed for ever. */
struct refusal *refusal_new(struct loop *loop, const char *unavailable);
/* Takes over the transport. */
void refusal_take(struct refusal *r, struct transport *transport);
/* Closes all. Takes NULL. */
void refusal_free(struct refusal *r);
