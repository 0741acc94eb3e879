#pragma once

/*
 * The imports and exports of this daemon (fleet/transfer.h): one a tenant. What has ended is remembered until the tenant has another, or the daemon
 * ends. Main loop only; results as in fleet.h.
 */

#include "fleet/fleet.h"
#include "fleet/transfer.h"

struct fleet_transfer_request {
        const char *name;
        const char *const *endpoints; /* https://HOST:PORT, http://HOST:PORT, unix:///PATH */
        size_t n_endpoints;
        struct bytes authorities, certificate, key; /* PEM, or empty */
        const char *server_name;                    /* "": the endpoint's */
        struct bytes prefix;                        /* empty: all */
        bool has_new_prefix;
        struct bytes new_prefix;
        bool finish;                       /* the source is not written to any more: ends as soon as all is carried */
        bool overwrite;                    /* an export: what is at the target goes */
        const struct fleet_create *create; /* an import: the new tenant */
};
/* done when it has begun. */
void fleet_import_tenant(
        struct fleet *fleet, const struct fleet_transfer_request *request, fleet_done_fn done, void *userdata);
void fleet_export_tenant(
        struct fleet *fleet, const struct fleet_transfer_request *request, fleet_done_fn done, void *userdata);
/* done when it has ended: 0, or (-ECANCELED) failed with the reason; -EBUSY: the source is still written to, and it goes on. */
void fleet_finish_transfer(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/* Nothing is left of an import; an export leaves what was carried. done when it has ended. */
void fleet_abort_transfer(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);
/* done when it has ended, however; as of fleet_finish_transfer(). */
void fleet_wait_for_transfer(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata);

struct fleet_transfer_view {
        const char *tenant;
        bool is_import, ended;
        const char *phase;  /* "Beginning", those of transfer.h, "Comparing", "Done", "Failed" */
        const char *reason; /* Failed: why; also why it did not finish when it was told to; "" */
        const struct transfer_status *status;
        int64_t started, finished; /* seconds since 1970 */
};
void fleet_each_transfer(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_transfer_view *view), void *userdata);
/* False: there is none. */
bool fleet_find_transfer(struct fleet *fleet, const char *name,
        void (*visit)(void *userdata, const struct fleet_transfer_view *view), void *userdata);
