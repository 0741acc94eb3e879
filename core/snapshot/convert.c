#include "snapshot/convert.h"

/*
 * The file is read twice: an archive begins with what it will end with. Records that are left out take their seqs with them, so those that are taken
 * are numbered anew, and hashed anew where they changed. Where only some keys are taken, it is read once before that for which leases they have: others'
 * are not theirs to know.
 */

#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <uthash.h>

#include "keyspace/record.h"

struct lease {
        int64_t id;
        UT_hash_handle hh;
};

struct conversion {
        const struct snapshot_convert_config *config;
        int fd;
        struct stoke_origin origin;
        struct buf key; /* renamed */
        uint64_t seq, n_versions;
        int64_t revision;
        struct archive_writer *writer; /* owned; NULL: the first reading */
        struct lease *leases;          /* owned, uthash: with a prefix, those of keys that are taken */
};

static bool is_version(const struct stoke_record *r) {
        return r->kind == RECORD_PUT || r->kind == RECORD_TOMBSTONE;
}

static bool is_taken(const struct conversion *c, const struct stoke_record *r) {
        struct bytes prefix = c->config->prefix;

        return r->key_size >= prefix.size && (!prefix.size || memcmp(r->key, prefix.data, prefix.size) == 0);
}

static struct lease *find_lease(const struct conversion *c, int64_t id) {
        struct lease *lease;

        HASH_FIND(hh, c->leases, &id, sizeof(id), lease);
        return lease;
}

static bool is_foreign_lease(const struct conversion *c, const struct stoke_record *r) {
        return r->kind == RECORD_LEASE && c->config->prefix.size && !find_lease(c, r->lease);
}

static int find_leases(struct conversion *c, struct error *reterr) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        struct stoke_record r;
        int k;

        k = snapshot_reader_new(c->fd, &c->origin, &reader, reterr);
        while (k >= 0 && (k = snapshot_reader_next(reader, &r, reterr)) > 0) {
                struct lease *lease;

                if (r.kind != RECORD_PUT || !r.lease || !is_taken(c, &r) || find_lease(c, r.lease))
                        continue;
                lease = new0(struct lease);
                lease->id = r.lease;
                HASH_ADD(hh, c->leases, id, sizeof(lease->id), lease);
        }
        return k;
}

static void forget_leases(struct conversion *c) {
        struct lease *lease, *next;

        HASH_ITER(hh, c->leases, lease, next) {
                HASH_DEL(c->leases, lease);
                free(lease);
        }
}

/* 1: the record as it is to be; 0: it is left out. */
static int change(struct conversion *c, struct stoke_record *r, struct error *reterr) {
        struct bytes prefix = c->config->prefix, key = bytes_of(r->key, r->key_size);
        int k;

        if (is_foreign_lease(c, r))
                return 0;
        if (is_version(r) && prefix.size) {
                if (!is_taken(c, r))
                        return 0;
                if (c->config->has_new_prefix) {
                        buf_clear(&c->key);
                        k = buf_append(&c->key, c->config->new_prefix.data, c->config->new_prefix.size);
                        if (k >= 0)
                                k = buf_append(&c->key, key.data + prefix.size, key.size - prefix.size);
                        if (k < 0)
                                return k;
                        if (!c->key.size)
                                return error_set(reterr, -EBADMSG,
                                        "a key that is nothing but the prefix would be without a name");
                        r->key = c->key.data;
                        r->key_size = c->key.size;
                }
        }
        r->seq = ++c->seq;
        r->hash = record_hash(r);
        c->revision = max_of(c->revision, r->revision);
        c->n_versions += is_version(r);
        return 1;
}

/* Leases have their own place in an archive, besides their records. */
static int write_leases(struct conversion *c, struct error *reterr) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        struct stoke_record r;
        int k;

        k = snapshot_reader_new(c->fd, &c->origin, &reader, reterr);
        while (k >= 0 && (k = snapshot_reader_next(reader, &r, reterr)) > 0) {
                struct archive_lease lease = {
                        .id = r.lease, .ttl = r.version, .left_ms = snapshot_reader_lease_left(reader) * 1000};

                if (is_version(&r))
                        return 0; /* they come before */
                if (r.kind == RECORD_LEASE && !is_foreign_lease(c, &r))
                        k = archive_write_lease(c->writer, &lease);
        }
        return k;
}

static int read_records(struct conversion *c, struct snapshot_facts *facts, struct error *reterr) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        struct stoke_record r;
        int k;

        c->seq = c->n_versions = 0;
        c->revision = 0;
        k = snapshot_reader_new(c->fd, &c->origin, &reader, reterr);
        while (k >= 0 && (k = snapshot_reader_next(reader, &r, reterr)) > 0) {
                k = change(c, &r, reterr);
                if (k > 0 && c->writer)
                        k = archive_write_record(c->writer, &r);
        }
        if (k >= 0)
                snapshot_reader_get(reader, facts);
        return k;
}

static int convert(struct conversion *c, archive_sink_fn sink, void *userdata, struct snapshot_facts *facts,
        struct error *reterr) {
        struct archive_about about = {
                .tenant = c->config->tenant,
                .created = time(NULL),
                .version = c->config->version,
                .driver = "snapshot",
        };
        int k;

        k = c->config->prefix.size ? find_leases(c, reterr) : 0;
        if (k >= 0)
                k = read_records(c, facts, reterr);
        if (k < 0)
                return k;
        if (getrandom(about.incarnation, sizeof(about.incarnation), 0) != sizeof(about.incarnation))
                return -EIO;
        memcpy(about.cluster, about.incarnation, sizeof(about.cluster));
        about.revision = c->revision;
        about.compacted = facts->compacted;
        about.end = c->seq;
        k = archive_writer_new(&about, sink, userdata, &c->writer);
        if (k >= 0)
                k = write_leases(c, reterr);
        if (k >= 0)
                k = read_records(c, facts, reterr);
        if (k >= 0)
                k = archive_write_end(c->writer);
        return k;
}

int snapshot_convert(int fd, const struct snapshot_convert_config *config, archive_sink_fn sink, void *userdata,
        struct snapshot_facts *ret_facts, struct error *reterr) {
        struct conversion c = {.config = config, .fd = fd, .origin.batch = 1};
        int k;

        if (getrandom(c.origin.daemon, sizeof(c.origin.daemon), 0) != sizeof(c.origin.daemon))
                return error_set(reterr, -EIO, "no random numbers");
        k = convert(&c, sink, userdata, ret_facts, reterr);
        archive_writer_free(c.writer);
        forget_leases(&c);
        buf_done(&c.key);
        ret_facts->n_versions = c.n_versions;
        return k < 0 ? error_set(reterr, k, "%s", strerror(-k)) : 0;
}
