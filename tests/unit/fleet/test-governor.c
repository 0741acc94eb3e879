/*
 * What a user would lose: two registries in one datastore, each with half of the tenants, because two daemons were started at the same moment. Threads with
 * sessions of their own stand for daemons; the datastore refuses, loses and delays on demand.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/loop.h"
#include "fleet/governor.h"
#include "fleet/uuid.h"
#include "memory.h"

#define INSTANCE "governor"
#define N_DAEMONS 8

static struct stoke_store *store;
static uint64_t seed;

static int setup(void **state) {
        static const struct stoke_setting settings[] = {{"instance", INSTANCE}};
        const struct stoke_datastore datastore = {
                .size = sizeof(datastore), .name = "d", .settings = settings, .n_settings = 1};
        char reason[256] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = clock_now_ns() + NSEC_PER_SEC,
                .reason = reason,
                .reason_size = sizeof(reason)};

        (void)state;
        memory_reset(INSTANCE);
        return stoke_driver.open(&datastore, NULL, &call, &store);
}

static int teardown(void **state) {
        (void)state;
        stoke_driver.close(store);
        return 0;
}

struct daemon {
        pthread_t thread;
        struct governor g;
        pthread_barrier_t *start;
        unsigned n_attempts;
};

static int ask(struct governor *g, char reason[256]) {
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC,
                .reason = reason,
                .reason_size = 256};
        struct stoke_session *session = NULL;
        int r;

        reason[0] = '\0';
        r = stoke_driver.connect(store, NULL, &call, &session);
        if (r == 0)
                r = governor_create(&stoke_driver, session, &call, g->daemon);
        if (r == 0)
                r = governor_run(&stoke_driver, session, &call, g);
        stoke_driver.disconnect(session);
        return r;
}

static void *live(void *userdata) {
        struct daemon *d = userdata;
        char reason[256];

        pthread_barrier_wait(d->start);
        while (ask(&d->g, reason) < 0 && d->n_attempts < 1000)
                d->n_attempts++;
        return NULL;
}

static void make(struct governor *g, enum governor_deed deed) {
        *g = (struct governor){.deed = deed, .wanted = {.home = true}};
        uuid_make(g->daemon);
        uuid_make(g->wanted.id);
        uuid_make(g->wanted.incarnation);
}

static void race(void) {
        pthread_barrier_t start;
        struct daemon daemons[N_DAEMONS] = {};
        unsigned n_wrote = 0;
        bool is_somebodys = false;

        pthread_barrier_init(&start, NULL, N_DAEMONS);
        for (size_t i = 0; i < N_DAEMONS; i++) {
                make(&daemons[i].g, GOVERNOR_SETTLE);
                daemons[i].start = &start;
                assert_int_equal(pthread_create(&daemons[i].thread, NULL, live, &daemons[i]), 0);
        }
        for (size_t i = 0; i < N_DAEMONS; i++)
                pthread_join(daemons[i].thread, NULL);
        for (size_t i = 0; i < N_DAEMONS; i++) {
                const struct governor *g = &daemons[i].g;

                assert_true(daemons[i].n_attempts < 1000);
                assert_true(g->is_governed);
                assert_true(governor_same_registry(&g->found, &daemons[0].g.found));
                assert_true(g->found.home);
                assert_false(g->found.created);
                n_wrote += g->wrote;
                is_somebodys |= governor_same_registry(&g->found, &g->wanted);
        }
        assert_true(n_wrote <= 1); /* 0: whoever did was not told so */
        assert_true(is_somebodys);
        pthread_barrier_destroy(&start);
}

static void test_all_agree(void **state) {
        (void)state;
        for (unsigned i = 0; i < 200; i++) {
                memory_reset(INSTANCE);
                race();
        }
}

static void test_all_agree_over_faults(void **state) {
        (void)state;
        for (unsigned i = 0; i < 200; i++) {
                const struct memory_faults faults = {.stale = 0.2,
                        .unknown_landed = 0.15,
                        .unknown_lost = 0.15,
                        .unknown_late = 0.2,
                        .fail_connect = 0.05,
                        .fail_load = 0.1,
                        .late_after = 1 + (unsigned)((seed + i) % 5)};

                memory_reset(INSTANCE);
                memory_set_faults(INSTANCE, &faults);
                race();
        }
}

/* The first append hangs somewhere and lands when another has been written: it is refused, and both say the same. */
static void test_late_append(void **state) {
        struct governor a, b;
        char reason[256];

        (void)state;
        make(&a, GOVERNOR_SETTLE);
        make(&b, GOVERNOR_SETTLE);
        memory_limbo_next(INSTANCE);
        assert_int_equal(ask(&a, reason), -EIO);
        assert_int_equal(ask(&b, reason), 0);
        assert_true(b.wrote);
        assert_false(memory_land(INSTANCE, GOVERNOR_KEYSPACE));
        assert_int_equal(ask(&a, reason), 0);
        assert_true(governor_same_registry(&a.found, &b.wanted));

        /* And where it lands first. */
        memory_reset(INSTANCE);
        memory_limbo_next(INSTANCE);
        assert_int_equal(ask(&a, reason), -EIO);
        assert_true(memory_land(INSTANCE, GOVERNOR_KEYSPACE));
        assert_int_equal(ask(&b, reason), 0);
        assert_true(governor_same_registry(&b.found, &a.wanted));
        assert_int_equal(ask(&a, reason), 0);
        assert_true(governor_same_registry(&a.found, &a.wanted));
        assert_false(a.wrote);
}

static void test_deeds(void **state) {
        struct governor a, b;
        char reason[256];

        (void)state;
        make(&a, GOVERNOR_ASK);
        assert_int_equal(ask(&a, reason), 0);
        assert_false(a.is_governed);
        a.deed = GOVERNOR_CREATED; /* not of what is not there */
        assert_int_equal(ask(&a, reason), 0);
        assert_false(a.is_governed);
        a.deed = GOVERNOR_SETTLE;
        assert_int_equal(ask(&a, reason), 0);
        assert_true(a.wrote);

        make(&b, GOVERNOR_SETTLE);
        assert_int_equal(ask(&b, reason), 0);
        assert_false(b.wrote);
        assert_false(governor_same_registry(&b.found, &b.wanted));
        b.deed = GOVERNOR_CREATED; /* another's */
        b.wanted.created = true;
        assert_int_equal(ask(&b, reason), 0);
        assert_false(b.wrote || b.found.created);
        a.deed = GOVERNOR_CREATED;
        a.wanted.created = true;
        assert_int_equal(ask(&a, reason), 0);
        assert_true(a.wrote && a.found.created);
        assert_int_equal(ask(&a, reason), 0);
        assert_false(a.wrote); /* once is enough */

        b.deed = GOVERNOR_CLAIM;
        assert_int_equal(ask(&b, reason), 0);
        assert_true(b.wrote);
        a.deed = GOVERNOR_SETTLE;
        assert_int_equal(ask(&a, reason), 0);
        assert_true(governor_same_registry(&a.found, &b.wanted));
        assert_false(a.wrote);
}

static void test_it_is_not_made_by_looking(void **state) {
        struct stoke_session *session = NULL;
        char reason[256] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = clock_now_ns() + NSEC_PER_SEC,
                .reason = reason,
                .reason_size = sizeof(reason)};
        struct governor g;

        (void)state;
        make(&g, GOVERNOR_SETTLE);
        assert_int_equal(stoke_driver.connect(store, NULL, &call, &session), 0);
        assert_int_equal(governor_run(&stoke_driver, session, &call, &g), -ENOENT);
        stoke_driver.disconnect(session);
}

int main(void) {
        const char *given = getenv("STOKE_TEST_SEED");
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_all_agree, setup, teardown),
                cmocka_unit_test_setup_teardown(test_all_agree_over_faults, setup, teardown),
                cmocka_unit_test_setup_teardown(test_late_append, setup, teardown),
                cmocka_unit_test_setup_teardown(test_deeds, setup, teardown),
                cmocka_unit_test_setup_teardown(test_it_is_not_made_by_looking, setup, teardown),
        };

        seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
        print_message("# seed %llu (STOKE_TEST_SEED repeats it)\n", (unsigned long long)seed);
        return cmocka_run_group_tests_name("fleet-governor", tests, NULL, NULL);
}
