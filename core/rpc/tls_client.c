#include <string.h>

#include "rpc/tls_inside.h"

/* As whom we go out, and whom we trust there. Built on any thread, then only read. */

static void client_free(struct tls_client *c) {
        SSL_CTX_free(c->ctx);
        free(c->server_name);
        free(c);
}

struct tls_client *tls_client_ref(struct tls_client *c) {
        atomic_fetch_add_explicit(&c->n_refs, 1, memory_order_relaxed);
        return c;
}

void tls_client_unref(struct tls_client *c) {
        if (c && atomic_fetch_sub_explicit(&c->n_refs, 1, memory_order_acq_rel) == 1)
                client_free(c);
}

static int trust(struct tls_client *c, struct bytes pem, struct error *reterr) {
        X509_STORE *store = SSL_CTX_get_cert_store(c->ctx);
        struct stack_st_X509 *list = NULL;
        int r;

        X509_VERIFY_PARAM_set_flags(X509_STORE_get0_param(store), X509_V_FLAG_PARTIAL_CHAIN);
        if (!pem.size)
                return SSL_CTX_set_default_verify_paths(c->ctx) == 1
                        ? 0
                        : error_set(reterr, -EINVAL, "the system's authorities: %s", tls_reason());
        r = tls_pem_certificates(pem, "authorities", &list, reterr);
        if (r < 0)
                return r;
        for (int i = 0; r == 0 && i < sk_X509_num(list); i++)
                if (X509_STORE_add_cert(store, sk_X509_value(list, i)) != 1)
                        r = error_set(reterr, -EINVAL, "authorities: %s", tls_reason());
        sk_X509_pop_free(list, X509_free);
        return r;
}

int tls_client_new(const struct tls_client_config *config, struct tls_client **ret, struct error *reterr) {
        static const unsigned char h2[] = "\x02h2";
        cleanup(tls_client_unrefp) struct tls_client *c = NULL;
        int r;

        c = new0(struct tls_client);
        c->n_refs = 1;
        r = tls_context(TLS_client_method(), &c->ctx, reterr);
        if (r < 0)
                return r;
        r = trust(c, config->authorities, reterr);
        if (r < 0)
                return r;
        if (config->certificate.size || config->key.size) {
                r = tls_pem_use(c->ctx, config->certificate, config->key, NULL, reterr);
                if (r < 0)
                        return r;
        }
        if (config->server_name) {
                c->server_name = strdup(config->server_name);
                if (!c->server_name)
                        return -ENOMEM;
        }
        SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
        if (SSL_CTX_set_alpn_protos(c->ctx, h2, sizeof(h2) - 1) != 0)
                return -ENOMEM;
        *ret = steal(c);
        return 0;
}
