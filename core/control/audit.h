#pragma once

/*
 * The audit: a line in the log for each change that is asked for through the control socket, when it begins and when it has ended, and for each
 * attempt that is refused: who, what, on which object, with what result. Written whatever the log level is. Never values or credentials. Main loop only.
 */

#include "rpc/grpc.h"

/* A change that was asked for, from its begin to its end. */
struct audit_change;

/* Writes that it has begun. tenant, datastore: what it is about, copied; NULL: none; may be whatever a client has sent. The words say what is changed,
 * without who and how it ends. */
struct audit_change *audit_begin(
        struct grpc_call *call, const char *tenant, const char *datastore, const char *format, ...) printf_like(4, 5);
/* Other words for its end, which say more. */
void audit_reword(struct audit_change *change, const char *format, ...) printf_like(2, 3);
/* Writes its end, and frees it; NULL is fine. message: why not, if the code is not GRPC_OK. */
void audit_end(struct audit_change *change, enum grpc_code code, const char *message);
/* Frees what has not ended. */
void audit_change_free(struct audit_change *change);

/* Refused attempts cost whoever makes them nothing, so only so many a second are written, and then how many were not. */
struct audit_refusals {
        uint64_t since_ns;
        unsigned n_written, n_left_out;
};
/* method: its path, or what was refused otherwise. */
void audit_refused(struct audit_refusals *refusals, const struct grpc_peer *peer, const char *method, const char *why);
