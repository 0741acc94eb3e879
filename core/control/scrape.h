#pragma once

/*
 * The metrics listener: GET /metrics, /healthz and /tenants/NAME/health over HTTP/1.1, on loopback or a Unix socket. Main loop only. The figures of tenants and shards are
 * those that the fleet gathers every few seconds, so that a scrape waits for nobody.
 */

#include "base/error.h"
#include "base/loop.h"
#include "fleet/fleet.h"

struct scrape;

/* address: as for listener_new(). fleet: borrowed. */
int scrape_new(struct loop *loop, struct fleet *fleet, const char *address, struct scrape **ret, struct error *reterr);
/* As bound. */
const char *scrape_address(const struct scrape *scrape);
void scrape_free(struct scrape *scrape);
DEFINE_FREEP(scrape)
