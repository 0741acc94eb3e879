/*
 * Verifying a copy: the records of an installation come back in a stream without values, and each is looked up in the index. What is found there
 * goes into a sum, and leaves it when it is pruned from the index; when all up to the keyspace's last change was read, the sum is the
 * keyspace's own or something is missing. What is not found in the index is dead, and of no interest. The keyspace's loop only.
 */

#include "keyspace/verify.h"

#include <errno.h>
#include <stdarg.h>

#include "keyspace/state.h"
#include "keyspace/stream.h"

#define SLICE 1024 /* records */
#define PATIENCE_NS (5 * NSEC_PER_SEC)

struct verify {
        struct verify_config config;
        struct keyspace *ks;
        struct stream *stream;
        struct stream_piece *piece; /* owned: being compared */
        size_t at;
        uint64_t seq, wanted; /* compared up to; to be */
        uint64_t sum, n;      /* of what was found and still stands */
        bool is_void;
        int result;
        char reason[256];
        struct loop_task slice, task;
};

static void fail(struct verify *v, int result, const char *format, ...) printf_like(3, 4);
static void fail(struct verify *v, int result, const char *format, ...) {
        va_list args;

        if (v->result)
                return;
        v->result = result;
        va_start(args, format);
        (void)vsnprintf(v->reason, sizeof(v->reason), format, args);
        va_end(args);
}

static void on_task(struct loop_task *task) {
        struct verify *v = container_of(task, struct verify, task);

        v->config.on_done(v->config.userdata, v->result, v->reason);
}

static void end(struct verify *v) {
        struct keyspace *ks = v->ks;
        uint64_t n = ks->n_versions + HASH_COUNT(ks->leases.table);

        stream_free(steal(v->stream));
        stream_piece_free(steal(v->piece));
        if (v->is_void)
                fail(v, -ESTALE, "the keyspace was loaded anew meanwhile");
        /* Behind a seal there may be unseals of others; what is below the last change is only a part. */
        if (v->result == 0 && v->wanted >= ks->changed && (v->sum != ks->sum || v->n != n))
                fail(v, -EUCLEAN, "the copy has %llu of the %llu versions and leases that are known%s",
                        (unsigned long long)v->n, (unsigned long long)n, v->n == n ? ", and others" : "");
        loop_defer(ks->loop, &v->task);
}

/* Of what is still to come is said nothing. */
void verify_forget(struct keyspace *ks, uint64_t seq, uint64_t hash) {
        struct verify *v = ks->verify;

        ks->sum -= hash;
        if (v && seq <= v->seq) {
                v->sum -= hash;
                v->n--;
        }
}

void verify_void(struct keyspace *ks) {
        if (ks->verify)
                ks->verify->is_void = true;
}

static void compare(struct verify *v, const struct stoke_record *r) {
        struct keyspace *ks = v->ks;
        const struct key_version *version = NULL;
        const struct key_entry *e;
        const struct lease *l;

        switch ((enum record_kind)r->kind) {
        case RECORD_PUT:
        case RECORD_TOMBSTONE:
                e = index_find(&ks->index, bytes_of(r->key, r->key_size));
                version = e ? key_entry_by_seq(e, r->seq) : NULL;
                if (!version)
                        break;
                if (version->hash != (uint32_t)(r->hash ^ r->hash >> 32) || version->mod_revision != r->revision)
                        fail(v, -EUCLEAN, "record %llu of the copy is not the one that is known",
                                (unsigned long long)r->seq);
                v->sum += hash_version(version);
                v->n++;
                break;
        case RECORD_LEASE:
                l = lease_find(ks, r->lease);
                if (!l || l->seq != r->seq)
                        break;
                v->sum += hash_lease(r->seq);
                v->n++;
                break;
        default:
                break;
        }
        v->seq = r->seq;
}

static void on_slice(struct loop_task *task) {
        struct verify *v = container_of(task, struct verify, slice);
        struct stream_status status;
        int r;

        if (!v->stream)
                return;
        if (!v->piece) {
                r = stream_next(v->stream, &v->piece);
                if (r == STREAM_WAIT)
                        return;
                if (r != STREAM_PIECE) {
                        stream_get_status(v->stream, &status);
                        if (r == STREAM_END)
                                v->seq = v->wanted;
                        else
                                fail(v, r, "%s", status.reason);
                        end(v);
                        return;
                }
                v->at = 0;
        }
        for (size_t n = 0; n < SLICE && v->at < v->piece->n; n++)
                compare(v, &v->piece->records[v->at++]);
        if (v->at == v->piece->n)
                stream_piece_free(steal(v->piece));
        if (v->result || v->is_void)
                end(v);
        else
                loop_slice(v->ks->loop, &v->slice);
}

static void on_ready(void *userdata) {
        struct verify *v = userdata;

        loop_slice(v->ks->loop, &v->slice);
}

int verify_new(const struct verify_config *config, struct verify **ret) {
        struct verify *v;

        if (config->keyspace->verify)
                return -EBUSY;
        v = new0(struct verify);
        v->config = *config;
        v->ks = config->keyspace;
        v->slice.run = on_slice;
        v->task.run = on_task;
        v->ks->verify = v;
        *ret = v;
        return 0;
}

void verify_free(struct verify *v) {
        if (!v)
                return;
        v->ks->verify = NULL;
        loop_unslice(v->ks->loop, &v->slice);
        loop_undefer(v->ks->loop, &v->task);
        stream_free(v->stream);
        stream_piece_free(v->piece);
        free(v);
}

void verify_up_to(struct verify *v, uint64_t seq) {
        struct stream_config c = {
                .datastore = v->config.datastore,
                .name = v->ks->name,
                .loop = v->ks->loop,
                .after = v->seq,
                .upto = seq,
                .pinned = true,
                .patience_ns = PATIENCE_NS,
                .on_ready = on_ready,
                .userdata = v,
        };
        int r;

        check(!v->stream);
        v->wanted = seq;
        if (!v->ks->open || v->is_void)
                fail(v, -ESTALE, "the keyspace is not open, or was loaded anew");
        else if (seq > v->ks->end.seq)
                fail(v, -EINVAL, "record %llu is not known yet", (unsigned long long)seq);
        if (v->result || seq <= v->seq) {
                end(v);
                return;
        }
        memcpy(c.incarnation, v->config.incarnation, sizeof(c.incarnation));
        memcpy(c.installation, v->config.installation, sizeof(c.installation));
        r = stream_new(&c, &v->stream);
        if (r < 0) {
                fail(v, r, "%s", strerror(-r));
                end(v);
        }
}

uint64_t verify_seq(const struct verify *v) {
        return v->seq;
}
