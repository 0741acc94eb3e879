/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Installations in MySQL: a keyspace brought from elsewhere grows in a table named by the installation's id, which nothing but list tells of.
 * How an id ends is decided by the first row under it in `installations`. A commit puts the last record in, decides, and renames
 * the table to what it becomes; a rename that its daemon did not live to do is done by whoever looks next. A statement of an id that has
 * ended, running late, finds no table of its name. Runs on the host's session threads.
 */
#include <errno.h>
#include <string.h>

#include "mysql_driver.h"

/* Place, connection, and what is known. */
static int begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct my_place *place, struct sql_found *found, struct stoke_call *call) {
        bool creating;
        int r;

        r = my_place(session->store, keyspace, id, place, call);
        if (r == 0)
                r = my_begin(session, true, call);
        if (r < 0)
                return r;
        r = my_catalogue_find(session, keyspace, id, found, &creating, call);
        return r < 0 ? my_end(session, r) : 0;
}

/* The last record that is in, if any. */
static int last_in(struct stoke_session *session, const struct my_place *place, struct stoke_end *ret, bool *ret_found,
        struct stoke_call *call) {
        struct my_text *text = &session->text;
        unsigned long *sizes;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        *ret = (struct stoke_end){};
        *ret_found = false;
        my_text_reset(text);
        my_text_add(text, "SELECT seq, origin FROM ");
        my_text_table(text, place->database, place->installing);
        my_text_add(text, " ORDER BY seq DESC LIMIT 1");
        r = my_ask(session, call, &result);
        if (r < 0)
                return my_is_missing(session) ? sql_fail(call, STOKE_MISSING, "there is no such installation") : r;
        row = mysql_fetch_row(result);
        if (row) {
                sizes = mysql_fetch_lengths(result);
                *ret_found = true;
                ret->seq = my_number(row[0]);
                if (!sql_origin_unpack(row[1], sizes[1], &ret->origin))
                        r = sql_fail(call, -EUCLEAN, "record %llu is damaged", (unsigned long long)ret->seq);
        }
        mysql_free_result(result);
        return r;
}

int my_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq) {
        struct sql_found found;
        struct my_place place;
        struct stoke_end end;
        bool creating, any;
        int r, result;

        r = begin(session, keyspace, id, &place, &found, call);
        if (r < 0)
                return r;
        switch (sql_install_decide(SQL_BEGIN, &found, id, call, &result)) {
        case SQL_GO:
                break;
        case SQL_GO_ANEW:
                r = my_catalogue_add(session, keyspace, MY_INSTALLING, id, call);
                if (r == 0) /* or another's row */
                        r = my_catalogue_find(session, keyspace, id, &found, &creating, call);
                if (r == 0 && sql_install_decide(SQL_BEGIN, &found, id, call, &result) != SQL_GO)
                        r = result ? result : sql_fail(call, -EBUSY, "another daemon works on this keyspace");
                break;
        case SQL_ALREADY:
        case SQL_REFUSE:
                r = result;
                break;
        }
        if (r == 0 && session->store->dedicated)
                r = my_tenant_make(session, keyspace->incarnation, call);
        if (r == 0)
                r = my_make_log(session, place.database, place.installing, call);
        if (r == 0)
                r = last_in(session, &place, &end, &any, call);
        if (r == 0)
                *ret_seq = end.seq;
        return my_end(session, r);
}

int my_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call) {
        struct sql_found found;
        struct my_place place;
        int r, result;

        r = my_records_check(records, n_records, UINT64_MAX, call);
        if (r == 0)
                r = begin(session, keyspace, id, &place, &found, call);
        if (r < 0)
                return r;
        if (sql_install_decide(SQL_FEED, &found, id, call, &result) != SQL_GO)
                return my_end(session, result);
        r = my_rows_insert(session, place.database, place.installing, records, n_records, call);
        if (r < 0 && my_is_missing(session))
                r = sql_fail(call, STOKE_MISSING, "there is no such installation");
        return my_end(session, r);
}

/* From the decision on, what fails is unknown to the host until it asks again: whoever asks finds it decided, and completes it. */
static int decide_committed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        enum sql_ended how;
        int r;

        r = my_catalogue_end_id(session, id, SQL_COMMITTED, &how, call);
        if (r < 0)
                /* The row is not there for certain if a lock or a right kept it from being written. */
                return r == -EBUSY || r == -EACCES || r == -EROFS || r == -ENOSPC ? r : STOKE_UNKNOWN;
        if (how != SQL_COMMITTED)
                return sql_fail(call, STOKE_ENDED, "this installation was aborted");
        return my_catalogue_complete(session, keyspace, id, call) < 0 ? STOKE_UNKNOWN : 0;
}

int my_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call) {
        struct sql_found found;
        struct my_place place;
        struct stoke_end end;
        bool any;
        int r, result;

        r = my_records_check(last, 1, UINT64_MAX, call);
        if (r == 0)
                r = begin(session, keyspace, id, &place, &found, call);
        if (r < 0)
                return r;
        if (sql_install_decide(SQL_COMMIT, &found, id, call, &result) != SQL_GO)
                return my_end(session, result);
        r = last_in(session, &place, &end, &any, call);
        /* It may be in from an attempt that came no further. */
        if (r == 0 && any &&
                (end.seq > last->seq || (end.seq == last->seq && !sql_origin_equal(&end.origin, &last->origin))))
                r = sql_fail(call, -EINVAL, "the last record, %llu, is not behind %llu, which is in already",
                        (unsigned long long)last->seq, (unsigned long long)end.seq);
        if (r == 0)
                r = my_rows_insert(session, place.database, place.installing, last, 1, call);
        if (r == 0)
                r = decide_committed(session, keyspace, id, call);
        return my_end(session, r);
}

int my_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        enum sql_ended how = SQL_NOT_ENDED;
        struct sql_found found;
        struct my_place place;
        int r, result;

        r = begin(session, keyspace, id, &place, &found, call);
        if (r < 0)
                return r;
        if (sql_install_decide(SQL_ABORT, &found, id, call, &result) != SQL_GO)
                return my_end(session, result);
        /* Remembered first: from here on it cannot be committed, whatever becomes of the table. */
        r = my_catalogue_end_id(session, id, SQL_ABORTED, &how, call);
        if (r == 0 && how == SQL_COMMITTED) {
                r = my_catalogue_complete(session, keyspace, id, call);
                if (r == 0)
                        r = sql_fail(call, STOKE_ENDED, "this installation was committed");
        } else if (r == 0 && found.state == SQL_INSTALLING && found.has_id && memcmp(found.id, id, 16) == 0) {
                r = my_catalogue_clean(session, keyspace, id, call);
        }
        return my_end(session, r);
}
