#include "rpc/pem.h"

/*
 * PEM texts are small: each goes through one memory BIO, a key's through one in memory that OpenSSL wipes.
 */

#include <limits.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdarg.h>
#include <time.h>

static void bio_freep(BIO **bio) {
        BIO_free_all(*bio);
}

int pem_fail(struct error *reterr, int code, const char *format, ...) {
        unsigned long first = ERR_peek_error();
        const char *reason = first ? ERR_reason_error_string(first) : NULL;
        cleanup(freep) char *text = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        ERR_clear_error();
        if (n < 0) {
                text = NULL;
                return -ENOMEM;
        }
        return reason ? error_set(reterr, code, "%s: %s", text, reason) : error_set(reterr, code, "%s", text);
}

static BIO *reader(struct bytes text) {
        return text.size > INT_MAX ? NULL : BIO_new_mem_buf(text.size ? (const void *)text.data : "", (int)text.size);
}

/* For a key with a passphrase. Without this OpenSSL would ask on the terminal. */
static int no_passphrase(char *buffer, int size, int writing, void *userdata) {
        bool *asked = userdata;

        (void)buffer;
        (void)size;
        (void)writing;
        if (asked)
                *asked = true;
        return -1;
}

int pem_read_certificate(struct bytes text, X509 **ret, size_t *ret_end, struct error *reterr) {
        cleanup(bio_freep) BIO *bio = reader(text);

        *ret = bio ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;
        if (!*ret)
                return pem_fail(reterr, -EBADMSG, "no certificate in PEM");
        if (ret_end)
                *ret_end = text.size - BIO_ctrl_pending(bio);
        return 0;
}

int pem_read_key(struct bytes text, EVP_PKEY **ret, struct error *reterr) {
        cleanup(bio_freep) BIO *bio = reader(text);
        bool asked = false;

        *ret = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked) : NULL;
        if (*ret)
                return 0;
        if (!asked)
                return pem_fail(reterr, -EBADMSG, "no private key in PEM");
        ERR_clear_error();
        return error_set(reterr, -EBADMSG, "the private key has a passphrase, which nobody is here to give");
}

int pem_read_request(struct bytes text, X509_REQ **ret, struct error *reterr) {
        cleanup(bio_freep) BIO *bio = reader(text);

        *ret = bio ? PEM_read_bio_X509_REQ(bio, NULL, no_passphrase, NULL) : NULL;
        return *ret ? 0 : pem_fail(reterr, -EBADMSG, "no certificate request in PEM");
}

int pem_read_revocations(struct bytes text, X509_CRL **ret, struct error *reterr) {
        cleanup(bio_freep) BIO *bio = reader(text);

        *ret = bio ? PEM_read_bio_X509_CRL(bio, NULL, no_passphrase, NULL) : NULL;
        return *ret ? 0 : pem_fail(reterr, -EBADMSG, "no revocation list in PEM");
}

/* Appends what was written, if it was. */
static int take(BIO *bio, bool written, struct buf *ret) {
        char *data = NULL;
        long size;

        if (!written || (size = BIO_get_mem_data(bio, &data)) <= 0) {
                ERR_clear_error();
                return -ENOMEM;
        }
        return buf_append(ret, data, (size_t)size);
}

int pem_write_certificate(X509 *certificate, struct buf *ret) {
        cleanup(bio_freep) BIO *bio = BIO_new(BIO_s_mem());

        return take(bio, bio && PEM_write_bio_X509(bio, certificate), ret);
}

int pem_write_key(EVP_PKEY *key, struct buf *ret) {
        cleanup(bio_freep) BIO *bio = BIO_new(BIO_s_secmem());

        return take(bio, bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, no_passphrase, NULL), ret);
}

int pem_write_request(X509_REQ *request, struct buf *ret) {
        cleanup(bio_freep) BIO *bio = BIO_new(BIO_s_mem());

        return take(bio, bio && PEM_write_bio_X509_REQ(bio, request), ret);
}

int pem_write_revocations(X509_CRL *revocations, struct buf *ret) {
        cleanup(bio_freep) BIO *bio = BIO_new(BIO_s_mem());

        return take(bio, bio && PEM_write_bio_X509_CRL(bio, revocations), ret);
}

const EVP_MD *pem_digest_of(EVP_PKEY *key) {
        int base = EVP_PKEY_get_base_id(key);

        if (base == EVP_PKEY_ED25519 || base == EVP_PKEY_ED448)
                return NULL;
        return EVP_PKEY_get_bits(key) > 256 && base == EVP_PKEY_EC ? EVP_sha384() : EVP_sha256();
}

int64_t pem_time(const ASN1_TIME *time) {
        struct tm tm;

        return time && ASN1_TIME_to_tm(time, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

char *pem_serial(const ASN1_INTEGER *serial) {
        BIGNUM *number = ASN1_INTEGER_to_BN(serial, NULL);
        char *hex = number ? BN_bn2hex(number) : NULL, *copy;

        check(hex);
        copy = strdup(hex);
        check(copy);
        OPENSSL_free(hex);
        BN_free(number);
        return copy;
}
