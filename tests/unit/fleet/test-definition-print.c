/* If these fail, `stokectl … show -o yaml` prints what is no YAML, is not what is in force, or gives a credential away. */
#include "folder.h"

#include "base/yaml.h"
#include "fleet/definition.h"

static struct folder folder;

static int setup(void **state) {
        (void)state;
        folder_new(&folder);
        folder_directory(&folder, "d");
        return 0;
}

static int teardown(void **state) {
        (void)state;
        folder_remove(&folder);
        return 0;
}

static struct definitions *load(const char *directory, struct definition_problems *problems) {
        const struct definitions_config config = {.directory = directory, .state_dir = "/state"};
        struct definitions *set;

        assert_int_equal(definitions_load(&config, NULL, &set, problems), 0);
        return set;
}

static struct definitions *load_text(const char *text) {
        struct definition_problems problems = {};
        struct definitions *set;

        folder_write(&folder, "d/a.yaml", text);
        set = load(folder_path(&folder, "d"), &problems);
        if (problems.n_items)
                fail_msg("%s", problems.items[0].text);
        return set;
}

static void expect_text(struct buf *out, const char *expected) {
        assert_int_equal(buf_append(out, "", 1), 0);
        assert_string_equal((char *)out->data, expected);
        buf_done(out);
}

static void test_datastore(void **state) {
        static const struct definition_condition conditions[] = {
                {"kamaji.clastix.io/DataStoreValidation", "True", "DataStoreIsValid", "", "2024-01-02T03:04:05Z"},
                {"kamaji.clastix.io/DataStoreAllowedDeletion", "False", "DataStoreStillUsed",
                        "The DataStore is still used: see usedBy", "2024-01-02T03:04:05Z"},
        };
        static const char *const used_by[] = {"a", "b"};
        const struct datastore_status status = {.ready = true,
                .used_by = used_by,
                .n_used_by = 2,
                .observed_generation = 1,
                .conditions = conditions,
                .n_conditions = 2};
        struct definitions *set = load_text(
                "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata:\n  name: s\n  labels: {on: \"true\", n: \"12\"}\n"
                "spec:\n  driver: MySQL\n  endpoints: [\"h:1\", \"[::1]:2\"]\n  basicAuth:\n    username: {content: cm9vdA==}\n"
                "    password:\n      secretReference: {namespace: ns, name: login, keyPath: \"0\"}\n  tlsConfig:\n"
                "    certificateAuthority:\n      certificate: {content: Q0E=}\n");
        struct buf out = {};

        (void)state;
        assert_int_equal(datastore_definition_print(definitions_find_datastore(set, "s"), &status, &out), 0);
        expect_text(&out,
                "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata:\n  generation: 1\n  labels:\n"
                "    \"on\": \"true\"\n    \"n\": \"12\"\n  name: s\nspec:\n  basicAuth:\n    password:\n      secretReference:\n"
                "        keyPath: \"0\"\n        name: login\n        namespace: ns\n    username:\n      content: (hidden)\n"
                "  driver: MySQL\n  endpoints:\n  - h:1\n  - '[::1]:2'\n  tlsConfig:\n    certificateAuthority:\n"
                "      certificate:\n        content: (hidden)\nstatus:\n  conditions:\n"
                "  - lastTransitionTime: \"2024-01-02T03:04:05Z\"\n    message: \"\"\n    reason: DataStoreIsValid\n    status: \"True\"\n"
                "    type: kamaji.clastix.io/DataStoreValidation\n  - lastTransitionTime: \"2024-01-02T03:04:05Z\"\n"
                "    message: 'The DataStore is still used: see usedBy'\n    reason: DataStoreStillUsed\n    status: \"False\"\n"
                "    type: kamaji.clastix.io/DataStoreAllowedDeletion\n  observedGeneration: 1\n  ready: true\n  usedBy:\n  - a\n"
                "  - b\n");
        definitions_free(set);
}

/* A password that somebody took for a parameter is refused by the driver, and shown to nobody meanwhile. */
static void test_parameters(void **state) {
        const struct datastore_status status = {};
        struct definitions *set =
                load_text("apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: s}\nspec:\n"
                          "  driver: MySQL\n  endpoints: [\"h:1\"]\n"
                          "  parameters: {database: d, Password: hush, sslkey: hush, api_token: hush}\n");
        struct buf out = {};

        (void)state;
        assert_int_equal(datastore_definition_print(definitions_find_datastore(set, "s"), &status, &out), 0);
        assert_int_equal(buf_append(&out, "", 1), 0);
        assert_null(strstr((char *)out.data, "hush"));
        assert_non_null(strstr((char *)out.data, "    Password: (hidden)\n"));
        assert_non_null(strstr((char *)out.data, "    database: d\n"));
        buf_done(&out);
        definitions_free(set);
}

static void test_tenant(void **state) {
        /* One made with stokectl has no document. */
        struct tenant_definition t = {.base = {.name = (char *)"x"}, .owner = (uid_t)-1, .group = (gid_t)-1};
        static const char *const endpoints[] = {"unix:///run/x.sock"};
        const struct tenant_status status = {.phase = "Ready",
                .condition = "Serving",
                .datastore = "embedded",
                .incarnation = "0",
                .socket = "/run/x.sock",
                .endpoints = endpoints,
                .n_endpoints = 1,
                .revision = 42};
        struct buf out = {};

        (void)state;
        assert_int_equal(tenant_definition_print(&t, &status, &out), 0);
        expect_text(&out,
                "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: x\nspec:\n  deletionPolicy: Delete\nstatus:\n"
                "  condition: Serving\n  datastore: embedded\n  endpoints:\n  - unix:///run/x.sock\n  incarnation: \"0\"\n"
                "  phase: Ready\n  revision: 42\n  socket: /run/x.sock\n");
}

/* What is printed is a definition again, with the same content where no content is hidden. */
static void test_round_trip(void **state) {
        struct definition_problems problems = {};
        struct definitions *set = load(CONF_DIR "/examples", &problems);
        size_t n_hidden = 0;

        (void)state;
        for (size_t i = 0; i < set->n_datastores + set->n_tenants; i++) {
                bool is_tenant = i >= set->n_datastores, hidden;
                const struct definition *base =
                        is_tenant ? &set->tenants[i - set->n_datastores]->base : &set->datastores[i]->base;
                struct definition_problems again_problems = {};
                struct buf out = {}, twice = {};
                const struct definition *again;
                struct definitions *next;

                assert_int_equal(is_tenant ? tenant_definition_print(set->tenants[i - set->n_datastores], NULL, &out)
                                           : datastore_definition_print(set->datastores[i], NULL, &out),
                        0);
                /* Without the server's own fields it is what was read; a tenant's datastore has to be there. */
                hidden = memmem(out.data, out.size, "(hidden)", 8) != NULL;
                n_hidden += hidden;
                folder_write_bytes(&folder, "d/a.yaml", out.data, out.size);
                next = load(folder_path(&folder, "d"), &again_problems);
                if (hidden) {
                        /* It cannot be applied by accident. */
                        assert_int_equal(again_problems.n_items, 1);
                        assert_non_null(strstr(again_problems.items[0].text, "content: is not base64"));
                } else {
                        for (size_t j = 0; j < again_problems.n_items; j++)
                                assert_false(again_problems.items[j].refused);
                        again = is_tenant ? &definitions_find_tenant(next, base->name)->base
                                          : &definitions_find_datastore(next, base->name)->base;
                        assert_int_equal(is_tenant
                                        ? tenant_definition_print((const struct tenant_definition *)again, NULL, &twice)
                                        : datastore_definition_print(
                                                  (const struct datastore_definition *)again, NULL, &twice),
                                0);
                        assert_true(bytes_equal(bytes_of(out.data, out.size), bytes_of(twice.data, twice.size)));
                }
                buf_done(&out);
                buf_done(&twice);
                definition_problems_done(&again_problems);
                definitions_free(next);
        }
        assert_int_equal(n_hidden, 2);
        definitions_free(set);
        definition_problems_done(&problems);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_datastore, setup, teardown),
                cmocka_unit_test_setup_teardown(test_parameters, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tenant, setup, teardown),
                cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
