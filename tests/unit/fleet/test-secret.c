/* If these fail, a datastore is dialled with the wrong credentials, or a manifest reads files that it must not. */
#include "folder.h"

#include <pthread.h>

#include "fleet/definition.h"
#include "fleet/secret.h"

#define DEFINITIONS                                                                                                    \
        "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata: {name: s}\nspec:\n  driver: MySQL\n"       \
        "  endpoints: [\"h:1\"]\n  basicAuth:\n    username:\n      content: cm9vdA==\n"                               \
        "      secretReference: {namespace: ns, name: login, keyPath: username}\n    password:\n"                      \
        "      secretReference: {namespace: ns, name: login, keyPath: password}\n"
#define SECRET(text) "---\napiVersion: v1\nkind: Secret\nmetadata: {namespace: ns, name: login}\n" text

struct world {
        struct folder folder;
        struct secret_source *source;
        struct definitions_config config;
        struct definitions *set;
        struct definition_problems problems;
        char directory[96];
};

static int setup(void **state) {
        struct world *w = new0(struct world);

        folder_new(&w->folder);
        folder_directory(&w->folder, "d");
        folder_directory(&w->folder, "secrets");
        folder_directory(&w->folder, "secrets/ns");
        folder_directory(&w->folder, "secrets/ns/login");
        folder_directory(&w->folder, "credentials");
        snprintf(w->directory, sizeof(w->directory), "%s/d", w->folder.path);
        assert_int_equal(secret_source_new(folder_path(&w->folder, "secrets"), folder_path(&w->folder, "credentials"),
                                 &w->source),
                0);
        w->config = (struct definitions_config){.directory = w->directory, .state_dir = "/s", .secrets = w->source};
        *state = w;
        return 0;
}

static int teardown(void **state) {
        struct world *w = *state;

        definitions_free(w->set);
        definition_problems_done(&w->problems);
        secret_source_unref(w->source);
        folder_remove(&w->folder);
        free(w);
        return 0;
}

static const struct datastore_definition *load(struct world *w, const char *text) {
        struct definitions *next;

        folder_write(&w->folder, "d/a.yaml", text);
        definition_problems_done(&w->problems);
        assert_int_equal(definitions_load(&w->config, w->set, &next, &w->problems), 0);
        definitions_free(w->set);
        w->set = next;
        secret_source_set(w->source, next);
        return definitions_find_datastore(next, "s");
}

static void keep(void *visitor, const void *data, size_t size) {
        char *out = visitor;

        assert_true(size < 64);
        memcpy(out, data, size);
        out[size] = '\0';
        assert_int_equal(((const char *)data)[size], '\0');
}

static int ask(struct world *w, const struct datastore_definition *d, enum stoke_secret which, char out[64],
        char reason[256]) {
        struct datastore_secret s = {.source = w->source, .definition = d};

        out[0] = reason[0] = '\0';
        return datastore_secret_visit(&s, which, keep, out, reason, 256);
}

static void test_order(void **state) {
        struct world *w = *state;
        const struct datastore_definition *d;
        char out[64], reason[256];

        d = load(w, DEFINITIONS);
        assert_int_equal(w->problems.n_items, 1);
        assert_false(w->problems.items[0].refused);
        assert_non_null(strstr(w->problems.items[0].text,
                "/a.yaml:12: DataStore \"s\": BasicAuthValidationFailed: spec.basicAuth.password: secretReference ns/login, keyPath "
                "password: there is no Secret document, file or credential that has it"));

        /* Content wins; what is nowhere is no absence; what was not asked for is. */
        assert_int_equal(ask(w, d, STOKE_SECRET_USERNAME, out, reason), 0);
        assert_string_equal(out, "root");
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), -ENOKEY);
        assert_non_null(strstr(reason, "basicAuth.password: secretReference ns/login"));
        assert_int_equal(ask(w, d, STOKE_SECRET_CA_CERTIFICATE, out, reason), -ENOENT);

        /* Read anew each time, from the last place to the first. */
        folder_write(&w->folder, "credentials/ns.login.password", "from systemd");
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "from systemd");
        folder_write(&w->folder, "secrets/ns/login/password", "from a file\n");
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "from a file");
        folder_write(&w->folder, "secrets/ns/login/password", "rotated\r\n");
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "rotated");

        d = load(w, DEFINITIONS SECRET("data: {password: ZnJvbSBkYXRh}\n"));
        assert_int_equal(w->problems.n_items, 0);
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "from data");
        d = load(w, DEFINITIONS SECRET("data: {password: ZnJvbSBkYXRh}\nstringData: {password: \"a text\\n\"}\n"));
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "a text\n"); /* a document means what it says */

        /* A key that the document has not is looked for further on. */
        d = load(w, DEFINITIONS SECRET("data: {other: YQ==}\n"));
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "rotated");
        d = load(w, DEFINITIONS);
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
}

static void test_no_way_out(void **state) {
        static const char *const references[] = {
                "{namespace: .., name: d, keyPath: a.yaml}",
                "{namespace: ns, name: .., keyPath: x}",
                "{namespace: ns, name: login, keyPath: ../../../d/a.yaml}",
                "{namespace: ns, name: login, keyPath: ..}",
                "{namespace: ns/login, name: ., keyPath: password}",
                "{namespace: ns, name: \"\", keyPath: password}",
                "{namespace: ns, keyPath: password}",
        };
        struct world *w = *state;
        char out[64], reason[256], text[1024];

        folder_write(&w->folder, "secrets/ns/login/password", "p");
        folder_write(&w->folder, "secrets/ns/x", "p");
        for (size_t i = 0; i < n_elements(references); i++) {
                const struct datastore_definition *d;

                snprintf(text, sizeof(text),
                        "apiVersion: kamaji.clastix.io/v1alpha1\nkind: DataStore\nmetadata: {name: s}\nspec:\n  driver: MySQL\n"
                        "  endpoints: [\"h:1\"]\n  basicAuth:\n    username: {content: YQ==}\n    password:\n"
                        "      secretReference: %s\n",
                        references[i]);
                d = load(w, text);
                assert_non_null(d); /* Kamaji takes it too, and calls it not ready */
                assert_int_equal(w->problems.n_items, 1);
                assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), -EINVAL);
                assert_string_equal(out, "");
        }
}

static void test_odd_files(void **state) {
        struct world *w = *state;
        const struct datastore_definition *d = load(w, DEFINITIONS);
        char out[64], reason[256], *big;
        const char *why;
        unsigned line;

        folder_write(&w->folder, "secrets/ns/login/password", "");
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), 0);
        assert_string_equal(out, "");
        folder_delete(&w->folder, "secrets/ns/login/password");

        folder_directory(&w->folder, "secrets/ns/login/password");
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), -EINVAL);
        assert_non_null(strstr(reason, "is not a regular file"));
        assert_int_equal(secret_check(w->source, NULL, d, &why, &line, NULL), -EINVAL);
        assert_string_equal(why, "BasicAuthValidationFailed");
        assert_int_equal(rmdir(folder_path(&w->folder, "secrets/ns/login/password")), 0);

        big = calloc(1, (1 << 20) + 1);
        assert_non_null(big);
        memset(big, 'x', 1 << 20);
        folder_write_bytes(&w->folder, "secrets/ns/login/password", big, (1 << 20) + 1);
        assert_int_equal(ask(w, d, STOKE_SECRET_PASSWORD, out, reason), -EFBIG);
        free(big);
}

struct asker {
        struct secret_source *source;
        const struct datastore_definition *definition;
        bool stop;
        unsigned n;
};

static void count(void *visitor, const void *data, size_t size) {
        assert_true(size == 1 && (*(const char *)data == 'a' || *(const char *)data == 'b'));
        (*(unsigned *)visitor)++;
}

static void *ask_on(void *userdata) {
        struct asker *a = userdata;
        struct datastore_secret s = {.source = a->source, .definition = a->definition};
        char reason[256];

        while (!__atomic_load_n(&a->stop, __ATOMIC_RELAXED))
                if (datastore_secret_visit(&s, STOKE_SECRET_PASSWORD, count, &a->n, reason, sizeof(reason)) < 0)
                        break;
        return NULL;
}

/* Sessions ask while the main thread puts new documents in force. */
static void test_threads(void **state) {
        struct world *w = *state;
        struct asker asker = {.source = secret_source_ref(w->source)};
        pthread_t thread;

        asker.definition = datastore_definition_ref(load(w, DEFINITIONS SECRET("data: {password: YQ==}\n")));
        assert_int_equal(pthread_create(&thread, NULL, ask_on, &asker), 0);
        for (unsigned i = 0; i < 200; i++)
                load(w,
                        i % 2 ? DEFINITIONS SECRET("data: {password: YQ==}\n")
                              : DEFINITIONS SECRET("data: {password: Yg==}\n"));
        __atomic_store_n(&asker.stop, true, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        assert_true(asker.n > 0);
        datastore_definition_unref(asker.definition);
        secret_source_unref(asker.source);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_order, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_way_out, setup, teardown),
                cmocka_unit_test_setup_teardown(test_odd_files, setup, teardown),
                cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
