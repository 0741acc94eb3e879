#pragma once

/*
 * The one table of what goes wrong: each outcome of the keyspace and each check of a request, with the gRPC code and the text
 * that etcd sends for it, to the letter, since clients match on the text.
 * Source: etcd's api/v3rpc/rpctypes/error.go and server/etcdserver/api/v3rpc/util.go.
 */

#include "keyspace/keyspace.h"
#include "rpc/grpc.h"

enum etcd_status {
        ETCD_OK = 0,
        /* Requests. */
        ETCD_EMPTY_KEY,
        ETCD_KEY_NOT_FOUND,
        ETCD_VALUE_PROVIDED,
        ETCD_LEASE_PROVIDED,
        ETCD_TOO_MANY_OPS,
        ETCD_DUPLICATE_KEY,
        ETCD_INVALID_SORT_OPTION,
        ETCD_REQUEST_TOO_LARGE,
        ETCD_TOO_MANY_REQUESTS,
        ETCD_MALFORMED,
        ETCD_STREAM_SORT,
        ETCD_STREAM_FILTER,
        /* Keys and revisions. */
        ETCD_COMPACTED,
        ETCD_FUTURE_REVISION,
        ETCD_NO_SPACE,
        /* Leases. */
        ETCD_LEASE_NOT_FOUND,
        ETCD_LEASE_EXISTS,
        ETCD_LEASE_TTL_TOO_LARGE,
        /* The state of the service. */
        ETCD_TIMEOUT,
        ETCD_DEADLINE_EXCEEDED,
        ETCD_UNHEALTHY,
        ETCD_STOPPED,
        ETCD_CORRUPT,
        ETCD_NO_MEMORY,
        /* Maintenance. */
        ETCD_BAD_LEADER_TRANSFEREE,
        ETCD_DOWNGRADE_VERSION_FORMAT,
        ETCD_DOWNGRADE_TARGET,
        ETCD_UNKNOWN_METHOD,
        /* Cluster. */
        ETCD_MEMBER_NOT_FOUND,
        ETCD_MEMBER_NOT_LEARNER,
        ETCD_MEMBER_BAD_URLS,
        ETCD_MEMBERS_NOT_STARTED,
        ETCD_TOO_MANY_LEARNERS,
        /* Auth. */
        ETCD_AUTH_NOT_ENABLED,
        ETCD_ROOT_USER_NOT_EXIST,
        ETCD_USER_EMPTY,
        ETCD_USER_NOT_FOUND,
        ETCD_ROLE_EMPTY,
        ETCD_ROLE_NOT_FOUND,
        ETCD_PERMISSION_NOT_GIVEN,
        ETCD_INVALID_AUTH_MGMT,
        /* Watches: not gRPC errors, but reasons in a response that says created and canceled. */
        ETCD_WATCH_DUPLICATE_ID,
        ETCD_WATCH_EMPTY_RANGE,
        ETCD_N_STATUS,
};

enum grpc_code etcd_status_code(enum etcd_status status);
const char *etcd_status_text(enum etcd_status status);

/* Total: every outcome has its status. */
enum etcd_status etcd_status_of(enum keyspace_result result);

/* Ends the call with the status's code and text. */
void etcd_fail(struct grpc_call *call, enum etcd_status status);
/* The same for an outcome of the keyspace; a timeout past the client's own deadline is told as that. */
void etcd_fail_result(struct grpc_call *call, enum keyspace_result result);
