/*
 * Pins, holds, seals and switches, one at a time, on the driver in memory: what they promise to whoever moves a log. The same under
 * load, with several daemons and faults: test-migrate.c. If this fails, a migration loses writes, answers from where the log was before, or leaves a
 * tenant held for ever.
 */
#include "engine.h"

#include "keyspace/install.h"
#include "keyspace/record.h"
#include "keyspace/stream_piece.h"
#include "keyspace/verify.h"
#include "memory.h"

static const uint8_t there[16] = {9, 9}, first_id[16] = {1, 42}, second_id[16] = {2, 42};

struct world {
        struct engine e;
        struct datastore *target;
        struct keyspace *ks;
        /* What was told. */
        unsigned n_sealed;
        uint8_t sealed_id[16];
        bool flag;
        int result;
};

static struct world *world;

static void on_sealed(void *userdata, const uint8_t id[16]) {
        (void)userdata;
        world->n_sealed++;
        memcpy(world->sealed_id, id, 16);
}

static int setup(void **state) {
        struct world *w = world = new0(struct world);
        const char *source[] = {"instance", "move-source", NULL}, *target[] = {"instance", "move-target", NULL};

        memory_set_faults("move-source", NULL);
        engine_open(&w->e, &stoke_driver, source, 1 << 20);
        w->e.on_sealed = on_sealed;
        w->target = engine_datastore(&w->e, NULL, target);
        w->ks = engine_keyspace(&w->e, 1);
        *state = w;
        return 0;
}

static int teardown(void **state) {
        struct world *w = *state;

        if (w->ks)
                engine_keyspace_close(&w->e, w->ks);
        datastore_close(w->target, 5 * NSEC_PER_SEC);
        engine_close(&w->e);
        memory_reset("move-source");
        memory_reset("move-target");
        free(w);
        return 0;
}

static void wait_flag(struct world *w) {
        engine_run(&w->e, 20000, &w->flag);
        assert_true(w->flag);
        w->flag = false;
}

/* ---- doing it by hand */

static struct seal_call seal_with(
        struct world *w, struct keyspace *ks, const uint8_t id[16], void (*ask)(struct keyspace *, struct seal_call *));

static void on_call(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        world->flag = true;
        world->result = (int)result;
}

static struct seal_call seal_with(struct world *w, struct keyspace *ks, const uint8_t id[16],
        void (*ask)(struct keyspace *, struct seal_call *)) {
        struct seal_call c = {.target = "elsewhere"};

        memcpy(c.id, id, 16);
        c.call.done = on_call;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        w->flag = false;
        ask(ks, &c);
        assert_false(w->flag);
        wait_flag(w);
        assert_int_equal(w->result, KEYSPACE_OK);
        return c;
}

static void on_done(void *userdata, int result, const char *reason) {
        (void)userdata;
        (void)reason;
        world->flag = true;
        world->result = result;
}

/* The whole log, up to its end, into the target, under the id, and committed. */
static void copy_log(struct world *w, const uint8_t id[16], const uint8_t incarnation[16]) {
        struct pump_config c = {
                .source = {.datastore = w->e.datastore, .name = "t", .pinned = true},
                .target = {.datastore = w->target, .name = "t"},
                .loop = w->e.loop,
                .on_done = on_done,
                .userdata = w,
        };
        struct pump_status status;
        struct pump *pump;

        memcpy(c.source.incarnation, w->e.incarnation, 16);
        memcpy(c.target.incarnation, incarnation, 16);
        memcpy(c.target.id, id, 16);
        w->flag = false;
        assert_int_equal(pump_new(&c, &pump), 0);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        pump_get_status(pump, &status);
        install_commit(pump_install(pump), status.seq, status.revision, on_done);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        pump_free(pump);
}

static void switch_to(struct world *w, struct keyspace *ks, const uint8_t incarnation[16]) {
        struct keyspace_switch to = {.datastore = w->target, .done = on_done, .userdata = w};

        memcpy(to.incarnation, incarnation, 16);
        w->flag = false;
        keyspace_switch(ks, &to);
        assert_false(w->flag);
        wait_flag(w);
        assert_int_equal(w->result, 0);
}

/* A put that is only begun. */
struct begun {
        struct txn_call txn;
        struct txn tree;
        struct txn_op op;
        struct arena arena;
        bool done;
        enum keyspace_result result;
};

static void on_begun_done(struct keyspace_call *call, enum keyspace_result result) {
        struct begun *b = container_of(container_of(call, struct txn_call, call), struct begun, txn);

        b->done = true;
        b->result = result;
        if (result == KEYSPACE_OK)
                txn_result_release(&b->txn);
}

static void on_kept_done(struct keyspace_call *call, enum keyspace_result result) {
        struct begun *b = container_of(container_of(call, struct txn_call, call), struct begun, txn);

        b->done = true;
        b->result = result;
}

static void put_begin(struct keyspace *ks, struct begun *b, const char *key, const char *value, uint64_t patience_ms) {
        *b = (struct begun){
                .op = {.kind = OP_PUT, .put = {.key = bytes_of_string(key), .value = bytes_of_string(value)}}};
        b->tree = (struct txn){.success = &b->op, .n_success = 1};
        arena_init(&b->arena, 0);
        b->txn.txn = &b->tree;
        b->txn.call.arena = &b->arena;
        b->txn.call.done = on_begun_done;
        b->txn.call.deadline_ns = clock_now_ns() + patience_ms * NSEC_PER_MSEC;
        keyspace_txn(ks, &b->txn);
}

struct asked {
        struct range_call range;
        struct arena arena;
        bool done;
        enum keyspace_result result;
        char value[64];
};

static bool on_kvs(struct range_call *call, const struct kv *kvs, size_t n) {
        struct asked *a = container_of(call, struct asked, range);

        assert_int_equal(n, 1);
        (void)snprintf(a->value, sizeof(a->value), "%.*s", (int)kvs->value->size, (const char *)kvs->value->data);
        return true;
}

static void on_asked_done(struct keyspace_call *call, enum keyspace_result result) {
        struct asked *a = container_of(container_of(call, struct range_call, call), struct asked, range);

        a->done = true;
        a->result = result;
}

static void get_begin(struct keyspace *ks, struct asked *a, const char *key, bool serializable, uint64_t patience_ms) {
        *a = (struct asked){.range = {.request = {.range.key = bytes_of_string(key), .serializable = serializable},
                                    .on_slice = on_kvs}};
        arena_init(&a->arena, 0);
        a->range.call.arena = &a->arena;
        a->range.call.done = on_asked_done;
        a->range.call.deadline_ns = clock_now_ns() + patience_ms * NSEC_PER_MSEC;
        keyspace_range(ks, &a->range);
}

static size_t n_records_at(
        struct world *w, struct datastore *ds, const uint8_t incarnation[16], enum record_kind kind) {
        struct stream_config c = {.datastore = ds, .name = "t", .loop = w->e.loop};
        struct stream_piece *p;
        struct stream *s;
        size_t n = 0;
        int r;

        memcpy(c.incarnation, incarnation, 16);
        assert_int_equal(stream_new(&c, &s), 0);
        while ((r = stream_next(s, &p)) != STREAM_END) {
                assert_true(r == STREAM_WAIT || r == STREAM_PIECE);
                if (r == STREAM_PIECE) {
                        for (size_t i = 0; i < p->n; i++)
                                n += p->records[i].kind == kind;
                        stream_piece_free(p);
                } else
                        engine_run(&w->e, 1, NULL);
        }
        stream_free(s);
        return n;
}

/* ---- holds */

static void held(void **state) {
        struct world *w = *state;
        struct begun put, late;
        struct asked get, serializable;
        struct keyspace_status status;

        engine_put(&w->e, w->ks, "/k", "1");
        keyspace_hold(w->ks);
        keyspace_hold(w->ks);
        put_begin(w->ks, &put, "/k", "2", 20000);
        put_begin(w->ks, &late, "/late", "x", 150);
        get_begin(w->ks, &get, "/k", false, 20000);
        get_begin(w->ks, &serializable, "/k", true, 20000);
        engine_run(&w->e, 20000, &serializable.done);
        assert_string_equal(serializable.value, "1");
        engine_run(&w->e, 20000, &late.done);
        assert_true(late.done && (late.result == KEYSPACE_UNAVAILABLE || late.result == KEYSPACE_TIMEOUT));
        assert_false(put.done || get.done);
        keyspace_get_status(w->ks, &status);
        assert_true(status.held && !status.sealed && status.held_ns >= 40 * NSEC_PER_MSEC);
        keyspace_release_hold(w->ks);
        engine_run(&w->e, 20, NULL);
        assert_false(put.done || get.done);
        keyspace_release_hold(w->ks);
        engine_run(&w->e, 20000, &put.done);
        engine_run(&w->e, 20000, &get.done);
        assert_int_equal(put.result, KEYSPACE_OK);
        assert_int_equal(get.result, KEYSPACE_OK);
        assert_int_equal(engine_get(&w->e, w->ks, "/late").count, 0); /* given up is given up */
        arena_done(&put.arena);
        arena_done(&late.arena);
        arena_done(&get.arena);
        arena_done(&serializable.arena);
}

/* Nobody can keep a lease alive while all is held, so its time stands still. */
static void leases_stand_still(void **state) {
        struct world *w = *state;
        struct lease_call c = {.id = 5};

        assert_int_equal(engine_grant(&w->e, w->ks, 5, 2), KEYSPACE_OK);
        engine_put_lease(&w->e, w->ks, "/leased", "x", 5);
        keyspace_hold(w->ks);
        engine_run(&w->e, 2500, NULL);
        keyspace_release_hold(w->ks);
        assert_int_equal(engine_get(&w->e, w->ks, "/leased").count, 1);
        c.call.done = on_call;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        w->flag = false;
        keyspace_lease_time_to_live(w->ks, &c);
        wait_flag(w);
        assert_true(c.ttl >= 0 && c.ttl <= 2);
        for (unsigned i = 0; i < 1000 && engine_get(&w->e, w->ks, "/leased").count; i++)
                engine_run(&w->e, 20, NULL);
        assert_int_equal(engine_get(&w->e, w->ks, "/leased").count, 0);
}

/* ---- seals */

static void sealed_and_unsealed(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct keyspace_status status;
        struct seal_call c;
        struct begun put;
        struct asked get;

        engine_put(&w->e, w->ks, "/k", "1");
        assert_int_equal(engine_get(&w->e, other, "/k").count, 1);
        c = seal_with(w, w->ks, first_id, keyspace_seal);
        assert_int_equal(c.outcome, SEAL_STANDS);
        keyspace_get_status(w->ks, &status);
        assert_true(status.sealed && status.held && end_equal(&status.end, &c.end));
        assert_memory_equal(status.seal_id, first_id, 16);
        assert_int_equal(c.revision, 2);

        /* The other daemon, whoever it hears it from; it tells once. */
        put_begin(other, &put, "/k", "2", 20000);
        get_begin(other, &get, "/k", false, 20000);
        engine_run(&w->e, 1500, NULL);
        keyspace_get_status(other, &status);
        assert_true(status.sealed && status.held && !put.done && !get.done);
        assert_int_equal(w->n_sealed, 1);
        assert_memory_equal(w->sealed_id, first_id, 16);

        /* Once more is the same seal; another's is not. */
        c = seal_with(w, other, first_id, keyspace_seal);
        assert_int_equal(c.outcome, SEAL_STANDS);
        assert_true(end_equal(&status.end, &c.end));
        c = seal_with(w, other, second_id, keyspace_seal);
        assert_int_equal(c.outcome, SEAL_OTHER);

        /* Another migration's unseal lifts nothing, and keeps that from ever sealing. */
        c = seal_with(w, other, second_id, keyspace_unseal);
        assert_int_equal(c.outcome, SEAL_UNSEALED);
        engine_run(&w->e, 50, NULL);
        assert_false(put.done || get.done);
        c = seal_with(w, other, first_id, keyspace_unseal);
        assert_int_equal(c.outcome, SEAL_UNSEALED);
        engine_run(&w->e, 20000, &put.done);
        engine_run(&w->e, 20000, &get.done);
        assert_int_equal(put.result, KEYSPACE_OK);
        assert_string_equal(engine_get(&w->e, w->ks, "/k").kvs[0].value, "2");
        c = seal_with(w, w->ks, first_id, keyspace_seal);
        assert_int_equal(c.outcome, SEAL_VOID);
        c = seal_with(w, w->ks, second_id, keyspace_seal);
        assert_int_equal(c.outcome, SEAL_VOID);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_SEAL), 1);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_UNSEAL), 2);
        arena_done(&put.arena);
        arena_done(&get.arena);
        engine_keyspace_close(&w->e, other);
}

/* A daemon that is started on a sealed log is held from the first call on. */
static void opened_sealed(void **state) {
        struct world *w = *state;
        struct keyspace *fresh;
        struct asked get, serializable;

        engine_put(&w->e, w->ks, "/k", "1");
        seal_with(w, w->ks, first_id, keyspace_seal);
        fresh = engine_keyspace(&w->e, 3);
        get_begin(fresh, &get, "/k", false, 20000);
        get_begin(fresh, &serializable, "/k", true, 20000);
        engine_run(&w->e, 20000, &serializable.done);
        engine_run(&w->e, 50, NULL);
        assert_string_equal(serializable.value, "1");
        assert_false(get.done);
        assert_int_equal(w->n_sealed, 1);
        seal_with(w, w->ks, first_id, keyspace_unseal);
        engine_run(&w->e, 20000, &get.done);
        assert_int_equal(get.result, KEYSPACE_OK);
        arena_done(&get.arena);
        arena_done(&serializable.arena);
        engine_keyspace_close(&w->e, fresh);
}

/* The seal's answer is lost, and it lands later or never; the unseal's likewise. */
static void unknown_outcomes(void **state) {
        struct world *w = *state;
        struct seal_call c;

        engine_put(&w->e, w->ks, "/k", "1");
        memory_limbo_next("move-source");
        c = seal_with(w, w->ks, first_id, keyspace_seal);
        assert_int_equal(c.outcome, SEAL_STANDS);
        assert_false(memory_land("move-source", "t"));
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_SEAL), 1);
        memory_limbo_next("move-source");
        c = seal_with(w, w->ks, first_id, keyspace_unseal);
        assert_int_equal(c.outcome, SEAL_UNSEALED);
        assert_false(memory_land("move-source", "t"));
        assert_int_equal(engine_put(&w->e, w->ks, "/k", "2").result, KEYSPACE_OK);
}

/* A migrator that gave up: its seal lands after the unseal was appended by somebody else, and does not. */
static void fenced(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct seal_call c = {};

        engine_put(&w->e, w->ks, "/k", "1");
        assert_int_equal(engine_get(&w->e, other, "/k").count, 1);
        engine_run(&w->e, 50, NULL); /* what it is told of the other's part in this has come */
        memory_limbo_next("move-source");
        memcpy(c.id, first_id, 16);
        c.call.done = on_call;
        c.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        memory_fail_next("move-source", MEMORY_LOAD, 1000000, -EIO);
        keyspace_seal(w->ks, &c);
        for (int i = 0; i < 1000 && !memory_in_limbo("move-source", "t"); i++)
                engine_run(&w->e, 1, NULL);
        assert_true(memory_in_limbo("move-source", "t"));
        keyspace_cancel(&c.call);
        memory_fail_next("move-source", MEMORY_LOAD, 0, 0);
        seal_with(w, other, first_id, keyspace_unseal);
        assert_false(memory_land("move-source", "t"));
        assert_int_equal(engine_put(&w->e, w->ks, "/k", "2").result, KEYSPACE_OK);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_SEAL), 0);
        assert_int_equal(w->n_sealed, 0);
        engine_keyspace_close(&w->e, other);
}

/* ---- pins */

static void on_pinned(void *userdata, const struct stoke_end *end, int64_t revision) {
        (void)userdata;
        assert_true(end->seq > 0 && revision > 0);
        world->flag = true;
}

static void on_lost(void *userdata, const char *reason) {
        (void)userdata;
        assert_true(reason[0] != '\0');
        world->flag = true;
        world->result = -1;
}

static struct pin *pin(struct world *w, struct keyspace *ks, uint64_t ttl_ns) {
        struct pin_config c = {.ttl_ns = ttl_ns, .on_pinned = on_pinned, .on_lost = on_lost};
        struct pin *p;

        w->flag = false;
        keyspace_pin(ks, &c, &p);
        assert_false(w->flag);
        wait_flag(w);
        return p;
}

static void pinned(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct keyspace_status status;
        struct pin *p;
        uint64_t n;

        for (int i = 0; i < 20; i++)
                engine_put(&w->e, w->ks, "/k", "x");
        engine_put(&w->e, w->ks, "/gone", "x");
        engine_delete(&w->e, w->ks, "/gone", NULL);
        assert_int_equal(engine_get(&w->e, other, "/k").count, 1);
        p = pin(w, w->ks, 60 * NSEC_PER_SEC);
        n = memory_calls("move-source", MEMORY_COMPACT);
        /* Answered, physical or not, by each daemon, several times. */
        assert_int_equal(engine_compact(&w->e, w->ks, 10), KEYSPACE_OK);
        assert_int_equal(engine_compact(&w->e, other, 15), KEYSPACE_OK);
        assert_int_equal(engine_compact(&w->e, w->ks, 23), KEYSPACE_OK);
        engine_put(&w->e, w->ks, "/k", "y");
        assert_int_equal(engine_compact(&w->e, other, 24), KEYSPACE_OK);
        keyspace_get_status(other, &status);
        assert_int_equal(status.n_pins, 1);
        assert_int_equal(memory_calls("move-source", MEMORY_COMPACT), n);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 22);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_TOMBSTONE), 1);
        keyspace_unpin(p);
        engine_put(&w->e, w->ks, "/k", "z");
        assert_int_equal(engine_compact(&w->e, other, 25), KEYSPACE_OK);
        assert_true(memory_calls("move-source", MEMORY_COMPACT) > n);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 1);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_TOMBSTONE), 0);
        keyspace_get_status(other, &status);
        assert_int_equal(status.n_pins, 0);
        engine_keyspace_close(&w->e, other);
}

/* Nothing is ever such that a daemon that loads the log sees a key that was deleted. */
static void in_rounds(void **state) {
        struct world *w = *state;
        struct pin *p;

        engine_put(&w->e, w->ks, "/a", "x");
        for (int i = 0; i < 1500; i++) {
                char key[32];

                (void)snprintf(key, sizeof(key), "/k%05d", i);
                engine_put(&w->e, w->ks, key, "x");
        }
        p = pin(w, w->ks, 60 * NSEC_PER_SEC);
        assert_int_equal(engine_delete(&w->e, w->ks, "/k", "/l").deleted, 1500);
        assert_int_equal(engine_compact(&w->e, w->ks, 1503), KEYSPACE_OK);
        engine_put(&w->e, w->ks, "/a", "y");
        assert_int_equal(engine_compact(&w->e, w->ks, 1504), KEYSPACE_OK);
        engine_put(&w->e, w->ks, "/a", "z");
        assert_int_equal(engine_compact(&w->e, w->ks, 1505), KEYSPACE_OK);
        memory_set_faults("move-source", &(struct memory_faults){.delay_us = 2000});
        keyspace_unpin(p);
        for (unsigned i = 0; i < 12; i++) {
                struct keyspace *fresh;
                char which = (char)(10 + i);

                engine_run(&w->e, 3, NULL);
                fresh = engine_keyspace(&w->e, (uint8_t)which);
                assert_int_equal(engine_list(&w->e, fresh, "/", 0, 1).count, 1);
                engine_keyspace_close(&w->e, fresh);
        }
        memory_set_faults("move-source", NULL);
        for (unsigned i = 0; i < 500 && n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_TOMBSTONE); i++)
                engine_run(&w->e, 10, NULL);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 1);
}

/* Deleted at the source while it was copied: at the target it is there still, and is deleted again. */
static void deleted_again(void **state) {
        struct world *w = *state;
        struct pump_config c = {
                .source = {.datastore = w->e.datastore, .name = "t", .pinned = true, .follow = true},
                .target = {.datastore = w->target, .name = "t"},
                .loop = w->e.loop,
                .on_done = on_done,
                .userdata = w,
        };
        struct pump_status ps;
        struct seal_call seal;
        struct pump *pump;

        memcpy(c.source.incarnation, w->e.incarnation, 16);
        memcpy(c.target.incarnation, there, 16);
        memcpy(c.target.id, first_id, 16);
        for (int i = 0; i < 30; i++)
                engine_put(&w->e, w->ks, "/k", "x");
        assert_int_equal(pump_new(&c, &pump), 0);
        do {
                engine_run(&w->e, 5, NULL);
                pump_get_status(pump, &ps);
        } while (!ps.caught_up);
        assert_int_equal(engine_compact(&w->e, w->ks, 31), KEYSPACE_OK);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 1);
        seal = seal_with(w, w->ks, first_id, keyspace_seal);
        pump_finish(pump, &seal.end);
        wait_flag(w);
        install_commit(pump_install(pump), seal.end.seq, seal.revision, on_done);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        pump_free(pump);
        assert_int_equal(n_records_at(w, w->target, there, RECORD_PUT), 30);
        switch_to(w, w->ks, there);
        for (int i = 0; i < 1000 && n_records_at(w, w->target, there, RECORD_PUT) > 1; i++)
                engine_run(&w->e, 5, NULL);
        assert_int_equal(n_records_at(w, w->target, there, RECORD_PUT), 1);
        assert_int_equal(engine_get(&w->e, w->ks, "/k").kvs[0].version, 30);
}

/* Two marks: what the first named was deleted while the copy was made, the second came while it was pinned, and names the tombstone. At the target
 * both are there; the tombstone must not go before what it covers. */
static void not_raised(void **state) {
        struct world *w = *state;
        struct pump_config c = {
                .source = {.datastore = w->e.datastore, .name = "t", .pinned = true, .follow = true},
                .target = {.datastore = w->target, .name = "t"},
                .loop = w->e.loop,
                .on_done = on_done,
                .userdata = w,
        };
        struct keyspace *fresh;
        struct pump_status ps;
        struct seal_call seal;
        struct pump *pump;
        struct pin *p;

        memcpy(c.source.incarnation, w->e.incarnation, 16);
        memcpy(c.target.incarnation, there, 16);
        memcpy(c.target.id, first_id, 16);
        engine_put(&w->e, w->ks, "/gone", "x");
        engine_delete(&w->e, w->ks, "/gone", NULL);
        engine_put(&w->e, w->ks, "/k", "x");
        assert_int_equal(pump_new(&c, &pump), 0);
        do {
                engine_run(&w->e, 5, NULL);
                pump_get_status(pump, &ps);
        } while (!ps.caught_up);
        assert_int_equal(engine_compact(&w->e, w->ks, 4), KEYSPACE_OK);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 1);
        p = pin(w, w->ks, 60 * NSEC_PER_SEC);
        engine_put(&w->e, w->ks, "/k", "y");
        assert_int_equal(engine_compact(&w->e, w->ks, 5), KEYSPACE_OK);
        seal = seal_with(w, w->ks, first_id, keyspace_seal);
        pump_finish(pump, &seal.end);
        wait_flag(w);
        install_commit(pump_install(pump), seal.end.seq, seal.revision, on_done);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        pump_free(pump);
        assert_int_equal(n_records_at(w, w->target, there, RECORD_PUT), 3);
        assert_int_equal(n_records_at(w, w->target, there, RECORD_TOMBSTONE), 1);
        switch_to(w, w->ks, there);
        keyspace_unpin(p);
        for (int i = 0; i < 1000 && n_records_at(w, w->target, there, RECORD_TOMBSTONE); i++)
                engine_run(&w->e, 5, NULL);
        assert_int_equal(n_records_at(w, w->target, there, RECORD_TOMBSTONE), 0);
        memcpy(w->e.incarnation, there, 16);
        engine_keyspace_close(&w->e, w->ks);
        w->ks = NULL;
        {
                struct datastore *source = w->e.datastore;

                w->e.datastore = w->target;
                fresh = engine_keyspace(&w->e, 7);
                assert_int_equal(engine_list(&w->e, fresh, "/", 0, 0).n_kvs, 1);
                engine_keyspace_close(&w->e, fresh);
                w->e.datastore = source;
        }
}

/* Whoever appended the mark has gone, or is slow, with its deletions; a daemon that opens the log later knows only of those that are left, and
 * a copy must have neither. */
static void deleted_before(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct pin *p;

        for (unsigned how = 0; how < 3; how++) {
                struct answer answer;

                engine_fill(&w->e, w->ks, "/k", 1500);
                answer = engine_delete(&w->e, w->ks, "/k", "/l");
                assert_int_equal(answer.deleted, 1500);
                engine_put(&w->e, w->ks, "/a", "x");
                assert_int_equal(engine_get(&w->e, other, "/a").count, 1);
                if (how == 0)
                        memory_fail_next("move-source", MEMORY_COMPACT, 1000000, -EIO);
                else
                        memory_set_faults("move-source", &(struct memory_faults){.delay_us = 30000});
                {
                        struct compact_call c = {.revision_wanted = answer.revision + 1};

                        c.call.done = on_call;
                        c.call.deadline_ns = UINT64_MAX;
                        w->flag = false;
                        keyspace_compact(w->ks, &c);
                        wait_flag(w);
                        assert_int_equal(w->result, KEYSPACE_OK);
                }
                if (how == 0) {
                        engine_keyspace_close(&w->e, w->ks);
                        memory_fail_next("move-source", MEMORY_COMPACT, 3, -EIO);
                        w->ks = engine_keyspace(&w->e, 1);
                }
                p = pin(w, how == 2 ? w->ks : other, 60 * NSEC_PER_SEC);
                memory_set_faults("move-source", NULL);
                assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 1);
                keyspace_unpin(p);
        }
        engine_keyspace_close(&w->e, other);
}

/* What is named while an older pin stands waits for both; the younger is told of nothing that the older one needs. */
static void pinned_twice(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct pin *first, *second;

        for (int i = 0; i < 20; i++)
                engine_put(&w->e, w->ks, "/k", "x");
        assert_int_equal(engine_get(&w->e, other, "/k").count, 1);
        first = pin(w, w->ks, 60 * NSEC_PER_SEC);
        assert_int_equal(engine_compact(&w->e, w->ks, 21), KEYSPACE_OK);
        second = pin(w, other, 60 * NSEC_PER_SEC);
        engine_run(&w->e, 50, NULL);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 20);
        keyspace_unpin(first);
        engine_run(&w->e, 200, NULL);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 20);
        keyspace_unpin(second);
        for (int i = 0; i < 1000 && n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT) > 1; i++)
                engine_run(&w->e, 5, NULL);
        assert_int_equal(n_records_at(w, w->e.datastore, w->e.incarnation, RECORD_PUT), 1);
        engine_keyspace_close(&w->e, other);
}

static void lost_pin(void **state) {
        struct world *w = *state;
        struct pin *p;

        engine_put(&w->e, w->ks, "/k", "1");
        w->result = 0;
        p = pin(w, w->ks, 2 * NSEC_PER_SEC);
        engine_run(&w->e, 2500, NULL); /* it is renewed */
        assert_false(w->flag);
        memory_fail_next("move-source", MEMORY_APPEND, 1000000, -EIO);
        wait_flag(w);
        assert_int_equal(w->result, -1);
        memory_fail_next("move-source", MEMORY_APPEND, 0, 0);
        keyspace_unpin(p);
        engine_run(&w->e, 100, NULL);
}

/* ---- verifying */

static void verify(struct world *w, struct verify *v, uint64_t seq) {
        w->flag = false;
        verify_up_to(v, seq);
        assert_false(w->flag);
        wait_flag(w);
}

/* Whatever is wrong with a copy is noticed; what was pruned while it was made is not. */
static void verified(void **state) {
        struct world *w = *state;
        uint8_t id[16] = {77}, to[16] = {78};

        engine_fill(&w->e, w->ks, "/k", 3000);
        assert_int_equal(engine_grant(&w->e, w->ks, 9, 1000), KEYSPACE_OK);
        assert_int_equal(engine_grant(&w->e, w->ks, 10, 1000), KEYSPACE_OK);
        for (unsigned how = 0; how < 5; how++) {
                struct pump_config c = {
                        .source = {.datastore = w->e.datastore, .name = "t", .pinned = true, .follow = true},
                        .target = {.datastore = w->target, .name = "t"},
                        .loop = w->e.loop,
                        .on_done = on_done,
                        .userdata = w,
                };
                struct verify_config vc = {
                        .keyspace = w->ks, .datastore = w->target, .on_done = on_done, .userdata = w};
                struct pin *p = pin(w, w->ks, 60 * NSEC_PER_SEC);
                struct keyspace_status status;
                struct pump_status ps;
                struct verify *v;
                struct pump *pump;

                id[1] = to[1] = (uint8_t)how;
                memcpy(c.source.incarnation, w->e.incarnation, 16);
                memcpy(c.target.incarnation, to, 16);
                memcpy(c.target.id, id, 16);
                memcpy(vc.incarnation, to, 16);
                memcpy(vc.installation, id, 16);
                assert_int_equal(pump_new(&c, &pump), 0);
                do {
                        engine_run(&w->e, 5, NULL);
                        pump_get_status(pump, &ps);
                } while (!ps.caught_up);
                assert_int_equal(verify_new(&vc, &v), 0);
                verify(w, v, ps.seq / 2);
                assert_int_equal(w->result, 0);
                /* It is written, pruned, revoked. */
                for (int i = 0; i < 20; i++)
                        engine_put(&w->e, w->ks, "/k00007", "x");
                if (!how)
                        engine_delete(&w->e, w->ks, "/k00001", "/k00500");
                assert_int_equal(engine_revoke(&w->e, w->ks, 9 + how), KEYSPACE_OK);
                assert_int_equal(engine_grant(&w->e, w->ks, 11 + how, 1000), KEYSPACE_OK);
                keyspace_get_status(w->ks, &status);
                assert_int_equal(engine_compact(&w->e, w->ks, status.revision), KEYSPACE_OK);
                engine_run(&w->e, 20, NULL);
                keyspace_get_status(w->ks, &status);
                pump_finish(pump, &status.end);
                w->flag = false;
                wait_flag(w);
                assert_int_equal(w->result, 0);
                if (how == 1 || how == 2) /* the newest put of that key; a lease */
                        memory_spoil("move-target", "t", status.end.seq - (how == 1 ? 3 : 1), false);
                else if (how == 3)
                        memory_spoil("move-target", "t", status.end.seq - 3, true);
                verify(w, v, status.end.seq);
                assert_int_equal(w->result, how == 0 || how == 4 ? 0 : -EUCLEAN);
                verify_free(v);
                pump_free(pump);
                keyspace_unpin(p);
                engine_run(&w->e, 50, NULL);
        }
}

/* Behind the seal comes another migration's unseal: what is missing is missing all the same. */
static void verified_behind_the_seal(void **state) {
        struct world *w = *state;
        struct pump_config c = {
                .source = {.datastore = w->e.datastore, .name = "t", .pinned = true, .follow = true},
                .target = {.datastore = w->target, .name = "t"},
                .loop = w->e.loop,
                .on_done = on_done,
                .userdata = w,
        };
        struct verify_config vc = {.keyspace = w->ks, .datastore = w->target, .on_done = on_done, .userdata = w};
        struct keyspace_status status;
        struct seal_call seal;
        struct verify *v;
        struct pump *pump;

        for (unsigned how = 0; how < 2; how++) {
                uint8_t id[16] = {80, (uint8_t)how}, other[16] = {90, (uint8_t)how};

                memcpy(c.source.incarnation, w->e.incarnation, 16);
                memcpy(c.target.incarnation, id, 16);
                memcpy(c.target.id, id, 16);
                memcpy(vc.incarnation, id, 16);
                memcpy(vc.installation, id, 16);
                engine_fill(&w->e, w->ks, "/k", 5);
                keyspace_get_status(w->ks, &status);
                seal = seal_with(w, w->ks, id, keyspace_seal);
                seal_with(w, w->ks, other, keyspace_unseal);
                assert_int_equal(pump_new(&c, &pump), 0);
                pump_finish(pump, &seal.end);
                w->flag = false;
                wait_flag(w);
                assert_int_equal(w->result, 0);
                if (how == 0)
                        memory_spoil("move-target", "t", status.end.seq, false);
                assert_int_equal(verify_new(&vc, &v), 0);
                verify(w, v, seal.end.seq);
                assert_int_equal(w->result, how == 0 ? -EUCLEAN : 0);
                verify_free(v);
                pump_free(pump);
                seal_with(w, w->ks, id, keyspace_unseal);
        }
}

/* ---- switches */

static void moved(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2), *fresh;
        struct recorder *a = new0(struct recorder), *b = new0(struct recorder);
        struct keyspace_status status;
        uint64_t cluster = keyspace_cluster_id(w->ks);
        struct begun put;
        struct asked get;
        struct answer answer;

        engine_put(&w->e, w->ks, "/k", "1");
        assert_int_equal(engine_grant(&w->e, w->ks, 7, 100), KEYSPACE_OK);
        engine_put_lease(&w->e, w->ks, "/leased", "x", 7);
        engine_watch(&w->e, w->ks, a, "/", 0, true);
        engine_watch(&w->e, other, b, "/", 2, true);
        seal_with(w, w->ks, first_id, keyspace_seal);
        copy_log(w, first_id, there);
        put_begin(w->ks, &put, "/k", "2", 20000);
        get_begin(other, &get, "/k", false, 20000);
        switch_to(w, w->ks, there);
        engine_run(&w->e, 20000, &put.done);
        assert_int_equal(put.result, KEYSPACE_OK);
        assert_int_equal(put.txn.call.revision, 4);
        engine_run(&w->e, 1200, NULL);
        assert_false(get.done); /* the source tells nothing any more */
        switch_to(w, other, there);
        engine_run(&w->e, 20000, &get.done);
        assert_int_equal(get.result, KEYSPACE_OK);
        assert_string_equal(get.value, "2");

        /* All as it was, and goes on. */
        assert_int_equal(engine_put(&w->e, other, "/k", "3").revision, 5);
        answer = engine_get(&w->e, w->ks, "/leased");
        assert_int_equal(answer.kvs[0].lease, 7);
        assert_int_equal(engine_keep_alive(&w->e, other, 7), KEYSPACE_OK);
        assert_int_equal(engine_revoke(&w->e, w->ks, 7), KEYSPACE_OK);
        engine_run(&w->e, 1200, NULL);
        assert_string_equal(a->text, "put /k=2 (prev 1)\nput /k=3 (prev 2)\ndelete /leased (prev x)\n");
        assert_string_equal(
                b->text, "put /k=1\nput /leased=x\nput /k=2 (prev 1)\nput /k=3 (prev 2)\ndelete /leased (prev x)\n");
        assert_false(a->cancelled || b->cancelled);
        keyspace_get_status(w->ks, &status);
        assert_true(!status.held && !status.sealed && status.condition == KEYSPACE_SERVING);
        assert_int_equal(keyspace_cluster_id(w->ks), cluster);
        assert_ptr_equal(keyspace_datastore(w->ks), w->target);
        assert_memory_equal(keyspace_incarnation(w->ks), there, 16);

        /* And from nothing. */
        memcpy(w->e.incarnation, there, 16);
        {
                struct datastore *source = w->e.datastore;

                w->e.datastore = w->target;
                fresh = engine_keyspace(&w->e, 9);
                w->e.datastore = source;
        }
        answer = engine_list(&w->e, fresh, "/", 0, 0);
        assert_int_equal(answer.revision, 6);
        assert_int_equal(answer.n_kvs, 1);
        assert_int_equal(answer.kvs[0].version, 3);
        engine_keyspace_close(&w->e, fresh);
        watcher_free(a->watcher);
        watcher_free(b->watcher);
        free(a);
        free(b);
        arena_done(&put.arena);
        arena_done(&get.arena);
        engine_keyspace_close(&w->e, other);
}

static void add(struct stream_piece *p, struct stoke_record r) {
        r.key = r.key ? r.key : "";
        r.value = r.value ? r.value : "";
        r.origin.batch = 1;
        r.hash = record_hash(&r);
        assert_int_equal(stream_piece_add(p, &r), 0);
}

/* A log of another history at the target: "/k" of revision 2, and a mark at 1000. */
static void install_of_old(struct world *w) {
        struct install_config c = {.datastore = w->target, .name = "t", .loop = w->e.loop, .userdata = w};
        struct stream_piece *piece = stream_piece_new();
        struct install *install;

        add(piece, (struct stoke_record){.seq = 1, .revision = 1, .kind = RECORD_CREATED});
        add(piece,
                (struct stoke_record){.seq = 2,
                        .revision = 2,
                        .kind = RECORD_PUT,
                        .create_revision = 2,
                        .version = 1,
                        .key = "/k",
                        .key_size = 2,
                        .value = "of old",
                        .value_size = 6});
        add(piece, (struct stoke_record){.seq = 3, .revision = 1000, .kind = RECORD_MARK, .create_revision = 1000});
        memcpy(c.incarnation, there, 16);
        memcpy(c.id, first_id, 16);
        assert_int_equal(install_new(&c, &install), 0);
        install_begin(install, on_done);
        wait_flag(w);
        install_feed(install, piece, on_done);
        wait_flag(w);
        assert_int_equal(install_seq(install), 3);
        install_commit(install, 3, 1000, on_done);
        wait_flag(w);
        install_free(install);
}

/* A restore over a living tenant: another log, which goes on above all that was served. Who watches what is gone is told so, and who waits for
 * what is to come gets it. */
static void restored(void **state) {
        struct world *w = *state;
        struct keyspace_switch to = {.datastore = w->target, .other_log = true, .done = on_done, .userdata = w};
        struct recorder *present = new0(struct recorder), *future = new0(struct recorder);
        struct begun put;
        struct answer a;

        for (int i = 0; i < 10; i++)
                engine_put(&w->e, w->ks, "/k", "served");
        engine_watch(&w->e, w->ks, present, "/", 0, false);
        engine_watch(&w->e, w->ks, future, "/", 1002, false);
        seal_with(w, w->ks, first_id, keyspace_seal);
        put_begin(w->ks, &put, "/new", "held", 20000);

        install_of_old(w);

        memcpy(to.incarnation, there, 16);
        keyspace_switch(w->ks, &to);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        engine_run(&w->e, 20000, &put.done);
        assert_int_equal(put.result, KEYSPACE_OK);
        assert_int_equal(put.txn.call.revision, 1001);
        a = engine_list(&w->e, w->ks, "/", 0, 0);
        assert_int_equal(a.n_kvs, 2);
        assert_string_equal(a.kvs[0].value, "of old");
        assert_int_equal(a.kvs[0].mod, 2);
        assert_int_equal(engine_list(&w->e, w->ks, "/", 11, 0).result, KEYSPACE_COMPACTED);
        assert_int_equal(engine_put(&w->e, w->ks, "/k", "to come").revision, 1002);
        engine_run(&w->e, 5000, &present->cancelled);
        assert_int_equal(present->result, KEYSPACE_COMPACTED);
        assert_int_equal(present->compact_revision, 1000);
        engine_run(&w->e, 50, NULL);
        assert_false(future->cancelled);
        assert_string_equal(future->text, "put /k=to come\n");
        watcher_free(present->watcher);
        watcher_free(future->watcher);
        free(present);
        free(future);
        arena_done(&put.arena);
}

/* A write whose outcome nobody knows when the log is another one: void there, whatever it was, so it is made where the tenant goes on. */
static void write_in_doubt_before_another_log(void **state) {
        struct world *w = *state;
        struct keyspace_switch to = {.datastore = w->target, .other_log = true, .done = on_done, .userdata = w};
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct begun put;

        engine_put(&w->e, w->ks, "/k", "served");
        assert_int_equal(engine_get(&w->e, other, "/k").count, 1);
        install_of_old(w);
        memory_limbo_next("move-source");
        memory_fail_next("move-source", MEMORY_LOAD, 1000, -EIO);
        put_begin(w->ks, &put, "/new", "in doubt", 20000);
        engine_run(&w->e, 100, NULL);
        assert_true(memory_in_limbo("move-source", "t"));
        seal_with(w, other, first_id, keyspace_seal);
        assert_false(put.done);
        memcpy(to.incarnation, there, 16);
        keyspace_switch(w->ks, &to);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        engine_run(&w->e, 20000, &put.done);
        assert_int_equal(put.result, KEYSPACE_OK);
        assert_int_equal(put.txn.call.revision, 1001);
        assert_string_equal(engine_get(&w->e, w->ks, "/new").kvs[0].value, "in doubt");
        memory_fail_next("move-source", MEMORY_LOAD, 0, 0);
        arena_done(&put.arena);
        engine_keyspace_close(&w->e, other);
}

/* A value was read where the log was; where it goes on, the record of that number is another one. */
static void value_of_the_other_log(void **state) {
        struct world *w = *state;
        struct keyspace_switch to = {.datastore = w->target, .other_log = true, .done = on_done, .userdata = w};
        struct memory_faults slow = {.delay_us = 20000};
        char *big = xcalloc(1, (2 << 20) + 1);
        const struct kv *prev;
        struct begun put;
        uint64_t n;

        memset(big, 'v', 2 << 20); /* more than the cache takes */
        assert_int_equal(engine_put(&w->e, w->ks, "/k", big).result, KEYSPACE_OK);
        install_of_old(w);

        memory_set_faults("move-source", &slow);
        n = memory_calls("move-source", MEMORY_VALUES);
        put = (struct begun){.op = {.kind = OP_PUT, .put = {.key = bytes_of_string("/k"), .prev_kv = true}}};
        put.tree = (struct txn){.success = &put.op, .n_success = 1};
        arena_init(&put.arena, 0);
        put.txn.txn = &put.tree;
        put.txn.call.arena = &put.arena;
        put.txn.call.done = on_kept_done;
        put.txn.call.deadline_ns = UINT64_MAX;
        keyspace_txn(w->ks, &put.txn);
        while (memory_calls("move-source", MEMORY_VALUES) == n)
                engine_run(&w->e, 1, NULL);
        keyspace_hold(w->ks); /* it comes back, and waits */
        memory_set_faults("move-source", NULL);
        seal_with(w, w->ks, first_id, keyspace_seal);
        engine_run(&w->e, 100, NULL);
        assert_false(put.done);
        memcpy(to.incarnation, there, 16);
        keyspace_switch(w->ks, &to);
        keyspace_release_hold(w->ks);
        wait_flag(w);
        engine_run(&w->e, 20000, &put.done);
        assert_int_equal(put.result, KEYSPACE_OK);
        prev = put.txn.result.results[0].put.prev;
        assert_non_null(prev);
        assert_int_equal(prev->value->size, 6);
        assert_memory_equal(prev->value->data, "of old", 6);
        txn_result_release(&put.txn);
        arena_done(&put.arena);
        free(big);
}

/* A log that is not this one, by mistake: nothing is served from it. */
static void wrong_log(void **state) {
        struct world *w = *state;
        struct keyspace_switch to = {.datastore = w->target, .done = on_done, .userdata = w};
        struct keyspace_status status;

        engine_put(&w->e, w->ks, "/k", "1");
        copy_log(w, first_id, there); /* without what follows */
        engine_put(&w->e, w->ks, "/k", "2");
        engine_put(&w->e, w->ks, "/k", "3");
        seal_with(w, w->ks, second_id, keyspace_seal);
        memcpy(to.incarnation, there, 16);
        w->flag = false;
        keyspace_switch(w->ks, &to);
        wait_flag(w);
        assert_int_equal(w->result, -ESTALE);
        keyspace_get_status(w->ks, &status);
        assert_int_equal(status.condition, KEYSPACE_HISTORY_LOST);

        /* And one that is not there at all. */
        to.incarnation[5] ^= 1;
        keyspace_switch(w->ks, &to);
        wait_flag(w);
        assert_int_equal(w->result, 0); /* it is closed, and looked for by its next call */
        assert_int_equal(engine_get(&w->e, w->ks, "/k").result, KEYSPACE_UNAVAILABLE);
        keyspace_get_status(w->ks, &status);
        assert_int_equal(status.condition, KEYSPACE_DROPPED);
}

/* A daemon that stood still from before the seal until after the target was compacted beyond what it knows. */
static void slept_through(void **state) {
        struct world *w = *state;
        struct engine other = {};
        const char *source[] = {"instance", "move-source", NULL};
        struct keyspace *paused;
        struct recorder *ahead = new0(struct recorder), *behind = new0(struct recorder);

        engine_open(&other, &stoke_driver, source, 1 << 20);
        paused = engine_keyspace(&other, 2);
        engine_put(&w->e, w->ks, "/k", "1");
        assert_int_equal(engine_get(&other, paused, "/k").count, 1);
        engine_watch(&other, paused, behind, "/", 0, true);
        engine_watch(&other, paused, ahead, "/", 9, false);
        /* From here on nothing of it runs. */
        seal_with(w, w->ks, first_id, keyspace_seal);
        copy_log(w, first_id, there);
        switch_to(w, w->ks, there);
        for (int i = 0; i < 6; i++)
                engine_put(&w->e, w->ks, "/k", "x");
        assert_int_equal(engine_compact(&w->e, w->ks, 8), KEYSPACE_OK);
        assert_int_equal(engine_put(&w->e, w->ks, "/k", "last").revision, 9);
        {
                struct asked get;
                struct begun put;
                struct keyspace_switch to = {.datastore = w->target, .done = on_done, .userdata = w};
                struct datastore *target;
                const char *settings[] = {"instance", "move-target", NULL};

                get_begin(paused, &get, "/k", false, 20000);
                put_begin(paused, &put, "/k", "after", 20000);
                engine_run(&other, 300, NULL);
                assert_false(get.done || put.done);
                memcpy(to.incarnation, there, 16);
                to.datastore = target = engine_datastore(&other, NULL, settings);
                w->flag = false;
                keyspace_switch(paused, &to);
                engine_run(&other, 20000, &w->flag);
                assert_int_equal(w->result, 0);
                engine_run(&other, 20000, &get.done);
                engine_run(&other, 20000, &put.done);
                assert_int_equal(get.result, KEYSPACE_OK);
                assert_true(strcmp(get.value, "last") == 0 || strcmp(get.value, "after") == 0);
                assert_int_equal(put.txn.call.revision, 10);
                engine_run(&other, 5000, &behind->cancelled);
                assert_int_equal(behind->result, KEYSPACE_COMPACTED);
                engine_run(&other, 50, NULL);
                assert_string_equal(ahead->text, "put /k=last\nput /k=after\n");
                arena_done(&get.arena);
                arena_done(&put.arena);
                watcher_free(behind->watcher);
                watcher_free(ahead->watcher);
                engine_keyspace_close(&other, paused);
                datastore_close(target, 5 * NSEC_PER_SEC);
        }
        free(ahead);
        free(behind);
        engine_close(&other);
}

/* The append's answer is lost, and then all moves: whether it is there is told by the log at the target. */
static void settled_at_the_target(void **state) {
        struct world *w = *state;
        struct keyspace *other = engine_keyspace(&w->e, 2);
        struct begun landed, lost;

        engine_put(&w->e, w->ks, "/k", "1");
        assert_int_equal(engine_get(&w->e, other, "/k").count, 1);
        memory_limbo_next("move-source");
        memory_fail_next("move-source", MEMORY_LOAD, 1000000, -EIO);
        put_begin(w->ks, &landed, "/landed", "2", 20000);
        for (int i = 0; i < 1000 && !memory_in_limbo("move-source", "t"); i++)
                engine_run(&w->e, 1, NULL);
        assert_true(memory_land("move-source", "t"));
        memory_fail_next("move-source", MEMORY_LOAD, 0, 0);
        engine_run(&w->e, 20000, &landed.done);
        assert_int_equal(landed.result, KEYSPACE_OK);

        memory_limbo_next("move-source");
        put_begin(w->ks, &lost, "/lost", "3", 20000);
        memory_fail_next("move-source", MEMORY_LOAD, 1000000, -EIO);
        for (int i = 0; i < 1000 && !memory_in_limbo("move-source", "t"); i++)
                engine_run(&w->e, 1, NULL);
        memory_fail_next("move-source", MEMORY_LOAD, 0, 0);
        seal_with(w, other, first_id, keyspace_seal);
        assert_false(memory_land("move-source", "t")); /* behind the seal it is too late */
        copy_log(w, first_id, there);
        switch_to(w, w->ks, there);
        engine_run(&w->e, 20000, &lost.done);
        assert_int_equal(lost.result, KEYSPACE_OK); /* made at the target, once */
        assert_int_equal(engine_get(&w->e, w->ks, "/lost").kvs[0].version, 1);
        assert_int_equal(engine_get(&w->e, w->ks, "/landed").kvs[0].version, 1);
        switch_to(w, other, there);
        assert_int_equal(engine_get(&w->e, other, "/lost").kvs[0].version, 1);
        arena_done(&landed.arena);
        arena_done(&lost.arena);
        engine_keyspace_close(&w->e, other);
}

/* One that is closed, or was dropped, or never opened, goes on at the target all the same. */
static void closed_ones(void **state) {
        struct world *w = *state;
        struct keyspace *never = engine_keyspace(&w->e, 2);
        struct keyspace_status status;

        engine_put(&w->e, w->ks, "/k", "1");
        seal_with(w, w->ks, first_id, keyspace_seal);
        copy_log(w, first_id, there);
        switch_to(w, never, there);
        assert_string_equal(engine_get(&w->e, never, "/k").kvs[0].value, "1");
        memory_reset("move-source"); /* dropped at last, while one daemon slept */
        for (int i = 0; i < 3000; i++) {
                keyspace_get_status(w->ks, &status);
                if (status.condition == KEYSPACE_DROPPED)
                        break;
                engine_run(&w->e, 1, NULL);
        }
        assert_int_equal(status.condition, KEYSPACE_DROPPED);
        switch_to(w, w->ks, there);
        assert_string_equal(engine_get(&w->e, w->ks, "/k").kvs[0].value, "1");
        assert_int_equal(engine_put(&w->e, w->ks, "/k", "2").revision, 3);
        engine_keyspace_close(&w->e, never);
}

/* The target cannot be reached for a while; and what is under way at the source takes long. */
static void bad_times(void **state) {
        struct world *w = *state;
        struct memory_faults slow = {.delay_us = 5000000};
        struct keyspace_switch to = {.datastore = w->target, .done = on_done, .userdata = w};
        uint64_t begun;
        struct asked get;

        engine_put(&w->e, w->ks, "/k", "1");
        seal_with(w, w->ks, first_id, keyspace_seal);
        copy_log(w, first_id, there);
        memory_set_faults("move-source", &slow);
        engine_run(&w->e, 1200, NULL); /* it looks for an unseal */
        memory_fail_next("move-target", MEMORY_LOAD, 3, -EIO);
        get_begin(w->ks, &get, "/k", false, 20000);
        memcpy(to.incarnation, there, 16);
        w->flag = false;
        begun = clock_now_ns();
        keyspace_switch(w->ks, &to);
        wait_flag(w);
        assert_int_equal(w->result, 0);
        assert_true(clock_now_ns() - begun < 4 * NSEC_PER_SEC || getenv("STOKEHOLD_TEST_SLOW"));
        engine_run(&w->e, 20000, &get.done);
        assert_string_equal(get.value, "1");
        arena_done(&get.arena);
        memory_set_faults("move-source", NULL);
}

/* A value is being read where the log was, from a datastore that does not answer any more: it is read at the target. */
static void value_from_the_target(void **state) {
        struct world *w = *state;
        struct memory_faults stuck = {.delay_us = UINT64_C(3600000000)};
        char *big = xcalloc(1, (2 << 20) + 1);
        struct asked get;
        uint64_t n;

        memset(big, 'v', 2 << 20); /* more than the cache takes */
        assert_int_equal(engine_put(&w->e, w->ks, "/k", big).result, KEYSPACE_OK);
        seal_with(w, w->ks, first_id, keyspace_seal);
        copy_log(w, first_id, there);
        n = memory_calls("move-source", MEMORY_VALUES);
        memory_set_faults("move-source", &stuck);
        get_begin(w->ks, &get, "/k", true, 600000);
        while (memory_calls("move-source", MEMORY_VALUES) == n)
                engine_run(&w->e, 1, NULL);
        switch_to(w, w->ks, there);
        engine_run(&w->e, 20000, &get.done);
        assert_int_equal(get.result, KEYSPACE_OK);
        assert_int_equal(get.value[0], 'v');
        memory_set_faults("move-source", NULL);
        arena_done(&get.arena);
        free(big);
}

/* Closed on the way. */
static void closed_meanwhile(void **state) {
        struct world *w = *state;
        struct keyspace_switch to = {.datastore = w->target, .done = on_done, .userdata = w};

        engine_put(&w->e, w->ks, "/k", "1");
        seal_with(w, w->ks, first_id, keyspace_seal);
        copy_log(w, first_id, there);
        memory_fail_next("move-target", MEMORY_LOAD, 1000000, -EIO);
        memcpy(to.incarnation, there, 16);
        w->flag = false;
        keyspace_switch(w->ks, &to);
        engine_run(&w->e, 100, NULL);
        assert_false(w->flag);
        engine_keyspace_close(&w->e, steal(w->ks));
        assert_true(w->flag);
        assert_int_equal(w->result, -ECANCELED);
        memory_fail_next("move-target", MEMORY_LOAD, 0, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(held, setup, teardown),
                cmocka_unit_test_setup_teardown(leases_stand_still, setup, teardown),
                cmocka_unit_test_setup_teardown(sealed_and_unsealed, setup, teardown),
                cmocka_unit_test_setup_teardown(opened_sealed, setup, teardown),
                cmocka_unit_test_setup_teardown(unknown_outcomes, setup, teardown),
                cmocka_unit_test_setup_teardown(fenced, setup, teardown),
                cmocka_unit_test_setup_teardown(pinned, setup, teardown),
                cmocka_unit_test_setup_teardown(in_rounds, setup, teardown),
                cmocka_unit_test_setup_teardown(deleted_again, setup, teardown),
                cmocka_unit_test_setup_teardown(not_raised, setup, teardown),
                cmocka_unit_test_setup_teardown(deleted_before, setup, teardown),
                cmocka_unit_test_setup_teardown(pinned_twice, setup, teardown),
                cmocka_unit_test_setup_teardown(lost_pin, setup, teardown),
                cmocka_unit_test_setup_teardown(verified, setup, teardown),
                cmocka_unit_test_setup_teardown(verified_behind_the_seal, setup, teardown),
                cmocka_unit_test_setup_teardown(moved, setup, teardown),
                cmocka_unit_test_setup_teardown(restored, setup, teardown),
                cmocka_unit_test_setup_teardown(write_in_doubt_before_another_log, setup, teardown),
                cmocka_unit_test_setup_teardown(value_of_the_other_log, setup, teardown),
                cmocka_unit_test_setup_teardown(wrong_log, setup, teardown),
                cmocka_unit_test_setup_teardown(slept_through, setup, teardown),
                cmocka_unit_test_setup_teardown(settled_at_the_target, setup, teardown),
                cmocka_unit_test_setup_teardown(closed_ones, setup, teardown),
                cmocka_unit_test_setup_teardown(bad_times, setup, teardown),
                cmocka_unit_test_setup_teardown(value_from_the_target, setup, teardown),
                cmocka_unit_test_setup_teardown(closed_meanwhile, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
