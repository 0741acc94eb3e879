#include "control/operation.h"

/*
 * Running operations and, for those with a key, their answers, in one hash by method and key. Answers that would differ if one asked again (UNAVAILABLE)
 * are not kept. The table is bounded: the oldest answers go first.
 */

#include <stdarg.h>
#include <uthash.h>

#include "control/audit.h"

#define KEEP_NS (3600 * NSEC_PER_SEC)
#define MAX_KEPT 4096
#define MAX_KEY 256

struct operation {
        struct operation_table *table; /* borrowed */
        char *key;                     /* owned: path, newline, key; NULL: none */
        void *body;                    /* owned */
        size_t body_size;
        TAILQ_HEAD(, operation_request) requests;
        struct audit_change *change; /* owned; NULL: changes nothing, or has ended */
        bool ended;
        enum grpc_code code;
        char *message;         /* owned */
        struct blob *response; /* reference */
        uint64_t expires_ns;
        UT_hash_handle hh;
        TAILQ_ENTRY(operation) entry; /* of those that have ended, the oldest first */
};

struct operation_table {
        struct operation *by_key; /* uthash */
        TAILQ_HEAD(, operation) kept;
        size_t n_kept, n_running;
};

struct operation_table *operation_table_new(void) {
        struct operation_table *table = new0(struct operation_table);

        TAILQ_INIT(&table->kept);
        return table;
}

static void operation_free(struct operation *op) {
        if (op->key)
                HASH_DEL(op->table->by_key, op);
        blob_unref(op->response);
        free(op->key);
        free(op->body);
        audit_change_free(op->change);
        free(op->message);
        free(op);
}

static void forget(struct operation_table *table, struct operation *op) {
        TAILQ_REMOVE(&table->kept, op, entry);
        table->n_kept--;
        operation_free(op);
}

void operation_table_free(struct operation_table *table) {
        struct operation *op;

        if (!table)
                return;
        while ((op = TAILQ_FIRST(&table->kept)))
                forget(table, op);
        free(table);
}

static void reply(struct grpc_call *call, const struct operation *op) {
        if (op->code == GRPC_OK)
                grpc_call_reply(call, blob_ref(op->response));
        else
                grpc_call_finish(call, op->code, op->message);
}

static struct operation *find(struct operation_table *table, const char *key) {
        uint64_t now = clock_now_ns();
        struct operation *op;

        while ((op = TAILQ_FIRST(&table->kept)) && (op->expires_ns <= now || table->n_kept > MAX_KEPT))
                forget(table, op);
        HASH_FIND_STR(table->by_key, key, op);
        return op;
}

struct operation *operation_begin(struct operation_table *table, struct operation_request *request,
        struct grpc_call *call, const char *key, struct bytes body) {
        cleanup(freep) char *full = NULL;
        struct operation *op;

        *request = (struct operation_request){.call = call};
        if (strlen(key) > MAX_KEY) {
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "idempotency_key is longer than 256 bytes");
                return NULL;
        }
        if (key[0]) {
                if (asprintf(&full, "%s\n%s", grpc_call_method(call)->path, key) < 0)
                        check(false);
                op = find(table, full);
                if (op && (op->body_size != body.size || memcmp(op->body, body.data, body.size) != 0)) {
                        grpc_call_finish(
                                call, GRPC_INVALID_ARGUMENT, "idempotency_key was used for another request already");
                        return NULL;
                }
                if (op && op->ended) {
                        reply(call, op);
                        return NULL;
                }
                if (op) {
                        request->operation = op;
                        TAILQ_INSERT_TAIL(&op->requests, request, entry);
                        return NULL;
                }
        }

        op = new0(struct operation);
        op->table = table;
        TAILQ_INIT(&op->requests);
        request->operation = op;
        TAILQ_INSERT_TAIL(&op->requests, request, entry);
        if (full) {
                op->body = malloc(body.size ? body.size : 1);
                check(op->body);
                if (body.size)
                        memcpy(op->body, body.data, body.size);
                op->body_size = body.size;
                op->key = steal(full);
                HASH_ADD_KEYPTR(hh, table->by_key, op->key, strlen(op->key), op);
        }
        table->n_running++;
        return op;
}

void operation_leave(struct operation_request *request) {
        if (!request->operation)
                return;
        TAILQ_REMOVE(&request->operation->requests, request, entry);
        request->operation = NULL;
}

void operation_audit_about(struct operation *op, const char *tenant, const char *datastore, const char *format, ...) {
        cleanup(freep) char *what = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&what, format, ap) < 0)
                check(false);
        va_end(ap);
        if (op->change)
                audit_reword(op->change, "%s", what);
        else
                op->change = audit_begin(TAILQ_FIRST(&op->requests)->call, tenant, datastore, "%s", what);
}

static void end(struct operation *op) {
        struct operation_table *table = op->table;
        struct operation_request *request;

        audit_end(steal(op->change), op->code, op->message);
        op->ended = true;
        while ((request = TAILQ_FIRST(&op->requests))) {
                TAILQ_REMOVE(&op->requests, request, entry);
                request->operation = NULL;
                reply(request->call, op);
        }
        table->n_running--;
        if (!op->key || op->code == GRPC_UNAVAILABLE) {
                operation_free(op);
                return;
        }
        op->expires_ns = clock_now_ns() + KEEP_NS;
        TAILQ_INSERT_TAIL(&table->kept, op, entry);
        table->n_kept++;
}

void operation_finish(struct operation *op, struct blob *response) {
        if (!response) {
                operation_fail(op, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
                return;
        }
        op->code = GRPC_OK;
        op->response = response;
        end(op);
}

void operation_fail(struct operation *op, enum grpc_code code, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&op->message, format, ap) < 0)
                check(false);
        va_end(ap);
        op->code = code;
        end(op);
}
