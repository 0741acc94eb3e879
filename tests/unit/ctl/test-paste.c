/*
 * What a person pastes where a client is set up. If these fail, a control plane does not start with what stokectl printed.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ctl/parse.h"
#include "ctl/paste.h"

static void pasted(enum paste_client client, const struct paste *paste, const char *expected) {
        cleanup(buf_done) struct buf text = {};

        assert_int_equal(paste_print(client, paste, &text), 0);
        assert_int_equal(buf_append(&text, "", 1), 0);
        assert_string_equal((const char *)text.data, expected);
}

static void each_client_has_its_form(void **state) {
        static const char *const endpoints[] = {"https://a.example:2379", "https://[fd00::1]:2379"};
        const struct paste paste = {endpoints, 2, "/x/ca.crt", "/x/client.crt", "/x/client.key"};

        (void)state;
        pasted(PASTE_KUBE_APISERVER, &paste,
                "--etcd-servers=https://a.example:2379,https://[fd00::1]:2379\n"
                "--etcd-cafile=/x/ca.crt\n"
                "--etcd-certfile=/x/client.crt\n"
                "--etcd-keyfile=/x/client.key\n");
        pasted(PASTE_K3S, &paste,
                "k3s server \\\n"
                "  --datastore-endpoint=https://a.example:2379,https://[fd00::1]:2379 \\\n"
                "  --datastore-cafile=/x/ca.crt \\\n"
                "  --datastore-certfile=/x/client.crt \\\n"
                "  --datastore-keyfile=/x/client.key\n");
        pasted(PASTE_ETCDCTL, &paste,
                "export ETCDCTL_ENDPOINTS=https://a.example:2379,https://[fd00::1]:2379\n"
                "export ETCDCTL_CACERT=/x/ca.crt\n"
                "export ETCDCTL_CERT=/x/client.crt\n"
                "export ETCDCTL_KEY=/x/client.key\n");
        pasted(PASTE_KUBEADM, &paste,
                "apiVersion: kubeadm.k8s.io/v1beta4\n"
                "kind: ClusterConfiguration\n"
                "etcd:\n"
                "  external:\n"
                "    endpoints:\n"
                "    - https://a.example:2379\n"
                "    - https://[fd00::1]:2379\n"
                "    caFile: /x/ca.crt\n"
                "    certFile: /x/client.crt\n"
                "    keyFile: /x/client.key\n");
}

static void without_tls(void **state) {
        static const char *const unix_socket[] = {"unix:///run/stokehold/tenants/berlin/etcd.sock"};
        static const char *const loopback[] = {"http://127.0.0.1:23790"};
        const struct paste one = {.endpoints = unix_socket, .n_endpoints = 1};
        const struct paste two = {.endpoints = loopback, .n_endpoints = 1};

        (void)state;
        pasted(PASTE_KUBE_APISERVER, &one, "--etcd-servers=unix:///run/stokehold/tenants/berlin/etcd.sock\n");
        pasted(PASTE_ETCDCTL, &one, "export ETCDCTL_ENDPOINTS=unix:///run/stokehold/tenants/berlin/etcd.sock\n");
        pasted(PASTE_K3S, &two, "k3s server \\\n  --datastore-endpoint=http://127.0.0.1:23790\n");
        pasted(PASTE_KUBEADM, &two,
                "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\netcd:\n  external:\n    endpoints:\n"
                "    - http://127.0.0.1:23790\n    caFile: \"\"\n    certFile: \"\"\n    keyFile: \"\"\n");
        assert_true(paste_client_takes(PASTE_ETCDCTL, unix_socket[0]));
        assert_false(paste_client_takes(PASTE_KUBEADM, unix_socket[0]));
        assert_false(paste_client_takes(PASTE_K3S, unix_socket[0]));
        assert_true(paste_client_takes(PASTE_K3S, loopback[0]));
}

/* A path is somebody's own: it must not become a command, nor another field. */
static void odd_paths(void **state) {
        static const char *const endpoints[] = {"https://a:1"};
        const struct paste paste = {endpoints, 1, "/a b/$(id)", "/it's", "/x: y #z"};

        (void)state;
        pasted(PASTE_ETCDCTL, &paste,
                "export ETCDCTL_ENDPOINTS=https://a:1\n"
                "export ETCDCTL_CACERT='/a b/$(id)'\n"
                "export ETCDCTL_CERT='/it'\\''s'\n"
                "export ETCDCTL_KEY='/x: y #z'\n");
        pasted(PASTE_KUBEADM, &paste,
                "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\netcd:\n  external:\n    endpoints:\n"
                "    - https://a:1\n    caFile: /a b/$(id)\n    certFile: /it's\n    keyFile: '/x: y #z'\n");
}

static void endpoints_that_can_be_dialled(void **state) {
        static const char *const good[] = {
                "https://a:1", "https://stokehold.example:2379", "https://10.0.0.5:65535", "https://[fd00::1]:2379"};
        static const char *const bad[] = {"", "https://", "https://a", "https://a:", "https://:1", "https://a:65536",
                "https://a:1/", "https://a:1,https://b:1", "https://a b:1", "https://a:1x", "http://a:1", "a:1",
                "https://fd00::1:2379", "https://[fd00::1]", "https://[fd00::1:2379", "https://[fd00::1]x:1",
                "https://a:\n1", "https://u@a:1", "https://'a':1", "https://0.0.0.0:2379", "https://[::]:2379"};

        (void)state;
        for (size_t i = 0; i < n_elements(good); i++)
                assert_int_equal(paste_check_endpoint(good[i], NULL), 0);
        for (size_t i = 0; i < n_elements(bad); i++)
                assert_int_equal(paste_check_endpoint(bad[i], NULL), -EINVAL);
}

static void days(void **state) {
        static const char *const bad[] = {
                "", "0", "-1", "1.5", "36501", "100000", "1 ", " 1", "x", "1d", "99999999999"};
        uint32_t n;

        (void)state;
        assert_int_equal(ctl_parse_days("1", &n), 0);
        assert_int_equal(n, 1);
        assert_int_equal(ctl_parse_days("36500", &n), 0);
        assert_int_equal(n, 36500);
        for (size_t i = 0; i < n_elements(bad); i++)
                assert_int_equal(ctl_parse_days(bad[i], &n), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(each_client_has_its_form),
                cmocka_unit_test(without_tls),
                cmocka_unit_test(odd_paths),
                cmocka_unit_test(endpoints_that_can_be_dialled),
                cmocka_unit_test(days),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
