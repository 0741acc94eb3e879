#include <ctype.h>
#include <string.h>
#include <time.h>

#include "rpc/tls_inside.h"

/*
 * The policy of a server: its own certificate, the authorities, the rules, and OpenSSL's context made of them. Built on any thread, then
 * only read.
 */

#define WARN_BEFORE (7 * 24 * 3600)

/* With AES in hardware the first is the cheapest; clients that have none ask for ChaCha20 and get it. */
#define CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
#define CIPHERS_12                                                                                                     \
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"                     \
        "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"

/* What a client may send of certificates, bytes. */
#define MAX_CHAIN (32 * 1024)

int tls_context(const SSL_METHOD *method, SSL_CTX **ret, struct error *reterr) {
        SSL_CTX *ctx = SSL_CTX_new(method);

        tls_memory();
        if (!ctx)
                return error_set(reterr, -ENOMEM, "TLS: %s", tls_reason());
        SSL_CTX_set_security_level(ctx, 2);
        SSL_CTX_set_options(ctx,
                SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
                        SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF);
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE);
        /* A session that is resumed would bring a certificate which nobody has looked at again. */
        (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_max_cert_list(ctx, MAX_CHAIN);
        if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 || SSL_CTX_set_num_tickets(ctx, 0) != 1 ||
                SSL_CTX_set_ciphersuites(ctx, CIPHERS_13) != 1 || SSL_CTX_set_cipher_list(ctx, CIPHERS_12) != 1 ||
                SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") != 1) {
                SSL_CTX_free(ctx);
                return error_set(reterr, -EINVAL, "TLS: %s", tls_reason());
        }
        *ret = ctx;
        return 0;
}

/* Authorities. */

static void trust_done(struct tls_trust *trust) {
        for (size_t i = 0; i < trust->n_lists; i++)
                X509_CRL_free(trust->lists[i].crl);
        free(trust->lists);
        X509_STORE_free(trust->store);
        sk_X509_pop_free(trust->certificates, X509_free);
        free(trust->what);
}

/* The list is looked up by each handshake, so what can be told about it is told once. */
static int trust_add_list(struct tls_trust *trust, X509_CRL *crl, struct error *reterr) {
        struct tls_revocations *lists;
        X509 *signer = NULL;
        X509_REVOKED *none;

        for (int i = 0; i < sk_X509_num(trust->certificates) && !signer; i++) {
                X509 *x = sk_X509_value(trust->certificates, i);

                if (X509_NAME_cmp(X509_get_subject_name(x), X509_CRL_get_issuer(crl)) == 0 &&
                        X509_CRL_verify(crl, X509_get0_pubkey(x)) == 1)
                        signer = x;
        }
        ERR_clear_error();
        if (!signer)
                return error_set(
                        reterr, -EINVAL, "%s: a revocation list that none of its certificates has signed", trust->what);
        /* Of parts of a list, or of others' certificates: what they do not name would be taken for good. */
        if (X509_CRL_get_ext_by_critical(crl, 1, -1) >= 0)
                return error_set(reterr, -EINVAL,
                        "%s: a revocation list with a critical extension (an indirect, partial or delta list)",
                        trust->what);
        lists = reallocarray(trust->lists, trust->n_lists + 1, sizeof(*lists));
        if (!lists)
                return -ENOMEM;
        trust->lists = lists;
        trust->lists[trust->n_lists++] = (struct tls_revocations){crl, signer};
        X509_CRL_up_ref(crl);
        /* Looked at once, it is sorted. */
        (void)X509_CRL_get0_by_serial(crl, &none, X509_get_serialNumber(signer));
        return 0;
}

static int trust_init(struct tls_trust *trust, const struct tls_authority *from, size_t i, struct error *reterr) {
        struct stack_st_X509_CRL *lists = NULL;
        X509_VERIFY_PARAM *param;
        int r;

        r = from->what ? asprintf(&trust->what, "%s", from->what) : asprintf(&trust->what, "authority %zu", i);
        if (r < 0) {
                trust->what = NULL;
                return -ENOMEM;
        }
        r = tls_pem_certificates(from->certificates, trust->what, &trust->certificates, reterr);
        if (r < 0)
                return r;
        trust->store = X509_STORE_new();
        if (!trust->store)
                return -ENOMEM;
        for (int k = 0; k < sk_X509_num(trust->certificates); k++) {
                X509 *x = sk_X509_value(trust->certificates, k);
                char name[256];

                if (X509_check_ca(x) == 0)
                        return error_set(reterr, -EINVAL, "%s: %s is not a CA's certificate", trust->what,
                                X509_NAME_oneline(X509_get_subject_name(x), name, sizeof(name)));
                if (X509_STORE_add_cert(trust->store, x) != 1)
                        return error_set(reterr, -EINVAL, "%s: %s", trust->what, tls_reason());
        }
        param = X509_STORE_get0_param(trust->store);
        X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
        X509_VERIFY_PARAM_set_depth(param, 8);
        X509_VERIFY_PARAM_set_auth_level(param, 2);
        (void)X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_CLIENT);

        if (!from->revocations.size)
                return 0;
        r = tls_pem_revocations(from->revocations, trust->what, &lists, reterr);
        for (int k = 0; r == 0 && k < sk_X509_CRL_num(lists); k++)
                r = trust_add_list(trust, sk_X509_CRL_value(lists, k), reterr);
        sk_X509_CRL_pop_free(lists, X509_CRL_free);
        return r;
}

/* Rules. */

static int add_rule(struct tls_server *s, const struct tls_rule *rule, struct error *reterr) {
        struct tls_name *n = NULL;
        struct tls_way *way;

        if ((strncmp(rule->name, "CN:", 3) != 0 && strncmp(rule->name, "URI:", 4) != 0 &&
                    strncmp(rule->name, "DNS:", 4) != 0) ||
                !strchr(rule->name, ':')[1])
                return error_set(reterr, -EINVAL, "%s: not a name as CN:name, URI:uri or DNS:name", rule->name);
        if (rule->authority >= s->n_authorities || !rule->label[0])
                return error_set(reterr, -EINVAL, "%s: no such authority, or no label", rule->name);

        n = new0(struct tls_name);
        n->name = strdup(rule->name);
        if (!n->name) {
                free(n);
                return -ENOMEM;
        }
        if (strncmp(n->name, "DNS:", 4) == 0)
                for (char *p = n->name + 4; *p; p++)
                        *p = (char)tolower((unsigned char)*p);
        {
                struct tls_name *before = NULL;

                HASH_FIND_STR(s->names, n->name, before);
                if (before) {
                        free(n->name);
                        free(n);
                        n = before;
                } else
                        HASH_ADD_KEYPTR(hh, s->names, n->name, strlen(n->name), n);
        }
        for (way = n->way; way; way = way->next)
                if (way->authority == rule->authority) {
                        if (strcmp(way->label, rule->label) == 0)
                                return 0;
                        return error_set(reterr, -EEXIST, "%s: leads to %s and to %s under one authority", rule->name,
                                way->label, rule->label);
                }
        way = new0(struct tls_way);
        way->authority = rule->authority;
        way->next = n->way;
        n->way = way;
        way->label = strdup(rule->label);
        return way->label ? 0 : -ENOMEM;
}

/* Handshakes. */

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *n_out, const unsigned char *in, unsigned n_in,
        void *userdata) {
        static const unsigned char ours[] = "\x02h2\x08http/1.1";
        struct tls_transport *t = SSL_get_app_data(ssl);

        (void)userdata;
        if (SSL_select_next_proto((unsigned char **)out, n_out, ours, sizeof(ours) - 1, in, n_in) ==
                OPENSSL_NPN_NEGOTIATED)
                return SSL_TLSEXT_ERR_OK;
        if (t->shaking)
                t->shaking->refusal = TLS_REFUSAL_ALPN;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void server_free(struct tls_server *s) {
        struct tls_name *n, *next;

        SSL_CTX_free(s->ctx);
        for (size_t i = 0; i < s->n_authorities; i++)
                trust_done(&s->authorities[i]);
        free(s->authorities);
        HASH_ITER(hh, s->names, n, next) {
                HASH_DEL(s->names, n);
                while (n->way) {
                        struct tls_way *way = n->way;

                        n->way = way->next;
                        free(way->label);
                        free(way);
                }
                free(n->name);
                free(n);
        }
        free(s);
}

struct tls_server *tls_server_ref(struct tls_server *s) {
        atomic_fetch_add_explicit(&s->n_refs, 1, memory_order_relaxed);
        return s;
}

void tls_server_unref(struct tls_server *s) {
        if (s && atomic_fetch_sub_explicit(&s->n_refs, 1, memory_order_acq_rel) == 1)
                server_free(s);
}

int tls_server_new(const struct tls_server_config *config, struct tls_server **ret, struct error *reterr) {
        static atomic_uint_fast64_t serials;
        cleanup(tls_server_unrefp) struct tls_server *s = NULL;
        int r;

        s = new0(struct tls_server);
        s->n_refs = 1;
        s->serial = atomic_fetch_add(&serials, 1) + 1;
        r = tls_context(TLS_server_method(), &s->ctx, reterr);
        if (r < 0)
                return r;
        r = tls_pem_use(s->ctx, config->certificate, config->key, &s->not_after, reterr);
        if (r < 0)
                return r;
        s->authorities = calloc(config->n_authorities ? config->n_authorities : 1, sizeof(*s->authorities));
        if (!s->authorities)
                return -ENOMEM;
        for (size_t i = 0; i < config->n_authorities; i++) {
                s->n_authorities++;
                r = trust_init(&s->authorities[i], &config->authorities[i], i, reterr);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < config->n_rules; i++) {
                r = add_rule(s, &config->rules[i], reterr);
                if (r < 0)
                        return r;
        }
        /* The names of the authorities are not sent: they would tell one tenant of the others'. */
        SSL_CTX_set_verify(s->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        SSL_CTX_set_cert_verify_callback(s->ctx, tls_on_verify, NULL);
        SSL_CTX_set_alpn_select_cb(s->ctx, on_alpn, NULL);
        *ret = steal(s);
        return 0;
}

/* Warnings. */

static int warn(struct buf *out, size_t before, const char *what, const char *text) {
        return buf_printf(out, "%s%s %s", out->size > before ? "; " : "", what, text);
}

static int warn_of_time(struct buf *out, size_t before, const char *what, int64_t not_after) {
        int64_t left = not_after - (int64_t)time(NULL);

        if (left < 0)
                return warn(out, before, what, "has expired");
        return left < WARN_BEFORE ? warn(out, before, what, "expires within a week") : 0;
}

int tls_server_warnings(const struct tls_server *s, struct buf *out) {
        size_t before = out->size;
        int r;

        r = warn_of_time(out, before, "the certificate", s->not_after);
        for (size_t i = 0; r >= 0 && i < s->n_authorities; i++) {
                const struct tls_trust *trust = &s->authorities[i];

                for (int k = 0; r >= 0 && k < sk_X509_num(trust->certificates); k++) {
                        cleanup(freep) char *what = NULL;

                        if (asprintf(&what, "%s: CA certificate %d", trust->what, k + 1) < 0) {
                                what = NULL;
                                return -ENOMEM;
                        }
                        r = warn_of_time(
                                out, before, what, tls_time(X509_get0_notAfter(sk_X509_value(trust->certificates, k))));
                }
                for (size_t k = 0; r >= 0 && k < trust->n_lists; k++) {
                        const ASN1_TIME *next = X509_CRL_get0_nextUpdate(trust->lists[k].crl);

                        if (next && tls_time(next) < (int64_t)time(NULL))
                                r = warn(out, before, trust->what,
                                        "has a revocation list that is out of date; it is applied all the same");
                }
        }
        return r < 0 ? r : 0;
}

int64_t tls_server_not_after(const struct tls_server *s) {
        return s->not_after;
}
