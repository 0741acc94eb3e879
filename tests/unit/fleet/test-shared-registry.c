/*
 * What a user would lose: a registry made twice, or made anew where one was, so that tenants are forgotten; a tenant that another daemon made and this one
 * never hears of; a change that overwrites another's. Several registries in one process, each as a daemon has it (a state directory, a datastore
 * of its own), over one log in memory that they share.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fleet/governor.h"
#include "fleet/registry.h"
#include "fleet/registry_file.h"
#include "fleet/uuid.h"
#include "memory.h"

#define INSTANCE "registries"
#define MAX_NAMES 64

static struct loop *loop;
static struct plugin plugin = {.driver = &stoke_driver, .allowed = true};
static struct loop_timer tick;
static uint64_t give_up_ns;
static bool (*awaited)(void *userdata);
static void *awaited_userdata;

/* ---- waiting */

static void on_tick(struct loop_timer *timer) {
        if (awaited(awaited_userdata) || clock_now_ns() > give_up_ns)
                loop_stop(loop);
        else
                loop_timer_set(loop, timer, clock_now_ns() + NSEC_PER_MSEC);
}

static void wait_until(bool (*condition)(void *userdata), void *userdata) {
        awaited = condition;
        awaited_userdata = userdata;
        give_up_ns = clock_now_ns() + 40 * NSEC_PER_SEC;
        tick.on_time = on_tick;
        loop_timer_set(loop, &tick, clock_now_ns());
        assert_true(loop_run(loop) >= 0);
        loop_timer_clear(&tick);
        assert_true(condition(userdata));
}

/* ---- a daemon's part */

struct host {
        char dir[64];
        uint8_t daemon[16];
        struct format_range formats;
        struct datastore *ds;
        struct registry *registry;
        bool opened, closed, written, listed;
        int result;
        char reason[512];
        struct registry_record *records[MAX_NAMES];
        size_t n_records;
        unsigned n_listings, n_seen;
        char value[256];
        struct registry_write write;
        struct registry_put put;
        struct keyspace_known known;
};

static struct registry_record **find(struct host *h, const char *name) {
        for (size_t i = 0; i < h->n_records; i++)
                if (strcmp(h->records[i]->name, name) == 0)
                        return &h->records[i];
        return NULL;
}

/* It must be there. */
static struct registry_record *get(struct host *h, const char *name) {
        struct registry_record **record = find(h, name);

        check(record);
        return *record;
}

static void forget(struct host *h) {
        for (size_t i = 0; i < h->n_records; i++)
                registry_record_free(h->records[i]);
        h->n_records = 0;
}

static void on_begin(void *userdata) {
        struct host *h = userdata;

        forget(h);
        h->n_listings++;
}

static void on_record(void *userdata, struct registry_record *record) {
        struct host *h = userdata;
        struct registry_record **known = find(h, record->name);

        h->n_seen++;
        if (known) {
                assert_true(record->mod_revision > (*known)->mod_revision); /* in order, and none twice */
                registry_record_free(*known);
                *known = record;
                return;
        }
        assert_true(h->n_records < MAX_NAMES);
        h->records[h->n_records++] = record;
}

static void on_gone(void *userdata, const char *name, int64_t revision) {
        struct host *h = userdata;
        struct registry_record **known = find(h, name);

        check(known);
        assert_true(revision > (*known)->mod_revision);
        registry_record_free(*known);
        *known = h->records[--h->n_records];
}

static void on_value(void *userdata, const char *key, struct bytes value, int64_t mod_revision) {
        struct host *h = userdata;

        (void)mod_revision;
        if (strcmp(key, "/meta/x") == 0)
                snprintf(h->value, sizeof(h->value), "%.*s", value.data ? (int)value.size : 4,
                        value.data ? (const char *)value.data : "gone");
}

static void on_listed(void *userdata) {
        struct host *h = userdata;

        h->listed = true;
}

static void on_lost(void *userdata, const char *reason) {
        struct host *h = userdata;

        snprintf(h->reason, sizeof(h->reason), "lost: %s", reason);
}

static void on_opened(void *userdata, int result, const char *reason) {
        struct host *h = userdata;

        h->result = result;
        snprintf(h->reason, sizeof(h->reason), "%s", reason);
        h->opened = true;
}

static void host_init(struct host *h) {
        static const struct stoke_setting settings[] = {{"instance", INSTANCE}};
        struct datastore_config config = {.name = "shared", .plugin = &plugin, .settings = settings, .n_settings = 1};
        cleanup(error_done) struct error err = {};

        *h = (struct host){.formats = {1, 1}};
        strcpy(h->dir, "/tmp/stokehold-test-XXXXXX");
        assert_non_null(mkdtemp(h->dir));
        uuid_make(h->daemon);
        memcpy(config.daemon, h->daemon, 16);
        assert_int_equal(datastore_open(&config, &h->ds, &err), 0);
}

static void host_new(struct host *h) {
        cleanup(error_done) struct error err = {};

        if (registry_new(loop, h->dir, h->daemon, &h->formats, &h->registry, &err) < 0)
                fail_msg("%s", error_text(&err));
}

static void host_begin(struct host *h, bool claim) {
        const struct registry_open open = {.listener = {.on_begin = on_begin,
                                                   .on_record = on_record,
                                                   .on_gone = on_gone,
                                                   .on_value = on_value,
                                                   .on_listed = on_listed,
                                                   .on_lost = on_lost,
                                                   .userdata = h},
                .claim = claim,
                .known = h->known,
                .done = on_opened,
                .userdata = h};

        h->opened = h->listed = false;
        registry_open(h->registry, h->ds, &open);
        assert_false(h->opened);
}

static bool is_opened(void *userdata) {
        return ((struct host *)userdata)->opened;
}

static int host_open(struct host *h, bool claim) {
        if (!h->registry)
                host_new(h);
        host_begin(h, claim);
        wait_until(is_opened, h);
        assert_true(h->listed || h->result < 0);
        return h->result;
}

static void on_closed(void *userdata) {
        ((struct host *)userdata)->closed = true;
}

static bool is_closed(void *userdata) {
        return ((struct host *)userdata)->closed;
}

static void host_close(struct host *h) {
        if (!h->registry)
                return;
        h->closed = false;
        registry_close(h->registry, on_closed, h);
        wait_until(is_closed, h);
        registry_free(h->registry);
        h->registry = NULL;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

static void host_done(struct host *h) {
        host_close(h);
        datastore_close(h->ds, NSEC_PER_SEC);
        forget(h);
        nftw(h->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void on_written(struct registry_write *w, int result, const char *reason) {
        struct host *h = container_of(w, struct host, write);

        h->result = result;
        snprintf(h->reason, sizeof(h->reason), "%s", reason);
        h->written = true;
}

static bool is_written(void *userdata) {
        return ((struct host *)userdata)->written;
}

static void write_begin(struct host *h, struct registry_record *record, bool remove_it) {
        h->written = false;
        h->write = (struct registry_write){.record = record, .remove = remove_it, .done = on_written};
        registry_write(h->registry, &h->write);
}

static int write_record(struct host *h, struct registry_record *record, bool remove_it) {
        write_begin(h, record, remove_it);
        wait_until(is_written, h);
        return h->result;
}

static void on_put(struct registry_put *p, int result, const char *reason) {
        struct host *h = container_of(p, struct host, put);

        h->result = result;
        snprintf(h->reason, sizeof(h->reason), "%s", reason);
        h->written = true;
}

static int put_if(struct host *h, const char *key, const char *value, const struct compare *condition) {
        h->written = false;
        h->put = (struct registry_put){
                .key = key, .value = value, .conditions = condition, .n_conditions = condition != NULL, .done = on_put};
        registry_put(h->registry, &h->put);
        wait_until(is_written, h);
        return h->result;
}

static int put(struct host *h, const char *key, const char *value) {
        return put_if(h, key, value, NULL);
}

static struct registry_record *record_new(const char *name) {
        struct registry_record *record = new0(struct registry_record);

        record->name = strdup(name);
        record->datastore = strdup("shared");
        record->source = strdup("stokectl");
        record->host = strdup("");
        record->host_name = strdup("");
        uuid_make(record->incarnation);
        record->created = 1700000000;
        return record;
}

/* ---- the datastore itself */

static struct stoke_session *session_new(struct stoke_store **ret_store, struct stoke_call *call) {
        static const struct stoke_setting settings[] = {{"instance", INSTANCE}};
        const struct stoke_datastore datastore = {
                .size = sizeof(datastore), .name = "d", .settings = settings, .n_settings = 1};
        struct stoke_session *session = NULL;

        assert_int_equal(stoke_driver.open(&datastore, NULL, call, ret_store), 0);
        assert_int_equal(stoke_driver.connect(*ret_store, NULL, call, &session), 0);
        return session;
}

static int count_one(void *userdata, const struct stoke_keyspace_info *info) {
        *(unsigned *)userdata += strcmp(info->name, REGISTRY_KEYSPACE) == 0;
        return 0;
}

/* Does as a daemon that died after some of its steps would have left it. */
enum step { STEP_GOVERNOR = 1, STEP_SETTLED, STEP_CREATED, STEP_MARKED };
static void leave_behind(enum step step, struct governor *g) {
        char reason[256] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = clock_now_ns() + NSEC_PER_SEC,
                .reason = reason,
                .reason_size = sizeof(reason)};
        struct stoke_keyspace keyspace = {.name = REGISTRY_KEYSPACE};
        struct stoke_record first;
        struct stoke_store *store;
        struct stoke_session *session = session_new(&store, &call);

        *g = (struct governor){.deed = GOVERNOR_SETTLE, .wanted = {.home = true}};
        uuid_make(g->daemon);
        uuid_make(g->wanted.id);
        uuid_make(g->wanted.incarnation);
        memcpy(keyspace.incarnation, g->wanted.incarnation, 16);
        assert_int_equal(governor_create(&stoke_driver, session, &call, g->daemon), 0);
        if (step >= STEP_SETTLED)
                assert_int_equal(governor_run(&stoke_driver, session, &call, g), 0);
        if (step == STEP_CREATED) {
                keyspace_first_record(g->daemon, &first);
                assert_int_equal(stoke_driver.create(session, &keyspace, &first, &call), 0);
        }
        if (step >= STEP_MARKED) {
                g->deed = GOVERNOR_CREATED;
                g->wanted.created = true;
                assert_int_equal(governor_run(&stoke_driver, session, &call, g), 0);
        }
        stoke_driver.disconnect(session);
        stoke_driver.close(store);
}

static unsigned count_registries(void) {
        char reason[256] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = clock_now_ns() + NSEC_PER_SEC,
                .reason = reason,
                .reason_size = sizeof(reason)};
        struct stoke_store *store;
        struct stoke_session *session = session_new(&store, &call);
        unsigned n = 0;

        assert_int_equal(stoke_driver.list(session, &call, count_one, &n), 0);
        stoke_driver.disconnect(session);
        stoke_driver.close(store);
        return n;
}

static int setup(void **state) {
        (void)state;
        log_open();
        log_set_level(getenv("STOKE_TEST_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
        memory_reset(INSTANCE);
        return loop_new("main", &loop);
}

static int teardown(void **state) {
        (void)state;
        loop_free(loop);
        return 0;
}

/* ---- */

struct all {
        struct host *hosts;
        size_t n_hosts;
};

static bool all_opened(void *userdata) {
        const struct all *all = userdata;

        for (size_t i = 0; i < all->n_hosts; i++)
                if (!all->hosts[i].opened)
                        return false;
        return true;
}

/* Many daemons start at the same moment on an empty datastore. */
static void start_together(struct host *hosts, size_t n_hosts, bool is_faulty) {
        struct all all = {hosts, n_hosts};

        for (size_t i = 0; i < n_hosts; i++) {
                host_init(&hosts[i]);
                host_new(&hosts[i]);
        }
        for (size_t i = 0; i < n_hosts; i++)
                host_begin(&hosts[i], false);
        for (bool again = true; again;) {
                wait_until(all_opened, &all);
                again = false;
                for (size_t i = 0; i < n_hosts; i++) {
                        if (hosts[i].result == 0)
                                continue;
                        if (!is_faulty)
                                fail_msg("%s", hosts[i].reason);
                        again = true; /* as the fleet does */
                        host_begin(&hosts[i], false);
                }
        }
        for (size_t i = 0; i < n_hosts; i++) {
                assert_string_equal(registry_id(hosts[i].registry), registry_id(hosts[0].registry));
                assert_memory_equal(
                        registry_incarnation(hosts[i].registry), registry_incarnation(hosts[0].registry), 16);
        }
        memory_set_faults(INSTANCE, NULL);
        assert_int_equal(count_registries(), 1);
}

static void test_one_registry_for_all(void **state) {
        struct host hosts[5];

        (void)state;
        for (unsigned i = 0; i < 10; i++) {
                memory_reset(INSTANCE);
                start_together(hosts, n_elements(hosts), false);
                for (size_t k = 0; k < n_elements(hosts); k++)
                        host_done(&hosts[k]);
        }
}

static void test_one_registry_over_faults(void **state) {
        struct host hosts[4];

        (void)state;
        for (unsigned i = 0; i < 10; i++) {
                const struct memory_faults faults = {.stale = 0.1,
                        .unknown_landed = 0.1,
                        .unknown_lost = 0.1,
                        .unknown_late = 0.1,
                        .fail_load = 0.1,
                        .late_after = 1 + i % 4};

                memory_reset(INSTANCE);
                memory_set_faults(INSTANCE, &faults);
                start_together(hosts, n_elements(hosts), true);
                for (size_t k = 0; k < n_elements(hosts); k++)
                        host_done(&hosts[k]);
        }
}

/* The daemon that was making it died after each of its steps; another goes on, and is of the same registry. */
static void test_first_start_is_finished(void **state) {
        (void)state;
        for (enum step step = STEP_GOVERNOR; step <= STEP_CREATED; step++) {
                char expected[UUID_TEXT_SIZE];
                struct governor g;
                struct host h;

                memory_reset(INSTANCE);
                leave_behind(step, &g);
                uuid_print(g.wanted.id, expected);
                host_init(&h);
                assert_int_equal(host_open(&h, false), 0);
                if (step >= STEP_SETTLED)
                        assert_string_equal(registry_id(h.registry), expected);
                assert_int_equal(count_registries(), 1);
                host_done(&h);
        }
}

/* It was made, and is not there (a database that was restored in part): that is said, and no empty one is made. */
static void test_never_made_anew(void **state) {
        struct governor g;
        struct host h;

        (void)state;
        leave_behind(STEP_MARKED, &g);
        host_init(&h);
        assert_true(host_open(&h, false) < 0);
        assert_non_null(strstr(h.reason, "no keyspace of this incarnation"));
        assert_int_equal(count_registries(), 0);
        host_done(&h);

        /* The same where the governor has gone too, and only the host knows. */
        memory_reset(INSTANCE);
        host_init(&h);
        assert_int_equal(host_open(&h, false), 0);
        host_close(&h);
        memory_reset(INSTANCE);
        assert_true(host_open(&h, false) < 0);
        assert_int_equal(count_registries(), 0);
        host_done(&h);
}

/* A host that loses its file joins again; one that belongs to another registry stays out until it claims the datastore. */
static void test_other_registry_is_refused(void **state) {
        struct host a, b;
        char id[UUID_TEXT_SIZE], *path;
        struct registry_record *record = record_new("t");

        (void)state;
        host_init(&a);
        host_init(&b);
        assert_int_equal(host_open(&a, false), 0);
        assert_int_equal(write_record(&a, record, false), 0);
        strcpy(id, registry_id(a.registry));
        host_close(&a);
        assert_true(asprintf(&path, "%s/registry.json", a.dir) > 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(host_open(&a, false), 0);
        assert_string_equal(registry_id(a.registry), id);
        assert_int_equal(a.n_records, 1);
        host_close(&a);

        /* b's datastore is another one, whose place is taken by a's. */
        memory_reset(INSTANCE);
        assert_int_equal(host_open(&b, false), 0);
        assert_string_not_equal(registry_id(b.registry), id);
        assert_int_equal(host_open(&a, false), -EPERM);
        assert_non_null(strstr(a.reason, registry_id(b.registry)));
        assert_non_null(strstr(a.reason, "stokectl datastore claim shared"));
        host_close(&a);
        assert_int_equal(host_open(&a, false), -EPERM); /* after a restart too */

        /* Its own registry is not there; the claim is heard all the same, and says so. */
        assert_true(host_open(&a, true) < 0);
        assert_non_null(strstr(a.reason, "no keyspace of this incarnation"));
        host_close(&b);
        assert_int_equal(host_open(&b, false), -EPERM);
        assert_int_equal(host_open(&b, true), 0);
        host_done(&a);
        host_done(&b);
        registry_record_free(record);
        free(path);
}

static bool sees_t(void *userdata) {
        return find(userdata, "t");
}

static bool sees_ready(void *userdata) {
        struct registry_record **t = find(userdata, "t");

        return t && (*t)->phase == REGISTRY_READY;
}

static bool sees_no_t(void *userdata) {
        return !find(userdata, "t");
}

static bool sees_value(void *userdata) {
        return strcmp(((struct host *)userdata)->value, "hello") == 0;
}

static bool sees_value_gone(void *userdata) {
        return strcmp(((struct host *)userdata)->value, "gone") == 0;
}

static void test_others_are_followed(void **state) {
        struct registry_record *record = record_new("t");
        struct host a, b;

        (void)state;
        host_init(&a);
        host_init(&b);
        assert_int_equal(host_open(&a, false), 0);
        assert_int_equal(host_open(&b, false), 0);
        assert_int_equal(write_record(&a, record, false), 0);
        wait_until(sees_t, &b);
        wait_until(sees_t, &a);
        record->phase = REGISTRY_READY;
        record->host[0] = '\0';
        assert_int_equal(write_record(&a, record, false), 0);
        wait_until(sees_ready, &b);
        assert_memory_equal(get(&b, "t")->incarnation, record->incarnation, 16);
        assert_int_equal(get(&b, "t")->mod_revision, record->mod_revision);
        assert_int_equal(put(&b, "/meta/x", "hello"), 0);
        wait_until(sees_value, &a);
        assert_int_equal(put(&b, "/meta/x", NULL), 0);
        wait_until(sees_value_gone, &a);
        assert_int_equal(write_record(&a, record, true), 0);
        wait_until(sees_no_t, &b);
        assert_int_equal(b.n_listings, 1);
        host_done(&a);
        host_done(&b);
        registry_record_free(record);
}

/* Of two changes of one record one is refused, and its writer is given the other. */
static void test_conflicts(void **state) {
        struct registry_record *mine = record_new("t"), *theirs = record_new("t"), *newer;
        struct host a, b;

        (void)state;
        host_init(&a);
        host_init(&b);
        assert_int_equal(host_open(&a, false), 0);
        assert_int_equal(host_open(&b, false), 0);
        for (unsigned i = 0; i < 50; i++) {
                struct host *winner, *loser;

                mine->mod_revision = theirs->mod_revision = 0;
                write_begin(&a, mine, false);
                write_begin(&b, theirs, false);
                wait_until(is_written, &a);
                wait_until(is_written, &b);
                winner = a.result == 0 ? &a : &b;
                loser = a.result == 0 ? &b : &a;
                assert_int_equal(winner->result, 0);
                assert_int_equal(loser->result, -ESTALE);
                assert_non_null(loser->write.newer);
                assert_memory_equal(loser->write.newer->incarnation, winner->write.record->incarnation, 16);
                assert_int_equal(loser->write.newer->mod_revision, winner->write.record->mod_revision);
                /* With what it was given it goes on. */
                newer = steal(loser->write.newer);
                assert_int_equal(write_record(loser, newer, true), 0);
                registry_record_free(newer);
                wait_until(sees_no_t, &a);
                wait_until(sees_no_t, &b);
        }
        host_done(&a);
        host_done(&b);
        registry_record_free(mine);
        registry_record_free(theirs);
}

static void test_formats(void **state) {
        struct registry_record *record = record_new("t");
        struct host old, new;

        (void)state;
        host_init(&old);
        host_init(&new);
        assert_int_equal(host_open(&old, false), 0);
        assert_int_equal(registry_format(old.registry), 1);
        assert_int_equal(write_record(&old, record, false), 0);

        new.formats = (struct format_range){1, 2};
        assert_int_equal(host_open(&new, false), 0);
        assert_int_equal(registry_format(new.registry), 1); /* until it is put in use */
        assert_int_equal(new.n_records, 1);
        assert_int_equal(new.records[0]->format, 1);
        assert_int_equal(put(&new, REGISTRY_FORMAT_KEY, "2"), 0);
        host_close(&new);
        assert_int_equal(host_open(&new, false), 0);
        assert_int_equal(registry_format(new.registry), 2);
        record->phase = REGISTRY_READY;
        assert_int_equal(write_record(&new, record, false), 0);

        host_close(&old);
        assert_int_equal(host_open(&old, false), -EPROTONOSUPPORT);
        assert_non_null(strstr(old.reason, "format in use is 2"));
        host_close(&new);
        assert_int_equal(host_open(&new, false), 0);
        assert_int_equal(new.records[0]->format, 2);
        host_close(&new);

        /* The one after the next. */
        new.formats = (struct format_range){3, 4};
        assert_int_equal(host_open(&new, false), -EPROTONOSUPPORT);
        host_done(&old);
        host_done(&new);
        registry_record_free(record);
}

/* What an upgrade stands on: the format is raised only if no daemon has come since it was looked, and a daemon comes only if it has not been raised. */
static void test_guards(void **state) {
        static const struct key_range daemons = {
                {(const uint8_t *)REGISTRY_DAEMONS_PREFIX, sizeof(REGISTRY_DAEMONS_PREFIX) - 1},
                {(const uint8_t *)REGISTRY_DAEMONS_END, sizeof(REGISTRY_DAEMONS_END) - 1}};
        struct compare nobody_new = {.result = COMPARE_LESS, .target = COMPARE_MOD, .range = daemons};
        struct compare same = {.result = COMPARE_EQUAL,
                .target = COMPARE_MOD,
                .range = {.key = {(const uint8_t *)REGISTRY_FORMAT_KEY, sizeof(REGISTRY_FORMAT_KEY) - 1}}};
        struct host a, b;
        int64_t format;

        (void)state;
        host_init(&a);
        host_init(&b);
        a.formats = b.formats = (struct format_range){1, 9};
        assert_int_equal(host_open(&a, false), 0);
        assert_int_equal(host_open(&b, false), 0);
        assert_int_equal(put(&a, REGISTRY_FORMAT_KEY, "8"), 0);
        format = a.put.mod_revision;

        nobody_new.number = registry_revision(a.registry) + 2;
        assert_int_equal(put_if(&a, REGISTRY_FORMAT_KEY, "7", &nobody_new), 0); /* there is nobody at all */
        format = a.put.mod_revision;
        assert_int_equal(put(&b, "/daemons/b", "x"), 0);
        nobody_new.number = b.put.mod_revision; /* as it was just before */
        assert_int_equal(put_if(&a, REGISTRY_FORMAT_KEY, "9", &nobody_new), -ESTALE);
        assert_int_equal(a.put.mod_revision, format);
        nobody_new.number = b.put.mod_revision + 1;
        assert_int_equal(put_if(&a, REGISTRY_FORMAT_KEY, "9", &nobody_new), 0);
        same.number = format;
        format = a.put.mod_revision;
        assert_int_equal(put_if(&b, "/daemons/c", "x", &same), -ESTALE);
        assert_int_equal(b.put.mod_revision, 0);
        same.number = format;
        assert_int_equal(put_if(&b, "/daemons/c", "x", &same), 0);
        /* Again, as after an outcome that was not known: it has landed. */
        same.number = 1;
        assert_int_equal(put_if(&b, "/daemons/c", "x", &same), 0);
        host_done(&a);
        host_done(&b);
}

static bool is_lost(void *userdata) {
        return strncmp(((struct host *)userdata)->reason, "lost: ", 6) == 0;
}

/* A backup is restored. Whoever runs notices, and whoever starts and has known more; an operator may have it taken as it is. */
static void test_gone_back(void **state) {
        struct registry_record *early = record_new("early"), *late = record_new("late");
        struct host a;

        (void)state;
        host_init(&a);
        assert_int_equal(host_open(&a, false), 0);
        assert_int_equal(write_record(&a, early, false), 0);
        assert_int_equal(write_record(&a, late, false), 0);
        a.known = registry_known(a.registry);
        assert_true(a.known.end.seq > 3);
        memory_forget(INSTANCE, REGISTRY_KEYSPACE, 1);
        wait_until(is_lost, &a);

        /* While it runs, and after a restart. */
        assert_int_equal(host_open(&a, false), -EBADMSG);
        assert_non_null(strstr(a.reason, "was known to record"));
        host_close(&a);
        assert_int_equal(host_open(&a, false), -EBADMSG);
        a.known = (struct keyspace_known){};
        assert_int_equal(host_open(&a, false), 0);
        assert_int_equal(a.n_records, 1);
        assert_string_equal(a.records[0]->name, "early");
        late->mod_revision = 0;
        assert_int_equal(write_record(&a, late, false), 0);
        host_done(&a);
        registry_record_free(early);
        registry_record_free(late);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_one_registry_for_all, setup, teardown),
                cmocka_unit_test_setup_teardown(test_one_registry_over_faults, setup, teardown),
                cmocka_unit_test_setup_teardown(test_first_start_is_finished, setup, teardown),
                cmocka_unit_test_setup_teardown(test_never_made_anew, setup, teardown),
                cmocka_unit_test_setup_teardown(test_other_registry_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_others_are_followed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_conflicts, setup, teardown),
                cmocka_unit_test_setup_teardown(test_formats, setup, teardown),
                cmocka_unit_test_setup_teardown(test_guards, setup, teardown),
                cmocka_unit_test_setup_teardown(test_gone_back, setup, teardown),
        };

        return cmocka_run_group_tests_name("fleet-shared-registry", tests, NULL, NULL);
}
