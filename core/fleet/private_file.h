#pragma once

/*
 * Files with private keys: refused where others than the daemon may read them, by the rule that PostgreSQL has made known: the file is the daemon's own
 * and nobody else's (0600), or root's and readable by one group at most (0640). Any thread.
 */

#include "base/buf.h"
#include "base/error.h"

/* As text_file_read(), and -EPERM with the reason. Reads into memory that does not move for less than 64 KiB; the caller wipes it. */
int private_file_read(const char *path, struct buf *ret, struct error *reterr);
