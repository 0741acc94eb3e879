/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQLite driver: the log in one file a keyspace, for one daemon at a time. Here is the plugin's descriptor and the
 * functions of the ABI; files and locks are in sqlite_file.c, installations in sqlite_install.c, what happens to the WAL
 * in sqlite_checkpoint.c. Functions run on the host's session threads, the helper on its own.
 *
 * An append is one transaction in WAL mode with synchronous=FULL. Since the keyspace is ours alone while it is acquired, its end is kept
 * in memory and read again after any error; the primary key would stop a stranger who ignored the lock.
 */
#include "sqlite.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct stoke_limits sqlite_limits = {
        .record_bytes = 16u << 20,
        .batch_bytes = 32u << 20,
        .batch_records = 4096,
};

const struct sql_dialect sqlite_dialect = {
        .integer = "INTEGER",
        .small = "INTEGER",
        .key_bytes = "BLOB",
        .value_bytes = "BLOB",
        .octet_length = "length",
        .table_suffix = "",
};

/* ---- store and sessions */

static const char *setting(const struct stoke_datastore *datastore, const char *name) {
        for (size_t i = 0; i < datastore->n_settings; i++)
                if (strcmp(datastore->settings[i].name, name) == 0)
                        return datastore->settings[i].value;
        return NULL;
}

static pthread_once_t configured = PTHREAD_ONCE_INIT;

static void configure(void) {
        /* Statistics cost a global lock at each allocation. Refused, harmlessly, if somebody else has initialised the library. */
        (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
        (void)sqlite3_initialize();
}

static void sqlite_store_close(struct stoke_store *store) {
        if (!store)
                return;
        sqlite_checkpoint_stop(store);
        for (size_t i = 0; i < SQLITE_LOG_BUCKETS; i++)
                while (store->buckets[i]) {
                        struct file *file = store->buckets[i];

                        store->buckets[i] = file->next;
                        sqlite_file_free(file);
                }
        pthread_cond_destroy(&store->changed);
        pthread_mutex_destroy(&store->mutex);
        free(store->directory);
        free(store->name);
        free(store);
}

static int sqlite_store_open(const struct stoke_datastore *datastore, const struct stoke_host *host,
        struct stoke_call *call, struct stoke_store **ret) {
        const char *path = setting(datastore, "path");
        struct stoke_store *store;

        pthread_once(&configured, configure);
        if (!path || path[0] != '/')
                return sql_fail(call, -EINVAL, "SQLite needs \"path\", the absolute path of a directory");
        if (datastore->n_endpoints > 0)
                return sql_fail(call, -EINVAL, "SQLite has no endpoints");
        for (size_t i = 0; i < datastore->n_settings; i++)
                if (strcmp(datastore->settings[i].name, "path") != 0)
                        return sql_fail(call, -EINVAL, "SQLite knows no parameter \"%s\"", datastore->settings[i].name);
        store = calloc(1, sizeof(*store));
        if (!store)
                return -ENOMEM;
        pthread_mutex_init(&store->mutex, NULL);
        pthread_cond_init(&store->changed, NULL);
        store->host = host;
        store->name = strdup(datastore->name);
        store->directory = strdup(path);
        if (!store->name || !store->directory) {
                sqlite_store_close(store);
                return -ENOMEM;
        }
        for (size_t n = strlen(store->directory); n > 1 && store->directory[n - 1] == '/'; n--)
                store->directory[n - 1] = '\0';
        *ret = store;
        return 0;
}

static int sqlite_connect(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_call *call,
        struct stoke_session **ret) {
        struct stoke_session *session;
        int r;

        (void)scope;
        r = sqlite_begin_call(NULL, call);
        if (r == 0)
                r = sqlite_make_directory(store, call);
        if (r < 0)
                return r;
        session = calloc(1, sizeof(*session));
        if (!session)
                return -ENOMEM;
        session->store = store;
        *ret = session;
        return 0;
}

static void sqlite_disconnect(struct stoke_session *session) {
        free(session);
}

static void sqlite_session_interrupt(struct stoke_session *session) {
        atomic_store(&session->interrupted, true);
}

/* ---- keyspaces */

static int check_name(const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        return sql_name_valid(keyspace->name, strlen(keyspace->name))
                ? 0
                : sql_fail(call, -EINVAL, "not a name for a keyspace");
}

static int begin_call(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        int r = sqlite_begin_call(session, call);

        return r < 0 ? r : check_name(keyspace, call);
}

static int sqlite_acquire(
        struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
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

static void sqlite_release(struct stoke_session *session, const struct stoke_keyspace *keyspace) {
        sqlite_file_free(sqlite_file_take(session->store, keyspace, NULL));
}

static int sqlite_create(struct stoke_session *session, const struct stoke_keyspace *keyspace,
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

static int sqlite_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
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

static int sqlite_list(struct stoke_session *session, struct stoke_call *call,
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

/* The acquired keyspace, locked for this call; STOKE_MISSING, or -ENOLCK if it was not acquired. */
static int begin_file(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct file **ret) {
        bool exists;
        char *path;
        int r;

        r = sqlite_begin_call(session, call);
        if (r < 0)
                return r;
        *ret = sqlite_file_begin(session, keyspace, NULL, call);
        if (*ret)
                return 0;
        r = check_name(keyspace, call);
        if (r < 0)
                return r;
        path = sqlite_path(session->store, keyspace, NULL, ".db");
        if (!path)
                return -ENOMEM;
        exists = sqlite_exists(path);
        free(path);
        return exists ? sql_fail(call, -ENOLCK, "the keyspace was not acquired") : STOKE_MISSING;
}

static int sqlite_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret) {
        sqlite3_stmt *stmt = NULL;
        struct file *file;
        int rc, r;

        r = begin_file(session, keyspace, call, &file);
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

/* ---- reading */

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
static int sqlite_load(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_end *after, bool with_values, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_record *record), void *userdata, struct stoke_end *ret_end) {
        struct sql_loading loading;
        struct stoke_origin origin;
        sqlite3_stmt *stmt = NULL;
        struct file *file;
        uint64_t n = 0;
        bool found = false;
        int rc, r;

        r = begin_file(session, keyspace, call, &file);
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

static int sqlite_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs,
        size_t n_seqs, struct stoke_call *call,
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size), void *userdata) {
        sqlite3_stmt *stmt;
        struct file *file;
        int rc, r;

        r = begin_file(session, keyspace, call, &file);
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

static int sqlite_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
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
                file = sqlite_file_begin(session, &keyspaces[i], NULL, call);
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

/* ---- writing */

static int append_records(struct file *file, const struct stoke_append *append, struct stoke_call *call) {
        const struct stoke_record *records = append->records;
        sqlite3_stmt *insert;
        size_t n = append->n_records;
        int rc, r;

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
                sqlite_file_rollback(file);
                return r;
        }
        file->end.seq = records[n - 1].seq;
        file->end.origin = records[n - 1].origin;
        file->n_records += n;
        return 0;
}

static int sqlite_append(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_append *append, struct stoke_call *call) {
        struct file *file;
        bool full;
        int r;

        r = sql_records_check(append->records, append->n_records, append->expected.seq, &sqlite_limits, call);
        if (r < 0)
                return r;
        r = begin_file(session, keyspace, call, &file);
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
static int sqlite_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call) {
        sqlite3_stmt *stmt;
        struct file *file;
        uint64_t n_gone = 0;
        bool full;
        int rc, r;

        r = begin_file(session, keyspace, call, &file);
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
                sqlite_file_rollback(file);
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

static const char *const aliases[] = {"sqlite", NULL};

STOKE_EXPORT extern const struct stoke_driver stoke_driver;
const struct stoke_driver stoke_driver = {
        .magic = STOKE_DRIVER_MAGIC,
        .abi_major = STOKE_ABI_MAJOR,
        .abi_minor = STOKE_ABI_MINOR,
        .size = sizeof(struct stoke_driver),
        .name = "SQLite",
        .aliases = aliases,
        .version = STOKE_VERSION,
        .maturity = STOKE_STABLE,
        .capabilities = STOKE_EXCLUSIVE,
        .limits = {.record_bytes = 16u << 20, .batch_bytes = 32u << 20, .batch_records = 4096},
        .open = sqlite_store_open,
        .close = sqlite_store_close,
        .check = sqlite_check,
        .connect = sqlite_connect,
        .disconnect = sqlite_disconnect,
        .interrupt = sqlite_session_interrupt,
        .acquire = sqlite_acquire,
        .release = sqlite_release,
        .create = sqlite_create,
        .drop = sqlite_drop,
        .list = sqlite_list,
        .stat = sqlite_stat,
        .load = sqlite_load,
        .values = sqlite_values,
        .append = sqlite_append,
        .ends = sqlite_ends,
        .compact = sqlite_compact,
        .install_begin = sqlite_install_begin,
        .install_feed = sqlite_install_feed,
        .install_commit = sqlite_install_commit,
        .install_abort = sqlite_install_abort,
};
