/*
 * The root of a snapshot's buckets, and the small buckets that stand in it: meta, cluster, members, auth, alarms. What restoring
 * replaces is left empty: the members, and the cluster's version, which would keep an older etcd of those that can read the file
 * from starting. Any thread.
 */

#include <inttypes.h>

#include "rpc/protobuf.h"
#include "snapshot/planned.h"

struct small_bucket {
        struct buf elements, data;
        unsigned n;
};

static void small_init(struct small_bucket *b) {
        *b = (struct small_bucket){};
        buf_init(&b->elements, 0);
        buf_init(&b->data, 0);
}

static void small_done(struct small_bucket *b) {
        buf_done(&b->elements);
        buf_done(&b->data);
}

static int small_put(struct small_bucket *b, struct bytes key, struct bytes value) {
        uint8_t *room;
        int r = leaf_add(&b->elements, &b->data, 0, key, value.size, &room);

        if (r < 0)
                return r;
        if (value.size)
                memcpy(room, value.data, value.size);
        b->n++;
        return 0;
}

static int small_put_number(struct small_bucket *b, const char *key, uint64_t number) {
        uint8_t value[8];

        bolt_put_big64(value, number);
        return small_put(b, bytes_of_string(key), bytes_of(value, sizeof(value)));
}

static int small_put_revision(struct small_bucket *b, const char *key, int64_t revision) {
        uint8_t value[SNAPSHOT_TOMBSTONE];
        size_t size = snapshot_put_revision(value, revision, 0, false);

        return small_put(b, bytes_of_string(key), bytes_of(value, size));
}

/* In the order of their names. */
static int fill_meta(const struct snapshot_plan *p, struct small_bucket *b) {
        char members[64];
        int r;

        snprintf(members, sizeof(members), "{\"voters\":[%" PRIu64 "],\"auto_leave\":false}", p->config.member_id);
        r = small_put(b, bytes_of_string("confState"), bytes_of_string(members));
        if (r >= 0)
                r = small_put_number(b, "consistent_index", p->end.seq);
        if (r >= 0 && p->config.compacted)
                r = small_put_revision(b, "finishedCompactRev", p->config.compacted);
        if (r >= 0 && p->config.compacted)
                r = small_put_revision(b, "scheduledCompactRev", p->config.compacted);
        if (r >= 0)
                r = small_put(b, bytes_of_string("storageVersion"), bytes_of_string(SNAPSHOT_STORAGE_VERSION));
        if (r >= 0)
                r = small_put_number(b, "term", p->config.term);
        return r;
}

static int fill_auth(struct small_bucket *b) {
        return small_put_number(b, "authRevision", 1);
}

struct alarm_key {
        uint8_t data[24];
        size_t size;
};

static int compare_alarms(const void *a, const void *b) {
        const struct alarm_key *x = a, *y = b;

        return bytes_compare(bytes_of(x->data, x->size), bytes_of(y->data, y->size));
}

static int fill_alarms(const struct snapshot_plan *p, struct small_bucket *b) {
        cleanup(freep) struct alarm_key *keys = xcalloc(p->n_alarms, sizeof(*keys));
        int r = 0;

        for (size_t i = 0; i < p->n_alarms; i++) {
                uint8_t *at = protobuf_put_field_varint(keys[i].data, 1, p->alarms[i].member);

                at = protobuf_put_field_varint(at, 2, p->alarms[i].type);
                keys[i].size = (size_t)(at - keys[i].data);
        }
        if (p->n_alarms)
                qsort(keys, p->n_alarms, sizeof(*keys), compare_alarms);
        for (size_t i = 0; r >= 0 && i < p->n_alarms; i++)
                r = small_put(b, bytes_of(keys[i].data, keys[i].size), (struct bytes){});
        return r;
}

/* A bucket as an element of the root: where its tree is, or its leaf. */
static int put_bucket(const char *name, uint64_t root, struct small_bucket *b, struct buf *elements, struct buf *data) {
        size_t inside = root ? 0 : BOLT_PAGE_HEADER + b->elements.size + b->data.size;
        uint8_t *room;
        int r = leaf_add(elements, data, BOLT_ELEMENT_IS_BUCKET, bytes_of_string(name), BOLT_BUCKET + inside, &room);

        if (r < 0)
                return r;
        le_put64(room, root);
        le_put64(room + 8, 0);
        if (root)
                return 0;
        bolt_put_header(room + BOLT_BUCKET, 0, BOLT_LEAF, (uint16_t)b->n, 0);
        room += BOLT_BUCKET + BOLT_PAGE_HEADER;
        leaf_seal(&b->elements, b->n);
        if (b->n) {
                memcpy(room, b->elements.data, b->elements.size);
                memcpy(room + b->elements.size, b->data.data, b->data.size);
        }
        return 0;
}

int planned_root(const struct snapshot_plan *p, struct buf *elements, struct buf *data, unsigned *ret_n) {
        static const char *const names[] = {"alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease",
                "members", "members_removed", "meta"};
        int r = 0;

        for (size_t i = 0; r >= 0 && i < n_elements(names); i++) {
                struct small_bucket b;
                uint64_t root = 0;

                small_init(&b);
                if (!strcmp(names[i], "alarm"))
                        r = fill_alarms(p, &b);
                else if (!strcmp(names[i], "auth"))
                        r = fill_auth(&b);
                else if (!strcmp(names[i], "meta"))
                        r = fill_meta(p, &b);
                else if (!strcmp(names[i], "key"))
                        root = p->key_root;
                else if (!strcmp(names[i], "lease"))
                        root = p->lease_root;
                if (r >= 0)
                        r = put_bucket(names[i], root, &b, elements, data);
                small_done(&b);
        }
        leaf_seal(elements, n_elements(names));
        *ret_n = n_elements(names);
        return r;
}
