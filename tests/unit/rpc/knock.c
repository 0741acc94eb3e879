#include "knock.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/metrics.h"

struct admitted {
        struct loop_task task;
        struct knock *knock;
        struct transport *transport;
};

static void accept_admitted(struct loop_task *task) {
        struct admitted *a = container_of(task, struct admitted, task);
        struct knock *k = a->knock;

        if (k->f.server && tls_transport_check(a->transport, k->policy, NULL) >= 0) {
                (void)snprintf(k->last_label, sizeof(k->last_label), "%s", tls_transport_peer(a->transport)->label);
                (void)grpc_server_accept_transport(k->f.server, a->transport);
        } else
                transport_free(a->transport);
        k->n_accepted++;
        free(a);
}

static void on_admitted(void *userdata, const char *label, struct transport *transport) {
        struct admitted *a = new0(struct admitted);

        check(strcmp(label, tls_transport_peer(transport)->label) == 0);
        a->knock = userdata;
        a->transport = transport;
        a->task.run = accept_admitted;
        a->knock->n_admitted++;
        loop_post(a->knock->f.loop, &a->task);
}

struct cert knock_cert(const struct cert *issuer, const char *cn, const char *names) {
        return cert_new(&(struct cert_wish){.issuer = issuer, .cn = cn, .names = names});
}

struct tls_server *knock_policy(struct knock *k, ...) {
        struct bytes common = cert_pem(&k->common, NULL), paris = cert_pem(&k->paris_ca, NULL);
        struct bytes certificate = cert_pem(&k->server, NULL), key = cert_key_pem(&k->server);
        struct tls_authority authorities[N_AUTHORITIES] = {
                {"common", common, k->revoked[AUTHORITY_COMMON]}, {"paris' own", paris, k->revoked[AUTHORITY_PARIS]}};
        struct tls_rule rules[32] = {{"CN:berlin", "berlin", AUTHORITY_COMMON},
                {"DNS:Berlin.example", "berlin", AUTHORITY_COMMON}, {"CN:munich", "munich", AUTHORITY_COMMON},
                {"URI:spiffe://x/paris", "paris", AUTHORITY_PARIS}, {"CN:shared", "paris", AUTHORITY_PARIS},
                {"CN:shared", "berlin", AUTHORITY_COMMON}};
        size_t n = 6;
        struct tls_server_config config = {certificate, key, authorities, N_AUTHORITIES, rules, 0};
        struct error err = {};
        struct tls_server *s;
        va_list args;

        va_start(args, k);
        while ((rules[n].name = va_arg(args, const char *))) {
                rules[n].label = va_arg(args, const char *);
                rules[n++].authority = (size_t)va_arg(args, int);
        }
        va_end(args);
        config.n_rules = n;
        if (tls_server_new(&config, &s, &err) < 0) {
                fprintf(stderr, "%s\n", error_text(&err));
                abort();
        }
        bytes_free(&common);
        bytes_free(&paris);
        bytes_free(&certificate);
        bytes_free(&key);
        return s;
}

static void apply_policy(struct fixture *f) {
        struct knock *k = container_of(f, struct knock, f);

        grpc_server_recheck(f->server, k->policy);
}

void knock_set_policy(struct knock *k, struct tls_server *policy) {
        struct tls_server *before = k->policy;

        door_set_policy(k->door, policy);
        k->policy = policy;
        fixture_run(&k->f, apply_policy);
        tls_server_unref(before);
}

void knock_start(struct knock *k, const struct door_limits *limits) {
        struct door_config config = {.address = "tls:127.0.0.1:0", .on_admitted = on_admitted, .userdata = k};
        struct error err = {};

        config.n_threads = k->n_threads ? k->n_threads : 1;
        *k = (struct knock){};
        k->common = cert_new(&(struct cert_wish){.cn = "common", .ca = true});
        k->paris_ca = cert_new(&(struct cert_wish){.cn = "paris", .ca = true});
        k->foreign_ca = cert_new(&(struct cert_wish){.cn = "foreign", .ca = true});
        k->server = knock_cert(&k->common, "server", "DNS:localhost,IP:127.0.0.1");
        k->berlin = knock_cert(&k->common, "berlin", NULL);
        k->paris = knock_cert(&k->paris_ca, NULL, "URI:spiffe://x/paris");
        k->policy = knock_policy(k, NULL);
        config.policy = k->policy;
        if (limits)
                config.limits = *limits;
        fixture_start(&k->f, NULL);
        if (door_new(&config, &k->door, &err) < 0) {
                fprintf(stderr, "%s\n", error_text(&err));
                abort();
        }
        (void)snprintf(k->address, sizeof(k->address), "%s", door_address(k->door));
        k->port = (unsigned short)atoi(strrchr(k->address, ':') + 1);
}

void knock_stop(struct knock *k) {
        door_free(k->door);
        check(fixture_wait(&k->n_accepted, k->n_admitted));
        fixture_stop(&k->f);
        tls_server_unref(k->policy);
        bytes_free(&k->revoked[0]);
        bytes_free(&k->revoked[1]);
        cert_done(&k->common);
        cert_done(&k->paris_ca);
        cert_done(&k->foreign_ca);
        cert_done(&k->server);
        cert_done(&k->berlin);
        cert_done(&k->paris);
}

struct tls_client *knock_client(struct knock *k, const struct cert *cert, const char *server_name) {
        struct bytes authorities = cert_pem(&k->common, NULL), certificate = {}, key = {};
        struct tls_client_config config = {.authorities = authorities, .server_name = server_name};
        struct error err = {};
        struct tls_client *c;

        if (cert) {
                config.certificate = certificate = cert_pem(cert, NULL);
                config.key = key = cert_key_pem(cert);
        }
        if (tls_client_new(&config, &c, &err) < 0) {
                fprintf(stderr, "%s\n", error_text(&err));
                abort();
        }
        bytes_free(&authorities);
        bytes_free(&certificate);
        bytes_free(&key);
        return c;
}

struct said {
        char *text;
        size_t size;
};

static void on_said(void *userdata, struct bytes data) {
        struct said *said = userdata;

        (void)snprintf(said->text, said->size, "%.*s", (int)data.size, (const char *)data.data);
}

enum grpc_code knock_call(struct knock *k, const struct cert *cert, char *text, size_t size) {
        struct tls_client *tls = knock_client(k, cert, NULL);
        struct said said = {text, size};
        struct error err = {};
        struct grpc_client *client;
        enum grpc_code code;
        struct loop *loop;

        check(loop_new("client", &loop) == 0);
        check(grpc_client_new_tls(loop, k->address, tls, &client, &err) == 0);
        code = grpc_client_unary(client, "/test.Echo/Peer", 5 * NSEC_PER_SEC, (struct bytes){}, on_said, &said, &err);
        if (code != GRPC_OK)
                (void)snprintf(text, size, "%s", error_text(&err));
        error_done(&err);
        grpc_client_free(client);
        tls_client_unref(tls);
        loop_free(loop);
        return code;
}

int knock_connect(const struct knock *k, const char *source) {
        struct sockaddr_in in = {.sin_family = AF_INET};
        struct timeval limit = {.tv_sec = 20};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        check(fd >= 0);
        if (source) {
                check(inet_pton(AF_INET, source, &in.sin_addr) == 1);
                check(bind(fd, (struct sockaddr *)&in, sizeof(in)) == 0);
        }
        in.sin_port = htons(k->port);
        in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        check(connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0);
        check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
        return fd;
}

static void on_info(const SSL *ssl, int where, int ret) {
        struct tls_end *e = SSL_get_app_data(ssl);

        if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT && (ret & 0xff) != SSL_AD_CLOSE_NOTIFY)
                e->alert = ret & 0xff;
}

bool tls_end_open(struct tls_end *e, const struct knock *k, const struct tls_wish *wish) {
        uint8_t byte;

        *e = (struct tls_end){.alert = -1, .ctx = SSL_CTX_new(TLS_client_method())};
        check(e->ctx);
        if (wish->version)
                check(SSL_CTX_set_min_proto_version(e->ctx, wish->version) == 1 &&
                        SSL_CTX_set_max_proto_version(e->ctx, wish->version) == 1);
        if (wish->cert)
                check(SSL_CTX_use_certificate(e->ctx, wish->cert->x) == 1 &&
                        SSL_CTX_use_PrivateKey(e->ctx, wish->cert->key) == 1);
        if (wish->chain)
                check(SSL_CTX_add1_chain_cert(e->ctx, wish->chain->x) == 1);
        if (wish->alpn)
                check(SSL_CTX_set_alpn_protos(
                              e->ctx, (const unsigned char *)wish->alpn, (unsigned)strlen(wish->alpn)) == 0);
        e->ssl = SSL_new(e->ctx);
        SSL_set_app_data(e->ssl, e);
        SSL_set_info_callback(e->ssl, on_info);
        e->fd = knock_connect(k, wish->source);
        check(SSL_set_fd(e->ssl, e->fd) == 1);
        if (SSL_connect(e->ssl) != 1)
                return false;
        /* With 1.3 the client is done before the server has seen its certificate. It answers what it does not understand of HTTP/1 at once. */
        if (SSL_version(e->ssl) == TLS1_3_VERSION) {
                const char *ask = "GET /health HTTP/1.1\r\n\r\n";

                return SSL_write(e->ssl, ask, (int)strlen(ask)) > 0 && SSL_peek(e->ssl, &byte, 1) == 1;
        }
        return true;
}

void tls_end_close(struct tls_end *e) {
        SSL_free(e->ssl);
        SSL_CTX_free(e->ctx);
        close(e->fd);
}

double knock_count(const char *result) {
        char labels[64];

        (void)snprintf(labels, sizeof(labels), "result=\"%s\"", result);
        return metric_get(metric_counter(
                "stokehold_tls_handshakes_total", "TLS handshakes that have ended, by their result", labels));
}
