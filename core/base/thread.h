#pragma once

/*
 * Threads as the daemon starts them: all signals are blocked but those of a thread's own faults (SIGSEGV and the like), whose handler
 * finds a stack even where the thread's own has run out.
 */

#include <pthread.h>
#include <signal.h>

/* name: at most 15 bytes. 0, or a negative errno. Any thread. */
int thread_start(pthread_t *ret, const char *name, void *(*run)(void *userdata), void *userdata);

/* The signals of faults, ended by 0. */
extern const int thread_fault_signals[];
