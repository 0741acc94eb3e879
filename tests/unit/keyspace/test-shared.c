/*
 * Several daemons on one log that refuses, loses answers, and lands appends late. What clients were told must be a
 * history that one etcd could have produced: every response carries a revision, so all is recorded and replayed. If
 * this fails, somebody's acknowledged write is lost, made twice, or not seen by a later read.
 */
#include "engine.h"

#include <time.h>

#include "base/log.h"
#include "memory.h"

#define N_DAEMONS 3
#define N_KEYS 6
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

struct operation {
        struct txn_call txn;
        struct range_call range;
        struct arena arena;
        struct txn tree;
        struct txn_op ops[2];
        struct compare compare;
        char key[8], value[16];
        unsigned number, worker;
        bool is_read, is_delete, running, done;
        int64_t expected_mod; /* of the compare */
        int64_t floor;        /* the highest revision that anybody had been told when it began */
        enum keyspace_result result;
        int64_t revision;
        /* What a read, or a failed compare, saw. */
        bool found;
        char seen[16];
        int64_t seen_mod;
        struct run *run;
};

struct run {
        struct engine *e;
        struct keyspace *daemons[N_DAEMONS];
        struct operation *operations;
        unsigned n, n_done;
        int64_t told;
        int64_t guess[N_KEYS]; /* mod revisions that workers try */
        int64_t compacted;
        bool all_done;
        uint64_t patience_ns;
        bool compacts;
        struct compact_call compaction;
        bool compacting;
        unsigned n_compactions;
};

static void next_operation(struct run *run, unsigned worker);

static void on_compacted(struct keyspace_call *call, enum keyspace_result result) {
        struct run *run = container_of(container_of(call, struct compact_call, call), struct run, compaction);

        run->compacting = false;
        run->n_compactions += result == KEYSPACE_OK;
}

/* Some revisions behind what was told, by one daemon or another. */
static void compact_sometimes(struct run *run) {
        if (!run->compacts || run->compacting || run->told < 60 || rand_r(&seed) % 5)
                return;
        run->compacting = true;
        run->compaction = (struct compact_call){.revision_wanted = run->told - 40, .physical = rand_r(&seed) % 2};
        run->compaction.call.done = on_compacted;
        run->compaction.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_compact(run->daemons[(unsigned)rand_r(&seed) % N_DAEMONS], &run->compaction);
}

static void finish_operation(struct operation *o, enum keyspace_result result, int64_t revision) {
        struct run *run = o->run;

        o->done = true;
        o->result = result;
        o->revision = revision;
        if (result == KEYSPACE_OK && revision > run->told)
                run->told = revision;
        if (result == KEYSPACE_OK && (o->found || (!o->is_read && o->txn.result.succeeded)))
                run->guess[o->key[1] - '0'] = o->found ? o->seen_mod : o->is_delete ? 0 : revision;
        else if (result == KEYSPACE_OK)
                run->guess[o->key[1] - '0'] = 0;
        run->n_done++;
        compact_sometimes(run);
        if (run->n_done == n_operations)
                run->all_done = true;
        else
                next_operation(run, o->worker);
}

static void see(struct operation *o, const struct kv *kv) {
        o->found = true;
        o->seen_mod = kv->mod_revision;
        (void)snprintf(o->seen, sizeof(o->seen), "%.*s", (int)kv->value->size, (const char *)kv->value->data);
}

static void on_txn(struct keyspace_call *call, enum keyspace_result result) {
        struct operation *o = container_of(container_of(call, struct txn_call, call), struct operation, txn);

        if (result == KEYSPACE_OK && !o->txn.result.succeeded && o->txn.result.results[0].range.n_kvs)
                see(o, &o->txn.result.results[0].range.kvs[0]);
        finish_operation(o, result, call->revision);
        if (result == KEYSPACE_OK) {
                bool succeeded = o->txn.result.succeeded;

                txn_result_release(&o->txn);
                o->txn.result.succeeded = succeeded;
        }
}

static bool on_kv(struct range_call *call, const struct kv *kvs, size_t n) {
        assert_int_equal(n, 1);
        see(container_of(call, struct operation, range), kvs);
        return true;
}

static void on_range(struct keyspace_call *call, enum keyspace_result result) {
        struct operation *o = container_of(container_of(call, struct range_call, call), struct operation, range);

        finish_operation(o, result, call->revision);
}

static void next_operation(struct run *run, unsigned worker) {
        struct operation *o;
        struct keyspace *ks = run->daemons[worker % N_DAEMONS];
        unsigned key = (unsigned)rand_r(&seed) % N_KEYS;
        uint64_t deadline = clock_now_ns() + run->patience_ns;

        if (run->n == n_operations)
                return;
        o = &run->operations[run->n];
        o->number = run->n++;
        o->run = run;
        o->worker = worker;
        o->floor = run->told;
        arena_init(&o->arena, 0);
        (void)snprintf(o->key, sizeof(o->key), "k%u", key);
        (void)snprintf(o->value, sizeof(o->value), "v%u", o->number);

        if (rand_r(&seed) % 3 == 0) {
                o->is_read = true;
                o->range.request.range.key = bytes_of_string(o->key);
                o->range.on_slice = on_kv;
                o->range.call.done = on_range;
                o->range.call.arena = &o->arena;
                o->range.call.deadline_ns = deadline;
                keyspace_range(ks, &o->range);
                return;
        }
        o->is_delete = rand_r(&seed) % 4 == 0 && run->guess[key];
        o->expected_mod = run->guess[key];
        o->compare = (struct compare){
                .target = COMPARE_MOD, .range.key = bytes_of_string(o->key), .number = o->expected_mod};
        if (o->is_delete)
                o->ops[0] = (struct txn_op){.kind = OP_DELETE, .delete.range.key = bytes_of_string(o->key)};
        else
                o->ops[0] = (struct txn_op){
                        .kind = OP_PUT, .put = {.key = bytes_of_string(o->key), .value = bytes_of_string(o->value)}};
        o->ops[1] = (struct txn_op){.kind = OP_RANGE, .range.range.key = bytes_of_string(o->key)};
        o->tree = (struct txn){&o->compare, 1, &o->ops[0], &o->ops[1], 1, 1};
        o->txn.txn = &o->tree;
        o->txn.call.done = on_txn;
        o->txn.call.arena = &o->arena;
        o->txn.call.deadline_ns = deadline;
        keyspace_txn(ks, &o->txn);
}

/* What a watcher from the beginning saw. */
struct event {
        int64_t revision;
        unsigned key;
        bool is_delete;
        char value[16];
};
struct log {
        struct event *events;
        size_t n;
        bool synced;
        bool left_behind; /* what it needed was compacted */
        int64_t revision;
};

static void log_created(void *userdata, int64_t revision) {
        (void)userdata;
        (void)revision;
}

static bool log_events(void *userdata, struct watch_event *const *events, size_t n, int64_t revision) {
        struct log *log = userdata;

        for (size_t i = 0; i < n; i++) {
                struct event *e;

                log->events = realloc(log->events, (log->n + 1) * sizeof(*log->events));
                e = &log->events[log->n++];
                *e = (struct event){
                        .revision = events[i]->kv.mod_revision,
                        .key = (unsigned)(events[i]->kv.key.data[1] - '0'),
                        .is_delete = events[i]->is_delete,
                };
                if (!e->is_delete)
                        (void)snprintf(e->value, sizeof(e->value), "%.*s", (int)events[i]->kv.value->size,
                                (const char *)events[i]->kv.value->data);
                /* Ordered, unique, nothing left out. */
                assert_int_equal(e->revision, log->n + 1);
        }
        log->revision = revision;
        return true;
}

static void log_synced(void *userdata, int64_t revision) {
        struct log *log = userdata;

        log->synced = true;
        log->revision = revision;
}

static void log_cancelled(void *userdata, enum keyspace_result result, int64_t compact_revision) {
        struct log *log = userdata;

        (void)compact_revision;
        if (result == KEYSPACE_COMPACTED)
                log->left_behind = true;
        else if (result != KEYSPACE_STOPPED)
                fail_msg("a watch was cancelled: %d", result);
}

static struct watcher *log_watch(struct keyspace *ks, struct log *log) {
        struct watcher_config config = {
                .range = {bytes_of_string("k"), bytes_of_string("l")},
                .start_revision = 1,
                .userdata = log,
                .on_created = log_created,
                .on_events = log_events,
                .on_synced = log_synced,
                .on_cancelled = log_cancelled,
        };
        struct watcher *w;

        assert_int_equal(keyspace_watch(ks, &config, &w), 0);
        return w;
}

/* The state of a key once the log's events up to a revision were applied. */
static const struct event *state_at(const struct log *log, unsigned key, int64_t revision) {
        for (size_t i = log->n; i-- > 0;)
                if (log->events[i].revision <= revision && log->events[i].key == key)
                        return log->events[i].is_delete ? NULL : &log->events[i];
        return NULL;
}

static void check_operation(const struct operation *o, const struct log *log) {
        unsigned key = (unsigned)(o->key[1] - '0'), n_found = 0;
        const struct event *before, *at;

        for (size_t i = 0; i < log->n; i++)
                if (!log->events[i].is_delete && strcmp(log->events[i].value, o->value) == 0) {
                        n_found++;
                        before = state_at(log, key, log->events[i].revision - 1);
                        assert_int_equal(before ? before->revision : 0, o->expected_mod);
                        assert_int_equal(log->events[i].key, key);
                }
        if (o->is_read || o->is_delete)
                assert_int_equal(n_found, 0);
        assert_true(n_found <= 1);
        if (o->result != KEYSPACE_OK) {
                assert_true(o->result == KEYSPACE_UNAVAILABLE || o->result == KEYSPACE_TIMEOUT);
                return;
        }

        assert_true(o->revision >= o->floor);
        at = state_at(log, key, o->revision);
        if (!o->is_read && o->txn.result.succeeded) {
                assert_true(o->revision > o->floor);
                before = state_at(log, key, o->revision - 1);
                assert_int_equal(before ? before->revision : 0, o->expected_mod);
                if (o->is_delete)
                        assert_null(at);
                else {
                        assert_int_equal(n_found, 1);
                        assert_int_equal(at->revision, o->revision);
                        assert_string_equal(at->value, o->value);
                }
                return;
        }
        if (!o->is_read) {
                assert_int_equal(n_found, 0);
                assert_int_not_equal(at ? at->revision : 0, o->expected_mod);
        }
        assert_int_equal(o->found, at != NULL);
        if (at) {
                assert_int_equal(o->seen_mod, at->revision);
                assert_string_equal(o->seen, at->value);
        }
}

static void history(void **state, const struct memory_faults *faults, uint64_t patience_ms, bool compacts) {
        struct engine *e = *state;
        struct run run = {.e = e, .patience_ns = patience_ms * NSEC_PER_MSEC, .compacts = compacts};
        struct log live[N_DAEMONS] = {}, last = {};
        unsigned n_ok = 0, first_seed = seed;
        struct keyspace *fresh;

        print_message("# STOKEHOLD_SEED=%u\n", first_seed);
        run.operations = xcalloc(n_operations, sizeof(*run.operations));
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                run.daemons[i] = engine_keyspace(e, (uint8_t)(i + 1));
                log_watch(run.daemons[i], &live[i]);
        }
        memory_set_faults("shared", faults);
        for (unsigned i = 0; i < N_WORKERS; i++)
                next_operation(&run, i);
        engine_run(e, 120000, &run.all_done);
        assert_true(run.all_done);
        memory_set_faults("shared", NULL);

        engine_run(e, 1500, NULL); /* each follows within a second */
        while (run.compacting)
                engine_run(e, 10, NULL);

        /* The whole history, as somebody saw it who began before it did. */
        fresh = engine_keyspace(e, 9);
        if (!compacts) {
                log_watch(fresh, &last);
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
        for (unsigned i = 0; i < n_operations; i++) {
                check_operation(&run.operations[i], &last);
                n_ok += run.operations[i].result == KEYSPACE_OK;
        }
        print_message("# %u of %u operations answered, %zu events, %u compactions\n", n_ok, n_operations, last.n,
                run.n_compactions);
        assert_true(n_ok > n_operations / 2);
        assert_true(!compacts || run.n_compactions > 0);
        for (unsigned i = 0; i <= N_DAEMONS; i++) /* what a fresh daemon reads is what the others hold */
                for (unsigned key = 0; key < N_KEYS; key++) {
                        char name[] = {'k', (char)('0' + key), 0};
                        struct answer a = engine_get(e, i < N_DAEMONS ? run.daemons[i] : fresh, name);
                        const struct event *found = state_at(&last, key, INT64_MAX);
                        struct event none = {}, at = found ? *found : none;

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
        for (unsigned i = 0; i < n_operations; i++)
                arena_done(&run.operations[i].arena);
        free(run.operations);
}

static void history_without_faults(void **state) {
        history(state, NULL, 20000, false);
}

static void history_with_refusals(void **state) {
        struct memory_faults f = {.stale = 0.2, .fail_load = 0.1, .fail_connect = 0.1};

        history(state, &f, 20000, false);
}

static void history_with_unknown_outcomes(void **state) {
        struct memory_faults f = {.unknown_landed = 0.1, .unknown_lost = 0.1, .unknown_late = 0.1, .late_after = 2};

        history(state, &f, 20000, false);
}

static void history_with_everything_and_short_deadlines(void **state) {
        struct memory_faults f = {.stale = 0.1,
                .fail_load = 0.1,
                .unknown_landed = 0.1,
                .unknown_lost = 0.1,
                .unknown_late = 0.1,
                .late_after = 3,
                .delay_us = 500};

        history(state, &f, 150, false);
}

static void history_with_compactions(void **state) {
        struct memory_faults f = {.stale = 0.1,
                .fail_load = 0.05,
                .unknown_landed = 0.05,
                .unknown_lost = 0.05,
                .unknown_late = 0.05,
                .late_after = 2};

        history(state, &f, 20000, true);
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
