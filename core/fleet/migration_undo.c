#include "fleet/state.h"

/*
 * What is left of migrations, and how it goes: one that does not come to pass (the seal is lifted first, since the registry has decided; then
 * the installation is removed), the former datastore's copy when its time is over, all of it when the tenant is deleted. Each is a job that may be
 * repeated. Main loop, but for the jobs.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fleet/migration_state.h"
#include "fleet/point.h"
#include "fleet/registry_migration.h"
#include "keyspace/record.h"

#define JOB_TIMEOUT_NS (30 * NSEC_PER_SEC)
#define OTHERS_S 60 /* others drop it so much later, if the first has not */

/* ---- jobs */

static int visit(void *userdata, const struct stoke_record *record) {
        struct migration *mine = userdata;

        switch (record->kind) {
        case RECORD_INSTALLED:
                mine->installed = record->key_size == 16;
                if (mine->installed)
                        memcpy(mine->installation, record->key, 16);
                mine->dirty = false;
                break;
        case RECORD_NOOP:
        case RECORD_KEEPALIVE:
        case RECORD_SEAL:
        case RECORD_UNSEAL:
        case RECORD_PIN:
                break;
        default:
                mine->dirty = true;
        }
        return 0;
}

/* What was written behind the last installation. Who serves an exclusive log has it acquired already. */
static int look(struct migration *mine, const struct stoke_driver *driver, struct stoke_session *session,
        struct stoke_call *call) {
        bool exclusive = driver->capabilities & STOKE_EXCLUSIVE, acquired = false;
        struct stoke_end end;
        int r;

        mine->installed = mine->dirty = false;
        if (exclusive) {
                r = driver->acquire(session, &mine->keyspace, call);
                if (r != 0 && r != STOKE_BUSY)
                        return r;
                acquired = r == 0;
        }
        r = driver->load(session, &mine->keyspace, &(struct stoke_end){}, false, call, visit, mine, &end);
        if (acquired)
                driver->release(session, &mine->keyspace);
        return r;
}

static int run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct migration *mine = container_of(job, struct migration, job);
        const struct stoke_driver *driver = datastore_driver(job->ds);

        switch (mine->job_what) {
        case MIGRATION_JOB_ABORT:
                return driver->install_abort(session, &mine->keyspace, mine->job_id, call);
        case MIGRATION_JOB_DROP:
                return driver->drop(session, &mine->keyspace, call);
        case MIGRATION_JOB_LOOK:
                return look(mine, driver, session, call);
        }
        return -EINVAL;
}

static void on_done(struct datastore_job *job) {
        struct migration *mine = container_of(job, struct migration, job);
        struct assignment *a = mine->assignment;
        const char *reason = job->reason[0] ? job->reason
                : job->result < 0           ? strerror(-job->result)
                                            : "an outcome that was not expected";

        mine->job_running = false;
        if (!mine->mover)
                mine->store = NULL;
        fleet_settle(a->fleet);
        /* What it was for may be no more. */
        if (a->busy || a->next || a->gone || !fleet_is_running(a->fleet) || !mine->after(a, job->result, reason))
                assignment_step(a);
}

void migration_job(struct assignment *a, int what, const char *datastore, const uint8_t incarnation[16],
        migration_after_fn after) {
        struct fleet_store *store = fleet_find_store(a->fleet, datastore);
        struct migration *mine = a->migration;
        cleanup(freep) char *text = NULL;

        if (!store || !store->ds || store->leaving || governance_refusal(store)) {
                check(asprintf(&text, "%s",
                              !store                              ? "it is not defined any more"
                                      : store->leaving            ? "it is being closed"
                                      : store->ds                 ? governance_refusal(store)
                                      : store->validation.message ? store->validation.message
                                                                  : "it is not open") > 0);
                (void)after(a, -EAGAIN, text);
                return;
        }
        mine->job_what = what;
        mine->after = after;
        mine->job_running = true;
        if (!mine->mover)
                mine->store = store;
        mine->keyspace = (struct stoke_keyspace){.name = a->name};
        memcpy(mine->keyspace.incarnation, incarnation, 16);
        if (a->record->migration)
                memcpy(mine->job_id, a->record->migration->id, 16);
        mine->job = (struct datastore_job){
                .class = JOB_BULK,
                .own_scope = what != MIGRATION_JOB_LOOK,
                .keyspace = &mine->keyspace,
                .deadline_ns = clock_now_ns() + JOB_TIMEOUT_NS,
                .owner = a->owner,
                .loop = a->fleet->loop,
                .run = run,
                .done = on_done,
        };
        datastore_submit(store->ds, &mine->job);
}

/* Tries again in a while, and says why, without a word against the tenant, which is served. */
static bool later(struct assignment *a, const char *what, const char *reason) {
        cleanup(freep) char *text = NULL;

        check(asprintf(&text, "%s: %s", what, reason) > 0);
        assignment_fail(a, text);
        return true;
}

/* ---- a migration that does not come to pass */

static bool after_target_dropped(struct assignment *a, int result, const char *reason) {
        cleanup(freep) char *what = NULL;

        if (result == 0) {
                a->migration->removed = true;
                return false;
        }
        check(asprintf(&what, "what was moved to datastore %s and is not used could not be removed yet",
                      a->record->migration ? a->record->migration->datastore : "?") > 0);
        /* The tenant goes on where it was: nobody need wait for the rest. */
        if (a->record->migration)
                migration_answer_failed(a);
        return later(a, what, reason);
}

static bool after_target_looked(struct assignment *a, int result, const char *reason) {
        struct migration *mine = a->migration;
        const struct registry_migration *m = a->record->migration;

        if (!m || result == STOKE_MISSING || result == STOKE_COMPACTED) {
                mine->removed = true; /* it was aborted, or dropped before */
                return false;
        }
        if (result != 0)
                return after_target_dropped(a, result, reason);
        if (mine->dirty)
                return after_target_dropped(a, -EUCLEAN,
                        "something was written there since: the registry must have lost its history; it is left as it is");
        migration_job(a, MIGRATION_JOB_DROP, m->datastore, m->incarnation, after_target_dropped);
        return true;
}

static bool after_target_aborted(struct assignment *a, int result, const char *reason) {
        const struct registry_migration *m = a->record->migration;

        if (!m || result == 0) {
                a->migration->removed = true;
                return false;
        }
        if (result != STOKE_ENDED)
                return after_target_dropped(a, result, reason);
        migration_job(a, MIGRATION_JOB_LOOK, m->datastore, m->incarnation, after_target_looked);
        return true;
}

/* False: it is not this host's. */
static bool remove_target(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        struct migration *mine = a->migration;

        if (m->back || mine->removed) {
                mine->removed = true;
                return true;
        }
        if (m->host[0] && a->fleet->shared_registry && strcmp(m->host, a->fleet->host.id) != 0)
                return false;
        migration_job(a, MIGRATION_JOB_ABORT, m->datastore, m->incarnation, after_target_aborted);
        return true;
}

void migration_step_aborting(struct assignment *a) {
        struct migration *mine = a->migration;
        const struct registry_migration *m = a->record->migration;
        struct registry_record *next;

        if (mine->mover) {
                (void)migration_is_still(a);
                return;
        }
        if (!mine->unsealed) {
                point("unseal");
                migration_unseal(a, m->id);
                return;
        }
        if (!mine->removed) {
                (void)remove_target(a);
                if (!mine->removed)
                        return;
        }
        point("cleared");
        next = registry_record_copy(a->record);
        migration_ended(a, next, m->reason[0] ? m->reason : "it was aborted");
        migration_count("failed", &mine->figures, 0);
        a->next = next;
        assignment_write(a);
}

/* ---- the former datastore */

static void forget_former(struct assignment *a) {
        struct log_context context = {.tenant = a->name};

        log_at(LOG_LEVEL_INFO, &context, "its former data in datastore %s is dropped", a->record->previous->datastore);
        a->next = registry_record_copy(a->record);
        registry_previous_free(steal(a->next->previous));
        assignment_write(a);
}

static bool after_former_dropped(struct assignment *a, int result, const char *reason) {
        cleanup(freep) char *what = NULL;

        if (!a->record->previous || a->record->migration)
                return false;
        if (result == 0) {
                forget_former(a);
                return true;
        }
        check(asprintf(&what, "its former data in datastore %s could not be dropped yet",
                      a->record->previous->datastore) > 0);
        return later(a, what, reason);
}

static void on_move_time(struct loop_timer *timer) {
        assignment_step(container_of(timer, struct assignment, move_timer));
}

/* How long it stays, for this daemon. */
static int64_t former_until(const struct assignment *a) {
        const struct registry_previous *p = a->record->previous;
        bool first = !a->fleet->shared_registry || p->host[0] || members_is_first(a->fleet->members);

        return p->until + (first ? 0 : OTHERS_S);
}

/* For how long clients had to wait is known only now. */
static void note_hold(struct assignment *a) {
        a->next = registry_record_copy(a->record);
        a->next->moved->hold_us = (int64_t)max_of(a->switched_hold_ns / NSEC_PER_USEC, UINT64_C(1));
        a->switched_hold_ns = 0;
        assignment_write(a);
}

void migration_step_former(struct assignment *a) {
        const struct registry_previous *p = a->record->previous;
        int64_t now = time(NULL), until;

        loop_timer_clear(&a->move_timer);
        if (a->switched_hold_ns && a->record->moved) {
                note_hold(a);
                return;
        }
        if (!p || (p->host[0] && a->fleet->shared_registry && strcmp(p->host, a->fleet->host.id) != 0))
                return;
        if (a->migration && a->migration->job_running)
                return;
        until = former_until(a);
        if (until > now) {
                a->move_timer.on_time = on_move_time;
                loop_timer_set(a->fleet->loop, &a->move_timer,
                        clock_now_ns() + min_of((uint64_t)(until - now), (uint64_t)86400) * NSEC_PER_SEC);
                return;
        }
        point("former");
        migration_get(a, p->migration);
        migration_job(a, MIGRATION_JOB_DROP, p->datastore, p->incarnation, after_former_dropped);
}

/* ---- a tenant that is deleted */

static bool after_deleted_former(struct assignment *a, int result, const char *reason) {
        const struct registry_previous *p = a->record->previous;
        cleanup(freep) char *what = NULL;

        if (result == 0 || !p) {
                if (p) {
                        a->next = registry_record_copy(a->record);
                        registry_previous_free(steal(a->next->previous));
                        assignment_write(a);
                        return true;
                }
                return false;
        }
        check(asprintf(&what, "its former data in datastore %s could not be dropped", p->datastore) > 0);
        return later(a, what, reason);
}

static bool after_deleted_target(struct assignment *a) {
        a->next = registry_record_copy(a->record);
        registry_migration_free(steal(a->next->migration));
        assignment_write(a);
        return false;
}

bool migration_remove_all(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        const struct registry_previous *p = a->record->previous;

        if (!migration_is_still(a))
                return false;
        if (a->record->retain)
                return true; /* the way out where a datastore cannot be reached; what was moved stays too */
        if (m) {
                migration_get(a, m->id);
                if (a->migration->removed)
                        return after_deleted_target(a);
                (void)remove_target(a);
                if (a->migration->removed)
                        return after_deleted_target(a);
                return false;
        }
        if (p && p->host[0] && a->fleet->shared_registry && strcmp(p->host, a->fleet->host.id) != 0)
                return false; /* that host's daemon does it */
        if (p) {
                migration_get(a, p->migration);
                migration_job(a, MIGRATION_JOB_DROP, p->datastore, p->incarnation, after_deleted_former);
                return false;
        }
        return true;
}
