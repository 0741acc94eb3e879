/*
 * stokectl offline: what is done without a daemon. It is the one file of stokectl's that reaches into the fleet, and only through
 * fleet/offline.h: where no daemon runs there is nobody to ask, and stokectl is what an operator has at hand then. The other commands call
 * nothing of it, so all that it costs them is the size of the file.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "ctl/ctl.h"
#include "fleet/offline.h"

#define DEFAULT_CONFIG "/etc/stokehold/stokehold.yaml"

static int code_of(int r) {
        switch (r) {
        case -ENOENT:
                return CTL_NOT_FOUND;
        case -EBUSY:
                return CTL_CONFLICT;
        case -EACCES:
        case -EPERM:
                return CTL_DENIED;
        case -EINVAL:
                return CTL_USAGE;
        case -ETIMEDOUT:
        case -ECONNREFUSED:
        case -ENOTCONN:
        case -ECONNRESET:
        case -EHOSTUNREACH:
                return CTL_UNREACHABLE;
        default:
                return CTL_FAILED;
        }
}

/* Under another name until it is whole: what has the name is a snapshot. */
static int run_snapshot(struct ctl *ctl) {
        struct offline_config config = {
                .config = ctl->root   ? NULL
                        : ctl->config ? ctl->config
                                      : DEFAULT_CONFIG,
                .root = ctl->root,
                .plugins = ctl->plugins,
                .tenant = ctl->args[0],
                .datastore = ctl->datastore,
                .keyspace = ctl->keyspace,
        };
        cleanup(error_done) struct error err = {};
        cleanup(freep) char *part = NULL;
        const char *path = ctl->args[1];
        struct snapshot_figures figures = {};
        int fd, r;

        if (ctl->root && ctl->config)
                return ctl_fail(CTL_USAGE, "--root and --config exclude each other");
        if (!ctl->datastore != !ctl->keyspace)
                return ctl_fail(CTL_USAGE, "--datastore and --keyspace belong together");
        if (asprintf(&part, "%s.part", path) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");
        fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return ctl_fail(CTL_FAILED, "%s: %s", part, strerror(errno));
        r = offline_snapshot(&config, fd, &figures, &err);
        if (r >= 0 && fsync(fd) < 0)
                r = error_set(&err, -errno, "%s: %s", part, strerror(errno));
        close(fd);
        if (r >= 0 && rename(part, path) < 0)
                r = error_set(&err, -errno, "%s: %s", path, strerror(errno));
        if (r < 0) {
                unlink(part);
                return ctl_fail(code_of(r), "%s", error_text(&err));
        }
        printf("%s: revision %" PRId64 ", %" PRIu64 " versions of keys, %" PRIu64 " leases, %" PRIu64 " bytes\n", path,
                figures.revision, figures.n_versions, figures.n_leases, figures.bytes);
        return CTL_OK;
}

const struct ctl_command ctl_commands_offline[] = {
        {"offline", "snapshot", "TENANT FILE", "Write an etcd snapshot of a tenant, from its datastore alone",
                "The file is what 'etcdctl snapshot save' would write, for 'etcdutl snapshot restore'. No daemon is\n"
                "asked: the tenant is looked up in the registry, or --datastore and --keyspace say where it is.\n"
                "What belongs to a daemon that runs (SQLite) is refused; in a datastore that daemons share it may be\n"
                "done beside them.\n",
                2, 2, OPTION_CONFIG | OPTION_DATASTORE | OPTION_KEYSPACE, run_snapshot},
        {},
};
