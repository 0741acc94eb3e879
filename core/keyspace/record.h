#pragma once

/*
 * What the records of a keyspace's log mean: their kinds, and their hash. Drivers carry both without knowing. Any thread.
 *
 * What must be known without reading values is never in the value: an internal record keeps its figures in the numbers.
 */

#include <stokehold/driver.h>

#include "base/buf.h"

/* Stored: never change a number. */
enum record_kind {
        RECORD_CREATED = 1,   /* the first of a log */
        RECORD_NOOP = 2,      /* closes the question whether an append of unknown outcome may still land */
        RECORD_LEASE = 3,     /* lease: its id; version: TTL granted, seconds */
        RECORD_KEEPALIVE = 4, /* lease */
        RECORD_REVOKE =
                5, /* lease has ended. With its keys' tombstones: RECORD_REVOKE | STOKE_KIND_GROUPED, before them */
        RECORD_MARK =
                6, /* create_revision: the revision compacted at; version: 1: a pin stood, the deletions of the mark before are not complete */
        RECORD_INSTALLED =
                7, /* key: the id of the migration, restore, clone or import that ends here; lifts a seal before it */
        RECORD_ALARM = 8,     /* lease: the member's id; create_revision: the type; version: 1 raised, 0 disarmed */
        RECORD_RECOVERED = 9, /* key: the recovery's id. revision: from here on; all below was given up */
        /* The log goes on elsewhere, or will. Nothing but an UNSEAL is appended behind it; the last of SEAL, UNSEAL of the same id, INSTALLED
         * decides. Neither is ever deleted: an id that was unsealed can never seal again. */
        RECORD_SEAL = 10,   /* key: the migration's id; value: where to, for people */
        RECORD_UNSEAL = 11, /* key: the migration's id; of another id than the seal's it has no effect */
        RECORD_PIN =
                12, /* lease: the pin's id; version: TTL, seconds, 0: given up. Nothing is deleted while it stands */
        /* lease; version: milliseconds it has left when this is read, unless it was kept alive behind it. What a log that was restored or cloned
         * says of a lease's time, which its grant does not know. */
        RECORD_LEASE_LEFT = 13,
        RECORD_PUT = STOKE_KIND_GROUPED | 1,
        RECORD_TOMBSTONE = STOKE_KIND_GROUPED | 2, /* create_revision and version are 0 */
        RECORD_REVOKE_GROUPED = STOKE_KIND_GROUPED | RECORD_REVOKE,
};

/* XXH3 over seq, revision, kind, the numbers, key and value, but not the origin: a record that is installed elsewhere keeps its hash. */
uint64_t record_hash(const struct stoke_record *record);

/* A number that a name stands for. */
uint64_t hash_name(const char *name, uint64_t seed);

static inline bool origin_equal(const struct stoke_origin *a, const struct stoke_origin *b) {
        return a->batch == b->batch && memcmp(a->daemon, b->daemon, sizeof(a->daemon)) == 0;
}
static inline bool end_equal(const struct stoke_end *a, const struct stoke_end *b) {
        return a->seq == b->seq && origin_equal(&a->origin, &b->origin);
}
