/* If these fail, a call's memory overlaps another's, or a client can make a call take more than its limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"

static void test_disjoint(void **state) {
        static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 1000, 1024, 5000, 300000, 3, 700, 64};
        uint8_t *blocks[400];
        size_t n[400];
        struct arena a;

        (void)state;
        arena_init(&a, 0);
        for (size_t i = 0; i < n_elements(blocks); i++) {
                n[i] = sizes[i % n_elements(sizes)];
                blocks[i] = arena_alloc(&a, n[i]);
                assert_non_null(blocks[i]);
                assert_int_equal((uintptr_t)blocks[i] % 16, 0);
                memset(blocks[i], (int)(i & 0xff), n[i]);
        }
        for (size_t i = 0; i < n_elements(blocks); i++)
                for (size_t j = 0; j < n[i]; j++)
                        assert_int_equal(blocks[i][j], i & 0xff);
        arena_done(&a);

        /* It may be used again. */
        assert_non_null(arena_alloc(&a, 10));
        arena_done(&a);
}

static void test_max(void **state) {
        struct arena a;
        size_t total = 0;

        (void)state;
        arena_init(&a, 100 * 1000);
        while (arena_alloc(&a, 1000))
                total += 1000;
        assert_in_range(total, 90 * 1000, 100 * 1000);
        assert_true(a.total <= 100 * 1000);
        assert_null(arena_alloc(&a, 200 * 1000));
        assert_null(arena_alloc(&a, SIZE_MAX));
        assert_null(arena_alloc(&a, SIZE_MAX - 20));
        arena_done(&a);
        assert_non_null(arena_alloc(&a, 1000));
        arena_done(&a);
}

static void test_copies(void **state) {
        static const uint8_t zeroes[40];
        struct arena a;
        char *s;

        (void)state;
        arena_init(&a, 0);
        assert_memory_equal(arena_alloc0(&a, 40), zeroes, 40);
        assert_memory_equal(arena_copy(&a, "a\0b", 3), "a\0b", 3);
        assert_non_null(arena_copy(&a, NULL, 0));
        s = arena_string(&a, "hello", 4);
        assert_string_equal(s, "hell");
        assert_string_equal(arena_string(&a, "", 0), "");
        assert_null(arena_string(&a, "x", SIZE_MAX));
        arena_done(&a);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_disjoint),
                cmocka_unit_test(test_max),
                cmocka_unit_test(test_copies),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
