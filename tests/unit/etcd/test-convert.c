/*
 * A request that etcd refuses must be refused with the same error, and one that it takes must mean the same, or a client written for
 * etcd loses data or never gets on. Requests are packed by protobuf-c, so the hand-written decoding is held against it.
 */

#include "etcd/convert.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stokehold/rpc.pb-c.h>

#include "rpc/protobuf.h"

#define BIN(s) ((ProtobufCBinaryData){sizeof(s) - 1, (uint8_t *)(s)})
#define MAX_OPS 140

static struct arena arena;

static int begin(void **state) {
        (void)state;
        arena_init(&arena, 0);
        return 0;
}
static int end(void **state) {
        (void)state;
        arena_done(&arena);
        return 0;
}

static struct bytes packed(const ProtobufCMessage *m) {
        size_t n = protobuf_c_message_get_packed_size(m);
        uint8_t *data = arena_alloc(&arena, n);

        protobuf_c_message_pack(m, data);
        return bytes_of(data, n);
}

/* ---- ranges */

static void range_means_what_protobuf_says(void **state) {
        Etcdserverpb__RangeRequest pb = ETCDSERVERPB__RANGE_REQUEST__INIT;
        struct range_request r;

        (void)state;
        pb.key = BIN("a\0b");
        pb.range_end = BIN("z");
        pb.limit = 500;
        pb.revision = INT64_MAX;
        pb.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
        pb.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE;
        pb.serializable = pb.keys_only = pb.count_only = true;
        pb.min_mod_revision = 1;
        pb.max_mod_revision = 200;
        pb.min_create_revision = 30000;
        pb.max_create_revision = 4000000;
        assert_int_equal(convert_range(packed(&pb.base), &r), ETCD_OK);
        assert_true(bytes_equal(r.range.key, bytes_of("a\0b", 3)));
        assert_true(bytes_equal(r.range.end, bytes_of("z", 1)));
        assert_int_equal(r.limit, 500);
        assert_int_equal(r.revision, INT64_MAX);
        assert_int_equal(r.sort_order, SORT_DESCEND);
        assert_int_equal(r.sort_target, SORT_VALUE);
        assert_true(r.serializable && r.keys_only && r.count_only);
        assert_int_equal(r.min_mod, 1);
        assert_int_equal(r.max_mod, 200);
        assert_int_equal(r.min_create, 30000);
        assert_int_equal(r.max_create, 4000000);
}

static void range_is_refused_as_by_etcd(void **state) {
        Etcdserverpb__RangeRequest pb = ETCDSERVERPB__RANGE_REQUEST__INIT;
        struct range_request r;

        (void)state;
        assert_int_equal(convert_range((struct bytes){}, &r), ETCD_EMPTY_KEY);
        pb.key = BIN("a");
        pb.sort_order = (Etcdserverpb__RangeRequest__SortOrder)3;
        assert_int_equal(convert_range(packed(&pb.base), &r), ETCD_INVALID_SORT_OPTION);
        pb.sort_order = (Etcdserverpb__RangeRequest__SortOrder)-1;
        assert_int_equal(convert_range(packed(&pb.base), &r), ETCD_INVALID_SORT_OPTION);
        pb.sort_order = 0;
        pb.sort_target = (Etcdserverpb__RangeRequest__SortTarget)5;
        assert_int_equal(convert_range(packed(&pb.base), &r), ETCD_INVALID_SORT_OPTION);
}

static void odd_numbers_of_a_range_count_as_none(void **state) {
        Etcdserverpb__RangeRequest pb = ETCDSERVERPB__RANGE_REQUEST__INIT;
        struct range_request r;

        (void)state;
        pb.key = BIN("a");
        pb.limit = -1;
        pb.revision = -7;
        assert_int_equal(convert_range(packed(&pb.base), &r), ETCD_OK);
        assert_int_equal(r.limit, 0);
        assert_int_equal(r.revision, 0);
}

static void expect_range(const char *message, size_t size, enum etcd_status status) {
        /* A copy of exactly this size: a byte read beyond it is seen by the sanitizer. */
        uint8_t *copy = malloc(size ? size : 1);
        struct range_request r;

        assert_non_null(copy);
        memcpy(copy, message, size);
        assert_int_equal(convert_range(bytes_of(copy, size), &r), status);
        free(copy);
}

static void broken_ranges_are_malformed_and_unknown_fields_skipped(void **state) {
        (void)state;
#define EXPECT(s, status) expect_range(s, sizeof(s) - 1, status)
        EXPECT("\x0a", ETCD_MALFORMED);
        EXPECT("\x0a\x02x", ETCD_MALFORMED);
        EXPECT("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ETCD_MALFORMED);
        EXPECT("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ETCD_MALFORMED);
        EXPECT("\x18", ETCD_MALFORMED);
        EXPECT("\x0b", ETCD_MALFORMED);     /* a group */
        EXPECT("\x00\x00", ETCD_MALFORMED); /* field 0 */
        EXPECT("\x0a\x01k\x79"
               "1234567",
                ETCD_MALFORMED);
        EXPECT("\x0a\x01k\x7d"
               "123",
                ETCD_MALFORMED);
        EXPECT("\x0a\x01k\x79"
               "12345678",
                ETCD_OK); /* field 15 in 64 and 32 bits */
        EXPECT("\x0a\x01k\x7d"
               "1234",
                ETCD_OK);
        EXPECT("\x0a\x01k\x7a\x02zz", ETCD_OK);
        EXPECT("\x0a\x01k\x78\x05", ETCD_OK);
#undef EXPECT
}

/* ---- writes */

static void put_is_refused_as_by_etcd(void **state) {
        Etcdserverpb__PutRequest pb = ETCDSERVERPB__PUT_REQUEST__INIT;
        struct txn_op op;

        (void)state;
        assert_int_equal(convert_put(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_EMPTY_KEY);
        pb.key = BIN("k");
        pb.value = BIN("v");
        pb.ignore_value = true;
        assert_int_equal(convert_put(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_VALUE_PROVIDED);
        pb.ignore_value = false;
        pb.ignore_lease = true;
        pb.lease = 5;
        assert_int_equal(convert_put(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_LEASE_PROVIDED);
        pb.ignore_lease = false;
        pb.prev_kv = true;
        assert_int_equal(convert_put(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_OK);
        assert_int_equal(op.kind, OP_PUT);
        assert_true(bytes_equal(op.put.key, bytes_of_string("k")));
        assert_true(bytes_equal(op.put.value, bytes_of_string("v")));
        assert_int_equal(op.put.lease, 5);
        assert_true(op.put.prev_kv);
        assert_int_equal(convert_put(&arena, bytes_of("\x0a\x05k", 3), &keyspace_default_limits, &op), ETCD_MALFORMED);
}

static void a_write_over_the_maximum_is_too_large(void **state) {
        Etcdserverpb__PutRequest pb = ETCDSERVERPB__PUT_REQUEST__INIT;
        size_t n = keyspace_default_limits.request_bytes;
        struct txn_op op;

        (void)state;
        pb.key = BIN("k");
        pb.value.data = arena_alloc0(&arena, n);
        pb.value.len = n - 64;
        assert_int_equal(convert_put(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_OK);
        pb.value.len = n - 16;
        assert_int_equal(convert_put(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_REQUEST_TOO_LARGE);
}

static void delete_is_refused_as_by_etcd(void **state) {
        Etcdserverpb__DeleteRangeRequest pb = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
        struct txn_op op;

        (void)state;
        assert_int_equal(convert_delete(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_EMPTY_KEY);
        pb.key = BIN("k");
        pb.range_end = BIN("\0");
        pb.prev_kv = true;
        assert_int_equal(convert_delete(&arena, packed(&pb.base), &keyspace_default_limits, &op), ETCD_OK);
        assert_int_equal(op.kind, OP_DELETE);
        assert_int_equal(op.delete.range.end.size, 1);
        assert_true(op.delete.prev_kv);
}

/* ---- transactions, built by hand */

static Etcdserverpb__RequestOp *op_put(const char *key) {
        Etcdserverpb__RequestOp *op = arena_alloc(&arena, sizeof(*op));
        Etcdserverpb__PutRequest *put = arena_alloc(&arena, sizeof(*put));

        *op = (Etcdserverpb__RequestOp)ETCDSERVERPB__REQUEST_OP__INIT;
        *put = (Etcdserverpb__PutRequest)ETCDSERVERPB__PUT_REQUEST__INIT;
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        op->request_put = put;
        put->key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        return op;
}

static Etcdserverpb__RequestOp *op_delete(const char *key, const char *range_end, size_t size) {
        Etcdserverpb__RequestOp *op = arena_alloc(&arena, sizeof(*op));
        Etcdserverpb__DeleteRangeRequest *delete = arena_alloc(&arena, sizeof(*delete));

        *op = (Etcdserverpb__RequestOp)ETCDSERVERPB__REQUEST_OP__INIT;
        *delete = (Etcdserverpb__DeleteRangeRequest)ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        op->request_delete_range = delete;
        delete->key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        delete->range_end = (ProtobufCBinaryData){size, (uint8_t *)range_end};
        return op;
}

static Etcdserverpb__RequestOp *op_range(const char *key) {
        Etcdserverpb__RequestOp *op = arena_alloc(&arena, sizeof(*op));
        Etcdserverpb__RangeRequest *range = arena_alloc(&arena, sizeof(*range));

        *op = (Etcdserverpb__RequestOp)ETCDSERVERPB__REQUEST_OP__INIT;
        *range = (Etcdserverpb__RangeRequest)ETCDSERVERPB__RANGE_REQUEST__INIT;
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        op->request_range = range;
        range->key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        return op;
}

static Etcdserverpb__TxnRequest *txn_new(void) {
        Etcdserverpb__TxnRequest *txn = arena_alloc(&arena, sizeof(*txn));

        *txn = (Etcdserverpb__TxnRequest)ETCDSERVERPB__TXN_REQUEST__INIT;
        txn->success = arena_alloc0(&arena, MAX_OPS * sizeof(*txn->success));
        txn->failure = arena_alloc0(&arena, MAX_OPS * sizeof(*txn->failure));
        txn->compare = arena_alloc0(&arena, MAX_OPS * sizeof(*txn->compare));
        return txn;
}

static Etcdserverpb__RequestOp *op_txn(Etcdserverpb__TxnRequest *txn) {
        Etcdserverpb__RequestOp *op = arena_alloc(&arena, sizeof(*op));

        *op = (Etcdserverpb__RequestOp)ETCDSERVERPB__REQUEST_OP__INIT;
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
        op->request_txn = txn;
        return op;
}

static Etcdserverpb__Compare *compare_new(Etcdserverpb__TxnRequest *txn) {
        Etcdserverpb__Compare *c = arena_alloc(&arena, sizeof(*c));

        *c = (Etcdserverpb__Compare)ETCDSERVERPB__COMPARE__INIT;
        c->key = BIN("c");
        txn->compare[txn->n_compare++] = c;
        return c;
}

#define SUCCESS(txn, op) ((txn)->success[(txn)->n_success++] = (op))
#define FAILURE(txn, op) ((txn)->failure[(txn)->n_failure++] = (op))

static enum etcd_status convert(Etcdserverpb__TxnRequest *pb, struct txn *ret) {
        bool read_only;

        return convert_txn(&arena, packed(&pb->base), &keyspace_default_limits, ret, &read_only);
}

static void limits_are_settings(void **state) {
        struct keyspace_limits limits = keyspace_default_limits;
        Etcdserverpb__TxnRequest *pb = NULL;
        struct txn txn;
        bool read_only;

        (void)state;
        limits.txn_nesting = 3;
        limits.txn_operations = 5;
        for (unsigned level = 0; level <= 4; level++) {
                Etcdserverpb__TxnRequest *outer = txn_new();

                SUCCESS(outer, pb ? op_txn(pb) : op_put("k"));
                pb = outer;
                assert_int_equal(convert_txn(&arena, packed(&pb->base), &limits, &txn, &read_only),
                        level <= 3 ? ETCD_OK : ETCD_MALFORMED);
        }
        pb = txn_new();
        for (unsigned i = 0; i < 6; i++) {
                static const char *const keys[] = {"a", "b", "c", "d", "e", "f"};

                SUCCESS(pb, op_put(keys[i]));
                assert_int_equal(convert_txn(&arena, packed(&pb->base), &limits, &txn, &read_only),
                        i < 5 ? ETCD_OK : ETCD_TOO_MANY_OPS);
        }
        limits = keyspace_default_limits;
        limits.request_bytes = 64;
        pb = txn_new();
        SUCCESS(pb, op_put("a"));
        assert_int_equal(convert_txn(&arena, packed(&pb->base), &limits, &txn, &read_only), ETCD_OK);
        SUCCESS(pb, op_put("a key that is longer than sixty-four bytes, or nearly so, with what else there is"));
        assert_int_equal(convert_txn(&arena, packed(&pb->base), &limits, &txn, &read_only), ETCD_REQUEST_TOO_LARGE);
        /* The most that a setting may allow must get past the decoder. */
        pb = NULL;
        for (unsigned level = 0; level <= keyspace_default_limits.txn_nesting + 1; level++) {
                Etcdserverpb__TxnRequest *outer = txn_new();

                SUCCESS(outer, pb ? op_txn(pb) : op_put("k"));
                pb = outer;
                assert_int_equal(convert_txn(&arena, packed(&pb->base), &keyspace_default_limits, &txn, &read_only),
                        level <= keyspace_default_limits.txn_nesting ? ETCD_OK : ETCD_MALFORMED);
        }
}

static void an_update_of_kubernetes_is_understood(void **state) {
        Etcdserverpb__TxnRequest *pb = txn_new();
        Etcdserverpb__Compare *c = compare_new(pb);
        struct txn txn;

        (void)state;
        c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        c->mod_revision = 42;
        SUCCESS(pb, op_put("c"));
        FAILURE(pb, op_range("c"));
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        assert_int_equal(txn.n_compares, 1);
        assert_int_equal(txn.compares[0].target, COMPARE_MOD);
        assert_int_equal(txn.compares[0].result, COMPARE_EQUAL);
        assert_int_equal(txn.compares[0].number, 42);
        assert_int_equal(txn.n_success, 1);
        assert_int_equal(txn.success[0].kind, OP_PUT);
        assert_int_equal(txn.n_failure, 1);
        assert_int_equal(txn.failure[0].kind, OP_RANGE);
}

static void operations_are_counted_by_level(void **state) {
        Etcdserverpb__TxnRequest *pb = txn_new(), *nested = txn_new();
        static char keys[MAX_OPS][8];
        struct txn txn;

        (void)state;
        for (size_t i = 0; i < MAX_OPS; i++)
                snprintf(keys[i], sizeof(keys[i]), "k%zu", i);
        for (size_t i = 0; i < 128; i++)
                SUCCESS(pb, op_put(keys[i]));
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        SUCCESS(pb, op_put(keys[128]));
        assert_int_equal(convert(pb, &txn), ETCD_TOO_MANY_OPS);

        /* 100 above leave 28 below. */
        pb->n_success = 99;
        SUCCESS(pb, op_txn(nested));
        for (size_t i = 0; i < 28; i++)
                FAILURE(nested, op_put(keys[110 + i]));
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        FAILURE(nested, op_range("x"));
        assert_int_equal(convert(pb, &txn), ETCD_TOO_MANY_OPS);

        /* Compares count too. */
        pb = txn_new();
        for (size_t i = 0; i < 129; i++)
                compare_new(pb);
        assert_int_equal(convert(pb, &txn), ETCD_TOO_MANY_OPS);
}

static void operations_are_checked_at_each_depth(void **state) {
        Etcdserverpb__TxnRequest *pb = txn_new(), *nested = txn_new();
        Etcdserverpb__RequestOp *nothing = op_put("x");
        struct txn txn;

        (void)state;
        SUCCESS(pb, op_txn(nested));
        FAILURE(nested, op_range(""));
        assert_int_equal(convert(pb, &txn), ETCD_EMPTY_KEY);

        pb = txn_new();
        nothing->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST__NOT_SET;
        SUCCESS(pb, nothing);
        assert_int_equal(convert(pb, &txn), ETCD_KEY_NOT_FOUND);

        pb = txn_new();
        compare_new(pb)->key = BIN("");
        assert_int_equal(convert(pb, &txn), ETCD_EMPTY_KEY);
}

static void nesting_without_end_is_refused(void **state) {
        Etcdserverpb__TxnRequest *pb = txn_new();
        struct txn txn;

        (void)state;
        for (int i = 0; i < 20; i++) {
                Etcdserverpb__TxnRequest *outer = txn_new();

                SUCCESS(outer, op_txn(pb));
                pb = outer;
        }
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        for (int i = 0; i < 100; i++) {
                Etcdserverpb__TxnRequest *outer = txn_new();

                SUCCESS(outer, op_txn(pb));
                pb = outer;
        }
        assert_int_equal(convert(pb, &txn), ETCD_MALFORMED);
}

static void odd_compares_mean_what_etcd_makes_of_them(void **state) {
        Etcdserverpb__TxnRequest *pb = txn_new();
        Etcdserverpb__Compare *c;
        struct txn txn;

        (void)state;
        /* The number is for another target: zero. */
        c = compare_new(pb);
        c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
        c->version = 9;
        /* An unknown result always holds. */
        compare_new(pb)->result = (Etcdserverpb__Compare__CompareResult)9;
        /* Of a value too, but there must be one: a version above zero. */
        c = compare_new(pb);
        c->result = (Etcdserverpb__Compare__CompareResult)9;
        c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
        /* An unknown target is equal, and nothing else. */
        compare_new(pb)->target = (Etcdserverpb__Compare__CompareTarget)9;
        c = compare_new(pb);
        c->target = (Etcdserverpb__Compare__CompareTarget)9;
        c->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER;
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        assert_int_equal(txn.n_compares, 3);
        assert_int_equal(txn.compares[0].number, 0);
        for (int i = 1; i < 3; i++) {
                assert_int_equal(txn.compares[i].target, COMPARE_VERSION);
                assert_int_equal(txn.compares[i].result, i == 1 ? COMPARE_GREATER : COMPARE_LESS);
                assert_int_equal(txn.compares[i].number, 0);
        }
}

static void duplicate_keys_are_refused(void **state) {
        Etcdserverpb__TxnRequest *pb, *nested, *other;
        struct txn txn;

        (void)state;
        pb = txn_new();
        SUCCESS(pb, op_put("a"));
        SUCCESS(pb, op_put("b"));
        FAILURE(pb, op_put("a"));
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        SUCCESS(pb, op_put("a"));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        pb->n_success = 2;
        FAILURE(pb, op_put("a"));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);

        /* Put and delete, in either order. */
        pb = txn_new();
        SUCCESS(pb, op_put("a"));
        SUCCESS(pb, op_delete("a", NULL, 0));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        pb->success[1] = op_delete("b", NULL, 0);
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        pb->success[1] = op_delete("0", "a", 1);
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        pb->success[1] = op_delete("0", "b", 1);
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        pb->success[1] = op_delete("b", "\0", 1);
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        pb->success[1] = op_delete("0", "\0", 1); /* as etcd has it */
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        pb->success[1] = op_delete("b", "a", 1); /* empty */
        assert_int_equal(convert(pb, &txn), ETCD_OK);

        /* Deletes may overlap each other; the key may lie in any of them. */
        pb = txn_new();
        SUCCESS(pb, op_delete("a", "z", 1));
        SUCCESS(pb, op_delete("b", "c", 1));
        SUCCESS(pb, op_delete("b", NULL, 0));
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        SUCCESS(pb, op_put("y"));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        pb->success[3] = op_put("z");
        assert_int_equal(convert(pb, &txn), ETCD_OK);

        /* Both branches of a nested one may put a key, for only one of them happens; beside it nobody may. */
        pb = txn_new();
        nested = txn_new();
        SUCCESS(pb, op_txn(nested));
        SUCCESS(nested, op_put("n"));
        FAILURE(nested, op_put("n"));
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        SUCCESS(pb, op_put("n"));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        pb->success[1] = op_delete("m", "o", 1);
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        other = txn_new();
        pb->success[1] = op_txn(other);
        FAILURE(other, op_put("n"));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
        other->failure[0] = op_put("o");
        assert_int_equal(convert(pb, &txn), ETCD_OK);
        /* A nested delete in front of a put. */
        SUCCESS(nested, op_delete("o", NULL, 0));
        assert_int_equal(convert(pb, &txn), ETCD_DUPLICATE_KEY);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
        const struct CMUnitTest tests[] = {
                TEST(range_means_what_protobuf_says),
                TEST(range_is_refused_as_by_etcd),
                TEST(odd_numbers_of_a_range_count_as_none),
                TEST(broken_ranges_are_malformed_and_unknown_fields_skipped),
                TEST(put_is_refused_as_by_etcd),
                TEST(a_write_over_the_maximum_is_too_large),
                TEST(delete_is_refused_as_by_etcd),
                TEST(limits_are_settings),
                TEST(an_update_of_kubernetes_is_understood),
                TEST(operations_are_counted_by_level),
                TEST(operations_are_checked_at_each_depth),
                TEST(nesting_without_end_is_refused),
                TEST(odd_compares_mean_what_etcd_makes_of_them),
                TEST(duplicate_keys_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
