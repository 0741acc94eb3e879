/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The laws of the driver ABI as a suite that runs on any driver. A law is a function; what it expects and does not find is printed as a
 * TAP diagnostic, and ends it. Laws use keyspaces of their own, with random incarnations, and drop them.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stokehold/driver.h>

struct laws {
        const struct stoke_driver *driver;
        struct stoke_datastore datastore;
        struct stoke_host host;
        struct stoke_store *store;     /* open during each law */
        struct stoke_session *session; /* connected during each law */
        char reason[512];
        struct stoke_call call_buffer;
        uint64_t seed, dice;
        uint64_t batch;      /* the last number of a batch */
        const char *failed;  /* where the present law failed */
        const char *skipped; /* why it cannot be tried here */
        bool faults;         /* the configuration asks for faults: only laws that bear them are run */
        unsigned n_kills;
};

struct law {
        const char *name;
        void (*run)(struct laws *l);
        bool bears_faults;
};
extern const struct law laws_log[], laws_limits[], laws_install[], laws_model[],
        laws_crash[]; /* ended by a NULL name */

#define LAW_TEXT2(x) #x
#define LAW_TEXT(x) LAW_TEXT2(x)
#define EXPECT(cond)                                                                                                   \
        do {                                                                                                           \
                if (!(cond)) {                                                                                         \
                        law_fail(l, __FILE__ ":" LAW_TEXT(__LINE__) ": expected " #cond);                              \
                        return;                                                                                        \
                }                                                                                                      \
        } while (0)
#define EXPECT_R(expr, want)                                                                                           \
        do {                                                                                                           \
                int r_ = (expr);                                                                                       \
                if (r_ != (want)) {                                                                                    \
                        printf("# result %d, \"%s\"\n", r_, l->reason);                                                \
                        law_fail(l, __FILE__ ":" LAW_TEXT(__LINE__) ": expected " #expr " to give " #want);            \
                        return;                                                                                        \
                }                                                                                                      \
        } while (0)
void law_fail(struct laws *l, const char *where);

/* A call with ten seconds and an empty reason. */
struct stoke_call *law_call(struct laws *l);
struct stoke_call *law_call_ms(struct laws *l, int64_t ms);
uint64_t law_random(struct laws *l, uint64_t below);
/* A keyspace with a random incarnation. name: a literal. */
struct stoke_keyspace law_keyspace(struct laws *l, const char *name);
void law_uuid(struct laws *l, uint8_t ret[16]);
/* A record of the given seq and size, whose content follows from seq and batch. Free its value. */
struct stoke_record law_record(uint64_t seq, uint64_t batch, size_t value_size, char key[32]);

/* Opens and closes the law's store and session. */
int law_open(struct laws *l);
void law_close(struct laws *l);
/* acquire, where the driver has it. */
int law_acquire(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace);
void law_release(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace);
/* create and acquire, with a first record of origin batch 0. */
int law_make(struct laws *l, const struct stoke_keyspace *keyspace, struct stoke_end *ret);
/* Appends n small records of one batch; *end goes on if they were. */
int law_append(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_end *end, size_t n, size_t value_size);

/* A log as it was loaded. */
struct loaded {
        struct stoke_record *records;   /* with key and value of their own */
        size_t n, capacity, stop_after; /* stop_after: the visitor gives up then; 0: never */
        struct stoke_end end;
};
int law_load(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_end *after, bool with_values, struct loaded *ret);
void loaded_done(struct loaded *loaded);
bool law_same(const struct stoke_record *a, const struct stoke_record *b);
bool law_same_end(const struct stoke_end *a, const struct stoke_end *b);
