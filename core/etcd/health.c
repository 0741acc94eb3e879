/*
 * Two small answers over HTTP/1. The keyspace's loop only. As etcd does, health asks for what a linearizable read would; a keyspace that is closed is
 * healthy and stays so: it opens when it is used, and probes are no use.
 */

#include "etcd/health.h"

#include "etcd/services.h"
#include "etcd/status.h"

#define PATIENCE_NS (2 * NSEC_PER_SEC)

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

struct probe {
        struct keyspace_call call;
        struct arena arena;
        void (*done)(void *userdata, struct http1_response *response);
        void *userdata;
};

/* reason NULL: healthy. */
static void answer(const char *prefix, const char *reason,
        void (*done)(void *userdata, struct http1_response *response), void *userdata) {
        struct http1_response response = {.status = reason ? 503 : 200, .content_type = "application/json"};

        if (buf_printf(&response.body, "{\"health\":\"%s\",\"reason\":\"%s%s\"}", reason ? "false" : "true",
                    reason ? prefix : "", reason ? reason : "") < 0)
                response.status = 500;
        done(userdata, &response);
}

static void on_probed(struct keyspace_call *call, enum keyspace_result result) {
        struct probe *probe = container_of(call, struct probe, call);

        answer("RANGE ERROR:", result == KEYSPACE_OK ? NULL : etcd_status_text(etcd_status_of(result)), probe->done,
                probe->userdata);
        arena_done(&probe->arena);
        free(probe);
}

void etcd_health(struct keyspace *ks, const char *query, void (*done)(void *userdata, struct http1_response *response),
        void *userdata) {
        const char *raised = alarm_name(ks, query);
        struct keyspace_status status;
        struct probe *probe;

        if (raised) /* etcd looks at these first */
                return answer("ALARM ", raised, done, userdata);
        keyspace_get_status(ks, &status);
        switch (status.condition) {
        case KEYSPACE_CLOSED:
                return answer(NULL, NULL, done, userdata);
        case KEYSPACE_DROPPED:
        case KEYSPACE_NO_MEMORY:
        case KEYSPACE_QUARANTINED:
                return answer("RANGE ERROR:", etcd_status_text(ETCD_UNHEALTHY), done, userdata);
        case KEYSPACE_HISTORY_LOST:
                return answer("RANGE ERROR:", etcd_status_text(ETCD_CORRUPT), done, userdata);
        case KEYSPACE_SERVING:
        case KEYSPACE_OPENING:
        case KEYSPACE_UNREACHABLE:
                break;
        }
        probe = new0(struct probe);
        arena_init(&probe->arena, 0);
        probe->done = done;
        probe->userdata = userdata;
        probe->call.done = on_probed;
        probe->call.arena = &probe->arena;
        probe->call.deadline_ns = clock_now_ns() + PATIENCE_NS;
        keyspace_probe(ks, &probe->call);
}

static void on_health(void *userdata, struct http1_response *response) {
        http1_request_answer(userdata, response);
}

static void health(void *userdata, const char *rest, const char *query, struct http1_request *request) {
        (void)rest;
        etcd_health(userdata, query, on_health, request);
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
        {.path = "/health", .ask = health},
        {.path = "/version", .handle = version},
};
const size_t etcd_n_http_routes = n_elements(etcd_http_routes);
