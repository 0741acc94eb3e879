/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory driver: a log in memory with shared writers, for tests. It keeps every promise of the ABI but durability, and breaks on
 * demand only what real backends break: appends that are refused without reason, whose outcome is unknown, or that land late.
 * Functions run on the host's session threads; one mutex for each instance, never held while it sleeps or visits.
 *
 * As plugin (MEMORY_PLUGIN) it exports the one symbol; linked statically it also has the knobs of memory.h.
 */
#include "memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

static pthread_mutex_t instances_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct instance *instances;

static const struct stoke_limits limits = {.record_bytes = 16u << 20, .batch_bytes = 32u << 20, .batch_records = 4096};

static int fail(struct stoke_call *call, int code, const char *format, ...)
        __attribute__((__format__(__printf__, 3, 4)));
static int fail(struct stoke_call *call, int code, const char *format, ...) {
        va_list args;

        va_start(args, format);
        vsnprintf(call->reason, call->reason_size, format, args);
        va_end(args);
        return code;
}

static uint64_t now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct instance *instance_get(const char *name) {
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

static bool chance(struct instance *i, double probability) {
        if (probability <= 0)
                return false;
        i->dice ^= i->dice << 13;
        i->dice ^= i->dice >> 7;
        i->dice ^= i->dice << 17;
        return (double)(i->dice >> 11) / 9007199254740992.0 < probability;
}

/* ---- logs. All with the mutex. */

static bool origin_equal(const struct stoke_origin *a, const struct stoke_origin *b) {
        return a->batch == b->batch && memcmp(a->daemon, b->daemon, 16) == 0;
}

static struct entry entry_copy(const struct stoke_record *record) {
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

static void entry_done(struct entry *e) {
        free((void *)e->record.key);
}

static void limbo_clear(struct log *log) {
        for (size_t k = 0; k < log->limbo.n_entries; k++)
                entry_done(&log->limbo.entries[k]);
        free(log->limbo.entries);
        log->limbo = (struct limbo){};
}

static void log_push(struct log *log, struct entry e) {
        if (log->n_entries == log->capacity) {
                log->capacity = log->capacity ? 2 * log->capacity : 16;
                log->entries = reallocarray(log->entries, log->capacity, sizeof(struct entry));
                if (!log->entries)
                        abort();
        }
        log->entries[log->n_entries++] = e;
}

static struct stoke_end log_end(const struct log *log) {
        const struct stoke_record *r;

        if (log->n_entries == 0)
                return (struct stoke_end){};
        r = &log->entries[log->n_entries - 1].record;
        return (struct stoke_end){r->seq, r->origin};
}

static bool end_is(const struct log *log, const struct stoke_end *end) {
        struct stoke_end own = log_end(log);

        return own.seq == end->seq && origin_equal(&own.origin, &end->origin);
}

static bool land(struct instance *i, struct log *log) {
        bool landed = log->limbo.pending && end_is(log, &log->limbo.expected);

        if (landed) {
                for (size_t k = 0; k < log->limbo.n_entries; k++)
                        log_push(log, log->limbo.entries[k]);
                log->limbo.n_entries = 0;
                i->generation++;
                pthread_cond_broadcast(&i->changed);
        }
        limbo_clear(log);
        return landed;
}

static void log_free(struct log *log) {
        for (size_t k = 0; k < log->n_entries; k++)
                entry_done(&log->entries[k]);
        free(log->entries);
        limbo_clear(log);
        free(log);
}

/* The live keyspace (id NULL) or the installation; what hangs in limbo lands when its time has come. */
static struct log *find(struct instance *i, const struct stoke_keyspace *keyspace, bool live) {
        for (struct log *log = i->logs; log; log = log->next)
                if (log->live == live && strcmp(log->name, keyspace->name) == 0 &&
                        memcmp(log->incarnation, keyspace->incarnation, 16) == 0) {
                        if (log->limbo.pending && !log->limbo.held && log->limbo.calls_left-- == 0)
                                land(i, log);
                        return log;
                }
        return NULL;
}

static struct log *log_new(struct instance *i, const struct stoke_keyspace *keyspace) {
        struct log *log = calloc(1, sizeof(*log));

        if (!log)
                abort();
        snprintf(log->name, sizeof(log->name), "%s", keyspace->name);
        memcpy(log->incarnation, keyspace->incarnation, 16);
        log->next = i->logs;
        i->logs = log;
        return log;
}

static void log_remove(struct instance *i, struct log *log) {
        struct log **p;

        for (p = &i->logs; *p != log; p = &(*p)->next)
                ;
        *p = log->next;
        log_free(log);
}

static const struct ended *find_ended(struct instance *i, const uint8_t id[16]) {
        for (const struct ended *e = i->ended; e; e = e->next)
                if (memcmp(e->id, id, 16) == 0)
                        return e;
        return NULL;
}

static void end_id(struct instance *i, const uint8_t id[16], bool committed) {
        struct ended *e;

        if (find_ended(i, id))
                return;
        e = calloc(1, sizeof(*e));
        if (!e)
                abort();
        memcpy(e->id, id, 16);
        e->committed = committed;
        e->next = i->ended;
        i->ended = e;
}

static bool name_valid(const char *name) {
        size_t n = strnlen(name, 64);

        return n > 0 && n < 64 && name[0] != '-' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

/* ---- each call: locks the instance; counts, sleeps and fails as asked. Unlocked on failure. */

static int begin(struct stoke_session *session, struct stoke_call *call, int function) {
        struct instance *i = session->instance;
        uint64_t until;
        int r = 0;

        pthread_mutex_lock(&i->mutex);
        session->interrupted = false;
        if (function < MEMORY_N_FUNCTIONS) {
                i->calls[function]++;
                until = now_ns() + i->faults.delay_us * 1000;
                while (function != MEMORY_CONNECT && i->faults.delay_us && !session->interrupted && now_ns() < until &&
                        now_ns() < call->deadline_ns) {
                        uint64_t wake = until < call->deadline_ns ? until : call->deadline_ns;
                        struct timespec ts = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)};

                        pthread_cond_timedwait(&i->changed, &i->mutex, &ts);
                }
                if (i->fail_n[function]) {
                        i->fail_n[function]--;
                        r = fail(call, i->fail_code[function], "failed on demand");
                }
        }
        if (r == 0 && session->interrupted)
                r = fail(call, -ECANCELED, "interrupted");
        if (r == 0 && now_ns() >= call->deadline_ns)
                r = fail(call, -ETIMEDOUT, "the deadline has passed");
        if (r != 0)
                pthread_mutex_unlock(&i->mutex);
        return r;
}

static int finish(struct stoke_session *session, int r) {
        pthread_mutex_unlock(&session->instance->mutex);
        return r;
}

static int check_records(const struct stoke_record *records, size_t n, struct stoke_call *call) {
        uint64_t total = 0;

        if (n == 0 || n > limits.batch_records)
                return fail(call, n ? -EMSGSIZE : -EINVAL, "%zu records", n);
        for (size_t k = 0; k < n; k++) {
                uint64_t size = (uint64_t)records[k].key_size + records[k].value_size;

                if (k && records[k].seq <= records[k - 1].seq)
                        return fail(call, -EINVAL, "seqs do not ascend");
                if (size > limits.record_bytes)
                        return fail(call, -EMSGSIZE, "a record is above the limit");
                total += size;
        }
        return total > limits.batch_bytes ? fail(call, -EMSGSIZE, "the batch is above the limit") : 0;
}

/* ---- the driver's functions */

static int memory_open(const struct stoke_datastore *datastore, const struct stoke_host *host, struct stoke_call *call,
        struct stoke_store **ret) {
        struct memory_faults f = {.late_after = 2};
        const char *name = "default";
        struct stoke_store *store;
        uint64_t seed = 0;
        bool faults = false;

        (void)host;
        for (size_t k = 0; k < datastore->n_settings; k++) {
                const char *key = datastore->settings[k].name, *value = datastore->settings[k].value;
                const struct {
                        const char *name;
                        double *number;
                } numbers[] = {{"stale", &f.stale}, {"unknown-landed", &f.unknown_landed},
                        {"unknown-lost", &f.unknown_lost}, {"unknown-late", &f.unknown_late},
                        {"fail-connect", &f.fail_connect}, {"fail-load", &f.fail_load}};
                bool known = true;

                if (strcmp(key, "instance") == 0)
                        name = value;
                else if (strcmp(key, "seed") == 0)
                        seed = strtoull(value, NULL, 10);
                else if (strcmp(key, "delay-us") == 0)
                        f.delay_us = strtoull(value, NULL, 10), faults = true;
                else if (strcmp(key, "late-after") == 0)
                        f.late_after = (unsigned)strtoul(value, NULL, 10);
                else
                        known = false;
                for (size_t n = 0; !known && n < sizeof(numbers) / sizeof(numbers[0]); n++)
                        if (strcmp(key, numbers[n].name) == 0) {
                                *numbers[n].number = strtod(value, NULL);
                                faults = known = true;
                        }
                if (!known)
                        return fail(call, -EINVAL, "the memory driver knows no parameter \"%s\"", key);
        }
        store = calloc(1, sizeof(*store));
        if (!store)
                return -ENOMEM;
        store->instance = instance_get(name);
        pthread_mutex_lock(&store->instance->mutex);
        if (faults)
                store->instance->faults = f;
        if (seed)
                store->instance->dice = seed * 2654435769u + 1;
        pthread_mutex_unlock(&store->instance->mutex);
        *ret = store;
        return 0;
}

static void memory_close(struct stoke_store *store) {
        free(store);
}

static int memory_check(struct stoke_store *store, struct stoke_call *call,
        void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata) {
        (void)store;
        if (now_ns() >= call->deadline_ns)
                return fail(call, -ETIMEDOUT, "the deadline has passed");
        report(userdata, "version", "1", STOKE_INFO);
        report(userdata, "latency", "none", STOKE_INFO);
        report(userdata, "durability", "none: lost with the process", STOKE_PROBLEM);
        report(userdata, "room", "as much as there is memory", STOKE_INFO);
        return 0;
}

static int memory_connect(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_call *call,
        struct stoke_session **ret) {
        struct stoke_session *session = calloc(1, sizeof(*session));
        int r;

        (void)scope;
        if (!session)
                return -ENOMEM;
        session->instance = store->instance;
        r = begin(session, call, MEMORY_CONNECT);
        if (r == 0)
                r = finish(session,
                        chance(session->instance, session->instance->faults.fail_connect)
                                ? fail(call, -EIO, "failed by chance")
                                : 0);
        if (r != 0) {
                free(session);
                return r;
        }
        *ret = session;
        return 0;
}

static void memory_disconnect(struct stoke_session *session) {
        free(session);
}

static void memory_interrupt(struct stoke_session *session) {
        pthread_mutex_lock(&session->instance->mutex);
        session->interrupted = true;
        pthread_cond_broadcast(&session->instance->changed);
        pthread_mutex_unlock(&session->instance->mutex);
}

static int memory_create(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_record *first, struct stoke_call *call) {
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        if (!name_valid(keyspace->name))
                return finish(session, fail(call, -EINVAL, "not a name for a keyspace"));
        if (find(session->instance, keyspace, false))
                return finish(session, fail(call, -EEXIST, "the keyspace is being installed"));
        if (!find(session->instance, keyspace, true)) {
                struct log *log = log_new(session->instance, keyspace);

                log->live = true;
                log_push(log, entry_copy(first));
        }
        return finish(session, 0);
}

static int memory_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        struct log *log;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        log = find(session->instance, keyspace, true);
        if (log)
                log_remove(session->instance, log);
        return finish(session, 0);
}

static int memory_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata) {
        struct stoke_keyspace_info *infos;
        char(*names)[64];
        size_t n = 0;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        for (struct log *log = session->instance->logs; log; log = log->next)
                n++;
        infos = calloc(n + 1, sizeof(*infos));
        names = calloc(n + 1, sizeof(*names));
        if (!infos || !names)
                abort();
        n = 0;
        for (struct log *log = session->instance->logs; log; log = log->next, n++) {
                infos[n] = (struct stoke_keyspace_info){.size = sizeof(infos[n]), .installing = !log->live};
                snprintf(names[n], sizeof(names[n]), "%s", log->name);
                infos[n].name = names[n];
                memcpy(infos[n].incarnation, log->incarnation, 16);
                if (!log->live)
                        memcpy(infos[n].install_id, log->id, 16);
        }
        finish(session, 0);
        for (size_t k = 0; k < n && r == 0; k++)
                r = visit(userdata, &infos[k]) ? STOKE_STOPPED : 0;
        free(names);
        free(infos);
        return r;
}

static int memory_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret) {
        struct log *log;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        log = find(session->instance, keyspace, true);
        if (!log)
                return finish(session, STOKE_MISSING);
        ret->n_records = log->n_entries;
        ret->bytes = 0;
        for (size_t k = 0; k < log->n_entries; k++)
                ret->bytes +=
                        sizeof(struct entry) + log->entries[k].record.key_size + log->entries[k].record.value_size;
        return finish(session, 0);
}

/* The first entry whose seq is at least seq. */
static size_t position(const struct log *log, uint64_t seq) {
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

static int memory_load(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_end *after, bool with_values, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_record *record), void *userdata, struct stoke_end *ret_end) {
        struct entry *copies;
        struct stoke_end end;
        struct log *log;
        size_t first, n;
        uint64_t previous = after->seq;
        int r = begin(session, call, MEMORY_LOAD);

        if (r != 0)
                return r;
        if (chance(session->instance, session->instance->faults.fail_load))
                return finish(session, fail(call, -EIO, "failed by chance"));
        log = find(session->instance, keyspace, true);
        if (!log)
                return finish(session, STOKE_MISSING);
        first = position(log, after->seq);
        if (after->seq > 0) {
                if (first == log->n_entries || log->entries[first].record.seq != after->seq)
                        return finish(session, STOKE_COMPACTED);
                if (!origin_equal(&log->entries[first].record.origin, &after->origin))
                        return finish(session, STOKE_FORKED);
                first++;
        }
        /* What is visited is a copy: nobody waits for the visitor. */
        n = log->n_entries - first;
        copies = calloc(n + 1, sizeof(*copies));
        if (!copies)
                abort();
        for (size_t k = 0; k < n; k++)
                copies[k] = entry_copy(&log->entries[first + k].record);
        end = log_end(log);
        finish(session, 0);
        for (size_t k = 0; k < n && r == 0; k++) {
                if (after->seq > 0 && copies[k].record.seq != previous + 1) {
                        r = STOKE_COMPACTED;
                        break;
                }
                previous = copies[k].record.seq;
                if (!with_values)
                        copies[k].record.value = NULL;
                if (visit(userdata, &copies[k].record))
                        r = STOKE_STOPPED;
        }
        for (size_t k = 0; k < n; k++)
                entry_done(&copies[k]);
        free(copies);
        if (r == 0)
                *ret_end = end;
        return r;
}

static int memory_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs,
        size_t n_seqs, struct stoke_call *call,
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size), void *userdata) {
        struct entry *copies;
        bool *found;
        struct log *log;
        int r = begin(session, call, MEMORY_VALUES);

        if (r != 0)
                return r;
        log = find(session->instance, keyspace, true);
        if (!log)
                return finish(session, STOKE_MISSING);
        copies = calloc(n_seqs + 1, sizeof(*copies));
        found = calloc(n_seqs + 1, sizeof(*found));
        if (!copies || !found)
                abort();
        for (size_t k = 0; k < n_seqs; k++) {
                size_t at = position(log, seqs[k]);

                found[k] = at < log->n_entries && log->entries[at].record.seq == seqs[k];
                if (found[k])
                        copies[k] = entry_copy(&log->entries[at].record);
        }
        finish(session, 0);
        for (size_t k = 0; k < n_seqs; k++) {
                if (r == 0 &&
                        visit(userdata, seqs[k], found[k] ? copies[k].record.value : NULL,
                                found[k] ? copies[k].record.value_size : 0))
                        r = STOKE_STOPPED;
                entry_done(&copies[k]);
        }
        free(found);
        free(copies);
        return r;
}

static void to_limbo(struct instance *i, struct log *log, const struct stoke_append *append, bool held) {
        limbo_clear(log);
        log->limbo = (struct limbo){
                .pending = true, .held = held, .calls_left = i->faults.late_after, .expected = append->expected};
        log->limbo.entries = calloc(append->n_records, sizeof(struct entry));
        if (!log->limbo.entries)
                abort();
        log->limbo.n_entries = append->n_records;
        for (size_t k = 0; k < append->n_records; k++)
                log->limbo.entries[k] = entry_copy(&append->records[k]);
}

static int memory_append(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_append *append, struct stoke_call *call) {
        struct instance *i = session->instance;
        struct log *log;
        int r;

        r = check_records(append->records, append->n_records, call);
        for (size_t k = 0; r == 0 && k < append->n_records; k++)
                if (append->records[k].seq != append->expected.seq + 1 + k)
                        r = fail(call, -EINVAL, "record %zu does not follow", k);
        if (r == 0)
                r = begin(session, call, MEMORY_APPEND);
        if (r != 0)
                return r;
        log = find(i, keyspace, true);
        if (!log)
                return finish(session, STOKE_MISSING);
        if (i->limbo_next) {
                i->limbo_next = false;
                to_limbo(i, log, append, true);
                return finish(session, fail(call, STOKE_UNKNOWN, "the connection was lost on demand"));
        }
        if (chance(i, i->faults.unknown_late)) {
                to_limbo(i, log, append, false);
                return finish(session, fail(call, STOKE_UNKNOWN, "the connection was lost by chance"));
        }
        if (chance(i, i->faults.unknown_lost))
                return finish(session, fail(call, STOKE_UNKNOWN, "the connection was lost by chance"));
        if (!end_is(log, &append->expected) || chance(i, i->faults.stale))
                return finish(session, STOKE_STALE);
        for (size_t k = 0; k < append->n_records; k++)
                log_push(log, entry_copy(&append->records[k]));
        i->generation++;
        pthread_cond_broadcast(&i->changed);
        if (chance(i, i->faults.unknown_landed))
                return finish(session, fail(call, STOKE_UNKNOWN, "the connection was lost by chance"));
        return finish(session, 0);
}

static int memory_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata) {
        struct stoke_end *ends;
        bool *found;
        int r = begin(session, call, MEMORY_ENDS);

        if (r != 0)
                return r;
        ends = calloc(n_keyspaces + 1, sizeof(*ends));
        found = calloc(n_keyspaces + 1, sizeof(*found));
        if (!ends || !found)
                abort();
        for (size_t k = 0; k < n_keyspaces; k++) {
                struct log *log = find(session->instance, &keyspaces[k], true);

                found[k] = log != NULL;
                if (log)
                        ends[k] = log_end(log);
        }
        finish(session, 0);
        for (size_t k = 0; k < n_keyspaces && r == 0; k++)
                r = visit(userdata, k, found[k] ? &ends[k] : NULL) ? STOKE_STOPPED : 0;
        free(found);
        free(ends);
        return r;
}

/* Says of all keyspaces that they may have grown when any has: it may wake for nothing. */
static int memory_wait(struct stoke_session *session, struct stoke_call *call,
        void (*grown)(void *userdata, const char *name), void *userdata) {
        struct instance *i = session->instance;
        char(*names)[64];
        size_t n = 0;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        while (i->generation == session->seen && !session->interrupted && now_ns() < call->deadline_ns) {
                struct timespec ts = {
                        (time_t)(call->deadline_ns / 1000000000u), (long)(call->deadline_ns % 1000000000u)};

                pthread_cond_timedwait(&i->changed, &i->mutex, &ts);
        }
        if (session->interrupted)
                return finish(session, fail(call, -ECANCELED, "interrupted"));
        if (i->generation == session->seen)
                return finish(session, 0);
        session->seen = i->generation;
        for (struct log *log = i->logs; log; log = log->next)
                n += log->live;
        names = calloc(n + 1, sizeof(*names));
        if (!names)
                abort();
        n = 0;
        for (struct log *log = i->logs; log; log = log->next)
                if (log->live)
                        snprintf(names[n++], sizeof(*names), "%s", log->name);
        finish(session, 0);
        for (size_t k = 0; k < n; k++)
                grown(userdata, names[k]);
        free(names);
        return 0;
}

static int memory_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call) {
        struct log *log;
        size_t kept = 0;
        int r = begin(session, call, MEMORY_COMPACT);

        if (r != 0)
                return r;
        log = find(session->instance, keyspace, true);
        if (!log)
                return finish(session, STOKE_MISSING);
        for (size_t k = 0; k < compact->n_seqs; k++)
                if (compact->seqs[k] >= compact->mark || compact->seqs[k] >= log_end(log).seq)
                        return finish(session,
                                fail(call, -EINVAL, "record %llu may not go", (unsigned long long)compact->seqs[k]));
        for (size_t k = 0; k < compact->n_seqs; k++) {
                size_t at = position(log, compact->seqs[k]);

                if (at < log->n_entries && log->entries[at].record.seq == compact->seqs[k])
                        log->entries[at].deleted = true;
        }
        for (size_t k = 0; k < log->n_entries; k++)
                if (log->entries[k].deleted)
                        entry_done(&log->entries[k]);
                else
                        log->entries[kept++] = log->entries[k];
        log->n_entries = kept;
        return finish(session, 0);
}

static int install(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, struct log **ret) {
        struct instance *i = session->instance;
        const struct ended *ended = find_ended(i, id);

        if (ended)
                return STOKE_ENDED;
        *ret = find(i, keyspace, false);
        if (*ret && memcmp((*ret)->id, id, 16) != 0)
                return fail(call, -EEXIST, "the keyspace is being installed under another id");
        return 0;
}

static int memory_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const uint8_t id[16], struct stoke_call *call, uint64_t *ret_seq) {
        struct log *log;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        r = install(session, keyspace, id, call, &log);
        if (r != 0)
                return finish(session, r);
        if (find(session->instance, keyspace, true))
                return finish(session, fail(call, -EEXIST, "the keyspace exists"));
        if (!log) {
                log = log_new(session->instance, keyspace);
                log->has_id = true;
                memcpy(log->id, id, 16);
        }
        *ret_seq = log_end(log).seq;
        return finish(session, 0);
}

static int memory_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const uint8_t id[16], const struct stoke_record *records, size_t n_records, struct stoke_call *call) {
        struct log *log;
        int r;

        r = check_records(records, n_records, call);
        if (r == 0)
                r = begin(session, call, MEMORY_N_FUNCTIONS);
        if (r != 0)
                return r;
        r = install(session, keyspace, id, call, &log);
        if (r == -EEXIST || (r == 0 && !log))
                r = STOKE_MISSING;
        for (size_t k = 0; r == 0 && k < n_records; k++)
                if (records[k].seq > log_end(log).seq)
                        log_push(log, entry_copy(&records[k]));
        return finish(session, r);
}

static int memory_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const uint8_t id[16], const struct stoke_record *last, struct stoke_call *call) {
        struct instance *i = session->instance;
        struct log *log;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        log = find(i, keyspace, true);
        if (log && log->has_id && memcmp(log->id, id, 16) == 0)
                return finish(session, 0);
        r = install(session, keyspace, id, call, &log);
        if (r == -EEXIST || (r == 0 && !log))
                r = STOKE_MISSING;
        if (r == 0 && last->seq <= log_end(log).seq)
                r = fail(call, -EINVAL, "the last record is not behind those that are in already");
        if (r == 0) {
                log_push(log, entry_copy(last));
                log->live = true;
                end_id(i, id, true);
        }
        return finish(session, r);
}

static int memory_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const uint8_t id[16], struct stoke_call *call) {
        struct instance *i = session->instance;
        const struct ended *ended;
        struct log *log;
        int r = begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        ended = find_ended(i, id);
        if (ended)
                return finish(session, ended->committed ? STOKE_ENDED : 0);
        end_id(i, id, false);
        log = find(i, keyspace, false);
        if (log && memcmp(log->id, id, 16) == 0)
                log_remove(i, log);
        return finish(session, 0);
}

STOKE_EXPORT extern const struct stoke_driver stoke_driver;
const struct stoke_driver stoke_driver = {
        .magic = STOKE_DRIVER_MAGIC,
        .abi_major = STOKE_ABI_MAJOR,
        .abi_minor = STOKE_ABI_MINOR,
        .size = sizeof(struct stoke_driver),
        .name = "Memory",
        .version = "1",
        .maturity = STOKE_EXPERIMENTAL,
        .capabilities = STOKE_NOTIFIES,
        .limits = {.record_bytes = 16u << 20, .batch_bytes = 32u << 20, .batch_records = 4096},
        .open = memory_open,
        .close = memory_close,
        .check = memory_check,
        .connect = memory_connect,
        .disconnect = memory_disconnect,
        .interrupt = memory_interrupt,
        .create = memory_create,
        .drop = memory_drop,
        .list = memory_list,
        .stat = memory_stat,
        .load = memory_load,
        .values = memory_values,
        .append = memory_append,
        .ends = memory_ends,
        .wait = memory_wait,
        .compact = memory_compact,
        .install_begin = memory_install_begin,
        .install_feed = memory_install_feed,
        .install_commit = memory_install_commit,
        .install_abort = memory_install_abort,
};

#ifndef MEMORY_PLUGIN

void memory_reset(const char *name) {
        struct instance *i = instance_get(name);

        pthread_mutex_lock(&i->mutex);
        while (i->logs)
                log_remove(i, i->logs);
        while (i->ended) {
                struct ended *e = i->ended;

                i->ended = e->next;
                free(e);
        }
        i->faults = (struct memory_faults){};
        i->limbo_next = false;
        memset(i->fail_n, 0, sizeof(i->fail_n));
        memset(i->calls, 0, sizeof(i->calls));
        pthread_mutex_unlock(&i->mutex);
}

void memory_set_faults(const char *name, const struct memory_faults *faults) {
        struct instance *i = instance_get(name);

        pthread_mutex_lock(&i->mutex);
        i->faults = faults ? *faults : (struct memory_faults){};
        pthread_cond_broadcast(&i->changed);
        pthread_mutex_unlock(&i->mutex);
}

void memory_fail_next(const char *name, enum memory_function function, unsigned n, int code) {
        struct instance *i = instance_get(name);

        pthread_mutex_lock(&i->mutex);
        i->fail_n[function] = n;
        i->fail_code[function] = code;
        pthread_mutex_unlock(&i->mutex);
}

void memory_limbo_next(const char *name) {
        struct instance *i = instance_get(name);

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

bool memory_land(const char *name, const char *keyspace) {
        struct instance *i = instance_get(name);
        struct log *log;
        bool landed;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        landed = log && land(i, log);
        pthread_mutex_unlock(&i->mutex);
        return landed;
}

void memory_forget(const char *name, const char *keyspace, size_t n) {
        struct instance *i = instance_get(name);
        struct log *log;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        while (log && n-- > 0 && log->n_entries > 1)
                entry_done(&log->entries[--log->n_entries]);
        pthread_mutex_unlock(&i->mutex);
}

void memory_fork(const char *name, const char *keyspace) {
        struct instance *i = instance_get(name);
        struct log *log;

        pthread_mutex_lock(&i->mutex);
        log = find_name(i, keyspace);
        if (log)
                log->entries[log->n_entries - 1].record.origin.daemon[0] ^= 0xff;
        pthread_mutex_unlock(&i->mutex);
}

uint64_t memory_calls(const char *name, enum memory_function function) {
        struct instance *i = instance_get(name);
        uint64_t n;

        pthread_mutex_lock(&i->mutex);
        n = i->calls[function];
        pthread_mutex_unlock(&i->mutex);
        return n;
}

#endif
