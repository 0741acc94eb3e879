/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the SQLite driver: their paths, the lock on a keyspace's name, connections, and the table of databases that
 * are held open. Runs on session threads; a connection is opened without SQLite's own mutexes and guarded by the file's.
 */
#include "sqlite.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sqlite_store_log(struct stoke_store *store, int level, const char *format, ...) {
        char line[512];
        va_list args;

        va_start(args, format);
        vsnprintf(line, sizeof(line), format, args);
        va_end(args);
        if (store->host && store->host->log)
                store->host->log(store->host->userdata, level, line);
        return 0;
}

char *sqlite_path(
        const struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id, const char *suffix) {
        char table[SQL_TABLE_TEXT], uuid[SQL_UUID_TEXT] = "";
        char *path;

        sql_table_text(keyspace, table);
        if (id)
                sql_uuid_text(id, uuid);
        if (asprintf(&path, "%s/%s%s%s%s", store->directory, table, id ? "-" : "", uuid, suffix) < 0)
                return NULL;
        return path;
}

bool sqlite_exists(const char *path) {
        return access(path, F_OK) == 0;
}

int sqlite_sync_directory(struct stoke_store *store, struct stoke_call *call) {
        int fd, r = 0;

        fd = open(store->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
                r = sql_fail(call, -errno, "cannot sync %s: %s", store->directory, strerror(errno));
        if (fd >= 0)
                close(fd);
        return r;
}

int sqlite_remove(struct stoke_store *store, const char *path, struct stoke_call *call) {
        static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};

        /* The database first, and for certain: a WAL without its database is nothing, a database without its WAL has lost records. */
        for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
                char *name;
                int r = 0;

                if (asprintf(&name, "%s%s", path, suffixes[i]) < 0)
                        return -ENOMEM;
                if (unlink(name) < 0 && errno != ENOENT)
                        r = sql_fail(call, -errno, "cannot remove %s: %s", name, strerror(errno));
                free(name);
                if (r == 0 && i == 0)
                        r = sqlite_sync_directory(store, call);
                if (r < 0)
                        return r;
        }
        return sqlite_sync_directory(store, call);
}

int sqlite_make_directory(struct stoke_store *store, struct stoke_call *call) {
        struct stat st;

        if (mkdir(store->directory, 0700) < 0 && errno != EEXIST)
                return sql_fail(call, -errno, "cannot make the directory %s: %s", store->directory, strerror(errno));
        if (stat(store->directory, &st) < 0)
                return sql_fail(call, -errno, "cannot look at %s: %s", store->directory, strerror(errno));
        if (!S_ISDIR(st.st_mode))
                return sql_fail(call, -ENOTDIR, "%s is not a directory", store->directory);
        if (access(store->directory, R_OK | W_OK | X_OK) < 0)
                return sql_fail(call, -errno, "cannot write in %s: %s", store->directory, strerror(errno));
        return 0;
}

/* ---- the lock on a name */

static int lock_file(struct stoke_store *store, const char *path, struct stoke_call *call, int *ret_fd) {
        (void)store;
        for (;;) {
                struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
                struct stat here, there;
                char text[32];
                ssize_t n;
                int fd;

                fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
                if (fd < 0)
                        return sql_fail(call, -errno, "cannot open %s: %s", path, strerror(errno));
                if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
                        int code = errno;

                        n = pread(fd, text, sizeof(text) - 1, 0);
                        text[n > 0 ? n : 0] = '\0';
                        text[strcspn(text, "\n")] = '\0';
                        close(fd);
                        if (code != EAGAIN && code != EACCES)
                                return sql_fail(call, -code, "cannot lock %s: %s", path, strerror(code));
                        return text[0] ? sql_fail(call, STOKE_BUSY, "%s is held by process %s", path, text)
                                       : sql_fail(call, STOKE_BUSY, "%s is held by another process", path);
                }
                /* Whoever held it last may have removed it between our open and our lock. */
                if (fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_ino == there.st_ino &&
                        here.st_dev == there.st_dev) {
                        n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
                        if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) < 0) {
                                int code =
                                        errno; /* a full disk, for one: the lock stands, only the name of its holder is lost */

                                if (code != ENOSPC && code != EDQUOT) {
                                        close(fd);
                                        return sql_fail(call, -code, "cannot write %s: %s", path, strerror(code));
                                }
                        }
                        *ret_fd = fd;
                        return 0;
                }
                close(fd);
        }
}

int sqlite_lock(struct stoke_store *store, const char *name, struct stoke_call *call, struct name_lock **ret) {
        struct name_lock *lock;
        char *path;
        int r;

        pthread_mutex_lock(&store->mutex);
        for (lock = store->locks; lock; lock = lock->next)
                if (strcmp(lock->name, name) == 0)
                        break;
        if (lock) {
                lock->n_refs++;
                pthread_mutex_unlock(&store->mutex);
                *ret = lock;
                return 0;
        }
        /* A few system calls that do not block: the mutex may stay. */
        r = -ENOMEM;
        lock = calloc(1, sizeof(*lock));
        if (lock && asprintf(&path, "%s/%s.lock", store->directory, name) >= 0) {
                r = lock_file(store, path, call, &lock->fd);
                free(path);
        }
        if (r == 0) {
                snprintf(lock->name, sizeof(lock->name), "%s", name);
                lock->n_refs = 1;
                lock->next = store->locks;
                store->locks = lock;
                *ret = lock;
        } else {
                free(lock);
        }
        pthread_mutex_unlock(&store->mutex);
        return r;
}

/* Does any file of this name remain, but its lock? */
static bool name_in_use(struct stoke_store *store, const char *name) {
        size_t size = strlen(name);
        struct dirent *entry;
        bool found = false;
        DIR *dir;

        dir = opendir(store->directory);
        if (!dir)
                return true;
        while (!found && (entry = readdir(dir))) {
                char other[SQL_NAME_MAX + 1];
                uint8_t incarnation[16];

                found = strlen(entry->d_name) >= size + SQL_UUID_TEXT &&
                        sql_table_parse(entry->d_name, size + SQL_UUID_TEXT, other, incarnation) &&
                        strcmp(other, name) == 0;
        }
        closedir(dir);
        return found;
}

void sqlite_unlock(struct stoke_store *store, struct name_lock *lock, bool last) {
        struct name_lock **p;
        char *path;

        if (!lock)
                return;
        pthread_mutex_lock(&store->mutex);
        if (--lock->n_refs == 0) {
                for (p = &store->locks; *p != lock; p = &(*p)->next)
                        ;
                *p = lock->next;
                /* Removed while it is held: see lock_file(). */
                if (last && !name_in_use(store, lock->name) &&
                        asprintf(&path, "%s/%s.lock", store->directory, lock->name) >= 0) {
                        unlink(path);
                        free(path);
                }
                close(lock->fd);
                free(lock);
        }
        pthread_mutex_unlock(&store->mutex);
}

/* ---- connections */

static int guard_reason(const struct stoke_call *call, struct stoke_session *session) {
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

        return guard_reason(guard->call, guard->session) < 0;
}
static int on_busy(void *userdata, int n) {
        struct guard *guard = userdata;

        if (guard_reason(guard->call, guard->session) < 0)
                return 0;
        usleep(n < 10 ? 500 : 5000);
        return 1;
}
static int on_file_progress(void *userdata) {
        struct file *file = userdata;

        return guard_reason(file->call, file->session) < 0;
}
static int on_file_busy(void *userdata, int n) {
        struct file *file = userdata;

        if (guard_reason(file->call, file->session) < 0)
                return 0;
        usleep(n < 10 ? 500 : 5000);
        return 1;
}

int sqlite_fail(sqlite3 *db, int rc, struct stoke_session *session, struct stoke_call *call) {
        int r = guard_reason(call, session), code;

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

static int open_raw(const char *path, struct stoke_call *call, sqlite3 **ret) {
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

static int check_format(sqlite3 *db, const char *path, struct stoke_call *call) {
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

        r = open_raw(path, call, &db);
        if (r < 0)
                return r;
        sqlite3_progress_handler(db, 2000, on_progress, guard);
        sqlite3_busy_handler(db, on_busy, guard);
        r = check_format(db, path, call);
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
        r = open_raw(path, call, &db);
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

static int step_end(sqlite3 *db, sqlite3_stmt *stmt, struct stoke_end *ret, bool *ret_found,
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
        r = rc == SQLITE_OK ? step_end(db, stmt, ret, ret_found, NULL, call) : sqlite_fail(db, rc, NULL, call);
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

/* ---- databases that are held open */

static int on_wal(void *userdata, sqlite3 *db, const char *schema, int n_pages) {
        struct file *file = userdata;

        (void)db;
        (void)schema;
        file->wal_pages = n_pages;
        return SQLITE_OK;
}

static int prepare_kept(struct file *file, const char *text, sqlite3_stmt **ret, struct stoke_call *call) {
        int rc = sqlite3_prepare_v3(file->db, text, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);

        return rc == SQLITE_OK ? 0 : sqlite_fail(file->db, rc, file->session, call);
}

int sqlite_file_statement(struct file *file, enum sql_statement which, struct stoke_call *call, sqlite3_stmt **ret) {
        if (!file->statements[which]) {
                char *text = sql_statement_text(&sqlite_dialect, which, "log");
                int r = text ? prepare_kept(file, text, &file->statements[which], call) : -ENOMEM;

                free(text);
                if (r < 0)
                        return r;
        }
        *ret = file->statements[which];
        return 0;
}

int sqlite_file_end(struct file *file, struct stoke_call *call) {
        sqlite3_stmt *stmt;
        bool found;
        int r;

        if (file->end_known)
                return 0;
        r = sqlite_file_statement(file, SQL_LAST, call, &stmt);
        if (r == 0)
                r = step_end(file->db, stmt, &file->end, &found, file->session, call);
        if (r < 0)
                return r;
        if (!found) {
                if (!file->installing)
                        return sql_fail(call, -EUCLEAN, "the log has no records");
                file->end = (struct stoke_end){};
        }
        file->end_known = true;
        return 0;
}

void sqlite_file_rollback(struct file *file) {
        const struct stoke_call *call = file->call;
        struct stoke_session *session = file->session;

        file->end_known = false;
        if (sqlite3_get_autocommit(file->db))
                return;
        file->call = NULL;
        file->session = NULL;
        sqlite3_step(file->rollback);
        sqlite3_reset(file->rollback);
        file->call = call;
        file->session = session;
}

int sqlite_file_new(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct name_lock *lock, struct stoke_call *call, struct file **ret) {
        struct sql_found found;
        struct file *file;
        int r;

        file = calloc(1, sizeof(*file));
        if (!file)
                return -ENOMEM;
        pthread_mutex_init(&file->mutex, NULL);
        file->store = session->store;
        file->lock = lock;
        file->session = session;
        file->call = call;
        file->next_inline = SQLITE_LOG_WAL_PAGES * SQLITE_LOG_WAL_FACTOR;
        snprintf(file->name, sizeof(file->name), "%s", keyspace->name);
        memcpy(file->incarnation, keyspace->incarnation, 16);
        if (id) {
                file->installing = true;
                memcpy(file->install_id, id, 16);
        }
        r = -ENOMEM;
        file->path = sqlite_path(file->store, keyspace, id, id ? ".installing" : ".db");
        if (file->path)
                r = open_raw(file->path, call, &file->db);
        if (r == 0) {
                sqlite3_progress_handler(file->db, 2000, on_file_progress, file);
                sqlite3_busy_handler(file->db, on_file_busy, file);
                r = check_format(file->db, file->path, call);
        }
        if (r == 0)
                r = sqlite_read_identity(file->db, keyspace, &found, call);
        if (r == 0 && !id && found.state != SQL_LIVE)
                r = sql_fail(call, -EBADMSG, "%s is an installation that was never committed", file->path);
        if (r == 0)
                r = sqlite_exec(file->db,
                        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; "
                        "PRAGMA cache_size=-1024; PRAGMA secure_delete=OFF; PRAGMA wal_autocheckpoint=0;",
                        session, call);
        if (r == 0) {
                sqlite3_wal_hook(file->db, on_wal, file);
                r = prepare_kept(file, "BEGIN IMMEDIATE", &file->begin, call);
        }
        if (r == 0)
                r = prepare_kept(file, "COMMIT", &file->commit, call);
        if (r == 0)
                r = prepare_kept(file, "ROLLBACK", &file->rollback, call);
        if (r == 0)
                r = sqlite_file_end(file, call);
        file->session = NULL;
        file->call = NULL;
        if (r < 0) {
                file->lock = NULL; /* stays the caller's */
                sqlite_file_free(file);
                return r;
        }
        *ret = file;
        return 0;
}

void sqlite_file_free(struct file *file) {
        if (!file)
                return;
        for (size_t i = 0; i < SQL_N_STATEMENTS; i++)
                sqlite3_finalize(file->statements[i]);
        sqlite3_finalize(file->begin);
        sqlite3_finalize(file->commit);
        sqlite3_finalize(file->rollback);
        sqlite_close(file->checkpoint_db);
        sqlite_close(file->db);
        sqlite_unlock(file->store, file->lock, false);
        pthread_mutex_destroy(&file->mutex);
        free(file->path);
        free(file);
}

/* An incarnation is random: its first byte spreads well. Installations and acquired keyspaces share the table. */
static struct file **find(struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id) {
        struct file **p;

        for (p = &store->buckets[keyspace->incarnation[0] % SQLITE_LOG_BUCKETS]; *p; p = &(*p)->next) {
                struct file *file = *p;

                if (file->installing == (id != NULL) && memcmp(file->incarnation, keyspace->incarnation, 16) == 0 &&
                        strcmp(file->name, keyspace->name) == 0 && (!id || memcmp(file->install_id, id, 16) == 0))
                        break;
        }
        return p;
}

struct file *sqlite_file_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct file *file;

        pthread_mutex_lock(&store->mutex);
        file = *find(store, keyspace, id);
        pthread_mutex_unlock(&store->mutex);
        if (!file)
                return NULL;
        /* The host lets no two functions run on one keyspace, so nobody releases it under us. */
        pthread_mutex_lock(&file->mutex);
        file->session = session;
        file->call = call;
        return file;
}

void sqlite_file_finish(struct file *file) {
        file->session = NULL;
        file->call = NULL;
        pthread_mutex_unlock(&file->mutex);
}

bool sqlite_file_held(struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id) {
        bool held;

        pthread_mutex_lock(&store->mutex);
        held = *find(store, keyspace, id) != NULL;
        pthread_mutex_unlock(&store->mutex);
        return held;
}

bool sqlite_file_put(struct file *file) {
        struct stoke_keyspace keyspace = {.name = file->name};
        struct file **p;
        bool free_place;

        memcpy(keyspace.incarnation, file->incarnation, 16);
        pthread_mutex_lock(&file->store->mutex);
        p = find(file->store, &keyspace, file->installing ? file->install_id : NULL);
        free_place = *p == NULL;
        if (free_place)
                *p = file;
        pthread_mutex_unlock(&file->store->mutex);
        return free_place;
}

struct file *sqlite_file_take(struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id) {
        struct file **p, *file;

        pthread_mutex_lock(&store->mutex);
        while ((file = *find(store, keyspace, id)) && file->checkpointing)
                pthread_cond_wait(&store->changed, &store->mutex);
        if (file) {
                p = find(store, keyspace, id);
                *p = file->next;
                file->next = NULL;
                if (file->queued)
                        for (p = &store->queue; *p; p = &(*p)->queue_next)
                                if (*p == file) {
                                        *p = file->queue_next;
                                        break;
                                }
                file->queued = false;
        }
        pthread_mutex_unlock(&store->mutex);
        return file;
}
