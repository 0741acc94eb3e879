/*
 * The hands of a migration alone, on the driver in memory. If this fails, a tenant goes on from a copy that nobody has looked at.
 */
#include "engine.h"

#include "fleet/mover.h"
#include "memory.h"

static const uint8_t there[16] = {9, 9}, id[16] = {1, 42};

static void on_change(void *userdata) {
        *(bool *)userdata = true;
}

/* What came last is verified as all of it is, also where the copy was just being verified when clients were held up. */
static void verified_to_the_end(void **state) {
        const char *source[] = {"instance", "mover-source", NULL}, *target[] = {"instance", "mover-target", NULL};
        struct mover_config c = {.name = "t", .target_name = "there"};
        struct memory_faults slow = {.delay_us = 20000};
        struct keyspace_status status;
        struct mover_figures f;
        struct mover *mover;
        struct engine e = {};
        struct keyspace *ks;
        bool changed = false, spoilt = false;

        (void)state;
        memory_set_faults("mover-source", NULL);
        engine_open(&e, &stoke_driver, source, 1 << 20);
        ks = engine_keyspace(&e, 1);
        c.home = c.loop = e.loop;
        c.keyspace = ks;
        c.source = e.datastore;
        c.target = engine_datastore(&e, NULL, target);
        c.on_change = on_change;
        c.userdata = &changed;
        memcpy(c.id, id, 16);
        memcpy(c.source_incarnation, e.incarnation, 16);
        memcpy(c.target_incarnation, there, 16);
        engine_fill(&e, ks, "/a", 1000);
        mover = mover_new(&c);
        mover_there_start(mover);
        do {
                engine_run(&e, 1, NULL);
                mover_get(mover, &f);
                assert_int_not_equal(f.stage, MOVER_FAILED);
        } while (f.stage != MOVER_READY);

        engine_fill(&e, ks, "/b", 5000);
        memory_set_faults("mover-target", &slow);
        do {
                engine_run(&e, 1, NULL);
                mover_get(mover, &f);
                assert_int_not_equal(f.stage, MOVER_FAILED);
        } while (strcmp(f.step, "verifying") != 0);
        /* Now it reads what is there by now. */
        engine_put(&e, ks, "/last", "x");
        keyspace_get_status(ks, &status);
        mover_seal(mover);
        do {
                engine_run(&e, 1, NULL);
                mover_get(mover, &f);
                if (f.stage == MOVER_SEALING && strcmp(f.step, "verifying") == 0 && !spoilt) {
                        memory_spoil("mover-target", "t", status.end.seq, false); /* fed by now */
                        spoilt = true;
                }
        } while (f.stage != MOVER_FAILED && f.stage != MOVER_COMMITTED);
        assert_true(spoilt);
        assert_int_equal(f.stage, MOVER_FAILED);
        assert_non_null(strstr(f.reason, "what was copied is not what is there"));

        memory_set_faults("mover-target", NULL);
        mover_there_stop(mover);
        engine_run(&e, 50, NULL);
        mover_free(mover);
        engine_keyspace_close(&e, ks);
        datastore_close(c.target, 5 * NSEC_PER_SEC);
        engine_close(&e);
        memory_reset("mover-source");
        memory_reset("mover-target");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(verified_to_the_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
