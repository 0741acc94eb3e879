#pragma once

/*
 * The values of a shard's keyspaces, as far as they fit: a cache by keyspace and seq, bounded in bytes for the whole shard,
 * with the clock's second chance. What is evicted while somebody holds a reference lives until that is dropped.
 *
 * What is not here is fetched from the datastore: struct fetch, one after the other in pieces that the driver takes.
 * The shard's loop only.
 */

#include <uthash.h>

#include "keyspace/index.h"
#include "keyspace/keyspace.h"

struct cached_value;

/* A keyspace's own part of the cache. */
struct values {
        struct value_cache *cache;  /* borrowed */
        struct cached_value *table; /* owned, uthash by seq */
};

void values_init(struct values *values, struct value_cache *cache);
void values_done(struct values *values);
/* A new reference; NULL: not here. */
struct blob *values_get(struct values *values, uint64_t seq);
/* Takes a reference of its own. Replaces nothing. */
void values_put(struct values *values, uint64_t seq, struct blob *blob);
/* The value of the entry's newest version, likewise; found without the table after the first time. */
struct blob *values_get_last(struct values *values, struct key_entry *entry);
/* Before the entry gets another newest version, or goes. */
void values_unlink(struct key_entry *entry);
/* Before all entries go. */
void values_unlink_all(struct values *values);
void values_drop(struct values *values, uint64_t seq);
/* Drops about n, whichever they are; true: none is left. */
bool values_drop_some(struct values *values, size_t n);

/* Values that are to be read; owned by whoever asked, alive until done was called or fetch_cancel() returned. */
struct fetch {
        uint64_t *seqs;      /* owned, ascending; as many blobs */
        struct blob **blobs; /* owned, one reference each; NULL: there is no such record */
        size_t n, capacity;
        void (*done)(struct fetch *fetch,
                int result);        /* 0, or negative errno: nothing was read then; outcomes of driver.values */
        struct keyspace_call *call; /* that it is for; its user's */
        struct fetch_job *job;      /* under way */
};

void fetch_add(struct fetch *fetch, uint64_t seq);
/* Sorts, drops doubles, asks. ks->values takes what has come, too. */
void fetch_start(struct keyspace *ks, struct fetch *fetch, uint64_t deadline_ns);
/* A job of a fetch that waited while the keyspace went elsewhere: it is there. */
void fetch_job_go_on(struct datastore_job *job);
/* A reference to what was read; NULL: no such. */
struct blob *fetch_get(const struct fetch *fetch, uint64_t seq);
/* Lets go: done is not called any more. Frees what it holds; the structure may be used again. */
void fetch_done(struct fetch *fetch);
