/*
 * Reads an archive, whoever made it: nothing is believed before its checksum was right, and nothing afterwards that is not within
 * the bounds of the format, since a checksum is made by whoever likes. Memory grows with bytes that have come, not with what
 * they announce. One thread at a time.
 */

#include <zstd.h>

#include "base/archive_format.h"

struct archive_reader {
        struct archive_handler handler;
        void *userdata;
        ZSTD_DCtx *zstd; /* owned; made for the first section */
        struct archive_sum sum;
        struct buf pending;      /* the head of what is being read: the file's, or a section with what follows it */
        size_t wanted;           /* bytes of that */
        uint8_t *plain;          /* owned */
        size_t plain_size;       /* of that buffer */
        bool begun;              /* the file's head was read */
        enum archive_section at; /* the last section read; 0: none */
        bool broken;
        uint64_t end, last; /* seqs: promised, read */
        int64_t revision;
        struct archive_figures figures;
};

struct archive_reader *archive_reader_new(const struct archive_handler *handler, void *userdata) {
        struct archive_reader *r = new0(struct archive_reader);

        r->handler = *handler;
        r->userdata = userdata;
        r->wanted = ARCHIVE_HEAD;
        buf_init(&r->pending, ARCHIVE_SECTION + ARCHIVE_STORED_MAX);
        return r;
}

void archive_reader_free(struct archive_reader *r) {
        if (!r)
                return;
        ZSTD_freeDCtx(r->zstd);
        buf_done(&r->pending);
        free(r->plain);
        free(r);
}

static int read_head(struct archive_reader *r, struct error *reterr) {
        const uint8_t *p = r->pending.data;

        if (memcmp(p, ARCHIVE_MAGIC, 8) != 0)
                return error_set(reterr, -EBADMSG, "this is no backup of a tenant");
        if (le_get32(p + 8) != ARCHIVE_FORMAT)
                return error_set(reterr, -EPROTONOSUPPORT, "it is of format %u, and this version reads %d",
                        le_get32(p + 8), ARCHIVE_FORMAT);
        if (le_get32(p + 12) != 0)
                return error_set(reterr, -EBADMSG, "its first bytes are damaged");
        r->sum = archive_sum_begin(p);
        r->begun = true;
        r->wanted = ARCHIVE_SECTION;
        return 0;
}

/* ---- what sections say */

static int damaged(struct archive_reader *r, struct error *reterr, const char *what) {
        return error_set(
                reterr, -EBADMSG, "it is damaged: %s, near byte %llu", what, (unsigned long long)r->figures.file_bytes);
}

/* A string of a field, copied with its end; only what a name or a version can be made of. */
static bool take_string(struct bytes field, char *ret, size_t size) {
        if (field.size >= size)
                return false;
        for (size_t i = 0; i < field.size; i++)
                if (field.data[i] < ' ' || field.data[i] > '~')
                        return false;
        memcpy(ret, field.data, field.size);
        ret[field.size] = '\0';
        return true;
}

static int read_about(struct archive_reader *r, struct bytes plain, struct error *reterr) {
        char tenant[256] = "", version[256] = "", driver[256] = "";
        struct archive_about about = {.tenant = tenant, .version = version, .driver = driver};
        uint64_t numbers[FIELD_CREATED + 1] = {};
        uint32_t seen = 0;

        for (size_t at = 0; at < plain.size;) {
                struct bytes field;
                unsigned name;
                bool ok = true;

                if (plain.size - at < 6)
                        return damaged(r, reterr, "a field is cut short");
                name = le_get16(plain.data + at);
                field.size = le_get32(plain.data + at + 2);
                at += 6;
                if (field.size > plain.size - at)
                        return damaged(r, reterr, "a field is cut short");
                field.data = plain.data + at;
                at += field.size;
                switch (name) {
                case FIELD_TENANT:
                        ok = take_string(field, tenant, sizeof(tenant));
                        break;
                case FIELD_VERSION:
                        ok = take_string(field, version, sizeof(version));
                        break;
                case FIELD_DRIVER:
                        ok = take_string(field, driver, sizeof(driver));
                        break;
                case FIELD_INCARNATION:
                case FIELD_CLUSTER:
                        ok = field.size == 16;
                        if (ok)
                                memcpy(name == FIELD_CLUSTER ? about.cluster : about.incarnation, field.data, 16);
                        break;
                case FIELD_REVISION:
                case FIELD_COMPACTED:
                case FIELD_END:
                case FIELD_CREATED:
                        ok = field.size == 8 && le_get64(field.data) <= INT64_MAX;
                        if (ok)
                                numbers[name] = le_get64(field.data);
                        break;
                default:
                        continue;
                }
                if (!ok)
                        return damaged(r, reterr, "a field is not what it should be");
                seen |= 1U << name;
        }
        if ((seen & (1U << FIELD_TENANT | 1U << FIELD_REVISION | 1U << FIELD_END)) !=
                (1U << FIELD_TENANT | 1U << FIELD_REVISION | 1U << FIELD_END))
                return damaged(r, reterr, "it does not say what it holds");
        about.revision = r->revision = (int64_t)numbers[FIELD_REVISION];
        about.compacted = (int64_t)numbers[FIELD_COMPACTED];
        about.end = r->end = numbers[FIELD_END];
        about.created = (int64_t)numbers[FIELD_CREATED];
        if (about.compacted > about.revision || !about.end)
                return damaged(r, reterr, "its figures contradict each other");
        return r->handler.on_about ? r->handler.on_about(r->userdata, &about) : 0;
}

static int read_leases(struct archive_reader *r, struct bytes plain, uint32_t n, struct error *reterr) {
        if ((uint64_t)n * ARCHIVE_LEASE != plain.size)
                return damaged(r, reterr, "the leases are not as many as it says");
        r->figures.n_leases += n;
        for (uint32_t i = 0; i < n; i++) {
                const uint8_t *p = plain.data + (size_t)i * ARCHIVE_LEASE;
                struct archive_lease lease = {
                        (int64_t)le_get64(p), (int64_t)le_get64(p + 8), (int64_t)le_get64(p + 16)};
                int k;

                if (lease.ttl < 0 || lease.left_ms < 0)
                        return damaged(r, reterr, "a lease has no time");
                k = r->handler.on_lease ? r->handler.on_lease(r->userdata, &lease) : 0;
                if (k < 0)
                        return k;
        }
        return 0;
}

static int read_records(struct archive_reader *r, struct bytes plain, uint32_t n, struct error *reterr) {
        size_t at = 0;

        for (uint32_t i = 0; i < n; i++) {
                struct stoke_record record;
                const uint8_t *p = plain.data + at;
                int k;

                if (plain.size - at < ARCHIVE_RECORD)
                        return damaged(r, reterr, "a record is cut short");
                record = (struct stoke_record){
                        .seq = le_get64(p),
                        .revision = (int64_t)le_get64(p + 8),
                        .create_revision = (int64_t)le_get64(p + 16),
                        .version = (int64_t)le_get64(p + 24),
                        .lease = (int64_t)le_get64(p + 32),
                        .origin.batch = le_get64(p + 56),
                        .hash = le_get64(p + 64),
                        .key_size = le_get32(p + 72),
                        .value_size = le_get32(p + 76),
                        .kind = p[80],
                };
                memcpy(record.origin.daemon, p + 40, 16);
                at += ARCHIVE_RECORD;
                if (record.key_size > plain.size - at || record.value_size > plain.size - at - record.key_size)
                        return damaged(r, reterr, "a record is cut short");
                record.key = plain.data + at;
                at += record.key_size;
                record.value = plain.data + at;
                at += record.value_size;
                if (record.seq <= r->last || record.seq > r->end)
                        return damaged(r, reterr, "records are not in order");
                if (record.revision < 0 || record.revision > r->revision || record.origin.batch > INT64_MAX)
                        return damaged(r, reterr, "a record's revision is not one that it says it holds");
                r->last = record.seq;
                r->figures.n_records++;
                r->figures.bytes += record.key_size + record.value_size;
                k = r->handler.on_record ? r->handler.on_record(r->userdata, &record) : 0;
                if (k < 0)
                        return k;
        }
        return at == plain.size ? 0 : damaged(r, reterr, "there is more than records in a section of records");
}

static int read_end(struct archive_reader *r, struct bytes plain, struct error *reterr) {
        const uint8_t *p = plain.data;

        if (plain.size != ARCHIVE_END || le_get64(p) != r->figures.n_records ||
                le_get64(p + 8) != r->figures.n_leases || le_get64(p + 16) != r->figures.bytes ||
                le_get64(p + 24) != (uint64_t)r->revision || le_get64(p + 32) != r->last || r->last != r->end)
                return damaged(r, reterr, "it does not hold what it says");
        return 0;
}

/* ---- sections */

/* All of it has come. */
static int read_section(struct archive_reader *r, struct error *reterr) {
        const uint8_t *p = r->pending.data;
        struct bytes stored = bytes_of(p + ARCHIVE_SECTION, r->pending.size - ARCHIVE_SECTION), plain;
        uint32_t section = le_get32(p), n_items = le_get32(p + 12);
        struct archive_sum sum = archive_sum_next(&r->sum, p, stored);
        size_t size = le_get32(p + 8), n;

        if (memcmp(sum.bytes, p + ARCHIVE_HEAD, sizeof(sum.bytes)) != 0)
                return damaged(r, reterr, "a checksum is wrong");
        r->sum = sum;
        if (!r->zstd && !(r->zstd = ZSTD_createDCtx()))
                return -ENOMEM;
        if (r->plain_size < size) {
                free(steal(r->plain));
                r->plain_size = 0;
                r->plain = malloc(size);
                if (!r->plain)
                        return -ENOMEM;
                r->plain_size = size;
        }
        n = ZSTD_decompressDCtx(r->zstd, r->plain, size, stored.data, stored.size);
        if (ZSTD_isError(n) || n != size)
                return damaged(r, reterr, "a section cannot be unpacked");
        plain = bytes_of(r->plain, size);
        if (r->at == ARCHIVE_ENDING)
                return damaged(r, reterr, "something follows its end");
        if (section == ARCHIVE_ABOUT ? r->at != 0 : !r->at || section < r->at)
                return damaged(r, reterr, "its sections are not in order");
        r->at = section;
        switch (section) {
        case ARCHIVE_ABOUT:
                return read_about(r, plain, reterr);
        case ARCHIVE_LEASES:
                return read_leases(r, plain, n_items, reterr);
        case ARCHIVE_RECORDS:
                return read_records(r, plain, n_items, reterr);
        case ARCHIVE_ENDING:
                return read_end(r, plain, reterr);
        default:
                return damaged(r, reterr, "a section is of no known kind");
        }
}

/* As much as was wanted has come. */
static int advance(struct archive_reader *r, struct error *reterr) {
        int k;

        if (!r->begun) {
                k = read_head(r, reterr);
                buf_clear(&r->pending);
                return k;
        }
        if (r->wanted == ARCHIVE_SECTION) {
                size_t stored = le_get32(r->pending.data + 4), plain = le_get32(r->pending.data + 8);

                if (stored > ARCHIVE_STORED_MAX || plain > ARCHIVE_PLAIN_MAX || !plain || !stored)
                        return damaged(r, reterr, "a section is larger than may be, or empty");
                r->wanted += stored;
                return 0;
        }
        k = read_section(r, reterr);
        buf_clear(&r->pending);
        r->wanted = ARCHIVE_SECTION;
        return k;
}

int archive_reader_feed(struct archive_reader *r, struct bytes data, struct error *reterr) {
        int k = r->broken ? error_set(reterr, -EBADMSG, "it was found damaged before") : 0;

        if (k == 0 && data.size && r->at == ARCHIVE_ENDING)
                k = damaged(r, reterr, "something follows its end");
        while (data.size && k == 0) {
                size_t n = min_of(data.size, r->wanted - r->pending.size);

                k = buf_append(&r->pending, data.data, n);
                if (k < 0)
                        break;
                data = bytes_of(data.data + n, data.size - n);
                r->figures.file_bytes += n;
                while (k == 0 && r->pending.size == r->wanted)
                        k = advance(r, reterr);
                if (k == 0 && data.size && r->at == ARCHIVE_ENDING)
                        k = damaged(r, reterr, "something follows its end");
        }
        r->broken = k < 0;
        return k;
}

int archive_reader_finish(struct archive_reader *r, struct error *reterr) {
        if (r->broken)
                return error_set(reterr, -EBADMSG, "it is damaged");
        if (r->at == ARCHIVE_ENDING)
                return 0;
        r->broken = true;
        if (!r->begun && !r->figures.file_bytes)
                return error_set(reterr, -EBADMSG, "it is empty");
        return error_set(reterr, -EBADMSG, "it is cut off after %llu bytes", (unsigned long long)r->figures.file_bytes);
}

void archive_reader_figures(const struct archive_reader *r, struct archive_figures *ret) {
        *ret = r->figures;
}
