/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside the MySQL driver (MySQL, MariaDB and what speaks like them). One table a keyspace, in the database that the setting `database` names;
 * beside it the catalogue: `format`, `keyspaces` (which there are, or will be), `installations` (ids that have ended), `daemons` (who
 * writes and who listens). With dedicated credentials each keyspace has a database and a user of its own.
 *
 * DDL commits by itself here, so no two steps are atomic together. The steps are therefore ordered and repeatable: a table of a keyspace's
 * name appears by a rename, whole, and the end of an installation id is decided by the one row that its primary key admits.
 *
 * Functions begin with my_ (the client library has mysql_ and mariadb_). Locks: store->mutex guards the list of sessions, what the
 * watch needs of them, and the news; it is never held across I/O. A session's connection is its thread's own, but
 * for shutdown(2) on the socket, which is done under store->mutex while the socket is published there.
 */

#include <pthread.h>
#include <stdatomic.h>

#include <mysql.h>

#include "mysql_text.h"
#include "server.h"

#define MY_IDENTIFIER_MAX 64
#define MY_PORT "3306"
#define MY_DATABASE "stokehold"

extern const struct stoke_limits my_limits;

/* Errors of the server that something is decided by: stable numbers of its protocol, the same in MariaDB and MySQL. */
enum my_error {
        MY_ER_TABLE_EXISTS = 1050,
        MY_ER_DUP_ENTRY = 1062,
        MY_ER_NONEXISTING_GRANT = 1141,
        MY_ER_NO_SUCH_TABLE = 1146,
        MY_ER_BAD_DB = 1049,
        MY_ER_DB_ACCESS_DENIED = 1044,
        MY_ER_ACCESS_DENIED = 1045,
        MY_ER_TABLEACCESS_DENIED = 1142,
        MY_ER_LOCK_WAIT_TIMEOUT = 1205,
        MY_ER_LOCK_DEADLOCK = 1213,
};

/* The states of the catalogue's `keyspaces`. Stored: never change a number. */
enum my_state { MY_INSTALLING = 1, MY_LIVE = 2, MY_CREATING = 3 };

struct my_news; /* mysql_wait.c, mysql_notify.c */

/* An end of a log that is known to outlive the server: appended by us, or settled. */
struct my_settled {
        uint8_t incarnation[16];
        struct stoke_end end;
};
#define MY_N_SETTLED 1024

struct stoke_store {
        const struct stoke_host *host;
        char *database; /* owned */
        struct sql_endpoint *endpoints;
        size_t n_endpoints;
        atomic_size_t endpoint; /* that served last: the first to be dialled */
        bool dedicated;

        pthread_mutex_t mutex;
        struct stoke_session *sessions;
        pthread_t watch;
        pthread_cond_t watch_changed;
        bool watch_started, stopping;
        uint64_t watch_next_ns;                  /* when the watch looks again by itself */
        struct my_news *news;                    /* owned */
        struct my_settled settled[MY_N_SETTLED]; /* by incarnation; one displaces another */
};

/* What the server at the other end is, as it was when it was dialled. */
struct my_server {
        char version[64];
        bool mariadb;
        bool galera;
        bool unsettled;  /* others see a commit before it is durable: my_settle() */
        unsigned number; /* 101119 for 10.11.19 */
        uint64_t packet; /* max_allowed_packet */
};

struct stoke_session {
        struct stoke_store *store;
        struct stoke_session *next; /* store->mutex */
        bool scoped;                /* the account of one keyspace, but for what only the definition's may do */
        uint8_t scope[16];
        bool hints; /* reads without waiting for the rest of a cluster */

        MYSQL *mysql; /* NULL: not connected */
        bool tenant;  /* connected as the scope's own user */
        bool broken;  /* to be dialled anew */
        struct my_server server;
        struct my_text text;
        struct stoke_call *call; /* the one that runs */
        unsigned error;          /* the server's or the library's number of the last failure; 0: none */

        /* store->mutex */
        int fd; /* -1: no connection */
        bool running, waiting;
        bool cut; /* the socket was shut down */
        uint64_t deadline_ns;
        pthread_cond_t wake; /* waiting */

        atomic_bool interrupted, expired;

        uint64_t asked_ns, beat_ns; /* of wait(): its last question, its last beat */
};

/* Where the log of a keyspace is. */
struct my_place {
        char database[MY_IDENTIFIER_MAX + 1];
        char table[MY_IDENTIFIER_MAX + 1];      /* once it exists */
        char making[MY_IDENTIFIER_MAX + 1];     /* while create makes it */
        char installing[MY_IDENTIFIER_MAX + 1]; /* under this id */
};
/* id may be NULL. -EINVAL: not a name. */
int my_place(const struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct my_place *ret, struct stoke_call *call);

/* ---- mysql_session.c: calls bounded by their deadline, statements, results, errors */

int my_session_new(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_session **ret);
void my_session_free(struct stoke_session *session);
/* Starts a call: bounds it, and connects if need be, as the definition's account if `own`, else as the session's. After 0 the call ends with
 * my_end(), which returns r; if that is 0 there is no reason to tell. */
int my_begin(struct stoke_session *session, bool own, struct stoke_call *call);
int my_start(struct stoke_session *session, struct stoke_call *call); /* the same without connecting */
int my_end(struct stoke_session *session, int r);
void my_interrupt(struct stoke_session *session);
void my_interrupt_locked(struct stoke_session *session); /* with store->mutex */
/* The deadline, and sql_records_check with our limits. */
int my_records_check(const struct stoke_record *records, size_t n_records, uint64_t after, struct stoke_call *call);
/* The connection's end: closes it. */
void my_hang_up(struct stoke_session *session);
/* Publishes the socket to the watch. */
void my_publish(struct stoke_session *session, int fd);
/* -ECANCELED or -ETIMEDOUT with the reason if the call is over, else 0. */
int my_call_over(struct stoke_session *session, struct stoke_call *call);
/* Has the server gone, as far as the socket knows? Without a round trip. */
bool my_is_cut_off(struct stoke_session *session);
int my_watch_start(struct stoke_store *store);
void my_watch_stop(struct stoke_store *store);

/* The statement in session->text. 0 or -errno with the reason; session->error says more. */
int my_query(struct stoke_session *session, struct stoke_call *call);
/* A statement of its own, without parameters. */
int my_execute(struct stoke_session *session, const char *statement, struct stoke_call *call);
/* The statement's rows, all of them. Free with mysql_free_result. */
int my_ask(struct stoke_session *session, struct stoke_call *call, MYSQL_RES **ret);
/* The same, to be fetched one by one with my_fetch; 1: a row, 0: no more, -errno. my_stream_end frees it; what was not
 * fetched costs the connection. */
struct my_stream {
        MYSQL_RES *result;
        bool drained;
};
int my_stream(struct stoke_session *session, struct stoke_call *call, struct my_stream *ret);
int my_fetch(struct stoke_session *session, struct my_stream *stream, struct stoke_call *call, MYSQL_ROW *ret_row,
        unsigned long **ret_sizes);
void my_stream_end(struct stoke_session *session, struct my_stream *stream);
/* The library's last error as an errno, with the reason. */
int my_fail(struct stoke_session *session, struct stoke_call *call);
int my_no_memory(struct stoke_call *call);
/* The table, or its database, is not there. */
bool my_is_missing(const struct stoke_session *session);
uint64_t my_number(const char *text);

/* ---- mysql_dial.c: connections */

/* Dials the endpoints in turn until one serves and may be written to. */
int my_dial(struct stoke_session *session, bool own, struct stoke_call *call);
/* One endpoint, for check: 0; -EROFS: read-only. */
int my_dial_endpoint(
        struct stoke_session *session, size_t endpoint, bool own, unsigned timeout_s, struct stoke_call *call);
/* SQL that is true on a server that takes writes: within the statement whose answer depends on it. */
#define MY_WRITABLE "CAST(@@global.read_only AS CHAR) IN ('0', 'OFF')"

/* ---- mysql_catalogue.c */

/* Is the catalogue there, and of a format that we know? Makes it if it is not there. */
int my_catalogue_open(struct stoke_session *session, struct stoke_call *call);
/* Starts the text with the catalogue's table where there is an @. */
void my_catalogue_text(struct stoke_session *session, const char *statement);
/* What is known of a keyspace and an id (may be NULL). An installation whose end was decided is completed first. */
int my_catalogue_find(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct sql_found *ret, bool *ret_creating, struct stoke_call *call);
/* Adds the row; 0 also if there is one. */
int my_catalogue_add(struct stoke_session *session, const struct stoke_keyspace *keyspace, enum my_state state,
        const uint8_t *id, struct stoke_call *call);
/* Remembers how an id ended, if nothing is known of it yet; *ret_how: how it did end. */
int my_catalogue_end_id(struct stoke_session *session, const uint8_t id[16], enum sql_ended how,
        enum sql_ended *ret_how, struct stoke_call *call);
/* The rename of a decided installation, and what of an aborted one there is. Repeatable. */
int my_catalogue_complete(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call);
int my_catalogue_clean(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call);
/* CREATE TABLE IF NOT EXISTS of a log. */
int my_make_log(struct stoke_session *session, const char *database, const char *table, struct stoke_call *call);

/* ---- mysql_tenant.c: a database and a user for each keyspace */

/* Makes them, or completes them, and sets the password. */
int my_tenant_make(struct stoke_session *session, const uint8_t incarnation[16], struct stoke_call *call);
int my_tenant_drop(struct stoke_session *session, const uint8_t incarnation[16], struct stoke_call *call);
/* After the user was refused: sets the password through the definition's account, on a connection of its own. */
int my_tenant_renew(struct stoke_store *store, const uint8_t incarnation[16], struct stoke_call *call);
/* The longest name that a user may have. */
size_t my_user_max(const struct my_server *server);

/* ---- mysql_keyspace.c, mysql_read.c, mysql_append.c, mysql_compact.c, mysql_install.c, mysql_check.c */

int my_create(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_record *first,
        struct stoke_call *call);
int my_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
int my_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata);
int my_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret);
int my_load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret_end);
int my_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
        struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record), void *userdata);
int my_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs, size_t n_seqs,
        struct stoke_call *call, int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size),
        void *userdata);
int my_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata);
int my_append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
        struct stoke_call *call);
int my_server_limits(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_limits *ret);
int my_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call);
int my_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq);
int my_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call);
int my_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call);
int my_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call);
int my_check(struct stoke_store *store, struct stoke_call *call,
        void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata);

/* ---- mysql_rows.c: records as text */

/* The columns in the order of every statement. */
#define MY_COLUMNS "seq, revision, kind, create_revision, version, lease, origin, hash, `key`, value"
#define MY_COLUMNS_WITHOUT_VALUE                                                                                       \
        "seq, revision, kind, create_revision, version, lease, origin, hash, `key`, LENGTH(value)"
/* "(…)", all columns of one record. */
void my_row_text(struct stoke_session *session, const struct stoke_record *record);
/* At most so many bytes. */
uint64_t my_row_bytes(const struct stoke_record *record);
int my_row_read(
        MYSQL_ROW row, const unsigned long *sizes, bool with_value, struct stoke_record *ret, struct stoke_call *call);
/* INSERT of records into a table, those that are there left as they are, in as many packets as it takes. */
int my_rows_insert(struct stoke_session *session, const char *database, const char *table,
        const struct stoke_record *records, size_t n_records, struct stoke_call *call);
/* What one statement may have of bytes. */
size_t my_packet_room(const struct stoke_session *session);

/* ---- mysql_settle.c: what was read is durable before it is told */

/* With nothing in flight on the session: 0 once the given end, if another than before, is durable. */
int my_settle(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *end,
        struct stoke_call *call);
/* Is it known to be? */
bool my_is_settled(struct stoke_store *store, const struct stoke_keyspace *keyspace, const struct stoke_end *end);
void my_set_settled(struct stoke_store *store, const struct stoke_keyspace *keyspace, const struct stoke_end *end);
/* The write itself. */
int my_settle_all(struct stoke_session *session, struct stoke_call *call);
/* The table that it writes to. */
int my_make_settled(struct stoke_session *session, const char *database, struct stoke_call *call);

/* ---- news between daemons. mysql_notify.c: telling; mysql_wait.c: listening */

struct my_news *my_news_new(void);
/* Ends the notifier. */
void my_news_stop(struct stoke_store *store);
/* Before an append: that we are about to write. */
void my_news_announce(struct stoke_store *store);
/* After one. */
void my_news_grown(struct stoke_store *store, const char *name);
int my_wait(struct stoke_session *session, struct stoke_call *call, void (*grown)(void *userdata, const char *name),
        void *userdata);
