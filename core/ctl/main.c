/*
 * stokectl: asks and tells a running stokehold, over its control socket. This file finds the command, and helps; options.c reads
 * the command line, call.c speaks with the daemon, commands*.c know what to ask. One thread, one request at a time.
 */

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/options.h"

static const struct ctl_command *const tables[] = {ctl_commands_daemon, ctl_commands_datastore, ctl_commands_tenant,
        ctl_commands_credentials, ctl_commands_authority, ctl_commands_migration, ctl_commands_backup,
        ctl_commands_restore, ctl_commands_transfer, ctl_commands_offline};

/* ---- help */

static void command_words(const struct ctl_command *command, char *buf, size_t size) {
        snprintf(buf, size, "%s%s%s%s%s", command->group ? command->group : "", command->group ? " " : "",
                command->name, *command->arguments ? " " : "", command->arguments);
}

static void print_summaries(const char *group) {
        char words[96];

        for (size_t t = 0; t < n_elements(tables); t++)
                for (const struct ctl_command *c = tables[t]; c->name; c++) {
                        if (group && !(c->group && strcmp(c->group, group) == 0))
                                continue;
                        command_words(c, words, sizeof(words));
                        printf("  %-26s %s\n", words, c->summary);
                }
}

static int help(const char *group, const struct ctl_command *command) {
        char words[96];

        if (command) {
                command_words(command, words, sizeof(words));
                printf("Usage: stokectl %s [OPTIONS]\n\n%s.\n\n", words, command->summary);
                if (command->help)
                        printf("%s\n", command->help);
                puts("Options:");
                ctl_options_print(command->options);
                return CTL_OK;
        }
        if (group) {
                printf("Usage: stokectl %s COMMAND [OPTIONS]\n\nCommands:\n", group);
                print_summaries(group);
                printf("\n'stokectl %s COMMAND --help' says more.\n", group);
                return CTL_OK;
        }
        puts("Usage: stokectl COMMAND [OPTIONS]\n\nLooks at and changes a running stokehold.\n\nCommands:");
        print_summaries(NULL);
        puts("\nOptions:");
        ctl_options_print(OPTION_FORMAT);
        puts("\nExit codes: 0 done, 1 failed, 2 wrong usage or value, 3 not found, 4 exists already or in use,\n"
             "5 permission denied, 6 the daemon (or the datastore behind it) cannot be reached.");
        return CTL_OK;
}

/* ---- the command line */

/* Takes the command's words off. *ret_group: the first word, if it names a group. */
static const struct ctl_command *find_command(char ***words, size_t *n_words, const char **ret_group) {
        *ret_group = NULL;
        for (size_t t = 0; t < n_elements(tables); t++)
                for (const struct ctl_command *c = tables[t]; c->name; c++) {
                        size_t n = c->group ? 2 : 1;

                        if (*n_words == 0 || strcmp((*words)[0], c->group ? c->group : c->name) != 0)
                                continue;
                        if (c->group)
                                *ret_group = c->group;
                        if (c->group && (*n_words < 2 || strcmp((*words)[1], c->name) != 0))
                                continue;
                        *words += n;
                        *n_words -= n;
                        return c;
                }
        return NULL;
}

static int run(int argc, char **argv, struct ctl *ctl) {
        const struct ctl_command *command;
        struct ctl_given line = {};
        const char *group;
        char **words;
        size_t n_words;
        ctl_options wrong;
        int r;

        r = ctl_options_parse(argc, argv, ctl, &line);
        if (r != CTL_OK)
                return r;
        if (line.version) {
                puts("stokectl " STOKEHOLD_VERSION);
                return CTL_OK;
        }
        words = argv + optind;
        n_words = (size_t)(argc - optind);
        if (n_words && strcmp(words[0], "help") == 0) {
                line.help = true;
                words++;
                n_words--;
        }
        if (n_words == 0 && line.help)
                return help(NULL, NULL);
        if (n_words == 0)
                return ctl_fail(CTL_USAGE, "what shall be done? (see stokectl --help)");

        command = find_command(&words, &n_words, &group);
        if (!command && group && line.help && n_words == 1)
                return help(group, NULL);
        if (!command && group && n_words == 1)
                return ctl_fail(CTL_USAGE, "'%s' needs a command (see stokectl %s --help)", group, group);
        if (!command && group)
                return ctl_fail(CTL_USAGE, "unknown command '%s %s' (see stokectl %s --help)", group, words[1], group);
        if (!command)
                return ctl_fail(CTL_USAGE, "unknown command '%s' (see stokectl --help)", words[0]);
        if (line.help)
                return help(NULL, command);

        wrong = line.options & ~command->options;
        if (wrong)
                return ctl_fail(CTL_USAGE, "%s%s%s does not take %s", group ? group : "", group ? " " : "",
                        command->name, ctl_options_name(wrong));
        if (n_words < command->min_args)
                return ctl_fail(CTL_USAGE, "%s%s%s needs %s", group ? group : "", group ? " " : "", command->name,
                        command->arguments);
        if (n_words > command->max_args)
                return ctl_fail(CTL_USAGE, "%s%s%s: '%s' is too much", group ? group : "", group ? " " : "",
                        command->name, words[command->max_args]);
        ctl->args = words;
        ctl->n_args = n_words;
        return command->run(ctl);
}

int main(int argc, char **argv) {
        struct ctl ctl = {};
        int r;

        setlocale(LC_CTYPE, "");
        signal(SIGPIPE, SIG_IGN);
        arena_init(&ctl.arena, 256 << 20);
        r = run(argc, argv, &ctl);
        grpc_client_free(ctl.client);
        loop_free(ctl.loop);
        arena_done(&ctl.arena);
        ctl_options_done(&ctl);
        /* A full disk or a closed pipe behind -o json must not look like success. */
        if ((fflush(stdout) != 0 || ferror(stdout)) && r == CTL_OK)
                r = ctl_fail(CTL_FAILED, "cannot write the output: %s", strerror(errno));
        return r;
}
