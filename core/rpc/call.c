#include "rpc/server.h"

/*
 * One call of the server: its request headers, its messages, its answer. Belongs to its connection; runs on the server's loop,
 * mostly inside nghttp2's callbacks, where submitting is allowed and freeing is not.
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

/* The bytes of received messages that the call keeps in memory. */
static void account_held(struct grpc_call *call, size_t held) {
        call->conn->held += held - call->held;
        call->held = held;
}

void call_free(struct grpc_call *call) {
        struct connection *c = call->conn;
        struct grpc_server *s = c->server;

        call->gone = true;
        call_abort(call, GRPC_CANCELLED, NULL);
        if (call->known && call->method->method->on_free)
                call->method->method->on_free(call);

        loop_timer_clear(&call->timer);
        if (call->in_drained)
                STAILQ_REMOVE(&c->drained, call, grpc_call, drained_entry);
        if (c->header_call == call)
                c->header_call = NULL;
        drop_queue(call);
        account_held(call, 0);
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

/* Trailers, or headers that are the trailers too. http: the status of a response that is not even gRPC's, NULL: 200. */
static void call_end(struct grpc_call *call, enum grpc_code code, const char *message, const char *http) {
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

/* Before any handler knows of it. */
static void call_refuse(struct grpc_call *call, enum grpc_code code, const char *message) {
        call_end(call, code, message, NULL);
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

/* The request. */

static bool equal(nghttp2_vec v, const char *s) {
        return v.len == strlen(s) && memcmp(v.base, s, v.len) == 0;
}

/* "100m", of up to eight digits. */
static bool parse_timeout(nghttp2_vec v, uint64_t *ret) {
        uint64_t n = 0, unit;

        if (v.len < 2 || v.len > 9)
                return false;
        for (size_t i = 0; i + 1 < v.len; i++) {
                if (v.base[i] < '0' || v.base[i] > '9')
                        return false;
                n = n * 10 + (uint64_t)(v.base[i] - '0');
        }
        switch (v.base[v.len - 1]) {
        case 'H':
                unit = 3600 * NSEC_PER_SEC;
                break;
        case 'M':
                unit = 60 * NSEC_PER_SEC;
                break;
        case 'S':
                unit = NSEC_PER_SEC;
                break;
        case 'm':
                unit = NSEC_PER_MSEC;
                break;
        case 'u':
                unit = NSEC_PER_USEC;
                break;
        case 'n':
                unit = 1;
                break;
        default:
                return false;
        }
        if (__builtin_mul_overflow(n, unit, ret))
                *ret = UINT64_MAX;
        return true;
}

static void keep_header(struct grpc_call *call, nghttp2_rcbuf *name, nghttp2_rcbuf *value) {
        if (call->n_headers == call->n_headers_room) {
                struct call_header *more = arena_alloc(&call->arena, 2 * call->n_headers * sizeof(*more));

                if (!more)
                        return;
                memcpy(more, call->headers, call->n_headers * sizeof(*more));
                call->headers = more;
                call->n_headers_room *= 2;
        }
        nghttp2_rcbuf_incref(name);
        nghttp2_rcbuf_incref(value);
        call->headers[call->n_headers++] = (struct call_header){name, value};
}

void call_on_header(struct grpc_call *call, nghttp2_rcbuf *name, nghttp2_rcbuf *value) {
        nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);
        size_t max = call->conn->server->config.limits.max_header_list;

        if (call->header_bytes > max)
                return;
        call->header_bytes += (uint32_t)min_of(n.len + v.len + 32, (size_t)1 << 24);
        if (call->header_bytes > max)
                return;

        switch (n.len) {
        case 2:
                if (equal(n, "te")) {
                        call->bad_te = !equal(v, "trailers");
                        return;
                }
                break;
        case 5:
                if (equal(n, ":path")) {
                        if (call->path_buf)
                                nghttp2_rcbuf_decref(call->path_buf);
                        nghttp2_rcbuf_incref(value);
                        call->path_buf = value;
                        call->path = bytes_of(v.base, v.len);
                        return;
                }
                break;
        case 7:
                if (equal(n, ":method")) {
                        call->bad_method = !equal(v, "POST");
                        return;
                }
                if (equal(n, ":scheme"))
                        return;
                break;
        case 12:
                if (equal(n, "content-type")) {
                        call->has_type = true;
                        call->bad_type = v.len < 16 || memcmp(v.base, "application/grpc", 16) != 0 ||
                                (v.len > 16 && v.base[16] != '+' && v.base[16] != ';');
                        return;
                }
                if (equal(n, "grpc-timeout")) {
                        call->bad_timeout = !parse_timeout(v, &call->timeout_ns);
                        if (!call->bad_timeout && !call->timeout_ns)
                                call->timeout_ns = 1;
                        return;
                }
                break;
        case 13:
                if (equal(n, "grpc-encoding")) {
                        call->bad_encoding = !equal(v, "identity");
                        return;
                }
                break;
        default:
                break;
        }
        keep_header(call, name, value);
}

void call_on_headers_end(struct grpc_call *call) {
        struct connection *c = call->conn;
        struct grpc_server *s = c->server;
        const struct grpc_limits *limits = &s->config.limits;
        const struct grpc_method *method;
        uint64_t now = call->start_ns;

        if (call->header_bytes > limits->max_header_list) {
                call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "grpc: received header list larger than max");
                return;
        }
        if (call->bad_method || !call->path.size) {
                call_end(call, GRPC_INTERNAL, call->bad_method ? "grpc: expected method POST" : "grpc: no :path",
                        call->bad_method ? "405" : "400");
                return;
        }
        if (call->bad_type || !call->has_type) {
                call_end(call, GRPC_INVALID_ARGUMENT, "grpc: invalid gRPC request content-type", "415");
                return;
        }
        if (call->bad_te || call->bad_timeout) {
                call_end(call, GRPC_INTERNAL, call->bad_te ? "grpc: malformed te" : "grpc: malformed grpc-timeout",
                        "400");
                return;
        }
        if (call->bad_encoding) {
                call_refuse(call, GRPC_UNIMPLEMENTED, "grpc: Decompressor is not installed for grpc-encoding");
                return;
        }
        call->method = server_method_find(s, call->path);
        method = call->method->method;
        if (!method) {
                char *text = server_method_unknown(s, call->path, &call->arena);

                call_refuse(call, GRPC_UNIMPLEMENTED, text ? text : "unknown method");
                return;
        }
        if (s->draining && method->server_streaming) {
                call_refuse(call, GRPC_UNAVAILABLE, "etcdserver: server stopped");
                return;
        }
        /* A peer that takes nothing of much gets nothing more to wait for. */
        if (c->pending > CONNECTION_MAX_PENDING && now > c->written_ns + CONNECTION_STALL_NS) {
                call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "grpc: too many bytes wait to be read by the client");
                return;
        }
        if (method->user_size) {
                call->user = arena_alloc0(&call->arena, method->user_size);
                if (!call->user) {
                        call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
                        return;
                }
        }
        if (call->timeout_ns) {
                if (!__builtin_add_overflow(now, call->timeout_ns, &call->deadline_ns))
                        loop_timer_set(s->config.loop, &call->timer, call->deadline_ns);
                else
                        call->deadline_ns = UINT64_MAX;
        }
        call->known = true;
}

/* Ends the call for what the client did. */
static void call_fail(struct grpc_call *call, enum grpc_code code, const char *message) {
        message_reader_done(&call->reader);
        call_abort(call, code, message);
}

static bool on_request(void *userdata, struct bytes message) {
        struct grpc_call *call = userdata;

        if (call->method->method->client_streaming) {
                call->method->method->on_message(call, message);
                return call->conn->state != CONNECTION_DEAD && !call->ended;
        }

        if (call->has_request) {
                call_fail(call, GRPC_INTERNAL, "grpc: received more than one request message of a call that takes one");
                return false;
        }
        call->has_request = true;
        if (message.data == call->reader.partial.data && message.size) {
                call->request_owned = steal(call->reader.partial.data);
                buf_init(&call->reader.partial, 0);
                call->request = message;
                return true;
        }
        call->request = bytes_of(arena_copy(&call->arena, message.data, message.size), message.size);
        if (!call->request.data) {
                call_fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
                return false;
        }
        return true;
}

void call_on_data(struct grpc_call *call, const uint8_t *data, size_t size) {
        struct connection *c = call->conn;
        size_t max = c->server->config.limits.max_message;
        char text[96];
        int r;

        if (call->ended || !call->known)
                return;
        r = message_reader_feed(&call->reader, data, size, max, on_request, call);
        if (c->state == CONNECTION_DEAD || call->ended)
                return;
        switch (r) {
        case 0:
                break;
        case FRAMING_TOO_LARGE:
                (void)snprintf(text, sizeof(text), "grpc: received message larger than max (%u vs. %zu)",
                        call->reader.size, max);
                call_fail(call, GRPC_RESOURCE_EXHAUSTED, text);
                return;
        case FRAMING_COMPRESSED:
                call_fail(call, GRPC_INTERNAL, "grpc: compressed flag set with identity or empty encoding");
                return;
        default:
                call_fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
                return;
        }
        account_held(call, call->reader.partial.size + call->request.size);
        if (c->held > max_of((size_t)CONNECTION_MAX_HELD, 32 * max))
                call_fail(call, GRPC_RESOURCE_EXHAUSTED, "grpc: too many bytes of requests on one connection");
}

void call_on_half_close(struct grpc_call *call) {
        const struct grpc_method *method = call->method->method;

        if (call->half_closed)
                return;
        call->half_closed = true;
        if (call->ended || !call->known)
                return;
        if (message_reader_broken(&call->reader)) {
                call_fail(call, GRPC_INTERNAL, "grpc: unexpected end of the stream within a message");
                return;
        }
        if (method->client_streaming) {
                if (method->on_half_close)
                        method->on_half_close(call);
        } else if (!call->has_request)
                call_fail(call, GRPC_INTERNAL, "grpc: received no request message");
        else
                method->on_message(call, call->request);
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
                if (equal(nghttp2_rcbuf_get_buf(call->headers[i].name), name)) {
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
