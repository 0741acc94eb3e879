/*
 * Maintenance: Status, Alarm, Hash, HashKV, Defragment, MoveLeader, Downgrade, as a cluster of one member answers them. Hashes
 * are comparable among daemons that serve the tenant, not with another server's. Snapshot is in etcd/snapshot.c. The server's loop only.
 */

#include <ctype.h>
#include <stokehold/rpc.pb-c.h>

#include "etcd/header.h"
#include "etcd/services.h"
#include "etcd/snapshot.h"
#include "etcd/status.h"
#include "rpc/protobuf.h"

#define NO_QUOTA (-1) /* as etcd says that it has none */
#define MAX_ERRORS 64 /* alarms */
#define STATUS_PATIENCE_NS NSEC_PER_SEC

struct looking {
        struct grpc_call *call;
        struct keyspace_call barrier;
};

static void reply(struct grpc_call *call, const ProtobufCMessage *response) {
        struct blob *message = protobuf_pack(response);

        if (message)
                grpc_call_reply(call, message);
        else
                etcd_fail(call, ETCD_NO_MEMORY);
}

static void fill_header(struct grpc_call *call, struct keyspace_status *status, Etcdserverpb__ResponseHeader *ret) {
        struct keyspace *ks = grpc_call_server_userdata(call);
        struct etcd_header header;

        keyspace_get_status(ks, status);
        etcd_header_init(&header, ks, status->revision);
        *ret = (Etcdserverpb__ResponseHeader)ETCDSERVERPB__RESPONSE_HEADER__INIT;
        ETCD_HEADER_FILL(ret, &header);
}

/* ---- Status */

/* As etcd 3.7.3 prints them: fields of no value are left out. */
static void print_alarm(const struct keyspace_alarm *alarm, char *ret, size_t size) {
        char member[32] = "";

        if (alarm->member)
                (void)snprintf(member, sizeof(member), "memberID:%llu  ", (unsigned long long)alarm->member);
        if (alarm->type == ALARM_NOSPACE || alarm->type == ALARM_CORRUPT)
                (void)snprintf(ret, size, "%salarm:%s", member, alarm->type == ALARM_NOSPACE ? "NOSPACE" : "CORRUPT");
        else
                (void)snprintf(ret, size, "%salarm:%d", member, (int)alarm->type);
}

static void status_reply(struct grpc_call *call) {
        Etcdserverpb__StatusResponse response = ETCDSERVERPB__STATUS_RESPONSE__INIT;
        Etcdserverpb__DowngradeInfo downgrade = ETCDSERVERPB__DOWNGRADE_INFO__INIT;
        Etcdserverpb__ResponseHeader header;
        uint64_t quota = keyspace_quota(grpc_call_server_userdata(call));
        struct keyspace_status status;
        struct keyspace_alarm alarms[MAX_ERRORS];
        char texts[MAX_ERRORS][64], *errors[MAX_ERRORS + 1];
        size_t n_alarms = keyspace_alarms(grpc_call_server_userdata(call), alarms, MAX_ERRORS);

        fill_header(call, &status, &header);
        response.header = &header;
        response.version = (char *)ETCD_VERSION;
        response.storageversion = (char *)ETCD_CLUSTER_VERSION;
        response.dbsize = (int64_t)status.bytes_log;
        response.dbsizeinuse = (int64_t)status.bytes_live;
        response.dbsizequota = quota ? (int64_t)quota : NO_QUOTA;
        response.leader = header.member_id;
        response.raftterm = ETCD_RAFT_TERM;
        response.raftindex = status.end.seq;
        response.raftappliedindex = status.end.seq;
        response.downgradeinfo = &downgrade;
        if (status.condition == KEYSPACE_UNREACHABLE || status.condition == KEYSPACE_DROPPED)
                errors[response.n_errors++] = (char *)etcd_status_text(ETCD_UNHEALTHY);
        if (status.condition == KEYSPACE_HISTORY_LOST)
                errors[response.n_errors++] = (char *)etcd_status_text(ETCD_CORRUPT);
        for (size_t i = 0; i < n_alarms; i++) {
                print_alarm(&alarms[i], texts[i], sizeof(texts[i]));
                errors[response.n_errors++] = texts[i];
        }
        response.errors = errors;
        reply(call, &response.base);
}

static void status_looked(struct keyspace_call *kc, enum keyspace_result result) {
        struct looking *o = container_of(kc, struct looking, barrier);
        struct keyspace_status status;

        keyspace_get_status(grpc_call_server_userdata(o->call), &status);
        if (result == KEYSPACE_OK || status.revision > 0)
                status_reply(o->call);
        else
                etcd_fail_result(o->call, result);
}

/* Of etcd's members each says what it has applied itself; here the daemons of a tenant answer as one member, so what was acknowledged by another
 * should be in it. But Status is what people look at when something is wrong: where the datastore does not answer, it says what is known. */
static void status_on_message(struct grpc_call *call, struct bytes data) {
        struct keyspace *ks = grpc_call_server_userdata(call);
        struct looking *o = grpc_call_user(call);
        struct keyspace_status status;

        if (!protobuf_unpack(&etcdserverpb__status_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        keyspace_get_status(ks, &status);
        if (status.revision > 0 && status.condition != KEYSPACE_CLOSED && status.condition != KEYSPACE_SERVING)
                return status_reply(call);
        o->call = call;
        o->barrier.done = status_looked;
        o->barrier.deadline_ns = grpc_call_deadline(call);
        if (status.revision > 0)
                o->barrier.deadline_ns = min_of(o->barrier.deadline_ns, clock_now_ns() + STATUS_PATIENCE_NS);
        o->barrier.arena = grpc_call_arena(call);
        keyspace_barrier(ks, &o->barrier);
}

static void status_on_cancel(struct grpc_call *call) {
        struct looking *o = grpc_call_user(call);

        if (o->call)
                keyspace_cancel(&o->barrier);
}

/* ---- Alarm */

struct alarming {
        struct grpc_call *call;
        struct alarm_call alarm;
};

static void alarm_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct alarm_call *a = container_of(kc, struct alarm_call, call);
        struct grpc_call *call = container_of(a, struct alarming, alarm)->call;
        Etcdserverpb__AlarmResponse response = ETCDSERVERPB__ALARM_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader pb_header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        struct etcd_header header;

        if (result != KEYSPACE_OK)
                return etcd_fail_result(call, result);
        etcd_header_init(&header, grpc_call_server_userdata(call), kc->revision);
        ETCD_HEADER_FILL(&pb_header, &header);
        response.header = &pb_header;
        response.n_alarms = a->n_alarms;
        response.alarms = arena_alloc0(kc->arena, max_of(a->n_alarms, (size_t)1) * sizeof(*response.alarms));
        for (size_t i = 0; response.alarms && i < a->n_alarms; i++) {
                Etcdserverpb__AlarmMember *m = arena_alloc0(kc->arena, sizeof(*m));

                if (!m)
                        return etcd_fail(call, ETCD_NO_MEMORY);
                *m = (Etcdserverpb__AlarmMember)ETCDSERVERPB__ALARM_MEMBER__INIT;
                m->memberid = a->alarms[i].member;
                m->alarm = (Etcdserverpb__AlarmType)a->alarms[i].type;
                response.alarms[i] = m;
        }
        if (!response.alarms)
                return etcd_fail(call, ETCD_NO_MEMORY);
        reply(call, &response.base);
}

static void alarm_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__AlarmRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__alarm_request__descriptor, grpc_call_arena(call), data);
        struct alarming *a = grpc_call_user(call);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        switch ((int)pb->action) {
        case ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET:
                a->alarm.action = ALARM_GET;
                break;
        case ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE:
                a->alarm.action = ALARM_ACTIVATE;
                break;
        case ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE:
                a->alarm.action = ALARM_DEACTIVATE;
                break;
        default:
                return etcd_fail(call, ETCD_UNKNOWN_METHOD); /* etcd 3.7 would die of it */
        }
        a->call = call;
        a->alarm.member = pb->memberid;
        a->alarm.type = (int32_t)pb->alarm;
        a->alarm.call.done = alarm_done;
        a->alarm.call.deadline_ns = grpc_call_deadline(call);
        a->alarm.call.arena = grpc_call_arena(call);
        keyspace_alarm(grpc_call_server_userdata(call), &a->alarm);
}

static void alarm_on_cancel(struct grpc_call *call) {
        struct alarming *a = grpc_call_user(call);

        if (a->call)
                keyspace_cancel(&a->alarm.call);
}

/* ---- Hash and HashKV */

struct hashing {
        struct grpc_call *call;
        struct hash_call hash;
        bool whole; /* Hash */
};

static void hash_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct hash_call *h = container_of(kc, struct hash_call, call);
        struct hashing *hashing = container_of(h, struct hashing, hash);
        struct grpc_call *call = hashing->call;
        Etcdserverpb__HashKVResponse by_revision = ETCDSERVERPB__HASH_KVRESPONSE__INIT;
        Etcdserverpb__HashResponse whole = ETCDSERVERPB__HASH_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader pb_header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
        struct etcd_header header;

        if (result != KEYSPACE_OK)
                return etcd_fail_result(call, result);
        etcd_header_init(&header, grpc_call_server_userdata(call), kc->revision);
        ETCD_HEADER_FILL(&pb_header, &header);
        whole.header = by_revision.header = &pb_header;
        whole.hash = by_revision.hash = h->hash;
        by_revision.compact_revision = h->compacted ? h->compacted : -1; /* as etcd says that it never was */
        by_revision.hash_revision = h->hashed;
        reply(call, hashing->whole ? &whole.base : &by_revision.base);
}

static void hash_start(struct grpc_call *call, int64_t revision, bool whole) {
        struct hashing *h = grpc_call_user(call);

        h->call = call;
        h->whole = whole;
        h->hash.revision_wanted = revision;
        h->hash.call.done = hash_done;
        h->hash.call.deadline_ns = grpc_call_deadline(call);
        h->hash.call.arena = grpc_call_arena(call);
        keyspace_hash(grpc_call_server_userdata(call), &h->hash);
}

static void hash_on_message(struct grpc_call *call, struct bytes data) {
        if (!protobuf_unpack(&etcdserverpb__hash_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        hash_start(call, 0, true);
}

static void hash_kv_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__HashKVRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__hash_kvrequest__descriptor, grpc_call_arena(call), data);

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        hash_start(call, pb->revision, false);
}

static void hash_on_cancel(struct grpc_call *call) {
        struct hashing *h = grpc_call_user(call);

        if (h->call)
                keyspace_cancel(&h->hash.call);
}

/* ---- the rest */

/* The datastore looks after its own files. etcd answers without a header. */
static void defragment_on_message(struct grpc_call *call, struct bytes data) {
        Etcdserverpb__DefragmentResponse response = ETCDSERVERPB__DEFRAGMENT_RESPONSE__INIT;

        if (!protobuf_unpack(&etcdserverpb__defragment_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        reply(call, &response.base);
}

/* The one member is the leader, and can only be made what it is. */
static void move_leader_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__MoveLeaderRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__move_leader_request__descriptor, grpc_call_arena(call), data);
        Etcdserverpb__MoveLeaderResponse response = ETCDSERVERPB__MOVE_LEADER_RESPONSE__INIT;
        struct etcd_header header;

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        etcd_header_init(&header, grpc_call_server_userdata(call), 0);
        if (pb->targetid != header.member_id)
                return etcd_fail(call, ETCD_BAD_LEADER_TRANSFEREE);
        reply(call, &response.base);
}

/* MAJOR.MINOR or MAJOR.MINOR.PATCH, with what semantic versions allow behind it. */
static bool is_version(const char *s) {
        for (unsigned n = 1;; n++) {
                if (!isdigit((unsigned char)*s))
                        return false;
                while (isdigit((unsigned char)*s))
                        s++;
                if (*s == '.' && n < 3)
                        s++;
                else
                        return n >= 2 && (*s == '\0' || (n == 3 && (*s == '-' || *s == '+')));
        }
}

/* There is no older version to go to: whatever the target, it is not a valid one. Cancelling what is not under way is no
 * error in etcd 3.7. */
static void downgrade_on_message(struct grpc_call *call, struct bytes data) {
        const Etcdserverpb__DowngradeRequest *pb =
                (void *)protobuf_unpack(&etcdserverpb__downgrade_request__descriptor, grpc_call_arena(call), data);

        Etcdserverpb__DowngradeResponse response = ETCDSERVERPB__DOWNGRADE_RESPONSE__INIT;
        Etcdserverpb__ResponseHeader header;
        struct keyspace_status status;

        if (!pb)
                return etcd_fail(call, ETCD_MALFORMED);
        switch ((int)pb->action) {
        case ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__VALIDATE:
        case ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__ENABLE:
                return etcd_fail(call, is_version(pb->version) ? ETCD_DOWNGRADE_TARGET : ETCD_DOWNGRADE_VERSION_FORMAT);
        case ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__CANCEL:
                fill_header(call, &status, &header);
                response.header = &header;
                response.version = (char *)ETCD_CLUSTER_SHORT;
                return reply(call, &response.base);
        default:
                return etcd_fail(call, ETCD_UNKNOWN_METHOD);
        }
}

static const struct grpc_method methods[] = {
        {
                .path = "/etcdserverpb.Maintenance/Status",
                .user_size = sizeof(struct looking),
                .on_message = status_on_message,
                .on_cancel = status_on_cancel,
        },
        {
                .path = "/etcdserverpb.Maintenance/Alarm",
                .user_size = sizeof(struct alarming),
                .on_message = alarm_on_message,
                .on_cancel = alarm_on_cancel,
        },
        {
                .path = "/etcdserverpb.Maintenance/Hash",
                .user_size = sizeof(struct hashing),
                .on_message = hash_on_message,
                .on_cancel = hash_on_cancel,
        },
        {
                .path = "/etcdserverpb.Maintenance/HashKV",
                .user_size = sizeof(struct hashing),
                .on_message = hash_kv_on_message,
                .on_cancel = hash_on_cancel,
        },
        {
                .path = "/etcdserverpb.Maintenance/Snapshot",
                .server_streaming = true,
                .user_size = sizeof(struct snapshot_call),
                .on_message = snapshot_on_message,
                .on_cancel = snapshot_on_cancel,
                .on_drained = snapshot_on_drained,
                .on_free = snapshot_on_free,
        },
        {.path = "/etcdserverpb.Maintenance/Defragment", .on_message = defragment_on_message},
        {.path = "/etcdserverpb.Maintenance/MoveLeader", .on_message = move_leader_on_message},
        {.path = "/etcdserverpb.Maintenance/Downgrade", .on_message = downgrade_on_message},
};

const struct grpc_service etcd_maintenance_service = {
        .name = "etcdserverpb.Maintenance",
        .methods = methods,
        .n_methods = n_elements(methods),
};
