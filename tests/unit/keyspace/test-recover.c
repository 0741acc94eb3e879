/*
 * A log that is not the one that was known: noticed when the keyspace is opened, and taken as it is where an operator says so. Whoever is served an
 * older state without a word loses what was acknowledged, and his revisions name two states.
 */

#include "engine.h"

#include "memory.h"

static struct engine engine;

static int begin(void **state) {
        const char *const settings[] = {"instance", "recover", NULL};

        (void)state;
        memset(&engine, 0, sizeof(engine));
        engine_open(&engine, &stoke_driver, settings, 1 << 20);
        return 0;
}

static int end(void **state) {
        (void)state;
        engine_close(&engine);
        memory_reset("recover");
        return 0;
}

static struct keyspace_status status_of(struct keyspace *ks) {
        struct keyspace_status status;

        keyspace_get_status(ks, &status);
        return status;
}

/* Five puts by daemon 1; what it knows in the end. */
static struct keyspace_known make_history(void) {
        struct keyspace *ks = engine_keyspace(&engine, 1);
        struct keyspace_status status;

        for (int i = 0; i < 5; i++)
                assert_int_equal(engine_put(&engine, ks, i % 2 ? "odd" : "even", "x").result, KEYSPACE_OK);
        status = status_of(ks);
        engine_keyspace_close(&engine, ks);
        return (struct keyspace_known){status.end, status.revision};
}

static void expect_open(const char *what, enum keyspace_condition want) {
        struct keyspace *ks = engine_keyspace(&engine, 1);
        struct answer a = engine_get(&engine, ks, "even");

        if (status_of(ks).condition != want)
                fail_msg("%s: condition %d, %s", what, status_of(ks).condition, status_of(ks).reason);
        assert_int_equal(a.result, want == KEYSPACE_SERVING ? KEYSPACE_OK : KEYSPACE_LOST);
        if (want == KEYSPACE_HISTORY_LOST)
                assert_non_null(strstr(status_of(ks).reason, "revision"));
        engine_keyspace_close(&engine, ks);
}

static void test_known(void **state) {
        struct keyspace_known known = make_history();
        struct keyspace *ks;

        (void)state;
        engine.known = known;
        expect_open("the log that was known", KEYSPACE_SERVING);

        engine.known.end.seq += 1;
        expect_open("a log that ends before what was known", KEYSPACE_HISTORY_LOST);
        engine.known = known;
        engine.known.end.origin.batch ^= 1;
        expect_open("another record at the known end", KEYSPACE_HISTORY_LOST);
        engine.known = known;
        engine.known.revision += 1;
        expect_open("a revision below one that was served", KEYSPACE_HISTORY_LOST);
        engine.known = known;
        engine.known.end.seq -= 1;
        expect_open("another record below the end", KEYSPACE_HISTORY_LOST);
        engine.known = (struct keyspace_known){};

        /* The known end's own record is deleted by compactions. */
        ks = engine_keyspace(&engine, 2);
        assert_int_equal(engine_put(&engine, ks, "even", "y").result, KEYSPACE_OK);
        for (int i = 0; i < 3; i++)
                assert_int_equal(
                        engine_compact(&engine, ks, engine_put(&engine, ks, "odd", "z").revision), KEYSPACE_OK);
        engine_run(&engine, 300, NULL);
        engine_keyspace_close(&engine, ks);
        engine.known = known;
        expect_open("a known end that was compacted away", KEYSPACE_SERVING);
}

static void test_recovery(void **state) {
        struct keyspace_known known = make_history();
        struct recorder *recorder = new0(struct recorder);
        struct keyspace *ks;
        int64_t revision;
        struct answer a;

        (void)state;
        engine.known = known;
        engine.known.end.seq += 100; /* what a restored backup lacks */
        engine.known.revision += 90;
        engine.recovery[3] = 7;
        engine.recover_above = engine.known.revision + 1000;
        ks = engine_keyspace(&engine, 1);
        a = engine_get(&engine, ks, "even");
        assert_int_equal(a.result, KEYSPACE_OK);
        assert_int_equal(a.n_kvs, 1);
        revision = a.revision;
        assert_true(revision > engine.recover_above + 100000);
        assert_int_equal(engine_list(&engine, ks, "e", revision, 0).n_kvs, 1);
        assert_int_equal(engine_list(&engine, ks, "e", revision - 1, 0).result, KEYSPACE_COMPACTED);
        assert_int_equal(engine_list(&engine, ks, "e", known.revision, 0).result, KEYSPACE_COMPACTED);
        engine_watch(&engine, ks, recorder, "e", known.revision, false);
        engine_run(&engine, 5000, &recorder->cancelled);
        assert_true(recorder->cancelled);
        assert_int_equal(recorder->result, KEYSPACE_COMPACTED);
        assert_int_equal(recorder->compact_revision, revision);
        watcher_free(recorder->watcher);
        a = engine_put(&engine, ks, "even", "after");
        assert_int_equal(a.revision, revision + 1);
        engine_keyspace_close(&engine, ks);

        /* Whoever tries again finds it done; the next recovery goes on from there. */
        ks = engine_keyspace(&engine, 2);
        assert_int_equal(engine_get(&engine, ks, "even").revision, revision + 1);
        engine_keyspace_close(&engine, ks);
        engine.recovery[3] = 8;
        ks = engine_keyspace(&engine, 2);
        assert_true(engine_get(&engine, ks, "even").revision > revision + 100000);
        engine_keyspace_close(&engine, ks);

        /* And to those that know of none it is a log like any other. */
        memset(engine.recovery, 0, sizeof(engine.recovery));
        engine.known = (struct keyspace_known){};
        ks = engine_keyspace(&engine, 3);
        a = engine_get(&engine, ks, "even");
        assert_string_equal(a.kvs[0].value, "after");
        assert_int_equal(a.kvs[0].mod, revision + 1);
        engine_keyspace_close(&engine, ks);
        free(recorder);
}

/* Daemons that recover at once: one does it, the others find it done. */
static void test_recovery_by_two(void **state) {
        struct keyspace *a, *b;
        int64_t ra, rb;

        (void)state;
        (void)make_history();
        engine.recovery[0] = 1;
        a = engine_keyspace(&engine, 1);
        b = engine_keyspace(&engine, 2);
        engine_run(&engine, 1, NULL);
        ra = engine_get(&engine, a, "even").revision;
        rb = engine_get(&engine, b, "even").revision;
        assert_int_equal(ra, rb);
        assert_int_equal(engine_put(&engine, a, "even", "1").revision, ra + 1);
        assert_int_equal(engine_get(&engine, b, "even").revision, ra + 1);
        engine_keyspace_close(&engine, a);
        engine_keyspace_close(&engine, b);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_known, begin, end),
                cmocka_unit_test_setup_teardown(test_recovery, begin, end),
                cmocka_unit_test_setup_teardown(test_recovery_by_two, begin, end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
