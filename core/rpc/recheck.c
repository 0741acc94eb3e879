#include "rpc/http1.h"
#include "rpc/server.h"
#include "rpc/tls.h"

/*
 * Whether those that are connected would still be let in: after the policy was replaced, and since certificates expire. Some in each
 * iteration, on the server's loop; the answer for one certificate is shared by all its connections (tls_peer.c).
 */

#define PER_SLICE 16

static void recheck_one(struct connection *c, struct tls_server *now) {
        cleanup(error_done) struct error err = {};
        cleanup(freep) char *why = NULL;

        if (c->state == CONNECTION_DEAD || tls_transport_check(c->transport, now, &err) >= 0)
                return;
        if (asprintf(&why, "its certificate: %s", error_text(&err)) < 0)
                why = NULL;
        if (c->state == CONNECTION_OPEN)
                connection_goaway(c, NGHTTP2_NO_ERROR, why ? why : "its certificate");
        else if (c->state != CONNECTION_CLOSING)
                connection_kill(c);
}

static void on_slice(struct loop_task *task) {
        struct grpc_server *s = container_of(task, struct grpc_server, recheck_task);
        uint64_t started = clock_now_ns();
        bool more = false;

        server_enter(s);
        for (size_t i = 0; i < PER_SLICE && s->recheck_at && !s->zombie; i++) {
                struct connection *c = s->recheck_at;

                s->recheck_at = LIST_NEXT(c, entry);
                recheck_one(c, s->recheck);
                if (clock_now_ns() - started > LOOP_SLICES_NS / 2)
                        break;
        }
        if (!s->zombie) {
                more = s->recheck_at != NULL;
                if (!more && s->config.http1) {
                        more = http1_responder_recheck(s->config.http1, s->recheck, !s->recheck_http1, PER_SLICE / 4);
                        s->recheck_http1 = true;
                }
                if (more)
                        loop_slice(s->config.loop, &s->recheck_task);
                else
                        recheck_stop(s);
        }
        server_leave(s);
}

void recheck_skip(struct grpc_server *s, struct connection *c) {
        if (s->recheck_at == c)
                s->recheck_at = LIST_NEXT(c, entry);
}

void recheck_start(struct grpc_server *s, struct tls_server *now) {
        recheck_stop(s);
        s->recheck = tls_server_ref(now);
        s->recheck_at = LIST_FIRST(&s->connections);
        s->recheck_http1 = false;
        s->recheck_task.run = on_slice;
        loop_slice(s->config.loop, &s->recheck_task);
}

void recheck_stop(struct grpc_server *s) {
        loop_unslice(s->config.loop, &s->recheck_task);
        tls_server_unref(steal(s->recheck));
        s->recheck_at = NULL;
}
