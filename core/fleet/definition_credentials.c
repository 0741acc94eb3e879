#include "fleet/definition_credentials.h"

#include <string.h>

void content_ref_done(struct content_ref *ref) {
        if (ref->content)
                explicit_bzero(ref->content, ref->content_size);
        free(ref->content);
        free(ref->name);
        free(ref->namespace);
        free(ref->key);
}

static int parse_reference(const struct node_reader *reader, const struct node_at *at, const char *path, bool is_kamaji,
        struct content_ref *ret) {
        static const char *const known[] = {"name", "namespace", "keyPath", NULL};
        const char *name = NULL, *namespace = is_kamaji ? NULL : "default", *key = NULL;
        cleanup(freep) char *here = NULL;
        struct node_at ref;
        int r;

        if (asprintf(&here, "%s.secretReference", path) < 0) {
                here = NULL;
                return -ENOMEM;
        }
        r = node_mapping(reader, at, "secretReference", here, &ref);
        if (r < 0 || !ref.node)
                return r;
        r = node_only(reader, &ref, known, NULL);
        if (r < 0)
                return r;
        r = node_required(reader, &ref, "keyPath");
        if (r < 0)
                return r;
        r = node_string(reader, &ref, "keyPath", &key);
        if (r < 0)
                return r;
        if (!key || !*key)
                return node_field_fail(reader, &ref, "keyPath", "should be at least 1 chars long");
        r = node_string(reader, &ref, "name", &name);
        if (r < 0)
                return r;
        r = node_string(reader, &ref, "namespace", &namespace);
        if (r < 0)
                return r;

        ret->has_reference = true;
        ret->line = ref.line;
        r = string_copy(key, &ret->key);
        if (r < 0)
                return r;
        r = string_copy(name, &ret->name);
        if (r < 0)
                return r;
        return string_copy(namespace, &ret->namespace);
}

/* at: the mapping with the ContentRef in it; it may be absent. */
static int parse_content_ref(const struct node_reader *reader, const struct node_at *parent, const char *key,
        bool is_kamaji, struct content_ref *ret) {
        static const char *const known[] = {"content", "secretReference", NULL};
        cleanup(freep) char *path = NULL;
        struct node_at at;
        int r;

        if (asprintf(&path, "%s.%s", parent->path, key) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        r = node_mapping(reader, parent, key, path, &at);
        if (r < 0 || !at.node)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        ret->present = true;
        ret->line = at.line;
        r = node_base64(reader, &at, "content", &ret->content, &ret->content_size);
        if (r < 0)
                return r;
        ret->has_content = node_field(&at, "content") != NULL;
        return parse_reference(reader, &at, path, is_kamaji, ret);
}

/* Two ContentRefs that are each required once their mapping is there. */
static int parse_pair(const struct node_reader *reader, const struct node_at *at, const char *first,
        bool second_required, const char *second, bool is_kamaji, struct content_ref *ret_first,
        struct content_ref *ret_second) {
        const char *const known[] = {first, second, NULL};
        int r;

        if (!at->node)
                return 0;
        r = node_only(reader, at, known, NULL);
        if (r < 0)
                return r;
        r = node_required(reader, at, first);
        if (r < 0)
                return r;
        if (second_required) {
                r = node_required(reader, at, second);
                if (r < 0)
                        return r;
        }
        r = parse_content_ref(reader, at, first, is_kamaji, ret_first);
        if (r < 0)
                return r;
        return parse_content_ref(reader, at, second, is_kamaji, ret_second);
}

int content_refs_parse(const struct node_reader *reader, const struct node_at *at, const char *first,
        const char *second, struct content_ref *ret_first, struct content_ref *ret_second) {
        return parse_pair(reader, at, first, false, second, false, ret_first, ret_second);
}

int credentials_parse(const struct node_reader *reader, const struct node_at *spec, struct datastore_definition *d) {
        static const char *const known[] = {"certificateAuthority", "clientCertificate", NULL};
        struct node_at basic, tls, authority, client;
        int r;

        r = node_mapping(reader, spec, "basicAuth", "spec.basicAuth", &basic);
        if (r < 0)
                return r;
        d->has_basic_auth = basic.node != NULL;
        r = parse_pair(reader, &basic, "username", true, "password", d->is_kamaji, &d->secrets[STOKE_SECRET_USERNAME],
                &d->secrets[STOKE_SECRET_PASSWORD]);
        if (r < 0)
                return r;

        r = node_mapping(reader, spec, "tlsConfig", "spec.tlsConfig", &tls);
        if (r < 0)
                return r;
        d->has_tls = tls.node != NULL;
        if (!d->has_tls)
                return 0;
        r = node_only(reader, &tls, known, NULL);
        if (r < 0)
                return r;
        if (d->is_kamaji) {
                r = node_required(reader, &tls, "certificateAuthority");
                if (r < 0)
                        return r;
        }
        r = node_mapping(reader, &tls, "certificateAuthority", "spec.tlsConfig.certificateAuthority", &authority);
        if (r < 0)
                return r;
        r = parse_pair(reader, &authority, "certificate", false, "privateKey", d->is_kamaji,
                &d->secrets[STOKE_SECRET_CA_CERTIFICATE], &d->secrets[STOKE_SECRET_CA_PRIVATE_KEY]);
        if (r < 0)
                return r;
        r = node_mapping(reader, &tls, "clientCertificate", "spec.tlsConfig.clientCertificate", &client);
        if (r < 0)
                return r;
        d->has_client_certificate = client.node != NULL;
        return parse_pair(reader, &client, "certificate", true, "privateKey", d->is_kamaji,
                &d->secrets[STOKE_SECRET_CLIENT_CERTIFICATE], &d->secrets[STOKE_SECRET_CLIENT_PRIVATE_KEY]);
}

static bool has_any(const struct content_ref *ref) {
        return ref->has_reference || ref->has_content;
}

int credentials_check(
        const struct node_reader *reader, const struct node_at *spec, const struct datastore_definition *d) {
        const struct content_ref *s = d->secrets;
        const bool is_etcd = strcmp(d->driver, "etcd") == 0;
        const struct {
                bool broken;
                const char *field, *message;
        } rules[] = {
                {d->is_kamaji && is_etcd && !has_any(&s[STOKE_SECRET_CA_PRIVATE_KEY]), "tlsConfig",
                        "certificateAuthority privateKey must have secretReference or content when driver is etcd"},
                {d->is_kamaji && is_etcd && !has_any(&s[STOKE_SECRET_CLIENT_CERTIFICATE]), "tlsConfig",
                        "clientCertificate must have secretReference or content when driver is etcd"},
                {d->is_kamaji && is_etcd && !has_any(&s[STOKE_SECRET_CLIENT_PRIVATE_KEY]), "tlsConfig",
                        "clientCertificate privateKey must have secretReference or content when driver is etcd"},
                {!is_etcd && d->has_client_certificate && !has_any(&s[STOKE_SECRET_CLIENT_CERTIFICATE]), "tlsConfig",
                        "When driver is not etcd and tlsConfig exists, clientCertificate must be null or contain valid "
                        "content"},
                {!is_etcd && d->has_basic_auth && !has_any(&s[STOKE_SECRET_USERNAME]), "basicAuth",
                        "When driver is not etcd and basicAuth exists, username must have secretReference or content"},
                {!is_etcd && d->has_basic_auth && !has_any(&s[STOKE_SECRET_PASSWORD]), "basicAuth",
                        "When driver is not etcd and basicAuth exists, password must have secretReference or content"},
                {d->is_kamaji && !is_etcd && !d->has_tls && !d->has_basic_auth, "",
                        "When driver is not etcd, either tlsConfig or basicAuth must be provided"},
        };

        for (size_t i = 0; i < n_elements(rules); i++)
                if (rules[i].broken) {
                        const struct yaml_node *n = node_field(spec, rules[i].field);

                        return node_fail(reader, n ? n->line : spec->line, "spec: %s", rules[i].message);
                }
        return 0;
}
