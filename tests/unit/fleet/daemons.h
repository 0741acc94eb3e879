#pragma once

/*
 * What tests stand on that have several fleets in one process, each as a daemon has it: a folder with the drivers in it, a main loop that is run
 * until something has happened. What is one a process (metrics, the table of crashes) is shared, or is not there: see meson.build.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/loop.h"
#include "base/timer.h"

extern struct loop *loop;
extern char top[64];      /* the folder; drivers in top/plugins */
extern char instance[64]; /* of the driver in memory: another one for each test */

/* The driver in memory begins anew; daemons_setup() does that too. */
void next_instance(void);

/* Of each test. */
int daemons_setup(void **state);
int daemons_teardown(void **state);

/* Runs the main loop until *f (NULL: nothing), for at most so many milliseconds. */
void run(const bool *f, uint64_t ms);
/* A minute at most, or the test has failed. */
void wait_flag(const bool *f);
/* Evaluated again and again, with the loop running between. */
#define WAIT(expr)                                                                                                     \
        do {                                                                                                           \
                uint64_t end_ns = clock_now_ns() + 60 * NSEC_PER_SEC;                                                  \
                                                                                                                       \
                while (!(expr) && clock_now_ns() < end_ns)                                                             \
                        run(NULL, 10);                                                                                 \
                assert_true(expr);                                                                                     \
        } while (0)

void write_file(const char *path, const char *text);
void copy_file(const char *from, const char *to);
