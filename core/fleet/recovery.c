#include "fleet/state.h"

/*
 * The recovery of a tenant whose history was lost, as an operator accepted it: its log is opened once, apart from its endpoint, is taken
 * as it is, and continued above every revision that was served. The registry's record says so before (its phase, the recovery's id), so that
 * whoever starts after a crash does it, or finds it done. One object on the shard, from the errand's arrival to its return.
 */

#include "base/log.h"

#define RECOVERY_TIMEOUT_NS (600 * NSEC_PER_SEC)

struct recovery {
        struct errand *errand;     /* borrowed: it waits for the end */
        struct keyspace *keyspace; /* owned */
        struct keyspace_call barrier;
        struct arena arena;
        struct loop_task free_task;
        struct loop *loop;
};

static void on_free(struct loop_task *task) {
        struct recovery *r = container_of(task, struct recovery, free_task);
        struct errand *errand = r->errand;

        keyspace_free(r->keyspace);
        arena_done(&r->arena);
        free(r);
        errand_return(errand);
}

static void on_closed(void *userdata) {
        struct recovery *r = userdata;

        r->free_task.run = on_free;
        loop_defer(r->loop, &r->free_task);
}

static void on_open(struct keyspace_call *call, enum keyspace_result result) {
        struct recovery *r = container_of(call, struct recovery, barrier);

        if (result != KEYSPACE_OK) {
                struct keyspace_status status;

                keyspace_get_status(r->keyspace, &status);
                r->errand->result = -EAGAIN;
                snprintf(r->errand->reason, sizeof(r->errand->reason), "%.200s",
                        status.reason[0] ? status.reason : "the datastore did not answer in time");
        }
        keyspace_close(r->keyspace, on_closed, r);
}

void recovery_there(struct errand *errand) {
        struct assignment *a = errand->userdata;
        struct recovery *r = new0(struct recovery);
        struct keyspace_config config = {
                .name = a->name,
                .datastore = a->store->ds,
                .loop = a->shard->loop,
                .cache = a->shard->cache,
                .recover_above = a->record->recover_above,
        };
        int k;

        r->errand = errand;
        r->loop = a->shard->loop;
        arena_init(&r->arena, 0);
        memcpy(config.incarnation, a->record->incarnation, 16);
        memcpy(config.daemon, a->fleet->config.daemon, 16);
        memcpy(config.recovery, a->record->recovery, 16);
        k = keyspace_new(&config, &r->keyspace);
        if (k < 0) {
                errand->result = k;
                snprintf(errand->reason, sizeof(errand->reason), "%s", strerror(-k));
                r->free_task.run = on_free;
                loop_defer(r->loop, &r->free_task);
                return;
        }
        r->barrier = (struct keyspace_call){
                .done = on_open, .deadline_ns = clock_now_ns() + RECOVERY_TIMEOUT_NS, .arena = &r->arena};
        keyspace_barrier(r->keyspace, &r->barrier);
}
