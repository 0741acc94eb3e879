#include "ctl/files.h"

/*
 * Each file is written under another name first, and all are renamed when all are on disk: whoever reads them meanwhile sees the old ones or
 * the new ones, but for the moment between two renamings.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"

char *ctl_path(const char *directory, const char *name) {
        size_t n = strlen(directory);
        char *path;

        check(asprintf(&path, "%s%s%s", directory, n && directory[n - 1] == '/' ? "" : "/", name) >= 0);
        return path;
}

const char *ctl_files_present(const struct ctl_files *files) {
        struct stat st;

        for (size_t i = 0; i < files->n_files; i++) {
                cleanup(freep) char *path = ctl_path(files->directory, files->files[i].name);

                if (lstat(path, &st) == 0)
                        return files->files[i].name;
        }
        return NULL;
}

int ctl_files_may_replace(const char *directory, const char *name, bool yes) {
        char answer[16];

        if (yes)
                return CTL_OK;
        if (!isatty(STDIN_FILENO))
                return ctl_fail(CTL_CONFLICT, "%s/%s is there already; --yes replaces it", directory, name);
        fprintf(stderr, "%s/%s is there already. Replace it? [y/N] ", directory, name);
        fflush(stderr);
        if (fgets(answer, sizeof(answer), stdin) &&
                (strcasecmp(answer, "y\n") == 0 || strcasecmp(answer, "yes\n") == 0))
                return CTL_OK;
        return ctl_fail(CTL_FAILED, "nothing was written");
}

static int write_all(int fd, struct bytes data) {
        while (data.size) {
                ssize_t n = write(fd, data.data, data.size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data.data += n;
                data.size -= (size_t)n;
        }
        return 0;
}

/* Under the other name. */
static int write_one(int directory, const struct ctl_files *files, const struct ctl_file *file, const char *name) {
        int fd, r;

        (void)unlinkat(directory, name, 0); /* of a run that was killed */
        fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        r = files->has_group && fchown(fd, (uid_t)-1, files->group) < 0 ? -errno : 0;
        /* Whatever the umask is. */
        if (r == 0 && fchmod(fd, file->mode) < 0)
                r = -errno;
        if (r == 0)
                r = write_all(fd, file->data);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        close(fd);
        return r;
}

static int open_directory(const struct ctl_files *files, int *ret) {
        bool made = mkdir(files->directory, files->directory_mode) == 0;

        if (!made && errno != EEXIST)
                return ctl_fail(CTL_FAILED, "%s: cannot be made: %s", files->directory, strerror(errno));
        *ret = open(files->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (*ret < 0)
                return ctl_fail(CTL_FAILED, "%s: %s", files->directory, strerror(errno));
        if (made &&
                ((files->has_group && fchown(*ret, (uid_t)-1, files->group) < 0) ||
                        fchmod(*ret, files->directory_mode) < 0)) {
                int r = errno;

                close(*ret);
                return ctl_fail(CTL_FAILED, "%s: %s", files->directory, strerror(r));
        }
        return CTL_OK;
}

int ctl_files_write(const struct ctl_files *files) {
        cleanup(freep) char **names = xcalloc(files->n_files, sizeof(*names));
        const char *wrong = NULL;
        int directory = -EBADF, r;

        r = open_directory(files, &directory);
        if (r != CTL_OK)
                return r;
        r = 0;
        for (size_t i = 0; i < files->n_files && r == 0; i++) {
                check(asprintf(&names[i], ".%s.%ld", files->files[i].name, (long)getpid()) >= 0);
                r = write_one(directory, files, &files->files[i], names[i]);
                if (r < 0)
                        wrong = files->files[i].name;
        }
        for (size_t i = 0; i < files->n_files && r == 0; i++)
                if (renameat(directory, names[i], directory, files->files[i].name) < 0) {
                        r = -errno;
                        wrong = files->files[i].name;
                }
        if (r == 0 && fsync(directory) < 0)
                r = -errno;
        for (size_t i = 0; i < files->n_files; i++) {
                if (r < 0 && names[i])
                        (void)unlinkat(directory, names[i], 0);
                free(names[i]);
        }
        close(directory);
        if (r < 0)
                return ctl_fail(CTL_FAILED, "%s%s%s: cannot be written: %s", files->directory, wrong ? "/" : "",
                        wrong ? wrong : "", strerror(-r));
        return CTL_OK;
}

int ctl_file_read(const char *path, size_t max, struct buf *ret) {
        int fd, r = 0;
        ssize_t n;

        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return ctl_fail(errno == ENOENT ? CTL_NOT_FOUND : CTL_FAILED, "%s: %s", path, strerror(errno));
        /* At once, so that a key is not moved about. */
        check(buf_reserve(ret, max + 1) >= 0);
        while (ret->size <= max && (n = read(fd, ret->data + ret->size, max + 1 - ret->size)) != 0) {
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        r = errno;
                        break;
                }
                ret->size += (size_t)n;
        }
        close(fd);
        if (r)
                return ctl_fail(CTL_FAILED, "%s: %s", path, strerror(r));
        if (ret->size > max)
                return ctl_fail(CTL_USAGE, "%s: is larger than %zu bytes", path, max);
        return CTL_OK;
}
