/* What a client sees of the server: calls, streams, deadlines, cancelling, draining, limits. With our own client over a Unix socket. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fixture.h"

struct result {
        struct loop *loop;
        size_t n_messages, n_bytes;
        uint8_t first, last;
        enum grpc_code code;
        char text[256];
        bool ended;
        struct grpc_client *free_in_message;
        struct grpc_client_call *cancel_in_message;
};

static void on_message(void *userdata, struct bytes data) {
        struct result *r = userdata;

        r->n_messages++;
        r->n_bytes += data.size;
        if (data.size) {
                r->first = data.data[0];
                r->last = data.data[data.size - 1];
        }
        if (r->cancel_in_message)
                grpc_client_cancel(steal(r->cancel_in_message));
        if (r->free_in_message)
                grpc_client_free(steal(r->free_in_message));
}

static void on_end(void *userdata, enum grpc_code code, const char *message) {
        struct result *r = userdata;

        assert_false(r->ended);
        r->ended = true;
        r->code = code;
        (void)snprintf(r->text, sizeof(r->text), "%s", message);
        loop_stop(r->loop);
}

static const struct grpc_client_handler handler = {on_message, on_end};

struct env {
        struct fixture f;
        struct loop *loop;
        struct grpc_client *client;
};

static void env_open(struct env *e, const struct grpc_limits *limits) {
        fixture_start(&e->f, limits);
        assert_int_equal(loop_new("client", &e->loop), 0);
        assert_int_equal(grpc_client_new(e->loop, e->f.address, &e->client, NULL), 0);
}

static void env_close(struct env *e) {
        grpc_client_free(e->client);
        loop_free(e->loop);
        fixture_stop(&e->f);
}

static struct grpc_client_call *start(
        struct env *e, struct result *r, const char *path, uint64_t timeout_ns, const char *message) {
        struct grpc_client_call *call;

        *r = (struct result){.loop = e->loop};
        assert_int_equal(grpc_client_start(e->client, path, timeout_ns, &handler, r, &call), 0);
        if (message)
                assert_int_equal(grpc_client_send(call, bytes_of_string(message)), 0);
        return call;
}

struct pause {
        struct loop_timer timer;
        struct loop *loop;
};

static void on_pause_over(struct loop_timer *timer) {
        loop_stop(container_of(timer, struct pause, timer)->loop);
}

static void run_for(struct loop *loop, uint64_t ms) {
        struct pause pause = {.timer.on_time = on_pause_over, .loop = loop};

        loop_timer_set(loop, &pause.timer, clock_now_ns() + ms * NSEC_PER_MSEC);
        assert_int_equal(loop_run(loop), 0);
        loop_timer_clear(&pause.timer);
}

static void run(struct env *e, struct result *r) {
        for (unsigned i = 0; i < 100 && !r->ended; i++)
                run_for(e->loop, 100);
        assert_true(r->ended);
}

static void unary(struct env *e, struct result *r, const char *path, const char *message) {
        grpc_client_half_close(start(e, r, path, 0, message));
        run(e, r);
}

static void test_unary(void **state) {
        struct env e;
        struct result r;

        (void)state;
        env_open(&e, NULL);
        unary(&e, &r, "/test.Echo/Unary", "hello");
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.n_messages, 1);
        assert_int_equal(r.n_bytes, 5);
        unary(&e, &r, "/test.Echo/Unary", "size:8000000");
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.n_bytes, 8000000);
        assert_int_equal(r.last, 'x');
        unary(&e, &r, "/test.Echo/Fail", "");
        assert_int_equal(r.code, GRPC_NOT_FOUND);
        assert_string_equal(r.text, "no % such\n thing");
        unary(&e, &r, "/test.Echo/Nothing", "");
        assert_int_equal(r.code, GRPC_UNIMPLEMENTED);
        assert_string_equal(r.text, "unknown method Nothing for service test.Echo");
        unary(&e, &r, "/no.Such/Nothing", "x");
        assert_int_equal(r.code, GRPC_UNIMPLEMENTED);
        assert_string_equal(r.text, "unknown service no.Such");
        unary(&e, &r, "/test.Echo/Unary", NULL);
        assert_int_equal(r.code, GRPC_INTERNAL);
        env_close(&e);
        assert_int_equal(e.f.n_frees, 3);
}

static void test_large_request(void **state) {
        struct env e;
        struct result r;
        struct grpc_client_call *call;
        static uint8_t large[4 * 1024 * 1024];

        (void)state;
        memset(large, 'q', sizeof(large));
        env_open(&e, NULL);
        call = start(&e, &r, "/test.Echo/Unary", 0, NULL);
        assert_int_equal(grpc_client_send(call, bytes_of(large, sizeof(large))), 0);
        grpc_client_half_close(call);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_RESOURCE_EXHAUSTED);
        assert_string_equal(r.text, "grpc: received message larger than max (4194304 vs. 2097152)");
        /* just as large as it may be, and the connection lives */
        call = start(&e, &r, "/test.Echo/Unary", 0, NULL);
        assert_int_equal(grpc_client_send(call, bytes_of(large, 2 * 1024 * 1024)), 0);
        grpc_client_half_close(call);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.n_bytes, 2 * 1024 * 1024);
        env_close(&e);
}

static void test_second_message(void **state) {
        struct env e;
        struct result r;
        struct grpc_client_call *call;

        (void)state;
        env_open(&e, NULL);
        call = start(&e, &r, "/test.Echo/Unary", 0, "one");
        assert_int_equal(grpc_client_send(call, bytes_of_string("two")), 0);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_INTERNAL);
        env_close(&e);
}

static void test_bidi(void **state) {
        struct env e;
        struct result r;
        struct grpc_client_call *call;

        (void)state;
        env_open(&e, NULL);
        call = start(&e, &r, "/test.Echo/Bidi", 0, NULL);
        for (unsigned i = 0; i < 1000; i++)
                assert_int_equal(grpc_client_send(call, bytes_of_string("message")), 0);
        grpc_client_half_close(call);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.n_messages, 1000);
        /* finished by the server while the client's side is open, from within on_message */
        call = start(&e, &r, "/test.Echo/Bidi", 0, "one");
        assert_int_equal(grpc_client_send(call, bytes_of_string("finish")), 0);
        assert_int_equal(grpc_client_send(call, bytes_of_string("three")), 0);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_ABORTED);
        assert_int_equal(r.n_messages, 1);
        assert_int_equal(e.f.n_cancels, 0);
        assert_true(fixture_wait(&e.f.n_frees, 2));
        env_close(&e);
}

static void test_deadline(void **state) {
        struct env e;
        struct result r;
        uint64_t before = clock_now_ns();

        (void)state;
        env_open(&e, NULL);
        grpc_client_half_close(start(&e, &r, "/test.Echo/Hold", 50 * NSEC_PER_MSEC, "x"));
        run(&e, &r);
        assert_int_equal(r.code, GRPC_DEADLINE_EXCEEDED);
        assert_string_equal(r.text, "context deadline exceeded");
        assert_true(clock_now_ns() - before < 5 * NSEC_PER_SEC);
        assert_true(fixture_wait(&e.f.n_cancels, 1));
        assert_true(fixture_wait(&e.f.n_frees, 1));
        env_close(&e);
}

static void test_cancel(void **state) {
        struct env e;
        struct result r;
        struct grpc_client_call *call;

        (void)state;
        env_open(&e, NULL);
        call = start(&e, &r, "/test.Echo/Hold", 0, "x");
        grpc_client_half_close(call);
        for (unsigned i = 0; i < 100 && !e.f.n_calls; i++)
                run_for(e.loop, 10);
        assert_int_equal(e.f.n_calls, 1);
        grpc_client_cancel(call);
        assert_true(r.ended);
        assert_int_equal(r.code, GRPC_CANCELLED);
        run_for(e.loop, 20);
        assert_true(fixture_wait(&e.f.n_frees, 1));
        assert_int_equal(e.f.n_cancels, 1);

        /* in the midst of a stream, from within on_message */
        call = start(&e, &r, "/test.Echo/Stream", 0, "count:1000");
        grpc_client_half_close(call);
        r.cancel_in_message = call;
        run(&e, &r);
        assert_int_equal(r.code, GRPC_CANCELLED);
        assert_int_equal(r.n_messages, 1);
        run_for(e.loop, 20);
        assert_true(fixture_wait(&e.f.n_frees, 2));
        assert_int_equal(e.f.n_cancels, 2);
        env_close(&e);
}

static void test_stream_drains(void **state) {
        struct env e;
        struct result r;

        (void)state;
        env_open(&e, NULL);
        unary(&e, &r, "/test.Echo/Stream", "count:1000");
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.n_messages, 1000);
        assert_int_equal(r.n_bytes, 1000 * 65536);
        assert_true(e.f.n_drained > 10);
        assert_true(e.f.pending_most <= 256 * 1024 + 65541);
        env_close(&e);
}

static void resume_sink(struct fixture *f) {
        grpc_call_resume(f->sink);
}

/* Otherwise whoever sends faster than a disk can take fills the memory. */
static void test_client_is_paused(void **state) {
        static const uint8_t message[256 * 1024];
        struct env e;
        struct result r, other;
        struct grpc_client_call *call;

        (void)state;
        env_open(&e, NULL);
        call = start(&e, &r, "/test.Echo/Sink", 0, "x");
        for (unsigned i = 0; i < 32; i++)
                assert_int_equal(grpc_client_send(call, bytes_of(message, sizeof(message))), 0);
        grpc_client_half_close(call);
        run_for(e.loop, 200);
        assert_true(e.f.n_sunk > 1);
        assert_true(e.f.n_sunk <= 1024 * 1024 + (long)sizeof(message));
        assert_false(r.ended);
        unary(&e, &other, "/test.Echo/Unary", "past it");
        assert_int_equal(other.code, GRPC_OK);
        fixture_run(&e.f, resume_sink);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(e.f.n_sunk, 1 + 32 * sizeof(message));
        env_close(&e);
}

static void count_done(void *userdata) {
        struct fixture *f = userdata;

        f->done++;
}

static void drain(struct fixture *f) {
        grpc_server_drain(f->server, f->drain_ns, count_done, f);
}

static void test_drain(void **state) {
        struct env e;
        struct result held, stream, later;
        struct grpc_client_call *call;

        (void)state;
        env_open(&e, NULL);
        grpc_client_half_close(start(&e, &held, "/test.Echo/Hold", 300 * NSEC_PER_MSEC, "x"));
        call = start(&e, &stream, "/test.Echo/Bidi", 0, "x");
        (void)call;
        for (unsigned i = 0; i < 100 && !(e.f.n_calls && e.f.n_messages); i++)
                run_for(e.loop, 10);
        e.f.drain_ns = 10 * NSEC_PER_SEC;
        fixture_run(&e.f, drain);
        run(&e, &stream);
        assert_int_equal(stream.code, GRPC_UNAVAILABLE);
        assert_string_equal(stream.text, "etcdserver: server stopped");
        assert_false(held.ended);
        assert_int_equal(e.f.done, 0);
        run(&e, &held); /* runs on, to its own end */
        assert_int_equal(held.code, GRPC_DEADLINE_EXCEEDED);
        for (unsigned i = 0; i < 300 && !e.f.done; i++)
                run_for(e.loop, 10);
        assert_int_equal(e.f.done, 1);
        unary(&e, &later, "/test.Echo/Unary", "x");
        assert_int_equal(later.code, GRPC_UNAVAILABLE);
        env_close(&e);
}

static void test_drain_timeout(void **state) {
        struct env e;
        struct result held;

        (void)state;
        env_open(&e, NULL);
        grpc_client_half_close(start(&e, &held, "/test.Echo/Hold", 0, "x"));
        for (unsigned i = 0; i < 100 && !e.f.n_calls; i++)
                run_for(e.loop, 10);
        e.f.drain_ns = 100 * NSEC_PER_MSEC;
        fixture_run(&e.f, drain);
        run(&e, &held);
        assert_int_equal(held.code, GRPC_UNAVAILABLE);
        assert_true(fixture_wait(&e.f.done, 1));
        assert_int_equal(e.f.n_frees, 1);
        env_close(&e);
}

static void test_free_from_within(void **state) {
        struct env e;
        struct result held, r;

        (void)state;
        env_open(&e, NULL);
        grpc_client_half_close(start(&e, &held, "/test.Echo/Hold", 0, "x"));
        for (unsigned i = 0; i < 100 && !e.f.n_calls; i++)
                run_for(e.loop, 10);
        unary(&e, &r, "/test.Echo/Free", "x");
        assert_int_equal(r.code, GRPC_UNAVAILABLE);
        run(&e, &held);
        assert_int_equal(held.code, GRPC_UNAVAILABLE);
        assert_true(fixture_wait(&e.f.n_frees, 2));
        assert_int_equal(e.f.n_cancels, 2);
        env_close(&e);
}

static void test_client_freed_from_within(void **state) {
        struct env e;
        struct result r;

        (void)state;
        env_open(&e, NULL);
        grpc_client_half_close(start(&e, &r, "/test.Echo/Stream", 0, "count:5"));
        r.free_in_message = steal(e.client);
        run(&e, &r);
        assert_int_equal(r.code, GRPC_CANCELLED);
        env_close(&e);
}

struct at_once {
        struct loop_timer timer;
        struct grpc_client_call *call;
        struct result *result;
        bool ended;
};

static void cancel_at_once(struct loop_timer *timer) {
        struct at_once *a = container_of(timer, struct at_once, timer);

        grpc_client_cancel(a->call);
        a->ended = a->result->ended;
}

/* A malformed answer, and in the same iteration a cancel: whoever has cancelled will not hear of the call again. */
static void test_cancel_after_malformed(void **state) {
        static const uint8_t answer[] = {0, 0, 0, NGHTTP2_SETTINGS, 0, 0, 0, 0, 0,    /**/
                0, 0, 1, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 0, 0, 0, 1, 0x88, /* :status 200 */
                0, 0, 5, NGHTTP2_DATA, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0};
        struct sockaddr_un sun = {.sun_family = AF_UNIX, .sun_path = "/tmp/test-rpc-malformed.XXXXXX"};
        struct at_once at_once = {.timer.on_time = cancel_at_once};
        struct grpc_client *client;
        struct result r = {};
        struct loop *loop;
        char address[128];
        int fd, peer;

        (void)state;
        fd = mkstemp(sun.sun_path);
        assert_true(fd >= 0);
        close(fd);
        (void)unlink(sun.sun_path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
        assert_int_equal(listen(fd, 1), 0);
        (void)snprintf(address, sizeof(address), "unix:%s", sun.sun_path);
        assert_int_equal(loop_new("client", &loop), 0);
        assert_int_equal(grpc_client_new(loop, address, &client, NULL), 0);
        peer = accept(fd, NULL, NULL);
        assert_true(peer >= 0);
        (void)unlink(sun.sun_path);
        close(fd);

        r.loop = loop;
        assert_int_equal(grpc_client_start(client, "/a/b", 0, &handler, &r, &at_once.call), 0);
        run_for(loop, 10);
        assert_int_equal(send(peer, answer, sizeof(answer), MSG_NOSIGNAL), sizeof(answer));
        at_once.result = &r;
        loop_timer_set(loop, &at_once.timer, clock_now_ns());
        run_for(loop, 10);
        assert_true(at_once.ended);
        assert_int_equal(r.code, GRPC_CANCELLED);
        assert_int_equal(r.n_messages, 0);
        grpc_client_free(client);
        loop_free(loop);
        close(peer);
}

/* A call on a connection whose server is going away may be made elsewhere: its code must say so. */
static void test_call_while_draining(void **state) {
        struct env e;
        struct result held, later;

        (void)state;
        env_open(&e, NULL);
        grpc_client_half_close(start(&e, &held, "/test.Echo/Hold", 2 * NSEC_PER_SEC, "x"));
        for (unsigned i = 0; i < 100 && !e.f.n_calls; i++)
                run_for(e.loop, 10);
        e.f.drain_ns = 10 * NSEC_PER_SEC;
        fixture_run(&e.f, drain);
        run_for(e.loop, 100);
        assert_false(held.ended);
        unary(&e, &later, "/test.Echo/Unary", "x");
        assert_int_equal(later.code, GRPC_UNAVAILABLE);
        assert_false(held.ended);
        run(&e, &held);
        assert_int_equal(held.code, GRPC_DEADLINE_EXCEEDED);
        env_close(&e);
}

static void test_no_server(void **state) {
        struct loop *loop;
        struct grpc_client *client;
        struct error err = {};

        (void)state;
        assert_int_equal(loop_new("client", &loop), 0);
        assert_int_equal(grpc_client_new(loop, "unix:/nowhere/at/all.sock", &client, &err), 0);
        assert_int_equal(
                grpc_client_unary(client, "/a/b", 0, bytes_of_string("x"), NULL, NULL, &err), GRPC_UNAVAILABLE);
        assert_non_null(strstr(error_text(&err), "No such file"));
        error_done(&err);
        grpc_client_free(client);
        loop_free(loop);
}

static void not_serving(struct fixture *f) {
        grpc_server_set_serving(f->server, false);
}

static void test_health(void **state) {
        struct env e;
        struct result r, watch;

        (void)state;
        env_open(&e, NULL);
        unary(&e, &r, "/grpc.health.v1.Health/Check", "");
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.last, 1);
        unary(&e, &r, "/grpc.health.v1.Health/Check", "\x0a\x04nope");
        assert_int_equal(r.code, GRPC_NOT_FOUND);
        grpc_client_half_close(start(&e, &watch, "/grpc.health.v1.Health/Watch", 0, "\x0a\x09test.Echo"));
        for (unsigned i = 0; i < 100 && watch.n_messages < 1; i++)
                run_for(e.loop, 10);
        assert_int_equal(watch.last, 1);
        fixture_run(&e.f, not_serving);
        for (unsigned i = 0; i < 100 && watch.n_messages < 2; i++)
                run_for(e.loop, 10);
        assert_int_equal(watch.last, 2);
        env_close(&e);
}

static void test_reflection(void **state) {
        struct env e;
        struct result r;

        (void)state;
        env_open(&e, NULL);
        unary(&e, &r, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "\x3a\x01*");
        assert_int_equal(r.code, GRPC_OK);
        assert_int_equal(r.n_messages, 1);
        unary(&e, &r, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                "\x22\x15grpc.health.v1.Health");
        assert_int_equal(r.code, GRPC_OK);
        assert_true(r.n_bytes > 200);
        unary(&e, &r, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "\x22\xff");
        assert_int_equal(r.code, GRPC_INVALID_ARGUMENT);
        env_close(&e);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_unary),
                cmocka_unit_test(test_large_request),
                cmocka_unit_test(test_second_message),
                cmocka_unit_test(test_bidi),
                cmocka_unit_test(test_deadline),
                cmocka_unit_test(test_cancel),
                cmocka_unit_test(test_stream_drains),
                cmocka_unit_test(test_client_is_paused),
                cmocka_unit_test(test_drain),
                cmocka_unit_test(test_drain_timeout),
                cmocka_unit_test(test_free_from_within),
                cmocka_unit_test(test_client_freed_from_within),
                cmocka_unit_test(test_cancel_after_malformed),
                cmocka_unit_test(test_call_while_draining),
                cmocka_unit_test(test_no_server),
                cmocka_unit_test(test_health),
                cmocka_unit_test(test_reflection),
        };

        return cmocka_run_group_tests_name("rpc-server", tests, NULL, NULL);
}
