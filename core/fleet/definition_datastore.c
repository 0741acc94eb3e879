/*
 * kind: DataStore, in both its versions. kamaji.clastix.io/v1alpha1 is Kamaji's schema and its CEL rules, with their
 * messages as they are; stokehold/v1alpha1 has more fields and asks for fewer. Runs on the main thread; what comes out
 * never changes again. Its credentials are definition_credentials.c.
 */

#include <ctype.h>
#include <limits.h>
#include <string.h>

#include "fleet/definition_credentials.h"
#include "fleet/definition_kind.h"
#include "keyspace/record.h"

#define KAMAJI_VERSION "kamaji.clastix.io/v1alpha1"

static const char *const kamaji_drivers[] = {"etcd", "MySQL", "PostgreSQL", "NATS"};

static bool is_kamaji_driver(const char *driver) {
        for (size_t i = 0; i < n_elements(kamaji_drivers); i++)
                if (strcmp(kamaji_drivers[i], driver) == 0)
                        return true;
        return false;
}

void datastore_definition_free(struct datastore_definition *d) {
        if (!d)
                return;
        definition_base_done(&d->base);
        definition_map_done(&d->labels);
        definition_map_done(&d->annotations);
        free(d->driver);
        strings_free(d->endpoints, d->n_endpoints);
        for (size_t i = 0; i < n_elements(d->secrets); i++)
                content_ref_done(&d->secrets[i]);
        definition_map_done(&d->spec_labels);
        for (size_t i = 0; i < d->n_taints; i++) {
                free(d->taints[i].key);
                free(d->taints[i].value);
                free(d->taints[i].effect);
        }
        free(d->taints);
        free(d->path);
        definition_map_done(&d->parameters);
        free(d->settings);
        free(d);
}

/* ---- driver and endpoints */

static int parse_driver(const struct node_reader *reader, const struct node_at *spec,
        const struct definitions_config *config, struct datastore_definition *d) {
        cleanup(error_done) struct error why = {};
        const char *written = NULL, *driver;
        int r;

        r = node_required(reader, spec, "driver");
        if (r < 0)
                return r;
        r = node_string(reader, spec, "driver", &written);
        if (r < 0)
                return r;
        if (d->is_kamaji && !is_kamaji_driver(written))
                return node_field_fail(reader, spec, "driver",
                        "Unsupported value: \"%s\": supported values: \"etcd\", \"MySQL\", \"PostgreSQL\", \"NATS\"",
                        written);

        driver = config->driver ? config->driver(config->userdata, written, &why) : written;
        if (!driver)
                return node_field_fail(reader, spec, "driver", "%s", why.text ? why.text : "there is no such driver");
        d->driver_line = node_field(spec, "driver")->line;
        return string_copy(driver, &d->driver);
}

/* As Go's net.SplitHostPort and Atoi take it, without what cannot be dialled. NULL: good. */
static const char *endpoint_mistake(const char *text) {
        const char *colon = strrchr(text, ':'), *host_end;
        unsigned long port;

        for (const char *p = text; *p; p++)
                if (isspace((unsigned char)*p) || iscntrl((unsigned char)*p) || *p == '/' || *p == '@')
                        return "must be a bare host:port";
        if (!colon)
                return "missing port in address";
        if (*text == '[') {
                host_end = strchr(text, ']');
                if (!host_end)
                        return "missing ']' in address";
                if (host_end + 1 != colon)
                        return "missing port in address";
                if (host_end == text + 1)
                        return "missing host in address";
        } else {
                if (memchr(text, ':', (size_t)(colon - text)))
                        return "too many colons in address (an IPv6 address needs brackets)";
                if (colon == text)
                        return "missing host in address";
                if (strpbrk(text, "[]"))
                        return "unexpected bracket in address";
        }
        if (!colon[1] || strlen(colon + 1) > 5 || colon[1 + strspn(colon + 1, "0123456789")])
                return "the port must be a number";
        port = strtoul(colon + 1, NULL, 10);
        return port < 1 || port > 65535 ? "the port must be from 1 to 65535" : NULL;
}

static int parse_endpoints(
        const struct node_reader *reader, const struct node_at *spec, struct datastore_definition *d) {
        const struct yaml_node *list = node_field(spec, "endpoints");
        int r;

        if (d->is_kamaji || is_kamaji_driver(d->driver)) {
                r = node_required(reader, spec, "endpoints");
                if (r < 0)
                        return r;
        }
        r = node_strings(reader, spec, "endpoints", &d->endpoints, &d->n_endpoints);
        if (r < 0 || !list)
                return r;
        if (d->n_endpoints == 0)
                return node_field_fail(reader, spec, "endpoints", "should have at least 1 items");
        for (size_t i = 0; i < d->n_endpoints; i++) {
                const char *mistake = endpoint_mistake(d->endpoints[i]);

                if (!mistake)
                        continue;
                /* A URL with a password in it is not repeated. */
                if (strpbrk(d->endpoints[i], "@?="))
                        return node_fail(reader, list->items[i]->line,
                                "spec.endpoints: entry %zu: must be a bare host:port (credentials go into spec.basicAuth)",
                                i + 1);
                return node_fail(reader, list->items[i]->line, "spec.endpoints: \"%s\": %s", d->endpoints[i], mistake);
        }
        return 0;
}

/* ---- what stokehold/v1alpha1 has more */

static bool path_climbs(const char *path) {
        for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
                if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == '\0'))
                        return true;
        return false;
}

static int parse_path(const struct node_reader *reader, const struct node_at *spec,
        const struct definitions_config *config, struct datastore_definition *d) {
        const char *path = NULL;
        int r;

        r = node_string(reader, spec, "path", &path);
        if (r < 0)
                return r;
        if (path && d->n_endpoints)
                return node_field_fail(reader, spec, "path", "a datastore has a path or endpoints, not both");
        if (d->n_endpoints)
                return 0;
        if (path && !*path)
                return node_field_fail(reader, spec, "path", "is empty");
        if (path && path_climbs(path))
                return node_field_fail(reader, spec, "path", "must not have .. in it");

        if (path)
                r = asprintf(&d->path, "%s%s%s", *path == '/' ? "" : config->state_dir, *path == '/' ? "" : "/", path);
        else
                r = asprintf(&d->path, "%s/datastores/%s", config->state_dir, d->base.name);
        if (r < 0) {
                d->path = NULL;
                return -ENOMEM;
        }
        for (size_t n = strlen(d->path); n > 1 && d->path[n - 1] == '/'; n--)
                d->path[n - 1] = '\0';
        return 0;
}

static int parse_taints(const struct node_reader *reader, const struct node_at *spec, struct datastore_definition *d) {
        static const char *const known[] = {"key", "value", "effect", NULL};
        const struct yaml_node *list;
        int r;

        r = node_sequence(reader, spec, "taints", &list);
        if (r < 0 || !list || list->n_items == 0)
                return r;
        d->taints = calloc(list->n_items, sizeof(*d->taints));
        if (!d->taints)
                return -ENOMEM;
        for (size_t i = 0; i < list->n_items; i++) {
                const struct node_at at = {.node = list->items[i], .path = "spec.taints", .line = list->items[i]->line};
                const char *key = NULL, *value = NULL, *effect = NULL;
                struct definition_taint *t = &d->taints[d->n_taints++];

                if (at.node->kind != YAML_MAPPING)
                        return node_fail(reader, at.line, "spec.taints: entry %zu must be a mapping", i + 1);
                r = node_only(reader, &at, known, NULL);
                if (r < 0)
                        return r;
                r = node_required(reader, &at, "key");
                if (r < 0)
                        return r;
                r = node_required(reader, &at, "effect");
                if (r < 0)
                        return r;
                r = node_string(reader, &at, "key", &key);
                if (r < 0)
                        return r;
                r = node_string(reader, &at, "value", &value);
                if (r < 0)
                        return r;
                r = node_string(reader, &at, "effect", &effect);
                if (r < 0)
                        return r;
                if (strcmp(effect, "NoSchedule") != 0 && strcmp(effect, "NoExecute") != 0)
                        return node_field_fail(reader, &at, "effect",
                                "Unsupported value: \"%s\": supported values: \"NoSchedule\", \"NoExecute\"", effect);
                r = string_copy(key, &t->key);
                if (r < 0)
                        return r;
                r = string_copy(value, &t->value);
                if (r < 0)
                        return r;
                r = string_copy(effect, &t->effect);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int parse_parameters(
        const struct node_reader *reader, const struct node_at *spec, struct datastore_definition *d) {
        struct node_at at;
        int r;

        r = node_map(reader, spec, "parameters", &d->parameters);
        if (r < 0)
                return r;
        r = node_mapping(reader, spec, "parameters", "spec.parameters", &at);
        if (r < 0)
                return r;
        if (node_field(&at, "path"))
                return node_field_fail(reader, &at, "path", "is no parameter: use spec.path");
        if (node_field(&at, "credentials"))
                return node_field_fail(reader, &at, "credentials", "is no parameter: use spec.credentials");
        return 0;
}

static int parse_dedication(
        const struct node_reader *reader, const struct node_at *spec, struct datastore_definition *d) {
        const char *credentials = NULL;
        int r;

        r = node_string(reader, spec, "credentials", &credentials);
        if (r < 0 || !credentials)
                return r;
        d->dedicated = strcmp(credentials, "Dedicated") == 0;
        if (!d->dedicated && strcmp(credentials, "Shared") != 0)
                return node_field_fail(reader, spec, "credentials", "must be Shared or Dedicated");
        return 0;
}

static int parse_own(const struct node_reader *reader, const struct node_at *spec,
        const struct definitions_config *config, struct datastore_definition *d) {
        static const char *const known_capacity[] = {"tenants", "bytes", NULL},
                                 *const known_pool[] = {"sessions", NULL};
        const struct yaml_node *n;
        struct node_at capacity, pool;
        uint64_t sessions = 0;
        int r;

        r = node_map(reader, spec, "labels", &d->spec_labels);
        if (r < 0)
                return r;
        r = node_mapping(reader, spec, "capacity", "spec.capacity", &capacity);
        if (r < 0)
                return r;
        r = node_only(reader, &capacity, known_capacity, NULL);
        if (r < 0)
                return r;
        r = node_number(reader, &capacity, "tenants", 1, UINT32_MAX, &d->capacity_tenants);
        if (r < 0)
                return r;
        r = node_size(reader, &capacity, "bytes", NULL, &d->capacity_bytes);
        if (r < 0)
                return r;
        r = parse_taints(reader, spec, d);
        if (r < 0)
                return r;
        r = node_mapping(reader, spec, "pool", "spec.pool", &pool);
        if (r < 0)
                return r;
        r = node_only(reader, &pool, known_pool, NULL);
        if (r < 0)
                return r;
        r = node_number(reader, &pool, "sessions", 1, 1024, &sessions);
        if (r < 0)
                return r;
        d->n_sessions = (unsigned)sessions;
        r = node_bool(reader, spec, "default", &d->wants_default);
        if (r < 0)
                return r;
        r = node_bool(reader, spec, "system", &d->wants_system);
        if (r < 0)
                return r;
        d->capacity_line = capacity.node ? capacity.line : 0;
        n = node_field(spec, "taints");
        d->taints_line = n ? n->line : 0;
        n = node_field(spec, "default");
        d->default_line = n ? n->line : 0;
        n = node_field(spec, "system");
        d->system_line = n ? n->line : 0;
        r = node_bool(reader, spec, "allowUnsafe", &d->allow_unsafe);
        if (r < 0)
                return r;
        r = parse_dedication(reader, spec, d);
        if (r < 0)
                return r;
        r = parse_parameters(reader, spec, d);
        if (r < 0)
                return r;
        return parse_path(reader, spec, config, d);
}

static int make_settings(struct datastore_definition *d) {
        d->settings = calloc(d->parameters.n_pairs + 2, sizeof(*d->settings));
        if (!d->settings)
                return -ENOMEM;
        if (d->path)
                d->settings[d->n_settings++] = (struct stoke_setting){"path", d->path};
        if (d->dedicated)
                d->settings[d->n_settings++] = (struct stoke_setting){"credentials", "Dedicated"};
        for (size_t i = 0; i < d->parameters.n_pairs; i++)
                d->settings[d->n_settings++] =
                        (struct stoke_setting){d->parameters.pairs[i].name, d->parameters.pairs[i].value};
        return 0;
}

/* ---- the document */

static int parse_spec(const struct node_reader *reader, const struct node_at *spec,
        const struct definitions_config *config, struct datastore_definition *d) {
        static const char *const kamaji[] = {"driver", "endpoints", "basicAuth", "tlsConfig", NULL};
        static const char *const own[] = {"driver", "endpoints", "basicAuth", "tlsConfig", "labels", "capacity",
                "taints", "pool", "default", "system", "allowUnsafe", "credentials", "path", "parameters", NULL};
        static const char *const planned[] = {"backup", "clientNames", "requests", "selector", NULL};
        int r;

        r = node_only(reader, spec, d->is_kamaji ? kamaji : own, d->is_kamaji ? NULL : planned);
        if (r < 0)
                return r;
        r = parse_driver(reader, spec, config, d);
        if (r < 0)
                return r;
        r = parse_endpoints(reader, spec, d);
        if (r < 0)
                return r;
        r = credentials_parse(reader, spec, d);
        if (r < 0)
                return r;
        r = credentials_check(reader, spec, d);
        if (r < 0)
                return r;
        if (!d->is_kamaji) {
                r = parse_own(reader, spec, config, d);
                if (r < 0)
                        return r;
        }
        return make_settings(d);
}

/* Passwords and keys that are written in the document itself are rotated host by host. */
static uint64_t shared_fingerprint(const struct yaml_node *spec, bool is_kamaji) {
        uint64_t h = is_kamaji;

        for (size_t i = 0; i < spec->n_items; i++) {
                const char *field = spec->keys[i]->text;
                bool has_secrets = strcmp(field, "basicAuth") == 0 || strcmp(field, "tlsConfig") == 0;

                if (!yaml_is_null(spec->items[i]))
                        h += node_fingerprint_without(
                                spec->items[i], hash_name(field, 0), has_secrets ? "content" : NULL);
        }
        return h;
}

int datastore_definition_parse(const struct document *document, const struct definitions_config *config,
        struct definition **ret, struct error *reterr) {
        static const char *const known[] = {"apiVersion", "kind", "metadata", "spec", "status", NULL};
        const struct node_reader reader = {.file = document->file, .subject = document->subject, .reterr = reterr};
        const struct node_at top = {.node = document->root, .path = "", .line = document->root->line};
        cleanup(datastore_definition_freep) struct datastore_definition *d = new0(struct datastore_definition);
        struct node_at spec;
        int r;

        d->is_kamaji = strcmp(document->api_version, KAMAJI_VERSION) == 0;
        r = string_copy(document->name, &d->base.name);
        if (r < 0)
                return r;
        r = node_only(&reader, &top, known, NULL);
        if (r < 0)
                return r;
        r = metadata_parse(&reader, &top, &d->labels, &d->annotations);
        if (r < 0)
                return r;
        r = node_required(&reader, &top, "spec");
        if (r < 0)
                return r;
        r = node_mapping(&reader, &top, "spec", "spec", &spec);
        if (r < 0)
                return r;
        d->spec_line = spec.line;
        r = parse_spec(&reader, &spec, config, d);
        if (r < 0)
                return r;

        d->base.fingerprint = node_fingerprint(spec.node, d->is_kamaji);
        d->base.shared = shared_fingerprint(spec.node, d->is_kamaji);
        *ret = &steal(d)->base;
        return 0;
}

int datastore_definition_new_embedded(const struct definitions_config *config, struct datastore_definition **ret) {
        cleanup(datastore_definition_freep) struct datastore_definition *d = new0(struct datastore_definition);
        int r;

        d->base.n_refs = 1;
        d->base.generation = 1;
        r = string_copy(DEFINITION_EMBEDDED, &d->base.name);
        if (r < 0)
                return r;
        r = string_copy("built in", &d->base.source);
        if (r < 0)
                return r;
        r = string_copy(DEFINITION_EMBEDDED_DRIVER, &d->driver);
        if (r < 0)
                return r;
        if (asprintf(&d->path, "%s/datastores/%s", config->state_dir, DEFINITION_EMBEDDED) < 0) {
                d->path = NULL;
                return -ENOMEM;
        }
        r = make_settings(d);
        if (r < 0)
                return r;
        *ret = steal(d);
        return 0;
}
