/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver, one call a line, for tests that do something to the server in between:
 *
 *     driver-shell FILE.so NAME=VALUE...
 *
 * NAME=VALUE: endpoint, or a setting of the driver's. A line is a command and its arguments; the answer is any number of lines that begin with
 * "- ", then "= RESULT REASON". Secrets are set while it runs, so that they can be rotated. A keyspace is NAME/INCARNATION in hexadecimal
 * digits, an end SEQ/ORIGIN in 48 of them. Sessions are numbered by who connects them.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/driver.h>

#define MAX_WORDS 600
#define MAX_SESSIONS 64

static const struct stoke_driver *driver;
static struct stoke_store *store;
static struct stoke_session *sessions[MAX_SESSIONS];
static struct {
        char *data;
        size_t size;
} secrets[8];
static char reason[512];
static struct stoke_call buffer;
static uint64_t timeout_ms = 10000;

static struct stoke_call *call(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        reason[0] = '\0';
        buffer = (struct stoke_call){.size = sizeof(buffer),
                .deadline_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec + timeout_ms * 1000000,
                .reason = reason,
                .reason_size = sizeof(reason)};
        return &buffer;
}

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *text, size_t text_size) {
        (void)userdata;
        (void)text;
        (void)text_size;
        if ((size_t)which >= sizeof(secrets) / sizeof(secrets[0]) || !secrets[which].data)
                return -ENOENT;
        visit(visitor, secrets[which].data, secrets[which].size);
        return 0;
}

static void on_log(void *userdata, int level, const char *message) {
        (void)userdata;
        fprintf(stderr, "<%d> %s\n", level, message);
}

/* ---- words */

static void unhex(const char *text, uint8_t *ret, size_t size) {
        for (size_t i = 0; i < size; i++) {
                unsigned byte = 0;

                if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
                        sscanf(text, "%2x", &byte) != 1)
                        abort();
                ret[i] = (uint8_t)byte;
                text += 2;
        }
}

static struct stoke_keyspace keyspace(char *word) {
        struct stoke_keyspace ks = {.name = word};
        char *slash = strrchr(word, '/');

        if (!slash)
                abort();
        *slash = '\0';
        unhex(slash + 1, ks.incarnation, 16);
        return ks;
}

static struct stoke_end end_of(char *word) {
        struct stoke_end end = {.seq = strtoull(word, &word, 10)};
        uint8_t bytes[24];

        if (*word != '/')
                return end;
        unhex(word + 1, bytes, 24);
        memcpy(end.origin.daemon, bytes, 16);
        for (unsigned i = 0; i < 8; i++)
                end.origin.batch = end.origin.batch << 8 | bytes[16 + i];
        return end;
}

static void print_end(const struct stoke_end *end) {
        printf("%llu/", (unsigned long long)end->seq);
        for (unsigned i = 0; i < 16; i++)
                printf("%02x", end->origin.daemon[i]);
        printf("%016llx", (unsigned long long)end->origin.batch);
}

static struct stoke_session *session(const char *word) {
        unsigned long n = strtoul(word, NULL, 10);

        if (n >= MAX_SESSIONS || !sessions[n])
                abort();
        return sessions[n];
}

/* ---- visitors */

static int on_record(void *userdata, const struct stoke_record *r) {
        struct stoke_end end = {r->seq, r->origin};

        ++*(unsigned *)userdata;
        printf("- ");
        print_end(&end);
        printf(" %.*s %zu%s\n", (int)r->key_size, (const char *)r->key, r->value_size, r->value ? "" : " without");
        return 0;
}

static int on_value(void *userdata, uint64_t seq, const void *data, size_t size) {
        (void)userdata;
        printf("- %llu %s %zu\n", (unsigned long long)seq, data ? "present" : "missing", size);
        return 0;
}

static int on_end(void *userdata, size_t index, const struct stoke_end *end) {
        (void)userdata;
        printf("- %zu ", index);
        if (end)
                print_end(end);
        else
                printf("missing");
        printf("\n");
        return 0;
}

static int on_info(void *userdata, const struct stoke_keyspace_info *info) {
        (void)userdata;
        printf("- %s/", info->name);
        for (unsigned i = 0; i < 16; i++)
                printf("%02x", info->incarnation[i]);
        printf(" %s\n", info->installing ? "installing" : "live");
        return 0;
}

static void on_report(void *userdata, const char *name, const char *value, enum stoke_severity severity) {
        (void)userdata;
        printf("- %d %s %s\n", (int)severity, name, value);
}

static void on_grown(void *userdata, const char *name) {
        (void)userdata;
        printf("- %s\n", name);
}

/* ---- commands */

/* append SESSION KEYSPACE END N SIZE BATCH */
static int append(char **w) {
        struct stoke_keyspace ks = keyspace(w[2]);
        size_t n = strtoul(w[4], NULL, 10), size = strtoul(w[5], NULL, 10);
        struct stoke_record *records = calloc(n, sizeof(*records));
        struct stoke_append a = {.size = sizeof(a), .expected = end_of(w[3]), .records = records, .n_records = n};
        char *value = memset(malloc(size + 1), 'v', size);
        struct stoke_end end;
        int r;

        for (size_t i = 0; i < n; i++) {
                records[i] = (struct stoke_record){.seq = a.expected.seq + 1 + i,
                        .revision = (int64_t)(a.expected.seq + 1 + i),
                        .kind = 1,
                        .key = "key",
                        .key_size = 3,
                        .value = value,
                        .value_size = size};
                records[i].origin.batch = strtoull(w[6], NULL, 10);
        }
        r = driver->append(session(w[1]), &ks, &a, call());
        end = (struct stoke_end){records[n - 1].seq, records[n - 1].origin};
        if (r == 0) {
                printf("- ");
                print_end(&end);
                printf("\n");
        }
        free(value);
        free(records);
        return r;
}

static int compact(char **w, size_t n) {
        struct stoke_compact c = {.size = sizeof(c), .mark = strtoull(w[3], NULL, 10), .first = true};
        struct stoke_keyspace ks = keyspace(w[2]);
        uint64_t seqs[MAX_WORDS];

        c.seqs = seqs;
        for (size_t i = 4; i < n; i++)
                seqs[c.n_seqs++] = strtoull(w[i], NULL, 10);
        return driver->compact(session(w[1]), &ks, &c, call());
}

static int ends(char **w, size_t n) {
        struct stoke_keyspace ks[MAX_WORDS];

        for (size_t i = 2; i < n; i++)
                ks[i - 2] = keyspace(w[i]);
        return driver->ends(session(w[1]), ks, n - 2, call(), on_end, NULL);
}

static int install(char **w, size_t n) {
        struct stoke_record record = {.seq = n > 4 ? strtoull(w[4], NULL, 10) : 0,
                .revision = 1,
                .kind = 1,
                .key = "key",
                .key_size = 3,
                .value = ""};
        struct stoke_keyspace ks = keyspace(w[2]);
        uint64_t seq = 0;
        uint8_t id[16];
        int r;

        unhex(w[3], id, 16);
        if (strcmp(w[0], "install_begin") == 0) {
                r = driver->install_begin(session(w[1]), &ks, id, call(), &seq);
                printf("- %llu\n", (unsigned long long)seq);
                return r;
        }
        if (strcmp(w[0], "install_feed") == 0)
                return driver->install_feed(session(w[1]), &ks, id, &record, 1, call());
        if (strcmp(w[0], "install_commit") == 0)
                return driver->install_commit(session(w[1]), &ks, id, &record, call());
        return driver->install_abort(session(w[1]), &ks, id, call());
}

static int set_secret(char **w, size_t n) {
        static const char *const names[] = {[STOKE_SECRET_USERNAME] = "username",
                [STOKE_SECRET_PASSWORD] = "password",
                [STOKE_SECRET_CA_CERTIFICATE] = "ca-certificate",
                [STOKE_SECRET_CLIENT_CERTIFICATE] = "client-certificate",
                [STOKE_SECRET_CLIENT_PRIVATE_KEY] = "client-private-key"};
        char bytes[65536];
        FILE *f;

        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
                if (!names[i] || strcmp(names[i], w[1]) != 0)
                        continue;
                free(secrets[i].data);
                secrets[i].data = NULL;
                if (n < 3)
                        return 0;
                if (w[2][0] != '@') {
                        secrets[i].data = strdup(w[2]);
                        secrets[i].size = strlen(w[2]);
                        return 0;
                }
                f = fopen(w[2] + 1, "r");
                if (!f)
                        abort();
                secrets[i].size = fread(bytes, 1, sizeof(bytes), f);
                secrets[i].data = memcpy(malloc(sizeof(bytes)), bytes, secrets[i].size);
                fclose(f);
                return 0;
        }
        abort();
}

static int run(char **w, size_t n) {
        struct stoke_record first = {
                .seq = 1, .revision = 1, .kind = 1, .key = "first", .key_size = 5, .value = "1", .value_size = 1};
        struct stoke_stat stat = {.size = sizeof(stat)};
        struct stoke_limits limits;
        struct stoke_keyspace ks;
        struct stoke_end end;
        unsigned count = 0;
        int r;

        if (strcmp(w[0], "secret") == 0)
                return set_secret(w, n);
        if (strcmp(w[0], "timeout") == 0)
                return (int)(timeout_ms = strtoull(w[1], NULL, 10)) * 0;
        if (strcmp(w[0], "check") == 0)
                return driver->check(store, call(), on_report, NULL);
        if (strcmp(w[0], "connect") == 0) {
                if (n > 2)
                        ks = keyspace(w[2]);
                return driver->connect(store, n > 2 ? &ks : NULL, call(), &sessions[strtoul(w[1], NULL, 10)]);
        }
        if (strcmp(w[0], "disconnect") == 0) {
                driver->disconnect(session(w[1]));
                sessions[strtoul(w[1], NULL, 10)] = NULL;
                return 0;
        }
        if (strcmp(w[0], "list") == 0)
                return driver->list(session(w[1]), call(), on_info, NULL);
        if (strcmp(w[0], "ends") == 0)
                return ends(w, n);
        if (strcmp(w[0], "wait") == 0)
                return driver->wait(session(w[1]), call(), on_grown, NULL);
        if (strcmp(w[0], "append") == 0)
                return append(w);
        if (strcmp(w[0], "compact") == 0)
                return compact(w, n);
        if (strncmp(w[0], "install_", 8) == 0)
                return install(w, n);
        ks = keyspace(w[2]);
        if (strcmp(w[0], "create") == 0)
                return driver->create(session(w[1]), &ks, &first, call());
        if (strcmp(w[0], "drop") == 0)
                return driver->drop(session(w[1]), &ks, call());
        if (strcmp(w[0], "load") == 0) {
                end = end_of(w[3]);
                r = driver->load(session(w[1]), &ks, &end, n < 5, call(), on_record, &count, &end);
                if (r == 0) {
                        printf("- end ");
                        print_end(&end);
                        printf("\n");
                }
                return r;
        }
        if (strcmp(w[0], "values") == 0) {
                uint64_t seqs[MAX_WORDS];

                for (size_t i = 3; i < n; i++)
                        seqs[i - 3] = strtoull(w[i], NULL, 10);
                return driver->values(session(w[1]), &ks, seqs, n - 3, call(), on_value, NULL);
        }
        if (strcmp(w[0], "stat") == 0) {
                r = driver->stat(session(w[1]), &ks, call(), &stat);
                printf("- %llu %llu\n", (unsigned long long)stat.n_records, (unsigned long long)stat.bytes);
                return r;
        }
        if (strcmp(w[0], "limits") == 0) {
                r = driver->server_limits(session(w[1]), &ks, call(), &limits);
                printf("- %llu %llu %u\n", (unsigned long long)limits.record_bytes,
                        (unsigned long long)limits.batch_bytes, limits.batch_records);
                return r;
        }
        abort();
}

int main(int argc, char **argv) {
        static struct stoke_setting settings[16];
        static const char *endpoints[16];
        struct stoke_datastore datastore = {
                .size = sizeof(datastore), .name = "shell", .endpoints = endpoints, .settings = settings};
        struct stoke_host host = {.size = sizeof(host), .log = on_log, .secret = on_secret};
        char *line = NULL;
        size_t size = 0;
        void *handle;
        int r;

        if (argc < 2 || argc > 16)
                return 2;
        for (int i = 2; i < argc; i++) {
                char *equals = strchr(argv[i], '=');

                if (!equals)
                        return 2;
                *equals++ = '\0';
                if (strcmp(argv[i], "endpoint") == 0)
                        endpoints[datastore.n_endpoints++] = equals;
                else
                        settings[datastore.n_settings++] = (struct stoke_setting){argv[i], equals};
        }
        for (unsigned i = 0; i < 16; i++)
                host.daemon[i] = (uint8_t)((unsigned)getpid() >> (i % 4 * 8));
        handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!driver) {
                fprintf(stderr, "%s\n", dlerror());
                return 2;
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        r = driver->open(&datastore, &host, call(), &store);
        printf("= %d %s\n", r, reason);
        while (r == 0 && getline(&line, &size, stdin) > 0) {
                char *words[MAX_WORDS], *rest = line;
                size_t n = 0;
                int result;

                for (char *p; n < MAX_WORDS && (p = strsep(&rest, " \n"));)
                        if (*p)
                                words[n++] = p;
                if (n == 0)
                        continue;
                result = run(words, n);
                printf("= %d %s\n", result, reason);
        }
        free(line);
        for (size_t i = 0; i < MAX_SESSIONS; i++)
                driver->disconnect(sessions[i]);
        if (r == 0)
                driver->close(store);
        for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
                free(secrets[i].data);
        return r ? 1 : 0;
}
