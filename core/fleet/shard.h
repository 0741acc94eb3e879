#pragma once

/*
 * A shard: one thread with a loop and a cache of values, on which tenants live. The main thread makes and frees shards, and
 * sends errands to them, which is the only way in.
 */

#include "base/loop.h"
#include "keyspace/keyspace.h"

struct shard {
        unsigned number;
        struct loop *loop;         /* owned */
        struct value_cache *cache; /* owned; the shard's thread only */
        size_t n_tenants;          /* the main thread's count */
};

/* Starts the thread. memory: borrowed. */
int shard_new(unsigned number, size_t cache_bytes, struct memory *memory, struct shard **ret);
/* Stops and joins the thread. All its tenants must be closed. Takes NULL. */
void shard_free(struct shard *shard);
DEFINE_FREEP(shard)

/* Work on another loop's thread that reports back when it is done, which need not be at once. */
struct errand {
        void (*there)(struct errand *errand); /* on the other thread; ends, now or later, with errand_return() */
        void (*back)(struct errand *errand);  /* on the home loop; the errand is freed after it. May be NULL */
        void *userdata;
        int result; /* for the two to use, as the next */
        char reason[256];
        /* The errand's own. */
        struct loop *home;
        struct loop_task task;
};
void errand_send(struct loop *to, struct loop *home, void (*there)(struct errand *errand),
        void (*back)(struct errand *errand), void *userdata);
/* From the other thread. */
void errand_return(struct errand *errand);
