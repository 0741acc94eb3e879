#include "keyspace/txn_view.h"

struct blob *txn_value(const struct txn_evaluator *e, const struct key_version *v) {
        const struct batch *b = e->batch;
        struct blob *blob;

        if (v->seq > b->base.seq)
                return blob_ref(b->blobs[v->seq - b->base.seq - 1]);
        blob = values_get(&b->ks->values, v->seq);
        if (!blob && e->call->call.own.fetch)
                blob = fetch_get(e->call->call.own.fetch, v->seq);
        return blob;
}

void txn_probe_value(struct txn_evaluator *e, const struct key_version *v) {
        struct blob *blob = txn_value(e, v);

        if (!blob) {
                fetch_add(e->missing, v->seq);
                e->n_missing++;
        }
        blob_unref(blob);
}

static int compare_number(int64_t a, int64_t b) {
        return (a > b) - (a < b);
}

static bool compare_holds(const struct txn_evaluator *e, const struct compare *c, const struct key_version *v) {
        static const struct key_version absent;
        struct blob *value;
        int r = 0;

        if (!v)
                v = &absent;
        switch (c->target) {
        case COMPARE_VERSION:
                r = compare_number(v->version, c->number);
                break;
        case COMPARE_CREATE:
                r = compare_number(v->create_revision, c->number);
                break;
        case COMPARE_MOD:
                r = compare_number(v->mod_revision, c->number);
                break;
        case COMPARE_LEASE:
                r = compare_number(v->lease, c->number);
                break;
        case COMPARE_VALUE:
                if (v == &absent)
                        return false; /* etcd: a key that is not there fails every compare of its value */
                value = txn_value(e, v);
                r = bytes_compare(blob_bytes(value), c->value);
                blob_unref(value);
                break;
        }
        switch (c->result) {
        case COMPARE_EQUAL:
                return r == 0;
        case COMPARE_GREATER:
                return r > 0;
        case COMPARE_LESS:
                return r < 0;
        case COMPARE_NOT_EQUAL:
                return r != 0;
        }
        return false;
}

const struct key_version *txn_find(const struct txn_evaluator *e, struct bytes key) {
        const struct key_version *v = batch_find(e->batch, key);

        return v && v->version ? v : NULL;
}

/* All keys of the range must pass; where there is none the absent key is compared, as etcd does. */
static bool compare_passes(struct txn_evaluator *e, const struct compare *c) {
        const struct key_version *v;
        struct batch_cursor cursor;
        struct bytes key;
        size_t n = 0;

        if (range_is_single(&c->range)) {
                v = txn_find(e, c->range.key);
                if (v && e->missing && c->target == COMPARE_VALUE)
                        txn_probe_value(e, v);
                return e->n_missing || compare_holds(e, c, v);
        }

        batch_seek(e->batch, &c->range, INT64_MAX, &cursor);
        while ((v = batch_next(&cursor, &key))) {
                n++;
                if (e->missing && c->target == COMPARE_VALUE)
                        txn_probe_value(e, v);
                if (!e->n_missing && !compare_holds(e, c, v))
                        return false;
        }
        return n || compare_holds(e, c, NULL);
}

bool txn_compares_pass(struct txn_evaluator *e, const struct txn *txn) {
        bool pass = true;

        for (size_t i = 0; i < txn->n_compares && (pass || e->n_missing); i++)
                if (!compare_passes(e, &txn->compares[i]))
                        pass = false;
        return pass;
}

int txn_range(struct txn_evaluator *e, const struct range_request *r, struct range_selection *ret) {
        int64_t revision = r->revision > 0 ? r->revision : txn_now(e);
        const struct key_version *v;
        struct batch_cursor cursor;
        struct bytes key;
        int result;

        if (revision > txn_now(e))
                return KEYSPACE_FUTURE_REVISION;
        if (revision < e->batch->ks->compacted)
                return KEYSPACE_COMPACTED;

        range_selection_init(ret, r);
        batch_seek(e->batch, &r->range, revision, &cursor);
        while ((v = batch_next(&cursor, &key))) {
                result = range_selection_add(ret, key, v);
                if (result < 0)
                        return result;
        }
        return 0;
}
