/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the log in SQLite. An append is one transaction in WAL mode with synchronous=FULL. Since the keyspace is ours alone while it is
 * acquired, its end is kept in memory and read again after any error; the primary key would stop a stranger who ignored
 * the lock. Runs on the host's session threads.
 */
#include "sqlite.h"

#include <errno.h>

static int append_records(struct file *file, const struct stoke_append *append, struct stoke_call *call) {
        const struct stoke_record *records = append->records;
        sqlite3_stmt *insert;
        size_t n = append->n_records;
        int rc, r, moved = 0;

        r = sqlite_file_end(file, call);
        if (r < 0)
                return r;
        if (file->end.seq != append->expected.seq || !sql_origin_equal(&file->end.origin, &append->expected.origin))
                return STOKE_STALE;
        r = sqlite_file_statement(file, SQL_INSERT, call, &insert);
        if (r < 0)
                return r;
        if (file->wal_pages >= file->next_inline)
                sqlite_checkpoint_now(file);

        /* Into a file that nobody will find again SQLite would write without a word. */
        if (sqlite3_file_control(file->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved)
                return sql_fail(call, -EIO, "the keyspace's file was moved or removed");

        rc = sqlite3_step(file->begin);
        sqlite3_reset(file->begin);
        if (rc == SQLITE_DONE) {
                rc = SQLITE_OK;
                for (size_t i = 0; rc == SQLITE_OK && i < n; i++)
                        rc = sqlite_insert(file->db, insert, &records[i]);
        }
        if (rc != SQLITE_OK) {
                /* Nothing of a transaction that was not committed can appear: no commit frame was written. */
                r = rc == SQLITE_CONSTRAINT_PRIMARYKEY ? STOKE_STALE : sqlite_fail(file->db, rc, file->session, call);
                sqlite_file_rollback(file);
                return r;
        }
        rc = sqlite3_step(file->commit);
        sqlite3_reset(file->commit);
        if (rc != SQLITE_DONE) {
                r = sqlite_fail(file->db, rc, file->session, call);
                /* A full disk shows before the commit frame is whole, and a lock or an interruption before anything is written. After
                 * all else (a failed sync above all) the frame may be there, and a crash may bring it back. */
                switch (rc & 0xff) {
                case SQLITE_FULL:
                case SQLITE_BUSY:
                case SQLITE_INTERRUPT:
                        break;
                default:
                        r = STOKE_UNKNOWN;
                }
                sqlite_file_commit_failed(file, rc);
                return r;
        }
        file->end.seq = records[n - 1].seq;
        file->end.origin = records[n - 1].origin;
        file->n_records += n;
        return 0;
}

int sqlite_append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
        struct stoke_call *call) {
        struct file *file;
        bool full;
        int r;

        r = sql_records_check(append->records, append->n_records, append->expected.seq, &sqlite_limits, call);
        if (r < 0)
                return r;
        r = sqlite_file_begin_acquired(session, keyspace, call, &file);
        if (r != 0)
                return r;
        r = append_records(file, append, call);
        full = file->wal_pages >= SQLITE_LOG_WAL_PAGES;
        sqlite_file_finish(file);
        if (full)
                sqlite_checkpoint_later(file);
        return r;
}

/* The compare of an append is atomic here: nothing begun before can land later, so the first step needs no fence. */
int sqlite_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call) {
        sqlite3_stmt *stmt;
        struct file *file;
        uint64_t n_gone = 0;
        bool full;
        int rc, r;

        r = sqlite_file_begin_acquired(session, keyspace, call, &file);
        if (r != 0)
                return r;
        r = sqlite_file_end(file, call);
        for (size_t i = 0; r == 0 && i < compact->n_seqs; i++)
                if (compact->seqs[i] >= compact->mark || compact->seqs[i] >= file->end.seq ||
                        (i && compact->seqs[i] <= compact->seqs[i - 1]))
                        r = sql_fail(call, -EINVAL, "record %llu may not be deleted below mark %llu",
                                (unsigned long long)compact->seqs[i], (unsigned long long)compact->mark);
        if (r == 0)
                r = sqlite_file_statement(file, SQL_DELETE_AT, call, &stmt);
        if (r < 0 || compact->n_seqs == 0)
                goto out;
        rc = sqlite3_step(file->begin);
        sqlite3_reset(file->begin);
        for (size_t i = 0; rc == SQLITE_DONE && i < compact->n_seqs; i++) {
                sqlite3_bind_int64(stmt, 1, (sqlite3_int64)compact->seqs[i]);
                rc = sqlite3_step(stmt);
                sqlite3_reset(stmt);
                if (rc == SQLITE_DONE)
                        n_gone += (uint64_t)sqlite3_changes(file->db);
        }
        if (rc == SQLITE_DONE) {
                rc = sqlite3_step(file->commit);
                sqlite3_reset(file->commit);
        }
        if (rc != SQLITE_DONE) {
                r = sqlite_fail(file->db, rc, session, call);
                sqlite_file_commit_failed(file, rc);
                file->counted = false;
        } else {
                file->n_records -= n_gone;
        }
out:
        full = file->wal_pages >= SQLITE_LOG_WAL_PAGES;
        sqlite_file_finish(file);
        if (full)
                sqlite_checkpoint_later(file);
        return r;
}
