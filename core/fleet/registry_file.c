#include "fleet/registry_file.h"

/*
 * Written beside, synced, renamed, and the directory synced: after a crash there is the old file or the new one. A file
 * that cannot be read as it should is an error and never replaced, for a registry made anew would forget all tenants.
 */

#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet/uuid.h"

static void closep(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

void registry_file_done(struct registry_file *file) {
        free(file->datastore);
        *file = (struct registry_file){};
}

int registry_file_read(const char *state_dir, struct registry_file *ret, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *path = NULL;
        cleanup(closep) int fd = -EBADF;
        const char *datastore, *incarnation;
        struct registry_file file = {};
        json_error_t problem;
        int created;

        if (asprintf(&path, "%s/registry.json", state_dir) < 0)
                return -ENOMEM;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT)
                return -ENOENT;
        if (fd < 0)
                return error_set(reterr, -errno, "%s: %m", path);

        object = json_loadfd(fd, JSON_REJECT_DUPLICATES, &problem);
        if (!object)
                return error_set(reterr, -EBADMSG, "%s:%d: %s", path, problem.line, problem.text);
        if (json_unpack_ex(object, &problem, 0, "{s:s s:s s:b}", "datastore", &datastore, "incarnation", &incarnation,
                    "created", &created) < 0)
                return error_set(reterr, -EBADMSG, "%s: %s", path, problem.text);
        if (uuid_parse(incarnation, file.incarnation) < 0)
                return error_set(reterr, -EBADMSG, "%s: incarnation is no UUID", path);
        file.created = created;
        file.datastore = strdup(datastore);
        if (!file.datastore)
                return -ENOMEM;

        *ret = file;
        return 0;
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

int registry_file_write(const char *state_dir, const struct registry_file *file, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *text = NULL;
        cleanup(closep) int dirfd = -EBADF;
        char incarnation[UUID_TEXT_SIZE];
        int r;

        uuid_print(file->incarnation, incarnation);
        object = json_pack("{s:s s:s s:b}", "datastore", file->datastore, "incarnation", incarnation, "created",
                (int)file->created);
        if (!object)
                return -ENOMEM;
        text = json_dumps(object, JSON_INDENT(2) | JSON_SORT_KEYS);
        if (!text)
                return -ENOMEM;

        dirfd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return error_set(reterr, -errno, "%s: %m", state_dir);
        r = write_synced(dirfd, "registry.json.new", text);
        if (r < 0)
                return error_set(reterr, r, "%s/registry.json.new: %s", state_dir, strerror(-r));
        if (renameat(dirfd, "registry.json.new", dirfd, "registry.json") < 0 || fsync(dirfd) < 0)
                return error_set(reterr, -errno, "%s/registry.json: %m", state_dir);
        return 0;
}
