#include "fleet/transfer_state.h"

/*
 * The sink of an export: another etcd. The keys of the first reading are put there many in a transaction, in order of their revisions; from
 * then on each revision is a transaction of its own, so that what was one step at the source is one step there. Leases are granted under their
 * own ids before the first key that has them, and kept alive as long as the source has them: nobody else does so yet. The revisions are the other etcd's own: who needs ours takes a snapshot. The transfer's thread.
 *
 * In the end both are listed and compared, key for key.
 */

#include <string.h>
#include <uthash.h>

/* etcd's --max-txn-ops and --max-request-bytes, with room to spare. */
#define MOST_OPERATIONS 100
#define MOST_BYTES ((size_t)1024 * 1024)
/* Seconds: a longer lease is kept alive as often as one of these. */
#define RENEW_MOST 3600

struct export_lease {
        int64_t id;
        uint64_t renew_ns;
        UT_hash_handle hh;
};

struct export {
        struct transfer *transfer; /* borrowed */
        struct transfer_endpoints target;
        bool overwrite;
        struct etcd_client *client;  /* owned, as all here */
        struct export_lease *leases; /* uthash: granted */
        uint64_t renew_ns;           /* the first of them is to be kept alive then */
        struct arena arena;          /* of what waits: */
        Etcdserverpb__RequestOp *ops[MOST_OPERATIONS];
        size_t n_ops, bytes;
        int64_t revision; /* of it */
        struct buf key, end;
};

/* ---- leases */

static void set_renewal(struct export *e, struct export_lease *lease, int64_t ttl) {
        lease->renew_ns = clock_now_ns() + (uint64_t)min_of(ttl, RENEW_MOST) * NSEC_PER_SEC / 3;
        e->renew_ns = min_of(e->renew_ns, lease->renew_ns);
}

static int grant(void *userdata, int64_t id, int64_t ttl, struct error *reterr) {
        struct export *e = userdata;
        Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
        Etcdserverpb__LeaseGrantResponse *response;
        cleanup(error_done) struct error err = {};
        cleanup(arena_done) struct arena arena = {};
        struct export_lease *lease;
        enum grpc_code code = GRPC_OK;
        int r;

        HASH_FIND(hh, e->leases, &id, sizeof(id), lease);
        if (lease)
                return 0;
        arena_init(&arena, 0);
        request.id = id;
        request.ttl = ttl;
        r = etcd_client_call(e->client, "/etcdserverpb.Lease/LeaseGrant", &request.base,
                &etcdserverpb__lease_grant_response__descriptor, &arena, &response, &code, &err);
        /* There already: from a call of ours whose answer was lost, or from an export before. */
        if (r < 0 && (r != -EREMOTEIO || code != GRPC_FAILED_PRECONDITION))
                return error_set(reterr, r, "granting a lease at the target: %s", error_text(&err));
        lease = new0(struct export_lease);
        lease->id = id;
        HASH_ADD(hh, e->leases, id, sizeof(id), lease);
        set_renewal(e, lease, ttl);
        return 0;
}

/* The key's lease is at the target; one that has ended is none. */
static int need_lease(struct export *e, struct spool_key *kv, struct error *reterr) {
        struct export_lease *lease;
        int64_t ttl;
        int r;

        if (!kv->lease)
                return 0;
        HASH_FIND(hh, e->leases, &kv->lease, sizeof(kv->lease), lease);
        if (lease)
                return 0;
        r = transfer_lease(e->transfer, kv->lease, &ttl, reterr);
        if (r >= 0 && ttl > 0)
                return grant(e, kv->lease, ttl, reterr);
        kv->lease = 0;
        return r;
}

/* One that the source has no more is let go; so is one that the target has no more, which is granted again for the next key. */
static int renew(struct export *e, struct export_lease *lease, struct error *reterr) {
        Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
        Etcdserverpb__LeaseKeepAliveResponse *response;
        cleanup(error_done) struct error err = {};
        cleanup(arena_done) struct arena arena = {};
        enum grpc_code code = GRPC_OK;
        int64_t ttl;
        int r;

        r = transfer_lease(e->transfer, lease->id, &ttl, reterr);
        if (r < 0)
                return r;
        if (ttl > 0) {
                arena_init(&arena, 0);
                request.id = lease->id;
                r = etcd_client_call(e->client, "/etcdserverpb.Lease/LeaseKeepAlive", &request.base,
                        &etcdserverpb__lease_keep_alive_response__descriptor, &arena, &response, &code, &err);
                if (r < 0 && (r != -EREMOTEIO || code == GRPC_OK))
                        return error_set(reterr, r, "keeping a lease alive at the target: %s", error_text(&err));
                if (r >= 0 && response->ttl > 0) {
                        set_renewal(e, lease, response->ttl);
                        return 0;
                }
        }
        HASH_DEL(e->leases, lease);
        free(lease);
        return 0;
}

static int keep_alive(struct export *e, struct error *reterr) {
        uint64_t now = clock_now_ns();
        struct export_lease *lease, *next;
        int r = 0;

        if (now < e->renew_ns)
                return 0;
        e->renew_ns = UINT64_MAX;
        HASH_ITER(hh, e->leases, lease, next) {
                if (r >= 0 && lease->renew_ns <= now)
                        r = renew(e, lease, reterr);
                else
                        e->renew_ns = min_of(e->renew_ns, lease->renew_ns);
        }
        return r;
}

/* ---- what waits */

static int send_ops(struct export *e, struct error *reterr) {
        Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
        Etcdserverpb__TxnResponse *response;
        int r;

        if (!e->n_ops)
                return 0;
        request.n_success = e->n_ops;
        request.success = e->ops;
        r = etcd_client_call(e->client, "/etcdserverpb.KV/Txn", &request.base, &etcdserverpb__txn_response__descriptor,
                &e->arena, &response, NULL, reterr);
        if (r < 0)
                return error_prefix(reterr, "writing to the target");
        transfer_tell(e->transfer, e->n_ops, e->revision, etcd_client_endpoint(e->client));
        e->n_ops = e->bytes = 0;
        arena_done(&e->arena);
        return keep_alive(e, reterr);
}

static int add_op(struct export *e, struct bytes key, const struct spool_key *kv, struct error *reterr) {
        Etcdserverpb__RequestOp *op;
        ProtobufCBinaryData name;
        int r = 0;

        if (e->n_ops == MOST_OPERATIONS || e->bytes + key.size + (kv ? kv->value.size : 0) > MOST_BYTES)
                r = send_ops(e, reterr);
        if (r < 0)
                return r;
        op = arena_alloc0(&e->arena, sizeof(*op));
        name = (ProtobufCBinaryData){.len = key.size, .data = arena_copy(&e->arena, key.data, key.size)};
        if (!op || !name.data)
                return -ENOMEM;
        etcdserverpb__request_op__init(op);
        if (kv) {
                Etcdserverpb__PutRequest *put = arena_alloc0(&e->arena, sizeof(*put));

                if (!put)
                        return -ENOMEM;
                etcdserverpb__put_request__init(put);
                put->key = name;
                put->value.data = arena_copy(&e->arena, kv->value.data, kv->value.size);
                put->value.len = kv->value.size;
                put->lease = kv->lease;
                op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
                op->request_put = put;
                e->bytes += kv->value.size;
        } else {
                Etcdserverpb__DeleteRangeRequest *delete = arena_alloc0(&e->arena, sizeof(*delete));

                if (!delete)
                        return -ENOMEM;
                etcdserverpb__delete_range_request__init(delete);
                delete->key = name;
                op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
                op->request_delete_range = delete;
        }
        e->bytes += key.size;
        e->ops[e->n_ops++] = op;
        return 0;
}

/* ---- the sink */

static int is_empty(struct export *e, struct error *reterr) {
        Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
        struct etcd_span span = transfer_span(&e->transfer->new_prefix, &e->end);
        Etcdserverpb__RangeResponse *response;
        cleanup(arena_done) struct arena arena = {};
        int r;

        arena_init(&arena, 0);
        request.key = (ProtobufCBinaryData){.len = span.key.size, .data = (uint8_t *)span.key.data};
        request.range_end = (ProtobufCBinaryData){.len = span.end.size, .data = (uint8_t *)span.end.data};
        request.limit = 1;
        request.keys_only = true;
        r = etcd_client_call(e->client, "/etcdserverpb.KV/Range", &request.base,
                &etcdserverpb__range_response__descriptor, &arena, &response, NULL, reterr);
        if (r < 0)
                return error_prefix(reterr, "the target");
        if (response->n_kvs && !e->overwrite)
                return error_set(reterr, -EEXIST, "%s has %lld keys there already: they go only with --overwrite",
                        etcd_client_endpoint(e->client), (long long)max_of(response->count, INT64_C(1)));
        return 0;
}

static int delete_all(struct export *e, struct error *reterr) {
        Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
        struct etcd_span span = transfer_span(&e->transfer->new_prefix, &e->end);
        Etcdserverpb__DeleteRangeResponse *response;
        cleanup(arena_done) struct arena arena = {};

        arena_init(&arena, 0);
        request.key = (ProtobufCBinaryData){.len = span.key.size, .data = (uint8_t *)span.key.data};
        request.range_end = (ProtobufCBinaryData){.len = span.end.size, .data = (uint8_t *)span.end.data};
        return etcd_client_call(e->client, "/etcdserverpb.KV/DeleteRange", &request.base,
                &etcdserverpb__delete_range_response__descriptor, &arena, &response, NULL, reterr);
}

static int export_open(struct transfer *t, struct error *reterr) {
        struct export *e = t->sink_state;
        struct etcd_client_config client = {
                .loop = t->sink_loop,
                .endpoints = (const char *const *)e->target.endpoints,
                .n_endpoints = e->target.n_endpoints,
                .tls = e->target.tls,
                .stopped = &t->stopped,
        };
        int r;

        r = etcd_client_new(&client, &e->client, reterr);
        if (r >= 0)
                r = is_empty(e, reterr);
        if (r >= 0 && e->overwrite)
                r = delete_all(e, reterr);
        if (r < 0)
                return r;
        transfer_tell(t, 0, 0, etcd_client_endpoint(e->client));
        return 0;
}

static int export_key(struct transfer *t, const struct spool_key *key, struct error *reterr) {
        struct export *e = t->sink_state;
        struct spool_key kv = *key;
        struct bytes name;
        int r;

        r = need_lease(e, &kv, reterr);
        if (r >= 0)
                r = transfer_rename(t, key->key, &e->key, &name, reterr);
        if (r >= 0)
                r = add_op(e, name, &kv, reterr);
        return r;
}

static int export_flush(struct transfer *t, struct error *reterr) {
        int r = send_ops(t->sink_state, reterr);

        return r < 0 ? r : keep_alive(t->sink_state, reterr);
}

static int export_read(struct transfer *t, int64_t revision, struct error *reterr) {
        struct export *e = t->sink_state;

        e->revision = revision;
        return send_ops(e, reterr);
}

static int export_events(struct transfer *t, struct transfer_event *events, struct error *reterr) {
        struct export *e = t->sink_state;
        struct bytes name;
        int r = 0;

        for (struct transfer_event *one = events; one && r >= 0; one = one->next) {
                e->revision = one->kv.mod_revision;
                if (!one->deleted)
                        r = need_lease(e, &one->kv, reterr);
                if (r >= 0)
                        r = transfer_rename(t, one->kv.key, &e->key, &name, reterr);
                if (r >= 0)
                        r = add_op(e, name, one->deleted ? NULL : &one->kv, reterr);
        }
        return r < 0 ? r : send_ops(e, reterr);
}

static int export_finish(struct transfer *t, int64_t revision, struct error *reterr) {
        struct export *e = t->sink_state;
        int r;

        e->revision = revision;
        r = send_ops(e, reterr);
        if (r >= 0)
                r = transfer_each_lease(t, grant, e, reterr); /* those that no key has */
        return r < 0 ? r : transfer_compare(t, e->client, false, 0, reterr);
}

static void export_close(struct transfer *t) {
        struct export *e = steal(t->sink_state);
        struct export_lease *lease, *next;

        etcd_client_free(e->client);
        HASH_ITER(hh, e->leases, lease, next) {
                HASH_DEL(e->leases, lease);
                free(lease);
        }
        transfer_endpoints_done(&e->target);
        arena_done(&e->arena);
        buf_done(&e->key);
        buf_done(&e->end);
        free(e);
}

static const struct transfer_sink export_sink = {
        .open = export_open,
        .key = export_key,
        .read = export_read,
        .events = export_events,
        .flush = export_flush,
        .finish = export_finish,
        .close = export_close,
};

int export_start(const struct transfer_config *config, const struct transfer_end *target, bool overwrite,
        struct transfer **ret, struct error *reterr) {
        cleanup(transfer_freep) struct transfer *t = NULL;
        struct export *e;
        int r;

        r = transfer_new(config, &export_sink, &t, reterr);
        if (r < 0)
                return r;
        e = new0(struct export);
        e->transfer = t;
        e->overwrite = overwrite;
        e->renew_ns = UINT64_MAX;
        arena_init(&e->arena, 0);
        t->sink_state = e;
        r = transfer_endpoints_copy(&e->target, t->sink_loop, target, reterr);
        if (r >= 0)
                r = transfer_begin(t, reterr);
        if (r < 0)
                return r;
        *ret = steal(t);
        return 0;
}
