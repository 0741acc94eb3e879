#include "control/audit.h"

/*
 * What a user would lose: the other lines of the log, to somebody who knocks at the control socket without an end; and the trace of him.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/loop.h"

static char text[1 << 18];

/* What is written to stderr meanwhile, in text. */
static void capture(void (*run)(struct audit_refusals *refusals), struct audit_refusals *refusals) {
        FILE *file = tmpfile();
        int saved = dup(STDERR_FILENO);
        size_t n;

        assert_non_null(file);
        assert_true(saved >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
        run(refusals);
        assert_true(dup2(saved, STDERR_FILENO) >= 0);
        close(saved);
        rewind(file);
        n = fread(text, 1, sizeof(text) - 1, file);
        text[n] = '\0';
        fclose(file);
}

static size_t count(const char *words) {
        size_t n = 0;

        for (const char *p = text; (p = strstr(p, words)); p++)
                n++;
        return n;
}

static void refuse(struct audit_refusals *refusals) {
        const struct grpc_peer peer = {.local = true, .uid = 0, .pid = getpid(), .name = "pid 1 uid 0"};

        for (int i = 0; i < 70; i++)
                audit_refused(refusals, &peer, "/stokehold.control.v1.Control/Reload", "not you");
}

static void test_refusals(void **state) {
        struct audit_refusals refusals = {};

        (void)state;
        capture(refuse, &refusals);
        assert_int_equal(count("control: not you"), 50);
        assert_int_equal(count("audit=refused method=Reload result=PERMISSION_DENIED uid=0 user=root"), 50);
        assert_int_equal(count("more refused"), 0);
        log_set_level(LOG_LEVEL_ERROR); /* is no way to silence it */

        refusals.since_ns -= 11 * NSEC_PER_SEC;
        capture(refuse, &refusals);
        assert_int_equal(count("control: 20 more refused attempts are not in the log"), 1);
        assert_int_equal(count("control: not you"), 50);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refusals),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
