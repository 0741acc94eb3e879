#pragma once

/*
 * How much memory there is for this process: the machine's, or less where a control group says so. Any thread.
 */

#include <stdint.h>

/* Bytes; 0: not known. root: "" for this machine, or the folder in which the tests keep a /proc and a /sys of their own. */
uint64_t machine_memory(const char *root);
