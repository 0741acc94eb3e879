/* SPDX-License-Identifier: Apache-2.0 */
/* The memory driver's instances and logs: see the header. Everything that cannot fail in a backend aborts here when there is no memory. */
#include "memory_log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t instances_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct instance *instances;

const struct stoke_limits memory_limits = {.record_bytes = 16u << 20, .batch_bytes = 32u << 20, .batch_records = 4096};

int memory_fail(struct stoke_call *call, int code, const char *format, ...) {
        va_list args;

        va_start(args, format);
        vsnprintf(call->reason, call->reason_size, format, args);
        va_end(args);
        return code;
}

uint64_t memory_now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct instance *memory_instance_get(const char *name) {
        struct instance *i;

        pthread_mutex_lock(&instances_mutex);
        for (i = instances; i && strcmp(i->name, name) != 0; i = i->next)
                ;
        if (!i) {
                pthread_condattr_t attr;

                i = calloc(1, sizeof(*i));
                if (!i || !(i->name = strdup(name)))
                        abort();
                pthread_mutex_init(&i->mutex, NULL);
                pthread_condattr_init(&attr);
                pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
                pthread_cond_init(&i->changed, &attr);
                pthread_condattr_destroy(&attr);
                i->dice = 88172645463325252u;
                i->next = instances;
                instances = i;
        }
        pthread_mutex_unlock(&instances_mutex);
        return i;
}

bool memory_chance(struct instance *i, double probability) {
        if (probability <= 0)
                return false;
        i->dice ^= i->dice << 13;
        i->dice ^= i->dice >> 7;
        i->dice ^= i->dice << 17;
        return (double)(i->dice >> 11) / 9007199254740992.0 < probability;
}

/* ---- logs. All with the mutex. */

bool memory_origin_equal(const struct stoke_origin *a, const struct stoke_origin *b) {
        return a->batch == b->batch && memcmp(a->daemon, b->daemon, 16) == 0;
}

struct entry memory_entry_copy(const struct stoke_record *record) {
        struct entry e = {.record = *record};
        char *bytes = malloc(record->key_size + record->value_size + 1);

        if (!bytes)
                abort();
        if (record->key_size)
                memcpy(bytes, record->key, record->key_size);
        if (record->value_size)
                memcpy(bytes + record->key_size, record->value, record->value_size);
        e.record.key = bytes;
        e.record.value = bytes + record->key_size;
        return e;
}

void memory_entry_done(struct entry *e) {
        free((void *)e->record.key);
}

void memory_limbo_clear(struct log *log) {
        for (size_t k = 0; k < log->limbo.n_entries; k++)
                memory_entry_done(&log->limbo.entries[k]);
        free(log->limbo.entries);
        log->limbo = (struct limbo){};
}

void memory_log_push(struct log *log, struct entry e) {
        if (log->n_entries == log->capacity) {
                log->capacity = log->capacity ? 2 * log->capacity : 16;
                log->entries = reallocarray(log->entries, log->capacity, sizeof(struct entry));
                if (!log->entries)
                        abort();
        }
        log->entries[log->n_entries++] = e;
}

struct stoke_end memory_log_end(const struct log *log) {
        const struct stoke_record *r;

        if (log->n_entries == 0)
                return (struct stoke_end){};
        r = &log->entries[log->n_entries - 1].record;
        return (struct stoke_end){r->seq, r->origin};
}

bool memory_end_is(const struct log *log, const struct stoke_end *end) {
        struct stoke_end own = memory_log_end(log);

        return own.seq == end->seq && memory_origin_equal(&own.origin, &end->origin);
}

bool memory_limbo_land(struct instance *i, struct log *log) {
        bool landed = log->limbo.pending && memory_end_is(log, &log->limbo.expected);

        if (landed) {
                for (size_t k = 0; k < log->limbo.n_entries; k++)
                        memory_log_push(log, log->limbo.entries[k]);
                log->limbo.n_entries = 0;
                i->generation++;
                pthread_cond_broadcast(&i->changed);
        }
        memory_limbo_clear(log);
        return landed;
}

static void log_free(struct log *log) {
        for (size_t k = 0; k < log->n_entries; k++)
                memory_entry_done(&log->entries[k]);
        free(log->entries);
        memory_limbo_clear(log);
        free(log);
}

struct log *memory_find(struct instance *i, const struct stoke_keyspace *keyspace, bool live) {
        for (struct log *log = i->logs; log; log = log->next)
                if (log->live == live && strcmp(log->name, keyspace->name) == 0 &&
                        memcmp(log->incarnation, keyspace->incarnation, 16) == 0) {
                        if (log->limbo.pending && !log->limbo.held && log->limbo.calls_left-- == 0)
                                memory_limbo_land(i, log);
                        return log;
                }
        return NULL;
}

size_t memory_position(const struct log *log, uint64_t seq) {
        size_t low = 0, high = log->n_entries;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (log->entries[middle].record.seq < seq)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

struct log *memory_log_new(struct instance *i, const struct stoke_keyspace *keyspace) {
        struct log *log = calloc(1, sizeof(*log));

        if (!log)
                abort();
        snprintf(log->name, sizeof(log->name), "%s", keyspace->name);
        memcpy(log->incarnation, keyspace->incarnation, 16);
        log->next = i->logs;
        i->logs = log;
        return log;
}

void memory_log_remove(struct instance *i, struct log *log) {
        struct log **p;

        for (p = &i->logs; *p != log; p = &(*p)->next)
                ;
        *p = log->next;
        log_free(log);
}

const struct ended *memory_find_ended(struct instance *i, const uint8_t id[16]) {
        for (const struct ended *e = i->ended; e; e = e->next)
                if (memcmp(e->id, id, 16) == 0)
                        return e;
        return NULL;
}

void memory_end_id(struct instance *i, const uint8_t id[16], bool committed) {
        struct ended *e;

        if (memory_find_ended(i, id))
                return;
        e = calloc(1, sizeof(*e));
        if (!e)
                abort();
        memcpy(e->id, id, 16);
        e->committed = committed;
        e->next = i->ended;
        i->ended = e;
}

/* ---- each call */

int memory_begin(struct stoke_session *session, struct stoke_call *call, int function) {
        struct instance *i = session->instance;
        uint64_t until;
        int r = 0;

        pthread_mutex_lock(&i->mutex);
        session->interrupted = false;
        if (function < MEMORY_N_FUNCTIONS) {
                i->calls[function]++;
                until = memory_now_ns() + i->faults.delay_us * 1000;
                while (function != MEMORY_CONNECT && i->faults.delay_us && !session->interrupted &&
                        memory_now_ns() < until && memory_now_ns() < call->deadline_ns) {
                        uint64_t wake = until < call->deadline_ns ? until : call->deadline_ns;
                        struct timespec ts = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)};

                        pthread_cond_timedwait(&i->changed, &i->mutex, &ts);
                }
                if (i->fail_n[function]) {
                        i->fail_n[function]--;
                        r = memory_fail(call, i->fail_code[function], "failed on demand");
                }
        }
        if (r == 0 && session->interrupted)
                r = memory_fail(call, -ECANCELED, "interrupted");
        if (r == 0 && memory_now_ns() >= call->deadline_ns)
                r = memory_fail(call, -ETIMEDOUT, "the deadline has passed");
        if (r != 0)
                pthread_mutex_unlock(&i->mutex);
        return r;
}

int memory_finish(struct stoke_session *session, int r) {
        pthread_mutex_unlock(&session->instance->mutex);
        return r;
}

int memory_check_records(const struct stoke_record *records, size_t n, struct stoke_call *call) {
        uint64_t total = 0;

        if (n == 0)
                return memory_fail(call, -EINVAL, "no records");
        for (size_t k = 0; k < n; k++) {
                uint64_t size = (uint64_t)records[k].key_size + records[k].value_size;

                if (k && records[k].seq <= records[k - 1].seq)
                        return memory_fail(call, -EINVAL, "seqs do not ascend");
                if (size > memory_limits.record_bytes)
                        return memory_fail(call, -EMSGSIZE, "a record is above the limit");
                /* Only the last group may go beyond the limit. */
                if (k >= memory_limits.batch_records &&
                        (!(records[k].kind & records[k - 1].kind & STOKE_KIND_GROUPED) ||
                                records[k].revision != records[k - 1].revision))
                        return memory_fail(call, -EMSGSIZE, "%zu records in several groups", n);
                total += size;
        }
        return total > memory_limits.batch_bytes ? memory_fail(call, -EMSGSIZE, "the batch is above the limit") : 0;
}
