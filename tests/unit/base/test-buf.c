/* If these fail, what is read or sent is cut, mixed up, or grows without a limit. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"

static void test_append(void **state) {
        struct buf b;

        (void)state;
        buf_init(&b, 0);
        for (unsigned i = 0; i < 10000; i++)
                assert_int_equal(buf_append(&b, &(uint8_t){(uint8_t)i}, 1), 0);
        assert_int_equal(b.size, 10000);
        for (unsigned i = 0; i < 10000; i++)
                assert_int_equal(b.data[i], (uint8_t)i);
        buf_consume(&b, 9990);
        assert_int_equal(b.size, 10);
        assert_int_equal(b.data[0], (uint8_t)9990);
        buf_consume(&b, 10);
        assert_int_equal(b.size, 0);
        assert_int_equal(buf_append(&b, NULL, 0), 0);
        assert_int_equal(buf_append_string(&b, "ab"), 0);
        buf_clear(&b);
        assert_int_equal(b.size, 0);
        buf_done(&b);
        assert_null(b.data);
}

static void test_max(void **state) {
        char text[200];
        struct buf b;

        (void)state;
        memset(text, 'x', sizeof(text));
        buf_init(&b, 300);
        assert_int_equal(buf_append(&b, text, 200), 0);
        assert_int_equal(buf_append(&b, text, 101), -EMSGSIZE);
        assert_int_equal(b.size, 200); /* nothing of it */
        assert_int_equal(buf_append(&b, text, 100), 0);
        assert_int_equal(b.size, 300);
        assert_true(b.capacity <= 300);
        assert_int_equal(buf_reserve(&b, 1), -EMSGSIZE);
        assert_int_equal(buf_reserve(&b, SIZE_MAX), -ENOMEM);
        buf_consume(&b, 100);
        assert_int_equal(buf_append(&b, text, 100), 0);
        buf_done(&b);
        assert_int_equal(b.max, 300);
}

static void test_printf(void **state) {
        struct buf b;

        (void)state;
        buf_init(&b, 0);
        assert_int_equal(buf_printf(&b, "%s=%d", "n", 5), 0);
        assert_int_equal(buf_printf(&b, ",%0500d", 7), 0);
        assert_int_equal(b.size, 3 + 501);
        assert_memory_equal(b.data, "n=5,000", 7);
        assert_int_equal(b.data[503], '7');
        buf_done(&b);

        buf_init(&b, 8);
        assert_int_equal(buf_printf(&b, "%s", "1234567"), 0);
        assert_int_equal(buf_printf(&b, "%s", "89"), -EMSGSIZE);
        assert_int_equal(b.size, 7);
        buf_done(&b);
}

static void test_bytes(void **state) {
        (void)state;
        assert_true(bytes_compare(bytes_of("a", 1), bytes_of("ab", 2)) < 0);
        assert_true(bytes_compare(bytes_of("b", 1), bytes_of("ab", 2)) > 0);
        assert_true(bytes_compare(bytes_of("a\0", 2), bytes_of("a", 1)) > 0);
        assert_true(bytes_compare(bytes_of("\xff", 1), bytes_of("a", 1)) > 0); /* unsigned, as etcd orders keys */
        assert_int_equal(bytes_compare((struct bytes){}, (struct bytes){}), 0);
        assert_true(bytes_compare((struct bytes){}, bytes_of("", 1)) < 0);
        assert_true(bytes_equal((struct bytes){}, bytes_of("x", 0)));
        assert_false(bytes_equal(bytes_of("a", 1), bytes_of("b", 1)));
        assert_int_equal(bytes_of_string("four").size, 4);
}

static void test_blob(void **state) {
        struct blob *b, *again;

        (void)state;
        b = blob_copy("value", 5);
        assert_non_null(b);
        again = blob_ref(b);
        blob_unref(b);
        assert_memory_equal(again->data, "value", 5);
        assert_int_equal(blob_bytes(again).size, 5);
        blob_unref(again);
        blob_unref(NULL);
        assert_int_equal(blob_bytes(NULL).size, 0);
        b = blob_new(0);
        assert_int_equal(b->size, 0);
        blob_unref(b);
        assert_null(blob_new((size_t)UINT32_MAX + 1));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_append),
                cmocka_unit_test(test_max),
                cmocka_unit_test(test_printf),
                cmocka_unit_test(test_bytes),
                cmocka_unit_test(test_blob),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
