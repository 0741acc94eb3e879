/*
 * Writes an archive: what is given gathers in a section, which is packed, summed and handed to the sink when it is large enough. At most one
 * section is in memory, packed and unpacked. One thread at a time.
 */

#include "base/archive.h"

#include <zstd.h>

#define XXH_INLINE_ALL
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <xxhash.h>
#pragma GCC diagnostic pop

#include "base/archive_format.h"

#define SECTION_BYTES (1024 * 1024) /* a section is closed beyond it */
#define LEVEL 3

struct archive_writer {
        archive_sink_fn sink;
        void *userdata;
        ZSTD_CCtx *zstd; /* owned */
        struct archive_sum sum;
        struct buf plain, packed;
        enum archive_section section; /* that gathers in plain */
        uint32_t n_items;
        uint64_t end, last; /* seqs: promised, written */
        int64_t revision;
        struct archive_figures figures;
};

struct archive_sum archive_sum_begin(const uint8_t head[ARCHIVE_HEAD]) {
        struct archive_sum sum;
        XXH128_hash_t h = XXH3_128bits(head, ARCHIVE_HEAD);

        le_put64(sum.bytes, h.low64);
        le_put64(sum.bytes + 8, h.high64);
        return sum;
}

struct archive_sum archive_sum_next(
        const struct archive_sum *before, const uint8_t head[ARCHIVE_HEAD], struct bytes stored) {
        uint8_t inner[sizeof(before->bytes) + ARCHIVE_HEAD];
        struct archive_sum sum;
        XXH3_state_t *state = XXH3_createState();
        XXH128_hash_t h;

        check(state);
        memcpy(inner, before->bytes, sizeof(before->bytes));
        memcpy(inner + sizeof(before->bytes), head, ARCHIVE_HEAD);
        XXH3_128bits_reset(state);
        XXH3_128bits_update(state, inner, sizeof(inner));
        XXH3_128bits_update(state, stored.data, stored.size);
        h = XXH3_128bits_digest(state);
        XXH3_freeState(state);
        le_put64(sum.bytes, h.low64);
        le_put64(sum.bytes + 8, h.high64);
        return sum;
}

static int give(struct archive_writer *w, const void *data, size_t size) {
        w->figures.file_bytes += size;
        return w->sink(w->userdata, bytes_of(data, size));
}

/* What has gathered becomes a section. */
static int close_section(struct archive_writer *w) {
        uint8_t header[ARCHIVE_SECTION];
        size_t n;
        int r;

        buf_clear(&w->packed);
        r = buf_reserve(&w->packed, ZSTD_compressBound(w->plain.size));
        if (r < 0)
                return r;
        n = ZSTD_compressCCtx(w->zstd, w->packed.data, w->packed.capacity, w->plain.data, w->plain.size, LEVEL);
        if (ZSTD_isError(n))
                return -ENOMEM;
        le_put32(header, w->section);
        le_put32(header + 4, (uint32_t)n);
        le_put32(header + 8, (uint32_t)w->plain.size);
        le_put32(header + 12, w->n_items);
        w->sum = archive_sum_next(&w->sum, header, bytes_of(w->packed.data, n));
        memcpy(header + ARCHIVE_HEAD, w->sum.bytes, sizeof(w->sum.bytes));
        buf_clear(&w->plain);
        w->n_items = 0;
        r = give(w, header, sizeof(header));
        return r < 0 ? r : give(w, w->packed.data, n);
}

/* What comes next belongs to a section of this kind, and is of this size. */
static int enter_section(struct archive_writer *w, enum archive_section section, size_t size) {
        int r;

        if (size > ARCHIVE_PLAIN_MAX)
                return -EMSGSIZE;
        if (w->plain.size && (w->section != section || w->plain.size + size > SECTION_BYTES)) {
                r = close_section(w);
                if (r < 0)
                        return r;
        }
        w->section = section;
        return buf_reserve(&w->plain, size);
}

static int add_field(struct buf *out, enum archive_field field, const void *data, size_t size) {
        uint8_t head[6];
        int r;

        le_put16(head, (uint16_t)field);
        le_put32(head + 2, (uint32_t)size);
        r = buf_append(out, head, sizeof(head));
        return r < 0 ? r : buf_append(out, data, size);
}

static int add_number(struct buf *out, enum archive_field field, uint64_t n) {
        uint8_t bytes[8];

        le_put64(bytes, n);
        return add_field(out, field, bytes, sizeof(bytes));
}

static int add_string(struct buf *out, enum archive_field field, const char *s) {
        return s ? add_field(out, field, s, strlen(s)) : 0;
}

int archive_writer_new(
        const struct archive_about *about, archive_sink_fn sink, void *userdata, struct archive_writer **ret) {
        cleanup(archive_writer_freep) struct archive_writer *w = new0(struct archive_writer);
        uint8_t head[ARCHIVE_HEAD] = ARCHIVE_MAGIC;
        struct buf *out = &w->plain;
        int r;

        w->sink = sink;
        w->userdata = userdata;
        w->end = about->end;
        w->revision = about->revision;
        buf_init(&w->plain, 0);
        buf_init(&w->packed, 0);
        w->zstd = ZSTD_createCCtx();
        if (!w->zstd)
                return -ENOMEM;
        le_put32(head + 8, ARCHIVE_FORMAT);
        le_put32(head + 12, 0);
        w->sum = archive_sum_begin(head);
        r = give(w, head, sizeof(head));
        if (r < 0)
                return r;

        w->section = ARCHIVE_ABOUT;
        if ((r = add_string(out, FIELD_TENANT, about->tenant)) < 0 ||
                (r = add_field(out, FIELD_INCARNATION, about->incarnation, sizeof(about->incarnation))) < 0 ||
                (r = add_field(out, FIELD_CLUSTER, about->cluster, sizeof(about->cluster))) < 0 ||
                (r = add_number(out, FIELD_REVISION, (uint64_t)about->revision)) < 0 ||
                (r = add_number(out, FIELD_COMPACTED, (uint64_t)about->compacted)) < 0 ||
                (r = add_number(out, FIELD_END, about->end)) < 0 ||
                (r = add_number(out, FIELD_CREATED, (uint64_t)about->created)) < 0 ||
                (r = add_string(out, FIELD_VERSION, about->version)) < 0 ||
                (r = add_string(out, FIELD_DRIVER, about->driver)) < 0 || (r = close_section(w)) < 0)
                return r;
        *ret = steal(w);
        return 0;
}

void archive_writer_free(struct archive_writer *w) {
        if (!w)
                return;
        ZSTD_freeCCtx(w->zstd);
        buf_done(&w->plain);
        buf_done(&w->packed);
        free(w);
}

int archive_write_lease(struct archive_writer *w, const struct archive_lease *lease) {
        uint8_t *p;
        int r;

        check(w->section <= ARCHIVE_LEASES);
        r = enter_section(w, ARCHIVE_LEASES, ARCHIVE_LEASE);
        if (r < 0)
                return r;
        p = w->plain.data + w->plain.size;
        le_put64(p, (uint64_t)lease->id);
        le_put64(p + 8, (uint64_t)lease->ttl);
        le_put64(p + 16, (uint64_t)lease->left_ms);
        w->plain.size += ARCHIVE_LEASE;
        w->n_items++;
        w->figures.n_leases++;
        return 0;
}

int archive_write_record(struct archive_writer *w, const struct stoke_record *r) {
        size_t size = ARCHIVE_RECORD;
        uint8_t *p;
        int k;

        if (r->key_size > ARCHIVE_PLAIN_MAX || r->value_size > ARCHIVE_PLAIN_MAX)
                return -EMSGSIZE;
        check(r->seq > w->last && (r->value || !r->value_size));
        size += r->key_size + r->value_size;
        k = enter_section(w, ARCHIVE_RECORDS, size);
        if (k < 0)
                return k;
        p = w->plain.data + w->plain.size;
        le_put64(p, r->seq);
        le_put64(p + 8, (uint64_t)r->revision);
        le_put64(p + 16, (uint64_t)r->create_revision);
        le_put64(p + 24, (uint64_t)r->version);
        le_put64(p + 32, (uint64_t)r->lease);
        memcpy(p + 40, r->origin.daemon, 16);
        le_put64(p + 56, r->origin.batch);
        le_put64(p + 64, r->hash);
        le_put32(p + 72, (uint32_t)r->key_size);
        le_put32(p + 76, (uint32_t)r->value_size);
        p[80] = r->kind;
        if (r->key_size)
                memcpy(p + ARCHIVE_RECORD, r->key, r->key_size);
        if (r->value_size)
                memcpy(p + ARCHIVE_RECORD + r->key_size, r->value, r->value_size);
        w->plain.size += size;
        w->n_items++;
        w->last = r->seq;
        w->figures.n_records++;
        w->figures.bytes += r->key_size + r->value_size;
        return 0;
}

int archive_write_end(struct archive_writer *w) {
        uint8_t *p;
        int r;

        if (w->last != w->end)
                return -EBADMSG;
        r = enter_section(w, ARCHIVE_ENDING, ARCHIVE_END);
        if (r < 0)
                return r;
        p = w->plain.data;
        le_put64(p, w->figures.n_records);
        le_put64(p + 8, w->figures.n_leases);
        le_put64(p + 16, w->figures.bytes);
        le_put64(p + 24, (uint64_t)w->revision);
        le_put64(p + 32, w->last);
        w->plain.size = ARCHIVE_END;
        return close_section(w);
}

void archive_writer_figures(const struct archive_writer *w, struct archive_figures *ret) {
        *ret = w->figures;
}
