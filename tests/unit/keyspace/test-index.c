/* The ordered index against a plain array: a wrong answer here is a wrong list, count or watch for every client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "keyspace/history.h"
#include "keyspace/index.h"

#define N_KEYS 3000

struct model {
        bool here[N_KEYS], alive[N_KEYS];
};

static struct bytes key_of(unsigned i, char *buffer, size_t size) {
        int n = snprintf(buffer, size, "/registry/pods/%04u%s", i / 2, i % 2 ? "" : "a");

        return bytes_of(buffer, (size_t)n);
}

/* i's in order of their keys: "0000" sorts before "0000a", so odd ones first. */
static unsigned nth(unsigned n) {
        return n ^ 1;
}

static void compare_all(const struct index *index, const struct model *m) {
        struct index_cursor cursor;
        size_t n_alive = 0, n_here = 0;
        struct key_entry *e;
        char buffer[64];

        index_seek(index, (struct bytes){}, &cursor);
        for (unsigned n = 0; n < N_KEYS; n++) {
                unsigned i = nth(n);
                struct bytes key = key_of(i, buffer, sizeof(buffer));

                assert_int_equal(index_rank(index, key), n_alive);
                if (!m->here[i]) {
                        assert_null(index_find(index, key));
                        continue;
                }
                e = index_next(&cursor);
                assert_non_null(e);
                assert_true(bytes_equal(key_entry_key(e), key));
                assert_ptr_equal(index_find(index, key), e);
                assert_int_equal(e->alive, m->alive[i]);
                n_here++;
                n_alive += m->alive[i];
        }
        assert_null(index_next(&cursor));
        assert_int_equal(index->n_entries, n_here);
        assert_int_equal(index->n_alive, n_alive);
}

static unsigned seed_of_test(void) {
        const char *s = getenv("STOKEHOLD_SEED");
        unsigned seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);

        print_message("# STOKEHOLD_SEED=%u\n", seed);
        return seed;
}

static void random_operations(void **state) {
        cleanup(index_done) struct index index = {};
        struct model *m = xcalloc(1, sizeof(*m));
        unsigned seed = seed_of_test();
        char buffer[64];

        (void)state;
        for (unsigned round = 0; round < 60; round++) {
                unsigned bias = (unsigned)rand_r(&seed) % 100; /* growing, shrinking, and steady rounds */

                for (unsigned n = 0; n < 600; n++) {
                        unsigned i = (unsigned)rand_r(&seed) % N_KEYS;
                        struct bytes key = key_of(i, buffer, sizeof(buffer));

                        if ((unsigned)rand_r(&seed) % 100 < bias) {
                                struct key_entry *e = index_get(&index, key);
                                bool alive = rand_r(&seed) % 3;

                                index_set_alive(&index, e, alive);
                                m->here[i] = true;
                                m->alive[i] = alive;
                        } else if (m->here[i]) {
                                index_remove(&index, index_find(&index, key));
                                m->here[i] = m->alive[i] = false;
                        }
                }
                compare_all(&index, m);
        }
        free(m);
}

static void ascending_and_emptied(void **state) {
        cleanup(index_done) struct index index = {};
        struct model *m = xcalloc(1, sizeof(*m));
        char buffer[64];

        (void)state;
        for (unsigned n = 0; n < N_KEYS; n++) {
                index_set_alive(&index, index_get(&index, key_of(nth(n), buffer, sizeof(buffer))), true);
                m->here[nth(n)] = m->alive[nth(n)] = true;
        }
        compare_all(&index, m);
        for (unsigned n = N_KEYS; n-- > 0;) {
                index_remove(&index, index_find(&index, key_of(nth(n), buffer, sizeof(buffer))));
                m->here[nth(n)] = m->alive[nth(n)] = false;
        }
        compare_all(&index, m);
        assert_null(index.root);
        assert_int_equal(index.bytes, 0);
        free(m);
}

static void versions(void **state) {
        cleanup(index_done) struct index index = {};
        struct key_entry *e = index_get(&index, bytes_of_string("k"));

        (void)state;
        assert_null(key_entry_at(e, 100));
        for (int64_t r = 10; r <= 200; r += 10)
                key_entry_push(e, &(struct key_version){.seq = (uint64_t)r, .mod_revision = r, .version = 1});
        assert_null(key_entry_at(e, 9));
        for (int64_t r = 10; r < 220; r++) {
                const struct key_version *v = key_entry_at(e, r);
                int64_t expected = min_of(r / 10 * 10, INT64_C(200));

                assert_non_null(v);
                assert_int_equal(v->mod_revision, expected);
                if (expected == 10)
                        assert_null(key_entry_before(e, v));
                else
                        assert_int_equal(key_entry_before(e, v)->mod_revision, expected - 10);
        }
}

static void history_ring(void **state) {
        cleanup(history_done) struct history h = {};
        int64_t next = 1, first = 1;
        unsigned seed = seed_of_test();

        (void)state;
        for (unsigned round = 0; round < 500; round++) {
                for (unsigned n = (unsigned)rand_r(&seed) % 50; n; n--)
                        history_push(&h, next * 2, (uint64_t)next, NULL), next++;
                for (unsigned n = (unsigned)rand_r(&seed) % 50; n && first < next; n--, first++)
                        history_drop(&h, 1);
                assert_int_equal(h.n, next - first);
                for (int64_t r = first; r < next; r++) {
                        assert_int_equal(history_at(&h, (size_t)(r - first))->revision, r * 2);
                        assert_int_equal(history_find(&h, r * 2), r - first);
                        assert_int_equal(history_find(&h, r * 2 + 1), r - first + 1);
                }
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(random_operations),
                cmocka_unit_test(ascending_and_emptied),
                cmocka_unit_test(versions),
                cmocka_unit_test(history_ring),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
