/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dedicated credentials: each keyspace in a database of its own, owned by a user of its own, both named by its incarnation as Kamaji names
 * them. Made and dropped with the definition's role, which needs CREATEDB and CREATEROLE and nothing more. CREATE DATABASE is
 * no part of a transaction, so each step may be repeated, and may find itself done. Runs on the host's session threads.
 */
#include "postgresql.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One step; an error whose SQLSTATE is among `tolerated` (ended by NULL) means that there is nothing to do. */
static int step(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *const *tolerated,
        const char *format, ...) __attribute__((__format__(__printf__, 5, 6)));
static int step(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *const *tolerated,
        const char *format, ...) {
        PGresult *res = NULL;
        va_list args;
        char *sql;
        int r;

        va_start(args, format);
        r = vasprintf(&sql, format, args);
        va_end(args);
        if (r < 0)
                return -ENOMEM;
        r = pg_ask(session, pg, call, sql, NULL, 0, &res);
        explicit_bzero(sql, strlen(sql));
        free(sql);
        if (r == 0 && PQresultStatus(res) != PGRES_COMMAND_OK) {
                while (*tolerated && !pg_is(res, *tolerated))
                        tolerated++;
                if (!*tolerated)
                        r = pg_fail(pg, res, call);
        }
        PQclear(res);
        return r;
}

static const char *const none[] = {NULL};
static const char *const exists[] = {"42710", "42P04", "23505", NULL}; /* or is being made by another daemon just now */
static const char *const absent[] = {"3D000", "42704", NULL};

/* As a verifier, so that the password itself appears in no log of the server. Free with PQfreemem. */
static int verifier(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        const char *user, char **ret, struct stoke_call *call) {
        char password[SQL_PASSWORD_TEXT], *hashed;
        int r;

        r = sql_tenant_password_get(session->store->host, keyspace->incarnation, password, call);
        if (r < 0)
                return r;
        hashed = PQencryptPasswordConn(pg->conn, password, user, "scram-sha-256");
        explicit_bzero(password, sizeof(password));
        *ret = hashed ? PQescapeLiteral(pg->conn, hashed, strlen(hashed)) : NULL;
        PQfreemem(hashed);
        return *ret ? 0 : sql_fail(call, -EIO, "cannot make a password's verifier");
}

/* Is there such a user, and such a database? */
static int look(struct stoke_session *session, struct pg *pg, const char *name, bool *ret_user, bool *ret_database,
        struct stoke_call *call) {
        struct pg_param param = {PG_TEXT, name, strlen(name)};
        PGresult *res = NULL;
        int r;

        r = pg_query(session, pg, call,
                "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)::int::int8, "
                "EXISTS (SELECT FROM pg_database WHERE datname = $1)::int::int8 WHERE " PG_ON_PRIMARY,
                &param, 1, &res);
        if (r == 0) {
                *ret_user = pg_result_number(res, 0, 0) != 0;
                *ret_database = pg_result_number(res, 0, 1) != 0;
        }
        PQclear(res);
        return r;
}

static int dial(struct stoke_session *session, const struct stoke_keyspace *keyspace, const char *name,
        struct stoke_call *call, struct pg **ret) {
        char password[SQL_PASSWORD_TEXT];
        const struct pg_account account = {name, name, password, "stokehold"};
        int r;

        r = sql_tenant_password_get(session->store->host, keyspace->incarnation, password, call);
        if (r < 0)
                return r;
        r = pg_dial(session, &account, call, ret);
        explicit_bzero(password, sizeof(password));
        if (r == 0) {
                (*ret)->tenant = true;
                memcpy((*ret)->incarnation, keyspace->incarnation, 16);
        }
        return r;
}

int pg_tenant_dial(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct pg **ret) {
        bool user = false, database = false;
        char name[SQL_UUID_DASHED], *hashed = NULL;
        struct pg *pg = NULL;
        int r, first;

        sql_server_account(keyspace->incarnation, PG_IDENTIFIER_MAX, name);
        first = dial(session, keyspace, name, call, ret);
        if (first != STOKE_MISSING && first != -EACCES)
                return first;
        /* Only the primary's own catalogue says that it is not there; and the password follows the definition's. */
        r = pg_centre(session, call, &pg);
        if (r == 0)
                r = look(session, pg, name, &user, &database, call);
        if (r == 0 && (!user || !database))
                r = STOKE_MISSING;
        else if (r == 0 && first == STOKE_MISSING)
                r = sql_fail(call, -ENOTCONN, "database \"%s\" was not there, and is now", name);
        if (r == 0)
                r = verifier(session, pg, keyspace, name, &hashed, call);
        if (r == 0)
                r = step(session, pg, call, absent, "ALTER ROLE \"%s\" WITH LOGIN PASSWORD %s", name, hashed);
        PQfreemem(hashed);
        pg_release(session, pg);
        return r == 0 ? dial(session, keyspace, name, call, ret) : r;
}

int pg_tenant_make(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        char name[SQL_UUID_DASHED], *hashed = NULL;
        struct pg *pg = NULL;
        int r;

        sql_server_account(keyspace->incarnation, PG_IDENTIFIER_MAX, name);
        r = pg_centre(session, call, &pg);
        if (r == 0)
                r = verifier(session, pg, keyspace, name, &hashed, call);
        if (r == 0)
                r = step(session, pg, call, exists, "CREATE ROLE \"%s\" LOGIN PASSWORD %s", name, hashed);
        PQfreemem(hashed);
        /* Only a member may give a database away to it, or take it back; who is no superuser may make itself one. */
        if (r == 0)
                r = step(session, pg, call, exists, "GRANT \"%s\" TO CURRENT_USER", name);
        if (r == 0)
                r = step(session, pg, call, exists, "CREATE DATABASE \"%s\" ENCODING 'UTF8' TEMPLATE template0", name);
        if (r == 0)
                r = step(session, pg, call, none, "GRANT CONNECT, CREATE ON DATABASE \"%s\" TO \"%s\"", name, name);
        if (r == 0)
                r = step(session, pg, call, none, "ALTER DATABASE \"%s\" OWNER TO \"%s\"", name, name);
        pg_release(session, pg);
        return r;
}

/* Ours to it, which would be in the way. */
static void close_idle(struct stoke_store *store, const struct stoke_keyspace *keyspace) {
        struct pg *found[PG_LINKS] = {};
        size_t kept = 0, n = 0;

        pthread_mutex_lock(&store->mutex);
        for (size_t i = 0; i < PG_LINKS; i++) {
                struct pg *pg = store->idle[i];

                store->idle[i] = NULL;
                if (pg && pg->tenant && memcmp(pg->incarnation, keyspace->incarnation, 16) == 0)
                        found[n++] = pg;
                else if (pg)
                        store->idle[kept++] = pg;
        }
        store->n_links -= n;
        pthread_mutex_unlock(&store->mutex);
        while (n > 0)
                pg_close(found[--n]);
}

int pg_tenant_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        bool user = false, database = false;
        char name[SQL_UUID_DASHED];
        struct pg *pg = NULL;
        int r;

        sql_server_account(keyspace->incarnation, PG_IDENTIFIER_MAX, name);
        close_idle(session->store, keyspace);
        r = pg_centre(session, call, &pg);
        if (r == 0)
                r = look(session, pg, name, &user, &database, call);
        if (r == 0 && user)
                r = step(session, pg, call, absent, "GRANT \"%s\" TO CURRENT_USER", name);
        if (r == 0 && database)
                r = step(session, pg, call, absent, "ALTER DATABASE \"%s\" OWNER TO CURRENT_USER", name);
        if (r == 0 && database)
                r = step(session, pg, call, absent, "DROP DATABASE IF EXISTS \"%s\"%s", name,
                        pg->version >= 130000 ? " WITH (FORCE)" : "");
        if (r == 0 && user)
                r = step(session, pg, call, absent, "DROP ROLE IF EXISTS \"%s\"", name);
        pg_release(session, pg);
        return r;
}
