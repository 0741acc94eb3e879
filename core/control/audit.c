#include "control/audit.h"

/*
 * The user's name is looked for in /etc/passwd alone: the system's other sources of users may block, and this is the main loop.
 */

#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/* Who asked, as it was then: a process may have gone, and its number been given to another, before the last line is written. */
struct who {
        char *peer;      /* owned, as in other lines */
        char *uid, *pid; /* owned; NULL: not on a Unix socket */
        char *user;      /* owned; NULL: /etc/passwd has none */
        char *command;   /* owned; NULL: /proc does not tell (of others' processes, where it is mounted with hidepid) */
};

struct audit_change {
        struct who who;
        const char *method;       /* static: its path */
        char *tenant, *datastore; /* owned; NULL: none */
        char *what;               /* owned */
};

#define REFUSALS_NS (10 * NSEC_PER_SEC)
#define MAX_REFUSALS 50
#define MAX_TENANT 63
#define MAX_DATASTORE 253

static char *find_user(uint32_t uid) {
        char room[4096], *name = NULL;
        struct passwd entry, *found = NULL;
        FILE *file = fopen("/etc/passwd", "re");

        if (!file)
                return NULL;
        while (!name && fgetpwent_r(file, &entry, room, sizeof(room), &found) == 0)
                if (entry.pw_uid == uid)
                        name = strdup(entry.pw_name);
        fclose(file);
        return name;
}

/* What the process calls itself: up to 15 bytes of anything. */
static char *find_command(int32_t pid) {
        cleanup(freep) char *path = NULL;
        char room[64];
        ssize_t n;
        int fd;

        if (pid <= 0 || asprintf(&path, "/proc/%d/comm", (int)pid) < 0)
                return NULL;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return NULL;
        n = read(fd, room, sizeof(room) - 1);
        close(fd);
        if (n <= 0)
                return NULL;
        if (room[n - 1] == '\n')
                n--;
        return strndup(room, (size_t)n);
}

static void who_init(struct who *who, const struct grpc_peer *peer) {
        *who = (struct who){.peer = strdup(peer->name ? peer->name : "somebody")};
        check(who->peer);
        if (!peer->local)
                return;
        if (asprintf(&who->uid, "%u", peer->uid) < 0 || asprintf(&who->pid, "%d", (int)peer->pid) < 0)
                check(false);
        who->user = find_user(peer->uid);
        who->command = find_command(peer->pid);
}

static void who_done(struct who *who) {
        free(who->peer);
        free(who->uid);
        free(who->pid);
        free(who->user);
        free(who->command);
}

/* result: NULL while there is none. */
static void write_line(
        const struct audit_change *change, const char *audit, const char *result, const char *text, const char *more) {
        const char *slash = strrchr(change->method, '/');
        const struct log_field fields[] = {
                {"audit", audit},
                {"method", slash ? slash + 1 : change->method},
                {"tenant", change->tenant},
                {"datastore", change->datastore},
                {"result", result},
                {"uid", change->who.uid},
                {"user", change->who.user},
                {"pid", change->who.pid},
                {"command", change->who.command},
        };
        const struct log_context context = {.peer = change->who.peer, .more = fields, .n_more = n_elements(fields)};

        _Static_assert(n_elements(fields) <= LOG_MAX_MORE, "the log takes no more");
        log_always(&context, "control: %s%s", text, more);
}

/* Names come from clients: no longer than a name can be. */
static char *copy_name(const char *name, size_t most) {
        char *copy = name ? strndup(name, most) : NULL;

        check(copy || !name);
        return copy;
}

struct audit_change *audit_begin(
        struct grpc_call *call, const char *tenant, const char *datastore, const char *format, ...) {
        struct audit_change *change = new0(struct audit_change);
        va_list ap;

        who_init(&change->who, grpc_call_peer(call));
        change->method = grpc_call_method(call)->path;
        change->tenant = copy_name(tenant, MAX_TENANT);
        change->datastore = copy_name(datastore, MAX_DATASTORE);
        va_start(ap, format);
        if (vasprintf(&change->what, format, ap) < 0)
                check(false);
        va_end(ap);
        write_line(change, "begun", NULL, change->what, ": begun");
        return change;
}

void audit_reword(struct audit_change *change, const char *format, ...) {
        char *what;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&what, format, ap) < 0)
                check(false);
        va_end(ap);
        free(change->what);
        change->what = what;
}

void audit_end(struct audit_change *change, enum grpc_code code, const char *message) {
        cleanup(freep) char *more = NULL;

        if (!change)
                return;
        if (asprintf(&more, ": failed: %s", message ? message : grpc_code_name(code)) < 0)
                check(false);
        if (code == GRPC_OK)
                write_line(change, "done", grpc_code_name(code), change->what, ": done");
        else
                write_line(change, "failed", grpc_code_name(code), change->what, more);
        audit_change_free(change);
}

void audit_change_free(struct audit_change *change) {
        if (!change)
                return;
        who_done(&change->who);
        free(change->tenant);
        free(change->datastore);
        free(change->what);
        free(change);
}

void audit_refused(struct audit_refusals *refusals, const struct grpc_peer *peer, const char *method, const char *why) {
        struct audit_change refused = {.method = method};
        uint64_t now = clock_now_ns();

        if (!refusals->since_ns || now - refusals->since_ns >= REFUSALS_NS) {
                if (refusals->n_left_out)
                        log_always(NULL, "control: %u more refused attempts are not in the log", refusals->n_left_out);
                *refusals = (struct audit_refusals){.since_ns = now};
        }
        if (refusals->n_written >= MAX_REFUSALS) {
                refusals->n_left_out++;
                return;
        }
        refusals->n_written++;
        who_init(&refused.who, peer);
        write_line(&refused, "refused", grpc_code_name(GRPC_PERMISSION_DENIED), why, "");
        who_done(&refused.who);
}
