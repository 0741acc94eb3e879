/*
 * Long ranges: no slice is longer than its bound, and what is read at a revision stays exact while others write, delete and compact
 * between the slices. The order of events is the loop's, not the clock's: a task that takes turns with the range's slices writes, compacts
 * or cancels.
 */

#include "engine.h"
#include "keyspace/range.h"
#include "memory.h"

#define N_KEYS 12000
#define VALUE_SIZE 40

static size_t cache_bytes = 256 << 20;

static int setup(void **state) {
        static struct engine e;
        static const char *const settings[] = {"instance", "range", NULL, NULL};

        e = (struct engine){};
        memory_reset("range");
        engine_open(&e, &stoke_driver, settings, cache_bytes);
        *state = &e;
        return 0;
}

static int setup_uncached(void **state) {
        int r;

        cache_bytes = 1;
        r = setup(state);
        cache_bytes = 256 << 20;
        return r;
}

static int teardown(void **state) {
        engine_close(*state);
        memory_reset("range");
        return 0;
}

/* ---- keys k00000 to k11999 under /r/; the value's first word sorts them otherwise */

static void key_of(char *ret, size_t i) {
        (void)snprintf(ret, 16, "/r/k%05zu", i);
}

static size_t shuffled(size_t i) {
        return i * 7919 % N_KEYS;
}

static void value_of(char *ret, size_t i, size_t round) {
        (void)snprintf(ret, VALUE_SIZE, "%05zu round %zu", shuffled(i), round);
}

static int64_t put_all(struct engine *e, struct keyspace *ks, size_t round) {
        struct answer a = {};

        for (size_t first = 0; first < N_KEYS; first += 1000) {
                static char keys[1000][16], values[1000][VALUE_SIZE];
                static struct txn_op ops[1000];
                struct txn txn = {.success = ops, .n_success = n_elements(ops)};

                for (size_t i = 0; i < n_elements(ops); i++) {
                        key_of(keys[i], first + i);
                        value_of(values[i], first + i, round);
                        ops[i] = (struct txn_op){.kind = OP_PUT,
                                .put = {.key = bytes_of_string(keys[i]), .value = bytes_of_string(values[i])}};
                }
                a = engine_txn(e, ks, &txn);
                assert_int_equal(a.result, KEYSPACE_OK);
        }
        return a.revision;
}

/* ---- a list, and somebody who interferes with it */

struct list {
        struct range_call call;
        struct arena arena;
        struct engine *engine;
        bool done, pauses;
        enum keyspace_result result;
        size_t n, n_slices, most_kvs;
        size_t (*nth)(size_t i); /* which key is the i-th */
        size_t round;            /* of the values */

        /* Takes turns with the slices. */
        struct loop_task turn;
        struct keyspace *ks;
        size_t n_turns, cancel_at;
        void (*interfere)(struct list *list);
        struct txn_call put;
        struct txn_op op;
        struct txn txn;
        char key[16], value[VALUE_SIZE];
        bool putting, compacting;
        struct compact_call compact;
        size_t n_puts;
};

static size_t in_order(size_t i) {
        return i;
}

static size_t backwards(size_t i) {
        return N_KEYS - 1 - i;
}

static size_t by_value(size_t i) {
        static size_t of[N_KEYS];

        if (of[0] == of[1])
                for (size_t j = 0; j < N_KEYS; j++)
                        of[shuffled(j)] = j;
        return of[i];
}

static bool on_slice(struct range_call *call, const struct kv *kvs, size_t n_kvs) {
        struct list *l = container_of(call, struct list, call);

        assert_true(n_kvs <= SLICE_KEYS);
        l->n_slices++;
        l->most_kvs = max_of(l->most_kvs, n_kvs);
        for (size_t i = 0; i < n_kvs; i++, l->n++) {
                char key[16], value[VALUE_SIZE];
                size_t which = l->nth(l->n);

                key_of(key, which);
                value_of(value, which, l->round);
                assert_true(bytes_equal(kvs[i].key, bytes_of_string(key)));
                if (!call->request.keys_only)
                        assert_true(bytes_equal(blob_bytes(kvs[i].value), bytes_of_string(value)));
        }
        return !l->pauses;
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        struct list *l = container_of(call, struct list, call.call);

        l->done = true;
        l->result = result;
}

static void on_turn(struct loop_task *task) {
        struct list *l = container_of(task, struct list, turn);

        if (l->done)
                return;
        if (l->cancel_at && l->n_turns == l->cancel_at) {
                keyspace_cancel(&l->call.call);
                l->done = true;
                return;
        }
        l->n_turns++;
        if (l->interfere)
                l->interfere(l);
        loop_slice(l->engine->loop, &l->turn);
}

static void list_start(struct list *l, struct engine *e, struct keyspace *ks, const struct range_request *request) {
        arena_init(&l->arena, 0);
        l->engine = e;
        l->ks = ks;
        l->call.request = *request;
        l->call.request.range = (struct key_range){bytes_of_string("/r/"), bytes_of_string("/r0")};
        l->call.on_slice = on_slice;
        l->call.call.done = on_done;
        l->call.call.deadline_ns = clock_now_ns() + 60 * NSEC_PER_SEC;
        l->call.call.arena = &l->arena;
        l->turn.run = on_turn;
        if (!l->nth)
                l->nth = in_order;
        loop_slice(e->loop, &l->turn);
        keyspace_range(ks, &l->call);
}

static void list_end(struct list *l) {
        bool busy = true;

        engine_run(l->engine, 60000, &l->done);
        assert_true(l->done);
        for (unsigned i = 0; i < 1000 && busy; i++) {
                engine_run(l->engine, 2, NULL);
                busy = l->putting || l->compacting;
        }
        assert_false(busy);
        loop_unslice(l->engine->loop, &l->turn);
        arena_done(&l->arena);
}

static void assert_bounded(const struct keyspace *ks) {
        /* The last step of a slice may go beyond by a run that is sorted, or by a key. */
        assert_true(ks->slice_units && ks->slice_units <= SLICE_UNITS + 256);
        assert_true(ks->slice_bytes <= SLICE_BYTES + 2 * 1024);
}

/* ---- writes between the slices */

static void on_put(struct keyspace_call *call, enum keyspace_result result) {
        struct list *l = container_of(call, struct list, put.call);

        assert_int_equal(result, KEYSPACE_OK);
        txn_result_release(&l->put);
        arena_done(&l->arena);
        l->putting = false;
        l->n_puts++;
}

/* Overwrites, deletes and creates, everywhere in the range. */
static void write_something(struct list *l) {
        size_t n = l->n_puts;

        if (l->putting)
                return;
        key_of(l->key, n * 31 % N_KEYS);
        if (n % 3 == 2)
                l->key[8] = 'x'; /* a key between others */
        (void)snprintf(l->value, sizeof(l->value), "other %zu", n);
        l->op = n % 3 == 1 ? (struct txn_op){.kind = OP_DELETE, .delete = {.range = {.key = bytes_of_string(l->key)}}}
                           : (struct txn_op){.kind = OP_PUT,
                                     .put = {.key = bytes_of_string(l->key), .value = bytes_of_string(l->value)}};
        l->txn = (struct txn){.success = &l->op, .n_success = 1};
        l->put = (struct txn_call){.txn = &l->txn};
        l->put.call.done = on_put;
        l->put.call.deadline_ns = clock_now_ns() + 60 * NSEC_PER_SEC;
        l->put.call.arena = &l->arena;
        l->putting = true;
        keyspace_txn(l->ks, &l->put);
}

static void on_compact(struct keyspace_call *call, enum keyspace_result result) {
        struct list *l = container_of(call, struct list, compact.call);

        assert_true(result == KEYSPACE_OK || result == KEYSPACE_COMPACTED);
        l->compacting = false;
}

static void compact_at(struct list *l, int64_t revision) {
        if (l->compacting)
                return;
        l->compact = (struct compact_call){.revision_wanted = revision};
        l->compact.call.done = on_compact;
        l->compact.call.deadline_ns = clock_now_ns() + 60 * NSEC_PER_SEC;
        l->compact.call.arena = &l->arena;
        l->compacting = true;
        keyspace_compact(l->ks, &l->compact);
}

/* Up to the revision that is read: all that it needs stays. */
static void write_and_compact(struct list *l) {
        write_something(l);
        if (l->n_turns == 2)
                compact_at(l, l->call.request.revision);
}

static void exact_while_written(void **state) {
        static const struct {
                struct range_request request;
                size_t (*nth)(size_t i);
        } cases[] = {
                {{}, in_order},
                {{.keys_only = true}, in_order},
                {{.sort_target = SORT_KEY, .sort_order = SORT_DESCEND}, backwards},
                {{.sort_target = SORT_MOD, .sort_order = SORT_ASCEND, .keys_only = true}, in_order},
                {{.sort_target = SORT_VALUE, .sort_order = SORT_ASCEND}, by_value},
                {{.sort_target = SORT_VALUE, .sort_order = SORT_ASCEND, .limit = 5000}, by_value},
                {{.limit = 7000}, in_order},
        };
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        int64_t revision;

        revision = put_all(e, ks, 0);
        for (size_t i = 0; i < n_elements(cases); i++) {
                /* The newest revision at its start, then a past one that has much behind it. */
                for (int past = 0; past < 3; past++) {
                        struct range_request request = cases[i].request;
                        struct list l = {.interfere = past == 2 ? write_and_compact : write_something};
                        size_t n_wanted = request.limit ? (size_t)request.limit : N_KEYS;

                        if (past == 0)
                                revision = put_all(e, ks, i + 1);
                        l.round = i + 1;
                        l.nth = cases[i].nth;
                        request.revision = revision;
                        list_start(&l, e, ks, &request);
                        list_end(&l);
                        assert_int_equal(l.result, KEYSPACE_OK);
                        assert_int_equal(l.n, n_wanted);
                        /* Extra keys of earlier cases were made below this revision. */
                        assert_true(l.call.count == N_KEYS);
                        assert_int_equal(l.call.more, n_wanted < N_KEYS);
                        assert_true(l.n_slices > n_wanted / SLICE_KEYS);
                        assert_true(l.n_puts > 0);
                }
                assert_int_equal(engine_delete(e, ks, "/r/", "/r0").result, KEYSPACE_OK);
        }
        assert_bounded(ks);
        engine_keyspace_close(e, ks);
}

/* ---- counts */

static void count_exact(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        int64_t revision = put_all(e, ks, 0);
        struct range_request request = {.revision = revision, .count_only = true};

        /* Little behind the revision: by the history. */
        for (unsigned i = 0; i < 3; i++) {
                struct list l = {.interfere = write_something};

                put_all(e, ks, 1);
                if (i == 1)
                        assert_int_equal(engine_delete(e, ks, "/r/k01", "/r/k02").deleted, 1000);
                list_start(&l, e, ks, &request);
                list_end(&l);
                assert_int_equal(l.result, KEYSPACE_OK);
                assert_int_equal(l.call.count, N_KEYS);
                assert_true(l.n_turns > 1);
        }
        /* More than there are keys: by the index. */
        assert_int_equal(engine_delete(e, ks, "/r/", "/r0").result, KEYSPACE_OK);
        for (unsigned i = 0; i < 2; i++) {
                struct list l = {.interfere = write_something};

                list_start(&l, e, ks, &request);
                list_end(&l);
                assert_int_equal(l.result, KEYSPACE_OK);
                assert_int_equal(l.call.count, N_KEYS);
                assert_true(l.n_turns > 1);
        }
        assert_bounded(ks);
        engine_keyspace_close(e, ks);
}

/* ---- compacted between the slices */

static void compact_above(struct list *l) {
        if (l->n_turns == 2)
                compact_at(l, l->call.request.revision + 1);
}

static void compacted_between_slices(void **state) {
        static const struct range_request requests[] = {
                {},
                {.keys_only = true},
                {.sort_target = SORT_MOD, .sort_order = SORT_ASCEND},
                {.sort_target = SORT_VALUE, .sort_order = SORT_ASCEND},
                {.count_only = true},
        };
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);

        for (size_t i = 0; i < n_elements(requests); i++) {
                struct range_request request = requests[i];
                struct list l = {.pauses = true, .interfere = compact_above, .round = i * 2};

                request.revision = put_all(e, ks, i * 2);
                if (request.sort_target == SORT_VALUE)
                        l.nth = by_value;
                put_all(e, ks, i * 2 + 1);
                if (request.sort_target == SORT_MOD) /* gathered and sorted by then, and values are still needed */
                        l.interfere = NULL;
                list_start(&l, e, ks, &request);
                engine_run(e, 500, &l.done);
                if (!l.interfere)
                        compact_at(&l, request.revision + 1);
                while (!l.done) {
                        l.pauses = l.compacting || ks->compacted <= request.revision;
                        keyspace_range_resume(&l.call);
                        engine_run(e, 1, &l.done);
                }
                list_end(&l);
                if (l.result == KEYSPACE_OK) { /* it had all that it needed when the mark came */
                        assert_true(request.count_only || request.keys_only || request.sort_target == SORT_VALUE);
                        assert_true(request.count_only || l.n == N_KEYS);
                        assert_int_equal(l.call.count, N_KEYS);
                } else {
                        assert_int_equal(l.result, KEYSPACE_COMPACTED);
                        assert_true(l.n < N_KEYS);
                }
                if (i < 3)
                        assert_int_equal(l.result, KEYSPACE_COMPACTED);
        }
        engine_keyspace_close(e, ks);
}

/* ---- cancelled at every stage */

static void cancelled_in_each_slice(void **state) {
        static const struct range_request requests[] = {
                {},
                {.sort_target = SORT_MOD, .sort_order = SORT_DESCEND, .keys_only = true},
                {.sort_target = SORT_VALUE, .sort_order = SORT_ASCEND},
                {.count_only = true},
        };
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        int64_t revision = put_all(e, ks, 0);

        put_all(e, ks, 1);
        for (size_t i = 0; i < n_elements(requests); i++) {
                bool whole = false;

                for (size_t at = 1; !whole; at += 1 + at / 4) {
                        struct range_request request = requests[i];
                        struct list l = {.cancel_at = at};

                        request.revision = revision;
                        l.nth = request.sort_target == SORT_VALUE ? by_value
                                : request.sort_target == SORT_MOD ? NULL
                                                                  : in_order;
                        if (!l.nth)
                                request.sort_order = SORT_ASCEND;
                        list_start(&l, e, ks, &request);
                        list_end(&l);
                        whole = l.call.call.own.keyspace == NULL && l.n_turns < at;
                        if (whole) {
                                assert_int_equal(l.result, KEYSPACE_OK);
                                assert_int_equal(l.call.count, N_KEYS);
                        }
                }
        }
        /* What was cancelled while values were on their way is at rest before the keyspace goes. */
        engine_keyspace_close(e, ks);
}

/* ---- large values */

static bool count_bytes(struct range_call *call, const struct kv *kvs, size_t n_kvs) {
        struct list *l = container_of(call, struct list, call);
        size_t bytes = 0;

        for (size_t i = 0; i < n_kvs; i++)
                bytes += kvs[i].value->size;
        assert_true(bytes <= SLICE_BYTES + 100 * 1024 + 1024);
        l->n += n_kvs;
        return true;
}

static void large_values_are_cut(void **state) {
        static const enum sort_order orders[] = {SORT_NONE, SORT_DESCEND};
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        cleanup(freep) char *value = malloc(100 * 1024 + 1);

        assert_non_null(value);
        memset(value, 'v', 100 * 1024);
        value[100 * 1024] = 0;
        for (size_t i = 0; i < 40; i++) {
                char key[16];

                key_of(key, i);
                assert_int_equal(engine_put(e, ks, key, value).result, KEYSPACE_OK);
        }
        for (size_t i = 0; i < n_elements(orders); i++) {
                struct range_request request = {.sort_order = orders[i]};
                struct list l = {};

                list_start(&l, e, ks, &request);
                l.call.on_slice = count_bytes;
                list_end(&l);
                assert_int_equal(l.result, KEYSPACE_OK);
                assert_int_equal(l.n, 40);
        }
        engine_keyspace_close(e, ks);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(exact_while_written, setup, teardown),
                cmocka_unit_test_setup_teardown(exact_while_written, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(count_exact, setup, teardown),
                cmocka_unit_test_setup_teardown(compacted_between_slices, setup, teardown),
                cmocka_unit_test_setup_teardown(cancelled_in_each_slice, setup, teardown),
                cmocka_unit_test_setup_teardown(cancelled_in_each_slice, setup_uncached, teardown),
                cmocka_unit_test_setup_teardown(large_values_are_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(large_values_are_cut, setup_uncached, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
