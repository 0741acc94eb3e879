#pragma once

/*
 * Backups as files in a directory, DIRECTORY/TENANT.TIME.rREVISION.stokearc, each there only when it is complete: the sink that makes one (on the backup's
 * thread), and what is there already. All of it blocks: not on the main thread, but for the names.
 */

#include <time.h>

#include "base/archive.h"
#include "base/error.h"

struct backup_file {
        char *directory, *tenant; /* owned */
        char *path, *temporary;   /* owned */
        int fd;
};

/* Nothing is opened yet. */
void backup_file_init(struct backup_file *f, const char *directory, const char *tenant);
/* What was not finished goes. */
void backup_file_done(struct backup_file *f);
/* Its name: before the first write. */
void backup_file_name(struct backup_file *f, time_t created, int64_t revision);
int backup_file_write(struct backup_file *f, struct bytes data, struct error *reterr);
/* Durable under its name, read back from its beginning to its end and found good; otherwise it goes. */
int backup_file_finish(struct backup_file *f, struct error *reterr);

struct backup_found {
        time_t created; /* of the newest; 0: there is none */
        uint64_t bytes; /* of that file */
        size_t n;
};
/* What is there of a tenant. */
int backup_files_look(const char *directory, const char *tenant, struct backup_found *ret, struct error *reterr);
/* Removes all but the newest `keep`, and what a crash has left half written. */
int backup_files_prune(const char *directory, const char *tenant, unsigned keep, struct error *reterr);
