#include "fleet/state.h"

/*
 * What has a tenant move: an operator who asks, a definition that names another datastore. Looked at here, answered at once where it cannot be, and
 * left as a wish that becomes the tenant's next record. Main loop only.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fleet/migration_state.h"
#include "fleet/point.h"
#include "fleet/registry_migration.h"

#define WANT_AGAIN_NS (5 * NSEC_PER_SEC)

/* ---- whether it can be */

/* Owned; NULL: it can. What can be known without asking a datastore. */
static char *refusal(const struct assignment *a, const char *datastore, bool stays, int *ret_code) {
        const struct registry_record *record = assignment_record(a);
        struct fleet *fleet = a->fleet;
        struct fleet_store *store = fleet_find_store(fleet, datastore);
        char *text = NULL;

        *ret_code = -EBUSY;
        if (!stays && strcmp(record->datastore, datastore) == 0)
                check(asprintf(&text, "tenant %s is on datastore %s already", a->name, datastore) > 0);
        else if (!store || !store->wanted) {
                *ret_code = -ENOENT;
                check(asprintf(&text, "no such datastore: %.253s", datastore) > 0);
        } else if (record->phase != REGISTRY_READY || a->want_delete)
                check(asprintf(&text, "tenant %s is %s: only one that is Ready can be moved", a->name,
                              a->want_delete ? "being deleted" : registry_phase_name(record->phase)) > 0);
        else if (a->wanted.quarantined)
                check(asprintf(&text, "tenant %s is quarantined: stokectl tenant resume %s ends that", a->name,
                              a->name) > 0);
        else if (assignment_is_elsewhere(a))
                check(asprintf(&text, "the data of tenant %s is on host %s, whose daemon alone can move it", a->name,
                              record->host_name) > 0);
        else if (!a->serving && !a->busy)
                check(asprintf(&text, "tenant %s is not served here: %s", a->name,
                              a->reason ? a->reason : "its datastore is not ready") > 0);
        else if (store->validation.status != FLEET_TRUE || store->leaving || !store->ds)
                check(asprintf(&text, "datastore %s is not ready: %s", datastore,
                              store->leaving ? "it is being closed" : store->validation.message) > 0);
        else if (governance_refusal(store))
                check(asprintf(&text, "datastore %s: %s", datastore, governance_refusal(store)) > 0);
        else if (fleet->shared_registry && !members_is_entered(fleet->members))
                check(asprintf(&text, "this daemon is not known to the others yet: try again in a moment") > 0);
        return text;
}

static struct registry_migration *wish(
        const struct assignment *a, const char *datastore, const uint8_t incarnation[16], int64_t retention) {
        struct registry_migration *m = new0(struct registry_migration);
        struct fleet_store *store = fleet_find_store(a->fleet, datastore);
        bool local = store && store->ds && !store_is_shared(store);

        m->phase = MIGRATION_PREPARING;
        uuid_make(m->id);
        if (incarnation)
                memcpy(m->incarnation, incarnation, 16);
        else
                uuid_make(m->incarnation);
        memcpy(m->owner, a->fleet->config.daemon, 16);
        m->datastore = strdup(datastore);
        m->host = strdup(local ? a->fleet->host.id : "");
        m->host_name = strdup(local ? a->fleet->host.name : "");
        m->reason = strdup("");
        check(m->datastore && m->host && m->host_name && m->reason);
        m->started = time(NULL);
        m->retention = retention;
        return m;
}

static int64_t default_retention(const struct fleet *fleet) {
        return (int64_t)(fleet->config.settings->migration.retention_ns / NSEC_PER_SEC);
}

/* ---- waiting */

static void wait_for(struct assignment *a, const uint8_t id[16], fleet_done_fn done, void *userdata) {
        struct move_waiter *waiter = new0(struct move_waiter);

        memcpy(waiter->id, id, 16);
        waiter->done = done;
        waiter->userdata = userdata;
        TAILQ_INSERT_TAIL(&a->move_waiters, waiter, entry);
}

static bool is_under_way(const struct assignment *a, const uint8_t id[16]) {
        const struct registry_record *record = assignment_record(a);

        if (a->want_move && memcmp(a->want_move->id, id, 16) == 0)
                return true;
        return record && record->migration && memcmp(record->migration->id, id, 16) == 0;
}

/* It is where the record says, as far as this daemon has to do with it, and what it took is written down. */
static bool has_arrived(const struct assignment *a) {
        return !a->former && (!a->serving || memcmp(a->served, a->record->incarnation, 16) == 0) &&
                (!a->switched_hold_ns || a->record->moved->hold_us);
}

void migration_answer(struct assignment *a) {
        struct move_waiter *waiter, *following;
        const struct registry_moved *moved = a->record ? a->record->moved : NULL;

        for (waiter = TAILQ_FIRST(&a->move_waiters); waiter; waiter = following) {
                fleet_done_fn done = waiter->done;
                void *userdata = waiter->userdata;
                bool known = moved && memcmp(moved->id, waiter->id, 16) == 0;

                following = TAILQ_NEXT(waiter, entry);
                if (!a->gone && a->record && is_under_way(a, waiter->id))
                        continue;
                if (known && !a->gone && !moved->reason[0] && !has_arrived(a))
                        continue;
                TAILQ_REMOVE(&a->move_waiters, waiter, entry);
                if (a->gone || !a->record)
                        done(userdata, -ENOENT, "the tenant was deleted meanwhile");
                else if (!known)
                        done(userdata, -EAGAIN, "another daemon has changed the tenant: ask again");
                else
                        done(userdata, moved->reason[0] ? -ECANCELED : 0, moved->reason);
                free(waiter);
        }
}

void migration_answer_failed(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        struct move_waiter *waiter, *following;
        cleanup(freep) char *text = NULL;

        check(asprintf(&text, "%s; what was copied is removed when that can be", m->reason) > 0);
        for (waiter = TAILQ_FIRST(&a->move_waiters); waiter; waiter = following) {
                following = TAILQ_NEXT(waiter, entry);
                if (memcmp(waiter->id, m->id, 16) != 0)
                        continue;
                TAILQ_REMOVE(&a->move_waiters, waiter, entry);
                waiter->done(waiter->userdata, -ECANCELED, text);
                free(waiter);
        }
}

/* ---- asking */

/* A file that says where it belongs is where to change that. */
static bool is_declared_there(struct fleet *fleet, const struct assignment *a, const char *datastore) {
        const struct tenant_definition *d = definitions_find_tenant(fleet->definitions, a->name);

        return d && d->datastore && strcmp(d->datastore, datastore) != 0;
}

void fleet_migrate_tenant(
        struct fleet *fleet, const struct fleet_migrate *migrate, fleet_done_fn done, void *userdata) {
        struct assignment *a = fleet_find_tenant_for(fleet, migrate->name, done, userdata);
        const struct registry_migration *m;
        cleanup(freep) char *text = NULL;
        int code;

        if (!a)
                return;
        m = a->want_move ? a->want_move : assignment_record(a)->migration;
        if (m && (m->back || m->phase == MIGRATION_ABORTING || strcmp(m->datastore, migrate->datastore) != 0)) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s is being moved to datastore %s%s", a->name,
                        m->datastore, m->phase == MIGRATION_ABORTING ? ", which was given up and is being undone" : "");
                return;
        }
        if (m) { /* the same: joins it */
                if (migrate->wait)
                        wait_for(a, m->id, done, userdata);
                else
                        fleet_refuse(fleet, done, userdata, 0, "%s", "");
                return;
        }
        if (is_declared_there(fleet, a, migrate->datastore)) {
                fleet_refuse(fleet, done, userdata, -EBUSY,
                        "tenant %s is declared on another datastore in %s: change it there", a->name,
                        assignment_record(a)->source);
                return;
        }
        text = refusal(a, migrate->datastore, false, &code);
        if (text) {
                fleet_refuse(fleet, done, userdata, code, "%s", text);
                return;
        }
        a->want_move = wish(a, migrate->datastore, NULL,
                migrate->retention_s >= 0 ? migrate->retention_s : default_retention(fleet));
        if (migrate->wait)
                wait_for(a, a->want_move->id, done, userdata);
        else
                assignment_wait(a, WAIT_RECORDED, done, userdata);
        assignment_hurry(a);
}

void fleet_undo_migration(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct assignment *a = fleet_find_tenant_for(fleet, name, done, userdata);
        const struct registry_previous *p;
        cleanup(freep) char *text = NULL;
        int code;

        if (!a)
                return;
        p = assignment_record(a)->previous;
        if (a->want_move || assignment_record(a)->migration) {
                fleet_refuse(fleet, done, userdata, -EBUSY,
                        "tenant %s is being moved now; stokectl migration abort %s gives that up", name, name);
                return;
        }
        if (p && p->restored) {
                fleet_refuse(fleet, done, userdata, -EBUSY,
                        "what tenant %s was before was replaced by a restore, and its clients have seen that: nothing goes back",
                        name);
                return;
        }
        if (!p || p->back) {
                fleet_refuse(fleet, done, userdata, -EBUSY,
                        "there is nothing to go back to: what tenant %s was before is dropped, or it was never moved",
                        name);
                return;
        }
        if (is_declared_there(fleet, a, p->datastore)) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s is declared where it is in %s: change it there",
                        name, assignment_record(a)->source);
                return;
        }
        if (p->host[0] && strcmp(p->host, fleet->host.id) != 0) {
                fleet_refuse(fleet, done, userdata, -EBUSY,
                        "what tenant %s was before is on host %s, whose daemon alone can go back to it", name,
                        p->host_name);
                return;
        }
        text = refusal(a, p->datastore, false, &code);
        if (text) {
                fleet_refuse(fleet, done, userdata, code, "%s", text);
                return;
        }
        a->want_move = wish(a, p->datastore, p->incarnation, 0);
        a->want_move->back = true;
        wait_for(a, a->want_move->id, done, userdata);
        assignment_hurry(a);
}

struct assignment *migration_restore(
        struct fleet *fleet, const char *name, uint8_t ret_id[16], fleet_done_fn done, void *userdata) {
        struct assignment *a = fleet_find_tenant_for(fleet, name, done, userdata);
        cleanup(freep) char *text = NULL;
        const char *datastore;
        int code;

        if (!a)
                return NULL;
        if (a->want_move || assignment_record(a)->migration) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s is being moved, or restored, already", name);
                return NULL;
        }
        datastore = assignment_record(a)->datastore;
        text = refusal(a, datastore, true, &code);
        if (text) {
                fleet_refuse(fleet, done, userdata, code, "%s", text);
                return NULL;
        }
        a->want_move = wish(a, datastore, NULL, default_retention(fleet));
        a->want_move->restore = true;
        memcpy(ret_id, a->want_move->id, 16);
        wait_for(a, a->want_move->id, done, userdata);
        return a;
}

struct aborting {
        fleet_done_fn done;
        void *userdata;
        struct fleet *fleet;
        char *name;
};

/* One that is given up has ended as was asked for; one that was done nevertheless has not. */
static void on_aborted(void *userdata, int result, const char *reason) {
        struct aborting *aborting = userdata;

        if (result == -ECANCELED)
                aborting->done(aborting->userdata, 0, "");
        else if (result == 0)
                aborting->done(aborting->userdata, -EBUSY, "it was too late: the tenant has moved");
        else
                aborting->done(aborting->userdata, result, reason);
        free(aborting->name);
        free(aborting);
}

void fleet_abort_migration(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct assignment *a = fleet_find_tenant_for(fleet, name, done, userdata);
        const struct registry_migration *m;
        struct aborting *aborting;

        if (!a)
                return;
        m = assignment_record(a)->migration;
        if (!m) {
                fleet_refuse(fleet, done, userdata, -EBUSY, "tenant %s is not being moved%s", name,
                        assignment_record(a)->previous ? "; what was moved is undone by stokectl migration undo" : "");
                return;
        }
        aborting = new0(struct aborting);
        aborting->done = done;
        aborting->userdata = userdata;
        a->want_abort = m->phase != MIGRATION_ABORTING;
        wait_for(a, m->id, on_aborted, aborting);
        assignment_hurry(a);
}

/* ---- wishes */

void migration_want(struct assignment *a, const char *datastore) {
        free(a->want_datastore);
        a->want_datastore = datastore ? strdup(datastore) : NULL;
        check(!datastore || a->want_datastore);
}

static void on_want_time(struct loop_timer *timer) {
        assignment_step(container_of(timer, struct assignment, want_timer));
}

/* What its definition says; once for each time that definitions are applied, so that a move that failed is not begun again and again. */
static void take_definition(struct assignment *a) {
        struct log_context context = {.tenant = a->name};
        cleanup(freep) char *text = NULL;
        int code;

        if (strcmp(a->want_datastore, a->record->datastore) == 0) {
                migration_want(a, NULL);
                free(steal(a->want_reason));
                return;
        }
        text = refusal(a, a->want_datastore, false, &code);
        if (!text) {
                log_at(LOG_LEVEL_NOTICE, &context, "its definition says datastore %s: it is moved there",
                        a->want_datastore);
                a->want_move = wish(a, a->want_datastore, NULL, default_retention(a->fleet));
                migration_want(a, NULL);
                free(steal(a->want_reason));
                return;
        }
        if (!a->want_reason || strcmp(a->want_reason, text) != 0)
                log_at(LOG_LEVEL_WARNING, &context, "cannot be moved to datastore %s yet: %s", a->want_datastore, text);
        free(a->want_reason);
        a->want_reason = steal(text);
        a->want_timer.on_time = on_want_time;
        loop_timer_set(a->fleet->loop, &a->want_timer, clock_now_ns() + WANT_AGAIN_NS);
}

void migration_take_wishes(struct assignment *a) {
        struct registry_migration *m = a->record->migration;

        if (a->want_abort) {
                /* Wished for until it is recorded: another daemon's step may come first. */
                if (m && m->phase != MIGRATION_ABORTING) {
                        a->next = registry_record_copy(a->record);
                        migration_spoil(a->next, "aborted by request");
                        point("abort");
                        return;
                }
                a->want_abort = false;
        }
        if (a->record->phase != REGISTRY_READY) {
                registry_migration_free(steal(a->want_move));
                return;
        }
        if (m && a->want_datastore && strcmp(a->want_datastore, m->datastore) == 0)
                migration_want(a, NULL);
        if (!m && !a->want_move && a->want_datastore && a->serving && !a->want_timer.position)
                take_definition(a);
        if (!a->want_move)
                return;
        if (!m) {
                a->next = registry_record_copy(a->record);
                a->next->migration = steal(a->want_move);
        } else
                registry_migration_free(steal(a->want_move)); /* another daemon was first */
}

void migration_forget(struct assignment *a) {
        struct move_waiter *waiter;

        migration_free(a);
        loop_timer_clear(&a->move_timer);
        loop_timer_clear(&a->want_timer);
        registry_migration_free(steal(a->want_move));
        free(steal(a->want_datastore));
        free(steal(a->want_reason));
        while ((waiter = TAILQ_FIRST(&a->move_waiters))) {
                TAILQ_REMOVE(&a->move_waiters, waiter, entry);
                if (a->gone)
                        waiter->done(waiter->userdata, -ENOENT, "the tenant was deleted meanwhile");
                else
                        waiter->done(waiter->userdata, -EAGAIN, "the daemon is being stopped");
                free(waiter);
        }
}
