/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dialling: the endpoints in turn, beginning with the one that served last, until one is found that serves and may be written to. Secrets are
 * read anew for each connection and leave memory with it; certificates reach the library as files that have no name. Runs on the
 * host's session threads and the notifier's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "mysql_client.h"
#include "mysql_driver.h"

/* So long a rival's lock is waited for: appends are stale then, and tried again. */
#define SETTINGS                                                                                                       \
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', autocommit = 1, lock_wait_timeout = 1, "   \
        "innodb_lock_wait_timeout = 3, net_write_timeout = 600"

struct secrets {
        struct sql_secret username, password, ca, certificate, key;
        int ca_fd, certificate_fd, key_fd;
        char ca_path[SQL_SECRET_PATH], certificate_path[SQL_SECRET_PATH], key_path[SQL_SECRET_PATH];
};

static void secrets_done(struct secrets *s) {
        sql_secret_wipe(&s->username);
        sql_secret_wipe(&s->password);
        sql_secret_wipe(&s->ca);
        sql_secret_wipe(&s->certificate);
        sql_secret_wipe(&s->key);
        if (s->ca_fd >= 0)
                close(s->ca_fd);
        if (s->certificate_fd >= 0)
                close(s->certificate_fd);
        if (s->key_fd >= 0)
                close(s->key_fd);
}

static int read_secrets(const struct stoke_host *host, struct secrets *s, struct stoke_call *call) {
        int r;

        *s = (struct secrets){.ca_fd = -1, .certificate_fd = -1, .key_fd = -1};
        r = sql_secret_read(host, STOKE_SECRET_USERNAME, &s->username, call);
        if (r == 0)
                r = sql_secret_read(host, STOKE_SECRET_PASSWORD, &s->password, call);
        if (r == 0)
                r = sql_secret_read(host, STOKE_SECRET_CA_CERTIFICATE, &s->ca, call);
        if (r == 0)
                r = sql_secret_read(host, STOKE_SECRET_CLIENT_CERTIFICATE, &s->certificate, call);
        if (r == 0)
                r = sql_secret_read(host, STOKE_SECRET_CLIENT_PRIVATE_KEY, &s->key, call);
        if (r == 0)
                r = sql_secret_file(&s->ca, &s->ca_fd, s->ca_path, call);
        if (r == 0)
                r = sql_secret_file(&s->certificate, &s->certificate_fd, s->certificate_path, call);
        if (r == 0)
                r = sql_secret_file(&s->key, &s->key_fd, s->key_path, call);
        return r;
}

/* ---- what is at the other end */

struct facts {
        bool read_only, not_ready, binlog, statements;
};

static void take_fact(struct my_server *server, struct facts *facts, const char *name, const char *value) {
        bool on = strcasecmp(value, "ON") == 0 || strcmp(value, "1") == 0;

        if (strcmp(name, "version") == 0) {
                unsigned major = 0, minor = 0, patch = 0;

                snprintf(server->version, sizeof(server->version), "%s", value);
                if (sscanf(value, "%u.%u.%u", &major, &minor, &patch) >= 2)
                        server->number = major * 10000 + minor * 100 + patch;
                if (strcasestr(value, "MariaDB"))
                        server->mariadb = true;
        } else if (strcmp(name, "version_comment") == 0) {
                if (strcasestr(value, "MariaDB"))
                        server->mariadb = true;
        } else if (strcmp(name, "max_allowed_packet") == 0) {
                server->packet = my_number(value);
        } else if (strcmp(name, "log_bin") == 0) {
                facts->binlog = on;
        } else if (strcmp(name, "binlog_format") == 0) {
                facts->statements = strcasecmp(value, "STATEMENT") == 0;
        } else if (strcmp(name, "wsrep_on") == 0) {
                server->galera = on;
        } else if (strcmp(name, "wsrep_ready") == 0) {
                facts->not_ready = !on;
        } else if (strcmp(name, "read_only") == 0) {
                facts->read_only |= strcasecmp(value, "OFF") != 0 && strcmp(value, "0") != 0;
        } else if (strcmp(name, "super_read_only") == 0 || strcmp(name, "innodb_read_only") == 0) {
                facts->read_only |= on;
        }
}

static int take_facts(
        struct stoke_session *session, const char *statement, struct facts *facts, struct stoke_call *call) {
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        my_text_reset(&session->text);
        my_text_add(&session->text, statement);
        r = my_ask(session, call, &result);
        if (r < 0)
                return r;
        while ((row = mysql_fetch_row(result)))
                if (row[0] && row[1])
                        take_fact(&session->server, facts, row[0], row[1]);
        mysql_free_result(result);
        return 0;
}

/* Refuses what cannot serve, and sets the session up. */
static int set_up(struct stoke_session *session, struct stoke_call *call) {
        struct my_server *server = &session->server;
        struct facts facts = {};
        int r;

        *server = (struct my_server){.packet = 1 << 20};
        r = take_facts(session,
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'max_allowed_packet', "
                "'read_only', 'super_read_only', 'innodb_read_only', 'wsrep_on', 'log_bin', 'binlog_format')",
                &facts, call);
        if (r == 0 && server->galera)
                r = take_facts(session, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'", &facts, call);
        if (r < 0)
                return r;
        server->unsettled = !facts.binlog && !server->galera;
        if (facts.read_only)
                return sql_fail(call, -EROFS, "the server is read-only");
        if (facts.not_ready)
                return sql_fail(call, -ENOTCONN, "the node is not ready: it has no part in the cluster now");
        if (server->number < (server->mariadb ? 100303u : 80019u))
                return sql_fail(call, -EPROTONOSUPPORT,
                        "the server is %s; MariaDB 10.3.3 or MySQL 8.0.19 is the oldest that the log can be written to",
                        server->version);
        if (facts.binlog && facts.statements)
                return sql_fail(call, -EINVAL,
                        "binlog_format is STATEMENT, which takes no writes at READ COMMITTED: use ROW or MIXED");
        r = my_execute(session, SETTINGS, call);
        if (r == 0)
                r = my_execute(session, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", call);
        /* A batch of several statements whose daemon stands still must not keep the others from writing. */
        if (r == 0 && server->mariadb)
                r = my_execute(session, "SET SESSION idle_write_transaction_timeout = 1", call);
        if (r == 0 && !server->mariadb)
                r = my_execute(session, "SET SESSION information_schema_stats_expiry = 0", call);
        if (r == 0 && server->galera)
                r = my_execute(session,
                        session->hints ? "SET SESSION wsrep_sync_wait = 0"
                                       : "SET SESSION wsrep_sync_wait = 1, wsrep_dirty_reads = OFF",
                        call);
        return r;
}

/* ---- one connection */

static int options(MYSQL *mysql, const struct secrets *s, unsigned timeout_s) {
        unsigned infile = 0;
        unsigned long packet = 1ul << 30;
        unsigned protocol = MYSQL_PROTOCOL_TCP;
        bool verify = s->ca.size > 0;
        int r = 0;

        r |= mysql_options(mysql, MYSQL_OPT_CONNECT_TIMEOUT, &timeout_s);
        r |= mysql_options(mysql, MYSQL_SET_CHARSET_NAME, "binary");
        r |= mysql_options(mysql, MYSQL_OPT_MAX_ALLOWED_PACKET, &packet);
        /* Or "localhost" would be a Unix socket somewhere. */
        r |= mysql_options(mysql, MYSQL_OPT_PROTOCOL, &protocol);
        /* A server may ask its client for files. */
        r |= mysql_options(mysql, MYSQL_OPT_LOCAL_INFILE, &infile);
        if (verify)
                r |= mysql_options(mysql, MYSQL_OPT_SSL_CA, s->ca_path);
        if (s->certificate.size > 0)
                r |= mysql_options(mysql, MYSQL_OPT_SSL_CERT, s->certificate_path);
        if (s->key.size > 0)
                r |= mysql_options(mysql, MYSQL_OPT_SSL_KEY, s->key_path);
        my_client_tls(mysql, verify || s->certificate.size > 0, verify);
        return r;
}

static int connect_as(struct stoke_session *session, const struct sql_endpoint *endpoint, const struct secrets *s,
        const char *user, const char *password, unsigned timeout_s, struct stoke_call *call) {
        session->mysql = mysql_init(NULL);
        session->error = 0;
        if (!session->mysql || options(session->mysql, s, timeout_s) != 0)
                return my_no_memory(call);
        if (!mysql_real_connect(
                    session->mysql, endpoint->host, user, password, NULL, (unsigned)my_number(endpoint->port), NULL, 0))
                return my_fail(session, call);
        my_publish(session, my_client_socket(session->mysql));
        return set_up(session, call);
}

static int connect_as_tenant(struct stoke_session *session, const struct sql_endpoint *endpoint,
        const struct secrets *s, unsigned timeout_s, struct stoke_call *call) {
        char user[SQL_UUID_DASHED], password[SQL_PASSWORD_TEXT];
        struct my_server unknown = {.mariadb = true};
        int r;

        r = sql_tenant_password_get(session->store->host, session->scope, password, call);
        if (r < 0)
                return r;
        /* Which server it is shows only once it has been reached: MySQL's users have shorter names. */
        sql_server_account(session->scope, my_user_max(&unknown), user);
        r = connect_as(session, endpoint, s, user, password, timeout_s, call);
        if (r < 0 && (session->error == MY_ER_ACCESS_DENIED || session->error == 1470)) {
                my_hang_up(session);
                unknown.mariadb = false;
                sql_server_account(session->scope, my_user_max(&unknown), user);
                r = connect_as(session, endpoint, s, user, password, timeout_s, call);
        }
        explicit_bzero(password, sizeof(password));
        return r;
}

int my_dial_endpoint(
        struct stoke_session *session, size_t endpoint, bool own, unsigned timeout_s, struct stoke_call *call) {
        const struct sql_endpoint *e = &session->store->endpoints[endpoint];
        struct secrets s;
        int r;

        session->tenant = session->scoped && !own;
        r = read_secrets(session->store->host, &s, call);
        if (r == 0 && session->tenant)
                r = connect_as_tenant(session, e, &s, timeout_s, call);
        else if (r == 0)
                r = connect_as(session, e, &s, s.username.size ? s.username.data : NULL,
                        s.password.size ? s.password.data : NULL, timeout_s, call);
        secrets_done(&s);
        if (r < 0)
                my_hang_up(session);
        return r;
}

/* ---- all of them */

static int dial_any(struct stoke_session *session, bool own, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        size_t first = atomic_load(&store->endpoint), n = store->n_endpoints, used = 0;
        struct stoke_call one = *call;
        char reason[256], all[1024];
        int r = 0, worst = 0;

        one.reason = reason;
        one.reason_size = sizeof(reason);
        for (size_t i = 0; i < n; i++) {
                size_t at = (first + i) % n;
                /* Whoever does not answer leaves time for those behind it. */
                int left = sql_remaining_ms(call, 3600000) / (int)(n - i);

                reason[0] = '\0';
                r = my_call_over(session, &one);
                if (r == 0)
                        r = my_dial_endpoint(session, at, own, left < 1000 ? 1 : (unsigned)(left / 1000), &one);
                if (r == 0) {
                        atomic_store(&store->endpoint, at);
                        return 0;
                }
                if (used < sizeof(all))
                        used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s:%s: %s", i ? "; " : "",
                                store->endpoints[at].host, store->endpoints[at].port,
                                reason[0] ? reason : strerror(-r));
                /* A read-only server beside others is as it should be. */
                if (worst == 0 || worst == -EROFS)
                        worst = r;
                if (r == -ECANCELED || (n > 1 && sql_expired(call)))
                        break;
        }
        if (r == -ECANCELED)
                return sql_fail(call, r, "interrupted");
        return sql_fail(call, worst, "%s", all);
}

int my_dial(struct stoke_session *session, bool own, struct stoke_call *call) {
        int r = dial_any(session, own, call);

        if (r == -EACCES && session->tenant && session->error == MY_ER_ACCESS_DENIED) {
                /* The definition's password was changed, and with it this one. */
                r = my_tenant_renew(session->store, session->scope, call);
                if (r == 0)
                        r = dial_any(session, own, call);
        }
        if (r == 0 && !session->tenant && !session->hints) {
                r = my_catalogue_open(session, call);
                if (r < 0)
                        my_hang_up(session);
        }
        my_text_reset(&session->text);
        return r;
}
