#include "ctl/options.h"

/* One table: each row is an option, where its value goes, and its help. */

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "ctl/parse.h"

#define DEFAULT_SOCKET "/run/stokehold/control.sock"

enum kind {
        KIND_FLAG, /* a bool */
        KIND_TEXT, /* borrowed from argv */
        KIND_LIST, /* an array of those, and how many */
        KIND_SIZE, /* bytes */
        KIND_RETENTION,
        KIND_DAYS,
        KIND_REVISION,
};

struct row {
        ctl_options option;
        enum kind kind;
        const char *name;
        const char *argument; /* as shown; NULL: takes none */
        size_t at, n_at;      /* of the member of struct ctl */
        const char *help;     /* lines after the first begin under the first */
};

#define MEMBER(member) offsetof(struct ctl, member)

/* In the order in which --help shows them. */
static const struct row rows[] = {
        {OPTION_DATASTORE, KIND_TEXT, "datastore", "NAME", MEMBER(datastore), 0,
                "where the data is kept (the default datastore otherwise)"},
        {OPTION_KEYSPACE, KIND_TEXT, "keyspace", "K", MEMBER(keyspace), 0,
                "with --datastore: the data, as NAME/INCARNATION"},
        {OPTION_QUOTA, KIND_SIZE, "quota", "SIZE", MEMBER(quota_bytes), 0, "bytes that it may use: 512Mi, 2Gi, …"},
        {OPTION_RETAIN, KIND_FLAG, "retain", NULL, MEMBER(retain), 0,
                "keep the data when the tenant is deleted one day"},
        {OPTION_CLIENT_NAME, KIND_LIST, "client-name", "N", MEMBER(client_names), MEMBER(n_client_names),
                "a name in clients' certificates that leads to it: CN:NAME (or NAME), URI:URI,\nDNS:NAME; may be given several times"},
        {OPTION_KEEP_DATA, KIND_FLAG, "keep-data", NULL, MEMBER(keep_data), 0, "leave the data in the datastore"},
        {OPTION_ACCEPT_LOSS, KIND_FLAG, "accept-loss", NULL, MEMBER(accept_loss), 0,
                "go on although acknowledged writes may be gone"},
        {OPTION_ENFORCE, KIND_FLAG, "enforce", NULL, MEMBER(enforce), 0,
                "put these definitions in force where other daemons have others"},
        {OPTION_FROM, KIND_TEXT, "from", "URL,…", MEMBER(from), 0,
                "the etcd's endpoints: https://HOST:PORT, http://HOST:PORT, unix:///PATH"},
        {OPTION_FROM_SNAPSHOT, KIND_TEXT, "from-snapshot", "FILE", MEMBER(from_snapshot), 0,
                "a snapshot of an etcd, or a copy of its db, in place of a living one"},
        {OPTION_TO, KIND_TEXT, "to", "WHERE", MEMBER(to), 0,
                "where it goes: a datastore, or (export) an etcd's endpoints"},
        {OPTION_TLS, KIND_TEXT, "cacert", "FILE", MEMBER(cacert), 0,
                "the authorities of the etcd's certificate (the system's otherwise)"},
        {OPTION_TLS, KIND_TEXT, "cert", "FILE", MEMBER(cert), 0, "our certificate for it"},
        {OPTION_TLS, KIND_TEXT, "key", "FILE", MEMBER(key), 0, "and its key"},
        {OPTION_TLS, KIND_TEXT, "server-name", "NAME", MEMBER(server_name), 0,
                "what the etcd's certificate must be for (the endpoint's host otherwise)"},
        {OPTION_PREFIX, KIND_TEXT, "prefix", "PREFIX", MEMBER(prefix), 0,
                "only keys that begin so (all otherwise; of a kine /registry/)"},
        {OPTION_PREFIX, KIND_TEXT, "to-prefix", "PREFIX", MEMBER(to_prefix), 0, "what stands in its place afterwards"},
        {OPTION_FINISH, KIND_FLAG, "finish", NULL, MEMBER(finish), 0,
                "nobody writes to the source any more: carry what is left, and end"},
        {OPTION_ABORT, KIND_FLAG, "abort", NULL, MEMBER(abort), 0, "give it up"},
        {OPTION_OVERWRITE, KIND_FLAG, "overwrite", NULL, MEMBER(overwrite), 0, "remove what the target has there"},
        {OPTION_RETENTION, KIND_RETENTION, "retention", "TIME", MEMBER(retention_ns), 0,
                "how long the former data stays, sealed, so that one can go back: 0s, 1h, …"},
        {OPTION_WAIT, KIND_FLAG, "wait", NULL, MEMBER(wait), 0,
                "show how far it has come, until it has ended (this is what happens anyway)"},
        {OPTION_DETACH, KIND_FLAG, "detach", NULL, MEMBER(detach), 0,
                "return once it is recorded; it goes on by itself"},
        {OPTION_FORCE, KIND_FLAG, "force", NULL, MEMBER(force), 0, "replace a file that is there"},
        {OPTION_ABOVE, KIND_REVISION, "above", "REVISION", MEMBER(above), 0,
                "clients may have seen revisions up to this one: go on above it"},
        {OPTION_OVER, KIND_FLAG, "over", NULL, MEMBER(over), 0, "replace what the tenant has now"},
        {OPTION_FOR, KIND_TEXT, "for", "CLIENT", MEMBER(client_kind), 0, "kube-apiserver, kubeadm, k3s or etcdctl"},
        {OPTION_DIRECTORY, KIND_TEXT, "directory", "DIR", MEMBER(directory), 0, "where the files are"},
        {OPTION_HOST, KIND_LIST, "host", "NAME", MEMBER(hosts), MEMBER(n_hosts),
                "a name or address of the daemon's host; may be given several times"},
        {OPTION_ENDPOINT, KIND_LIST, "endpoint", "URL", MEMBER(endpoints), MEMBER(n_endpoints),
                "https://HOST:PORT by which the daemon is reached, instead of what it says itself;\nmay be given several times"},
        {OPTION_DAYS, KIND_DAYS, "days", "N", MEMBER(days), 0, "how long it is good"},
        {OPTION_CSR, KIND_TEXT, "csr", "FILE", MEMBER(csr), 0,
                "a certificate request (PEM) for a key that is somewhere else"},
        {OPTION_CONFIG, KIND_TEXT, "config", "FILE", MEMBER(config), 0,
                "the daemon's settings (else /etc/stokehold/stokehold.yaml)"},
        {OPTION_CONFIG, KIND_TEXT, "plugins", "DIR", MEMBER(plugins), 0,
                "where the drivers are, instead of what the settings say"},
};

/* ---- help */

static void print_row(const char *flags, const char *argument, const char *help) {
        char left[32];

        snprintf(left, sizeof(left), "  %s%s%s", flags, argument ? " " : "", argument ? argument : "");
        for (const char *line = help, *next; line; line = next) {
                size_t n = strcspn(line, "\n");

                next = line[n] ? line + n + 1 : NULL;
                /* … takes three bytes, and one place */
                printf("%-*s %.*s\n", line == help && strstr(left, "…") ? 22 : 20, line == help ? left : "", (int)n,
                        line);
        }
}

void ctl_options_print(ctl_options options) {
        for (size_t i = 0; i < n_elements(rows); i++) {
                char flags[32];

                if (!(options & rows[i].option))
                        continue;
                snprintf(flags, sizeof(flags), "--%s", rows[i].name);
                print_row(flags, rows[i].argument, rows[i].help);
        }
        if (options & OPTION_YES)
                print_row("-y, --yes", NULL, "do not ask");
        if (options & OPTION_FORMAT)
                print_row("-o, --output", "F", "table, json or yaml");
        print_row("--root", "DIR", "the daemon that was started with --root DIR");
        print_row("--socket", "PATH", "the control socket (else $STOKEHOLD_SOCKET, else " DEFAULT_SOCKET ")");
        print_row("--timeout", "TIME", "how long to wait for an answer: 500ms, 10s, 2m");
        print_row("-h, --help", NULL, "this text; with a command, more about it");
        print_row("--version", NULL, "print the version");
}

const char *ctl_options_name(ctl_options options) {
        static char name[32];

        for (size_t i = 0; i < n_elements(rows); i++)
                if (options & rows[i].option) {
                        snprintf(name, sizeof(name), "--%s", rows[i].name);
                        return name;
                }
        return options & OPTION_YES ? "--yes" : "--output";
}

/* ---- reading */

enum {
        LONG_ROOT = 256,
        LONG_SOCKET,
        LONG_TIMEOUT,
        LONG_VERSION,
        LONG_ROW, /* and as many more as there are rows */
};

static const struct option common[] = {
        {"root", required_argument, NULL, LONG_ROOT},
        {"socket", required_argument, NULL, LONG_SOCKET},
        {"timeout", required_argument, NULL, LONG_TIMEOUT},
        {"output", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, LONG_VERSION},
        {"yes", no_argument, NULL, 'y'},
};

static int take(struct ctl *ctl, const struct row *row, char *value, int argc) {
        void *member = (char *)ctl + row->at;

        switch (row->kind) {
        case KIND_FLAG:
                *(bool *)member = true;
                break;
        case KIND_TEXT:
                *(const char **)member = value;
                break;
        case KIND_LIST: {
                char ***array = member;
                size_t *n = (void *)((char *)ctl + row->n_at);

                if (!*array)
                        *array = xcalloc((size_t)argc, sizeof(**array));
                (*array)[(*n)++] = value;
                break;
        }
        case KIND_SIZE:
                if (ctl_parse_size(value, member) < 0)
                        return ctl_fail(CTL_USAGE, "--%s: '%s' is no size such as 512Mi or 2Gi", row->name, value);
                break;
        case KIND_RETENTION:
                ctl->has_retention = true;
                if (ctl_parse_retention(value, member) < 0)
                        return ctl_fail(
                                CTL_USAGE, "--%s: '%s' is no time such as 0s, 1h, 7d (up to a year)", row->name, value);
                break;
        case KIND_DAYS:
                if (ctl_parse_days(value, member) < 0)
                        return ctl_fail(CTL_USAGE, "--%s: '%s' is no number of days from 1 to 36500", row->name, value);
                break;
        case KIND_REVISION:
                if (ctl_parse_revision(value, member) < 0)
                        return ctl_fail(CTL_USAGE, "--%s: '%s' is no revision", row->name, value);
                break;
        }
        return CTL_OK;
}

static int take_format(struct ctl *ctl, const char *value) {
        static const char *const names[] = {[FORMAT_TABLE] = "table", [FORMAT_JSON] = "json", [FORMAT_YAML] = "yaml"};

        for (size_t i = 0; i < n_elements(names); i++)
                if (strcmp(value, names[i]) == 0) {
                        ctl->format = (enum ctl_format)i;
                        return CTL_OK;
                }
        return ctl_fail(CTL_USAGE, "--output: '%s' is none of table, json, yaml", value);
}

static int set_socket(struct ctl *ctl, const char *root, const char *socket_path) {
        if (root && socket_path)
                return ctl_fail(CTL_USAGE, "--root and --socket exclude each other");
        if (!root && !socket_path)
                socket_path = getenv("STOKEHOLD_SOCKET");
        if (root ? asprintf(&ctl->socket, "%s/run/control.sock", root) < 0
                 : asprintf(&ctl->socket, "%s", socket_path && *socket_path ? socket_path : DEFAULT_SOCKET) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");
        ctl->root = root;
        return CTL_OK;
}

int ctl_options_parse(int argc, char **argv, struct ctl *ctl, struct ctl_given *ret) {
        struct option options[n_elements(common) + n_elements(rows) + 1] = {};
        const char *socket_path = NULL, *root = NULL;
        int option, r = CTL_OK;

        memcpy(options, common, sizeof(common));
        for (size_t i = 0; i < n_elements(rows); i++)
                options[n_elements(common) + i] = (struct option){
                        rows[i].name, rows[i].argument ? required_argument : no_argument, NULL, LONG_ROW + (int)i};

        opterr = 0;
        while (r == CTL_OK && (option = getopt_long(argc, argv, ":o:hy", options, NULL)) != -1) {
                switch (option) {
                case 'o':
                        ret->options |= OPTION_FORMAT;
                        r = take_format(ctl, optarg);
                        break;
                case 'h':
                        ret->help = true;
                        break;
                case 'y':
                        ret->options |= OPTION_YES;
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
                        ret->version = true;
                        break;
                case ':':
                        return ctl_fail(CTL_USAGE, "%s needs a value", argv[optind - 1]);
                case '?':
                        return ctl_fail(CTL_USAGE, "unknown option '%s' (see stokectl --help)", argv[optind - 1]);
                default:
                        ret->options |= rows[option - LONG_ROW].option;
                        r = take(ctl, &rows[option - LONG_ROW], optarg, argc);
                        break;
                }
        }
        return r == CTL_OK ? set_socket(ctl, root, socket_path) : r;
}

void ctl_options_done(struct ctl *ctl) {
        for (size_t i = 0; i < n_elements(rows); i++)
                if (rows[i].kind == KIND_LIST)
                        free(*(void **)((char *)ctl + rows[i].at));
        free(ctl->socket);
}
