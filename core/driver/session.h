#pragma once

/*
 * A session: one connection to a datastore and the worker thread that makes the driver's blocking calls on it. Private to
 * this room: the datastore makes sessions, gives them jobs and is told when they end. All members but `connection` are guarded by the
 * datastore's mutex; the connection is the worker's own, but for interrupt, which the datastore calls under the protection
 * of `interrupting`.
 */

#include <pthread.h>

#include "driver/datastore.h"

struct session {
        struct datastore *ds; /* borrowed */
        pthread_t thread;
        pthread_cond_t wake;
        bool woken;
        struct session *next_idle;

        struct stoke_session *connection; /* the driver's; NULL: not connected */
        char *scope; /* owned: the keyspace whose scope it is connected in; NULL: the store's own */
        uint8_t scope_incarnation[16];
        struct datastore_job *job; /* running */
        uint64_t started_ns;
        uint64_t deadline_ns;    /* the job's, or earlier: datastore_hurry() */
        uint64_t interrupted_ns; /* this job was last interrupted; 0: never */
        bool interrupting;       /* interrupt() is being called: the connection must stay */
};

/* Starts the worker. */
int session_start(struct session *session, struct datastore *ds);
void session_join(struct session *session);

/* ---- the datastore's half, called by the worker */

/* Whether sessions connect in the scope of a keyspace. */
bool datastore_is_scoped(const struct datastore *ds);

/* Blocks for the next job; NULL: the thread is to end. */
struct datastore_job *datastore_take(struct datastore *ds, struct session *session);
/* The job's outcome stands in it; posts it. elapsed_ns: of the driver's call. */
void datastore_finish(struct datastore *ds, struct session *session, struct datastore_job *job, uint64_t elapsed_ns);
/* Publishes or withdraws the connection that interrupt() may be called on, and in whose scope it is (NULL: the store's own). */
void datastore_connected(struct datastore *ds, struct session *session, struct stoke_session *connection,
        const struct stoke_keyspace *scope);
