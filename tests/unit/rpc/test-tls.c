/* Who is let in over TLS, as whom, and what the others are told. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "knock.h"

static struct knock k;

static int setup(void **state) {
        (void)state;
        knock_start(&k, NULL);
        return 0;
}

static int setup_brief(void **state) {
        (void)state;
        knock_start(&k, &(struct door_limits){.handshake_ns = 500 * NSEC_PER_MSEC});
        return 0;
}

static int teardown(void **state) {
        (void)state;
        knock_stop(&k);
        return 0;
}

/* Policies. */

static void try(const struct tls_server_config *config, int expected, const char *reason) {
        struct tls_server *s = NULL;
        struct error err = {};

        assert_int_equal(tls_server_new(config, &s, &err), expected);
        if (!strstr(error_text(&err), reason))
                print_error("\"%s\" is not in: %s\n", reason, error_text(&err));
        assert_non_null(strstr(error_text(&err), reason));
        assert_null(s);
        error_done(&err);
}

static void test_bad_policies(void **state) {
        struct bytes certificate = cert_pem(&k.server, NULL), key = cert_key_pem(&k.server),
                     other = cert_key_pem(&k.berlin);
        struct bytes ca = cert_pem(&k.common, NULL), leaf = cert_pem(&k.berlin, NULL);
        struct bytes list = cert_revocations(&k.foreign_ca, 3600, NULL);
        struct tls_authority authority = {"clientCA", ca, {}};
        struct tls_rule rules[2] = {{"CN:a", "a", 0}, {"CN:a", "b", 0}};
        const struct tls_server_config good = {certificate, key, &authority, 1, rules, 1};
        struct tls_server_config c;

        (void)state;
        c = good;
        c.certificate = bytes_of_string("nonsense");
        try(&c, -EINVAL, "certificate: no certificate in PEM");
        c.certificate = bytes_of_string("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
        try(&c, -EINVAL, "certificate: certificate 1 cannot be read");
        c = good;
        c.key = other;
        try(&c, -EINVAL, "the key is not the certificate's");
        c.key = bytes_of_string("");
        try(&c, -EINVAL, "key: no private key that can be read");
        c = good;
        c.n_rules = 2;
        try(&c, -EEXIST, "CN:a: leads to a and to b under one authority");
        c.n_rules = 1;
        rules[0].name = "berlin";
        try(&c, -EINVAL, "berlin: not a name");
        rules[0].name = "CN:a";
        rules[0].authority = 1;
        try(&c, -EINVAL, "no such authority");
        rules[0].authority = 0;
        authority.certificates = leaf;
        try(&c, -EINVAL, "is not a CA's certificate");
        authority.certificates = ca;
        authority.revocations = list;
        try(&c, -EINVAL, "clientCA: a revocation list that none of its certificates has signed");
        authority.revocations = ca;
        try(&c, -EINVAL, "clientCA: ");
        bytes_free(&certificate);
        bytes_free(&key);
        bytes_free(&other);
        bytes_free(&ca);
        bytes_free(&leaf);
        bytes_free(&list);
}

static void test_warnings(void **state) {
        struct cert old =
                cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "server", .from = -7200, .until = -60});
        struct bytes certificate = cert_pem(&old, NULL), key = cert_key_pem(&old), ca = cert_pem(&k.common, NULL);
        struct bytes list = cert_revocations(&k.common, -60, NULL);
        struct tls_authority authority = {"clientCA", ca, list};
        const struct tls_server_config config = {certificate, key, &authority, 1, NULL, 0};
        cleanup(buf_done) struct buf text = {};
        struct tls_server *s;

        (void)state;
        assert_int_equal(tls_server_new(&config, &s, NULL), 0);
        assert_int_equal(tls_server_warnings(s, &text), 0);
        assert_int_equal(buf_append(&text, "", 1), 0);
        assert_non_null(strstr((char *)text.data, "the certificate has expired"));
        assert_non_null(strstr((char *)text.data, "clientCA has a revocation list that is out of date"));
        assert_true(tls_server_not_after(s) < time(NULL));
        tls_server_unref(s);
        buf_clear(&text);
        assert_int_equal(tls_server_warnings(k.policy, &text), 0);
        assert_int_equal(text.size, 0);
        cert_done(&old);
        bytes_free(&certificate);
        bytes_free(&key);
        bytes_free(&ca);
        bytes_free(&list);
}

/* Handshakes. */

static void test_versions(void **state) {
        const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
        const char *const protocols[] = {"\x02h2", "\x08http/1.1", "\x02h2\x08http/1.1", NULL};

        (void)state;
        for (size_t v = 0; v < n_elements(versions); v++)
                for (size_t p = 0; p < n_elements(protocols); p++) {
                        struct tls_wish wish = {.cert = &k.berlin, .version = versions[v], .alpn = protocols[p]};
                        const unsigned char *chosen = NULL;
                        char text[1024] = {};
                        struct tls_end e;
                        unsigned n = 0;

                        assert_true(tls_end_open(&e, &k, &wish));
                        assert_int_equal(SSL_version(e.ssl), versions[v]);
                        SSL_get0_alpn_selected(e.ssl, &chosen, &n);
                        assert_int_equal(n, protocols[p] ? (unsigned)protocols[p][0] : 0);
                        if (versions[v] == TLS1_2_VERSION)
                                assert_true(SSL_write(e.ssl, "GET /health HTTP/1.1\r\n\r\n", 24) == 24);
                        for (int i = 0; !strstr(text, "}\n");) {
                                int r = SSL_read(e.ssl, text + i, (int)sizeof(text) - 1 - i);

                                assert_true(r > 0);
                                i += r;
                        }
                        assert_non_null(strstr(text, "HTTP/1.1 200 OK"));
                        tls_end_close(&e);
                }
        assert_string_equal(k.last_label, "berlin");
}

static void test_old_version(void **state) {
        struct tls_wish wish = {.cert = &k.berlin, .version = TLS1_1_VERSION};
        struct tls_end e;

        (void)state;
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
}

static void test_our_client(void **state) {
        char text[256];

        (void)state;
        assert_int_equal(knock_call(&k, &k.berlin, text, sizeof(text)), GRPC_OK);
        assert_true(strncmp(text, "0 0 0 127.0.0.1:", 16) == 0);
        assert_non_null(strstr(text, " CN:berlin "));
        assert_string_equal(k.last_label, "berlin");
        assert_int_equal(knock_call(&k, &k.paris, text, sizeof(text)), GRPC_OK);
        assert_non_null(strstr(text, " URI:spiffe://x/paris "));
        assert_string_equal(k.last_label, "paris");
        assert_int_equal(knock_call(&k, NULL, text, sizeof(text)), GRPC_UNAVAILABLE);
        assert_non_null(strstr(text, "certificate required"));
}

static void test_names(void **state) {
        struct cert inner = cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "inner", .ca = true});
        struct cert by_dns = knock_cert(&k.common, "x", "DNS:BERLIN.example");
        struct cert shared_common = knock_cert(&k.common, "shared", NULL),
                    shared_paris = knock_cert(&k.paris_ca, "shared", NULL);
        struct cert twice = knock_cert(&k.common, "berlin", "DNS:berlin.example,DNS:other");
        struct cert below = knock_cert(&inner, "munich", NULL);
        const struct {
                const struct cert *cert, *chain;
                const char *label;
        } cases[] = {{&by_dns, NULL, "berlin"}, {&shared_common, NULL, "berlin"}, {&shared_paris, NULL, "paris"},
                {&twice, NULL, "berlin"}, {&below, &inner, "munich"}};

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                struct tls_wish wish = {.cert = cases[i].cert, .chain = cases[i].chain};
                struct tls_end e;

                assert_true(tls_end_open(&e, &k, &wish));
                assert_string_equal(k.last_label, cases[i].label);
                tls_end_close(&e);
        }
        cert_done(&inner);
        cert_done(&by_dns);
        cert_done(&shared_common);
        cert_done(&shared_paris);
        cert_done(&twice);
        cert_done(&below);
}

/* An authority that is not the root: trusted as it is, and what its root signed otherwise is not. */
static void test_inner_authority(void **state) {
        struct cert inner = cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "inner", .ca = true});
        struct cert below = knock_cert(&inner, "munich", NULL), beside = knock_cert(&k.common, "munich", NULL);
        struct bytes certificate = cert_pem(&k.server, NULL), key = cert_key_pem(&k.server),
                     ca = cert_pem(&inner, NULL);
        struct bytes list = cert_revocations(&inner, 3600, &below, NULL);
        struct tls_authority authority = {"inner", ca, {}};
        const struct tls_rule rule = {"CN:munich", "munich", 0};
        const struct tls_server_config config = {certificate, key, &authority, 1, &rule, 1};
        struct tls_wish wish = {.cert = &below};
        struct tls_server *policy;
        struct tls_end e;

        (void)state;
        assert_int_equal(tls_server_new(&config, &policy, NULL), 0);
        knock_set_policy(&k, policy);
        assert_true(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        wish.cert = &beside;
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        wish.cert = &below;
        authority.revocations = list;
        assert_int_equal(tls_server_new(&config, &policy, NULL), 0);
        knock_set_policy(&k, policy);
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        cert_done(&inner);
        cert_done(&below);
        cert_done(&beside);
        bytes_free(&certificate);
        bytes_free(&key);
        bytes_free(&ca);
        bytes_free(&list);
}

/* An authority below another, both trusted: the upper one's list is heard about the lower one. */
static void test_inner_authority_revoked(void **state) {
        struct cert inner = cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "inner", .ca = true});
        struct cert other = cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "other", .ca = true});
        struct cert lower = cert_new(&(struct cert_wish){.issuer = &inner, .cn = "lower", .ca = true});
        struct cert below = knock_cert(&inner, "munich", NULL), good = knock_cert(&other, "munich", NULL);
        struct cert lowest = knock_cert(&lower, "munich", NULL);
        struct bytes certificate = cert_pem(&k.server, NULL), key = cert_key_pem(&k.server),
                     ca = cert_pem(&lower, &inner, &other, &k.common, NULL),
                     list = cert_revocations(&k.common, 3600, &inner, NULL);
        const struct tls_authority authority = {"both", ca, list};
        const struct tls_rule rule = {"CN:munich", "munich", 0};
        const struct tls_server_config config = {certificate, key, &authority, 1, &rule, 1};
        double before = knock_count("revoked");
        struct tls_wish wish = {.cert = &below};
        struct tls_server *policy;
        struct tls_end e;

        (void)state;
        assert_int_equal(tls_server_new(&config, &policy, NULL), 0);
        knock_set_policy(&k, policy);
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        assert_int_equal((int)(knock_count("revoked") - before), 1);
        wish.chain = &inner;
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        wish = (struct tls_wish){.cert = &lowest};
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        assert_int_equal((int)(knock_count("revoked") - before), 3);
        wish = (struct tls_wish){.cert = &good};
        assert_true(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        cert_done(&inner);
        cert_done(&other);
        cert_done(&lower);
        cert_done(&below);
        cert_done(&lowest);
        cert_done(&good);
        bytes_free(&certificate);
        bytes_free(&key);
        bytes_free(&ca);
        bytes_free(&list);
}

/* What the refused are told: nothing that depends on what the rules are. */
static void test_refusals(void **state) {
        struct cert expired =
                cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "berlin", .from = -7200, .until = -3600});
        struct cert expired_unknown =
                cert_new(&(struct cert_wish){.issuer = &k.foreign_ca, .cn = "x", .from = -7200, .until = -3600});
        struct cert future =
                cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "berlin", .from = 3600, .until = 7200});
        struct cert foreign = knock_cert(&k.foreign_ca, "berlin", NULL);
        struct cert foreign_unknown = knock_cert(&k.foreign_ca, "nobody", NULL);
        struct cert unknown = knock_cert(&k.common, "nobody", "URI:spiffe://x/nobody");
        struct cert wrong_ca = knock_cert(&k.common, NULL, "URI:spiffe://x/paris");
        struct cert other_way = knock_cert(&k.paris_ca, "berlin", NULL);
        struct cert ambiguous = knock_cert(&k.common, "munich", "DNS:berlin.example");
        struct cert revoked = knock_cert(&k.common, "berlin", "DNS:revoked.example");
        struct cert server_only =
                cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "berlin", .usage = "serverAuth"});
        struct cert self = cert_new(&(struct cert_wish){.cn = "berlin"});
        struct cert nameless = knock_cert(&k.common, NULL, NULL);
        struct cert below_leaf = knock_cert(&k.berlin, "munich", NULL); /* signed by a client */
        const int bad = SSL_AD_BAD_CERTIFICATE;
        const struct {
                const struct cert *cert, *chain;
                const char *result;
                int alert;
        } cases[] = {
                {&expired, NULL, "expired", SSL_AD_CERTIFICATE_EXPIRED},
                {&expired_unknown, NULL, "expired", SSL_AD_CERTIFICATE_EXPIRED},
                {&future, NULL, "expired", SSL_AD_CERTIFICATE_EXPIRED},
                {&foreign, NULL, "untrusted", bad},
                {&foreign_unknown, NULL, "untrusted", bad},
                {&unknown, NULL, "unknown", bad},
                {&wrong_ca, NULL, "untrusted", bad},
                {&other_way, NULL, "untrusted", bad},
                {&ambiguous, NULL, "ambiguous", bad},
                {&revoked, NULL, "revoked", bad},
                {&server_only, NULL, "untrusted", bad},
                {&self, NULL, "untrusted", bad},
                {&nameless, NULL, "unknown", bad},
                {&below_leaf, &k.berlin, "untrusted", bad},
                {NULL, NULL, "no_certificate", -2},
        };

        (void)state;
        k.revoked[AUTHORITY_COMMON] = cert_revocations(&k.common, 3600, &revoked, NULL);
        knock_set_policy(&k, knock_policy(&k, NULL));
        for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
                for (size_t i = 0; i < n_elements(cases); i++) {
                        struct tls_wish wish = {
                                .cert = cases[i].cert, .chain = cases[i].chain, .version = version, .alpn = "\x02h2"};
                        double before = knock_count(cases[i].result);
                        uint64_t started = clock_now_ns();
                        struct tls_end e;

                        assert_false(tls_end_open(&e, &k, &wish));
                        if (cases[i].alert > 0)
                                assert_int_equal(e.alert, cases[i].alert);
                        else
                                assert_int_equal(e.alert,
                                        version == TLS1_3_VERSION ? SSL_AD_CERTIFICATE_REQUIRED
                                                                  : SSL_AD_HANDSHAKE_FAILURE);
                        /* All alike after a while that is longer than whatever it took to find out. */
                        if (cases[i].alert == bad)
                                assert_true(clock_now_ns() - started >= 50 * NSEC_PER_MSEC);
                        assert_int_equal((int)(knock_count(cases[i].result) - before), 1);
                        tls_end_close(&e);
                }
        assert_int_equal(k.n_admitted, 0);
        cert_done(&expired);
        cert_done(&expired_unknown);
        cert_done(&future);
        cert_done(&foreign);
        cert_done(&foreign_unknown);
        cert_done(&unknown);
        cert_done(&wrong_ca);
        cert_done(&other_way);
        cert_done(&ambiguous);
        cert_done(&revoked);
        cert_done(&server_only);
        cert_done(&self);
        cert_done(&nameless);
        cert_done(&below_leaf);
}

static void test_alpn(void **state) {
        struct tls_wish wish = {.cert = &k.berlin,
                .alpn = "\x03"
                        "foo"};
        double before = knock_count("alpn");
        struct tls_end e;

        (void)state;
        assert_false(tls_end_open(&e, &k, &wish));
        assert_int_equal(e.alert, SSL_AD_NO_APPLICATION_PROTOCOL);
        assert_int_equal((int)(knock_count("alpn") - before), 1);
        tls_end_close(&e);
}

static void test_no_resumption(void **state) {
        struct tls_wish wish = {.cert = &k.berlin, .version = TLS1_2_VERSION};

        (void)state;
        for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
                struct tls_end e, second;
                SSL_SESSION *session;

                wish.version = version;
                assert_true(tls_end_open(&e, &k, &wish));
                session = SSL_get1_session(e.ssl);
                tls_end_close(&e);
                second = (struct tls_end){.ctx = SSL_CTX_new(TLS_client_method()), .alert = -1};
                SSL_CTX_use_certificate(second.ctx, k.berlin.x);
                SSL_CTX_use_PrivateKey(second.ctx, k.berlin.key);
                second.ssl = SSL_new(second.ctx);
                (void)SSL_set_session(second.ssl, session);
                second.fd = knock_connect(&k, NULL);
                SSL_set_fd(second.ssl, second.fd);
                assert_int_equal(SSL_connect(second.ssl), 1);
                assert_int_equal(SSL_session_reused(second.ssl), 0);
                tls_end_close(&second);
                SSL_SESSION_free(session);
        }
}

/* A peer that wants a new handshake, or new keys, over and over. */
static void test_renegotiation(void **state) {
        struct tls_wish wish = {.cert = &k.berlin, .version = TLS1_2_VERSION};
        char byte;
        struct tls_end e;
        bool closed = false;

        (void)state;
        assert_true(tls_end_open(&e, &k, &wish));
        assert_int_equal(SSL_renegotiate(e.ssl), 1);
        assert_true(SSL_do_handshake(e.ssl) != 1);
        assert_int_equal(e.alert, SSL_AD_NO_RENEGOTIATION);
        tls_end_close(&e);

        wish.version = TLS1_3_VERSION;
        assert_true(tls_end_open(&e, &k, &wish));
        for (unsigned i = 0; i < 100000 && !closed; i++) {
                assert_int_equal(SSL_key_update(e.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
                closed = SSL_do_handshake(e.ssl) != 1;
        }
        if (!closed)
                closed = SSL_read(e.ssl, &byte, 1) <= 0;
        assert_true(closed);
        tls_end_close(&e);
        assert_int_equal(knock_call(&k, &k.berlin, (char[256]){}, 256), GRPC_OK);
}

/* Bytes that are no records, before and after the handshake. */
static void test_garbage(void **state) {
        static const struct {
                const char *data;
                size_t size;
        } cases[] = {{"GET / HTTP/1.1\r\n\r\n", 18}, {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24},
                {"\x16\x03\x01\xff\xff\x01\x00\xff\xfb", 9}, {"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x03", 10},
                {"\x80\x2e\x01\x03\x01", 5}, {"\x15\x03\x03\x00\x02\x02\x28", 7}, {"\0\0\0\0\0\0\0\0", 8}};
        struct tls_wish wish = {.cert = &k.berlin};
        char room[4096];

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                int fd = knock_connect(&k, NULL);

                assert_int_equal(send(fd, cases[i].data, cases[i].size, MSG_NOSIGNAL), cases[i].size);
                while (recv(fd, room, sizeof(room), 0) > 0)
                        ; /* an alert, then the end */
                close(fd);
        }
        for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
                for (size_t i = 0; i < n_elements(cases); i++) {
                        struct tls_end e;

                        wish.version = version;
                        assert_true(tls_end_open(&e, &k, &wish));
                        /* an oversized record's header among them */
                        assert_int_equal(send(e.fd, "\x17\x03\x03\xff\xf0", 5, MSG_NOSIGNAL), 5);
                        (void)send(e.fd, cases[i].data, cases[i].size, MSG_NOSIGNAL);
                        while (recv(e.fd, room, sizeof(room), 0) > 0)
                                ;
                        tls_end_close(&e);
                }
        assert_int_equal(knock_call(&k, &k.berlin, room, sizeof(room)), GRPC_OK);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_bad_policies),
                TEST(test_warnings),
                TEST(test_versions),
                TEST(test_old_version),
                TEST(test_our_client),
                TEST(test_names),
                TEST(test_inner_authority),
                TEST(test_inner_authority_revoked),
                TEST(test_refusals),
                TEST(test_alpn),
                TEST(test_no_resumption),
                TEST(test_renegotiation),
                cmocka_unit_test_setup_teardown(test_garbage, setup_brief, teardown),
        };

        return cmocka_run_group_tests_name("rpc-tls", tests, NULL, NULL);
}
