#include "rpc/http1.h"
#include "rpc/server.h"

/*
 * GET and HEAD over HTTP/2. A client that offers both protocols (curl, Go's) gets h2 where TLS chooses, and asks for /health and /version
 * there; the routes are the HTTP/1 responder's. Runs on the server's loop, beneath nghttp2 or from the route's own answer.
 */

static ssize_t read_page(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
        nghttp2_data_source *source, void *user_data) {
        struct grpc_call *call = source->ptr;
        size_t n = min_of(length, call->page.size);

        (void)session;
        (void)stream_id;
        (void)user_data;
        if (n)
                memcpy(buf, call->page.data, n);
        call->page = bytes_of(call->page.data + n, call->page.size - n);
        if (!call->page.size)
                *flags |= NGHTTP2_DATA_FLAG_EOF;
        return (ssize_t)n;
}

static nghttp2_nv header(const char *name, const char *value) {
        return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static void on_answered(void *userdata, struct http1_response *response) {
        struct grpc_call *call = userdata;
        const nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_page};
        struct connection *c = call->conn;
        char status[16], size[32];
        nghttp2_nv nv[3];
        bool body;

        call->page_request = NULL;
        if (call->gone || c->state != CONNECTION_OPEN)
                return;
        (void)snprintf(status, sizeof(status), "%u", response->status);
        (void)snprintf(size, sizeof(size), "%zu", response->body.size);
        nv[0] = header(":status", status);
        nv[1] = header("content-type", response->content_type);
        nv[2] = header("content-length", size);
        body = response->body.size && !call->is_head;
        if (body)
                call->page = bytes_of(
                        arena_copy(&call->arena, response->body.data, response->body.size), response->body.size);
        call->responded = true;
        if ((body && !call->page.data) ||
                nghttp2_submit_response(c->session, call->stream_id, nv, n_elements(nv), body ? &provider : NULL) < 0)
                (void)nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_INTERNAL_ERROR);
        connection_dirty(c);
}

bool page_answer(struct grpc_call *call) {
        cleanup(freep) char *target = strndup((const char *)call->path.data, call->path.size);

        if (!target || strlen(target) != call->path.size || target[0] != '/')
                return false;
        if (http1_responder_ask(call->conn->server->config.http1, target, on_answered, call, &call->page_request) < 0)
                return false;
        call->ended = true; /* for gRPC: no handler has it, nothing is measured */
        return true;
}
