/*
 * stokectl tenant list, show, create, delete, resume. Deleting asks when there is somebody to ask, and wants --yes when there is not.
 */

#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <stokehold/control.pb-c.h>

#include "base/buf.h"
#include "ctl/ctl.h"
#include "ctl/output.h"
#include "ctl/tenant.h"

int tenant_fetch(struct ctl *ctl, const char *name, const Stokehold__Control__V1__ListTenantsResponse **ret) {
        Stokehold__Control__V1__ListTenantsRequest request = STOKEHOLD__CONTROL__V1__LIST_TENANTS_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        if (name)
                request.name = (char *)name;
        r = ctl_call(ctl, "ListTenants", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__list_tenants_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        *ret = (const void *)m;
        if (name && (*ret)->n_tenants == 0)
                return ctl_fail(CTL_NOT_FOUND, "no tenant '%s'", name);
        return CTL_OK;
}

static int run_list(struct ctl *ctl) {
        static const struct table_column columns[] = {{"NAME", TABLE_SHRINK}, {"DATASTORE", TABLE_SHRINK}, {"PHASE"},
                {"KEYSPACE"}, {"REVISION", TABLE_RIGHT}, {"KEYS", TABLE_RIGHT}, {"SIZE", TABLE_RIGHT},
                {"CLIENTS", TABLE_RIGHT}, {"AGE", TABLE_RIGHT}};
        const Stokehold__Control__V1__ListTenantsResponse *l;
        cleanup(table_freep) struct table *table = NULL;
        int r;

        r = tenant_fetch(ctl, NULL, &l);
        if (r != CTL_OK)
                return r;
        if (output_message(ctl->format, &l->base))
                return CTL_OK;
        if (l->n_tenants == 0) {
                puts("No tenants. 'stokectl tenant create NAME' makes one.");
                return CTL_OK;
        }
        table = table_new(columns, n_elements(columns));
        for (size_t i = 0; i < l->n_tenants; i++) {
                const Stokehold__Control__V1__Tenant *t = l->tenants[i];
                struct output_word word;
                bool open = t->revision > 0;

                table_cell(table, "%s", t->name);
                table_cell(table, "%s", *t->datastore ? t->datastore : "-");
                table_cell(table, "%s", t->phase);
                table_cell(table, "%s", *t->condition ? t->condition : "-");
                /* A closed keyspace is opened at its first connection; until then nothing is known of it. */
                if (open) {
                        table_cell(table, "%lld", (long long)t->revision);
                        table_cell(table, "%llu", (unsigned long long)t->n_keys);
                        table_cell(table, "%s", output_size(t->bytes, &word));
                } else {
                        table_cell(table, "-");
                        table_cell(table, "-");
                        table_cell(table, "-");
                }
                table_cell(table, "%llu", (unsigned long long)t->n_connections);
                table_cell(table, "%s", output_since(t->created, &word));
        }
        table_print(table);
        return CTL_OK;
}

/* What goes to kube-apiserver, ready to paste. */
static void print_endpoints(const Stokehold__Control__V1__Tenant *t, const char *indent) {
        static const char tls[] = "https://";
        size_t n = 0;

        printf("%s--etcd-servers=", indent);
        for (size_t i = 0; i < t->n_endpoints; i++) {
                if (strncmp(t->endpoints[i], tls, strlen(tls)) == 0)
                        continue;
                if (n++)
                        putchar(',');
                output_text(t->endpoints[i]);
        }
        if (n == 0) {
                fputs("unix://", stdout);
                output_text(t->socket);
        }
        putchar('\n');

        /* One client has certificates for all of its servers or for none. */
        n = 0;
        for (size_t i = 0; i < t->n_endpoints; i++) {
                if (strncmp(t->endpoints[i], tls, strlen(tls)) != 0)
                        continue;
                fputs(n++ ? "," : "or, with --etcd-cafile, --etcd-certfile and --etcd-keyfile:\n", stdout);
                if (n == 1)
                        printf("%s--etcd-servers=", indent);
                output_text(t->endpoints[i]);
        }
        if (n)
                putchar('\n');
}

static void print_tenant(const Stokehold__Control__V1__Tenant *t) {
        struct output_word word, word2;
        bool good = strcmp(t->phase, "Ready") == 0;

        output_field("Name", "%s", t->name);
        output_field("Datastore", "%s", *t->datastore ? t->datastore : "-");
        fputs(output_colour(good ? COLOUR_GOOD : COLOUR_WARN), stdout);
        output_field("Phase", "%s%s%s", t->phase, *t->reason ? ": " : "", t->reason);
        fputs(output_colour_off(), stdout);
        output_field("Keyspace", "%s", *t->condition ? t->condition : "-");
        output_field("Incarnation", "%s", t->incarnation);
        output_field("Defined in", "%s", t->source);
        output_field("Created", "%s (%s ago)", *t->created ? t->created : "-", output_since(t->created, &word));
        if (t->revision > 0) {
                output_field(
                        "Revision", "%lld (compacted up to %lld)", (long long)t->revision, (long long)t->compacted);
                output_field("Keys", "%llu", (unsigned long long)t->n_keys);
                output_field(
                        "Size", "%s, %s in use", output_size(t->bytes, &word), output_size(t->bytes_in_use, &word2));
                output_field("Memory", "%s", output_size(t->memory_bytes, &word));
        }
        output_field("Quota", "%s", t->quota_bytes ? output_size(t->quota_bytes, &word) : "none");
        output_field("Clients", "%llu connections, %llu watches, %llu leases", (unsigned long long)t->n_connections,
                (unsigned long long)t->n_watchers, (unsigned long long)t->n_leases);
        if (*t->last_backup)
                output_field("Last backup", "%s ago, %s", output_since(t->last_backup, &word),
                        output_size(t->last_backup_bytes, &word2));
        if (*t->backup_failure) {
                fputs(output_colour(COLOUR_WARN), stdout);
                output_field("Backups fail", "%s", t->backup_failure);
                fputs(output_colour_off(), stdout);
        }
        output_field("When deleted", "%s the data", strcmp(t->deletion_policy, "Retain") == 0 ? "keep" : "delete");
        if (*t->host)
                output_field("Host", "%s%s", t->host, t->elsewhere ? ", which alone serves it" : "");
        if (t->n_client_names) {
                cleanup(buf_done) struct buf names = {};

                for (size_t i = 0; i < t->n_client_names; i++)
                        check(buf_printf(&names, "%s%s", i ? ", " : "", t->client_names[i]) >= 0);
                output_field("Client names", "%.*s", (int)names.size, names.data);
        }
        output_field("Socket", "%s", t->socket);
}

static int run_show(struct ctl *ctl) {
        const Stokehold__Control__V1__ListTenantsResponse *l;
        const Stokehold__Control__V1__Tenant *t;
        int r;

        r = tenant_fetch(ctl, ctl->args[0], &l);
        if (r != CTL_OK)
                return r;
        t = l->tenants[0];
        if (output_manifest(ctl->format, &t->base, t->manifest))
                return CTL_OK;
        print_tenant(t);
        puts("\nFor kube-apiserver:");
        print_endpoints(t, "  ");
        return CTL_OK;
}

static int run_create(struct ctl *ctl) {
        Stokehold__Control__V1__CreateTenantRequest request = STOKEHOLD__CONTROL__V1__CREATE_TENANT_REQUEST__INIT;
        const Stokehold__Control__V1__Tenant *t;
        const ProtobufCMessage *m;
        int r;

        request.name = ctl->args[0];
        if (ctl->datastore)
                request.datastore = (char *)ctl->datastore;
        if (ctl->retain)
                request.deletion_policy = "Retain";
        request.quota_bytes = ctl->quota_bytes;
        request.client_names = ctl->client_names;
        request.n_client_names = ctl->n_client_names;
        request.wait = true;
        r = ctl_call(ctl, "CreateTenant", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__create_tenant_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        t = ((const Stokehold__Control__V1__CreateTenantResponse *)(const void *)m)->tenant;
        if (!t)
                return ctl_fail(
                        CTL_FAILED, "the daemon did not say what it made; see 'stokectl tenant show %s'", ctl->args[0]);
        if (!output_manifest(ctl->format, &t->base, t->manifest) && strcmp(t->phase, "Failed") != 0) {
                fputs("Tenant ", stdout);
                output_text(t->name);
                fputs(" is in datastore ", stdout);
                output_text(t->datastore);
                puts(". For kube-apiserver:");
                print_endpoints(t, "  ");
        }
        if (strcmp(t->phase, "Failed") == 0)
                return ctl_fail(CTL_FAILED, "tenant '%s' is recorded, but could not be made (it is tried again): %s",
                        t->name, t->reason);
        return CTL_OK;
}

static bool confirm(const char *name, bool keep_data) {
        char line[16];

        fprintf(stderr,
                keep_data ? "Delete tenant '%s', leaving its data in the datastore? [y/N] "
                          : "Delete tenant '%s' with all of its data? [y/N] ",
                name);
        fflush(stderr);
        return fgets(line, sizeof(line), stdin) && (strcasecmp(line, "y\n") == 0 || strcasecmp(line, "yes\n") == 0);
}

static int run_delete(struct ctl *ctl) {
        Stokehold__Control__V1__DeleteTenantRequest request = STOKEHOLD__CONTROL__V1__DELETE_TENANT_REQUEST__INIT;
        const Stokehold__Control__V1__ListTenantsResponse *l;
        const ProtobufCMessage *m;
        int r;

        /* First whether there is anything to ask about. */
        if (!ctl->yes) {
                r = tenant_fetch(ctl, ctl->args[0], &l);
                if (r != CTL_OK)
                        return r;
                if (!isatty(STDIN_FILENO))
                        return ctl_fail(CTL_USAGE, "tenant delete: nobody to ask here; say --yes");
                if (!confirm(ctl->args[0], ctl->keep_data || strcmp(l->tenants[0]->deletion_policy, "Retain") == 0))
                        return ctl_fail(CTL_FAILED, "nothing was deleted");
        }
        request.name = ctl->args[0];
        request.keep_data = ctl->keep_data;
        r = ctl_call(ctl, "DeleteTenant", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__delete_tenant_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        printf("Tenant %s was deleted.\n", ctl->args[0]);
        return CTL_OK;
}

static int run_recover(struct ctl *ctl) {
        Stokehold__Control__V1__RecoverTenantRequest request = STOKEHOLD__CONTROL__V1__RECOVER_TENANT_REQUEST__INIT;
        const Stokehold__Control__V1__Tenant *t;
        const ProtobufCMessage *m;
        int r;

        if (!ctl->accept_loss)
                return ctl_fail(CTL_USAGE,
                        "tenant recover: acknowledged writes may be gone, and clients must list everything anew; say --accept-loss "
                        "if the datastore cannot be given its newer state back");
        request.name = ctl->args[0];
        request.accept_loss = true;
        r = ctl_call(ctl, "RecoverTenant", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__recover_tenant_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        t = ((const Stokehold__Control__V1__RecoverTenantResponse *)(const void *)m)->tenant;
        if (!t || !output_manifest(ctl->format, &t->base, t->manifest))
                printf("Tenant %s is served again from what its datastore holds. What its clients remember counts as compacted.\n",
                        ctl->args[0]);
        return CTL_OK;
}

static int run_resume(struct ctl *ctl) {
        Stokehold__Control__V1__ResumeTenantRequest request = STOKEHOLD__CONTROL__V1__RESUME_TENANT_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "ResumeTenant", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__resume_tenant_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        printf("Tenant %s is served again.\n", ctl->args[0]);
        return CTL_OK;
}

const struct ctl_command ctl_commands_tenant[] = {
        {"tenant", "list", "", "Tenants, where they are and how big", NULL, 0, 0, OPTION_FORMAT, run_list},
        {"tenant", "show", "NAME", "One tenant, with its endpoint",
                "-o yaml prints the definition with its status. The --etcd-servers line is ready to paste.\n", 1, 1,
                OPTION_FORMAT, run_show},
        {"tenant", "create", "NAME", "Make a tenant, and wait until it can be used",
                "NAME: lower-case letters, digits and dashes, up to 63. Without --datastore it goes to the\n"
                "default one. A tenant that shall be managed by a file is defined as 'kind: Tenant' instead.\n",
                1, 1, OPTION_FORMAT | OPTION_DATASTORE | OPTION_QUOTA | OPTION_RETAIN | OPTION_CLIENT_NAME, run_create},
        {"tenant", "delete", "NAME", "Delete a tenant, and its data unless told otherwise",
                "Asks on a terminal; elsewhere it wants --yes. A tenant that is defined in a file is deleted\n"
                "by removing it there. The data stays with --keep-data or deletionPolicy: Retain.\n",
                1, 1, OPTION_YES | OPTION_KEEP_DATA, run_delete},
        {"tenant", "recover", "NAME", "Go on with a log that is not the one that was known",
                "For a tenant in condition HistoryLost: a replica that lagged was promoted, or a backup restored.\n"
                "Its log is taken as it is and continued above every revision that was served; everything below\n"
                "counts as compacted, so that clients list anew. Needs --accept-loss.\n",
                1, 1, OPTION_FORMAT | OPTION_ACCEPT_LOSS, run_recover},
        {"tenant", "resume", "NAME", "Open a tenant that is quarantined",
                "A tenant with which the daemon has crashed twice is not opened any more, so that the others are\n"
                "served; 'tenant show' says what happened. This opens it as if that had never been.\n",
                1, 1, 0, run_resume},
        {},
};
