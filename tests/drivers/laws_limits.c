/* SPDX-License-Identifier: Apache-2.0 */
/* The laws of the limits that a driver names: what they allow is taken, what is beyond them is refused as a whole. */
#include "laws.h"

#include <errno.h>

/* Those of the server, where they are tighter than the driver's. */
static struct stoke_limits limits_here(struct laws *l, const struct stoke_keyspace *ks) {
        struct stoke_limits limits = l->driver->limits;

        if (l->driver->server_limits && l->driver->server_limits(l->session, ks, law_call(l), &limits) != 0)
                law_fail(l, "server_limits");
        return limits;
}

static void law_limits(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "limits");
        struct stoke_limits limits = limits_here(l, &ks);
        size_t big = (size_t)limits.record_bytes, n = limits.batch_records, each;
        struct stoke_end end, start;
        struct loaded loaded = {};
        char key[32];
        struct stoke_record record;
        struct stoke_append append = {.size = sizeof(append), .records = &record, .n_records = 1};

        if (big > limits.batch_bytes)
                big = (size_t)limits.batch_bytes;
        if (big > (64u << 20))
                big = 64u << 20;
        if (n > 100000)
                n = 100000;
        EXPECT_R(law_make(l, &ks, &end), 0);
        start = end;
        /* One record of the greatest size. */
        record = law_record(2, 1, 1, key);
        free((void *)record.value);
        record.value_size = big - record.key_size;
        record.value = memset(malloc(record.value_size), 'v', record.value_size);
        append.expected = end;
        EXPECT_R(l->driver->append(l->session, &ks, &append, law_call(l)), 0);
        end = (struct stoke_end){2, record.origin};
        /* The greatest number of records. */
        each = (size_t)(limits.batch_bytes / n) - 32;
        EXPECT_R(law_append(l, l->session, &ks, &end, n, each > 200 ? 200 : each), 0);
        EXPECT_R(law_load(l, l->session, &ks, &start, true, &loaded), 0);
        EXPECT(loaded.n == n + 1 && law_same(&loaded.records[0], &record) && law_same_end(&loaded.end, &end));
        loaded_done(&loaded);
        free((void *)record.value);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

/* n records of one size. kind and revision 0: each a group of its own. Returns what append gave. */
static int append_group(struct laws *l, const struct stoke_keyspace *ks, struct stoke_end *end, size_t n,
        size_t value_size, uint8_t kind, int64_t revision) {
        struct stoke_record *records = calloc(n, sizeof(*records));
        struct stoke_append append = {.size = sizeof(append), .expected = *end, .records = records, .n_records = n};
        char *value = memset(malloc(value_size + 1), 'g', value_size);
        int r;

        l->batch++;
        for (size_t i = 0; i < n; i++) {
                records[i] = (struct stoke_record){.seq = end->seq + 1 + i,
                        .revision = revision ? revision : (int64_t)(end->seq + 1 + i),
                        .kind = kind,
                        .origin.batch = l->batch,
                        .key = "group",
                        .key_size = 5,
                        .value = value,
                        .value_size = value_size};
        }
        r = l->driver->append(l->session, ks, &append, law_call_ms(l, 60000));
        if (r == 0)
                *end = (struct stoke_end){end->seq + n, records[n - 1].origin};
        free(value);
        free(records);
        return r;
}

static void law_beyond_limits(struct laws *l) {
        struct stoke_keyspace ks = law_keyspace(l, "beyond");
        struct stoke_limits limits = limits_here(l, &ks);
        size_t n = limits.batch_records, each = (size_t)limits.record_bytes, few;
        struct loaded loaded = {};
        struct stoke_end end, start;

        EXPECT_R(law_make(l, &ks, &end), 0);
        start = end;
        if (n < 100000) {
                EXPECT_R(append_group(l, &ks, &end, n + 1, 0, 1, 0), -EMSGSIZE);
                EXPECT(l->reason[0]);
                /* Neighbours that are not of one revision, or not marked, are not one group. */
                EXPECT_R(append_group(l, &ks, &end, n + 1, 0, STOKE_KIND_GROUPED | 1, 0), -EMSGSIZE);
                EXPECT_R(append_group(l, &ks, &end, n + 1, 0, 1, 7), -EMSGSIZE);
        }
        if (each < (64u << 20)) {
                EXPECT_R(append_group(l, &ks, &end, 1, each - 4, 1, 0), -EMSGSIZE); /* the key has 5 */
                EXPECT(l->reason[0]);
        }
        if (limits.batch_bytes < (128u << 20)) {
                if (each > (1u << 20))
                        each = 1u << 20;
                few = (size_t)(limits.batch_bytes / each) + 1;
                EXPECT_R(append_group(l, &ks, &end, few, each - 5, STOKE_KIND_GROUPED | 1, 7), -EMSGSIZE);
                EXPECT(l->reason[0]);
        }
        EXPECT_R(law_load(l, l->session, &ks, &start, true, &loaded), 0);
        EXPECT(loaded.n == 0 && law_same_end(&loaded.end, &start));
        loaded_done(&loaded);
        EXPECT_R(law_append(l, l->session, &ks, &end, 1, 1), 0);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

/* One transaction is one append, however many keys it has. */
static void law_big_group(struct laws *l) {
        size_t n = 20000, each = (size_t)(l->driver->limits.batch_bytes / n);
        struct stoke_keyspace ks = law_keyspace(l, "group");
        struct loaded loaded = {};
        struct stoke_end end, start;

        EXPECT(each > 5);
        EXPECT_R(law_make(l, &ks, &end), 0);
        start = end;
        EXPECT_R(append_group(l, &ks, &end, n, each > 205 ? 200 : each - 5, STOKE_KIND_GROUPED | 1, 7), 0);
        EXPECT_R(law_load(l, l->session, &ks, &start, false, &loaded), 0);
        EXPECT(loaded.n == n && law_same_end(&loaded.end, &end));
        loaded_done(&loaded);
        EXPECT_R(append_group(l, &ks, &end, 3, 10, STOKE_KIND_GROUPED | 1, 8), 0);
        law_release(l, l->session, &ks);
        EXPECT_R(l->driver->drop(l->session, &ks, law_call(l)), 0);
}

const struct law laws_limits[] = {
        {"what the limits allow is taken", law_limits, false},
        {"what goes beyond the limits is refused, and nothing of it is written", law_beyond_limits, false},
        {"a group of 20,000 records is one append", law_big_group, false},
        {},
};
