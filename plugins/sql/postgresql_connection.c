/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to PostgreSQL: dialled at each endpoint in turn until one can be written to, with secrets read anew, and kept by sessions
 * or, to tenants' own databases, by the store. Runs on the host's session threads and the notifier's.
 */
#include "postgresql.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOWHERE "/dev/null/none" /* instead of what libpq would look for in a home directory */

/* ---- one attempt */

/* What all attempts of one pg_dial() have in common. Certificates are files to libpq: memory that has a path while dialling. */
struct dial {
        struct sql_secret user, password, ca, certificate, key;
        int ca_fd, certificate_fd, key_fd;
        char ca_path[SQL_SECRET_PATH], certificate_path[SQL_SECRET_PATH], key_path[SQL_SECRET_PATH];
};

static void dial_done(struct dial *d) {
        struct sql_secret *secrets[] = {&d->user, &d->password, &d->ca, &d->certificate, &d->key};
        int fds[] = {d->ca_fd, d->certificate_fd, d->key_fd};

        for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
                sql_secret_wipe(secrets[i]);
        for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
                if (fds[i] >= 0)
                        close(fds[i]);
}

static int dial_prepare(struct stoke_store *store, struct dial *d, struct stoke_call *call) {
        const struct {
                enum stoke_secret which;
                struct sql_secret *secret;
        } wanted[] = {
                {STOKE_SECRET_USERNAME, &d->user},
                {STOKE_SECRET_PASSWORD, &d->password},
                {STOKE_SECRET_CA_CERTIFICATE, &d->ca},
                {STOKE_SECRET_CLIENT_CERTIFICATE, &d->certificate},
                {STOKE_SECRET_CLIENT_PRIVATE_KEY, &d->key},
        };
        int r = 0;

        *d = (struct dial){.ca_fd = -1, .certificate_fd = -1, .key_fd = -1};
        for (size_t i = 0; r == 0 && i < sizeof(wanted) / sizeof(wanted[0]); i++)
                r = sql_secret_read(store->host, wanted[i].which, wanted[i].secret, call);
        if (r == 0)
                r = sql_secret_file(&d->ca, &d->ca_fd, d->ca_path, call);
        if (r == 0)
                r = sql_secret_file(&d->certificate, &d->certificate_fd, d->certificate_path, call);
        if (r == 0)
                r = sql_secret_file(&d->key, &d->key_fd, d->key_path, call);
        return r;
}

static PGconn *start(struct stoke_store *store, const struct dial *d, const struct sql_endpoint *endpoint,
        const struct pg_account *account) {
        const char *mode = store->sslmode ? store->sslmode : d->ca.data ? "verify-full" : "prefer";
        const char *keys[] = {"host", "port", "dbname", "user", "password", "application_name", "client_encoding",
                "sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs", "gssencmode", "passfile",
                "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", NULL};
        const char *values[] = {endpoint->host, endpoint->port, account->database,
                account->user ? account->user : d->user.data, account->user ? account->password : d->password.data,
                account->application, "UTF8", mode, d->ca.data ? d->ca_path : NOWHERE,
                d->certificate.data ? d->certificate_path : NOWHERE, d->key.data ? d->key_path : NOWHERE, "read-write",
                "disable", "/dev/null", "10", "5", "3", "20000", NULL};

        return PQconnectStartParams(keys, values, 0);
}

/* Bounded by `call`, which is this attempt's own. 0, or -errno. */
static int finish(struct stoke_session *session, PGconn *conn, struct stoke_call *call) {
        PostgresPollingStatusType status = PGRES_POLLING_WRITING;

        /* The SQLSTATE of a refusal stands nowhere but in the text. */
        PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
        while (PQstatus(conn) != CONNECTION_BAD && status != PGRES_POLLING_FAILED && status != PGRES_POLLING_OK) {
                int r = pg_poll(session, conn, status == PGRES_POLLING_READING ? POLLIN : POLLOUT, call);

                if (r < 0)
                        return r;
                status = PQconnectPoll(conn);
        }
        return status == PGRES_POLLING_OK ? 0 : -ENOTCONN;
}

/* The result that stands for libpq's words, which say "FATAL:  3D000: database …" in whatever language. */
static int refusal(const char *message) {
        static const struct {
                const char *state;
                int result;
        } known[] = {
                {"3D000", STOKE_MISSING}, /* no such database */
                {"28", -EACCES},          /* name or password */
                {"42501", -EACCES},       /* no CONNECT */
                {"53", -EBUSY},           /* too many connections, no memory */
                {"57P03", -ENOTCONN},     /* starting up, or shutting down */
        };
        const char *p = message;

        while ((p = strstr(p, ":  "))) {
                p += 3;
                if (strspn(p, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5 || p[5] != ':')
                        continue;
                /* A pooler passes on the server's words, but not its SQLSTATE. */
                if (strncmp(p, "08P01", 5) == 0 && strstr(p, "authentication failed"))
                        return -EACCES;
                if (strncmp(p, "08P01", 5) == 0 && strstr(p, "database") &&
                        (strstr(p, "does not exist") || strstr(p, "no such database")))
                        return STOKE_MISSING;
                for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
                        if (strncmp(p, known[i].state, strlen(known[i].state)) == 0)
                                return known[i].result;
        }
        if (strstr(message, "session is read-only") || strstr(message, "in hot standby"))
                return -EROFS;
        return -ENOTCONN;
}

static void on_notice(void *userdata, const PGresult *res) {
        const char *state = pg_state(res), *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
        struct pg *pg = userdata;

        /* "canceling wait for synchronous replication …": committed here, and perhaps nowhere else. */
        if (severity && strcmp(severity, "WARNING") == 0 &&
                (strcmp(state, "01000") == 0 || strcmp(state, "57P01") == 0 || strcmp(state, "57014") == 0))
                pg->doubtful = true;
}

/* What must be known of whoever answered. */
static int examine(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        PGresult *res = NULL;
        bool read_committed, foreign;
        int r;

        r = pg_query(session, pg, call,
                "SELECT pg_catalog.pg_backend_pid(), current_setting('server_version_num'), "
                "current_setting('default_transaction_isolation') = 'read committed', "
                "version() ~ 'Cockroach|Yugabyte|-YB-', "
                "(SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression')",
                NULL, 0, &res);
        if (r != 0)
                return r;
        pg->pooled = atoi(PQgetvalue(res, 0, 0)) != PQbackendPID(pg->conn) || atomic_load(&pg->store->multiplexed);
        pg->version = atoi(PQgetvalue(res, 0, 1));
        read_committed = PQgetvalue(res, 0, 2)[0] == 't';
        foreign = PQgetvalue(res, 0, 3)[0] == 't';
        pg->lz4 = PQgetvalue(res, 0, 4)[0] == 't';
        PQclear(res);
        if (foreign)
                return sql_fail(call, -EPROTONOSUPPORT,
                        "the server only speaks PostgreSQL's protocol: its LOCK TABLE does not fence what was begun before");
        if (pg->version < PG_VERSION_MIN)
                return sql_fail(call, -EPROTONOSUPPORT, "the server has version %d, and %d is the first that will do",
                        pg->version / 10000, PG_VERSION_MIN / 10000);
        if (!read_committed && pg->pooled)
                return sql_fail(call, -EPROTONOSUPPORT,
                        "default_transaction_isolation is not \"read committed\", and behind a pooler it cannot be set");
        /* With a plan of its own for each set of parameters, a statement that is prepared would be planned each time all the same. */
        /* And a plan that was made while a table was small must do when it is large. */
        if (!pg->pooled)
                r = pg_query(session, pg, call,
                        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; "
                        "SET plan_cache_mode TO force_generic_plan; SET enable_seqscan TO off; SET jit TO off",
                        NULL, 0, NULL);
        return r == 0 ? pg_catalogue_check(session, pg, call) : r;
}

/* ---- all endpoints */

/* Of several refusals the one that tells most: what is asked for may well exist at an endpoint that was not reached. */
static int weight(int r) {
        switch (r) {
        case -ETIMEDOUT:
        case -ECANCELED:
                return 6;
        case -EACCES:
                return 5;
        case -EBUSY:
                return 4;
        case -EROFS:
                return 2;
        case STOKE_MISSING:
                return 1;
        default:
                return 3;
        }
}

static int dial_endpoint(struct stoke_session *session, const struct dial *d, const struct sql_endpoint *endpoint,
        const struct pg_account *account, struct stoke_call *call, struct pg **ret) {
        struct pg *pg = calloc(1, sizeof(*pg));
        char words[256];
        int r;

        if (!pg)
                return -ENOMEM;
        pg->store = session->store;
        pg->conn = start(session->store, d, endpoint, account);
        if (!pg->conn) {
                free(pg);
                return -ENOMEM;
        }
        PQsetNoticeReceiver(pg->conn, on_notice, pg);
        r = finish(session, pg->conn, call);
        if (r == 0) {
                PQsetErrorVerbosity(pg->conn, PQERRORS_DEFAULT);
                r = PQsetnonblocking(pg->conn, 1) == 0 ? examine(session, pg, call) : -ENOMEM;
        } else if (r == -ENOTCONN) {
                r = refusal(PQerrorMessage(pg->conn));
                pg_words(PQerrorMessage(pg->conn), words, sizeof(words));
                (void)sql_fail(call, r, "%s", words);
        } else if (r == -ETIMEDOUT) {
                (void)sql_fail(call, r, "%s:%s did not answer in time", endpoint->host, endpoint->port);
        }
        if (r != 0)
                pg_close(pg);
        else
                *ret = pg;
        return r;
}

int pg_dial(struct stoke_session *session, const struct pg_account *account, struct stoke_call *call, struct pg **ret) {
        struct stoke_store *store = session->store;
        size_t n = store->n_endpoints, first = atomic_load(&store->preferred) % n;
        char reason[512] = "", best_reason[512] = "";
        struct dial d;
        int r, best = 0;

        *ret = NULL;
        r = dial_prepare(store, &d, call);
        if (r < 0) {
                dial_done(&d);
                return r;
        }
        for (size_t i = 0; i < n; i++) {
                size_t k = (first + i) % n;
                struct stoke_call attempt = {.size = sizeof(attempt), .reason = reason, .reason_size = sizeof(reason)};
                uint64_t now = sql_now_ns();

                /* One that does not answer leaves the others their share. */
                attempt.deadline_ns =
                        now >= call->deadline_ns ? now : now + (call->deadline_ns - now) / (uint64_t)(n - i);
                reason[0] = '\0';
                r = dial_endpoint(session, &d, &store->endpoints[k], account, &attempt, ret);
                if (r == 0) {
                        atomic_store(&store->preferred, k);
                        break;
                }
                if (r == -ETIMEDOUT && !sql_expired(call))
                        r = -ENOTCONN; /* the attempt's share, not the call's deadline */
                if (best == 0 || weight(r) > weight(best)) {
                        best = r;
                        memcpy(best_reason, reason, sizeof(best_reason));
                }
                if (r == -ECANCELED)
                        break;
        }
        dial_done(&d);
        if (r == 0)
                return 0;
        return sql_fail(call, best, "%s", best_reason);
}

void pg_close(struct pg *pg) {
        if (!pg)
                return;
        PQfinish(pg->conn);
        free(pg);
}

/* A server that went away while nobody asked has left its farewell, or an end of file, in the socket. */
bool pg_alive(struct pg *pg) {
        struct pollfd p = {.fd = PQsocket(pg->conn), .events = POLLIN};

        while (!pg->doomed && PQstatus(pg->conn) == CONNECTION_OK && p.fd >= 0) {
                if (poll(&p, 1, 0) <= 0)
                        return PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
                if (!PQconsumeInput(pg->conn))
                        return false;
                if (!pg->listening)
                        PQfreemem(PQnotifies(pg->conn)); /* has whatever came parsed */
        }
        return false;
}

/* ---- connections of sessions */

static int make_database(struct stoke_session *session, struct stoke_call *call) {
        const struct pg_account account = {.database = "postgres", .application = "stokehold"};
        char *name = sql_quote_identifier(session->store->database, '"'), *sql = NULL;
        PGresult *res = NULL;
        struct pg *pg = NULL;
        int r = -ENOMEM;

        if (name && asprintf(&sql, "CREATE DATABASE %s ENCODING 'UTF8' TEMPLATE template0", name) > 0)
                r = pg_dial(session, &account, call, &pg);
        if (r == 0)
                r = pg_ask(session, pg, call, sql, NULL, 0, &res);
        /* Another daemon may be making it just now. */
        if (r == 0 && PQresultStatus(res) != PGRES_COMMAND_OK && !pg_is(res, "42P04") && !pg_is(res, "23505"))
                r = pg_fail(pg, res, call);
        PQclear(res);
        pg_close(pg);
        free(sql);
        free(name);
        if (r == STOKE_MISSING)
                r = sql_fail(call, -ENOENT, "there is no database \"%s\", and no \"postgres\" to make it from",
                        session->store->database);
        return r;
}

/* One of the store's that nobody uses. Or else, with the place in its count taken, NULL. */
static struct pg *borrow(struct stoke_store *store, const struct stoke_keyspace *keyspace) {
        struct pg *pg = NULL, *last = NULL;
        size_t i;

        pthread_mutex_lock(&store->mutex);
        for (i = 0; i < PG_LINKS && store->idle[i] && !pg; i++)
                if (keyspace ? store->idle[i]->tenant &&
                                        memcmp(store->idle[i]->incarnation, keyspace->incarnation, 16) == 0
                             : !store->idle[i]->tenant) {
                        pg = store->idle[i];
                        memmove(&store->idle[i], &store->idle[i + 1], (PG_LINKS - 1 - i) * sizeof(store->idle[0]));
                        store->idle[PG_LINKS - 1] = NULL;
                }
        if (!pg && store->n_links >= PG_LINKS && i > 0) { /* the one not used for longest makes room */
                last = store->idle[i - 1];
                store->idle[i - 1] = NULL;
                store->n_links--;
        }
        if (!pg)
                store->n_links++;
        pthread_mutex_unlock(&store->mutex);
        pg_close(last);
        return pg;
}

static void give_back(struct stoke_store *store, struct pg *pg, bool keep) {
        pthread_mutex_lock(&store->mutex);
        keep = keep && store->n_links <= PG_LINKS;
        if (keep) {
                memmove(&store->idle[1], &store->idle[0], (PG_LINKS - 1) * sizeof(store->idle[0]));
                store->idle[0] = pg;
        } else {
                store->n_links--;
        }
        pthread_mutex_unlock(&store->mutex);
        if (!keep)
                pg_close(pg);
}

/* With dedicated credentials: to the keyspace's database, or (NULL) the definition's. */
static int lend(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        int (*dial)(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
                struct pg **ret),
        struct pg **ret) {
        struct pg *pg;
        int r;

        while ((pg = borrow(session->store, keyspace)) && !pg_alive(pg))
                give_back(session->store, pg, false);
        if (!pg) {
                r = dial(session, keyspace, call, &pg);
                if (r != 0) {
                        give_back(session->store, NULL, false);
                        return r;
                }
                pg->shared = true;
        }
        *ret = pg;
        return 0;
}

static int dial_centre(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct pg **ret) {
        const struct pg_account account = {.database = session->store->database, .application = "stokehold"};
        int r;

        (void)keyspace;
        r = pg_dial(session, &account, call, ret);
        if (r == STOKE_MISSING) {
                r = make_database(session, call);
                if (r == 0)
                        r = pg_dial(session, &account, call, ret);
                if (r == STOKE_MISSING)
                        r = sql_fail(call, -ENOENT, "there is no database \"%s\"", account.database);
        }
        return r;
}

int pg_centre(struct stoke_session *session, struct stoke_call *call, struct pg **ret) {
        *ret = session->pg;
        session->pg = NULL;
        if (*ret && pg_alive(*ret))
                return 0;
        pg_close(*ret);
        *ret = NULL;
        return session->store->dedicated ? lend(session, NULL, call, dial_centre, ret)
                                         : dial_centre(session, NULL, call, ret);
}

int pg_place(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct pg **ret) {
        return session->store->dedicated ? lend(session, keyspace, call, pg_tenant_dial, ret)
                                         : pg_centre(session, call, ret);
}

void pg_keep(struct pg *pg) {
        if (!pg->shared)
                return;
        pthread_mutex_lock(&pg->store->mutex);
        pg->store->n_links--;
        pthread_mutex_unlock(&pg->store->mutex);
        pg->shared = false;
}

void pg_release(struct stoke_session *session, struct pg *pg) {
        bool keep;

        if (!pg)
                return;
        keep = !pg->doomed && !pg->bulky && PQstatus(pg->conn) == CONNECTION_OK &&
                PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
        if (pg->shared) {
                give_back(session->store, pg, keep);
        } else if (keep) {
                pg_close(session->pg);
                session->pg = pg;
        } else {
                pg_close(pg);
        }
}
