/*
 * Logs that one daemon holds alone (SQLite), moved: into one that is shared, back, and to another of their kind. If this fails, a tenant on SQLite
 * cannot be moved, or stays locked where it was.
 */
#include "engine.h"

#include <dlfcn.h>
#include <unistd.h>

#include "keyspace/install.h"
#include "keyspace/record.h"
#include "keyspace/verify.h"
#include "memory.h"

static const struct stoke_driver *sqlite;

struct world {
        struct engine e;
        struct plugin plugins[2];    /* SQLite, memory */
        struct datastore *places[3]; /* SQLite (the engine's), memory, another SQLite */
        char directories[2][32];
        uint8_t incarnations[3][16];
        struct keyspace *ks;
        unsigned at;
        bool flag;
        int result;
        char reason[256];
        struct seal_call seal;
};

static struct world *world;

static int setup(void **state) {
        struct world *w = world = new0(struct world);
        const char *settings[] = {"path", w->directories[0], NULL}, *second[] = {"path", w->directories[1], NULL},
                   *memory[] = {"instance", "exclusive", NULL};

        for (int i = 0; i < 2; i++) {
                (void)snprintf(w->directories[i], sizeof(w->directories[i]), "/tmp/stoke-move-XXXXXX");
                assert_non_null(mkdtemp(w->directories[i]));
        }
        w->plugins[0] = (struct plugin){.driver = sqlite, .allowed = true};
        w->plugins[1] = (struct plugin){.driver = &stoke_driver, .allowed = true};
        engine_open(&w->e, sqlite, settings, 1 << 20);
        w->places[0] = w->e.datastore;
        w->places[1] = engine_datastore(&w->e, &w->plugins[1], memory);
        w->places[2] = engine_datastore(&w->e, &w->plugins[0], second);
        memcpy(w->incarnations[0], w->e.incarnation, 16);
        w->ks = engine_keyspace(&w->e, 1);
        *state = w;
        return 0;
}

static int teardown(void **state) {
        struct world *w = *state;
        char command[128];

        engine_keyspace_close(&w->e, w->ks);
        datastore_close(w->places[1], 5 * NSEC_PER_SEC);
        datastore_close(w->places[2], 5 * NSEC_PER_SEC);
        engine_close(&w->e);
        memory_reset("exclusive");
        for (int i = 0; i < 2; i++) {
                (void)snprintf(command, sizeof(command), "rm -rf %s", w->directories[i]);
                assert_int_equal(system(command), 0);
        }
        free(w);
        return 0;
}

static void on_done(void *userdata, int result, const char *reason) {
        (void)userdata;
        world->flag = true;
        world->result = result;
        (void)snprintf(world->reason, sizeof(world->reason), "%s", reason);
}

static void on_call(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        world->flag = true;
        world->result = (int)result;
}

static void on_pinned(void *userdata, const struct stoke_end *end, int64_t revision) {
        (void)userdata;
        (void)end;
        (void)revision;
        world->flag = true;
}

static void on_lost(void *userdata, const char *reason) {
        (void)userdata;
        fail_msg("a pin was lost: %s", reason);
}

static void wait_flag(struct world *w) {
        engine_run(&w->e, 20000, &w->flag);
        assert_true(w->flag);
        w->flag = false;
        if (w->result != 0)
                fail_msg("%d: %s", w->result, w->reason);
}

/* A whole migration, as the fleet does it. */
static void move(struct world *w, unsigned to, const char *key) {
        static uint8_t number;
        struct keyspace_switch there = {.datastore = w->places[to], .done = on_done, .userdata = w};
        struct pin_config pc = {.on_pinned = on_pinned, .on_lost = on_lost};
        struct pump_config c = {
                .source = {.datastore = w->places[w->at], .name = "t", .pinned = true, .follow = true},
                .target = {.datastore = w->places[to], .name = "t"},
                .loop = w->e.loop,
                .on_done = on_done,
                .userdata = w,
        };
        struct verify_config vc = {.keyspace = w->ks, .datastore = w->places[to], .on_done = on_done, .userdata = w};
        struct keyspace_status status;
        struct pump_status ps;
        struct verify *verify;
        struct pump *pump;
        struct pin *pin;
        uint8_t id[16] = {0x77};

        id[1] = ++number;
        memcpy(w->incarnations[to], id, 16);
        w->incarnations[to][0] = 0x88;
        memcpy(c.source.incarnation, w->incarnations[w->at], 16);
        memcpy(c.target.incarnation, w->incarnations[to], 16);
        memcpy(c.target.id, id, 16);
        memcpy(vc.incarnation, w->incarnations[to], 16);
        memcpy(vc.installation, id, 16);
        memcpy(there.incarnation, w->incarnations[to], 16);
        w->flag = false;
        w->result = 0;
        keyspace_pin(w->ks, &pc, &pin);
        wait_flag(w);
        if (number == 1)
                engine_run(&w->e, 500, NULL); /* it stands, whether or not it is written anywhere */
        assert_int_equal(pump_new(&c, &pump), 0);
        do {
                engine_run(&w->e, 5, NULL);
                pump_get_status(pump, &ps);
                assert_int_equal(engine_put(&w->e, w->ks, key, "while it is copied").result, KEYSPACE_OK);
        } while (!ps.caught_up && ps.seq < 100000);
        assert_int_equal(verify_new(&vc, &verify), 0);
        verify_up_to(verify, ps.seq);
        wait_flag(w);
        keyspace_get_status(w->ks, &status);
        assert_int_equal(engine_compact(&w->e, w->ks, status.revision - 1), KEYSPACE_OK); /* deletes nothing for now */
        keyspace_hold(w->ks);
        w->seal = (struct seal_call){};
        memcpy(w->seal.id, id, 16);
        w->seal.call.done = on_call;
        w->seal.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_seal(w->ks, &w->seal);
        wait_flag(w);
        assert_int_equal(w->seal.outcome, SEAL_STANDS);
        pump_finish(pump, &w->seal.end);
        wait_flag(w);
        verify_up_to(verify, w->seal.end.seq);
        wait_flag(w);
        install_commit(pump_install(pump), w->seal.end.seq, w->seal.revision, on_done);
        wait_flag(w);
        keyspace_switch(w->ks, &there);
        wait_flag(w);
        keyspace_release_hold(w->ks);
        verify_free(verify);
        pump_free(pump);
        keyspace_unpin(pin);
        w->at = to;
        engine_run(&w->e, 50, NULL);
        keyspace_get_status(w->ks, &status);
        assert_true(!status.held && !status.sealed && status.condition == KEYSPACE_SERVING);
}

static uint32_t hash;
static void on_hash(struct keyspace_call *call, enum keyspace_result result) {
        hash = container_of(call, struct hash_call, call)->hash;
        on_call(call, result);
}

static uint32_t hash_at(struct world *w, int64_t revision) {
        struct hash_call h = {.revision_wanted = revision};

        h.call.done = on_hash;
        h.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        w->flag = false;
        keyspace_hash(w->ks, &h);
        wait_flag(w);
        return hash;
}

static void there_and_back(void **state) {
        struct world *w = *state;
        static const unsigned ways[] = {1, 0, 2, 0, 1, 2};
        struct recorder *r = new0(struct recorder);
        int64_t before = 0;

        engine_fill(&w->e, w->ks, "/f", 2000);
        assert_int_equal(engine_grant(&w->e, w->ks, 7, 1000), KEYSPACE_OK);
        engine_put_lease(&w->e, w->ks, "/leased", "x", 7);
        engine_watch(&w->e, w->ks, r, "/k", 0, false);
        for (size_t i = 0; i < n_elements(ways); i++) {
                char key[16];
                struct answer a;
                uint32_t was;

                (void)snprintf(key, sizeof(key), "/k%zu", i);
                a = engine_get(&w->e, w->ks, "/leased");
                assert_int_equal(a.kvs[0].lease, 7);
                move(w, ways[i], key);
                a = engine_put(&w->e, w->ks, key, "there");
                assert_int_equal(a.result, KEYSPACE_OK);
                assert_true(a.revision > before);
                before = a.revision;
                was = hash_at(w, 0);
                assert_string_equal(engine_get(&w->e, w->ks, key).kvs[0].value, "there");
                assert_int_equal(engine_list(&w->e, w->ks, "/f", 0, 0).count, 2000);
                if (i == 0) {
                        assert_false(r->cancelled);
                        assert_true(r->n_events > 1);
                        watcher_free(r->watcher);
                }
                /* From nothing, as another daemon would load it there. */
                engine_keyspace_close(&w->e, w->ks);
                w->e.datastore = w->places[w->at];
                memcpy(w->e.incarnation, w->incarnations[w->at], 16);
                w->ks = engine_keyspace(&w->e, (uint8_t)(20 + i));
                w->e.datastore = w->places[0];
                assert_int_equal(hash_at(w, 0), was); /* loaded from there, it is the same */
        }
        free(r);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(there_and_back, setup, teardown)};
        void *library;

        if (argc < 2)
                return 2;
        library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (!library)
                return 2;
        sqlite = dlsym(library, STOKE_DRIVER_SYMBOL);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
