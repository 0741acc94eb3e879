#include "fleet/shard.h"

/*
 * A shard owns its loop and its cache and nothing else: the tenants on it are known to themselves and to the fleet.
 */

#include <stdio.h>

int shard_new(unsigned number, size_t cache_bytes, struct memory *memory, struct shard **ret) {
        struct shard *shard = new0(struct shard);
        char name[16];
        int r;

        shard->number = number;
        snprintf(name, sizeof(name), "shard-%u", number % 1000);
        r = loop_new(name, &shard->loop);
        if (r < 0)
                goto fail;
        shard->cache = value_cache_new(cache_bytes, memory, shard->loop);
        if (!shard->cache) {
                r = -ENOMEM;
                goto fail;
        }
        loop_track_owners(shard->loop);
        r = loop_start_thread(shard->loop);
        if (r < 0)
                goto fail;
        *ret = shard;
        return 0;
fail:
        value_cache_free(shard->cache);
        loop_free(shard->loop);
        free(shard);
        return r;
}

void shard_free(struct shard *shard) {
        if (!shard)
                return;
        loop_stop(shard->loop);
        loop_join(shard->loop);
        value_cache_free(shard->cache);
        loop_free(shard->loop);
        free(shard);
}

static void on_there(struct loop_task *task) {
        struct errand *errand = container_of(task, struct errand, task);

        errand->there(errand);
}

static void on_back(struct loop_task *task) {
        struct errand *errand = container_of(task, struct errand, task);

        if (errand->back)
                errand->back(errand);
        free(errand);
}

void errand_send(struct loop *to, struct loop *home, void (*there)(struct errand *errand),
        void (*back)(struct errand *errand), void *userdata) {
        struct errand *errand = new0(struct errand);

        errand->there = there;
        errand->back = back;
        errand->userdata = userdata;
        errand->home = home;
        errand->task.run = on_there;
        loop_post(to, &errand->task);
}

void errand_return(struct errand *errand) {
        errand->task = (struct loop_task){.run = on_back};
        loop_post(errand->home, &errand->task);
}
