#include "fleet/transfer_state.h"

/*
 * Whether what two etcds have is the same: both are listed, key for key, and their sums compared. An export does so at its end; an import too, once
 * its tenant is served, through the tenant's own socket, which is a transfer of its own that carries nothing. The transfer's thread.
 */

#include <string.h>

#include "rpc/digest.h"

struct sum {
        struct transfer *renames; /* the keys, as they are called at the target; NULL: they are */
        bool with_revisions;
        struct buf key;
        struct digest *digest;
        uint64_t n;
};

static int add_to_sum(void *userdata, const Mvccpb__KeyValue *kv) {
        struct sum *sum = userdata;
        struct bytes key = bytes_of(kv->key.data, kv->key.len);
        uint64_t numbers[4] = {};
        int r;

        if (sum->renames) {
                if (atomic_load(&sum->renames->stopped))
                        return -ECANCELED;
                r = transfer_rename(sum->renames, key, &sum->key, &key, NULL);
                if (r < 0)
                        return r;
        }
        numbers[0] = key.size;
        numbers[1] = kv->value.len;
        if (sum->with_revisions) {
                numbers[2] = (uint64_t)kv->create_revision;
                numbers[3] = (uint64_t)kv->mod_revision;
        }
        digest_add(sum->digest, numbers, sizeof(numbers));
        digest_add(sum->digest, key.data, key.size);
        digest_add(sum->digest, kv->value.data, kv->value.len);
        sum->n++;
        return 0;
}

static int sum_of(struct etcd_client *client, struct transfer *renames, bool with_revisions, const struct buf *prefix,
        int64_t revision, uint8_t ret[DIGEST_SIZE], uint64_t *ret_n, struct error *reterr) {
        cleanup(digest_freep) struct digest *digest = NULL;
        cleanup(buf_done) struct buf end = {};
        struct sum sum = {.renames = renames, .with_revisions = with_revisions};
        struct etcd_span span = transfer_span(prefix, &end);
        int r;

        r = digest_new(&digest);
        if (r < 0)
                return error_set(reterr, r, "SHA-256: %s", strerror(-r));
        sum.digest = digest;
        r = etcd_client_list(client, &span, revision, false, add_to_sum, &sum, NULL, reterr);
        digest_finish(digest, ret);
        buf_done(&sum.key);
        *ret_n = sum.n;
        return r;
}

int transfer_compare(
        struct transfer *t, struct etcd_client *target, bool with_revisions, int64_t revision, struct error *reterr) {
        uint8_t here[DIGEST_SIZE], there[DIGEST_SIZE];
        uint64_t n_here, n_there;
        int r;

        r = sum_of(t->client, t, with_revisions, &t->prefix, revision, here, &n_here, reterr);
        if (r >= 0)
                r = sum_of(target, NULL, with_revisions, &t->new_prefix, revision, there, &n_there, reterr);
        if (r < 0)
                return r;
        if (n_here != n_there || memcmp(here, there, sizeof(here)) != 0)
                return error_set(reterr, -EBADMSG,
                        "what %s has (%llu keys) is not what %s has (%llu): somebody else writes to one of them",
                        etcd_client_endpoint(target), (unsigned long long)n_there, etcd_client_endpoint(t->client),
                        (unsigned long long)n_here);
        return 0;
}

/* ---- as a transfer of its own */

struct comparison {
        struct transfer_endpoints target;
        int64_t revision;
};

/* What was written to the source after that revision did not come along: a writer that was not stopped, or a lease that has ended there. */
static int look_for_more(struct transfer *t, int64_t revision, struct error *reterr) {
        uint8_t then[DIGEST_SIZE], now[DIGEST_SIZE];
        uint64_t n_then, n_now;
        int r;

        r = sum_of(t->client, t, true, &t->prefix, revision, then, &n_then, reterr);
        if (r >= 0)
                r = sum_of(t->client, t, true, &t->prefix, 0, now, &n_now, reterr);
        if (r < 0 || memcmp(then, now, sizeof(then)) == 0)
                return r;
        pthread_mutex_lock(&t->mutex);
        (void)snprintf(t->status.trouble, sizeof(t->status.trouble),
                "the source has changed after revision %lld, which did not come along", (long long)revision);
        pthread_mutex_unlock(&t->mutex);
        return 0;
}

static int comparison_work(struct transfer *t, struct error *reterr) {
        cleanup(etcd_client_freep) struct etcd_client *target = NULL;
        struct comparison *c = t->sink_state;
        struct etcd_client_config config = {
                .loop = t->sink_loop,
                .endpoints = (const char *const *)c->target.endpoints,
                .n_endpoints = c->target.n_endpoints,
                .tls = c->target.tls,
                .stopped = &t->stopped,
        };
        int r;

        r = etcd_client_new(&config, &target, reterr);
        if (r >= 0)
                r = transfer_look(t, reterr);
        if (r >= 0)
                r = transfer_compare(t, target, true, c->revision, reterr);
        return r < 0 ? r : look_for_more(t, c->revision, reterr);
}

static void comparison_close(struct transfer *t) {
        struct comparison *c = steal(t->sink_state);

        transfer_endpoints_done(&c->target);
        free(c);
}

static const struct transfer_sink comparison_sink = {.work = comparison_work, .close = comparison_close};

int comparison_start(const struct transfer_config *config, const struct transfer_end *target, int64_t revision,
        struct transfer **ret, struct error *reterr) {
        cleanup(transfer_freep) struct transfer *t = NULL;
        struct comparison *c;
        int r;

        r = transfer_new(config, &comparison_sink, &t, reterr);
        if (r < 0)
                return r;
        c = new0(struct comparison);
        c->revision = revision;
        t->sink_state = c;
        r = transfer_endpoints_copy(&c->target, t->sink_loop, target, reterr);
        if (r >= 0)
                r = transfer_begin(t, reterr);
        if (r < 0)
                return r;
        *ret = steal(t);
        return 0;
}
