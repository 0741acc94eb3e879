#include <ctype.h>
#include <string.h>
#include <time.h>

#include "rpc/tls_inside.h"

/*
 * Whether a client's certificate is let in, and as whom: the rules with its names say which authorities could vouch for it, and each of these
 * is asked on its own, so that none can vouch for, shadow or disturb another's. Any thread; reads the policy only.
 */

#define MOST_NAMES 64
/* Authorities that are asked for one certificate. Those that cannot be its issuer, by name and key identifier, are not. */
#define MOST_ASKED 16

struct names {
        struct buf text; /* each ended by NUL */
        size_t n;
        bool odd; /* too many, or of bytes that no name has */
};

static void names_add(struct names *names, const char *kind, const uint8_t *data, size_t size) {
        if (names->n == MOST_NAMES || !size || size > 1024) {
                names->odd = names->odd || size != 0;
                return;
        }
        for (size_t i = 0; i < size; i++)
                if (data[i] < 0x20 || data[i] == 0x7f) {
                        names->odd = true;
                        return;
                }
        if (buf_append_string(&names->text, kind) < 0 || buf_append(&names->text, data, size) < 0 ||
                buf_append(&names->text, "", 1) < 0) {
                names->odd = true;
                return;
        }
        if (strcmp(kind, "DNS:") == 0)
                for (size_t i = names->text.size - size - 1; i < names->text.size; i++)
                        names->text.data[i] = (uint8_t)tolower(names->text.data[i]);
        names->n++;
}

static void names_of(X509 *leaf, struct names *names) {
        X509_NAME *subject = X509_get_subject_name(leaf);
        GENERAL_NAMES *alternative;
        int critical = 0;

        buf_init(&names->text, 128 * 1024);
        for (int i = -1; (i = X509_NAME_get_index_by_NID(subject, NID_commonName, i)) >= 0;) {
                unsigned char *utf8 = NULL;
                int n = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, i)));

                if (n >= 0)
                        names_add(names, "CN:", utf8, (size_t)n);
                else
                        names->odd = true;
                OPENSSL_free(utf8);
        }
        alternative = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);
        if (!alternative && critical != -1)
                names->odd = true; /* there is one, which cannot be read, or several */
        for (int i = 0; i < sk_GENERAL_NAME_num(alternative); i++) {
                const GENERAL_NAME *name = sk_GENERAL_NAME_value(alternative, i);
                int kind = 0;
                const ASN1_STRING *text = GENERAL_NAME_get0_value(name, &kind);

                if (kind == GEN_URI || kind == GEN_DNS)
                        names_add(names, kind == GEN_URI ? "URI:" : "DNS:", ASN1_STRING_get0_data(text),
                                (size_t)ASN1_STRING_length(text));
        }
        GENERAL_NAMES_free(alternative);
        ERR_clear_error();
}

/* For logs: the first few. */
static const char *names_print(const struct names *names, char *out, size_t size) {
        const char *p = (const char *)names->text.data;
        size_t n = 0;

        out[0] = '\0';
        for (size_t i = 0; i < names->n && n < size; i++, p += strlen(p) + 1)
                n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", p);
        return names->n ? out : "none";
}

/* Could it have signed one of them? Cheap, and only to leave out those that could not. */
static bool could_vouch(const struct tls_trust *trust, X509 *leaf, struct stack_st_X509 *chain) {
        for (int i = 0; i < sk_X509_num(trust->certificates); i++) {
                X509 *ca = sk_X509_value(trust->certificates, i);

                if (X509_check_issued(ca, leaf) == X509_V_OK)
                        return true;
                for (int k = 0; k < sk_X509_num(chain) && k < 16; k++)
                        if (X509_check_issued(ca, sk_X509_value(chain, k)) == X509_V_OK)
                                return true;
        }
        return false;
}

static bool same_key(X509 *a, X509 *b) {
        const ASN1_BIT_STRING *x = X509_get0_pubkey_bitstr(a), *y = X509_get0_pubkey_bitstr(b);

        return ASN1_STRING_cmp(x, y) == 0;
}

static bool is_on_list(const struct tls_revocations *list, X509 *x) {
        X509_REVOKED *entry = NULL;

        return X509_NAME_cmp(X509_CRL_get_issuer(list->crl), X509_get_issuer_name(x)) == 0 &&
                X509_CRL_get0_by_cert(list->crl, &entry, x) == 1;
}

static bool is_revoked_by(const struct tls_trust *trust, X509 *x, X509 *issuer) {
        for (size_t i = 0; i < trust->n_lists; i++)
                if (same_key(issuer, trust->lists[i].signer) && is_on_list(&trust->lists[i], x))
                        return true;
        return false;
}

/* That of the authority's own certificates which has signed this one. */
static X509 *find_issuer(const struct tls_trust *trust, X509 *x) {
        for (int i = 0; i < sk_X509_num(trust->certificates); i++) {
                X509 *ca = sk_X509_value(trust->certificates, i);

                if (X509_check_issued(ca, x) == X509_V_OK && X509_verify(x, X509_get0_pubkey(ca)) == 1)
                        return ca;
        }
        return NULL;
}

/* What is verified ends with the first certificate that is trusted as it is. Where one above it is, too, that one's list is heard about it. */
static bool is_revoked(const struct tls_trust *trust, struct stack_st_X509 *verified) {
        int n = sk_X509_num(verified);
        X509 *x, *issuer;

        if (!trust->n_lists || !n)
                return false;
        for (int i = 0; i + 1 < n; i++)
                if (is_revoked_by(trust, sk_X509_value(verified, i), sk_X509_value(verified, i + 1)))
                        return true;
        x = sk_X509_value(verified, n - 1);
        for (unsigned depth = 0; depth < 8 && (issuer = find_issuer(trust, x)) && issuer != x; depth++) {
                if (is_revoked_by(trust, x, issuer))
                        return true;
                x = issuer;
        }
        return false;
}

/* One authority. */
static enum tls_refusal ask(const struct tls_trust *trust, X509 *leaf, struct stack_st_X509 *chain, int64_t *not_after,
        char *why, size_t size) {
        X509_STORE_CTX *ctx = X509_STORE_CTX_new();
        enum tls_refusal refusal = TLS_REFUSAL_UNTRUSTED;

        if (!ctx || X509_STORE_CTX_init(ctx, trust->store, leaf, chain) != 1)
                (void)snprintf(why, size, "out of memory");
        else if (X509_verify_cert(ctx) != 1) {
                int error = X509_STORE_CTX_get_error(ctx);

                (void)snprintf(why, size, "%s: %s", trust->what, X509_verify_cert_error_string(error));
                if (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID)
                        refusal = TLS_REFUSAL_EXPIRED;
        } else if (is_revoked(trust, X509_STORE_CTX_get0_chain(ctx))) {
                (void)snprintf(why, size, "%s: revoked", trust->what);
                refusal = TLS_REFUSAL_REVOKED;
        } else {
                struct stack_st_X509 *verified = X509_STORE_CTX_get0_chain(ctx);

                *not_after = INT64_MAX;
                for (int i = 0; i < sk_X509_num(verified); i++) {
                        int64_t end = tls_time(X509_get0_notAfter(sk_X509_value(verified, i)));

                        *not_after = min_of(*not_after, end);
                }
                refusal = TLS_REFUSAL_NONE;
        }
        X509_STORE_CTX_free(ctx);
        ERR_clear_error();
        return refusal;
}

struct asking {
        const struct tls_server *server;
        X509 *leaf;
        struct stack_st_X509 *chain;
        struct {
                size_t authority;
                enum tls_refusal refusal;
                int64_t not_after;
        } asked[MOST_ASKED];
        size_t n_asked;
        bool too_many;
        char why[384];
        enum tls_refusal worst; /* of those that could vouch; UNTRUSTED if none could */
};

static enum tls_refusal ask_once(struct asking *a, size_t authority, int64_t *not_after) {
        const struct tls_trust *trust = &a->server->authorities[authority];

        for (size_t i = 0; i < a->n_asked; i++)
                if (a->asked[i].authority == authority) {
                        *not_after = a->asked[i].not_after;
                        return a->asked[i].refusal;
                }
        if (!could_vouch(trust, a->leaf, a->chain))
                return TLS_REFUSAL_UNTRUSTED;
        if (a->n_asked == MOST_ASKED) {
                a->too_many = true;
                return TLS_REFUSAL_UNTRUSTED;
        }
        a->asked[a->n_asked].authority = authority;
        a->asked[a->n_asked].not_after = 0;
        a->asked[a->n_asked].refusal =
                ask(trust, a->leaf, a->chain, &a->asked[a->n_asked].not_after, a->why, sizeof(a->why));
        *not_after = a->asked[a->n_asked].not_after;
        if (a->asked[a->n_asked].refusal != TLS_REFUSAL_NONE && a->worst == TLS_REFUSAL_UNTRUSTED)
                a->worst = a->asked[a->n_asked].refusal;
        return a->asked[a->n_asked++].refusal;
}

/* No rule has its names: whether it is one of ours all the same is for the log. */
static void judge_unknown(struct asking *a, const struct names *names, struct tls_verdict *ret, struct error *reterr) {
        char text[256];
        int64_t not_after;

        for (size_t i = 0; i < a->server->n_authorities && !a->too_many; i++)
                if (ask_once(a, i, &not_after) == TLS_REFUSAL_NONE) {
                        ret->refusal = TLS_REFUSAL_UNKNOWN;
                        (void)error_set(reterr, -EACCES, "no rule has one of its names (%s); it is of %s",
                                names_print(names, text, sizeof(text)), a->server->authorities[i].what);
                        return;
                }
        ret->refusal = TLS_REFUSAL_UNTRUSTED;
        (void)error_set(reterr, -EACCES, "of no known authority, and no rule has one of its names (%s)",
                names_print(names, text, sizeof(text)));
}

static void judge(struct asking *a, const struct names *names, struct tls_verdict *ret, struct error *reterr) {
        const char *p = (const char *)names->text.data;
        bool known = false;
        char text[256];

        for (size_t i = 0; i < names->n; i++, p += strlen(p) + 1) {
                const struct tls_name *name = NULL;

                HASH_FIND_STR(a->server->names, p, name);
                for (const struct tls_way *way = name ? name->way : NULL; way; way = way->next) {
                        int64_t not_after = 0;

                        known = true;
                        if (ask_once(a, way->authority, &not_after) != TLS_REFUSAL_NONE)
                                continue;
                        if (ret->label && strcmp(ret->label, way->label) != 0) {
                                ret->refusal = TLS_REFUSAL_AMBIGUOUS;
                                (void)error_set(reterr, -EACCES, "its names lead to %s (%s) and to %s (%s)", ret->label,
                                        ret->name, way->label, name->name);
                                return;
                        }
                        if (!ret->label)
                                *ret = (struct tls_verdict){
                                        .label = way->label, .name = name->name, .not_after = not_after};
                }
        }
        if (ret->label)
                return;
        if (!known) {
                judge_unknown(a, names, ret, reterr);
                return;
        }
        ret->refusal = a->worst;
        names_print(names, text, sizeof(text));
        if (a->why[0])
                (void)error_set(reterr, -EACCES, "%s (%s)", a->why, text);
        else
                (void)error_set(reterr, -EACCES, "not of the authority that its names belong to (%s)%s", text,
                        a->too_many ? ": too many have its issuer's name" : "");
}

void tls_verify(const struct tls_server *s, X509 *leaf, struct stack_st_X509 *chain, struct tls_verdict *ret,
        struct error *reterr) {
        struct asking a = {.server = s, .leaf = leaf, .chain = chain, .worst = TLS_REFUSAL_UNTRUSTED};
        int64_t now = (int64_t)time(NULL);
        struct names names = {};
        char text[256];

        *ret = (struct tls_verdict){};
        names_of(leaf, &names);
        /* Before all else, so that it says nothing about the rules. */
        if (tls_time(X509_get0_notAfter(leaf)) < now || tls_time(X509_get0_notBefore(leaf)) > now) {
                ret->refusal = TLS_REFUSAL_EXPIRED;
                ret->own_fault = true;
                (void)error_set(reterr, -EACCES, "the certificate (%s) %s", names_print(&names, text, sizeof(text)),
                        tls_time(X509_get0_notAfter(leaf)) < now ? "has expired" : "is not valid yet");
        } else if (names.odd) {
                ret->refusal = TLS_REFUSAL_UNTRUSTED;
                (void)error_set(
                        reterr, -EACCES, "a certificate with more than %d names, or malformed ones", MOST_NAMES);
        } else
                judge(&a, &names, ret, reterr);
        if (ret->refusal != TLS_REFUSAL_NONE)
                ret->label = ret->name = NULL;
        buf_done(&names.text);
}

int tls_on_verify(X509_STORE_CTX *ctx, void *userdata) {
        SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
        struct tls_transport *t = SSL_get_app_data(ssl);
        X509 *leaf = X509_STORE_CTX_get0_cert(ctx);
        struct stack_st_X509 *chain = X509_STORE_CTX_get0_untrusted(ctx);
        struct tls_verdict verdict;

        (void)userdata;
        if (!t->shaking || t->identity) { /* it has been let in already: there is no second time */
                X509_STORE_CTX_set_error(ctx, X509_V_ERR_CERT_REJECTED);
                return 0;
        }
        tls_verify(t->shaking->policy, leaf, chain, &verdict, &t->shaking->err);
        if (verdict.refusal == TLS_REFUSAL_NONE &&
                tls_identity_get(t->shaking->policy, &verdict, leaf, chain, &t->identity) < 0)
                verdict.refusal = TLS_REFUSAL_UNTRUSTED;
        t->shaking->refusal = verdict.refusal;
        X509_STORE_CTX_set_error(ctx,
                verdict.refusal == TLS_REFUSAL_NONE ? X509_V_OK
                        : verdict.own_fault         ? X509_V_ERR_CERT_HAS_EXPIRED
                                                    : X509_V_ERR_CERT_REJECTED);
        return verdict.refusal == TLS_REFUSAL_NONE;
}
