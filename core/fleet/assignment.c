#include "fleet/state.h"

/*
 * The life of one tenant, seen from the main thread: recorded, made, served, and in the end dropped.
 *
 * Each step is written to the registry before it is taken, so a crash leaves a record that says what was about to be done, and doing it again is
 * harmless: create changes nothing if the keyspace exists, drop does nothing if it does not. A step that fails is repeated
 * after a pause that grows to a minute. A write whose outcome is not known is repeated unchanged until it is known; nothing else is done
 * meanwhile, since the record would otherwise be guessed.
 *
 * Among several daemons each sees all records, and any may take any step, two at once too: what they do to the datastore does not hurt twice, and
 * of two records one is refused, whose writer goes on from the other. A step that another daemon has begun is left to it for a while
 *, so that they do not all do the same work. A tenant whose datastore is one host's own is that host's alone.
 */

#include <string.h>

#include "base/log.h"
#include "fleet/endpoint.h"
#include "fleet/uuid.h"

#define JOB_TIMEOUT_NS (30 * NSEC_PER_SEC)
#define RETRY_MIN_NS (NSEC_PER_SEC)
#define RETRY_MAX_NS (60 * NSEC_PER_SEC)

static void on_retry(struct loop_timer *timer) {
        struct assignment *a = container_of(timer, struct assignment, retry);

        assignment_step(a);
}

struct assignment *assignment_new(struct fleet *fleet, const char *name) {
        struct assignment *a = new0(struct assignment), *other, *last = NULL;

        a->fleet = fleet;
        a->name = strdup(name);
        check(a->name);
        a->owner = crash_table_enter(fleet->crashes, name);
        a->retry.on_time = on_retry;
        STAILQ_INIT(&a->waiters);
        LIST_INIT(&a->copies);
        TAILQ_INIT(&a->move_waiters);

        LIST_FOREACH(other, &fleet->assignments, entry) {
                if (strcmp(other->name, name) > 0)
                        break;
                last = other;
        }
        if (last)
                LIST_INSERT_AFTER(last, a, entry);
        else
                LIST_INSERT_HEAD(&fleet->assignments, a, entry);
        return a;
}

void assignment_free(struct assignment *a) {
        struct tenant_waiter *waiter;

        if (!a)
                return;
        check(!a->busy && !a->serving && !a->reading && !a->installing);
        migration_forget(a);
        backup_plan_free(a);
        LIST_REMOVE(a, entry);
        loop_timer_clear(&a->retry);
        while ((waiter = STAILQ_FIRST(&a->waiters))) {
                STAILQ_REMOVE_HEAD(&a->waiters, entry);
                waiter->done(waiter->userdata, -EAGAIN, "the daemon is being stopped");
                free(waiter);
        }
        tenant_metrics_free(a);
        crash_table_leave(a->fleet->crashes, a->owner);
        registry_record_free(a->record);
        registry_record_free(a->next);
        registry_record_free(a->newer);
        free(a->sweep_datastore);
        tenant_manner_done(&a->manner);
        tenant_manner_done(&a->wanted);
        free(a->change_source);
        free(a->reason);
        free(a->name);
        free(a);
}

struct assignment *fleet_find_assignment(struct fleet *fleet, const char *name) {
        struct assignment *a;

        LIST_FOREACH(a, &fleet->assignments, entry)
                if (strcmp(a->name, name) == 0)
                        return a;
        return NULL;
}

const struct registry_record *assignment_record(const struct assignment *a) {
        return a->next ? a->next : a->record;
}

void assignment_wait(struct assignment *a, int what, fleet_done_fn done, void *userdata) {
        struct tenant_waiter *waiter = new0(struct tenant_waiter);

        waiter->what = what;
        waiter->done = done;
        waiter->userdata = userdata;
        STAILQ_INSERT_TAIL(&a->waiters, waiter, entry);
}

void assignment_answer(struct assignment *a, bool all, int what, int result, const char *reason) {
        STAILQ_HEAD(, tenant_waiter) due = STAILQ_HEAD_INITIALIZER(due);
        struct tenant_waiter *waiter, *following;

        for (waiter = STAILQ_FIRST(&a->waiters); waiter; waiter = following) {
                following = STAILQ_NEXT(waiter, entry);
                if (!all && (int)waiter->what > what)
                        continue;
                STAILQ_REMOVE(&a->waiters, waiter, tenant_waiter, entry);
                STAILQ_INSERT_TAIL(&due, waiter, entry);
        }
        while ((waiter = STAILQ_FIRST(&due))) {
                STAILQ_REMOVE_HEAD(&due, entry);
                waiter->done(waiter->userdata, result, reason);
                free(waiter);
        }
}

void assignment_well(struct assignment *a) {
        a->n_failures = 0;
        free(a->reason);
        a->reason = NULL;
}

void assignment_fail(struct assignment *a, const char *reason) {
        struct log_context context = {.tenant = a->name};
        uint64_t pause = RETRY_MIN_NS << min_of(a->n_failures, 6U);

        if (!a->reason || strcmp(a->reason, reason) != 0) {
                log_at(LOG_LEVEL_WARNING, &context, "%s", reason);
                free(a->reason);
                a->reason = strdup(reason);
                check(a->reason);
        }
        a->n_failures++;
        a->settled = true;
        if (a->has_newer)
                pause = 0; /* which may change everything */
        loop_timer_set(a->fleet->loop, &a->retry, clock_now_ns() + min_of(pause, RETRY_MAX_NS));
        assignment_answer(a, true, 0, -EAGAIN, reason);
        fleet_settle(a->fleet);
}

/* ---- the registry */

static void on_written(struct registry_write *w, int result, const char *reason) {
        struct assignment *a = container_of(w, struct assignment, write);
        cleanup(freep) char *text = NULL;

        a->busy = false;
        if (result == -ESTALE && !w->unreadable) {
                if (!a->has_newer || (w->newer && a->newer_revision < w->newer->mod_revision)) {
                        registry_record_free(a->newer);
                        a->has_newer = true;
                        a->newer = steal(w->newer);
                        a->newer_revision = a->newer ? a->newer->mod_revision : a->record ? a->record->mod_revision : 0;
                }
                registry_record_free(steal(w->newer));
                assignment_step(a);
                return;
        }
        if (result < 0) {
                if (result == -ESTALE && !a->record) {
                        /* A record that could not be read stands in the way. */
                        registry_record_free(steal(a->next));
                        a->gone = true;
                        assignment_answer(a, true, 0, -EEXIST, "the registry has a record of this name already");
                        assignment_step(a);
                        return;
                }
                if (asprintf(&text, "registry: %s", reason) < 0)
                        check(false);
                assignment_fail(a, text);
                return;
        }

        if (w->remove) {
                a->gone = true;
                fleet_copy_soon(a->fleet);
        } else {
                registry_record_free(a->record);
                a->record = steal(a->next);
                a->record->format = registry_format(a->fleet->registry);
                a->told_ns = 0;
                if (a->record->phase != REGISTRY_PROVISIONING)
                        a->made_here = false;
                fleet_copy_soon(a->fleet);
                assignment_answer(a, false, WAIT_RECORDED, 0, "");
        }
        assignment_well(a);
        assignment_step(a);
}

static void write_record(struct assignment *a, bool remove) {
        a->busy = true;
        a->write = (struct registry_write){
                .record = remove ? a->record : a->next,
                .remove = remove,
                .done = on_written,
        };
        registry_write(a->fleet->registry, &a->write);
}

void assignment_write(struct assignment *a) {
        write_record(a, false);
}

/* ---- the datastore */

static int run_create(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct assignment *a = container_of(job, struct assignment, job);
        struct stoke_record first;

        keyspace_first_record(a->fleet->config.daemon, &first);
        return datastore_driver(job->ds)->create(session, job->keyspace, &first, call);
}

static int run_drop(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        return datastore_driver(job->ds)->drop(session, job->keyspace, call);
}

static void on_job_done(struct datastore_job *job) {
        struct assignment *a = container_of(job, struct assignment, job);
        cleanup(freep) char *text = NULL;

        a->busy = false;
        a->store = NULL;
        if (job->result != 0) {
                const char *reason = job->reason[0] ? job->reason
                        : job->result < 0           ? strerror(-job->result)
                                                    : "an outcome that was not expected";

                if (asprintf(&text, "datastore %s: %s", a->record->datastore, reason) < 0)
                        check(false);
                assignment_fail(a, text);
                return;
        }

        assignment_well(a);
        if (a->record->phase == REGISTRY_PROVISIONING) {
                a->next = registry_record_copy(a->record);
                a->next->phase = REGISTRY_READY;
        } else {
                a->dropped = true;
                a->made_here = false;
        }
        assignment_step(a);
}

static void on_swept(struct datastore_job *job) {
        struct assignment *a = container_of(job, struct assignment, job);
        struct log_context context = {.tenant = a->name};

        a->busy = false;
        a->store = NULL;
        if (job->result != 0)
                log_at(LOG_LEVEL_WARNING, &context, "datastore %s: what was made too late could not be dropped: %s",
                        a->sweep_datastore, job->reason);
        assignment_step(a);
}

static void submit(struct assignment *a, struct fleet_store *store, const uint8_t incarnation[16],
        int (*run)(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call),
        void (*done)(struct datastore_job *job)) {
        a->busy = true;
        a->store = store;
        a->job_keyspace = (struct stoke_keyspace){.name = a->name};
        memcpy(a->job_keyspace.incarnation, incarnation, 16);
        a->job = (struct datastore_job){
                .class = JOB_BULK,
                .own_scope = true,
                .keyspace = &a->job_keyspace,
                .deadline_ns = clock_now_ns() + JOB_TIMEOUT_NS,
                .owner = a->owner,
                .loop = a->fleet->loop,
                .run = run,
                .done = done,
        };
        datastore_submit(store->ds, &a->job);
}

/* ---- choosing */

static void farewell(struct assignment *a) {
        struct fleet *fleet = a->fleet;
        struct log_context context = {.tenant = a->name};
        bool was_there = a->record;

        if (was_there)
                quarantine_forget(fleet->quarantine, a->name);
        if (was_there && !assignment_is_elsewhere(a)) {
                tenant_remove_paths(fleet->tenants_dir, a->name);
                known_logs_forget(fleet->known, a->name);
                log_at(LOG_LEVEL_NOTICE, &context, "deleted%s",
                        a->record->retain ? "; its data stays in the datastore" : "");
        }
        assignment_answer(a, true, 0, 0, "");
        assignment_free(a);
        fleet_settle(fleet);
        /* A definition of this name may be waiting for the old one to be gone. */
        if (was_there && fleet_is_running(fleet))
                loop_defer(fleet->loop, &fleet->apply_task);
        /* A datastore whose document has gone too may have waited for this. */
        if (fleet->leaving)
                fleet_definitions_changed(fleet);
}

/* The datastore of the record, open. NULL: a failure, told. */
static struct fleet_store *store_of(struct assignment *a) {
        struct fleet_store *store = fleet_find_store(a->fleet, a->record->datastore);
        cleanup(freep) char *text = NULL;
        int n;

        if (store && store->leaving)
                return NULL; /* goes on when it was closed, or opened anew */
        if (store && store->ds && !governance_refusal(store))
                return store;
        if (store && store->ds && governance_is_young(store))
                return NULL; /* goes on when that is known */
        if (store && store->ds)
                n = asprintf(&text, "datastore %s: %s", store->name, governance_refusal(store));
        else if (store)
                n = asprintf(&text, "datastore %s: %s", store->name, store->validation.message);
        else
                n = asprintf(&text, "datastore %s is not defined", a->record->datastore);
        check(n > 0);
        assignment_fail(a, text);
        return NULL;
}

/* Whether the datastore is one that only this host reaches. */
static bool is_local(const struct assignment *a) {
        struct fleet_store *store = fleet_find_store(a->fleet, a->record->datastore);

        return store && store->ds && !store_is_shared(store);
}

/* The same as store_of(), where a tenant may be made and started there; NULL also while the first dialling has not said so yet: its end goes on here. */
static struct fleet_store *safe_store_of(struct assignment *a) {
        struct fleet_store *store = store_of(a);
        cleanup(freep) char *text = NULL;

        if (!store || !store_refusal(store))
                return store && store->check && store->validation.status == FLEET_UNKNOWN ? NULL : store;
        check(asprintf(&text, "datastore %s is refused, %s; allowUnsafe in its definition would accept it", store->name,
                      store_refusal(store)) > 0);
        assignment_fail(a, text);
        return NULL;
}

struct fleet_store *assignment_store(struct assignment *a) {
        return safe_store_of(a);
}

/* What is wanted and recorded differently becomes the next record. */
static void take_wishes(struct assignment *a) {
        if (a->record->phase == REGISTRY_INSTALLING) {
                if (a->want_delete)
                        (void)installing_is_over(a, "the tenant was deleted");
                return;
        }
        if (a->want_delete) {
                /* Leaving the data after all is the way out where the datastore cannot be reached. */
                if (a->record->phase == REGISTRY_DELETING && (a->record->retain || !a->want_retain))
                        return;
                a->next = registry_record_copy(a->record);
                a->next->phase = REGISTRY_DELETING;
                a->next->retain = a->want_retain;
                endpoint_changed(a->fleet);
                return;
        }
        if (a->want_recover && a->record->phase == REGISTRY_READY) {
                struct keyspace_known known =
                        known_logs_get(a->fleet->known, a->name, a->record->incarnation, a->record->recovery);

                a->want_recover = false;
                a->next = registry_record_copy(a->record);
                a->next->phase = REGISTRY_RECOVERING;
                migration_spoil(a->next, "its history was lost meanwhile");
                uuid_make(a->next->recovery);
                a->next->recover_above = max_of(
                        max_of(known.revision, a->figures.revision), max_of(a->record->recover_above, INT64_C(1)));
                return;
        }
        if (a->change_source) {
                if (a->record->phase != REGISTRY_DELETING) {
                        a->next = registry_record_copy(a->record);
                        free(a->next->source);
                        a->next->source = steal(a->change_source);
                        a->next->from_file = a->change_from_file;
                        a->next->retain = a->change_retain;
                        a->next->quota_bytes = a->change_quota;
                }
                free(a->change_source);
                a->change_source = NULL;
        }
        if (!a->next)
                migration_take_wishes(a);
        /* Before it is made: where. */
        if (!a->next && a->record->phase == REGISTRY_PROVISIONING && !a->record->host[0] && is_local(a))
                assignment_claim_host(a, a->next = registry_record_copy(a->record));
        /* A newer format is in use: one of the daemons writes the records anew in it. */
        if (!a->next && a->record->format && a->record->format < registry_format(a->fleet->registry) &&
                members_is_first(a->fleet->members))
                a->next = registry_record_copy(a->record);
}

/* Only looked at: its datastore is another host's own. */
static void step_elsewhere(struct assignment *a) {
        cleanup(freep) char *text = NULL;

        a->settled = true;
        if (a->record->phase == REGISTRY_DELETING && a->record->retain && !assignment_is_left(a)) {
                write_record(a, true); /* nothing is to be dropped */
                return;
        }
        if (a->record->phase == REGISTRY_DELETING && !a->record->retain && !STAILQ_EMPTY(&a->waiters) &&
                !assignment_host_lives(a)) {
                check(asprintf(&text,
                              "recorded; but its data is on host %s, whose daemon does not run: it goes when that runs, or at once with --keep-data",
                              a->record->host_name) > 0);
                assignment_answer(a, true, 0, -EAGAIN, text);
        }
        if (a->record->phase != REGISTRY_DELETING)
                assignment_answer(a, false, WAIT_SERVED, 0, "");
        fleet_settle(a->fleet);
}

/* The datastore was dialled, and found to keep what it acknowledges: a seal, too, behind which a tenant may have moved elsewhere since the copy was
 * kept. What an operator allows otherwise is not enough here. */
static bool copy_is_safe(const struct fleet_store *store) {
        return store->validation.status == FLEET_TRUE && !store->unsafe;
}

/* While the registry cannot be reached: what was ready is served, and nothing is changed. */
static void step_from_copy(struct assignment *a) {
        cleanup(freep) char *text = NULL;
        struct fleet_store *store;

        if (a->record->phase != REGISTRY_READY || a->serving || assignment_is_elsewhere(a)) {
                a->settled = true;
                fleet_settle(a->fleet);
                return;
        }
        store = store_of(a);
        if (!store || (store->check && store->validation.status == FLEET_UNKNOWN))
                return; /* goes on when that has ended */
        if (copy_is_safe(store)) {
                assignment_start(a, store);
                return;
        }
        check(asprintf(&text, "the registry cannot be reached, and its copy is not enough for datastore %s: %s",
                      store->name, store->unsafe ? store->unsafe : store->validation.message) > 0);
        assignment_fail(a, text);
}

static void sweep(struct assignment *a) {
        struct fleet_store *store = fleet_find_store(a->fleet, a->sweep_datastore);

        a->sweep = false;
        if (store && store->ds && !store->leaving)
                submit(a, store, a->sweep_incarnation, run_drop, on_swept);
        else
                assignment_step(a);
}

/* Nothing is done with it until somebody asks. */
static void rest(struct assignment *a) {
        a->settled = true;
        fleet_settle(a->fleet);
}

void assignment_step(struct assignment *a) {
        struct fleet_store *store;

        if (a->busy)
                return;
        assignment_catch_up(a);
        migration_answer(a);
        if (a->retry.position)
                return;
        if (a->fleet->stage == FLEET_STOPPING || a->fleet->unfit) {
                a->settled = true;
                if (!migration_is_still(a) || !installing_is_over(a, "the daemon is being stopped"))
                        return;
                if (a->serving)
                        assignment_stop(a);
                else
                        fleet_settle(a->fleet);
                return;
        }
        if (a->fleet->stage == FLEET_OPENING && a->fleet->from_copy && a->record) {
                step_from_copy(a);
                return;
        }
        if (!fleet_is_running(a->fleet))
                return;
        if (assignment_correct(a))
                return;
        if (a->sweep) {
                sweep(a);
                return;
        }
        if (a->gone) {
                if (migration_is_still(a) && !a->reading && installing_is_over(a, "another daemon has removed it"))
                        farewell(a);
                return;
        }
        if (a->record && !a->next)
                take_wishes(a);
        if (a->next) {
                write_record(a, false);
                return;
        }

        if (assignment_is_elsewhere(a)) {
                step_elsewhere(a);
                return;
        }
        switch (a->record->phase) {
        case REGISTRY_PROVISIONING:
                if (a->wanted.quarantined) {
                        rest(a);
                        break;
                }
                if (assignment_is_left(a))
                        break;
                store = safe_store_of(a);
                if (store) {
                        a->made_here = true;
                        submit(a, store, a->record->incarnation, run_create, on_job_done);
                }
                break;
        case REGISTRY_READY:
                if (!a->serving) {
                        store = safe_store_of(a);
                        if (store)
                                assignment_start(a, store);
                } else {
                        fleet_settle(a->fleet);
                        migration_step(a);
                }
                break;
        case REGISTRY_RECOVERING:
                if (assignment_is_left(a))
                        break;
                store = safe_store_of(a);
                if (store)
                        assignment_recover(a, store);
                break;
        case REGISTRY_DELETING:
                if (a->serving) {
                        if (migration_is_still(a))
                                assignment_stop(a);
                } else if (a->wanted.quarantined && !a->want_delete)
                        rest(a); /* not before it is asked for again */
                else if (assignment_is_left(a) || !migration_remove_all(a))
                        break;
                else if (!a->record->retain && !a->dropped) {
                        store = store_of(a);
                        if (store)
                                submit(a, store, a->record->incarnation, run_drop, on_job_done);
                } else
                        write_record(a, true);
                break;
        case REGISTRY_INSTALLING:
                if (installing_step(a))
                        write_record(a, true);
                break;
        }
}

void assignment_hurry(struct assignment *a) {
        loop_timer_clear(&a->retry);
        assignment_step(a);
}

void assignment_hurry_soon(struct assignment *a) {
        loop_timer_set(a->fleet->loop, &a->retry, clock_now_ns());
}
