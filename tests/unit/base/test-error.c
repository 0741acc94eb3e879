/* If these fail, an operator reads a wrong reason, or none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

static void test_first_stands(void **state) {
        struct error e = {};

        (void)state;
        assert_int_equal(error_set(&e, -ENOENT, "no tenant %s", "a"), -ENOENT);
        assert_int_equal(error_set(&e, -EIO, "later"), -EIO);
        assert_int_equal(e.code, -ENOENT);
        assert_string_equal(error_text(&e), "no tenant a");
        assert_int_equal(error_prefix(&e, "file %d", 7), -ENOENT);
        assert_int_equal(error_prefix(&e, "load"), -ENOENT);
        assert_string_equal(error_text(&e), "load: file 7: no tenant a");
        error_done(&e);
        assert_int_equal(e.code, 0);
        assert_null(e.text);
        error_done(&e);
}

static void test_without_text(void **state) {
        struct error e = {.code = -ENOENT};

        (void)state;
        assert_string_equal(error_text(&e), strerror(ENOENT));
        error_prefix(&e, "%s", "open");
        assert_string_equal(error_text(&e), "open: No such file or directory");
        error_done(&e);
}

static void test_nowhere(void **state) {
        (void)state;
        assert_int_equal(error_set(NULL, -EINVAL, "unheard"), -EINVAL);
        assert_int_equal(error_prefix(NULL, "unheard"), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_first_stands),
                cmocka_unit_test(test_without_text),
                cmocka_unit_test(test_nowhere),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
