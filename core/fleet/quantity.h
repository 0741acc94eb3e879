#pragma once

/*
 * Sizes ("256Mi"), durations ("5m", "1h30m", "500ms") and base64, as they are written in definitions and settings. Any
 * thread; nothing is kept.
 */

#include "base/buf.h"
#include "base/macro.h"

/* Bytes: digits and one of Ki Mi Gi Ti (powers of 1024), k M G T (powers of 1000) or nothing. -EINVAL, -ERANGE. */
int size_parse(const char *text, uint64_t *ret);
/* With the largest power of 1024 that divides it. */
void size_print(uint64_t bytes, char out[static 32]);

/* Nanoseconds: numbers with one of us ms s m h d, largest unit first ("1h30m"); "0" alone. -EINVAL, -ERANGE. */
int duration_parse(const char *text, uint64_t *ret);
void duration_print(uint64_t ns, char out[static 64]);

/* Line ends in between are skipped, as Kubernetes does; padding is needed. -EINVAL, -ENOMEM. The result is owned by the
 * caller and has a NUL behind its end, which is not counted. */
int base64_decode(const char *text, uint8_t **ret, size_t *ret_size);
