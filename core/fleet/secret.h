#pragma once

/*
 * Where the contents of credentials come from. A content reference is resolved anew each time: its own content if it has
 * any; else a Secret document; else the file SECRETS/NAMESPACE/NAME/KEY; else the systemd credential NAMESPACE.NAME.KEY.
 *
 * A struct secret_source is shared by the main thread, which gives it the documents in force, and the session threads of
 * datastores, which ask. It is counted. Nothing of a secret is logged or kept longer than it is needed.
 */

#include <stokehold/driver.h>

#include "base/error.h"
#include "base/macro.h"
#include "fleet/definition.h"

struct secret_source;

/* credentials_dir: getenv("CREDENTIALS_DIRECTORY"), may be NULL. Both are copied. */
int secret_source_new(const char *secrets_dir, const char *credentials_dir, struct secret_source **ret);
struct secret_source *secret_source_ref(struct secret_source *source);
void secret_source_unref(struct secret_source *source);
static inline void secret_source_unrefp(struct secret_source **p) {
        secret_source_unref(*p);
}

/* The Secret documents of a set of definitions take the place of those before. Call it whenever a new set comes into force. */
void secret_source_set(struct secret_source *source, const struct definitions *definitions);

/* Visits the bytes, which have a NUL behind their end (not counted) and are wiped afterwards. -ENOENT: resolves nowhere;
 * -EINVAL: names no possible place; or the errno of what could not be read. Any thread. */
int secret_resolve(struct secret_source *source, const struct content_ref *ref,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, struct error *reterr);

/* The same, looking for Secret documents in a set that is not in force yet. */
int secret_resolve_in(struct secret_source *source, const struct definitions *definitions,
        const struct content_ref *ref, void (*visit)(void *visitor, const void *data, size_t size), void *visitor,
        struct error *reterr);

/* Whether all that a datastore refers to resolves. If not: the errno, the reason for the condition ("BasicAuthValidationFailed",
 * "TLSConfigurationValidationFailed") and the line of the reference. definitions: as above; NULL: those in force. */
int secret_check(struct secret_source *source, const struct definitions *definitions,
        const struct datastore_definition *datastore, const char **ret_reason, unsigned *ret_line,
        struct error *reterr);

/* What a datastore is given to ask for its secrets: pass datastore_secret_visit as datastore_config.secret and this as its userdata. */
struct datastore_secret {
        struct secret_source *source;                  /* ref, or borrowed for the datastore's life */
        const struct datastore_definition *definition; /* the same */
};
int datastore_secret_visit(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size);
