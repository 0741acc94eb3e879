#include "fleet/state.h"

/*
 * Whether a tenant is healthy, for probes that have no certificate: asked on its shard, answered here. Main thread.
 */

#include <jansson.h>
#include <string.h>

#include "base/owner.h"

struct asking {
        struct tenant *tenant;
        char *query; /* owned */
        uint32_t owner;
        struct errand *errand;
        struct http1_response response;
        void (*done)(void *userdata, struct http1_response *response);
        void *userdata;
};

static void on_answer(void *userdata, struct http1_response *response) {
        struct asking *asking = userdata;

        asking->response = *response;
        *response = (struct http1_response){};
        errand_return(asking->errand);
}

static void ask_there(struct errand *errand) {
        struct asking *asking = errand->userdata;

        owner_set(asking->owner);
        asking->errand = errand;
        if (tenant_ask_health(asking->tenant, asking->query, on_answer, asking) < 0) {
                asking->response = (struct http1_response){.status = 503, .content_type = "text/plain; charset=utf-8"};
                errand_return(errand);
        }
}

static void ask_back(struct errand *errand) {
        struct asking *asking = errand->userdata;

        asking->done(asking->userdata, &asking->response);
        free(asking->query);
        free(asking);
}

static void say_not(const char *reason, void (*done)(void *userdata, struct http1_response *response), void *userdata) {
        struct http1_response response = {.status = 503, .content_type = "application/json"};
        json_t *object = json_pack("{s:s s:s}", "health", "false", "reason", reason);
        char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

        if (!text || buf_append_string(&response.body, text) < 0)
                response.status = 500;
        free(text);
        json_decref(object);
        done(userdata, &response);
}

/* NULL: it is served. */
static const char *why_not_served(const struct assignment *a) {
        if (assignment_is_elsewhere(a))
                return "it is served by another host";
        if (a->reason && !a->serving)
                return a->reason;
        if (!a->serving || a->stopping)
                return "it is not served now";
        /* It would be opened only to find that out. */
        if (a->figures.condition == KEYSPACE_CLOSED && a->store && a->store->validation.status == FLEET_FALSE)
                return a->store->validation.message;
        return NULL;
}

bool fleet_tenant_health(struct fleet *fleet, const char *name, const char *query,
        void (*done)(void *userdata, struct http1_response *response), void *userdata) {
        struct assignment *a = fleet_find_assignment(fleet, name);
        struct asking *asking;
        const char *why;

        if (!a || a->gone || !assignment_record(a))
                return false;
        why = why_not_served(a);
        if (why) {
                say_not(why, done, userdata);
                return true;
        }
        asking = new0(struct asking);
        asking->tenant = a->serving;
        asking->owner = a->owner;
        asking->query = strdup(query);
        check(asking->query);
        asking->done = done;
        asking->userdata = userdata;
        errand_send(a->shard->loop, fleet->loop, ask_there, ask_back, asking);
        return true;
}
