#include "control/answer.h"

/*
 * From the fleet's views to messages. A view is valid for its visit only, so all strings are copied into the arena; an arena without a maximum, of
 * sizes that we choose ourselves, does not fail (check).
 */

#include <string.h>
#include <time.h>

#include "fleet/uuid.h"

#define TIME_SIZE 32

struct list {
        struct arena *arena;
        struct fleet *fleet;
        const char *name; /* wanted; "": all */
        void **items;
        size_t n_items, n_allocated;
};

static void *take(struct arena *arena, size_t size) {
        void *p = arena_alloc0(arena, size ? size : 1);

        check(p);
        return p;
}

void *answer_list_add(struct answer_list *list, size_t size) {
        void *item = arena_alloc0(list->arena, size), **items;

        check(item);
        if (list->n_items == list->n_allocated) {
                items = arena_alloc0(list->arena, (list->n_allocated * 2 + 4) * sizeof(*items));
                check(items);
                if (list->n_items)
                        memcpy(items, list->items, list->n_items * sizeof(*items));
                list->items = items;
                list->n_allocated = list->n_allocated * 2 + 4;
        }
        list->items[list->n_items++] = item;
        return item;
}

char *answer_text(struct arena *arena, const char *s) {
        char *copy = arena_string(arena, s ? s : "", s ? strlen(s) : 0);

        check(copy);
        return copy;
}

static char *text_of_buf(struct arena *arena, const struct buf *b) {
        char *copy = arena_string(arena, b->size ? (const char *)b->data : "", b->size);

        check(copy);
        return copy;
}

static char *joined(struct arena *arena, const char *a, const char *b) {
        size_t n = strlen(a), m = strlen(b);
        char *s = take(arena, n + m + 1);

        memcpy(s, a, n);
        memcpy(s + n, b, m);
        return s;
}

char *answer_uuid(struct arena *arena, const uint8_t *uuid) {
        char text[UUID_TEXT_SIZE] = "";

        if (uuid)
                uuid_print(uuid, text);
        return answer_text(arena, text);
}

char *answer_time(struct arena *arena, int64_t seconds) {
        char *s = take(arena, TIME_SIZE);
        time_t t = (time_t)seconds;
        struct tm tm;

        if (seconds && gmtime_r(&t, &tm))
                strftime(s, TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm);
        return s;
}

static void add(struct list *list, void *item) {
        if (list->n_items == list->n_allocated) {
                size_t n = list->n_allocated ? 2 * list->n_allocated : 16;
                void **items = take(list->arena, n * sizeof(*items));

                if (list->n_items)
                        memcpy(items, list->items, list->n_items * sizeof(*items));
                list->items = items;
                list->n_allocated = n;
        }
        list->items[list->n_items++] = item;
}

static char **texts(struct arena *arena, const char *const *from, size_t n) {
        char **to = take(arena, n * sizeof(*to));

        for (size_t i = 0; i < n; i++)
                to[i] = answer_text(arena, from[i]);
        return to;
}

/* ---- datastores */

static const char *path_of(const struct datastore_definition *d) {
        return d && d->path ? d->path : "";
}

static void add_labels(struct list *labels, const struct definition_map *map) {
        for (size_t i = 0; i < map->n_pairs; i++) {
                Stokehold__Control__V1__Datastore__LabelsEntry *entry = take(labels->arena, sizeof(*entry));

                stokehold__control__v1__datastore__labels_entry__init(entry);
                entry->key = answer_text(labels->arena, map->pairs[i].name);
                entry->value = answer_text(labels->arena, map->pairs[i].value);
                add(labels, entry);
        }
}

static void add_conditions(
        struct arena *arena, Stokehold__Control__V1__Datastore *d, const struct fleet_datastore_view *view) {
        struct definition_condition conditions[n_elements(view->conditions)];
        struct datastore_status status = {.ready = view->ready,
                .used_by = view->used_by,
                .n_used_by = view->n_used_by,
                .observed_generation = view->generation,
                .conditions = conditions,
                .n_conditions = n_elements(conditions)};
        struct buf manifest;

        d->n_conditions = n_elements(conditions);
        d->conditions = take(arena, d->n_conditions * sizeof(*d->conditions));
        for (size_t i = 0; i < d->n_conditions; i++) {
                Stokehold__Control__V1__Condition *c = take(arena, sizeof(*c));

                stokehold__control__v1__condition__init(c);
                c->type = answer_text(arena, view->conditions[i]->type);
                c->status = answer_text(arena, fleet_condition_status_name(view->conditions[i]->status));
                c->reason = answer_text(arena, view->conditions[i]->reason);
                c->message = answer_text(arena, view->conditions[i]->message);
                c->last_transition_time = answer_time(arena, view->conditions[i]->since);
                d->conditions[i] = c;
                conditions[i] = (struct definition_condition){
                        c->type, c->status, c->reason, c->message, c->last_transition_time};
        }
        buf_init(&manifest, 0);
        if (view->definition && datastore_definition_print(view->definition, &status, &manifest) >= 0)
                d->manifest = text_of_buf(arena, &manifest);
        buf_done(&manifest);
}

static void on_datastore(void *userdata, const struct fleet_datastore_view *view) {
        struct list *list = userdata, labels = {.arena = list->arena};
        struct arena *arena = list->arena;
        Stokehold__Control__V1__Datastore *d;

        if (list->name[0] && strcmp(list->name, view->name) != 0)
                return;
        d = take(arena, sizeof(*d));
        stokehold__control__v1__datastore__init(d);
        d->name = answer_text(arena, view->name);
        d->driver = answer_text(arena, view->driver);
        if (view->definition) {
                d->n_endpoints = view->definition->n_endpoints;
                d->endpoints = texts(arena, (const char *const *)view->definition->endpoints, d->n_endpoints);
                add_labels(&labels, &view->definition->labels);
                add_labels(&labels, &view->definition->spec_labels);
        }
        d->path = answer_text(arena, path_of(view->definition));
        d->default_ = view->is_default;
        d->system = view->is_system;
        d->ready = view->ready;
        d->n_used_by = view->n_used_by;
        d->used_by = texts(arena, view->used_by, view->n_used_by);
        d->observed_generation = view->generation;
        d->source = answer_text(arena, view->source);
        d->n_labels = labels.n_items;
        d->labels = (Stokehold__Control__V1__Datastore__LabelsEntry **)labels.items;
        d->sessions = view->n_sessions;
        d->max_sessions = view->max_sessions;
        d->commit_p50_ms = (double)view->commit_p50_ns / 1e6;
        d->commit_p99_ms = (double)view->commit_p99_ns / 1e6;
        add_conditions(arena, d, view);
        add(list, d);
}

Stokehold__Control__V1__ListDatastoresResponse *answer_datastores(
        struct fleet *fleet, const char *name, struct arena *arena) {
        struct list list = {.arena = arena, .fleet = fleet, .name = name};
        Stokehold__Control__V1__ListDatastoresResponse *response;

        fleet_each_datastore(fleet, on_datastore, &list);
        if (name[0] && list.n_items == 0)
                return NULL;
        response = take(arena, sizeof(*response));
        stokehold__control__v1__list_datastores_response__init(response);
        response->n_datastores = list.n_items;
        response->datastores = (Stokehold__Control__V1__Datastore **)list.items;
        return response;
}

/* ---- tenants */

static void add_manifest(struct arena *arena, Stokehold__Control__V1__Tenant *t, const struct fleet_tenant_view *view) {
        struct tenant_definition made = {.owner = (uid_t)-1, .group = (gid_t)-1};
        const struct tenant_definition *definition = view->definition;
        struct tenant_status status = {.phase = t->phase,
                .reason = t->reason,
                .condition = t->condition,
                .datastore = t->datastore,
                .incarnation = t->incarnation,
                .socket = t->socket,
                .endpoints = (const char *const *)t->endpoints,
                .n_endpoints = t->n_endpoints,
                .observed_generation = definition ? definition->base.generation : 1,
                .revision = t->revision};
        struct buf manifest;

        if (!definition) {
                made.base.name = t->name;
                made.base.source = t->source;
                made.base.generation = 1;
                made.datastore = t->datastore;
                made.has_quota = true;
                made.quota_bytes = view->quota_bytes;
                made.retain = view->retain;
                made.n_client_names = view->n_client_names;
                made.client_names = take(arena, view->n_client_names * sizeof(*made.client_names));
                for (size_t i = 0; i < view->n_client_names; i++)
                        made.client_names[i].name = answer_text(arena, view->client_names[i]);
                definition = &made;
        }
        buf_init(&manifest, 0);
        if (tenant_definition_print(definition, &status, &manifest) >= 0)
                t->manifest = text_of_buf(arena, &manifest);
        buf_done(&manifest);
}

static char *peers_text(struct arena *arena, const struct fleet_tenant_view *view) {
        struct buf b;
        char *s;

        buf_init(&b, 0);
        for (size_t i = 0; i < view->n_peers; i++)
                check(buf_printf(&b, "%s%u", i ? "," : "", view->peers[i]) >= 0);
        s = text_of_buf(arena, &b);
        buf_done(&b);
        return s;
}

static void add_client_names(
        struct arena *arena, Stokehold__Control__V1__Tenant *t, const struct fleet_tenant_view *view) {
        const struct tenant_definition *d = view->definition;

        if (!d) {
                t->n_client_names = view->n_client_names;
                t->client_names = texts(arena, view->client_names, view->n_client_names);
                return;
        }
        t->n_client_names = d->n_client_names;
        t->client_names = take(arena, d->n_client_names * sizeof(*t->client_names));
        for (size_t i = 0; i < d->n_client_names; i++)
                t->client_names[i] = answer_text(arena, d->client_names[i].name);
}

static void on_tenant(void *userdata, const struct fleet_tenant_view *view) {
        const struct tenant_figures *f = view->figures;
        struct list *list = userdata;
        struct arena *arena = list->arena;
        Stokehold__Control__V1__Tenant *t;
        char incarnation[UUID_TEXT_SIZE];

        t = take(arena, sizeof(*t));
        stokehold__control__v1__tenant__init(t);
        uuid_print(view->incarnation, incarnation);
        t->name = answer_text(arena, view->name);
        t->datastore = answer_text(arena, view->datastore);
        t->phase = answer_text(arena, view->phase);
        t->reason = answer_text(arena, view->reason[0] ? view->reason : f->reason);
        t->condition = answer_text(arena, tenant_condition_name(f->condition));
        t->socket = answer_text(arena, view->socket);
        t->endpoints = take(arena, (2 + view->n_tls_urls) * sizeof(*t->endpoints));
        t->endpoints[t->n_endpoints++] = joined(arena, "unix://", view->socket);
        if (f->tcp[0])
                t->endpoints[t->n_endpoints++] = joined(arena, "http://", f->tcp);
        for (size_t i = 0; i < view->n_tls_urls; i++)
                t->endpoints[t->n_endpoints++] = answer_text(arena, view->tls_urls[i]);
        t->incarnation = answer_text(arena, incarnation);
        t->source = answer_text(arena, view->source);
        t->revision = f->revision;
        t->compacted = f->compacted;
        t->n_keys = f->n_keys;
        t->bytes = f->bytes_log;
        t->bytes_in_use = f->bytes_live;
        t->quota_bytes = view->quota_bytes;
        t->n_connections = f->n_connections;
        t->n_watchers = f->n_watchers;
        t->n_leases = f->n_leases;
        t->memory_bytes = f->bytes_memory;
        t->deletion_policy = (char *)(view->retain ? "Retain" : "Delete");
        t->created = answer_time(arena, view->created);
        t->uid_allow = peers_text(arena, view);
        t->host = answer_text(arena, view->host_name);
        t->elsewhere = view->is_elsewhere;
        add_client_names(arena, t, view);
        t->last_backup = answer_time(arena, view->last_backup);
        t->last_backup_bytes = view->last_backup_bytes;
        t->backup_failure = answer_text(arena, view->backup_failure);
        add_manifest(arena, t, view);
        add(list, t);
}

Stokehold__Control__V1__ListTenantsResponse *answer_tenants(
        struct fleet *fleet, const char *name, struct arena *arena) {
        struct list list = {.arena = arena, .fleet = fleet, .name = name};
        Stokehold__Control__V1__ListTenantsResponse *response;

        if (!name[0])
                fleet_each_tenant(fleet, on_tenant, &list);
        else if (!fleet_find_tenant(fleet, name, on_tenant, &list))
                return NULL;
        response = take(arena, sizeof(*response));
        stokehold__control__v1__list_tenants_response__init(response);
        response->n_tenants = list.n_items;
        response->tenants = (Stokehold__Control__V1__Tenant **)list.items;
        return response;
}

Stokehold__Control__V1__Tenant *answer_tenant(struct fleet *fleet, const char *name, struct arena *arena) {
        Stokehold__Control__V1__ListTenantsResponse *response = NULL;

        if (name[0])
                response = answer_tenants(fleet, name, arena);
        return response ? response->tenants[0] : NULL;
}

/* ---- drivers */

Stokehold__Control__V1__ListDriversResponse *answer_drivers(struct fleet *fleet, struct arena *arena) {
        struct plugin_table *plugins = fleet_plugins(fleet);
        Stokehold__Control__V1__ListDriversResponse *response = take(arena, sizeof(*response));

        stokehold__control__v1__list_drivers_response__init(response);
        response->drivers = take(arena, plugin_count(plugins) * sizeof(*response->drivers));
        for (size_t i = 0; i < plugin_count(plugins); i++) {
                const struct plugin *plugin = plugin_at(plugins, i);
                const struct stoke_driver *driver = plugin->driver;
                Stokehold__Control__V1__Driver *d = take(arena, sizeof(*d));

                stokehold__control__v1__driver__init(d);
                d->name = answer_text(arena, driver->name);
                for (const char *const *alias = driver->aliases; alias && *alias; alias++)
                        d->n_aliases++;
                d->aliases = texts(arena, driver->aliases, d->n_aliases);
                d->version = answer_text(arena, driver->version);
                d->maturity = answer_text(arena, driver->maturity == STOKE_STABLE ? "stable" : "experimental");
                d->allowed = plugin->allowed;
                d->path = answer_text(arena, plugin->path);
                d->exclusive = driver->capabilities & STOKE_EXCLUSIVE;
                d->notifies = driver->capabilities & STOKE_NOTIFIES;
                response->drivers[response->n_drivers++] = d;
        }
        response->refused = take(arena, plugin_refusal_count(plugins) * sizeof(*response->refused));
        for (size_t i = 0; i < plugin_refusal_count(plugins); i++) {
                const struct plugin_refusal *refusal = plugin_refusal_at(plugins, i);
                Stokehold__Control__V1__RefusedPlugin *r = take(arena, sizeof(*r));

                stokehold__control__v1__refused_plugin__init(r);
                r->path = answer_text(arena, refusal->path);
                r->reason = answer_text(arena, refusal->reason);
                response->refused[response->n_refused++] = r;
        }
        return response;
}

/* ---- the whole */

static void on_problem(void *userdata, const char *line) {
        struct list *list = userdata;

        add(list, answer_text(list->arena, line));
}

static void on_daemon(void *userdata, const struct fleet_daemon_view *view) {
        struct list *list = userdata;
        Stokehold__Control__V1__Daemon *d = take(list->arena, sizeof(*d));

        stokehold__control__v1__daemon__init(d);
        d->host_id = answer_text(list->arena, view->host);
        d->host = answer_text(list->arena, view->name);
        d->daemon = answer_text(list->arena, view->daemon);
        d->version = answer_text(list->arena, view->version);
        d->oldest_format = view->formats.oldest;
        d->current_format = view->formats.current;
        d->since = answer_time(list->arena, view->since);
        d->n_tenants_serving = view->n_serving;
        d->self = view->is_self;
        add(list, d);
}

void answer_status(struct fleet *fleet, Stokehold__Control__V1__StatusResponse *response, struct arena *arena) {
        struct list problems = {.arena = arena}, daemons = {.arena = arena};
        struct fleet_summary summary;

        fleet_get_summary(fleet, &summary);
        response->n_shards = summary.n_shards;
        response->n_tenants = (uint32_t)summary.n_tenants;
        response->n_tenants_serving = (uint32_t)summary.n_serving;
        response->n_datastores = (uint32_t)summary.n_datastores;
        response->n_datastores_ready = (uint32_t)summary.n_ready;
        response->n_connections = summary.n_connections;
        response->memory_bytes = fleet_resident_bytes();
        response->cache_bytes = summary.cache_bytes;
        response->cache_max_bytes = summary.cache_max_bytes;
        response->memory_max_bytes = summary.memory_max_bytes;
        response->keyspace_bytes = summary.keyspace_bytes;
        response->n_tenants_quarantined = (uint32_t)summary.n_quarantined;
        response->registry_datastore = answer_text(arena, summary.registry_datastore);
        response->registry = answer_text(arena, summary.registry_id);
        response->registry_shared = summary.registry_shared;
        response->tls_address = answer_text(arena, summary.tls_address ? summary.tls_address : "");
        response->format = summary.format;
        response->oldest_format = summary.formats.oldest;
        response->current_format = summary.formats.current;
        response->definitions_generation = summary.definitions_generation;
        response->copy_revision = summary.copy_revision;
        response->copy_saved = answer_time(arena, summary.copy_saved);
        fleet_each_daemon(fleet, on_daemon, &daemons);
        response->n_daemons = daemons.n_items;
        response->daemons = (Stokehold__Control__V1__Daemon **)daemons.items;
        fleet_problems(fleet, on_problem, &problems);
        response->n_problems = problems.n_items;
        response->problems = (char **)problems.items;
}
