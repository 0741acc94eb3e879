#include "control/scrape.h"

/*
 * /healthz is that the main loop answers; /tenants/NAME/health asks that tenant, as an etcd's /health would, for probes that have no
 * certificate for the tenant's own.
 */

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "rpc/http1.h"
#include "rpc/listener.h"

struct scrape {
        struct fleet *fleet;               /* borrowed */
        struct http1_responder *responder; /* owned */
        struct listener *listener;         /* owned */
};

static void metrics(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        fleet_publish_process();
        if (metrics_print(&response->body) < 0) {
                buf_clear(&response->body);
                response->status = 500;
                return;
        }
        response->status = 200;
        response->content_type = "text/plain; version=0.0.4; charset=utf-8";
}

static void healthz(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        response->status = buf_append_string(&response->body, "ok\n") < 0 ? 500 : 200;
        response->content_type = "text/plain; charset=utf-8";
}

static void on_health(void *userdata, struct http1_response *response) {
        http1_request_answer(userdata, response);
}

static void tenant_health(void *userdata, const char *rest, const char *query, struct http1_request *request) {
        struct http1_response not_found = {.status = 404, .content_type = "text/plain; charset=utf-8"};
        const char *slash = strchr(rest, '/');
        cleanup(freep) char *name = strndup(rest, slash ? (size_t)(slash - rest) : 0);
        struct scrape *scrape = userdata;

        check(name);
        if (slash && strcmp(slash, "/health") == 0 &&
                fleet_tenant_health(scrape->fleet, name, query, on_health, request))
                return;
        if (buf_append_string(&not_found.body, "Not Found\n") < 0)
                not_found.status = 500;
        http1_request_answer(request, &not_found);
}

static const struct http1_route routes[] = {
        {.path = "/metrics", .handle = metrics},
        {.path = "/healthz", .handle = healthz},
        {.path = "/tenants/", .below = true, .ask = tenant_health},
};

static void on_accept(void *userdata, int fd) {
        struct scrape *scrape = userdata;
        int r = http1_responder_accept(scrape->responder, fd, (struct bytes){});

        if (r < 0)
                log_warning("metrics: a connection could not be taken: %s", strerror(-r));
}

int scrape_new(struct loop *loop, struct fleet *fleet, const char *address, struct scrape **ret, struct error *reterr) {
        cleanup(scrape_freep) struct scrape *scrape = new0(struct scrape);
        int r;

        scrape->fleet = fleet;
        r = http1_responder_new(loop, routes, n_elements(routes), scrape, &scrape->responder);
        if (r < 0)
                return error_set(reterr, r, "metrics: %s", strerror(-r));
        r = listener_new(loop, address, 0660, on_accept, scrape, &scrape->listener, reterr);
        if (r < 0)
                return error_prefix(reterr, "metrics");
        *ret = steal(scrape);
        return 0;
}

const char *scrape_address(const struct scrape *scrape) {
        return listener_address(scrape->listener);
}

void scrape_free(struct scrape *scrape) {
        if (!scrape)
                return;
        listener_free(scrape->listener);
        http1_responder_free(scrape->responder);
        free(scrape);
}
