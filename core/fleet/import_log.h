#pragma once

/*
 * What an etcd tells, as records of a log: keys in order of revision, leases, a mark below which there is no history, and then events. Pure: its
 * records go to a function of the owner's. One thread.
 */

#include <stokehold/driver.h>

#include "base/buf.h"
#include "base/error.h"
#include "fleet/spool.h"

struct import_log;

struct import_log_config {
        uint8_t daemon[16];
        /* The next record. What it points to is valid during the function. */
        int (*on_record)(void *userdata, const struct stoke_record *record, struct error *reterr);
        /* A lease that a key has and that was not told of: its time in seconds; 0: there is none, the key stays without. */
        int (*on_unknown_lease)(void *userdata, int64_t id, int64_t *ret_ttl, struct error *reterr);
        void *userdata;
};
int import_log_new(const struct import_log_config *config, struct import_log **ret);
void import_log_free(struct import_log *log);
DEFINE_FREEP(import_log)

/* ttl: as granted, seconds. */
int import_log_lease(struct import_log *log, int64_t id, int64_t ttl, struct error *reterr);
/* In order of mod_revision. -EBADMSG: a revision that goes back. */
int import_log_put(struct import_log *log, const struct spool_key *key, struct error *reterr);
int import_log_delete(struct import_log *log, struct bytes key, int64_t mod_revision, struct error *reterr);
/* There is no history below this revision, which is the log's from here on. */
int import_log_mark(struct import_log *log, int64_t revision, struct error *reterr);
/* The log's revision is at least this one from here on: the source's, where it is moved by what is not imported. */
int import_log_advance(struct import_log *log, int64_t revision, struct error *reterr);
bool import_log_has_lease(const struct import_log *log, int64_t id);
uint64_t import_log_seq(const struct import_log *log);
int64_t import_log_revision(const struct import_log *log);
uint64_t import_log_n_leases(const struct import_log *log);
