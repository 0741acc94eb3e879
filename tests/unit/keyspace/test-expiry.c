/*
 * Leases that end with more keys than one append can hold, or more of them than fit together. If this fails, such a lease
 * is tried for ever, and none behind it ever ends.
 */
#include "engine.h"
#include "memory.h"

#define BATCH_BYTES 4096

static struct stoke_driver small;
static unsigned n_granted, n_refused;
static bool enough;

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"instance", "expiry", NULL};

        small = stoke_driver;
        small.limits.batch_bytes = BATCH_BYTES;
        memory_set_faults("expiry", NULL);
        engine_open(e, &small, settings, 1 << 20);
        *state = e;
        return 0;
}

static int teardown(void **state) {
        struct engine *e = *state;
        bool left = e->n_open;

        engine_close(e);
        if (left)
                return -1;
        memory_reset("expiry");
        free(e);
        return 0;
}

/* Keys of about 100 bytes each. */
static int64_t fill(struct engine *e, struct keyspace *ks, int64_t lease, unsigned n) {
        int64_t revision = 0;
        char key[128];

        for (unsigned i = 0; i < n; i++) {
                snprintf(key, sizeof(key), "/%lld/%094u", (long long)lease, i);
                revision = engine_put_lease(e, ks, key, "v", lease).revision;
        }
        return revision;
}

static int64_t wait_for_end(struct engine *e, struct keyspace *ks) {
        struct keyspace_status status;

        for (unsigned i = 0; i < 200; i++) {
                keyspace_get_status(ks, &status);
                if (!status.n_leases)
                        break;
                engine_run(e, 100, NULL);
        }
        assert_int_equal(status.n_leases, 0);
        assert_int_equal(engine_list(e, ks, "/", 0, 0).count, 0);
        return engine_get(e, ks, "/").revision;
}

static void one_that_no_append_can_hold(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        int64_t before;

        assert_int_equal(engine_grant(e, ks, 1, 2), KEYSPACE_OK);
        before = fill(e, ks, 1, 100); /* 9,800 bytes */
        assert_int_equal(wait_for_end(e, ks), before + 3);
        engine_keyspace_close(e, ks);
}

static void several_that_do_not_fit_together(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        int64_t before = 0;

        for (int64_t id = 1; id <= 4; id++)
                assert_int_equal(engine_grant(e, ks, id, 3), KEYSPACE_OK);
        for (int64_t id = 1; id <= 4; id++)
                before = fill(e, ks, id, 30);
        assert_int_equal(wait_for_end(e, ks), before + 4); /* each in one */
        engine_keyspace_close(e, ks);
}

static void on_granted(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        n_granted += result == KEYSPACE_OK;
        n_refused += result == KEYSPACE_TOO_MANY_REQUESTS;
        enough = n_granted + n_refused == 6;
}

/* Also when they come all at once. */
static void no_more_than_allowed(void **state) {
        struct engine *e = *state;
        struct lease_call calls[6] = {};
        struct keyspace *ks;

        e->limits.leases = 4;
        ks = engine_keyspace(e, 1);
        for (size_t i = 0; i < n_elements(calls); i++) {
                calls[i].id = (int64_t)i + 1;
                calls[i].ttl = 100;
                calls[i].call.done = on_granted;
                calls[i].call.deadline_ns = UINT64_MAX;
                keyspace_lease_grant(ks, &calls[i]);
        }
        engine_run(e, 20000, &enough);
        assert_int_equal(n_granted, 4);
        assert_int_equal(n_refused, 2);
        assert_int_equal(engine_grant(e, ks, 9, 100), KEYSPACE_TOO_MANY_REQUESTS);
        assert_int_equal(engine_revoke(e, ks, 1), KEYSPACE_OK);
        assert_int_equal(engine_grant(e, ks, 9, 100), KEYSPACE_OK);
        engine_keyspace_close(e, ks);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(one_that_no_append_can_hold, setup, teardown),
                cmocka_unit_test_setup_teardown(several_that_do_not_fit_together, setup, teardown),
                cmocka_unit_test_setup_teardown(no_more_than_allowed, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
