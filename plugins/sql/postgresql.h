/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside the PostgreSQL driver. The schema `stokehold` of one database has a table for each keyspace's log, and a catalogue: `format`,
 * `keyspaces`, and `installations`, which remembers ids that have ended. DDL is transactional, so whatever is visible is whole. With
 * dedicated credentials each keyspace has such a schema in a database of its own, owned by a user of its own ("the place" below), and
 * the catalogue of the definition's database ("the centre") has a copy of its row and of its ended ids.
 *
 * libpq runs non-blocking everywhere: each wait is a poll() on the socket and the session's eventfd, with the call's deadline. What is given
 * up in the middle costs the connection, and the next call dials anew. Unnamed statements and settings local to a transaction only,
 * so that a pooler of transactions may stand in between.
 */

#include <pthread.h>
#include <stdatomic.h>

#include <libpq-fe.h>

#include "server.h"

#define PG_IDENTIFIER_MAX 63
#define PG_LINKS 8 /* with dedicated credentials: connections that are kept, to whichever databases, for all sessions */
#define PG_BULKY (4u << 20) /* libpq's buffers never shrink: after a message of this size the connection is not kept */
#define PG_VERSION_MIN 120000
#define PG_CHANNEL "stokehold"
#define PG_TABLE_TEXT 96 /* "stokehold"."TABLE", quoted */
#define PG_PREPARED 24   /* statements prepared on one connection */

extern const struct stoke_limits pg_limits;

/* What is asked of a keyspace all the time is parsed and planned once, where the server itself answers: half of what it costs there. */
enum pg_prepared_kind { PG_PREPARED_APPEND, PG_PREPARED_END };
struct pg_prepared {
        enum pg_prepared_kind kind;
        char table[PG_TABLE_TEXT];
        unsigned uses;
        uint64_t used; /* the connection's counter then: the least is the next to go */
        unsigned name; /* 0: not prepared */
};

/* One connection. */
struct pg {
        PGconn *conn;
        struct stoke_store *store;
        int version; /* as 150020 */
        bool pooled; /* not the server itself answers: a pooler */
        bool lz4;    /* the server can compress with it */
        bool doomed; /* not to be used again */
        bool bulky;  /* not to be kept when it is given back */
        bool shared; /* one of the store's */
        bool listening;
        bool doubtful; /* a warning that a commit may not have been replicated, since pg_send() */
        struct pg_prepared prepared[PG_PREPARED];
        uint64_t n_uses;
        unsigned last_name;
        /* To a tenant's own database: whose. */
        bool tenant;
        uint8_t incarnation[16];
};

struct pg_notifier;

struct stoke_store {
        const struct stoke_host *host;
        struct sql_endpoint *endpoints;
        size_t n_endpoints;
        atomic_size_t preferred; /* the endpoint that answered last */
        char *database, *sslmode;
        bool dedicated;
        char daemon[SQL_UUID_TEXT];
        pthread_mutex_t mutex;
        /* With dedicated credentials sessions keep none: these are shared. Guarded by the mutex. */
        struct pg *idle[PG_LINKS];    /* the last used first */
        size_t n_links;               /* idle, or lent */
        struct pg_notifier *notifier; /* made by the first append */
        bool warned_pooled;
        atomic_bool multiplexed; /* a pooler that looked like the server itself was found out */
};

struct stoke_session {
        struct stoke_store *store;
        int wake;              /* eventfd: readable once interrupted */
        pthread_mutex_t mutex; /* running, interrupted; never held across anything that waits */
        bool running, interrupted;
        struct pg *pg; /* to the definition's database; NULL: dialled when needed, or the store's are used */
};

/* ---- postgresql.c: sessions */

int pg_store_log(struct stoke_store *store, int level, const char *format, ...)
        __attribute__((__format__(__printf__, 3, 4)));
int pg_session_new(struct stoke_store *store, struct stoke_call *call, struct stoke_session **ret);
void pg_session_free(struct stoke_session *session);
/* Around each of the driver's functions. name: checked; NULL if none. -errno: do not go on (nor call pg_end). */
int pg_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
int pg_end(struct stoke_session *session, int r);
void pg_interrupt(struct stoke_session *session);

/* ---- postgresql_connection.c */

/* Whom to be, and where. */
struct pg_account {
        const char *database, *user, *password; /* user NULL: the definition's own user and password */
        const char *application;
};
/* An endpoint that can be written to. 0; STOKE_MISSING: there is no such database; -EACCES: not with this name and password; … */
int pg_dial(struct stoke_session *session, const struct pg_account *account, struct stoke_call *call, struct pg **ret);
void pg_close(struct pg *pg);
/* Whether it is still there, as far as can be told without asking. */
bool pg_alive(struct pg *pg);
/* The connection to the definition's database, dialled if need be, for this call. */
int pg_centre(struct stoke_session *session, struct stoke_call *call, struct pg **ret);
/* The connection to where the keyspace is: the same, or one to its own database. Give it back with pg_release(). STOKE_MISSING. */
int pg_place(
        struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call, struct pg **ret);
/* It is the session's alone from here on, not one of the store's. */
void pg_keep(struct pg *pg);
/* Keeps it if it can be used again. NULL is taken. */
void pg_release(struct stoke_session *session, struct pg *pg);

/* ---- postgresql_query.c: questions, answers, and what goes wrong */

struct pg_param {
        Oid type;
        const void *data;
        size_t size;
};
enum {
        PG_BYTEA = 17,
        PG_INT8 = 20,
        PG_TEXT = 25,
        PG_UUID = 2950,
        PG_INT8_ARRAY = 1016,
        PG_BYTEA_ARRAY = 1001,
        PG_TEXT_ARRAY = 1009
};
/* A number as the wire has it. */
struct pg_number {
        uint8_t bytes[8];
};
struct pg_number pg_number(int64_t number);

/* poll() for the connection, the deadline and interrupt(). conn NULL: for the latter two. 0, -ETIMEDOUT, -ECANCELED. */
int pg_poll(struct stoke_session *session, PGconn *conn, short events, struct stoke_call *call);
/* One statement, or several where there are no parameters; the answer in binary, or in text then. 0 with the last result, complete (after
 * ReadyForQuery); else -errno, or STOKE_MISSING where a table or the schema is not there. `state` has the SQLSTATE then, "" if there is
 * none. ret may be NULL. */
int pg_query(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql,
        const struct pg_param *params, size_t n_params, PGresult **ret);
/* The same, with what the server said instead of a mapping: 0 once it is complete, even if it is an error. -errno: the connection
 * is lost or given up. */
int pg_ask(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql,
        const struct pg_param *params, size_t n_params, PGresult **ret);
/* The same of a statement that was prepared under this name. */
int pg_ask_prepared(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *name,
        const struct pg_param *params, size_t n_params, PGresult **ret);
/* The errno for an answer that is an error. */
int pg_fail(struct pg *pg, const PGresult *res, struct stoke_call *call);
/* "" if it has none. */
const char *pg_state(const PGresult *res);
bool pg_is(const PGresult *res, const char *sqlstate);
/* COPY (…) TO STDOUT (FORMAT binary): visits each row's fields; data NULL: SQL's NULL. A visitor's result other than 0 ends it, and is given
 * back. */
struct pg_field {
        const uint8_t *data;
        size_t size;
};
#define PG_FIELDS_MAX 16
int pg_copy(struct stoke_session *session, struct pg *pg, struct stoke_call *call, const char *sql, size_t n_fields,
        int (*visit)(void *userdata, const struct pg_field *fields), void *userdata);
/* Transactions of several steps: READ COMMITTED, durable, bounded on the server's side should we vanish. */
int pg_transaction(struct stoke_session *session, struct pg *pg, struct stoke_call *call);
/* STOKE_UNKNOWN: it was sent, and no answer came. */
int pg_commit(struct stoke_session *session, struct pg *pg, struct stoke_call *call);
/* After an error: rolls back, unless the connection is done for. Returns r, and leaves its reason. */
int pg_rollback(struct stoke_session *session, struct pg *pg, int r);
/* A division by zero on a standby: SQLSTATE 22012, which pg_fail() knows. */
#define PG_ON_PRIMARY "(SELECT 1 / (1 - pg_is_in_recovery()::int)) = 1"
/* "There is no such table" (r is STOKE_MISSING; anything else passes) counts only if a primary says it: behind a pooler or an address that
 * moves a standby may answer, which has not heard of it yet. table: as pg_table() has it. */
int pg_missing(struct stoke_session *session, struct pg *pg, const char *table, int r, struct stoke_call *call);
int64_t pg_field_number(const struct pg_field *field);
int64_t pg_result_number(const PGresult *res, int row, int column);
/* The server's words in one line. */
void pg_words(const char *message, char *ret, size_t size);

/* ---- postgresql_prepared.c */

/* The name under which such a statement is prepared, after it was asked for a few times; "" if it is not, and is to be sent as text. types: of
 * its parameters; text makes it (free it; NULL: no memory). -errno: the connection is lost or given up, and nothing was sent. */
#define PG_PREPARED_NAME 32
int pg_prepared_get(struct stoke_session *session, struct pg *pg, enum pg_prepared_kind kind, const char *table,
        const char *types, char *(*text)(const void *userdata, const char *table), const void *userdata,
        struct stoke_call *call, char ret_name[PG_PREPARED_NAME]);
/* The server says that there is no such statement: a pooler that was taken for the server itself. */
void pg_prepared_failed(struct pg *pg);

/* ---- postgresql_append.c */

/* Parameters $1 to $4 of an INSERT of records, in one buffer: numbers, keys, values, and the origin, or origins where they differ. */
struct pg_rows {
        void *buffer; /* owned */
        struct pg_param params[4];
        bool one_origin;
};
int pg_rows_build(const struct stoke_record *records, size_t n_records, struct pg_rows *ret);
/* INSERT INTO … SELECT … of those four, as text to which a condition on "r" may be added: WHERE …; seq is r.seq there. Free it. */
char *pg_rows_insert(const struct pg_rows *rows, const char *table);
int pg_append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *append,
        struct stoke_call *call);
int pg_compact(struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_compact *compact, struct stoke_call *call);

/* ---- postgresql_read.c */

int pg_load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret_end);
int pg_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
        struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record), void *userdata);
int pg_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs, size_t n_seqs,
        struct stoke_call *call, int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size),
        void *userdata);
int pg_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata);
int pg_stat(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_stat *ret);
int pg_server_limits(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call,
        struct stoke_limits *ret);

/* ---- postgresql_keyspace.c: the catalogue */

void pg_table(const struct stoke_keyspace *keyspace, bool installing, char ret[PG_TABLE_TEXT]);
/* Makes what is missing of the schema and the catalogue. */
int pg_catalogue_make(struct stoke_session *session, struct pg *pg, struct stoke_call *call);
/* 0 also if there is none yet; -EPROTONOSUPPORT. */
int pg_catalogue_check(struct stoke_session *session, struct pg *pg, struct stoke_call *call);
/* In a transaction: takes the lock of the keyspace, then finds what there is. id may be NULL. */
int pg_find(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct sql_found *ret, struct stoke_call *call);
/* A transaction, and pg_find() in it, on the place; made is what pg_tenant_make() does first where the keyspace has a place of its own.
 * The centre's ended ids count too. Not 0: nothing is open, and *ret_pg is NULL. */
int pg_open_keyspace(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t *id, bool make,
        struct stoke_call *call, struct pg **ret_pg, struct sql_found *ret);
/* Sets the keyspace's row. state SQL_ABSENT: removes it. */
int pg_row_set(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace,
        enum sql_state state, const uint8_t *id, struct stoke_call *call);
/* The same in the centre, where the place is another. */
int pg_row_mirror(struct stoke_session *session, const struct stoke_keyspace *keyspace, enum sql_state state,
        const uint8_t *id, struct stoke_call *call);
int pg_end_id(struct stoke_session *session, struct pg *pg, const uint8_t id[16], enum sql_ended how,
        struct stoke_call *call);
int pg_end_id_mirror(struct stoke_session *session, const uint8_t id[16], enum sql_ended how, struct stoke_call *call);
int pg_create_log(struct stoke_session *session, struct pg *pg, const struct stoke_keyspace *keyspace, bool installing,
        struct stoke_call *call);
int pg_create(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_record *first,
        struct stoke_call *call);
int pg_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
int pg_list(struct stoke_session *session, struct stoke_call *call,
        int (*visit)(void *userdata, const struct stoke_keyspace_info *info), void *userdata);

/* ---- postgresql_install.c */

int pg_install_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call, uint64_t *ret_seq);
int pg_install_feed(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *records, size_t n_records, struct stoke_call *call);
int pg_install_commit(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        const struct stoke_record *last, struct stoke_call *call);
int pg_install_abort(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint8_t id[16],
        struct stoke_call *call);

/* ---- postgresql_tenant.c: users and databases of their own */

/* To the keyspace's own database, as its own user. STOKE_MISSING. */
int pg_tenant_dial(
        struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call, struct pg **ret);
int pg_tenant_make(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);
int pg_tenant_drop(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call);

/* ---- postgresql_wait.c: telling other daemons, and being told */

/* After an append, on its thread: another thread tells. */
void pg_notify_later(struct stoke_store *store, const char *name);
void pg_notify_stop(struct stoke_store *store);
int pg_wait(struct stoke_session *session, struct stoke_call *call, void (*grown)(void *userdata, const char *name),
        void *userdata);

/* ---- postgresql_check.c */

int pg_check(struct stoke_store *store, struct stoke_call *call,
        void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata);
