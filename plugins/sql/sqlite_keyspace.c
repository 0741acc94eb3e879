/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keyspaces of the SQLite driver as a whole: taken and given back, made, dropped, listed, measured. Whatever is made is made aside and
 * appears by a rename. Runs on the host's session threads.
 */
#include "sqlite.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int begin_call(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        int r = sqlite_begin_call(session, call);

        return r < 0 ? r : sqlite_check_name(keyspace, call);
}

int sqlite_acquire(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct name_lock *lock = NULL;
        struct file *file;
        char *path;
        int r;

        r = begin_call(session, keyspace, call);
        if (r < 0)
                return r;
        if (sqlite_file_held(store, keyspace, NULL))
                return sql_fail(call, STOKE_BUSY, "this daemon has it already");
        path = sqlite_path(store, keyspace, NULL, ".db");
        if (!path)
                return -ENOMEM;
        r = sqlite_exists(path) ? 0 : STOKE_MISSING;
        if (r == 0)
                r = sqlite_lock(store, keyspace->name, call, &lock);
        if (r == 0 && !sqlite_exists(path)) /* dropped before we had the lock */
                r = STOKE_MISSING;
        free(path);
        if (r == 0)
                r = sqlite_file_new(session, keyspace, NULL, lock, call, &file);
        if (r != 0) {
                sqlite_unlock(store, lock, r == STOKE_MISSING);
                return r;
        }
        if (!sqlite_file_put(file)) {
                sqlite_file_free(file);
                return sql_fail(call, STOKE_BUSY, "this daemon has it already");
        }
        return 0;
}

void sqlite_release(struct stoke_session *session, const struct stoke_keyspace *keyspace) {
        sqlite_file_free(sqlite_file_take(session->store, keyspace, NULL));
}

int sqlite_create(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_record *first, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct guard guard = {call, session};
        char *path = NULL, *temporary = NULL, *text = NULL;
        struct name_lock *lock = NULL;
        sqlite3_stmt *insert = NULL;
        sqlite3 *db = NULL;
        uint8_t id[16];
        int r, rc;

        r = begin_call(session, keyspace, call);
        if (r == 0)
                r = sql_records_check(first, 1, 0, &sqlite_limits, call);
        if (r < 0)
                return r;
        r = -ENOMEM;
        path = sqlite_path(store, keyspace, NULL, ".db");
        temporary = sqlite_path(store, keyspace, NULL, ".new");
        text = sql_statement_text(&sqlite_dialect, SQL_INSERT, "log");
        if (!path || !temporary || !text)
                goto out;
        r = 0;
        if (sqlite_exists(path))
                goto out;
        r = sqlite_lock(store, keyspace->name, call, &lock);
        if (r == STOKE_BUSY)
                r = -EBUSY;
        if (r < 0 || sqlite_exists(path))
                goto out;
        r = sqlite_find_installing(store, keyspace, id, call);
        if (r > 0)
                r = sql_fail(call, -EEXIST, "the keyspace is being installed");
        if (r == 0)
                r = sqlite_remove(store, temporary, call);
        if (r == 0)
                r = sqlite_remove(store, path, call); /* a -wal that a drop cut short has left */
        if (r == 0)
                r = sqlite_open_new(temporary, &guard, call, &db);
        if (r == 0)
                r = sqlite_exec(db, "BEGIN IMMEDIATE", session, call);
        if (r == 0)
                r = sqlite_make_tables(db, keyspace, NULL, session, call);
        if (r == 0) {
                rc = sqlite3_prepare_v2(db, text, -1, &insert, NULL);
                if (rc == SQLITE_OK)
                        rc = sqlite_insert(db, insert, first);
                if (rc != SQLITE_OK)
                        r = sqlite_fail(db, rc, session, call);
                sqlite3_finalize(insert);
        }
        if (r == 0)
                r = sqlite_exec(db, "COMMIT", session, call);
        sqlite_close(db);
        if (r == 0 && rename(temporary, path) < 0)
                r = sql_fail(call, -errno, "cannot rename %s: %s", temporary, strerror(errno));
        if (r == 0)
                r = sqlite_sync_directory(store, call);
        else
                (void)unlink(temporary);
out:
        sqlite_unlock(store, lock, r != 0);
        free(text);
        free(temporary);
        free(path);
        return r;
}

int sqlite_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct guard guard = {call, session};
        struct name_lock *lock = NULL;
        struct sql_found found = {};
        sqlite3 *db;
        char *path;
        int r;

        r = begin_call(session, keyspace, call);
        if (r < 0)
                return r;
        if (sqlite_file_held(store, keyspace, NULL))
                return sql_fail(call, -EBUSY, "the keyspace is in use by this daemon");
        path = sqlite_path(store, keyspace, NULL, ".db");
        if (!path)
                return -ENOMEM;
        r = sqlite_lock(store, keyspace->name, call, &lock);
        if (r == STOKE_BUSY)
                r = -EBUSY;
        if (r == 0 && sqlite_exists(path)) {
                /* An installation's id must not be used again after it; a file that cannot be read may go all the same. */
                r = sqlite_open(path, &guard, call, &db);
                if (r == 0) {
                        r = sqlite_read_identity(db, keyspace, &found, call);
                        sqlite_close(db);
                }
                if (r == -EUCLEAN || r == -EBADMSG || r == -EPROTONOSUPPORT)
                        r = 0;
                if (r == 0 && found.has_id)
                        r = sqlite_end_id(session, found.id, SQL_COMMITTED, call);
        }
        if (r == 0)
                r = sqlite_remove(store, path, call);
        sqlite_unlock(store, lock, true);
        free(path);
        return r;
}

int sqlite_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata) {
        struct dirent *entry;
        DIR *dir;
        int r;

        r = sqlite_begin_call(session, call);
        if (r < 0)
                return r;
        dir = opendir(session->store->directory);
        if (!dir)
                return sql_fail(call, -errno, "cannot read %s: %s", session->store->directory, strerror(errno));
        while (r == 0 && (entry = readdir(dir))) {
                struct stoke_keyspace_info info = {.size = sizeof(info)};
                char name[SQL_NAME_MAX + 1];
                size_t size = strlen(entry->d_name);

                info.name = name;
                if (size > 3 && strcmp(entry->d_name + size - 3, ".db") == 0 &&
                        sql_table_parse(entry->d_name, size - 3, name, info.incarnation)) {
                        r = visit(userdata, &info) ? STOKE_STOPPED : 0;
                } else if (size > 11 + SQL_UUID_TEXT && strcmp(entry->d_name + size - 11, ".installing") == 0 &&
                        sql_uuid_parse(entry->d_name + size - 11 - 32, 32, info.install_id) &&
                        sql_table_parse(entry->d_name, size - 11 - 33, name, info.incarnation)) {
                        info.installing = true;
                        r = visit(userdata, &info) ? STOKE_STOPPED : 0;
                }
        }
        closedir(dir);
        return r;
}

int sqlite_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret) {
        sqlite3_stmt *stmt = NULL;
        struct file *file;
        int rc, r;

        r = sqlite_file_begin_acquired(session, keyspace, call, &file);
        if (r != 0)
                return r;
        rc = sqlite3_prepare_v2(file->db,
                "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size), "
                "(SELECT seq FROM log ORDER BY seq LIMIT 1)",
                -1, &stmt, NULL);
        if (rc == SQLITE_OK)
                rc = sqlite3_step(stmt);
        r = rc == SQLITE_ROW ? sqlite_file_end(file, call) : sqlite_fail(file->db, rc, session, call);
        if (r == 0) {
                ret->bytes = (uint64_t)sqlite3_column_int64(stmt, 0);
                /* Counting would read every page: known since a full load, else what there would be without holes. */
                ret->n_records =
                        file->counted ? file->n_records : file->end.seq - (uint64_t)sqlite3_column_int64(stmt, 1) + 1;
        }
        sqlite3_finalize(stmt);
        sqlite_file_finish(file);
        return r;
}
