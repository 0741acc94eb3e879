#pragma once

/*
 * The fleet's own structures: shared by fleet.c (ownership, applying, stopping), store.c (datastores), assignment.c (tenants' lives),
 * collect.c (figures) and by nobody else. All of it belongs to the main thread.
 */

#include <sys/queue.h>

#include "fleet/definition.h"
#include "fleet/fleet.h"
#include "fleet/known.h"
#include "fleet/registry.h"
#include "fleet/secret.h"
#include "fleet/shard.h"
#include "fleet/tenant.h"

struct metric;

/* ---- datastores */

struct store_waiter {
        fleet_check_fn done;
        void *userdata;
        STAILQ_ENTRY(store_waiter) entry;
};

struct store_check; /* store.c */

struct fleet_store {
        struct fleet *fleet;                           /* borrowed */
        const struct datastore_definition *definition; /* ref: as it is open */
        const struct datastore_definition *wanted;     /* ref: as it is to be; NULL: gone */
        struct datastore_secret secret; /* what the driver asks with; refs borrowed from definition and fleet */
        char *name;                     /* owned */
        char *driver;                   /* owned: immutable for as long as the datastore is known */
        struct datastore *ds;           /* owned; NULL: could not be opened */
        struct fleet_condition validation, deletion;
        char *unsafe; /* owned: how it can lose acknowledged writes, as the last dialling found; NULL: it cannot */
        bool leaving; /* wanted is another than definition: to be closed, and opened anew, when the last tenant has let go */
        struct loop_timer timer;
        struct store_check *check; /* owned while it runs; NULL: none */
        STAILQ_HEAD(, store_waiter) waiters;
        struct metric *ready;
        LIST_ENTRY(fleet_store) entry;
};

/* Takes a reference. */
struct fleet_store *store_new(struct fleet *fleet, const struct datastore_definition *definition);
void store_free(struct fleet_store *store);
/* Opens it with its definition; a failure is its condition. */
void store_open(struct fleet_store *store);
/* Closes it (blocks for at most grace_ns). Nobody may be using it. */
void store_close(struct fleet_store *store, uint64_t grace_ns);
/* Whether a tenant is recorded on it, or the registry is in it. */
bool store_is_used(const struct fleet_store *store);
/* Dials, now. */
void store_check(struct fleet_store *store, fleet_check_fn done, void *userdata);
/* Why no tenant may be made or started there, valid until the next event; NULL: it may. */
const char *store_refusal(const struct fleet_store *store);
/* The tenants on it have changed. */
void store_update_use(struct fleet_store *store);
struct fleet_store *fleet_find_store(struct fleet *fleet, const char *name);

/* ---- tenants */

struct tenant_waiter {
        enum { WAIT_RECORDED, WAIT_SERVED, WAIT_GONE } what;
        fleet_done_fn done;
        void *userdata;
        STAILQ_ENTRY(tenant_waiter) entry;
};

/* What a definition (or, without one, the defaults) says about how a tenant is served. Owns its memory. */
struct tenant_manner {
        uint64_t quota_bytes, auto_compact_ns, progress_notify_ns, slow_ns;
        mode_t socket_mode;
        uid_t owner;
        gid_t group;
        char *tcp;
        uint32_t *peers;
        size_t n_peers;
};
void tenant_manner_done(struct tenant_manner *manner);
bool tenant_manner_equal(const struct tenant_manner *a, const struct tenant_manner *b);

/*
 * A tenant's life is a sequence of steps, one at a time (busy), each chosen by assignment_step() from what is recorded and what is wanted. A
 * step that fails is tried again after a pause.
 */
struct assignment {
        struct fleet *fleet;            /* borrowed */
        char *name;                     /* owned */
        struct registry_record *record; /* owned: as it is known to be in the registry; NULL: not there yet */
        struct registry_record *next;   /* owned: being written, or to be written again; NULL: nothing */
        bool gone;                      /* the registry's record was removed: only the memory is left */

        /* What is wanted. */
        bool want_delete, want_retain, want_recover;
        struct tenant_manner
                wanted;      /* how it is to be served; where it is served in another manner it is started again */
        char *change_source; /* owned: the definition that it is declared by now; NULL: no change wanted */
        bool change_from_file, change_retain;
        uint64_t change_quota;

        /* What runs. */
        bool busy;
        struct registry_write write;
        struct datastore_job job;
        struct stoke_keyspace job_keyspace;
        bool dropped;

        struct shard *shard;         /* borrowed; NULL: on none */
        struct keyspace_known known; /* as it was started with */
        struct tenant_manner manner; /* as served; also read by the shard while busy */
        struct tenant *started;      /* written by the shard while busy; then it is `serving` */
        struct tenant *serving;      /* the shard's; NULL: not served */
        struct tenant_figures last;  /* written by the shard while it is being stopped */
        struct fleet_store *store;   /* borrowed, while served or while a job runs */

        struct loop_timer retry;
        unsigned n_failures;
        char *reason; /* owned; NULL: all is well */
        bool settled; /* was served once, or has failed once, since the start */

        struct tenant_figures figures;
        struct tenant_metrics *metrics; /* owned, collect.c */
        STAILQ_HEAD(, tenant_waiter) waiters;
        LIST_ENTRY(assignment) entry; /* fleet.assignments, in order of name */
};

struct assignment *assignment_new(struct fleet *fleet, const char *name);
/* Not while it is busy or served. */
void assignment_free(struct assignment *a);
/* Takes the next step, if none is under way. May free it. */
void assignment_step(struct assignment *a);
/* As step, without waiting for the pause after a failure. */
void assignment_hurry(struct assignment *a);
void assignment_wait(struct assignment *a, int what, fleet_done_fn done, void *userdata);
struct assignment *fleet_find_assignment(struct fleet *fleet, const char *name);
/* The record that is, or is about to be. */
const struct registry_record *assignment_record(const struct assignment *a);
void assignment_view(struct assignment *a, struct fleet_tenant_view *ret, char **ret_socket);

/* recovery.c: an errand to the tenant's shard, which continues the log of a record in phase Recovering. */
void recovery_there(struct errand *errand);

/* collect.c */
/* What has been seen of a tenant's log is what must be found again. */
void collect_known(struct assignment *a, const struct tenant_figures *figures);
void collect_save(struct fleet *fleet);
void tenant_metrics_free(struct assignment *a);
void collect_start(struct fleet *fleet);

/* apply.c */
int fleet_start_definitions(struct fleet *fleet, struct error *reterr);
void fleet_forget_definitions(struct fleet *fleet);
/* Makes the tenants what the definitions in force say. Only while running. */
void fleet_apply_tenants(struct fleet *fleet);
/* How it is to be served, by its definition, its record and the settings. */
void assignment_update_manner(struct assignment *a);
bool fleet_is_declared(const struct fleet *fleet, const char *name);

/* ---- the fleet */

enum fleet_stage {
        FLEET_NEW,
        FLEET_OPENING, /* the registry */
        FLEET_RUNNING,
        FLEET_STOPPING,
        FLEET_STOPPED,
};

struct fleet {
        struct fleet_config config;
        struct loop *loop; /* borrowed */
        enum fleet_stage stage;
        struct plugin_table *plugins; /* owned */
        struct registry *registry;    /* owned */
        struct known_logs *known;     /* owned */
        bool registry_opening, registry_closing;
        struct fleet_store *registry_store; /* borrowed */
        char *registry_reason;              /* owned: why it is not open */
        struct loop_timer registry_timer;
        struct shard **shards; /* owned */
        size_t n_shards;
        struct definitions *definitions;      /* owned: those in force */
        bool applied;                         /* once since the start */
        struct secret_source *secrets;        /* ref */
        struct grpc_limits limits;            /* of tenants' servers */
        char **errors;                        /* owned: of the last reading and applying */
        size_t n_errors, n_definition_errors; /* those of the reading come first */
        bool leaving;                         /* a datastore waits for its last tenants to be deleted */
        bool refused;                         /* some document was not taken: nothing is deleted for being absent */
        struct loop_timer reload_timer;
        LIST_HEAD(, fleet_store) stores;
        LIST_HEAD(, assignment) assignments;
        bool ready_told;
        char *tenants_dir; /* owned: RUNTIME/tenants */
        struct loop_task settle_task, apply_task;
        void (*stopped)(void *userdata);
        void *stopped_userdata;

        struct loop_timer collect_timer;
        size_t n_collecting;
        struct value_cache_figures *shard_cache; /* owned: as last collected, one a shard */
};

/* A tenant that is new: its record, in phase Provisioning, is what is to be written first. */
struct assignment *fleet_assign(struct fleet *fleet, const char *name, const char *datastore, uint64_t quota_bytes,
        bool retain, const char *source, bool from_file);
/* Now, if it waits for its next attempt. */
void fleet_registry_hurry(struct fleet *fleet);
/* Something has come to rest: looks, at the end of this iteration, whether a start or a stop is complete, and whether a datastore that is leaving
 * can be closed. */
void fleet_settle(struct fleet *fleet);
/* Serving may begin. */
static inline bool fleet_is_running(const struct fleet *fleet) {
        return fleet->stage == FLEET_RUNNING;
}
