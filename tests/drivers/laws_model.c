/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random appends, loads, compactions and reopenings against a model that is an array. It bears faults: an append that was refused without
 * reason is tried again; one whose outcome is unknown is looked for, and while the log still ends where it began an append of
 * our own closes the question, as the ABI says.
 */
#include "laws.h"

#include <errno.h>

#define MAX 20000

struct model {
        struct stoke_record records[MAX]; /* by seq; key_size holds; value is not kept */
        bool present[MAX], known[MAX];
        struct stoke_end end;
        uint64_t mark;
};

/* Takes what the log has behind the model's end; -1 if it is not what may be there. */
static int catch_up(
        struct laws *l, const struct stoke_keyspace *ks, struct model *m, uint64_t allowed_a, uint64_t allowed_b) {
        struct loaded loaded = {};
        int r, result = 0;

        for (int tries = 0; (r = law_load(l, l->session, ks, &m->end, true, &loaded)) == -EIO && tries < 50; tries++)
                loaded_done(&loaded);
        if (r != 0) {
                loaded_done(&loaded);
                return -1;
        }
        for (size_t i = 0; i < loaded.n; i++) {
                struct stoke_record *got = &loaded.records[i], want;
                char key[32];

                want = law_record(got->seq, got->origin.batch, got->value_size, key);
                if ((got->origin.batch != allowed_a && got->origin.batch != allowed_b) || !law_same(got, &want))
                        result = -1;
                free((void *)want.value);
                m->records[got->seq] = *got;
                m->records[got->seq].value = NULL;
                m->present[got->seq] = true;
        }
        m->end = loaded.end;
        loaded_done(&loaded);
        return result;
}

static void law_random_model(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "model");
        struct model *m = calloc(1, sizeof(*m));
        unsigned n_unknown = 0, n_stale = 0, n_appended = 0, n_loads = 0;
        char key[32];
        int r;

        for (int tries = 0; (r = law_make(l, &ks, &m->end)) == -EIO && tries < 50; tries++)
                ;
        EXPECT_R(r, 0);
        m->records[1] = law_record(1, 0, 3, key);
        free((void *)m->records[1].value);
        m->present[1] = true;

        for (unsigned step = 0; step < 1500 && m->end.seq + 1200 < MAX; step++) {
                uint64_t what = law_random(l, 100);

                if (what < 70) {
                        struct stoke_end before = m->end, end;
                        size_t n = 1 + law_random(l, what < 5 ? 500 : 8),
                               size = law_random(l, what == 6 ? 100000 : 600);
                        uint64_t pending = 0;

                        for (unsigned tries = 0;; tries++) {
                                EXPECT(tries < 100);
                                end = m->end;
                                r = law_append(l, l->session, &ks, &end, n, size);
                                if (r == 0 || r == STOKE_STALE || r == STOKE_UNKNOWN) {
                                        uint64_t ours = l->batch;

                                        n_stale += r == STOKE_STALE;
                                        n_unknown += r == STOKE_UNKNOWN;
                                        before = m->end;
                                        EXPECT(catch_up(l, &ks, m, ours, pending) == 0);
                                        if (r == 0)
                                                EXPECT(m->end.seq == before.seq + n && m->end.origin.batch == ours);
                                        if (r == STOKE_STALE) /* it did not happen */
                                                EXPECT(m->end.origin.batch != ours);
                                        if (m->end.seq != before.seq)
                                                break;
                                        if (r == STOKE_UNKNOWN)
                                                pending = ours; /* may land later, until something follows the end */
                                        continue;
                                }
                                printf("# append gave %d %s\n", r, l->reason);
                                EXPECT(0);
                        }
                        n_appended++;
                } else if (what < 85) {
                        struct loaded loaded = {};
                        size_t at = 0;
                        bool with_values = law_random(l, 2);

                        for (int tries = 0;
                                (r = law_load(l, l->session, &ks, NULL, with_values, &loaded)) == -EIO && tries < 50;
                                tries++)
                                loaded_done(&loaded);
                        EXPECT_R(r, 0);
                        n_loads++;
                        EXPECT(law_same_end(&loaded.end, &m->end));
                        for (uint64_t seq = 1; seq <= m->end.seq; seq++) {
                                struct stoke_record want;

                                if (!m->present[seq])
                                        continue;
                                EXPECT(at < loaded.n && loaded.records[at].seq == seq);
                                want = law_record(seq, m->records[seq].origin.batch, m->records[seq].value_size, key);
                                if (!law_same(&loaded.records[at], &want)) {
                                        free((void *)want.value);
                                        EXPECT(!"the record is as it was written");
                                }
                                free((void *)want.value);
                                at++;
                        }
                        EXPECT(at == loaded.n);
                        loaded_done(&loaded);
                } else if (what < 95) {
                        uint64_t seqs[200];
                        struct stoke_compact compact = {.size = sizeof(compact), .first = true, .seqs = seqs};

                        compact.mark = m->end.seq;
                        for (uint64_t seq = 1 + law_random(l, m->end.seq); seq < m->end.seq && compact.n_seqs < 200;
                                seq++)
                                if (law_random(l, 3))
                                        seqs[compact.n_seqs++] = seq;
                        EXPECT_R(l->driver->compact(l->session, &ks, &compact, law_call(l)), 0);
                        for (size_t i = 0; i < compact.n_seqs; i++)
                                m->present[seqs[i]] = false;
                } else {
                        law_release(l, l->session, &ks);
                        law_close(l);
                        for (int tries = 0; (r = law_open(l)) == -EIO && tries < 50; tries++)
                                ;
                        EXPECT_R(r, 0);
                        EXPECT_R(law_acquire(l, l->session, &ks), 0);
                }
        }
        printf("# %u batches, %u refused, %u unknown, %u loads, end %llu\n", n_appended, n_stale, n_unknown, n_loads,
                (unsigned long long)m->end.seq);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        free(m);
}

const struct law laws_model[] = {
        {"whatever is done to it, the log is what was written", law_random_model, true},
        {},
};
