#include "rpc/server.h"

/*
 * What the client sends of a call: the headers, checked here since nghttp2's own checks are off, then messages put together
 * from DATA, then its end. Runs inside nghttp2's callbacks on the server's loop. Nothing here trusts a byte; what is wrong ends this
 * call with a status and leaves the connection's others alone.
 */

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
                if (vec_equal(n, "te")) {
                        call->bad_te = !vec_equal(v, "trailers");
                        return;
                }
                break;
        case 5:
                if (vec_equal(n, ":path")) {
                        if (call->path_buf)
                                nghttp2_rcbuf_decref(call->path_buf);
                        nghttp2_rcbuf_incref(value);
                        call->path_buf = value;
                        call->path = bytes_of(v.base, v.len);
                        return;
                }
                break;
        case 7:
                if (vec_equal(n, ":method")) {
                        call->bad_method = !vec_equal(v, "POST");
                        call->is_get = vec_equal(v, "GET");
                        call->is_head = vec_equal(v, "HEAD");
                        return;
                }
                if (vec_equal(n, ":scheme"))
                        return;
                break;
        case 12:
                if (vec_equal(n, "content-type")) {
                        call->has_type = true;
                        call->bad_type = v.len < 16 || memcmp(v.base, "application/grpc", 16) != 0 ||
                                (v.len > 16 && v.base[16] != '+' && v.base[16] != ';');
                        return;
                }
                if (vec_equal(n, "grpc-timeout")) {
                        call->bad_timeout = !parse_timeout(v, &call->timeout_ns);
                        if (!call->bad_timeout && !call->timeout_ns)
                                call->timeout_ns = 1;
                        return;
                }
                break;
        case 13:
                if (vec_equal(n, "grpc-encoding")) {
                        call->bad_encoding = !vec_equal(v, "identity");
                        return;
                }
                break;
        default:
                break;
        }
        keep_header(call, name, value);
}

/* Ends the call for what the client did. */
static void call_fail(struct grpc_call *call, enum grpc_code code, const char *message) {
        message_reader_done(&call->reader);
        call_abort(call, code, message);
}

/* The bytes that the call keeps of its request; too many on one connection end the call that brings the last of them. */
static void account_held(struct grpc_call *call) {
        struct connection *c = call->conn;
        size_t held = call->header_bytes + call->reader.partial.size + call->request.size;

        c->held += held - call->held;
        call->held = held;
        if (c->held > max_of((size_t)CONNECTION_MAX_HELD, 32 * c->server->config.limits.max_message))
                call_fail(call, GRPC_RESOURCE_EXHAUSTED, "grpc: too many bytes of requests on one connection");
}

/* A peer that takes nothing of much gets nothing more to wait for. Pings that it sends or answers are no excuse. */
static bool takes_nothing(const struct connection *c) {
        return c->pending > CONNECTION_MOST_PENDING ||
                (c->pending > CONNECTION_MAX_PENDING &&
                        loop_now_ns(c->server->config.loop) > c->written_ns + CONNECTION_STALL_NS);
}
#define TAKES_NOTHING "grpc: too many bytes wait to be read by the client"

void call_on_headers_end(struct grpc_call *call) {
        struct connection *c = call->conn;
        struct grpc_server *s = c->server;
        const struct grpc_limits *limits = &s->config.limits;
        const struct grpc_method *method;

        if (call->header_bytes > limits->max_header_list) {
                call_end(call, GRPC_RESOURCE_EXHAUSTED, "grpc: received header list larger than max", NULL);
                return;
        }
        if ((call->is_get || call->is_head) && call->path.size && s->config.http1 && page_answer(call))
                return;
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
                call_end(call, GRPC_UNIMPLEMENTED, "grpc: Decompressor is not installed for grpc-encoding", NULL);
                return;
        }
        call->method = server_method_find(s, call->path);
        method = call->method->method;
        if (!method && s->refusal) {
                call_end(call, s->refusal_code, s->refusal, NULL);
                return;
        }
        if (!method) {
                char *text = server_method_unknown(s, call->path, &call->arena);

                call_end(call, GRPC_UNIMPLEMENTED, text ? text : "unknown method", NULL);
                return;
        }
        if (s->draining && method->server_streaming) {
                call_end(call, GRPC_UNAVAILABLE, "etcdserver: server stopped", NULL);
                return;
        }
        if (takes_nothing(c)) {
                call_end(call, GRPC_RESOURCE_EXHAUSTED, TAKES_NOTHING, NULL);
                return;
        }
        if (method->user_size) {
                call->user = arena_alloc0(&call->arena, method->user_size);
                if (!call->user) {
                        call_end(call, GRPC_RESOURCE_EXHAUSTED, "out of memory", NULL);
                        return;
                }
        }
        if (call->timeout_ns) {
                /* By the clock, not by when the loop woke, which may be long ago on a host that stood still: who is told of a deadline before
                 * his own takes it for another's trouble and asks again, and etcd's client does that with writes too. */
                if (!__builtin_add_overflow(clock_now_ns(), call->timeout_ns, &call->deadline_ns))
                        loop_timer_set(s->config.loop, &call->timer, call->deadline_ns);
                else
                        call->deadline_ns = UINT64_MAX;
        }
        call->known = true;
        account_held(call);
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
        account_held(call);
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
        else if (takes_nothing(call->conn)) /* it may have opened its streams in time */
                call_fail(call, GRPC_RESOURCE_EXHAUSTED, TAKES_NOTHING);
        else
                method->on_message(call, call->request);
}
