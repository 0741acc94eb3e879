#pragma once

/* What archive.c, which writes, and archive_read.c share of the format; archive.h describes it. Nobody else includes it. */

#include "base/archive.h"
#include "base/little_endian.h"

#define ARCHIVE_MAGIC "stokearc"
#define ARCHIVE_HEAD 16    /* bytes of the file's beginning, and of a section's header without its checksum */
#define ARCHIVE_SECTION 32 /* of a section's header */
#define ARCHIVE_LEASE 24
#define ARCHIVE_RECORD 81 /* without key and value */
#define ARCHIVE_END 40
/* A section's bytes as stored: a little more than unpacked, where they cannot be made less. */
#define ARCHIVE_STORED_MAX (ARCHIVE_PLAIN_MAX + 1024 * 1024)

enum archive_section { ARCHIVE_ABOUT = 1, ARCHIVE_LEASES = 2, ARCHIVE_RECORDS = 3, ARCHIVE_ENDING = 4 };

enum archive_field {
        FIELD_TENANT = 1,
        FIELD_INCARNATION = 2,
        FIELD_CLUSTER = 3,
        FIELD_REVISION = 4,
        FIELD_COMPACTED = 5,
        FIELD_END = 6,
        FIELD_CREATED = 7,
        FIELD_VERSION = 8,
        FIELD_DRIVER = 9,
};

struct archive_sum {
        uint8_t bytes[16];
};
/* Of the file's first bytes. */
struct archive_sum archive_sum_begin(const uint8_t head[ARCHIVE_HEAD]);
/* Of the section behind `before`: the first half of its header, and what follows it. */
struct archive_sum archive_sum_next(
        const struct archive_sum *before, const uint8_t head[ARCHIVE_HEAD], struct bytes stored);
