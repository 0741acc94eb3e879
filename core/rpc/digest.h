#pragma once

/*
 * SHA-256, a piece at a time. Here because OpenSSL is this room's alone. One thread at a time.
 */

#include "base/buf.h"

#define DIGEST_SIZE 32

struct digest; /* opaque */

/* -ENOMEM; -EOPNOTSUPP: OpenSSL has no SHA-256 (a policy of the machine's). */
int digest_new(struct digest **ret);
void digest_free(struct digest *digest);
DEFINE_FREEP(digest)
void digest_add(struct digest *digest, const void *data, size_t size);
/* Of all that was added; nothing may be added afterwards. */
void digest_finish(struct digest *digest, uint8_t ret[DIGEST_SIZE]);
