#include "fleet/transfer.h"

/*
 * A transfer's thread, and what its owner sees of it: a status behind a mutex, two flags, and one callback in the end, on the owner's loop.
 */

#include <string.h>

#include "base/log.h"
#include "base/thread.h"
#include "fleet/transfer_state.h"

const char *transfer_phase_name(enum transfer_phase phase) {
        static const char *const names[] = {"Reading", "Carrying", "Following", "Finishing", "Done"};

        return names[phase];
}

/* ---- for the thread */

int transfer_check_stopped(const struct transfer *t, struct error *reterr) {
        return atomic_load(&t->stopped) ? error_set(reterr, -ECANCELED, "it was stopped") : 0;
}

void transfer_set_phase(struct transfer *t, enum transfer_phase phase) {
        struct log_context context = {.tenant = t->tenant};

        pthread_mutex_lock(&t->mutex);
        t->status.phase = phase;
        pthread_mutex_unlock(&t->mutex);
        log_at(LOG_LEVEL_INFO, &context, "transfer: %s", transfer_phase_name(phase));
}

void transfer_tell(struct transfer *t, uint64_t n_carried, int64_t revision, const char *to) {
        pthread_mutex_lock(&t->mutex);
        t->status.n_carried += n_carried;
        t->status.revision = max_of(t->status.revision, revision);
        if (to)
                (void)snprintf(t->status.to, sizeof(t->status.to), "%s", to);
        (void)snprintf(t->status.from, sizeof(t->status.from), "%s", etcd_client_endpoint(t->client));
        pthread_mutex_unlock(&t->mutex);
}

static void *run(void *userdata) {
        struct transfer *t = userdata;
        cleanup(error_done) struct error err = {};
        struct etcd_client_config client = {
                .loop = t->source_loop,
                .endpoints = (const char *const *)t->source.endpoints,
                .n_endpoints = t->source.n_endpoints,
                .tls = t->source.tls,
                .stopped = &t->stopped,
        };
        int r;

        r = etcd_client_new(&client, &t->client, &err);
        if (r >= 0 && t->sink->work)
                r = t->sink->work(t, &err);
        else if (r >= 0)
                r = t->sink->open(t, &err);
        if (r >= 0 && !t->sink->work)
                r = transfer_work(t, &err);
        t->sink->close(t);
        etcd_watch_free(steal(t->watch));
        etcd_client_free(steal(t->client));
        spool_free(steal(t->spool));
        arena_done(&t->events_arena);
        if (r >= 0)
                transfer_set_phase(t, TRANSFER_DONE);
        pthread_mutex_lock(&t->mutex);
        t->running = false;
        pthread_mutex_unlock(&t->mutex);
        t->result = min_of(r, 0);
        (void)snprintf(t->reason, sizeof(t->reason), "%s", r < 0 ? error_text(&err) : "");
        loop_post(t->owner, &t->done_task);
        return NULL;
}

/* ---- for the owner */

static void on_done(struct loop_task *task) {
        struct transfer *t = container_of(task, struct transfer, done_task);

        pthread_join(t->thread, NULL);
        t->started = false;
        t->on_done(t->userdata, t->result, t->reason);
}

void transfer_endpoints_done(struct transfer_endpoints *e) {
        for (size_t i = 0; i < e->n_endpoints; i++)
                free(e->endpoints[i]);
        free(e->endpoints);
        tls_client_unref(e->tls);
        *e = (struct transfer_endpoints){};
}

int transfer_endpoints_copy(
        struct transfer_endpoints *to, struct loop *loop, const struct transfer_end *from, struct error *reterr) {
        struct tls_client_config tls = {
                .authorities = from->authorities,
                .certificate = from->certificate,
                .key = from->key,
                .server_name = from->server_name,
        };
        cleanup(etcd_client_freep) struct etcd_client *probe = NULL;
        struct etcd_client_config client = {.loop = loop};
        int r;

        to->endpoints = xcalloc(from->n_endpoints, sizeof(*to->endpoints));
        for (size_t i = 0; i < from->n_endpoints; i++) {
                to->endpoints[i] = strdup(from->endpoints[i]);
                check(to->endpoints[i]);
                to->n_endpoints++;
        }
        r = tls_client_new(&tls, &to->tls, reterr);
        if (r < 0)
                return r;
        /* Says what is wrong with an endpoint. */
        client.endpoints = (const char *const *)to->endpoints;
        client.n_endpoints = to->n_endpoints;
        client.tls = to->tls;
        return etcd_client_new(&client, &probe, reterr);
}

int transfer_new(const struct transfer_config *config, const struct transfer_sink *sink, struct transfer **ret,
        struct error *reterr) {
        cleanup(transfer_freep) struct transfer *t = new0(struct transfer);
        int r;

        t->owner = config->loop;
        t->on_done = config->on_done;
        t->userdata = config->userdata;
        t->sink = sink;
        t->has_new_prefix = config->has_new_prefix;
        t->done_task.run = on_done;
        pthread_mutex_init(&t->mutex, NULL);
        arena_init(&t->events_arena, 0);
        t->tenant = strdup(config->tenant);
        t->directory = strdup(config->directory);
        check(t->tenant && t->directory);
        r = buf_append(&t->prefix, config->prefix.data, config->prefix.size);
        if (r >= 0 && config->has_new_prefix)
                r = buf_append(&t->new_prefix, config->new_prefix.data, config->new_prefix.size);
        else if (r >= 0)
                r = buf_append(&t->new_prefix, config->prefix.data, config->prefix.size);
        if (r >= 0)
                r = loop_new("transfer", &t->source_loop);
        if (r >= 0)
                r = loop_new("transfer", &t->sink_loop);
        if (r < 0)
                return error_set(reterr, r, "%s", strerror(-r));
        r = transfer_endpoints_copy(&t->source, t->source_loop, &config->source, reterr);
        if (r < 0)
                return r;
        *ret = steal(t);
        return 0;
}

int transfer_begin(struct transfer *t, struct error *reterr) {
        int r;

        t->running = t->started = true;
        r = thread_start(&t->thread, "transfer", run, t);
        if (r >= 0)
                return 0;
        t->running = t->started = false;
        return error_set(reterr, r, "no thread: %s", strerror(-r));
}

void transfer_get_status(struct transfer *t, struct transfer_status *ret) {
        pthread_mutex_lock(&t->mutex);
        *ret = t->status;
        pthread_mutex_unlock(&t->mutex);
}

void transfer_finish(struct transfer *t) {
        pthread_mutex_lock(&t->mutex);
        t->status.trouble[0] = '\0';
        atomic_store(&t->finishing, true);
        pthread_mutex_unlock(&t->mutex);
}

void transfer_stop(struct transfer *t) {
        atomic_store(&t->stopped, true);
        pthread_mutex_lock(&t->mutex);
        if (t->running) {
                loop_stop(t->source_loop);
                loop_stop(t->sink_loop); /* an export's target may be what does not answer */
        }
        pthread_mutex_unlock(&t->mutex);
}

void transfer_free(struct transfer *t) {
        if (!t)
                return;
        check(!t->started);
        if (t->sink_state)
                t->sink->close(t);
        loop_free(t->source_loop);
        loop_free(t->sink_loop);
        transfer_endpoints_done(&t->source);
        buf_done(&t->prefix);
        buf_done(&t->new_prefix);
        buf_done(&t->end);
        arena_done(&t->events_arena);
        pthread_mutex_destroy(&t->mutex);
        free(t->tenant);
        free(t->directory);
        free(t);
}
