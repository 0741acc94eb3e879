/*
 * What is put behind a log that was brought from elsewhere. If this fails, clients of a restored tenant go on from what is no more, or leases end too
 * early or too late.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fleet/tail.h"
#include "keyspace/record.h"

static const struct lease_left leases[] = {
        {.id = 7, .ttl = 10, .left_ms = 4321}, {.id = 8, .ttl = 10, .left_ms = 10000}};

static void test_as_it_is(void **state) {
        struct tail_config config = {.seq = 5, .revision = 9};
        struct tail tail;

        (void)state;
        assert_int_equal(tail_make(&config, &tail), 0);
        assert_null(tail.piece);
        assert_int_equal(tail.seq, 5);
        assert_int_equal(tail.revision, 9);
}

static void test_leases(void **state) {
        struct tail_config config = {.seq = 5, .revision = 9, .leases = leases, .n_leases = 2, .id = "fifteen letters"};
        struct tail tail, again;
        const struct stoke_record *r;

        (void)state;
        assert_int_equal(tail_make(&config, &tail), 0);
        assert_int_equal(tail.piece->n, 1); /* the other one has all its time */
        r = &tail.piece->records[0];
        assert_int_equal(r->seq, 6);
        assert_int_equal(tail.seq, 6);
        assert_int_equal(r->revision, 9);
        assert_int_equal(r->kind, RECORD_LEASE_LEFT);
        assert_int_equal(r->lease, 7);
        assert_int_equal(r->version, 4321);
        assert_true(r->hash == record_hash(r));
        /* The same once more: an installation may be fed again. */
        assert_int_equal(tail_make(&config, &again), 0);
        assert_memory_equal(&again.piece->records[0].origin, &r->origin, sizeof(r->origin));
        assert_true(again.piece->records[0].hash == r->hash);
        stream_piece_free(tail.piece);
        stream_piece_free(again.piece);
}

/* Above what was served and above what it has, whichever is more; so far above that a watch which has all of it is below the mark. */
static void test_above(void **state) {
        (void)state;
        for (unsigned i = 0; i < 2; i++) {
                struct tail_config config = {.seq = 5, .revision = i ? 900 : 9, .above = i ? 100 : 800};
                int64_t most = i ? 900 : 800;
                struct tail tail;

                assert_int_equal(tail_make(&config, &tail), 0);
                assert_int_equal(tail.piece->n, 1);
                assert_int_equal(tail.piece->records[0].kind, RECORD_MARK);
                assert_true(tail.revision > most + 1);
                assert_int_equal(tail.piece->records[0].create_revision, tail.revision);
                assert_int_equal(tail.piece->records[0].revision, tail.revision);
                stream_piece_free(tail.piece);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_as_it_is),
                cmocka_unit_test(test_leases),
                cmocka_unit_test(test_above),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
