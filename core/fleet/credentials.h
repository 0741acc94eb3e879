#pragma once

/*
 * Client certificates that the daemon issues with tls.authority, for `stokectl tenant credentials`. The client makes its key itself and shows a request:
 * no private key but the authority's ever comes here. That one is read from its file for each certificate and wiped, so that it is as new
 * as the file, and in no core dump. Main loop only; blocks for two small files.
 */

#include "fleet/fleet.h"

struct fleet_issue {
        const char *tenant;
        const char *request; /* PEM */
        unsigned days;       /* 0: as the settings say */
};

/* All owned. */
struct fleet_credentials {
        char *certificate;      /* PEM, with what stands between it and the root */
        char *server_authority; /* PEM: by what clients know the daemon; "": not known */
        char *name;             /* by which it leads to its tenant, "URI:…" */
        char *serial;           /* hexadecimal */
        int64_t not_after;      /* seconds since 1970 */
        bool is_shortened;      /* by the authority's own end */
};

/* -ENOENT: no such tenant; -EINVAL: the request; -EBUSY: it cannot be done as things are (no authority, or one that is refused; the tenant is being
 * deleted). With the reason. */
int fleet_issue_credentials(
        struct fleet *fleet, const struct fleet_issue *issue, struct fleet_credentials *ret, struct error *reterr);
void fleet_credentials_done(struct fleet_credentials *credentials);

/* Whether certificates can be issued, where tls.authority is set. -EPERM and others with the reason. Any thread. */
int credentials_can_issue(const struct settings *settings, struct error *reterr);
/* What is wrong with tls.authority, or will be within 30 days; a line each. */
void credentials_problems(
        const struct settings *settings, void (*visit)(void *userdata, const char *line), void *userdata);
