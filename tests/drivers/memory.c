/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory driver: a log in memory with shared writers, for tests. It keeps every promise of the ABI but durability, and breaks on
 * demand only what real backends break: appends that are refused without reason, whose outcome is unknown, or that land late.
 * Here are its descriptor and its functions; instances and logs are in memory_log.c. Functions run on the host's session threads.
 */
#include "memory_log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool name_valid(const char *name) {
        size_t n = strnlen(name, 64);

        return n > 0 && n < 64 && name[0] != '-' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
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
                        return memory_fail(call, -EINVAL, "the memory driver knows no parameter \"%s\"", key);
        }
        store = calloc(1, sizeof(*store));
        if (!store)
                return -ENOMEM;
        store->instance = memory_instance_get(name);
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
        if (memory_now_ns() >= call->deadline_ns)
                return memory_fail(call, -ETIMEDOUT, "the deadline has passed");
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
        r = memory_begin(session, call, MEMORY_CONNECT);
        if (r == 0)
                r = memory_finish(session,
                        memory_chance(session->instance, session->instance->faults.fail_connect)
                                ? memory_fail(call, -EIO, "failed by chance")
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
        int r = memory_begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        if (!name_valid(keyspace->name))
                return memory_finish(session, memory_fail(call, -EINVAL, "not a name for a keyspace"));
        if (memory_find(session->instance, keyspace, false))
                return memory_finish(session, memory_fail(call, -EEXIST, "the keyspace is being installed"));
        if (!memory_find(session->instance, keyspace, true)) {
                struct log *log = memory_log_new(session->instance, keyspace);

                log->live = true;
                memory_log_push(log, memory_entry_copy(first));
        }
        return memory_finish(session, 0);
}

static int memory_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        struct log *log;
        int r = memory_begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        log = memory_find(session->instance, keyspace, true);
        if (log)
                memory_log_remove(session->instance, log);
        return memory_finish(session, 0);
}

static int memory_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata) {
        struct stoke_keyspace_info *infos;
        char(*names)[64];
        size_t n = 0;
        int r = memory_begin(session, call, MEMORY_N_FUNCTIONS);

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
        memory_finish(session, 0);
        for (size_t k = 0; k < n && r == 0; k++)
                r = visit(userdata, &infos[k]) ? STOKE_STOPPED : 0;
        free(names);
        free(infos);
        return r;
}

static int memory_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret) {
        struct log *log;
        int r = memory_begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        log = memory_find(session->instance, keyspace, true);
        if (!log)
                return memory_finish(session, STOKE_MISSING);
        ret->n_records = log->n_entries;
        ret->bytes = 0;
        for (size_t k = 0; k < log->n_entries; k++)
                ret->bytes +=
                        sizeof(struct entry) + log->entries[k].record.key_size + log->entries[k].record.value_size;
        return memory_finish(session, 0);
}

static int memory_load(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_end *after, bool with_values, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_record *record), void *userdata, struct stoke_end *ret_end) {
        struct entry *copies;
        struct stoke_end end;
        struct log *log;
        size_t first, n, cut;
        uint64_t previous = after->seq;
        int r = memory_begin(session, call, MEMORY_LOAD);

        if (r != 0)
                return r;
        if (memory_chance(session->instance, session->instance->faults.fail_load))
                return memory_finish(session, memory_fail(call, -EIO, "failed by chance"));
        log = memory_find(session->instance, keyspace, true);
        if (!log)
                return memory_finish(session, STOKE_MISSING);
        first = memory_position(log, after->seq);
        if (after->seq > 0) {
                if (first == log->n_entries || log->entries[first].record.seq != after->seq)
                        return memory_finish(session, STOKE_COMPACTED);
                if (!memory_origin_equal(&log->entries[first].record.origin, &after->origin))
                        return memory_finish(session, STOKE_FORKED);
                first++;
        }
        /* What is visited is a copy: nobody waits for the visitor. */
        n = log->n_entries - first;
        copies = calloc(n + 1, sizeof(*copies));
        if (!copies)
                abort();
        for (size_t k = 0; k < n; k++)
                copies[k] = memory_entry_copy(&log->entries[first + k].record);
        end = memory_log_end(log);
        cut = session->instance->cut_load;
        session->instance->cut_load = 0;
        memory_finish(session, 0);
        for (size_t k = 0; k < n && r == 0; k++) {
                if (cut && k == cut) {
                        r = memory_fail(call, -EIO, "cut on demand");
                        break;
                }
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
                memory_entry_done(&copies[k]);
        free(copies);
        if (r == 0)
                *ret_end = end;
        return r;
}

static int memory_read(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_read *read, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_record *record), void *userdata) {
        struct entry *copies;
        struct log *log;
        size_t first, n;
        int r = memory_begin(session, call, MEMORY_READ);

        if (r != 0)
                return r;
        if (memory_chance(session->instance, session->instance->faults.fail_load))
                return memory_finish(session, memory_fail(call, -EIO, "failed by chance"));
        log = memory_find(session->instance, keyspace, !read->installation);
        if (!log || (read->installation && memcmp(log->id, read->installation, 16) != 0))
                return memory_finish(session, STOKE_MISSING);
        first = memory_position(log, read->after + 1);
        for (n = 0; n < read->n_most && first + n < log->n_entries; n++)
                if (log->entries[first + n].record.seq > read->upto)
                        break;
        copies = calloc(n + 1, sizeof(*copies));
        if (!copies)
                abort();
        for (size_t k = 0; k < n; k++)
                copies[k] = memory_entry_copy(&log->entries[first + k].record);
        memory_finish(session, 0);
        for (size_t k = 0; k < n; k++) {
                if (!read->with_values)
                        copies[k].record.value = NULL;
                if (r == 0 && visit(userdata, &copies[k].record))
                        r = STOKE_STOPPED;
                memory_entry_done(&copies[k]);
        }
        free(copies);
        return r;
}

static int memory_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs,
        size_t n_seqs, struct stoke_call *call,
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size), void *userdata) {
        struct entry *copies;
        bool *found;
        struct log *log;
        int r = memory_begin(session, call, MEMORY_VALUES);

        if (r != 0)
                return r;
        log = memory_find(session->instance, keyspace, true);
        if (!log)
                return memory_finish(session, STOKE_MISSING);
        copies = calloc(n_seqs + 1, sizeof(*copies));
        found = calloc(n_seqs + 1, sizeof(*found));
        if (!copies || !found)
                abort();
        for (size_t k = 0; k < n_seqs; k++) {
                size_t at = memory_position(log, seqs[k]);

                found[k] = at < log->n_entries && log->entries[at].record.seq == seqs[k];
                if (found[k])
                        copies[k] = memory_entry_copy(&log->entries[at].record);
        }
        memory_finish(session, 0);
        for (size_t k = 0; k < n_seqs; k++) {
                if (r == 0 &&
                        visit(userdata, seqs[k], found[k] ? copies[k].record.value : NULL,
                                found[k] ? copies[k].record.value_size : 0))
                        r = STOKE_STOPPED;
                memory_entry_done(&copies[k]);
        }
        free(found);
        free(copies);
        return r;
}

static void to_limbo(struct instance *i, struct log *log, const struct stoke_append *append, bool held) {
        memory_limbo_clear(log);
        log->limbo = (struct limbo){
                .pending = true, .held = held, .calls_left = i->faults.late_after, .expected = append->expected};
        log->limbo.entries = calloc(append->n_records, sizeof(struct entry));
        if (!log->limbo.entries)
                abort();
        log->limbo.n_entries = append->n_records;
        for (size_t k = 0; k < append->n_records; k++)
                log->limbo.entries[k] = memory_entry_copy(&append->records[k]);
}

static int memory_append(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_append *append, struct stoke_call *call) {
        struct instance *i = session->instance;
        struct log *log;
        int r;

        r = memory_check_records(append->records, append->n_records, call);
        for (size_t k = 0; r == 0 && k < append->n_records; k++)
                if (append->records[k].seq != append->expected.seq + 1 + k)
                        r = memory_fail(call, -EINVAL, "record %zu does not follow", k);
        if (r == 0)
                r = memory_begin(session, call, MEMORY_APPEND);
        if (r != 0)
                return r;
        log = memory_find(i, keyspace, true);
        if (!log)
                return memory_finish(session, STOKE_MISSING);
        if (i->limbo_next) {
                i->limbo_next = false;
                to_limbo(i, log, append, true);
                return memory_finish(session, memory_fail(call, STOKE_UNKNOWN, "the connection was lost on demand"));
        }
        if (memory_chance(i, i->faults.unknown_late)) {
                to_limbo(i, log, append, false);
                return memory_finish(session, memory_fail(call, STOKE_UNKNOWN, "the connection was lost by chance"));
        }
        if (memory_chance(i, i->faults.unknown_lost))
                return memory_finish(session, memory_fail(call, STOKE_UNKNOWN, "the connection was lost by chance"));
        if (!memory_end_is(log, &append->expected) || memory_chance(i, i->faults.stale))
                return memory_finish(session, STOKE_STALE);
        for (size_t k = 0; k < append->n_records; k++)
                memory_log_push(log, memory_entry_copy(&append->records[k]));
        i->generation++;
        pthread_cond_broadcast(&i->changed);
        if (memory_chance(i, i->faults.unknown_landed))
                return memory_finish(session, memory_fail(call, STOKE_UNKNOWN, "the connection was lost by chance"));
        return memory_finish(session, 0);
}

static int memory_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata) {
        struct stoke_end *ends;
        bool *found;
        int r = memory_begin(session, call, MEMORY_ENDS);

        if (r != 0)
                return r;
        ends = calloc(n_keyspaces + 1, sizeof(*ends));
        found = calloc(n_keyspaces + 1, sizeof(*found));
        if (!ends || !found)
                abort();
        for (size_t k = 0; k < n_keyspaces; k++) {
                struct log *log = memory_find(session->instance, &keyspaces[k], true);

                found[k] = log != NULL;
                if (log)
                        ends[k] = memory_log_end(log);
        }
        memory_finish(session, 0);
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
        int r = memory_begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        while (i->generation == session->seen && !session->interrupted && memory_now_ns() < call->deadline_ns) {
                struct timespec ts = {
                        (time_t)(call->deadline_ns / 1000000000u), (long)(call->deadline_ns % 1000000000u)};

                pthread_cond_timedwait(&i->changed, &i->mutex, &ts);
        }
        if (session->interrupted)
                return memory_finish(session, memory_fail(call, -ECANCELED, "interrupted"));
        if (i->generation == session->seen)
                return memory_finish(session, 0);
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
        memory_finish(session, 0);
        for (size_t k = 0; k < n; k++)
                grown(userdata, names[k]);
        free(names);
        return 0;
}

static int memory_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call) {
        struct log *log;
        size_t kept = 0;
        int r = memory_begin(session, call, MEMORY_COMPACT);

        if (r != 0)
                return r;
        log = memory_find(session->instance, keyspace, true);
        if (!log)
                return memory_finish(session, STOKE_MISSING);
        for (size_t k = 0; k < compact->n_seqs; k++)
                if (compact->seqs[k] >= compact->mark || compact->seqs[k] >= memory_log_end(log).seq)
                        return memory_finish(session,
                                memory_fail(
                                        call, -EINVAL, "record %llu may not go", (unsigned long long)compact->seqs[k]));
        for (size_t k = 0; k < compact->n_seqs; k++) {
                size_t at = memory_position(log, compact->seqs[k]);

                if (at < log->n_entries && log->entries[at].record.seq == compact->seqs[k])
                        log->entries[at].deleted = true;
        }
        for (size_t k = 0; k < log->n_entries; k++)
                if (log->entries[k].deleted)
                        memory_entry_done(&log->entries[k]);
                else
                        log->entries[kept++] = log->entries[k];
        log->n_entries = kept;
        return memory_finish(session, 0);
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
        .read = memory_read,
};
