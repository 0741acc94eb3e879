/* SPDX-License-Identifier: Apache-2.0 */
/* The failing file layer: see the header. Files are known by device and inode, so that a rename keeps their history. */
#include "faults_vfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

const char *const fault_names[FAULT_N] = {
        "none", "write-io", "write-full", "write-short", "write-torn", "sync", "truncate"};

/* One byte each of content, and of whether it is still to be synced. */
struct image {
        struct image *next;
        dev_t dev;
        ino_t ino;
        uint8_t *durable, *current, *dirty;
        size_t durable_size, size, capacity;
};

struct shim {
        sqlite3_file base;
        struct image *image; /* NULL: not followed */
        sqlite3_file *real;  /* behind this structure */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct image *images;
static enum fault armed;
static unsigned until, left;
static bool fired;
static sqlite3_vfs *real_vfs, shim_vfs;

static bool fails(enum fault fault) {
        if (armed != fault || left == 0 || (until > 0 && --until > 0))
                return false;
        left--;
        fired = true;
        return true;
}

static void grow(struct image *i, size_t size) {
        size_t capacity = i->capacity;

        if (size > capacity) {
                while (capacity < size)
                        capacity = capacity ? 2 * capacity : 65536;
                i->durable = realloc(i->durable, capacity);
                i->current = realloc(i->current, capacity);
                i->dirty = realloc(i->dirty, capacity);
                if (!i->durable || !i->current || !i->dirty)
                        abort();
                memset(i->durable + i->capacity, 0, capacity - i->capacity);
                memset(i->current + i->capacity, 0, capacity - i->capacity);
                memset(i->dirty + i->capacity, 0, capacity - i->capacity);
                i->capacity = capacity;
        }
        if (size > i->size)
                i->size = size;
}

static int on_close(sqlite3_file *file) {
        return ((struct shim *)file)->real->pMethods->xClose(((struct shim *)file)->real);
}

static int on_read(sqlite3_file *file, void *data, int n, sqlite3_int64 at) {
        return ((struct shim *)file)->real->pMethods->xRead(((struct shim *)file)->real, data, n, at);
}

static int write_through(struct shim *s, const void *data, int n, sqlite3_int64 at) {
        int rc = n ? s->real->pMethods->xWrite(s->real, data, n, at) : SQLITE_OK;

        if (rc == SQLITE_OK && s->image && n) {
                grow(s->image, (size_t)at + (size_t)n);
                memcpy(s->image->current + at, data, (size_t)n);
                memset(s->image->dirty + at, 1, (size_t)n);
        }
        return rc;
}

static int on_write(sqlite3_file *file, const void *data, int n, sqlite3_int64 at) {
        struct shim *s = (struct shim *)file;
        int rc;

        pthread_mutex_lock(&mutex);
        if (fails(FAULT_WRITE_IO)) {
                rc = SQLITE_IOERR_WRITE;
        } else if (fails(FAULT_WRITE_FULL)) {
                rc = SQLITE_FULL;
        } else if (fails(FAULT_WRITE_SHORT)) {
                (void)write_through(s, data, n / 2, at);
                rc = SQLITE_FULL;
        } else if (fails(FAULT_WRITE_TORN)) {
                (void)write_through(s, data, n / 2, at);
                rc = SQLITE_IOERR_WRITE;
        } else {
                rc = write_through(s, data, n, at);
        }
        pthread_mutex_unlock(&mutex);
        return rc;
}

static int on_truncate(sqlite3_file *file, sqlite3_int64 size) {
        struct shim *s = (struct shim *)file;
        int rc = SQLITE_IOERR_TRUNCATE;

        pthread_mutex_lock(&mutex);
        if (!fails(FAULT_TRUNCATE)) {
                rc = s->real->pMethods->xTruncate(s->real, size);
                if (rc == SQLITE_OK && s->image && (size_t)size < s->image->size) {
                        memset(s->image->current + size, 0, s->image->size - (size_t)size);
                        memset(s->image->dirty + size, 0, s->image->size - (size_t)size);
                        s->image->size = (size_t)size;
                }
        }
        pthread_mutex_unlock(&mutex);
        return rc;
}

/* The real sync is left out: what is durable is known here. */
static int on_sync(sqlite3_file *file, int flags) {
        struct image *i = ((struct shim *)file)->image;
        int rc = SQLITE_OK;

        (void)flags;
        pthread_mutex_lock(&mutex);
        if (fails(FAULT_SYNC)) {
                rc = SQLITE_IOERR_FSYNC;
        } else if (i) {
                for (size_t k = 0; k < i->size; k++)
                        if (i->dirty[k])
                                i->durable[k] = i->current[k];
                if (i->durable_size > i->size)
                        memset(i->durable + i->size, 0, i->durable_size - i->size);
                i->durable_size = i->size;
        }
        if (i && i->dirty)
                memset(i->dirty, 0, i->capacity);
        pthread_mutex_unlock(&mutex);
        return rc;
}

#define REAL(file) (((struct shim *)(file))->real)
static int on_size(sqlite3_file *file, sqlite3_int64 *ret) {
        return REAL(file)->pMethods->xFileSize(REAL(file), ret);
}
static int on_lock(sqlite3_file *file, int lock) {
        return REAL(file)->pMethods->xLock(REAL(file), lock);
}
static int on_unlock(sqlite3_file *file, int lock) {
        return REAL(file)->pMethods->xUnlock(REAL(file), lock);
}
static int on_reserved(sqlite3_file *file, int *ret) {
        return REAL(file)->pMethods->xCheckReservedLock(REAL(file), ret);
}
static int on_control(sqlite3_file *file, int op, void *arg) {
        return REAL(file)->pMethods->xFileControl(REAL(file), op, arg);
}
static int on_sector(sqlite3_file *file) {
        return REAL(file)->pMethods->xSectorSize(REAL(file));
}
static int on_characteristics(sqlite3_file *file) {
        return REAL(file)->pMethods->xDeviceCharacteristics(REAL(file));
}
static int on_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **ret) {
        return REAL(file)->pMethods->xShmMap(REAL(file), region, size, extend, ret);
}
static int on_shm_lock(sqlite3_file *file, int offset, int n, int flags) {
        return REAL(file)->pMethods->xShmLock(REAL(file), offset, n, flags);
}
static void on_shm_barrier(sqlite3_file *file) {
        REAL(file)->pMethods->xShmBarrier(REAL(file));
}
static int on_shm_unmap(sqlite3_file *file, int delete) {
        return REAL(file)->pMethods->xShmUnmap(REAL(file), delete);
}

static const sqlite3_io_methods methods = {2, on_close, on_read, on_write, on_truncate, on_sync, on_size, on_lock,
        on_unlock, on_reserved, on_control, on_sector, on_characteristics, on_shm_map, on_shm_lock, on_shm_barrier,
        on_shm_unmap, NULL, NULL};

static struct image *image_of(const char *path, bool make) {
        struct image *i = NULL;
        struct stat st;

        if (!path || stat(path, &st) < 0)
                return NULL;
        for (i = images; i && (i->dev != st.st_dev || i->ino != st.st_ino); i = i->next)
                ;
        if (!i && make) {
                i = calloc(1, sizeof(*i));
                if (!i)
                        abort();
                i->dev = st.st_dev;
                i->ino = st.st_ino;
                i->next = images;
                images = i;
        }
        return i;
}

static int on_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret_flags) {
        struct shim *s = (struct shim *)file;
        sqlite3_int64 size = 0;
        int rc;

        (void)vfs;
        *s = (struct shim){.real = (sqlite3_file *)(s + 1)};
        rc = real_vfs->xOpen(real_vfs, name, s->real, flags, ret_flags);
        if (rc != SQLITE_OK)
                return rc;
        pthread_mutex_lock(&mutex);
        s->image = image_of(name, true);
        if (s->image && s->real->pMethods->xFileSize(s->real, &size) == SQLITE_OK && size == 0 && s->image->capacity) {
                /* The inode of a file that was removed. */
                memset(s->image->durable, 0, s->image->capacity);
                memset(s->image->current, 0, s->image->capacity);
                memset(s->image->dirty, 0, s->image->capacity);
                s->image->size = s->image->durable_size = 0;
        }
        pthread_mutex_unlock(&mutex);
        s->base.pMethods = &methods;
        return SQLITE_OK;
}

/* An inode that is gone may come again as another file. */
static int on_delete(sqlite3_vfs *vfs, const char *name, int sync) {
        struct image *i, **p;

        (void)vfs;
        pthread_mutex_lock(&mutex);
        i = image_of(name, false);
        for (p = &images; i && *p != i; p = &(*p)->next)
                ;
        if (i) {
                *p = i->next; /* kept for whoever has it open, until faults_reset() */
                i->dev = 0;
                i->ino = 0;
                i->next = NULL;
                for (p = &images; *p; p = &(*p)->next)
                        ;
                *p = i;
        }
        pthread_mutex_unlock(&mutex);
        return real_vfs->xDelete(real_vfs, name, sync);
}

void faults_register(void) {
        sqlite3_initialize();
        real_vfs = sqlite3_vfs_find(NULL);
        shim_vfs = *real_vfs;
        shim_vfs.pNext = NULL;
        shim_vfs.zName = "faults";
        shim_vfs.szOsFile = (int)sizeof(struct shim) + real_vfs->szOsFile;
        shim_vfs.xOpen = on_open;
        shim_vfs.xDelete = on_delete;
        sqlite3_vfs_register(&shim_vfs, 1);
}

void faults_reset(void) {
        pthread_mutex_lock(&mutex);
        while (images) {
                struct image *i = images;

                images = i->next;
                free(i->durable);
                free(i->current);
                free(i->dirty);
                free(i);
        }
        armed = FAULT_NONE;
        pthread_mutex_unlock(&mutex);
}

void faults_arm(enum fault fault, unsigned n, unsigned times) {
        pthread_mutex_lock(&mutex);
        armed = fault;
        until = n;
        left = times;
        fired = false;
        pthread_mutex_unlock(&mutex);
}

bool faults_disarm(void) {
        bool result;

        pthread_mutex_lock(&mutex);
        armed = FAULT_NONE;
        result = fired;
        pthread_mutex_unlock(&mutex);
        return result;
}

int faults_power_cut(const char *from, const char *to) {
        struct dirent *entry;
        DIR *dir = opendir(from);
        int r = dir ? 0 : -1;

        pthread_mutex_lock(&mutex);
        while (r == 0 && (entry = readdir(dir))) {
                char a[512], b[512];
                struct image *i;
                int fd;

                snprintf(a, sizeof(a), "%s/%s", from, entry->d_name);
                snprintf(b, sizeof(b), "%s/%s", to, entry->d_name);
                i = image_of(a, false);
                if (entry->d_name[0] == '.' || !i || strstr(entry->d_name, "-shm"))
                        continue;
                fd = open(b, O_WRONLY | O_CREAT | O_TRUNC, 0600);
                if (fd < 0 || write(fd, i->durable, i->durable_size) != (ssize_t)i->durable_size)
                        r = -1;
                if (fd >= 0)
                        close(fd);
        }
        pthread_mutex_unlock(&mutex);
        if (dir)
                closedir(dir);
        return r;
}
