/*
 * stokectl tenant backup, verify-backup. The daemon sends the file, stokectl checks it while it writes it: so it is there with the rights of
 * whoever asked, and only if all of it came.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/control.pb-c.h>

#include "base/archive.h"
#include "ctl/backup.h"
#include "ctl/ctl.h"
#include "ctl/new_file.h"
#include "ctl/output.h"
#include "ctl/progress.h"
#include "ctl/stream.h"
#include "rpc/protobuf.h"

/* ---- what a backup says of itself, from its own bytes */

static int on_about(void *userdata, const struct archive_about *a) {
        struct backup_text *t = userdata;
        time_t created = (time_t)a->created;
        struct tm tm;

        snprintf(t->tenant, sizeof(t->tenant), "%s", a->tenant);
        snprintf(t->version, sizeof(t->version), "%s", a->version);
        snprintf(t->driver, sizeof(t->driver), "%s", a->driver);
        for (unsigned i = 0, at = 0; i < 16; i++)
                at += (unsigned)snprintf(t->incarnation + at, sizeof(t->incarnation) - at,
                        i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", a->incarnation[i]);
        if (gmtime_r(&created, &tm))
                strftime(t->created, sizeof(t->created), "%Y-%m-%dT%H:%M:%SZ", &tm);
        t->revision = a->revision;
        t->compacted = a->compacted;
        return 0;
}

static const struct archive_handler handler = {.on_about = on_about};

struct archive_reader *backup_reader(struct backup_text *text) {
        return archive_reader_new(&handler, text);
}

void backup_print(struct ctl *ctl, const struct backup_text *t, const struct archive_reader *reader) {
        Stokehold__Control__V1__Backup message = STOKEHOLD__CONTROL__V1__BACKUP__INIT;
        struct archive_figures figures;
        struct output_word word, word2;

        archive_reader_figures(reader, &figures);
        message.tenant = (char *)t->tenant;
        message.incarnation = (char *)t->incarnation;
        message.revision = t->revision;
        message.compacted = t->compacted;
        message.created = (char *)t->created;
        message.version = (char *)t->version;
        message.driver = (char *)t->driver;
        message.records = figures.n_records;
        message.leases = figures.n_leases;
        message.bytes = figures.bytes;
        message.file_bytes = figures.file_bytes;
        if (output_message(ctl->format, &message.base))
                return;
        output_field("Tenant", "%s", t->tenant);
        output_field("Incarnation", "%s", t->incarnation);
        output_field("Revision", "%lld (compacted up to %lld)", (long long)t->revision, (long long)t->compacted);
        output_field("Records", "%llu, %s of keys and values", (unsigned long long)figures.n_records,
                output_size(figures.bytes, &word));
        output_field("Leases", "%llu", (unsigned long long)figures.n_leases);
        output_field("File", "%s", output_size(figures.file_bytes, &word2));
        output_field("Created", "%s by version %s, from %s", t->created, t->version, t->driver);
}

int backup_check(const char *path, struct backup_text *text, struct archive_reader **ret) {
        cleanup(archive_reader_freep) struct archive_reader *reader = backup_reader(text);
        cleanup(error_done) struct error err = {};
        cleanup(freep) uint8_t *data = xcalloc(1, BACKUP_READ_BYTES);
        int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;

        if (fd < 0)
                return ctl_fail(errno == ENOENT ? CTL_NOT_FOUND : CTL_FAILED, "%s: %s", path, strerror(errno));
        while (r == 0) {
                ssize_t n = read(fd, data, BACKUP_READ_BYTES);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        r = error_set(&err, -errno, "%m");
                else if (n == 0) {
                        r = archive_reader_finish(reader, &err);
                        break;
                } else
                        r = archive_reader_feed(reader, bytes_of(data, (size_t)n), &err);
        }
        close(fd);
        if (r < 0)
                return ctl_fail(CTL_FAILED, "%s: %s", path, error_text(&err));
        *ret = steal(reader);
        return CTL_OK;
}

static int run_verify(struct ctl *ctl) {
        cleanup(archive_reader_freep) struct archive_reader *reader = NULL;
        struct backup_text text = {};
        int r = backup_check(ctl->args[0], &text, &reader);

        if (r == CTL_OK)
                backup_print(ctl, &text, reader);
        return r;
}

/* ---- backup */

struct receiving {
        struct ctl_stream stream;
        struct new_file file;
        struct archive_reader *reader; /* owned */
        struct backup_text text;
        uint64_t bytes; /* that it will have, about */
        struct progress progress;
        struct error err;
        bool failed;
};

static void take_data(struct receiving *c, struct bytes data) {
        struct archive_figures figures;

        if (new_file_write(&c->file, data, &c->err) < 0 || archive_reader_feed(c->reader, data, &c->err) < 0) {
                c->failed = true;
                ctl_stream_cancel(&c->stream);
                return;
        }
        archive_reader_figures(c->reader, &figures);
        progress_show(&c->progress, figures.bytes, c->bytes);
}

static void on_message(struct ctl_stream *s, struct bytes data) {
        struct receiving *c = container_of(s, struct receiving, stream);
        const Stokehold__Control__V1__BackupTenantResponse *m;
        struct bytes rest = data;
        struct protobuf_field field;

        /* Of a message with data nothing else is looked at, and nothing copied. */
        if (protobuf_read_field(&rest, &field) == 1 && field.number == 2 && field.type == 2) {
                take_data(c, field.bytes);
                return;
        }
        m = (const void *)protobuf_unpack(
                &stokehold__control__v1__backup_tenant_response__descriptor, &s->ctl->arena, data);
        if (m && m->about)
                c->bytes = m->about->bytes;
}

static int run_backup(struct ctl *ctl) {
        Stokehold__Control__V1__BackupTenantRequest request = STOKEHOLD__CONTROL__V1__BACKUP_TENANT_REQUEST__INIT;
        const char *path = ctl->args[1];
        struct receiving c = {.stream.on_message = on_message};
        int r;

        request.name = ctl->args[0];
        r = new_file_open(path, ctl->force, &c.file, &c.err);
        if (r < 0) {
                r = ctl_fail(r == -EEXIST ? CTL_CONFLICT : CTL_FAILED, "%s%s", error_text(&c.err),
                        r == -EEXIST ? " (--force replaces it)" : "");
                goto end;
        }
        c.reader = backup_reader(&c.text);
        r = ctl_stream_begin(ctl, &c.stream, "BackupTenant");
        if (r != CTL_OK)
                goto end;
        progress_begin(&c.progress, "backing up");
        ctl_stream_send(&c.stream, &request.base);
        grpc_client_half_close(c.stream.call);
        r = ctl_stream_run(&c.stream);
        progress_end(&c.progress);
        if (r != CTL_OK)
                goto end;
        if (c.failed || archive_reader_finish(c.reader, &c.err) < 0)
                r = ctl_fail(CTL_FAILED, "%s", error_text(&c.err));
        else if (new_file_finish(&c.file, ctl->force, &c.err) < 0)
                r = ctl_fail(c.err.code == -EEXIST ? CTL_CONFLICT : CTL_FAILED, "%s", error_text(&c.err));
        else
                backup_print(ctl, &c.text, c.reader);
end:
        archive_reader_free(c.reader);
        new_file_done(&c.file);
        error_done(&c.err);
        return r;
}

const struct ctl_command ctl_commands_backup[] = {
        {"tenant", "backup", "NAME FILE", "Write all that a tenant has to a file, while it is served",
                "The file holds the tenant as it was at one moment after the command was given, its history since\n"
                "compaction and its leases with it. It is compressed, has checksums, is readable by its owner alone,\n"
                "and appears when it is complete; one that is there already is replaced only with --force.\n",
                2, 2, OPTION_FORMAT | OPTION_FORCE, run_backup},
        {"tenant", "verify-backup", "FILE", "Read a backup through, and say what it holds",
                "Needs no daemon. Damage anywhere in the file is noticed.\n", 1, 1, OPTION_FORMAT, run_verify},
        {},
};
