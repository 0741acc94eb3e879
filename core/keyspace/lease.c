/*
 * Leases: granted, kept alive and ended by records, so that every daemon knows them in the same order. Each daemon counts a
 * lease's time from when it learnt of it or of its last keep-alive, so never early. Any daemon may end one: its append
 * names the end of the log that it knows, and a keep-alive that it had not seen makes it stale. The keyspace's loop only.
 */

#include <errno.h>
#include <sys/random.h>

#include "keyspace/commit.h"

/* As etcd with its default timing. */
#define MIN_TTL INT64_C(2)
#define MAX_TTL INT64_C(9000000000)
#define EXPIRE_AT_ONCE 64
#define EXPIRE_RECORDS 256
#define EXPIRE_RETRY_NS NSEC_PER_SEC

static void expire_some(struct keyspace *ks);

/* ---- state */

struct lease *lease_find(struct keyspace *ks, int64_t id) {
        struct lease *l;

        HASH_FIND(hh, ks->leases.table, &id, sizeof(id), l);
        return l;
}

void lease_attach(struct keyspace *ks, struct key_entry *entry, int64_t id) {
        struct lease *l = lease_find(ks, id);
        struct lease_item *item;

        if (!l)
                return; /* ended later in the log, together with the key's tombstone */
        item = new0(struct lease_item);
        item->entry = entry;
        item->lease = l;
        entry->lease_item = item;
        HASH_ADD_PTR(l->items, entry, item);
        ks->leases.n_items++;
}

void lease_detach(struct key_entry *entry) {
        struct lease_item *item = entry->lease_item;

        if (!item)
                return;
        HASH_DEL(item->lease->items, item);
        item->lease->ks->leases.n_items--;
        free(item);
        entry->lease_item = NULL;
}

static void lease_free(struct keyspace *ks, struct lease *l) {
        struct lease_item *item, *next;

        HASH_ITER(hh, l->items, item, next)
                lease_detach(item->entry);
        loop_timer_clear(&l->timer);
        if (l->expiring)
                TAILQ_REMOVE(&ks->leases.expired, l, link);
        HASH_DEL(ks->leases.table, l);
        verify_forget(ks, l->seq, hash_lease(l->seq));
        free(l);
}

void leases_done(struct keyspace *ks) {
        struct lease *l, *next;

        HASH_ITER(hh, ks->leases.table, l, next)
                lease_free(ks, l);
        loop_timer_clear(&ks->leases.retry);
}

bool leases_drop_some(struct keyspace *ks, size_t n) {
        struct lease_item *item, *next;
        struct lease *l, *tmp;

        HASH_ITER(hh, ks->leases.table, l, tmp) {
                HASH_ITER(hh, l->items, item, next) {
                        if (n == 0)
                                return false;
                        n--;
                        lease_detach(item->entry);
                }
                if (n == 0)
                        return false;
                n--;
                lease_free(ks, l);
        }
        return true;
}

static void on_expired(struct loop_timer *timer) {
        struct lease *l = container_of(timer, struct lease, timer);

        if (!l->expiring)
                TAILQ_INSERT_TAIL(&l->ks->leases.expired, l, link);
        l->expiring = true;
        expire_some(l->ks);
}

static void lease_count(struct keyspace *ks, struct lease *l, uint64_t expires_ns) {
        if (l->expiring)
                TAILQ_REMOVE(&ks->leases.expired, l, link);
        l->expiring = false;
        l->expires_ns = expires_ns;
        loop_timer_set(ks->loop, &l->timer, l->expires_ns);
}

static void lease_renew(struct keyspace *ks, struct lease *l) {
        uint64_t time = l->left_seq ? (uint64_t)l->left_ms * NSEC_PER_MSEC : (uint64_t)l->ttl * NSEC_PER_SEC;

        lease_count(ks, l, clock_now_ns() + time);
}

/* It counts from another record now. */
static void forget_left(struct keyspace *ks, struct lease *l) {
        if (l->left_seq)
                compaction_add(ks, l->left_seq, false);
        l->left_seq = 0;
}

void leases_restart(struct keyspace *ks) {
        struct lease *l, *next;

        HASH_ITER(hh, ks->leases.table, l, next) {
                uint64_t expires_ns = past_lease_expires(ks, l);

                if (expires_ns)
                        lease_count(ks, l, expires_ns);
                else
                        lease_renew(ks, l);
        }
}

void leases_shift(struct keyspace *ks, uint64_t ns) {
        struct lease *l, *next;

        HASH_ITER(hh, ks->leases.table, l, next)
                lease_count(ks, l, l->expires_ns + ns);
}

void lease_apply(struct keyspace *ks, const struct stoke_record *r) {
        struct lease *l = lease_find(ks, r->lease);

        switch (r->kind) {
        case RECORD_LEASE:
                if (l)
                        lease_free(ks, l);
                l = new0(struct lease);
                l->id = r->lease;
                l->ttl = min_of(max_of(r->version, INT64_C(1)), MAX_TTL);
                l->seq = l->renewed_seq = r->seq;
                l->ks = ks;
                l->timer.on_time = on_expired;
                HASH_ADD(hh, ks->leases.table, id, sizeof(l->id), l);
                ks->sum += hash_lease(l->seq);
                lease_renew(ks, l);
                break;
        case RECORD_KEEPALIVE:
                if (l) {
                        forget_left(ks, l);
                        l->renewed_seq = r->seq;
                        lease_renew(ks, l);
                }
                compaction_add(ks, r->seq, false);
                break;
        case RECORD_LEASE_LEFT:
                if (!l) {
                        compaction_add(ks, r->seq, false);
                        break;
                }
                forget_left(ks, l);
                l->renewed_seq = l->left_seq = r->seq;
                l->left_ms = min_of(max_of(r->version, INT64_C(0)), l->ttl * 1000);
                lease_renew(ks, l);
                break;
        default: /* ended */
                if (l) {
                        forget_left(ks, l);
                        compaction_add(ks, l->seq, false);
                        lease_free(ks, l);
                }
                compaction_add(ks, r->seq, true);
                break;
        }
}

/* ---- ending */

static int compare_keys(const void *a, const void *b) {
        return bytes_compare(*(const struct bytes *)a, *(const struct bytes *)b);
}

struct key_array {
        struct bytes *keys; /* owned */
        size_t n, capacity;
};

static void key_array_add(struct key_array *a, struct bytes key) {
        if (a->n == a->capacity) {
                a->capacity = a->capacity ? a->capacity * 2 : 16;
                a->keys = realloc(a->keys, a->capacity * sizeof(*a->keys));
                check(a->keys);
        }
        a->keys[a->n++] = key;
}

/* The keys attached to a lease as the batch has them so far, in order. */
static void attached(const struct batch *b, int64_t id, struct key_array *ret) {
        struct lease *l = lease_find(b->ks, id);
        const struct key_version *v;
        struct lease_item *item, *next;
        struct index_cursor cursor;
        struct key_entry *e;

        if (l)
                HASH_ITER(hh, l->items, item, next) {
                        v = batch_find(b, key_entry_key(item->entry));
                        if (v == &item->entry->last)
                                key_array_add(ret, key_entry_key(item->entry));
                }
        index_seek(&b->overlay, (struct bytes){}, &cursor);
        while ((e = index_next(&cursor)))
                if (e->last.version && e->last.lease == id)
                        key_array_add(ret, key_entry_key(e));
        if (ret->n)
                qsort(ret->keys, ret->n, sizeof(*ret->keys), compare_keys);
}

/* Its keys go with it, in one revision. Where they are more bytes than may be added, some of them go and the lease
 * stays: false. */
static bool end_lease(struct batch *b, int64_t id, size_t max_bytes) {
        struct key_array keys = {};
        size_t n = 0, bytes = 0;

        attached(b, id, &keys);
        while (n < keys.n && keys.keys[n].size <= max_bytes - bytes)
                bytes += keys.keys[n++].size;
        if (n < keys.n) {
                if (n)
                        b->revision++;
                for (size_t i = 0; i < n; i++)
                        batch_delete(b, b->revision, keys.keys[i]);
                free(keys.keys);
                return false;
        }
        if (keys.n) {
                int64_t revision = ++b->revision;

                batch_add(b, RECORD_REVOKE_GROUPED, revision, (struct bytes){}, NULL, 0, 0, id);
                for (size_t i = 0; i < keys.n; i++)
                        batch_delete(b, revision, keys.keys[i]);
        } else
                batch_add(b, RECORD_REVOKE, b->revision, (struct bytes){}, NULL, 0, 0, id);
        batch_set_lease(b, id, false);
        free(keys.keys);
        return true;
}

/* What its keys' tombstones take, about. */
static size_t lease_bytes(const struct lease *l) {
        size_t bytes = 0;
        struct lease_item *item, *next;

        HASH_ITER(hh, l->items, item, next)
                bytes += item->entry->key_size;
        return bytes;
}

static bool renewed_by(const struct batch *b, int64_t id) {
        for (size_t i = 0; i < b->n_records; i++)
                if (b->records[i].lease == id &&
                        (b->records[i].kind == RECORD_KEEPALIVE || b->records[i].kind == RECORD_LEASE))
                        return true;
        return false;
}

static int evaluate_expiry(struct keyspace_call *call, struct batch *b) {
        struct keyspace *ks = b->ks;
        uint64_t now = clock_now_ns();
        size_t max_bytes = ks->limits.batch_bytes, bytes_before = b->bytes;
        struct lease *l;
        unsigned n = 0;

        call->own.result = alarm_check_change(b);
        if (call->own.result != KEYSPACE_OK)
                return EVALUATED;
        TAILQ_FOREACH(l, &ks->leases.expired, link) {
                if (l->expires_ns > now || !batch_has_lease(b, l->id) || renewed_by(b, l->id))
                        continue;
                if (n && lease_bytes(l) > max_bytes - min_of(max_bytes, b->bytes - bytes_before))
                        break; /* in a batch of its own */
                /* One that no append can hold ends in several revisions: there is no other way to be rid of it. */
                if (!end_lease(b, l->id, max_bytes - min_of(max_bytes, b->bytes - bytes_before)))
                        break;
                if (++n == EXPIRE_AT_ONCE || b->n_records >= EXPIRE_RECORDS)
                        break; /* the rest comes in the next call */
        }
        call->own.result = KEYSPACE_OK;
        return EVALUATED;
}

static void on_expire_retry(struct loop_timer *timer) {
        expire_some(container_of(timer, struct keyspace, leases.retry));
}

static void on_expire_done(struct keyspace_call *call, enum keyspace_result result) {
        struct keyspace *ks = container_of(call, struct keyspace, leases.call);

        ks->leases.calling = false;
        if (result == KEYSPACE_STOPPED || ks->closing)
                return;
        if (result == KEYSPACE_OK)
                expire_some(ks);
        else {
                ks->leases.retry.on_time = on_expire_retry;
                loop_timer_set(ks->loop, &ks->leases.retry, loop_now_ns(ks->loop) + EXPIRE_RETRY_NS);
        }
}

static void expire_some(struct keyspace *ks) {
        if (ks->leases.calling || TAILQ_EMPTY(&ks->leases.expired) || ks->closing || !ks->open)
                return;
        ks->leases.calling = true;
        ks->leases.call =
                (struct keyspace_call){.done = on_expire_done, .deadline_ns = UINT64_MAX, .own.internal = true};
        keyspace_queue(ks, &ks->leases.call, evaluate_expiry);
}

void leases_kick(struct keyspace *ks) {
        expire_some(ks);
}

/* ---- calls */

static int64_t choose_id(const struct batch *b) {
        int64_t id;

        do
                if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
                        id = (int64_t)(((uint64_t)random() << 32) ^ (uint64_t)random());
                else
                        id &= INT64_MAX;
        while (id == 0 || batch_has_lease(b, id));
        return id;
}

/* With those that the batch has granted so far. */
static size_t n_leases(const struct batch *b) {
        size_t n = HASH_COUNT(b->ks->leases.table);

        if (n + b->n_records >= b->ks->config.limits.leases)
                for (size_t i = 0; i < b->n_records; i++)
                        n += b->records[i].kind == RECORD_LEASE;
        return n;
}

static int evaluate_grant(struct keyspace_call *call, struct batch *b) {
        struct lease_call *c = container_of(call, struct lease_call, call);

        call->revision = b->revision;
        call->own.result = alarm_check_grant(b);
        if (call->own.result != KEYSPACE_OK)
                return EVALUATED;
        if (n_leases(b) >= b->ks->config.limits.leases)
                call->own.result = KEYSPACE_TOO_MANY_REQUESTS;
        else if (c->ttl > MAX_TTL)
                call->own.result = KEYSPACE_LEASE_TTL_TOO_LARGE;
        else if (c->id && batch_has_lease(b, c->id))
                call->own.result = KEYSPACE_LEASE_EXISTS;
        else {
                if (!c->id)
                        c->id = choose_id(b);
                c->ttl = c->granted_ttl = max_of(c->ttl, MIN_TTL);
                batch_add(b, RECORD_LEASE, b->revision, (struct bytes){}, NULL, 0, c->granted_ttl, c->id);
                batch_set_lease(b, c->id, true);
                call->own.result = KEYSPACE_OK;
        }
        return EVALUATED;
}

static int evaluate_revoke(struct keyspace_call *call, struct batch *b) {
        struct lease_call *c = container_of(call, struct lease_call, call);

        call->revision = b->revision;
        call->own.result = alarm_check_change(b);
        if (call->own.result != KEYSPACE_OK)
                return EVALUATED;
        if (batch_has_lease(b, c->id)) /* one that no append can hold is refused: it ends when its time is over */
                (void)end_lease(b, c->id, SIZE_MAX);
        else
                call->own.result = KEYSPACE_LEASE_NOT_FOUND;
        call->revision = b->revision;
        return EVALUATED;
}

static int evaluate_keep_alive(struct keyspace_call *call, struct batch *b) {
        struct lease_call *c = container_of(call, struct lease_call, call);
        struct lease *l = lease_find(b->ks, c->id);

        call->revision = b->revision;
        c->ttl = 0;
        call->own.result = KEYSPACE_LEASE_NOT_FOUND;
        if (!batch_has_lease(b, c->id))
                return EVALUATED;

        c->ttl = l ? l->ttl : 0;
        for (size_t i = 0; i < b->n_records; i++) /* granted in this very batch */
                if (b->records[i].kind == RECORD_LEASE && b->records[i].lease == c->id)
                        c->ttl = b->records[i].version;
        batch_add(b, RECORD_KEEPALIVE, b->revision, (struct bytes){}, NULL, 0, 0, c->id);
        call->own.result = KEYSPACE_OK;
        return EVALUATED;
}

static void on_time_to_live(struct keyspace_call *call, enum keyspace_result result) {
        struct lease_call *c = container_of(call, struct lease_call, call);
        struct keyspace *ks = call->own.keyspace;
        struct lease *l = lease_find(ks, c->id);
        struct lease_item *item, *next;
        uint64_t now = clock_now_ns();
        size_t n = 0;

        (void)result;
        call->revision = ks->revision;
        c->ttl = -1;
        c->granted_ttl = 0;
        c->keys = NULL;
        c->n_keys = 0;
        if (l) {
                c->granted_ttl = l->ttl;
                c->ttl = l->expires_ns > now ? (int64_t)((l->expires_ns - now) / NSEC_PER_SEC) : 0;
        }
        if (l && c->with_keys) {
                c->keys = arena_alloc(call->arena, HASH_COUNT(l->items) * sizeof(*c->keys));
                HASH_ITER(hh, l->items, item, next) {
                        struct bytes key = key_entry_key(item->entry);

                        key.data = c->keys ? arena_copy(call->arena, key.data, key.size) : NULL;
                        if (!key.data) {
                                keyspace_call_end(call, KEYSPACE_UNAVAILABLE);
                                return;
                        }
                        c->keys[n++] = key;
                }
                c->n_keys = n;
                if (n)
                        qsort(c->keys, n, sizeof(*c->keys), compare_keys);
        }
        keyspace_call_end(call, KEYSPACE_OK);
}

/* Who ends first comes first, as etcd lists them. */
static int compare_ends(const void *a, const void *b) {
        const struct lease *x = *(struct lease *const *)a, *y = *(struct lease *const *)b;

        if (x->expires_ns != y->expires_ns)
                return x->expires_ns < y->expires_ns ? -1 : 1;
        return (x->id > y->id) - (x->id < y->id);
}

static void on_leases(struct keyspace_call *call, enum keyspace_result result) {
        struct lease_call *c = container_of(call, struct lease_call, call);
        struct keyspace *ks = call->own.keyspace;
        size_t n = HASH_COUNT(ks->leases.table);
        cleanup(freep) struct lease **leases = malloc(max_of(n, 1) * sizeof(*leases));
        struct lease *l, *next;

        (void)result;
        call->revision = ks->revision;
        c->n_ids = 0;
        c->ids = arena_alloc(call->arena, n * sizeof(*c->ids));
        if (!c->ids || !leases) {
                keyspace_call_end(call, KEYSPACE_UNAVAILABLE);
                return;
        }
        n = 0;
        HASH_ITER(hh, ks->leases.table, l, next)
                leases[n++] = l;
        if (n > 1)
                qsort(leases, n, sizeof(*leases), compare_ends);
        while (c->n_ids < n) {
                c->ids[c->n_ids] = leases[c->n_ids]->id;
                c->n_ids++;
        }
        keyspace_call_end(call, KEYSPACE_OK);
}

static int compare_left(const void *a, const void *b) {
        int64_t x = ((const struct lease_left *)a)->id, y = ((const struct lease_left *)b)->id;

        return (x > y) - (x < y);
}

struct lease_left *keyspace_leases_left(struct keyspace *ks, size_t *ret_n) {
        uint64_t now = clock_now_ns();
        struct lease_left *left;
        struct lease *l, *next;
        size_t n = 0;

        *ret_n = HASH_COUNT(ks->leases.table);
        left = *ret_n ? reallocarray(NULL, *ret_n, sizeof(*left)) : NULL;
        if (left)
                HASH_ITER(hh, ks->leases.table, l, next)
                        left[n++] = (struct lease_left){
                                .id = l->id,
                                .ttl = l->ttl,
                                .left_ms = l->expires_ns > now ? (int64_t)((l->expires_ns - now) / NSEC_PER_MSEC) : 0,
                        };
        if (left)
                qsort(left, n, sizeof(*left), compare_left);
        return left;
}

void keyspace_lease_grant(struct keyspace *ks, struct lease_call *c) {
        keyspace_queue(ks, &c->call, evaluate_grant);
}

void keyspace_lease_revoke(struct keyspace *ks, struct lease_call *c) {
        keyspace_queue(ks, &c->call, evaluate_revoke);
}

void keyspace_lease_keep_alive(struct keyspace *ks, struct lease_call *c) {
        keyspace_queue(ks, &c->call, evaluate_keep_alive);
}

void keyspace_lease_time_to_live(struct keyspace *ks, struct lease_call *c) {
        if (keyspace_enter(ks, &c->call, on_time_to_live))
                barrier_wait(ks, &c->call);
}

void keyspace_leases(struct keyspace *ks, struct lease_call *c) {
        if (keyspace_enter(ks, &c->call, on_leases))
                barrier_wait(ks, &c->call);
}
