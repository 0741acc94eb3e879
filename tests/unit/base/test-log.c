/* If these fail, a line is lost, forged by what a client sent, or printed though its level is off. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

static int saved_stderr = -1, reading = -1;

/* stderr into a pipe, which must not fill up. */
static int setup(void **state) {
        int fds[2];

        (void)state;
        unsetenv("JOURNAL_STREAM");
        log_open();
        log_set_level(LOG_LEVEL_INFO);
        fflush(stderr);
        saved_stderr = dup(STDERR_FILENO);
        assert_int_equal(pipe(fds), 0);
        assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
        close(fds[1]);
        reading = fds[0];
        return 0;
}

static int teardown(void **state) {
        (void)state;
        if (saved_stderr >= 0) {
                dup2(saved_stderr, STDERR_FILENO);
                close(saved_stderr);
        }
        close(reading);
        saved_stderr = reading = -1;
        return 0;
}

static size_t read_all(char *out, size_t size) {
        ssize_t n;

        dup2(saved_stderr, STDERR_FILENO); /* closes the pipe's end */
        n = read(reading, out, size - 1);
        assert_true(n >= 0);
        out[n] = '\0';
        return (size_t)n;
}

static void test_line(void **state) {
        const struct log_context context = {.tenant = "a", .peer = "uid 5"};
        char text[1024];
        size_t n;

        (void)state;
        errno = 77;
        log_info("served %d", 3);
        assert_int_equal(errno, 77);
        log_at(LOG_LEVEL_ERROR, &context, "gone: %s", "x\ny\tz\e[0m");
        log_debug("unseen");
        n = read_all(text, sizeof(text));
        assert_int_equal(text[n - 1], '\n');

        assert_int_equal(text[4], '-');
        assert_int_equal(text[10], 'T');
        assert_non_null(strstr(text, "Z info    served 3\n"));
        assert_non_null(strstr(text, "Z error   gone: x y z [0m tenant=a peer=uid 5\n"));
        assert_null(strstr(text, "unseen"));
}

static void test_levels(void **state) {
        static const char *const names[] = {"error", "warning", "notice", "info", "debug"};
        enum log_level level;
        char text[1024];

        (void)state;
        for (size_t i = 0; i < n_elements(names); i++) {
                assert_int_equal(log_level_parse(names[i], &level), 0);
                assert_int_equal(level, LOG_LEVEL_ERROR + (int)i);
                assert_string_equal(log_level_name(level), names[i]);
        }
        assert_int_equal(log_level_parse("loud", &level), -EINVAL);
        assert_int_equal(log_level_parse("", &level), -EINVAL);
        assert_int_equal(log_level_parse("INFO", &level), -EINVAL);

        log_set_level(LOG_LEVEL_WARNING);
        assert_int_equal(log_get_level(), LOG_LEVEL_WARNING);
        log_info("quiet");
        log_warning("warned");
        log_set_level(LOG_LEVEL_DEBUG);
        log_debug("chatty");
        read_all(text, sizeof(text));
        assert_null(strstr(text, "quiet"));
        assert_non_null(strstr(text, "warned"));
        assert_non_null(strstr(text, "chatty"));
}

/* The audit: what a client chose must not pass for another field, and the level must not silence it. */
static void test_fields(void **state) {
        const struct log_field fields[] = {
                {"method", "CreateTenant"},
                {"absent", NULL},
                {"tenant", "a\" uid=0\nroot \\"},
                {"command", ""},
        };
        const struct log_context context = {.peer = "CN:pid\n1 uid 5", .more = fields, .n_more = n_elements(fields)};
        char text[1024];

        (void)state;
        log_set_level(LOG_LEVEL_ERROR);
        log_always(&context, "control: %s", "x");
        log_set_level(LOG_LEVEL_INFO);
        read_all(text, sizeof(text));
        assert_non_null(strstr(text,
                "Z notice  control: x peer=CN:pid?1 uid 5 method=CreateTenant tenant=\"a? uid=0?root ?\" command=\"\"\n"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_line, setup, teardown),
                cmocka_unit_test_setup_teardown(test_levels, setup, teardown),
                cmocka_unit_test_setup_teardown(test_fields, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
