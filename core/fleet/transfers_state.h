#pragma once

/* The inside of the transfers of a fleet, shared by transfers.c and transfers_import.c, and by nobody else. Main loop only. */

#include "fleet/state.h"
#include "fleet/transfers.h"

enum transfer_stage {
        STAGE_BEGINNING, /* the tenant is being recorded */
        STAGE_RUNNING,
        STAGE_SERVING,   /* an import: committed, it is being served */
        STAGE_COMPARING, /* and then compared */
        STAGE_REMOVING,  /* failed: what there is of it goes */
        STAGE_ENDED,
};

struct ending {
        fleet_done_fn done;
        void *userdata;
        bool tells_trouble; /* also answered where it could not finish */
        STAILQ_ENTRY(ending) entry;
};

struct fleet_transfer {
        struct fleet *fleet; /* borrowed */
        char *tenant;        /* owned */
        bool is_import;
        enum transfer_stage stage;
        struct transfer *transfer; /* owned; NULL: none runs */
        struct transfer_status last;
        int result;
        char *reason; /* owned; NULL: none */
        int64_t started, finished;
        bool stopped; /* by request */
        struct loop_timer trouble_timer;
        struct import_request *request; /* owned: of an import, as long as it is needed; NULL: not */
        struct installing installing;
        STAILQ_HEAD(, ending) endings;
        LIST_ENTRY(fleet_transfer) entry;
};

/* transfers.c */
/* One that begins, on the fleet's list; NULL: the tenant has one under way, and done says so. */
struct fleet_transfer *transfers_enter(
        struct fleet *fleet, const char *tenant, bool is_import, fleet_done_fn done, void *userdata);
/* It was never begun. */
void transfers_forget(struct fleet_transfer *t);
/* It has ended, and whoever waits hears so. */
void transfers_end(struct fleet_transfer *t, int result, const char *reason);
/* The thread has gone. The reason is the transfer's until here, and then the caller's. */
char *transfers_drop_thread(struct fleet_transfer *t, const char *reason);
void transfers_fill_config(
        struct transfer_config *config, struct fleet_transfer *t, const struct fleet_transfer_request *r);
struct transfer_end transfers_end_of(const struct fleet_transfer_request *r);

/* transfers_import.c */
void import_request_free(struct import_request *request);
