#pragma once

/*
 * A file that appears under its name when it is complete and on the disk, or not at all; mode 0600. Until then it is FILE.tmp.XXXXXX beside
 * it, which also goes when stokectl is interrupted. One at a time; the only thread.
 */

#include "base/buf.h"
#include "base/error.h"

struct new_file {
        int fd;
        char *path;      /* owned */
        char *temporary; /* owned */
};

/* -EEXIST: there is such a file, and replace is not set. */
int new_file_open(const char *path, bool replace, struct new_file *ret, struct error *reterr);
int new_file_write(struct new_file *f, struct bytes data, struct error *reterr);
/* Durable, under its name. -EEXIST: somebody has made one meanwhile. */
int new_file_finish(struct new_file *f, bool replace, struct error *reterr);
/* Nothing is left of one that was not finished. */
void new_file_done(struct new_file *f);
