#include "fleet/state.h"

/*
 * A datastore in force: opened with its definition, dialled at once and then every half minute, and whenever somebody asks. `ready`
 * means that the last dialling succeeded. The names of the conditions are Kamaji's.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/metrics.h"

#define CHECK_INTERVAL_NS (30 * NSEC_PER_SEC)
#define CHECK_RETRY_NS (5 * NSEC_PER_SEC)
#define CHECK_TIMEOUT_NS (15 * NSEC_PER_SEC)

/* Runs on a worker; lives by itself, so that the store may wait for it. */
struct store_check {
        struct fleet_store *store; /* borrowed: it waits for the end of the check */
        struct datastore_job job;
        struct fleet_check_item *items; /* owned; the worker's until the job is done */
        size_t n_items;
};

const char *fleet_condition_status_name(enum fleet_condition_status status) {
        static const char *const names[] = {
                [FLEET_UNKNOWN] = "Unknown", [FLEET_TRUE] = "True", [FLEET_FALSE] = "False"};

        check((size_t)status < n_elements(names));
        return names[status];
}

static bool set_condition(
        struct fleet_condition *c, enum fleet_condition_status status, const char *reason, const char *message) {
        bool changed = c->status != status || !c->message || strcmp(c->reason, reason) != 0;

        if (c->status != status || !c->message)
                c->since = time(NULL);
        c->status = status;
        c->reason = reason;
        if (!c->message || strcmp(c->message, message) != 0) {
                free(c->message);
                c->message = strdup(message);
                check(c->message);
        }
        return changed;
}

static void set_validation(
        struct fleet_store *store, enum fleet_condition_status status, const char *reason, const char *message) {
        struct log_context context = {.datastore = store->name, .driver = store->driver};

        if (set_condition(&store->validation, status, reason, message) && status != FLEET_UNKNOWN)
                log_at(status == FLEET_TRUE ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, &context, "%s",
                        status == FLEET_TRUE ? "ready" : message);
        metric_set(store->ready, status == FLEET_TRUE);
}

bool store_is_used(const struct fleet_store *store) {
        struct assignment *a;

        if (store->fleet->registry_store == store)
                return true;
        LIST_FOREACH(a, &store->fleet->assignments, entry) {
                const struct registry_record *record = assignment_record(a);

                if ((record && strcmp(record->datastore, store->name) == 0) || migration_uses(a, store))
                        return true;
        }
        return false;
}

void store_update_use(struct fleet_store *store) {
        if (store_is_used(store))
                (void)set_condition(&store->deletion, FLEET_FALSE, "DataStoreStillUsed",
                        "The DataStore is still used by one or more tenants, or holds the registry.");
        else
                (void)set_condition(&store->deletion, FLEET_TRUE, "DataStoreUnused", "");
}

/* ---- dialling */

static void free_items(struct fleet_check_item *items, size_t n_items) {
        for (size_t i = 0; i < n_items; i++) {
                free(items[i].name);
                free(items[i].value);
        }
        free(items);
}

static void on_report(void *userdata, const char *name, const char *value, enum stoke_severity severity) {
        struct store_check *c = userdata;
        struct fleet_check_item *items;

        if (c->n_items >= 64)
                return;
        items = reallocarray(c->items, c->n_items + 1, sizeof(*items));
        check(items);
        c->items = items;
        items[c->n_items].name = strdup(name ? name : "");
        items[c->n_items].value = strdup(value ? value : "");
        items[c->n_items].severity = severity;
        check(items[c->n_items].name && items[c->n_items].value);
        c->n_items++;
}

static int run_check(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct store_check *c = container_of(job, struct store_check, job);

        (void)session;
        return (datastore_driver(job->ds)->check)(datastore_store(job->ds), call, on_report, c); /* not the macro */
}

static void answer(struct fleet_store *store, int result, const char *reason, const struct fleet_check_item *items,
        size_t n_items) {
        STAILQ_HEAD(, store_waiter) due = STAILQ_HEAD_INITIALIZER(due);
        struct store_waiter *waiter;

        STAILQ_CONCAT(&due, &store->waiters);
        while ((waiter = STAILQ_FIRST(&due))) {
                STAILQ_REMOVE_HEAD(&due, entry);
                waiter->done(waiter->userdata, result, reason, items, n_items);
                free(waiter);
        }
}

/* Kamaji's own validation: do the references lead anywhere? */
static bool secrets_are_there(struct fleet_store *store) {
        cleanup(error_done) struct error err = {};
        const char *reason = NULL;
        unsigned line;

        if (secret_check(store->fleet->secrets, NULL, store->definition, &reason, &line, &err) >= 0)
                return true;
        set_validation(store, FLEET_FALSE, reason ? reason : "BasicAuthValidationFailed", error_text(&err));
        return false;
}

/* What a check says of durability stays true until the next one that gets so far. */
static void note_durability(struct fleet_store *store, const struct fleet_check_item *items, size_t n_items) {
        for (size_t i = 0; i < n_items; i++) {
                if (strcmp(items[i].name, "durability") != 0)
                        continue;
                free(steal(store->unsafe));
                if (items[i].severity == STOKE_PROBLEM &&
                        asprintf(&store->unsafe, "it can lose acknowledged writes: %s", items[i].value) < 0)
                        check(false);
                if (store->unsafe)
                        return;
        }
}

const char *store_refusal(const struct fleet_store *store) {
        return store->definition && store->definition->allow_unsafe ? NULL : store->unsafe;
}

void store_update_validation(struct fleet_store *store) {
        const char *refusal = store_refusal(store);

        if (!store->is_dialled)
                return;
        if (store->governance.state == GOVERNANCE_FOREIGN)
                set_validation(store, FLEET_FALSE, "GovernedByAnotherRegistry", store->governance.reason);
        else if (refusal)
                set_validation(store, FLEET_FALSE, "DataStoreUnsafe", refusal);
        else
                set_validation(store, FLEET_TRUE, "DataStoreIsValid", "");
}

void store_hold(
        struct fleet_store *store, enum fleet_condition_status status, const char *reason, const char *message) {
        set_validation(store, status, reason, message);
}

static void validate(struct fleet_store *store, int result, const char *reason) {
        store->is_dialled = result == 0;
        if (result == 0) {
                store_update_validation(store);
                governance_look(store);
        } else if (secrets_are_there(store)) /* which would explain it better */
                set_validation(store, FLEET_FALSE, result == -EACCES ? "DataStoreAccessDenied" : "DataStoreUnreachable",
                        reason);
}

void store_dial_later(struct fleet_store *store, bool good) {
        if (store->fleet->stage == FLEET_RUNNING || store->fleet->stage == FLEET_OPENING)
                loop_timer_set(store->fleet->loop, &store->timer,
                        clock_now_ns() + (good ? CHECK_INTERVAL_NS : CHECK_RETRY_NS));
}

static void on_check_done(struct datastore_job *job) {
        struct store_check *c = container_of(job, struct store_check, job);
        struct fleet_store *store = c->store;
        const char *reason = job->reason[0] ? job->reason : job->result < 0 ? strerror(-job->result) : "";
        bool first = store->validation.status == FLEET_UNKNOWN, good = job->result == 0;
        struct assignment *a, *following;

        store->check = NULL;
        note_durability(store, c->items, c->n_items);
        if (job->result != -ECANCELED)
                validate(store, job->result, reason);
        answer(store, good ? 0 : -EAGAIN, reason, c->items, c->n_items);
        free_items(c->items, c->n_items);
        free(c);
        store_dial_later(store, good);
        for (a = first ? LIST_FIRST(&store->fleet->assignments) : NULL; a; a = following) {
                following = LIST_NEXT(a, entry);
                assignment_step(a); /* some waited for this */
        }
        fleet_settle(store->fleet);
}

static void dial(struct fleet_store *store) {
        struct store_check *c;

        if (store->check || !store->ds)
                return;
        c = new0(struct store_check);
        c->store = store;
        c->job = (struct datastore_job){
                .class = JOB_BULK,
                .deadline_ns = clock_now_ns() + CHECK_TIMEOUT_NS,
                .loop = store->fleet->loop,
                .run = run_check,
                .done = on_check_done,
        };
        store->check = c;
        loop_timer_clear(&store->timer);
        datastore_submit(store->ds, &c->job);
}

static void on_time(struct loop_timer *timer) {
        struct fleet_store *store = container_of(timer, struct fleet_store, timer);

        if (!store->leaving)
                dial(store);
}

void store_check(struct fleet_store *store, fleet_check_fn done, void *userdata) {
        struct store_waiter *waiter = new0(struct store_waiter);

        check(store->ds && !store->leaving);
        waiter->done = done;
        waiter->userdata = userdata;
        STAILQ_INSERT_TAIL(&store->waiters, waiter, entry);
        dial(store);
}

/* ---- opening */

struct fleet_store *store_new(struct fleet *fleet, const struct datastore_definition *definition) {
        struct fleet_store *store = new0(struct fleet_store), *other, *last = NULL;
        struct buf label;

        store->fleet = fleet;
        store->wanted = datastore_definition_ref(definition);
        store->name = strdup(definition->base.name);
        store->driver = strdup(definition->driver);
        check(store->name && store->driver);
        store->timer.on_time = on_time;
        STAILQ_INIT(&store->waiters);
        STAILQ_INIT(&store->governance.waiters);
        store->validation.type = "kamaji.clastix.io/DataStoreValidation";
        store->deletion.type = "kamaji.clastix.io/DataStoreAllowedDeletion";

        buf_init(&label, 0);
        check(metric_label(&label, "datastore", store->name) >= 0 && buf_append(&label, "", 1) >= 0);
        store->ready =
                metric_gauge("stokehold_datastore_ready", "1 if the last dialling succeeded.", (char *)label.data);
        buf_done(&label);
        set_validation(store, FLEET_UNKNOWN, "MissingCondition", "Controller will process the validation.");
        store_update_use(store);

        LIST_FOREACH(other, &fleet->stores, entry) {
                if (strcmp(other->name, store->name) > 0)
                        break;
                last = other;
        }
        if (last)
                LIST_INSERT_AFTER(last, store, entry);
        else
                LIST_INSERT_HEAD(&fleet->stores, store, entry);
        return store;
}

void store_free(struct fleet_store *store) {
        if (!store)
                return;
        check(!store->ds && !store->check);
        governance_done(store);
        LIST_REMOVE(store, entry);
        loop_timer_clear(&store->timer);
        metric_drop("datastore", store->name);
        free(store->unsafe);
        free(store->validation.message);
        free(store->deletion.message);
        datastore_definition_unref(store->definition);
        datastore_definition_unref(store->wanted);
        free(store->driver);
        free(store->name);
        free(store);
}

void store_open(struct fleet_store *store) {
        const struct datastore_definition *definition = store->wanted;
        cleanup(error_done) struct error err = {};
        const struct plugin *plugin;
        struct datastore_config config = {};
        int r;

        check(!store->ds && definition);
        store->leaving = false;
        if (store->definition != definition) {
                datastore_definition_unref(store->definition);
                store->definition = datastore_definition_ref(definition);
        }
        store->secret = (struct datastore_secret){.source = store->fleet->secrets, .definition = definition};
        plugin = plugin_find(store->fleet->plugins, definition->driver, &err);
        if (!plugin) {
                set_validation(store, FLEET_FALSE, "DriverMissing", error_text(&err));
                return;
        }
        config.name = store->name;
        config.plugin = plugin;
        config.endpoints = (const char *const *)definition->endpoints;
        config.n_endpoints = definition->n_endpoints;
        config.settings = definition->settings;
        config.n_settings = definition->n_settings;
        config.n_sessions = definition->n_sessions;
        config.secret = datastore_secret_visit;
        config.secret_userdata = &store->secret;
        memcpy(config.daemon, store->fleet->config.daemon, 16);
        r = datastore_open(&config, &store->ds, &err);
        if (r < 0) {
                store->ds = NULL;
                set_validation(store, FLEET_FALSE, "SettingsRefused", error_text(&err));
                return;
        }
        set_validation(store, FLEET_UNKNOWN, "MissingCondition", "Controller will process the validation.");
        dial(store);
}

void store_close(struct fleet_store *store, uint64_t grace_ns) {
        loop_timer_clear(&store->timer);
        governance_done(store);
        store->is_dialled = false;
        if (store->ds)
                datastore_close(steal(store->ds), grace_ns);
}

struct fleet_store *fleet_find_store(struct fleet *fleet, const char *name) {
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry)
                if (strcmp(store->name, name) == 0)
                        return store;
        return NULL;
}
