/*
 * What a daemon knows of its tenants' logs over restarts. If this fails, a log that went back is served as if nothing was, or a tenant that is restored
 * under its name tells its clients revisions that they have seen with other contents.
 */
#include "folder.h"

#include <time.h>

#include "fleet/known.h"

static const uint8_t one[16] = {1}, two[16] = {2}, none[16];

static struct keyspace_known at(int64_t revision) {
        return (struct keyspace_known){
                .end = {.seq = (uint64_t)revision + 5, .origin = {.daemon = "a daemon", .batch = 3}},
                .revision = revision};
}

static void set(struct known_logs *logs, const char *name, const uint8_t incarnation[16], int64_t revision) {
        const struct keyspace_known known = at(revision);

        known_logs_set(logs, name, incarnation, none, &known);
}

/* As it is after a restart. */
static struct known_logs *again(struct known_logs *logs, const struct folder *f) {
        struct error err = {};

        assert_int_equal(known_logs_save(logs, &err), 0);
        known_logs_free(logs);
        return known_logs_new(f->path);
}

static void test_logs(void **state) {
        struct known_logs *logs;
        struct folder f;

        (void)state;
        folder_new(&f);
        logs = known_logs_new(f.path);
        set(logs, "a", one, 7);
        set(logs, "b", two, 9);
        for (int round = 0; round < 2; round++) {
                struct keyspace_known known = known_logs_get(logs, "a", one, none);

                assert_int_equal(known.revision, 7);
                assert_int_equal(known.end.seq, 12);
                assert_int_equal(known.end.origin.batch, 3);
                assert_int_equal(known_logs_get(logs, "b", two, none).revision, 9);
                assert_int_equal(known_logs_get(logs, "a", two, none).end.seq, 0);
                assert_int_equal(known_logs_get(logs, "a", one, two).end.seq, 0);
                assert_int_equal(known_logs_get(logs, "c", one, none).end.seq, 0);
                logs = again(logs, &f);
        }
        known_logs_free(logs);
        folder_remove(&f);
}

static void test_highest(void **state) {
        struct known_logs *logs;
        struct folder f;

        (void)state;
        folder_new(&f);
        logs = known_logs_new(f.path);
        assert_int_equal(known_logs_highest(logs, "a"), 0);
        set(logs, "a", one, 700);
        set(logs, "a", one, 600); /* it went back, and somebody accepted that */
        assert_int_equal(known_logs_highest(logs, "a"), 700);
        known_logs_forget(logs, "a");
        known_logs_forget(logs, "nobody");
        for (int round = 0; round < 2; round++) {
                assert_int_equal(known_logs_get(logs, "a", one, none).end.seq, 0);
                assert_int_equal(known_logs_highest(logs, "a"), 700);
                assert_int_equal(known_logs_highest(logs, "nobody"), 0);
                logs = again(logs, &f);
        }
        /* The name is used again, and given up once more. */
        set(logs, "a", two, 3);
        logs = again(logs, &f);
        assert_int_equal(known_logs_get(logs, "a", two, none).revision, 3);
        assert_int_equal(known_logs_highest(logs, "a"), 700);
        set(logs, "a", two, 1700);
        known_logs_forget(logs, "a");
        logs = again(logs, &f);
        assert_int_equal(known_logs_highest(logs, "a"), 1700);
        known_logs_free(logs);
        folder_remove(&f);
}

static void test_not_for_ever(void **state) {
        const int64_t now = time(NULL);
        struct known_logs *logs;
        char text[512];
        struct folder f;

        (void)state;
        folder_new(&f);
        snprintf(text, sizeof(text),
                "{\"format\": 1, \"tenants\": {}, \"gone\": {\"old\": {\"highest\": 5, \"since\": %lld}, \"young\": {\"highest\": 6, \"since\": %lld}}}",
                (long long)(now - KNOWN_GONE_SECONDS - 5), (long long)(now - KNOWN_GONE_SECONDS + 1000));
        folder_write(&f, "known.json", text);
        logs = known_logs_new(f.path);
        set(logs, "a", one, 1); /* so that it is written */
        logs = again(logs, &f);
        assert_int_equal(known_logs_highest(logs, "old"), 0);
        assert_int_equal(known_logs_highest(logs, "young"), 6);
        assert_int_equal(known_logs_highest(logs, "a"), 1);
        known_logs_free(logs);
        folder_remove(&f);
}

/* What is not as it was written is left aside; nothing is known then, and that is no reason not to start. */
static void test_damaged(void **state) {
        static const char *const texts[] = {"", "{", "[]", "{\"format\": 1}",
                "{\"format\": 1, \"tenants\": {\"a\": {}}}",
                "{\"format\": 1, \"tenants\": {}, \"gone\": {\"a\": {\"highest\": -1, \"since\": 5}}}",
                "{\"format\": 1, \"tenants\": {}, \"gone\": {\"a\": {\"highest\": 7}}}"};
        struct known_logs *logs;
        struct folder f;

        (void)state;
        folder_new(&f);
        for (size_t i = 0; i < n_elements(texts); i++) {
                folder_write(&f, "known.json", texts[i]);
                logs = known_logs_new(f.path);
                assert_int_equal(known_logs_highest(logs, "a"), 0);
                set(logs, "a", one, 2);
                logs = again(logs, &f);
                assert_int_equal(known_logs_get(logs, "a", one, none).revision, 2);
                known_logs_free(logs);
        }
        folder_remove(&f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_logs),
                cmocka_unit_test(test_highest),
                cmocka_unit_test(test_not_for_ever),
                cmocka_unit_test(test_damaged),
        };

        return cmocka_run_group_tests_name("fleet-known", tests, NULL, NULL);
}
