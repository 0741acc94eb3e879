/*
 * Lease: grant, revoke, keep alive, time to live, list. Each call's state is its user memory; the server's loop only.
 *
 * A LeaseKeepAlive stream is answered in the order of its requests, though several may be under way: each waits on the
 * stream's queue until those before it are answered.
 */

#include <stokehold/rpc.pb-c.h>
#include <sys/queue.h>

#include "etcd/convert.h"
#include "etcd/header.h"
#include "etcd/services.h"
#include "rpc/protobuf.h"

/* Seconds; etcd's own for its default election timeout: a shorter one is made this long. */
#define LEASE_MIN_TTL 2
/* Keep-alives of one stream that wait for their answer. */
#define KEEP_ALIVE_MAX_QUEUE 10000
/* Bytes of answers that a client has not read. */
#define KEEP_ALIVE_MAX_PENDING ((size_t)1536 * 1024)

/* ---- unary methods */

struct unary {
        struct grpc_call *call;
        struct lease_call lease;
};

static void unary_reply(struct unary *u, const ProtobufCMessage *response) {
        struct blob *message = protobuf_pack(response);

        if (message)
                grpc_call_reply(u->call, message);
        else
                etcd_fail(u->call, ETCD_NO_MEMORY);
}

static void fill_header(struct grpc_call *call, int64_t revision, Etcdserverpb__ResponseHeader *ret) {
        struct etcd_header header;

        etcd_header_init(&header, grpc_call_server_userdata(call), revision);
        *ret = (Etcdserverpb__ResponseHeader)ETCDSERVERPB__RESPONSE_HEADER__INIT;
        ETCD_HEADER_FILL(ret, &header);
}

static void unary_begin(struct grpc_call *call, void (*done)(struct keyspace_call *call, enum keyspace_result result),
        void (*ask)(struct keyspace *ks, struct lease_call *lease)) {
        struct unary *u = grpc_call_user(call);

        u->call = call;
        u->lease.call.done = done;
        u->lease.call.deadline_ns = grpc_call_deadline(call);
        u->lease.call.arena = grpc_call_arena(call);
        ask(grpc_call_server_userdata(call), &u->lease);
}

static void unary_on_cancel(struct grpc_call *call) {
        struct unary *u = grpc_call_user(call);

        if (u->call)
                keyspace_cancel(&u->lease.call);
}

static void grant_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct unary *u = container_of(kc, struct unary, lease.call);
        Etcdserverpb__LeaseGrantResponse response = ETCDSERVERPB__LEASE_GRANT_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader header;

        if (result != KEYSPACE_OK)
                return etcd_fail_result(u->call, result);
        fill_header(u->call, kc->revision, &header);
        response.header = &header;
        response.id = u->lease.id;
        response.ttl = u->lease.granted_ttl;
        unary_reply(u, &response.base);
}

static void grant_on_message(struct grpc_call *call, struct bytes data) {
        struct unary *u = grpc_call_user(call);
        const Etcdserverpb__LeaseGrantRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__lease_grant_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        if (convert_too_large(data, keyspace_limits(grpc_call_server_userdata(call))))
                return etcd_fail(call, ETCD_REQUEST_TOO_LARGE);
        u->lease.id = pb->id;
        u->lease.ttl = max_of(pb->ttl, LEASE_MIN_TTL);
        unary_begin(call, grant_done, keyspace_lease_grant);
}

static void revoke_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct unary *u = container_of(kc, struct unary, lease.call);

        if (result == KEYSPACE_OK)
                etcd_reply_header(u->call, kc->revision);
        else
                etcd_fail_result(u->call, result);
}

static void revoke_on_message(struct grpc_call *call, struct bytes data) {
        struct unary *u = grpc_call_user(call);
        const Etcdserverpb__LeaseRevokeRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__lease_revoke_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        u->lease.id = pb->id;
        unary_begin(call, revoke_done, keyspace_lease_revoke);
}

static void time_to_live_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct unary *u = container_of(kc, struct unary, lease.call);
        Etcdserverpb__LeaseTimeToLiveResponse response = ETCDSERVERPB__LEASE_TIME_TO_LIVE_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader header;

        if (result != KEYSPACE_OK)
                return etcd_fail_result(u->call, result);
        fill_header(u->call, kc->revision, &header);
        response.header = &header;
        response.id = u->lease.id;
        response.ttl = u->lease.ttl;
        response.grantedttl = u->lease.granted_ttl;
        if (u->lease.n_keys > 0) {
                response.keys = arena_alloc(kc->arena, u->lease.n_keys * sizeof(*response.keys));
                if (!response.keys)
                        return etcd_fail(u->call, ETCD_NO_MEMORY);
                for (size_t i = 0; i < u->lease.n_keys; i++)
                        response.keys[i] =
                                (ProtobufCBinaryData){u->lease.keys[i].size, (uint8_t *)u->lease.keys[i].data};
                response.n_keys = u->lease.n_keys;
        }
        unary_reply(u, &response.base);
}

static void time_to_live_on_message(struct grpc_call *call, struct bytes data) {
        struct unary *u = grpc_call_user(call);
        const Etcdserverpb__LeaseTimeToLiveRequest *pb = (void *)protobuf_unpack(
                &etcdserverpb__lease_time_to_live_request__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        u->lease.id = pb->id;
        u->lease.with_keys = pb->keys;
        unary_begin(call, time_to_live_done, keyspace_lease_time_to_live);
}

static void leases_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct unary *u = container_of(kc, struct unary, lease.call);
        Etcdserverpb__LeaseLeasesResponse response = ETCDSERVERPB__LEASE_LEASES_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader header;
        size_t n = u->lease.n_ids;

        if (result != KEYSPACE_OK)
                return etcd_fail_result(u->call, result);
        fill_header(u->call, kc->revision, &header);
        response.header = &header;
        if (n > 0) {
                Etcdserverpb__LeaseStatus *statuses = arena_alloc(kc->arena, n * sizeof(*statuses));

                response.leases = arena_alloc(kc->arena, n * sizeof(*response.leases));
                if (!statuses || !response.leases)
                        return etcd_fail(u->call, ETCD_NO_MEMORY);
                for (size_t i = 0; i < n; i++) {
                        statuses[i] = (Etcdserverpb__LeaseStatus)ETCDSERVERPB__LEASE_STATUS__INIT;
                        statuses[i].id = u->lease.ids[i];
                        response.leases[i] = statuses + i;
                }
                response.n_leases = n;
        }
        unary_reply(u, &response.base);
}

static void leases_on_message(struct grpc_call *call, struct bytes data) {
        if (!protobuf_unpack(&etcdserverpb__lease_leases_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        unary_begin(call, leases_done, keyspace_leases);
}

/* ---- keep-alive */

struct keep_alive {
        TAILQ_ENTRY(keep_alive) link;
        struct keep_alive_stream *stream;
        struct lease_call lease;
        struct arena arena; /* the call's own would grow as long as the stream lives */
        int64_t revision; /* when it came; of one that was kept alive: then or later. Of one that was not, a later one could be its end's */
        bool done;
        enum keyspace_result result;
};

struct keep_alive_stream {
        struct grpc_call *call;
        TAILQ_HEAD(keep_alives, keep_alive) queue; /* owned, in the order of the requests */
        size_t n;
        bool half_closed;
};

static void keep_alive_free(struct keep_alive *k) {
        TAILQ_REMOVE(&k->stream->queue, k, link);
        k->stream->n--;
        arena_done(&k->arena);
        free(k);
}

static void stream_clear(struct keep_alive_stream *s) {
        struct keep_alive *k;

        while ((k = TAILQ_FIRST(&s->queue))) {
                keyspace_cancel(&k->lease.call);
                keep_alive_free(k);
        }
}

static void stream_fail(struct keep_alive_stream *s, enum etcd_status status) {
        stream_clear(s);
        etcd_fail(s->call, status);
}

static void stream_flush(struct keep_alive_stream *s) {
        struct keep_alive *k;

        while ((k = TAILQ_FIRST(&s->queue)) && k->done) {
                Etcdserverpb__LeaseKeepAliveResponse response = ETCDSERVERPB__LEASE_KEEP_ALIVE_RESPONSE__INIT;
                Etcdserverpb__ResponseHeader header;
                struct blob *message;

                if (k->result != KEYSPACE_OK && k->result != KEYSPACE_LEASE_NOT_FOUND)
                        return stream_fail(s, etcd_status_of(k->result));
                fill_header(s->call, k->revision, &header);
                response.header = &header;
                response.id = k->lease.id;
                response.ttl = k->result == KEYSPACE_OK ? k->lease.ttl : 0;
                message = protobuf_pack(&response.base);
                if (!message)
                        return stream_fail(s, ETCD_NO_MEMORY);
                keep_alive_free(k);
                grpc_call_send(s->call, &message, 1);
        }
        if (!k && s->half_closed)
                grpc_call_finish(s->call, GRPC_OK, NULL);
}

static void keep_alive_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct keep_alive *k = container_of(kc, struct keep_alive, lease.call);

        k->done = true;
        k->result = result;
        if (k->revision == 0 ||
                result == KEYSPACE_OK) /* the keyspace was not open yet; or others have written meanwhile */
                k->revision = max_of(k->revision, kc->revision);
        stream_flush(k->stream);
}

static struct keep_alive_stream *stream_of(struct grpc_call *call) {
        struct keep_alive_stream *s = grpc_call_user(call);

        if (!s->call) {
                s->call = call;
                TAILQ_INIT(&s->queue);
        }
        return s;
}

static void keep_alive_on_message(struct grpc_call *call, struct bytes data) {
        struct keep_alive_stream *s = stream_of(call);
        struct keyspace *ks = grpc_call_server_userdata(call);
        const Etcdserverpb__LeaseKeepAliveRequest *pb;
        struct keyspace_status status;
        struct keep_alive *k;

        if (grpc_call_ended(call))
                return;
        if (s->n >= KEEP_ALIVE_MAX_QUEUE || grpc_call_pending(call) > KEEP_ALIVE_MAX_PENDING)
                return stream_fail(s, ETCD_TOO_MANY_REQUESTS);

        k = calloc(1, sizeof(*k));
        if (!k)
                return stream_fail(s, ETCD_NO_MEMORY);
        k->stream = s;
        arena_init(&k->arena, 0);
        TAILQ_INSERT_TAIL(&s->queue, k, link);
        s->n++;
        pb = (void *)protobuf_unpack(&etcdserverpb__lease_keep_alive_request__descriptor, &k->arena, data);
        if (!pb)
                return stream_fail(s, ETCD_MALFORMED);

        keyspace_get_status(ks, &status);
        k->revision = status.revision;
        k->lease.id = pb->id;
        k->lease.call.done = keep_alive_done;
        k->lease.call.deadline_ns = UINT64_MAX;
        k->lease.call.arena = &k->arena;
        keyspace_lease_keep_alive(ks, &k->lease);
}

static void keep_alive_on_half_close(struct grpc_call *call) {
        struct keep_alive_stream *s = stream_of(call);

        s->half_closed = true;
        if (!grpc_call_ended(call))
                stream_flush(s);
}

static void keep_alive_on_cancel(struct grpc_call *call) {
        stream_clear(stream_of(call));
}

static const struct grpc_method methods[] = {
        {
                .path = "/etcdserverpb.Lease/LeaseGrant",
                .user_size = sizeof(struct unary),
                .on_message = grant_on_message,
                .on_cancel = unary_on_cancel,
        },
        {
                .path = "/etcdserverpb.Lease/LeaseRevoke",
                .user_size = sizeof(struct unary),
                .on_message = revoke_on_message,
                .on_cancel = unary_on_cancel,
        },
        {
                .path = "/etcdserverpb.Lease/LeaseKeepAlive",
                .client_streaming = true,
                .server_streaming = true,
                .user_size = sizeof(struct keep_alive_stream),
                .on_message = keep_alive_on_message,
                .on_half_close = keep_alive_on_half_close,
                .on_cancel = keep_alive_on_cancel,
                .on_free = keep_alive_on_cancel,
        },
        {
                .path = "/etcdserverpb.Lease/LeaseTimeToLive",
                .user_size = sizeof(struct unary),
                .on_message = time_to_live_on_message,
                .on_cancel = unary_on_cancel,
        },
        {
                .path = "/etcdserverpb.Lease/LeaseLeases",
                .user_size = sizeof(struct unary),
                .on_message = leases_on_message,
                .on_cancel = unary_on_cancel,
        },
};

const struct grpc_service etcd_lease_service = {
        .name = "etcdserverpb.Lease",
        .methods = methods,
        .n_methods = n_elements(methods),
};
