/*
 * Snapshot. A barrier first, so that all is in it that was acknowledged before; then a pin, so that nothing is deleted while the log is read twice;
 * then core/snapshot makes the file on a thread of its own, and its pieces are sent as they come. When the client is slow nothing more is
 * made than SNAPSHOT_HIGH_MARK and what the making is ahead by; one that takes nothing for long is ended, since its pin keeps what is dead from
 * being deleted. It stops with the call. The server's loop only; a call's state is its user memory.
 *
 * As in etcd, each message has the storage version and how many bytes of the database remain, and the last one has the checksum.
 */

#include "etcd/snapshot.h"

#include <errno.h>
#include <stdatomic.h>
#include <stokehold/rpc.pb-c.h>

#include <stokehold/rpc.pb-c.h>

#include "base/log.h"
#include "etcd/header.h"
#include "etcd/status.h"
#include "rpc/digest.h"
#include "rpc/protobuf.h"

#define SNAPSHOT_HIGH_MARK (1024 * 1024) /* bytes queued; above the server's low mark, or on_drained would not come */
#define MOST_OF_TENANT 2
#define MOST_OF_ALL 8
#define PLAN_BYTES ((size_t)512 * 1024 * 1024)
#define LOOK_NS (5 * NSEC_PER_SEC)
#define STALL_NS (60 * NSEC_PER_SEC)

/* Those of this loop, and how many there are on all. */
static __thread LIST_HEAD(, snapshot_call) running = LIST_HEAD_INITIALIZER(running);
static _Atomic unsigned n_running;

/* Lets go of all that it holds; the call is ended by the caller. */
static void leave(struct snapshot_call *s) {
        if (!s->call)
                return;
        s->call = NULL;
        keyspace_cancel(&s->barrier);
        loop_timer_clear(&s->timer);
        snapshot_save_free(steal(s->save));
        keyspace_unpin(steal(s->pin));
        LIST_REMOVE(s, entry);
        atomic_fetch_sub_explicit(&n_running, 1, memory_order_relaxed);
}

static void fail(struct snapshot_call *s, enum etcd_status status, const char *reason) {
        struct grpc_call *call = s->call;

        if (reason)
                log_warning("%s: a snapshot was given up after %llu bytes: %s", keyspace_name(s->ks),
                        (unsigned long long)s->sent, reason);
        leave(s);
        etcd_fail(call, status);
}

/* ---- sending */

/* Takes the reference over. */
static void send_piece(struct snapshot_call *s, struct blob *piece) {
        const struct snapshot_figures *figures = snapshot_save_figures(s->save);
        uint64_t database = figures->bytes - DIGEST_SIZE;
        struct bytes version = bytes_of_string(SNAPSHOT_STORAGE_VERSION);
        struct blob *parts[2] = {NULL, piece};
        struct etcd_header header;
        uint8_t *p;

        parts[0] = blob_new(ETCD_HEADER_MAX + 11 + protobuf_field_bytes_size(version.size) + 6);
        if (!parts[0]) {
                blob_unref(piece);
                fail(s, ETCD_NO_MEMORY, "no memory");
                return;
        }
        p = parts[0]->data;
        if (s->sent == 0) {
                etcd_header_init(&header, s->ks, figures->revision);
                p = etcd_header_put(p, &header);
        }
        s->sent += piece->size;
        p = protobuf_put_field_varint(p, 2, s->sent < database ? database - s->sent : 0);
        p = protobuf_put_field_bytes(p, 4, version);
        *p++ = 3 << 3 | 2;
        p = protobuf_put_varint(p, piece->size);
        check(p <= parts[0]->data + parts[0]->size);
        parts[0]->size = (uint32_t)(p - parts[0]->data);
        grpc_call_send(s->call, parts, n_elements(parts));
}

static enum etcd_status status_of(int result) {
        return result == -ENOMEM ? ETCD_NO_MEMORY : result == -EUCLEAN ? ETCD_CORRUPT : ETCD_UNHEALTHY;
}

static void pump(struct snapshot_call *s) {
        struct grpc_call *call = s->call;

        while (s->save && grpc_call_pending(call) < SNAPSHOT_HIGH_MARK) {
                struct blob *piece;
                int r = snapshot_save_next(s->save, &piece);

                switch (r) {
                case SAVE_PIECE:
                        send_piece(s, piece);
                        break;
                case SAVE_WAIT:
                        return;
                case SAVE_END:
                        log_info("%s: a snapshot of %llu bytes was made", keyspace_name(s->ks),
                                (unsigned long long)s->sent);
                        leave(s);
                        grpc_call_finish(call, GRPC_OK, NULL);
                        return;
                default:
                        fail(s, status_of(r), snapshot_save_reason(s->save));
                        return;
                }
        }
}

static void on_ready(void *userdata) {
        pump(userdata);
}

void snapshot_on_drained(struct grpc_call *call) {
        struct snapshot_call *s = grpc_call_user(call);

        if (s->call)
                pump(s);
}

/* A client that takes nothing any more. */
static void on_look(struct loop_timer *timer) {
        struct snapshot_call *s = container_of(timer, struct snapshot_call, timer);
        uint64_t now = clock_now_ns(), pending = grpc_call_pending(s->call), taken = s->sent - min_of(s->sent, pending);

        if (taken != s->taken || !pending) {
                s->taken = taken;
                s->taken_ns = now;
        }
        if (now - s->taken_ns >= STALL_NS) {
                fail(s, ETCD_TIMEOUT, "the client takes nothing");
                return;
        }
        loop_timer_set(grpc_call_loop(s->call), timer, now + LOOK_NS);
}

/* ---- beginning */

static void on_pinned(void *userdata, const struct stoke_end *end, int64_t revision) {
        struct snapshot_call *s = userdata;
        cleanup(freep) struct lease_left *left = NULL;
        struct snapshot_save_config config = {
                .source =
                        {
                                .datastore = keyspace_datastore(s->ks),
                                .name = keyspace_name(s->ks),
                                .loop = grpc_call_loop(s->call),
                                .pinned = true,
                        },
                .on_ready = on_ready,
                .userdata = s,
        };
        struct keyspace_status status;
        int r;

        (void)end;
        (void)revision;
        if (s->save)
                return; /* renewed somewhere else */
        keyspace_get_status(s->ks, &status);
        memcpy(config.source.incarnation, keyspace_incarnation(s->ks), sizeof(config.source.incarnation));
        config.plan = (struct snapshot_config){
                .member_id = keyspace_member_id(s->ks),
                .term = ETCD_RAFT_TERM,
                .compacted = status.compacted,
                .max_bytes = PLAN_BYTES,
        };
        left = keyspace_leases_left(s->ks, &config.plan.n_left);
        if (config.plan.n_left && !left)
                config.plan.n_left = 0; /* no memory: they are given all their time */
        config.plan.left = left;
        r = snapshot_save_new(&config, &s->save);
        if (r < 0) {
                fail(s, status_of(r), "no thread for it");
                return;
        }
        s->taken_ns = clock_now_ns();
        s->timer.on_time = on_look;
        loop_timer_set(config.source.loop, &s->timer, s->taken_ns + LOOK_NS);
}

static void on_lost(void *userdata, const char *reason) {
        fail(userdata, ETCD_UNHEALTHY, reason);
}

static void on_fresh(struct keyspace_call *kc, enum keyspace_result result) {
        struct snapshot_call *s = container_of(kc, struct snapshot_call, barrier);
        struct grpc_call *call = s->call;
        struct pin_config config = {.on_pinned = on_pinned, .on_lost = on_lost, .userdata = s};

        if (result == KEYSPACE_OK) {
                keyspace_pin(s->ks, &config, &s->pin);
                return;
        }
        leave(s);
        etcd_fail_result(call, result);
}

/* Whether another one may begin. */
static bool is_free(const struct keyspace *ks) {
        struct snapshot_call *other;
        unsigned n = 0;

        LIST_FOREACH(other, &running, entry)
                n += other->ks == ks;
        if (n >= MOST_OF_TENANT)
                return false;
        if (atomic_fetch_add_explicit(&n_running, 1, memory_order_relaxed) < MOST_OF_ALL)
                return true;
        atomic_fetch_sub_explicit(&n_running, 1, memory_order_relaxed);
        return false;
}

void snapshot_on_message(struct grpc_call *call, struct bytes data) {
        struct snapshot_call *s = grpc_call_user(call);
        struct keyspace *ks = grpc_call_server_userdata(call);

        if (!protobuf_unpack(&etcdserverpb__snapshot_request__descriptor, grpc_call_arena(call), data))
                return etcd_fail(call, ETCD_MALFORMED);
        if (!is_free(ks))
                return etcd_fail(call, ETCD_TOO_MANY_REQUESTS);
        s->call = call;
        s->ks = ks;
        LIST_INSERT_HEAD(&running, s, entry);
        s->barrier.done = on_fresh;
        s->barrier.deadline_ns = grpc_call_deadline(call);
        s->barrier.arena = grpc_call_arena(call);
        keyspace_barrier(ks, &s->barrier);
}

void snapshot_on_cancel(struct grpc_call *call) {
        leave(grpc_call_user(call));
}

void snapshot_on_free(struct grpc_call *call) {
        leave(grpc_call_user(call));
}
