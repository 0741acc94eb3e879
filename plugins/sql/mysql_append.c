/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the log in MySQL: one statement, one packet, one commit a batch. The statement inserts where the last row is the expected end, and
 * the primary key stops whoever reads the same end at the same time. A batch that no packet holds goes as several statements in one
 * transaction, whose first one guards and, by its rows, locks.
 *
 * What may be said of a failure: the server's answer to a single statement with autocommit tells of rows and locks before the commit, so a
 * duplicate, a deadlock, a lock waited for in vain are certain; what comes from the commit, from a connection, from a kill is not.
 * Galera certifies at the commit: 1213 there means that the cluster refused it. Runs on the host's session threads.
 */
#include <errno.h>
#include <string.h>

#include "mysql_driver.h"

/* ---- what an error says of the batch */

static int unknown(struct stoke_session *session, struct stoke_call *call) {
        unsigned error = session->error;

        session->broken = true;
        if (atomic_load(&session->interrupted))
                return sql_fail(call, STOKE_UNKNOWN, "interrupted after the batch was sent");
        if (atomic_load(&session->expired))
                return sql_fail(call, STOKE_UNKNOWN, "the deadline passed after the batch was sent");
        return sql_fail(call, STOKE_UNKNOWN, "%s (error %u, SQLSTATE %s)", mysql_error(session->mysql), error,
                mysql_sqlstate(session->mysql));
}

/* The statement that carries the batch has failed, outside of a commit of its own. */
static int failed(struct stoke_session *session, struct stoke_call *call) {
        int r = my_fail(session, call);

        switch (session->error) {
        case MY_ER_DUP_ENTRY:         /* a rival was faster */
        case MY_ER_LOCK_DEADLOCK:     /* rolled back as a whole; Galera: not certified */
        case MY_ER_LOCK_WAIT_TIMEOUT: /* the statement was rolled back, which is all there was */
        case 1020:                    /* read from another state than it would change */
                return STOKE_STALE;
        case MY_ER_NO_SUCH_TABLE:
        case MY_ER_BAD_DB:
                return STOKE_MISSING;
        case MY_ER_DB_ACCESS_DENIED: /* not begun */
        case MY_ER_TABLEACCESS_DENIED:
        case 1143:
        case 1226:
        case 1227:
        case 1290: /* looked at before, and rolled back where looked at in the commit */
        case 1792:
        case 1836:
        case 1874:
        case 1021: /* no room for a row: what was written of the statement is undone */
        case 1114:
        case 1037:
        case 1038:
                return r;
        case 1064: /* not understood; not possible with this format of the binary log */
        case 1598:
        case 1665:
                return sql_fail(call, -EINVAL, "%s (error %u)", mysql_error(session->mysql), session->error);
        case 1118: /* above a tenth of the redo log */
        case 1153: /* refused as a packet */
        case 1197: /* above the cache of the binary log */
                return sql_fail(call, -EMSGSIZE, "%s (error %u)", mysql_error(session->mysql), session->error);
        default: /* 1047 among them: what a node did before it lost its cluster is not known */
                return unknown(session, call);
        }
}

/* ---- the statements */

static void add_table(struct my_text *text, const struct my_place *place) {
        my_text_table(text, place->database, place->table);
}

static void begin_text(struct stoke_session *session, const struct my_place *place, bool guarded) {
        struct my_text *text = &session->text;

        my_text_reset(text);
        my_text_add(text, "INSERT INTO ");
        add_table(text, place);
        my_text_add(text, " (" MY_COLUMNS ") ");
        if (guarded)
                my_text_add(text, "WITH v (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9) AS (VALUES ");
        else
                my_text_add(text, "VALUES ");
}

static void end_text(struct stoke_session *session, const struct my_place *place, const struct stoke_end *expected) {
        struct my_text *text = &session->text;
        uint8_t origin[SQL_ORIGIN_SIZE];

        sql_origin_pack(&expected->origin, origin);
        my_text_add(text, ") SELECT v.* FROM (SELECT seq, origin FROM ");
        add_table(text, place);
        my_text_format(text, " ORDER BY seq DESC LIMIT 1) e JOIN v WHERE e.seq = %llu AND e.origin = ",
                (unsigned long long)expected->seq);
        my_text_hex(text, origin, sizeof(origin));
        /* A server that was demoted takes nothing more from us, though our account might. */
        my_text_add(text, " AND " MY_WRITABLE);
}

/* The first rows that fit; how many. At least one: a record fits, or is above the limit that my_server_limits gave. */
static size_t add_rows(struct stoke_session *session, const struct stoke_record *records, size_t n, bool guarded) {
        struct my_text *text = &session->text;
        size_t room = my_packet_room(session) - 512; /* for what stands behind the rows */
        const char *row = guarded && !session->server.mariadb ? "ROW" : "";
        size_t i;

        for (i = 0; i < n; i++) {
                size_t before = text->size;

                if (i > 0)
                        my_text_add(text, ",");
                my_text_add(text, row);
                my_row_text(session, &records[i]);
                if (i > 0 && text->size > room) {
                        text->size = before;
                        break;
                }
        }
        return i;
}

/* 0; STOKE_STALE: no row was the expected end. */
static int guarded_outcome(struct stoke_session *session, size_t n_rows, struct stoke_call *call) {
        uint64_t n = mysql_affected_rows(session->mysql);

        if (n == n_rows)
                return 0;
        if (n == 0)
                return STOKE_STALE;
        session->broken = true;
        return sql_fail(call, STOKE_UNKNOWN, "%llu rows of %zu were written", (unsigned long long)n, n_rows);
}

/* Of a packet, without what stands before and behind a single row; every byte of which may have to be escaped. */
static uint64_t record_max(const struct stoke_session *session) {
        struct stoke_record none = {};
        uint64_t room = my_packet_room(session), around = 1024 + my_row_bytes(&none), most;

        most = room > around + 512 ? (room - around) / 2 : 256;
        return most < my_limits.record_bytes ? most : my_limits.record_bytes;
}

static int check_records(
        const struct stoke_session *session, const struct stoke_append *append, struct stoke_call *call) {
        uint64_t most = record_max(session);

        for (size_t i = 0; i < append->n_records; i++) {
                uint64_t size = (uint64_t)append->records[i].key_size + append->records[i].value_size;

                if (size > most)
                        return sql_fail(call, -EMSGSIZE,
                                "a record of %llu bytes is above the %llu that the server's max_allowed_packet allows",
                                (unsigned long long)size, (unsigned long long)most);
        }
        return 0;
}

/* 0; -errno: the statement must not be sent. */
static int sendable(struct stoke_session *session, struct stoke_call *call) {
        if (session->text.failed)
                return my_no_memory(call);
        if (session->text.size > my_packet_room(session))
                return sql_fail(call, -EMSGSIZE, "a record is larger than the server's max_allowed_packet lets it be");
        return my_call_over(session, call);
}

/* ---- a batch in several statements. Nothing of it can land before COMMIT is sent. */

static int roll_back(struct stoke_session *session, struct stoke_call *call, int r) {
        struct stoke_call quiet = *call;
        char reason[256];

        quiet.reason = reason;
        quiet.reason_size = sizeof(reason);
        if (!session->broken && my_execute(session, "ROLLBACK", &quiet) < 0)
                session->broken = true; /* the server rolls back when the connection ends */
        return r;
}

static int failed_before_commit(struct stoke_session *session, struct stoke_call *call) {
        int r = failed(session, call);

        if (r == STOKE_UNKNOWN && !atomic_load(&session->interrupted) && !atomic_load(&session->expired))
                r = sql_fail(call, -ECONNRESET, "%s (error %u), before the batch was committed",
                        mysql_error(session->mysql), session->error);
        return roll_back(session, call, r);
}

/* session->text has the first rows already, n_first of them. */
static int append_in_parts(struct stoke_session *session, const struct my_place *place,
        const struct stoke_append *append, size_t n_first, struct stoke_call *call) {
        int r;

        end_text(session, place, &append->expected);
        r = sendable(session, call);
        if (r < 0)
                return r;
        if (mysql_real_query(session->mysql, "START TRANSACTION", 17) != 0)
                return failed_before_commit(session, call);
        if (mysql_real_query(session->mysql, session->text.data, session->text.size) != 0)
                return failed_before_commit(session, call);
        r = guarded_outcome(session, n_first, call);
        if (r != 0)
                return roll_back(session, call, r);
        for (size_t done = n_first; done < append->n_records;) {
                begin_text(session, place, false);
                done += add_rows(session, append->records + done, append->n_records - done, false);
                r = sendable(session, call);
                if (r < 0)
                        return roll_back(session, call, r == -EMSGSIZE || r == -ENOMEM ? r : STOKE_UNKNOWN);
                if (mysql_real_query(session->mysql, session->text.data, session->text.size) != 0)
                        return failed_before_commit(session, call);
        }
        if (mysql_real_query(session->mysql, "COMMIT", 6) == 0)
                return 0;
        session->error = mysql_errno(session->mysql);
        if (session->error == MY_ER_LOCK_DEADLOCK)
                return roll_back(session, call, STOKE_STALE);
        return unknown(session, call);
}

int my_append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
        struct stoke_call *call) {
        struct my_place place;
        size_t n;
        int r;

        r = my_records_check(append->records, append->n_records, append->expected.seq, call);
        if (r == 0)
                r = my_place(session->store, keyspace, NULL, &place, call);
        if (r == 0)
                r = my_begin(session, false, call);
        if (r < 0)
                return r;
        r = check_records(session, append, call);
        if (r < 0)
                return my_end(session, r);
        my_news_announce(session->store);
        begin_text(session, &place, true);
        n = add_rows(session, append->records, append->n_records, true);
        if (n < append->n_records) {
                r = append_in_parts(session, &place, append, n, call);
        } else {
                end_text(session, &place, &append->expected);
                r = sendable(session, call);
                if (r < 0)
                        return my_end(session, r);
                /* From here on it may have happened. */
                if (mysql_real_query(session->mysql, session->text.data, session->text.size) != 0)
                        r = failed(session, call);
                else
                        r = guarded_outcome(session, n, call);
        }
        r = my_end(session, r);
        if (r == 0) {
                const struct stoke_record *last = &append->records[append->n_records - 1];

                my_set_settled(session->store, keyspace, &(struct stoke_end){last->seq, last->origin});
                my_news_grown(session->store, keyspace->name);
        }
        return r;
}

int my_server_limits(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_limits *ret) {
        int r;

        (void)keyspace;
        r = my_begin(session, false, call);
        if (r < 0)
                return r;
        *ret = my_limits;
        ret->record_bytes = record_max(session);
        return my_end(session, 0);
}
