/*
 * Pins: records that keep all daemons from deleting what is dead, for so long. Each counts a pin's time from when it learnt of it, as a lease's,
 * so never too short; whoever has the pin counts from before it was sent, renews it in time, and calls it lost when that did not succeed.
 *
 * A daemon that has not read the pin yet may be deleting what marks before it name. A copy that got some of that would raise the dead: whoever
 * opens the log when they have gone from it knows nothing of them, and deletes the tombstones that cover them in the copy. So whoever pins deletes
 * first all that marks before the pin name, whose ever the marks are, and only then tells that it stands. What it knows as dead by them is
 * what any daemon knows, but for what had gone when it opened the log; so what others still delete then is gone already.
 *
 * What marks between an older pin, which still stands, and this one name is nobody's to delete until both are over.
 *
 * Where nobody else can append, a pin is in memory alone. The keyspace's loop only.
 */

#include <sys/random.h>

#include "keyspace/commit.h"

#define PIN_SECONDS 60
#define LONGEST_PIN_SECONDS 3600
#define RETRY_NS (200 * NSEC_PER_MSEC)
#define UNPIN_PATIENCE_NS (10 * NSEC_PER_SEC)

struct pin {
        TAILQ_ENTRY(pin) link;
        struct keyspace *ks;
        struct pin_config config;
        int64_t id;
        int64_t seconds;
        struct keyspace_call call;
        bool calling, stands, lost, freed;
        uint64_t seq;         /* marks below it were there before; 0: it is not in the log yet, or in force */
        bool written;         /* it may be in the log */
        uint64_t sent_ns;     /* the call that is under way was evaluated then */
        uint64_t valid_until; /* as others count it, at least */
        struct loop_timer timer;
        struct loop_task task; /* tells */
        struct stoke_end end;  /* of the log, when it was first asked for */
        int64_t revision;
        const char *why;
};

static void ask(struct pin *p);

/* ---- those in the log */

static void on_pins_time(struct loop_timer *timer);

static void look_again(struct keyspace *ks) {
        struct moving *m = &ks->moving;
        uint64_t next = UINT64_MAX, now = clock_now_ns();
        size_t n = 0;

        for (size_t i = 0; i < m->n_pins; i++)
                if (m->pins[i].expires_ns > now) {
                        m->pins[n++] = m->pins[i];
                        next = min_of(next, m->pins[i].expires_ns);
                }
        m->n_pins = n;
        m->pins_timer.on_time = on_pins_time;
        if (n)
                loop_timer_set(ks->loop, &m->pins_timer, next);
        else
                loop_timer_clear(&m->pins_timer);
}

static void on_pins_time(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, moving.pins_timer);

        look_again(ks);
        compaction_kick(ks);
        pins_look(ks);
}

void pin_apply(struct keyspace *ks, const struct stoke_record *r) {
        struct moving *m = &ks->moving;
        size_t i = 0;

        compaction_add(ks, r->seq, false);
        while (i < m->n_pins && m->pins[i].id != r->lease)
                i++;
        if (r->version <= 0) {
                if (i < m->n_pins)
                        m->pins[i] = m->pins[--m->n_pins];
        } else {
                if (i == m->n_pins) {
                        m->pins = realloc(m->pins, (m->n_pins + 1) * sizeof(*m->pins));
                        check(m->pins);
                        m->pins[m->n_pins++] = (struct log_pin){.id = r->lease, .seq = r->seq};
                }
                m->pins[i].expires_ns =
                        clock_now_ns() + (uint64_t)min_of(r->version, (int64_t)LONGEST_PIN_SECONDS) * NSEC_PER_SEC;
        }
        look_again(ks);
        if (r->version <= 0) /* what it was in the way of goes on */
                loop_timer_set(ks->loop, &m->pins_timer, clock_now_ns());
}

bool keyspace_is_pinned(const struct keyspace *ks) {
        const struct pin *p;

        if (ks->moving.n_pins)
                return true;
        TAILQ_FOREACH(p, &ks->moving.own, link)
                if (!p->freed && !p->lost)
                        return true;
        return false;
}

/* ---- our own */

static void pin_free(struct pin *p) {
        TAILQ_REMOVE(&p->ks->moving.own, p, link);
        loop_timer_clear(&p->timer);
        loop_undefer(p->ks->loop, &p->task);
        keyspace_cancel(&p->call);
        free(p);
}

static void on_task(struct loop_task *task) {
        struct pin *p = container_of(task, struct pin, task);

        if (p->lost)
                p->config.on_lost(p->config.userdata, p->why);
        else
                p->config.on_pinned(p->config.userdata, &p->end, p->revision);
}

static void lose(struct pin *p, const char *why) {
        if (p->lost || p->freed)
                return;
        p->lost = true;
        p->why = why;
        loop_timer_clear(&p->timer);
        if (p->calling)
                keyspace_cancel(&p->call);
        p->calling = false;
        loop_defer(p->ks->loop, &p->task);
        compaction_kick(p->ks);
}

/* The first of all that stand, or wait. */
static uint64_t first_seq(const struct keyspace *ks) {
        uint64_t seq = UINT64_MAX;
        const struct pin *p;

        for (size_t i = 0; i < ks->moving.n_pins; i++)
                seq = min_of(seq, ks->moving.pins[i].seq);
        TAILQ_FOREACH(p, &ks->moving.own, link)
                if (p->seq && !p->freed && !p->lost)
                        seq = min_of(seq, p->seq);
        return seq;
}

static bool waits(const struct pin *p) {
        return p->seq && !p->stands && !p->lost && !p->freed;
}

uint64_t pins_wait_below(const struct keyspace *ks) {
        const struct pin *p;

        TAILQ_FOREACH(p, &ks->moving.own, link)
                if (waits(p))
                        return first_seq(ks);
        return 0;
}

void pins_look(struct keyspace *ks) {
        uint64_t below = pins_wait_below(ks);
        struct pin *p;

        /* Behind a seal that nobody else can lift there is nothing to wait for: nobody deletes. */
        if (!below || !ks->open || (!compaction_is_complete_below(ks, below) && !(ks->exclusive && ks->moving.sealed)))
                return;
        TAILQ_FOREACH(p, &ks->moving.own, link)
                if (waits(p)) {
                        p->stands = true;
                        loop_defer(ks->loop, &p->task);
                }
}

/* It is in the log, or in force, as of here. */
static void stand(struct pin *p, const struct stoke_end *end, int64_t revision) {
        if (p->seq)
                return;
        p->seq = end->seq + 1;
        for (size_t i = 0; i < p->ks->moving.n_pins; i++)
                if (p->ks->moving.pins[i].id == p->id)
                        p->seq = p->ks->moving.pins[i].seq;
        p->end = *end;
        p->revision = revision;
        compaction_kick(p->ks);
        pins_look(p->ks);
}

static int evaluate(struct keyspace_call *call, struct batch *b) {
        struct pin *p = container_of(call, struct pin, call);

        call->revision = b->revision;
        call->own.result = KEYSPACE_OK;
        if (b->ks->moving.sealed)
                return EVALUATE_HOLD;
        p->sent_ns = clock_now_ns();
        if (p->freed && !p->written)
                return EVALUATED;
        p->written = true;
        batch_add(b, RECORD_PIN, b->revision, (struct bytes){}, NULL, 0, p->freed ? 0 : p->seconds, p->id);
        return EVALUATED;
}

static void on_time(struct loop_timer *timer) {
        struct pin *p = container_of(timer, struct pin, timer);

        if (p->seq && clock_now_ns() + (uint64_t)p->seconds * NSEC_PER_SEC / 10 >= p->valid_until)
                lose(p, "it could not be renewed in time: others may have deleted what was not copied yet");
        else if (!p->calling)
                ask(p);
        else
                loop_timer_set(p->ks->loop, timer, clock_now_ns() + RETRY_NS);
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        struct pin *p = container_of(call, struct pin, call);
        struct keyspace *ks = p->ks;

        p->calling = false;
        if (p->freed) {
                pin_free(p);
                return;
        }
        if (result == KEYSPACE_STOPPED || ks->closing || keyspace_is_over(ks)) {
                lose(p, "the keyspace is not served any more");
                return;
        }
        if (result != KEYSPACE_OK) {
                loop_timer_set(ks->loop, &p->timer, clock_now_ns() + RETRY_NS);
                return;
        }
        if (ks->exclusive) {
                loop_timer_clear(&p->timer);
                stand(p, &ks->end, ks->revision); /* in memory, for as long as we are */
                return;
        }
        p->valid_until = p->sent_ns + (uint64_t)p->seconds * NSEC_PER_SEC;
        stand(p, &ks->end, ks->revision);
        loop_timer_set(ks->loop, &p->timer, clock_now_ns() + (uint64_t)p->seconds * NSEC_PER_SEC / 3);
}

/* Where nobody else can append only the opening is waited for. */
static void ask(struct pin *p) {
        struct keyspace *ks = p->ks;

        p->calling = true;
        p->call = (struct keyspace_call){
                .done = on_done,
                .deadline_ns = p->freed ? clock_now_ns() + UNPIN_PATIENCE_NS : UINT64_MAX,
                .own.internal = true,
        };
        if (ks->exclusive && !p->written) {
                if (keyspace_enter(ks, &p->call, NULL))
                        keyspace_call_end_later(&p->call, KEYSPACE_OK);
        } else
                moving_queue(ks, &p->call, evaluate);
        if (!p->freed)
                loop_timer_set(ks->loop, &p->timer, clock_now_ns() + RETRY_NS);
}

void keyspace_pin(struct keyspace *ks, const struct pin_config *config, struct pin **ret) {
        struct pin *p = new0(struct pin);

        p->ks = ks;
        p->config = *config;
        p->seconds = config->ttl_ns ? (int64_t)((config->ttl_ns + NSEC_PER_SEC - 1) / NSEC_PER_SEC) : PIN_SECONDS;
        p->seconds = min_of(max_of(p->seconds, (int64_t)1), (int64_t)LONGEST_PIN_SECONDS);
        while (p->id == 0)
                if (getrandom(&p->id, sizeof(p->id), 0) == (ssize_t)sizeof(p->id))
                        p->id &= INT64_MAX;
                else
                        p->id = (int64_t)(((uint64_t)random() << 32 ^ (uint64_t)random()) & INT64_MAX);
        p->task.run = on_task;
        p->timer.on_time = on_time;
        TAILQ_INSERT_TAIL(&ks->moving.own, p, link);
        ask(p);
        *ret = p;
}

void keyspace_unpin(struct pin *p) {
        struct keyspace *ks;

        if (!p)
                return;
        ks = p->ks;
        loop_timer_clear(&p->timer);
        loop_undefer(ks->loop, &p->task);
        if (p->calling)
                keyspace_cancel(&p->call);
        p->calling = false;
        p->freed = true;
        if (p->written && !ks->closing && !keyspace_is_over(ks))
                ask(p);
        else
                pin_free(p);
        compaction_kick(ks);
}

/* Whoever has one still hears of it; what was to be given up runs out. */
void pins_stop(struct keyspace *ks) {
        struct pin *p, *next;

        for (p = TAILQ_FIRST(&ks->moving.own); p; p = next) {
                next = TAILQ_NEXT(p, link);
                if (p->freed)
                        pin_free(p);
                else
                        lose(p, "the keyspace is not served any more");
        }
}
