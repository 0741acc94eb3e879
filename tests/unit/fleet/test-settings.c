/* If these fail, a daemon runs with settings that its operator did not write, or does not say what is wrong with them. */
#include "folder.h"

#include "fleet/machine.h"
#include "fleet/settings.h"

static struct folder folder;

static int setup(void **state) {
        (void)state;
        folder_new(&folder);
        return 0;
}

static int teardown(void **state) {
        (void)state;
        folder_remove(&folder);
        return 0;
}

static struct settings *load_ok(const struct settings_options *options) {
        struct settings *s = NULL;
        struct error err = {};

        if (settings_load(options, &s, &err) < 0)
                fail_msg("%s", error_text(&err));
        error_done(&err);
        return s;
}

static void check_config_defaults(const struct settings *s) {
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);

        assert_null(s->root);
        assert_true(s->root_only);
        assert_string_equal(s->plugins_dir, "/usr/lib/stokehold/plugins");
        assert_string_equal(s->definitions_dir, "/etc/stokehold/definitions.d");
        assert_string_equal(s->secrets_dir, "/etc/stokehold/secrets");
        assert_string_equal(s->state_dir, "/var/lib/stokehold");
        assert_string_equal(s->runtime_dir, "/run/stokehold");
        assert_string_equal(s->control_socket, "/run/stokehold/control.sock");
        assert_int_equal(s->n_experimental, 0);
        assert_int_equal(s->n_shards, cpus > 4 ? 4 : cpus);
        assert_int_equal(s->cache_bytes, 256 << 20);
        assert_int_equal(s->log_level, LOG_LEVEL_INFO);
        assert_int_equal(s->slow_request_ns, 500 * NSEC_PER_MSEC);
        assert_string_equal(s->metrics_listen, "tcp:127.0.0.1:9379");
        assert_int_equal(s->default_quota_bytes, UINT64_C(2) << 30);
        assert_int_equal(s->auto_compaction_ns, 300 * NSEC_PER_SEC);
        assert_int_equal(s->progress_notify_ns, 5 * NSEC_PER_SEC);
        assert_int_equal(s->socket_mode, 0660);
        assert_int_equal(s->memory_bytes, machine_memory("") / 2);
        assert_int_equal(s->idle_close_ns, 600 * NSEC_PER_SEC);
        assert_int_equal(s->quarantine_ns, 3600 * NSEC_PER_SEC);
        assert_int_equal(s->limits.request_bytes, 1536 << 10);
        assert_int_equal(s->limits.txn_operations, 128);
        assert_int_equal(s->limits.txn_nesting, 48);
        assert_int_equal(s->limits.streams, 65536);
        assert_int_equal(s->limits.connections, 65536);
        assert_true(s->migration.retention_ns == 24 * 3600 * NSEC_PER_SEC);
        assert_int_equal(s->migration.bandwidth_bytes, 0);
        assert_int_equal(s->migration.parallel, 2);
        assert_int_equal(s->limits.watches, 200000);
        assert_int_equal(s->limits.stream_watches, 100000);
        assert_int_equal(s->limits.watch_bytes, 1 << 20);
        assert_int_equal(s->limits.leases, 100000);
}

/* The file that is installed says what is so anyway: as it is, and with every setting in it switched on. */
static void test_shipped_file(void **state) {
        struct settings_options options = {.config = CONF_DIR "/stokehold.yaml"};
        char *text, *out, *p;
        struct settings *s;
        size_t n = 0;

        (void)state;
        s = load_ok(&options);
        check_config_defaults(s);
        settings_free(s);

        text = file_read_all(CONF_DIR "/stokehold.yaml", NULL);
        out = calloc(1, strlen(text) + 1);
        assert_non_null(out);
        for (p = text; *p; p += strcspn(p, "\n") + 1) {
                size_t size = strcspn(p, "\n") + 1;

                /* "# Words" is prose; "#key:" and "#  key:" are settings. */
                if (p[0] == '#' && (p[1] != ' ' || p[2] == ' ')) {
                        memcpy(out + strlen(out), p + 1, size - 1);
                        n++;
                }
        }
        assert_true(n > 20);
        folder_write(&folder, "all.yaml", out);
        options.config = folder_path(&folder, "all.yaml");
        s = load_ok(&options);
        check_config_defaults(s);
        settings_free(s);
        free(text);
        free(out);
}

static void test_root(void **state) {
        struct settings_options options = {.root = folder.path};
        struct settings *s = load_ok(&options);

        (void)state;
        assert_null(s->file);
        assert_false(s->root_only);
        assert_string_equal(s->root, folder.path);
        assert_string_equal(s->definitions_dir, folder_path(&folder, "definitions.d"));
        assert_string_equal(s->secrets_dir, folder_path(&folder, "secrets"));
        assert_string_equal(s->state_dir, folder_path(&folder, "state"));
        assert_string_equal(s->runtime_dir, folder_path(&folder, "run"));
        assert_string_equal(s->control_socket, folder_path(&folder, "run/control.sock"));
        assert_null(s->metrics_listen);
        assert_true(strlen(s->plugins_dir) > strlen("/plugins"));
        assert_string_equal(s->plugins_dir + strlen(s->plugins_dir) - strlen("/plugins"), "/plugins");
        settings_free(s);

        folder_write(&folder, "stokehold.yaml",
                "paths:\n  state: disk/\n  runtime: /elsewhere\ndrivers:\n  experimental: [NATS, etcd]\nshards: 3\ncache: 64Mi\n"
                "log:\n  level: debug\n  slowRequest: off\nmetrics:\n  listen: unix:/x/metrics.sock\ntenants:\n  quota: 0\n"
                "  autoCompaction: 1h30m\n  progressNotify: 200ms\n  socketMode: 0600\n  idleClose: off\n  quarantine: 2h\nlimits: {requestBytes: 3Mi, connections: 7, leases: 9, watches: 8, txnNesting: 2}\ncontrol:\nmemory: 64Mi\ncoreDumps: true\n");
        options.plugins = "/my/plugins/";
        s = load_ok(&options);
        assert_string_equal(s->file, folder_path(&folder, "stokehold.yaml"));
        assert_string_equal(s->plugins_dir, "/my/plugins");
        assert_string_equal(s->state_dir, folder_path(&folder, "disk"));
        assert_string_equal(s->runtime_dir, "/elsewhere");
        assert_string_equal(s->control_socket, "/elsewhere/control.sock");
        assert_int_equal(s->n_experimental, 2);
        assert_string_equal(s->experimental[1], "etcd");
        assert_true(s->core_dumps);
        assert_int_equal(s->n_shards, 3);
        assert_int_equal(s->cache_bytes, 64 << 20);
        assert_int_equal(s->log_level, LOG_LEVEL_DEBUG);
        assert_int_equal(s->slow_request_ns, 0);
        assert_string_equal(s->metrics_listen, "unix:/x/metrics.sock");
        assert_int_equal(s->default_quota_bytes, 0);
        assert_int_equal(s->auto_compaction_ns, 5400 * NSEC_PER_SEC);
        assert_int_equal(s->progress_notify_ns, 200 * NSEC_PER_MSEC);
        assert_int_equal(s->socket_mode, 0600);
        assert_int_equal(s->limits.request_bytes, 3 << 20);
        assert_int_equal(s->limits.connections, 7);
        assert_int_equal(s->limits.leases, 9);
        assert_int_equal(s->limits.watches, 8);
        assert_int_equal(s->limits.txn_nesting, 2);
        assert_int_equal(s->memory_bytes, 64 << 20);
        assert_int_equal(s->idle_close_ns, 0);
        assert_int_equal(s->quarantine_ns, 7200 * NSEC_PER_SEC);
        assert_int_equal(s->limits.streams, 65536);
        settings_free(s);
}

static const struct {
        const char *text, *reason; /* the reason without the file */
} mistakes[] = {
        {"shards: 1\nshard: 2\n", "2: shard: unknown field"},
        {"log:\n  level: loud\n", "2: log.level: must be error, warning, notice, info or debug"},
        {"log:\n  levels: info\n", "2: log.levels: unknown field"},
        {"log: info\n", "1: log: must be a mapping"},
        {"paths:\n  state: |\n    -----BEGIN\n    hush\n",
                "2: paths.state: must be the path of a file, not what is in it"},
        {"shards: many\n", "1: shards: must be a whole number"},
        {"shards: 65\n", "1: shards: must be from 0 to 64"},
        {"shards: \"1\"\n", "1: shards: must be a whole number"},
        {"\n\ncache: 5 elephants\n", "3: cache: must be a size, such as 256Mi or 2Gi"},
        {"cache: 5\n", "1: cache: must be at least 1Mi"},
        {"cache: 99999999Ti\n", "1: cache: is too large"},
        {"tenants:\n  autoCompaction: 5 minutes\n",
                "2: tenants.autoCompaction: must be a duration, such as 500ms, 5m or 1h30m, or off"},
        {"tenants:\n  socketMode: rw\n", "2: tenants.socketMode: must be an octal mode, such as \"0660\""},
        {"tenants:\n  socketMode: \"1777\"\n", "2: tenants.socketMode: must be an octal mode from 0 to 0777"},
        {"paths:\n  state: 5\n", "2: paths.state: must be a string (put quotes around it)"},
        {"paths:\n  state: \"\"\n", "2: paths.state: is empty"},
        {"drivers:\n  experimental: NATS\n", "2: drivers.experimental: must be a list"},
        {"drivers:\n  experimental:\n    - NATS\n    - 5\n",
                "4: drivers.experimental: entry 2 must be a string that is not empty"},
        {"metrics:\n  listen: tcp:0.0.0.0:9379\n",
                "2: metrics.listen: must be tcp:127.0.0.1:PORT, tcp:[::1]:PORT, unix:/PATH or off (on loopback only, as "
                "it has no TLS)"},
        {"memory: 1Mi\n", "1: memory: must be half, off, or a size of at least 8Mi"},
        {"limits:\n  txnNesting: 49\n", "2: limits.txnNesting: must be from 1 to 48"},
        {"limits:\n  watchBytes: 1Ki\n", "2: limits.watchBytes: must be from 512Ki to 64Mi"},
        {"limits:\n  streams: 0\n", "2: limits.streams: must be from 1 to 1048576"},
        {"limits:\n  requestBytes: 1Gi\n", "2: limits.requestBytes: must be from 64Ki to 64Mi"},
        {"tls: {}\n", "1: tls.address: Required value"},
        {"tls:\n  address: localhost:2379\n",
                "2: tls.address: must be HOST:PORT with a numeric host (0.0.0.0:2379, [::]:2379), or off"},
        {"tls:\n  address: 0.0.0.0:2379\n  key: k\n", "2: tls.certificate: Required value"},
        {"tls:\n  address: 0.0.0.0:2379\n  certificate: c\n", "2: tls.key: Required value"},
        {"tls:\n  address: 0.0.0.0:2379\n  certificate: c\n  key: \"\"\n", "4: tls.key: is empty"},
        {"tls:\n  address: off\n  clientRevocations: r\n", "3: tls.clientRevocations: needs a clientCA"},
        {"tls:\n  address: off\n  advertise: [\"http://h:1\"]\n",
                "3: tls.advertise: \"http://h:1\" must be https://HOST:PORT"},
        {"tls:\n  address: off\n  authority: {certificate: a}\n", "3: tls.authority.key: Required value"},
        {"tls:\n  address: off\n  authority: {certificate: a, key: b, days: 0}\n",
                "3: tls.authority.days: must be from 1 to 36500"},
        {"tls:\n  address: off\n  ciphers: all\n", "3: tls.ciphers: unknown field"},
        {"- a\n", "1: must be a mapping of settings"},
        {"shards: 1\n---\nshards: 2\n", "2: only one document is expected"},
        {"shards: 1\nshards: 2\n", "2: key \"shards\" is there twice, first in line 1"},
        {"shards: &a 1\n", "1: anchors are not allowed (a value that begins with & needs quotes)"},
        {"log: {level: info\n",
                "2: did not find expected ',' or '}' (while parsing a flow mapping that begins in line 1)"},
};

static void test_mistakes(void **state) {
        const struct settings_options options = {.root = folder.path};

        (void)state;
        for (size_t i = 0; i < n_elements(mistakes); i++) {
                struct error err = {};
                struct settings *s = NULL;
                char expected[512];

                snprintf(expected, sizeof(expected), "%s/stokehold.yaml:%s", folder.path, mistakes[i].reason);
                folder_write(&folder, "stokehold.yaml", mistakes[i].text);
                assert_int_equal(settings_load(&options, &s, &err), -EBADMSG);
                assert_null(s);
                assert_string_equal(error_text(&err), expected);
                error_done(&err);
        }
}

static void test_unreadable(void **state) {
        struct settings_options options = {.config = "/nonexistent/stokehold.yaml"};
        struct error err = {};
        struct settings *s = NULL;

        (void)state;
        assert_int_equal(settings_load(&options, &s, &err), -ENOENT);
        assert_non_null(strstr(error_text(&err), "/nonexistent/stokehold.yaml: cannot be read"));
        error_done(&err);

        folder_write(&folder, "relative.yaml", "paths:\n  state: here\n");
        options.config = folder_path(&folder, "relative.yaml");
        assert_int_equal(settings_load(&options, &s, &err), -EBADMSG);
        assert_non_null(strstr(error_text(&err), ":2: paths.state: must be an absolute path"));
        error_done(&err);

        options = (struct settings_options){.root = "/nonexistent"};
        assert_int_equal(settings_load(&options, &s, &err), -ENOENT);
        error_done(&err);

        /* A directory in the file's place is no reason to take defaults. */
        folder_directory(&folder, "stokehold.yaml");
        options.root = folder.path;
        assert_int_equal(settings_load(&options, &s, &err), -EINVAL);
        assert_null(s);
        error_done(&err);
}

static void test_fixed_changes(void **state) {
        const struct settings_options options = {.root = folder.path};
        struct settings *a, *b;
        char *names;

        (void)state;
        a = load_ok(&options);
        folder_write(
                &folder, "stokehold.yaml", "log: {level: debug}\ntenants: {quota: 1Gi}\nmigration: {bandwidth: 1Mi}\n");
        b = load_ok(&options);
        assert_null(settings_fixed_changes(a, b));
        assert_false(a->core_dumps);
        b->core_dumps = true; /* for who looks for a fault, without a restart that would hide it */
        assert_null(settings_fixed_changes(a, b));
        settings_adopt(a, b);
        assert_true(a->core_dumps);
        settings_free(b);

        folder_write(&folder, "stokehold.yaml", "cache: 2Mi\npaths: {state: other}\n");
        b = load_ok(&options);
        names = settings_fixed_changes(a, b);
        assert_string_equal(names, "paths.state, cache");
        free(names);
        settings_free(b);
        settings_free(a);
}

/* The listener's section: files are found where everything else is, and a reload may replace all but the address. */
static void test_tls(void **state) {
        const struct settings_options options = {.root = folder.path};
        struct settings *a, *b;
        char *names;

        (void)state;
        a = load_ok(&options);
        assert_null(a->tls.address);
        assert_false(a->tls.tenant_names);
        settings_free(a);

        folder_write(&folder, "stokehold.yaml",
                "tls: {address: \"[::]:2379\", certificate: tls/s.crt, key: /k/s.key, clientCA: ca.crt, clientRevocations: ca.crl, serverCA: servers.crt,"
                " tenantNames: true, advertise: [\"https://a:2379\", \"https://[::1]:1\"],"
                " authority: {certificate: a.crt, key: a.key, days: 30}}\n");
        a = load_ok(&options);
        assert_string_equal(a->tls.address, "[::]:2379");
        assert_string_equal(a->tls.certificate, folder_path(&folder, "tls/s.crt"));
        assert_string_equal(a->tls.key, "/k/s.key");
        assert_string_equal(a->tls.client_ca, folder_path(&folder, "ca.crt"));
        assert_string_equal(a->tls.client_revocations, folder_path(&folder, "ca.crl"));
        assert_string_equal(a->tls.server_ca, folder_path(&folder, "servers.crt"));
        assert_true(a->tls.tenant_names);
        assert_int_equal(a->tls.n_advertise, 2);
        assert_string_equal(a->tls.advertise[1], "https://[::1]:1");
        assert_string_equal(a->tls.authority.certificate, folder_path(&folder, "a.crt"));
        assert_string_equal(a->tls.authority.key, folder_path(&folder, "a.key"));
        assert_null(a->tls.authority.revocations);
        assert_int_equal(a->tls.authority.days, 30);

        folder_write(
                &folder, "stokehold.yaml", "tls: {address: \"[::]:2380\", certificate: other.crt, key: /k/s.key}\n");
        b = load_ok(&options);
        names = settings_fixed_changes(a, b);
        assert_string_equal(names, "tls.address");
        free(names);
        settings_adopt(a, b);
        assert_string_equal(a->tls.address, "[::]:2379");
        assert_string_equal(a->tls.certificate, folder_path(&folder, "other.crt"));
        assert_null(a->tls.client_ca);
        assert_null(a->tls.server_ca);
        settings_free(b);
        settings_free(a);
}

/* A file that was cut anywhere, as by a full disk, is taken or refused, and nothing else. */
static void test_truncated(void **state) {
        const struct settings_options options = {.root = folder.path};
        size_t size;
        char *text;

        (void)state;
        text = file_read_all(CONF_DIR "/stokehold.yaml", &size);
        for (char *p = text; *p; p++)
                if (*p == '#' && (p == text || p[-1] == '\n') && (p[1] != ' ' || p[2] == ' '))
                        *p = ' ';
        for (size_t n = 0; n < size; n++) {
                struct error err = {};
                struct settings *s = NULL;

                folder_write_bytes(&folder, "stokehold.yaml", text, n);
                if (settings_load(&options, &s, &err) < 0)
                        assert_non_null(strstr(error_text(&err), "stokehold.yaml:"));
                settings_free(s);
                error_done(&err);
        }
        free(text);
}

static void make_all(const char *name) {
        char path[256];

        snprintf(path, sizeof(path), "%s", name);
        for (char *slash = strchr(path, '/');; slash = strchr(slash + 1, '/')) {
                if (slash)
                        *slash = '\0';
                (void)mkdir(folder_path(&folder, path), 0700);
                if (!slash)
                        return;
                *slash = '/';
        }
}

/* Half of the machine's memory is too much in a container that may have a tenth of it. */
static void test_machine(void **state) {
        (void)state;
        make_all("m/proc/self");
        folder_write(&folder, "m/proc/meminfo", "MemTotal:        2048 kB\nMemFree: 17 kB\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 2 << 20);
        make_all("m/sys/fs/cgroup/a/b");
        folder_write(&folder, "m/proc/self/cgroup", "0::/a/b\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 2 << 20);
        folder_write(&folder, "m/sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 2 << 20);
        folder_write(&folder, "m/sys/fs/cgroup/a/memory.max", "1048576\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 1 << 20);
        folder_write(&folder, "m/sys/fs/cgroup/a/b/memory.max", "65536\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 65536);
        /* In a container its own group is often the root. */
        folder_write(&folder, "m/proc/self/cgroup", "0::/\n");
        folder_write(&folder, "m/sys/fs/cgroup/memory.max", "32768\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 32768);
        /* Version 1. */
        make_all("m/sys/fs/cgroup/memory/x");
        folder_write(&folder, "m/proc/self/cgroup", "11:cpu:/y\n4:memory:/x\n");
        folder_write(&folder, "m/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "16384\n");
        assert_int_equal(machine_memory(folder_path(&folder, "m")), 16384);
        assert_int_equal(machine_memory("/nonexistent"), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_shipped_file, setup, teardown),
                cmocka_unit_test_setup_teardown(test_root, setup, teardown),
                cmocka_unit_test_setup_teardown(test_mistakes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_machine, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
                cmocka_unit_test_setup_teardown(test_fixed_changes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tls, setup, teardown),
                cmocka_unit_test_setup_teardown(test_truncated, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
