/* SPDX-License-Identifier: Apache-2.0 */
/* What a SQLite directory may hold that is not ours to touch: another daemon's keyspace, a later version's, somebody else's database; and what all
 * keyspaces of one have in common, when two sessions need it at once. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>
#include <stokehold/driver.h>

extern const struct stoke_driver stoke_driver;

static char directory[] = "/tmp/stokehold-sqlite-XXXXXX", reason[512];
static struct stoke_call buffer;
static const struct stoke_host host = {.size = sizeof(host)};
static const struct stoke_keyspace keyspace = {.name = "files", .incarnation = {1}};
static unsigned n_tests, n_failed;

static struct stoke_call *call(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        reason[0] = '\0';
        buffer = (struct stoke_call){.size = sizeof(buffer),
                .deadline_ns = ((uint64_t)ts.tv_sec + 10) * 1000000000u,
                .reason = reason,
                .reason_size = sizeof(reason)};
        return &buffer;
}

static void expect(int got, int want, const char *words, const char *what) {
        bool good = got == want && (!words || strstr(reason, words));

        n_failed += !good;
        if (!good)
                printf("# gave %d, \"%s\"\n", got, reason);
        printf("%sok %u - %s\n", good ? "" : "not ", ++n_tests, what);
}

static void open_store(struct stoke_store **store, struct stoke_session **session) {
        static const struct stoke_setting setting = {"path", directory};
        static const struct stoke_datastore datastore = {
                .size = sizeof(datastore), .name = "files", .settings = &setting, .n_settings = 1};

        if (stoke_driver.open(&datastore, &host, call(), store) != 0 ||
                stoke_driver.connect(*store, NULL, call(), session) != 0)
                abort();
}

static void change(const char *sql) {
        sqlite3 *db = NULL;
        char path[256];

        snprintf(path, sizeof(path), "%s/files-01000000000000000000000000000000.db", directory);
        if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK ||
                sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
                printf("Bail out! %s: %s\n", path, sqlite3_errmsg(db));
                exit(1);
        }
        sqlite3_close(db);
}

static int count(void *userdata, size_t index, const struct stoke_end *end) {
        (void)userdata;
        (void)index;
        (void)end;
        return 0;
}

/* The child is another daemon: it takes the keyspace and keeps it until it is told to go. */
static void test_two_daemons(void) {
        struct stoke_record first = {.seq = 1, .key = "", .value = ""};
        struct stoke_session *session;
        struct stoke_store *store;
        int to[2], from[2], status;
        char byte = 0, holder[64];
        pid_t pid;

        if (pipe(to) < 0 || pipe(from) < 0)
                abort();
        fflush(stdout);
        pid = fork();
        if (pid == 0) {
                open_store(&store, &session);
                if (stoke_driver.create(session, &keyspace, &first, call()) != 0 ||
                        stoke_driver.acquire(session, &keyspace, call()) != 0)
                        _exit(1);
                if (write(from[1], "x", 1) != 1 || read(to[0], &byte, 1) != 1)
                        _exit(2);
                raise(SIGKILL); /* gives nothing back */
        }
        if (read(from[0], &byte, 1) != 1)
                abort();
        open_store(&store, &session);
        snprintf(holder, sizeof(holder), "held by process %ld", (long)pid);
        expect(stoke_driver.acquire(session, &keyspace, call()), STOKE_BUSY, holder,
                "a keyspace of another daemon's is busy, and it is named");
        expect(stoke_driver.drop(session, &keyspace, call()), -EBUSY, holder, "it cannot be dropped from here");
        expect(stoke_driver.ends(session, &keyspace, 1, call(), count, NULL), 0, NULL, "its end can be asked for");
        if (write(to[1], "x", 1) != 1)
                abort();
        waitpid(pid, &status, 0);
        expect(stoke_driver.acquire(session, &keyspace, call()), 0, NULL, "it is free as soon as the other has died");
        stoke_driver.release(session, &keyspace);
        stoke_driver.disconnect(session);
        stoke_driver.close(store);
        for (int i = 0; i < 2; i++) {
                close(to[i]);
                close(from[i]);
        }
}

static void test_formats(void) {
        struct stoke_session *session;
        struct stoke_store *store;

        open_store(&store, &session);
        change("PRAGMA user_version = 2");
        expect(stoke_driver.acquire(session, &keyspace, call()), -EPROTONOSUPPORT, "newer version, in format 2",
                "a file of a later format is refused");
        expect(stoke_driver.ends(session, &keyspace, 1, call(), count, NULL), -EPROTONOSUPPORT, "newer version",
                "nor is its end read");
        change("PRAGMA user_version = 1; PRAGMA application_id = 77");
        expect(stoke_driver.acquire(session, &keyspace, call()), -EBADMSG, "not a keyspace of ours",
                "somebody else's database is refused");
        change("PRAGMA application_id = 1400139627; UPDATE keyspace SET incarnation = zeroblob(16)");
        expect(stoke_driver.acquire(session, &keyspace, call()), -EBADMSG, "another incarnation",
                "a file that was renamed is refused");
        change("UPDATE keyspace SET incarnation = x'01000000000000000000000000000000'");
        expect(stoke_driver.acquire(session, &keyspace, call()), 0, NULL, "all that changed nothing in it");
        stoke_driver.release(session, &keyspace);
        expect(stoke_driver.drop(session, &keyspace, call()), 0, NULL, "and it can be dropped");
        stoke_driver.disconnect(session);
        stoke_driver.close(store);
}

/* ---- several sessions */

struct giving_up {
        struct stoke_store *store;
        pthread_barrier_t *start;
        struct stoke_keyspace keyspace;
        struct stoke_call call;
        int result;
        char reason[256];
};

static void *give_up(void *userdata) {
        struct giving_up *g = userdata;
        struct stoke_session *session;
        uint8_t id[16] = {(uint8_t)g->keyspace.name[0], 9};
        uint64_t seq;

        if (stoke_driver.connect(g->store, NULL, &g->call, &session) != 0)
                abort();
        g->result = stoke_driver.install_begin(session, &g->keyspace, id, &g->call, &seq);
        (void)pthread_barrier_wait(g->start);
        if (g->result == 0)
                g->result = stoke_driver.install_abort(session, &g->keyspace, id, &g->call);
        if (g->result == 0 && stoke_driver.install_begin(session, &g->keyspace, id, &g->call, &seq) != STOKE_ENDED)
                g->result = -EBADMSG;
        stoke_driver.disconnect(session);
        return NULL;
}

static void remove_file(const char *name) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        (void)unlink(path);
}

/* Whoever gives up the first installation of a directory makes the file that remembers it. */
static void test_first_to_end(void) {
        struct giving_up both[] = {{.keyspace = {.name = "one"}}, {.keyspace = {.name = "two"}}};
        struct stoke_session *session;
        struct stoke_store *store;
        pthread_barrier_t start;
        pthread_t threads[2];
        int bad = 0;

        open_store(&store, &session);
        pthread_barrier_init(&start, NULL, 2);
        for (unsigned round = 0; round < 100 && bad == 0; round++) {
                for (size_t i = 0; i < 2; i++) {
                        both[i].store = store;
                        both[i].start = &start;
                        both[i].call = *call();
                        both[i].call.reason = both[i].reason;
                        both[i].call.reason_size = sizeof(both[i].reason);
                        if (pthread_create(&threads[i], NULL, give_up, &both[i]) != 0)
                                abort();
                }
                for (size_t i = 0; i < 2; i++) {
                        pthread_join(threads[i], NULL);
                        if (both[i].result == 0)
                                continue;
                        bad = both[i].result;
                        snprintf(reason, sizeof(reason), "%.*s", (int)sizeof(both[i].reason), both[i].reason);
                }
                remove_file("installations.db");
        }
        expect(bad, 0, NULL, "two sessions give up the first two installations of a directory at once");
        remove_file(".installations.new");
        remove_file(".installations.lock");
        pthread_barrier_destroy(&start);
        stoke_driver.disconnect(session);
        stoke_driver.close(store);
}

int main(void) {
        if (!mkdtemp(directory))
                return 2;
        test_two_daemons();
        test_formats();
        test_first_to_end();
        printf("1..%u\n", n_tests);
        if (rmdir(directory) < 0) {
                printf("# files were left behind in %s\n", directory);
                return 1;
        }
        return n_failed ? 1 : 0;
}
