#include "fleet/import_log.h"

/*
 * Seqs are given here, from 1. Leases come before what hangs on them; where the source does not tell of its leases (kine, whose lease is nothing
 * but a time), they are asked for when a first key has one.
 */

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "keyspace/record.h"

struct import_lease {
        int64_t id;
        UT_hash_handle hh;
};

struct import_log {
        struct import_log_config config;
        uint64_t seq;
        int64_t revision;
        struct import_lease *leases; /* uthash */
};

int import_log_new(const struct import_log_config *config, struct import_log **ret) {
        struct import_log *log = new0(struct import_log);

        log->config = *config;
        log->revision = 1; /* of a fresh etcd */
        *ret = log;
        return 0;
}

static void forget_lease(struct import_log *log, struct import_lease *lease) {
        HASH_DEL(log->leases, lease);
        free(lease);
}

void import_log_free(struct import_log *log) {
        if (!log)
                return;
        while (log->leases)
                forget_lease(log, log->leases);
        free(log);
}

static int add(struct import_log *log, enum record_kind kind, int64_t revision, struct bytes key, struct bytes value,
        int64_t create_revision, int64_t version, int64_t lease, struct error *reterr) {
        struct stoke_record record = {
                .seq = log->seq + 1,
                .revision = revision,
                .kind = (uint8_t)kind,
                .create_revision = create_revision,
                .version = version,
                .lease = lease,
                .origin = {.batch = 1},
                .key = key.size ? (const void *)key.data : "",
                .key_size = key.size,
                .value = value.size ? (const void *)value.data : "",
                .value_size = value.size,
        };

        memcpy(record.origin.daemon, log->config.daemon, sizeof(record.origin.daemon));
        record.hash = record_hash(&record);
        log->seq++;
        log->revision = max_of(log->revision, revision);
        return log->config.on_record(log->config.userdata, &record, reterr);
}

/* The log's first record is that of any log. */
static int begin(struct import_log *log, struct error *reterr) {
        return log->seq ? 0 : add(log, RECORD_CREATED, 1, (struct bytes){}, (struct bytes){}, 0, 0, 0, reterr);
}

static struct import_lease *find_lease(const struct import_log *log, int64_t id) {
        struct import_lease *lease;

        HASH_FIND(hh, log->leases, &id, sizeof(id), lease);
        return lease;
}

bool import_log_has_lease(const struct import_log *log, int64_t id) {
        return find_lease(log, id);
}

int import_log_lease(struct import_log *log, int64_t id, int64_t ttl, struct error *reterr) {
        struct import_lease *lease;
        int r;

        if (find_lease(log, id))
                return 0;
        r = begin(log, reterr);
        if (r < 0)
                return r;
        lease = new0(struct import_lease);
        lease->id = id;
        HASH_ADD(hh, log->leases, id, sizeof(id), lease);
        return add(log, RECORD_LEASE, log->revision, (struct bytes){}, (struct bytes){}, 0, ttl, id, reterr);
}

static int check_order(const struct import_log *log, int64_t revision, struct error *reterr) {
        if (revision >= log->revision && revision > 0)
                return 0;
        return error_set(reterr, -EBADMSG, "the source's revisions go back: %lld after %lld", (long long)revision,
                (long long)log->revision);
}

int import_log_put(struct import_log *log, const struct spool_key *key, struct error *reterr) {
        int64_t lease = key->lease, version = key->version, ttl;
        int r;

        r = check_order(log, key->mod_revision, reterr);
        if (r >= 0)
                r = begin(log, reterr);
        if (r < 0)
                return r;
        if (lease && !find_lease(log, lease)) {
                r = log->config.on_unknown_lease(log->config.userdata, lease, &ttl, reterr);
                if (r >= 0 && ttl > 0)
                        r = import_log_lease(log, lease, ttl, reterr);
                else if (r >= 0)
                        lease = 0;
                if (r < 0)
                        return r;
        }
        if (version < 1) /* kine does not count them, and a version of 0 is no key */
                version = key->create_revision == key->mod_revision ? 1 : 2;
        return add(
                log, RECORD_PUT, key->mod_revision, key->key, key->value, key->create_revision, version, lease, reterr);
}

int import_log_delete(struct import_log *log, struct bytes key, int64_t mod_revision, struct error *reterr) {
        int r;

        r = check_order(log, mod_revision, reterr);
        if (r < 0)
                return r;
        return add(log, RECORD_TOMBSTONE, mod_revision, key, (struct bytes){}, 0, 0, 0, reterr);
}

int import_log_mark(struct import_log *log, int64_t revision, struct error *reterr) {
        int r = check_order(log, revision, reterr);

        if (r >= 0)
                r = begin(log, reterr);
        return r < 0 ? r : add(log, RECORD_MARK, revision, (struct bytes){}, (struct bytes){}, revision, 0, 0, reterr);
}

int import_log_advance(struct import_log *log, int64_t revision, struct error *reterr) {
        if (revision <= log->revision)
                return 0;
        return add(log, RECORD_NOOP, revision, (struct bytes){}, (struct bytes){}, 0, 0, 0, reterr);
}

uint64_t import_log_seq(const struct import_log *log) {
        return log->seq;
}

int64_t import_log_revision(const struct import_log *log) {
        return log->revision;
}

uint64_t import_log_n_leases(const struct import_log *log) {
        return HASH_COUNT(log->leases);
}
