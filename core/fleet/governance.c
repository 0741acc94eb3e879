#include "fleet/state.h"

/*
 * Who governs a datastore that several daemons may share: looked at whenever it was dialled. Where nobody does, our registry does from then on; where another
 * registry does, tenants are neither made nor served there until that is ended by a claim. What is served stays served while it
 * cannot be looked at. A datastore of one daemon alone governs itself.
 */

#include <string.h>

#include "base/log.h"

#define LOOK_TIMEOUT_NS (15 * NSEC_PER_SEC)

bool store_is_shared(const struct fleet_store *store) {
        return store->ds && !(datastore_driver(store->ds)->capabilities & STOKE_EXCLUSIVE);
}

const char *governance_refusal(const struct fleet_store *store) {
        const struct governance *g = &store->governance;

        if (!store_is_shared(store) || g->state == GOVERNANCE_OURS)
                return NULL;
        if (g->reason)
                return g->reason;
        return store->validation.message && store->validation.message[0] ? store->validation.message
                                                                         : "it is not known yet who governs it";
}

bool governance_is_young(const struct fleet_store *store) {
        return store->governance.state == GOVERNANCE_UNKNOWN && !store->governance.reason &&
                (store->check || store->governance.running);
}

/* Taken over. */
static void set_reason(struct governance *g, char *reason) {
        free(g->reason);
        g->reason = reason;
}

static void answer(struct governance *g, int result, const char *reason) {
        struct claim_waiter *waiter;

        g->claiming = false;
        while ((waiter = STAILQ_FIRST(&g->waiters))) {
                STAILQ_REMOVE_HEAD(&g->waiters, entry);
                waiter->done(waiter->userdata, result, reason);
                free(waiter);
        }
}

static void step_all(struct fleet_store *store) {
        struct assignment *a, *following;

        for (a = LIST_FIRST(&store->fleet->assignments); a; a = following) {
                const struct registry_record *record = assignment_record(a);

                following = LIST_NEXT(a, entry);
                if (record && strcmp(record->datastore, store->name) == 0)
                        assignment_hurry(a);
        }
}

static void found(struct fleet_store *store) {
        struct governance *g = &store->governance;
        struct log_context context = {.datastore = store->name};
        const struct governor *governor = &g->governor;
        char id[UUID_TEXT_SIZE], *reason = NULL;
        int before = (int)g->state;

        uuid_print(governor->found.id, id);
        if (!governor->is_governed) {
                check(asprintf(&reason, "no registry governs it yet, and that is settled once the registry is open") >
                        0);
                set_reason(g, reason);
        } else if (governor_same_registry(&governor->found, &store->fleet->identity)) {
                g->state = GOVERNANCE_OURS;
                set_reason(g, NULL);
                if (governor->wrote)
                        log_at(LOG_LEVEL_NOTICE, &context, "governed by this registry, %s, from now on", id);
        } else {
                g->state = GOVERNANCE_FOREIGN;
                check(asprintf(&reason,
                              "it is governed by another registry, %s%s; stokectl datastore claim %s ends that", id,
                              governor->found.home ? ", which is kept there" : "", store->name) > 0);
                set_reason(g, reason);
        }
        store_update_validation(store);
        if ((int)g->state != before)
                step_all(store);
}

static void on_done(struct datastore_job *job) {
        struct fleet_store *store = container_of(job, struct fleet_store, governance.job);
        struct governance *g = &store->governance;
        bool was_claim = g->claiming;
        char *reason = NULL;

        g->running = false;
        if (job->result == 0) {
                found(store);
                if (was_claim)
                        answer(g, 0, "");
        } else {
                if (job->result == -ENOENT)
                        g->created = false;
                check(asprintf(&reason, "who governs it cannot be found out: %s",
                              job->reason[0] ? job->reason : strerror(-job->result)) > 0);
                if (was_claim)
                        answer(g, -EAGAIN, reason);
                if (g->state == GOVERNANCE_UNKNOWN) {
                        set_reason(g, reason);
                        step_all(store);
                } else
                        free(reason);
                store_dial_later(store, false);
        }
        /* A claim may have come meanwhile. */
        if (!STAILQ_EMPTY(&g->waiters))
                governance_look(store);
        fleet_settle(store->fleet);
}

static int run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct fleet_store *store = container_of(job, struct fleet_store, governance.job);

        return governor_run(datastore_driver(job->ds), session, call, &store->governance.governor);
}

static int run_create(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct fleet_store *store = container_of(job, struct fleet_store, governance.job);

        return governor_create(datastore_driver(job->ds), session, call, store->governance.governor.daemon);
}

static void on_created(struct datastore_job *job);

static void submit(struct fleet_store *store, bool create) {
        struct governance *g = &store->governance;

        governor_keyspace(&g->keyspace);
        g->job = (struct datastore_job){
                .class = JOB_BULK,
                .own_scope = create,
                .keyspace = &g->keyspace,
                .deadline_ns = clock_now_ns() + LOOK_TIMEOUT_NS,
                .loop = store->fleet->loop,
                .run = create ? run_create : run,
                .done = create ? on_created : on_done,
        };
        g->running = true;
        datastore_submit(store->ds, &g->job);
}

static void on_created(struct datastore_job *job) {
        struct fleet_store *store = container_of(job, struct fleet_store, governance.job);

        if (job->result != 0) {
                on_done(job);
                return;
        }
        store->governance.created = true;
        submit(store, false);
}

void governance_look(struct fleet_store *store) {
        struct governance *g = &store->governance;
        struct fleet *fleet = store->fleet;
        bool may_write = fleet_is_running(fleet);

        if (g->running || !store_is_shared(store) || store->leaving || !fleet->has_identity ||
                fleet->stage >= FLEET_STOPPING)
                return;
        g->claiming = !STAILQ_EMPTY(&g->waiters);
        g->governor = (struct governor){
                .deed = g->claiming ? GOVERNOR_CLAIM
                        : may_write ? GOVERNOR_SETTLE
                                    : GOVERNOR_ASK,
                .wanted = fleet->identity,
        };
        g->governor.wanted.home = g->governor.wanted.created = store == fleet->registry_store;
        memcpy(g->governor.daemon, fleet->config.daemon, 16);
        submit(store, may_write && !g->created);
}

void governance_is_ours(struct fleet_store *store) {
        if (!store_is_shared(store))
                return;
        store->governance.state = GOVERNANCE_OURS;
        store->governance.created = true;
        set_reason(&store->governance, NULL);
        store_update_validation(store);
}

void governance_claim(struct fleet_store *store, fleet_done_fn done, void *userdata) {
        struct claim_waiter *waiter = new0(struct claim_waiter);

        waiter->done = done;
        waiter->userdata = userdata;
        STAILQ_INSERT_TAIL(&store->governance.waiters, waiter, entry);
        governance_look(store);
}

void governance_done(struct fleet_store *store) {
        struct governance *g = &store->governance;

        check(!g->running);
        answer(g, -EAGAIN, "the datastore is being closed");
        set_reason(g, NULL);
        g->state = GOVERNANCE_UNKNOWN;
        g->created = false;
}
