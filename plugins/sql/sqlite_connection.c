/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the SQLite driver: opened with their bounds and the check that the file is ours, what all of them can be asked, and SQLite's
 * results as those of the ABI. They are opened without SQLite's own mutexes, so one thread uses one at a time.
 */
#include "sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sqlite_guard_reason(const struct stoke_call *call, struct stoke_session *session) {
        if (session && atomic_load_explicit(&session->interrupted, memory_order_relaxed))
                return -ECANCELED;
        return call && sql_expired(call) ? -ETIMEDOUT : 0;
}

int sqlite_begin_call(struct stoke_session *session, struct stoke_call *call) {
        if (session)
                atomic_store(&session->interrupted, false);
        if (sql_expired(call))
                return sql_fail(call, -ETIMEDOUT, "the deadline has passed");
        return 0;
}

static int on_progress(void *userdata) {
        struct guard *guard = userdata;

        return sqlite_guard_reason(guard->call, guard->session) < 0;
}
static int on_busy(void *userdata, int n) {
        struct guard *guard = userdata;

        if (sqlite_guard_reason(guard->call, guard->session) < 0)
                return 0;
        usleep(n < 10 ? 500 : 5000);
        return 1;
}

int sqlite_fail(sqlite3 *db, int rc, struct stoke_session *session, struct stoke_call *call) {
        int r = sqlite_guard_reason(call, session), code;

        switch (rc & 0xff) {
        case SQLITE_INTERRUPT:
                code = r < 0 ? r : -ECANCELED;
                break;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                code = r < 0 ? r : -EBUSY;
                break;
        case SQLITE_FULL:
                code = -ENOSPC;
                break;
        case SQLITE_NOMEM:
                code = -ENOMEM;
                break;
        case SQLITE_PERM:
        case SQLITE_AUTH:
                code = -EACCES;
                break;
        case SQLITE_READONLY:
                code = -EROFS;
                break;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                code = -EUCLEAN;
                break;
        case SQLITE_CANTOPEN:
                code = db && sqlite3_system_errno(db) ? -sqlite3_system_errno(db) : -EIO;
                break;
        case SQLITE_TOOBIG:
                code = -EMSGSIZE;
                break;
        default:
                code = -EIO;
        }
        if (code == -ETIMEDOUT)
                return sql_fail(call, code, "the deadline has passed");
        if (code == -ECANCELED)
                return sql_fail(call, code, "interrupted");
        if (db && sqlite3_system_errno(db) && ((rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_CANTOPEN))
                return sql_fail(call, code, "%s (%s)", sqlite3_errmsg(db), strerror(sqlite3_system_errno(db)));
        return sql_fail(call, code, "%s", db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

int sqlite_exec(sqlite3 *db, const char *sql, struct stoke_session *session, struct stoke_call *call) {
        int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);

        return rc == SQLITE_OK ? 0 : sqlite_fail(db, rc, session, call);
}

/* One number from a pragma. */
static int read_number(sqlite3 *db, const char *sql, sqlite3_int64 *ret, struct stoke_call *call) {
        sqlite3_stmt *stmt = NULL;
        int rc, r = 0;

        rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
        if (rc == SQLITE_OK)
                rc = sqlite3_step(stmt);
        if (rc == SQLITE_ROW)
                *ret = sqlite3_column_int64(stmt, 0);
        else
                r = sqlite_fail(db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, NULL, call);
        sqlite3_finalize(stmt);
        return r;
}

void sqlite_close(sqlite3 *db) {
        if (db)
                sqlite3_close_v2(db);
}

int sqlite_open_raw(const char *path, struct stoke_call *call, sqlite3 **ret) {
        sqlite3 *db = NULL;
        int rc, r;

        rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
        if (rc != SQLITE_OK) {
                r = sqlite_fail(db, rc, NULL, call);
                sqlite_close(db);
                return r;
        }
        sqlite3_extended_result_codes(db, 1);
        sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        *ret = db;
        return 0;
}

int sqlite_check_format(sqlite3 *db, const char *path, struct stoke_call *call) {
        sqlite3_int64 application = 0, format = 0;
        int r;

        r = read_number(db, "PRAGMA application_id", &application, call);
        if (r == 0)
                r = read_number(db, "PRAGMA user_version", &format, call);
        if (r < 0)
                return r;
        if (application != SQLITE_LOG_APPLICATION)
                return sql_fail(call, -EBADMSG, "%s is not a keyspace of ours", path);
        if (format > SQLITE_LOG_FORMAT)
                return sql_fail(call, -EPROTONOSUPPORT,
                        "%s was written by a newer version, in format %lld; this one knows %d", path, (long long)format,
                        SQLITE_LOG_FORMAT);
        return 0;
}

int sqlite_open(const char *path, struct guard *guard, struct stoke_call *call, sqlite3 **ret) {
        sqlite3 *db = NULL;
        int r;

        r = sqlite_open_raw(path, call, &db);
        if (r < 0)
                return r;
        sqlite3_progress_handler(db, 2000, on_progress, guard);
        sqlite3_busy_handler(db, on_busy, guard);
        r = sqlite_check_format(db, path, call);
        if (r == 0)
                r = sqlite_exec(
                        db, "PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-512;", NULL, call);
        if (r < 0) {
                sqlite_close(db);
                return r;
        }
        *ret = db;
        return 0;
}

int sqlite_open_new(const char *path, struct guard *guard, struct stoke_call *call, sqlite3 **ret) {
        sqlite3 *db = NULL;
        char sql[256];
        int fd, r;

        /* Made here for its mode, which -wal and -shm then take over; nobody has a lock on it that closing could drop. */
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return sql_fail(call, -errno, "cannot make %s: %s", path, strerror(errno));
        if (fchmod(fd, 0600) < 0) {
                r = sql_fail(call, -errno, "cannot set the mode of %s: %s", path, strerror(errno));
                close(fd);
                return r;
        }
        close(fd);
        r = sqlite_open_raw(path, call, &db);
        if (r < 0)
                return r;
        sqlite3_progress_handler(db, 2000, on_progress, guard);
        sqlite3_busy_handler(db, on_busy, guard);
        snprintf(sql, sizeof(sql),
                "PRAGMA page_size=%d; PRAGMA synchronous=FULL; PRAGMA journal_mode=DELETE; PRAGMA application_id=%d; "
                "PRAGMA user_version=%d;",
                SQLITE_LOG_PAGE_SIZE, SQLITE_LOG_APPLICATION, SQLITE_LOG_FORMAT);
        r = sqlite_exec(db, sql, NULL, call);
        if (r < 0) {
                sqlite_close(db);
                return r;
        }
        *ret = db;
        return 0;
}

int sqlite_make_tables(sqlite3 *db, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct stoke_session *session, struct stoke_call *call) {
        sqlite3_stmt *stmt = NULL;
        char *text;
        int rc, r;

        text = sql_statement_text(&sqlite_dialect, SQL_CREATE_LOG, "log");
        if (!text)
                return -ENOMEM;
        r = sqlite_exec(db, text, session, call);
        free(text);
        if (r == 0)
                r = sqlite_exec(db,
                        "CREATE TABLE keyspace (name TEXT NOT NULL, incarnation BLOB NOT NULL, state INTEGER NOT NULL, "
                        "install_id BLOB)",
                        session, call);
        if (r < 0)
                return r;
        rc = sqlite3_prepare_v2(db, "INSERT INTO keyspace VALUES (?, ?, ?, ?)", -1, &stmt, NULL);
        if (rc == SQLITE_OK) {
                sqlite3_bind_text(stmt, 1, keyspace->name, -1, SQLITE_STATIC);
                sqlite3_bind_blob(stmt, 2, keyspace->incarnation, 16, SQLITE_STATIC);
                sqlite3_bind_int(stmt, 3, id ? SQL_INSTALLING : SQL_LIVE);
                if (id)
                        sqlite3_bind_blob(stmt, 4, id, 16, SQLITE_STATIC);
                rc = sqlite3_step(stmt);
        }
        if (rc != SQLITE_DONE)
                r = sqlite_fail(db, rc, session, call);
        sqlite3_finalize(stmt);
        return r;
}

int sqlite_read_identity(
        sqlite3 *db, const struct stoke_keyspace *keyspace, struct sql_found *ret, struct stoke_call *call) {
        sqlite3_stmt *stmt = NULL;
        int rc, r = 0;

        *ret = (struct sql_found){};
        rc = sqlite3_prepare_v2(db, "SELECT incarnation, state, install_id FROM keyspace", -1, &stmt, NULL);
        if (rc == SQLITE_OK)
                rc = sqlite3_step(stmt);
        if (rc != SQLITE_ROW) {
                r = sqlite_fail(db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, NULL, call);
        } else if (sqlite3_column_bytes(stmt, 0) != 16 ||
                memcmp(sqlite3_column_blob(stmt, 0), keyspace->incarnation, 16) != 0) {
                r = sql_fail(call, -EBADMSG, "the file of keyspace %s holds another incarnation", keyspace->name);
        } else {
                ret->state = sqlite3_column_int(stmt, 1) == SQL_INSTALLING ? SQL_INSTALLING : SQL_LIVE;
                ret->has_id = sqlite3_column_bytes(stmt, 2) == 16;
                if (ret->has_id)
                        memcpy(ret->id, sqlite3_column_blob(stmt, 2), 16);
        }
        sqlite3_finalize(stmt);
        return r;
}

int sqlite_step_end(sqlite3 *db, sqlite3_stmt *stmt, struct stoke_end *ret, bool *ret_found,
        struct stoke_session *session, struct stoke_call *call) {
        int rc = sqlite3_step(stmt), r = 0;

        *ret_found = rc == SQLITE_ROW;
        if (rc == SQLITE_ROW) {
                ret->seq = (uint64_t)sqlite3_column_int64(stmt, 0);
                if (!sql_origin_unpack(
                            sqlite3_column_blob(stmt, 1), (size_t)sqlite3_column_bytes(stmt, 1), &ret->origin))
                        r = sql_fail(call, -EUCLEAN, "record %llu has no origin", (unsigned long long)ret->seq);
        } else if (rc != SQLITE_DONE) {
                r = sqlite_fail(db, rc, session, call);
        }
        sqlite3_reset(stmt);
        return r;
}

int sqlite_read_end(sqlite3 *db, struct stoke_end *ret, bool *ret_found, struct stoke_call *call) {
        sqlite3_stmt *stmt = NULL;
        char *text;
        int rc, r;

        *ret_found = false;
        text = sql_statement_text(&sqlite_dialect, SQL_LAST, "log");
        if (!text)
                return -ENOMEM;
        rc = sqlite3_prepare_v2(db, text, -1, &stmt, NULL);
        free(text);
        r = rc == SQLITE_OK ? sqlite_step_end(db, stmt, ret, ret_found, NULL, call) : sqlite_fail(db, rc, NULL, call);
        sqlite3_finalize(stmt);
        return r;
}

int sqlite_insert(sqlite3 *db, sqlite3_stmt *stmt, const struct stoke_record *record) {
        uint8_t origin[SQL_ORIGIN_SIZE];
        int rc;

        (void)db;
        sql_origin_pack(&record->origin, origin);
        sqlite3_bind_int64(stmt, SQL_SEQ + 1, (sqlite3_int64)record->seq);
        sqlite3_bind_int64(stmt, SQL_REVISION + 1, record->revision);
        sqlite3_bind_int(stmt, SQL_KIND + 1, record->kind);
        sqlite3_bind_int64(stmt, SQL_CREATE_REVISION + 1, record->create_revision);
        sqlite3_bind_int64(stmt, SQL_VERSION + 1, record->version);
        sqlite3_bind_int64(stmt, SQL_LEASE + 1, record->lease);
        sqlite3_bind_blob(stmt, SQL_ORIGIN + 1, origin, SQL_ORIGIN_SIZE, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, SQL_HASH + 1, (sqlite3_int64)record->hash);
        /* A NULL pointer would bind NULL where an empty blob is meant. */
        rc = sqlite3_bind_blob64(
                stmt, SQL_KEY + 1, record->key_size ? record->key : "", record->key_size, SQLITE_STATIC);
        if (rc == SQLITE_OK)
                rc = sqlite3_bind_blob64(stmt, SQL_VALUE + 1, record->value_size ? record->value : "",
                        record->value_size, SQLITE_STATIC);
        if (rc == SQLITE_OK)
                rc = sqlite3_step(stmt);
        sqlite3_reset(stmt);
        return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int sqlite_check_name(const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        return sql_name_valid(keyspace->name, strlen(keyspace->name))
                ? 0
                : sql_fail(call, -EINVAL, "not a name for a keyspace");
}
