#include "snapshot/plan.h"

#include <sys/random.h>

#define XXH_INLINE_ALL
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <xxhash.h>
#pragma GCC diagnostic pop

#include "rpc/protobuf.h"
#include "snapshot/planned.h"

#define DEAD (UINT64_C(1) << 63)
#define FIRST_SLOTS 1024
#define MAX_ALARMS 1024
#define FIRST_PAGE 3 /* behind meta, meta, free list; then keys, leases, root */

int snapshot_plan_new(const struct snapshot_config *config, struct snapshot_plan **ret) {
        struct snapshot_plan *p = new0(struct snapshot_plan);

        p->config = *config;
        if (getrandom(&p->salt, sizeof(p->salt), 0) != sizeof(p->salt)) {
                free(p);
                return -errno;
        }
        *ret = p;
        return 0;
}

static void forget(struct snapshot_plan *p) {
        struct planned_lease *l, *next;

        HASH_ITER(hh, p->leases, l, next) {
                HASH_DEL(p->leases, l);
                free(l);
        }
        free(steal(p->seqs));
        free(steal(p->sizes));
        free(steal(p->slots));
        free(steal(p->sorted));
        free(steal(p->alarms));
}

void snapshot_plan_free(struct snapshot_plan *p) {
        if (!p)
                return;
        forget(p);
        free(p);
}

void snapshot_plan_restart(struct snapshot_plan *p) {
        forget(p);
        *p = (struct snapshot_plan){.config = p->config, .salt = p->salt};
}

/* ---- keys */

static struct key_slot *find_slot(struct key_slot *slots, size_t n_slots, uint64_t hash, uint32_t more) {
        for (size_t i = (size_t)hash & (n_slots - 1);; i = (i + 1) & (n_slots - 1))
                if (!slots[i].version || (slots[i].hash == hash && slots[i].hash_more == more))
                        return &slots[i];
}

static bool grow_slots(struct snapshot_plan *p) {
        size_t n_slots = p->n_slots ? p->n_slots * 2 : FIRST_SLOTS;
        struct key_slot *slots = calloc(n_slots, sizeof(*slots));

        if (!slots)
                return false;
        for (size_t i = 0; i < p->n_slots; i++)
                if (p->slots[i].version)
                        *find_slot(slots, n_slots, p->slots[i].hash, p->slots[i].hash_more) = p->slots[i];
        free(p->slots);
        p->slots = slots;
        p->n_slots = n_slots;
        return true;
}

/* This version is the newest of its key so far: the one before it is none of the snapshot's. */
static bool supersede(struct snapshot_plan *p, const struct stoke_record *r, size_t version) {
        XXH128_hash_t hash = XXH3_128bits_withSeed(r->key, r->key_size, p->salt);
        struct key_slot *slot;

        if (p->n_keys >= p->n_slots / 4 * 3 && !grow_slots(p))
                return false;
        slot = find_slot(p->slots, p->n_slots, hash.low64, (uint32_t)hash.high64);
        if (slot->version)
                p->seqs[slot->version - 1] |= DEAD;
        else
                p->n_keys++;
        *slot = (struct key_slot){hash.low64, (uint32_t)hash.high64, (uint32_t)version + 1};
        return true;
}

/* ---- records */

size_t planned_value_size(const struct stoke_record *r) {
        size_t size = protobuf_field_bytes_size(r->key_size);

        if (r->kind == RECORD_TOMBSTONE)
                return size;
        return size + protobuf_field_varint_size((uint64_t)r->create_revision) +
                protobuf_field_varint_size((uint64_t)r->revision) + protobuf_field_varint_size((uint64_t)r->version) +
                protobuf_field_bytes_size(r->value_size) + protobuf_field_varint_size((uint64_t)r->lease);
}

static size_t bytes_used(const struct snapshot_plan *p) {
        return p->capacity * (sizeof(*p->seqs) + sizeof(*p->sizes)) + p->n_slots * sizeof(*p->slots) +
                HASH_COUNT(p->leases) * (sizeof(struct planned_lease) + 32);
}

static bool grow_versions(struct snapshot_plan *p) {
        size_t capacity = p->capacity ? p->capacity * 2 : 1024;
        uint64_t *seqs = realloc(p->seqs, capacity * sizeof(*seqs));
        uint32_t *sizes;

        if (!seqs)
                return false;
        p->seqs = seqs;
        sizes = realloc(p->sizes, capacity * sizeof(*sizes));
        if (!sizes)
                return false;
        p->sizes = sizes;
        p->capacity = capacity;
        return true;
}

static int add_version(struct snapshot_plan *p, const struct stoke_record *r, struct error *reterr) {
        bool dead = r->kind == RECORD_TOMBSTONE && r->revision < p->config.compacted;
        size_t size = planned_value_size(r);

        if (size > INT32_MAX || p->n == UINT32_MAX - 1)
                return error_set(reterr, -EMSGSIZE, "a snapshot cannot hold record %llu", (unsigned long long)r->seq);
        if (p->n == p->capacity && !grow_versions(p))
                return error_set(reterr, -ENOMEM, "no memory for the snapshot's plan");
        p->seqs[p->n] = r->seq | (dead ? DEAD : 0);
        p->sizes[p->n] = (uint32_t)size << 1 | (r->kind == RECORD_TOMBSTONE);
        if (r->revision > p->config.compacted)
                p->last_above = r->revision;
        else if (!supersede(p, r, p->n))
                return error_set(reterr, -ENOMEM, "no memory for the snapshot's plan");
        p->n++;
        if (p->config.max_bytes && bytes_used(p) > p->config.max_bytes)
                return error_set(reterr, -ENOMEM, "the snapshot's plan would take more than %zu bytes of memory",
                        p->config.max_bytes);
        return 0;
}

static void add_lease(struct snapshot_plan *p, const struct stoke_record *r) {
        struct planned_lease *l;

        HASH_FIND(hh, p->leases, &r->lease, sizeof(r->lease), l);
        if (r->kind == RECORD_LEASE) {
                if (!l) {
                        l = new0(struct planned_lease);
                        l->id = r->lease;
                        HASH_ADD(hh, p->leases, id, sizeof(l->id), l);
                }
                l->ttl = max_of(r->version, INT64_C(1));
        } else if (l) {
                HASH_DEL(p->leases, l);
                free(l);
        }
}

static int add_alarm(struct snapshot_plan *p, const struct stoke_record *r, struct error *reterr) {
        uint64_t member = (uint64_t)r->lease, type = (uint64_t)r->create_revision;
        struct planned_alarm *alarms;
        size_t i = 0;

        while (i < p->n_alarms && (p->alarms[i].member != member || p->alarms[i].type != type))
                i++;
        if (r->version == 0) {
                if (i < p->n_alarms)
                        p->alarms[i] = p->alarms[--p->n_alarms];
                return 0;
        }
        if (i < p->n_alarms || (!member && !type))
                return 0;
        if (p->n_alarms == MAX_ALARMS)
                return error_set(reterr, -EUCLEAN, "more than %d alarms stand", MAX_ALARMS);
        alarms = realloc(p->alarms, (p->n_alarms + 1) * sizeof(*alarms));
        check(alarms);
        p->alarms = alarms;
        p->alarms[p->n_alarms++] = (struct planned_alarm){member, type};
        return 0;
}

int snapshot_plan_add(struct snapshot_plan *p, const struct stoke_record *r, struct error *reterr) {
        check(!p->finished);
        if (r->seq <= p->end.seq || r->seq > INT64_MAX || r->revision < 0)
                return error_set(reterr, -EUCLEAN, "record %llu cannot follow record %llu", (unsigned long long)r->seq,
                        (unsigned long long)p->end.seq);
        if ((r->kind == RECORD_PUT || r->kind == RECORD_TOMBSTONE) && r->revision < p->revision)
                return error_set(reterr, -EUCLEAN, "record %llu goes back from revision %lld to %lld",
                        (unsigned long long)r->seq, (long long)p->revision, (long long)r->revision);
        p->end = (struct stoke_end){r->seq, r->origin};
        p->revision = max_of(p->revision, r->revision);
        switch ((enum record_kind)r->kind) {
        case RECORD_PUT:
        case RECORD_TOMBSTONE:
                return add_version(p, r, reterr);
        case RECORD_LEASE:
        case RECORD_REVOKE:
        case RECORD_REVOKE_GROUPED:
                add_lease(p, r);
                return 0;
        case RECORD_MARK:
                p->marked = max_of(p->marked, r->create_revision);
                return 0;
        case RECORD_ALARM:
                return add_alarm(p, r, reterr);
        default: /* what readers do not see */
                return 0;
        }
}

/* ---- the layout */

static int compare_leases(const void *a, const void *b) {
        uint64_t x = (uint64_t)(*(struct planned_lease *const *)a)->id;
        uint64_t y = (uint64_t)(*(struct planned_lease *const *)b)->id;

        return (x > y) - (x < y);
}

static int compare_left(const void *key, const void *element) {
        int64_t x = *(const int64_t *)key, y = ((const struct lease_left *)element)->id;

        return (x > y) - (x < y);
}

/* A lease that was never renewed late has no remaining time of its own in etcd: all of it. */
size_t planned_lease_size(const struct snapshot_plan *p, const struct planned_lease *l, int64_t *ret_left) {
        const struct lease_left *left = p->config.n_left
                ? bsearch(&l->id, p->config.left, p->config.n_left, sizeof(*left), compare_left)
                : NULL;

        *ret_left = left && left->left_ms / 1000 < l->ttl ? max_of(left->left_ms / 1000, INT64_C(1)) : 0;
        return protobuf_field_varint_size((uint64_t)l->id) + protobuf_field_varint_size((uint64_t)l->ttl) +
                protobuf_field_varint_size((uint64_t)*ret_left);
}

static void plan_keys(struct snapshot_plan *p) {
        struct tree_plan tree = {};
        size_t n = 0;

        for (size_t i = 0; i < p->n; i++) {
                if (p->seqs[i] & DEAD)
                        continue;
                tree_plan_add(&tree, p->sizes[i] & 1 ? SNAPSHOT_TOMBSTONE : SNAPSHOT_REVISION, p->sizes[i] >> 1);
                p->seqs[n++] = p->seqs[i];
        }
        p->n = n;
        free(steal(p->sizes));
        free(steal(p->slots));
        p->n_slots = 0;
        p->capacity = max_of(n, (size_t)1);
        p->seqs = realloc(p->seqs, p->capacity * sizeof(*p->seqs));
        check(p->seqs);
        p->filler = p->revision > max_of(max_of(p->last_above, p->config.compacted), INT64_C(1));
        if (p->filler)
                tree_plan_add(&tree, SNAPSHOT_TOMBSTONE, 0);
        p->key_pages = tree_plan_finish(&tree, &p->key_root);
        p->key_root += p->key_pages ? FIRST_PAGE : 0;
}

static void plan_leases(struct snapshot_plan *p) {
        struct tree_plan tree = {};
        struct planned_lease *l, *next;
        int64_t left;

        p->sorted = xcalloc(HASH_COUNT(p->leases), sizeof(struct planned_lease *));
        HASH_ITER(hh, p->leases, l, next)
                p->sorted[p->n_leases++] = l;
        if (p->n_leases)
                qsort(p->sorted, p->n_leases, sizeof(struct planned_lease *), compare_leases);
        for (size_t i = 0; i < p->n_leases; i++)
                tree_plan_add(&tree, 8, planned_lease_size(p, p->sorted[i], &left));
        p->lease_pages = tree_plan_finish(&tree, &p->lease_root);
        p->lease_root += p->lease_pages ? FIRST_PAGE + p->key_pages : 0;
}

int snapshot_plan_finish(struct snapshot_plan *p, struct error *reterr) {
        struct buf elements, data;
        unsigned n;
        int r;

        check(!p->finished);
        if (!p->end.seq)
                return error_set(reterr, -EUCLEAN, "the log is empty");
        if (p->marked != p->config.compacted) {
                p->config.compacted = p->marked;
                snapshot_plan_restart(p);
                return SNAPSHOT_AGAIN;
        }
        p->finished = true;
        plan_keys(p);
        plan_leases(p);
        p->root = FIRST_PAGE + p->key_pages + p->lease_pages;
        buf_init(&elements, 0);
        buf_init(&data, 0);
        r = planned_root(p, &elements, &data, &n);
        p->n_pages = p->root + (BOLT_PAGE_HEADER + elements.size + data.size + BOLT_PAGE_SIZE - 1) / BOLT_PAGE_SIZE;
        buf_done(&elements);
        buf_done(&data);
        if (r < 0)
                return error_set(reterr, r, "no memory for the snapshot's plan");
        return SNAPSHOT_DONE;
}

void snapshot_plan_get(const struct snapshot_plan *p, struct snapshot_figures *ret) {
        check(p->finished);
        *ret = (struct snapshot_figures){
                .revision = max_of(p->revision, INT64_C(1)),
                .compacted = p->config.compacted,
                .end = p->end,
                .n_versions = p->n,
                .n_leases = p->n_leases,
                .bytes = p->n_pages * BOLT_PAGE_SIZE + SNAPSHOT_CHECKSUM,
        };
}
