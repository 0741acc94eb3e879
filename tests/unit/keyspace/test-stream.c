/*
 * Streams, installations and pumps, on the driver in memory. If this fails, a migration, a backup or a clone lacks records, has some twice, or
 * hangs; or it fills the daemon's memory.
 */
#include "engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "keyspace/install.h"
#include "keyspace/record.h"
#include "keyspace/stream_piece.h"
#include "memory.h"

static const uint8_t new_incarnation[16] = {9, 9}, install_id[16] = {42, 1};

struct world {
        struct engine e;
        struct datastore *target;
        struct keyspace *ks;
        bool ready;
};

static int setup(void **state) {
        struct world *w = new0(struct world);
        const char *source[] = {"instance", "stream-source", NULL}, *target[] = {"instance", "stream-target", NULL};

        memory_set_faults("stream-source", NULL);
        engine_open(&w->e, &stoke_driver, source, 1 << 20);
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
        memory_reset("stream-source");
        memory_reset("stream-target");
        free(w);
        return 0;
}

static void on_ready(void *userdata) {
        ((struct world *)userdata)->ready = true;
}

static struct stream_config source_config(struct world *w) {
        struct stream_config c = {
                .datastore = w->e.datastore,
                .name = "t",
                .loop = w->e.loop,
                .with_values = true,
                .patience_ns = 2 * NSEC_PER_SEC,
                .on_ready = on_ready,
                .userdata = w,
        };

        memcpy(c.incarnation, w->e.incarnation, sizeof(c.incarnation));
        return c;
}

/* What a stream brought, with copies of its records. */
struct taken {
        struct stream_piece *all;
        int result;
        struct stream_status status;
};

static void take_all(struct world *w, struct stream *s, struct taken *t) {
        struct stream_piece *p;

        t->all = stream_piece_new();
        for (;;) {
                w->ready = false;
                t->result = stream_next(s, &p);
                if (t->result == STREAM_WAIT) {
                        engine_run(&w->e, 20000, &w->ready);
                        assert_true(w->ready);
                        continue;
                }
                if (t->result != STREAM_PIECE)
                        break;
                for (size_t i = 0; i < p->n; i++)
                        assert_int_equal(stream_piece_add(t->all, &p->records[i]), 0);
                stream_piece_free(p);
        }
        stream_get_status(s, &t->status);
        assert_true(t->status.ended);
}

static void read_all(struct world *w, const struct stream_config *config, struct taken *t) {
        struct stream *s;

        assert_int_equal(stream_new(config, &s), 0);
        take_all(w, s, t);
        stream_free(s);
}

static void assert_same(const struct stream_piece *a, const struct stream_piece *b, size_t n) {
        assert_true(a->n >= n && b->n >= n);
        for (size_t i = 0; i < n; i++) {
                const struct stoke_record *x = &a->records[i], *y = &b->records[i];

                assert_int_equal(x->seq, y->seq);
                assert_int_equal(x->revision, y->revision);
                assert_int_equal(x->kind, y->kind);
                assert_true(x->hash == y->hash && record_hash(x) == record_hash(y));
                assert_true(origin_equal(&x->origin, &y->origin));
        }
}

static void fill(struct world *w, size_t n, size_t value_size) {
        char *value = xcalloc(value_size + 1, 1), key[32];

        memset(value, 'v', value_size);
        for (size_t i = 0; i < n; i++) {
                (void)snprintf(key, sizeof(key), "/k%05zu", i);
                assert_int_equal(engine_put(&w->e, w->ks, key, value).result, KEYSPACE_OK);
        }
        free(value);
}

/* ---- streams */

static void whole_log(void **state) {
        struct world *w = *state;
        struct stream_config c = source_config(w);
        struct keyspace_status status;
        struct taken t, bare;

        fill(w, 300, 20000); /* several pieces */
        assert_int_equal(engine_grant(&w->e, w->ks, 7, 100), KEYSPACE_OK);
        keyspace_get_status(w->ks, &status);
        read_all(w, &c, &t);
        assert_int_equal(t.result, STREAM_END);
        assert_true(end_equal(&t.status.end, &status.end));
        assert_int_equal(t.status.revision, status.revision);
        assert_int_equal(t.all->n, status.end.seq);
        assert_int_equal(t.status.n_records, t.all->n);
        assert_int_equal(t.status.bytes, t.all->bytes);
        c.with_values = false;
        read_all(w, &c, &bare);
        assert_int_equal(bare.result, STREAM_END);
        assert_int_equal(bare.all->n, t.all->n);
        for (size_t i = 0; i < bare.all->n; i++) {
                assert_true(!bare.all->records[i].value_size == !!bare.all->records[i].value);
                assert_int_equal(bare.all->records[i].value_size, t.all->records[i].value_size);
        }
        stream_piece_free(bare.all);
        c.with_values = true;
        c.after = 100;
        c.upto = 200;
        read_all(w, &c, &bare);
        assert_int_equal(bare.result, STREAM_END);
        assert_int_equal(bare.all->n, 100);
        assert_int_equal(bare.all->records[0].seq, 101);
        stream_piece_free(bare.all);
        stream_piece_free(t.all);
}

/* However large the tenant: no more is read ahead than was allowed, and a piece. */
static void bounded(void **state) {
        struct world *w = *state;
        struct stream_config c = source_config(w);
        struct stream_status status;
        struct stream *s;
        struct taken t;

        fill(w, 400, 50000);
        c.ahead_bytes = 1;
        assert_int_equal(stream_new(&c, &s), 0);
        engine_run(&w->e, 20000, &w->ready);
        engine_run(&w->e, 100, NULL);
        stream_get_status(s, &status);
        assert_true(status.bytes > 0 && status.bytes < 1200000 && !status.ended);
        take_all(w, s, &t);
        assert_int_equal(t.result, STREAM_END);
        assert_int_equal(t.all->n, 401);
        stream_free(s);
        stream_piece_free(t.all);
}

struct taker {
        struct stream *s;
        pthread_t thread;
        size_t n;
        int result;
        _Atomic bool done;
        unsigned pause_us;
};

static void *take_thread(void *userdata) {
        struct taker *t = userdata;
        struct stream_piece *p;

        while ((t->result = stream_take(t->s, UINT64_MAX, &p)) == STREAM_PIECE) {
                t->n += p->n;
                stream_piece_free(p);
                usleep(t->pause_us);
        }
        atomic_store(&t->done, true);
        return NULL;
}

static void another_thread(void **state) {
        struct world *w = *state;
        struct stream_config c = source_config(w);
        struct taker t = {.pause_us = 100};
        struct stream_piece *p;

        fill(w, 200, 50000);
        c.ahead_bytes = 1;
        c.on_ready = NULL;
        assert_int_equal(stream_new(&c, &t.s), 0);
        assert_int_equal(stream_take(t.s, clock_now_ns() + 1000, &p), STREAM_WAIT); /* the loop stands still */
        assert_int_equal(pthread_create(&t.thread, NULL, take_thread, &t), 0);
        while (!atomic_load(&t.done))
                engine_run(&w->e, 5, NULL);
        pthread_join(t.thread, NULL);
        assert_int_equal(t.result, STREAM_END);
        assert_int_equal(t.n, 201);
        stream_free(t.s);

        /* Stopped while its consumer waits; while it is full; while the driver works. */
        for (unsigned how = 0; how < 3; how++) {
                struct memory_faults slow = {.delay_us = how == 2 ? 200000 : how == 0 ? 50000 : 0};

                t = (struct taker){.pause_us = how == 1 ? 10000 : 0};
                memory_set_faults("stream-source", &slow);
                assert_int_equal(stream_new(&c, &t.s), 0);
                if (how < 2)
                        assert_int_equal(pthread_create(&t.thread, NULL, take_thread, &t), 0);
                engine_run(&w->e, 70, NULL);
                if (how < 2) {
                        stream_stop(t.s);
                        pthread_join(t.thread, NULL);
                        assert_true(t.result == -ECANCELED);
                }
                stream_free(t.s);
                memory_set_faults("stream-source", NULL);
        }
        engine_run(&w->e, 300, NULL);
}

static void compacted_meanwhile(void **state) {
        struct world *w = *state;
        struct stream_config c = source_config(w);
        struct stream *s;
        struct taken t;

        fill(w, 200, 50000);
        engine_delete(&w->e, w->ks, "/k00001", NULL);
        c.ahead_bytes = 1;
        assert_int_equal(stream_new(&c, &s), 0);
        engine_run(&w->e, 20000, &w->ready);
        fill(w, 10, 10);
        assert_int_equal(engine_compact(&w->e, w->ks, 205), KEYSPACE_OK);
        take_all(w, s, &t);
        assert_int_equal(t.result, -EAGAIN);
        stream_free(s);
        stream_piece_free(t.all);
        /* From now on nothing happens to it: with holes, all that lives is there. */
        read_all(w, &c, &t);
        assert_int_equal(t.result, STREAM_END);
        assert_true(t.all->n < t.status.end.seq);
        stream_piece_free(t.all);
        /* What is written meanwhile is not its business. */
        w->ready = false;
        assert_int_equal(stream_new(&c, &s), 0);
        engine_run(&w->e, 20000, &w->ready);
        fill(w, 10, 10);
        take_all(w, s, &t);
        assert_int_equal(t.result, STREAM_END);
        stream_free(s);
        stream_piece_free(t.all);
}

/* All that was to come is gone, its last record too: that is told at once, and not taken for a datastore that does not answer well. */
static void all_of_the_rest_deleted(void **state) {
        struct world *w = *state;
        struct stream_config c = source_config(w);
        struct keyspace_status status;
        struct stream *s;
        struct taken t;

        c.patience_ns = 3600 * NSEC_PER_SEC;
        fill(w, 200, 50000);
        c.ahead_bytes = 1;
        assert_int_equal(stream_new(&c, &s), 0);
        engine_run(&w->e, 20000, &w->ready);
        fill(w, 200, 10);
        keyspace_get_status(w->ks, &status);
        assert_int_equal(engine_compact(&w->e, w->ks, status.revision), KEYSPACE_OK);
        take_all(w, s, &t);
        assert_int_equal(t.result, -EAGAIN);
        assert_true(t.all->n < 200);
        stream_free(s);
        stream_piece_free(t.all);
}

static void failures(void **state) {
        struct world *w = *state;
        struct stream_config c = source_config(w);
        struct taken t;

        fill(w, 20, 10);
        memory_fail_next("stream-source", MEMORY_READ, 3, -EIO);
        memory_fail_next("stream-source", MEMORY_ENDS, 2, -ECONNRESET);
        read_all(w, &c, &t);
        assert_int_equal(t.result, STREAM_END);
        assert_int_equal(t.all->n, 21);
        stream_piece_free(t.all);

        c.patience_ns = 50 * NSEC_PER_MSEC;
        memory_fail_next("stream-source", MEMORY_READ, 1000, -EIO);
        read_all(w, &c, &t);
        assert_int_equal(t.result, -EIO);
        assert_string_equal(t.status.reason, "failed on demand");
        stream_piece_free(t.all);
        memory_fail_next("stream-source", MEMORY_READ, 0, 0);

        c.incarnation[3] ^= 1;
        read_all(w, &c, &t);
        assert_int_equal(t.result, -ENOENT);
        stream_piece_free(t.all);

        memcpy(c.incarnation, w->e.incarnation, 16);
        memory_fork("stream-source", "t");
        c.upto = 1000;
        read_all(w, &c, &t);
        assert_int_equal(t.result, -ESTALE);
        stream_piece_free(t.all);
        engine_keyspace_close(&w->e, steal(w->ks));
}

static void rate(void **state) {
        cleanup(throttle_freep) struct throttle *t = throttle_new(1000000);
        uint64_t begun = clock_now_ns(), wait = 0;

        (void)state;
        for (int i = 0; i < 10; i++)
                wait = throttle_take(t, 1000000);
        /* Ten seconds' worth, less a burst and what has passed since. */
        assert_true(wait <= 10 * NSEC_PER_SEC && wait + (clock_now_ns() - begun) >= 9899 * NSEC_PER_MSEC);
        throttle_set(t, 0);
        assert_int_equal(throttle_take(t, 1 << 30), 0);
        assert_int_equal(throttle_take(NULL, 1 << 30), 0);
}

/* ---- pumps and installations */

struct pumping {
        struct world *w;
        struct pump *pump;
        bool done, caught_up, told;
        int result;
        char reason[512];
};

static void on_pump_done(void *userdata, int result, const char *reason) {
        struct pumping *p = userdata;

        p->done = true;
        p->result = result;
        (void)snprintf(p->reason, sizeof(p->reason), "%s", reason ? reason : "");
}

static void on_caught_up(void *userdata) {
        ((struct pumping *)userdata)->caught_up = true;
}

static void pump_start(struct world *w, struct pumping *p, bool follow) {
        struct pump_config c = {
                .source = source_config(w),
                .target = {.datastore = w->target, .name = "t", .patience_ns = 2 * NSEC_PER_SEC},
                .loop = w->e.loop,
                .on_caught_up = on_caught_up,
                .on_done = on_pump_done,
                .userdata = p,
        };

        *p = (struct pumping){.w = w};
        c.source.follow = follow;
        c.source.pinned = true;
        memcpy(c.target.incarnation, new_incarnation, 16);
        memcpy(c.target.id, install_id, 16);
        assert_int_equal(pump_new(&c, &p->pump), 0);
}

static struct pumping *asking;
static void on_installed(void *userdata, int result, const char *reason) {
        (void)userdata;
        asking->told = true;
        asking->result = result;
        (void)snprintf(asking->reason, sizeof(asking->reason), "%s", reason ? reason : "");
}

static int wait_told(struct world *w, struct pumping *p) {
        engine_run(&w->e, 20000, &p->told);
        assert_true(p->told);
        p->told = false;
        return p->result;
}

static int commit(struct world *w, struct pumping *p, uint64_t seq, int64_t revision) {
        asking = p;
        install_commit(pump_install(p->pump), seq, revision, on_installed);
        return wait_told(w, p);
}

static int abort_it(struct world *w, struct pumping *p) {
        asking = p;
        install_abort(pump_install(p->pump), on_installed);
        return wait_told(w, p);
}

static void compare_with_target(struct world *w) {
        struct stream_config c = source_config(w), there = source_config(w);
        struct taken a, b;

        there.datastore = w->target;
        memcpy(there.incarnation, new_incarnation, 16);
        read_all(w, &c, &a);
        read_all(w, &there, &b);
        assert_int_equal(a.result, STREAM_END);
        assert_int_equal(b.result, STREAM_END);
        assert_int_equal(b.all->n, a.all->n + 1);
        assert_same(a.all, b.all, a.all->n);
        assert_int_equal(b.all->records[a.all->n].kind, RECORD_INSTALLED);
        assert_int_equal(b.status.end.seq, a.status.end.seq + 1);
        assert_int_equal(b.status.revision, a.status.revision);
        stream_piece_free(a.all);
        stream_piece_free(b.all);
}

static void copy_and_follow(void **state) {
        struct world *w = *state;
        struct keyspace_status status;
        struct pump_status ps;
        struct pumping p;

        fill(w, 300, 20000);
        engine_delete(&w->e, w->ks, "/k00003", NULL);
        assert_int_equal(engine_compact(&w->e, w->ks, 150), KEYSPACE_OK);
        pump_start(w, &p, true);
        engine_run(&w->e, 20000, &p.caught_up);
        assert_true(p.caught_up);
        for (int i = 0; i < 5; i++) {
                p.caught_up = false;
                fill(w, 10, 100);
                engine_delete(&w->e, w->ks, "/k00007", NULL);
                pump_kick(p.pump);
                engine_run(&w->e, 20000, &p.caught_up);
                assert_true(p.caught_up);
        }
        keyspace_get_status(w->ks, &status);
        pump_get_status(p.pump, &ps);
        assert_int_equal(ps.seq, status.end.seq);
        fill(w, 3, 100);
        keyspace_get_status(w->ks, &status);
        pump_finish(p.pump, &status.end);
        engine_run(&w->e, 20000, &p.done);
        assert_true(p.done && p.result == 0);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), 0);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), 0); /* whoever asks again */
        assert_int_equal(abort_it(w, &p), STOKE_ENDED);
        compare_with_target(w);
        pump_free(p.pump);
}

/* The end is told while the stream asks for one: it goes there at once, whatever the answer was, since clients wait. */
static void finished_while_it_asks(void **state) {
        struct world *w = *state;
        struct keyspace_status status;
        struct pumping p;
        struct stoke_end end;
        uint64_t n;

        fill(w, 10, 100);
        pump_start(w, &p, true);
        engine_run(&w->e, 20000, &p.caught_up);
        assert_true(p.caught_up);
        for (unsigned i = 0; i < 5; i++) { /* not about to ask by itself */
                n = memory_calls("stream-source", MEMORY_ENDS);
                while (memory_calls("stream-source", MEMORY_ENDS) == n)
                        engine_run(&w->e, 1, NULL);
        }
        memory_set_faults("stream-source", &(struct memory_faults){.delay_us = 50000});
        n = memory_calls("stream-source", MEMORY_ENDS);
        while (memory_calls("stream-source", MEMORY_ENDS) == n)
                engine_run(&w->e, 1, NULL);
        n = memory_calls("stream-source", MEMORY_ENDS);
        keyspace_get_status(w->ks, &status);
        end = status.end; /* the record that comes next; the answer under way does not know of it */
        end.seq++;
        end.origin.batch++;
        pump_finish(p.pump, &end);
        engine_run(&w->e, 60, NULL);
        memory_set_faults("stream-source", NULL);
        fill(w, 1, 100);
        keyspace_get_status(w->ks, &status);
        assert_true(end_equal(&status.end, &end));
        engine_run(&w->e, 20000, &p.done);
        assert_true(p.done && p.result == 0);
        assert_int_equal(memory_calls("stream-source", MEMORY_ENDS), n);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), 0);
        compare_with_target(w);
        pump_free(p.pump);
}

/* The target forgets what was not synced, again and again; the target's connection breaks; its answers are lost. */
static void bad_target(void **state) {
        struct world *w = *state;
        struct keyspace_status status;
        struct pumping p;

        fill(w, 300, 20000);
        pump_start(w, &p, true);
        for (int i = 0; i < 4; i++) {
                engine_run(&w->e, 20, &p.caught_up);
                memory_lose("stream-target", "t", 30);
                memory_fail_next("stream-target", MEMORY_FEED, 2, -ECONNRESET);
                fill(w, 2, 100);
        }
        keyspace_get_status(w->ks, &status);
        pump_finish(p.pump, &status.end);
        engine_run(&w->e, 20000, &p.done);
        assert_true(p.done);
        assert_int_equal(p.result, 0);
        memory_fail_next("stream-target", MEMORY_COMMIT, 3, STOKE_UNKNOWN);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), 0);
        compare_with_target(w);
        pump_free(p.pump);
}

/* Records that were lost at the very end are noticed by the commit. */
static void lost_before_commit(void **state) {
        struct world *w = *state;
        struct keyspace_status status;
        struct pumping p;

        fill(w, 30, 100);
        pump_start(w, &p, false);
        engine_run(&w->e, 20000, &p.done);
        assert_int_equal(p.result, 0);
        keyspace_get_status(w->ks, &status);
        memory_lose("stream-target", "t", 1);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), -ESTALE);
        assert_int_equal(abort_it(w, &p), 0);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), STOKE_ENDED);
        pump_free(p.pump);
}

static void told_why(void **state) {
        struct world *w = *state;
        struct pumping p;

        fill(w, 30, 100);
        memory_fail_next("stream-target", MEMORY_FEED, 1, -ENOSPC);
        pump_start(w, &p, false);
        engine_run(&w->e, 20000, &p.done);
        assert_int_equal(p.result, -ENOSPC);
        assert_string_equal(p.reason, "failed on demand");
        assert_int_equal(abort_it(w, &p), 0);
        pump_free(p.pump);
        /* The id has ended. */
        pump_start(w, &p, false);
        engine_run(&w->e, 20000, &p.done);
        assert_int_equal(p.result, STOKE_ENDED);
        pump_free(p.pump);
}

static void freed_at_work(void **state) {
        struct world *w = *state;
        struct memory_faults slow = {.delay_us = 20000};

        fill(w, 100, 20000);
        memory_set_faults("stream-source", &slow);
        memory_set_faults("stream-target", &slow);
        for (unsigned ms = 0; ms < 100; ms += 9) {
                struct pumping p;

                pump_start(w, &p, true);
                engine_run(&w->e, ms, NULL);
                pump_free(p.pump);
        }
        memory_set_faults("stream-source", NULL);
        memory_set_faults("stream-target", NULL);
        engine_run(&w->e, 100, NULL);
}

/* Fed in several batches, and the last record is one that the target does not take: told once, and whoever is told may end it there and then. */
static struct install *narrow_install;
static bool narrow_frees;
static void on_narrow(void *userdata, int result, const char *reason) {
        struct pumping *p = userdata;

        assert_false(p->told);
        p->told = true;
        p->result = result;
        (void)snprintf(p->reason, sizeof(p->reason), "%s", reason);
        if (result == -EMSGSIZE && narrow_frees) {
                install_free(narrow_install);
                narrow_install = NULL;
        } else if (result == -EMSGSIZE) {
                p->told = false;
                install_abort(narrow_install, on_narrow);
        }
}

static void narrow_target(void **state) {
        struct world *w = *state;
        const char *target[] = {"instance", "stream-target", NULL};
        struct stoke_driver driver = stoke_driver;
        struct plugin plugin = {.driver = &driver, .allowed = true};
        struct pumping p = {.w = w};
        struct install_config c = {.name = "t", .loop = w->e.loop, .userdata = &p};
        struct datastore *narrow;
        char value[300] = {};

        driver.limits = (struct stoke_limits){.record_bytes = 200, .batch_bytes = 4096, .batch_records = 8};
        narrow = engine_datastore(&w->e, &plugin, target);
        c.datastore = narrow;
        memcpy(c.incarnation, new_incarnation, 16);
        for (unsigned frees = 0; frees < 2; frees++) {
                struct stream_piece *piece = stream_piece_new();

                c.id[0] = (uint8_t)(50 + frees);
                narrow_frees = frees;
                for (uint64_t seq = 1; seq <= 20; seq++) {
                        struct stoke_record r = {.seq = seq,
                                .revision = (int64_t)seq,
                                .kind = RECORD_PUT,
                                .key = "/k",
                                .key_size = 2,
                                .value = value,
                                .value_size = seq == 20 ? sizeof(value) : 1};

                        r.hash = record_hash(&r);
                        assert_int_equal(stream_piece_add(piece, &r), 0);
                }
                assert_int_equal(install_new(&c, &narrow_install), 0);
                install_begin(narrow_install, on_narrow);
                assert_int_equal(wait_told(w, &p), 0);
                install_feed(narrow_install, piece, on_narrow);
                assert_int_equal(wait_told(w, &p), frees ? -EMSGSIZE : 0);
                engine_run(&w->e, 20, NULL);
                assert_false(p.told);
                install_free(narrow_install);
        }
        datastore_close(narrow, 5 * NSEC_PER_SEC);
}

/* An answer is lost, and then it shows that the target has lost records as well: it goes on behind what is there. */
static void unknown_and_lost(void **state) {
        struct world *w = *state;
        struct keyspace_status status;
        struct pumping p;
        uint64_t n;

        fill(w, 300, 20000);
        pump_start(w, &p, true);
        engine_run(&w->e, 20000, &p.caught_up);
        assert_true(p.caught_up);
        memory_fail_next("stream-target", MEMORY_FEED, 1000, STOKE_UNKNOWN);
        n = memory_calls("stream-target", MEMORY_FEED);
        fill(w, 2, 100);
        keyspace_get_status(w->ks, &status);
        pump_finish(p.pump, &status.end);
        while (memory_calls("stream-target", MEMORY_FEED) == n)
                engine_run(&w->e, 1, NULL);
        memory_lose("stream-target", "t", 30);
        memory_fail_next("stream-target", MEMORY_FEED, 0, 0);
        engine_run(&w->e, 20000, &p.done);
        assert_true(p.done);
        assert_int_equal(p.result, 0);
        assert_int_equal(commit(w, &p, status.end.seq, status.revision), 0);
        compare_with_target(w);
        pump_free(p.pump);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(whole_log, setup, teardown),
                cmocka_unit_test_setup_teardown(bounded, setup, teardown),
                cmocka_unit_test_setup_teardown(another_thread, setup, teardown),
                cmocka_unit_test_setup_teardown(compacted_meanwhile, setup, teardown),
                cmocka_unit_test_setup_teardown(all_of_the_rest_deleted, setup, teardown),
                cmocka_unit_test_setup_teardown(failures, setup, teardown),
                cmocka_unit_test(rate),
                cmocka_unit_test_setup_teardown(copy_and_follow, setup, teardown),
                cmocka_unit_test_setup_teardown(finished_while_it_asks, setup, teardown),
                cmocka_unit_test_setup_teardown(bad_target, setup, teardown),
                cmocka_unit_test_setup_teardown(lost_before_commit, setup, teardown),
                cmocka_unit_test_setup_teardown(told_why, setup, teardown),
                cmocka_unit_test_setup_teardown(freed_at_work, setup, teardown),
                cmocka_unit_test_setup_teardown(narrow_target, setup, teardown),
                cmocka_unit_test_setup_teardown(unknown_and_lost, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
