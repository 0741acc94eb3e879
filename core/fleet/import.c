#include "fleet/import_log.h"

/*
 * The sink of an import: a log that is made, fed into an installation, and committed. The transfer's thread; the datastore's jobs answer
 * on its second loop.
 */

#include <string.h>

#include "fleet/transfer_state.h"
#include "keyspace/install.h"
#include "keyspace/stream_piece.h"

#define PIECE_BYTES ((size_t)2 * 1024 * 1024)
#define PIECE_RECORDS 4096

struct import {
        struct transfer *transfer; /* borrowed */
        struct import_target target;
        struct import_log *log; /* owned, as all here */
        struct install *install;
        struct stream_piece *piece; /* being filled; NULL: empty */
        struct buf key;             /* renamed */
        bool answered;
        int result;
        char reason[512];
};

static void on_answer(void *userdata, int result, const char *reason) {
        struct import *i = userdata;

        i->answered = true;
        i->result = result;
        (void)snprintf(i->reason, sizeof(i->reason), "%s", reason ? reason : "");
        loop_stop(i->transfer->sink_loop);
}

/* Until the installation has answered; whoever stops the transfer waits for that. */
static int wait_for_answer(struct import *i, struct error *reterr) {
        while (!i->answered)
                (void)loop_run(i->transfer->sink_loop);
        i->answered = false;
        if (i->result == 0)
                return 0;
        if (i->result == STOKE_UNKNOWN)
                return error_set(reterr, -EINPROGRESS, "whether it was committed is not known: %s", i->reason);
        if (i->result == STOKE_ENDED)
                return error_set(reterr, -ECANCELED, "the installation was ended by somebody else");
        return error_set(reterr, i->result < 0 ? i->result : -EIO, "%s", i->reason);
}

static int import_flush(struct transfer *t, struct error *reterr) {
        struct import *i = t->sink_state;
        uint64_t n;
        int r;

        if (!i->piece)
                return 0;
        r = transfer_check_stopped(t, reterr);
        if (r < 0)
                return r;
        n = i->piece->n;
        install_feed(i->install, steal(i->piece), on_answer);
        r = wait_for_answer(i, reterr);
        if (r >= 0)
                transfer_tell(t, n, import_log_revision(i->log), NULL);
        return r;
}

static int on_record(void *userdata, const struct stoke_record *record, struct error *reterr) {
        struct import *i = userdata;
        uint64_t most = install_limits(i->install)->record_bytes;
        int r;

        if (record->key_size + record->value_size > most)
                return error_set(reterr, -EMSGSIZE, "a key with its value has %zu bytes, the datastore takes %llu",
                        record->key_size + record->value_size, (unsigned long long)most);
        if (!i->piece) {
                i->piece = stream_piece_new();
                if (!i->piece)
                        return -ENOMEM;
        }
        r = stream_piece_add(i->piece, record);
        if (r < 0)
                return error_set(reterr, r, "%s", strerror(-r));
        if (i->piece->bytes < PIECE_BYTES && i->piece->n < PIECE_RECORDS)
                return 0;
        return import_flush(i->transfer, reterr);
}

static int on_unknown_lease(void *userdata, int64_t id, int64_t *ret_ttl, struct error *reterr) {
        struct import *i = userdata;

        return transfer_lease(i->transfer, id, ret_ttl, reterr);
}

static int on_lease(void *userdata, int64_t id, int64_t ttl, struct error *reterr) {
        struct import *i = userdata;

        return import_log_lease(i->log, id, ttl, reterr);
}

static int import_open(struct transfer *t, struct error *reterr) {
        struct import *i = t->sink_state;
        struct install_config install = {
                .datastore = i->target.datastore,
                .name = t->tenant,
                .loop = t->sink_loop,
                .userdata = i,
        };
        struct import_log_config log = {
                .on_record = on_record,
                .on_unknown_lease = on_unknown_lease,
                .userdata = i,
        };
        int r;

        memcpy(install.incarnation, i->target.incarnation, sizeof(install.incarnation));
        memcpy(install.id, i->target.id, sizeof(install.id));
        r = install_new(&install, &i->install);
        if (r < 0)
                return error_set(reterr, r, "%s", strerror(-r));
        memcpy(log.daemon, i->target.daemon, sizeof(log.daemon));
        r = import_log_new(&log, &i->log);
        if (r < 0)
                return error_set(reterr, r, "%s", strerror(-r));
        install_begin(i->install, on_answer);
        r = wait_for_answer(i, reterr);
        if (r < 0)
                return r;
        if (install_seq(i->install))
                return error_set(reterr, -EEXIST, "an installation of this id was fed before");
        transfer_tell(t, 0, 0, datastore_name(i->target.datastore));
        /* Before the keys: what hangs on a lease comes after it. */
        return transfer_each_lease(t, on_lease, i, reterr);
}

static int import_key(struct transfer *t, const struct spool_key *key, struct error *reterr) {
        struct import *i = t->sink_state;
        struct spool_key renamed = *key;
        int r = transfer_rename(t, key->key, &i->key, &renamed.key, reterr);

        return r < 0 ? r : import_log_put(i->log, &renamed, reterr);
}

static int import_read(struct transfer *t, int64_t revision, struct error *reterr) {
        struct import *i = t->sink_state;

        return import_log_mark(i->log, revision, reterr);
}

static int import_events(struct transfer *t, struct transfer_event *events, struct error *reterr) {
        struct import *i = t->sink_state;
        int r = 0;

        /* Leases first: a revision's records stand together. */
        for (struct transfer_event *e = events; e && r >= 0; e = e->next) {
                int64_t ttl;

                if (e->deleted || !e->kv.lease || import_log_has_lease(i->log, e->kv.lease))
                        continue;
                r = transfer_lease(t, e->kv.lease, &ttl, reterr);
                if (r >= 0 && ttl > 0)
                        r = import_log_lease(i->log, e->kv.lease, ttl, reterr);
                else if (r >= 0)
                        e->kv.lease = 0; /* it has ended since: the event that says so follows */
        }
        for (struct transfer_event *e = events; e && r >= 0; e = e->next) {
                r = transfer_rename(t, e->kv.key, &i->key, &e->kv.key, reterr);
                if (r >= 0)
                        r = e->deleted ? import_log_delete(i->log, e->kv.key, e->kv.mod_revision, reterr)
                                       : import_log_put(i->log, &e->kv, reterr);
        }
        return r;
}

static int import_finish(struct transfer *t, int64_t revision, struct error *reterr) {
        struct import *i = t->sink_state;
        int r;

        r = transfer_each_lease(t, on_lease, i, reterr); /* those that no key has */
        if (r >= 0)
                r = import_log_advance(i->log, revision, reterr);
        if (r >= 0)
                r = import_flush(t, reterr);
        if (r >= 0)
                r = transfer_check_stopped(t, reterr);
        if (r < 0)
                return r;
        install_commit(i->install, import_log_seq(i->log), import_log_revision(i->log), on_answer);
        r = wait_for_answer(i, reterr);
        if (r < 0)
                return r;
        pthread_mutex_lock(&t->mutex);
        t->status.revision =
                import_log_revision(i->log); /* what was told of may be the source's, which others move on */
        pthread_mutex_unlock(&t->mutex);
        return 0;
}

static void import_close(struct transfer *t) {
        struct import *i = steal(t->sink_state);

        install_free(i->install);
        stream_piece_free(i->piece);
        import_log_free(i->log);
        buf_done(&i->key);
        free(i);
}

static const struct transfer_sink import_sink = {
        .open = import_open,
        .key = import_key,
        .read = import_read,
        .events = import_events,
        .flush = import_flush,
        .finish = import_finish,
        .close = import_close,
};

int import_start(const struct transfer_config *config, const struct import_target *target, struct transfer **ret,
        struct error *reterr) {
        cleanup(transfer_freep) struct transfer *t = NULL;
        struct import *i;
        int r;

        r = transfer_new(config, &import_sink, &t, reterr);
        if (r < 0)
                return r;
        i = new0(struct import);
        i->transfer = t;
        i->target = *target;
        t->sink_state = i;
        r = transfer_begin(t, reterr);
        if (r < 0)
                return r;
        *ret = steal(t);
        return 0;
}
