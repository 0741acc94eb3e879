/*
 * stokehold.yaml and the command line become a struct settings, with every default filled in. Made by the main thread;
 * nothing here is kept. A field that is not known is refused: a setting that was misspelt must not be a default in silence.
 */

#include "fleet/settings.h"

#include <limits.h>
#include <unistd.h>

#include "base/yaml.h"
#include "fleet/definition_file.h"
#include "fleet/machine.h"
#include "fleet/settings_read.h"

#define CONFIG_PLUGINS "/usr/lib/stokehold/plugins"
#define CONFIG_DEFINITIONS "/etc/stokehold/definitions.d"
#define CONFIG_SECRETS "/etc/stokehold/secrets"
#define CONFIG_STATE "/var/lib/stokehold"
#define CONFIG_RUNTIME "/run/stokehold"
#define CONFIG_METRICS "tcp:127.0.0.1:9379"
#define LEAST_MEMORY ((uint64_t)8 << 20)
/* Deeper messages are not even decoded. */
#define MAX_NESTING 48

void settings_free(struct settings *s) {
        if (!s)
                return;
        free(s->file);
        free(s->root);
        free(s->plugins_dir);
        free(s->definitions_dir);
        free(s->secrets_dir);
        free(s->state_dir);
        free(s->runtime_dir);
        free(s->control_socket);
        strings_free(s->experimental, s->n_experimental);
        free(s->metrics_listen);
        settings_tls_done(&s->tls);
        free(s);
}

/* ---- paths */

/* Without the slashes at the end, so that paths can be joined and compared. */
static void trim_slashes(char *path) {
        size_t n = strlen(path);

        while (n > 1 && path[n - 1] == '/')
                path[--n] = '\0';
}

static int path_join(const char *directory, const char *name, char **ret) {
        char *p;

        if (asprintf(&p, "%s%s%s", directory, strcmp(directory, "/") == 0 ? "" : "/", name) < 0)
                return -ENOMEM;
        trim_slashes(p);
        *ret = p;
        return 0;
}

/* A path of the command line, which is relative to where the daemon was started. */
static int path_absolute(const char *path, char **ret) {
        cleanup(freep) char *here = NULL;

        if (!*path)
                return -EINVAL;
        if (*path == '/')
                return path_join("/", path + strspn(path, "/"), ret);
        here = getcwd(NULL, 0);
        if (!here)
                return -errno;
        return path_join(here, path, ret);
}

static int plugins_beside_executable(char **ret) {
        cleanup(freep) char *exe = NULL;
        char *slash;

        exe = realpath("/proc/self/exe", NULL);
        if (!exe)
                return -errno;
        slash = strrchr(exe, '/');
        if (slash)
                *slash = '\0';
        return path_join(*exe ? exe : "/", "plugins", ret);
}

int settings_read_path(
        const struct node_reader *reader, const struct node_at *at, const char *key, const char *root, char **target) {
        const char *text = NULL;
        char *path = NULL;
        int r;

        r = node_string(reader, at, key, &text);
        if (r < 0 || !text)
                return r;
        if (!*text)
                return node_field_fail(reader, at, key, "is empty");
        /* A key that was pasted in the place of its file would be told with whatever goes wrong. */
        if (strchr(text, '\n') || strstr(text, "-----"))
                return node_field_fail(reader, at, key, "must be the path of a file, not what is in it");
        if (*text != '/' && !root)
                return node_field_fail(reader, at, key, "must be an absolute path");
        r = *text == '/' ? path_absolute(text, &path) : path_join(root, text, &path);
        if (r < 0)
                return r;
        free(*target);
        *target = path;
        return 0;
}

/* ---- the file, section by section */

static int read_paths(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"plugins", "definitions", "secrets", "state", "runtime", NULL};
        const struct {
                const char *key;
                char **target;
        } paths[] = {
                {"plugins", &s->plugins_dir},
                {"definitions", &s->definitions_dir},
                {"secrets", &s->secrets_dir},
                {"state", &s->state_dir},
                {"runtime", &s->runtime_dir},
        };
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "paths", "paths", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        for (size_t i = 0; i < n_elements(paths) && r >= 0; i++)
                r = settings_read_path(reader, &at, paths[i].key, s->root, paths[i].target);
        return r;
}

static int read_control(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"socket", NULL};
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "control", "control", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        return r < 0 ? r : settings_read_path(reader, &at, "socket", s->root, &s->control_socket);
}

static int read_drivers(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"experimental", NULL};
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "drivers", "drivers", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        return r < 0 ? r : node_strings(reader, &at, "experimental", &s->experimental, &s->n_experimental);
}

static int read_log(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"level", "slowRequest", NULL};
        const char *level = NULL;
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "log", "log", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        r = node_string(reader, &at, "level", &level);
        if (r < 0)
                return r;
        if (level && log_level_parse(level, &s->log_level) < 0)
                return node_field_fail(reader, &at, "level", "must be error, warning, notice, info or debug");
        return node_duration(reader, &at, "slowRequest", NULL, &s->slow_request_ns);
}

static int read_metrics(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"listen", NULL};
        const struct yaml_node *n;
        const char *text = NULL;
        char *listen = NULL;
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "metrics", "metrics", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;

        n = node_field(&at, "listen");
        if (n && n->kind == YAML_SCALAR && strcmp(n->text, "off") == 0) {
                free(steal(s->metrics_listen));
                return 0;
        }
        r = node_string(reader, &at, "listen", &text);
        if (r < 0 || !text)
                return r;
        if (strncmp(text, "unix:/", 6) != 0 && !(strncmp(text, "tcp:", 4) == 0 && tcp_address_is_loopback(text + 4)))
                return node_field_fail(reader, &at, "listen",
                        "must be tcp:127.0.0.1:PORT, tcp:[::1]:PORT, unix:/PATH or off (on loopback only, as it has no TLS)");
        r = string_copy(text, &listen);
        if (r < 0)
                return r;
        free(s->metrics_listen);
        s->metrics_listen = listen;
        return 0;
}

static int read_tenants(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {
                "quota", "autoCompaction", "progressNotify", "idleClose", "quarantine", "socketMode", NULL};
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "tenants", "tenants", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        r = node_size(reader, &at, "quota", NULL, &s->default_quota_bytes);
        if (r < 0)
                return r;
        r = node_duration(reader, &at, "autoCompaction", NULL, &s->auto_compaction_ns);
        if (r < 0)
                return r;
        r = node_duration(reader, &at, "progressNotify", NULL, &s->progress_notify_ns);
        if (r < 0)
                return r;
        r = node_duration(reader, &at, "idleClose", NULL, &s->idle_close_ns);
        if (r < 0)
                return r;
        r = node_duration(reader, &at, "quarantine", NULL, &s->quarantine_ns);
        if (r < 0)
                return r;
        return node_mode(reader, &at, "socketMode", NULL, &s->socket_mode);
}

static int read_limit(const struct node_reader *reader, const struct node_at *at, const char *key, uint32_t min,
        uint32_t max, uint32_t *ret) {
        uint64_t v = *ret;
        int r;

        r = node_number(reader, at, key, min, max, &v);
        *ret = (uint32_t)v;
        return r;
}

static int read_limits(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"requestBytes", "txnOperations", "txnNesting", "streams", "connections",
                "watches", "watchesPerStream", "watchBytes", "leases", NULL};
        const struct {
                const char *key;
                uint32_t max, *target;
        } numbers[] = {
                {"txnOperations", 10000, &s->limits.txn_operations},
                {"txnNesting", MAX_NESTING, &s->limits.txn_nesting},
                {"streams", 1 << 20, &s->limits.streams},
                {"connections", 1 << 20, &s->limits.connections},
                {"watches", 10000000, &s->limits.watches},
                {"watchesPerStream", 10000000, &s->limits.stream_watches},
                {"leases", 10000000, &s->limits.leases},
        };
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "limits", "limits", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        r = node_size(reader, &at, "requestBytes", NULL, &s->limits.request_bytes);
        if (r < 0)
                return r;
        if (s->limits.request_bytes < 64 * 1024 || s->limits.request_bytes > 64 * 1024 * 1024)
                return node_field_fail(reader, &at, "requestBytes", "must be from 64Ki to 64Mi");
        r = node_size(reader, &at, "watchBytes", NULL, &s->limits.watch_bytes);
        if (r < 0)
                return r;
        /* Above the mark at which a stream counts as read. */
        if (s->limits.watch_bytes < 512 * 1024 || s->limits.watch_bytes > 64 * 1024 * 1024)
                return node_field_fail(reader, &at, "watchBytes", "must be from 512Ki to 64Mi");
        for (size_t i = 0; i < n_elements(numbers) && r >= 0; i++)
                r = read_limit(reader, &at, numbers[i].key, 1, numbers[i].max, numbers[i].target);
        return r;
}

static int read_migration(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"retention", "bandwidth", "parallel", NULL};
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "migration", "migration", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        r = node_duration(reader, &at, "retention", NULL, &s->migration.retention_ns);
        if (r < 0)
                return r;
        r = node_size(reader, &at, "bandwidth", NULL, &s->migration.bandwidth_bytes);
        if (r < 0)
                return r;
        return read_limit(reader, &at, "parallel", 1, 64, &s->migration.parallel);
}

static int read_memory(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        const struct yaml_node *n = node_field(top, "memory");
        int r;

        if (n && n->kind == YAML_SCALAR && strcmp(n->text, "off") == 0) {
                s->memory_bytes = 0;
                return 0;
        }
        if (n && n->kind == YAML_SCALAR && strcmp(n->text, "half") == 0)
                return 0; /* the default */
        r = node_size(reader, top, "memory", NULL, &s->memory_bytes);
        if (r < 0 || !n)
                return r;
        if (s->memory_bytes < LEAST_MEMORY)
                return node_field_fail(reader, top, "memory", "must be half, off, or a size of at least 8Mi");
        return 0;
}

static int read_document(const struct node_reader *reader, const struct yaml_node *root, struct settings *s) {
        static const char *const known[] = {"paths", "control", "drivers", "shards", "cache", "memory", "log",
                "metrics", "tenants", "migration", "limits", "tls", "coreDumps", NULL};
        static int (*const sections[])(const struct node_reader *, const struct node_at *, struct settings *) = {
                read_paths, read_control, read_drivers, read_log, read_metrics, read_tenants, read_migration,
                read_limits, settings_read_tls};
        struct node_at top = {.node = root, .path = "", .line = root->line};
        uint64_t n = s->n_shards;
        int r;

        if (yaml_is_null(root))
                return 0;
        if (root->kind != YAML_MAPPING)
                return node_fail(reader, root->line, "must be a mapping of settings");
        r = node_only(reader, &top, known, NULL);
        for (size_t i = 0; i < n_elements(sections) && r >= 0; i++)
                r = sections[i](reader, &top, s);
        if (r < 0)
                return r;

        r = node_bool(reader, &top, "coreDumps", &s->core_dumps);
        if (r < 0)
                return r;
        r = node_number(reader, &top, "shards", 0, 64, &n);
        if (r < 0)
                return r;
        s->n_shards = (unsigned)n;
        r = node_size(reader, &top, "cache", NULL, &s->cache_bytes);
        if (r < 0)
                return r;
        if (s->cache_bytes < 1024 * 1024)
                return node_field_fail(reader, &top, "cache", "must be at least 1Mi");
        return read_memory(reader, &top, s);
}

static int read_file(struct settings *s, bool may_be_missing, struct error *reterr) {
        cleanup(yaml_file_freep) struct yaml_file *yaml = NULL;
        cleanup(error_done) struct error why = {};
        cleanup(buf_done) struct buf text = {};
        struct node_reader reader = {.file = s->file, .reterr = reterr};
        unsigned line = 0;
        int r;

        r = text_file_read(s->file, &text, &why);
        if (r == -ENOENT && may_be_missing) {
                free(steal(s->file));
                return 0;
        }
        if (r < 0)
                return error_set(reterr, r, "%s: %s", s->file, error_text(&why));

        r = yaml_parse(bytes_of(text.data, text.size), &yaml, &line, &why);
        if (r < 0)
                return error_set(reterr, r, "%s:%u: %s", s->file, line, error_text(&why));
        if (yaml->n_documents > 1)
                return node_fail(&reader, yaml->documents[1].line, "only one document is expected");
        if (yaml->n_documents == 0 || !yaml->documents[0].root)
                return 0;
        return read_document(&reader, yaml->documents[0].root, s);
}

/* ---- defaults */

static int set_paths(struct settings *s, const struct settings_options *options) {
        const struct {
                char **target;
                const char *config, *root;
        } paths[] = {
                {&s->definitions_dir, CONFIG_DEFINITIONS, "definitions.d"},
                {&s->secrets_dir, CONFIG_SECRETS, "secrets"},
                {&s->state_dir, CONFIG_STATE, "state"},
                {&s->runtime_dir, CONFIG_RUNTIME, "run"},
        };
        int r = 0;

        for (size_t i = 0; i < n_elements(paths) && r >= 0; i++)
                r = s->root ? path_join(s->root, paths[i].root, paths[i].target)
                            : string_copy(paths[i].config, paths[i].target);
        if (r < 0)
                return r;
        r = s->root ? plugins_beside_executable(&s->plugins_dir) : string_copy(CONFIG_PLUGINS, &s->plugins_dir);
        if (r < 0)
                return r;
        r = s->root ? path_join(s->root, "stokehold.yaml", &s->file) : path_absolute(options->config, &s->file);
        if (r < 0 || s->root)
                return r;
        return string_copy(CONFIG_METRICS, &s->metrics_listen);
}

static unsigned default_shards(void) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);

        return n < 1 ? 1 : n > 4 ? 4 : (unsigned)n;
}

int settings_load(const struct settings_options *options, struct settings **ret, struct error *reterr) {
        cleanup(settings_freep) struct settings *s = NULL;
        int r;

        check(!options->config != !options->root);

        s = new0(struct settings);
        s->root_only = !options->root;
        s->cache_bytes = UINT64_C(256) << 20;
        s->log_level = LOG_LEVEL_INFO;
        s->slow_request_ns = 500 * NSEC_PER_MSEC;
        s->default_quota_bytes = UINT64_C(2) << 30;
        s->auto_compaction_ns = 5 * 60 * NSEC_PER_SEC;
        s->progress_notify_ns = 5 * NSEC_PER_SEC;
        s->idle_close_ns = 10 * 60 * NSEC_PER_SEC;
        s->quarantine_ns = 3600 * NSEC_PER_SEC;
        s->memory_bytes = machine_memory("") / 2;
        if (s->memory_bytes && s->memory_bytes < LEAST_MEMORY)
                s->memory_bytes = LEAST_MEMORY;
        s->socket_mode = 0660;
        s->migration.retention_ns = 24 * 3600 * NSEC_PER_SEC;
        s->migration.parallel = 2;
        s->limits.request_bytes = 1536 * 1024;
        s->limits.streams = 65536;
        s->limits.connections = 65536;
        s->limits.txn_operations = 128;
        s->limits.txn_nesting = MAX_NESTING;
        s->limits.watches = 200000;
        s->limits.stream_watches = 100000;
        s->limits.watch_bytes = 1024 * 1024;
        s->limits.leases = 100000;

        if (options->root) {
                cleanup(freep) char *given = NULL;

                r = path_absolute(options->root, &given);
                if (r < 0)
                        return error_set(reterr, r, "--root: %s", strerror(-r));
                s->root = realpath(given, NULL);
                if (!s->root)
                        return error_set(reterr, -errno, "--root %s: %s", given, strerror(errno));
        }
        r = set_paths(s, options);
        if (r < 0)
                return error_set(reterr, r, "paths: %s", strerror(-r));
        r = read_file(s, options->root != NULL, reterr);
        if (r < 0)
                return r;

        if (options->plugins) {
                free(steal(s->plugins_dir));
                r = path_absolute(options->plugins, &s->plugins_dir);
                if (r < 0)
                        return error_set(reterr, r, "--plugins: %s", strerror(-r));
        }
        if (!s->control_socket) {
                r = path_join(s->runtime_dir, "control.sock", &s->control_socket);
                if (r < 0)
                        return error_set(reterr, r, "out of memory");
        }
        if (s->n_shards == 0)
                s->n_shards = default_shards();

        *ret = steal(s);
        return 0;
}

static bool same(const char *a, const char *b) {
        return a == b || (a && b && strcmp(a, b) == 0);
}

char *settings_fixed_changes(const struct settings *old, const struct settings *new) {
        const struct {
                const char *name;
                bool differs;
        } fixed[] = {
                {"paths.plugins", !same(old->plugins_dir, new->plugins_dir)},
                {"paths.definitions", !same(old->definitions_dir, new->definitions_dir)},
                {"paths.secrets", !same(old->secrets_dir, new->secrets_dir)},
                {"paths.state", !same(old->state_dir, new->state_dir)},
                {"paths.runtime", !same(old->runtime_dir, new->runtime_dir)},
                {"control.socket", !same(old->control_socket, new->control_socket)},
                {"shards", old->n_shards != new->n_shards},
                {"cache", old->cache_bytes != new->cache_bytes},
                {"memory", old->memory_bytes != new->memory_bytes},
                {"metrics.listen", !same(old->metrics_listen, new->metrics_listen)},
                {"limits.requestBytes", old->limits.request_bytes != new->limits.request_bytes},
                {"limits.streams", old->limits.streams != new->limits.streams},
                {"limits.connections", old->limits.connections != new->limits.connections},
                {"limits.txnOperations", old->limits.txn_operations != new->limits.txn_operations},
                {"limits.txnNesting", old->limits.txn_nesting != new->limits.txn_nesting},
                {"limits.watches", old->limits.watches != new->limits.watches},
                {"limits.watchesPerStream", old->limits.stream_watches != new->limits.stream_watches},
                {"limits.watchBytes", old->limits.watch_bytes != new->limits.watch_bytes},
                {"limits.leases", old->limits.leases != new->limits.leases},
                {"tls.address", !settings_tls_same_listener(&old->tls, &new->tls)},
        };
        cleanup(buf_done) struct buf names = {};

        for (size_t i = 0; i < n_elements(fixed); i++)
                if (fixed[i].differs && buf_printf(&names, "%s%s", names.size ? ", " : "", fixed[i].name) < 0)
                        return NULL;
        if (names.size == 0 || buf_append(&names, "", 1) < 0)
                return NULL;
        return (char *)steal(names.data);
}

void settings_adopt(struct settings *running, struct settings *new) {
        strings_free(running->experimental, running->n_experimental);
        running->experimental = steal(new->experimental);
        running->n_experimental = new->n_experimental;
        new->n_experimental = 0;
        free(running->file); /* it may have come, or gone */
        running->file = steal(new->file);
        running->core_dumps = new->core_dumps;
        running->log_level = new->log_level;
        running->slow_request_ns = new->slow_request_ns;
        running->default_quota_bytes = new->default_quota_bytes;
        running->auto_compaction_ns = new->auto_compaction_ns;
        running->progress_notify_ns = new->progress_notify_ns;
        running->idle_close_ns = new->idle_close_ns;
        running->quarantine_ns = new->quarantine_ns;
        running->socket_mode = new->socket_mode;
        running->migration.retention_ns = new->migration.retention_ns;
        running->migration.bandwidth_bytes = new->migration.bandwidth_bytes;
        running->migration.parallel = new->migration.parallel;
        settings_tls_adopt(&running->tls, &new->tls);
}
