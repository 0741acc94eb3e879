/*
 * What a user would lose: the difference between his hosts, told wrongly or not at all; tenants served from a copy that was cut off. What the registry and
 * the copy of it say of definitions, read back as it was written, and refused where it is not that.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet/host.h"
#include "fleet/in_force.h"
#include "fleet/registry_copy.h"
#include "fleet/state_file.h"
#include "folder.h"

static const struct format_range formats = {1, 2};

static void make(struct in_force *f, const char *const *names, const uint64_t *fingerprints, size_t n) {
        *f = (struct in_force){
                .generation = 3, .host = strdup("h"), .host_name = strdup("a \"b\""), .since = 1700000000};
        f->objects = xcalloc(n, sizeof(*f->objects));
        f->n_objects = n;
        for (size_t i = 0; i < n; i++)
                f->objects[i] = (struct in_force_object){strdup(names[i]), fingerprints[i]};
}

static void test_round_trip(void **state) {
        struct in_force f, g = {};
        cleanup(error_done) struct error err = {};
        char *text, *again;

        (void)state;
        make(&f, (const char *[]){"DataStore/a.b", "Tenant/a", "Tenant/z"}, (uint64_t[]){0, UINT64_MAX, 1}, 3);
        text = in_force_print(&f);
        assert_int_equal(in_force_parse(bytes_of_string(text), &g, &err), 0);
        assert_true(in_force_equal(&f, &g));
        assert_int_equal(g.generation, 3);
        assert_string_equal(g.host_name, "a \"b\"");
        assert_true(in_force_find(&g, "Tenant", "a")->fingerprint == UINT64_MAX);
        assert_null(in_force_find(&g, "Tenant", "b"));
        assert_null(in_force_find(&g, "DataStore", "a"));
        again = in_force_print(&g);
        assert_string_equal(text, again);
        assert_true(in_force_fingerprint(&f) == in_force_fingerprint(&g));
        g.objects[2].fingerprint++;
        assert_false(in_force_equal(&f, &g));
        assert_true(in_force_fingerprint(&f) != in_force_fingerprint(&g));
        free(text);
        free(again);
        in_force_done(&f);
        in_force_done(&g);
}

static void test_bad_ones(void **state) {
        static const char *const bad[] = {"", "{}", "[]", "{\"format\":2}",
                "{\"format\":1,\"generation\":0,\"host\":\"h\",\"hostName\":\"n\",\"since\":1,\"objects\":{}}",
                "{\"format\":1,\"generation\":1,\"host\":\"h\",\"hostName\":\"n\",\"since\":1,\"objects\":[]}",
                "{\"format\":1,\"generation\":1,\"host\":\"h\",\"hostName\":\"n\",\"since\":1,\"objects\":{\"Tenant/a\":\"12\"}}",
                "{\"format\":1,\"generation\":1,\"host\":\"h\",\"hostName\":\"n\",\"since\":1,\"objects\":{\"Tenant/a\":\"000000000000000x\"}}",
                "{\"format\":1,\"generation\":1,\"host\":\"h\",\"hostName\":\"n\",\"since\":1,\"objects\":{\"Tenant/a\":7}}"};
        struct in_force f = {};

        (void)state;
        for (size_t i = 0; i < n_elements(bad); i++) {
                cleanup(error_done) struct error err = {};

                assert_int_equal(in_force_parse(bytes_of_string(bad[i]), &f, &err), -EBADMSG);
                assert_null(f.objects);
        }
}

static char told[1024];

static void on_line(void *userdata, const char *line) {
        (void)userdata;
        snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s\n", line);
}

static void test_differences(void **state) {
        struct in_force force, files;

        (void)state;
        make(&force, (const char *[]){"DataStore/a", "Tenant/a", "Tenant/b", "Tenant/d"}, (uint64_t[]){1, 2, 3, 4}, 4);
        make(&files, (const char *[]){"DataStore/a", "Tenant/b", "Tenant/c", "Tenant/d"}, (uint64_t[]){1, 9, 3, 4}, 4);
        told[0] = '\0';
        in_force_differences(&force, &files, on_line, NULL);
        assert_string_equal(told,
                "Tenant \"a\": is in force, and in no file here\n"
                "Tenant \"b\": says something else here than what is in force\n"
                "Tenant \"c\": is in a file here, and not in force\n");
        told[0] = '\0';
        in_force_differences(&force, &force, on_line, NULL);
        assert_string_equal(told, "");
        in_force_done(&force);
        in_force_done(&files);
}

/* Rotated host by host, a password keeps no host from applying its files; all else must be the same. */
static void test_secrets_are_left_out(void **state) {
        static const char *const documents[] = {
                "spec: {driver: X, endpoints: [\"a:1\"], basicAuth: {username: {content: YQ==}, password: {content: YQ==}}}",
                "spec: {driver: X, basicAuth: {password: {content: YWI=}, username: {content: YQ==}}, endpoints: [\"a:1\"]}",
                "spec: {driver: X, endpoints: [\"b:1\"], basicAuth: {username: {content: YQ==}, password: {content: YQ==}}}",
                "spec: {driver: X, endpoints: [\"a:1\"], basicAuth: {username: {content: YQ==}, password: {secretReference: {name: s, keyPath: p}}}}"};
        uint64_t shared[n_elements(documents)], content[n_elements(documents)];

        (void)state;
        for (size_t i = 0; i < n_elements(documents); i++) {
                struct folder folder;
                const struct definitions_config config = {.directory = folder.path, .state_dir = "/state"};
                struct definition_problems problems = {};
                struct definitions *set = NULL;
                char *text;

                assert_true(
                        asprintf(&text, "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: d}\n%s\n",
                                documents[i]) > 0);
                folder_new(&folder);
                folder_write(&folder, "d.yaml", text);
                assert_int_equal(definitions_load(&config, NULL, &set, &problems), 0);
                if (problems.n_items)
                        fail_msg("%s", problems.items[0].text);
                folder_remove(&folder);
                shared[i] = definitions_find_datastore(set, "d")->base.shared;
                content[i] = definitions_find_datastore(set, "d")->base.fingerprint;
                definitions_free(set);
                definition_problems_done(&problems);
                free(text);
        }
        assert_true(shared[0] == shared[1]);
        assert_true(content[0] != content[1]);
        assert_true(shared[0] != shared[2]);
        assert_true(shared[0] != shared[3]);
}

/* ---- files in the state directory */

static char dir[64];

static int make_dir(void **state) {
        (void)state;
        strcpy(dir, "/tmp/stokehold-test-XXXXXX");
        return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
        cleanup(error_done) struct error err = {};

        (void)state;
        assert_int_equal(state_file_remove(dir, "registry-copy.json", &err), 0);
        assert_int_equal(state_file_remove(dir, "host-id", &err), 0);
        return rmdir(dir);
}

static void test_copy(void **state) {
        struct registry_record record = {.name = (char *)"t",
                .datastore = (char *)"d",
                .phase = REGISTRY_READY,
                .source = (char *)"stokectl",
                .host = (char *)"",
                .host_name = (char *)"",
                .quota_bytes = 7,
                .created = 5};
        struct registry_record *records[] = {&record};
        struct registry_copy copy = {.datastore = (char *)"d",
                .format = 2,
                .revision = 9,
                .saved = 1700000000,
                .agreed_generation = 3,
                .agreed_fingerprint = UINT64_MAX - 1,
                .records = records,
                .n_records = 1};
        struct registry_copy got = {};
        cleanup(error_done) struct error err = {};
        static const struct format_range old = {1, 1};
        char *path, *text, *cut;
        struct stat st;

        (void)state;
        memset(copy.id, 1, 16);
        memset(copy.incarnation, 2, 16);
        memset(record.incarnation, 3, 16);
        make(&copy.in_force, (const char *[]){"Tenant/t"}, (uint64_t[]){5}, 1);
        assert_int_equal(registry_copy_read(dir, &formats, &got, &err), -ENOENT);
        assert_int_equal(registry_copy_write(dir, &copy, &err), 0);
        assert_true(asprintf(&path, "%s/registry-copy.json", dir) > 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(registry_copy_read(dir, &formats, &got, &err), 0);
        assert_memory_equal(got.id, copy.id, 16);
        assert_memory_equal(got.incarnation, copy.incarnation, 16);
        assert_int_equal(got.revision, 9);
        assert_int_equal(got.agreed_generation, 3);
        assert_true(got.agreed_fingerprint == UINT64_MAX - 1);
        assert_true(in_force_equal(&got.in_force, &copy.in_force));
        assert_int_equal(got.n_records, 1);
        assert_string_equal(got.records[0]->name, "t");
        assert_memory_equal(got.records[0]->incarnation, record.incarnation, 16);
        assert_int_equal(got.records[0]->quota_bytes, 7);
        registry_copy_done(&got);

        /* A daemon that cannot do its format takes nothing from it. */
        assert_int_equal(registry_copy_read(dir, &old, &got, &err), -EBADMSG);

        /* Cut anywhere it is as good as none. */
        assert_int_equal(state_file_read(dir, "registry-copy.json", 1 << 20, &text, &err), 0);
        for (size_t n = 0; n < strlen(text); n += 7) {
                cleanup(error_done) struct error problem = {};

                cut = strndup(text, n);
                assert_int_equal(state_file_write(dir, "registry-copy.json", cut, &problem), 0);
                assert_int_equal(registry_copy_read(dir, &formats, &got, &problem), -EBADMSG);
                assert_null(got.records);
                free(cut);
        }
        free(text);
        free(path);
        in_force_done(&copy.in_force);
}

static void test_host(void **state) {
        struct host a = {}, b = {};
        cleanup(error_done) struct error err = {};

        (void)state;
        assert_int_equal(host_read(dir, &a, &err), 0);
        assert_int_equal(host_read(dir, &b, &err), 0);
        assert_string_equal(a.id, b.id);
        assert_true(strlen(a.name) > 0);
        assert_int_equal(state_file_write(dir, "host-id", "not one\n", &err), 0);
        host_done(&b);
        assert_int_equal(host_read(dir, &b, &err), -EBADMSG);
        assert_non_null(strstr(error_text(&err), "host-id"));
        host_done(&a);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_bad_ones),
                cmocka_unit_test(test_differences),
                cmocka_unit_test(test_secrets_are_left_out),
                cmocka_unit_test_setup_teardown(test_copy, make_dir, remove_dir),
                cmocka_unit_test_setup_teardown(test_host, make_dir, remove_dir),
        };

        return cmocka_run_group_tests_name("fleet-in-force", tests, NULL, NULL);
}
