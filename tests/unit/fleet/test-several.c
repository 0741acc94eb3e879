/*
 * What a user would lose: a tenant that only one of his daemons knows, that is deleted on one and served on by another, or is made twice; definitions of one
 * host that undo those of another; tenants that are away because the registry is. Several fleets in this process, each as a daemon has it, over one
 * log in memory; each has a state directory, a runtime directory and definitions of its own.
 */

#include "daemons.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/metrics.h"
#include "fleet/fleet.h"
#include "fleet/registry.h"
#include "fleet/settings.h"
#include "fleet/uuid.h"

struct daemon {
        char name[16];
        char root[96];
        struct settings *settings;
        struct fleet *fleet;
        struct format_range formats;
        uint8_t incarnation[16];
        bool ready, stopped, done;
        int result;
        char reason[1024];
        char lines[8192];
        struct {
                bool found, serving, elsewhere;
                char phase[32], reason[512], condition[32], datastore[64];
                uint8_t incarnation[16];
        } tenant;
        struct {
                bool ready;
                char reason[64], message[512];
        } datastore;
        const char *wanted;
        size_t n_daemons;
};

/* ---- files */

static char *path_of(const struct daemon *d, const char *name) {
        char *path;

        assert_true(asprintf(&path, "%s/%s", d->root, name) > 0);
        return path;
}

static void define(const struct daemon *d, const char *name, const char *text) {
        char *path, *full;

        assert_true(asprintf(&path, "%s/definitions.d/%s", d->root, name) > 0);
        assert_true(asprintf(&full, "apiVersion: stokehold/v1alpha1\n%s", text) > 0);
        write_file(path, full);
        free(full);
        free(path);
}

static void undefine(const struct daemon *d, const char *name) {
        char *path;

        assert_true(asprintf(&path, "%s/definitions.d/%s", d->root, name) > 0);
        assert_int_equal(unlink(path), 0);
        free(path);
}

/* ---- daemons */

#define SHARED                                                                                                                            \
        "kind: DataStore\nmetadata: {name: shared}\nspec: {driver: Memory, endpoints: ['127.0.0.1:1'], system: true, allowUnsafe: true, " \
        "default: true, parameters: {instance: %s}}\n"

static void define_shared(const struct daemon *d) {
        char *text;

        assert_true(asprintf(&text, SHARED, instance) > 0);
        define(d, "shared.yaml", text);
        free(text);
        define(d, "embedded.yaml",
                "kind: DataStore\nmetadata: {name: embedded}\nspec: {driver: SQLite, path: local}\n");
}

/* Its directories; files that are there already stay (it is started again). */
static void prepare(struct daemon *d, const char *name) {
        static const char *const directories[] = {"", "state", "run", "definitions.d"};
        char *path;

        *d = (struct daemon){};
        snprintf(d->name, sizeof(d->name), "%s", name);
        snprintf(d->root, sizeof(d->root), "%s/%s", top, name);
        for (size_t i = 0; i < n_elements(directories); i++) {
                path = path_of(d, directories[i]);
                assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
                free(path);
        }
        path = path_of(d, "stokehold.yaml");
        write_file(path, "shards: 1\ndrivers: {experimental: [Memory]}\n");
        free(path);
}

static void on_ready(void *userdata) {
        ((struct daemon *)userdata)->ready = true;
}

static void on_stopped(void *userdata) {
        ((struct daemon *)userdata)->stopped = true;
}

static void begin(struct daemon *d) {
        char *plugins;
        struct settings_options options = {.root = d->root};
        cleanup(error_done) struct error err = {};
        struct fleet_config config = {
                .loop = loop, .on_ready = on_ready, .userdata = d, .version = "1.2.3", .formats = d->formats};

        assert_true(asprintf(&plugins, "%s/plugins", top) > 0);
        options.plugins = plugins;
        d->ready = d->stopped = false;
        uuid_make(d->incarnation);
        if (settings_load(&options, &d->settings, &err) < 0)
                fail_msg("%s", error_text(&err));
        config.settings = d->settings;
        memcpy(config.daemon, d->incarnation, 16);
        if (fleet_new(&config, &d->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        if (fleet_start(d->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        free(plugins);
}

static void start(struct daemon *d) {
        begin(d);
        wait_flag(&d->ready);
}

static void stop(struct daemon *d) {
        if (!d->fleet)
                return;
        fleet_stop(d->fleet, on_stopped, d);
        wait_flag(&d->stopped);
        fleet_free(d->fleet);
        settings_free(d->settings);
        d->fleet = NULL;
}

static void on_done(void *userdata, int result, const char *reason) {
        struct daemon *d = userdata;

        d->result = result;
        snprintf(d->reason, sizeof(d->reason), "%s", reason);
        d->done = true;
}

static void create_begin(struct daemon *d, const char *name, const char *datastore) {
        const struct fleet_create c = {.name = name, .datastore = datastore, .wait = true};

        d->done = false;
        fleet_create_tenant(d->fleet, &c, on_done, d);
}

static int create(struct daemon *d, const char *name, const char *datastore) {
        create_begin(d, name, datastore);
        wait_flag(&d->done);
        return d->result;
}

static int delete (struct daemon *d, const char *name, bool keep) {
        d->done = false;
        fleet_delete_tenant(d->fleet, name, keep, on_done, d);
        wait_flag(&d->done);
        return d->result;
}

static int claim(struct daemon *d, const char *name) {
        d->done = false;
        fleet_claim_datastore(d->fleet, name, on_done, d);
        wait_flag(&d->done);
        return d->result;
}

static int finalize(struct daemon *d) {
        d->done = false;
        fleet_finalize_upgrade(d->fleet, on_done, d);
        wait_flag(&d->done);
        return d->result;
}

static void on_checked(
        void *userdata, int result, const char *reason, const struct fleet_check_item *items, size_t n_items) {
        (void)items;
        (void)n_items;
        on_done(userdata, result, reason);
}

static int check_datastore(struct daemon *d, const char *name) {
        d->done = false;
        fleet_check_datastore(d->fleet, name, on_checked, d);
        wait_flag(&d->done);
        return d->result;
}

static void on_reloaded(void *userdata, const char *const *errors, size_t n_errors) {
        struct daemon *d = userdata;

        d->lines[0] = '\0';
        for (size_t i = 0; i < n_errors; i++)
                snprintf(d->lines + strlen(d->lines), sizeof(d->lines) - strlen(d->lines), "%s\n", errors[i]);
        d->result = (int)n_errors;
        d->done = true;
}

/* How many lines of trouble there were: d->lines. */
static int reload(struct daemon *d, bool enforce) {
        d->done = false;
        fleet_reload(d->fleet, enforce, on_reloaded, d);
        wait_flag(&d->done);
        return d->result;
}

/* ---- looking */

static void on_tenant(void *userdata, const struct fleet_tenant_view *view) {
        struct daemon *d = userdata;

        d->tenant.found = true;
        d->tenant.serving = view->serving;
        d->tenant.elsewhere = view->is_elsewhere;
        memcpy(d->tenant.incarnation, view->incarnation, 16);
        snprintf(d->tenant.phase, sizeof(d->tenant.phase), "%s", view->phase);
        snprintf(d->tenant.reason, sizeof(d->tenant.reason), "%s", view->reason);
        snprintf(d->tenant.datastore, sizeof(d->tenant.datastore), "%s", view->datastore);
        snprintf(d->tenant.condition, sizeof(d->tenant.condition), "%s",
                tenant_condition_name(view->figures->condition));
}

static bool look(struct daemon *d, const char *name) {
        memset(&d->tenant, 0, sizeof(d->tenant));
        return fleet_find_tenant(d->fleet, name, on_tenant, d);
}

static bool serves(struct daemon *d, const char *name) {
        return look(d, name) && d->tenant.serving && strcmp(d->tenant.phase, "Ready") == 0;
}

static bool fails(struct daemon *d, const char *name, const char *reason) {
        return look(d, name) && !d->tenant.serving && strstr(d->tenant.reason, reason);
}

static void on_datastore(void *userdata, const struct fleet_datastore_view *view) {
        struct daemon *d = userdata;

        if (strcmp(view->name, d->wanted) != 0)
                return;
        d->datastore.ready = view->ready;
        snprintf(d->datastore.reason, sizeof(d->datastore.reason), "%s", view->conditions[0]->reason);
        snprintf(d->datastore.message, sizeof(d->datastore.message), "%s", view->conditions[0]->message);
}

static bool datastore_says(struct daemon *d, const char *name, const char *reason) {
        d->wanted = name;
        fleet_each_datastore(d->fleet, on_datastore, d);
        return strcmp(d->datastore.reason, reason) == 0;
}

static void on_problem(void *userdata, const char *line) {
        struct daemon *d = userdata;

        snprintf(d->lines + strlen(d->lines), sizeof(d->lines) - strlen(d->lines), "%s\n", line);
}

static bool has_problem(struct daemon *d, const char *text) {
        d->lines[0] = '\0';
        fleet_problems(d->fleet, on_problem, d);
        return strstr(d->lines, text);
}

static void on_daemon(void *userdata, const struct fleet_daemon_view *view) {
        struct daemon *d = userdata;

        assert_true(view->is_self == (d->n_daemons == 0));
        assert_true(strcmp(view->version, "1.2.3") == 0 || strcmp(view->host, "ghost") == 0);
        d->n_daemons++;
}

static size_t n_daemons(struct daemon *d) {
        d->n_daemons = 0;
        fleet_each_daemon(d->fleet, on_daemon, d);
        return d->n_daemons;
}

static int64_t generation(struct daemon *d) {
        struct fleet_summary summary;

        fleet_get_summary(d->fleet, &summary);
        return summary.definitions_generation;
}

/* A client gets as far as a connection. */
static bool answers(struct daemon *d, const char *name) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool good;

        assert_true(snprintf(address.sun_path, sizeof(address.sun_path), "%s/run/tenants/%s.sock", d->root, name) > 0);
        good = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
        close(fd);
        return good;
}

/* ---- the datastore itself, and a daemon that does one thing and dies */

struct ghost {
        struct plugin_table *plugins;
        struct datastore *ds;
        struct registry *registry;
        char dir[96];
        bool done;
        int result;
        struct registry_write write;
        struct registry_put put;
        unsigned n_found;
        const char *wanted;
};

static void ghost_begin(void *userdata) {
        (void)userdata;
}
static void ghost_record(void *userdata, struct registry_record *record) {
        (void)userdata;
        registry_record_free(record);
}
static void ghost_gone(void *userdata, const char *name, int64_t revision) {
        (void)userdata;
        (void)name;
        (void)revision;
}
static void ghost_value(void *userdata, const char *key, struct bytes value, int64_t revision) {
        (void)userdata;
        (void)key;
        (void)value;
        (void)revision;
}
static void ghost_lost(void *userdata, const char *reason) {
        (void)userdata;
        (void)reason;
}
static void ghost_opened(void *userdata, int result, const char *reason) {
        struct ghost *g = userdata;

        if (result < 0)
                fail_msg("%s", reason);
        g->done = true;
}
static void ghost_closed(void *userdata) {
        ((struct ghost *)userdata)->done = true;
}

static void ghost_open_store(struct ghost *g, const char *fault, const char *value) {
        static const char *const experimental[] = {"Memory"};
        struct plugin_table_config plugins = {.experimental = experimental, .n_experimental = 1};
        const struct stoke_setting settings[] = {{"instance", instance}, {fault, value}};
        struct datastore_config config = {.name = "shared", .settings = settings, .n_settings = fault ? 2 : 1};
        cleanup(error_done) struct error err = {};
        char *directory;

        *g = (struct ghost){};
        assert_true(asprintf(&directory, "%s/plugins", top) > 0);
        plugins.directory = directory;
        assert_true(plugin_table_new(&plugins, &g->plugins) >= 0);
        plugin_table_scan(g->plugins);
        config.plugin = plugin_find(g->plugins, "Memory", &err);
        assert_non_null(config.plugin);
        uuid_make(config.daemon);
        assert_int_equal(datastore_open(&config, &g->ds, &err), 0);
        free(directory);
}

static void ghost_close_store(struct ghost *g) {
        datastore_close(g->ds, NSEC_PER_SEC);
        plugin_table_free(g->plugins);
}

static void ghost_open(struct ghost *g) {
        static const struct format_range formats = {1, 9};
        struct registry_open open = {.listener = {.on_begin = ghost_begin,
                                             .on_record = ghost_record,
                                             .on_gone = ghost_gone,
                                             .on_value = ghost_value,
                                             .on_listed = ghost_begin,
                                             .on_lost = ghost_lost},
                .done = ghost_opened};
        cleanup(error_done) struct error err = {};
        uint8_t daemon[16];

        ghost_open_store(g, NULL, NULL);
        snprintf(g->dir, sizeof(g->dir), "%s/ghost-XXXXXX", top);
        assert_non_null(mkdtemp(g->dir));
        uuid_make(daemon);
        assert_int_equal(registry_new(loop, g->dir, daemon, &formats, &g->registry, &err), 0);
        open.userdata = open.listener.userdata = g;
        registry_open(g->registry, g->ds, &open);
        wait_flag(&g->done);
}

static void ghost_close(struct ghost *g) {
        g->done = false;
        registry_close(g->registry, ghost_closed, g);
        wait_flag(&g->done);
        registry_free(g->registry);
        ghost_close_store(g);
}

static void ghost_written(struct registry_write *w, int result, const char *reason) {
        struct ghost *g = container_of(w, struct ghost, write);

        (void)reason;
        g->result = result;
        g->done = true;
}

static void ghost_put_done(struct registry_put *p, int result, const char *reason) {
        struct ghost *g = container_of(p, struct ghost, put);

        (void)reason;
        g->result = result;
        g->done = true;
}

static int ghost_put(struct ghost *g, const char *key, const char *value) {
        g->done = false;
        g->put = (struct registry_put){.key = key, .value = value, .done = ghost_put_done};
        registry_put(g->registry, &g->put);
        wait_flag(&g->done);
        return g->result;
}

static struct registry_record *ghost_write(
        struct ghost *g, const char *name, enum registry_phase phase, struct registry_record *record) {
        if (!record) {
                record = new0(struct registry_record);
                record->name = strdup(name);
                record->datastore = strdup("shared");
                record->source = strdup("stokectl");
                record->host = strdup("");
                record->host_name = strdup("");
                uuid_make(record->incarnation);
                record->created = 1700000000;
        }
        record->phase = phase;
        g->done = false;
        g->write = (struct registry_write){.record = record, .done = ghost_written};
        registry_write(g->registry, &g->write);
        wait_flag(&g->done);
        assert_int_equal(g->result, 0);
        return record;
}

struct listing {
        struct datastore_job job;
        const char *name;
        unsigned n;
        bool done;
};

static int on_listed(void *userdata, const struct stoke_keyspace_info *info) {
        struct listing *l = userdata;

        l->n += strcmp(info->name, l->name) == 0;
        return 0;
}
static int run_list(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        return datastore_driver(job->ds)->list(session, call, on_listed, container_of(job, struct listing, job));
}
static void list_done(struct datastore_job *job) {
        container_of(job, struct listing, job)->done = true;
}

/* Keyspaces of this name in the shared datastore. */
static unsigned count(const char *name) {
        struct listing l = {.name = name};
        struct ghost g;

        ghost_open_store(&g, NULL, NULL);
        l.job = (struct datastore_job){.class = JOB_BULK,
                .deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC,
                .loop = loop,
                .run = run_list,
                .done = list_done};
        datastore_submit(g.ds, &l.job);
        wait_flag(&l.done);
        assert_int_equal(l.job.result, 0);
        ghost_close_store(&g);
        return l.n;
}

/* From now on, for all who have the instance open: a fault of the memory driver, such as fail-load=1. */
static void set_fault(const char *fault, const char *value) {
        struct ghost g;

        ghost_open_store(&g, fault, value);
        ghost_close_store(&g);
}

/* ---- tenants */

static void test_started_together(void **state) {
        struct daemon d[3];

        (void)state;
        for (size_t i = 0; i < n_elements(d); i++) {
                prepare(&d[i], (const char *[]){"a", "b", "c"}[i]);
                define_shared(&d[i]);
                begin(&d[i]);
        }
        for (size_t i = 0; i < n_elements(d); i++)
                wait_flag(&d[i].ready);
        assert_int_equal(count(REGISTRY_KEYSPACE), 1);
        for (size_t i = 0; i < n_elements(d); i++)
                WAIT(n_daemons(&d[i]) == 3);

        /* Made on one, served on all. */
        assert_int_equal(create(&d[0], "t", ""), 0);
        for (size_t i = 0; i < n_elements(d); i++) {
                WAIT(serves(&d[i], "t"));
                assert_true(answers(&d[i], "t"));
                assert_memory_equal(d[i].tenant.incarnation, d[0].tenant.incarnation, 16);
        }
        assert_int_equal(create(&d[1], "t", ""), -EEXIST);
        assert_int_equal(count("t"), 1);

        /* Deleted on another, gone on all, with no noise. */
        assert_int_equal(delete (&d[2], "t", false), 0);
        for (size_t i = 0; i < n_elements(d); i++) {
                WAIT(!look(&d[i], "t"));
                assert_false(answers(&d[i], "t"));
                assert_false(has_problem(&d[i], "t"));
        }
        assert_int_equal(count("t"), 0);

        /* One leaves: the others know at once. */
        stop(&d[1]);
        WAIT(n_daemons(&d[0]) == 2);
        stop(&d[0]);
        stop(&d[2]);
}

static void test_names_are_unique(void **state) {
        struct daemon a, b;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        start(&a);
        start(&b);
        for (unsigned i = 0; i < 5; i++) {
                create_begin(&a, "t", "");
                create_begin(&b, "t", "");
                wait_flag(&a.done);
                wait_flag(&b.done);
                assert_true((a.result == 0 && b.result == -EEXIST) || (a.result == -EEXIST && b.result == 0));
                WAIT(serves(&a, "t"));
                WAIT(serves(&b, "t"));
                assert_memory_equal(a.tenant.incarnation, b.tenant.incarnation, 16);
                assert_int_equal(count("t"), 1);
                /* Both delete it. */
                a.done = b.done = false;
                fleet_delete_tenant(a.fleet, "t", false, on_done, &a);
                fleet_delete_tenant(b.fleet, "t", false, on_done, &b);
                wait_flag(&a.done);
                wait_flag(&b.done);
                assert_int_equal(a.result, 0);
                assert_int_equal(b.result, 0);
                WAIT(!look(&a, "t"));
                WAIT(!look(&b, "t"));
                assert_int_equal(count("t"), 0);
        }
        stop(&a);
        stop(&b);
}

/* A daemon dies behind each step; another finishes it. */
static void test_steps_are_taken_over(void **state) {
        struct registry_record *half = NULL, *going = NULL;
        struct daemon a, b;
        struct ghost g;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        start(&a);
        start(&b);
        assert_int_equal(create(&a, "old", ""), 0);
        WAIT(serves(&b, "old"));
        ghost_open(&g);
        half = ghost_write(&g, "half", REGISTRY_PROVISIONING, NULL);
        WAIT(serves(&a, "half"));
        WAIT(serves(&b, "half"));
        assert_memory_equal(a.tenant.incarnation, half->incarnation, 16);
        assert_memory_equal(b.tenant.incarnation, half->incarnation, 16);
        assert_int_equal(count("half"), 1);

        /* Recorded as going, and nothing was done yet. The ghost knows the record as it is now. */
        going = registry_record_copy(half);
        for (int64_t revision = half->mod_revision; revision < half->mod_revision + 100; revision++) {
                g.done = false;
                going->phase = REGISTRY_DELETING;
                going->mod_revision = revision;
                g.write = (struct registry_write){.record = going, .done = ghost_written};
                registry_write(g.registry, &g.write);
                wait_flag(&g.done);
                registry_record_free(g.write.newer);
                if (g.result == 0)
                        break;
        }
        assert_int_equal(g.result, 0);
        WAIT(!look(&a, "half"));
        WAIT(!look(&b, "half"));
        assert_int_equal(count("half"), 0);
        assert_true(serves(&a, "old"));
        assert_true(serves(&b, "old"));
        ghost_close(&g);
        stop(&a);
        stop(&b);
        registry_record_free(half);
        registry_record_free(going);
}

/* Deleted and made again while the other is busy with the old one: what is served is the new one. */
static void test_made_again(void **state) {
        struct daemon a, b;
        uint8_t incarnation[16];

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        start(&a);
        start(&b);
        for (unsigned i = 0; i < 10; i++) {
                assert_int_equal(create(&a, "t", ""), 0);
                assert_int_equal(delete (&a, "t", false), 0);
                assert_int_equal(create(&a, "t", ""), 0);
                assert_true(serves(&a, "t"));
                memcpy(incarnation, a.tenant.incarnation, 16);
                WAIT(serves(&b, "t") && memcmp(b.tenant.incarnation, incarnation, 16) == 0);
                assert_int_equal(delete (i % 2 ? &a : &b, "t", false), 0);
                WAIT(!look(&a, "t"));
                WAIT(!look(&b, "t"));
        }
        assert_int_equal(count("t"), 0);
        stop(&a);
        stop(&b);
}

/* A tenant in SQLite is of the host that made it. */
static void test_one_host_alone(void **state) {
        struct daemon a, b;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        start(&a);
        start(&b);
        assert_int_equal(create(&a, "mine", "embedded"), 0);
        assert_int_equal(create(&b, "kept", "embedded"), 0);
        WAIT(look(&b, "mine") && strcmp(b.tenant.phase, "Ready") == 0);
        assert_true(b.tenant.elsewhere && !b.tenant.serving);
        assert_false(answers(&b, "mine"));
        assert_true(serves(&a, "mine") && !a.tenant.elsewhere);
        assert_true(answers(&a, "mine"));
        assert_int_equal(create(&b, "mine", "embedded"), -EEXIST);

        /* Deleted through the other daemon; dropped by its own. */
        assert_int_equal(delete (&b, "mine", false), 0);
        WAIT(!look(&a, "mine"));

        /* Its own is away: recorded, and done when it is back; forgotten at once if the data may stay. */
        stop(&b);
        WAIT(n_daemons(&a) == 1);
        assert_int_equal(delete (&a, "kept", false), -EAGAIN);
        assert_non_null(strstr(a.reason, "whose daemon does not run"));
        assert_true(look(&a, "kept") && strcmp(a.tenant.phase, "Deleting") == 0);
        start(&b);
        WAIT(!look(&a, "kept"));
        WAIT(!look(&b, "kept"));
        assert_int_equal(create(&b, "kept", "embedded"), 0);
        stop(&b);
        WAIT(n_daemons(&a) == 1);
        assert_int_equal(delete (&a, "kept", true), 0);
        assert_false(look(&a, "kept"));
        start(&b);
        assert_false(look(&b, "kept"));
        stop(&a);
        stop(&b);
}

/* ---- definitions */

#define TENANT(name, quota) "kind: Tenant\nmetadata: {name: " name "}\nspec: {datastore: shared, quota: " quota "}\n"

static void test_definitions_agree(void **state) {
        struct daemon a, b;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        define(&a, "t.yaml", TENANT("t", "1Gi"));
        /* In another file, behind a comment, in other words: the same. */
        define(&b, "u.yaml", "# x\nkind: Tenant\nmetadata: {name: t}\nspec:\n  quota: 1Gi\n  datastore: shared\n");
        begin(&a);
        begin(&b);
        wait_flag(&a.ready);
        wait_flag(&b.ready);
        WAIT(serves(&a, "t"));
        WAIT(serves(&b, "t"));
        assert_int_equal(generation(&a), 1);
        assert_int_equal(generation(&b), 1);
        assert_int_equal(reload(&a, false), 0);
        assert_int_equal(reload(&b, false), 0);

        /* One changes: it is put in force, and the other holds on to what it has until its files follow. */
        define(&a, "v.yaml", TENANT("v", "1Gi"));
        assert_int_equal(reload(&a, false), 0);
        assert_int_equal(generation(&a), 2);
        WAIT(serves(&a, "v"));
        WAIT(has_problem(&b, "Tenant \"v\": is in force, and in no file here"));
        assert_non_null(strstr(b.lines, "stokectl reload --enforce"));
        WAIT(serves(&b, "v")); /* a tenant is a tenant, whoever declares it */
        assert_true(reload(&b, false) > 0);
        assert_non_null(strstr(b.lines, "Tenant \"v\""));
        assert_true(serves(&b, "t"));
        define(&b, "v.yaml", TENANT("v", "1Gi"));
        assert_int_equal(reload(&b, false), 0);
        assert_int_equal(generation(&b), 2);
        assert_false(has_problem(&b, "definitions"));

        /* The other way round, and a removal: the one that is behind does not make it again. */
        undefine(&b, "v.yaml");
        assert_int_equal(reload(&b, false), 0);
        WAIT(!look(&b, "v"));
        WAIT(!look(&a, "v"));
        WAIT(has_problem(&a, "Tenant \"v\": is in a file here, and not in force"));
        run(NULL, 500);
        assert_false(look(&a, "v"));
        assert_false(look(&b, "v"));
        assert_int_equal(count("v"), 0);

        /* Different files: neither gives way, until an operator says so. */
        define(&a, "t.yaml", TENANT("t", "2Gi"));
        assert_true(reload(&a, false) > 0);
        assert_non_null(strstr(a.lines, "Tenant \"t\": says something else here than what is in force"));
        assert_int_equal(generation(&a), 3);
        assert_int_equal(reload(&a, true), 0);
        assert_int_equal(generation(&a), 4);
        WAIT(serves(&a, "v"));
        WAIT(has_problem(&b, "Tenant \"t\": says something else here"));
        stop(&a);
        stop(&b);
}

/* A host alone needs no ceremony: it is restarted with other files, and they hold. */
static void test_definitions_of_one_daemon(void **state) {
        struct daemon a;

        (void)state;
        prepare(&a, "a");
        define_shared(&a);
        define(&a, "t.yaml", TENANT("t", "1Gi"));
        start(&a);
        assert_true(serves(&a, "t"));
        define(&a, "t.yaml", TENANT("t", "2Gi"));
        define(&a, "u.yaml", TENANT("u", "1Gi"));
        assert_int_equal(reload(&a, false), 0);
        WAIT(serves(&a, "u"));
        assert_int_equal(generation(&a), 2);
        stop(&a);
        undefine(&a, "u.yaml");
        define(&a, "w.yaml", TENANT("w", "1Gi"));
        start(&a);
        WAIT(!look(&a, "u"));
        assert_true(serves(&a, "w"));
        assert_int_equal(generation(&a), 3);
        assert_false(has_problem(&a, "definitions"));
        stop(&a);
        /* It is as it was: nothing is put in force. */
        start(&a);
        assert_int_equal(generation(&a), 3);
        stop(&a);
}

/* What another has put in force since is not undone by a host that was away with its old files. */
static void test_old_files_are_not_put_in_force(void **state) {
        struct daemon a, b;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        define(&a, "t.yaml", TENANT("t", "1Gi"));
        define(&b, "t.yaml", TENANT("t", "1Gi"));
        start(&a);
        start(&b);
        WAIT(generation(&b) == 1 && !has_problem(&b, "definitions"));
        stop(&b);
        undefine(&a, "t.yaml");
        define(&a, "u.yaml", TENANT("u", "1Gi"));
        assert_int_equal(reload(&a, false), 0);
        WAIT(!look(&a, "t"));
        stop(&a);
        start(&b); /* alone now */
        assert_true(has_problem(&b, "Tenant \"t\": is in a file here, and not in force"));
        assert_int_equal(generation(&b), 2);
        assert_false(look(&b, "t"));
        WAIT(serves(&b, "u"));
        /* Its files change: then they are meant. */
        define(&b, "v.yaml", TENANT("v", "1Gi"));
        assert_int_equal(reload(&b, false), 0);
        assert_int_equal(generation(&b), 3);
        WAIT(serves(&b, "t"));
        WAIT(serves(&b, "v"));
        WAIT(!look(&b, "u"));
        stop(&b);
}

/* A DataStore that says something else here is not opened at all. */
static void test_datastore_differs(void **state) {
        struct daemon a, b;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        define(&a, "other.yaml",
                "kind: DataStore\nmetadata: {name: other}\nspec: {driver: Memory, endpoints: ['127.0.0.1:1'], allowUnsafe: true, "
                "parameters: {instance: other-one}}\n");
        define(&b, "other.yaml",
                "kind: DataStore\nmetadata: {name: other}\nspec: {driver: Memory, endpoints: ['127.0.0.1:1'], allowUnsafe: true, "
                "parameters: {instance: another-one}}\n");
        start(&a);
        start(&b);
        assert_int_equal(create(&a, "t", "shared"), 0);
        assert_int_equal(create(&a, "o", "other"), 0);
        WAIT(serves(&b, "t"));
        assert_true(has_problem(&b, "DataStore \"other\": says something else here than what is in force"));
        assert_true(datastore_says(&b, "other", "DefinitionDiffers"));
        WAIT(fails(&b, "o", "is not the one that is in force"));
        define(&b, "other.yaml",
                "kind: DataStore\nmetadata: {name: other}\nspec: {driver: Memory, endpoints: ['127.0.0.1:1'], allowUnsafe: true, "
                "parameters: {instance: other-one}}\n");
        assert_int_equal(reload(&b, false), 0);
        WAIT(serves(&b, "o"));
        stop(&a);
        stop(&b);
}

/* ---- governance */

static void test_governance(void **state) {
        struct daemon a, b, c;

        (void)state;
        prepare(&a, "a");
        define_shared(&a);
        start(&a);
        assert_int_equal(create(&a, "t", ""), 0);

        /* c has its own registry, in SQLite, and the same datastore for tenants. */
        prepare(&c, "c");
        {
                char *text;

                assert_true(asprintf(&text,
                                    "kind: DataStore\nmetadata: {name: shared}\nspec: {driver: Memory, endpoints: "
                                    "['127.0.0.1:1'], allowUnsafe: true, parameters: {instance: %s}}\n",
                                    instance) > 0);
                define(&c, "shared.yaml", text);
                free(text);
        }
        define(&c, "u.yaml", TENANT("u", "1Gi"));
        start(&c);
        WAIT(datastore_says(&c, "shared", "GovernedByAnotherRegistry"));
        assert_false(c.datastore.ready);
        assert_non_null(strstr(c.datastore.message, "stokectl datastore claim shared"));
        WAIT(fails(&c, "u", "governed by another registry"));
        assert_int_equal(create(&c, "x", "shared"), -EBUSY);
        assert_non_null(strstr(c.reason, "governed by another registry"));
        assert_false(answers(&c, "u"));
        assert_int_equal(count("u"), 0);
        assert_int_equal(claim(&c, "nowhere"), -ENOENT);
        assert_int_equal(claim(&c, "embedded"), -EINVAL);

        assert_int_equal(claim(&c, "shared"), 0);
        WAIT(serves(&c, "u"));
        assert_true(datastore_says(&c, "shared", "DataStoreIsValid"));

        /* The one that governed it so far finds out when it looks, and serves nothing there. */
        assert_int_equal(check_datastore(&a, "shared"), 0);
        WAIT(datastore_says(&a, "shared", "GovernedByAnotherRegistry"));
        WAIT(fails(&a, "t", "governed by another registry"));
        assert_false(answers(&a, "t"));

        /* It cannot start there either; a new host joins nothing. */
        stop(&a);
        begin(&a);
        WAIT(has_problem(&a, "not the one that this daemon had there"));
        prepare(&b, "b");
        define_shared(&b);
        begin(&b);
        WAIT(has_problem(&b, "which is kept elsewhere"));

        /* Claimed back, the registry and its tenants are there as they were. */
        assert_int_equal(claim(&a, "shared"), 0);
        wait_flag(&a.ready);
        WAIT(serves(&a, "t"));
        WAIT(b.ready); /* and b joins by itself */
        WAIT(serves(&b, "t"));
        assert_int_equal(check_datastore(&c, "shared"), 0);
        WAIT(fails(&c, "u", "governed by another registry"));
        stop(&a);
        stop(&b);
        stop(&c);
}

/* ---- formats */

static void test_upgrade(void **state) {
        struct daemon old, new;
        struct fleet_summary summary;
        struct ghost g;

        (void)state;
        prepare(&old, "old");
        prepare(&new, "new");
        define_shared(&old);
        define_shared(&new);
        new.formats = (struct format_range){1, 2};
        start(&old);
        assert_int_equal(create(&old, "t", ""), 0);
        start(&new);
        WAIT(serves(&new, "t"));
        assert_int_equal(create(&new, "u", ""), 0);
        WAIT(serves(&old, "u")); /* side by side */
        fleet_get_summary(new.fleet, &summary);
        assert_int_equal(summary.format, 1);

        WAIT(n_daemons(&new) == 2);
        assert_int_equal(finalize(&new), -EBUSY);
        assert_non_null(strstr(new.reason, "cannot do format 2"));
        assert_int_equal(finalize(&old), 0); /* its own newest is in use */
        stop(&old);
        WAIT(n_daemons(&new) == 1);

        /* A daemon whose record nobody can read stands in the way too. */
        ghost_open(&g);
        assert_int_equal(ghost_put(&g, "/daemons/ghost", "{}"), 0);
        WAIT(n_daemons(&new) == 2);
        assert_int_equal(finalize(&new), -EBUSY);
        assert_int_equal(ghost_put(&g, "/daemons/ghost", NULL), 0);
        WAIT(n_daemons(&new) == 1);
        ghost_close(&g);

        assert_int_equal(finalize(&new), 0);
        fleet_get_summary(new.fleet, &summary);
        WAIT((fleet_get_summary(new.fleet, &summary), summary.format == 2));
        assert_true(serves(&new, "t"));

        /* The old one serves nothing, and says why. */
        begin(&old);
        WAIT(has_problem(&old, "the format in use is 2, and this version reads and writes 1 to 1"));
        assert_false(answers(&old, "t"));
        assert_int_equal(create(&old, "x", ""), -EBUSY);
        stop(&old);
        stop(&new);
}

/* One that was away, and is still running, finds the format raised. */
static void test_format_is_raised_under_it(void **state) {
        struct daemon a;
        struct ghost g;

        (void)state;
        prepare(&a, "a");
        define_shared(&a);
        start(&a);
        assert_int_equal(create(&a, "t", ""), 0);
        assert_true(answers(&a, "t"));
        ghost_open(&g);
        assert_int_equal(ghost_put(&g, REGISTRY_FORMAT_KEY, "2"), 0);
        WAIT(has_problem(&a, "the format in use is 2"));
        WAIT(!answers(&a, "t"));
        assert_int_equal(create(&a, "u", ""), -EBUSY);
        ghost_close(&g);
        stop(&a);
}

/* A machine was cloned with its state: two daemons take themselves for one host, which is said before they undo each other's work. */
static void test_copied_host_id(void **state) {
        struct daemon a, b;
        char *from, *to;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        start(&a);
        from = path_of(&a, "state/host-id");
        to = path_of(&b, "state/host-id");
        copy_file(from, to);
        start(&b);
        WAIT(has_problem(&a, "a state directory was copied"));
        free(from);
        free(to);
        stop(&b);
        stop(&a);
}

/* ---- the copy */

static void test_copy(void **state) {
        struct daemon a, b;
        char *path;
        struct stat st;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        define_shared(&a);
        define_shared(&b);
        start(&a);
        assert_int_equal(create(&a, "here", "embedded"), 0);
        assert_int_equal(create(&a, "going", "embedded"), 0);
        assert_int_equal(create(&a, "t", "shared"), 0);
        stop(&a);
        path = path_of(&a, "state/registry-copy.json");
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        free(path);

        /* Meanwhile another daemon has one deleted. */
        start(&b);
        assert_int_equal(delete (&b, "going", true), 0);
        stop(&b);

        set_fault("fail-load", "1");
        begin(&a);
        wait_flag(&a.ready);
        assert_true(has_problem(&a, "tenants are served as its copy"));
        assert_true(serves(&a, "here"));
        assert_true(answers(&a, "here"));
        assert_true(answers(&a, "going"));
        assert_int_equal(create(&a, "new", "embedded"), -EAGAIN);
        assert_int_equal(delete (&a, "here", false), -EAGAIN);

        /* The registry is back: its word counts. */
        set_fault("fail-load", "0");
        WAIT(!has_problem(&a, "registry"));
        WAIT(!look(&a, "going"));
        assert_false(answers(&a, "going"));
        assert_true(serves(&a, "here"));
        WAIT(serves(&a, "t"));
        assert_int_equal(create(&a, "new", "embedded"), 0);
        stop(&a);
}

/* Without a copy, or with one that is broken, it waits. */
static void test_no_copy(void **state) {
        struct daemon a;
        char *path;

        (void)state;
        prepare(&a, "a");
        define_shared(&a);
        start(&a);
        assert_int_equal(create(&a, "here", "embedded"), 0);
        stop(&a);
        path = path_of(&a, "state/registry-copy.json");
        write_file(path, "{\"format\": 1, \"datastore\": ");
        free(path);
        set_fault("fail-load", "1");
        begin(&a);
        run(NULL, 5000);
        assert_false(a.ready);
        assert_false(answers(&a, "here"));
        assert_false(look(&a, "here"));
        set_fault("fail-load", "0");
        wait_flag(&a.ready);
        assert_true(serves(&a, "here"));
        stop(&a);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_started_together, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_names_are_unique, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_steps_are_taken_over, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_made_again, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_one_host_alone, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_definitions_agree, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_definitions_of_one_daemon, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_old_files_are_not_put_in_force, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_datastore_differs, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_governance, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_upgrade, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_format_is_raised_under_it, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_copied_host_id, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_copy, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_no_copy, daemons_setup, daemons_teardown),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("fleet-several", tests, NULL, NULL);
}
