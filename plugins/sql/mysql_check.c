/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `stokectl datastore check` shows of a MySQL or MariaDB server: each endpoint is dialled, one that serves is asked for its version, its
 * durability, what our account may do, room and connections. Nothing is written, but for a catalogue where there is none. Runs on a session thread, with a session of its own.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "mysql_driver.h"

#define N_PINGS 9

struct check {
        struct stoke_session *session;
        struct stoke_call *call;
        void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity);
        void *userdata;
};

static void report(struct check *c, const char *name, enum stoke_severity severity, const char *format, ...)
        __attribute__((__format__(__printf__, 4, 5)));
static void report(struct check *c, const char *name, enum stoke_severity severity, const char *format, ...) {
        char text[512];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        c->report(c->userdata, name, text, severity);
}

/* ---- endpoints */

static int check_endpoints(struct check *c) {
        struct stoke_store *store = c->session->store;
        char reason[256], last[512] = "";
        struct stoke_call one = *c->call;
        int r = 0, worst = 0;
        bool found = false;

        one.reason = reason;
        one.reason_size = sizeof(reason);
        for (size_t i = 0; store->n_endpoints > 1 && i < store->n_endpoints; i++) {
                const struct sql_endpoint *e = &store->endpoints[i];
                int left = sql_remaining_ms(c->call, 3600000) / (int)(store->n_endpoints - i + 1);

                reason[0] = '\0';
                r = my_dial_endpoint(c->session, i, true, left < 1000 ? 1 : (unsigned)(left / 1000), &one);
                if (r == 0) {
                        report(c, "endpoint", STOKE_INFO, "%s:%s serves", e->host, e->port);
                        found = true;
                        my_hang_up(c->session);
                } else {
                        report(c, "endpoint", r == -EROFS ? STOKE_INFO : STOKE_WARNING, "%s:%s: %s", e->host, e->port,
                                reason);
                        snprintf(last, sizeof(last), "%s:%s: %s", e->host, e->port, reason);
                        worst = r;
                }
        }
        if (store->n_endpoints > 1 && !found)
                return sql_fail(c->call, worst, "no endpoint serves; %s", last);
        return my_dial(c->session, true, c->call);
}

/* ---- latency */

static int compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static int check_latency(struct check *c) {
        uint64_t times[N_PINGS];

        for (size_t i = 0; i < N_PINGS; i++) {
                uint64_t start = sql_now_ns();
                MYSQL_RES *result;
                int r;

                my_text_reset(&c->session->text);
                my_text_add(&c->session->text, "SELECT 1");
                r = my_ask(c->session, c->call, &result);
                if (r < 0)
                        return r;
                mysql_free_result(result);
                times[i] = sql_now_ns() - start;
        }
        qsort(times, N_PINGS, sizeof(times[0]), compare);
        report(c, "latency", times[N_PINGS / 2] > 20000000 ? STOKE_WARNING : STOKE_INFO, "%.2f ms a question",
                (double)times[N_PINGS / 2] / 1e6);
        return 0;
}

/* ---- variables */

struct variables {
        char flush[16], doublewrite[32], sync_binlog[24], log_bin[8], wsrep_cluster_size[16], wsrep_status[32];
        uint64_t max_connections, max_user_connections, connected, packet;
};

static void take(struct variables *v, const char *name, const char *value) {
        const struct {
                const char *name;
                char *to;
                size_t size;
        } texts[] = {
                {"innodb_flush_log_at_trx_commit", v->flush, sizeof(v->flush)},
                {"innodb_doublewrite", v->doublewrite, sizeof(v->doublewrite)},
                {"sync_binlog", v->sync_binlog, sizeof(v->sync_binlog)},
                {"log_bin", v->log_bin, sizeof(v->log_bin)},
                {"wsrep_cluster_size", v->wsrep_cluster_size, sizeof(v->wsrep_cluster_size)},
                {"wsrep_cluster_status", v->wsrep_status, sizeof(v->wsrep_status)},
        };
        const struct {
                const char *name;
                uint64_t *to;
        } numbers[] = {
                {"max_connections", &v->max_connections},
                {"max_user_connections", &v->max_user_connections},
                {"Threads_connected", &v->connected},
                {"max_allowed_packet", &v->packet},
        };

        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
                if (strcasecmp(name, texts[i].name) == 0)
                        snprintf(texts[i].to, texts[i].size, "%s", value);
        for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
                if (strcasecmp(name, numbers[i].name) == 0)
                        *numbers[i].to = my_number(value);
}

static int read_variables(struct check *c, const char *statement, struct variables *v) {
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        my_text_reset(&c->session->text);
        my_text_add(&c->session->text, statement);
        r = my_ask(c->session, c->call, &result);
        if (r < 0)
                return r;
        while ((row = mysql_fetch_row(result)))
                if (row[0] && row[1])
                        take(v, row[0], row[1]);
        mysql_free_result(result);
        return 0;
}

static void report_durability(struct check *c, const struct variables *v) {
        bool binlog = strcasecmp(v->log_bin, "ON") == 0 || strcmp(v->log_bin, "1") == 0;

        if (strcmp(v->flush, "1") != 0)
                report(c, "durability", STOKE_PROBLEM,
                        "innodb_flush_log_at_trx_commit is %s: commits of the last second are lost when the server, or its "
                        "machine, dies",
                        v->flush);
        else
                report(c, "durability", STOKE_INFO, "each commit is synced (innodb_flush_log_at_trx_commit=1)");
        if (strcasecmp(v->doublewrite, "OFF") == 0 || strcmp(v->doublewrite, "0") == 0)
                report(c, "durability", STOKE_WARNING,
                        "innodb_doublewrite is off: a page torn by a power failure cannot be repaired, unless the file "
                        "system writes pages whole");
        /* What the redo log has is then only prepared: a commit that the binary log has lost is rolled back at the start. */
        if (binlog && strcmp(v->sync_binlog, "1") != 0)
                report(c, "durability", STOKE_PROBLEM,
                        "sync_binlog is %s with a binary log: commits of the last moments are lost when the machine dies",
                        v->sync_binlog);
        if (c->session->server.galera)
                report(c, "cluster", strcasecmp(v->wsrep_status, "Primary") == 0 ? STOKE_INFO : STOKE_PROBLEM,
                        "Galera, %s nodes, %s", v->wsrep_cluster_size, v->wsrep_status);
}

static void report_connections(struct check *c, const struct variables *v) {
        uint64_t left = v->max_connections > v->connected ? v->max_connections - v->connected : 0;

        report(c, "connections",
                left < 4                                                                         ? STOKE_PROBLEM
                        : left < 12 || (v->max_user_connections && v->max_user_connections < 12) ? STOKE_WARNING
                                                                                                 : STOKE_INFO,
                "%llu of %llu are left%s", (unsigned long long)left, (unsigned long long)v->max_connections,
                v->max_user_connections ? ", and each user's number is bounded (max_user_connections)" : "");
        if (v->packet < (16u << 20))
                report(c, "packets", v->packet < (4u << 20) ? STOKE_WARNING : STOKE_INFO,
                        "max_allowed_packet is %.1f MiB: a value has at most half of it",
                        (double)v->packet / (1 << 20));
}

/* ---- rights, as SHOW GRANTS tells them: those on everything, and those on our database */

static const char *const privileges[] = {
        "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "LOCK TABLES", "INDEX", "CREATE USER"};
#define N_PRIVILEGES (sizeof(privileges) / sizeof(privileges[0]))
#define N_SHARED 8 /* of them, what the shared database needs */

/* "GRANT A, B (c), C ON what TO …": is one of the list among them? */
static bool lists(const char *list, const char *end, const char *privilege) {
        size_t size = strlen(privilege);

        for (const char *p = list; p < end; p++) {
                const char *comma = memchr(p, ',', (size_t)(end - p));
                const char *stop = comma ? comma : end;

                while (*p == ' ')
                        p++;
                if ((size_t)(stop - p) == size && strncasecmp(p, privilege, size) == 0)
                        return true;
                p = stop;
        }
        return false;
}

static bool names_ours(struct check *c, const char *what) {
        char *quoted;
        bool ours;
        size_t size;

        if (strncmp(what, "*.*", 3) == 0)
                return true;
        if (c->session->store->dedicated)
                return false;
        quoted = sql_quote_identifier(c->session->store->database, '`');
        size = quoted ? strlen(quoted) : 0;
        /* A pattern for names is not looked through: what it gives is not seen here. */
        ours = quoted && strncmp(what, quoted, size) == 0 && strncmp(what + size, ".*", 2) == 0;
        free(quoted);
        return ours;
}

static int check_rights(struct check *c) {
        size_t wanted = c->session->store->dedicated ? N_PRIVILEGES : N_SHARED;
        bool has[N_PRIVILEGES] = {}, grants = false, roles = false;
        char lacking[256] = "";
        size_t used = 0;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        my_text_reset(&c->session->text);
        my_text_add(&c->session->text, "SHOW GRANTS");
        r = my_ask(c->session, c->call, &result);
        if (r < 0)
                return r;
        while ((row = mysql_fetch_row(result))) {
                const char *on = row[0] ? strstr(row[0], " ON ") : NULL;

                if (!on) {
                        roles = true;
                        continue;
                }
                if (strncmp(row[0], "GRANT ", 6) != 0 || !names_ours(c, on + 4))
                        continue;
                grants |= strstr(on, "WITH GRANT OPTION") != NULL;
                for (size_t i = 0; i < N_PRIVILEGES; i++)
                        has[i] |= lists(row[0] + 6, on, privileges[i]) || lists(row[0] + 6, on, "ALL PRIVILEGES");
        }
        mysql_free_result(result);
        for (size_t i = 0; i < wanted && used < sizeof(lacking); i++)
                if (!has[i])
                        used += (size_t)snprintf(
                                lacking + used, sizeof(lacking) - used, "%s%s", used ? ", " : "", privileges[i]);
        if (c->session->store->dedicated && !grants && used < sizeof(lacking))
                used += (size_t)snprintf(lacking + used, sizeof(lacking) - used, "%sGRANT OPTION", used ? ", " : "");
        if (used == 0)
                report(c, "rights", STOKE_INFO, "%s",
                        c->session->store->dedicated ? "may make databases, users and grants"
                                                     : "may make and write tables");
        else if (roles)
                report(c, "rights", STOKE_INFO, "of its own the account lacks %s; its roles were not looked at",
                        lacking);
        else
                report(c, "rights", STOKE_WARNING, "the account seems to lack %s", lacking);
        return 0;
}

/* ---- size */

static int check_size(struct check *c) {
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        my_catalogue_text(c->session,
                c->session->store->dedicated
                        ? "SELECT COUNT(*), SUM(data_length + index_length) FROM information_schema.tables "
                          "WHERE table_schema IN (SELECT LOWER(CONCAT_WS('-', HEX(SUBSTR(incarnation, 1, 4)), "
                          "HEX(SUBSTR(incarnation, 5, 2)), HEX(SUBSTR(incarnation, 7, 2)), "
                          "HEX(SUBSTR(incarnation, 9, 2)), HEX(SUBSTR(incarnation, 11, 6)))) FROM @.keyspaces)"
                        : "SELECT COUNT(*), SUM(data_length + index_length) FROM information_schema.tables "
                          "WHERE table_schema = ");
        if (!c->session->store->dedicated)
                my_text_bytes(&c->session->text, c->session->mysql, c->session->store->database,
                        strlen(c->session->store->database));
        r = my_ask(c->session, c->call, &result);
        if (r < 0)
                return r;
        row = mysql_fetch_row(result);
        if (row)
                report(c, "size", STOKE_INFO, "%.1f MiB in %llu tables", (double)my_number(row[1]) / (1 << 20),
                        (unsigned long long)my_number(row[0]));
        mysql_free_result(result);
        return 0;
}

static int check_all(struct check *c) {
        struct stoke_session *session = c->session;
        struct variables v = {};
        int r;

        r = check_endpoints(c);
        if (r < 0)
                return r;
        report(c, "version", STOKE_INFO, "%s %s", session->server.mariadb ? "MariaDB" : "MySQL",
                session->server.version);
        if (session->server.mariadb && session->server.number < 100600)
                report(c, "version", STOKE_WARNING,
                        "before MariaDB 10.6 a crash in the middle of a rename can lose a keyspace that is being made");
        r = check_latency(c);
        if (r == 0)
                r = read_variables(c,
                        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_flush_log_at_trx_commit', "
                        "'innodb_doublewrite', 'sync_binlog', 'log_bin', 'max_connections', "
                        "'max_user_connections', 'max_allowed_packet')",
                        &v);
        if (r == 0)
                r = read_variables(c,
                        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'wsrep_cluster_size', "
                        "'wsrep_cluster_status')",
                        &v);
        if (r < 0)
                return r;
        report_durability(c, &v);
        report_connections(c, &v);
        r = check_rights(c);
        if (r == 0)
                r = check_size(c);
        if (mysql_get_ssl_cipher(session->mysql))
                report(c, "encryption", STOKE_INFO, "TLS, %s", mysql_get_ssl_cipher(session->mysql));
        else
                report(c, "encryption", STOKE_INFO, "none");
        return r;
}

int my_check(struct stoke_store *store, struct stoke_call *call,
        void (*report_fn)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata) {
        struct check c = {.call = call, .report = report_fn, .userdata = userdata};
        int r;

        r = my_session_new(store, NULL, &c.session);
        if (r < 0)
                return my_no_memory(call);
        r = my_start(c.session, call);
        if (r == 0)
                r = my_end(c.session, check_all(&c));
        my_session_free(c.session);
        return r;
}
