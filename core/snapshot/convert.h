#pragma once

/*
 * A snapshot of etcd's as an archive (base/archive.h), which a tenant is restored from; on the way keys may be left out and renamed. Blocks; any
 * thread.
 */

#include "base/archive.h"
#include "snapshot/read.h"

struct snapshot_convert_config {
        const char *tenant, *version; /* for the archive's head */
        struct bytes prefix;          /* only keys that begin so, and their leases; empty: all */
        bool has_new_prefix;
        struct bytes new_prefix; /* stands in place of it */
};

/* fd: borrowed; a regular file, read two or three times. sink as of archive_writer_new(). ret_facts: of the snapshot; n_versions: of those that were taken.
 * -EBADMSG with the reason: it is damaged, or no snapshot; what the sink gave. */
int snapshot_convert(int fd, const struct snapshot_convert_config *config, archive_sink_fn sink, void *userdata,
        struct snapshot_facts *ret_facts, struct error *reterr);
