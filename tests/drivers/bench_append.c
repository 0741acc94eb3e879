/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a driver appends: bench-append FILE.so DIRECTORY|NAME=VALUE... [SECONDS]. Records of a 60-byte key and a 1 KiB value, 1, 16, 64 and
 * 128 a batch, one appender. NAME=VALUE: endpoint, username, password, server-pid (whose CPU counts with its children's), or a setting of the
 * driver's. A tool, not a test; prints a line for each batch size.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/driver.h>

static uint64_t now_ns(clockid_t clock) {
        struct timespec ts;

        clock_gettime(clock, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static void on_log(void *userdata, int level, const char *message) {
        (void)userdata;
        fprintf(stderr, "<%d> %s\n", level, message);
}

static const char *username, *password, *directory;
static long server_pid;

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size) {
        const char *text = which == STOKE_SECRET_USERNAME ? username : which == STOKE_SECRET_PASSWORD ? password : NULL;

        (void)userdata;
        (void)reason;
        (void)reason_size;
        if (!text)
                return -ENOENT;
        visit(visitor, text, strlen(text));
        return 0;
}

/* Microseconds of a process, if it is the server or a child of it. */
static uint64_t cpu_of(const char *pid) {
        char path[300], line[1024], *p;
        unsigned long parent = 0, user = 0, system = 0;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%s/stat", pid);
        f = fopen(path, "r");
        if (!f)
                return 0;
        p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
        fclose(f);
        if (!p || sscanf(p + 1, " %*c %lu %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &parent, &user, &system) != 3 ||
                (atol(pid) != server_pid && (long)parent != server_pid))
                return 0;
        return (uint64_t)(user + system) * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

static uint64_t server_cpu(void) {
        struct dirent *entry;
        uint64_t sum = 0;
        DIR *dir = server_pid ? opendir("/proc") : NULL;

        while (dir && (entry = readdir(dir)))
                if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
                        sum += cpu_of(entry->d_name);
        if (dir)
                closedir(dir);
        return sum;
}

static off_t wal_size(void) {
        char command[512], line[64] = "0";
        FILE *f;

        snprintf(command, sizeof(command), "stat -c %%s %s/*-wal 2>/dev/null | sort -n | tail -1", directory);
        f = popen(command, "r");
        if (f) {
                if (!fgets(line, sizeof(line), f))
                        line[0] = '0';
                pclose(f);
        }
        return atol(line);
}

#define MUST(expr)                                                                                                     \
        do {                                                                                                           \
                int r_ = (expr);                                                                                       \
                if (r_ != 0) {                                                                                         \
                        fprintf(stderr, "%s: %d %s\n", #expr, r_, reason);                                             \
                        exit(1);                                                                                       \
                }                                                                                                      \
        } while (0)

int main(int argc, char **argv) {
        static const unsigned sizes[] = {1, 16, 64, 128};
        static uint64_t times[4000000];
        static struct stoke_setting settings[16];
        static const char *endpoints[16];
        double seconds = 3;
        struct stoke_datastore datastore = {
                .size = sizeof(datastore), .name = "bench", .settings = settings, .endpoints = endpoints};
        struct stoke_host host = {.size = sizeof(host), .log = on_log, .secret = on_secret};
        struct stoke_record records[128] = {};
        char reason[256] = "", key[61], *value;
        const struct stoke_driver *driver;
        struct stoke_session *session;
        struct stoke_store *store;
        void *handle;

        if (argc < 3 || argc > 16) {
                fprintf(stderr, "bench-append FILE.so DIRECTORY|NAME=VALUE... [SECONDS]\n");
                return 2;
        }
        for (int i = 2; i < argc; i++) {
                char *equals = strchr(argv[i], '=');

                if (equals)
                        *equals++ = '\0';
                if (!equals && argv[i][0] == '/')
                        settings[datastore.n_settings++] = (struct stoke_setting){"path", directory = argv[i]};
                else if (!equals)
                        seconds = atof(argv[i]);
                else if (strcmp(argv[i], "endpoint") == 0)
                        endpoints[datastore.n_endpoints++] = equals;
                else if (strcmp(argv[i], "username") == 0)
                        username = equals;
                else if (strcmp(argv[i], "password") == 0)
                        password = equals;
                else if (strcmp(argv[i], "server-pid") == 0)
                        server_pid = atol(equals);
                else
                        settings[datastore.n_settings++] = (struct stoke_setting){argv[i], equals};
        }
        handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!driver) {
                fprintf(stderr, "%s\n", dlerror());
                return 1;
        }
        value = malloc(1024 * 128);
        for (size_t i = 0; i < 1024 * 128; i++)
                value[i] = (char)rand();
        memset(key, 'k', 60);

        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
                struct stoke_keyspace keyspace = {.name = "bench"};
                struct stoke_call call = {.size = sizeof(call),
                        .deadline_ns = UINT64_MAX,
                        .reason = reason,
                        .reason_size = sizeof(reason)};
                struct stoke_record first = {.seq = 1, .revision = 1, .key = "", .value = ""};
                struct stoke_append append = {.size = sizeof(append), .records = records, .n_records = sizes[s]};
                struct rusage before, after;
                uint64_t start, n = 0, seq = 1, elapsed, cpu, server;
                off_t wal = 0;

                keyspace.incarnation[0] = (uint8_t)s;
                MUST(driver->open(&datastore, &host, &call, &store));
                MUST(driver->connect(store, NULL, &call, &session));
                MUST(driver->drop(session, &keyspace, &call));
                MUST(driver->create(session, &keyspace, &first, &call));
                if (driver->capabilities & STOKE_EXCLUSIVE)
                        MUST(driver->acquire(session, &keyspace, &call));
                append.expected.seq = 1;
                getrusage(RUSAGE_SELF, &before);
                server = server_cpu();
                start = now_ns(CLOCK_MONOTONIC);
                while ((elapsed = now_ns(CLOCK_MONOTONIC) - start) < (uint64_t)(seconds * 1e9) && n < 4000000) {
                        uint64_t t;

                        for (unsigned i = 0; i < sizes[s]; i++) {
                                records[i] = (struct stoke_record){.seq = ++seq,
                                        .revision = (int64_t)seq,
                                        .kind = 1,
                                        .key = key,
                                        .key_size = 60,
                                        .value = value + 1024 * i,
                                        .value_size = 1024,
                                        .hash = seq * 77};
                                records[i].origin.batch = n + 1;
                                snprintf(key, sizeof(key), "/registry/pods/default/%037llu", (unsigned long long)seq);
                        }
                        t = now_ns(CLOCK_MONOTONIC);
                        MUST(driver->append(session, &keyspace, &append, &call));
                        times[n++] = now_ns(CLOCK_MONOTONIC) - t;
                        append.expected.seq = seq;
                        append.expected.origin = records[sizes[s] - 1].origin;
                }
                getrusage(RUSAGE_SELF, &after);
                server = server_cpu() - server;
                wal = directory ? wal_size() : 0;
                cpu = (uint64_t)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec -
                              before.ru_stime.tv_sec) *
                                1000000 +
                        (uint64_t)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
                                before.ru_stime.tv_usec);
                qsort(times, n, sizeof(times[0]), compare);
                printf("%4u a batch: %7.0f commits/s %8.0f rows/s, %6.2f and %6.2f CPU us/row here and there, p50 %6.0f p99 %6.0f p99.9 %6.0f max %7.0f us, "
                       "WAL %.1f MiB\n",
                        sizes[s], (double)n * 1e9 / (double)elapsed, (double)(seq - 1) * 1e9 / (double)elapsed,
                        (double)cpu / (double)(seq - 1), (double)server / (double)(seq - 1), (double)times[n / 2] / 1e3,
                        (double)times[n * 99 / 100] / 1e3, (double)times[n * 999 / 1000] / 1e3,
                        (double)times[n - 1] / 1e3, (double)wal / (1 << 20));
                fflush(stdout);
                if (driver->release)
                        driver->release(session, &keyspace);
                MUST(driver->drop(session, &keyspace, &call));
                driver->disconnect(session);
                driver->close(store);
        }
        free(value);
        return 0;
}
