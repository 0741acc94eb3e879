#include "fleet/state.h"

/*
 * A tenant on its shard: started in a manner, stopped, its log recovered. Each is an errand: sent, done there, and back on the main thread, where the
 * assignment goes on. Between sending and coming back it is busy, so that it stays and neither its record nor its manner changes.
 */

#include <string.h>

#include "base/log.h"
#include "base/owner.h"

#define DRAIN_TIMEOUT_NS (10 * NSEC_PER_SEC)

/* ---- manners */

void tenant_manner_done(struct tenant_manner *manner) {
        free(manner->tcp);
        free(manner->peers);
        *manner = (struct tenant_manner){};
}

static void tenant_manner_copy(struct tenant_manner *to, const struct tenant_manner *from) {
        tenant_manner_done(to);
        *to = *from;
        if (from->tcp) {
                to->tcp = strdup(from->tcp);
                check(to->tcp);
        }
        if (from->n_peers) {
                to->peers = reallocarray(NULL, from->n_peers, sizeof(*to->peers));
                check(to->peers);
                memcpy(to->peers, from->peers, from->n_peers * sizeof(*to->peers));
        }
}

bool tenant_manner_equal(const struct tenant_manner *a, const struct tenant_manner *b) {
        return a->quota_bytes == b->quota_bytes && a->auto_compact_ns == b->auto_compact_ns &&
                a->progress_notify_ns == b->progress_notify_ns && a->idle_close_ns == b->idle_close_ns &&
                a->quarantined == b->quarantined && a->slow_ns == b->slow_ns && a->socket_mode == b->socket_mode &&
                a->owner == b->owner && a->group == b->group &&
                strcmp(a->tcp ? a->tcp : "", b->tcp ? b->tcp : "") == 0 && a->n_peers == b->n_peers &&
                (a->n_peers == 0 || memcmp(a->peers, b->peers, a->n_peers * sizeof(*a->peers)) == 0);
}

/* ---- errands */

/* What the shard has read, for the main thread. The assignment stays as long as it is served, and messages come in order. */
struct sealed_message {
        struct loop_task task;
        struct assignment *a;
        uint8_t id[16];
};

static void on_sealed_here(struct loop_task *task) {
        struct sealed_message *message = container_of(task, struct sealed_message, task);

        if (message->a->serving || message->a->busy)
                migration_on_sealed(message->a, message->id);
        free(message);
}

static void on_sealed(void *userdata, const uint8_t id[16]) {
        struct sealed_message *message = new0(struct sealed_message);

        message->a = userdata;
        memcpy(message->id, id, 16);
        message->task.run = on_sealed_here;
        loop_post(message->a->fleet->loop, &message->task);
}

static void start_there(struct errand *errand) {
        struct assignment *a = errand->userdata;
        const struct fleet_config *config = &a->fleet->config; /* what is read of it never changes */
        cleanup(error_done) struct error err = {};
        struct tenant_config tenant = {
                .name = a->name,
                .datastore = a->store->ds,
                .known = a->known,
                .quota_bytes = a->manner.quota_bytes,
                .auto_compact_ns = a->manner.auto_compact_ns,
                .progress_notify_ns = a->manner.progress_notify_ns,
                .slow_ns = a->manner.slow_ns,
                .runtime_dir = a->fleet->tenants_dir,
                .socket_mode = a->manner.socket_mode,
                .owner = a->manner.owner,
                .group = a->manner.group,
                .tcp = a->manner.tcp,
                .peers = a->manner.peers,
                .n_peers = a->manner.n_peers,
                .services = &config->services,
                .limits = a->fleet->limits,
                .keyspace_limits = a->fleet->keyspace_limits,
                .idle_close_ns = a->manner.idle_close_ns,
                .quarantined = a->manner.quarantined,
                .opening = crash_table_opening(a->fleet->crashes, a->owner),
                .loop = a->shard->loop,
                .cache = a->shard->cache,
                .memory = a->fleet->memory,
                .on_sealed = on_sealed,
                .userdata = a,
        };

        memcpy(tenant.incarnation, a->record->incarnation, 16);
        memcpy(tenant.cluster, a->record->cluster, 16);
        memcpy(tenant.daemon, config->daemon, 16);
        owner_set(a->owner); /* and so is whatever follows from it */
        errand->result = tenant_open(&tenant, &a->started, &err);
        if (errand->result < 0)
                snprintf(errand->reason, sizeof(errand->reason), "%s", error_text(&err));
        errand_return(errand);
}

static void leave_shard(struct assignment *a) {
        a->shard->n_tenants--;
        a->shard = NULL;
        a->store = NULL;
}

static void start_back(struct errand *errand) {
        struct assignment *a = errand->userdata;
        struct log_context context = {.tenant = a->name, .datastore = a->record->datastore};

        a->busy = false;
        if (errand->result < 0) {
                leave_shard(a);
                assignment_fail(a, errand->reason);
                return;
        }
        a->serving = a->started;
        memcpy(a->served, a->record->incarnation, 16);
        memcpy(a->served_recovery, a->record->recovery, 16);
        assignment_well(a);
        a->settled = true;
        log_at(LOG_LEVEL_INFO, &context, "served at %s/%s.sock", a->fleet->tenants_dir, a->name);
        assignment_answer(a, false, WAIT_SERVED, 0, "");
        assignment_step(a);
}

static struct shard *least_shard(struct fleet *fleet) {
        struct shard *least = fleet->shards[0];

        for (size_t i = 1; i < fleet->n_shards; i++)
                if (fleet->shards[i]->n_tenants < least->n_tenants)
                        least = fleet->shards[i];
        return least;
}

void assignment_start(struct assignment *a, struct fleet_store *store) {
        struct fleet *fleet = a->fleet;

        tenant_manner_copy(&a->manner, &a->wanted);
        a->known = known_logs_get(fleet->known, a->name, a->record->incarnation, a->record->recovery);
        a->busy = true;
        a->store = store;
        a->shard = least_shard(fleet);
        a->shard->n_tenants++;
        errand_send(a->shard->loop, fleet->loop, start_there, start_back, a);
}

static void on_closed(void *userdata) {
        errand_return(userdata);
}

static void stop_there(struct errand *errand) {
        struct assignment *a = errand->userdata;

        owner_set(a->owner);
        tenant_get_figures(a->serving, &a->last);
        tenant_close(a->serving, DRAIN_TIMEOUT_NS, on_closed, errand);
}

static void stop_back(struct errand *errand) {
        struct assignment *a = errand->userdata;

        a->busy = a->stopping = false;
        a->serving = NULL;
        a->sealed = false;
        collect_known(a, &a->last);
        a->figures = (struct tenant_figures){};
        leave_shard(a);
        assignment_step(a);
}

void assignment_stop(struct assignment *a) {
        if (!copying_is_over(a, "the tenant is being stopped"))
                return;
        a->busy = a->stopping = true;
        errand_send(a->shard->loop, a->fleet->loop, stop_there, stop_back, a);
}

static void recovery_back(struct errand *errand) {
        struct assignment *a = errand->userdata;
        cleanup(freep) char *text = NULL;

        a->busy = false;
        leave_shard(a);
        if (errand->result < 0) {
                check(asprintf(&text, "its log could not be continued yet: %s", errand->reason) > 0);
                assignment_fail(a, text);
                return;
        }
        assignment_well(a);
        known_logs_forget(a->fleet->known, a->name);
        a->next = registry_record_copy(a->record);
        a->next->phase = REGISTRY_READY;
        assignment_step(a);
}

void assignment_recover(struct assignment *a, struct fleet_store *store) {
        a->busy = true;
        a->store = store;
        a->shard = least_shard(a->fleet);
        a->shard->n_tenants++;
        errand_send(a->shard->loop, a->fleet->loop, recovery_there, recovery_back, a);
}

/* ---- served otherwise than it should be */

static bool is_served_wrongly(const struct assignment *a) {
        return a->gone || memcmp(a->served, a->record->incarnation, 16) != 0 || a->store->leaving ||
                governance_refusal(a->store) || !tenant_manner_equal(&a->manner, &a->wanted) ||
                assignment_is_elsewhere(a) || memcmp(a->served_recovery, a->record->recovery, 16) != 0 ||
                a->record->phase == REGISTRY_RECOVERING;
}

/* It was moved: what is served can go on there as it is, where this daemon reaches that. */
static bool goes_on_elsewhere(struct assignment *a) {
        const struct registry_record *record = a->record;

        return !a->gone && record->phase == REGISTRY_READY && record->previous && !a->store->leaving &&
                memcmp(record->previous->incarnation, a->served, 16) == 0 &&
                memcmp(record->incarnation, a->served, 16) != 0 && !assignment_is_elsewhere(a) &&
                memcmp(a->served_recovery, record->recovery, 16) == 0 && !a->wanted.quarantined &&
                !a->manner.quarantined;
}

bool assignment_correct(struct assignment *a) {
        struct fleet_store *store;

        if (!a->serving || !is_served_wrongly(a))
                return false;
        store = goes_on_elsewhere(a) ? fleet_find_store(a->fleet, a->record->datastore) : NULL;
        if (store && store->ds && !store->leaving && governance_is_young(store))
                return true; /* goes on when that is known */
        if (store && store->ds && !store->leaving && !governance_refusal(store) && !store_refusal(store)) {
                if (!a->unsealing && !a->reading)
                        migration_switch(a, store);
                return true;
        }
        if (migration_is_still(a))
                assignment_stop(a);
        return true;
}
