#pragma once

/*
 * What the files of the Watch service share: watch.c (the stream, its requests, the keyspace's callbacks), watch_message.c
 * (the responses) and progress.c (progress notifications, asked for or periodic). For these only. The server's loop only.
 */

#include <uthash.h>

#include "etcd/status.h"
#include "keyspace/keyspace.h"
#include "rpc/grpc.h"

#define WATCH_ALL_IDS (-1) /* etcd's id for "none" and "all of the stream" */

struct watch {
        UT_hash_handle hh; /* by id */
        int64_t id;
        struct watch_stream *stream; /* borrowed */
        struct watcher *watcher;     /* owned; NULL: ended by the server, its id waits for the client's cancel */
        int64_t start_revision;
        bool created; /* said so to the client */
        bool synced;  /* not known to be behind */
        bool paused;  /* the client is slow */
        bool quiet;   /* no events since the last periodic notification was due */
        bool cancel;  /* wanted before it was created */
        bool prev_kv, progress_notify, fragment;
};

/* A refused create, which must not be answered before those that came earlier. */
struct refusal {
        struct refusal *next;
        uint64_t n_before;  /* creates that were accepted before it */
        const char *reason; /* static */
};

struct watch_stream {
        struct grpc_call *call; /* borrowed; NULL: nothing has come yet */
        struct keyspace *ks;    /* borrowed */
        struct watch *watches;  /* owned */
        int64_t next_id;
        uint64_t n_accepted, n_created;
        struct refusal *refusals, **last_refusal; /* owned, in order */

        /* progress.c: requests under way share a barrier, and wait for the watches together. */
        struct keyspace_call barrier;
        bool asking, ask_again;
        int64_t wanted, latest; /* revisions that the oldest and the newest request wait for; 0: none */
        struct loop_task recheck;
        struct loop_timer retry;
        uint64_t retry_ns;
        struct loop_timer notify;
        bool notifying;
};

/* watch.c */
void watch_stream_fail(struct watch_stream *s, enum etcd_status status);
void watch_remove(struct watch *w);

/* watch_message.c: they send, or fail the stream for want of memory (then false). */
struct watch_message {
        int64_t revision, id;
        bool created, canceled, fragment;
        int64_t compact_revision;
        const char *reason; /* NULL: none */
};
bool watch_send(struct watch_stream *s, const struct watch_message *message);
bool watch_send_events(struct watch *w, struct watch_event *const *events, size_t n_events, int64_t revision);

/* progress.c */
void progress_request(struct watch_stream *s);
/* A watch has moved, come or gone: what waits for it may be answered now. */
void progress_try(struct watch_stream *s);
/* Begins the periodic notifications, with the first watch that wants them. */
void progress_start_notifying(struct watch_stream *s);
/* Ends everything that is under way; more than once is harmless. */
void progress_stop(struct watch_stream *s);
