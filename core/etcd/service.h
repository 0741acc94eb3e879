#pragma once

/*
 * The etcd v3 API as services of a gRPC server whose userdata is the tenant's struct keyspace.
 */

#include "rpc/grpc.h"

/* What etcd says when it cannot serve. */
extern const char etcd_unavailable[];

/* Adds KV, Watch, Lease, Maintenance, Cluster and Auth, with their descriptions for reflection. 0, -ENOMEM. */
int etcd_services_add(struct grpc_server *server);
