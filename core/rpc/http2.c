#include "rpc/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/http1.h"

/*
 * A connection of the server. All input of a wake goes through nghttp2, whose callbacks feed the calls; all output of an
 * iteration is written by one deferred task. What a peer may make us do for little is counted: resets, empty frames, pings,
 * acknowledgements that it does not read.
 */

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define PREFACE_NS (10 * NSEC_PER_SEC)
#define LINGER_NS NSEC_PER_SEC
#define GOAWAY_NS NSEC_PER_SEC
#define READS_PER_WAKE 4
#define BATCHES_PER_FLUSH 8
#define WINDOW (1024 * 1024)
#define MAX_BLOCKED_FRAMES 4096
#define MAX_BLOCKED_BYTES (4 * 1024 * 1024)
#define MAX_RESETS 1000 /* a second */
#define MAX_EMPTY 10000 /* a second */
#define MAX_PING_STRIKES 2
#define IDLE_PING_NS (7200 * NSEC_PER_SEC) /* pings that a peer without streams may send, as grpc-go has it */

static const uint8_t keepalive_ping[8] = "keepaliv", drain_ping[8] = "draining";

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

void connection_kill(struct connection *c) {
        struct grpc_server *s = c->server;

        if (c->state == CONNECTION_DEAD)
                return;
        c->state = CONNECTION_DEAD;
        loop_undefer(s->config.loop, &c->flush);
        loop_timer_clear(&c->timer);
        loop_io_stop(&c->io);
        transport_close(&c->transport);
        LIST_REMOVE(c, entry);
        LIST_INSERT_HEAD(&s->dead, c, entry);
        while (!LIST_EMPTY(&c->calls))
                call_free(LIST_FIRST(&c->calls));
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

/* No more calls: writes what is queued and goes. */
static void connection_close(struct connection *c) {
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

static void connection_goaway(struct connection *c, uint32_t error, const char *reason) {
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
        transport_end(&c->transport);
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

static void drain_goaway(struct connection *c) {
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

/* Callbacks of nghttp2. */

static struct grpc_call *call_find(struct connection *c, int32_t stream_id) {
        return nghttp2_session_get_stream_user_data(c->session, stream_id);
}

static ssize_t on_send(nghttp2_session *session, const uint8_t *data, size_t length, int flags, void *user_data) {
        struct connection *c = user_data;

        (void)session;
        (void)flags;
        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (!output_batch_has_room(c->batch))
                return NGHTTP2_ERR_WOULDBLOCK;
        length = min_of(length, (size_t)OUTPUT_FRAME);
        output_batch_copy(c->batch, data, length);
        return (ssize_t)length;
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *framehd, size_t length,
        nghttp2_data_source *source, void *user_data) {
        struct connection *c = user_data;
        struct grpc_call *call = source->ptr;

        (void)session;
        (void)frame;
        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (!output_batch_has_room(c->batch)) {
                call->promised = true;
                return NGHTTP2_ERR_WOULDBLOCK;
        }
        call->promised = false;
        output_batch_copy(c->batch, framehd, 9);
        send_queue_emit(&call->queue, c->batch, length);
        c->pending -= length;
        if (call->above_mark && call->queue.size < c->server->config.limits.low_mark) {
                call->above_mark = false;
                if (!call->in_drained) {
                        call->in_drained = true;
                        STAILQ_INSERT_TAIL(&c->drained, call, drained_entry);
                }
        }
        return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) {
        struct connection *c = user_data;
        struct grpc_call *call;

        (void)session;
        if (frame->hd.type > NGHTTP2_HEADERS) {
                /* Whoever answers this has seen the announcement. (Submitted together, nghttp2 would send the ping first.) */
                if (frame->hd.type == NGHTTP2_GOAWAY && c->server->draining && !c->goaway_sent &&
                        c->state == CONNECTION_OPEN)
                        (void)nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, drain_ping);
                return 0;
        }
        c->sent_since_ping = true;
        if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
                return 0;
        /* A client that has not ended its side is told not to go on. */
        call = call_find(c, frame->hd.stream_id);
        if (call && !call->half_closed)
                (void)nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
        return 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) {
        struct connection *c = user_data;
        struct grpc_call *call;

        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        c->header_call = NULL;
        if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
                return 0; /* the client's trailers, which say nothing to us */
        if (c->state != CONNECTION_OPEN)
                return 0;
        call = call_new(c, frame->hd.stream_id);
        if (!call)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
        c->header_call = call;
        return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
        uint8_t flags, void *user_data) {
        struct connection *c = user_data;

        (void)session;
        (void)frame;
        (void)flags;
        if (c->header_call)
                call_on_header(c->header_call, name, value);
        return 0;
}

static int on_data_chunk(
        nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size, void *user_data) {
        struct connection *c = user_data;
        struct grpc_call *call;

        (void)session;
        (void)flags;
        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        call = call_find(c, stream_id);
        if (call)
                call_on_data(call, data, size);
        return c->state == CONNECTION_DEAD ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* More of something than anybody needs in a second. */
static void count_flood(struct connection *c, unsigned *n, unsigned max, const char *reason) {
        uint64_t now = loop_now_ns(c->server->config.loop);

        if (now - c->flood_ns > NSEC_PER_SEC) {
                c->flood_ns = now;
                c->n_resets = c->n_empty = 0;
        }
        if (++*n > max)
                connection_goaway(c, NGHTTP2_ENHANCE_YOUR_CALM, reason);
}

/* As grpc-go judges: each of our answers forgives, a peer without streams has no business to ping. */
static void on_ping(struct connection *c) {
        uint64_t now = loop_now_ns(c->server->config.loop), since = now - c->last_ping_ns;
        bool first = !c->last_ping_ns;

        c->last_ping_ns = now;
        if (c->sent_since_ping) {
                c->sent_since_ping = false;
                c->ping_strikes = 0;
                return;
        }
        if (first || since >= (c->n_calls ? c->server->config.limits.min_ping_ns : IDLE_PING_NS))
                return;
        if (++c->ping_strikes > MAX_PING_STRIKES)
                connection_goaway(c, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) {
        struct connection *c = user_data;
        struct grpc_call *call;

        (void)session;
        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        switch (frame->hd.type) {
        case NGHTTP2_HEADERS:
                call = c->header_call;
                c->header_call = NULL;
                if (call)
                        call_on_headers_end(call);
                else
                        call = call_find(c, frame->hd.stream_id);
                if (call && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
                        call_on_half_close(call);
                break;
        case NGHTTP2_DATA:
                if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
                        call = call_find(c, frame->hd.stream_id);
                        if (call)
                                call_on_half_close(call);
                } else if (!frame->hd.length)
                        count_flood(c, &c->n_empty, MAX_EMPTY, "too_many_empty_frames");
                break;
        case NGHTTP2_RST_STREAM:
                count_flood(c, &c->n_resets, MAX_RESETS, "too_many_resets");
                break;
        case NGHTTP2_SETTINGS:
                if (!c->settled && c->state == CONNECTION_OPEN) {
                        c->settled = true;
                        loop_timer_set(c->server->config.loop, &c->timer,
                                loop_now_ns(c->server->config.loop) + c->server->config.limits.keepalive_ns);
                        if (c->server->draining)
                                connection_drain(c);
                } else
                        count_flood(c, &c->n_empty, MAX_EMPTY, "too_many_settings");
                break;
        case NGHTTP2_PING:
                if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
                        on_ping(c);
                else if (memcmp(frame->ping.opaque_data, drain_ping, sizeof(drain_ping)) == 0)
                        drain_goaway(c);
                break;
        default:
                break;
        }
        return c->state == CONNECTION_DEAD ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data) {
        struct connection *c = user_data;
        struct grpc_call *call;

        (void)error_code;
        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        call = call_find(c, stream_id);
        if (call) {
                nghttp2_session_set_stream_user_data(session, stream_id, NULL);
                call_free(call);
        }
        return c->state == CONNECTION_DEAD ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

int http2_prepare(struct grpc_server *s) {
        if (nghttp2_session_callbacks_new(&s->callbacks) < 0 || nghttp2_option_new(&s->options) < 0)
                return -ENOMEM;
        nghttp2_session_callbacks_set_send_callback(s->callbacks, on_send);
        nghttp2_session_callbacks_set_send_data_callback(s->callbacks, on_send_data);
        nghttp2_session_callbacks_set_on_frame_send_callback(s->callbacks, on_frame_send);
        nghttp2_session_callbacks_set_on_begin_headers_callback(s->callbacks, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback2(s->callbacks, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(s->callbacks, on_data_chunk);
        nghttp2_session_callbacks_set_on_frame_recv_callback(s->callbacks, on_frame_recv);
        nghttp2_session_callbacks_set_on_stream_close_callback(s->callbacks, on_stream_close);

        /* The client of etcd 3.4 sends an :authority on Unix sockets that the checks refuse; call.c checks what matters. */
        nghttp2_option_set_no_http_messaging(s->options, 1);
        nghttp2_option_set_no_closed_streams(s->options, 1);
        nghttp2_option_set_max_deflate_dynamic_table_size(
                s->options, 1024); /* our headers are few and always the same */
        nghttp2_option_set_stream_reset_rate_limit(s->options, 10 * MAX_RESETS, 10 * MAX_RESETS); /* counted here */
        return 0;
}

/* Writing. */

static void connection_over(struct connection *c, const char *why, int error) {
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
                r = output_write(&c->output, &c->transport, c->batch);
                output_batch_done(steal(c->batch));
                if (r < 0) {
                        connection_over(c, "write", r);
                        return;
                }
                if (size)
                        c->written_ns = loop_now_ns(c->server->config.loop);
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
        if (c->state == CONNECTION_CLOSING ||
                (c->state == CONNECTION_OPEN &&
                        ((c->goaway_sent && !c->n_calls) || (!nghttp2_session_want_read(c->session) && !c->n_calls))))
                connection_linger(c);
}

static void on_flush(struct loop_task *task) {
        struct connection *c = container_of(task, struct connection, flush);
        struct grpc_server *s = c->server;

        server_enter(s);
        connection_flush(c);
        server_leave(s);
}

/* Reading. */

static int connection_open(struct connection *c) {
        struct grpc_server *s = c->server;
        const struct grpc_limits *limits = &s->config.limits;
        const nghttp2_settings_entry settings[] = {
                {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->max_streams},
                {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
                {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)min_of(limits->max_header_list, (size_t)UINT32_MAX)},
                {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
        };

        if (nghttp2_session_server_new2(&c->session, s->callbacks, c, s->options) < 0)
                return -ENOMEM;
        c->state = CONNECTION_OPEN;
        if (nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, n_elements(settings)) < 0 ||
                nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW) < 0)
                return -ENOMEM;
        return 0;
}

static bool looks_like_http1(const uint8_t *data, size_t size) {
        /* A method's first letters. */
        return size && data[0] >= 'A' && data[0] <= 'Z' && (size < 2 || (data[1] >= 'A' && data[1] <= 'Z'));
}

/* The first bytes. */
static void connection_detect(struct connection *c, const uint8_t *data, size_t size) {
        struct grpc_server *s = c->server;
        size_t n = min_of(size, sizeof(c->first) - c->n_first);
        int r;

        if (memcmp(data, PREFACE + c->n_first, n) == 0) {
                if (c->n_first + n < sizeof(c->first)) {
                        memcpy(c->first + c->n_first, data, n);
                        c->n_first += n;
                        return;
                }
                r = connection_open(c);
                if (r < 0) {
                        connection_over(c, "open", r);
                        return;
                }
                (void)nghttp2_session_mem_recv(c->session, (const uint8_t *)PREFACE, sizeof(c->first));
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
                int fd = fcntl(c->transport.fd, F_DUPFD_CLOEXEC, 0);

                if (c->n_first && size <= 8192) {
                        memcpy(all, c->first, c->n_first);
                        memcpy(all + c->n_first, data, size);
                        head = bytes_of(all, c->n_first + size);
                }
                if (fd >= 0)
                        (void)http1_responder_accept(s->config.http1, fd, head);
        }
        connection_kill(c);
}

static void connection_read(struct connection *c) {
        uint8_t *data = input_get();
        uint64_t now = loop_now_ns(c->server->config.loop);
        ssize_t n = -ENOMEM, k;

        for (unsigned i = 0; data && i < READS_PER_WAKE; i++) {
                n = transport_read(&c->transport, data, INPUT_BYTES);
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
                if (c->state == CONNECTION_DEAD || (size_t)n < INPUT_BYTES)
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
                r = output_flush(&c->output, &c->transport);
                if (r < 0)
                        connection_over(c, "write", r);
                else if (r > 0) {
                        c->written_ns = loop_now_ns(s->config.loop);
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
        const struct grpc_limits *limits = &s->config.limits;
        uint64_t now = loop_now_ns(s->config.loop);

        server_enter(s);
        if (c->state != CONNECTION_OPEN || !c->settled)
                connection_kill(c);
        else if (s->draining)
                drain_goaway(c);
        else if (c->ping_sent_ns && c->read_ns < c->ping_sent_ns)
                connection_over(c, "no answer to a ping", -ETIMEDOUT);
        else {
                c->ping_sent_ns = 0;
                if (now - c->read_ns >= limits->keepalive_ns) {
                        (void)nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, keepalive_ping);
                        c->ping_sent_ns = now;
                        loop_timer_set(s->config.loop, &c->timer, now + limits->keepalive_timeout_ns);
                        connection_dirty(c);
                } else
                        loop_timer_set(s->config.loop, &c->timer, c->read_ns + limits->keepalive_ns);
        }
        server_leave(s);
}

/* Who is there. */
static int identify(struct connection *c, int fd) {
        struct sockaddr_storage ss = {};
        socklen_t size = sizeof(ss);
        char host[INET6_ADDRSTRLEN] = "?";
        int r, one = 1;

        if (getsockname(fd, (struct sockaddr *)&ss, &size) < 0)
                return -errno;
        if (ss.ss_family == AF_UNIX) {
                struct ucred ucred = {};
                socklen_t n = sizeof(ucred), n_groups = 0;

                if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &ucred, &n) < 0)
                        return -errno;
                c->peer.local = true;
                c->peer.uid = ucred.uid;
                c->peer.gid = ucred.gid;
                c->peer.pid = ucred.pid;
                if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &n_groups) < 0 && errno == ERANGE && n_groups) {
                        c->groups = malloc(n_groups);
                        if (!c->groups)
                                return -ENOMEM;
                        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, c->groups, &n_groups) < 0)
                                n_groups = 0;
                }
                c->peer.groups = c->groups;
                c->peer.n_groups = c->groups ? n_groups / sizeof(uint32_t) : 0;
                r = asprintf(&c->peer_name, "pid %d uid %u", (int)ucred.pid, ucred.uid);
        } else {
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                size = sizeof(ss);
                if (getpeername(fd, (struct sockaddr *)&ss, &size) < 0)
                        return -errno;
                if (ss.ss_family == AF_INET6) {
                        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;

                        (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
                        r = asprintf(&c->peer_name, "[%s]:%u", host, ntohs(in6->sin6_port));
                } else {
                        const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;

                        (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
                        r = asprintf(&c->peer_name, "%s:%u", host, ntohs(in->sin_port));
                }
        }
        if (r < 0) {
                c->peer_name = NULL;
                return -ENOMEM;
        }
        c->peer.name = c->peer_name;
        return 0;
}

int connection_new(struct grpc_server *s, int fd) {
        uint64_t now = loop_now_ns(s->config.loop);
        struct connection *c;
        int r;

        c = calloc(1, sizeof(*c));
        if (!c) {
                close(fd);
                return -ENOMEM;
        }
        c->server = s;
        transport_init_socket(&c->transport, fd);
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

        r = identify(c, fd);
        if (r >= 0 && s->config.admit && !s->config.admit(s->config.userdata, &c->peer)) {
                struct log_context context = {.peer = c->peer.name};

                log_at(LOG_LEVEL_WARNING, &context, "%s: connection refused: not admitted", s->name);
                r = -EACCES;
        }
        if (r >= 0)
                r = loop_io_start(s->config.loop, &c->io, fd, EPOLLIN);
        if (r < 0) {
                connection_kill(c);
                return r;
        }
        loop_timer_set(s->config.loop, &c->timer, now + PREFACE_NS);
        server_connections_changed(s);
        return 0;
}
