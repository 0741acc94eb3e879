#pragma once

/*
 * A tenant's data as a file: the format, written and read as a stream of bytes, piece by piece, in bounded memory. Knows records as drivers
 * know them (seq, revision, kind, …) and no more. Opens nothing: bytes go to a sink and come from whoever has them. One thread at a
 * time, any thread.
 *
 * Format 1. All numbers are little-endian. A file begins with 16 bytes:
 *
 *      0  8  "stokearc"
 *      8  4  the format: 1
 *     12  4  0
 *
 * and goes on with sections to its end, each behind a header of 32 bytes:
 *
 *      0  4  what it is: 1 about, 2 leases, 3 records, 4 end
 *      4  4  bytes that follow this header
 *      8  4  bytes that they are once unpacked, at most 72 MiB
 *     12  4  leases or records in it; 0 elsewhere
 *     16 16  XXH128 of: the checksum of the section before (of the first one: of the file's first 16 bytes), these 16 bytes, and the bytes
 *            that follow; low 64 bits first
 *
 * The bytes that follow are one Zstandard frame. Sections come in this order: one about, any leases, any records, one end, and then nothing: so
 * a file that was cut, and a byte that was changed, removed or added anywhere, is noticed (damage, not malice: whoever can write
 * the file can make its checksums anew).
 *
 *   about    fields, each a number (2 bytes), a size (4) and bytes; a reader skips those that it does not know.
 *            1 the tenant's name; 2 its incarnation (16 bytes); 3 the cluster that clients know (16 bytes); 4 revision; 5 the revision compacted at;
 *            6 seq of the last record; 7 seconds since 1970 (8 bytes each); 8 version of the daemon that wrote it; 9 the driver that it was
 *            read from
 *   leases   each its id (8), seconds granted (8), milliseconds left (8) when the file was begun
 *   records  ascending by seq, each: seq (8), revision (8), create revision (8), version (8), lease (8), origin (16 and 8), hash (8),
 *            bytes of the key (4), bytes of the value (4), kind (1), then the key and the value
 *   end      records (8), leases (8), bytes of all keys and values (8), revision (8), seq of the last record (8)
 */

#include <stokehold/driver.h>

#include "base/buf.h"
#include "base/error.h"

#define ARCHIVE_FORMAT 1
#define ARCHIVE_PLAIN_MAX                                                                                              \
        (72 * 1024 * 1024) /* of a section; so also of a record, which is one request at most: 64 MiB */

/* What is said of the whole. Strings are borrowed. */
struct archive_about {
        const char *tenant;
        uint8_t incarnation[16];
        uint8_t cluster[16];
        int64_t revision; /* all that is up to this one is in it, and nothing of later ones */
        int64_t compacted;
        uint64_t end;    /* seq of the last record */
        int64_t created; /* seconds since 1970 */
        const char *version, *driver;
};

struct archive_lease {
        int64_t id, ttl; /* seconds granted */
        int64_t left_ms;
};

struct archive_figures {
        uint64_t n_records, n_leases, bytes; /* keys and values */
        uint64_t file_bytes;
};

struct archive_writer;
/* Takes the next bytes of the file; a negative result ends the writing. */
typedef int (*archive_sink_fn)(void *userdata, struct bytes data);

/* Begins a file: about comes first. Each function gives 0, what the sink gave, -EMSGSIZE (a record that is too large), -ENOMEM. */
int archive_writer_new(
        const struct archive_about *about, archive_sink_fn sink, void *userdata, struct archive_writer **ret);
void archive_writer_free(struct archive_writer *w);
DEFINE_FREEP(archive_writer)
/* Before the first record. */
int archive_write_lease(struct archive_writer *w, const struct archive_lease *lease);
/* Ascending. With its value. */
int archive_write_record(struct archive_writer *w, const struct stoke_record *record);
/* The file is complete; -EBADMSG: the last record is not the one that about promised. */
int archive_write_end(struct archive_writer *w);
void archive_writer_figures(const struct archive_writer *w, struct archive_figures *ret);

/* Each may be NULL, and ends the reading by a negative result. What they are given is valid until they return. A section's are called when all of it
 * has come and its checksum is right. */
struct archive_handler {
        int (*on_about)(void *userdata, const struct archive_about *about);
        int (*on_lease)(void *userdata, const struct archive_lease *lease);
        int (*on_record)(void *userdata, const struct stoke_record *record);
};

struct archive_reader;
struct archive_reader *archive_reader_new(const struct archive_handler *handler, void *userdata);
void archive_reader_free(struct archive_reader *r);
DEFINE_FREEP(archive_reader)
/* The next bytes. 0; -EBADMSG with the reason (not such a file, or damaged); -EPROTONOSUPPORT: a newer format; -ENOMEM; what the handler
 * gave. After anything but 0 there is nothing more to be read. */
int archive_reader_feed(struct archive_reader *r, struct bytes data, struct error *reterr);
/* There are no more bytes: 0 if the file is complete, otherwise -EBADMSG with the reason. */
int archive_reader_finish(struct archive_reader *r, struct error *reterr);
void archive_reader_figures(const struct archive_reader *r, struct archive_figures *ret);
