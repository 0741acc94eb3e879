/* If these fail, a quota or an interval is not what its owner wrote, or a credential is not what was encoded. */
#include "folder.h"

#include <errno.h>

#include "fleet/quantity.h"

static void test_sizes(void **state) {
        static const struct {
                const char *text;
                int r;
                uint64_t bytes;
        } cases[] = {
                {"0", 0, 0},
                {"1536", 0, 1536},
                {"1Ki", 0, 1024},
                {"256Mi", 0, UINT64_C(256) << 20},
                {"2Gi", 0, UINT64_C(2) << 30},
                {"3Ti", 0, UINT64_C(3) << 40},
                {"5k", 0, 5000},
                {"5M", 0, 5000000},
                {"7G", 0, UINT64_C(7000000000)},
                {"", -EINVAL, 0},
                {"Mi", -EINVAL, 0},
                {"-1", -EINVAL, 0},
                {"+1", -EINVAL, 0},
                {"1.5Gi", -EINVAL, 0},
                {"1 Gi", -EINVAL, 0},
                {"1GiB", -EINVAL, 0},
                {"1gi", -EINVAL, 0},
                {"9223372036854775807", 0, INT64_MAX},
                {"9223372036854775808", -ERANGE, 0},
                {"99999999999999999999", -ERANGE, 0},
                {"16777216Ti", -ERANGE, 0},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                uint64_t bytes = 0;

                assert_int_equal(size_parse(cases[i].text, &bytes), cases[i].r);
                assert_int_equal(bytes, cases[i].bytes);
        }
        for (uint64_t v = 1; v < UINT64_C(1) << 45; v = v * 3 / 2 + 1) {
                uint64_t back;
                char text[32];

                size_print(v, text);
                assert_int_equal(size_parse(text, &back), 0);
                assert_int_equal(back, v);
        }
}

static void test_durations(void **state) {
        static const struct {
                const char *text;
                int r;
                uint64_t ns;
        } cases[] = {
                {"0", 0, 0},
                {"5m", 0, 300 * NSEC_PER_SEC},
                {"500ms", 0, 500 * NSEC_PER_MSEC},
                {"250us", 0, 250 * NSEC_PER_USEC},
                {"1h30m", 0, 5400 * NSEC_PER_SEC},
                {"2d", 0, 48 * 3600 * NSEC_PER_SEC},
                {"1m0s1ms", 0, 60 * NSEC_PER_SEC + NSEC_PER_MSEC},
                {"", -EINVAL, 0},
                {"5", -EINVAL, 0},
                {"m", -EINVAL, 0},
                {"5 m", -EINVAL, 0},
                {"-5m", -EINVAL, 0},
                {"5m5m", -EINVAL, 0},
                {"5s5m", -EINVAL, 0},
                {"5mm", -EINVAL, 0},
                {"1.5h", -EINVAL, 0},
                {"300000d", -ERANGE, 0},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                uint64_t ns = 0;

                assert_int_equal(duration_parse(cases[i].text, &ns), cases[i].r);
                if (cases[i].r == 0)
                        assert_int_equal(ns, cases[i].ns);
        }
        for (uint64_t v = 1000; v < UINT64_C(1) << 60; v += v / 3000 * 1000 + 1000) {
                uint64_t back;
                char text[64];

                duration_print(v, text);
                assert_int_equal(duration_parse(text, &back), 0);
                assert_int_equal(back, v);
        }
}

static void test_base64(void **state) {
        static const struct {
                const char *text, *plain; /* NULL: refused */
        } cases[] = {
                {"", ""},
                {"YQ==", "a"},
                {"YWI=", "ab"},
                {"YWJj", "abc"},
                {"cm9vdA==", "root"},
                {"YWJj\nZGVm\r\n", "abcdef"},
                {"+/+/", "\xfb\xff\xbf"},
                {"YQ", NULL},
                {"YQ=", NULL},
                {"YQ===", NULL},
                {"Y", NULL},
                {"=", NULL},
                {"YQ==YQ==", NULL},
                {"YW=j", NULL},
                {"Y Q==", NULL},
                {"(hidden)", NULL},
                {"-_-_", NULL},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                uint8_t *data = NULL;
                size_t size = 0;
                int r = base64_decode(cases[i].text, &data, &size);

                assert_int_equal(r, cases[i].plain ? 0 : -EINVAL);
                if (cases[i].plain) {
                        assert_int_equal(size, strlen(cases[i].plain));
                        assert_string_equal((char *)data, cases[i].plain);
                }
                free(data);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_durations),
                cmocka_unit_test(test_base64),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
