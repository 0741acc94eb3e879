/*
 * Several daemons on one log that refuses, loses answers, and lands appends late. What clients were told must be a
 * history that one etcd could have produced: every response carries a revision, so all is recorded and replayed. If
 * this fails, somebody's acknowledged write is lost, made twice, or not seen by a later read.
 */
#include "engine.h"

#include <time.h>

#include "base/log.h"
#include "memory.h"
#include "recorded.h"

#define N_DAEMONS 3
#define N_WORKERS 9

static unsigned seed;
static unsigned n_operations = 1200;

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"instance", "shared", NULL};

        memory_set_faults("shared", NULL);
        engine_open(e, &stoke_driver, settings, 1 << 20);
        *state = e;
        return 0;
}

static int teardown(void **state) {
        struct engine *e = *state;

        if (e->n_open) {
                engine_close(e);
                return -1;
        }
        engine_close(e);
        memory_reset("shared");
        free(e);
        return 0;
}

static void daemons_see_each_other(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1), *b = engine_keyspace(e, 2);
        struct recorder *r = new0(struct recorder);
        struct answer answer;

        engine_watch(e, b, r, "/", 0, true);
        assert_int_equal(engine_put(e, a, "/k", "1").revision, 2);
        answer = engine_get(e, b, "/k");
        assert_string_equal(answer.kvs[0].value, "1");
        assert_int_equal(engine_put_if(e, b, "/k", 2, "2").revision, 3);
        answer = engine_put_if(e, a, "/k", 2, "never");
        assert_false(answer.succeeded);
        assert_int_equal(answer.kvs[0].mod, 3);
        assert_string_equal(engine_get(e, a, "/k").kvs[0].value, "2");
        engine_run(e, 100, NULL);
        assert_string_equal(r->text, "put /k=1\nput /k=2 (prev 1)\n");
        watcher_free(r->watcher);
        free(r);
        engine_keyspace_close(e, a);
        engine_keyspace_close(e, b);
}

/* A write that a daemon gave up may land long after; until that is settled nothing is said of it. */
static void late_append(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct answer answer;

        engine_put(e, a, "/k", "1");
        memory_limbo_next("shared");
        answer = engine_put(e, a, "/k", "2"); /* answered once a record of ours closed the question */
        assert_int_equal(answer.result, KEYSPACE_OK);
        assert_false(memory_land("shared", "t"));
        assert_int_equal(engine_get(e, a, "/k").kvs[0].version, 2);
        engine_keyspace_close(e, a);
}

/* A daemon that missed a compaction reads the log anew, and its watchers go on where that is possible. The other one has
 * a loop of its own: while that runs, this one stands still. */
static void left_behind_by_compaction(void **state) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "shared", NULL};
        struct keyspace *a, *b = engine_keyspace(e, 2);
        struct recorder *behind = new0(struct recorder), *ahead = new0(struct recorder);
        struct answer answer;

        engine_open(&other, &stoke_driver, settings, 1 << 20);
        a = engine_keyspace(&other, 1);
        engine_put(&other, a, "/k", "1");
        engine_put(&other, a, "/gone", "1");
        assert_int_equal(engine_get(e, b, "/k").count, 1);
        engine_watch(e, b, behind, "/", 0, true);
        engine_watch(e, b, ahead, "/", 11, false);
        for (int i = 0; i < 5; i++)
                engine_put(&other, a, "/k", "x");
        engine_delete(&other, a, "/gone", NULL);
        engine_put(&other, a, "/new", "1");
        assert_int_equal(engine_compact(&other, a, 10), KEYSPACE_OK);
        engine_put(&other, a, "/k", "y");
        answer = engine_list(e, b, "/", 0, 0);
        assert_int_equal(answer.result, KEYSPACE_OK);
        assert_int_equal(answer.n_kvs, 2);
        assert_int_equal(answer.revision, 11);
        assert_string_equal(answer.kvs[0].value, "y");
        engine_run(e, 5000, &behind->cancelled);
        assert_int_equal(behind->result, KEYSPACE_COMPACTED);
        engine_run(e, 5000, &ahead->synced);
        assert_string_equal(ahead->text, "put /k=y\n");
        watcher_free(behind->watcher);
        watcher_free(ahead->watcher);
        free(behind);
        free(ahead);
        engine_keyspace_close(&other, a);
        engine_close(&other);
        engine_keyspace_close(e, b);
}

static void lost_history(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct keyspace_status status;

        for (int i = 0; i < 5; i++)
                engine_put(e, a, "/k", "x");
        memory_forget("shared", "t", 2);
        assert_int_equal(engine_get(e, a, "/k").result, KEYSPACE_LOST);
        keyspace_get_status(a, &status);
        assert_int_equal(status.condition, KEYSPACE_HISTORY_LOST);
        assert_int_equal(engine_put(e, a, "/k", "x").result, KEYSPACE_LOST);
        engine_keyspace_close(e, a);

        a = engine_keyspace(e, 1);
        assert_int_equal(engine_put(e, a, "/k", "y").result, KEYSPACE_OK);
        memory_fork("shared", "t");
        assert_int_equal(engine_get(e, a, "/k").result, KEYSPACE_LOST);
        engine_keyspace_close(e, a);
}

static void unreachable_then_back(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct keyspace_status status;

        engine_put(e, a, "/k", "1");
        memory_fail_next("shared", MEMORY_APPEND, 3, -EIO);
        assert_int_equal(engine_put(e, a, "/k", "2").result, KEYSPACE_OK);
        memory_fail_next("shared", MEMORY_ENDS, 3, -EIO);
        assert_string_equal(engine_get(e, a, "/k").kvs[0].value, "2");
        keyspace_get_status(a, &status);
        assert_int_equal(status.condition, KEYSPACE_SERVING);
        memory_fail_next("shared", MEMORY_APPEND, 1, -ENOSPC);
        assert_int_equal(engine_put(e, a, "/k", "3").result, KEYSPACE_NO_SPACE);
        assert_int_equal(engine_get(e, a, "/k").kvs[0].version, 2);
        engine_keyspace_close(e, a);
}

/* ---- the recorded history */

struct run {
        struct recorded history;
        struct keyspace *daemons[N_DAEMONS];
        bool compacts;
        struct compact_call compaction;
        bool compacting;
        unsigned n_compactions;
};

static struct keyspace *of_worker(struct recorded *h, unsigned worker) {
        return container_of(h, struct run, history)->daemons[worker % N_DAEMONS];
}

static void on_compacted(struct keyspace_call *call, enum keyspace_result result) {
        struct run *run = container_of(container_of(call, struct compact_call, call), struct run, compaction);

        run->compacting = false;
        run->n_compactions += result == KEYSPACE_OK;
}

/* Some revisions behind what was told, by one daemon or another. */
static void compact_sometimes(struct recorded *h) {
        struct run *run = container_of(h, struct run, history);

        if (!run->compacts || run->compacting || h->told < 60 || rand_r(&seed) % 5)
                return;
        run->compacting = true;
        run->compaction = (struct compact_call){.revision_wanted = h->told - 40, .physical = rand_r(&seed) % 2};
        run->compaction.call.done = on_compacted;
        run->compaction.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_compact(run->daemons[(unsigned)rand_r(&seed) % N_DAEMONS], &run->compaction);
}

static void check_history(void **state, const struct memory_faults *faults, uint64_t patience_ms, bool compacts) {
        struct engine *e = *state;
        struct run run = {.compacts = compacts,
                .history = {.seed = &seed,
                        .n_operations = n_operations,
                        .patience_ns = patience_ms * NSEC_PER_MSEC,
                        .keyspace = of_worker,
                        .answered = compact_sometimes}};
        struct seen live[N_DAEMONS] = {}, last = {};
        unsigned n_ok, first_seed = seed;
        struct keyspace *fresh;

        print_message("# STOKEHOLD_SEED=%u\n", first_seed);
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                run.daemons[i] = engine_keyspace(e, (uint8_t)(i + 1));
                seen_watch(run.daemons[i], &live[i]);
        }
        memory_set_faults("shared", faults);
        recorded_begin(&run.history, N_WORKERS);
        engine_run(e, 120000, &run.history.all_done);
        assert_true(run.history.all_done);
        memory_set_faults("shared", NULL);

        engine_run(e, 1500, NULL); /* each follows within a second */
        while (run.compacting)
                engine_run(e, 10, NULL);

        /* The whole history, as somebody saw it who began before it did. */
        fresh = engine_keyspace(e, 9);
        if (!compacts) {
                seen_watch(fresh, &last);
                engine_run(e, 10000, &last.synced);
                assert_true(last.synced);
        } else
                for (unsigned i = 0; i < N_DAEMONS && !last.n; i++)
                        if (!live[i].left_behind) {
                                last.n = live[i].n;
                                last.events = xcalloc(last.n, sizeof(*last.events));
                                memcpy(last.events, live[i].events, last.n * sizeof(*last.events));
                        }
        assert_true(last.n > 0);
        n_ok = recorded_check(&run.history, &last);
        print_message("# %u of %u operations answered, %zu events, %u compactions\n", n_ok, n_operations, last.n,
                run.n_compactions);
        assert_true(n_ok > n_operations / 2);
        assert_true(!compacts || run.n_compactions > 0);
        for (unsigned i = 0; i <= N_DAEMONS; i++) /* what a fresh daemon reads is what the others hold */
                for (unsigned key = 0; key < HISTORY_KEYS; key++) {
                        char name[] = {'k', (char)('0' + key), 0};
                        struct answer a = engine_get(e, i < N_DAEMONS ? run.daemons[i] : fresh, name);
                        const struct seen_event *found = seen_state(&last, key, INT64_MAX);
                        struct seen_event none = {}, at = found ? *found : none;

                        assert_int_equal(a.result, KEYSPACE_OK);
                        assert_int_equal(a.n_kvs, found != NULL);
                        assert_int_equal(a.n_kvs ? a.kvs[0].mod : 0, at.revision);
                        assert_string_equal(a.n_kvs ? a.kvs[0].value : "", at.value);
                }
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                if (!live[i].left_behind) {
                        assert_int_equal(live[i].n, last.n);
                        assert_memory_equal(live[i].events, last.events, last.n * sizeof(*last.events));
                }
                free(live[i].events);
                engine_keyspace_close(e, run.daemons[i]);
        }
        engine_keyspace_close(e, fresh);
        free(last.events);
        recorded_done(&run.history);
}

static void history_without_faults(void **state) {
        check_history(state, NULL, 20000, false);
}

static void history_with_refusals(void **state) {
        struct memory_faults f = {.stale = 0.2, .fail_load = 0.1, .fail_connect = 0.1};

        check_history(state, &f, 20000, false);
}

static void history_with_unknown_outcomes(void **state) {
        struct memory_faults f = {.unknown_landed = 0.1, .unknown_lost = 0.1, .unknown_late = 0.1, .late_after = 2};

        check_history(state, &f, 20000, false);
}

static void history_with_everything_and_short_deadlines(void **state) {
        struct memory_faults f = {.stale = 0.1,
                .fail_load = 0.1,
                .unknown_landed = 0.1,
                .unknown_lost = 0.1,
                .unknown_late = 0.1,
                .late_after = 3,
                .delay_us = 500};

        check_history(state, &f, 150, false);
}

static void history_with_compactions(void **state) {
        struct memory_faults f = {.stale = 0.1,
                .fail_load = 0.05,
                .unknown_landed = 0.05,
                .unknown_lost = 0.05,
                .unknown_late = 0.05,
                .late_after = 2};

        check_history(state, &f, 20000, true);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(daemons_see_each_other, setup, teardown),
                cmocka_unit_test_setup_teardown(late_append, setup, teardown),
                cmocka_unit_test_setup_teardown(left_behind_by_compaction, setup, teardown),
                cmocka_unit_test_setup_teardown(lost_history, setup, teardown),
                cmocka_unit_test_setup_teardown(unreachable_then_back, setup, teardown),
                cmocka_unit_test_setup_teardown(history_without_faults, setup, teardown),
                cmocka_unit_test_setup_teardown(history_with_refusals, setup, teardown),
                cmocka_unit_test_setup_teardown(history_with_unknown_outcomes, setup, teardown),
                cmocka_unit_test_setup_teardown(history_with_everything_and_short_deadlines, setup, teardown),
                cmocka_unit_test_setup_teardown(history_with_compactions, setup, teardown),
        };
        const char *s = getenv("STOKEHOLD_SEED");

        seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
        s = getenv("STOKEHOLD_OPERATIONS");
        if (s)
                n_operations = (unsigned)strtoul(s, NULL, 10);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
