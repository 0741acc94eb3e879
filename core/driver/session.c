/*
 * The worker thread of a session: takes a job, connects if need be, lets the job make its calls, hands the outcome back.
 * The connection is given up after results that leave it in doubt, and where the next job's keyspace needs one of its own; the next job
 * makes a new one, with fresh credentials.
 */
#include "driver/session.h"

#include <errno.h>
#include <string.h>

#include "base/owner.h"
#include "base/thread.h"

/* Connecting cannot be interrupted, so it is bounded more tightly than a job may be. */
#define CONNECT_NS (10 * NSEC_PER_SEC)

static bool in_doubt(int result) {
        switch (result) {
        case -ENOTCONN:
        case -ECONNRESET:
        case -EPIPE:
        case -EIO:
        case -ETIMEDOUT:
        case -ECANCELED:
        case STOKE_UNKNOWN:
                return true;
        default:
                return false;
        }
}

static void disconnect(struct session *session, const struct stoke_driver *driver) {
        struct stoke_session *connection = session->connection;

        if (!connection)
                return;
        datastore_connected(session->ds, session, NULL, NULL);
        driver->disconnect(connection);
}

/* NULL: the store's own. */
static const struct stoke_keyspace *scope_of(const struct session *session, const struct datastore_job *job) {
        return datastore_is_scoped(session->ds) && !job->own_scope ? job->keyspace : NULL;
}

static bool in_scope(const struct session *session, const struct stoke_keyspace *scope) {
        if (!scope || !session->scope)
                return !scope && !session->scope;
        return strcmp(session->scope, scope->name) == 0 &&
                memcmp(session->scope_incarnation, scope->incarnation, sizeof(scope->incarnation)) == 0;
}

static uint64_t run(struct session *session, const struct stoke_driver *driver, struct datastore_job *job) {
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = job->deadline_ns,
                .reason = job->reason,
                .reason_size = sizeof(job->reason)};
        const struct stoke_keyspace *scope = scope_of(session, job);
        uint64_t start = clock_now_ns(), elapsed;

        if (start >= job->deadline_ns) {
                job->result = -ETIMEDOUT;
                snprintf(job->reason, sizeof(job->reason), "the deadline passed while it waited for a session");
                return 0;
        }
        if (session->connection && !in_scope(session, scope))
                disconnect(session, driver);
        if (!session->connection) {
                struct stoke_session *connection = NULL;
                int r;

                call.deadline_ns = min_of(job->deadline_ns, start + CONNECT_NS);
                r = driver->connect(datastore_store(session->ds), scope, &call, &connection);
                if (r != 0) {
                        job->result = r < 0 ? r : -EIO;
                        if (!job->reason[0])
                                snprintf(
                                        job->reason, sizeof(job->reason), "cannot connect: %s", strerror(-job->result));
                        return 0;
                }
                call.deadline_ns = job->deadline_ns;
                datastore_connected(session->ds, session, connection, scope);
                start = clock_now_ns();
        }
        job->ran = true;
        job->result = job->run(job, session->connection, &call);
        elapsed = clock_now_ns() - start;
        job->reason[sizeof(job->reason) - 1] = '\0';
        if (in_doubt(job->result))
                disconnect(session, driver);
        return elapsed;
}

static void *work(void *userdata) {
        struct session *session = userdata;
        const struct stoke_driver *driver = datastore_driver(session->ds);
        struct datastore_job *job;

        while ((job = datastore_take(session->ds, session))) {
                owner_set(job->owner);
                datastore_finish(session->ds, session, job, run(session, driver, job));
                owner_set(0);
        }
        disconnect(session, driver);
        return NULL;
}

int session_start(struct session *session, struct datastore *ds) {
        int r;

        session->ds = ds;
        pthread_cond_init(&session->wake, NULL);
        r = thread_start(&session->thread, "session", work, session);
        if (r < 0)
                pthread_cond_destroy(&session->wake);
        return r;
}

void session_join(struct session *session) {
        pthread_join(session->thread, NULL);
        pthread_cond_destroy(&session->wake);
        free(session->scope);
}
