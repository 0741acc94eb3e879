#pragma once

/*
 * Looks into a shared object without loading it: opening a library runs its constructors, so what is no driver must be refused before.
 * Pure reading of a file; any thread.
 */

#include <stdbool.h>

#include "base/error.h"

/*
 * Whether the file is a shared object for this machine (its class, byte order and machine are our own executable's) whose dynamic symbol table
 * defines `symbol` as an object for others. 0; -ENOEXEC: it is no such shared object, or malformed; -ENOENT: it has no such
 * symbol; -errno: it cannot be read.
 */
int elf_check(int fd, const char *symbol, struct error *reterr);
