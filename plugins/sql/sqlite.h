/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside the SQLite driver. One file a keyspace, DIR/NAME-INCARNATION.db; an unfinished installation is a file
 * NAME-INCARNATION-ID.installing, and its commit is a rename; installations.db remembers the ids that have ended. The exclusive
 * lock is an open-file-description lock on NAME.lock. Whatever is made appears by a rename and is whole from then on.
 *
 * Nobody opens a database file but through SQLite: close() of any other descriptor would drop SQLite's POSIX locks.
 *
 * Locks: store->mutex guards the tables of files and name locks and is never held across I/O on a database; file->mutex
 * guards one connection. store->mutex is the inner one. store->making is the outermost: whoever makes what all keyspaces have in common
 * holds it, since a name lock keeps off other processes, not the other sessions of its own.
 */

#include <pthread.h>
#include <stdatomic.h>

#include <sqlite3.h>

#include "log.h"

#define SQLITE_LOG_APPLICATION 0x53746f6b /* "Stok" */
#define SQLITE_LOG_FORMAT 1
#define SQLITE_LOG_PAGE_SIZE 8192
/* A WAL of so many pages (8 MiB) is written back by the helper; at so many times that, by the append itself. */
#ifndef SQLITE_LOG_WAL_PAGES
#define SQLITE_LOG_WAL_PAGES 1024
#endif
#define SQLITE_LOG_WAL_FACTOR 8
#define SQLITE_LOG_BUCKETS 256

extern const struct stoke_limits sqlite_limits;
extern const struct sql_dialect sqlite_dialect;

/* The lock on a keyspace's name, shared by all that this store does with it: it keeps off other stores and other processes. Within a store one
 * call at a time changes what there is of a keyspace (the ABI's promise). */
struct name_lock {
        struct name_lock *next;
        char name[SQL_NAME_MAX + 1];
        int fd;
        unsigned n_refs; /* store->mutex */
};

/* One keyspace's database held open: acquired, or being installed. */
struct file {
        struct file *next; /* in its bucket, store->mutex */
        struct stoke_store *store;
        char name[SQL_NAME_MAX + 1];
        uint8_t incarnation[16];
        bool installing;
        uint8_t install_id[16];
        struct name_lock *lock; /* a reference */
        char *path;             /* owned */

        pthread_mutex_t mutex; /* all below, but for the checkpoint's */
        sqlite3 *db;
        sqlite3_stmt *statements[SQL_N_STATEMENTS]; /* made when first needed */
        sqlite3_stmt *begin, *commit, *rollback;
        struct stoke_end end;
        bool end_known; /* false after any error: read again */
        bool counted;
        uint64_t n_records; /* if counted */
        int wal_pages;
        int next_inline; /* pages at which append writes back itself */
        /* Who works with it now, for the handlers. */
        struct stoke_session *session;
        const struct stoke_call *call;

        /* A sync has failed, so the kernel may have dropped what it had to write and call the pages clean: no later sync says anything of
         * them. Opened anew, from the WAL alone, before it is used again. */
        atomic_bool doubtful;
        atomic_bool
                syncing; /* the helper syncs the database: a checkpoint of the append's must not call it done meanwhile */

        /* The helper's: store->mutex. */
        struct file *queue_next;
        bool queued, checkpointing; /* checkpointing: by the helper, or being opened anew */
        sqlite3 *checkpoint_db;     /* of whoever has checkpointing set */
};

struct stoke_store {
        const struct stoke_host *host;
        char *name;
        char *directory;        /* owned */
        pthread_mutex_t making; /* of installations.db */
        pthread_mutex_t mutex;
        struct file *buckets[SQLITE_LOG_BUCKETS];
        struct name_lock *locks;

        pthread_cond_t changed; /* queue, checkpointing, stopping */
        pthread_t helper;
        bool helper_started, stopping;
        struct file *queue;
};

struct stoke_session {
        struct stoke_store *store;
        atomic_bool interrupted;
};

/* What bounds SQLite's own loops. */
struct guard {
        const struct stoke_call *call;
        struct stoke_session *session; /* may be NULL */
};

/* ---- sqlite_path.c: paths, the directory, the lock on a name */

int sqlite_store_log(struct stoke_store *store, int level, const char *format, ...)
        __attribute__((__format__(__printf__, 3, 4)));
/* DIR/NAME-INCARNATION[-ID]SUFFIX; free it. NULL: no memory. */
char *sqlite_path(
        const struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id, const char *suffix);
bool sqlite_exists(const char *path);
/* fsync of the directory; -errno with the reason. */
int sqlite_sync_directory(struct stoke_store *store, struct stoke_call *call);
/* Removes a database and its -wal, -shm and -journal. 0 also if it is not there. */
int sqlite_remove(struct stoke_store *store, const char *path, struct stoke_call *call);
/* Makes the directory if there is none. */
int sqlite_make_directory(struct stoke_store *store, struct stoke_call *call);

/* 0, STOKE_BUSY (with the reason), -errno. */
int sqlite_lock(struct stoke_store *store, const char *name, struct stoke_call *call, struct name_lock **ret);
/* last: the file goes too, if nothing else uses the lock. */
void sqlite_unlock(struct stoke_store *store, struct name_lock *lock, bool last);

/* ---- sqlite_connection.c */

/* Deadline and interruption, at the beginning of each call. */
int sqlite_begin_call(struct stoke_session *session, struct stoke_call *call);
/* -ECANCELED, -ETIMEDOUT, or 0: go on. Both may be NULL. */
int sqlite_guard_reason(const struct stoke_call *call, struct stoke_session *session);
int sqlite_check_name(const struct stoke_keyspace *keyspace, struct stoke_call *call);
/* A bare connection; and whether what it leads to is ours, and not of a later version. */
int sqlite_open_raw(const char *path, struct stoke_call *call, sqlite3 **ret);
int sqlite_check_format(sqlite3 *db, const char *path, struct stoke_call *call);
/* A short-lived connection with the guard's deadline on it, to a database of ours (application and format are checked). The guard must outlive it. */
int sqlite_open(const char *path, struct guard *guard, struct stoke_call *call, sqlite3 **ret);
/* An empty file that only we can read, then a connection. */
int sqlite_open_new(const char *path, struct guard *guard, struct stoke_call *call, sqlite3 **ret);
void sqlite_close(sqlite3 *db);
int sqlite_exec(sqlite3 *db, const char *sql, struct stoke_session *session, struct stoke_call *call);
/* SQLite's result as an errno, with the reason. */
int sqlite_fail(sqlite3 *db, int rc, struct stoke_session *session, struct stoke_call *call);
/* The tables of a new database: the log and what it belongs to. id: NULL if it is not an installation. */
int sqlite_make_tables(sqlite3 *db, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct stoke_session *session, struct stoke_call *call);
/* What a database says of itself. 0; -EBADMSG: not what the file name says. */
int sqlite_read_identity(
        sqlite3 *db, const struct stoke_keyspace *keyspace, struct sql_found *ret, struct stoke_call *call);
/* Runs SQL_LAST. */
int sqlite_step_end(sqlite3 *db, sqlite3_stmt *stmt, struct stoke_end *ret, bool *ret_found,
        struct stoke_session *session, struct stoke_call *call);
int sqlite_read_end(sqlite3 *db, struct stoke_end *ret, bool *ret_found, struct stoke_call *call);
int sqlite_insert(sqlite3 *db, sqlite3_stmt *stmt, const struct stoke_record *record);

/* ---- sqlite_file.c */

/* Opens a database to be held; the lock's reference passes to the file. */
int sqlite_file_new(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct name_lock *lock, struct stoke_call *call, struct file **ret);
/* Closes it; it is in no table any more. */
void sqlite_file_free(struct file *file);
int sqlite_file_statement(struct file *file, enum sql_statement which, struct stoke_call *call, sqlite3_stmt **ret);
int sqlite_file_end(struct file *file, struct stoke_call *call);
/* After an error in a transaction; deadlines do not bound it. */
void sqlite_file_rollback(struct file *file);
/* A transaction could not be committed: rolls it back, and looks whether the database must be opened anew. */
void sqlite_file_commit_failed(struct file *file, int rc);
/* The same of a checkpoint. */
void sqlite_file_checkpoint_failed(struct file *file, int rc);
/* The held database of this keyspace, for this call, with its mutex locked; *ret NULL: none. -errno if it had to be opened anew and could
 * not be. */
int sqlite_file_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct stoke_call *call, struct file **ret);
void sqlite_file_finish(struct file *file);
bool sqlite_file_held(struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id);
/* false: there is one of this name and incarnation. */
bool sqlite_file_put(struct file *file);
/* Out of the table, when the helper is done with it; NULL: not there. */
struct file *sqlite_file_take(struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id);

/* The acquired keyspace, locked for this call; STOKE_MISSING, or -ENOLCK if it was not acquired. */
int sqlite_file_begin_acquired(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_call *call, struct file **ret);

/* ---- the driver's functions: sqlite_keyspace.c */

int sqlite_acquire(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
void sqlite_release(struct stoke_session *session, const struct stoke_keyspace *keyspace);
int sqlite_create(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_record *first, struct stoke_call *call);
int sqlite_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
int sqlite_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata);
int sqlite_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret);

/* ---- sqlite_read.c */

int sqlite_load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret_end);
int sqlite_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
        struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record), void *userdata);
int sqlite_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs,
        size_t n_seqs, struct stoke_call *call,
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size), void *userdata);
int sqlite_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata);

/* ---- sqlite_append.c */

int sqlite_append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
        struct stoke_call *call);
int sqlite_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call);

/* ---- sqlite_checkpoint.c */

/* After an append, without the file's mutex. */
void sqlite_checkpoint_later(struct file *file);
/* Within an append that finds the helper far behind; with the file's mutex. */
void sqlite_checkpoint_now(struct file *file);
/* Before a database is opened that we have the lock of: writes all of its WAL over itself and syncs it. What is in there may have been
 * written and never synced, or worse, synced in vain, and whatever is appended stands or falls with what is before it. */
int sqlite_wal_renew(const char *path, struct stoke_call *call);
void sqlite_checkpoint_stop(struct stoke_store *store);

/* ---- sqlite_install.c */

int sqlite_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq);
int sqlite_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call);
int sqlite_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call);
int sqlite_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call);
/* Remembers how an id has ended: durable. */
int sqlite_end_id(struct stoke_session *session, const uint8_t id[16], enum sql_ended how, struct stoke_call *call);
/* Is there an unfinished installation of this keyspace? -errno; 0; 1 with its id. */
int sqlite_find_installing(
        struct stoke_store *store, const struct stoke_keyspace *keyspace, uint8_t ret_id[16], struct stoke_call *call);

/* ---- sqlite_check.c */

int sqlite_check(struct stoke_store *store, struct stoke_call *call,
        void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata);
