/*
 * Files that stokectl writes. If these fail, a private key can be read by others, or a control plane finds half a certificate.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/files.h"

static char folder[40], directory[64];

static int setup(void **state) {
        (void)state;
        strcpy(folder, "/tmp/test-files-XXXXXX");
        assert_non_null(mkdtemp(folder));
        (void)snprintf(directory, sizeof(directory), "%s/tls", folder);
        return 0;
}

static size_t empty(const char *path, bool remove) {
        struct dirent *entry;
        size_t n = 0;
        DIR *dir = opendir(path);

        if (!dir)
                return 0;
        while ((entry = readdir(dir)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
                        n++;
                        if (remove)
                                (void)unlinkat(dirfd(dir), entry->d_name, 0);
                }
        closedir(dir);
        return n;
}

static int teardown(void **state) {
        (void)state;
        empty(directory, true);
        (void)rmdir(directory);
        empty(folder, true);
        return rmdir(folder);
}

static mode_t mode_of(const char *path) {
        struct stat st;

        assert_int_equal(lstat(path, &st), 0);
        return st.st_mode & 07777;
}

static void content_is(const char *name, const char *expected) {
        cleanup(freep) char *path = ctl_path(directory, name);
        cleanup(buf_done) struct buf text = {};

        assert_int_equal(ctl_file_read(path, 1000, &text), CTL_OK);
        assert_int_equal(text.size, strlen(expected));
        assert_memory_equal(text.data, expected, text.size);
}

static void written_whole_and_for_oneself(void **state) {
        const struct ctl_file one[] = {
                {"client.key", bytes_of_string("secret"), 0600}, {"client.crt", bytes_of_string("public"), 0644}};
        const struct ctl_file other[] = {{"client.key", bytes_of_string("newer"), 0600}};
        struct ctl_files files = {.directory = directory, .directory_mode = 0700, .files = one, .n_files = 2};
        cleanup(freep) char *key = ctl_path(directory, "client.key"), *certificate = ctl_path(directory, "client.crt");
        mode_t mask = umask(0);

        (void)state;
        assert_null(ctl_files_present(&files));
        assert_int_equal(ctl_files_write(&files), CTL_OK);
        umask(mask);
        assert_int_equal(mode_of(directory), 0700);
        assert_int_equal(mode_of(key), 0600);
        assert_int_equal(mode_of(certificate), 0644);
        content_is("client.key", "secret");
        assert_string_equal(ctl_files_present(&files), "client.key");
        assert_int_equal(ctl_files_may_replace(directory, "client.key", true), CTL_OK);

        /* Whatever mode it has by now, and with nothing left of how it was made. */
        assert_int_equal(chmod(key, 0666), 0);
        files.files = other;
        files.n_files = 1;
        mask = umask(0077);
        assert_int_equal(ctl_files_write(&files), CTL_OK);
        umask(mask);
        assert_int_equal(mode_of(key), 0600);
        content_is("client.key", "newer");
        content_is("client.crt", "public");
        assert_int_equal(empty(directory, false), 2);
}

/* What a link points to is not written into. */
static void links_are_replaced(void **state) {
        const struct ctl_file one[] = {{"client.key", bytes_of_string("secret"), 0600}};
        const struct ctl_files files = {.directory = directory, .directory_mode = 0700, .files = one, .n_files = 1};
        cleanup(freep) char *key = ctl_path(directory, "client.key"), *elsewhere = ctl_path(folder, "elsewhere");
        struct stat st;
        int fd;

        (void)state;
        assert_int_equal(mkdir(directory, 0700), 0);
        fd = open(elsewhere, O_CREAT | O_WRONLY, 0644);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(symlink("../elsewhere", key), 0);
        assert_non_null(ctl_files_present(&files));
        assert_int_equal(ctl_files_write(&files), CTL_OK);
        assert_int_equal(lstat(key, &st), 0);
        assert_true(S_ISREG(st.st_mode));
        assert_int_equal(stat(elsewhere, &st), 0);
        assert_int_equal(st.st_size, 0);
}

/* A file in the way of the second: the first one is not there either. */
static void all_or_nothing(void **state) {
        const struct ctl_file two[] = {
                {"client.key", bytes_of_string("secret"), 0600}, {"missing/client.crt", bytes_of_string("x"), 0644}};
        const struct ctl_files files = {.directory = directory, .directory_mode = 0700, .files = two, .n_files = 2};
        const struct ctl_files nowhere = {.directory = "/proc/nowhere/at/all", .files = two, .n_files = 1};

        (void)state;
        assert_int_equal(ctl_files_write(&files), CTL_FAILED);
        assert_int_equal(empty(directory, false), 0);
        assert_int_equal(ctl_files_write(&nowhere), CTL_FAILED);
}

static void large_files_are_not_read(void **state) {
        const struct ctl_file one[] = {{"request", bytes_of_string("0123456789"), 0600}};
        const struct ctl_files files = {.directory = directory, .directory_mode = 0700, .files = one, .n_files = 1};
        cleanup(freep) char *path = ctl_path(directory, "request");
        cleanup(buf_done) struct buf text = {}, more = {}, none = {};

        (void)state;
        assert_int_equal(ctl_files_write(&files), CTL_OK);
        assert_int_equal(ctl_file_read(path, 9, &text), CTL_USAGE);
        assert_int_equal(ctl_file_read(path, 10, &more), CTL_OK);
        assert_int_equal(more.size, 10);
        assert_int_equal(ctl_file_read("/nowhere", 10, &none), CTL_NOT_FOUND);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(written_whole_and_for_oneself, setup, teardown),
                cmocka_unit_test_setup_teardown(links_are_replaced, setup, teardown),
                cmocka_unit_test_setup_teardown(all_or_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(large_files_are_not_read, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
