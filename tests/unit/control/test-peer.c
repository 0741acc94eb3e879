#include "control/peer.h"

/*
 * What a user would lose: that nobody but those named can look at or change what runs.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static struct grpc_peer peer(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n_groups) {
        return (struct grpc_peer){.local = true, .uid = uid, .gid = gid, .groups = groups, .n_groups = n_groups};
}

static void test_root_mode(void **state) {
        const struct peer_rules rules = {.own = true, .own_uid = 1000, .has_admin = true, .admin = 5};
        const uint32_t groups[] = {5};
        struct grpc_peer p;

        (void)state;
        p = peer(1000, 1000, NULL, 0);
        assert_int_equal(peer_right(&rules, &p), PEER_CHANGE);
        p = peer(0, 0, NULL, 0);
        assert_int_equal(peer_right(&rules, &p), PEER_CHANGE);
        p = peer(1001, 1000, groups, 1); /* groups count for nothing here */
        assert_int_equal(peer_right(&rules, &p), PEER_NOTHING);
}

static void test_groups(void **state) {
        const struct peer_rules rules = {.own_uid = 990, .has_admin = true, .admin = 5, .has_view = true, .view = 6};
        const uint32_t admin[] = {100, 5}, view[] = {6}, both[] = {6, 5}, none[] = {100, 101};
        struct grpc_peer p;

        (void)state;
        p = peer(0, 0, NULL, 0);
        assert_int_equal(peer_right(&rules, &p), PEER_CHANGE);
        p = peer(1000, 1000, admin, 2);
        assert_int_equal(peer_right(&rules, &p), PEER_CHANGE);
        p = peer(1000, 5, NULL, 0);
        assert_int_equal(peer_right(&rules, &p), PEER_CHANGE);
        p = peer(1000, 1000, view, 1);
        assert_int_equal(peer_right(&rules, &p), PEER_VIEW);
        p = peer(1000, 1000, both, 2);
        assert_int_equal(peer_right(&rules, &p), PEER_CHANGE);
        p = peer(1000, 1000, none, 2);
        assert_int_equal(peer_right(&rules, &p), PEER_NOTHING);
        p = peer(990, 990, NULL, 0); /* the daemon's own user is nobody here */
        assert_int_equal(peer_right(&rules, &p), PEER_NOTHING);
}

/* gid 0 is what an absent group's number would be. */
static void test_absent_groups(void **state) {
        const struct peer_rules rules = {.own_uid = 990};
        const uint32_t zero[] = {0};
        struct grpc_peer p;

        (void)state;
        p = peer(1000, 0, zero, 1);
        assert_int_equal(peer_right(&rules, &p), PEER_NOTHING);
}

static void test_not_local(void **state) {
        const struct peer_rules rules = {.own = true, .own_uid = 0};
        const struct grpc_peer p = {.local = false, .uid = 0};

        (void)state;
        assert_int_equal(peer_right(&rules, &p), PEER_NOTHING);
}

static void test_loading(void **state) {
        struct peer_rules rules;

        (void)state;
        peer_rules_load(&rules, true);
        assert_true(rules.own && rules.own_uid == geteuid() && !rules.has_admin && !rules.has_view);
        peer_rules_load(&rules, false);
        assert_false(rules.own);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_root_mode),
                cmocka_unit_test(test_groups),
                cmocka_unit_test(test_absent_groups),
                cmocka_unit_test(test_not_local),
                cmocka_unit_test(test_loading),
        };

        return cmocka_run_group_tests_name("control-peer", tests, NULL, NULL);
}
