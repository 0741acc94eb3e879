/*
 * What a batch has so far: its records, and the keys and leases as they will be once it is appended. Evaluations read and
 * write it; nothing here reaches the keyspace's own state. The keyspace's loop only.
 */

#include "keyspace/commit.h"

void batch_add(struct batch *b, enum record_kind kind, int64_t revision, struct bytes key, struct blob *value,
        int64_t create_revision, int64_t version, int64_t lease) {
        struct stoke_record *r;

        if (b->n_records == b->capacity) {
                b->capacity = b->capacity ? b->capacity * 2 : 64;
                b->records = realloc(b->records, b->capacity * sizeof(*b->records));
                b->blobs = realloc(b->blobs, b->capacity * sizeof(*b->blobs));
                check(b->records && b->blobs);
        }
        r = &b->records[b->n_records];
        *r = (struct stoke_record){
                .seq = b->base.seq + 1 + b->n_records,
                .revision = revision,
                .kind = (uint8_t)kind,
                .create_revision = create_revision,
                .version = version,
                .lease = lease,
                .key = arena_copy(&b->arena, key.data, key.size),
                .key_size = key.size,
                .value = value ? (const void *)value->data : "",
                .value_size = value ? value->size : 0,
        };
        check(r->key);
        memcpy(r->origin.daemon, b->ks->daemon, sizeof(r->origin.daemon));
        r->origin.batch = b->number;
        r->hash = record_hash(r);
        b->blobs[b->n_records++] = value;
        b->bytes += r->key_size + r->value_size;
}

const struct key_version *batch_find(const struct batch *b, struct bytes key) {
        const struct key_entry *e = b->overlay.root ? index_find(&b->overlay, key) : NULL;

        if (!e)
                e = index_find(&b->ks->index, key);
        return e ? &e->last : NULL;
}

static void overlay_push(struct batch *b, struct bytes key) {
        const struct stoke_record *r = &b->records[b->n_records - 1];

        key_entry_push(index_get(&b->overlay, key),
                &(struct key_version){
                        .seq = r->seq,
                        .mod_revision = r->revision,
                        .create_revision = r->create_revision,
                        .version = r->version,
                        .lease = r->lease,
                        .value_size = (uint32_t)r->value_size,
                });
}

void batch_put(struct batch *b, int64_t revision, struct bytes key, struct blob *value, int64_t create_revision,
        int64_t version, int64_t lease) {
        batch_add(b, RECORD_PUT, revision, key, value, create_revision, version, lease);
        overlay_push(b, key);
}

void batch_delete(struct batch *b, int64_t revision, struct bytes key) {
        batch_add(b, RECORD_TOMBSTONE, revision, key, NULL, 0, 0, 0);
        overlay_push(b, key);
}

bool batch_has_lease(const struct batch *b, int64_t id) {
        for (size_t i = b->n_leases; i-- > 0;)
                if (b->leases[i].id == id)
                        return b->leases[i].alive;
        return lease_find(b->ks, id);
}

void batch_set_lease(struct batch *b, int64_t id, bool alive) {
        if (b->n_leases == b->leases_capacity) {
                b->leases_capacity = b->leases_capacity ? b->leases_capacity * 2 : 8;
                b->leases = realloc(b->leases, b->leases_capacity * sizeof(*b->leases));
                check(b->leases);
        }
        b->leases[b->n_leases++] = (struct batch_lease){id, alive};
}

void batch_seek(const struct batch *b, const struct key_range *range, int64_t revision, struct batch_cursor *ret) {
        *ret = (struct batch_cursor){.batch = b, .range = range, .revision = revision};
        index_seek(&b->ks->index, range->key, &ret->base);
        index_seek(&b->overlay, range->key, &ret->overlay);
        ret->next_base = index_next(&ret->base);
        ret->next_overlay = index_next(&ret->overlay);
}

const struct key_version *batch_next(struct batch_cursor *c, struct bytes *ret_key) {
        for (;;) {
                struct key_entry *base = c->next_base, *over = c->next_overlay;
                const struct key_version *v = NULL;
                int order;

                if (!base && !over)
                        return NULL;
                order = !base ? 1 : !over ? -1 : bytes_compare(key_entry_key(base), key_entry_key(over));

                *ret_key = key_entry_key(order <= 0 ? base : over);
                if (range_ends_before(c->range, *ret_key))
                        return NULL;
                if (order >= 0) {
                        v = key_entry_at(over, c->revision);
                        c->next_overlay = index_next(&c->overlay);
                }
                if (order <= 0) {
                        if (!v)
                                v = key_entry_at(base, c->revision);
                        c->next_base = index_next(&c->base);
                }
                if (v && v->version)
                        return v;
        }
}
