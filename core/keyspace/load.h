#pragma once

/*
 * One load of a keyspace's log: what load.c, on the keyspace's loop, and load_read.c, on a worker, share. Records go from the one
 * to the other in pieces.
 */

#include <pthread.h>

#include "keyspace/state.h"

struct piece {
        struct piece *next;
        struct arena arena;
        struct stoke_record *records; /* owned array; keys in the arena */
        struct blob **blobs;          /* owned array, a reference each; NULL: without */
        size_t n, capacity;
        bool restart; /* what came before it is void */
};

struct piece_queue {
        struct piece *first, *last;
        size_t n;
};

struct load {
        struct datastore_job job;
        struct keyspace *ks;
        struct stoke_keyspace name;
        struct stoke_end after; /* seq 0: all */
        bool acquire, with_values;
        bool as_it_comes;
        bool anew;      /* the server's limits are asked for */
        bool other_log; /* it need not be what was known */

        /* The worker's, until the job is done. */
        struct piece *filling; /* owned */
        bool restart;          /* the next piece begins anew */
        struct stoke_limits limits;
        struct stoke_end end;
        uint64_t end_at_start; /* a mark beyond it: begun again */
        bool again, acquired;
        char damage[160];
        size_t n_bytes; /* kept until the driver is done */
        bool no_room;   /* for them */

        /* Both's. */
        pthread_mutex_t mutex;
        pthread_cond_t room;
        struct piece_queue handed; /* owned, by the worker to the loop */
        size_t n_ahead;            /* handed, not yet applied */
        bool posted, stop;
        struct loop_task task;

        /* The loop's. */
        struct piece_queue pieces; /* owned: to be applied */
        size_t at, n_applied;      /* of the first piece; of all */
        bool met_known, met_other; /* the record at the end known before: as it was, or another one */
        uint8_t last_kind;         /* of the record applied last */
        int64_t last_revision;
        bool job_done, given_up;
        bool waits, refused; /* for memory; it did not come */
        const char *broken;  /* why it is not the keyspace's log */
        struct loop_task slice;
};

struct load *load_new(struct keyspace *ks);
/* Not while the job is under way. */
void load_free(struct load *l);
/* The job's run, on the worker. */
int load_read(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call);
/* The loop's: takes what was handed over to the end of l->pieces. */
void load_take_pieces(struct load *l);
/* The first piece has been applied: the worker may go on. */
void load_drop_piece(struct load *l);
/* Nothing more of it is wanted: pieces go, and a worker that waits for room goes on, to its end. */
void load_stop(struct load *l);
