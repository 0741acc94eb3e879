#include "snapshot/write.h"

#include "rpc/digest.h"
#include "rpc/protobuf.h"
#include "snapshot/planned.h"

struct snapshot_writer {
        const struct snapshot_plan *plan; /* borrowed */
        struct snapshot_output output;
        struct digest *digest; /* owned */
        struct page_output pages;
        struct tree keys;
        uint64_t n_bytes;
        size_t next; /* of the plan's versions */
        int64_t revision, sub;
        uint64_t seq; /* of the last record */
        bool has_all, failed;
};

static int write_page(void *userdata, const void *data, size_t size, struct error *reterr) {
        struct snapshot_writer *w = userdata;

        digest_add(w->digest, data, size);
        w->n_bytes += size;
        return w->output.write(w->output.userdata, data, size, reterr);
}

static void make_meta(const struct snapshot_plan *p, uint64_t page, uint8_t ret[BOLT_PAGE_SIZE]) {
        uint8_t *m = ret + BOLT_PAGE_HEADER;

        memset(ret, 0, BOLT_PAGE_SIZE);
        bolt_put_header(ret, page, BOLT_META, 0, 0);
        le_put32(m, BOLT_MAGIC);
        le_put32(m + 4, BOLT_VERSION);
        le_put32(m + 8, BOLT_PAGE_SIZE);
        le_put64(m + 16, p->root);
        le_put64(m + 32, 2); /* the free list */
        le_put64(m + 40, p->n_pages);
        le_put64(m + 48, 2 - page); /* an even transaction is in page 0, an odd one in page 1 */
        le_put64(m + BOLT_META_SUMMED, bolt_meta_sum(m));
}

int snapshot_writer_new(const struct snapshot_plan *plan, const struct snapshot_output *output,
        struct snapshot_writer **ret, struct error *reterr) {
        cleanup(snapshot_writer_freep) struct snapshot_writer *w = new0(struct snapshot_writer);
        uint8_t page[BOLT_PAGE_SIZE];
        int r;

        check(plan->finished);
        w->plan = plan;
        w->output = *output;
        w->pages = (struct page_output){.write = write_page, .userdata = w};
        tree_init(&w->keys, &w->pages);
        r = digest_new(&w->digest);
        if (r < 0)
                return error_set(reterr, r, "SHA-256 cannot be computed here");
        for (unsigned i = 0; i < 2; i++) {
                make_meta(plan, i, page);
                r = write_page(w, page, sizeof(page), reterr);
                if (r < 0)
                        return r;
        }
        memset(page, 0, sizeof(page));
        bolt_put_header(page, 2, BOLT_FREELIST, 0, 0);
        r = write_page(w, page, sizeof(page), reterr);
        if (r < 0)
                return r;
        w->pages.n_pages = 3;
        *ret = steal(w);
        return 0;
}

void snapshot_writer_free(struct snapshot_writer *w) {
        if (!w)
                return;
        tree_done(&w->keys);
        digest_free(w->digest);
        free(w);
}

static int is_stale(struct snapshot_writer *w, struct error *reterr, uint64_t seq) {
        w->failed = true;
        return error_set(reterr, -ESTALE, "the log has changed while the snapshot was made, at record %llu",
                (unsigned long long)seq);
}

/* etcd's KeyValue. */
static void pack_value(uint8_t *at, const struct stoke_record *r) {
        at = protobuf_put_field_bytes(at, 1, bytes_of(r->key, r->key_size));
        if (r->kind == RECORD_TOMBSTONE)
                return;
        at = protobuf_put_field_varint(at, 2, (uint64_t)r->create_revision);
        at = protobuf_put_field_varint(at, 3, (uint64_t)r->revision);
        at = protobuf_put_field_varint(at, 4, (uint64_t)r->version);
        at = protobuf_put_field_bytes(at, 5, bytes_of(r->value, r->value_size));
        protobuf_put_field_varint(at, 6, (uint64_t)r->lease);
}

static int add_version(struct snapshot_writer *w, const struct stoke_record *r, struct error *reterr) {
        uint8_t key[SNAPSHOT_TOMBSTONE], *room;
        size_t key_size;
        int result;

        if ((r->value_size && !r->value) || record_hash(r) != r->hash) {
                w->failed = true;
                return error_set(reterr, -EUCLEAN, "record %llu is damaged", (unsigned long long)r->seq);
        }
        w->sub = r->revision == w->revision ? w->sub + 1 : 0;
        w->revision = r->revision;
        key_size = snapshot_put_revision(key, r->revision, w->sub, r->kind == RECORD_TOMBSTONE);
        result = tree_add(&w->keys, bytes_of(key, key_size), planned_value_size(r), &room, reterr);
        if (result < 0) {
                w->failed = true;
                return result;
        }
        pack_value(room, r);
        w->next++;
        return 0;
}

int snapshot_writer_add(struct snapshot_writer *w, const struct stoke_record *r, struct error *reterr) {
        const struct snapshot_plan *p = w->plan;

        check(!w->failed);
        if (w->has_all)
                return 0; /* appended later */
        if (r->seq <= w->seq || r->seq > p->end.seq)
                return is_stale(w, reterr, r->seq);
        w->seq = r->seq;
        if (r->seq == p->end.seq) {
                if (!origin_equal(&r->origin, &p->end.origin))
                        return is_stale(w, reterr, r->seq);
                w->has_all = true;
        }
        if (w->next < p->n && r->seq >= p->seqs[w->next]) {
                if (r->seq > p->seqs[w->next] || (r->kind != RECORD_PUT && r->kind != RECORD_TOMBSTONE))
                        return is_stale(w, reterr, p->seqs[w->next]);
                return add_version(w, r, reterr);
        }
        return 0;
}

bool snapshot_writer_has_all(const struct snapshot_writer *w) {
        return w->has_all;
}

static int write_leases(struct snapshot_writer *w, uint64_t *ret_root, struct error *reterr) {
        const struct snapshot_plan *p = w->plan;
        struct tree tree;
        int r = 0;

        tree_init(&tree, &w->pages);
        for (size_t i = 0; r >= 0 && i < p->n_leases; i++) {
                uint8_t key[8], *room;
                int64_t left;
                size_t size = planned_lease_size(p, p->sorted[i], &left);

                bolt_put_big64(key, (uint64_t)p->sorted[i]->id);
                r = tree_add(&tree, bytes_of(key, sizeof(key)), size, &room, reterr);
                if (r < 0)
                        break;
                room = protobuf_put_field_varint(room, 1, (uint64_t)p->sorted[i]->id);
                room = protobuf_put_field_varint(room, 2, (uint64_t)p->sorted[i]->ttl);
                protobuf_put_field_varint(room, 3, (uint64_t)left);
        }
        if (r >= 0 && p->n_leases)
                r = tree_finish(&tree, ret_root, reterr);
        tree_done(&tree);
        return r;
}

static int write_root(struct snapshot_writer *w, struct error *reterr) {
        struct buf elements, data;
        unsigned n;
        int r;

        buf_init(&elements, 0);
        buf_init(&data, 0);
        r = planned_root(w->plan, &elements, &data, &n);
        if (r < 0)
                error_set(reterr, r, "no memory for the snapshot's root");
        else
                r = leaf_write(&w->pages, &elements, &data, n, reterr);
        buf_done(&elements);
        buf_done(&data);
        return r;
}

int snapshot_writer_finish(struct snapshot_writer *w, struct error *reterr) {
        const struct snapshot_plan *p = w->plan;
        uint64_t key_root = 0, lease_root = 0, root;
        uint8_t sum[DIGEST_SIZE], key[SNAPSHOT_TOMBSTONE], *room;
        int r = 0;

        check(!w->failed);
        w->failed = true; /* whatever comes: nothing may follow */
        if (!w->has_all || w->next < p->n)
                return is_stale(w, reterr, w->next < p->n ? p->seqs[w->next] : p->end.seq);
        if (p->filler) {
                size_t size = snapshot_put_revision(key, p->revision, 0, true);

                r = tree_add(&w->keys, bytes_of(key, size), 0, &room, reterr);
        }
        if (r >= 0 && p->key_pages)
                r = tree_finish(&w->keys, &key_root, reterr);
        if (r >= 0)
                r = write_leases(w, &lease_root, reterr);
        if (r < 0)
                return r;
        root = w->pages.n_pages;
        if (key_root != p->key_root || lease_root != p->lease_root || root != p->root)
                return is_stale(w, reterr, p->end.seq);
        r = write_root(w, reterr);
        if (r < 0)
                return r;
        if (w->pages.n_pages != p->n_pages || w->n_bytes != p->n_pages * BOLT_PAGE_SIZE)
                return is_stale(w, reterr, p->end.seq);
        digest_finish(w->digest, sum);
        return w->output.write(w->output.userdata, sum, sizeof(sum), reterr);
}
