#pragma once

/*
 * What this daemon last knew of its tenants' logs: STATE/known.json, so that a log which went back while the daemon was down (a backup was
 * restored, a replica that lagged was promoted) is noticed when it is opened again. What is written lags by seconds, which is harmless: the log
 * that was known then must be the beginning of the one found.
 *
 * And the highest revision that was seen of each name, for whoever restores a tenant that was deleted, or lost with its datastore: its clients may be
 * there still, and must not be told a revision twice. The main thread's.
 */

#include "base/error.h"
#include "keyspace/keyspace.h"

#define KNOWN_GONE_SECONDS ((int64_t)90 * 24 * 3600)

struct known_logs;

/* Reads the file. One that is damaged is told and left aside: nothing is known then. state_dir is copied. */
struct known_logs *known_logs_new(const char *state_dir);
void known_logs_free(struct known_logs *logs);
DEFINE_FREEP(known_logs)
/* Zero if nothing is known of this incarnation since its last recovery (all zero: there was none). */
struct keyspace_known known_logs_get(
        const struct known_logs *logs, const char *name, const uint8_t incarnation[16], const uint8_t recovery[16]);
void known_logs_set(struct known_logs *logs, const char *name, const uint8_t incarnation[16],
        const uint8_t recovery[16], const struct keyspace_known *known);
/* There is no such log any more. The highest revision stays for KNOWN_GONE_SECONDS. */
void known_logs_forget(struct known_logs *logs, const char *name);
/* Of all incarnations that were known by this name; 0: none was. It may lag by seconds, as all that is written here. */
int64_t known_logs_highest(const struct known_logs *logs, const char *name);
/* Writes the file if anything has changed. 0 or -errno with the reason. */
int known_logs_save(struct known_logs *logs, struct error *reterr);
