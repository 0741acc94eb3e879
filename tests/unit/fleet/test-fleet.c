#include "world.h"

/*
 * What a user would lose: a tenant that was being made or deleted when the daemon died, a tenant's data because a definition could not be read, a pod's mounted
 * socket directory. The fleet runs in this thread as in the daemon's main thread; each crash is a registry and a datastore left as the crash would.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fleet/fleet.h"
#include "fleet/settings.h"

struct running {
        struct world *w;
        struct settings *settings;
        struct fleet *fleet;
        bool ready, stopped, done;
        int result;
        char reason[512];
        size_t n_errors;
        char errors[2048];
        /* What a visit found. */
        struct {
                char phase[32], reason[256], source[256], datastore[64];
                bool retain;
                uint64_t quota_bytes;
        } tenant;
        size_t n_tenants;
        bool is_ready;
        char conditions[256], used_by[256];
};

static void on_ready(void *userdata) {
        ((struct running *)userdata)->ready = true;
}

static void on_stopped(void *userdata) {
        ((struct running *)userdata)->stopped = true;
}

static void begin(struct world *w, struct running *r) {
        struct settings_options options = {.root = w->root, .plugins = getenv("STOKE_PLUGINS")};
        cleanup(error_done) struct error err = {};
        struct fleet_config config = {.loop = w->loop, .on_ready = on_ready, .userdata = r};

        *r = (struct running){.w = w};
        if (w->ds)
                world_close_datastore(w);
        if (settings_load(&options, &r->settings, &err) < 0)
                fail_msg("%s", error_text(&err));
        config.settings = r->settings;
        memcpy(config.daemon, w->daemon, 16);
        if (fleet_new(&config, &r->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        if (fleet_start(r->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        world_run(w, &r->ready);
}

static void end(struct running *r) {
        fleet_stop(r->fleet, on_stopped, r);
        world_run(r->w, &r->stopped);
        fleet_free(r->fleet);
        settings_free(r->settings);
}

static void on_tenant(void *userdata, const struct fleet_tenant_view *view) {
        struct running *r = userdata;

        snprintf(r->tenant.phase, sizeof(r->tenant.phase), "%s", view->phase);
        snprintf(r->tenant.reason, sizeof(r->tenant.reason), "%s", view->reason);
        snprintf(r->tenant.source, sizeof(r->tenant.source), "%s", view->source);
        snprintf(r->tenant.datastore, sizeof(r->tenant.datastore), "%s", view->datastore);
        r->tenant.retain = view->retain;
        r->tenant.quota_bytes = view->quota_bytes;
        r->n_tenants++;
}

static bool look(struct running *r, const char *name) {
        memset(&r->tenant, 0, sizeof(r->tenant));
        return fleet_find_tenant(r->fleet, name, on_tenant, r);
}

/* A client gets as far as a connection. */
static bool answers(struct running *r, const char *name) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        char *path = world_path(r->w, "run/tenants/%s.sock", name);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool good;

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        good = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
        close(fd);
        free(path);
        return good;
}

static bool is_there(struct world *w, const char *name) {
        char *dir = world_path(w, "run/tenants/%s", name), *link = world_path(w, "run/tenants/%s.sock", name);
        struct stat st;
        bool found = lstat(dir, &st) == 0 || lstat(link, &st) == 0;

        free(dir);
        free(link);
        return found;
}

static void on_done(void *userdata, int result, const char *reason) {
        struct running *r = userdata;

        r->result = result;
        snprintf(r->reason, sizeof(r->reason), "%s", reason);
        r->done = true;
}

static int create(struct running *r, const char *name, const char *datastore) {
        const struct fleet_create c = {.name = name, .datastore = datastore, .wait = true};

        r->done = false;
        fleet_create_tenant(r->fleet, &c, on_done, r);
        assert_false(r->done);
        world_run(r->w, &r->done);
        return r->result;
}

static int delete (struct running *r, const char *name, bool keep) {
        r->done = false;
        fleet_delete_tenant(r->fleet, name, keep, on_done, r);
        assert_false(r->done);
        world_run(r->w, &r->done);
        return r->result;
}

static void on_reloaded(void *userdata, const char *const *errors, size_t n_errors) {
        struct running *r = userdata;

        r->n_errors = n_errors;
        r->errors[0] = '\0';
        for (size_t i = 0; i < n_errors; i++)
                snprintf(r->errors + strlen(r->errors), sizeof(r->errors) - strlen(r->errors), "%s\n", errors[i]);
        r->done = true;
}

static void reload(struct running *r) {
        r->done = false;
        fleet_reload(r->fleet, false, on_reloaded, r);
        assert_false(r->done);
        world_run(r->w, &r->done);
        world_run_ms(r->w, 400);
}

static void define(struct world *w, const char *name, const char *text) {
        char *path = world_path(w, "definitions.d/%s", name);
        FILE *f = fopen(path, "w");

        assert_non_null(f);
        fputs(text, f);
        fclose(f);
        free(path);
}

static void undefine(struct world *w, const char *name) {
        char *path = world_path(w, "definitions.d/%s", name);

        assert_int_equal(unlink(path), 0);
        free(path);
}

/* ---- */

static void test_create_and_delete(void **state) {
        struct world *w = *state;
        struct running r;

        begin(w, &r);
        assert_int_equal(create(&r, "a", ""), 0);
        assert_true(look(&r, "a"));
        assert_string_equal(r.tenant.phase, "Ready");
        assert_string_equal(r.tenant.datastore, "embedded");
        assert_true(answers(&r, "a"));
        assert_int_equal(create(&r, "a", ""), -EEXIST);
        assert_int_equal(create(&r, "A", ""), -EINVAL);
        assert_int_equal(create(&r, "-a", ""), -EINVAL);
        assert_int_equal(create(&r, "", ""), -EINVAL);
        assert_int_equal(create(&r, "../a", ""), -EINVAL);
        assert_int_equal(create(&r, "registry", ""), -EINVAL);
        assert_int_equal(create(&r, "b", "nowhere"), -ENOENT);
        assert_int_equal(delete (&r, "nobody", false), -ENOENT);
        assert_int_equal(create(&r, "b", "embedded"), 0);
        end(&r);

        begin(w, &r);
        assert_true(look(&r, "a"));
        assert_true(answers(&r, "a"));
        assert_int_equal(delete (&r, "a", false), 0);
        assert_false(look(&r, "a"));
        assert_false(is_there(w, "a"));
        assert_int_equal(create(&r, "a", ""), 0); /* the name is free again */
        assert_int_equal(delete (&r, "a", true), 0);
        assert_int_equal(delete (&r, "b", false), 0);
        end(&r);

        world_open_datastore(w);
        assert_int_equal(world_count_keyspaces(w, "a"), 1); /* kept */
        assert_int_equal(world_count_keyspaces(w, "b"), 0);
}

/* The daemon died after each step of a creation. */
static void test_creation_is_finished(void **state) {
        struct registry_record *recorded = world_record("recorded", REGISTRY_PROVISIONING);
        struct registry_record *made = world_record("made", REGISTRY_PROVISIONING);
        struct registry_record *ready = world_record("ready", REGISTRY_READY);
        struct world *w = *state;
        struct registry *registry;
        struct running r;

        world_open_datastore(w);
        registry = world_open_registry(w);
        world_write(w, registry, recorded, false);
        world_write(w, registry, made, false);
        world_make_keyspace(w, "made", made->incarnation);
        world_write(w, registry, ready, false);
        world_make_keyspace(w, "ready", ready->incarnation);
        world_close_registry(w, registry);

        begin(w, &r);
        r.n_tenants = 0;
        fleet_each_tenant(r.fleet, on_tenant, &r);
        assert_int_equal(r.n_tenants, 3);
        assert_true(look(&r, "recorded"));
        assert_string_equal(r.tenant.phase, "Ready");
        assert_true(look(&r, "made"));
        assert_string_equal(r.tenant.phase, "Ready");
        assert_true(answers(&r, "recorded") && answers(&r, "made") && answers(&r, "ready"));
        end(&r);

        world_open_datastore(w);
        registry = world_open_registry(w);
        assert_int_equal(world_n_records, 3);
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(world_records[i]->phase, REGISTRY_READY);
        world_close_registry(w, registry);
        assert_int_equal(world_count_keyspaces(w, "recorded"), 1);
        assert_int_equal(world_count_keyspaces(w, "made"), 1);
        registry_record_free(recorded);
        registry_record_free(made);
        registry_record_free(ready);
}

/* The daemon died after each step of a deletion; once the data is to be kept; and once the name's folder was left behind. */
static void test_deletion_is_finished(void **state) {
        struct registry_record *recorded = world_record("recorded", REGISTRY_DELETING);
        struct registry_record *dropped = world_record("dropped", REGISTRY_DELETING);
        struct registry_record *kept = world_record("kept", REGISTRY_DELETING);
        struct world *w = *state;
        struct registry *registry;
        struct running r;
        char *dir;

        kept->retain = true;
        world_open_datastore(w);
        registry = world_open_registry(w);
        world_write(w, registry, recorded, false);
        world_make_keyspace(w, "recorded", recorded->incarnation);
        world_write(w, registry, dropped, false);
        world_write(w, registry, kept, false);
        world_make_keyspace(w, "kept", kept->incarnation);
        world_close_registry(w, registry);
        dir = world_path(w, "run/tenants");
        assert_int_equal(mkdir(dir, 0755), 0);
        free(dir);
        dir = world_path(w, "run/tenants/stale");
        assert_int_equal(mkdir(dir, 0755), 0);
        free(dir);

        begin(w, &r);
        world_run_ms(w, 300);
        r.n_tenants = 0;
        fleet_each_tenant(r.fleet, on_tenant, &r);
        assert_int_equal(r.n_tenants, 0);
        assert_false(is_there(w, "stale"));
        end(&r);

        world_open_datastore(w);
        registry = world_open_registry(w);
        assert_int_equal(world_n_records, 0);
        world_close_registry(w, registry);
        assert_int_equal(world_count_keyspaces(w, "recorded"), 0);
        assert_int_equal(world_count_keyspaces(w, "dropped"), 0);
        assert_int_equal(world_count_keyspaces(w, "kept"), 1);
        registry_record_free(recorded);
        registry_record_free(dropped);
        registry_record_free(kept);
}

static void on_datastore(void *userdata, const struct fleet_datastore_view *view) {
        struct running *r = userdata;

        if (strcmp(view->name, r->tenant.datastore) != 0)
                return;
        r->is_ready = view->ready;
        snprintf(r->conditions, sizeof(r->conditions), "%s=%s %s=%s",
                fleet_condition_status_name(view->conditions[0]->status), view->conditions[0]->reason,
                fleet_condition_status_name(view->conditions[1]->status), view->conditions[1]->reason);
        r->used_by[0] = '\0';
        for (size_t i = 0; i < view->n_used_by; i++)
                snprintf(r->used_by + strlen(r->used_by), sizeof(r->used_by) - strlen(r->used_by), "%s ",
                        view->used_by[i]);
}

static void look_datastore(struct running *r, const char *name) {
        r->conditions[0] = '\0';
        snprintf(r->tenant.datastore, sizeof(r->tenant.datastore), "%s", name);
        fleet_each_datastore(r->fleet, on_datastore, r);
}

#define TENANT(name, more)                                                                                             \
        "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: " name                                       \
        "\nspec:\n  deletionPolicy: Delete\n" more

static void test_definitions(void **state) {
        struct world *w = *state;
        struct running r;

        define(w, "a.yaml", TENANT("a", ""));
        begin(w, &r);
        assert_true(look(&r, "a"));
        assert_string_equal(r.tenant.phase, "Ready");
        assert_non_null(strstr(r.tenant.source, "a.yaml:1"));
        assert_int_equal(delete (&r, "a", false), -EBUSY);
        assert_non_null(strstr(r.reason, "a.yaml:1"));

        /* One more, and a change. */
        define(w, "b.yaml", TENANT("b", ""));
        define(w, "a.yaml", TENANT("a", "  quota: 1Gi\n"));
        reload(&r);
        assert_int_equal(r.n_errors, 0);
        assert_true(look(&r, "a"));
        assert_true(r.tenant.quota_bytes == UINT64_C(1) << 30);
        assert_true(answers(&r, "a") && answers(&r, "b"));

        /* One has gone while another cannot be read: nothing is deleted. */
        undefine(w, "b.yaml");
        define(w, "c.yaml", "kind: [");
        reload(&r);
        assert_true(r.n_errors >= 1);
        assert_non_null(strstr(r.errors, "c.yaml:"));
        assert_true(look(&r, "b"));
        assert_true(answers(&r, "b"));

        undefine(w, "c.yaml");
        reload(&r);
        assert_int_equal(r.n_errors, 0);
        assert_false(look(&r, "b"));
        assert_false(is_there(w, "b"));
        end(&r);

        /* All definitions are gone at a start: that is a directory that was not mounted. */
        undefine(w, "a.yaml");
        begin(w, &r);
        assert_true(look(&r, "a"));
        assert_true(answers(&r, "a"));
        /* Nor is it a wish when it is read again. */
        reload(&r);
        assert_int_equal(r.n_errors, 1);
        assert_true(look(&r, "a"));
        assert_true(answers(&r, "a"));

        /* What was there and goes while the daemon runs is one; a datastore and its tenant may go together. */
        define(w, "a.yaml",
                "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: other}\nspec: {driver: SQLite}\n---\n" TENANT(
                        "b", "  datastore: other\n"));
        reload(&r);
        world_run_ms(w, 500);
        assert_true(answers(&r, "b"));
        assert_false(look(&r, "a"));
        undefine(w, "a.yaml");
        reload(&r);
        assert_int_equal(r.n_errors, 0);
        world_run_ms(w, 1500);
        assert_false(look(&r, "b"));
        look_datastore(&r, "other");
        assert_string_equal(r.conditions, "");
        end(&r);
}

static void test_definition_adopts(void **state) {
        struct world *w = *state;
        struct running r;

        begin(w, &r);
        assert_int_equal(create(&r, "a", ""), 0);
        define(w, "a.yaml", TENANT("a", ""));
        reload(&r);
        assert_int_equal(r.n_errors, 0);
        assert_true(look(&r, "a"));
        assert_non_null(strstr(r.tenant.source, "a.yaml:1"));
        assert_true(answers(&r, "a"));

        /* Another datastore there moves it, once that is ready. */
        define(w, "d.yaml",
                "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata:\n  name: other\nspec:\n  driver: SQLite\n");
        define(w, "a.yaml", TENANT("a", "  datastore: other\n"));
        reload(&r);
        assert_int_equal(r.n_errors, 0);
        for (unsigned i = 0; i < 1000 && look(&r, "a") && strcmp(r.tenant.datastore, "other") != 0; i++)
                world_run_ms(w, 20);
        assert_true(look(&r, "a"));
        assert_string_equal(r.tenant.datastore, "other");
        assert_true(answers(&r, "a"));
        end(&r);
}

static void on_checked(
        void *userdata, int result, const char *reason, const struct fleet_check_item *items, size_t n_items) {
        struct running *r = userdata;

        (void)items;
        r->n_tenants = n_items;
        on_done(r, result, reason);
}

static void test_datastores(void **state) {
        struct world *w = *state;
        struct running r;

        define(w, "d.yaml",
                "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata:\n  name: other\nspec:\n  driver: SQLite\n");
        begin(w, &r);
        world_run_ms(w, 300);
        look_datastore(&r, "other");
        assert_true(r.is_ready);
        assert_string_equal(r.conditions, "True=DataStoreIsValid True=DataStoreUnused");
        look_datastore(&r, "embedded"); /* the registry is in it */
        assert_string_equal(r.conditions, "True=DataStoreIsValid False=DataStoreStillUsed");

        assert_int_equal(create(&r, "b", "other"), 0);
        assert_int_equal(create(&r, "a", "other"), 0);
        look_datastore(&r, "other");
        assert_string_equal(r.used_by, "a b ");
        assert_string_equal(r.conditions, "True=DataStoreIsValid False=DataStoreStillUsed");

        r.done = false;
        fleet_check_datastore(r.fleet, "other", on_checked, &r);
        world_run(w, &r.done);
        assert_int_equal(r.result, 0);
        assert_true(r.n_tenants > 0);
        r.done = false;
        fleet_check_datastore(r.fleet, "nowhere", on_checked, &r);
        world_run(w, &r.done);
        assert_int_equal(r.result, -ENOENT);

        /* In use: it stays, and the removal is told. Then nobody uses it any more. */
        undefine(w, "d.yaml");
        reload(&r);
        assert_int_equal(r.n_errors, 1);
        assert_true(answers(&r, "a"));
        assert_int_equal(delete (&r, "a", false), 0);
        assert_int_equal(delete (&r, "b", false), 0);
        reload(&r);
        assert_int_equal(r.n_errors, 0);
        look_datastore(&r, "other");
        assert_string_equal(r.conditions, "");
        end(&r);
}

/* A pod that has mounted a tenant's directory finds the new socket in the same directory. */
static void test_directory_stays(void **state) {
        struct world *w = *state;
        char *dir = world_path(w, "run/tenants/a");
        struct stat before, after;
        struct running r;

        begin(w, &r);
        assert_int_equal(create(&r, "a", ""), 0);
        assert_int_equal(stat(dir, &before), 0);
        end(&r);
        begin(w, &r);
        assert_int_equal(stat(dir, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        assert_true(answers(&r, "a"));
        define(w, "a.yaml", TENANT("a", "  quota: 3Gi\n"));
        reload(&r); /* served in another manner */
        assert_int_equal(stat(dir, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        assert_true(answers(&r, "a"));
        end(&r);
        free(dir);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_create_and_delete, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_creation_is_finished, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_deletion_is_finished, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_definitions, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_definition_adopts, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_datastores, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_directory_stays, world_setup, world_teardown),
        };

        return cmocka_run_group_tests_name("fleet-fleet", tests, NULL, NULL);
}
