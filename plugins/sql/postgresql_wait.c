/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Telling other daemons that keyspaces have grown, and being told. A NOTIFY inside the append would take a lock over the whole server at each
 * commit, so a thread of the store's own tells, in transactions of its own that are not synced, of all that has grown since the last
 * time; and while no other daemon listens, it only asks once a second whether one does. A message is lost where a connection is: the
 * core asks for ends each second besides. Payload: the telling daemon's incarnation, then names, with spaces between.
 */
#include "postgresql.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LISTENER "stokehold wait " /* application_name of whoever listens, before its daemon */
#define PAYLOAD_MAX 7000           /* the server takes 8,000 bytes less one */
#define ASK_NS UINT64_C(1000000000)
#define IDLE_S 30
#define PAUSE_NS 1000000 /* between two messages: more names gather */

struct pg_notifier {
        struct stoke_store *store;
        pthread_mutex_t mutex; /* all but session's connection, asked_ns and heard, which are the thread's */
        pthread_cond_t changed;
        pthread_t thread;
        bool stopping;
        char (*names)[SQL_NAME_MAX + 1]; /* owned */
        size_t n, capacity;
        struct stoke_session *session; /* owned */
        uint64_t asked_ns;
        bool heard; /* some other daemon listened then */
};

/* ---- the thread that tells */

static int ask_listeners(struct pg_notifier *notifier, struct pg *pg, struct stoke_call *call) {
        char own[sizeof(LISTENER) + SQL_UUID_TEXT];
        struct pg_param param = {.type = PG_TEXT, .data = own};
        PGresult *res = NULL;
        int r;

        param.size = (size_t)snprintf(own, sizeof(own), LISTENER "%s", notifier->store->daemon);
        r = pg_query(notifier->session, pg, call,
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name LIKE '" LISTENER "%' AND application_name <> $1",
                &param, 1, &res);
        if (r == 0) {
                notifier->asked_ns = sql_now_ns();
                notifier->heard = pg_result_number(res, 0, 0) > 0;
        }
        PQclear(res);
        return r;
}

/* One message with as many names as fit, from names[*at] on. */
static int tell(struct pg_notifier *notifier, struct pg *pg, char (*names)[SQL_NAME_MAX + 1], size_t n, size_t *at,
        struct stoke_call *call) {
        char payload[PAYLOAD_MAX];
        size_t size = (size_t)snprintf(payload, sizeof(payload), "%s", notifier->store->daemon);
        struct pg_param param = {.type = PG_TEXT, .data = payload};

        for (; *at < n && size + 1 + strlen(names[*at]) < sizeof(payload); ++*at)
                size += (size_t)snprintf(payload + size, sizeof(payload) - size, " %s", names[*at]);
        param.size = size;
        return pg_query(notifier->session, pg, call,
                "SELECT pg_notify('" PG_CHANNEL
                "', $1) WHERE (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL",
                &param, 1, NULL);
}

static void tell_all(struct pg_notifier *notifier, char (*names)[SQL_NAME_MAX + 1], size_t n) {
        char reason[256] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = sql_now_ns() + 5 * ASK_NS,
                .reason = reason,
                .reason_size = sizeof(reason)};
        bool due = notifier->heard || sql_now_ns() - notifier->asked_ns >= ASK_NS, stopping;
        struct pg *pg = NULL;
        size_t at = 0;
        int r;

        if (!due || pg_begin(notifier->session, NULL, &call) < 0)
                return;
        pthread_mutex_lock(&notifier->mutex); /* pg_notify_stop() interrupts what has begun; this has not seen it */
        stopping = notifier->stopping;
        pthread_mutex_unlock(&notifier->mutex);
        r = stopping ? -ECANCELED : pg_centre(notifier->session, &call, &pg);
        if (r == 0 && sql_now_ns() - notifier->asked_ns >= ASK_NS)
                r = ask_listeners(notifier, pg, &call);
        while (r == 0 && notifier->heard && at < n)
                r = tell(notifier, pg, names, n, &at, &call);
        pg_release(notifier->session, pg);
        pg_end(notifier->session, r);
        if (r != 0) { /* tried again with what grows a second from now */
                notifier->asked_ns = sql_now_ns();
                notifier->heard = false;
                if (r != -ECANCELED)
                        pg_store_log(notifier->store, 7, "cannot tell other daemons: %s", reason);
        }
}

static void *notifier_run(void *userdata) {
        struct pg_notifier *notifier = userdata;
        const struct timespec pause = {.tv_nsec = PAUSE_NS};

        pthread_mutex_lock(&notifier->mutex);
        while (!notifier->stopping) {
                char(*names)[SQL_NAME_MAX + 1] = notifier->names;
                size_t n = notifier->n;

                if (n == 0) {
                        struct timespec until;
                        int r = 0;

                        clock_gettime(CLOCK_MONOTONIC, &until);
                        until.tv_sec += IDLE_S;
                        while (!notifier->stopping && notifier->n == 0 && r == 0)
                                r = notifier->session->pg
                                        ? pthread_cond_timedwait(&notifier->changed, &notifier->mutex, &until)
                                        : pthread_cond_wait(&notifier->changed, &notifier->mutex);
                        if (r != 0) { /* a connection that nobody needs */
                                pg_close(notifier->session->pg);
                                notifier->session->pg = NULL;
                        }
                        continue;
                }
                notifier->names = NULL;
                notifier->n = notifier->capacity = 0;
                pthread_mutex_unlock(&notifier->mutex);
                tell_all(notifier, names, n);
                free(names);
                nanosleep(&pause, NULL);
                pthread_mutex_lock(&notifier->mutex);
        }
        pthread_mutex_unlock(&notifier->mutex);
        return NULL;
}

static void notifier_free(struct pg_notifier *notifier) {
        pg_session_free(notifier->session);
        pthread_cond_destroy(&notifier->changed);
        pthread_mutex_destroy(&notifier->mutex);
        free(notifier->names);
        free(notifier);
}

static struct pg_notifier *notifier_new(struct stoke_store *store) {
        struct pg_notifier *notifier = calloc(1, sizeof(*notifier));
        struct stoke_call call = {.size = sizeof(call)};
        pthread_condattr_t attr;
        sigset_t all, old;
        int r;

        if (!notifier)
                return NULL;
        notifier->store = store;
        pthread_mutex_init(&notifier->mutex, NULL);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&notifier->changed, &attr);
        pthread_condattr_destroy(&attr);
        r = pg_session_new(store, &call, &notifier->session);
        if (r == 0) {
                sigfillset(&all);
                pthread_sigmask(SIG_SETMASK, &all, &old);
                r = -pthread_create(&notifier->thread, NULL, notifier_run, notifier);
                pthread_sigmask(SIG_SETMASK, &old, NULL);
        }
        if (r < 0) {
                notifier_free(notifier);
                return NULL;
        }
        return notifier;
}

void pg_notify_later(struct stoke_store *store, const char *name) {
        struct pg_notifier *notifier;
        size_t i = 0;

        pthread_mutex_lock(&store->mutex);
        if (!store->notifier)
                store->notifier = notifier_new(store); /* none: not told, and found within a second */
        notifier = store->notifier;
        pthread_mutex_unlock(&store->mutex);
        if (!notifier)
                return;
        pthread_mutex_lock(&notifier->mutex);
        while (i < notifier->n && strcmp(notifier->names[i], name) != 0)
                i++;
        if (i == notifier->n) {
                if (notifier->n == notifier->capacity) {
                        size_t capacity = notifier->capacity ? 2 * notifier->capacity : 16;
                        void *names = reallocarray(notifier->names, capacity, sizeof(*notifier->names));

                        if (names) {
                                notifier->names = names;
                                notifier->capacity = capacity;
                        }
                }
                if (notifier->n < notifier->capacity)
                        snprintf(notifier->names[notifier->n++], SQL_NAME_MAX + 1, "%s", name);
                if (notifier->n == 1)
                        pthread_cond_signal(&notifier->changed);
        }
        pthread_mutex_unlock(&notifier->mutex);
}

void pg_notify_stop(struct stoke_store *store) {
        struct pg_notifier *notifier = store->notifier;

        if (!notifier)
                return;
        pthread_mutex_lock(&notifier->mutex);
        notifier->stopping = true;
        pthread_cond_signal(&notifier->changed);
        pthread_mutex_unlock(&notifier->mutex);
        pg_interrupt(notifier->session);
        pthread_join(notifier->thread, NULL);
        notifier_free(notifier);
        store->notifier = NULL;
}

/* ---- being told */

static int begin_listening(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        char sql[128];
        int r;

        snprintf(sql, sizeof(sql), "SET application_name TO '" LISTENER "%s'; LISTEN " PG_CHANNEL,
                session->store->daemon);
        r = pg_query(session, pg, call, sql, NULL, 0, NULL);
        pg->listening = r == 0;
        pg->doomed = r != 0; /* it may call itself a listener and be none */
        if (r == 0)
                pg_keep(pg);
        return r;
}

/* Visits the names of one message, unless it is our own. */
static bool hear(const struct stoke_store *store, const char *payload, void (*grown)(void *userdata, const char *name),
        void *userdata) {
        const char *p = payload + strcspn(payload, " ");
        bool any = false;

        if ((size_t)(p - payload) == strlen(store->daemon) &&
                strncmp(payload, store->daemon, strlen(store->daemon)) == 0)
                return false;
        while (*p) {
                char name[SQL_NAME_MAX + 1];
                size_t size = strcspn(++p, " ");

                if (sql_name_valid(p, size)) {
                        memcpy(name, p, size);
                        name[size] = '\0';
                        grown(userdata, name);
                        any = true;
                }
                p += size;
        }
        return any;
}

/* A pooler gives the next question to another connection, and nobody listens there. */
static int wait_in_vain(struct stoke_session *session, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        bool warned;
        int r;

        pthread_mutex_lock(&store->mutex);
        warned = store->warned_pooled;
        store->warned_pooled = true;
        pthread_mutex_unlock(&store->mutex);
        if (!warned)
                pg_store_log(store, 5, "a pooler stands before the server: other daemons' writes are found by asking");
        r = pg_poll(session, NULL, 0, call);
        return r == -ETIMEDOUT ? sql_fail(call, -EOPNOTSUPP, "a pooler of transactions passes no notifications on") : r;
}

int pg_wait(struct stoke_session *session, struct stoke_call *call, void (*grown)(void *userdata, const char *name),
        void *userdata) {
        struct pg *pg = NULL;
        bool any = false;
        int r;

        r = pg_begin(session, NULL, call);
        if (r < 0)
                return r;
        r = pg_centre(session, call, &pg);
        if (r == 0 && pg->pooled) {
                pg_release(session, pg);
                return pg_end(session, wait_in_vain(session, call));
        }
        if (r == 0 && !pg->listening)
                r = begin_listening(session, pg, call);
        while (r == 0) {
                PGnotify *notify;

                while ((notify = PQnotifies(pg->conn))) {
                        any = hear(session->store, notify->extra, grown, userdata) || any;
                        PQfreemem(notify);
                }
                if (any)
                        break;
                r = pg_poll(session, pg->conn, POLLIN, call);
                if (r == 0 && !PQconsumeInput(pg->conn)) {
                        char words[256];

                        pg_words(PQerrorMessage(pg->conn), words, sizeof(words));
                        r = sql_fail(call, -ECONNRESET, "the connection was lost: %s", words);
                        pg->doomed = true;
                }
        }
        pg_release(session, pg);
        return pg_end(session, r == -ETIMEDOUT && pg ? 0 : r);
}
