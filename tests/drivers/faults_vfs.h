/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A file layer for SQLite, over the real one, that fails on demand and remembers what a power cut would leave: what was written counts as
 * durable only after a sync that succeeded, and what a failed sync had to write is lost for good, however often it is synced
 * again (as the kernel does it). Any thread.
 */

#include <stdbool.h>

enum fault {
        FAULT_NONE,
        FAULT_WRITE_IO,    /* nothing is written */
        FAULT_WRITE_FULL,  /* nothing is written */
        FAULT_WRITE_SHORT, /* half of it, then the disk is full */
        FAULT_WRITE_TORN,  /* half of it, then an error */
        FAULT_SYNC,
        FAULT_TRUNCATE,
        FAULT_N,
};
extern const char *const fault_names[FAULT_N];

/* Makes it the default; before anything opens a database. */
void faults_register(void);
/* Forgets all files and faults. */
void faults_reset(void);
/* The n-th operation of that kind from now on fails (from 1), and the next after it, `times` in all. */
void faults_arm(enum fault fault, unsigned n, unsigned times);
/* Disarms; true: it had come to a failure. */
bool faults_disarm(void);
/* Writes into the directory `to` what a power cut would have left of the databases in `from`. */
int faults_power_cut(const char *from, const char *to);
