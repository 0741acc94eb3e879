/*
 * stokectl: asks and tells a running stokehold, over its control socket. This file reads the command line, finds the command, and helps;
 * call.c speaks with the daemon, commands*.c know what to ask. One thread, one request at a time.
 */

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/parse.h"

#define DEFAULT_SOCKET "/run/stokehold/control.sock"

static const struct ctl_command *const tables[] = {ctl_commands_daemon, ctl_commands_datastore, ctl_commands_tenant,
        ctl_commands_migration, ctl_commands_backup, ctl_commands_restore};

/* ---- help */

static void print_options(unsigned options) {
        if (options & OPTION_DATASTORE)
                puts("  --datastore NAME   where the data is kept (the default datastore otherwise)");
        if (options & OPTION_QUOTA)
                puts("  --quota SIZE       bytes that it may use: 512Mi, 2Gi, …");
        if (options & OPTION_RETAIN)
                puts("  --retain           keep the data when the tenant is deleted one day");
        if (options & OPTION_KEEP_DATA)
                puts("  --keep-data        leave the data in the datastore");
        if (options & OPTION_ACCEPT_LOSS)
                puts("  --accept-loss      go on although acknowledged writes may be gone");
        if (options & OPTION_ENFORCE)
                puts("  --enforce          put these definitions in force where other daemons have others");
        if (options & OPTION_TO)
                puts("  --to DATASTORE     where it goes");
        if (options & OPTION_RETENTION)
                puts("  --retention TIME   how long the former data stays, sealed, so that one can go back: 0s, 1h, …");
        if (options & OPTION_WAIT)
                puts("  --wait             show how far it has come, until it has ended (this is what happens anyway)");
        if (options & OPTION_DETACH)
                puts("  --detach           return once it is recorded; it goes on by itself");
        if (options & OPTION_FORCE)
                puts("  --force            replace a file that is there");
        if (options & OPTION_OVER)
                puts("  --over             replace what the tenant has now");
        if (options & OPTION_YES)
                puts("  -y, --yes          do not ask");
        if (options & OPTION_FORMAT)
                puts("  -o, --output F     table, json or yaml");
        puts("  --root DIR         the daemon that was started with --root DIR\n"
             "  --socket PATH      the control socket (else $STOKEHOLD_SOCKET, else " DEFAULT_SOCKET ")\n"
             "  --timeout TIME     how long to wait for an answer: 500ms, 10s, 2m\n"
             "  -h, --help         this text; with a command, more about it\n"
             "  --version          print the version");
}

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
                print_options(command->options);
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
        print_options(OPTION_FORMAT);
        puts("\nExit codes: 0 done, 1 failed, 2 wrong usage or value, 3 not found, 4 exists already or in use,\n"
             "5 permission denied, 6 the daemon (or the datastore behind it) cannot be reached.");
        return CTL_OK;
}

/* ---- the command line */

enum {
        LONG_ROOT = 256,
        LONG_SOCKET,
        LONG_TIMEOUT,
        LONG_VERSION,
        LONG_DATASTORE,
        LONG_QUOTA,
        LONG_RETAIN,
        LONG_KEEP_DATA,
        LONG_ACCEPT_LOSS,
        LONG_ENFORCE,
        LONG_TO,
        LONG_WAIT,
        LONG_DETACH,
        LONG_RETENTION,
        LONG_FORCE,
        LONG_OVER,
};

static const struct option long_options[] = {
        {"root", required_argument, NULL, LONG_ROOT},
        {"socket", required_argument, NULL, LONG_SOCKET},
        {"timeout", required_argument, NULL, LONG_TIMEOUT},
        {"output", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, LONG_VERSION},
        {"datastore", required_argument, NULL, LONG_DATASTORE},
        {"quota", required_argument, NULL, LONG_QUOTA},
        {"retain", no_argument, NULL, LONG_RETAIN},
        {"keep-data", no_argument, NULL, LONG_KEEP_DATA},
        {"accept-loss", no_argument, NULL, LONG_ACCEPT_LOSS},
        {"enforce", no_argument, NULL, LONG_ENFORCE},
        {"to", required_argument, NULL, LONG_TO},
        {"wait", no_argument, NULL, LONG_WAIT},
        {"detach", no_argument, NULL, LONG_DETACH},
        {"retention", required_argument, NULL, LONG_RETENTION},
        {"force", no_argument, NULL, LONG_FORCE},
        {"over", no_argument, NULL, LONG_OVER},
        {"yes", no_argument, NULL, 'y'},
        {},
};

struct command_line {
        unsigned options; /* of enum ctl_option, as given */
        bool help, version;
};

static int parse_options(int argc, char **argv, struct ctl *ctl, struct command_line *line) {
        const char *socket_path = NULL, *root = NULL;
        int option;

        opterr = 0;
        while ((option = getopt_long(argc, argv, ":o:hy", long_options, NULL)) != -1) {
                switch (option) {
                case 'o':
                        line->options |= OPTION_FORMAT;
                        if (strcmp(optarg, "table") == 0)
                                ctl->format = FORMAT_TABLE;
                        else if (strcmp(optarg, "json") == 0)
                                ctl->format = FORMAT_JSON;
                        else if (strcmp(optarg, "yaml") == 0)
                                ctl->format = FORMAT_YAML;
                        else
                                return ctl_fail(CTL_USAGE, "--output: '%s' is none of table, json, yaml", optarg);
                        break;
                case 'h':
                        line->help = true;
                        break;
                case 'y':
                        line->options |= OPTION_YES;
                        ctl->yes = true;
                        break;
                case LONG_ROOT:
                        root = optarg;
                        break;
                case LONG_SOCKET:
                        socket_path = optarg;
                        break;
                case LONG_TIMEOUT:
                        if (ctl_parse_time(optarg, &ctl->timeout_ns) < 0)
                                return ctl_fail(CTL_USAGE,
                                        "--timeout: '%s' is no time such as 500ms, 10s, 2m (up to a day)", optarg);
                        break;
                case LONG_VERSION:
                        line->version = true;
                        break;
                case LONG_DATASTORE:
                        line->options |= OPTION_DATASTORE;
                        ctl->datastore = optarg;
                        break;
                case LONG_QUOTA:
                        line->options |= OPTION_QUOTA;
                        if (ctl_parse_size(optarg, &ctl->quota_bytes) < 0)
                                return ctl_fail(CTL_USAGE, "--quota: '%s' is no size such as 512Mi or 2Gi", optarg);
                        break;
                case LONG_RETAIN:
                        line->options |= OPTION_RETAIN;
                        ctl->retain = true;
                        break;
                case LONG_KEEP_DATA:
                        line->options |= OPTION_KEEP_DATA;
                        ctl->keep_data = true;
                        break;
                case LONG_ACCEPT_LOSS:
                        line->options |= OPTION_ACCEPT_LOSS;
                        ctl->accept_loss = true;
                        break;
                case LONG_ENFORCE:
                        line->options |= OPTION_ENFORCE;
                        ctl->enforce = true;
                        break;
                case LONG_FORCE:
                        line->options |= OPTION_FORCE;
                        ctl->force = true;
                        break;
                case LONG_OVER:
                        line->options |= OPTION_OVER;
                        ctl->over = true;
                        break;
                case LONG_TO:
                        line->options |= OPTION_TO;
                        ctl->to = optarg;
                        break;
                case LONG_WAIT:
                        line->options |= OPTION_WAIT;
                        ctl->wait = true;
                        break;
                case LONG_DETACH:
                        line->options |= OPTION_DETACH;
                        ctl->detach = true;
                        break;
                case LONG_RETENTION:
                        line->options |= OPTION_RETENTION;
                        ctl->has_retention = true;
                        if (strcmp(optarg, "0") != 0 && strcmp(optarg, "0s") != 0 &&
                                ctl_parse_time(optarg, &ctl->retention_ns) < 0)
                                return ctl_fail(CTL_USAGE,
                                        "--retention: '%s' is no time such as 0s, 90s, 24h (up to a day)", optarg);
                        break;
                case ':':
                        return ctl_fail(CTL_USAGE, "%s needs a value", argv[optind - 1]);
                default:
                        return ctl_fail(CTL_USAGE, "unknown option '%s' (see stokectl --help)", argv[optind - 1]);
                }
        }

        if (root && socket_path)
                return ctl_fail(CTL_USAGE, "--root and --socket exclude each other");
        if (!root && !socket_path)
                socket_path = getenv("STOKEHOLD_SOCKET");
        if (root ? asprintf(&ctl->socket, "%s/run/control.sock", root) < 0
                 : asprintf(&ctl->socket, "%s", socket_path && *socket_path ? socket_path : DEFAULT_SOCKET) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");
        return CTL_OK;
}

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

static const char *option_name(unsigned option) {
        switch ((enum ctl_option)option) {
        case OPTION_FORMAT:
                return "--output";
        case OPTION_DATASTORE:
                return "--datastore";
        case OPTION_QUOTA:
                return "--quota";
        case OPTION_RETAIN:
                return "--retain";
        case OPTION_YES:
                return "--yes";
        case OPTION_KEEP_DATA:
                return "--keep-data";
        case OPTION_ACCEPT_LOSS:
                return "--accept-loss";
        case OPTION_ENFORCE:
                return "--enforce";
        case OPTION_TO:
                return "--to";
        case OPTION_WAIT:
                return "--wait";
        case OPTION_DETACH:
                return "--detach";
        case OPTION_RETENTION:
                return "--retention";
        case OPTION_FORCE:
                return "--force";
        case OPTION_OVER:
                return "--over";
        }
        return "?";
}

static int run(int argc, char **argv, struct ctl *ctl) {
        const struct ctl_command *command;
        struct command_line line = {};
        const char *group;
        char **words;
        size_t n_words;
        unsigned wrong;
        int r;

        r = parse_options(argc, argv, ctl, &line);
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
                        command->name, option_name(wrong & -wrong));
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
        free(ctl.socket);
        /* A full disk or a closed pipe behind -o json must not look like success. */
        if ((fflush(stdout) != 0 || ferror(stdout)) && r == CTL_OK)
                r = ctl_fail(CTL_FAILED, "cannot write the output: %s", strerror(errno));
        return r;
}
