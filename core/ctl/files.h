#pragma once

/*
 * Files that stokectl writes for its user: several at once, each whole or not there, a private key readable by nobody else. stokectl's only thread;
 * what goes wrong is said on stderr, as by ctl_fail().
 */

#include <sys/types.h>

#include "base/buf.h"

struct ctl_file {
        const char *name; /* in the directory */
        struct bytes data;
        mode_t mode;
};

struct ctl_files {
        const char *directory; /* made with directory_mode if it is not there, not those above it */
        mode_t directory_mode;
        bool has_group; /* of all, also of the directory if it was made */
        gid_t group;
        const struct ctl_file *files;
        size_t n_files;
};

/* The first of the files that is there already; NULL: none. */
const char *ctl_files_present(const struct ctl_files *files);
/* Replaces what is there. CTL_OK, or what was reported; then no file has changed, or (after a failure of the disk) some have. */
int ctl_files_write(const struct ctl_files *files);
/* Asks on a terminal whether the file may be replaced; elsewhere says that --yes is wanted. CTL_OK: it may. */
int ctl_files_may_replace(const char *directory, const char *name, bool yes);

/* The whole file, at most max bytes. CTL_OK, or what was reported. */
int ctl_file_read(const char *path, size_t max, struct buf *ret);
/* DIRECTORY/NAME; owned by the caller. */
char *ctl_path(const char *directory, const char *name);
