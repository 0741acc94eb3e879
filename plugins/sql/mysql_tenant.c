/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A database and a user for each keyspace, where the definition asks for dedicated credentials: the names, grants and order of Kamaji's MySQL
 * driver, each statement repeatable. The definition's account needs CREATE USER and the granted privileges with GRANT OPTION, not
 * SUPER. Runs on the host's session threads.
 */
#include <errno.h>
#include <string.h>

#include "mysql_driver.h"

#define ER_NO_SUCH_USER 1396
#define ER_NO_SUCH_USER_TO_REVOKE 1269

size_t my_user_max(const struct my_server *server) {
        return server->mariadb ? 80 : 32;
}

#define GRANTED "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX"

struct account {
        char database[SQL_UUID_DASHED], user[SQL_UUID_DASHED];
};

static void names(struct stoke_session *session, const uint8_t incarnation[16], struct account *ret) {
        sql_server_account(incarnation, MY_IDENTIFIER_MAX, ret->database);
        sql_server_account(incarnation, my_user_max(&session->server), ret->user);
}

/* A statement with the user where there is a $ and the database where there is an @. */
static void write_statement(struct stoke_session *session, const char *statement, const struct account *account) {
        struct my_text *text = &session->text;

        my_text_reset(text);
        for (size_t n; *statement; statement += n) {
                if (*statement == '$') {
                        my_text_name(text, account->user);
                        my_text_add(text, "@`%`");
                        n = 1;
                } else if (*statement == '@') {
                        my_text_name(text, account->database);
                        n = 1;
                } else {
                        n = strcspn(statement, "$@");
                        my_text_format(text, "%.*s", (int)n, statement);
                }
        }
}

static int set_password(struct stoke_session *session, const struct account *account, const uint8_t incarnation[16],
        const char *statement, struct stoke_call *call) {
        char password[SQL_PASSWORD_TEXT];
        int r;

        r = sql_tenant_password_get(session->store->host, incarnation, password, call);
        if (r < 0)
                return r;
        write_statement(session, statement, account);
        my_text_format(&session->text, " IDENTIFIED BY '%s'", password); /* of letters, digits, - and _ */
        explicit_bzero(password, sizeof(password));
        r = my_query(session, call);
        if (session->text.data)
                explicit_bzero(session->text.data, session->text.size);
        return r;
}

int my_tenant_make(struct stoke_session *session, const uint8_t incarnation[16], struct stoke_call *call) {
        struct account account;
        int r;

        names(session, incarnation, &account);
        r = set_password(session, &account, incarnation, "CREATE USER $", call);
        if (r < 0 && session->error == ER_NO_SUCH_USER) /* it could not be made: it is there */
                r = set_password(session, &account, incarnation, "ALTER USER $", call);
        if (r < 0)
                return r;
        write_statement(session, "CREATE DATABASE IF NOT EXISTS @", &account);
        r = my_query(session, call);
        if (r < 0)
                return r;
        r = my_make_settled(session, account.database, call);
        if (r < 0)
                return r;
        write_statement(session, "GRANT " GRANTED " ON @.* TO $", &account);
        return my_query(session, call);
}

int my_tenant_drop(struct stoke_session *session, const uint8_t incarnation[16], struct stoke_call *call) {
        struct account account;
        int r;

        names(session, incarnation, &account);
        /* Not ALL PRIVILEGES: only who has them all may take them all. */
        write_statement(session, "REVOKE " GRANTED " ON @.* FROM $", &account);
        r = my_query(session, call);
        if (r < 0 && session->error != MY_ER_NONEXISTING_GRANT && session->error != ER_NO_SUCH_USER_TO_REVOKE &&
                session->error != ER_NO_SUCH_USER)
                return r;
        write_statement(session, "DROP DATABASE IF EXISTS @", &account);
        r = my_query(session, call);
        if (r < 0)
                return r;
        write_statement(session, "DROP USER IF EXISTS $", &account);
        return my_query(session, call);
}

int my_tenant_renew(struct stoke_store *store, const uint8_t incarnation[16], struct stoke_call *call) {
        struct stoke_session *session;
        struct account account;
        int r;

        r = my_session_new(store, NULL, &session);
        if (r < 0)
                return my_no_memory(call);
        r = my_begin(session, true, call);
        if (r == 0) {
                names(session, incarnation, &account);
                r = my_end(session, set_password(session, &account, incarnation, "ALTER USER $", call));
        }
        my_session_free(session);
        return r;
}
