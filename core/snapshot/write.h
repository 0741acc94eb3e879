#pragma once

/*
 * The second pass: a plan and the same log again, with values, become the file, from its first byte to its last. Bytes come in order and are
 * never gone back to. Whatever does not fit what the plan says is an error, and then the checksum, which stands last, has not been
 * written: no reader takes what there is for a snapshot. One thread at a time; memory is that of tree.h.
 */

#include "snapshot/plan.h"

struct snapshot_writer;

struct snapshot_output {
        /* 0, or a negative errno with the reason, which ends it. */
        int (*write)(void *userdata, const void *data, size_t size, struct error *reterr);
        void *userdata;
};

/* plan: finished, borrowed. Writes the first pages. */
int snapshot_writer_new(const struct snapshot_plan *plan, const struct snapshot_output *output,
        struct snapshot_writer **ret, struct error *reterr);
void snapshot_writer_free(struct snapshot_writer *writer);
DEFINE_FREEP(snapshot_writer)
/* The next record, in order, with its value; those that the snapshot does not have are passed over. -ESTALE: the log is no longer the one
 * that was planned; -EUCLEAN: a record is not what was once appended. */
int snapshot_writer_add(struct snapshot_writer *writer, const struct stoke_record *record, struct error *reterr);
/* All records up to the plan's end, with it, have been added: nothing more is needed. */
bool snapshot_writer_has_all(const struct snapshot_writer *writer);
/* The rest of the pages, and the checksum. */
int snapshot_writer_finish(struct snapshot_writer *writer, struct error *reterr);
