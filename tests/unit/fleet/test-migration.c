/*
 * What a user would lose: a tenant that a crash in the middle of its move leaves in two places, or in none; one that stays sealed for ever; what is left behind
 * in a datastore, and never removed. Fleets in this process, as daemons have them, over logs in memory; and a daemon that has come so far, and
 * died, whose traces are made by hand.
 */

#include "daemons.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fleet/fleet.h"
#include "fleet/point.h"
#include "fleet/registry.h"
#include "fleet/settings.h"
#include "fleet/uuid.h"
#include "keyspace/install.h"
#include "keyspace/record.h"

struct daemon {
        char root[96];
        struct settings *settings;
        struct fleet *fleet;
        uint8_t incarnation[16];
        bool ready, stopped, done;
        int result;
        char reason[1024];
        struct {
                bool serving;
                char datastore[64], reason[512];
                uint8_t incarnation[16];
        } tenant;
        struct {
                bool running;
                char phase[32], reason[512], former[64];
                int64_t finished, former_until;
        } move;
};

/* ---- daemons */

#define DATASTORES                                                                                                                              \
        "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: here}\n"                                                             \
        "spec: {driver: Memory, endpoints: ['127.0.0.1:1'], allowUnsafe: true, system: true, default: true, parameters: {instance: %s-here}}\n" \
        "---\napiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: there}\n"                                                       \
        "spec: {driver: Memory, endpoints: ['127.0.0.1:1'], allowUnsafe: true, parameters: {instance: %s-there}}\n"                             \
        "---\napiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: local}\nspec: {driver: SQLite, path: local}\n"

static void prepare(struct daemon *d, const char *name) {
        static const char *const directories[] = {"", "/state", "/run", "/definitions.d"};
        char *path, *text;

        *d = (struct daemon){};
        snprintf(d->root, sizeof(d->root), "%s/%s", top, name);
        for (size_t i = 0; i < n_elements(directories); i++) {
                assert_true(asprintf(&path, "%s%s", d->root, directories[i]) > 0);
                assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
                free(path);
        }
        assert_true(asprintf(&path, "%s/stokehold.yaml", d->root) > 0);
        write_file(path, "shards: 1\ndrivers: {experimental: [Memory]}\n");
        free(path);
        assert_true(asprintf(&path, "%s/definitions.d/datastores.yaml", d->root) > 0);
        assert_true(asprintf(&text, DATASTORES, instance, instance) > 0);
        write_file(path, text);
        free(text);
        free(path);
}

static void on_daemon(void *userdata, const struct fleet_daemon_view *view) {
        (void)view;
        ++*(size_t *)userdata;
}

static size_t n_daemons(struct daemon *d) {
        size_t n = 0;

        fleet_each_daemon(d->fleet, on_daemon, &n);
        return n;
}

static void on_ready(void *userdata) {
        ((struct daemon *)userdata)->ready = true;
}

static void on_stopped(void *userdata) {
        ((struct daemon *)userdata)->stopped = true;
}

static void start(struct daemon *d) {
        struct settings_options options = {.root = d->root};
        cleanup(error_done) struct error err = {};
        struct fleet_config config = {.loop = loop, .on_ready = on_ready, .userdata = d, .version = "1.2.3"};
        char *plugins;

        assert_true(asprintf(&plugins, "%s/plugins", top) > 0);
        options.plugins = plugins;
        d->ready = d->stopped = false;
        uuid_make(d->incarnation);
        if (settings_load(&options, &d->settings, &err) < 0)
                fail_msg("%s", error_text(&err));
        config.settings = d->settings;
        memcpy(config.daemon, d->incarnation, 16);
        if (fleet_new(&config, &d->fleet, &err) < 0 || fleet_start(d->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        free(plugins);
        wait_flag(&d->ready);
}

static void stop(struct daemon *d) {
        fleet_stop(d->fleet, on_stopped, d);
        wait_flag(&d->stopped);
        fleet_free(d->fleet);
        settings_free(d->settings);
        d->fleet = NULL;
}

static void on_done(void *userdata, int result, const char *reason) {
        struct daemon *d = userdata;

        d->result = result;
        if (result < 0 && getenv("STOKE_TEST_LOG"))
                print_error("%d: %s\n", result, reason);
        snprintf(d->reason, sizeof(d->reason), "%s", reason);
        d->done = true;
}

static int create(struct daemon *d, const char *name, const char *datastore) {
        const struct fleet_create c = {.name = name, .datastore = datastore, .wait = true};

        d->done = false;
        fleet_create_tenant(d->fleet, &c, on_done, d);
        wait_flag(&d->done);
        return d->result;
}

static int migrate(struct daemon *d, const char *name, const char *datastore, int64_t retention_s) {
        const struct fleet_migrate m = {.name = name, .datastore = datastore, .retention_s = retention_s, .wait = true};

        do { /* a daemon that has just started: the others know it not yet, a datastore is being dialled */
                d->done = false;
                fleet_migrate_tenant(d->fleet, &m, on_done, d);
                assert_false(d->done);
                wait_flag(&d->done);
        } while (d->result == -EBUSY &&
                (strstr(d->reason, "not known to the others yet") || strstr(d->reason, "will process the validation")));
        return d->result;
}

/* A daemon that has started is not yet one that has dialled the target. */
static int migrate_when_ready(struct daemon *d, const char *name, const char *datastore, int64_t retention) {
        int r = -EBUSY;

        for (unsigned i = 0; r == -EBUSY && i < 1000; i++) {
                if (i)
                        run(NULL, 20);
                r = migrate(d, name, datastore, retention);
        }
        return r;
}

static int ask(struct daemon *d,
        void (*what)(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata), const char *name) {
        d->done = false;
        what(d->fleet, name, on_done, d);
        assert_false(d->done);
        wait_flag(&d->done);
        return d->result;
}

static int delete (struct daemon *d, const char *name) {
        d->done = false;
        fleet_delete_tenant(d->fleet, name, false, on_done, d);
        wait_flag(&d->done);
        return d->result;
}

static void on_tenant(void *userdata, const struct fleet_tenant_view *view) {
        struct daemon *d = userdata;

        d->tenant.serving = view->serving;
        memcpy(d->tenant.incarnation, view->incarnation, 16);
        snprintf(d->tenant.datastore, sizeof(d->tenant.datastore), "%s", view->datastore);
        snprintf(d->tenant.reason, sizeof(d->tenant.reason), "%s", view->reason);
}

static void on_migration(void *userdata, const struct fleet_migration_view *view) {
        struct daemon *d = userdata;

        d->move.running = view->is_running;
        snprintf(d->move.phase, sizeof(d->move.phase), "%s", view->phase);
        snprintf(d->move.reason, sizeof(d->move.reason), "%s", view->reason);
        snprintf(d->move.former, sizeof(d->move.former), "%s", view->former ? view->former : "");
        d->move.finished = view->finished;
        d->move.former_until = view->former_until;
}

static bool look(struct daemon *d, const char *name) {
        memset(&d->tenant, 0, sizeof(d->tenant));
        memset(&d->move, 0, sizeof(d->move));
        (void)fleet_find_migration(d->fleet, name, on_migration, d);
        return fleet_find_tenant(d->fleet, name, on_tenant, d);
}

static bool serves(struct daemon *d, const char *name, const char *datastore) {
        return look(d, name) && d->tenant.serving && strcmp(d->tenant.datastore, datastore) == 0 && !d->move.running;
}

/* ---- the datastores themselves */

struct hand {
        struct plugin_table *plugins;
        struct datastore *ds;
        struct datastore_job job;
        struct stoke_keyspace keyspace;
        const uint8_t *id;
        enum { LIST, SEAL, LOOK, BEGIN, COMMIT } what;
        bool done;
        unsigned n_found;
        uint8_t daemon[16];
        /* Of the log. */
        struct stoke_end end;
        int64_t revision;
        uint8_t last_kind; /* of those about seals */
        uint8_t last_id[16];
        struct stoke_record *records; /* owned, keys and values too */
        size_t n_records;
};

static int on_listed(void *userdata, const struct stoke_keyspace_info *info) {
        struct hand *h = userdata;

        if (strcmp(info->name, h->keyspace.name) == 0)
                h->n_found++;
        return 0;
}

static int on_visited(void *userdata, const struct stoke_record *record) {
        struct hand *h = userdata;
        struct stoke_record *r;

        if (record->kind == RECORD_SEAL || record->kind == RECORD_UNSEAL || record->kind == RECORD_INSTALLED) {
                h->last_kind = record->kind;
                memcpy(h->last_id, record->key, min_of(record->key_size, sizeof(h->last_id)));
        }
        h->revision = record->revision;
        h->records = realloc(h->records, (h->n_records + 1) * sizeof(*h->records));
        assert_non_null(h->records);
        r = &h->records[h->n_records++];
        *r = *record;
        r->key = memcpy(malloc(record->key_size + 1), record->key ? record->key : "", record->key_size);
        r->value = memcpy(malloc(record->value_size + 1), record->value ? record->value : "", record->value_size);
        return 0;
}

static int load(
        struct hand *h, const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call) {
        return driver->load(session, &h->keyspace, &(struct stoke_end){}, true, call, on_visited, h, &h->end);
}

static int seal(
        struct hand *h, const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call) {
        struct stoke_record record = {
                .kind = RECORD_SEAL, .key = h->id, .key_size = 16, .value = "there", .value_size = 5};
        struct stoke_append append = {.size = sizeof(append), .records = &record, .n_records = 1};
        int r = load(h, driver, session, call);

        if (r != 0)
                return r;
        append.expected = h->end;
        record.seq = h->end.seq + 1;
        record.revision = h->revision;
        memcpy(record.origin.daemon, h->daemon, 16);
        record.origin.batch = 1;
        record.hash = record_hash(&record);
        return driver->append(session, &h->keyspace, &append, call);
}

static int run_hand(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct hand *h = container_of(job, struct hand, job);
        const struct stoke_driver *driver = datastore_driver(job->ds);
        struct stoke_record last;
        uint64_t seq;
        int r;

        switch (h->what) {
        case LIST:
                return driver->list(session, call, on_listed, h);
        case SEAL:
                return seal(h, driver, session, call);
        case LOOK:
                return load(h, driver, session, call);
        case BEGIN:
        case COMMIT:
                r = driver->install_begin(session, &h->keyspace, h->id, call, &seq);
                if (r == 0)
                        r = driver->install_feed(session, &h->keyspace, h->id, h->records, h->n_records, call);
                if (r == 0 && h->what == COMMIT) {
                        install_record(h->id, h->end.seq + 1, h->revision, &last);
                        r = driver->install_commit(session, &h->keyspace, h->id, &last, call);
                }
                return r;
        }
        return -EINVAL;
}

static void on_hand(struct datastore_job *job) {
        container_of(job, struct hand, job)->done = true;
}

static void hand_open(struct hand *h, const char *datastore) {
        static const char *const experimental[] = {"Memory"};
        struct plugin_table_config plugins = {.experimental = experimental, .n_experimental = 1};
        char name[96], directory[96];
        const struct stoke_setting settings[] = {{"instance", name}};
        struct datastore_config config = {.name = datastore, .settings = settings, .n_settings = 1};
        cleanup(error_done) struct error err = {};

        snprintf(name, sizeof(name), "%s-%s", instance, datastore);
        snprintf(directory, sizeof(directory), "%s/plugins", top);
        plugins.directory = directory;
        assert_true(plugin_table_new(&plugins, &h->plugins) >= 0);
        plugin_table_scan(h->plugins);
        config.plugin = plugin_find(h->plugins, "Memory", &err);
        assert_non_null(config.plugin);
        uuid_make(h->daemon);
        memcpy(config.daemon, h->daemon, 16);
        assert_int_equal(datastore_open(&config, &h->ds, &err), 0);
}

static void hand_close(struct hand *h) {
        datastore_close(h->ds, NSEC_PER_SEC);
        plugin_table_free(h->plugins);
}

static void hand_forget(struct hand *h) {
        for (size_t i = 0; i < h->n_records; i++) {
                free((void *)h->records[i].key);
                free((void *)h->records[i].value);
        }
        free(h->records);
        h->records = NULL;
        h->n_records = 0;
}

static int hand_do(struct hand *h, int what, const char *name, const uint8_t *incarnation, const uint8_t *id) {
        h->what = what;
        h->id = id;
        h->done = false;
        h->n_found = 0;
        h->last_kind = 0;
        if (what == LOOK || what == SEAL)
                hand_forget(h);
        h->keyspace = (struct stoke_keyspace){.name = name};
        if (incarnation)
                memcpy(h->keyspace.incarnation, incarnation, 16);
        h->job = (struct datastore_job){.class = JOB_BULK,
                .deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC,
                .loop = loop,
                .run = run_hand,
                .done = on_hand};
        datastore_submit(h->ds, &h->job);
        wait_flag(&h->done);
        if (h->job.result != 0)
                print_error("%d: %s\n", h->job.result, h->job.reason);
        return h->job.result;
}

static unsigned count(const char *datastore, const char *name) {
        struct hand h = {};

        hand_open(&h, datastore);
        assert_int_equal(hand_do(&h, LIST, name, NULL, NULL), 0);
        hand_close(&h);
        return h.n_found;
}

/* The last that a log says about being sealed. */
static uint8_t last_kind(const char *datastore, const char *name, const uint8_t incarnation[16], uint8_t ret_id[16]) {
        struct hand h = {};
        int r;

        hand_open(&h, datastore);
        r = hand_do(&h, LOOK, name, incarnation, NULL);
        assert_int_equal(r, 0);
        memcpy(ret_id, h.last_id, 16);
        hand_forget(&h);
        hand_close(&h);
        return h.last_kind;
}

/* ---- the registry, as a daemon that dies leaves it */

static bool ghost_is_done;
static int ghost_result;
static struct registry_record *ghost_found;
static const char *ghost_name;

static void ghost_begin(void *userdata) {
        (void)userdata;
}
static void ghost_record(void *userdata, struct registry_record *record) {
        (void)userdata;
        if (strcmp(record->name, ghost_name) != 0) {
                registry_record_free(record);
                return;
        }
        registry_record_free(ghost_found);
        ghost_found = record;
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
static void ghost_done(void *userdata, int result, const char *reason) {
        (void)userdata;
        if (result < 0)
                print_error("%s\n", reason);
        ghost_result = result;
        ghost_is_done = true;
}
static void ghost_closed(void *userdata) {
        (void)userdata;
        ghost_is_done = true;
}
static void ghost_written(struct registry_write *w, int result, const char *reason) {
        registry_record_free(w->newer);
        ghost_done(NULL, result, reason);
}

/* The record is changed by change(), as another daemon might have. */
static void ghost_write(
        const char *name, void (*change)(struct registry_record *record, void *userdata), void *userdata) {
        static const struct format_range formats = {1, 9};
        struct registry_open open = {.listener = {.on_begin = ghost_begin,
                                             .on_record = ghost_record,
                                             .on_gone = ghost_gone,
                                             .on_value = ghost_value,
                                             .on_listed = ghost_begin,
                                             .on_lost = ghost_lost},
                .done = ghost_done};
        cleanup(error_done) struct error err = {};
        struct registry_write write = {.done = ghost_written};
        struct hand h = {};
        struct registry *r;
        char directory[96];

        snprintf(directory, sizeof(directory), "%s/ghost-XXXXXX", top);
        assert_non_null(mkdtemp(directory));
        hand_open(&h, "here");
        ghost_name = name;
        ghost_found = NULL;
        assert_int_equal(registry_new(loop, directory, h.daemon, &formats, &r, &err), 0);
        ghost_is_done = false;
        registry_open(r, h.ds, &open);
        wait_flag(&ghost_is_done);
        assert_int_equal(ghost_result, 0);
        assert_non_null(ghost_found);
        change(ghost_found, userdata);
        write.record = ghost_found;
        ghost_is_done = false;
        registry_write(r, &write);
        wait_flag(&ghost_is_done);
        assert_int_equal(ghost_result, 0);
        ghost_is_done = false;
        registry_close(r, ghost_closed, NULL);
        wait_flag(&ghost_is_done);
        registry_free(r);
        registry_record_free(ghost_found);
        ghost_found = NULL;
        hand_close(&h);
}

/* There, seen by both daemons, and back by undo; on to a datastore of one host alone, which the other does not serve; nothing is left behind. */
static void test_there_and_back(void **state) {
        struct daemon a, b;
        uint8_t first[16], id[16];

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        start(&a);
        start(&b);
        WAIT(n_daemons(&a) == 2 && n_daemons(&b) == 2);
        assert_int_equal(create(&a, "t", "here"), 0);
        WAIT(serves(&b, "t", "here"));
        memcpy(first, b.tenant.incarnation, 16);
        assert_int_equal(migrate_when_ready(&a, "t", "there", 3600), 0);
        WAIT(serves(&a, "t", "there") && serves(&b, "t", "there"));
        assert_string_equal(a.move.phase, "Done");
        assert_string_equal(b.move.former, "here");
        assert_memory_not_equal(a.tenant.incarnation, first, 16);
        assert_int_equal(count("here", "t"), 1);
        assert_int_equal(count("there", "t"), 1);
        assert_int_equal(last_kind("here", "t", first, id), RECORD_SEAL);
        assert_int_equal(last_kind("there", "t", a.tenant.incarnation, id), RECORD_INSTALLED);

        assert_int_equal(ask(&b, fleet_undo_migration, "t"), 0);
        WAIT(serves(&a, "t", "here") && serves(&b, "t", "here"));
        assert_memory_equal(a.tenant.incarnation, first, 16);
        /* Not at once: there may be daemons that have not heard of it yet. */
        assert_string_equal(a.move.former, "there");
        assert_true(a.move.former_until >= a.move.finished + 14);
        WAIT(count("there", "t") == 0);
        assert_true(time(NULL) >= a.move.former_until);
        WAIT(last_kind("here", "t", first, id) == RECORD_UNSEAL);
        assert_int_equal(ask(&b, fleet_undo_migration, "t"), -EBUSY);

        assert_int_equal(migrate_when_ready(&b, "t", "local", 0), 0);
        WAIT(serves(&b, "t", "local"));
        WAIT(look(&a, "t") && !a.tenant.serving && strcmp(a.tenant.datastore, "local") == 0);
        assert_int_equal(migrate(&a, "t", "there", 0), -EBUSY);
        assert_int_equal(migrate(&b, "t", "there", 0), 0); /* what was left behind goes first */
        WAIT(serves(&a, "t", "there") && serves(&b, "t", "there"));
        assert_int_equal(count("here", "t"), 0);
        stop(&a);
        assert_int_equal(delete (&b, "t"), 0);
        assert_int_equal(count("there", "t"), 0);
        stop(&b);
}

static void test_refusals(void **state) {
        struct daemon a;

        (void)state;
        prepare(&a, "a");
        start(&a);
        WAIT(n_daemons(&a) == 1);
        assert_int_equal(create(&a, "t", "here"), 0);
        assert_int_equal(migrate(&a, "t", "here", -1), -EBUSY);
        assert_non_null(strstr(a.reason, "is on datastore here already"));
        assert_int_equal(migrate(&a, "t", "nowhere", -1), -ENOENT);
        assert_int_equal(migrate(&a, "u", "there", -1), -ENOENT);
        assert_int_equal(ask(&a, fleet_abort_migration, "t"), -EBUSY);
        assert_int_equal(ask(&a, fleet_undo_migration, "t"), -EBUSY);
        assert_true(serves(&a, "t", "here"));
        stop(&a);
}

/* ---- a daemon that died */

struct trace {
        enum migration_phase phase;
        bool begun, sealed, committed, switched, deleting;
        uint8_t id[16], incarnation[16], daemon[16];
};

static char *copied(const char *s) {
        char *p = strdup(s);

        assert_non_null(p);
        return p;
}

static void leave_trace(struct registry_record *record, void *userdata) {
        const struct trace *t = userdata;

        if (t->switched) {
                record->previous = new0(struct registry_previous);
                record->previous->datastore = record->datastore;
                memcpy(record->previous->incarnation, record->incarnation, 16);
                memcpy(record->previous->migration, t->id, 16);
                record->previous->host = copied("");
                record->previous->host_name = copied("");
                record->previous->until = INT64_C(1) << 40;
                record->datastore = copied("there");
                memcpy(record->incarnation, t->incarnation, 16);
                return;
        }
        record->migration = new0(struct registry_migration);
        record->migration->phase = t->phase;
        memcpy(record->migration->id, t->id, 16);
        memcpy(record->migration->incarnation, t->incarnation, 16);
        memcpy(record->migration->owner, t->daemon, 16);
        record->migration->datastore = copied("there");
        record->migration->host = copied("");
        record->migration->host_name = copied("");
        record->migration->reason = copied(t->phase == MIGRATION_ABORTING ? "for some reason" : "");
        record->migration->started = 17;
        if (t->deleting)
                record->phase = REGISTRY_DELETING;
}

/* What it had done at the datastores. */
static void do_steps(const struct trace *t, const uint8_t incarnation[16]) {
        struct hand here = {}, there = {};

        hand_open(&here, "here");
        hand_open(&there, "there");
        if (t->sealed)
                assert_int_equal(hand_do(&here, SEAL, "t", incarnation, t->id), 0);
        assert_int_equal(hand_do(&here, LOOK, "t", incarnation, NULL), 0);
        there.records = here.records;
        there.n_records = here.n_records;
        there.end = here.end;
        there.revision = here.revision;
        if (t->begun || t->committed)
                assert_int_equal(hand_do(&there, t->committed ? COMMIT : BEGIN, "t", t->incarnation, t->id), 0);
        hand_forget(&here);
        hand_close(&here);
        hand_close(&there);
}

/* Each step after which a daemon can die, found by one that runs, and by one that starts. */
static void test_died(void **state) {
        static const struct trace traces[] = {
                {.phase = MIGRATION_PREPARING},
                {.phase = MIGRATION_COPYING},
                {.phase = MIGRATION_COPYING, .begun = true},
                {.phase = MIGRATION_SEALING, .begun = true},
                {.phase = MIGRATION_SEALING, .begun = true, .sealed = true},
                {.phase = MIGRATION_SEALING, .sealed = true, .committed = true},
                {.phase = MIGRATION_ABORTING, .sealed = true, .committed = true},
                {.phase = MIGRATION_ABORTING, .begun = true, .sealed = true},
                {.phase = MIGRATION_ABORTING},
                {.sealed = true, .committed = true, .switched = true},
                {.phase = MIGRATION_SEALING, .sealed = true, .committed = true, .deleting = true},
                {.phase = MIGRATION_COPYING, .begun = true, .deleting = true},
        };

        (void)state;
        for (size_t i = 0; i < 2 * n_elements(traces); i++) {
                struct trace t = traces[i / 2];
                bool runs = i % 2;
                uint8_t source[16], id[16];
                struct daemon a;
                char name[16];

                next_instance();
                snprintf(name, sizeof(name), "d%zu", i);
                prepare(&a, name);
                start(&a);
                assert_int_equal(create(&a, "t", "here"), 0);
                assert_true(serves(&a, "t", "here"));
                memcpy(source, a.tenant.incarnation, 16);
                uuid_make(t.id);
                uuid_make(t.incarnation);
                uuid_make(t.daemon);
                if (!runs)
                        stop(&a);
                do_steps(&t, source);
                ghost_write("t", leave_trace, &t);
                if (!runs)
                        start(&a);
                if (t.deleting) {
                        WAIT(!look(&a, "t"));
                        WAIT(count("here", "t") == 0 && count("there", "t") == 0);
                } else if (t.switched) {
                        WAIT(serves(&a, "t", "there"));
                        assert_int_equal(last_kind("here", "t", source, id), RECORD_SEAL);
                        assert_memory_equal(a.tenant.incarnation, t.incarnation, 16);
                } else {
                        WAIT(serves(&a, "t", "here") && strcmp(a.move.phase, "Failed") == 0);
                        assert_memory_equal(a.tenant.incarnation, source, 16);
                        WAIT(last_kind("here", "t", source, id) == RECORD_UNSEAL);
                        assert_memory_equal(id, t.id, 16);
                        WAIT(count("there", "t") == 0);
                        /* And it can be done again. */
                        assert_int_equal(migrate_when_ready(&a, "t", "there", -1), 0);
                        assert_true(serves(&a, "t", "there"));
                }
                stop(&a);
        }
}

/* A seal that landed when nobody reckoned with it: of a migration that is none any more. It does not hold the tenant for ever. */
static void test_void_seal(void **state) {
        uint8_t id[16], source[16], found[16];
        struct daemon a;
        struct hand h = {};

        (void)state;
        prepare(&a, "a");
        start(&a);
        assert_int_equal(create(&a, "t", "here"), 0);
        assert_true(serves(&a, "t", "here"));
        memcpy(source, a.tenant.incarnation, 16);
        stop(&a);
        uuid_make(id);
        hand_open(&h, "here");
        assert_int_equal(hand_do(&h, SEAL, "t", source, id), 0);
        hand_forget(&h);
        hand_close(&h);
        start(&a);
        assert_int_equal(migrate_when_ready(&a, "t", "there", -1), 0);
        assert_true(serves(&a, "t", "there"));
        /* Behind the unseal of the one, the seal of the other. */
        assert_int_equal(last_kind("here", "t", source, found), RECORD_SEAL);
        assert_memory_not_equal(found, id, 16);
        stop(&a);
}

/* Another daemon is told to delete it at the moment when it has moved, of which that one has not heard: it is deleted where it is now. */
static struct daemon *deleting;
static void delete_at(const char *name) {
        if (strcmp(name, "switching") != 0 || !deleting)
                return;
        fleet_delete_tenant(deleting->fleet, "t", false, on_done, deleting);
        deleting = NULL;
}

static void test_deleted_as_it_moves(void **state) {
        const struct fleet_migrate m = {.name = "t", .datastore = "there", .retention_s = -1};
        struct daemon a, b;

        (void)state;
        prepare(&a, "a");
        prepare(&b, "b");
        start(&a);
        start(&b);
        WAIT(n_daemons(&a) == 2 && n_daemons(&b) == 2);
        assert_int_equal(create(&a, "t", "here"), 0);
        WAIT(serves(&b, "t", "here"));
        b.done = false;
        deleting = &b;
        fleet_point = delete_at;
        fleet_migrate_tenant(a.fleet, &m, on_done, &a);
        wait_flag(&b.done);
        fleet_point = NULL;
        assert_int_equal(b.result, 0);
        assert_false(look(&b, "t"));
        assert_int_equal(count("here", "t"), 0);
        assert_int_equal(count("there", "t"), 0);
        stop(&a);
        stop(&b);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_there_and_back, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_refusals, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_died, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_void_seal, daemons_setup, daemons_teardown),
                cmocka_unit_test_setup_teardown(test_deleted_as_it_moves, daemons_setup, daemons_teardown),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("fleet-migration", tests, NULL, NULL);
}
