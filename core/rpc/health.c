#include "rpc/health_descriptor.h"
#include "rpc/protobuf.h"
#include "rpc/server.h"

/*
 * grpc.health.v1.Health, for every server: the empty name and each service's name have the server's state. Its messages have a
 * field each, so they are read and written by hand: HealthCheckRequest { string service = 1 }, HealthCheckResponse { enum status = 1 }.
 */

enum { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };

struct health_watch {
        TAILQ_ENTRY(health_watch) entry;
        struct grpc_call *call;
        struct grpc_server *server;
        bool listed;
};

static int parse_service(struct bytes data, struct bytes *ret) {
        struct protobuf_field field;
        int r;

        *ret = (struct bytes){};
        while ((r = protobuf_read_field(&data, &field)) > 0)
                if (field.number == 1 && field.type == 2)
                        *ret = field.bytes;
        return r;
}

static bool service_exists(struct grpc_server *s, struct bytes name) {
        if (!name.size)
                return true;
        for (size_t i = 0; i < s->n_services; i++)
                if (bytes_equal(name, bytes_of_string(s->services[i].service->name)))
                        return true;
        return false;
}

static struct blob *response(unsigned status) {
        uint8_t bytes[2] = {1 << 3, (uint8_t)status};

        return blob_copy(bytes, sizeof(bytes));
}

static void on_check(struct grpc_call *call, struct bytes data) {
        struct grpc_server *s = call->conn->server;
        struct bytes service;
        struct blob *b;

        if (parse_service(data, &service) < 0) {
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "malformed HealthCheckRequest");
                return;
        }
        if (!service_exists(s, service)) {
                grpc_call_finish(call, GRPC_NOT_FOUND, "unknown service");
                return;
        }
        b = response(s->serving ? SERVING : NOT_SERVING);
        if (b)
                grpc_call_reply(call, b);
        else
                grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

static void tell(struct grpc_call *call, unsigned status) {
        struct blob *b = response(status);

        if (b)
                grpc_call_send(call, &b, 1);
        else
                grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

static void on_watch(struct grpc_call *call, struct bytes data) {
        struct health_watch *w = grpc_call_user(call);
        struct grpc_server *s = call->conn->server;
        struct bytes service;

        if (parse_service(data, &service) < 0) {
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "malformed HealthCheckRequest");
                return;
        }
        if (!service_exists(s, service)) {
                tell(call, SERVICE_UNKNOWN); /* and stays so: services are not added later */
                return;
        }
        w->call = call;
        w->server = s;
        w->listed = true;
        TAILQ_INSERT_TAIL(&s->health_watches, w, entry);
        tell(call, s->serving ? SERVING : NOT_SERVING);
}

static void on_watch_free(struct grpc_call *call) {
        struct health_watch *w = grpc_call_user(call);

        if (w->listed)
                TAILQ_REMOVE(&w->server->health_watches, w, entry);
}

void health_changed(struct grpc_server *s) {
        struct health_watch *w;

        TAILQ_FOREACH(w, &s->health_watches, entry)
                /* A client that does not read is not told each change. */
                if (grpc_call_pending(w->call) < 4096)
                        tell(w->call, s->serving ? SERVING : NOT_SERVING);
}

static const struct grpc_method methods[] = {
        {.path = "/grpc.health.v1.Health/Check", .on_message = on_check},
        {.path = "/grpc.health.v1.Health/Watch",
                .server_streaming = true,
                .user_size = sizeof(struct health_watch),
                .on_message = on_watch,
                .on_free = on_watch_free},
};
static const struct grpc_service service = {"grpc.health.v1.Health", methods, n_elements(methods)};

int health_add(struct grpc_server *s) {
        return grpc_server_add(s, &service, bytes_of(health_descriptor, health_descriptor_size));
}
