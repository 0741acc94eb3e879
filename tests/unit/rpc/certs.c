#include "certs.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdarg.h>

static void extend(X509 *x, X509 *issuer, int nid, const char *value) {
        X509V3_CTX ctx;
        X509_EXTENSION *extension;

        X509V3_set_ctx_nodb(&ctx);
        X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
        extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, (char *)value);
        check(extension && X509_add_ext(x, extension, -1) == 1);
        X509_EXTENSION_free(extension);
}

struct cert cert_new(const struct cert_wish *wish) {
        static long serials = 1000;
        struct cert c = {.x = X509_new(), .key = EVP_EC_gen("P-256")};
        const struct cert *issuer = wish->issuer ? wish->issuer : &c;

        check(c.x && c.key);
        X509_set_version(c.x, 2);
        ASN1_INTEGER_set(X509_get_serialNumber(c.x), wish->serial ? wish->serial : ++serials);
        X509_gmtime_adj(X509_getm_notBefore(c.x), wish->from ? wish->from : -3600);
        X509_gmtime_adj(X509_getm_notAfter(c.x), wish->until ? wish->until : 365L * 24 * 3600);
        if (wish->cn)
                check(X509_NAME_add_entry_by_txt(X509_get_subject_name(c.x), "CN", MBSTRING_UTF8,
                              (const unsigned char *)wish->cn, -1, -1, 0) == 1);
        check(X509_set_issuer_name(c.x, X509_get_subject_name(issuer->x)) == 1 && X509_set_pubkey(c.x, c.key) == 1);
        extend(c.x, issuer->x, NID_basic_constraints, wish->ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
        extend(c.x, issuer->x, NID_subject_key_identifier, "hash");
        if (wish->issuer)
                extend(c.x, issuer->x, NID_authority_key_identifier, "keyid");
        extend(c.x, issuer->x, NID_key_usage, wish->ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
        if (!wish->ca)
                extend(c.x, issuer->x, NID_ext_key_usage, wish->usage ? wish->usage : "clientAuth,serverAuth");
        if (wish->names)
                extend(c.x, issuer->x, NID_subject_alt_name, wish->names);
        check(X509_sign(c.x, issuer->key, EVP_sha256()) > 0);
        return c;
}

void cert_done(struct cert *c) {
        X509_free(c->x);
        EVP_PKEY_free(c->key);
        *c = (struct cert){};
}

static struct bytes take(BIO *bio) {
        char *data;
        long n = BIO_get_mem_data(bio, &data);
        uint8_t *copy = malloc((size_t)n);

        check(copy);
        memcpy(copy, data, (size_t)n);
        BIO_free(bio);
        return bytes_of(copy, (size_t)n);
}

struct bytes cert_pem(const struct cert *first, ...) {
        BIO *bio = BIO_new(BIO_s_mem());
        va_list args;

        va_start(args, first);
        for (const struct cert *c = first; c; c = va_arg(args, const struct cert *))
                check(PEM_write_bio_X509(bio, c->x) == 1);
        va_end(args);
        return take(bio);
}

struct bytes cert_key_pem(const struct cert *c) {
        BIO *bio = BIO_new(BIO_s_mem());

        check(PEM_write_bio_PrivateKey(bio, c->key, NULL, NULL, 0, NULL, NULL) == 1);
        return take(bio);
}

struct bytes cert_revocations(const struct cert *issuer, long until, ...) {
        BIO *bio = BIO_new(BIO_s_mem());
        X509_CRL *crl = X509_CRL_new();
        ASN1_TIME *time = ASN1_TIME_new();
        va_list args;

        check(crl && time && X509_CRL_set_version(crl, 1) == 1);
        check(X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer->x)) == 1);
        X509_gmtime_adj(time, -3600);
        X509_CRL_set1_lastUpdate(crl, time);
        X509_gmtime_adj(time, until);
        X509_CRL_set1_nextUpdate(crl, time);
        va_start(args, until);
        for (const struct cert *c; (c = va_arg(args, const struct cert *));) {
                X509_REVOKED *revoked = X509_REVOKED_new();

                X509_REVOKED_set_serialNumber(revoked, X509_get_serialNumber(c->x));
                X509_gmtime_adj(time, -1800);
                X509_REVOKED_set_revocationDate(revoked, time);
                check(X509_CRL_add0_revoked(crl, revoked) == 1);
        }
        va_end(args);
        check(X509_CRL_sort(crl) == 1 && X509_CRL_sign(crl, issuer->key, EVP_sha256()) > 0);
        check(PEM_write_bio_X509_CRL(bio, crl) == 1);
        X509_CRL_free(crl);
        ASN1_TIME_free(time);
        return take(bio);
}

void bytes_free(struct bytes *b) {
        free((void *)b->data);
        *b = (struct bytes){};
}
