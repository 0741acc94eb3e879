/*
 * Contents of credentials, found anew at each asking: in the reference itself, in the Secret documents in force, in files,
 * among systemd's credentials. Session threads ask while the main thread puts new documents in force: the lock guards
 * only the list of documents, whose objects are counted and do not change; no file is read under it.
 */

#include "fleet/secret.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "fleet/definition_file.h"
#include "fleet/definition_node.h"

#define SECRET_MAX_BYTES (1024 * 1024)

struct secret_source {
        unsigned n_refs;       /* atomic */
        char *secrets_dir;     /* owned; NULL: none */
        char *credentials_dir; /* owned; NULL: none */
        pthread_mutex_t lock;
        struct secret_definition **secrets; /* owned refs, in order of name; under the lock */
        size_t n_secrets;
};

int secret_source_new(const char *secrets_dir, const char *credentials_dir, struct secret_source **ret) {
        cleanup(secret_source_unrefp) struct secret_source *s = new0(struct secret_source);
        int r;

        s->n_refs = 1;
        pthread_mutex_init(&s->lock, NULL);
        r = string_copy(secrets_dir, &s->secrets_dir);
        if (r < 0)
                return r;
        r = string_copy(credentials_dir, &s->credentials_dir);
        if (r < 0)
                return r;
        *ret = steal(s);
        return 0;
}

struct secret_source *secret_source_ref(struct secret_source *source) {
        __atomic_add_fetch(&source->n_refs, 1, __ATOMIC_RELAXED);
        return source;
}

static void secrets_free(struct secret_definition **secrets, size_t n) {
        for (size_t i = 0; i < n; i++)
                secret_definition_unref(secrets[i]);
        free(secrets);
}

void secret_source_unref(struct secret_source *source) {
        if (!source || __atomic_sub_fetch(&source->n_refs, 1, __ATOMIC_ACQ_REL) != 0)
                return;
        secrets_free(source->secrets, source->n_secrets);
        pthread_mutex_destroy(&source->lock);
        free(source->secrets_dir);
        free(source->credentials_dir);
        free(source);
}

void secret_source_set(struct secret_source *source, const struct definitions *definitions) {
        struct secret_definition **secrets, **old;
        size_t n_old;

        secrets = xcalloc(definitions->n_secrets, sizeof(*secrets));
        for (size_t i = 0; i < definitions->n_secrets; i++)
                secrets[i] = secret_definition_ref(definitions->secrets[i]);

        pthread_mutex_lock(&source->lock);
        old = source->secrets;
        n_old = source->n_secrets;
        source->secrets = secrets;
        source->n_secrets = definitions->n_secrets;
        pthread_mutex_unlock(&source->lock);
        secrets_free(old, n_old);
}

/* ---- the places */

typedef void (*visit_fn)(void *visitor, const void *data, size_t size);

struct resolving {
        const struct content_ref *ref;
        bool is_line; /* a name or password, which an editor ends with a newline that is not meant */
        visit_fn visit;
        void *visitor;
        struct error *reterr;
};

/* 1: visited; 0: not here. */
static int from_document(const struct resolving *q, const struct secret_definition *secret) {
        for (size_t i = 0; secret && i < secret->n_values; i++)
                if (strcmp(secret->values[i].key, q->ref->key) == 0) {
                        q->visit(q->visitor, secret->values[i].data, secret->values[i].size);
                        return 1;
                }
        return 0;
}

static int find_in_source(struct secret_source *source, const struct resolving *q, struct secret_definition **ret) {
        cleanup(freep) char *name = NULL;

        *ret = NULL;
        if (asprintf(&name, "%s/%s", q->ref->namespace, q->ref->name) < 0) {
                name = NULL;
                return -ENOMEM;
        }
        pthread_mutex_lock(&source->lock);
        for (size_t low = 0, high = source->n_secrets; low < high;) {
                size_t middle = (low + high) / 2;
                int c = strcmp(name, source->secrets[middle]->base.name);

                if (c == 0) {
                        *ret = secret_definition_ref(source->secrets[middle]);
                        break;
                }
                if (c < 0)
                        high = middle;
                else
                        low = middle + 1;
        }
        pthread_mutex_unlock(&source->lock);
        return 0;
}

/* 1: visited; 0: there is no such file. */
static int from_file(const struct resolving *q, const char *path) {
        cleanup(error_done) struct error why = {};
        struct buf data = {.max = SECRET_MAX_BYTES + 64 * 1024 + 1};
        size_t size;
        int r;

        /* The room is made before, so that no copy of the secret stays behind in what a growing buffer lets go. */
        r = buf_reserve(&data, SECRET_MAX_BYTES + 64 * 1024 + 1);
        if (r >= 0)
                r = text_file_read(path, &data, &why);
        if (r == -EMSGSIZE || (r >= 0 && data.size > SECRET_MAX_BYTES))
                r = error_set(q->reterr, -EFBIG, "%s: is larger than 1Mi", path);
        else if (r == -ENOENT || r == -ENOTDIR)
                r = 0;
        else if (r < 0)
                r = error_set(q->reterr, r, "%s: %s", path, error_text(&why));
        else {
                size = data.size;
                if (q->is_line && size && data.data[size - 1] == '\n')
                        size -= size > 1 && data.data[size - 2] == '\r' ? 2 : 1;
                data.data[size] = '\0';
                q->visit(q->visitor, data.data, size);
                r = 1;
        }
        if (data.data)
                explicit_bzero(data.data, data.capacity);
        buf_done(&data);
        return r;
}

/* One step of a path, and no way out of the directory. */
static bool is_safe_name(const char *s) {
        return *s && !strchr(s, '/') && strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

static int from_directories(const struct secret_source *source, const struct resolving *q) {
        const struct {
                const char *directory;
                char separator;
        } places[] = {{source->secrets_dir, '/'}, {source->credentials_dir, '.'}};
        const struct content_ref *ref = q->ref;

        for (size_t i = 0; i < n_elements(places); i++) {
                cleanup(freep) char *path = NULL;
                char separator = places[i].separator;
                int r;

                if (!places[i].directory)
                        continue;
                if (asprintf(&path, "%s/%s%c%s%c%s", places[i].directory, ref->namespace, separator, ref->name,
                            separator, ref->key) < 0) {
                        path = NULL;
                        return -ENOMEM;
                }
                r = from_file(q, path);
                if (r != 0)
                        return r;
        }
        return 0;
}

static int resolve(struct secret_source *source, const struct definitions *definitions, const struct resolving *q) {
        struct secret_definition *secret;
        const struct content_ref *ref = q->ref;
        int r;

        if (ref->content_size) {
                q->visit(q->visitor, ref->content, ref->content_size);
                return 0;
        }
        if (!ref->has_reference)
                return error_set(q->reterr, -ENOENT, "has neither content nor secretReference");
        if (!ref->name || !*ref->name || !ref->namespace || !*ref->namespace)
                return error_set(q->reterr, -EINVAL, "secretReference needs a name and a namespace");
        if (!is_safe_name(ref->name) || !is_safe_name(ref->namespace) || !is_safe_name(ref->key))
                return error_set(q->reterr, -EINVAL, "secretReference %s/%s, keyPath %s: is no name of a secret",
                        ref->namespace, ref->name, ref->key);

        if (definitions)
                r = from_document(q, definitions_find_secret(definitions, ref->namespace, ref->name));
        else {
                r = find_in_source(source, q, &secret);
                if (r < 0)
                        return r;
                r = from_document(q, secret);
                secret_definition_unref(secret);
        }
        if (r == 0)
                r = from_directories(source, q);
        if (r != 0)
                return r < 0 ? r : 0;
        return error_set(q->reterr, -ENOENT,
                "secretReference %s/%s, keyPath %s: there is no Secret document, file or credential that has it",
                ref->namespace, ref->name, ref->key);
}

int secret_resolve_in(struct secret_source *source, const struct definitions *definitions,
        const struct content_ref *ref, void (*visit)(void *visitor, const void *data, size_t size), void *visitor,
        struct error *reterr) {
        const struct resolving q = {.ref = ref, .visit = visit, .visitor = visitor, .reterr = reterr};

        return resolve(source, definitions, &q);
}

int secret_resolve(struct secret_source *source, const struct content_ref *ref,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, struct error *reterr) {
        return secret_resolve_in(source, NULL, ref, visit, visitor, reterr);
}

/* ---- datastores */

static const char *const secret_names[] = {
        [STOKE_SECRET_USERNAME] = "basicAuth.username",
        [STOKE_SECRET_PASSWORD] = "basicAuth.password",
        [STOKE_SECRET_CA_CERTIFICATE] = "tlsConfig.certificateAuthority.certificate",
        [STOKE_SECRET_CA_PRIVATE_KEY] = "tlsConfig.certificateAuthority.privateKey",
        [STOKE_SECRET_CLIENT_CERTIFICATE] = "tlsConfig.clientCertificate.certificate",
        [STOKE_SECRET_CLIENT_PRIVATE_KEY] = "tlsConfig.clientCertificate.privateKey",
};

static void visit_nothing(void *visitor, const void *data, size_t size) {
        (void)visitor;
        (void)data;
        (void)size;
}

int secret_check(struct secret_source *source, const struct definitions *definitions,
        const struct datastore_definition *datastore, const char **ret_reason, unsigned *ret_line,
        struct error *reterr) {
        for (size_t i = STOKE_SECRET_USERNAME; i < n_elements(secret_names); i++) {
                const struct content_ref *ref = &datastore->secrets[i];
                cleanup(error_done) struct error why = {};
                int r;

                if (!ref->present)
                        continue;
                r = secret_resolve_in(source, definitions, ref, visit_nothing, NULL, &why);
                if (r >= 0)
                        continue;
                *ret_reason =
                        i <= STOKE_SECRET_PASSWORD ? "BasicAuthValidationFailed" : "TLSConfigurationValidationFailed";
                *ret_line = ref->line;
                return error_set(reterr, r, "spec.%s: %s", secret_names[i], why.text ? why.text : strerror(-r));
        }
        return 0;
}

int datastore_secret_visit(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size) {
        const struct datastore_secret *s = userdata;
        cleanup(error_done) struct error why = {};
        struct resolving q = {.visit = visit, .visitor = visitor, .reterr = &why};
        int r;

        if (which < STOKE_SECRET_USERNAME || which > STOKE_SECRET_CLIENT_PRIVATE_KEY ||
                !s->definition->secrets[which].present)
                return -ENOENT;
        q.ref = &s->definition->secrets[which];
        q.is_line = which == STOKE_SECRET_USERNAME || which == STOKE_SECRET_PASSWORD;
        r = resolve(s->source, NULL, &q);
        if (r == -ENOENT)
                r = -ENOKEY; /* configured, but not there: not to be taken for a datastore without credentials */
        if (r < 0)
                snprintf(reason, reason_size, "%s: %s", secret_names[which], why.text ? why.text : strerror(-r));
        return r;
}
