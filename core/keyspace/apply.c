/*
 * Applies the log to the state: one record after the other, own or loaded, each exactly once and in order. What a
 * record does to the index, the history, the leases and the figures is written here and nowhere else. The keyspace's
 * loop only.
 */

#include "keyspace/state.h"

static void apply_key(struct keyspace *ks, const struct stoke_record *r, bool is_put) {
        struct key_entry *e = index_get(&ks->index, bytes_of(r->key, r->key_size));
        struct key_version v = {
                .seq = r->seq,
                .mod_revision = r->revision,
                .create_revision = is_put ? r->create_revision : 0,
                .version = is_put ? r->version : 0,
                .lease = is_put ? r->lease : 0,
                .value_size = is_put ? (uint32_t)r->value_size : 0,
                .hash = (uint32_t)(r->hash ^ r->hash >> 32),
        };

        if (e->alive)
                ks->bytes_live -= e->key_size + e->last.value_size;
        lease_detach(e);
        values_unlink(e);
        key_entry_push(e, &v);
        index_set_alive(&ks->index, e, is_put);
        ks->n_versions++;
        ks->sum += hash_version(&v);
        ks->changed = r->seq;
        if (is_put) {
                ks->bytes_live += e->key_size + v.value_size;
                if (v.lease)
                        lease_attach(ks, e, v.lease);
        }
        if (r->revision >= ks->compacted)
                history_push(&ks->history, r->revision, r->seq, e);
}

void keyspace_apply(struct keyspace *ks, const struct stoke_record *r, struct blob *value) {
        ks->end = (struct stoke_end){r->seq, r->origin};
        if (r->revision > ks->revision)
                ks->revision = r->revision;
        ks->bytes_log += r->key_size + r->value_size;

        switch ((enum record_kind)r->kind) {
        case RECORD_PUT:
                apply_key(ks, r, true);
                if (value)
                        values_put(&ks->values, r->seq, value);
                break;
        case RECORD_TOMBSTONE:
                apply_key(ks, r, false);
                break;
        case RECORD_LEASE:
        case RECORD_REVOKE:
        case RECORD_REVOKE_GROUPED:
                ks->changed = r->seq;
                lease_apply(ks, r);
                break;
        case RECORD_KEEPALIVE:
        case RECORD_LEASE_LEFT:
                lease_apply(ks, r);
                break;
        case RECORD_ALARM:
                alarm_apply(ks, r);
                break;
        case RECORD_MARK:
                compaction_apply_mark(ks, r);
                break;
        case RECORD_RECOVERED:
                recover_apply(ks, r);
                break;
        case RECORD_NOOP:
                compaction_add(ks, r->seq, false);
                break;
        case RECORD_SEAL:
        case RECORD_UNSEAL:
        case RECORD_INSTALLED:
                seal_apply(ks, r);
                break;
        case RECORD_PIN:
                pin_apply(ks, r);
                break;
        case RECORD_CREATED:
                break;
        }
}

/* The cache keeps what it has: a seq is never used twice. */
void keyspace_forget(struct keyspace *ks) {
        leases_done(ks);
        alarms_done(ks);
        moving_forget(ks);
        values_unlink_all(&ks->values);
        compaction_forget(ks);
        history_done(&ks->history);
        index_done(&ks->index);
        ks->end = (struct stoke_end){};
        ks->revision = ks->compacted = 0;
        memset(ks->recovered, 0, sizeof(ks->recovered));
        ks->bytes_live = ks->bytes_log = ks->n_versions = ks->sum = ks->changed = 0;
        verify_void(ks);
}
