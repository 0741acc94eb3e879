/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a log is copied from one datastore to another: bench-copy SOURCE.so SETTING... to TARGET.so SETTING... [RECORDS]. Writes so many records
 * of 1 KiB (100,000) into the source, then copies them by a stream and an installation, as a migration does, and says how long that took, how much
 * memory it needed, and how long a commit at the source waited meanwhile. A SETTING is DIRECTORY or NAME=VALUE: endpoint, username, password, or one of the
 * driver's. A tool, not a test.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "keyspace/install.h"
#include "keyspace/keyspace.h"
#include "keyspace/record.h"

#define BATCH 200

struct side {
        struct plugin plugin;
        struct stoke_setting settings[16];
        const char *endpoints[4];
        size_t n_settings, n_endpoints;
        const char *username, *password;
        struct datastore *ds;
};

static struct loop *loop;
static int result;
static uint64_t commits_ns[100000];
static size_t n_commits;
static bool copying;

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size) {
        const struct side *s = userdata;
        const char *text = which == STOKE_SECRET_USERNAME ? s->username
                : which == STOKE_SECRET_PASSWORD          ? s->password
                                                          : NULL;

        (void)reason;
        (void)reason_size;
        if (!text)
                return -ENOENT;
        visit(visitor, text, strlen(text));
        return 0;
}

static void die(const char *what, const char *why) {
        fprintf(stderr, "%s: %s\n", what, why);
        exit(1);
}

static void open_side(struct side *s, const char *name) {
        struct datastore_config c = {.name = name,
                .plugin = &s->plugin,
                .endpoints = s->endpoints,
                .n_endpoints = s->n_endpoints,
                .settings = s->settings,
                .n_settings = s->n_settings,
                .secret = on_secret,
                .secret_userdata = s};
        struct error err = {};
        void *handle = dlopen(s->plugin.path, RTLD_NOW | RTLD_LOCAL);

        s->plugin.driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!s->plugin.driver)
                die(s->plugin.path, dlerror());
        if (datastore_open(&c, &s->ds, &err) < 0)
                die(name, error_text(&err));
}

struct create {
        struct datastore_job job;
        struct stoke_keyspace keyspace;
        struct stoke_record first;
};

static int create_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct create *c = container_of(job, struct create, job);

        return datastore_driver(job->ds)->create(session, &c->keyspace, &c->first, call);
}

static void on_created(struct datastore_job *job) {
        if (job->result != 0)
                die("create", job->reason);
        loop_stop(loop);
}

/* ---- writing: one transaction of BATCH puts after the other; while it is copied, of one */

struct writer {
        struct keyspace *ks;
        struct txn_call call;
        struct txn txn;
        struct txn_op ops[BATCH];
        char keys[BATCH][64];
        struct arena arena;
        uint8_t *value;
        size_t n, total;
        uint64_t begun_ns;
        struct loop_timer timer;
};

static void write_some(struct writer *w);

static void on_write_time(struct loop_timer *timer) {
        write_some(container_of(timer, struct writer, timer));
}

static void on_written(struct keyspace_call *call, enum keyspace_result r) {
        struct writer *w = container_of(container_of(call, struct txn_call, call), struct writer, call);

        if (r != KEYSPACE_OK)
                die("write", "failed");
        txn_result_release(&w->call);
        arena_done(&w->arena);
        if (copying) {
                if (n_commits < n_elements(commits_ns))
                        commits_ns[n_commits++] = clock_now_ns() - w->begun_ns;
                w->timer.on_time = on_write_time;
                loop_timer_set(loop, &w->timer, clock_now_ns() + 2 * NSEC_PER_MSEC);
        } else if (w->n < w->total)
                write_some(w);
        else
                loop_stop(loop);
}

static void write_some(struct writer *w) {
        size_t n = copying ? 1 : min_of(w->total - w->n, (size_t)BATCH);

        if (copying && w->txn.n_success == 0)
                return;
        for (size_t i = 0; i < n; i++) {
                (void)snprintf(w->keys[i], sizeof(w->keys[i]), "/registry/pods/default/%040zu", w->n++);
                w->ops[i] = (struct txn_op){.kind = OP_PUT,
                        .put = {.key = bytes_of_string(w->keys[i]), .value = bytes_of(w->value + w->n % 4096, 1024)}};
        }
        w->txn = (struct txn){.success = w->ops, .n_success = n};
        arena_init(&w->arena, 0);
        w->call = (struct txn_call){.txn = &w->txn};
        w->call.call.arena = &w->arena;
        w->call.call.done = on_written;
        w->call.call.deadline_ns = UINT64_MAX;
        w->begun_ns = clock_now_ns();
        keyspace_txn(w->ks, &w->call);
}

static void on_done(void *userdata, int r, const char *reason) {
        (void)userdata;
        if (r != 0)
                die("copy", reason);
        result = r;
        loop_stop(loop);
}

static void on_closed(void *userdata) {
        (void)userdata;
        loop_stop(loop);
}

static int compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static long memory_kib(void) {
        struct rusage usage;

        getrusage(RUSAGE_SELF, &usage);
        return usage.ru_maxrss;
}

int main(int argc, char **argv) {
        struct side sides[2] = {}, *side = sides;
        struct value_cache *cache;
        struct keyspace_config kc = {.name = "bench"};
        struct writer w = {.total = 100000};
        struct create create = {.keyspace.name = "bench"};
        struct pump_config pc = {};
        struct pump_status status;
        struct pump *pump;
        uint64_t begun, copied, committed;
        long before;
        int at = 0;

        for (int i = 1; i < argc; i++) {
                char *equals = strchr(argv[i], '=');

                if (strcmp(argv[i], "to") == 0 && side == sides) {
                        side++;
                        at = 0;
                        continue;
                }
                if (equals)
                        *equals++ = '\0';
                if (!equals && at == 0)
                        side->plugin = (struct plugin){.path = argv[i], .allowed = true};
                else if (!equals && argv[i][0] == '/')
                        side->settings[side->n_settings++] = (struct stoke_setting){"path", argv[i]};
                else if (!equals)
                        w.total = strtoul(argv[i], NULL, 10);
                else if (strcmp(argv[i], "endpoint") == 0)
                        side->endpoints[side->n_endpoints++] = equals;
                else if (strcmp(argv[i], "username") == 0)
                        side->username = equals;
                else if (strcmp(argv[i], "password") == 0)
                        side->password = equals;
                else
                        side->settings[side->n_settings++] = (struct stoke_setting){argv[i], equals};
                at++;
        }
        if (side == sides || !side->plugin.path)
                die("bench-copy", "SOURCE.so SETTING... to TARGET.so SETTING... [RECORDS]");
        if (loop_new("bench", &loop) < 0)
                die("loop", "none");
        open_side(&sides[0], "source");
        open_side(&sides[1], "target");
        w.value = xcalloc(1, 8192);
        for (size_t i = 0; i < 8192; i++)
                w.value[i] = (uint8_t)rand();
        for (size_t i = 0; i < 16; i++)
                kc.incarnation[i] = create.keyspace.incarnation[i] = (uint8_t)(clock_now_ns() >> i);
        memset(kc.daemon, 1, 16);
        keyspace_first_record(kc.daemon, &create.first);
        create.job = (struct datastore_job){.class = JOB_BULK,
                .keyspace = &create.keyspace,
                .own_scope = true,
                .deadline_ns = UINT64_MAX,
                .loop = loop,
                .run = create_run,
                .done = on_created};
        datastore_submit(sides[0].ds, &create.job);
        loop_run(loop);

        cache = value_cache_new(1 << 20, NULL, loop);
        kc.datastore = sides[0].ds;
        kc.loop = loop;
        kc.cache = cache;
        if (keyspace_new(&kc, &w.ks) < 0)
                die("keyspace", "none");
        write_some(&w);
        loop_run(loop);

        before = memory_kib();
        copying = true;
        write_some(&w);
        pc.source = (struct stream_config){.datastore = sides[0].ds, .name = "bench", .pinned = true};
        pc.target = (struct install_config){.datastore = sides[1].ds, .name = "bench"};
        memcpy(pc.source.incarnation, kc.incarnation, 16);
        memcpy(pc.target.incarnation, kc.incarnation, 16);
        pc.target.incarnation[0] ^= 0xff;
        memcpy(pc.target.id, pc.target.incarnation, 16);
        pc.loop = loop;
        pc.on_done = on_done;
        begun = clock_now_ns();
        if (pump_new(&pc, &pump) < 0)
                die("pump", "none");
        loop_run(loop);
        copied = clock_now_ns();
        pump_get_status(pump, &status);
        install_commit(pump_install(pump), status.seq, status.revision, on_done);
        loop_run(loop);
        committed = clock_now_ns();
        loop_timer_clear(&w.timer);
        qsort(commits_ns, n_commits, sizeof(commits_ns[0]), compare);
        printf("%llu records, %.1f MB in %.2f s: %.1f MB/s of keys and values; the commit took %.0f ms; %ld KiB more memory; %zu "
               "writes beside it: p50 %.1f p99 %.1f longest %.1f ms\n",
                (unsigned long long)status.n_records, (double)status.bytes / 1e6, (double)(copied - begun) / 1e9,
                (double)status.bytes / 1e6 / ((double)(copied - begun) / 1e9), (double)(committed - copied) / 1e6,
                memory_kib() - before, n_commits, n_commits ? (double)commits_ns[n_commits / 2] / 1e6 : 0,
                n_commits ? (double)commits_ns[n_commits * 99 / 100] / 1e6 : 0,
                n_commits ? (double)commits_ns[n_commits - 1] / 1e6 : 0);
        pump_free(pump);
        keyspace_cancel(&w.call.call);
        keyspace_close(w.ks, on_closed, NULL);
        loop_run(loop);
        keyspace_free(w.ks);
        datastore_close(sides[1].ds, NSEC_PER_SEC);
        datastore_close(sides[0].ds, NSEC_PER_SEC);
        value_cache_free(cache);
        loop_free(loop);
        free(w.value);
        return result;
}
