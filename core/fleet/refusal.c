#include "fleet/refusal.h"

/*
 * One server for those who come within a time, then another: the first drains meanwhile.
 */

#include <string.h>
#include <sys/queue.h>

#include "base/log.h"
#include "rpc/grpc.h"
#include "rpc/http1.h"

#define KEPT_NS (3 * NSEC_PER_SEC)
#define DRAIN_NS NSEC_PER_SEC

struct round {
        struct refusal *refusal;    /* borrowed */
        struct grpc_server *server; /* owned */
        struct loop_timer timer;
        struct loop_task free_task;
        LIST_ENTRY(round) entry;
};

struct refusal {
        struct loop *loop;             /* borrowed */
        const char *unavailable;       /* borrowed for ever */
        struct http1_responder *http1; /* owned */
        struct round *open;            /* borrowed: of rounds, the one that takes; NULL: none */
        LIST_HEAD(, round) rounds;     /* owned */
};

static void health(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        response->status = 503;
        response->content_type = "application/json";
        if (buf_append_string(&response->body, "{\"health\":\"false\",\"reason\":\"the tenant is not served here\"}") <
                0)
                response->status = 500;
}

static const struct http1_route routes[] = {{.path = "/health", .handle = health}};

struct refusal *refusal_new(struct loop *loop, const char *unavailable) {
        struct refusal *r = new0(struct refusal);

        r->loop = loop;
        r->unavailable = unavailable;
        LIST_INIT(&r->rounds);
        check(http1_responder_new(loop, routes, n_elements(routes), r, &r->http1) >= 0);
        return r;
}

static void round_free(struct round *round) {
        if (round->refusal->open == round)
                round->refusal->open = NULL;
        LIST_REMOVE(round, entry);
        loop_timer_clear(&round->timer);
        loop_undefer(round->refusal->loop, &round->free_task);
        grpc_server_free(round->server);
        free(round);
}

static void on_free(struct loop_task *task) {
        round_free(container_of(task, struct round, free_task));
}

static void on_drained(void *userdata) {
        struct round *round = userdata;

        round->free_task.run = on_free;
        loop_defer(round->refusal->loop, &round->free_task);
}

static void on_time(struct loop_timer *timer) {
        struct round *round = container_of(timer, struct round, timer);

        if (round->refusal->open == round)
                round->refusal->open = NULL;
        grpc_server_drain(round->server, DRAIN_NS, on_drained, round);
}

static struct round *round_new(struct refusal *r) {
        const struct grpc_server_config config = {
                .loop = r->loop, .name = "tls refused", .http1 = r->http1, .userdata = r};
        struct round *round = new0(struct round);

        round->refusal = r;
        round->timer.on_time = on_time;
        if (grpc_server_new(&config, &round->server) < 0) {
                free(round);
                return NULL;
        }
        grpc_server_refuse(round->server, GRPC_UNAVAILABLE, r->unavailable);
        LIST_INSERT_HEAD(&r->rounds, round, entry);
        loop_timer_set(r->loop, &round->timer, clock_now_ns() + KEPT_NS);
        return round;
}

void refusal_take(struct refusal *r, struct transport *transport) {
        if (!r->open)
                r->open = round_new(r);
        if (!r->open) {
                transport_free(transport);
                return;
        }
        (void)grpc_server_accept_transport(r->open->server, transport);
}

void refusal_free(struct refusal *r) {
        if (!r)
                return;
        while (!LIST_EMPTY(&r->rounds))
                round_free(LIST_FIRST(&r->rounds));
        http1_responder_free(r->http1);
        free(r);
}
