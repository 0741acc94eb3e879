#include "fleet/transfer_state.h"

/*
 * The reading half of a transfer: a list at one revision, a watch from there on, and the end. The transfer's thread.
 */

#include <string.h>

#include "base/log.h"

#define RUN_NS (100 * NSEC_PER_MSEC)
#define ASK_NS (500 * NSEC_PER_MSEC)
/* A source that is not written to any more has told all that it will after so long, whatever it says of its progress: kine tells of progress at once,
 * and of what was written through another kine when it looks next, which it does every second. */
#define QUIET_NS (1500 * NSEC_PER_MSEC)
#define FINISH_NS (60 * NSEC_PER_SEC)
#define LEASE_MOST INT64_C(9000000000) /* seconds, etcd's */
#define KINE_PREFIX "/registry/"

struct etcd_span transfer_span(const struct buf *prefix, struct buf *end) {
        struct etcd_span span = {.key = bytes_of("", 1), .end = bytes_of("", 1)};

        if (!prefix->size)
                return span;
        span.key = bytes_of(prefix->data, prefix->size);
        /* The first that does not begin so. */
        buf_clear(end);
        check(buf_append(end, prefix->data, prefix->size) >= 0);
        while (end->size && end->data[end->size - 1] == 0xff)
                end->size--;
        if (end->size) {
                end->data[end->size - 1]++;
                span.end = bytes_of(end->data, end->size);
        }
        return span;
}

int transfer_rename(struct transfer *t, struct bytes key, struct buf *buf, struct bytes *ret, struct error *reterr) {
        int r;

        if (key.size < t->prefix.size ||
                !bytes_equal(bytes_of(key.data, t->prefix.size), bytes_of(t->prefix.data, t->prefix.size)))
                return error_set(reterr, -EBADMSG, "the source told of a key that does not begin as it was asked for");
        buf_clear(buf);
        r = buf_append(buf, t->new_prefix.data, t->new_prefix.size);
        if (r >= 0)
                r = buf_append(buf, key.data + t->prefix.size, key.size - t->prefix.size);
        if (r < 0)
                return error_set(reterr, r, "%s", strerror(-r));
        if (!buf->size)
                return error_set(reterr, -EBADMSG, "a key that is nothing but the prefix would be without a name");
        *ret = bytes_of(buf->data, buf->size);
        return 0;
}

/* ---- leases */

int transfer_lease(struct transfer *t, int64_t id, int64_t *ret_ttl, struct error *reterr) {
        int64_t left;
        int r;

        r = etcd_client_lease(t->client, id, ret_ttl, &left, reterr);
        if (r != -EOPNOTSUPP)
                return r;
        if (id < 0 || id > LEASE_MOST)
                return error_set(reterr, -EREMOTEIO, "%s does not tell the time of lease %llx",
                        etcd_client_endpoint(t->client), (unsigned long long)id);
        *ret_ttl = id; /* kine: a lease is its time */
        return 0;
}

struct lease_list {
        int64_t *ids; /* owned */
        size_t n;
};

static void add_lease(void *userdata, int64_t id) {
        struct lease_list *list = userdata;

        list->ids = reallocarray(list->ids, list->n + 1, sizeof(*list->ids));
        check(list->ids);
        list->ids[list->n++] = id;
}

int transfer_each_lease(struct transfer *t, int (*visit)(void *userdata, int64_t id, int64_t ttl, struct error *reterr),
        void *userdata, struct error *reterr) {
        cleanup(error_done) struct error err = {};
        struct lease_list list = {};
        int r;

        if (t->prefix.size) /* of an etcd that others share, those that keys here have are all that is ours to know */
                return 0;
        r = etcd_client_leases(t->client, add_lease, &list, &err);
        for (size_t i = 0; r >= 0 && i < list.n; i++) {
                int64_t granted, left;

                r = etcd_client_lease(t->client, list.ids[i], &granted, &left, &err);
                if (r >= 0 && granted > 0)
                        r = visit(userdata, list.ids[i], granted, &err);
        }
        free(list.ids);
        if (r == -EOPNOTSUPP)
                return 0;
        return r < 0 ? error_set(reterr, r, "%s", error_text(&err)) : 0;
}

/* ---- the first reading */

/* What it is that answers: a kine has no cluster, and lists only what has a prefix. */
int transfer_look(struct transfer *t, struct error *reterr) {
        Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__RangeResponse *response;
        cleanup(arena_done) struct arena arena = {};
        int r;

        if (t->prefix.size || t->has_new_prefix)
                return 0;
        arena_init(&arena, 0);
        request.key = (ProtobufCBinaryData){.len = strlen(KINE_PREFIX), .data = (uint8_t *)KINE_PREFIX};
        request.range_end = (ProtobufCBinaryData){.len = strlen("/registry0"), .data = (uint8_t *)"/registry0"};
        request.limit = 1;
        r = etcd_client_call(t->client, "/etcdserverpb.KV/Range", &request.base,
                &etcdserverpb__range_response__descriptor, &arena, &response, NULL, reterr);
        if (r < 0)
                return r;
        if (!response->header || response->header->cluster_id || response->header->member_id)
                return 0;
        r = buf_append_string(&t->prefix, KINE_PREFIX);
        return r < 0 ? r : buf_append_string(&t->new_prefix, KINE_PREFIX);
}

static struct spool_key key_of(const Mvccpb__KeyValue *kv) {
        return (struct spool_key){
                .key = bytes_of(kv->key.data, kv->key.len),
                .value = bytes_of(kv->value.data, kv->value.len),
                .create_revision = kv->create_revision,
                .mod_revision = kv->mod_revision,
                .version = kv->version,
                .lease = kv->lease,
        };
}

static int on_key(void *userdata, const Mvccpb__KeyValue *kv) {
        struct transfer *t = userdata;
        struct spool_key key = key_of(kv);
        cleanup(error_done) struct error err = {};
        int r;

        r = transfer_check_stopped(t, &err);
        if (r >= 0)
                r = spool_add(t->spool, &key, &err);
        if (r < 0) {
                (void)snprintf(t->reason, sizeof(t->reason), "%s", error_text(&err));
                return r;
        }
        pthread_mutex_lock(&t->mutex);
        t->status.n_keys++;
        t->status.bytes += kv->key.len + kv->value.len;
        pthread_mutex_unlock(&t->mutex);
        return 0;
}

static int read_all(struct transfer *t, const struct etcd_span *span, int64_t *ret_revision, struct error *reterr) {
        int r;

        r = spool_new(t->directory, &t->spool, reterr);
        if (r < 0)
                return r;
        r = etcd_client_list(t->client, span, 0, false, on_key, t, ret_revision, reterr);
        if (r < 0)
                return error_set(reterr, r, "%s", t->reason);
        return spool_sort(t->spool, reterr);
}

static int carry_all(struct transfer *t, int64_t revision, struct error *reterr) {
        struct spool_key key;
        int r;

        while ((r = spool_next(t->spool, &key, reterr)) > 0) {
                r = transfer_check_stopped(t, reterr);
                if (r >= 0)
                        r = t->sink->key(t, &key, reterr);
                if (r < 0)
                        return r;
        }
        spool_free(steal(t->spool));
        if (r >= 0)
                r = t->sink->read(t, revision, reterr);
        if (r < 0)
                return r;
        pthread_mutex_lock(&t->mutex);
        t->status.compacted = revision;
        pthread_mutex_unlock(&t->mutex);
        return t->sink->flush(t, reterr);
}

/* ---- following */

static int on_event(void *userdata, const Mvccpb__Event *event) {
        struct transfer *t = userdata;
        struct transfer_event *e = arena_alloc0(&t->events_arena, sizeof(*e));

        if (!e)
                return -ENOMEM;
        e->deleted = event->type == MVCCPB__EVENT__EVENT_TYPE__DELETE;
        e->kv = key_of(event->kv);
        e->kv.key.data = arena_copy(&t->events_arena, e->kv.key.data, e->kv.key.size);
        e->kv.value.data = arena_copy(&t->events_arena, e->kv.value.data, e->kv.value.size);
        if ((e->kv.key.size && !e->kv.key.data) || (e->kv.value.size && !e->kv.value.data))
                return -ENOMEM;
        if (t->last_event)
                t->last_event->next = e;
        else
                t->first_event = e;
        t->last_event = e;
        t->heard_ns = clock_now_ns();
        return 0;
}

static int on_revision(void *userdata, int64_t revision) {
        struct transfer *t = userdata;
        cleanup(error_done) struct error err = {};
        uint64_t n = 0;
        int r = 0;

        t->progress = max_of(t->progress, revision);
        if (t->first_event)
                t->told = max_of(t->told, revision);
        else
                return 0;

        for (struct transfer_event *e = t->first_event; e; e = e->next)
                n++;
        r = t->sink->events(t, t->first_event, &err);
        if (r < 0)
                (void)snprintf(t->reason, sizeof(t->reason), "%s", error_text(&err));
        t->first_event = t->last_event = NULL;
        arena_done(&t->events_arena);
        pthread_mutex_lock(&t->mutex);
        t->status.n_events += n;
        pthread_mutex_unlock(&t->mutex);
        return r;
}

static int run_watch(struct transfer *t, struct error *reterr) {
        uint64_t before = clock_now_ns();
        int r = etcd_watch_run(t->watch, RUN_NS, reterr);

        if (r < 0)
                return error_set(reterr, r, "%s", t->reason[0] ? t->reason : strerror(-r));
        r = t->sink->flush(t, reterr);
        if (t->heard_ns >= before) /* what came while the sink was slow has not been heard yet */
                t->heard_ns = clock_now_ns();
        return r;
}

static int ask_revision(struct transfer *t, const struct etcd_span *span, int64_t *ret_revision, struct error *reterr) {
        int r = etcd_client_revision(t->client, span, ret_revision, reterr);

        if (r < 0)
                return r;
        pthread_mutex_lock(&t->mutex);
        t->status.source_revision = *ret_revision;
        pthread_mutex_unlock(&t->mutex);
        return 0;
}

static int follow(struct transfer *t, const struct etcd_span *span, struct error *reterr) {
        int64_t revision;
        int r = 0;

        while (r >= 0 && !atomic_load(&t->finishing)) {
                uint64_t now = clock_now_ns();

                if (now - t->asked_ns > ASK_NS) {
                        t->asked_ns = now;
                        r = ask_revision(t, span, &revision, reterr);
                        if (r < 0)
                                return r;
                        etcd_watch_ask_progress(t->watch);
                }
                r = run_watch(t, reterr);
                transfer_tell(t, 0, t->progress, NULL);
        }
        return r;
}

/* All that the source has acknowledged by now is carried. -EBUSY: it is still being written to. */
static int catch_up(struct transfer *t, const struct etcd_span *span, int64_t *ret_last, struct error *reterr) {
        uint64_t until = clock_now_ns() + FINISH_NS;
        int64_t last = 0;
        int r;

        r = ask_revision(t, span, &last, reterr);
        if (r < 0)
                return r;
        t->heard_ns = clock_now_ns();
        for (;;) {
                uint64_t now = clock_now_ns();
                bool quiet;

                /* Of a source that is not heard nothing is known, however long it is silent. */
                if (!etcd_watch_is_open(t->watch))
                        t->heard_ns = now;
                quiet = now - t->heard_ns > QUIET_NS;
                if (quiet && (t->progress >= last || now - t->heard_ns > 3 * QUIET_NS))
                        break;
                if (now > until)
                        return error_set(reterr, -EBUSY,
                                "the source's events up to revision %lld did not come in time, or it is still being written to",
                                (long long)last);
                etcd_watch_ask_progress(t->watch);
                r = run_watch(t, reterr);
                if (r < 0)
                        return r;
                transfer_tell(t, 0, t->progress, NULL);
        }
        *ret_last = max_of(last, t->told);
        return 0;
}

/* 0; 1: not now, it goes on following. */
static int try_to_finish(struct transfer *t, const struct etcd_span *span, struct error *reterr) {
        cleanup(error_done) struct error err = {};
        int64_t last = 0;
        int r;

        transfer_set_phase(t, TRANSFER_FINISHING);
        r = catch_up(t, span, &last, &err);
        if (r >= 0)
                return t->sink->finish(t, last, reterr);
        if (r != -EBUSY)
                return error_set(reterr, r, "%s", error_text(&err));
        log_warning("%s: not finished: %s", t->tenant, error_text(&err));
        pthread_mutex_lock(&t->mutex);
        (void)snprintf(t->status.trouble, sizeof(t->status.trouble), "%s", error_text(&err));
        atomic_store(&t->finishing, false); /* under the lock: whoever tells it to finish again clears the trouble */
        pthread_mutex_unlock(&t->mutex);
        transfer_set_phase(t, TRANSFER_FOLLOWING);
        return 1;
}

int transfer_work(struct transfer *t, struct error *reterr) {
        static const struct etcd_watch_handler handler = {.on_event = on_event, .on_revision = on_revision};
        struct etcd_span span;
        int64_t revision;
        int r;

        transfer_tell(t, 0, 0, NULL);
        r = transfer_look(t, reterr);
        if (r < 0)
                return r;
        span = transfer_span(&t->prefix, &t->end);
        r = read_all(t, &span, &revision, reterr);
        if (r < 0)
                return r;
        transfer_set_phase(t, TRANSFER_CARRYING);
        r = carry_all(t, revision, reterr);
        if (r < 0)
                return r;
        t->progress = revision;
        r = etcd_watch_new(t->client, &span, revision + 1, &handler, t, &t->watch);
        if (r < 0)
                return r;
        transfer_set_phase(t, TRANSFER_FOLLOWING);
        do {
                r = follow(t, &span, reterr);
                if (r >= 0)
                        r = try_to_finish(t, &span, reterr);
        } while (r > 0);
        return r;
}
