/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was read is durable before it is told. InnoDB shows a commit to others before its log is on disk; only he who committed waits for that.
 * Whoever reads a record in between, and tells of it, has told of something that a crash of the server undoes: the log then goes on without
 * it. (Seen in the torture with kill -9.) With a binary log the order is the other way round, and on a Galera cluster the other nodes have it.
 * Elsewhere a reader that learns of a new end commits something of its own, which takes everything before it to the
 * disk. An end that we appended ourselves, or have settled before, needs none. Runs on the host's session threads.
 */
#include <string.h>

#include "mysql_driver.h"

static struct my_settled *slot(struct stoke_store *store, const struct stoke_keyspace *keyspace) {
        unsigned sum = 0;

        for (size_t i = 0; i < 16; i++)
                sum = sum * 31 + keyspace->incarnation[i];
        return &store->settled[sum % MY_N_SETTLED];
}

bool my_is_settled(struct stoke_store *store, const struct stoke_keyspace *keyspace, const struct stoke_end *end) {
        const struct my_settled *s = slot(store, keyspace);
        bool is;

        pthread_mutex_lock(&store->mutex);
        is = memcmp(s->incarnation, keyspace->incarnation, 16) == 0 && s->end.seq == end->seq &&
                sql_origin_equal(&s->end.origin, &end->origin);
        pthread_mutex_unlock(&store->mutex);
        return is;
}

void my_set_settled(struct stoke_store *store, const struct stoke_keyspace *keyspace, const struct stoke_end *end) {
        struct my_settled *s = slot(store, keyspace);

        pthread_mutex_lock(&store->mutex);
        memcpy(s->incarnation, keyspace->incarnation, 16);
        s->end = *end;
        pthread_mutex_unlock(&store->mutex);
}

int my_make_settled(struct stoke_session *session, const char *database, struct stoke_call *call) {
        struct my_text *text = &session->text;

        my_text_reset(text);
        my_text_add(text, "CREATE TABLE IF NOT EXISTS ");
        my_text_name(text, database);
        my_text_add(
                text, ".settled (daemon VARBINARY(16) NOT NULL PRIMARY KEY, n BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB");
        return my_query(session, call);
}

int my_settle_all(struct stoke_session *session, struct stoke_call *call) {
        struct my_text *text = &session->text;
        char account[SQL_UUID_DASHED];

        if (!session->server.unsettled)
                return 0;
        sql_server_account(session->scope, MY_IDENTIFIER_MAX, account);
        my_text_reset(text);
        my_text_add(text, "INSERT INTO ");
        my_text_name(text, session->tenant ? account : session->store->database);
        my_text_add(text, ".settled (daemon, n) VALUES (");
        my_text_hex(text, session->store->host->daemon, 16);
        my_text_add(text, ", 1) ON DUPLICATE KEY UPDATE n = n + 1");
        return my_query(session, call);
}

int my_settle(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *end,
        struct stoke_call *call) {
        int r;

        if (!session->server.unsettled || my_is_settled(session->store, keyspace, end))
                return 0;
        r = my_settle_all(session, call);
        if (r == 0)
                my_set_settled(session->store, keyspace, end);
        return r;
}
