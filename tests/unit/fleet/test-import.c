/* If these fail, a control plane that was imported finds other keys, revisions or leases than it left, or its watches miss something. */
#include "folder.h"

#include <errno.h>
#include <string.h>

#include "fleet/import_log.h"
#include "fleet/spool.h"
#include "keyspace/record.h"

/* ---- the spool */

static void test_spool(void **state) {
        struct folder folder;
        cleanup(error_done) struct error err = {};
        cleanup(spool_freep) struct spool *spool = NULL;
        static char value[300000];
        struct spool_key key;
        enum { N = 5000 };

        (void)state;
        folder_new(&folder);
        memset(value, 'v', sizeof(value));
        assert_int_equal(spool_new(folder.path, &spool, &err), 0);
        for (int i = 0; i < N; i++) {
                char name[32];

                snprintf(name, sizeof(name), "/k/%05d", i);
                key = (struct spool_key){
                        .key = bytes_of_string(name),
                        .value = bytes_of(value, i % 977 == 0 ? sizeof(value) : (size_t)i % 100),
                        .create_revision = i + 1,
                        .mod_revision = 1 + (i * 7919) % N, /* each once */
                        .version = i % 5 + 1,
                        .lease = i % 3 ? 0 : INT64_MAX - i,
                };
                assert_int_equal(spool_add(spool, &key, &err), 0);
        }
        assert_int_equal(spool_n(spool), N);
        assert_int_equal(spool_sort(spool, &err), 0);
        for (int revision = 1; revision <= N; revision++) {
                char name[32];
                int i = 0;

                assert_int_equal(spool_next(spool, &key, &err), 1);
                assert_int_equal(key.mod_revision, revision);
                i = (int)key.create_revision - 1;
                assert_int_equal(1 + (i * 7919) % N, revision);
                snprintf(name, sizeof(name), "/k/%05d", i);
                assert_true(bytes_equal(key.key, bytes_of_string(name)));
                assert_int_equal(key.value.size, i % 977 == 0 ? sizeof(value) : (size_t)i % 100);
                assert_true(!key.value.size || memcmp(key.value.data, value, key.value.size) == 0);
                assert_int_equal(key.version, i % 5 + 1);
                assert_int_equal(key.lease, i % 3 ? 0 : INT64_MAX - i);
        }
        assert_int_equal(spool_next(spool, &key, &err), 0);
        folder_remove(&folder);
}

static void test_spool_without_a_place(void **state) {
        cleanup(error_done) struct error err = {};
        struct spool *spool = NULL;

        (void)state;
        assert_true(spool_new("/nowhere/at/all", &spool, &err) < 0);
        assert_non_null(strstr(error_text(&err), "/nowhere/at/all"));
}

/* ---- the log */

struct made {
        struct stoke_record records[64];
        char keys[64][32];
        size_t n;
        unsigned n_asked;
};

static int on_record(void *userdata, const struct stoke_record *record, struct error *reterr) {
        struct made *made = userdata;

        (void)reterr;
        assert_true(made->n < n_elements(made->records));
        assert_int_equal(record->hash, record_hash(record));
        assert_true(record->key_size < sizeof(made->keys[0]));
        made->records[made->n] = *record;
        memcpy(made->keys[made->n], record->key, record->key_size);
        made->n++;
        return 0;
}

static int on_unknown_lease(void *userdata, int64_t id, int64_t *ret_ttl, struct error *reterr) {
        struct made *made = userdata;

        (void)reterr;
        made->n_asked++;
        *ret_ttl = id == 99 ? 0 : id; /* 99 has ended */
        return 0;
}

static struct import_log *log_new(struct made *made) {
        struct import_log_config config = {
                .daemon = {7}, .on_record = on_record, .on_unknown_lease = on_unknown_lease, .userdata = made};
        struct import_log *log;

        assert_int_equal(import_log_new(&config, &log), 0);
        return log;
}

static struct spool_key key_of(const char *key, int64_t create, int64_t mod, int64_t version, int64_t lease) {
        return (struct spool_key){.key = bytes_of_string(key),
                .value = bytes_of_string("v"),
                .create_revision = create,
                .mod_revision = mod,
                .version = version,
                .lease = lease};
}

static void expect(const struct made *made, size_t i, uint8_t kind, int64_t revision, const char *key, int64_t create,
        int64_t version, int64_t lease) {
        const struct stoke_record *r = &made->records[i];

        assert_true(i < made->n);
        assert_int_equal(r->seq, i + 1);
        assert_int_equal(r->kind, kind);
        assert_int_equal(r->revision, revision);
        assert_string_equal(made->keys[i], key);
        assert_int_equal(r->create_revision, create);
        assert_int_equal(r->version, version);
        assert_int_equal(r->lease, lease);
        assert_int_equal(r->origin.daemon[0], 7);
}

static void test_log(void **state) {
        cleanup(import_log_freep) struct import_log *log = NULL;
        cleanup(error_done) struct error err = {};
        static struct made made;
        struct spool_key key;

        (void)state;
        made = (struct made){};
        log = log_new(&made);
        assert_int_equal(import_log_lease(log, 77, 60, &err), 0);
        assert_int_equal(import_log_lease(log, 77, 60, &err), 0); /* told again */
        key = key_of("/a", 5, 5, 1, 77);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        key = key_of("/b", 3, 9, 4, 0);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        assert_int_equal(import_log_mark(log, 12, &err), 0);
        key = key_of("/c", 13, 13, 1, 0);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        assert_int_equal(import_log_delete(log, bytes_of_string("/a"), 13, &err), 0);
        assert_int_equal(import_log_advance(log, 13, &err), 0);
        assert_int_equal(import_log_advance(log, 20, &err), 0);

        expect(&made, 0, RECORD_CREATED, 1, "", 0, 0, 0);
        expect(&made, 1, RECORD_LEASE, 1, "", 0, 60, 77);
        expect(&made, 2, RECORD_PUT, 5, "/a", 5, 1, 77);
        expect(&made, 3, RECORD_PUT, 9, "/b", 3, 4, 0);
        expect(&made, 4, RECORD_MARK, 12, "", 12, 0, 0);
        expect(&made, 5, RECORD_PUT, 13, "/c", 13, 1, 0);
        expect(&made, 6, RECORD_TOMBSTONE, 13, "/a", 0, 0, 0);
        expect(&made, 7, RECORD_NOOP, 20, "", 0, 0, 0);
        assert_int_equal(made.n, 8);
        assert_int_equal(import_log_seq(log), 8);
        assert_int_equal(import_log_revision(log), 20);
        assert_int_equal(import_log_n_leases(log), 1);
        assert_int_equal(made.n_asked, 0);
}

/* kine counts no versions, and a lease of its is a time. */
static void test_kine(void **state) {
        cleanup(import_log_freep) struct import_log *log = NULL;
        cleanup(error_done) struct error err = {};
        static struct made made;
        struct spool_key key;

        (void)state;
        made = (struct made){};
        log = log_new(&made);
        key = key_of("/a", 2, 2, 0, 3600);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        key = key_of("/b", 3, 4, 0, 3600);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        key = key_of("/c", 5, 5, 0, 99);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        expect(&made, 1, RECORD_LEASE, 1, "", 0, 3600, 3600);
        expect(&made, 2, RECORD_PUT, 2, "/a", 2, 1, 3600);
        expect(&made, 3, RECORD_PUT, 4, "/b", 3, 2, 3600);
        expect(&made, 4, RECORD_PUT, 5, "/c", 5, 1, 0);
        assert_int_equal(made.n_asked, 2);
}

static void test_an_empty_source(void **state) {
        cleanup(import_log_freep) struct import_log *log = NULL;
        cleanup(error_done) struct error err = {};
        static struct made made;

        (void)state;
        made = (struct made){};
        log = log_new(&made);
        assert_int_equal(import_log_mark(log, 1, &err), 0);
        expect(&made, 0, RECORD_CREATED, 1, "", 0, 0, 0);
        expect(&made, 1, RECORD_MARK, 1, "", 1, 0, 0);
}

static void test_revisions_that_go_back(void **state) {
        cleanup(import_log_freep) struct import_log *log = NULL;
        cleanup(error_done) struct error err = {};
        static struct made made;
        struct spool_key key;

        (void)state;
        made = (struct made){};
        log = log_new(&made);
        key = key_of("/a", 8, 8, 1, 0);
        assert_int_equal(import_log_put(log, &key, &err), 0);
        key = key_of("/b", 7, 7, 1, 0);
        assert_int_equal(import_log_put(log, &key, &err), -EBADMSG);
        assert_non_null(strstr(error_text(&err), "7 after 8"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_spool),
                cmocka_unit_test(test_spool_without_a_place),
                cmocka_unit_test(test_log),
                cmocka_unit_test(test_kine),
                cmocka_unit_test(test_an_empty_source),
                cmocka_unit_test(test_revisions_that_go_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
