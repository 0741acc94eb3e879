#include "fleet/transfers.h"

/*
 * Which transfers there are, and what can be asked of them. Main loop only; the work is done by a thread for each
 * (transfer.c). What an import does to its tenant is transfers_import.c's.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fleet/transfers_state.h"

static struct fleet_transfer *find(struct fleet *fleet, const char *tenant) {
        struct fleet_transfer *t;

        LIST_FOREACH(t, &fleet->transfers, entry)
                if (strcmp(t->tenant, tenant) == 0)
                        return t;
        return NULL;
}

void transfers_forget(struct fleet_transfer *t) {
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
        if (status.trouble[0] && t->stage == STAGE_RUNNING)
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

void transfers_end(struct fleet_transfer *t, int result, const char *reason) {
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

char *transfers_drop_thread(struct fleet_transfer *t, const char *reason) {
        char *kept = strdup(reason);

        check(kept);
        transfer_get_status(t->transfer, &t->last);
        transfer_free(steal(t->transfer));
        return kept;
}

/* ---- exports */

static void on_exported(void *userdata, int result, const char *reason) {
        struct fleet_transfer *t = userdata;
        cleanup(freep) char *kept = transfers_drop_thread(t, reason);

        transfers_end(t, result, kept);
}

struct fleet_transfer *transfers_enter(
        struct fleet *fleet, const char *tenant, bool is_import, fleet_done_fn done, void *userdata) {
        struct fleet_transfer *t = find(fleet, tenant);

        if (t && t->stage != STAGE_ENDED) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s has an %s under way: finish or abort that first",
                        tenant, t->is_import ? "import" : "export");
                return NULL;
        }
        if (t)
                transfers_forget(t);
        t = new0(struct fleet_transfer);
        t->fleet = fleet;
        t->tenant = strdup(tenant);
        check(t->tenant);
        t->is_import = is_import;
        t->started = time(NULL);
        STAILQ_INIT(&t->endings);
        LIST_INSERT_HEAD(&fleet->transfers, t, entry);
        return t;
}

void transfers_fill_config(
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

struct transfer_end transfers_end_of(const struct fleet_transfer_request *r) {
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
        struct transfer_end target = transfers_end_of(request);
        struct fleet_tenant_view view;
        struct transfer_config config;
        struct fleet_transfer *t;
        int r;

        if (!a)
                return;
        if (!a->serving) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s is not served here%s%s", a->name,
                        a->reason ? ": " : "", a->reason ? a->reason : "");
                return;
        }
        assignment_view(a, &view, &socket);
        check(asprintf(&url, "unix://%s", view.socket) > 0);
        t = transfers_enter(fleet, a->name, false, done, userdata);
        if (!t)
                return;
        transfers_fill_config(&config, t, request);
        config.source = (struct transfer_end){.endpoints = (const char *const[]){url}, .n_endpoints = 1};
        config.on_done = on_exported;
        r = export_start(&config, &target, request->overwrite, &t->transfer, &err);
        if (r < 0) {
                transfers_forget(t);
                fleet_refuse(fleet, done, userdata, r == -EINVAL ? -EINVAL : -EAGAIN, "%s", error_text(&err));
                return;
        }
        t->stage = STAGE_RUNNING;
        if (request->finish)
                transfer_finish(t->transfer);
        fleet_refuse(fleet, done, userdata, 0, "%s", "");
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
                transfers_forget(t);
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
