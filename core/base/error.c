#include "base/error.h"

#include <stdarg.h>
#include <string.h>

int error_set(struct error *e, int code, const char *format, ...) {
        va_list ap;

        if (!e || e->code || e->text)
                return code;

        e->code = code;
        va_start(ap, format);
        if (vasprintf(&e->text, format, ap) < 0)
                e->text = NULL;
        va_end(ap);
        return code;
}

int error_prefix(struct error *e, const char *format, ...) {
        cleanup(freep) char *prefix = NULL;
        char *text;
        va_list ap;

        if (!e)
                return -EINVAL;

        va_start(ap, format);
        if (vasprintf(&prefix, format, ap) < 0)
                prefix = NULL;
        va_end(ap);

        if (prefix && asprintf(&text, "%s: %s", prefix, error_text(e)) >= 0) {
                free(e->text);
                e->text = text;
        }
        return e->code;
}

const char *error_text(const struct error *e) {
        return e->text ? e->text : strerror(-e->code);
}

void error_done(struct error *e) {
        free(e->text);
        *e = (struct error){};
}
