/*
 * Compaction. Its mark is a record like any other: every daemon prunes its index when it applies one, and from then on
 * answers "compacted" below the mark's revision. Deleting the dead records from the datastore comes after, in
 * bounded steps.
 *
 * A tombstone may only be deleted by a later mark than the one that named all it covers, or a load between the two would
 * raise the dead; and whoever appends a mark has first completed the deletions of the one before. Records of internal
 * kinds die likewise: at once what nobody needs any more, one mark later what speaks of another record's death.
 *
 * While a pin stands nothing is deleted, and a mark may be appended before the deletions of the one before are complete; it says so. Then
 * what each of them names is a round of its own, and the rounds are deleted one after the other, as if the later mark had waited. Only whoever
 * pins deletes first what the marks before the pin name, whose ever they are (pin.c).
 *
 * The keyspace's loop only; deletions run on a worker.
 */

#include <errno.h>

#include "base/log.h"
#include "keyspace/commit.h"

#define PRUNE_SLICE 4096
#define DELETE_STEP 1024
#define MOST_DELETED ((size_t)1 << 20) /* that are remembered, the newest */
#define DELETE_PATIENCE_NS (30 * NSEC_PER_SEC)
#define RETRY_NS NSEC_PER_SEC

struct compact_job {
        struct datastore_job job;
        struct keyspace *ks;
        struct stoke_keyspace name;
        struct stoke_compact compact;
        unsigned generation;
        uint64_t seqs[DELETE_STEP];
};

static void seq_list_add(struct seq_list *list, uint64_t seq) {
        if (list->n == list->capacity) {
                list->capacity = list->capacity ? list->capacity * 2 : 64;
                list->seqs = realloc(list->seqs, list->capacity * sizeof(*list->seqs));
                check(list->seqs);
        }
        list->seqs[list->n++] = seq;
}

static void seq_list_done(struct seq_list *list) {
        free(list->seqs);
        *list = (struct seq_list){};
}

static void seq_list_join(struct seq_list *to, struct seq_list *from) {
        for (size_t i = 0; i < from->n; i++)
                seq_list_add(to, from->seqs[i]);
        seq_list_done(from);
}

void compaction_add(struct keyspace *ks, uint64_t seq, bool is_tombstone) {
        seq_list_add(is_tombstone ? &ks->compaction.pending_later : &ks->compaction.pending, seq);
}

/* A copy that was made while they were being deleted has some of them; what was complete before it began is nowhere any more. */
void compaction_on_installed(struct keyspace *ks) {
        struct compaction *c = &ks->compaction;

        if (!ks->open || !c->deleted.n)
                return;
        c->rounds = realloc(c->rounds, (c->n_rounds + 1) * sizeof(*c->rounds));
        check(c->rounds);
        memmove(c->rounds + 1, c->rounds, c->n_rounds * sizeof(*c->rounds));
        c->n_rounds++;
        c->rounds[0] = c->deleted;
        c->rounds[0].mark = 0; /* before all others */
        c->deleted = (struct seq_list){};
}

/* What is dead by now goes before what the next mark names. */
static void begin_round(struct compaction *c) {
        if (!c->dead.n && !c->job)
                return;
        c->rounds = realloc(c->rounds, (c->n_rounds + 1) * sizeof(*c->rounds));
        check(c->rounds);
        c->rounds[c->n_rounds++] = c->dead;
        c->dead = (struct seq_list){};
}

static void drop_dead(struct compaction *c) {
        for (size_t i = 0; i < c->n_rounds; i++)
                seq_list_done(&c->rounds[i]);
        free(steal(c->rounds));
        c->n_rounds = 0;
        seq_list_done(&c->dead);
        seq_list_done(&c->deleted);
        c->generation++;
}

/* The list that is deleted from now. */
static struct seq_list *first_round(struct compaction *c) {
        while (c->n_rounds && !c->rounds[0].n && !c->job) {
                seq_list_done(&c->rounds[0]);
                seq_list_done(&c->deleted);
                c->n_rounds--;
                memmove(c->rounds, c->rounds + 1, c->n_rounds * sizeof(*c->rounds));
        }
        return c->n_rounds ? &c->rounds[0] : &c->dead;
}

void compaction_forget(struct keyspace *ks) {
        struct compaction *c = &ks->compaction;

        loop_timer_clear(&c->timer);
        loop_timer_clear(&c->retry);
        seq_list_done(&c->pending);
        seq_list_done(&c->pending_later);
        seq_list_done(&c->later);
        drop_dead(c);
        c->mark = 0;
        c->own = c->pruning = c->fenced = false;
}

void compaction_done(struct keyspace *ks) {
        check(!ks->compaction.job);
        compaction_forget(ks);
}

/* ---- pruning the index */

/* Drops the versions that no reader at or above the mark sees. What is left of a key that was deleted below the mark is
 * its tombstone, until its last item is passed. */
static void prune_entry(struct keyspace *ks, struct key_entry *e) {
        struct compaction *c = &ks->compaction;
        uint32_t n = 0;

        /* All but the newest of those that are not above the mark. */
        while (n < e->n_older &&
                (n + 1 < e->n_older ? e->older[n + 1].mod_revision : e->last.mod_revision) <= ks->compacted)
                n++;
        for (uint32_t i = 0; i < n; i++) {
                struct key_version *v = &e->older[i];

                seq_list_add(v->version ? &c->dead : &c->later, v->seq);
                values_drop(&ks->values, v->seq);
                verify_forget(ks, v->seq, hash_version(v));
                ks->bytes_log -= e->key_size + v->value_size;
                ks->n_versions--;
        }
        if (n == 0)
                return;
        e->n_older -= n;
        if (e->n_older == 0) {
                free(e->older);
                e->older = NULL;
        } else {
                /* key_entry_push() grows at powers of two: the array must be as large as that expects. */
                size_t capacity = 1;
                struct key_version *older;

                while (capacity < e->n_older)
                        capacity *= 2;
                older = xcalloc(capacity, sizeof(*older));
                memcpy(older, e->older + n, e->n_older * sizeof(*older));
                free(e->older);
                e->older = older;
        }
}

/* A tombstone that stands alone below the mark: the key is gone. Not the version at the mark itself, which a watch that
 * begins there must still see. */
static bool is_gone(const struct keyspace *ks, const struct history_item *item) {
        const struct key_entry *e = item->entry;

        return e->n_older == 0 && e->last.version == 0 && e->last.seq == item->seq && item->revision < ks->compacted;
}

static void prune(struct keyspace *ks, size_t n_most) {
        struct compaction *c = &ks->compaction;
        struct history *h = &ks->history;
        size_t n_drop = history_find(h, ks->compacted), n_look = history_find(h, ks->compacted + 1);
        size_t n = min_of(n_drop, n_most);

        for (size_t i = 0; i < n; i++) {
                struct history_item *item = history_at(h, i);
                struct key_entry *e = item->entry;

                prune_entry(ks, e);
                if (is_gone(ks, item)) {
                        seq_list_add(&c->later, e->last.seq);
                        verify_forget(ks, e->last.seq, hash_version(&e->last));
                        ks->bytes_log -= e->key_size;
                        ks->n_versions--;
                        values_unlink(e);
                        index_remove(&ks->index, e);
                }
        }
        if (n == n_drop) /* those at the mark stay, what they superseded does not */
                for (size_t i = n_drop; i < n_look; i++)
                        prune_entry(ks, history_at(h, i)->entry);
        history_drop(h, n);
        c->pruning = n < n_drop;
}

static int compare_seqs(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static void on_prune(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, compaction.timer);
        struct compaction *c = &ks->compaction;

        prune(ks, PRUNE_SLICE);
        memory_set(ks->memory, keyspace_bytes(ks), false);
        if (c->pruning) {
                loop_timer_set(ks->loop, &c->timer, loop_now_ns(ks->loop) + 1);
                return;
        }
        compaction_kick(ks);
        pins_look(ks);
}

void compaction_apply_mark(struct keyspace *ks, const struct stoke_record *r) {
        struct compaction *c = &ks->compaction;

        if (r->create_revision < ks->compacted) {
                compaction_add(ks, r->seq, false);
                return;
        }
        /* One mark's pruning is complete before the next is applied: what it leaves belongs to it. */
        while (c->pruning)
                prune(ks, SIZE_MAX);
        loop_timer_clear(&c->timer);

        /* Whoever appended this mark has completed the deletions of the one before, unless it says otherwise. Of a log that is loaded from
         * its beginning that is not known: it may be an installation's copy, taken while they were under way. */
        if (ks->open && r->version == 0)
                drop_dead(c);
        else
                begin_round(c);
        if (c->mark)
                seq_list_add(&c->dead, c->mark);
        seq_list_join(&c->dead, &c->later);
        seq_list_join(&c->dead, &c->pending);
        seq_list_join(&c->later, &c->pending_later);
        c->mark = c->dead.mark = r->seq;
        c->own = memcmp(r->origin.daemon, ks->daemon, sizeof(ks->daemon)) == 0;
        c->fenced = false;
        c->pruning = true;
        ks->compacted = r->create_revision;
        c->timer.on_time = on_prune;
        loop_timer_set(ks->loop, &c->timer, loop_now_ns(ks->loop) + 1);
        if (ks->open)
                watch_on_compacted(ks);
}

/* ---- deleting */

static int compact_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct compact_job *j = container_of(job, struct compact_job, job);

        return datastore_driver(job->ds)->compact(session, &j->name, &j->compact, call);
}

static void on_retry(struct loop_timer *timer) {
        compaction_kick(container_of(timer, struct keyspace, compaction.retry));
}

static void on_compacted(struct datastore_job *job) {
        struct compact_job *j = container_of(job, struct compact_job, job);
        struct keyspace *ks = j->ks;
        struct compaction *c = &ks->compaction;
        int r = job->result;

        keyspace_job_ended(ks);
        c->job = NULL;
        if (r == 0 && c->mark == j->compact.mark)
                c->fenced = true;
        if (c->deleted.n >= MOST_DELETED) { /* what a copy may have was deleted last */
                c->deleted.n -= MOST_DELETED / 2;
                memmove(c->deleted.seqs, c->deleted.seqs + MOST_DELETED / 2, c->deleted.n * sizeof(*c->deleted.seqs));
        }
        if (r == 0 && c->generation == j->generation)
                for (size_t i = 0; i < j->compact.n_seqs; i++)
                        seq_list_add(&c->deleted, j->seqs[i]);
        if (r != 0) {
                /* Named again: a deletion may be repeated. */
                for (size_t i = 0; i < j->compact.n_seqs && c->generation == j->generation; i++)
                        seq_list_add(c->n_rounds ? &c->rounds[0] : &c->dead, j->seqs[i]);
                log_warning("%s: compaction could not delete %zu records, it will be tried again: %s", ks->name,
                        j->compact.n_seqs,
                        job->reason[0]  ? job->reason
                                : r < 0 ? strerror(-r)
                                        : "");
                c->retry.on_time = on_retry;
                if (!ks->closing)
                        loop_timer_set(ks->loop, &c->retry, loop_now_ns(ks->loop) + RETRY_NS);
        }
        free(j);
        compaction_kick(ks);
        pins_look(ks);
        keyspace_check_closed(ks);
}

static void delete_some(struct keyspace *ks) {
        struct compaction *c = &ks->compaction;
        struct compact_job *j = new0(struct compact_job);
        struct seq_list *dead = first_round(c);
        size_t n = min_of(dead->n, (size_t)DELETE_STEP);

        memcpy(j->seqs, &dead->seqs[dead->n - n], n * sizeof(*j->seqs));
        dead->n -= n;
        j->generation = c->generation;
        qsort(j->seqs, n, sizeof(*j->seqs), compare_seqs);
        j->ks = ks;
        j->name = keyspace_stoke(ks);
        j->compact = (struct stoke_compact){
                .size = sizeof(j->compact),
                .mark = c->mark,
                .first = !c->fenced,
                .seqs = j->seqs,
                .n_seqs = n,
        };
        j->job = (struct datastore_job){
                .class = JOB_BULK,
                .keyspace = &j->name,
                .deadline_ns = clock_now_ns() + DELETE_PATIENCE_NS,
                .run = compact_run,
                .done = on_compacted,
        };
        c->job = j;
        keyspace_submit(ks, &j->job);
}

static bool is_busy(struct compaction *c) {
        return c->pruning || c->job || first_round(c)->n;
}

bool compaction_is_complete_below(struct keyspace *ks, uint64_t seq) {
        struct compaction *c = &ks->compaction;
        struct seq_list *first = first_round(c);

        /* The first has the lowest mark; a job's are of the first too. */
        return !c->job && !(c->pruning && c->mark < seq) && (!first->n || first->mark >= seq);
}

void compaction_kick(struct keyspace *ks) {
        struct compaction *c = &ks->compaction;
        uint64_t below = pins_wait_below(ks);
        struct keyspace_call *call;

        if (ks->closing || !ks->open || c->pruning || c->job ||
                (c->retry.position && (below || !keyspace_is_pinned(ks))))
                return;
        if (below && first_round(c)->n && first_round(c)->mark < below) {
                if (!keyspace_is_held(ks))
                        delete_some(ks);
                return;
        }
        if (first_round(c)->n && !keyspace_is_pinned(ks)) {
                /* Another daemon's mark is that daemon's to carry out, unless it is in our way. */
                if (!keyspace_is_held(ks) && (ks->exclusive || c->own || c->held.n || c->physical.n))
                        delete_some(ks);
                return;
        }
        if (!first_round(c)->n)
                seq_list_done(&c->dead);
        while ((call = call_list_take(&c->physical)))
                keyspace_call_end_later(call, KEYSPACE_OK);
        while ((call = call_list_take(&c->held)))
                call_list_add(&ks->queue, call);
        commit_kick(ks);
}

/* ---- the call */

static int evaluate(struct keyspace_call *call, struct batch *b) {
        struct compact_call *c = container_of(call, struct compact_call, call);
        struct keyspace *ks = b->ks;

        call->revision = b->revision;
        call->own.result = alarm_check_change(b);
        if (call->own.result != KEYSPACE_OK)
                return EVALUATED;
        if (c->revision_wanted > b->revision) {
                call->own.result = KEYSPACE_FUTURE_REVISION;
                return EVALUATED;
        }
        for (size_t i = 0; i < b->n_records; i++)
                if (b->records[i].kind == RECORD_MARK)
                        return EVALUATE_HOLD;
        if (c->revision_wanted < ks->compacted + !c->again) {
                call->own.result = KEYSPACE_COMPACTED;
                return EVALUATED;
        }
        if (is_busy(&ks->compaction) && (ks->compaction.pruning || ks->compaction.job || !keyspace_is_pinned(ks)))
                return EVALUATE_HOLD;
        /* Also where they are complete: what they deleted a moment ago may be in a copy that has begun since, and is to go there first. */
        batch_add(b, RECORD_MARK, b->revision, (struct bytes){}, NULL, c->revision_wanted,
                is_busy(&ks->compaction) || keyspace_is_pinned(ks), 0);
        call->own.result = KEYSPACE_OK;
        return EVALUATED;
}

/* Appended, and applied. A physical one is answered when the deletions are done. */
static void on_marked(struct keyspace_call *call, enum keyspace_result result) {
        struct compact_call *c = container_of(call, struct compact_call, call);
        struct keyspace *ks = c->own.keyspace;
        int64_t revision = call->revision;

        call->done = c->own.done;
        if (result != KEYSPACE_OK || !c->physical || ks->closing) {
                call->done(call, result);
                return;
        }
        if (!keyspace_enter(ks, call, NULL))
                return;
        call->revision = revision;
        call_list_add(&ks->compaction.physical, call);
        compaction_kick(ks);
}

void keyspace_compact(struct keyspace *ks, struct compact_call *c) {
        c->own.done = c->call.done;
        c->own.keyspace = ks;
        c->call.done = on_marked;
        keyspace_queue(ks, &c->call, evaluate);
}
