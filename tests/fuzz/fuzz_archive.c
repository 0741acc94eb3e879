/*
 * Backups that anybody may have made. The first byte chooses: either the rest is the file, or it is what sections hold (kind, number of items,
 * size, bytes), of which a file with right checksums is made, so that what is behind them is reached. However it is cut in pieces the outcome must be
 * the same, and a file that is accepted must say of itself what was seen of it.
 */

#include <zstd.h>

#include "base/archive_format.h"
#include "fuzz.h"

struct seen {
        uint64_t n_records, n_leases, bytes, last, all;
        bool about;
};

static int on_about(void *userdata, const struct archive_about *about) {
        struct seen *seen = userdata;

        check(!seen->about && about->tenant && strlen(about->tenant) < 256 && about->compacted <= about->revision);
        seen->about = true;
        return 0;
}

static int on_lease(void *userdata, const struct archive_lease *lease) {
        struct seen *seen = userdata;

        check(seen->about && !seen->n_records && lease->left_ms >= 0);
        seen->n_leases++;
        return 0;
}

static int on_record(void *userdata, const struct stoke_record *record) {
        struct seen *seen = userdata;
        uint8_t all = 0;

        check(seen->about && record->seq > seen->last && record->revision >= 0);
        for (size_t i = 0; i < record->key_size; i++)
                all ^= ((const uint8_t *)record->key)[i];
        for (size_t i = 0; i < record->value_size; i++)
                all ^= ((const uint8_t *)record->value)[i];
        seen->all += all; /* each byte was looked at */
        seen->last = record->seq;
        seen->n_records++;
        seen->bytes += record->key_size + record->value_size;
        return 0;
}

static int read_all(struct bytes file, size_t piece, struct seen *seen) {
        static const struct archive_handler handler = {on_about, on_lease, on_record};
        cleanup(archive_reader_freep) struct archive_reader *r = archive_reader_new(&handler, seen);
        struct archive_figures figures;
        int k = 0;

        for (size_t at = 0, n; at < file.size && k == 0; at += n) {
                uint8_t *copy;

                n = min_of(piece, file.size - at);
                copy = fuzz_copy(file.data + at, n);
                k = archive_reader_feed(r, bytes_of(copy, n), NULL);
                free(copy);
        }
        if (k == 0)
                k = archive_reader_finish(r, NULL);
        archive_reader_figures(r, &figures);
        check(figures.file_bytes <= file.size);
        if (k == 0)
                check(figures.n_records == seen->n_records && figures.n_leases == seen->n_leases &&
                        figures.bytes == seen->bytes && figures.file_bytes == file.size);
        return k;
}

static void make(struct fuzz_input *in, struct buf *out) {
        uint8_t head[ARCHIVE_HEAD] = ARCHIVE_MAGIC;
        struct archive_sum sum;

        le_put32(head + 8, ARCHIVE_FORMAT);
        le_put32(head + 12, 0);
        sum = archive_sum_begin(head);
        check(buf_append(out, head, sizeof(head)) == 0);
        while (in->size) {
                uint8_t header[ARCHIVE_SECTION], packed[1024];
                uint8_t kind = fuzz_byte(in), n_items = fuzz_byte(in);
                size_t size = fuzz_byte(in), n;

                size |= (size_t)(fuzz_byte(in) & 1) << 8;
                size = min_of(size, in->size);
                n = ZSTD_compress(packed, sizeof(packed), in->data, size, 1);
                check(!ZSTD_isError(n));
                le_put32(header, kind);
                le_put32(header + 4, (uint32_t)n);
                le_put32(header + 8, (uint32_t)size);
                le_put32(header + 12, n_items);
                sum = archive_sum_next(&sum, header, bytes_of(packed, n));
                memcpy(header + ARCHIVE_HEAD, sum.bytes, sizeof(sum.bytes));
                check(buf_append(out, header, sizeof(header)) == 0);
                check(buf_append(out, packed, n) == 0);
                in->data += size;
                in->size -= size;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct fuzz_input in = {data, size};
        uint8_t how = fuzz_byte(&in);
        cleanup(buf_done) struct buf made = {};
        struct bytes file = bytes_of(in.data, in.size);
        struct seen whole = {}, cut = {};

        if (how & 1) {
                make(&in, &made);
                file = bytes_of(made.data, made.size);
        }
        check(read_all(file, file.size ? file.size : 1, &whole) == read_all(file, 1 + how / 2, &cut));
        check(whole.n_records == cut.n_records && whole.n_leases == cut.n_leases && whole.bytes == cut.bytes &&
                whole.all == cut.all);
        return 0;
}
