#pragma once

/*
 * /health and /version, as probes and etcdctl expect them of an etcd, for an HTTP/1 responder whose userdata is the tenant's
 * struct keyspace, on its loop.
 */

#include "rpc/http1.h"

extern const struct http1_route etcd_http_routes[];
extern const size_t etcd_n_http_routes;
