#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>

static atomic_int log_level_now = LOG_LEVEL_INFO;
static bool to_journal;

static const struct {
        const char *name;
        enum log_level level;
} level_names[] = {
        {"error", LOG_LEVEL_ERROR},
        {"warning", LOG_LEVEL_WARNING},
        {"notice", LOG_LEVEL_NOTICE},
        {"info", LOG_LEVEL_INFO},
        {"debug", LOG_LEVEL_DEBUG},
};

/* systemd tells by JOURNAL_STREAM=DEVICE:INODE that stderr is the journal's; it may have been redirected since. */
void log_open(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long device, inode;
        struct stat st;

        to_journal = stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
                st.st_dev == device && st.st_ino == inode;
}

void log_set_level(enum log_level level) {
        atomic_store_explicit(&log_level_now, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void) {
        return (enum log_level)atomic_load_explicit(&log_level_now, memory_order_relaxed);
}

int log_level_parse(const char *name, enum log_level *ret) {
        for (size_t i = 0; i < n_elements(level_names); i++)
                if (strcmp(level_names[i].name, name) == 0) {
                        *ret = level_names[i].level;
                        return 0;
                }
        return -EINVAL;
}

const char *log_level_name(enum log_level level) {
        for (size_t i = 0; i < n_elements(level_names); i++)
                if (level_names[i].level == level)
                        return level_names[i].name;
        return "?";
}

static void log_to_journal(enum log_level level, const struct log_context *context, const char *message) {
        const struct {
                const char *name, *value;
        } fields[] = {
                {"STOKEHOLD_TENANT=", context ? context->tenant : NULL},
                {"STOKEHOLD_DATASTORE=", context ? context->datastore : NULL},
                {"STOKEHOLD_DRIVER=", context ? context->driver : NULL},
                {"STOKEHOLD_PEER=", context ? context->peer : NULL},
        };
        char *owned[n_elements(fields) + 2] = {};
        struct iovec iov[n_elements(fields) + 2];
        size_t n = 0;

        if (asprintf(&owned[n], "PRIORITY=%d", (int)level) >= 0)
                n++;
        if (asprintf(&owned[n], "MESSAGE=%s", message) >= 0)
                n++;
        for (size_t i = 0; i < n_elements(fields); i++)
                if (fields[i].value && asprintf(&owned[n], "%s%s", fields[i].name, fields[i].value) >= 0)
                        n++;
        for (size_t i = 0; i < n; i++)
                iov[i] = (struct iovec){owned[i], strlen(owned[i])};
        (void)sd_journal_sendv(iov, (int)n);
        for (size_t i = 0; i < n; i++)
                free(owned[i]);
}

/* One write a line, so that lines of several threads do not mix. */
static void log_to_stderr(enum log_level level, const struct log_context *context, const char *message) {
        cleanup(freep) char *line = NULL;
        struct timespec now;
        struct tm tm;
        char stamp[32];
        int n;

        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);

        n = asprintf(&line, "%s.%03ldZ %-7s %s%s%s%s%s%s%s%s%s\n", stamp, now.tv_nsec / 1000000, log_level_name(level),
                message, context && context->tenant ? " tenant=" : "",
                context && context->tenant ? context->tenant : "", context && context->datastore ? " datastore=" : "",
                context && context->datastore ? context->datastore : "", context && context->driver ? " driver=" : "",
                context && context->driver ? context->driver : "", context && context->peer ? " peer=" : "",
                context && context->peer ? context->peer : "");
        if (n >= 0) {
                ssize_t w = write(STDERR_FILENO, line, (size_t)n);
                (void)w;
        } else
                line = NULL;
}

void log_line(enum log_level level, const struct log_context *context, const char *format, ...) {
        cleanup(freep) char *message = NULL;
        int saved = errno;
        va_list ap;

        if (level > log_get_level())
                return;

        va_start(ap, format);
        if (vasprintf(&message, format, ap) < 0)
                message = NULL;
        va_end(ap);

        /* What came from outside must not begin a line of its own. */
        for (char *p = message; p && *p; p++)
                if ((unsigned char)*p < ' ')
                        *p = ' ';

        if (to_journal)
                log_to_journal(level, context, message ? message : "out of memory");
        else
                log_to_stderr(level, context, message ? message : "out of memory");
        errno = saved;
}
