/*
 * stokectl datastore list, show, check, claim. A datastore is defined in a file, so nothing here changes what one is.
 */

#include <string.h>

#include <stokehold/control.pb-c.h>

#include "ctl/ctl.h"
#include "ctl/output.h"

/* Comma-separated; "-" for none. */
static char *join(char **words, size_t n_words) {
        size_t size = 2;
        char *text, *p;

        for (size_t i = 0; i < n_words; i++)
                size += strlen(words[i]) + 1;
        text = p = xcalloc(size, 1);
        for (size_t i = 0; i < n_words; i++) {
                size_t n = strlen(words[i]);

                if (i)
                        *p++ = ',';
                memcpy(p, words[i], n);
                p += n;
        }
        if (p == text)
                *p = '-';
        return text;
}

static int fetch(struct ctl *ctl, const char *name, const Stokehold__Control__V1__ListDatastoresResponse **ret) {
        Stokehold__Control__V1__ListDatastoresRequest request = STOKEHOLD__CONTROL__V1__LIST_DATASTORES_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        if (name)
                request.name = (char *)name;
        r = ctl_call(ctl, "ListDatastores", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__list_datastores_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        *ret = (const void *)m;
        if (name && (*ret)->n_datastores == 0)
                return ctl_fail(CTL_NOT_FOUND, "no datastore '%s'", name);
        return CTL_OK;
}

static const char *role(const Stokehold__Control__V1__Datastore *d) {
        return d->default_ ? (d->system ? "default,registry" : "default") : (d->system ? "registry" : "-");
}

static int run_list(struct ctl *ctl) {
        static const struct table_column columns[] = {{"NAME", TABLE_SHRINK}, {"DRIVER"}, {"READY"}, {"ROLE"},
                {"TENANTS", TABLE_RIGHT}, {"COMMIT P50/P99", TABLE_RIGHT}, {"WHERE", TABLE_SHRINK}};
        const Stokehold__Control__V1__ListDatastoresResponse *l;
        cleanup(table_freep) struct table *table = NULL;
        int r;

        r = fetch(ctl, NULL, &l);
        if (r != CTL_OK)
                return r;
        if (output_message(ctl->format, &l->base))
                return CTL_OK;
        if (l->n_datastores == 0) {
                puts("No datastores.");
                return CTL_OK;
        }
        table = table_new(columns, n_elements(columns));
        for (size_t i = 0; i < l->n_datastores; i++) {
                const Stokehold__Control__V1__Datastore *d = l->datastores[i];
                cleanup(freep) char *endpoints = join(d->endpoints, d->n_endpoints);

                table_cell(table, "%s", d->name);
                table_cell(table, "%s", d->driver);
                table_cell(table, "%s", d->ready ? "yes" : "no");
                table_cell(table, "%s", role(d));
                table_cell(table, "%zu", d->n_used_by);
                if (d->commit_p99_ms > 0)
                        table_cell(table, "%.1f/%.1f ms", d->commit_p50_ms, d->commit_p99_ms);
                else
                        table_cell(table, "-");
                table_cell(table, "%s", *d->path ? d->path : endpoints);
        }
        table_print(table);
        return CTL_OK;
}

static int run_show(struct ctl *ctl) {
        const Stokehold__Control__V1__ListDatastoresResponse *l;
        const Stokehold__Control__V1__Datastore *d;
        cleanup(freep) char *endpoints = NULL;
        cleanup(freep) char *used_by = NULL;
        int r;

        r = fetch(ctl, ctl->args[0], &l);
        if (r != CTL_OK)
                return r;
        d = l->datastores[0];
        if (output_manifest(ctl->format, &d->base, d->manifest))
                return CTL_OK;

        endpoints = join(d->endpoints, d->n_endpoints);
        used_by = join(d->used_by, d->n_used_by);
        output_field("Name", "%s", d->name);
        output_field("Driver", "%s", d->driver);
        printf("%s", output_colour(d->ready ? COLOUR_GOOD : COLOUR_BAD));
        output_field("Ready", "%s", d->ready ? "yes" : "no");
        printf("%s", output_colour_off());
        output_field("Role", "%s", role(d));
        if (d->n_endpoints)
                output_field("Endpoints", "%s", endpoints);
        if (*d->path)
                output_field("Path", "%s", d->path);
        output_field("Defined in", "%s", d->source);
        output_field("Generation", "%lld", (long long)d->observed_generation);
        for (size_t i = 0; i < d->n_labels; i++)
                output_field(i ? "" : "Labels", "%s=%s", d->labels[i]->key, d->labels[i]->value);
        output_field("Tenants", "%s", used_by);
        output_field("Sessions", "%u of %u", d->sessions, d->max_sessions);
        if (d->commit_p99_ms > 0)
                output_field("Commits", "p50 %.1f ms, p99 %.1f ms", d->commit_p50_ms, d->commit_p99_ms);
        if (d->n_conditions) {
                static const struct table_column columns[] = {
                        {"CONDITION"}, {"STATUS"}, {"REASON"}, {"MESSAGE", TABLE_SHRINK}};
                cleanup(table_freep) struct table *table = table_new(columns, n_elements(columns));

                for (size_t i = 0; i < d->n_conditions; i++) {
                        table_cell(table, "%s", d->conditions[i]->type);
                        table_cell(table, "%s", d->conditions[i]->status);
                        table_cell(table, "%s", d->conditions[i]->reason);
                        table_cell(table, "%s", d->conditions[i]->message);
                }
                putchar('\n');
                table_print(table);
        }
        return CTL_OK;
}

static int run_claim(struct ctl *ctl) {
        Stokehold__Control__V1__ClaimDatastoreRequest request = STOKEHOLD__CONTROL__V1__CLAIM_DATASTORE_REQUEST__INIT;
        const ProtobufCMessage *m;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "ClaimDatastore", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__claim_datastore_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        printf("Datastore %s is governed by this registry.\n", ctl->args[0]);
        return CTL_OK;
}

static int run_check(struct ctl *ctl) {
        static const struct table_column columns[] = {{"CHECK"}, {"RESULT"}, {"FOUND", TABLE_SHRINK}};
        Stokehold__Control__V1__CheckDatastoreRequest request = STOKEHOLD__CONTROL__V1__CHECK_DATASTORE_REQUEST__INIT;
        const Stokehold__Control__V1__CheckDatastoreResponse *c;
        cleanup(table_freep) struct table *table = NULL;
        const ProtobufCMessage *m;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "CheckDatastore", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__check_datastore_response__descriptor, &m);
        if (r != CTL_OK)
                return r;
        c = (const void *)m;
        if (!output_message(ctl->format, m) && c->n_items) {
                table = table_new(columns, n_elements(columns));
                for (size_t i = 0; i < c->n_items; i++) {
                        table_cell(table, "%s", c->items[i]->name);
                        table_cell(table, "%s", c->items[i]->severity);
                        table_cell(table, "%s", c->items[i]->value);
                }
                table_print(table);
        }
        if (!c->ok)
                return ctl_fail(CTL_FAILED, "datastore '%s' is not well: %s", ctl->args[0], c->reason);
        return CTL_OK;
}

const struct ctl_command ctl_commands_datastore[] = {
        {"datastore", "list", "", "Datastores, with their tenants and commit times", NULL, 0, 0, OPTION_FORMAT,
                run_list},
        {"datastore", "show", "NAME", "One datastore, with its conditions",
                "-o yaml prints the definition with its status, as kubectl would print a DataStore; no secret\n"
                "is in it. Ready means that the datastore was dialled, with success.\n",
                1, 1, OPTION_FORMAT, run_show},
        {"datastore", "check", "NAME", "Dial a datastore now, and say what was found",
                "Authentication, latency, version, durability settings, room left. The exit code is 1 if\n"
                "something is wrong.\n",
                1, 1, OPTION_FORMAT, run_check},
        {"datastore", "claim", "NAME", "Let this daemon's registry govern a shared datastore from now on",
                "A datastore that several daemons may share stores which registry governs it; daemons of another\n"
                "serve nothing there. A claim ends that for good: after a registry was lost, or where a\n"
                "datastore changes hands. Daemons of the registry that governed it serve nothing there any more.\n",
                1, 1, 0, run_claim},
        {},
};
