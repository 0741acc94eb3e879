#include "fleet/state.h"

/*
 * What a migration asks of a keyspace that is served, on its shard and back: that it goes on elsewhere, that a seal is lifted; and what the
 * keyspace tells: that its log was read to be sealed, upon which the registry is asked, behind a barrier, what that means.
 */

#include <string.h>

#include "base/log.h"
#include "base/owner.h"
#include "fleet/migration_state.h"
#include "fleet/point.h"

#define UNSEAL_TIMEOUT_NS (10 * NSEC_PER_SEC)

/* ---- the switch */

struct going {
        struct errand *errand; /* borrowed: it waits for the end */
        struct assignment *a;
        struct mover *mover; /* NULL: no mover of this daemon */
        struct datastore *datastore;
        struct keyspace_switch config;
        uint64_t hold_began_ns, hold_ns;
};

static void on_switched(void *userdata, int result, const char *reason) {
        struct going *g = userdata;
        struct errand *errand = g->errand;

        if (g->hold_began_ns)
                g->hold_ns = clock_now_ns() - g->hold_began_ns;
        errand->result = result;
        snprintf(errand->reason, sizeof(errand->reason), "%.200s", reason ? reason : "");
        errand_return(errand);
}

static void switch_there(struct errand *errand) {
        struct going *g = errand->userdata;
        struct keyspace *ks = tenant_keyspace(g->a->serving);
        struct keyspace_status status;

        g->errand = errand;
        owner_set(g->a->owner);
        keyspace_get_status(ks, &status);
        if (status.held)
                g->hold_began_ns = clock_now_ns() - status.held_ns;
        g->config.done = on_switched;
        g->config.userdata = g;
        keyspace_switch(ks, &g->config);
        if (g->mover)
                mover_there_stop(g->mover); /* what held the calls until here is the seal, and then the switch */
}

static void switch_back(struct errand *errand) {
        struct going *g = errand->userdata;
        struct assignment *a = g->a;
        struct log_context context = {.tenant = a->name, .datastore = a->record->datastore};
        int result = errand->result;
        cleanup(freep) char *text = NULL;

        a->busy = false;
        a->former = NULL;
        memcpy(a->served, a->switching_to, 16);
        a->sealed = a->sealed_asked = false;
        if (g->mover) {
                a->switched_hold_ns = g->hold_ns;
                migration_mover_gone(a);
                migration_count("done", &a->migration->figures, g->hold_ns);
        }
        if (result == 0 || result == -ECANCELED) {
                log_at(LOG_LEVEL_NOTICE, &context, "goes on in datastore %s; requests waited for %llu ms",
                        datastore_name(g->datastore), (unsigned long long)(g->hold_ns / NSEC_PER_MSEC));
                assignment_well(a);
        } else {
                check(asprintf(&text, "datastore %s: %s", datastore_name(g->datastore), errand->reason) > 0);
                assignment_fail(a, text);
        }
        free(g);
        fleet_settle(a->fleet);
        assignment_step(a);
}

void migration_switch(struct assignment *a, struct fleet_store *store) {
        struct going *g = new0(struct going);
        const struct registry_record *record = a->record;

        g->a = a;
        g->datastore = store->ds;
        g->mover = a->migration && !a->migration->stopping ? a->migration->mover : NULL;
        g->config = (struct keyspace_switch){.datastore = store->ds};
        memcpy(g->config.incarnation, record->incarnation, 16);
        /* Back to where the log ends with the seal, while the one left has gone on behind it; or to what a backup had. */
        g->config.other_log = record->previous && (record->previous->back || record->previous->restored);
        if (g->config.other_log)
                g->config.known = known_logs_get(a->fleet->known, a->name, record->incarnation, record->recovery);
        a->busy = true;
        a->former = a->store;
        a->store = store;
        memcpy(a->switching_to, record->incarnation, 16);
        point("switching");
        errand_send(a->shard->loop, a->fleet->loop, switch_there, switch_back, g);
}

/* ---- unsealing */

struct unsealing {
        struct errand *errand;
        struct seal_call call;
        struct keyspace *keyspace;
        struct assignment *a;
        struct log_context context;
};

static void on_unsealed(struct keyspace_call *call, enum keyspace_result result) {
        struct unsealing *u = container_of(container_of(call, struct seal_call, call), struct unsealing, call);
        struct keyspace_status status;

        if (result != KEYSPACE_OK) {
                keyspace_get_status(u->keyspace, &status);
                u->errand->result = status.condition == KEYSPACE_DROPPED ? -ENOENT : -EAGAIN;
                snprintf(u->errand->reason, sizeof(u->errand->reason), "%.200s",
                        status.reason[0] ? status.reason : "the datastore did not answer in time");
        }
        errand_return(u->errand);
}

static void unseal_there(struct errand *errand) {
        struct unsealing *u = errand->userdata;

        u->errand = errand;
        owner_set(u->a->owner);
        u->keyspace = tenant_keyspace(u->a->serving);
        u->call.call = (struct keyspace_call){.done = on_unsealed, .deadline_ns = clock_now_ns() + UNSEAL_TIMEOUT_NS};
        keyspace_unseal(u->keyspace, &u->call);
}

static void unseal_back(struct errand *errand) {
        struct unsealing *u = errand->userdata;
        struct assignment *a = u->a;
        cleanup(freep) char *text = NULL;
        int result = errand->result;

        a->unsealing = false;
        free(u);
        if (result < 0 && result != -ENOENT) {
                check(asprintf(&text, "a seal of its log could not be lifted yet: %s", errand->reason) > 0);
                assignment_fail(a, text);
                return;
        }
        if (memcmp(a->sealed_by, a->unsealing_id, 16) == 0)
                a->sealed = a->sealed_asked = false;
        if (a->migration && memcmp(a->migration->id, a->unsealing_id, 16) == 0)
                a->migration->unsealed = true;
        assignment_hurry(a);
}

void migration_unseal(struct assignment *a, const uint8_t id[16]) {
        struct unsealing *u = new0(struct unsealing);

        u->a = a;
        memcpy(u->call.id, id, 16);
        memcpy(a->unsealing_id, id, 16);
        a->unsealing = true;
        errand_send(a->shard->loop, a->fleet->loop, unseal_there, unseal_back, u);
}

/* ---- a seal that was read */

static void on_read(struct registry_read *rd, int result, const char *reason) {
        struct assignment *a = container_of(rd, struct assignment, read);
        cleanup(freep) char *text = NULL;
        struct registry_record *record = steal(rd->record);

        a->reading = false;
        if (result < 0) {
                check(asprintf(&text, "its log is sealed, and the registry cannot be asked why: %s", reason) > 0);
                assignment_fail(a, text);
                return;
        }
        a->sealed_asked = true;
        assignment_take(a, record, rd->revision);
}

bool migration_step_sealed(struct assignment *a) {
        const struct registry_migration *m = a->record->migration;
        struct log_context context = {.tenant = a->name};

        if (a->reading || a->unsealing)
                return false;
        /* This daemon's own, which it knows of. */
        if (m && migration_is_mine(a) && memcmp(m->id, a->sealed_by, 16) == 0)
                return true;
        if (!a->sealed_asked) {
                a->read = (struct registry_read){.name = a->name, .done = on_read};
                a->reading = true;
                registry_read(a->fleet->registry, &a->read);
                return false;
        }
        if (m && memcmp(m->id, a->sealed_by, 16) == 0)
                return true; /* it is under way: the record will say what becomes of it */
        /* The record names this incarnation, or it would not be served (any more): that migration is void for ever. */
        log_at(LOG_LEVEL_NOTICE, &context,
                "its log is sealed by a migration that is none any more: the seal is lifted");
        migration_unseal(a, a->sealed_by);
        return false;
}

void migration_on_sealed(struct assignment *a, const uint8_t id[16]) {
        a->sealed = true;
        a->sealed_asked = false;
        memcpy(a->sealed_by, id, 16);
        assignment_hurry(a);
}
