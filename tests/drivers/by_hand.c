/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver by hand, for tests that have real servers fail around it: driver-by-hand FILE.so. A command a line on stdin; the answer is
 * any number of lines that begin with "- ", then "= RESULT MS REASON". A process is a daemon; several of them are several daemons. What
 * is no command ends it. Secrets are read anew at every use, so that they can be rotated.
 *
 *   endpoint HOST:PORT | setting NAME [VALUE]                                before open
 *   secret NAME [VALUE] | secret-file NAME PATH | deadline MS (of the calls that follow)
 *   open | close | check
 *   connect S [KEYSPACE] | disconnect S                                      S: a digit
 *   create S KEYSPACE | drop S KEYSPACE | list S | stat S KEYSPACE | limits S KEYSPACE
 *   append S KEYSPACE N SIZE [END] | put S KEYSPACE KEY VALUE (hexadecimal, - for nothing)
 *   load S KEYSPACE [END] | keys S KEYSPACE | values S KEYSPACE SEQ... | ends S KEYSPACE... | compact S KEYSPACE MARK SEQ...
 *   begin|abort S KEYSPACE ID | feed S KEYSPACE ID FROM TO | commit S KEYSPACE ID SEQ
 *   wait S MS | interrupt-after S MS (the call that follows)
 *
 * KEYSPACE: NAME/INCARNATION. An incarnation and an ID are 32 hexadecimal digits, or one character that is all 16 bytes. END: SEQ/ORIGIN, with 48
 * digits; an append without one goes on from where this process knows the log to end.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/driver.h>

#include "by_hand_words.h"

#define N_WORDS 512
#define N_KEYSPACES 512

static const struct stoke_driver *driver;
static struct stoke_store *store;
static struct stoke_session *sessions[10];
static char *endpoints[16];
static struct stoke_setting settings[16];
static struct stoke_datastore datastore = {.size = sizeof(datastore), .name = "by-hand"};
static struct {
        char *data;
        size_t size;
} secrets[8];
static char reason[512];
static uint64_t deadline_ms = 10000, batch;

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
        [STOKE_SECRET_CA_CERTIFICATE] = "ca-certificate",
        [STOKE_SECRET_CLIENT_CERTIFICATE] = "client-certificate",
        [STOKE_SECRET_CLIENT_PRIVATE_KEY] = "client-private-key",
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
                        if (!in)
                                by_hand_misused(value);
                        while ((c = getc(in)) != EOF)
                                putc(c, out);
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
        by_hand_misused(name);
}

/* ---- keyspaces, and where their logs end as far as this daemon knows */

static struct known {
        char name[64];
        struct stoke_keyspace keyspace;
        struct stoke_end end;
} known[N_KEYSPACES];
static size_t n_known;

static struct known *find(const char *word) {
        const char *slash = strrchr(word, '/');
        size_t size = slash ? (size_t)(slash - word) : 0;
        uint8_t incarnation[16];
        struct known *k;

        if (!slash || size >= sizeof(known[0].name))
                by_hand_misused(word);
        by_hand_id(slash + 1, incarnation);
        for (size_t i = 0; i < n_known; i++)
                if (strlen(known[i].name) == size && memcmp(known[i].name, word, size) == 0 &&
                        memcmp(known[i].keyspace.incarnation, incarnation, 16) == 0)
                        return &known[i];
        if (n_known == N_KEYSPACES)
                by_hand_misused(word);
        k = &known[n_known++];
        memcpy(k->name, word, size);
        k->keyspace.name = k->name;
        memcpy(k->keyspace.incarnation, incarnation, 16);
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

static int append_records(struct known *k, struct stoke_session *s, const struct stoke_end *expected, size_t n,
        size_t size, struct stoke_record *one) {
        struct stoke_record *records = calloc(n, sizeof(*records));
        char(*keys)[32] = calloc(n, sizeof(*keys)), *value = malloc(size + 1);
        struct stoke_append a = {
                .size = sizeof(a), .expected = *expected, .records = one ? one : records, .n_records = one ? 1 : n};
        int r;

        for (size_t i = 0; i < size; i++)
                value[i] = (char)(i * 7 + n);
        batch++;
        for (size_t i = 0; i < n; i++)
                records[i] = record_of(expected->seq + 1 + i, keys[i], value, size);
        if (one) {
                one->seq = expected->seq + 1;
                one->revision = (int64_t)one->seq;
                one->origin = records[0].origin;
        }
        r = driver->append(s, &k->keyspace, &a, call());
        if (r == 0) {
                k->end = (struct stoke_end){expected->seq + n, records[0].origin};
                by_hand_print_end("- ", &k->end);
        }
        free(value);
        free(keys);
        free(records);
        return r;
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
                printf("- %llu:", (unsigned long long)record->seq);
                for (size_t i = 0; i < record->key_size; i++)
                        printf("%02x", ((const uint8_t *)record->key)[i]);
                printf("\n");
        }
        return 0;
}
static int on_value(void *userdata, uint64_t seq, const void *data, size_t size) {
        (void)userdata;
        printf("- %llu:%s%zu\n", (unsigned long long)seq, data ? "" : "none/", size);
        return 0;
}
static int on_end(void *userdata, size_t index, const struct stoke_end *end) {
        (void)userdata;
        printf("- %zu:", index);
        if (end)
                by_hand_print_end("", end);
        else
                printf("none\n");
        return 0;
}
static int on_info(void *userdata, const struct stoke_keyspace_info *info) {
        bool one = isalnum(info->incarnation[0]) != 0;

        (void)userdata;
        printf("- %s/", info->name);
        for (unsigned i = 1; i < 16; i++)
                one = one && info->incarnation[i] == info->incarnation[0];
        for (unsigned i = 0; i < 16 && !one; i++)
                printf("%02x", info->incarnation[i]);
        if (one)
                printf("%c", info->incarnation[0]);
        printf("%s\n", info->installing ? "+" : "");
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

/* ---- commands of the store */

static int do_endpoint(char **w) {
        if (datastore.n_endpoints == 16)
                by_hand_misused(w[0]);
        endpoints[datastore.n_endpoints++] = strdup(w[1]);
        return 0;
}

static int do_setting(char **w) {
        if (datastore.n_settings == 16)
                by_hand_misused(w[0]);
        settings[datastore.n_settings++] = (struct stoke_setting){strdup(w[1]), strdup(w[2] ? w[2] : "")};
        return 0;
}

static int do_secret(char **w) {
        return set_secret(w[1], w[2] ? w[2] : "", false);
}

static int do_secret_file(char **w) {
        return set_secret(w[1], w[2], true);
}

static int do_deadline(char **w) {
        deadline_ms = by_hand_number(w[1]);
        return 0;
}

static int do_open(char **w) {
        (void)w;
        datastore.endpoints = (const char *const *)endpoints;
        datastore.settings = settings;
        return driver->open(&datastore, &host, call(), &store);
}

static int do_close(char **w) {
        (void)w;
        for (size_t i = 0; i < 10; i++) {
                driver->disconnect(sessions[i]);
                sessions[i] = NULL;
        }
        if (store)
                driver->close(store);
        store = NULL;
        return 0;
}

static int do_check(char **w) {
        (void)w;
        return driver->check(store, call(), on_report, NULL);
}

/* ---- of sessions */

static struct stoke_session **place_of(const char *word) {
        if (!isdigit((unsigned char)word[0]) || word[1])
                by_hand_misused(word);
        return &sessions[word[0] - '0'];
}

static struct stoke_session *session_of(const char *word) {
        struct stoke_session **s = place_of(word);

        if (!*s)
                by_hand_misused(word);
        return *s;
}

static int do_connect(char **w) {
        return driver->connect(store, w[2] ? &find(w[2])->keyspace : NULL, call(), place_of(w[1]));
}

static int do_disconnect(char **w) {
        driver->disconnect(session_of(w[1]));
        *place_of(w[1]) = NULL;
        return 0;
}

static int do_list(char **w) {
        return driver->list(session_of(w[1]), call(), on_info, NULL);
}

static int do_ends(char **w) {
        struct stoke_keyspace asked[N_WORDS];
        size_t n = 0;

        for (; w[2 + n]; n++)
                asked[n] = find(w[2 + n])->keyspace;
        return driver->ends(session_of(w[1]), asked, n, call(), on_end, NULL);
}

static int do_wait(char **w) {
        return driver->wait(session_of(w[1]), call_ms(by_hand_number(w[2])), on_grown, NULL);
}

static int do_interrupt_after(char **w) {
        interrupter.session = session_of(w[1]);
        interrupter.ms = by_hand_number(w[2]);
        return -pthread_create(&interrupter.thread, NULL, interrupt_later, NULL);
}

/* ---- of keyspaces */

static int do_create(char **w) {
        char key[32], value[] = "first";
        struct stoke_record first = record_of(1, key, value, 5);
        struct known *k = find(w[2]);
        int r;

        first.origin = (struct stoke_origin){}; /* the same whoever creates it */
        r = driver->create(session_of(w[1]), &k->keyspace, &first, call());
        if (r == 0)
                k->end = (struct stoke_end){1, first.origin};
        return r;
}

static int do_drop(char **w) {
        return driver->drop(session_of(w[1]), &find(w[2])->keyspace, call());
}

static int do_stat(char **w) {
        struct stoke_stat stat = {.size = sizeof(stat)};
        int r = driver->stat(session_of(w[1]), &find(w[2])->keyspace, call(), &stat);

        if (r == 0)
                printf("- %llu records, %llu bytes\n", (unsigned long long)stat.n_records,
                        (unsigned long long)stat.bytes);
        return r;
}

static int do_limits(char **w) {
        struct stoke_limits limits = driver->limits;
        int r = 0;

        if (driver->server_limits)
                r = driver->server_limits(session_of(w[1]), &find(w[2])->keyspace, call(), &limits);
        if (r == 0)
                printf("- %llu %llu %u\n", (unsigned long long)limits.record_bytes,
                        (unsigned long long)limits.batch_bytes, limits.batch_records);
        return r;
}

static int do_append(char **w) {
        struct known *k = find(w[2]);
        struct stoke_end expected = w[5] ? by_hand_end(w[5]) : k->end;

        return append_records(k, session_of(w[1]), &expected, by_hand_number(w[3]), by_hand_number(w[4]), NULL);
}

static int do_put(char **w) {
        uint8_t *key = malloc(strlen(w[3]) + 1), *value = malloc(strlen(w[4]) + 1);
        struct stoke_record record = {.kind = 1, .key = key, .value = value};
        struct known *k = find(w[2]);
        int r;

        record.key_size = by_hand_unhex(w[3], key, strlen(w[3]));
        record.value_size = by_hand_unhex(w[4], value, strlen(w[4]));
        r = append_records(k, session_of(w[1]), &k->end, 1, 0, &record);
        free(key);
        free(value);
        return r;
}

static int do_load(char **w) {
        struct stoke_end after = w[3] ? by_hand_end(w[3]) : (struct stoke_end){}, end = {};
        struct known *k = find(w[2]);
        struct loaded l = {};
        int r;

        r = driver->load(session_of(w[1]), &k->keyspace, &after, true, call(), on_record, &l, &end);
        if (r != 0)
                return r;
        k->end = end;
        printf("- %llu records, %llu bytes, end ", (unsigned long long)l.n, (unsigned long long)l.bytes);
        by_hand_print_end("", &end);
        return 0;
}

static int do_keys(char **w) {
        struct stoke_end zero = {}, end = {};
        struct loaded l = {.keys = true};

        return driver->load(session_of(w[1]), &find(w[2])->keyspace, &zero, false, call(), on_record, &l, &end);
}

static int do_values(char **w) {
        uint64_t seqs[N_WORDS];
        size_t n = 0;

        for (; w[3 + n]; n++)
                seqs[n] = by_hand_number(w[3 + n]);
        return driver->values(session_of(w[1]), &find(w[2])->keyspace, seqs, n, call(), on_value, NULL);
}

static int do_compact(char **w) {
        uint64_t seqs[N_WORDS];
        struct stoke_compact c = {.size = sizeof(c), .mark = by_hand_number(w[3]), .first = true, .seqs = seqs};

        for (int i = 4; w[i]; i++)
                seqs[c.n_seqs++] = by_hand_number(w[i]);
        return driver->compact(session_of(w[1]), &find(w[2])->keyspace, &c, call());
}

/* ---- of installations */

static int do_begin(char **w) {
        uint8_t id[16];
        uint64_t seq = 0;
        int r;

        by_hand_id(w[3], id);
        r = driver->install_begin(session_of(w[1]), &find(w[2])->keyspace, id, call(), &seq);
        if (r == 0)
                printf("- %llu\n", (unsigned long long)seq);
        return r;
}

static int do_abort(char **w) {
        uint8_t id[16];

        by_hand_id(w[3], id);
        return driver->install_abort(session_of(w[1]), &find(w[2])->keyspace, id, call());
}

static int do_feed(char **w) {
        uint8_t id[16];
        int r = 0;

        by_hand_id(w[3], id);
        for (uint64_t seq = by_hand_number(w[4]); r == 0 && seq <= by_hand_number(w[5]); seq++) {
                char key[32], value[] = "fed";
                struct stoke_record record = record_of(seq, key, value, 3);

                r = driver->install_feed(session_of(w[1]), &find(w[2])->keyspace, id, &record, 1, call());
        }
        return r;
}

static int do_commit(char **w) {
        char key[32], value[] = "last";
        struct stoke_record record = record_of(by_hand_number(w[4]), key, value, 4);
        uint8_t id[16];

        by_hand_id(w[3], id);
        return driver->install_commit(session_of(w[1]), &find(w[2])->keyspace, id, &record, call());
}

static const struct {
        const char *name;
        int n_least, n_most; /* words, its name included */
        int (*run)(char **w);
} commands[] = {
        {"endpoint", 2, 2, do_endpoint},
        {"setting", 2, 3, do_setting},
        {"secret", 2, 3, do_secret},
        {"secret-file", 3, 3, do_secret_file},
        {"deadline", 2, 2, do_deadline},
        {"open", 1, 1, do_open},
        {"close", 1, 1, do_close},
        {"check", 1, 1, do_check},
        {"connect", 2, 3, do_connect},
        {"disconnect", 2, 2, do_disconnect},
        {"list", 2, 2, do_list},
        {"ends", 3, N_WORDS, do_ends},
        {"wait", 3, 3, do_wait},
        {"interrupt-after", 3, 3, do_interrupt_after},
        {"create", 3, 3, do_create},
        {"drop", 3, 3, do_drop},
        {"stat", 3, 3, do_stat},
        {"limits", 3, 3, do_limits},
        {"append", 5, 6, do_append},
        {"put", 5, 5, do_put},
        {"load", 3, 4, do_load},
        {"keys", 3, 3, do_keys},
        {"values", 4, N_WORDS, do_values},
        {"compact", 4, N_WORDS, do_compact},
        {"begin", 4, 4, do_begin},
        {"abort", 4, 4, do_abort},
        {"feed", 6, 6, do_feed},
        {"commit", 5, 5, do_commit},
};

static int run(int n, char **w) {
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
                if (strcmp(commands[i].name, w[0]) == 0 && n >= commands[i].n_least && n <= commands[i].n_most)
                        return commands[i].run(w);
        by_hand_misused(w[0]);
}

int main(int argc, char **argv) {
        char *line = NULL;
        size_t size = 0;
        void *handle;

        handle = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) : NULL;
        driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!driver) {
                fprintf(stderr, "driver-by-hand FILE.so: %s\n", argc == 2 ? dlerror() : "no file");
                return 2;
        }
        host = (struct stoke_host){.size = sizeof(host), .log = on_log, .secret = on_secret};
        for (unsigned i = 0; i < 16; i++)
                host.daemon[i] = (uint8_t)((unsigned)getpid() >> (i % 4 * 8));
        setvbuf(stdout, NULL, _IOLBF, 0);
        while (getline(&line, &size, stdin) > 0) {
                char *words[N_WORDS + 1], *rest = line;
                uint64_t start = now_ns();
                bool armed = interrupter.session;
                int n = 0, r;

                while (n < N_WORDS && (words[n] = strtok_r(rest, " \n", &rest)))
                        n++;
                words[n] = NULL;
                if (n == 0)
                        continue;
                reason[0] = '\0';
                r = run(n, words);
                if (armed) {
                        pthread_join(interrupter.thread, NULL);
                        interrupter.session = NULL;
                }
                printf("= %d %llu %s\n", r, (unsigned long long)((now_ns() - start) / 1000000), reason);
        }
        free(line);
        do_close(NULL);
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
