/*
 * Against a server that does what a real one does only at the wrong moment: tells of progress too early, is lost between, has compacted what comes next,
 * does not answer. If these fail, an import or an export loses events then, or cannot be stopped.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fleet/etcd_client.h"
#include "fleet/transfer.h"
#include "rpc/listener.h"
#include "rpc/protobuf.h"

/* ---- the server */

enum watching { WATCH_OUT_OF_ORDER, WATCH_NEVER };

static struct {
        struct loop *loop;
        struct grpc_server *server;
        struct listener *listener;
        char folder[32], url[64];
        struct loop_task task;
        atomic_int watching, n_watches, n_ranges;
        atomic_llong asked_a, asked_b; /* the revisions that Range was asked for last, of "/a/" and "/b/" */
        atomic_llong most_asked;       /* keys at once */
        atomic_bool silent;            /* Range does not answer */
        atomic_llong starts[8];        /* the revisions that watches began with */
} s;

static void send(struct grpc_call *call, const ProtobufCMessage *message) {
        struct blob *packed = protobuf_pack(message);

        assert_non_null(packed);
        grpc_call_send(call, &packed, 1);
}

static void tell(struct grpc_call *call, int64_t header, bool created, int64_t compacted, const int64_t *revisions) {
        Etcdserverpb__WatchResponse response = ETCDSERVERPB__WATCH_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader head = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        Mvccpb__KeyValue kvs[8];
        Mvccpb__Event events[8], *list[8];

        head.revision = header;
        response.header = &head;
        response.created = created;
        response.canceled = compacted != 0;
        response.compact_revision = compacted;
        response.events = list;
        for (size_t i = 0; revisions && revisions[i]; i++) {
                mvccpb__key_value__init(&kvs[i]);
                mvccpb__event__init(&events[i]);
                kvs[i].key = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)"k"};
                kvs[i].mod_revision = revisions[i];
                events[i].kv = &kvs[i];
                list[i] = &events[i];
                response.n_events++;
        }
        send(call, &response.base);
}

static void out_of_order(struct grpc_call *call, int n) {
        switch (n) {
        case 0:
                tell(call, 80, true, 0, NULL);
                tell(call, 100, false, 0, NULL); /* too early */
                tell(call, 100, false, 0, (const int64_t[]){90, 90, 0});
                tell(call, 100, false, 0, (const int64_t[]){93, 95, 0});
                grpc_call_finish(call, GRPC_UNAVAILABLE, "gone");
                break;
        case 1:
                tell(call, 100, true, 0, NULL);
                tell(call, 100, false, 0, (const int64_t[]){97, 0});
                tell(call, 110, false, 0, NULL);
                grpc_call_finish(call, GRPC_UNAVAILABLE, "gone again");
                break;
        case 2: /* nobody wrote, and others' history was compacted */
                tell(call, 110, true, 0, NULL);
                tell(call, 110, false, 105, NULL);
                break;
        case 3:
                tell(call, 110, true, 0, NULL);
                tell(call, 111, false, 0, (const int64_t[]){111, 0});
                break;
        default:
                tell(call, 120, true, 0, NULL);
                tell(call, 120, false, 115, NULL);
                break;
        }
}

static void on_watch(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__WatchRequest *request =
                (const void *)protobuf_unpack(&etcdserverpb__watch_request__descriptor, grpc_call_arena(call), data);
        int n;

        if (request->request_union_case != ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST)
                return;
        n = atomic_fetch_add(&s.n_watches, 1);
        if (n < (int)n_elements(s.starts))
                s.starts[n] = request->create_request->start_revision;
        if (s.watching == WATCH_NEVER)
                grpc_call_finish(call, GRPC_UNAVAILABLE, "not now");
        else
                out_of_order(call, n);
}

#define N_SMALL 3000

/* Keys "/small/NNNN" without values. */
static void page_of(struct grpc_call *call, const Etcdserverpb__RangeRequest *request) {
        Etcdserverpb__RangeResponse response = ETCDSERVERPB__RANGE_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader head = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        struct arena *arena = grpc_call_arena(call);
        size_t from = request->key.len > 7 ? (size_t)atoi((const char *)request->key.data + 7) + 1 : 0;
        size_t n = min_of((size_t)request->limit, N_SMALL - from);
        Mvccpb__KeyValue **kvs = arena_alloc0(arena, n * sizeof(*kvs) + 1);

        s.most_asked = max_of((int64_t)s.most_asked, request->limit);
        for (size_t i = 0; i < n; i++) {
                char *key = arena_alloc0(arena, 16);

                kvs[i] = arena_alloc0(arena, sizeof(Mvccpb__KeyValue));
                mvccpb__key_value__init(kvs[i]);
                snprintf(key, 16, "/small/%04zu", from + i);
                kvs[i]->key = (ProtobufCBinaryData){.len = strlen(key), .data = (uint8_t *)key};
        }
        head.revision = 5;
        response.header = &head;
        response.kvs = kvs;
        response.n_kvs = n;
        response.more = from + n < N_SMALL;
        grpc_call_reply(call, protobuf_pack(&response.base));
}

static void on_range(struct grpc_call *call, struct bytes data) {
        Etcdserverpb__RangeResponse response = ETCDSERVERPB__RANGE_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader head = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        const Etcdserverpb__RangeRequest *request =
                (const void *)protobuf_unpack(&etcdserverpb__range_request__descriptor, grpc_call_arena(call), data);

        if (request->key.data[1] == 's') {
                page_of(call, request);
                return;
        }
        s.n_ranges++;
        *(request->key.data[1] == 'a' ? &s.asked_a : &s.asked_b) = request->revision;
        if (s.silent)
                return;
        head.revision = 5;
        head.cluster_id = 1;
        response.header = &head;
        grpc_call_reply(call, protobuf_pack(&response.base));
}

static void on_time_to_live(struct grpc_call *call, struct bytes data) {
        Etcdserverpb__LeaseTimeToLiveResponse response = ETCDSERVERPB__LEASE_TIME_TO_LIVE_RESPONSE__INIT;
        const Etcdserverpb__LeaseTimeToLiveRequest *request = (const void *)protobuf_unpack(
                &etcdserverpb__lease_time_to_live_request__descriptor, grpc_call_arena(call), data);

        if (request->id == 3) {
                grpc_call_finish(call, GRPC_PERMISSION_DENIED, "etcdserver: permission denied");
                return;
        }
        if (request->id == 4) {
                grpc_call_finish(call, GRPC_UNKNOWN, "not supported");
                return;
        }
        response.ttl = request->id == 1 ? 0 : -1;
        response.grantedttl = request->id == 1 ? 60 : 0;
        grpc_call_reply(call, protobuf_pack(&response.base));
}

static void on_leases(struct grpc_call *call, struct bytes data) {
        Etcdserverpb__LeaseLeasesResponse response = ETCDSERVERPB__LEASE_LEASES_RESPONSE__INIT;

        (void)data;
        grpc_call_reply(call, protobuf_pack(&response.base));
}

static const struct grpc_method methods[] = {
        {.path = "/etcdserverpb.Watch/Watch",
                .client_streaming = true,
                .server_streaming = true,
                .on_message = on_watch},
        {.path = "/etcdserverpb.KV/Range", .on_message = on_range},
        {.path = "/etcdserverpb.Lease/LeaseTimeToLive", .on_message = on_time_to_live},
        {.path = "/etcdserverpb.Lease/LeaseLeases", .on_message = on_leases},
};
static const struct grpc_service service = {"etcdserverpb", methods, n_elements(methods)};

static void on_accept(void *userdata, int fd) {
        (void)userdata;
        (void)grpc_server_accept(s.server, fd);
}

static int start(void **state) {
        struct grpc_server_config config = {.name = "test", .limits = grpc_default_limits};
        cleanup(freep) char *address = NULL;

        (void)state;
        memset(&s, 0, sizeof(s));
        strcpy(s.folder, "/tmp/test-etcd-XXXXXX");
        assert_non_null(mkdtemp(s.folder));
        snprintf(s.url, sizeof(s.url), "unix://%s/sock", s.folder);
        assert_true(asprintf(&address, "unix:%s/sock", s.folder) > 0);
        assert_int_equal(loop_new("server", &s.loop), 0);
        config.loop = s.loop;
        assert_int_equal(grpc_server_new(&config, &s.server), 0);
        assert_int_equal(grpc_server_add(s.server, &service, (struct bytes){}), 0);
        assert_int_equal(listener_new(s.loop, address, 0600, on_accept, NULL, &s.listener, NULL), 0);
        assert_int_equal(loop_start_thread(s.loop), 0);
        return 0;
}

static void close_all(struct loop_task *task) {
        (void)task;
        listener_free(steal(s.listener));
        grpc_server_free(steal(s.server));
        loop_stop(s.loop);
}

static int stop(void **state) {
        (void)state;
        s.task.run = close_all;
        loop_post(s.loop, &s.task);
        loop_join(s.loop);
        loop_free(s.loop);
        assert_int_equal(rmdir(s.folder), 0);
        return 0;
}

static struct etcd_client *client_new(struct loop *loop) {
        const char *const endpoints[] = {s.url};
        const struct etcd_client_config config = {.loop = loop, .endpoints = endpoints, .n_endpoints = 1};
        struct etcd_client *client;

        assert_int_equal(etcd_client_new(&config, &client, NULL), 0);
        return client;
}

/* ---- the watch */

struct seen {
        char text[256]; /* a letter and a number for each call */
        int64_t last;
};

static int on_event(void *userdata, const Mvccpb__Event *event) {
        struct seen *seen = userdata;
        size_t n = strlen(seen->text);

        snprintf(seen->text + n, sizeof(seen->text) - n, "e%lld ", (long long)event->kv->mod_revision);
        seen->last = event->kv->mod_revision;
        return 0;
}

static int on_revision(void *userdata, int64_t revision) {
        struct seen *seen = userdata;
        size_t n = strlen(seen->text);

        snprintf(seen->text + n, sizeof(seen->text) - n, "r%lld ", (long long)revision);
        return 0;
}

static void test_watch_out_of_order(void **state) {
        static const struct etcd_watch_handler handler = {.on_event = on_event, .on_revision = on_revision};
        const struct etcd_span span = {.key = bytes_of("", 1), .end = bytes_of("", 1)};
        cleanup(error_done) struct error err = {};
        struct seen seen = {};
        struct etcd_client *client;
        struct etcd_watch *watch;
        struct loop *loop;
        int r = 0;

        (void)state;
        s.watching = WATCH_OUT_OF_ORDER;
        assert_int_equal(loop_new("client", &loop), 0);
        client = client_new(loop);
        assert_int_equal(etcd_watch_new(client, &span, 81, &handler, &seen, &watch), 0);
        while (r >= 0 && seen.last < 111)
                r = etcd_watch_run(watch, NSEC_PER_SEC, &err);
        if (r < 0)
                fail_msg("%s", error_text(&err));
        /* Each revision on its own, whatever was said of progress; nothing lost, nothing twice. */
        assert_string_equal(seen.text, "r100 e90 e90 r90 e93 r93 e95 r95 e97 r97 r110 e111 r111 ");
        assert_int_equal(s.starts[0], 81);
        assert_int_equal(s.starts[1], 96); /* behind what came, not behind what was said */
        assert_int_equal(s.starts[2], 98);
        assert_int_equal(s.starts[3], 111); /* between there was nothing, so they said */
        assert_true(etcd_watch_is_open(watch));
        etcd_watch_free(watch);

        /* What it needs is compacted. */
        assert_int_equal(etcd_watch_new(client, &span, 112, &handler, &seen, &watch), 0);
        for (r = 0; r >= 0;)
                r = etcd_watch_run(watch, NSEC_PER_SEC, &err);
        assert_int_equal(r, -ESTALE);
        assert_int_equal(s.n_watches, 5);
        etcd_watch_free(watch);
        etcd_client_free(client);
        loop_free(loop);
}

/* ---- lists */

static int count(void *userdata, const Mvccpb__KeyValue *kv) {
        char key[16];

        snprintf(key, sizeof(key), "/small/%04d", (*(int *)userdata)++);
        assert_true(bytes_equal(bytes_of(kv->key.data, kv->key.len), bytes_of_string(key)));
        return 0;
}

/* However small they are, those that follow may be large. */
static void test_pages(void **state) {
        const struct etcd_span span = {.key = bytes_of_string("/small/"), .end = bytes_of_string("/small0")};
        struct etcd_client *client;
        struct loop *loop;
        int n = 0;

        (void)state;
        assert_int_equal(loop_new("client", &loop), 0);
        client = client_new(loop);
        assert_int_equal(etcd_client_list(client, &span, 0, false, count, &n, NULL, NULL), 0);
        assert_int_equal(n, N_SMALL);
        assert_true(s.most_asked <= 500);
        etcd_client_free(client);
        loop_free(loop);
}

/* ---- leases */

static void test_leases(void **state) {
        cleanup(error_done) struct error err = {};
        struct etcd_client *client;
        int64_t granted, left;
        struct loop *loop;

        (void)state;
        assert_int_equal(loop_new("client", &loop), 0);
        client = client_new(loop);
        /* Less than a second is left, and it may be kept alive yet. */
        assert_int_equal(etcd_client_lease(client, 1, &granted, &left, &err), 0);
        assert_int_equal(granted, 60);
        assert_int_equal(etcd_client_lease(client, 2, &granted, &left, &err), 0);
        assert_int_equal(granted, 0);
        assert_int_equal(etcd_client_lease(client, 4, &granted, &left, &err), -EOPNOTSUPP);
        /* Who may not know must not guess. */
        assert_int_equal(etcd_client_lease(client, 3, &granted, &left, &err), -EREMOTEIO);
        assert_non_null(strstr(error_text(&err), "permission denied"));
        etcd_client_free(client);
        loop_free(loop);
}

/* ---- transfers */

struct owner {
        struct loop *loop;
        struct loop_timer timer;
        bool done;
        int result;
};

static void on_done(void *userdata, int result, const char *reason) {
        struct owner *o = userdata;

        (void)reason;
        o->done = true;
        o->result = result;
        loop_stop(o->loop);
}

static void on_time(struct loop_timer *timer) {
        loop_stop(container_of(timer, struct owner, timer)->loop);
}

static void run_for(struct owner *o, uint64_t ns) {
        o->timer.on_time = on_time;
        loop_timer_set(o->loop, &o->timer, clock_now_ns() + ns);
        assert_int_equal(loop_run(o->loop), 0);
        loop_timer_clear(&o->timer);
}

/* compare: at this revision, and nothing is exported. */
static struct transfer *export_to_itself(struct owner *o, int64_t compare) {
        const char *const endpoints[] = {s.url};
        const struct transfer_end end = {.endpoints = endpoints, .n_endpoints = 1};
        struct transfer_config config = {.tenant = "berlin",
                .directory = s.folder,
                .source = end,
                .prefix = bytes_of_string("/a/"),
                .has_new_prefix = true,
                .new_prefix = bytes_of_string("/b/"),
                .on_done = on_done,
                .userdata = o};
        struct transfer *t;

        assert_int_equal(loop_new("owner", &o->loop), 0);
        config.loop = o->loop;
        if (compare)
                assert_int_equal(comparison_start(&config, &end, compare, &t, NULL), 0);
        else
                assert_int_equal(export_start(&config, &end, false, &t, NULL), 0);
        return t;
}

static void test_stop_while_the_target_is_silent(void **state) {
        struct owner o = {};
        uint64_t before;
        struct transfer *t;

        (void)state;
        s.silent = true;
        t = export_to_itself(&o, 0);
        while (!s.n_ranges)
                usleep(1000);
        before = clock_now_ns();
        transfer_stop(t);
        run_for(&o, 60 * NSEC_PER_SEC);
        assert_true(o.done);
        assert_int_equal(o.result, -ECANCELED);
        /* Not by the call's own time, which is 20 s. */
        assert_true(clock_now_ns() - before < 15 * NSEC_PER_SEC);
        transfer_free(t);
        loop_free(o.loop);
}

/* A source that cannot be watched is silent, too: that says nothing about what was written to it. */
static void test_no_end_without_a_watch(void **state) {
        struct owner o = {};
        struct transfer *t;

        (void)state;
        s.watching = WATCH_NEVER;
        t = export_to_itself(&o, 0);
        transfer_finish(t);
        while (s.n_watches < 2)
                usleep(1000);
        run_for(&o, 5 * NSEC_PER_SEC);
        assert_false(o.done);
        transfer_stop(t);
        while (!o.done)
                run_for(&o, NSEC_PER_SEC);
        assert_int_equal(o.result, -ECANCELED);
        transfer_free(t);
        loop_free(o.loop);
}

/* What was imported is looked at as it was then, since it is served by now; its source as it is. */
static void test_compared_as_it_was(void **state) {
        struct owner o = {};
        struct transfer *t;

        (void)state;
        s.asked_a = s.asked_b = -1;
        t = export_to_itself(&o, 4);
        while (!o.done)
                run_for(&o, NSEC_PER_SEC);
        assert_int_equal(o.result, 0);
        assert_int_equal(s.asked_a, 0);
        assert_int_equal(s.asked_b, 4);
        transfer_free(t);
        loop_free(o.loop);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_watch_out_of_order, start, stop),
                cmocka_unit_test_setup_teardown(test_pages, start, stop),
                cmocka_unit_test_setup_teardown(test_leases, start, stop),
                cmocka_unit_test_setup_teardown(test_stop_while_the_target_is_silent, start, stop),
                cmocka_unit_test_setup_teardown(test_no_end_without_a_watch, start, stop),
                cmocka_unit_test_setup_teardown(test_compared_as_it_was, start, stop),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
