/*
 * A connection of a server, fed any bytes: HTTP/2 with its headers and floods, gRPC in it, HTTP/1.1 probes. The first byte has flags,
 * the second the size of the pieces in which the rest is written; the server's loop turns once after each. Beyond not crashing:
 *  - what the server writes is well-formed: whole frames, SETTINGS first, none over the maximum; or responses of HTTP/1.1;
 *  - each call that a method was given is freed exactly once, and a cancelled one not finished before;
 *  - once the peer has gone, so has the connection; another client is served by the same server as ever.
 */

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "fuzz.h"
#include "rpc/grpc.h"
#include "rpc/http1.h"

enum {
        FLAG_HELLO = 1,    /* preface and empty SETTINGS go before the input */
        FLAG_DRAIN = 2,    /* the server is drained after the input */
        FLAG_SLOW = 4,     /* what it writes is read at the end only */
        FLAG_HALF_WAY = 8, /* the server is freed before the peer goes */
        FLAG_END = 16,     /* the peer tells its end first */
        FLAG_SMALL = 32,   /* few streams, small messages and headers */
};
#define HELLO "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"

static int n_messages, n_freed;
static bool drained;

struct user {
        bool cancelled;
        unsigned n_messages;
};

static void echo(struct grpc_call *call, struct bytes data) {
        struct user *u = grpc_call_user(call);
        struct blob *b = blob_copy(data.data, data.size);

        check(!u->n_messages++ && !u->cancelled);
        n_messages++;
        grpc_call_reply(call, b);
        check(grpc_call_ended(call));
}

static void hold(struct grpc_call *call, struct bytes data) {
        struct user *u = grpc_call_user(call);
        struct bytes value;

        (void)data;
        check(!u->n_messages++);
        n_messages++;
        if (grpc_call_metadata(call, "x-fail", &value)) { /* any bytes as a message */
                char *text = strndup((const char *)value.data, value.size);

                check(text);
                grpc_call_finish(call, GRPC_NOT_FOUND, text);
                free(text);
        }
}

static void each(struct grpc_call *call, struct bytes data) {
        struct user *u = grpc_call_user(call);
        struct blob *b = blob_copy(data.data, data.size);

        check(!u->cancelled);
        if (!u->n_messages++)
                n_messages++;
        grpc_call_send(call, &b, 1);
        if (bytes_equal(data, bytes_of_string("end")))
                grpc_call_finish(call, GRPC_ABORTED, "as asked");
}

static void each_end(struct grpc_call *call) {
        grpc_call_finish(call, GRPC_OK, NULL);
}

static void on_cancel(struct grpc_call *call) {
        struct user *u = grpc_call_user(call);

        check(!u->cancelled && grpc_call_ended(call));
        u->cancelled = true;
}

static void on_free(struct grpc_call *call) {
        struct user *u = grpc_call_user(call);

        if (u->n_messages)
                n_freed++;
}

static const struct grpc_method methods[] = {
        {.path = "/t/Echo",
                .on_message = echo,
                .on_cancel = on_cancel,
                .on_free = on_free,
                .user_size = sizeof(struct user)},
        {.path = "/t/Hold",
                .on_message = hold,
                .on_cancel = on_cancel,
                .on_free = on_free,
                .user_size = sizeof(struct user)},
        {.path = "/t/Each",
                .client_streaming = true,
                .server_streaming = true,
                .on_message = each,
                .on_half_close = each_end,
                .on_cancel = on_cancel,
                .on_free = on_free,
                .user_size = sizeof(struct user)},
};
static const struct grpc_service service = {"t", methods, n_elements(methods)};

static void handle(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        check(buf_printf(&response->body, "asked %s\n", query) == 0);
}
static const struct http1_route routes[] = {{.path = "/health", .handle = handle}};

static void on_drained(void *userdata) {
        (void)userdata;
        drained = true;
}

/* ---- the peer */

struct peer {
        int fd;
        struct buf got;
};

static void receive(struct peer *p) {
        uint8_t data[16384];
        ssize_t n;

        while ((n = recv(p->fd, data, sizeof(data), MSG_DONTWAIT)) > 0)
                check(buf_append(&p->got, data, (size_t)n) == 0);
}

/* The last frame may be cut: the server may go with something still to be written. */
static void check_output(const struct buf *got) {
        size_t at = 0;
        bool first = true;

        if (!got->size)
                return;
        if (got->data[0] == 'H') {
                check(got->size >= 9 && memcmp(got->data, "HTTP/1.1 ", 9) == 0);
                return;
        }
        while (got->size - at >= 9) {
                const uint8_t *h = got->data + at;
                size_t n = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];

                check(n <= 16384 && h[3] <= 9 && h[3] != 5);
                check(!first || h[3] == 4);
                check(!(h[5] & 0x80));
                first = false;
                if (got->size - at - 9 < n)
                        return;
                at += 9 + n;
        }
}

static void put(struct loop *loop, struct peer *p, const void *data, size_t size, bool slow) {
        const uint8_t *from = data;

        for (unsigned i = 0; size && i < 64; i++) {
                ssize_t n = send(p->fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && errno != EAGAIN)
                        return;
                if (n > 0) {
                        from += n;
                        size -= (size_t)n;
                }
                fuzz_pump(loop);
                if (!slow)
                        receive(p);
        }
}

static void connect_peer(struct grpc_server *server, struct peer *p) {
        int fds[2];

        check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
        *p = (struct peer){.fd = fds[0]};
        check(grpc_server_accept(server, fds[1]) == 0);
}

static void leave(struct loop *loop, struct peer *p) {
        close(p->fd);
        for (unsigned i = 0; i < 4; i++)
                fuzz_pump(loop);
        check_output(&p->got);
        buf_done(&p->got);
}

/* What a call of /t/Echo brings; headers are literals that need no tables. */
static void check_served(struct loop *loop, struct grpc_server *server) {
        static const char request[] = HELLO "\0\0\x43\1\4\0\0\0\1"
                                            "\x83\x86" /* POST, http */
                                            "\4\7/t/Echo"
                                            "\x0f\x10\x10"
                                            "application/grpc"
                                            "\0\2te\10trailers"
                                            "\0\6x-fuzz\5abcde"
                                            "\0\0\7\0\1\0\0\0\1\0\0\0\0\2hi";
        int before = n_messages;
        char fixed[sizeof(request)];
        size_t at = sizeof(HELLO) - 1, end = sizeof(request) - 1 - 16;
        struct peer p;

        memcpy(fixed, request, sizeof(request));
        fixed[at + 2] = (char)(end - at - 9);
        connect_peer(server, &p);
        put(loop, &p, fixed, sizeof(request) - 1, false);
        fuzz_pump(loop);
        check(n_messages == before + 1);
        leave(loop, &p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static struct loop *loop;
        struct fuzz_input in = {data, size};
        uint8_t flags = fuzz_byte(&in);
        size_t piece = fuzz_byte(&in);
        struct grpc_server_config config = {.name = "fuzz", .limits = grpc_default_limits};
        struct http1_responder *http1;
        struct grpc_server *server;
        struct peer p;

        if (in.size > 64 * 1024)
                return 0;
        if (!loop) {
                log_set_level(LOG_LEVEL_ERROR);
                check(loop_new("fuzz", &loop) == 0);
        }
        n_messages = n_freed = 0;
        drained = false;
        check(http1_responder_new(loop, routes, n_elements(routes), NULL, &http1) == 0);
        config.loop = loop;
        config.http1 = http1;
        if (flags & FLAG_SMALL) {
                config.limits.max_streams = 2;
                config.limits.max_message = 64;
                config.limits.max_header_list = 512;
        }
        check(grpc_server_new(&config, &server) == 0);
        check(grpc_server_add(server, &service, (struct bytes){}) == 0);

        connect_peer(server, &p);
        if (flags & FLAG_HELLO)
                put(loop, &p, HELLO, sizeof(HELLO) - 1, flags & FLAG_SLOW);
        /* At most some 256 turns, or inputs that test nothing new take long. */
        piece = max_of(piece ? piece : in.size, in.size / 256 + 1);
        for (size_t at = 0; at < in.size; at += piece)
                put(loop, &p, in.data + at, min_of(piece, in.size - at), flags & FLAG_SLOW);
        if (flags & FLAG_END) {
                (void)shutdown(p.fd, SHUT_WR);
                fuzz_pump(loop);
        }
        receive(&p);
        if (flags & FLAG_DRAIN) {
                grpc_server_drain(server, 0, on_drained, NULL);
                for (unsigned i = 0; i < 4; i++)
                        fuzz_pump(loop);
                receive(&p);
        } else if (!(flags & FLAG_HALF_WAY)) {
                leave(loop, &p);
                check(grpc_server_n_connections(server) == 0);
                check(n_freed == n_messages);
                check_served(loop, server);
        }
        grpc_server_free(server);
        if (flags & (FLAG_DRAIN | FLAG_HALF_WAY))
                leave(loop, &p);
        http1_responder_free(http1);
        check(n_freed == n_messages);
        return 0;
}
