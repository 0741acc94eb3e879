#include "fixture.h"

#include <unistd.h>

/* The echo service. Its functions run on the server's thread. */

static struct fixture *fixture_of(struct grpc_call *call) {
        return grpc_call_server_userdata(call);
}

static unsigned long number_after(struct bytes data, const char *prefix, unsigned long otherwise) {
        char text[32] = {};

        if (data.size <= strlen(prefix) || memcmp(data.data, prefix, strlen(prefix)) != 0)
                return otherwise;
        memcpy(text, data.data + strlen(prefix), min_of(data.size - strlen(prefix), sizeof(text) - 1));
        return strtoul(text, NULL, 10);
}

static void unary(struct grpc_call *call, struct bytes data) {
        unsigned long size = number_after(data, "size:", 0);
        struct blob *b = size ? blob_new(size) : blob_copy(data.data, data.size);

        check(b);
        if (size)
                memset(b->data, 'x', size);
        fixture_of(call)->n_calls++;
        grpc_call_reply(call, b);
}

static void hold(struct grpc_call *call, struct bytes data) {
        (void)data;
        fixture_of(call)->n_calls++;
}

static void bidi(struct grpc_call *call, struct bytes data) {
        struct blob *b = blob_copy(data.data, data.size);

        fixture_of(call)->n_messages++;
        if (bytes_equal(data, bytes_of_string("finish"))) {
                grpc_call_finish(call, GRPC_ABORTED, "as asked");
                grpc_call_finish(call, GRPC_OK, NULL);
        }
        grpc_call_send(call, &b, 1);
}

static void bidi_end(struct grpc_call *call) {
        grpc_call_finish(call, GRPC_OK, NULL);
}

static void stream_fill(struct grpc_call *call) {
        unsigned long *left = grpc_call_user(call);
        struct fixture *f = fixture_of(call);

        while (*left && grpc_call_pending(call) < f->limits.low_mark) {
                struct blob *b = blob_new(65536);

                memset(b->data, 's', b->size);
                --*left;
                grpc_call_send(call, &b, 1);
        }
        if ((long)grpc_call_pending(call) > f->pending_most)
                f->pending_most = (long)grpc_call_pending(call);
        if (!*left)
                grpc_call_finish(call, GRPC_OK, NULL);
}

static void stream(struct grpc_call *call, struct bytes data) {
        unsigned long *left = grpc_call_user(call);

        fixture_of(call)->n_calls++;
        *left = number_after(data, "count:", 1);
        stream_fill(call);
}

static void on_drained(struct grpc_call *call) {
        fixture_of(call)->n_drained++;
        stream_fill(call);
}

static void sink(struct grpc_call *call, struct bytes data) {
        struct fixture *f = fixture_of(call);

        if (!f->sink)
                grpc_call_pause(call);
        f->sink = call;
        f->n_sunk += (long)data.size;
}

static void sink_end(struct grpc_call *call) {
        grpc_call_reply(call, blob_new(0));
}

static void hold_up(struct grpc_call *call, struct bytes data) {
        fixture_of(call)->n_sleeps++;
        (void)usleep((useconds_t)number_after(data, "ms:", 1) * 1000);
        grpc_call_reply(call, blob_new(0));
}

static void fail(struct grpc_call *call, struct bytes data) {
        (void)data;
        grpc_call_finish(call, GRPC_NOT_FOUND, "no % such\n thing");
}

static void free_server(struct grpc_call *call, struct bytes data) {
        struct fixture *f = fixture_of(call);

        (void)data;
        grpc_server_free(steal(f->server));
}

/* Who asks, and what its header x-ask says. */
static void tell_peer(struct grpc_call *call, struct bytes data) {
        const struct grpc_peer *peer = grpc_call_peer(call);
        struct bytes ask = {};
        char text[256];
        bool asked = grpc_call_metadata(call, "x-ask", &ask);

        (void)data;
        (void)snprintf(text, sizeof(text), "%d %d %u %s %d %.*s", peer->local, peer->pid, peer->uid, peer->name, asked,
                (int)ask.size, ask.data ? (const char *)ask.data : "");
        grpc_call_reply(call, blob_copy(text, strlen(text)));
}

/* Each supplementary group of the peer. */
static void tell_groups(struct grpc_call *call, struct bytes data) {
        const struct grpc_peer *peer = grpc_call_peer(call);
        cleanup(buf_done) struct buf text = {};

        (void)data;
        for (size_t i = 0; i < peer->n_groups; i++)
                check(buf_printf(&text, "%u ", peer->groups[i]) == 0);
        grpc_call_reply(call, blob_copy(text.data, text.size));
}

/* An owner that goes when the first of its calls does: all the others must have gone when grpc_server_free() returns. */
static void on_cancel_free(struct grpc_call *call) {
        struct fixture *f = fixture_of(call);

        f->n_cancels++;
        if (!f->server)
                return;
        grpc_server_free(steal(f->server));
        f->n_frees_when_freed = f->n_frees;
}

static void on_cancel(struct grpc_call *call) {
        fixture_of(call)->n_cancels++;
        check(grpc_call_ended(call));
}

static void on_free(struct grpc_call *call) {
        fixture_of(call)->n_frees++;
}

static const struct grpc_method methods[] = {
        {.path = "/test.Echo/Unary", .on_message = unary, .on_free = on_free},
        {.path = "/test.Echo/Hold", .on_message = hold, .on_cancel = on_cancel, .on_free = on_free, .user_size = 64},
        {.path = "/test.Echo/Sleep", .on_message = hold_up, .on_free = on_free},
        {.path = "/test.Echo/Bidi",
                .client_streaming = true,
                .server_streaming = true,
                .on_message = bidi,
                .on_half_close = bidi_end,
                .on_cancel = on_cancel,
                .on_free = on_free},
        {.path = "/test.Echo/Sink", .client_streaming = true, .on_message = sink, .on_half_close = sink_end},
        {.path = "/test.Echo/Stream",
                .server_streaming = true,
                .on_message = stream,
                .on_cancel = on_cancel,
                .on_drained = on_drained,
                .on_free = on_free,
                .user_size = sizeof(unsigned long)},
        {.path = "/test.Echo/Peer", .on_message = tell_peer},
        {.path = "/test.Echo/Groups", .on_message = tell_groups},
        {.path = "/test.Echo/FreeOnCancel", .on_message = hold, .on_cancel = on_cancel_free, .on_free = on_free},
        {.path = "/test.Echo/Fail", .on_message = fail},
        {.path = "/test.Echo/Free", .on_message = free_server, .on_cancel = on_cancel, .on_free = on_free},
};
static const struct grpc_service service = {"test.Echo", methods, n_elements(methods)};

static void handle_health(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        (void)buf_append_string(&response->body, "{\"health\":\"true\"}\n");
        response->content_type = "application/json";
}

/* 100 KB of it. */
static void handle_large(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        check(buf_reserve(&response->body, 100000) == 0);
        memset(response->body.data, 'l', 100000);
        response->body.size = 100000;
}

struct later {
        struct loop_timer timer;
        struct http1_request *request;
        struct fixture *fixture;
};

static void on_later(struct loop_timer *timer) {
        struct later *later = container_of(timer, struct later, timer);
        struct http1_response response = {.status = 503, .content_type = "text/plain"};

        check(buf_append_string(&response.body, "later") == 0);
        http1_request_answer(later->request, &response);
        later->fixture->n_later++;
        free(later);
}

static void ask_later(void *userdata, const char *rest, const char *query, struct http1_request *request) {
        struct later *later = new0(struct later);

        (void)rest;
        (void)query;
        later->timer.on_time = on_later;
        later->request = request;
        later->fixture = userdata;
        loop_timer_set(http1_request_loop(request), &later->timer, clock_now_ns() + 50 * NSEC_PER_MSEC);
}

static const struct http1_route routes[] = {{.path = "/health", .handle = handle_health},
        {.path = "/large", .handle = handle_large}, {.path = "/later", .ask = ask_later}};

static void on_accept(void *userdata, int fd) {
        struct fixture *f = userdata;

        if (f->server)
                (void)grpc_server_accept(f->server, fd);
        else
                close(fd);
}

void fixture_start(struct fixture *f, const struct grpc_limits *limits) {
        struct error err = {};
        struct grpc_server_config config = {.name = "test", .userdata = f};
        int r;

        *f = (struct fixture){.limits = limits ? *limits : grpc_default_limits};
        strcpy(f->folder, "/tmp/test-rpc-XXXXXX");
        check(mkdtemp(f->folder));
        (void)snprintf(f->path, sizeof(f->path), "%s/server.sock", f->folder);
        (void)snprintf(f->address, sizeof(f->address), "unix:%s", f->path);
        r = loop_new("test-server", &f->loop);
        check(r == 0);
        r = http1_responder_new(f->loop, routes, n_elements(routes), f, &f->http1);
        check(r == 0);
        config.loop = f->loop;
        config.limits = f->limits;
        config.http1 = f->http1;
        r = grpc_server_new(&config, &f->server);
        check(r == 0);
        r = grpc_server_add(f->server, &service, (struct bytes){});
        check(r == 0);
        r = listener_new(f->loop, f->address, 0600, on_accept, f, &f->listener, &err);
        if (r < 0)
                fprintf(stderr, "%s\n", error_text(&err));
        check(r == 0);
        loop_track_owners(f->loop); /* as shards do */
        r = loop_start_thread(f->loop);
        check(r == 0);
}

static void run_task(struct loop_task *task) {
        struct fixture *f = container_of(task, struct fixture, task);

        f->task_run(f);
        f->task_done = 1;
}

void fixture_run(struct fixture *f, void (*run)(struct fixture *f)) {
        f->task.run = run_task;
        f->task_run = run;
        f->task_done = 0;
        loop_post(f->loop, &f->task);
        check(fixture_wait(&f->task_done, 1));
}

bool fixture_wait(atomic_int *n, int value) {
        for (unsigned i = 0; i < 5000; i++) {
                if (*n >= value)
                        return true;
                usleep(1000);
        }
        return false;
}

static void free_all(struct fixture *f) {
        grpc_server_free(steal(f->server));
        listener_free(steal(f->listener));
        http1_responder_free(steal(f->http1));
}

void fixture_stop(struct fixture *f) {
        fixture_run(f, free_all);
        loop_stop(f->loop);
        loop_join(f->loop);
        loop_free(f->loop);
        (void)unlink(f->path);
        (void)rmdir(f->folder);
}
