/*
 * A hash over what readers can see at a revision: of each key the version that lives at the compacted revision, and all
 * versions above it, tombstones too. Each version brings its record's own hash, which the index keeps beside its numbers
 * and which is over seq, revision, key and value but not over who wrote it; what was pruned or deleted from the datastore,
 * sooner here and later there, is not among them. The sum does not depend on an order, so nothing but a compaction
 * disturbs it while it is made: then it is begun again.
 *
 * Made in slices, so that no other call on this loop waits for it. The keyspace's loop only.
 */

#include "keyspace/state.h"

#define SLICE 4096

static inline uint64_t mix(uint64_t x) {
        x ^= x >> 33;
        x *= UINT64_C(0xff51afd7ed558ccd);
        x ^= x >> 33;
        x *= UINT64_C(0xc4ceb9fe1a85ec53);
        return x ^ x >> 33;
}

uint64_t hash_version(const struct key_version *v) {
        return mix(mix(v->seq) + v->hash);
}

uint64_t hash_lease(uint64_t seq) {
        return mix(mix(seq) ^ UINT64_C(0x6c65617365));
}

/* Adds what is to be seen of one key; how many versions were looked at. */
static size_t add_entry(struct hash_call *c, const struct key_entry *e) {
        const struct key_version *at = key_entry_at(e, c->compacted);

        if (c->hashed < c->compacted)
                return 1; /* a negative revision: nothing */
        if (at && at->version)
                c->own.sum += hash_version(at);
        for (uint32_t i = 0; i < e->n_older; i++)
                if (e->older[i].mod_revision > c->compacted && e->older[i].mod_revision <= c->hashed)
                        c->own.sum += hash_version(&e->older[i]);
        if (e->last.mod_revision > c->compacted && e->last.mod_revision <= c->hashed)
                c->own.sum += hash_version(&e->last);
        return e->n_older + 1;
}

static void keep_place(struct hash_call *c, const struct key_entry *e) {
        free(c->own.next);
        c->own.next = xcalloc(e->key_size + 1, 1);
        memcpy(c->own.next, e->key, e->key_size);
        c->own.next_size = e->key_size;
}

static void begin(struct hash_call *c, const struct keyspace *ks) {
        free(steal(c->own.next));
        c->own.next_size = 0;
        c->own.sum = 0;
        c->compacted = ks->compacted;
}

static void on_slice(struct loop_timer *timer) {
        struct hash_call *c = container_of(timer, struct hash_call, own.timer);
        struct keyspace *ks = c->call.own.keyspace;
        struct index_cursor cursor;
        struct key_entry *e;
        size_t n = 0;

        if (c->hashed > 0 && c->hashed < ks->compacted) {
                keyspace_call_end(&c->call, KEYSPACE_COMPACTED);
                return;
        }
        if (loop_now_ns(ks->loop) >= c->call.deadline_ns) {
                keyspace_call_end(&c->call, KEYSPACE_TIMEOUT);
                return;
        }
        if (c->compacted != ks->compacted)
                begin(c, ks);
        index_seek(&ks->index, bytes_of(c->own.next, c->own.next_size), &cursor);
        while ((e = index_next(&cursor))) {
                if (n >= SLICE) {
                        keep_place(c, e);
                        loop_timer_set(ks->loop, timer, loop_now_ns(ks->loop) + 1);
                        return;
                }
                n += add_entry(c, e);
        }
        c->own.sum = mix(c->own.sum);
        c->hash = (uint32_t)(c->own.sum ^ c->own.sum >> 32);
        c->call.revision = ks->revision;
        keyspace_call_end(&c->call, KEYSPACE_OK);
}

static void on_fresh(struct keyspace_call *call, enum keyspace_result result) {
        struct hash_call *c = container_of(call, struct hash_call, call);
        struct keyspace *ks = call->own.keyspace;

        (void)result;
        call->revision = ks->revision;
        c->hashed = c->revision_wanted ? c->revision_wanted : ks->revision;
        if (c->hashed > ks->revision || (c->hashed > 0 && c->hashed < ks->compacted)) {
                keyspace_call_end(call, c->hashed > ks->revision ? KEYSPACE_FUTURE_REVISION : KEYSPACE_COMPACTED);
                return;
        }
        begin(c, ks);
        keyspace_call_unlink(call);
        call_list_add(&ks->hashing, call);
        loop_timer_set(ks->loop, &c->own.timer, loop_now_ns(ks->loop) + 1);
}

static void forget(struct keyspace_call *call) {
        struct hash_call *c = container_of(call, struct hash_call, call);

        loop_timer_clear(&c->own.timer);
        free(steal(c->own.next));
}

void keyspace_hash(struct keyspace *ks, struct hash_call *c) {
        c->call.own.forget = forget;
        c->own.timer.on_time = on_slice;
        if (keyspace_enter(ks, &c->call, on_fresh))
                barrier_wait(ks, &c->call);
}
