/*
 * Reads the log: all of it when the keyspace is opened, its tail when others have appended or an outcome is unknown, and all of
 * it again where the tail begins below what was compacted. The driver visits records on a worker's thread, which copies
 * them; they are checked there and applied on the keyspace's loop.
 *
 * A load's position is the applied end, so none is begun while an append is under way: its records would be applied twice.
 */

#include <errno.h>

#include "base/log.h"
#include "keyspace/commit.h"

#define APPLY_SLICE 8192
#define LOAD_PATIENCE_NS (60 * NSEC_PER_SEC)
#define OPEN_PATIENCE_NS (600 * NSEC_PER_SEC)
#define REOPEN_NS (100 * NSEC_PER_MSEC)
#define LONGEST_REOPEN_NS (5 * NSEC_PER_SEC)
#define FOLLOW_NS NSEC_PER_SEC
#define MAX_ROUNDS 16

struct load {
        struct datastore_job job;
        struct keyspace *ks;
        struct stoke_keyspace name;
        struct stoke_end after; /* seq 0: all */
        bool acquire, with_values;

        /* The worker's, until the job is done. */
        struct arena arena;
        struct stoke_record *records; /* owned; keys in the arena */
        struct blob **blobs;          /* owned, a reference each; NULL: without */
        size_t n_records, capacity;
        struct stoke_limits limits;
        struct stoke_end end;
        uint64_t end_at_start; /* a mark beyond it: begun again */
        bool again, acquired;
        char damage[160];

        /* The loop's. */
        size_t n_applied;
        struct loop_timer timer;
};

static void load_clear(struct load *l) {
        for (size_t i = 0; i < l->n_records; i++)
                blob_unref(l->blobs[i]);
        free(l->records);
        free(l->blobs);
        l->records = NULL;
        l->blobs = NULL;
        l->n_records = l->capacity = 0;
        arena_done(&l->arena);
}

static void load_free(struct load *l) {
        if (!l)
                return;
        loop_timer_clear(&l->timer);
        load_clear(l);
        free(l);
}

void load_done(struct keyspace *ks) {
        loop_timer_clear(&ks->reopen);
        loop_timer_clear(&ks->follow);
        load_free(steal(ks->load));
}

/* ---- on the worker */

static int visit_end(void *userdata, size_t index, const struct stoke_end *end) {
        struct load *l = userdata;

        (void)index;
        l->end_at_start = end ? end->seq : 0;
        return 0;
}

static int visit_record(void *userdata, const struct stoke_record *record) {
        struct load *l = userdata;
        struct stoke_record *r;

        if (l->after.seq == 0 && record->kind == RECORD_MARK && l->end_at_start && record->seq > l->end_at_start) {
                l->again = true;
                return 1;
        }
        if (l->n_records == l->capacity) {
                size_t capacity = l->capacity ? l->capacity * 2 : 64;
                struct stoke_record *records = realloc(l->records, capacity * sizeof(*records));
                struct blob **blobs;

                if (!records)
                        return -ENOMEM;
                l->records = records;
                blobs = realloc(l->blobs, capacity * sizeof(struct blob *));
                if (!blobs)
                        return -ENOMEM;
                l->blobs = blobs;
                l->capacity = capacity;
        }
        if (record->value_size > UINT32_MAX || record->key_size > UINT32_MAX) {
                (void)snprintf(
                        l->damage, sizeof(l->damage), "record %llu is too large", (unsigned long long)record->seq);
                return 1;
        }
        r = &l->records[l->n_records];
        *r = *record;
        r->key = arena_copy(&l->arena, record->key, record->key_size);
        if (!r->key)
                return -ENOMEM;
        l->blobs[l->n_records] = NULL;
        if (record->value || record->value_size == 0) {
                if (record_hash(record) != record->hash) {
                        (void)snprintf(l->damage, sizeof(l->damage), "record %llu does not have its hash",
                                (unsigned long long)record->seq);
                        return 1;
                }
                if (l->with_values && record->kind == RECORD_PUT) {
                        l->blobs[l->n_records] = blob_copy(record->value, record->value_size);
                        if (!l->blobs[l->n_records])
                                return -ENOMEM;
                }
        }
        r->value = NULL;
        l->n_records++;
        return 0;
}

static int load_run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct load *l = container_of(job, struct load, job);
        const struct stoke_driver *driver = datastore_driver(job->ds);
        int r;

        if (l->acquire && !l->acquired) {
                r = driver->acquire(session, &l->name, call);
                if (r != 0)
                        return r;
                l->acquired = true;
        }
        if (l->after.seq == 0 && driver->server_limits) {
                r = driver->server_limits(session, &l->name, call, &l->limits);
                if (r != 0)
                        return r;
        }
        for (unsigned round = 0; round < MAX_ROUNDS; round++) {
                load_clear(l);
                l->again = false;
                l->end_at_start = 0;
                if (l->after.seq == 0 && !(driver->capabilities & STOKE_EXCLUSIVE)) {
                        r = driver->ends(session, &l->name, 1, call, visit_end, l);
                        if (r != 0)
                                return r;
                        if (!l->end_at_start)
                                return STOKE_MISSING;
                }
                r = driver->load(session, &l->name, &l->after, l->with_values, call, visit_record, l, &l->end);
                if (r != STOKE_STOPPED || !l->again)
                        return r;
        }
        (void)snprintf(
                call->reason, call->reason_size, "the log was compacted while it was read, %d times", MAX_ROUNDS);
        return -EAGAIN;
}

/* ---- on the loop */

static void fail(struct keyspace *ks, struct load *l, int result);

static void on_grown(void *userdata) {
        struct keyspace *ks = userdata;

        if (ks->open && !ks->closing && ks->head == HEAD_IDLE)
                load_tail(ks);
}

static void on_followed(struct keyspace_call *call, enum keyspace_result result) {
        (void)call;
        (void)result;
}

/* A barrier notices what has grown without notice. */
static void on_follow(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, follow);

        if (!ks->follow_call.own.keyspace) {
                ks->follow_call = (struct keyspace_call){
                        .done = on_followed,
                        .deadline_ns = loop_now_ns(ks->loop) + 10 * NSEC_PER_SEC,
                };
                keyspace_barrier(ks, &ks->follow_call);
        }
        loop_timer_set(ks->loop, &ks->follow, loop_now_ns(ks->loop) + FOLLOW_NS);
}

static void opened(struct keyspace *ks) {
        if (!ks->exclusive && !ks->follow.on_time) {
                ks->subscription = datastore_subscribe(ks->datastore, ks->name, ks->loop, on_grown, ks);
                ks->follow.on_time = on_follow;
                loop_timer_set(ks->loop, &ks->follow, loop_now_ns(ks->loop) + FOLLOW_NS);
        }
        ks->open = true;
        auto_compaction_start(ks);
        ks->n_failed_opens = 0;
        keyspace_set_condition(ks, KEYSPACE_SERVING, "%s", "");
        ks->head = HEAD_IDLE;
        keyspace_on_open(ks);
        commit_on_loaded(ks);
}

static void lose(struct keyspace *ks, const char *reason) {
        ks->head = HEAD_IDLE;
        keyspace_set_condition(ks, KEYSPACE_HISTORY_LOST, "%s", reason);
}

/* Each record of the tail must be the next one. */
static bool in_order(struct keyspace *ks, struct load *l, const struct stoke_record *r) {
        if (r->seq <= ks->end.seq || (l->after.seq && r->seq != ks->end.seq + 1))
                return false;
        return r->seq <= INT64_MAX && r->revision >= 0;
}

/* Whether the next record belongs to the one applied last. */
static bool in_group(const struct load *l) {
        const struct stoke_record *r = &l->records[l->n_applied];

        return l->n_applied && (r->kind & STOKE_KIND_GROUPED) && (r[-1].kind & STOKE_KIND_GROUPED) &&
                r->revision == r[-1].revision;
}

/* Applies about n records, never half a revision. Watchers are served before what they need can be pruned. */
static bool apply_some(struct keyspace *ks, struct load *l, size_t n) {
        for (size_t i = 0; l->n_applied < l->n_records && (i < n || in_group(l)); i++, l->n_applied++) {
                struct stoke_record *r = &l->records[l->n_applied];

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
                keyspace_apply(ks, r, l->blobs[l->n_applied]);
        }
        if (ks->open && l->after.seq)
                watch_publish(ks);
        return true;
}

static void finish(struct keyspace *ks) {
        struct load *l = steal(ks->load);

        ks->loaded_nothing = l->n_records == 0;
        load_free(l);
        if (ks->open)
                commit_on_loaded(ks);
        else
                opened(ks);
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
        same = apply_some(ks, l, SIZE_MAX) && same_history(ks, &before, revision_before);
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
                return;
        }
        ks->open = true;
        ks->foreign = true;
        /* It may have landed and been compacted away: nobody can tell any more. */
        if (ks->batch && !ks->batch->landed)
                commit_give_up(ks, KEYSPACE_UNAVAILABLE);
        watch_on_rebuilt(ks);
        finish(ks);
}

static void on_apply(struct loop_timer *timer) {
        struct load *l = container_of(timer, struct load, timer);
        struct keyspace *ks = l->ks;

        if (ks->closing) {
                load_free(steal(ks->load));
                keyspace_check_closed(ks);
                return;
        }
        if (!apply_some(ks, l, APPLY_SLICE)) {
                load_free(steal(ks->load));
                lose(ks, "the log's records are not in order");
                return;
        }
        if (l->n_applied < l->n_records) {
                loop_timer_set(ks->loop, &l->timer, loop_now_ns(ks->loop) + 1);
                return;
        }
        if (!end_equal(&l->end, &ks->end)) {
                load_free(steal(ks->load));
                lose(ks, "the log does not end as the datastore says");
                return;
        }
        finish(ks);
}

static void on_loaded(struct datastore_job *job) {
        struct load *l = container_of(job, struct load, job);
        struct keyspace *ks = l->ks;
        int r = job->result;

        keyspace_job_ended(ks);
        if (l->acquired)
                ks->acquired = true;
        if (r == 0)
                ks->limits = l->limits;
        if (ks->closing) {
                load_free(steal(ks->load));
                keyspace_check_closed(ks);
                return;
        }
        if (l->damage[0]) {
                cleanup(freep) char *reason = strdup(l->damage);

                load_free(steal(ks->load));
                lose(ks, reason ? reason : "damaged");
                return;
        }
        if (r != 0) {
                fail(ks, l, r);
                return;
        }
        if (ks->open && l->after.seq == 0)
                rebuild(ks);
        else
                on_apply(&l->timer);
}

static void submit(struct keyspace *ks, bool all) {
        struct load *l = new0(struct load);

        check(!ks->load);
        l->ks = ks;
        l->name = keyspace_stoke(ks);
        l->after = all ? (struct stoke_end){} : ks->end;
        l->limits = ks->limits;
        l->acquire = ks->exclusive && !ks->acquired;
        l->with_values = !all;
        l->timer.on_time = on_apply;
        l->job = (struct datastore_job){
                .class = all ? JOB_BULK : JOB_READ,
                .keyspace = &l->name,
                .deadline_ns = clock_now_ns() + (all ? OPEN_PATIENCE_NS : LOAD_PATIENCE_NS),
                .run = load_run,
                .done = on_loaded,
        };
        ks->load = l;
        ks->head = HEAD_LOADING;
        ks->reload = false;
        keyspace_submit(ks, &l->job);
}

static void on_reopen(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, reopen);

        if (!ks->open && !ks->load && !ks->closing)
                submit(ks, true);
}

static void fail(struct keyspace *ks, struct load *l, int result) {
        cleanup(freep) char *reason = strdup(l->job.reason[0] ? l->job.reason : result < 0 ? strerror(-result) : "");
        bool tail = l->after.seq != 0;
        uint64_t pause;

        load_free(steal(ks->load));
        if (result == STOKE_COMPACTED && tail) {
                submit(ks, true);
                return;
        }
        if (result == STOKE_MISSING) {
                lose(ks, "the datastore has no keyspace of this incarnation");
                return;
        }
        if (result == STOKE_FORKED || result == STOKE_COMPACTED) {
                lose(ks,
                        "the datastore's log is not the one that this daemon knew: a replica that lagged, or a restored backup");
                return;
        }

        keyspace_set_condition(ks, KEYSPACE_UNREACHABLE, "%s", reason ? reason : "");
        if (ks->open) {
                ks->reload = true;
                commit_on_load_failed(ks);
                return;
        }
        ks->head = HEAD_IDLE;
        pause = min_of(REOPEN_NS << min_of(ks->n_failed_opens, 6u), LONGEST_REOPEN_NS);
        ks->n_failed_opens++;
        ks->reopen.on_time = on_reopen;
        loop_timer_set(ks->loop, &ks->reopen, loop_now_ns(ks->loop) + pause);
}

void load_tail(struct keyspace *ks) {
        if (ks->closing || ks->load || !ks->open)
                return;
        submit(ks, false);
}

void load_open(struct keyspace *ks) {
        if (ks->open || ks->load || ks->closing || ks->condition == KEYSPACE_HISTORY_LOST)
                return;
        if (ks->reopen.position)
                return; /* it failed a moment ago */
        if (ks->condition == KEYSPACE_CLOSED)
                keyspace_set_condition(ks, KEYSPACE_OPENING, "%s", "");
        submit(ks, true);
}
