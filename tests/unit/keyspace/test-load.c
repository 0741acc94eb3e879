/*
 * Opening a keyspace: its log comes in pieces, is applied as it comes, and thrown away when the reading fails in the middle; the
 * worker that reads is never far ahead of the loop, and goes when the keyspace is closed meanwhile.
 */

#include <unistd.h>

#include "engine.h"
#include "keyspace/load.h"
#include "memory.h"

#define N_KEYS 9000
#define N_RECORDS (N_KEYS + 1)

static int setup(void **state) {
        static struct engine e;
        static const char *const settings[] = {"instance", "load", NULL, NULL};

        e = (struct engine){};
        memory_reset("load");
        engine_open(&e, &stoke_driver, settings, 1 << 20);
        *state = &e;
        return 0;
}

static int teardown(void **state) {
        engine_close(*state);
        memory_reset("load");
        return 0;
}

static void fill(struct engine *e) {
        struct keyspace *ks = engine_keyspace(e, 1);

        engine_fill(e, ks, "/l/k", N_KEYS);
        engine_keyspace_close(e, ks);
}

static void assert_whole(struct engine *e, struct keyspace *ks) {
        struct keyspace_status status;
        struct answer a = engine_list(e, ks, "/l/", 0, 10);

        assert_int_equal(a.result, KEYSPACE_OK);
        assert_int_equal(a.count, N_KEYS);
        assert_int_equal(a.revision, 1 + N_KEYS / 1000);
        assert_string_equal(a.kvs[9].value, "/l/k00009");
        a = engine_get(e, ks, "/l/k08999");
        assert_string_equal(a.kvs[0].value, "/l/k08999");
        keyspace_get_status(ks, &status);
        assert_int_equal(status.condition, KEYSPACE_SERVING);
        assert_int_equal(status.n_versions, N_KEYS);
        assert_int_equal(status.n_keys, N_KEYS);
        assert_int_equal(status.end.seq, N_RECORDS);
}

static void cut_in_the_middle(void **state) {
        static const size_t cuts[] = {1, 1023, 1024, 1025, 5000, N_RECORDS - 1};
        struct engine *e = *state;

        fill(e);
        for (size_t i = 0; i < n_elements(cuts); i++) {
                struct keyspace *ks = engine_keyspace(e, (uint8_t)(i + 2));
                uint64_t n_loads = memory_calls("load", MEMORY_LOAD);

                memory_cut_next_load("load", cuts[i]);
                assert_whole(e, ks);
                assert_int_equal(memory_calls("load", MEMORY_LOAD), n_loads + 2);
                engine_keyspace_close(e, ks);
        }
}

static bool on_slice(struct range_call *call, const struct kv *kvs, size_t n_kvs) {
        (void)call;
        (void)kvs;
        (void)n_kvs;
        return true;
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        (void)result;
}

static void ask(struct keyspace *ks, struct range_call *c, struct arena *arena) {
        *c = (struct range_call){.request.range.key = bytes_of_string("/l/k00001"), .on_slice = on_slice};
        arena_init(arena, 0);
        c->call.arena = arena;
        c->call.done = on_done;
        c->call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_range(ks, c);
}

/* While the loop does not turn, the worker waits with a bounded number of pieces. */
static void worker_waits_for_the_loop(void **state) {
        struct engine *e = *state;
        struct keyspace *ks;
        struct range_call call;
        struct arena arena;
        struct load *l;
        size_t n_records = 0, n_before = SIZE_MAX;

        fill(e);
        ks = engine_keyspace(e, 2);
        ask(ks, &call, &arena);
        l = ks->load;
        assert_non_null(l);
        /* Until nothing moves any more. */
        while (n_records != n_before || !n_records) {
                n_before = n_records;
                n_records = 0;
                usleep(100000);
                pthread_mutex_lock(&l->mutex);
                for (struct piece *p = l->handed.first; p; p = p->next)
                        n_records += p->n;
                pthread_mutex_unlock(&l->mutex);
        }
        assert_true(n_records < N_RECORDS / 2);
        assert_false(l->job_done);
        assert_whole(e, ks);
        engine_keyspace_close(e, ks);
        arena_done(&arena);
}

/* Closed before, while and after its log is read. */
static void closed_while_loading(void **state) {
        struct engine *e = *state;

        fill(e);
        for (unsigned i = 0; i < 24; i++) {
                struct keyspace *ks = engine_keyspace(e, (uint8_t)(i + 2));
                struct range_call call;
                struct arena arena;

                ask(ks, &call, &arena);
                if (i % 3 == 1)
                        usleep(i * 1000); /* the worker comes to wait */
                if (i % 3 == 2)
                        engine_run(e, i / 3, NULL);
                engine_keyspace_close(e, ks);
                assert_null(call.call.own.keyspace);
                arena_done(&arena);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(cut_in_the_middle, setup, teardown),
                cmocka_unit_test_setup_teardown(worker_waits_for_the_loop, setup, teardown),
                cmocka_unit_test_setup_teardown(closed_while_loading, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
