#pragma once

/*
 * What the commands of stokectl share: the parsed command line, the connection to the daemon, one call on it. Everything runs on the
 * only thread. A command returns its exit code and has then said on stderr, in one line, why it is not zero.
 */

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/loop.h"
#include "base/macro.h"
#include "ctl/output.h"
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

/* Options that only some commands take: a set of them. options.c has what they are. */
typedef uint64_t ctl_options;
#define OPTION_FORMAT (UINT64_C(1) << 0)
#define OPTION_DATASTORE (UINT64_C(1) << 1)
#define OPTION_QUOTA (UINT64_C(1) << 2)
#define OPTION_RETAIN (UINT64_C(1) << 3)
#define OPTION_YES (UINT64_C(1) << 4)
#define OPTION_KEEP_DATA (UINT64_C(1) << 5)
#define OPTION_ACCEPT_LOSS (UINT64_C(1) << 6)
#define OPTION_ENFORCE (UINT64_C(1) << 7)
#define OPTION_FORCE (UINT64_C(1) << 8)
#define OPTION_OVER (UINT64_C(1) << 9)
#define OPTION_TO (UINT64_C(1) << 10)
#define OPTION_WAIT (UINT64_C(1) << 11)
#define OPTION_DETACH (UINT64_C(1) << 12)
#define OPTION_RETENTION (UINT64_C(1) << 13)
#define OPTION_FROM (UINT64_C(1) << 14)
#define OPTION_TLS (UINT64_C(1) << 15)    /* --cacert, --cert, --key, --server-name */
#define OPTION_PREFIX (UINT64_C(1) << 16) /* and --to-prefix */
#define OPTION_FINISH (UINT64_C(1) << 17)
#define OPTION_ABORT (UINT64_C(1) << 18)
#define OPTION_OVERWRITE (UINT64_C(1) << 19)
#define OPTION_CONFIG (UINT64_C(1) << 20) /* and --plugins */
#define OPTION_KEYSPACE (UINT64_C(1) << 21)
#define OPTION_CLIENT_NAME (UINT64_C(1) << 22)
#define OPTION_FOR (UINT64_C(1) << 23)
#define OPTION_DIRECTORY (UINT64_C(1) << 24)
#define OPTION_DAYS (UINT64_C(1) << 25)
#define OPTION_CSR (UINT64_C(1) << 26)
#define OPTION_ENDPOINT (UINT64_C(1) << 27)
#define OPTION_HOST (UINT64_C(1) << 28)
#define OPTION_FROM_SNAPSHOT (UINT64_C(1) << 29)
#define OPTION_ABOVE (UINT64_C(1) << 30)

struct ctl {
        /* The command line; strings are borrowed from argv and the environment. */
        char *socket;        /* owned: the path of the control socket */
        uint64_t timeout_ns; /* 0: the command's own */
        enum ctl_format format;
        const char *datastore;
        uint64_t quota_bytes;
        int64_t above; /* a revision; 0: not given */
        bool retain, yes, keep_data, accept_loss, enforce, force, over;
        const char *from, *from_snapshot, *to;
        const char *cacert, *cert, *key, *server_name, *prefix, *to_prefix;
        bool finish, abort, overwrite;
        bool detach, wait;
        uint64_t retention_ns;
        bool has_retention;
        const char *root, *config, *plugins, *keyspace; /* of `offline` alone, but for root */
        char **client_names;                            /* owned: the array */
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
        ctl_options options;
        int (*run)(struct ctl *ctl);
};

/* One table a file; each ends with an entry without a name. */
extern const struct ctl_command ctl_commands_daemon[];
extern const struct ctl_command ctl_commands_datastore[];
extern const struct ctl_command ctl_commands_tenant[];
extern const struct ctl_command ctl_commands_migration[];
extern const struct ctl_command ctl_commands_transfer[];
extern const struct ctl_command ctl_commands_backup[];
extern const struct ctl_command ctl_commands_restore[];
extern const struct ctl_command ctl_commands_offline[];
extern const struct ctl_command ctl_commands_credentials[];
extern const struct ctl_command ctl_commands_authority[];

/* commands_snapshot.c: tenant import --from-snapshot */
int ctl_import_snapshot(struct ctl *ctl);

/* "stokectl: …" on stderr, in one line; returns code. */
int ctl_fail(int code, const char *format, ...) printf_like(2, 3);

/* Calls stokehold.control.v1.Control/METHOD; the response lives in the arena. default_timeout_ns counts if none was given on the command
 * line. Anything but CTL_OK was reported. */
int ctl_call(struct ctl *ctl, const char *method, uint64_t default_timeout_ns, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret);

/* Likewise, for a stream: on_message sees each response (also the last, which is in ret). default_timeout_ns 0: none. */
int ctl_call_streaming(struct ctl *ctl, const char *method, uint64_t default_timeout_ns,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
        void (*on_message)(void *userdata, const ProtobufCMessage *message), void *userdata,
        const ProtobufCMessage **ret);

#define CTL_TIMEOUT_LOOK (10 * NSEC_PER_SEC)
#define CTL_TIMEOUT_CHANGE (60 * NSEC_PER_SEC)
