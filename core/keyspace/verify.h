#pragma once

/*
 * Verifies a copy against what a keyspace knows: reads an installation back from its datastore, without values, and compares it with the
 * index: each version that a reader could see (living, or history since compaction) must be there, with the hash that it has here. Both sides
 * keep a sum of (seq, hash), the keyspace's as far as the copy was read; it goes along with what is written and pruned meanwhile, so a copy is
 * verified while it is made, and at the end only the rest of it is looked at. One at a time a keyspace; freed before it is.
 *
 * The keyspace's loop's thread, where callbacks come too.
 */

#include "keyspace/keyspace.h"

struct verify;

struct verify_config {
        struct keyspace *keyspace;   /* borrowed: the source, open; it must be pinned all the while */
        struct datastore *datastore; /* borrowed: the target */
        uint8_t incarnation[16];     /* there */
        uint8_t installation[16];    /* its id */
        /* All up to the seq that was asked for last was read: 0: it is as it must be, as far as it is up to the keyspace's last change; -EUCLEAN with
         * the difference in words; or negative errno. Never from within verify_up_to(). */
        void (*on_done)(void *userdata, int result, const char *reason);
        void *userdata;
};
int verify_new(const struct verify_config *config, struct verify **ret);
/* Takes NULL. */
void verify_free(struct verify *verify);
DEFINE_FREEP(verify)
/* Reads on, up to this seq, which was fed; again and again, each time when on_done was called. Where no key or lease was changed behind it (held,
 * sealed), on_done tells of the whole. */
void verify_up_to(struct verify *verify, uint64_t seq);
uint64_t verify_seq(const struct verify *verify);
