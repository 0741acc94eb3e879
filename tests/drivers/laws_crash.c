/* SPDX-License-Identifier: Apache-2.0 */
/* What was acknowledged outlives kill -9 in the middle of appends, compactions and write-backs; what was not is there whole or not at all. */
#include "laws.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Appends until it is killed, and writes each acknowledged seq into the pipe. */
static void append_for_ever(
        struct laws *l, const struct stoke_keyspace *ks, struct stoke_end end, size_t value_size, int fd) {
        if (law_open(l) != 0 || law_acquire(l, l->session, ks) != 0)
                _exit(3);
        for (;;) {
                if (law_append(l, l->session, ks, &end, 1 + end.seq % 9, value_size) != 0)
                        _exit(4);
                if (write(fd, &end.seq, sizeof(end.seq)) != sizeof(end.seq))
                        _exit(5);
                if (law_random(l, 20) == 0 && end.seq > 40) {
                        uint64_t seq = end.seq - 30;
                        struct stoke_compact compact = {
                                .size = sizeof(compact), .mark = end.seq, .first = true, .seqs = &seq, .n_seqs = 1};

                        if (seq % 50 == 0 && l->driver->compact(l->session, ks, &compact, law_call(l)) != 0)
                                _exit(6);
                }
        }
}

static void law_kill(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "kill");
        struct stoke_end end;
        uint64_t n_acknowledged = 0;
        int status;
        pid_t pid;

        EXPECT_R(law_make(l, &ks, &end), 0);
        law_release(l, l->session, &ks);
        law_close(l);
        fflush(stdout);
        /* A datastore that another process does not see dies with its process. */
        pid = fork();
        EXPECT(pid >= 0);
        if (pid == 0) {
                struct laws child = *l;
                struct stoke_keyspace other = law_keyspace(&child, "kill-probe");
                struct stoke_end first;

                other.incarnation[0] = 0xee;
                memset(other.incarnation + 1, 0, 15);
                _exit(law_open(&child) != 0 || law_make(&child, &other, &first) != 0);
        }
        waitpid(pid, &status, 0);
        EXPECT(status == 0);
        EXPECT(law_open(l) == 0);
        {
                struct stoke_keyspace other = {.name = "kill-probe", .incarnation = {0xee}};
                struct loaded loaded = {};
                int r = law_acquire(l, l->session, &other);

                if (r == 0)
                        r = law_load(l, l->session, &other, NULL, false, &loaded);
                loaded_done(&loaded);
                law_release(l, l->session, &other);
                EXPECT_R(l->driver->drop(l->session, &other, law_call(l)), 0);
                if (r == STOKE_MISSING) {
                        l->skipped = "the datastore lives in its process";
                        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
                        return;
                }
                EXPECT_R(r, 0);
        }
        for (unsigned round = 0; round < l->n_kills; round++) {
                uint64_t acknowledged = end.seq, seq;
                struct loaded loaded = {};
                int fds[2];

                law_close(l);
                EXPECT(pipe(fds) == 0);
                pid = fork();
                EXPECT(pid >= 0);
                if (pid == 0) {
                        struct laws child = *l;

                        close(fds[0]);
                        append_for_ever(&child, &ks, end, round % 3 == 0 ? 20000 : 700, fds[1]);
                }
                close(fds[1]);
                /* Wait for its first acknowledgement, so that it is at work. */
                if (read(fds[0], &seq, sizeof(seq)) == sizeof(seq))
                        acknowledged = seq;
                usleep((useconds_t)law_random(l, 30000));
                kill(pid, SIGKILL);
                while (read(fds[0], &seq, sizeof(seq)) == sizeof(seq)) {
                        acknowledged = seq;
                        n_acknowledged++;
                }
                close(fds[0]);
                waitpid(pid, &status, 0);
                EXPECT(WIFSIGNALED(status));
                EXPECT(law_open(l) == 0);
                EXPECT_R(law_acquire(l, l->session, &ks), 0);
                EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
                EXPECT(loaded.end.seq >= acknowledged);
                for (size_t i = 0; i < loaded.n; i++) {
                        struct stoke_record want;
                        char key[32];
                        bool same;

                        if (loaded.records[i].seq == 1)
                                continue;
                        want = law_record(loaded.records[i].seq, loaded.records[i].origin.batch,
                                loaded.records[i].value_size, key);
                        same = law_same(&loaded.records[i], &want);
                        free((void *)want.value);
                        EXPECT(same);
                        if (i)
                                EXPECT(loaded.records[i].seq == loaded.records[i - 1].seq + 1 ||
                                        (loaded.records[i].seq - 1) % 50 == 0);
                }
                /* The last batch is whole: the child sized each by the seq before it. */
                for (size_t i = loaded.n; i-- > 1;)
                        if (loaded.records[i - 1].origin.batch != loaded.end.origin.batch) {
                                EXPECT(loaded.end.seq - loaded.records[i - 1].seq == 1 + loaded.records[i - 1].seq % 9);
                                break;
                        }
                end = loaded.end;
                l->batch = end.origin.batch;
                loaded_done(&loaded);
                law_release(l, l->session, &ks);
        }
        printf("# %u kills, %llu batches acknowledged, end %llu\n", l->n_kills, (unsigned long long)n_acknowledged,
                (unsigned long long)end.seq);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

const struct law laws_crash[] = {
        {"what was acknowledged outlives kill -9", law_kill, false},
        {},
};
