#pragma once

/*
 * A tenant as it is served: its keyspace, its gRPC server, its listeners. Lives on one shard, and every function here is for that shard's
 * thread. The main thread's view of it (assignment, registry, definition) is in fleet/fleet.h.
 */

#include <sys/types.h>

#include "base/error.h"
#include "base/loop.h"
#include "keyspace/keyspace.h"
#include "rpc/grpc.h"
#include "rpc/http1.h"

/* What higher rooms add to a tenant's server; its userdata is the struct keyspace. */
struct tenant_services {
        int (*add)(struct grpc_server *server); /* 0 or negative errno */
        const struct http1_route *routes;       /* borrowed for ever; userdata is the struct keyspace too */
        const char *
                unavailable; /* borrowed for ever: what clients are told of a tenant that is not served; NULL: "unavailable" */
        size_t n_routes;
        /* /health of a tenant's, as the routes have it. done: once, on the keyspace's loop, maybe at once; takes over what is in *response. */
        void (*health)(struct keyspace *ks, const char *query,
                void (*done)(void *userdata, struct http1_response *response), void *userdata);
};

struct tenant_config {
        const char *name;
        uint8_t incarnation[16];
        uint8_t daemon[16];
        uint8_t cluster[16];
        struct datastore *datastore; /* borrowed, until tenant_close() is done */
        struct keyspace_known known; /* of its log, from the last life */
        uint64_t quota_bytes;
        uint64_t auto_compact_ns;
        uint64_t progress_notify_ns;
        uint64_t slow_ns;        /* requests and commits that take longer are logged; 0: never, 500 ms */
        const char *runtime_dir; /* RUNTIME/tenants, which exists */
        mode_t socket_mode;
        uid_t owner;           /* (uid_t)-1: as the daemon */
        gid_t group;           /* (gid_t)-1: as the daemon */
        const char *tcp;       /* "127.0.0.1:2379", on loopback; NULL: none */
        const uint32_t *peers; /* uids that may connect; none: whoever the mode lets in */
        size_t n_peers;
        const struct tenant_services *services; /* borrowed for ever */
        struct grpc_limits limits;              /* but for slow_ns */
        struct keyspace_limits keyspace_limits;
        uint64_t idle_close_ns;    /* 0: never */
        bool quarantined;          /* all that comes is refused, unread */
        _Atomic uint32_t *opening; /* borrowed: see keyspace_config; may be NULL */
        /* Its log was read to be sealed, by the migration of this id: see keyspace_config. On the shard. */
        void (*on_sealed)(void *userdata, const uint8_t id[16]);
        void *userdata;
        struct loop *loop;         /* borrowed, the shard's */
        struct value_cache *cache; /* borrowed, the shard's */
        struct memory *memory;     /* borrowed; NULL: no budget */
};

struct tenant;

/* Copies the configuration. The keyspace opens itself at the first call. */
int tenant_open(const struct tenant_config *config, struct tenant **ret, struct error *reterr);
/* Listens no more, drains (calls may end within timeout_ns), closes the keyspace, frees the tenant, then calls done. */
void tenant_close(struct tenant *tenant, uint64_t timeout_ns, void (*done)(void *userdata), void *userdata);

/* Borrowed until it is closed; the shard's. */
struct keyspace *tenant_keyspace(struct tenant *tenant);
/* A client that was let in by its certificate, taken over: spec.endpoint.peers is not asked, which knows local users only. */
void tenant_accept(struct tenant *tenant, struct transport *transport);
/* Lets go of those whose certificates are not good by this policy. */
void tenant_recheck(struct tenant *tenant, struct tls_server *policy);
/* What clients that ask for the members are told besides the tenant's own addresses. Copied. */
void tenant_set_tls_urls(struct tenant *tenant, const char *const *urls, size_t n_urls);

/* As struct tenant_services has it, for its keyspace; -EOPNOTSUPP: it has none. */
int tenant_ask_health(struct tenant *tenant, const char *query,
        void (*done)(void *userdata, struct http1_response *response), void *userdata);

struct tenant_figures {
        enum keyspace_condition condition;
        char reason[256];     /* "" or why it is not serving, or serves not all */
        struct stoke_end end; /* of the log */
        int64_t revision, compacted;
        uint64_t n_keys, n_versions, bytes_live, bytes_log, bytes_memory;
        uint64_t n_watchers, n_leases, n_alarms, n_connections;
        char tcp[64]; /* the TCP address as bound; "": none */
};
void tenant_get_figures(struct tenant *tenant, struct tenant_figures *ret);
/* "Closed", "Opening", "Serving", "Unreachable", "HistoryLost", "Dropped", "NoMemory", "Quarantined". */
const char *tenant_condition_name(enum keyspace_condition condition);

/* The paths of a tenant's endpoint, under RUNTIME/tenants. Owned by the caller. Any thread. */
char *tenant_socket_path(const char *runtime_dir, const char *name);
/* Removes the socket's directory and the link, once the tenant is gone for good. Any thread. */
void tenant_remove_paths(const char *runtime_dir, const char *name);
