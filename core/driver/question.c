/*
 * Questions for the ends of logs, gathered: an asker is a job that takes, when a session begins it, all questions that came until then, and
 * puts them to the driver in one call. While it runs the next ones gather for the next asker. So the number of questions that a datastore
 * is asked depends on how fast it answers, not on how many tenants wait. datastore_ask() runs on any thread, asking on the workers'.
 */
#include <errno.h>
#include <string.h>

#include "base/owner.h"
#include "driver/queue.h"

#define MAX_QUESTIONS 500 /* of one asker */
#define PATIENCE_NS (10 * NSEC_PER_SEC)

struct asker {
        struct datastore_job job;
        struct datastore *ds;
        bool took; /* the questions are ours */
        size_t n;
        struct stoke_keyspace *keyspaces;      /* owned */
        struct datastore_question **questions; /* owned, in the same order */
};

/* The next of them, or (when there will be no other asker) all; with the mutex. */
static void take(struct asker *a) {
        struct datastore *ds = a->ds;
        size_t max = ds->stopping ? SIZE_MAX : ds->scoped ? 1 : MAX_QUESTIONS;

        ds->asker_waits = false;
        a->took = true;
        a->keyspaces = xcalloc(min_of(ds->n_questions, max), sizeof(*a->keyspaces));
        a->questions = xcalloc(min_of(ds->n_questions, max), sizeof(struct datastore_question *));
        while (ds->questions && a->n < max) {
                struct datastore_question *q = ds->questions;

                ds->questions = q->next;
                ds->n_questions--;
                a->keyspaces[a->n] = q->keyspace;
                a->questions[a->n++] = q;
        }
        if (!ds->questions)
                ds->last_question = &ds->questions;
}

/* At a time, so that appends find sessions. */
static unsigned max_askers(const struct datastore *ds) {
        return ds->scoped ? max_of(1u, ds->max_sessions / 2) : 2;
}

static int on_end(void *userdata, size_t index, const struct stoke_end *end) {
        struct asker *a = userdata;

        if (index < a->n && end) {
                a->questions[index]->end = *end;
                a->questions[index]->found = true;
        }
        return 0;
}

static void on_answered(struct loop_task *task) {
        struct datastore_question *q = container_of(task, struct datastore_question, task);

        q->done(q);
}

static void send_asker(struct datastore *ds);

static int run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct asker *a = container_of(job, struct asker, job);
        bool more;

        if (!a->took) {
                pthread_mutex_lock(&a->ds->mutex);
                take(a);
                more = a->ds->questions && a->ds->n_askers < max_askers(a->ds);
                pthread_mutex_unlock(&a->ds->mutex);
                if (more)
                        send_asker(a->ds);
        }
        return a->n ? datastore_driver(job->ds)->ends(session, a->keyspaces, a->n, call, on_end, a) : 0;
}

/* On whichever thread ended the job. */
static void done(struct datastore_job *job) {
        struct asker *a = container_of(job, struct asker, job);
        struct datastore *ds = a->ds;
        bool more;

        pthread_mutex_lock(&ds->mutex);
        if (!a->took)
                take(a); /* it never ran: they share its fate */
        ds->n_askers--;
        more = ds->questions && !ds->stopping;
        pthread_mutex_unlock(&ds->mutex);
        for (size_t i = 0; i < a->n; i++) {
                struct datastore_question *q = a->questions[i];

                q->result = job->result;
                snprintf(q->reason, sizeof(q->reason), "%s", job->reason);
                q->task.run = on_answered;
                loop_post(q->loop, &q->task);
        }
        free(a->keyspaces);
        free(a->questions);
        free(a);
        if (more)
                send_asker(ds);
}

/* One that takes what there is when its turn comes, unless there is one already. */
static void send_asker(struct datastore *ds) {
        struct asker *a = new0(struct asker);
        bool needed;

        a->ds = ds;
        a->job = (struct datastore_job){
                .class = JOB_READ,
                .deadline_ns = clock_now_ns() + PATIENCE_NS,
                .run = run,
                .done = done,
        };
        pthread_mutex_lock(&ds->mutex);
        needed = ds->questions && !ds->asker_waits && ds->n_askers < max_askers(ds);
        if (needed) {
                ds->n_askers++;
                if (ds->scoped) { /* its session must be that keyspace's own */
                        take(a);
                        a->job.keyspace = &a->keyspaces[0];
                } else
                        ds->asker_waits = true;
        }
        pthread_mutex_unlock(&ds->mutex);
        if (needed) {
                uint32_t owner = owner_get();

                owner_set(0); /* it is everybody's */
                datastore_submit(ds, &a->job);
                owner_set(owner);
        } else
                free(a);
}

void datastore_ask(struct datastore *ds, struct datastore_question *question) {
        question->result = 0;
        question->found = false;
        question->reason[0] = '\0';
        question->next = NULL;
        question->task.owner = owner_get();
        pthread_mutex_lock(&ds->mutex);
        *ds->last_question = question;
        ds->last_question = &question->next;
        ds->n_questions++;
        pthread_mutex_unlock(&ds->mutex);
        send_asker(ds);
}
