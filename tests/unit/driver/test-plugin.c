/* SPDX-License-Identifier: Apache-2.0 */
/* The loader takes what it should, and skips everything else with a reason that helps. */
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "driver/elf.h"
#include "driver/plugin.h"

static const char *build; /* where the test's plugins were built */
static char directory[64];

static int on_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void)st;
        (void)type;
        (void)ftw;
        return remove(path);
}

static int setup(void **state) {
        (void)state;
        snprintf(directory, sizeof(directory), "/tmp/test-plugin-XXXXXX");
        return mkdtemp(directory) ? 0 : -1;
}
static int teardown(void **state) {
        (void)state;
        return nftw(directory, on_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void install_as(const char *from, const char *to, mode_t mode) {
        char path[512], buffer[65536];
        int in, out;
        ssize_t n;

        snprintf(path, sizeof(path), "%s/%s", build, from);
        in = open(path, O_RDONLY);
        assert_true(in >= 0);
        snprintf(path, sizeof(path), "%s/%s", directory, to);
        out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_true(out >= 0);
        while ((n = read(in, buffer, sizeof(buffer))) > 0)
                assert_int_equal(write(out, buffer, (size_t)n), n);
        assert_int_equal(fchmod(out, mode), 0);
        close(in);
        close(out);
}

static struct plugin_table *table_new(bool root_only, bool allow) {
        static const char *const names[] = {"Memory"};
        struct plugin_table_config config = {
                .directory = directory, .root_only = root_only, .experimental = names, .n_experimental = allow ? 1 : 0};
        struct plugin_table *table;

        assert_int_equal(plugin_table_new(&config, &table), 0);
        return table;
}

/* One file is refused, and the reason has this in it. */
static void expect_refused(const char *from, const char *to, mode_t mode, const char *words) {
        cleanup(plugin_table_freep) struct plugin_table *table = table_new(false, true);

        install_as(from, to, mode);
        plugin_table_scan(table);
        assert_int_equal(plugin_count(table), 0);
        assert_int_equal(plugin_refusal_count(table), 1);
        print_message("# %s\n", plugin_refusal_at(table, 0)->reason);
        assert_non_null(strstr(plugin_refusal_at(table, 0)->path, to));
        assert_non_null(strstr(plugin_refusal_at(table, 0)->reason, words));
}

static void test_text(void **state) {
        (void)state;
        expect_refused("bad-plugin.txt", "text.so", 0644, "not a shared object");
}
static void test_foreign(void **state) {
        (void)state;
        expect_refused("foreign.so", "foreign.so", 0644, "no symbol stoke_driver");
        assert_null(getenv("FOREIGN_WAS_LOADED")); /* not even its constructors ran */
}
static void test_magic(void **state) {
        (void)state;
        expect_refused("bad-1.so", "magic.so", 0644, "wrong magic");
}
static void test_major(void **state) {
        (void)state;
        expect_refused("bad-2.so", "major.so", 0644, "version 2.2 of the driver ABI; this daemon has 1.2");
}
static void test_size(void **state) {
        (void)state;
        expect_refused("bad-3.so", "size.so", 0644, "64 bytes");
}
static void test_name(void **state) {
        (void)state;
        expect_refused("bad-4.so", "name.so", 0644, "no valid name");
}
static void test_functions(void **state) {
        (void)state;
        expect_refused("bad-5.so", "functions.so", 0644, "lacks a function");
}
static void test_world_writable(void **state) {
        (void)state;
        expect_refused("driver-memory.so", "world.so", 0646, "can be written by its group or others (mode 0646)");
}
static void test_group_writable(void **state) {
        (void)state;
        expect_refused("driver-memory.so", "group.so", 0664, "can be written by its group or others (mode 0664)");
}

static void test_link(void **state) {
        cleanup(plugin_table_freep) struct plugin_table *table = table_new(false, true);
        char to[512], from[512];

        (void)state;
        snprintf(from, sizeof(from), "%s/driver-memory.so", build);
        snprintf(to, sizeof(to), "%s/link.so", directory);
        assert_int_equal(symlink(from, to), 0);
        snprintf(to, sizeof(to), "%s/directory.so", directory);
        assert_int_equal(mkdir(to, 0755), 0);
        plugin_table_scan(table);
        assert_int_equal(plugin_count(table), 0);
        assert_int_equal(plugin_refusal_count(table), 2);
        assert_string_equal(plugin_refusal_at(table, 0)->reason, "not a regular file");
        assert_string_equal(plugin_refusal_at(table, 1)->reason, "a symbolic link");
}

static void test_directory(void **state) {
        cleanup(plugin_table_freep) struct plugin_table *own = table_new(false, true), *root = table_new(true, true);

        (void)state;
        install_as("driver-memory.so", "memory.so", 0644);
        assert_int_equal(chmod(directory, 0775), 0);
        plugin_table_scan(own);
        assert_int_equal(plugin_count(own), 0);
        assert_non_null(strstr(plugin_refusal_at(own, 0)->reason, "can be written by its group"));
        /* /tmp itself: its sticky bit is enough for one's own, not where only root may write. */
        assert_int_equal(chmod(directory, 0755), 0);
        plugin_table_scan(root);
        assert_int_equal(plugin_count(root), 0);
        assert_non_null(strstr(plugin_refusal_at(root, 0)->reason, "/tmp can be written"));
        plugin_table_scan(own);
        assert_int_equal(plugin_count(own), 1);
        assert_int_equal(plugin_refusal_count(own), 0);
}

static void test_load(void **state) {
        cleanup(plugin_table_freep) struct plugin_table *table = table_new(false, true),
                                                        *strict = table_new(false, false);
        cleanup(error_done) struct error none = {}, forbidden = {}, unknown = {};

        (void)state;
        plugin_table_scan(table);
        assert_int_equal(plugin_count(table), 0);
        assert_null(plugin_find(table, "Memory", &none));
        /* Dropped in while it runs. */
        install_as("driver-memory.so", "a.so", 0644);
        install_as("driver-memory.so", "b.so", 0644);
        plugin_table_scan(table);
        plugin_table_scan(table);
        assert_int_equal(plugin_count(table), 1);
        assert_non_null(plugin_find(table, "Memory", NULL));
        assert_ptr_equal(plugin_find(table, "Memory", NULL), plugin_at(table, 0));
        assert_int_equal(plugin_refusal_count(table), 1);
        assert_non_null(strstr(plugin_refusal_at(table, 0)->reason, "there is a driver \"Memory\" already"));
        assert_null(plugin_find(table, "Oracle", &unknown));
        assert_string_equal(error_text(&unknown), "no driver \"Oracle\": there are Memory");
        plugin_table_scan(strict);
        assert_int_equal(plugin_count(strict), 1);
        assert_null(plugin_find(strict, "Memory", &forbidden));
        assert_int_equal(forbidden.code, -EPERM);
}

/* A driver cut off anywhere, or with any byte of its tables changed, is read without harm. */
static void test_malformed(void **state) {
        char path[512];
        uint8_t *data;
        struct stat st;
        unsigned n_good = 0;
        int in, out;

        (void)state;
        snprintf(path, sizeof(path), "%s/driver-memory.so", build);
        in = open(path, O_RDONLY);
        assert_true(in >= 0 && fstat(in, &st) == 0);
        assert_int_equal(elf_check(in, "stoke_driver", NULL), 0);
        assert_int_equal(elf_check(in, "stoke_drive", NULL), -ENOENT);
        assert_int_equal(elf_check(in, "malloc", NULL), -ENOENT); /* not defined there */
        data = malloc((size_t)st.st_size);
        assert_non_null(data);
        assert_int_equal(pread(in, data, (size_t)st.st_size, 0), st.st_size);
        close(in);
        snprintf(path, sizeof(path), "%s/cut.so", directory);
        out = open(path, O_RDWR | O_CREAT, 0644);
        assert_true(out >= 0);
        for (off_t size = 0; size < st.st_size; size += size < 4096 ? 7 : 1009) {
                int r;

                assert_int_equal(ftruncate(out, 0), 0);
                assert_int_equal(pwrite(out, data, (size_t)size, 0), size);
                r = elf_check(out, "stoke_driver", NULL);
                assert_true(r == 0 || r == -ENOEXEC || r == -ENOENT);
                assert_true(r < 0 || size > 4096);
                n_good += r == 0;
        }
        assert_int_equal(pwrite(out, data, (size_t)st.st_size, 0), st.st_size);
        for (off_t at = 0; at < 8192 && at < st.st_size; at++) {
                static const uint8_t bytes[] = {0, 0xff, 0x80};

                for (size_t k = 0; k < sizeof(bytes); k++) {
                        int r;

                        assert_int_equal(pwrite(out, &bytes[k], 1, at), 1);
                        r = elf_check(out, "stoke_driver", NULL);
                        assert_true(r == 0 || r == -ENOEXEC || r == -ENOENT);
                }
                assert_int_equal(pwrite(out, data + at, 1, at), 1);
        }
        assert_int_equal(elf_check(out, "stoke_driver", NULL), 0);
        print_message("# %u of the cut files still have their tables\n", n_good);
        close(out);
        free(data);
}

static void test_missing_directory(void **state) {
        cleanup(plugin_table_freep) struct plugin_table *table = NULL;
        struct plugin_table_config config = {.directory = "/nonexistent/plugins"};

        (void)state;
        assert_int_equal(plugin_table_new(&config, &table), 0);
        plugin_table_scan(table);
        assert_int_equal(plugin_refusal_count(table), 1);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_text, setup, teardown),
                cmocka_unit_test_setup_teardown(test_foreign, setup, teardown),
                cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_magic, setup, teardown),
                cmocka_unit_test_setup_teardown(test_major, setup, teardown),
                cmocka_unit_test_setup_teardown(test_size, setup, teardown),
                cmocka_unit_test_setup_teardown(test_name, setup, teardown),
                cmocka_unit_test_setup_teardown(test_functions, setup, teardown),
                cmocka_unit_test_setup_teardown(test_world_writable, setup, teardown),
                cmocka_unit_test_setup_teardown(test_group_writable, setup, teardown),
                cmocka_unit_test_setup_teardown(test_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_directory, setup, teardown),
                cmocka_unit_test_setup_teardown(test_load, setup, teardown),
                cmocka_unit_test(test_missing_directory),
        };

        if (argc < 2)
                return 2;
        build = argv[1];
        umask(022);
        log_open();
        log_set_level(LOG_LEVEL_ERROR);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
