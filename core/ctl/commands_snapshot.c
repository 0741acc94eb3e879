/*
 * stokectl tenant import --from-snapshot: a file that `etcdctl snapshot save` wrote is made into an archive, in a file without a name, which the
 * tenant is then restored from. So the daemon hears of it only when all of it was read and is good. The only thread.
 */

#include "snapshot/convert.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/backup.h"
#include "ctl/ctl.h"

struct writing {
        int fd;
        uint64_t size;
};

static int write_all(void *userdata, struct bytes data) {
        struct writing *w = userdata;

        while (data.size) {
                ssize_t n = write(w->fd, data.data, data.size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data.data += n;
                data.size -= (size_t)n;
                w->size += (uint64_t)n;
        }
        return 0;
}

/* A file that goes when it is closed. */
static int open_temporary(void) {
        const char *directory = getenv("TMPDIR");
        cleanup(freep) char *path = NULL;
        int fd;

        if (!directory || !*directory)
                directory = "/var/tmp";
        fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0)
                return fd;
        check(asprintf(&path, "%s/stokectl-XXXXXX", directory) > 0);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
                (void)unlink(path);
        return fd;
}

int ctl_import_snapshot(struct ctl *ctl) {
        struct snapshot_convert_config config = {
                .tenant = ctl->args[0],
                .version = STOKEHOLD_VERSION,
                .prefix = bytes_of_string(ctl->prefix ? ctl->prefix : ""),
                .has_new_prefix = ctl->to_prefix,
                .new_prefix = bytes_of_string(ctl->to_prefix ? ctl->to_prefix : ""),
        };
        const char *path = ctl->from_snapshot;
        cleanup(error_done) struct error err = {};
        struct snapshot_facts facts = {};
        struct writing w = {};
        int fd, r;

        if (ctl->to_prefix && !ctl->prefix)
                return ctl_fail(CTL_USAGE, "--to-prefix needs --prefix: what it stands in place of");
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return ctl_fail(CTL_FAILED, "%s: %s", path, strerror(errno));
        w.fd = open_temporary();
        if (w.fd < 0) {
                close(fd);
                return ctl_fail(CTL_FAILED, "no temporary file ($TMPDIR, or /var/tmp): %s", strerror(errno));
        }
        r = snapshot_convert(fd, &config, write_all, &w, &facts, &err);
        close(fd);
        if (r < 0)
                r = ctl_fail(CTL_FAILED, "%s: %s", path, error_text(&err));
        else if (!facts.n_versions && ctl->prefix)
                r = ctl_fail(CTL_FAILED, "%s: no key begins with %s", path, ctl->prefix);
        else if (lseek(w.fd, 0, SEEK_SET) < 0)
                r = ctl_fail(CTL_FAILED, "lseek: %s", strerror(errno));
        else {
                if (facts.auth_enabled)
                        fprintf(stderr,
                                "stokectl: this etcd had users and roles, which do not come along: who may come in is decided at the "
                                "tenant's endpoint\n");
                if (!facts.has_checksum)
                        fprintf(stderr, "stokectl: this is a copy of an etcd's db, without a checksum of the whole\n");
                r = ctl_restore(ctl, w.fd, w.size, path, "imported");
        }
        close(w.fd);
        return r;
}
