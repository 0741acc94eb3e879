/*
 * Packing by hand. A message's length stands in front of it, so each is measured first; the lengths of what is nested in a
 * transaction's answer are kept in the order in which they are written, or measuring would be repeated at each level.
 */

#include "etcd/pack.h"

#include "rpc/protobuf.h"

/* ---- KeyValue */

static size_t kv_body_size(const struct kv *kv) {
        return protobuf_field_bytes_size(kv->key.size) + protobuf_field_varint_size((uint64_t)kv->create_revision) +
                protobuf_field_varint_size((uint64_t)kv->mod_revision) +
                protobuf_field_varint_size((uint64_t)kv->version) +
                protobuf_field_bytes_size(kv->value ? kv->value->size : 0) +
                protobuf_field_varint_size((uint64_t)kv->lease);
}

size_t pack_kv_size(const struct kv *kv) {
        size_t body = kv_body_size(kv);

        return 1 + protobuf_varint_size(body) + body;
}

uint8_t *pack_kv(uint8_t *p, unsigned field, const struct kv *kv) {
        *p++ = (uint8_t)(field << 3 | 2);
        p = protobuf_put_varint(p, kv_body_size(kv));
        p = protobuf_put_field_bytes(p, 1, kv->key);
        p = protobuf_put_field_varint(p, 2, (uint64_t)kv->create_revision);
        p = protobuf_put_field_varint(p, 3, (uint64_t)kv->mod_revision);
        p = protobuf_put_field_varint(p, 4, (uint64_t)kv->version);
        p = protobuf_put_field_bytes(p, 5, blob_bytes(kv->value));
        return protobuf_put_field_varint(p, 6, (uint64_t)kv->lease);
}

uint8_t *pack_kv_head(uint8_t *p, unsigned field, const struct kv *kv) {
        *p++ = (uint8_t)(field << 3 | 2);
        p = protobuf_put_varint(p, kv_body_size(kv));
        p = protobuf_put_field_bytes(p, 1, kv->key);
        p = protobuf_put_field_varint(p, 2, (uint64_t)kv->create_revision);
        p = protobuf_put_field_varint(p, 3, (uint64_t)kv->mod_revision);
        p = protobuf_put_field_varint(p, 4, (uint64_t)kv->version);
        p = protobuf_put_field_varint(p, 6, (uint64_t)kv->lease);
        *p++ = 5 << 3 | 2;
        return protobuf_put_varint(p, kv->value->size);
}

static size_t kvs_size(const struct kv *kvs, size_t n) {
        size_t size = 0;

        for (size_t i = 0; i < n; i++)
                size += pack_kv_size(kvs + i);
        return size;
}

static uint8_t *pack_kvs(uint8_t *p, unsigned field, const struct kv *kvs, size_t n) {
        for (size_t i = 0; i < n; i++)
                p = pack_kv(p, field, kvs + i);
        return p;
}

static struct blob *new_message(size_t size) {
        return size <= UINT32_MAX ? blob_new(size) : NULL;
}

/* ---- single writes */

struct blob *pack_put_response(const struct etcd_header *header, const struct op_result *result) {
        const struct kv *prev = result->put.prev;
        struct blob *b = new_message(etcd_header_size(header) + (prev ? pack_kv_size(prev) : 0));
        uint8_t *p;

        if (!b)
                return NULL;
        p = etcd_header_put(b->data, header);
        if (prev)
                p = pack_kv(p, 2, prev);
        check(p == b->data + b->size);
        return b;
}

struct blob *pack_delete_response(const struct etcd_header *header, const struct op_result *result) {
        struct blob *b =
                new_message(etcd_header_size(header) + protobuf_field_varint_size((uint64_t)result->delete.deleted) +
                        kvs_size(result->delete.prev, result->delete.n_prev));
        uint8_t *p;

        if (!b)
                return NULL;
        p = etcd_header_put(b->data, header);
        p = protobuf_put_field_varint(p, 2, (uint64_t)result->delete.deleted);
        p = pack_kvs(p, 3, result->delete.prev, result->delete.n_prev);
        check(p == b->data + b->size);
        return b;
}

/* ---- transactions */

/* Lengths in the order in which they are written: for each operation that of its ResponseOp and that of the response in it. */
struct lengths {
        size_t *at; /* in the arena */
        size_t n, next;
};

/* Inside a transaction a header has the revision alone, as etcd leaves it; it is there even if empty. */
static size_t inner_header_size(int64_t revision) {
        return 2 + protobuf_field_varint_size((uint64_t)revision);
}

static uint8_t *put_inner_header(uint8_t *p, int64_t revision) {
        *p++ = 1 << 3 | 2;
        *p++ = (uint8_t)protobuf_field_varint_size((uint64_t)revision);
        return protobuf_put_field_varint(p, 3, (uint64_t)revision);
}

static const struct txn_op *branch_of(const struct txn *txn, const struct txn_result *result) {
        check(result->n_results == (result->succeeded ? txn->n_success : txn->n_failure));
        return result->succeeded ? txn->success : txn->failure;
}

static size_t count_ops(const struct txn *txn, const struct txn_result *result) {
        const struct txn_op *ops = branch_of(txn, result);
        size_t n = result->n_results;

        for (size_t i = 0; i < result->n_results; i++)
                if (ops[i].kind == OP_TXN)
                        n += count_ops(ops[i].txn, result->results[i].txn);
        return n;
}

static size_t measure_results(struct lengths *lengths, const struct txn *txn, const struct txn_result *result);

static size_t measure_op(struct lengths *lengths, const struct txn_op *op, const struct op_result *r) {
        switch (op->kind) {
        case OP_RANGE:
                return inner_header_size(r->revision) + kvs_size(r->range.kvs, r->range.n_kvs) +
                        (r->range.more ? 2 : 0) + protobuf_field_varint_size((uint64_t)r->range.count);
        case OP_PUT:
                return inner_header_size(r->revision) + (r->put.prev ? pack_kv_size(r->put.prev) : 0);
        case OP_DELETE:
                return inner_header_size(r->revision) + protobuf_field_varint_size((uint64_t)r->delete.deleted) +
                        kvs_size(r->delete.prev, r->delete.n_prev);
        case OP_TXN:
                break;
        }
        return inner_header_size(0) + measure_results(lengths, op->txn, r->txn);
}

static size_t measure_results(struct lengths *lengths, const struct txn *txn, const struct txn_result *result) {
        const struct txn_op *ops = branch_of(txn, result);
        size_t size = result->succeeded ? 2 : 0;

        for (size_t i = 0; i < result->n_results; i++) {
                size_t *mine = lengths->at + lengths->n, response, response_op;

                lengths->n += 2;
                response = measure_op(lengths, ops + i, result->results + i);
                response_op = 1 + protobuf_varint_size(response) + response;
                mine[0] = response_op;
                mine[1] = response;
                size += 1 + protobuf_varint_size(response_op) + response_op;
        }
        return size;
}

static uint8_t *put_results(
        uint8_t *p, struct lengths *lengths, const struct txn *txn, const struct txn_result *result);

static uint8_t *put_op(uint8_t *p, struct lengths *lengths, const struct txn_op *op, const struct op_result *r) {
        switch (op->kind) {
        case OP_RANGE:
                p = put_inner_header(p, r->revision);
                p = pack_kvs(p, 2, r->range.kvs, r->range.n_kvs);
                p = protobuf_put_field_varint(p, 3, r->range.more);
                return protobuf_put_field_varint(p, 4, (uint64_t)r->range.count);
        case OP_PUT:
                p = put_inner_header(p, r->revision);
                return r->put.prev ? pack_kv(p, 2, r->put.prev) : p;
        case OP_DELETE:
                p = put_inner_header(p, r->revision);
                p = protobuf_put_field_varint(p, 2, (uint64_t)r->delete.deleted);
                return pack_kvs(p, 3, r->delete.prev, r->delete.n_prev);
        case OP_TXN:
                break;
        }
        p = put_inner_header(p, 0);
        return put_results(p, lengths, op->txn, r->txn);
}

static uint8_t *put_results(
        uint8_t *p, struct lengths *lengths, const struct txn *txn, const struct txn_result *result) {
        static const unsigned fields[] = {[OP_RANGE] = 1, [OP_PUT] = 2, [OP_DELETE] = 3, [OP_TXN] = 4};
        const struct txn_op *ops = branch_of(txn, result);

        p = protobuf_put_field_varint(p, 2, result->succeeded);
        for (size_t i = 0; i < result->n_results; i++) {
                *p++ = 3 << 3 | 2;
                p = protobuf_put_varint(p, lengths->at[lengths->next++]);
                *p++ = (uint8_t)(fields[ops[i].kind] << 3 | 2);
                p = protobuf_put_varint(p, lengths->at[lengths->next++]);
                p = put_op(p, lengths, ops + i, result->results + i);
        }
        return p;
}

struct blob *pack_txn_response(
        struct arena *arena, const struct etcd_header *header, const struct txn *txn, const struct txn_result *result) {
        size_t n = count_ops(txn, result);
        struct lengths lengths = {.at = arena_alloc(arena, (2 * n + 1) * sizeof(size_t))};
        struct blob *b;
        uint8_t *p;

        if (!lengths.at)
                return NULL;
        b = new_message(etcd_header_size(header) + measure_results(&lengths, txn, result));
        if (!b)
                return NULL;
        p = etcd_header_put(b->data, header);
        p = put_results(p, &lengths, txn, result);
        check(p == b->data + b->size && lengths.next == lengths.n);
        return b;
}

/* ---- events */

struct blob *pack_event(const struct watch_event *event, bool with_prev) {
        const struct kv *prev = with_prev && event->has_prev ? &event->prev : NULL;
        size_t body = (event->is_delete ? 2 : 0) + pack_kv_size(&event->kv) + (prev ? pack_kv_size(prev) : 0);
        struct blob *b = new_message(1 + protobuf_varint_size(body) + body);
        uint8_t *p;

        if (!b)
                return NULL;
        p = b->data;
        *p++ = 11 << 3 | 2;
        p = protobuf_put_varint(p, body);
        p = protobuf_put_field_varint(p, 1, event->is_delete);
        p = pack_kv(p, 2, &event->kv);
        if (prev)
                p = pack_kv(p, 3, prev);
        check(p == b->data + b->size);
        return b;
}
