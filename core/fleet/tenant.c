#include "fleet/tenant.h"

/*
 * Opening binds the listeners and no more: a tenant that nobody talks to costs no query. Closing goes through its
 * stages in order (listeners, drain, keyspace, memory), since each later thing is used by the one before it; the last is deferred, so that
 * nothing is freed from within its own callback.
 */

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fleet/tenant_path.h"
#include "rpc/listener.h"
#include "rpc/tls.h"

struct tenant {
        char *name;        /* owned */
        struct loop *loop; /* borrowed */
        uint32_t *peers;   /* owned */
        size_t n_peers;
        struct keyspace *keyspace;              /* owned */
        struct http1_responder *http1;          /* owned; NULL: no routes */
        struct grpc_server *server;             /* owned */
        const struct tenant_services *services; /* borrowed for ever; may be NULL */
        struct listener *local, *remote;        /* owned; remote may be NULL */
        char *urls[2];                          /* owned: theirs */
        size_t n_urls;

        void (*closed)(void *userdata);
        void *closed_userdata;
        struct loop_task free_task;
};

const char *tenant_condition_name(enum keyspace_condition condition) {
        switch (condition) {
        case KEYSPACE_CLOSED:
                return "Closed";
        case KEYSPACE_OPENING:
                return "Opening";
        case KEYSPACE_SERVING:
                return "Serving";
        case KEYSPACE_UNREACHABLE:
                return "Unreachable";
        case KEYSPACE_HISTORY_LOST:
                return "HistoryLost";
        case KEYSPACE_DROPPED:
                return "Dropped";
        case KEYSPACE_NO_MEMORY:
                return "NoMemory";
        case KEYSPACE_QUARANTINED:
                return "Quarantined";
        }
        return "Unknown";
}

static void tenant_free(struct tenant *t) {
        if (!t)
                return;
        listener_free(t->local);
        listener_free(t->remote);
        grpc_server_free(t->server);
        http1_responder_free(t->http1);
        keyspace_free(t->keyspace);
        for (size_t i = 0; i < t->n_urls; i++)
                free(t->urls[i]);
        free(t->peers);
        free(t->name);
        free(t);
}
DEFINE_FREEP(tenant)

/* The server's userdata is the keyspace, for the services; so whom to let in is decided here, before it has the connection. */
static bool may_connect(const struct tenant *t, int fd) {
        struct log_context context = {.tenant = t->name};
        socklen_t size = sizeof(struct ucred);
        struct ucred peer;

        if (t->n_peers == 0)
                return true;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.pid == 0) {
                log_at(LOG_LEVEL_NOTICE, &context, "refused a connection: spec.endpoint.peers admits local users only");
                return false;
        }
        for (size_t i = 0; i < t->n_peers; i++)
                if (t->peers[i] == peer.uid || peer.uid == geteuid()) /* us: an export reads as a client does */
                        return true;
        log_at(LOG_LEVEL_NOTICE, &context, "refused a connection of uid %u (pid %d): not among spec.endpoint.peers",
                peer.uid, (int)peer.pid);
        return false;
}

static void on_accept(void *userdata, int fd) {
        struct tenant *t = userdata;
        int r;

        if (!may_connect(t, fd)) {
                close(fd);
                return;
        }
        r = grpc_server_accept(t->server, fd);
        if (r < 0) {
                struct log_context context = {.tenant = t->name};

                log_at(LOG_LEVEL_WARNING, &context, "a connection could not be taken: %s", strerror(-r));
        }
}

void tenant_accept(struct tenant *t, struct transport *transport) {
        struct log_context context = {.tenant = t->name};
        int r;

        r = grpc_server_accept_transport(t->server, transport);
        if (r < 0)
                log_at(LOG_LEVEL_WARNING, &context, "a connection could not be taken: %s", strerror(-r));
}

void tenant_recheck(struct tenant *t, struct tls_server *policy) {
        grpc_server_recheck(t->server, policy);
}

int tenant_ask_health(struct tenant *t, const char *query,
        void (*done)(void *userdata, struct http1_response *response), void *userdata) {
        if (!t->services || !t->services->health)
                return -EOPNOTSUPP;
        t->services->health(t->keyspace, query, done, userdata);
        return 0;
}

static int listen_local(struct tenant *t, const struct tenant_config *config, struct error *reterr) {
        cleanup(freep) char *path = tenant_socket_path(config->runtime_dir, config->name);
        cleanup(freep) char *address = NULL;
        int r;

        r = tenant_make_paths(
                config->runtime_dir, config->name, config->socket_mode, config->owner, config->group, reterr);
        if (r < 0)
                return r;
        if (asprintf(&address, "unix:%s", path) < 0)
                return -ENOMEM;
        r = listener_new(config->loop, address, config->socket_mode, on_accept, t, &t->local, reterr);
        if (r < 0)
                return r;
        if ((config->owner != (uid_t)-1 || config->group != (gid_t)-1) &&
                lchown(path, config->owner, config->group) < 0)
                return error_set(reterr, -errno, "%s: cannot be given to its owner: %m", path);
        return 0;
}

static int listen_remote(struct tenant *t, const struct tenant_config *config, struct error *reterr) {
        cleanup(freep) char *address = NULL;

        if (!config->tcp)
                return 0;
        if (asprintf(&address, "tcp:%s", config->tcp) < 0)
                return -ENOMEM;
        return listener_new(config->loop, address, 0, on_accept, t, &t->remote, reterr);
}

/* What a client that asks for the members is told to dial. */
static int tell_endpoints(struct tenant *t, const struct tenant_config *config) {
        if (asprintf(&t->urls[0], "unix://%s/%s.sock", config->runtime_dir, config->name) < 0)
                return -ENOMEM;
        t->n_urls++;
        if (t->remote) {
                if (asprintf(&t->urls[1], "http://%s", listener_address(t->remote) + strlen("tcp:")) < 0)
                        return -ENOMEM;
                t->n_urls++;
        }
        return keyspace_set_endpoints(t->keyspace, (const char *const *)t->urls, t->n_urls);
}

void tenant_set_tls_urls(struct tenant *t, const char *const *urls, size_t n_urls) {
        cleanup(freep) const char **all = xcalloc(t->n_urls + n_urls, sizeof(*all));
        size_t n = 0;

        for (size_t i = 0; i < t->n_urls; i++)
                all[n++] = t->urls[i];
        for (size_t i = 0; i < n_urls; i++)
                all[n++] = urls[i];
        if (keyspace_set_endpoints(t->keyspace, all, n) < 0) {
                struct log_context context = {.tenant = t->name};

                log_at(LOG_LEVEL_WARNING, &context, "no memory for the addresses that clients are told");
        }
}

int tenant_open(const struct tenant_config *config, struct tenant **ret, struct error *reterr) {
        cleanup(tenant_freep) struct tenant *t = NULL;
        struct keyspace_config keyspace_config = {
                .name = config->name,
                .datastore = config->datastore,
                .loop = config->loop,
                .cache = config->cache,
                .known = config->known,
                .memory = config->memory,
                .quota_bytes = config->quota_bytes,
                .auto_compact_ns = config->auto_compact_ns,
                .idle_close_ns = config->idle_close_ns,
                .limits = config->keyspace_limits,
                .quarantined = config->quarantined,
                .opening = config->opening,
                .progress_notify_ns = config->progress_notify_ns,
                .slow_commit_ns = config->slow_ns,
                .on_sealed = config->on_sealed,
                .userdata = config->userdata,
        };
        struct grpc_server_config server_config = {
                .loop = config->loop,
                .name = config->name,
                .limits = config->limits,
        };
        int r;

        t = new0(struct tenant);
        t->loop = config->loop;
        t->services = config->services;
        t->name = strdup(config->name);
        if (!t->name)
                return -ENOMEM;
        if (config->n_peers) {
                t->peers = reallocarray(NULL, config->n_peers, sizeof(*t->peers));
                if (!t->peers)
                        return -ENOMEM;
                memcpy(t->peers, config->peers, config->n_peers * sizeof(*t->peers));
                t->n_peers = config->n_peers;
        }

        memcpy(keyspace_config.incarnation, config->incarnation, 16);
        memcpy(keyspace_config.cluster, config->cluster, 16);
        memcpy(keyspace_config.daemon, config->daemon, 16);
        r = keyspace_new(&keyspace_config, &t->keyspace);
        if (r < 0)
                return error_set(reterr, r, "keyspace: %s", strerror(-r));

        if (config->services && config->services->n_routes) {
                r = http1_responder_new(
                        config->loop, config->services->routes, config->services->n_routes, t->keyspace, &t->http1);
                if (r < 0)
                        return error_set(reterr, r, "HTTP/1: %s", strerror(-r));
        }
        server_config.http1 = t->http1;
        server_config.userdata = t->keyspace;
        server_config.limits.slow_ns = config->slow_ns;
        r = grpc_server_new(&server_config, &t->server);
        if (r < 0)
                return error_set(reterr, r, "gRPC: %s", strerror(-r));
        /* What one of them may have crashed on is not even decoded. */
        if (config->quarantined)
                grpc_server_refuse(t->server, GRPC_UNAVAILABLE,
                        config->services && config->services->unavailable ? config->services->unavailable
                                                                          : "unavailable");
        else if (config->services && config->services->add) {
                r = config->services->add(t->server);
                if (r < 0)
                        return error_set(reterr, r, "services: %s", strerror(-r));
        }

        r = listen_local(t, config, reterr);
        if (r < 0)
                return r;
        r = listen_remote(t, config, reterr);
        if (r < 0)
                return r;
        r = tell_endpoints(t, config);
        if (r < 0)
                return r;

        *ret = steal(t);
        return 0;
}

static void on_free(struct loop_task *task) {
        struct tenant *t = container_of(task, struct tenant, free_task);
        void (*closed)(void *userdata) = t->closed;
        void *userdata = t->closed_userdata;

        tenant_free(t);
        closed(userdata);
}

static void on_keyspace_closed(void *userdata) {
        struct tenant *t = userdata;

        t->free_task.run = on_free;
        loop_defer(t->loop, &t->free_task);
}

static void on_drained(void *userdata) {
        struct tenant *t = userdata;

        keyspace_close(t->keyspace, on_keyspace_closed, t);
}

void tenant_close(struct tenant *t, uint64_t timeout_ns, void (*done)(void *userdata), void *userdata) {
        t->closed = done;
        t->closed_userdata = userdata;
        listener_free(steal(t->local));
        listener_free(steal(t->remote));
        grpc_server_drain(t->server, timeout_ns, on_drained, t);
}

struct keyspace *tenant_keyspace(struct tenant *t) {
        return t->keyspace;
}

void tenant_get_figures(struct tenant *t, struct tenant_figures *ret) {
        const char *address = t->remote ? listener_address(t->remote) : NULL;
        struct keyspace_status status;
        struct keyspace_alarm alarm;

        keyspace_get_status(t->keyspace, &status);
        *ret = (struct tenant_figures){
                .condition = status.condition,
                .end = status.end,
                .revision = status.revision,
                .compacted = status.compacted,
                .n_keys = status.n_keys,
                .n_versions = status.n_versions,
                .bytes_live = status.bytes_live,
                .bytes_log = status.bytes_log,
                .bytes_memory = status.bytes_memory,
                .n_watchers = status.n_watchers,
                .n_leases = status.n_leases,
                .n_alarms = status.n_alarms,
                .n_connections = grpc_server_n_connections(t->server),
        };
        snprintf(ret->reason, sizeof(ret->reason), "%s", status.reason ? status.reason : "");
        if (!ret->reason[0] && keyspace_alarms(t->keyspace, &alarm, 1))
                snprintf(ret->reason, sizeof(ret->reason), "%s",
                        alarm.type == ALARM_NOSPACE
                                ? "alarm NOSPACE: the quota was exceeded, writes are refused until the alarm is disarmed"
                                : "an alarm stands until it is disarmed");
        if (address && strncmp(address, "tcp:", 4) == 0)
                snprintf(ret->tcp, sizeof(ret->tcp), "%s", address + 4);
}
