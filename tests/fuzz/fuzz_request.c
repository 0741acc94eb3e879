/*
 * Requests as the services decode them: the first byte chooses the message, the rest is its bytes. What is refused must be refused
 * without harm, and what is taken must mean the same to whoever else reads it:
 *  - the range decoder, written by hand, against protobuf-c's: the same fields, and nothing malformed that protobuf-c takes;
 *  - writes as taken obey etcd's rules (a key, no value beside ignore_value, …);
 *  - overlap_check() against a slow version that compares each put with everything;
 *  - messages of the other services, and of the control socket: unpacked by protobuf_unpack(), packed again, they unpack to the same.
 * All memory is within the bound that protobuf_unpack() sets.
 */

#include <stokehold/control.pb-c.h>
#include <stokehold/rpc.pb-c.h>

#include "etcd/convert.h"
#include "etcd/overlap.h"
#include "fuzz.h"
#include "rpc/protobuf.h"

static bool same(struct bytes a, ProtobufCBinaryData b) {
        return bytes_equal(a, bytes_of(b.data, b.len));
}

static int64_t not_below_zero(int64_t n) {
        return n < 0 ? 0 : n;
}

static void try_range(struct arena *arena, struct bytes message) {
        const Etcdserverpb__RangeRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__range_request__descriptor, arena, message);
        struct range_request r;
        enum etcd_status status = convert_range(message, &r);

        if (!pb) /* protobuf-c refuses a known field of another wire type, which others skip */
                return;
        check(status != ETCD_MALFORMED);
        check((status == ETCD_EMPTY_KEY) == (pb->key.len == 0));
        if (status != ETCD_OK) {
                check(status == ETCD_EMPTY_KEY || status == ETCD_INVALID_SORT_OPTION);
                return;
        }
        check(same(r.range.key, pb->key) && same(r.range.end, pb->range_end));
        check(r.limit == not_below_zero(pb->limit) && r.revision == not_below_zero(pb->revision));
        check((int)r.sort_order == (int)pb->sort_order && (int)r.sort_target == (int)pb->sort_target);
        check(r.serializable == !!pb->serializable && r.keys_only == !!pb->keys_only);
        check(r.count_only == !!pb->count_only);
        check(r.min_mod == pb->min_mod_revision && r.max_mod == pb->max_mod_revision);
        check(r.min_create == pb->min_create_revision && r.max_create == pb->max_create_revision);
}

/* ---- transactions */

struct slow_sets {
        struct bytes puts[4096];
        struct key_range deletes[4096];
        size_t n_puts, n_deletes;
};

/* Among the puts and deletes in [from, to) of the lists. */
static bool slow_hit(const struct slow_sets *s, size_t from_puts, size_t to_puts, size_t from_deletes,
        size_t to_deletes, struct bytes key) {
        for (size_t i = from_puts; i < to_puts; i++)
                if (bytes_equal(s->puts[i], key))
                        return true;
        for (size_t i = from_deletes; i < to_deletes; i++) {
                const struct key_range *d = s->deletes + i;

                if (bytes_equal(d->key, key) ||
                        (d->end.size && bytes_compare(d->key, key) <= 0 && bytes_compare(key, d->end) < 0))
                        return true;
        }
        return false;
}

/* False: a key twice. What the branch puts and deletes is appended. */
static bool slow_branch(struct slow_sets *s, size_t from_puts, size_t from_deletes, const struct txn_op *ops, size_t n);

/* Everything below from_… belongs to levels above, which this one is not held against. */
static bool slow_nested(struct slow_sets *s, size_t from_puts, size_t from_deletes, const struct txn *txn) {
        size_t puts = s->n_puts, deletes = s->n_deletes;

        if (!slow_branch(s, s->n_puts, s->n_deletes, txn->success, txn->n_success))
                return false;
        if (!slow_branch(s, s->n_puts, s->n_deletes, txn->failure, txn->n_failure))
                return false;
        for (size_t i = puts; i < s->n_puts; i++)
                if (slow_hit(s, from_puts, puts, from_deletes, deletes, s->puts[i]))
                        return false;
        return true;
}

static bool slow_branch(
        struct slow_sets *s, size_t from_puts, size_t from_deletes, const struct txn_op *ops, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (ops[i].kind == OP_DELETE &&
                        (!ops[i].delete.range.end.size ||
                                bytes_compare(ops[i].delete.range.key, ops[i].delete.range.end) < 0)) {
                        check(s->n_deletes < n_elements(s->deletes));
                        s->deletes[s->n_deletes++] = ops[i].delete.range;
                }
        for (size_t i = 0; i < n; i++)
                if (ops[i].kind == OP_TXN && !slow_nested(s, from_puts, from_deletes, ops[i].txn))
                        return false;
        for (size_t i = 0; i < n; i++)
                if (ops[i].kind == OP_PUT) {
                        if (slow_hit(s, from_puts, s->n_puts, from_deletes, s->n_deletes, ops[i].put.key))
                                return false;
                        check(s->n_puts < n_elements(s->puts));
                        s->puts[s->n_puts++] = ops[i].put.key;
                }
        return true;
}

static void check_put(const struct txn_op *op) {
        check(op->kind == OP_PUT && op->put.key.size);
        check(!op->put.ignore_value || !op->put.value.size);
        check(!op->put.ignore_lease || !op->put.lease);
}

static void check_ops(const struct txn_op *ops, size_t n) {
        check(n <= keyspace_default_limits.txn_operations);
        for (size_t i = 0; i < n; i++)
                switch (ops[i].kind) {
                case OP_RANGE:
                        check(ops[i].range.range.key.size && ops[i].range.limit >= 0);
                        break;
                case OP_PUT:
                        check_put(ops + i);
                        break;
                case OP_DELETE:
                        check(ops[i].delete.range.key.size);
                        break;
                case OP_TXN:
                        check_ops(ops[i].txn->success, ops[i].txn->n_success);
                        check_ops(ops[i].txn->failure, ops[i].txn->n_failure);
                        break;
                }
}

static bool slow_check(const struct txn_op *ops, size_t n) {
        struct slow_sets *s = new0(struct slow_sets);
        bool good = slow_branch(s, 0, 0, ops, n);

        free(s);
        return good;
}

static void try_txn(struct arena *arena, struct bytes message) {
        struct txn txn = {};
        bool read_only = false;
        enum etcd_status status = convert_txn(arena, message, &keyspace_default_limits, &txn, &read_only);

        /* It is the last check, with everything converted; sizes are not reached by inputs as short as these. */
        if (status != ETCD_OK && status != ETCD_DUPLICATE_KEY)
                return;
        check_ops(txn.success, txn.n_success);
        check_ops(txn.failure, txn.n_failure);
        check((status == ETCD_OK) ==
                (slow_check(txn.success, txn.n_success) && slow_check(txn.failure, txn.n_failure)));
}

/* ---- the others */

static void try_message(struct arena *arena, struct bytes message, const ProtobufCMessageDescriptor *descriptor) {
        ProtobufCMessage *m = protobuf_unpack(descriptor, arena, message), *again;
        struct blob *first, *second;

        if (!m)
                return;
        first = protobuf_pack(m);
        check(first);
        again = protobuf_unpack(descriptor, arena, blob_bytes(first));
        check(again);
        second = protobuf_pack(again);
        check(second && bytes_equal(blob_bytes(first), blob_bytes(second)));
        blob_unref(first);
        blob_unref(second);
}

static const ProtobufCMessageDescriptor *const others[] = {
        &etcdserverpb__watch_request__descriptor,
        &etcdserverpb__lease_grant_request__descriptor,
        &etcdserverpb__lease_revoke_request__descriptor,
        &etcdserverpb__lease_keep_alive_request__descriptor,
        &etcdserverpb__lease_time_to_live_request__descriptor,
        &etcdserverpb__lease_leases_request__descriptor,
        &etcdserverpb__compaction_request__descriptor,
        &etcdserverpb__alarm_request__descriptor,
        &etcdserverpb__hash_kvrequest__descriptor,
        &etcdserverpb__downgrade_request__descriptor,
        &etcdserverpb__move_leader_request__descriptor,
        &etcdserverpb__member_add_request__descriptor,
        &etcdserverpb__member_update_request__descriptor,
        &etcdserverpb__auth_user_add_request__descriptor,
        &etcdserverpb__auth_role_grant_permission_request__descriptor,
        &stokehold__control__v1__list_tenants_request__descriptor,
        &stokehold__control__v1__list_datastores_request__descriptor,
        &etcdserverpb__txn_request__descriptor,
        &etcdserverpb__range_response__descriptor,
        &etcdserverpb__watch_response__descriptor,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct fuzz_input in = {data, size};
        uint8_t kind = fuzz_byte(&in);
        uint8_t *copy = fuzz_copy(in.data, in.size);
        struct bytes message = bytes_of(copy, in.size);
        struct txn_op op = {};
        struct arena arena;

        arena_init(&arena, 0);
        switch (kind) {
        case 0:
                try_range(&arena, message);
                break;
        case 1:
                if (convert_put(&arena, message, &keyspace_default_limits, &op) == ETCD_OK)
                        check_put(&op);
                break;
        case 2:
                if (convert_delete(&arena, message, &keyspace_default_limits, &op) == ETCD_OK)
                        check(op.kind == OP_DELETE && op.delete.range.key.size);
                break;
        case 3:
                try_txn(&arena, message);
                break;
        default:
                try_message(&arena, message, others[(kind - 4u) % n_elements(others)]);
                break;
        }
        check(arena.total <= 4 * (in.size * 64 + 128 * 1024));
        arena_done(&arena);
        free(copy);
        return 0;
}
