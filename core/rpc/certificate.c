#include "rpc/certificate.h"

/*
 * Everything is made in memory and given out as PEM. Private keys are in OpenSSL's hands, which wipes them, or in a buffer of the caller's, which
 * key_done() wipes.
 */

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "rpc/pem.h"

/* More than any key in PKCS #8 takes, so that a buffer with one is not moved while it grows. */
#define KEY_BYTES 16384

void key_done(struct buf *key) {
        if (key->data)
                explicit_bzero(key->data, key->capacity);
        buf_done(key);
}

int key_make(struct buf *ret, struct error *reterr) {
        cleanup(pkey_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
        int r;

        if (!key)
                return pem_fail(reterr, -EIO, "no key pair could be made");
        r = buf_reserve(ret, KEY_BYTES);
        if (r >= 0)
                r = pem_write_key(key, ret);
        return r < 0 ? error_set(reterr, r, "no memory for a key") : 0;
}

int certificate_request_make(struct bytes key, const char *common_name, struct buf *ret, struct error *reterr) {
        cleanup(x509_req_freep) X509_REQ *request = X509_REQ_new();
        cleanup(pkey_freep) EVP_PKEY *pair = NULL;
        int r;

        r = pem_read_key(key, &pair, reterr);
        if (r < 0)
                return r;
        if (!request || !X509_REQ_set_version(request, X509_REQ_VERSION_1) || !X509_REQ_set_pubkey(request, pair) ||
                !X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request), "CN", MBSTRING_UTF8,
                        (const unsigned char *)common_name, -1, -1, 0) ||
                !X509_REQ_sign(request, pair, pem_digest_of(pair)))
                return pem_fail(reterr, -EINVAL, "no certificate request could be made");
        r = pem_write_request(request, ret);
        return r < 0 ? error_set(reterr, r, "no memory for a certificate request") : 0;
}

/* ---- what a certificate says */

static char *name_text(const X509_NAME *name) {
        BIO *bio = BIO_new(BIO_s_mem());
        char *data = NULL, *text;
        long n;

        check(bio);
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
        n = BIO_get_mem_data(bio, &data);
        text = strndup(n > 0 ? data : "", n > 0 ? (size_t)n : 0);
        check(text);
        BIO_free_all(bio);
        return text;
}

/* NULL: of a kind that nobody asks for, or with a NUL in it. */
static char *alternative_text(const GENERAL_NAME *name) {
        const char *kind = name->type == GEN_URI ? "URI" : name->type == GEN_DNS ? "DNS" : NULL;
        const ASN1_STRING *string;
        char address[INET6_ADDRSTRLEN], *text = NULL;
        size_t n;

        if (name->type == GEN_IPADD) {
                n = (size_t)ASN1_STRING_length(name->d.iPAddress);
                if ((n != 4 && n != 16) ||
                        !inet_ntop(n == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name->d.iPAddress), address,
                                sizeof(address)))
                        return NULL;
                return asprintf(&text, "IP:%s", address) < 0 ? NULL : text;
        }
        if (!kind)
                return NULL;
        string = name->d.ia5;
        n = (size_t)ASN1_STRING_length(string);
        if (memchr(ASN1_STRING_get0_data(string), 0, n))
                return NULL;
        return asprintf(&text, "%s:%.*s", kind, (int)n, (const char *)ASN1_STRING_get0_data(string)) < 0 ? NULL : text;
}

int certificate_read(struct bytes certificate, struct certificate_info *ret, struct error *reterr) {
        cleanup(x509_freep) X509 *x = NULL;
        GENERAL_NAMES *names;
        int r, n;

        r = pem_read_certificate(certificate, &x, NULL, reterr);
        if (r < 0)
                return r;
        *ret = (struct certificate_info){
                .serial = pem_serial(X509_get0_serialNumber(x)),
                .subject = name_text(X509_get_subject_name(x)),
                .issuer = name_text(X509_get_issuer_name(x)),
                .not_before = pem_time(X509_get0_notBefore(x)),
                .not_after = pem_time(X509_get0_notAfter(x)),
        };
        names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
        n = names ? sk_GENERAL_NAME_num(names) : 0;
        ret->names = xcalloc((size_t)n, sizeof(*ret->names));
        for (int i = 0; i < n; i++) {
                char *text = alternative_text(sk_GENERAL_NAME_value(names, i));

                if (text)
                        ret->names[ret->n_names++] = text;
        }
        GENERAL_NAMES_free(names);
        ERR_clear_error();
        return 0;
}

void certificate_info_done(struct certificate_info *info) {
        for (size_t i = 0; i < info->n_names; i++)
                free(info->names[i]);
        free(info->names);
        free(info->serial);
        free(info->subject);
        free(info->issuer);
        *info = (struct certificate_info){};
}

int certificate_matches(struct bytes certificate, struct bytes key, struct error *reterr) {
        cleanup(pkey_freep) EVP_PKEY *pair = NULL;
        cleanup(x509_freep) X509 *x = NULL;
        int r;

        r = pem_read_certificate(certificate, &x, NULL, reterr);
        if (r >= 0)
                r = pem_read_key(key, &pair, reterr);
        if (r < 0)
                return r;
        r = X509_check_private_key(x, pair);
        ERR_clear_error();
        return r == 1 ? 0 : error_set(reterr, -EINVAL, "the key is not the certificate's");
}

/* All certificates of a text. */
static STACK_OF(X509) * read_all(struct bytes text) {
        STACK_OF(X509) *all = sk_X509_new_null();
        size_t end;

        check(all);
        while (text.size) {
                X509 *x;

                if (pem_read_certificate(text, &x, &end, NULL) < 0)
                        break;
                check(sk_X509_push(all, x) > 0);
                text = bytes_of(text.data + end, text.size - end);
        }
        return all;
}

/* What the server shows of its chain is no anchor but for a root: it is exchanged with the server's certificate. */
static bool is_anchor(X509 *x, X509 *leaf, STACK_OF(X509) * others) {
        bool shown = leaf && X509_cmp(x, leaf) == 0;

        for (int i = 0; i < sk_X509_num(others) && !shown; i++)
                shown = X509_cmp(x, sk_X509_value(others, i)) == 0;
        return !shown || X509_self_signed(x, 0) == 1;
}

int certificate_find_anchor(struct bytes chain, struct bytes anchors, struct buf *ret) {
        STACK_OF(X509) *others = read_all(chain), *trusted = read_all(anchors), *found;
        X509_STORE_CTX *context = X509_STORE_CTX_new();
        X509_STORE *store = X509_STORE_new();
        X509 *leaf = sk_X509_shift(others), *last;
        int r = -ENOENT;

        check(context && store);
        for (int i = 0; i < sk_X509_num(trusted); i++)
                if (is_anchor(sk_X509_value(trusted, i), leaf, others))
                        X509_STORE_add_cert(store, sk_X509_value(trusted, i));
        X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_NO_CHECK_TIME);
        X509_STORE_set_purpose(store, X509_PURPOSE_SSL_SERVER);
        if (leaf && X509_STORE_CTX_init(context, store, leaf, others) == 1 && X509_verify_cert(context) == 1) {
                found = X509_STORE_CTX_get0_chain(context);
                last = sk_X509_value(found, sk_X509_num(found) - 1);
                r = pem_write_certificate(last, ret);
        }
        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        X509_free(leaf);
        sk_X509_pop_free(others, X509_free);
        sk_X509_pop_free(trusted, X509_free);
        ERR_clear_error();
        return r;
}
