#pragma once

/*
 * A backup of a tenant that is served: its log up to now, as an archive (base/archive.h), to whoever takes the bytes. The log is read by the
 * datastore's workers, made into an archive on a thread of its own, and given there to the sink, which may block. Belongs to the main loop, as do the
 * callbacks but for the sink's.
 */

#include "base/archive.h"
#include "base/error.h"

struct fleet;
struct backup;

struct backup_config {
        const char *name;
        /* The sink, on the backup's thread: the next bytes; may block. Negative errno, with a reason, ends the backup. */
        int (*write)(void *userdata, struct bytes data, struct error *reterr);
        /* The backup's thread, last: all was written; may fail as well. May be NULL. */
        int (*close)(void *userdata, struct error *reterr);
        /* Any thread: write() or close() is to come back soon. May be NULL. */
        void (*cancel)(void *userdata);
        /* What it will hold; bytes: of keys and values, about. about is borrowed. May be NULL. */
        void (*on_begun)(void *userdata, const struct archive_about *about, uint64_t bytes);
        /* Exactly once, last, not from within a function here. 0 or a negative errno as fleet.h has them. about: NULL if it was not begun. */
        void (*done)(void *userdata, int result, const char *reason, const struct archive_about *about,
                const struct archive_figures *figures);
        void *userdata;
};
struct backup *fleet_backup_tenant(struct fleet *fleet, const struct backup_config *config);
/* done comes with -ECANCELED. Not after done. */
void backup_cancel(struct backup *backup);
