#pragma once

/*
 * What the daemon was doing when it died: STATE/crash.table, a file that is mapped into memory, so that it outlives the process (not
 * the machine: after a restart of that it says nothing). It has a place for each tenant, whose number is the owner (base/owner.h) of all that
 * is done for it and which tells whether its log is being loaded; a handler for the signals of faults adds which signal it was and whom the
 * thread worked for that raised it, and lets the signal go on to what it would have done. An orderly end is noted as well.
 *
 * SIGKILL leaves no note. Whether it was the kernel, for want of memory, is told by its count of such kills.
 *
 * One table a process. The main thread's, but for the handler and for the words that shards write.
 */

#include <stdatomic.h>

#include "base/error.h"
#include "base/macro.h"

#define CRASH_NAME_SIZE 64

enum crash_kind {
        CRASH_NONE,   /* the first start, an orderly end, or another boot of the machine */
        CRASH_FAULT,  /* a signal: `signo` */
        CRASH_MEMORY, /* killed, and the kernel has killed for want of memory since the daemon had started */
        CRASH_KILLED, /* killed by somebody */
};
struct crash_report {
        enum crash_kind kind;
        int signo;
        char owner
                [CRASH_NAME_SIZE]; /* whom the thread worked for that crashed; "": nobody, or the signal came from outside */
        char (*opening)[CRASH_NAME_SIZE]; /* owned: whose logs were being loaded */
        size_t n_opening;
};
void crash_report_done(struct crash_report *report);

struct crash_table;
struct crash_config {
        const char *state_dir;
        const char *vmstat;  /* "/proc/vmstat" */
        const char *boot_id; /* "/proc/sys/kernel/random/boot_id" */
};
/* Says how the last daemon ended, begins a new table, installs the handler. */
int crash_table_open(const struct crash_config *config, struct crash_report *ret_report, struct crash_table **ret,
        struct error *reterr);
/* Notes an orderly end, and takes the handler away. */
void crash_table_close(struct crash_table *table);

/* A tenant's number; 0: there is no place for it, nor for what happens with it. */
uint32_t crash_table_enter(struct crash_table *table, const char *name);
void crash_table_leave(struct crash_table *table, uint32_t owner);
/* Not 0 while its log is being loaded; written by its shard. NULL for owner 0. */
_Atomic uint32_t *crash_table_opening(struct crash_table *table, uint32_t owner);
