/*
 * Bytes made by hand: what odd, careless and hostile clients send. A failure here is a connection that a real client loses, or a
 * server that one client can bring down for all.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

#include "raw.h"

static struct fixture f;

static int setup(void **state) {
        (void)state;
        fixture_start(&f, NULL);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        expect_alive(&f);
        fixture_stop(&f);
        return 0;
}

/* etcd 3.4's client on a Unix socket. */
static void test_odd_authority(void **state) {
        static const char *const odd[] = {
                "/run/stokehold/etcd.sock", "%2Frun%2Fetcd.sock", "#initially=[a;b]", "", "a b\x01"};
        struct raw r;
        uint8_t block[1024];

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        for (uint32_t i = 0; i < n_elements(odd); i++) {
                put_frame(&r, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 1, block,
                        make_headers(block, "POST", "/test.Echo/Unary", odd[i], NULL));
                put_message(&r, 2 * i + 1, "hello", true);
                assert_int_equal(get_answer(&r, 2 * i + 1), 10);
                assert_string_equal(r.status, "0");
                assert_string_equal(r.http, "200");
        }
        raw_close(&r);
}

static void test_bad_headers(void **state) {
        struct raw r;
        uint8_t block[1024];

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_frame(&r, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, block,
                make_headers(block, "GET", "/test.Echo/Unary", "a", NULL));
        (void)get_answer(&r, 1);
        assert_string_equal(r.http, "405");
        put_headers(&r, 3, "/test.Echo/Unary", (const struct extra[]){{"content-type", "text/html"}, {}});
        (void)get_answer(&r, 3);
        assert_string_equal(r.http, "415");
        put_headers(&r, 5, "/test.Echo/Unary", (const struct extra[]){{"grpc-encoding", "gzip"}, {}});
        (void)get_answer(&r, 5);
        assert_string_equal(r.status, "12");
        put_headers(&r, 7, "/test.Echo/Unary", (const struct extra[]){{"grpc-timeout", "1x"}, {}});
        (void)get_answer(&r, 7);
        assert_string_equal(r.status, "13");
        put_headers(&r, 9, "nonsense", NULL);
        (void)get_answer(&r, 9);
        assert_string_equal(r.status, "12");
        put_headers(&r, 11, "/no.Such/Method", NULL);
        put_message(&r, 11, "hello", true);
        (void)get_answer(&r, 11);
        assert_string_equal(r.status, "12");
        assert_string_equal(r.message, "unknown service no.Such");
        raw_close(&r);
}

static void test_timeouts(void **state) {
        static const char *const timeouts[] = {"20m", "20000u", "20000000n", "0S"};
        struct raw r;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        for (uint32_t i = 0; i < n_elements(timeouts); i++) {
                put_headers(
                        &r, 2 * i + 1, "/test.Echo/Hold", (const struct extra[]){{"grpc-timeout", timeouts[i]}, {}});
                put_message(&r, 2 * i + 1, "x", true);
                (void)get_answer(&r, 2 * i + 1);
                assert_string_equal(r.status, "4");
                assert_string_equal(r.message, "context deadline exceeded");
        }
        put_headers(&r, 21, "/test.Echo/Unary", (const struct extra[]){{"grpc-timeout", "99999999H"}, {}});
        put_message(&r, 21, "x", true);
        (void)get_answer(&r, 21);
        assert_string_equal(r.status, "0");
        raw_close(&r);
}

/* A byte a frame, padded ones too; and several messages in one frame. */
static void test_split_and_joined(void **state) {
        struct raw r;
        uint8_t bytes[1024];
        size_t n;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_headers(&r, 1, "/test.Echo/Unary", NULL);
        n = make_message(bytes, "a message in many pieces");
        for (size_t i = 0; i < n; i++) {
                const uint8_t padded[4] = {2, bytes[i], 0, 0};

                if (i % 2)
                        put_frame(&r, NGHTTP2_DATA, 0, 1, bytes + i, 1);
                else
                        put_frame(&r, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, padded, 4);
        }
        put_frame(&r, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, NULL, 0);
        assert_int_equal(get_answer(&r, 1), n);
        assert_string_equal(r.status, "0");

        put_headers(&r, 3, "/test.Echo/Bidi", NULL);
        n = make_message(bytes, "one");
        n += make_message(bytes + n, "");
        n += make_message(bytes + n, "three");
        put_frame(&r, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 3, bytes, n);
        assert_int_equal(get_answer(&r, 3), n);
        assert_string_equal(r.status, "0");

        /* the stream ends within a message */
        put_headers(&r, 5, "/test.Echo/Unary", NULL);
        put_frame(&r, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 5, bytes, 3);
        (void)get_answer(&r, 5);
        assert_string_equal(r.status, "13");
        raw_close(&r);
}

static void put_window(struct raw *r, uint32_t stream, uint32_t n) {
        const uint8_t bytes[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};

        put_frame(r, NGHTTP2_WINDOW_UPDATE, 0, stream, bytes, 4);
}

static void test_tiny_window(void **state) {
        static const uint8_t settings[6] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0, 0, 1024 >> 8, 0};
        struct raw r;
        size_t n = 0;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, settings, sizeof(settings));
        put_headers(&r, 1, "/test.Echo/Unary", NULL);
        put_message(&r, 1, "size:1048576", true);
        for (;;) {
                assert_true(get_frame(&r));
                if (r.stream != 1)
                        continue;
                if (r.type == NGHTTP2_DATA) {
                        assert_true(r.size <= 1024);
                        n += r.size;
                        put_window(&r, 0, (uint32_t)r.size);
                        if (r.size)
                                put_window(&r, 1, (uint32_t)r.size);
                }
                if (r.flags & NGHTTP2_FLAG_END_STREAM)
                        break;
        }
        assert_int_equal(n, 1048576 + 5);
        assert_string_equal(r.status, "0");
        raw_close(&r);
}

/* Opens the windows wide, asks for much and reads nothing. */
static void test_slow_reader(void **state) {
        static const uint8_t settings[6] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x7f, 0xff, 0xff, 0xff};
        struct raw r;
        int drained;
        size_t sent = 0;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, settings, sizeof(settings));
        put_window(&r, 0, 0x7fff0000);
        put_headers(&r, 1, "/test.Echo/Stream", NULL);
        put_message(&r, 1, "count:100000", true);
        assert_true(fixture_wait(&f.n_calls, 1));
        usleep(200 * 1000);
        drained = f.n_drained;
        usleep(200 * 1000);
        assert_int_equal(f.n_drained, drained); /* it has stopped */
        assert_true(f.pending_most <= 256 * 1024 + 65541);

        /* and asks on: the server does not read for ever */
        for (uint32_t i = 0; i < 10000; i++) {
                uint8_t bytes[2048], block[1024];
                size_t n = make_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 3, block,
                        make_headers(block, "POST", "/test.Echo/Unary", "a", NULL));

                n += make_frame(bytes + n, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 2 * i + 3, block,
                        make_message(block, "size:100000"));
                for (unsigned k = 0; k < 100 && !try_put(&r, bytes, n); k++) {
                        usleep(2000);
                        if (k == 99)
                                goto blocked;
                }
                sent++;
        }
        fail_msg("the server took %zu requests", sent);
blocked:
        assert_true(sent < 5000);
        raw_close(&r);
        assert_true(fixture_wait(&f.n_cancels, 1));
}

static void test_ping_flood(void **state) {
        struct raw r;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_headers(&r, 1, "/test.Echo/Hold", NULL);
        put_message(&r, 1, "x", true);
        for (unsigned i = 0; i < 5; i++)
                put_frame(&r, NGHTTP2_PING, 0, 0, "12345678", 8);
        expect_goaway(&r, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
        while (get_frame(&r))
                ;
        raw_close(&r);
        assert_true(fixture_wait(&f.n_cancels, 1));
}

static void flood(void (*make)(struct raw *r, uint32_t i, uint8_t *bytes, size_t *n), uint32_t most) {
        struct raw r;

        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_headers(&r, 1, "/test.Echo/Bidi", NULL);
        for (uint32_t i = 0; i < most; i++) {
                uint8_t bytes[2048];
                size_t n = 0;

                make(&r, i, bytes, &n);
                if (send(r.fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
                        break;
        }
        expect_goaway(&r, NGHTTP2_ENHANCE_YOUR_CALM, NULL);
        raw_close(&r);
        expect_alive(&f);
}

static void make_reset(struct raw *r, uint32_t i, uint8_t *bytes, size_t *n) {
        uint8_t block[1024];

        (void)r;
        *n = make_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 3, block,
                make_headers(block, "POST", "/test.Echo/Unary", "a", NULL));
        *n += make_frame(bytes + *n, NGHTTP2_RST_STREAM, 0, 2 * i + 3, "\0\0\0\x08", 4);
}

static void make_empty(struct raw *r, uint32_t i, uint8_t *bytes, size_t *n) {
        (void)r;
        (void)i;
        *n = make_frame(bytes, NGHTTP2_DATA, 0, 1, NULL, 0);
}

static void test_floods(void **state) {
        (void)state;
        flood(make_reset, 3000);
        flood(make_empty, 30000);
}

/* Sends a frame over and over until the server closes. It may read on for the while that it lingers, however many frames that
 * is on the machine: what counts is that it ends. */
static void expect_closed(struct raw *r, const void *frame, size_t size) {
        uint64_t end = clock_now_ns() + 60 * NSEC_PER_SEC;

        while (send(r->fd, frame, size, MSG_NOSIGNAL) == (ssize_t)size)
                assert_true(clock_now_ns() < end);
}

/* SETTINGS whose acknowledgements nobody reads, and CONTINUATION without end. */
static void test_closed_floods(void **state) {
        struct raw r;
        uint8_t bytes[2048];
        size_t n;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        n = make_frame(bytes, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
        expect_closed(&r, bytes, n);
        raw_close(&r);

        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_frame(&r, NGHTTP2_HEADERS, 0, 1, bytes, header(bytes, ":method", "POST"));
        n = make_frame(bytes, NGHTTP2_CONTINUATION, 0, 1, "\0\1a\1b", 5);
        expect_closed(&r, bytes, n);
        raw_close(&r);
}

static void test_header_list(void **state) {
        struct raw r;
        uint8_t block[32768], value[120];
        char text[121];
        size_t n, k;

        (void)state;
        memset(value, 'v', sizeof(value));
        memset(text, 'v', 120);
        text[120] = '\0';
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        n = make_headers(block, "POST", "/test.Echo/Unary", "a", NULL);
        while (n < 20000)
                n += header(block + n, "x-large", text);
        put_frame(&r, NGHTTP2_HEADERS, 0, 1, block, 16000);
        k = n - 16000;
        put_frame(&r, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, block + 16000, k);
        (void)get_answer(&r, 1);
        assert_string_equal(r.status, "8");
        raw_close(&r);
}

static void test_garbage(void **state) {
        static const char *const garbage[] = {
                "\x16\x03\x01\x02\x00\x01", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "lower case", "\0\0\0"};
        struct raw r;
        uint8_t byte;

        (void)state;
        for (size_t i = 0; i < n_elements(garbage); i++) {
                raw_open(&r, &f);
                put(&r, garbage[i], i == 3 ? 3 : strlen(garbage[i]));
                while (take(&r, &byte, 1))
                        ;
                raw_close(&r);
        }
        /* a preface, and then none of HTTP/2 */
        raw_open(&r, &f);
        put(&r, PREFACE, 24);
        put(&r, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
        while (get_frame(&r))
                ;
        raw_close(&r);
        /* a preface byte by byte is a good one */
        raw_open(&r, &f);
        for (size_t i = 0; i < 24; i++) {
                put(&r, PREFACE + i, 1);
                usleep(1000);
        }
        put_frame(&r, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
        assert_true(get_frame(&r));
        assert_int_equal(r.type, NGHTTP2_SETTINGS);
        raw_close(&r);
}

/* The server asks a silent peer whether it lives, and closes when there is no answer. */
static void test_keepalive(void **state) {
        struct grpc_limits limits = grpc_default_limits;
        struct raw r;
        unsigned n_pings = 0;

        (void)state;
        limits.keepalive_ns = 50 * NSEC_PER_MSEC;
        limits.keepalive_timeout_ns = 200 * NSEC_PER_MSEC;
        fixture_start(&f, &limits);
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        while (get_frame(&r))
                if (r.type == NGHTTP2_PING && ++n_pings <= 2)
                        put_frame(&r, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, r.frame + 9, 8);
        assert_int_equal(n_pings, 3); /* two were answered */
        raw_close(&r);
}

/* A drain tells first, then names the last stream, and takes no more. */
static void drain(struct fixture *fixture) {
        grpc_server_drain(fixture->server, 10 * NSEC_PER_SEC, NULL, NULL);
}

static void test_drain_goaway(void **state) {
        struct raw r;
        uint8_t ping[8];

        (void)state;
        fixture_start(&f, NULL);
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_headers(&r, 1, "/test.Echo/Hold", (const struct extra[]){{"grpc-timeout", "300m"}, {}});
        put_message(&r, 1, "x", true);
        assert_true(fixture_wait(&f.n_calls, 1));
        fixture_run(&f, drain);
        expect_goaway(&r, NGHTTP2_NO_ERROR, NULL);
        assert_memory_equal(r.frame + 9, "\x7f\xff\xff\xff", 4);
        do
                assert_true(get_frame(&r));
        while (r.type != NGHTTP2_PING);
        memcpy(ping, r.frame + 9, 8);
        put_headers(&r, 3, "/test.Echo/Unary", NULL); /* was on its way */
        put_message(&r, 3, "y", true);
        assert_int_equal(get_answer(&r, 3), 6);
        assert_string_equal(r.status, "0");
        put_frame(&r, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, ping, 8);
        expect_goaway(&r, NGHTTP2_NO_ERROR, NULL);
        assert_memory_equal(r.frame + 9, "\0\0\0\3", 4);
        (void)get_answer(&r, 1);
        assert_string_equal(r.status, "4");
        while (get_frame(&r))
                ;
        raw_close(&r);
}

static int stop(void **state) {
        (void)state;
        fixture_stop(&f);
        return 0;
}

static void test_peer(void **state) {
        struct raw r;
        char expected[128];

        (void)state;
        (void)snprintf(expected, sizeof(expected), "1 %d %u pid %d uid %u 1 who?", (int)getpid(), getuid(),
                (int)getpid(), getuid());
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        put_headers(&r, 1, "/test.Echo/Peer", (const struct extra[]){{"x-ask", "who?"}, {}});
        put_message(&r, 1, "", true);
        do
                assert_true(get_frame(&r));
        while (r.type != NGHTTP2_DATA);
        assert_int_equal(r.size, 5 + strlen(expected));
        assert_memory_equal(r.frame + 9 + 5, expected, strlen(expected));
        raw_close(&r);
}

static void http1(const char *request, char *answer, size_t size) {
        struct raw r;
        size_t n = 0;

        raw_open(&r, &f);
        put(&r, request, strlen(request));
        while (n + 1 < size && take(&r, (uint8_t *)answer + n, 1))
                n++;
        answer[n] = '\0';
        raw_close(&r);
}

static void test_http1(void **state) {
        char answer[2048];

        (void)state;
        http1("GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health?x=1 HTTP/1.1\r\nConnection: close\r\n\r\n", answer,
                sizeof(answer));
        assert_non_null(strstr(answer, "HTTP/1.1 200 OK\r\n"));
        assert_non_null(strstr(answer, "Content-Type: application/json\r\n"));
        assert_non_null(
                strstr(strstr(answer, "\r\n\r\n{\"health\":\"true\"}\n") + 4, "\r\n\r\n{\"health\":\"true\"}\n"));
        http1("HEAD /health HTTP/1.0\r\n\r\n", answer, sizeof(answer));
        assert_non_null(strstr(answer, "Content-Length: 18\r\n"));
        assert_null(strstr(answer, "true"));
        http1("GET /nothing HTTP/1.0\r\n\r\n", answer, sizeof(answer));
        assert_non_null(strstr(answer, "404"));
        http1("POST /health HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", answer, sizeof(answer));
        assert_non_null(strstr(answer, "405"));
        http1("PUT /health HTTP/1.1\r\n\r\n", answer, sizeof(answer)); /* begins as the preface does */
        assert_non_null(strstr(answer, "405"));
        http1("GET nonsense\r\n\r\n", answer, sizeof(answer));
        assert_non_null(strstr(answer, "400"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_odd_authority, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_headers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_timeouts, setup, teardown),
                cmocka_unit_test_setup_teardown(test_split_and_joined, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tiny_window, setup, teardown),
                cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ping_flood, setup, teardown),
                cmocka_unit_test_setup_teardown(test_floods, setup, teardown),
                cmocka_unit_test_setup_teardown(test_closed_floods, setup, teardown),
                cmocka_unit_test_setup_teardown(test_header_list, setup, teardown),
                cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
                cmocka_unit_test_setup_teardown(test_http1, setup, teardown),
                cmocka_unit_test_setup_teardown(test_peer, setup, teardown),
                cmocka_unit_test_teardown(test_keepalive, stop),
                cmocka_unit_test_teardown(test_drain_goaway, stop),
        };

        return cmocka_run_group_tests_name("rpc-traps", tests, NULL, NULL);
}
