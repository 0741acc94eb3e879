#pragma once

/*
 * A stream: a keyspace's log, read from a datastore for somebody else than the engine, record for record. Migrations, backups, clones,
 * snapshots and exports begin with one. It needs no running keyspace, and does not disturb one: the log is read in short pieces, each a job of
 * its own in the keyspace's lane, so that commits go on between them; and never more ahead of its consumer than `ahead_bytes`.
 *
 * A stream works on a loop; its consumer is that loop (stream_next(), told by on_ready) or one other thread (stream_take(), which blocks),
 * not both. What it hands out are pieces: whole records with their keys and values, checked against their hashes, ascending by seq; a piece is
 * its taker's, may be freed on any thread, and outlives the stream. A piece may end within a transaction's records; the stream's end never does.
 *
 * What is deleted while it is read. Records of a log are deleted singly, once they are dead; a stream that is read meanwhile may miss a tombstone
 * that it needs. Either the log is pinned for as long as it is read (keyspace_pin(), config.pinned), or the stream ends with -EAGAIN when it
 * meets a compaction's mark behind the end that it found at its beginning: then all of it is void, and to be begun again.
 *
 * It is freed before its datastore is closed.
 */

#include <stokehold/driver.h>

#include "base/loop.h"
#include "driver/datastore.h"

struct stream;
struct arena;

/* ---- a limit of bytes a second that any number of streams share (throttle.c). Any thread. */

struct throttle;
/* bytes_per_second 0: none. */
struct throttle *throttle_new(uint64_t bytes_per_second);
void throttle_set(struct throttle *throttle, uint64_t bytes_per_second);
uint64_t throttle_get(const struct throttle *throttle);
/* So many bytes went by: for how long whoever took them is to pause, ns. NULL is taken: 0. */
uint64_t throttle_take(struct throttle *throttle, uint64_t bytes);
/* After the last stream. */
void throttle_free(struct throttle *throttle);
DEFINE_FREEP(throttle)

/* ---- pieces */

struct stream_piece {
        struct stoke_record *records; /* keys and values are the piece's; value NULL only in a stream without values */
        size_t n;                     /* at least 1 */
        size_t bytes;                 /* of keys, and of values that are there */
        /* The stream's own. */
        struct stream_piece *next;
        size_t capacity;
        struct arena *arena;
        struct stream_piece *joined; /* owned: whose records are in here too */
};
/* Any thread; takes NULL. */
void stream_piece_free(struct stream_piece *piece);
DEFINE_FREEP(stream_piece)

/* ---- streams */

struct stream_config {
        struct datastore *datastore; /* borrowed */
        const char *name;            /* copied */
        uint8_t incarnation[16];
        /* Not all zero: reads an installation that is not committed yet, under this id (what was fed; for verifying). */
        uint8_t installation[16];
        struct loop *loop; /* borrowed; runs until stream_free() and what that waits for are done */
        uint64_t after;    /* seq: what is behind it is read; 0: all */
        uint64_t
                upto; /* seq: nothing behind it is read, and it must be there (an installation: always given); 0: to the log's end */
        bool with_values; /* without, value is NULL and value_size what is stored */
        bool follow;      /* goes on with what is appended, until stream_finish() */
        bool pinned; /* nothing is deleted physically while it is read: marks behind the end are records like any other */
        bool acquire; /* exclusive drivers: takes the log before it reads, gives it back at its end. Offline; else whoever serves it has it */
        size_t ahead_bytes;        /* keys and values that wait for the consumer; 0: 4 MiB */
        uint64_t patience_ns;      /* for how long what fails is tried again; 0: 30 s */
        struct throttle *throttle; /* borrowed; may be NULL */
        /* On the loop, never from within a function of the stream: there are pieces, it has caught up, or it has ended. May be NULL. */
        void (*on_ready)(void *userdata);
        void *userdata;
};

/* Begins to read. The loop's thread (or before the loop runs). 0; -ENOTSUP: the driver cannot be read in pieces. */
int stream_new(const struct stream_config *config, struct stream **ret);
/* The loop's thread. Callbacks end with this; a call of the driver that is under way is waited for behind the scenes (the datastore's closing
 * waits for it too). The consumer's thread must have left stream_take(). Takes NULL. */
void stream_free(struct stream *stream);
DEFINE_FREEP(stream)

enum stream_result {
        STREAM_PIECE = 0, /* a piece was handed out */
        STREAM_END = 1,   /* all is handed out: stream_get_status() */
        STREAM_WAIT = 2,  /* nothing yet; stream_take(): until the deadline */
};
/* The loop's thread: the next piece, if there is one. STREAM_PIECE, STREAM_END, STREAM_WAIT (on_ready follows), or the negative result that the
 * stream ended with (pieces before that are handed out first). */
int stream_next(struct stream *stream, struct stream_piece **ret);
/* Any other thread, one at a time: likewise, and waits for it until the deadline (CLOCK_MONOTONIC; UINT64_MAX: none). */
int stream_take(struct stream *stream, uint64_t deadline_ns, struct stream_piece **ret);
/* Any thread, any time before stream_free(): ends it as soon as may be, with -ECANCELED; whoever waits in stream_take() comes back. */
void stream_stop(struct stream *stream);

/* Following, the loop's thread: something was appended, or may have been (it looks each 200 ms by itself). */
void stream_kick(struct stream *stream);
/* Following, the loop's thread: it ends with this record, which must be in the log (with this origin, or -ESTALE). */
void stream_finish(struct stream *stream, const struct stoke_end *end);

struct stream_status {
        bool ended;
        int result;                /* ended: 0, or negative errno; -ENOENT: no such keyspace */
        char reason[512];          /* of a negative one */
        struct stoke_end end;      /* the last record handed out or waiting; ended with 0: the end reached */
        int64_t revision;          /* the highest so far; of a stream from the beginning: the log's at `end` */
        struct stoke_end goal;     /* the log's end as it was when last asked */
        bool caught_up;            /* following: all up to `goal` was read */
        uint64_t n_records, bytes; /* read so far; keys and values */
};
/* Any thread, until stream_free(). */
void stream_get_status(struct stream *stream, struct stream_status *ret);
