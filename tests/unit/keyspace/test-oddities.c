/*
 * What etcd does where one would not expect it, each found by running the same programs against both (tests/system/go/differential). If one
 * of these fails, a client that was built on etcd is told something else here; the first would let any client end the daemon.
 */
#include "engine.h"
#include "memory.h"

static struct key_range all_from(const char *key) {
        return (struct key_range){bytes_of_string(key), bytes_of("", 1)};
}

static int setup(void **state) {
        static struct engine e;
        static const char *const settings[] = {"instance", "oddities", NULL, NULL};

        e = (struct engine){};
        memory_reset("oddities");
        engine_open(&e, &stoke_driver, settings, 1 << 20);
        *state = &e;
        return 0;
}

static int teardown(void **state) {
        engine_close(*state);
        memory_reset("oddities");
        return 0;
}

static struct answer run_ops(struct engine *e, struct keyspace *ks, const struct txn_op *ops, size_t n) {
        struct txn txn = {.success = ops, .n_success = n};

        return engine_txn(e, ks, &txn);
}

/* A value that is to be kept was deleted by the same transaction. (etcd dies of it, and of its log when it is started again.) */
static void nothing_is_left_to_keep(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct txn_op ops[] = {
                {.kind = OP_DELETE, .delete = {.range = all_from("b")}},
                {.kind = OP_PUT, .put = {.key = bytes_of_string("b"), .ignore_value = true}},
        };
        struct txn nested = {.success = ops, .n_success = 1};
        struct txn_op in_nested[] = {{.kind = OP_TXN, .txn = &nested}, ops[1]};
        struct txn_op behind[] = {ops[1], ops[0]};
        struct answer a;

        engine_put(e, ks, "a", "kept");
        engine_put(e, ks, "b", "gone");
        a = run_ops(e, ks, ops, 2);
        assert_int_equal(a.result, KEYSPACE_KEY_NOT_FOUND);
        assert_int_equal(run_ops(e, ks, in_nested, 2).result, KEYSPACE_KEY_NOT_FOUND);
        in_nested[1].put.ignore_value = false;
        in_nested[1].put.ignore_lease = true;
        assert_int_equal(run_ops(e, ks, in_nested, 2).result, KEYSPACE_KEY_NOT_FOUND);
        a = engine_get(e, ks, "b");
        assert_string_equal(a.kvs[0].value, "gone");
        assert_int_equal(a.revision, 3);

        ops[1].put.key = bytes_of_string("a"); /* is not deleted */
        assert_int_equal(run_ops(e, ks, ops, 2).result, KEYSPACE_OK);
        assert_string_equal(engine_get(e, ks, "a").kvs[0].value, "kept");
        assert_int_equal(engine_get(e, ks, "b").count, 0);
        engine_put(e, ks, "b", "again");
        assert_int_equal(run_ops(e, ks, behind, 2).result, KEYSPACE_OK);
        assert_int_equal(engine_get(e, ks, "b").count, 0);
        engine_keyspace_close(e, ks);
}

/* A revision below zero is the newest outside of a transaction. */
static void revisions_below_zero(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct txn_op op = {.kind = OP_RANGE, .range = {.range = {.key = bytes_of_string("a")}, .revision = -1}};

        engine_put(e, ks, "a", "1");
        assert_int_equal(run_ops(e, ks, &op, 1).count, 1);
        op.range.revision = -2;
        assert_int_equal(run_ops(e, ks, &op, 1).result, KEYSPACE_COMPACTED);
        engine_compact(e, ks, 1);
        op.range.revision = -1;
        assert_int_equal(run_ops(e, ks, &op, 1).result, KEYSPACE_COMPACTED);
        op.range.revision = 0;
        assert_int_equal(run_ops(e, ks, &op, 1).count, 1);
        engine_keyspace_close(e, ks);
}

static void the_lease_is_looked_for_first(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct txn_op op = {.kind = OP_PUT, .put = {.key = bytes_of_string("a"), .lease = 5, .ignore_value = true}};

        assert_int_equal(run_ops(e, ks, &op, 1).result, KEYSPACE_LEASE_NOT_FOUND);
        assert_int_equal(engine_grant(e, ks, 5, 100), KEYSPACE_OK);
        assert_int_equal(run_ops(e, ks, &op, 1).result, KEYSPACE_KEY_NOT_FOUND);
        engine_keyspace_close(e, ks);
}

/* A target without an order: one key more than the limit is taken, in the order of keys, and these are sorted and cut. */
static void a_target_without_an_order(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct range_request r = {.range = all_from("a"), .limit = 2, .sort_target = SORT_MOD};
        struct txn_op op = {.kind = OP_RANGE, .range = r};
        struct answer a;

        engine_put(e, ks, "d", "1");
        engine_put(e, ks, "c", "2");
        engine_put(e, ks, "b", "3");
        engine_put(e, ks, "a", "4");
        for (int i = 0; i < 2; i++) {
                a = i ? run_ops(e, ks, &op, 1) : engine_range(e, ks, &r);
                assert_int_equal(a.n_kvs, 2);
                assert_string_equal(a.kvs[0].key, "c");
                assert_string_equal(a.kvs[1].key, "b");
                assert_true(a.more);
                assert_int_equal(a.count, 4);
        }
        r.sort_order = SORT_ASCEND;
        assert_string_equal(engine_range(e, ks, &r).kvs[0].key, "d");
        engine_keyspace_close(e, ks);
}

static void keys_alone_have_no_leases(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);

        assert_int_equal(engine_grant(e, ks, 5, 100), KEYSPACE_OK);
        engine_put_lease(e, ks, "a", "1", 5);
        for (int i = 0; i < 8; i++) {
                struct range_request r = {.range = all_from("a"), .keys_only = i & 1};
                struct txn_op op;

                r.sort_target = i & 2 ? SORT_VALUE : SORT_MOD;
                if (i & 4)
                        r.range.end = (struct bytes){};
                op = (struct txn_op){.kind = OP_RANGE, .range = r};
                assert_int_equal(engine_range(e, ks, &r).kvs[0].lease, (i & 3) == 1 ? 0 : 5);
                assert_int_equal(run_ops(e, ks, &op, 1).kvs[0].lease, (i & 3) == 1 ? 0 : 5);
        }
        engine_keyspace_close(e, ks);
}

/* The value before is the one before the transaction, whatever that did to the key in between. */
static void a_key_that_comes_and_goes_at_once(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct recorder *live = new0(struct recorder), *late = new0(struct recorder);
        struct txn_op ops[] = {
                {.kind = OP_PUT, .put = {.key = bytes_of_string("/k"), .value = bytes_of_string("between")}},
                {.kind = OP_DELETE, .delete = {.range = all_from("/k")}},
        };
        struct txn_op other_way[] = {ops[1], ops[0], ops[1]};
        static const char expected[] = "put /k=between\ndelete /k\n"
                                       "put /k=before\n"
                                       "put /k=between (prev before)\ndelete /k (prev before)\n"
                                       "put /k=before\n"
                                       "delete /k (prev before)\nput /k=between\ndelete /k (prev before)\n"
                                       "put /k=between\ndelete /k\n";

        engine_watch(e, ks, live, "/", 0, true);
        run_ops(e, ks, ops, 2);
        engine_put(e, ks, "/k", "before");
        run_ops(e, ks, ops, 2);
        engine_put(e, ks, "/k", "before");
        run_ops(e, ks, other_way, 3);
        assert_int_equal(run_ops(e, ks, other_way, 3).revision, 7);
        engine_watch(e, ks, late, "/", 2, true);
        engine_run(e, 5000, &late->synced);
        engine_run(e, 20, NULL);
        assert_string_equal(live->text, expected);
        assert_string_equal(late->text, expected);
        engine_keyspace_close(e, ks);
        free(live);
        free(late);
}

/* A key that one transaction deletes and makes anew outlives a compaction at its revision. (etcd loses the value, and dies when it is read.) */
static void made_anew_and_compacted(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct txn_op ops[] = {
                {.kind = OP_DELETE, .delete = {.range = all_from("k")}},
                {.kind = OP_PUT, .put = {.key = bytes_of_string("k"), .value = bytes_of_string("anew")}},
        };
        struct txn_op back[] = {ops[1], ops[0]};
        struct recorder *r = new0(struct recorder);
        struct answer a;

        engine_put(e, ks, "k", "old");
        a = run_ops(e, ks, ops, 2);
        assert_int_equal(a.revision, 3);
        assert_int_equal(engine_compact(e, ks, 3), KEYSPACE_OK);
        for (int i = 0; i < 2; i++) {
                a = engine_get(e, ks, "k");
                assert_int_equal(a.n_kvs, 1);
                assert_string_equal(a.kvs[0].value, "anew");
                assert_int_equal(a.kvs[0].create, 3);
                assert_int_equal(a.kvs[0].version, 1);
                engine_put(e, ks, "z", "1");
                assert_int_equal(engine_compact(e, ks, 4 + i), KEYSPACE_OK);
                engine_run(e, 100, NULL);
                engine_keyspace_close(e, ks);
                ks = engine_keyspace(e, 2);
        }
        assert_int_equal(run_ops(e, ks, back, 2).revision, 6);
        assert_int_equal(engine_compact(e, ks, 6), KEYSPACE_OK);
        assert_int_equal(engine_get(e, ks, "k").n_kvs, 0);
        engine_put(e, ks, "k", "last");
        assert_int_equal(engine_compact(e, ks, 7), KEYSPACE_OK);
        engine_run(e, 100, NULL);
        engine_keyspace_close(e, ks);
        ks = engine_keyspace(e, 1);
        assert_string_equal(engine_get(e, ks, "k").kvs[0].value, "last");
        engine_watch(e, ks, r, "k", 7, false);
        engine_run(e, 5000, &r->synced);
        assert_string_equal(r->text, "put k=last\n");
        engine_keyspace_close(e, ks);
        free(r);
}

int main(void) {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(nothing_is_left_to_keep),
                TEST(revisions_below_zero),
                TEST(the_lease_is_looked_for_first),
                TEST(a_target_without_an_order),
                TEST(keys_alone_have_no_leases),
                TEST(a_key_that_comes_and_goes_at_once),
                TEST(made_anew_and_compacted),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
