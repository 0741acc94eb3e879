#pragma once

/*
 * The inside of a transfer, shared by transfer.c (the thread, and its owner's side), transfer_source.c (reads and follows), and the two kinds of
 * sinks, import.c and export.c.
 *
 * The thread works through the phases from the top to the bottom, waiting where it must. It has two loops: on one the source is talked
 * to, on the other the sink, so that a sink that is slow slows the reading down.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "fleet/etcd_client.h"
#include "fleet/spool.h"
#include "fleet/transfer.h"

/* A key's version, as the source tells of it. */
struct transfer_event {
        struct transfer_event *next; /* of the same revision; NULL: none */
        bool deleted;                /* then key and mod_revision are all there is */
        struct spool_key kv;
};

struct transfer_sink {
        /* Does all of it, in place of what follows but close; NULL: no. */
        int (*work)(struct transfer *t, struct error *reterr);
        /* Begins; nothing was read yet. */
        int (*open)(struct transfer *t, struct error *reterr);
        /* A key of the first reading, in order of mod_revision. */
        int (*key)(struct transfer *t, const struct spool_key *key, struct error *reterr);
        /* All of the first reading was given: it was at this revision. */
        int (*read)(struct transfer *t, int64_t revision, struct error *reterr);
        /* The events of one revision. What they point to may be changed. */
        int (*events)(struct transfer *t, struct transfer_event *events, struct error *reterr);
        /* Nothing waits in the sink any more. */
        int (*flush)(struct transfer *t, struct error *reterr);
        /* All up to the source's last revision was given. */
        int (*finish)(struct transfer *t, int64_t revision, struct error *reterr);
        /* Frees what the sink has; also after a failed open. */
        void (*close)(struct transfer *t);
};

/* An end, copied. */
struct transfer_endpoints {
        char **endpoints; /* owned */
        size_t n_endpoints;
        struct tls_client *tls; /* ref */
};

struct transfer {
        struct loop *owner; /* borrowed */
        void (*on_done)(void *userdata, int result, const char *reason);
        void *userdata;
        char *tenant, *directory; /* owned */
        struct transfer_endpoints source;
        struct buf prefix, new_prefix;
        bool has_new_prefix;
        const struct transfer_sink *sink;
        void *sink_state; /* the sink's */

        pthread_t thread;
        bool started;
        pthread_mutex_t mutex; /* guards status, and that the loops are there */
        struct transfer_status status;
        bool running;
        struct loop *source_loop, *sink_loop; /* owned */
        atomic_bool stopped, finishing;
        struct loop_task done_task;
        int result;
        char reason[512]; /* what a callback that cannot hand out its reason left here; in the end that of the result */

        /* The thread's. */
        struct etcd_client *client;
        struct etcd_watch *watch;
        struct spool *spool;
        struct buf end; /* of the prefix */
        struct arena events_arena;
        struct transfer_event *first_event, *last_event; /* of the revision whose events are coming */
        uint64_t asked_ns, heard_ns;
        int64_t progress; /* all up to this revision was told, says the source */
        int64_t told;     /* of the last event */
};

/* transfer.c. The owner's thread: a transfer that has not begun; then its thread. */
int transfer_new(const struct transfer_config *config, const struct transfer_sink *sink, struct transfer **ret,
        struct error *reterr);
int transfer_begin(struct transfer *t, struct error *reterr);
int transfer_endpoints_copy(
        struct transfer_endpoints *to, struct loop *loop, const struct transfer_end *from, struct error *reterr);
void transfer_endpoints_done(struct transfer_endpoints *e);

/* From here on all is the thread's. */
int transfer_check_stopped(const struct transfer *t, struct error *reterr);
void transfer_set_phase(struct transfer *t, enum transfer_phase phase);
/* For what people see: revision: carried up to. */
void transfer_tell(struct transfer *t, uint64_t n_carried, int64_t revision, const char *to);
/* Whether the target has what the source has: -EBADMSG. with_revisions: those too. revision: of
 * both, where they count alike; 0: the newest of each. */
int transfer_compare(
        struct transfer *t, struct etcd_client *target, bool with_revisions, int64_t revision, struct error *reterr);
/* What kind of etcd it is, and with it the prefix. */
int transfer_look(struct transfer *t, struct error *reterr);
/* transfer_source.c: all of the work between open and close. */
int transfer_work(struct transfer *t, struct error *reterr);
/* The keys that begin with prefix; end: holds what the span points to. */
struct etcd_span transfer_span(const struct buf *prefix, struct buf *end);
/* A key as it is called at the other end; it is in buf. -EBADMSG. */
int transfer_rename(struct transfer *t, struct bytes key, struct buf *buf, struct bytes *ret, struct error *reterr);
/* A lease's time as granted, in seconds; 0: there is none. */
int transfer_lease(struct transfer *t, int64_t id, int64_t *ret_ttl, struct error *reterr);
/* All that the source tells of; none if only some of its keys are carried: then those that keys have are asked for one by one. */
int transfer_each_lease(struct transfer *t, int (*visit)(void *userdata, int64_t id, int64_t ttl, struct error *reterr),
        void *userdata, struct error *reterr);
