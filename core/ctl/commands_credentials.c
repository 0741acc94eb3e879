/*
 * stokectl tenant credentials: a certificate by which a client is a tenant's, and what to paste. The key is made here and stays here: the daemon sees
 * a request. All that is printed around what is to be pasted are comments, so that the whole can go into a file or a shell.
 */

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stokehold/control.pb-c.h>

#include "ctl/ctl.h"
#include "ctl/files.h"
#include "ctl/output.h"
#include "ctl/paste.h"
#include "ctl/tenant.h"
#include "rpc/certificate.h"

#define REQUEST_MAX 65536
#define AUTHORITY_FILE "ca.crt"
#define CERTIFICATE_FILE "client.crt"
#define KEY_FILE "client.key"

struct credentials {
        struct ctl *ctl;
        enum paste_client client;
        const Stokehold__Control__V1__Tenant *tenant;
        const char **endpoints; /* owned: the array */
        struct paste paste;
        char *paths[3]; /* owned */
        struct buf key; /* empty: the client has it */
        struct buf request;
        const Stokehold__Control__V1__IssueCredentialsResponse *response; /* NULL: without TLS */
};

static void credentials_done(struct credentials *c) {
        free(c->endpoints);
        for (size_t i = 0; i < n_elements(c->paths); i++)
                free(c->paths[i]);
        key_done(&c->key);
        buf_done(&c->request);
}

static struct bytes bytes_in(const struct buf *b) {
        return bytes_of(b->data, b->size);
}

static bool is_tls(const char *endpoint) {
        return strncmp(endpoint, "https://", 8) == 0;
}

/* ---- where it is */

/* What was given on the command line, or what the daemon says. Empty: there is no TLS port. */
static int find_endpoints(struct credentials *c) {
        const struct ctl *ctl = c->ctl;
        size_t n_given = ctl->n_endpoints, n_known = c->tenant->n_endpoints;
        cleanup(error_done) struct error why = {};

        c->endpoints = xcalloc(n_given + n_known, sizeof(*c->endpoints));
        c->paste.endpoints = c->endpoints;
        for (size_t i = 0; i < n_given; i++) {
                if (paste_check_endpoint(ctl->endpoints[i], &why) < 0)
                        return ctl_fail(CTL_USAGE, "--endpoint: %s", error_text(&why));
                c->endpoints[c->paste.n_endpoints++] = ctl->endpoints[i];
        }
        for (size_t i = 0; i < n_known && n_given == 0; i++) {
                const char *endpoint = c->tenant->endpoints[i];

                if (!is_tls(endpoint))
                        continue;
                if (paste_check_endpoint(endpoint, &why) < 0)
                        return ctl_fail(CTL_USAGE,
                                "%s; say --endpoint https://HOST:PORT, or set tls.advertise in stokehold.yaml",
                                error_text(&why));
                c->endpoints[c->paste.n_endpoints++] = endpoint;
        }
        return CTL_OK;
}

/* Without a TLS port: the Unix socket, or TCP on loopback, where no certificate is needed. */
static int find_plain_endpoint(struct credentials *c) {
        const struct ctl *ctl = c->ctl;

        if (ctl->csr || ctl->days || ctl->directory)
                return ctl_fail(CTL_CONFLICT,
                        "this daemon has no TLS port, so that no certificate is needed (tls in stokehold.yaml; see stokectl authority create --help)");
        for (size_t i = 0; i < c->tenant->n_endpoints && c->paste.n_endpoints == 0; i++)
                if (paste_client_takes(c->client, c->tenant->endpoints[i]))
                        c->endpoints[c->paste.n_endpoints++] = c->tenant->endpoints[i];
        if (c->paste.n_endpoints)
                return CTL_OK;
        return ctl_fail(CTL_CONFLICT,
                "%s takes https:// or http:// only, and this daemon has no TLS port (tls in stokehold.yaml; see stokectl authority create --help), nor the tenant a port on loopback (spec.endpoint.tcp)",
                paste_client_name(c->client));
}

/* ---- what to show, and what comes back */

static int make_request(struct credentials *c) {
        cleanup(error_done) struct error why = {};

        if (c->ctl->csr)
                return ctl_file_read(c->ctl->csr, REQUEST_MAX, &c->request);
        if (key_make(&c->key, &why) < 0 ||
                certificate_request_make(bytes_in(&c->key), c->tenant->name, &c->request, &why) < 0)
                return ctl_fail(CTL_FAILED, "%s", error_text(&why));
        return CTL_OK;
}

static int issue(struct credentials *c) {
        Stokehold__Control__V1__IssueCredentialsRequest request =
                STOKEHOLD__CONTROL__V1__ISSUE_CREDENTIALS_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        check(buf_append(&c->request, "", 1) >= 0);
        request.name = c->tenant->name;
        request.request = (char *)c->request.data;
        request.days = c->ctl->days;
        r = ctl_call(c->ctl, "IssueCredentials", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__issue_credentials_response__descriptor, &m);
        if (r == CTL_OK)
                c->response = (const void *)m;
        return r;
}

/* ---- files */

static struct ctl_files files_of(const struct credentials *c, struct ctl_file files[3]) {
        const char *authority = c->response ? c->response->server_authority : "";
        struct ctl_files ret = {.directory = c->ctl->directory, .directory_mode = 0700, .files = files};

        /* The key first: one without its certificate is of no use to anybody. */
        if (c->key.size)
                files[ret.n_files++] = (struct ctl_file){KEY_FILE, bytes_in(&c->key), 0600};
        files[ret.n_files++] =
                (struct ctl_file){CERTIFICATE_FILE, bytes_of_string(c->response ? c->response->certificate : ""), 0644};
        if (!c->response || *authority)
                files[ret.n_files++] = (struct ctl_file){AUTHORITY_FILE, bytes_of_string(authority), 0644};
        return ret;
}

static int may_write(const struct credentials *c) {
        struct ctl_file files[3];
        struct ctl_files all = files_of(c, files);
        const char *present = ctl_files_present(&all);

        return present ? ctl_files_may_replace(c->ctl->directory, present, c->ctl->yes) : CTL_OK;
}

static int write_files(struct credentials *c) {
        struct ctl_file files[3];
        struct ctl_files all = files_of(c, files);
        char *directory;
        int r;

        r = ctl_files_write(&all);
        if (r != CTL_OK)
                return r;
        /* What is pasted must hold wherever it is pasted. */
        directory = realpath(c->ctl->directory, NULL);
        if (!directory)
                return ctl_fail(CTL_FAILED, "%s: %s", c->ctl->directory, strerror(errno));
        c->paths[0] = ctl_path(directory, AUTHORITY_FILE);
        c->paths[1] = ctl_path(directory, CERTIFICATE_FILE);
        c->paths[2] = ctl_path(directory, KEY_FILE);
        free(directory);
        c->paste.authority = c->paths[0];
        c->paste.certificate = c->paths[1];
        c->paste.key = c->paths[2];
        return CTL_OK;
}

/* The key's place is known to whoever made the request; a file beside it that is called alike is a good guess. */
static void guess_key(struct credentials *c) {
        const char *dot = strrchr(c->ctl->csr, '.'), *slash = strrchr(c->ctl->csr, '/');
        size_t n = dot && (!slash || dot > slash) ? (size_t)(dot - c->ctl->csr) : strlen(c->ctl->csr);
        cleanup(freep) char *path = NULL;
        char *real;

        check(asprintf(&path, "%.*s.key", (int)n, c->ctl->csr) >= 0);
        real = realpath(path, NULL);
        free(c->paths[2]);
        c->paths[2] = real ? real : strdup("/PATH/OF/THE/KEY");
        check(c->paths[2]);
        c->paste.key = c->paths[2];
}

/* ---- what is printed */

static void print_comments(const struct credentials *c) {
        const Stokehold__Control__V1__IssueCredentialsResponse *response = c->response;

        printf("# Tenant %s, for %s.", c->tenant->name, paste_client_name(c->client));
        if (!response) {
                printf(" No certificate is needed %s.\n",
                        strncmp(c->endpoints[0], "unix:", 5) == 0 ? "on its Unix socket" : "on loopback");
                return;
        }
        printf(" Certificate %s, until %s%s.\n", response->serial, response->not_after,
                response->shortened ? ", when that of the authority ends" : "");
        if (c->ctl->directory) {
                printf("# Written: %s", c->paste.certificate);
                if (c->key.size)
                        printf(", %s", KEY_FILE);
                puts(*response->server_authority ? ", " AUTHORITY_FILE : "");
        }
        if (!*response->server_authority)
                printf("# The daemon does not know what its own certificate is to be checked with (tls.serverCA in\n"
                       "# stokehold.yaml): put that authority's certificate into %s.\n",
                        c->paste.authority);
        if (c->client == PASTE_KUBEADM)
                puts("# kubeadm before 1.31: kubeadm.k8s.io/v1beta3, all else is the same.");
}

static void print_pem(const char *path, const char *text, size_t size) {
        printf("\n# To be saved as %s:\n%.*s", path, (int)size, text);
}

static void print(const struct credentials *c, const char *paste) {
        print_comments(c);
        output_document(paste);
        if (!c->response || c->ctl->directory)
                return;
        if (*c->response->server_authority)
                print_pem(c->paste.authority, c->response->server_authority, strlen(c->response->server_authority));
        print_pem(c->paste.certificate, c->response->certificate, strlen(c->response->certificate));
        if (c->key.size)
                print_pem(c->paste.key, (const char *)c->key.data, c->key.size);
}

static json_t *json_of(const struct credentials *c, const char *paste) {
        const Stokehold__Control__V1__IssueCredentialsResponse *response = c->response;
        json_t *root = json_object(), *endpoints = json_array(), *files;

        check(root && endpoints);
        json_object_set_new(root, "tenant", json_string(c->tenant->name));
        json_object_set_new(root, "for", json_string(paste_client_name(c->client)));
        for (size_t i = 0; i < c->paste.n_endpoints; i++)
                json_array_append_new(endpoints, json_string(c->endpoints[i]));
        json_object_set_new(root, "endpoints", endpoints);
        if (response) {
                json_object_set_new(root, "serial", json_string(response->serial));
                json_object_set_new(root, "clientName", json_string(response->client_name));
                json_object_set_new(root, "notAfter", json_string(response->not_after));
                json_object_set_new(root, "shortened", json_boolean(response->shortened));
                json_object_set_new(root, "authority", json_string(response->server_authority));
                json_object_set_new(root, "certificate", json_string(response->certificate));
                /* It is in its file, and in no log of a script. */
                if (c->key.size && !c->ctl->directory)
                        json_object_set_new(root, "key", json_stringn((const char *)c->key.data, c->key.size));
        }
        if (c->ctl->directory) {
                files = json_object();
                check(files);
                json_object_set_new(files, "authority", json_string(c->paste.authority));
                json_object_set_new(files, "certificate", json_string(c->paste.certificate));
                json_object_set_new(files, "key", json_string(c->paste.key));
                json_object_set_new(root, "files", files);
        }
        json_object_set_new(root, "paste", json_string(paste));
        return root;
}

static int show(struct credentials *c) {
        cleanup(buf_done) struct buf paste = {};
        const char *text;

        if (paste_print(c->client, &c->paste, &paste) < 0 || buf_append(&paste, "", 1) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");
        text = (const char *)paste.data;
        if (c->ctl->format == FORMAT_JSON)
                output_json(json_of(c, text));
        else if (c->ctl->format == FORMAT_YAML)
                output_yaml(json_of(c, text));
        else
                print(c, text);
        return CTL_OK;
}

static int run_credentials(struct ctl *ctl) {
        cleanup(credentials_done) struct credentials c = {.ctl = ctl};
        const Stokehold__Control__V1__ListTenantsResponse *l;
        int r;

        if (!ctl->client_kind)
                return ctl_fail(CTL_USAGE, "tenant credentials needs --for kube-apiserver, kubeadm, k3s or etcdctl");
        if (paste_client_parse(ctl->client_kind, &c.client) < 0)
                return ctl_fail(
                        CTL_USAGE, "--for: '%s' is none of kube-apiserver, kubeadm, k3s, etcdctl", ctl->client_kind);
        r = tenant_fetch(ctl, ctl->args[0], &l);
        if (r != CTL_OK)
                return r;
        c.tenant = l->tenants[0];
        r = find_endpoints(&c);
        if (r != CTL_OK)
                return r;
        if (c.paste.n_endpoints == 0) {
                r = find_plain_endpoint(&c);
                return r == CTL_OK ? show(&c) : r;
        }

        r = make_request(&c);
        /* Before a certificate is asked for which could not be kept. */
        if (r == CTL_OK && ctl->directory)
                r = may_write(&c);
        if (r == CTL_OK)
                r = issue(&c);
        if (r != CTL_OK)
                return r;
        paste_conventional_paths(c.client, &c.paste);
        if (ctl->directory)
                r = write_files(&c);
        if (r != CTL_OK)
                return r;
        if (ctl->csr)
                guess_key(&c);
        return show(&c);
}

const struct ctl_command ctl_commands_credentials[] = {
        {"tenant", "credentials", "NAME", "Issue a client certificate, and print what to paste",
                "For a daemon with tls.authority in its settings. The key is made here and shown to nobody, also not to the\n"
                "daemon. With --directory, ca.crt, client.crt and client.key are written there; otherwise they are printed.\n"
                "What stands around the lines to paste are comments. Where the daemon has no TLS port, prints how the\n"
                "tenant is reached on its Unix socket, which needs no certificate.\n",
                1, 1,
                OPTION_FORMAT | OPTION_FOR | OPTION_DIRECTORY | OPTION_DAYS | OPTION_CSR | OPTION_ENDPOINT | OPTION_YES,
                run_credentials},
        {},
};
