/* If these fail, a certificate opens the wrong tenant, or a private key is taken from where everybody can read it. */

#include "folder.h"

#include <errno.h>

#include "fleet/credential_name.h"
#include "fleet/private_file.h"

static struct folder folder;

static int setup(void **state) {
        (void)state;
        folder_new(&folder);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        folder_remove(&folder);
        return 0;
}

static void test_names(void **state) {
        char *name;

        (void)state;
        assert_int_equal(credential_name("berlin", 1785585600, &name), 0);
        assert_string_equal(name, "stokehold:tenant:berlin:20260801T120000Z");
        free(name);
        /* Anew a second later: another. */
        assert_int_equal(credential_name("berlin", 1785585601, &name), 0);
        assert_string_equal(name, "stokehold:tenant:berlin:20260801T120001Z");
        free(name);
        assert_int_equal(credential_name("berlin", 0, &name), -EINVAL);
        assert_int_equal(credential_name("berlin", -1, &name), -EINVAL);
        assert_int_equal(credential_name("berlin", INT64_MAX, &name), -EINVAL);
}

static void test_modes(void **state) {
        static const struct {
                mode_t mode;
                bool root, own; /* taken where the file is root's; where it is the daemon's, who is not */
        } modes[] = {{0600, true, true}, {0400, true, true}, {0640, true, false}, {0440, true, false},
                {0644, false, false}, {0604, false, false}, {0660, false, false}, {0620, false, false},
                {0610, false, false}, {0700, true, true}};
        const char *path = folder_path(&folder, "key");
        FILE *f = fopen(path, "w");

        (void)state;
        assert_non_null(f);
        fputs("secret", f);
        fclose(f);
        for (size_t i = 0; i < n_elements(modes); i++) {
                cleanup(error_done) struct error why = {};
                cleanup(buf_done) struct buf text = {};
                bool good = geteuid() == 0 ? modes[i].root : modes[i].own;
                int r;

                assert_int_equal(chmod(path, modes[i].mode), 0);
                r = private_file_read(path, &text, &why);
                assert_int_equal(r, good ? 0 : -EPERM);
                if (good)
                        assert_int_equal(text.size, 6);
                else
                        assert_non_null(strstr(error_text(&why), "may be read or written by others"));
                assert_null(strstr(error_text(&why), "secret"));
        }
        if (geteuid() == 0) {
                cleanup(error_done) struct error why = {};
                cleanup(buf_done) struct buf text = {};

                assert_int_equal(chmod(path, 0600), 0);
                assert_int_equal(chown(path, 65534, 65534), 0);
                assert_int_equal(private_file_read(path, &text, &why), -EPERM);
                assert_non_null(strstr(error_text(&why), "neither root nor the daemon"));
        }
}

static void test_absent(void **state) {
        cleanup(buf_done) struct buf text = {};

        (void)state;
        assert_int_equal(private_file_read(folder_path(&folder, "none"), &text, NULL), -ENOENT);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_absent, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
