/* If these fail, a scrape is refused by Prometheus, or shows figures that are not so. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/metrics.h"

/* The page from its line that begins with what is given; "" if there is none. Valid until the next call. */
static const char *page_at(const char *start) {
        static char *page;
        struct buf out = {};
        char *p;

        free(page);
        page = NULL;
        assert_int_equal(metrics_print(&out), 0);
        assert_int_equal(buf_append(&out, "", 1), 0);
        page = (char *)out.data;
        for (p = page; *p; p += strcspn(p, "\n") + 1)
                if (strncmp(p, start, strlen(start)) == 0)
                        return p;
        return "";
}

static void expect(const char *text) {
        const char *p = page_at(text);

        if (!*p)
                fail_msg("not there: %s", text);
}

static void test_text(void **state) {
        struct metric *c, *g;

        (void)state;
        c = metric_counter("t_requests_total", "Requests,\nwith \\ and \"quotes\".", "code=\"OK\"");
        metric_add(c, 1);
        metric_add(c, 2);
        assert_ptr_equal(metric_counter("t_requests_total", "", "code=\"OK\""), c);
        metric_add(metric_counter("t_requests_total", "", "code=\"NOT_FOUND\""), 1e15);
        g = metric_gauge("t_bytes", "Bytes.", NULL);
        assert_ptr_equal(metric_gauge("t_bytes", "Bytes.", ""), g);
        metric_set(g, 0.1);
        assert_true(metric_get(g) == 0.1);

        expect("# HELP t_bytes Bytes.\n# TYPE t_bytes gauge\nt_bytes 0.1\n# HELP t_requests_total Requests,\\nwith \\\\ and \"quotes\".\n"
               "# TYPE t_requests_total counter\nt_requests_total{code=\"OK\"} 3\nt_requests_total{code=\"NOT_FOUND\"} 1e+15\n");
        metric_set(g, INFINITY);
        expect("t_bytes +Inf\n");
        metric_set(g, -INFINITY);
        expect("t_bytes -Inf\n");
        metric_set(g, NAN);
        expect("t_bytes NaN\n");
        metric_set(g, 9007199254740991);
        expect("t_bytes 9007199254740991\n");
        metric_add(g, -9007199254740991);
        expect("t_bytes 0\n");
}

static void test_histogram(void **state) {
        static const double bounds[] = {0.1, 1};
        struct metric *h = metric_histogram("t_seconds", "Seconds.", "tenant=\"a\"", bounds, 2);

        (void)state;
        metric_observe(h, 0.05);
        metric_observe(h, 0.1); /* a bound belongs to what is below it */
        metric_observe(h, 0.5);
        metric_observe(h, 3);
        expect("# TYPE t_seconds histogram\nt_seconds_bucket{tenant=\"a\",le=\"0.1\"} 2\nt_seconds_bucket{tenant=\"a\",le=\"1\"} 3\n"
               "t_seconds_bucket{tenant=\"a\",le=\"+Inf\"} 4\nt_seconds_sum{tenant=\"a\"} 3.65\nt_seconds_count{tenant=\"a\"} 4\n");

        h = metric_histogram("t_wait_seconds", "Wait.", NULL, metric_seconds_bounds, metric_seconds_n_bounds);
        metric_observe(h, NAN);
        expect("t_wait_seconds_bucket{le=\"0.0001\"} 0\n");
        expect("t_wait_seconds_bucket{le=\"10\"} 0\nt_wait_seconds_bucket{le=\"+Inf\"} 1\n");
        expect("t_wait_seconds_count 1\n");
}

static void test_labels_and_drop(void **state) {
        static const char *const tenants[] = {"a", "aa", "a\",tenant=\"b", "b\\", "line\nend"};
        struct metric *m[n_elements(tenants)];

        (void)state;
        for (size_t i = 0; i < n_elements(tenants); i++) {
                struct buf labels = {};

                assert_int_equal(metric_label(&labels, "tenant", tenants[i]), 0);
                assert_int_equal(metric_label(&labels, "code", "OK"), 0);
                assert_int_equal(buf_append(&labels, "", 1), 0);
                m[i] = metric_counter("t_drop_total", "Drop.", (char *)labels.data);
                metric_add(m[i], (double)i + 1);
                buf_done(&labels);
        }
        expect("t_drop_total{tenant=\"a\",code=\"OK\"} 1\nt_drop_total{tenant=\"aa\",code=\"OK\"} 2\n"
               "t_drop_total{tenant=\"a\\\",tenant=\\\"b\",code=\"OK\"} 3\nt_drop_total{tenant=\"b\\\\\",code=\"OK\"} 4\n"
               "t_drop_total{tenant=\"line\\nend\",code=\"OK\"} 5\n");

        metric_drop("tenant", "a");
        metric_drop("tenant", "b");
        metric_drop("code", "O");
        metric_drop("enant", "aa");
        expect("# TYPE t_drop_total counter\nt_drop_total{tenant=\"aa\",");
        expect("t_drop_total{tenant=\"a\\\",tenant=\\\"b\",code=\"OK\"} 3\n");
        metric_drop("code", "OK");
        assert_string_equal(page_at("# TYPE t_drop_total"), "");

        /* Of the same name again, from zero. */
        metric_add(metric_counter("t_drop_total", "Drop.", "tenant=\"a\""), 1);
        expect("t_drop_total{tenant=\"a\"} 1\n");
}

#define N_ADDS 20000

static void *add(void *userdata) {
        struct metric *h =
                metric_histogram("t_threads_seconds", "Threads.", NULL, metric_seconds_bounds, metric_seconds_n_bounds);

        for (unsigned i = 0; i < N_ADDS; i++) {
                metric_add(metric_counter("t_threads_total", "Threads.", NULL), 1);
                metric_observe(h, 0.5);
        }
        return userdata;
}

static void test_threads(void **state) {
        pthread_t threads[4];

        (void)state;
        for (size_t i = 0; i < n_elements(threads); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, add, NULL), 0);
        for (unsigned i = 0; i < 20; i++)
                page_at("t_");
        for (size_t i = 0; i < n_elements(threads); i++)
                pthread_join(threads[i], NULL);
        expect("t_threads_total 80000\n");
        expect("t_threads_seconds_sum 40000\n");
        expect("t_threads_seconds_count 80000\n");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_text),
                cmocka_unit_test(test_histogram),
                cmocka_unit_test(test_labels_and_drop),
                cmocka_unit_test(test_threads),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
