/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Installations in PostgreSQL: a keyspace brought from elsewhere grows in a table whose name ends in "+", which nothing but its installation
 * looks at. The commit appends the last record, renames the table and remembers the id, in one transaction. Runs on the host's session threads.
 */
#include "postgresql.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The last seq of an installation's table, 0 if it is empty. STOKE_MISSING. */
static int read_last(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace, uint64_t *ret,
        struct stoke_call *call) {
        char table[PG_TABLE_TEXT], *sql;
        PGresult *res = NULL;
        int r;

        pg_table(keyspace, true, table);
        if (asprintf(&sql, "SELECT coalesce(max(seq), 0) FROM %s", table) < 0)
                return -ENOMEM;
        r = pg_query(session, pg, call, sql, NULL, 0, &res);
        if (r == 0)
                *ret = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
        PQclear(res);
        free(sql);
        return r;
}

/* Ends the transaction of `pg`, and gives the connection back. */
static int finish(struct stoke_session *session, struct pg *pg, int r) {
        if (pg)
                (void)pg_rollback(session, pg, 0);
        pg_release(session, pg);
        return r;
}

int pg_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq) {
        struct sql_found found = {};
        struct pg *pg = NULL;
        int r, result;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        r = pg_open_keyspace(session, keyspace, id, true, call, &pg, &found);
        if (r == STOKE_MISSING && found.ended == SQL_NOT_ENDED)
                r = sql_fail(call, -EIO, "what was made for the keyspace has gone again");
        if (r == 0 || r == STOKE_MISSING) {
                switch (sql_install_decide(SQL_BEGIN, &found, id, call, &result)) {
                case SQL_GO:
                        r = read_last(session, pg, keyspace, ret_seq, call);
                        break;
                case SQL_GO_ANEW:
                        *ret_seq = 0;
                        r = pg_create_log(session, pg, keyspace, true, call);
                        if (r == 0)
                                r = pg_row_set(session, pg, keyspace, SQL_INSTALLING, id, call);
                        if (r == 0)
                                r = pg_commit(session, pg, call);
                        if (r == STOKE_UNKNOWN)
                                r = -ECONNRESET; /* to be repeated, and then seen */
                        break;
                case SQL_ALREADY:
                case SQL_REFUSE:
                        r = result;
                        break;
                }
        }
        r = finish(session, pg, r);
        if (r == 0)
                r = pg_row_mirror(session, keyspace, SQL_INSTALLING, id, call);
        return pg_end(session, r);
}

/* The records behind what is in already, if it is still this id's installation. Not synced: the commit's sync covers all that was written
 * before it. */
static int feed(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        const uint8_t id[16], const struct stoke_record *records, size_t n_records, uint64_t *ret_n,
        struct stoke_call *call) {
        char table[PG_TABLE_TEXT], *insert = NULL, *sql = NULL;
        struct pg_param params[7];
        struct pg_rows rows;
        PGresult *res = NULL;
        int r;

        pg_table(keyspace, true, table);
        r = pg_rows_build(records, n_records, &rows);
        if (r < 0)
                return r;
        memcpy(params, rows.params, sizeof(rows.params));
        params[4] = (struct pg_param){PG_UUID, id, 16};
        params[5] = (struct pg_param){PG_UUID, keyspace->incarnation, 16};
        params[6] = (struct pg_param){PG_TEXT, keyspace->name, strlen(keyspace->name)};
        insert = pg_rows_insert(&rows, table);
        r = insert &&
                        asprintf(&sql,
                                "%s WHERE ($1)[7*i-6] > (SELECT coalesce(max(seq), 0) FROM %s) "
                                "AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL "
                                "AND EXISTS (SELECT FROM stokehold.keyspaces WHERE incarnation = $6 AND name = $7 "
                                "AND state = 1 AND install_id = $5)",
                                insert, table) > 0
                ? pg_query(session, pg, call, sql, params, 7, &res)
                : -ENOMEM;
        if (r == 0)
                *ret_n = strtoull(PQcmdTuples(res), NULL, 10);
        PQclear(res);
        free(sql);
        free(insert);
        free(rows.buffer);
        return r;
}

int pg_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call) {
        struct sql_found found = {};
        struct pg *pg = NULL;
        uint64_t n = 0;
        int r, result;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        r = sql_records_check(records, n_records, UINT64_MAX, &pg_limits, call);
        if (r == 0)
                r = pg_place(session, keyspace, call, &pg);
        if (r == 0)
                r = feed(session, pg, keyspace, id, records, n_records, &n, call);
        pg_release(session, pg);
        pg = NULL;
        /* Nothing went in: all were in already, or it is not to be fed. */
        if (r == STOKE_MISSING || (r == 0 && n == 0)) {
                r = pg_open_keyspace(session, keyspace, id, false, call, &pg, &found);
                if (r == 0 || r == STOKE_MISSING)
                        r = sql_install_decide(SQL_FEED, &found, id, call, &result) == SQL_GO ? 0 : result;
                r = finish(session, pg, r);
        }
        return pg_end(session, r);
}

/* The switch. In the transaction of `pg`, up to its commit. */
static int commit(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        const uint8_t id[16], const struct stoke_record *last, struct stoke_call *call) {
        char table[PG_TABLE_TEXT], name[SQL_IDENTIFIER_MAX + 1], *sql = NULL, *insert = NULL;
        struct pg_rows rows = {};
        uint64_t seq = 0;
        int r;

        pg_table(keyspace, true, table);
        sql_server_table(keyspace, "", PG_IDENTIFIER_MAX, name);
        /* Whoever still feeds ends first, and finds the table gone afterwards. */
        r = asprintf(&sql, "LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", table) > 0
                ? pg_query(session, pg, call, sql, NULL, 0, NULL)
                : -ENOMEM;
        free(sql);
        sql = NULL;
        if (r == 0)
                r = read_last(session, pg, keyspace, &seq, call);
        if (r == 0 && last->seq <= seq)
                r = sql_fail(call, -EINVAL,
                        "the last record, %" PRIu64 ", is not behind %" PRIu64 ", which is in already", last->seq, seq);
        if (r == 0)
                r = pg_rows_build(last, 1, &rows);
        if (r == 0) {
                insert = pg_rows_insert(&rows, table);
                r = insert ? pg_query(session, pg, call, insert, rows.params, 4, NULL) : -ENOMEM;
        }
        if (r == 0)
                r = asprintf(&sql, "ALTER TABLE %s RENAME TO \"%s\"", table, name) > 0
                        ? pg_query(session, pg, call, sql, NULL, 0, NULL)
                        : -ENOMEM;
        if (r == 0)
                r = pg_row_set(session, pg, keyspace, SQL_LIVE, id, call);
        if (r == 0)
                r = pg_end_id(session, pg, id, SQL_COMMITTED, call);
        free(sql);
        free(insert);
        free(rows.buffer);
        if (r == STOKE_MISSING)
                r = sql_fail(call, -EUCLEAN, "the installation's table has gone");
        return r == 0 ? pg_commit(session, pg, call) : r;
}

int pg_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call) {
        struct sql_found found = {};
        struct pg *pg = NULL;
        int r, result;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        r = sql_records_check(last, 1, UINT64_MAX, &pg_limits, call);
        if (r == 0)
                r = pg_open_keyspace(session, keyspace, id, false, call, &pg, &found);
        if (r == 0 || r == STOKE_MISSING)
                r = sql_install_decide(SQL_COMMIT, &found, id, call, &result) == SQL_GO
                        ? commit(session, pg, keyspace, id, last, call)
                        : result;
        r = finish(session, pg, r);
        if (r == 0 && session->store->dedicated) {
                r = pg_end_id_mirror(session, id, SQL_COMMITTED, call);
                if (r == 0)
                        r = pg_row_mirror(session, keyspace, SQL_LIVE, id, call);
                if (r < 0)
                        r = STOKE_UNKNOWN; /* it exists; whoever asks again has the copy put right */
        }
        return pg_end(session, r);
}

int pg_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        bool dedicated = session->store->dedicated, ours;
        char table[PG_TABLE_TEXT], *sql = NULL;
        struct sql_found found = {};
        struct pg *pg = NULL;
        enum sql_decision decision;
        int r, result;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        /* Without a place of its own there is at least the catalogue, where the id is to end. */
        r = pg_open_keyspace(session, keyspace, id, !dedicated, call, &pg, &found);
        if (r != 0 && r != STOKE_MISSING)
                return pg_end(session, r);
        ours = found.state == SQL_INSTALLING && found.has_id && memcmp(found.id, id, 16) == 0;
        decision = sql_install_decide(SQL_ABORT, &found, id, call, &result);
        if (decision == SQL_REFUSE || (decision == SQL_ALREADY && !dedicated))
                return pg_end(session, finish(session, pg, result));
        r = 0;
        if (pg && decision == SQL_GO) {
                r = pg_end_id(session, pg, id, SQL_ABORTED, call);
                pg_table(keyspace, true, table);
                if (r == 0 && ours)
                        r = asprintf(&sql, "DROP TABLE IF EXISTS %s", table) > 0
                                ? pg_query(session, pg, call, sql, NULL, 0, NULL)
                                : -ENOMEM;
                free(sql);
                if (r == 0 && ours)
                        r = pg_row_set(session, pg, keyspace, SQL_ABSENT, NULL, call);
                if (r == 0)
                        r = pg_commit(session, pg, call);
                if (r == STOKE_UNKNOWN)
                        r = -ECONNRESET; /* to be repeated */
        }
        r = finish(session, pg, r);
        /* From here on the place refuses this id; the centre remembers it when the place has gone. */
        if (r == 0 && dedicated)
                r = pg_end_id_mirror(session, id, SQL_ABORTED, call);
        if (r == 0 && dedicated && (ours || found.state == SQL_ABSENT)) {
                r = pg_tenant_drop(session, keyspace, call);
                if (r == 0)
                        r = pg_row_mirror(session, keyspace, SQL_ABSENT, NULL, call);
        }
        return pg_end(session, r);
}
