/*
 * From messages to the keyspace's structures. Belongs to the KV service; no state, any thread. It refuses what etcd refuses
 * before a request reaches the log; what depends on the keys that there are is the keyspace's to say.
 *
 * Source of the checks: etcd's server/etcdserver/api/v3rpc/key.go.
 */

#include "etcd/convert.h"

#include <stokehold/rpc.pb-c.h>

#include "etcd/overlap.h"
#include "rpc/protobuf.h"

static struct bytes pb_bytes(ProtobufCBinaryData data) {
        return bytes_of(data.data, data.len);
}

bool convert_too_large(struct bytes message, const struct keyspace_limits *limits) {
        /* etcd measures the entry of its log: the request with tag and length, beside a header of 14 bytes. */
        return message.size + 1 + protobuf_varint_size(message.size) + 14 > limits->request_bytes;
}

static bool read_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret) {
        uint64_t v = 0;

        for (unsigned shift = 0; shift < 70; shift += 7) {
                uint8_t b;

                if (*p == end)
                        return false;
                b = *(*p)++;
                if (shift < 64)
                        v |= (uint64_t)(b & 0x7f) << shift;
                if (b < 0x80) {
                        *ret = v;
                        return true;
                }
        }
        return false;
}

static void set_range_number(struct range_request *r, uint64_t field, uint64_t v, int32_t *order, int32_t *target) {
        switch (field) {
        case 3:
                r->limit = (int64_t)v;
                break;
        case 4:
                r->revision = (int64_t)v;
                break;
        case 5:
                *order = (int32_t)v;
                break;
        case 6:
                *target = (int32_t)v;
                break;
        case 7:
                r->serializable = v != 0;
                break;
        case 8:
                r->keys_only = v != 0;
                break;
        case 9:
                r->count_only = v != 0;
                break;
        case 10:
                r->min_mod = (int64_t)v;
                break;
        case 11:
                r->max_mod = (int64_t)v;
                break;
        case 12:
                r->min_create = (int64_t)v;
                break;
        case 13:
                r->max_create = (int64_t)v;
                break;
        default: /* a newer client's; proto3 skips it */
                break;
        }
}

static enum etcd_status check_range(struct range_request *r, int32_t order, int32_t target) {
        if (r->range.key.size == 0)
                return ETCD_EMPTY_KEY;
        if (order < 0 || order > SORT_DESCEND || target < 0 || target > SORT_VALUE)
                return ETCD_INVALID_SORT_OPTION;
        r->sort_order = (enum sort_order)order;
        r->sort_target = (enum sort_target)target;
        if (r->limit < 0) /* etcd takes it for none */
                r->limit = 0;
        return ETCD_OK;
}

enum etcd_status convert_range(struct bytes message, struct range_request *ret) {
        const uint8_t *p = message.data, *end = message.data + message.size;
        int32_t order = SORT_NONE, target = SORT_KEY;
        enum etcd_status status;

        *ret = (struct range_request){};
        while (p < end) {
                uint64_t tag, v;

                if (!read_varint(&p, end, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
                        return ETCD_MALFORMED;
                switch (tag & 7) {
                case 0:
                        if (!read_varint(&p, end, &v))
                                return ETCD_MALFORMED;
                        set_range_number(ret, tag >> 3, v, &order, &target);
                        break;
                case 1:
                        if (end - p < 8)
                                return ETCD_MALFORMED;
                        p += 8;
                        break;
                case 2:
                        if (!read_varint(&p, end, &v) || v > (uint64_t)(end - p))
                                return ETCD_MALFORMED;
                        if (tag >> 3 == 1)
                                ret->range.key = bytes_of(p, v);
                        else if (tag >> 3 == 2)
                                ret->range.end = bytes_of(p, v);
                        p += v;
                        break;
                case 5:
                        if (end - p < 4)
                                return ETCD_MALFORMED;
                        p += 4;
                        break;
                default:
                        return ETCD_MALFORMED;
                }
        }

        status = check_range(ret, order, target);
        /* Outside of a transaction a revision below zero is the newest too. */
        if (status == ETCD_OK && ret->revision < 0)
                ret->revision = 0;
        return status;
}

static enum etcd_status range_op(const Etcdserverpb__RangeRequest *pb, struct txn_op *ret) {
        ret->kind = OP_RANGE;
        ret->range = (struct range_request){
                .range = {pb_bytes(pb->key), pb_bytes(pb->range_end)},
                .revision = pb->revision,
                .limit = pb->limit,
                .keys_only = pb->keys_only,
                .count_only = pb->count_only,
                .serializable = pb->serializable,
                .min_mod = pb->min_mod_revision,
                .max_mod = pb->max_mod_revision,
                .min_create = pb->min_create_revision,
                .max_create = pb->max_create_revision,
        };
        return check_range(&ret->range, (int32_t)pb->sort_order, (int32_t)pb->sort_target);
}

static enum etcd_status put_op(const Etcdserverpb__PutRequest *pb, struct txn_op *ret) {
        if (pb->key.len == 0)
                return ETCD_EMPTY_KEY;
        if (pb->ignore_value && pb->value.len > 0)
                return ETCD_VALUE_PROVIDED;
        if (pb->ignore_lease && pb->lease != 0)
                return ETCD_LEASE_PROVIDED;
        ret->kind = OP_PUT;
        ret->put.key = pb_bytes(pb->key);
        ret->put.value = pb_bytes(pb->value);
        ret->put.lease = pb->lease;
        ret->put.prev_kv = pb->prev_kv;
        ret->put.ignore_value = pb->ignore_value;
        ret->put.ignore_lease = pb->ignore_lease;
        return ETCD_OK;
}

static enum etcd_status delete_op(const Etcdserverpb__DeleteRangeRequest *pb, struct txn_op *ret) {
        if (pb->key.len == 0)
                return ETCD_EMPTY_KEY;
        ret->kind = OP_DELETE;
        ret->delete.range = (struct key_range){pb_bytes(pb->key), pb_bytes(pb->range_end)};
        ret->delete.prev_kv = pb->prev_kv;
        return ETCD_OK;
}

enum etcd_status convert_put(
        struct arena *arena, struct bytes message, const struct keyspace_limits *limits, struct txn_op *ret) {
        const Etcdserverpb__PutRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__put_request__descriptor, arena, message);
        enum etcd_status status;

        if (!pb)
                return ETCD_MALFORMED;
        status = put_op(pb, ret);
        if (status == ETCD_OK && convert_too_large(message, limits))
                return ETCD_REQUEST_TOO_LARGE;
        return status;
}

enum etcd_status convert_delete(
        struct arena *arena, struct bytes message, const struct keyspace_limits *limits, struct txn_op *ret) {
        const Etcdserverpb__DeleteRangeRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__delete_range_request__descriptor, arena, message);
        enum etcd_status status;

        if (!pb)
                return ETCD_MALFORMED;
        status = delete_op(pb, ret);
        if (status == ETCD_OK && convert_too_large(message, limits))
                return ETCD_REQUEST_TOO_LARGE;
        return status;
}

/* What etcd makes of a compare that it does not know. */
enum fate { FATE_COMPARE, FATE_HOLDS, FATE_FAILS };

static enum fate compare_of(const Etcdserverpb__Compare *pb, struct compare *ret) {
        static const int cases[] = {
                [COMPARE_VERSION] = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION,
                [COMPARE_CREATE] = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION,
                [COMPARE_MOD] = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION,
                [COMPARE_VALUE] = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE,
                [COMPARE_LEASE] = ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE,
        };
        int32_t result = (int32_t)pb->result, target = (int32_t)pb->target;
        struct key_range range = {pb_bytes(pb->key), pb_bytes(pb->range_end)};
        bool given;

        if ((result < 0 || result > COMPARE_NOT_EQUAL) && target == COMPARE_VALUE) {
                /* Any value will do, but there must be one. */
                *ret = (struct compare){.result = COMPARE_GREATER, .target = COMPARE_VERSION, .range = range};
                return FATE_COMPARE;
        }
        if (result < 0 || result > COMPARE_NOT_EQUAL)
                return FATE_HOLDS;
        if (target < 0 || target > COMPARE_LEASE) /* equal, whatever is there */
                return result == COMPARE_EQUAL ? FATE_HOLDS : FATE_FAILS;

        *ret = (struct compare){.range = range};
        ret->result = (__typeof__(ret->result))result;
        ret->target = (__typeof__(ret->target))target;
        /* A number for another target than the one named counts as zero. */
        given = (int)pb->target_union_case == cases[target];
        if (given && target == COMPARE_VALUE)
                ret->value = pb_bytes(pb->value);
        else if (given)
                switch (target) {
                case COMPARE_VERSION:
                        ret->number = pb->version;
                        break;
                case COMPARE_CREATE:
                        ret->number = pb->create_revision;
                        break;
                case COMPARE_MOD:
                        ret->number = pb->mod_revision;
                        break;
                default:
                        ret->number = pb->lease;
                        break;
                }
        return FATE_COMPARE;
}

static enum etcd_status txn_of(
        struct arena *arena, const Etcdserverpb__TxnRequest *pb, size_t max_ops, unsigned nesting, struct txn *ret);

static enum etcd_status ops_of(struct arena *arena, Etcdserverpb__RequestOp *const *pbs, size_t n, size_t max_ops,
        unsigned nesting, const struct txn_op **ret) {
        struct txn_op *ops = arena_alloc0(arena, max_of(n, 1) * sizeof(*ops));
        enum etcd_status status;

        if (!ops)
                return ETCD_NO_MEMORY;
        for (size_t i = 0; i < n; i++) {
                switch (pbs[i]->request_case) {
                case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE:
                        status = range_op(pbs[i]->request_range, ops + i);
                        break;
                case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT:
                        status = put_op(pbs[i]->request_put, ops + i);
                        break;
                case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE:
                        status = delete_op(pbs[i]->request_delete_range, ops + i);
                        break;
                case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN: {
                        struct txn *nested = arena_alloc0(arena, sizeof(*nested));

                        if (!nesting)
                                return ETCD_MALFORMED; /* as etcd answers what its decoder finds too deep */
                        if (!nested)
                                return ETCD_NO_MEMORY;
                        ops[i].kind = OP_TXN;
                        ops[i].txn = nested;
                        status = txn_of(arena, pbs[i]->request_txn, max_ops, nesting - 1, nested);
                        break;
                }
                default: /* nothing is set; this is what etcd calls it */
                        status = ETCD_KEY_NOT_FOUND;
                        break;
                }
                if (status != ETCD_OK)
                        return status;
        }
        *ret = ops;
        return ETCD_OK;
}

/* Recursion is bounded by nesting; what is deeper than any could be was refused by protobuf_unpack() already. */
static enum etcd_status txn_of(
        struct arena *arena, const Etcdserverpb__TxnRequest *pb, size_t max_ops, unsigned nesting, struct txn *ret) {
        size_t n = max_of(pb->n_compare, max_of(pb->n_success, pb->n_failure));
        struct compare *compares;
        enum etcd_status status;

        /* The operations of each level count against what the levels above have left. */
        if (n > max_ops)
                return ETCD_TOO_MANY_OPS;
        for (size_t i = 0; i < pb->n_compare; i++)
                if (pb->compare[i]->key.len == 0)
                        return ETCD_EMPTY_KEY;

        compares = arena_alloc(arena, max_of(pb->n_compare, 1) * sizeof(*compares));
        if (!compares)
                return ETCD_NO_MEMORY;
        *ret = (struct txn){.compares = compares};
        for (size_t i = 0; i < pb->n_compare; i++)
                switch (compare_of(pb->compare[i], compares + ret->n_compares)) {
                case FATE_COMPARE:
                        ret->n_compares++;
                        break;
                case FATE_HOLDS:
                        break;
                case FATE_FAILS: /* no version is below zero */
                        compares[ret->n_compares++] = (struct compare){
                                .result = COMPARE_LESS,
                                .target = COMPARE_VERSION,
                                .range = {pb_bytes(pb->compare[i]->key), {}},
                        };
                        break;
                }

        status = ops_of(arena, pb->success, pb->n_success, max_ops - n, nesting, &ret->success);
        if (status != ETCD_OK)
                return status;
        status = ops_of(arena, pb->failure, pb->n_failure, max_ops - n, nesting, &ret->failure);
        if (status != ETCD_OK)
                return status;
        ret->n_success = pb->n_success;
        ret->n_failure = pb->n_failure;
        return ETCD_OK;
}

static bool reads_only(const struct txn_op *ops, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (ops[i].kind != OP_RANGE)
                        return false;
        return true;
}

enum etcd_status convert_txn(struct arena *arena, struct bytes message, const struct keyspace_limits *limits,
        struct txn *ret, bool *ret_read_only) {
        const Etcdserverpb__TxnRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__txn_request__descriptor, arena, message);
        enum etcd_status status;

        if (!pb)
                return ETCD_MALFORMED;
        status = txn_of(arena, pb, limits->txn_operations, limits->txn_nesting, ret);
        if (status != ETCD_OK)
                return status;
        status = overlap_check(ret->success, ret->n_success);
        if (status != ETCD_OK)
                return status;
        status = overlap_check(ret->failure, ret->n_failure);
        if (status != ETCD_OK)
                return status;
        *ret_read_only = reads_only(ret->success, ret->n_success) && reads_only(ret->failure, ret->n_failure);
        if (!*ret_read_only && convert_too_large(message, limits))
                return ETCD_REQUEST_TOO_LARGE;
        return ETCD_OK;
}
