#pragma once

/*
 * /health and /version, as probes and etcdctl expect them of an etcd, for an HTTP/1 responder whose userdata is the tenant's
 * struct keyspace, on its loop.
 */

#include "keyspace/keyspace.h"
#include "rpc/http1.h"

extern const struct http1_route etcd_http_routes[];
extern const size_t etcd_n_http_routes;

/* What /health says, on its keyspace's loop: for a struct tenant_services. done may come at once, and takes over what is in *response. */
void etcd_health(struct keyspace *ks, const char *query, void (*done)(void *userdata, struct http1_response *response),
        void *userdata);
