#pragma once

/*
 * Reads a snapshot of etcd's (or a copy of its `db`) as the log that a keyspace with the same content would have: its creation, the leases, all
 * versions in the order of their revisions, and the mark of the compaction. seqs count from 1 without a hole, so that an installation can be
 * gone on with; hashes and origins are complete; RECORD_INSTALLED at the end is the installer's. The file is not trusted (snapshot/pages.h).
 *
 * Members, users, roles and alarms are not read: they are the etcd's, not the data's. A revision without a version, as `etcdutl snapshot
 * restore --bump-revision` leaves it, counts for the revision alone. One thread at a time; calls block while the file is read.
 */

#include <stokehold/driver.h>

#include "base/error.h"

struct snapshot_reader;

/* Nothing of the file is taken as good before all of it was read. */
struct snapshot_facts {
        uint64_t bytes;    /* of the file */
        bool has_checksum; /* and it is right; without one it is a copy of a `db` */
        int64_t compacted; /* 0: never */
        bool auth_enabled; /* the etcd asked for users, which are not read */
        uint64_t n_leases;
        int64_t revision;    /* at the end, when snapshot_reader_next() has given 0; before: so far */
        uint64_t n_versions; /* likewise */
        uint64_t bytes_read; /* of the tree of versions, about: for progress */
};

/* fd: borrowed until free; must be a regular file. Reads all of it once for the checksum. -EBADMSG: it is damaged, or no snapshot.
 * origin: of the records. */
int snapshot_reader_new(int fd, const struct stoke_origin *origin, struct snapshot_reader **ret, struct error *reterr);
void snapshot_reader_free(struct snapshot_reader *reader);
DEFINE_FREEP(snapshot_reader)
/* 1: the next record; its key and value are valid until the next call. 0: there are no more. -EBADMSG, or what reading gave. */
int snapshot_reader_next(struct snapshot_reader *reader, struct stoke_record *ret, struct error *reterr);
void snapshot_reader_get(const struct snapshot_reader *reader, struct snapshot_facts *ret);
/* The remaining time of the lease record that was handed out last, seconds: what the snapshot says, or all of it. */
int64_t snapshot_reader_lease_left(const struct snapshot_reader *reader);
