/* What those do to the door who do not come in: slow, half-open, too many; and that the others do not notice. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/metrics.h"
#include "knock.h"

#define OTHER "127.0.0.2" /* a source of its own */

static struct knock k;

static int stop(void **state) {
        (void)state;
        knock_stop(&k);
        return 0;
}

static void start(const struct door_limits *limits) {
        knock_start(&k, limits);
}

static void wait_open(size_t n) {
        for (unsigned i = 0; i < 20000 && door_n_open(k.door) != n; i++)
                usleep(1000);
        assert_int_equal(door_n_open(k.door), n);
}

static void wait_count(const char *result, double n) {
        for (unsigned i = 0; i < 20000 && knock_count(result) < n; i++)
                usleep(1000);
        assert_true(knock_count(result) >= n);
}

/* Somebody else is served: whole, by gRPC. */
static void assert_served(void) {
        char text[256] = "";

        assert_int_equal(knock_call(&k, &k.paris, text, sizeof(text)), GRPC_OK);
}

/* The door has closed it: an alert may come before. */
static void assert_closed(int fd) {
        char room[4096];
        ssize_t n;

        while ((n = recv(fd, room, sizeof(room), 0)) > 0)
                ;
        assert_true(n == 0 || errno == ECONNRESET);
        close(fd);
}

/* A client that does one step at a time. */
struct steps {
        SSL_CTX *ctx;
        SSL *ssl;
        BIO *in, *out; /* the SSL's */
        int fd;
};

static void steps_send(struct steps *s) {
        char *data;
        long n = BIO_get_mem_data(s->out, &data);

        if (n > 0)
                assert_int_equal(send(s->fd, data, (size_t)n, MSG_NOSIGNAL), n);
        (void)BIO_reset(s->out);
}

/* Says hello, and nothing more. */
static void steps_hello(struct steps *s, const char *source, const struct cert *cert) {
        *s = (struct steps){.ctx = SSL_CTX_new(TLS_client_method())};
        if (cert) {
                assert_int_equal(SSL_CTX_use_certificate(s->ctx, cert->x), 1);
                assert_int_equal(SSL_CTX_use_PrivateKey(s->ctx, cert->key), 1);
        }
        s->ssl = SSL_new(s->ctx);
        s->in = BIO_new(BIO_s_mem());
        s->out = BIO_new(BIO_s_mem());
        SSL_set_bio(s->ssl, s->in, s->out);
        s->fd = knock_connect(&k, source);
        assert_int_equal(SSL_connect(s->ssl), -1);
        steps_send(s);
}

/* Goes on until it is through or refused. True: the server has answered a request. */
static bool steps_finish(struct steps *s) {
        char room[16384];
        bool asked = false;

        for (;;) {
                ssize_t n;

                if (!asked && SSL_connect(s->ssl) == 1) {
                        assert_int_equal(SSL_write(s->ssl, "GET /health HTTP/1.1\r\n\r\n", 24), 24);
                        asked = true;
                }
                steps_send(s);
                if (asked && SSL_read(s->ssl, room, sizeof(room)) > 0)
                        return true;
                n = recv(s->fd, room, sizeof(room), 0);
                if (n <= 0)
                        return false;
                BIO_write(s->in, room, (int)n);
                if (asked && SSL_read(s->ssl, room, sizeof(room)) > 0)
                        return true;
        }
}

static void steps_close(struct steps *s) {
        SSL_free(s->ssl);
        SSL_CTX_free(s->ctx);
        if (s->fd >= 0)
                close(s->fd);
}

/* Time. */

static void test_silent(void **state) {
        double before = knock_count("timeout");
        int fds[50];

        (void)state;
        start(&(struct door_limits){.handshake_ns = 700 * NSEC_PER_MSEC});
        for (size_t i = 0; i < n_elements(fds); i++)
                fds[i] = knock_connect(&k, i % 2 ? OTHER : NULL);
        assert_served();
        for (size_t i = 0; i < n_elements(fds); i++)
                assert_closed(fds[i]);
        wait_open(0);
        assert_int_equal((int)(knock_count("timeout") - before), n_elements(fds));
}

/* Byte by byte, and never through: time is counted from the beginning. */
static void test_slow(void **state) {
        static const uint8_t hello[] = {0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3};
        uint64_t started;
        int fd;

        (void)state;
        start(&(struct door_limits){.handshake_ns = NSEC_PER_SEC});
        fd = knock_connect(&k, NULL);
        started = clock_now_ns();
        for (size_t i = 0; clock_now_ns() - started < 5 * NSEC_PER_SEC; i++) {
                uint8_t byte = i < sizeof(hello) ? hello[i] : (uint8_t)i, room;

                if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &room, 1, MSG_DONTWAIT) == 0)
                        break;
                usleep(20 * 1000);
        }
        assert_true(clock_now_ns() - started < 5 * NSEC_PER_SEC);
        close(fd);
        wait_open(0);
        assert_served();
}

/* Numbers. */

static void test_too_many(void **state) {
        double before = knock_count("evicted");
        int fds[60];

        (void)state;
        start(&(struct door_limits){.max_open = 20});
        for (size_t i = 0; i < n_elements(fds); i++) {
                fds[i] = knock_connect(&k, i % 2 ? OTHER : "127.0.0.3");
                if (i % 10 == 9)
                        assert_served();
        }
        wait_count("evicted", before + 40);
        assert_true(door_n_open(k.door) <= 20);
        assert_served();
        for (size_t i = 0; i < n_elements(fds); i++)
                close(fds[i]);
        wait_open(0);
}

static void test_too_many_of_source(void **state) {
        double before = knock_count("too_many");
        int fds[30];

        (void)state;
        start(&(struct door_limits){.max_open_of_source = 10});
        for (size_t i = 0; i < n_elements(fds); i++)
                fds[i] = knock_connect(&k, OTHER);
        wait_count("too_many", before + 20);
        wait_open(10);
        assert_served();
        for (size_t i = 0; i < 10; i++)
                close(fds[i]);
        for (size_t i = 10; i < n_elements(fds); i++)
                assert_closed(fds[i]);
        wait_open(0);
        fds[0] = knock_connect(&k, OTHER); /* may come again */
        wait_open(1);
        close(fds[0]);
        wait_open(0);
}

/* Handshakes that hang take all places of their source: others have theirs, and those of the source get in when the hung have gone. */
static void test_hung(void **state) {
        struct steps hung[12], good, elsewhere;

        (void)state;
        start(&(struct door_limits){.max_started = 6, .max_started_of_source = 3});
        for (size_t i = 0; i < n_elements(hung); i++)
                steps_hello(&hung[i], OTHER, NULL);
        wait_open(n_elements(hung));
        steps_hello(&good, OTHER, &k.berlin);
        steps_hello(&elsewhere, NULL, &k.berlin);
        assert_true(steps_finish(&elsewhere));
        assert_served();
        assert_true(steps_finish(&good));
        for (size_t i = 0; i < n_elements(hung); i++)
                steps_close(&hung[i]);
        steps_close(&good);
        steps_close(&elsewhere);
        wait_open(0);
}

/* All places taken by hung handshakes from many sources. */
static void test_hung_everywhere(void **state) {
        double before = knock_count("evicted");
        struct steps hung[8], good;

        (void)state;
        start(&(struct door_limits){.max_started = 4});
        for (size_t i = 0; i < n_elements(hung); i++) {
                char source[16];

                (void)snprintf(source, sizeof(source), "127.0.1.%zu", i + 1);
                steps_hello(&hung[i], source, NULL);
        }
        steps_hello(&good, OTHER, &k.berlin);
        assert_true(steps_finish(&good));
        assert_true(knock_count("evicted") >= before + 4);
        for (size_t i = 0; i < n_elements(hung); i++)
                steps_close(&hung[i]);
        steps_close(&good);
        wait_open(0);
}

/* More at once than there are places: all get in, in turn. */
struct client {
        pthread_t thread;
        bool good;
};

static void *run_client(void *userdata) {
        struct client *c = userdata;
        struct tls_wish wish = {.cert = c->good ? &k.berlin : NULL};

        for (int i = 0; i < 5; i++) {
                struct tls_end e;

                check(tls_end_open(&e, &k, &wish) == c->good);
                tls_end_close(&e);
        }
        return NULL;
}

static void crowd(void) {
        struct client clients[24];

        for (size_t i = 0; i < n_elements(clients); i++) {
                clients[i].good = i % 4 != 0;
                assert_int_equal(pthread_create(&clients[i].thread, NULL, run_client, &clients[i]), 0);
        }
        for (size_t i = 0; i < n_elements(clients); i++)
                assert_int_equal(pthread_join(clients[i].thread, NULL), 0);
        assert_int_equal(k.n_admitted, 18 * 5);
        wait_open(0);
}

static void test_crowd(void **state) {
        (void)state;
        start(&(struct door_limits){.max_started = 2, .max_started_of_source = 2});
        crowd();
}

/* The same on several threads of the door. */
static void test_threads(void **state) {
        (void)state;
        k.n_threads = 3;
        start(NULL);
        crowd();
}

/* Policies. */

static void test_no_policy(void **state) {
        struct tls_wish wish = {.cert = &k.berlin};
        struct tls_end e;

        (void)state;
        start(NULL);
        door_set_policy(k.door, NULL);
        assert_false(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
        door_set_policy(k.door, k.policy);
        assert_true(tls_end_open(&e, &k, &wish));
        tls_end_close(&e);
}

/* Revoked between its hello and its certificate. */
static void test_revoked_meanwhile(void **state) {
        struct steps s, other;

        (void)state;
        start(NULL);
        steps_hello(&s, NULL, &k.berlin);
        steps_hello(&other, NULL, &k.paris);
        wait_open(2);
        k.revoked[AUTHORITY_COMMON] = cert_revocations(&k.common, 3600, &k.berlin, NULL);
        knock_set_policy(&k, knock_policy(&k, NULL));
        assert_false(steps_finish(&s));
        assert_true(steps_finish(&other));
        assert_int_equal(k.n_admitted, 1);
        steps_close(&s);
        steps_close(&other);
}

/* The end of the door, with somebody in each state. */
static void test_freed(void **state) {
        struct cert foreign;
        struct steps started, refused;
        int silent, garbage;

        (void)state;
        start(&(struct door_limits){.refusal_ns = 60 * NSEC_PER_SEC});
        foreign = knock_cert(&k.foreign_ca, "berlin", NULL);
        silent = knock_connect(&k, NULL);
        garbage = knock_connect(&k, NULL);
        assert_int_equal(send(garbage, "garbage", 7, MSG_NOSIGNAL), 7);
        steps_hello(&started, NULL, &k.berlin);
        steps_hello(&refused, NULL, &foreign);
        {
                char room[16384];
                ssize_t n;

                while (SSL_connect(refused.ssl) != 1) {
                        n = recv(refused.fd, room, sizeof(room), 0);
                        assert_true(n > 0);
                        BIO_write(refused.in, room, (int)n);
                }
                steps_send(&refused);
        }
        wait_count("untrusted", 1);
        door_free(steal(k.door));
        assert_closed(silent);
        assert_closed(garbage);
        assert_closed(started.fd);
        assert_closed(refused.fd);
        started.fd = refused.fd = -1;
        steps_close(&started);
        steps_close(&refused);
        cert_done(&foreign);
}

/* Where it may stand. */

static void never(void *userdata, const char *label, struct transport *transport) {
        (void)userdata;
        (void)label;
        transport_free(transport);
}

static void test_addresses(void **state) {
        struct door_config config = {.on_admitted = never};
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct error err = {};
        struct door *door;
        int fd;

        (void)state;
        start(NULL);
        config.address = k.address;
        assert_int_equal(door_new(&config, &door, &err), -EADDRINUSE);
        error_done(&err);
        config.address = "tls:localhost:1";
        assert_int_equal(door_new(&config, &door, &err), -EINVAL);
        error_done(&err);
        config.address = "unix:/tmp/no-such-door.sock";
        assert_int_equal(door_new(&config, &door, &err), -EINVAL);
        error_done(&err);
        config.address = "tls:0.0.0.0:0";
        assert_int_equal(door_new(&config, &door, &err), 0);
        assert_int_equal(strncmp(door_address(door), "tls:0.0.0.0:", 12), 0);
        door_free(door);
        config.address = "tls:[::1]:0";
        assert_int_equal(door_new(&config, &door, &err), 0);
        assert_int_equal(strncmp(door_address(door), "tls:[::1]:", 10), 0);
        door_free(door);

        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
        assert_int_equal(listen(fd, 8), 0);
        config.fd = fd;
        assert_int_equal(door_new(&config, &door, &err), 0);
        assert_int_equal(strncmp(door_address(door), "tls:127.0.0.1:", 14), 0);
        door_free(door);
}

/* A flood makes a few lines, and says how many it left out. */
static void test_lines(void **state) {
        char text[65536] = "";
        int saved = dup(2), file = memfd_create("log", 0);
        double before = knock_count("protocol");
        unsigned n = 0;

        (void)state;
        start(NULL);
        assert_true(saved >= 0 && file >= 0);
        assert_int_equal(dup2(file, 2), 2);
        for (unsigned i = 0; i < 200; i++) {
                int fd = knock_connect(&k, NULL);

                (void)send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
                close(fd);
        }
        wait_count("protocol", before + 1);
        wait_open(0);
        assert_int_equal(dup2(saved, 2), 2);
        close(saved);
        assert_true(pread(file, text, sizeof(text) - 1, 0) > 0);
        close(file);
        for (const char *p = text; (p = strstr(p, "handshake refused (protocol)")); p++)
                n++;
        assert_in_range(n, 1, 5);
}

int main(void) {
#define TEST(f) cmocka_unit_test_teardown(f, stop)
        const struct CMUnitTest tests[] = {
                TEST(test_silent),
                TEST(test_slow),
                TEST(test_too_many),
                TEST(test_too_many_of_source),
                TEST(test_hung),
                TEST(test_hung_everywhere),
                TEST(test_crowd),
                TEST(test_threads),
                TEST(test_no_policy),
                TEST(test_revoked_meanwhile),
                TEST(test_freed),
                TEST(test_addresses),
                TEST(test_lines),
        };

        return cmocka_run_group_tests_name("rpc-door", tests, NULL, NULL);
}
