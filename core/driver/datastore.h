#pragma once

/*
 * An open datastore: a driver's store, its sessions with their worker threads, and the queue of jobs for them.
 *
 * A job is one or more blocking calls of the driver, made on a worker thread with a session; its outcome is posted back to the loop that
 * submitted it. The loop must run until then. Jobs of one keyspace run one at a time, in the order of submission within a class, commits first;
 * at most half of the sessions do bulk work at a time, so that a load never keeps a commit waiting for long. A session
 * that failed is disconnected, and the next job connects anew. Where the driver says that keyspaces have credentials of their own, sessions
 * connect in the scope of the keyspace that they work for, and are handed on to another when that one waits.
 *
 * datastore_submit() may be called from any loop's thread; open and free from the main thread.
 */

#include <stokehold/driver.h>

#include "base/error.h"
#include "base/loop.h"
#include "driver/plugin.h"

struct datastore;
struct lane;

/* Resolves a secret at the time of asking, any thread. As stoke_host.secret, without the userdata. */
typedef int (*datastore_secret_fn)(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size);

struct datastore_config {
        const char *name;
        const struct plugin *plugin;
        const char *const *endpoints;
        size_t n_endpoints;
        const struct stoke_setting *settings;
        size_t n_settings;
        unsigned n_sessions;        /* at most; 0: 8 */
        uint8_t daemon[16];         /* this daemon's incarnation */
        datastore_secret_fn secret; /* NULL: none */
        void *secret_userdata;
};

/* Copies the configuration. Reaches nothing yet; -EINVAL with the driver's reason if it does not like the settings. */
int datastore_open(const struct datastore_config *config, struct datastore **ret, struct error *reterr);
/* Stops the threads after running jobs have ended (interrupting them after grace_ns); jobs that wait end with -ECANCELED. */
void datastore_close(struct datastore *ds, uint64_t grace_ns);

const char *datastore_name(const struct datastore *ds);
const struct stoke_driver *datastore_driver(const struct datastore *ds);
/* Borrowed; for check(), which needs no session. */
struct stoke_store *datastore_store(struct datastore *ds);

enum job_class {
        JOB_COMMIT = 0, /* append */
        JOB_READ = 1,   /* values, ends, stat */
        JOB_BULK = 2,   /* load, compact, install, create, drop, list, check */
};

struct datastore_job {
        /* Set by the submitter, who owns the structure (embedded) until done has been called. */
        enum job_class class;
        const struct stoke_keyspace *keyspace; /* NULL: of the store as a whole; must stay valid */
        const char *
                for_keyspace; /* its name, of a job that is not among its jobs, but is hurried with them; NULL; as keyspace */
        bool own_scope;       /* on a session of the store's own, whatever the keyspace: create, drop, install */
        uint64_t deadline_ns; /* CLOCK_MONOTONIC, for waiting, connecting and the call together */
        struct loop *loop;    /* where done is called; NULL: on whichever thread ends it, where it must not block */
        /* On a worker thread. session is never NULL. call has the deadline and a buffer for the reason. The result goes to
         * job->result; a negative one (-ENOTCONN, -ECONNRESET, -EPIPE, -EIO, -ETIMEDOUT, -ECANCELED) or STOKE_UNKNOWN ends the session. */
        int (*run)(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call);
        size_t n_records; /* JOB_COMMIT: of the append, for the figures */
        /* On the loop. By then the job is no longer the datastore's: it may be freed or submitted again. */
        void (*done)(struct datastore_job *job);
        uint32_t owner; /* base/owner.h; 0: whoever submits it */
        /* The outcome. */
        int result; /* 0, an outcome, or negative errno (also when it never ran: -ETIMEDOUT, -ECANCELED, or connect's) */
        bool ran;   /* run was called: an append that did not run certainly did not happen */
        char reason[512]; /* "" if there is none */

        /* The datastore's own. */
        struct datastore *ds;
        struct loop_task task;
        struct lane *lane;
        struct datastore_job *next;
        uint64_t submitted_ns;
};

void datastore_submit(struct datastore *ds, struct datastore_job *job);
/* The jobs of a keyspace (by name), and those that are for it, that wait or run end soon: their deadlines are now. Any thread. */
void datastore_hurry(struct datastore *ds, const char *keyspace);
/* How many jobs wait or run, of a keyspace (by name) or (NULL) of all. */
size_t datastore_pending(struct datastore *ds, const char *keyspace);

/*
 * Where does a keyspace's log end? Questions that gather while sessions are busy share one call of the driver's ends(), of whichever tenants
 * and shards they are; each is asked after it came. Embedded in the asker's structure, alive until done.
 */
struct datastore_question {
        struct stoke_keyspace keyspace; /* the name is borrowed until done */
        struct loop *loop;              /* where done is called */
        void (*done)(struct datastore_question *question);
        /* The outcome. */
        int result; /* 0, or what ends() or connecting gave */
        bool found; /* there is such a keyspace */
        struct stoke_end end;
        char reason[512];

        /* The datastore's own. */
        struct datastore_question *next;
        struct loop_task task;
};
void datastore_ask(struct datastore *ds, struct datastore_question *question);

struct datastore_figures {
        unsigned n_sessions; /* connected now */
        unsigned max_sessions;
        size_t n_waiting;                      /* jobs */
        uint64_t commit_p50_ns, commit_p99_ns; /* append alone, over the last 1,024; 0: none yet */
};
void datastore_figures(struct datastore *ds, struct datastore_figures *ret);

/*
 * Tells of keyspaces that have grown, where the driver can (STOKE_NOTIFIES; elsewhere nothing ever comes): on_grown is called on the given
 * loop; several growths may come as one. A thread and a session of its own are used from the first subscription on. Any thread may
 * subscribe. The subscription is the datastore's; unsubscribe on the subscriber's loop, before datastore_close(): on_grown
 * is not called after that, not even for what was posted already. NULL is taken.
 */
struct datastore_subscription;
struct datastore_subscription *datastore_subscribe(struct datastore *ds, const char *keyspace, struct loop *loop,
        void (*on_grown)(void *userdata), void *userdata);
void datastore_unsubscribe(struct datastore_subscription *subscription);
