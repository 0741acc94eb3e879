/*
 * Keyspaces that are closed while nobody uses them. If this fails, a tenant that was quiet for a while loses a write, a watch or a
 * key that was to live on, sees one that should have gone, or keeps its memory and its lock for ever.
 */

#include <time.h>
#include <unistd.h>

#include "engine.h"
#include "keyspace/state.h"
#include "memory.h"

#define IDLE_MS 60

/* ---- the memory driver, as one that a single daemon holds */

static struct stoke_driver exclusive;
static atomic_int n_held, n_acquired;

static int acquire(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        (void)session;
        (void)keyspace;
        (void)call;
        check(atomic_fetch_add(&n_held, 1) == 0);
        atomic_fetch_add(&n_acquired, 1);
        return 0;
}

static void release(struct stoke_session *session, const struct stoke_keyspace *keyspace) {
        (void)session;
        (void)keyspace;
        usleep(2000);
        check(atomic_fetch_sub(&n_held, 1) == 1);
}

static void assert_nothing_held(void) {
        assert_int_equal(atomic_load(&n_held), 0);
}

static int setup_driver(void **state, const struct stoke_driver *driver) {
        static struct engine e;
        static const char *const settings[] = {"instance", "idle", NULL, NULL};

        e = (struct engine){};
        memory_reset("idle");
        engine_open(&e, driver, settings, 1 << 20);
        e.idle_close_ns = IDLE_MS * NSEC_PER_MSEC;
        atomic_store(&n_acquired, 0);
        *state = &e;
        return 0;
}

static int setup(void **state) {
        return setup_driver(state, &stoke_driver);
}

static int setup_exclusive(void **state) {
        exclusive = stoke_driver;
        exclusive.capabilities |= STOKE_EXCLUSIVE;
        exclusive.acquire = acquire;
        exclusive.release = release;
        return setup_driver(state, &exclusive);
}

static int teardown(void **state) {
        engine_close(*state);
        memory_reset("idle");
        return 0;
}

static enum keyspace_condition condition_of(struct keyspace *ks) {
        struct keyspace_status status;

        keyspace_get_status(ks, &status);
        return status.condition;
}

/* Until it is down: closed, emptied, its log given back. */
static void wait_closed(struct engine *e, struct keyspace *ks) {
        for (unsigned i = 0; i < 3000 && (condition_of(ks) != KEYSPACE_CLOSED || ks->idle.phase != IDLE_NOT); i++)
                engine_run(e, 10, NULL);
        assert_int_equal(condition_of(ks), KEYSPACE_CLOSED);
}

/* ---- */

static void closed_and_opened(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct keyspace_status status;
        struct answer a;

        engine_fill(e, ks, "/k", 3000);
        for (int64_t round = 0; round < 3; round++) {
                wait_closed(e, ks);
                assert_nothing_held();
                keyspace_get_status(ks, &status);
                assert_int_equal(status.revision, 0);
                assert_int_equal(status.bytes_memory, 0);
                assert_int_equal(status.n_versions, 0);
                assert_null(ks->values.table);

                a = engine_put(e, ks, "/k00007", "again");
                assert_int_equal(a.result, KEYSPACE_OK);
                assert_int_equal(a.revision, 5 + round);
                assert_string_equal(a.kvs[0].value, round ? "again" : "/k00007");
                assert_int_equal(engine_list(e, ks, "/k", 0, 1).count, 3000);
                assert_string_equal(engine_get(e, ks, "/k02999").kvs[0].value, "/k02999");
                /* A slow machine may have closed it between two calls, and opened it once more. */
                keyspace_get_status(ks, &status);
                assert_int_equal(status.n_versions, status.condition == KEYSPACE_CLOSED ? 0 : 3001 + (uint64_t)round);
        }
        if (ks->exclusive)
                assert_true(atomic_load(&n_acquired) >= 4);
        else
                assert_int_equal(atomic_load(&n_acquired), 0);
        engine_keyspace_close(e, ks);
        assert_nothing_held();
}

static void off(void **state) {
        struct engine *e = *state;
        struct keyspace *ks;

        e->idle_close_ns = 0;
        ks = engine_keyspace(e, 1);
        assert_int_equal(engine_put(e, ks, "/a", "1").result, KEYSPACE_OK);
        engine_run(e, 500, NULL);
        assert_int_equal(condition_of(ks), KEYSPACE_SERVING);
        engine_keyspace_close(e, ks);
}

static void watch_keeps_it_open(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct recorder *r = new0(struct recorder);

        engine_watch(e, ks, r, "/w", 0, false);
        engine_run(e, 10 * IDLE_MS, NULL);
        assert_int_equal(condition_of(ks), KEYSPACE_SERVING);
        assert_int_equal(engine_put(e, ks, "/w1", "1").result, KEYSPACE_OK);
        engine_run(e, 50, NULL);
        assert_string_equal(r->text, "put /w1=1\n");
        watcher_free(r->watcher);
        wait_closed(e, ks);

        /* One that begins in the past, on a keyspace that is closed. */
        *r = (struct recorder){};
        engine_watch(e, ks, r, "/w", 1, false);
        for (unsigned i = 0; i < 300 && !r->n_events; i++)
                engine_run(e, 10, NULL);
        assert_string_equal(r->text, "put /w1=1\n");
        assert_false(r->cancelled);
        watcher_free(r->watcher);
        engine_keyspace_close(e, ks);
        free(r);
}

/* Calls at about the time at which it is closed, many times. */
static void calls_race_with_closing(void **state) {
        struct engine *e = *state;
        unsigned seed =
                getenv("STOKEHOLD_TEST_SEED") ? (unsigned)atoi(getenv("STOKEHOLD_TEST_SEED")) : (unsigned)time(NULL);
        struct keyspace *ks;
        uint64_t n_loads;

        print_message("# seed %u\n", seed);
        srandom(seed);
        e->idle_close_ns = 20 * NSEC_PER_MSEC;
        ks = engine_keyspace(e, 1);
        engine_fill(e, ks, "/k", 5000);
        n_loads = memory_calls("idle", MEMORY_LOAD);
        for (int i = 1; i <= 150; i++) {
                char value[16], before[16];
                struct answer a;

                engine_run(e, (uint64_t)(15 + random() % 20), NULL);
                (void)snprintf(before, sizeof(before), "%d", i - 1);
                (void)snprintf(value, sizeof(value), "%d", i);
                if (random() % 2) {
                        a = engine_list(e, ks, "/k", 0, 1);
                        assert_int_equal(a.result, KEYSPACE_OK);
                        assert_int_equal(a.count, 5000);
                        assert_int_equal(a.revision, 6 + i - 1);
                }
                a = engine_put(e, ks, "/n", value);
                assert_int_equal(a.result, KEYSPACE_OK);
                assert_int_equal(a.revision, 6 + i);
                if (i > 1)
                        assert_string_equal(a.kvs[0].value, before);
        }
        assert_true(memory_calls("idle", MEMORY_LOAD) > n_loads + 10);
        engine_keyspace_close(e, ks);
}

static void run_until_phase(struct engine *e, struct keyspace *ks, int phase) {
        /* One iteration of the loop at a time. */
        for (unsigned i = 0; i < 100000 && (int)ks->idle.phase != phase; i++)
                engine_run(e, 0, NULL);
        assert_int_equal(ks->idle.phase, phase);
}

/* A call in each stage of being taken down; and an end for good in each. */
static void in_each_stage(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);

        engine_fill(e, ks, "/k", 9000);
        for (int phase = IDLE_EMPTYING; phase <= (ks->exclusive ? IDLE_RELEASING : IDLE_EMPTYING); phase++) {
                struct recorder *r = new0(struct recorder);

                run_until_phase(e, ks, phase);
                assert_int_equal(engine_list(e, ks, "/k", 0, 1).count, 9000);
                wait_closed(e, ks);
                engine_list(e, ks, "/k", 0, 1);
                run_until_phase(e, ks, phase);
                engine_watch(e, ks, r, "/w", 0, false);
                assert_int_equal(engine_put(e, ks, "/w", "1").result, KEYSPACE_OK);
                engine_run(e, 50, NULL);
                assert_string_equal(r->text, "put /w=1\n");
                watcher_free(r->watcher);
                free(r);
                run_until_phase(e, ks, phase);
                engine_keyspace_close(e, ks);
                assert_nothing_held();
                ks = engine_keyspace(e, 1);
                engine_list(e, ks, "/k", 0, 1);
        }
        engine_keyspace_close(e, ks);
        assert_nothing_held();
}

/* ---- leases */

static int64_t count(struct engine *e, struct keyspace *ks, const char *prefix) {
        return engine_list(e, ks, prefix, 0, 0).count;
}

/* Until the lease's key has gone, seen through a view that is never closed; how long it took since then. */
static uint64_t wait_gone(struct engine *e, struct keyspace *view, const char *prefix, uint64_t since) {
        for (unsigned i = 0; i < 1500 && count(e, view, prefix); i++)
                engine_run(e, 20, NULL);
        assert_int_equal(count(e, view, prefix), 0);
        return (clock_now_ns() - since) / NSEC_PER_MSEC;
}

static void lease_ends_while_closed(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        uint64_t granted = clock_now_ns();
        struct keyspace_status status;

        assert_int_equal(engine_grant(e, ks, 1, 2), KEYSPACE_OK);
        assert_int_equal(engine_grant(e, ks, 2, 60), KEYSPACE_OK);
        assert_int_equal(engine_put_lease(e, ks, "/l/a", "1", 1).result, KEYSPACE_OK);
        assert_int_equal(engine_put_lease(e, ks, "/m/a", "1", 2).result, KEYSPACE_OK);
        wait_closed(e, ks);
        keyspace_get_status(ks, &status);
        assert_int_equal(status.n_leases, 2);
        /* Nobody asks, and yet it is opened, the key ends, and it is closed again. */
        for (unsigned i = 0; i < 1500 && status.n_leases == 2; i++) {
                engine_run(e, 20, NULL);
                keyspace_get_status(ks, &status);
        }
        assert_int_equal(status.n_leases, 1);
        assert_true(clock_now_ns() - granted >= 2 * NSEC_PER_SEC);
        wait_closed(e, ks);
        assert_int_equal(count(e, ks, "/l/"), 0);
        assert_int_equal(count(e, ks, "/m/"), 1);
        engine_keyspace_close(e, ks);
}

/* Closed and opened again and again: its time goes on all the same. */
static void lease_does_not_start_anew(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        uint64_t granted = clock_now_ns(), loads = memory_calls("idle", MEMORY_LOAD), ms;

        assert_int_equal(engine_grant(e, ks, 1, 3), KEYSPACE_OK);
        assert_int_equal(engine_put_lease(e, ks, "/l/a", "1", 1).result, KEYSPACE_OK);
        for (unsigned i = 0; i < 4; i++) {
                wait_closed(e, ks);
                assert_int_equal(engine_get(e, ks, "/x").result, KEYSPACE_OK);
        }
        ms = wait_gone(e, ks, "/l/", granted);
        assert_true(ms >= 3000);
        assert_true(memory_calls("idle", MEMORY_LOAD) > loads + 4);
        if (ms > 5500) /* a slow machine, or a new beginning */
                print_message("# ended after %llu ms\n", (unsigned long long)ms);
        engine_keyspace_close(e, ks);
}

/* Another daemon renews it meanwhile. compacted: and the record that says so is deleted. */
static void renewed_elsewhere(struct engine *e, bool compacted) {
        struct keyspace *ks = engine_keyspace(e, 1), *other;
        uint64_t renewed, ms;

        e->idle_close_ns = 0;
        other = engine_keyspace(e, 2);
        assert_int_equal(engine_grant(e, ks, 1, 5), KEYSPACE_OK);
        assert_int_equal(engine_put_lease(e, ks, "/l/a", "1", 1).result, KEYSPACE_OK);
        wait_closed(e, ks);
        engine_run(e, 1200, NULL);
        renewed = clock_now_ns();
        assert_int_equal(engine_keep_alive(e, other, 1), KEYSPACE_OK);
        for (int i = 0; compacted && i < 3; i++) {
                struct answer a = engine_put(e, other, "/c", "1");

                assert_int_equal(engine_compact(e, other, a.revision), KEYSPACE_OK);
        }
        /* The first daemon wakes when the lease would have been over, and must let it be. */
        ms = wait_gone(e, other, "/l/", renewed);
        assert_true(ms >= 5000);
        engine_keyspace_close(e, other);
        engine_keyspace_close(e, ks);
}

static void lease_renewed_elsewhere(void **state) {
        renewed_elsewhere(*state, false);
}

static void lease_renewed_elsewhere_and_compacted(void **state) {
        renewed_elsewhere(*state, true);
}

/* ---- the log, meanwhile */

static void others_write_while_closed(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1), *other;

        e->idle_close_ns = 0;
        other = engine_keyspace(e, 2);
        assert_int_equal(engine_put(e, ks, "/a", "1").result, KEYSPACE_OK);
        wait_closed(e, ks);
        assert_int_equal(engine_put(e, other, "/a", "2").result, KEYSPACE_OK);
        assert_string_equal(engine_get(e, ks, "/a").kvs[0].value, "2");
        wait_closed(e, ks);
        /* What it knew last is compacted away. */
        for (int i = 0; i < 3; i++)
                assert_int_equal(engine_compact(e, other, engine_put(e, other, "/a", "3").revision), KEYSPACE_OK);
        assert_string_equal(engine_get(e, ks, "/a").kvs[0].value, "3");
        engine_keyspace_close(e, other);
        engine_keyspace_close(e, ks);
}

/* A replica that lagged was promoted, or a backup restored, while nobody looked. */
static void another_log(void **state) {
        struct engine *e = *state;

        for (unsigned i = 0; i < 2; i++) {
                struct keyspace *ks = engine_keyspace(e, (uint8_t)(1 + i));

                assert_int_equal(engine_put(e, ks, "/a", "1").result, KEYSPACE_OK);
                assert_int_equal(engine_put(e, ks, "/a", "2").result, KEYSPACE_OK);
                wait_closed(e, ks);
                if (i == 0)
                        memory_forget("idle", "t", 1);
                else
                        memory_fork("idle", "t");
                assert_int_equal(engine_get(e, ks, "/a").result, KEYSPACE_LOST);
                assert_int_equal(condition_of(ks), KEYSPACE_HISTORY_LOST);
                engine_keyspace_close(e, ks);
        }
}

/* One that is used for a moment now and then is compacted too. */
static void compacted_though_mostly_closed(void **state) {
        struct engine *e = *state;
        struct keyspace_status status = {};
        struct keyspace *ks;

        e->auto_compact_ns = 10 * NSEC_PER_SEC; /* a sample a second */
        e->idle_close_ns = 200 * NSEC_PER_MSEC;
        ks = engine_keyspace(e, 1);
        assert_int_equal(engine_put(e, ks, "/a", "1").result, KEYSPACE_OK);
        assert_int_equal(engine_put(e, ks, "/a", "2").result, KEYSPACE_OK);
        wait_closed(e, ks);
        ks->automatic.stopped_ns -= 60 * NSEC_PER_SEC; /* a minute later */
        for (unsigned i = 0; i < 100 && status.compacted == 0; i++) {
                assert_int_equal(engine_get(e, ks, "/a").result, KEYSPACE_OK);
                engine_run(e, 50, NULL);
                keyspace_get_status(ks, &status);
        }
        assert_int_equal(status.compacted, 3);
        engine_keyspace_close(e, ks);
}

/* What stands is still told, by probes for one, though nothing is loaded. */
static void alarm_stands_while_closed(void **state) {
        struct engine *e = *state;
        struct keyspace_alarm alarm;
        struct keyspace *ks;

        e->quota_bytes = 4096;
        ks = engine_keyspace(e, 1);
        engine_fill(e, ks, "/k", 10);
        while (engine_put(e, ks, "/a", "1").result == KEYSPACE_OK)
                ;
        wait_closed(e, ks);
        assert_int_equal(keyspace_alarms(ks, &alarm, 1), 1);
        assert_int_equal(alarm.type, ALARM_NOSPACE);
        assert_int_equal(engine_get(e, ks, "/a").result, KEYSPACE_OK);
        assert_int_equal(keyspace_alarms(ks, &alarm, 1), 1);
        assert_int_equal(engine_put(e, ks, "/a", "1").result, KEYSPACE_NO_SPACE);
        engine_keyspace_close(e, ks);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(closed_and_opened, setup, teardown),
                cmocka_unit_test_setup_teardown(closed_and_opened, setup_exclusive, teardown),
                cmocka_unit_test_setup_teardown(off, setup, teardown),
                cmocka_unit_test_setup_teardown(watch_keeps_it_open, setup_exclusive, teardown),
                cmocka_unit_test_setup_teardown(calls_race_with_closing, setup, teardown),
                cmocka_unit_test_setup_teardown(calls_race_with_closing, setup_exclusive, teardown),
                cmocka_unit_test_setup_teardown(in_each_stage, setup, teardown),
                cmocka_unit_test_setup_teardown(in_each_stage, setup_exclusive, teardown),
                cmocka_unit_test_setup_teardown(lease_ends_while_closed, setup_exclusive, teardown),
                cmocka_unit_test_setup_teardown(lease_does_not_start_anew, setup, teardown),
                cmocka_unit_test_setup_teardown(lease_renewed_elsewhere, setup, teardown),
                cmocka_unit_test_setup_teardown(lease_renewed_elsewhere_and_compacted, setup, teardown),
                cmocka_unit_test_setup_teardown(others_write_while_closed, setup, teardown),
                cmocka_unit_test_setup_teardown(another_log, setup, teardown),
                cmocka_unit_test_setup_teardown(compacted_though_mostly_closed, setup, teardown),
                cmocka_unit_test_setup_teardown(alarm_stands_while_closed, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
