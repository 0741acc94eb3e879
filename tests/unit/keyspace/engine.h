#pragma once

/*
 * For the tests of the engine: keyspaces over a driver's store, and calls that wait for their answer by running the loop.
 * Each engine is for one thread.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "keyspace/keyspace.h"

struct engine {
        struct loop *loop;
        struct plugin plugin;
        struct datastore *datastore;
        struct value_cache *cache;
        uint8_t incarnation[16];
        char directory[64];            /* SQLite */
        uint64_t auto_compact_ns;      /* of keyspaces made from now on */
        uint64_t quota_bytes;          /* likewise */
        uint64_t idle_close_ns;        /* likewise */
        struct keyspace_limits limits; /* likewise */
        struct keyspace_known known;   /* likewise, as the next two */
        uint8_t recovery[16];
        int64_t recover_above;
        void (*on_sealed)(void *userdata, const uint8_t id[16]);
        void *userdata;        /* its */
        struct memory *memory; /* borrowed; set before engine_open(); NULL: no budget */
        unsigned n_open;       /* keyspaces; a failed assertion leaves them so */
};

/* driver: the store's; settings: NULL-ended pairs of name and value. Creates keyspace "t". */
void engine_open(struct engine *e, const struct stoke_driver *driver, const char *const *settings, size_t cache_bytes);
void engine_close(struct engine *e);
/* A further datastore, on the same loop: for what moves. plugin: NULL: the same driver. Closed by the caller, before engine_close(). */
struct datastore *engine_datastore(struct engine *e, const struct plugin *plugin, const char *const *settings);
/* Another daemon's view of the same keyspace, on the same store. */
struct keyspace *engine_keyspace(struct engine *e, uint8_t daemon);
/* Further keyspaces beside "t". */
void engine_create(struct engine *e, const char *name);
struct keyspace *engine_keyspace_named(struct engine *e, const char *name, uint8_t daemon);
void engine_keyspace_close(struct engine *e, struct keyspace *ks);
/* Runs the loop for a time, or until *flag. */
void engine_run(struct engine *e, uint64_t ms, bool *flag);

struct answer {
        enum keyspace_result result;
        int64_t revision;
        bool succeeded;
        int64_t count;
        bool more;
        int64_t deleted;
        size_t n_kvs;
        struct {
                char key[64], value[64];
                int64_t create, mod, version, lease;
        } kvs[64]; /* the first of them; of a put or delete: the previous ones */
};

struct answer engine_txn(struct engine *e, struct keyspace *ks, const struct txn *txn);
struct answer engine_put(struct engine *e, struct keyspace *ks, const char *key, const char *value);
struct answer engine_put_lease(
        struct engine *e, struct keyspace *ks, const char *key, const char *value, int64_t lease);
/* end NULL: the one key. */
struct answer engine_delete(struct engine *e, struct keyspace *ks, const char *key, const char *end);
/* As Kubernetes creates (mod 0) and updates. */
struct answer engine_put_if(struct engine *e, struct keyspace *ks, const char *key, int64_t mod, const char *value);
struct answer engine_range(struct engine *e, struct keyspace *ks, const struct range_request *request);
struct answer engine_get(struct engine *e, struct keyspace *ks, const char *key);
struct answer engine_list(struct engine *e, struct keyspace *ks, const char *prefix, int64_t revision, int64_t limit);
/* The lease's id is the caller's. */
enum keyspace_result engine_grant(struct engine *e, struct keyspace *ks, int64_t id, int64_t ttl);
enum keyspace_result engine_revoke(struct engine *e, struct keyspace *ks, int64_t id);
enum keyspace_result engine_keep_alive(struct engine *e, struct keyspace *ks, int64_t id);
enum keyspace_result engine_compact(struct engine *e, struct keyspace *ks, int64_t revision);
/* Puts n keys PREFIX00000…, 1,000 a transaction, each with itself as its value. */
void engine_fill(struct engine *e, struct keyspace *ks, const char *prefix, size_t n);
struct key_range engine_prefix(const char *prefix, char *end, size_t size);

/* Records what a watcher is told, as text: "put k=v", "delete k", each with "(prev v)"; "created", "synced", "cancelled". */
struct recorder {
        struct watcher *watcher;
        char text[1 << 16];
        size_t size;
        size_t n_events;
        int64_t revision; /* of the last call */
        bool cancelled, created, synced;
        enum keyspace_result result;
        int64_t compact_revision;
        bool prev; /* it asked for previous values */
        bool slow; /* pauses after each call */
};
void engine_watch(
        struct engine *e, struct keyspace *ks, struct recorder *r, const char *prefix, int64_t start, bool prev);
