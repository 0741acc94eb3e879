/*
 * The engine over a real log: what etcd promises of revisions, transactions, ranges, leases, watches and compaction must
 * hold, and hold again after the keyspace was closed and opened. Run with the driver's file and its settings as arguments.
 */
#include "engine.h"

#include <dlfcn.h>
#include <unistd.h>

static const struct stoke_driver *driver;
static size_t cache_bytes = 64 << 20;

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"path", e->directory, NULL};

        strcpy(e->directory, "/tmp/stokehold-test-XXXXXX");
        assert_non_null(mkdtemp(e->directory));
        engine_open(e, driver, settings, cache_bytes);
        *state = e;
        return 0;
}

static int teardown(void **state) {
        struct engine *e = *state;
        cleanup(freep) char *command = NULL;

        engine_close(e);
        assert_true(asprintf(&command, "rm -rf '%s'", e->directory) > 0);
        assert_int_equal(system(command), 0);
        free(e);
        return 0;
}

static void writes_and_reads(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct answer a;

        a = engine_get(e, ks, "/a");
        assert_int_equal(a.result, KEYSPACE_OK);
        assert_int_equal(a.revision, 1);
        assert_int_equal(a.count, 0);

        a = engine_put_if(e, ks, "/a", 0, "one");
        assert_true(a.succeeded);
        assert_int_equal(a.revision, 2);
        a = engine_put_if(e, ks, "/a", 0, "again");
        assert_false(a.succeeded);
        assert_int_equal(a.revision, 2);
        assert_int_equal(a.n_kvs, 1);
        assert_string_equal(a.kvs[0].value, "one");
        a = engine_put_if(e, ks, "/a", 2, "two");
        assert_true(a.succeeded);
        assert_int_equal(a.revision, 3);

        a = engine_get(e, ks, "/a");
        assert_int_equal(a.n_kvs, 1);
        assert_int_equal(a.kvs[0].create, 2);
        assert_int_equal(a.kvs[0].mod, 3);
        assert_int_equal(a.kvs[0].version, 2);
        assert_string_equal(a.kvs[0].value, "two");

        a = engine_list(e, ks, "/", 2, 0);
        assert_int_equal(a.n_kvs, 1);
        assert_string_equal(a.kvs[0].value, "one");
        assert_int_equal(a.revision, 3);
        assert_int_equal(engine_list(e, ks, "/", 4, 0).result, KEYSPACE_FUTURE_REVISION);

        a = engine_delete(e, ks, "/a", NULL);
        assert_int_equal(a.deleted, 1);
        assert_int_equal(a.revision, 4);
        assert_string_equal(a.kvs[0].value, "two");
        a = engine_delete(e, ks, "/a", NULL);
        assert_int_equal(a.deleted, 0);
        assert_int_equal(a.revision, 4);
        a = engine_put(e, ks, "/a", "three");
        assert_int_equal(a.n_kvs, 0);
        a = engine_get(e, ks, "/a");
        assert_int_equal(a.kvs[0].create, 5);
        assert_int_equal(a.kvs[0].version, 1);
        engine_keyspace_close(e, ks);
}

static void pages(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct answer a;
        char key[32], end[32];
        struct range_request r = {.range = engine_prefix("/p/", end, sizeof(end))};

        for (int i = 0; i < 40; i++) {
                (void)snprintf(key, sizeof(key), "/p/%02d", i);
                engine_put(e, ks, key, "v");
        }
        a = engine_list(e, ks, "/p/", 0, 10);
        assert_int_equal(a.n_kvs, 10);
        assert_true(a.more);
        assert_int_equal(a.count, 40);
        engine_delete(e, ks, "/p/05", NULL);
        engine_put(e, ks, "/p/99", "late");
        /* The rest of the page, pinned to its revision. */
        r.range.key = bytes_of_string("/p/10");
        r.revision = a.revision;
        r.limit = 30;
        a = engine_range(e, ks, &r);
        assert_int_equal(a.n_kvs, 30);
        assert_false(a.more);
        assert_int_equal(a.count, 30);
        assert_string_equal(a.kvs[29].key, "/p/39");
        r.range.key = bytes_of_string("/p/");
        r.count_only = true;
        assert_int_equal(engine_range(e, ks, &r).count, 40);
        r.revision = 0;
        assert_int_equal(engine_range(e, ks, &r).count, 40);

        r = (struct range_request){.range = engine_prefix("/p/", end, sizeof(end)),
                .sort_target = SORT_MOD,
                .sort_order = SORT_DESCEND,
                .limit = 2};
        a = engine_range(e, ks, &r);
        assert_int_equal(a.n_kvs, 2);
        assert_string_equal(a.kvs[0].key, "/p/99");
        assert_true(a.more);
        r.sort_target = SORT_VALUE;
        r.sort_order = SORT_ASCEND;
        a = engine_range(e, ks, &r);
        assert_string_equal(a.kvs[0].key, "/p/99"); /* "late" < "v" */
        r.min_mod = 40;
        r.sort_target = SORT_KEY;
        a = engine_range(e, ks, &r);
        assert_int_equal(a.n_kvs, 2);
        assert_string_equal(a.kvs[0].key, "/p/38");
        assert_int_equal(a.count, 40);
        engine_keyspace_close(e, ks);
}

static void several_operations(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct txn_op inner_op = {
                .kind = OP_PUT, .put = {.key = bytes_of_string("/n"), .value = bytes_of_string("in")}};
        struct compare compare = {.result = COMPARE_EQUAL,
                .target = COMPARE_VALUE,
                .range = {.key = bytes_of_string("/x")},
                .value = bytes_of_string("1")};
        struct txn inner = {&compare, 1, &inner_op, NULL, 1, 0};
        char end[32];
        struct txn_op ops[] = {
                {.kind = OP_PUT, .put = {.key = bytes_of_string("/x"), .value = bytes_of_string("2")}},
                {.kind = OP_PUT, .put = {.key = bytes_of_string("/y"), .value = bytes_of_string("2")}},
                {.kind = OP_RANGE, .range = {.range = engine_prefix("/", end, sizeof(end))}},
                {.kind = OP_TXN, .txn = &inner},
        };
        struct txn txn = {&compare, 1, ops, NULL, n_elements(ops), 0};
        struct answer a;

        engine_put(e, ks, "/x", "1");
        a = engine_txn(e, ks, &txn);
        assert_true(a.succeeded);
        assert_int_equal(a.revision, 3);
        assert_int_equal(a.n_kvs, 2); /* reads its own writes */
        assert_string_equal(a.kvs[0].value, "2");
        assert_int_equal(a.kvs[1].mod, 3);
        /* The nested branch was chosen before anything was written. */
        a = engine_get(e, ks, "/n");
        assert_int_equal(a.n_kvs, 1);
        assert_int_equal(a.kvs[0].mod, 3);
        a = engine_txn(e, ks, &txn);
        assert_false(a.succeeded);
        assert_int_equal(a.revision, 3);
        engine_keyspace_close(e, ks);
}

static void survives_reopening(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct recorder *r = new0(struct recorder);
        struct answer a;

        engine_put(e, ks, "/a", "1");
        engine_put(e, ks, "/a", "2");
        engine_put(e, ks, "/b", "1");
        engine_delete(e, ks, "/b", NULL);
        engine_keyspace_close(e, ks);

        ks = engine_keyspace(e, 2);
        a = engine_list(e, ks, "/", 0, 0);
        assert_int_equal(a.revision, 5);
        assert_int_equal(a.n_kvs, 1);
        assert_int_equal(a.kvs[0].create, 2);
        assert_int_equal(a.kvs[0].version, 2);
        a = engine_list(e, ks, "/", 4, 0);
        assert_int_equal(a.n_kvs, 2);
        engine_watch(e, ks, r, "/", 2, true);
        engine_run(e, 5000, &r->synced);
        assert_string_equal(r->text, "put /a=1\nput /a=2 (prev 1)\nput /b=1\ndelete /b (prev 1)\n");
        watcher_free(r->watcher);
        free(r);
        engine_keyspace_close(e, ks);
}

static void watches(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct recorder *live = new0(struct recorder), *slow = new0(struct recorder), *future = new0(struct recorder);
        struct txn_op ops[] = {
                {.kind = OP_PUT, .put = {.key = bytes_of_string("/w/a"), .value = bytes_of_string("t")}},
                {.kind = OP_PUT, .put = {.key = bytes_of_string("/w/b"), .value = bytes_of_string("t")}},
        };
        struct txn txn = {NULL, 0, ops, NULL, 2, 0};

        engine_put(e, ks, "/w/a", "0");
        engine_watch(e, ks, live, "/w/", 0, true);
        engine_watch(e, ks, slow, "/w/", 0, false);
        engine_watch(e, ks, future, "/w/", 5, false);
        slow->slow = true;
        engine_put(e, ks, "/w/a", "1");
        engine_put(e, ks, "/elsewhere", "1");
        engine_txn(e, ks, &txn);
        engine_delete(e, ks, "/w/b", NULL);
        engine_run(e, 50, NULL);
        assert_string_equal(live->text, "put /w/a=1 (prev 0)\nput /w/a=t (prev 1)\nput /w/b=t\ndelete /w/b (prev t)\n");
        assert_int_equal(watcher_position(live->watcher), 6);
        assert_string_equal(slow->text, "put /w/a=1\n");
        assert_string_equal(future->text, "put /w/a=t\nput /w/b=t\ndelete /w/b\n");
        slow->slow = false;
        watcher_resume(slow->watcher);
        engine_run(e, 5000, &slow->synced);
        assert_string_equal(slow->text, "put /w/a=1\nput /w/a=t\nput /w/b=t\ndelete /w/b\n");
        watcher_free(live->watcher);
        engine_put(e, ks, "/w/c", "last");
        engine_run(e, 50, NULL);
        assert_int_equal(live->n_events, 4);
        assert_int_equal(slow->n_events, 5);
        engine_keyspace_close(e, ks);
        assert_true(slow->cancelled);
        assert_int_equal(slow->result, KEYSPACE_STOPPED);
        free(live);
        free(slow);
        free(future);
}

static void compaction(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct recorder *behind = new0(struct recorder), *at = new0(struct recorder);
        struct keyspace_status status;
        struct answer a;

        for (int i = 0; i < 5; i++)
                engine_put(e, ks, "/c/a", "x");
        engine_put(e, ks, "/c/gone", "x");
        engine_delete(e, ks, "/c/gone", NULL); /* revision 8 */
        engine_put(e, ks, "/c/b", "x");        /* 9 */
        engine_put(e, ks, "/c/b", "y");        /* 10 */
        assert_int_equal(engine_compact(e, ks, 11), KEYSPACE_FUTURE_REVISION);
        assert_int_equal(engine_compact(e, ks, 9), KEYSPACE_OK);
        assert_int_equal(engine_compact(e, ks, 9), KEYSPACE_COMPACTED);
        assert_int_equal(engine_list(e, ks, "/c/", 8, 0).result, KEYSPACE_COMPACTED);
        a = engine_list(e, ks, "/c/", 9, 0);
        assert_int_equal(a.n_kvs, 2);
        assert_string_equal(a.kvs[1].value, "x");
        engine_watch(e, ks, behind, "/c/", 5, false);
        engine_run(e, 5000, &behind->cancelled);
        assert_int_equal(behind->result, KEYSPACE_COMPACTED);
        assert_int_equal(behind->compact_revision, 9);
        engine_watch(e, ks, at, "/c/", 9, false);
        engine_run(e, 5000, &at->synced);
        assert_string_equal(at->text, "put /c/b=x\nput /c/b=y\n");
        watcher_free(at->watcher);
        watcher_free(behind->watcher);

        keyspace_get_status(ks, &status);
        assert_int_equal(status.n_keys, 2);
        assert_int_equal(status.n_versions, 3);
        assert_int_equal(engine_compact(e, ks, 10), KEYSPACE_OK);
        engine_keyspace_close(e, ks);

        /* What was deleted stays so, also the tombstone. */
        ks = engine_keyspace(e, 2);
        a = engine_list(e, ks, "/c/", 0, 0);
        assert_int_equal(a.n_kvs, 2);
        assert_int_equal(a.revision, 10);
        assert_int_equal(engine_list(e, ks, "/c/", 9, 0).result, KEYSPACE_COMPACTED);
        assert_int_equal(engine_get(e, ks, "/c/gone").count, 0);
        keyspace_get_status(ks, &status);
        assert_int_equal(status.compacted, 10);
        engine_put(e, ks, "/c/b", "z");
        assert_int_equal(engine_compact(e, ks, 11), KEYSPACE_OK);
        keyspace_get_status(ks, &status);
        assert_int_equal(status.n_versions, 2);
        engine_keyspace_close(e, ks);
        free(behind);
        free(at);
}

struct lease_answer {
        struct lease_call c;
        enum keyspace_result result;
        bool done;
};

static void on_lease(struct keyspace_call *call, enum keyspace_result result) {
        struct lease_answer *l = container_of(container_of(call, struct lease_call, call), struct lease_answer, c);

        l->result = result;
        l->done = true;
}

static struct lease_answer lease(struct engine *e, struct keyspace *ks,
        void (*f)(struct keyspace *ks, struct lease_call *call), int64_t id, int64_t ttl, struct arena *arena) {
        struct lease_answer l = {.c = {.id = id, .ttl = ttl, .with_keys = true}};

        l.c.call.done = on_lease;
        l.c.call.arena = arena;
        l.c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        f(ks, &l.c);
        engine_run(e, 20000, &l.done);
        assert_true(l.done);
        return l;
}

struct kept {
        struct lease_call calls[1500];
        struct arena arena;
        size_t n_done;
        bool done;
};
static struct kept kept;

static void on_kept(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        assert_int_equal(result, KEYSPACE_OK);
        kept.done = ++kept.n_done == n_elements(kept.calls);
}

static void keep_alive(struct engine *e, struct keyspace *ks, int64_t id, size_t n) {
        assert_int_equal(n, n_elements(kept.calls));
        kept = (struct kept){};
        arena_init(&kept.arena, 0);
        for (size_t i = 0; i < n; i++) {
                kept.calls[i] = (struct lease_call){
                        .call = {.done = on_kept, .arena = &kept.arena, .deadline_ns = UINT64_MAX}, .id = id};
                keyspace_lease_keep_alive(ks, &kept.calls[i]);
        }
        engine_run(e, 30000, &kept.done);
        assert_true(kept.done);
        arena_done(&kept.arena);
}

struct stat_job {
        struct datastore_job job;
        struct stoke_keyspace name;
        struct stoke_stat stat;
        bool done;
};

static int stat_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct stat_job *j = container_of(job, struct stat_job, job);

        return datastore_driver(job->ds)->stat(session, &j->name, call, &j->stat);
}

static void stat_done(struct datastore_job *job) {
        container_of(job, struct stat_job, job)->done = true;
}

/* In the datastore. */
static uint64_t n_records(struct engine *e) {
        struct stat_job j = {.name.name = "t", .stat.size = sizeof(j.stat)};

        memcpy(j.name.incarnation, e->incarnation, sizeof(j.name.incarnation));
        j.job = (struct datastore_job){.class = JOB_READ,
                .keyspace = &j.name,
                .deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC,
                .loop = e->loop,
                .run = stat_run,
                .done = stat_done};
        datastore_submit(e->datastore, &j.job);
        engine_run(e, 10000, &j.done);
        assert_int_equal(j.job.result, 0);
        return j.stat.n_records;
}

static void compacts_by_itself(void **state) {
        struct engine *e = *state;
        struct keyspace *ks;
        struct keyspace_status status;
        int64_t last = 0;

        e->auto_compact_ns = 1; /* a sample a second, at the shortest */
        ks = engine_keyspace(e, 1);
        for (int i = 0; i < 5; i++)
                last = engine_put(e, ks, "/auto", "x").revision;
        for (uint64_t end = clock_now_ns() + 40 * NSEC_PER_SEC; clock_now_ns() < end;) {
                keyspace_get_status(ks, &status);
                if (status.compacted == last)
                        break;
                engine_run(e, 100, NULL);
        }
        assert_int_equal(status.compacted, last);
        assert_string_equal(engine_get(e, ks, "/auto").kvs[0].value, "x");

        /* What moves no revision is deleted all the same, or a lease that is kept alive for years fills the datastore. */
        assert_int_equal(engine_grant(e, ks, 77, 600), KEYSPACE_OK);
        keep_alive(e, ks, 77, 1500);
        keyspace_get_status(ks, &status);
        assert_int_equal(status.compacted, status.revision);
        for (uint64_t end = clock_now_ns() + 40 * NSEC_PER_SEC; n_records(e) > 1000 && clock_now_ns() < end;)
                engine_run(e, 100, NULL);
        assert_in_range(n_records(e), 1, 100);
        keyspace_get_status(ks, &status);
        assert_int_equal(status.n_leases, 1);
        assert_int_equal(
                engine_compact(e, ks, status.compacted), KEYSPACE_COMPACTED); /* to clients it is what it was */
        engine_keyspace_close(e, ks);
        ks = engine_keyspace(e, 1);
        assert_string_equal(engine_get(e, ks, "/auto").kvs[0].value, "x");
        keyspace_get_status(ks, &status);
        assert_int_equal(status.n_leases, 1);
        assert_int_equal(status.compacted, status.revision);
        engine_keyspace_close(e, ks);
}

static void leases(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct recorder *r = new0(struct recorder);
        struct lease_answer l;
        struct arena arena;
        uint64_t granted_ns;

        arena_init(&arena, 0);
        assert_int_equal(engine_put_lease(e, ks, "/l/a", "x", 99).result, KEYSPACE_LEASE_NOT_FOUND);
        l = lease(e, ks, keyspace_lease_grant, 0, 1, &arena);
        assert_int_equal(l.result, KEYSPACE_OK);
        assert_int_equal(l.c.ttl, 2);
        granted_ns = clock_now_ns();
        assert_int_equal(lease(e, ks, keyspace_lease_grant, l.c.id, 5, &arena).result, KEYSPACE_LEASE_EXISTS);
        assert_int_equal(engine_put_lease(e, ks, "/l/a", "x", l.c.id).result, KEYSPACE_OK);
        assert_int_equal(engine_put_lease(e, ks, "/l/b", "x", l.c.id).result, KEYSPACE_OK);
        assert_int_equal(engine_put_lease(e, ks, "/l/c", "x", l.c.id).result, KEYSPACE_OK);
        assert_int_equal(engine_put(e, ks, "/l/c", "kept").result, KEYSPACE_OK);
        l = lease(e, ks, keyspace_lease_time_to_live, l.c.id, 0, &arena);
        assert_int_equal(l.c.granted_ttl, 2);
        assert_int_equal(l.c.n_keys, 2);
        assert_int_equal(lease(e, ks, keyspace_leases, 0, 0, &arena).c.n_ids, 1);
        assert_int_equal(lease(e, ks, keyspace_lease_time_to_live, 12345, 0, &arena).c.ttl, -1);
        assert_int_equal(lease(e, ks, keyspace_lease_keep_alive, 12345, 0, &arena).result, KEYSPACE_LEASE_NOT_FOUND);
        assert_int_equal(lease(e, ks, keyspace_lease_keep_alive, l.c.id, 0, &arena).c.ttl, 2);

        engine_watch(e, ks, r, "/l/", 0, true);
        while (r->n_events < 2 && clock_now_ns() - granted_ns < 10 * NSEC_PER_SEC)
                engine_run(e, 20, NULL);
        assert_true(clock_now_ns() - granted_ns >= 2 * NSEC_PER_SEC); /* never early */
        assert_string_equal(r->text, "delete /l/a (prev x)\ndelete /l/b (prev x)\n");
        assert_int_equal(r->revision, 6); /* in one revision */
        assert_int_equal(lease(e, ks, keyspace_leases, 0, 0, &arena).c.n_ids, 0);

        l = lease(e, ks, keyspace_lease_grant, 77, 60, &arena);
        engine_put_lease(e, ks, "/l/d", "x", 77);
        engine_keyspace_close(e, ks);
        ks = engine_keyspace(e, 2);
        l = lease(e, ks, keyspace_lease_time_to_live, 77, 0, &arena);
        assert_int_equal(l.c.n_keys, 1);
        assert_true(l.c.ttl > 50);
        assert_int_equal(lease(e, ks, keyspace_lease_revoke, 77, 0, &arena).result, KEYSPACE_OK);
        assert_int_equal(engine_get(e, ks, "/l/d").count, 0);
        assert_int_equal(lease(e, ks, keyspace_lease_revoke, 77, 0, &arena).result, KEYSPACE_LEASE_NOT_FOUND);

        /* Listed by their ends, whatever their ids. */
        for (int64_t id = 3; id > 0; id--)
                lease(e, ks, keyspace_lease_grant, id, 100 + id % 3, &arena);
        l = lease(e, ks, keyspace_leases, 0, 0, &arena);
        assert_int_equal(l.c.n_ids, 3);
        for (int64_t i = 0; i < 3; i++)
                assert_int_equal(l.c.ids[i], i == 0 ? 3 : i);
        engine_keyspace_close(e, ks);
        arena_done(&arena);
        free(r);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(writes_and_reads, setup, teardown),
                cmocka_unit_test_setup_teardown(pages, setup, teardown),
                cmocka_unit_test_setup_teardown(several_operations, setup, teardown),
                cmocka_unit_test_setup_teardown(survives_reopening, setup, teardown),
                cmocka_unit_test_setup_teardown(watches, setup, teardown),
                cmocka_unit_test_setup_teardown(compaction, setup, teardown),
                cmocka_unit_test_setup_teardown(compacts_by_itself, setup, teardown),
                cmocka_unit_test_setup_teardown(leases, setup, teardown),
        };
        void *library;

        if (argc < 2)
                return 2;
        library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (!library) {
                (void)fprintf(stderr, "%s\n", dlerror());
                return 2;
        }
        driver = dlsym(library, STOKE_DRIVER_SYMBOL);
        if (argc > 2)
                cache_bytes = (size_t)atol(argv[2]);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
