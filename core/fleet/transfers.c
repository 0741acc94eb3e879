#include "fleet/transfers.h"

/*
 * Which transfers there are, and what becomes of the tenants that are imported. Main loop only; the work is done by a thread for each
 * (transfer.c).
 *
 * An import: the tenant is recorded as being installed by this daemon; its keys are read, fed, followed and committed; then it is recorded as ready,
 * served, and compared with its source once more through its own socket, as a client would. Whatever fails on the way, nothing is left.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fleet/state.h"
#include "fleet/uuid.h"

enum stage {
        STAGE_BEGINNING, /* the tenant is being recorded */
        STAGE_RUNNING,
        STAGE_SERVING,   /* an import: committed, it is being served */
        STAGE_COMPARING, /* and then compared */
        STAGE_REMOVING,  /* failed: what there is of it goes */
        STAGE_ENDED,
};

struct ending {
        fleet_done_fn done;
        void *userdata;
        bool tells_trouble; /* also answered where it could not finish */
        STAILQ_ENTRY(ending) entry;
};

struct fleet_transfer {
        struct fleet *fleet; /* borrowed */
        char *tenant;        /* owned */
        bool is_import;
        enum stage stage;
        struct transfer *transfer; /* owned; NULL: none runs */
        struct transfer_status last;
        int result;
        char *reason; /* owned; NULL: none */
        int64_t started, finished;
        bool stopped; /* by request */
        struct loop_timer trouble_timer;
        struct import_request *request; /* owned: of an import, as long as it is needed; NULL: not */
        struct installing installing;
        STAILQ_HEAD(, ending) endings;
        LIST_ENTRY(fleet_transfer) entry;
};

static struct fleet_transfer *find(struct fleet *fleet, const char *tenant) {
        struct fleet_transfer *t;

        LIST_FOREACH(t, &fleet->transfers, entry)
                if (strcmp(t->tenant, tenant) == 0)
                        return t;
        return NULL;
}

static struct fleet_transfer *transfer_entry_new(struct fleet *fleet, const char *tenant, bool is_import) {
        struct fleet_transfer *t = new0(struct fleet_transfer);

        t->fleet = fleet;
        t->tenant = strdup(tenant);
        check(t->tenant);
        t->is_import = is_import;
        t->started = time(NULL);
        STAILQ_INIT(&t->endings);
        LIST_INSERT_HEAD(&fleet->transfers, t, entry);
        return t;
}

struct import_request;
static void import_request_free(struct import_request *r);

static void forget(struct fleet_transfer *t) {
        check(!t->transfer && STAILQ_EMPTY(&t->endings));
        LIST_REMOVE(t, entry);
        loop_timer_clear(&t->trouble_timer);
        import_request_free(t->request);
        free(t->tenant);
        free(t->reason);
        free(t);
}

/* ---- waiting for the end */

#define TROUBLE_NS (200 * NSEC_PER_MSEC)

static void answer(struct fleet_transfer *t, bool only_trouble, int result, const char *reason) {
        STAILQ_HEAD(, ending) due = STAILQ_HEAD_INITIALIZER(due);
        struct ending *e, *next;

        for (e = STAILQ_FIRST(&t->endings); e; e = next) {
                next = STAILQ_NEXT(e, entry);
                if (only_trouble && !e->tells_trouble)
                        continue;
                STAILQ_REMOVE(&t->endings, e, ending, entry);
                STAILQ_INSERT_TAIL(&due, e, entry);
        }
        while ((e = STAILQ_FIRST(&due))) {
                STAILQ_REMOVE_HEAD(&due, entry);
                e->done(e->userdata, result, reason);
                free(e);
        }
}

static void look_for_trouble(struct loop_timer *timer) {
        struct fleet_transfer *t = container_of(timer, struct fleet_transfer, trouble_timer);
        struct transfer_status status;

        if (!t->transfer)
                return;
        transfer_get_status(t->transfer, &status);
        if (status.trouble[0])
                answer(t, true, -EBUSY, status.trouble);
        else
                loop_timer_set(t->fleet->loop, &t->trouble_timer, clock_now_ns() + TROUBLE_NS);
}

static void wait_for_end(struct fleet_transfer *t, bool tells_trouble, fleet_done_fn done, void *userdata) {
        struct ending *e = new0(struct ending);

        e->done = done;
        e->userdata = userdata;
        e->tells_trouble = tells_trouble;
        STAILQ_INSERT_TAIL(&t->endings, e, entry);
        if (tells_trouble) {
                t->trouble_timer.on_time = look_for_trouble;
                loop_timer_set(t->fleet->loop, &t->trouble_timer, clock_now_ns() + TROUBLE_NS);
        }
}

static void end(struct fleet_transfer *t, int result, const char *reason) {
        struct log_context context = {.tenant = t->tenant};

        t->stage = STAGE_ENDED;
        t->finished = time(NULL);
        t->result = result < 0 ? -ECANCELED : 0;
        t->reason = result < 0 ? strdup(reason && reason[0] ? reason : strerror(-result)) : NULL;
        log_at(LOG_LEVEL_NOTICE, &context, "%s %s%s%s", t->is_import ? "import" : "export",
                result < 0 ? "failed" : "finished", result < 0 ? ": " : "", result < 0 ? t->reason : "");
        answer(t, false, t->result, t->reason ? t->reason : "");
        fleet_settle(t->fleet);
}

/* The thread has gone. The reason is the transfer's until here, and then the caller's. */
static char *drop_thread(struct fleet_transfer *t, const char *reason) {
        char *kept = strdup(reason);

        check(kept);
        transfer_get_status(t->transfer, &t->last);
        transfer_free(steal(t->transfer));
        return kept;
}

/* ---- exports */

static void on_exported(void *userdata, int result, const char *reason) {
        struct fleet_transfer *t = userdata;
        cleanup(freep) char *kept = drop_thread(t, reason);

        end(t, result, kept);
}

/* What there is of the tenant already; true: the request was refused. */
static bool is_under_way(struct fleet *fleet, const char *tenant, fleet_done_fn done, void *userdata) {
        struct fleet_transfer *t = find(fleet, tenant);

        if (t && t->stage != STAGE_ENDED) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s has an %s under way: finish or abort that first",
                        tenant, t->is_import ? "import" : "export");
                return true;
        }
        if (t)
                forget(t);
        return false;
}

static void fill_config(
        struct transfer_config *config, struct fleet_transfer *t, const struct fleet_transfer_request *r) {
        *config = (struct transfer_config){
                .loop = t->fleet->loop,
                .tenant = t->tenant,
                .directory = t->fleet->config.settings->state_dir,
                .prefix = r->prefix,
                .has_new_prefix = r->has_new_prefix,
                .new_prefix = r->new_prefix,
                .userdata = t,
        };
}

static struct transfer_end end_of(const struct fleet_transfer_request *r) {
        return (struct transfer_end){
                .endpoints = r->endpoints,
                .n_endpoints = r->n_endpoints,
                .authorities = r->authorities,
                .certificate = r->certificate,
                .key = r->key,
                .server_name = r->server_name && r->server_name[0] ? r->server_name : NULL,
        };
}

void fleet_export_tenant(
        struct fleet *fleet, const struct fleet_transfer_request *request, fleet_done_fn done, void *userdata) {
        struct assignment *a = fleet_find_tenant_for(fleet, request->name, done, userdata);
        cleanup(freep) char *socket = NULL, *url = NULL;
        cleanup(error_done) struct error err = {};
        struct transfer_end target = end_of(request);
        struct fleet_tenant_view view;
        struct transfer_config config;
        struct fleet_transfer *t;
        int r;

        if (!a || is_under_way(fleet, request->name, done, userdata))
                return;
        if (!a->serving) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s is not served here%s%s", a->name,
                        a->reason ? ": " : "", a->reason ? a->reason : "");
                return;
        }
        assignment_view(a, &view, &socket);
        check(asprintf(&url, "unix://%s", view.socket) > 0);
        t = transfer_entry_new(fleet, a->name, false);
        fill_config(&config, t, request);
        config.source = (struct transfer_end){.endpoints = (const char *const[]){url}, .n_endpoints = 1};
        config.on_done = on_exported;
        r = export_start(&config, &target, request->overwrite, &t->transfer, &err);
        if (r < 0) {
                forget(t);
                fleet_refuse(fleet, done, userdata, r == -EINVAL ? -EINVAL : -EAGAIN, "%s", error_text(&err));
                return;
        }
        t->stage = STAGE_RUNNING;
        if (request->finish)
                transfer_finish(t->transfer);
        fleet_refuse(fleet, done, userdata, 0, "%s", "");
}

/* ---- imports */

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

static void import_request_free(struct import_request *r) {
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
        end(t, result, reason);
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
        cleanup(freep) char *kept = drop_thread(t, reason);

        t->last = carried;
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
        fill_config(&config, t, &request);
        config.source = end_of(&request);
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
        cleanup(freep) char *kept = drop_thread(t, reason);

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
        fill_config(&config, t, &request);
        config.source = end_of(&request);
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

        if (is_under_way(fleet, request->name, done, userdata))
                return;
        store = fleet_place_tenant(fleet, create, done, userdata);
        if (!store)
                return;
        t = transfer_entry_new(fleet, request->name, true);
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

/* ---- what can be asked of both */

static struct fleet_transfer *find_for(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct fleet_transfer *t = find(fleet, name);

        if (!t)
                fleet_refuse(fleet, done, userdata, -ENOENT,
                        "no import or export of tenant %.80s is known to this daemon", name);
        return t;
}

void fleet_wait_for_transfer(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct fleet_transfer *t = find_for(fleet, name, done, userdata);

        if (t && t->stage == STAGE_ENDED)
                fleet_refuse(fleet, done, userdata, t->result, "%s", t->reason ? t->reason : "");
        else if (t)
                wait_for_end(t, false, done, userdata);
}

void fleet_finish_transfer(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct fleet_transfer *t = find_for(fleet, name, done, userdata);

        if (!t)
                return;
        if (t->stage == STAGE_ENDED) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "it has ended already%s%s", t->reason ? ": " : "",
                        t->reason ? t->reason : "");
                return;
        }
        if (t->stage == STAGE_BEGINNING) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "it has only just begun: try again in a moment");
                return;
        }
        if (t->transfer && t->stage == STAGE_RUNNING)
                transfer_finish(t->transfer);
        wait_for_end(t, true, done, userdata);
}

struct aborting {
        fleet_done_fn done;
        void *userdata;
};

/* It has ended as was asked for; or it was too late. */
static void on_aborted(void *userdata, int result, const char *reason) {
        struct aborting *aborting = userdata;

        if (result < 0)
                aborting->done(aborting->userdata, result == -ECANCELED ? 0 : result, reason);
        else
                aborting->done(aborting->userdata, -EBUSY, "it was too late: it has finished");
        free(aborting);
}

void fleet_abort_transfer(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct fleet_transfer *t = find_for(fleet, name, done, userdata);
        struct aborting *aborting;

        if (!t)
                return;
        if (t->stage == STAGE_ENDED) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "it has ended already");
                return;
        }
        aborting = new0(struct aborting);
        aborting->done = done;
        aborting->userdata = userdata;
        wait_for_end(t, false, on_aborted, aborting);
        t->stopped = true;
        if (t->transfer)
                transfer_stop(t->transfer);
}

void transfers_stop(struct fleet *fleet) {
        struct fleet_transfer *t;

        LIST_FOREACH(t, &fleet->transfers, entry) {
                /* What is there and served already stays: nobody asked for it to go. */
                t->stopped = t->stopped || (t->stage != STAGE_SERVING && t->stage != STAGE_COMPARING);
                if (t->transfer)
                        transfer_stop(t->transfer);
        }
}

bool transfers_are_over(const struct fleet *fleet) {
        struct fleet_transfer *t;

        LIST_FOREACH(t, &fleet->transfers, entry)
                if (t->transfer)
                        return false;
        return true;
}

void transfers_done(struct fleet *fleet) {
        struct fleet_transfer *t;

        while ((t = LIST_FIRST(&fleet->transfers))) {
                answer(t, false, -EAGAIN, "the daemon is being stopped");
                forget(t);
        }
}

/* ---- looking */

static void visit_transfer(struct fleet_transfer *t,
        void (*visit)(void *userdata, const struct fleet_transfer_view *view), void *userdata) {
        struct fleet_transfer_view view = {
                .tenant = t->tenant,
                .is_import = t->is_import,
                .ended = t->stage == STAGE_ENDED,
                .status = &t->last,
                .started = t->started,
                .finished = t->finished,
        };

        if (t->transfer && t->stage == STAGE_RUNNING)
                transfer_get_status(t->transfer, &t->last);
        view.reason = t->reason ? t->reason : t->last.trouble;
        switch (t->stage) {
        case STAGE_BEGINNING:
                view.phase = "Beginning";
                break;
        case STAGE_RUNNING:
                view.phase = transfer_phase_name(t->last.phase);
                break;
        case STAGE_SERVING:
        case STAGE_COMPARING:
                view.phase = "Comparing";
                break;
        case STAGE_REMOVING:
                view.phase = "Removing";
                break;
        case STAGE_ENDED:
                view.phase = t->result < 0 ? "Failed" : "Done";
                break;
        }
        visit(userdata, &view);
}

void fleet_each_transfer(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_transfer_view *view), void *userdata) {
        struct fleet_transfer *t;

        LIST_FOREACH(t, &fleet->transfers, entry)
                visit_transfer(t, visit, userdata);
}

bool fleet_find_transfer(struct fleet *fleet, const char *name,
        void (*visit)(void *userdata, const struct fleet_transfer_view *view), void *userdata) {
        struct fleet_transfer *t = find(fleet, name);

        if (t)
                visit_transfer(t, visit, userdata);
        return t;
}
