#pragma once

/*
 * The audit: a line in the log for each change that is asked for through the control socket, when it begins and when it has ended, and for each
 * attempt that is refused: who, what, on which object, with what result. Written whatever the log level is. Never values or credentials. Main loop only.
 */

#include "rpc/grpc.h"

/* Who asked, as it was then: a process may have gone, and its number been given to another, before the line is written. */
struct audit_who {
        char *peer;      /* owned, as in other lines */
        char *uid, *pid; /* owned; NULL: not on a Unix socket */
        char *user;      /* owned; NULL: /etc/passwd has none */
        char *command;   /* owned; NULL: /proc does not tell (of others' processes, where it is mounted with hidepid) */
};

struct audit_event {
        const char *what;      /* "begun", "done", "failed", "refused" */
        const char *method;    /* its path */
        const char *tenant;    /* NULL: none; may be anything that a client sent */
        const char *datastore; /* NULL: none */
        enum grpc_code code;
};

void audit_who_init(struct audit_who *who, const struct grpc_peer *peer);
void audit_who_done(struct audit_who *who);

void audit(const struct audit_who *who, const struct audit_event *event, const char *format, ...) printf_like(3, 4);

/* Refused attempts cost whoever makes them nothing, so only so many a second are written, and then how many were not. */
struct audit_refusals {
        uint64_t since_ns;
        unsigned n_written, n_left_out;
};
void audit_refused(struct audit_refusals *refusals, const struct grpc_peer *peer, const char *method, const char *why);
