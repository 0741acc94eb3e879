/*
 * What stokectl prints. If these fail, a script that reads -o json or -o yaml gets something else than the daemon said, or a name with
 * escape sequences in it rewrites an operator's terminal.
 */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <stokehold/control.pb-c.h>

#include "base/yaml.h"
#include "ctl/output.h"

/* What print() writes to stdout. */
static char *captured(void (*print)(const void *), const void *userdata) {
        static char text[65536];
        int saved, fd = memfd_create("stdout", MFD_CLOEXEC);
        ssize_t n;

        fflush(stdout);
        saved = dup(STDOUT_FILENO);
        dup2(fd, STDOUT_FILENO);
        print(userdata);
        fflush(stdout);
        dup2(saved, STDOUT_FILENO);
        close(saved);
        n = pread(fd, text, sizeof(text) - 1, 0);
        assert_true(n >= 0);
        text[n] = 0;
        close(fd);
        return text;
}

static void sizes_and_ages_are_short(void **state) {
        struct output_word word;

        (void)state;
        assert_string_equal(output_size(0, &word), "0 B");
        assert_string_equal(output_size(1023, &word), "1023 B");
        assert_string_equal(output_size(1024, &word), "1.0 KiB");
        assert_string_equal(output_size((1 << 20) - 1, &word), "1.0 MiB");
        assert_string_equal(output_size(UINT64_C(150) << 30, &word), "150 GiB");
        assert_string_equal(output_size(UINT64_MAX, &word), "16.0 EiB");
        assert_string_equal(output_age(5, &word), "5s");
        assert_string_equal(output_age(-5, &word), "0s");
        assert_string_equal(output_age(3 * 86400 + 4 * 3600, &word), "3d4h");
        assert_string_equal(output_since("", &word), "-");
        assert_string_equal(output_since("yesterday", &word), "-");
}

static void print_json(const void *message) {
        output_json(output_json_of(message));
}
static void print_yaml(const void *message) {
        output_yaml(output_json_of(message));
}

static void fill(Stokehold__Control__V1__Datastore *d, Stokehold__Control__V1__Condition *c,
        Stokehold__Control__V1__Datastore__LabelsEntry *l) {
        static char *endpoints[] = {"db-0:5432", "yes"};
        static Stokehold__Control__V1__Condition *conditions[1];
        static Stokehold__Control__V1__Datastore__LabelsEntry *labels[1];

        stokehold__control__v1__datastore__init(d);
        stokehold__control__v1__condition__init(c);
        stokehold__control__v1__datastore__labels_entry__init(l);
        d->name = "gold: \"1\"\n#";
        d->driver = "PostgreSQL";
        d->n_endpoints = 2;
        d->endpoints = endpoints;
        d->default_ = true;
        d->observed_generation = INT64_MAX;
        d->commit_p50_ms = 1.5;
        d->manifest = "left out";
        c->type = "Ready";
        c->status = "True";
        conditions[0] = c;
        d->n_conditions = 1;
        d->conditions = conditions;
        l->key = "tier";
        l->value = "null";
        labels[0] = l;
        d->n_labels = 1;
        d->labels = labels;
}

static void json_has_every_field(void **state) {
        Stokehold__Control__V1__Datastore__LabelsEntry l;
        Stokehold__Control__V1__Condition c;
        Stokehold__Control__V1__Datastore d;
        json_t *json;

        (void)state;
        fill(&d, &c, &l);
        json = json_loads(captured(print_json, &d), 0, NULL);
        assert_non_null(json);
        assert_string_equal(json_string_value(json_object_get(json, "name")), d.name);
        assert_true(json_is_true(json_object_get(json, "default")));
        assert_true(json_is_false(json_object_get(json, "ready")));
        assert_int_equal(json_integer_value(json_object_get(json, "observedGeneration")), INT64_MAX);
        assert_int_equal(json_array_size(json_object_get(json, "endpoints")), 2);
        assert_int_equal(json_array_size(json_object_get(json, "usedBy")), 0);
        assert_string_equal(json_string_value(json_object_get(json_object_get(json, "labels"), "tier")), "null");
        assert_string_equal(
                json_string_value(json_object_get(json_array_get(json_object_get(json, "conditions"), 0), "type")),
                "Ready");
        assert_null(json_object_get(json, "manifest"));
        json_decref(json);
}

static void yaml_reads_back_as_it_was(void **state) {
        Stokehold__Control__V1__Datastore__LabelsEntry l;
        Stokehold__Control__V1__Condition c;
        Stokehold__Control__V1__Datastore d;
        struct yaml_file *file;
        const struct yaml_node *root;
        struct error err = {};
        unsigned line;
        char *text;

        (void)state;
        fill(&d, &c, &l);
        text = captured(print_yaml, &d);
        assert_int_equal(yaml_parse(bytes_of_string(text), &file, &line, &err), 0);
        root = file->documents[0].root;
        assert_string_equal(yaml_find(root, "name")->text, d.name);
        assert_true(yaml_is_string(yaml_find(root, "endpoints")->items[0]));
        assert_string_equal(yaml_find(root, "endpoints")->items[1]->text, "yes");
        assert_true(yaml_is_string(yaml_find(root, "endpoints")->items[1]));
        assert_true(yaml_is_string(yaml_find(yaml_find(root, "labels"), "tier")));
        assert_string_equal(yaml_find(yaml_find(root, "conditions")->items[0], "type")->text, "Ready");
        assert_int_equal(yaml_find(root, "usedBy")->kind, YAML_SEQUENCE);
        yaml_file_free(file);
}

static void print_table(const void *userdata) {
        static const struct table_column columns[] = {{"NAME", TABLE_SHRINK}, {"KEYS", TABLE_RIGHT}, {"WHERE"}};
        cleanup(table_freep) struct table *table = table_new(columns, 3);

        (void)userdata;
        table_cell(table, "a");
        table_cell(table, "12345");
        table_cell(table, "x");
        table_cell(table, "größer");
        table_cell(table, "1");
        table_cell(table, "evil\033[2J\nname\xc2\x9b");
        table_print(table);
}

static void tables_are_aligned_and_harmless(void **state) {
        (void)state;
        assert_string_equal(captured(print_table, NULL),
                "NAME     KEYS  WHERE\n"
                "a       12345  x\n"
                "größer      1  evil?[2J name?\n");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sizes_and_ages_are_short),
                cmocka_unit_test(json_has_every_field),
                cmocka_unit_test(yaml_reads_back_as_it_was),
                cmocka_unit_test(tables_are_aligned_and_harmless),
        };

        return cmocka_run_group_tests_name("ctl-output", tests, NULL, NULL);
}
