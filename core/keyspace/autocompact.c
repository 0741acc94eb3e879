/*
 * Automatic compaction: keeps as much history as the tenant's settings say, for tenants whose clients do not compact
 * themselves. As long as a client does (kube-apiserver, each five minutes) it stands back, and begins again when none has
 * for two intervals. The revision is sampled ten times an interval; what was the revision an interval ago is compacted at.
 * The keyspace's loop only.
 */

#include "keyspace/state.h"

#define SHORTEST_SAMPLE_NS NSEC_PER_SEC
#define DEAD_RECORDS 1000 /* that moved no revision: worth a mark of their own */

static uint64_t sample_ns(const struct keyspace *ks) {
        return max_of(ks->config.auto_compact_ns / AUTO_SAMPLES, SHORTEST_SAMPLE_NS);
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        struct compact_call *c = container_of(call, struct compact_call, call);
        struct keyspace *ks = container_of(c, struct keyspace, automatic.call);

        ks->automatic.calling = false;
        if (result == KEYSPACE_OK && !ks->closing)
                ks->automatic.compacted = ks->compacted; /* ours is not somebody else's */
}

static void compact(struct keyspace *ks, int64_t revision, bool again) {
        struct auto_compaction *a = &ks->automatic;

        a->calling = true;
        a->call = (struct compact_call){.revision_wanted = revision, .again = again};
        a->call.call.done = on_done;
        a->call.call.deadline_ns = UINT64_MAX;
        a->call.call.own.internal = true;
        keyspace_compact(ks, &a->call);
}

/* True: there is one that is an interval old. */
static bool sample(struct auto_compaction *a, int64_t revision) {
        a->samples[a->at] = revision;
        a->at = (a->at + 1) % AUTO_SAMPLES;
        if (a->n_samples == AUTO_SAMPLES)
                return true;
        a->n_samples++;
        return false;
}

static void on_sample(struct loop_timer *timer) {
        struct keyspace *ks = container_of(timer, struct keyspace, automatic.timer);
        struct auto_compaction *a = &ks->automatic;
        int64_t before = a->samples[a->at];

        loop_timer_set(ks->loop, &a->timer, loop_now_ns(ks->loop) + sample_ns(ks));
        if (!ks->open || a->calling)
                return;

        if (ks->compacted != a->compacted) {
                a->quiet = 0;
                a->others = true;
        } else if (a->quiet < 2 * AUTO_SAMPLES)
                a->quiet++;
        a->compacted = ks->compacted;
        if (!sample(a, ks->revision))
                return;
        /* A keyspace that nobody has ever compacted need not wait to see whether somebody does. */
        if ((a->quiet == 2 * AUTO_SAMPLES || !a->others) && before > ks->compacted)
                compact(ks, before, false);
        else if (before == ks->compacted && ks->compaction.pending.n >= DEAD_RECORDS)
                compact(ks, before, true); /* leases are kept alive, and nothing is written */
}

void auto_compaction_start(struct keyspace *ks) {
        struct auto_compaction *a = &ks->automatic;
        unsigned n = 0;

        if (!ks->config.auto_compact_ns || a->timer.position)
                return;
        a->timer.on_time = on_sample;
        a->compacted = ks->compacted;
        /* While it was closed its revision was what it had been: else one that is used now and then would never be compacted. */
        if (a->stopped_revision)
                for (uint64_t t = a->stopped_ns; t < loop_now_ns(ks->loop) && n < AUTO_SAMPLES; t += sample_ns(ks), n++)
                        (void)sample(a, a->stopped_revision);
        loop_timer_set(ks->loop, &a->timer, loop_now_ns(ks->loop) + sample_ns(ks));
}

void auto_compaction_stop(struct keyspace *ks) {
        if (!ks->automatic.timer.position)
                return;
        ks->automatic.stopped_ns = loop_now_ns(ks->loop);
        ks->automatic.stopped_revision = ks->config.known.revision;
        loop_timer_clear(&ks->automatic.timer);
}
