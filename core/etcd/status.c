/*
 * The table of statuses. No state, any thread; etcd_fail*() on the call's.
 */

#include "etcd/status.h"

#include "etcd/service.h"

#define UNAVAILABLE "etcdserver: unhealthy cluster"

const char etcd_unavailable[] = UNAVAILABLE;

static const struct {
        enum grpc_code code;
        const char *text;
} table[ETCD_N_STATUS] = {
        [ETCD_OK] = {GRPC_OK, ""},
        [ETCD_EMPTY_KEY] = {GRPC_INVALID_ARGUMENT, "etcdserver: key is not provided"},
        [ETCD_KEY_NOT_FOUND] = {GRPC_INVALID_ARGUMENT, "etcdserver: key not found"},
        [ETCD_VALUE_PROVIDED] = {GRPC_INVALID_ARGUMENT, "etcdserver: value is provided"},
        [ETCD_LEASE_PROVIDED] = {GRPC_INVALID_ARGUMENT, "etcdserver: lease is provided"},
        [ETCD_TOO_MANY_OPS] = {GRPC_INVALID_ARGUMENT, "etcdserver: too many operations in txn request"},
        [ETCD_DUPLICATE_KEY] = {GRPC_INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"},
        [ETCD_INVALID_SORT_OPTION] = {GRPC_INVALID_ARGUMENT, "etcdserver: invalid sort option"},
        [ETCD_REQUEST_TOO_LARGE] = {GRPC_INVALID_ARGUMENT, "etcdserver: request is too large"},
        [ETCD_TOO_MANY_REQUESTS] = {GRPC_RESOURCE_EXHAUSTED, "etcdserver: too many requests"},
        /* As grpc-go says it, without the decoder's own words. */
        [ETCD_MALFORMED] = {GRPC_INTERNAL,
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"},
        [ETCD_STREAM_SORT] = {GRPC_UNIMPLEMENTED, "RangeStream does not support custom sort orders"},
        [ETCD_STREAM_FILTER] = {GRPC_UNIMPLEMENTED, "RangeStream does not support revision filters"},
        [ETCD_COMPACTED] = {GRPC_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"},
        [ETCD_FUTURE_REVISION] = {GRPC_OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"},
        [ETCD_NO_SPACE] = {GRPC_RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"},
        [ETCD_LEASE_NOT_FOUND] = {GRPC_NOT_FOUND, "etcdserver: requested lease not found"},
        [ETCD_LEASE_EXISTS] = {GRPC_FAILED_PRECONDITION, "etcdserver: lease already exists"},
        [ETCD_LEASE_TTL_TOO_LARGE] = {GRPC_OUT_OF_RANGE, "etcdserver: too large lease TTL"},
        [ETCD_TIMEOUT] = {GRPC_UNAVAILABLE, "etcdserver: request timed out"},
        [ETCD_DEADLINE_EXCEEDED] = {GRPC_DEADLINE_EXCEEDED, "context deadline exceeded"},
        [ETCD_UNHEALTHY] = {GRPC_UNAVAILABLE, UNAVAILABLE},
        [ETCD_STOPPED] = {GRPC_UNAVAILABLE, "etcdserver: server stopped"},
        [ETCD_CORRUPT] = {GRPC_DATA_LOSS, "etcdserver: corrupt cluster"},
        [ETCD_NO_MEMORY] = {GRPC_RESOURCE_EXHAUSTED, "etcdserver: out of memory"}, /* etcd itself would have died */
        [ETCD_BAD_LEADER_TRANSFEREE] = {GRPC_FAILED_PRECONDITION, "etcdserver: bad leader transferee"},
        [ETCD_DOWNGRADE_VERSION_FORMAT] = {GRPC_INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"},
        [ETCD_DOWNGRADE_TARGET] = {GRPC_INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"},
        [ETCD_UNKNOWN_METHOD] = {GRPC_UNKNOWN, "etcdserver: unknown method"},
        [ETCD_MEMBER_NOT_FOUND] = {GRPC_NOT_FOUND, "etcdserver: member not found"},
        [ETCD_MEMBER_NOT_LEARNER] = {GRPC_FAILED_PRECONDITION, "etcdserver: can only promote a learner member"},
        [ETCD_MEMBER_BAD_URLS] = {GRPC_INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"},
        /* etcd's client library has another code for it, but this is what the server sends. */
        [ETCD_MEMBERS_NOT_STARTED] = {GRPC_UNKNOWN,
                "etcdserver: re-configuration failed due to not enough started members"},
        [ETCD_TOO_MANY_LEARNERS] = {GRPC_FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"},
        [ETCD_AUTH_NOT_ENABLED] = {GRPC_FAILED_PRECONDITION, "etcdserver: authentication is not enabled"},
        [ETCD_ROOT_USER_NOT_EXIST] = {GRPC_FAILED_PRECONDITION, "etcdserver: root user does not exist"},
        [ETCD_USER_EMPTY] = {GRPC_INVALID_ARGUMENT, "etcdserver: user name is empty"},
        [ETCD_USER_NOT_FOUND] = {GRPC_FAILED_PRECONDITION, "etcdserver: user name not found"},
        [ETCD_ROLE_EMPTY] = {GRPC_INVALID_ARGUMENT, "etcdserver: role name is empty"},
        [ETCD_ROLE_NOT_FOUND] = {GRPC_FAILED_PRECONDITION, "etcdserver: role name not found"},
        [ETCD_PERMISSION_NOT_GIVEN] = {GRPC_INVALID_ARGUMENT, "etcdserver: permission not given"},
        [ETCD_INVALID_AUTH_MGMT] = {GRPC_INVALID_ARGUMENT, "etcdserver: invalid auth management"},
        [ETCD_WATCH_DUPLICATE_ID] = {GRPC_INVALID_ARGUMENT, "mvcc: duplicate watch ID provided on the WatchStream"},
        [ETCD_WATCH_EMPTY_RANGE] = {GRPC_INVALID_ARGUMENT, "mvcc: watcher range is empty"},
};

enum grpc_code etcd_status_code(enum etcd_status status) {
        check(status < ETCD_N_STATUS);
        return table[status].code;
}

const char *etcd_status_text(enum etcd_status status) {
        check(status < ETCD_N_STATUS);
        return table[status].text;
}

enum etcd_status etcd_status_of(enum keyspace_result result) {
        switch (result) {
        case KEYSPACE_OK:
                return ETCD_OK;
        case KEYSPACE_COMPACTED:
                return ETCD_COMPACTED;
        case KEYSPACE_FUTURE_REVISION:
                return ETCD_FUTURE_REVISION;
        case KEYSPACE_LEASE_NOT_FOUND:
                return ETCD_LEASE_NOT_FOUND;
        case KEYSPACE_LEASE_EXISTS:
                return ETCD_LEASE_EXISTS;
        case KEYSPACE_LEASE_TTL_TOO_LARGE:
                return ETCD_LEASE_TTL_TOO_LARGE;
        case KEYSPACE_KEY_NOT_FOUND:
                return ETCD_KEY_NOT_FOUND;
        case KEYSPACE_NO_SPACE:
                return ETCD_NO_SPACE;
        case KEYSPACE_TOO_LARGE:
                return ETCD_REQUEST_TOO_LARGE;
        case KEYSPACE_TIMEOUT:
                return ETCD_TIMEOUT;
        case KEYSPACE_UNAVAILABLE:
                return ETCD_UNHEALTHY;
        case KEYSPACE_STOPPED:
                return ETCD_STOPPED;
        case KEYSPACE_LOST:
                return ETCD_CORRUPT;
        case KEYSPACE_TOO_MANY_REQUESTS:
                return ETCD_TOO_MANY_REQUESTS;
        }
        return ETCD_UNHEALTHY;
}

void etcd_fail(struct grpc_call *call, enum etcd_status status) {
        grpc_call_finish(call, etcd_status_code(status), etcd_status_text(status));
}

void etcd_fail_result(struct grpc_call *call, enum keyspace_result result) {
        enum etcd_status status = etcd_status_of(result);

        /* The server's own timer may be due in this very iteration; whoever comes first, the client hears the same. */
        if (result == KEYSPACE_TIMEOUT && grpc_call_deadline(call) <= clock_now_ns())
                status = ETCD_DEADLINE_EXCEEDED;
        etcd_fail(call, status);
}
