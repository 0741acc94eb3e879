/*
 * The budget of memory. If this fails, a tenant with more data than there is room for takes all others down with it, or those
 * that nobody uses keep out those that somebody does.
 */

#include <pthread.h>

#include "engine.h"
#include "keyspace/state.h"
#include "memory.h"

#define N_KEYS 8000
#define N_KEYSPACES 4

static struct memory *budget;
static size_t one; /* what a keyspace of N_KEYS takes */

static const char *const names[N_KEYSPACES] = {"a", "b", "c", "d"};

static void fill_all(struct engine *e) {
        for (size_t i = 0; i < N_KEYSPACES; i++) {
                struct keyspace *ks;

                engine_create(e, names[i]);
                ks = engine_keyspace_named(e, names[i], 1);
                engine_fill(e, ks, "/k", N_KEYS);
                one = keyspace_bytes(ks);
                engine_keyspace_close(e, ks);
        }
}

static void begin(struct engine *e, const char *instance, struct memory *memory, size_t cache_bytes) {
        const char *const settings[] = {"instance", instance, NULL, NULL};

        *e = (struct engine){.memory = memory};
        memory_reset(instance);
        engine_open(e, &stoke_driver, settings, cache_bytes);
}

/* Room for n and a half, beside the caches' eighth. */
static int setup_for(void **state, size_t n) {
        static struct engine e;
        size_t bytes;

        begin(&e, "memory", NULL, 1 << 20);
        fill_all(&e);
        engine_close(&e);
        bytes = (one * n + one / 2) * 8 / 7;
        budget = memory_new(bytes, 0);
        e = (struct engine){.memory = budget};
        engine_open(&e, &stoke_driver, (const char *const[]){"instance", "memory", NULL, NULL}, 64 << 20);
        *state = &e;
        return 0;
}

static int setup_two(void **state) {
        return setup_for(state, 2);
}

static int setup_none(void **state) {
        return setup_for(state, 0);
}

static int teardown(void **state) {
        struct engine *e = *state;
        struct memory_figures f;

        memory_get_figures(budget, &f);
        if (!e->n_open)
                assert_int_equal(f.state_bytes, 0);
        engine_run(e, 1, NULL); /* what was posted to those that have gone */
        engine_close(e);
        if (!e->n_open)
                memory_free(budget);
        memory_reset("memory");
        return 0;
}

static enum keyspace_condition condition_of(struct keyspace *ks) {
        struct keyspace_status status;

        keyspace_get_status(ks, &status);
        return status.condition;
}

static void use(struct engine *e, struct keyspace *ks) {
        assert_int_equal(engine_list(e, ks, "/k", 0, 1).count, N_KEYS);
        engine_run(e, 5, NULL);
}

static void assert_within(void) {
        struct memory_figures f;

        memory_get_figures(budget, &f);
        assert_true(f.state_bytes <= memory_most(budget) + 2 * MEMORY_STEP);
}

static void oldest_is_closed(void **state) {
        struct engine *e = *state;
        struct keyspace *ks[N_KEYSPACES];
        struct memory_figures f;

        for (size_t i = 0; i < N_KEYSPACES; i++)
                ks[i] = engine_keyspace_named(e, names[i], 1);
        use(e, ks[0]);
        use(e, ks[1]);
        assert_int_equal(condition_of(ks[0]), KEYSPACE_SERVING);
        use(e, ks[2]);
        assert_within();
        assert_int_equal(condition_of(ks[0]), KEYSPACE_CLOSED);
        assert_int_equal(condition_of(ks[1]), KEYSPACE_SERVING);
        use(e, ks[1]);
        use(e, ks[3]);
        assert_within();
        assert_int_equal(condition_of(ks[2]), KEYSPACE_CLOSED); /* not b, which was used since */
        assert_int_equal(condition_of(ks[1]), KEYSPACE_SERVING);
        for (size_t i = 0; i < 12; i++) { /* and round and round: each is opened when it is asked */
                use(e, ks[i % N_KEYSPACES]);
                assert_within();
        }
        memory_get_figures(budget, &f);
        assert_true(f.n_closed >= 10);
        assert_int_equal(f.n_refused, 0);
        for (size_t i = 0; i < N_KEYSPACES; i++)
                engine_keyspace_close(e, ks[i]);
}

static void refused_with_the_figure(void **state) {
        struct engine *e = *state;
        struct keyspace *ks[N_KEYSPACES];
        struct recorder *r = new0(struct recorder), *late = new0(struct recorder);
        struct keyspace_status status;
        struct memory_figures f;
        uint64_t began;
        bool opened = false;

        for (size_t i = 0; i < N_KEYSPACES; i++)
                ks[i] = engine_keyspace_named(e, names[i], 1);
        engine_watch(e, ks[0], &r[0], "/w", 0, false);
        engine_watch(e, ks[1], late, "/w", 0, false);
        began = clock_now_ns();
        assert_int_equal(engine_get(e, ks[2], "/k00001").result, KEYSPACE_UNAVAILABLE);
        assert_true(clock_now_ns() - began < 7 * NSEC_PER_SEC); /* told, not timed out */
        keyspace_get_status(ks[2], &status);
        assert_int_equal(status.condition, KEYSPACE_NO_MEMORY);
        assert_non_null(strstr(status.reason, " MiB of it were loaded"));
        assert_non_null(strstr(status.reason, "setting: memory"));
        /* The next one at once; a watch too. */
        assert_int_equal(engine_put(e, ks[2], "/k00001", "1").result, KEYSPACE_UNAVAILABLE);
        {
                struct recorder *w = new0(struct recorder);
                w->created = true; /* engine_watch() waits for it */
                engine_watch(e, ks[2], w, "/w", 0, false);
                for (unsigned i = 0; i < 300 && !w->cancelled; i++)
                        engine_run(e, 10, NULL);
                assert_true(w->cancelled);
                assert_int_equal(w->result, KEYSPACE_UNAVAILABLE);
                watcher_free(w->watcher);
                free(w);
        }
        for (unsigned i = 0; i < 300 && ks[2]->idle.phase != IDLE_NOT; i++)
                engine_run(e, 10, NULL);
        memory_get_figures(budget, &f);
        assert_true(f.n_refused >= 1);
        assert_true(f.state_bytes < 2 * one + one / 4); /* what was loaded of it has gone */
        /* The others were not disturbed. */
        assert_int_equal(condition_of(ks[0]), KEYSPACE_SERVING);
        assert_int_equal(condition_of(ks[1]), KEYSPACE_SERVING);
        assert_false(r->cancelled || late->cancelled);

        /* One of them is not used any more: after the pause there is room. */
        watcher_free(r->watcher);
        for (unsigned i = 0; i < 600 && !opened; i++) {
                engine_run(e, 50, NULL);
                opened = engine_get(e, ks[2], "/k00001").result == KEYSPACE_OK;
        }
        assert_true(opened);
        use(e, ks[2]);
        assert_int_equal(condition_of(ks[0]), KEYSPACE_CLOSED);
        assert_int_equal(condition_of(ks[1]), KEYSPACE_SERVING);
        watcher_free(late->watcher);
        for (size_t i = 0; i < N_KEYSPACES; i++)
                engine_keyspace_close(e, ks[i]);
        free(r);
        free(late);
}

/* It alone is more than there is: nobody is closed for it, and all of it goes again. */
static void larger_than_all(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace_named(e, "a", 1);
        struct memory_figures f;

        for (unsigned i = 0; i < 3; i++) {
                assert_int_equal(engine_get(e, ks, "/k00001").result, KEYSPACE_UNAVAILABLE);
                assert_within();
                for (unsigned k = 0; k < 300 && ks->idle.phase != IDLE_NOT; k++)
                        engine_run(e, 10, NULL);
                memory_get_figures(budget, &f);
                assert_int_equal(f.state_bytes, 0);
                engine_run(e, 1100, NULL);
        }
        assert_int_equal(condition_of(ks), KEYSPACE_NO_MEMORY);
        engine_keyspace_close(e, ks);
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        check(result == KEYSPACE_UNAVAILABLE);
}

/* Refused while, and after, it is closed for good. */
static void closed_while_it_waits(void **state) {
        struct engine *e = *state;

        for (unsigned i = 0; i < 12; i++) {
                struct keyspace *ks = engine_keyspace_named(e, "a", (uint8_t)(i + 1));
                struct keyspace_call call = {.deadline_ns = UINT64_MAX};

                call.done = on_done;
                keyspace_barrier(ks, &call);
                engine_run(e, i, NULL);
                keyspace_cancel(&call);
                engine_keyspace_close(e, ks);
        }
}

/* Values make room for keyspaces, before any of these is closed; and come back when there is room. */
static void values_leave_first(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace_named(e, "a", 1), *b = engine_keyspace_named(e, "b", 1);
        struct memory_figures f;
        struct answer r;
        static char value[4000];

        memset(value, 'v', sizeof(value) - 1);
        for (unsigned i = 0; i < 2000; i++) {
                char key[16];

                (void)snprintf(key, sizeof(key), "/v%u", i);
                r = engine_put(e, a, key, value);
                assert_int_equal(r.result, KEYSPACE_OK);
        }
        memory_get_figures(budget, &f);
        assert_true(f.value_bytes > one); /* all that is left */
        assert_true(f.value_bytes + f.state_bytes <= f.max_bytes + 2 * MEMORY_STEP);
        use(e, b);
        for (unsigned i = 0; i < 300; i++) {
                memory_get_figures(budget, &f);
                if (f.value_bytes + f.state_bytes <= f.max_bytes + 2 * MEMORY_STEP)
                        break;
                engine_run(e, 10, NULL);
        }
        assert_true(f.value_bytes + f.state_bytes <= f.max_bytes + 2 * MEMORY_STEP);
        assert_int_equal(f.n_closed, 0);
        assert_int_equal(condition_of(a), KEYSPACE_SERVING);
        for (unsigned i = 0; i < 2000; i += 100) { /* what has left is read */
                char key[16];

                (void)snprintf(key, sizeof(key), "/v%u", i);
                assert_int_equal(engine_get(e, a, key).n_kvs, 1);
        }
        engine_keyspace_close(e, a);
        engine_keyspace_close(e, b);
}

/* Leases keep their time, whoever needs the memory; one that is soon over keeps its keyspace. */
static void leases_under_pressure(void **state) {
        struct engine *e = *state;
        struct keyspace *ks[N_KEYSPACES];

        for (size_t i = 0; i < N_KEYSPACES; i++)
                ks[i] = engine_keyspace_named(e, names[i], 1);
        assert_int_equal(engine_grant(e, ks[0], 1, 20), KEYSPACE_OK);
        assert_int_equal(engine_grant(e, ks[1], 1, 3000), KEYSPACE_OK);
        use(e, ks[0]);
        use(e, ks[1]);
        use(e, ks[2]);
        assert_int_equal(condition_of(ks[0]), KEYSPACE_SERVING);
        assert_int_equal(condition_of(ks[1]), KEYSPACE_CLOSED);
        for (size_t i = 0; i < N_KEYSPACES; i++)
                engine_keyspace_close(e, ks[i]);
}

/* ---- two shards */

struct shard_run {
        pthread_t thread;
        struct engine e;
        const char *instance;
        unsigned seed;
        unsigned n_answered, n_refused;
};

static void *run_shard(void *userdata) {
        struct shard_run *s = userdata;
        struct keyspace *ks[N_KEYSPACES];
        int64_t counts[N_KEYSPACES] = {};

        for (size_t i = 0; i < N_KEYSPACES; i++)
                ks[i] = engine_keyspace_named(&s->e, names[i], 2);
        for (unsigned n = 0; n < 100; n++) {
                size_t i = (size_t)rand_r(&s->seed) % N_KEYSPACES;
                struct answer a = engine_put(&s->e, ks[i], "/n", "1");

                if (a.result == KEYSPACE_UNAVAILABLE) {
                        s->n_refused++;
                        engine_run(&s->e, 20, NULL);
                        continue;
                }
                check(a.result == KEYSPACE_OK && a.revision == 2 + N_KEYS / 1000 + counts[i]);
                counts[i]++;
                a = engine_list(&s->e, ks[i], "/k", 0, 1);
                check(a.result == KEYSPACE_UNAVAILABLE || (a.result == KEYSPACE_OK && a.count == N_KEYS));
                s->n_answered++;
        }
        for (size_t i = 0; i < N_KEYSPACES; i++)
                engine_keyspace_close(&s->e, ks[i]);
        return NULL;
}

static void two_shards(void **state) {
        static struct shard_run shards[2] = {{.instance = "one", .seed = 1}, {.instance = "two", .seed = 2}};
        struct memory_figures f;

        (void)state;
        for (size_t i = 0; i < 2; i++) {
                begin(&shards[i].e, shards[i].instance, NULL, 1 << 20);
                fill_all(&shards[i].e);
                engine_close(&shards[i].e);
        }
        budget = memory_new((one * 3 + one / 2) * 8 / 7, NSEC_PER_MSEC);
        for (size_t i = 0; i < 2; i++) {
                const char *const settings[] = {"instance", shards[i].instance, NULL, NULL};

                shards[i].e = (struct engine){.memory = budget};
                engine_open(&shards[i].e, &stoke_driver, settings, 4 << 20);
                assert_int_equal(pthread_create(&shards[i].thread, NULL, run_shard, &shards[i]), 0);
        }
        for (size_t i = 0; i < 2; i++)
                pthread_join(shards[i].thread, NULL);
        memory_get_figures(budget, &f);
        print_message("# %u and %u answered, %u and %u refused, %llu closed\n", shards[0].n_answered,
                shards[1].n_answered, shards[0].n_refused, shards[1].n_refused, (unsigned long long)f.n_closed);
        assert_true(shards[0].n_answered && shards[1].n_answered);
        assert_true(f.n_closed > 1);
        assert_int_equal(f.state_bytes, 0);
        for (size_t i = 0; i < 2; i++) {
                engine_run(&shards[i].e, 1, NULL);
                engine_close(&shards[i].e);
                memory_reset(shards[i].instance);
        }
        memory_free(budget);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(oldest_is_closed, setup_two, teardown),
                cmocka_unit_test_setup_teardown(refused_with_the_figure, setup_two, teardown),
                cmocka_unit_test_setup_teardown(larger_than_all, setup_none, teardown),
                cmocka_unit_test_setup_teardown(closed_while_it_waits, setup_none, teardown),
                cmocka_unit_test_setup_teardown(values_leave_first, setup_two, teardown),
                cmocka_unit_test_setup_teardown(leases_under_pressure, setup_two, teardown),
                cmocka_unit_test(two_shards),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
