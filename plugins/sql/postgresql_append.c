/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the log in PostgreSQL. A batch is one statement, which is its own transaction: inserted where the last row is the expected end;
 * of two that see the same end the primary key stops the second. Only ReadyForQuery acknowledges it, since CommandComplete comes before the
 * commit. Runs on the host's session threads.
 */
#include "postgresql.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBERS 7 /* of each record, in one array: an array of fixed-size elements is subscripted in no time */
#define DELETE_STEP 1024

/* ---- records as parameters */

static uint8_t *put32(uint8_t *p, size_t n) {
        p[0] = (uint8_t)(n >> 24);
        p[1] = (uint8_t)(n >> 16);
        p[2] = (uint8_t)(n >> 8);
        p[3] = (uint8_t)n;
        return p + 4;
}

static uint8_t *put_number(uint8_t *p, int64_t number) {
        struct pg_number n = pg_number(number);

        p = put32(p, 8);
        memcpy(p, n.bytes, 8);
        return p + 8;
}

static uint8_t *put_bytes(uint8_t *p, const void *data, size_t size) {
        p = put32(p, size);
        if (size)
                memcpy(p, data, size);
        return p + size;
}

/* One dimension from 1, no NULLs. */
#define ARRAY_HEADER 20
static uint8_t *put_array(uint8_t *p, Oid element, size_t n) {
        p = put32(p, 1);
        p = put32(p, 0);
        p = put32(p, element);
        p = put32(p, n);
        return put32(p, 1);
}

int pg_rows_build(const struct stoke_record *records, size_t n_records, struct pg_rows *ret) {
        size_t keys = ARRAY_HEADER, values = ARRAY_HEADER, numbers = ARRAY_HEADER + NUMBERS * n_records * 12, origins;
        uint8_t origin[SQL_ORIGIN_SIZE], *p;

        *ret = (struct pg_rows){.one_origin = true};
        for (size_t i = 0; i < n_records; i++) {
                keys += 4 + records[i].key_size;
                values += 4 + records[i].value_size;
                ret->one_origin = ret->one_origin && sql_origin_equal(&records[i].origin, &records[0].origin);
        }
        origins = ret->one_origin ? SQL_ORIGIN_SIZE : ARRAY_HEADER + n_records * (4 + SQL_ORIGIN_SIZE);
        p = ret->buffer = malloc(numbers + keys + values + origins);
        if (!p)
                return -ENOMEM;
        ret->params[0] = (struct pg_param){PG_INT8_ARRAY, p, numbers};
        p = put_array(p, PG_INT8, NUMBERS * n_records);
        for (size_t i = 0; i < n_records; i++) {
                const struct stoke_record *r = &records[i];

                p = put_number(p, (int64_t)r->seq);
                p = put_number(p, r->revision);
                p = put_number(p, r->kind);
                p = put_number(p, r->create_revision);
                p = put_number(p, r->version);
                p = put_number(p, r->lease);
                p = put_number(p, (int64_t)r->hash);
        }
        ret->params[1] = (struct pg_param){PG_BYTEA_ARRAY, p, keys};
        p = put_array(p, PG_BYTEA, n_records);
        for (size_t i = 0; i < n_records; i++)
                p = put_bytes(p, records[i].key, records[i].key_size);
        ret->params[2] = (struct pg_param){PG_BYTEA_ARRAY, p, values};
        p = put_array(p, PG_BYTEA, n_records);
        for (size_t i = 0; i < n_records; i++)
                p = put_bytes(p, records[i].value, records[i].value_size);
        ret->params[3] = (struct pg_param){ret->one_origin ? PG_BYTEA : PG_BYTEA_ARRAY, p, origins};
        if (ret->one_origin) {
                sql_origin_pack(&records[0].origin, p);
                return 0;
        }
        p = put_array(p, PG_BYTEA, n_records);
        for (size_t i = 0; i < n_records; i++) {
                sql_origin_pack(&records[i].origin, origin);
                p = put_bytes(p, origin, sizeof(origin));
        }
        return 0;
}

char *pg_rows_insert(const struct pg_rows *rows, const char *table) {
        char *text;

        if (asprintf(&text,
                    "INSERT INTO %s (seq, revision, kind, create_revision, version, lease, hash, origin, \"key\", value) "
                    "SELECT ($1)[7*i-6], ($1)[7*i-5], ($1)[7*i-4], ($1)[7*i-3], ($1)[7*i-2], ($1)[7*i-1], ($1)[7*i], "
                    "%s, k, v FROM unnest($2, $3%s) WITH ORDINALITY AS r(k, v%s, i)",
                    table, rows->one_origin ? "$4" : "o", rows->one_origin ? "" : ", $4",
                    rows->one_origin ? "" : ", o") < 0)
                return NULL;
        return text;
}

/* ---- append */

/*
 * What an answer that is an error means for an append. The statement is a transaction, so an error that leaves the session idle has rolled
 * it back. That is believed only of errors that the statement itself runs into; a shutdown, a crash, a timeout, a pooler's own words, or
 * anything not known here may have come after the commit.
 */
static int append_failed(struct pg *pg, const PGresult *res, struct stoke_call *call) {
        static const struct {
                const char *state;
                int result; /* 0: as pg_fail() has it */
        } known[] = {
                {"23505", STOKE_STALE}, /* somebody else has taken the first seq */
                {"40001", STOKE_STALE}, /* rolled back for a rival */
                {"40P01", STOKE_STALE},
                {"55P03", STOKE_STALE},
                {"42P01", STOKE_MISSING},
                {"3F000", STOKE_MISSING},
                {"26000", STOKE_STALE}, /* no such prepared statement: nothing was run */
                {"25006", 0},           /* read-only: before anything was written */
                {"22012", 0},
                {"42501", 0}, /* no permission */
                {"53100", 0}, /* no room for the row; no room for the log crashes the server instead */
                {"53200", 0},
                {"53400", 0},
                {"XX001", 0},
                {"XX002", 0},
        };
        bool idle = PQstatus(pg->conn) == CONNECTION_OK && PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
        int r = pg_fail(pg, res, call);

        if (pg_is(res, "26000"))
                pg_prepared_failed(pg);
        for (size_t i = 0; idle && i < sizeof(known) / sizeof(known[0]); i++)
                if (pg_is(res, known[i].state))
                        return known[i].result ? known[i].result : r < 0 ? r : -EIO;
        pg->doomed = true;
        return STOKE_UNKNOWN;
}

/*
 * The settings hold for the transaction, which is this statement. A server-wide synchronous_commit=off would acknowledge what a crash loses; a
 * snapshot older than the wait for the table's lock would slip behind a compaction's fence; and warnings that nobody sends are about
 * commits that were not replicated. Free it.
 */
static char *append_text(const void *userdata, const char *table) {
        const struct pg_rows *rows = userdata;
        char *insert = pg_rows_insert(rows, table), *text = NULL;

        if (!insert ||
                asprintf(&text,
                        "%s WHERE (SELECT seq = $5 AND origin = $6 FROM %s ORDER BY seq DESC LIMIT 1) "
                        "AND (SELECT 1 / (current_setting('transaction_isolation') = 'read committed')::int "
                        "+ CASE WHEN current_setting('synchronous_commit') = 'off' "
                        "THEN length(set_config('synchronous_commit', 'on', true)) ELSE 0 END "
                        "+ CASE WHEN current_setting('client_min_messages') = 'error' "
                        "THEN length(set_config('client_min_messages', 'warning', true)) ELSE 0 END) > 0",
                        insert, table) < 0)
                text = NULL;
        free(insert);
        return text;
}

/* Sends it, once. */
static int append_send(struct stoke_session *session, struct pg *pg, const struct pg_rows *rows, const char *table,
        const struct pg_param *params, PGresult **ret, struct stoke_call *call) {
        char name[PG_PREPARED_NAME] = "", *text;
        int r = 0;

        *ret = NULL;
        if (rows->one_origin)
                r = pg_prepared_get(session, pg, PG_PREPARED_APPEND, table,
                        "int8[], bytea[], bytea[], bytea, int8, bytea", append_text, rows, call, name);
        if (r < 0)
                return r;
        if (*name) {
                r = pg_ask_prepared(session, pg, call, name, params, 6, ret);
        } else {
                text = append_text(rows, table);
                if (!text)
                        return -ENOMEM;
                r = pg_ask(session, pg, call, text, params, 6, ret);
                free(text);
        }
        return r < 0 ? STOKE_UNKNOWN : 0; /* given up, or cut off, after the first byte */
}

static int append_rows(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        struct stoke_append *append, struct stoke_call *call) {
        struct pg_number seq = pg_number((int64_t)append->expected.seq);
        uint8_t origin[SQL_ORIGIN_SIZE];
        struct pg_param params[6];
        char table[PG_TABLE_TEXT];
        struct pg_rows rows;
        PGresult *res = NULL;
        uint64_t n;
        int r;

        r = pg_rows_build(append->records, append->n_records, &rows);
        if (r < 0)
                return r;
        pg_table(keyspace, false, table);
        sql_origin_pack(&append->expected.origin, origin);
        memcpy(params, rows.params, sizeof(rows.params));
        params[4] = (struct pg_param){PG_INT8, seq.bytes, sizeof(seq.bytes)};
        params[5] = (struct pg_param){PG_BYTEA, origin, sizeof(origin)};
        r = append_send(session, pg, &rows, table, params, &res, call);
        if (r == 0) {
                if (PQresultStatus(res) != PGRES_COMMAND_OK)
                        r = pg_missing(session, pg, table, append_failed(pg, res, call), call);
                else if (pg->doubtful)
                        r = sql_fail(call, STOKE_UNKNOWN, "the commit may not have been replicated");
                else if ((n = strtoull(PQcmdTuples(res), NULL, 10)) == 0)
                        r = STOKE_STALE;
                else if (n != append->n_records)
                        r = sql_fail(call, STOKE_UNKNOWN,
                                "%llu of %zu records were inserted: is there a rule or a trigger?",
                                (unsigned long long)n, append->n_records);
        }
        PQclear(res);
        free(rows.buffer);
        return r;
}

int pg_append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
        struct stoke_call *call) {
        struct pg *pg = NULL;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        r = sql_records_check(append->records, append->n_records, append->expected.seq, &pg_limits, call);
        if (r == 0)
                r = pg_place(session, keyspace, call, &pg);
        if (r == 0)
                r = append_rows(session, pg, keyspace, append, call);
        pg_release(session, pg);
        if (r == 0)
                pg_notify_later(session->store, keyspace->name);
        return pg_end(session, r);
}

/* ---- compact */

/* Whoever holds the table's lock has begun an append before the mark was durable, perhaps; whoever asks for it later takes a snapshot that
 * is later still. */
static int fence(struct stoke_session *session, struct pg *pg, const char *table, struct stoke_call *call) {
        PGresult *res = NULL;
        char *sql;
        int r;

        if (asprintf(&sql, "SET LOCAL lock_timeout = '1s'; LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE", table) < 0)
                return -ENOMEM;
        r = pg_ask(session, pg, call, sql, NULL, 0, &res);
        if (r == 0 && pg_is(res, "55P03"))
                r = sql_fail(call, -ETIMEDOUT, "an append begun earlier holds on");
        else if (r == 0 && PQresultStatus(res) != PGRES_COMMAND_OK)
                r = pg_fail(pg, res, call);
        PQclear(res);
        free(sql);
        return r;
}

static int delete_rows(struct stoke_session *session, struct pg *pg, const char *table,
        const struct stoke_compact *compact, struct stoke_call *call) {
        struct pg_number mark = pg_number((int64_t)compact->mark);
        uint8_t *seqs = malloc(ARRAY_HEADER + DELETE_STEP * 12), *p;
        char *sql = NULL;
        int r = 0;

        if (!seqs ||
                asprintf(&sql,
                        "DELETE FROM %s WHERE seq = ANY ($1) AND seq < $2 AND seq < (SELECT max(seq) FROM %s) "
                        "AND (SELECT CASE WHEN current_setting('synchronous_commit') = 'off' "
                        "THEN set_config('synchronous_commit', 'on', true) ELSE 'on' END) IS NOT NULL",
                        table, table) < 0)
                r = -ENOMEM;
        for (size_t i = 0; r == 0 && i < compact->n_seqs;) {
                size_t n = compact->n_seqs - i < DELETE_STEP ? compact->n_seqs - i : DELETE_STEP;
                struct pg_param params[2] = {{.type = PG_INT8_ARRAY, .data = seqs}, {PG_INT8, mark.bytes, 8}};

                p = put_array(seqs, PG_INT8, n);
                for (size_t k = 0; k < n; k++)
                        p = put_number(p, (int64_t)compact->seqs[i + k]);
                params[0].size = (size_t)(p - seqs);
                r = pg_query(session, pg, call, sql, params, 2, NULL);
                i += n;
        }
        free(sql);
        free(seqs);
        return r;
}

int pg_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call) {
        char table[PG_TABLE_TEXT];
        struct pg *pg = NULL;
        int r;

        for (size_t i = 0; i < compact->n_seqs; i++)
                if (compact->seqs[i] >= compact->mark || (i && compact->seqs[i] <= compact->seqs[i - 1]))
                        return sql_fail(call, -EINVAL, "record %llu may not be deleted below mark %llu",
                                (unsigned long long)compact->seqs[i], (unsigned long long)compact->mark);
        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        pg_table(keyspace, false, table);
        r = pg_place(session, keyspace, call, &pg);
        if (r == 0 && compact->first)
                r = fence(session, pg, table, call);
        if (r == 0)
                r = delete_rows(session, pg, table, compact, call);
        r = pg_missing(session, pg, table, r, call);
        pg_release(session, pg);
        return pg_end(session, r);
}
