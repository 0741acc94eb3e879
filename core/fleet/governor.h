#pragma once

/*
 * The governor of a datastore that several daemons may share: a keyspace of one name and incarnation everywhere, whose log says which registry governs
 * the datastore. Since making it changes nothing where it is, and appending compares the log's end, daemons that come at the same moment
 * agree on what it says, whoever was first, without knowing of each other.
 *
 * It has one key, and its last record is what holds. Read and written by direct calls of the driver, on a worker's thread: it is there before
 * there is a registry, is looked at every half minute, and changes once in a datastore's life.
 */

#include <string.h>

#include <stokehold/driver.h>

#include "base/macro.h"

#define GOVERNOR_KEYSPACE "stokehold-governor"
extern const uint8_t governor_incarnation[16];

struct governor_record {
        uint8_t id[16];          /* of the registry */
        uint8_t incarnation[16]; /* of the registry's keyspace */
        bool home;               /* the registry's keyspace is in this datastore */
        bool created;            /* home: the keyspace has been made */
};

enum governor_deed {
        GOVERNOR_ASK,     /* nothing is written */
        GOVERNOR_SETTLE,  /* `wanted` is written where nobody governs yet */
        GOVERNOR_CREATED, /* `wanted` is written where it differs from what is there in `created` alone */
        GOVERNOR_CLAIM,   /* `wanted` is written, whoever governs */
};

struct governor {
        /* Asked. */
        uint8_t daemon[16];
        enum governor_deed deed;
        struct governor_record wanted;
        /* Found, or written: as it stands now. */
        bool is_governed;
        struct governor_record found;
        bool wrote; /* by this call */
};

/* Both on a worker's thread. 0; a negative errno with the reason in the call: it may be repeated, with the same `wanted`.
 * Makes the keyspace where it is not there; with a session of the datastore's own. */
int governor_create(const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call,
        const uint8_t daemon[16]);
/* With a session for the keyspace. -ENOENT: it is not there. */
int governor_run(const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call,
        struct governor *governor);
void governor_keyspace(struct stoke_keyspace *ret);

static inline bool governor_same_registry(const struct governor_record *a, const struct governor_record *b) {
        return memcmp(a->id, b->id, 16) == 0 && memcmp(a->incarnation, b->incarnation, 16) == 0;
}
