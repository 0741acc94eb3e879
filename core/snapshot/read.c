#include "snapshot/read.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keyspace/record.h"
#include "rpc/digest.h"
#include "rpc/protobuf.h"
#include "snapshot/pages.h"

#define CHECKSUM_PIECE (256 * 1024)
#define LARGEST_REVISION (UINT64_MAX / 4) /* with room for those to come */
#define MAX_TTL INT64_C(9000000000)       /* seconds, as etcd has it */

enum reader_stage { STAGE_FIRST, STAGE_LEASES, STAGE_VERSIONS, STAGE_MARK, STAGE_END };

struct snapshot_reader {
        int fd; /* borrowed */
        struct pages pages;
        struct bucket_place key, lease, meta, auth;
        struct stoke_origin origin;
        struct snapshot_facts facts;
        enum reader_stage stage;
        struct bucket_walk walk; /* of the present stage */
        bool walking;
        uint64_t seq;
        int64_t main, sub, left;
        bool failed;
};

/* ---- what stands around the data */

static int verify_checksum(struct snapshot_reader *r, struct error *reterr) {
        cleanup(digest_freep) struct digest *digest = NULL;
        cleanup(freep) uint8_t *piece = xcalloc(1, CHECKSUM_PIECE);
        uint64_t size = r->facts.bytes - SNAPSHOT_CHECKSUM;
        uint8_t sum[DIGEST_SIZE];
        int result = digest_new(&digest);

        if (result < 0)
                return error_set(reterr, result, "SHA-256 cannot be computed here");
        for (uint64_t at = 0; at < r->facts.bytes;) {
                ssize_t n = pread(r->fd, piece,
                        (size_t)min_of((uint64_t)CHECKSUM_PIECE, (at < size ? size : r->facts.bytes) - at), (off_t)at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return error_set(reterr, -errno, "reading at byte %" PRIu64 ": %s", at, strerror(errno));
                if (n == 0 || (at >= size && n < SNAPSHOT_CHECKSUM))
                        return error_set(reterr, -EBADMSG, "the file ends at byte %" PRIu64 " while it is read", at);
                if (at < size)
                        digest_add(digest, piece, (size_t)n);
                at += (uint64_t)n;
        }
        digest_finish(digest, sum);
        if (memcmp(sum, piece, sizeof(sum)) != 0)
                return error_set(reterr, -EBADMSG, "the file's checksum is wrong: it is damaged");
        r->facts.has_checksum = true;
        return 0;
}

static bool key_is(const struct bucket_walk *w, const char *name) {
        return bytes_equal(bytes_of(w->key.data, w->key.size), bytes_of_string(name));
}

/* The buckets' places. */
static int read_root(struct snapshot_reader *r, struct error *reterr) {
        struct bucket_place root = {.root = r->pages.root};
        bool has_key = false, has_meta = false;
        struct bucket_walk w;
        int n = bucket_walk_init(&w, &r->pages, &root, reterr);

        while (n >= 0 && (n = bucket_walk_next(&w, reterr)) > 0) {
                struct bucket_place place;

                if (!(w.flags & BOLT_ELEMENT_IS_BUCKET) || w.value.size < BOLT_BUCKET) {
                        n = error_set(reterr, -EBADMSG, "the root has an element that is no bucket");
                        break;
                }
                place = (struct bucket_place){
                        .root = le_get64(w.value.data),
                        .inline_at = w.value_at + BOLT_BUCKET,
                        .inline_size = w.value.size - BOLT_BUCKET,
                };
                if (key_is(&w, "key")) {
                        r->key = place;
                        has_key = true;
                } else if (key_is(&w, "lease"))
                        r->lease = place;
                else if (key_is(&w, "auth"))
                        r->auth = place;
                else if (key_is(&w, "meta")) {
                        r->meta = place;
                        has_meta = true;
                }
        }
        bucket_walk_done(&w);
        if (n >= 0 && (!has_key || !has_meta))
                return error_set(reterr, -EBADMSG, "this is a bbolt file, but not etcd's: it has no bucket \"%s\"",
                        has_key ? "meta" : "key");
        return n;
}

/* A revision as a value: 17 bytes. */
static bool parse_revision(const uint8_t *p, size_t size, int64_t *main, int64_t *sub) {
        uint64_t m, s;

        if ((size != SNAPSHOT_REVISION && size != SNAPSHOT_TOMBSTONE) || p[8] != '_' ||
                (size == SNAPSHOT_TOMBSTONE && p[17] != 't'))
                return false;
        m = bolt_get_big64(p);
        s = bolt_get_big64(p + 9);
        *main = (int64_t)m;
        *sub = (int64_t)s;
        return m > 0 && m <= LARGEST_REVISION && s <= INT64_MAX;
}

static int read_meta(struct snapshot_reader *r, struct error *reterr) {
        struct bucket_walk w;
        int n = bucket_walk_init(&w, &r->pages, &r->meta, reterr);

        while (n >= 0 && (n = bucket_walk_next(&w, reterr)) > 0) {
                int64_t main, sub;

                /* One that was begun is to be completed: its revision counts. */
                if (!key_is(&w, "finishedCompactRev") && !key_is(&w, "scheduledCompactRev"))
                        continue;
                if (!parse_revision(w.value.data, w.value.size, &main, &sub)) {
                        n = error_set(reterr, -EBADMSG, "the compacted revision in \"meta\" is none");
                        break;
                }
                r->facts.compacted = max_of(r->facts.compacted, main);
        }
        bucket_walk_done(&w);
        return n;
}

static int read_auth(struct snapshot_reader *r, struct error *reterr) {
        struct bucket_walk w;
        int n;

        if (!r->auth.root && !r->auth.inline_size)
                return 0; /* there is no such bucket */
        n = bucket_walk_init(&w, &r->pages, &r->auth, reterr);
        while (n >= 0 && (n = bucket_walk_next(&w, reterr)) > 0)
                if (key_is(&w, "authEnabled"))
                        r->facts.auth_enabled = w.value.size == 1 && w.value.data[0] == 1;
        bucket_walk_done(&w);
        return n;
}

int snapshot_reader_new(int fd, const struct stoke_origin *origin, struct snapshot_reader **ret, struct error *reterr) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *r = new0(struct snapshot_reader);
        uint64_t size;
        struct stat st;
        int n = 0;

        r->fd = fd;
        r->origin = *origin;
        if (fstat(fd, &st) < 0)
                return error_set(reterr, -errno, "%s", strerror(errno));
        if (!S_ISREG(st.st_mode))
                return error_set(reterr, -EINVAL, "a snapshot is a regular file");
        size = r->facts.bytes = (uint64_t)st.st_size;
        if (size % SNAPSHOT_SECTOR == SNAPSHOT_CHECKSUM) {
                size -= SNAPSHOT_CHECKSUM;
                n = verify_checksum(r, reterr);
        }
        if (n >= 0)
                n = pages_open(&r->pages, fd, size, reterr);
        if (n >= 0)
                n = read_root(r, reterr);
        if (n >= 0)
                n = read_meta(r, reterr);
        if (n >= 0)
                n = read_auth(r, reterr);
        if (n < 0)
                return n;
        r->facts.revision = max_of(r->facts.compacted, INT64_C(1));
        *ret = steal(r);
        return 0;
}

void snapshot_reader_free(struct snapshot_reader *r) {
        if (!r)
                return;
        if (r->walking)
                bucket_walk_done(&r->walk);
        pages_done(&r->pages);
        free(r);
}

/* ---- records */

static int bad_entry(const struct snapshot_reader *r, struct error *reterr, const char *what) {
        return error_set(reterr, -EBADMSG, "revision %" PRId64 ", change %" PRId64 ": %s", r->main, r->sub, what);
}

/* 0: a put or a tombstone; 1: nothing but a revision. */
static int parse_version(struct snapshot_reader *r, struct stoke_record *ret, struct error *reterr) {
        struct bytes in = bytes_of(r->walk.value.data, r->walk.value.size);
        bool tombstone = r->walk.key.size == SNAPSHOT_TOMBSTONE;
        int64_t mod = 0, main, sub;
        struct protobuf_field f;
        int n;

        if ((r->walk.flags & BOLT_ELEMENT_IS_BUCKET) ||
                !parse_revision(r->walk.key.data, r->walk.key.size, &main, &sub))
                return error_set(reterr, -EBADMSG, "the bucket \"key\" has an element that is no revision");
        if (main < r->main || (main == r->main && sub <= r->sub))
                return error_set(reterr, -EBADMSG, "revision %" PRId64 " stands twice", main);
        r->main = main;
        r->sub = sub;
        *ret = (struct stoke_record){
                .kind = tombstone ? RECORD_TOMBSTONE : RECORD_PUT, .revision = main, .key = "", .value = ""};
        while ((n = protobuf_read_field(&in, &f)) > 0) {
                if (f.type != (f.number == 1 || f.number == 5 ? 2U : 0U))
                        continue;
                if (f.number == 1) {
                        ret->key = f.bytes.data;
                        ret->key_size = f.bytes.size;
                } else if (f.number == 2)
                        ret->create_revision = (int64_t)f.value;
                else if (f.number == 3)
                        mod = (int64_t)f.value;
                else if (f.number == 4)
                        ret->version = (int64_t)f.value;
                else if (f.number == 5) {
                        ret->value = f.bytes.data;
                        ret->value_size = f.bytes.size;
                } else if (f.number == 6)
                        ret->lease = (int64_t)f.value;
        }
        if (n < 0)
                return bad_entry(r, reterr, "its value is malformed");
        if (ret->key_size == 0)
                return 1;
        if (tombstone) {
                ret->create_revision = ret->version = ret->lease = 0;
                ret->value = "";
                ret->value_size = 0;
                return 0;
        }
        if (mod != main)
                return bad_entry(r, reterr, "its value says another revision");
        if (ret->version < 1 || ret->create_revision < 1 || ret->create_revision > main)
                return bad_entry(r, reterr, "an impossible version or create revision");
        return 0;
}

static int parse_lease(struct snapshot_reader *r, struct stoke_record *ret, struct error *reterr) {
        struct bytes in = bytes_of(r->walk.value.data, r->walk.value.size);
        struct protobuf_field f;
        int64_t id = 0, ttl = 0, left = 0;
        int n;

        while ((n = protobuf_read_field(&in, &f)) > 0) {
                if (f.type != 0)
                        continue;
                if (f.number == 1)
                        id = (int64_t)f.value;
                else if (f.number == 2)
                        ttl = (int64_t)f.value;
                else if (f.number == 3)
                        left = (int64_t)f.value;
        }
        if (n < 0 || r->walk.key.size != 8 || id == 0 || bolt_get_big64(r->walk.key.data) != (uint64_t)id)
                return error_set(reterr, -EBADMSG, "the bucket \"lease\" has an element that is no lease");
        ttl = min_of(max_of(ttl, INT64_C(1)), MAX_TTL);
        r->left = left > 0 && left < ttl ? left : ttl;
        *ret = (struct stoke_record){
                .kind = RECORD_LEASE, .revision = 1, .lease = id, .version = ttl, .key = "", .value = ""};
        r->facts.n_leases++;
        return 0;
}

/* The next element of a bucket. 1, 0: none. */
static int walk(struct snapshot_reader *r, const struct bucket_place *place, struct error *reterr) {
        int n = 0;

        if (!place->root && !place->inline_size)
                return 0; /* there is no such bucket */
        if (!r->walking) {
                r->walking = true;
                n = bucket_walk_init(&r->walk, &r->pages, place, reterr);
        }
        if (n >= 0)
                n = bucket_walk_next(&r->walk, reterr);
        if (n == 0) {
                bucket_walk_done(&r->walk);
                r->walking = false;
        }
        return n;
}

static int next_version(struct snapshot_reader *r, struct stoke_record *ret, struct error *reterr) {
        int n;

        while ((n = walk(r, &r->key, reterr)) > 0) {
                n = parse_version(r, ret, reterr);
                if (n < 0)
                        return n;
                r->facts.revision = max_of(r->facts.revision, r->main);
                r->facts.bytes_read += r->walk.key.size + r->walk.value.size;
                if (n == 0) {
                        r->facts.n_versions++;
                        return 1;
                }
        }
        return n;
}

/* 1: a record of the present stage; 0: it has no more. */
static int next_of_stage(struct snapshot_reader *r, struct stoke_record *ret, struct error *reterr) {
        int n;

        switch (r->stage) {
        case STAGE_FIRST:
        case STAGE_MARK:
                *ret = (struct stoke_record){.kind = RECORD_CREATED, .revision = 1, .key = "", .value = ""};
                if (r->stage == STAGE_FIRST)
                        return 1;
                ret->kind = RECORD_MARK;
                ret->revision = r->facts.revision;
                ret->create_revision = r->facts.compacted;
                return r->facts.compacted > 0;
        case STAGE_LEASES:
                n = walk(r, &r->lease, reterr);
                return n > 0 && parse_lease(r, ret, reterr) < 0 ? -EBADMSG : n;
        case STAGE_VERSIONS:
                return next_version(r, ret, reterr);
        case STAGE_END:
        default:
                return 0;
        }
}

int snapshot_reader_next(struct snapshot_reader *r, struct stoke_record *ret, struct error *reterr) {
        if (r->failed)
                return error_set(reterr, -EBADMSG, "the snapshot is damaged");
        while (r->stage != STAGE_END) {
                int n = next_of_stage(r, ret, reterr);

                if (n < 0) {
                        r->failed = true;
                        return n;
                }
                if (n == 0 || r->stage == STAGE_FIRST || r->stage == STAGE_MARK)
                        r->stage++;
                if (n > 0) {
                        ret->seq = ++r->seq;
                        ret->origin = r->origin;
                        ret->hash = record_hash(ret);
                        return 1;
                }
        }
        return 0;
}

void snapshot_reader_get(const struct snapshot_reader *r, struct snapshot_facts *ret) {
        *ret = r->facts;
}

int64_t snapshot_reader_lease_left(const struct snapshot_reader *r) {
        return r->left;
}
