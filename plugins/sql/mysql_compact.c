/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deleting dead records in MySQL. Before the first deletion of a mark, whatever append is still running must have ended: it has read the
 * log's end already, and would find the seqs that it names free again once they are deleted. A lock on the table waits for
 * all transactions that have touched it. (An append that a server has not begun to run reads the end of today; and one on another node of a
 * Galera cluster fails there, since the cluster certifies it against the deletion and against the rows that were deleted.) Runs
 * on the host's session threads.
 */
#include <errno.h>

#include "mysql_driver.h"

#define STEP 500 /* seqs a statement: rows locked, and undone should it fail, at a time */

static int fence(struct stoke_session *session, const struct my_place *place, struct stoke_call *call) {
        struct my_text *text = &session->text;
        bool locked = true;
        int r;

        my_text_reset(text);
        my_text_add(text, "LOCK TABLES ");
        my_text_table(text, place->database, place->table);
        my_text_add(text, " WRITE");
        r = my_query(session, call);
        if (r < 0 && (session->error == MY_ER_DB_ACCESS_DENIED || session->error == MY_ER_TABLEACCESS_DENIED)) {
                /* A tenant's own user has no LOCK TABLES, as Kamaji grants it. To alter the table waits for the same. */
                locked = false;
                my_text_reset(text);
                my_text_add(text, "ALTER TABLE ");
                my_text_table(text, place->database, place->table);
                my_text_add(text, " COMMENT = ''");
                r = my_query(session, call);
        }
        if (r == -EBUSY)
                return sql_fail(call, -ETIMEDOUT, "an append, or a reader, has held the log for a second");
        if (r == 0 && locked)
                r = my_execute(session, "UNLOCK TABLES", call);
        return r;
}

int my_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call) {
        struct my_text *text = &session->text;
        struct my_place place;
        int r;

        for (size_t i = 0; i < compact->n_seqs; i++)
                if (compact->seqs[i] >= compact->mark || (i && compact->seqs[i] <= compact->seqs[i - 1]))
                        return sql_fail(call, -EINVAL, "record %llu may not be deleted below mark %llu",
                                (unsigned long long)compact->seqs[i], (unsigned long long)compact->mark);
        r = my_place(session->store, keyspace, NULL, &place, call);
        if (r == 0)
                r = my_begin(session, false, call);
        if (r < 0)
                return r;
        if (compact->first)
                r = fence(session, &place, call);
        for (size_t done = 0; r == 0 && done < compact->n_seqs;) {
                size_t end = done + STEP < compact->n_seqs ? done + STEP : compact->n_seqs;

                my_text_reset(text);
                my_text_add(text, "DELETE FROM ");
                my_text_table(text, place.database, place.table);
                my_text_add(text, " WHERE seq IN (");
                for (size_t i = done; i < end; i++)
                        my_text_format(text, "%s%llu", i > done ? "," : "", (unsigned long long)compact->seqs[i]);
                my_text_add(text, ") AND " MY_WRITABLE);
                r = my_query(session, call);
                done = end;
        }
        if (r < 0 && my_is_missing(session))
                r = STOKE_MISSING;
        return my_end(session, r);
}
