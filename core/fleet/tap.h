#pragma once

/*
 * A tap on a tenant's log: drawn off while the tenant is served, all of it up to one record, which is the last one when it was asked for. On the
 * tenant's shard, beside its keyspace, it pins the log and notes what no record says (the revision compacted at, what leases have left); then
 * it is read.
 *
 * tap_new(), tap_free(): the main thread; tap_there_*(): the shard's; tap_about(): any, once it is open.
 */

#include "base/archive.h"
#include "keyspace/keyspace.h"
#include "keyspace/stream.h"

struct tap;

struct tap_config {
        struct loop *loop;         /* borrowed: the shard's */
        struct keyspace *keyspace; /* borrowed from the tenant, which stays until tap_there_close() */
        struct throttle *throttle; /* borrowed; may be NULL */
        uint8_t cluster[16];
        /* On the shard, once: the log is pinned (0), or cannot be; the reason in words. */
        void (*on_open)(void *userdata, int result, const char *reason);
        /* On the shard, after that: the pin was lost. What is read may be incomplete. */
        void (*on_lost)(void *userdata, const char *reason);
        void *userdata;
};

struct tap *tap_new(const struct tap_config *config);
/* After tap_there_close(), or never opened. Takes NULL. */
void tap_free(struct tap *tap);
DEFINE_FREEP(tap)
void tap_there_open(struct tap *tap);
/* Also when it was not opened, or is not open yet. */
void tap_there_close(struct tap *tap);

struct tap_about {
        struct archive_about archive; /* created, version: not set */
        struct stoke_end end;
        uint64_t bytes;            /* of all records, about */
        struct lease_left *leases; /* borrowed */
        size_t n_leases;
        struct datastore *datastore; /* where the log is */
        uint8_t incarnation[16];
};
const struct tap_about *tap_about(const struct tap *tap);
