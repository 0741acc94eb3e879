#include "world.h"

/*
 * What a user would lose: the tenants that the daemon must remember, over any crash, and the certainty that a registry is never quietly made anew
 * where one was.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fleet/registry_file.h"
#include "fleet/uuid.h"

static void test_records_survive(void **state) {
        struct world *w = *state;
        struct registry_record *record = world_record("a", REGISTRY_PROVISIONING);
        struct registry *r;
        char id[UUID_TEXT_SIZE];

        world_open_datastore(w);
        r = world_open_registry(w);
        assert_int_equal(world_n_records, 0);
        assert_string_equal(registry_datastore(r), "embedded");
        strcpy(id, registry_id(r));

        record->quota_bytes = UINT64_C(3) << 40;
        record->retain = true;
        record->from_file = true;
        free(record->source);
        record->source = strdup("/etc/x \"y\".yaml:12");
        world_write(w, r, record, false);
        assert_int_equal(w->result, 0);
        assert_true(record->mod_revision > 1);
        record->phase = REGISTRY_INSTALLING;
        uuid_make(record->installation);
        uuid_make(record->installer);
        world_write(w, r, record, false);
        assert_int_equal(w->result, 0);
        world_close_registry(w, r);
        r = world_open_registry(w);
        assert_int_equal(world_records[0]->phase, REGISTRY_INSTALLING);
        assert_memory_equal(world_records[0]->installation, record->installation, 16);
        assert_memory_equal(world_records[0]->installer, record->installer, 16);
        record->phase = REGISTRY_READY;
        world_write(w, r, record, false);
        assert_int_equal(w->result, 0);
        world_close_registry(w, r);

        r = world_open_registry(w);
        assert_string_equal(registry_id(r), id);
        assert_int_equal(world_n_records, 1);
        assert_string_equal(world_records[0]->name, "a");
        assert_int_equal(world_records[0]->phase, REGISTRY_READY);
        assert_memory_equal(world_records[0]->incarnation, record->incarnation, 16);
        assert_true(world_records[0]->quota_bytes == record->quota_bytes);
        assert_true(world_records[0]->retain && world_records[0]->from_file);
        assert_string_equal(world_records[0]->source, record->source);
        assert_int_equal(world_records[0]->mod_revision, record->mod_revision);

        world_write(w, r, record, true);
        assert_int_equal(w->result, 0);
        world_close_registry(w, r);
        r = world_open_registry(w);
        assert_int_equal(world_n_records, 0);
        world_close_registry(w, r);
        registry_record_free(record);
}

static void test_writes_compare(void **state) {
        struct world *w = *state;
        struct registry_record *record = world_record("a", REGISTRY_PROVISIONING), *other;
        struct registry *r;

        world_open_datastore(w);
        r = world_open_registry(w);
        world_write(w, r, record, false);
        assert_int_equal(w->result, 0);

        /* A second creation of the name, by somebody who does not know of the first. */
        other = world_record("a", REGISTRY_PROVISIONING);
        world_write(w, r, other, false);
        assert_int_equal(w->result, -ESTALE);

        /* The same write again, as after an outcome that was not known: it has landed. */
        registry_record_free(other);
        other = registry_record_copy(record);
        other->mod_revision = 0;
        world_write(w, r, other, false);
        assert_int_equal(w->result, 0);
        assert_int_equal(other->mod_revision, record->mod_revision);

        /* A removal twice; and a change of what is gone. */
        world_write(w, r, record, true);
        assert_int_equal(w->result, 0);
        world_write(w, r, other, true);
        assert_int_equal(w->result, 0);
        assert_int_equal(other->mod_revision, 0);
        other->phase = REGISTRY_READY;
        other->mod_revision = 2;
        world_write(w, r, other, false);
        assert_int_equal(w->result, -ESTALE);
        world_close_registry(w, r);
        registry_record_free(record);
        registry_record_free(other);
}

static void test_lost_file_is_adopted(void **state) {
        struct world *w = *state;
        struct registry_record *record = world_record("a", REGISTRY_READY);
        struct registry *r;
        char *path = world_path(w, "state/registry.json");

        world_open_datastore(w);
        r = world_open_registry(w);
        world_write(w, r, record, false);
        world_close_registry(w, r);

        assert_int_equal(unlink(path), 0);
        r = world_open_registry(w);
        assert_int_equal(world_n_records, 1);
        world_close_registry(w, r);
        assert_int_equal(access(path, F_OK), 0);
        assert_int_equal(world_count_keyspaces(w, "registry"), 1);
        registry_record_free(record);
        free(path);
}

/* Crashes of the very first start: behind the file, and behind the keyspace. */
static void test_first_start_is_finished(void **state) {
        struct world *w = *state;
        char *dir = world_path(w, "state");
        struct registry_file file = {.datastore = strdup("embedded")};
        cleanup(error_done) struct error err = {};
        struct registry *r;

        world_open_datastore(w);
        for (int made = 0; made < 2; made++) {
                uuid_make(file.incarnation);
                file.created = false;
                assert_int_equal(registry_file_write(dir, &file, &err), 0);
                if (made)
                        world_make_keyspace(w, "registry", file.incarnation);
                r = world_open_registry(w);
                world_close_registry(w, r);
                registry_file_done(&file);
                assert_int_equal(registry_file_read(dir, &file, &err), 0);
                assert_true(file.created);
        }
        registry_file_done(&file);
        free(dir);
}

static void test_bad_file_is_refused(void **state) {
        static const char *const bad[] = {"", "{", "[]", "{\"datastore\": \"embedded\"}",
                "{\"datastore\": \"embedded\", \"incarnation\": \"x\", \"created\": true}",
                "{\"datastore\": 3, \"incarnation\": \"6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6a0\", \"created\": true}"};
        struct world *w = *state;
        char *path = world_path(w, "state/registry.json"), *dir = world_path(w, "state");

        for (size_t i = 0; i < n_elements(bad); i++) {
                cleanup(error_done) struct error err = {};
                struct registry *r = NULL;
                FILE *f = fopen(path, "w");

                assert_non_null(f);
                fputs(bad[i], f);
                fclose(f);
                assert_int_equal(registry_new(w->loop, dir, w->daemon, &world_formats, &r, &err), -EBADMSG);
                assert_non_null(strstr(error_text(&err), "registry.json"));
        }
        free(path);
        free(dir);
}

/* Who may come in by a certificate is not to be forgotten by a restart, nor by a step of the tenant's life. */
static void test_client_names_are_kept(void **state) {
        struct registry_record *record = world_record("a", REGISTRY_READY), *copy, *read = NULL;
        cleanup(error_done) struct error err = {};
        char *text;

        (void)state;
        record->client_names = xcalloc(2, sizeof(*record->client_names));
        record->client_names[record->n_client_names++] = strdup("CN:a");
        record->client_names[record->n_client_names++] = strdup("URI:spiffe://x/\"a\"");
        copy = registry_record_copy(record);
        text = registry_record_print(copy, 1);
        assert_int_equal(
                registry_record_parse(bytes_of_string("a"), bytes_of_string(text), &world_formats, &read, &err), 0);
        assert_int_equal(read->n_client_names, 2);
        assert_string_equal(read->client_names[0], "CN:a");
        assert_string_equal(read->client_names[1], "URI:spiffe://x/\"a\"");
        free(text);
        registry_record_free(read);
        registry_record_free(copy);
        registry_record_free(record);
}

static void test_bad_records_are_told(void **state) {
        static const char *const bad[] = {"", "{}", "7",
                "{\"format\":1,\"datastore\":\"d\",\"incarnation\":\"6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6a0\",\"phase\":\"Ready\",\"quota\":0,"
                "\"source\":\"s\",\"fromFile\":false,\"deletionPolicy\":\"Delete\",\"created\":1,\"clientNames\":[1]}",
                "{\"format\":2}",
                "{\"format\":1,\"datastore\":\"d\",\"incarnation\":\"x\",\"phase\":\"Ready\",\"quota\":0,\"source\":\"s\",\"fromFile\":false,"
                "\"deletionPolicy\":\"Delete\",\"created\":1}",
                "{\"format\":1,\"datastore\":\"d\",\"incarnation\":\"6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6a0\",\"phase\":\"Odd\",\"quota\":0,"
                "\"source\":\"s\",\"fromFile\":false,\"deletionPolicy\":\"Delete\",\"created\":1}",
                "{\"format\":1,\"datastore\":\"d\",\"incarnation\":\"6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6a0\",\"phase\":\"Ready\",\"quota\":-1,"
                "\"source\":\"s\",\"fromFile\":false,\"deletionPolicy\":\"Delete\",\"created\":1}"};

        (void)state;
        for (size_t i = 0; i < n_elements(bad); i++) {
                cleanup(error_done) struct error err = {};
                struct registry_record *record = NULL;

                assert_int_equal(registry_record_parse(
                                         bytes_of_string("a"), bytes_of_string(bad[i]), &world_formats, &record, &err),
                        -EBADMSG);
                assert_null(record);
        }
}

static char *copied(const char *s) {
        char *p = strdup(s);

        assert_non_null(p);
        return p;
}

/* Where a tenant's data is going to and was: what is written is read as it was; a record that was never moved is as before there were moves. */
static void test_moves_survive(void **state) {
        struct registry_record *record = world_record("a", REGISTRY_READY), *read = NULL, *copy;
        cleanup(error_done) struct error err = {};
        char *text, *again, *plain;

        (void)state;
        plain = registry_record_print(record, 1);
        assert_null(strstr(plain, "migration"));
        assert_null(strstr(plain, "cluster"));
        uuid_make(record->cluster);
        record->migration = new0(struct registry_migration);
        record->migration->phase = MIGRATION_SEALING;
        uuid_make(record->migration->id);
        uuid_make(record->migration->incarnation);
        uuid_make(record->migration->owner);
        record->migration->datastore = copied("there");
        record->migration->host = copied("h");
        record->migration->host_name = copied("name");
        record->migration->reason = copied("because \"x\"");
        record->migration->started = 17;
        record->migration->retention = 86400;
        record->previous = new0(struct registry_previous);
        record->previous->datastore = copied("before");
        record->previous->host = copied("");
        record->previous->host_name = copied("");
        record->previous->back = true;
        record->previous->until = INT64_MAX;
        record->moved = new0(struct registry_moved);
        record->moved->from = copied("x");
        record->moved->to = copied("y");
        record->moved->reason = copied("");
        record->moved->bytes = INT64_C(5) << 40;
        record->moved->hold_us = 12;
        text = registry_record_print(record, 1);
        assert_int_equal(
                registry_record_parse(bytes_of_string("a"), bytes_of_string(text), &world_formats, &read, &err), 0);
        again = registry_record_print(read, 1);
        assert_string_equal(text, again);
        assert_int_equal(read->migration->phase, MIGRATION_SEALING);
        assert_string_equal(read->migration->reason, "because \"x\"");
        assert_memory_equal(read->cluster, record->cluster, 16);
        assert_true(read->previous->back && read->previous->until == INT64_MAX);
        free(again);
        copy = registry_record_copy(read);
        again = registry_record_print(copy, 1);
        assert_string_equal(text, again);
        registry_record_free(copy);
        registry_record_free(read);
        registry_record_free(record);
        free(again);
        free(text);

        /* Parts that are damaged are told, not guessed. */
        for (size_t i = 0; i < 4; i++) {
                static const char *const parts[] = {
                        ",\"migration\":{}", ",\"previous\":{\"datastore\":1}", ",\"moved\":7", ",\"cluster\":\"x\""};
                struct error why = {};

                read = NULL;
                assert_true(asprintf(&text, "%.*s%s}", (int)strlen(plain) - 1, plain, parts[i]) > 0);
                assert_int_equal(
                        registry_record_parse(bytes_of_string("a"), bytes_of_string(text), &world_formats, &read, &why),
                        -EBADMSG);
                assert_null(read);
                error_done(&why);
                free(text);
        }
        free(plain);
}

static void test_uuids(void **state) {
        uint8_t a[16], b[16];
        char text[UUID_TEXT_SIZE];

        (void)state;
        uuid_make(a);
        uuid_print(a, text);
        assert_int_equal(text[14], '4');
        assert_int_equal(uuid_parse(text, b), 0);
        assert_memory_equal(a, b, 16);
        assert_int_equal(uuid_parse("", b), -EINVAL);
        assert_int_equal(uuid_parse("6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6a", b), -EINVAL);
        assert_int_equal(uuid_parse("6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6a00", b), -EINVAL);
        assert_int_equal(uuid_parse("6e1c0ee6041b7-4c0c-8a21-4c2f2e1ab6a0", b), -EINVAL);
        assert_int_equal(uuid_parse("6e1c0ee6-41b7-4c0c-8a21-4c2f2e1ab6ag", b), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_records_survive, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_writes_compare, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_lost_file_is_adopted, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_first_start_is_finished, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_bad_file_is_refused, world_setup, world_teardown),
                cmocka_unit_test(test_client_names_are_kept),
                cmocka_unit_test(test_bad_records_are_told),
                cmocka_unit_test(test_moves_survive),
                cmocka_unit_test(test_uuids),
        };

        return cmocka_run_group_tests_name("fleet-registry", tests, NULL, NULL);
}
