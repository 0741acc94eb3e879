/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keyspaces of the MySQL driver as a whole: made, dropped, listed, measured. A log is made under another name, with its first record in it, and
 * appears by a rename; whoever comes second finds it there. Runs on the host's session threads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mysql_driver.h"

static int begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct my_place *ret, struct stoke_call *call) {
        int r = my_place(session->store, keyspace, id, ret, call);

        return r < 0 ? r : my_begin(session, true, call);
}

static void add_name(struct my_text *text, const char *database, const char *table) {
        my_text_table(text, database, table);
}

static int table_exists(
        struct stoke_session *session, const char *database, const char *table, bool *ret, struct stoke_call *call) {
        MYSQL_RES *result;
        int r;

        my_text_reset(&session->text);
        my_text_add(&session->text, "SELECT seq FROM ");
        add_name(&session->text, database, table);
        my_text_add(&session->text, " LIMIT 1");
        r = my_ask(session, call, &result);
        if (r < 0 && !my_is_missing(session))
                return r;
        *ret = r == 0;
        if (r == 0)
                mysql_free_result(result);
        return 0;
}

static int drop_table(struct stoke_session *session, const char *database, const char *table, struct stoke_call *call) {
        int r;

        my_text_reset(&session->text);
        my_text_add(&session->text, "DROP TABLE IF EXISTS ");
        add_name(&session->text, database, table);
        r = my_query(session, call);
        return r < 0 && my_is_missing(session) ? 0 : r;
}

static int set_live(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        my_catalogue_text(session, "UPDATE @.keyspaces SET ");
        my_text_format(&session->text, "state = %d WHERE state = %d AND incarnation = ", MY_LIVE, MY_CREATING);
        my_text_hex(&session->text, keyspace->incarnation, 16);
        return my_query(session, call);
}

static int make(struct stoke_session *session, const struct my_place *place, const struct stoke_record *first,
        struct stoke_call *call) {
        struct my_text *text = &session->text;
        bool exists;
        int r;

        r = my_make_log(session, place->database, place->making, call);
        if (r == 0)
                r = my_rows_insert(session, place->database, place->making, first, 1, call);
        if (r < 0 && !my_is_missing(session))
                return r;
        if (r == 0) {
                my_text_reset(text);
                my_text_add(text, "RENAME TABLE ");
                add_name(text, place->database, place->making);
                my_text_add(text, " TO ");
                add_name(text, place->database, place->table);
                r = my_query(session, call);
                if (r == 0)
                        return 0;
                if (session->error != MY_ER_TABLE_EXISTS && !my_is_missing(session))
                        return r;
        }
        /* Somebody else made the same, and was faster. */
        r = table_exists(session, place->database, place->table, &exists, call);
        if (r == 0 && !exists)
                r = sql_fail(call, -EBUSY, "another daemon makes, or drops, the keyspace");
        if (r == 0)
                r = drop_table(session, place->database, place->making, call);
        return r;
}

int my_create(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_record *first,
        struct stoke_call *call) {
        struct sql_found found;
        struct my_place place;
        bool exists = false, creating;
        int r;

        r = my_records_check(first, 1, 0, call);
        if (r == 0)
                r = begin(session, keyspace, NULL, &place, call);
        if (r < 0)
                return r;
        r = my_catalogue_find(session, keyspace, NULL, &found, &creating, call);
        if (r == 0 && found.state == SQL_ABSENT) {
                r = my_catalogue_add(session, keyspace, MY_CREATING, NULL, call);
                if (r == 0) /* or another's row */
                        r = my_catalogue_find(session, keyspace, NULL, &found, &creating, call);
        }
        if (r == 0 && found.state == SQL_INSTALLING)
                r = sql_fail(call, -EEXIST, "the keyspace is being installed");
        if (r == 0 && creating) {
                if (session->store->dedicated)
                        r = my_tenant_make(session, keyspace->incarnation, call);
                if (r == 0)
                        r = table_exists(session, place.database, place.table, &exists, call);
                if (r == 0 && !exists)
                        r = make(session, &place, first, call);
                if (r == 0)
                        r = set_live(session, keyspace, call);
        }
        return my_end(session, r);
}

int my_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        struct sql_found found;
        struct my_place place;
        bool creating;
        int r;

        r = begin(session, keyspace, NULL, &place, call);
        if (r < 0)
                return r;
        /* An installation's id is among those that have ended since it was committed. */
        r = my_catalogue_find(session, keyspace, NULL, &found, &creating, call);
        if (r < 0 || found.state == SQL_INSTALLING)
                return my_end(session, r);
        r = drop_table(session, place.database, place.table, call);
        if (r == 0)
                r = drop_table(session, place.database, place.making, call);
        if (r == 0 && session->store->dedicated)
                r = my_tenant_drop(session, keyspace->incarnation, call);
        if (r == 0) {
                my_catalogue_text(session, "DELETE FROM @.keyspaces WHERE ");
                my_text_format(&session->text, "state <> %d AND incarnation = ", MY_INSTALLING);
                my_text_hex(&session->text, keyspace->incarnation, 16);
                r = my_query(session, call);
        }
        return my_end(session, r);
}

/* ---- list */

struct entry {
        char name[SQL_NAME_MAX + 1];
        struct stoke_keyspace_info info;
        enum my_state state;
        enum sql_ended ended; /* the installation's id */
};

static int read_entries(struct stoke_session *session, struct stoke_call *call, struct entry **ret, size_t *ret_n) {
        struct my_text *text = &session->text;
        struct entry *entries;
        unsigned long *sizes;
        MYSQL_RES *result;
        MYSQL_ROW row;
        size_t n = 0;
        int r;

        my_catalogue_text(
                session, "SELECT k.incarnation, k.name, k.state, k.install_id, i.how FROM @.keyspaces k LEFT JOIN ");
        my_text_name(text, session->store->database);
        my_text_add(text, ".installations i ON i.id = k.install_id");
        r = my_ask(session, call, &result);
        if (r < 0)
                return r;
        entries = calloc((size_t)mysql_num_rows(result) + 1, sizeof(*entries));
        while (entries && (row = mysql_fetch_row(result))) {
                struct entry *e = &entries[n];

                sizes = mysql_fetch_lengths(result);
                if (!row[0] || sizes[0] != 16 || !row[1] || !sql_name_valid(row[1], sizes[1]))
                        continue;
                memcpy(e->name, row[1], sizes[1]);
                e->info.size = sizeof(e->info);
                memcpy(e->info.incarnation, row[0], 16);
                e->state = (enum my_state)my_number(row[2]);
                e->ended = (enum sql_ended)my_number(row[4]);
                if (row[3] && sizes[3] == 16)
                        memcpy(e->info.install_id, row[3], 16);
                n++;
        }
        mysql_free_result(result);
        if (!entries)
                return my_no_memory(call);
        *ret = entries;
        *ret_n = n;
        return 0;
}

/* Rows whose maker has not come to the end: the table tells. */
static int settle(struct stoke_session *session, struct entry *e, bool *ret_shown, struct stoke_call *call) {
        struct stoke_keyspace keyspace = {.name = e->name};
        struct my_place place;
        int r;

        *ret_shown = true;
        memcpy(keyspace.incarnation, e->info.incarnation, 16);
        if (e->state == MY_CREATING) {
                r = my_place(session->store, &keyspace, NULL, &place, call);
                return r < 0 ? r : table_exists(session, place.database, place.table, ret_shown, call);
        }
        if (e->state != MY_INSTALLING)
                return 0;
        if (e->ended == SQL_COMMITTED)
                return my_catalogue_complete(session, &keyspace, e->info.install_id, call);
        e->info.installing = true;
        *ret_shown = e->ended == SQL_NOT_ENDED;
        return 0;
}

int my_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata) {
        struct entry *entries = NULL;
        size_t n = 0;
        int r;

        r = my_begin(session, true, call);
        if (r < 0)
                return r;
        r = read_entries(session, call, &entries, &n);
        for (size_t i = 0; r == 0 && i < n; i++) {
                bool shown;

                r = settle(session, &entries[i], &shown, call);
                entries[i].info.name = entries[i].name;
                if (r == 0 && shown && visit(userdata, &entries[i].info))
                        r = STOKE_STOPPED;
        }
        free(entries);
        return my_end(session, r);
}

/* ---- stat */

/* Up to so many are counted, more are estimated. */
#define COUNTED 10000

int my_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret) {
        struct my_text *text = &session->text;
        struct my_place place;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        r = my_place(session->store, keyspace, NULL, &place, call);
        if (r == 0)
                r = my_begin(session, false, call);
        if (r < 0)
                return r;
        my_text_reset(text);
        my_text_add(text,
                "SELECT COUNT(*), (SELECT data_length + index_length FROM information_schema.tables "
                "WHERE table_schema = ");
        my_text_bytes(text, session->mysql, place.database, strlen(place.database));
        my_text_add(text, " AND table_name = ");
        my_text_bytes(text, session->mysql, place.table, strlen(place.table));
        my_text_add(text, "), (SELECT table_rows FROM information_schema.tables WHERE table_schema = ");
        my_text_bytes(text, session->mysql, place.database, strlen(place.database));
        my_text_add(text, " AND table_name = ");
        my_text_bytes(text, session->mysql, place.table, strlen(place.table));
        my_text_add(text, ") FROM (SELECT 1 FROM ");
        add_name(text, place.database, place.table);
        my_text_format(text, " LIMIT %d) counted", COUNTED);
        r = my_ask(session, call, &result);
        if (r == 0) {
                row = mysql_fetch_row(result);
                if (row) {
                        ret->n_records = my_number(row[0]);
                        ret->bytes = my_number(row[1]);
                        if (ret->n_records == COUNTED && my_number(row[2]) > COUNTED)
                                ret->n_records = my_number(row[2]);
                }
                mysql_free_result(result);
        } else if (my_is_missing(session)) {
                r = STOKE_MISSING;
        }
        return my_end(session, r);
}
