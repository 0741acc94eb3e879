#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
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

/* Those that are there: the usual ones, then the line's own. */
static size_t collect(
        const struct log_context *context, struct log_field fields[static 4 + LOG_MAX_MORE], size_t *ret_usual) {
        const struct log_field usual[] = {
                {"tenant", context ? context->tenant : NULL},
                {"datastore", context ? context->datastore : NULL},
                {"driver", context ? context->driver : NULL},
                {"peer", context ? context->peer : NULL},
        };
        size_t n = 0;

        for (size_t i = 0; i < n_elements(usual); i++)
                if (usual[i].value)
                        fields[n++] = usual[i];
        *ret_usual = n;
        for (size_t i = 0; context && i < context->n_more && i < LOG_MAX_MORE; i++)
                if (context->more[i].value)
                        fields[n++] = context->more[i];
        return n;
}

static char *journal_field(const struct log_field *field) {
        char *text = NULL;

        if (asprintf(&text, "STOKEHOLD_%s=%s", field->name, field->value) < 0)
                return NULL;
        for (char *p = text; *p != '='; p++)
                if (*p >= 'a' && *p <= 'z')
                        *p = (char)(*p - 'a' + 'A');
        return text;
}

static void log_to_journal(enum log_level level, const struct log_context *context, const char *message) {
        struct log_field fields[4 + LOG_MAX_MORE];
        char *owned[n_elements(fields) + 2] = {};
        struct iovec iov[n_elements(fields) + 2];
        size_t n = 0, n_usual, n_fields = collect(context, fields, &n_usual);

        if (asprintf(&owned[n], "PRIORITY=%d", (int)level) >= 0)
                n++;
        if (asprintf(&owned[n], "MESSAGE=%s", message) >= 0)
                n++;
        for (size_t i = 0; i < n_fields; i++) {
                owned[n] = journal_field(&fields[i]);
                if (owned[n])
                        n++;
        }
        for (size_t i = 0; i < n; i++)
                iov[i] = (struct iovec){owned[i], strlen(owned[i])};
        (void)sd_journal_sendv(iov, (int)n);
        for (size_t i = 0; i < n; i++)
                free(owned[i]);
}

/* Ours are written as they are, and so is what looks like one word; of any other, quoted, what could end the quotes is left out. Nothing ends the line. */
static void put_value(FILE *out, const char *value, bool is_ours) {
        static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/:@+-";
        const bool is_plain = is_ours || (*value && value[strspn(value, plain)] == '\0');

        if (!is_plain)
                fputc('"', out);
        for (const char *p = value; *p; p++) {
                const bool ends_quotes = !is_plain && (*p == '"' || *p == '\\');

                fputc((unsigned char)*p < ' ' || *p == 0x7f || ends_quotes ? '?' : *p, out);
        }
        if (!is_plain)
                fputc('"', out);
}

/* One write a line, so that lines of several threads do not mix. */
static void log_to_stderr(enum log_level level, const struct log_context *context, const char *message) {
        struct log_field fields[4 + LOG_MAX_MORE];
        cleanup(freep) char *line = NULL;
        size_t size = 0, n_usual, n_fields = collect(context, fields, &n_usual);
        struct timespec now;
        struct tm tm;
        char stamp[32];
        FILE *out;

        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);

        out = open_memstream(&line, &size);
        if (!out)
                return;
        fprintf(out, "%s.%03ldZ %-7s %s", stamp, now.tv_nsec / 1000000, log_level_name(level), message);
        for (size_t i = 0; i < n_fields; i++) {
                fprintf(out, " %s=", fields[i].name);
                put_value(out, fields[i].value, i < n_usual);
        }
        fputc('\n', out);
        if (fclose(out) == 0) {
                ssize_t w = write(STDERR_FILENO, line, size);
                (void)w;
        }
}

static void write_line(enum log_level level, const struct log_context *context, const char *format, va_list ap)
        __attribute__((format(printf, 3, 0)));

static void write_line(enum log_level level, const struct log_context *context, const char *format, va_list ap) {
        cleanup(freep) char *message = NULL;
        int saved = errno;

        if (vasprintf(&message, format, ap) < 0)
                message = NULL;

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

void log_line(enum log_level level, const struct log_context *context, const char *format, ...) {
        va_list ap;

        if (level > log_get_level())
                return;
        va_start(ap, format);
        write_line(level, context, format, ap);
        va_end(ap);
}

void log_always(const struct log_context *context, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        write_line(LOG_LEVEL_NOTICE, context, format, ap);
        va_end(ap);
}
