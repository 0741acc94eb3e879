/*
 * Subscriptions: one thread a datastore, from the first subscription on, sits in the driver's wait() on a session of its own and posts to
 * the loops of those whose keyspaces have grown. It may miss: the core asks for ends besides.
 *
 * A subscription is counted: one for its subscriber (until unsubscribe), one for a posted task (until it has run).
 */
#include "driver/subscription.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/owner.h"
#include "base/thread.h"

struct datastore_subscription {
        struct subscriptions *subs; /* borrowed; NULL once unsubscribed */
        struct datastore_subscription *next;
        char *keyspace; /* owned */
        struct loop *loop;
        void (*on_grown)(void *userdata);
        void *userdata;
        struct loop_task task;
        atomic_bool posted;
        bool dead; /* the loop's */
        atomic_uint n_refs;
};

struct subscriptions {
        const struct stoke_driver *driver; /* borrowed */
        struct stoke_store *store;         /* borrowed */
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        pthread_t thread;
        bool started, stopping, interrupting, finished;
        struct stoke_session *session; /* the thread's; published for interrupt */
        struct datastore_subscription *list;
};

static void unref(struct datastore_subscription *sub) {
        if (atomic_fetch_sub(&sub->n_refs, 1) == 1) {
                free(sub->keyspace);
                free(sub);
        }
}

static void on_task(struct loop_task *task) {
        struct datastore_subscription *sub = container_of(task, struct datastore_subscription, task);

        atomic_store(&sub->posted, false);
        if (!sub->dead)
                sub->on_grown(sub->userdata);
        unref(sub);
}

static void on_grown(void *userdata, const char *name) {
        struct subscriptions *subs = userdata;

        pthread_mutex_lock(&subs->mutex);
        for (struct datastore_subscription *sub = subs->list; sub; sub = sub->next)
                if (strcmp(sub->keyspace, name) == 0 && !atomic_exchange(&sub->posted, true)) {
                        atomic_fetch_add(&sub->n_refs, 1);
                        loop_post(sub->loop, &sub->task);
                }
        pthread_mutex_unlock(&subs->mutex);
}

static void publish(struct subscriptions *subs, struct stoke_session *session) {
        pthread_mutex_lock(&subs->mutex);
        while (subs->interrupting)
                pthread_cond_wait(&subs->changed, &subs->mutex);
        subs->session = session;
        pthread_mutex_unlock(&subs->mutex);
}

static bool pause_for(struct subscriptions *subs, time_t seconds) {
        struct timespec until;
        bool stopping;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += seconds;
        pthread_mutex_lock(&subs->mutex);
        while (!subs->stopping && pthread_cond_timedwait(&subs->changed, &subs->mutex, &until) != ETIMEDOUT)
                ;
        stopping = subs->stopping;
        pthread_mutex_unlock(&subs->mutex);
        return stopping;
}

static void *wait_thread(void *userdata) {
        struct subscriptions *subs = userdata;
        struct stoke_session *session = NULL;
        bool stopping = false;

        while (!stopping) {
                char reason[512] = "";
                struct stoke_call call = {.size = sizeof(call),
                        .deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC,
                        .reason = reason,
                        .reason_size = sizeof(reason)};
                int r = 0;

                if (!session) {
                        r = subs->driver->connect(subs->store, NULL, &call, &session);
                        if (r != 0)
                                session = NULL;
                        else
                                publish(subs, session);
                }
                if (r == 0) {
                        call.deadline_ns = clock_now_ns() + 30 * NSEC_PER_SEC;
                        r = subs->driver->wait(session, &call, on_grown, subs);
                }
                pthread_mutex_lock(&subs->mutex);
                stopping = subs->stopping;
                pthread_mutex_unlock(&subs->mutex);
                if (r != 0 && r != -ETIMEDOUT && !stopping) {
                        if (session) {
                                publish(subs, NULL);
                                subs->driver->disconnect(session);
                                session = NULL;
                        }
                        stopping = pause_for(subs, 1);
                }
        }
        publish(subs, NULL);
        subs->driver->disconnect(session);
        pthread_mutex_lock(&subs->mutex);
        subs->finished = true;
        pthread_cond_broadcast(&subs->changed);
        pthread_mutex_unlock(&subs->mutex);
        return NULL;
}

struct subscriptions *subscriptions_new(const struct stoke_driver *driver, struct stoke_store *store) {
        struct subscriptions *subs = new0(struct subscriptions);
        pthread_condattr_t attr;

        subs->driver = driver;
        subs->store = store;
        pthread_mutex_init(&subs->mutex, NULL);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&subs->changed, &attr);
        pthread_condattr_destroy(&attr);
        return subs;
}

void subscriptions_free(struct subscriptions *subs) {
        if (!subs)
                return;
        pthread_mutex_lock(&subs->mutex);
        subs->stopping = true;
        pthread_cond_broadcast(&subs->changed);
        /* An interrupt that comes just before wait() began is lost: repeated until the thread has gone. */
        while (subs->started && !subs->finished) {
                struct stoke_session *session = subs->session;
                struct timespec until;
                uint64_t at;

                if (session) {
                        subs->interrupting = true;
                        pthread_mutex_unlock(&subs->mutex);
                        subs->driver->interrupt(session);
                        pthread_mutex_lock(&subs->mutex);
                        subs->interrupting = false;
                        pthread_cond_broadcast(&subs->changed);
                }
                at = clock_now_ns() + 20 * NSEC_PER_MSEC;
                until = (struct timespec){.tv_sec = (time_t)(at / NSEC_PER_SEC), .tv_nsec = (long)(at % NSEC_PER_SEC)};
                while (!subs->finished && pthread_cond_timedwait(&subs->changed, &subs->mutex, &until) != ETIMEDOUT)
                        ;
        }
        pthread_mutex_unlock(&subs->mutex);
        if (subs->started)
                pthread_join(subs->thread, NULL);
        check(!subs->list);
        pthread_cond_destroy(&subs->changed);
        pthread_mutex_destroy(&subs->mutex);
        free(subs);
}

struct datastore_subscription *subscriptions_add(struct subscriptions *subs, const char *keyspace, struct loop *loop,
        void (*grown)(void *userdata), void *userdata) {
        struct datastore_subscription *sub = new0(struct datastore_subscription);

        sub->subs = subs;
        sub->keyspace = strdup(keyspace);
        check(sub->keyspace);
        sub->loop = loop;
        sub->on_grown = grown;
        sub->userdata = userdata;
        sub->task.run = on_task;
        sub->task.owner = owner_get();
        atomic_init(&sub->n_refs, 1);
        pthread_mutex_lock(&subs->mutex);
        sub->next = subs->list;
        subs->list = sub;
        if (!subs->started && (subs->driver->capabilities & STOKE_NOTIFIES)) {
                subs->started = thread_start(&subs->thread, "store-wait", wait_thread, subs) == 0;
                if (!subs->started)
                        log_warning("no thread to wait for changes: other daemons' changes will be seen once a second");
        }
        pthread_mutex_unlock(&subs->mutex);
        return sub;
}

void datastore_unsubscribe(struct datastore_subscription *sub) {
        struct datastore_subscription **p;
        struct subscriptions *subs;

        if (!sub)
                return;
        subs = sub->subs;
        pthread_mutex_lock(&subs->mutex);
        for (p = &subs->list; *p != sub; p = &(*p)->next)
                ;
        *p = sub->next;
        pthread_mutex_unlock(&subs->mutex);
        sub->dead = true;
        unref(sub);
}
