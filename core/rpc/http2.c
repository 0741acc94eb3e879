#include "rpc/server.h"

/*
 * HTTP/2 of the server's connections: nghttp2's callbacks, which feed the calls and fill the batch that is being written, and the
 * settings that a connection begins with. Runs on the server's loop, beneath nghttp2_session_mem_recv() and
 * nghttp2_session_send(): a session is never freed here, and once the connection is dead each callback says so.
 */

#define WINDOW (1024 * 1024)

static const uint8_t drain_ping[8] = "draining";

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
        if (length)
                c->written_ns = loop_now_ns(c->server->config.loop);
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
        /* What the peer makes us reset is as cheap for it as what it resets. */
        if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
                frame->rst_stream.error_code != NGHTTP2_CANCEL)
                keepalive_count_reset(c);
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
        if (c->state == CONNECTION_DEAD)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        /* One stream whose handler takes nothing holds up no other. */
        if (nghttp2_session_consume_connection(session, size) < 0)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (call && call->paused)
                call->unread += size;
        else if (nghttp2_session_consume_stream(session, stream_id, size) < 0)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        return 0;
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
                        keepalive_count_empty(c, "too_many_empty_frames");
                break;
        case NGHTTP2_RST_STREAM:
                keepalive_count_reset(c);
                break;
        case NGHTTP2_SETTINGS:
                if (!c->settled && c->state == CONNECTION_OPEN) {
                        c->settled = true;
                        keepalive_start(c);
                        if (c->server->draining)
                                connection_drain(c);
                } else
                        keepalive_count_empty(c, "too_many_settings");
                break;
        case NGHTTP2_PING:
                if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
                        keepalive_on_ping(c);
                else if (c->server->draining && memcmp(frame->ping.opaque_data, drain_ping, sizeof(drain_ping)) == 0)
                        connection_drain_goaway(c);
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
        nghttp2_option_set_no_auto_window_update(s->options, 1); /* grpc_call_pause() */
        nghttp2_option_set_max_deflate_dynamic_table_size(
                s->options, 1024); /* our headers are few and always the same */
        nghttp2_option_set_stream_reset_rate_limit(
                s->options, 10 * KEEPALIVE_MAX_RESETS, 10 * KEEPALIVE_MAX_RESETS); /* counted here */
        return 0;
}

int http2_open(struct connection *c) {
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
