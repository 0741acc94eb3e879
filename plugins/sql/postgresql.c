/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PostgreSQL driver: the log as a table a keyspace, for any number of daemons. Here is the plugin's descriptor, its stores and sessions.
 * What is done with keyspaces is in postgresql_keyspace.c, with records in postgresql_read.c and postgresql_append.c, with installations
 * in postgresql_install.c; notifications are postgresql_wait.c's, tenants' own users postgresql_tenant.c's. Below them are questions
 * (postgresql_query.c) and connections (postgresql_connection.c). Functions run on the host's session threads, interrupt() on any.
 */
#include "postgresql.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

const struct stoke_limits pg_limits = {
        .record_bytes = 16u << 20,
        .batch_bytes = 32u << 20,
        .batch_records = 4096,
};

int pg_store_log(struct stoke_store *store, int level, const char *format, ...) {
        char message[512];
        va_list args;

        va_start(args, format);
        vsnprintf(message, sizeof(message), format, args);
        va_end(args);
        if (store->host->log)
                store->host->log(store->host->userdata, level, message);
        return 0;
}

/* ---- store */

static void pg_store_close(struct stoke_store *store) {
        if (!store)
                return;
        pg_notify_stop(store);
        for (size_t i = 0; i < PG_LINKS; i++)
                pg_close(store->idle[i]);
        sql_endpoints_free(store->endpoints, store->n_endpoints);
        pthread_mutex_destroy(&store->mutex);
        free(store->database);
        free(store->sslmode);
        free(store);
}

static int pg_store_open(const struct stoke_datastore *datastore, const struct stoke_host *host,
        struct stoke_call *call, struct stoke_store **ret) {
        static const char *const known[] = {"database", "credentials", "sslmode", NULL};
        static const char *const modes[] = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"};
        const char *database = sql_setting(datastore, "database"), *sslmode = sql_setting(datastore, "sslmode");
        struct stoke_store *store;
        size_t i = 0;
        int r;

        r = sql_settings_check(datastore, "PostgreSQL", known, call);
        if (r < 0)
                return r;
        if (!database)
                database = "stokehold";
        if (!*database || strlen(database) > PG_IDENTIFIER_MAX)
                return sql_fail(call, -EINVAL, "\"database\" has 1 to %d bytes", PG_IDENTIFIER_MAX);
        while (sslmode && i < sizeof(modes) / sizeof(modes[0]) && strcmp(modes[i], sslmode) != 0)
                i++;
        if (i == sizeof(modes) / sizeof(modes[0]))
                return sql_fail(
                        call, -EINVAL, "\"sslmode\" is disable, allow, prefer, require, verify-ca or verify-full");
        store = calloc(1, sizeof(*store));
        if (!store)
                return -ENOMEM;
        pthread_mutex_init(&store->mutex, NULL);
        store->host = host;
        sql_uuid_text(host->daemon, store->daemon);
        store->database = strdup(database);
        store->sslmode = sslmode ? strdup(sslmode) : NULL;
        r = store->database && (store->sslmode || !sslmode) ? 0 : -ENOMEM;
        if (r == 0)
                r = sql_setting_dedicated(datastore, &store->dedicated, call);
        if (r == 0)
                r = sql_endpoints_parse(datastore, "PostgreSQL", "5432", call, &store->endpoints, &store->n_endpoints);
        if (r < 0) {
                pg_store_close(store);
                return r;
        }
        *ret = store;
        return 0;
}

/* ---- sessions */

int pg_session_new(struct stoke_store *store, struct stoke_call *call, struct stoke_session **ret) {
        struct stoke_session *session = NULL;

        session = calloc(1, sizeof(*session));
        if (!session)
                return -ENOMEM;
        session->store = store;
        session->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (session->wake < 0) {
                free(session);
                return sql_fail(call, -errno, "cannot make an eventfd: %s", strerror(errno));
        }
        pthread_mutex_init(&session->mutex, NULL);
        *ret = session;
        return 0;
}

void pg_session_free(struct stoke_session *session) {
        if (!session)
                return;
        pg_close(session->pg);
        close(session->wake);
        pthread_mutex_destroy(&session->mutex);
        free(session);
}

int pg_begin(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_call *call) {
        eventfd_t count;

        if (sql_expired(call))
                return sql_fail(call, -ETIMEDOUT, "the deadline had passed already");
        if (keyspace && !sql_name_valid(keyspace->name, strlen(keyspace->name)))
                return sql_fail(call, -EINVAL, "not a name for a keyspace");
        pthread_mutex_lock(&session->mutex);
        session->running = true;
        if (session->interrupted)
                (void)eventfd_read(session->wake, &count);
        session->interrupted = false;
        pthread_mutex_unlock(&session->mutex);
        return 0;
}

int pg_end(struct stoke_session *session, int r) {
        pthread_mutex_lock(&session->mutex);
        session->running = false;
        pthread_mutex_unlock(&session->mutex);
        return r;
}

void pg_interrupt(struct stoke_session *session) {
        pthread_mutex_lock(&session->mutex);
        if (session->running && !session->interrupted) {
                session->interrupted = true;
                (void)eventfd_write(session->wake, 1);
        }
        pthread_mutex_unlock(&session->mutex);
}

static int pg_connect(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_call *call,
        struct stoke_session **ret) {
        struct stoke_session *session = NULL;
        struct pg *pg = NULL;
        int r;

        r = pg_session_new(store, call, &session);
        if (r < 0)
                return r;
        r = pg_begin(session, scope, call);
        if (r < 0) {
                pg_session_free(session);
                return r;
        }
        r = scope ? pg_place(session, scope, call, &pg) : pg_centre(session, call, &pg);
        pg_release(session, pg);
        if (r == STOKE_MISSING && scope) /* to be made through this session */
                r = 0;
        pg_end(session, r);
        if (r != 0) {
                pg_session_free(session);
                return r;
        }
        *ret = session;
        return 0;
}

static bool pg_scoped(struct stoke_store *store) {
        return store->dedicated;
}

static const char *const aliases[] = {"postgresql", "Postgres", NULL};

STOKE_EXPORT extern const struct stoke_driver stoke_driver;
const struct stoke_driver stoke_driver = {
        .magic = STOKE_DRIVER_MAGIC,
        .abi_major = STOKE_ABI_MAJOR,
        .abi_minor = STOKE_ABI_MINOR,
        .size = sizeof(struct stoke_driver),
        .name = "PostgreSQL",
        .aliases = aliases,
        .version = STOKE_VERSION,
        .maturity = STOKE_STABLE,
        .capabilities = STOKE_NOTIFIES,
        .limits = {.record_bytes = 16u << 20, .batch_bytes = 32u << 20, .batch_records = 4096},
        .open = pg_store_open,
        .close = pg_store_close,
        .check = pg_check,
        .connect = pg_connect,
        .disconnect = pg_session_free,
        .interrupt = pg_interrupt,
        .create = pg_create,
        .drop = pg_drop,
        .list = pg_list,
        .stat = pg_stat,
        .load = pg_load,
        .values = pg_values,
        .append = pg_append,
        .ends = pg_ends,
        .wait = pg_wait,
        .compact = pg_compact,
        .install_begin = pg_install_begin,
        .install_feed = pg_install_feed,
        .install_commit = pg_install_commit,
        .install_abort = pg_install_abort,
        .server_limits = pg_server_limits,
        .scoped = pg_scoped,
        .read = pg_read,
};
