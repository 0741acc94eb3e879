/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of a datastore: who runs when, what becomes of those who wait too long, and that nothing is lost at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/log.h"
#include "driver/datastore.h"
#include "memory.h"

#define N 400

struct test_job {
        struct datastore_job job;
        struct stoke_keyspace keyspace;
        uint64_t sleep_ms;
        unsigned *left;
        unsigned lane, number;
        bool done;
};

static struct loop *loop;
static struct datastore *ds;
static atomic_uint running, running_bulk, max_running, max_bulk, order;
static atomic_uint lane_running[16];
static unsigned started[N], n_done, n_expected;
static atomic_bool overlapped;

static void open_with(unsigned n_sessions) {
        static struct plugin plugin = {.allowed = true};
        static const struct stoke_setting settings[] = {{"instance", "test"}};
        struct datastore_config config = {
                .name = "test", .plugin = &plugin, .settings = settings, .n_settings = 1, .n_sessions = n_sessions};
        cleanup(error_done) struct error error = {};

        plugin.driver = &stoke_driver;
        memory_reset("test");
        assert_int_equal(loop_new("test", &loop), 0);
        assert_int_equal(datastore_open(&config, &ds, &error), 0);
        n_done = n_expected = 0;
        atomic_store(&max_running, 0);
        atomic_store(&max_bulk, 0);
        atomic_store(&order, 0);
        atomic_store(&overlapped, false);
}

static void close_all(void) {
        datastore_close(ds, 100 * NSEC_PER_MSEC);
        loop_free(loop);
}

static void sleep_ms(uint64_t ms) {
        nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
}

static void raise_to(atomic_uint *max, unsigned value) {
        unsigned old = atomic_load(max);

        while (old < value && !atomic_compare_exchange_weak(max, &old, value))
                ;
}

static int on_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct test_job *t = container_of(job, struct test_job, job);

        (void)session;
        (void)call;
        raise_to(&max_running, atomic_fetch_add(&running, 1) + 1);
        if (job->class == JOB_BULK)
                raise_to(&max_bulk, atomic_fetch_add(&running_bulk, 1) + 1);
        if (job->keyspace && atomic_fetch_add(&lane_running[t->lane], 1) != 0)
                atomic_store(&overlapped, true);
        started[t->number] = atomic_fetch_add(&order, 1);
        sleep_ms(t->sleep_ms);
        if (job->keyspace)
                atomic_fetch_sub(&lane_running[t->lane], 1);
        if (job->class == JOB_BULK)
                atomic_fetch_sub(&running_bulk, 1);
        atomic_fetch_sub(&running, 1);
        return 0;
}

static void on_done(struct datastore_job *job) {
        container_of(job, struct test_job, job)->done = true;
        if (++n_done == n_expected)
                loop_stop(loop);
}

/* What the next job does. */
static int (*next_run)(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) = on_run;

static void submit(
        struct test_job *t, unsigned number, const char *name, unsigned lane, enum job_class class, uint64_t ms) {
        *t = (struct test_job){.number = number, .lane = lane, .sleep_ms = ms, .keyspace = {.name = name}};
        t->job.class = class;
        t->job.keyspace = name ? &t->keyspace : NULL;
        t->job.loop = loop;
        t->job.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        t->job.run = next_run;
        t->job.done = on_done;
        n_expected++;
        datastore_submit(ds, &t->job);
}

/* Jobs of one keyspace never run at a time and keep their order; others run beside them; bulk takes at most half. */
static void test_lanes(void **state) {
        static struct test_job jobs[N];
        static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};

        (void)state;
        open_with(4);
        for (unsigned i = 0; i < N; i++)
                submit(&jobs[i], i, names[i % 8], i % 8, i % 3 == 0 ? JOB_COMMIT : i % 3 == 1 ? JOB_READ : JOB_BULK, 1);
        assert_int_equal(loop_run(loop), 0);
        assert_false(overlapped);
        assert_true(max_running > 1 && max_running <= 4);
        assert_true(max_bulk <= 2);
        for (unsigned i = 0; i < N; i++) {
                assert_true(jobs[i].done && jobs[i].job.ran);
                assert_int_equal(jobs[i].job.result, 0);
                if (i >= 24) /* the one before it in its keyspace and class */
                        assert_true(started[i] > started[i - 24]);
        }
        assert_int_equal(datastore_pending(ds, NULL), 0);
        close_all();
}

/* A commit goes before reads and bulk work that came earlier, which are not starved all the same. */
static void test_classes(void **state) {
        static struct test_job jobs[40];

        (void)state;
        open_with(1);
        submit(&jobs[0], 0, "a", 0, JOB_READ, 30); /* holds the session while the others queue */
        submit(&jobs[1], 1, "a", 0, JOB_BULK, 1);
        submit(&jobs[2], 2, "a", 0, JOB_READ, 1);
        for (unsigned i = 3; i < 40; i++)
                submit(&jobs[i], i, NULL, 0, JOB_COMMIT, 0);
        assert_int_equal(loop_run(loop), 0);
        assert_true(started[3] < started[2] && started[4] < started[2]);
        assert_true(started[2] < started[39]); /* in its turn */
        close_all();
}

/* A job that waits past its deadline ends with -ETIMEDOUT and is known not to have run. */
static void test_waiting_deadline(void **state) {
        static struct test_job jobs[3];

        (void)state;
        open_with(1);
        submit(&jobs[0], 0, "a", 0, JOB_COMMIT, 400);
        for (unsigned i = 1; i < 3; i++) {
                jobs[i] = (struct test_job){.number = i, .keyspace = {.name = "a"}};
                jobs[i].job = (struct datastore_job){.class = JOB_COMMIT,
                        .keyspace = i == 1 ? &jobs[i].keyspace : NULL,
                        .loop = loop,
                        .deadline_ns = clock_now_ns() + 50 * NSEC_PER_MSEC,
                        .run = on_run,
                        .done = on_done};
                n_expected++;
                datastore_submit(ds, &jobs[i].job);
        }
        assert_int_equal(datastore_pending(ds, "a"), 2);
        assert_int_equal(loop_run(loop), 0);
        for (unsigned i = 1; i < 3; i++) {
                assert_int_equal(jobs[i].job.result, -ETIMEDOUT);
                assert_false(jobs[i].job.ran);
                assert_true(jobs[i].job.reason[0]);
        }
        assert_int_equal(jobs[0].job.result, 0);
        close_all();
}

/* A connection that cannot be made fails the job with the driver's reason; the next job connects anew. */
static void test_connect_fails(void **state) {
        static struct test_job jobs[2];

        (void)state;
        open_with(1);
        memory_fail_next("test", MEMORY_CONNECT, 1, -ECONNREFUSED);
        submit(&jobs[0], 0, "a", 0, JOB_COMMIT, 0);
        submit(&jobs[1], 1, "a", 0, JOB_COMMIT, 0);
        assert_int_equal(loop_run(loop), 0);
        assert_int_equal(jobs[0].job.result, -ECONNREFUSED);
        assert_false(jobs[0].job.ran);
        assert_string_equal(jobs[0].job.reason, "failed on demand");
        assert_int_equal(jobs[1].job.result, 0);
        close_all();
}

static int on_slow_ends(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct stoke_keyspace none = {.name = "none"};

        (void)job;
        call->deadline_ns = UINT64_MAX; /* a driver that does not look at its deadline */
        return stoke_driver.ends(session, &none, 1, call, NULL, NULL);
}

/* A call that runs past its deadline is interrupted. */
static void test_interrupt(void **state) {
        static struct test_job jobs[2];
        struct memory_faults faults = {.delay_us = 20000000};
        uint64_t start = clock_now_ns();

        (void)state;
        open_with(2);
        submit(&jobs[0], 0, "a", 0, JOB_READ, 0);
        assert_int_equal(loop_run(loop), 0);
        memory_set_faults("test", &faults);
        jobs[1] = (struct test_job){};
        jobs[1].job = (struct datastore_job){.class = JOB_READ,
                .loop = loop,
                .deadline_ns = clock_now_ns() + 100 * NSEC_PER_MSEC,
                .run = on_slow_ends,
                .done = on_done};
        n_expected++;
        datastore_submit(ds, &jobs[1].job);
        assert_int_equal(loop_run(loop), 0);
        assert_int_equal(jobs[1].job.result, -ECANCELED);
        assert_true(jobs[1].job.ran);
        assert_true(clock_now_ns() - start < 3 * NSEC_PER_SEC);
        memory_set_faults("test", NULL);
        close_all();
}

/* What is for a keyspace ends soon when that is hurried, whether it runs or waits; nothing else does. */
static void test_hurry(void **state) {
        static struct test_job jobs[4];
        static const char *const names[] = {"a", "b", "a", NULL};
        struct memory_faults faults = {.delay_us = UINT64_C(3600000000)};

        (void)state;
        open_with(2);
        memory_set_faults("test", &faults);
        for (unsigned i = 0; i < 4; i++) { /* the first two run */
                jobs[i] = (struct test_job){.number = i};
                jobs[i].job = (struct datastore_job){.class = JOB_READ,
                        .for_keyspace = names[i],
                        .loop = loop,
                        .deadline_ns = UINT64_MAX,
                        .run = on_slow_ends,
                        .done = on_done};
                datastore_submit(ds, &jobs[i].job);
        }
        n_expected = 2;
        sleep_ms(20);
        datastore_hurry(ds, "a");
        assert_int_equal(loop_run(loop), 0);
        assert_true(jobs[0].done && jobs[2].done && !jobs[1].done && !jobs[3].done);
        assert_true(jobs[0].job.result < 0 && jobs[2].job.result < 0);
        n_expected = 3;
        datastore_hurry(ds, "b");
        assert_int_equal(loop_run(loop), 0);
        assert_true(jobs[1].done && !jobs[3].done);
        n_expected = 4;
        datastore_close(ds, 10 * NSEC_PER_MSEC);
        assert_int_equal(loop_run(loop), 0);
        assert_true(jobs[3].done);
        loop_free(loop);
}

/* Closing ends what waits, interrupts what runs, and loses no outcome. */
static void test_close(void **state) {
        static struct test_job jobs[20];
        struct memory_faults faults = {.delay_us = 20000000};

        (void)state;
        open_with(2);
        submit(&jobs[0], 0, "a", 0, JOB_READ, 0);
        assert_int_equal(loop_run(loop), 0);
        memory_set_faults("test", &faults);
        next_run = on_slow_ends;
        for (unsigned i = 0; i < 20; i++)
                submit(&jobs[i], i, NULL, 0, JOB_READ, 0);
        next_run = on_run;
        sleep_ms(20);
        datastore_close(ds, 10 * NSEC_PER_MSEC);
        n_expected--; /* the first loop_run() counted one */
        n_done--;
        assert_int_equal(loop_run(loop), 0);
        for (unsigned i = 0; i < 20; i++) {
                assert_true(jobs[i].done);
                assert_int_equal(jobs[i].job.result, -ECANCELED);
        }
        loop_free(loop);
}

struct grown_test {
        unsigned n;
};
static void on_grown(void *userdata) {
        ((struct grown_test *)userdata)->n++;
        loop_stop(loop);
}
static int on_append(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct stoke_record record = {.seq = 1, .revision = 1, .key = "", .value = ""};
        struct stoke_append append = {
                .size = sizeof(append), .expected = {.seq = 1}, .records = &record, .n_records = 1};
        int r;

        r = stoke_driver.create(session, job->keyspace, &record, call);
        record.seq = 2;
        return r ? r : stoke_driver.append(session, job->keyspace, &append, call);
}

/* Whoever subscribed hears of growth, and hears nothing after unsubscribing, even of what was posted. */
static void test_subscription(void **state) {
        static struct test_job jobs[2];
        struct datastore_subscription *a, *b;
        struct grown_test heard = {}, gone = {};
        struct datastore_figures figures;

        (void)state;
        open_with(2);
        a = datastore_subscribe(ds, "a", loop, on_grown, &heard);
        b = datastore_subscribe(ds, "a", loop, on_grown, &gone);
        n_expected = 1000;
        next_run = on_append;
        submit(&jobs[0], 0, "a", 0, JOB_COMMIT, 0);
        next_run = on_run;
        sleep_ms(100); /* posted to both by now */
        datastore_unsubscribe(b);
        assert_int_equal(loop_run(loop), 0);
        assert_int_equal(heard.n, 1);
        assert_int_equal(gone.n, 0);
        assert_int_equal(jobs[0].job.result, 0);
        datastore_figures(ds, &figures);
        assert_int_equal(figures.max_sessions, 2);
        assert_true(figures.n_sessions >= 1 && figures.n_waiting == 0);
        datastore_unsubscribe(a);
        close_all();
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_lanes),
                cmocka_unit_test(test_classes),
                cmocka_unit_test(test_waiting_deadline),
                cmocka_unit_test(test_connect_fails),
                cmocka_unit_test(test_interrupt),
                cmocka_unit_test(test_hurry),
                cmocka_unit_test(test_close),
                cmocka_unit_test(test_subscription),
        };

        log_open();
        log_set_level(LOG_LEVEL_ERROR);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
