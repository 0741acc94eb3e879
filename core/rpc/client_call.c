#include "rpc/client_call.h"

#include "rpc/client.h"

/*
 * The client's calls, and nghttp2's callbacks that serve them. Runs on the client's loop. on_end is never called from within
 * grpc_client_start() or grpc_client_send(), so a caller may rely on what they returned; it may be from within grpc_client_cancel().
 */

#define WINDOW (4 * 1024 * 1024)
#define MAX_MESSAGE ((size_t)1 << 30)
#define MAX_MESSAGE_TEXT 4096

void client_call_end(struct grpc_client_call *call, enum grpc_code code, const char *message) {
        struct grpc_client *c = call->client;

        if (call->stream_id > 0 && !c->lost)
                nghttp2_session_set_stream_user_data(c->session, call->stream_id, NULL);
        loop_timer_clear(&call->timer);
        LIST_REMOVE(call, entry);
        if (call->handler->on_end)
                call->handler->on_end(call->userdata, code, message);
        send_queue_done(&call->queue);
        message_reader_done(&call->reader);
        buf_done(&call->text);
        free(call);
}

static ssize_t on_send(nghttp2_session *session, const uint8_t *data, size_t length, int flags, void *user_data) {
        struct grpc_client *c = user_data;

        (void)session;
        (void)flags;
        if (c->freed)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (!output_batch_has_room(c->batch))
                return NGHTTP2_ERR_WOULDBLOCK;
        length = min_of(length, (size_t)OUTPUT_FRAME);
        output_batch_copy(c->batch, data, length);
        return (ssize_t)length;
}

static ssize_t read_queue(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
        nghttp2_data_source *source, void *user_data) {
        struct grpc_client_call *call = source->ptr;
        size_t n = min_of(length, call->queue.size);

        (void)session;
        (void)stream_id;
        (void)buf;
        (void)user_data;
        if (!n && !call->half_closed) {
                call->deferred = true;
                return NGHTTP2_ERR_DEFERRED;
        }
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        if (n == call->queue.size && call->half_closed)
                *flags |= NGHTTP2_DATA_FLAG_EOF;
        return (ssize_t)n;
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *framehd, size_t length,
        nghttp2_data_source *source, void *user_data) {
        struct grpc_client *c = user_data;
        struct grpc_client_call *call;

        (void)source;
        if (c->freed)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (!call)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* ended meanwhile: the stream is reset */
        if (!output_batch_has_room(c->batch))
                return NGHTTP2_ERR_WOULDBLOCK;
        output_batch_copy(c->batch, framehd, 9);
        send_queue_emit(&call->queue, c->batch, length);
        return 0;
}

static void decode_text(struct grpc_client_call *call, nghttp2_vec v) {
        buf_clear(&call->text);
        for (size_t i = 0; i < v.len && call->text.size < MAX_MESSAGE_TEXT; i++) {
                uint8_t b = v.base[i];
                char hex[3] = {};

                if (b == '%' && i + 2 < v.len) {
                        char *end;
                        unsigned long n;

                        memcpy(hex, v.base + i + 1, 2);
                        n = strtoul(hex, &end, 16);
                        if (end == hex + 2) {
                                b = (uint8_t)n;
                                i += 2;
                        }
                }
                (void)buf_append(&call->text, &b, 1);
        }
}

static bool equal(nghttp2_vec v, const char *s) {
        return v.len == strlen(s) && memcmp(v.base, s, v.len) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
        uint8_t flags, void *user_data) {
        struct grpc_client_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);

        (void)flags;
        (void)user_data;
        if (!call)
                return 0;
        if (equal(n, ":status"))
                call->bad_http = !equal(v, "200");
        else if (equal(n, "grpc-status")) {
                unsigned code = 0;

                for (size_t i = 0; i < v.len && code < 1000; i++)
                        code = v.base[i] >= '0' && v.base[i] <= '9' ? code * 10 + v.base[i] - '0' : 1000;
                call->has_status = true;
                call->status = v.len && code <= GRPC_UNAUTHENTICATED ? (enum grpc_code)code : GRPC_UNKNOWN;
        } else if (equal(n, "grpc-message"))
                decode_text(call, v);
        return 0;
}

static bool on_response(void *userdata, struct bytes message) {
        struct grpc_client_call *call = userdata;
        struct grpc_client *c = call->client;

        if (!call->cancelled && call->handler->on_message)
                call->handler->on_message(call->userdata, message);
        return !c->freed && !call->cancelled;
}

static void call_reset(struct grpc_client_call *call, enum grpc_code code, const char *text) {
        call->cancelled = true;
        call->local = code;
        call->local_text = text;
        (void)nghttp2_submit_rst_stream(call->client->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
        client_dirty(call->client);
}

static int on_data_chunk(
        nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size, void *user_data) {
        struct grpc_client *c = user_data;
        struct grpc_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
        int r;

        (void)flags;
        if (!call || call->cancelled)
                return 0;
        LIST_REMOVE(call, entry); /* on_message may cancel it or free the client: neither ends it under the reader */
        call->in_message = true;
        r = message_reader_feed(&call->reader, data, size, MAX_MESSAGE, on_response, call);
        call->in_message = false;
        LIST_INSERT_HEAD(&c->calls, call, entry);
        if (c->freed) {
                client_call_end(call, GRPC_CANCELLED, "the client was freed");
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        if (call->cancelled)
                client_call_end(call, call->local, call->local_text);
        else if (r != 0)
                call_reset(call, r == FRAMING_TOO_LARGE ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL,
                        r == FRAMING_TOO_LARGE ? "grpc: received message larger than max" : "grpc: malformed response");
        return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data) {
        struct grpc_client *c = user_data;
        struct grpc_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
        cleanup(buf_done) struct buf text = {};
        enum grpc_code code;
        const char *message;

        if (!call)
                return 0;
        call->stream_id = 0; /* gone */
        if (call->cancelled) {
                code = call->local;
                message = call->local_text;
        } else if (call->has_status) {
                text = call->text;
                call->text = (struct buf){};
                code = call->status;
                message = buf_append(&text, "", 1) < 0 ? "" : (const char *)text.data;
        } else if (call->bad_http) {
                code = GRPC_UNKNOWN;
                message = "the server's answer is not gRPC's";
        } else {
                code = error_code == NGHTTP2_REFUSED_STREAM ? GRPC_UNAVAILABLE
                        : error_code == NGHTTP2_CANCEL      ? GRPC_CANCELLED
                                                            : GRPC_INTERNAL;
                message = error_code == NGHTTP2_NO_ERROR ? "the stream ended without a status" : "the stream was reset";
        }
        client_call_end(call, code, message);
        return c->freed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

int client_session(struct grpc_client *c) {
        const nghttp2_settings_entry settings[] = {
                {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
        };
        nghttp2_session_callbacks *callbacks;
        nghttp2_option *option;
        int r;

        if (nghttp2_session_callbacks_new(&callbacks) < 0)
                return -ENOMEM;
        if (nghttp2_option_new(&option) < 0) {
                nghttp2_session_callbacks_del(callbacks);
                return -ENOMEM;
        }
        nghttp2_session_callbacks_set_send_callback(callbacks, on_send);
        nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
        nghttp2_session_callbacks_set_on_header_callback2(callbacks, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
        nghttp2_option_set_no_http_messaging(option, 1);
        nghttp2_option_set_peer_max_concurrent_streams(option, 65536); /* until the server tells */
        r = nghttp2_session_client_new2(&c->session, callbacks, c, option);
        nghttp2_option_del(option);
        nghttp2_session_callbacks_del(callbacks);
        if (r < 0 || nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, n_elements(settings)) < 0 ||
                nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW) < 0)
                return -ENOMEM;
        return 0;
}

static void on_call_timeout(struct loop_timer *timer) {
        struct grpc_client_call *call = container_of(timer, struct grpc_client_call, timer);
        struct grpc_client *c = call->client;

        c->depth++;
        if (call->stream_id > 0 && !c->lost)
                call_reset(call, GRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
        client_call_end(call, GRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
        client_leave(c);
}

/* At most eight digits, rounded up. */
static void print_timeout(char *out, size_t size, uint64_t ns) {
        static const struct {
                uint64_t ns;
                char name;
        } units[] = {{1, 'n'}, {1000, 'u'}, {1000000, 'm'}, {NSEC_PER_SEC, 'S'}, {60 * NSEC_PER_SEC, 'M'},
                {3600 * NSEC_PER_SEC, 'H'}};

        for (size_t i = 0; i < n_elements(units); i++) {
                uint64_t n = ns / units[i].ns + (ns % units[i].ns != 0);

                if (n < 100000000 || i + 1 == n_elements(units)) {
                        (void)snprintf(out, size, "%lu%c", (unsigned long)min_of(n, (uint64_t)99999999), units[i].name);
                        return;
                }
        }
}

#define NV(n, v, vsize)                                                                                                \
        { (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, (vsize), NGHTTP2_NV_FLAG_NO_COPY_NAME }

int grpc_client_start(struct grpc_client *c, const char *path, uint64_t timeout_ns,
        const struct grpc_client_handler *handler, void *userdata, struct grpc_client_call **ret) {
        struct grpc_client_call *call;
        nghttp2_data_provider provider = {.read_callback = read_queue};
        char timeout[16];
        nghttp2_nv nv[] = {
                NV(":method", "POST", 4),
                NV(":scheme", "http", 4),
                NV(":path", path, strlen(path)),
                NV(":authority", c->authority, strlen(c->authority)),
                NV("content-type", "application/grpc", 16),
                NV("user-agent", "stokehold", 9),
                NV("te", "trailers", 8),
                NV("grpc-timeout", timeout, 0),
        };
        size_t n = n_elements(nv);

        call = new0(struct grpc_client_call);
        call->client = c;
        call->handler = handler;
        call->userdata = userdata;
        call->timer.on_time = on_call_timeout;
        LIST_INSERT_HEAD(&c->calls, call, entry);
        *ret = call;
        if (c->lost) {
                loop_defer(c->loop, &c->reap);
                return 0;
        }

        if (timeout_ns) {
                print_timeout(timeout, sizeof(timeout), timeout_ns);
                nv[n - 1].valuelen = strlen(timeout);
                nv[n - 1].flags |= NGHTTP2_NV_FLAG_NO_INDEX;
                loop_timer_set(c->loop, &call->timer, clock_now_ns() + timeout_ns);
        } else
                n--;
        provider.source.ptr = call;
        call->stream_id = nghttp2_submit_request(c->session, NULL, nv, n, &provider, call);
        if (call->stream_id < 0) {
                loop_timer_clear(&call->timer);
                LIST_REMOVE(call, entry);
                free(call);
                return -ENOMEM;
        }
        client_dirty(c);
        return 0;
}

static void call_resume(struct grpc_client_call *call) {
        if (call->deferred) {
                call->deferred = false;
                (void)nghttp2_session_resume_data(call->client->session, call->stream_id);
        }
        client_dirty(call->client);
}

int grpc_client_send(struct grpc_client_call *call, struct bytes message) {
        struct blob *b;
        int r;

        if (call->client->lost || call->cancelled || call->half_closed)
                return 0;
        b = blob_copy(message.data, message.size);
        if (!b)
                return -ENOMEM;
        r = send_queue_push(&call->queue, &b, 1);
        if (r >= 0)
                call_resume(call);
        return r;
}

void grpc_client_half_close(struct grpc_client_call *call) {
        if (call->half_closed)
                return;
        call->half_closed = true;
        if (!call->client->lost && !call->cancelled)
                call_resume(call);
}

void grpc_client_cancel(struct grpc_client_call *call) {
        struct grpc_client *c = call->client;

        if (!call->cancelled && !c->lost)
                call_reset(call, GRPC_CANCELLED, "context canceled");
        call->cancelled = true;
        call->local = GRPC_CANCELLED;
        call->local_text = "context canceled";
        if (call->in_message)
                return; /* its end comes when on_message returns */
        c->depth++;
        client_call_end(call, GRPC_CANCELLED, "context canceled");
        client_leave(c);
}
