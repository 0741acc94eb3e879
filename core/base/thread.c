/*
 * Starting threads. The new thread frees what it was given, and the stack for its signal handlers when it ends. Any thread.
 */

#include "base/thread.h"

#include <stdio.h>
#include <unistd.h>

#include "base/macro.h"

#define HANDLER_STACK ((size_t)32 * 1024)

const int thread_fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, 0};

struct start {
        void *(*run)(void *userdata);
        void *userdata;
        char name[16];
};

static void *thread_main(void *userdata) {
        struct start *start = userdata;
        struct start s = *start;
        stack_t stack = {.ss_size = HANDLER_STACK}, before = {};
        bool own = false;
        void *result;

        free(start);
        pthread_setname_np(pthread_self(), s.name);
        /* A sanitizer brings its own. */
        if (sigaltstack(NULL, &before) == 0 && (before.ss_flags & SS_DISABLE)) {
                stack.ss_sp = malloc(stack.ss_size);
                own = stack.ss_sp && sigaltstack(&stack, NULL) == 0;
        }
        result = s.run(s.userdata);
        if (own)
                (void)sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
        free(stack.ss_sp);
        return result;
}

int thread_start(pthread_t *ret, const char *name, void *(*run)(void *userdata), void *userdata) {
        struct start *start = new0(struct start);
        sigset_t blocked, before;
        int r;

        start->run = run;
        start->userdata = userdata;
        (void)snprintf(start->name, sizeof(start->name), "%s", name);
        sigfillset(&blocked);
        for (const int *signo = thread_fault_signals; *signo; signo++)
                sigdelset(&blocked, *signo);
        pthread_sigmask(SIG_SETMASK, &blocked, &before);
        r = pthread_create(ret, NULL, thread_main, start);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r != 0)
                free(start);
        return -r;
}
