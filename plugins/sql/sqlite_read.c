/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the log in SQLite: from one state of the file, through statements that are kept. Runs on the host's session threads. */
#include "sqlite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int read_row(sqlite3_stmt *stmt, bool with_values, struct stoke_record *ret, struct stoke_call *call) {
        ret->seq = (uint64_t)sqlite3_column_int64(stmt, SQL_SEQ);
        ret->revision = sqlite3_column_int64(stmt, SQL_REVISION);
        ret->kind = (uint8_t)sqlite3_column_int(stmt, SQL_KIND);
        ret->create_revision = sqlite3_column_int64(stmt, SQL_CREATE_REVISION);
        ret->version = sqlite3_column_int64(stmt, SQL_VERSION);
        ret->lease = sqlite3_column_int64(stmt, SQL_LEASE);
        ret->hash = (uint64_t)sqlite3_column_int64(stmt, SQL_HASH);
        if (!sql_origin_unpack(sqlite3_column_blob(stmt, SQL_ORIGIN), (size_t)sqlite3_column_bytes(stmt, SQL_ORIGIN),
                    &ret->origin))
                return sql_fail(call, -EUCLEAN, "record %llu has no origin", (unsigned long long)ret->seq);
        ret->key = sqlite3_column_blob(stmt, SQL_KEY);
        ret->key_size = (size_t)sqlite3_column_bytes(stmt, SQL_KEY);
        if (!ret->key) /* SQLite gives NULL for an empty blob */
                ret->key = "";
        if (with_values) {
                ret->value = sqlite3_column_blob(stmt, SQL_VALUE);
                ret->value_size = (size_t)sqlite3_column_bytes(stmt, SQL_VALUE);
                if (!ret->value)
                        ret->value = "";
        } else {
                ret->value = NULL;
                ret->value_size = (size_t)sqlite3_column_int64(stmt, SQL_VALUE);
        }
        return 0;
}

/* All in one statement, so from one state of the file: no revision is split, and the last row is the end. */
int sqlite_load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret_end) {
        struct sql_loading loading;
        struct stoke_origin origin;
        sqlite3_stmt *stmt = NULL;
        struct file *file;
        uint64_t n = 0;
        bool found = false;
        int rc, r;

        r = sqlite_file_begin_acquired(session, keyspace, call, &file);
        if (r != 0)
                return r;
        if (after->seq > 0) {
                r = sqlite_file_statement(file, SQL_ORIGIN_AT, call, &stmt);
                if (r < 0)
                        goto out;
                sqlite3_bind_int64(stmt, 1, (sqlite3_int64)after->seq);
                rc = sqlite3_step(stmt);
                found = rc == SQLITE_ROW &&
                        sql_origin_unpack(sqlite3_column_blob(stmt, 0), (size_t)sqlite3_column_bytes(stmt, 0), &origin);
                if (rc != SQLITE_ROW && rc != SQLITE_DONE)
                        r = sqlite_fail(file->db, rc, session, call);
                sqlite3_reset(stmt);
                if (r < 0)
                        goto out;
        }
        r = sql_loading_begin(&loading, after, found ? &origin : NULL);
        if (r != 0)
                goto out;
        r = sqlite_file_statement(file, with_values ? SQL_LOAD : SQL_LOAD_KEYS, call, &stmt);
        if (r < 0)
                goto out;
        sqlite3_bind_int64(stmt, 1, (sqlite3_int64)after->seq);
        while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
                struct stoke_record record;

                r = read_row(stmt, with_values, &record, call);
                if (r == 0)
                        r = sql_loading_next(&loading, &record);
                if (r == 0 && visit(userdata, &record))
                        r = STOKE_STOPPED;
                if (r != 0)
                        break;
                n++;
                /* Nothing but the visitor takes time here: SQLite's own handler would come too seldom. */
                if (n % 256 == 0 && (sql_expired(call) || atomic_load(&session->interrupted))) {
                        rc = SQLITE_INTERRUPT;
                        break;
                }
        }
        if (r == 0 && rc != SQLITE_DONE)
                r = sqlite_fail(file->db, rc, session, call);
        sqlite3_reset(stmt);
        if (r == 0) {
                *ret_end = loading.end;
                if (after->seq == 0) {
                        file->n_records = n;
                        file->counted = true;
                }
        }
out:
        sqlite_file_finish(file);
        return r;
}

/* Of an installation that is held: what was fed. */
static int begin_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct stoke_call *call, struct file **ret) {
        int r;

        if (!id)
                return sqlite_file_begin_acquired(session, keyspace, call, ret);
        r = sqlite_begin_call(session, call);
        if (r == 0)
                r = sqlite_file_begin(session, keyspace, id, call, ret);
        return r == 0 && !*ret ? STOKE_MISSING : r;
}

int sqlite_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
        struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record), void *userdata) {
        sqlite3_stmt *stmt = NULL;
        struct file *file;
        uint32_t n = 0;
        int rc = SQLITE_DONE, r;

        r = begin_read(session, keyspace, read->installation, call, &file);
        if (r != 0)
                return r;
        r = sqlite_file_statement(file, read->with_values ? SQL_LOAD : SQL_LOAD_KEYS, call, &stmt);
        if (r == 0)
                sqlite3_bind_int64(stmt, 1, (sqlite3_int64)read->after);
        while (r == 0 && n < read->n_most && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
                struct stoke_record record;

                r = read_row(stmt, read->with_values, &record, call);
                if (r == 0 && record.seq > read->upto)
                        break;
                if (r == 0 && visit(userdata, &record))
                        r = STOKE_STOPPED;
                n++;
                if (n % 256 == 0 && (sql_expired(call) || atomic_load(&session->interrupted))) {
                        rc = SQLITE_INTERRUPT;
                        break;
                }
        }
        if (r == 0 && rc != SQLITE_DONE && rc != SQLITE_ROW)
                r = sqlite_fail(file->db, rc, session, call);
        if (stmt)
                sqlite3_reset(stmt);
        sqlite_file_finish(file);
        return r;
}

int sqlite_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs,
        size_t n_seqs, struct stoke_call *call,
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size), void *userdata) {
        sqlite3_stmt *stmt;
        struct file *file;
        int rc, r;

        r = sqlite_file_begin_acquired(session, keyspace, call, &file);
        if (r != 0)
                return r;
        r = sqlite_file_statement(file, SQL_VALUE_AT, call, &stmt);
        /* One transaction for all of them: the locks of the WAL are taken once. */
        if (r == 0 && n_seqs > 1)
                r = sqlite_exec(file->db, "BEGIN", session, call);
        for (size_t i = 0; r == 0 && i < n_seqs; i++) {
                sqlite3_bind_int64(stmt, 1, (sqlite3_int64)seqs[i]);
                rc = sqlite3_step(stmt);
                if (rc == SQLITE_ROW) {
                        const void *data = sqlite3_column_blob(stmt, 0);

                        if (visit(userdata, seqs[i], data ? data : "", (size_t)sqlite3_column_bytes(stmt, 0)))
                                r = STOKE_STOPPED;
                } else if (rc == SQLITE_DONE) {
                        if (visit(userdata, seqs[i], NULL, 0))
                                r = STOKE_STOPPED;
                } else {
                        r = sqlite_fail(file->db, rc, session, call);
                }
                sqlite3_reset(stmt);
                if (r == 0 && i % 64 == 63 && (sql_expired(call) || atomic_load(&session->interrupted)))
                        r = sqlite_fail(file->db, SQLITE_INTERRUPT, session, call);
        }
        if (!sqlite3_get_autocommit(file->db))
                sqlite3_exec(file->db, "COMMIT", NULL, NULL, NULL);
        sqlite_file_finish(file);
        return r;
}

int sqlite_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata) {
        int r;

        r = sqlite_begin_call(session, call);
        for (size_t i = 0; r == 0 && i < n_keyspaces; i++) {
                struct guard guard = {call, session};
                struct stoke_end end;
                bool found = false;
                struct file *file;
                sqlite3 *db;
                char *path;

                if (!sql_name_valid(keyspaces[i].name, strlen(keyspaces[i].name))) {
                        r = visit(userdata, i, NULL) ? STOKE_STOPPED : 0;
                        continue;
                }
                r = sqlite_file_begin(session, &keyspaces[i], NULL, call, &file);
                if (r < 0)
                        return r;
                if (file) {
                        r = sqlite_file_end(file, call);
                        end = file->end;
                        found = true;
                        sqlite_file_finish(file);
                } else {
                        path = sqlite_path(session->store, &keyspaces[i], NULL, ".db");
                        if (!path)
                                return -ENOMEM;
                        if (sqlite_exists(path)) {
                                r = sqlite_open(path, &guard, call, &db);
                                if (r == 0) {
                                        r = sqlite_read_end(db, &end, &found, call);
                                        sqlite_close(db);
                                }
                        }
                        free(path);
                }
                if (r == 0 && visit(userdata, i, found ? &end : NULL))
                        r = STOKE_STOPPED;
        }
        return r;
}
