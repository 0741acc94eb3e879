/*
 * Reads the log: all of it when the keyspace is opened, its tail when others have appended or an outcome is unknown, and all of
 * it again where the tail begins below what was compacted. The driver visits records on a worker's thread (load_read.c),
 * which copies them in pieces; they are applied on the keyspace's loop, in slices.
 *
 * A driver may find at the end only that what it has visited is void. So a tail, and a log that is read again, are applied
 * when the driver is done. The first load, which nobody sees before it is complete, is applied as it comes, and thrown away if it
 * fails: the worker waits when it is PIECES_AHEAD ahead, so that opening takes hardly more memory than the index will.
 *
 * An index that grows while it is loaded grows into the budget of memory: where that is used up the load waits, whether others can be
 * closed for it, and is given up if not. What is kept until the driver is done counts as well.
 *
 * A load's position is the applied end, so none is begun while an append is under way: its records would be applied twice.
 */

#include "keyspace/load.h"

#include <errno.h>

#include "base/log.h"
#include "base/owner.h"
#include "keyspace/commit.h"

#define APPLY_SLICE 256 /* records */
#define LOAD_PATIENCE_NS (60 * NSEC_PER_SEC)
#define OPEN_PATIENCE_NS (600 * NSEC_PER_SEC)
#define REOPEN_NS (100 * NSEC_PER_MSEC)
#define LONGEST_REOPEN_NS (5 * NSEC_PER_SEC)
#define FOLLOW_NS NSEC_PER_SEC

void load_done(struct keyspace *ks) {
        loop_timer_clear(&ks->reopen);
        loop_timer_clear(&ks->follow);
        load_free(steal(ks->load));
}

/* ---- on the loop */

static void fail(struct keyspace *ks, struct load *l, int result);

static void on_grown(void *userdata) {
        struct keyspace *ks = userdata;

        /* What is under way at the head may have begun before it grew. */
        ks->grown = true;
        if (ks->open && !ks->closing && ks->head == HEAD_IDLE)
                load_tail(ks);
}

static void on_followed(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        (void)result;
}

/* The next whole second, for all keyspaces of all shards: so their questions gather in one. */
static void follow_again(struct keyspace *ks) {
        uint64_t now = loop_now_ns(ks->loop);

        loop_timer_set(ks->loop, &ks->follow, now - now % FOLLOW_NS + FOLLOW_NS);
}

/* A barrier notices what has grown without notice: for those who wait for it, watchers and leases. Whoever calls asks for himself. */
static void on_follow(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, follow);

        if (keyspace_is_held(ks)) { /* the unseal may come from another daemon */
                if (ks->open && ks->head == HEAD_IDLE)
                        load_tail(ks);
        } else if (!ks->follow_call.own.keyspace &&
                (ks->hub.n_watchers || ks->leases.table || ks->condition != KEYSPACE_SERVING)) {
                ks->follow_call = (struct keyspace_call){
                        .done = on_followed,
                        .deadline_ns = loop_now_ns(ks->loop) + 10 * NSEC_PER_SEC,
                        .own.internal = true,
                };
                keyspace_barrier(ks, &ks->follow_call);
        }
        follow_again(ks);
}

static void lose(struct keyspace *ks, const char *reason) {
        ks->head = HEAD_IDLE;
        keyspace_set_condition(ks, KEYSPACE_HISTORY_LOST, "%s", reason);
}

static void mark_opening(struct keyspace *ks, bool opening) {
        if (ks->config.opening)
                atomic_store_explicit(ks->config.opening, opening, memory_order_relaxed);
}

void load_follow(struct keyspace *ks) {
        if (ks->exclusive || ks->follow.on_time)
                return;
        ks->subscription = datastore_subscribe(ks->datastore, ks->name, ks->loop, on_grown, ks);
        ks->follow.on_time = on_follow;
        follow_again(ks);
}

void load_unfollow(struct keyspace *ks) {
        datastore_unsubscribe(steal(ks->subscription));
        loop_timer_clear(&ks->follow);
        ks->follow.on_time = NULL;
        ks->grown = false;
}

void load_opened(struct keyspace *ks) {
        load_follow(ks);
        ks->open = true;
        leases_restart(ks);
        idle_on_open(ks);
        auto_compaction_start(ks);
        ks->n_failed_opens = 0;
        keyspace_set_condition(ks, KEYSPACE_SERVING, "%s", "");
        ks->head = HEAD_IDLE;
        keyspace_on_open(ks);
        commit_on_loaded(ks);
}

/* Each record of the tail must be the next one. */
static bool in_order(struct keyspace *ks, struct load *l, const struct stoke_record *r) {
        if (r->seq <= ks->end.seq || (l->after.seq && r->seq != ks->end.seq + 1))
                return false;
        return r->seq <= INT64_MAX && r->revision >= 0;
}

/* Whether this record, the next one, belongs to the one applied last. */
static bool in_group(const struct load *l, const struct stoke_record *r) {
        return l->n_applied && (r->kind & STOKE_KIND_GROUPED) && (l->last_kind & STOKE_KIND_GROUPED) &&
                r->revision == l->last_revision;
}

/* Applies about n records, never half a revision that is there. Watchers are served before what they need can be pruned. */
static bool apply_some(struct keyspace *ks, struct load *l, size_t n) {
        struct piece *p;

        for (size_t i = 0; (p = l->pieces.first);) {
                struct stoke_record *r;

                if (l->at == p->n) {
                        load_drop_piece(l);
                        continue;
                }
                r = &p->records[l->at];
                if (i >= n && !in_group(l, r))
                        break;
                if (l->at == 0 && p->restart && l->n_applied) {
                        keyspace_forget(ks);
                        l->n_applied = 0;
                        l->met_known = l->met_other = false;
                }
                if (!in_order(ks, l, r))
                        return false;
                if (l->after.seq && memcmp(r->origin.daemon, ks->daemon, sizeof(ks->daemon)) != 0) {
                        ks->foreign = true;
                        ks->n_alone = ks->n_quiet = 0;
                }
                /* A batch lands right behind the end that it expected, or nowhere. */
                if (ks->batch && origin_equal(&r->origin, &ks->batch->records[0].origin))
                        ks->batch->landed = true;
                if (r->kind == RECORD_MARK && ks->open && l->after.seq)
                        watch_publish(ks);
                if (!l->after.seq && r->seq == ks->config.known.end.seq) {
                        l->met_known = end_equal(&(struct stoke_end){r->seq, r->origin}, &ks->config.known.end);
                        l->met_other = !l->met_known;
                }
                keyspace_apply(ks, r, p->blobs[l->at]);
                l->last_kind = r->kind;
                l->last_revision = r->revision;
                l->at++;
                l->n_applied++;
                i++;
        }
        if (ks->open && l->after.seq)
                watch_publish(ks);
        return true;
}

static void finish(struct keyspace *ks) {
        struct load *l = steal(ks->load);

        ks->loaded_nothing = l->n_applied == 0;
        load_free(l);
        if (ks->open && ks->moving.phase == SWITCH_LOADING)
                switch_on_loaded(ks);
        if (ks->open)
                commit_on_loaded(ks);
        else if (recover_is_due(ks))
                commit_recovery(ks);
        else
                load_opened(ks);
}

/* Whether a keyspace that was loaded again is the one that was known: what was alive is alive, or was overwritten or
 * deleted later, and nothing that was served has gone. */
static bool same_history(const struct keyspace *ks, const struct index *before, int64_t revision_before) {
        struct index_cursor cursor;
        struct key_entry *old, *e;

        if (ks->revision < revision_before)
                return false;
        index_seek(before, (struct bytes){}, &cursor);
        while ((old = index_next(&cursor))) {
                const struct key_version *v;

                if (!old->alive)
                        continue;
                e = index_find(&ks->index, key_entry_key(old));
                if (!e) {
                        if (ks->compacted <= old->last.mod_revision)
                                return false;
                        continue;
                }
                if (e->last.mod_revision < old->last.mod_revision)
                        return false;
                v = key_entry_at(e, old->last.mod_revision);
                if (v && v->mod_revision == old->last.mod_revision &&
                        (v->seq != old->last.seq || v->version != old->last.version))
                        return false;
        }
        return true;
}

/* Readers and watchers go on by revision, so nothing may see the index half built: all in one go. */
static void rebuild(struct keyspace *ks) {
        struct load *l = ks->load;
        struct index before;
        struct stoke_end end_before = ks->end;
        int64_t revision_before = ks->revision;
        bool same;

        leases_done(ks); /* they point into the index, and so does the cache */
        values_unlink_all(&ks->values);
        before = ks->index;
        ks->index = (struct index){};
        keyspace_forget(ks);
        ks->open = false; /* as when it is loaded first: nobody is told of anything before all is there */
        same = apply_some(ks, l, SIZE_MAX) && (l->other_log || same_history(ks, &before, revision_before));
        index_done(&before);
        if (!same) {
                cleanup(freep) char *reason = NULL;

                if (asprintf(&reason,
                            "the log known to record %llu, revision %lld, is now another one that ends at record %llu, revision %lld",
                            (unsigned long long)end_before.seq, (long long)revision_before,
                            (unsigned long long)ks->end.seq, (long long)ks->revision) < 0)
                        reason = NULL;
                load_free(steal(ks->load));
                lose(ks, reason ? reason : "forked");
                switch_fail(ks, -ESTALE);
                return;
        }
        ks->open = true;
        ks->foreign = true;
        /* It may have landed and been compacted away: nobody can tell any more. In another log it is evaluated anew, whatever became of it before: if
         * it had landed it is void there, as all that the log left had and this one has not. */
        if (ks->batch && !ks->batch->landed && (!l->other_log || ks->batch->moves))
                commit_give_up(ks, KEYSPACE_UNAVAILABLE);
        watch_on_rebuilt(ks);
        finish(ks);
}

/* The job is done, and its outcome not 0, or all is applied. */
static void conclude(struct keyspace *ks, struct load *l) {
        cleanup(freep) char *reason = NULL;
        int r = l->job.result;

        if (ks->closing) {
                load_free(steal(ks->load));
                keyspace_check_closed(ks);
                return;
        }
        if (l->refused) {
                load_free(steal(ks->load));
                idle_refuse(ks, keyspace_bytes(ks));
                return;
        }
        if (l->as_it_comes && (l->given_up || l->broken || l->damage[0] || r != 0)) {
                keyspace_forget(ks);
                memory_set(ks->memory, 0, true);
        }
        if (switch_waits(ks) && (l->given_up || l->broken || l->damage[0] || r != 0)) {
                /* Whatever it is here, it goes on elsewhere. */
                load_free(steal(ks->load));
                ks->head = HEAD_IDLE;
                switch_kick(ks);
                return;
        }
        if (l->broken || l->damage[0]) {
                reason = strdup(l->broken ? l->broken : l->damage);
                load_free(steal(ks->load));
                lose(ks, reason ? reason : "damaged");
                switch_fail(ks, -ESTALE);
                return;
        }
        if (r != 0) {
                fail(ks, l, r);
                return;
        }
        ks->limits = l->limits;
        if (!end_equal(&l->end, &ks->end)) {
                load_free(steal(ks->load));
                lose(ks, "the log does not end as the datastore says");
                switch_fail(ks, -ESTALE);
                return;
        }
        if (!ks->open)
                reason = recover_contradiction(ks, l->met_known, l->met_other);
        if (reason) {
                load_free(steal(ks->load));
                lose(ks, reason);
                return;
        }
        finish(ks);
}

/* One slice, if there is something to apply. */
static void on_slice(struct loop_task *task) {
        struct load *l = container_of(task, struct load, slice);
        struct keyspace *ks = l->ks;

        if (l->waits && !ks->closing)
                return;
        if (ks->closing || l->broken || l->refused || l->given_up)
                load_stop(l);
        else if (!apply_some(ks, l, APPLY_SLICE)) {
                if (!l->broken)
                        l->broken = "the log's records are not in order";
                load_stop(l);
        }
        if (l->as_it_comes) {
                memory_set(ks->memory, keyspace_bytes(ks), false);
                if (!l->refused && !l->broken && !l->given_up && !ks->closing && !memory_fits(ks->memory)) {
                        l->waits = true;
                        memory_wait(ks->memory,
                                keyspace_bytes(ks) < ks->idle.needs && ks->idle.needs > memory_most(ks->config.memory));
                        return;
                }
        }
        if (l->pieces.first)
                loop_slice(ks->loop, &l->slice);
        else if (l->job_done)
                conclude(ks, l);
}

static void on_handed(struct loop_task *task) {
        struct load *l = container_of(task, struct load, task);

        pthread_mutex_lock(&l->mutex);
        l->posted = false;
        pthread_mutex_unlock(&l->mutex);
        load_take_pieces(l);
        loop_slice(l->ks->loop, &l->slice);
}

/* Posted behind whatever the worker handed over. */
static void on_loaded(struct datastore_job *job) {
        struct load *l = container_of(job, struct load, job);
        struct keyspace *ks = l->ks;

        keyspace_job_ended(ks);
        l->job_done = true;
        if (l->acquired)
                ks->acquired = true;
        mark_opening(ks, false);
        if (job->result != 0 || l->damage[0] || ks->closing) {
                l->waits = false;
                load_stop(l);
                conclude(ks, l);
                return;
        }
        load_take_pieces(l);
        if (ks->open && l->after.seq == 0) {
                ks->limits = l->limits;
                rebuild(ks);
        } else
                on_slice(&l->slice);
}

void load_on_room(struct keyspace *ks, bool granted) {
        struct load *l = ks->load;

        if (!l || !l->waits) {
                memory_done(ks->memory);
                return;
        }
        l->waits = false;
        l->refused = !granted;
        loop_slice(ks->loop, &l->slice);
}

void load_on_closing(struct keyspace *ks) {
        if (ks->load && ks->load->waits)
                loop_slice(ks->loop, &ks->load->slice);
}

static void submit(struct keyspace *ks, bool all) {
        struct load *l = load_new(ks);

        check(!ks->load);
        l->name = keyspace_stoke(ks);
        l->after = all ? (struct stoke_end){} : ks->end;
        l->limits = ks->limits;
        l->acquire = ks->exclusive && !ks->acquired;
        l->anew = all || ks->moving.phase == SWITCH_LOADING;
        l->other_log = all && ks->moving.phase == SWITCH_LOADING && ks->moving.to.other_log;
        l->with_values = !all;
        l->as_it_comes = all && !ks->open;
        l->slice.run = on_slice;
        l->task.run = on_handed;
        l->task.owner = owner_get(); /* it is posted by the worker */
        l->job = (struct datastore_job){
                .class = all ? JOB_BULK : JOB_READ,
                .keyspace = &l->name,
                .deadline_ns = clock_now_ns() + (all ? OPEN_PATIENCE_NS : LOAD_PATIENCE_NS),
                .run = load_read,
                .done = on_loaded,
        };
        if (l->as_it_comes) {
                mark_opening(ks, true);
                alarms_done(ks); /* those that were known before it was closed */
        }
        ks->load = l;
        ks->head = HEAD_LOADING;
        ks->reload = false;
        ks->grown = false;
        keyspace_submit_now(ks, &l->job);
}

static void on_reopen(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, reopen);

        if (!ks->open && !ks->load && !ks->closing && !switch_waits(ks))
                submit(ks, true);
}

void load_again(struct keyspace *ks) {
        uint64_t pause = min_of(REOPEN_NS << min_of(ks->n_failed_opens, 6u), LONGEST_REOPEN_NS);

        ks->head = HEAD_IDLE;
        ks->n_failed_opens++;
        ks->reopen.on_time = on_reopen;
        loop_timer_set(ks->loop, &ks->reopen, loop_now_ns(ks->loop) + pause);
}

static void fail(struct keyspace *ks, struct load *l, int result) {
        cleanup(freep) char *reason = strdup(l->job.reason[0] ? l->job.reason : result < 0 ? strerror(-result) : "");
        bool tail = l->after.seq != 0;

        load_free(steal(ks->load));
        if (result == STOKE_COMPACTED && tail) {
                submit(ks, true);
                return;
        }
        if (result == STOKE_MISSING) {
                ks->head = HEAD_IDLE;
                keyspace_set_condition(ks, KEYSPACE_DROPPED, "the datastore has no keyspace of this incarnation");
                switch_fail(ks, -ENOENT);
                return;
        }
        if (result == STOKE_FORKED || result == STOKE_COMPACTED) {
                recover_lose_forked(ks);
                switch_fail(ks, -ESTALE);
                return;
        }

        keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s", reason ? reason : "");
        if (ks->open) {
                ks->reload = true;
                commit_on_load_failed(ks);
                return;
        }
        load_again(ks);
}

void load_tail(struct keyspace *ks) {
        if (ks->closing || ks->load || !ks->open)
                return;
        if (switch_waits(ks))
                ks->head = HEAD_IDLE; /* what is at the target will do */
        else
                submit(ks, ks->moving.phase == SWITCH_LOADING && ks->moving.to.other_log);
}

void load_at_target(struct keyspace *ks) {
        if (!ks->load)
                submit(ks, ks->moving.to.other_log);
}

void load_give_up(struct keyspace *ks) {
        struct load *l = ks->load;

        if (!l || !l->as_it_comes || l->given_up)
                return;
        l->given_up = true;
        l->waits = false;
        load_stop(l);
        loop_slice(ks->loop, &l->slice);
}

void load_open(struct keyspace *ks) {
        if (ks->open || ks->load || ks->closing || keyspace_is_over(ks) || ks->condition == KEYSPACE_QUARANTINED ||
                switch_waits(ks))
                return;
        if (ks->idle.phase != IDLE_NOT)
                return; /* it is being closed, and opened afterwards */
        if (ks->reopen.position)
                return; /* it failed a moment ago */
        if (ks->condition == KEYSPACE_CLOSED || ks->condition == KEYSPACE_NO_MEMORY)
                keyspace_set_condition(ks, KEYSPACE_OPENING, "%s", "");
        submit(ks, true);
}
