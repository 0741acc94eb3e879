#include "rpc/client_call.h"

/*
 * HTTP/2 of the client's connection: nghttp2's callbacks, which serve the calls (client_call.c), and the settings. Runs on the client's loop,
 * beneath nghttp2_session_mem_recv() and nghttp2_session_send(): a session is never freed here, and once the client is freed each callback says so.
 */

#define WINDOW (4 * 1024 * 1024)
#define MAX_MESSAGE_TEXT 4096

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

ssize_t client_read_queue(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
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
        if (call->above && call->queue.size < GRPC_CLIENT_LOW) {
                call->above = false;
                if (!call->in_drained)
                        LIST_INSERT_HEAD(&c->drained, call, drained_entry);
                call->in_drained = true;
        }
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

static int on_data_chunk(
        nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size, void *user_data) {
        struct grpc_client *c = user_data;
        struct grpc_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);

        (void)flags;
        (void)nghttp2_session_consume_connection(
                session, size); /* one call that waits does not keep the others waiting */
        if (!call || call->cancelled)
                return 0;
        if (call->paused || call->kept.size) {
                if (buf_append(&call->kept, data, size) < 0)
                        client_call_reset(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
                return 0;
        }
        (void)client_call_feed(call, data, size);
        return c->freed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data) {
        struct grpc_client *c = user_data;
        struct grpc_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
        enum grpc_code code;
        const char *message;

        if (!call)
                return 0;
        call->stream_id = 0; /* gone */
        if (call->cancelled) {
                code = call->local;
                message = call->local_text;
        } else if (call->has_status) {
                code = call->status;
                message = buf_append(&call->text, "", 1) < 0 ? "" : (const char *)call->text.data;
        } else if (call->bad_http) {
                code = GRPC_UNKNOWN;
                message = "the server's answer is not gRPC's";
        } else {
                code = error_code == NGHTTP2_REFUSED_STREAM ? GRPC_UNAVAILABLE
                        : error_code == NGHTTP2_CANCEL      ? GRPC_CANCELLED
                                                            : GRPC_INTERNAL;
                message = error_code == NGHTTP2_NO_ERROR ? "the stream ended without a status" : "the stream was reset";
        }
        if ((call->paused || call->kept.size) && !call->cancelled) { /* its messages come first */
                loop_timer_clear(&call->timer);
                call->over = true;
                call->code = code;
                call->end_text = message;
                return 0;
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
        nghttp2_option_set_no_auto_window_update(option, 1);           /* a call that is paused takes no more */
        nghttp2_option_set_peer_max_concurrent_streams(option, 65536); /* until the server tells */
        r = nghttp2_session_client_new2(&c->session, callbacks, c, option);
        nghttp2_option_del(option);
        nghttp2_session_callbacks_del(callbacks);
        if (r < 0 || nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, n_elements(settings)) < 0 ||
                nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW) < 0)
                return -ENOMEM;
        return 0;
}
