/*
 * The loader. Whoever can write a plugin's file, or a directory above it, can run code in this process, so both are checked before the file is
 * opened as a library; what is in it is checked before anything of it is called. The main thread scans; the mutex is for
 * those who look at the table meanwhile.
 */
#include "driver/plugin.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "driver/elf.h"

struct plugin_table {
        char *directory; /* owned */
        bool root_only;
        char **experimental; /* owned */
        size_t n_experimental;
        pthread_mutex_t mutex; /* plugins */
        struct plugin **plugins;
        size_t n_plugins;
        struct plugin_refusal *refusals; /* the main thread's */
        size_t n_refusals;
};

static void refusals_free(struct plugin_refusal *refusals, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(refusals[i].path);
                free(refusals[i].reason);
        }
        free(refusals);
}

static void names_free(char **names, size_t n) {
        for (size_t i = 0; i < n; i++)
                free(names[i]);
        free(names);
}

int plugin_table_new(const struct plugin_table_config *config, struct plugin_table **ret) {
        cleanup(plugin_table_freep) struct plugin_table *table = new0(struct plugin_table);
        int r;

        pthread_mutex_init(&table->mutex, NULL);
        table->root_only = config->root_only;
        table->directory = strdup(config->directory);
        if (!table->directory)
                return -ENOMEM;
        r = plugin_table_allow(table, config->experimental, config->n_experimental);
        if (r < 0)
                return r;
        *ret = steal(table);
        return 0;
}

void plugin_table_free(struct plugin_table *table) {
        if (!table)
                return;
        for (size_t i = 0; i < table->n_plugins; i++) {
                free(table->plugins[i]->path);
                free(table->plugins[i]);
        }
        names_free(table->experimental, table->n_experimental);
        refusals_free(table->refusals, table->n_refusals);
        free(table->plugins);
        free(table->directory);
        pthread_mutex_destroy(&table->mutex);
        free(table);
}

/* ---- who may write it */

static bool owner_allowed(const struct plugin_table *table, uid_t uid) {
        return uid == 0 || (!table->root_only && uid == geteuid());
}

static int check_directory(const struct plugin_table *table, const char *path, struct error *reterr) {
        struct stat st;

        if (lstat(path, &st) < 0)
                return error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        if (!S_ISDIR(st.st_mode))
                return error_set(reterr, -ENOTDIR, "%s is not a directory", path);
        if (!owner_allowed(table, st.st_uid))
                return error_set(reterr, -EPERM, "the directory %s belongs to user %u", path, (unsigned)st.st_uid);
        if ((st.st_mode & 022) && (table->root_only || !(st.st_mode & S_ISVTX)))
                return error_set(reterr, -EPERM, "the directory %s can be written by its group or others (mode %04o)",
                        path, (unsigned)st.st_mode & 07777);
        return 0;
}

/* The directory and all above it. path: without symbolic links. */
static int check_directories(const struct plugin_table *table, const char *path, struct error *reterr) {
        cleanup(freep) char *copy = strdup(path);
        int r;

        if (!copy)
                return -ENOMEM;
        for (;;) {
                char *slash;

                r = check_directory(table, copy[0] ? copy : "/", reterr);
                if (r < 0 || copy[0] == '\0' || copy[1] == '\0')
                        return r;
                slash = strrchr(copy, '/');
                if (!slash)
                        return error_set(reterr, -EINVAL, "%s is not absolute", path);
                *slash = '\0';
        }
}

static int check_file(const struct plugin_table *table, int fd, struct error *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return error_set(reterr, -errno, "%s", strerror(errno));
        if (!S_ISREG(st.st_mode))
                return error_set(reterr, -EINVAL, "not a regular file");
        if (!owner_allowed(table, st.st_uid))
                return error_set(reterr, -EPERM, "it belongs to user %u", (unsigned)st.st_uid);
        if (st.st_mode & 022)
                return error_set(reterr, -EPERM, "it can be written by its group or others (mode %04o)",
                        (unsigned)st.st_mode & 07777);
        /* Before it is opened as a library: that runs what is in it. */
        return elf_check(fd, STOKE_DRIVER_SYMBOL, reterr);
}

/* ---- what is in it */

static bool name_valid(const char *name) {
        size_t size = name ? strnlen(name, 33) : 0;

        if (size == 0 || size > 32 || !isalpha((unsigned char)name[0]))
                return false;
        for (size_t i = 0; i < size; i++)
                if (!isalnum((unsigned char)name[i]) && name[i] != '-')
                        return false;
        return true;
}

static bool answers_to(const struct stoke_driver *driver, const char *name) {
        if (strcmp(driver->name, name) == 0)
                return true;
        for (const char *const *alias = driver->aliases; alias && *alias; alias++)
                if (strcmp(*alias, name) == 0)
                        return true;
        return false;
}

static int check_clash(struct plugin_table *table, const char *name, struct error *reterr) {
        for (size_t i = 0; i < table->n_plugins; i++)
                if (answers_to(table->plugins[i]->driver, name))
                        return error_set(reterr, -EEXIST, "there is a driver \"%s\" already, from %s", name,
                                table->plugins[i]->path);
        return 0;
}

static int check_driver(struct plugin_table *table, const struct stoke_driver *d, struct error *reterr) {
        int r;

        if (d->magic != STOKE_DRIVER_MAGIC)
                return error_set(reterr, -EINVAL, "its symbol " STOKE_DRIVER_SYMBOL " is not a driver (wrong magic)");
        if (d->abi_major != STOKE_ABI_MAJOR)
                return error_set(reterr, -EINVAL,
                        "it was built for version %u.%u of the driver ABI; this daemon has %u.%u", d->abi_major,
                        d->abi_minor, STOKE_ABI_MAJOR, STOKE_ABI_MINOR);
        if (d->size < offsetof(struct stoke_driver, install_abort) + sizeof(d->install_abort))
                return error_set(reterr, -EINVAL, "its description has %zu bytes, fewer than the %zu of ABI %u.0",
                        d->size, offsetof(struct stoke_driver, install_abort) + sizeof(d->install_abort),
                        STOKE_ABI_MAJOR);
        if (!name_valid(d->name))
                return error_set(reterr, -EINVAL, "its driver has no valid name");
        if (!d->open || !d->close || !d->check || !d->connect || !d->disconnect || !d->interrupt || !d->create ||
                !d->drop || !d->list || !d->stat || !d->load || !d->values || !d->append || !d->ends || !d->compact ||
                !d->install_begin || !d->install_feed || !d->install_commit || !d->install_abort ||
                ((d->capabilities & STOKE_EXCLUSIVE) && (!d->acquire || !d->release)) ||
                ((d->capabilities & STOKE_NOTIFIES) && !d->wait))
                return error_set(reterr, -EINVAL, "driver \"%s\" lacks a function that it must have", d->name);
        if (d->limits.record_bytes == 0 || d->limits.batch_bytes == 0 || d->limits.batch_records == 0)
                return error_set(reterr, -EINVAL, "driver \"%s\" names a limit of 0", d->name);
        r = check_clash(table, d->name, reterr);
        for (const char *const *alias = d->aliases; r == 0 && alias && *alias; alias++)
                r = name_valid(*alias) ? check_clash(table, *alias, reterr)
                                       : error_set(reterr, -EINVAL, "driver \"%s\" has an invalid alias", d->name);
        return r;
}

static bool experimental_allowed(const struct plugin_table *table, const struct stoke_driver *driver) {
        for (size_t i = 0; i < table->n_experimental; i++)
                if (answers_to(driver, table->experimental[i]))
                        return true;
        return false;
}

static bool allowed(const struct plugin_table *table, const struct stoke_driver *driver) {
        return driver->maturity != STOKE_EXPERIMENTAL || experimental_allowed(table, driver);
}

int plugin_table_allow(struct plugin_table *table, const char *const *experimental, size_t n_experimental) {
        char **names = calloc(n_experimental + 1, sizeof(char *));

        if (!names)
                return -ENOMEM;
        for (size_t i = 0; i < n_experimental; i++) {
                names[i] = strdup(experimental[i]);
                if (!names[i]) {
                        names_free(names, i);
                        return -ENOMEM;
                }
        }
        names_free(table->experimental, table->n_experimental);
        table->experimental = names;
        table->n_experimental = n_experimental;
        pthread_mutex_lock(&table->mutex);
        for (size_t i = 0; i < table->n_plugins; i++)
                table->plugins[i]->allowed = allowed(table, table->plugins[i]->driver);
        pthread_mutex_unlock(&table->mutex);
        return 0;
}

static int load(struct plugin_table *table, const char *path, struct error *reterr) {
        const struct stoke_driver *driver;
        struct plugin *plugin, **plugins;
        void *handle;
        int fd, r;

        fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ELOOP ? error_set(reterr, -ELOOP, "a symbolic link")
                                      : error_set(reterr, -errno, "%s", strerror(errno));
        r = check_file(table, fd, reterr);
        close(fd);
        if (r < 0)
                return r;
        /* By its name, not by the descriptor: the linker takes two libraries of one name for the same. Nobody who is not trusted could
         * have exchanged the file since. */
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (!handle)
                return error_set(reterr, -ENOEXEC, "%s", dlerror());
        driver = dlsym(handle, STOKE_DRIVER_SYMBOL);
        if (!driver)
                r = error_set(reterr, -ENOENT, "no symbol " STOKE_DRIVER_SYMBOL);
        if (r == 0)
                r = check_driver(table, driver, reterr);
        if (r < 0) {
                dlclose(handle); /* stays mapped; only the count goes */
                return r;
        }
        plugin = new0(struct plugin);
        plugin->driver = driver;
        plugin->path = strdup(path);
        plugin->allowed = allowed(table, driver);
        check(plugin->path);
        pthread_mutex_lock(&table->mutex);
        plugins = reallocarray(table->plugins, table->n_plugins + 1, sizeof(struct plugin *));
        check(plugins);
        table->plugins = plugins;
        plugins[table->n_plugins++] = plugin;
        pthread_mutex_unlock(&table->mutex);
        log_info("driver \"%s\" %s loaded from %s%s", driver->name, driver->version ? driver->version : "", path,
                plugin->allowed ? "" : " (experimental, not allowed by stokehold.yaml)");
        return 0;
}

/* ---- scanning */

static void refuse(
        struct plugin_table *table, struct plugin_refusal **list, size_t *n, const char *path, const char *reason) {
        struct plugin_refusal *longer;
        bool known = false;

        for (size_t i = 0; i < table->n_refusals; i++)
                known |= strcmp(table->refusals[i].path, path) == 0 && strcmp(table->refusals[i].reason, reason) == 0;
        if (!known)
                log_warning("plugin %s skipped: %s", path, reason);
        longer = reallocarray(*list, *n + 1, sizeof(**list));
        check(longer);
        *list = longer;
        longer[*n].path = strdup(path);
        longer[*n].reason = strdup(reason);
        check(longer[*n].path && longer[*n].reason);
        (*n)++;
}

static int is_plugin(const struct dirent *entry) {
        size_t size = strlen(entry->d_name);

        return size > 3 && entry->d_name[0] != '.' && strcmp(entry->d_name + size - 3, ".so") == 0;
}

void plugin_table_scan(struct plugin_table *table) {
        cleanup(error_done) struct error error = {};
        cleanup(freep) char *directory = NULL;
        struct plugin_refusal *refusals = NULL;
        struct dirent **entries = NULL;
        size_t n_refusals = 0;
        int n = 0;

        directory = realpath(table->directory, NULL);
        if (!directory)
                error_set(&error, -errno, "%s", strerror(errno));
        else if (check_directories(table, directory, &error) == 0) {
                n = scandir(directory, &entries, is_plugin, alphasort);
                if (n < 0)
                        error_set(&error, -errno, "%s", strerror(errno));
        }
        if (error.code < 0)
                refuse(table, &refusals, &n_refusals, table->directory, error_text(&error));
        for (int i = 0; i < n; i++) {
                cleanup(error_done) struct error reason = {};
                cleanup(freep) char *path = NULL;
                bool loaded = false;

                check(asprintf(&path, "%s/%s", directory, entries[i]->d_name) >= 0);
                free(entries[i]);
                for (size_t k = 0; k < table->n_plugins; k++)
                        loaded |= strcmp(table->plugins[k]->path, path) == 0;
                if (!loaded && load(table, path, &reason) < 0)
                        refuse(table, &refusals, &n_refusals, path, error_text(&reason));
        }
        free(entries);
        refusals_free(table->refusals, table->n_refusals);
        table->refusals = refusals;
        table->n_refusals = n_refusals;
}

/* ---- looking */

const struct plugin *plugin_find(struct plugin_table *table, const char *name, struct error *reterr) {
        cleanup(freep) char *names = NULL;
        const struct plugin *found = NULL;
        size_t size = 0;
        FILE *f;

        pthread_mutex_lock(&table->mutex);
        for (size_t i = 0; i < table->n_plugins && !found; i++)
                if (answers_to(table->plugins[i]->driver, name))
                        found = table->plugins[i];
        if (!found) {
                f = open_memstream(&names, &size);
                check(f);
                for (size_t i = 0; i < table->n_plugins; i++)
                        fprintf(f, "%s%s", i ? ", " : "", table->plugins[i]->driver->name);
                check(fclose(f) == 0);
        }
        pthread_mutex_unlock(&table->mutex);
        if (!found) {
                if (size)
                        error_set(reterr, -ENOENT, "no driver \"%s\": there are %s", name, names);
                else
                        error_set(reterr, -ENOENT, "no driver \"%s\": there is none at all in %s", name,
                                table->directory);
                return NULL;
        }
        if (!found->allowed) {
                error_set(reterr, -EPERM, "driver \"%s\" is experimental and not allowed by stokehold.yaml",
                        found->driver->name);
                return NULL;
        }
        return found;
}

size_t plugin_count(struct plugin_table *table) {
        size_t n;

        pthread_mutex_lock(&table->mutex);
        n = table->n_plugins;
        pthread_mutex_unlock(&table->mutex);
        return n;
}

const struct plugin *plugin_at(struct plugin_table *table, size_t i) {
        const struct plugin *plugin;

        pthread_mutex_lock(&table->mutex);
        check(i < table->n_plugins);
        plugin = table->plugins[i];
        pthread_mutex_unlock(&table->mutex);
        return plugin;
}

size_t plugin_refusal_count(struct plugin_table *table) {
        return table->n_refusals;
}

const struct plugin_refusal *plugin_refusal_at(struct plugin_table *table, size_t i) {
        check(i < table->n_refusals);
        return &table->refusals[i];
}
