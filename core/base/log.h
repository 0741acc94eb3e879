#pragma once

/*
 * Log lines, with structured fields, to the journal where stderr is connected to it, else as plain lines to stderr.
 * Any thread. A function logs or returns an error, never both. Values of keys and credentials are never logged.
 */

#include "base/macro.h"

enum log_level {
        LOG_LEVEL_ERROR = 3,
        LOG_LEVEL_WARNING = 4,
        LOG_LEVEL_NOTICE = 5,
        LOG_LEVEL_INFO = 6,
        LOG_LEVEL_DEBUG = 7
};

/* A field of one line alone. The name is in lower case: the journal's is STOKEHOLD_ and the same in upper case. The value may come from
 * outside: on a plain line it is quoted where it could be taken for more than one word. NULL: absent. */
struct log_field {
        const char *name;
        const char *value;
};

/* Fields of a line, as journal fields STOKEHOLD_TENANT=… and so on, as tenant=… on a plain line; NULL: absent. */
struct log_context {
        const char *tenant;
        const char *datastore;
        const char *driver;
        const char *peer;
        const struct log_field *more;
        size_t n_more; /* at most LOG_MAX_MORE */
};
#define LOG_MAX_MORE 12

/* Opens the target. Call once, before threads start. */
void log_open(void);

void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* "error", "warning", "notice", "info", "debug"; -EINVAL otherwise. */
int log_level_parse(const char *name, enum log_level *ret);
const char *log_level_name(enum log_level level);

void log_line(enum log_level level, const struct log_context *context, const char *format, ...) printf_like(3, 4);

/* A notice that is written whatever the level is: what must not be turned off by those whom it is about. */
void log_always(const struct log_context *context, const char *format, ...) printf_like(2, 3);

#define log_at(level, context, ...)                                                                                    \
        do {                                                                                                           \
                if ((level) <= log_get_level())                                                                        \
                        log_line((level), (context), __VA_ARGS__);                                                     \
        } while (0)
#define log_error(...) log_at(LOG_LEVEL_ERROR, NULL, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, NULL, __VA_ARGS__)
#define log_notice(...) log_at(LOG_LEVEL_NOTICE, NULL, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)
