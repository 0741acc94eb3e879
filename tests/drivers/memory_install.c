/* SPDX-License-Identifier: Apache-2.0 */
/* Installations in the memory driver: logs that are not live. Runs on the host's session threads. */
#include "memory_log.h"

#include <errno.h>
#include <string.h>

static int install(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, struct log **ret) {
        struct instance *i = session->instance;
        const struct ended *ended = memory_find_ended(i, id);

        if (ended)
                return STOKE_ENDED;
        *ret = memory_find(i, keyspace, false);
        if (*ret && memcmp((*ret)->id, id, 16) != 0)
                return memory_fail(call, -EEXIST, "the keyspace is being installed under another id");
        return 0;
}

int memory_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq) {
        struct log *log;
        int r = memory_begin(session, call, MEMORY_N_FUNCTIONS);

        if (r != 0)
                return r;
        r = install(session, keyspace, id, call, &log);
        if (r != 0)
                return memory_finish(session, r);
        if (memory_find(session->instance, keyspace, true))
                return memory_finish(session, memory_fail(call, -EEXIST, "the keyspace exists"));
        if (!log) {
                log = memory_log_new(session->instance, keyspace);
                log->has_id = true;
                memcpy(log->id, id, 16);
        }
        *ret_seq = memory_log_end(log).seq;
        return memory_finish(session, 0);
}

int memory_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call) {
        struct log *log;
        int r;

        r = memory_check_records(records, n_records, call);
        if (r == 0)
                r = memory_begin(session, call, MEMORY_FEED);
        if (r != 0)
                return r;
        r = install(session, keyspace, id, call, &log);
        if (r == -EEXIST || (r == 0 && !log))
                r = STOKE_MISSING;
        for (size_t k = 0; r == 0 && k < n_records; k++)
                if (records[k].seq > memory_log_end(log).seq)
                        memory_log_push(log, memory_entry_copy(&records[k]));
        return memory_finish(session, r);
}

int memory_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call) {
        struct instance *i = session->instance;
        struct log *log;
        int r = memory_begin(session, call, MEMORY_COMMIT);

        if (r != 0)
                return r;
        log = memory_find(i, keyspace, true);
        if (log && log->has_id && memcmp(log->id, id, 16) == 0)
                return memory_finish(session, 0);
        r = install(session, keyspace, id, call, &log);
        if (r == -EEXIST || (r == 0 && !log))
                r = STOKE_MISSING;
        if (r == 0 && last->seq <= memory_log_end(log).seq)
                r = memory_fail(call, -EINVAL, "the last record is not behind those that are in already");
        if (r == 0) {
                memory_log_push(log, memory_entry_copy(last));
                log->live = true;
                memory_end_id(i, id, true);
        }
        return memory_finish(session, r);
}

int memory_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        struct instance *i = session->instance;
        const struct ended *ended;
        struct log *log;
        int r = memory_begin(session, call, MEMORY_ABORT);

        if (r != 0)
                return r;
        ended = memory_find_ended(i, id);
        if (ended)
                return memory_finish(session, ended->committed ? STOKE_ENDED : 0);
        memory_end_id(i, id, false);
        log = memory_find(i, keyspace, false);
        if (log && memcmp(log->id, id, 16) == 0)
                memory_log_remove(i, log);
        return memory_finish(session, 0);
}
