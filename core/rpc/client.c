#include "rpc/client.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "rpc/client_call.h"

/*
 * The client's connection, made at once and never again: when it is lost, its calls (client_call.c) end UNAVAILABLE. Runs on its
 * loop's thread. A handler may free the client: what nghttp2 still has on the stack is freed when the event returns.
 */

#define CONNECT_NS (10 * NSEC_PER_SEC)

static void client_release(struct grpc_client *c) {
        nghttp2_session_del(c->session);
        output_done(&c->output);
        free(c->why);
        free(c->authority);
        free(c);
}

void client_leave(struct grpc_client *c) {
        if (--c->depth == 0 && c->freed)
                client_release(c);
}

void client_dirty(struct grpc_client *c) {
        if (!c->connecting && !c->lost)
                loop_defer(c->loop, &c->flush);
}

/* The connection is gone; its calls end when the event in progress has. */
static void client_lose(struct grpc_client *c, const char *what, int error) {
        if (c->lost)
                return;
        c->lost = true;
        c->connecting = false;
        if (asprintf(&c->why, "%s: %s", what, error < 0 ? strerror(-error) : "the connection was closed") < 0)
                c->why = NULL;
        loop_timer_clear(&c->connect_timer);
        loop_io_stop(&c->io);
        loop_undefer(c->loop, &c->flush);
        transport_free(steal(c->transport));
        loop_defer(c->loop, &c->reap);
}

static void on_reap(struct loop_task *task) {
        struct grpc_client *c = container_of(task, struct grpc_client, reap);
        struct grpc_client_call *call;

        c->depth++;
        while (!c->freed && (call = LIST_FIRST(&c->calls)))
                client_call_end(call, GRPC_UNAVAILABLE, c->why ? c->why : "the connection was lost");
        client_leave(c);
}

/* Writing and reading. */

static void client_events(struct grpc_client *c) {
        if (!c->lost)
                (void)loop_io_modify(&c->io, EPOLLIN | (output_blocked(&c->output) ? (uint32_t)EPOLLOUT : 0));
}

static void client_flush(struct grpc_client *c) {
        while (!c->lost && !output_blocked(&c->output)) {
                size_t size;
                int r;

                c->batch = output_batch_get();
                if (!c->batch) {
                        client_lose(c, "write", -ENOMEM);
                        return;
                }
                r = nghttp2_session_send(c->session);
                size = c->batch->total;
                if (r >= 0 && !c->lost)
                        r = output_write(&c->output, c->transport, c->batch);
                output_batch_done(steal(c->batch));
                if (c->freed)
                        return;
                if (r < 0) {
                        client_lose(c, "write", r);
                        return;
                }
                if (!size)
                        break;
        }
        client_events(c);
}

static void on_flush(struct loop_task *task) {
        struct grpc_client *c = container_of(task, struct grpc_client, flush);

        c->depth++;
        client_flush(c);
        client_leave(c);
}

static void client_read(struct grpc_client *c) {
        uint8_t *data = input_get();
        ssize_t n = -ENOMEM, k;

        for (unsigned i = 0; data && i < 8; i++) {
                n = transport_read(c->transport, data, INPUT_BYTES);
                if (n <= 0)
                        break;
                k = nghttp2_session_mem_recv(c->session, data, (size_t)n);
                if (c->freed || c->lost)
                        break;
                if (k < 0) {
                        client_lose(c, "read", -EPROTO);
                        break;
                }
                if ((size_t)n < INPUT_BYTES)
                        break;
        }
        input_done(data);
        if (c->freed || c->lost)
                return;
        if (n == 0)
                client_lose(c, "read", 0);
        else if (n < 0 && n != -EAGAIN)
                client_lose(c, "read", (int)n);
        else if (!nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session))
                client_lose(c, "read", 0);
        else if (nghttp2_session_want_write(c->session))
                client_dirty(c);
}

static void on_io(struct loop_io *io, uint32_t events) {
        struct grpc_client *c = container_of(io, struct grpc_client, io);
        int r, error = 0;
        socklen_t size = sizeof(error);

        c->depth++;
        if (c->connecting) {
                if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                        error = errno;
                if (error)
                        client_lose(c, "connect", -error);
                else if (events & EPOLLOUT) {
                        c->connecting = false;
                        loop_timer_clear(&c->connect_timer);
                        client_flush(c);
                }
        } else {
                if (events & EPOLLOUT) {
                        r = output_flush(&c->output, c->transport);
                        if (r < 0)
                                client_lose(c, "write", r);
                        else if (r > 0) {
                                client_events(c);
                                client_dirty(c);
                        }
                }
                if (!c->lost && (events & ~(uint32_t)EPOLLOUT))
                        client_read(c);
        }
        client_leave(c);
}

static void on_connect_timeout(struct loop_timer *timer) {
        client_lose(container_of(timer, struct grpc_client, connect_timer), "connect", -ETIMEDOUT);
}

int grpc_client_new(struct loop *loop, const char *address, struct grpc_client **ret, struct error *reterr) {
        cleanup(grpc_client_freep) struct grpc_client *c = NULL;
        struct sockaddr_storage ss = {};
        socklen_t size = 0;
        int r, fd, one = 1;

        r = client_address(address, &ss, &size, reterr);
        if (r < 0)
                return r;
        c = new0(struct grpc_client);
        c->loop = loop;
        c->io.on_io = on_io;
        c->flush.run = on_flush;
        c->reap.run = on_reap;
        c->connect_timer.on_time = on_connect_timeout;
        LIST_INIT(&c->calls);
        c->authority = strdup(ss.ss_family == AF_UNIX ? "localhost" : address + 4);
        if (!c->authority)
                return -ENOMEM;
        r = client_session(c);
        if (r < 0)
                return r;

        fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_set(reterr, -errno, "socket: %s", strerror(errno));
        c->transport = transport_new_socket(fd);
        if (!c->transport)
                return -ENOMEM;
        if (ss.ss_family != AF_UNIX)
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (connect(fd, (struct sockaddr *)&ss, size) < 0) {
                if (errno == EINPROGRESS)
                        c->connecting = true;
                else {
                        client_lose(c, address, -errno);
                        *ret = steal(c);
                        return 0;
                }
        }
        r = loop_io_start(loop, &c->io, fd, c->connecting ? EPOLLOUT : EPOLLIN);
        if (r < 0)
                return r;
        if (c->connecting)
                loop_timer_set(loop, &c->connect_timer, clock_now_ns() + CONNECT_NS);
        client_dirty(c);
        *ret = steal(c);
        return 0;
}

void grpc_client_free(struct grpc_client *c) {
        if (!c || c->freed)
                return;
        c->depth++;
        c->freed = true;
        loop_timer_clear(&c->connect_timer);
        loop_io_stop(&c->io);
        loop_undefer(c->loop, &c->flush);
        loop_undefer(c->loop, &c->reap);
        transport_free(steal(c->transport));
        c->lost = true;
        while (!LIST_EMPTY(&c->calls))
                client_call_end(LIST_FIRST(&c->calls), GRPC_CANCELLED, "the client was freed");
        client_leave(c);
}
