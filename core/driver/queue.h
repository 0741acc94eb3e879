#pragma once

/*
 * The inside of a datastore, private to this room: the structure, and the queue of its jobs. Each keyspace with work has a lane, on which one
 * job runs at a time; lanes that can run stand in the ready list of their best class, and a worker takes from the lists
 * by class. One mutex guards it all and is held for a few instructions only.
 */

#include <pthread.h>
#include <sys/queue.h>

#include <uthash.h>

#include "base/metrics.h"
#include "driver/datastore.h"
#include "driver/session.h"
#include "driver/subscription.h"

#define N_CLASSES 3
#define N_LATENCIES 1024

struct lane {
        char *name; /* owned; NULL: of one job that belongs to no keyspace */
        UT_hash_handle hh;
        TAILQ_ENTRY(lane) ready;
        int ready_class; /* whose list it is on; -1: none */
        struct datastore_job *first[N_CLASSES], **last[N_CLASSES];
        struct datastore_job *running;
        size_t n_jobs;
};
TAILQ_HEAD(lane_list, lane);

struct datastore {
        char *name; /* owned */
        const struct stoke_driver *driver;
        struct stoke_store *store; /* owned */
        struct stoke_host host;
        datastore_secret_fn secret;
        void *secret_userdata;
        /* The copy that the driver may look at until close. */
        struct stoke_datastore definition;
        char **endpoints;
        struct stoke_setting *settings;

        pthread_mutex_t mutex;
        struct lane *lanes; /* by name */
        struct lane_list ready[N_CLASSES];
        size_t n_jobs, n_waiting;
        size_t n_ready;    /* lanes on the ready lists */
        unsigned n_waking; /* workers that were woken or made and have not looked yet */
        unsigned n_bulk, n_taken;
        bool stopping;

        struct session **sessions; /* owned */
        unsigned n_sessions, max_sessions, n_connected;
        struct session *idle; /* the one that slept least is first */

        bool scoped; /* sessions connect in the scope of a keyspace */

        struct datastore_question *questions, **last_question; /* nobody has begun to ask them */
        size_t n_questions;
        unsigned n_askers;
        bool asker_waits; /* one was submitted and will take all there are */

        pthread_t reaper;
        bool reaper_asleep;
        pthread_cond_t reaper_wake, settled;

        struct subscriptions *subscriptions; /* owned */

        uint32_t latencies_us[N_LATENCIES];
        uint64_t n_latencies;
        struct metric *append_seconds, *append_records, *sessions_gauge, *waiting_gauge;
};

/* Unlinks from the lanes what must not wait any longer (all: everything that waits) and returns it as a list. With the mutex. */
struct datastore_job *datastore_unqueue(struct datastore *ds, uint64_t now, bool all);
/* Posts each of a list of jobs that never ran. Without the mutex. */
void datastore_post_all(struct datastore_job *jobs, int result, const char *reason);
/* Interrupts calls that run past their deadline (all: every call). With the mutex, which is let go for each: interrupt may talk to a server. */
void datastore_interrupt_late(struct datastore *ds, uint64_t now, bool all);
/* The thread that ends what is late: see reaper.c. userdata: the datastore. */
void *datastore_reap(void *userdata);
