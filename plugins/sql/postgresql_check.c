/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `stokectl datastore check` shows of a PostgreSQL server: really dialled, on a connection of its own, and a transaction really
 * committed. Runs on a session thread.
 */
#include "postgresql.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_TIMES 9

struct report {
        void (*visit)(void *userdata, const char *name, const char *value, enum stoke_severity severity);
        void *userdata;
};

static void tell(const struct report *report, const char *name, enum stoke_severity severity, const char *format, ...)
        __attribute__((__format__(__printf__, 4, 5)));
static void tell(const struct report *report, const char *name, enum stoke_severity severity, const char *format, ...) {
        char text[512];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        if (report->visit)
                report->visit(report->userdata, name, text, severity);
}

static int compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static int time_of(
        struct stoke_session *session, struct pg *pg, const char *sql, double *ret_ms, struct stoke_call *call) {
        uint64_t times[N_TIMES];
        int r = 0;

        for (size_t i = 0; r == 0 && i < N_TIMES; i++) {
                uint64_t start = sql_now_ns();

                r = pg_query(session, pg, call, sql, NULL, 0, NULL);
                times[i] = sql_now_ns() - start;
        }
        if (r == 0) {
                qsort(times, N_TIMES, sizeof(times[0]), compare);
                *ret_ms = (double)times[N_TIMES / 2] / 1e6;
        }
        return r;
}

static int check_latency(
        struct stoke_session *session, struct pg *pg, const struct report *report, struct stoke_call *call) {
        double question = 0, commit = 0;
        int r;

        r = time_of(session, pg, "SELECT 1", &question, call);
        /* A message in the log that nobody decodes: it is synced as a row would be, and writes to no table. */
        if (r == 0)
                r = time_of(session, pg,
                        "SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'stokehold', '')",
                        &commit, call);
        if (r == -EACCES) {
                tell(report, "latency", STOKE_INFO, "%.2f ms a question", question);
                return 0;
        }
        if (r == 0)
                tell(report, "latency", commit > 50 ? STOKE_WARNING : STOKE_INFO,
                        "%.2f ms a question, %.2f ms a commit", question, commit);
        return r;
}

static int check_durability(
        struct stoke_session *session, struct pg *pg, const struct report *report, struct stoke_call *call) {
        PGresult *res = NULL;
        int r;

        r = pg_query(session, pg, call,
                "SELECT current_setting('fsync'), current_setting('full_page_writes'), "
                "current_setting('synchronous_commit'), current_setting('synchronous_standby_names')",
                NULL, 0, &res);
        if (r == 0) {
                const char *synchronous = PQgetvalue(res, 0, 2), *standbys = PQgetvalue(res, 0, 3);

                if (strcmp(PQgetvalue(res, 0, 0), "on") != 0)
                        tell(report, "durability", STOKE_PROBLEM,
                                "fsync is off: a power failure loses what was acknowledged, and may leave the rest in ruins");
                else if (strcmp(PQgetvalue(res, 0, 1), "on") != 0)
                        tell(report, "durability", STOKE_WARNING,
                                "full_page_writes is off: safe only where the disk never writes half a page");
                else if (strcmp(synchronous, "off") == 0)
                        tell(report, "durability", STOKE_WARNING,
                                "synchronous_commit is off; our own commits are synced all the same");
                else if (*standbys)
                        tell(report, "durability", STOKE_INFO,
                                "each commit synced (synchronous_commit=%s, standbys %s)", synchronous, standbys);
                else
                        tell(report, "durability", STOKE_INFO,
                                "each commit synced here (synchronous_commit=%s); a standby that takes over may lack the last ones",
                                synchronous);
        }
        PQclear(res);
        return r;
}

static int check_role(
        struct stoke_session *session, struct pg *pg, const struct report *report, struct stoke_call *call) {
        bool dedicated = session->store->dedicated, super, may_database, may_role, may_schema, key;
        struct stoke_call quiet = *call;
        struct sql_secret secret = {};
        PGresult *res = NULL;
        char reason[256];
        int r;

        r = pg_query(session, pg, call,
                "SELECT r.rolsuper, r.rolcreatedb, r.rolcreaterole, CASE WHEN to_regnamespace('stokehold') IS NULL "
                "THEN has_database_privilege(current_database(), 'CREATE') "
                "ELSE has_schema_privilege('stokehold', 'CREATE, USAGE') END, current_user "
                "FROM pg_roles r WHERE r.rolname = current_user",
                NULL, 0, &res);
        if (r == 0 && PQntuples(res) == 1) {
                super = PQgetvalue(res, 0, 0)[0] == 't';
                may_database = PQgetvalue(res, 0, 1)[0] == 't' || super;
                may_role = PQgetvalue(res, 0, 2)[0] == 't' || super;
                may_schema = PQgetvalue(res, 0, 3)[0] == 't';
                quiet.reason = reason;
                quiet.reason_size = sizeof(reason);
                key = !dedicated || sql_tenant_key(session->store->host, &secret, &quiet) == 0;
                sql_secret_wipe(&secret);
                if (!may_schema)
                        tell(report, "role", STOKE_PROBLEM, "%s may not make tables in schema stokehold of %s",
                                PQgetvalue(res, 0, 4), session->store->database);
                else if (dedicated && !(may_database && may_role))
                        tell(report, "role", STOKE_PROBLEM,
                                "%s may not make databases and roles for tenants: it needs CREATEDB and CREATEROLE",
                                PQgetvalue(res, 0, 4));
                else if (!key)
                        tell(report, "role", STOKE_PROBLEM, "%s", reason);
                else
                        tell(report, "role", STOKE_INFO, "%s may make %s", PQgetvalue(res, 0, 4),
                                dedicated ? "tables, and databases and roles for tenants" : "tables");
        }
        PQclear(res);
        return r;
}

static int check_room(
        struct stoke_session *session, struct pg *pg, const struct report *report, struct stoke_call *call) {
        PGresult *res = NULL;
        int r;

        r = pg_query(session, pg, call,
                "SELECT current_setting('max_connections')::int, "
                "(SELECT coalesce(sum(setting::int), 0) FROM pg_settings "
                "WHERE name IN ('superuser_reserved_connections', 'reserved_connections')), "
                "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
                "pg_database_size(current_database()), "
                "(SELECT least(CASE WHEN rolconnlimit >= 0 THEN rolconnlimit END, CASE WHEN datconnlimit >= 0 "
                "THEN datconnlimit END) FROM pg_roles, pg_database WHERE rolname = current_user "
                "AND datname = current_database())",
                NULL, 0, &res);
        if (r == 0) {
                int most = atoi(PQgetvalue(res, 0, 0)), reserved = atoi(PQgetvalue(res, 0, 1)),
                    used = atoi(PQgetvalue(res, 0, 2)), left = most - reserved - used;

                if (!PQgetisnull(res, 0, 4))
                        tell(report, "connections", left < 10 ? STOKE_WARNING : STOKE_INFO,
                                "%d of %d left, and %s allowed to this role or database", left, most - reserved,
                                PQgetvalue(res, 0, 4));
                else
                        tell(report, "connections", left < 10 ? STOKE_WARNING : STOKE_INFO, "%d of %d left", left,
                                most - reserved);
                tell(report, "size", STOKE_INFO, "%.1f MiB", (double)atoll(PQgetvalue(res, 0, 3)) / (1 << 20));
        }
        PQclear(res);
        return r;
}

int pg_check(struct stoke_store *store, struct stoke_call *call,
        void (*visit)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata) {
        const struct report report = {visit, userdata};
        struct stoke_session *session = NULL;
        struct pg *pg = NULL;
        const char *version;
        int r;

        r = pg_session_new(store, call, &session);
        if (r < 0)
                return r;
        r = pg_begin(session, NULL, call);
        if (r < 0) {
                pg_session_free(session);
                return r;
        }
        r = pg_centre(session, call, &pg);
        if (r == 0) {
                version = PQparameterStatus(pg->conn, "server_version");
                tell(&report, "version", STOKE_INFO, "PostgreSQL %s", version ? version : "?");
                tell(&report, "endpoint", STOKE_INFO, "%s:%s, %s%s", PQhost(pg->conn), PQport(pg->conn),
                        PQsslInUse(pg->conn) ? PQsslAttribute(pg->conn, "protocol") : "not encrypted",
                        pg->pooled ? ", through a pooler" : "");
                r = check_latency(session, pg, &report, call);
        }
        if (r == 0)
                r = check_durability(session, pg, &report, call);
        if (r == 0)
                r = check_role(session, pg, &report, call);
        if (r == 0)
                r = check_room(session, pg, &report, call);
        pg_release(session, pg);
        pg_end(session, r);
        pg_session_free(session);
        return r == STOKE_MISSING ? -EIO : r;
}
