/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQLite driver on a disk that fails. A small program of appends, compactions, write-backs and an installation is run again and again, and
 * each time another operation of the file layer fails: the n-th write, sync or truncation. Whatever the driver answered must
 * be true: in this process, after a crash of it, and after a power cut, as faults_vfs.c has them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <stokehold/driver.h>

#include "faults_vfs.h"

extern const struct stoke_driver stoke_driver;

#define MAX 512
enum state { NEVER_USED, ACKNOWLEDGED, REFUSED, UNKNOWN };

struct run {
        const char *directory;
        struct stoke_store *store;
        struct stoke_session *session;
        struct stoke_keyspace keyspace;
        struct stoke_end end;    /* what the host knows */
        uint64_t batch_at[MAX];  /* by seq */
        enum state batches[MAX]; /* by number */
        uint64_t batch;
        bool compacted, compacting; /* 2 and 3 are gone; may be */
        bool installed;
        char reason[512], where[1024];
};

static const struct stoke_host host = {.size = sizeof(host)};
static struct stoke_call call_buffer;

static struct stoke_call *call(struct run *run) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        run->reason[0] = '\0';
        call_buffer = (struct stoke_call){.size = sizeof(call_buffer),
                .deadline_ns = ((uint64_t)ts.tv_sec + 10) * 1000000000u,
                .reason = run->reason,
                .reason_size = sizeof(run->reason)};
        return &call_buffer;
}

#define FAIL(run, ...) (snprintf((run)->where, sizeof((run)->where), __VA_ARGS__), -1)

static int open_store(struct run *run, const char *directory) {
        static struct stoke_setting setting;
        static struct stoke_datastore datastore;

        setting = (struct stoke_setting){"path", directory};
        datastore = (struct stoke_datastore){
                .size = sizeof(datastore), .name = "faults", .settings = &setting, .n_settings = 1};
        if (stoke_driver.open(&datastore, &host, call(run), &run->store) != 0)
                return FAIL(run, "open");
        if (stoke_driver.connect(run->store, NULL, call(run), &run->session) != 0) {
                stoke_driver.close(run->store);
                return FAIL(run, "connect: %s", run->reason);
        }
        return 0;
}

static void close_store(struct run *run) {
        stoke_driver.disconnect(run->session);
        stoke_driver.close(run->store);
}

static int on_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void)st;
        (void)type;
        (void)ftw;
        return remove(path);
}
static void remove_directory(const char *path) {
        nftw(path, on_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- what the log must be */

struct look {
        struct run *run;
        uint64_t last, n;
        bool strict; /* what is found beyond the known end becomes known */
        int r;
};

static int on_record(void *userdata, const struct stoke_record *record) {
        struct look *look = userdata;
        struct run *run = look->run;
        uint64_t batch = record->origin.batch;

        for (uint64_t seq = look->last + 1; seq < record->seq; seq++)
                if (!(run->compacting && (seq == 2 || seq == 3)))
                        look->r = FAIL(run, "record %d is lost", (int)seq);
        if (run->compacted && (record->seq == 2 || record->seq == 3))
                look->r = FAIL(run, "record %d came back", (int)record->seq);
        if (record->seq <= run->end.seq ? run->batch_at[record->seq] != batch
                                        : batch >= MAX || run->batches[batch] != UNKNOWN)
                look->r = FAIL(run, "record %d is of batch %d, which was %s", (int)record->seq, (int)batch,
                        batch < MAX && run->batches[batch] == REFUSED ? "refused" : "not the one written there");
        for (size_t i = 0; i < record->value_size; i++)
                if (((const char *)record->value)[i] != (char)(batch + i)) {
                        look->r = FAIL(run, "record %d has another value", (int)record->seq);
                        break;
                }
        look->last = record->seq;
        look->n++;
        return look->r;
}

static int look(struct run *run, bool learn) {
        struct look look = {.run = run};
        static const struct stoke_end zero;
        struct stoke_end end;
        int r;

        for (int tries = 0;; tries++) {
                look = (struct look){.run = run};
                r = stoke_driver.load(run->session, &run->keyspace, &zero, true, call(run), on_record, &look, &end);
                if (r == 0 || look.r < 0)
                        break;
                if (tries == 5)
                        return FAIL(run, "load gave %d, %s", r, run->reason);
        }
        if (look.r < 0)
                return -1;
        if (end.seq < run->end.seq || end.seq != look.last)
                return FAIL(run, "the log ends at %d, not at %d", (int)end.seq, (int)run->end.seq);
        if (learn && end.seq > run->end.seq) {
                for (uint64_t seq = run->end.seq + 1; seq <= end.seq; seq++)
                        run->batch_at[seq] = end.origin.batch;
                run->batches[end.origin.batch] = ACKNOWLEDGED;
                run->end = end;
        }
        return 0;
}

static int acquire(struct run *run) {
        int r = 0;

        for (int tries = 0; tries < 6; tries++)
                if ((r = stoke_driver.acquire(run->session, &run->keyspace, call(run))) == 0)
                        return 0;
        return FAIL(run, "acquire gave %d, %s", r, run->reason);
}

/* The same log as seen from elsewhere. */
static int look_in(struct run *run, const char *directory, const char *what) {
        struct stoke_store *store = run->store;
        struct stoke_session *session = run->session;
        int r = open_store(run, directory);

        if (r == 0) {
                r = acquire(run);
                if (r == 0)
                        r = look(run, false);
                close_store(run);
        }
        run->store = store;
        run->session = session;
        if (r < 0) {
                char inner[200];

                snprintf(inner, sizeof(inner), "%.190s", run->where);
                return FAIL(run, "after a %s: %.200s", what, inner);
        }
        return 0;
}

static int copy_files(const char *from, const char *to) {
        struct dirent *entry;
        char a[512], b[512], buffer[65536];
        DIR *dir = opendir(from);

        while (dir && (entry = readdir(dir))) {
                size_t size = strlen(entry->d_name);
                int in, out;
                ssize_t n;

                /* The database itself is never opened but through SQLite while it is in use: closing would drop its locks. They do not matter
                 * here, where one process and one connection at a time use it. */
                if (entry->d_name[0] == '.' || strstr(entry->d_name, "-shm") ||
                        (size > 5 && strcmp(entry->d_name + size - 5, ".lock") == 0))
                        continue;
                snprintf(a, sizeof(a), "%s/%s", from, entry->d_name);
                snprintf(b, sizeof(b), "%s/%s", to, entry->d_name);
                in = open(a, O_RDONLY);
                out = open(b, O_WRONLY | O_CREAT | O_TRUNC, 0600);
                while ((n = read(in, buffer, sizeof(buffer))) > 0)
                        if (write(out, buffer, (size_t)n) != n)
                                break;
                close(in);
                close(out);
        }
        if (dir)
                closedir(dir);
        return 0;
}

static int look_everywhere(struct run *run) {
        char other[128];
        int r = 0;

        for (int i = 0; i < 2 && r == 0; i++) {
                snprintf(other, sizeof(other), "%s-other", run->directory);
                if (mkdir(other, 0700) < 0)
                        return FAIL(run, "mkdir");
                r = i == 0 ? faults_power_cut(run->directory, other) : copy_files(run->directory, other);
                if (r == 0)
                        r = look_in(run, other, i == 0 ? "power cut" : "crash");
                remove_directory(other);
        }
        return r;
}

/* ---- the program */

static int append(struct run *run, size_t n, bool must) {
        struct stoke_record records[4] = {};
        struct stoke_append append = {.size = sizeof(append), .expected = run->end, .records = records, .n_records = n};
        uint64_t ours = ++run->batch;
        char value[5000];
        int r;

        for (size_t i = 0; i < sizeof(value); i++)
                value[i] = (char)(ours + i);
        for (size_t i = 0; i < n; i++) {
                records[i] = (struct stoke_record){.seq = run->end.seq + 1 + i,
                        .revision = (int64_t)ours,
                        .kind = 1,
                        .origin.batch = ours,
                        .key = "k",
                        .key_size = 1,
                        .value = value,
                        .value_size = sizeof(value)};
        }
        r = stoke_driver.append(run->session, &run->keyspace, &append, call(run));
        run->batches[ours] = r == 0 ? ACKNOWLEDGED : r == STOKE_UNKNOWN ? UNKNOWN : REFUSED;
        if (must && r != 0)
                return FAIL(run, "the append after the fault gave %d, %s", r, run->reason);
        if (r > 0 && r != STOKE_UNKNOWN)
                return FAIL(run, "append gave %d", r);
        if (r != 0 && !run->reason[0])
                return FAIL(run, "append gave %d without a reason", r);
        if (r == 0) {
                /* What was in doubt until now did not happen, and now it cannot any more. */
                for (uint64_t b = 1; b < ours; b++)
                        if (run->batches[b] == UNKNOWN)
                                run->batches[b] = REFUSED;
                for (size_t i = 0; i < n; i++)
                        run->batch_at[run->end.seq + 1 + i] = ours;
                run->end = (struct stoke_end){run->end.seq + n, records[n - 1].origin};
                return 0;
        }
        /* Before anybody asks, it may be there after a crash, or not, as it was answered. */
        if (look_everywhere(run) < 0)
                return -1;
        return look(run, true);
}

static int install(struct run *run) {
        struct stoke_keyspace keyspace = {.name = "faults", .incarnation = {2}};
        struct stoke_record records[8] = {};
        const uint8_t id[16] = {7};
        char value[3000] = "";
        uint64_t seq = 0;
        int r = 0;

        for (int tries = 0; tries < 8; tries++) {
                r = stoke_driver.install_begin(run->session, &keyspace, id, call(run), &seq);
                if (r == STOKE_ENDED)
                        break;
                for (size_t k = 0; r == 0 && k < 3; k++) {
                        for (size_t i = 0; i < 8; i++)
                                records[i] = (struct stoke_record){.seq = 1 + 8 * k + i,
                                        .key = "k",
                                        .key_size = 1,
                                        .value = value,
                                        .value_size = sizeof(value)};
                        r = stoke_driver.install_feed(run->session, &keyspace, id, records, 8, call(run));
                }
                records[0] = (struct stoke_record){.seq = 100, .key = "", .value = ""};
                if (r == 0)
                        r = stoke_driver.install_commit(run->session, &keyspace, id, records, call(run));
                if (r == 0 || r == STOKE_ENDED)
                        break;
        }
        if (r != 0 && r != STOKE_ENDED)
                return FAIL(run, "the installation gave %d, %s", r, run->reason);
        run->installed = true;
        return 0;
}

static int count_records(void *userdata, const struct stoke_record *record) {
        (void)record;
        ++*(unsigned *)userdata;
        return 0;
}

static int check_installed(struct run *run) {
        struct stoke_keyspace keyspace = {.name = "faults", .incarnation = {2}};
        struct stoke_end end = {};
        unsigned n = 0;
        int r;

        r = stoke_driver.acquire(run->session, &keyspace, call(run));
        if (r == 0)
                r = stoke_driver.load(
                        run->session, &keyspace, &(struct stoke_end){}, false, call(run), count_records, &n, &end);
        if (r != 0 || n != 25 || end.seq != 100)
                return FAIL(run, "the installation has %u records to %d: %d, %s", n, (int)end.seq, r, run->reason);
        stoke_driver.release(run->session, &keyspace);
        r = stoke_driver.drop(run->session, &keyspace, call(run));
        return r ? FAIL(run, "drop gave %d, %s", r, run->reason) : 0;
}

static int program(struct run *run) {
        static const uint64_t dead[] = {2, 3};
        struct stoke_record first = {.seq = 1, .key = "", .value = ""};
        struct stoke_compact compact = {.size = sizeof(compact), .first = true, .seqs = dead, .n_seqs = 2};
        int r = 0;

        for (int tries = 0; tries < 6; tries++)
                if ((r = stoke_driver.create(run->session, &run->keyspace, &first, call(run))) == 0)
                        break;
        if (r != 0)
                return FAIL(run, "create gave %d, %s", r, run->reason);
        run->end = (struct stoke_end){1, first.origin};
        if (acquire(run) < 0)
                return -1;
        for (unsigned i = 0; i < 14; i++) {
                if (append(run, 1 + i % 3, false) < 0)
                        return -1;
                if (i == 5) {
                        compact.mark = run->end.seq;
                        run->compacting = true;
                        for (int tries = 0; tries < 6; tries++)
                                if ((r = stoke_driver.compact(run->session, &run->keyspace, &compact, call(run))) == 0)
                                        break;
                        if (r != 0)
                                return FAIL(run, "compact gave %d, %s", r, run->reason);
                        run->compacted = true;
                }
                if (i == 8) {
                        stoke_driver.release(run->session, &run->keyspace);
                        if (acquire(run) < 0)
                                return -1;
                }
                if (i == 10 && install(run) < 0)
                        return -1;
        }
        return 0;
}

/* 1: the fault came; 0: the program had fewer such operations; -1: failed. */
static int run_once(const char *directory, enum fault fault, unsigned n, unsigned times, char *ret_where, size_t size) {
        struct run run = {.directory = directory, .keyspace = {.name = "faults", .incarnation = {1}}};
        bool fired;
        int r;

        faults_reset();
        if (mkdir(directory, 0700) < 0 || open_store(&run, directory) < 0)
                return -1;
        faults_arm(fault, n, times);
        r = program(&run);
        fired = faults_disarm();
        /* The disk works again, and so does the store. */
        if (r == 0)
                r = append(&run, 2, true);
        if (r == 0)
                r = look(&run, false);
        if (r == 0)
                r = look_everywhere(&run);
        close_store(&run);
        if (r == 0 && (r = open_store(&run, directory)) == 0) {
                r = acquire(&run);
                if (r == 0)
                        r = look(&run, false);
                stoke_driver.release(run.session, &run.keyspace);
                if (r == 0)
                        r = check_installed(&run);
                if (r == 0 && stoke_driver.drop(run.session, &run.keyspace, call(&run)) != 0)
                        r = FAIL(&run, "drop: %s", run.reason);
                close_store(&run);
        }
        if (r == 0) {
                struct dirent *entry;
                DIR *dir = opendir(directory);

                while (dir && (entry = readdir(dir)))
                        if (entry->d_name[0] != '.' && strncmp(entry->d_name, "installations.db", 16) != 0)
                                printf("# %s was left behind\n", entry->d_name),
                                        r = FAIL(&run, "files were left behind");
                if (dir)
                        closedir(dir);
        }
        remove_directory(directory);
        snprintf(ret_where, size, "%s", run.where);
        return r < 0 ? -1 : fired;
}

int main(int argc, char **argv) {
        char base[] = "/dev/shm/stokehold-faults-XXXXXX", elsewhere[] = "/tmp/stokehold-faults-XXXXXX", where[1024];
        char *temporary = mkdtemp(base), directory[128];
        unsigned n_tests = 0, n_failed = 0, step = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1;

        if (!temporary)
                temporary = mkdtemp(elsewhere);
        if (!temporary || step == 0)
                return 2;
        setvbuf(stdout, NULL, _IOLBF, 0);
        faults_register();
        snprintf(directory, sizeof(directory), "%s/d", temporary);
        for (int f = FAULT_NONE; f < FAULT_N; f++)
                for (unsigned times = 1; times <= 3; times += 2) {
                        unsigned n = 1, bad = 0;
                        int r = 1;

                        for (; r == 1 || bad; n += step) {
                                r = run_once(directory, (enum fault)f, n, times, where, sizeof(where));
                                if (r < 0) {
                                        printf("# %s, %u times from number %u: %s\n", fault_names[f], times, n, where);
                                        if (++bad > 5)
                                                break;
                                        r = 1;
                                } else if (r == 0) {
                                        break;
                                }
                        }
                        n_failed += bad > 0;
                        printf("%sok %u - %s, %u times, at each of %u places\n", bad ? "not " : "", ++n_tests,
                                fault_names[f], times, n - 1);
                        if (f == FAULT_NONE)
                                break;
                }
        printf("1..%u\n", n_tests);
        faults_reset();
        remove_directory(temporary);
        return n_failed ? 1 : 0;
}
