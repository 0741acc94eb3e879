#include "rpc/grpc.h"

#include "rpc/server.h"

/*
 * The server: its methods, its figures, its end. Runs on its loop's thread. Connections are in connection.c and http2.c, calls in call.c.
 */

const struct grpc_limits grpc_default_limits = {
        .max_message = 2 * 1024 * 1024,
        .max_streams = 65536,
        .max_connections = 65536,
        .max_header_list = 16 * 1024,
        .min_ping_ns = 5 * NSEC_PER_SEC,
        .keepalive_ns = 7200 * NSEC_PER_SEC,
        .keepalive_timeout_ns = 20 * NSEC_PER_SEC,
        .slow_ns = 0,
        .low_mark = 256 * 1024,
};

static const char *const code_names[N_CODES] = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
        "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};

const char *grpc_code_name(enum grpc_code code) {
        return (unsigned)code < N_CODES ? code_names[code] : "UNKNOWN";
}

/* Methods. */

struct server_method *server_method_find(struct grpc_server *s, struct bytes path) {
        struct server_method *m = NULL;

        HASH_FIND(hh, s->methods, path.data, path.size, m);
        return m ? m : &s->unknown;
}

char *server_method_unknown(struct grpc_server *s, struct bytes path, struct arena *arena) {
        const uint8_t *slash = path.size ? memrchr(path.data, '/', path.size) : NULL;
        size_t size = path.size + 64;
        struct bytes service, method;
        bool known = false;
        char *text;

        text = arena_alloc(arena, size);
        if (!text)
                return NULL;
        if (path.data[0] != '/' || !slash || slash == path.data) {
                (void)snprintf(text, size, "malformed method name: \"%.*s\"", (int)path.size, path.data);
                return text;
        }
        service = bytes_of(path.data + 1, (size_t)(slash - path.data) - 1);
        method = bytes_of(slash + 1, path.size - service.size - 2);
        for (size_t i = 0; i < s->n_services; i++)
                if (bytes_equal(service, bytes_of_string(s->services[i].service->name)))
                        known = true;
        if (known)
                (void)snprintf(text, size, "unknown method %.*s for service %.*s", (int)method.size, method.data,
                        (int)service.size, service.data);
        else
                (void)snprintf(text, size, "unknown service %.*s", (int)service.size, service.data);
        return text;
}

/* server="NAME" and whatever follows. */
static struct metric *find_metric(struct grpc_server *s, const char *path, const char *code) {
        struct metric *m = NULL;
        struct buf labels;

        buf_init(&labels, 0);
        if (metric_label(&labels, "server", s->name) >= 0 && (!path || metric_label(&labels, "method", path) >= 0) &&
                (!code || metric_label(&labels, "code", code) >= 0) && buf_append(&labels, "", 1) >= 0) {
                const char *text = (const char *)labels.data;

                if (code)
                        m = metric_counter("stokehold_grpc_calls_total", "gRPC calls that have ended", text);
                else if (path)
                        m = metric_histogram("stokehold_grpc_seconds", "Time taken by unary gRPC calls", text,
                                metric_seconds_bounds, metric_seconds_n_bounds);
                else
                        m = metric_gauge("stokehold_connections", "Connections open", text);
        }
        buf_done(&labels);
        return m;
}

void server_count(struct grpc_server *s, struct server_method *m, enum grpc_code code) {
        if (!m->codes[code])
                m->codes[code] = find_metric(s, m->path ? m->path : "unknown", grpc_code_name(code));
        if (m->codes[code])
                metric_add(m->codes[code], 1);
}

static void method_free(struct server_method *m) {
        free(m->path);
        free(m);
}

int grpc_server_add(struct grpc_server *s, const struct grpc_service *service, struct bytes descriptor) {
        struct server_service *services;

        services = reallocarray(s->services, s->n_services + 1, sizeof(*services));
        if (!services)
                return -ENOMEM;
        s->services = services;
        for (size_t i = 0; i < service->n_methods; i++) {
                const struct grpc_method *method = &service->methods[i];
                struct server_method *m;

                if (server_method_find(s, bytes_of_string(method->path)) != &s->unknown)
                        return -EEXIST;
                m = new0(struct server_method);
                m->method = method;
                m->path = strdup(method->path);
                if (!m->path) {
                        free(m);
                        return -ENOMEM;
                }
                if (!method->client_streaming && !method->server_streaming)
                        m->seconds = find_metric(s, method->path, NULL);
                HASH_ADD_KEYPTR(hh, s->methods, m->path, strlen(m->path), m);
        }
        s->services[s->n_services++] = (struct server_service){service, descriptor};
        return 0;
}

/* Events. */

static void server_release(struct grpc_server *s) {
        struct server_method *m, *next;

        while (!LIST_EMPTY(&s->dead))
                connection_free(LIST_FIRST(&s->dead));
        s->zombie = true;
        call_trim(s);
        HASH_ITER(hh, s->methods, m, next) {
                HASH_DEL(s->methods, m);
                method_free(m);
        }
        nghttp2_session_callbacks_del(s->callbacks);
        nghttp2_option_del(s->options);
        free(s->services);
        free(s->name);
        free(s);
}

void server_enter(struct grpc_server *s) {
        s->depth++;
}

void server_leave(struct grpc_server *s) {
        if (--s->depth)
                return;
        if (s->zombie) {
                server_release(s);
                return;
        }
        while (!LIST_EMPTY(&s->dead))
                connection_free(LIST_FIRST(&s->dead));
        call_trim(s);
}

void server_connections_changed(struct grpc_server *s) {
        bool busy = s->n_connections > 0;

        if (s->zombie)
                return;
        if (s->draining && !busy && !s->drained)
                loop_defer(s->config.loop, &s->drain_task);
        if (busy != s->busy) {
                s->busy = busy;
                if (s->config.on_busy)
                        s->config.on_busy(s->config.userdata, busy);
        }
}

int grpc_server_accept_transport(struct grpc_server *s, struct transport *transport) {
        int r;

        if (s->draining || s->zombie) {
                transport_free(transport);
                return -ESHUTDOWN;
        }
        if (s->n_connections >= s->config.limits.max_connections) {
                transport_free(transport);
                log_warning("%s: connection refused: %zu are open already", s->name, s->n_connections);
                return -EBUSY;
        }
        server_enter(s);
        r = connection_new(s, transport);
        server_leave(s);
        return r;
}

int grpc_server_accept(struct grpc_server *s, int fd) {
        struct transport *transport = transport_new_socket(fd);

        return transport ? grpc_server_accept_transport(s, transport) : -ENOMEM;
}

void grpc_server_recheck(struct grpc_server *s, struct tls_server *now) {
        if (!s->zombie)
                recheck_start(s, now);
}

size_t grpc_server_n_connections(const struct grpc_server *s) {
        return s->n_connections;
}

void grpc_server_set_serving(struct grpc_server *s, bool serving) {
        if (s->serving == serving)
                return;
        s->serving = serving;
        health_changed(s);
}

void grpc_server_refuse(struct grpc_server *s, enum grpc_code code, const char *message) {
        s->refusal = message;
        s->refusal_code = code;
        grpc_server_set_serving(s, false);
}

/* The end. */

static void on_drained(struct loop_task *task) {
        struct grpc_server *s = container_of(task, struct grpc_server, drain_task);

        if (s->drained)
                return;
        s->drained = true;
        loop_timer_clear(&s->drain_timer);
        server_enter(s); /* done may free the server */
        if (s->drain_done)
                s->drain_done(s->drain_userdata);
        server_leave(s);
}

static void on_drain_timeout(struct loop_timer *timer) {
        struct grpc_server *s = container_of(timer, struct grpc_server, drain_timer);

        server_enter(s);
        while (!LIST_EMPTY(&s->connections))
                connection_kill(LIST_FIRST(&s->connections));
        if (!s->zombie)
                loop_defer(s->config.loop, &s->drain_task);
        server_leave(s);
}

/* Ends the streams of one connection; false: the server is gone. */
static bool stop_streams(struct grpc_server *s, struct connection *c) {
        struct grpc_call *call, *next;

        for (call = LIST_FIRST(&c->calls); call; call = next) {
                next = LIST_NEXT(call, entry);
                if (!call->known || call->ended || !call->method->method->server_streaming)
                        continue;
                call_abort(call, GRPC_UNAVAILABLE, "etcdserver: server stopped");
                if (s->zombie)
                        return false;
        }
        return true;
}

void grpc_server_drain(struct grpc_server *s, uint64_t timeout_ns, void (*done)(void *userdata), void *userdata) {
        struct connection *c, *next;

        if (s->draining)
                return;
        server_enter(s);
        s->draining = true;
        s->drain_done = done;
        s->drain_userdata = userdata;
        loop_timer_set(s->config.loop, &s->drain_timer, clock_now_ns() + timeout_ns);
        for (c = LIST_FIRST(&s->connections); c; c = next) {
                next = LIST_NEXT(c, entry);
                if (!stop_streams(s, c))
                        break;
                connection_drain(c);
                if (s->zombie)
                        break;
        }
        if (!s->zombie && !s->n_connections)
                loop_defer(s->config.loop, &s->drain_task);
        server_leave(s);
}

void grpc_server_free(struct grpc_server *s) {
        struct connection *c;

        if (!s || s->zombie)
                return;
        server_enter(s);
        s->zombie = true;
        while (!LIST_EMPTY(&s->connections))
                connection_kill(LIST_FIRST(&s->connections));
        /* One whose end has led here has calls left too. */
        LIST_FOREACH(c, &s->dead, entry)
                connection_free_calls(c);
        loop_timer_clear(&s->drain_timer);
        loop_undefer(s->config.loop, &s->drain_task);
        recheck_stop(s);
        server_leave(s);
}

int grpc_server_new(const struct grpc_server_config *config, struct grpc_server **ret) {
        cleanup(grpc_server_freep) struct grpc_server *s = NULL;
        struct grpc_limits *l;
        int r;

        s = new0(struct grpc_server);
        s->config = *config;
        s->serving = true;
        LIST_INIT(&s->connections);
        LIST_INIT(&s->dead);
        SLIST_INIT(&s->free_calls);
        TAILQ_INIT(&s->health_watches);
        s->drain_timer.on_time = on_drain_timeout;
        s->drain_task.run = on_drained;

        l = &s->config.limits; /* zero: the default */
        l->max_message = l->max_message ? l->max_message : grpc_default_limits.max_message;
        l->max_streams = l->max_streams ? l->max_streams : grpc_default_limits.max_streams;
        l->max_connections = l->max_connections ? l->max_connections : grpc_default_limits.max_connections;
        l->max_header_list = l->max_header_list ? l->max_header_list : grpc_default_limits.max_header_list;
        l->min_ping_ns = l->min_ping_ns ? l->min_ping_ns : grpc_default_limits.min_ping_ns;
        l->keepalive_ns = l->keepalive_ns ? l->keepalive_ns : grpc_default_limits.keepalive_ns;
        l->keepalive_timeout_ns =
                l->keepalive_timeout_ns ? l->keepalive_timeout_ns : grpc_default_limits.keepalive_timeout_ns;
        l->low_mark = l->low_mark ? l->low_mark : grpc_default_limits.low_mark;

        s->name = strdup(config->name);
        if (!s->name)
                return -ENOMEM;
        s->metric_connections = find_metric(s, NULL, NULL);
        r = http2_prepare(s);
        if (r >= 0)
                r = health_add(s);
        if (r >= 0)
                r = reflection_add(s);
        if (r < 0)
                return r;
        *ret = steal(s);
        return 0;
}
