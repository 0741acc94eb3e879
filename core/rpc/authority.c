#include "rpc/authority.h"

/*
 * What is issued is verified as a server would, before it is handed out: an authority with a constraint that forbids what it signs is found here,
 * not by whoever installs the certificate.
 */

#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <time.h>

#include "rpc/certificate.h"
#include "rpc/pem.h"

/* For clocks that differ. */
#define BEFORE_SECONDS 300
#define DAY_SECONDS 86400
#define SERIAL_BITS 128
#define REQUEST_MAX 65536

struct authority {
        X509 *certificate; /* owned */
        EVP_PKEY *key;     /* owned */
        struct buf rest;   /* what stands behind the certificate, and is handed out too */
};

void authority_free(struct authority *authority) {
        if (!authority)
                return;
        X509_free(authority->certificate);
        EVP_PKEY_free(authority->key);
        buf_done(&authority->rest);
        free(authority);
}

int64_t authority_not_after(const struct authority *authority) {
        return pem_time(X509_get0_notAfter(authority->certificate));
}

/* ---- loading */

static int check_authority(X509 *x, struct error *reterr) {
        if (!(X509_get_key_usage(x) & KU_KEY_CERT_SIGN))
                return error_set(reterr, -EINVAL, "the certificate may not sign others (keyUsage)");
        if (X509_check_ca(x) != 1)
                return error_set(reterr, -EINVAL, "the certificate is not an authority's (basicConstraints)");
        if (X509_check_purpose(x, X509_PURPOSE_SSL_CLIENT, 1) < 1)
                return error_set(reterr, -EINVAL, "the certificate may not vouch for clients (extendedKeyUsage)");
        if (X509_cmp_current_time(X509_get0_notAfter(x)) <= 0)
                return error_set(reterr, -EINVAL, "the certificate has expired");
        if (X509_cmp_current_time(X509_get0_notBefore(x)) >= 0)
                return error_set(reterr, -EINVAL, "the certificate is not valid yet");
        return 0;
}

int authority_load(struct bytes certificate, struct bytes key, struct authority **ret, struct error *reterr) {
        cleanup(authority_freep) struct authority *authority = new0(struct authority);
        size_t end = 0;
        int r;

        r = pem_read_certificate(certificate, &authority->certificate, &end, reterr);
        if (r < 0)
                return r;
        r = pem_read_key(key, &authority->key, reterr);
        if (r < 0)
                return r;
        r = X509_check_private_key(authority->certificate, authority->key) == 1;
        ERR_clear_error();
        if (!r)
                return error_set(reterr, -EINVAL, "the key is not the certificate's");
        r = check_authority(authority->certificate, reterr);
        if (r < 0)
                return r;

        /* An intermediate authority is what clients must show besides their own; a root is known to whoever trusts it. */
        if (!X509_self_signed(authority->certificate, 0)) {
                struct bytes left = {certificate.data + end, certificate.size - end};

                r = pem_write_certificate(authority->certificate, &authority->rest);
                while (r >= 0 && left.size) {
                        cleanup(x509_freep) X509 *next = NULL;

                        if (pem_read_certificate(left, &next, &end, NULL) < 0)
                                break;
                        if (!X509_self_signed(next, 0))
                                r = pem_write_certificate(next, &authority->rest);
                        left = bytes_of(left.data + end, left.size - end);
                }
                if (r < 0)
                        return error_set(reterr, r, "no memory for a certificate");
        }
        ERR_clear_error();
        *ret = steal(authority);
        return 0;
}

/* ---- certificates */

static int set_times(X509 *x, time_t now, time_t until) {
        return X509_time_adj_ex(X509_getm_notBefore(x), 0, -BEFORE_SECONDS, &now) &&
                X509_time_adj_ex(X509_getm_notAfter(x), 0, 0, &until);
}

static int set_serial(X509 *x) {
        BIGNUM *number = BN_new();
        int r = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) && !BN_is_zero(number) &&
                BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x));

        BN_free(number);
        return r;
}

/* By the extension's text, which is ours alone: nothing that came from outside may be in it. */
static int add_extension(X509 *x, X509 *issuer, int nid, const char *value) {
        X509_EXTENSION *extension;
        X509V3_CTX context;
        int r;

        X509V3_set_ctx_nodb(&context);
        X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
        extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
        r = extension && X509_add_ext(x, extension, -1);
        X509_EXTENSION_free(extension);
        return r;
}

static bool host_is_valid(const char *host) {
        size_t n = strlen(host);

        return n > 0 && n <= 253 && host[0] != '.' && host[n - 1] != '.' &&
                strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.*_") == n;
}

static GENERAL_NAME *name_make(const char *text) {
        GENERAL_NAME *name = GENERAL_NAME_new();
        unsigned char address[16];
        ASN1_STRING *string = NULL;
        size_t n = 0;
        int type = -1;

        if (name && strncmp(text, "IP:", 3) == 0) {
                n = inet_pton(AF_INET, text + 3, address) == 1        ? 4
                        : inet_pton(AF_INET6, text + 3, address) == 1 ? 16
                                                                      : 0;
                string = n ? ASN1_OCTET_STRING_new() : NULL;
                type = GEN_IPADD;
                if (string && !ASN1_STRING_set(string, address, (int)n)) {
                        ASN1_STRING_free(string);
                        string = NULL;
                }
        } else if (name &&
                (strncmp(text, "URI:", 4) == 0 || (strncmp(text, "DNS:", 4) == 0 && host_is_valid(text + 4)))) {
                string = ASN1_IA5STRING_new();
                type = text[0] == 'U' ? GEN_URI : GEN_DNS;
                if (string && !ASN1_STRING_set(string, text + 4, -1)) {
                        ASN1_STRING_free(string);
                        string = NULL;
                }
        }
        if (!string) {
                GENERAL_NAME_free(name);
                return NULL;
        }
        GENERAL_NAME_set0_value(name, type, string);
        return name;
}

static int add_names(X509 *x, const struct certificate_wish *wish, struct error *reterr) {
        GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
        int r = names ? 0 : -ENOMEM;

        for (size_t i = 0; i < wish->n_names && r >= 0; i++) {
                GENERAL_NAME *name = name_make(wish->names[i]);

                if (!name)
                        r = error_set(reterr, -EINVAL, "\"%s\" is neither URI:…, DNS:… nor IP:…", wish->names[i]);
                else if (!sk_GENERAL_NAME_push(names, name)) {
                        GENERAL_NAME_free(name);
                        r = -ENOMEM;
                }
        }
        if (r >= 0 && wish->n_names && X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) != 1)
                r = -ENOMEM;
        GENERAL_NAMES_free(names);
        return r;
}

static int set_subject(X509 *x, const char *common_name) {
        return X509_NAME_add_entry_by_txt(
                X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0);
}

int authority_make(const char *common_name, unsigned days, struct buf *ret_certificate, struct buf *ret_key,
        struct error *reterr) {
        cleanup(pkey_freep) EVP_PKEY *key = NULL;
        cleanup(x509_freep) X509 *x = X509_new();
        time_t now = time(NULL);
        int r;

        r = key_make(ret_key, reterr);
        if (r >= 0)
                r = pem_read_key(bytes_of(ret_key->data, ret_key->size), &key, reterr);
        if (r < 0)
                return r;
        if (!x || !X509_set_version(x, X509_VERSION_3) || !set_serial(x) || !set_subject(x, common_name) ||
                !X509_set_issuer_name(x, X509_get_subject_name(x)) ||
                !set_times(x, now, now + (time_t)days * DAY_SECONDS) || !X509_set_pubkey(x, key) ||
                !add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
                !add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") ||
                !add_extension(x, x, NID_subject_key_identifier, "hash") || !X509_sign(x, key, pem_digest_of(key)))
                return pem_fail(reterr, -EINVAL, "no authority could be made");
        r = pem_write_certificate(x, ret_certificate);
        return r < 0 ? error_set(reterr, r, "no memory for a certificate") : 0;
}

/* ---- issuing */

/* Whether servers will take it: etcd's clients and OpenSSL's servers, at the usual level of security. */
static int check_key(EVP_PKEY *key, struct error *reterr) {
        int bits = EVP_PKEY_get_bits(key);
        char curve[64] = "";
        size_t n;

        switch (EVP_PKEY_get_base_id(key)) {
        case EVP_PKEY_ED25519:
                return 0;
        case EVP_PKEY_RSA:
                if (bits < 2048 || bits > 8192)
                        return error_set(reterr, -EINVAL, "an RSA key of %d bits: it must have 2048 to 8192", bits);
                return 0;
        case EVP_PKEY_EC:
                if (EVP_PKEY_get_group_name(key, curve, sizeof(curve), &n) == 1 &&
                        (strcmp(curve, "prime256v1") == 0 || strcmp(curve, "P-256") == 0 ||
                                strcmp(curve, "secp384r1") == 0 || strcmp(curve, "P-384") == 0 ||
                                strcmp(curve, "secp521r1") == 0 || strcmp(curve, "P-521") == 0))
                        return 0;
                ERR_clear_error();
                return error_set(reterr, -EINVAL, "a key on the curve %s: it must be P-256, P-384 or P-521",
                        curve[0] ? curve : "of its own");
        default:
                return error_set(reterr, -EINVAL, "the key must be RSA, Ed25519, or on one of P-256, P-384 and P-521");
        }
}

static int read_request(struct bytes text, X509_REQ **ret, struct error *reterr) {
        EVP_PKEY *key;
        int r;

        if (text.size > REQUEST_MAX)
                return error_set(reterr, -EINVAL, "the request is larger than 64 KiB");
        r = pem_read_request(text, ret, reterr);
        if (r < 0)
                return r;
        key = X509_REQ_get0_pubkey(*ret);
        if (!key)
                return pem_fail(reterr, -EINVAL, "the request's key cannot be used");
        /* Before its signature is looked at, which takes long with an absurd key. */
        r = check_key(key, reterr);
        if (r < 0)
                return r;
        r = X509_REQ_verify(*ret, key);
        ERR_clear_error();
        return r == 1 ? 0 : error_set(reterr, -EINVAL, "the request does not prove that its key is whose it says");
}

static int verify(struct authority *authority, X509 *x, enum certificate_use use, struct error *reterr) {
        X509_STORE *store = X509_STORE_new();
        X509_STORE_CTX *context = X509_STORE_CTX_new();
        int r;

        if (!store || !context || X509_STORE_add_cert(store, authority->certificate) != 1 ||
                X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) != 1 ||
                X509_STORE_set_purpose(
                        store, use == CERTIFICATE_CLIENT ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER) != 1 ||
                X509_STORE_CTX_init(context, store, x, NULL) != 1)
                r = -ENOMEM;
        else if (X509_verify_cert(context) == 1)
                r = 0;
        else
                r = error_set(reterr, -EINVAL, "%s", X509_verify_cert_error_string(X509_STORE_CTX_get_error(context)));
        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        ERR_clear_error();
        return r;
}

int authority_issue(struct authority *authority, struct bytes request, const struct certificate_wish *wish,
        struct buf *ret, struct certificate_issued *ret_issued, struct error *reterr) {
        cleanup(x509_req_freep) X509_REQ *req = NULL;
        cleanup(x509_freep) X509 *x = X509_new();
        time_t now = time(NULL), until = now + (time_t)wish->days * DAY_SECONDS, last;
        bool rsa;
        int r;

        check(wish->days > 0 && wish->days <= CERTIFICATE_DAYS_MAX);
        r = read_request(request, &req, reterr);
        if (r < 0)
                return r;
        last = (time_t)authority_not_after(authority);
        rsa = EVP_PKEY_get_base_id(X509_REQ_get0_pubkey(req)) == EVP_PKEY_RSA;
        if (!x || !X509_set_version(x, X509_VERSION_3) || !set_serial(x) || !set_subject(x, wish->common_name) ||
                !X509_set_issuer_name(x, X509_get_subject_name(authority->certificate)) ||
                !set_times(x, now, until < last ? until : last) || !X509_set_pubkey(x, X509_REQ_get0_pubkey(req)) ||
                !add_extension(x, authority->certificate, NID_basic_constraints, "critical,CA:FALSE") ||
                !add_extension(x, authority->certificate, NID_key_usage,
                        rsa ? "critical,digitalSignature,keyEncipherment" : "critical,digitalSignature") ||
                !add_extension(x, authority->certificate, NID_ext_key_usage,
                        wish->use == CERTIFICATE_CLIENT ? "clientAuth" : "serverAuth") ||
                !add_extension(x, authority->certificate, NID_subject_key_identifier, "hash"))
                return pem_fail(reterr, -EINVAL, "no certificate could be made");
        /* Where the authority says by which name of its own it is to be found. */
        if (X509_get0_subject_key_id(authority->certificate) &&
                !add_extension(x, authority->certificate, NID_authority_key_identifier, "keyid:always"))
                return pem_fail(reterr, -EINVAL, "no certificate could be made");
        r = add_names(x, wish, reterr);
        if (r < 0)
                return r;
        if (!X509_sign(x, authority->key, pem_digest_of(authority->key)))
                return pem_fail(reterr, -EINVAL, "the certificate could not be signed");
        r = verify(authority, x, wish->use, reterr);
        if (r < 0)
                return error_prefix(reterr, "what this authority signs would not be accepted");

        r = pem_write_certificate(x, ret);
        if (r >= 0 && authority->rest.size)
                r = buf_append(ret, authority->rest.data, authority->rest.size);
        if (r < 0)
                return error_set(reterr, r, "no memory for a certificate");
        *ret_issued = (struct certificate_issued){
                .serial = pem_serial(X509_get0_serialNumber(x)),
                .not_after = pem_time(X509_get0_notAfter(x)),
                .is_shortened = until > last,
        };
        return 0;
}

void certificate_issued_done(struct certificate_issued *issued) {
        free(issued->serial);
        *issued = (struct certificate_issued){};
}

int authority_verify(
        struct authority *authority, struct bytes certificate, enum certificate_use use, struct error *reterr) {
        cleanup(x509_freep) X509 *x = NULL;
        int r;

        r = pem_read_certificate(certificate, &x, NULL, reterr);
        return r < 0 ? r : verify(authority, x, use, reterr);
}

/* ---- revoking */

char *authority_serial(const char *text) {
        cleanup(freep) char *digits = xcalloc(strlen(text) + 1, 1);
        char *hex, *copy;
        BIGNUM *number = NULL;
        size_t n = 0;

        for (; *text; text++)
                if (*text != ':')
                        digits[n++] = *text;
        /* A serial has at most 20 bytes. */
        if (n == 0 || n > 40 || strspn(digits, "0123456789abcdefABCDEF") != n || !BN_hex2bn(&number, digits))
                return NULL;
        hex = BN_bn2hex(number);
        copy = hex ? strdup(hex) : NULL;
        check(copy);
        OPENSSL_free(hex);
        BN_free(number);
        return copy;
}

static int add_revoked(X509_CRL *list, const char *serial, time_t now) {
        X509_REVOKED *revoked = X509_REVOKED_new();
        ASN1_INTEGER *number = NULL;
        ASN1_TIME *when = ASN1_TIME_set(NULL, now);
        BIGNUM *value = NULL;
        int r = revoked && when && BN_hex2bn(&value, serial) && (number = BN_to_ASN1_INTEGER(value, NULL)) &&
                X509_REVOKED_set_serialNumber(revoked, number) && X509_REVOKED_set_revocationDate(revoked, when) &&
                X509_CRL_add0_revoked(list, revoked);

        if (!r)
                X509_REVOKED_free(revoked);
        ASN1_INTEGER_free(number);
        ASN1_TIME_free(when);
        BN_free(value);
        return r;
}

/* What the last list had; its number plus one. */
static int take_over(
        struct authority *authority, struct bytes last, X509_CRL *list, BIGNUM *number, struct error *reterr) {
        cleanup(x509_crl_freep) X509_CRL *old = NULL;
        STACK_OF(X509_REVOKED) * entries;
        ASN1_INTEGER *old_number;
        int r;

        r = pem_read_revocations(last, &old, reterr);
        if (r < 0)
                return r;
        r = X509_CRL_verify(old, authority->key);
        ERR_clear_error();
        if (r != 1)
                return error_set(reterr, -EINVAL, "the revocation list is not this authority's");
        entries = X509_CRL_get_REVOKED(old);
        for (int i = 0; i < sk_X509_REVOKED_num(entries); i++) {
                X509_REVOKED *copy = X509_REVOKED_dup(sk_X509_REVOKED_value(entries, i));

                if (!copy || !X509_CRL_add0_revoked(list, copy)) {
                        X509_REVOKED_free(copy);
                        return -ENOMEM;
                }
        }
        old_number = X509_CRL_get_ext_d2i(old, NID_crl_number, NULL, NULL);
        if (old_number && !ASN1_INTEGER_to_BN(old_number, number))
                r = -ENOMEM;
        ASN1_INTEGER_free(old_number);
        return r < 0 || !BN_add_word(number, 1) ? -ENOMEM : 0;
}

static int set_number(X509_CRL *list, const BIGNUM *number) {
        ASN1_INTEGER *value = BN_to_ASN1_INTEGER(number, NULL);
        int r = value && X509_CRL_add1_ext_i2d(list, NID_crl_number, value, 0, X509V3_ADD_DEFAULT) == 1;

        ASN1_INTEGER_free(value);
        return r;
}

static int set_issuer(X509_CRL *list, X509 *issuer) {
        X509_EXTENSION *extension;
        X509V3_CTX context;
        int r;

        if (!X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer)))
                return 0;
        if (!X509_get0_subject_key_id(issuer))
                return 1;
        X509V3_set_ctx_nodb(&context);
        X509V3_set_ctx(&context, issuer, NULL, NULL, list, 0);
        extension = X509V3_EXT_conf_nid(NULL, &context, NID_authority_key_identifier, "keyid:always");
        r = extension && X509_CRL_add_ext(list, extension, -1);
        X509_EXTENSION_free(extension);
        return r;
}

static bool is_revoked(X509_CRL *list, const char *serial) {
        STACK_OF(X509_REVOKED) *entries = X509_CRL_get_REVOKED(list);
        bool found = false;

        for (int i = 0; i < sk_X509_REVOKED_num(entries) && !found; i++) {
                cleanup(freep) char *other =
                        pem_serial(X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(entries, i)));

                found = strcmp(other, serial) == 0;
        }
        return found;
}

int authority_revoke(
        struct authority *authority, struct bytes last, const char *serial, struct buf *ret, struct error *reterr) {
        cleanup(x509_crl_freep) X509_CRL *list = X509_CRL_new();
        BIGNUM *number = BN_new();
        time_t now = time(NULL);
        ASN1_TIME *when = ASN1_TIME_set(NULL, now);
        int r = list && number && when && BN_one(number) ? 0 : -ENOMEM;

        if (r >= 0 && !(X509_get_key_usage(authority->certificate) & KU_CRL_SIGN))
                r = error_set(reterr, -EINVAL, "the authority may not sign revocation lists (keyUsage)");
        if (r >= 0 && last.size)
                r = take_over(authority, last, list, number, reterr);
        if (r >= 0 && serial && is_revoked(list, serial))
                r = error_set(reterr, -EEXIST, "%s is on the revocation list already", serial);
        if (r >= 0 &&
                (!X509_CRL_set_version(list, X509_CRL_VERSION_2) || !set_issuer(list, authority->certificate) ||
                        !X509_CRL_set1_lastUpdate(list, when) ||
                        !X509_CRL_set1_nextUpdate(list, X509_get0_notAfter(authority->certificate)) ||
                        (serial && !add_revoked(list, serial, now)) || !set_number(list, number) ||
                        !X509_CRL_sort(list) || !X509_CRL_sign(list, authority->key, pem_digest_of(authority->key))))
                r = pem_fail(reterr, -EINVAL, "no revocation list could be made");
        if (r >= 0)
                r = pem_write_revocations(list, ret);
        ASN1_TIME_free(when);
        BN_free(number);
        return r;
}
