#include "fleet/migration.h"

/*
 * The steps of a migration, each chosen from what the record says and from what the mover has come to. Nothing here waits: whatever ends calls
 * assignment_step(), which comes here again. Main loop only.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/owner.h"
#include "fleet/migration_state.h"
#include "fleet/point.h"
#include "fleet/registry_migration.h"
#include "fleet/restore.h"
#include "fleet/state.h"

/* Daemons that share a registry hear of the switch one after the other, mostly within a second, and serve from the former datastore until they
 * do. To whom it is gone before, the tenant is: its calls fail, and its watches end. So it stays for so long at least, which is enough for a daemon
 * whose watch of the registry has to be made anew. */
#define LEAST_STAY_S INT64_C(15)

void (*fleet_point)(const char *name);

/* ---- the record */

bool migration_is_mine(const struct assignment *a) {
        const struct registry_migration *m = a->record ? a->record->migration : NULL;

        return m && memcmp(m->owner, a->fleet->config.daemon, 16) == 0;
}

struct registry_migration *migration_change(struct assignment *a, enum migration_phase phase) {
        a->next = registry_record_copy(a->record);
        a->next->migration->phase = phase;
        return a->next->migration;
}

void migration_spoil(struct registry_record *next, const char *reason) {
        struct registry_migration *m = next->migration;

        if (!m || m->phase == MIGRATION_ABORTING)
                return;
        m->phase = MIGRATION_ABORTING;
        free(m->reason);
        m->reason = strdup(reason);
        check(m->reason);
}

void migration_abort(struct assignment *a, const char *reason) {
        struct log_context context = {.tenant = a->name};

        log_at(LOG_LEVEL_WARNING, &context, "the move to datastore %s is given up: %s", a->record->migration->datastore,
                reason);
        a->next = registry_record_copy(a->record);
        migration_spoil(a->next, reason);
        point("abort");
        assignment_write(a);
}

/* Of what has ended, for people. */
void migration_ended(struct assignment *a, struct registry_record *next, const char *reason) {
        const struct registry_migration *m = a->record->migration;
        const struct mover_figures *f = a->migration ? &a->migration->figures : NULL;
        struct registry_moved *moved = new0(struct registry_moved);

        memcpy(moved->id, m->id, 16);
        moved->from = strdup(a->record->datastore);
        moved->to = strdup(m->datastore);
        moved->reason = strdup(reason);
        check(moved->from && moved->to && moved->reason);
        moved->started = m->started;
        moved->finished = time(NULL);
        if (f) {
                moved->bytes = (int64_t)f->bytes;
                moved->records = (int64_t)f->n_records;
        }
        registry_moved_free(next->moved);
        next->moved = moved;
        registry_migration_free(next->migration);
        next->migration = NULL;
}

/* The switch: this write, and nothing else. */
static void write_switch(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        struct registry_record *next = registry_record_copy(a->record);
        struct registry_previous *previous = new0(struct registry_previous);
        int64_t stays = m->retention;

        previous->datastore = steal(next->datastore);
        previous->host = steal(next->host);
        previous->host_name = steal(next->host_name);
        memcpy(previous->incarnation, next->incarnation, 16);
        memcpy(previous->migration, m->id, 16);
        previous->back = m->back;
        previous->restored = m->restore;
        if (a->fleet->shared_registry && !previous->host[0])
                stays = max_of(stays, LEAST_STAY_S);
        previous->until = time(NULL) + stays;
        registry_previous_free(next->previous);
        next->previous = previous;
        next->datastore = strdup(m->datastore);
        next->host = strdup(m->host);
        next->host_name = strdup(m->host_name);
        check(next->datastore && next->host && next->host_name);
        memcpy(next->incarnation, m->incarnation, 16);
        migration_ended(a, next, "");
        a->next = next;
        point("switch");
        assignment_write(a);
}

/* ---- the mover */

static void on_mover(void *userdata) {
        struct migration *mine = userdata;

        mover_get(mine->mover, &mine->figures);
        assignment_hurry(mine->assignment);
}

static void start_there(struct errand *errand) {
        struct migration *mine = errand->userdata;

        owner_set(mine->assignment->owner);
        mover_there_start(mine->mover);
        errand_return(errand);
}

static void start_mover(struct assignment *a, struct fleet_store *target) {
        const struct registry_migration *m = a->record->migration;
        struct migration *mine = a->migration;
        struct mover_config config = {
                .home = a->fleet->loop,
                .loop = a->shard->loop,
                .keyspace = tenant_keyspace(a->serving),
                .source = a->store->ds,
                .target = target->ds,
                .name = a->name,
                .target_name = m->datastore,
                .back = m->back || m->restore,
                .throttle = a->fleet->throttle,
                .on_change = on_mover,
                .userdata = mine,
        };

        memcpy(config.id, m->id, 16);
        memcpy(config.source_incarnation, a->record->incarnation, 16);
        memcpy(config.target_incarnation, m->incarnation, 16);
        mine->mover = mover_new(&config);
        mine->store = target;
        a->fleet->n_movers++;
        migration_publish(a->fleet);
        errand_send(a->shard->loop, a->fleet->loop, start_there, NULL, mine);
}

/* Another may begin. */
void migration_mover_gone(struct assignment *a) {
        struct migration *mine = a->migration;
        struct fleet *fleet = a->fleet;
        struct assignment *other, *following;

        mover_get(mine->mover, &mine->figures);
        mover_free(steal(mine->mover));
        mine->stopping = false;
        mine->store = NULL;
        fleet->n_movers--;
        migration_publish(fleet);
        for (other = LIST_FIRST(&fleet->assignments); other; other = following) {
                following = LIST_NEXT(other, entry);
                if (other != a && other->migration && !other->migration->mover)
                        assignment_step(other);
        }
}

static void stop_there(struct errand *errand) {
        struct migration *mine = errand->userdata;

        owner_set(mine->assignment->owner);
        mover_there_stop(mine->mover);
        errand_return(errand);
}

static void stop_back(struct errand *errand) {
        struct migration *mine = errand->userdata;
        struct assignment *a = mine->assignment;

        migration_mover_gone(a);
        fleet_settle(a->fleet);
        assignment_hurry(a);
}

bool migration_is_still(struct assignment *a) {
        struct migration *mine = a->migration;

        if (!mine)
                return !a->unsealing;
        if (mine->mover && !mine->stopping) {
                mine->stopping = true;
                errand_send(a->shard->loop, a->fleet->loop, stop_there, stop_back, mine);
        }
        return !mine->mover && !mine->job_running && !a->unsealing;
}

struct migration *migration_get(struct assignment *a, const uint8_t id[16]) {
        if (!a->migration) {
                a->migration = new0(struct migration);
                a->migration->assignment = a;
                memcpy(a->migration->id, id, 16);
        }
        return a->migration;
}

void migration_free(struct assignment *a) {
        if (!a->migration)
                return;
        check(!a->migration->mover && !a->migration->job_running);
        free(a->migration);
        a->migration = NULL;
}

/* ---- steps */

/* The target as it must be to go on; otherwise the migration is given up. */
static struct fleet_store *target_of(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        struct fleet_store *store = fleet_find_store(a->fleet, m->datastore);
        cleanup(freep) char *text = NULL;

        if (store && store->ds && !store->leaving && !governance_refusal(store) && !store_refusal(store))
                return store;
        if (store && store->ds && !store->leaving && governance_is_young(store))
                return NULL;
        check(asprintf(&text, "datastore %s %s", m->datastore,
                      !store                              ? "is not defined any more"
                              : store->leaving            ? "has another definition now"
                              : !store->ds                ? store->validation.message
                              : governance_refusal(store) ? governance_refusal(store)
                                                          : store_refusal(store)) > 0);
        migration_abort(a, text);
        return NULL;
}

static bool after_drop_former(struct assignment *a, int result, const char *reason) {
        cleanup(freep) char *text = NULL;

        if (result == 0) {
                (void)migration_change(a, MIGRATION_COPYING);
                registry_previous_free(steal(a->next->previous));
                point("copying");
                assignment_write(a);
                return true;
        }
        check(asprintf(&text, "its former data in datastore %s could not be dropped: %s",
                      a->record->previous ? a->record->previous->datastore : "?", reason) > 0);
        migration_abort(a, text);
        return true;
}

static bool after_look(struct assignment *a, int result, const char *reason);

static void step_preparing(struct assignment *a) {
        const struct registry_previous *p = a->record->previous;

        if (a->record->migration->back) {
                migration_job(a, MIGRATION_JOB_LOOK, a->record->datastore, a->record->incarnation, after_look);
                return;
        }
        if (p && (!p->host[0] || strcmp(p->host, a->fleet->host.id) == 0)) {
                migration_job(a, MIGRATION_JOB_DROP, p->datastore, p->incarnation, after_drop_former);
                return;
        }
        if (p) {
                migration_abort(a, "its former data is on another host, whose daemon drops it first");
                return;
        }
        (void)migration_change(a, MIGRATION_COPYING);
        point("copying");
        assignment_write(a);
}

/* What a restore brings is taken in; while that goes on clients do too. */
static void step_restoring(struct assignment *a, struct fleet_store *target) {
        const char *reason = NULL;

        switch (restore_over_feed(a, target, &reason)) {
        case RESTORE_GOES_ON:
                break;
        case RESTORE_FAILED:
                migration_abort(a, reason);
                break;
        case RESTORE_DONE:
                (void)migration_change(a, MIGRATION_SEALING);
                point("sealing");
                assignment_write(a);
                break;
        }
}

/* The log is sealed, and so it is known above which revision to go on. */
static void step_restored(struct assignment *a) {
        const char *reason = NULL;

        switch (restore_over_commit(a, &a->migration->figures, &reason)) {
        case RESTORE_GOES_ON:
                break;
        case RESTORE_FAILED:
                migration_abort(a, reason);
                break;
        case RESTORE_DONE:
                write_switch(a);
                break;
        }
}

static void step_copying(struct assignment *a) {
        struct migration *mine = a->migration;
        struct fleet_store *target = target_of(a);

        if (!target)
                return;
        if (a->record->migration->restore) {
                step_restoring(a, target);
                return;
        }
        if (!mine->mover) {
                if (a->fleet->n_movers < a->fleet->config.settings->migration.parallel)
                        start_mover(a, target);
                return;
        }
        if (mine->figures.stage == MOVER_FAILED)
                migration_abort(a, mine->figures.reason);
        else if (mine->figures.stage == MOVER_READY) {
                (void)migration_change(a, MIGRATION_SEALING);
                point("sealing");
                assignment_write(a);
        }
}

/* Going back: whether nothing is lost by it. */
static bool after_look(struct assignment *a, int result, const char *reason) {
        const struct registry_previous *p = a->record->previous;
        struct migration *mine = a->migration;
        cleanup(freep) char *text = NULL;

        if (result != 0)
                check(asprintf(&text, "datastore %s: %s", a->record->datastore, reason) > 0);
        else if (!p || !mine->installed || memcmp(mine->installation, p->migration, 16) != 0)
                check(asprintf(&text, "its log in datastore %s does not begin with what was moved there",
                              a->record->datastore) > 0);
        else if (mine->dirty)
                check(asprintf(&text,
                              "something was written in datastore %s since it was moved there, which would be lost",
                              a->record->datastore) > 0);
        if (text)
                migration_abort(a, text);
        else if (a->record->migration->phase == MIGRATION_PREPARING) {
                (void)migration_change(a, MIGRATION_SEALING);
                point("sealing");
                assignment_write(a);
        } else
                write_switch(a);
        return true;
}

static void step_sealing(struct assignment *a) {
        struct migration *mine = a->migration;
        const struct registry_migration *m = a->record->migration;

        if (!mine->mover) {
                bool seals = m->back || (m->restore && restore_is_over(a));
                struct fleet_store *target = seals ? target_of(a) : NULL;

                if (target)
                        start_mover(a, target);
                else if (!seals)
                        migration_abort(a, "it was interrupted");
                return;
        }
        switch (mine->figures.stage) {
        case MOVER_READY:
                if (!mine->seal_told) {
                        mine->seal_told = true;
                        mover_seal(mine->mover);
                }
                break;
        case MOVER_FAILED:
                migration_abort(a, mine->figures.reason);
                break;
        case MOVER_COMMITTED:
                point("committed");
                if (m->restore)
                        step_restored(a);
                else if (m->back)
                        migration_job(a, MIGRATION_JOB_LOOK, a->record->datastore, a->record->incarnation, after_look);
                else
                        write_switch(a);
                break;
        default:
                break;
        }
}

/* ---- whose it is */

static bool owner_lives(const struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        char owner[UUID_TEXT_SIZE];
        const struct member *members;
        size_t n;

        if (!a->fleet->shared_registry)
                return false;
        uuid_print(m->owner, owner);
        members = members_list(a->fleet->members, &n);
        for (size_t i = 0; i < n; i++)
                if (strcmp(members[i].daemon, owner) == 0)
                        return true;
        return false;
}

/* Another daemon's: left to it, as long as it lives. What it may have made on this host is this host's to remove. */
static void step_foreign(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        bool ours = a->fleet->shared_registry && strcmp(m->host, a->fleet->host.id) == 0;
        struct log_context context = {.tenant = a->name};
        struct registry_migration *next;

        if (owner_lives(a) && !(ours && m->phase == MIGRATION_ABORTING))
                return;
        log_at(LOG_LEVEL_NOTICE, &context, "the daemon that moved it to datastore %s has gone: undoing that",
                m->datastore);
        next = migration_change(a, MIGRATION_ABORTING);
        memcpy(next->owner, a->fleet->config.daemon, 16);
        if (!next->reason[0]) {
                free(next->reason);
                next->reason = strdup("the daemon that did it has gone");
                check(next->reason);
        }
        point("take-over");
        assignment_write(a);
}

void migration_members_changed(struct fleet *fleet) {
        struct assignment *a, *following;

        for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                following = LIST_NEXT(a, entry);
                if (a->record && a->record->migration && !migration_is_mine(a))
                        assignment_step(a);
        }
}

void migration_step(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;

        if (a->migration && (!m || !migration_is_mine(a) || memcmp(a->migration->id, m->id, 16) != 0)) {
                if (!m && a->migration->job_running)
                        return; /* of the former datastore */
                if (!migration_is_still(a))
                        return;
                migration_free(a);
        }
        if (a->sealed && !migration_step_sealed(a))
                return;
        if (!m) {
                migration_step_former(a);
                return;
        }
        if (!migration_is_mine(a)) {
                step_foreign(a);
                return;
        }
        if (migration_get(a, m->id)->job_running || a->migration->stopping || a->unsealing)
                return;
        switch (m->phase) {
        case MIGRATION_PREPARING:
                step_preparing(a);
                break;
        case MIGRATION_COPYING:
                step_copying(a);
                break;
        case MIGRATION_SEALING:
                step_sealing(a);
                break;
        case MIGRATION_ABORTING:
                restore_over_end(a);
                migration_step_aborting(a);
                break;
        }
}
