/*
 * Orders of events that once went wrong, one test each: calls that were never answered, events that were lost between an application
 * of the log and a compaction, values that another daemon's compaction had taken away, writes made twice. On the memory
 * driver, which several daemons write.
 */
#include "engine.h"

#include "base/log.h"
#include "memory.h"

static size_t cache_bytes = 1 << 20;

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"instance", "shared", NULL};

        memory_set_faults("shared", NULL);
        engine_open(e, &stoke_driver, settings, cache_bytes);
        *state = e;
        return 0;
}
static int setup_uncached(void **state) {
        int r;
        cache_bytes = 1;
        r = setup(state);
        cache_bytes = 1 << 20;
        return r;
}

/* A call that is looked at later; all are freed with the test. */
struct late_call {
        struct late_call *next;
        struct txn_call txn;
        struct compact_call compact;
        struct keyspace_call barrier;
        struct arena arena;
        struct txn tree;
        struct txn_op op;
        bool done;
        enum keyspace_result result;
};
static struct late_call *late_calls;

static struct late_call *late_call_new(void) {
        struct late_call *l = new0(struct late_call);

        l->next = late_calls;
        late_calls = l;
        return l;
}

static void on_txn(struct keyspace_call *call, enum keyspace_result result) {
        struct late_call *l = container_of(container_of(call, struct txn_call, call), struct late_call, txn);
        l->done = true;
        l->result = result;
}
static void on_compact(struct keyspace_call *call, enum keyspace_result result) {
        struct late_call *l = container_of(container_of(call, struct compact_call, call), struct late_call, compact);
        l->done = true;
        l->result = result;
}
static void on_barrier(struct keyspace_call *call, enum keyspace_result result) {
        struct late_call *l = container_of(call, struct late_call, barrier);
        l->done = true;
        l->result = result;
}
static int teardown(void **state) {
        struct engine *e = *state;
        unsigned n = e->n_open;

        engine_close(e);
        if (n)
                return -1;
        while (late_calls) {
                struct late_call *l = late_calls;

                late_calls = l->next;
                txn_result_release(&l->txn);
                arena_done(&l->arena);
                free(l);
        }
        memory_reset("shared");
        free(e);
        return 0;
}

static struct late_call *start_put(struct keyspace *ks, const char *key, const char *value, uint64_t ms) {
        struct late_call *l = late_call_new();

        arena_init(&l->arena, 0);
        l->op = (struct txn_op){.kind = OP_PUT, .put = {.key = bytes_of_string(key), .value = bytes_of_string(value)}};
        l->tree = (struct txn){.success = &l->op, .n_success = 1};
        l->txn.txn = &l->tree;
        l->txn.call.arena = &l->arena;
        l->txn.call.done = on_txn;
        l->txn.call.deadline_ns = clock_now_ns() + ms * NSEC_PER_MSEC;
        keyspace_txn(ks, &l->txn);
        return l;
}
static struct late_call *start_compact(struct keyspace *ks, int64_t revision, bool physical, uint64_t ms) {
        struct late_call *l = late_call_new();

        l->compact.revision_wanted = revision;
        l->compact.physical = physical;
        l->compact.call.done = on_compact;
        l->compact.call.deadline_ns = clock_now_ns() + ms * NSEC_PER_MSEC;
        keyspace_compact(ks, &l->compact);
        return l;
}

static struct late_call *start_barrier(struct keyspace *ks, uint64_t ms) {
        struct late_call *l = late_call_new();

        l->barrier.done = on_barrier;
        l->barrier.deadline_ns = clock_now_ns() + ms * NSEC_PER_MSEC;
        keyspace_barrier(ks, &l->barrier);
        return l;
}

/* The first write on a forked log is never answered. */
static void write_on_forked_log(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct late_call *l;

        engine_put(e, a, "/k", "1");
        engine_run(e, 300, NULL); /* the ageing timer runs out */
        memory_fork("shared", "t");
        l = start_put(a, "/k", "2", 2000);
        engine_run(e, 4000, &l->done);
        assert_true(l->done);
        engine_keyspace_close(e, a);
}

static void mass_put(struct engine *e, struct keyspace *ks, const char *prefix, int n_txns, int each) {
        char(*keys)[32] = xcalloc((size_t)each, 32);
        struct txn_op *ops = xcalloc((size_t)each, sizeof(*ops));
        for (int t = 0; t < n_txns; t++) {
                struct txn txn = {.success = ops, .n_success = (size_t)each};
                for (int i = 0; i < each; i++) {
                        (void)snprintf(keys[i], 32, "%s%05d-%05d", prefix, t, i);
                        ops[i] = (struct txn_op){.kind = OP_PUT,
                                .put = {.key = bytes_of_string(keys[i]), .value = bytes_of_string("v")}};
                }
                assert_int_equal(engine_txn(e, ks, &txn).result, KEYSPACE_OK);
        }
        free(keys);
        free(ops);
}

struct counter {
        struct watcher *w;
        size_t n_events, n_calls;
        bool created, cancelled, slow;
        int64_t revision;
};
static void c_created(void *u, int64_t r) {
        struct counter *c = u;
        c->created = true;
        c->revision = r;
}
static bool c_events(void *u, struct watch_event *const *ev, size_t n, int64_t r) {
        struct counter *c = u;
        (void)ev;
        c->n_events += n;
        c->n_calls++;
        c->revision = r;
        return !c->slow;
}
static void c_synced(void *u, int64_t r) {
        struct counter *c = u;
        c->revision = r;
}
static void c_cancelled(void *u, enum keyspace_result res, int64_t r) {
        struct counter *c = u;
        (void)res;
        (void)r;
        c->cancelled = true;
}
static void count_events(struct engine *e, struct keyspace *ks, struct counter *c, int64_t start) {
        struct watcher_config config = {.range = {bytes_of_string("/"), bytes_of_string("0")},
                .start_revision = start,
                .userdata = c,
                .on_created = c_created,
                .on_events = c_events,
                .on_synced = c_synced,
                .on_cancelled = c_cancelled};
        assert_int_equal(keyspace_watch(ks, &config, &c->w), 0);
        engine_run(e, 5000, &c->created);
}

/* B stands still while a writes 12,000 records and compacts (nothing that b has not seen dies). */
static void long_tail(void **state, int64_t compact, bool two_marks, int each, bool behind) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "shared", NULL};
        struct keyspace *a, *b = engine_keyspace(e, 2);
        struct counter c = {};
        size_t n = 0, expected;

        engine_open(&other, &stoke_driver, settings, 1 << 20);
        a = engine_keyspace(&other, 1);
        engine_put(&other, a, "/k", "1");
        assert_int_equal(engine_get(e, b, "/k").count, 1);
        c.slow = behind;
        count_events(e, b, &c, behind ? 2 : 0);
        if (behind)
                engine_run(e, 50, NULL);
        mass_put(&other, a, "/m", two_marks ? 5 : 12000 / each, each);
        expected = (size_t)(two_marks ? 5 : 12000 / each) * (size_t)each + (behind ? 1 : 0);
        if (compact) {
                struct late_call *l = start_compact(a, compact, false, 5000);
                engine_run(&other, 5000, &l->done);
                assert_int_equal(l->result, 0);
        }
        if (two_marks) {
                struct late_call *l;
                engine_run(&other, 200, NULL);
                memory_fail_next("shared", MEMORY_COMPACT, 1000, -EIO);
                l = start_compact(a, compact + 2, false, 5000);
                engine_run(&other, 5000, &l->done);
                assert_int_equal(l->result, 0);
        }
        if (behind) {
                c.slow = false;
                watcher_resume(c.w);
        }
        assert_int_equal(engine_get(e, b, "/k").result, KEYSPACE_OK);
        engine_run(e, 2000, NULL);
        memory_fail_next("shared", MEMORY_COMPACT, 0, 0);
        print_message("# events %zu of %zu, cancelled %d, calls %zu\n", c.n_events, expected, c.cancelled, c.n_calls);
        assert_true(c.cancelled || c.n_events == expected);
        (void)n;
        watcher_free(c.w);
        engine_keyspace_close(&other, a);
        engine_close(&other);
        engine_keyspace_close(e, b);
}
static void long_tail_compacted(void **state) {
        long_tail(state, 60, false, 100, false);
}
static void long_tail_two_marks(void **state) {
        long_tail(state, 4, true, 1, false);
}
static void long_tail_half_revision(void **state) {
        long_tail(state, 0, false, 100, true);
}

/* Closed while a batch's outcome is unknown. */
static void close_with_unknown(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct late_call *l;

        engine_put(e, a, "/k", "1");
        memory_limbo_next("shared");
        memory_fail_next("shared", MEMORY_LOAD, 100, -EIO);
        l = start_put(a, "/k", "2", 20000);
        engine_run(e, 50, NULL);
        assert_false(l->done);
        engine_keyspace_close(e, a);
        memory_fail_next("shared", MEMORY_LOAD, 0, 0);
        print_message("# done %d result %d\n", l->done, l->result);
        assert_true(l->done);
}
static void close_with_closer(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct memory_faults f = {.delay_us = 200000};
        struct late_call *l;

        engine_put(e, a, "/k", "1");
        memory_limbo_next("shared");
        memory_set_faults("shared", &f);
        l = start_put(a, "/k", "2", 20000);
        engine_run(e, 900, NULL); /* append 0.2, load 0.2, closer under way */
        engine_keyspace_close(e, a);
        memory_set_faults("shared", NULL);
        print_message("# done %d result %d\n", l->done, l->result);
        assert_true(l->done);
}

/* B reads what a has compacted away. */
static void prev_kv_compacted_elsewhere(void **state) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "shared", NULL};
        struct keyspace *a, *b = engine_keyspace(e, 2);
        struct answer answer;

        engine_open(&other, &stoke_driver, settings, 1);
        a = engine_keyspace(&other, 1);
        engine_put(&other, a, "/k", "1");
        assert_int_equal(engine_get(e, b, "/k").count, 1);
        engine_put(&other, a, "/k", "2");
        engine_put(&other, a, "/k", "3");
        assert_int_equal(engine_compact(&other, a, 4), KEYSPACE_OK);
        answer = engine_put(e, b, "/k", "4"); /* wants the previous value */
        assert_int_equal(answer.result, KEYSPACE_OK);
        assert_string_equal(answer.kvs[0].value, "3");
        engine_keyspace_close(&other, a);
        engine_close(&other);
        engine_keyspace_close(e, b);
}
static void serializable_compacted_elsewhere(void **state) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "shared", NULL};
        struct keyspace *a, *b = engine_keyspace(e, 2);
        struct range_request r = {
                .range = {bytes_of_string("/"), bytes_of_string("0")}, .revision = 2, .serializable = true};
        struct answer answer;

        engine_open(&other, &stoke_driver, settings, 1);
        a = engine_keyspace(&other, 1);
        engine_put(&other, a, "/k", "1");
        assert_int_equal(engine_get(e, b, "/k").count, 1);
        engine_put(&other, a, "/k", "2");
        engine_put(&other, a, "/k", "3");
        assert_int_equal(engine_compact(&other, a, 4), KEYSPACE_OK);
        answer = engine_range(e, b, &r);
        assert_int_equal(answer.result, KEYSPACE_COMPACTED);
        engine_keyspace_close(&other, a);
        engine_close(&other);
        engine_keyspace_close(e, b);
}

/* 7 */
static void limit_behind_a_delete(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct txn_op ops[] = {
                {.kind = OP_DELETE, .delete = {.range = {.key = bytes_of_string("/a")}}},
                {.kind = OP_RANGE, .range = {.range = {bytes_of_string("/"), bytes_of_string("0")}, .limit = 1}},
        };
        struct txn txn = {.success = ops, .n_success = 2};
        struct answer answer;

        engine_put(e, a, "/a", "1");
        engine_put(e, a, "/b", "2");
        answer = engine_txn(e, a, &txn);
        assert_int_equal(answer.result, KEYSPACE_OK);
        assert_string_equal(answer.kvs[0].key, "/b");
        assert_string_equal(answer.kvs[0].value, "2");
        engine_keyspace_close(e, a);
}
static void sort_by_value_keys_only(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct txn_op ops[] = {
                {.kind = OP_RANGE,
                        .range = {.range = {bytes_of_string("/"), bytes_of_string("0")},
                                .keys_only = true,
                                .sort_target = SORT_VALUE}},
        };
        struct txn txn = {.success = ops, .n_success = 1};
        struct answer answer;

        engine_put(e, a, "/a", "2");
        engine_put(e, a, "/b", "1");
        answer = engine_txn(e, a, &txn);
        assert_int_equal(answer.result, KEYSPACE_OK);
        assert_string_equal(answer.kvs[0].key, "/b");
        engine_keyspace_close(e, a);
}

/* 8 */
static void deadline_on_a_hung_datastore(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct memory_faults f = {.delay_us = 4000000};
        struct late_call *l;
        uint64_t began;

        engine_put(e, a, "/k", "1");
        engine_run(e, 300, NULL);
        memory_set_faults("shared", &f);
        began = clock_now_ns();
        l = start_put(a, "/k", "2", 1000);
        engine_run(e, 6000, &l->done);
        memory_set_faults("shared", NULL);
        print_message("# after %llu ms\n", (unsigned long long)((clock_now_ns() - began) / NSEC_PER_MSEC));
        assert_true(clock_now_ns() - began < 1500 * NSEC_PER_MSEC);
        engine_run(e, 3500, NULL);
        engine_keyspace_close(e, a);
}

/* Who waits behind a question that nobody waits for any more, and which hangs, still has a deadline. */
static void deadline_behind_an_abandoned_question(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct memory_faults f = {.delay_us = 6000000};
        struct late_call *l;
        uint64_t asked;

        engine_put(e, a, "/k", "1");
        engine_get(e, a, "/k");
        asked = memory_calls("shared", MEMORY_ENDS);
        memory_set_faults("shared", &f);
        for (int i = 0; i < 2; i++) {
                l = start_barrier(a, 500);
                engine_run(e, 20000, &l->done);
                assert_true(l->done);
                assert_int_not_equal(l->result, KEYSPACE_OK);
                engine_run(e, 300, NULL); /* the ageing timer runs out */
        }
        assert_int_equal(memory_calls("shared", MEMORY_ENDS), asked + 1);
        memory_set_faults("shared", NULL);
        engine_keyspace_close(e, a);
}

/* B's own Compact behind another daemon's mark. */
static void compact_behind_a_foreign_mark(void **state) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "shared", NULL};
        struct keyspace *a, *b = engine_keyspace(e, 2);
        struct late_call *l;

        engine_open(&other, &stoke_driver, settings, 1);
        a = engine_keyspace(&other, 1);
        for (int i = 0; i < 6; i++)
                engine_put(&other, a, "/k", "1");
        assert_int_equal(engine_get(e, b, "/k").count, 1);
        assert_int_equal(engine_compact(&other, a, 4), KEYSPACE_OK);
        engine_get(e, b, "/k");
        engine_run(e, 300, NULL);
        l = start_compact(b, 6, false, 3000);
        engine_run(e, 5000, &l->done);
        assert_true(l->done);
        assert_int_equal(l->result, KEYSPACE_OK);
        engine_keyspace_close(&other, a);
        engine_close(&other);
        engine_keyspace_close(e, b);
}
/* Physical, deletions fail: not answered at its deadline. */
static void physical_deadline(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct late_call *l;

        for (int i = 0; i < 6; i++)
                engine_put(e, a, "/k", "1");
        engine_run(e, 300, NULL);
        memory_fail_next("shared", MEMORY_COMPACT, 1000, -EIO);
        l = start_compact(a, 4, true, 2000);
        engine_run(e, 4000, &l->done);
        memory_fail_next("shared", MEMORY_COMPACT, 0, 0);
        assert_true(l->done);
        engine_keyspace_close(e, a);
}

/* B's put landed late, was overwritten by a, and compacted away before b looked. */
static void landed_and_compacted(void **state) {
        struct engine *e = *state, other = {};
        const char *settings[] = {"instance", "shared", NULL};
        struct keyspace *a, *b = engine_keyspace(e, 2);
        struct late_call *l;
        struct answer answer;

        engine_open(&other, &stoke_driver, settings, 1 << 20);
        a = engine_keyspace(&other, 1);
        engine_put(&other, a, "/k", "0");
        assert_int_equal(engine_get(e, b, "/k").count, 1);
        memory_limbo_next("shared");
        memory_fail_next("shared", MEMORY_LOAD, 1000000, -EIO);
        l = start_put(b, "/k", "mine", 20000);
        for (int i = 0; i < 100 && !memory_in_limbo("shared", "t"); i++)
                engine_run(e, 100, NULL);
        assert_false(l->done);
        memory_fail_next("shared", MEMORY_LOAD, 0, 0);
        assert_true(memory_land("shared", "t"));
        assert_string_equal(engine_get(&other, a, "/k").kvs[0].value, "mine");
        engine_put(&other, a, "/k", "theirs");
        engine_put(&other, a, "/x", "1");
        assert_int_equal(engine_compact(&other, a, 5), KEYSPACE_OK);
        engine_run(e, 10000, &l->done);
        answer = engine_get(e, b, "/k");
        print_message("# result %d, value %s, version %lld\n", l->result, answer.kvs[0].value,
                (long long)answer.kvs[0].version);
        assert_string_equal(answer.kvs[0].value, "theirs");
        engine_keyspace_close(&other, a);
        engine_close(&other);
        engine_keyspace_close(e, b);
}

/* More tombstones than a batch may hold, over several leases. */
static void on_grant(struct keyspace_call *call, enum keyspace_result result) {
        (void)result;
        *(bool *)container_of(call, struct lease_call, call)->keys = true;
}
static void many_leases_expire_at_once(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct keyspace_status status;

        for (int i = 0; i < 16; i++) {
                bool done = false;
                struct lease_call c = {.id = i + 1, .ttl = 4, .keys = (struct bytes *)(void *)&done};
                c.call.done = on_grant;
                c.call.deadline_ns = clock_now_ns() + NSEC_PER_SEC * 5;
                keyspace_lease_grant(a, &c);
                engine_run(e, 5000, &done);
                for (int t = 0; t < 2; t++) {
                        static char keys[300][32];
                        static struct txn_op ops[300];
                        struct txn txn = {.success = ops, .n_success = 300};
                        for (int k = 0; k < 300; k++) {
                                (void)snprintf(keys[k], 32, "/l%d-%d-%d", i, t, k);
                                ops[k] = (struct txn_op){.kind = OP_PUT,
                                        .put = {.key = bytes_of_string(keys[k]),
                                                .value = bytes_of_string("v"),
                                                .lease = i + 1}};
                        }
                        assert_int_equal(engine_txn(e, a, &txn).result, KEYSPACE_OK);
                }
        }
        keyspace_get_status(a, &status);
        print_message(
                "# keys %llu leases %llu\n", (unsigned long long)status.n_keys, (unsigned long long)status.n_leases);
        /* a new daemon counts all from now: they end together */
        engine_keyspace_close(e, a);
        a = engine_keyspace(e, 1);
        engine_get(e, a, "/x");
        engine_run(e, 9000, NULL);
        keyspace_get_status(a, &status);
        print_message(
                "# keys %llu leases %llu\n", (unsigned long long)status.n_keys, (unsigned long long)status.n_leases);
        assert_int_equal(status.n_leases, 0);
        engine_keyspace_close(e, a);
}
/* A neighbour in the batch of a big delete. */
static void neighbour_of_a_big_delete(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct late_call *before, *del, *after;

        mass_put(e, a, "/m", 50, 100);
        before = start_put(a, "/before", "1", 5000);
        del = start_put(a, "/d", "1", 5000);
        del->op =
                (struct txn_op){.kind = OP_DELETE, .delete = {.range = {bytes_of_string("/m"), bytes_of_string("/n")}}};
        after = start_put(a, "/after", "1", 5000);
        engine_run(e, 5000, &after->done);
        assert_true(before->done && del->done && after->done);
        print_message("# results %d %d %d deleted %lld\n", before->result, del->result, after->result,
                (long long)(del->txn.result.n_results ? del->txn.result.results[0].delete.deleted : -1));
        assert_int_equal(before->result, KEYSPACE_OK);
        assert_int_equal(after->result, KEYSPACE_OK);
        engine_keyspace_close(e, a);
}

/* A call that comes between keyspace_close() and its end is answered all the same. */
struct late_asker {
        struct loop_task task;
        struct keyspace *ks;
        struct late_call *l;
        bool closed, done_when_closed;
};

static void ask_late(struct loop_task *task) {
        struct late_asker *a = container_of(task, struct late_asker, task);

        a->l = start_put(a->ks, "/late", "1", 1000);
}

static void closed_late(void *userdata) {
        struct late_asker *a = userdata;

        a->closed = true;
        a->done_when_closed = !a->l || a->l->done;
        keyspace_free(a->ks);
}

static void call_while_closing(void **state) {
        struct engine *e = *state;
        struct late_asker a = {.task.run = ask_late, .ks = engine_keyspace(e, 1)};

        keyspace_close(a.ks, closed_late, &a);
        ask_late(&a.task); /* as another deferred task of the same iteration would */
        engine_run(e, 1000, &a.closed);
        e->n_open--;
        assert_true(a.closed);
        assert_true(a.done_when_closed);
}

/* A watch that must read each value makes way although more is written all the time. */
static void behind_a_busy_writer(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1);
        struct recorder *r = new0(struct recorder);
        size_t n = 0;

        for (; n < 30; n++)
                engine_put(e, a, "/busy", "x");
        engine_watch(e, a, r, "/busy", 2, true);
        for (; n < 400 && !r->cancelled; n++)
                engine_put(e, a, "/busy", "x");
        for (uint64_t end = clock_now_ns() + 20 * NSEC_PER_SEC; r->n_events < n && clock_now_ns() < end;)
                engine_run(e, 5, NULL);
        assert_false(r->cancelled);
        assert_int_equal(r->n_events, n);
        watcher_free(r->watcher);
        free(r);
        engine_keyspace_close(e, a);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(write_on_forked_log, setup, teardown),
                cmocka_unit_test_setup_teardown(long_tail_compacted, setup, teardown),
                cmocka_unit_test_setup_teardown(long_tail_two_marks, setup, teardown),
                cmocka_unit_test_setup_teardown(long_tail_half_revision, setup, teardown),
                cmocka_unit_test_setup_teardown(close_with_unknown, setup, teardown),
                cmocka_unit_test_setup_teardown(close_with_closer, setup, teardown),
                cmocka_unit_test_setup_teardown(prev_kv_compacted_elsewhere, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(serializable_compacted_elsewhere, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(limit_behind_a_delete, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(sort_by_value_keys_only, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(deadline_on_a_hung_datastore, setup, teardown),
                cmocka_unit_test_setup_teardown(deadline_behind_an_abandoned_question, setup, teardown),
                cmocka_unit_test_setup_teardown(compact_behind_a_foreign_mark, setup, teardown),
                cmocka_unit_test_setup_teardown(physical_deadline, setup, teardown),
                cmocka_unit_test_setup_teardown(behind_a_busy_writer, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(call_while_closing, setup, teardown),
                cmocka_unit_test_setup_teardown(landed_and_compacted, setup, teardown),
                cmocka_unit_test_setup_teardown(many_leases_expire_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(neighbour_of_a_big_delete, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
