/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Databases of the SQLite driver that are held open, and the table of them: keyspaces that are acquired, and installations. Runs on session
 * threads; a file's connection is guarded by the file's mutex.
 */
#include "sqlite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int on_file_progress(void *userdata) {
        struct file *file = userdata;

        return sqlite_guard_reason(file->call, file->session) < 0;
}
static int on_file_busy(void *userdata, int n) {
        struct file *file = userdata;

        if (sqlite_guard_reason(file->call, file->session) < 0)
                return 0;
        usleep(n < 10 ? 500 : 5000);
        return 1;
}

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
                r = sqlite_step_end(file->db, stmt, &file->end, &found, file->session, call);
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

/* Ends what was begun; the deadline of the call does not bound it. */
void sqlite_file_commit_failed(struct file *file, int rc) {
        switch (rc & 0xff) {
        case SQLITE_FULL: /* nothing was synced, and what was written lies behind the end, where the next append overwrites it */
        case SQLITE_BUSY:
        case SQLITE_INTERRUPT:
                break;
        default:
                atomic_store(&file->doubtful, true);
        }
        sqlite_file_rollback(file);
}

void sqlite_file_checkpoint_failed(struct file *file, int rc) {
        switch (rc & 0xff) {
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
        case SQLITE_INTERRUPT:
                break;
        default:
                atomic_store(&file->doubtful, true);
        }
}

static int open_connection(struct file *file, struct stoke_call *call) {
        struct stoke_keyspace keyspace = {.name = file->name};
        struct sql_found found = {};
        int r;

        memcpy(keyspace.incarnation, file->incarnation, 16);
        r = sqlite_wal_renew(file->path, call);
        if (r == 0)
                r = sqlite_open_raw(file->path, call, &file->db);
        if (r < 0)
                return r;
        sqlite3_progress_handler(file->db, 2000, on_file_progress, file);
        sqlite3_busy_handler(file->db, on_file_busy, file);
        r = sqlite_check_format(file->db, file->path, call);
        if (r == 0)
                r = sqlite_read_identity(file->db, &keyspace, &found, call);
        if (r == 0 && !file->installing && found.state != SQL_LIVE)
                r = sql_fail(call, -EBADMSG, "%s is an installation that was never committed", file->path);
        if (r == 0)
                r = sqlite_exec(file->db,
                        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; "
                        "PRAGMA cache_size=-1024; PRAGMA secure_delete=OFF; PRAGMA wal_autocheckpoint=0;",
                        file->session, call);
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
        return r;
}

/* Nothing is written back from a database that is in doubt: its WAL has all of it, and is read from its beginning next time. */
static void close_one(struct file *file, sqlite3 **db) {
        if (*db && atomic_load(&file->doubtful))
                sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        sqlite_close(*db);
        *db = NULL;
}

static void close_connection(struct file *file) {
        for (size_t i = 0; i < SQL_N_STATEMENTS; i++) {
                sqlite3_finalize(file->statements[i]);
                file->statements[i] = NULL;
        }
        sqlite3_finalize(file->begin);
        sqlite3_finalize(file->commit);
        sqlite3_finalize(file->rollback);
        file->begin = file->commit = file->rollback = NULL;
        file->end_known = file->counted = false;
        close_one(file, &file->checkpoint_db);
        close_one(file, &file->db);
}

int sqlite_file_new(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct name_lock *lock, struct stoke_call *call, struct file **ret) {
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
                r = open_connection(file, call);
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
        close_connection(file);
        sqlite_unlock(file->store, file->lock, false);
        pthread_mutex_destroy(&file->mutex);
        free(file->path);
        free(file);
}

/* With the file's mutex, and without the helper, which is kept off by `checkpointing`. */
static int open_anew(struct file *file, struct stoke_call *call) {
        int r;

        close_connection(file);
        file->wal_pages = 0;
        r = open_connection(file, call);
        if (r < 0)
                return r; /* still in doubt: tried again with the next call */
        atomic_store(&file->doubtful, false);
        sqlite_store_log(file->store, 5, "keyspace %s: opened anew after an error, its log ends at %llu", file->name,
                (unsigned long long)file->end.seq);
        return 0;
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

int sqlite_file_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct stoke_call *call, struct file **ret) {
        struct stoke_store *store = session->store;
        bool anew = false;
        struct file *file;
        int r = 0;

        *ret = NULL;
        pthread_mutex_lock(&store->mutex);
        file = *find(store, keyspace, id);
        if (file && atomic_load(&file->doubtful)) {
                while (file->checkpointing)
                        pthread_cond_wait(&store->changed, &store->mutex);
                file->checkpointing = anew = true;
        }
        pthread_mutex_unlock(&store->mutex);
        if (!file)
                return 0;
        /* The host lets no two functions run on one keyspace, so nobody releases it under us. */
        pthread_mutex_lock(&file->mutex);
        file->session = session;
        file->call = call;
        if (anew) {
                r = open_anew(file, call);
                pthread_mutex_lock(&store->mutex);
                file->checkpointing = false;
                pthread_cond_broadcast(&store->changed);
                pthread_mutex_unlock(&store->mutex);
                if (r < 0) {
                        sqlite_file_finish(file);
                        return r;
                }
        }
        *ret = file;
        return 0;
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

/* The acquired keyspace, locked for this call; STOKE_MISSING, or -ENOLCK if it was not acquired. */
int sqlite_file_begin_acquired(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_call *call, struct file **ret) {
        bool exists;
        char *path;
        int r;

        r = sqlite_begin_call(session, call);
        if (r < 0)
                return r;
        r = sqlite_file_begin(session, keyspace, NULL, call, ret);
        if (r < 0 || *ret)
                return r;
        r = sqlite_check_name(keyspace, call);
        if (r < 0)
                return r;
        path = sqlite_path(session->store, keyspace, NULL, ".db");
        if (!path)
                return -ENOMEM;
        exists = sqlite_exists(path);
        free(path);
        if (!exists)
                return STOKE_MISSING;
        (void)sql_fail(call, -ENOLCK, "the keyspace was not acquired");
        return -ENOLCK; /* plainly: whoever gets 0 has a file */
}
