/*
 * HashKV: one number for what a reader can see, the same in every daemon, before and after a restart, whatever has been
 * deleted from the datastore. If this fails, an operator who compares two daemons finds a corruption that is none, or
 * misses one.
 */
#include "engine.h"

#include <time.h>

#include "memory.h"

static unsigned seed;

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"instance", "hash", NULL};

        memory_set_faults("hash", NULL);
        engine_open(e, &stoke_driver, settings, 1 << 20);
        *state = e;
        return 0;
}

static int teardown(void **state) {
        struct engine *e = *state;
        bool left = e->n_open;

        engine_close(e);
        if (left)
                return -1;
        memory_reset("hash");
        free(e);
        return 0;
}

static bool done;
static struct hash_call last;
static enum keyspace_result result_of;

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        result_of = result;
        done = true;
}

static uint32_t hash(struct engine *e, struct keyspace *ks, int64_t revision) {
        last = (struct hash_call){.revision_wanted = revision};
        last.call.done = on_done;
        last.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        done = false;
        keyspace_hash(ks, &last);
        assert_false(done);
        engine_run(e, 30000, &done);
        assert_true(done);
        return last.hash;
}

static void boundaries(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        uint32_t at[7];

        hash(e, ks, 0);
        assert_int_equal(result_of, KEYSPACE_OK);
        assert_int_equal(last.hashed, 1);
        assert_int_equal(last.compacted, 0);
        for (int i = 0; i < 4; i++) /* 2 to 5 */
                engine_put(e, ks, i & 1 ? "/a" : "/b", "same");
        engine_delete(e, ks, "/a", NULL); /* 6 */
        for (int64_t r = 1; r <= 6; r++) {
                at[r] = hash(e, ks, r);
                assert_int_equal(last.hashed, r);
                for (int64_t before = 1; before < r; before++)
                        assert_int_not_equal(at[before], at[r]);
        }
        assert_int_equal(hash(e, ks, 0), at[6]);
        hash(e, ks, 7);
        assert_int_equal(result_of, KEYSPACE_FUTURE_REVISION);
        assert_int_equal(engine_compact(e, ks, 4), KEYSPACE_OK);
        hash(e, ks, 3);
        assert_int_equal(result_of, KEYSPACE_COMPACTED);
        hash(e, ks, 4);
        assert_int_equal(result_of, KEYSPACE_OK);
        assert_int_equal(last.compacted, 4);
        hash(e, ks, -1);
        assert_int_equal(result_of, KEYSPACE_OK);
        assert_int_equal(last.hashed, -1);
        engine_keyspace_close(e, ks);
}

/* Many slices while others write; a cancelled one, and one whose keyspace is closed. */
static void while_others_write(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct hash_call calls[3] = {};
        char key[32];
        struct txn_op ops[100];
        char keys[100][32];
        int64_t revision = 0;
        uint32_t expected;

        for (unsigned i = 0; i < 300; i++) {
                struct txn txn = {.success = ops, .n_success = n_elements(ops)};

                for (unsigned j = 0; j < n_elements(ops); j++) {
                        snprintf(keys[j], sizeof(keys[j]), "/%03u/%02u", i, j);
                        ops[j] = (struct txn_op){.kind = OP_PUT,
                                .put = {.key = bytes_of_string(keys[j]), .value = bytes_of_string("v")}};
                }
                revision = engine_txn(e, ks, &txn).revision;
        }
        expected = hash(e, ks, revision);
        for (unsigned i = 0; i < n_elements(calls); i++) {
                calls[i].revision_wanted = revision;
                calls[i].call.done = on_done;
                calls[i].call.deadline_ns = UINT64_MAX;
        }
        done = false;
        keyspace_hash(ks, &calls[0]);
        keyspace_hash(ks, &calls[1]);
        engine_run(e, 1, NULL);
        keyspace_cancel(&calls[1].call);
        for (unsigned i = 0; i < 20; i++) {
                snprintf(key, sizeof(key), "/%03u/%02u", i * 13 % 300, i);
                engine_put(e, ks, key, "other");
        }
        engine_run(e, 20000, &done);
        assert_true(done);
        assert_int_equal(result_of, KEYSPACE_OK);
        assert_int_equal(calls[0].hash, expected);

        keyspace_hash(ks, &calls[2]);
        engine_keyspace_close(e, ks);
        assert_int_equal(result_of, KEYSPACE_STOPPED);
}

/* Two daemons, of which one is left behind by compactions and restarts again and again. */
static void same_everywhere(void **state) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "hash", NULL};
        struct keyspace *a = engine_keyspace(e, 1), *b;
        int64_t revision = 1, compacted = 0;
        unsigned n_compared = 0;
        char key[16], value[16];

        print_message("# seed %u\n", seed);
        engine_open(&other, &stoke_driver, settings, 1 << 20);
        b = engine_keyspace(&other, 2);
        for (unsigned i = 0; i < 400; i++) {
                unsigned what = (unsigned)rand() % 100;

                snprintf(key, sizeof(key), "/%u", (unsigned)rand() % 12);
                snprintf(value, sizeof(value), "%u", i);
                if (what < 60)
                        revision = engine_put(e, a, key, value).revision;
                else if (what < 75)
                        revision = engine_delete(e, a, key, NULL).revision;
                else if (what < 80) {
                        struct txn_op ops[] = {
                                {.kind = OP_PUT, .put = {.key = bytes_of_string(key), .value = bytes_of_string(value)}},
                                {.kind = OP_DELETE, .delete = {.range = {.key = bytes_of_string("/1")}}},
                                {.kind = OP_PUT,
                                        .put = {.key = bytes_of_string("/x"), .value = bytes_of_string(value)}},
                        };
                        struct txn txn = {.success = ops, .n_success = n_elements(ops)};

                        revision = engine_txn(e, a, &txn).revision;
                } else if (what < 84 && revision > compacted) {
                        compacted += 1 + rand() % (revision - compacted);
                        assert_int_equal(engine_compact(e, a, compacted), KEYSPACE_OK);
                } else if (what < 86) {
                        engine_keyspace_close(&other, b);
                        b = engine_keyspace(&other, 2);
                } else {
                        int64_t at = compacted + rand() % (revision - compacted + 1);
                        uint32_t first = hash(e, a, at);

                        assert_int_equal(result_of, KEYSPACE_OK);
                        assert_int_equal(last.compacted, compacted);
                        assert_int_equal(hash(&other, b, at), first);
                        assert_int_equal(result_of, KEYSPACE_OK);
                        assert_int_equal(last.compacted, compacted);
                        n_compared++;
                }
        }
        assert_true(n_compared > 10);
        engine_keyspace_close(&other, b);
        engine_close(&other);
        engine_keyspace_close(e, a);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(boundaries, setup, teardown),
                cmocka_unit_test_setup_teardown(while_others_write, setup, teardown),
                cmocka_unit_test_setup_teardown(same_everywhere, setup, teardown),
        };

        seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
        srand(seed);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
