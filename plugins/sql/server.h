/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the drivers of SQL servers (postgresql*.c, mysql*.c) have in common and SQLite has not: names within a server's limits, quoting,
 * endpoints, settings, secrets, and the passwords of tenants' own users. Any thread; no state; reaches no server.
 */

#include "log.h"

/* ---- formats. What the catalogue says of itself: written by `current`, and readable by whoever knows `min_reader`. */

#define SQL_SERVER_FORMAT 1
/* 0; -EPROTONOSUPPORT with the reason: written by a version that this one cannot read. */
int sql_server_check_format(int64_t current, int64_t min_reader, struct stoke_call *call);

/* ---- names */

#define SQL_IDENTIFIER_MAX 64 /* the longest of any server; buffers have one byte more */
/* The table of a keyspace's log, within `max` bytes: NAME-INCARNATION and the suffix ("" if it exists; an unfinished installation's is
 * another); where that is too long the first bytes of the name, `~`, 8 hexadecimal digits of a hash of the whole name, -INCARNATION and
 * the suffix. It cannot be parsed back: a catalogue has the names. max at least 44 and the suffix. */
void sql_server_table(
        const struct stoke_keyspace *keyspace, const char *suffix, size_t max, char ret[SQL_IDENTIFIER_MAX + 1]);
/* The database, and the user, of a keyspace that has its own: its incarnation as a lower-case UUID with dashes; without them where that
 * is beyond `max`. */
#define SQL_UUID_DASHED 37
void sql_server_account(const uint8_t incarnation[16], size_t max, char ret[SQL_UUID_DASHED]);
/* The text between two `quote`s, with those in it doubled. Free it; NULL: no memory. */
char *sql_quote_identifier(const char *text, char quote);

/* ---- settings and endpoints */

/* NULL: not set. */
const char *sql_setting(const struct stoke_datastore *datastore, const char *name);
/* known ends with NULL. -EINVAL with the reason: there is a setting that is none of them. */
int sql_settings_check(
        const struct stoke_datastore *datastore, const char *driver, const char *const *known, struct stoke_call *call);
/* The setting "credentials": Shared (default) or Dedicated. */
int sql_setting_dedicated(const struct stoke_datastore *datastore, bool *ret, struct stoke_call *call);

struct sql_endpoint {
        char *host, *port; /* owned; a host without the brackets of an IPv6 address */
};
/* All endpoints, at least one. port_default: of an endpoint that names none. Free with sql_endpoints_free. */
int sql_endpoints_parse(const struct stoke_datastore *datastore, const char *driver, const char *port_default,
        struct stoke_call *call, struct sql_endpoint **ret, size_t *ret_n);
void sql_endpoints_free(struct sql_endpoint *endpoints, size_t n);

/* ---- deadlines */

/* Milliseconds left, rounded up, at most `most`; 0: none. For poll() and its like. */
int sql_remaining_ms(const struct stoke_call *call, int most);

/* ---- secrets */

struct sql_secret {
        char *data; /* owned, with a NUL behind it that does not count; NULL: not configured */
        size_t size;
};
/* 0, also if it is not configured; -errno with the reason. */
int sql_secret_read(
        const struct stoke_host *host, enum stoke_secret which, struct sql_secret *ret, struct stoke_call *call);
void sql_secret_wipe(struct sql_secret *secret);
/* The same as a file that has no name, for libraries that take only paths: path is valid until the descriptor is closed. ret_fd is -1
 * and the path "" for a secret that is not configured. */
#define SQL_SECRET_PATH 32
int sql_secret_file(
        const struct sql_secret *secret, int *ret_fd, char ret_path[SQL_SECRET_PATH], struct stoke_call *call);

/*
 * The password of a tenant's own user: never stored, the same for every daemon that has the datastore's definition, and another one once that
 * has another password. key: the definition's password, or its client's private key.
 */
#define SQL_PASSWORD_TEXT 44 /* 43 characters of base64url, and NUL */
void sql_tenant_password(const void *key, size_t key_size, const uint8_t incarnation[16], char ret[SQL_PASSWORD_TEXT]);
/* That key, from the secrets; -EINVAL with the reason if there is none. Wipe it. */
int sql_tenant_key(const struct stoke_host *host, struct sql_secret *ret, struct stoke_call *call);
/* The password from that key. Wipe it. */
int sql_tenant_password_get(const struct stoke_host *host, const uint8_t incarnation[16], char ret[SQL_PASSWORD_TEXT],
        struct stoke_call *call);
