#include "rpc/server.h"

#include "rpc/http1.h"

/*
 * The life of a server's connection: it comes, tells by its first bytes what it speaks, is read from and written to, drains and
 * ends. All input of a wake goes to nghttp2 (whose callbacks are in http2.c), all output of an iteration is written by one deferred
 * task. A peer that asks but does not read is not read from. Runs on the server's loop.
 */

#define PREFACE_NS (10 * NSEC_PER_SEC)
#define LINGER_NS NSEC_PER_SEC
#define GOAWAY_NS NSEC_PER_SEC
#define READS_PER_WAKE 4
#define BATCHES_PER_FLUSH 2
#define MAX_BLOCKED_FRAMES 4096
#define MAX_BLOCKED_BYTES (4 * 1024 * 1024)

static void update_events(struct connection *c) {
        uint32_t events = 0;
        bool blocked = output_blocked(&c->output);

        if (c->state == CONNECTION_DEAD)
                return;
        /* A peer that does not read what it asks for is not read from. */
        if (!(blocked && c->session &&
                    (c->pending > MAX_BLOCKED_BYTES ||
                            nghttp2_session_get_outbound_queue_size(c->session) > MAX_BLOCKED_FRAMES)) &&
                c->state != CONNECTION_CLOSING)
                events |= EPOLLIN;
        if (blocked)
                events |= EPOLLOUT;
        (void)loop_io_modify(&c->io, events);
}

void connection_dirty(struct connection *c) {
        if (c->state == CONNECTION_OPEN || c->state == CONNECTION_CLOSING)
                loop_defer(c->server->config.loop, &c->flush);
}

/* The end. */

void connection_free_calls(struct connection *c) {
        struct grpc_call *call;

        do { /* from the start each time: what a call does in its end may end others */
                LIST_FOREACH(call, &c->calls, entry)
                        if (!call->gone)
                                break;
                if (call)
                        call_free(call);
        } while (call);
}

void connection_kill(struct connection *c) {
        struct grpc_server *s = c->server;

        if (c->state == CONNECTION_DEAD)
                return;
        c->state = CONNECTION_DEAD;
        loop_undefer(s->config.loop, &c->flush);
        loop_timer_clear(&c->timer);
        loop_io_stop(&c->io);
        transport_free(steal(c->transport));
        recheck_skip(s, c);
        LIST_REMOVE(c, entry);
        LIST_INSERT_HEAD(&s->dead, c, entry);
        connection_free_calls(c);
        s->n_connections--;
        if (s->metric_connections)
                metric_add(s->metric_connections, -1);
        server_connections_changed(s);
}

void connection_free(struct connection *c) {
        LIST_REMOVE(c, entry);
        nghttp2_session_del(c->session);
        output_done(&c->output);
        free(c->groups);
        free(c->peer_name);
        free(c);
}

void connection_close(struct connection *c) {
        struct grpc_call *call, *next;

        if (c->state != CONNECTION_OPEN)
                return;
        c->state = CONNECTION_CLOSING;
        for (call = LIST_FIRST(&c->calls); call; call = next) {
                next = LIST_NEXT(call, entry);
                call_abort(call, GRPC_UNAVAILABLE, NULL);
                if (c->state != CONNECTION_CLOSING)
                        return;
        }
        loop_timer_set(c->server->config.loop, &c->timer, loop_now_ns(c->server->config.loop) + LINGER_NS);
        connection_dirty(c);
}

void connection_goaway(struct connection *c, uint32_t error, const char *reason) {
        struct log_context context = {.peer = c->peer.name};

        if (c->state != CONNECTION_OPEN)
                return;
        log_at(LOG_LEVEL_NOTICE, &context, "%s: connection closed: %s", c->server->name, reason);
        (void)nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session),
                error, (const uint8_t *)reason, strlen(reason));
        connection_close(c);
}

/* Closing a socket with unread input would take back, on TCP, what was just written. */
static void connection_linger(struct connection *c) {
        transport_end(c->transport);
        c->state = CONNECTION_LINGERING;
        loop_timer_set(c->server->config.loop, &c->timer, loop_now_ns(c->server->config.loop) + LINGER_NS);
        update_events(c);
}

void connection_drain(struct connection *c) {
        if (c->state == CONNECTION_NEW)
                connection_kill(c);
        if (c->state != CONNECTION_OPEN)
                return;
        (void)nghttp2_submit_shutdown_notice(c->session);
        loop_timer_set(c->server->config.loop, &c->timer, loop_now_ns(c->server->config.loop) + GOAWAY_NS);
        connection_dirty(c);
}

void connection_drain_goaway(struct connection *c) {
        if (c->goaway_sent || c->state != CONNECTION_OPEN)
                return;
        c->goaway_sent = true;
        (void)nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session),
                NGHTTP2_NO_ERROR, NULL, 0);
        connection_dirty(c);
}

void connection_call_gone(struct connection *c) {
        if (c->goaway_sent && !c->n_calls)
                connection_dirty(c); /* the flush sees that it is over */
}

/* Writing. */

void connection_over(struct connection *c, const char *why, int error) {
        struct log_context context = {.peer = c->peer.name};

        if (why)
                log_at(LOG_LEVEL_DEBUG, &context, "%s: connection lost: %s: %s", c->server->name, why,
                        error < 0 ? strerror(-error) : "protocol");
        connection_kill(c);
}

static void run_drained(struct connection *c) {
        struct grpc_call *call;

        while (c->state == CONNECTION_OPEN && (call = STAILQ_FIRST(&c->drained))) {
                STAILQ_REMOVE_HEAD(&c->drained, drained_entry);
                call->in_drained = false;
                call_on_drained(call);
        }
}

/* Frames and writes until nothing is left or the socket takes no more. */
static void connection_flush(struct connection *c) {
        int r;

        for (unsigned i = 0; !output_blocked(&c->output); i++) {
                size_t size;

                if (i == BATCHES_PER_FLUSH) { /* the others' turn; the socket, being writable, wakes us */
                        (void)loop_io_modify(&c->io, c->io.events | EPOLLOUT);
                        return;
                }
                c->batch = output_batch_get();
                if (!c->batch) {
                        connection_over(c, "write", -ENOMEM);
                        return;
                }
                r = nghttp2_session_send(c->session);
                size = c->batch->total;
                if (r < 0 || c->state == CONNECTION_DEAD) {
                        output_batch_done(steal(c->batch));
                        if (c->state != CONNECTION_DEAD)
                                connection_over(c, nghttp2_strerror(r), 0);
                        return;
                }
                r = output_write(&c->output, c->transport, c->batch);
                output_batch_done(steal(c->batch));
                if (r < 0) {
                        connection_over(c, "write", r);
                        return;
                }
                run_drained(c);
                if (c->state == CONNECTION_DEAD)
                        return;
                /* A batch that was not full has emptied nghttp2, unless somebody added to it. */
                if (!nghttp2_session_want_write(c->session))
                        break;
                if (!size)
                        break;
        }

        update_events(c);
        if (output_blocked(&c->output))
                return;
        /* nghttp2 wants neither: it has told the peer of an error, and calls may still be running. */
        if (c->state == CONNECTION_OPEN && !nghttp2_session_want_read(c->session) &&
                !nghttp2_session_want_write(c->session))
                connection_close(c);
        if (c->state == CONNECTION_CLOSING || (c->state == CONNECTION_OPEN && c->goaway_sent && !c->n_calls))
                connection_linger(c);
}

static void connection_read(struct connection *c);

static void on_flush(struct loop_task *task) {
        struct connection *c = container_of(task, struct connection, flush);
        struct grpc_server *s = c->server;

        server_enter(s);
        if (c->read_first) {
                c->read_first = false;
                connection_read(c);
        } else
                connection_flush(c);
        server_leave(s);
}

/* Reading. */

static bool looks_like_http1(const uint8_t *data, size_t size) {
        /* A method's first letters. */
        return size && data[0] >= 'A' && data[0] <= 'Z' && (size < 2 || (data[1] >= 'A' && data[1] <= 'Z'));
}

/* The first bytes. */
static void connection_detect(struct connection *c, const uint8_t *data, size_t size) {
        struct grpc_server *s = c->server;
        size_t n = min_of(size, sizeof(c->first) - c->n_first);
        int r;

        if (memcmp(data, HTTP2_PREFACE + c->n_first, n) == 0) {
                if (c->n_first + n < sizeof(c->first)) {
                        memcpy(c->first + c->n_first, data, n);
                        c->n_first += n;
                        return;
                }
                r = http2_open(c);
                if (r < 0) {
                        connection_over(c, "open", r);
                        return;
                }
                (void)nghttp2_session_mem_recv(c->session, (const uint8_t *)HTTP2_PREFACE, sizeof(c->first));
                if (size > n && c->state != CONNECTION_DEAD) {
                        ssize_t k = nghttp2_session_mem_recv(c->session, data + n, size - n);

                        if (k < 0 && c->state != CONNECTION_DEAD)
                                connection_close(c);
                }
                connection_dirty(c);
                return;
        }

        if (s->config.http1 && looks_like_http1(c->n_first ? c->first : data, c->n_first ? c->n_first : size)) {
                uint8_t all[sizeof(c->first) + 8192];
                struct bytes head = bytes_of(data, size);

                if (c->n_first && size <= 8192) {
                        memcpy(all, c->first, c->n_first);
                        memcpy(all + c->n_first, data, size);
                        head = bytes_of(all, c->n_first + size);
                }
                loop_io_stop(&c->io); /* the responder watches the same descriptor */
                (void)http1_responder_accept_transport(s->config.http1, steal(c->transport), head);
        }
        connection_kill(c);
}

static void connection_read(struct connection *c) {
        uint8_t *data = input_get();
        uint64_t now = loop_now_ns(c->server->config.loop);
        ssize_t n = -ENOMEM, k;

        for (unsigned i = 0; data && (i < READS_PER_WAKE || transport_pending(c->transport)); i++) {
                n = transport_read(c->transport, data, INPUT_BYTES);
                if (n <= 0)
                        break;
                c->read_ns = now;
                if (c->state == CONNECTION_NEW)
                        connection_detect(c, data, (size_t)n);
                else if (c->state == CONNECTION_OPEN) {
                        k = nghttp2_session_mem_recv(c->session, data, (size_t)n);
                        if (k < 0 && c->state == CONNECTION_OPEN) {
                                struct log_context context = {.peer = c->peer.name};

                                log_at(LOG_LEVEL_DEBUG, &context, "%s: connection closed: %s", c->server->name,
                                        nghttp2_strerror((int)k));
                                connection_close(c);
                        }
                }
                if (c->state == CONNECTION_DEAD)
                        break;
                if ((size_t)n < INPUT_BYTES && !transport_pending(c->transport))
                        break;
        }
        input_done(data);
        if (c->state == CONNECTION_DEAD)
                return;
        if (n == 0 || (n < 0 && n != -EAGAIN)) {
                connection_over(c, n < 0 ? "read" : NULL, (int)n);
                return;
        }
        if (c->state == CONNECTION_OPEN && nghttp2_session_want_write(c->session))
                connection_dirty(c);
        if (c->state == CONNECTION_OPEN && !nghttp2_session_want_read(c->session))
                connection_dirty(c);
        if (output_blocked(&c->output))
                update_events(c);
}

static void on_io(struct loop_io *io, uint32_t events) {
        struct connection *c = container_of(io, struct connection, io);
        struct grpc_server *s = c->server;
        int r;

        server_enter(s);
        if (events & EPOLLOUT) {
                if (output_blocked(&c->output))
                        c->written_ns = loop_now_ns(s->config.loop); /* it has taken of what waits */
                r = output_flush(&c->output, c->transport);
                if (r < 0)
                        connection_over(c, "write", r);
                else if (r > 0) {
                        update_events(c);
                        connection_dirty(c);
                }
        }
        if (c->state != CONNECTION_DEAD) {
                if ((events & EPOLLIN) && (c->io.events & EPOLLIN))
                        connection_read(c);
                else if (events & (EPOLLERR | EPOLLHUP))
                        connection_over(c, NULL, 0);
        }
        server_leave(s);
}

static void on_timer(struct loop_timer *timer) {
        struct connection *c = container_of(timer, struct connection, timer);
        struct grpc_server *s = c->server;

        server_enter(s);
        if (c->state != CONNECTION_OPEN || !c->settled)
                connection_kill(c);
        else if (s->draining)
                connection_drain_goaway(c);
        else
                keepalive_on_time(c);
        server_leave(s);
}

int connection_new(struct grpc_server *s, struct transport *transport) {
        uint64_t now = loop_now_ns(s->config.loop);
        struct connection *c;
        int r;

        c = calloc(1, sizeof(*c));
        if (!c) {
                transport_free(transport);
                return -ENOMEM;
        }
        c->server = s;
        c->transport = transport;
        c->io.on_io = on_io;
        c->flush.run = on_flush;
        c->timer.on_time = on_timer;
        LIST_INIT(&c->calls);
        STAILQ_INIT(&c->drained);
        c->read_ns = c->written_ns = now;
        LIST_INSERT_HEAD(&s->connections, c, entry);
        s->n_connections++;
        if (s->metric_connections)
                metric_add(s->metric_connections, 1);

        r = connection_identify(c);
        if (r >= 0 && s->config.admit && !s->config.admit(s->config.userdata, &c->peer))
                r = -EACCES;
        if (r >= 0)
                r = loop_io_start(s->config.loop, &c->io, transport->fd, EPOLLIN);
        if (r < 0) {
                connection_kill(c);
                return r;
        }
        loop_timer_set(s->config.loop, &c->timer, now + PREFACE_NS);
        server_connections_changed(s);
        if (transport_pending(transport)) { /* it came with the handshake's last bytes: the descriptor will not tell */
                c->read_first = true;
                loop_defer(s->config.loop, &c->flush);
        }
        return 0;
}
