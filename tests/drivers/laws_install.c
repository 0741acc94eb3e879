/* SPDX-License-Identifier: Apache-2.0 */
/* The laws of installations: a keyspace brought from elsewhere. */
#include "laws.h"

#include <errno.h>

struct listing {
        const struct stoke_keyspace *wanted;
        unsigned n_installing, n_live;
        uint8_t id[16];
};
static int on_info(void *userdata, const struct stoke_keyspace_info *info) {
        struct listing *listing = userdata;

        if (memcmp(info->incarnation, listing->wanted->incarnation, 16) != 0)
                return 0;
        if (info->installing) {
                listing->n_installing++;
                memcpy(listing->id, info->install_id, 16);
        } else {
                listing->n_live++;
        }
        return 0;
}

static int feed(struct laws *l, const struct stoke_keyspace *ks, const uint8_t id[16], uint64_t from, uint64_t to,
        uint64_t step) {
        struct stoke_record records[100];
        char keys[100][32];
        size_t n = 0;
        int r;

        for (uint64_t seq = from; seq <= to && n < 100; seq += step, n++)
                records[n] = law_record(seq, 1, 60, keys[n]);
        r = l->driver->install_feed(l->session, ks, id, records, n, law_call(l));
        for (size_t i = 0; i < n; i++)
                free((void *)records[i].value);
        return r;
}

static void law_install(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "install");
        struct listing listing = {.wanted = &ks};
        struct loaded loaded = {};
        struct stoke_record last, first;
        char key[32];
        uint8_t id[16], foreign[16];
        struct stoke_end end;
        uint64_t seq = 99;

        law_uuid(l, id);
        law_uuid(l, foreign);
        last = law_record(1000, 9, 5, key);
        first = law_record(1, 9, 5, key);
        EXPECT_R(feed(l, &ks, id, 2, 10, 1), STOKE_MISSING);
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), 0);
        EXPECT(seq == 0);
        EXPECT_R(feed(l, &ks, id, 2, 50, 2), 0);  /* holes */
        EXPECT_R(feed(l, &ks, id, 40, 60, 2), 0); /* some are in already */
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), 0);
        EXPECT(seq == 60);
        /* Invisible, but for list. */
        if (l->driver->capabilities & STOKE_EXCLUSIVE)
                EXPECT_R(law_acquire(l, l->session, &ks), STOKE_MISSING);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), STOKE_MISSING);
        EXPECT_R(l->driver->list(l->session, law_call(l), on_info, &listing), 0);
        EXPECT(listing.n_installing == 1 && listing.n_live == 0 && memcmp(listing.id, id, 16) == 0);
        /* Nobody else's, nor drop's, nor create's. */
        EXPECT_R(l->driver->install_begin(l->session, &ks, foreign, law_call(l), &seq), -EEXIST);
        EXPECT_R(feed(l, &ks, foreign, 70, 70, 1), STOKE_MISSING);
        EXPECT_R(l->driver->install_commit(l->session, &ks, foreign, &last, law_call(l)), STOKE_MISSING);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        EXPECT_R(l->driver->create(l->session, &ks, &first, law_call(l)), -EEXIST);
        /* Goes on after the connection was lost. */
        law_close(l);
        EXPECT(law_open(l) == 0);
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), 0);
        EXPECT(seq == 60);
        law_close(l);
        EXPECT(law_open(l) == 0);
        EXPECT_R(feed(l, &ks, id, 61, 100, 3), 0); /* without a begin, too */
        EXPECT_R(l->driver->install_commit(l->session, &ks, id, &last, law_call(l)), 0);
        EXPECT_R(l->driver->install_commit(l->session, &ks, id, &last, law_call(l)), 0);
        EXPECT_R(law_acquire(l, l->session, &ks), 0);
        EXPECT_R(law_load(l, l->session, &ks, NULL, true, &loaded), 0);
        EXPECT(loaded.n == 30 + 14 + 1 && loaded.end.seq == 1000 && law_same(&loaded.records[loaded.n - 1], &last));
        EXPECT(loaded.records[0].seq == 2 && loaded.records[0].value_size == 60);
        end = loaded.end;
        loaded_done(&loaded);
        EXPECT_R(law_append(l, l->session, &ks, &end, 3, 10), 0);
        /* The id has ended for ever. */
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), STOKE_ENDED);
        EXPECT_R(feed(l, &ks, id, 2000, 2000, 1), STOKE_ENDED);
        EXPECT_R(l->driver->install_abort(l->session, &ks, id, law_call(l)), STOKE_ENDED);
        EXPECT_R(l->driver->install_begin(l->session, &ks, foreign, law_call(l), &seq), -EEXIST);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), STOKE_ENDED);
        EXPECT_R(l->driver->install_abort(l->session, &ks, id, law_call(l)), STOKE_ENDED);
        free((void *)last.value);
        free((void *)first.value);
}

static void law_abort(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "abort"), other = law_keyspace(l, "abort");
        struct listing listing = {.wanted = &ks};
        struct stoke_record last;
        uint8_t id[16], unknown[16], third[16];
        uint64_t seq;
        char key[32];

        law_uuid(l, id);
        law_uuid(l, unknown);
        law_uuid(l, third);
        last = law_record(1000, 9, 5, key);
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), 0);
        EXPECT_R(feed(l, &ks, id, 2, 10, 1), 0);
        EXPECT_R(l->driver->install_abort(l->session, &ks, unknown, law_call(l)), 0); /* no harm to the other */
        EXPECT_R(feed(l, &ks, id, 11, 12, 1), 0);
        EXPECT_R(l->driver->install_abort(l->session, &ks, id, law_call(l)), 0);
        EXPECT_R(l->driver->install_abort(l->session, &ks, id, law_call(l)), 0);
        law_close(l);
        EXPECT(law_open(l) == 0);
        EXPECT_R(feed(l, &ks, id, 11, 12, 1), STOKE_ENDED);
        EXPECT_R(l->driver->install_commit(l->session, &ks, id, &last, law_call(l)), STOKE_ENDED);
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), STOKE_ENDED);
        EXPECT_R(l->driver->install_begin(l->session, &other, id, law_call(l), &seq), STOKE_ENDED);
        EXPECT_R(l->driver->install_begin(l->session, &ks, unknown, law_call(l), &seq), STOKE_ENDED);
        EXPECT_R(l->driver->list(l->session, law_call(l), on_info, &listing), 0);
        EXPECT(listing.n_installing == 0 && listing.n_live == 0);
        /* The same incarnation under a new id. */
        EXPECT_R(l->driver->install_begin(l->session, &ks, third, law_call(l), &seq), 0);
        EXPECT(seq == 0);
        EXPECT_R(l->driver->install_commit(l->session, &ks, third, &last, law_call(l)), 0);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        free((void *)last.value);
}

/* A keyspace is served while another incarnation of its name is installed beside it. */
static void law_beside(struct laws *l) {
        struct stoke_keyspace old = law_keyspace(l, "beside"), new = law_keyspace(l, "beside");
        struct stoke_record last;
        struct stoke_end end;
        uint8_t id[16];
        uint64_t seq;
        char key[32];

        law_uuid(l, id);
        last = law_record(50, 9, 5, key);
        EXPECT_R(law_make(l, &old, &end), 0);
        EXPECT_R(l->driver->install_begin(l->session, &new, id, law_call(l), &seq), 0);
        EXPECT_R(feed(l, &new, id, 2, 10, 1), 0);
        EXPECT_R(law_append(l, l->session, &old, &end, 4, 10), 0);
        EXPECT_R(l->driver->install_commit(l->session, &new, id, &last, law_call(l)), 0);
        EXPECT_R(law_append(l, l->session, &old, &end, 4, 10), 0);
        law_release(l, l->session, &old);
        EXPECT_R(l->driver->drop(l->session, &old, law_call(l)), 0);
        EXPECT_R(law_acquire(l, l->session, &new), 0);
        law_release(l, l->session, &new);
        EXPECT_R(l->driver->drop(l->session, &new, law_call(l)), 0);
        free((void *)last.value);
}

/* ---- a part of a log */

struct part {
        uint64_t seqs[64], n, stop_after;
        bool values, sizes;
};

static int on_part(void *userdata, const struct stoke_record *r) {
        struct part *part = userdata;

        if (part->n < 64)
                part->seqs[part->n] = r->seq;
        part->n++;
        part->values = part->values && r->value;
        part->sizes = part->sizes && r->value_size == 60;
        return part->stop_after && part->n >= part->stop_after;
}

static int read_part(struct laws *l, const struct stoke_keyspace *ks, const uint8_t *id, uint64_t after, uint64_t upto,
        uint32_t n_most, bool with_values, struct part *part) {
        struct stoke_read read = {.size = sizeof(read),
                .installation = id,
                .after = after,
                .upto = upto,
                .n_most = n_most,
                .with_values = with_values};

        *part = (struct part){.values = true, .sizes = true, .stop_after = part->stop_after};
        return l->driver->read(l->session, ks, &read, law_call(l), on_part, part);
}

static void law_read(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "read"), none = law_keyspace(l, "none");
        struct stoke_compact compact = {.size = sizeof(compact), .first = true};
        const uint64_t dead[] = {3, 4, 10};
        struct part part = {};
        struct stoke_record last;
        struct stoke_end end;
        uint8_t id[16], foreign[16];
        uint64_t seq;
        char key[32];

        if (l->driver->size < offsetof(struct stoke_driver, read) + sizeof(l->driver->read) || !l->driver->read) {
                l->skipped = "the driver cannot";
                return;
        }
        law_uuid(l, id);
        law_uuid(l, foreign);
        EXPECT_R(read_part(l, &none, NULL, 0, 100, 10, true, &part), STOKE_MISSING);
        EXPECT_R(law_make(l, &ks, &end), 0);
        EXPECT_R(law_append(l, l->session, &ks, &end, 19, 60), 0);
        EXPECT_R(law_append(l, l->session, &ks, &end, 10, 60), 0);
        EXPECT_R(read_part(l, &ks, NULL, 1, 30, 100, true, &part), 0);
        EXPECT(part.n == 29 && part.seqs[0] == 2 && part.seqs[28] == 30 && part.values && part.sizes);
        EXPECT_R(read_part(l, &ks, NULL, 5, 25, 7, false, &part), 0);
        EXPECT(part.n == 7 && part.seqs[0] == 6 && part.seqs[6] == 12 && part.sizes);
        EXPECT_R(read_part(l, &ks, NULL, 5, 9, 100, true, &part), 0);
        EXPECT(part.n == 4 && part.seqs[3] == 9);
        EXPECT_R(read_part(l, &ks, NULL, 30, UINT64_MAX, 100, true, &part), 0);
        EXPECT(part.n == 0);
        part.stop_after = 3;
        EXPECT_R(read_part(l, &ks, NULL, 1, 30, 100, true, &part), STOKE_STOPPED);
        EXPECT(part.n == 3);
        part.stop_after = 0;
        /* The session is as good as before; holes are no matter. */
        compact.mark = 20;
        compact.seqs = dead;
        compact.n_seqs = 3;
        EXPECT_R(l->driver->compact(l->session, &ks, &compact, law_call(l)), 0);
        EXPECT_R(read_part(l, &ks, NULL, 3, 30, 6, true, &part), 0);
        EXPECT(part.n == 6 && part.seqs[0] == 5 && part.seqs[5] == 11);
        EXPECT_R(read_part(l, &ks, NULL, 0, 12, 100, true, &part), 0);
        EXPECT(part.n == 9 && part.seqs[0] == 1 && part.seqs[2] == 5);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);

        /* What was fed is seen under its id, and under no other; committed it is a log like any other. */
        ks = law_keyspace(l, "fed");
        last = law_record(100, 9, 60, key);
        EXPECT_R(read_part(l, &ks, id, 0, 100, 100, true, &part), STOKE_MISSING);
        EXPECT_R(l->driver->install_begin(l->session, &ks, id, law_call(l), &seq), 0);
        EXPECT_R(read_part(l, &ks, id, 0, 100, 100, true, &part), 0);
        EXPECT(part.n == 0);
        EXPECT_R(feed(l, &ks, id, 2, 50, 2), 0);
        EXPECT_R(read_part(l, &ks, id, 3, 41, 100, false, &part), 0);
        EXPECT(part.n == 19 && part.seqs[0] == 4 && part.seqs[18] == 40 && part.sizes);
        EXPECT(read_part(l, &ks, foreign, 0, 100, 100, true, &part) == STOKE_MISSING || part.n == 0);
        EXPECT_R(l->driver->install_commit(l->session, &ks, id, &last, law_call(l)), 0);
        EXPECT_R(read_part(l, &ks, id, 0, 100, 100, true, &part), STOKE_MISSING);
        EXPECT_R(law_acquire(l, l->session, &ks), 0);
        EXPECT_R(read_part(l, &ks, NULL, 40, 100, 100, true, &part), 0);
        EXPECT(part.n == 6 && part.seqs[5] == 100 && part.values);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
        free((void *)last.value);
}

const struct law laws_install[] = {
        {"an installation is invisible until it is committed, and goes on after an interruption", law_install, false},
        {"an installation that was aborted has ended for ever", law_abort, false},
        {"a part of a log, or of an installation, is read whatever holes are in it", law_read, false},
        {"a keyspace is installed beside another incarnation of it", law_beside, false},
        {},
};
