/*
 * Watch: one stream, many watches. A stream's state is its call's user memory; the watches are the stream's. The server's loop
 * only.
 *
 * The order on the stream is etcd's: what says "created" comes first for each watch and in the order of the requests, since
 * a client matches it with the oldest request that it has; the keyspace reports watches in the order of asking, and a
 * refusal waits for those before it.
 *
 * A slow client: when more than the limit (watch_bytes, which is above the server's low mark, or on_drained would not come) is queued on the stream, the keyspace is told to hold each watch that delivers
 * more, and to go on when the stream was drained. Nobody else waits, and what the watch then needs comes from the history.
 *
 * Source of the rules: etcd's server/etcdserver/api/v3rpc/watch.go.
 */

#include "etcd/watch.h"

#include <stokehold/rpc.pb-c.h>

#include "etcd/convert.h"
#include "etcd/services.h"
#include "rpc/protobuf.h"

/* A client that asks and asks and reads nothing. */
#define MAX_PENDING ((size_t)16 * 1024 * 1024)

static struct watch_stream *stream_of(struct grpc_call *call) {
        struct watch_stream *s = grpc_call_user(call);

        if (!s->call) {
                s->call = call;
                s->ks = grpc_call_server_userdata(call);
                s->last_refusal = &s->refusals;
        }
        return s;
}

void watch_remove(struct watch *w) {
        struct watch_stream *s = w->stream;

        HASH_DEL(s->watches, w);
        watcher_free(w->watcher);
        free(w);
}

static void drop_refusal(struct watch_stream *s) {
        struct refusal *r = s->refusals;

        s->refusals = r->next;
        if (!s->refusals)
                s->last_refusal = &s->refusals;
        free(r);
}

/* Also more than once. */
static void stream_clear(struct watch_stream *s) {
        struct watch *w, *tmp;

        progress_stop(s);
        HASH_ITER(hh, s->watches, w, tmp)
                watch_remove(w);
        while (s->refusals)
                drop_refusal(s);
}

void watch_stream_fail(struct watch_stream *s, enum etcd_status status) {
        stream_clear(s);
        etcd_fail(s->call, status);
}

static int64_t present_revision(struct watch_stream *s) {
        struct keyspace_status status;

        keyspace_get_status(s->ks, &status);
        return status.revision;
}

/* ---- creating */

static bool send_refusal(struct watch_stream *s, const char *reason) {
        return watch_send(s,
                &(struct watch_message){
                        .revision = present_revision(s),
                        .id = WATCH_ALL_IDS,
                        .created = true,
                        .canceled = true,
                        .reason = reason,
                });
}

static void refuse(struct watch_stream *s, enum etcd_status status) {
        struct refusal *r;

        if (s->n_created == s->n_accepted) {
                (void)send_refusal(s, etcd_status_text(status));
                return;
        }
        r = calloc(1, sizeof(*r));
        if (!r)
                return watch_stream_fail(s, ETCD_NO_MEMORY);
        r->n_before = s->n_accepted;
        r->reason = etcd_status_text(status);
        *s->last_refusal = r;
        s->last_refusal = &r->next;
}

static bool cancel(struct watch *w) {
        struct watch_stream *s = w->stream;
        int64_t id = w->id;

        watch_remove(w);
        return watch_send(s, &(struct watch_message){.revision = present_revision(s), .id = id, .canceled = true});
}

/* Says that the watch is there. False: the stream is gone, and the watch with it. */
static bool say_created(struct watch *w, int64_t revision) {
        struct watch_stream *s = w->stream;

        w->created = true;
        s->n_created++;
        if (!watch_send(s, &(struct watch_message){.revision = revision, .id = w->id, .created = true}))
                return false;
        while (s->refusals && s->refusals->n_before <= s->n_created) {
                const char *reason = s->refusals->reason;

                drop_refusal(s);
                if (!send_refusal(s, reason))
                        return false;
        }
        return true;
}

static void on_created(void *userdata, int64_t revision) {
        struct watch *w = userdata;
        struct watch_stream *s = w->stream;

        w->synced = w->start_revision == 0 || w->start_revision > revision;
        if (!say_created(w, revision))
                return;
        if (w->cancel && !cancel(w))
                return;
        progress_try(s);
}

static bool on_events(void *userdata, struct watch_event *const *events, size_t n_events, int64_t revision) {
        struct watch *w = userdata;
        struct watch_stream *s = w->stream;

        w->quiet = false;
        if (!watch_send_events(w, events, n_events, revision))
                return false;
        if (grpc_call_pending(s->call) > keyspace_limits(s->ks)->watch_bytes) {
                w->paused = true;
                w->synced = false;
                return false;
        }
        return true;
}

static void on_synced(void *userdata, int64_t revision) {
        struct watch *w = userdata;

        (void)revision;
        w->synced = true;
        progress_try(w->stream);
}

static void on_cancelled(void *userdata, enum keyspace_result result, int64_t compact_revision) {
        struct watch *w = userdata;
        struct watch_stream *s = w->stream;
        struct watch_message m = {.id = w->id, .canceled = true, .compact_revision = compact_revision};

        if (result != KEYSPACE_COMPACTED)
                return watch_stream_fail(s, etcd_status_of(result));
        if (!w->created && !say_created(w, present_revision(s)))
                return;
        if (w->cancel) {
                if (cancel(w))
                        progress_try(s);
                return;
        }
        /* Its id is taken until the client cancels it, too, and that is answered: as by etcd. */
        watcher_free(w->watcher);
        w->watcher = NULL;
        w->paused = false;
        if (watch_send(s, &m))
                progress_try(s);
}

static struct watch *find(struct watch_stream *s, int64_t id) {
        struct watch *w;

        HASH_FIND(hh, s->watches, &id, sizeof(id), w);
        return w;
}

static void create(struct watch_stream *s, const Etcdserverpb__WatchCreateRequest *pb) {
        struct watcher_config config = {
                .range = {bytes_of(pb->key.data, pb->key.len), bytes_of(pb->range_end.data, pb->range_end.len)},
                .start_revision = pb->start_revision,
                .prev_kv = pb->prev_kv,
                .on_created = on_created,
                .on_events = on_events,
                .on_synced = on_synced,
                .on_cancelled = on_cancelled,
        };
        const struct keyspace_limits *limits = keyspace_limits(s->ks);
        struct keyspace_status status;
        struct key_range *range = &config.range;
        int64_t id = pb->watch_id;
        struct watch *w;
        int r;

        if (range->key.size == 0)
                range->key = bytes_of("", 1); /* the smallest key: one byte of zero */
        if (pb->start_revision < 0)
                return refuse(s, ETCD_COMPACTED);
        if (range->end.size > 0 && !(range->end.size == 1 && range->end.data[0] == 0) &&
                bytes_compare(range->key, range->end) >= 0)
                return refuse(s, ETCD_WATCH_EMPTY_RANGE);
        if (id == 0) {
                while (find(s, s->next_id))
                        s->next_id++;
                id = s->next_id++;
        } else if (find(s, id)) {
                return refuse(s, ETCD_WATCH_DUPLICATE_ID);
        }
        keyspace_get_status(s->ks, &status);
        if (HASH_COUNT(s->watches) >= limits->stream_watches || status.n_watchers >= limits->watches)
                return refuse(s, ETCD_TOO_MANY_REQUESTS);
        for (size_t i = 0; i < pb->n_filters; i++) {
                config.no_put |= pb->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NOPUT;
                config.no_delete |= pb->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NODELETE;
        }

        w = calloc(1, sizeof(*w));
        if (!w)
                return refuse(s, ETCD_NO_MEMORY);
        w->id = id;
        w->stream = s;
        w->start_revision = pb->start_revision;
        w->quiet = true;
        w->prev_kv = pb->prev_kv;
        w->progress_notify = pb->progress_notify;
        w->fragment = pb->fragment;
        config.userdata = w;
        r = keyspace_watch(s->ks, &config, &w->watcher);
        if (r < 0) {
                free(w);
                return refuse(s, ETCD_NO_MEMORY);
        }
        s->n_accepted++;
        HASH_ADD(hh, s->watches, id, sizeof(w->id), w);
        if (w->progress_notify)
                progress_start_notifying(s);
}

/* ---- the stream */

static void on_message(struct grpc_call *call, struct bytes data) {
        struct watch_stream *s = stream_of(call);
        const Etcdserverpb__WatchRequest *pb;
        struct arena arena; /* the call's own would grow as long as the stream lives */
        struct watch *w;

        if (grpc_call_ended(call))
                return;
        if (grpc_call_pending(call) > MAX_PENDING)
                return watch_stream_fail(s, ETCD_TOO_MANY_REQUESTS);

        arena_init(&arena, 0);
        pb = (void *)protobuf_unpack(&etcdserverpb__watch_request__descriptor, &arena, data);
        if (!pb) {
                watch_stream_fail(s, ETCD_MALFORMED);
        } else {
                switch (pb->request_union_case) {
                case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST:
                        create(s, pb->create_request);
                        break;
                case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST:
                        w = find(s, pb->cancel_request->watch_id);
                        if (w && !w->created)
                                w->cancel = true;
                        else if (w && cancel(w))
                                progress_try(s);
                        break;
                case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST:
                        progress_request(s);
                        break;
                default: /* a newer client's; etcd overlooks it too */
                        break;
                }
        }
        arena_done(&arena);
}

static void on_drained(struct grpc_call *call) {
        struct watch_stream *s = stream_of(call);

        for (struct watch *w = s->watches; w; w = w->hh.next)
                if (w->paused) {
                        w->paused = false;
                        watcher_resume(w->watcher);
                }
}

static void on_cancel(struct grpc_call *call) {
        stream_clear(stream_of(call));
}

static const struct grpc_method methods[] = {
        {
                .path = "/etcdserverpb.Watch/Watch",
                .client_streaming = true,
                .server_streaming = true,
                .user_size = sizeof(struct watch_stream),
                /* No on_half_close: who has nothing more to ask still watches, as with etcd; the stream ends when it is cancelled. */
                .on_message = on_message,
                .on_cancel = on_cancel,
                .on_drained = on_drained,
                .on_free = on_cancel,
        },
};

const struct grpc_service etcd_watch_service = {
        .name = "etcdserverpb.Watch",
        .methods = methods,
        .n_methods = n_elements(methods),
};
