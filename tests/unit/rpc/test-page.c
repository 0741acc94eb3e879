/* What a probe gets that speaks HTTP/2: curl and Go choose it where TLS offers it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "raw.h"

static struct fixture f;

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

static void ask(struct raw *r, uint32_t stream, const char *method, const char *path) {
        uint8_t block[1024];
        size_t n = 0;

        n += header(block + n, ":method", method);
        n += header(block + n, ":scheme", "https");
        n += header(block + n, ":path", path);
        n += header(block + n, ":authority", "localhost");
        put_frame(r, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, stream, block, n);
}

static void test_pages(void **state) {
        static const uint8_t more[4] = {0, 1, 0, 0};
        struct raw r;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        ask(&r, 1, "GET", "/health?serializable=true");
        assert_int_equal(get_answer(&r, 1), strlen("{\"health\":\"true\"}\n"));
        assert_string_equal(r.http, "200");
        ask(&r, 3, "HEAD", "/health");
        assert_int_equal(get_answer(&r, 3), 0);
        assert_string_equal(r.http, "200");
        ask(&r, 5, "GET", "/large");
        put_frame(&r, NGHTTP2_WINDOW_UPDATE, 0, 0, more, 4);
        put_frame(&r, NGHTTP2_WINDOW_UPDATE, 0, 5, more, 4);
        assert_int_equal(get_answer(&r, 5), 100000);
        ask(&r, 7, "GET", "/nothing");
        assert_int_equal(get_answer(&r, 7), 0);
        assert_string_equal(r.http, "405");
        ask(&r, 9, "DELETE", "/health");
        assert_int_equal(get_answer(&r, 9), 0);
        assert_string_equal(r.http, "405");
        raw_close(&r);
        expect_alive(&f);
}

/* One that is answered later, one whose client does not wait, one whose connection is gone by then. */
static void test_later(void **state) {
        static const uint8_t cancel[4] = {0, 0, 0, NGHTTP2_CANCEL};
        struct raw r, gone;

        (void)state;
        raw_open(&r, &f);
        put_hello(&r, NULL, 0);
        ask(&r, 1, "GET", "/later");
        put_frame(&r, NGHTTP2_RST_STREAM, 0, 1, cancel, 4);
        ask(&r, 3, "GET", "/later");
        raw_open(&gone, &f);
        put_hello(&gone, NULL, 0);
        ask(&gone, 1, "GET", "/later");
        assert_true(get_frame(&gone));
        raw_close(&gone);
        assert_int_equal(get_answer(&r, 3), strlen("later"));
        assert_string_equal(r.http, "503");
        raw_close(&r);
        assert_true(fixture_wait(&f.n_later, 3));
        expect_alive(&f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
                cmocka_unit_test_setup_teardown(test_later, setup, teardown),
        };

        return cmocka_run_group_tests_name("rpc-page", tests, NULL, NULL);
}
