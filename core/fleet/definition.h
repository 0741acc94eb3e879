#pragma once

/*
 * Definitions: the DataStore, Tenant and Secret documents of a directory, as a validated set.
 *
 * A set never changes. Reading the directory makes the next set from the one in force: a document that is bad leaves its
 * object as it was, and is told as a problem, one line FILE:LINE: reason. The objects are counted (atomically) and shared between
 * sets, so that who uses one may keep it while sets come and go. Reading is the main thread's; looking is free to all.
 */

#include <sys/types.h>

#include <stokehold/driver.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"

#define DEFINITION_EMBEDDED "embedded" /* the datastore that is there without a definition */
#define DEFINITION_EMBEDDED_DRIVER "SQLite"

/* What all objects have. */
struct definition {
        unsigned n_refs;      /* atomic */
        char *name;           /* owned, as all strings here */
        char *file;           /* NULL: built in */
        unsigned line;        /* where its document begins */
        char *source;         /* "FILE:LINE", or "built in" */
        int64_t generation;   /* from 1; grows when the content (not the metadata) changes */
        uint64_t fingerprint; /* of the content */
        uint64_t shared;      /* the same without the contents of secrets: what the hosts of a fleet must agree on */
};

struct definition_pair {
        char *name, *value;
};
struct definition_map {
        struct definition_pair *pairs; /* in the order of writing */
        size_t n_pairs;
};

/* Kamaji's ContentRef. */
struct content_ref {
        bool present; /* false: all below is empty */
        unsigned line;
        bool has_content; /* written, if only as "" */
        uint8_t *content; /* decoded; NULL: none, or empty */
        size_t content_size;
        bool has_reference;
        char *name, *namespace, *key; /* of the reference; NULL: not written */
};

struct definition_taint {
        char *key, *value, *effect; /* value: NULL: none; effect "NoSchedule" or "NoExecute" */
};

struct datastore_definition {
        struct definition base;
        bool is_kamaji;                            /* kamaji.clastix.io/v1alpha1, else stokehold/v1alpha1 */
        struct definition_map labels, annotations; /* of the metadata */
        unsigned spec_line, driver_line;

        char *driver;     /* its name as the driver has it, also where an alias was written */
        char **endpoints; /* "host:port" */
        size_t n_endpoints;
        /* By enum stoke_secret; [0] is unused. */
        struct content_ref secrets[STOKE_SECRET_CLIENT_PRIVATE_KEY + 1];
        bool has_basic_auth, has_tls, has_client_certificate;

        /* stokehold/v1alpha1 only. */
        struct definition_map spec_labels;
        struct definition_taint *taints;
        size_t n_taints;
        uint64_t capacity_tenants, capacity_bytes; /* 0: not limited */
        unsigned capacity_line, taints_line;       /* 0: not given */
        unsigned n_sessions;                       /* 0: the default */
        bool wants_default, wants_system;   /* as written; who has it in the end: definitions.default_datastore */
        unsigned default_line, system_line; /* of these two */
        bool allow_unsafe;
        bool dedicated; /* credentials: Dedicated: each tenant has a database and a user of its own there */
        char *path;     /* absolute; NULL: has endpoints */
        struct definition_map parameters;

        /* For datastore_config: path, then the parameters. The strings are borrowed from above, the array is owned. */
        struct stoke_setting *settings;
        size_t n_settings;
};

struct client_name {
        char *name; /* "CN:berlin": fleet/client_name.h */
        unsigned line;
};

struct tenant_definition {
        struct definition base;
        struct definition_map labels, annotations;
        char *datastore; /* NULL: the default one */
        unsigned datastore_line;
        bool has_quota;
        uint64_t quota_bytes; /* 0: none */
        bool retain;          /* deletionPolicy: Retain */
        bool has_auto_compact;
        uint64_t auto_compact_ns; /* 0: off */
        bool has_socket_mode;
        mode_t socket_mode;
        uid_t owner; /* (uid_t)-1: not said */
        gid_t group; /* (gid_t)-1 */
        uint32_t *peers;
        size_t n_peers;
        char *tcp; /* "127.0.0.1:2379", "[::1]:2379"; NULL: none */
        unsigned tcp_line;
        uint64_t backup_every_ns; /* 0: none are made */
        unsigned backup_keep;
        char *backup_directory;           /* absolute */
        struct client_name *client_names; /* in certificates, at the port that all tenants share */
        size_t n_client_names;
        struct content_ref client_ca, client_revocations; /* not present: as the settings say */
};

struct secret_value {
        char *key;
        uint8_t *data; /* ends with a NUL that is not counted; wiped when freed */
        size_t size;
};
struct secret_definition {
        struct definition base; /* name: "NAMESPACE/NAME" */
        struct secret_value *values;
        size_t n_values;
};

/* Each array in order of name. */
struct definitions {
        struct datastore_definition **datastores; /* refs; never empty */
        size_t n_datastores;
        struct tenant_definition **tenants; /* refs */
        size_t n_tenants;
        struct secret_definition **secrets; /* refs */
        size_t n_secrets;
        const struct datastore_definition *default_datastore; /* borrowed from datastores, never NULL */
        const struct datastore_definition *system_datastore;
};

struct datastore_definition *datastore_definition_ref(const struct datastore_definition *d);
void datastore_definition_unref(const struct datastore_definition *d);
struct tenant_definition *tenant_definition_ref(const struct tenant_definition *t);
void tenant_definition_unref(const struct tenant_definition *t);
struct secret_definition *secret_definition_ref(const struct secret_definition *s);
void secret_definition_unref(const struct secret_definition *s);

/* NULL: there is none. */
const struct datastore_definition *definitions_find_datastore(const struct definitions *set, const char *name);
const struct tenant_definition *definitions_find_tenant(const struct definitions *set, const char *name);
const struct secret_definition *definitions_find_secret(
        const struct definitions *set, const char *namespace, const char *name);

/* ---- reading */

struct definition_problem {
        char *text; /* owned: "FILE:LINE: reason", or "FILE: reason" where there is no line */
        bool refused; /* a document was not taken; false: it was, but will not work as it is (a secret that resolves nowhere) */
};
struct definition_problems {
        struct definition_problem *items; /* owned */
        size_t n_items;
};
void definition_problems_done(struct definition_problems *problems);

struct secret_source;

/* Who is in a datastore: nobody; only tenants that no document declares any longer and that are therefore deleted; others. */
enum definition_use {
        DEFINITION_UNUSED,
        DEFINITION_LEAVING,
        DEFINITION_USED,
};
/* Whether the set that is being made has a tenant of this name. */
typedef bool (*definition_declared_fn)(void *next, const char *tenant);

struct definitions_config {
        const char *directory;         /* read: *.yaml and *.yml in it, in order of name */
        const char *state_dir;         /* absolute: for datastores' paths */
        struct secret_source *secrets; /* borrowed; to tell of references that resolve nowhere; NULL: not looked at */
        /* The driver's own name for a name or alias, borrowed for ever; NULL with the reason: it cannot be used. May be NULL: all can. */
        const char *(*driver)(void *userdata, const char *name, struct error *reterr);
        /* Tenants, or the registry, that are in the datastore. May be NULL: none are. */
        enum definition_use (*use)(void *userdata, const char *datastore, definition_declared_fn declared, void *next);
        void *userdata;
};

/* The next set after previous (NULL: at the start). Problems are appended; the set is good whatever they are. If the directory cannot be
 * read all stays as it was. -ENOMEM is the only failure. */
int definitions_load(const struct definitions_config *config, const struct definitions *previous,
        struct definitions **ret, struct definition_problems *problems);
void definitions_free(struct definitions *set);
DEFINE_FREEP(definitions)

/* ---- names */

/* [a-z0-9]([-a-z0-9]{0,61}[a-z0-9])? */
bool tenant_name_is_valid(const char *name);
/* As Kubernetes has it: tenants' names with dots between, 253 bytes. */
bool datastore_name_is_valid(const char *name);

/* ---- printing, as kubectl does; no secret's content is printed */

struct definition_condition {
        const char *type, *status, *reason, *message;
        const char *last_transition_time; /* RFC 3339 */
};
struct datastore_status {
        bool ready;
        const char *const *used_by;
        size_t n_used_by;
        int64_t observed_generation;
        const struct definition_condition *conditions;
        size_t n_conditions;
};
int datastore_definition_print(
        const struct datastore_definition *d, const struct datastore_status *status, struct buf *out);

struct tenant_status {
        const char *phase, *reason; /* reason NULL or "": none */
        const char *condition;
        const char *datastore; /* where it is */
        const char *incarnation;
        const char *socket;
        const char *const *endpoints;
        size_t n_endpoints;
        int64_t observed_generation;
        int64_t revision; /* 0: not open */
};
/* Also for a tenant that has no document: from a struct tenant_definition made for the purpose, with name and what is known. */
int tenant_definition_print(const struct tenant_definition *t, const struct tenant_status *status, struct buf *out);
