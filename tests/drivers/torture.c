/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several daemons on one keyspace of a shared datastore, while somebody else (tests/drivers/torture) kills, pauses and cuts off the server:
 *
 *     driver-torture FILE.so SECONDS SEED NAME=VALUE...
 *
 * Each thread is a daemon with a store of its own, which loads, appends, compacts, and does after each outcome what the ABI says.
 * Afterwards the log must hold each batch that was acknowledged, whole, once, where it was acknowledged; none that was refused; of those
 * whose outcome was never known all or nothing; and no hole but what was deleted. Meanwhile another thread sees to it that ends() never tells
 * of less than what was acknowledged before it was asked. NAME=VALUE: endpoint, username, password, or a setting of the driver's;
 * rotate=yes: each daemon begins with another endpoint.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/driver.h>

#define N_DAEMONS 4
#define MAX_BATCHES 200000
#define MAX_SEQ 2000000
#define MAX_RECORDS 24

enum fate { NEVER_SENT, REFUSED, ACKNOWLEDGED, UNKNOWN };

struct batch {
        enum fate fate;
        unsigned n;
        uint64_t first;
};

struct daemon_thread {
        struct stoke_datastore datastore;
        const char *endpoints[16];
        unsigned index;
        pthread_t thread;
        struct stoke_host host;
        struct stoke_store *store;
        struct stoke_session *session;
        pthread_mutex_t mutex; /* session, for the interrupter */
        uint64_t dice;
        struct stoke_end end;
        struct batch *batches; /* by number */
        uint64_t n_batches;
        unsigned n_stale, n_unknown, n_failed, n_compacted, n_connects;
};

static const struct stoke_driver *driver;
static struct stoke_datastore datastore = {.size = sizeof(datastore), .name = "torture"};
static const char *username, *password;
static struct stoke_keyspace keyspace = {.name = "torture"};
static struct daemon_thread daemons[N_DAEMONS];
static uint8_t deleted[MAX_SEQ]; /* 1: perhaps, 2: surely */
static atomic_uint_fast64_t acknowledged_end;
static atomic_bool stopping;
static atomic_uint n_bad;

static uint64_t now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t roll(uint64_t *dice, uint64_t below) {
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        return (*dice >> 11) % below;
}

static void bad(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));
static void bad(const char *format, ...) {
        va_list args;

        if (atomic_fetch_add(&n_bad, 1) > 20)
                return;
        va_start(args, format);
        printf("# ");
        vprintf(format, args);
        printf("\n");
        va_end(args);
}

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

struct buffer {
        struct stoke_call call;
        char reason[512];
};
static struct stoke_call *call(struct buffer *b, uint64_t ms) {
        b->reason[0] = '\0';
        b->call = (struct stoke_call){.size = sizeof(b->call),
                .deadline_ns = now_ns() + ms * 1000000,
                .reason = b->reason,
                .reason_size = sizeof(b->reason)};
        return &b->call;
}

/* What a record of a batch must look like follows from who appended it, which batch it is, and its place there. */
static size_t value_of(unsigned index, uint64_t batch, unsigned place, char value[512]) {
        size_t size = (size_t)((batch * 7 + place * 13 + index) % 500);

        for (size_t i = 0; i < size; i++)
                value[i] = (char)(batch + place * 3 + index * 5 + i);
        return size;
}

static void set_session(struct daemon_thread *d, struct stoke_session *session) {
        struct stoke_session *old = d->session;

        pthread_mutex_lock(&d->mutex);
        d->session = session;
        pthread_mutex_unlock(&d->mutex);
        driver->disconnect(old);
}

/* As the host does after what ends a session. */
static bool connected(struct daemon_thread *d) {
        struct stoke_session *session = NULL;
        struct buffer b;
        int r;

        if (d->session)
                return true;
        r = driver->connect(d->store, NULL, call(&b, 3000), &session);
        if (r != 0) {
                if (r > 0 || !b.reason[0])
                        bad("connect gave %d, \"%s\"", r, b.reason);
                usleep(20000);
                return false;
        }
        d->n_connects++;
        set_session(d, session);
        return true;
}

static void after(struct daemon_thread *d, int r) {
        if (r == STOKE_UNKNOWN || r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE || r == -EIO || r == -ETIMEDOUT ||
                r == -ECANCELED || r == -EROFS)
                set_session(d, NULL);
}

static int on_record(void *userdata, const struct stoke_record *record) {
        (void)userdata;
        (void)record;
        return 0;
}

static bool catch_up(struct daemon_thread *d) {
        struct stoke_end end;
        struct buffer b;
        int r;

        if (!connected(d))
                return false;
        r = driver->load(d->session, &keyspace, &d->end, roll(&d->dice, 2), call(&b, 3000), on_record, NULL, &end);
        if (r == STOKE_COMPACTED) { /* as the host: from zero */
                static const struct stoke_end zero;

                r = driver->load(d->session, &keyspace, &zero, false, call(&b, 3000), on_record, NULL, &end);
        }
        if (r == 0)
                d->end = end;
        else if (r > 0)
                bad("load behind %llu gave %d", (unsigned long long)d->end.seq, r);
        else
                after(d, r);
        return r == 0;
}

static void append(struct daemon_thread *d) {
        uint64_t number = ++d->n_batches;
        struct batch *batch = &d->batches[number];
        struct stoke_record records[MAX_RECORDS] = {};
        char values[MAX_RECORDS][512], keys[MAX_RECORDS][32];
        struct stoke_append append = {.size = sizeof(append), .expected = d->end, .records = records};
        struct buffer b;
        int r;

        batch->n = 1 + (unsigned)roll(&d->dice, MAX_RECORDS);
        batch->first = d->end.seq + 1;
        for (unsigned i = 0; i < batch->n; i++) {
                records[i] = (struct stoke_record){.seq = batch->first + i,
                        .revision = (int64_t)(batch->first + i),
                        .kind = 1,
                        .version = batch->n,
                        .lease = i,
                        .key = keys[i],
                        .value = values[i]};
                records[i].value_size = value_of(d->index, number, i, values[i]);
                records[i].key_size = (size_t)snprintf(keys[i], sizeof(keys[i]), "%u/%u", d->index, i);
                memcpy(records[i].origin.daemon, d->host.daemon, 16);
                records[i].origin.batch = number;
        }
        append.n_records = batch->n;
        batch->fate = UNKNOWN;
        r = driver->append(d->session, &keyspace, &append, call(&b, roll(&d->dice, 10) ? 2000 : roll(&d->dice, 5)));
        switch (r) {
        case 0:
                batch->fate = ACKNOWLEDGED;
                d->end = (struct stoke_end){batch->first + batch->n - 1, records[0].origin};
                for (uint64_t seen = atomic_load(&acknowledged_end);
                        seen < d->end.seq && !atomic_compare_exchange_weak(&acknowledged_end, &seen, d->end.seq);)
                        ;
                return;
        case STOKE_STALE:
                batch->fate = REFUSED;
                d->n_stale++;
                break;
        case STOKE_UNKNOWN:
                d->n_unknown++;
                if (!b.reason[0])
                        bad("an unknown outcome without a reason");
                break;
        default:
                if (r > 0)
                        bad("append gave %d, \"%s\"", r, b.reason);
                batch->fate = REFUSED;
                d->n_failed++;
                if (r == -EBUSY || r == -ENOTCONN)
                        usleep(10000);
        }
        after(d, r);
}

/* Deletes some of what this daemon had acknowledged; the mark is its last record, which is durable. */
static void compact(struct daemon_thread *d) {
        struct stoke_compact compact = {.size = sizeof(compact), .first = true};
        uint64_t seqs[64], from = d->end.seq > 300 ? d->end.seq - 300 : 1;
        struct buffer b;
        int r;

        compact.mark = d->end.seq;
        compact.seqs = seqs;
        for (uint64_t seq = from; seq < d->end.seq && compact.n_seqs < 64; seq++)
                if (roll(&d->dice, 5) == 0)
                        seqs[compact.n_seqs++] = seq;
        for (size_t i = 0; i < compact.n_seqs; i++)
                if (!deleted[seqs[i]])
                        deleted[seqs[i]] = 1;
        r = driver->compact(d->session, &keyspace, &compact, call(&b, 3000));
        if (r == 0) {
                d->n_compacted++;
                for (size_t i = 0; i < compact.n_seqs; i++)
                        deleted[seqs[i]] = 2;
        } else if (r > 0) {
                bad("compact gave %d, \"%s\"", r, b.reason);
        }
        after(d, r);
}

static void *run_daemon(void *userdata) {
        struct daemon_thread *d = userdata;
        unsigned lonely = 0;

        while (!atomic_load(&stopping) && d->n_batches + 1 < MAX_BATCHES && d->end.seq + 100 < MAX_SEQ) {
                if (!connected(d) || (lonely == 0 && !catch_up(d)))
                        continue;
                /* Mostly on the end that it knows; sometimes several in a row, sometimes on one that is old. */
                append(d);
                lonely = d->batches[d->n_batches].fate == ACKNOWLEDGED ? (unsigned)roll(&d->dice, 4) : 0;
                if (d->index == 0 && d->session && roll(&d->dice, 40) == 0 && catch_up(d))
                        compact(d);
        }
        return NULL;
}

static int on_end(void *userdata, size_t index, const struct stoke_end *end) {
        (void)index;
        if (end)
                *(struct stoke_end *)userdata = *end;
        else
                bad("the keyspace was missing");
        return 0;
}

static void *run_reader(void *userdata) {
        struct daemon_thread *d = userdata;

        while (!atomic_load(&stopping)) {
                uint64_t before = atomic_load(&acknowledged_end);
                struct stoke_end end = {};
                struct buffer b;
                int r;

                if (!connected(d))
                        continue;
                r = driver->ends(d->session, &keyspace, 1, call(&b, 3000), on_end, &end);
                if (r == 0 && end.seq < before)
                        bad("ends told of %llu after %llu had been acknowledged", (unsigned long long)end.seq,
                                (unsigned long long)before);
                else if (r > 0)
                        bad("ends gave %d, \"%s\"", r, b.reason);
                d->n_batches += r == 0;
                after(d, r);
                usleep(2000);
        }
        return NULL;
}

static void *run_interrupter(void *userdata) {
        uint64_t dice = *(uint64_t *)userdata;

        while (!atomic_load(&stopping)) {
                struct daemon_thread *d = &daemons[roll(&dice, N_DAEMONS)];

                pthread_mutex_lock(&d->mutex);
                if (d->session)
                        driver->interrupt(d->session);
                pthread_mutex_unlock(&d->mutex);
                usleep((useconds_t)roll(&dice, 300000));
        }
        return NULL;
}

/* ---- afterwards */

static struct {
        uint64_t last;
        uint64_t n;
} verified;
static uint8_t *seen[N_DAEMONS]; /* records of each batch */

static int on_verify(void *userdata, const struct stoke_record *r) {
        char value[512];
        unsigned index = N_DAEMONS;
        struct batch *batch;

        (void)userdata;
        for (uint64_t seq = verified.last + 1; seq < r->seq; seq++)
                if (!deleted[seq])
                        bad("record %llu is missing", (unsigned long long)seq);
        verified.last = r->seq;
        verified.n++;
        if (deleted[r->seq] == 2)
                bad("record %llu was deleted, and is there", (unsigned long long)r->seq);
        if (r->seq == 1)
                return 0;
        for (unsigned i = 0; i < N_DAEMONS; i++)
                if (memcmp(daemons[i].host.daemon, r->origin.daemon, 16) == 0)
                        index = i;
        if (index == N_DAEMONS || r->origin.batch == 0 || r->origin.batch > daemons[index].n_batches) {
                bad("record %llu is nobody's", (unsigned long long)r->seq);
                return 0;
        }
        batch = &daemons[index].batches[r->origin.batch];
        if (batch->fate == REFUSED)
                bad("record %llu is of a batch that was refused", (unsigned long long)r->seq);
        if (r->seq < batch->first || r->seq >= batch->first + batch->n || r->lease != (int64_t)(r->seq - batch->first))
                bad("record %llu is not where its batch was to be", (unsigned long long)r->seq);
        else if (r->value_size != value_of(index, r->origin.batch, (unsigned)r->lease, value) ||
                (r->value_size && memcmp(r->value, value, r->value_size) != 0))
                bad("record %llu has another value", (unsigned long long)r->seq);
        else
                seen[index][r->origin.batch]++;
        return 0;
}

static void verify(struct daemon_thread *d) {
        static const struct stoke_end zero;
        struct stoke_end end = {};
        struct buffer b;
        int r = -EIO;

        /* Whoever makes the faults may still be about to undo the last one. */
        for (uint64_t until = now_ns() + 90000000000u; r != 0 && now_ns() < until;) {
                if (!connected(d))
                        continue;
                memset(&verified, 0, sizeof(verified));
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        memset(seen[i], 0, MAX_BATCHES);
                r = driver->load(d->session, &keyspace, &zero, true, call(&b, 60000), on_verify, NULL, &end);
                after(d, r);
        }
        if (r != 0)
                bad("the last load gave %d, \"%s\"", r, b.reason);
        if (end.seq < atomic_load(&acknowledged_end))
                bad("the log ends at %llu, and %llu was acknowledged", (unsigned long long)end.seq,
                        (unsigned long long)atomic_load(&acknowledged_end));
        for (unsigned i = 0; i < N_DAEMONS; i++)
                for (uint64_t k = 1; k <= daemons[i].n_batches; k++) {
                        const struct batch *batch = &daemons[i].batches[k];
                        unsigned gone = 0;

                        for (uint64_t seq = batch->first; seq < batch->first + batch->n; seq++)
                                gone += deleted[seq] != 0;
                        if (seen[i][k] > batch->n ||
                                (seen[i][k] + gone < batch->n && (seen[i][k] || batch->fate == ACKNOWLEDGED)))
                                bad("daemon %u, batch %llu at %llu: %u of %u records, %u deleted", i,
                                        (unsigned long long)k, (unsigned long long)batch->first, seen[i][k], batch->n,
                                        gone);
                }
}

int main(int argc, char **argv) {
        static struct stoke_setting settings[16];
        static const char *endpoints[16];
        struct daemon_thread reader = {.index = N_DAEMONS};
        struct stoke_record first = {.seq = 1, .revision = 1, .kind = 1, .key = "", .value = ""};
        unsigned n_stale = 0, n_unknown = 0, n_failed = 0, n_connects = 0;
        uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) | 1 : 1, n_batches = 0;
        pthread_t interrupter;
        bool rotate = false;
        struct buffer b;
        void *handle;
        int r;

        if (argc < 5 || argc > 20) {
                fprintf(stderr, "driver-torture FILE.so SECONDS SEED NAME=VALUE...\n");
                return 2;
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        for (int i = 4; i < argc; i++) {
                char *equals = strchr(argv[i], '=');

                if (!equals)
                        return 2;
                *equals++ = '\0';
                if (strcmp(argv[i], "endpoint") == 0)
                        endpoints[datastore.n_endpoints++] = equals;
                else if (strcmp(argv[i], "username") == 0)
                        username = equals;
                else if (strcmp(argv[i], "password") == 0)
                        password = equals;
                else if (strcmp(argv[i], "rotate") == 0)
                        rotate = strcmp(equals, "yes") == 0;
                else
                        settings[datastore.n_settings++] = (struct stoke_setting){argv[i], equals};
        }
        datastore.endpoints = endpoints;
        datastore.settings = settings;
        handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        driver = handle ? dlsym(handle, STOKE_DRIVER_SYMBOL) : NULL;
        if (!driver) {
                fprintf(stderr, "%s\n", dlerror());
                return 2;
        }
        printf("# %s, seed %llu\n", driver->name, (unsigned long long)seed);
        memcpy(keyspace.incarnation, &seed, sizeof(seed));
        for (unsigned i = 0; i <= N_DAEMONS; i++) {
                struct daemon_thread *d = i < N_DAEMONS ? &daemons[i] : &reader;

                d->index = i;
                d->dice = seed * 2654435761u + i * 77777 + 1;
                d->host = (struct stoke_host){.size = sizeof(d->host), .secret = on_secret};
                memset(d->host.daemon, (int)i + 1, 16);
                pthread_mutex_init(&d->mutex, NULL);
                if (i < N_DAEMONS) {
                        d->batches = calloc(MAX_BATCHES, sizeof(*d->batches));
                        seen[i] = calloc(MAX_BATCHES, 1);
                }
                d->datastore = datastore;
                for (size_t k = 0; rotate && k < datastore.n_endpoints; k++)
                        d->endpoints[k] = endpoints[(k + i) % datastore.n_endpoints];
                if (rotate)
                        d->datastore.endpoints = d->endpoints;
                r = driver->open(&d->datastore, &d->host, call(&b, 10000), &d->store);
                if (r != 0) {
                        fprintf(stderr, "open: %d %s\n", r, b.reason);
                        return 2;
                }
        }
        do {
                while (!connected(&reader))
                        ;
                r = driver->create(reader.session, &keyspace, &first, call(&b, 10000));
                after(&reader, r);
        } while (r == -ECONNRESET || r == -EIO || r == -ENOTCONN || r == -ETIMEDOUT);
        if (r != 0) {
                fprintf(stderr, "create: %d %s\n", r, b.reason);
                return 2;
        }
        for (unsigned i = 0; i < N_DAEMONS; i++)
                pthread_create(&daemons[i].thread, NULL, run_daemon, &daemons[i]);
        pthread_create(&reader.thread, NULL, run_reader, &reader);
        pthread_create(&interrupter, NULL, run_interrupter, &seed);
        printf("# started\n");
        sleep((unsigned)atoi(argv[2]));
        atomic_store(&stopping, true);
        for (unsigned i = 0; i < N_DAEMONS; i++)
                pthread_join(daemons[i].thread, NULL);
        pthread_join(reader.thread, NULL);
        pthread_join(interrupter, NULL);
        verify(&reader);
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                struct daemon_thread *d = &daemons[i];

                printf("# daemon %u: %llu batches, %u stale, %u unknown, %u failed, %u compactions, %u connections\n",
                        i, (unsigned long long)d->n_batches, d->n_stale, d->n_unknown, d->n_failed, d->n_compacted,
                        d->n_connects);
                n_batches += d->n_batches;
                n_stale += d->n_stale;
                n_unknown += d->n_unknown;
                n_failed += d->n_failed;
                n_connects += d->n_connects;
        }
        printf("# %llu batches, %u stale, %u unknown, %u failed, %u connections, %llu ends asked, log of %llu records ends at %llu\n",
                (unsigned long long)n_batches, n_stale, n_unknown, n_failed, n_connects,
                (unsigned long long)reader.n_batches, (unsigned long long)verified.n,
                (unsigned long long)verified.last);
        if (verified.last < 100)
                bad("hardly anything was written");
        if (reader.session)
                driver->drop(reader.session, &keyspace, call(&b, 10000));
        for (unsigned i = 0; i <= N_DAEMONS; i++) {
                struct daemon_thread *d = i < N_DAEMONS ? &daemons[i] : &reader;

                driver->disconnect(d->session);
                driver->close(d->store);
                if (i < N_DAEMONS) {
                        free(d->batches);
                        free(seen[i]);
                }
        }
        printf("%sok 1 - nothing acknowledged was lost, nothing was written in part or twice\n1..1\n",
                n_bad ? "not " : "");
        return n_bad != 0;
}
