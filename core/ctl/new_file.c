#include "ctl/new_file.h"

/* Written beside its place, then moved there. */

#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *volatile at_interrupt; /* what is to be removed then */

static void on_interrupt(int signo) {
        if (at_interrupt)
                (void)unlink(at_interrupt);
        signal(signo, SIG_DFL);
        raise(signo);
}

int new_file_open(const char *path, bool replace, struct new_file *f, struct error *reterr) {
        int r;

        *f = (struct new_file){.fd = -EBADF};
        if (!replace && faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return error_set(reterr, -EEXIST, "%s exists already", path);
        f->path = strdup(path);
        if (!f->path || asprintf(&f->temporary, "%s.tmp.XXXXXX", path) < 0)
                return -ENOMEM;
        f->fd = mkostemp(f->temporary, O_CLOEXEC); /* mode 0600 */
        if (f->fd < 0) {
                r = -errno;
                free(steal(f->temporary));
                return error_set(reterr, r, "%s: cannot be written: %s", path, strerror(-r));
        }
        at_interrupt = f->temporary;
        for (size_t i = 0; i < 3; i++)
                signal((int[]){SIGINT, SIGTERM, SIGHUP}[i], on_interrupt);
        return 0;
}

int new_file_write(struct new_file *f, struct bytes data, struct error *reterr) {
        while (data.size) {
                ssize_t n = write(f->fd, data.data, data.size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return error_set(reterr, -errno, "%s: cannot be written: %m", f->path);
                data = bytes_of(data.data + n, data.size - (size_t)n);
        }
        return 0;
}

/* The name itself is to outlive a crash of the machine. */
static int sync_directory(const char *path) {
        cleanup(freep) char *copy = strdup(path);
        int fd, r;

        if (!copy)
                return -ENOMEM;
        fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
        close(fd);
        return r;
}

static int put_in_place(const struct new_file *f, bool replace) {
        if (replace)
                return rename(f->temporary, f->path) < 0 ? -errno : 0;
        if (renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->path, RENAME_NOREPLACE) == 0)
                return 0;
        if (errno != EINVAL && errno != ENOSYS)
                return -errno;
        /* A file system that does not know this flag. */
        if (link(f->temporary, f->path) < 0)
                return -errno;
        (void)unlink(f->temporary);
        return 0;
}

int new_file_finish(struct new_file *f, bool replace, struct error *reterr) {
        int r;

        if (fsync(f->fd) < 0)
                return error_set(reterr, -errno, "%s: cannot be written: %m", f->path);
        r = close(f->fd) < 0 ? -errno : 0;
        f->fd = -EBADF;
        if (r == 0)
                r = put_in_place(f, replace);
        if (r == -EEXIST)
                return error_set(reterr, r, "%s exists already", f->path);
        if (r == 0) {
                at_interrupt = NULL;
                free(steal(f->temporary));
                r = sync_directory(f->path);
        }
        return r < 0 ? error_set(reterr, r, "%s: cannot be written: %s", f->path, strerror(-r)) : 0;
}

void new_file_done(struct new_file *f) {
        at_interrupt = NULL;
        if (f->fd >= 0)
                close(f->fd);
        if (f->temporary)
                (void)unlink(f->temporary);
        free(f->temporary);
        free(f->path);
        *f = (struct new_file){.fd = -EBADF};
}
