/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver by hand, for tests that have real servers fail around it: driver-hand FILE.so. A command a line on stdin; for each one line on
 * stdout: the result, the milliseconds that it took, and what there is to tell, or the reason. A process is a daemon; several
 * of them are several daemons.
 *
 *   endpoint HOST:PORT | setting NAME VALUE | secret NAME VALUE | secret-file NAME PATH | daemon DIGIT   before open; secrets at any time
 *   open | close | check | deadline MS (of the calls that follow)
 *   connect S | connect-scoped S KEYSPACE | disconnect S                     S: a digit
 *   create S KEYSPACE | drop S KEYSPACE | list S | stat S KEYSPACE | limits S KEYSPACE
 *   append S KEYSPACE N SIZE | put S KEYSPACE KEY VALUE (hexadecimal, - for nothing) | stale S KEYSPACE
 *   load S KEYSPACE | keys S KEYSPACE | values S KEYSPACE SEQ... | ends S KEYSPACE... | compact S KEYSPACE MARK FIRST SEQ...
 *   begin|abort S KEYSPACE ID | feed S KEYSPACE ID FROM TO | commit S KEYSPACE ID SEQ    ID: a digit
 *   wait S MS | interrupt-after S MS (the call that follows)
 *
 * KEYSPACE: NAME/DIGIT, the digit being all of its incarnation.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/driver.h>

#define N_WORDS 256

static const struct stoke_driver *driver;
static struct stoke_store *store;
static struct stoke_session *sessions[10];
static char *endpoints[16];
static struct stoke_setting settings[16];
static struct stoke_datastore datastore = {.size = sizeof(datastore), .name = "shell"};
static struct {
        char *data;
        size_t size;
} secrets[8];
static char reason[512];
static uint64_t deadline_ms = 10000, batch;
static FILE *told; /* what the line says behind the result */

static uint64_t now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct stoke_call *call_ms(uint64_t ms) {
        static struct stoke_call call;

        reason[0] = '\0';
        call = (struct stoke_call){.size = sizeof(call),
                .deadline_ns = now_ns() + ms * 1000000,
                .reason = reason,
                .reason_size = sizeof(reason)};
        return &call;
}

static struct stoke_call *call(void) {
        return call_ms(deadline_ms);
}

/* ---- the host */

static struct stoke_host host;

static void on_log(void *userdata, int level, const char *message) {
        (void)userdata;
        fprintf(stderr, "<%d> %s\n", level, message);
}

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *text, size_t text_size) {
        (void)userdata;
        (void)text;
        (void)text_size;
        if (!secrets[which].data)
                return -ENOENT;
        visit(visitor, secrets[which].data, secrets[which].size);
        return 0;
}

static const char *const secret_names[] = {
        [STOKE_SECRET_USERNAME] = "username",
        [STOKE_SECRET_PASSWORD] = "password",
        [STOKE_SECRET_CA_CERTIFICATE] = "ca",
        [STOKE_SECRET_CLIENT_CERTIFICATE] = "certificate",
        [STOKE_SECRET_CLIENT_PRIVATE_KEY] = "key",
};

static int set_secret(const char *name, const char *value, bool file) {
        for (size_t i = 1; i < sizeof(secret_names) / sizeof(secret_names[0]); i++) {
                char *data = NULL;
                size_t size = 0;
                FILE *in, *out;
                int c;

                if (!secret_names[i] || strcmp(secret_names[i], name) != 0)
                        continue;
                out = open_memstream(&data, &size);
                if (file) {
                        in = fopen(value, "r");
                        while (in && (c = getc(in)) != EOF)
                                putc(c, out);
                        if (in)
                                fclose(in);
                } else {
                        fputs(value, out);
                }
                fclose(out);
                free(secrets[i].data);
                secrets[i].data = data;
                secrets[i].size = size;
                return 0;
        }
        return -EINVAL;
}

/* ---- keyspaces, and where their logs end as far as this daemon knows */

static struct known {
        char name[64];
        struct stoke_keyspace keyspace;
        struct stoke_end end;
} known[64];
static size_t n_known;

static struct known *find(const char *word) {
        const char *slash = strrchr(word, '/');
        size_t size = slash ? (size_t)(slash - word) : strlen(word);
        char digit = slash && slash[1] ? slash[1] : '1';
        struct known *k;

        for (size_t i = 0; i < n_known; i++)
                if (strlen(known[i].name) == size && memcmp(known[i].name, word, size) == 0 &&
                        known[i].keyspace.incarnation[0] == (uint8_t)digit)
                        return &known[i];
        if (n_known == 64 || size >= sizeof(known[0].name))
                exit(2);
        k = &known[n_known++];
        memcpy(k->name, word, size);
        k->keyspace.name = k->name;
        memset(k->keyspace.incarnation, digit, 16);
        return k;
}

static struct stoke_record record_of(uint64_t seq, char key[32], char *value, size_t value_size) {
        struct stoke_record r = {.seq = seq,
                .revision = (int64_t)seq,
                .kind = 1,
                .hash = seq * UINT64_C(0x9e3779b97f4a7c15),
                .key = key,
                .value = value,
                .value_size = value_size};

        r.key_size = (size_t)snprintf(key, 32, "/key/%llu", (unsigned long long)seq);
        memcpy(r.origin.daemon, host.daemon, 16);
        r.origin.batch = batch;
        return r;
}

static int append(struct stoke_session *s, struct known *k, size_t n, size_t size, struct stoke_record *one) {
        struct stoke_record *records = calloc(n, sizeof(*records));
        char(*keys)[32] = calloc(n, sizeof(*keys)), *value = malloc(size + 1);
        struct stoke_append a = {
                .size = sizeof(a), .expected = k->end, .records = one ? one : records, .n_records = one ? 1 : n};
        int r;

        for (size_t i = 0; i < size; i++)
                value[i] = (char)(i * 7 + n);
        batch++;
        for (size_t i = 0; i < n; i++)
                records[i] = record_of(k->end.seq + 1 + i, keys[i], value, size);
        if (one) {
                one->seq = k->end.seq + 1;
                one->revision = (int64_t)one->seq;
                one->origin = records[0].origin;
        }
        r = driver->append(s, &k->keyspace, &a, call());
        if (r == 0)
                k->end = (struct stoke_end){k->end.seq + n, records[0].origin};
        fprintf(told, "%llu", (unsigned long long)k->end.seq);
        free(value);
        free(keys);
        free(records);
        return r;
}

static size_t unhex(const char *text, char *ret) {
        size_t n = 0;

        for (; text[0] && text[1]; text += 2) {
                unsigned byte;

                if (sscanf(text, "%2x", &byte) != 1)
                        break;
                ret[n++] = (char)byte;
        }
        return n;
}

/* ---- visitors */

struct loaded {
        uint64_t n, bytes;
        bool keys;
};
static int on_record(void *userdata, const struct stoke_record *record) {
        struct loaded *l = userdata;

        l->n++;
        l->bytes += record->value_size;
        if (l->keys) {
                fprintf(told, "%s%llu:", l->n > 1 ? " " : "", (unsigned long long)record->seq);
                for (size_t i = 0; i < record->key_size; i++)
                        fprintf(told, "%02x", ((const uint8_t *)record->key)[i]);
        }
        return 0;
}
static int on_value(void *userdata, uint64_t seq, const void *data, size_t size) {
        (void)userdata;
        fprintf(told, " %llu:%s%zu", (unsigned long long)seq, data ? "" : "none/", size);
        return 0;
}
static int on_end(void *userdata, size_t index, const struct stoke_end *end) {
        (void)userdata;
        fprintf(told, " %zu:", index);
        if (end)
                fprintf(told, "%llu", (unsigned long long)end->seq);
        else
                fputs("none", told);
        return 0;
}
static int on_info(void *userdata, const struct stoke_keyspace_info *info) {
        (void)userdata;
        fprintf(told, " %s/%c%s", info->name, info->incarnation[0], info->installing ? "+" : "");
        return 0;
}
static void on_report(void *userdata, const char *name, const char *value, enum stoke_severity severity) {
        (void)userdata;
        fprintf(told, "[%s|%d|%s]", name, (int)severity, value);
}
static void on_grown(void *userdata, const char *name) {
        (void)userdata;
        fprintf(told, " %s", name);
}

static struct {
        struct stoke_session *session;
        uint64_t ms;
        pthread_t thread;
} interrupter;
static void *interrupt_later(void *userdata) {
        (void)userdata;
        usleep((useconds_t)interrupter.ms * 1000);
        driver->interrupt(interrupter.session);
        return NULL;
}

/* ---- commands */

static int do_store(int n, char **w) {
        if (strcmp(w[0], "endpoint") == 0 && n > 1 && datastore.n_endpoints < 16) {
                endpoints[datastore.n_endpoints++] = strdup(w[1]);
        } else if (strcmp(w[0], "setting") == 0 && n > 2 && datastore.n_settings < 16) {
                settings[datastore.n_settings++] = (struct stoke_setting){strdup(w[1]), strdup(w[2])};
        } else if (strcmp(w[0], "secret") == 0 && n > 1) {
                return set_secret(w[1], n > 2 ? w[2] : "", false);
        } else if (strcmp(w[0], "secret-file") == 0 && n > 2) {
                return set_secret(w[1], w[2], true);
        } else if (strcmp(w[0], "daemon") == 0 && n > 1) {
                memset(host.daemon, w[1][0], 16);
        } else if (strcmp(w[0], "deadline") == 0 && n > 1) {
                deadline_ms = strtoull(w[1], NULL, 10);
        } else if (strcmp(w[0], "open") == 0) {
                datastore.endpoints = (const char *const *)endpoints;
                datastore.settings = settings;
                return driver->open(&datastore, &host, call(), &store);
        } else if (strcmp(w[0], "check") == 0) {
                return driver->check(store, call(), on_report, NULL);
        } else if (strcmp(w[0], "close") == 0) {
                for (size_t i = 0; i < 10; i++) {
                        driver->disconnect(sessions[i]);
                        sessions[i] = NULL;
                }
                driver->close(store);
                store = NULL;
        } else {
                return -ENOSYS;
        }
        return 0;
}

static int do_install(int n, char **w, struct stoke_session *s, struct known *k) {
        uint8_t id[16];
        int r;

        memset(id, w[3][0], 16);
        if (strcmp(w[0], "begin") == 0) {
                uint64_t seq = 0;

                r = driver->install_begin(s, &k->keyspace, id, call(), &seq);
                fprintf(told, "%llu", (unsigned long long)seq);
                return r;
        }
        if (strcmp(w[0], "abort") == 0)
                return driver->install_abort(s, &k->keyspace, id, call());
        if (strcmp(w[0], "feed") == 0 && n > 5) {
                for (uint64_t seq = strtoull(w[4], NULL, 10); seq <= strtoull(w[5], NULL, 10); seq++) {
                        char key[32], value[] = "fed";
                        struct stoke_record record = record_of(seq, key, value, 3);

                        r = driver->install_feed(s, &k->keyspace, id, &record, 1, call());
                        if (r != 0)
                                return r;
                }
                return 0;
        }
        if (strcmp(w[0], "commit") == 0 && n > 4) {
                char key[32], value[] = "last";
                struct stoke_record record = record_of(strtoull(w[4], NULL, 10), key, value, 4);

                return driver->install_commit(s, &k->keyspace, id, &record, call());
        }
        return -ENOSYS;
}

static int do_records(int n, char **w, struct stoke_session *s, struct known *k) {
        static const struct stoke_end zero;
        uint64_t seqs[N_WORDS];
        int r;

        if (strcmp(w[0], "append") == 0 && n > 4)
                return append(s, k, strtoull(w[3], NULL, 10), strtoull(w[4], NULL, 10), NULL);
        if (strcmp(w[0], "put") == 0 && n > 4) {
                char *key = malloc(strlen(w[3]) + 1), *value = malloc(strlen(w[4]) + 1);
                struct stoke_record record = {.kind = 1, .key = key, .value = value};

                record.key_size = unhex(w[3], key);
                record.value_size = unhex(w[4], value);
                r = append(s, k, 1, 0, &record);
                free(key);
                free(value);
                return r;
        }
        if (strcmp(w[0], "stale") == 0) {
                struct stoke_end right = k->end;

                k->end.origin.batch += 77;
                r = append(s, k, 1, 1, NULL);
                k->end = right;
                return r;
        }
        if (strcmp(w[0], "load") == 0 || strcmp(w[0], "keys") == 0) {
                struct loaded l = {.keys = w[0][0] == 'k'};
                struct stoke_end end = zero;

                r = driver->load(s, &k->keyspace, &zero, !l.keys, call(), on_record, &l, &end);
                if (r == 0)
                        k->end = end;
                if (!l.keys)
                        fprintf(told, "%llu records, %llu bytes, end %llu", (unsigned long long)l.n,
                                (unsigned long long)l.bytes, (unsigned long long)end.seq);
                return r;
        }
        if (strcmp(w[0], "values") == 0) {
                for (int i = 3; i < n; i++)
                        seqs[i - 3] = strtoull(w[i], NULL, 10);
                return driver->values(s, &k->keyspace, seqs, (size_t)(n - 3), call(), on_value, NULL);
        }
        if (strcmp(w[0], "compact") == 0 && n > 4) {
                struct stoke_compact c = {.size = sizeof(c), .first = w[4][0] == '1', .seqs = seqs};

                c.mark = strtoull(w[3], NULL, 10);
                for (int i = 5; i < n; i++)
                        seqs[c.n_seqs++] = strtoull(w[i], NULL, 10);
                return driver->compact(s, &k->keyspace, &c, call());
        }
        return -ENOSYS;
}

static int do_keyspace(int n, char **w, struct stoke_session *s, struct known *k) {
        int r;

        if (strcmp(w[0], "create") == 0) {
                char key[32], value[] = "first";
                struct stoke_record first = record_of(1, key, value, 5);

                r = driver->create(s, &k->keyspace, &first, call());
                k->end = (struct stoke_end){1, first.origin};
                return r;
        }
        if (strcmp(w[0], "drop") == 0)
                return driver->drop(s, &k->keyspace, call());
        if (strcmp(w[0], "stat") == 0) {
                struct stoke_stat stat = {.size = sizeof(stat)};

                r = driver->stat(s, &k->keyspace, call(), &stat);
                fprintf(told, "%llu records, %llu bytes", (unsigned long long)stat.n_records,
                        (unsigned long long)stat.bytes);
                return r;
        }
        if (strcmp(w[0], "limits") == 0) {
                struct stoke_limits limits = driver->limits;

                r = driver->server_limits ? driver->server_limits(s, &k->keyspace, call(), &limits) : 0;
                fprintf(told, "%llu", (unsigned long long)limits.record_bytes);
                return r;
        }
        if (n > 3) {
                r = do_install(n, w, s, k);
                if (r != -ENOSYS)
                        return r;
        }
        return do_records(n, w, s, k);
}

static int run(int n, char **w) {
        struct stoke_session **s;
        int r = do_store(n, w);

        if (r != -ENOSYS || n < 2)
                return r;
        s = &sessions[(unsigned)(w[1][0] - '0') % 10];
        if (strcmp(w[0], "connect") == 0)
                return driver->connect(store, NULL, call(), s);
        if (strcmp(w[0], "connect-scoped") == 0 && n > 2)
                return driver->connect(store, &find(w[2])->keyspace, call(), s);
        if (strcmp(w[0], "disconnect") == 0) {
                driver->disconnect(*s);
                *s = NULL;
                return 0;
        }
        if (strcmp(w[0], "list") == 0)
                return driver->list(*s, call(), on_info, NULL);
        if (strcmp(w[0], "wait") == 0 && n > 2)
                return driver->wait(*s, call_ms(strtoull(w[2], NULL, 10)), on_grown, NULL);
        if (strcmp(w[0], "interrupt-after") == 0 && n > 2) {
                interrupter.session = *s;
                interrupter.ms = strtoull(w[2], NULL, 10);
                return -pthread_create(&interrupter.thread, NULL, interrupt_later, NULL);
        }
        if (strcmp(w[0], "ends") == 0) {
                struct stoke_keyspace asked[N_WORDS];

                for (int i = 2; i < n; i++)
                        asked[i - 2] = find(w[i])->keyspace;
                return driver->ends(*s, asked, (size_t)(n - 2), call(), on_end, NULL);
        }
        return n > 2 ? do_keyspace(n, w, *s, find(w[2])) : -ENOSYS;
}

int main(int argc, char **argv) {
        char *line = NULL, *text = NULL;
        size_t size = 0, text_size = 0;
        void *handle;

        handle = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) : NULL;
        driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!driver) {
                fprintf(stderr, "driver-hand FILE.so: %s\n", argc > 1 ? dlerror() : "no file");
                return 2;
        }
        host = (struct stoke_host){.size = sizeof(host), .log = on_log, .secret = on_secret};
        memset(host.daemon, 'd', 16);
        setvbuf(stdout, NULL, _IOLBF, 0);
        while (getline(&line, &size, stdin) > 0) {
                char *words[N_WORDS], *rest = line;
                uint64_t start = now_ns();
                bool arming;
                int n = 0, r;

                while (n < N_WORDS && (words[n] = strtok_r(rest, " \n", &rest)))
                        n++;
                if (n == 0)
                        continue;
                arming = strcmp(words[0], "interrupt-after") == 0;
                told = open_memstream(&text, &text_size);
                reason[0] = '\0';
                r = run(n, words);
                if (interrupter.session && !arming) {
                        pthread_join(interrupter.thread, NULL);
                        interrupter.session = NULL;
                }
                fclose(told);
                printf("%d %llu %s%s%s\n", r, (unsigned long long)((now_ns() - start) / 1000000), text,
                        reason[0] ? " | " : "", reason);
                free(text);
        }
        free(line);
        for (size_t i = 0; store && i < 10; i++)
                driver->disconnect(sessions[i]);
        if (store)
                driver->close(store);
        for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
                free(secrets[i].data);
        for (size_t i = 0; i < datastore.n_endpoints; i++)
                free(endpoints[i]);
        for (size_t i = 0; i < datastore.n_settings; i++) {
                free((void *)settings[i].name);
                free((void *)settings[i].value);
        }
        return 0;
}
