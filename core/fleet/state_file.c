#include "fleet/state_file.h"

/*
 * Written beside, synced, renamed, and the directory synced.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void closep(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

static int write_synced(int dirfd, const char *name, const char *text) {
        cleanup(closep) int fd = -EBADF;
        size_t size = strlen(text), done = 0;

        fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        while (done < size) {
                ssize_t n = write(fd, text + done, size - done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                done += (size_t)n;
        }
        return fsync(fd) < 0 ? -errno : 0;
}

int state_file_write(const char *state_dir, const char *name, const char *text, struct error *reterr) {
        cleanup(freep) char *temporary = NULL;
        cleanup(closep) int dirfd = -EBADF;
        int r;

        if (asprintf(&temporary, "%s.new", name) < 0)
                return -ENOMEM;
        dirfd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return error_set(reterr, -errno, "%s: %m", state_dir);
        r = write_synced(dirfd, temporary, text);
        if (r < 0)
                return error_set(reterr, r, "%s/%s: %s", state_dir, temporary, strerror(-r));
        if (renameat(dirfd, temporary, dirfd, name) < 0 || fsync(dirfd) < 0)
                return error_set(reterr, -errno, "%s/%s: %m", state_dir, name);
        return 0;
}

int state_file_read(const char *state_dir, const char *name, size_t max, char **ret, struct error *reterr) {
        cleanup(freep) char *path = NULL, *text = NULL;
        cleanup(closep) int fd = -EBADF;
        size_t size = 0;
        struct stat st;

        if (asprintf(&path, "%s/%s", state_dir, name) < 0)
                return -ENOMEM;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 && errno == ENOENT)
                return -ENOENT;
        if (fd < 0 || fstat(fd, &st) < 0)
                return error_set(reterr, -errno, "%s: %m", path);
        if (!S_ISREG(st.st_mode))
                return error_set(reterr, -EINVAL, "%s: is not a regular file", path);
        if ((uint64_t)st.st_size > max)
                return error_set(reterr, -EFBIG, "%s: is larger than %zu bytes", path, max);
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return -ENOMEM;
        while (size < (size_t)st.st_size) {
                ssize_t n = read(fd, text + size, (size_t)st.st_size - size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return error_set(reterr, -errno, "%s: %m", path);
                if (n == 0)
                        break;
                size += (size_t)n;
        }
        text[size] = '\0';
        *ret = steal(text);
        return 0;
}

int state_file_remove(const char *state_dir, const char *name, struct error *reterr) {
        cleanup(freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", state_dir, name) < 0)
                return -ENOMEM;
        if (unlink(path) < 0 && errno != ENOENT)
                return error_set(reterr, -errno, "%s: %m", path);
        return 0;
}
