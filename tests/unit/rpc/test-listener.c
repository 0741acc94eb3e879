/* Where a daemon may listen, and what it says where it may not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "rpc/listener.h"

static char folder[32], path[64], address[80];
static struct loop *loop;

static void on_accept(void *userdata, int fd) {
        ++*(int *)userdata;
        close(fd);
}

static int setup(void **state) {
        (void)state;
        strcpy(folder, "/tmp/test-rpc-XXXXXX");
        assert_non_null(mkdtemp(folder));
        (void)snprintf(path, sizeof(path), "%s/a.sock", folder);
        (void)snprintf(address, sizeof(address), "unix:%s", path);
        assert_int_equal(loop_new("test", &loop), 0);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        loop_free(loop);
        (void)unlink(path);
        assert_int_equal(rmdir(folder), 0);
        return 0;
}

static int try(const char *where, struct listener **ret, const char *reason) {
        static int n_accepted;
        struct error err = {};
        int r = listener_new(loop, where, 0640, on_accept, &n_accepted, ret, &err);

        if (reason)
                assert_non_null(strstr(error_text(&err), reason));
        error_done(&err);
        return r;
}

static void test_unix(void **state) {
        struct listener *l, *second;
        struct stat st;

        (void)state;
        assert_int_equal(try(address, &l, NULL), 0);
        assert_string_equal(listener_address(l), address);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0640);
        assert_int_equal(try(address, &second, "another process listens"), -EADDRINUSE);
        listener_free(l);
        assert_int_not_equal(stat(path, &st), 0);
}

static void test_stale(void **state) {
        struct sockaddr_un sun = {.sun_family = AF_UNIX};
        struct listener *l;
        struct stat st;
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        (void)state;
        strcpy(sun.sun_path, path);
        assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
        close(fd); /* as a process that was killed leaves it */
        assert_int_equal(try(address, &l, NULL), 0);

        /* made anew by somebody else: not ours to remove */
        assert_int_equal(unlink(path), 0);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
        listener_free(l);
        assert_int_equal(stat(path, &st), 0);
        close(fd);
}

static void test_not_a_socket(void **state) {
        struct listener *l;
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

        (void)state;
        close(fd);
        assert_int_equal(try(address, &l, "is not a socket"), -EEXIST);
}

static void test_refused(void **state) {
        struct listener *l;
        char longer[200] = "unix:/tmp/";

        (void)state;
        memset(longer + 10, 'x', 150);
        assert_int_equal(try(longer, &l, "the path has 155 bytes, a socket's may have 107"), -ENAMETOOLONG);
        assert_int_equal(try("tcp:0.0.0.0:0", &l, "without TLS only on loopback"), -EPERM);
        assert_int_equal(try("tcp:[::]:0", &l, "without TLS only on loopback"), -EPERM);
        assert_int_equal(try("tcp:localhost:1", &l, "not a numeric address"), -EINVAL);
        assert_int_equal(try("tcp:127.0.0.1", &l, "not HOST:PORT"), -EINVAL);
        assert_int_equal(try("tcp:127.0.0.1:70000", &l, "no such port"), -EINVAL);
        assert_int_equal(try("udp:1", &l, "neither"), -EINVAL);
        assert_int_equal(try("unix:relative", &l, "absolute"), -EINVAL);
}

static void test_tcp(void **state) {
        struct listener *l, *second;

        (void)state;
        assert_int_equal(try("tcp:127.0.0.1:0", &l, NULL), 0);
        assert_int_equal(strncmp(listener_address(l), "tcp:127.0.0.1:", 14), 0);
        assert_true(atoi(listener_address(l) + 14) > 0);
        assert_int_equal(try(listener_address(l), &second, "in use"), -EADDRINUSE);
        listener_free(l);
}

static void test_from_fd(void **state) {
        struct sockaddr_un sun = {.sun_family = AF_UNIX};
        struct listener *l;
        struct error err = {};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0), n = 0;

        (void)state;
        strcpy(sun.sun_path, path);
        assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
        assert_int_equal(listener_new_from_fd(loop, fd, on_accept, &n, &l, &err), -EINVAL);
        error_done(&err);
        assert_int_equal(listen(fd, 1), 0);
        assert_int_equal(listener_new_from_fd(loop, fd, on_accept, &n, &l, NULL), 0);
        assert_string_equal(listener_address(l), address);
        listener_free(l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_unix, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stale, setup, teardown),
                cmocka_unit_test_setup_teardown(test_not_a_socket, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tcp, setup, teardown),
                cmocka_unit_test_setup_teardown(test_from_fd, setup, teardown),
        };

        return cmocka_run_group_tests_name("rpc-listener", tests, NULL, NULL);
}
