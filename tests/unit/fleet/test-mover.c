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

struct world {
        struct engine e;
        struct mover_config config;
        struct mover *mover;
        struct keyspace *ks;
        bool changed;
};

static void begin(struct world *w) {
        const char *source[] = {"instance", "mover-source", NULL}, *target[] = {"instance", "mover-target", NULL};
        struct mover_config *c = &w->config;

        memory_set_faults("mover-source", NULL);
        engine_open(&w->e, &stoke_driver, source, 1 << 20);
        w->ks = engine_keyspace(&w->e, 1);
        *c = (struct mover_config){
                .name = "t",
                .target_name = "there",
                .home = w->e.loop,
                .loop = w->e.loop,
                .keyspace = w->ks,
                .source = w->e.datastore,
                .target = engine_datastore(&w->e, NULL, target),
                .on_change = on_change,
                .userdata = &w->changed,
        };
        memcpy(c->id, id, 16);
        memcpy(c->source_incarnation, w->e.incarnation, 16);
        memcpy(c->target_incarnation, there, 16);
        w->mover = mover_new(c);
}

static void end(struct world *w) {
        memory_set_faults("mover-target", NULL);
        mover_there_stop(w->mover);
        engine_run(&w->e, 50, NULL);
        mover_free(w->mover);
        engine_keyspace_close(&w->e, w->ks);
        datastore_close(w->config.target, 5 * NSEC_PER_SEC);
        engine_close(&w->e);
        memory_reset("mover-source");
        memory_reset("mover-target");
}

/* What is told now; a move that failed is a failed test. */
static struct mover_figures look(struct world *w) {
        struct mover_figures f;

        engine_run(&w->e, 1, NULL);
        mover_get(w->mover, &f);
        if (f.stage == MOVER_FAILED)
                fail_msg("%s", f.reason);
        return f;
}

static void run_until_ready(struct world *w) {
        mover_there_start(w->mover);
        while (look(w).stage != MOVER_READY)
                continue;
}

/* What came last is verified as all of it is, also where the copy was just being verified when clients were held up. */
static void verified_to_the_end(void **state) {
        struct memory_faults slow = {.delay_us = 20000};
        struct keyspace_status status;
        struct mover_figures f;
        struct world w = {};
        bool spoilt = false;

        (void)state;
        begin(&w);
        engine_fill(&w.e, w.ks, "/a", 1000);
        run_until_ready(&w);

        engine_fill(&w.e, w.ks, "/b", 5000);
        memory_set_faults("mover-target", &slow);
        while (strcmp(look(&w).step, "verifying") != 0)
                continue;
        /* Now it reads what is there by now. */
        engine_put(&w.e, w.ks, "/last", "x");
        keyspace_get_status(w.ks, &status);
        mover_seal(w.mover);
        do {
                engine_run(&w.e, 1, NULL);
                mover_get(w.mover, &f);
                if (f.stage == MOVER_SEALING && strcmp(f.step, "verifying") == 0 && !spoilt) {
                        memory_spoil("mover-target", "t", status.end.seq, false); /* fed by now */
                        spoilt = true;
                }
        } while (f.stage != MOVER_FAILED && f.stage != MOVER_COMMITTED);
        assert_true(spoilt);
        assert_int_equal(f.stage, MOVER_FAILED);
        assert_non_null(strstr(f.reason, "what was copied is not what is there"));
        end(&w);
}

/* Another daemon writes all the while: what is copied of that is at times ahead of what the keyspace here has read, which is no difference. */
static void another_writes_meanwhile(void **state) {
        struct keyspace *other;
        struct world w = {};
        char prefix[16];

        (void)state;
        begin(&w);
        other = engine_keyspace(&w.e, 2);
        engine_fill(&w.e, w.ks, "/a", 1000);
        run_until_ready(&w);
        engine_fill(&w.e, other, "/opened/", 1);
        for (unsigned i = 0; i < 60; i++) {
                memory_fail_next("mover-source", MEMORY_LOAD, 4, -EIO); /* copies are made by MEMORY_READ */
                snprintf(prefix, sizeof(prefix), "/b%u/", i);
                engine_fill(&w.e, other, prefix, 100);
                look(&w);
        }
        /* Also where it is just learning of that when clients are held up. */
        mover_seal(w.mover);
        while (look(&w).stage != MOVER_COMMITTED)
                continue;
        engine_keyspace_close(&w.e, other);
        end(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(verified_to_the_end),
                cmocka_unit_test(another_writes_meanwhile),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
