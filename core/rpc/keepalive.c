#include "rpc/server.h"

/*
 * Whether a peer lives, and whether it behaves: our pings to one that is silent, and the counts of what a peer may make us do for
 * little (pings, resets, empty frames), which end in GOAWAY with ENHANCE_YOUR_CALM. Runs on the server's loop; submits, and never
 * frees.
 */

#define MAX_EMPTY 10000 /* a second */
#define MAX_PING_STRIKES 2
#define IDLE_PING_NS (7200 * NSEC_PER_SEC) /* pings that a peer without streams may send, as grpc-go has it */

static const uint8_t keepalive_ping[8] = "keepaliv";

void keepalive_start(struct connection *c) {
        struct loop *loop = c->server->config.loop;

        loop_timer_set(loop, &c->timer, loop_now_ns(loop) + c->server->config.limits.keepalive_ns);
}

void keepalive_on_time(struct connection *c) {
        struct loop *loop = c->server->config.loop;
        const struct grpc_limits *limits = &c->server->config.limits;
        uint64_t now = loop_now_ns(loop);

        if (c->ping_sent_ns && c->read_ns < c->ping_sent_ns) {
                connection_over(c, "no answer to a ping", -ETIMEDOUT);
                return;
        }
        c->ping_sent_ns = 0;
        if (now - c->read_ns < limits->keepalive_ns) {
                loop_timer_set(loop, &c->timer, c->read_ns + limits->keepalive_ns);
                return;
        }
        (void)nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, keepalive_ping);
        c->ping_sent_ns = now;
        loop_timer_set(loop, &c->timer, now + limits->keepalive_timeout_ns);
        connection_dirty(c);
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

void keepalive_count_reset(struct connection *c) {
        count_flood(c, &c->n_resets, KEEPALIVE_MAX_RESETS, "too_many_resets");
}

void keepalive_count_empty(struct connection *c, const char *reason) {
        count_flood(c, &c->n_empty, MAX_EMPTY, reason);
}

/* As grpc-go judges: each of our answers forgives, a peer without streams has no business to ping. */
void keepalive_on_ping(struct connection *c) {
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
