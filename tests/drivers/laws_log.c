/* SPDX-License-Identifier: Apache-2.0 */
/* The laws of one log: making, appending, reading, deleting. */
#include "laws.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static void law_create(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "create"), other = law_keyspace(l, "create");
        struct loaded loaded = {};
        char key[32];
        struct stoke_record first = law_record(1, 5, 10, key), second = law_record(1, 6, 20, key);

        EXPECT_R(l->driver->create(l->session, &ks, &first, law_call(l)), 0);
        EXPECT_R(l->driver->create(l->session, &ks, &second, law_call(l)), 0);
        EXPECT_R(law_acquire(l, l->session, &ks), 0);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
        EXPECT(loaded.n == 1 && law_same(&loaded.records[0], &first));
        EXPECT(loaded.end.seq == 1 && loaded.end.origin.batch == 5);
        loaded_done(&loaded);
        /* Another incarnation of the same name is another keyspace. */
        if (l->driver->capabilities & STOKE_EXCLUSIVE)
                EXPECT_R(law_acquire(l, l->session, &other), STOKE_MISSING);
        EXPECT_R(law_load(l, l->session, &other, NULL, true, &loaded), STOKE_MISSING);
        loaded_done(&loaded);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &other, law_call(l)), 0);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        if (l->driver->capabilities & STOKE_EXCLUSIVE)
                EXPECT_R(law_acquire(l, l->session, &ks), STOKE_MISSING);
        else
                EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), STOKE_MISSING);
        free((void *)first.value);
        free((void *)second.value);
}

static void law_append_end(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "append"), other = law_keyspace(l, "append");
        struct stoke_end end, wrong, before;
        struct loaded loaded = {};
        int r;

        EXPECT_R(law_make(l, &ks, &end), 0);
        EXPECT_R(law_append(l, l->session, &ks, &end, 1, 100), 0);
        EXPECT_R(law_append(l, l->session, &ks, &end, 37, 1), 0);
        before = end;
        wrong = end;
        wrong.origin.batch++;
        EXPECT_R(law_append(l, l->session, &ks, &wrong, 2, 10), STOKE_STALE);
        wrong = end;
        wrong.origin.daemon[15] ^= 1;
        EXPECT_R(law_append(l, l->session, &ks, &wrong, 2, 10), STOKE_STALE);
        wrong = end;
        wrong.seq--;
        EXPECT_R(law_append(l, l->session, &ks, &wrong, 2, 10), STOKE_STALE);
        wrong = end;
        wrong.seq++;
        EXPECT_R(law_append(l, l->session, &ks, &wrong, 2, 10), STOKE_STALE);
        r = law_append(l, l->session, &other, &wrong, 2, 10);
        EXPECT(r == STOKE_MISSING);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
        EXPECT(loaded.n == 39 && law_same_end(&loaded.end, &before));
        for (size_t i = 0; i < loaded.n; i++)
                EXPECT(loaded.records[i].seq == i + 1);
        loaded_done(&loaded);
        EXPECT_R(law_append(l, l->session, &ks, &end, 1, 0), 0);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

static void law_bytes(struct laws *l) {
        static const char *const keys[] = {
                "", "\0", "a", "A", "a\0", "a\0b", "\xff\xff\xff", "\xc3\x28", " a ", "a'\"\\%_;--"};
        static const size_t sizes[] = {0, 1, 1, 1, 2, 3, 3, 2, 3, 10};
        struct stoke_record records[13] = {};
        struct stoke_keyspace ks = law_keyspace(l, "bytes");
        struct stoke_append append = {.size = sizeof(append), .records = records, .n_records = 13};
        struct loaded loaded = {};
        unsigned char all[256];

        for (size_t i = 0; i < 256; i++)
                all[i] = (unsigned char)i;
        EXPECT_R(law_make(l, &ks, &append.expected), 0);
        for (size_t i = 0; i < 13; i++) {
                records[i] = (struct stoke_record){.seq = i + 2,
                        .revision = INT64_MAX,
                        .kind = 0xff,
                        .create_revision = INT64_MAX,
                        .version = INT64_MAX,
                        .lease = INT64_MAX,
                        .hash = UINT64_MAX - i};
                memset(records[i].origin.daemon, 0xff, 16);
                records[i].origin.batch = UINT64_MAX;
                records[i].key = i < 10 ? (const void *)keys[i] : all;
                records[i].key_size = i < 10 ? sizes[i] : 256;
                records[i].value = i % 2 ? (const void *)all : "";
                records[i].value_size = i % 2 ? 256 : 0;
        }
        records[11].key_size = 1500; /* long keys */
        records[11].key = memset(malloc(70000), 'k', 70000);
        records[12].key = records[11].key;
        records[12].key_size = 70000;
        EXPECT_R(l->driver->append(l->session, &ks, &append, law_call(l)), 0);
        EXPECT_R(law_load(l, l->session, &ks, &append.expected, true, &loaded), 0);
        EXPECT(loaded.n == 13);
        for (size_t i = 0; i < 13; i++)
                EXPECT(loaded.records[i].value && law_same(&loaded.records[i], &records[i]));
        loaded_done(&loaded);
        EXPECT_R(law_load(l, l->session, &ks, &append.expected, false, &loaded), 0);
        for (size_t i = 0; i < 13; i++) /* the size is told even without the value */
                EXPECT(law_same(&loaded.records[i], &records[i]));
        loaded_done(&loaded);
        free((void *)records[11].key);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

static int count_stop(void *userdata, const struct stoke_record *record) {
        (void)record;
        return --*(int *)userdata == 0;
}

static void law_loading(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "load");
        struct stoke_end end, at[5], wrong, got;
        struct loaded loaded = {};
        int left = 3;

        EXPECT_R(law_make(l, &ks, &end), 0);
        for (size_t i = 0; i < 5; i++) {
                EXPECT_R(law_append(l, l->session, &ks, &end, 10, 50), 0);
                at[i] = end;
        }
        EXPECT_R(law_load(l, l->session, &ks, &at[1], true, &loaded), 0);
        EXPECT(loaded.n == 30 && loaded.records[0].seq == at[1].seq + 1 && law_same_end(&loaded.end, &end));
        loaded_done(&loaded);
        EXPECT_R(law_load(l, l->session, &ks, &end, true, &loaded), 0);
        EXPECT(loaded.n == 0 && law_same_end(&loaded.end, &end));
        loaded_done(&loaded);
        wrong = at[1];
        wrong.origin.daemon[3] ^= 4;
        EXPECT_R(law_load(l, l->session, &ks, &wrong, true, &loaded), STOKE_FORKED);
        loaded_done(&loaded);
        wrong = end;
        wrong.seq += 7;
        EXPECT_R(law_load(l, l->session, &ks, &wrong, true, &loaded), STOKE_COMPACTED);
        loaded_done(&loaded);
        EXPECT_R(l->driver->load(l->session, &ks, &at[0], true, law_call(l), count_stop, &left, &got), STOKE_STOPPED);
        EXPECT(left == 0);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

struct found {
        uint64_t seqs[64];
        bool present[64];
        size_t sizes[64], n;
};
static int on_value(void *userdata, uint64_t seq, const void *data, size_t size) {
        struct found *f = userdata;

        f->seqs[f->n] = seq;
        f->present[f->n] = data != NULL;
        f->sizes[f->n++] = size;
        return 0;
}

static void law_compact(struct laws *l) {
        static const uint64_t dead[] = {1, 2, 3, 7, 20, 21}, wanted[] = {2, 4, 7, 22, 51, 99};
        struct stoke_keyspace ks = law_keyspace(l, "compact"), other = law_keyspace(l, "compact");
        struct stoke_compact compact = {.size = sizeof(compact), .mark = 51, .first = true, .seqs = dead, .n_seqs = 6};
        struct stoke_end end, at10 = {}, at22 = {}, at7 = {};
        struct stoke_stat stat = {.size = sizeof(stat)};
        struct loaded loaded = {};
        struct found found = {};

        EXPECT_R(law_make(l, &ks, &end), 0);
        EXPECT_R(law_append(l, l->session, &ks, &end, 50, 33), 0);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
        EXPECT(loaded.n == 51);
        at7 = (struct stoke_end){7, loaded.records[6].origin};
        at10 = (struct stoke_end){10, loaded.records[9].origin};
        at22 = (struct stoke_end){22, loaded.records[21].origin};
        loaded_done(&loaded);
        for (int i = 0; i < 2; i++) { /* idempotent */
                EXPECT_R(l->driver->compact(l->session, &ks, &compact, law_call(l)), 0);
                compact.first = false;
                EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
                EXPECT(loaded.n == 45 && loaded.records[0].seq == 4 && law_same_end(&loaded.end, &end));
                loaded_done(&loaded);
        }
        EXPECT_R(law_load(l, l->session, &ks, &at7, true, &loaded), STOKE_COMPACTED); /* gone */
        loaded_done(&loaded);
        EXPECT_R(law_load(l, l->session, &ks, &at10, true, &loaded), STOKE_COMPACTED); /* a hole follows */
        loaded_done(&loaded);
        EXPECT_R(law_load(l, l->session, &ks, &at22, true, &loaded), 0);
        EXPECT(loaded.n == 29);
        loaded_done(&loaded);
        EXPECT_R(l->driver->values(l->session, &ks, wanted, 6, law_call(l), on_value, &found), 0);
        EXPECT(found.n == 6);
        for (size_t i = 0; i < 6; i++)
                EXPECT(found.seqs[i] == wanted[i] && found.present[i] == (i == 1 || i == 3 || i == 4) &&
                        (!found.present[i] || found.sizes[i] == 33));
        EXPECT_R(l->driver->stat(l->session, &ks, law_call(l), &stat), 0);
        EXPECT(stat.n_records >= 45 && stat.n_records <= 51 && stat.bytes > 0);
        found.n = 0;
        EXPECT_R(l->driver->values(l->session, &other, wanted, 6, law_call(l), on_value, &found), STOKE_MISSING);
        EXPECT_R(l->driver->compact(l->session, &other, &compact, law_call(l)), STOKE_MISSING);
        EXPECT_R(l->driver->stat(l->session, &other, law_call(l), &stat), STOKE_MISSING);
        EXPECT_R(law_append(l, l->session, &ks, &end, 1, 10), 0);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

struct ends {
        struct stoke_end ends[5];
        unsigned present, missing;
};
static int on_end(void *userdata, size_t index, const struct stoke_end *end) {
        struct ends *e = userdata;

        if (end) {
                e->ends[index] = *end;
                e->present |= 1u << index;
        } else {
                e->missing |= 1u << index;
        }
        return 0;
}

static void law_ends(struct laws *l) {
        struct stoke_keyspace ks[5];
        struct stoke_end ends[5];
        struct ends got = {};

        for (size_t i = 0; i < 5; i++) {
                ks[i] = law_keyspace(l,
                        i == 0           ? "ends-0"
                                : i == 1 ? "ends-1"
                                : i == 2 ? "ends-2"
                                : i == 3 ? "ends-3"
                                         : "ends-1");
                if (i >= 3)
                        continue; /* one unknown, one of another incarnation */
                EXPECT_R(law_make(l, &ks[i], &ends[i]), 0);
                EXPECT_R(law_append(l, l->session, &ks[i], &ends[i], i + 1, 5), 0);
        }
        law_release(l, l->session, &ks[2]); /* asked for without being taken */
        EXPECT_R(l->driver->ends(l->session, ks, 5, law_call(l), on_end, &got), 0);
        EXPECT(got.present == 7 && got.missing == 24);
        for (size_t i = 0; i < 3; i++) {
                EXPECT(law_same_end(&got.ends[i], &ends[i]));
                if (i < 2)
                        law_release(l, l->session, &ks[i]);
                EXPECT_R(l->driver->drop(l->session, &ks[i], law_call(l)), 0);
        }
}

struct racer {
        struct laws *l;
        struct laws own;
        const struct stoke_keyspace *ks;
        uint64_t n_won, n_lost, n_bad;
};
static void *race(void *userdata) {
        struct racer *racer = userdata;
        struct stoke_end end = {};
        struct laws *l = &racer->own;

        for (unsigned i = 0; i < 200; i++) {
                struct loaded loaded = {};
                int r;

                if (law_load(l, l->session, racer->ks, &end, false, &loaded) != 0)
                        racer->n_bad++;
                end = loaded.end;
                loaded_done(&loaded);
                r = law_append(l, l->session, racer->ks, &end, 3, 20);
                racer->n_won += r == 0;
                racer->n_lost += r == STOKE_STALE;
                racer->n_bad += r != 0 && r != STOKE_STALE;
        }
        return NULL;
}

static void law_race(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "race");
        struct racer racers[2] = {};
        struct loaded loaded = {};
        struct stoke_end end;
        pthread_t threads[2];

        EXPECT_R(law_make(l, &ks, &end), 0);
        if (l->driver->capabilities & STOKE_EXCLUSIVE) {
                struct laws second = *l;

                /* Another store, as another daemon would have it. */
                EXPECT_R(law_acquire(l, l->session, &ks), STOKE_BUSY);
                EXPECT(l->reason[0]);
                EXPECT(law_open(&second) == 0);
                EXPECT(law_acquire(&second, second.session, &ks) == STOKE_BUSY);
                EXPECT(second.reason[0]);
                law_release(l, l->session, &ks);
                EXPECT(law_acquire(&second, second.session, &ks) == 0);
                EXPECT(law_append(&second, second.session, &ks, &end, 1, 1) == 0);
                EXPECT_R(law_acquire(l, l->session, &ks), STOKE_BUSY);
                law_close(&second); /* gives it back */
                EXPECT_R(law_acquire(l, l->session, &ks), 0);
                EXPECT_R(law_append(l, l->session, &ks, &end, 1, 1), 0);
                law_release(l, l->session, &ks);
                EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
                return;
        }
        for (size_t i = 0; i < 2; i++) {
                racers[i].own = *l;
                racers[i].own.batch += 1000000 * (i + 1);
                racers[i].ks = &ks;
                EXPECT(law_open(&racers[i].own) == 0);
        }
        for (size_t i = 0; i < 2; i++)
                EXPECT(pthread_create(&threads[i], NULL, race, &racers[i]) == 0);
        for (size_t i = 0; i < 2; i++) {
                pthread_join(threads[i], NULL);
                law_close(&racers[i].own);
        }
        EXPECT(racers[0].n_bad == 0 && racers[1].n_bad == 0);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
        EXPECT(loaded.n == 1 + 3 * (racers[0].n_won + racers[1].n_won));
        for (size_t i = 1; i < loaded.n; i++) /* whole batches, one behind the other */
                EXPECT(loaded.records[i].seq == i + 1 &&
                        loaded.records[i].origin.batch == loaded.records[(i - 1) / 3 * 3 + 1].origin.batch);
        loaded_done(&loaded);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

static void law_reopen(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "reopen");
        struct loaded loaded = {};
        struct stoke_end end;

        EXPECT_R(law_make(l, &ks, &end), 0);
        for (unsigned i = 1; i <= 5; i++) {
                EXPECT_R(law_append(l, l->session, &ks, &end, 20, 1000), 0);
                law_release(l, l->session, &ks);
                law_close(l);
                EXPECT(law_open(l) == 0);
                EXPECT_R(law_acquire(l, l->session, &ks), 0);
                EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
                EXPECT(loaded.n == 1 + 20 * i && law_same_end(&loaded.end, &end));
                loaded_done(&loaded);
        }
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

struct interrupter {
        struct laws *l;
        atomic_bool stop;
};
static void *interrupt_often(void *userdata) {
        struct interrupter *in = userdata;

        while (!in->stop) {
                in->l->driver->interrupt(in->l->session);
                usleep(200);
        }
        return NULL;
}

static void law_deadline(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "deadline");
        struct interrupter in = {.l = l};
        struct stoke_end end, got;
        struct stoke_record record;
        struct stoke_append append = {.size = sizeof(append), .records = &record, .n_records = 1};
        struct loaded loaded = {};
        pthread_t thread;
        char key[32];
        int left = -1, r = 0;

        EXPECT_R(law_make(l, &ks, &end), 0);
        EXPECT_R(law_append(l, l->session, &ks, &end, 1000, 10), 0);
        record = law_record(end.seq + 1, 1, 1, key);
        append.expected = end;
        EXPECT_R(l->driver->append(l->session, &ks, &append, law_call_ms(l, -1)), -ETIMEDOUT);
        EXPECT(l->reason[0]);
        EXPECT_R(l->driver->load(l->session, &ks, &end, true, law_call_ms(l, -1), count_stop, &left, &got), -ETIMEDOUT);
        EXPECT_R(l->driver->create(l->session, &ks, &record, law_call_ms(l, -1)), -ETIMEDOUT);
        EXPECT_R(l->driver->check(l->store, law_call_ms(l, -1), NULL, NULL), -ETIMEDOUT);
        free((void *)record.value);
        /* Interrupted at any moment, an append is all there, or not, or in doubt; the session can be used again. */
        EXPECT(pthread_create(&thread, NULL, interrupt_often, &in) == 0);
        for (unsigned i = 0; i < 200 && (r == 0 || r == -ECANCELED); i++)
                r = law_append(l, l->session, &ks, &end, 5, 100);
        in.stop = true;
        pthread_join(thread, NULL);
        EXPECT(r == 0 || r == -ECANCELED || r == STOKE_UNKNOWN);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
        EXPECT(r == STOKE_UNKNOWN || law_same_end(&loaded.end, &end));
        loaded_done(&loaded);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

struct listing {
        const struct stoke_keyspace *wanted;
        unsigned n, n_all;
};
static int on_info(void *userdata, const struct stoke_keyspace_info *info) {
        struct listing *listing = userdata;

        listing->n_all++;
        if (strcmp(info->name, listing->wanted->name) == 0 &&
                memcmp(info->incarnation, listing->wanted->incarnation, 16) == 0 && !info->installing)
                listing->n++;
        return 0;
}
static void on_report(void *userdata, const char *name, const char *value, enum stoke_severity severity) {
        printf("# %s: %s (%d)\n", name, value, (int)severity);
        ++*(unsigned *)userdata;
}

static void law_list(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "a-name-of-63-bytes-is-the-longest-that-a-keyspace-may-have-0000");
        struct listing listing = {.wanted = &ks};
        struct stoke_end end;
        unsigned n = 0;

        EXPECT(strlen(ks.name) == 63);
        EXPECT_R(l->driver->check(l->store, law_call(l), on_report, &n), 0);
        EXPECT(n >= 3);
        EXPECT_R(law_make(l, &ks, &end), 0);
        EXPECT_R(l->driver->list(l->session, law_call(l), on_info, &listing), 0);
        EXPECT(listing.n == 1);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        listing.n = 0;
        EXPECT_R(l->driver->list(l->session, law_call(l), on_info, &listing), 0);
        EXPECT(listing.n == 0);
}

const struct law laws_log[] = {
        {"create is idempotent, and names its incarnation", law_create, false},
        {"append happens only at the end that was named", law_append_end, false},
        {"any bytes and numbers come back as they were", law_bytes, false},
        {"load tells a forked and a compacted log", law_loading, false},
        {"compact deletes what is named, and only that; values tells what is missing", law_compact, false},
        {"ends tells of all keyspaces, missing ones among them", law_ends, false},
        {"two appenders never both win", law_race, false},
        {"what was appended is there after closing and opening", law_reopen, false},
        {"deadlines and interrupts end calls, and leave the log whole", law_deadline, false},
        {"list and check tell what there is", law_list, false},
        {},
};
