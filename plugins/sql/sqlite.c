/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQLite driver: the log in one file a keyspace, for one daemon at a time. Here is the plugin's descriptor, its stores and sessions; what is
 * done with keyspaces is in sqlite_keyspace.c, with records in sqlite_read.c and sqlite_append.c, with installations in
 * sqlite_install.c. Below them are connections (sqlite_connection.c), databases that are held open (sqlite_file.c), paths
 * and locks (sqlite_path.c), and the WAL (sqlite_checkpoint.c). Functions run on the host's session threads, the helper on its own.
 */
#include "sqlite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct stoke_limits sqlite_limits = {
        .record_bytes = 16u << 20,
        .batch_bytes = 32u << 20,
        .batch_records = 4096,
};

const struct sql_dialect sqlite_dialect = {
        .integer = "INTEGER",
        .small = "INTEGER",
        .key_bytes = "BLOB",
        .value_bytes = "BLOB",
        .octet_length = "length",
        .table_suffix = "",
};

/* ---- store and sessions */

static const char *setting(const struct stoke_datastore *datastore, const char *name) {
        for (size_t i = 0; i < datastore->n_settings; i++)
                if (strcmp(datastore->settings[i].name, name) == 0)
                        return datastore->settings[i].value;
        return NULL;
}

static pthread_once_t configured = PTHREAD_ONCE_INIT;

static void configure(void) {
        /* Statistics cost a global lock at each allocation. Refused, harmlessly, if somebody else has initialised the library. */
        (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
        (void)sqlite3_initialize();
}

static void sqlite_store_close(struct stoke_store *store) {
        if (!store)
                return;
        sqlite_checkpoint_stop(store);
        for (size_t i = 0; i < SQLITE_LOG_BUCKETS; i++)
                while (store->buckets[i]) {
                        struct file *file = store->buckets[i];

                        store->buckets[i] = file->next;
                        sqlite_file_free(file);
                }
        pthread_cond_destroy(&store->changed);
        pthread_mutex_destroy(&store->mutex);
        pthread_mutex_destroy(&store->making);
        free(store->directory);
        free(store->name);
        free(store);
}

static int sqlite_store_open(const struct stoke_datastore *datastore, const struct stoke_host *host,
        struct stoke_call *call, struct stoke_store **ret) {
        const char *path = setting(datastore, "path");
        struct stoke_store *store;

        pthread_once(&configured, configure);
        if (!path || path[0] != '/')
                return sql_fail(call, -EINVAL, "SQLite needs \"path\", the absolute path of a directory");
        if (datastore->n_endpoints > 0)
                return sql_fail(call, -EINVAL, "SQLite has no endpoints");
        for (size_t i = 0; i < datastore->n_settings; i++)
                if (strcmp(datastore->settings[i].name, "path") != 0)
                        return sql_fail(call, -EINVAL, "SQLite knows no parameter \"%s\"", datastore->settings[i].name);
        store = calloc(1, sizeof(*store));
        if (!store)
                return -ENOMEM;
        pthread_mutex_init(&store->making, NULL);
        pthread_mutex_init(&store->mutex, NULL);
        pthread_cond_init(&store->changed, NULL);
        store->host = host;
        store->name = strdup(datastore->name);
        store->directory = strdup(path);
        if (!store->name || !store->directory) {
                sqlite_store_close(store);
                return -ENOMEM;
        }
        for (size_t n = strlen(store->directory); n > 1 && store->directory[n - 1] == '/'; n--)
                store->directory[n - 1] = '\0';
        *ret = store;
        return 0;
}

static int sqlite_connect(struct stoke_store *store, const struct stoke_keyspace *scope, struct stoke_call *call,
        struct stoke_session **ret) {
        struct stoke_session *session;
        int r;

        (void)scope;
        r = sqlite_begin_call(NULL, call);
        if (r == 0)
                r = sqlite_make_directory(store, call);
        if (r < 0)
                return r;
        session = calloc(1, sizeof(*session));
        if (!session)
                return -ENOMEM;
        session->store = store;
        *ret = session;
        return 0;
}

static void sqlite_disconnect(struct stoke_session *session) {
        free(session);
}

static void sqlite_session_interrupt(struct stoke_session *session) {
        atomic_store(&session->interrupted, true);
}

static const char *const aliases[] = {"sqlite", NULL};

STOKE_EXPORT extern const struct stoke_driver stoke_driver;
const struct stoke_driver stoke_driver = {
        .magic = STOKE_DRIVER_MAGIC,
        .abi_major = STOKE_ABI_MAJOR,
        .abi_minor = STOKE_ABI_MINOR,
        .size = sizeof(struct stoke_driver),
        .name = "SQLite",
        .aliases = aliases,
        .version = STOKE_VERSION,
        .maturity = STOKE_STABLE,
        .capabilities = STOKE_EXCLUSIVE,
        .limits = {.record_bytes = 16u << 20, .batch_bytes = 32u << 20, .batch_records = 4096},
        .open = sqlite_store_open,
        .close = sqlite_store_close,
        .check = sqlite_check,
        .connect = sqlite_connect,
        .disconnect = sqlite_disconnect,
        .interrupt = sqlite_session_interrupt,
        .acquire = sqlite_acquire,
        .release = sqlite_release,
        .create = sqlite_create,
        .drop = sqlite_drop,
        .list = sqlite_list,
        .stat = sqlite_stat,
        .load = sqlite_load,
        .values = sqlite_values,
        .append = sqlite_append,
        .ends = sqlite_ends,
        .compact = sqlite_compact,
        .install_begin = sqlite_install_begin,
        .install_feed = sqlite_install_feed,
        .install_commit = sqlite_install_commit,
        .install_abort = sqlite_install_abort,
        .read = sqlite_read,
};
