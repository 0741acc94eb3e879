/*
 * Alarms and the quota, on a log that two daemons share. If this fails, a full keyspace grows on, or one that was
 * disarmed stays closed, or an alarm is gone after a restart or a compaction.
 */
#include "engine.h"
#include "memory.h"

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"instance", "alarm", NULL};

        memory_set_faults("alarm", NULL);
        engine_open(e, &stoke_driver, settings, 1 << 20);
        *state = e;
        return 0;
}

static int teardown(void **state) {
        struct engine *e = *state;
        bool left = e->n_open;

        engine_close(e);
        if (left)
                return -1;
        memory_reset("alarm");
        free(e);
        return 0;
}

static bool done;
static enum keyspace_result result_of;

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        result_of = result;
        done = true;
}

/* What is answered, as text: "member:type …". */
static const char *ask(struct engine *e, struct keyspace *ks, int action, uint64_t member, int32_t type) {
        static char text[1024];
        struct alarm_call c = {.member = member, .type = type};
        struct arena arena;
        size_t n = 0;

        arena_init(&arena, 0);
        c.action = action;
        c.call.arena = &arena;
        c.call.done = on_done;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        done = false;
        keyspace_alarm(ks, &c);
        assert_false(done);
        engine_run(e, 30000, &done);
        assert_true(done);
        text[0] = '\0';
        for (size_t i = 0; i < c.n_alarms && result_of == KEYSPACE_OK; i++)
                n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%llu:%d", i ? " " : "",
                        (unsigned long long)c.alarms[i].member, c.alarms[i].type);
        arena_done(&arena);
        return text;
}

static void a_set_of_members_and_types(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);

        assert_string_equal(ask(e, ks, ALARM_GET, 0, 0), "");
        assert_string_equal(ask(e, ks, ALARM_ACTIVATE, 5, ALARM_NONE), "");
        assert_string_equal(ask(e, ks, ALARM_DEACTIVATE, 5, 1), "");
        assert_string_equal(ask(e, ks, ALARM_ACTIVATE, 5, 1), "5:1");
        assert_string_equal(ask(e, ks, ALARM_ACTIVATE, 5, 1), "5:1");
        assert_string_equal(ask(e, ks, ALARM_ACTIVATE, 0, 7), "0:7");
        assert_string_equal(ask(e, ks, ALARM_ACTIVATE, UINT64_MAX, 1), "18446744073709551615:1");
        assert_string_equal(ask(e, ks, ALARM_GET, 99, 0), "5:1 0:7 18446744073709551615:1");
        assert_string_equal(ask(e, ks, ALARM_GET, 0, 1), "5:1 18446744073709551615:1");
        assert_string_equal(ask(e, ks, ALARM_DEACTIVATE, 5, 1), "5:1");
        assert_string_equal(ask(e, ks, ALARM_GET, 0, 0), "0:7 18446744073709551615:1");
        assert_int_equal(engine_get(e, ks, "/k").revision, 1); /* no revision is taken */
        for (unsigned i = 0; i < 62; i++)
                ask(e, ks, ALARM_ACTIVATE, 100 + i, 9);
        assert_int_equal(result_of, KEYSPACE_OK);
        ask(e, ks, ALARM_ACTIVATE, 99, 9);
        assert_int_equal(result_of, KEYSPACE_TOO_MANY_REQUESTS);
        engine_keyspace_close(e, ks);
}

/* Other daemons, restarts and compactions. */
static void alarms_stay(void **state) {
        struct engine *e = *state;
        struct keyspace *a = engine_keyspace(e, 1), *b = engine_keyspace(e, 2);

        ask(e, a, ALARM_ACTIVATE, 1, 1);
        ask(e, b, ALARM_ACTIVATE, 2, 1);
        assert_string_equal(ask(e, a, ALARM_DEACTIVATE, 1, 1), "1:1");
        ask(e, b, ALARM_ACTIVATE, 3, 9);
        ask(e, b, ALARM_DEACTIVATE, 3, 9);
        ask(e, b, ALARM_ACTIVATE, 3, 9);
        assert_int_equal(engine_put(e, b, "/k", "1").result, KEYSPACE_NO_SPACE);
        for (int64_t round = 0; round < 4; round++) {
                assert_int_equal(engine_delete(e, b, "/k", NULL).result, KEYSPACE_OK);
                ask(e, a, ALARM_DEACTIVATE, 2, 1);
                assert_int_equal(engine_put(e, a, "/k", "1").result, KEYSPACE_OK);
                ask(e, a, ALARM_ACTIVATE, 2, 1);
                assert_int_equal(engine_compact(e, a, engine_get(e, a, "/k").revision), KEYSPACE_OK);
                engine_keyspace_close(e, b);
                b = engine_keyspace(e, 2);
                assert_string_equal(ask(e, b, ALARM_GET, 0, 0), "3:9 2:1");
                assert_int_equal(engine_put(e, b, "/k", "1").result, KEYSPACE_NO_SPACE);
        }
        engine_keyspace_close(e, b);
        engine_keyspace_close(e, a);
}

static enum keyspace_result txn_of(struct engine *e, struct keyspace *ks, const struct txn_op *op, bool failure) {
        struct txn txn = {.success = failure ? NULL : op,
                .n_success = !failure,
                .failure = failure ? op : NULL,
                .n_failure = failure};

        return engine_txn(e, ks, &txn).result;
}

static void what_is_refused(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct txn_op put = {.kind = OP_PUT, .put = {.key = bytes_of_string("/k"), .value = bytes_of_string("v")}};
        struct txn_op range = {.kind = OP_RANGE, .range = {.range = {.key = bytes_of_string("/k")}}};
        struct txn_op delete = {.kind = OP_DELETE, .delete = {.range = {.key = bytes_of_string("/none")}}};
        struct txn inner = {.success = &put, .n_success = 1}, inner_range = {.success = &range, .n_success = 1};
        struct txn_op nested = {.kind = OP_TXN, .txn = &inner}, nested_range = {.kind = OP_TXN, .txn = &inner_range};

        for (int i = 0; i < 4; i++)
                engine_put(e, ks, "/k", "1");
        for (int32_t type = ALARM_NOSPACE; type <= ALARM_CORRUPT; type++) {
                bool corrupt = type == ALARM_CORRUPT;
                enum keyspace_result grows = corrupt ? KEYSPACE_LOST : KEYSPACE_NO_SPACE;
                enum keyspace_result changes = corrupt ? KEYSPACE_LOST : KEYSPACE_OK;

                ask(e, ks, ALARM_ACTIVATE, 1, type);
                assert_int_equal(txn_of(e, ks, &put, false), grows);
                assert_int_equal(txn_of(e, ks, &put, true), grows); /* whichever branch is taken */
                assert_int_equal(txn_of(e, ks, &nested, false), grows);
                assert_int_equal(txn_of(e, ks, &range, false), KEYSPACE_OK);
                assert_int_equal(txn_of(e, ks, &nested_range, false), changes);
                assert_int_equal(txn_of(e, ks, &delete, false), changes);
                assert_int_equal(engine_grant(e, ks, 7 + type, 100), grows);
                assert_int_equal(engine_compact(e, ks, 2 + type), changes);
                assert_int_equal(engine_get(e, ks, "/k").result, KEYSPACE_OK);
                ask(e, ks, ALARM_DEACTIVATE, 1, type);
                assert_int_equal(txn_of(e, ks, &put, false), KEYSPACE_OK);
        }
        engine_keyspace_close(e, ks);
}

static void the_quota_raises_it(void **state) {
        struct engine *e = *state;
        struct keyspace *a, *b;
        char member[32], both[64], key[32], value[64];
        struct keyspace_status status;
        struct answer answer;
        unsigned n = 0;

        e->quota_bytes = 8192;
        a = engine_keyspace(e, 1);
        b = engine_keyspace(e, 2);
        memset(value, 'x', sizeof(value) - 1);
        value[sizeof(value) - 1] = '\0';
        do {
                snprintf(key, sizeof(key), "/k%u", n++);
                answer = engine_put(e, n & 1 ? a : b, key, value);
        } while (answer.result == KEYSPACE_OK && n < 1000);
        assert_int_equal(answer.result, KEYSPACE_NO_SPACE);
        keyspace_get_status(a, &status);
        assert_true(n > 50 && status.bytes_log < 8192);
        snprintf(member, sizeof(member), "%llu:1", (unsigned long long)keyspace_member_id(a));
        assert_int_equal(keyspace_member_id(a), keyspace_member_id(b));
        assert_string_equal(ask(e, a, ALARM_GET, 0, 0), member);
        assert_string_equal(ask(e, b, ALARM_GET, 0, 0), member);
        assert_int_equal(engine_grant(e, b, 1, 100), KEYSPACE_NO_SPACE);

        /* Room alone does not help; disarming alone does not, it is raised again. */
        assert_int_equal(engine_delete(e, b, "/", "0").result, KEYSPACE_OK);
        ask(e, a, ALARM_DEACTIVATE, keyspace_member_id(a), 1);
        assert_int_equal(engine_put(e, b, "/k", value).result, KEYSPACE_NO_SPACE);
        snprintf(both, sizeof(both), "%s", ask(e, a, ALARM_GET, 0, 0));
        assert_string_equal(both, member);
        assert_int_equal(engine_compact(e, a, engine_get(e, a, "/k").revision), KEYSPACE_OK);
        assert_int_equal(engine_put(e, a, "/k", value).result, KEYSPACE_NO_SPACE);
        assert_string_equal(ask(e, b, ALARM_DEACTIVATE, keyspace_member_id(a), 1), member);
        assert_int_equal(engine_put(e, a, "/k", value).result, KEYSPACE_OK);
        assert_int_equal(engine_put(e, b, "/k", value).result, KEYSPACE_OK);
        engine_keyspace_close(e, a);
        engine_keyspace_close(e, b);
        e->quota_bytes = 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(a_set_of_members_and_types, setup, teardown),
                cmocka_unit_test_setup_teardown(alarms_stay, setup, teardown),
                cmocka_unit_test_setup_teardown(what_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(the_quota_raises_it, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
