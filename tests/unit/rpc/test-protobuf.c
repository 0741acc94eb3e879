/* Messages from outside: nested without end, malformed, made to take memory. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node.pb-c.h"
#include "rpc/protobuf.h"

/* n messages, each in field 1 of the one around it. */
static struct bytes nested(uint8_t *end, unsigned n) {
        uint8_t *p = end;
        size_t size = 0;

        for (unsigned i = 0; i < n; i++) {
                uint8_t head[12], *h = head;

                *h++ = 1 << 3 | 2;
                h = protobuf_put_varint(h, size);
                p -= h - head;
                memcpy(p, head, (size_t)(h - head));
                size += (size_t)(h - head);
        }
        return bytes_of(p, size);
}

static uint8_t room[128 * 1024];

static void *unpack(struct bytes data) {
        struct arena a;
        void *m;

        arena_init(&a, 0);
        m = protobuf_unpack(&test__node__descriptor, &a, data);
        arena_done(&a);
        return m; /* only whether it is NULL matters */
}

static void test_depth(void **state) {
        (void)state;
        assert_non_null(unpack(nested(room + sizeof(room), 50)));
        assert_non_null(unpack(nested(room + sizeof(room), PROTOBUF_MAX_DEPTH - 1)));
        assert_null(unpack(nested(room + sizeof(room), PROTOBUF_MAX_DEPTH)));
        assert_true(nested(room + sizeof(room), 20000).size > 60000);
        assert_null(unpack(nested(room + sizeof(room), 20000)));
}

static void test_bytes_are_not_scanned(void **state) {
        struct arena a;
        Test__Node *n;
        uint8_t *p = room;

        (void)state;
        /* what is nested inside a field of bytes is no nesting */
        p = protobuf_put_field_bytes(p, 2, nested(room + sizeof(room), 10000));
        arena_init(&a, 0);
        n = (Test__Node *)protobuf_unpack(&test__node__descriptor, &a, bytes_of(room, (size_t)(p - room)));
        assert_non_null(n);
        assert_true(n->payload.len > 30000);
        arena_done(&a);
}

static void test_malformed(void **state) {
        static const char *const bad[] = {"\x0a\x05\x0a", "\x0a", "\x0b",
                "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x21\x01",
                "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"};

        (void)state;
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                assert_null(unpack(bytes_of_string(bad[i])));
        assert_non_null(unpack((struct bytes){}));
}

static void test_memory(void **state) {
        static uint8_t elements[2 * 1024 * 1024];
        struct arena a;

        (void)state;
        for (size_t i = 0; i < sizeof(elements); i += 2) {
                elements[i] = 3 << 3 | 2;
                elements[i + 1] = 0;
        }
        arena_init(&a, 0);
        (void)protobuf_unpack(&test__node__descriptor, &a, bytes_of(elements, sizeof(elements)));
        assert_true(a.total <= 49 * sizeof(elements));
        assert_int_equal(a.max, 0);
        arena_done(&a);
}

static void test_round_trip(void **state) {
        Test__Node child = TEST__NODE__INIT, node = TEST__NODE__INIT, *back;
        struct blob *b;
        struct arena a;

        (void)state;
        child.number = -5;
        node.child = &child;
        b = protobuf_pack(&node.base);
        assert_non_null(b);
        arena_init(&a, 0);
        back = (Test__Node *)protobuf_unpack(&test__node__descriptor, &a, blob_bytes(b));
        assert_non_null(back);
        assert_int_equal(back->child->number, -5);
        arena_done(&a);
        blob_unref(b);
}

static void test_by_hand(void **state) {
        Test__Flat flat = TEST__FLAT__INIT;
        uint8_t bytes[64], *p = bytes, packed[64];
        size_t n;

        (void)state;
        flat.key.data = (uint8_t *)"key";
        flat.key.len = 3;
        flat.number = 1234567890123;
        n = test__flat__pack(&flat, packed);
        assert_int_equal(n, protobuf_field_bytes_size(3) + protobuf_field_varint_size((uint64_t)flat.number));
        p = protobuf_put_field_bytes(p, 1, bytes_of("key", 3));
        p = protobuf_put_field_varint(p, 2, (uint64_t)flat.number);
        assert_int_equal(p - bytes, n);
        assert_memory_equal(bytes, packed, n);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_depth),
                cmocka_unit_test(test_bytes_are_not_scanned),
                cmocka_unit_test(test_malformed),
                cmocka_unit_test(test_memory),
                cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_by_hand),
        };

        return cmocka_run_group_tests_name("rpc-protobuf", tests, NULL, NULL);
}
