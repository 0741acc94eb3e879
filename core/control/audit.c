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

#define REFUSALS_NS (10 * NSEC_PER_SEC)
#define MAX_REFUSALS 50
#define MAX_OBJECT 63

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

void audit_who_init(struct audit_who *who, const struct grpc_peer *peer) {
        *who = (struct audit_who){.peer = strdup(peer->name ? peer->name : "somebody")};
        check(who->peer);
        if (!peer->local)
                return;
        if (asprintf(&who->uid, "%u", peer->uid) < 0 || asprintf(&who->pid, "%d", (int)peer->pid) < 0)
                check(false);
        who->user = find_user(peer->uid);
        who->command = find_command(peer->pid);
}

void audit_who_done(struct audit_who *who) {
        free(who->peer);
        free(who->uid);
        free(who->pid);
        free(who->user);
        free(who->command);
        *who = (struct audit_who){};
}

void audit(const struct audit_who *who, const struct audit_event *event, const char *format, ...) {
        const char *slash = strrchr(event->method, '/');
        cleanup(freep) char *text = NULL, *tenant = NULL, *datastore = NULL;
        const bool has_ended = event->what[0] != 'b';
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                check(false);
        va_end(ap);
        /* Names come from clients: no longer than a name can be. */
        if ((event->tenant && asprintf(&tenant, "%.*s", MAX_OBJECT, event->tenant) < 0) ||
                (event->datastore && asprintf(&datastore, "%.253s", event->datastore) < 0))
                check(false);

        const struct log_field fields[] = {
                {"audit", event->what},
                {"method", slash ? slash + 1 : event->method},
                {"tenant", tenant},
                {"datastore", datastore},
                {"result", has_ended ? grpc_code_name(event->code) : NULL},
                {"uid", who->uid},
                {"user", who->user},
                {"pid", who->pid},
                {"command", who->command},
        };
        const struct log_context context = {.peer = who->peer, .more = fields, .n_more = n_elements(fields)};

        _Static_assert(n_elements(fields) <= LOG_MAX_MORE, "the log takes no more");
        log_always(&context, "control: %s", text);
}

void audit_refused(struct audit_refusals *refusals, const struct grpc_peer *peer, const char *method, const char *why) {
        const struct audit_event event = {.what = "refused", .method = method, .code = GRPC_PERMISSION_DENIED};
        struct audit_who who;
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
        audit_who_init(&who, peer);
        audit(&who, &event, "%s", why);
        audit_who_done(&who);
}
