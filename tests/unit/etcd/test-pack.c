/*
 * What is packed by hand must mean the same as what protobuf packs: each message is read back with protobuf-c, and where the
 * order of fields is protobuf's own, held against its bytes.
 */

#include "etcd/pack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stokehold/rpc.pb-c.h>

#include "rpc/protobuf.h"

static struct arena arena;
static const struct etcd_header header = {.cluster_id = UINT64_MAX, .member_id = 1, .revision = 77};

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

static void *unpacked(const ProtobufCMessageDescriptor *descriptor, const struct blob *b) {
        void *m;

        assert_non_null(b);
        m = protobuf_unpack(descriptor, &arena, blob_bytes(b));
        assert_non_null(m);
        return m;
}

/* Packed by protobuf-c from what was read, it is the same bytes. */
static void assert_canonical(const ProtobufCMessage *m, const struct blob *b) {
        uint8_t *copy;

        assert_int_equal(protobuf_c_message_get_packed_size(m), b->size);
        copy = arena_alloc(&arena, b->size);
        protobuf_c_message_pack(m, copy);
        assert_memory_equal(copy, b->data, b->size);
}

static struct kv kv_of(const char *key, const char *value, int64_t n) {
        return (struct kv){
                .key = bytes_of_string(key),
                .create_revision = n,
                .mod_revision = n + 1,
                .version = n + 2,
                .lease = n == 1 ? 0 : INT64_MAX,
                .value = value ? blob_copy(value, strlen(value)) : NULL,
                .value_size = value ? (uint32_t)strlen(value) : 0,
        };
}

static void assert_kv(const Mvccpb__KeyValue *pb, const struct kv *kv) {
        assert_non_null(pb);
        assert_true(bytes_equal(bytes_of(pb->key.data, pb->key.len), kv->key));
        assert_true(bytes_equal(bytes_of(pb->value.data, pb->value.len), blob_bytes(kv->value)));
        assert_int_equal(pb->create_revision, kv->create_revision);
        assert_int_equal(pb->mod_revision, kv->mod_revision);
        assert_int_equal(pb->version, kv->version);
        assert_int_equal(pb->lease, kv->lease);
}

static void header_is_complete(void **state) {
        Etcdserverpb__CompactionResponse *pb;
        struct blob *b = blob_new(etcd_header_size(&header));

        (void)state;
        assert_ptr_equal(etcd_header_put(b->data, &header), b->data + b->size);
        assert_true(b->size <= ETCD_HEADER_MAX);
        pb = unpacked(&etcdserverpb__compaction_response__descriptor, b);
        assert_true(pb->header->cluster_id == UINT64_MAX);
        assert_int_equal(pb->header->member_id, 1);
        assert_int_equal(pb->header->revision, 77);
        assert_int_equal(pb->header->raft_term, ETCD_RAFT_TERM);
        assert_canonical(&pb->base, b);
        blob_unref(b);
}

static void put_response_carries_the_previous_version(void **state) {
        struct kv prev = kv_of("key", "old", 300);
        struct op_result result = {.put.prev = &prev};
        Etcdserverpb__PutResponse *pb;
        struct blob *b = pack_put_response(&header, &result);

        (void)state;
        pb = unpacked(&etcdserverpb__put_response__descriptor, b);
        assert_kv(pb->prev_kv, &prev);
        assert_canonical(&pb->base, b);
        blob_unref(b);

        result.put.prev = NULL;
        b = pack_put_response(&header, &result);
        pb = unpacked(&etcdserverpb__put_response__descriptor, b);
        assert_null(pb->prev_kv);
        blob_unref(b);
        blob_unref(prev.value);
}

static void delete_response_carries_all_previous_versions(void **state) {
        struct kv prev[] = {kv_of("a", "1", 1), kv_of("b", "", 200), kv_of("c", NULL, 40000)};
        struct op_result result = {.delete = {.deleted = 3, .prev = prev, .n_prev = 3}};
        struct blob *b = pack_delete_response(&header, &result);
        Etcdserverpb__DeleteRangeResponse *pb = unpacked(&etcdserverpb__delete_range_response__descriptor, b);

        (void)state;
        assert_int_equal(pb->deleted, 3);
        assert_int_equal(pb->n_prev_kvs, 3);
        for (size_t i = 0; i < 3; i++) {
                assert_kv(pb->prev_kvs[i], prev + i);
                blob_unref(prev[i].value);
        }
        assert_canonical(&pb->base, b);
        blob_unref(b);
}

static void txn_response_is_packed_to_any_depth(void **state) {
        struct kv kvs[] = {kv_of("a", "1", 1), kv_of("b", "22", 128)};
        char long_value[5000] = {};
        struct kv prev;
        struct txn_op inner_ops[] = {{.kind = OP_DELETE}, {.kind = OP_RANGE}};
        struct txn inner = {.failure = inner_ops, .n_failure = 2};
        struct txn_op ops[] = {{.kind = OP_RANGE}, {.kind = OP_TXN, .txn = &inner}, {.kind = OP_PUT}, {.kind = OP_PUT}};
        struct txn txn = {.success = ops, .n_success = 4};
        struct op_result inner_results[] = {
                {.kind = OP_DELETE, .revision = 8, .delete = {.deleted = 0}},
                {.kind = OP_RANGE, .revision = 9, .range = {.count = 300, .more = true}},
        };
        struct txn_result inner_result = {.results = inner_results, .n_results = 2};
        struct op_result results[] = {
                {.kind = OP_RANGE, .revision = 7, .range = {.kvs = kvs, .n_kvs = 2, .count = 2}},
                {.kind = OP_TXN, .txn = &inner_result},
                {.kind = OP_PUT, .revision = INT64_MAX},
                {.kind = OP_PUT, .revision = 8, .put.prev = &prev},
        };
        struct txn_result result = {.succeeded = true, .results = results, .n_results = 4};
        Etcdserverpb__TxnResponse *pb;
        struct blob *b;

        (void)state;
        memset(long_value, 'v', sizeof(long_value) - 1);
        prev = kv_of("p", long_value, 5);
        b = pack_txn_response(&arena, &header, &txn, &result);
        pb = unpacked(&etcdserverpb__txn_response__descriptor, b);
        assert_true(pb->succeeded);
        assert_int_equal(pb->header->revision, 77);
        assert_int_equal(pb->n_responses, 4);
        assert_int_equal(pb->responses[0]->response_range->header->revision, 7);
        assert_int_equal(pb->responses[0]->response_range->header->cluster_id, 0);
        assert_int_equal(pb->responses[0]->response_range->n_kvs, 2);
        assert_kv(pb->responses[0]->response_range->kvs[1], kvs + 1);
        assert_int_equal(pb->responses[0]->response_range->count, 2);
        assert_false(pb->responses[1]->response_txn->succeeded);
        assert_non_null(pb->responses[1]->response_txn->header);
        assert_int_equal(pb->responses[1]->response_txn->n_responses, 2);
        assert_int_equal(pb->responses[1]->response_txn->responses[0]->response_delete_range->header->revision, 8);
        assert_true(pb->responses[1]->response_txn->responses[1]->response_range->more);
        assert_int_equal(pb->responses[1]->response_txn->responses[1]->response_range->count, 300);
        assert_true(pb->responses[2]->response_put->header->revision == INT64_MAX);
        assert_kv(pb->responses[3]->response_put->prev_kv, &prev);
        assert_canonical(&pb->base, b);
        blob_unref(b);
        blob_unref(prev.value);
        blob_unref(kvs[0].value);
        blob_unref(kvs[1].value);
}

static void empty_txn_response_is_a_header(void **state) {
        const struct txn txn = {};
        const struct txn_result result = {};
        struct blob *b = pack_txn_response(&arena, &header, &txn, &result);
        Etcdserverpb__TxnResponse *pb = unpacked(&etcdserverpb__txn_response__descriptor, b);

        (void)state;
        assert_false(pb->succeeded);
        assert_int_equal(pb->n_responses, 0);
        blob_unref(b);
}

static void event_is_a_field_of_its_response(void **state) {
        struct watch_event event = {.kv = kv_of("k", "new", 300), .has_prev = true, .prev = kv_of("k", "old", 299)};
        Etcdserverpb__WatchResponse *pb;
        struct blob *b;

        (void)state;
        b = pack_event(&event, true);
        pb = unpacked(&etcdserverpb__watch_response__descriptor, b);
        assert_int_equal(pb->n_events, 1);
        assert_int_equal(pb->events[0]->type, MVCCPB__EVENT__EVENT_TYPE__PUT);
        assert_kv(pb->events[0]->kv, &event.kv);
        assert_kv(pb->events[0]->prev_kv, &event.prev);
        assert_canonical(&pb->base, b);
        blob_unref(b);

        b = pack_event(&event, false);
        pb = unpacked(&etcdserverpb__watch_response__descriptor, b);
        assert_null(pb->events[0]->prev_kv);
        blob_unref(b);

        blob_unref(event.kv.value);
        event.is_delete = true;
        event.kv = (struct kv){.key = bytes_of_string("k"), .mod_revision = 9};
        b = pack_event(&event, true);
        pb = unpacked(&etcdserverpb__watch_response__descriptor, b);
        assert_int_equal(pb->events[0]->type, MVCCPB__EVENT__EVENT_TYPE__DELETE);
        assert_kv(pb->events[0]->kv, &event.kv);
        assert_kv(pb->events[0]->prev_kv, &event.prev);
        assert_canonical(&pb->base, b);
        blob_unref(b);
        blob_unref(event.prev.value);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
        const struct CMUnitTest tests[] = {
                TEST(header_is_complete),
                TEST(put_response_carries_the_previous_version),
                TEST(delete_response_carries_all_previous_versions),
                TEST(txn_response_is_packed_to_any_depth),
                TEST(empty_txn_response_is_a_header),
                TEST(event_is_a_field_of_its_response),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
