#pragma once

/*
 * What the fuzzing entry points share. One target a file, which defines LLVMFuzzerTestOneInput(); it is linked with libFuzzer, or with
 * replay.c, which feeds it the files of its corpus and some mutations of them. One thread. A target keeps nothing from one input to
 * the next that could change what the next one does.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/loop.h"
#include "base/macro.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads small numbers off the front of an input; zero at its end. */
struct fuzz_input {
        const uint8_t *data;
        size_t size;
};

static inline uint8_t fuzz_byte(struct fuzz_input *in) {
        if (!in->size)
                return 0;
        in->size--;
        return *in->data++;
}

/* A copy of exactly this size: a byte read beyond it is seen by the sanitizer. Freed by the caller. */
static inline uint8_t *fuzz_copy(const void *data, size_t size) {
        uint8_t *copy = malloc(size ? size : 1);

        check(copy);
        if (size)
                memcpy(copy, data, size);
        return copy;
}

struct fuzz_stop {
        struct loop_task task;
        struct loop *loop;
};

static inline void fuzz_on_stop(struct loop_task *task) {
        loop_stop(container_of(task, struct fuzz_stop, task)->loop);
}

/* One iteration: what is ready is done, with all that it defers; nothing is waited for. */
static inline void fuzz_pump(struct loop *loop) {
        struct fuzz_stop stop = {.task = {.run = fuzz_on_stop}, .loop = loop};

        loop_post(loop, &stop.task);
        check(loop_run(loop) == 0);
}
