/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keyspaces of the PostgreSQL driver as a whole, and the catalogue of them. Each change of a keyspace is one transaction under an advisory
 * lock of its own, so it is there or not, whoever is cut off where. Runs on the host's session threads.
 */
#include "postgresql.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_CATALOGUE INT64_C(0x53746f6b65686f6c) /* "Stokehol" */

/* ---- names */

void pg_table(const struct stoke_keyspace *keyspace, bool installing, char ret[PG_TABLE_TEXT]) {
        char name[SQL_IDENTIFIER_MAX + 1];

        /* Nothing in it needs doubling: a keyspace's name was checked by pg_begin(). */
        sql_server_table(keyspace, installing ? "+" : "", PG_IDENTIFIER_MAX, name);
        snprintf(ret, PG_TABLE_TEXT, "\"stokehold\".\"%s\"", name);
}

static struct pg_param uuid_param(const uint8_t uuid[16]) {
        return (struct pg_param){PG_UUID, uuid, 16};
}

static struct pg_param text_param(const char *text) {
        return (struct pg_param){PG_TEXT, text, strlen(text)};
}

/* ---- the catalogue */

int pg_catalogue_check(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        PGresult *res = NULL;
        int r;

        r = pg_query(session, pg, call, "SELECT to_regclass('stokehold.format') IS NOT NULL", NULL, 0, &res);
        if (r != 0)
                return r;
        r = PQgetvalue(res, 0, 0)[0] == 't';
        PQclear(res);
        if (r == 0)
                return 0;
        r = pg_query(session, pg, call, "SELECT current, min_reader FROM stokehold.format", NULL, 0, &res);
        if (r == 0 && PQntuples(res) == 1)
                r = sql_server_check_format(atoll(PQgetvalue(res, 0, 0)), atoll(PQgetvalue(res, 0, 1)), call);
        else if (r == 0)
                r = sql_fail(call, -EUCLEAN, "the catalogue does not say which format it has");
        PQclear(res);
        return r;
}

int pg_catalogue_make(struct stoke_session *session, struct pg *pg, struct stoke_call *call) {
        static const char tables[] =
                "CREATE TABLE IF NOT EXISTS stokehold.format (one smallint PRIMARY KEY CHECK (one = 1), "
                "current bigint NOT NULL, min_reader bigint NOT NULL); "
                "CREATE TABLE IF NOT EXISTS stokehold.keyspaces (incarnation uuid NOT NULL, name text NOT NULL, "
                "state smallint NOT NULL, install_id uuid, PRIMARY KEY (incarnation, name)); "
                "CREATE TABLE IF NOT EXISTS stokehold.installations (id uuid PRIMARY KEY, ended smallint NOT NULL); "
                "INSERT INTO stokehold.format SELECT 1, 1, 1 WHERE NOT EXISTS (SELECT FROM stokehold.format)";
        struct pg_number lock = pg_number(LOCK_CATALOGUE);
        struct pg_param param = {PG_INT8, lock.bytes, sizeof(lock.bytes)};
        PGresult *res = NULL;
        int r;

        r = pg_transaction(session, pg, call);
        if (r == 0)
                r = pg_query(session, pg, call, "SELECT pg_advisory_xact_lock($1)", &param, 1, NULL);
        /* Asked for first: whoever may not make schemas may have been given this one. */
        if (r == 0)
                r = pg_query(session, pg, call, "SELECT to_regnamespace('stokehold') IS NULL", NULL, 0, &res);
        if (r == 0 && PQgetvalue(res, 0, 0)[0] == 't')
                r = pg_query(session, pg, call, "CREATE SCHEMA stokehold", NULL, 0, NULL);
        PQclear(res);
        if (r == 0)
                r = pg_query(session, pg, call, tables, NULL, 0, NULL);
        if (r == 0) {
                r = pg_commit(session, pg, call);
                if (r == STOKE_UNKNOWN)
                        r = -ECONNRESET; /* repeated as it is */
        }
        return r == 0 ? 0 : pg_rollback(session, pg, r);
}

int pg_find(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct sql_found *ret, struct stoke_call *call) {
        static const uint8_t no_id[16];
        struct pg_param params[3] = {
                uuid_param(keyspace->incarnation), text_param(keyspace->name), uuid_param(id ? id : no_id)};
        struct pg_param lock = {.type = PG_INT8, .data = keyspace->incarnation, .size = 8}; /* random enough */
        PGresult *res = NULL;
        int r;

        *ret = (struct sql_found){};
        r = pg_query(session, pg, call, "SELECT pg_advisory_xact_lock($1)", &lock, 1, NULL);
        if (r == 0)
                r = pg_query(session, pg, call,
                        "SELECT k.state::int8, k.install_id, e.ended::int8 FROM (SELECT) AS one "
                        "LEFT JOIN stokehold.keyspaces k ON k.incarnation = $1 AND k.name = $2 "
                        "LEFT JOIN stokehold.installations e ON e.id = $3",
                        params, 3, &res);
        if (r != 0)
                return r;
        if (!PQgetisnull(res, 0, 0))
                ret->state = pg_result_number(res, 0, 0) == SQL_LIVE ? SQL_LIVE : SQL_INSTALLING;
        if (!PQgetisnull(res, 0, 1) && PQgetlength(res, 0, 1) == 16) {
                ret->has_id = true;
                memcpy(ret->id, PQgetvalue(res, 0, 1), 16);
        }
        if (id && !PQgetisnull(res, 0, 2))
                ret->ended = pg_result_number(res, 0, 2) == SQL_COMMITTED ? SQL_COMMITTED : SQL_ABORTED;
        PQclear(res);
        return 0;
}

/* What the centre remembers of an id, where the place is another. */
static int centre_ended(
        struct stoke_session *session, const uint8_t *id, enum sql_ended *ret, struct stoke_call *call) {
        struct pg_param param = uuid_param(id);
        struct pg *pg = NULL;
        PGresult *res = NULL;
        int r;

        *ret = SQL_NOT_ENDED;
        r = pg_centre(session, call, &pg);
        if (r == 0)
                r = pg_query(session, pg, call, "SELECT ended::int8 FROM stokehold.installations WHERE id = $1", &param,
                        1, &res);
        if (r == 0 && PQntuples(res) == 1)
                *ret = pg_result_number(res, 0, 0) == SQL_COMMITTED ? SQL_COMMITTED : SQL_ABORTED;
        PQclear(res);
        r = pg_missing(session, pg, "stokehold.installations", r, call);
        pg_release(session, pg);
        return r == STOKE_MISSING ? 0 : r; /* no catalogue yet */
}

int pg_open_keyspace(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id, bool make,
        struct stoke_call *call, struct pg **ret_pg, struct sql_found *ret) {
        bool dedicated = session->store->dedicated, made = false;
        enum sql_ended ended = SQL_NOT_ENDED;
        struct pg *pg = NULL;
        int r = 0;

        *ret_pg = NULL;
        if (dedicated && id)
                r = centre_ended(session, id, &ended, call);
        if (r == 0)
                r = pg_place(session, keyspace, call, &pg);
        /* A place is made only for an id that has not ended. */
        if (r == STOKE_MISSING && make && ended == SQL_NOT_ENDED) {
                r = pg_tenant_make(session, keyspace, call);
                if (r == 0)
                        r = pg_place(session, keyspace, call, &pg);
        }
        while (r == 0) {
                r = pg_transaction(session, pg, call);
                if (r == 0)
                        r = pg_find(session, pg, keyspace, id, ret, call);
                if (r == 0) {
                        if (ended != SQL_NOT_ENDED && ret->ended == SQL_NOT_ENDED)
                                ret->ended = ended;
                        *ret_pg = pg;
                        return 0;
                }
                (void)pg_rollback(session, pg, r);
                if (r != STOKE_MISSING || !make || made)
                        break;
                made = true;
                r = pg_catalogue_make(session, pg, call);
        }
        pg_release(session, pg);
        if (r == STOKE_MISSING) { /* no place, or no catalogue in it */
                *ret = (struct sql_found){.ended = ended};
                return STOKE_MISSING;
        }
        return r;
}

int pg_row_set(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        enum sql_state state, const uint8_t *id, struct stoke_call *call) {
        struct pg_number number = pg_number(state);
        struct pg_param params[4] = {uuid_param(keyspace->incarnation), text_param(keyspace->name),
                {PG_INT8, number.bytes, sizeof(number.bytes)}, uuid_param(id)};

        if (state == SQL_ABSENT)
                return pg_query(session, pg, call,
                        "DELETE FROM stokehold.keyspaces WHERE incarnation = $1 AND name = $2", params, 2, NULL);
        return pg_query(session, pg, call,
                id ? "INSERT INTO stokehold.keyspaces VALUES ($1, $2, $3, $4) ON CONFLICT (incarnation, name) "
                     "DO UPDATE SET state = excluded.state, install_id = excluded.install_id"
                   : "INSERT INTO stokehold.keyspaces VALUES ($1, $2, $3) ON CONFLICT (incarnation, name) "
                     "DO UPDATE SET state = excluded.state, install_id = NULL",
                params, id ? 4 : 3, NULL);
}

int pg_end_id(struct stoke_session *session, struct pg *pg, const uint8_t id[16], enum sql_ended how,
        struct stoke_call *call) {
        struct pg_number number = pg_number(how);
        struct pg_param params[2] = {uuid_param(id), {PG_INT8, number.bytes, sizeof(number.bytes)}};

        return pg_query(session, pg, call,
                "INSERT INTO stokehold.installations VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", params, 2, NULL);
}

/* A small transaction in the centre: the keyspace's row, or the end of an id. */
static int mirror(struct stoke_session *session, const struct stoke_keyspace *keyspace, enum sql_state state,
        const uint8_t *id, enum sql_ended how, struct stoke_call *call) {
        struct pg *pg = NULL;
        bool made = false;
        int r;

        r = pg_centre(session, call, &pg);
        while (r == 0) {
                r = pg_transaction(session, pg, call);
                if (r == 0)
                        r = keyspace ? pg_row_set(session, pg, keyspace, state, id, call)
                                     : pg_end_id(session, pg, id, how, call);
                if (r == 0)
                        r = pg_commit(session, pg, call);
                if (r == 0)
                        break;
                (void)pg_rollback(session, pg, r);
                if (r != STOKE_MISSING || made)
                        break;
                made = true;
                r = pg_catalogue_make(session, pg, call);
        }
        pg_release(session, pg);
        return r == STOKE_UNKNOWN || r == STOKE_MISSING ? -EIO : r; /* repeated as it is */
}

int pg_row_mirror(struct stoke_session *session, const struct stoke_keyspace *keyspace, enum sql_state state,
        const uint8_t *id, struct stoke_call *call) {
        return session->store->dedicated ? mirror(session, keyspace, state, id, SQL_NOT_ENDED, call) : 0;
}

int pg_end_id_mirror(struct stoke_session *session, const uint8_t id[16], enum sql_ended how, struct stoke_call *call) {
        return mirror(session, NULL, SQL_ABSENT, id, how, call);
}

/* ---- create */

int pg_create_log(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace, bool installing,
        struct stoke_call *call) {
        const struct sql_dialect dialect = {.integer = "bigint",
                .small = "smallint",
                .key_bytes = "bytea",
                .value_bytes = pg->lz4 ? "bytea COMPRESSION lz4" : "bytea", /* pglz costs more than it saves */
                .octet_length = "octet_length",
                .numbered = true,
                .table_suffix = ""};
        char table[PG_TABLE_TEXT], *text, *sql = NULL;
        int r = -ENOMEM;

        pg_table(keyspace, installing, table);
        text = sql_statement_text(&dialect, SQL_CREATE_LOG, table);
        /* No plan depends on what is in these columns, and sampling them costs. */
        if (text &&
                asprintf(&sql,
                        "%s; ALTER TABLE %s ALTER value SET STATISTICS 0, ALTER \"key\" SET STATISTICS 0, "
                        "ALTER origin SET STATISTICS 0, ALTER hash SET STATISTICS 0, ALTER revision SET STATISTICS 0, "
                        "ALTER create_revision SET STATISTICS 0, ALTER version SET STATISTICS 0, "
                        "ALTER lease SET STATISTICS 0, ALTER kind SET STATISTICS 0",
                        text, table) > 0)
                r = pg_query(session, pg, call, sql, NULL, 0, NULL);
        free(sql);
        free(text);
        return r;
}

static int insert_first(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        const struct stoke_record *first, struct stoke_call *call) {
        char table[PG_TABLE_TEXT], *sql = NULL;
        struct pg_rows rows;
        int r;

        pg_table(keyspace, false, table);
        r = pg_rows_build(first, 1, &rows);
        if (r == 0) {
                sql = pg_rows_insert(&rows, table);
                r = sql ? pg_query(session, pg, call, sql, rows.params, 4, NULL) : -ENOMEM;
        }
        free(sql);
        free(rows.buffer);
        return r;
}

int pg_create(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_record *first,
        struct stoke_call *call) {
        struct sql_found found;
        struct pg *pg = NULL;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        r = sql_records_check(first, 1, 0, &pg_limits, call);
        if (r == 0)
                r = pg_open_keyspace(session, keyspace, NULL, true, call, &pg, &found);
        if (r == STOKE_MISSING)
                r = sql_fail(call, -EIO, "what was made for the keyspace has gone again");
        if (r == 0 && found.state == SQL_INSTALLING)
                r = sql_fail(call, -EEXIST, "the keyspace is being installed");
        if (r == 0 && found.state == SQL_ABSENT) {
                r = pg_create_log(session, pg, keyspace, false, call);
                if (r == 0)
                        r = insert_first(session, pg, keyspace, first, call);
                if (r == 0)
                        r = pg_row_set(session, pg, keyspace, SQL_LIVE, NULL, call);
                if (r == 0)
                        r = pg_commit(session, pg, call);
                if (r == STOKE_UNKNOWN)
                        r = -ECONNRESET; /* to be repeated, and then seen */
        }
        if (pg)
                (void)pg_rollback(session, pg, 0);
        pg_release(session, pg);
        if (r == 0)
                r = pg_row_mirror(session, keyspace, SQL_LIVE, found.has_id ? found.id : NULL, call);
        return pg_end(session, r);
}

/* ---- drop */

int pg_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        char table[PG_TABLE_TEXT], *sql = NULL;
        struct sql_found found = {};
        struct pg *pg = NULL;
        bool leave;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        r = pg_open_keyspace(session, keyspace, NULL, false, call, &pg, &found);
        leave = r == 0 && found.state == SQL_INSTALLING; /* abort's */
        if (r == STOKE_MISSING)
                r = 0;
        if (r == 0 && pg && found.state == SQL_LIVE) {
                pg_table(keyspace, false, table);
                r = asprintf(&sql, "DROP TABLE IF EXISTS %s", table) > 0
                        ? pg_query(session, pg, call, sql, NULL, 0, NULL)
                        : -ENOMEM;
                free(sql);
                if (r == 0)
                        r = pg_row_set(session, pg, keyspace, SQL_ABSENT, NULL, call);
                if (r == 0)
                        r = pg_commit(session, pg, call);
                if (r == STOKE_UNKNOWN)
                        r = -ECONNRESET;
        }
        if (pg)
                (void)pg_rollback(session, pg, 0);
        pg_release(session, pg);
        if (r == 0 && !leave && session->store->dedicated) {
                /* The place knew how its installation ended, and goes. */
                if (found.has_id)
                        r = pg_end_id_mirror(session, found.id, SQL_COMMITTED, call);
                if (r == 0)
                        r = pg_tenant_drop(session, keyspace, call);
                if (r == 0)
                        r = pg_row_mirror(session, keyspace, SQL_ABSENT, NULL, call);
        }
        return pg_end(session, r);
}

/* ---- list */

int pg_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata) {
        const struct pg_number zero = pg_number(0);
        const struct pg_param param = {PG_INT8, zero.bytes, sizeof(zero.bytes)}; /* for an answer in binary */
        struct pg *pg = NULL;
        PGresult *res = NULL;
        int r;

        r = pg_begin(session, NULL, call);
        if (r < 0)
                return r;
        r = pg_centre(session, call, &pg);
        if (r == 0)
                r = pg_query(session, pg, call,
                        "SELECT incarnation, name, state::int8, install_id FROM stokehold.keyspaces WHERE state > $1",
                        &param, 1, &res);
        r = pg_missing(session, pg, "stokehold.keyspaces", r, call);
        if (r == STOKE_MISSING) /* no catalogue yet */
                r = 0;
        pg_release(session, pg);
        for (int i = 0; r == 0 && res && i < PQntuples(res); i++) {
                struct stoke_keyspace_info info = {.size = sizeof(info), .name = PQgetvalue(res, i, 1)};

                if (PQgetlength(res, i, 0) != 16 || !sql_name_valid(info.name, (size_t)PQgetlength(res, i, 1)))
                        continue;
                memcpy(info.incarnation, PQgetvalue(res, i, 0), 16);
                info.installing = pg_result_number(res, i, 2) == SQL_INSTALLING;
                if (info.installing && PQgetlength(res, i, 3) == 16)
                        memcpy(info.install_id, PQgetvalue(res, i, 3), 16);
                r = visit(userdata, &info) ? STOKE_STOPPED : 0;
        }
        PQclear(res);
        return pg_end(session, r);
}
