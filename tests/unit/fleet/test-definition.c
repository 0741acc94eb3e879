/*
 * If these fail, a mistake in a definition takes a working datastore or tenant away, is not told with its place, or a manifest that
 * Kamaji takes is refused.
 */
#include "folder.h"

#include "fleet/definition.h"
#include "fleet/secret.h"

struct world {
        struct folder folder;
        struct secret_source *secrets;
        struct definitions_config config;
        struct definitions *set;             /* in force */
        struct definition_problems problems; /* of the last load */
        const char *used;                    /* a datastore that tenants are in */
        const char *used_by;                 /* one that a file made, the only one; NULL: others */
};

/* As the table of plugins answers. */
static const char *on_driver(void *userdata, const char *name, struct error *reterr) {
        static const char *const drivers[] = {"etcd", "MySQL", "NATS", "PostgreSQL", "SQLite"};

        (void)userdata;
        if (strcmp(name, "sqlite") == 0)
                return "SQLite";
        for (size_t i = 0; i < n_elements(drivers); i++)
                if (strcmp(drivers[i], name) == 0)
                        return drivers[i];
        error_set(reterr, -ENOENT, "no driver \"%s\": there are etcd, MySQL, NATS, PostgreSQL, SQLite", name);
        return NULL;
}

static enum definition_use on_use(void *userdata, const char *datastore, definition_declared_fn declared, void *next) {
        const struct world *w = userdata;

        if (!w->used || strcmp(w->used, datastore) != 0)
                return DEFINITION_UNUSED;
        return w->used_by && !declared(next, w->used_by) ? DEFINITION_LEAVING : DEFINITION_USED;
}

static int setup(void **state) {
        struct world *w = new0(struct world);

        folder_new(&w->folder);
        folder_directory(&w->folder, "d");
        folder_directory(&w->folder, "secrets");
        assert_int_equal(secret_source_new(folder_path(&w->folder, "secrets"), NULL, &w->secrets), 0);
        w->config = (struct definitions_config){
                .directory = strdup(folder_path(&w->folder, "d")),
                .state_dir = "/state",
                .secrets = w->secrets,
                .driver = on_driver,
                .use = on_use,
                .userdata = w,
        };
        *state = w;
        return 0;
}

static int teardown(void **state) {
        struct world *w = *state;

        definitions_free(w->set);
        definition_problems_done(&w->problems);
        secret_source_unref(w->secrets);
        folder_remove(&w->folder);
        free((char *)w->config.directory);
        free(w);
        return 0;
}

static void load(struct world *w) {
        struct definitions *next = NULL;

        definition_problems_done(&w->problems);
        assert_int_equal(definitions_load(&w->config, w->set, &next, &w->problems), 0);
        definitions_free(w->set);
        w->set = next;
        assert_non_null(w->set->default_datastore);
        assert_non_null(w->set->system_datastore);
}

static void put(struct world *w, const char *name, const char *text) {
        char path[128];

        snprintf(path, sizeof(path), "d/%s", name);
        folder_write(&w->folder, path, text);
}

static void drop(struct world *w, const char *name) {
        char path[128];

        snprintf(path, sizeof(path), "d/%s", name);
        folder_delete(&w->folder, path);
}

static void expect_clean(struct world *w) {
        if (w->problems.n_items)
                fail_msg("%s", w->problems.items[0].text);
}

/* expected: without the directory. */
static void expect_problem(struct world *w, size_t i, bool refused, const char *expected) {
        char full[1024];

        snprintf(full, sizeof(full), "%s/%s", w->config.directory, expected);
        assert_true(i < w->problems.n_items);
        assert_string_equal(w->problems.items[i].text, full);
        assert_int_equal(w->problems.items[i].refused, refused);
}

static void expect_one_problem(struct world *w, const char *expected) {
        expect_problem(w, 0, true, expected);
        if (w->problems.n_items > 1)
                fail_msg("one more: %s", w->problems.items[1].text);
}

static const struct datastore_definition *datastore(struct world *w, const char *name) {
        return definitions_find_datastore(w->set, name);
}

static const struct tenant_definition *tenant(struct world *w, const char *name) {
        return definitions_find_tenant(w->set, name);
}

#define OWN_HEAD(name) "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata:\n  name: " name "\nspec:\n"
#define KAMAJI_HEAD(name)                                                                                              \
        "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata:\n  name: " name "\nspec:\n"
#define TENANT_HEAD(name) "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: " name "\n"
#define SQLITE(name) OWN_HEAD(name) "  driver: SQLite\n"
#define BASIC "  basicAuth:\n    username: {content: YQ==}\n    password: {content: Yg==}\n"

/* ---- what is good */

static void test_nothing(void **state) {
        struct world *w = *state;

        load(w);
        expect_clean(w);
        assert_int_equal(w->set->n_datastores, 1);
        assert_ptr_equal(w->set->default_datastore, w->set->datastores[0]);
        assert_ptr_equal(w->set->system_datastore, w->set->datastores[0]);
        assert_string_equal(w->set->datastores[0]->base.name, "embedded");
        assert_string_equal(w->set->datastores[0]->base.source, "built in");
        assert_string_equal(w->set->datastores[0]->driver, "SQLite");
        assert_string_equal(w->set->datastores[0]->path, "/state/datastores/embedded");
        assert_int_equal(w->set->datastores[0]->n_settings, 1);
        assert_string_equal(w->set->datastores[0]->settings[0].name, "path");
}

static void test_shipped_examples(void **state) {
        struct world *w = *state;
        const struct datastore_definition *d;
        const struct tenant_definition *t;

        free((char *)w->config.directory);
        w->config.directory = strdup(CONF_DIR "/examples");
        load(w);
        for (size_t i = 0; i < w->problems.n_items; i++) {
                assert_false(w->problems.items[i].refused); /* only: secrets that only their owner has */
                assert_true(strstr(w->problems.items[i].text, "there is no Secret document, file or credential") ||
                        strstr(w->problems.items[i].text, "has no effect yet in this version"));
        }
        assert_int_equal(w->problems.n_items, 7);
        assert_int_equal(w->set->n_datastores, 6);
        assert_int_equal(w->set->n_tenants, 2);
        assert_int_equal(w->set->n_secrets, 2);
        assert_string_equal(w->set->default_datastore->base.name, "embedded");
        assert_string_equal(w->set->default_datastore->path, "/state/datastores/embedded");

        d = datastore(w, "hold-postgresql");
        assert_false(d->is_kamaji);
        assert_int_equal(d->capacity_tenants, 200);
        assert_int_equal(d->capacity_bytes, UINT64_C(500) << 30);
        assert_int_equal(d->n_sessions, 8);
        assert_int_equal(d->n_taints, 1);
        assert_string_equal(d->taints[0].value, "production");
        assert_string_equal(d->spec_labels.pairs[0].value, "nvme");
        assert_string_equal(d->secrets[STOKE_SECRET_USERNAME].namespace, "default");
        assert_null(d->path);

        t = tenant(w, "captain");
        assert_string_equal(t->datastore, "embedded");
        assert_true(t->has_quota && t->has_auto_compact && t->has_socket_mode && t->retain);
        assert_int_equal(t->quota_bytes, UINT64_C(4) << 30);
        assert_int_equal(t->auto_compact_ns, 600 * NSEC_PER_SEC);
        assert_int_equal(t->socket_mode, 0660);
        assert_int_equal(t->owner, 0);
        assert_int_equal(t->group, 0);
        assert_int_equal(t->n_peers, 2);
        assert_int_equal(t->peers[1], 1000);
        assert_string_equal(t->tcp, "127.0.0.1:2379");
        assert_int_equal(t->n_client_names, 3);
        assert_string_equal(t->client_names[0].name, "CN:captain");
        assert_string_equal(t->client_names[1].name, "URI:spiffe://ship.example/captain");
        assert_string_equal(t->client_names[2].name, "DNS:captain.ship.example");
        assert_string_equal(t->client_ca.namespace, "ship");
        assert_string_equal(t->client_revocations.key, "ca.crl");
        assert_int_equal(t->backup_every_ns, 6 * 3600 * NSEC_PER_SEC);
        assert_int_equal(t->backup_keep, 7);
        assert_string_equal(t->backup_directory, "/srv/backups");
        t = tenant(w, "pilot");
        assert_null(t->backup_directory);
        assert_null(t->datastore);
        assert_false(t->has_quota || t->has_auto_compact || t->has_socket_mode || t->retain);
        assert_int_equal(t->owner, (uid_t)-1);
}

/* All shapes in which Kamaji's users write a DataStore. */
static void test_kamaji_shapes(void **state) {
        struct world *w = *state;
        const struct datastore_definition *d;
        const struct content_ref *ref;

#define REF(ns, name, key)                                                                                             \
        "        secretReference:\n          name: " name "\n          namespace: " ns "\n          keyPath: " key "\n"
#define PAIR "certificate:\n" REF("deep", "pair", "server.crt") "      privateKey:\n" REF("deep", "pair", "server.key")
        put(w, "a.yaml",
                "---\n# Four in one file.\n" KAMAJI_HEAD(
                        "one-etcd") "  driver: etcd\n  endpoints:\n    - e-0.e.deep.svc:2379\n"
                                    "    - \"[fd00::1]:2379\"\n    - 10.0.0.3:2379\n  basicAuth: null\n  tlsConfig:\n    certificateAuthority:\n"
                                    "      certificate:\n" REF("deep", "ca", "\"ca.crt\"") "      privateKey:\n" REF("deep", "ca", "\"ca.key\"") "    clientCertificate:\n      " PAIR "---\n" KAMAJI_HEAD(
                                            "two-mysql") "  driver: MySQL\n  endpoints:\n    - m.svc:3306\n  basicAuth:\n    username:\n      content: YWRtaW4=\n"
                                                         "    password:\n" REF("deep", "my",
                                                                 "MYSQL_PASSWORD") "  tlsConfig:\n    certificateAuthority:\n"
                                                                                   "      certificate:\n" REF("deep", "my", "ca.crt") "    clientCertificate:\n      " PAIR "---\n" KAMAJI_HEAD(
                                                                                           "three-nats") "  driver: NATS\n  endpoints: [n.svc:4222]\n  basicAuth:\n    username:\n"
                                                                                                         "      content: YWRtaW4=\n    password:\n" REF(
                                                                                                                 "deep",
                                                                                                                 "nats",
                                                                                                                 "password") "...\n---\n" KAMAJI_HEAD("four-pg") "  driver: PostgreSQL\n  endpoints: [\"pg:5432\"]\n  tlsConfig:\n"
                                                                                                                                                                 "    certificateAuthority:\n      certificate: {content: Q0E=}\n    clientCertificate:\n"
                                                                                                                                                                 "      certificate: {content: Q1JU}\n      privateKey: {}\n---\n");
        w->config.secrets = NULL;
        load(w);
        expect_clean(w);
        assert_int_equal(w->set->n_datastores, 5);

        d = datastore(w, "one-etcd");
        assert_true(d->is_kamaji && d->has_tls && d->has_client_certificate && !d->has_basic_auth);
        assert_int_equal(d->n_endpoints, 3);
        assert_string_equal(d->endpoints[1], "[fd00::1]:2379");
        ref = &d->secrets[STOKE_SECRET_CA_PRIVATE_KEY];
        assert_true(ref->present && ref->has_reference && !ref->has_content);
        assert_string_equal(ref->namespace, "deep");
        assert_string_equal(ref->name, "ca");
        assert_string_equal(ref->key, "ca.key");
        assert_int_equal(d->base.line, 3);
        assert_int_equal(d->secrets[STOKE_SECRET_CLIENT_PRIVATE_KEY].present, true);
        assert_int_equal(d->n_settings, 0);

        d = datastore(w, "two-mysql");
        ref = &d->secrets[STOKE_SECRET_USERNAME];
        assert_int_equal(ref->content_size, 5);
        assert_memory_equal(ref->content, "admin", 5);
        assert_false(d->secrets[STOKE_SECRET_CA_PRIVATE_KEY].present);
        assert_true(datastore(w, "three-nats")->has_basic_auth);
        assert_false(datastore(w, "three-nats")->has_tls);
        d = datastore(w, "four-pg");
        assert_true(d->has_tls && !d->has_basic_auth);
        assert_true(d->secrets[STOKE_SECRET_CLIENT_PRIVATE_KEY].present);
}

/* What kubectl prints for one and for several, and what the API server answers. */
static void test_printed_by_kubectl(void **state) {
        struct world *w = *state;

#define PRINTED_METADATA                                                                                                          \
        "  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: |\n      {\"spec\":{\"password\":\"c2VjcmV0\"}}\n" \
        "    team: deck\n  creationTimestamp: \"2024-05-01T10:00:00Z\"\n  deletionTimestamp: null\n  finalizers:\n"               \
        "  - kamaji.clastix.io/TenantControlPlane\n  generation: 7\n  labels: null\n  managedFields:\n"                           \
        "  - apiVersion: kamaji.clastix.io/v1alpha1\n    fieldsType: FieldsV1\n    fieldsV1:\n      f:spec:\n        .: {}\n"     \
        "    manager: kubectl\n    operation: Update\n    time: \"2024-05-01T10:00:00Z\"\n"                                       \
        "  ownerReferences:\n  - apiVersion: v1\n    kind: Thing\n    name: t\n    uid: 1-2\n"                                    \
        "  resourceVersion: \"1234\"\n  selfLink: \"\"\n  uid: 5f0c0a4e-0000-4000-8000-000000000001\n"
#define PRINTED_STATUS                                                                                                                \
        "status:\n  conditions:\n  - lastTransitionTime: \"2024-05-01T10:00:00Z\"\n    message: \"\"\n    reason: DataStoreIsValid\n" \
        "    status: \"True\"\n    type: kamaji.clastix.io/DataStoreValidation\n  observedGeneration: 7\n  ready: true\n"             \
        "  usedBy:\n  - a/b\n"
        put(w, "one.yml",
                "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata:\n  name: printed\n" PRINTED_METADATA
                "spec:\n  driver: MySQL\n  endpoints:\n  - m:3306\n" BASIC PRINTED_STATUS);
        put(w, "null.yaml",
                "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata:\n  annotations: null\n  labels: null\n"
                "  name: nulls\nspec:\n  driver: MySQL\n  endpoints:\n  - m:3306\n" BASIC
                "  tlsConfig: null\nstatus: {}\n");
        put(w, "list.yaml",
                "apiVersion: v1\nitems:\n- apiVersion: kamaji.clastix.io/v1alpha1\n  kind: DataStore\n  metadata:\n    name: in-list\n"
                "  spec:\n    driver: NATS\n    endpoints:\n    - n:1\n    basicAuth: {username: {content: YQ==}, password: {content: Yg==}}\n"
                "  status: {}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: s}\n  data: {a: YQ==}\nkind: List\nmetadata:\n"
                "  resourceVersion: \"\"\n  selfLink: \"\"\n");
        put(w, "typed-list.yaml",
                "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStoreList\nmetadata: {resourceVersion: \"5\"}\nitems:\n"
                "- metadata: {name: bare}\n  spec: {driver: NATS, endpoints: [\"n:1\"], basicAuth: {username: {content: YQ==}, password: {content: Yg==}}}\n");
        put(w, "empty-list.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
        put(w, "empty.yaml", "# nothing\n---\n---\nnull\n");
        put(w, "not-read.txt", "{{{");
        put(w, ".hidden.yaml", "{{{");
        load(w);
        expect_clean(w);
        assert_int_equal(w->set->n_datastores, 5);
        assert_non_null(datastore(w, "in-list"));
        assert_int_equal(datastore(w, "in-list")->base.line, 3);
        assert_true(datastore(w, "bare")->is_kamaji);
        assert_non_null(definitions_find_secret(w->set, "default", "s"));
        /* The annotation with the whole manifest in it is not kept. */
        assert_int_equal(datastore(w, "printed")->annotations.n_pairs, 1);
        assert_string_equal(datastore(w, "printed")->annotations.pairs[0].value, "deck");
        assert_int_equal(datastore(w, "printed")->base.generation, 1);
}

static void test_own_fields(void **state) {
        struct world *w = *state;
        const struct datastore_definition *d;

        put(w, "a.yaml",
                OWN_HEAD(
                        "abs") "  driver: sqlite\n  path: /srv/x/\n  parameters: {b: \"2\", a: one}\n  system: true\n  allowUnsafe: true\n"
                               "---\n" OWN_HEAD("rel") "  driver: SQLite\n  path: sub/x\n  default: true\n---\n" SQLITE("none") "---\n" OWN_HEAD(
                                       "plain-etcd") "  driver: etcd\n  endpoints: [\"127.0.0.1:2379\"]\n---\n" OWN_HEAD("system-roots") "  driver: PostgreSQL\n  endpoints: [\"pg:5432\"]\n  tlsConfig: {}\n");
        load(w);
        expect_clean(w);
        d = datastore(w, "abs");
        assert_string_equal(d->driver, "SQLite");
        assert_string_equal(d->path, "/srv/x");
        assert_int_equal(d->n_settings, 3);
        assert_string_equal(d->settings[1].name, "b");
        assert_string_equal(d->settings[2].value, "one");
        assert_true(d->allow_unsafe);
        assert_ptr_equal(w->set->system_datastore, d);
        assert_string_equal(datastore(w, "rel")->path, "/state/sub/x");
        assert_ptr_equal(w->set->default_datastore, datastore(w, "rel"));
        assert_string_equal(datastore(w, "none")->path, "/state/datastores/none");
        assert_null(datastore(w, "plain-etcd")->path);
        assert_true(datastore(w, "system-roots")->has_tls);
        /* Nobody needs the built-in one now. */
        assert_null(datastore(w, "embedded"));

        /* But where it is in use it stays. */
        definitions_free(w->set);
        w->set = NULL;
        w->used = "embedded";
        load(w);
        expect_clean(w);
        assert_non_null(datastore(w, "embedded"));
}

/* ---- mistakes of one document: one line each, and nothing else changes */

#define STORE(spec) OWN_HEAD("s") spec
#define KAMAJI(spec) KAMAJI_HEAD("s") spec
#define TENANT(spec) TENANT_HEAD("t") spec
#define ENDPOINT "  endpoints: [\"h:1\"]\n"
#define TLS_CA "  tlsConfig:\n    certificateAuthority:\n      certificate: {content: YQ==}\n"

static const struct {
        const char *text, *line; /* the problem, from the line's number on */
} mistakes[] = {
        /* YAML, and what a document is */
        {"a: [1\nb", "3: did not find expected ',' or ']' (while parsing a flow sequence that begins in line 1)"},
        {"a: 1\n\tb: 2\n",
                "2: found a tab character that violates indentation (while scanning a plain scalar that begins in line 1)"},
        {"- a\n", "1: a document must be a mapping"},
        {"just words\n", "1: a document must be a mapping"},
        {"metadata: {name: s}\n", "1: kind: Required value"},
        {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\n",
                "2: kind: unknown kind \"ConfigMap\": there are DataStore, Tenant and Secret"},
        {"apiVersion: v1\nkind: 5\nmetadata: {name: s}\n", "2: kind: must be a string (put quotes around it)"},
        {"kind: DataStore\nmetadata: {name: s}\n", "1: DataStore \"s\": apiVersion: Required value"},
        {"apiVersion: kamaji.clastix.io/v2\nkind: DataStore\nmetadata: {name: s}\n",
                "1: DataStore \"s\": apiVersion: unknown version \"kamaji.clastix.io/v2\" of a DataStore: it must be "
                "kamaji.clastix.io/v1alpha1 or stokehold/v1alpha1"},
        {"apiVersion: v1\nkind: Tenant\nmetadata: {name: t}\n",
                "1: Tenant \"t\": apiVersion: unknown version \"v1\" of a Tenant: it must be stokehold/v1alpha1"},
        {"apiVersion: stokehold/v1alpha1\nkind: Tenant\n", "1: metadata: Required value"},
        {"apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {}\n", "3: metadata.name: Required value"},
        {"apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: 12}\n",
                "3: metadata.name: must be a string (put quotes around it)"},
        {"apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: Big}\n",
                "3: metadata.name: \"Big\" is not a valid name for a Tenant: at most 63 of a-z, 0-9 and -, with a letter or "
                "digit at both ends"},
        {"apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: a/../b}\n",
                "3: metadata.name: \"a/../b\" is not a valid name for a DataStore: at most 253 of a-z, 0-9, - and ., with a "
                "letter or digit at both ends"},
        {"apiVersion: v1\nkind: List\nitem: []\n", "3: item: unknown field"},
        {"apiVersion: v1\nkind: List\nitems: {}\n", "3: items: must be a list"},
        {SQLITE("s") "spce: {}\n", "7: DataStore \"s\": spce: unknown field"},
        {"apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata:\n  name: s\n  labels: [a]\nspec: {driver: SQLite}\n",
                "5: DataStore \"s\": metadata.labels: must be a mapping"},
        {"apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata:\n  name: s\n  labels:\n    a: true\nspec: {driver: SQLite}\n",
                "6: DataStore \"s\": metadata.labels.a: must be a string (put quotes around it)"},
        /* the driver and its endpoints */
        {"apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: s}\n",
                "1: DataStore \"s\": spec: Required value"},
        {"apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: s}\nspec: 7\n",
                "4: DataStore \"s\": spec: must be a mapping"},
        {STORE("  path: x\n"), "6: DataStore \"s\": spec.driver: Required value"},
        {STORE("  driver: [a]\n"), "6: DataStore \"s\": spec.driver: must be a string"},
        {STORE("  driver: Oracle\n"),
                "6: DataStore \"s\": spec.driver: no driver \"Oracle\": there are etcd, MySQL, NATS, PostgreSQL, SQLite"},
        {KAMAJI("  driver: SQLite\n" ENDPOINT BASIC),
                "6: DataStore \"s\": spec.driver: Unsupported value: \"SQLite\": supported values: \"etcd\", \"MySQL\", "
                "\"PostgreSQL\", \"NATS\""},
        {KAMAJI("  driver: mysql\n" ENDPOINT BASIC),
                "6: DataStore \"s\": spec.driver: Unsupported value: \"mysql\": supported values: \"etcd\", \"MySQL\", "
                "\"PostgreSQL\", \"NATS\""},
        {KAMAJI("  driver: MySQL\n" BASIC), "6: DataStore \"s\": spec.endpoints: Required value"},
        {STORE("  driver: MySQL\n"), "6: DataStore \"s\": spec.endpoints: Required value"},
        {KAMAJI("  driver: MySQL\n  endpoints: []\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: should have at least 1 items"},
        {KAMAJI("  driver: MySQL\n  endpoints: h:1\n" BASIC), "7: DataStore \"s\": spec.endpoints: must be a list"},
        {KAMAJI("  driver: MySQL\n  endpoints:\n  - h:1\n  - 5\n" BASIC),
                "9: DataStore \"s\": spec.endpoints: entry 2 must be a string that is not empty"},
        {KAMAJI("  driver: MySQL\n  endpoints:\n  - h:1\n  - h\n" BASIC),
                "9: DataStore \"s\": spec.endpoints: \"h\": missing port in address"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"https://h:1\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \"https://h:1\": must be a bare host:port"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"h:1\", \"root:hush@h:1\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: entry 2: must be a bare host:port (credentials go into spec.basicAuth)"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"::1:5\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \"::1:5\": too many colons in address (an IPv6 address needs brackets)"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"[::1]\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \"[::1]\": missing port in address"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"[::1:5\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \"[::1:5\": missing ']' in address"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\":5\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \":5\": missing host in address"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"h:mysql\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \"h:mysql\": the port must be a number"},
        {KAMAJI("  driver: MySQL\n  endpoints: [\"h:65536\"]\n" BASIC),
                "7: DataStore \"s\": spec.endpoints: \"h:65536\": the port must be from 1 to 65535"},
        /* credentials */
        {KAMAJI("  driver: MySQL\n" ENDPOINT BASIC "  labels: {a: b}\n"),
                "11: DataStore \"s\": spec.labels: unknown field"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT "  basicAuth: root\n"),
                "8: DataStore \"s\": spec.basicAuth: must be a mapping"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT "  basicAuth:\n    username: {content: YQ==}\n"),
                "9: DataStore \"s\": spec.basicAuth.password: Required value"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT "  basicAuth:\n    user: {}\n"),
                "9: DataStore \"s\": spec.basicAuth.user: unknown field"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT
                "  basicAuth:\n    username: {content: \"root!\"}\n    password: {content: YQ==}\n"),
                "9: DataStore \"s\": spec.basicAuth.username.content: is not base64"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT
                "  basicAuth:\n    username: {content: YQ==}\n    password: {contents: YQ==}\n"),
                "10: DataStore \"s\": spec.basicAuth.password.contents: unknown field"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT
                "  basicAuth:\n    username: {content: YQ==}\n    password:\n      secretReference: {name: a, namespace: b}\n"),
                "11: DataStore \"s\": spec.basicAuth.password.secretReference.keyPath: Required value"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT
                "  basicAuth:\n    username: {content: YQ==}\n    password:\n      secretReference: {name: a, keyPath: \"\"}\n"),
                "11: DataStore \"s\": spec.basicAuth.password.secretReference.keyPath: should be at least 1 chars long"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT "  tlsConfig: {}\n"),
                "8: DataStore \"s\": spec.tlsConfig.certificateAuthority: Required value"},
        {KAMAJI("  driver: MySQL\n" ENDPOINT TLS_CA "    serverName: x\n"),
                "11: DataStore \"s\": spec.tlsConfig.serverName: unknown field"},
        /* Kamaji's rules, in its words */
        {KAMAJI("  driver: etcd\n" ENDPOINT),
                "6: DataStore \"s\": spec: certificateAuthority privateKey must have secretReference or content when driver is etcd"},
        {KAMAJI("  driver: etcd\n" ENDPOINT TLS_CA),
                "9: DataStore \"s\": spec: certificateAuthority privateKey must have secretReference or content when driver is etcd"},
        {KAMAJI("  driver: etcd\n" ENDPOINT TLS_CA "      privateKey: {content: YQ==}\n"),
                "9: DataStore \"s\": spec: clientCertificate must have secretReference or content when driver is etcd"},
        {KAMAJI("  driver: etcd\n" ENDPOINT TLS_CA
                "      privateKey: {content: YQ==}\n    clientCertificate: {certificate: {content: YQ==}, privateKey: {}}\n"),
                "9: DataStore \"s\": spec: clientCertificate privateKey must have secretReference or content when driver is etcd"},
        {KAMAJI("  driver: NATS\n" ENDPOINT TLS_CA
                "    clientCertificate: {certificate: {}, privateKey: {content: YQ==}}\n"),
                "9: DataStore \"s\": spec: When driver is not etcd and tlsConfig exists, clientCertificate must be null or contain "
                "valid content"},
        {KAMAJI("  driver: NATS\n" ENDPOINT "  basicAuth: {username: {}, password: {content: YQ==}}\n"),
                "8: DataStore \"s\": spec: When driver is not etcd and basicAuth exists, username must have secretReference or content"},
        {KAMAJI("  driver: NATS\n" ENDPOINT "  basicAuth: {username: {content: YQ==}, password: {}}\n"),
                "8: DataStore \"s\": spec: When driver is not etcd and basicAuth exists, password must have secretReference or content"},
        {KAMAJI("  driver: PostgreSQL\n" ENDPOINT),
                "6: DataStore \"s\": spec: When driver is not etcd, either tlsConfig or basicAuth must be provided"},
        /* what is ours */
        {STORE("  driver: SQLite\n  selector: {}\n"),
                "7: DataStore \"s\": spec.selector: not supported yet by this version"},
        {STORE("  driver: SQLite\n  sise: 1\n"), "7: DataStore \"s\": spec.sise: unknown field"},
        {STORE("  driver: SQLite\n  credentials: Private\n"),
                "7: DataStore \"s\": spec.credentials: must be Shared or Dedicated"},
        {STORE("  driver: SQLite\n  parameters: {credentials: Dedicated}\n"),
                "7: DataStore \"s\": spec.parameters.credentials: is no parameter: use spec.credentials"},
        {STORE("  driver: SQLite\n  path: ../x\n"), "7: DataStore \"s\": spec.path: must not have .. in it"},
        {STORE("  driver: etcd\n" ENDPOINT "  path: x\n"),
                "8: DataStore \"s\": spec.path: a datastore has a path or endpoints, not both"},
        {STORE("  driver: SQLite\n  default: \"true\"\n"), "7: DataStore \"s\": spec.default: must be true or false"},
        {STORE("  driver: SQLite\n  pool: {sessions: 0}\n"),
                "7: DataStore \"s\": spec.pool.sessions: must be from 1 to 1024"},
        {STORE("  driver: SQLite\n  pool: {size: 0}\n"), "7: DataStore \"s\": spec.pool.size: unknown field"},
        {STORE("  driver: SQLite\n  capacity: {tenants: -1}\n"),
                "7: DataStore \"s\": spec.capacity.tenants: must be from 1 to 4294967295"},
        {STORE("  driver: SQLite\n  capacity: {bytes: lots}\n"),
                "7: DataStore \"s\": spec.capacity.bytes: must be a size, such as 256Mi or 2Gi"},
        {STORE("  driver: SQLite\n  taints:\n  - {key: a}\n"),
                "8: DataStore \"s\": spec.taints.effect: Required value"},
        {STORE("  driver: SQLite\n  taints:\n  - {key: a, effect: Never}\n"),
                "8: DataStore \"s\": spec.taints.effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"NoExecute\""},
        {STORE("  driver: SQLite\n  parameters: {timeout: 5}\n"),
                "7: DataStore \"s\": spec.parameters.timeout: must be a string (put quotes around it)"},
        {STORE("  driver: SQLite\n  parameters: {path: /x}\n"),
                "7: DataStore \"s\": spec.parameters.path: is no parameter: use spec.path"},
        /* tenants */
        {TENANT("spec: []\n"), "5: Tenant \"t\": spec: must be a mapping"},
        {TENANT("spec:\n  dataStore: s\n"), "6: Tenant \"t\": spec.dataStore: unknown field"},
        {TENANT("spec:\n  selector: {}\n"), "6: Tenant \"t\": spec.selector: not supported yet by this version"},
        {TENANT("spec:\n  datastore: nowhere\n"), "6: Tenant \"t\": spec.datastore: there is no DataStore \"nowhere\""},
        {TENANT("spec:\n  datastore: No Where\n"),
                "6: Tenant \"t\": spec.datastore: \"No Where\" is not a datastore's name"},
        {TENANT("spec:\n  quota: 2 Gi\n"), "6: Tenant \"t\": spec.quota: must be a size, such as 256Mi or 2Gi"},
        {TENANT("spec:\n  autoCompaction: 5\n"),
                "6: Tenant \"t\": spec.autoCompaction: must be a duration, such as 500ms, 5m or 1h30m, or off"},
        {TENANT("spec:\n  backup: {keep: 3, directory: /srv}\n"), "6: Tenant \"t\": spec.backup.every: Required value"},
        {TENANT("spec:\n  backup: {every: 6h}\n"), "6: Tenant \"t\": spec.backup.directory: Required value"},
        {TENANT("spec:\n  backup: {every: 100ms, directory: /srv}\n"),
                "6: Tenant \"t\": spec.backup.every: must be at least 1s, or off"},
        {TENANT("spec:\n  backup: {every: 6h, keep: 0, directory: /srv}\n"),
                "6: Tenant \"t\": spec.backup.keep: must be from 1 to 10000"},
        {TENANT("spec:\n  backup: {every: 6h, directory: srv}\n"),
                "6: Tenant \"t\": spec.backup.directory: must be an absolute path"},
        {TENANT("spec:\n  backup: {every: 6h, directory: /srv, compress: true}\n"),
                "6: Tenant \"t\": spec.backup.compress: unknown field"},
        {TENANT("spec:\n  deletionPolicy: Keep\n"),
                "6: Tenant \"t\": spec.deletionPolicy: Unsupported value: \"Keep\": supported values: \"Delete\", \"Retain\""},
        {TENANT("spec:\n  endpoint: {mode: rwx}\n"),
                "6: Tenant \"t\": spec.endpoint.mode: must be an octal mode, such as \"0660\""},
        {TENANT("spec:\n  endpoint: {owner: nobody-of-this-name}\n"),
                "6: Tenant \"t\": spec.endpoint.owner: there is no user \"nobody-of-this-name\""},
        {TENANT("spec:\n  endpoint: {group: 4294967295}\n"),
                "6: Tenant \"t\": spec.endpoint.group: 4294967295 is not a group's number"},
        {TENANT("spec:\n  endpoint: {peers: []}\n"),
                "6: Tenant \"t\": spec.endpoint.peers: is empty: leave it out to admit whoever the mode lets in"},
        {TENANT("spec:\n  endpoint:\n    peers:\n    - 0\n    - [1]\n"),
                "9: Tenant \"t\": spec.endpoint.peers: must be a user's name or number"},
        {TENANT("spec:\n  endpoint: {tcp: \"0.0.0.0:2379\"}\n"),
                "6: Tenant \"t\": spec.endpoint.tcp: must be 127.0.0.1:PORT or [::1]:PORT (without TLS on loopback only)"},
        {TENANT("spec:\n  endpoint:\n    clientNames:\n    - a\n    - \"IP:10.0.0.1\"\n"),
                "9: Tenant \"t\": spec.endpoint.clientNames: \"IP:10.0.0.1\" must be CN:NAME, URI:URI, DNS:NAME, or a common "
                "name without \":\" in it"},
        {TENANT("spec:\n  endpoint:\n    clientNames: [\"URI:no uri\"]\n"),
                "7: Tenant \"t\": spec.endpoint.clientNames: \"URI:no uri\" must be URI:a URI with a scheme, such as "
                "spiffe://example/berlin"},
        {TENANT("spec:\n  endpoint:\n    clientNames: [\"DNS:*.a\"]\n"),
                "7: Tenant \"t\": spec.endpoint.clientNames: \"DNS:*.a\" must be DNS:a DNS name in lower case, without a "
                "wildcard"},
        {TENANT("spec:\n  endpoint:\n    clientNames: [a, \"CN:a\"]\n"),
                "7: Tenant \"t\": spec.endpoint.clientNames: \"CN:a\" is there twice"},
        {TENANT("spec:\n  endpoint:\n    clientNames: [5]\n"),
                "7: Tenant \"t\": spec.endpoint.clientNames: must be strings that are not empty"},
        {TENANT("spec:\n  endpoint:\n    clientCA: {certificate: {content: Q0E=}}\n"),
                "7: Tenant \"t\": spec.endpoint.clientCA: needs clientNames: nobody is let in by a CA alone"},
        {TENANT("spec:\n  endpoint:\n    clientNames: [a]\n    clientCA: {revocations: {content: Q0E=}}\n"),
                "8: Tenant \"t\": spec.endpoint.clientCA.certificate: Required value"},
        {TENANT("spec:\n  endpoint:\n    clientNames: [a]\n    clientCA:\n      certificate: {content: \"-----\"}\n"),
                "9: Tenant \"t\": spec.endpoint.clientCA.certificate.content: is not base64"},
        /* secrets */
        {"apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ndata:\n  a: plain text\n",
                "5: Secret \"default/x\": data.a: is not base64"},
        {"apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData:\n  a: 12\n",
                "5: Secret \"default/x\": stringData.a: must be a string (put quotes around it)"},
        {"apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ndatas: {}\n",
                "4: Secret \"default/x\": datas: unknown field"},
        {"apiVersion: v1\nkind: Secret\nmetadata: {name: x, namespace: ..}\n",
                "3: metadata.namespace: \"..\" is not a valid namespace"},
};

static void test_mistakes(void **state) {
        struct world *w = *state;
        uint64_t store, other, secret;

        put(w, "a.yaml", SQLITE("s") "---\n" SQLITE("other"));
        put(w, "b.yaml", TENANT_HEAD("t") "spec: {datastore: s}\n---\n" TENANT_HEAD("u"));
        put(w, "c.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: b}\n");
        load(w);
        expect_clean(w);
        store = datastore(w, "s")->base.fingerprint;
        other = tenant(w, "t")->base.fingerprint;
        secret = definitions_find_secret(w->set, "default", "x")->base.fingerprint;

        for (size_t i = 0; i < n_elements(mistakes); i++) {
                const char *file = strstr(mistakes[i].line, "Tenant \"") ? "b.yaml"
                        : strstr(mistakes[i].line, "Secret \"")          ? "c.yaml"
                                                                         : "a.yaml";
                char *expected;

                /* In the place of the good document, so that its object must stay as it was. */
                put(w, file, mistakes[i].text);
                if (strcmp(file, "a.yaml") == 0)
                        put(w, "other.yaml", SQLITE("other"));
                load(w);
                assert_true(asprintf(&expected, "%s:%s", file, mistakes[i].line) > 0);
                expect_one_problem(w, expected);
                free(expected);

                assert_non_null(datastore(w, "s"));
                assert_int_equal(datastore(w, "s")->base.fingerprint, store);
                assert_int_equal(datastore(w, "s")->base.generation, 1);
                assert_int_equal(tenant(w, "t")->base.fingerprint, other);
                assert_int_equal(tenant(w, "t")->base.generation, 1);
                assert_int_equal(definitions_find_secret(w->set, "default", "x")->base.fingerprint, secret);
                assert_non_null(datastore(w, "other"));
                if (strcmp(file, "a.yaml") == 0)
                        drop(w, "other.yaml");

                put(w, "a.yaml", SQLITE("s") "---\n" SQLITE("other"));
                put(w, "b.yaml", TENANT_HEAD("t") "spec: {datastore: s}\n---\n" TENANT_HEAD("u"));
                put(w, "c.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: b}\n");
                load(w);
                expect_clean(w);
        }
}

/* The same mistakes at the start: the others are there, the bad one is not. */
static void test_mistakes_at_start(void **state) {
        struct world *w = *state;

        put(w, "z.yaml", SQLITE("good"));
        for (size_t i = 0; i < n_elements(mistakes); i++) {
                put(w, "a.yaml", mistakes[i].text);
                definitions_free(w->set);
                w->set = NULL;
                load(w);
                assert_int_equal(w->problems.n_items, 1);
                assert_non_null(datastore(w, "good"));
                assert_null(datastore(w, "s"));
                assert_int_equal(w->set->n_tenants, 0);
                assert_int_equal(w->set->n_secrets, 0);
        }
}

/* ---- mistakes of several documents together */

static void test_generation(void **state) {
        struct world *w = *state;
        uint64_t fingerprint;

        put(w, "a.yaml", OWN_HEAD("s") "  driver: SQLite\n  labels: {a: b, c: d}\n");
        load(w);
        fingerprint = datastore(w, "s")->base.fingerprint;
        assert_int_equal(datastore(w, "s")->base.generation, 1);

        /* Another order, another line, a null, other metadata: the same content. */
        put(w, "a.yaml",
                "\n\napiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata:\n  labels: {x: y}\n  name: s\nspec:\n"
                "  labels: {\"c\": d, a: \"b\"}\n  path: null\n  driver: SQLite\n");
        load(w);
        expect_clean(w);
        assert_int_equal(datastore(w, "s")->base.fingerprint, fingerprint);
        assert_int_equal(datastore(w, "s")->base.generation, 1);
        assert_int_equal(datastore(w, "s")->base.line, 3);
        assert_int_equal(datastore(w, "s")->labels.n_pairs, 1);

        put(w, "a.yaml", OWN_HEAD("s") "  driver: SQLite\n  labels: {a: d, c: b}\n");
        load(w);
        assert_int_equal(datastore(w, "s")->base.generation, 2);
        load(w);
        assert_int_equal(datastore(w, "s")->base.generation, 2);

        /* Moved to another file it is the same object. */
        drop(w, "a.yaml");
        put(w, "b.yaml", OWN_HEAD("s") "  driver: SQLite\n  labels: {a: d}\n");
        load(w);
        expect_clean(w);
        assert_int_equal(datastore(w, "s")->base.generation, 3);
}

static void test_immutable(void **state) {
        struct world *w = *state;

        put(w, "a.yaml", KAMAJI_HEAD("s") "  driver: MySQL\n" ENDPOINT BASIC);
        load(w);
        expect_clean(w);
        put(w, "a.yaml", KAMAJI_HEAD("s") "  driver: PostgreSQL\n" ENDPOINT BASIC);
        load(w);
        expect_one_problem(w,
                "a.yaml:6: DataStore \"s\": spec.driver: driver is immutable and cannot be changed after creation (it is MySQL)");
        assert_string_equal(datastore(w, "s")->driver, "MySQL");
        assert_int_equal(datastore(w, "s")->base.generation, 1);

        /* Endpoints and credentials are not. */
        put(w, "a.yaml", KAMAJI_HEAD("s") "  driver: MySQL\n  endpoints: [\"other:1\"]\n" BASIC);
        load(w);
        expect_clean(w);
        assert_string_equal(datastore(w, "s")->endpoints[0], "other:1");

        /* The built-in one has a driver too. */
        put(w, "e.yaml", OWN_HEAD("embedded") "  driver: etcd\n" ENDPOINT);
        load(w);
        expect_one_problem(w,
                "e.yaml:6: DataStore \"embedded\": spec.driver: driver is immutable and cannot be changed after creation (it is SQLite)");
        assert_string_equal(w->set->system_datastore->base.source, "built in");

        /* Data does not follow a path. */
        w->used = "embedded";
        put(w, "e.yaml", OWN_HEAD("embedded") "  driver: SQLite\n  path: /other\n");
        load(w);
        expect_one_problem(w,
                "e.yaml:6: DataStore \"embedded\": spec.path: cannot be changed while the datastore is used (it is /state/datastores/embedded)");
        w->used = NULL;
        load(w);
        expect_clean(w);
        assert_string_equal(w->set->system_datastore->path, "/other");

        /* Nor from one database into many. */
        put(w, "a.yaml", OWN_HEAD("s") "  driver: MySQL\n  endpoints: [\"other:1\"]\n");
        load(w);
        w->used = "s";
        put(w, "a.yaml", OWN_HEAD("s") "  driver: MySQL\n  credentials: Dedicated\n  endpoints: [\"other:1\"]\n");
        load(w);
        expect_one_problem(w,
                "a.yaml:6: DataStore \"s\": spec.credentials: cannot be changed while the datastore is used (it is Shared)");
        w->used = NULL;
        load(w);
        expect_clean(w);
        assert_true(datastore(w, "s")->dedicated);
        assert_string_equal(datastore(w, "s")->settings[0].name, "credentials");
        assert_string_equal(datastore(w, "s")->settings[0].value, "Dedicated");
}

static void test_duplicates(void **state) {
        struct world *w = *state;
        char expected[512];

        put(w, "b.yaml", OWN_HEAD("s") "  driver: SQLite\n  path: /b\n");
        put(w, "c.yaml", OWN_HEAD("s") "  driver: SQLite\n  path: /c\n---\n" OWN_HEAD("s") "  driver: Nonsense\n");
        load(w);
        snprintf(expected, sizeof(expected), "c.yaml:1: DataStore \"s\" is defined already, at %s/b.yaml:1",
                w->config.directory);
        expect_problem(w, 0, true, expected);
        snprintf(expected, sizeof(expected), "c.yaml:9: DataStore \"s\" is defined already, at %s/b.yaml:1",
                w->config.directory);
        expect_problem(w, 1, true, expected);
        assert_int_equal(w->problems.n_items, 2);
        assert_string_equal(datastore(w, "s")->path, "/b");

        put(w, "a.yaml", OWN_HEAD("s") "  driver: SQLite\n  path: /a\n");
        drop(w, "c.yaml");
        load(w);
        snprintf(expected, sizeof(expected), "a.yaml:1: DataStore \"s\" is defined already, at %s/b.yaml:1",
                w->config.directory);
        expect_one_problem(w, expected);
        assert_string_equal(datastore(w, "s")->path, "/b");

        /* Tenants and datastores may share a name; tenants may not. */
        drop(w, "a.yaml");
        put(w, "t.yaml", TENANT_HEAD("s") "---\n" TENANT_HEAD("s"));
        load(w);
        snprintf(expected, sizeof(expected), "t.yaml:6: Tenant \"s\" is defined already, at %s/t.yaml:1",
                w->config.directory);
        expect_one_problem(w, expected);
}

/* A file that goes with a datastore and the tenants in it: these are deleted first, and nobody has to say it twice. */
static void test_goes_with_its_tenants(void **state) {
        struct world *w = *state;

        put(w, "a.yaml", SQLITE("s") "---\n" TENANT_HEAD("t") "spec: {datastore: s}\n");
        load(w);
        w->used = "s";
        w->used_by = "t";
        drop(w, "a.yaml");
        load(w);
        expect_clean(w);
        assert_non_null(datastore(w, "s"));
        assert_null(tenant(w, "t"));
        load(w);
        expect_clean(w);
        assert_non_null(datastore(w, "s"));
        w->used = NULL;
        load(w);
        expect_clean(w);
        assert_null(datastore(w, "s"));
}

static void test_metadata(void **state) {
        struct world *w = *state;

        put(w, "a.yaml",
                "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: t\n  uid: x\n  lables: {a: b}\n");
        load(w);
        expect_one_problem(w, "a.yaml:6: Tenant \"t\": metadata.lables: unknown field");
        assert_null(tenant(w, "t"));
}

static void test_still_used(void **state) {
        struct world *w = *state;

        put(w, "a.yaml", SQLITE("s") "---\n" SQLITE("unused"));
        load(w);
        w->used = "s";
        put(w, "a.yaml", "# all gone\n");
        load(w);
        expect_one_problem(w,
                "a.yaml:1: DataStore \"s\": DataStoreStillUsed: its document was removed, but it is still used by "
                "one (or more) tenants, and stays as it was");
        assert_non_null(datastore(w, "s"));
        assert_null(datastore(w, "unused"));

        /* It is said again until it is mended. */
        drop(w, "a.yaml");
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        w->used = NULL;
        load(w);
        expect_clean(w);
        assert_null(datastore(w, "s"));

        /* A tenant's definition is use enough. */
        put(w, "a.yaml", SQLITE("s"));
        put(w, "t.yaml", TENANT_HEAD("t") "spec: {datastore: s}\n");
        load(w);
        expect_clean(w);
        drop(w, "a.yaml");
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        assert_non_null(datastore(w, "s"));
        assert_non_null(tenant(w, "t"));
        drop(w, "t.yaml");
        load(w);
        expect_clean(w);
        assert_null(datastore(w, "s"));
        assert_null(tenant(w, "t"));
}

static void test_only_one(void **state) {
        struct world *w = *state;
        char expected[512];

        put(w, "b.yaml", OWN_HEAD("b") "  driver: SQLite\n  default: true\n");
        load(w);
        expect_clean(w);
        put(w, "a.yaml", OWN_HEAD("a") "  driver: SQLite\n  default: true\n");
        put(w, "t.yaml", TENANT_HEAD("t"));
        load(w);
        snprintf(expected, sizeof(expected),
                "a.yaml:7: DataStore \"a\": spec.default: DataStore \"b\" is the default one already, at %s/b.yaml:1",
                w->config.directory);
        expect_one_problem(w, expected);
        assert_string_equal(w->set->default_datastore->base.name, "b");
        assert_null(datastore(w, "a"));

        /* Handed over in one go. */
        put(w, "b.yaml", SQLITE("b"));
        load(w);
        expect_clean(w);
        assert_string_equal(w->set->default_datastore->base.name, "a");
        assert_string_equal(w->set->system_datastore->base.name, "embedded");

        put(w, "b.yaml", OWN_HEAD("b") "  driver: SQLite\n  system: true\n");
        put(w, "a.yaml", OWN_HEAD("a") "  driver: SQLite\n  default: true\n  system: true\n");
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        assert_string_equal(w->set->system_datastore->base.name, "a");
        assert_false(datastore(w, "b")->wants_system);

        /* At the start, with the bad one being the built-in one's namesake. */
        definitions_free(w->set);
        w->set = NULL;
        put(w, "b.yaml", OWN_HEAD("embedded") "  driver: SQLite\n  default: true\n");
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        assert_non_null(w->set->default_datastore);
}

static void test_ports(void **state) {
        struct world *w = *state;
        char expected[512];

        put(w, "b.yaml", TENANT_HEAD("b") "spec:\n  endpoint: {tcp: \"127.0.0.1:2379\"}\n");
        load(w);
        put(w, "a.yaml", TENANT_HEAD("a") "spec:\n  endpoint: {tcp: \"127.0.0.1:2379\"}\n");
        put(w, "c.yaml",
                TENANT_HEAD("c") "spec:\n  endpoint: {tcp: \"127.0.0.1:0\"}\n---\n" TENANT_HEAD(
                        "d") "spec:\n  endpoint: {tcp: \"127.0.0.1:0\"}\n");
        load(w);
        snprintf(expected, sizeof(expected),
                "a.yaml:6: Tenant \"a\": spec.endpoint.tcp: 127.0.0.1:2379 is Tenant \"b\"'s already, at %s/b.yaml:1",
                w->config.directory);
        expect_one_problem(w, expected);
        assert_null(tenant(w, "a"));
        assert_non_null(tenant(w, "b"));
        assert_int_equal(w->set->n_tenants, 3);
}

/* A name that leads to two tenants would let one in to the other's data. Under another CA it is another name. */
static void test_client_names(void **state) {
#define CA "    clientCA: {certificate: {secretReference: {name: ca, keyPath: c}}}\n"
#define OTHER "    clientCA: {certificate: {secretReference: {name: other, keyPath: c}}}\n"
        struct world *w = *state;
        char expected[512];

        put(w, "s.yaml",
                "apiVersion: v1\nkind: Secret\nmetadata: {name: ca}\nstringData: {c: x}\n---\n"
                "apiVersion: v1\nkind: Secret\nmetadata: {name: other}\nstringData: {c: x}\n");
        put(w, "b.yaml", TENANT_HEAD("b") "spec:\n  endpoint:\n    clientNames: [x, y]\n");
        load(w);
        expect_clean(w);
        put(w, "a.yaml", TENANT_HEAD("a") "spec:\n  endpoint:\n    clientNames:\n    - z\n    - CN:y\n");
        put(w, "c.yaml",
                TENANT_HEAD("c") "spec:\n  endpoint:\n    clientNames: [x]\n" CA
                                 "---\n" TENANT_HEAD("d") "spec:\n  endpoint:\n    clientNames: [x]\n" OTHER);
        load(w);
        snprintf(expected, sizeof(expected),
                "a.yaml:9: Tenant \"a\": spec.endpoint.clientNames: CN:y is Tenant \"b\"'s already, at %s/b.yaml:1",
                w->config.directory);
        expect_one_problem(w, expected);
        assert_null(tenant(w, "a"));
        assert_int_equal(w->set->n_tenants, 3);

        /* The one that is new gives way, and stays what it was. */
        put(w, "a.yaml", TENANT_HEAD("a") "spec:\n  endpoint:\n    clientNames: [z]\n");
        load(w);
        expect_clean(w);
        put(w, "a.yaml", TENANT_HEAD("a") "spec:\n  endpoint:\n    clientNames: [z, x]\n" OTHER);
        load(w);
        snprintf(expected, sizeof(expected),
                "a.yaml:7: Tenant \"a\": spec.endpoint.clientNames: CN:x is Tenant \"d\"'s already, at %s/c.yaml:10",
                w->config.directory);
        expect_one_problem(w, expected);
        assert_int_equal(tenant(w, "a")->n_client_names, 1);

        put(w, "c.yaml",
                TENANT_HEAD("c") "spec:\n  endpoint:\n    clientNames: [x]\n"
                                 "    clientCA: {certificate: {secretReference: {name: none, keyPath: c}}}\n");
        load(w);
        expect_problem(w, 0, false,
                "c.yaml:8: Tenant \"c\": spec.endpoint.clientCA.certificate: secretReference default/none, keyPath c: there "
                "is no Secret document, file or credential that has it");
        assert_int_equal(w->problems.n_items, 1);
        assert_int_equal(tenant(w, "a")->n_client_names, 2);
        assert_non_null(tenant(w, "c"));
#undef CA
#undef OTHER
}

/* What cannot be read or told says nothing about what was there. */
static void test_unreadable(void **state) {
        struct world *w = *state;

        put(w, "a.yaml", SQLITE("s") "---\n" TENANT_HEAD("t") "---\n" TENANT_HEAD("u"));
        put(w, "b.yaml", TENANT_HEAD("v"));
        load(w);
        expect_clean(w);

        /* A document whose name was lost may have been any of the file's. */
        put(w, "a.yaml", SQLITE("s") "---\n" TENANT_HEAD("T"));
        put(w, "b.yaml", "");
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        assert_int_equal(w->set->n_tenants, 2);
        assert_null(tenant(w, "v"));

        /* A file that is cut in the middle. */
        put(w, "a.yaml", SQLITE("s") "---\n" TENANT_HEAD("t") "spec: {");
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        assert_int_equal(w->set->n_tenants, 2);

        /* Not a file at all; and (unless we are root) not readable. */
        drop(w, "a.yaml");
        folder_directory(&w->folder, "d/a.yaml");
        load(w);
        expect_one_problem(w, "a.yaml: is not a regular file");
        assert_int_equal(w->set->n_tenants, 2);
        assert_int_equal(rmdir(folder_path(&w->folder, "d/a.yaml")), 0);
        assert_int_equal(mkfifo(folder_path(&w->folder, "d/a.yaml"), 0600), 0);
        load(w);
        expect_one_problem(w, "a.yaml: is not a regular file");
        drop(w, "a.yaml");
        assert_int_equal(symlink("nowhere", folder_path(&w->folder, "d/a.yaml")), 0);
        load(w);
        expect_one_problem(w, "a.yaml: cannot be read: No such file or directory");
        assert_int_equal(w->set->n_tenants, 2);
        assert_non_null(datastore(w, "s"));
        drop(w, "a.yaml");

        /* The directory is gone: everything stays. */
        assert_int_equal(rename(folder_path(&w->folder, "d"), folder_path(&w->folder, "e")), 0);
        load(w);
        assert_int_equal(w->problems.n_items, 1);
        assert_non_null(
                strstr(w->problems.items[0].text, "/d: the directory cannot be read: No such file or directory"));
        assert_int_equal(w->set->n_tenants, 2);
        assert_int_equal(rename(folder_path(&w->folder, "e"), folder_path(&w->folder, "d")), 0);

        load(w);
        expect_clean(w);
        assert_int_equal(w->set->n_tenants, 0);
}

/* A tenant of this name would share its keyspace's name with the registry. */
static void test_reserved_name(void **state) {
        struct world *w = *state;

        put(w, "a.yaml", TENANT_HEAD("registry"));
        load(w);
        expect_one_problem(w, "a.yaml:1: Tenant \"registry\": metadata.name: is kept for the daemon's own keyspace");
        assert_int_equal(w->set->n_tenants, 0);
}

/* One problem is one line, whatever is in the name. */
static void test_one_line(void **state) {
        struct world *w = *state;

        put(w, "a.yaml", "apiVersion: v1\nkind: \"a\\nb\\e[31m\"\n");
        load(w);
        expect_one_problem(w, "a.yaml:2: kind: unknown kind \"a b [31m\": there are DataStore, Tenant and Secret");
}

/* ---- robustness */

/* Every example, cut at every byte and with every byte spoilt: taken or refused, and what was in force stays usable. */
static void test_truncated(void **state) {
        static const char *const names[] = {"embedded", "etcd", "mysql", "postgresql", "nats", "tenants", "secrets"};
        struct world *w = *state;

        for (size_t i = 0; i < n_elements(names); i++) {
                char path[512];
                size_t size;
                char *text;

                snprintf(path, sizeof(path), CONF_DIR "/examples/%s.yaml", names[i]);
                text = file_read_all(path, &size);
                put(w, "a.yaml", text);
                load(w);
                for (size_t n = 0; n < size; n++) {
                        char saved = text[n];

                        folder_write_bytes(&w->folder, "d/a.yaml", text, n);
                        load(w);
                        /* What is prose in the example need not be spoilt as well. */
                        if (n % 3)
                                continue;
                        text[n] = "{[\"'&*!|>%@\x01\xff:-\t\n#"[n / 3 % 18];
                        folder_write_bytes(&w->folder, "d/a.yaml", text, size);
                        load(w);
                        text[n] = saved;
                }
                free(text);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_shipped_examples, setup, teardown),
                cmocka_unit_test_setup_teardown(test_kamaji_shapes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_printed_by_kubectl, setup, teardown),
                cmocka_unit_test_setup_teardown(test_own_fields, setup, teardown),
                cmocka_unit_test_setup_teardown(test_mistakes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_mistakes_at_start, setup, teardown),
                cmocka_unit_test_setup_teardown(test_generation, setup, teardown),
                cmocka_unit_test_setup_teardown(test_immutable, setup, teardown),
                cmocka_unit_test_setup_teardown(test_duplicates, setup, teardown),
                cmocka_unit_test_setup_teardown(test_still_used, setup, teardown),
                cmocka_unit_test_setup_teardown(test_goes_with_its_tenants, setup, teardown),
                cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
                cmocka_unit_test_setup_teardown(test_only_one, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
                cmocka_unit_test_setup_teardown(test_client_names, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
                cmocka_unit_test_setup_teardown(test_reserved_name, setup, teardown),
                cmocka_unit_test_setup_teardown(test_one_line, setup, teardown),
                cmocka_unit_test_setup_teardown(test_truncated, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
