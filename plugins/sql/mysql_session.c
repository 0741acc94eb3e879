/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of the MySQL driver: a call's bounds, statements, rows, errors. The client library has timeouts in whole seconds that are fixed
 * when it connects, so deadlines and interrupts work from outside: the store's watch, or whoever interrupts, shuts the socket
 * down, and the call that reads from it or writes to it returns. The next call dials anew. Runs on the host's session
 * threads, the watch on its own; the watch must not block.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "mysql_client.h"
#include "mysql_driver.h"

#define WATCH_NS (UINT64_C(1000000000) * 3600)

/* ---- the watch */

static void cut(struct stoke_session *session) {
        if (session->fd >= 0 && !session->cut) {
                session->cut = true;
                (void)shutdown(session->fd, SHUT_RDWR);
        }
}

static void *watch(void *userdata) {
        struct stoke_store *store = userdata;

        pthread_mutex_lock(&store->mutex);
        while (!store->stopping) {
                uint64_t now = sql_now_ns(), next = now + WATCH_NS;
                struct timespec until;

                for (struct stoke_session *s = store->sessions; s; s = s->next) {
                        if (!s->running || atomic_load(&s->expired))
                                continue;
                        if (s->deadline_ns <= now) {
                                atomic_store(&s->expired, true);
                                cut(s);
                        } else if (s->deadline_ns < next) {
                                next = s->deadline_ns;
                        }
                }
                store->watch_next_ns = next;
                until = (struct timespec){.tv_sec = (time_t)(next / 1000000000), .tv_nsec = (long)(next % 1000000000)};
                pthread_cond_timedwait(&store->watch_changed, &store->mutex, &until);
        }
        pthread_mutex_unlock(&store->mutex);
        return NULL;
}

int my_watch_start(struct stoke_store *store) {
        sigset_t all, before;

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        store->watch_started = pthread_create(&store->watch, NULL, watch, store) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return store->watch_started ? 0 : -EAGAIN;
}

void my_watch_stop(struct stoke_store *store) {
        if (!store->watch_started)
                return;
        pthread_mutex_lock(&store->mutex);
        store->stopping = true;
        pthread_cond_broadcast(&store->watch_changed);
        pthread_mutex_unlock(&store->mutex);
        pthread_join(store->watch, NULL);
}

/* ---- sessions */

int my_session_new(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_session **ret) {
        struct stoke_session *session = calloc(1, sizeof(*session));
        pthread_condattr_t attr;

        if (!session)
                return -ENOMEM;
        session->store = store;
        session->fd = -1;
        if (scope && store->dedicated) {
                session->scoped = true;
                memcpy(session->scope, scope->incarnation, 16);
        }
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&session->wake, &attr);
        pthread_condattr_destroy(&attr);
        pthread_mutex_lock(&store->mutex);
        session->next = store->sessions;
        store->sessions = session;
        pthread_mutex_unlock(&store->mutex);
        *ret = session;
        return 0;
}

void my_session_free(struct stoke_session *session) {
        struct stoke_session **p;
        struct stoke_store *store;

        if (!session)
                return;
        store = session->store;
        my_hang_up(session);
        pthread_mutex_lock(&store->mutex);
        for (p = &store->sessions; *p != session; p = &(*p)->next)
                ;
        *p = session->next;
        pthread_mutex_unlock(&store->mutex);
        pthread_cond_destroy(&session->wake);
        my_text_done(&session->text);
        free(session);
}

void my_publish(struct stoke_session *session, int fd) {
        pthread_mutex_lock(&session->store->mutex);
        session->fd = fd;
        session->cut = false;
        if (atomic_load(&session->interrupted) || atomic_load(&session->expired))
                cut(session);
        pthread_mutex_unlock(&session->store->mutex);
}

void my_hang_up(struct stoke_session *session) {
        /* Withdrawn before it is closed: its number may be another file's a moment later. */
        my_publish(session, -1);
        if (session->mysql)
                mysql_close(session->mysql);
        session->mysql = NULL;
        session->broken = false;
}

void my_interrupt_locked(struct stoke_session *session) {
        if (session->running || session->waiting) {
                atomic_store(&session->interrupted, true);
                cut(session);
                pthread_cond_broadcast(&session->wake);
        }
}

void my_interrupt(struct stoke_session *session) {
        pthread_mutex_lock(&session->store->mutex);
        my_interrupt_locked(session);
        pthread_mutex_unlock(&session->store->mutex);
}

int my_call_over(struct stoke_session *session, struct stoke_call *call) {
        if (atomic_load(&session->interrupted))
                return sql_fail(call, -ECANCELED, "interrupted");
        if (atomic_load(&session->expired) || sql_expired(call))
                return sql_fail(call, -ETIMEDOUT, "the deadline has passed");
        return 0;
}

bool my_is_cut_off(struct stoke_session *session) {
        struct pollfd pfd = {.fd = my_client_socket(session->mysql), .events = POLLIN | POLLRDHUP};

        /* Nothing is owed to us between two calls: what can be read is a farewell. */
        return poll(&pfd, 1, 0) != 0;
}

static bool fits(const struct stoke_session *session, bool own) {
        return session->tenant == (session->scoped && !own);
}

int my_start(struct stoke_session *session, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        int r;

        pthread_mutex_lock(&store->mutex);
        if (!session->waiting)
                atomic_store(&session->interrupted, false);
        atomic_store(&session->expired, false);
        session->running = true;
        session->deadline_ns = call->deadline_ns;
        if (session->deadline_ns < store->watch_next_ns)
                pthread_cond_signal(&store->watch_changed);
        pthread_mutex_unlock(&store->mutex);
        session->error = 0;
        session->call = call;
        my_text_reset(&session->text);
        r = my_call_over(session, call);
        return r < 0 ? my_end(session, r) : 0;
}

int my_begin(struct stoke_session *session, bool own, struct stoke_call *call) {
        int r;

        r = my_start(session, call);
        if (r < 0)
                return r;
        if (session->mysql && (!fits(session, own) || my_is_cut_off(session)))
                my_hang_up(session);
        if (!session->mysql)
                r = my_dial(session, own, call);
        if (r == 0)
                r = my_call_over(session, call);
        return r < 0 ? my_end(session, r) : 0;
}

int my_end(struct stoke_session *session, int r) {
        bool was_cut;

        pthread_mutex_lock(&session->store->mutex);
        session->running = false;
        was_cut = session->cut;
        pthread_mutex_unlock(&session->store->mutex);
        if (was_cut || session->broken)
                my_hang_up(session);
        /* What was refused, and did no harm. */
        if (r == 0 && session->call->reason && session->call->reason_size > 0)
                session->call->reason[0] = '\0';
        session->call = NULL;
        return r;
}

int my_records_check(const struct stoke_record *records, size_t n_records, uint64_t after, struct stoke_call *call) {
        if (sql_expired(call))
                return sql_fail(call, -ETIMEDOUT, "the deadline has passed");
        return sql_records_check(records, n_records, after, &my_limits, call);
}

/* ---- errors */

int my_no_memory(struct stoke_call *call) {
        return sql_fail(call, -ENOMEM, "out of memory");
}

bool my_is_missing(const struct stoke_session *session) {
        return session->error == MY_ER_NO_SUCH_TABLE || session->error == MY_ER_BAD_DB;
}

static int error_to_errno(unsigned error, bool *ret_broken) {
        *ret_broken = false;
        switch (error) {
        case 1040: /* too many connections; and the limits of a user */
        case 1203:
        case 1226:
        case MY_ER_LOCK_WAIT_TIMEOUT:
        case MY_ER_LOCK_DEADLOCK:
        case 1020: /* the record has changed: MariaDB's snapshot isolation */
                return -EBUSY;
        case MY_ER_DB_ACCESS_DENIED:
        case MY_ER_ACCESS_DENIED:
        case MY_ER_TABLEACCESS_DENIED:
        case 1129: /* host is blocked, or not allowed */
        case 1130:
        case 1143: /* column */
        case 1227: /* needs another privilege */
        case 1370: /* routine */
        case 1396: /* an operation on a user */
        case 1410: /* not allowed to make users by GRANT */
        case 1698: /* access denied, without a password */
        case 1862: /* the password has expired */
        case 1820:
        case 4151: /* the account is locked */
        case 3118:
                return -EACCES;
        case MY_ER_NO_SUCH_TABLE:
        case MY_ER_BAD_DB:
                return -ENOENT;
        case 1290:                  /* --read-only, --super-read-only */
        case 1792:                  /* in a transaction that only reads */
        case 1836:                  /* read-only mode */
        case 1874:                  /* InnoDB is in read-only mode */
                *ret_broken = true; /* another endpoint may be the primary now */
                return -EROFS;
        case 1021: /* the disk, or a tablespace, is full */
        case 1114:
                return -ENOSPC;
        case 1034: /* an index, or a table, is damaged */
        case 1194:
        case 1712:
        case 1932:
                return -EUCLEAN;
        case 1153: /* a packet above max_allowed_packet; the server hangs up */
        case 2020:
                *ret_broken = true;
                return -EMSGSIZE;
        case 1037: /* memory, here or there */
        case 1038:
        case 1041:
        case 2008:
                return -ENOMEM;
        case 1969: /* statement time */
        case 3024:
                return -ETIMEDOUT;
        case 1047: /* Galera: not ready */
        case 1053: /* the server shuts down, or has ended this connection */
        case 1077:
        case 1078:
        case 1079:
        case 1317:
        case 1927:
        case 4031:
                *ret_broken = true;
                return -ECONNRESET;
        case 2002: /* no server to connect to */
        case 2003:
        case 2005:
        case 2026: /* TLS */
                *ret_broken = true;
                return -ENOTCONN;
        case 2006: /* the connection is lost */
        case 2013:
        case 2055:
                *ret_broken = true;
                return -ECONNRESET;
        default:
                /* Whatever else the library says of the connection. */
                *ret_broken = error >= 2000 && error < 3000;
                return -EIO;
        }
}

int my_fail(struct stoke_session *session, struct stoke_call *call) {
        bool broken;
        int r, over;

        session->error = mysql_errno(session->mysql);
        r = error_to_errno(session->error, &broken);
        if (broken) {
                session->broken = true;
                /* Cut by ourselves: the reason is ours. */
                if (r == -ECONNRESET) {
                        over = my_call_over(session, call);
                        if (over < 0)
                                return over;
                }
        }
        return sql_fail(call, r, "%s (error %u, SQLSTATE %s)", mysql_error(session->mysql), session->error,
                mysql_sqlstate(session->mysql));
}

/* ---- statements */

int my_query(struct stoke_session *session, struct stoke_call *call) {
        int r = my_call_over(session, call);

        session->error = 0;
        if (r < 0)
                return r;
        if (session->text.failed)
                return my_no_memory(call);
        if (mysql_real_query(session->mysql, session->text.data, session->text.size) != 0)
                return my_fail(session, call);
        return 0;
}

int my_execute(struct stoke_session *session, const char *statement, struct stoke_call *call) {
        my_text_reset(&session->text);
        my_text_add(&session->text, statement);
        return my_query(session, call);
}

int my_ask(struct stoke_session *session, struct stoke_call *call, MYSQL_RES **ret) {
        int r = my_query(session, call);

        if (r < 0)
                return r;
        *ret = mysql_store_result(session->mysql);
        return *ret ? 0 : my_fail(session, call);
}

int my_stream(struct stoke_session *session, struct stoke_call *call, struct my_stream *ret) {
        int r = my_query(session, call);

        *ret = (struct my_stream){};
        if (r < 0)
                return r;
        ret->result = mysql_use_result(session->mysql);
        return ret->result ? 0 : my_fail(session, call);
}

int my_fetch(struct stoke_session *session, struct my_stream *stream, struct stoke_call *call, MYSQL_ROW *ret_row,
        unsigned long **ret_sizes) {
        *ret_row = mysql_fetch_row(stream->result);
        if (*ret_row) {
                *ret_sizes = mysql_fetch_lengths(stream->result);
                return 1;
        }
        stream->drained = true; /* or broken: nothing comes any more either way */
        return mysql_errno(session->mysql) == 0 ? 0 : my_fail(session, call);
}

void my_stream_end(struct stoke_session *session, struct my_stream *stream) {
        if (!stream->result)
                return;
        if (!stream->drained) {
                /* To read what is left could take long; without a connection the library finds nothing to read. */
                pthread_mutex_lock(&session->store->mutex);
                cut(session);
                pthread_mutex_unlock(&session->store->mutex);
                session->broken = true;
        }
        mysql_free_result(stream->result);
        stream->result = NULL;
}

uint64_t my_number(const char *text) {
        return text ? strtoull(text, NULL, 10) : 0;
}
