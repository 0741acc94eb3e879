/*
 * Snapshots, both ways: random logs become files, and the files are read again. If this fails, what an operator keeps as a backup lacks
 * keys or history, or a file that is cut off or was damaged passes for one.
 *
 *     test-snapshot [SEED]
 *     test-snapshot --write FILE SEED     leaves the file of a random log, for other readers to look at
 *     test-snapshot --read FILE           prints what is read of another's: kind, revision, create revision, version, lease, key, value
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "made.h"
#include "snapshot/bolt.h"
#include "snapshot/read.h"

static unsigned seed;

static int new_file(void) {
        int fd = memfd_create("snapshot", MFD_CLOEXEC);

        assert_true(fd >= 0);
        return fd;
}

static size_t small_values(void) {
        return (size_t)rand() % 40;
}
static size_t all_values(void) {
        switch (rand() % 40) {
        case 0:
                return 0;
        case 1:
                return 4096 * (1 + (size_t)rand() % 5) - (size_t)rand() % 120; /* around the end of a page */
        case 2:
                return (size_t)rand() % 300000;
        case 3:
                return 127 + (size_t)rand() % 3;
        default:
                return (size_t)rand() % 3000;
        }
}

/* ---- reading back */

struct lease_seen {
        int64_t id, ttl;
};

static size_t expect_leases(const struct made_log *log, struct lease_seen *ret) {
        size_t n = 0;

        for (size_t i = 0; i < log->n; i++) {
                const struct stoke_record *r = &log->records[i].r;

                if (r->kind == RECORD_LEASE)
                        ret[n++] = (struct lease_seen){r->lease, r->version};
                for (size_t k = 0; r->kind == RECORD_REVOKE && k < n; k++)
                        if (ret[k].id == r->lease)
                                ret[k] = ret[--n];
        }
        return n;
}

static void check_version(const struct stoke_record *r, const struct stoke_record *expected) {
        assert_int_equal(r->kind, expected->kind);
        assert_int_equal(r->revision, expected->revision);
        assert_int_equal(r->key_size, expected->key_size);
        assert_memory_equal(r->key, expected->key, r->key_size);
        if (r->kind == RECORD_TOMBSTONE)
                return;
        assert_int_equal(r->create_revision, expected->create_revision);
        assert_int_equal(r->version, expected->version);
        assert_int_equal(r->lease, expected->lease);
        assert_int_equal(r->value_size, expected->value_size);
        assert_memory_equal(r->value, expected->value, r->value_size);
}

/* The file has exactly what an etcd at the log's end would. */
static void check_file(const struct made_log *log, int fd, const struct snapshot_figures *figures) {
        cleanup(freep) struct lease_seen *leases = xcalloc(log->n, sizeof(*leases));
        cleanup(freep) struct made_version *versions = NULL;
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        cleanup(error_done) struct error err = {};
        struct stoke_origin origin = {.batch = 1};
        size_t n_versions, n_leases = expect_leases(log, leases), n = 0, n_leases_seen = 0;
        struct snapshot_facts facts;
        struct stoke_record r;
        uint64_t seq = 0;
        bool marked = false;
        struct stat st;
        int result;

        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, figures->bytes);
        versions = made_expect(log, &n_versions);
        assert_int_equal(n_versions, figures->n_versions);
        result = snapshot_reader_new(fd, &origin, &reader, &err);
        if (result < 0)
                fail_msg("%s", error_text(&err));
        while ((result = snapshot_reader_next(reader, &r, &err)) > 0) {
                assert_int_equal(r.seq, ++seq);
                assert_int_equal(r.hash, record_hash(&r));
                if (r.seq == 1)
                        assert_int_equal(r.kind, RECORD_CREATED);
                else if (r.kind == RECORD_LEASE) {
                        size_t i = 0;

                        while (i < n_leases && leases[i].id != r.lease)
                                i++;
                        assert_true(i < n_leases);
                        assert_int_equal(r.version, leases[i].ttl);
                        assert_int_equal(snapshot_reader_lease_left(reader), leases[i].ttl);
                        n_leases_seen++;
                } else if (r.kind == RECORD_MARK) {
                        assert_int_equal(r.create_revision, log->compacted);
                        assert_int_equal(r.revision, log->revision);
                        marked = true;
                } else {
                        assert_true(n < n_versions);
                        check_version(&r, &log->records[versions[n].record].r);
                        n++;
                }
        }
        if (result < 0)
                fail_msg("%s", error_text(&err));
        snapshot_reader_get(reader, &facts);
        assert_int_equal(n, n_versions);
        assert_int_equal(n_leases_seen, n_leases);
        assert_int_equal(facts.n_leases, n_leases);
        assert_int_equal(facts.revision, log->revision);
        assert_int_equal(facts.compacted, log->compacted);
        assert_int_equal(marked, log->compacted > 0);
        assert_true(facts.has_checksum);
        assert_false(facts.auth_enabled);
}

static void round_trip(struct made_log *log, int64_t assumed, unsigned percent) {
        struct made_saved saved;
        int fd = new_file();

        if (made_save(log, assumed, percent, fd, &saved) != 0)
                fail_msg("%s", saved.error ? saved.error : "?");
        assert_int_equal(saved.n_rounds, assumed == log->compacted ? 1 : 2);
        assert_int_equal(saved.figures.revision, log->revision);
        check_file(log, fd, &saved.figures);
        close(fd);
}

/* ---- tests */

static void nothing(void **state) {
        struct made_log log;

        (void)state;
        made_init(&log);
        round_trip(&log, 0, 0);
        made_done(&log);
}

/* Each size of one value, around the ends of pages; with keys of all sizes. */
static void sizes(void **state) {
        (void)state;
        for (size_t size = 0; size < 70000; size += size < 600 || (size + 200) % 4096 < 260 ? 1 : 97) {
                struct made_log log;
                struct stoke_record *r;
                char key[1024];
                size_t key_size = 1 + size % 900;

                made_init(&log);
                memset(key, 'k', sizeof(key));
                for (int64_t revision = 2; revision < 4; revision++) {
                        r = made_add(&log, RECORD_PUT, revision, key, key_size, NULL, size);
                        r->create_revision = 2;
                        r->version = revision - 1;
                        made_sign(r);
                }
                if (size % 13 == 0)
                        made_add(&log, RECORD_TOMBSTONE, 4, key, key_size, NULL, 0);
                round_trip(&log, 0, 0);
                made_done(&log);
        }
}

static void huge_value(void **state) {
        struct made_log log;
        struct stoke_record *r;

        (void)state;
        made_init(&log);
        for (int64_t i = 2; i < 5; i++) {
                r = made_add(&log, RECORD_PUT, i, &i, sizeof(i), NULL, i == 3 ? 20 << 20 : 10);
                r->create_revision = i;
                r->version = 1;
                made_sign(r);
        }
        round_trip(&log, 0, 0);
        made_done(&log);
}

static void random_logs(void **state) {
        (void)state;
        print_message("# seed %u\n", seed);
        srand(seed);
        for (unsigned i = 0; i < 60; i++) {
                struct made_shape shape = {
                        .n_steps = 1 + (unsigned)rand() % (i % 10 == 0 ? 2500 : 200),
                        .n_keys = 1 + (unsigned)rand() % 60,
                        .compact_percent = (unsigned)rand() % 8,
                        .value_size = i % 3 ? all_values : small_values,
                        .key_size = 3 + (unsigned)rand() % 200,
                };
                struct made_log log;

                made_init(&log);
                made_fill(&log, &shape);
                if (rand() % 2)
                        made_delete(&log, (unsigned)rand() % 101);
                round_trip(&log, rand() % 2 ? log.compacted : 0, rand() % 2 ? 50 : 0);
                made_done(&log);
        }
}

/* More leaves than three levels of pages hold. */
static void deep_tree(void **state) {
        struct made_log log;
        struct stoke_record *r;

        (void)state;
        made_init(&log);
        for (int64_t i = 2; i < 10100; i++) {
                r = made_add(&log, RECORD_PUT, i, &i, sizeof(i), NULL, 8300);
                r->create_revision = i;
                r->version = 1;
                made_sign(r);
        }
        round_trip(&log, 0, 0);
        made_done(&log);
}

static void many_leases(void **state) {
        struct made_log log;
        struct stoke_record *r;

        (void)state;
        made_init(&log);
        for (int64_t i = 1; i <= 5000; i++) {
                r = made_add(&log, RECORD_LEASE, 1, "", 0, "", 0);
                r->lease = i % 3 ? i * INT64_C(0x123456789abcd) : -i;
                r->version = i;
                made_sign(r);
        }
        round_trip(&log, 0, 0);
        made_done(&log);
}

/* A revision that no version has: the log went on behind what was deleted. */
static void bare_revision(void **state) {
        struct made_log log;
        struct stoke_record *r;

        (void)state;
        for (unsigned with_key = 0; with_key < 2; with_key++) {
                made_init(&log);
                if (with_key) {
                        r = made_add(&log, RECORD_PUT, 2, "/a", 2, "b", 1);
                        r->create_revision = 2;
                        r->version = 1;
                        made_sign(r);
                }
                made_add(&log, RECORD_NOOP, 1000, "", 0, "", 0);
                round_trip(&log, 0, 0);
                made_done(&log);
        }
}

/* What is left of a lease goes with it, where it is known. */
static void remaining(void **state) {
        static const struct lease_left left[] = {
                {.id = -5, .left_ms = 30000}, {.id = 7, .left_ms = 11000}, {.id = 9, .left_ms = 1000000}};
        struct snapshot_config config = {.member_id = 1, .term = 2, .left = left, .n_left = n_elements(left)};
        static const int64_t ids[] = {7, 9, -5, 8}, expected[] = {11, 100, 30, 100};
        struct snapshot_plan *plan;
        struct made_log log;

        (void)state;
        made_init(&log);
        assert_int_equal(snapshot_plan_new(&config, &plan), 0);
        for (size_t i = 0; i < n_elements(ids); i++) {
                struct stoke_record *r = made_add(&log, RECORD_LEASE, 1, "", 0, "", 0);

                r->lease = ids[i];
                r->version = 100;
                made_sign(r);
        }
        for (size_t i = 0; i < log.n; i++)
                assert_int_equal(snapshot_plan_add(plan, &log.records[i].r, NULL), 0);
        assert_int_equal(snapshot_plan_finish(plan, NULL), 0);
        {
                cleanup(snapshot_writer_freep) struct snapshot_writer *w = NULL;
                cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
                int fd = new_file();
                struct snapshot_output output = {made_write_fd, &fd};
                struct stoke_origin origin = {};
                struct stoke_record r;
                size_t n = 0;

                assert_int_equal(snapshot_writer_new(plan, &output, &w, NULL), 0);
                for (size_t i = 0; i < log.n; i++)
                        assert_int_equal(snapshot_writer_add(w, &log.records[i].r, NULL), 0);
                assert_true(snapshot_writer_has_all(w));
                assert_int_equal(snapshot_writer_finish(w, NULL), 0);
                assert_int_equal(snapshot_reader_new(fd, &origin, &reader, NULL), 0);
                while (snapshot_reader_next(reader, &r, NULL) > 0)
                        for (size_t i = 0; r.kind == RECORD_LEASE && i < n_elements(ids); i++)
                                if (ids[i] == r.lease) {
                                        assert_int_equal(snapshot_reader_lease_left(reader), expected[i]);
                                        n++;
                                }
                assert_int_equal(n, n_elements(ids));
                close(fd);
        }
        snapshot_plan_free(plan);
        made_done(&log);
}

/* The log changes between the passes: nothing that looks whole may come of it. */
static void changed_log(void **state) {
        struct made_shape shape = {.n_steps = 200, .n_keys = 20, .value_size = all_values, .key_size = 10};

        (void)state;
        srand(seed);
        for (unsigned i = 0; i < 60; i++) {
                struct snapshot_config config = {.member_id = 1, .term = 2};
                cleanup(snapshot_plan_freep) struct snapshot_plan *plan = NULL;
                cleanup(snapshot_writer_freep) struct snapshot_writer *w = NULL;
                cleanup(error_done) struct error err = {};
                int fd = new_file(), r = 0;
                struct snapshot_output output = {made_write_fd, &fd};
                size_t victim;
                struct made_log log;
                struct stat st;

                made_init(&log);
                made_fill(&log, &shape);
                assert_int_equal(snapshot_plan_new(&config, &plan), 0);
                for (size_t k = 0; k < log.n; k++)
                        assert_int_equal(snapshot_plan_add(plan, &log.records[k].r, NULL), 0);
                assert_int_equal(snapshot_plan_finish(plan, NULL), 0);
                do
                        victim = (size_t)rand() % log.n;
                while (log.records[victim].r.kind != RECORD_PUT);
                switch (i % 4) {
                case 0: /* gone */
                        log.records[victim].deleted = true;
                        break;
                case 1: /* another value, which its hash does not fit */
                        log.records[victim].r.version++;
                        break;
                case 2: /* another one at its place */
                        log.records[victim].r.kind = RECORD_NOOP;
                        made_sign(&log.records[victim].r);
                        break;
                case 3: /* the log is another one */
                        log.records[log.n - 1].r.origin.batch++;
                        break;
                }
                assert_int_equal(snapshot_writer_new(plan, &output, &w, NULL), 0);
                for (size_t k = 0; r == 0 && k < log.n; k++)
                        if (!log.records[k].deleted)
                                r = snapshot_writer_add(w, &log.records[k].r, &err);
                if (r == 0)
                        r = snapshot_writer_finish(w, &err);
                assert_true(r == -ESTALE || r == -EUCLEAN);
                assert_non_null(err.text);
                assert_int_equal(fstat(fd, &st), 0);
                assert_int_not_equal(st.st_size % SNAPSHOT_SECTOR, SNAPSHOT_CHECKSUM);
                close(fd);
                made_done(&log);
        }
}

/* A bit that has fallen over is noticed by the checksum; without one nothing worse than an error comes of it. */
static void damage(void **state) {
        struct made_shape shape = {
                .n_steps = 400, .n_keys = 40, .compact_percent = 1, .value_size = all_values, .key_size = 10};
        struct stoke_origin origin = {};
        struct made_saved saved;
        struct made_log log;
        int fd = new_file();
        unsigned n_seen = 0;

        (void)state;
        srand(seed);
        made_init(&log);
        made_fill(&log, &shape);
        assert_int_equal(made_save(&log, log.compacted, 0, fd, &saved), 0);
        for (unsigned i = 0; i < 400; i++) {
                cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
                /* Anywhere, or where pages begin, with what they say of themselves. */
                uint64_t at_page = (uint64_t)rand() % (saved.figures.bytes / BOLT_PAGE_SIZE) * BOLT_PAGE_SIZE;
                off_t at = (off_t)(i % 2 ? (uint64_t)rand() % (saved.figures.bytes - SNAPSHOT_CHECKSUM)
                                         : at_page + (uint64_t)rand() % 64);
                struct stoke_record record;
                uint8_t byte, other;
                int r;

                assert_int_equal(pread(fd, &byte, 1, at), 1);
                other = byte ^ (uint8_t)(1 << rand() % 8);
                assert_int_equal(pwrite(fd, &other, 1, at), 1);
                assert_int_equal(snapshot_reader_new(fd, &origin, &reader, NULL), -EBADMSG);
                assert_int_equal(ftruncate(fd, (off_t)(saved.figures.bytes - SNAPSHOT_CHECKSUM)), 0);
                r = snapshot_reader_new(fd, &origin, &reader, NULL);
                while (r >= 0 && (r = snapshot_reader_next(reader, &record, NULL)) > 0)
                        assert_int_equal(record.hash, record_hash(&record));
                assert_true(r == 0 || r == -EBADMSG);
                n_seen += r < 0;
                assert_int_equal(pwrite(fd, &byte, 1, at), 1);
                snapshot_reader_free(steal(reader));
                /* The checksum again. */
                assert_int_equal(ftruncate(fd, 0), 0);
                assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
                assert_int_equal(made_save(&log, log.compacted, 0, fd, &saved), 0);
        }
        assert_true(n_seen > 0);
        assert_int_equal(ftruncate(fd, (off_t)(saved.figures.bytes / 2 / BOLT_PAGE_SIZE * BOLT_PAGE_SIZE)), 0);
        {
                struct snapshot_reader *reader;

                assert_int_equal(snapshot_reader_new(fd, &origin, &reader, NULL), -EBADMSG);
        }
        close(fd);
        made_done(&log);
}

static int write_one(const char *path) {
        struct made_shape shape = {
                .n_steps = 3000, .n_keys = 300, .compact_percent = 1, .value_size = all_values, .key_size = 20};
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        struct made_saved saved = {};
        struct made_log log;
        int r;

        if (fd < 0)
                return 1;
        srand(seed);
        if (seed % 3 == 0)
                shape.n_steps = (unsigned)rand() % 10;
        made_init(&log);
        made_fill(&log, &shape);
        r = made_save(&log, log.compacted, 0, fd, &saved);
        if (r != 0)
                fprintf(stderr, "%s\n", saved.error);
        printf("%lld %llu\n", (long long)saved.figures.revision, (unsigned long long)saved.figures.n_versions);
        free(saved.error);
        made_done(&log);
        close(fd);
        return r != 0;
}

static void print_hex(const uint8_t *data, size_t size) {
        printf(" x");
        for (size_t i = 0; i < size; i++)
                printf("%02x", data[i]);
}

static int read_one(const char *path) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        cleanup(error_done) struct error err = {};
        struct stoke_origin origin = {.batch = 1};
        struct stoke_record r;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        int result = fd < 0 ? error_set(&err, -errno, "%s", strerror(errno))
                            : snapshot_reader_new(fd, &origin, &reader, &err);

        while (result >= 0 && (result = snapshot_reader_next(reader, &r, &err)) > 0) {
                printf("%u %lld %lld %lld %lld", r.kind, (long long)r.revision, (long long)r.create_revision,
                        (long long)r.version, (long long)r.lease);
                print_hex(r.key, r.key_size);
                print_hex(r.value, r.value_size);
                if (r.kind == RECORD_LEASE)
                        printf(" %lld", (long long)snapshot_reader_lease_left(reader));
                putchar('\n');
        }
        if (fd >= 0)
                close(fd);
        if (result < 0)
                fprintf(stderr, "%s\n", error_text(&err));
        return result < 0;
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nothing),
                cmocka_unit_test(sizes),
                cmocka_unit_test(huge_value),
                cmocka_unit_test(random_logs),
                cmocka_unit_test(deep_tree),
                cmocka_unit_test(many_leases),
                cmocka_unit_test(bare_revision),
                cmocka_unit_test(remaining),
                cmocka_unit_test(changed_log),
                cmocka_unit_test(damage),
        };

        if (argc == 3 && strcmp(argv[1], "--read") == 0)
                return read_one(argv[2]);
        if (argc == 4 && strcmp(argv[1], "--write") == 0) {
                seed = (unsigned)strtoul(argv[3], NULL, 10);
                return write_one(argv[2]);
        }
        seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : (unsigned)time(NULL);
        return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
