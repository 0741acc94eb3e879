/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The inside of the memory driver: its instances and their logs. memory.c and memory_install.c are the driver's functions on them,
 * memory_knobs.c what tests turn. One mutex for each instance, never held while it sleeps or visits; who calls what is below holds it, but for
 * instance_get, begin and now_ns.
 */

#include <pthread.h>

#include "memory.h"

struct entry {
        struct stoke_record record; /* key and value are owned, in one allocation behind key */
        bool deleted;
};

struct limbo {
        bool pending, held; /* held: until memory_land() */
        unsigned calls_left;
        struct stoke_end expected;
        struct entry *entries;
        size_t n_entries;
};

struct log {
        struct log *next;
        char name[64];
        uint8_t incarnation[16];
        bool live, has_id;
        uint8_t id[16];
        struct entry *entries; /* ascending */
        size_t n_entries, capacity;
        struct limbo limbo;
};

struct ended {
        struct ended *next;
        uint8_t id[16];
        bool committed;
};

struct instance {
        struct instance *next;
        char *name;
        pthread_mutex_t mutex;
        pthread_cond_t changed; /* appended, interrupted */
        struct log *logs;
        struct ended *ended;
        struct memory_faults faults;
        uint64_t dice;
        bool limbo_next;
        size_t cut_load;
        unsigned fail_n[MEMORY_N_FUNCTIONS];
        int fail_code[MEMORY_N_FUNCTIONS];
        uint64_t calls[MEMORY_N_FUNCTIONS];
        uint64_t generation; /* of all appends */
};

struct stoke_store {
        struct instance *instance;
};
struct stoke_session {
        struct instance *instance;
        bool interrupted; /* instance->mutex */
        uint64_t seen;
};

extern const struct stoke_limits memory_limits;

int memory_fail(struct stoke_call *call, int code, const char *format, ...)
        __attribute__((__format__(__printf__, 3, 4)));
uint64_t memory_now_ns(void);
/* Makes it if there is none; it lives as long as the process. */
struct instance *memory_instance_get(const char *name);
/* Throws the instance's dice. */
bool memory_chance(struct instance *i, double probability);

bool memory_origin_equal(const struct stoke_origin *a, const struct stoke_origin *b);
struct entry memory_entry_copy(const struct stoke_record *record);
void memory_entry_done(struct entry *e);

/* The live keyspace or the installation; what hangs in limbo lands when its time has come. NULL: none. */
struct log *memory_find(struct instance *i, const struct stoke_keyspace *keyspace, bool live);
struct log *memory_log_new(struct instance *i, const struct stoke_keyspace *keyspace);
void memory_log_remove(struct instance *i, struct log *log);
/* Takes over the entry. */
void memory_log_push(struct log *log, struct entry e);
struct stoke_end memory_log_end(const struct log *log);
bool memory_end_is(const struct log *log, const struct stoke_end *end);
/* The first entry whose seq is at least seq. */
size_t memory_position(const struct log *log, uint64_t seq);

void memory_limbo_clear(struct log *log);
/* Appends what is in limbo where the end is still the one that it named; true: it landed. It is gone in any case. */
bool memory_limbo_land(struct instance *i, struct log *log);

const struct ended *memory_find_ended(struct instance *i, const uint8_t id[16]);
void memory_end_id(struct instance *i, const uint8_t id[16], bool committed);

/* Each call of the driver begins and ends with these: locks the instance; counts, sleeps and fails as asked. Unlocked on failure. */
int memory_begin(struct stoke_session *session, struct stoke_call *call, int function);
int memory_finish(struct stoke_session *session, int r);
int memory_check_records(const struct stoke_record *records, size_t n, struct stoke_call *call);

int memory_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq);
int memory_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call);
int memory_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call);
int memory_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call);
