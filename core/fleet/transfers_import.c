#include "fleet/transfers.h"

/*
 * What an import does to its tenant. It is recorded as being installed by this daemon; its keys are read, fed, followed and committed (import.c); then
 * it is recorded as ready, served, and compared with its source once more through its own socket, as a client would. Whatever fails on
 * the way, nothing is left. Main loop only.
 */

#include <string.h>

#include "base/log.h"
#include "fleet/transfers_state.h"
#include "fleet/uuid.h"

/* A request outlives the call that brought it. All is owned. */
struct import_request {
        char **endpoints;
        size_t n_endpoints;
        struct buf authorities, certificate, key, prefix, new_prefix;
        char *server_name;
        bool has_new_prefix, finish;
};

static void keep(struct buf *b, struct bytes data) {
        check(buf_append(b, data.data, data.size) >= 0);
}

static void forget_key(struct buf *b) {
        if (b->data)
                explicit_bzero(b->data, b->capacity);
        buf_done(b);
}

void import_request_free(struct import_request *r) {
        if (!r)
                return;
        for (size_t i = 0; i < r->n_endpoints; i++)
                free(r->endpoints[i]);
        free(r->endpoints);
        buf_done(&r->authorities);
        buf_done(&r->certificate);
        forget_key(&r->key);
        buf_done(&r->prefix);
        buf_done(&r->new_prefix);
        free(r->server_name);
        free(r);
}

static struct import_request *import_request_copy(const struct fleet_transfer_request *from) {
        struct import_request *r = new0(struct import_request);

        r->endpoints = xcalloc(from->n_endpoints, sizeof(*r->endpoints));
        for (size_t i = 0; i < from->n_endpoints; i++) {
                r->endpoints[i] = strdup(from->endpoints[i]);
                check(r->endpoints[i]);
                r->n_endpoints++;
        }
        keep(&r->authorities, from->authorities);
        keep(&r->certificate, from->certificate);
        keep(&r->key, from->key);
        keep(&r->prefix, from->prefix);
        keep(&r->new_prefix, from->new_prefix);
        r->server_name = strdup(from->server_name ? from->server_name : "");
        check(r->server_name);
        r->has_new_prefix = from->has_new_prefix;
        r->finish = from->finish;
        return r;
}

static struct bytes bytes_in(const struct buf *b) {
        return bytes_of(b->data, b->size);
}

static struct fleet_transfer_request request_of(const struct import_request *r) {
        return (struct fleet_transfer_request){
                .endpoints = (const char *const *)r->endpoints,
                .n_endpoints = r->n_endpoints,
                .authorities = bytes_in(&r->authorities),
                .certificate = bytes_in(&r->certificate),
                .key = bytes_in(&r->key),
                .server_name = r->server_name,
                .prefix = bytes_in(&r->prefix),
                .has_new_prefix = r->has_new_prefix,
                .new_prefix = bytes_in(&r->new_prefix),
        };
}

static void end_import(struct fleet_transfer *t, int result, const char *reason) {
        import_request_free(steal(t->request));
        transfers_end(t, result, reason);
}

/* The tenant is gone: the reason was kept. */
static void on_removed(void *userdata, int result, const char *reason) {
        struct fleet_transfer *t = userdata;
        cleanup(freep) char *text = NULL;

        if (result < 0)
                check(asprintf(&text, "%s; what there is of it could not be removed yet: %s", t->reason, reason) > 0);
        else
                check(asprintf(&text, "%s", t->reason) > 0);
        free(steal(t->reason));
        end_import(t, -ECANCELED, text);
}

/* It was served, and must not be. */
static void remove_tenant(struct fleet_transfer *t, const char *reason) {
        t->stage = STAGE_REMOVING;
        free(t->reason);
        t->reason = strdup(reason);
        check(t->reason);
        fleet_delete_tenant(t->fleet, t->tenant, false, on_removed, t);
}

static void on_compared(void *userdata, int result, const char *reason) {
        struct fleet_transfer *t = userdata;
        struct transfer_status carried = t->last;
        cleanup(freep) char *kept = transfers_drop_thread(t, reason);

        memcpy(carried.trouble, t->last.trouble, sizeof(carried.trouble));
        t->last = carried;
        if (carried.trouble[0])
                log_warning("%s: imported, but %s", t->tenant, carried.trouble);
        if (result == -EBADMSG)
                remove_tenant(t, kept);
        else if (result < 0 && !t->stopped) {
                /* What was imported is there, and every record of it was checked; that the source does not answer any more is no reason to throw it
                 * away. */
                log_warning(
                        "%s: what was imported could not be compared with its source once more: %s", t->tenant, kept);
                end_import(t, 0, "");
        } else if (result < 0)
                remove_tenant(t, "it was aborted");
        else
                end_import(t, 0, "");
}

static void on_import_served(void *userdata, int result, const char *reason) {
        struct fleet_transfer *t = userdata;
        struct assignment *a = fleet_find_assignment(t->fleet, t->tenant);
        struct fleet_transfer_request request = request_of(t->request);
        cleanup(freep) char *socket = NULL, *url = NULL;
        cleanup(error_done) struct error err = {};
        struct fleet_tenant_view view;
        struct transfer_config config;
        struct transfer_end target;

        if (result < 0 || !a || !a->serving) {
                /* It is all there, and will be served when that is possible. */
                log_warning("%s: imported, but not served yet: %s", t->tenant, reason);
                end_import(t, 0, "");
                return;
        }
        if (t->stopped) {
                remove_tenant(t, "it was aborted");
                return;
        }
        assignment_view(a, &view, &socket);
        check(asprintf(&url, "unix://%s", view.socket) > 0);
        transfers_fill_config(&config, t, &request);
        config.source = transfers_end_of(&request);
        config.on_done = on_compared;
        target = (struct transfer_end){.endpoints = (const char *const[]){url}, .n_endpoints = 1};
        t->stage = STAGE_COMPARING;
        /* As it was imported: whoever waited for the tenant writes to it by now. */
        if (comparison_start(&config, &target, t->last.revision, &t->transfer, &err) < 0)
                remove_tenant(t, error_text(&err));
}

static void on_imported(void *userdata, int result, const char *reason) {
        struct fleet_transfer *t = userdata;
        struct assignment *a = t->installing.assignment;
        cleanup(freep) char *kept = transfers_drop_thread(t, reason);

        installing_leave(&t->installing, result == 0);
        if (result < 0 && (result == -EINPROGRESS || !a)) {
                /* The record says Installing, and finds out whether it was committed. */
                end_import(t, result, kept);
                return;
        }
        if (result < 0) { /* it goes, with what there is */
                t->stage = STAGE_REMOVING;
                t->reason = strdup(t->stopped ? "it was aborted" : kept);
                check(t->reason);
                assignment_wait(a, WAIT_GONE, on_removed, t);
                return;
        }
        t->stage = STAGE_SERVING;
        assignment_wait(a, WAIT_SERVED, on_import_served, t);
}

static void on_cancelled(struct installing *installing, const char *reason) {
        struct fleet_transfer *t = container_of(installing, struct fleet_transfer, installing);

        (void)reason;
        t->stopped = true;
        transfer_stop(t->transfer);
}

struct beginning {
        struct fleet_transfer *transfer;
        fleet_done_fn done;
        void *userdata;
};

static void on_import_recorded(void *userdata, int result, const char *reason) {
        struct beginning *beginning = userdata;
        struct fleet_transfer *t = beginning->transfer;
        struct assignment *a = fleet_find_assignment(t->fleet, t->tenant);
        struct fleet_transfer_request request = request_of(t->request);
        cleanup(error_done) struct error err = {};
        struct import_target target = {};
        struct transfer_config config;
        struct fleet_store *store;
        int r;

        if (result < 0) {
                end_import(t, result, reason);
                beginning->done(beginning->userdata, result, reason);
                free(beginning);
                return;
        }
        check(a && a->record);
        store = fleet_find_store(t->fleet, a->record->datastore);
        installing_enter(&t->installing, a);
        transfers_fill_config(&config, t, &request);
        config.source = transfers_end_of(&request);
        config.on_done = on_imported;
        r = store && store->ds && !store->leaving ? 0 : error_set(&err, -EAGAIN, "its datastore is being closed");
        if (r >= 0 && t->stopped)
                r = error_set(&err, -ECANCELED, "it was aborted");
        if (r >= 0) {
                target.datastore = store->ds;
                memcpy(target.daemon, t->fleet->config.daemon, 16);
                memcpy(target.incarnation, a->record->incarnation, 16);
                memcpy(target.id, a->record->installation, 16);
                r = import_start(&config, &target, &t->transfer, &err);
        }
        if (r < 0) {
                installing_leave(&t->installing, false);
                end_import(t, r, error_text(&err));
                beginning->done(beginning->userdata, r == -EINVAL ? -EINVAL : -EAGAIN, error_text(&err));
                free(beginning);
                return;
        }
        a->store = store;
        t->stage = STAGE_RUNNING;
        if (t->request->finish)
                transfer_finish(t->transfer);
        beginning->done(beginning->userdata, 0, "");
        free(beginning);
}

void fleet_import_tenant(
        struct fleet *fleet, const struct fleet_transfer_request *request, fleet_done_fn done, void *userdata) {
        const struct fleet_create *create = request->create;
        struct beginning *beginning;
        struct fleet_transfer *t;
        struct fleet_store *store;
        struct assignment *a;

        store = fleet_place_tenant(fleet, create, done, userdata);
        if (!store)
                return;
        t = transfers_enter(fleet, request->name, true, done, userdata);
        if (!t)
                return;
        t->request = import_request_copy(request);
        t->installing.cancel = on_cancelled;
        beginning = new0(struct beginning);
        beginning->transfer = t;
        beginning->done = done;
        beginning->userdata = userdata;
        a = fleet_assign(fleet, request->name, store->name, create->quota_bytes, create->retain, "stokectl", false);
        a->next->phase = REGISTRY_INSTALLING;
        uuid_make(a->next->installation);
        memcpy(a->next->installer, fleet->config.daemon, 16);
        assignment_wait(a, WAIT_RECORDED, on_import_recorded, beginning);
        assignment_step(a);
}
