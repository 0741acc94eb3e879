#pragma once

/*
 * The fleet: the plugins, the datastores and the definitions in force, the registry, the shards, and which tenant lives where. Belongs to the main
 * loop, as does every function and callback here; nothing here blocks (datastores are reached through jobs, shards through
 * errands), but for small files of its own.
 *
 * Asynchronous functions call done exactly once, never from within themselves: result 0 or a negative errno with a reason in words:
 * -ENOENT (no such thing), -EEXIST, -EINVAL (a name or value), -EBUSY (in use, declared in a file, not possible now), -EAGAIN (the
 * registry or the datastore cannot be reached).
 */

#include <stokehold/driver.h>

#include "base/error.h"
#include "base/format.h"
#include "base/loop.h"
#include "driver/plugin.h"
#include "fleet/definition.h"
#include "fleet/settings.h"
#include "fleet/tenant.h"

struct fleet;

struct fleet_config {
        struct loop *loop;               /* borrowed, the main loop */
        const struct settings *settings; /* borrowed; a reload may change what can be changed in it */
        uint8_t daemon[16];
        const char *version;             /* borrowed; told to the other daemons */
        struct format_range formats;     /* current 0: those of this build */
        int tls_fd;                      /* listens already, for tls.address, and is taken over; 0 or less: none */
        struct tenant_services services; /* what the rooms above add to each tenant's server */
        /* Every tenant is served or has said why not: once, after the start. May be NULL. */
        void (*on_ready)(void *userdata);
        void *userdata;
};

/* Loads plugins, starts the shards. */
int fleet_new(const struct fleet_config *config, struct fleet **ret, struct error *reterr);
/* Before fleet_start(), or after fleet_stop() is done. */
void fleet_free(struct fleet *fleet);
DEFINE_FREEP(fleet)

/* Reads the definitions, opens datastores and the registry, finishes what a crash left half done, serves. Trouble with any of these is reported
 * (fleet_problems()) and tried again. */
int fleet_start(struct fleet *fleet, struct error *reterr);
/* Drains all tenants, closes keyspaces, registry and datastores. */
void fleet_stop(struct fleet *fleet, void (*done)(void *userdata), void *userdata);

/* Without a fleet, for --check: reads the definitions and prints what is wrong with them, a line each. The exit status: 0 or 1. */
int fleet_check_definitions(const struct settings *settings, FILE *out);

typedef void (*fleet_done_fn)(void *userdata, int result, const char *reason);

/* Reads plugins and definitions again and applies what is good, and what may have changed in the settings. errors: a line each, FILE:LINE: reason; valid during done.
 * Where other daemons have other definitions in force, nothing of these is applied, which the errors say; enforce: these are put in force. */
typedef void (*fleet_reload_fn)(void *userdata, const char *const *errors, size_t n_errors);
void fleet_reload(struct fleet *fleet, bool enforce, fleet_reload_fn done, void *userdata);
/* Something in the definitions directory has changed: reloads them soon, once for a burst of changes. */
void fleet_definitions_changed(struct fleet *fleet);

struct fleet_create {
        const char *name;
        const char *datastore; /* "": the default one */
        uint64_t quota_bytes;  /* 0: the daemon's default */
        bool retain;
        const char *const *client_names; /* as in fleet/client_name.h */
        size_t n_client_names;
        bool wait; /* done when it is served, or has failed (result -EAGAIN) */
};
/* restore.h and clone.h make tenants too, with what others have or had. */
void fleet_create_tenant(struct fleet *fleet, const struct fleet_create *create, fleet_done_fn done, void *userdata);
/* done when nothing is left of it. keep_data: the keyspace stays in its datastore, forgotten. */
void fleet_delete_tenant(struct fleet *fleet, const char *name, bool keep_data, fleet_done_fn done, void *userdata);

/* A tenant in condition HistoryLost: takes its log as it is, and continues it above every revision that was served; what is lost is lost. done when
 * it is served again. -EBUSY: nothing is lost. */
void fleet_recover_tenant(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/* Opens a tenant that is quarantined: done when it is served as any other, or has failed. -EBUSY: it is not. */
void fleet_resume_tenant(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/* Makes this daemon's registry the one that governs the datastore, whichever did so far. */
void fleet_claim_datastore(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/*
 * Moves a tenant to another datastore while it is served (fleet/migration.h). wait: done when that has ended, 0 or (given up) -ECANCELED with the
 * reason; otherwise when it is recorded, and goes on by itself. One that is under way to the same datastore is joined.
 */
struct fleet_migrate {
        const char *name, *datastore;
        int64_t retention_s; /* that the former data stays, sealed; -1: as the settings say */
        bool wait;
};
void fleet_migrate_tenant(struct fleet *fleet, const struct fleet_migrate *migrate, fleet_done_fn done, void *userdata);
/* Gives it up, as long as it has not switched; done when nothing is left of it. */
void fleet_abort_migration(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/* Goes back to where the data was before, if that is still there, and nothing was written since. -ECANCELED with the reason. */
void fleet_undo_migration(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);

/* A registry whose log is not the one that was known: it is taken as it is. -EBUSY: it is not lost. */
void fleet_recover_registry(struct fleet *fleet, fleet_done_fn done, void *userdata);
/* Puts this daemon's newest format in use: -EBUSY where a live daemon cannot do it. */
void fleet_finalize_upgrade(struct fleet *fleet, fleet_done_fn done, void *userdata);

struct fleet_check_item {
        char *name, *value;
        enum stoke_severity severity;
};
typedef void (*fleet_check_fn)(
        void *userdata, int result, const char *reason, const struct fleet_check_item *items, size_t n_items);
void fleet_check_datastore(struct fleet *fleet, const char *name, fleet_check_fn done, void *userdata);

/* ---- looking. What is given is borrowed, until the next event. */

enum fleet_condition_status { FLEET_UNKNOWN, FLEET_TRUE, FLEET_FALSE };
struct fleet_condition {
        const char *type;
        enum fleet_condition_status status;
        const char *reason;
        char *message; /* owned */
        int64_t since; /* of the status; seconds since 1970 */
};
const char *fleet_condition_status_name(enum fleet_condition_status status);

struct fleet_datastore_view {
        const char *name;
        const struct datastore_definition *definition;
        const char *driver;
        const char *source;
        bool is_default, is_system, ready;
        const char *const *used_by; /* tenants, sorted */
        size_t n_used_by;
        const struct fleet_condition *conditions[2];
        int64_t generation;
        uint32_t n_sessions, max_sessions;
        uint64_t commit_p50_ns, commit_p99_ns;
};
void fleet_each_datastore(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_datastore_view *view), void *userdata);

struct fleet_tenant_view {
        const char *name, *datastore;
        const char *phase;  /* "Provisioning", "Ready", "Recovering", "Deleting", "Failed", "Quarantined" */
        const char *reason; /* "" or why it is not (yet) what it should be */
        const uint8_t *incarnation;
        const char *source;
        const char *socket;                         /* the path */
        const struct tenant_definition *definition; /* NULL: not declared in a file */
        uint64_t quota_bytes;
        bool retain, serving;
        const char *host, *host_name; /* id and name of the one host that reaches its datastore; "": all do */
        bool is_elsewhere;            /* that is another one */
        int64_t last_backup;          /* by the clock: seconds since 1970; 0: none, or another daemon makes them */
        uint64_t last_backup_bytes;
        const char *backup_failure; /* "" or why the last attempt has failed */
        int64_t created;
        const uint32_t *peers;
        size_t n_peers;
        const char *const *client_names; /* of the registry's record: where there is no definition */
        size_t n_client_names;
        const char *const *
                tls_urls; /* "https://HOST:PORT" where it can be reached by a client with a certificate; none: it cannot */
        size_t n_tls_urls;
        const struct tenant_figures *figures; /* as last collected; zeroed before */
};
void fleet_each_tenant(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_tenant_view *view), void *userdata);
/* False: there is none. */
bool fleet_find_tenant(struct fleet *fleet, const char *name,
        void (*visit)(void *userdata, const struct fleet_tenant_view *view), void *userdata);

struct fleet_migration_view {
        const char *tenant;
        const uint8_t *id;
        const char *phase; /* "Preparing", "Copying", "Sealing", "Aborting"; "Done", "Failed": the last one */
        const char *step;  /* here: what is being done; "" */
        const char *from, *to;
        const char *reason; /* Aborting, Failed: why; "" */
        bool is_running, is_here, back;
        const uint8_t *owner; /* the daemon that does it; NULL: it has ended */
        int64_t started, finished;
        uint64_t bytes, bytes_all, records, records_to_go;
        double rate;          /* bytes a second */
        double seconds_to_go; /* -1: not known */
        uint64_t hold_ns;     /* for how long clients wait, or had to; 0: not, or not known */
        const char *former;   /* where the data was before, and still is, sealed; NULL: nowhere */
        int64_t former_until; /* seconds since 1970 */
};
/* Those that are under way, and of each other tenant the last one. */
void fleet_each_migration(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_migration_view *view), void *userdata);
/* False: there is no such tenant, or it was never moved. */
bool fleet_find_migration(struct fleet *fleet, const char *tenant,
        void (*visit)(void *userdata, const struct fleet_migration_view *view), void *userdata);
/* Asks a tenant whether it is healthy, as etcd's /health has it, without opening a keyspace that is closed. False: there is no such
 * tenant, and done is not called; else done takes over what is in *response, maybe at once. query: copied. */
bool fleet_tenant_health(struct fleet *fleet, const char *name, const char *query,
        void (*done)(void *userdata, struct http1_response *response), void *userdata);

struct fleet_summary {
        unsigned n_shards;
        size_t n_tenants, n_serving, n_datastores, n_ready;
        uint64_t n_connections, cache_bytes, cache_max_bytes;
        uint64_t memory_max_bytes; /* of keyspaces and values; 0: no budget */
        uint64_t keyspace_bytes;
        size_t n_quarantined;
        const char *registry_datastore; /* "" : none yet */
        bool registry_open;
        const char *registry_id;           /* "": not open */
        bool registry_shared;              /* several daemons may have it open */
        uint32_t format;                   /* in use; 0: not known */
        struct format_range formats;       /* that this daemon can do */
        int64_t definitions_generation;    /* in force among the daemons; 0: none */
        const char *tls_address;           /* "0.0.0.0:2379", as bound; NULL: no such port, or not open */
        int64_t copy_revision, copy_saved; /* of the copy of the registry that tenants are served from; 0: none is */
};
void fleet_get_summary(struct fleet *fleet, struct fleet_summary *ret);
struct fleet_daemon_view {
        const char *host, *name; /* the host's id, and its name */
        const char *daemon;      /* incarnation, UUID */
        const char *version;
        struct format_range formats; /* 0: its record cannot be read */
        int64_t since;               /* seconds since 1970 */
        uint64_t n_serving;          /* tenants */
        bool is_self;
};
/* The daemons that live and have the registry open; this one is always among them. */
void fleet_each_daemon(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_daemon_view *view), void *userdata);
/* A line for whatever is wrong. */
void fleet_problems(struct fleet *fleet, void (*visit)(void *userdata, const char *line), void *userdata);
struct plugin_table *fleet_plugins(struct fleet *fleet);
const struct settings *fleet_settings(struct fleet *fleet);

/* Asks every shard for its tenants' figures; done when all have answered. */
void fleet_collect(struct fleet *fleet, void (*done)(void *userdata), void *userdata);

/* Resident memory of the process; 0: not known. */
uint64_t fleet_resident_bytes(void);
/* Puts the process's own figures into the metrics, for a scrape. */
void fleet_publish_process(void);
