/*
 * stokectl tenant migrate; migration list, show, abort, undo. Whoever waits sees a bar on a terminal, and elsewhere a line now and then; Ctrl-C leaves
 * the migration going on.
 */

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <stokehold/control.pb-c.h>

#include "ctl/ctl.h"
#include "ctl/output.h"

#define BAR 24
#define LINE_NS (2 * NSEC_PER_SEC)

typedef Stokehold__Control__V1__Migration Migration;

/* ---- progress */

struct progress {
        bool terminal, drawn;
        uint64_t told_ns;
        char last[32]; /* phase that was told last */
};

static void on_interrupt(int signo) {
        static const char text[] = "\nstokectl: the migration goes on by itself: see 'stokectl migration list'\n";

        (void)signo;
        if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
                _exit(130);
        _exit(130);
}

static const char *seconds_text(double seconds, struct output_word *word) {
        if (seconds < 0)
                snprintf(word->text, sizeof(word->text), "?");
        else
                (void)output_age((int64_t)(seconds + 0.5), word);
        return word->text;
}

static void draw(struct progress *p, const Migration *m) {
        struct output_word done, all, rate, left;
        double part = m->bytes_all ? (double)m->bytes / (double)m->bytes_all : 0;
        int n = (int)(part * BAR + 0.5);
        char bar[BAR + 1];

        if (n > BAR)
                n = BAR;
        memset(bar, '#', (size_t)n);
        memset(bar + n, '.', (size_t)(BAR - n));
        bar[BAR] = '\0';
        fprintf(stderr, "\r\033[K%s [%s] %s of %s, %s/s, %s left%s%s", m->phase, bar, output_size(m->bytes, &done),
                output_size(m->bytes_all, &all), output_size((uint64_t)m->bytes_per_second, &rate),
                seconds_text(m->seconds_to_go, &left), *m->step ? ": " : "", m->step);
        p->drawn = true;
}

static void on_progress(void *userdata, const ProtobufCMessage *message) {
        const Migration *m = (const void *)message;
        struct progress *p = userdata;
        struct output_word done, all, rate, left;
        uint64_t now = clock_now_ns();

        if (m->ended)
                return;
        if (p->terminal) {
                draw(p, m);
                return;
        }
        if (strcmp(p->last, m->phase) == 0 && now - p->told_ns < LINE_NS)
                return;
        snprintf(p->last, sizeof(p->last), "%s", m->phase);
        p->told_ns = now;
        fprintf(stderr, "%s: %s of %s, %llu records, %s/s, %s left%s%s\n", m->phase, output_size(m->bytes, &done),
                output_size(m->bytes_all, &all), (unsigned long long)m->records,
                output_size((uint64_t)m->bytes_per_second, &rate), seconds_text(m->seconds_to_go, &left),
                *m->step ? ": " : "", m->step);
}

/* ---- one, many */

static void print(const Migration *m) {
        struct output_word word, word2;

        output_field("Tenant", "%s", m->tenant);
        output_field("From", "%s", m->from);
        output_field("To", "%s%s", m->to, m->back ? " (back)" : "");
        output_field("Phase", "%s%s%s", m->phase, *m->reason ? ": " : "", m->reason);
        if (*m->step)
                output_field("Step", "%s", m->step);
        output_field("Id", "%s", m->id);
        if (*m->owner)
                output_field("Daemon", "%s", m->owner);
        output_field("Started", "%s (%s ago)", *m->started ? m->started : "-", output_since(m->started, &word));
        if (*m->finished)
                output_field("Finished", "%s", m->finished);
        output_field("Copied", "%s of %s, %llu records", output_size(m->bytes, &word),
                output_size(m->bytes_all, &word2), (unsigned long long)m->records);
        if (m->bytes_per_second > 0)
                output_field("Rate", "%s/s", output_size((uint64_t)m->bytes_per_second, &word));
        if (!m->ended) {
                output_field("Records to go", "%llu", (unsigned long long)m->records_to_go);
                output_field("Time left", "%s", seconds_text(m->seconds_to_go, &word));
        }
        if (m->hold_ms > 0)
                output_field("Longest pause", "%.1f ms", m->hold_ms);
        if (*m->former)
                output_field("Former data", "in %s, sealed, until %s", m->former, m->former_until);
}

static int show(struct ctl *ctl, const Migration *m) {
        if (!output_message(ctl->format, &m->base))
                print(m);
        return CTL_OK;
}

static int run_migrate(struct ctl *ctl) {
        Stokehold__Control__V1__MigrateTenantRequest request = STOKEHOLD__CONTROL__V1__MIGRATE_TENANT_REQUEST__INIT;
        struct progress progress = {.terminal = isatty(STDERR_FILENO)};
        struct output_word size;
        const ProtobufCMessage *message;
        const Migration *m;
        int r;

        if (!ctl->to)
                return ctl_fail(CTL_USAGE, "tenant migrate needs --to DATASTORE");
        if (ctl->wait && ctl->detach)
                return ctl_fail(CTL_USAGE, "--wait and --detach exclude each other");
        request.name = ctl->args[0];
        request.datastore = (char *)ctl->to;
        request.detach = ctl->detach;
        if (ctl->has_retention)
                request.retention_seconds =
                        ctl->retention_ns ? (int64_t)((ctl->retention_ns + NSEC_PER_SEC - 1) / NSEC_PER_SEC) : -1;
        if (!ctl->detach)
                signal(SIGINT, on_interrupt);
        r = ctl_call_streaming(ctl, "MigrateTenant", ctl->detach ? CTL_TIMEOUT_CHANGE : 0, &request.base,
                &stokehold__control__v1__migration__descriptor, on_progress, &progress, &message);
        if (progress.drawn)
                fputs("\r\033[K", stderr);
        if (r != CTL_OK)
                return r;
        m = (const void *)message;
        if (ctl->format != FORMAT_TABLE)
                return show(ctl, m);
        if (!m->ended) {
                printf("Tenant %s is being moved to datastore %s: see 'stokectl migration show %s'.\n", m->tenant,
                        m->to, m->tenant);
                return CTL_OK;
        }
        printf("Tenant %s is in datastore %s: %s, %llu records; its clients waited for %.1f ms at most.\n", m->tenant,
                m->to, output_size(m->bytes, &size), (unsigned long long)m->records, m->hold_ms);
        if (*m->former)
                printf("Its former data stays in %s, sealed, until %s.\n", m->former, m->former_until);
        return CTL_OK;
}

static int run_list(struct ctl *ctl) {
        static const struct table_column columns[] = {{"TENANT", TABLE_SHRINK}, {"FROM", TABLE_SHRINK},
                {"TO", TABLE_SHRINK}, {"PHASE"}, {"COPIED", TABLE_RIGHT}, {"RATE", TABLE_RIGHT}, {"LEFT", TABLE_RIGHT},
                {"PAUSE", TABLE_RIGHT}, {"AGE", TABLE_RIGHT}, {"REASON", TABLE_SHRINK}};
        Stokehold__Control__V1__ListMigrationsRequest request = STOKEHOLD__CONTROL__V1__LIST_MIGRATIONS_REQUEST__INIT;
        const Stokehold__Control__V1__ListMigrationsResponse *l;
        cleanup(table_freep) struct table *table = NULL;
        const ProtobufCMessage *message;
        int r;

        r = ctl_call(ctl, "ListMigrations", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__list_migrations_response__descriptor, &message);
        if (r != CTL_OK)
                return r;
        l = (const void *)message;
        if (output_message(ctl->format, &l->base))
                return CTL_OK;
        if (l->n_migrations == 0) {
                puts("No tenant was moved. 'stokectl tenant migrate NAME --to DATASTORE' moves one.");
                return CTL_OK;
        }
        table = table_new(columns, n_elements(columns));
        for (size_t i = 0; i < l->n_migrations; i++) {
                const Migration *m = l->migrations[i];
                struct output_word word;

                table_cell(table, "%s", m->tenant);
                table_cell(table, "%s", m->from);
                table_cell(table, "%s", m->to);
                table_cell(table, "%s", m->phase);
                table_cell(table, "%s", output_size(m->bytes, &word));
                if (m->bytes_per_second > 0)
                        table_cell(table, "%s/s", output_size((uint64_t)m->bytes_per_second, &word));
                else
                        table_cell(table, "-");
                table_cell(table, "%s", m->ended ? "-" : seconds_text(m->seconds_to_go, &word));
                if (m->hold_ms > 0)
                        table_cell(table, "%.1f ms", m->hold_ms);
                else
                        table_cell(table, "-");
                table_cell(table, "%s", output_since(m->started, &word));
                table_cell(table, "%s", *m->reason ? m->reason : *m->step ? m->step : "-");
        }
        table_print(table);
        return CTL_OK;
}

static int run_show(struct ctl *ctl) {
        Stokehold__Control__V1__ShowMigrationRequest request = STOKEHOLD__CONTROL__V1__SHOW_MIGRATION_REQUEST__INIT;
        const ProtobufCMessage *message;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "ShowMigration", CTL_TIMEOUT_LOOK, &request.base,
                &stokehold__control__v1__migration__descriptor, &message);
        return r == CTL_OK ? show(ctl, (const void *)message) : r;
}

static int run_abort(struct ctl *ctl) {
        Stokehold__Control__V1__AbortMigrationRequest request = STOKEHOLD__CONTROL__V1__ABORT_MIGRATION_REQUEST__INIT;
        const ProtobufCMessage *message;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "AbortMigration", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__migration__descriptor, &message);
        if (r != CTL_OK || ctl->format != FORMAT_TABLE)
                return r == CTL_OK ? show(ctl, (const void *)message) : r;
        printf("Tenant %s stays in datastore %s.\n", ctl->args[0], ((const Migration *)(const void *)message)->from);
        return CTL_OK;
}

static int run_undo(struct ctl *ctl) {
        Stokehold__Control__V1__UndoMigrationRequest request = STOKEHOLD__CONTROL__V1__UNDO_MIGRATION_REQUEST__INIT;
        const ProtobufCMessage *message;
        int r;

        request.name = ctl->args[0];
        r = ctl_call(ctl, "UndoMigration", CTL_TIMEOUT_CHANGE, &request.base,
                &stokehold__control__v1__migration__descriptor, &message);
        if (r != CTL_OK || ctl->format != FORMAT_TABLE)
                return r == CTL_OK ? show(ctl, (const void *)message) : r;
        printf("Tenant %s is back in datastore %s.\n", ctl->args[0], ((const Migration *)(const void *)message)->to);
        return CTL_OK;
}

const struct ctl_command ctl_commands_migration[] = {
        {"tenant", "migrate", "NAME", "Move a tenant to another datastore while it is used",
                "Copies its data, follows what is written meanwhile, and switches: its clients see one short pause.\n"
                "Watches stay open, revisions and leases are kept. Until it has switched 'migration abort' gives it\n"
                "up; afterwards 'migration undo' goes back, as long as nothing new was written. A tenant whose\n"
                "definition names its datastore is moved by changing it there. Ctrl-C leaves it going on.\n",
                1, 1, OPTION_FORMAT | OPTION_TO | OPTION_WAIT | OPTION_DETACH | OPTION_RETENTION, run_migrate},
        {"migration", "list", "", "Migrations under way, and the last one of each tenant",
                "Figures of one under way are known to the daemon that does it.\n", 0, 0, OPTION_FORMAT, run_list},
        {"migration", "show", "NAME", "The migration of one tenant", NULL, 1, 1, OPTION_FORMAT, run_show},
        {"migration", "abort", "NAME", "Give a migration up; the tenant stays where it is", NULL, 1, 1, OPTION_FORMAT,
                run_abort},
        {"migration", "undo", "NAME", "Go back to the former datastore",
                "As long as the former data is kept there, and nothing was written since.\n", 1, 1, OPTION_FORMAT,
                run_undo},
        {},
};
