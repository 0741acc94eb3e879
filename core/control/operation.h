#pragma once

/*
 * An operation: one thing that was asked for, by one or more calls. With an idempotency key the same request joins the operation that runs, or is given its
 * answer for an hour after. Main loop only.
 */

#include <sys/queue.h>

#include "rpc/grpc.h"

struct operation;
struct operation_table;

/* In a call's user memory. */
struct operation_request {
        struct grpc_call *call;      /* borrowed */
        struct operation *operation; /* borrowed; NULL: none, or ended */
        TAILQ_ENTRY(operation_request) entry;
};

struct operation_table *operation_table_new(void);
/* Only when no operation runs any more. */
void operation_table_free(struct operation_table *table);
DEFINE_FREEP(operation_table)

/* Begins an operation for the call, or joins one, or answers the call at once. key: "" is none; body: the request as it came, to tell a key that is used
 * for something else. NULL: the call was answered or has joined, and nothing is to be done. */
struct operation *operation_begin(struct operation_table *table, struct operation_request *request,
        struct grpc_call *call, const char *key, struct bytes body);
/* The call has gone; what it began goes on. */
void operation_leave(struct operation_request *request);
/* For an operation that changes something, at once after its begin, while the call is there: it is in the audit from now on, see audit_begin(). Called
 * again: other words for its end. */
void operation_audit_about(struct operation *op, const char *tenant, const char *datastore, const char *format, ...)
        printf_like(4, 5);
#define operation_audit(op, ...) operation_audit_about((op), NULL, NULL, __VA_ARGS__)
/* Answers all calls; the response is taken over. The operation is not the caller's any more. */
void operation_finish(struct operation *op, struct blob *response);
void operation_fail(struct operation *op, enum grpc_code code, const char *format, ...) printf_like(3, 4);
