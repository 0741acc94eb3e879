/*
 * The reaper of a datastore: a thread that ends jobs whose deadline passed in the queue, and interrupts calls that run past theirs. It sleeps
 * while there is nothing to do.
 */
#include "driver/queue.h"

#include <errno.h>
#include <time.h>

#define REAPER_NS (50 * NSEC_PER_MSEC)
/* How long a call may run past its deadline before it is interrupted, and how often again. */
#define INTERRUPT_GRACE_NS (250 * NSEC_PER_MSEC)
#define INTERRUPT_AGAIN_NS NSEC_PER_SEC

void datastore_interrupt_late(struct datastore *ds, uint64_t now, bool all) {
        for (unsigned i = 0; i < ds->n_sessions; i++) {
                struct session *session = ds->sessions[i];
                struct stoke_session *connection = session->connection;
                uint64_t deadline;

                if (!session->job || !connection || session->interrupting)
                        continue;
                deadline = session->deadline_ns;
                if (!all && (now < deadline || now - deadline < INTERRUPT_GRACE_NS))
                        continue;
                if (!all && session->interrupted_ns && now - session->interrupted_ns < INTERRUPT_AGAIN_NS)
                        continue;
                session->interrupted_ns = now;
                session->interrupting = true;
                pthread_mutex_unlock(&ds->mutex);
                ds->driver->interrupt(connection);
                pthread_mutex_lock(&ds->mutex);
                session->interrupting = false;
                pthread_cond_broadcast(&ds->settled);
        }
}

void *datastore_reap(void *userdata) {
        struct datastore *ds = userdata;

        pthread_mutex_lock(&ds->mutex);
        while (!ds->stopping) {
                struct datastore_job *late;
                struct timespec until;
                uint64_t now;

                if (ds->n_jobs == 0) {
                        ds->reaper_asleep = true;
                        pthread_cond_wait(&ds->reaper_wake, &ds->mutex);
                        ds->reaper_asleep = false;
                }
                now = clock_now_ns() + REAPER_NS;
                until = (struct timespec){
                        .tv_sec = (time_t)(now / NSEC_PER_SEC), .tv_nsec = (long)(now % NSEC_PER_SEC)};
                while (!ds->stopping && pthread_cond_timedwait(&ds->reaper_wake, &ds->mutex, &until) != ETIMEDOUT)
                        ;
                now = clock_now_ns();
                late = datastore_unqueue(ds, now, false);
                datastore_interrupt_late(ds, now, false);
                if (late) {
                        pthread_mutex_unlock(&ds->mutex);
                        datastore_post_all(late, -ETIMEDOUT, "the deadline passed while it waited for a session");
                        pthread_mutex_lock(&ds->mutex);
                }
        }
        pthread_mutex_unlock(&ds->mutex);
        return NULL;
}
