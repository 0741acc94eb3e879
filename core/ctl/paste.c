#include "ctl/paste.h"

#include <string.h>

#include "base/yaml.h"

#define TLS "https://"

static const char *const names[] = {[PASTE_KUBE_APISERVER] = "kube-apiserver",
        [PASTE_KUBEADM] = "kubeadm",
        [PASTE_K3S] = "k3s",
        [PASTE_ETCDCTL] = "etcdctl"};

int paste_client_parse(const char *name, enum paste_client *ret) {
        for (size_t i = 0; i < n_elements(names); i++)
                if (strcmp(names[i], name) == 0) {
                        *ret = (enum paste_client)i;
                        return 0;
                }
        return -EINVAL;
}

const char *paste_client_name(enum paste_client client) {
        return names[client];
}

void paste_conventional_paths(enum paste_client client, struct paste *ret) {
        /* The first two are what kubeadm's documentation asks for; k3s has none. */
        static const char *const paths[][3] = {
                [PASTE_KUBE_APISERVER] = {"/etc/kubernetes/pki/etcd/ca.crt",
                        "/etc/kubernetes/pki/apiserver-etcd-client.crt",
                        "/etc/kubernetes/pki/apiserver-etcd-client.key"},
                [PASTE_KUBEADM] = {"/etc/kubernetes/pki/etcd/ca.crt", "/etc/kubernetes/pki/apiserver-etcd-client.crt",
                        "/etc/kubernetes/pki/apiserver-etcd-client.key"},
                [PASTE_K3S] = {"/etc/rancher/k3s/datastore/ca.crt", "/etc/rancher/k3s/datastore/client.crt",
                        "/etc/rancher/k3s/datastore/client.key"},
                [PASTE_ETCDCTL] = {"ca.crt", "client.crt", "client.key"},
        };

        ret->authority = paths[client][0];
        ret->certificate = paths[client][1];
        ret->key = paths[client][2];
}

bool paste_client_takes(enum paste_client client, const char *endpoint) {
        return (client != PASTE_KUBEADM && client != PASTE_K3S) || strncmp(endpoint, "http", 4) == 0;
}

/* ---- for a shell */

/* In single quotes where it has anything that a shell would take for its own. */
static int quote(const char *text, struct buf *ret) {
        static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%[]";
        int r;

        if (*text && strspn(text, plain) == strlen(text))
                return buf_append_string(ret, text);
        r = buf_append_string(ret, "'");
        for (; *text && r >= 0; text++)
                r = *text == '\'' ? buf_append_string(ret, "'\\''") : buf_append(ret, text, 1);
        return r < 0 ? r : buf_append_string(ret, "'");
}

/* "--flag=VALUE" and what stands between lines. Nothing without a value. */
static int line(const char *before, const char *value, const char *after, struct buf *ret) {
        int r;

        if (!value)
                return 0;
        r = buf_append_string(ret, before);
        if (r >= 0)
                r = quote(value, ret);
        return r < 0 ? r : buf_append_string(ret, after);
}

struct flags {
        const char *first, *endpoints, *authority, *certificate, *key;
        const char *between, *last;
};

static int print_flags(const struct flags *flags, const struct paste *paste, const char *endpoints, struct buf *ret) {
        const char *const lines[][2] = {{flags->endpoints, endpoints}, {flags->authority, paste->authority},
                {flags->certificate, paste->certificate}, {flags->key, paste->key}};
        size_t n = paste->authority ? n_elements(lines) : 1;
        int r = buf_append_string(ret, flags->first);

        for (size_t i = 0; i < n && r >= 0; i++)
                r = line(lines[i][0], lines[i][1], i + 1 < n ? flags->between : flags->last, ret);
        return r;
}

/* ---- for kubeadm */

static int print_kubeadm(const struct paste *paste, struct buf *ret) {
        cleanup(yaml_writer_freep) struct yaml_writer *w = NULL;
        const char *const files[][2] = {
                {"caFile", paste->authority}, {"certFile", paste->certificate}, {"keyFile", paste->key}};
        int r;

        r = yaml_writer_new(ret, &w);
        if (r < 0)
                return r;
        yaml_write_mapping(w);
        yaml_write_key(w, "apiVersion");
        yaml_write_string(w, "kubeadm.k8s.io/v1beta4");
        yaml_write_key(w, "kind");
        yaml_write_string(w, "ClusterConfiguration");
        yaml_write_key(w, "etcd");
        yaml_write_mapping(w);
        yaml_write_key(w, "external");
        yaml_write_mapping(w);
        yaml_write_key(w, "endpoints");
        yaml_write_sequence(w);
        for (size_t i = 0; i < paste->n_endpoints; i++)
                yaml_write_string(w, paste->endpoints[i]);
        yaml_write_end(w);
        /* kubeadm wants the fields also where they are empty. */
        for (size_t i = 0; i < n_elements(files); i++) {
                yaml_write_key(w, files[i][0]);
                yaml_write_string(w, files[i][1] ? files[i][1] : "");
        }
        yaml_write_end(w);
        yaml_write_end(w);
        yaml_write_end(w);
        return yaml_writer_finish(w);
}

int paste_print(enum paste_client client, const struct paste *paste, struct buf *ret) {
        static const struct flags flags[] = {
                [PASTE_KUBE_APISERVER] = {"",
                        "--etcd-servers=", "--etcd-cafile=", "--etcd-certfile=", "--etcd-keyfile=", "\n", "\n"},
                [PASTE_K3S] = {"k3s server", " \\\n  --datastore-endpoint=", " \\\n  --datastore-cafile=",
                        " \\\n  --datastore-certfile=", " \\\n  --datastore-keyfile=", "", "\n"},
                [PASTE_ETCDCTL] = {"", "export ETCDCTL_ENDPOINTS=", "export ETCDCTL_CACERT=", "export ETCDCTL_CERT=",
                        "export ETCDCTL_KEY=", "\n", "\n"},
        };
        cleanup(buf_done) struct buf endpoints = {};
        int r = 0;

        if (client == PASTE_KUBEADM)
                return print_kubeadm(paste, ret);
        for (size_t i = 0; i < paste->n_endpoints && r >= 0; i++)
                r = buf_printf(&endpoints, "%s%s", i ? "," : "", paste->endpoints[i]);
        if (r >= 0)
                r = buf_append(&endpoints, "", 1);
        return r < 0 ? r : print_flags(&flags[client], paste, (const char *)endpoints.data, ret);
}

/* ---- endpoints */

int paste_check_endpoint(const char *endpoint, struct error *reterr) {
        const char *host = endpoint + strlen(TLS), *port, *end;

        if (strncmp(endpoint, TLS, strlen(TLS)) != 0)
                return error_set(reterr, -EINVAL, "'%s' is not https://HOST:PORT", endpoint);
        port = strrchr(host, ':');
        end = *host == '[' ? strchr(host, ']') : NULL;
        if (!port || port == host ||
                (*host == '[' ? !end || end + 1 != port : memchr(host, ':', (size_t)(port - host)) != NULL) ||
                !port[1] || strlen(port + 1) > 5 || strspn(port + 1, "0123456789") != strlen(port + 1) ||
                strtoul(port + 1, NULL, 10) > 65535 ||
                strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:[]-_") != strlen(host))
                return error_set(reterr, -EINVAL, "'%s' is not https://HOST:PORT", endpoint);
        if (strncmp(host, "0.0.0.0:", 8) == 0 || strncmp(host, "[::]:", 5) == 0)
                return error_set(
                        reterr, -EINVAL, "'%s' is where the daemon listens, and nothing that can be dialled", endpoint);
        return 0;
}
