#pragma once

/*
 * A snapshot of a keyspace as bytes, made while they are taken: the two passes over the log by streams, on a thread of their own, since plans,
 * checksums and packing would hold up the loop. The thread is never more ahead of whoever takes the bytes than config.ahead_bytes, and what it
 * needs from the datastore is read in short pieces (keyspace/stream.h), so a slow taker costs neither memory nor a session.
 *
 * The loop's thread only.
 */

#include "base/buf.h"
#include "keyspace/stream.h"
#include "snapshot/plan.h"

#define SNAPSHOT_PIECE (64 * 1024)

struct snapshot_save_config {
        struct stream_config
                source; /* datastore, name, incarnation, loop, pinned, acquire, throttle; the rest is set here */
        struct snapshot_config plan; /* `left` is copied */
        size_t ahead_bytes;          /* made, not yet taken; 0: 1 MiB */
        /* On the loop, never from within a function of this: snapshot_save_next() has something, or has ended. */
        void (*on_ready)(void *userdata);
        void *userdata;
};

struct snapshot_save;
int snapshot_save_new(const struct snapshot_save_config *config, struct snapshot_save **ret);
/* Stops. Waits for the thread, which does nothing long by then. Takes NULL. */
void snapshot_save_free(struct snapshot_save *save);
DEFINE_FREEP(snapshot_save)

enum snapshot_save_result {
        SAVE_PIECE = 0, /* the file's next bytes, at most SNAPSHOT_PIECE; the checksum is a piece of its own */
        SAVE_END = 1,   /* all has been handed out */
        SAVE_WAIT = 2,  /* on_ready follows */
};
/* Or a negative errno: it has failed, what was handed out is worth nothing, and snapshot_save_reason() says why. -EAGAIN, -ESTALE: the log was
 * compacted by others meanwhile, it may be begun again. */
int snapshot_save_next(struct snapshot_save *save, struct blob **ret);
/* After the first piece. */
const struct snapshot_figures *snapshot_save_figures(const struct snapshot_save *save);
const char *snapshot_save_reason(const struct snapshot_save *save);
