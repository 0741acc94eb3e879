/*
 * Going on in another datastore. First what is under way at the old one comes back, and nothing new is begun there: jobs that turn up wait for the
 * target, questions are turned away from. Then an exclusive log is given back. Then the keyspace names the target, reads what is behind its end
 * there, and what was held goes on. An append whose outcome was not known is settled by that: behind a seal nothing can land any more, so it is in
 * the log by now, or never will be.
 *
 * The keyspace's loop only.
 */

#include <errno.h>

#include "base/log.h"
#include "keyspace/commit.h"

#define HURRY_NS (300 * NSEC_PER_MSEC) /* what is under way at the old datastore has so long to come back by itself */

static void on_ended(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, moving.ended_task);
        struct moving *m = &ks->moving;
        void (*done)(void *userdata, int result, const char *reason) = m->done;

        m->done = NULL;
        if (done)
                done(m->done_userdata, m->result, m->reason);
}

/* Told later, never from within. */
static void tell(struct keyspace *ks, int result, const char *reason) {
        struct moving *m = &ks->moving;

        if (m->done) /* of one before, that nobody could be told of yet */
                on_ended(&m->ended_task);
        m->done = m->to.done;
        m->done_userdata = m->to.userdata;
        m->result = result;
        (void)snprintf(m->reason, sizeof(m->reason), "%s", reason);
        m->to = (struct keyspace_switch){};
        loop_defer(ks->loop, &m->ended_task);
}

static void submit_parked(struct keyspace *ks) {
        struct datastore_job *job = steal(ks->moving.parked), *next;

        for (; job; job = next) {
                next = job->next;
                job->next = NULL;
                fetch_job_go_on(job);
        }
}

/* Nothing but the reading of values is begun while the keyspace is on its way. */
void switch_park(struct keyspace *ks, struct datastore_job *job) {
        struct datastore_job **p = &ks->moving.parked;

        check(job->class == JOB_READ && !job->keyspace);
        while (*p)
                p = &(*p)->next;
        job->next = NULL;
        *p = job;
}

static bool is_quiet(const struct keyspace *ks) {
        return ks->n_jobs == ks->moving.n_detached && !ks->load && !ks->closer && ks->idle.phase == IDLE_NOT &&
                (ks->head == HEAD_IDLE || ks->head == HEAD_PAUSED);
}

/* It names the target from here on. */
static void arrive(struct keyspace *ks) {
        struct moving *m = &ks->moving;

        loop_timer_clear(&m->hurry);
        loop_timer_clear(&ks->pause_timer);
        loop_timer_clear(&ks->reopen);
        loop_timer_clear(&ks->compaction.retry);
        load_unfollow(ks);
        ks->datastore = m->to.datastore;
        ks->driver = datastore_driver(ks->datastore);
        ks->exclusive = ks->driver->capabilities & STOKE_EXCLUSIVE;
        ks->limits = ks->driver->limits;
        memcpy(ks->incarnation, m->to.incarnation, sizeof(ks->incarnation));
        ks->head = HEAD_IDLE;
        ks->foreign = false;
        ks->n_alone = ks->n_quiet = ks->n_failures = ks->n_failed_opens = 0;
        ks->append_ns = 0;
        ks->reload = ks->grown = false;
        ks->compaction.fenced = false;
        if (m->to.other_log) {
                struct value_cache *cache = ks->values.cache;

                ks->config.known = m->to.known;
                free(steal(ks->past.leases));
                ks->past.n_leases = 0;
                if (ks->open)
                        values_unlink_all(&ks->values);
                values_done(&ks->values);
                values_init(&ks->values, cache);
                for (struct keyspace_call *call = ks->queue.first; call; call = call->own.next)
                        if (call->own.fetch) { /* values of the log before, by seq */
                                fetch_done(call->own.fetch);
                                free(steal(call->own.fetch));
                        }
        }
        if (keyspace_is_over(ks)) {
                keyspace_forget(ks);
                ks->open = false;
                keyspace_set_condition(ks, KEYSPACE_CLOSED, "%s", "");
        }
        m->phase = SWITCH_LOADING;
        log_notice("%s: goes on in datastore %s", ks->name, datastore_name(ks->datastore));
        if (ks->open) {
                load_at_target(ks);
                return;
        }
        m->phase = SWITCH_NONE;
        tell(ks, 0, "");
        submit_parked(ks);
        hold_update(ks);
        if (ks->opening.n || ks->hub.n_watchers)
                load_open(ks);
}

static void on_switch(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, moving.switch_task);
        struct moving *m = &ks->moving;

        if (m->phase != SWITCH_WAITING || ks->closing)
                return;
        load_give_up(ks);
        if (!is_quiet(ks))
                return;
        if (ks->acquired) {
                m->phase = SWITCH_RELEASING;
                keyspace_release(ks);
        } else
                arrive(ks);
}

void switch_kick(struct keyspace *ks) {
        if (ks->moving.phase == SWITCH_WAITING)
                loop_defer(ks->loop, &ks->moving.switch_task);
}

void switch_on_released(struct keyspace *ks) {
        arrive(ks);
}

static void on_hurry(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, moving.hurry);

        if (ks->moving.phase != SWITCH_WAITING)
                return;
        datastore_hurry(ks->datastore, ks->name);
        loop_timer_set(ks->loop, timer, clock_now_ns() + HURRY_NS);
}

/* Before whatever waits for the load goes on. */
void switch_on_loaded(struct keyspace *ks) {
        ks->moving.phase = SWITCH_NONE;
        load_follow(ks);
        tell(ks, 0, "");
        submit_parked(ks);
}

void switch_fail(struct keyspace *ks, int result) {
        if (ks->moving.phase != SWITCH_LOADING)
                return;
        ks->moving.phase = SWITCH_NONE;
        tell(ks, result, ks->reason ? ks->reason : "");
        submit_parked(ks); /* to fail there */
        hold_update(ks);
}

void keyspace_switch(struct keyspace *ks, const struct keyspace_switch *to) {
        struct moving *m = &ks->moving;

        if (m->phase == SWITCH_LOADING) {
                /* There, though not with all: from there on to elsewhere. */
                m->phase = SWITCH_WAITING;
                tell(ks, -ECANCELED, "another switch was asked for");
        } else if (m->phase != SWITCH_NONE)
                tell(ks, -ECANCELED, "another switch was asked for");
        m->to = *to;
        if (ks->closing) {
                tell(ks, -ECANCELED, "the keyspace is being closed");
                return;
        }
        if (m->phase == SWITCH_NONE)
                m->phase = SWITCH_WAITING;
        barrier_turn_away(ks);
        loop_timer_set(ks->loop, &m->hurry, clock_now_ns() + HURRY_NS);
        hold_update(ks);
        switch_kick(ks);
}

void switch_stop(struct keyspace *ks) {
        struct moving *m = &ks->moving;
        struct datastore_job *job = steal(m->parked), *next;

        loop_timer_clear(&m->hurry);
        if (m->phase != SWITCH_NONE) {
                m->phase = SWITCH_NONE;
                tell(ks, -ECANCELED, "the keyspace is being closed");
        }
        for (; job; job = next) {
                next = job->next;
                job->next = NULL;
                job->result = -ECANCELED;
                ks->n_jobs++;
                job->done(job);
        }
}

void switch_init(struct keyspace *ks) {
        struct moving *m = &ks->moving;

        m->switch_task.run = on_switch;
        m->ended_task.run = on_ended;
        m->hurry.on_time = on_hurry;
}

void switch_done(struct keyspace *ks) {
        struct moving *m = &ks->moving;

        loop_timer_clear(&m->hurry);
        if (!ks->loop)
                return;
        if (m->done) /* a promise is kept before it is freed */
                on_ended(&m->ended_task);
        loop_undefer(ks->loop, &m->switch_task);
        loop_undefer(ks->loop, &m->ended_task);
}
