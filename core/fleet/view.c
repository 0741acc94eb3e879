#include "fleet/state.h"

/*
 * What others may see of the fleet: views whose pointers are borrowed from it, made for one visit. Main loop only.
 */

#include <string.h>

#include "fleet/credentials.h"
#include "fleet/endpoint.h"

static void visit_datastore(struct fleet_store *store,
        void (*visit)(void *userdata, const struct fleet_datastore_view *view), void *userdata) {
        struct fleet *fleet = store->fleet;
        const char *registry = registry_datastore(fleet->registry);
        const struct datastore_definition *definition = store->definition ? store->definition : store->wanted;
        cleanup(freep) const char **used_by = NULL;
        struct datastore_figures figures = {};
        struct fleet_datastore_view view;
        struct assignment *a;
        size_t n = 0;

        LIST_FOREACH(a, &fleet->assignments, entry)
                n++;
        used_by = xcalloc(n, sizeof(*used_by));
        n = 0;
        LIST_FOREACH(a, &fleet->assignments, entry) {
                const struct registry_record *record = assignment_record(a);

                if (record && (strcmp(record->datastore, store->name) == 0 || migration_uses(a, store)))
                        used_by[n++] = a->name;
        }
        if (store->ds)
                datastore_figures(store->ds, &figures);

        view = (struct fleet_datastore_view){
                .name = store->name,
                .definition = definition,
                .driver = store->driver,
                .source = store->wanted ? store->wanted->base.source : definition->base.source,
                .is_default = strcmp(fleet->definitions->default_datastore->base.name, store->name) == 0,
                .is_system = registry && strcmp(registry, store->name) == 0,
                .ready = store->validation.status == FLEET_TRUE,
                .used_by = used_by,
                .n_used_by = n,
                .conditions = {&store->validation, &store->deletion},
                .generation = definition->base.generation,
                .n_sessions = figures.n_sessions,
                .max_sessions = figures.max_sessions,
                .commit_p50_ns = figures.commit_p50_ns,
                .commit_p99_ns = figures.commit_p99_ns,
        };
        visit(userdata, &view);
}

void fleet_each_datastore(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_datastore_view *view), void *userdata) {
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry) {
                store_update_use(store);
                visit_datastore(store, visit, userdata);
        }
}

void assignment_view(struct assignment *a, struct fleet_tenant_view *ret, char **ret_socket) {
        const struct registry_record *record = assignment_record(a);
        const char *quarantined = quarantine_reason(a->fleet->quarantine, a->name);
        struct backup_plan_view backups;

        backup_plan_get(a, &backups);
        *ret_socket = tenant_socket_path(a->fleet->tenants_dir, a->name);
        *ret = (struct fleet_tenant_view){
                .name = a->name,
                .datastore = record->datastore,
                .phase = record->phase == REGISTRY_DELETING ? registry_phase_name(record->phase)
                        : quarantined                       ? "Quarantined"
                        : a->reason && !a->serving          ? "Failed"
                                                            : registry_phase_name(record->phase),
                .reason = a->reason   ? a->reason
                        : quarantined ? quarantined
                                      : "",
                .incarnation = record->incarnation,
                .source = record->source,
                .socket = *ret_socket,
                .definition = definitions_find_tenant(a->fleet->definitions, a->name),
                .quota_bytes = a->wanted.quota_bytes,
                .retain = record->retain,
                .serving = a->serving && !a->busy,
                .created = record->created,
                .host = record->host,
                .host_name = record->host_name,
                .is_elsewhere = assignment_is_elsewhere(a),
                .last_backup = backups.last,
                .last_backup_bytes = backups.bytes,
                .backup_failure = backups.reason,
                .peers = a->wanted.peers,
                .n_peers = a->wanted.n_peers,
                .client_names = (const char *const *)record->client_names,
                .n_client_names = record->n_client_names,
                .figures = &a->figures,
        };
        ret->tls_urls = endpoint_urls(a, &ret->n_tls_urls);
}

static void visit_tenant(
        struct assignment *a, void (*visit)(void *userdata, const struct fleet_tenant_view *view), void *userdata) {
        cleanup(freep) char *socket = NULL;
        struct fleet_tenant_view view;

        if (!assignment_record(a))
                return;
        assignment_view(a, &view, &socket);
        visit(userdata, &view);
}

void fleet_each_tenant(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_tenant_view *view), void *userdata) {
        struct assignment *a;

        LIST_FOREACH(a, &fleet->assignments, entry)
                visit_tenant(a, visit, userdata);
}

bool fleet_find_tenant(struct fleet *fleet, const char *name,
        void (*visit)(void *userdata, const struct fleet_tenant_view *view), void *userdata) {
        struct assignment *a = fleet_find_assignment(fleet, name);

        if (!a || !assignment_record(a))
                return false;
        visit_tenant(a, visit, userdata);
        return true;
}

void fleet_get_summary(struct fleet *fleet, struct fleet_summary *ret) {
        const char *registry = registry_datastore(fleet->registry);
        struct memory_figures memory;
        struct fleet_store *store;
        struct assignment *a;

        *ret = (struct fleet_summary){.n_shards = (unsigned)fleet->n_shards,
                .registry_datastore = registry ? registry : "",
                .registry_open = fleet_is_running(fleet),
                .registry_id = fleet_is_running(fleet) ? registry_id(fleet->registry) : "",
                .registry_shared = fleet->shared_registry,
                .tls_address = endpoint_address(fleet),
                .format = fleet_is_running(fleet) ? registry_format(fleet->registry) : 0,
                .formats = *registry_formats(fleet->registry),
                .definitions_generation = fleet->agreement.force.generation,
                .copy_revision = fleet->from_copy ? fleet->copy.revision : 0,
                .copy_saved = fleet->from_copy ? fleet->copy.saved : 0};
        LIST_FOREACH(store, &fleet->stores, entry) {
                ret->n_datastores++;
                ret->n_ready += store->validation.status == FLEET_TRUE;
        }
        LIST_FOREACH(a, &fleet->assignments, entry) {
                ret->n_tenants++;
                ret->n_serving += a->figures.condition == KEYSPACE_SERVING;
                ret->n_connections += a->figures.n_connections;
                ret->n_quarantined += a->wanted.quarantined;
        }
        memory_get_figures(fleet->memory, &memory);
        ret->memory_max_bytes = memory.max_bytes;
        ret->keyspace_bytes = memory.state_bytes;
        for (size_t i = 0; i < fleet->n_shards; i++) {
                ret->cache_bytes += fleet->shard_cache[i].bytes;
                ret->cache_max_bytes += fleet->shard_cache[i].max_bytes;
        }
}

void fleet_each_daemon(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_daemon_view *view), void *userdata) {
        const struct member *members;
        char daemon[UUID_TEXT_SIZE];
        struct fleet_daemon_view self;
        struct assignment *a;
        size_t n;

        uuid_print(fleet->config.daemon, daemon);
        self = (struct fleet_daemon_view){.host = fleet->host.id,
                .name = fleet->host.name,
                .daemon = daemon,
                .version = fleet->config.version ? fleet->config.version : "",
                .formats = *registry_formats(fleet->registry),
                .since = members_since(fleet->members),
                .is_self = true};
        LIST_FOREACH(a, &fleet->assignments, entry)
                self.n_serving += a->serving != NULL;
        visit(userdata, &self);
        members = members_list(fleet->members, &n);
        for (size_t i = 0; i < n; i++) {
                const struct member *m = &members[i];
                const struct fleet_daemon_view view = {.host = m->host,
                        .name = m->name,
                        .daemon = m->daemon,
                        .version = m->version,
                        .formats = m->formats,
                        .since = m->since,
                        .n_serving = m->n_serving};

                if (strcmp(m->host, fleet->host.id) != 0)
                        visit(userdata, &view);
        }
}

void fleet_problems(struct fleet *fleet, void (*visit)(void *userdata, const char *line), void *userdata) {
        struct memory_figures memory;
        struct fleet_store *store;
        struct assignment *a;

        if (fleet->registry_reason) {
                cleanup(freep) char *line = NULL;

                check(asprintf(&line, "registry: %s", fleet->registry_reason) > 0);
                visit(userdata, line);
        }
        if (fleet->unfit && !fleet->registry_reason)
                visit(userdata, fleet->unfit);
        if (members_trouble(fleet->members))
                visit(userdata, members_trouble(fleet->members));
        if (fleet->from_copy) {
                cleanup(freep) char *line = NULL;

                check(asprintf(&line,
                              "registry: tenants are served as its copy of revision %lld has them; nothing can be changed",
                              (long long)fleet->copy.revision) > 0);
                visit(userdata, line);
        }
        for (size_t i = 0; i < fleet->n_errors; i++)
                visit(userdata, fleet->errors[i]);
        if (fleet_is_running(fleet))
                agreement_problems(fleet, visit, userdata);
        endpoint_problems(fleet, visit, userdata);
        credentials_problems(fleet->config.settings, visit, userdata);
        LIST_FOREACH(store, &fleet->stores, entry) {
                cleanup(freep) char *line = NULL;

                if (store->validation.status != FLEET_FALSE)
                        continue;
                check(asprintf(&line, "datastore %s: %s: %s", store->name, store->validation.reason,
                              store->validation.message) > 0);
                visit(userdata, line);
        }
        memory_get_figures(fleet->memory, &memory);
        if (memory.max_bytes && memory.state_bytes > memory.max_bytes) {
                cleanup(freep) char *line = NULL;

                check(asprintf(&line, "memory: keyspaces that are in use take %.1f MiB, of %.1f MiB that they may have",
                              (double)memory.state_bytes / 1048576, (double)memory.max_bytes / 1048576) > 0);
                visit(userdata, line);
        }
        LIST_FOREACH(a, &fleet->assignments, entry) {
                cleanup(freep) char *line = NULL;
                const char *quarantined = quarantine_reason(fleet->quarantine, a->name);
                bool sick = a->figures.condition == KEYSPACE_UNREACHABLE ||
                        a->figures.condition == KEYSPACE_HISTORY_LOST || a->figures.condition == KEYSPACE_DROPPED ||
                        a->figures.condition == KEYSPACE_NO_MEMORY;
                struct backup_plan_view backups;

                backup_plan_get(a, &backups);
                if (backups.reason[0]) {
                        check(asprintf(&line, "tenant %s: no backup could be made: %s", a->name, backups.reason) > 0);
                        visit(userdata, line);
                        free(steal(line));
                }
                if (a->want_reason && a->want_datastore) {
                        cleanup(freep) char *move = NULL;

                        check(asprintf(&move,
                                      "tenant %s: cannot be moved to datastore %s, where its definition says: %s",
                                      a->name, a->want_datastore, a->want_reason) > 0);
                        visit(userdata, move);
                }
                if (!a->reason && !sick && !quarantined)
                        continue;
                check(asprintf(&line, "tenant %s: %s%s", a->name, !a->reason && quarantined ? "quarantined: " : "",
                              a->reason             ? a->reason
                                      : quarantined ? quarantined
                                                    : a->figures.reason) > 0);
                visit(userdata, line);
        }
}

struct plugin_table *fleet_plugins(struct fleet *fleet) {
        return fleet->plugins;
}

const struct settings *fleet_settings(struct fleet *fleet) {
        return fleet->config.settings;
}
