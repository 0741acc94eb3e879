/*
 * Evaluates a transaction (a Put and a DeleteRange are one, too) against the index and what its batch has so far, as
 * etcd's apply does: compares, then one branch, whose reads see its own writes (txn_view.h). Everything that it writes gets one
 * revision. Runs on the keyspace's loop; must neither change the keyspace nor wait: where a value is needed that is not
 * in memory, the evaluation ends before it has changed anything, and begins again when the value has been read.
 */

#include <errno.h>

#include "keyspace/txn_view.h"

static bool needs_values(const struct range_request *r) {
        return !r->count_only && (!r->keys_only || r->sort_target == SORT_VALUE);
}

static bool reads_values(const struct txn *txn) {
        for (size_t i = 0; i < txn->n_compares; i++)
                if (txn->compares[i].target == COMPARE_VALUE)
                        return true;
        for (int branch = 0; branch < 2; branch++) {
                const struct txn_op *ops = branch ? txn->success : txn->failure;
                size_t n = branch ? txn->n_success : txn->n_failure;

                for (size_t i = 0; i < n; i++)
                        switch (ops[i].kind) {
                        case OP_RANGE:
                                if (needs_values(&ops[i].range))
                                        return true;
                                break;
                        case OP_PUT:
                                if (ops[i].put.prev_kv || ops[i].put.ignore_value)
                                        return true;
                                break;
                        case OP_DELETE:
                                if (ops[i].delete.prev_kv)
                                        return true;
                                break;
                        case OP_TXN:
                                if (reads_values(ops[i].txn))
                                        return true;
                                break;
                        }
        }
        return false;
}

/* Values that a selection needs before it can be sorted and cut. */
static void probe_selection(struct txn_evaluator *e, struct range_selection *s) {
        for (size_t i = 0; i < s->n_items; i++)
                txn_probe_value(e, &s->items[i].version);
}

static void probe_answer(struct txn_evaluator *e, struct range_selection *s) {
        range_selection_finish(s);
        for (size_t i = 0; i < s->n_chosen; i++)
                txn_probe_value(e, &range_selection_get(s, i)->version);
}

static int probe_ops(struct txn_evaluator *e, const struct txn *txn, bool behind);

/* behind: an earlier operation of the transaction writes, which may shift what a limit lets through. */
static int probe_op(struct txn_evaluator *e, const struct txn_op *op, bool behind) {
        const struct key_version *v;
        struct batch_cursor cursor;
        struct range_selection s = {};
        struct range_request range;
        struct bytes key;
        int r = 0;

        switch (op->kind) {
        case OP_RANGE:
                if (!needs_values(&op->range))
                        break;
                range = op->range;
                if (behind)
                        range.limit = 0;
                r = txn_range(e, &range, &s);
                if (r == 0 && range.sort_target == SORT_VALUE)
                        probe_selection(e, &s);
                else if (r == 0)
                        probe_answer(e, &s);
                range_selection_done(&s);
                break;
        case OP_PUT:
                v = op->put.prev_kv || op->put.ignore_value ? txn_find(e, op->put.key) : NULL;
                if (v)
                        txn_probe_value(e, v);
                break;
        case OP_DELETE:
                if (!op->delete.prev_kv)
                        break;
                batch_seek(e->batch, &op->delete.range, INT64_MAX, &cursor);
                while ((v = batch_next(&cursor, &key)))
                        txn_probe_value(e, v);
                break;
        case OP_TXN:
                r = probe_ops(e, op->txn, behind);
                break;
        }
        return r < 0 ? r : 0; /* what is wrong with it is found again when it is executed */
}

/* Finds the values that are not in memory. What an operation reads of what an earlier one writes is in the batch by
 * then; all else it reads is what stands before the transaction. */
static int probe_ops(struct txn_evaluator *e, const struct txn *txn, bool behind) {
        bool pass = txn_compares_pass(e, txn);
        const struct txn_op *ops = pass ? txn->success : txn->failure;
        size_t n = pass ? txn->n_success : txn->n_failure;
        int r;

        if (e->n_missing)
                return 0; /* which branch it will be is not known yet */
        for (size_t i = 0; i < n; i++) {
                r = probe_op(e, &ops[i], behind);
                if (r < 0)
                        return r;
                behind |= ops[i].kind != OP_RANGE;
        }
        return 0;
}

static void choose_branches(struct txn_evaluator *e, const struct txn *txn) {
        bool pass = txn_compares_pass(e, txn);
        const struct txn_op *ops = pass ? txn->success : txn->failure;
        size_t n = pass ? txn->n_success : txn->n_failure;
        struct txn_path *path = &e->path;

        if (path->n == path->capacity) {
                path->capacity = path->capacity ? path->capacity * 2 : 8;
                path->passes = realloc(path->passes, path->capacity * sizeof(*path->passes));
                check(path->passes);
        }
        path->passes[path->n++] = pass;
        for (size_t i = 0; i < n; i++)
                if (ops[i].kind == OP_TXN)
                        choose_branches(e, ops[i].txn);
}

static bool take_branch(struct txn_evaluator *e) {
        check(e->path.at < e->path.n);
        return e->path.passes[e->path.at++];
}

/* Deleting and compacting are always possible: they are how room is made. */
static bool has_room(const struct batch *b, const struct txn_op *op) {
        uint64_t quota = b->ks->config.quota_bytes;

        return !quota || b->ks->bytes_log + b->bytes + op->put.key.size + op->put.value.size <= quota;
}

/* A put that takes something over from the key's present version must find one when its turn comes. Of the deletes before it
 * only those from a key on are let through (overlap.c says why). etcd dies of them; here it is as if the key were not there. */
static bool finds_present(const struct txn_evaluator *e, const struct txn_op *op) {
        if (e->deleted_from.data && bytes_compare(op->put.key, e->deleted_from) >= 0)
                return false;
        return txn_find(e, op->put.key);
}

static int check_put(struct txn_evaluator *e, const struct txn_op *op) {
        if (op->put.lease && !batch_has_lease(e->batch, op->put.lease))
                return KEYSPACE_LEASE_NOT_FOUND;
        if ((op->put.ignore_value || op->put.ignore_lease) && !finds_present(e, op))
                return KEYSPACE_KEY_NOT_FOUND;
        if (op->put.key.size + op->put.value.size > e->batch->ks->limits.record_bytes)
                return KEYSPACE_TOO_LARGE;
        if (!has_room(e->batch, op))
                return KEYSPACE_NO_SPACE;
        return 0;
}

/* Before anything was ever compacted, etcd calls what is below -1 compacted; then all below the mark, zero being the newest. */
static bool is_compacted(const struct txn_evaluator *e, int64_t revision) {
        int64_t compacted = e->batch->ks->compacted;

        return revision != 0 && revision < (compacted ? compacted : -1);
}

/* What is wrong with an operation is found before anything is written: etcd refuses the whole transaction then. */
static int check_ops(struct txn_evaluator *e, const struct txn *txn) {
        bool pass = take_branch(e);
        const struct txn_op *ops = pass ? txn->success : txn->failure;
        size_t n = pass ? txn->n_success : txn->n_failure;
        int r = 0;

        for (size_t i = 0; i < n && r == 0; i++)
                switch (ops[i].kind) {
                case OP_RANGE:
                        if (ops[i].range.revision > txn_now(e))
                                r = KEYSPACE_FUTURE_REVISION;
                        else if (is_compacted(e, ops[i].range.revision))
                                r = KEYSPACE_COMPACTED;
                        break;
                case OP_PUT:
                        r = check_put(e, &ops[i]);
                        break;
                case OP_DELETE:
                        if (range_is_endless(&ops[i].delete.range) &&
                                (!e->deleted_from.data || bytes_compare(ops[i].delete.range.key, e->deleted_from) < 0))
                                e->deleted_from = ops[i].delete.range.key;
                        break;
                case OP_TXN:
                        r = check_ops(e, ops[i].txn);
                        break;
                }
        return r;
}

static int fill_kv(
        struct txn_evaluator *e, struct kv *kv, struct bytes key, const struct key_version *v, bool with_value) {
        void *copy = arena_copy(e->arena, key.data, key.size);

        if (!copy)
                return -ENOMEM;
        *kv = (struct kv){
                .key = bytes_of(copy, key.size),
                .create_revision = v->create_revision,
                .mod_revision = v->mod_revision,
                .version = v->version,
                .lease = v->lease,
                .value_size = v->value_size,
                .value = with_value ? txn_value(e, v) : NULL,
        };
        return 0;
}

static int execute_range(struct txn_evaluator *e, const struct range_request *request, struct op_result *ret) {
        struct range_selection s = {};
        int r;

        ret->revision = txn_now(e);
        r = txn_range(e, request, &s);
        if (r == 0 && request->sort_target == SORT_VALUE)
                for (size_t i = 0; i < s.n_items; i++)
                        s.items[i].value = txn_value(e, &s.items[i].version);
        if (r == 0) {
                range_selection_finish(&s);
                ret->range.count = s.count;
                ret->range.more = s.more;
                ret->range.kvs = arena_alloc0(e->arena, s.n_chosen * sizeof(struct kv));
                if (!ret->range.kvs)
                        r = -ENOMEM;
        }
        for (size_t i = 0; r == 0 && i < s.n_chosen; i++) {
                const struct range_item *item = range_selection_get(&s, i);

                r = fill_kv(e, &ret->range.kvs[i], item->key, &item->version, !request->keys_only);
                if (!range_request_tells_leases(request))
                        ret->range.kvs[i].lease = 0;
                if (r == 0)
                        ret->range.n_kvs++;
        }
        range_selection_done(&s);
        return r;
}

static int execute_put(struct txn_evaluator *e, const struct txn_op *op, struct op_result *ret) {
        const struct key_version *old = txn_find(e, op->put.key);
        struct blob *value;
        int r;

        if (old && op->put.prev_kv) {
                ret->put.prev = arena_alloc0(e->arena, sizeof(struct kv));
                if (!ret->put.prev)
                        return -ENOMEM;
                r = fill_kv(e, ret->put.prev, op->put.key, old, true);
                if (r < 0)
                        return r;
        }
        value = op->put.ignore_value ? txn_value(e, old) : blob_copy(op->put.value.data, op->put.value.size);
        if (!value)
                return -ENOMEM;

        batch_put(e->batch, e->write_revision, op->put.key, value, old ? old->create_revision : e->write_revision,
                old ? old->version + 1 : 1, op->put.ignore_lease ? old->lease : op->put.lease);
        e->wrote = true;
        ret->revision = e->write_revision;
        return 0;
}

static int execute_delete(struct txn_evaluator *e, const struct txn_op *op, struct op_result *ret) {
        const struct key_version *v;
        struct batch_cursor cursor;
        struct bytes *keys = NULL;
        size_t n = 0, capacity = 0;
        struct bytes key;
        int r = 0;

        /* Collected first: the overlay must not change below the cursor. */
        batch_seek(e->batch, &op->delete.range, INT64_MAX, &cursor);
        while ((v = batch_next(&cursor, &key))) {
                if (n == capacity) {
                        capacity = capacity ? capacity * 2 : 16;
                        keys = realloc(keys, capacity * sizeof(*keys));
                        check(keys);
                }
                keys[n++] = key;
        }
        if (op->delete.prev_kv && n) {
                ret->delete.prev = arena_alloc0(e->arena, n * sizeof(struct kv));
                if (!ret->delete.prev)
                        r = -ENOMEM;
        }
        for (size_t i = 0; i < n && r == 0; i++) {
                if (op->delete.prev_kv) {
                        r = fill_kv(e, &ret->delete.prev[i], keys[i], txn_find(e, keys[i]), true);
                        if (r < 0)
                                break;
                        ret->delete.n_prev++;
                }
                batch_delete(e->batch, e->write_revision, keys[i]);
                e->wrote = true;
        }
        free(keys);
        ret->delete.deleted = (int64_t)n;
        ret->revision = txn_now(e);
        return r;
}

static int execute_txn(struct txn_evaluator *e, const struct txn *txn, struct txn_result *ret) {
        bool pass = take_branch(e);
        const struct txn_op *ops = pass ? txn->success : txn->failure;
        size_t n = pass ? txn->n_success : txn->n_failure;
        int r = 0;

        ret->succeeded = pass;
        ret->results = arena_alloc0(e->arena, n * sizeof(*ret->results));
        if (!ret->results)
                return -ENOMEM;
        for (size_t i = 0; i < n && r == 0; i++) {
                struct op_result *result = &ret->results[i];

                ret->n_results = i + 1;
                result->kind = ops[i].kind;
                switch (ops[i].kind) {
                case OP_RANGE:
                        r = execute_range(e, &ops[i].range, result);
                        break;
                case OP_PUT:
                        r = execute_put(e, &ops[i], result);
                        break;
                case OP_DELETE:
                        r = execute_delete(e, &ops[i], result);
                        break;
                case OP_TXN:
                        result->txn = arena_alloc0(e->arena, sizeof(*result->txn));
                        if (!result->txn)
                                return -ENOMEM;
                        r = execute_txn(e, ops[i].txn, result->txn);
                        result->revision = txn_now(e);
                        break;
                }
        }
        return r;
}

/* Looks for values that are not in memory; EVALUATE_FETCH leaves them in the call's own.fetch. */
static int probe(struct txn_evaluator *e) {
        struct fetch wanted = {};
        struct keyspace_call *call = &e->call->call;
        int r;

        e->missing = &wanted;
        r = probe_ops(e, e->call->txn, false);
        e->missing = NULL;
        if (r < 0 || e->n_missing == 0) {
                fetch_done(&wanted);
                return r;
        }

        /* What was fetched before is asked for again with the rest: it is needed still, and may be out of the cache. */
        if (!call->own.fetch)
                call->own.fetch = new0(struct fetch);
        for (size_t i = 0; i < call->own.fetch->n; i++)
                fetch_add(&wanted, call->own.fetch->seqs[i]);
        fetch_done(call->own.fetch);
        *call->own.fetch = wanted;
        return EVALUATE_FETCH;
}

int txn_evaluate(struct keyspace_call *call, struct batch *batch) {
        struct txn_call *t = container_of(call, struct txn_call, call);
        struct txn_evaluator e = {
                .batch = batch,
                .call = t,
                .arena = call->arena,
                .write_revision = batch->revision + 1,
        };
        int r;

        txn_result_release(t); /* of an evaluation that came to nothing */
        call->revision = batch->revision;
        call->own.result = alarm_check_txn(batch, t->txn);
        if (call->own.result != KEYSPACE_OK)
                return EVALUATED;
        if (reads_values(t->txn)) {
                r = probe(&e);
                if (r != 0)
                        return r;
        }

        choose_branches(&e, t->txn);
        r = check_ops(&e, t->txn);
        if (r == 0) {
                e.path.at = 0;
                r = execute_txn(&e, t->txn, &t->result);
        }
        free(e.path.passes);
        if (r < 0)
                return r;

        if (e.wrote)
                batch->revision++;
        call->revision = batch->revision;
        call->own.result = (enum keyspace_result)r;
        return EVALUATED;
}

static void release_result(struct txn_result *result) {
        for (size_t i = 0; i < result->n_results; i++) {
                struct op_result *op = &result->results[i];

                switch (op->kind) {
                case OP_RANGE:
                        for (size_t j = 0; j < op->range.n_kvs; j++)
                                blob_unref(op->range.kvs[j].value);
                        break;
                case OP_PUT:
                        if (op->put.prev)
                                blob_unref(op->put.prev->value);
                        break;
                case OP_DELETE:
                        for (size_t j = 0; j < op->delete.n_prev; j++)
                                blob_unref(op->delete.prev[j].value);
                        break;
                case OP_TXN:
                        if (op->txn)
                                release_result(op->txn);
                        break;
                }
        }
        *result = (struct txn_result){};
}

void txn_result_release(struct txn_call *call) {
        release_result(&call->result);
}

static void forget(struct keyspace_call *call) {
        txn_result_release(container_of(call, struct txn_call, call));
}

void keyspace_txn(struct keyspace *ks, struct txn_call *t) {
        t->call.own.forget = forget;
        keyspace_queue(ks, &t->call, txn_evaluate);
}
