/*
 * Clients decide by the text of an error what they do next: a list begins anew, a lease is asked for again. If a text or a
 * code is not etcd's to the letter, they do the wrong thing.
 */

#include "etcd/status.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void expect(enum etcd_status status, enum grpc_code code, const char *text) {
        assert_int_equal(etcd_status_code(status), code);
        assert_string_equal(etcd_status_text(status), text);
}

static void outcomes_have_etcds_words(void **state) {
        static const struct {
                enum keyspace_result result;
                enum grpc_code code;
                const char *text;
        } rows[] = {
                {KEYSPACE_OK, GRPC_OK, ""},
                {KEYSPACE_COMPACTED, GRPC_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"},
                {KEYSPACE_FUTURE_REVISION, GRPC_OUT_OF_RANGE,
                        "etcdserver: mvcc: required revision is a future revision"},
                {KEYSPACE_LEASE_NOT_FOUND, GRPC_NOT_FOUND, "etcdserver: requested lease not found"},
                {KEYSPACE_LEASE_EXISTS, GRPC_FAILED_PRECONDITION, "etcdserver: lease already exists"},
                {KEYSPACE_LEASE_TTL_TOO_LARGE, GRPC_OUT_OF_RANGE, "etcdserver: too large lease TTL"},
                {KEYSPACE_KEY_NOT_FOUND, GRPC_INVALID_ARGUMENT, "etcdserver: key not found"},
                {KEYSPACE_NO_SPACE, GRPC_RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"},
                {KEYSPACE_TOO_LARGE, GRPC_INVALID_ARGUMENT, "etcdserver: request is too large"},
                {KEYSPACE_TIMEOUT, GRPC_UNAVAILABLE, "etcdserver: request timed out"},
                {KEYSPACE_UNAVAILABLE, GRPC_UNAVAILABLE, "etcdserver: unhealthy cluster"},
                {KEYSPACE_STOPPED, GRPC_UNAVAILABLE, "etcdserver: server stopped"},
                {KEYSPACE_LOST, GRPC_DATA_LOSS, "etcdserver: corrupt cluster"},
                {KEYSPACE_TOO_MANY_REQUESTS, GRPC_RESOURCE_EXHAUSTED, "etcdserver: too many requests"},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(rows); i++)
                expect(etcd_status_of(rows[i].result), rows[i].code, rows[i].text);
}

static void requests_have_etcds_words(void **state) {
        (void)state;
        expect(ETCD_EMPTY_KEY, GRPC_INVALID_ARGUMENT, "etcdserver: key is not provided");
        expect(ETCD_VALUE_PROVIDED, GRPC_INVALID_ARGUMENT, "etcdserver: value is provided");
        expect(ETCD_LEASE_PROVIDED, GRPC_INVALID_ARGUMENT, "etcdserver: lease is provided");
        expect(ETCD_TOO_MANY_OPS, GRPC_INVALID_ARGUMENT, "etcdserver: too many operations in txn request");
        expect(ETCD_DUPLICATE_KEY, GRPC_INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request");
        expect(ETCD_INVALID_SORT_OPTION, GRPC_INVALID_ARGUMENT, "etcdserver: invalid sort option");
        expect(ETCD_AUTH_NOT_ENABLED, GRPC_FAILED_PRECONDITION, "etcdserver: authentication is not enabled");
        expect(ETCD_BAD_LEADER_TRANSFEREE, GRPC_FAILED_PRECONDITION, "etcdserver: bad leader transferee");
        expect(ETCD_DOWNGRADE_TARGET, GRPC_INVALID_ARGUMENT, "etcdserver: invalid downgrade target version");
        expect(ETCD_WATCH_DUPLICATE_ID, GRPC_INVALID_ARGUMENT, "mvcc: duplicate watch ID provided on the WatchStream");
}

static void every_status_has_a_text(void **state) {
        (void)state;
        for (int i = ETCD_OK + 1; i < ETCD_N_STATUS; i++) {
                assert_non_null(etcd_status_text((enum etcd_status)i));
                assert_int_not_equal(etcd_status_code((enum etcd_status)i), GRPC_OK);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(outcomes_have_etcds_words),
                cmocka_unit_test(requests_have_etcds_words),
                cmocka_unit_test(every_status_has_a_text),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
