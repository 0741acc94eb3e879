#include "fleet/etcd_client.h"

/*
 * A watch at an etcd, made again where it was when its connection is lost. Messages are kept as they came until the run hands them out, and
 * the stream is paused while some wait, so that a slow consumer slows the server down.
 *
 * All events of one revision are handed out together: etcd never splits a revision between two responses of a watch that did not ask for
 * fragments. A response whose events end with revision R says nothing about R being complete for other responses; its header does not either, being
 * the server's. So what is complete is told by the next revision's events, or by progress.
 *
 * Progress may be told too early, as etcd before 3.4.31 and 3.5.13 does: what is below it may still come, and so a stream that is made again begins
 * behind the last event, not behind the progress, unless the server has compacted what is between.
 */

#include <string.h>
#include <sys/queue.h>

#include "fleet/etcd_client_state.h"
#include "rpc/protobuf.h"

#define PAUSE_NS (200 * NSEC_PER_MSEC)
/* etcd does not answer while a watcher lags behind. */
#define ASK_AGAIN_NS NSEC_PER_SEC
#define WAITING_MOST ((size_t)8 * 1024 * 1024)

struct waiting_message {
        STAILQ_ENTRY(waiting_message) entry;
        size_t size;
        uint8_t data[];
};

struct etcd_watch {
        struct etcd_client *client; /* borrowed */
        struct buf key, end;
        int64_t next; /* all before this revision was told, says the server */
        int64_t told; /* of the last event that was handed out: what a new stream goes on behind */
        struct etcd_watch_handler handler;
        void *userdata;
        struct grpc_client_call *call; /* the client's; NULL: none */
        STAILQ_HEAD(, waiting_message) waiting;
        size_t waiting_bytes;
        bool paused, running, opened;
        bool again;       /* the stream is to be made again, at once */
        uint64_t lost_ns; /* since when there is no connection; 0: there is */
        enum grpc_code end_code;
        char *end_reason;  /* owned */
        uint64_t asked_ns; /* on this stream, not answered yet; 0: it was */
};

static void on_message(void *userdata, struct bytes data) {
        struct etcd_watch *w = userdata;
        struct waiting_message *m = malloc(sizeof(*m) + data.size);

        check(m);
        m->size = data.size;
        memcpy(m->data, data.data, data.size);
        STAILQ_INSERT_TAIL(&w->waiting, m, entry);
        w->waiting_bytes += data.size;
        if (w->waiting_bytes > WAITING_MOST && !w->paused) {
                w->paused = true;
                grpc_client_pause(w->call);
        }
        if (w->running)
                loop_stop(w->client->loop);
}

static void on_end(void *userdata, enum grpc_code code, const char *message) {
        struct etcd_watch *w = userdata;

        w->call = NULL;
        w->end_code = code;
        free(w->end_reason);
        w->end_reason = strdup(message && *message ? message : grpc_code_name(code));
        check(w->end_reason);
        if (w->running)
                loop_stop(w->client->loop);
}

static const struct grpc_client_handler handler = {.on_message = on_message, .on_end = on_end};

static void drop_waiting(struct etcd_watch *w) {
        struct waiting_message *m;

        while ((m = STAILQ_FIRST(&w->waiting))) {
                STAILQ_REMOVE_HEAD(&w->waiting, entry);
                free(m);
        }
        w->waiting_bytes = 0;
        w->paused = false;
}

int etcd_watch_new(struct etcd_client *client, const struct etcd_span *span, int64_t from_revision,
        const struct etcd_watch_handler *h, void *userdata, struct etcd_watch **ret) {
        cleanup(etcd_watch_freep) struct etcd_watch *w = new0(struct etcd_watch);
        int r;

        STAILQ_INIT(&w->waiting);
        w->client = client;
        w->next = from_revision;
        w->told = from_revision - 1;
        w->handler = *h;
        w->userdata = userdata;
        r = buf_append(&w->key, span->key.data, span->key.size);
        if (r >= 0)
                r = buf_append(&w->end, span->end.data, span->end.size);
        if (r < 0)
                return r;
        *ret = steal(w);
        return 0;
}

void etcd_watch_free(struct etcd_watch *w) {
        if (!w)
                return;
        if (w->call)
                grpc_client_cancel(w->call);
        drop_waiting(w);
        buf_done(&w->key);
        buf_done(&w->end);
        free(w->end_reason);
        free(w);
}

static int send_request(struct etcd_watch *w, const Etcdserverpb__WatchRequest *request) {
        cleanup(blob_unrefp) struct blob *packed = protobuf_pack(&request->base);

        return packed ? grpc_client_send(w->call, blob_bytes(packed)) : -ENOMEM;
}

static int open_watch(struct etcd_watch *w, struct error *reterr) {
        Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
        Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        int r;

        r = etcd_client_dial(w->client, reterr);
        if (r < 0)
                return r;
        r = grpc_client_start(w->client->rpc, "/etcdserverpb.Watch/Watch", 0, &handler, w, &w->call);
        if (r < 0)
                return error_set(reterr, r, "watch: %s", strerror(-r));
        create.key = (ProtobufCBinaryData){.len = w->key.size, .data = w->key.data};
        create.range_end = (ProtobufCBinaryData){.len = w->end.size, .data = w->end.data};
        create.start_revision = w->told + 1;
        create.progress_notify = true;
        request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
        request.create_request = &create;
        w->opened = w->again = false;
        w->asked_ns = 0;
        return send_request(w, &request);
}

bool etcd_watch_is_open(const struct etcd_watch *w) {
        return w->call && w->opened;
}

void etcd_watch_ask_progress(struct etcd_watch *w) {
        Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
        Etcdserverpb__WatchProgressRequest progress = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;
        uint64_t now = clock_now_ns();

        if (!w->call || !w->opened || (w->asked_ns && now - w->asked_ns < ASK_AGAIN_NS))
                return;
        request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
        request.progress_request = &progress;
        if (send_request(w, &request) >= 0)
                w->asked_ns = now;
}

/* The events of this revision have been handed out. It may be one before w->next. */
static int tell_events(struct etcd_watch *w, int64_t revision) {
        w->told = revision;
        w->next = max_of(w->next, revision + 1);
        return w->handler.on_revision(w->userdata, revision);
}

static int tell_progress(struct etcd_watch *w, int64_t revision) {
        if (revision < w->next - 1)
                return 0;
        w->next = revision + 1;
        return w->handler.on_revision(w->userdata, revision);
}

/* What comes next was compacted. Where the server said that there is nothing up to some revision, the watch goes on from there. */
static int take_compacted(struct etcd_watch *w, int64_t compacted, struct error *reterr) {
        if (w->told + 1 == w->next)
                return error_set(reterr, -ESTALE,
                        "%s: the history behind revision %lld was compacted (up to %lld) before it was read",
                        etcd_client_endpoint(w->client), (long long)w->next - 1, (long long)compacted);
        w->told = w->next - 1;
        w->again = true;
        if (w->call)
                grpc_client_cancel(steal(w->call));
        return 0;
}

static int take_response(struct etcd_watch *w, const Etcdserverpb__WatchResponse *response, struct error *reterr) {
        int64_t revision = 0;
        int r;

        if (response->canceled) {
                if (response->compact_revision)
                        return take_compacted(w, response->compact_revision, reterr);
                return error_set(reterr, -EREMOTEIO, "%s: the watch was refused: %s", etcd_client_endpoint(w->client),
                        response->cancel_reason);
        }
        if (response->created) {
                w->opened = true;
                return 0;
        }
        for (size_t i = 0; i < response->n_events; i++) {
                const Mvccpb__Event *event = response->events[i];

                if (!event->kv)
                        return error_set(
                                reterr, -EREMOTEIO, "%s: an event without a key", etcd_client_endpoint(w->client));
                /* Known, from before the stream was made again. Not what is below w->next, of which there may be more. */
                if (event->kv->mod_revision <= w->told)
                        continue;
                if (revision && event->kv->mod_revision > revision) {
                        r = tell_events(w, revision);
                        if (r < 0)
                                return r;
                }
                revision = event->kv->mod_revision;
                r = w->handler.on_event(w->userdata, event);
                if (r < 0)
                        return r;
        }
        if (revision)
                return tell_events(w, revision);
        if (!response->n_events && response->header) {
                w->asked_ns = 0;
                return tell_progress(w, response->header->revision);
        }
        return 0;
}

static int take_waiting(struct etcd_watch *w, struct error *reterr) {
        struct waiting_message *m;

        while ((m = STAILQ_FIRST(&w->waiting))) {
                cleanup(arena_done) struct arena arena = {};
                const Etcdserverpb__WatchResponse *response;
                int r;

                arena_init(&arena, 0);
                response = (const void *)protobuf_unpack(
                        &etcdserverpb__watch_response__descriptor, &arena, bytes_of(m->data, m->size));
                r = response ? take_response(w, response, reterr)
                             : error_set(reterr, -EREMOTEIO, "%s: a malformed answer to a watch",
                                       etcd_client_endpoint(w->client));
                STAILQ_REMOVE_HEAD(&w->waiting, entry);
                w->waiting_bytes -= m->size;
                free(m);
                if (r < 0)
                        return r;
        }
        if (w->paused) {
                w->paused = false;
                if (w->call)
                        grpc_client_resume(w->call);
        }
        return 0;
}

/* The stream has ended, or could not begin: whether it is tried again. */
static int lose(struct etcd_watch *w, const char *why, struct error *reterr) {
        uint64_t now = clock_now_ns();

        if (etcd_client_is_stopped(w->client))
                return error_set(reterr, -ECANCELED, "it was stopped");
        if (!w->lost_ns)
                w->lost_ns = now;
        if (now - w->lost_ns > w->client->patience_ns)
                return error_set(reterr, -EHOSTUNREACH, "%s: %s", etcd_client_endpoint(w->client), why);
        drop_waiting(w); /* told again, from behind w->told on */
        etcd_client_drop(w->client);
        if (!etcd_client_sleep(w->client, PAUSE_NS))
                return error_set(reterr, -ECANCELED, "it was stopped");
        return 0;
}

struct run_timer {
        struct loop *loop;
        struct loop_timer timer;
};

static void on_run_over(struct loop_timer *timer) {
        loop_stop(container_of(timer, struct run_timer, timer)->loop);
}

int etcd_watch_run(struct etcd_watch *w, uint64_t timeout_ns, struct error *reterr) {
        struct run_timer over = {.loop = w->client->loop, .timer = {.on_time = on_run_over}};
        int r;

        if (!w->call && STAILQ_EMPTY(&w->waiting)) {
                cleanup(error_done) struct error err = {};

                r = open_watch(w, &err);
                if (r < 0)
                        return lose(w, error_text(&err), reterr);
        }
        if (STAILQ_EMPTY(&w->waiting)) {
                loop_timer_set(w->client->loop, &over.timer, clock_now_ns() + timeout_ns);
                w->running = true;
                (void)loop_run(w->client->loop);
                w->running = false;
                loop_timer_clear(&over.timer);
        }
        if (etcd_client_is_stopped(w->client))
                return error_set(reterr, -ECANCELED, "it was stopped");
        if (!STAILQ_EMPTY(&w->waiting)) {
                w->lost_ns = 0;
                r = take_waiting(w, reterr);
                if (r < 0)
                        return r;
        }
        if (w->call || w->again)
                return 0;
        if (w->end_code == GRPC_UNIMPLEMENTED || w->end_code == GRPC_UNAUTHENTICATED ||
                w->end_code == GRPC_PERMISSION_DENIED)
                return error_set(reterr, -EREMOTEIO, "%s: %s", etcd_client_endpoint(w->client),
                        w->end_reason ? w->end_reason : "");
        return lose(w, w->end_reason ? w->end_reason : "the watch ended", reterr);
}
