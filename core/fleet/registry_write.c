#include "fleet/registry_state.h"

/*
 * Writing. A write is one transaction under conditions, mostly that the key is as it was last seen. Where its outcome was not known it is repeated by
 * its owner; that it had landed the first time is then seen from the key itself, which is answered in the transaction's other branch.
 */

#include <string.h>

#define WRITE_TIMEOUT_NS (10 * NSEC_PER_SEC)

/* ---- any key */

static void put_end(struct registry_put *p, int result, const char *reason) {
        struct arena arena = p->own.arena;

        p->own.arena = (struct arena){};
        p->done(p, result, reason);
        arena_done(&arena);
}

static void on_put_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry_put *p = container_of(container_of(call, struct txn_call, call), struct registry_put, own.call);
        cleanup(blob_unrefp) struct blob *value = NULL;
        const struct op_result *get;
        bool landed;

        p->current = (struct bytes){};
        p->mod_revision = 0;
        if (result != KEYSPACE_OK) {
                struct keyspace_status status;

                keyspace_get_status(p->own.registry->keyspace, &status);
                put_end(p, registry_result_errno(result),
                        status.reason && status.reason[0] && result != KEYSPACE_LEASE_NOT_FOUND
                                ? status.reason
                                : registry_result_text(result));
                return;
        }
        if (p->own.call.result.succeeded) {
                p->mod_revision = p->value ? call->revision : 0;
                txn_result_release(&p->own.call);
                put_end(p, 0, "");
                return;
        }

        /* Changed by somebody: by ourselves, if it is what we wanted. The value outlives p, which may be gone or used again after done. */
        get = &p->own.call.result.results[0];
        if (get->range.n_kvs == 1) {
                p->mod_revision = get->range.kvs[0].mod_revision;
                value = get->range.kvs[0].value ? blob_ref(get->range.kvs[0].value) : NULL;
                p->current = value ? blob_bytes(value) : bytes_of("", 0);
        }
        landed = p->value ? get->range.n_kvs == 1 && bytes_equal(p->current, bytes_of_string(p->value))
                          : get->range.n_kvs == 0;
        txn_result_release(&p->own.call);
        put_end(p, landed ? 0 : -ESTALE, landed ? "" : "it was changed by somebody else");
}

void registry_put(struct registry *r, struct registry_put *p) {
        struct bytes key = bytes_of_string(p->key);

        check(r->keyspace);
        p->own.registry = r;
        arena_init(&p->own.arena, 0);
        if (p->value) {
                p->own.put = (struct txn_op){.kind = OP_PUT};
                p->own.put.put.key = key;
                p->own.put.put.value = bytes_of_string(p->value);
                p->own.put.put.lease = p->lease;
        } else {
                p->own.put = (struct txn_op){.kind = OP_DELETE};
                p->own.put.delete.range.key = key;
        }
        p->own.get = (struct txn_op){.kind = OP_RANGE};
        p->own.get.range.range.key = key;
        p->own.txn = (struct txn){.compares = p->conditions,
                .n_compares = p->n_conditions,
                .success = &p->own.put,
                .n_success = 1,
                .failure = &p->own.get,
                .n_failure = 1};
        p->own.call = (struct txn_call){
                .call = {.done = on_put_done, .deadline_ns = clock_now_ns() + WRITE_TIMEOUT_NS, .arena = &p->own.arena},
                .txn = &p->own.txn,
        };
        keyspace_txn(r->keyspace, &p->own.call);
}

/* ---- a tenant's record */

static void on_written(struct registry_put *p, int result, const char *reason) {
        struct registry_write *w = container_of(p, struct registry_write, own.put);
        cleanup(error_done) struct error err = {};

        w->newer = NULL;
        w->unreadable = false;
        if (result == 0)
                w->record->mod_revision = p->mod_revision;
        else if (result == -ESTALE && p->current.data) {
                if (registry_record_parse(bytes_of_string(w->record->name), p->current, &w->own.registry->formats,
                            &w->newer, &err) < 0)
                        w->unreadable = true;
                else
                        w->newer->mod_revision = p->mod_revision;
        }
        free(w->own.key);
        free(w->own.json);
        w->own.key = w->own.json = NULL;
        w->done(w, result, reason);
}

void registry_write(struct registry *r, struct registry_write *w) {
        w->own.registry = r;
        check(asprintf(&w->own.key, REGISTRY_TENANTS "%s", w->record->name) > 0);
        w->own.json = w->remove ? NULL : registry_record_print(w->record, r->format);
        w->own.compare = (struct compare){.result = COMPARE_EQUAL,
                .target = COMPARE_MOD,
                .range = {.key = bytes_of_string(w->own.key)},
                .number = w->record->mod_revision};
        w->own.put = (struct registry_put){.key = w->own.key,
                .value = w->own.json,
                .conditions = &w->own.compare,
                .n_conditions = 1,
                .done = on_written};
        registry_put(r, &w->own.put);
}
