/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the log in PostgreSQL: rows stream through COPY, one in memory at a time, in statements of so many rows that no snapshot is held
 * for long. Each question makes sure in itself that it is not a standby that answers: behind a pooler or an address that moves, a
 * connection may lead elsewhere than where it was dialled. Runs on the host's session threads.
 */
#include "postgresql.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOAD_ROWS 20000
#define ENDS_TABLES 50

/* ---- load */

struct loading {
        struct sql_loading state;
        const struct stoke_end *after;
        bool begun; /* the record at after->seq was looked at */
        bool with_values;
        uint64_t n; /* rows of this statement */
        struct stoke_call *call;
        int (*visit)(void *userdata, const struct stoke_record *record);
        void *userdata;
};

static int on_row(void *userdata, const struct pg_field *f) {
        struct loading *l = userdata;
        struct stoke_record record = {.seq = (uint64_t)pg_field_number(&f[SQL_SEQ]),
                .revision = pg_field_number(&f[SQL_REVISION]),
                .kind = (uint8_t)pg_field_number(&f[SQL_KIND]),
                .create_revision = pg_field_number(&f[SQL_CREATE_REVISION]),
                .version = pg_field_number(&f[SQL_VERSION]),
                .lease = pg_field_number(&f[SQL_LEASE]),
                .hash = (uint64_t)pg_field_number(&f[SQL_HASH]),
                .key = f[SQL_KEY].data,
                .key_size = f[SQL_KEY].size};
        int r;

        l->n++;
        if (!sql_origin_unpack(f[SQL_ORIGIN].data, f[SQL_ORIGIN].size, &record.origin))
                return sql_fail(l->call, -EUCLEAN, "record %" PRIu64 " has no origin", record.seq);
        if (!l->begun) {
                l->begun = true;
                r = sql_loading_begin(&l->state, l->after, record.seq == l->after->seq ? &record.origin : NULL);
                if (r != 0 || record.seq == l->after->seq)
                        return r;
        }
        if (l->with_values) {
                record.value = f[SQL_VALUE].data;
                record.value_size = f[SQL_VALUE].size;
        } else {
                record.value_size = (size_t)pg_field_number(&f[SQL_VALUE]);
        }
        r = sql_loading_next(&l->state, &record);
        if (r != 0)
                return r;
        return l->visit(l->userdata, &record) ? STOKE_STOPPED : 0;
}

/* A statement's rows are of one state of the log, so the last one ends where an append ended: the end of a full one need not. */
static int load(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace, struct loading *l,
        struct stoke_call *call) {
        char table[PG_TABLE_TEXT], *sql;
        int r;

        pg_table(keyspace, false, table);
        do {
                uint64_t from = l->state.end.seq + l->begun;

                if (sql_expired(call))
                        return sql_fail(call, -ETIMEDOUT, "the deadline has passed while loading");
                if (asprintf(&sql,
                            "COPY (SELECT seq, revision, kind, create_revision, version, lease, origin, hash, \"key\", %s "
                            "FROM %s WHERE seq >= %" PRIu64 " AND " PG_ON_PRIMARY " ORDER BY seq LIMIT %d) "
                            "TO STDOUT (FORMAT binary)",
                            l->with_values ? "value" : "octet_length(value)::int8", table, from, LOAD_ROWS) < 0)
                        return -ENOMEM;
                l->n = 0;
                r = pg_copy(session, pg, call, sql, SQL_N_COLUMNS, on_row, l);
                free(sql);
        } while (r == 0 && l->n == LOAD_ROWS);
        if (r == 0 && !l->begun)
                r = STOKE_COMPACTED; /* beyond the end */
        return pg_missing(session, pg, table, r, call);
}

int pg_load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret_end) {
        struct loading l = {.state.end = *after,
                .after = after,
                .begun = after->seq == 0,
                .with_values = with_values,
                .call = call,
                .visit = visit,
                .userdata = userdata};
        struct pg *pg = NULL;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        if (after->seq > INT64_MAX - 1)
                return pg_end(session, STOKE_COMPACTED);
        r = pg_place(session, keyspace, call, &pg);
        if (r == 0)
                r = load(session, pg, keyspace, &l, call);
        if (r == 0)
                *ret_end = l.state.end;
        pg_release(session, pg);
        return pg_end(session, r);
}

/* ---- a part of it */

int pg_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
        struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record), void *userdata) {
        struct loading l = {.state.end.seq = read->after,
                .begun = true,
                .with_values = read->with_values,
                .call = call,
                .visit = visit,
                .userdata = userdata};
        char table[PG_TABLE_TEXT], id[SQL_UUID_TEXT], incarnation[SQL_UUID_TEXT], only[320] = "", *sql = NULL;
        struct pg *pg = NULL;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        pg_table(keyspace, read->installation != NULL, table);
        if (read->installation) { /* the table does not name it; the keyspace's name was checked */
                sql_uuid_text(read->installation, id);
                sql_uuid_text(keyspace->incarnation, incarnation);
                snprintf(only, sizeof(only),
                        "EXISTS (SELECT FROM stokehold.keyspaces WHERE incarnation = '%s' AND name = '%s' AND state = %d "
                        "AND install_id = '%s') AND ",
                        incarnation, keyspace->name, SQL_INSTALLING, id);
        }
        /* The end is looked at outside: with both inside, a table without statistics is taken to have few rows between them, all of which are then
         * read and sorted for each part. */
        r = asprintf(&sql,
                    "COPY (SELECT seq, revision, kind, create_revision, version, lease, origin, hash, \"key\", %s FROM "
                    "(SELECT * FROM %s WHERE seq > %" PRIu64 " ORDER BY seq LIMIT %" PRIu32 ") AS part "
                    "WHERE %sseq <= %" PRIu64 " AND " PG_ON_PRIMARY " ORDER BY seq) TO STDOUT (FORMAT binary)",
                    l.with_values ? "value" : "octet_length(value)::int8", table,
                    read->after < INT64_MAX ? read->after : INT64_MAX, read->n_most, only,
                    read->upto < INT64_MAX ? read->upto : INT64_MAX) > 0
                ? pg_place(session, keyspace, call, &pg)
                : -ENOMEM;
        if (r == 0)
                r = pg_missing(session, pg, table, pg_copy(session, pg, call, sql, SQL_N_COLUMNS, on_row, &l), call);
        free(sql);
        pg_release(session, pg);
        return pg_end(session, r);
}

/* ---- values */

struct valuing {
        const uint64_t *seqs;
        size_t n_seqs, at;
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size);
        void *userdata;
};

/* Those before `seq` are not there. */
static int tell_missing(struct valuing *v, uint64_t seq) {
        for (; v->at < v->n_seqs && v->seqs[v->at] < seq; v->at++)
                if (v->visit(v->userdata, v->seqs[v->at], NULL, 0))
                        return STOKE_STOPPED;
        return 0;
}

static int on_value(void *userdata, const struct pg_field *f) {
        struct valuing *v = userdata;
        uint64_t seq = (uint64_t)pg_field_number(&f[0]);
        int r = tell_missing(v, seq);

        if (r == 0 && v->at < v->n_seqs && v->seqs[v->at] == seq) {
                v->at++;
                r = v->visit(v->userdata, seq, f[1].data ? (const void *)f[1].data : "", f[1].size) ? STOKE_STOPPED : 0;
        }
        return r;
}

int pg_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs, size_t n_seqs,
        struct stoke_call *call, int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size),
        void *userdata) {
        struct valuing v = {.seqs = seqs, .n_seqs = n_seqs, .visit = visit, .userdata = userdata};
        char table[PG_TABLE_TEXT], *sql = NULL;
        struct pg *pg = NULL;
        size_t size = 0;
        FILE *f;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        pg_table(keyspace, false, table);
        f = open_memstream(&sql, &size);
        r = f ? pg_place(session, keyspace, call, &pg) : -ENOMEM;
        if (f) {
                fprintf(f, "COPY (SELECT seq, value FROM %s WHERE seq = ANY ('{", table);
                for (size_t i = 0; i < n_seqs; i++)
                        fprintf(f, "%s%" PRIu64, i ? "," : "", seqs[i]);
                fputs("}'::int8[]) AND " PG_ON_PRIMARY " ORDER BY seq) TO STDOUT (FORMAT binary)", f);
                if (fclose(f) != 0 && r == 0)
                        r = -ENOMEM;
        }
        if (r == 0)
                r = pg_missing(session, pg, table, pg_copy(session, pg, call, sql, 2, on_value, &v), call);
        if (r == 0)
                r = tell_missing(&v, UINT64_MAX);
        free(sql);
        pg_release(session, pg);
        return pg_end(session, r);
}

/* ---- ends */

static char *end_text(const void *userdata, const char *table) {
        char *text;

        (void)userdata;
        if (asprintf(&text, "SELECT $1 AS i, seq, origin FROM %s WHERE " PG_ON_PRIMARY " ORDER BY seq DESC LIMIT 1",
                    table) < 0)
                return NULL;
        return text;
}

static char *ends_text(const struct stoke_keyspace *keyspaces, const size_t *indices, size_t n) {
        char table[PG_TABLE_TEXT], *text = NULL;
        size_t size = 0;
        FILE *f;

        f = open_memstream(&text, &size);
        if (!f)
                return NULL;
        fputs("SELECT * FROM (", f);
        for (size_t i = 0; i < n; i++) {
                pg_table(&keyspaces[indices[i]], false, table);
                fprintf(f, "%s(SELECT %zu + $1 AS i, seq, origin FROM %s ORDER BY seq DESC LIMIT 1)",
                        i ? " UNION ALL " : "", i, table);
        }
        fputs(") AS e WHERE " PG_ON_PRIMARY, f);
        if (fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
}

/* One question about n keyspaces that are in one database. A table that is missing fails it as a whole: STOKE_MISSING. */
static int ask_ends(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspaces,
        const size_t *indices, size_t n, struct stoke_end *ends, struct stoke_call *call) {
        const struct pg_param zero = {PG_INT8, (const uint8_t[8]){}, 8}; /* for an answer in binary */
        char name[PG_PREPARED_NAME] = "", table[PG_TABLE_TEXT], *sql;
        PGresult *res = NULL;
        int r = 0;

        pg_table(&keyspaces[indices[0]], false, table);
        if (n == 1)
                r = pg_prepared_get(session, pg, PG_PREPARED_END, table, "int8", end_text, NULL, call, name);
        if (r == 0 && *name) {
                r = pg_ask_prepared(session, pg, call, name, &zero, 1, &res);
                if (r == 0 && PQresultStatus(res) != PGRES_TUPLES_OK) {
                        if (pg_is(res, "26000"))
                                pg_prepared_failed(pg);
                        r = pg_fail(pg, res, call);
                }
        } else if (r == 0) {
                sql = n == 1 ? end_text(NULL, table) : ends_text(keyspaces, indices, n);
                r = sql ? pg_query(session, pg, call, sql, &zero, 1, &res) : -ENOMEM;
                free(sql);
        }
        for (size_t i = 0; i < n; i++)
                ends[indices[i]].seq = 0;
        for (int row = 0; r == 0 && row < PQntuples(res); row++) {
                int64_t i = pg_result_number(res, row, 0);
                struct stoke_end *end;

                if (i < 0 || (size_t)i >= n) {
                        r = sql_fail(call, -EPROTO, "an answer to a question that was not asked");
                        break;
                }
                end = &ends[indices[i]];
                end->seq = (uint64_t)pg_result_number(res, row, 1);
                if (!sql_origin_unpack(PQgetvalue(res, row, 2), (size_t)PQgetlength(res, row, 2), &end->origin))
                        r = sql_fail(call, -EUCLEAN, "record %" PRIu64 " of %s has no origin", end->seq,
                                keyspaces[indices[i]].name);
        }
        PQclear(res);
        return r;
}

/* Leaves in indices those whose tables are there. */
static int find_tables(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspaces,
        size_t *indices, size_t *n, struct stoke_call *call) {
        char name[SQL_IDENTIFIER_MAX + 1], *sql = NULL;
        bool there[ENDS_TABLES] = {};
        PGresult *res = NULL;
        size_t size = 0, kept = 0;
        FILE *f;
        int r;

        f = open_memstream(&sql, &size);
        if (!f)
                return -ENOMEM;
        /* Our own names have no quotes in them. */
        fputs("SELECT v.i FROM (VALUES ", f);
        for (size_t i = 0; i < *n; i++) {
                sql_server_table(&keyspaces[indices[i]], "", PG_IDENTIFIER_MAX, name);
                fprintf(f, "%s(%zu, '%s')", i ? ", " : "", i, name);
        }
        fputs(") AS v(i, t) JOIN pg_class c ON c.relname = v.t AND c.relkind IN ('r', 'p') "
              "JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'stokehold' WHERE " PG_ON_PRIMARY,
                f);
        r = fclose(f) == 0 ? pg_query(session, pg, call, sql, NULL, 0, &res) : -ENOMEM;
        free(sql);
        for (int row = 0; r == 0 && row < PQntuples(res); row++) {
                int i = atoi(PQgetvalue(res, row, 0));

                if (i >= 0 && (size_t)i < *n)
                        there[i] = true;
        }
        PQclear(res);
        for (size_t i = 0; r == 0 && i < *n; i++)
                if (there[i])
                        indices[kept++] = indices[i];
        if (r == 0)
                *n = kept;
        return r;
}

/* The ends of at most ENDS_TABLES keyspaces at one place; seq 0: there is none. */
static int place_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t *indices, size_t n,
        struct stoke_end *ends, struct stoke_call *call) {
        struct pg *pg = NULL;
        int r;

        r = pg_place(session, &keyspaces[indices[0]], call, &pg);
        if (r == STOKE_MISSING) /* with dedicated credentials, where a place has one */
                return 0;
        for (unsigned tries = 0; r == 0 && n > 0; tries++) {
                r = ask_ends(session, pg, keyspaces, indices, n, ends, call);
                if (r != STOKE_MISSING)
                        break;
                /* Some are not there. While keyspaces come and go, this may meet another one that has just gone. */
                if (tries == 8)
                        r = sql_fail(call, -EBUSY, "keyspaces come and go faster than they can be asked for");
                else
                        r = find_tables(session, pg, keyspaces, indices, &n, call);
        }
        pg_release(session, pg);
        return r;
}

int pg_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata) {
        size_t step = session->store->dedicated ? 1 : ENDS_TABLES, indices[ENDS_TABLES], n = 0;
        struct stoke_end *ends;
        int r;

        r = pg_begin(session, NULL, call);
        if (r < 0)
                return r;
        ends = calloc(n_keyspaces ? n_keyspaces : 1, sizeof(*ends));
        if (!ends)
                r = -ENOMEM;
        for (size_t i = 0; r == 0 && i < n_keyspaces; i++) {
                if (sql_name_valid(keyspaces[i].name, strlen(keyspaces[i].name)))
                        indices[n++] = i;
                if (n == step || (n > 0 && i + 1 == n_keyspaces)) {
                        r = place_ends(session, keyspaces, indices, n, ends, call);
                        n = 0;
                }
        }
        for (size_t i = 0; r == 0 && i < n_keyspaces; i++)
                if (visit(userdata, i, ends[i].seq ? &ends[i] : NULL))
                        r = STOKE_STOPPED;
        free(ends);
        return pg_end(session, r);
}

/* ---- figures */

int pg_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret) {
        char table[PG_TABLE_TEXT], *sql = NULL;
        struct pg *pg = NULL;
        PGresult *res = NULL;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        pg_table(keyspace, false, table);
        /* Few are counted; for many the server's own estimate will do. */
        r = asprintf(&sql,
                    "SELECT (SELECT count(*) FROM (SELECT FROM %s LIMIT 10000) AS few), "
                    "greatest((SELECT reltuples FROM pg_class WHERE oid = '%s'::regclass), 0)::int8, "
                    "pg_total_relation_size('%s'::regclass)",
                    table, table, table) > 0
                ? pg_place(session, keyspace, call, &pg)
                : -ENOMEM;
        if (r == 0)
                r = pg_missing(session, pg, table, pg_query(session, pg, call, sql, NULL, 0, &res), call);
        if (r == 0) {
                uint64_t counted = strtoull(PQgetvalue(res, 0, 0), NULL, 10),
                         estimated = strtoull(PQgetvalue(res, 0, 1), NULL, 10);

                ret->n_records = counted < 10000 || estimated < counted ? counted : estimated;
                ret->bytes = strtoull(PQgetvalue(res, 0, 2), NULL, 10);
        }
        PQclear(res);
        free(sql);
        pg_release(session, pg);
        return pg_end(session, r);
}

int pg_server_limits(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_limits *ret) {
        struct pg *pg = NULL;
        PGresult *res = NULL;
        int64_t kib;
        int r;

        r = pg_begin(session, keyspace, call);
        if (r < 0)
                return r;
        *ret = pg_limits;
        r = pg_place(session, keyspace, call, &pg);
        if (r == STOKE_MISSING) /* to be made, on the same server */
                r = pg_centre(session, call, &pg);
        /* A batch that is larger than work_mem goes through a temporary file. */
        if (r == 0)
                r = pg_query(session, pg, call, "SELECT setting FROM pg_settings WHERE name = 'temp_file_limit'", NULL,
                        0, &res);
        if (r == 0 && PQntuples(res) == 1) {
                kib = atoll(PQgetvalue(res, 0, 0));
                if (kib >= 0 && (uint64_t)kib * 1024 / 2 < ret->batch_bytes) {
                        ret->batch_bytes = (uint64_t)kib * 1024 / 2;
                        /* One record below work_mem is always possible. */
                        if (ret->batch_bytes < (2u << 20))
                                ret->batch_bytes = 2u << 20;
                        if (ret->record_bytes > ret->batch_bytes)
                                ret->record_bytes = ret->batch_bytes;
                }
        }
        PQclear(res);
        pg_release(session, pg);
        return pg_end(session, r);
}
