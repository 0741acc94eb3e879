#pragma once

/*
 * The human reason that travels beside a negative errno (or a positive outcome). Any thread; an error belongs to
 * whoever declared it.
 *
 *     cleanup(error_done) struct error err = {};
 *     r = definition_parse(path, &definition, &err);
 *     if (r < 0)
 *             log_error("%s", error_text(&err));
 */

#include <errno.h>

#include "base/macro.h"

struct error {
        int code;   /* negative errno or 0 */
        char *text; /* owned; NULL: strerror(code) is all there is to say */
};

/* Sets code and text (the first one stands: a second call only prefixes nothing and is ignored) and returns code.
 * e may be NULL: then only the code is returned. */
int error_set(struct error *e, int code, const char *format, ...) printf_like(3, 4);

/* Puts "prefix: " before the text, making the text from the code if there was none. Returns the code. */
int error_prefix(struct error *e, const char *format, ...) printf_like(2, 3);

/* Never NULL; valid until e changes. */
const char *error_text(const struct error *e);

void error_done(struct error *e);
