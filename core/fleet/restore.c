#include "fleet/restore.h"

/*
 * A restore that makes a tenant: its record first, in phase Installing; then the file is taken in; committed, the record is made Ready, and served as any
 * other. Whatever fails before that, or a daemon that dies, leaves a record in that phase, with which installing.c removes what there is.
 */

#include <string.h>

#include "base/log.h"
#include "fleet/intake.h"
#include "fleet/state.h"

#define EARLY_BYTES ((size_t)4 * 1024 * 1024)

struct restore {
        struct installing installing;
        struct fleet *fleet; /* borrowed */
        struct restore_config config;
        char *name;            /* owned */
        struct intake *intake; /* owned; NULL: not yet, or over */
        struct buf early;      /* what came before there was an intake */
        bool early_end, committing, waits_recorded, refused;
        /* Over a tenant. */
        struct assignment *over; /* borrowed; NULL: a new one, or it has ended */
        uint8_t id[16];          /* of the migration */
        bool fed, committed;
        int result;
        char *reason; /* owned */
        struct loop_task end_task;
};

static void finish(struct restore *r) {
        check(!r->intake && !r->installing.assignment && !r->over);
        r->config.done(r->config.userdata, r->result, r->reason ? r->reason : "");
        buf_done(&r->early);
        free(r->reason);
        free(r->name);
        free(r);
}

static void on_end(struct loop_task *task) {
        finish(container_of(task, struct restore, end_task));
}

/* It has failed: nothing of it runs any more. */
static void give_up(struct restore *r, int result, const char *reason) {
        if (r->result != 0)
                return;
        r->result = result < 0 ? result : -EAGAIN;
        r->reason = strdup(reason && reason[0] ? reason : strerror(-r->result));
        check(r->reason);
        if (r->over) { /* the migration is given up, and tells of its end */
                assignment_hurry_soon(r->over);
                return;
        }
        intake_free(steal(r->intake));
        installing_leave(&r->installing, false);
        r->end_task.run = on_end;
        if (!r->waits_recorded && !r->refused)
                loop_defer(r->fleet->loop, &r->end_task);
}

static void on_cancel(struct installing *installing, const char *reason) {
        give_up(container_of(installing, struct restore, installing), -EAGAIN, reason);
}

/* ---- as far as the tenant has come */

static void on_served(void *userdata, int result, const char *reason) {
        struct restore *r = userdata;

        r->result = result;
        r->reason = strdup(reason);
        finish(r);
}

static void on_committed(void *userdata, int result, const char *reason) {
        struct restore *r = userdata;
        struct assignment *a = r->installing.assignment;

        if (r->over && result == 0) {
                r->committed = true;
                assignment_hurry_soon(r->over);
                return;
        }
        if (result != 0) {
                /* What became of it is found out with the abort. */
                give_up(r, result < 0 ? result : -EAGAIN,
                        result > 0 ? "whether it was committed is not known yet; the tenant says what becomes of it"
                                   : reason);
                return;
        }
        intake_free(steal(r->intake));
        installing_leave(&r->installing, true);
        assignment_wait(a, WAIT_SERVED, on_served, r);
}

/* What clients of a tenant of this name may have seen. Known is what is behind by seconds at most; the gap that a tail leaves is far more. */
static int64_t served_before(const struct restore *r) {
        return max_of(r->config.above, known_logs_highest(r->fleet->known, r->name));
}

static void on_fed(void *userdata, int result, const char *reason) {
        struct restore *r = userdata;
        const struct archive_about *about = intake_about(r->intake);
        struct log_context context = {.tenant = r->name};
        int64_t above;

        if (result != 0) {
                give_up(r, result, reason);
                return;
        }
        log_at(LOG_LEVEL_INFO, &context, "restored from a backup of tenant %s, revision %lld", about->tenant,
                (long long)about->revision);
        if (r->over) {
                r->fed = true;
                assignment_hurry_soon(r->over);
                return;
        }
        above = served_before(r);
        if (above > 0)
                log_at(LOG_LEVEL_NOTICE, &context,
                        "clients may have seen revision %lld of a tenant of this name: what was restored goes on above it, and all below counts as compacted",
                        (long long)above);
        r->committing = true;
        intake_commit(r->intake, above);
}

static void on_room(void *userdata) {
        struct restore *r = userdata;

        r->config.on_room(r->config.userdata);
}

static void begin_intake(
        struct restore *r, struct fleet_store *store, const uint8_t incarnation[16], const uint8_t id[16]) {
        struct intake_config config = {
                .loop = r->fleet->loop,
                .name = r->name,
                .on_room = on_room,
                .on_fed = on_fed,
                .on_committed = on_committed,
                .userdata = r,
        };

        config.datastore = store->ds;
        memcpy(config.incarnation, incarnation, 16);
        memcpy(config.id, id, 16);
        check(intake_new(&config, &r->intake) == 0);
        intake_feed(r->intake, bytes_of(r->early.data, r->early.size));
        buf_done(&r->early);
        if (r->early_end)
                intake_end(r->intake);
        else if (!intake_is_full(r->intake))
                r->config.on_room(r->config.userdata);
}

static void begin(struct restore *r, struct assignment *a) {
        struct fleet_store *store = fleet_find_store(r->fleet, a->record->datastore);

        installing_enter(&r->installing, a);
        if (!store || !store->ds || store->leaving) {
                give_up(r, -EAGAIN, "its datastore is being closed");
                return;
        }
        a->store = store;
        begin_intake(r, store, a->record->incarnation, a->record->installation);
}

static void on_recorded(void *userdata, int result, const char *reason) {
        struct restore *r = userdata;
        struct assignment *a = fleet_find_assignment(r->fleet, r->name);

        r->waits_recorded = false;
        if (r->result != 0 && result == 0) { /* cancelled meanwhile */
                finish(r);
                return;
        }
        if (r->result != 0 || result < 0) {
                if (r->result == 0) {
                        r->result = result;
                        r->reason = strdup(reason);
                }
                finish(r);
                return;
        }
        check(a && a->record);
        begin(r, a);
}

/* ---- over a tenant: its steps are those of a migration */

bool restore_is_over(const struct assignment *a) {
        return a->restoring && a->record && a->record->migration &&
                memcmp(a->restoring->id, a->record->migration->id, 16) == 0;
}

static enum restore_progress has_failed(struct assignment *a, const char **ret_reason) {
        if (!restore_is_over(a)) {
                *ret_reason = "it was interrupted";
                return RESTORE_FAILED;
        }
        *ret_reason = a->restoring->reason;
        return a->restoring->result != 0 ? RESTORE_FAILED : RESTORE_GOES_ON;
}

enum restore_progress restore_over_feed(struct assignment *a, struct fleet_store *target, const char **ret_reason) {
        enum restore_progress p = has_failed(a, ret_reason);
        struct restore *r = a->restoring;

        if (p == RESTORE_FAILED)
                return p;
        if (!r->intake)
                begin_intake(r, target, a->record->migration->incarnation, r->id);
        return r->fed ? RESTORE_DONE : RESTORE_GOES_ON;
}

enum restore_progress restore_over_commit(
        struct assignment *a, const struct mover_figures *sealed, const char **ret_reason) {
        enum restore_progress p = has_failed(a, ret_reason);
        struct restore *r = a->restoring;
        int64_t above;

        if (p == RESTORE_FAILED)
                return p;
        if (!r->committing) {
                above = max_of(sealed->sealed_revision, a->record->recover_above);
                r->committing = true;
                intake_commit(r->intake, max_of(above, served_before(r)));
        }
        return r->committed ? RESTORE_DONE : RESTORE_GOES_ON;
}

static void leave_over(struct restore *r) {
        intake_free(steal(r->intake));
        if (r->over)
                r->over->restoring = NULL;
        r->over = NULL;
}

void restore_over_end(struct assignment *a) {
        struct restore *r = a->restoring;

        if (!r)
                return;
        intake_free(steal(r->intake));
        if (r->result == 0) {
                r->result = -EAGAIN;
                r->reason = strdup(a->record->migration->reason);
                check(r->reason);
        }
}

/* The migration has ended, one way or the other. */
static void on_over(void *userdata, int result, const char *reason) {
        struct restore *r = userdata;

        leave_over(r);
        if (r->result == 0 && result != 0) {
                r->result = result;
                r->reason = strdup(reason);
        }
        finish(r);
}

/* ---- what is asked for */

static void on_refused(void *userdata, int result, const char *reason) {
        struct restore *r = userdata;

        if (r->result == 0) {
                r->result = result;
                r->reason = strdup(reason);
        }
        finish(r);
}

struct restore *fleet_restore_tenant(struct fleet *fleet, const struct restore_config *config) {
        struct restore *r = new0(struct restore);
        struct fleet_store *store;
        struct assignment *a;

        r->fleet = fleet;
        r->config = *config;
        r->name = strdup(config->create.name);
        check(r->name);
        r->installing.cancel = on_cancel;
        buf_init(&r->early, EARLY_BYTES);
        if (config->over) {
                a = migration_restore(fleet, r->name, r->id, on_over, r);
                if (a) {
                        r->over = a;
                        a->restoring = r;
                        assignment_hurry(a);
                }
                r->refused = !a;
                return r;
        }
        r->refused = true;
        store = fleet_place_tenant(fleet, &config->create, on_refused, r);
        if (!store)
                return r;
        r->refused = false;
        a = fleet_assign_installing(fleet, &config->create, store);
        r->waits_recorded = true;
        assignment_wait(a, WAIT_RECORDED, on_recorded, r);
        assignment_step(a);
        return r;
}

void restore_feed(struct restore *r, struct bytes data) {
        if (r->intake)
                intake_feed(r->intake, data);
        else if (r->result == 0 && !r->refused && buf_append(&r->early, data.data, data.size) < 0)
                give_up(r, -EINVAL, "more came than was asked for");
}

bool restore_is_full(const struct restore *r) {
        return r->result == 0 && (r->intake ? intake_is_full(r->intake) : !r->refused);
}

void restore_end(struct restore *r) {
        r->early_end = true;
        if (r->intake)
                intake_end(r->intake);
}

void restore_cancel(struct restore *r) {
        if (!r->committing)
                give_up(r, -ECANCELED, "nobody brought the rest of it");
}

uint64_t restore_taken(const struct restore *r) {
        return r->intake ? intake_taken(r->intake) : 0;
}
