#include "fleet/state.h"

/*
 * From definitions to what runs. A set of definitions is read, put in force, and compared with the datastores and tenants that there are: what is new is
 * made, what has changed is opened or served anew, what has gone is closed or deleted. Nothing is deleted for being absent
 * while any document could not be taken, for it may be the one that is meant.
 */

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fleet/endpoint.h"

#define RELOAD_DELAY_NS (200 * NSEC_PER_MSEC)

static void add_error(struct fleet *fleet, const char *format, ...) printf_like(2, 3);
static void add_error(struct fleet *fleet, const char *format, ...) {
        char **errors = reallocarray(fleet->errors, fleet->n_errors + 1, sizeof(*errors));
        va_list ap;

        check(errors);
        fleet->errors = errors;
        va_start(ap, format);
        if (vasprintf(&errors[fleet->n_errors], format, ap) < 0)
                check(false);
        va_end(ap);
        fleet->n_errors++;
}

static void drop_errors(struct fleet *fleet, size_t keep) {
        while (fleet->n_errors > keep)
                free(fleet->errors[--fleet->n_errors]);
        if (keep == 0) {
                free(fleet->errors);
                fleet->errors = NULL;
        }
}

void fleet_forget_definitions(struct fleet *fleet) {
        drop_errors(fleet, 0);
        definitions_free(fleet->candidate);
        fleet->candidate = NULL;
        definitions_free(fleet->definitions);
        fleet->definitions = NULL;
        secret_source_unref(fleet->secrets);
        fleet->secrets = NULL;
}

bool fleet_is_declared(const struct fleet *fleet, const char *name) {
        return definitions_find_tenant(fleet->definitions, name);
}

/* ---- reading */

static const char *on_driver(void *userdata, const char *name, struct error *reterr) {
        struct fleet *fleet = userdata;
        const struct plugin *plugin = plugin_find(fleet->plugins, name, reterr);

        return plugin ? plugin->driver->name : NULL;
}

static enum definition_use on_use(void *userdata, const char *datastore, definition_declared_fn declared, void *next) {
        struct fleet *fleet = userdata;
        struct fleet_store *store = fleet_find_store(fleet, datastore);
        enum definition_use use = DEFINITION_UNUSED;
        struct assignment *a;

        if (!store)
                return DEFINITION_UNUSED;
        if (store == fleet->registry_store)
                return DEFINITION_USED;
        LIST_FOREACH(a, &fleet->assignments, entry) {
                const struct registry_record *record = assignment_record(a);

                if (!record || (strcmp(record->datastore, datastore) != 0 && !migration_uses(a, store)))
                        continue;
                if (!a->want_delete && record->phase != REGISTRY_DELETING &&
                        (!record->from_file || declared(next, a->name)))
                        return DEFINITION_USED;
                use = DEFINITION_LEAVING;
        }
        fleet->leaving |= use == DEFINITION_LEAVING;
        return use;
}

/* No document at all, where there were some: more likely a directory that is not mounted than a wish. */
static bool looks_lost(const struct fleet *fleet, const struct definitions *set) {
        if (fleet->applied || set->n_tenants || set->n_secrets)
                return false;
        for (size_t i = 0; i < set->n_datastores; i++)
                if (set->datastores[i]->base.file)
                        return false;
        return true;
}

/* Whether several daemons may have the registry open, as far as can be told before it is. */
static bool registry_is_shared(struct fleet *fleet) {
        const char *name = registry_datastore(fleet->registry);
        const struct datastore_definition *d =
                name ? definitions_find_datastore(fleet->definitions, name) : fleet->definitions->system_datastore;
        cleanup(error_done) struct error err = {};
        const struct plugin *plugin = d ? plugin_find(fleet->plugins, d->driver, &err) : NULL;

        return !plugin || !(plugin->driver->capabilities & STOKE_EXCLUSIVE);
}

/* Into the candidate; at the start, into the set itself, of which nothing is applied yet. */
static int read_definitions(struct fleet *fleet, bool enforce) {
        const struct settings *settings = fleet->config.settings;
        struct definitions_config config = {
                .directory = settings->definitions_dir,
                .state_dir = settings->state_dir,
                .secrets = fleet->secrets,
                .driver = on_driver,
                .use = on_use,
                .userdata = fleet,
        };
        struct definition_problems problems = {};
        struct definitions *set = NULL;
        int r;

        fleet->leaving = false;
        r = definitions_load(&config, fleet->candidate ? fleet->candidate : fleet->definitions, &set, &problems);
        if (r < 0)
                return r;
        definitions_free(fleet->candidate);
        fleet->candidate = NULL;
        if (fleet->adopted && (fleet_is_running(fleet) || fleet->shared_registry))
                fleet->candidate = set;
        else {
                secret_source_set(fleet->secrets, set);
                definitions_free(fleet->definitions);
                fleet->definitions = set;
        }
        if (fleet->stage == FLEET_NEW || fleet->stage == FLEET_OPENING)
                fleet->shared_registry = registry_is_shared(fleet);
        if (!fleet->shared_registry)
                fleet->adopted = true;

        drop_errors(fleet, 0);
        fleet->refused = false;
        for (size_t i = 0; i < problems.n_items; i++) {
                log_warning("%s", problems.items[i].text);
                add_error(fleet, "%s", problems.items[i].text);
                fleet->refused |= problems.items[i].refused;
        }
        fleet->n_definition_errors = fleet->n_errors;
        definition_problems_done(&problems);
        agreement_read(fleet, !(fleet->refused && !fleet->was_read) && !looks_lost(fleet, set), enforce);
        fleet->was_read = true;
        return 0;
}

/* The datastore may be opened as it is defined here: it holds the registry, or the definitions are in force, or this one is. */
static bool may_open(const struct fleet *fleet, const struct datastore_definition *definition) {
        const char *registry = registry_datastore(fleet->registry);

        if (!registry)
                registry = fleet->definitions->system_datastore->base.name;
        return fleet->adopted || strcmp(definition->base.name, registry) == 0 || agreement_has(fleet, definition);
}

void fleet_open_store(struct fleet_store *store) {
        struct fleet *fleet = store->fleet;

        if (may_open(fleet, store->wanted))
                store_open(store);
        else if (fleet->agreement.differs || fleet->from_copy)
                store_hold(
                        store, FLEET_FALSE, "DefinitionDiffers", "its definition here is not the one that is in force");
        else
                store_hold(store, FLEET_UNKNOWN, "DefinitionNotInForce",
                        "it is opened when the registry has said what is in force");
}

/* ---- datastores */

static void want(struct fleet_store *store, const struct datastore_definition *definition) {
        if (store->wanted == definition)
                return;
        datastore_definition_unref(store->wanted);
        store->wanted = definition ? datastore_definition_ref(definition) : NULL;
}

static void update_store(struct fleet_store *store, const struct datastore_definition *definition) {
        struct fleet *fleet = store->fleet;

        if (store->definition && store->definition->base.fingerprint == definition->base.fingerprint) {
                /* The same, perhaps on another line. What is open goes on with the definition that it was opened with. */
                want(store, definition);
                store->leaving = false;
                if (!store->ds && !store->check)
                        fleet_open_store(store); /* its driver may have come */
                return;
        }
        if (!store->ds && !store->check && store->wanted && !store->definition) {
                want(store, definition); /* was never opened */
                fleet_open_store(store);
                return;
        }
        if (store == fleet->registry_store) {
                add_error(fleet,
                        "%s: datastore %s holds the registry: the change takes effect when the daemon is started anew",
                        definition->base.source, store->name);
                fleet->n_definition_errors = fleet->n_errors;
                return;
        }
        want(store, definition);
        store->leaving = true;
}

void fleet_apply_datastores(struct fleet *fleet) {
        const struct definitions *set = fleet->definitions;
        const char *registry = registry_datastore(fleet->registry);
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry)
                if (!definitions_find_datastore(set, store->name)) {
                        want(store, NULL);
                        store->leaving = true;
                }
        for (size_t i = 0; i < set->n_datastores; i++) {
                store = fleet_find_store(fleet, set->datastores[i]->base.name);
                if (store) {
                        update_store(store, set->datastores[i]);
                        continue;
                }
                store = store_new(fleet, set->datastores[i]);
                fleet_open_store(store);
        }
        if (registry && strcmp(registry, set->system_datastore->base.name) != 0) {
                add_error(fleet,
                        "%s: the registry is in datastore %s and stays there: moving it is not supported by this version",
                        set->system_datastore->base.source, registry);
                fleet->n_definition_errors = fleet->n_errors;
        }
        fleet_settle(fleet);
}

/* ---- tenants */

static void update_manner(struct assignment *a) {
        const struct settings *settings = a->fleet->config.settings;
        const struct registry_record *record = assignment_record(a);
        const struct tenant_definition *d = definitions_find_tenant(a->fleet->definitions, a->name);
        struct tenant_manner *m = &a->wanted;

        tenant_manner_done(m);
        m->quota_bytes = settings->default_quota_bytes;
        m->auto_compact_ns = settings->auto_compaction_ns;
        m->progress_notify_ns = settings->progress_notify_ns;
        m->slow_ns = settings->slow_request_ns;
        m->idle_close_ns = settings->idle_close_ns;
        m->quarantined = quarantine_reason(a->fleet->quarantine, a->name);
        m->socket_mode = settings->socket_mode;
        m->owner = (uid_t)-1;
        m->group = (gid_t)-1;
        if (!d) {
                if (record->quota_bytes)
                        m->quota_bytes = record->quota_bytes;
                return;
        }
        if (d->has_quota)
                m->quota_bytes = d->quota_bytes;
        if (d->has_auto_compact)
                m->auto_compact_ns = d->auto_compact_ns;
        if (d->has_socket_mode)
                m->socket_mode = d->socket_mode;
        m->owner = d->owner;
        m->group = d->group;
        if (d->tcp) {
                m->tcp = strdup(d->tcp);
                check(m->tcp);
        }
        if (d->n_peers) {
                m->peers = reallocarray(NULL, d->n_peers, sizeof(*m->peers));
                check(m->peers);
                memcpy(m->peers, d->peers, d->n_peers * sizeof(*m->peers));
                m->n_peers = d->n_peers;
        }
}

void assignment_update_manner(struct assignment *a) {
        update_manner(a);
        backup_plan_update(a);
}

static void apply_definition(struct fleet *fleet, const struct tenant_definition *d) {
        struct assignment *a = fleet_find_assignment(fleet, d->base.name);
        const char *datastore = d->datastore ? d->datastore : fleet->definitions->default_datastore->base.name;
        const struct registry_record *record;

        if (registry_keeps_name(d->base.name)) {
                add_error(fleet, "%s: \"%s\" is the daemon's own keyspace, and no name for a tenant", d->base.source,
                        d->base.name);
                return;
        }
        if (!a) {
                a = fleet_assign(fleet, d->base.name, datastore, d->has_quota ? d->quota_bytes : 0, d->retain,
                        d->base.source, true);
                assignment_step(a);
                return;
        }
        record = assignment_record(a);
        if (a->gone || a->want_delete || !record || record->phase == REGISTRY_DELETING)
                return; /* applied again when it is gone */
        migration_want(a, d->datastore && strcmp(d->datastore, record->datastore) != 0 ? d->datastore : NULL);

        free(a->change_source);
        a->change_source = NULL;
        /* Where it stands may differ from host to host. */
        if ((strcmp(record->source, d->base.source) != 0 && !fleet->shared_registry) || !record->from_file ||
                record->retain != d->retain || record->quota_bytes != (d->has_quota ? d->quota_bytes : 0)) {
                a->change_source = strdup(d->base.source);
                check(a->change_source);
                a->change_from_file = true;
                a->change_retain = d->retain;
                a->change_quota = d->has_quota ? d->quota_bytes : 0;
        }
        assignment_update_manner(a);
        assignment_hurry(a);
}

void fleet_apply_tenants(struct fleet *fleet) {
        const struct definitions *set = fleet->definitions;
        struct assignment *a, *following;
        bool lost = looks_lost(fleet, set);

        drop_errors(fleet, fleet->n_definition_errors);
        for (size_t i = 0; i < set->n_tenants; i++)
                apply_definition(fleet, set->tenants[i]);

        for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                const struct registry_record *record = assignment_record(a);

                following = LIST_NEXT(a, entry);
                if (fleet_is_declared(fleet, a->name) || a->gone)
                        continue;
                assignment_update_manner(a);
                if (record->from_file && !a->want_delete && record->phase != REGISTRY_DELETING) {
                        if (fleet->refused || lost) {
                                add_error(fleet, "%s: tenant %s is no longer declared there; it is kept, since %s",
                                        record->source, a->name,
                                        lost ? "the directory holds no definition at all"
                                             : "not all definitions could be taken");
                        } else {
                                log_notice("tenant %s is no longer declared in %s: deleting it%s", a->name,
                                        record->source, record->retain ? ", keeping its data" : "");
                                a->want_delete = true;
                                a->want_retain = record->retain;
                        }
                }
                assignment_hurry(a);
        }
        for (size_t i = fleet->n_definition_errors; i < fleet->n_errors; i++)
                log_warning("%s", fleet->errors[i]);
        fleet->applied |= !lost; /* while all is missing, each reading asks anew */
        endpoint_changed(fleet);
        fleet_settle(fleet);
}

void fleet_adopt_definitions(struct fleet *fleet) {
        if (fleet->candidate) {
                secret_source_set(fleet->secrets, fleet->candidate);
                definitions_free(fleet->definitions);
                fleet->definitions = steal(fleet->candidate);
        }
        fleet->adopted = true;
        fleet_apply_datastores(fleet);
        fleet_apply_tenants(fleet);
        log_info("definitions read: %zu datastores, %zu tenants, %zu problems", fleet->definitions->n_datastores,
                fleet->definitions->n_tenants, fleet->n_errors);
}

/* ---- start and reload */

int fleet_start_definitions(struct fleet *fleet, struct error *reterr) {
        int r;

        r = secret_source_new(fleet->config.settings->secrets_dir, getenv("CREDENTIALS_DIRECTORY"), &fleet->secrets);
        if (r < 0)
                return error_set(reterr, r, "secrets: %s", strerror(-r));
        r = read_definitions(fleet, false);
        if (r < 0)
                return error_set(reterr, r, "definitions: %s", strerror(-r));
        fleet_apply_datastores(fleet);
        return 0;
}

#define RELOAD_PATIENCE_NS (8 * NSEC_PER_SEC)

struct reload_answer {
        struct loop_task task;
        struct fleet *fleet;
        fleet_reload_fn done;
        void *userdata;
        STAILQ_ENTRY(reload_answer) entry;
};

struct line_list {
        char **lines;
        size_t n_lines;
};

static void on_line(void *userdata, const char *line) {
        struct line_list *list = userdata;

        list->lines = reallocarray(list->lines, list->n_lines + 1, sizeof(*list->lines));
        check(list->lines);
        list->lines[list->n_lines] = strdup(line);
        check(list->lines[list->n_lines++]);
}

static void on_reload_answer(struct loop_task *task) {
        struct reload_answer *answer = container_of(task, struct reload_answer, task);
        struct fleet *fleet = answer->fleet;
        struct line_list list = {};

        for (size_t i = 0; i < fleet->n_errors; i++)
                on_line(&list, fleet->errors[i]);
        agreement_problems(fleet, on_line, &list);
        answer->done(answer->userdata, (const char *const *)list.lines, list.n_lines);
        for (size_t i = 0; i < list.n_lines; i++)
                free(list.lines[i]);
        free(list.lines);
        free(answer);
}

void fleet_answer_reloads(struct fleet *fleet) {
        struct reload_answer *answer;

        loop_timer_clear(&fleet->reloads_timer);
        while ((answer = STAILQ_FIRST(&fleet->reloads))) {
                STAILQ_REMOVE_HEAD(&fleet->reloads, entry);
                loop_defer(fleet->loop, &answer->task);
        }
}

static void read_again(struct fleet *fleet, bool enforce) {
        int r;

        loop_timer_clear(&fleet->reload_timer);
        r = plugin_table_allow(fleet->plugins, (const char *const *)fleet->config.settings->experimental,
                fleet->config.settings->n_experimental);
        if (r < 0)
                log_error("plugins: %s", strerror(-r));
        plugin_table_scan(fleet->plugins);
        throttle_set(fleet->throttle, fleet->config.settings->migration.bandwidth_bytes);
        endpoint_changed(fleet);
        r = read_definitions(fleet, enforce);
        if (r < 0)
                log_error("definitions: %s", strerror(-r));
        if (fleet_is_running(fleet))
                return; /* what was read is applied, or not, once it is known what is in force */
        fleet_apply_datastores(fleet);
        fleet_registry_hurry(fleet);
        log_info("definitions read: %zu datastores, %zu tenants, %zu problems", fleet->definitions->n_datastores,
                fleet->definitions->n_tenants, fleet->n_errors);
}

void fleet_reload(struct fleet *fleet, bool enforce, fleet_reload_fn done, void *userdata) {
        struct reload_answer *answer;

        if (fleet->stage == FLEET_OPENING || fleet->stage == FLEET_RUNNING)
                read_again(fleet, enforce);
        if (!done)
                return;
        answer = new0(struct reload_answer);
        answer->task.run = on_reload_answer;
        answer->fleet = fleet;
        answer->done = done;
        answer->userdata = userdata;
        STAILQ_INSERT_TAIL(&fleet->reloads, answer, entry);
        if (!fleet_is_running(fleet) || agreement_is_settled(fleet))
                fleet_answer_reloads(fleet);
        else
                loop_timer_set(fleet->loop, &fleet->reloads_timer, clock_now_ns() + RELOAD_PATIENCE_NS);
}

void fleet_definitions_changed(struct fleet *fleet) {
        if ((fleet->stage == FLEET_OPENING || fleet->stage == FLEET_RUNNING) && !fleet->reload_timer.position)
                loop_timer_set(fleet->loop, &fleet->reload_timer, clock_now_ns() + RELOAD_DELAY_NS);
}
