/*
 * Definitions as YAML, with a status, as `kubectl get -o yaml` shows them. Any thread. No secret's content is printed: it
 * reads "(hidden)", which is not base64, so that what was printed cannot be applied with its credentials lost.
 */

#include <string.h>

#include "base/yaml.h"
#include "fleet/definition.h"
#include "fleet/quantity.h"

#define HIDDEN "(hidden)"

static void write_pair(struct yaml_writer *w, const char *key, const char *value) {
        if (!value)
                return;
        yaml_write_key(w, key);
        yaml_write_string(w, value);
}

static void write_int(struct yaml_writer *w, const char *key, int64_t value) {
        yaml_write_key(w, key);
        yaml_write_int(w, value);
}

static void write_bool(struct yaml_writer *w, const char *key, bool value) {
        yaml_write_key(w, key);
        yaml_write_bool(w, value);
}

static void write_size(struct yaml_writer *w, const char *key, uint64_t bytes) {
        char text[32];

        size_print(bytes, text);
        yaml_write_key(w, key);
        if (text[strspn(text, "0123456789")])
                yaml_write_string(w, text);
        else
                yaml_write_int(w, (int64_t)bytes);
}

static void write_map(struct yaml_writer *w, const char *key, const struct definition_map *map) {
        if (map->n_pairs == 0)
                return;
        yaml_write_key(w, key);
        yaml_write_mapping(w);
        for (size_t i = 0; i < map->n_pairs; i++)
                write_pair(w, map->pairs[i].name, map->pairs[i].value);
        yaml_write_end(w);
}

static void write_strings(struct yaml_writer *w, const char *key, const char *const *strings, size_t n) {
        if (n == 0)
                return;
        yaml_write_key(w, key);
        yaml_write_sequence(w);
        for (size_t i = 0; i < n; i++)
                yaml_write_string(w, strings[i]);
        yaml_write_end(w);
}

static void write_head(struct yaml_writer *w, const char *version, const char *kind, const struct definition *base,
        const struct definition_map *labels, const struct definition_map *annotations) {
        yaml_write_mapping(w);
        write_pair(w, "apiVersion", version);
        write_pair(w, "kind", kind);
        yaml_write_key(w, "metadata");
        yaml_write_mapping(w);
        write_map(w, "annotations", annotations);
        if (base->generation)
                write_int(w, "generation", base->generation);
        write_map(w, "labels", labels);
        write_pair(w, "name", base->name);
        yaml_write_end(w);
}

static int finish(struct yaml_writer *w) {
        yaml_write_end(w);
        return yaml_writer_finish(w);
}

/* ---- datastores */

static void write_content_ref(struct yaml_writer *w, const char *key, const struct content_ref *ref) {
        if (!ref->present)
                return;
        yaml_write_key(w, key);
        if (ref->content_size == 0 && !ref->has_reference) {
                yaml_write_empty_mapping(w);
                return;
        }
        yaml_write_mapping(w);
        if (ref->content_size)
                write_pair(w, "content", HIDDEN);
        if (ref->has_reference) {
                yaml_write_key(w, "secretReference");
                yaml_write_mapping(w);
                write_pair(w, "keyPath", ref->key);
                write_pair(w, "name", ref->name);
                write_pair(w, "namespace", ref->namespace);
                yaml_write_end(w);
        }
        yaml_write_end(w);
}

static void write_credentials_of(struct yaml_writer *w, const char *key, const char *first, const struct content_ref *a,
        const char *second, const struct content_ref *b) {
        if (!a->present && !b->present)
                return;
        yaml_write_key(w, key);
        yaml_write_mapping(w);
        write_content_ref(w, first, a);
        write_content_ref(w, second, b);
        yaml_write_end(w);
}

static void write_tls(struct yaml_writer *w, const struct datastore_definition *d) {
        const struct content_ref *s = d->secrets;

        if (!d->has_tls)
                return;
        yaml_write_key(w, "tlsConfig");
        if (!s[STOKE_SECRET_CA_CERTIFICATE].present && !d->has_client_certificate) {
                yaml_write_empty_mapping(w);
                return;
        }
        yaml_write_mapping(w);
        write_credentials_of(w, "certificateAuthority", "certificate", &s[STOKE_SECRET_CA_CERTIFICATE], "privateKey",
                &s[STOKE_SECRET_CA_PRIVATE_KEY]);
        write_credentials_of(w, "clientCertificate", "certificate", &s[STOKE_SECRET_CLIENT_CERTIFICATE], "privateKey",
                &s[STOKE_SECRET_CLIENT_PRIVATE_KEY]);
        yaml_write_end(w);
}

/* Where a password has no business to be, but somebody put it. */
static bool sounds_secret(const char *name) {
        static const char *const words[] = {"pass", "pwd", "secret", "token", "key", "cred"};

        for (size_t i = 0; i < n_elements(words); i++)
                if (strcasestr(name, words[i]))
                        return true;
        return false;
}

static void write_parameters(struct yaml_writer *w, const struct definition_map *map) {
        if (map->n_pairs == 0)
                return;
        yaml_write_key(w, "parameters");
        yaml_write_mapping(w);
        for (size_t i = 0; i < map->n_pairs; i++)
                write_pair(w, map->pairs[i].name, sounds_secret(map->pairs[i].name) ? HIDDEN : map->pairs[i].value);
        yaml_write_end(w);
}

static void write_own(struct yaml_writer *w, const struct datastore_definition *d) {
        if (d->allow_unsafe)
                write_bool(w, "allowUnsafe", true);
        if (d->capacity_tenants || d->capacity_bytes) {
                yaml_write_key(w, "capacity");
                yaml_write_mapping(w);
                if (d->capacity_bytes)
                        write_size(w, "bytes", d->capacity_bytes);
                if (d->capacity_tenants)
                        write_int(w, "tenants", (int64_t)d->capacity_tenants);
                yaml_write_end(w);
        }
        if (d->dedicated)
                write_pair(w, "credentials", "Dedicated");
        if (d->wants_default)
                write_bool(w, "default", true);
        write_map(w, "labels", &d->spec_labels);
        write_parameters(w, &d->parameters);
        write_pair(w, "path", d->path);
        if (d->n_sessions) {
                yaml_write_key(w, "pool");
                yaml_write_mapping(w);
                write_int(w, "sessions", d->n_sessions);
                yaml_write_end(w);
        }
        if (d->wants_system)
                write_bool(w, "system", true);
        if (d->n_taints == 0)
                return;
        yaml_write_key(w, "taints");
        yaml_write_sequence(w);
        for (size_t i = 0; i < d->n_taints; i++) {
                yaml_write_mapping(w);
                write_pair(w, "effect", d->taints[i].effect);
                write_pair(w, "key", d->taints[i].key);
                write_pair(w, "value", d->taints[i].value);
                yaml_write_end(w);
        }
        yaml_write_end(w);
}

static void write_datastore_status(struct yaml_writer *w, const struct datastore_status *status) {
        yaml_write_key(w, "status");
        yaml_write_mapping(w);
        if (status->n_conditions) {
                yaml_write_key(w, "conditions");
                yaml_write_sequence(w);
                for (size_t i = 0; i < status->n_conditions; i++) {
                        const struct definition_condition *c = &status->conditions[i];

                        yaml_write_mapping(w);
                        write_pair(w, "lastTransitionTime", c->last_transition_time);
                        write_pair(w, "message", c->message ? c->message : "");
                        write_pair(w, "reason", c->reason);
                        write_pair(w, "status", c->status);
                        write_pair(w, "type", c->type);
                        yaml_write_end(w);
                }
                yaml_write_end(w);
        }
        if (status->observed_generation)
                write_int(w, "observedGeneration", status->observed_generation);
        write_bool(w, "ready", status->ready);
        write_strings(w, "usedBy", status->used_by, status->n_used_by);
        yaml_write_end(w);
}

int datastore_definition_print(
        const struct datastore_definition *d, const struct datastore_status *status, struct buf *out) {
        cleanup(yaml_writer_freep) struct yaml_writer *w = NULL;
        int r;

        r = yaml_writer_new(out, &w);
        if (r < 0)
                return r;
        write_head(w, d->is_kamaji ? "kamaji.clastix.io/v1alpha1" : "stokehold/v1alpha1", "DataStore", &d->base,
                &d->labels, &d->annotations);

        yaml_write_key(w, "spec");
        yaml_write_mapping(w);
        write_credentials_of(w, "basicAuth", "password", &d->secrets[STOKE_SECRET_PASSWORD], "username",
                &d->secrets[STOKE_SECRET_USERNAME]);
        write_pair(w, "driver", d->driver);
        write_strings(w, "endpoints", (const char *const *)d->endpoints, d->n_endpoints);
        write_own(w, d);
        write_tls(w, d);
        yaml_write_end(w);

        if (status)
                write_datastore_status(w, status);
        return finish(w);
}

/* ---- tenants */

static void write_endpoint(struct yaml_writer *w, const struct tenant_definition *t) {
        const bool has_owner = t->owner != (uid_t)-1, has_group = t->group != (gid_t)-1;
        char mode[16];

        if (!t->has_socket_mode && !has_owner && !has_group && t->n_peers == 0 && !t->tcp && t->n_client_names == 0)
                return;
        yaml_write_key(w, "endpoint");
        yaml_write_mapping(w);
        write_credentials_of(w, "clientCA", "certificate", &t->client_ca, "revocations", &t->client_revocations);
        if (t->n_client_names) {
                yaml_write_key(w, "clientNames");
                yaml_write_sequence(w);
                for (size_t i = 0; i < t->n_client_names; i++)
                        yaml_write_string(w, t->client_names[i].name);
                yaml_write_end(w);
        }
        if (has_group)
                write_int(w, "group", t->group);
        if (t->has_socket_mode) {
                snprintf(mode, sizeof(mode), "%04o", (unsigned)t->socket_mode);
                write_pair(w, "mode", mode);
        }
        if (has_owner)
                write_int(w, "owner", t->owner);
        if (t->n_peers) {
                yaml_write_key(w, "peers");
                yaml_write_sequence(w);
                for (size_t i = 0; i < t->n_peers; i++)
                        yaml_write_int(w, t->peers[i]);
                yaml_write_end(w);
        }
        write_pair(w, "tcp", t->tcp);
        yaml_write_end(w);
}

static void write_backup(struct yaml_writer *w, const struct tenant_definition *t) {
        char every[64];

        if (!t->backup_directory)
                return;
        duration_print(t->backup_every_ns, every);
        yaml_write_key(w, "backup");
        yaml_write_mapping(w);
        write_pair(w, "directory", t->backup_directory);
        write_pair(w, "every", t->backup_every_ns ? every : "off");
        write_int(w, "keep", t->backup_keep);
        yaml_write_end(w);
}

static void write_tenant_status(struct yaml_writer *w, const struct tenant_status *status) {
        yaml_write_key(w, "status");
        yaml_write_mapping(w);
        write_pair(w, "condition", status->condition);
        write_pair(w, "datastore", status->datastore);
        write_strings(w, "endpoints", status->endpoints, status->n_endpoints);
        write_pair(w, "incarnation", status->incarnation);
        if (status->observed_generation)
                write_int(w, "observedGeneration", status->observed_generation);
        write_pair(w, "phase", status->phase);
        if (status->reason && *status->reason)
                write_pair(w, "reason", status->reason);
        if (status->revision)
                write_int(w, "revision", status->revision);
        write_pair(w, "socket", status->socket);
        yaml_write_end(w);
}

int tenant_definition_print(const struct tenant_definition *t, const struct tenant_status *status, struct buf *out) {
        cleanup(yaml_writer_freep) struct yaml_writer *w = NULL;
        char duration[64];
        int r;

        r = yaml_writer_new(out, &w);
        if (r < 0)
                return r;
        write_head(w, "stokehold/v1alpha1", "Tenant", &t->base, &t->labels, &t->annotations);

        yaml_write_key(w, "spec");
        yaml_write_mapping(w);
        if (t->has_auto_compact) {
                duration_print(t->auto_compact_ns, duration);
                write_pair(w, "autoCompaction", t->auto_compact_ns ? duration : "off");
        }
        write_backup(w, t);
        write_pair(w, "datastore", t->datastore);
        write_pair(w, "deletionPolicy", t->retain ? "Retain" : "Delete");
        write_endpoint(w, t);
        if (t->has_quota)
                write_size(w, "quota", t->quota_bytes);
        yaml_write_end(w);

        if (status)
                write_tenant_status(w, status);
        return finish(w);
}
