#include "world.h"

/*
 * The daemon's own parts put together as main.c does, without a daemon: what is asked runs on the loop of the test's thread.
 */

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "driver/plugin.h"
#include "fleet/uuid.h"

struct registry_record *world_records[64];
size_t world_n_records;

static struct world *running;
static const bool *awaited;
static struct loop_timer tick;
static uint64_t give_up_ns;

char *world_path(struct world *w, const char *format, ...) {
        char *tail, *path;
        va_list ap;

        va_start(ap, format);
        assert_true(vasprintf(&tail, format, ap) >= 0);
        va_end(ap);
        assert_true(asprintf(&path, "%s/%s", w->root, tail) >= 0);
        free(tail);
        return path;
}

static void make(struct world *w, const char *name) {
        char *path = world_path(w, "%s", name);

        assert_int_equal(mkdir(path, 0700), 0);
        free(path);
}

static void on_tick(struct loop_timer *timer) {
        if ((awaited && *awaited) || clock_now_ns() >= give_up_ns)
                loop_stop(running->loop);
        else
                loop_timer_set(running->loop, timer, clock_now_ns() + 2 * NSEC_PER_MSEC);
}

static void run(struct world *w, const bool *flag, unsigned ms) {
        running = w;
        awaited = flag;
        give_up_ns = clock_now_ns() + ms * NSEC_PER_MSEC;
        tick = (struct loop_timer){.on_time = on_tick};
        loop_timer_set(w->loop, &tick, clock_now_ns());
        assert_true(loop_run(w->loop) >= 0);
        loop_timer_clear(&tick);
}

void world_run(struct world *w, const bool *flag) {
        run(w, flag, 10000);
        assert_true(*flag);
}

void world_run_ms(struct world *w, unsigned ms) {
        run(w, NULL, ms);
}

int world_setup(void **state) {
        struct plugin_table_config plugins = {.directory = getenv("STOKE_PLUGINS")};
        struct world *w = new0(struct world);

        log_open();
        log_set_level(getenv("STOKE_TEST_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
        strcpy(w->root, "/tmp/stokehold-test-XXXXXX");
        assert_non_null(mkdtemp(w->root));
        make(w, "state");
        make(w, "state/datastores");
        make(w, "run");
        make(w, "definitions.d");
        uuid_make(w->daemon);
        assert_true(loop_new("main", &w->loop) >= 0);
        assert_non_null(plugins.directory);
        assert_true(plugin_table_new(&plugins, &w->plugins) >= 0);
        plugin_table_scan(w->plugins);
        *state = w;
        return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

int world_teardown(void **state) {
        struct world *w = *state;

        for (size_t i = 0; i < world_n_records; i++)
                registry_record_free(world_records[i]);
        world_n_records = 0;
        if (w->ds)
                world_close_datastore(w);
        plugin_table_free(w->plugins);
        loop_free(w->loop);
        nftw(w->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        free(w);
        return 0;
}

void world_open_datastore(struct world *w) {
        cleanup(error_done) struct error err = {};
        char *path = world_path(w, "state/datastores/embedded");
        const struct stoke_setting settings[] = {{.name = "path", .value = path}};
        struct datastore_config config = {.name = "embedded", .settings = settings, .n_settings = 1};

        config.plugin = plugin_find(w->plugins, "SQLite", &err);
        assert_non_null(config.plugin);
        memcpy(config.daemon, w->daemon, 16);
        if (datastore_open(&config, &w->ds, &err) < 0)
                fail_msg("%s", error_text(&err));
        free(path);
}

void world_close_datastore(struct world *w) {
        datastore_close(w->ds, NSEC_PER_SEC);
        w->ds = NULL;
}

struct call {
        struct datastore_job job;
        struct world *world;
        const char *name;
        unsigned n;
};

static void on_call_done(struct datastore_job *job) {
        struct call *c = container_of(job, struct call, job);

        c->world->done = true;
}

static void call(struct world *w, struct call *c, const struct stoke_keyspace *keyspace,
        int (*fn)(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call)) {
        c->world = w;
        c->job = (struct datastore_job){.class = JOB_BULK,
                .keyspace = keyspace,
                .deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC,
                .loop = w->loop,
                .run = fn,
                .done = on_call_done};
        w->done = false;
        datastore_submit(w->ds, &c->job);
        world_run(w, &w->done);
        if (c->job.result != 0)
                fail_msg("result %d: %s", c->job.result, c->job.reason);
}

static int run_create(struct datastore_job *job, struct stoke_session *session, struct stoke_call *sc) {
        struct call *c = container_of(job, struct call, job);
        struct stoke_record first;

        keyspace_first_record(c->world->daemon, &first);
        return datastore_driver(job->ds)->create(session, job->keyspace, &first, sc);
}

void world_make_keyspace(struct world *w, const char *name, const uint8_t incarnation[16]) {
        struct stoke_keyspace keyspace = {.name = name};
        struct call c = {};

        memcpy(keyspace.incarnation, incarnation, 16);
        call(w, &c, &keyspace, run_create);
}

static int on_listed(void *userdata, const struct stoke_keyspace_info *info) {
        struct call *c = userdata;

        c->n += strcmp(info->name, c->name) == 0;
        return 0;
}

static int run_list(struct datastore_job *job, struct stoke_session *session, struct stoke_call *sc) {
        return datastore_driver(job->ds)->list(session, sc, on_listed, container_of(job, struct call, job));
}

unsigned world_count_keyspaces(struct world *w, const char *name) {
        struct call c = {.name = name};

        call(w, &c, NULL, run_list);
        return c.n;
}

/* ---- registries */

static void on_begin(void *userdata) {
        (void)userdata;
}

static void on_record(void *userdata, struct registry_record *record) {
        (void)userdata;
        assert_true(world_n_records < n_elements(world_records));
        world_records[world_n_records++] = record;
}

static void on_gone(void *userdata, const char *name, int64_t revision) {
        (void)userdata;
        (void)name;
        (void)revision;
}

static void on_value(void *userdata, const char *key, struct bytes value, int64_t mod_revision) {
        (void)userdata;
        (void)key;
        (void)value;
        (void)mod_revision;
}

static void on_lost(void *userdata, const char *reason) {
        (void)userdata;
        fail_msg("%s", reason);
}

const struct format_range world_formats = {1, 1};

static void on_result(void *userdata, int result, const char *reason) {
        struct world *w = userdata;

        w->result = result;
        snprintf(w->reason, sizeof(w->reason), "%s", reason);
        w->done = true;
}

static void on_closed(void *userdata) {
        struct world *w = userdata;

        w->done = true;
}

struct registry *world_open_registry(struct world *w) {
        const struct registry_open open = {.listener = {.on_begin = on_begin,
                                                   .on_record = on_record,
                                                   .on_gone = on_gone,
                                                   .on_value = on_value,
                                                   .on_listed = on_begin,
                                                   .on_lost = on_lost},
                .done = on_result,
                .userdata = w};
        cleanup(error_done) struct error err = {};
        char *state = world_path(w, "state");
        struct registry *r = NULL;

        for (size_t i = 0; i < world_n_records; i++)
                registry_record_free(world_records[i]);
        world_n_records = 0;
        if (registry_new(w->loop, state, w->daemon, &world_formats, &r, &err) < 0)
                fail_msg("%s", error_text(&err));
        w->done = false;
        registry_open(r, w->ds, &open);
        assert_false(w->done);
        world_run(w, &w->done);
        if (w->result < 0)
                fail_msg("%s", w->reason);
        free(state);
        return r;
}

void world_close_registry(struct world *w, struct registry *r) {
        w->done = false;
        registry_close(r, on_closed, w);
        world_run(w, &w->done);
        registry_free(r);
}

static struct world *writing;

static void on_written(struct registry_write *write, int result, const char *reason) {
        (void)write;
        on_result(writing, result, reason);
}

void world_write(struct world *w, struct registry *r, struct registry_record *record, bool remove_it) {
        struct registry_write write = {.record = record, .remove = remove_it, .done = on_written};

        writing = w;
        w->done = false;
        registry_write(r, &write);
        world_run(w, &w->done);
        registry_record_free(write.newer);
}

struct registry_record *world_record(const char *name, enum registry_phase phase) {
        struct registry_record *record = new0(struct registry_record);

        record->name = strdup(name);
        record->datastore = strdup("embedded");
        record->source = strdup("stokectl");
        record->host = strdup("");
        record->host_name = strdup("");
        uuid_make(record->incarnation);
        memcpy(record->cluster, record->incarnation, 16);
        record->phase = phase;
        record->created = 1700000000;
        return record;
}
