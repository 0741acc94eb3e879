/*
 * stokectl tenant import, tenant export, transfer list. Whoever waits sees a line on a terminal that changes, and elsewhere a line now and then;
 * Ctrl-C leaves the transfer going on.
 */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <stokehold/control.pb-c.h>

#include "base/buf.h"
#include "ctl/ctl.h"
#include "ctl/output.h"

#define LINE_NS (2 * NSEC_PER_SEC)
#define PEM_MAX ((size_t)1024 * 1024)

typedef Stokehold__Control__V1__Transfer Transfer;

/* ---- progress */

struct following {
        bool terminal, drawn;
        uint64_t told_ns;
        char last[32]; /* phase that was told last */
};

static void on_interrupt(int signo) {
        static const char text[] = "\nstokectl: the transfer goes on by itself: see 'stokectl transfer list'\n";

        (void)signo;
        if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
                _exit(130);
        _exit(130);
}

static void print_progress(const Transfer *t) {
        struct output_word size;

        if (strcmp(t->phase, "Reading") == 0 || strcmp(t->phase, "Beginning") == 0)
                fprintf(stderr, "%s: %llu keys, %s", t->phase, (unsigned long long)t->keys,
                        output_size(t->bytes, &size));
        else if (strcmp(t->phase, "Carrying") == 0)
                fprintf(stderr, "%s: %llu of %llu keys", t->phase, (unsigned long long)t->carried,
                        (unsigned long long)t->keys);
        else
                fprintf(stderr, "%s: revision %lld of %lld, %llu changes%s%s", t->phase, (long long)t->revision,
                        (long long)t->source_revision, (unsigned long long)t->events, *t->reason ? ": " : "",
                        t->reason);
}

static void on_progress(void *userdata, const ProtobufCMessage *message) {
        const Transfer *t = (const void *)message;
        struct following *f = userdata;
        uint64_t now = clock_now_ns();

        if (t->ended)
                return;
        if (!f->terminal && strcmp(f->last, t->phase) == 0 && now - f->told_ns < LINE_NS)
                return;
        snprintf(f->last, sizeof(f->last), "%s", t->phase);
        f->told_ns = now;
        if (f->terminal)
                fputs("\r\033[K", stderr);
        print_progress(t);
        if (!f->terminal)
                fputc('\n', stderr);
        f->drawn = f->terminal;
}

/* ---- asking */

static int read_pem(struct ctl *ctl, const char *path, ProtobufCBinaryData *ret) {
        cleanup(buf_done) struct buf buf = {};
        FILE *file;
        int r = 0;

        if (!path)
                return CTL_OK;
        buf_init(&buf, PEM_MAX);
        file = fopen(path, "re");
        if (!file)
                return ctl_fail(CTL_FAILED, "%s: %s", path, strerror(errno));
        while (r >= 0 && !feof(file) && !ferror(file)) {
                r = buf_reserve(&buf, 4096);
                if (r >= 0)
                        buf.size += fread(buf.data + buf.size, 1, 4096, file);
        }
        if (ferror(file))
                r = -EIO;
        fclose(file);
        if (r < 0 || !buf.size)
                return ctl_fail(CTL_FAILED, "%s: %s", path, r < 0 ? strerror(-r) : "the file is empty");
        *ret = (ProtobufCBinaryData){.len = buf.size, .data = arena_copy(&ctl->arena, buf.data, buf.size)};
        check(ret->data);
        return CTL_OK;
}

static int fill_endpoint(struct ctl *ctl, const char *urls, Stokehold__Control__V1__Endpoint *ret) {
        char *text = arena_string(&ctl->arena, urls, strlen(urls)), *save = NULL;
        size_t n = 1;
        int r;

        for (const char *p = urls; *p; p++)
                n += *p == ',';
        stokehold__control__v1__endpoint__init(ret);
        ret->urls = arena_alloc0(&ctl->arena, n * sizeof(*ret->urls));
        check(text && ret->urls);
        for (char *url = strtok_r(text, ",", &save); url; url = strtok_r(NULL, ",", &save))
                ret->urls[ret->n_urls++] = url;
        if (!ret->n_urls)
                return ctl_fail(CTL_USAGE, "no endpoint is given");
        if (!ctl->cert != !ctl->key)
                return ctl_fail(CTL_USAGE, "--cert and --key belong together");
        r = read_pem(ctl, ctl->cacert, &ret->ca);
        if (r == CTL_OK)
                r = read_pem(ctl, ctl->cert, &ret->certificate);
        if (r == CTL_OK)
                r = read_pem(ctl, ctl->key, &ret->key);
        if (ctl->server_name)
                ret->server_name = (char *)ctl->server_name;
        return r;
}

static ProtobufCBinaryData bytes_of_text(const char *text) {
        return (ProtobufCBinaryData){.len = text ? strlen(text) : 0, .data = (uint8_t *)text};
}

/* Asks, follows, and tells what has become of it. */
static int follow(struct ctl *ctl, const char *method, const ProtobufCMessage *request) {
        struct following following = {.terminal = isatty(STDERR_FILENO)};
        const ProtobufCMessage *message;
        struct output_word size;
        const Transfer *t;
        int r;

        if (!ctl->detach)
                signal(SIGINT, on_interrupt);
        r = ctl_call_streaming(ctl, method, ctl->detach ? CTL_TIMEOUT_CHANGE : 0, request,
                &stokehold__control__v1__transfer__descriptor, on_progress, &following, &message);
        if (following.drawn)
                fputs("\r\033[K", stderr);
        if (r != CTL_OK)
                return r;
        t = (const void *)message;
        if (output_message(ctl->format, &t->base))
                return CTL_OK;
        if (!t->ended)
                printf("The %s of tenant %s has begun: see 'stokectl transfer list %s'; --finish ends it.\n",
                        t->direction, t->tenant, t->tenant);
        else if (strcmp(t->direction, "import") == 0)
                printf("Tenant %s has what %s had at revision %lld: %llu keys, %s, and %llu changes since. It is served.\n",
                        t->tenant, t->from, (long long)t->source_revision, (unsigned long long)t->keys,
                        output_size(t->bytes, &size), (unsigned long long)t->events);
        else
                printf("%s has what tenant %s had at revision %lld: %llu keys, %s, and %llu changes since.\n", t->to,
                        t->tenant, (long long)t->source_revision, (unsigned long long)t->keys,
                        output_size(t->bytes, &size), (unsigned long long)t->events);
        return CTL_OK;
}

static int run_abort(struct ctl *ctl) {
        Stokehold__Control__V1__AbortTransferRequest request = STOKEHOLD__CONTROL__V1__ABORT_TRANSFER_REQUEST__INIT;
        const ProtobufCMessage *message;
        const Transfer *t;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "AbortTransfer", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__transfer__descriptor, &message);
        if (r != CTL_OK)
                return r;
        t = (const void *)message;
        if (output_message(ctl->format, &t->base))
                return CTL_OK;
        if (strcmp(t->direction, "import") == 0)
                printf("The import of tenant %s is given up; nothing is left of it.\n", t->tenant);
        else
                printf("The export of tenant %s is given up; what was carried stays at %s.\n", t->tenant, t->to);
        return CTL_OK;
}

static int run_finish(struct ctl *ctl) {
        Stokehold__Control__V1__FinishTransferRequest request = STOKEHOLD__CONTROL__V1__FINISH_TRANSFER_REQUEST__INIT;

        request.name = ctl->args[0];
        return follow(ctl, "FinishTransfer", &request.base);
}

static int run_import(struct ctl *ctl) {
        Stokehold__Control__V1__ImportTenantRequest request = STOKEHOLD__CONTROL__V1__IMPORT_TENANT_REQUEST__INIT;
        Stokehold__Control__V1__Endpoint from;
        int r;

        if (ctl->from_snapshot && (ctl->from || ctl->finish || ctl->abort || ctl->detach))
                return ctl_fail(CTL_USAGE, "--from-snapshot goes with none of --from, --finish, --abort and --detach");
        if (ctl->from_snapshot)
                return ctl_import_snapshot(ctl);
        if (!ctl->from && ctl->abort)
                return run_abort(ctl);
        if (!ctl->from && ctl->finish)
                return run_finish(ctl);
        if (!ctl->from || ctl->abort)
                return ctl_fail(CTL_USAGE,
                        "tenant import needs --from URL or --from-snapshot FILE, or else --finish or --abort");
        r = fill_endpoint(ctl, ctl->from, &from);
        if (r != CTL_OK)
                return r;
        request.name = ctl->args[0];
        request.from = &from;
        request.prefix = bytes_of_text(ctl->prefix);
        request.has_new_prefix = ctl->to_prefix != NULL;
        request.new_prefix = bytes_of_text(ctl->to_prefix);
        request.datastore = (char *)(ctl->datastore ? ctl->datastore : "");
        request.quota_bytes = ctl->quota_bytes;
        request.deletion_policy = ctl->retain ? "Retain" : "Delete";
        request.finish = ctl->finish;
        request.detach = ctl->detach;
        return follow(ctl, "ImportTenant", &request.base);
}

static int run_export(struct ctl *ctl) {
        Stokehold__Control__V1__ExportTenantRequest request = STOKEHOLD__CONTROL__V1__EXPORT_TENANT_REQUEST__INIT;
        Stokehold__Control__V1__Endpoint to;
        int r;

        if (!ctl->to && ctl->abort)
                return run_abort(ctl);
        if (!ctl->to && ctl->finish)
                return run_finish(ctl);
        if (!ctl->to || ctl->abort)
                return ctl_fail(CTL_USAGE, "tenant export needs --to URL, or else --finish or --abort");
        r = fill_endpoint(ctl, ctl->to, &to);
        if (r != CTL_OK)
                return r;
        request.name = ctl->args[0];
        request.to = &to;
        request.prefix = bytes_of_text(ctl->prefix);
        request.has_new_prefix = ctl->to_prefix != NULL;
        request.new_prefix = bytes_of_text(ctl->to_prefix);
        request.overwrite = ctl->overwrite;
        request.finish = ctl->finish;
        request.detach = ctl->detach;
        return follow(ctl, "ExportTenant", &request.base);
}

static int run_list(struct ctl *ctl) {
        static const struct table_column columns[] = {{"TENANT", TABLE_SHRINK}, {"DIRECTION"}, {"FROM", TABLE_SHRINK},
                {"TO", TABLE_SHRINK}, {"PHASE"}, {"KEYS", TABLE_RIGHT}, {"SIZE", TABLE_RIGHT}, {"CHANGES", TABLE_RIGHT},
                {"REVISION", TABLE_RIGHT}, {"AGE", TABLE_RIGHT}, {"REASON", TABLE_SHRINK}};
        Stokehold__Control__V1__ListTransfersRequest request = STOKEHOLD__CONTROL__V1__LIST_TRANSFERS_REQUEST__INIT;
        const Stokehold__Control__V1__ListTransfersResponse *l;
        cleanup(table_freep) struct table *table = NULL;
        const ProtobufCMessage *message;
        int r;

        if (ctl->n_args)
                request.name = ctl->args[0];
        r = ctl_call(ctl, "ListTransfers", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__list_transfers_response__descriptor, &message);
        if (r != CTL_OK)
                return r;
        l = (const void *)message;
        if (output_message(ctl->format, &l->base))
                return CTL_OK;
        if (l->n_transfers == 0) {
                puts("Nothing was imported or exported since the daemon's start.");
                return CTL_OK;
        }
        table = table_new(columns, n_elements(columns));
        for (size_t i = 0; i < l->n_transfers; i++) {
                const Transfer *t = l->transfers[i];
                struct output_word word;

                table_cell(table, "%s", t->tenant);
                table_cell(table, "%s", t->direction);
                table_cell(table, "%s", *t->from ? t->from : "-");
                table_cell(table, "%s", *t->to ? t->to : "-");
                table_cell(table, "%s", t->phase);
                table_cell(table, "%llu", (unsigned long long)t->keys);
                table_cell(table, "%s", output_size(t->bytes, &word));
                table_cell(table, "%llu", (unsigned long long)t->events);
                table_cell(table, "%lld", (long long)t->revision);
                table_cell(table, "%s", output_since(t->started, &word));
                table_cell(table, "%s", *t->reason ? t->reason : "-");
        }
        table_print(table);
        return CTL_OK;
}

const struct ctl_command ctl_commands_transfer[] = {
        {"tenant", "import", "NAME", "Make a tenant of what an etcd, a kine or a k3s has",
                "Reads the keys at one revision, with their revisions and leases, and follows what is written since.\n"
                "Once nothing writes to the source any more (its API servers are stopped), --finish carries what is\n"
                "left, compares, and serves the tenant. History below the first reading counts as compacted.\n"
                "--prefix /SCHEMA/ --to-prefix /registry/ takes one tenant out of a Kamaji etcd. --from with --finish\n"
                "does all at once; so does --from-snapshot FILE, with a file of etcdctl snapshot save. Ctrl-C leaves it going on; a restart of the daemon ends it, and nothing is left.\n",
                1, 1,
                OPTION_FORMAT | OPTION_FROM | OPTION_FROM_SNAPSHOT | OPTION_TLS | OPTION_PREFIX | OPTION_DATASTORE |
                        OPTION_QUOTA | OPTION_RETAIN | OPTION_FINISH | OPTION_ABORT | OPTION_DETACH,
                run_import},
        {"tenant", "export", "NAME", "Carry what a tenant has into another etcd",
                "Keys, values and leases; the other etcd gives revisions of its own (etcdctl snapshot save on the\n"
                "tenant, and etcdutl snapshot restore, keep them). Follows what is written, until --finish.\n",
                1, 1,
                OPTION_FORMAT | OPTION_TO | OPTION_TLS | OPTION_PREFIX | OPTION_OVERWRITE | OPTION_FINISH |
                        OPTION_ABORT | OPTION_DETACH,
                run_export},
        {"transfer", "list", "[NAME]", "Imports and exports of this daemon, and how far they are", NULL, 0, 1,
                OPTION_FORMAT, run_list},
        {},
};
