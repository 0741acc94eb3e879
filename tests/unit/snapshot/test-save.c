/*
 * Snapshots made while a keyspace is used, over a log that is slow and fails on demand: each must be what was there at one moment; those that are given
 * up must stop, whenever it is. If this fails, a backup mixes two moments, or a client that leaves costs a thread for ever.
 */
#include "engine.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "keyspace/record.h"
#include "memory.h"
#include "snapshot/read.h"
#include "snapshot/save.h"

static unsigned seed;

static int setup(void **state) {
        struct engine *e = new0(struct engine);
        const char *settings[] = {"instance", "save", NULL};

        memory_set_faults("save", NULL);
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
        memory_reset("save");
        free(e);
        return 0;
}

struct taking {
        struct snapshot_save *save;
        int fd;           /* what was taken; -1: dropped */
        size_t n_most, n; /* pieces; then no more are taken */
        bool done, pausing;
        int result;
        char reason[512];
};

static void on_ready(void *userdata) {
        struct taking *t = userdata;
        struct blob *piece;

        while (!t->done && !t->pausing) {
                int r = snapshot_save_next(t->save, &piece);

                if (r == SAVE_WAIT)
                        return;
                if (r != SAVE_PIECE) {
                        t->result = r;
                        snprintf(t->reason, sizeof(t->reason), "%s", snapshot_save_reason(t->save));
                        t->done = true;
                        return;
                }
                assert_true(piece->size > 0 && piece->size <= SNAPSHOT_PIECE);
                if (t->fd >= 0)
                        assert_int_equal(write(t->fd, piece->data, piece->size), piece->size);
                blob_unref(piece);
                if (++t->n == t->n_most)
                        t->pausing = true;
        }
}

static void begin(struct engine *e, struct taking *t, bool pinned) {
        struct snapshot_save_config config = {
                .source = {.datastore = e->datastore, .name = "t", .loop = e->loop, .pinned = pinned},
                .plan = {.member_id = 1, .term = 2},
                .ahead_bytes = 2 * SNAPSHOT_PIECE,
                .on_ready = on_ready,
                .userdata = t,
        };

        memcpy(config.source.incarnation, e->incarnation, sizeof(e->incarnation));
        *t = (struct taking){.fd = memfd_create("save", MFD_CLOEXEC)};
        assert_int_equal(snapshot_save_new(&config, &t->save), 0);
}

static void end(struct taking *t) {
        snapshot_save_free(t->save);
        close(t->fd);
}

/* What lives at the snapshot's revision: each key's value begins with the revision of its transaction, which put all keys. */
static void check_moment(int fd, unsigned n_keys, int64_t *ret_revision) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        cleanup(error_done) struct error err = {};
        struct stoke_origin origin = {};
        struct snapshot_facts facts;
        struct stoke_record r;
        int64_t last = 0;
        unsigned n = 0;
        int result = snapshot_reader_new(fd, &origin, &reader, &err);

        while (result >= 0 && (result = snapshot_reader_next(reader, &r, &err)) > 0) {
                if (r.kind != RECORD_PUT)
                        continue;
                if (r.revision != last)
                        n = 0;
                last = r.revision;
                n++;
        }
        if (result < 0)
                fail_msg("%s", error_text(&err));
        snapshot_reader_get(reader, &facts);
        assert_int_equal(n, n_keys);
        assert_int_equal(facts.revision, last);
        *ret_revision = last;
}

/* Writers write on. */
static void one_moment(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        char keys[24][16], value[3000];
        struct txn_op ops[24];
        struct txn txn = {.success = ops, .n_success = n_elements(ops)};
        int64_t revision = 1, seen;

        print_message("# seed %u\n", seed);
        memset(value, 'v', sizeof(value) - 1);
        value[sizeof(value) - 1] = '\0';
        for (unsigned i = 0; i < n_elements(ops); i++) {
                snprintf(keys[i], sizeof(keys[i]), "/%02u", i);
                ops[i] = (struct txn_op){
                        .kind = OP_PUT, .put = {.key = bytes_of_string(keys[i]), .value = bytes_of_string(value)}};
        }
        for (unsigned round = 0; round < 30; round++) {
                struct taking t;
                int64_t before = revision;

                revision = engine_txn(e, ks, &txn).revision;
                begin(e, &t, true);
                for (unsigned i = 0; i < (unsigned)rand() % 20; i++) {
                        revision = engine_txn(e, ks, &txn).revision;
                        engine_run(e, (uint64_t)rand() % 3, &t.done);
                }
                engine_run(e, 30000, &t.done);
                assert_true(t.done);
                if (t.result != SAVE_END)
                        fail_msg("%d %s", t.result, t.reason);
                check_moment(t.fd, n_elements(ops), &seen);
                assert_true(seen > before && seen <= revision);
                end(&t);
        }
        engine_keyspace_close(e, ks);
}

/* Compactions come between the passes, and nobody has pinned the log: it succeeds, or says that it was in vain. */
static void compacted_meanwhile(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct memory_faults faults = {.delay_us = 500};
        unsigned n_good = 0;
        int64_t revision = 1, seen;

        memory_set_faults("save", &faults);
        for (unsigned round = 0; round < 40; round++) {
                struct taking t;
                bool compacts = rand() % 3;

                for (unsigned i = 0; i < 20; i++)
                        revision = engine_put(e, ks, "/k", "some value").revision;
                begin(e, &t, false);
                engine_run(e, (uint64_t)rand() % 6, &t.done);
                if (compacts)
                        assert_int_equal(engine_compact(e, ks, revision - rand() % 5), KEYSPACE_OK);
                engine_run(e, 30000, &t.done);
                assert_true(t.done);
                if (t.result == SAVE_END) {
                        check_moment(t.fd, 1, &seen);
                        assert_int_equal(seen, revision);
                        n_good++;
                } else {
                        assert_true(compacts);
                        assert_true(t.result == -EAGAIN || t.result == -ESTALE);
                        assert_true(t.reason[0]);
                }
                end(&t);
        }
        assert_true(n_good > 0);
        memory_set_faults("save", NULL);
        engine_keyspace_close(e, ks);
}

/* Whoever takes is slow, or leaves, at any moment; the keyspace goes on. */
static void taken_in_part(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        char key[16], value[20000];
        int64_t seen;

        memset(value, 'v', sizeof(value) - 1);
        value[sizeof(value) - 1] = '\0';
        for (unsigned i = 0; i < 100; i++) {
                snprintf(key, sizeof(key), "/%03u", i);
                engine_put(e, ks, key, value);
        }
        for (unsigned round = 0; round < 100; round++) {
                struct taking t;

                begin(e, &t, true);
                t.n_most = 1 + (size_t)rand() % 40;
                engine_run(e, (uint64_t)rand() % 12, &t.done);
                if (round % 4 == 0) {
                        assert_int_equal(engine_put(e, ks, "/000", value).result, KEYSPACE_OK);
                        t.pausing = false;
                        t.n_most = 0;
                        on_ready(&t);
                        engine_run(e, 30000, &t.done);
                        assert_true(t.done);
                        assert_int_equal(t.result, SAVE_END);
                        check_moment(t.fd, 1, &seen);
                }
                end(&t);
        }
        engine_keyspace_close(e, ks);
}

/* A datastore that is gone, or has no such keyspace: the reason is told. */
static void fails(void **state) {
        struct engine *e = *state;
        struct keyspace *ks = engine_keyspace(e, 1);
        struct taking t;

        engine_put(e, ks, "/k", "v");
        e->incarnation[0] ^= 1;
        begin(e, &t, true);
        e->incarnation[0] ^= 1;
        engine_run(e, 30000, &t.done);
        assert_true(t.done);
        assert_int_equal(t.result, -ENOENT);
        assert_true(t.reason[0]);
        end(&t);

        memory_fail_next("save", MEMORY_READ, 1000, -EUCLEAN);
        begin(e, &t, true);
        engine_run(e, 30000, &t.done);
        assert_true(t.done);
        assert_int_equal(t.result, -EUCLEAN);
        end(&t);
        memory_fail_next("save", MEMORY_READ, 0, 0);
        engine_keyspace_close(e, ks);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(one_moment, setup, teardown),
                cmocka_unit_test_setup_teardown(compacted_meanwhile, setup, teardown),
                cmocka_unit_test_setup_teardown(taken_in_part, setup, teardown),
                cmocka_unit_test_setup_teardown(fails, setup, teardown),
        };

        seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
        srand(seed);
        return cmocka_run_group_tests_name("save", tests, NULL, NULL);
}
