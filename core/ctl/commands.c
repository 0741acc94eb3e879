/*
 * Commands about the daemon itself: status, driver list, reload, log-level. They print what the daemon says and judge
 * nothing, but for the colour.
 */

#include <string.h>

#include <stokehold/control.pb-c.h>

#include "ctl/ctl.h"
#include "ctl/output.h"

static void print_daemons(const Stokehold__Control__V1__StatusResponse *s) {
        static const struct table_column columns[] = {
                {"DAEMON ON", TABLE_SHRINK}, {"VERSION"}, {"FORMATS"}, {"SINCE"}, {"TENANTS", TABLE_RIGHT}};
        cleanup(table_freep) struct table *table = table_new(columns, n_elements(columns));

        for (size_t i = 0; i < s->n_daemons; i++) {
                const Stokehold__Control__V1__Daemon *d = s->daemons[i];

                table_cell(table, "%s%s", d->host, d->self ? " (this one)" : "");
                table_cell(table, "%s", *d->version ? d->version : "?");
                if (d->oldest_format != d->current_format)
                        table_cell(table, "%u to %u", d->oldest_format, d->current_format);
                else if (d->current_format)
                        table_cell(table, "%u", d->current_format);
                else
                        table_cell(table, "?");
                table_cell(table, "%s", d->since);
                table_cell(table, "%llu", (unsigned long long)d->n_tenants_serving);
        }
        putchar('\n');
        table_print(table);
}

static int run_status(struct ctl *ctl) {
        Stokehold__Control__V1__StatusRequest request = STOKEHOLD__CONTROL__V1__STATUS_REQUEST__INIT;
        const Stokehold__Control__V1__StatusResponse *s;
        struct output_word word, word2;
        const ProtobufCMessage *m;
        int r;

        r = ctl_call(ctl, "Status", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__status_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        if (output_message(ctl->format, m))
                return CTL_OK;

        s = (const void *)m;
        output_field("Version", "%s", s->version);
        output_field("Running for", "%s (pid %d)", output_age(s->uptime_seconds, &word), s->pid);
        output_field("Daemon", "%s", s->daemon);
        output_field("Datastores", "%u, %u ready", s->n_datastores, s->n_datastores_ready);
        output_field("Tenants", s->n_tenants_quarantined ? "%u, %u open, %u quarantined" : "%u, %u open", s->n_tenants,
                s->n_tenants_serving, s->n_tenants_quarantined);
        output_field("Connections", "%llu", (unsigned long long)s->n_connections);
        if (*s->tls_address)
                output_field("TLS at", "%s", s->tls_address);
        output_field("Memory", "%s", output_size(s->memory_bytes, &word));
        output_field("Keyspaces", "%s of %s", output_size(s->keyspace_bytes, &word),
                s->memory_max_bytes ? output_size(s->memory_max_bytes, &word2) : "any size");
        output_field(
                "Value cache", "%s of %s", output_size(s->cache_bytes, &word), output_size(s->cache_max_bytes, &word2));
        output_field("Shards", "%u", s->n_shards);
        output_field("Registry in", "%s%s", s->registry_datastore, s->registry_shared ? ", shared" : "");
        if (s->registry_shared && s->definitions_generation)
                output_field("Definitions", "generation %lld", (long long)s->definitions_generation);
        if (s->copy_revision)
                output_field("Served from", "the registry's copy of %s, revision %lld", s->copy_saved,
                        (long long)s->copy_revision);
        if (s->format && s->format != s->current_format)
                output_field("Format", "%u in use, %u after stokectl upgrade finalize", s->format, s->current_format);
        else if (s->format)
                output_field("Format", "%u", s->format);
        output_field("Log level", "%s", s->log_level);
        if (s->registry_shared)
                print_daemons(s);
        if (s->n_problems == 0) {
                printf("\n%sNo problems.%s\n", output_colour(COLOUR_GOOD), output_colour_off());
                return CTL_OK;
        }
        printf("\n%sProblems:%s\n", output_colour(COLOUR_BAD), output_colour_off());
        for (size_t i = 0; i < s->n_problems; i++) {
                fputs("  - ", stdout);
                output_text(s->problems[i]);
                putchar('\n');
        }
        return CTL_OK;
}

static int run_driver_list(struct ctl *ctl) {
        static const struct table_column columns[] = {
                {"NAME"}, {"ALIASES", TABLE_SHRINK}, {"VERSION"}, {"MATURITY"}, {"DAEMONS"}, {"FILE", TABLE_SHRINK}};
        Stokehold__Control__V1__ListDriversRequest request = STOKEHOLD__CONTROL__V1__LIST_DRIVERS_REQUEST__INIT;
        cleanup(table_freep) struct table *table = NULL;
        const Stokehold__Control__V1__ListDriversResponse *l;
        const ProtobufCMessage *m;
        int r;

        r = ctl_call(ctl, "ListDrivers", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__list_drivers_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        if (output_message(ctl->format, m))
                return CTL_OK;

        l = (const void *)m;
        table = table_new(columns, n_elements(columns));
        for (size_t i = 0; i < l->n_drivers; i++) {
                const Stokehold__Control__V1__Driver *d = l->drivers[i];
                cleanup(freep) char *aliases = strdup("");

                for (size_t k = 0; k < d->n_aliases; k++) {
                        char *longer;

                        check(asprintf(&longer, "%s%s%s", aliases, k ? "," : "", d->aliases[k]) >= 0);
                        free(aliases);
                        aliases = longer;
                }
                table_cell(table, "%s", d->name);
                table_cell(table, "%s", aliases && *aliases ? aliases : "-");
                table_cell(table, "%s", d->version);
                table_cell(table, "%s%s", d->maturity, d->allowed ? "" : ", not allowed");
                table_cell(table, "%s", d->exclusive ? "one" : "several");
                table_cell(table, "%s", d->path);
        }
        table_print(table);
        if (l->n_refused) {
                printf("\n%sRefused:%s\n", output_colour(COLOUR_WARN), output_colour_off());
                for (size_t i = 0; i < l->n_refused; i++) {
                        fputs("  ", stdout);
                        output_text(l->refused[i]->path);
                        fputs(": ", stdout);
                        output_text(l->refused[i]->reason);
                        putchar('\n');
                }
        }
        return CTL_OK;
}

static int run_reload(struct ctl *ctl) {
        Stokehold__Control__V1__ReloadRequest request = STOKEHOLD__CONTROL__V1__RELOAD_REQUEST__INIT;
        const Stokehold__Control__V1__ReloadResponse *l;
        const ProtobufCMessage *m;
        int r;

        request.enforce = ctl->enforce;
        r = ctl_call(ctl, "Reload", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__reload_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        l = (const void *)m;
        if (!output_message(ctl->format, m)) {
                if (l->n_errors == 0)
                        puts("Reloaded.");
                for (size_t i = 0; i < l->n_errors; i++) {
                        output_text(l->errors[i]);
                        putchar('\n');
                }
        }
        if (l->n_errors)
                return ctl_fail(CTL_FAILED, "%zu %s; what was in force before stays so", l->n_errors,
                        l->n_errors == 1 ? "problem" : "problems");
        return CTL_OK;
}

static int run_finalize(struct ctl *ctl) {
        Stokehold__Control__V1__FinalizeUpgradeRequest request = STOKEHOLD__CONTROL__V1__FINALIZE_UPGRADE_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        r = ctl_call(ctl, "FinalizeUpgrade", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__finalize_upgrade_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        printf("Format %u is in use.\n",
                ((const Stokehold__Control__V1__FinalizeUpgradeResponse *)(const void *)m)->format);
        return CTL_OK;
}

static int run_recover(struct ctl *ctl) {
        Stokehold__Control__V1__RecoverRegistryRequest request = STOKEHOLD__CONTROL__V1__RECOVER_REGISTRY_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        if (!ctl->accept_loss)
                return ctl_fail(CTL_USAGE,
                        "registry recover: tenants that were made since are not known any more; say --accept-loss");
        request.accept_loss = true;
        r = ctl_call(ctl, "RecoverRegistry", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__recover_registry_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        puts("The registry is open as it is.");
        return CTL_OK;
}

static int run_log_level(struct ctl *ctl) {
        Stokehold__Control__V1__SetLogLevelRequest request = STOKEHOLD__CONTROL__V1__SET_LOG_LEVEL_REQUEST__INIT;
        Stokehold__Control__V1__StatusRequest status = STOKEHOLD__CONTROL__V1__STATUS_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        if (ctl->n_args == 0) {
                r = ctl_call(ctl, "Status", CTL_TIMEOUT_LOOK, &status.base,
                        &stokehold__control__v1__status_response__descriptor, &m);
                if (r != CTL_OK)
                        return r;
                output_text(((const Stokehold__Control__V1__StatusResponse *)(const void *)m)->log_level);
                putchar('\n');
                return CTL_OK;
        }
        request.level = ctl->args[0];
        r = ctl_call(ctl, "SetLogLevel", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__set_log_level_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        printf("Log level is %s (was ", ctl->args[0]);
        output_text(((const Stokehold__Control__V1__SetLogLevelResponse *)(const void *)m)->previous);
        puts(").");
        return CTL_OK;
}

const struct ctl_command ctl_commands_daemon[] = {
        {NULL, "status", "", "How the daemon is, and what is wrong",
                "Lists as problems the definitions that were refused, datastores that cannot be reached and\n"
                "tenants in trouble. The exit code is 0 as long as the daemon answers.\n",
                0, 0, OPTION_FORMAT, run_status},
        {NULL, "reload", "", "Read plugins, settings and definitions again",
                "Each mistake is printed as FILE:LINE: reason, and the exit code is 1; what was in force\n"
                "before stays in force. The daemon does the same on SIGHUP, and for definitions also when\n"
                "a file changes.\n"
                "\n"
                "Among several daemons that share a registry, one whose files differ from what is in force\n"
                "applies nothing and prints the differences. With --enforce its files are put in force, and\n"
                "it is for the others to follow.\n",
                0, 0, OPTION_FORMAT | OPTION_ENFORCE, run_reload},
        {NULL, "log-level", "[LEVEL]", "Show or set the log level, until the daemon restarts",
                "LEVEL is one of error, warning, notice, info, debug.\n", 0, 1, 0, run_log_level},
        {"upgrade", "finalize", "", "Put the newest format in use, once all daemons can do it",
                "A daemon reads and writes the format of its own version and the one before, so that daemons of\n"
                "two versions work side by side while they are replaced. What the new format brings is used from\n"
                "this command on, and a daemon of the old version serves nothing then. It is refused while a\n"
                "daemon lives that cannot do the new format.\n",
                0, 0, 0, run_finalize},
        {"registry", "recover", "", "Go on with a registry that is not the one that was known",
                "A replica that lagged was promoted, or a backup restored, and the registry has gone back. The\n"
                "daemon serves what it knew and changes nothing. With --accept-loss the registry is taken as it\n"
                "is: tenants that were made since are forgotten (their data stays in the datastore, and those of\n"
                "definitions are made anew, empty). Each daemon is to be told.\n",
                0, 0, OPTION_ACCEPT_LOSS, run_recover},
        {"driver", "list", "", "Drivers that are loaded, and files that were refused", NULL, 0, 0, OPTION_FORMAT,
                run_driver_list},
        {},
};
