#pragma once

/*
 * Small files in the state directory, replaced as a whole: after a crash there is the old one or the new one. Mode 0600. Main thread; they
 * are small and rare, so they are read and written in place, with fsync.
 */

#include "base/error.h"

/* Durable on return. */
int state_file_write(const char *state_dir, const char *name, const char *text, struct error *reterr);
/* Ended by a NUL, owned by the caller. -ENOENT: there is none; -EFBIG: more than max bytes; other negative errno with the reason. */
int state_file_read(const char *state_dir, const char *name, size_t max, char **ret, struct error *reterr);
/* 0 also if there is none. */
int state_file_remove(const char *state_dir, const char *name, struct error *reterr);
