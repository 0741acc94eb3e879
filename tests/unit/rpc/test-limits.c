/*
 * What a peer may make the server hold, what the server tells of its calls, and who the peer is. A failure here is a tenant that
 * takes the memory of all, a connection that is never closed, or a figure that lies to whoever watches the platform.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/metrics.h"
#include "raw.h"

static struct fixture f;

static void hello(struct raw *r) {
        raw_open(r, &f);
        put_hello(r, NULL, 0);
}

static void ask(struct raw *r, uint32_t stream, const char *path, const char *message) {
        put_headers(r, stream, path, NULL);
        put_message(r, stream, message, true);
}

/* The message of the one DATA frame that answers, as text. */
static void get_text(struct raw *r, char *out, size_t size) {
        do
                assert_true(get_frame(r));
        while (r->type != NGHTTP2_DATA);
        assert_true(r->size >= 5 && r->size - 5 < size);
        memcpy(out, r->frame + 9 + 5, r->size - 5);
        out[r->size - 5] = '\0';
}

static int setup(void **state) {
        (void)state;
        fixture_start(&f, NULL);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        fixture_stop(&f);
        return 0;
}

/* The control socket admits by group: the kernel's word must arrive whole. */
static void test_groups(void **state) {
        static const gid_t groups[] = {4711, 12, 70000};
        struct raw r;
        char text[1024];
        pid_t pid;
        int p[2], status;

        (void)state;
        if (geteuid() != 0) { /* only root may choose its groups: then it is those that we have */
                gid_t mine[256];
                int n = getgroups(n_elements(mine), mine);
                char expected[1024] = "";

                assert_true(n >= 0);
                for (int i = 0; i < n; i++)
                        (void)snprintf(
                                expected + strlen(expected), sizeof(expected) - strlen(expected), "%u ", mine[i]);
                hello(&r);
                ask(&r, 1, "/test.Echo/Groups", "");
                get_text(&r, text, sizeof(text));
                assert_string_equal(text, expected);
                raw_close(&r);
                return;
        }
        for (size_t n = 0; n <= n_elements(groups); n += n_elements(groups)) {
                ssize_t size;

                assert_int_equal(pipe(p), 0);
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        if (setgroups(n, groups) < 0)
                                _exit(1);
                        hello(&r);
                        ask(&r, 1, "/test.Echo/Groups", "");
                        get_text(&r, text, sizeof(text));
                        _exit(write(p[1], text, strlen(text)) != (ssize_t)strlen(text));
                }
                close(p[1]);
                size = read(p[0], text, sizeof(text) - 1);
                close(p[0]);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_int_equal(status, 0);
                text[size] = '\0';
                assert_string_equal(text, n ? "12 4711 70000 " : "");
        }
}

static void test_slow_line(void **state) {
        struct grpc_limits limits = grpc_default_limits;
        char text[4096], expected[64], name[] = "/tmp/test-rpc-log-XXXXXX";
        int fd = mkstemp(name), old = dup(STDERR_FILENO);
        struct raw r;
        ssize_t n;

        (void)state;
        limits.slow_ns = 10 * NSEC_PER_MSEC;
        fixture_start(&f, &limits);
        assert_true(fd >= 0 && old >= 0);
        (void)unlink(name);
        (void)fflush(stderr);
        assert_true(dup2(fd, STDERR_FILENO) >= 0);
        hello(&r);
        ask(&r, 1, "/test.Echo/Unary", "quick");
        (void)get_answer(&r, 1);
        put_headers(&r, 3, "/test.Echo/Hold", (const struct extra[]){{"grpc-timeout", "30m"}, {}});
        put_message(&r, 3, "x", true);
        (void)get_answer(&r, 3);
        raw_close(&r);
        assert_true(fixture_wait(&f.n_frees, 2));
        assert_true(dup2(old, STDERR_FILENO) >= 0);
        close(old);
        n = pread(fd, text, sizeof(text) - 1, 0);
        close(fd);
        assert_true(n >= 0);
        text[n] = '\0';
        assert_non_null(strstr(text, "test: slow request: /test.Echo/Hold took "));
        assert_non_null(strstr(text, " ms: DEADLINE_EXCEEDED"));
        (void)snprintf(expected, sizeof(expected), "peer=pid %d uid %u\n", (int)getpid(), getuid());
        assert_non_null(strstr(text, expected));
        assert_null(strstr(text, "/test.Echo/Unary"));
}

static double calls(const char *method, const char *code) {
        char labels[256];

        (void)snprintf(labels, sizeof(labels), "server=\"test\",method=\"%s\",code=\"%s\"", method, code);
        return metric_get(metric_counter("stokehold_grpc_calls_total", "gRPC calls that have ended", labels));
}

static double connections(void) {
        return metric_get(metric_gauge("stokehold_connections", "Connections open", "server=\"test\""));
}

static bool wait_connections(double n) {
        for (unsigned i = 0; i < 5000 && connections() != n; i++)
                usleep(1000);
        return connections() == n;
}

static void test_metrics(void **state) {
        double ok = calls("/test.Echo/Unary", "OK"), fail = calls("/test.Echo/Fail", "NOT_FOUND"),
               unknown = calls("unknown", "UNIMPLEMENTED"), cancelled = calls("/test.Echo/Hold", "CANCELLED");
        cleanup(buf_done) struct buf text = {};
        struct raw r, second;

        (void)state;
        assert_true(wait_connections(0));
        hello(&r);
        hello(&second);
        assert_true(wait_connections(2));
        for (uint32_t i = 0; i < 3; i++) {
                ask(&r, 2 * i + 1, "/test.Echo/Unary", "x");
                (void)get_answer(&r, 2 * i + 1);
        }
        ask(&r, 7, "/test.Echo/Fail", "x");
        (void)get_answer(&r, 7);
        ask(&r, 9, "/no.Such/Method", "x");
        (void)get_answer(&r, 9);
        ask(&r, 11, "/test.Echo/Hold", "x");
        assert_true(fixture_wait(&f.n_calls, 4));
        raw_close(&r);
        assert_true(wait_connections(1));
        raw_close(&second);
        assert_true(wait_connections(0));
        assert_true(calls("/test.Echo/Unary", "OK") - ok == 3);
        assert_true(calls("/test.Echo/Fail", "NOT_FOUND") - fail == 1);
        assert_true(calls("unknown", "UNIMPLEMENTED") - unknown == 1);
        assert_true(calls("/test.Echo/Hold", "CANCELLED") - cancelled == 1);
        assert_int_equal(metrics_print(&text), 0);
        assert_int_equal(buf_append(&text, "", 1), 0);
        assert_non_null(
                strstr((char *)text.data, "stokehold_grpc_seconds_count{server=\"test\",method=\"/test.Echo/Unary\"}"));
}

static void test_max_connections(void **state) {
        struct grpc_limits limits = grpc_default_limits;
        struct raw r[3];
        uint8_t byte;

        (void)state;
        limits.max_connections = 2;
        fixture_start(&f, &limits);
        hello(&r[0]);
        hello(&r[1]);
        assert_true(get_frame(&r[0]) && get_frame(&r[1]));
        raw_open(&r[2], &f);
        assert_false(take(&r[2], &byte, 1)); /* closed, and at once */
        raw_close(&r[2]);
        ask(&r[1], 1, "/test.Echo/Unary", "x"); /* the others do not notice */
        assert_int_equal(get_answer(&r[1], 1), 6);
        raw_close(&r[0]);
        assert_true(wait_connections(1));
        expect_alive(&f);
        raw_close(&r[1]);
}

/* A peer that breaks the protocol loses its connection although a call of it is still running. */
static void test_error_ends_connection(void **state) {
        struct raw r;

        (void)state;
        hello(&r);
        ask(&r, 1, "/test.Echo/Hold", "x");
        assert_true(fixture_wait(&f.n_calls, 1));
        put_frame(&r, NGHTTP2_WINDOW_UPDATE, 0, 0, "\0\0\0\0", 4);
        expect_goaway(&r, NGHTTP2_PROTOCOL_ERROR, NULL);
        assert_true(fixture_wait(&f.n_cancels, 1));
        assert_false(get_frame(&r));
        assert_true(fixture_wait(&f.n_frees, 1));
        raw_close(&r);
}

/* Nobody is told of a deadline before it: etcd's client takes that for another's, and asks again, with writes too. The loop
 * is held up twice, so that what comes while it is the second time is read in an iteration that began long ago. */
static void test_deadline_is_not_early(void **state) {
        struct raw r[3];
        struct timespec began, ended;
        int64_t ms;

        (void)state;
        for (size_t i = 0; i < n_elements(r); i++)
                hello(&r[i]);
        ask(&r[0], 1, "/test.Echo/Sleep", "ms:300");
        assert_true(fixture_wait(&f.n_sleeps, 1));
        ask(&r[1], 1, "/test.Echo/Sleep", "ms:900");
        put_frame(&r[2], NGHTTP2_PING, 0, 0, "12345678", 8);
        assert_true(fixture_wait(&f.n_sleeps, 2));
        usleep(700 * 1000);
        clock_gettime(CLOCK_MONOTONIC, &began);
        put_headers(&r[2], 1, "/test.Echo/Hold", (const struct extra[]){{"grpc-timeout", "600m"}, {}});
        put_message(&r[2], 1, "x", true);
        (void)get_answer(&r[2], 1);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        assert_string_equal(r[2].status, "4");
        ms = (ended.tv_sec - began.tv_sec) * 1000 + (ended.tv_nsec - began.tv_nsec) / 1000000;
        assert_true(ms >= 599);
        for (size_t i = 0; i < n_elements(r); i++)
                raw_close(&r[i]);
}

/* Opens no window, asks for ever more, and pings to look alive. */
static void test_closed_window(void **state) {
        static const uint8_t settings[6] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0, 0, 0, 0};
        struct raw r;
        uint32_t stream = 1;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, settings, sizeof(settings));
        put_headers(&r, 101, "/test.Echo/Unary", NULL); /* opened in time, sent too late */
        for (stream = 103; stream < 103 + 2 * 9; stream += 2)
                ask(&r, stream, "/test.Echo/Unary", "size:8000000");
        assert_true(fixture_wait(&f.n_calls, 9));
        for (unsigned i = 0; i < 11; i++) {
                put_frame(&r, NGHTTP2_PING, 0, 0, "12345678", 8);
                usleep(500 * 1000);
                put_headers(&r, stream + 2 * i, "/no.Such/Method", NULL); /* our answer forgives the ping */
        }
        ask(&r, 201, "/test.Echo/Unary", "size:8000000");
        (void)get_answer(&r, 201);
        assert_string_equal(r.status, "8");
        put_message(&r, 101, "size:8000000", true);
        (void)get_answer(&r, 101);
        assert_string_equal(r.status, "8");
        assert_int_equal(f.n_calls, 9);
        raw_close(&r);
        expect_alive(&f);
}

/* Requests that never end, each with all the headers that it may have. */
static void test_held_headers(void **state) {
        struct raw r;
        uint8_t block[16384];
        char value[121];
        size_t n;

        (void)state;
        memset(value, 'v', 120);
        value[120] = '\0';
        n = make_headers(block, "POST", "/test.Echo/Unary", "a", NULL);
        while (n < 12000)
                n += header(block + n, "x-large", value);
        hello(&r);
        for (uint32_t i = 0; i < 7000; i++) { /* 100 MB */
                uint8_t bytes[9 + 16384];

                put(&r, bytes, make_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 1, block, n));
        }
        do
                assert_true(get_frame(&r));
        while (r.type != NGHTTP2_HEADERS);
        assert_string_equal(r.status, "8");
        assert_true(r.stream / 2 * 12000 > 32 * 1024 * 1024);
        raw_close(&r);
        expect_alive(&f);
}

/* Streams that the peer makes us reset cost as much as those that it resets. */
static void test_forced_resets(void **state) {
        struct raw r;

        (void)state;
        hello(&r);
        for (uint32_t i = 0; i < 3000; i++) {
                uint8_t bytes[2048], block[1024];
                size_t n = make_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 1, block,
                        make_headers(block, "POST", "/test.Echo/Hold", "a", NULL));

                n += make_frame(bytes + n, NGHTTP2_WINDOW_UPDATE, 0, 2 * i + 1, "\x7f\xff\xff\xff", 4);
                if (send(r.fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
                        break;
        }
        expect_goaway(&r, NGHTTP2_ENHANCE_YOUR_CALM, NULL);
        raw_close(&r);
        expect_alive(&f);
}

/* Whoever frees the server may free what its calls use. */
static void test_free_on_cancel(void **state) {
        struct raw r;

        (void)state;
        hello(&r);
        for (uint32_t i = 0; i < 5; i++)
                ask(&r, 2 * i + 1, "/test.Echo/FreeOnCancel", "x");
        assert_true(fixture_wait(&f.n_calls, 5));
        raw_close(&r);
        assert_true(fixture_wait(&f.n_frees, 5));
        assert_int_equal(f.n_cancels, 5);
        assert_int_equal(f.n_frees_when_freed, 4); /* all but the one that is being cancelled */
}

/* The same, when it is the client's reset of one stream that begins it, or a deadline. */
static void test_free_on_reset(void **state) {
        (void)state;
        for (unsigned i = 0; i < 2; i++) {
                struct raw r;

                fixture_start(&f, NULL);
                hello(&r);
                ask(&r, 1, "/test.Echo/FreeOnCancel", "x");
                put_headers(&r, 3, "/test.Echo/FreeOnCancel",
                        i ? (const struct extra[]){{"grpc-timeout", "50m"}, {}} : NULL);
                put_message(&r, 3, "x", true);
                ask(&r, 5, "/test.Echo/Hold", "x");
                assert_true(fixture_wait(&f.n_calls, 3));
                if (i == 0)
                        put_frame(&r, NGHTTP2_RST_STREAM, 0, 3, "\0\0\0\x08", 4);
                assert_true(fixture_wait(&f.n_frees, 3));
                while (get_frame(&r))
                        ;
                assert_int_equal(f.n_cancels, 3);
                assert_int_equal(f.n_frees, 3);
                raw_close(&r);
                if (i == 0)
                        fixture_stop(&f);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_groups, setup, teardown),
                cmocka_unit_test_teardown(test_slow_line, teardown),
                cmocka_unit_test_setup_teardown(test_metrics, setup, teardown),
                cmocka_unit_test_teardown(test_max_connections, teardown),
                cmocka_unit_test_setup_teardown(test_error_ends_connection, setup, teardown),
                cmocka_unit_test_setup_teardown(test_deadline_is_not_early, setup, teardown),
                cmocka_unit_test_setup_teardown(test_closed_window, setup, teardown),
                cmocka_unit_test_setup_teardown(test_held_headers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_forced_resets, setup, teardown),
                cmocka_unit_test_setup_teardown(test_free_on_cancel, setup, teardown),
                cmocka_unit_test_teardown(test_free_on_reset, teardown),
        };

        return cmocka_run_group_tests_name("rpc-limits", tests, NULL, NULL);
}
