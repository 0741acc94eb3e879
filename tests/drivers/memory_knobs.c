/* SPDX-License-Identifier: Apache-2.0 */
/* What tests that link the memory driver statically turn: see memory.h. Not in the plugin, which exports one symbol. Any thread. */
#include "memory_log.h"

#include <stdlib.h>
#include <string.h>

void memory_reset(const char *name) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        while (i->logs)
                memory_log_remove(i, i->logs);
        while (i->ended) {
                struct ended *e = i->ended;

                i->ended = e->next;
                free(e);
        }
        i->faults = (struct memory_faults){};
        i->limbo_next = false;
        i->cut_load = 0;
        memset(i->fail_n, 0, sizeof(i->fail_n));
        memset(i->calls, 0, sizeof(i->calls));
        pthread_mutex_unlock(&i->mutex);
}

void memory_set_faults(const char *name, const struct memory_faults *faults) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        i->faults = faults ? *faults : (struct memory_faults){};
        pthread_cond_broadcast(&i->changed);
        pthread_mutex_unlock(&i->mutex);
}

void memory_fail_next(const char *name, enum memory_function function, unsigned n, int code) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        i->fail_n[function] = n;
        i->fail_code[function] = code;
        pthread_mutex_unlock(&i->mutex);
}

void memory_cut_next_load(const char *name, size_t n) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        i->cut_load = n;
        pthread_mutex_unlock(&i->mutex);
}

void memory_limbo_next(const char *name) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        i->limbo_next = true;
        pthread_mutex_unlock(&i->mutex);
}

static struct log *find_name(struct instance *i, const char *keyspace) {
        for (struct log *log = i->logs; log; log = log->next)
                if (log->live && strcmp(log->name, keyspace) == 0)
                        return log;
        return NULL;
}

bool memory_in_limbo(const char *name, const char *keyspace) {
        struct instance *i = memory_instance_get(name);
        struct log *log;
        bool pending;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        pending = log && log->limbo.pending;
        pthread_mutex_unlock(&i->mutex);
        return pending;
}

bool memory_land(const char *name, const char *keyspace) {
        struct instance *i = memory_instance_get(name);
        struct log *log;
        bool landed;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        landed = log && memory_limbo_land(i, log);
        pthread_mutex_unlock(&i->mutex);
        return landed;
}

void memory_forget(const char *name, const char *keyspace, size_t n) {
        struct instance *i = memory_instance_get(name);
        struct log *log;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        while (log && n-- > 0 && log->n_entries > 1)
                memory_entry_done(&log->entries[--log->n_entries]);
        pthread_mutex_unlock(&i->mutex);
}

void memory_lose(const char *name, const char *keyspace, size_t n) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        for (struct log *log = i->logs; log; log = log->next)
                if (!log->live && strcmp(log->name, keyspace) == 0)
                        for (; n > 0 && log->n_entries > 0; n--)
                                memory_entry_done(&log->entries[--log->n_entries]);
        pthread_mutex_unlock(&i->mutex);
}

void memory_spoil(const char *name, const char *keyspace, uint64_t seq, bool damages) {
        struct instance *i = memory_instance_get(name);

        pthread_mutex_lock(&i->mutex);
        for (struct log *log = i->logs; log; log = log->next) {
                size_t at = memory_position(log, seq);

                if (log->live || strcmp(log->name, keyspace) != 0 || at == log->n_entries)
                        continue;
                if (damages) {
                        log->entries[at].record.hash ^= 1;
                        continue;
                }
                memory_entry_done(&log->entries[at]);
                log->n_entries--;
                memmove(&log->entries[at], &log->entries[at + 1], (log->n_entries - at) * sizeof(*log->entries));
        }
        pthread_mutex_unlock(&i->mutex);
}

void memory_fork(const char *name, const char *keyspace) {
        struct instance *i = memory_instance_get(name);
        struct log *log;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        if (log)
                log->entries[log->n_entries - 1].record.origin.daemon[0] ^= 0xff;
        pthread_mutex_unlock(&i->mutex);
}

uint64_t memory_calls(const char *name, enum memory_function function) {
        struct instance *i = memory_instance_get(name);
        uint64_t n;

        pthread_mutex_lock(&i->mutex);
        n = i->calls[function];
        pthread_mutex_unlock(&i->mutex);
        return n;
}
