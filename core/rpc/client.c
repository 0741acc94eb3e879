#include "rpc/client.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/client_call.h"
#include "rpc/tls.h"

/*
 * The client's connection, made at once and never again: when it is lost, its calls (client_call.c) end UNAVAILABLE. Runs on its
 * loop's thread. A handler may free the client: what nghttp2 still has on the stack is freed when the event returns.
 */

#define CONNECT_NS (10 * NSEC_PER_SEC)
#define BATCHES_PER_FLUSH 4
#define READS_PER_WAKE 8

static void client_release(struct grpc_client *c) {
        nghttp2_session_del(c->session);
        output_done(&c->output);
        tls_client_unref(c->tls);
        free(c->places);
        free(c->host);
        free(c->why);
        free(c->authority);
        free(c->address);
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
static void client_lose_text(struct grpc_client *c, const char *what, const char *text) {
        if (c->lost)
                return;
        c->lost = true;
        c->connecting = false;
        if (asprintf(&c->why, "%s: %s", what, text) < 0)
                c->why = NULL;
        client_lookup_abandon(steal(c->lookup));
        loop_timer_clear(&c->connect_timer);
        loop_io_stop(&c->io);
        loop_undefer(c->loop, &c->flush);
        transport_free(steal(c->transport));
        loop_defer(c->loop, &c->reap);
}

static void client_lose(struct grpc_client *c, const char *what, int error) {
        const char *text = c->transport ? tls_transport_error(c->transport) : NULL;

        client_lose_text(c, what, text ? text : error < 0 ? strerror(-error) : "the connection was closed");
}

static void on_reap(struct loop_task *task) {
        struct grpc_client *c = container_of(task, struct grpc_client, reap);
        struct grpc_client_call *call;

        c->depth++;
        while (!c->freed) {
                LIST_FOREACH(call, &c->calls, entry)
                        if (!call->over) /* the others have all that the server sent */
                                break;
                if (!call)
                        break;
                client_call_end(call, GRPC_UNAVAILABLE, c->why ? c->why : "the connection was lost");
        }
        client_leave(c);
}

/* Writing and reading. */

static void client_events(struct grpc_client *c) {
        if (!c->lost)
                (void)loop_io_modify(&c->io, EPOLLIN | (output_blocked(&c->output) ? (uint32_t)EPOLLOUT : 0));
}

static void client_flush(struct grpc_client *c) {
        for (unsigned i = 0; !c->lost && !output_blocked(&c->output); i++) {
                size_t size;
                int r;

                if (i == BATCHES_PER_FLUSH) { /* the others' turn; the socket, being writable, wakes us */
                        (void)loop_io_modify(&c->io, EPOLLIN | EPOLLOUT);
                        return;
                }
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
                client_run_drained(c);
                if (c->freed)
                        return;
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

        for (unsigned i = 0; data && (i < READS_PER_WAKE || transport_pending(c->transport)); i++) {
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
                if ((size_t)n < INPUT_BYTES && !transport_pending(c->transport))
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

/* Connecting: the places in turn, then TLS's handshake with the first that answers. */

static void client_dial(struct grpc_client *c, int before);

static void client_connected(struct grpc_client *c) {
        c->connecting = c->shaking = false;
        loop_timer_clear(&c->connect_timer);
        client_flush(c);
        if (!c->lost && transport_pending(c->transport))
                client_read(c);
}

static void client_shake(struct grpc_client *c) {
        cleanup(error_done) struct error err = {};
        uint32_t events = 0;
        int r = tls_handshake(c->transport, &events, NULL, &err);

        if (r > 0)
                client_connected(c);
        else if (r == 0)
                (void)loop_io_modify(&c->io, events);
        else {
                tls_alert(c->transport);
                client_lose_text(c, c->address, error_text(&err));
        }
}

static void client_reached(struct grpc_client *c) {
        if (!c->tls) {
                client_connected(c);
                return;
        }
        c->shaking = true;
        loop_timer_set(c->loop, &c->connect_timer, clock_now_ns() + CONNECT_NS);
        client_shake(c);
}

static void on_io(struct loop_io *io, uint32_t events) {
        struct grpc_client *c = container_of(io, struct grpc_client, io);
        int r, error = 0;
        socklen_t size = sizeof(error);

        c->depth++;
        if (c->shaking)
                client_shake(c);
        else if (c->connecting) {
                if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                        error = errno;
                if (error)
                        client_dial(c, -error);
                else if (events & EPOLLOUT)
                        client_reached(c);
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
        struct grpc_client *c = container_of(timer, struct grpc_client, connect_timer);

        c->depth++;
        if (c->shaking || c->lookup)
                client_lose_text(c, c->address, c->shaking ? "TLS: no answer" : "the name is not resolved");
        else
                client_dial(c, -ETIMEDOUT);
        client_leave(c);
}

static int dial_one(struct grpc_client *c, const struct client_place *place) {
        int fd, r, one = 1;
        bool at_once;

        fd = socket(place->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (place->address.ss_family != AF_UNIX)
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        at_once = connect(fd, (const struct sockaddr *)&place->address, place->size) == 0;
        if (!at_once && errno != EINPROGRESS) {
                r = -errno;
                close(fd);
                return r;
        }
        if (c->tls) {
                c->transport = tls_connect_new(fd, c->tls, c->host);
                if (!c->transport)
                        close(fd);
        } else
                c->transport = transport_new_socket(fd);
        if (!c->transport)
                return -ENOMEM;
        r = loop_io_start(c->loop, &c->io, fd, at_once ? EPOLLIN : EPOLLOUT);
        if (r < 0) {
                transport_free(steal(c->transport));
                return r;
        }
        c->connecting = true;
        if (at_once)
                client_reached(c);
        else
                loop_timer_set(c->loop, &c->connect_timer, clock_now_ns() + CONNECT_NS / c->n_places);
        return 0;
}

/* The next place, since the one before gave an error. */
static void client_dial(struct grpc_client *c, int before) {
        loop_io_stop(&c->io);
        loop_timer_clear(&c->connect_timer);
        transport_free(steal(c->transport));
        while (c->at_place < c->n_places) {
                before = dial_one(c, &c->places[c->at_place++]);
                if (before >= 0)
                        return;
        }
        client_lose(c, c->address, before);
}

static void on_found(void *userdata, struct client_place *places, size_t n_places, const char *error) {
        struct grpc_client *c = userdata;

        c->depth++;
        c->lookup = NULL;
        free(c->places);
        c->places = places;
        c->n_places = n_places;
        if (error)
                client_lose_text(c, c->address, error);
        else
                client_dial(c, 0);
        client_leave(c);
}

static int client_new(struct loop *loop, const char *address, struct tls_client *tls, struct grpc_client **ret,
        struct error *reterr) {
        cleanup(grpc_client_freep) struct grpc_client *c = NULL;
        cleanup(freep) char *port = NULL;
        int r;

        c = new0(struct grpc_client);
        c->loop = loop;
        c->io.on_io = on_io;
        c->flush.run = on_flush;
        c->reap.run = on_reap;
        c->connect_timer.on_time = on_connect_timeout;
        LIST_INIT(&c->calls);
        LIST_INIT(&c->drained);
        if (tls)
                c->tls = tls_client_ref(tls);
        c->places = new0(struct client_place);
        c->n_places = 1;
        r = client_address(address, c->places, &c->host, &port, reterr);
        if (r < 0)
                return r;
        if ((strncmp(address, "tls:", 4) == 0) != (tls != NULL))
                return error_set(
                        reterr, -EINVAL, "%s: %s", address, tls ? "not tls:HOST:PORT" : "TLS, without its settings");
        c->authority = strdup(c->host[0] ? address + 4 : "localhost");
        c->address = strdup(address);
        if (!c->authority || !c->address)
                return -ENOMEM;
        r = client_session(c);
        if (r < 0)
                return r;

        c->connecting = true;
        c->depth++; /* nothing is told from within: on_reap is deferred */
        if (c->places->size)
                client_dial(c, 0);
        else {
                r = client_lookup(loop, c->host, port, on_found, c, &c->lookup);
                loop_timer_set(loop, &c->connect_timer, clock_now_ns() + CONNECT_NS);
        }
        c->depth--;
        if (r < 0)
                return error_set(reterr, r, "%s: %s", address, strerror(-r));
        *ret = steal(c);
        return 0;
}

int grpc_client_new(struct loop *loop, const char *address, struct grpc_client **ret, struct error *reterr) {
        return client_new(loop, address, NULL, ret, reterr);
}

int grpc_client_new_tls(struct loop *loop, const char *address, struct tls_client *tls, struct grpc_client **ret,
        struct error *reterr) {
        return client_new(loop, address, tls, ret, reterr);
}

void grpc_client_free(struct grpc_client *c) {
        if (!c || c->freed)
                return;
        c->depth++;
        c->freed = true;
        client_lookup_abandon(steal(c->lookup));
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
