/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Installations in SQLite: a keyspace brought from elsewhere grows in NAME-INCARNATION-ID.installing, which nothing but
 * list looks at. Its commit appends the last record and says "live" inside, in one transaction; then the file, whole and without
 * a WAL, is renamed to what it becomes: that is the switch. Ids that have ended are remembered in installations.db.
 */
#include "sqlite.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- ended ids */

/* Whole, or not there: made aside by whoever has the lock of that name (which no keyspace has: it begins with a dot). */
static int make_ended(struct stoke_store *store, const char *path, struct guard *guard, struct stoke_call *call) {
        struct name_lock *lock = NULL;
        char *temporary = NULL;
        sqlite3 *db = NULL;
        int r;

        pthread_mutex_lock(&store->making);
        r = sqlite_lock(store, ".installations", call, &lock);
        if (r == STOKE_BUSY)
                r = -EBUSY;
        if (r < 0 || sqlite_exists(path))
                goto out;
        if (asprintf(&temporary, "%s/.installations.new", store->directory) < 0) {
                temporary = NULL;
                r = -ENOMEM;
                goto out;
        }
        r = sqlite_remove(store, temporary, call);
        if (r == 0)
                r = sqlite_open_new(temporary, guard, call, &db);
        if (r == 0)
                r = sqlite_exec(db, "CREATE TABLE ended (id BLOB PRIMARY KEY, how INTEGER NOT NULL) WITHOUT ROWID",
                        guard->session, call);
        sqlite_close(db);
        if (r == 0 && rename(temporary, path) < 0)
                r = sql_fail(call, -errno, "cannot rename %s: %s", temporary, strerror(errno));
        if (r == 0)
                r = sqlite_sync_directory(store, call);
out:
        sqlite_unlock(store, lock, false);
        pthread_mutex_unlock(&store->making);
        free(temporary);
        return r;
}

/* *ret NULL: there is none, and none was to be made. */
static int open_ended(
        struct stoke_store *store, struct guard *guard, bool make, struct stoke_call *call, sqlite3 **ret) {
        char *path;
        int r = 0;

        *ret = NULL;
        if (asprintf(&path, "%s/installations.db", store->directory) < 0)
                return -ENOMEM;
        if (make && !sqlite_exists(path))
                r = make_ended(store, path, guard, call);
        if (r == 0 && (make || sqlite_exists(path)))
                r = sqlite_open(path, guard, call, ret);
        free(path);
        return r;
}

int sqlite_end_id(struct stoke_session *session, const uint8_t id[16], enum sql_ended how, struct stoke_call *call) {
        struct guard guard = {call, session};
        sqlite3_stmt *stmt = NULL;
        sqlite3 *db;
        int rc, r;

        r = open_ended(session->store, &guard, true, call, &db);
        if (r < 0)
                return r;
        r = sqlite_exec(db, "PRAGMA synchronous=EXTRA", session, call);
        if (r == 0) {
                rc = sqlite3_prepare_v2(db, "INSERT OR IGNORE INTO ended VALUES (?, ?)", -1, &stmt, NULL);
                if (rc == SQLITE_OK) {
                        sqlite3_bind_blob(stmt, 1, id, 16, SQLITE_STATIC);
                        sqlite3_bind_int(stmt, 2, how);
                        rc = sqlite3_step(stmt);
                }
                if (rc != SQLITE_DONE)
                        r = sqlite_fail(db, rc, session, call);
                sqlite3_finalize(stmt);
        }
        sqlite_close(db);
        return r;
}

static int read_ended(
        struct stoke_session *session, const uint8_t id[16], enum sql_ended *ret, struct stoke_call *call) {
        struct guard guard = {call, session};
        sqlite3_stmt *stmt = NULL;
        sqlite3 *db;
        int rc, r;

        *ret = SQL_NOT_ENDED;
        r = open_ended(session->store, &guard, false, call, &db);
        if (r < 0 || !db)
                return r;
        rc = sqlite3_prepare_v2(db, "SELECT how FROM ended WHERE id = ?", -1, &stmt, NULL);
        if (rc == SQLITE_OK) {
                sqlite3_bind_blob(stmt, 1, id, 16, SQLITE_STATIC);
                rc = sqlite3_step(stmt);
        }
        if (rc == SQLITE_ROW)
                *ret = sqlite3_column_int(stmt, 0) == SQL_COMMITTED ? SQL_COMMITTED : SQL_ABORTED;
        else if (rc != SQLITE_DONE)
                r = sqlite_fail(db, rc, session, call);
        sqlite3_finalize(stmt);
        sqlite_close(db);
        return r;
}

/* ---- what is there */

int sqlite_find_installing(
        struct stoke_store *store, const struct stoke_keyspace *keyspace, uint8_t ret_id[16], struct stoke_call *call) {
        char table[SQL_TABLE_TEXT];
        struct dirent *entry;
        size_t size;
        DIR *dir;
        int r = 0;

        sql_table_text(keyspace, table);
        size = strlen(table);
        dir = opendir(store->directory);
        if (!dir)
                return errno == ENOENT
                        ? 0
                        : sql_fail(call, -errno, "cannot read %s: %s", store->directory, strerror(errno));
        while (r == 0 && (entry = readdir(dir))) {
                const char *name = entry->d_name;

                if (strncmp(name, table, size) == 0 && name[size] == '-' && strlen(name) > size + SQL_UUID_TEXT &&
                        strcmp(name + size + SQL_UUID_TEXT, ".installing") == 0 &&
                        sql_uuid_parse(name + size + 1, SQL_UUID_TEXT - 1, ret_id))
                        r = 1;
        }
        closedir(dir);
        return r;
}

/* With the lock of the name. */
static int find_state(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct sql_found *ret, struct stoke_call *call) {
        struct guard guard = {call, session};
        sqlite3 *db;
        char *path;
        int r;

        *ret = (struct sql_found){};
        path = sqlite_path(session->store, keyspace, NULL, ".db");
        if (!path)
                return -ENOMEM;
        if (sqlite_exists(path)) {
                r = sqlite_open(path, &guard, call, &db);
                if (r == 0) {
                        r = sqlite_read_identity(db, keyspace, ret, call);
                        sqlite_close(db);
                }
                ret->state = SQL_LIVE;
        } else {
                r = sqlite_find_installing(session->store, keyspace, ret->id, call);
                if (r > 0) {
                        ret->state = SQL_INSTALLING;
                        ret->has_id = true;
                        r = 0;
                }
        }
        free(path);
        return r < 0 ? r : read_ended(session, id, &ret->ended, call);
}

static int lock_name(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct name_lock **ret) {
        int r;

        *ret = NULL;
        r = sqlite_make_directory(session->store, call);
        if (r == 0)
                r = sqlite_lock(session->store, keyspace->name, call, ret);
        return r == STOKE_BUSY ? -EBUSY : r;
}

static int make_installation(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        struct guard guard = {call, session};
        char *path, *temporary;
        sqlite3 *db = NULL;
        int r = -ENOMEM;

        path = sqlite_path(session->store, keyspace, id, ".installing");
        temporary = sqlite_path(session->store, keyspace, id, ".new");
        if (path && temporary) {
                r = sqlite_remove(session->store, temporary, call);
                if (r == 0)
                        r = sqlite_open_new(temporary, &guard, call, &db);
                if (r == 0)
                        r = sqlite_exec(db, "BEGIN IMMEDIATE", session, call);
                if (r == 0)
                        r = sqlite_make_tables(db, keyspace, id, session, call);
                if (r == 0)
                        r = sqlite_exec(db, "COMMIT", session, call);
                sqlite_close(db);
                if (r == 0 && rename(temporary, path) < 0)
                        r = sql_fail(call, -errno, "cannot rename %s: %s", temporary, strerror(errno));
                if (r == 0)
                        r = sqlite_sync_directory(session->store, call);
        }
        free(temporary);
        free(path);
        return r;
}

/* Opens the installation to be held, unless it is; takes over the lock's reference then. */
static int hold(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct name_lock **lock, struct stoke_call *call, struct file **ret) {
        struct file *file;
        int r;

        r = sqlite_file_begin(session, keyspace, id, call, ret);
        if (r < 0 || *ret)
                return r;
        r = sqlite_file_new(session, keyspace, id, *lock, call, &file);
        if (r < 0)
                return r;
        *lock = NULL;
        if (!sqlite_file_put(file)) {
                sqlite_file_free(file);
                return sql_fail(call, -EBUSY, "another call works on this installation");
        }
        r = sqlite_file_begin(session, keyspace, id, call, ret);
        if (r < 0)
                return r;
        return *ret ? 0 : -EBUSY;
}

/* The records behind what is in already, in one transaction. After an error the end is read again. */
static int feed(
        struct file *file, const struct stoke_record *records, size_t n_records, bool live, struct stoke_call *call) {
        sqlite3_stmt *insert;
        int rc, r;

        r = sqlite_file_end(file, call);
        if (r == 0)
                r = sqlite_file_statement(file, SQL_INSERT, call, &insert);
        while (r == 0 && n_records > 0 && records->seq <= file->end.seq) {
                records++;
                n_records--;
        }
        if (r < 0 || (n_records == 0 && !live))
                return r;
        rc = sqlite3_step(file->begin);
        sqlite3_reset(file->begin);
        if (rc != SQLITE_DONE)
                return sqlite_fail(file->db, rc, file->session, call);
        rc = SQLITE_OK;
        for (size_t i = 0; rc == SQLITE_OK && i < n_records; i++)
                rc = sqlite_insert(file->db, insert, &records[i]);
        if (rc == SQLITE_OK && live)
                rc = sqlite3_exec(file->db, "UPDATE keyspace SET state = 2", NULL, NULL, NULL);
        if (rc == SQLITE_OK) {
                rc = sqlite3_step(file->commit);
                sqlite3_reset(file->commit);
        }
        if (rc != SQLITE_DONE) {
                r = sqlite_fail(file->db, rc, file->session, call);
                sqlite_file_commit_failed(file, rc);
                return r;
        }
        if (n_records > 0)
                file->end = (struct stoke_end){records[n_records - 1].seq, records[n_records - 1].origin};
        return 0;
}

/* ---- the four functions */

int sqlite_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq) {
        struct name_lock *lock = NULL;
        struct sql_found found;
        struct file *file;
        int r, result;

        r = sqlite_begin_call(session, call);
        if (r == 0)
                r = lock_name(session, keyspace, call, &lock);
        if (r == 0)
                r = find_state(session, keyspace, id, &found, call);
        if (r < 0)
                goto out;
        switch (sql_install_decide(SQL_BEGIN, &found, id, call, &result)) {
        case SQL_GO:
                break;
        case SQL_GO_ANEW:
                r = make_installation(session, keyspace, id, call);
                if (r < 0)
                        goto out;
                break;
        case SQL_ALREADY:
        case SQL_REFUSE:
                r = result;
                goto out;
        }
        r = hold(session, keyspace, id, &lock, call, &file);
        if (r == 0) {
                /* Records are synced by the commit, which syncs all of the WAL before it; a crash before it loses some, and begin says so. */
                r = sqlite_exec(file->db, "PRAGMA synchronous=NORMAL", session, call);
                if (r == 0)
                        r = sqlite_file_end(file, call);
                if (r == 0)
                        *ret_seq = file->end.seq;
                sqlite_file_finish(file);
        }
out:
        sqlite_unlock(session->store, lock, true);
        return r;
}

int sqlite_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call) {
        struct name_lock *lock = NULL;
        struct sql_found found;
        struct file *file;
        int r, result, pages;

        r = sqlite_begin_call(session, call);
        if (r == 0)
                r = sql_records_check(records, n_records, UINT64_MAX, &sqlite_limits, call);
        if (r < 0)
                return r;
        r = sqlite_file_begin(session, keyspace, id, call, &file);
        if (r < 0)
                return r;
        if (!file) {
                r = lock_name(session, keyspace, call, &lock);
                if (r == 0)
                        r = find_state(session, keyspace, id, &found, call);
                if (r == 0 && sql_install_decide(SQL_FEED, &found, id, call, &result) != SQL_GO)
                        r = result;
                if (r == 0)
                        r = hold(session, keyspace, id, &lock, call, &file);
                sqlite_unlock(session->store, lock, true);
                if (r != 0)
                        return r;
        }
        r = feed(file, records, n_records, false, call);
        pages = file->wal_pages;
        if (pages >= SQLITE_LOG_WAL_PAGES) {
                int rc = sqlite3_wal_checkpoint_v2(file->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);

                if (rc != SQLITE_OK)
                        sqlite_file_checkpoint_failed(file, rc);
                file->wal_pages = 0;
        }
        sqlite_file_finish(file);
        return r;
}

static int finish_file(struct file *file, const struct stoke_record *last, struct stoke_call *call) {
        struct sql_found found;
        struct stoke_keyspace keyspace = {.name = file->name};
        sqlite3_stmt *stmt = NULL;
        int rc, r;

        memcpy(keyspace.incarnation, file->incarnation, 16);
        r = sqlite_exec(file->db, "PRAGMA synchronous=FULL", file->session, call);
        if (r == 0)
                r = sqlite_read_identity(file->db, &keyspace, &found, call);
        if (r == 0)
                r = sqlite_file_end(file, call);
        if (r < 0)
                return r;
        if (found.state != SQL_LIVE) {
                if (last->seq <= file->end.seq)
                        return sql_fail(call, -EINVAL, "the last record, %llu, is not behind %llu, which is in already",
                                (unsigned long long)last->seq, (unsigned long long)file->end.seq);
                r = feed(file, last, 1, true, call);
                if (r < 0)
                        return r;
        }
        /* Back to a journal: this writes all of the WAL into the file, syncs it, and removes the WAL, or says that it did not. */
        for (size_t i = 0; i < SQL_N_STATEMENTS; i++) {
                sqlite3_finalize(file->statements[i]);
                file->statements[i] = NULL;
        }
        rc = sqlite3_prepare_v2(file->db, "PRAGMA journal_mode=DELETE", -1, &stmt, NULL);
        if (rc == SQLITE_OK)
                rc = sqlite3_step(stmt);
        if (rc != SQLITE_ROW)
                r = sqlite_fail(file->db, rc, file->session, call);
        else if (strcmp((const char *)sqlite3_column_text(stmt, 0), "delete") != 0)
                r = sql_fail(call, -EBUSY, "the installation's WAL could not be written back");
        else if ((rc = sqlite3_step(stmt)) != SQLITE_DONE) /* only here the change of mode is committed to the file */
                r = sqlite_fail(file->db, rc, file->session, call);
        sqlite3_finalize(stmt);
        return r;
}

int sqlite_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        char *path = NULL, *installing = NULL, *wal = NULL;
        struct name_lock *lock = NULL;
        struct stoke_call quiet;
        struct sql_found found;
        struct file *file;
        char reason[256];
        int r, result;

        r = sqlite_begin_call(session, call);
        if (r == 0)
                r = sql_records_check(last, 1, UINT64_MAX, &sqlite_limits, call);
        if (r == 0)
                r = lock_name(session, keyspace, call, &lock);
        if (r == 0)
                r = find_state(session, keyspace, id, &found, call);
        if (r < 0)
                goto out;
        if (sql_install_decide(SQL_COMMIT, &found, id, call, &result) != SQL_GO) {
                r = result;
                goto out;
        }
        r = -ENOMEM;
        path = sqlite_path(store, keyspace, NULL, ".db");
        installing = sqlite_path(store, keyspace, id, ".installing");
        wal = sqlite_path(store, keyspace, id, ".installing-wal");
        if (!path || !installing || !wal)
                goto out;
        r = hold(session, keyspace, id, &lock, call, &file);
        if (r < 0)
                goto out;
        r = finish_file(file, last, call);
        sqlite_file_finish(file);
        /* Closed in any case: its mode has changed, or it is in doubt. The name stays locked through a reference of our own. */
        if (!lock && sqlite_lock(store, keyspace->name, call, &lock) != 0) {
                r = -EBUSY;
                goto out;
        }
        sqlite_file_free(sqlite_file_take(store, keyspace, id));
        if (r == 0 && sqlite_exists(wal))
                r = sql_fail(call, -EBUSY, "the installation's WAL is still there");
        if (r < 0)
                goto out;
        if (rename(installing, path) < 0) {
                r = sql_fail(call, -errno, "cannot rename %s: %s", installing, strerror(errno));
                goto out;
        }
        r = sqlite_sync_directory(store, call);
        if (r < 0) {
                r = STOKE_UNKNOWN;
                goto out;
        }
        /* The file itself knows its id, and drop writes it down; this is for whoever asks before. */
        quiet = *call;
        quiet.reason = reason;
        quiet.reason_size = sizeof(reason);
        (void)sqlite_end_id(session, id, SQL_COMMITTED, &quiet);
out:
        free(wal);
        free(installing);
        free(path);
        sqlite_unlock(store, lock, true);
        return r;
}

int sqlite_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct name_lock *lock = NULL;
        struct sql_found found;
        char *path = NULL;
        int r, result;

        r = sqlite_begin_call(session, call);
        if (r == 0)
                r = lock_name(session, keyspace, call, &lock);
        if (r == 0)
                r = find_state(session, keyspace, id, &found, call);
        if (r < 0)
                goto out;
        switch (sql_install_decide(SQL_ABORT, &found, id, call, &result)) {
        case SQL_GO:
        case SQL_GO_ANEW:
                break;
        case SQL_ALREADY:
        case SQL_REFUSE:
                r = result;
                goto out;
        }
        /* Remembered first: from here on it cannot be committed, whatever becomes of the file. */
        r = sqlite_end_id(session, id, SQL_ABORTED, call);
        if (r < 0)
                goto out;
        sqlite_file_free(sqlite_file_take(store, keyspace, id));
        r = -ENOMEM;
        path = sqlite_path(store, keyspace, id, ".installing");
        if (path)
                r = sqlite_remove(store, path, call);
out:
        free(path);
        sqlite_unlock(store, lock, true);
        return r;
}
