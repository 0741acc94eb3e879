/*
 * The services as a client meets them: a gRPC server and client on one loop, a keyspace on the SQLite driver in a temporary
 * folder. What fails here is what every user of a tenant would see: a lost event, a wrong revision, an error that no client knows.
 */

#include "etcd/service.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stokehold/rpc.pb-c.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "driver/datastore.h"
#include "etcd/health.h"
#include "etcd/status.h"
#include "rpc/client.h"
#include "rpc/listener.h"
#include "rpc/protobuf.h"

#define BIN(s) ((ProtobufCBinaryData){sizeof(s) - 1, (uint8_t *)(s)})
#define TIMEOUT_NS (20 * NSEC_PER_SEC)
#define MAX_MESSAGES 4096

struct fixture {
        char folder[64];
        struct loop *loop;
        struct plugin_table *plugins;
        struct datastore *datastore;
        struct value_cache *cache;
        struct keyspace *ks;
        struct grpc_server *server;
        struct listener *listener;
        struct grpc_client *client;
        struct arena arena;
        bool timed_out;
};
static struct fixture f;

/* ---- the fixture */

static void on_time(struct loop_timer *timer) {
        f.timed_out = true;
        loop_stop(timer->loop ? timer->loop : f.loop);
}

/* Until somebody stops the loop. */
static void run(void) {
        struct loop_timer timer = {.on_time = on_time};

        f.timed_out = false;
        loop_timer_set(f.loop, &timer, clock_now_ns() + TIMEOUT_NS);
        assert_int_equal(loop_run(f.loop), 0);
        loop_timer_clear(&timer);
        assert_false(f.timed_out);
}

static void run_for(uint64_t ns) {
        struct loop_timer timer = {.on_time = on_time};

        loop_timer_set(f.loop, &timer, clock_now_ns() + ns);
        assert_int_equal(loop_run(f.loop), 0);
        loop_timer_clear(&timer);
}

static int create_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        uint8_t daemon[16] = {7};
        struct stoke_record first;

        keyspace_first_record(daemon, &first);
        return datastore_driver(f.datastore)->create(session, job->keyspace, &first, call);
}

static void create_done(struct datastore_job *job) {
        loop_stop(job->loop);
}

static void on_accept(void *userdata, int fd) {
        (void)userdata;
        assert_int_equal(grpc_server_accept(f.server, fd), 0);
}

static int begin(void **state) {
        struct stoke_keyspace name = {.name = "t", .incarnation = {1, 2, 3}};
        struct datastore_job create = {
                .class = JOB_BULK,
                .keyspace = &name,
                .run = create_run,
                .done = create_done,
        };
        cleanup(error_done) struct error err = {};
        char path[128], address[160];
        struct stoke_setting setting = {"path", path};
        struct plugin_table_config plugins = {.directory = getenv("STOKE_PLUGINS")};
        struct datastore_config datastore = {.name = "d", .settings = &setting, .n_settings = 1, .daemon = {7}};
        struct keyspace_config keyspace = {.name = "t", .incarnation = {1, 2, 3}, .daemon = {7}};
        struct grpc_server_config server = {.name = "t", .limits = grpc_default_limits};

        (void)state;
        f = (struct fixture){};
        snprintf(f.folder, sizeof(f.folder), "/tmp/stoke-etcd-XXXXXX");
        assert_non_null(mkdtemp(f.folder));
        snprintf(path, sizeof(path), "%s/data", f.folder);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(address, sizeof(address), "unix:%s/s", f.folder);
        arena_init(&f.arena, 0);

        assert_non_null(plugins.directory);
        assert_int_equal(loop_new("test", &f.loop), 0);
        assert_int_equal(plugin_table_new(&plugins, &f.plugins), 0);
        plugin_table_scan(f.plugins);
        datastore.plugin = plugin_find(f.plugins, "SQLite", &err);
        if (!datastore.plugin)
                fail_msg("%s", error_text(&err));
        assert_int_equal(datastore_open(&datastore, &f.datastore, &err), 0);
        create.deadline_ns = clock_now_ns() + TIMEOUT_NS;
        create.loop = f.loop;
        datastore_submit(f.datastore, &create);
        run();
        assert_int_equal(create.result, 0);

        f.cache = value_cache_new(16 << 20, NULL, NULL);
        keyspace.datastore = f.datastore;
        keyspace.loop = f.loop;
        keyspace.cache = f.cache;
        assert_int_equal(keyspace_new(&keyspace, &f.ks), 0);
        server.loop = f.loop;
        server.userdata = f.ks;
        assert_int_equal(grpc_server_new(&server, &f.server), 0);
        assert_int_equal(etcd_services_add(f.server), 0);
        assert_int_equal(listener_new(f.loop, address, 0600, on_accept, NULL, &f.listener, &err), 0);
        assert_int_equal(grpc_client_new(f.loop, address, &f.client, &err), 0);
        return 0;
}

static void stop(void *userdata) {
        loop_stop(userdata);
}

static int end(void **state) {
        char command[128];

        (void)state;
        grpc_client_free(f.client);
        listener_free(f.listener);
        grpc_server_free(f.server);
        keyspace_close(f.ks, stop, f.loop);
        run();
        keyspace_free(f.ks);
        value_cache_free(f.cache);
        datastore_close(f.datastore, NSEC_PER_SEC);
        plugin_table_free(f.plugins);
        loop_free(f.loop);
        arena_done(&f.arena);
        snprintf(command, sizeof(command), "rm -rf %s", f.folder);
        return system(command);
}

/* ---- asking */

struct answer {
        struct bytes messages[MAX_MESSAGES]; /* in the fixture's arena */
        size_t n;
        enum grpc_code code;
        char text[256];
};
static struct answer answer;

static void on_answer(void *userdata, struct bytes data) {
        (void)userdata;
        assert_true(answer.n < MAX_MESSAGES);
        answer.messages[answer.n++] = bytes_of(arena_copy(&f.arena, data.data, max_of(data.size, 1)), data.size);
}

static struct bytes packed(const void *message) {
        size_t n = protobuf_c_message_get_packed_size(message);
        uint8_t *data = arena_alloc(&f.arena, max_of(n, 1));

        protobuf_c_message_pack(message, data);
        return bytes_of(data, n);
}

static void *unpacked(const ProtobufCMessageDescriptor *descriptor, struct bytes data) {
        void *m = protobuf_unpack(descriptor, &f.arena, data);

        assert_non_null(m);
        return m;
}

static enum grpc_code call(const char *path, const void *request) {
        struct error err = {};

        answer.n = 0;
        answer.code = grpc_client_unary(f.client, path, TIMEOUT_NS, packed(request), on_answer, NULL, &err);
        snprintf(answer.text, sizeof(answer.text), "%s", answer.code ? error_text(&err) : "");
        error_done(&err);
        return answer.code;
}

static void *ask(const char *path, const void *request, const ProtobufCMessageDescriptor *descriptor) {
        if (call(path, request) != GRPC_OK)
                fail_msg("%s: %s: %s", path, grpc_code_name(answer.code), answer.text);
        assert_int_equal(answer.n, 1);
        return unpacked(descriptor, answer.messages[0]);
}

static void refused(const char *path, const void *request, enum etcd_status status) {
        assert_int_equal(call(path, request), etcd_status_code(status));
        assert_string_equal(answer.text, etcd_status_text(status));
}

static int64_t put(const char *key, const void *value, size_t size) {
        Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__PutResponse *response;

        request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        request.value = (ProtobufCBinaryData){size, (uint8_t *)value};
        response = ask("/etcdserverpb.KV/Put", &request, &etcdserverpb__put_response__descriptor);
        return response->header->revision;
}

static void put_many(unsigned n, size_t size) {
        uint8_t *value = arena_alloc0(&f.arena, size);
        char key[32];

        for (unsigned i = 0; i < n; i++) {
                snprintf(key, sizeof(key), "/many/%06u", i);
                put(key, value, size);
        }
}

static Etcdserverpb__RangeResponse *range(Etcdserverpb__RangeRequest request) {
        return ask("/etcdserverpb.KV/Range", &request, &etcdserverpb__range_response__descriptor);
}

/* ---- KV */

static void a_key_is_put_read_updated_and_deleted(void **state) {
        Etcdserverpb__RangeRequest get = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__DeleteRangeRequest delete = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
        Etcdserverpb__DeleteRangeResponse *deleted;
        Etcdserverpb__PutResponse *updated;
        Etcdserverpb__RangeResponse *got;

        (void)state;
        get.key = BIN("k");
        got = range(get);
        assert_int_equal(got->header->revision, 1);
        assert_true(got->header->cluster_id && got->header->member_id && got->header->raft_term);
        assert_int_equal(got->n_kvs, 0);

        assert_int_equal(put("k", "one", 3), 2);
        put_request.key = BIN("k");
        put_request.value = BIN("two");
        put_request.prev_kv = true;
        updated = ask("/etcdserverpb.KV/Put", &put_request, &etcdserverpb__put_response__descriptor);
        assert_int_equal(updated->header->revision, 3);
        assert_memory_equal(updated->prev_kv->value.data, "one", 3);

        got = range(get);
        assert_int_equal(got->count, 1);
        assert_int_equal(got->n_kvs, 1);
        assert_int_equal(got->kvs[0]->create_revision, 2);
        assert_int_equal(got->kvs[0]->mod_revision, 3);
        assert_int_equal(got->kvs[0]->version, 2);
        assert_memory_equal(got->kvs[0]->value.data, "two", 3);
        get.revision = 2;
        got = range(get);
        assert_memory_equal(got->kvs[0]->value.data, "one", 3);
        assert_int_equal(got->header->revision, 3);

        delete.key = BIN("k");
        delete.prev_kv = true;
        deleted = ask("/etcdserverpb.KV/DeleteRange", &delete, &etcdserverpb__delete_range_response__descriptor);
        assert_int_equal(deleted->header->revision, 4);
        assert_int_equal(deleted->deleted, 1);
        assert_int_equal(deleted->n_prev_kvs, 1);
        deleted = ask("/etcdserverpb.KV/DeleteRange", &delete, &etcdserverpb__delete_range_response__descriptor);
        assert_int_equal(deleted->header->revision, 4);
        assert_int_equal(deleted->deleted, 0);
}

static void a_transaction_takes_one_branch(void **state) {
        Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
        Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT, *compares[] = {&compare};
        Etcdserverpb__RequestOp put_op = ETCDSERVERPB__REQUEST_OP__INIT, range_op = ETCDSERVERPB__REQUEST_OP__INIT;
        Etcdserverpb__RequestOp *success[] = {&put_op}, *failure[] = {&range_op};
        Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__RangeRequest range_request = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__TxnResponse *response;

        (void)state;
        compare.key = put_request.key = range_request.key = BIN("t");
        compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        put_request.value = BIN("v");
        put_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        put_op.request_put = &put_request;
        range_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        range_op.request_range = &range_request;
        txn.compare = compares;
        txn.success = success;
        txn.failure = failure;
        txn.n_compare = txn.n_success = txn.n_failure = 1;

        response = ask("/etcdserverpb.KV/Txn", &txn, &etcdserverpb__txn_response__descriptor);
        assert_true(response->succeeded);
        assert_int_equal(response->header->revision, 2);
        assert_int_equal(response->responses[0]->response_put->header->revision, 2);
        response = ask("/etcdserverpb.KV/Txn", &txn, &etcdserverpb__txn_response__descriptor);
        assert_false(response->succeeded);
        assert_int_equal(response->header->revision, 2);
        assert_int_equal(response->responses[0]->response_range->n_kvs, 1);
        assert_memory_equal(response->responses[0]->response_range->kvs[0]->value.data, "v", 1);
}

/* etcd refuses a put beside a delete of the key, but not where the delete is in a nested transaction that stands behind. */
static void a_transaction_may_delete_what_it_has_put(void **state) {
        Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT, first = txn, second = txn;
        Etcdserverpb__RequestOp put_op = ETCDSERVERPB__REQUEST_OP__INIT, delete_op = put_op, first_op = put_op,
                                second_op = put_op;
        Etcdserverpb__RequestOp *puts[] = {&put_op}, *deletes[] = {&delete_op}, *both[] = {&first_op, &second_op};
        Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__DeleteRangeRequest delete_request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
        Etcdserverpb__RangeRequest get = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__TxnResponse *response;
        Etcdserverpb__RangeResponse *got;

        (void)state;
        put_request.key = delete_request.key = get.key = BIN("k");
        put_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        put_op.request_put = &put_request;
        delete_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        delete_op.request_delete_range = &delete_request;
        first.success = puts;
        second.success = deletes;
        first_op.request_case = second_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
        first_op.request_txn = &first;
        second_op.request_txn = &second;
        txn.success = both;
        first.n_success = second.n_success = 1;
        txn.n_success = 2;
        for (int64_t revision = 2; revision < 5; revision++) {
                response = ask("/etcdserverpb.KV/Txn", &txn, &etcdserverpb__txn_response__descriptor);
                assert_int_equal(response->header->revision, revision);
                assert_int_equal(response->responses[1]->response_txn->responses[0]->response_delete_range->deleted, 1);
                got = range(get);
                assert_int_equal(got->n_kvs, 0);
                assert_int_equal(got->header->revision, revision);
        }
        assert_int_equal(put("k", "v", 1), 5);
        got = range(get);
        assert_int_equal(got->kvs[0]->version, 1);
        assert_int_equal(got->kvs[0]->create_revision, 5);
        get.revision = 3;
        assert_int_equal(range(get)->n_kvs, 0);
}

static void lists_are_whole_in_order_and_in_pages(void **state) {
        Etcdserverpb__RangeRequest list = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__RangeResponse *got;
        const unsigned n = 1300;

        (void)state;
        put_many(n, 2000);
        list.key = BIN("/many/");
        list.range_end = BIN("/many0");
        got = range(list);
        assert_int_equal(got->count, n);
        assert_int_equal(got->n_kvs, n);
        assert_false(got->more);
        assert_int_equal(got->header->revision, n + 1);
        for (unsigned i = 0; i < n; i++) {
                assert_int_equal(got->kvs[i]->mod_revision, i + 2);
                assert_int_equal(got->kvs[i]->value.len, 2000);
        }

        list.limit = 500;
        got = range(list);
        assert_int_equal(got->n_kvs, 500);
        assert_int_equal(got->count, n);
        assert_true(got->more);
        list.limit = n;
        assert_false(range(list)->more);

        list.limit = 0;
        list.keys_only = true;
        got = range(list);
        assert_int_equal(got->n_kvs, n);
        assert_int_equal(got->kvs[5]->value.len, 0);
        list.count_only = true;
        got = range(list);
        assert_int_equal(got->n_kvs, 0);
        assert_int_equal(got->count, n);
}

/* So large that its values are sent as they are in the cache; small and empty ones among them. */
static void a_large_list_is_whole(void **state) {
        Etcdserverpb__RangeRequest list = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__RangeResponse *got;
        const unsigned n = 2400;
        uint8_t value[8000];
        char key[32];

        (void)state;
        for (unsigned i = 0; i < n; i++) {
                memset(value, 'a' + (int)(i % 26), sizeof(value));
                (void)snprintf(key, sizeof(key), "/many/%06u", i);
                put(key, value, i % 7 == 3 ? i % 2 : sizeof(value) - i % 100);
        }
        list.key = BIN("/many/");
        list.range_end = BIN("/many0");
        got = range(list);
        assert_int_equal(got->count, n);
        assert_int_equal(got->n_kvs, n);
        assert_int_equal(got->header->revision, n + 1);
        for (unsigned i = 0; i < n; i++) {
                size_t size = i % 7 == 3 ? i % 2 : sizeof(value) - i % 100;

                (void)snprintf(key, sizeof(key), "/many/%06u", i);
                assert_memory_equal(got->kvs[i]->key.data, key, strlen(key));
                assert_int_equal(got->kvs[i]->create_revision, i + 2);
                assert_int_equal(got->kvs[i]->mod_revision, i + 2);
                assert_int_equal(got->kvs[i]->version, 1);
                assert_int_equal(got->kvs[i]->value.len, size);
                memset(value, 'a' + (int)(i % 26), sizeof(value));
                assert_memory_equal(got->kvs[i]->value.data, value, size);
        }
}

static void a_streamed_list_ends_with_its_header(void **state) {
        Etcdserverpb__RangeRequest list = ETCDSERVERPB__RANGE_REQUEST__INIT;
        const unsigned n = 1300;
        size_t n_kvs = 0;

        (void)state;
        put_many(n, 3000);
        list.key = BIN("/");
        list.range_end = BIN("0");
        assert_int_equal(call("/etcdserverpb.KV/RangeStream", &list), GRPC_OK);
        assert_true(answer.n > 1);
        for (size_t i = 0; i < answer.n; i++) {
                Etcdserverpb__RangeStreamResponse *m =
                        unpacked(&etcdserverpb__range_stream_response__descriptor, answer.messages[i]);
                Etcdserverpb__RangeResponse *r = m->range_response;

                for (size_t j = 0; j < r->n_kvs; j++)
                        assert_int_equal(r->kvs[j]->mod_revision, ++n_kvs + 1);
                if (i + 1 < answer.n) {
                        assert_null(r->header);
                        assert_int_equal(r->count, 0);
                        assert_true(r->n_kvs > 0);
                } else {
                        assert_int_equal(r->header->revision, n + 1);
                        assert_int_equal(r->count, n);
                        assert_false(r->more);
                }
        }
        assert_int_equal(n_kvs, n);

        list.key = BIN("zzz");
        list.range_end = (ProtobufCBinaryData){};
        assert_int_equal(call("/etcdserverpb.KV/RangeStream", &list), GRPC_OK);
        assert_int_equal(answer.n, 1);

        list.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
        refused("/etcdserverpb.KV/RangeStream", &list, ETCD_STREAM_SORT);
        list.sort_order = 0;
        list.min_mod_revision = 1;
        refused("/etcdserverpb.KV/RangeStream", &list, ETCD_STREAM_FILTER);
}

static void errors_are_etcds(void **state) {
        Etcdserverpb__RangeRequest get = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__CompactionRequest compact = ETCDSERVERPB__COMPACTION_REQUEST__INIT;

        (void)state;
        refused("/etcdserverpb.KV/Range", &get, ETCD_EMPTY_KEY);
        refused("/etcdserverpb.KV/Put", &put_request, ETCD_EMPTY_KEY);
        put_request.key = BIN("k");
        put_request.lease = 99;
        refused("/etcdserverpb.KV/Put", &put_request, ETCD_LEASE_NOT_FOUND);
        put_request.lease = 0;
        put_request.ignore_value = true;
        refused("/etcdserverpb.KV/Put", &put_request, ETCD_KEY_NOT_FOUND);
        for (int i = 0; i < 5; i++)
                put("k", "v", 1);
        get.key = BIN("k");
        get.revision = 100;
        refused("/etcdserverpb.KV/Range", &get, ETCD_FUTURE_REVISION);
        compact.revision = 100;
        refused("/etcdserverpb.KV/Compact", &compact, ETCD_FUTURE_REVISION);
        compact.revision = 4;
        ask("/etcdserverpb.KV/Compact", &compact, &etcdserverpb__compaction_response__descriptor);
        refused("/etcdserverpb.KV/Compact", &compact, ETCD_COMPACTED);
        get.revision = 3;
        refused("/etcdserverpb.KV/Range", &get, ETCD_COMPACTED);
        assert_int_equal(call("/etcdserverpb.KV/Nothing", &get), GRPC_UNIMPLEMENTED);
}

/* ---- Watch */

static struct {
        Etcdserverpb__WatchResponse *responses[MAX_MESSAGES];
        size_t n, wanted;
        bool ended;
        enum grpc_code code;
        struct grpc_client_call *call;
} watching;

static void on_watch_message(void *userdata, struct bytes data) {
        uint8_t *copy = arena_copy(&f.arena, data.data, max_of(data.size, 1));

        (void)userdata;
        assert_true(watching.n < MAX_MESSAGES);
        watching.responses[watching.n++] =
                unpacked(&etcdserverpb__watch_response__descriptor, bytes_of(copy, data.size));
        if (watching.n == watching.wanted)
                loop_stop(f.loop);
}

static void on_watch_end(void *userdata, enum grpc_code code, const char *message) {
        (void)userdata;
        (void)message;
        watching.ended = true;
        watching.code = code;
        loop_stop(f.loop);
}

static const struct grpc_client_handler watch_handler = {on_watch_message, on_watch_end};

static void watch_begin(void) {
        memset(&watching, 0, sizeof(watching));
        assert_int_equal(
                grpc_client_start(f.client, "/etcdserverpb.Watch/Watch", 0, &watch_handler, NULL, &watching.call), 0);
}

static void watch_create(Etcdserverpb__WatchCreateRequest create) {
        Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;

        request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
        request.create_request = &create;
        assert_int_equal(grpc_client_send(watching.call, packed(&request)), 0);
}

static void watch_cancel(int64_t id) {
        Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
        Etcdserverpb__WatchCancelRequest cancel = ETCDSERVERPB__WATCH_CANCEL_REQUEST__INIT;

        cancel.watch_id = id;
        request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST;
        request.cancel_request = &cancel;
        assert_int_equal(grpc_client_send(watching.call, packed(&request)), 0);
}

static void watch_progress(void) {
        Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
        Etcdserverpb__WatchProgressRequest progress = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;

        request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
        request.progress_request = &progress;
        assert_int_equal(grpc_client_send(watching.call, packed(&request)), 0);
}

/* Waits until so many responses have come in all, and gives the last. */
static Etcdserverpb__WatchResponse *watch_wait(size_t n) {
        watching.wanted = n;
        if (watching.n < n)
                run();
        assert_true(watching.n >= n);
        return watching.responses[n - 1];
}

static void watch_end(void) {
        assert_false(watching.ended);
        grpc_client_cancel(watching.call);
        assert_true(watching.ended);
        run(); /* on_watch_end() has stopped the loop, which sends the reset first */
}

static void a_watch_sees_each_change_with_what_was_before(void **state) {
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        Etcdserverpb__DeleteRangeRequest delete = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
        Etcdserverpb__WatchResponse *r;

        (void)state;
        watch_begin();
        create.key = BIN("a");
        create.range_end = BIN("b");
        create.prev_kv = true;
        watch_create(create);
        r = watch_wait(1);
        assert_true(r->created && !r->canceled);
        assert_int_equal(r->watch_id, 0);
        assert_int_equal(r->header->revision, 1);

        put("a1", "one", 3);
        put("b", "other", 5);
        put("a1", "two", 3);
        delete.key = BIN("a1");
        call("/etcdserverpb.KV/DeleteRange", &delete);
        r = watch_wait(2);
        assert_int_equal(r->header->revision, 2);
        assert_int_equal(r->n_events, 1);
        assert_null(r->events[0]->prev_kv);
        r = watch_wait(3);
        assert_int_equal(r->events[0]->kv->mod_revision, 4);
        assert_memory_equal(r->events[0]->prev_kv->value.data, "one", 3);
        r = watch_wait(4);
        assert_int_equal(r->events[0]->type, MVCCPB__EVENT__EVENT_TYPE__DELETE);
        assert_memory_equal(r->events[0]->prev_kv->value.data, "two", 3);
        assert_int_equal(r->events[0]->kv->version, 0);

        watch_cancel(0);
        r = watch_wait(5);
        assert_true(r->canceled && !r->created);
        assert_int_equal(r->watch_id, 0);
        watch_cancel(0); /* not there any more: no answer */
        watch_end();
        assert_int_equal(watching.n, 5);
}

static void a_watch_from_the_past_sees_all_or_says_compacted(void **state) {
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        Etcdserverpb__CompactionRequest compact = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
        Etcdserverpb__WatchResponse *r;
        size_t n = 0;

        (void)state;
        for (int i = 0; i < 10; i++)
                put("a", "v", 1);
        compact.revision = 5;
        ask("/etcdserverpb.KV/Compact", &compact, &etcdserverpb__compaction_response__descriptor);

        watch_begin();
        create.key = BIN("a");
        create.start_revision = 6;
        watch_create(create);
        watch_wait(1);
        for (size_t i = 2; n < 6; i++) {
                r = watch_wait(i);
                for (size_t j = 0; j < r->n_events; j++)
                        assert_int_equal(r->events[j]->kv->mod_revision, 6 + n++);
        }

        create.start_revision = 3;
        watch_create(create);
        r = watch_wait(watching.n + 2);
        assert_true(r->canceled);
        assert_int_equal(r->watch_id, 1);
        assert_int_equal(r->compact_revision, 5);
        assert_true(watching.responses[watching.n - 2]->created);

        /* Its id is free when the client has cancelled it, too. */
        create.watch_id = 1;
        watch_create(create);
        r = watch_wait(watching.n + 1);
        assert_string_equal(r->cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
        watch_progress(); /* of the other */
        r = watch_wait(watching.n + 1);
        assert_int_equal(r->watch_id, -1);
        watch_cancel(1);
        r = watch_wait(watching.n + 1);
        assert_true(r->canceled);
        assert_int_equal(r->compact_revision, 0);
        create.start_revision = 0;
        watch_cancel(1); /* no answer */
        watch_create(create);
        r = watch_wait(watching.n + 1);
        assert_true(r->created && !r->canceled);
        assert_int_equal(r->watch_id, 1);
        watch_end();
}

/* Only a cancel ends the stream. */
static void who_asks_nothing_more_watches_on(void **state) {
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;

        (void)state;
        watch_begin();
        create.key = BIN("a");
        watch_create(create);
        grpc_client_half_close(watching.call);
        watch_wait(1);
        put("a", "v", 1);
        assert_int_equal(watch_wait(2)->n_events, 1);
        watch_end();
}

static void refused_watches_are_answered_in_order(void **state) {
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;

        (void)state;
        watch_begin();
        create.key = BIN("a");
        create.watch_id = 7;
        watch_create(create);
        watch_create(create); /* the same id */
        create.watch_id = 0;
        create.range_end = BIN("A");
        watch_create(create); /* an empty range */
        create.range_end = (ProtobufCBinaryData){};
        create.start_revision = -1;
        watch_create(create);
        create.start_revision = 0;
        watch_create(create);
        watch_wait(5);
        assert_int_equal(watching.responses[0]->watch_id, 7);
        assert_false(watching.responses[0]->canceled);
        assert_string_equal(
                watching.responses[1]->cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
        assert_string_equal(watching.responses[2]->cancel_reason, "mvcc: watcher range is empty");
        assert_string_equal(
                watching.responses[3]->cancel_reason, "etcdserver: mvcc: required revision has been compacted");
        for (size_t i = 1; i < 4; i++) {
                assert_int_equal(watching.responses[i]->watch_id, -1);
                assert_true(watching.responses[i]->created && watching.responses[i]->canceled);
        }
        assert_int_equal(watching.responses[4]->watch_id, 0);
        assert_false(watching.responses[4]->canceled);
        watch_end();
}

static void progress_is_told_behind_the_events(void **state) {
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        Etcdserverpb__WatchResponse *r;
        int64_t revision;

        (void)state;
        watch_begin();
        watch_progress(); /* no watch: no answer */
        create.key = BIN("a");
        watch_create(create);
        create.key = BIN("b");
        watch_create(create);
        watch_wait(2);
        revision = put("c", "v", 1); /* nobody's */
        watch_progress();
        r = watch_wait(3);
        assert_int_equal(r->watch_id, -1);
        assert_int_equal(r->n_events, 0);
        assert_int_equal(r->header->revision, revision);

        revision = put("b", "v", 1);
        watch_progress();
        r = watch_wait(4);
        assert_int_equal(r->n_events, 1);
        r = watch_wait(5);
        assert_int_equal(r->watch_id, -1);
        assert_int_equal(r->header->revision, revision);

        /* A watch that begins in the future knows nothing yet. */
        create.start_revision = revision + 100;
        watch_create(create);
        watch_wait(6);
        watch_progress();
        run_for(200 * NSEC_PER_MSEC);
        assert_int_equal(watching.n, 6);
        watch_end();
}

static void a_client_that_does_not_read_loses_nothing(void **state) {
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        const unsigned n_puts = 100;
        size_t n = 0;

        (void)state;
        watch_begin();
        create.key = BIN("/");
        create.range_end = BIN("0");
        watch_create(create);
        put_many(n_puts, 100000); /* ten times what may be queued, on a loop that serves both ends */
        for (size_t i = 1; n < n_puts; i++) {
                Etcdserverpb__WatchResponse *r = watch_wait(i);

                for (size_t j = 0; j < r->n_events; j++)
                        assert_int_equal(r->events[j]->kv->mod_revision, 2 + n++);
        }
        watch_end();
}

/* ---- Lease */

static struct {
        Etcdserverpb__LeaseKeepAliveResponse *responses[16];
        size_t n;
} keep_alives;

static void on_keep_alive(void *userdata, struct bytes data) {
        uint8_t *copy = arena_copy(&f.arena, data.data, max_of(data.size, 1));

        (void)userdata;
        assert_true(keep_alives.n < n_elements(keep_alives.responses));
        keep_alives.responses[keep_alives.n++] =
                unpacked(&etcdserverpb__lease_keep_alive_response__descriptor, bytes_of(copy, data.size));
}

static void a_lease_lives_is_kept_and_ends(void **state) {
        static const struct grpc_client_handler handler = {on_keep_alive, on_watch_end};
        Etcdserverpb__LeaseGrantRequest grant = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
        Etcdserverpb__LeaseGrantResponse *granted;
        Etcdserverpb__LeaseTimeToLiveRequest live = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
        Etcdserverpb__LeaseTimeToLiveResponse *lives;
        Etcdserverpb__LeaseLeasesRequest all = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
        Etcdserverpb__LeaseLeasesResponse *leases;
        Etcdserverpb__LeaseKeepAliveRequest keep = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
        Etcdserverpb__LeaseRevokeRequest revoke = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
        Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__RangeRequest get = ETCDSERVERPB__RANGE_REQUEST__INIT;
        struct grpc_client_call *stream;

        (void)state;
        grant.ttl = 60;
        granted = ask("/etcdserverpb.Lease/LeaseGrant", &grant, &etcdserverpb__lease_grant_response__descriptor);
        assert_int_equal(granted->ttl, 60);
        assert_true(granted->id > 0);
        grant.id = granted->id;
        refused("/etcdserverpb.Lease/LeaseGrant", &grant, ETCD_LEASE_EXISTS);
        grant.id = 0;
        grant.ttl = INT64_MAX;
        refused("/etcdserverpb.Lease/LeaseGrant", &grant, ETCD_LEASE_TTL_TOO_LARGE);

        put_request.key = get.key = BIN("leased");
        put_request.lease = granted->id;
        ask("/etcdserverpb.KV/Put", &put_request, &etcdserverpb__put_response__descriptor);
        live.id = granted->id;
        live.keys = true;
        lives = ask(
                "/etcdserverpb.Lease/LeaseTimeToLive", &live, &etcdserverpb__lease_time_to_live_response__descriptor);
        assert_in_range(lives->ttl, 58, 60);
        assert_int_equal(lives->grantedttl, 60);
        assert_int_equal(lives->n_keys, 1);
        leases = ask("/etcdserverpb.Lease/LeaseLeases", &all, &etcdserverpb__lease_leases_response__descriptor);
        assert_int_equal(leases->n_leases, 1);
        assert_int_equal(leases->leases[0]->id, granted->id);

        memset(&keep_alives, 0, sizeof(keep_alives));
        memset(&watching, 0, sizeof(watching));
        assert_int_equal(
                grpc_client_start(f.client, "/etcdserverpb.Lease/LeaseKeepAlive", 0, &handler, NULL, &stream), 0);
        for (int i = 0; i < 4; i++) {
                keep.id = granted->id + i % 2; /* every other one is unknown */
                assert_int_equal(grpc_client_send(stream, packed(&keep)), 0);
        }
        grpc_client_half_close(stream);
        run();
        assert_true(watching.ended);
        assert_int_equal(watching.code, GRPC_OK);
        assert_int_equal(keep_alives.n, 4);
        for (int i = 0; i < 4; i++) {
                assert_int_equal(keep_alives.responses[i]->id, granted->id + i % 2);
                assert_int_equal(keep_alives.responses[i]->ttl, i % 2 ? 0 : 60);
        }

        revoke.id = granted->id;
        ask("/etcdserverpb.Lease/LeaseRevoke", &revoke, &etcdserverpb__lease_revoke_response__descriptor);
        refused("/etcdserverpb.Lease/LeaseRevoke", &revoke, ETCD_LEASE_NOT_FOUND);
        assert_int_equal(range(get)->n_kvs, 0);
        lives = ask(
                "/etcdserverpb.Lease/LeaseTimeToLive", &live, &etcdserverpb__lease_time_to_live_response__descriptor);
        assert_int_equal(lives->ttl, -1);
}

/* ---- the rest */

static void on_health(void *userdata, struct http1_response *response) {
        *(struct http1_response *)userdata = *response;
        loop_stop(f.loop);
}

static void check_health(const char *query, int status, const char *body) {
        struct http1_response response = {};

        etcd_health(f.ks, query, on_health, &response);
        run();
        assert_int_equal(response.status, status);
        assert_true(bytes_equal(bytes_of(response.body.data, response.body.size), bytes_of_string(body)));
        buf_done(&response.body);
}

static void the_rest_answers_as_a_cluster_of_one(void **state) {
        Etcdserverpb__StatusRequest status_request = ETCDSERVERPB__STATUS_REQUEST__INIT;
        Etcdserverpb__StatusResponse *status;
        Etcdserverpb__MemberListRequest members_request = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
        Etcdserverpb__MemberListResponse *members;
        Etcdserverpb__MoveLeaderRequest move = ETCDSERVERPB__MOVE_LEADER_REQUEST__INIT;
        Etcdserverpb__DowngradeRequest downgrade = ETCDSERVERPB__DOWNGRADE_REQUEST__INIT;
        Etcdserverpb__AuthStatusRequest auth_request = ETCDSERVERPB__AUTH_STATUS_REQUEST__INIT;
        Etcdserverpb__AuthStatusResponse *auth;
        Etcdserverpb__AuthenticateRequest authenticate = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;

        (void)state;
        status = ask("/etcdserverpb.Maintenance/Status", &status_request, &etcdserverpb__status_response__descriptor);
        assert_int_equal(status->header->revision, 1);
        assert_int_equal(status->leader, status->header->member_id);
        assert_true(status->dbsize >= 0);
        assert_true(strncmp(status->version, "3.7.", 4) == 0);
        members_request.linearizable = true;
        members = ask(
                "/etcdserverpb.Cluster/MemberList", &members_request, &etcdserverpb__member_list_response__descriptor);
        assert_int_equal(members->n_members, 1);
        assert_int_equal(members->members[0]->id, status->leader);
        assert_string_equal(members->members[0]->name, "t");
        move.targetid = status->leader;
        ask("/etcdserverpb.Maintenance/MoveLeader", &move, &etcdserverpb__move_leader_response__descriptor);
        move.targetid++;
        refused("/etcdserverpb.Maintenance/MoveLeader", &move, ETCD_BAD_LEADER_TRANSFEREE);
        downgrade.version = (char *)"3.5";
        refused("/etcdserverpb.Maintenance/Downgrade", &downgrade, ETCD_DOWNGRADE_TARGET);
        downgrade.version = (char *)"x";
        refused("/etcdserverpb.Maintenance/Downgrade", &downgrade, ETCD_DOWNGRADE_VERSION_FORMAT);
        downgrade.action = ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__CANCEL;
        ask("/etcdserverpb.Maintenance/Downgrade", &downgrade, &etcdserverpb__downgrade_response__descriptor);
        auth = ask("/etcdserverpb.Auth/AuthStatus", &auth_request, &etcdserverpb__auth_status_response__descriptor);
        assert_false(auth->enabled);
        refused("/etcdserverpb.Auth/Authenticate", &authenticate, ETCD_AUTH_NOT_ENABLED);

        check_health("", 200, "{\"health\":\"true\",\"reason\":\"\"}");
}

static void an_alarm_stands_until_it_is_disarmed(void **state) {
        Etcdserverpb__AlarmRequest alarm = ETCDSERVERPB__ALARM_REQUEST__INIT;
        Etcdserverpb__StatusRequest status_request = ETCDSERVERPB__STATUS_REQUEST__INIT;
        Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
        Etcdserverpb__AlarmResponse *alarms;
        Etcdserverpb__StatusResponse *status;
        char text[64];

        (void)state;
        alarms = ask("/etcdserverpb.Maintenance/Alarm", &alarm, &etcdserverpb__alarm_response__descriptor);
        assert_int_equal(alarms->n_alarms, 0);
        assert_int_equal(alarms->header->revision, 1);

        alarm.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE;
        alarm.alarm = ETCDSERVERPB__ALARM_TYPE__NOSPACE;
        alarm.memberid = alarms->header->member_id;
        alarms = ask("/etcdserverpb.Maintenance/Alarm", &alarm, &etcdserverpb__alarm_response__descriptor);
        assert_int_equal(alarms->n_alarms, 1);
        assert_int_equal(alarms->alarms[0]->memberid, alarm.memberid);
        assert_int_equal(alarms->alarms[0]->alarm, ETCDSERVERPB__ALARM_TYPE__NOSPACE);
        put_request.key = BIN("k");
        refused("/etcdserverpb.KV/Put", &put_request, ETCD_NO_SPACE);
        status = ask("/etcdserverpb.Maintenance/Status", &status_request, &etcdserverpb__status_response__descriptor);
        assert_int_equal(status->n_errors, 1);
        snprintf(text, sizeof(text), "memberID:%llu  alarm:NOSPACE", (unsigned long long)alarm.memberid);
        assert_string_equal(status->errors[0], text);
        check_health("", 503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}");
        check_health("serializable=true&exclude=NOSPACE", 200, "{\"health\":\"true\",\"reason\":\"\"}");
        check_health("exclude=NOSPACES&xexclude=NOSPACE", 503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}");

        alarm.alarm = ETCDSERVERPB__ALARM_TYPE__CORRUPT;
        ask("/etcdserverpb.Maintenance/Alarm", &alarm, &etcdserverpb__alarm_response__descriptor);
        refused("/etcdserverpb.KV/Put", &put_request, ETCD_CORRUPT);
        alarm.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE;
        ask("/etcdserverpb.Maintenance/Alarm", &alarm, &etcdserverpb__alarm_response__descriptor);
        refused("/etcdserverpb.KV/Put", &put_request, ETCD_NO_SPACE);
        alarm.alarm = ETCDSERVERPB__ALARM_TYPE__NOSPACE;
        alarms = ask("/etcdserverpb.Maintenance/Alarm", &alarm, &etcdserverpb__alarm_response__descriptor);
        assert_int_equal(alarms->n_alarms, 1);
        alarms = ask("/etcdserverpb.Maintenance/Alarm", &alarm, &etcdserverpb__alarm_response__descriptor);
        assert_int_equal(alarms->n_alarms, 0);
        assert_int_equal(put("k", "v", 1), 2);
        check_health("", 200, "{\"health\":\"true\",\"reason\":\"\"}");
}

static void hashes_are_of_a_revision(void **state) {
        Etcdserverpb__HashKVRequest by_revision = ETCDSERVERPB__HASH_KVREQUEST__INIT;
        Etcdserverpb__HashRequest whole = ETCDSERVERPB__HASH_REQUEST__INIT;
        Etcdserverpb__CompactionRequest compact = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
        Etcdserverpb__HashKVResponse *first, *second;

        (void)state;
        put("a", "1", 1);
        put("a", "2", 1);
        first = ask("/etcdserverpb.Maintenance/HashKV", &by_revision, &etcdserverpb__hash_kvresponse__descriptor);
        assert_int_equal(first->header->revision, 3);
        assert_int_equal(first->hash_revision, 3);
        assert_int_equal(first->compact_revision, -1);
        put("a", "3", 1);
        by_revision.revision = 3;
        second = ask("/etcdserverpb.Maintenance/HashKV", &by_revision, &etcdserverpb__hash_kvresponse__descriptor);
        assert_int_equal(second->header->revision, 4);
        assert_int_equal(second->hash, first->hash);
        by_revision.revision = 4;
        second = ask("/etcdserverpb.Maintenance/HashKV", &by_revision, &etcdserverpb__hash_kvresponse__descriptor);
        assert_int_not_equal(second->hash, first->hash);
        by_revision.revision = 5;
        refused("/etcdserverpb.Maintenance/HashKV", &by_revision, ETCD_FUTURE_REVISION);
        compact.revision = 3;
        ask("/etcdserverpb.KV/Compact", &compact, &etcdserverpb__compaction_response__descriptor);
        by_revision.revision = 2;
        refused("/etcdserverpb.Maintenance/HashKV", &by_revision, ETCD_COMPACTED);
        by_revision.revision = 3;
        second = ask("/etcdserverpb.Maintenance/HashKV", &by_revision, &etcdserverpb__hash_kvresponse__descriptor);
        assert_int_equal(second->compact_revision, 3);
        ask("/etcdserverpb.Maintenance/Hash", &whole, &etcdserverpb__hash_response__descriptor);
}

int main(void) {
#define TEST(t) cmocka_unit_test_setup_teardown(t, begin, end)
        const struct CMUnitTest tests[] = {
                TEST(a_key_is_put_read_updated_and_deleted),
                TEST(a_transaction_takes_one_branch),
                TEST(a_transaction_may_delete_what_it_has_put),
                TEST(lists_are_whole_in_order_and_in_pages),
                TEST(a_large_list_is_whole),
                TEST(a_streamed_list_ends_with_its_header),
                TEST(errors_are_etcds),
                TEST(a_watch_sees_each_change_with_what_was_before),
                TEST(a_watch_from_the_past_sees_all_or_says_compacted),
                TEST(who_asks_nothing_more_watches_on),
                TEST(refused_watches_are_answered_in_order),
                TEST(progress_is_told_behind_the_events),
                TEST(a_client_that_does_not_read_loses_nothing),
                TEST(a_lease_lives_is_kept_and_ends),
                TEST(the_rest_answers_as_a_cluster_of_one),
                TEST(an_alarm_stands_until_it_is_disarmed),
                TEST(hashes_are_of_a_revision),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
