/*
 * A backup that cannot be read back, or that is read back as something else than what was written, is found on the day it is needed. Every
 * byte is changed here and every length is cut to.
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

#include "base/archive.h"

static const struct archive_about about = {
        .tenant = "berlin",
        .incarnation = "0123456789abcde",
        .cluster = "fedcba987654321",
        .revision = 4711,
        .compacted = 11,
        .end = 12,
        .created = 1700000000,
        .version = "0.1.0",
        .driver = "SQLite",
};

static int sink(void *userdata, struct bytes data) {
        return buf_append(userdata, data.data, data.size);
}

/* Numbers that a mistake in place or width would change. */
static struct stoke_record make_record(uint64_t seq, const void *value, size_t value_size) {
        struct stoke_record r = {
                .seq = seq,
                .revision = 4711,
                .kind = (uint8_t)(0x81 + seq % 2),
                .create_revision = INT64_C(0x0102030405060708),
                .version = (int64_t)seq * 1000,
                .lease = -5,
                .origin = {.daemon = "daemon-of-origin", .batch = INT64_MAX - seq},
                .hash = UINT64_MAX - seq,
                .key = "key\0with a NUL",
                .key_size = 14,
                .value = value,
                .value_size = value_size,
        };

        return r;
}

static void write_small(struct buf *out) {
        cleanup(archive_writer_freep) struct archive_writer *w = NULL;
        static const uint64_t seqs[] = {1, 2, 5, 12};

        assert_int_equal(archive_writer_new(&about, sink, out, &w), 0);
        assert_int_equal(archive_write_lease(w, &(struct archive_lease){77, 60, 12345}), 0);
        for (size_t i = 0; i < n_elements(seqs); i++) {
                struct stoke_record r = make_record(seqs[i], "value", i == 1 ? 0 : 5);

                assert_int_equal(archive_write_record(w, &r), 0);
        }
        assert_int_equal(archive_write_end(w), 0);
}

struct seen {
        size_t n_about, n_leases, n_records;
        uint64_t bytes, last;
};

static int on_about(void *userdata, const struct archive_about *a) {
        struct seen *seen = userdata;

        seen->n_about++;
        assert_string_equal(a->tenant, about.tenant);
        assert_string_equal(a->version, about.version);
        assert_string_equal(a->driver, about.driver);
        assert_memory_equal(a->incarnation, about.incarnation, 16);
        assert_memory_equal(a->cluster, about.cluster, 16);
        assert_int_equal(a->revision, about.revision);
        assert_int_equal(a->compacted, about.compacted);
        assert_int_equal(a->created, about.created);
        return 0;
}

static int on_lease(void *userdata, const struct archive_lease *lease) {
        struct seen *seen = userdata;

        seen->n_leases++;
        assert_int_equal(lease->id, 77);
        assert_int_equal(lease->ttl, 60);
        assert_int_equal(lease->left_ms, 12345);
        return 0;
}

static int on_record(void *userdata, const struct stoke_record *r) {
        struct seen *seen = userdata;
        struct stoke_record wanted = make_record(r->seq, r->value, r->value_size);

        seen->n_records++;
        seen->last = r->seq;
        seen->bytes += r->value_size;
        assert_int_equal(r->revision, wanted.revision);
        assert_int_equal(r->kind, wanted.kind);
        assert_int_equal(r->create_revision, wanted.create_revision);
        assert_int_equal(r->version, wanted.version);
        assert_int_equal(r->lease, wanted.lease);
        assert_memory_equal(&r->origin, &wanted.origin, sizeof(r->origin));
        assert_true(r->hash == wanted.hash);
        assert_int_equal(r->key_size, 14);
        assert_memory_equal(r->key, wanted.key, 14);
        if (r->value_size == 5)
                assert_memory_equal(r->value, "value", 5);
        return 0;
}

static const struct archive_handler handler = {on_about, on_lease, on_record};
static const struct archive_handler nothing = {};

/* 0 if all of it is a good file. */
static int read_all(
        struct bytes file, size_t piece, const struct archive_handler *h, struct seen *seen, struct error *reterr) {
        cleanup(archive_reader_freep) struct archive_reader *r = archive_reader_new(h, seen);
        int k = 0;

        for (size_t at = 0; at < file.size && k == 0; at += piece)
                k = archive_reader_feed(r, bytes_of(file.data + at, min_of(piece, file.size - at)), reterr);
        return k < 0 ? k : archive_reader_finish(r, reterr);
}

static void test_round_trip(void **state) {
        cleanup(buf_done) struct buf file = {};

        (void)state;
        write_small(&file);
        for (size_t piece = 1; piece <= file.size; piece++) {
                cleanup(error_done) struct error err = {};
                struct seen seen = {};

                if (read_all(bytes_of(file.data, file.size), piece, &handler, &seen, &err) < 0)
                        fail_msg("in pieces of %zu: %s", piece, error_text(&err));
                assert_int_equal(seen.n_about, 1);
                assert_int_equal(seen.n_leases, 1);
                assert_int_equal(seen.n_records, 4);
                assert_int_equal(seen.last, 12);
        }
}

static void test_each_bit_counts(void **state) {
        cleanup(buf_done) struct buf file = {};

        (void)state;
        write_small(&file);
        for (size_t i = 0; i < file.size; i++)
                for (unsigned bit = 0; bit < 8; bit++) {
                        cleanup(error_done) struct error err = {};

                        file.data[i] ^= (uint8_t)(1 << bit);
                        if (read_all(bytes_of(file.data, file.size), file.size, &nothing, NULL, &err) == 0)
                                fail_msg("bit %u of byte %zu was changed, and nobody noticed", bit, i);
                        assert_true(error_text(&err)[0]);
                        file.data[i] ^= (uint8_t)(1 << bit);
                }
        assert_int_equal(read_all(bytes_of(file.data, file.size), 7, &nothing, NULL, NULL), 0);
}

static void test_each_length(void **state) {
        cleanup(buf_done) struct buf file = {};

        (void)state;
        write_small(&file);
        for (size_t n = 0; n < file.size; n++)
                assert_int_equal(read_all(bytes_of(file.data, n), 64, &nothing, NULL, NULL), -EBADMSG);
        assert_int_equal(buf_append(&file, "", 1), 0);
        for (size_t piece = 1; piece <= file.size; piece++)
                assert_int_equal(read_all(bytes_of(file.data, file.size), piece, &nothing, NULL, NULL), -EBADMSG);
}

/* A section taken out, doubled or swapped is damage too, though each has its checksum. */
static void test_sections_are_chained(void **state) {
        size_t starts[16], n = 0;
        cleanup(buf_done) struct buf file = {};

        (void)state;
        write_small(&file);
        for (size_t at = 16; at < file.size;) {
                uint32_t stored;

                assert_true(n < n_elements(starts) - 1);
                starts[n++] = at;
                memcpy(&stored, file.data + at + 4, 4);
                at += 32 + stored;
        }
        starts[n] = file.size;
        assert_int_equal(n, 4);
        for (size_t i = 0; i < n; i++) {
                cleanup(buf_done) struct buf without = {}, twice = {};

                buf_append(&without, file.data, starts[i]);
                buf_append(&without, file.data + starts[i + 1], file.size - starts[i + 1]);
                assert_int_equal(read_all(bytes_of(without.data, without.size), 64, &nothing, NULL, NULL), -EBADMSG);
                buf_append(&twice, file.data, starts[i + 1]);
                buf_append(&twice, file.data + starts[i], file.size - starts[i]);
                assert_int_equal(read_all(bytes_of(twice.data, twice.size), 64, &nothing, NULL, NULL), -EBADMSG);
        }
}

static void test_large(void **state) {
        cleanup(archive_writer_freep) struct archive_writer *w = NULL;
        struct archive_about large = about;
        struct archive_figures written;
        cleanup(error_done) struct error err = {};
        cleanup(freep) uint8_t *value = malloc(3 << 20);
        cleanup(buf_done) struct buf file = {};
        struct seen seen = {};

        (void)state;
        large.end = 3000;
        for (size_t i = 0; i < 3 << 20; i++)
                value[i] = (uint8_t)(i * 2654435761U >> 24);
        assert_int_equal(archive_writer_new(&large, sink, &file, &w), 0);
        for (uint64_t seq = 1; seq <= 3000; seq++) {
                struct stoke_record r = make_record(seq, value, seq % 1000 ? 1024 : 3 << 20);

                assert_int_equal(archive_write_record(w, &r), 0);
        }
        assert_int_equal(archive_write_end(w), 0);
        archive_writer_figures(w, &written);
        assert_int_equal(written.n_records, 3000);
        assert_int_equal(written.file_bytes, file.size);
        if (read_all(bytes_of(file.data, file.size), 16384, &handler, &seen, &err) < 0)
                fail_msg("%s", error_text(&err));
        assert_int_equal(seen.n_records, 3000);
        assert_int_equal(seen.bytes, 2997 * 1024 + 3 * (3 << 20));
}

static void test_refused_by_the_writer(void **state) {
        cleanup(archive_writer_freep) struct archive_writer *w = NULL;
        cleanup(freep) uint8_t *value = calloc(1, ARCHIVE_PLAIN_MAX);
        struct stoke_record r = make_record(1, value, ARCHIVE_PLAIN_MAX);
        cleanup(buf_done) struct buf file = {};

        (void)state;
        assert_int_equal(archive_writer_new(&about, sink, &file, &w), 0);
        assert_int_equal(archive_write_record(w, &r), -EMSGSIZE);
        /* Not all that was promised. */
        assert_int_equal(archive_write_end(w), -EBADMSG);
}

static int full(void *userdata, struct bytes data) {
        size_t *room = userdata;

        if (data.size > *room)
                return -ENOSPC;
        *room -= data.size;
        return 0;
}

static int write_into(size_t *room) {
        cleanup(archive_writer_freep) struct archive_writer *w = NULL;
        struct stoke_record r = make_record(12, "value", 5);
        int k = archive_writer_new(&about, full, room, &w);

        if (k == 0)
                k = archive_write_record(w, &r);
        return k == 0 ? archive_write_end(w) : k;
}

static void test_a_full_disk(void **state) {
        size_t left = 1 << 20, size;

        (void)state;
        assert_int_equal(write_into(&left), 0);
        size = (1 << 20) - left;
        for (size_t room = 0; room <= size; room++) {
                left = room;
                assert_int_equal(write_into(&left), room < size ? -ENOSPC : 0);
        }
}

static int stop(void *userdata, const struct stoke_record *r) {
        (void)userdata;
        return r->seq == 5 ? -ECANCELED : 0;
}

static void test_the_handler_ends_it(void **state) {
        cleanup(buf_done) struct buf file = {};
        static const struct archive_handler stopping = {.on_record = stop};

        (void)state;
        write_small(&file);
        assert_int_equal(read_all(bytes_of(file.data, file.size), 64, &stopping, NULL, NULL), -ECANCELED);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_each_bit_counts),
                cmocka_unit_test(test_each_length),
                cmocka_unit_test(test_sections_are_chained),
                cmocka_unit_test(test_large),
                cmocka_unit_test(test_refused_by_the_writer),
                cmocka_unit_test(test_a_full_disk),
                cmocka_unit_test(test_the_handler_ends_it),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
