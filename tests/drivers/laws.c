/* SPDX-License-Identifier: Apache-2.0 */
/* What the laws share, and the main program: stokehold-driver-check FILE.so [CONFIG] [NAME=VALUE…]. */
#include "laws.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <ftw.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void law_fail(struct laws *l, const char *where) {
        if (!l->failed)
                l->failed = where;
        printf("# %s\n", where);
}

struct stoke_call *law_call_ms(struct laws *l, int64_t ms) {
        l->reason[0] = '\0';
        l->call_buffer = (struct stoke_call){.size = sizeof(struct stoke_call),
                .deadline_ns = (uint64_t)((int64_t)now_ns() + ms * 1000000),
                .reason = l->reason,
                .reason_size = sizeof(l->reason)};
        return &l->call_buffer;
}

struct stoke_call *law_call(struct laws *l) {
        return law_call_ms(l, 10000);
}

uint64_t law_random(struct laws *l, uint64_t below) {
        l->dice ^= l->dice << 13;
        l->dice ^= l->dice >> 7;
        l->dice ^= l->dice << 17;
        return (l->dice >> 11) % below;
}

void law_uuid(struct laws *l, uint8_t ret[16]) {
        for (size_t i = 0; i < 16; i++)
                ret[i] = (uint8_t)law_random(l, 256);
}

struct stoke_keyspace law_keyspace(struct laws *l, const char *name) {
        struct stoke_keyspace keyspace = {.name = name};

        law_uuid(l, keyspace.incarnation);
        return keyspace;
}

struct stoke_record law_record(uint64_t seq, uint64_t batch, size_t value_size, char key[32]) {
        struct stoke_record r = {.seq = seq,
                .revision = (int64_t)(seq / 2 + 1),
                .kind = (uint8_t)(seq % 3 ? 1 : 2),
                .create_revision = (int64_t)seq - 1,
                .version = (int64_t)(seq % 7),
                .lease = seq % 5 ? 0 : INT64_MAX - (int64_t)seq,
                .hash = seq * UINT64_C(0x9e3779b97f4a7c15) + batch,
                .key = key,
                .value_size = value_size};
        char *value = malloc(value_size + 1);

        for (size_t i = 0; i < value_size; i++)
                value[i] = (char)(seq * 31 + batch * 7 + i);
        r.value = value;
        r.origin.batch = batch;
        r.origin.daemon[0] = 0xd0;
        r.key_size = (size_t)snprintf(key, 32, "/key/%llu", (unsigned long long)seq % 50);
        return r;
}

int law_open(struct laws *l) {
        int r = l->driver->open(&l->datastore, &l->host, law_call(l), &l->store);

        if (r == 0) {
                r = l->driver->connect(l->store, NULL, law_call(l), &l->session);
                if (r != 0) {
                        l->driver->close(l->store);
                        l->session = NULL;
                }
        }
        return r;
}

void law_close(struct laws *l) {
        l->driver->disconnect(l->session);
        l->driver->close(l->store);
        l->session = NULL;
        l->store = NULL;
}

int law_acquire(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace) {
        return l->driver->capabilities & STOKE_EXCLUSIVE ? l->driver->acquire(session, keyspace, law_call(l)) : 0;
}

void law_release(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace) {
        if (l->driver->capabilities & STOKE_EXCLUSIVE)
                l->driver->release(session, keyspace);
}

int law_make(struct laws *l, const struct stoke_keyspace *keyspace, struct stoke_end *ret) {
        char key[32];
        struct stoke_record first = law_record(1, 0, 3, key);
        int r;

        r = l->driver->create(l->session, keyspace, &first, law_call(l));
        *ret = (struct stoke_end){1, first.origin};
        free((void *)first.value);
        return r ? r : law_acquire(l, l->session, keyspace);
}

int law_append(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace,
        struct stoke_end *end, size_t n, size_t value_size) {
        struct stoke_record *records = calloc(n, sizeof(*records));
        char(*keys)[32] = calloc(n, sizeof(*keys));
        struct stoke_append append = {.size = sizeof(append), .expected = *end, .records = records, .n_records = n};
        int r;

        l->batch++;
        for (size_t i = 0; i < n; i++)
                records[i] = law_record(end->seq + 1 + i, l->batch, value_size, keys[i]);
        r = l->driver->append(session, keyspace, &append, law_call(l));
        if (r == 0)
                *end = (struct stoke_end){end->seq + n, records[n - 1].origin};
        for (size_t i = 0; i < n; i++)
                free((void *)records[i].value);
        free(records);
        free(keys);
        return r;
}

static int on_record(void *userdata, const struct stoke_record *record) {
        struct loaded *loaded = userdata;
        struct stoke_record *r;
        char *bytes;

        if (loaded->stop_after && loaded->n == loaded->stop_after)
                return 1;
        if (loaded->n == loaded->capacity) {
                loaded->capacity = loaded->capacity ? 2 * loaded->capacity : 64;
                loaded->records = reallocarray(loaded->records, loaded->capacity, sizeof(*r));
        }
        r = &loaded->records[loaded->n++];
        *r = *record;
        bytes = malloc(record->key_size + (record->value ? record->value_size : 0) + 1);
        if (record->key_size)
                memcpy(bytes, record->key, record->key_size);
        r->key = bytes;
        if (record->value) {
                if (record->value_size)
                        memcpy(bytes + record->key_size, record->value, record->value_size);
                r->value = bytes + record->key_size;
        }
        return 0;
}

int law_load(struct laws *l, struct stoke_session *session, const struct stoke_keyspace *keyspace,
        const struct stoke_end *after, bool with_values, struct loaded *ret) {
        static const struct stoke_end zero;
        size_t stop_after = ret->stop_after;

        *ret = (struct loaded){.stop_after = stop_after};
        return l->driver->load(
                session, keyspace, after ? after : &zero, with_values, law_call(l), on_record, ret, &ret->end);
}

void loaded_done(struct loaded *loaded) {
        for (size_t i = 0; i < loaded->n; i++)
                free((void *)loaded->records[i].key);
        free(loaded->records);
        *loaded = (struct loaded){};
}

bool law_same_end(const struct stoke_end *a, const struct stoke_end *b) {
        return a->seq == b->seq && a->origin.batch == b->origin.batch &&
                memcmp(a->origin.daemon, b->origin.daemon, 16) == 0;
}

bool law_same(const struct stoke_record *a, const struct stoke_record *b) {
        return a->seq == b->seq && a->revision == b->revision && a->kind == b->kind &&
                a->create_revision == b->create_revision && a->version == b->version && a->lease == b->lease &&
                a->hash == b->hash && a->origin.batch == b->origin.batch &&
                memcmp(a->origin.daemon, b->origin.daemon, 16) == 0 && a->key_size == b->key_size &&
                a->value_size == b->value_size && (a->key_size == 0 || memcmp(a->key, b->key, a->key_size) == 0) &&
                (!a->value || !b->value || a->value_size == 0 || memcmp(a->value, b->value, a->value_size) == 0);
}

/* ---- the program */

static char temporary[] = "/tmp/stokehold-driver-check-XXXXXX";
static bool have_temporary;

static int on_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void)st;
        (void)type;
        (void)ftw;
        return remove(path);
}

static void remove_temporary(void) {
        if (have_temporary)
                nftw(temporary, on_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct stoke_setting settings[64];
static const char *endpoints[16];
static bool faults;
static unsigned n_kills = 20;
static uint64_t seed;

/* Credentials, as the host would give them: words, or (file) the contents of a file. */
static struct {
        const char *name;
        bool file;
        char *data; /* owned; NULL: not configured */
        size_t size;
} secrets[] = {
        [STOKE_SECRET_USERNAME] = {"check-username", false},
        [STOKE_SECRET_PASSWORD] = {"check-password", false},
        [STOKE_SECRET_CA_CERTIFICATE] = {"check-ca-certificate", true},
        [STOKE_SECRET_CA_PRIVATE_KEY] = {"check-ca-private-key", true},
        [STOKE_SECRET_CLIENT_CERTIFICATE] = {"check-client-certificate", true},
        [STOKE_SECRET_CLIENT_PRIVATE_KEY] = {"check-client-private-key", true},
};
#define N_SECRETS (sizeof(secrets) / sizeof(secrets[0]))

static int read_secret(size_t which, const char *value) {
        FILE *in, *out;
        int c;

        if (!secrets[which].file) {
                secrets[which].data = strdup(value);
                secrets[which].size = strlen(value);
                return 0;
        }
        in = fopen(value, "r");
        if (!in) {
                perror(value);
                return -1;
        }
        out = open_memstream(&secrets[which].data, &secrets[which].size);
        while ((c = getc(in)) != EOF)
                putc(c, out);
        fclose(in);
        return fclose(out);
}

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *reason, size_t reason_size) {
        (void)userdata;
        (void)reason;
        (void)reason_size;
        if ((size_t)which >= N_SECRETS || !secrets[which].data)
                return -ENOENT;
        visit(visitor, secrets[which].data, secrets[which].size);
        return 0;
}

/* NAME=VALUE. "endpoint" may come several times; "seed" and "kills" are ours; @TMP@ is a fresh directory. */
static int add(struct stoke_datastore *d, const char *text) {
        const char *equals = strchr(text, '=');
        char *name, *value, *p;
        int r = 0;

        if (!equals || d->n_settings == 64 || d->n_endpoints == 16)
                return -1;
        name = strndup(text, (size_t)(equals - text));
        for (p = name + strlen(name); p > name && isspace((unsigned char)p[-1]); p--)
                p[-1] = '\0';
        for (equals++; isspace((unsigned char)*equals); equals++)
                ;
        value = strdup(equals);
        for (p = value + strlen(value); p > value && isspace((unsigned char)p[-1]); p--)
                p[-1] = '\0';
        if (strcmp(value, "@TMP@") == 0) {
                if (!have_temporary) {
                        if (!mkdtemp(temporary))
                                return -1;
                        have_temporary = true;
                        atexit(remove_temporary);
                }
                free(value);
                value = strdup(temporary);
        }
        if (strcmp(name, "endpoint") == 0)
                endpoints[d->n_endpoints++] = value;
        else if (strcmp(name, "check-seed") == 0)
                seed = strtoull(value, NULL, 10);
        else if (strcmp(name, "check-kills") == 0)
                n_kills = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(name, "check-faults") == 0)
                faults = strcmp(value, "yes") == 0;
        else if (strncmp(name, "check-", 6) == 0)
                r = -1;
        else
                settings[d->n_settings++] = (struct stoke_setting){name, value};
        for (size_t i = 0; r < 0 && i < N_SECRETS; i++)
                if (secrets[i].name && strcmp(name, secrets[i].name) == 0)
                        r = read_secret(i, value);
        if (strncmp(name, "check-", 6) == 0) {
                free(name);
                free(value);
        } else if (strcmp(name, "endpoint") == 0) {
                free(name);
        }
        return r;
}

static int read_config(struct stoke_datastore *d, const char *path) {
        char *line = NULL;
        size_t size = 0;
        int r = 0;
        FILE *f;

        f = fopen(path, "r");
        if (!f) {
                perror(path);
                return -1;
        }
        while (r == 0 && getline(&line, &size, f) > 0) {
                const char *p = line + strspn(line, " \t\n");

                if (*p && *p != '#')
                        r = add(d, p);
        }
        free(line);
        fclose(f);
        return r;
}

static void on_log(void *userdata, int level, const char *message) {
        (void)userdata;
        printf("# log <%d> %s\n", level, message);
}

static bool exports_one_symbol(const char *path) {
        char command[1024], line[512];
        unsigned n = 0;
        FILE *f;

        snprintf(command, sizeof(command), "nm -D --defined-only -- '%s' 2>/dev/null", path);
        f = popen(command, "r");
        while (f && fgets(line, sizeof(line), f)) {
                if (strstr(line, " __odr_asan.")) /* the sanitizer's own */
                        continue;
                printf("# exports %s", line);
                n++;
        }
        return !f || pclose(f) != 0 || n == 1;
}

int main(int argc, char **argv) {
        const struct law *const suites[] = {laws_log, laws_limits, laws_install, laws_model, laws_crash};
        struct laws l = {.datastore = {.size = sizeof(l.datastore),
                                 .name = "check",
                                 .endpoints = endpoints,
                                 .settings = settings},
                .host = {.size = sizeof(l.host), .log = on_log, .secret = on_secret}};
        unsigned n = 0, n_failed = 0;
        void *handle;
        int i = 2;

        if (argc < 2) {
                fprintf(stderr,
                        "Runs the laws of the driver ABI: %s FILE.so [CONFIG] [NAME=VALUE...]\n"
                        "CONFIG has a NAME = VALUE a line: endpoint, path and what the driver knows; @TMP@ is a fresh directory.\n"
                        "check-seed=N, check-kills=N, check-faults=yes (the driver was asked for faults) are the suite's own.\n"
                        "check-username, check-password, and from files check-ca-certificate, check-ca-private-key,\n"
                        "check-client-certificate, check-client-private-key are the datastore's credentials.\n",
                        argv[0]);
                return 2;
        }
        if (argc > 2 && !strchr(argv[2], '=')) {
                if (read_config(&l.datastore, argv[2]) < 0)
                        return 2;
                i++;
        }
        for (; i < argc; i++)
                if (add(&l.datastore, argv[i]) < 0) {
                        fprintf(stderr, "not NAME=VALUE: %s\n", argv[i]);
                        return 2;
                }
        handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        l.driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!l.driver || l.driver->magic != STOKE_DRIVER_MAGIC || l.driver->abi_major != STOKE_ABI_MAJOR) {
                printf("Bail out! %s is no driver of ABI %u: %s\n", argv[1], STOKE_ABI_MAJOR, handle ? "" : dlerror());
                return 1;
        }
        l.seed = seed ? seed : now_ns() | 1;
        l.dice = l.seed | 1;
        l.faults = faults;
        l.n_kills = n_kills;
        law_uuid(&l, l.host.daemon);
        setvbuf(stdout, NULL, _IOLBF, 0);
        printf("# driver %s %s, check-seed=%llu\n", l.driver->name, l.driver->version, (unsigned long long)l.seed);
        n++;
        if (!exports_one_symbol(argv[1])) {
                n_failed++;
                printf("not ");
        }
        printf("ok %u - the plugin exports one symbol\n", n);
        for (size_t s = 0; s < sizeof(suites) / sizeof(suites[0]); s++)
                for (const struct law *law = suites[s]; law->name; law++) {
                        if (l.faults && !law->bears_faults)
                                continue;
                        l.failed = l.skipped = NULL;
                        if (law_open(&l) != 0) {
                                printf("# cannot open: %s\n", l.reason);
                                l.failed = "open";
                        } else {
                                law->run(&l);
                                if (l.session)
                                        law_close(&l);
                        }
                        n_failed += l.failed != NULL;
                        printf("%sok %u - %s%s%s\n", l.failed ? "not " : "", ++n, law->name,
                                l.skipped ? " # SKIP " : "", l.skipped ? l.skipped : "");
                }
        printf("1..%u\n", n);
        for (size_t k = 0; k < l.datastore.n_settings; k++) {
                free((void *)settings[k].name);
                free((void *)settings[k].value);
        }
        for (size_t k = 0; k < l.datastore.n_endpoints; k++)
                free((void *)endpoints[k]);
        for (size_t k = 0; k < N_SECRETS; k++)
                free(secrets[k].data);
        return n_failed ? 1 : 0;
}
