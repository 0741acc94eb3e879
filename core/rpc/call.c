#include "rpc/http1.h"
#include "rpc/server.h"

/*
 * One call of the server: its life, its answer, and what services see of it. (What the client sends is in request.c.) Belongs to its
 * connection; runs on the server's loop, mostly inside nghttp2's callbacks, where submitting is allowed and freeing is not.
 */

#define MAX_FREE_CALLS 128
#define NV(n, v)                                                                                                       \
        {                                                                                                              \
                (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1,                                          \
                        NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                                   \
        }

static const nghttp2_nv nv_response[] = {NV(":status", "200"), NV("content-type", "application/grpc")};
static const nghttp2_nv nv_status[N_CODES] = {
        NV("grpc-status", "0"),
        NV("grpc-status", "1"),
        NV("grpc-status", "2"),
        NV("grpc-status", "3"),
        NV("grpc-status", "4"),
        NV("grpc-status", "5"),
        NV("grpc-status", "6"),
        NV("grpc-status", "7"),
        NV("grpc-status", "8"),
        NV("grpc-status", "9"),
        NV("grpc-status", "10"),
        NV("grpc-status", "11"),
        NV("grpc-status", "12"),
        NV("grpc-status", "13"),
        NV("grpc-status", "14"),
        NV("grpc-status", "15"),
        NV("grpc-status", "16"),
};

static void on_deadline(struct loop_timer *timer);

struct grpc_call *call_new(struct connection *c, int32_t stream_id) {
        struct grpc_server *s = c->server;
        struct grpc_call *call = SLIST_FIRST(&s->free_calls);

        if (call) {
                SLIST_REMOVE_HEAD(&s->free_calls, free_entry);
                s->n_free_calls--;
        } else {
                call = malloc(sizeof(*call));
                if (!call)
                        return NULL;
        }
        memset(call, 0, offsetof(struct grpc_call, few));
        arena_init(&call->arena, 0);
        call->arena.next = (uint8_t *)call->room; /* a short call allocates nothing */
        call->arena.left = sizeof(call->room);
        call->headers = call->few;
        call->n_headers_room = n_elements(call->few);
        call->conn = c;
        call->method = &s->unknown;
        call->stream_id = stream_id;
        call->start_ns = loop_now_ns(s->config.loop);
        call->deadline_ns = UINT64_MAX;
        call->timer.on_time = on_deadline;
        LIST_INSERT_HEAD(&c->calls, call, entry);
        c->n_calls++;
        return call;
}

static void drop_queue(struct grpc_call *call) {
        call->conn->pending -= call->queue.size;
        send_queue_done(&call->queue);
}

void call_free(struct grpc_call *call) {
        struct connection *c = call->conn;
        struct grpc_server *s = c->server;

        call->gone = true;
        call_abort(call, GRPC_CANCELLED, NULL);
        if (call->known && call->method->method->on_free)
                call->method->method->on_free(call);

        loop_timer_clear(&call->timer);
        http1_request_abandon(call->page_request);
        if (call->in_drained)
                STAILQ_REMOVE(&c->drained, call, grpc_call, drained_entry);
        if (c->header_call == call)
                c->header_call = NULL;
        drop_queue(call);
        c->held -= call->held;
        message_reader_done(&call->reader);
        free(call->request_owned);
        if (call->path_buf)
                nghttp2_rcbuf_decref(call->path_buf);
        for (size_t i = 0; i < call->n_headers; i++) {
                nghttp2_rcbuf_decref(call->headers[i].name);
                nghttp2_rcbuf_decref(call->headers[i].value);
        }
        arena_done(&call->arena);
        LIST_REMOVE(call, entry);
        c->n_calls--;

        SLIST_INSERT_HEAD(&s->free_calls, call, free_entry);
        s->n_free_calls++;
        connection_call_gone(c);
}

void call_trim(struct grpc_server *s) {
        size_t keep = s->zombie ? 0 : MAX_FREE_CALLS;

        while (s->n_free_calls > keep) {
                struct grpc_call *call = SLIST_FIRST(&s->free_calls);

                SLIST_REMOVE_HEAD(&s->free_calls, free_entry);
                s->n_free_calls--;
                free(call);
        }
}

/* The answer. */

static ssize_t read_queue(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
        uint32_t *data_flags, nghttp2_data_source *source, void *user_data) {
        struct grpc_call *call = source->ptr;
        size_t n = min_of(length, call->queue.size);
        nghttp2_nv nv[2];
        size_t n_nv = 1;

        (void)buf;
        (void)user_data;
        if (!n && !call->finished) {
                call->deferred = true;
                return NGHTTP2_ERR_DEFERRED;
        }
        *data_flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        if (n == call->queue.size && call->finished) {
                *data_flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
                nv[0] = nv_status[call->code];
                if (call->message_size)
                        nv[n_nv++] = (nghttp2_nv){(uint8_t *)"grpc-message", (uint8_t *)call->message, 12,
                                call->message_size, NGHTTP2_NV_FLAG_NO_INDEX | NGHTTP2_NV_FLAG_NO_COPY_NAME};
                if (!call->trailed && nghttp2_submit_trailer(session, stream_id, nv, n_nv) < 0)
                        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
                call->trailed = true;
        }
        return (ssize_t)n;
}

static bool call_has_stream(struct grpc_call *call) {
        return !call->gone && call->conn->state == CONNECTION_OPEN;
}

static void call_resume(struct grpc_call *call) {
        if (call->deferred) {
                call->deferred = false;
                (void)nghttp2_session_resume_data(call->conn->session, call->stream_id);
        }
        connection_dirty(call->conn);
}

/* A submission that failed for want of memory leaves a stream that would hang. */
static void call_reset(struct grpc_call *call, uint32_t error) {
        (void)nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id, error);
        connection_dirty(call->conn);
}

static void encode_message(struct grpc_call *call, const char *message) {
        static const char hex[] = "0123456789ABCDEF";
        size_t size = message ? strnlen(message, 4096) : 0;
        char *p;

        if (!size)
                return;
        p = arena_alloc(&call->arena, size * 3);
        if (!p)
                return;
        call->message = p;
        for (size_t i = 0; i < size; i++) {
                uint8_t b = (uint8_t)message[i];

                if (b >= ' ' && b <= '~' && b != '%')
                        *p++ = (char)b;
                else {
                        *p++ = '%';
                        *p++ = hex[b >> 4];
                        *p++ = hex[b & 15];
                }
        }
        call->message_size = (size_t)(p - call->message);
}

static void call_measure(struct grpc_call *call, enum grpc_code code) {
        struct server_method *m = call->method;
        struct grpc_server *s = call->conn->server;
        uint64_t took, slow = s->config.limits.slow_ns;

        server_count(s, m, code);
        if (!m->seconds)
                return;
        took = clock_now_ns() - call->start_ns;
        metric_observe(m->seconds, (double)took / 1e9);
        if (slow && took >= slow) {
                struct log_context context = {.peer = call->conn->peer.name};

                log_at(LOG_LEVEL_WARNING, &context, "%s: slow request: %s took %.1f ms: %s", s->name, m->path,
                        (double)took / 1e6, grpc_code_name(code));
        }
}

/* Trailers, or headers that are the trailers too. */
void call_end(struct grpc_call *call, enum grpc_code code, const char *message, const char *http) {
        nghttp2_nv nv[4];
        size_t n = 2;

        if ((unsigned)code >= N_CODES)
                code = GRPC_UNKNOWN;
        call->ended = true;
        call->code = (uint8_t)code;
        loop_timer_clear(&call->timer);
        call_measure(call, code);
        if (!call_has_stream(call))
                return;

        encode_message(call, message);
        if (call->responded) {
                call->finished = true;
                call_resume(call);
                return;
        }
        nv[0] = nv_response[0];
        if (http) {
                nv[0].value = (uint8_t *)http;
                nv[0].valuelen = strlen(http);
        }
        nv[1] = nv_response[1];
        nv[n++] = nv_status[code];
        if (call->message_size)
                nv[n++] = (nghttp2_nv){(uint8_t *)"grpc-message", (uint8_t *)call->message, 12, call->message_size,
                        NGHTTP2_NV_FLAG_NO_INDEX | NGHTTP2_NV_FLAG_NO_COPY_NAME};
        call->responded = true;
        if (nghttp2_submit_response(call->conn->session, call->stream_id, nv, n, NULL) < 0)
                call_reset(call, NGHTTP2_INTERNAL_ERROR);
        connection_dirty(call->conn);
}

void call_abort(struct grpc_call *call, enum grpc_code code, const char *message) {
        if (call->ended)
                return;
        call->ended = true; /* what the handler sends from within on_cancel goes nowhere */
        if (call->known && call->method->method->on_cancel)
                call->method->method->on_cancel(call);
        /* Half a message cannot be followed by trailers, and the other half may never be wanted. */
        if (call->promised || send_queue_broken(&call->queue)) {
                loop_timer_clear(&call->timer);
                call_measure(call, code);
                if (call_has_stream(call))
                        call_reset(call, NGHTTP2_CANCEL);
                return;
        }
        drop_queue(call);
        call_end(call, code, message, NULL);
}

static void on_deadline(struct loop_timer *timer) {
        struct grpc_call *call = container_of(timer, struct grpc_call, timer);
        struct grpc_server *s = call->conn->server;

        server_enter(s);
        call_abort(call, GRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
        server_leave(s);
}

void call_on_drained(struct grpc_call *call) {
        if (!call->ended && call->known && call->method->method->on_drained)
                call->method->method->on_drained(call);
}

/* What services see. */

void *grpc_call_user(struct grpc_call *call) {
        return call->user;
}

void *grpc_call_server_userdata(struct grpc_call *call) {
        return call->conn->server->config.userdata;
}

struct loop *grpc_call_loop(struct grpc_call *call) {
        return call->conn->server->config.loop;
}

struct arena *grpc_call_arena(struct grpc_call *call) {
        return &call->arena;
}

const struct grpc_peer *grpc_call_peer(struct grpc_call *call) {
        return &call->conn->peer;
}

const struct grpc_method *grpc_call_method(struct grpc_call *call) {
        return call->method->method;
}

uint64_t grpc_call_deadline(struct grpc_call *call) {
        return call->deadline_ns;
}

bool grpc_call_metadata(struct grpc_call *call, const char *name, struct bytes *ret) {
        for (size_t i = 0; i < call->n_headers; i++)
                if (vec_equal(nghttp2_rcbuf_get_buf(call->headers[i].name), name)) {
                        nghttp2_vec v = nghttp2_rcbuf_get_buf(call->headers[i].value);

                        *ret = bytes_of(v.base, v.len);
                        return true;
                }
        return false;
}

void grpc_call_send(struct grpc_call *call, struct blob *const *parts, size_t n_parts) {
        struct connection *c = call->conn;
        nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_queue};
        size_t before = call->queue.size;
        int r;

        if (call->ended || !call_has_stream(call)) {
                for (size_t i = 0; i < n_parts; i++)
                        blob_unref(parts[i]);
                return;
        }
        r = send_queue_push(&call->queue, parts, n_parts);
        if (r < 0) {
                call_abort(call, GRPC_RESOURCE_EXHAUSTED,
                        r == -EMSGSIZE ? "grpc: message too large to send" : "out of memory");
                return;
        }
        c->pending += call->queue.size - before;
        if (call->queue.size >= c->server->config.limits.low_mark)
                call->above_mark = true;
        if (call->responded) {
                call_resume(call);
                return;
        }
        call->responded = true;
        if (nghttp2_submit_response(c->session, call->stream_id, nv_response, n_elements(nv_response), &provider) < 0)
                call_reset(call, NGHTTP2_INTERNAL_ERROR);
        connection_dirty(c);
}

size_t grpc_call_pending(struct grpc_call *call) {
        return call->queue.size;
}

void grpc_call_pause(struct grpc_call *call) {
        call->paused = true;
}

void grpc_call_resume(struct grpc_call *call) {
        size_t unread = call->unread;

        call->paused = false;
        call->unread = 0;
        if (!unread || !call_has_stream(call))
                return;
        if (nghttp2_session_consume_stream(call->conn->session, call->stream_id, unread) < 0)
                call_reset(call, NGHTTP2_INTERNAL_ERROR);
        connection_dirty(call->conn);
}

void grpc_call_finish(struct grpc_call *call, enum grpc_code code, const char *message) {
        if (!call->ended)
                call_end(call, code, message, NULL);
}

void grpc_call_reply(struct grpc_call *call, struct blob *message) {
        grpc_call_send(call, &message, 1);
        grpc_call_finish(call, GRPC_OK, NULL);
}

bool grpc_call_ended(struct grpc_call *call) {
        return call->ended;
}
