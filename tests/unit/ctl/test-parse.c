/*
 * Times and sizes on stokectl's command line. If these fail, a tenant gets another quota than its operator wrote.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ctl/parse.h"

static void sizes_mean_what_kubernetes_means(void **state) {
        uint64_t size;

        (void)state;
        assert_int_equal(ctl_parse_size("512Mi", &size), 0);
        assert_int_equal(size, 512 << 20);
        assert_int_equal(ctl_parse_size("2G", &size), 0);
        assert_int_equal(size, 2000000000);
        assert_int_equal(ctl_parse_size("1.5Gi", &size), 0);
        assert_int_equal(size, UINT64_C(3) << 29);
        assert_int_equal(ctl_parse_size("4096", &size), 0);
        assert_int_equal(size, 4096);
}

static void wrong_sizes_are_refused(void **state) {
        static const char *const wrong[] = {
                "", "-1", "0", "Mi", "1Q", "1 Mi", "1mi", "0x10", "1e9", "nan", "inf", "9999999Ti", "+5", "5Mib"};
        uint64_t size;

        (void)state;
        for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
                assert_true(ctl_parse_size(wrong[i], &size) < 0);
}

static void times_have_units(void **state) {
        static const char *const wrong[] = {"", "s", "-1s", "0", "nan", "inf", "2d", "10 s", "100000m"};
        uint64_t ns;

        (void)state;
        assert_int_equal(ctl_parse_time("1.5h", &ns), 0);
        assert_int_equal(ns, UINT64_C(5400000000000));
        assert_int_equal(ctl_parse_retention("7d", &ns), 0);
        assert_int_equal(ns, UINT64_C(604800000000000));
        assert_int_equal(ctl_parse_retention("0", &ns), 0);
        assert_int_equal(ns, 0);
        assert_true(ctl_parse_retention("2y", &ns) < 0 && ctl_parse_retention("400d", &ns) < 0);
        assert_int_equal(ctl_parse_time("500ms", &ns), 0);
        assert_int_equal(ns, UINT64_C(500000000));
        assert_int_equal(ctl_parse_time("3", &ns), 0);
        assert_int_equal(ns, UINT64_C(3000000000));
        assert_int_equal(ctl_parse_time("2m", &ns), 0);
        assert_int_equal(ns, UINT64_C(120000000000));
        for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
                assert_int_equal(ctl_parse_time(wrong[i], &ns), -EINVAL);
}

static void revisions(void **state) {
        const char *wrong[] = {"", "0", "-1", "+1", "1k", " 1", "4611686018427387904", "18446744073709551617"};
        int64_t revision = 0;

        (void)state;
        assert_int_equal(ctl_parse_revision("1", &revision), 0);
        assert_int_equal(revision, 1);
        assert_int_equal(ctl_parse_revision("4611686018427387903", &revision), 0);
        assert_int_equal(revision, INT64_MAX / 2);
        for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
                assert_true(ctl_parse_revision(wrong[i], &revision) < 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sizes_mean_what_kubernetes_means),
                cmocka_unit_test(wrong_sizes_are_refused),
                cmocka_unit_test(times_have_units),
                cmocka_unit_test(revisions),
        };

        return cmocka_run_group_tests_name("ctl-parse", tests, NULL, NULL);
}
