/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MySQL driver: the log in one table a keyspace, for several daemons at a time. Here is the plugin's descriptor, its stores, and
 * where a keyspace's tables are. Calls and their bounds are in mysql_session.c, connections in mysql_dial.c, the catalogue in
 * mysql_catalogue.c; what is done with records in mysql_append.c, mysql_read.c and mysql_compact.c, with keyspaces in mysql_keyspace.c,
 * mysql_install.c and mysql_tenant.c; how daemons hear of each other in mysql_notify.c and mysql_wait.c. Functions run on the
 * host's session threads; a store has two threads of its own, the watch and the notifier.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mysql_driver.h"

/* A record fits a packet of 16 MiB, MariaDB's default, even if every byte of it must be escaped, and a tenth of MySQL's default redo log,
 * beyond which InnoDB refuses it. A batch may take several packets. */
#define RECORD_BYTES (7u << 20)
#define BATCH_BYTES (32u << 20)
#define BATCH_RECORDS 4096

const struct stoke_limits my_limits = {
        .record_bytes = RECORD_BYTES, .batch_bytes = BATCH_BYTES, .batch_records = BATCH_RECORDS};

int my_place(const struct stoke_store *store, const struct stoke_keyspace *keyspace, const uint8_t *id,
        struct my_place *ret, struct stoke_call *call) {
        char account[SQL_UUID_DASHED], uuid[SQL_UUID_TEXT];

        if (!sql_name_valid(keyspace->name, strlen(keyspace->name)))
                return sql_fail(call, -EINVAL, "not a name for a keyspace");
        *ret = (struct my_place){};
        sql_server_account(keyspace->incarnation, MY_IDENTIFIER_MAX, account);
        snprintf(ret->database, sizeof(ret->database), "%s", store->dedicated ? account : store->database);
        sql_server_table(keyspace, "", MY_IDENTIFIER_MAX, ret->table);
        /* Neither can be the table of another keyspace: those end with 32 hexadecimal digits. */
        sql_uuid_text(keyspace->incarnation, uuid);
        snprintf(ret->making, sizeof(ret->making), "%s-making", uuid);
        if (id) {
                sql_uuid_text(id, uuid);
                snprintf(ret->installing, sizeof(ret->installing), "%s-installing", uuid);
        }
        return 0;
}

static pthread_once_t initialised = PTHREAD_ONCE_INIT;

static void initialise(void) {
        (void)mysql_library_init(0, NULL, NULL);
}

static void my_close(struct stoke_store *store) {
        if (!store)
                return;
        my_news_stop(store);
        my_watch_stop(store);
        pthread_cond_destroy(&store->watch_changed);
        pthread_mutex_destroy(&store->mutex);
        sql_endpoints_free(store->endpoints, store->n_endpoints);
        free(store->database);
        free(store);
}

static int my_open(const struct stoke_datastore *datastore, const struct stoke_host *host, struct stoke_call *call,
        struct stoke_store **ret) {
        static const char *const known[] = {"database", "credentials", NULL};
        const char *database = sql_setting(datastore, "database");
        pthread_condattr_t attr;
        struct stoke_store *store;
        size_t size;
        int r;

        pthread_once(&initialised, initialise);
        if (!database)
                database = MY_DATABASE;
        size = strlen(database);
        if (size == 0 || size > MY_IDENTIFIER_MAX || database[size - 1] == ' ')
                return sql_fail(call, -EINVAL, "\"database\" is not a name that a database may have");
        r = sql_settings_check(datastore, "MySQL", known, call);
        if (r < 0)
                return r;
        store = calloc(1, sizeof(*store));
        if (!store)
                return my_no_memory(call);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_mutex_init(&store->mutex, NULL);
        pthread_cond_init(&store->watch_changed, &attr);
        pthread_condattr_destroy(&attr);
        store->host = host;
        r = sql_setting_dedicated(datastore, &store->dedicated, call);
        if (r == 0)
                r = sql_endpoints_parse(datastore, "MySQL", MY_PORT, call, &store->endpoints, &store->n_endpoints);
        if (r == 0) {
                store->database = strdup(database);
                store->news = my_news_new();
                if (!store->database || !store->news)
                        r = my_no_memory(call);
        }
        if (r == 0)
                r = my_watch_start(store);
        if (r < 0) {
                my_close(store);
                return r;
        }
        *ret = store;
        return 0;
}

static int my_connect(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_call *call,
        struct stoke_session **ret) {
        struct stoke_session *session;
        int r;

        r = my_session_new(store, scope, &session);
        if (r < 0)
                return r;
        r = my_begin(session, false, call);
        if (r == 0)
                r = my_end(session, 0);
        if (r < 0) {
                my_session_free(session);
                return r;
        }
        *ret = session;
        return 0;
}

static bool my_scoped(struct stoke_store *store) {
        return store->dedicated;
}

static const char *const aliases[] = {"MariaDB", "mysql", NULL};

STOKE_EXPORT extern const struct stoke_driver stoke_driver;
const struct stoke_driver stoke_driver = {
        .magic = STOKE_DRIVER_MAGIC,
        .abi_major = STOKE_ABI_MAJOR,
        .abi_minor = STOKE_ABI_MINOR,
        .size = sizeof(struct stoke_driver),
        .name = "MySQL",
        .aliases = aliases,
        .version = STOKE_VERSION,
        .maturity = STOKE_STABLE,
        .capabilities = STOKE_NOTIFIES,
        .limits = {.record_bytes = RECORD_BYTES, .batch_bytes = BATCH_BYTES, .batch_records = BATCH_RECORDS},
        .open = my_open,
        .close = my_close,
        .check = my_check,
        .connect = my_connect,
        .disconnect = my_session_free,
        .interrupt = my_interrupt,
        .create = my_create,
        .drop = my_drop,
        .list = my_list,
        .stat = my_stat,
        .load = my_load,
        .values = my_values,
        .append = my_append,
        .ends = my_ends,
        .wait = my_wait,
        .compact = my_compact,
        .install_begin = my_install_begin,
        .install_feed = my_install_feed,
        .install_commit = my_install_commit,
        .install_abort = my_install_abort,
        .server_limits = my_server_limits,
        .scoped = my_scoped,
        .read = my_read,
};
