#pragma once

/*
 * The services of this room, one a file; service.c adds them to a server. The methods' functions run on the loop of the
 * server, which is the keyspace's too: grpc_call_server_userdata() is the struct keyspace.
 */

#include "keyspace/keyspace.h"
#include "rpc/grpc.h"

/* etcd's version that this API is at: what clients look at to decide what they may use. */
#define ETCD_VERSION "3.7.3"
#define ETCD_CLUSTER_SHORT "3.7"
#define ETCD_CLUSTER_VERSION "3.7.0"

extern const struct grpc_service etcd_kv_service, etcd_watch_service, etcd_lease_service, etcd_maintenance_service,
        etcd_cluster_service, etcd_auth_service;
