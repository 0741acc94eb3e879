#include "made.h"

#include <string.h>
#include <unistd.h>

void made_init(struct made_log *log) {
        *log = (struct made_log){.revision = 1, .origin.batch = 7};
        memset(log->origin.daemon, 0xd, sizeof(log->origin.daemon));
        made_add(log, RECORD_CREATED, 1, "", 0, "", 0);
}

void made_done(struct made_log *log) {
        for (size_t i = 0; i < log->n; i++) {
                free((void *)log->records[i].r.key);
                free((void *)log->records[i].r.value);
        }
        free(log->records);
}

static void *copy(const void *data, size_t size) {
        void *p = malloc(size ? size : 1); /* exactly: a byte read beyond it is seen */

        check(p);
        if (size && data)
                memcpy(p, data, size);
        else if (size)
                for (size_t i = 0; i < size; i++)
                        ((uint8_t *)p)[i] = (uint8_t)(i * 31 + size);
        return p;
}

void made_sign(struct stoke_record *r) {
        r->hash = record_hash(r);
}

struct stoke_record *made_add(struct made_log *log, uint8_t kind, int64_t revision, const void *key, size_t key_size,
        const void *value, size_t value_size) {
        struct stoke_record *r;

        if (log->n == log->capacity) {
                log->capacity = log->capacity ? log->capacity * 2 : 64;
                log->records = realloc(log->records, log->capacity * sizeof(*log->records));
                check(log->records);
        }
        log->records[log->n] = (struct made_record){};
        r = &log->records[log->n].r;
        *r = (struct stoke_record){
                .seq = log->n + 1,
                .revision = revision,
                .kind = kind,
                .origin = log->origin,
                .key = copy(key, key_size),
                .key_size = key_size,
                .value = copy(value, value_size),
                .value_size = value_size,
        };
        log->n++;
        log->revision = max_of(log->revision, revision);
        made_sign(r);
        return r;
}

/* ---- filling */

static size_t name_key(char *key, unsigned i, unsigned size) {
        int n = snprintf(key, 64, "/%u", i);

        for (unsigned k = (unsigned)n; k < size + i % 7; k++)
                key[k] = (char)('a' + k % 26);
        return max_of((size_t)n, size + i % 7);
}

static const struct stoke_record *last_of(const struct made_log *log, const void *key, size_t key_size) {
        for (size_t i = log->n; i-- > 0;) {
                const struct stoke_record *r = &log->records[i].r;

                if ((r->kind == RECORD_PUT || r->kind == RECORD_TOMBSTONE) && r->key_size == key_size &&
                        memcmp(r->key, key, key_size) == 0)
                        return r;
        }
        return NULL;
}

static void change_key(struct made_log *log, const struct made_shape *shape, int64_t revision, int64_t lease) {
        char key[512];
        size_t key_size = name_key(key, (unsigned)rand() % shape->n_keys, shape->key_size);
        const struct stoke_record *last = last_of(log, key, key_size);
        bool alive = last && last->kind == RECORD_PUT;
        struct stoke_record *r;

        if (alive && rand() % 100 < 25) {
                made_add(log, RECORD_TOMBSTONE, revision, key, key_size, NULL, 0);
                return;
        }
        /* made_add() may move what `last` points to. */
        int64_t create = alive ? last->create_revision : revision, version = alive ? last->version + 1 : 1;

        r = made_add(log, RECORD_PUT, revision, key, key_size, NULL, shape->value_size());
        r->create_revision = create;
        r->version = version;
        r->lease = lease;
        made_sign(r);
}

static void compact(struct made_log *log) {
        int64_t at = log->compacted + 1 + rand() % (log->revision - log->compacted);
        struct stoke_record *r = made_add(log, RECORD_MARK, log->revision, "", 0, "", 0);

        r->create_revision = log->compacted = at;
        made_sign(r);
}

void made_fill(struct made_log *log, const struct made_shape *shape) {
        int64_t leases[4] = {};

        for (unsigned i = 0; i < shape->n_steps; i++) {
                unsigned what = (unsigned)rand() % 100, which = (unsigned)rand() % n_elements(leases);
                struct stoke_record *r;

                if (what < shape->compact_percent && log->revision > log->compacted) {
                        compact(log);
                } else if (what >= 98) {
                        r = made_add(log, leases[which] ? RECORD_REVOKE : RECORD_LEASE, log->revision, "", 0, "", 0);
                        r->lease = leases[which] ? leases[which] : (int64_t)((uint64_t)rand() << 33 | (uint64_t)i) + 1;
                        if (rand() % 2 && !leases[which])
                                r->lease = -r->lease;
                        r->version = leases[which] ? 0 : 1 + rand() % 5000;
                        leases[which] = leases[which] ? 0 : r->lease;
                        made_sign(r);
                } else if (what >= 96) {
                        r = made_add(log, rand() % 2 ? RECORD_KEEPALIVE : RECORD_NOOP, log->revision, "", 0, "", 0);
                        r->lease = leases[which];
                        made_sign(r);
                } else {
                        int64_t revision = log->revision + 1;

                        for (unsigned n = rand() % 4 ? 1 : 1 + (unsigned)rand() % 6; n > 0; n--)
                                change_key(log, shape, revision, rand() % 3 ? 0 : leases[which]);
                }
        }
}

/* ---- what is to be expected */

static bool same_key(const struct stoke_record *a, const struct stoke_record *b) {
        return a->key_size == b->key_size && memcmp(a->key, b->key, a->key_size) == 0;
}

static bool is_version(const struct stoke_record *r) {
        return r->kind == RECORD_PUT || r->kind == RECORD_TOMBSTONE;
}

/* What a reader at or above the mark can see. */
static bool is_seen(const struct made_log *log, size_t i) {
        const struct stoke_record *r = &log->records[i].r;

        if (r->revision > log->compacted)
                return true;
        for (size_t k = i + 1; k < log->n && log->records[k].r.revision <= log->compacted; k++)
                if (is_version(&log->records[k].r) && same_key(r, &log->records[k].r))
                        return false;
        return r->kind == RECORD_PUT || r->revision == log->compacted;
}

struct made_version *made_expect(const struct made_log *log, size_t *ret_n) {
        struct made_version *versions = xcalloc(log->n, sizeof(*versions));
        int64_t revision = 0, sub = 0;
        size_t n = 0;

        for (size_t i = 0; i < log->n; i++) {
                const struct stoke_record *r = &log->records[i].r;

                if (!is_version(r) || !is_seen(log, i))
                        continue;
                sub = r->revision == revision ? sub + 1 : 0;
                revision = r->revision;
                versions[n++] = (struct made_version){i, sub};
        }
        *ret_n = n;
        return versions;
}

void made_delete(struct made_log *log, unsigned percent) {
        for (size_t i = 0; i + 1 < log->n; i++) {
                struct stoke_record *r = &log->records[i].r;

                /* A tombstone goes later than what it covers. */
                log->records[i].dead = r->kind == RECORD_NOOP || r->kind == RECORD_KEEPALIVE ||
                        (is_version(r) && r->kind == RECORD_PUT && !is_seen(log, i));
                if (log->records[i].dead && (unsigned)rand() % 100 < percent)
                        log->records[i].deleted = true;
        }
}

/* ---- the passes */

int made_write_fd(void *userdata, const void *data, size_t size, struct error *reterr) {
        int fd = *(int *)userdata;

        (void)reterr;
        for (size_t n = 0; n < size;) {
                ssize_t r = write(fd, (const char *)data + n, size - n);

                if (r < 0)
                        return -errno;
                n += (size_t)r;
        }
        return 0;
}

/* As a pass without values has them. */
static int plan(struct made_log *log, struct snapshot_plan *p, struct error *reterr) {
        for (size_t i = 0; i < log->n; i++) {
                struct stoke_record r = log->records[i].r;
                int result;

                if (log->records[i].deleted)
                        continue;
                r.value = NULL;
                result = snapshot_plan_add(p, &r, reterr);
                if (result < 0)
                        return result;
        }
        return snapshot_plan_finish(p, reterr);
}

int made_save(struct made_log *log, int64_t assumed, unsigned percent, int fd, struct made_saved *ret) {
        struct snapshot_config config = {.member_id = UINT64_C(0xfedcba9876543210), .term = 2, .compacted = assumed};
        struct snapshot_output output = {made_write_fd, &fd};
        cleanup(snapshot_plan_freep) struct snapshot_plan *p = NULL;
        cleanup(snapshot_writer_freep) struct snapshot_writer *w = NULL;
        cleanup(error_done) struct error err = {};
        int r;

        *ret = (struct made_saved){};
        check(snapshot_plan_new(&config, &p) == 0);
        do {
                r = plan(log, p, &err);
                ret->n_rounds++;
        } while (r == SNAPSHOT_AGAIN);
        if (r == 0) {
                snapshot_plan_get(p, &ret->figures);
                if (percent)
                        made_delete(log, percent);
                r = snapshot_writer_new(p, &output, &w, &err);
        }
        for (size_t i = 0; r == 0 && i < log->n; i++)
                if (!log->records[i].deleted)
                        r = snapshot_writer_add(w, &log->records[i].r, &err);
        if (r == 0)
                r = snapshot_writer_finish(w, &err);
        if (r < 0)
                ret->error = strdup(error_text(&err));
        return r;
}
