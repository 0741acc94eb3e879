#pragma once

/*
 * What is put behind a log that was brought from elsewhere, before the record that ends an installation: what its new readers must know and no record
 * of it says. Any thread.
 */

#include "keyspace/keyspace.h"
#include "keyspace/stream.h"

struct tail_config {
        uint64_t seq;     /* of the last record */
        int64_t revision; /* of the log there */
        /* Its revisions go on above this one, and all below counts as compacted; 0: it goes on as it is. */
        int64_t above;
        const struct lease_left *leases; /* borrowed */
        size_t n_leases;
        uint8_t id[16]; /* of the installation */
};
struct tail {
        struct stream_piece *piece; /* the caller's; NULL: nothing is to be added */
        uint64_t seq;               /* of the last record then */
        int64_t revision;
};
/* The same for the same configuration. 0, -ENOMEM. */
int tail_make(const struct tail_config *config, struct tail *ret);
