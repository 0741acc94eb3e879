#include "fleet/backup_file.h"

/*
 * Times in names are UTC and of fixed width, so that the order of names is that of time.
 */

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".stokearc"
#define TEMPORARY ".tmp"
#define TIME_FORMAT "%Y%m%dT%H%M%SZ"
#define TIME_SIZE 16
#define READ_BYTES ((size_t)256 * 1024)

void backup_file_init(struct backup_file *f, const char *directory, const char *tenant) {
        *f = (struct backup_file){.fd = -EBADF, .directory = strdup(directory), .tenant = strdup(tenant)};
        check(f->directory && f->tenant);
}

void backup_file_done(struct backup_file *f) {
        if (f->fd >= 0) {
                close(f->fd);
                (void)unlink(f->temporary);
        }
        free(f->directory);
        free(f->tenant);
        free(f->path);
        free(f->temporary);
        *f = (struct backup_file){.fd = -EBADF};
}

void backup_file_name(struct backup_file *f, time_t created, int64_t revision) {
        char text[32] = "";
        struct tm tm;

        if (gmtime_r(&created, &tm))
                strftime(text, sizeof(text), TIME_FORMAT, &tm);
        free(f->path);
        free(f->temporary);
        check(asprintf(&f->path, "%s/%s.%s.r%lld" SUFFIX, f->directory, f->tenant, text, (long long)revision) > 0);
        check(asprintf(&f->temporary, "%s" TEMPORARY, f->path) > 0);
}

int backup_file_write(struct backup_file *f, struct bytes data, struct error *reterr) {
        if (f->fd < 0) {
                f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
                if (f->fd < 0)
                        return error_set(reterr, -errno, "%s: %m", f->temporary);
        }
        while (data.size) {
                ssize_t n = write(f->fd, data.data, data.size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return error_set(reterr, -errno, "%s: %m", f->temporary);
                data = bytes_of(data.data + n, data.size - (size_t)n);
        }
        return 0;
}

static int verify(const char *path, struct error *reterr) {
        static const struct archive_handler nothing = {};
        cleanup(archive_reader_freep) struct archive_reader *reader = archive_reader_new(&nothing, NULL);
        cleanup(freep) uint8_t *data = xcalloc(1, READ_BYTES);
        int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;

        if (fd < 0)
                return error_set(reterr, -errno, "%s: %m", path);
        while (r == 0) {
                ssize_t n = read(fd, data, READ_BYTES);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        r = error_set(reterr, -errno, "%m");
                else if (n == 0) {
                        r = archive_reader_finish(reader, reterr);
                        break;
                } else
                        r = archive_reader_feed(reader, bytes_of(data, (size_t)n), reterr);
        }
        close(fd);
        return r < 0 ? error_prefix(reterr, "%s", path) : 0;
}

static int sync_directory(const char *path) {
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

        if (fd < 0)
                return -errno;
        r = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
        close(fd);
        return r;
}

int backup_file_finish(struct backup_file *f, struct error *reterr) {
        int r;

        if (fsync(f->fd) < 0)
                return error_set(reterr, -errno, "%s: %m", f->temporary);
        r = verify(f->temporary, reterr);
        if (r < 0)
                return r;
        if (rename(f->temporary, f->path) < 0)
                return error_set(reterr, -errno, "%s: %m", f->path);
        close(f->fd);
        f->fd = -EBADF;
        r = sync_directory(f->directory);
        return r < 0 ? error_set(reterr, r, "%s: %s", f->directory, strerror(-r)) : 0;
}

/* ---- what is there */

/* NAME of this tenant: the time in it; 0: another file. */
static time_t time_of(const char *name, const char *tenant) {
        size_t n = strlen(tenant), size = strlen(name);
        struct tm tm = {};
        const char *end;

        if (size <= n + 1 + TIME_SIZE + strlen(SUFFIX) || strncmp(name, tenant, n) != 0 || name[n] != '.' ||
                strcmp(name + size - strlen(SUFFIX), SUFFIX) != 0)
                return 0;
        end = strptime(name + n + 1, TIME_FORMAT, &tm);
        return end && strncmp(end, ".r", 2) == 0 ? timegm(&tm) : 0;
}

static bool is_half(const char *name, const char *tenant) {
        size_t size = strlen(name);
        cleanup(freep) char *whole = NULL;

        if (size <= strlen(TEMPORARY) || strcmp(name + size - strlen(TEMPORARY), TEMPORARY) != 0)
                return false;
        whole = strndup(name, size - strlen(TEMPORARY));
        check(whole);
        return time_of(whole, tenant);
}

int backup_files_look(const char *directory, const char *tenant, struct backup_found *ret, struct error *reterr) {
        DIR *dir = opendir(directory);
        cleanup(freep) char *newest = NULL;
        struct stat st;

        *ret = (struct backup_found){};
        if (!dir)
                return error_set(reterr, -errno, "%s: %m", directory);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                time_t created = time_of(e->d_name, tenant);

                if (!created)
                        continue;
                ret->n++;
                if (created < ret->created)
                        continue;
                ret->created = created;
                free(newest);
                newest = strdup(e->d_name);
                check(newest);
        }
        if (newest && fstatat(dirfd(dir), newest, &st, 0) == 0)
                ret->bytes = (uint64_t)st.st_size;
        closedir(dir);
        return 0;
}

static int compare_names(const void *a, const void *b) {
        return strcmp(*(char *const *)b, *(char *const *)a); /* the newest first */
}

int backup_files_prune(const char *directory, const char *tenant, unsigned keep, struct error *reterr) {
        DIR *dir = opendir(directory);
        char **names = NULL;
        size_t n = 0, capacity = 0;
        int r = 0;

        if (!dir)
                return error_set(reterr, -errno, "%s: %m", directory);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                if (is_half(e->d_name, tenant))
                        (void)unlinkat(dirfd(dir), e->d_name, 0);
                if (!time_of(e->d_name, tenant))
                        continue;
                if (n == capacity) {
                        capacity = capacity ? capacity * 2 : 16;
                        names = reallocarray(names, capacity, sizeof(*names));
                        check(names);
                }
                names[n] = strdup(e->d_name);
                check(names[n++]);
        }
        if (n)
                qsort(names, n, sizeof(*names), compare_names);
        for (size_t i = 0; i < n; i++) {
                if (i >= keep && unlinkat(dirfd(dir), names[i], 0) < 0 && r == 0)
                        r = error_set(reterr, -errno, "%s/%s: %m", directory, names[i]);
                free(names[i]);
        }
        free(names);
        closedir(dir);
        return r;
}
