#include "fleet/registry_state.h"

/*
 * A tenant's record as it is now, wherever it was written: behind a barrier, for those who must not act on what was true a moment ago.
 */

#include <string.h>

#define READ_TIMEOUT_NS (10 * NSEC_PER_SEC)

static void end(struct registry_read *rd, int result, const char *reason) {
        struct arena arena = rd->own.arena;
        char *key = steal(rd->own.key);

        rd->own.arena = (struct arena){};
        rd->done(rd, result, reason);
        arena_done(&arena);
        free(key);
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry_read *rd =
                container_of(container_of(call, struct txn_call, call), struct registry_read, own.call);
        cleanup(error_done) struct error err = {};
        const struct op_result *get;
        int r = 0;

        rd->record = NULL;
        rd->revision = call->revision;
        if (result != KEYSPACE_OK) {
                end(rd, registry_result_errno(result), registry_result_text(result));
                return;
        }
        get = &rd->own.call.result.results[0];
        if (get->range.n_kvs == 1) {
                struct bytes json = get->range.kvs[0].value ? blob_bytes(get->range.kvs[0].value) : bytes_of("", 0);

                r = registry_record_parse(
                        bytes_of_string(rd->name), json, &rd->own.registry->formats, &rd->record, &err);
                if (r == 0)
                        rd->record->mod_revision = get->range.kvs[0].mod_revision;
        }
        txn_result_release(&rd->own.call);
        end(rd, r, r < 0 ? error_text(&err) : "");
}

void registry_read(struct registry *r, struct registry_read *rd) {
        check(r->keyspace);
        rd->own.registry = r;
        arena_init(&rd->own.arena, 0);
        check(asprintf(&rd->own.key, REGISTRY_TENANTS "%s", rd->name) > 0);
        rd->own.get = (struct txn_op){.kind = OP_RANGE};
        rd->own.get.range.range.key = bytes_of_string(rd->own.key);
        rd->own.txn = (struct txn){.success = &rd->own.get, .n_success = 1};
        rd->own.call = (struct txn_call){
                .call = {.done = on_done, .deadline_ns = clock_now_ns() + READ_TIMEOUT_NS, .arena = &rd->own.arena},
                .txn = &rd->own.txn,
        };
        keyspace_txn(r->keyspace, &rd->own.call);
}
