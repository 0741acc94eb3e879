#pragma once

/*
 * The inside of the port that all tenants share: endpoint.c (what is in force, the door), endpoint_plan.c (what is to be), admission.c (who comes through it),
 * refusal.c (who cannot be served). Nobody else includes it. Main thread, but for what says otherwise.
 */

#include "fleet/endpoint.h"
#include "fleet/refusal.h"
#include "fleet/tls_part.h"
#include "fleet/tls_rules.h"
#include "rpc/door.h"

/* A client that was let in, on its way to its tenant. */
struct arrival {
        struct loop_task task;
        struct endpoint *endpoint;   /* borrowed */
        struct transport *transport; /* owned */
        uint64_t due_ns;             /* until when it waits for its tenant */
        /* On its way to the shard. */
        struct tenant *tenant;
        uint32_t owner;
        STAILQ_ENTRY(arrival) entry;
};

struct endpoint {
        struct fleet *fleet; /* borrowed */
        bool stopped;

        struct tls_part *server;  /* owned */
        struct tls_part **others; /* owned: authorities */
        size_t n_others;
        struct loop_watch **watches; /* owned: of the directories that they are in */
        char **watched;              /* owned: these, in the same order */
        size_t n_watched;

        struct tls_server *policy; /* ref: in force; NULL: none yet */
        uint64_t policy_hash;
        char *policy_trouble; /* owned: why what was read last is not; NULL: it is */
        struct tls_rules rules;
        struct buf warnings; /* of the policy, with a NUL */

        struct door *door;  /* owned; NULL: not open */
        int listen_fd;      /* owned, until the door has it */
        char *door_trouble; /* owned: why it is not open; NULL */
        char **urls;        /* owned */
        size_t n_urls;
        uint64_t urls_generation; /* grows when they change */

        struct loop_task changed_task;
        struct loop_timer soon_timer, poll_timer;

        STAILQ_HEAD(, arrival) waiting;
        size_t n_waiting;
        struct loop_timer waiting_timer;
        struct refusal *refusal; /* owned */
};

/* endpoint_plan.c */
struct plan {
        struct tls_authority *authorities; /* owned, their bytes are the parts' */
        size_t n_authorities;
        struct tls_tenant *tenants; /* owned, their names are borrowed */
        size_t n_tenants;
        struct assignment **assignments; /* owned, in the same order */
        struct tls_rules rules;
};
/* Reads our own certificate and watches it; all that was watched before is not any more. */
void endpoint_read_server(struct endpoint *e);
void endpoint_unwatch(struct endpoint *e);
/* Reads all the rest, which needs a good certificate of ours. */
void plan_make(struct endpoint *e, struct plan *plan);
void plan_done(struct plan *plan);
/* Equal plans have equal ones. */
uint64_t plan_hash(const struct endpoint *e, const struct plan *plan);
/* Those that no plan has read since. Not while a plan is in use. */
void endpoint_forget_unwanted(struct endpoint *e);

/* admission.c */
/* door_config.on_admitted, with the struct endpoint; on the door's threads. */
void admission_on_admitted(void *userdata, const char *label, struct transport *transport);
/* Tries again those who wait. */
void admission_go(struct endpoint *e);
void admission_stop(struct endpoint *e);
