#include <arpa/inet.h>
#include <string.h>
#include <sys/epoll.h>

#include "rpc/tls_inside.h"

/* The beginning of a connection that speaks TLS, on whichever side we are. One thread at a time. */

static const char *const refusal_names[TLS_REFUSAL_N] = {
        "ok", "protocol", "alpn", "no_certificate", "expired", "untrusted", "revoked", "unknown", "ambiguous", "lost"};

const char *tls_refusal_name(enum tls_refusal refusal) {
        return (unsigned)refusal < TLS_REFUSAL_N ? refusal_names[refusal] : "protocol";
}

static struct tls_transport *transport_new(int fd, SSL_CTX *ctx) {
        struct tls_transport *t = new0(struct tls_transport);

        t->transport = (struct transport){.ops = &tls_transport_ops, .fd = fd};
        t->shaking = new0(struct tls_shaking);
        t->ssl = SSL_new(ctx);
        if (t->ssl && tls_transport_attach(t) == 0)
                return t;
        SSL_free(t->ssl);
        free(t->shaking);
        free(t);
        return NULL;
}

struct transport *tls_accept_new(int fd, struct tls_server *policy) {
        struct tls_transport *t = transport_new(fd, policy->ctx);

        if (!t)
                return NULL;
        t->shaking->policy = tls_server_ref(policy);
        SSL_set_accept_state(t->ssl);
        return &t->transport;
}

static bool is_address(const char *host) {
        struct in6_addr room;

        return inet_pton(AF_INET, host, &room) == 1 || inet_pton(AF_INET6, host, &room) == 1;
}

struct transport *tls_connect_new(int fd, struct tls_client *client, const char *host) {
        struct tls_transport *t = transport_new(fd, client->ctx);
        X509_VERIFY_PARAM *param;
        bool ok;

        if (!t)
                return NULL;
        t->shaking->client = tls_client_ref(client);
        if (client->server_name)
                host = client->server_name;
        param = SSL_get0_param(t->ssl);
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        ok = is_address(host)
                ? X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1
                : X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 && SSL_set_tlsext_host_name(t->ssl, host) == 1;
        if (!ok) {
                t->transport.fd = -EBADF; /* not taken over */
                transport_free(&t->transport);
                return NULL;
        }
        SSL_set_connect_state(t->ssl);
        return &t->transport;
}

static enum tls_refusal refusal_of(const struct tls_transport *t, unsigned long code) {
        int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;

        if (t->shaking->refusal != TLS_REFUSAL_NONE)
                return t->shaking->refusal;
        if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
                return TLS_REFUSAL_NO_CERTIFICATE;
        /* Alerts that the peer sent, or nothing but the end. */
        if (reason >= SSL_AD_REASON_OFFSET || !code || t->hung_up)
                return TLS_REFUSAL_LOST;
        return TLS_REFUSAL_PROTOCOL;
}

/* It failed: why, in words. */
static int fail(struct tls_transport *t, int r, enum tls_refusal *refusal, struct error *reterr) {
        unsigned long code = ERR_peek_last_error();
        long verified = SSL_get_verify_result(t->ssl);
        enum tls_refusal why = refusal_of(t, code);

        r = tls_transport_fate(t, r);
        (void)tls_transport_hold(t); /* an alert: tls_alert() */
        t->n_given = 0;
        SSL_free(t->ssl); /* what waits to be told of a refusal costs little */
        t->ssl = NULL;
        if (refusal)
                *refusal = why;
        if (t->shaking->err.text) {
                (void)error_set(reterr, -EACCES, "%s", t->shaking->err.text);
                return -EACCES;
        }
        if (!t->shaking->policy && verified != X509_V_OK)
                return error_set(
                        reterr, -EPROTO, "the server's certificate: %s", X509_verify_cert_error_string(verified));
        if (why == TLS_REFUSAL_ALPN)
                return error_set(reterr, -EPROTO, "it offers neither h2 nor http/1.1");
        if (why == TLS_REFUSAL_NO_CERTIFICATE)
                return error_set(reterr, -EPROTO, "it has sent no certificate");
        return error_set(reterr, -EPROTO, "%s", t->error ? t->error : "the connection was closed");
}

static int finish(struct tls_transport *t, struct error *reterr) {
        struct tls_shaking *s = t->shaking;

        if (!s->policy && strcmp(tls_transport_protocol(&t->transport), "h2") != 0)
                return error_set(reterr, -EPROTO, "the server does not speak h2 (ALPN)");
        if (s->policy && !t->identity)
                return error_set(reterr, -EPROTO, "it has sent no certificate");
        t->shaking = NULL;
        tls_server_unref(s->policy);
        tls_client_unref(s->client);
        error_done(&s->err);
        free(s);
        return tls_transport_keep(t) < 0 ? -ENOMEM : 1;
}

int tls_handshake(struct transport *transport, uint32_t *events, enum tls_refusal *refusal, struct error *reterr) {
        struct tls_transport *t = tls_of(transport);
        int r, filled = 1;

        if (refusal)
                *refusal = TLS_REFUSAL_LOST;
        if (t->n_out) {
                r = tls_transport_flush(t);
                if (r < 0)
                        return error_set(reterr, r, "%s", strerror(-r));
                if (r == 0) {
                        *events = EPOLLOUT;
                        return 0;
                }
        }
        for (;;) {
                ERR_clear_error();
                r = SSL_do_handshake(t->ssl);
                if (r != 1 && SSL_get_error(t->ssl, r) != SSL_ERROR_WANT_READ)
                        return fail(t, r, refusal, reterr);
                filled = tls_transport_flush(t);
                if (filled < 0)
                        return error_set(reterr, filled, "%s", strerror(-filled));
                if (r == 1)
                        return finish(t, reterr);
                if (filled == 0) {
                        *events = EPOLLOUT;
                        return 0;
                }
                filled = tls_transport_fill(t, SIZE_MAX);
                if (filled == -EAGAIN) {
                        *events = EPOLLIN;
                        return 0;
                }
                if (filled < 0)
                        return error_set(reterr, filled, "%s", strerror(-filled));
        }
}

void tls_alert(struct transport *transport) {
        (void)tls_transport_flush(tls_of(transport));
}
