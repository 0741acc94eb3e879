/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions to PostgreSQL and what comes back: sent and awaited without blocking, so that a deadline or interrupt() ends each wait. Runs on
 * the host's session threads and the notifier's. Nothing is ever sent twice here.
 */
#include "postgresql.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pg_number pg_number(int64_t number) {
        struct pg_number n;

        for (unsigned i = 0; i < 8; i++)
                n.bytes[i] = (uint8_t)((uint64_t)number >> (56 - 8 * i));
        return n;
}

static int64_t read_number(const uint8_t *data, size_t size) {
        uint64_t n = size && data[0] & 0x80 ? UINT64_MAX : 0;

        for (size_t i = 0; i < size; i++)
                n = n << 8 | data[i];
        return (int64_t)n;
}

int64_t pg_field_number(const struct pg_field *field) {
        return field->data ? read_number(field->data, field->size) : 0;
}

int64_t pg_result_number(const PGresult *res, int row, int column) {
        return read_number((const uint8_t *)PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column));
}

void pg_words(const char *message, char *ret, size_t size) {
        const char *end = strstr(message, "\nLOCATION:"); /* a place in the server's source */
        size_t n = 0;

        for (const char *p = message; *p && p != end && n + 1 < size; p++)
                ret[n++] = *p == '\n' || *p == '\t' ? ' ' : *p;
        while (n > 0 && (ret[n - 1] == ' ' || ret[n - 1] == '.'))
                n--;
        ret[n] = '\0';
}

/* ---- waiting */

int pg_poll(struct stoke_session *session, PGconn *conn, short events, struct stoke_call *call) {
        struct pollfd p[2] = {{.fd = session->wake, .events = POLLIN}, {.fd = -1, .events = events}};

        if (conn) {
                p[1].fd = PQsocket(conn);
                if (p[1].fd < 0)
                        return 0; /* libpq will say what has become of it */
        }
        for (;;) {
                int ms = sql_remaining_ms(call, 1000000), n;

                if (ms == 0)
                        return sql_fail(call, -ETIMEDOUT, "the database did not answer in time");
                n = poll(p, conn ? 2 : 1, ms);
                if (n < 0 && errno != EINTR)
                        return sql_fail(call, -errno, "poll: %s", strerror(errno));
                if (n <= 0)
                        continue;
                if (p[0].revents)
                        return sql_fail(call, -ECANCELED, "interrupted");
                if (p[1].revents)
                        return 0;
        }
}

static int lost(struct pg *pg, struct stoke_call *call) {
        char words[256];

        pg->doomed = true;
        pg_words(PQerrorMessage(pg->conn), words, sizeof(words));
        return sql_fail(call, -ECONNRESET, "the connection was lost: %s", *words ? words : "no reason given");
}

/* Until PQgetResult() will not block. */
static int await(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        for (;;) {
                int unsent = PQflush(pg->conn), r;

                if (unsent == 0 && !PQisBusy(pg->conn))
                        return 0;
                if (unsent < 0 && !PQisBusy(pg->conn))
                        return 0; /* the server has said why before it closed */
                r = pg_poll(session, pg->conn, (short)(unsent > 0 ? POLLIN | POLLOUT : POLLIN), call);
                if (r < 0) {
                        pg->doomed = true;
                        return r;
                }
                if (!PQconsumeInput(pg->conn) && PQisBusy(pg->conn))
                        return lost(pg, call);
        }
}

/* All results, up to ReadyForQuery: the first error, or the last. */
static int gather(struct stoke_session *session, struct pg *pg, struct stoke_call *call, PGresult **ret) {
        PGresult *res, *kept = NULL;
        int r;

        for (;;) {
                ExecStatusType status;

                r = await(session, pg, call);
                if (r < 0)
                        break;
                res = PQgetResult(pg->conn);
                if (!res)
                        break;
                status = kept ? PQresultStatus(kept) : PGRES_COMMAND_OK;
                if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) {
                        PQclear(res);
                } else {
                        PQclear(kept);
                        kept = res;
                }
                if (PQstatus(pg->conn) != CONNECTION_OK)
                        break;
        }
        if (r == 0 && (PQstatus(pg->conn) != CONNECTION_OK || !kept)) {
                r = lost(pg, call);
                /* Its last words, where there are any: "terminating connection due to …". */
                if (kept && *pg_state(kept))
                        (void)pg_fail(pg, kept, call);
        }
        if (r < 0) {
                PQclear(kept);
                kept = NULL;
        }
        *ret = kept;
        return r;
}

/* sql: the text, or with `prepared` the name of a statement. */
static int dispatch(struct pg *pg, const char *sql, bool prepared, const struct pg_param *params, size_t n_params,
        struct stoke_call *call) {
        const char *values[8] = {};
        int lengths[8] = {}, formats[8] = {}, ok;
        Oid types[8] = {};
        size_t size = 0;

        pg->doubtful = false;
        for (size_t i = 0; i < n_params; i++) {
                size += params[i].size;
                types[i] = params[i].type;
                values[i] = params[i].data;
                lengths[i] = (int)params[i].size;
                formats[i] = 1;
        }
        if (prepared)
                ok = PQsendQueryPrepared(pg->conn, sql, (int)n_params, values, lengths, formats, 1);
        else if (n_params > 0)
                ok = PQsendQueryParams(pg->conn, sql, (int)n_params, types, values, lengths, formats, 1);
        else
                ok = PQsendQuery(pg->conn, sql);
        pg->bulky = pg->bulky || size > PG_BULKY;
        return ok ? 0 : lost(pg, call);
}

static int ask(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql, bool prepared,
        const struct pg_param *params, size_t n_params, PGresult **ret) {
        int r;

        *ret = NULL;
        r = dispatch(pg, sql, prepared, params, n_params, call);
        return r < 0 ? r : gather(session, pg, call, ret);
}

int pg_ask(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql,
        const struct pg_param *params, size_t n_params, PGresult **ret) {
        return ask(session, pg, call, sql, false, params, n_params, ret);
}

int pg_ask_prepared(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *name,
        const struct pg_param *params, size_t n_params, PGresult **ret) {
        return ask(session, pg, call, name, true, params, n_params, ret);
}

int pg_query(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql,
        const struct pg_param *params, size_t n_params, PGresult **ret) {
        PGresult *res;
        int r;

        if (ret)
                *ret = NULL;
        r = pg_ask(session, pg, call, sql, params, n_params, &res);
        if (r == 0 && PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
                r = pg_fail(pg, res, call);
        if (r == 0 && ret)
                *ret = res;
        else
                PQclear(res);
        return r;
}

/* ---- errors */

const char *pg_state(const PGresult *res) {
        const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;

        return state ? state : "";
}

bool pg_is(const PGresult *res, const char *sqlstate) {
        return strncmp(pg_state(res), sqlstate, strlen(sqlstate)) == 0;
}

int pg_fail(struct pg *pg, const PGresult *res, struct stoke_call *call) {
        static const struct {
                const char *state;
                int result;
                bool doomed; /* another connection may do better */
        } known[] = {
                {"42P01", STOKE_MISSING, false}, /* no such table */
                {"3F000", STOKE_MISSING, false}, /* no such schema */
                {"22012", -EROFS, true},         /* our own division by zero: no primary any more */
                {"25006", -EROFS, true},         /* read-only */
                {"40", -EBUSY, false},           /* deadlock, serialization */
                {"55P03", -EBUSY, false},        /* a lock was not to be had */
                {"55006", -EBUSY, false},        /* object in use */
                {"26000", -EBUSY, false},        /* pg_prepared_failed() */
                {"23505", -EBUSY, false},        /* somebody else has just done it */
                {"53100", -ENOSPC, false},
                {"53200", -ENOMEM, false},
                {"53", -EBUSY, false},
                {"28", -EACCES, false},
                {"42501", -EACCES, false},
                {"XX001", -EUCLEAN, false},
                {"XX002", -EUCLEAN, false},
                {"57014", -ETIMEDOUT, false}, /* statement_timeout */
                {"57", -ECONNRESET, true},
                {"08", -ECONNRESET, true},
        };
        const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY), *state = pg_state(res);
        char words[256];
        int r = -EIO;

        if (!*state)
                return lost(pg, call);
        pg_words(text ? text : "", words, sizeof(words));
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
                if (pg_is(res, known[i].state)) {
                        r = known[i].result;
                        pg->doomed = pg->doomed || known[i].doomed;
                        break;
                }
        return sql_fail(call, r, "%s (SQLSTATE %s)",
                strcmp(state, "22012") == 0 ? "the server is a standby now" : words, state);
}

int pg_missing(struct stoke_session *session, struct pg *pg, const char *table, int r, struct stoke_call *call) {
        PGresult *res = NULL;
        char *sql = NULL;

        if (r != STOKE_MISSING || !pg)
                return r;
        r = asprintf(&sql, "SELECT to_regclass('%s') IS NULL WHERE " PG_ON_PRIMARY, table) > 0
                ? pg_query(session, pg, call, sql, NULL, 0, &res)
                : -ENOMEM;
        if (r == 0)
                r = PQgetvalue(res, 0, 0)[0] == 't' ? STOKE_MISSING
                                                    : sql_fail(call, -EBUSY, "%s was not there, and is now", table);
        PQclear(res);
        free(sql);
        return r;
}

/* ---- rows in bulk */

static bool parse_row(const uint8_t *data, size_t size, size_t n_fields, struct pg_field *fields) {
        size_t at = 2;

        if (size < 2 || read_number(data, 2) != (int64_t)n_fields)
                return false;
        for (size_t i = 0; i < n_fields; i++) {
                int64_t n;

                if (size - at < 4)
                        return false;
                n = read_number(data + at, 4);
                at += 4;
                fields[i] = (struct pg_field){};
                if (n < 0)
                        continue;
                if ((size_t)n > size - at)
                        return false;
                fields[i] = (struct pg_field){data + at, (size_t)n};
                at += (size_t)n;
        }
        return true;
}

/* The signature, flags, and the length of an extension, before the first row. */
#define COPY_HEADER 19

int pg_copy(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql, size_t n_fields,
        int (*visit)(void *userdata, const struct pg_field *fields), void *userdata) {
        struct pg_field fields[PG_FIELDS_MAX];
        PGresult *res = NULL;
        bool first = true;
        char *row = NULL;
        int r;

        r = dispatch(pg, sql, false, NULL, 0, call);
        if (r == 0)
                r = await(session, pg, call);
        if (r < 0)
                return r;
        res = PQgetResult(pg->conn);
        if (PQresultStatus(res) != PGRES_COPY_OUT) {
                PGresult *rest = NULL;

                r = res ? pg_fail(pg, res, call) : lost(pg, call);
                PQclear(res);
                if (!pg->doomed && gather(session, pg, call, &rest) < 0) /* nothing but its end is left */
                        pg->doomed = PQstatus(pg->conn) != CONNECTION_OK;
                PQclear(rest);
                return r;
        }
        PQclear(res);
        res = NULL;
        while (r == 0) {
                const uint8_t *data;
                size_t offset = 0;
                int n = PQgetCopyData(pg->conn, &row, 1);

                if (n == 0) {
                        r = pg_poll(session, pg->conn, POLLIN, call);
                        if (r == 0 && !PQconsumeInput(pg->conn))
                                r = lost(pg, call);
                        continue;
                }
                if (n < 0)
                        break;
                pg->bulky = pg->bulky || (size_t)n > PG_BULKY;
                data = (const uint8_t *)row;
                if (first)
                        offset = COPY_HEADER;
                first = false;
                if ((size_t)n >= offset + 2 && read_number(data + offset, 2) == -1)
                        ; /* the trailer */
                else if ((size_t)n < offset || !parse_row(data + offset, (size_t)n - offset, n_fields, fields))
                        r = (size_t)n == offset ? 0 : sql_fail(call, -EPROTO, "a row that was copied makes no sense");
                else
                        r = visit(userdata, fields);
                PQfreemem(row);
                row = NULL;
        }
        if (r == 0)
                r = gather(session, pg, call, &res);
        else
                pg->doomed = true; /* in the middle of a copy */
        if (r == 0 && PQresultStatus(res) != PGRES_COMMAND_OK)
                r = pg_fail(pg, res, call);
        PQclear(res);
        return r;
}

/* ---- transactions */

int pg_transaction(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        return pg_query(session, pg, call,
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
                "SELECT set_config('lock_timeout', '10s', true), "
                "set_config('idle_in_transaction_session_timeout', '10s', true), "
                "CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END",
                NULL, 0, NULL);
}

int pg_commit(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        PGresult *res = NULL;
        int r;

        r = pg_ask(session, pg, call, "COMMIT", NULL, 0, &res);
        if (r < 0)
                return STOKE_UNKNOWN;
        if (PQresultStatus(res) != PGRES_COMMAND_OK)
                r = pg_is(res, "57") || pg_is(res, "08") ? STOKE_UNKNOWN : pg_fail(pg, res, call);
        else if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
                r = sql_fail(call, -EIO, "the transaction was rolled back");
        else if (pg->doubtful)
                r = sql_fail(call, STOKE_UNKNOWN, "the commit may not have been replicated");
        PQclear(res);
        return r;
}

int pg_rollback(struct stoke_session *session, struct pg *pg, int r) {
        char reason[256] = "";
        struct stoke_call quiet = {.size = sizeof(quiet),
                .deadline_ns = sql_now_ns() + 1000000000u,
                .reason = reason,
                .reason_size = sizeof(reason)};

        if (!pg->doomed && PQstatus(pg->conn) == CONNECTION_OK && PQtransactionStatus(pg->conn) != PQTRANS_IDLE)
                (void)pg_query(session, pg, &quiet, "ROLLBACK", NULL, 0, NULL);
        return r;
}
