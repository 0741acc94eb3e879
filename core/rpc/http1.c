#include "rpc/http1.h"

#include <errno.h>
#include <sys/queue.h>

#include "base/log.h"
#include "rpc/tls.h"

/*
 * One request after the other on a connection, pipelined ones too. A response is gathered whole and written; while its peer
 * does not take it, or while whoever knows it is being asked, nothing more is read from that connection.
 */

#define MAX_CONNECTIONS 1024
#define MAX_REQUEST 8192
#define IDLE_NS (30 * NSEC_PER_SEC)

struct http1_connection {
        struct http1_responder *responder; /* borrowed */
        LIST_ENTRY(http1_connection) entry;
        struct loop_io io;
        struct loop_timer timer;
        struct loop_task more;       /* deferred */
        struct transport *transport; /* owned */
        struct buf in, out;
        bool closing;                  /* after out was written */
        struct http1_request *waiting; /* its own: being answered; NULL: none */
};

struct http1_request {
        struct http1_connection *connection; /* borrowed; NULL: gone */
        struct loop *loop;                   /* borrowed */
        bool head_only;
        bool asking; /* ask() has not returned */
        void (*answered)(
                void *userdata, struct http1_response *response); /* NULL: it is a connection's, or abandoned */
        void *userdata;
};

struct http1_responder {
        struct loop *loop; /* borrowed */
        const struct http1_route *routes;
        size_t n_routes;
        void *userdata;
        LIST_HEAD(, http1_connection) connections;
        size_t n_connections;
        struct http1_connection *recheck_at; /* the next one */
};

static void connection_free(struct http1_connection *c) {
        if (c->responder->recheck_at == c)
                c->responder->recheck_at = LIST_NEXT(c, entry);
        LIST_REMOVE(c, entry);
        c->responder->n_connections--;
        if (c->waiting)
                c->waiting->connection = NULL;
        loop_timer_clear(&c->timer);
        loop_io_stop(&c->io);
        loop_undefer(c->responder->loop, &c->more);
        transport_free(c->transport);
        buf_done(&c->in);
        buf_done(&c->out);
        free(c);
}

static const char *reason(unsigned status) {
        switch (status) {
        case 200:
                return "OK";
        case 400:
                return "Bad Request";
        case 404:
                return "Not Found";
        case 405:
                return "Method Not Allowed";
        case 431:
                return "Request Header Fields Too Large";
        case 503:
                return "Service Unavailable";
        case 505:
                return "HTTP Version Not Supported";
        default:
                return "Status";
        }
}

static int respond(struct http1_connection *c, unsigned status, const char *type, struct bytes body, bool head_only) {
        int r;

        r = buf_printf(&c->out, "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s\r\n", status,
                reason(status), type, body.size, status == 405 ? "Allow: GET, HEAD\r\n" : "",
                c->closing ? "Connection: close\r\n" : "");
        if (r >= 0 && !head_only)
                r = buf_append(&c->out, body.data, body.size);
        return r;
}

static int respond_text(struct http1_connection *c, unsigned status, bool head_only) {
        char text[64];

        (void)snprintf(text, sizeof(text), "%s\n", reason(status));
        return respond(c, status, "text/plain; charset=utf-8", bytes_of_string(text), head_only);
}

static int respond_response(struct http1_connection *c, struct http1_response *response, bool head_only) {
        int r;

        r = respond(c, response->status, response->content_type, bytes_of(response->body.data, response->body.size),
                head_only);
        buf_done(&response->body);
        return r;
}

/* Nothing is read meanwhile, so the connection's idle time has no say. */
static int ask_route(struct http1_connection *c, const struct http1_route *route, const char *rest, const char *query,
        bool head_only) {
        struct http1_request *request = new0(struct http1_request);

        request->connection = c;
        request->loop = c->responder->loop;
        request->head_only = head_only;
        request->asking = true;
        c->waiting = request;
        route->ask(c->responder->userdata, rest, query, request);
        if (c->waiting) {
                request->asking = false;
                loop_timer_clear(&c->timer);
                return loop_io_modify(&c->io, 0);
        }
        return c->out.size ? 0 : -ENOMEM;
}

/* NULL: none. rest and query: of the target; the rest ends where the query begins. */
static const struct http1_route *route_find(
        const struct http1_responder *responder, const char *target, struct bytes *rest, const char **query) {
        const char *question = strchr(target, '?');
        size_t size = question ? (size_t)(question - target) : strlen(target);

        for (size_t i = 0; i < responder->n_routes; i++) {
                const struct http1_route *route = &responder->routes[i];
                size_t length = strlen(route->path);

                if (length > size || (length < size && !route->below) || memcmp(route->path, target, length) != 0)
                        continue;
                *rest = bytes_of(target + length, size - length);
                *query = question ? question + 1 : "";
                return route;
        }
        return NULL;
}

static int respond_route(struct http1_connection *c, const char *target, bool head_only) {
        struct http1_responder *responder = c->responder;
        struct http1_response response = {.status = 200, .content_type = "text/plain; charset=utf-8"};
        const struct http1_route *route;
        const char *query;
        struct bytes after;

        route = route_find(responder, target, &after, &query);
        if (!route)
                return respond_text(c, 404, head_only);
        if (route->ask) {
                cleanup(freep) char *rest = strndup((const char *)after.data, after.size);

                return rest ? ask_route(c, route, rest, query, head_only) : -ENOMEM;
        }
        route->handle(responder->userdata, query, &response);
        return respond_response(c, &response, head_only);
}

int http1_responder_ask(struct http1_responder *responder, const char *target,
        void (*answered)(void *userdata, struct http1_response *response), void *userdata, struct http1_request **ret) {
        struct http1_response response = {.status = 200, .content_type = "text/plain; charset=utf-8"};
        cleanup(freep) char *rest = NULL;
        const struct http1_route *route;
        struct http1_request *request;
        const char *query;
        struct bytes after;

        *ret = NULL;
        route = route_find(responder, target, &after, &query);
        if (!route)
                return -ENOENT;
        if (!route->ask) {
                route->handle(responder->userdata, query, &response);
                answered(userdata, &response);
                buf_done(&response.body);
                return 0;
        }
        rest = strndup((const char *)after.data, after.size);
        if (!rest)
                return -ENOMEM;
        request = new0(struct http1_request);
        request->loop = responder->loop;
        request->answered = answered;
        request->userdata = userdata;
        *ret = request;
        route->ask(responder->userdata, rest, query, request);
        return 0;
}

void http1_request_abandon(struct http1_request *request) {
        if (request)
                request->answered = NULL;
}

/* The value of a header, spaces trimmed; NULL: absent. Lines end with NUL here. */
static const char *header_find(char *const *lines, size_t n_lines, const char *name) {
        size_t size = strlen(name);

        for (size_t i = 0; i < n_lines; i++)
                if (strncasecmp(lines[i], name, size) == 0 && lines[i][size] == ':')
                        return lines[i] + size + 1 + strspn(lines[i] + size + 1, " \t");
        return NULL;
}

/* text: a request's head, ended by NUL in place of the empty line. */
static int handle(struct http1_connection *c, char *text) {
        char *lines[64], *method, *target, *version, *save = NULL;
        const char *connection, *length;
        bool head_only;
        size_t n = 0;

        for (char *line = text, *next; line; line = next) {
                next = strchr(line, '\n');
                if (next) {
                        if (next > line && next[-1] == '\r')
                                next[-1] = '\0';
                        *next++ = '\0';
                }
                if (n == n_elements(lines)) {
                        c->closing = true;
                        return respond_text(c, 431, false);
                }
                lines[n++] = line;
        }

        method = strtok_r(lines[0], " ", &save);
        target = strtok_r(NULL, " ", &save);
        version = strtok_r(NULL, " ", &save);
        if (!method || !target || !version || target[0] != '/') {
                c->closing = true;
                return respond_text(c, 400, false);
        }
        if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) {
                c->closing = true;
                return respond_text(c, 505, false);
        }

        connection = header_find(lines + 1, n - 1, "connection");
        if (connection ? strcasecmp(connection, "close") == 0 : strcmp(version, "HTTP/1.0") == 0)
                c->closing = true;
        /* A body would be taken for the next request. */
        length = header_find(lines + 1, n - 1, "content-length");
        if ((length && strcmp(length, "0") != 0) || header_find(lines + 1, n - 1, "transfer-encoding"))
                c->closing = true;

        head_only = strcmp(method, "HEAD") == 0;
        if (!head_only && strcmp(method, "GET") != 0) {
                c->closing = true;
                return respond_text(c, 405, false);
        }
        return respond_route(c, target, head_only);
}

/* Answers what is complete. 0, or a negative errno. */
static int handle_all(struct http1_connection *c) {
        while (!c->closing && !c->waiting && !c->out.size && c->in.size) {
                uint8_t *end = NULL;
                size_t skip = 0;
                int r;

                for (uint8_t *p = c->in.data; (p = memchr(p, '\n', c->in.size - (size_t)(p - c->in.data))); p++) {
                        size_t left = c->in.size - (size_t)(p - c->in.data);

                        skip = left > 1 && p[1] == '\n' ? 2 : left > 2 && p[1] == '\r' && p[2] == '\n' ? 3 : 0;
                        if (skip) {
                                end = p;
                                break;
                        }
                        if (left == 1)
                                break;
                }
                if (!end) {
                        if (c->in.size < MAX_REQUEST)
                                return 0;
                        c->closing = true;
                        return respond_text(c, 431, false);
                }

                if (memchr(c->in.data, '\0', (size_t)(end - c->in.data))) {
                        c->closing = true;
                        return respond_text(c, 400, false);
                }
                if (end > c->in.data && end[-1] == '\r')
                        end[-1] = '\0';
                *end = '\0';
                r = handle(c, (char *)c->in.data);
                if (r < 0)
                        return r;
                buf_consume(&c->in, (size_t)(end - c->in.data) + skip);
        }
        return 0;
}

/* False: the connection is over. */
static bool write_out(struct http1_connection *c) {
        while (c->out.size) {
                struct iovec iov = {c->out.data, c->out.size};
                ssize_t n = transport_write(c->transport, &iov, 1);

                if (n == -EAGAIN)
                        return loop_io_modify(&c->io, EPOLLOUT) >= 0;
                if (n < 0)
                        return false;
                buf_consume(&c->out, (size_t)n);
        }
        buf_done(&c->out);
        if (c->closing) {
                transport_end(c->transport); /* over TLS, the end is told from a connection that was cut */
                return false;
        }
        return loop_io_modify(&c->io, EPOLLIN) >= 0;
}

/* Answers and writes until one of both has to wait; one response at a time is in memory. False: the connection is over. */
static bool work(struct http1_connection *c) {
        for (;;) {
                if (handle_all(c) < 0)
                        return false;
                if (!c->out.size)
                        return true;
                if (!write_out(c))
                        return false;
                if (c->out.size)
                        return true;
        }
}

/* False: the connection is over. */
static bool read_in(struct http1_connection *c) {
        ssize_t n;

        if (buf_reserve(&c->in, MAX_REQUEST - c->in.size) < 0)
                return false;
        n = transport_read(c->transport, c->in.data + c->in.size, MAX_REQUEST - c->in.size);
        if (n == -EAGAIN)
                return true;
        if (n <= 0)
                return false;
        c->in.size += (size_t)n;
        return true;
}

static void on_idle(struct loop_timer *timer) {
        connection_free(container_of(timer, struct http1_connection, timer));
}

/* Once more is known, or came. May free the connection. */
static void go_on(struct http1_connection *c) {
        loop_timer_set(c->responder->loop, &c->timer, loop_now_ns(c->responder->loop) + IDLE_NS);
        if (!work(c))
                connection_free(c);
        else if (c->waiting)
                loop_timer_clear(&c->timer);
        else if (!c->out.size && transport_pending(c->transport))
                loop_defer(c->responder->loop, &c->more);
}

void http1_request_answer(struct http1_request *request, struct http1_response *response) {
        struct http1_connection *c = request->connection;
        bool asking = request->asking;

        if (!c) {
                if (request->answered)
                        request->answered(request->userdata, response);
                buf_done(&response->body);
                free(request);
                return;
        }
        c->waiting = NULL;
        if (respond_response(c, response, request->head_only) < 0 && !asking)
                connection_free(c);
        else if (!asking)
                go_on(c);
        free(request);
}

struct loop *http1_request_loop(const struct http1_request *request) {
        return request->loop;
}

static void on_io(struct loop_io *io, uint32_t events) {
        struct http1_connection *c = container_of(io, struct http1_connection, io);

        if (c->waiting) {
                if (events & (EPOLLERR | EPOLLHUP))
                        connection_free(c);
                return;
        }
        if (!c->out.size) {
                if (!read_in(c)) {
                        connection_free(c);
                        return;
                }
        } else if (events & (EPOLLERR | EPOLLHUP)) {
                connection_free(c);
                return;
        }
        go_on(c);
}

/* What the descriptor does not tell of any more. */
static void on_more(struct loop_task *task) {
        struct http1_connection *c = container_of(task, struct http1_connection, more);

        on_io(&c->io, EPOLLIN);
}

int http1_responder_new(struct loop *loop, const struct http1_route *routes, size_t n_routes, void *userdata,
        struct http1_responder **ret) {
        struct http1_responder *responder = new0(struct http1_responder);

        responder->loop = loop;
        responder->routes = routes;
        responder->n_routes = n_routes;
        responder->userdata = userdata;
        LIST_INIT(&responder->connections);
        *ret = responder;
        return 0;
}

void http1_responder_free(struct http1_responder *responder) {
        if (!responder)
                return;
        while (!LIST_EMPTY(&responder->connections))
                connection_free(LIST_FIRST(&responder->connections));
        free(responder);
}

bool http1_responder_recheck(struct http1_responder *responder, struct tls_server *now, bool first, size_t n) {
        struct http1_connection *c = first ? LIST_FIRST(&responder->connections) : responder->recheck_at;

        for (; c && n; n--) {
                cleanup(error_done) struct error err = {};

                responder->recheck_at = LIST_NEXT(c, entry);
                if (tls_transport_check(c->transport, now, &err) < 0) {
                        struct log_context context = {.peer = tls_transport_peer(c->transport)->name};

                        log_at(LOG_LEVEL_NOTICE, &context, "connection closed: its certificate: %s", error_text(&err));
                        connection_free(c);
                }
                c = responder->recheck_at;
        }
        responder->recheck_at = c;
        return c;
}

int http1_responder_accept_transport(
        struct http1_responder *responder, struct transport *transport, struct bytes already_read) {
        struct http1_connection *c;
        int r;

        if (responder->n_connections >= MAX_CONNECTIONS || already_read.size > MAX_REQUEST) {
                transport_free(transport);
                return -EBUSY;
        }
        c = calloc(1, sizeof(*c));
        if (!c) {
                transport_free(transport);
                return -ENOMEM;
        }
        c->responder = responder;
        c->transport = transport;
        buf_init(&c->in, MAX_REQUEST);
        c->io.on_io = on_io;
        c->more.run = on_more;
        c->timer.on_time = on_idle;
        LIST_INSERT_HEAD(&responder->connections, c, entry);
        responder->n_connections++;

        r = buf_append(&c->in, already_read.data, already_read.size);
        if (r >= 0)
                r = loop_io_start(responder->loop, &c->io, transport->fd, EPOLLIN);
        if (r < 0) {
                connection_free(c);
                return r;
        }
        go_on(c);
        return 0;
}

int http1_responder_accept(struct http1_responder *responder, int fd, struct bytes already_read) {
        struct transport *transport = transport_new_socket(fd);

        return transport ? http1_responder_accept_transport(responder, transport, already_read) : -ENOMEM;
}
