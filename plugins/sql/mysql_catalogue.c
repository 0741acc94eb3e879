/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The catalogue of the MySQL driver: which keyspaces there are or will be, and how installations have ended. Single statements only: what two
 * daemons might decide differently is decided by a primary key, and each that comes later reads what the first has written. A table
 * that is there is the truth of it; the rows say what it is called and what is left to do. Runs on the host's session threads.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mysql_driver.h"

/* The names are of ASCII, and compared bytewise: the session's character set is binary. */
static const char *const tables[] = {
        "CREATE TABLE IF NOT EXISTS @.format (one TINYINT NOT NULL PRIMARY KEY, current INT NOT NULL, "
        "min_reader INT NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE IF NOT EXISTS @.keyspaces (incarnation VARBINARY(16) NOT NULL PRIMARY KEY, "
        "name VARBINARY(63) NOT NULL, state TINYINT NOT NULL, install_id VARBINARY(16) NULL) ENGINE=InnoDB",
        "CREATE TABLE IF NOT EXISTS @.installations (id VARBINARY(16) NOT NULL PRIMARY KEY, how TINYINT NOT NULL) "
        "ENGINE=InnoDB",
        "CREATE TABLE IF NOT EXISTS @.daemons (daemon VARBINARY(16) NOT NULL PRIMARY KEY, "
        "beat BIGINT UNSIGNED NOT NULL, counter BIGINT UNSIGNED NOT NULL, recent MEDIUMBLOB NOT NULL) ENGINE=InnoDB",
};

void my_catalogue_text(struct stoke_session *session, const char *statement) {
        struct my_text *text = &session->text;

        my_text_reset(text);
        for (const char *at; (at = strchr(statement, '@')); statement = at + 1) {
                my_text_format(text, "%.*s", (int)(at - statement), statement);
                my_text_name(text, session->store->database);
        }
        my_text_add(text, statement);
}

static int make(struct stoke_session *session, struct stoke_call *call) {
        int r;

        my_catalogue_text(session, "CREATE DATABASE IF NOT EXISTS @");
        r = my_query(session, call);
        /* Whoever may not make it may still have been given it. */
        if (r < 0 && r != -EACCES)
                return r;
        for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
                my_catalogue_text(session, tables[i]);
                r = my_query(session, call);
                if (r < 0)
                        return r;
        }
        r = my_make_settled(session, session->store->database, call);
        if (r < 0)
                return r;
        my_catalogue_text(session, "INSERT INTO @.format (one, current, min_reader) VALUES ");
        my_text_format(
                &session->text, "(1, %d, %d) ON DUPLICATE KEY UPDATE one = one", SQL_SERVER_FORMAT, SQL_SERVER_FORMAT);
        return my_query(session, call);
}

int my_catalogue_open(struct stoke_session *session, struct stoke_call *call) {
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r = 0;

        for (int tries = 0; tries < 2; tries++) {
                my_catalogue_text(session, "SELECT current, min_reader FROM @.format");
                r = my_ask(session, call, &result);
                if (r == 0) {
                        row = mysql_fetch_row(result);
                        if (row)
                                r = sql_server_check_format(
                                        (int64_t)my_number(row[0]), (int64_t)my_number(row[1]), call);
                        mysql_free_result(result);
                        if (row)
                                return r;
                } else if (!my_is_missing(session)) {
                        return r;
                }
                r = make(session, call);
                if (r < 0)
                        return r;
        }
        return sql_fail(call, -EUCLEAN, "the catalogue in database %s has no format", session->store->database);
}

/* ---- rows of keyspaces */

int my_catalogue_add(struct stoke_session *session, const struct stoke_keyspace *keyspace, enum my_state state,
        const uint8_t *id, struct stoke_call *call) {
        struct my_text *text = &session->text;

        my_catalogue_text(session, "INSERT INTO @.keyspaces (incarnation, name, state, install_id) VALUES (");
        my_text_hex(text, keyspace->incarnation, 16);
        my_text_format(text, ", '%s', %d, ", keyspace->name, state);
        if (id)
                my_text_hex(text, id, 16);
        else
                my_text_add(text, "NULL");
        my_text_add(text, ") ON DUPLICATE KEY UPDATE state = state");
        return my_query(session, call);
}

static bool is_id(const char *data, unsigned long size, uint8_t ret[16]) {
        if (!data || size != 16)
                return false;
        memcpy(ret, data, 16);
        return true;
}

struct row {
        bool there, foreign; /* foreign: the incarnation is another keyspace's */
        enum my_state state;
        bool has_id;
        uint8_t id[16];
        enum sql_ended own_ended; /* of its own id */
        enum sql_ended ended;     /* of the one asked for */
};

static int read_row(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct row *ret, struct stoke_call *call) {
        struct my_text *text = &session->text;
        unsigned long *sizes;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        *ret = (struct row){};
        my_catalogue_text(session,
                "SELECT k.state, k.install_id, own.how, asked.how, k.name FROM (SELECT 1 AS one) o "
                "LEFT JOIN @.keyspaces k ON k.incarnation = ");
        my_text_hex(text, keyspace->incarnation, 16);
        my_text_add(text, " LEFT JOIN ");
        my_text_name(text, session->store->database);
        my_text_add(text, ".installations own ON own.id = k.install_id LEFT JOIN ");
        my_text_name(text, session->store->database);
        my_text_add(text, ".installations asked ON asked.id = ");
        my_text_hex(text, id, id ? 16 : 0);
        r = my_ask(session, call, &result);
        if (r < 0)
                return r;
        row = mysql_fetch_row(result);
        sizes = row ? mysql_fetch_lengths(result) : NULL;
        if (row) {
                ret->there = row[0] != NULL;
                ret->state = (enum my_state)my_number(row[0]);
                ret->foreign = row[4] && strcmp(row[4], keyspace->name) != 0;
                ret->has_id = is_id(row[1], sizes[1], ret->id);
                ret->own_ended = (enum sql_ended)my_number(row[2]);
                ret->ended = (enum sql_ended)my_number(row[3]);
        }
        mysql_free_result(result);
        return 0;
}

int my_catalogue_find(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct sql_found *ret, bool *ret_creating, struct stoke_call *call) {
        struct row row = {};
        int r = 0;

        for (int tries = 0; tries < 2; tries++) {
                r = read_row(session, keyspace, id, &row, call);
                if (r == 0 && row.foreign)
                        r = sql_fail(call, -EEXIST, "another keyspace has this incarnation");
                if (r < 0)
                        return r;
                /* Somebody decided, and did not come to do it. */
                if (row.there && row.state == MY_INSTALLING && row.own_ended == SQL_COMMITTED)
                        r = my_catalogue_complete(session, keyspace, row.id, call);
                else if (row.there && row.state == MY_INSTALLING && row.own_ended == SQL_ABORTED)
                        r = my_catalogue_clean(session, keyspace, row.id, call);
                else
                        break;
                if (r < 0)
                        return r;
        }
        *ret = (struct sql_found){.has_id = row.has_id, .ended = row.ended};
        memcpy(ret->id, row.id, 16);
        ret->state = !row.there ? SQL_ABSENT : row.state == MY_INSTALLING ? SQL_INSTALLING : SQL_LIVE;
        *ret_creating = row.there && row.state == MY_CREATING;
        return 0;
}

int my_catalogue_end_id(struct stoke_session *session, const uint8_t id[16], enum sql_ended how,
        enum sql_ended *ret_how, struct stoke_call *call) {
        struct my_text *text = &session->text;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        my_catalogue_text(session, "INSERT INTO @.installations (id, how) VALUES (");
        my_text_hex(text, id, 16);
        my_text_format(text, ", %d)", how);
        r = my_query(session, call);
        if (r == 0) {
                *ret_how = how;
                return 0;
        }
        if (session->error != MY_ER_DUP_ENTRY)
                return r;
        my_catalogue_text(session, "SELECT how FROM @.installations WHERE id = ");
        my_text_hex(text, id, 16);
        r = my_ask(session, call, &result);
        if (r < 0)
                return r;
        row = mysql_fetch_row(result);
        *ret_how = row ? (enum sql_ended)my_number(row[0]) : SQL_NOT_ENDED;
        mysql_free_result(result);
        return *ret_how == SQL_NOT_ENDED ? sql_fail(call, -EBUSY, "the installation's end is being decided") : 0;
}

/* ---- what was decided is done */

int my_catalogue_complete(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        struct my_text *text = &session->text;
        struct my_place place;
        int r;

        r = my_place(session->store, keyspace, id, &place, call);
        if (r < 0)
                return r;
        my_text_reset(text);
        my_text_add(text, "RENAME TABLE ");
        my_text_table(text, place.database, place.installing);
        my_text_add(text, " TO ");
        my_text_table(text, place.database, place.table);
        r = my_query(session, call);
        /* Done by somebody else, who may have come no further. */
        if (r < 0 && !my_is_missing(session) && session->error != MY_ER_TABLE_EXISTS)
                return r;
        my_catalogue_text(session, "UPDATE @.keyspaces SET ");
        my_text_format(text, "state = %d WHERE state = %d AND incarnation = ", MY_LIVE, MY_INSTALLING);
        my_text_hex(text, keyspace->incarnation, 16);
        my_text_add(text, " AND install_id = ");
        my_text_hex(text, id, 16);
        return my_query(session, call);
}

int my_catalogue_clean(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call) {
        struct my_text *text = &session->text;
        struct my_place place;
        int r;

        r = my_place(session->store, keyspace, id, &place, call);
        if (r < 0)
                return r;
        my_text_reset(text);
        my_text_add(text, "DROP TABLE IF EXISTS ");
        my_text_table(text, place.database, place.installing);
        r = my_query(session, call);
        if (r < 0 && !my_is_missing(session))
                return r;
        if (session->store->dedicated) {
                r = my_tenant_drop(session, keyspace->incarnation, call);
                if (r < 0)
                        return r;
        }
        my_catalogue_text(session, "DELETE FROM @.keyspaces WHERE ");
        my_text_format(text, "state = %d AND incarnation = ", MY_INSTALLING);
        my_text_hex(text, keyspace->incarnation, 16);
        my_text_add(text, " AND install_id = ");
        my_text_hex(text, id, 16);
        return my_query(session, call);
}

int my_make_log(struct stoke_session *session, const char *database, const char *table, struct stoke_call *call) {
        struct my_text *text = &session->text;

        my_text_reset(text);
        my_text_add(text, "CREATE TABLE IF NOT EXISTS ");
        my_text_table(text, database, table);
        /* A key is as long as etcd lets it be, which no index could hold: seq is the only one. */
        my_text_add(text,
                " (seq BIGINT UNSIGNED NOT NULL PRIMARY KEY, revision BIGINT NOT NULL, kind TINYINT UNSIGNED NOT NULL, "
                "create_revision BIGINT NOT NULL, version BIGINT NOT NULL, lease BIGINT NOT NULL, "
                "origin BINARY(24) NOT NULL, hash BINARY(8) NOT NULL, `key` MEDIUMBLOB NOT NULL, "
                "value LONGBLOB NOT NULL) ENGINE=InnoDB ROW_FORMAT=DYNAMIC");
        return my_query(session, call);
}
