#include "rpc/client_call.h"

#include "rpc/client.h"

/*
 * The client's calls. Runs on the client's loop. on_end is never called from within grpc_client_start() or grpc_client_send(), so a caller may
 * rely on what they returned; it may be from within grpc_client_cancel().
 */

#define MAX_MESSAGE ((size_t)1 << 30)

void client_call_end(struct grpc_client_call *call, enum grpc_code code, const char *message) {
        struct grpc_client *c = call->client;

        if (call->stream_id > 0 && !c->lost)
                nghttp2_session_set_stream_user_data(c->session, call->stream_id, NULL);
        loop_timer_clear(&call->timer);
        loop_undefer(c->loop, &call->resume);
        if (call->in_drained)
                LIST_REMOVE(call, drained_entry);
        LIST_REMOVE(call, entry);
        if (call->handler->on_end)
                call->handler->on_end(call->userdata, code, message);
        send_queue_done(&call->queue);
        message_reader_done(&call->reader);
        buf_done(&call->text);
        buf_done(&call->kept);
        free(call);
}

void client_call_reset(struct grpc_client_call *call, enum grpc_code code, const char *text) {
        call->cancelled = true;
        call->local = code;
        call->local_text = text;
        if (call->stream_id <= 0 || call->client->lost)
                return;
        (void)nghttp2_submit_rst_stream(call->client->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
        client_dirty(call->client);
}

static bool on_response(void *userdata, struct bytes message) {
        struct grpc_client_call *call = userdata;
        struct grpc_client *c = call->client;

        if (!call->cancelled && call->handler->on_message)
                call->handler->on_message(call->userdata, message);
        return !c->freed && !call->cancelled && !call->paused;
}

/* Gives on_message what is complete; what comes behind the message at which it paused is kept. Only then has the server room to send more. */
bool client_call_feed(struct grpc_client_call *call, const uint8_t *data, size_t size) {
        struct grpc_client *c = call->client;
        int r;

        LIST_REMOVE(call, entry); /* on_message may cancel it or free the client: neither ends it under the reader */
        call->in_message = true;
        r = message_reader_feed(&call->reader, data, size, MAX_MESSAGE, on_response, call);
        call->in_message = false;
        LIST_INSERT_HEAD(&c->calls, call, entry);
        if (c->freed || call->cancelled) {
                client_call_end(call, c->freed ? GRPC_CANCELLED : call->local,
                        c->freed ? "the client was freed" : call->local_text);
                return false;
        }
        if (r == FRAMING_STOPPED) {
                size_t left = call->reader.left;

                size -= left;
                if (left)
                        r = buf_append(&call->kept, data + size, left);
                else
                        r = 0;
        }
        if (r != 0) {
                const char *text = r == FRAMING_TOO_LARGE ? "grpc: received message larger than max"
                        : r < 0                           ? "out of memory"
                                                          : "grpc: malformed response";

                if (call->over) {
                        client_call_end(call, GRPC_INTERNAL, text);
                        return false;
                }
                client_call_reset(
                        call, r > 0 && r != FRAMING_TOO_LARGE ? GRPC_INTERNAL : GRPC_RESOURCE_EXHAUSTED, text);
                return true;
        }
        if (call->stream_id > 0 && !c->lost)
                (void)nghttp2_session_consume_stream(c->session, call->stream_id, size);
        return true;
}

/* What was kept while it was paused, then the end if that has come. */
static void on_resume(struct loop_task *task) {
        struct grpc_client_call *call = container_of(task, struct grpc_client_call, resume);
        struct grpc_client *c = call->client;
        struct buf kept;

        if (call->paused)
                return;
        c->depth++;
        kept = call->kept;
        buf_init(&call->kept, 0);
        if ((!kept.size || client_call_feed(call, kept.data, kept.size)) && call->over && !call->paused)
                client_call_end(call, call->code, call->end_text);
        buf_done(&kept);
        if (!c->freed)
                client_dirty(c);
        client_leave(c);
}

static void on_call_timeout(struct loop_timer *timer) {
        struct grpc_client_call *call = container_of(timer, struct grpc_client_call, timer);
        struct grpc_client *c = call->client;

        c->depth++;
        if (call->stream_id > 0 && !c->lost)
                client_call_reset(call, GRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
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
        nghttp2_data_provider provider = {.read_callback = client_read_queue};
        char timeout[16];
        nghttp2_nv nv[] = {
                NV(":method", "POST", 4),
                NV(":scheme", c->tls ? "https" : "http", c->tls ? 5 : 4),
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
        call->resume.run = on_resume;
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
        if (r >= 0) {
                call->above = call->queue.size >= GRPC_CLIENT_LOW;
                call_resume(call);
        }
        return r;
}

size_t grpc_client_pending(const struct grpc_client_call *call) {
        return call->queue.size;
}

void client_run_drained(struct grpc_client *c) {
        struct grpc_client_call *call;

        while (!c->freed && (call = LIST_FIRST(&c->drained))) {
                LIST_REMOVE(call, drained_entry);
                call->in_drained = false;
                if (!call->cancelled && call->handler->on_drained)
                        call->handler->on_drained(call->userdata);
        }
}

void grpc_client_pause(struct grpc_client_call *call) {
        call->paused = true;
}

void grpc_client_resume(struct grpc_client_call *call) {
        if (!call->paused)
                return;
        call->paused = false;
        loop_defer(call->client->loop, &call->resume);
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
                client_call_reset(call, GRPC_CANCELLED, "context canceled");
        call->cancelled = true;
        call->local = GRPC_CANCELLED;
        call->local_text = "context canceled";
        if (call->in_message)
                return; /* its end comes when on_message returns */
        c->depth++;
        client_call_end(call, GRPC_CANCELLED, "context canceled");
        client_leave(c);
}
