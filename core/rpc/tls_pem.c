#include <openssl/pem.h>
#include <string.h>
#include <time.h>

#include "rpc/tls_inside.h"

/* Certificates, keys and revocation lists as they come from files. Any thread. */

#define MOST_CERTIFICATES 4096 /* of one PEM */

const char *tls_reason(void) {
        static _Thread_local char text[256];
        unsigned long code = ERR_peek_last_error();
        const char *reason = code ? ERR_reason_error_string(code) : NULL;

        if (!code)
                text[0] = '\0';
        else if (reason)
                (void)snprintf(text, sizeof(text), "%s", reason);
        else if (ERR_SYSTEM_ERROR(code))
                (void)snprintf(text, sizeof(text), "%s", strerror(ERR_GET_REASON(code)));
        else
                (void)snprintf(text, sizeof(text), "error %lx", code);
        ERR_clear_error();
        return text;
}

int64_t tls_time(const ASN1_TIME *time) {
        struct tm tm = {};

        if (ASN1_TIME_to_tm(time, &tm) != 1)
                return INT64_MIN;
        return timegm(&tm);
}

/* Whoever has no password must not be asked for one on a terminal. */
static int no_password(char *buf, int size, int rwflag, void *userdata) {
        (void)buf;
        (void)size;
        (void)rwflag;
        (void)userdata;
        return -1;
}

static BIO *open_pem(struct bytes pem) {
        return pem.size <= INT_MAX ? BIO_new_mem_buf(pem.size ? (const void *)pem.data : "", (int)pem.size) : NULL;
}

/* The last read failed: at the end, or at something broken? */
static bool at_end(void) {
        unsigned long code = ERR_peek_last_error();
        bool end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;

        if (end)
                ERR_clear_error();
        return end;
}

int tls_pem_certificates(struct bytes pem, const char *what, struct stack_st_X509 **ret, struct error *reterr) {
        struct stack_st_X509 *list = sk_X509_new_null();
        BIO *bio = open_pem(pem);
        X509 *x = NULL;
        int r = 0;

        ERR_clear_error();
        if (!bio || !list)
                r = -ENOMEM;
        while (r == 0 && (x = PEM_read_bio_X509(bio, NULL, no_password, NULL)))
                if (sk_X509_num(list) >= MOST_CERTIFICATES || sk_X509_push(list, x) <= 0) {
                        X509_free(x);
                        r = error_set(reterr, -EINVAL, "%s: more than %d certificates", what, MOST_CERTIFICATES);
                }
        if (r == 0 && !at_end())
                r = error_set(reterr, -EINVAL, "%s: certificate %d cannot be read: %s", what, sk_X509_num(list) + 1,
                        tls_reason());
        if (r == 0 && sk_X509_num(list) == 0)
                r = error_set(reterr, -EINVAL, "%s: no certificate in PEM", what);
        BIO_free(bio);
        if (r < 0)
                sk_X509_pop_free(list, X509_free);
        else
                *ret = list;
        return r;
}

int tls_pem_revocations(struct bytes pem, const char *what, struct stack_st_X509_CRL **ret, struct error *reterr) {
        struct stack_st_X509_CRL *list = sk_X509_CRL_new_null();
        BIO *bio = open_pem(pem);
        X509_CRL *crl = NULL;
        int r = 0;

        ERR_clear_error();
        if (!bio || !list)
                r = -ENOMEM;
        while (r == 0 && (crl = PEM_read_bio_X509_CRL(bio, NULL, no_password, NULL)))
                if (sk_X509_CRL_push(list, crl) <= 0) {
                        X509_CRL_free(crl);
                        r = -ENOMEM;
                }
        if (r == 0 && !at_end())
                r = error_set(reterr, -EINVAL, "%s: revocation list %d cannot be read: %s", what,
                        sk_X509_CRL_num(list) + 1, tls_reason());
        /* A file of something else would revoke nothing. */
        if (r == 0 && sk_X509_CRL_num(list) == 0)
                r = error_set(reterr, -EINVAL, "%s: no revocation list in PEM", what);
        BIO_free(bio);
        if (r < 0)
                sk_X509_CRL_pop_free(list, X509_CRL_free);
        else
                *ret = list;
        return r;
}

int tls_pem_use(SSL_CTX *ctx, struct bytes certificate, struct bytes key, int64_t *not_after, struct error *reterr) {
        struct stack_st_X509 *chain = NULL;
        EVP_PKEY *pkey = NULL;
        BIO *bio = NULL;
        X509 *leaf;
        int r;

        r = tls_pem_certificates(certificate, "certificate", &chain, reterr);
        if (r < 0)
                return r;
        leaf = sk_X509_shift(chain);
        bio = open_pem(key);
        pkey = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
        if (!pkey)
                r = error_set(
                        reterr, -EINVAL, "key: no private key that can be read without a password: %s", tls_reason());
        else if (X509_check_private_key(leaf, pkey) != 1)
                r = error_set(reterr, -EINVAL, "the key is not the certificate's");
        else if (SSL_CTX_use_cert_and_key(ctx, leaf, pkey, chain, 1) != 1)
                r = error_set(reterr, -EINVAL, "the certificate cannot be used: %s", tls_reason());
        else if (not_after)
                *not_after = tls_time(X509_get0_notAfter(leaf));
        ERR_clear_error();
        BIO_free(bio);
        EVP_PKEY_free(pkey);
        X509_free(leaf);
        sk_X509_pop_free(chain, X509_free);
        return r;
}
