#pragma once

/*
 * The daemon's settings: stokehold.yaml and the command line, with the defaults filled in. Read by the main thread at the
 * start and on reload. The main thread alone looks at what a reload may change.
 *
 * --config FILE  for real use: FHS paths, plugins must be root's.
 * --root DIR     for trials and tests: all paths under DIR, DIR/stokehold.yaml is read where it is there, no metrics
 *                listener unless it is set. Relative paths in the file are relative to DIR (with --config: an error).
 */

#include <sys/types.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"

struct settings_options {
        const char *config;  /* --config FILE; NULL with root */
        const char *root;    /* --root DIR; made absolute. Exactly one of the two */
        const char *plugins; /* --plugins DIR; NULL: as the settings say */
};

/* The port that all tenants share, which a client's certificate leads to its tenant. */
struct settings_tls {
        char *address;            /* tls.address: "0.0.0.0:2379"; NULL: off; fixed while the daemon runs */
        char *certificate, *key;  /* tls.certificate, tls.key: the server's own; set if there is an address */
        char *client_ca;          /* tls.clientCA; NULL: none */
        char *client_revocations; /* tls.clientRevocations; NULL: none */
        char **advertise;         /* tls.advertise: "https://HOST:PORT"; none: as bound */
        size_t n_advertise;
        char *server_ca; /* tls.serverCA: by what clients know the server; NULL: found among the others */
        bool tenant_names; /* tls.tenantNames: a tenant without clientNames is reached by its own name under tls.clientCA; no */
        struct {
                char *certificate,
                        *key;      /* tls.authority: what the daemon issues client certificates with; NULL: nothing */
                char *revocations; /* NULL: none */
                unsigned days;     /* 365 */
        } authority;
};

/* All strings are owned; all paths absolute. */
struct settings {
        char *file;     /* stokehold.yaml as read; NULL: there was none, all is default */
        char *root;     /* --root; NULL with --config */
        bool root_only; /* plugins must be root's: --config */

        char *plugins_dir;     /* paths.plugins:     /usr/lib/stokehold/plugins  | plugins/ next to the executable */
        char *definitions_dir; /* paths.definitions: /etc/stokehold/definitions.d | DIR/definitions.d */
        char *secrets_dir;     /* paths.secrets:     /etc/stokehold/secrets       | DIR/secrets */
        char *state_dir;       /* paths.state:       /var/lib/stokehold           | DIR/state */
        char *runtime_dir;     /* paths.runtime:     /run/stokehold               | DIR/run */
        char *control_socket;  /* control.socket:    RUNTIME/control.sock */

        char **experimental; /* drivers.experimental: names of experimental drivers that may be used */
        size_t n_experimental;

        unsigned n_shards;    /* shards: 1 to 64; 0 in the file: one a CPU, at most 4, which is filled in here */
        uint64_t cache_bytes; /* cache: for values, all shards together, at most; 256 MiB */
        uint64_t
                memory_bytes; /* memory: for keyspaces and values, all shards together; half of what there is; 0 (off): no budget */

        bool core_dumps; /* coreDumps: the process may be dumped and debugged, secrets included; false */

        enum log_level log_level; /* log.level; info */
        uint64_t slow_request_ns; /* log.slowRequest; 500 ms; 0 (off): never */

        char *metrics_listen; /* metrics.listen: "tcp:127.0.0.1:9379", "unix:/path", as listener_new() takes it; NULL: off */

        /* What holds for tenants whose definition does not say otherwise. */
        uint64_t default_quota_bytes; /* tenants.quota; 2 GiB; 0: none */
        uint64_t auto_compaction_ns;  /* tenants.autoCompaction; 5 m; 0 (off) */
        uint64_t progress_notify_ns;  /* tenants.progressNotify; 5 s; 0 (off): never */
        uint64_t idle_close_ns;       /* tenants.idleClose; 10 m; 0 (off) */
        uint64_t quarantine_ns;       /* tenants.quarantine: two crashes within it; 1 h; 0 (off) */
        mode_t socket_mode;           /* tenants.socketMode; 0660 */

        struct {
                uint64_t
                        retention_ns; /* migration.retention: how long the source stays, sealed; 24 h; 0: it goes at once */
                uint64_t bandwidth_bytes; /* migration.bandwidth: a second, all migrations together; 0: no limit */
                uint32_t parallel;        /* migration.parallel: so many copy at a time; 2 */
        } migration;

        struct {
                uint64_t request_bytes;  /* limits.requestBytes; 1.5 MiB */
                uint32_t streams;        /* limits.streams: of one connection; 65536 */
                uint32_t connections;    /* limits.connections: of one tenant; 65536 */
                uint32_t txn_operations; /* limits.txnOperations; 128 */
                uint32_t txn_nesting;    /* limits.txnNesting: transactions within transactions; 48 */
                uint32_t watches;        /* limits.watches: of one tenant; 200000 */
                uint32_t stream_watches; /* limits.watchesPerStream; 100000 */
                uint64_t watch_bytes;    /* limits.watchBytes: queued for one slow stream; 1 MiB */
                uint32_t leases;         /* limits.leases: of one tenant; 100000 */
        } limits;

        struct settings_tls tls;
};

/* A mistake in the file is -EBADMSG with "FILE:LINE: reason"; a file that cannot be read is the errno. With root, its
 * directory must exist. */
int settings_load(const struct settings_options *options, struct settings **ret, struct error *reterr);
void settings_free(struct settings *settings);
DEFINE_FREEP(settings)

/* The names of the settings that differ, but cannot be changed while the daemon runs (all but log.*, tenants.*, migration.*, tls.* without its
 * address, drivers.experimental, coreDumps), with a comma between;
 * NULL: none. Owned by the caller. */
char *settings_fixed_changes(const struct settings *old, const struct settings *new);
/* Makes of running what new says where that can be changed while the daemon runs; the rest of running stays. */
void settings_adopt(struct settings *running, struct settings *new);
