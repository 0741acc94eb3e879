#include "fleet/tenant_path.h"

/*
 * The directory is made once and then only corrected: a pod has it mounted, and would keep looking at the old one if it
 * were made anew. What is in the way and not ours (a file where the directory should be) is an error, not removed.
 */

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet/tenant.h"

static void closep(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

char *tenant_socket_path(const char *runtime_dir, const char *name) {
        char *path = NULL;

        if (asprintf(&path, "%s/%s/etcd.sock", runtime_dir, name) < 0)
                check(false);
        return path;
}

/* Whoever may use the socket must be able to walk through its directory. */
static mode_t directory_mode(mode_t socket_mode) {
        if (socket_mode & 0007)
                return 0755;
        return socket_mode & 0070 ? 0750 : 0700;
}

static int link_socket(int dirfd, const char *name, struct error *reterr) {
        cleanup(freep) char *target = NULL, *link = NULL, *fresh = NULL;
        char present[PATH_MAX];
        ssize_t n;

        if (asprintf(&target, "%s/etcd.sock", name) < 0 || asprintf(&link, "%s.sock", name) < 0 ||
                asprintf(&fresh, ".%s.new", name) < 0)
                return -ENOMEM;
        n = readlinkat(dirfd, link, present, sizeof(present));
        if (n == (ssize_t)strlen(target) && memcmp(present, target, (size_t)n) == 0)
                return 0;
        if (unlinkat(dirfd, fresh, 0) < 0 && errno != ENOENT)
                return error_set(reterr, -errno, "%s: %m", fresh);
        if (symlinkat(target, dirfd, fresh) < 0 || renameat(dirfd, fresh, dirfd, link) < 0)
                return error_set(reterr, -errno, "%s: %m", link);
        return 0;
}

int tenant_make_paths(
        const char *runtime_dir, const char *name, mode_t socket_mode, uid_t owner, gid_t group, struct error *reterr) {
        cleanup(closep) int dirfd = -EBADF, fd = -EBADF;
        mode_t mode = directory_mode(socket_mode);
        struct stat st;

        dirfd = open(runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return error_set(reterr, -errno, "%s: %m", runtime_dir);
        if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
                return error_set(reterr, -errno, "%s/%s: %m", runtime_dir, name);
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return error_set(reterr, -errno, "%s/%s: %m", runtime_dir, name);
        if ((owner != (uid_t)-1 && st.st_uid != owner) || (group != (gid_t)-1 && st.st_gid != group))
                if (fchown(fd, owner, group) < 0)
                        return error_set(reterr, -errno, "%s/%s: cannot be given to its owner: %m", runtime_dir, name);
        if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
                return error_set(reterr, -errno, "%s/%s: %m", runtime_dir, name);
        return link_socket(dirfd, name, reterr);
}

void tenant_remove_paths(const char *runtime_dir, const char *name) {
        cleanup(freep) char *socket = NULL, *link = NULL;
        cleanup(closep) int dirfd = -EBADF;

        dirfd = open(runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return;
        if (asprintf(&socket, "%s/etcd.sock", name) < 0)
                check(false);
        if (asprintf(&link, "%s.sock", name) < 0)
                check(false);
        (void)unlinkat(dirfd, link, 0);
        (void)unlinkat(dirfd, socket, 0);
        (void)unlinkat(dirfd, name, AT_REMOVEDIR);
}
