#include "engine.h"

#include <dirent.h>
#include <unistd.h>

#include "base/log.h"

static __thread bool flag_done;

struct stopper {
        struct loop_timer timer;
        struct loop *loop;
        bool *flag;
        uint64_t until_ns;
};

static void on_stop_time(struct loop_timer *timer) {
        struct stopper *s = container_of(timer, struct stopper, timer);

        if (clock_now_ns() >= s->until_ns || (s->flag && *s->flag))
                loop_stop(s->loop);
        else
                loop_timer_set(s->loop, timer, clock_now_ns() + 200 * NSEC_PER_USEC);
}

void engine_run(struct engine *e, uint64_t ms, bool *flag) {
        struct stopper s = {.loop = e->loop, .flag = flag, .until_ns = clock_now_ns() + ms * NSEC_PER_MSEC};

        s.timer.on_time = on_stop_time;
        loop_timer_set(e->loop, &s.timer, clock_now_ns() + 100 * NSEC_PER_USEC);
        loop_run(e->loop);
        loop_timer_clear(&s.timer);
}

static void wait_for(struct engine *e, bool *flag) {
        engine_run(e, 30000, flag);
        assert_true(*flag);
}

struct create_job {
        struct datastore_job job;
        struct stoke_keyspace name;
        struct stoke_record first;
        bool done;
};

static int create_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct create_job *j = container_of(job, struct create_job, job);

        return datastore_driver(job->ds)->create(session, &j->name, &j->first, call);
}

static void create_done(struct datastore_job *job) {
        container_of(job, struct create_job, job)->done = true;
}

void engine_create(struct engine *e, const char *name) {
        struct create_job create = {};

        create.name.name = name;
        memcpy(create.name.incarnation, e->incarnation, sizeof(e->incarnation));
        keyspace_first_record(e->incarnation, &create.first);
        create.job.class = JOB_BULK;
        create.job.keyspace = &create.name;
        create.job.deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC;
        create.job.loop = e->loop;
        create.job.run = create_run;
        create.job.done = create_done;
        datastore_submit(e->datastore, &create.job);
        wait_for(e, &create.done);
        assert_int_equal(create.job.result, 0);
}

struct datastore *engine_datastore(struct engine *e, const struct plugin *plugin, const char *const *settings) {
        struct stoke_setting list[8];
        struct datastore_config config = {.name = "test", .settings = list, .plugin = plugin ? plugin : &e->plugin};
        cleanup(error_done) struct error err = {};
        struct datastore *ds = NULL;

        for (; settings[config.n_settings * 2]; config.n_settings++)
                list[config.n_settings] =
                        (struct stoke_setting){settings[config.n_settings * 2], settings[config.n_settings * 2 + 1]};
        if (datastore_open(&config, &ds, &err) < 0)
                fail_msg("%s", error_text(&err));
        return ds;
}

void engine_open(struct engine *e, const struct stoke_driver *driver, const char *const *settings, size_t cache_bytes) {
        if (getenv("STOKEHOLD_TEST_LOG"))
                log_set_level(LOG_LEVEL_DEBUG);
        else
                log_set_level(LOG_LEVEL_ERROR);
        e->plugin = (struct plugin){.driver = driver, .allowed = true};
        assert_int_equal(loop_new("test", &e->loop), 0);
        e->cache = value_cache_new(cache_bytes, e->memory, e->loop);
        e->datastore = engine_datastore(e, NULL, settings);
        memset(e->incarnation, 7, sizeof(e->incarnation));

        engine_create(e, "t");
}

void engine_close(struct engine *e) {
        if (e->n_open) {
                print_message("# a test ended with %u keyspaces open: its remains are left\n", e->n_open);
                return;
        }
        datastore_close(e->datastore, 5 * NSEC_PER_SEC);
        value_cache_free(e->cache);
        loop_free(e->loop);
}

struct keyspace *engine_keyspace(struct engine *e, uint8_t daemon) {
        return engine_keyspace_named(e, "t", daemon);
}

struct keyspace *engine_keyspace_named(struct engine *e, const char *name, uint8_t daemon) {
        struct keyspace_config config = {
                .name = name,
                .datastore = e->datastore,
                .loop = e->loop,
                .cache = e->cache,
                .auto_compact_ns = e->auto_compact_ns,
                .quota_bytes = e->quota_bytes,
                .known = e->known,
                .recover_above = e->recover_above,
                .idle_close_ns = e->idle_close_ns,
                .limits = e->limits,
                .memory = e->memory,
                .on_sealed = e->on_sealed,
                .userdata = e->userdata,
        };
        struct keyspace *ks;

        memcpy(config.incarnation, e->incarnation, sizeof(e->incarnation));
        memcpy(config.recovery, e->recovery, sizeof(config.recovery));
        memset(config.daemon, daemon, sizeof(config.daemon));
        assert_int_equal(keyspace_new(&config, &ks), 0);
        e->n_open++;
        return ks;
}

static void on_closed(void *userdata) {
        *(bool *)userdata = true;
}

void engine_keyspace_close(struct engine *e, struct keyspace *ks) {
        bool closed = false;

        keyspace_close(ks, on_closed, &closed);
        wait_for(e, &closed);
        keyspace_free(ks);
        e->n_open--;
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        (void)result;
        flag_done = true;
}

static __thread enum keyspace_result last_result;
static void on_result(struct keyspace_call *call, enum keyspace_result result) {
        last_result = result;
        on_done(call, result);
}

static void copy_kv(struct answer *a, const struct kv *kv) {
        size_t i = a->n_kvs++;

        if (i >= n_elements(a->kvs))
                return;
        (void)snprintf(a->kvs[i].key, sizeof(a->kvs[i].key), "%.*s", (int)kv->key.size, (const char *)kv->key.data);
        (void)snprintf(a->kvs[i].value, sizeof(a->kvs[i].value), "%.*s", (int)blob_bytes(kv->value).size,
                (const char *)blob_bytes(kv->value).data);
        a->kvs[i].create = kv->create_revision;
        a->kvs[i].mod = kv->mod_revision;
        a->kvs[i].version = kv->version;
        a->kvs[i].lease = kv->lease;
}

struct answer engine_txn(struct engine *e, struct keyspace *ks, const struct txn *txn) {
        struct txn_call c = {.txn = txn};
        struct answer a = {};
        struct arena arena;

        arena_init(&arena, 0);
        c.call.arena = &arena;
        c.call.done = on_result;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        flag_done = false;
        keyspace_txn(ks, &c);
        assert_false(flag_done);
        wait_for(e, &flag_done);
        a.result = last_result;
        a.revision = c.call.revision;
        a.succeeded = c.result.succeeded;
        for (size_t i = 0; i < c.result.n_results; i++) {
                struct op_result *r = &c.result.results[i];

                if (r->kind == OP_RANGE) {
                        a.count = r->range.count;
                        a.more = r->range.more;
                        for (size_t j = 0; j < r->range.n_kvs; j++)
                                copy_kv(&a, &r->range.kvs[j]);
                } else if (r->kind == OP_PUT && r->put.prev)
                        copy_kv(&a, r->put.prev);
                else if (r->kind == OP_DELETE) {
                        a.deleted += r->delete.deleted;
                        for (size_t j = 0; j < r->delete.n_prev; j++)
                                copy_kv(&a, &r->delete.prev[j]);
                }
        }
        txn_result_release(&c);
        arena_done(&arena);
        return a;
}

struct answer engine_put_lease(
        struct engine *e, struct keyspace *ks, const char *key, const char *value, int64_t lease) {
        struct txn_op op = {.kind = OP_PUT,
                .put = {.key = bytes_of_string(key), .value = bytes_of_string(value), .lease = lease, .prev_kv = true}};
        struct txn txn = {.success = &op, .n_success = 1};

        return engine_txn(e, ks, &txn);
}

struct answer engine_put(struct engine *e, struct keyspace *ks, const char *key, const char *value) {
        return engine_put_lease(e, ks, key, value, 0);
}

struct answer engine_delete(struct engine *e, struct keyspace *ks, const char *key, const char *end) {
        struct txn_op op = {.kind = OP_DELETE,
                .delete = {.range = {bytes_of_string(key), end ? bytes_of_string(end) : (struct bytes){}},
                        .prev_kv = true}};
        struct txn txn = {.success = &op, .n_success = 1};

        return engine_txn(e, ks, &txn);
}

struct answer engine_put_if(struct engine *e, struct keyspace *ks, const char *key, int64_t mod, const char *value) {
        struct compare compare = {
                .result = COMPARE_EQUAL, .target = COMPARE_MOD, .range = {.key = bytes_of_string(key)}, .number = mod};
        struct txn_op put = {.kind = OP_PUT, .put = {.key = bytes_of_string(key), .value = bytes_of_string(value)}};
        struct txn_op get = {.kind = OP_RANGE, .range = {.range = {.key = bytes_of_string(key)}}};
        struct txn txn = {&compare, 1, &put, &get, 1, 1};

        return engine_txn(e, ks, &txn);
}

struct range_and_answer {
        struct range_call call;
        struct answer *answer;
};

static bool on_slice(struct range_call *call, const struct kv *kvs, size_t n) {
        struct range_and_answer *r = container_of(call, struct range_and_answer, call);

        for (size_t i = 0; i < n; i++)
                copy_kv(r->answer, &kvs[i]);
        return true;
}

struct answer engine_range(struct engine *e, struct keyspace *ks, const struct range_request *request) {
        struct answer a = {};
        struct range_and_answer c = {.answer = &a, .call = {.request = *request, .on_slice = on_slice}};
        struct arena arena;

        arena_init(&arena, 0);
        c.call.call.arena = &arena;
        c.call.call.done = on_result;
        c.call.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        flag_done = false;
        keyspace_range(ks, &c.call);
        assert_false(flag_done);
        wait_for(e, &flag_done);
        a.result = last_result;
        a.revision = c.call.call.revision;
        a.count = c.call.count;
        a.more = c.call.more;
        arena_done(&arena);
        return a;
}

struct answer engine_get(struct engine *e, struct keyspace *ks, const char *key) {
        struct range_request r = {.range = {.key = bytes_of_string(key)}};

        return engine_range(e, ks, &r);
}

struct key_range engine_prefix(const char *prefix, char *end, size_t size) {
        size_t n = strlen(prefix);

        assert_true(n && n < size);
        memcpy(end, prefix, n + 1);
        end[n - 1]++;
        return (struct key_range){bytes_of_string(prefix), bytes_of_string(end)};
}

struct answer engine_list(struct engine *e, struct keyspace *ks, const char *prefix, int64_t revision, int64_t limit) {
        char end[64];
        struct range_request r = {
                .range = engine_prefix(prefix, end, sizeof(end)), .revision = revision, .limit = limit};

        return engine_range(e, ks, &r);
}

enum keyspace_result engine_grant(struct engine *e, struct keyspace *ks, int64_t id, int64_t ttl) {
        struct lease_call c = {.id = id, .ttl = ttl};

        c.call.done = on_result;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        flag_done = false;
        keyspace_lease_grant(ks, &c);
        wait_for(e, &flag_done);
        return last_result;
}

static enum keyspace_result lease(
        struct engine *e, struct keyspace *ks, int64_t id, void (*ask)(struct keyspace *ks, struct lease_call *call)) {
        struct lease_call c = {.id = id};

        c.call.done = on_result;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        flag_done = false;
        ask(ks, &c);
        wait_for(e, &flag_done);
        return last_result;
}

enum keyspace_result engine_revoke(struct engine *e, struct keyspace *ks, int64_t id) {
        return lease(e, ks, id, keyspace_lease_revoke);
}

enum keyspace_result engine_keep_alive(struct engine *e, struct keyspace *ks, int64_t id) {
        return lease(e, ks, id, keyspace_lease_keep_alive);
}

void engine_fill(struct engine *e, struct keyspace *ks, const char *prefix, size_t n) {
        static __thread char keys[1000][64];
        static __thread struct txn_op ops[1000];

        for (size_t first = 0; first < n; first += n_elements(ops)) {
                struct txn txn = {.success = ops, .n_success = min_of(n - first, n_elements(ops))};

                for (size_t i = 0; i < txn.n_success; i++) {
                        (void)snprintf(keys[i], sizeof(keys[i]), "%s%05zu", prefix, first + i);
                        ops[i] = (struct txn_op){.kind = OP_PUT,
                                .put = {.key = bytes_of_string(keys[i]), .value = bytes_of_string(keys[i])}};
                }
                assert_int_equal(engine_txn(e, ks, &txn).result, KEYSPACE_OK);
        }
}

enum keyspace_result engine_compact(struct engine *e, struct keyspace *ks, int64_t revision) {
        struct compact_call c = {.revision_wanted = revision, .physical = true};

        c.call.done = on_result;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        flag_done = false;
        keyspace_compact(ks, &c);
        wait_for(e, &flag_done);
        return last_result;
}

static void record(struct recorder *r, const char *format, ...) printf_like(2, 3);
static void record(struct recorder *r, const char *format, ...) {
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(r->text + r->size, sizeof(r->text) - r->size, format, ap);
        va_end(ap);
        assert_true(n >= 0 && (size_t)n < sizeof(r->text) - r->size);
        r->size += (size_t)n;
}

static void on_created(void *userdata, int64_t revision) {
        struct recorder *r = userdata;

        r->created = true;
        r->revision = revision;
}

static bool on_events(void *userdata, struct watch_event *const *events, size_t n, int64_t revision) {
        struct recorder *r = userdata;

        assert_true(revision >= r->revision || r->n_events == 0);
        for (size_t i = 0; i < n; i++) {
                const struct watch_event *e = events[i];

                assert_true(e->kv.mod_revision <= revision);
                record(r, "%s %.*s%s%.*s", e->is_delete ? "delete" : "put", (int)e->kv.key.size,
                        (const char *)e->kv.key.data, e->is_delete ? "" : "=", (int)blob_bytes(e->kv.value).size,
                        (const char *)blob_bytes(e->kv.value).data);
                if (e->has_prev && r->prev) /* it may be there for others */
                        record(r, " (prev %.*s)", (int)blob_bytes(e->prev.value).size,
                                (const char *)blob_bytes(e->prev.value).data);
                record(r, "\n");
                r->n_events++;
        }
        r->revision = revision;
        return !r->slow;
}

static void on_synced(void *userdata, int64_t revision) {
        struct recorder *r = userdata;

        r->synced = true;
        r->revision = revision;
}

static void on_cancelled(void *userdata, enum keyspace_result result, int64_t compact_revision) {
        struct recorder *r = userdata;

        r->cancelled = true;
        r->result = result;
        r->compact_revision = compact_revision;
}

void engine_watch(
        struct engine *e, struct keyspace *ks, struct recorder *r, const char *prefix, int64_t start, bool prev) {
        char end[64];
        struct watcher_config config = {
                .range = engine_prefix(prefix, end, sizeof(end)),
                .start_revision = start,
                .prev_kv = prev,
                .userdata = r,
                .on_created = on_created,
                .on_events = on_events,
                .on_synced = on_synced,
                .on_cancelled = on_cancelled,
        };

        r->prev = prev;
        assert_int_equal(keyspace_watch(ks, &config, &r->watcher), 0);
        wait_for(e, &r->created);
}
