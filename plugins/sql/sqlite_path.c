/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the SQLite driver from outside: their paths, their directory, and the lock on a keyspace's name. Nothing here opens a
 * database. Runs on session threads.
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
