/*
 * Puts against puts and deletes of one transaction. Belongs to the KV service; no state, any thread.
 *
 * Each level gives its parent two sorted sets: the keys that it puts, and the ranges that it deletes, merged so that none
 * overlap. Sets of children are merged into their parent's one after the other, and each is compared with what was merged before
 * it, as etcd does (checkIntervals in server/etcdserver/api/v3rpc/key.go): a put is held against the deletes of its
 * own level and of nested transactions that stand before it, wherever its own level's puts stand; and a delete of "\0", from
 * a key on, is not seen at all. What is let through is done in order, each operation on what those before it have left.
 */

#include "etcd/overlap.h"

#include <stdlib.h>

struct span {
        struct bytes key, end;
};

struct sets {
        struct bytes *puts; /* owned; ascending, each once */
        size_t n_puts;
        struct span *deletes; /* owned; ascending, disjoint */
        size_t n_deletes;
};

static void sets_done(struct sets *s) {
        free(s->puts);
        free(s->deletes);
        *s = (struct sets){};
}

static int compare_puts(const void *a, const void *b) {
        return bytes_compare(*(const struct bytes *)a, *(const struct bytes *)b);
}

static int compare_spans(const void *a, const void *b) {
        return bytes_compare(((const struct span *)a)->key, ((const struct span *)b)->key);
}

/* A single key k stands as [k, k): the first key is always in, so that no "k\0" has to be made. */
static bool span_has(const struct span *s, struct bytes key) {
        if (bytes_compare(key, s->key) < 0)
                return false;
        return bytes_equal(key, s->key) || bytes_compare(key, s->end) < 0;
}

/* Sorts and merges in place. */
static size_t spans_normalise(struct span *spans, size_t n) {
        size_t n_out = 0;

        if (n > 1)
                qsort(spans, n, sizeof(*spans), compare_spans);
        for (size_t i = 0; i < n; i++) {
                struct span *last = n_out ? spans + n_out - 1 : NULL;

                /* Merged where one begins inside the other; neighbours that only touch stay two, harmlessly. */
                if (last && span_has(last, spans[i].key)) {
                        if (bytes_compare(spans[i].end, last->end) > 0)
                                last->end = spans[i].end;
                } else {
                        spans[n_out++] = spans[i];
                }
        }
        return n_out;
}

/* The last span that begins at or before the key is the only one that may have it. */
static bool deletes_hit(const struct sets *s, struct bytes key) {
        size_t low = 0, high = s->n_deletes;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (bytes_compare(s->deletes[middle].key, key) <= 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low > 0 && span_has(s->deletes + low - 1, key);
}

static bool puts_have(const struct sets *s, struct bytes key) {
        return s->n_puts > 0 && bsearch(&key, s->puts, s->n_puts, sizeof(*s->puts), compare_puts);
}

/* Adds puts (ascending) that may be in already. */
static int puts_merge(struct sets *into, const struct bytes *puts, size_t n) {
        struct bytes *merged;
        size_t n_merged = 0, i = 0, j = 0;

        if (n == 0)
                return 0;
        merged = malloc((into->n_puts + n) * sizeof(*merged));
        if (!merged)
                return -ENOMEM;
        while (i < into->n_puts || j < n) {
                int order = i == into->n_puts ? 1 : j == n ? -1 : bytes_compare(into->puts[i], puts[j]);

                merged[n_merged++] = order <= 0 ? into->puts[i] : puts[j];
                if (order <= 0)
                        i++;
                if (order >= 0)
                        j++;
        }
        free(into->puts);
        into->puts = merged;
        into->n_puts = n_merged;
        return 0;
}

static int deletes_merge(struct sets *into, const struct span *deletes, size_t n) {
        struct span *spans;

        if (n == 0)
                return 0;
        spans = realloc(into->deletes, (into->n_deletes + n) * sizeof(*spans));
        if (!spans)
                return -ENOMEM;
        memcpy(spans + into->n_deletes, deletes, n * sizeof(*spans));
        into->deletes = spans;
        into->n_deletes = spans_normalise(spans, into->n_deletes + n);
        return 0;
}

static enum etcd_status branch_sets(const struct txn_op *ops, size_t n_ops, struct sets *ret);

static enum etcd_status add_nested(struct sets *sets, const struct txn *txn) {
        cleanup(sets_done) struct sets success = {}, failure = {};
        enum etcd_status status;

        status = branch_sets(txn->success, txn->n_success, &success);
        if (status != ETCD_OK)
                return status;
        status = branch_sets(txn->failure, txn->n_failure, &failure);
        if (status != ETCD_OK)
                return status;

        for (size_t i = 0; i < success.n_puts; i++)
                if (puts_have(sets, success.puts[i]) || deletes_hit(sets, success.puts[i]))
                        return ETCD_DUPLICATE_KEY;
        /* Both are held against what was there before either, since only one of them will be done. */
        for (size_t i = 0; i < failure.n_puts; i++)
                if (puts_have(sets, failure.puts[i]) || deletes_hit(sets, failure.puts[i]))
                        return ETCD_DUPLICATE_KEY;

        if (puts_merge(sets, success.puts, success.n_puts) < 0 || puts_merge(sets, failure.puts, failure.n_puts) < 0 ||
                deletes_merge(sets, success.deletes, success.n_deletes) < 0 ||
                deletes_merge(sets, failure.deletes, failure.n_deletes) < 0)
                return ETCD_NO_MEMORY;
        return ETCD_OK;
}

/* What one branch puts and deletes; ret is the caller's to free, whatever is returned. */
static enum etcd_status branch_sets(const struct txn_op *ops, size_t n_ops, struct sets *ret) {
        cleanup(freep) struct bytes *puts = NULL;
        size_t n_puts = 0, n_deletes = 0;
        enum etcd_status status;

        for (size_t i = 0; i < n_ops; i++) {
                n_puts += ops[i].kind == OP_PUT;
                n_deletes += ops[i].kind == OP_DELETE;
        }

        if (n_deletes > 0) {
                ret->deletes = malloc(n_deletes * sizeof(*ret->deletes));
                if (!ret->deletes)
                        return ETCD_NO_MEMORY;
                for (size_t i = 0; i < n_ops; i++) {
                        struct key_range range;

                        if (ops[i].kind != OP_DELETE)
                                continue;
                        range = ops[i].delete.range;
                        if (range.end.size == 0) /* the one key: see span_has() */
                                ret->deletes[ret->n_deletes++] = (struct span){range.key, range.key};
                        else if (bytes_compare(range.key, range.end) < 0) /* else etcd takes it for empty, "\0" too */
                                ret->deletes[ret->n_deletes++] = (struct span){range.key, range.end};
                }
                ret->n_deletes = spans_normalise(ret->deletes, ret->n_deletes);
        }

        for (size_t i = 0; i < n_ops; i++)
                if (ops[i].kind == OP_TXN) {
                        status = add_nested(ret, ops[i].txn);
                        if (status != ETCD_OK)
                                return status;
                }

        if (n_puts > 0) {
                puts = malloc(n_puts * sizeof(*puts));
                if (!puts)
                        return ETCD_NO_MEMORY;
                n_puts = 0;
                for (size_t i = 0; i < n_ops; i++)
                        if (ops[i].kind == OP_PUT)
                                puts[n_puts++] = ops[i].put.key;
                qsort(puts, n_puts, sizeof(*puts), compare_puts);
                for (size_t i = 0; i < n_puts; i++)
                        if ((i > 0 && bytes_equal(puts[i - 1], puts[i])) || puts_have(ret, puts[i]) ||
                                deletes_hit(ret, puts[i]))
                                return ETCD_DUPLICATE_KEY;
                if (puts_merge(ret, puts, n_puts) < 0)
                        return ETCD_NO_MEMORY;
        }
        return ETCD_OK;
}

enum etcd_status overlap_check(const struct txn_op *ops, size_t n_ops) {
        cleanup(sets_done) struct sets sets = {};

        /* One operation that is no transaction itself cannot overlap: what Kubernetes sends. */
        if (n_ops == 0 || (n_ops == 1 && ops[0].kind != OP_TXN))
                return ETCD_OK;
        return branch_sets(ops, n_ops, &sets);
}
