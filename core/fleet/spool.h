#pragma once

/*
 * Keys of another etcd, as its lists give them, in order of key, and handed out again in order of revision, as a log wants them. What does
 * not fit into memory is in a file without a name, in the state directory; 16 bytes a key are in memory. One thread, which may
 * wait for the disk: never a loop's that serves anybody.
 */

#include "base/buf.h"
#include "base/error.h"

struct spool;

struct spool_key {
        struct bytes key, value; /* valid until the next function */
        int64_t create_revision, mod_revision, version, lease;
};

/* directory: where the file is made. */
int spool_new(const char *directory, struct spool **ret, struct error *reterr);
void spool_free(struct spool *spool);
DEFINE_FREEP(spool)
int spool_add(struct spool *spool, const struct spool_key *key, struct error *reterr);
/* After the last one: they come in order of mod_revision. */
int spool_sort(struct spool *spool, struct error *reterr);
/* 1: there is one; 0: that was all. */
int spool_next(struct spool *spool, struct spool_key *ret, struct error *reterr);
uint64_t spool_n(const struct spool *spool);
