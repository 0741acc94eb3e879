#include "fleet/tail.h"

/*
 * A mark, where nothing may be read or watched below; and what is left of each lease, whose grant says only what it had. The mark comes first:
 * what it names as dead is before it.
 */

#include <string.h>

#include "keyspace/record.h"
#include "keyspace/stream_piece.h"

/* At least 2, so that a watch that has all up to `above` is behind the mark, too, and is told so. As generous as a recovery's. */
#define GAP INT64_C(1000000)

static int add(struct tail *tail, const struct tail_config *config, struct stoke_record *r) {
        if (!tail->piece)
                tail->piece = stream_piece_new();
        r->seq = ++tail->seq;
        r->revision = tail->revision;
        r->key = r->value = "";
        memcpy(r->origin.daemon, config->id, sizeof(r->origin.daemon));
        r->origin.batch = 2; /* 1 is the record's that ends the installation */
        r->hash = record_hash(r);
        return stream_piece_add(tail->piece, r);
}

int tail_make(const struct tail_config *config, struct tail *ret) {
        struct tail tail = {.seq = config->seq, .revision = config->revision};
        int r = 0;

        if (config->above) {
                tail.revision = max_of(config->above, config->revision) + GAP;
                r = add(&tail, config, &(struct stoke_record){.kind = RECORD_MARK, .create_revision = tail.revision});
        }
        for (size_t i = 0; i < config->n_leases && r == 0; i++)
                if (config->leases[i].left_ms / 1000 < config->leases[i].ttl)
                        r = add(&tail, config,
                                &(struct stoke_record){.kind = RECORD_LEASE_LEFT,
                                        .lease = config->leases[i].id,
                                        .version = config->leases[i].left_ms});
        if (r < 0) {
                stream_piece_free(tail.piece);
                return r;
        }
        *ret = tail;
        return 0;
}
