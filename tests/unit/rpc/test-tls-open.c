/* What happens on connections over TLS that are open: policies replaced, certificates that expire, long streams and slow readers; and our client's side. */

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

static int teardown(void **state) {
        (void)state;
        knock_stop(&k);
        return 0;
}

/* Policies replaced while connections are open. */

struct stream {
        struct loop *loop;
        struct grpc_client *client;
        struct grpc_client_call *call;
        struct tls_client *tls;
        int n_messages, n_ends;
        enum grpc_code code;
};

static void on_stream_message(void *userdata, struct bytes data) {
        struct stream *s = userdata;

        (void)data;
        s->n_messages++;
        loop_stop(s->loop);
}

static void on_stream_end(void *userdata, enum grpc_code code, const char *message) {
        struct stream *s = userdata;

        (void)message;
        s->n_ends++;
        s->code = code;
        loop_stop(s->loop);
}

static const struct grpc_client_handler stream_handler = {.on_message = on_stream_message, .on_end = on_stream_end};

static void stream_open(struct stream *s, const struct cert *cert) {
        *s = (struct stream){.tls = knock_client(&k, cert, NULL)};
        assert_int_equal(loop_new("stream", &s->loop), 0);
        assert_int_equal(grpc_client_new_tls(s->loop, k.address, s->tls, &s->client, NULL), 0);
        assert_int_equal(grpc_client_start(s->client, "/test.Echo/Bidi", 0, &stream_handler, s, &s->call), 0);
        assert_int_equal(grpc_client_send(s->call, bytes_of_string("hello")), 0);
        while (!s->n_messages && !s->n_ends)
                assert_int_equal(loop_run(s->loop), 0);
        assert_int_equal(s->n_ends, 0);
}

/* It answers still. */
static bool stream_lives(struct stream *s) {
        int before = s->n_messages;

        if (!s->n_ends)
                assert_int_equal(grpc_client_send(s->call, bytes_of_string("again")), 0);
        while (s->n_messages == before && !s->n_ends)
                assert_int_equal(loop_run(s->loop), 0);
        return !s->n_ends;
}

static void stream_close(struct stream *s) {
        grpc_client_free(s->client);
        tls_client_unref(s->tls);
        loop_free(s->loop);
}

static void test_replaced(void **state) {
        struct cert munich = knock_cert(&k.common, "munich", NULL), berlin2 = knock_cert(&k.common, "berlin", NULL);
        struct tls_wish wish = {.cert = &k.berlin, .alpn = "\x08http/1.1"};
        struct stream a, b, c, d;
        struct tls_end http1;
        char byte;

        (void)state;
        stream_open(&a, &k.berlin);
        stream_open(&b, &berlin2);
        stream_open(&c, &munich);
        stream_open(&d, &k.paris);
        assert_true(tls_end_open(&http1, &k, &wish));

        /* the same again, as a file that was touched: nobody notices */
        knock_set_policy(&k, knock_policy(&k, NULL));
        assert_true(stream_lives(&a) && stream_lives(&b) && stream_lives(&c) && stream_lives(&d));

        /* one is revoked: it goes, whatever it speaks, and cannot come again */
        k.revoked[AUTHORITY_COMMON] = cert_revocations(&k.common, 3600, &k.berlin, NULL);
        knock_set_policy(&k, knock_policy(&k, NULL));
        while (stream_lives(&a))
                ;
        assert_int_equal(a.code, GRPC_UNAVAILABLE);
        assert_true(stream_lives(&b) && stream_lives(&c) && stream_lives(&d));
        while (SSL_read(http1.ssl, &byte, 1) > 0)
                ;
        tls_end_close(&http1);
        assert_false(tls_end_open(&http1, &k, &wish));
        tls_end_close(&http1);

        /* an authority is replaced by one of the same name */
        cert_done(&k.paris_ca);
        k.paris_ca = cert_new(&(struct cert_wish){.cn = "paris", .ca = true});
        knock_set_policy(&k, knock_policy(&k, NULL));
        while (stream_lives(&d))
                ;
        assert_true(stream_lives(&b) && stream_lives(&c));

        stream_close(&a);
        stream_close(&b);
        stream_close(&c);
        stream_close(&d);
        cert_done(&munich);
        cert_done(&berlin2);
}

/* A name that leads elsewhere now: a connection does not change its owner, it goes. */
static void test_moved(void **state) {
        struct cert name = knock_cert(&k.common, "moving", NULL);
        struct stream s;

        (void)state;
        knock_set_policy(&k, knock_policy(&k, "CN:moving", "berlin", AUTHORITY_COMMON, NULL));
        stream_open(&s, &name);
        assert_string_equal(k.last_label, "berlin");
        knock_set_policy(&k, knock_policy(&k, "CN:moving", "munich", AUTHORITY_COMMON, NULL));
        while (stream_lives(&s))
                ;
        stream_close(&s);
        stream_open(&s, &name);
        assert_string_equal(k.last_label, "munich");
        stream_close(&s);
        cert_done(&name);
}

static void recheck_now(struct fixture *f) {
        grpc_server_recheck(f->server, k.policy);
}

/* A certificate that expires while its connection is open. */
static void test_expiry(void **state) {
        struct cert brief = cert_new(&(struct cert_wish){.issuer = &k.common, .cn = "munich", .until = 4});
        struct stream s, other;

        (void)state;
        stream_open(&s, &brief);
        stream_open(&other, &k.berlin);
        do {
                usleep(100 * 1000);
                fixture_run(&k.f, recheck_now);
        } while (stream_lives(&s));
        assert_true(X509_cmp_current_time(X509_get0_notAfter(brief.x)) < 0);
        assert_true(stream_lives(&other));
        stream_close(&s);
        stream_close(&other);
        cert_done(&brief);
}

static struct tls_server *policy_of(const struct cert *ca_cert) {
        struct bytes certificate = cert_pem(&k.server, NULL), key = cert_key_pem(&k.server),
                     ca = cert_pem(ca_cert, NULL);
        const struct tls_authority authority = {"renewed", ca, {}};
        const struct tls_rule rule = {"CN:munich", "munich", 0};
        const struct tls_server_config config = {certificate, key, &authority, 1, &rule, 1};
        struct tls_server *policy;

        assert_int_equal(tls_server_new(&config, &policy, NULL), 0);
        bytes_free(&certificate);
        bytes_free(&key);
        bytes_free(&ca);
        return policy;
}

/* An authority that is renewed, with the same key, before it expires: who came before stays, and who comes later does not share their end. */
static void test_renewed_authority(void **state) {
        struct cert old = cert_new(&(struct cert_wish){.cn = "renewed", .ca = true, .until = 3});
        struct cert renewed = {X509_dup(old.x), old.key};
        struct cert munich = knock_cert(&old, "munich", NULL);
        struct stream s, later;

        (void)state;
        EVP_PKEY_up_ref(renewed.key);
        X509_gmtime_adj(X509_getm_notAfter(renewed.x), 3600);
        assert_true(X509_sign(renewed.x, renewed.key, EVP_sha256()) > 0);
        knock_set_policy(&k, policy_of(&old));
        stream_open(&s, &munich);
        knock_set_policy(&k, policy_of(&renewed));
        while (X509_cmp_current_time(X509_get0_notAfter(old.x)) > 0)
                usleep(100 * 1000);
        usleep(1100 * 1000); /* the end's own second is part of its time */
        fixture_run(&k.f, recheck_now);
        assert_true(stream_lives(&s));
        stream_open(&later, &munich);
        fixture_run(&k.f, recheck_now);
        assert_true(stream_lives(&s) && stream_lives(&later));
        stream_close(&s);
        stream_close(&later);
        cert_done(&old);
        cert_done(&renewed);
        cert_done(&munich);
}

/* Content. */

struct bulk {
        struct loop *loop;
        struct grpc_client_call *call;
        size_t n_bytes, n_messages, pause_after;
        unsigned n_drained;
        size_t left, most_pending;
        bool ended, half;
        enum grpc_code code;
};

static void on_bulk(void *userdata, struct bytes data) {
        struct bulk *b = userdata;

        b->n_bytes += data.size;
        b->n_messages++;
        if (b->pause_after && b->n_messages == b->pause_after) {
                grpc_client_pause(b->call);
                loop_stop(b->loop);
        }
}

static void on_bulk_end(void *userdata, enum grpc_code code, const char *message) {
        struct bulk *b = userdata;

        (void)message;
        b->ended = true;
        b->code = code;
        loop_stop(b->loop);
}

static void bulk_send(void *userdata) {
        static uint8_t block[65536 + 7];
        struct bulk *b = userdata;

        while (b->left && grpc_client_pending(b->call) < GRPC_CLIENT_LOW) {
                memset(block, (int)b->left, sizeof(block));
                b->left--;
                assert_int_equal(grpc_client_send(b->call, bytes_of(block, sizeof(block))), 0);
                b->most_pending = max_of(b->most_pending, grpc_client_pending(b->call));
        }
        if (!b->left && !b->half) {
                b->half = true;
                grpc_client_half_close(b->call);
        }
}

static void on_bulk_drained(void *userdata) {
        ((struct bulk *)userdata)->n_drained++;
        bulk_send(userdata);
}

static const struct grpc_client_handler bulk_handler = {
        .on_message = on_bulk, .on_end = on_bulk_end, .on_drained = on_bulk_drained};

static void test_large(void **state) {
        struct tls_client *tls = knock_client(&k, &k.berlin, NULL);
        static const size_t sizes[] = {1, 16383, 16384, 16385, 65536, 1024 * 1024, 2 * 1024 * 1024 - 16};
        struct bulk b = {};
        struct grpc_client *client;

        (void)state;
        assert_int_equal(loop_new("bulk", &b.loop), 0);
        assert_int_equal(grpc_client_new_tls(b.loop, k.address, tls, &client, NULL), 0);
        for (size_t i = 0; i < n_elements(sizes); i++) {
                uint8_t *data = malloc(sizes[i]);
                struct error err = {};

                assert_non_null(data);
                for (size_t n = 0; n < sizes[i]; n++)
                        data[n] = (uint8_t)(n * 31 + i);
                b.n_bytes = 0;
                assert_int_equal(
                        grpc_client_unary(client, "/test.Echo/Unary", 0, bytes_of(data, sizes[i]), on_bulk, &b, &err),
                        GRPC_OK);
                assert_int_equal(b.n_bytes, sizes[i]);
                free(data);
        }
        /* both ways at once, with little in memory */
        b = (struct bulk){.loop = b.loop, .left = 300};
        assert_int_equal(grpc_client_start(client, "/test.Echo/Bidi", 0, &bulk_handler, &b, &b.call), 0);
        bulk_send(&b);
        while (!b.ended)
                assert_int_equal(loop_run(b.loop), 0);
        assert_int_equal(b.code, GRPC_OK);
        assert_int_equal(b.n_messages, 300);
        assert_true(b.n_drained > 0);
        assert_true(b.most_pending < 2 * GRPC_CLIENT_LOW);
        grpc_client_free(client);
        tls_client_unref(tls);
        loop_free(b.loop);
}

struct nap {
        struct loop_timer timer;
        struct loop *loop;
        bool over;
};

static void on_time(struct loop_timer *timer) {
        struct nap *n = container_of(timer, struct nap, timer);

        n->over = true;
        loop_stop(n->loop);
}

static void nap(struct loop *loop, uint64_t ns) {
        struct nap n = {{.on_time = on_time}, loop, false};

        loop_timer_set(loop, &n.timer, clock_now_ns() + ns);
        while (!n.over) /* others stop the loop too */
                assert_int_equal(loop_run(loop), 0);
}

/* A call that is paused stops the server, and only it; what came is delivered, then the end. */
static void test_pause(void **state) {
        struct tls_client *tls = knock_client(&k, &k.berlin, NULL);
        struct bulk b = {.pause_after = 3}, other = {};
        struct grpc_client *client;

        (void)state;
        assert_int_equal(loop_new("bulk", &b.loop), 0);
        other.loop = b.loop;
        assert_int_equal(grpc_client_new_tls(b.loop, k.address, tls, &client, NULL), 0);
        assert_int_equal(grpc_client_start(client, "/test.Echo/Stream", 0, &bulk_handler, &b, &b.call), 0);
        assert_int_equal(grpc_client_send(b.call, bytes_of_string("count:1000")), 0);
        grpc_client_half_close(b.call);
        while (b.n_messages < 3)
                assert_int_equal(loop_run(b.loop), 0);
        nap(b.loop, 200 * NSEC_PER_MSEC);
        assert_int_equal(b.n_messages, 3);
        assert_int_equal(
                grpc_client_unary(client, "/test.Echo/Unary", 0, bytes_of_string("size:300000"), on_bulk, &other, NULL),
                GRPC_OK);
        assert_int_equal(other.n_bytes, 300000);
        assert_int_equal(b.n_messages, 3);
        grpc_client_resume(b.call);
        while (!b.ended)
                assert_int_equal(loop_run(b.loop), 0);
        assert_int_equal(b.code, GRPC_OK);
        assert_int_equal(b.n_bytes, 1000 * 65536);
        assert_true(k.f.pending_most < 1024 * 1024);

        /* paused over its end */
        b = (struct bulk){.loop = b.loop, .pause_after = 1};
        assert_int_equal(grpc_client_start(client, "/test.Echo/Stream", 0, &bulk_handler, &b, &b.call), 0);
        assert_int_equal(grpc_client_send(b.call, bytes_of_string("count:8")), 0);
        grpc_client_half_close(b.call);
        while (b.n_messages < 1)
                assert_int_equal(loop_run(b.loop), 0);
        nap(b.loop, 200 * NSEC_PER_MSEC);
        assert_false(b.ended);
        grpc_client_resume(b.call);
        while (!b.ended)
                assert_int_equal(loop_run(b.loop), 0);
        assert_int_equal(b.n_messages, 8);
        assert_int_equal(b.code, GRPC_OK);

        /* and cancelled while paused */
        b = (struct bulk){.loop = b.loop, .pause_after = 1};
        assert_int_equal(grpc_client_start(client, "/test.Echo/Stream", 0, &bulk_handler, &b, &b.call), 0);
        assert_int_equal(grpc_client_send(b.call, bytes_of_string("count:8")), 0);
        grpc_client_half_close(b.call);
        while (b.n_messages < 1)
                assert_int_equal(loop_run(b.loop), 0);
        nap(b.loop, 100 * NSEC_PER_MSEC);
        grpc_client_cancel(b.call);
        assert_true(b.ended);
        assert_int_equal(b.code, GRPC_CANCELLED);
        grpc_client_free(client);
        tls_client_unref(tls);
        loop_free(b.loop);
}

/* A peer that does not read holds itself up, and gets everything in the end. */
static void test_slow_reader(void **state) {
        struct tls_client *tls = knock_client(&k, &k.berlin, NULL);
        struct bulk b = {};
        struct grpc_client *client;
        char text[256];

        (void)state;
        assert_int_equal(loop_new("bulk", &b.loop), 0);
        assert_int_equal(grpc_client_new_tls(b.loop, k.address, tls, &client, NULL), 0);
        for (int i = 0; i < 40; i++) {
                assert_int_equal(grpc_client_start(client, "/test.Echo/Stream", 0, &bulk_handler, &b, &b.call), 0);
                assert_int_equal(grpc_client_send(b.call, bytes_of_string("count:16")), 0);
                grpc_client_half_close(b.call);
        }
        nap(b.loop, 20 * NSEC_PER_MSEC);
        usleep(300 * 1000); /* nobody reads: the socket fills */
        assert_int_equal(knock_call(&k, &k.paris, text, sizeof(text)), GRPC_OK);
        while (b.n_messages < 40 * 16)
                assert_int_equal(loop_run(b.loop), 0);
        assert_int_equal(b.n_bytes, (size_t)40 * 16 * 65536);
        grpc_client_free(client);
        tls_client_unref(tls);
        loop_free(b.loop);
}

/* The client's side. */

static void test_wrong_servers(void **state) {
        struct tls_client *name = knock_client(&k, &k.berlin, "elsewhere.example"),
                          *good = knock_client(&k, &k.berlin, NULL);
        struct bytes ca = cert_pem(&k.foreign_ca, NULL);
        struct tls_client_config config = {.authorities = ca};
        struct tls_client *foreign;
        char by_name[64], closed[64];
        const struct {
                const char *address;
                struct tls_client **tls;
                enum grpc_code code;
                const char *reason;
        } cases[] = {{k.address, &name, GRPC_UNAVAILABLE, "ostname mismatch"},
                {k.address, &foreign, GRPC_UNAVAILABLE, "the server's certificate: "}, {by_name, &good, GRPC_OK, ""},
                {"tls:nowhere.invalid:1", &good, GRPC_UNAVAILABLE, "tls:nowhere.invalid:1: "},
                {closed, &good, GRPC_UNAVAILABLE, "Connection refused"}};

        (void)state;
        assert_int_equal(tls_client_new(&config, &foreign, NULL), 0);
        (void)snprintf(by_name, sizeof(by_name), "tls:localhost:%u", k.port);
        {
                struct listener *l;
                struct loop *loop;

                assert_int_equal(loop_new("closed", &loop), 0);
                assert_int_equal(listener_new(loop, "tls:127.0.0.1:0", 0, NULL, NULL, &l, NULL), 0);
                (void)snprintf(closed, sizeof(closed), "%s", listener_address(l));
                listener_free(l);
                loop_free(loop);
        }
        for (size_t i = 0; i < n_elements(cases); i++) {
                struct grpc_client *client;
                struct error err = {};
                struct loop *loop;

                assert_int_equal(loop_new("client", &loop), 0);
                assert_int_equal(grpc_client_new_tls(loop, cases[i].address, *cases[i].tls, &client, NULL), 0);
                assert_int_equal(
                        grpc_client_unary(client, "/test.Echo/Unary", 0, bytes_of_string("x"), NULL, NULL, &err),
                        cases[i].code);
                if (!strstr(error_text(&err), cases[i].reason))
                        print_error("\"%s\" is not in: %s\n", cases[i].reason, error_text(&err));
                assert_non_null(strstr(error_text(&err), cases[i].reason));
                error_done(&err);
                grpc_client_free(client);
                loop_free(loop);
        }
        tls_client_unref(name);
        tls_client_unref(good);
        tls_client_unref(foreign);
        bytes_free(&ca);
}

/* Freed at each stage: while its name is looked up, while it connects, while it shakes hands. */
static void test_freed_early(void **state) {
        struct tls_client *tls = knock_client(&k, &k.berlin, NULL);
        char by_name[64];

        (void)state;
        (void)snprintf(by_name, sizeof(by_name), "tls:localhost:%u", k.port);
        for (unsigned i = 0; i < 60; i++) {
                static const struct grpc_client_handler quiet = {};
                struct grpc_client_call *call;
                struct grpc_client *client;
                struct loop *loop;

                assert_int_equal(loop_new("client", &loop), 0);
                assert_int_equal(grpc_client_new_tls(loop, i % 2 ? by_name : k.address, tls, &client, NULL), 0);
                assert_int_equal(grpc_client_start(client, "/test.Echo/Hold", 0, &quiet, NULL, &call), 0);
                if (i % 3)
                        nap(loop, (i / 6) * 200 * NSEC_PER_USEC);
                grpc_client_free(client);
                nap(loop, 5 * NSEC_PER_MSEC); /* a lookup that was on its way frees itself */
                loop_free(loop);
        }
        tls_client_unref(tls);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_replaced),
                TEST(test_moved),
                TEST(test_expiry),
                TEST(test_renewed_authority),
                TEST(test_large),
                TEST(test_pause),
                TEST(test_slow_reader),
                TEST(test_wrong_servers),
                TEST(test_freed_early),
        };

        return cmocka_run_group_tests_name("rpc-tls-open", tests, NULL, NULL);
}
