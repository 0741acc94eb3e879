/*
 * One call to the daemon: the connection is made at the first one, gRPC's codes become exit codes, and what went wrong is said on stderr
 * in one line. stokectl's only thread.
 */

#include "ctl/ctl.h"

#include <errno.h>
#include <grp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/connect.h"
#include "rpc/protobuf.h"

int ctl_fail(int code, const char *format, ...) {
        cleanup(freep) char *text = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&text, format, ap);
        va_end(ap);
        check(r >= 0);
        /* One line, and nothing in it that could play with a terminal, whoever wrote it. */
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < 0x20 || *p == 0x7f)
                        *p = *p == '\n' ? ' ' : '?';
        fflush(stdout);
        fprintf(stderr, "stokectl: %s\n", text);
        return code;
}

/* grpc_client_new() connects in its own time and reports all failures alike; a first try here says what is wrong. */
static int probe(const char *path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd, r;

        if (strlen(path) >= sizeof(address.sun_path))
                return ctl_fail(CTL_USAGE, "%s: longer than the path of a socket may be (%zu bytes)", path,
                        sizeof(address.sun_path) - 1);
        memcpy(address.sun_path, path, strlen(path) + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return ctl_fail(CTL_FAILED, "socket: %s", strerror(errno));
        r = connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? errno : 0;
        close(fd);
        switch (r) {
        case 0:
                return CTL_OK;
        case EACCES:
        case EPERM:
                return ctl_fail(CTL_DENIED,
                        "%s: permission denied (root and members of stokehold-admin or stokehold-view may use it)",
                        path);
        case ENOENT:
                return ctl_fail(CTL_UNREACHABLE,
                        "%s: no such socket (is stokehold running? --root DIR or --socket PATH name another)", path);
        case ECONNREFUSED:
                return ctl_fail(CTL_UNREACHABLE, "%s: nobody listens there (is stokehold running?)", path);
        default:
                return ctl_fail(CTL_UNREACHABLE, "%s: %s", path, strerror(r));
        }
}

int ctl_connect(struct ctl *ctl) {
        cleanup(error_done) struct error err = {};
        cleanup(freep) char *address = NULL;
        int r;

        if (ctl->client)
                return CTL_OK;
        r = probe(ctl->socket);
        if (r != CTL_OK)
                return r;
        if (!ctl->loop && loop_new("stokectl", &ctl->loop) < 0)
                return ctl_fail(CTL_FAILED, "no event loop: %s", strerror(errno));
        if (asprintf(&address, "unix:%s", ctl->socket) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");
        if (grpc_client_new(ctl->loop, address, &ctl->client, &err) < 0)
                return ctl_fail(CTL_UNREACHABLE, "%s: %s", ctl->socket, error_text(&err));
        return CTL_OK;
}

static int exit_of_code(enum grpc_code code) {
        switch (code) {
        case GRPC_OK:
                return CTL_OK;
        case GRPC_INVALID_ARGUMENT:
                return CTL_USAGE;
        case GRPC_NOT_FOUND:
                return CTL_NOT_FOUND;
        case GRPC_ALREADY_EXISTS:
        case GRPC_FAILED_PRECONDITION:
                return CTL_CONFLICT;
        case GRPC_PERMISSION_DENIED:
        case GRPC_UNAUTHENTICATED:
                return CTL_DENIED;
        case GRPC_UNAVAILABLE:
        case GRPC_DEADLINE_EXCEEDED:
                return CTL_UNREACHABLE;
        default:
                return CTL_FAILED;
        }
}

static bool is_member(const char *name) {
        cleanup(freep) gid_t *groups = NULL;
        const struct group *group = getgrnam(name);
        int n;

        if (!group)
                return false;
        if (group->gr_gid == getegid())
                return true;
        n = getgroups(0, NULL);
        groups = n > 0 ? xcalloc((size_t)n, sizeof(*groups)) : NULL;
        n = groups ? getgroups(n, groups) : 0;
        for (int i = 0; i < n; i++)
                if (groups[i] == group->gr_gid)
                        return true;
        return false;
}

/* The daemon hangs up on whoever may not even look, before a word is said: this tells it from a daemon in trouble. */
static bool may_look(const char *path) {
        struct stat st;

        return geteuid() == 0 || (stat(path, &st) == 0 && st.st_uid == geteuid()) || is_member("stokehold-admin") ||
                is_member("stokehold-view");
}

int ctl_report(struct ctl *ctl, enum grpc_code code, const char *message, uint64_t timeout_ns) {
        if (code == GRPC_DEADLINE_EXCEEDED)
                return ctl_fail(CTL_UNREACHABLE, "no answer within %g s (see --timeout)", (double)timeout_ns / 1e9);
        if (code == GRPC_UNAVAILABLE && !may_look(ctl->socket))
                return ctl_fail(CTL_DENIED,
                        "%s: permission denied (root and members of stokehold-admin or stokehold-view may use it)",
                        ctl->socket);
        if (code != GRPC_OK)
                return ctl_fail(exit_of_code(code), "%s", message && *message ? message : grpc_code_name(code));
        return CTL_OK;
}

struct answer {
        struct ctl *ctl;
        const ProtobufCMessageDescriptor *descriptor;
        const ProtobufCMessage *message; /* in the arena */
        bool malformed;
        void (*on_message)(void *userdata, const ProtobufCMessage *message);
        void *userdata;
};

static void on_message(void *userdata, struct bytes data) {
        struct answer *answer = userdata;

        answer->message = protobuf_unpack(answer->descriptor, &answer->ctl->arena, data);
        answer->malformed = !answer->message;
        if (answer->message && answer->on_message)
                answer->on_message(answer->userdata, answer->message);
}

int ctl_call(struct ctl *ctl, const char *method, uint64_t default_timeout_ns, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) {
        return ctl_call_streaming(ctl, method, default_timeout_ns, request, response, NULL, NULL, ret);
}

int ctl_call_streaming(struct ctl *ctl, const char *method, uint64_t default_timeout_ns,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
        void (*on_message_)(void *userdata, const ProtobufCMessage *message), void *userdata,
        const ProtobufCMessage **ret) {
        struct answer answer = {.ctl = ctl, .descriptor = response, .on_message = on_message_, .userdata = userdata};
        cleanup(blob_unrefp) struct blob *packed = NULL;
        cleanup(error_done) struct error err = {};
        cleanup(freep) char *path = NULL;
        uint64_t timeout_ns = ctl->timeout_ns ? ctl->timeout_ns : default_timeout_ns;
        enum grpc_code code;
        int r;

        r = ctl_connect(ctl);
        if (r != CTL_OK)
                return r;
        packed = protobuf_pack(request);
        if (!packed || asprintf(&path, "/stokehold.control.v1.Control/%s", method) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");

        code = grpc_client_unary(ctl->client, path, timeout_ns, blob_bytes(packed), on_message, &answer, &err);
        r = ctl_report(ctl, code, err.text, timeout_ns);
        if (r != CTL_OK)
                return r;
        if (answer.malformed || !answer.message)
                return ctl_fail(
                        CTL_FAILED, "the daemon's answer to %s cannot be read: is it of another version?", method);
        *ret = answer.message;
        return CTL_OK;
}
