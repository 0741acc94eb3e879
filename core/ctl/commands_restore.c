/*
 * stokectl tenant restore, clone. A backup is read through before the daemon hears of it; then it is sent, never more than a few megabytes ahead of
 * what the daemon has taken.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stokehold/control.pb-c.h>

#include "ctl/backup.h"
#include "ctl/ctl.h"
#include "ctl/output.h"
#include "ctl/progress.h"
#include "ctl/stream.h"
#include "rpc/protobuf.h"

#define AHEAD_BYTES ((uint64_t)4 * 1024 * 1024)

static void print_tenant(const struct ctl *ctl, const Stokehold__Control__V1__Tenant *t, const char *what) {
        if (!output_manifest(ctl->format, &t->base, t->manifest))
                printf("Tenant %s was %s, on datastore %s.\n  --etcd-servers=%s\n", t->name, what, t->datastore,
                        t->n_endpoints ? t->endpoints[0] : "");
}

struct sending {
        struct ctl_stream stream;
        int fd;
        uint64_t size, sent, taken;
        uint8_t *data; /* owned: BACKUP_READ_BYTES */
        bool ended, failed;
        int error;
        struct progress progress;
        const Stokehold__Control__V1__Tenant *tenant;
};

static void send_data(struct sending *c, size_t n) {
        Stokehold__Control__V1__RestoreTenantRequest request = STOKEHOLD__CONTROL__V1__RESTORE_TENANT_REQUEST__INIT;

        request.data = (ProtobufCBinaryData){.data = c->data, .len = n};
        ctl_stream_send(&c->stream, &request.base);
        c->sent += n;
}

static void send_some(struct sending *c) {
        while (!c->ended && c->sent < c->taken + AHEAD_BYTES) {
                ssize_t n = read(c->fd, c->data, BACKUP_READ_BYTES);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        c->failed = true;
                        c->error = errno;
                        ctl_stream_cancel(&c->stream);
                        return;
                }
                c->ended = n == 0;
                if (c->ended)
                        grpc_client_half_close(c->stream.call);
                else
                        send_data(c, (size_t)n);
        }
}

static void on_message(struct ctl_stream *s, struct bytes data) {
        struct sending *c = container_of(s, struct sending, stream);
        const Stokehold__Control__V1__RestoreTenantResponse *m = (const void *)protobuf_unpack(
                &stokehold__control__v1__restore_tenant_response__descriptor, &s->ctl->arena, data);

        if (!m)
                return;
        c->taken = max_of(c->taken, m->taken);
        if (m->tenant)
                c->tenant = m->tenant;
        progress_show(&c->progress, c->taken, c->size);
        send_some(c);
}

int ctl_restore(struct ctl *ctl, int fd, uint64_t size, const char *path, const char *verb) {
        Stokehold__Control__V1__RestoreTenantRequest request = STOKEHOLD__CONTROL__V1__RESTORE_TENANT_REQUEST__INIT;
        Stokehold__Control__V1__RestoreTenantRequest__Begin begin =
                STOKEHOLD__CONTROL__V1__RESTORE_TENANT_REQUEST__BEGIN__INIT;
        struct sending c = {.stream.on_message = on_message, .fd = fd, .size = size};
        int r;

        c.data = xcalloc(1, BACKUP_READ_BYTES);
        r = ctl_stream_begin(ctl, &c.stream, "RestoreTenant");
        if (r != CTL_OK)
                goto end;
        begin.name = ctl->args[0];
        begin.over = ctl->over;
        begin.datastore = (char *)(ctl->datastore ? ctl->datastore : "");
        begin.quota_bytes = ctl->quota_bytes;
        begin.above = ctl->above;
        begin.deletion_policy = (char *)(ctl->retain ? "Retain" : "");
        request.begin = &begin;
        progress_begin(&c.progress, "restoring");
        ctl_stream_send(&c.stream, &request.base);
        send_some(&c);
        r = ctl_stream_run(&c.stream);
        progress_end(&c.progress);
        if (c.failed)
                r = ctl_fail(CTL_FAILED, "%s: %s", path, strerror(c.error));
        else if (r == CTL_OK && c.tenant)
                print_tenant(ctl, c.tenant, verb);
        else if (r == CTL_OK)
                printf("Tenant %s was %s.\n", ctl->args[0], verb);
end:
        free(c.data);
        return r;
}

static int run_restore(struct ctl *ctl) {
        cleanup(archive_reader_freep) struct archive_reader *reader = NULL;
        const char *path = ctl->args[1];
        struct archive_figures figures;
        struct backup_text text = {};
        int fd, r;

        if (ctl->over && (ctl->datastore || ctl->quota_bytes || ctl->retain))
                return ctl_fail(CTL_USAGE, "--over goes with none of --datastore, --quota and --retain");
        if (ctl->over && !ctl->yes)
                return ctl_fail(CTL_USAGE,
                        "tenant restore --over: what the tenant has now is replaced, and its clients must list everything anew; say "
                        "--yes");
        r = backup_check(path, &text, &reader);
        if (r != CTL_OK)
                return r;
        archive_reader_figures(reader, &figures);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return ctl_fail(CTL_FAILED, "%s: %s", path, strerror(errno));
        r = ctl_restore(ctl, fd, figures.file_bytes, path, "restored");
        close(fd);
        return r;
}

/* ---- clone */

struct cloning {
        struct ctl_stream stream;
        struct progress progress;
        const Stokehold__Control__V1__Tenant *tenant;
};

static void on_progress(struct ctl_stream *s, struct bytes data) {
        struct cloning *c = container_of(s, struct cloning, stream);
        const Stokehold__Control__V1__CloneTenantResponse *m = (const void *)protobuf_unpack(
                &stokehold__control__v1__clone_tenant_response__descriptor, &s->ctl->arena, data);

        if (m && !m->tenant)
                progress_show(&c->progress, m->bytes, m->bytes_all);
        if (m && m->tenant)
                c->tenant = m->tenant;
}

static int run_clone(struct ctl *ctl) {
        Stokehold__Control__V1__CloneTenantRequest request = STOKEHOLD__CONTROL__V1__CLONE_TENANT_REQUEST__INIT;
        struct cloning c = {.stream.on_message = on_progress};
        int r;

        request.name = ctl->args[0];
        request.clone = ctl->args[1];
        request.datastore = (char *)(ctl->datastore ? ctl->datastore : "");
        request.quota_bytes = ctl->quota_bytes;
        request.deletion_policy = (char *)(ctl->retain ? "Retain" : "");
        r = ctl_stream_begin(ctl, &c.stream, "CloneTenant");
        if (r != CTL_OK)
                return r;
        progress_begin(&c.progress, "cloning");
        ctl_stream_send(&c.stream, &request.base);
        grpc_client_half_close(c.stream.call);
        r = ctl_stream_run(&c.stream);
        progress_end(&c.progress);
        if (r == CTL_OK && c.tenant)
                print_tenant(ctl, c.tenant, "cloned");
        else if (r == CTL_OK)
                printf("Tenant %s was cloned.\n", ctl->args[1]);
        return r;
}

const struct ctl_command ctl_commands_restore[] = {
        {"tenant", "restore", "NAME FILE", "Make a tenant from a backup, or put one back over what it has",
                "All of the file is checked first. NAME is new; with --over it is a tenant that there is: what it has is\n"
                "replaced while it is served, its revisions go on above every one that was served, everything below counts\n"
                "as compacted, so that its clients list anew, and what it had stays in its datastore for a while.\n"
                "A tenant of a name that was served before, and was deleted or lost, goes on above that likewise, as far as\n"
                "the daemon knows of it; --above says what it cannot know.\n"
                "Leases have the time left that they had when the backup was made.\n",
                2, 2,
                OPTION_FORMAT | OPTION_DATASTORE | OPTION_QUOTA | OPTION_RETAIN | OPTION_ABOVE | OPTION_OVER |
                        OPTION_YES,
                run_restore},
        {"tenant", "clone", "NAME NEW", "Make a tenant with all that another one has now",
                "NEW is as NAME was at one moment, with its history and revisions, and has a cluster id of its own.\n",
                2, 2, OPTION_FORMAT | OPTION_DATASTORE | OPTION_QUOTA | OPTION_RETAIN, run_clone},
        {},
};
