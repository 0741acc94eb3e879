/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One log in SQL: all that does not depend on which SQL it is. A keyspace is a table with seq as its only key; a dialect
 * (sqlite.c, and beside it postgresql.c, mysql.c) says how its types and parameters are written, executes, and
 * maps its errors. Pure functions over memory: any thread, no I/O, no state.
 */

#include <stokehold/driver.h>

/* The columns in the order in which every statement names, binds and selects them. */
enum sql_column {
        SQL_SEQ,
        SQL_REVISION,
        SQL_KIND,
        SQL_CREATE_REVISION,
        SQL_VERSION,
        SQL_LEASE,
        SQL_ORIGIN,
        SQL_HASH,
        SQL_KEY,
        SQL_VALUE,
        SQL_N_COLUMNS,
};

/* How a dialect writes what differs. */
struct sql_dialect {
        const char *integer;      /* type of a 64-bit number */
        const char *small;        /* type of a number of one byte */
        const char *key_bytes;    /* type of a key, bytewise */
        const char *value_bytes;  /* type of a value */
        const char *octet_length; /* function: the size of a value in bytes */
        bool numbered;            /* $1, $2, … rather than ? */
        const char *table_suffix; /* behind CREATE TABLE (…); "" if nothing */
};

/*
 * Statements. The text is made from a template: @log the table, @columns the column list, @integer @small @key @value the
 * types, @octet_length the function, ? a parameter. Free the result; NULL: no memory.
 */
enum sql_statement {
        SQL_CREATE_LOG, /* the table of a log */
        SQL_INSERT,     /* one row: all columns */
        SQL_LAST,       /* () -> seq, origin of the last row */
        SQL_FIRST,      /* () -> the lowest seq */
        SQL_ORIGIN_AT,  /* (seq) -> origin */
        SQL_LOAD,       /* (seq) -> all columns of the rows behind it, in order */
        SQL_LOAD_KEYS,  /* the same with the value's size in the place of the value */
        SQL_VALUE_AT,   /* (seq) -> value */
        SQL_DELETE_AT,  /* (seq) */
        SQL_N_STATEMENTS,
};
char *sql_statement_text(const struct sql_dialect *dialect, enum sql_statement statement, const char *table);

/* ---- names */

#define SQL_NAME_MAX 63  /* bytes of a keyspace's name */
#define SQL_UUID_TEXT 33 /* 32 hexadecimal digits and NUL */
void sql_uuid_text(const uint8_t uuid[16], char ret[SQL_UUID_TEXT]);
/* Exactly 32 lower-case hexadecimal digits from the first size bytes. */
bool sql_uuid_parse(const char *text, size_t size, uint8_t ret[16]);
/* [a-z0-9][a-z0-9-]{0,62} */
bool sql_name_valid(const char *name, size_t size);
/* "NAME-INCARNATION", for backends whose identifiers are long enough. */
#define SQL_TABLE_TEXT (SQL_NAME_MAX + 1 + SQL_UUID_TEXT)
void sql_table_text(const struct stoke_keyspace *keyspace, char ret[SQL_TABLE_TEXT]);
bool sql_table_parse(const char *text, size_t size, char ret_name[SQL_NAME_MAX + 1], uint8_t ret_incarnation[16]);

/* ---- rows. An origin is one column of 24 bytes: the daemon, then the batch, big-endian. */

#define SQL_ORIGIN_SIZE 24
void sql_origin_pack(const struct stoke_origin *origin, uint8_t ret[SQL_ORIGIN_SIZE]);
/* false: not an origin. */
bool sql_origin_unpack(const void *data, size_t size, struct stoke_origin *ret);
bool sql_origin_equal(const struct stoke_origin *a, const struct stoke_origin *b);

/* What the host promised of an append or an installation, checked before anything is sent: 0, or -EINVAL, -EMSGSIZE with a
 * reason. after: the records must follow this seq without a hole; UINT64_MAX: they need only ascend. */
int sql_records_check(const struct stoke_record *records, size_t n_records, uint64_t after,
        const struct stoke_limits *limits, struct stoke_call *call);

/* ---- loading: what the rows behind an end mean */

struct sql_loading {
        struct stoke_end end; /* the last record seen */
        bool dense;           /* a hole is STOKE_COMPACTED */
};
/* Whether the load may go on behind `after`: origin is that of the row at after->seq, NULL if there is none. 0, STOKE_FORKED,
 * STOKE_COMPACTED. */
int sql_loading_begin(struct sql_loading *loading, const struct stoke_end *after, const struct stoke_origin *origin);
/* The next row: 0 or STOKE_COMPACTED. */
int sql_loading_next(struct sql_loading *loading, const struct stoke_record *record);

/* ---- installations. What is found of a keyspace and of an id decides what may be done, the same way in every dialect. */

enum sql_state {
        SQL_ABSENT,     /* nothing of this name and incarnation */
        SQL_INSTALLING, /* under some id, not committed */
        SQL_LIVE,       /* exists; made by create, or by an installation whose id is kept */
};
/* How an id has ended, as it is remembered for ever. */
enum sql_ended { SQL_NOT_ENDED = 0, SQL_ABORTED = 1, SQL_COMMITTED = 2 };
struct sql_found {
        enum sql_state state;
        bool has_id;
        uint8_t id[16];       /* SQL_INSTALLING, and SQL_LIVE where has_id */
        enum sql_ended ended; /* of the id asked for */
};
enum sql_install { SQL_BEGIN, SQL_FEED, SQL_COMMIT, SQL_ABORT };
enum sql_decision {
        SQL_GO,      /* go on with what is there */
        SQL_GO_ANEW, /* begin: make it */
        SQL_ALREADY, /* done before: 0 */
        SQL_REFUSE,  /* *ret_result is the function's result */
};
enum sql_decision sql_install_decide(enum sql_install what, const struct sql_found *found, const uint8_t id[16],
        struct stoke_call *call, int *ret_result);

/* ---- calls */

/* Puts the reason into the call and returns code. */
int sql_fail(struct stoke_call *call, int code, const char *format, ...) __attribute__((__format__(__printf__, 3, 4)));
uint64_t sql_now_ns(void);
bool sql_expired(const struct stoke_call *call);
