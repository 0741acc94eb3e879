/*
 * A keyspace that nobody uses is closed: its memory is given back and the log released, and the next call opens it again. It is
 * done when no client has called for the time that the settings say, no watch stands and nothing is under way; or before that, when
 * memory is needed elsewhere. What was built is taken down in slices, since a large index takes as long to free as to build.
 * Calls that come meanwhile wait for the opening that follows.
 *
 * Leases go on: what each had left is remembered, by this daemon's clock. Loaded again, those that nobody else has renewed meanwhile
 * keep their time, and a timer opens the keyspace when the first may be over. One that is due before long keeps it open. The end of the log
 * and the revision are remembered as well: a log that is shorter or another one when it is opened again was replaced behind our back.
 *
 * The keyspace's loop only.
 */

#include "base/log.h"
#include "base/owner.h"
#include "keyspace/state.h"

#define SLICE 1024                        /* entries, values or lease items freed at a time */
#define LEASE_SOON_NS (30 * NSEC_PER_SEC) /* for this it is not worth closing, however much memory is wanted */
#define SHORTEST_LOOK_NS (20 * NSEC_PER_MSEC)
#define LONGEST_LOOK_NS (30 * NSEC_PER_SEC)
#define REFUSED_NS NSEC_PER_SEC
#define LONGEST_REFUSED_NS (60 * NSEC_PER_SEC)

/* ---- whether it may be closed */

bool keyspace_is_quiet(const struct keyspace *ks) {
        const struct barrier *b = &ks->barrier;

        return ks->open && !ks->closing && ks->condition == KEYSPACE_SERVING && ks->head == HEAD_IDLE && !ks->load &&
                !ks->reload && !ks->batch && !ks->closer && !ks->n_jobs && !ks->hub.n_watchers && !ks->queue.n &&
                !ks->fetching.n && !ks->ranging.n && !ks->late.n && !ks->hashing.n && !b->waiting.n && !b->asked.n &&
                !b->loading.n && !b->free.n && !keyspace_is_held(ks) && !ks->moving.calls.n &&
                TAILQ_EMPTY(&ks->moving.own) && !ks->compaction.held.n && !ks->compaction.physical.n &&
                !ks->compaction.pruning && !ks->automatic.calling && !ks->leases.calling &&
                TAILQ_EMPTY(&ks->leases.expired);
}

/* UINT64_MAX: no lease. */
static uint64_t next_expiry(const struct keyspace *ks) {
        uint64_t next = UINT64_MAX;
        struct lease *l, *tmp;

        HASH_ITER(hh, ks->leases.table, l, tmp)
                next = min_of(next, l->expires_ns);
        return next;
}

/* How often it is looked whether it can be closed, while something stands against it. */
static uint64_t look_ns(const struct keyspace *ks) {
        return min_of(max_of(ks->config.idle_close_ns / 8, SHORTEST_LOOK_NS), LONGEST_LOOK_NS);
}

/* ---- taking down */

static int compare_leases(const void *a, const void *b) {
        const struct past_lease *x = a, *y = b;

        return (x->id > y->id) - (x->id < y->id);
}

/* Only of one that was open: one that was refused while it was being opened has learnt nothing. */
static void remember(struct keyspace *ks) {
        struct past *past = &ks->past;
        struct lease *l, *tmp;
        size_t n = 0;

        free(past->leases);
        ks->config.known = (struct keyspace_known){ks->end, ks->revision};
        *past = (struct past){
                .n_leases = HASH_COUNT(ks->leases.table),
                .expires_ns = next_expiry(ks),
        };
        past->leases = xcalloc(past->n_leases, sizeof(*past->leases));
        HASH_ITER(hh, ks->leases.table, l, tmp)
                past->leases[n++] = (struct past_lease){.id = l->id, .expires_ns = l->expires_ns};
        if (n)
                qsort(past->leases, n, sizeof(*past->leases), compare_leases);
}

uint64_t past_lease_expires(const struct keyspace *ks, const struct lease *l) {
        const struct keyspace_known *known = &ks->config.known;
        const struct past *past = &ks->past;
        struct past_lease wanted = {.id = l->id}, *found;

        /* What renewed it may have been deleted under a later mark than we knew. */
        if (!past->n_leases || ks->compaction.mark > known->end.seq || l->renewed_seq > known->end.seq)
                return 0;
        found = bsearch(&wanted, past->leases, past->n_leases, sizeof(wanted), compare_leases);
        return found ? found->expires_ns : 0;
}

/* The next of what is left; false: nothing is. */
static bool free_some(struct keyspace *ks) {
        if (!values_drop_some(&ks->values, SLICE))
                return true;
        if (!leases_drop_some(ks, SLICE))
                return true;
        return !index_done_some(&ks->index, SLICE);
}

static void on_closed(struct keyspace *ks) {
        struct idleness *idle = &ks->idle;

        idle->phase = IDLE_NOT;
        memory_set(ks->memory, 0, true);
        memory_done(ks->memory);
        if (ks->past.n_leases)
                loop_timer_set(ks->loop, &idle->timer, ks->past.expires_ns);
        switch_kick(ks);
        if (ks->opening.n || ks->hub.n_watchers)
                load_open(ks);
}

void idle_on_released(struct keyspace *ks) {
        on_closed(ks);
}

static void on_slice(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, idle.slice);
        struct alarms alarms = ks->alarms;

        if (free_some(ks)) {
                memory_set(ks->memory, keyspace_bytes(ks), false);
                loop_slice(ks->loop, task);
                return;
        }
        ks->alarms = (struct alarms){}; /* still told: they stand */
        keyspace_forget(ks);
        ks->alarms = alarms;
        if (ks->acquired) {
                ks->idle.phase = IDLE_RELEASING;
                keyspace_release(ks);
        } else
                on_closed(ks);
}

/* Nothing may be under way. */
static void take_down(struct keyspace *ks, enum keyspace_condition then, const char *reason) {
        if (ks->open)
                remember(ks);
        ks->open = false;
        ks->end = (struct stoke_end){};
        ks->revision = ks->compacted = 0;
        ks->idle.phase = IDLE_EMPTYING;
        memory_set_open(ks->memory, false);
        load_unfollow(ks);
        loop_timer_clear(&ks->idle.timer);
        loop_timer_clear(&ks->leases.retry);
        auto_compaction_stop(ks);
        compaction_forget(ks);
        keyspace_set_condition(ks, then, "%s", reason);
        ks->idle.slice.run = on_slice;
        loop_slice(ks->loop, &ks->idle.slice);
}

static void close_quiet(struct keyspace *ks, const char *why) {
        struct log_context context = {.tenant = ks->name, .datastore = datastore_name(ks->datastore)};
        uint64_t idle_ns = loop_now_ns(ks->loop) - min_of(loop_now_ns(ks->loop), memory_used_ns(ks->memory));

        log_at(LOG_LEVEL_INFO, &context, "keyspace is closed until it is used again: %s; nobody has for %llu s", why,
                (unsigned long long)(idle_ns / NSEC_PER_SEC));
        take_down(ks, KEYSPACE_CLOSED, "");
}

/* ---- when */

static void on_time(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, idle.timer);
        uint64_t now = loop_now_ns(ks->loop), idle_ns = ks->config.idle_close_ns, due;

        if (!ks->open) { /* a lease may be over */
                if (ks->past.n_leases && !ks->closing)
                        load_open(ks);
                return;
        }
        if (!idle_ns)
                return;
        due = memory_used_ns(ks->memory) + idle_ns;
        if (now < due)
                loop_timer_set(ks->loop, timer, due);
        else if (!keyspace_is_quiet(ks) || next_expiry(ks) < now + idle_ns)
                loop_timer_set(ks->loop, timer, now + look_ns(ks));
        else
                close_quiet(ks, "it is idle");
}

void idle_on_open(struct keyspace *ks) {
        free(steal(ks->past.leases));
        ks->past.n_leases = 0;
        ks->idle.n_refused = 0;
        ks->idle.refused_until_ns = 0;
        ks->idle.needs = 0;
        memory_set_open(ks->memory, true);
        if (ks->config.idle_close_ns)
                loop_timer_set(ks->loop, &ks->idle.timer,
                        max_of(memory_used_ns(ks->memory) + ks->config.idle_close_ns,
                                loop_now_ns(ks->loop) + look_ns(ks)));
        else
                loop_timer_clear(&ks->idle.timer);
}

void idle_stop(struct keyspace *ks) {
        loop_timer_clear(&ks->idle.timer);
        loop_unslice(ks->loop, &ks->idle.slice);
        memory_set_open(ks->memory, false);
}

/* ---- memory */

static bool on_asked_to_close(void *userdata) {
        struct keyspace *ks = userdata;

        if (!keyspace_is_quiet(ks) || next_expiry(ks) < loop_now_ns(ks->loop) + LEASE_SOON_NS)
                return false;
        close_quiet(ks, "its memory is needed");
        return true;
}

static void on_answer(void *userdata, bool granted) {
        load_on_room(userdata, granted);
}

/* The whole log was too much: it goes, and with it all who wait. */
void idle_refuse(struct keyspace *ks, size_t bytes) {
        cleanup(freep) char *reason = NULL;
        struct memory_figures f;
        uint64_t pause = min_of(REFUSED_NS << min_of(ks->idle.n_refused, 6u), LONGEST_REFUSED_NS);

        memory_get_figures(ks->config.memory, &f);
        if (asprintf(&reason,
                    "it does not fit into memory: %.1f MiB of it were loaded when the keyspaces together had %.1f MiB, of %.1f MiB that they may have (setting: memory)",
                    (double)bytes / 1048576, (double)f.state_bytes / 1048576,
                    (double)memory_most(ks->config.memory) / 1048576) < 0)
                reason = NULL;
        ks->idle.n_refused++;
        ks->idle.needs = bytes;
        ks->idle.refused_until_ns = loop_now_ns(ks->loop) + pause;
        ks->head = HEAD_IDLE;
        call_list_end(&ks->opening, KEYSPACE_UNAVAILABLE);
        watch_end_all(ks, KEYSPACE_UNAVAILABLE);
        metric_add(ks->m_refused, 1);
        take_down(ks, KEYSPACE_NO_MEMORY, reason ? reason : "it does not fit into memory");
}

bool idle_is_refused(const struct keyspace *ks) {
        return ks->condition == KEYSPACE_QUARANTINED ||
                (ks->condition == KEYSPACE_NO_MEMORY && loop_now_ns(ks->loop) < ks->idle.refused_until_ns);
}

size_t keyspace_bytes(const struct keyspace *ks) {
        return ks->index.bytes +
                (ks->n_versions - min_of(ks->n_versions, (uint64_t)ks->index.n_entries)) * sizeof(struct key_version) +
                ks->history.capacity * sizeof(struct history_item) +
                HASH_COUNT(ks->leases.table) * (sizeof(struct lease) + 64) +
                ks->leases.n_items * (sizeof(struct lease_item) + 32);
}

void idle_init(struct keyspace *ks) {
        static const struct memory_handlers handlers = {.close = on_asked_to_close, .answer = on_answer};

        ks->memory = memory_user_new(ks->config.memory, ks->loop, &handlers, ks);
        ks->idle.timer.on_time = on_time;
}

void idle_done(struct keyspace *ks) {
        if (ks->loop)
                loop_unslice(ks->loop, &ks->idle.slice);
        loop_timer_clear(&ks->idle.timer);
        memory_user_free(steal(ks->memory));
        free(steal(ks->past.leases));
}
