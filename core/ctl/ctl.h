#pragma once

/*
 * What the commands of stokectl share: the parsed command line, the connection to the daemon, one call on it. Everything runs on the
 * only thread. A command returns its exit code and has then said on stderr, in one line, why it is not zero.
 */

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/loop.h"
#include "base/macro.h"
#include "rpc/client.h"

/* Documented in stokectl(1); scripts build on them. */
enum ctl_exit {
        CTL_OK = 0,
        CTL_FAILED = 1,      /* anything else */
        CTL_USAGE = 2,       /* a wrong command line, or a name or value that the daemon refuses */
        CTL_NOT_FOUND = 3,   /* no such tenant or datastore */
        CTL_CONFLICT = 4,    /* it exists already, is in use, is declared in a file */
        CTL_DENIED = 5,      /* not permitted */
        CTL_UNREACHABLE = 6, /* the daemon, or the datastore behind it, cannot be reached or did not answer in time */
};

enum ctl_format { FORMAT_TABLE, FORMAT_JSON, FORMAT_YAML };

/* Options that only some commands take. */
enum ctl_option {
        OPTION_FORMAT = 1 << 0,
        OPTION_DATASTORE = 1 << 1,
        OPTION_QUOTA = 1 << 2,
        OPTION_RETAIN = 1 << 3,
        OPTION_YES = 1 << 4,
        OPTION_KEEP_DATA = 1 << 5,
        OPTION_ACCEPT_LOSS = 1 << 6,
        OPTION_ENFORCE = 1 << 10,
        OPTION_CLIENT_NAME = 1 << 20,
        OPTION_FOR = 1 << 24,
        OPTION_DIRECTORY = 1 << 25,
        OPTION_DAYS = 1 << 26,
        OPTION_CSR = 1 << 27,
        OPTION_ENDPOINT = 1 << 28,
        OPTION_HOST = 1 << 29,
};

struct ctl {
        /* The command line; strings are borrowed from argv and the environment. */
        char *socket;        /* owned: the path of the control socket */
        uint64_t timeout_ns; /* 0: the command's own */
        enum ctl_format format;
        const char *datastore;
        uint64_t quota_bytes;
        bool retain, yes, keep_data, accept_loss, enforce;
        char **client_names; /* owned: the array */
        size_t n_client_names;
        /* Of credentials and the authority. */
        const char *client_kind, *directory, *csr; /* NULL: not given */
        uint32_t days;                             /* 0: not given */
        char **endpoints, **hosts;                 /* owned: the arrays */
        size_t n_endpoints, n_hosts;
        char **args; /* what follows the command's words */
        size_t n_args;

        /* Made by the first call. */
        struct loop *loop;          /* owned */
        struct grpc_client *client; /* owned */
        struct arena arena;         /* responses live here until the end */
};

struct ctl_command {
        const char *group; /* "tenant"; NULL: a command of one word */
        const char *name;
        const char *arguments; /* as shown in the usage line */
        const char *summary;   /* one line */
        const char *help;      /* paragraphs, ended by a newline; may be NULL */
        size_t min_args, max_args;
        unsigned options;
        int (*run)(struct ctl *ctl);
};

/* One table a file; each ends with an entry without a name. */
extern const struct ctl_command ctl_commands_daemon[];
extern const struct ctl_command ctl_commands_datastore[];
extern const struct ctl_command ctl_commands_tenant[];
extern const struct ctl_command ctl_commands_credentials[];
extern const struct ctl_command ctl_commands_authority[];

/* "stokectl: …" on stderr, in one line; returns code. */
int ctl_fail(int code, const char *format, ...) printf_like(2, 3);

/* Calls stokehold.control.v1.Control/METHOD; the response lives in the arena. default_timeout_ns counts if none was given on the command
 * line. Anything but CTL_OK was reported. */
int ctl_call(struct ctl *ctl, const char *method, uint64_t default_timeout_ns, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret);

#define CTL_TIMEOUT_LOOK (10 * NSEC_PER_SEC)
#define CTL_TIMEOUT_CHANGE (60 * NSEC_PER_SEC)
