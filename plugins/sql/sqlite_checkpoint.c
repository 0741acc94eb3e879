/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the WAL back into the database, outside of an append's time. One helper thread a store, made at the first need, takes the
 * keyspaces whose WAL has grown; it works through a connection of its own, beside the appends, and only the last few pages
 * of each round with the appender held off, since SQLite begins the WAL anew only when all of it was written back.
 * Where the helper falls far behind, the append writes back itself, so that the WAL stays bounded.
 *
 * Lost work is harmless: all that is acknowledged is in the WAL, synced.
 */
#include "sqlite.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static int on_busy(void *userdata, int n) {
        (void)userdata;
        (void)n;
        return 0;
}

static sqlite3 *checkpoint_connection(struct file *file) {
        sqlite3 *db = file->checkpoint_db;

        if (db)
                return db;
        if (sqlite3_open_v2(file->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                    NULL) != SQLITE_OK ||
                sqlite3_exec(db, "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-64", NULL,
                        NULL, NULL) != SQLITE_OK) {
                sqlite_close(db);
                return NULL;
        }
        sqlite3_busy_handler(db, on_busy, NULL);
        file->checkpoint_db = db;
        return db;
}

/* To have it behind us before the appender is held off; the checkpoint syncs again. If this one fails, the next will not tell. */
static int sync_database(struct file *file, sqlite3 *db) {
        sqlite3_file *f = NULL;
        int rc = SQLITE_OK;

        atomic_store(&file->syncing, true);
        if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &f) == SQLITE_OK && f && f->pMethods)
                rc = f->pMethods->xSync(f, SQLITE_SYNC_NORMAL);
        if (rc != SQLITE_OK)
                atomic_store(&file->doubtful, true);
        atomic_store(&file->syncing, false);
        return rc;
}

static void tell(struct file *file, int rc) {
        sqlite_file_checkpoint_failed(file, rc);
        sqlite_store_log(file->store, 4, "keyspace %s: cannot write back its WAL: %s", file->name, sqlite3_errstr(rc));
}

static void write_back(struct file *file) {
        int rc, n_log = 0, n_done = 0, rounds;
        sqlite3 *db;

        if (atomic_load(&file->doubtful))
                return;
        db = checkpoint_connection(file);

        if (!db) {
                sqlite_store_log(file->store, 4, "keyspace %s: cannot open it to write back its WAL", file->name);
                return;
        }
        for (rounds = 0; rounds < 3; rounds++) {
                int before = n_done;

                rc = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_log, &n_done);
                if (rc == SQLITE_BUSY) /* another process reads the log, or writes back itself: next time */
                        return;
                if (rc == SQLITE_OK)
                        rc = sync_database(file, db);
                if (rc != SQLITE_OK) {
                        tell(file, rc);
                        return;
                }
                if (n_done <= before || n_done - before < SQLITE_LOG_WAL_PAGES / 4)
                        break;
        }
        pthread_mutex_lock(&file->mutex);
        rc = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_log, &n_done);
        if (rc == SQLITE_OK && n_log == n_done)
                file->wal_pages = 0;
        pthread_mutex_unlock(&file->mutex);
        if (rc != SQLITE_OK && rc != SQLITE_BUSY)
                tell(file, rc);
}

static void *helper(void *userdata) {
        struct stoke_store *store = userdata;

        pthread_setname_np(pthread_self(), "sqlite-wal");
        pthread_mutex_lock(&store->mutex);
        for (;;) {
                struct file *file;

                while (!store->queue && !store->stopping)
                        pthread_cond_wait(&store->changed, &store->mutex);
                if (store->stopping)
                        break;
                file = store->queue;
                store->queue = file->queue_next;
                file->queued = false;
                file->checkpointing = true; /* keeps it from being closed */
                pthread_mutex_unlock(&store->mutex);
                write_back(file);
                pthread_mutex_lock(&store->mutex);
                file->checkpointing = false;
                pthread_cond_broadcast(&store->changed);
        }
        pthread_mutex_unlock(&store->mutex);
        return NULL;
}

void sqlite_checkpoint_later(struct file *file) {
        struct stoke_store *store = file->store;

        pthread_mutex_lock(&store->mutex);
        if (!store->helper_started && !store->stopping) {
                sigset_t all, before;

                sigfillset(&all);
                pthread_sigmask(SIG_SETMASK, &all, &before);
                store->helper_started = pthread_create(&store->helper, NULL, helper, store) == 0;
                pthread_sigmask(SIG_SETMASK, &before, NULL);
        }
        if (!file->queued && !file->checkpointing && !store->stopping) {
                struct file **p;

                for (p = &store->queue; *p; p = &(*p)->queue_next)
                        ;
                *p = file;
                file->queue_next = NULL;
                file->queued = true;
                pthread_cond_broadcast(&store->changed);
        }
        pthread_mutex_unlock(&store->mutex);
}

void sqlite_checkpoint_now(struct file *file) {
        int rc, n_log = 0, n_done = 0;

        file->next_inline = file->wal_pages + SQLITE_LOG_WAL_PAGES;
        if (atomic_load(&file->syncing))
                return;
        rc = sqlite3_wal_checkpoint_v2(file->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_log, &n_done);
        if (rc != SQLITE_OK)
                sqlite_file_checkpoint_failed(file, rc);
        else if (n_log == n_done)
                file->next_inline = SQLITE_LOG_WAL_PAGES * SQLITE_LOG_WAL_FACTOR;
}

/* Through SQLite's own file layer, as all that touches these files. A WAL carries no locks that closing it could drop, and nobody else writes
 * it while the name is locked. */
int sqlite_wal_renew(const char *path, struct stoke_call *call) {
        sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
        enum { CHUNK = 1 << 16 }; /* the file layer writes no more than 128 KiB at once */
        sqlite3_filename name;
        sqlite3_int64 size = 0;
        sqlite3_file *f = NULL;
        char *wal = NULL, *chunk = NULL;
        int rc, r = -ENOMEM, flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_WAL;

        if (asprintf(&wal, "%s-wal", path) < 0)
                return -ENOMEM;
        name = sqlite3_create_filename(path, "", wal, 0, NULL);
        chunk = malloc(CHUNK);
        f = calloc(1, (size_t)vfs->szOsFile);
        if (!name || !chunk || !f)
                goto out;
        r = 0;
        if (!sqlite_exists(wal))
                goto out;
        rc = vfs->xOpen(vfs, sqlite3_filename_wal(name), f, flags, &flags);
        if (rc == SQLITE_OK)
                rc = f->pMethods->xFileSize(f, &size);
        for (sqlite3_int64 at = 0; rc == SQLITE_OK && at < size; at += CHUNK) {
                int n = size - at < CHUNK ? (int)(size - at) : CHUNK;

                rc = f->pMethods->xRead(f, chunk, n, at);
                if (rc == SQLITE_OK)
                        rc = f->pMethods->xWrite(f, chunk, n, at);
        }
        if (rc == SQLITE_OK && size > 0)
                rc = f->pMethods->xSync(f, SQLITE_SYNC_NORMAL);
        if (f->pMethods)
                (void)f->pMethods->xClose(f);
        if (rc != SQLITE_OK)
                r = sqlite_fail(NULL, rc, NULL, call);
out:
        sqlite3_free_filename(name);
        free(f);
        free(chunk);
        free(wal);
        return r;
}

void sqlite_checkpoint_stop(struct stoke_store *store) {
        pthread_mutex_lock(&store->mutex);
        store->stopping = true;
        pthread_cond_broadcast(&store->changed);
        pthread_mutex_unlock(&store->mutex);
        if (store->helper_started)
                pthread_join(store->helper, NULL);
}
