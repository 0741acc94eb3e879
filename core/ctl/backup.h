#pragma once

/* Backups as files, for the commands that make, check and restore them. The only thread. */

#include "base/archive.h"
#include "ctl/ctl.h"

#define BACKUP_READ_BYTES ((size_t)128 * 1024)

/* What a backup says of itself. */
struct backup_text {
        char tenant[256], incarnation[40], created[32], version[64], driver[64];
        int64_t revision, compacted;
};

struct archive_reader *backup_reader(struct backup_text *text);
/* Reads it to its end: CTL_OK, or what was reported. The reader is the caller's. */
int backup_check(const char *path, struct backup_text *text, struct archive_reader **ret);
void backup_print(struct ctl *ctl, const struct backup_text *text, const struct archive_reader *reader);

/* commands_restore.c: sends an archive that is good, and waits until the tenant that the command line says is made of it (or has it in place
 * of what it had). path: for errors; verb: what was done to the tenant. */
int ctl_restore(struct ctl *ctl, int fd, uint64_t size, const char *path, const char *verb);
