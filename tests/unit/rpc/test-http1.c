/* If these fail, a probe that takes a moment is answered wrongly, or to the wrong one, or takes the daemon down when it gives up. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "rpc/http1.h"

static struct loop *loop;
static struct http1_responder *responder;
static struct http1_request *requests[8]; /* asked, not answered */
static size_t n_requests;
static char rests[8][32], queries[8][32];
static int client = -1;

static void ask(void *userdata, const char *rest, const char *query, struct http1_request *request) {
        (void)userdata;
        assert_true(n_requests < 8);
        assert_ptr_equal(http1_request_loop(request), loop);
        snprintf(rests[n_requests], sizeof(rests[0]), "%s", rest);
        snprintf(queries[n_requests], sizeof(queries[0]), "%s", query);
        requests[n_requests++] = request;
}

static void answer(struct http1_request *request, unsigned status, const char *text) {
        struct http1_response response = {.status = status, .content_type = "text/plain"};

        assert_true(buf_append_string(&response.body, text) >= 0);
        http1_request_answer(request, &response);
}

static void ask_at_once(void *userdata, const char *rest, const char *query, struct http1_request *request) {
        (void)userdata;
        (void)rest;
        (void)query;
        answer(request, 200, "at once");
}

static void plain(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        assert_true(buf_append_string(&response->body, "plain") >= 0);
}

static const struct http1_route routes[] = {
        {.path = "/plain", .handle = plain},
        {.path = "/later/", .below = true, .ask = ask},
        {.path = "/now", .ask = ask_at_once},
};

static void on_time(struct loop_timer *timer) {
        loop_stop(timer->loop ? timer->loop : loop);
}

static void spin(void) {
        struct loop_timer timer = {.on_time = on_time};

        loop_timer_set(loop, &timer, clock_now_ns() + 5 * NSEC_PER_MSEC);
        assert_int_equal(loop_run(loop), 0);
        loop_timer_clear(&timer);
}

static int setup(void **state) {
        int pair[2];

        (void)state;
        n_requests = 0;
        assert_int_equal(loop_new("test", &loop), 0);
        assert_int_equal(http1_responder_new(loop, routes, n_elements(routes), NULL, &responder), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
        client = pair[0];
        assert_int_equal(http1_responder_accept(responder, pair[1], (struct bytes){}), 0);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        http1_responder_free(responder);
        loop_free(loop);
        if (client >= 0)
                close(client);
        return 0;
}

static void say(const char *text) {
        assert_int_equal(send(client, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void until_asked(size_t n) {
        for (int i = 0; i < 1000 && n_requests < n; i++)
                spin();
        assert_int_equal(n_requests, n);
}

/* What has come, once the end of it is there. */
static void hear(const char *last, char *text, size_t size) {
        size_t n = 0;

        text[0] = '\0';
        for (int i = 0; i < 1000 && !strstr(text, last); i++) {
                ssize_t k;

                spin();
                k = recv(client, text + n, size - 1 - n, 0);
                if (k > 0)
                        n += (size_t)k;
                text[n] = '\0';
        }
        assert_non_null(strstr(text, last));
}

static void hear_end(void) {
        char c;

        for (int i = 0; i < 1000; i++) {
                spin();
                if (recv(client, &c, 1, 0) == 0)
                        return;
        }
        fail_msg("the connection is still there");
}

/* In order, whatever is known first; and nothing before it is known. */
static void test_later(void **state) {
        char text[1024];

        (void)state;
        say("GET /later/a/b?x=1 HTTP/1.1\r\n\r\nGET /plain HTTP/1.1\r\n\r\nHEAD /later/c HTTP/1.1\r\n\r\nGET /now HTTP/1.1\r\nConnection: "
            "close\r\n\r\n");
        until_asked(1);
        assert_string_equal(rests[0], "a/b");
        assert_string_equal(queries[0], "x=1");
        spin();
        assert_int_equal(recv(client, text, sizeof(text), 0), -1);
        answer(requests[0], 503, "first");
        hear("plain", text, sizeof(text));
        assert_non_null(strstr(text, "HTTP/1.1 503 "));
        assert_true(strstr(text, "first") < strstr(text, "HTTP/1.1 200 "));
        until_asked(2);
        answer(requests[1], 200, "second");
        hear("at once", text, sizeof(text));
        assert_null(strstr(text, "second")); /* only its head was asked for */
        assert_non_null(strstr(text, "Content-Length: 6\r\n"));
        hear_end();
}

/* "below" means below: neither the path itself without its slash, nor another that begins so. */
static void test_paths(void **state) {
        char text[1024];

        (void)state;
        say("GET /later HTTP/1.1\r\n\r\nGET /plain/x HTTP/1.1\r\n\r\nGET /later/?q HTTP/1.1\r\nConnection: close\r\n\r\n");
        until_asked(1);
        assert_string_equal(rests[0], "");
        assert_string_equal(queries[0], "q");
        answer(requests[0], 200, "end of it");
        hear("end of it", text, sizeof(text));
        assert_non_null(strstr(strstr(text, "HTTP/1.1 404 ") + 1, "HTTP/1.1 404 "));
        hear_end();
}

/* Whoever asked has gone, or the responder has: the answer goes nowhere. */
static void test_gone(void **state) {
        (void)state;
        say("GET /later/a HTTP/1.1\r\n\r\n");
        until_asked(1);
        close(client);
        client = -1;
        spin();
        spin();
        answer(requests[0], 200, "too late");
        spin();
}

static void test_responder_gone(void **state) {
        (void)state;
        say("GET /later/a HTTP/1.1\r\n\r\n");
        until_asked(1);
        http1_responder_free(steal(responder));
        answer(requests[0], 200, "too late");
        hear_end();
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_later, setup, teardown),
                cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
                cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_responder_gone, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
