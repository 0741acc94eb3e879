/*
 * Two small answers over HTTP/1. The keyspace's loop only; answers at once, from what is known.
 */

#include "etcd/health.h"

#include "etcd/services.h"
#include "etcd/status.h"

/* Whether exclude=NAME is among the parameters, as kubeadm's probe has it. */
static bool excluded(const char *query, const char *name) {
        cleanup(buf_done) struct buf wanted = {};
        const char *at = query;
        size_t n;

        if (!query || buf_printf(&wanted, "exclude=%s", name) < 0 || buf_append(&wanted, "", 1) < 0)
                return false;
        n = wanted.size - 1;
        while ((at = strstr(at, (const char *)wanted.data))) {
                if ((at == query || at[-1] == '&') && (at[n] == '\0' || at[n] == '&'))
                        return true;
                at += n;
        }
        return false;
}

/* The first alarm that counts, or NULL. */
static const char *alarm_name(struct keyspace *ks, const char *query) {
        struct keyspace_alarm alarms[64];
        size_t n = keyspace_alarms(ks, alarms, n_elements(alarms));

        for (size_t i = 0; i < n; i++) {
                const char *name = alarms[i].type == ALARM_NOSPACE ? "NOSPACE"
                        : alarms[i].type == ALARM_CORRUPT          ? "CORRUPT"
                                                                   : "UNKNOWN";

                if (!excluded(query, name))
                        return name;
        }
        return NULL;
}

/* A keyspace that nobody has used yet is healthy: it opens when it is asked. */
static void health(void *userdata, const char *query, struct http1_response *response) {
        struct keyspace_status status;
        const char *reason = NULL, *prefix = "RANGE ERROR:";
        const char *raised = alarm_name(userdata, query);

        keyspace_get_status(userdata, &status);
        switch (status.condition) {
        case KEYSPACE_CLOSED:
        case KEYSPACE_SERVING:
                break;
        case KEYSPACE_OPENING:
                reason = etcd_status_text(ETCD_TIMEOUT);
                break;
        case KEYSPACE_UNREACHABLE:
        case KEYSPACE_DROPPED:
        case KEYSPACE_NO_MEMORY:
        case KEYSPACE_QUARANTINED:
                reason = etcd_status_text(ETCD_UNHEALTHY);
                break;
        case KEYSPACE_HISTORY_LOST:
                reason = etcd_status_text(ETCD_CORRUPT);
                break;
        }
        if (raised) { /* etcd looks at these first */
                prefix = "ALARM ";
                reason = raised;
        }
        response->status = reason ? 503 : 200;
        response->content_type = "application/json";
        if (buf_printf(&response->body, "{\"health\":\"%s\",\"reason\":\"%s%s\"}", reason ? "false" : "true",
                    reason ? prefix : "", reason ? reason : "") < 0)
                response->status = 500;
}

static void version(void *userdata, const char *query, struct http1_response *response) {
        (void)userdata;
        (void)query;
        response->status = 200;
        response->content_type = "application/json";
        if (buf_append_string(&response->body,
                    "{\"etcdserver\":\"" ETCD_VERSION "\",\"etcdcluster\":\"" ETCD_CLUSTER_VERSION
                    "\",\"storage\":\"" ETCD_CLUSTER_VERSION "\"}") < 0)
                response->status = 500;
}

const struct http1_route etcd_http_routes[] = {
        {"/health", health},
        {"/version", version},
};
const size_t etcd_n_http_routes = n_elements(etcd_http_routes);
