#pragma once

/*
 * The fleet's own structures: shared by fleet.c (ownership, applying, stopping), store.c (datastores), assignment.c (tenants' lives),
 * collect.c (figures) and by nobody else. All of it belongs to the main thread.
 */

#include <sys/queue.h>

#include "fleet/backup_plan.h"
#include "fleet/copying.h"
#include "fleet/crash.h"
#include "fleet/definition.h"
#include "fleet/fleet.h"
#include "fleet/governor.h"
#include "fleet/host.h"
#include "fleet/in_force.h"
#include "fleet/installing.h"
#include "fleet/known.h"
#include "fleet/members.h"
#include "fleet/migration.h"
#include "fleet/quarantine.h"
#include "fleet/registry.h"
#include "fleet/registry_copy.h"
#include "fleet/secret.h"
#include "fleet/shard.h"
#include "fleet/tenant.h"
#include "keyspace/memory.h"

struct metric;

/* ---- who governs a datastore: governance.c */

struct claim_waiter {
        fleet_done_fn done;
        void *userdata;
        STAILQ_ENTRY(claim_waiter) entry;
};

struct governance {
        enum { GOVERNANCE_UNKNOWN, GOVERNANCE_OURS, GOVERNANCE_FOREIGN } state;
        char *reason; /* owned: why it is not ours, or not known; NULL: was not looked at yet */
        struct datastore_job job;
        struct stoke_keyspace keyspace;
        struct governor governor;
        bool running, created, claiming;
        STAILQ_HEAD(, claim_waiter) waiters;
};

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
        struct governance governance;
        bool is_dialled; /* the last dialling succeeded */
        char *unsafe;    /* owned: how it can lose acknowledged writes, as the last dialling found; NULL: it cannot */
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
/* It has been dialled, or who governs it has become known. */
void store_update_validation(struct fleet_store *store);
/* It is not to be opened (unknown: not yet), for this reason. */
void store_hold(struct fleet_store *store, enum fleet_condition_status status, const char *reason, const char *message);
/* Dials again in a while. */
void store_dial_later(struct fleet_store *store, bool good);
struct fleet_store *fleet_find_store(struct fleet *fleet, const char *name);

/* governance.c */
/* Several daemons may have it open. False while it is not open here. */
bool store_is_shared(const struct fleet_store *store);
/* NULL: our registry governs it, or nobody need; otherwise why no tenant may be made and served there (borrowed). */
const char *governance_refusal(const struct fleet_store *store);
/* It is being found out. */
bool governance_is_young(const struct fleet_store *store);
/* Looks who governs it, if that can be known now. */
void governance_look(struct fleet_store *store);
/* Known already: the registry is in it. */
void governance_is_ours(struct fleet_store *store);
void governance_claim(struct fleet_store *store, fleet_done_fn done, void *userdata);
void governance_done(struct fleet_store *store);

/* ---- tenants */

struct tenant_waiter {
        enum { WAIT_RECORDED, WAIT_SERVED, WAIT_GONE } what;
        fleet_done_fn done;
        void *userdata;
        STAILQ_ENTRY(tenant_waiter) entry;
};

/* What a definition (or, without one, the defaults) says about how a tenant is served. Owns its memory. */
struct tenant_manner {
        uint64_t quota_bytes, auto_compact_ns, progress_notify_ns, slow_ns, idle_close_ns;
        bool quarantined;
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
        uint32_t owner;                 /* of all that is done for it: fleet/crash.h */
        struct registry_record *record; /* owned: as it is known to be in the registry; NULL: not there yet */
        struct registry_record *next;   /* owned: being written, or to be written again; NULL: nothing */
        bool gone;                      /* the registry's record was removed: only the memory is left */

        /* What the registry said while it was busy: taken when that has ended. */
        bool has_newer;
        struct registry_record *newer; /* owned; NULL: removed, */
        int64_t newer_revision;        /* at this revision */
        uint64_t listed;               /* in this listing of the registry (fleet.listing) */
        uint64_t told_ns;              /* when another daemon's step was learnt of; 0: the step is ours */
        bool made_here; /* this daemon has asked the datastore to make this incarnation, and nobody is known to have succeeded */
        bool sweep; /* what may have been made too late is to be dropped, */
        uint8_t sweep_incarnation[16];
        char *sweep_datastore; /* owned: there */

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

        struct shard *shard;                     /* borrowed; NULL: on none */
        struct keyspace_known known;             /* as it was started with */
        struct tenant_manner manner;             /* as served; also read by the shard while busy */
        struct tenant *started;                  /* written by the shard while busy; then it is `serving` */
        struct tenant *serving;                  /* the shard's; NULL: not served */
        bool stopping;                           /* what is sent to it now may come too late */
        uint8_t served[16], served_recovery[16]; /* the incarnation that is, and its recovery */
        struct tenant_figures last;              /* written by the shard while it is being stopped */
        struct fleet_store *store;               /* borrowed, while served or while a job runs */

        struct backup_plan *backup_plan; /* owned; NULL: no backups are made by the clock */
        struct copying_list copies;      /* what reads it at this moment: fleet/copying.h */
        bool copies_waited_for;          /* a step waits for their end */
        struct restore *restoring;       /* borrowed: that brings what replaces what it has; fleet/restore.h */
        struct installing *installing;   /* borrowed: what brings its data, here; NULL: nothing. fleet/installing.h */
        bool install_aborted;            /* what it had brought has gone */
        struct install *abort;           /* owned: while it is being removed */
        /* Moves: fleet/migration.h */
        struct migration *migration;          /* owned: what this daemon does for it; NULL: nothing */
        struct registry_migration *want_move; /* owned: to be recorded; NULL: none is wanted */
        char *want_datastore;                 /* owned: where its definition says that it belongs; NULL: where it is */
        bool want_abort;
        struct fleet_store *former; /* borrowed: while the keyspace goes from there to `store` */
        bool sealed,
                sealed_asked; /* the log was read to be sealed, which waits for the registry to say; it was asked */
        bool reading, unsealing;
        uint8_t sealed_by[16], unsealing_id[16];
        struct registry_read read;
        uint8_t switching_to[16];  /* while `former` is set */
        uint64_t switched_hold_ns; /* for so long clients had waited when it was done; 0: not known */
        struct loop_timer move_timer, want_timer;
        char *want_reason; /* owned: why it is not moved yet to where its definition says; NULL */
        TAILQ_HEAD(, move_waiter) move_waiters;

        struct loop_timer retry;
        unsigned n_failures;
        char *reason; /* owned; NULL: all is well */
        bool settled; /* was served once, or has failed once, since the start */

        size_t n_tls_rules;  /* names that lead to it at the TLS port */
        uint64_t told_urls;  /* of that port, which it tells its clients: their generation; 0: none */
        uint64_t refused_ns; /* when it was logged last that a client of that port was refused */

        struct tenant_figures figures;
        struct tenant_metrics *metrics; /* owned, collect.c */
        STAILQ_HEAD(, tenant_waiter) waiters;
        LIST_ENTRY(assignment) entry; /* fleet.assignments, in order of name */
};

/* Who waits for a migration's end. */
struct move_waiter {
        uint8_t id[16];
        fleet_done_fn done;
        void *userdata;
        TAILQ_ENTRY(move_waiter) entry;
};

struct assignment *assignment_new(struct fleet *fleet, const char *name);
/* Not while it is busy or served. */
void assignment_free(struct assignment *a);
/* Takes the next step, if none is under way. May free it. */
void assignment_step(struct assignment *a);
/* As step, without waiting for the pause after a failure. */
void assignment_hurry(struct assignment *a);
/* The same in the next iteration. */
void assignment_hurry_soon(struct assignment *a);
void assignment_wait(struct assignment *a, int what, fleet_done_fn done, void *userdata);
struct assignment *fleet_find_assignment(struct fleet *fleet, const char *name);
/* The record that is, or is about to be. */
const struct registry_record *assignment_record(const struct assignment *a);
void assignment_view(struct assignment *a, struct fleet_tenant_view *ret, char **ret_socket);
/* The registry says so: this is the record now (taken over), or (NULL) it was removed, at this revision. May free the assignment. */
void assignment_take(struct assignment *a, struct registry_record *record, int64_t revision);
/* Answers those who wait for something up to `what` (all: for anything): a tenant that is served is recorded too. */
void assignment_answer(struct assignment *a, bool all, int what, int result, const char *reason);
/* The step has failed: it is tried again after a pause, and those who wait hear why. */
void assignment_fail(struct assignment *a, const char *reason);
/* assignment_serve.c: busy until it is back, and the next step is taken. */
void assignment_start(struct assignment *a, struct fleet_store *store);
void assignment_stop(struct assignment *a);
void assignment_recover(struct assignment *a, struct fleet_store *store);
/* Where it is served in another manner than it should be, in another place, or no more: true while that is done. */
bool assignment_correct(struct assignment *a);
/* The datastore of the record, open, where a tenant may be started there; NULL: not (yet), and the failure told. */
struct fleet_store *assignment_store(struct assignment *a);
/* a->next is written, and what follows taken. */
void assignment_write(struct assignment *a);
/* Nothing is wrong with it. */
void assignment_well(struct assignment *a);
/* Takes what was said while it was busy. */
void assignment_catch_up(struct assignment *a);
/* The step is left to the daemon that has begun it, for now: it goes on by itself later. */
bool assignment_is_left(struct assignment *a);
/* The daemon of the host that the record names runs. */
bool assignment_host_lives(const struct assignment *a);
/* The record says from now on that its datastore is this host's own. */
void assignment_claim_host(const struct assignment *a, struct registry_record *record);
/* requests.c: answered later, as if somebody had looked. */
void fleet_refuse(struct fleet *fleet, fleet_done_fn done, void *userdata, int result, const char *format, ...)
        printf_like(5, 6);
/* NULL: refused, since the daemon is not running yet or any more, or since there is none. */
struct assignment *fleet_find_tenant_for(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/* Its datastore is another host's own. */
bool assignment_is_elsewhere(const struct assignment *a);

/* recovery.c: an errand to the tenant's shard, which continues the log of a record in phase Recovering. */
void recovery_there(struct errand *errand);

/* collect.c */
/* What has been seen of a tenant's log is what must be found again. */
void collect_known(struct assignment *a, const struct tenant_figures *figures);
void collect_registry(struct fleet *fleet);
void collect_save(struct fleet *fleet);
void tenant_metrics_free(struct assignment *a);
void collect_start(struct fleet *fleet);

/* agreement.c: what the files say, and what is in force among the daemons */
struct agreement {
        struct in_force force; /* as the registry says */
        int64_t force_revision;
        struct in_force mine; /* what was read last */
        bool complete; /* it is what somebody means, as far as can be told: not an empty directory, nor one with documents that cannot be read */
        bool is_unreadable;        /* what the registry says */
        bool is_listed;            /* by the listing that runs */
        bool enforce;              /* an operator wants it in force, whatever the others have */
        int64_t agreed_generation; /* the one that the files agreed with last; 0: none */
        uint64_t agreed_fingerprint;
        bool agreed;  /* what was read last is in force */
        bool differs; /* it is not, and will not be put in force by this daemon */
        char *reason; /* owned: why that is not known; NULL */
        bool busy;
        struct registry_put put;
        struct compare condition;
        struct in_force proposal;
        char *value; /* owned: the proposal, as written */
        struct loop_timer timer;
};
void agreement_done(struct fleet *fleet);
/* The files were read anew. */
void agreement_read(struct fleet *fleet, bool complete, bool enforce);
/* The registry's value; data NULL: there is none. */
void agreement_value(struct fleet *fleet, struct bytes value, int64_t revision);
/* Decides what can be decided now. */
void agreement_consider(struct fleet *fleet);
/* Nothing is under way, and what was read is in force or differs. */
bool agreement_is_settled(const struct fleet *fleet);
/* What is in force says the same of this DataStore. */
bool agreement_has(const struct fleet *fleet, const struct datastore_definition *definition);
/* A line, and one more for each object, if the files differ from what is in force. */
void agreement_problems(struct fleet *fleet, void (*visit)(void *userdata, const char *line), void *userdata);

/* follow.c: what the registry says */
void fleet_listener(struct fleet *fleet, struct registry_listener *ret);
/* Serves from the copy, if there is one; only while the registry is not open. */
void fleet_serve_copy(struct fleet *fleet);
/* Keeps a copy, soon or (at the end) now. */
void fleet_copy_soon(struct fleet *fleet);
void fleet_copy_now(struct fleet *fleet);
/* Looks again whether the format in use is one that this daemon can do. */
void fleet_check_format(struct fleet *fleet);

/* apply.c */
/* Makes the set that was read last the one that is applied. */
void fleet_adopt_definitions(struct fleet *fleet);
/* Opens those datastores that may be; one that may not be says so. */
void fleet_apply_datastores(struct fleet *fleet);
void fleet_open_store(struct fleet_store *store);
/* Those who have asked for a reading and wait. */
void fleet_answer_reloads(struct fleet *fleet);
int fleet_start_definitions(struct fleet *fleet, struct error *reterr);
void fleet_forget_definitions(struct fleet *fleet);
/* Makes the tenants what the definitions in force say. Only while running. */
void fleet_apply_tenants(struct fleet *fleet);
/* How it is to be served, by its definition, its record and the settings. */
void assignment_update_manner(struct assignment *a);
bool fleet_is_declared(const struct fleet *fleet, const char *name);

/* transfers.c */
struct fleet_transfer;
/* All of them come to their end soon. */
void transfers_stop(struct fleet *fleet);
/* None of them has a thread. */
bool transfers_are_over(const struct fleet *fleet);
/* Forgets them; whoever waits is answered. */
void transfers_done(struct fleet *fleet);

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
        struct definitions *definitions; /* owned: those in force */
        bool applied;                    /* once since the start */
        bool was_read;                   /* once since the start */
        struct secret_source *secrets;   /* ref */
        struct grpc_limits limits;       /* of tenants' servers */
        struct keyspace_limits keyspace_limits;
        struct memory *memory;                /* owned */
        struct crash_table *crashes;          /* owned */
        struct quarantine *quarantine;        /* owned */
        char **errors;                        /* owned: of the last reading and applying */
        size_t n_errors, n_definition_errors; /* those of the reading come first */
        bool leaving;                         /* a datastore waits for its last tenants to be deleted */
        bool refused;                         /* some document was not taken: nothing is deleted for being absent */

        /* Among other daemons. */
        struct host host;
        bool shared_registry;                       /* several daemons may have it open */
        bool claim_registry;                        /* its datastore is to be claimed at the next opening */
        bool registry_is_foreign, registry_is_lost; /* the last opening found another registry; found it lost */
        struct claim_waiter *registry_waiter;       /* owned: who wants to hear of the next opening; NULL */
        bool registry_waiter_is_due;                /* that is this one */
        bool has_identity;                          /* of the registry, for governors: */
        struct governor_record identity;
        struct members *members;       /* owned */
        uint64_t listing;              /* counts the listings of the registry */
        uint32_t format;               /* in use, as was told last */
        char *unfit;                   /* owned: the format in use is not one that this daemon can do; NULL: it is */
        struct definitions *candidate; /* owned: read last, not (yet) in force; NULL: it is `definitions` */
        bool adopted;                  /* `definitions` are applied, or may be */
        struct agreement agreement;
        STAILQ_HEAD(, reload_answer) reloads;
        struct loop_timer reloads_timer;
        bool from_copy; /* tenants are served as the copy has them, until the registry is open */
        bool has_copy;
        struct registry_copy copy; /* as it was read at the start; emptied once the registry is open */
        struct loop_timer copy_timer, copy_start_timer;
        unsigned n_backups;              /* by the clock, that run */
        struct throttle *throttle;       /* owned: of all that is copied */
        unsigned n_movers;               /* that run */
        struct fleet_finalize *finalize; /* owned: under way; NULL: none */
        struct loop_timer reload_timer;
        LIST_HEAD(, fleet_transfer) transfers; /* owned */
        LIST_HEAD(, fleet_store) stores;
        LIST_HEAD(, assignment) assignments;
        bool ready_told;
        char *tenants_dir; /* owned: RUNTIME/tenants */
        struct loop_task settle_task, apply_task;
        void (*stopped)(void *userdata);
        void *stopped_userdata;

        struct endpoint *endpoint; /* owned: fleet/endpoint.h */

        struct loop_timer collect_timer;
        size_t n_collecting;
        struct value_cache_figures *shard_cache; /* owned: as last collected, one a shard */
        uint64_t given_back;                     /* of memory_figures.freed_bytes */
};

/* Where a tenant that is to be made would be; NULL: it cannot be made, and done will say why. */
struct fleet_store *fleet_place_tenant(
        struct fleet *fleet, const struct fleet_create *create, fleet_done_fn done, void *userdata);
/* A tenant that is new: its record, in phase Provisioning, is what is to be written first. */
struct assignment *fleet_assign(struct fleet *fleet, const char *name, const char *datastore, uint64_t quota_bytes,
        bool retain, const char *source, bool from_file);
/* Now, if it waits for its next attempt. */
void fleet_registry_hurry(struct fleet *fleet);
/* It is open no more: tenants are served as they are, and it is opened anew. */
void fleet_registry_lost(struct fleet *fleet, const char *reason);
/* done when the next opening has ended. False: somebody waits already. */
bool fleet_registry_wait(struct fleet *fleet, fleet_done_fn done, void *userdata);
/* The same in phase Installing, by this daemon. */
struct assignment *fleet_assign_installing(
        struct fleet *fleet, const struct fleet_create *create, const struct fleet_store *store);
/* Something has come to rest: looks, at the end of this iteration, whether a start or a stop is complete, and whether a datastore that is leaving
 * can be closed. */
void fleet_settle(struct fleet *fleet);
/* Serving may begin. */
static inline bool fleet_is_running(const struct fleet *fleet) {
        return fleet->stage == FLEET_RUNNING;
}
