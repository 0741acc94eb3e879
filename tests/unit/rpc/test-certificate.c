/*
 * Certificates as the authority issues them: what is in them is the issuer's word alone, a wrong authority is refused with its reason before
 * anything is signed, and a revocation list keeps what it had. What others make of them is in the system tests.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "rpc/authority.h"
#include "rpc/certificate.h"

#define NAME "stokehold:tenant:berlin:20260801T120000Z"
#define DAY 86400

static struct buf authority_pem, authority_key, other_pem, other_key, client_key, client_request;
static struct authority *authority;

static struct bytes bytes_in(const struct buf *b) {
        return bytes_of(b->data, b->size);
}

static int setup(void **state) {
        (void)state;
        assert_int_equal(authority_make("test authority", 100, &authority_pem, &authority_key, NULL), 0);
        assert_int_equal(authority_make("test authority", 100, &other_pem, &other_key, NULL), 0);
        assert_int_equal(authority_load(bytes_in(&authority_pem), bytes_in(&authority_key), &authority, NULL), 0);
        assert_int_equal(key_make(&client_key, NULL), 0);
        assert_int_equal(
                certificate_request_make(bytes_in(&client_key), "whatever it likes", &client_request, NULL), 0);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        authority_free(authority);
        key_done(&authority_key);
        key_done(&other_key);
        key_done(&client_key);
        buf_done(&authority_pem);
        buf_done(&other_pem);
        buf_done(&client_request);
        return 0;
}

/* ---- what OpenSSL's own functions read */

static X509 *x509_of(const struct buf *pem) {
        BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->size);
        X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);

        BIO_free(bio);
        assert_non_null(x);
        return x;
}

static void text_of_key(EVP_PKEY *key, struct buf *ret) {
        BIO *bio = BIO_new(BIO_s_mem());
        char *data;
        long n;

        assert_int_equal(PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL), 1);
        n = BIO_get_mem_data(bio, &data);
        assert_int_equal(buf_append(ret, data, (size_t)n), 0);
        BIO_free(bio);
}

static void text_of_certificate(X509 *x, struct buf *ret) {
        BIO *bio = BIO_new(BIO_s_mem());
        char *data;
        long n;

        assert_int_equal(PEM_write_bio_X509(bio, x), 1);
        n = BIO_get_mem_data(bio, &data);
        assert_int_equal(buf_append(ret, data, (size_t)n), 0);
        BIO_free(bio);
}

/* X509_V_OK or why not, as a server of clients would find. list: may be NULL. */
static int verdict(const struct buf *issued, const struct buf *issuer, const struct buf *list) {
        X509 *x = x509_of(issued), *ca = x509_of(issuer);
        X509_STORE *store = X509_STORE_new();
        X509_STORE_CTX *context = X509_STORE_CTX_new();
        X509_CRL *crl = NULL;
        int r;

        X509_STORE_add_cert(store, ca);
        if (list) {
                BIO *bio = BIO_new_mem_buf(list->data, (int)list->size);

                crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL);
                BIO_free(bio);
                assert_non_null(crl);
                X509_STORE_add_crl(store, crl);
                X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
        }
        X509_STORE_set_purpose(store, X509_PURPOSE_SSL_CLIENT);
        assert_int_equal(X509_STORE_CTX_init(context, store, x, NULL), 1);
        r = X509_verify_cert(context) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(context);
        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        X509_CRL_free(crl);
        X509_free(ca);
        X509_free(x);
        return r;
}

static int issue_for(const struct buf *request, unsigned days, struct buf *ret, struct certificate_issued *issued,
        struct error *reterr) {
        static const char *const names[] = {"URI:" NAME};
        const struct certificate_wish wish = {CERTIFICATE_CLIENT, "berlin", names, 1, days};

        return authority_issue(authority, bytes_in(request), &wish, ret, issued, reterr);
}

/* ---- tests */

static void test_client(void **state) {
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(certificate_info_done) struct certificate_info info = {};
        cleanup(buf_done) struct buf pem = {};
        int64_t now = time(NULL);
        X509 *x;

        (void)state;
        assert_int_equal(issue_for(&client_request, 30, &pem, &issued, NULL), 0);
        assert_int_equal(verdict(&pem, &authority_pem, NULL), X509_V_OK);
        assert_int_not_equal(verdict(&pem, &other_pem, NULL), X509_V_OK);
        assert_int_equal(certificate_matches(bytes_in(&pem), bytes_in(&client_key), NULL), 0);
        assert_int_equal(certificate_matches(bytes_in(&pem), bytes_in(&other_key), NULL), -EINVAL);

        assert_int_equal(certificate_read(bytes_in(&pem), &info, NULL), 0);
        assert_string_equal(info.subject, "CN=berlin");
        assert_string_equal(info.issuer, "CN=test authority");
        assert_int_equal(info.n_names, 1);
        assert_string_equal(info.names[0], "URI:" NAME);
        assert_string_equal(info.serial, issued.serial);
        assert_int_equal(info.not_after, issued.not_after);
        assert_false(issued.is_shortened);
        assert_in_range(info.not_after, now + 30 * DAY - 10, now + 30 * DAY + 10);
        assert_in_range(info.not_before, now - 310, now - 290);

        x = x509_of(&pem);
        assert_int_equal(X509_check_ca(x), 0);
        assert_int_equal(X509_get_key_usage(x), KU_DIGITAL_SIGNATURE);
        assert_int_equal(X509_get_extended_key_usage(x), XKU_SSL_CLIENT);
        assert_non_null(X509_get0_authority_key_id(x));
        X509_free(x);
}

static void test_serials(void **state) {
        cleanup(freep) char *first = NULL;
        size_t longest = 0;

        (void)state;
        for (int i = 0; i < 8; i++) {
                cleanup(certificate_issued_done) struct certificate_issued issued = {};
                cleanup(buf_done) struct buf pem = {};

                assert_int_equal(issue_for(&client_request, 1, &pem, &issued, NULL), 0);
                longest = max_of(longest, strlen(issued.serial));
                if (first)
                        assert_string_not_equal(first, issued.serial);
                else
                        first = strdup(issued.serial);
        }
        assert_int_equal(longest, 32); /* 128 bits: eight times less than 125 is once in 2^24 */
}

static void test_never_beyond_the_authority(void **state) {
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(buf_done) struct buf pem = {};

        (void)state;
        assert_int_equal(issue_for(&client_request, 3650, &pem, &issued, NULL), 0);
        assert_true(issued.is_shortened);
        assert_int_equal(issued.not_after, authority_not_after(authority));
}

static void test_server(void **state) {
        static const char *const names[] = {"DNS:kettle.example", "IP:10.0.0.5", "IP:fd00::1"};
        static const char *const wrong[] = {"DNS:a,DNS:b"};
        struct certificate_wish wish = {CERTIFICATE_SERVER, "kettle.example", names, 3, 10};
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(certificate_info_done) struct certificate_info info = {};
        cleanup(error_done) struct error err = {};
        cleanup(buf_done) struct buf pem = {};

        (void)state;
        assert_int_equal(authority_issue(authority, bytes_in(&client_request), &wish, &pem, &issued, NULL), 0);
        assert_int_equal(certificate_read(bytes_in(&pem), &info, NULL), 0);
        assert_int_equal(info.n_names, 3);
        for (size_t i = 0; i < 3; i++)
                assert_string_equal(info.names[i], names[i]);
        assert_int_equal(verdict(&pem, &authority_pem, NULL), X509_V_ERR_INVALID_PURPOSE);
        assert_int_equal(authority_verify(authority, bytes_in(&pem), CERTIFICATE_SERVER, NULL), 0);
        assert_int_equal(authority_verify(authority, bytes_in(&pem), CERTIFICATE_CLIENT, NULL), -EINVAL);

        wish.names = wrong;
        wish.n_names = 1;
        assert_int_equal(authority_issue(authority, bytes_in(&client_request), &wish, &pem, &issued, &err), -EINVAL);
        assert_non_null(strstr(error_text(&err), "\"DNS:a,DNS:b\""));
}

static void request_with(EVP_PKEY *key, struct buf *ret) {
        cleanup(key_done) struct buf text = {};

        assert_non_null(key);
        text_of_key(key, &text);
        assert_int_equal(certificate_request_make(bytes_in(&text), "x", ret, NULL), 0);
        EVP_PKEY_free(key);
}

/* A request is all that an outsider gives. */
static void test_requests(void **state) {
        const struct {
                EVP_PKEY *key;
                const char *reason; /* NULL: it is taken */
        } keys[] = {
                {EVP_EC_gen("P-384"), NULL},
                {EVP_RSA_gen(2048), NULL},
                {EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), NULL},
                {EVP_RSA_gen(1024), "an RSA key of 1024 bits"},
                {EVP_EC_gen("secp256k1"), "curve secp256k1"},
                {EVP_PKEY_Q_keygen(NULL, NULL, "ED448"), "must be RSA, Ed25519"},
        };
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(buf_done) struct buf forged = {}, pem = {};
        X509_REQ *request;
        EVP_PKEY *key;
        BIO *bio;
        char *data;
        long n;

        (void)state;
        for (size_t i = 0; i < n_elements(keys); i++) {
                cleanup(certificate_issued_done) struct certificate_issued made = {};
                cleanup(error_done) struct error err = {};
                cleanup(buf_done) struct buf text = {}, certificate = {};
                int r;

                request_with(keys[i].key, &text);
                r = issue_for(&text, 5, &certificate, &made, &err);
                if (keys[i].reason) {
                        assert_int_equal(r, -EINVAL);
                        assert_non_null(strstr(error_text(&err), keys[i].reason));
                        assert_int_equal(certificate.size, 0);
                } else {
                        assert_int_equal(r, 0);
                        assert_int_equal(verdict(&certificate, &authority_pem, NULL), X509_V_OK);
                }
        }

        /* Somebody else's public key, signed with one's own. */
        bio = BIO_new_mem_buf(client_request.data, (int)client_request.size);
        request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
        BIO_free(bio);
        key = EVP_EC_gen("P-256");
        assert_int_not_equal(X509_REQ_sign(request, key, EVP_sha256()), 0);
        bio = BIO_new(BIO_s_mem());
        assert_int_equal(PEM_write_bio_X509_REQ(bio, request), 1);
        n = BIO_get_mem_data(bio, &data);
        assert_int_equal(buf_append(&forged, data, (size_t)n), 0);
        BIO_free(bio);
        X509_REQ_free(request);
        EVP_PKEY_free(key);
        assert_int_equal(issue_for(&forged, 5, &pem, &issued, NULL), -EINVAL);

        assert_int_equal(issue_for(&client_key, 5, &pem, &issued, NULL), -EBADMSG);
        buf_clear(&forged);
        assert_int_equal(issue_for(&forged, 5, &pem, &issued, NULL), -EBADMSG);
}

/* An authority made by other means. value: of an extension more; NULL: none. */
static void odd_authority(const char *constraints, const char *usage, const char *extended, long from, long until,
        struct buf *ret_pem, struct buf *ret_key) {
        const struct {
                int nid;
                const char *value;
        } extensions[] = {{NID_basic_constraints, constraints}, {NID_key_usage, usage}, {NID_ext_key_usage, extended}};
        EVP_PKEY *key = EVP_EC_gen("P-256");
        X509 *x = X509_new();
        X509V3_CTX context;

        X509V3_set_ctx(&context, x, x, NULL, NULL, 0);
        X509V3_set_ctx_nodb(&context);
        X509_set_version(x, X509_VERSION_3);
        ASN1_INTEGER_set(X509_get_serialNumber(x), 7);
        X509_NAME_add_entry_by_txt(
                X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)"odd", -1, -1, 0);
        X509_set_issuer_name(x, X509_get_subject_name(x));
        X509_gmtime_adj(X509_getm_notBefore(x), from);
        X509_gmtime_adj(X509_getm_notAfter(x), until);
        X509_set_pubkey(x, key);
        for (size_t i = 0; i < n_elements(extensions); i++) {
                X509_EXTENSION *e;

                if (!extensions[i].value)
                        continue;
                e = X509V3_EXT_conf_nid(NULL, &context, extensions[i].nid, extensions[i].value);
                assert_non_null(e);
                X509_add_ext(x, e, -1);
                X509_EXTENSION_free(e);
        }
        assert_int_not_equal(X509_sign(x, key, EVP_sha256()), 0);
        text_of_certificate(x, ret_pem);
        text_of_key(key, ret_key);
        X509_free(x);
        EVP_PKEY_free(key);
}

static void test_wrong_authorities(void **state) {
        const struct {
                const char *constraints, *usage, *extended;
                long from, until;
                const char *reason; /* NULL: it is taken */
        } odd[] = {
                {"critical,CA:TRUE", "keyCertSign", NULL, -DAY, DAY, NULL},
                {"critical,CA:TRUE", NULL, "clientAuth", -DAY, DAY, NULL},
                {"critical,CA:FALSE", "keyCertSign", NULL, -DAY, DAY, "not an authority's"},
                {NULL, NULL, NULL, -DAY, DAY, "not an authority's"},
                {"critical,CA:TRUE", "digitalSignature", NULL, -DAY, DAY, "may not sign"},
                {"critical,CA:TRUE", "keyCertSign", "serverAuth", -DAY, DAY, "vouch for clients"},
                {"critical,CA:TRUE", "keyCertSign", NULL, -2 * DAY, -DAY, "expired"},
                {"critical,CA:TRUE", "keyCertSign", NULL, DAY, 2 * DAY, "not valid yet"},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(odd); i++) {
                cleanup(authority_freep) struct authority *loaded = NULL;
                cleanup(error_done) struct error err = {};
                cleanup(buf_done) struct buf pem = {};
                cleanup(key_done) struct buf key = {};
                int r;

                odd_authority(odd[i].constraints, odd[i].usage, odd[i].extended, odd[i].from, odd[i].until, &pem, &key);
                r = authority_load(bytes_in(&pem), bytes_in(&key), &loaded, &err);
                assert_int_equal(r, odd[i].reason ? -EINVAL : 0);
                if (odd[i].reason)
                        assert_non_null(strstr(error_text(&err), odd[i].reason));
        }
}

static void refused(struct bytes certificate, struct bytes key, int code, const char *reason) {
        cleanup(authority_freep) struct authority *loaded = NULL;
        cleanup(error_done) struct error err = {};

        assert_int_equal(authority_load(certificate, key, &loaded, &err), code);
        assert_non_null(strstr(error_text(&err), reason));
        assert_null(loaded);
}

static void test_wrong_keys(void **state) {
        cleanup(buf_done) struct buf locked = {};
        BIO *bio = BIO_new(BIO_s_mem());
        EVP_PKEY *key = EVP_EC_gen("P-256");
        char *data;
        long n;

        (void)state;
        refused(bytes_in(&authority_pem), bytes_in(&other_key), -EINVAL, "not the certificate's");
        refused(bytes_in(&authority_pem), bytes_in(&authority_pem), -EBADMSG, "no private key");
        refused(bytes_in(&authority_key), bytes_in(&authority_key), -EBADMSG, "no certificate");
        refused(bytes_of(NULL, 0), bytes_in(&authority_key), -EBADMSG, "no certificate");
        refused(bytes_in(&authority_pem), bytes_of_string("-----BEGIN PRIVATE KEY-----\nxx\n"), -EBADMSG,
                "no private key");

        /* Nobody is asked for its passphrase. */
        assert_int_equal(PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_256_cbc(), "secret", 6, NULL, NULL), 1);
        n = BIO_get_mem_data(bio, &data);
        assert_int_equal(buf_append(&locked, data, (size_t)n), 0);
        BIO_free(bio);
        EVP_PKEY_free(key);
        refused(bytes_in(&authority_pem), bytes_in(&locked), -EBADMSG, "passphrase");
}

/* An intermediate authority is handed out with what it issues: a server that knows only the root accepts both together. */
static void test_intermediate(void **state) {
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(authority_freep) struct authority *middle = NULL;
        cleanup(buf_done) struct buf root_pem = {}, middle_pem = {}, pem = {};
        cleanup(key_done) struct buf root_key = {}, middle_key = {};
        const struct certificate_wish wish = {CERTIFICATE_CLIENT, "berlin", NULL, 0, 5};
        EVP_PKEY *signer;
        X509 *x, *root;
        X509_STORE_CTX *context = X509_STORE_CTX_new();
        X509_STORE *store = X509_STORE_new();
        STACK_OF(X509) *chain = sk_X509_new_null();
        BIO *bio;
        X509 *leaf, *next;

        (void)state;
        odd_authority("critical,CA:TRUE", "keyCertSign", NULL, -DAY, DAY, &root_pem, &root_key);
        odd_authority("critical,CA:TRUE", "keyCertSign", NULL, -DAY, DAY, &middle_pem, &middle_key);
        root = x509_of(&root_pem);
        x = x509_of(&middle_pem);
        X509_NAME_add_entry_by_txt(
                X509_get_subject_name(x), "O", MBSTRING_UTF8, (const unsigned char *)"middle", -1, -1, 0);
        bio = BIO_new_mem_buf(root_key.data, (int)root_key.size);
        signer = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
        BIO_free(bio);
        assert_int_not_equal(X509_sign(x, signer, EVP_sha256()), 0);
        buf_clear(&middle_pem);
        text_of_certificate(x, &middle_pem);
        assert_int_equal(buf_append(&middle_pem, root_pem.data, root_pem.size), 0);

        assert_int_equal(authority_load(bytes_in(&middle_pem), bytes_in(&middle_key), &middle, NULL), 0);
        assert_int_equal(authority_issue(middle, bytes_in(&client_request), &wish, &pem, &issued, NULL), 0);
        bio = BIO_new_mem_buf(pem.data, (int)pem.size);
        leaf = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        next = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        assert_non_null(next);
        assert_null(PEM_read_bio_X509(bio, NULL, NULL, NULL)); /* not the root */
        BIO_free(bio);
        sk_X509_push(chain, next);
        X509_STORE_add_cert(store, root);
        assert_int_equal(X509_STORE_CTX_init(context, store, leaf, chain), 1);
        assert_int_equal(X509_verify_cert(context), 1);

        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        sk_X509_free(chain);
        X509_free(leaf);
        X509_free(next);
        X509_free(x);
        X509_free(root);
        EVP_PKEY_free(signer);
}

static void test_revocation(void **state) {
        cleanup(certificate_issued_done) struct certificate_issued one = {}, two = {};
        cleanup(buf_done) struct buf pem = {}, pem2 = {}, empty = {}, first = {}, second = {}, third = {}, foreign = {};
        cleanup(authority_freep) struct authority *other = NULL;

        (void)state;
        assert_int_equal(issue_for(&client_request, 5, &pem, &one, NULL), 0);
        assert_int_equal(issue_for(&client_request, 5, &pem2, &two, NULL), 0);
        assert_int_equal(authority_revoke(authority, (struct bytes){}, NULL, &empty, NULL), 0);
        assert_int_equal(verdict(&pem, &authority_pem, &empty), X509_V_OK);
        assert_int_equal(authority_revoke(authority, bytes_in(&empty), one.serial, &first, NULL), 0);
        assert_int_equal(verdict(&pem, &authority_pem, &first), X509_V_ERR_CERT_REVOKED);
        assert_int_equal(verdict(&pem2, &authority_pem, &first), X509_V_OK);
        assert_int_equal(authority_revoke(authority, bytes_in(&first), two.serial, &second, NULL), 0);
        assert_int_equal(verdict(&pem, &authority_pem, &second), X509_V_ERR_CERT_REVOKED);
        assert_int_equal(verdict(&pem2, &authority_pem, &second), X509_V_ERR_CERT_REVOKED);
        assert_int_equal(authority_revoke(authority, bytes_in(&second), two.serial, &third, NULL), -EEXIST);

        assert_int_equal(authority_load(bytes_in(&other_pem), bytes_in(&other_key), &other, NULL), 0);
        assert_int_equal(authority_revoke(other, bytes_in(&second), two.serial, &foreign, NULL), -EINVAL);
        assert_int_equal(foreign.size, 0);
}

/* What clients are handed to know the server by. */
static void test_anchors(void **state) {
        static const char *const names[] = {"DNS:kettle.example"};
        const struct certificate_wish wish = {CERTIFICATE_SERVER, "kettle.example", names, 1, 10};
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(buf_done) struct buf server = {}, bundle = {}, found = {}, none = {}, alone = {};
        cleanup(key_done) struct buf key = {};

        (void)state;
        assert_int_equal(authority_issue(authority, bytes_in(&client_request), &wish, &server, &issued, NULL), 0);
        assert_int_equal(buf_append(&bundle, other_pem.data, other_pem.size), 0);
        assert_int_equal(buf_append(&bundle, authority_pem.data, authority_pem.size), 0);
        /* The one of several, although another has the same name; and no other. */
        assert_int_equal(certificate_find_anchor(bytes_in(&server), bytes_in(&bundle), &found), 0);
        assert_true(bytes_equal(bytes_in(&found), bytes_in(&authority_pem)));
        assert_int_equal(certificate_find_anchor(bytes_in(&server), bytes_in(&other_pem), &none), -ENOENT);
        assert_int_equal(certificate_find_anchor(bytes_in(&server), bytes_in(&server), &none), -ENOENT);
        assert_int_equal(certificate_find_anchor(bytes_of(NULL, 0), bytes_in(&bundle), &none), -ENOENT);
        assert_int_equal(none.size, 0);
        /* A root behind the server's own certificate, and a server that signs itself. */
        buf_clear(&found);
        assert_int_equal(buf_append(&server, authority_pem.data, authority_pem.size), 0);
        assert_int_equal(certificate_find_anchor(bytes_in(&server), bytes_in(&server), &found), 0);
        assert_true(bytes_equal(bytes_in(&found), bytes_in(&authority_pem)));
        odd_authority(NULL, NULL, "serverAuth", -DAY, DAY, &alone, &key);
        buf_clear(&found);
        assert_int_equal(certificate_find_anchor(bytes_in(&alone), bytes_in(&alone), &found), 0);
        assert_true(bytes_equal(bytes_in(&found), bytes_in(&alone)));
}

static void test_written_serials(void **state) {
        const char *const good[][2] = {{"0a:0B", "0A0B"}, {"00ff", "FF"}, {"1", "01"}};
        const char *const bad[] = {"", ":", "xyz", "-1", "0x12", "12 34", "00112233445566778899aabbccddeeff0011223344"};

        (void)state;
        for (size_t i = 0; i < n_elements(good); i++) {
                cleanup(freep) char *serial = authority_serial(good[i][0]);

                assert_non_null(serial);
                assert_string_equal(serial, good[i][1]);
        }
        for (size_t i = 0; i < n_elements(bad); i++)
                assert_null(authority_serial(bad[i]));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_client),
                cmocka_unit_test(test_serials),
                cmocka_unit_test(test_never_beyond_the_authority),
                cmocka_unit_test(test_server),
                cmocka_unit_test(test_requests),
                cmocka_unit_test(test_wrong_authorities),
                cmocka_unit_test(test_wrong_keys),
                cmocka_unit_test(test_intermediate),
                cmocka_unit_test(test_revocation),
                cmocka_unit_test(test_anchors),
                cmocka_unit_test(test_written_serials),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
