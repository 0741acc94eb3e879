/*
 * A log moves from one datastore to the next, again and again, while several daemons serve it: writers, readers, watchers, leases, compactions;
 * appends whose answers are lost or that land late, daemons that stand still (as after SIGSTOP) for as long as they like and go on from where they were,
 * daemons that die, migrations that are given up at every step by whoever made them or are undone by others. A registry (here a variable, which
 * everybody reads as it is) says where the log is and which migration is under way; it is written before each step, as the fleet does.
 *
 * What clients were told must be a history that one etcd could have produced, found whole where the log is at the end: every acknowledged write
 * once, every event once, no read of what was before. If this fails, a migration loses or doubles data, or a tenant stays held for ever.
 */
#include "recorded.h"

#include <time.h>

#include "base/log.h"
#include "keyspace/install.h"
#include "keyspace/record.h"
#include "keyspace/verify.h"
#include "memory.h"

#define N_DAEMONS 3
#define N_PLACES 3
#define N_WORKERS 9
#define MOST_SEEN 64
#define WITNESS 0 /* the daemon that lives from the beginning to the end, and is never left behind */

static const char *const instances[N_PLACES] = {"migrate-0", "migrate-1", "migrate-2"};

static unsigned seed;
static unsigned n_operations = 2000;

enum phase { PHASE_NONE, PHASE_MIGRATING, PHASE_ABORTING };
struct registry {
        unsigned version; /* each change is a compare-and-set on this */
        unsigned at;
        uint8_t incarnation[16];
        enum phase phase;
        uint8_t id[16];
        unsigned to, owner;
        uint8_t to_incarnation[16];
};

struct daemon;
/* One attempt to move the log, or to undo another's. */
struct migrator {
        struct daemon *daemon;
        unsigned version; /* of the registry, as this migrator wrote it */
        uint8_t id[16], incarnation[16], to_incarnation[16];
        unsigned from, to;
        struct pin *pin;
        struct pump *pump;
        struct verify *verify;
        bool verifying, pumped;
        struct install *install; /* of one that undoes: its own */
        struct seal_call seal;
        bool holds, undoes, pin_told, over;
        unsigned gives_up; /* at this step; 0: not */
        unsigned step;
};

struct world;
struct daemon {
        struct world *world;
        unsigned number;
        struct engine e;
        struct datastore *places[N_PLACES];
        struct keyspace *ks;
        unsigned at;
        uint8_t incarnation[16];
        bool looks, switching, unsealing;
        struct seal_call unseal;
        unsigned paused; /* turns */
        struct migrator *migrator;
        struct seen *seen;
};

struct world {
        struct recorded recorded;
        struct registry registry;
        struct daemon daemons[N_DAEMONS];
        struct seen seen[MOST_SEEN];
        unsigned n_seen;
        unsigned n_started, n_switched, n_undone, n_lifted, n_killed, n_compactions;
        bool moves, kills;
        struct compact_call compaction;
        bool compacting;
        /* A lease that is kept alive, by one daemon or another. */
        struct lease_call lease;
        bool renewing, doubtful;
        uint64_t renewed_ns;
};

static unsigned dice(unsigned n) {
        return (unsigned)rand_r(&seed) % n;
}

static void new_id(uint8_t id[16]) {
        for (unsigned i = 0; i < 16; i++)
                id[i] = (uint8_t)(1 + dice(255));
}

/* ---- a daemon's half of the fleet */

static void on_switched(void *userdata, int result, const char *reason) {
        struct daemon *d = userdata;

        d->switching = false;
        if (result != 0 && result != -ECANCELED)
                fail_msg("a switch failed: %d %s", result, reason);
}

static void on_unsealed(struct keyspace_call *call, enum keyspace_result result) {
        struct daemon *d = container_of(container_of(call, struct seal_call, call), struct daemon, unseal);

        d->unsealing = false;
        d->world->n_lifted += result == KEYSPACE_OK;
}

static void go_where_it_is(struct daemon *d) {
        struct registry *r = &d->world->registry;
        struct keyspace_switch to = {.datastore = d->places[r->at], .done = on_switched, .userdata = d};

        if (d->switching || memcmp(d->incarnation, r->incarnation, 16) == 0)
                return;
        memcpy(to.incarnation, r->incarnation, 16);
        memcpy(d->incarnation, r->incarnation, 16);
        d->at = r->at;
        d->switching = true;
        keyspace_switch(d->ks, &to);
}

/* Reads the registry: switched, or is the migration of the seal void? */
static void look(struct daemon *d) {
        struct registry *r = &d->world->registry;
        struct keyspace_status status;

        go_where_it_is(d);
        keyspace_get_status(d->ks, &status);
        if (!status.sealed || d->switching || d->unsealing)
                return;
        if (r->phase != PHASE_NONE && memcmp(r->id, status.seal_id, 16) == 0)
                return; /* it will be told */
        d->unsealing = true;
        d->unseal = (struct seal_call){};
        memcpy(d->unseal.id, status.seal_id, 16);
        d->unseal.call.done = on_unsealed;
        d->unseal.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_unseal(d->ks, &d->unseal);
}

static void on_sealed(void *userdata, const uint8_t id[16]) {
        (void)id;
        ((struct daemon *)userdata)->looks = true;
}

/* ---- migrations */

static void migrator_end(struct migrator *m) {
        if (m->over)
                return;
        m->over = true;
        if (m->holds)
                keyspace_release_hold(m->daemon->ks);
        m->holds = false;
}

/* Outside of its callbacks. */
static void migrator_free(struct migrator *m) {
        migrator_end(m);
        keyspace_cancel(&m->seal.call);
        verify_free(m->verify);
        pump_free(m->pump);
        install_free(m->install);
        keyspace_unpin(m->pin);
        m->daemon->migrator = NULL;
        free(m);
}

/* Each step may be the last one. */
static bool is_over(struct migrator *m) {
        struct registry *r = &m->daemon->world->registry;

        if (m->over)
                return true;
        m->step++;
        if (r->version != m->version || (m->gives_up && m->step == m->gives_up && dice(2))) {
                migrator_end(m); /* taken over; or it just stops, and somebody else will have to */
                return true;
        }
        return false;
}

static void undo(struct migrator *m);
static void verify_rest(struct migrator *m);

static void on_committed(void *userdata, int result, const char *reason) {
        struct migrator *m = userdata;
        struct registry *r;

        (void)reason;
        if (is_over(m))
                return;
        if (result != 0 || (m->gives_up && dice(2))) {
                undo(m);
                return;
        }
        r = &m->daemon->world->registry;
        r->version++;
        r->at = m->to;
        memcpy(r->incarnation, m->to_incarnation, 16);
        r->phase = PHASE_NONE;
        m->daemon->world->n_switched++;
        go_where_it_is(m->daemon);
        migrator_end(m);
}

/* Compared while it is copied; and the rest of it when it is sealed. */
static void on_verified(void *userdata, int result, const char *reason) {
        struct migrator *m = userdata;

        m->verifying = false;
        if (is_over(m))
                return;
        if (result == -EUCLEAN)
                fail_msg("a copy is not what it should be: %s", reason);
        if (result != 0)
                undo(m);
        else if (m->pumped && verify_seq(m->verify) == m->seal.end.seq)
                install_commit(pump_install(m->pump), m->seal.end.seq, m->seal.revision, on_committed);
        else if (m->pumped)
                verify_rest(m);
}

static void verify_some(struct migrator *m, uint64_t seq) {
        struct verify_config c = {.keyspace = m->daemon->ks,
                .datastore = m->daemon->places[m->to],
                .on_done = on_verified,
                .userdata = m};

        memcpy(c.incarnation, m->to_incarnation, 16);
        memcpy(c.installation, m->id, 16);
        if (!m->verify && verify_new(&c, &m->verify) < 0)
                return; /* of one that was taken over and is not freed yet */
        m->verifying = true;
        verify_up_to(m->verify, seq);
}

static void verify_rest(struct migrator *m) {
        m->pumped = true;
        if (m->verifying)
                return;
        verify_some(m, m->seal.end.seq);
        if (!m->verify)
                undo(m);
}

static void on_pumped(void *userdata, int result, const char *reason) {
        struct migrator *m = userdata;

        (void)reason;
        if (is_over(m))
                return;
        if (result != 0)
                undo(m);
        else
                verify_rest(m);
}

static void on_seal(struct keyspace_call *call, enum keyspace_result result) {
        struct migrator *m = container_of(container_of(call, struct seal_call, call), struct migrator, seal);

        if (is_over(m))
                return;
        if (result != KEYSPACE_OK || m->seal.outcome != SEAL_STANDS || (m->gives_up && dice(3) == 0))
                undo(m);
        else
                pump_finish(m->pump, &m->seal.end);
}

static void on_caught_up(void *userdata) {
        struct migrator *m = userdata;

        struct pump_status status;

        if (m->holds || is_over(m))
                return;
        pump_get_status(m->pump, &status);
        if (!m->verifying && !m->verify)
                verify_some(m, status.seq);
        if (dice(2))
                return; /* for the time being it only follows */
        m->holds = true;
        keyspace_hold(m->daemon->ks);
        memcpy(m->seal.id, m->id, 16);
        m->seal.target = instances[m->to];
        m->seal.call.done = on_seal;
        m->seal.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_seal(m->daemon->ks, &m->seal);
}

static void on_pinned(void *userdata, const struct stoke_end *end, int64_t revision) {
        struct migrator *m = userdata;
        struct daemon *d = m->daemon;
        struct pump_config c = {
                .source = {.datastore = d->places[m->from], .name = "t", .pinned = true, .follow = true},
                .target = {.datastore = d->places[m->to], .name = "t"},
                .loop = d->e.loop,
                .on_caught_up = on_caught_up,
                .on_done = on_pumped,
                .userdata = m,
        };

        (void)end;
        (void)revision;
        if (is_over(m))
                return;
        memcpy(c.source.incarnation, m->incarnation, 16);
        memcpy(c.target.incarnation, m->to_incarnation, 16);
        memcpy(c.target.id, m->id, 16);
        assert_int_equal(pump_new(&c, &m->pump), 0);
}

static void on_lost(void *userdata, const char *reason) {
        struct migrator *m = userdata;

        (void)reason;
        if (!is_over(m))
                undo(m);
}

/* ---- undoing: the registry first, then the installation, then always an unseal, then it is cleared */

static void on_fenced(struct keyspace_call *call, enum keyspace_result result) {
        struct migrator *m = container_of(container_of(call, struct seal_call, call), struct migrator, seal);
        struct registry *r;

        if (is_over(m))
                return;
        if (result == KEYSPACE_OK) {
                r = &m->daemon->world->registry;
                r->version++;
                r->phase = PHASE_NONE;
                m->daemon->world->n_undone++;
        }
        migrator_end(m); /* or somebody will try again */
}

static void on_aborted(void *userdata, int result, const char *reason) {
        struct migrator *m = userdata;

        (void)reason;
        if (is_over(m))
                return;
        /* A committed one that nobody uses stays as it is here; the fleet drops it. */
        assert_true(result == 0 || result == STOKE_ENDED || result < 0);
        if (result < 0) {
                migrator_end(m);
                return;
        }
        keyspace_cancel(&m->seal.call); /* the seal may be under way */
        m->seal = (struct seal_call){};
        memcpy(m->seal.id, m->id, 16);
        m->seal.call.done = on_fenced;
        m->seal.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_unseal(m->daemon->ks, &m->seal);
}

static void undo(struct migrator *m) {
        struct daemon *d = m->daemon;
        struct registry *r = &d->world->registry;
        struct install_config c = {.datastore = d->places[m->to], .name = "t", .loop = d->e.loop, .userdata = m};

        if (r->version != m->version || m->undoes) {
                migrator_end(m);
                return;
        }
        m->version = ++r->version;
        r->phase = PHASE_ABORTING;
        m->undoes = true;
        memcpy(c.incarnation, m->to_incarnation, 16);
        memcpy(c.id, m->id, 16);
        assert_int_equal(install_new(&c, &m->install), 0);
        install_abort(m->install, on_aborted);
}

static struct migrator *migrator_new(struct daemon *d) {
        struct registry *r = &d->world->registry;
        struct migrator *m = new0(struct migrator);

        m->daemon = d;
        d->migrator = m;
        m->version = ++r->version;
        r->owner = d->number;
        m->gives_up = dice(2) ? 1 + dice(8) : 0;
        memcpy(m->id, r->id, 16);
        memcpy(m->incarnation, r->incarnation, 16);
        memcpy(m->to_incarnation, r->to_incarnation, 16);
        m->from = r->at;
        m->to = r->to;
        return m;
}

static void migrate(struct daemon *d) {
        struct registry *r = &d->world->registry;
        struct pin_config c = {.ttl_ns = 20 * NSEC_PER_SEC, .on_pinned = on_pinned, .on_lost = on_lost};
        struct migrator *m;

        d->world->n_started++;
        r->phase = PHASE_MIGRATING;
        r->to = (r->at + 1 + dice(N_PLACES - 1)) % N_PLACES;
        new_id(r->id);
        new_id(r->to_incarnation);
        m = migrator_new(d);
        c.userdata = m;
        keyspace_pin(d->ks, &c, &m->pin);
}

/* Somebody's migration that does not go on. */
static void take_over(struct daemon *d) {
        struct migrator *m = migrator_new(d);

        m->gives_up = dice(4) == 0 ? 1 + dice(3) : 0;
        undo(m);
}

/* ---- turns */

static void watch(struct daemon *d) {
        struct world *w = d->world;

        if (w->n_seen == MOST_SEEN)
                return;
        d->seen = &w->seen[w->n_seen++];
        seen_watch(d->ks, d->seen);
}

static struct keyspace *new_keyspace(struct daemon *d, uint8_t name) {
        struct datastore *first = d->e.datastore;
        struct keyspace *ks;

        d->at = d->world->registry.at;
        memcpy(d->incarnation, d->world->registry.incarnation, 16);
        memcpy(d->e.incarnation, d->incarnation, 16);
        d->e.datastore = d->places[d->at];
        ks = engine_keyspace(&d->e, name);
        d->e.datastore = first;
        return ks;
}

/* It dies, and begins again. */
static void kill_daemon(struct daemon *d) {
        struct keyspace *old = d->ks;

        d->world->n_killed++;
        if (d->migrator) {
                d->migrator->holds = false; /* goes with it */
                migrator_free(d->migrator);
        }
        d->ks = new_keyspace(d, (uint8_t)(1 + d->number + N_DAEMONS * d->world->n_killed));
        d->looks = false;
        engine_keyspace_close(&d->e, old);
        watch(d);
}

static void turn(struct daemon *d) {
        struct world *w = d->world;
        struct registry *r = &w->registry;

        if (d->migrator && d->migrator->over)
                migrator_free(d->migrator);
        if (d->paused) {
                d->paused--;
                return;
        }
        engine_run(&d->e, 1, NULL);
        if (d->migrator && d->migrator->pump)
                pump_kick(d->migrator->pump);
        if (d->looks || dice(20) == 0)
                look(d);
        if (!w->moves)
                goto out;
        if (dice(60) == 0)
                d->paused = 1 + dice(dice(4) ? 20 : 150);
        if (w->kills && d->number != WITNESS && dice(150) == 0)
                kill_daemon(d);
        if (d->migrator)
                return;
        if (r->phase == PHASE_NONE && dice(15) == 0) {
                go_where_it_is(d);
                migrate(d);
                return;
        }
out:
        /* Its owner stands still, or is gone, or thinks that it is over. */
        if (r->phase != PHASE_NONE && !d->migrator && dice(10) == 0 &&
                (!w->daemons[r->owner].migrator || w->daemons[r->owner].migrator->over ||
                        (w->daemons[r->owner].paused && dice(3) == 0)))
                take_over(d);
}

/* ---- what else goes on */

static void on_compacted(struct keyspace_call *call, enum keyspace_result result) {
        struct world *w = container_of(container_of(call, struct compact_call, call), struct world, compaction);

        w->compacting = false;
        w->n_compactions += result == KEYSPACE_OK;
}

static void compact_sometimes(struct recorded *recorded) {
        struct world *w = container_of(recorded, struct world, recorded);

        if (w->compacting || recorded->told < 300 || dice(40))
                return;
        w->compacting = true;
        w->compaction = (struct compact_call){
                .revision_wanted = min_of(recorded->told - 250, w->seen[WITNESS].revision), .physical = dice(2)};
        w->compaction.call.done = on_compacted;
        w->compaction.call.deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC;
        keyspace_compact(w->daemons[dice(N_DAEMONS)].ks, &w->compaction);
}

#define LEASE_SECONDS 4
static void on_renewed(struct keyspace_call *call, enum keyspace_result result) {
        struct world *w = container_of(container_of(call, struct lease_call, call), struct world, lease);
        uint64_t now = clock_now_ns();

        w->renewing = false;
        if (now - w->renewed_ns > (LEASE_SECONDS - 1) * NSEC_PER_SEC)
                w->doubtful = true; /* this test did not get round to it in time */
        if (result == KEYSPACE_OK)
                w->renewed_ns = now;
        else if (!w->doubtful)
                assert_int_not_equal(result, KEYSPACE_LEASE_NOT_FOUND);
}

static void renew(struct world *w) {
        if (w->renewing || clock_now_ns() - w->renewed_ns < 100 * NSEC_PER_MSEC)
                return;
        w->renewing = true;
        w->lease = (struct lease_call){.id = 77};
        w->lease.call.done = on_renewed;
        w->lease.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_lease_keep_alive(w->daemons[dice(N_DAEMONS)].ks, &w->lease);
}

static struct keyspace *of_worker(struct recorded *recorded, unsigned worker) {
        return container_of(recorded, struct world, recorded)->daemons[worker % N_DAEMONS].ks;
}

/* ---- the whole */

static bool is_settled(struct world *w) {
        struct keyspace_status status;

        if (w->registry.phase != PHASE_NONE || w->compacting)
                return false;
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                struct daemon *d = &w->daemons[i];

                keyspace_get_status(d->ks, &status);
                if (d->migrator || d->switching || d->unsealing || status.held ||
                        memcmp(d->incarnation, w->registry.incarnation, 16) != 0)
                        return false;
        }
        return true;
}

/* Where it has got to, for whoever has to find out why it does not go on. */
static void tell(struct world *w, uint64_t seconds) {
        print_message("# after %llu s: %u operations, phase %d, owner %u\n", (unsigned long long)seconds,
                w->recorded.n_done, (int)w->registry.phase, w->registry.owner);
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                const struct daemon *d = &w->daemons[i];
                struct keyspace_status s;

                keyspace_get_status(d->ks, &s);
                print_message("#   %u: at %u, condition %d %s, end %llu,%s%s%s%s%s, migrator at step %u%s%s\n", i,
                        d->at, (int)s.condition, s.reason, (unsigned long long)s.end.seq, s.held ? " held" : "",
                        s.sealed ? " sealed" : "", s.switching ? " switching" : "", d->unsealing ? " unsealing" : "",
                        d->paused ? " paused" : "", d->migrator ? d->migrator->step : 0,
                        d->migrator && d->migrator->over ? " (over)" : "",
                        d->migrator && d->migrator->undoes ? " (undoes)" : "");
                if (d->migrator && d->migrator->pump) {
                        struct pump_status ps;

                        pump_get_status(d->migrator->pump, &ps);
                        print_message("#      pump at %llu of %llu%s\n", (unsigned long long)ps.seq,
                                (unsigned long long)ps.goal.seq, ps.caught_up ? ", caught up" : "");
                }
        }
}

static void check_seen(const struct world *w, const struct seen *all) {
        for (unsigned i = 0; i < w->n_seen; i++) {
                const struct seen *s = &w->seen[i];
                size_t first = 0;

                /* From where it began, nothing is left out and nothing comes twice. */
                while (s->n && first < all->n && all->events[first].revision < s->events[0].revision)
                        first++;
                assert_true(s->n <= all->n - first);
                for (size_t k = 0; k < s->n; k++)
                        assert_memory_equal(&s->events[k], &all->events[first + k], sizeof(*s->events));
        }
}

struct hashing {
        struct hash_call call;
        bool done;
};
static void on_hash(struct keyspace_call *call, enum keyspace_result result) {
        assert_int_equal(result, KEYSPACE_OK);
        container_of(container_of(call, struct hash_call, call), struct hashing, call)->done = true;
}

static uint32_t hash_of(struct engine *e, struct keyspace *ks) {
        struct hashing h = {};

        h.call.call.done = on_hash;
        h.call.call.deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
        keyspace_hash(ks, &h.call);
        engine_run(e, 20000, &h.done);
        assert_true(h.done);
        return h.call.hash;
}

static void check_state(struct world *w, const struct seen *all, struct keyspace *ks, struct engine *e, uint32_t hash) {
        for (unsigned key = 0; key < HISTORY_KEYS; key++) {
                char name[] = {'k', (char)('0' + key), 0};
                struct answer a = engine_get(e, ks, name);
                const struct seen_event *found = seen_state(all, key, INT64_MAX);

                assert_int_equal(a.result, KEYSPACE_OK);
                assert_int_equal(a.n_kvs, found != NULL);
                if (found) {
                        assert_int_equal(a.kvs[0].mod, found->revision);
                        assert_string_equal(a.kvs[0].value, found->value);
                }
        }
        assert_true(w->doubtful || engine_get(e, ks, "leased").n_kvs == 1);
        assert_int_equal(hash_of(e, ks), hash);
}

static void run(const struct memory_faults *faults, bool kills, uint64_t patience_ms, size_t cache_bytes) {
        struct world *w = new0(struct world);
        struct keyspace *fresh;
        const struct seen *all;
        unsigned n_ok;
        uint64_t begun = clock_now_ns(), last = begun;
        uint32_t hash;

        print_message("# STOKEHOLD_SEED=%u\n", seed);
        w->recorded = (struct recorded){.seed = &seed,
                .n_operations = n_operations,
                .patience_ns = patience_ms * NSEC_PER_MSEC,
                .keyspace = of_worker,
                .answered = compact_sometimes};
        w->kills = kills;
        memset(w->registry.incarnation, 7, 16);
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                struct daemon *d = &w->daemons[i];

                d->world = w;
                d->number = i;
                d->e.on_sealed = on_sealed;
                d->e.userdata = d;
                for (unsigned p = 0; p < N_PLACES; p++) {
                        const char *settings[] = {"instance", instances[p], NULL};

                        if (p == 0)
                                engine_open(&d->e, &stoke_driver, settings, cache_bytes);
                        d->places[p] = p ? engine_datastore(&d->e, NULL, settings) : d->e.datastore;
                }
                d->ks = new_keyspace(d, (uint8_t)(1 + i));
                watch(d);
        }
        assert_int_equal(engine_grant(&w->daemons[0].e, w->daemons[0].ks, 77, LEASE_SECONDS), KEYSPACE_OK);
        engine_put_lease(&w->daemons[0].e, w->daemons[0].ks, "leased", "x", 77);
        assert_int_equal(engine_grant(&w->daemons[0].e, w->daemons[0].ks, 88, 2), KEYSPACE_OK);
        engine_put_lease(&w->daemons[0].e, w->daemons[0].ks, "unleased", "x", 88);
        w->renewed_ns = clock_now_ns();
        for (unsigned p = 0; p < N_PLACES; p++)
                memory_set_faults(instances[p], faults);
        w->moves = true;
        recorded_begin(&w->recorded, N_WORKERS);
        while (!w->recorded.all_done || !is_settled(w)) {
                if (w->recorded.all_done)
                        w->moves = false;
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        turn(&w->daemons[i]);
                renew(w);
                if (clock_now_ns() - last > 10 * NSEC_PER_SEC) {
                        last = clock_now_ns();
                        tell(w, (last - begun) / NSEC_PER_SEC);
                        if (last - begun > 150 * NSEC_PER_SEC)
                                fail_msg("it does not come to an end");
                }
        }
        for (unsigned p = 0; p < N_PLACES; p++)
                memory_set_faults(instances[p], NULL);
        while (w->renewing)
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        engine_run(&w->daemons[i].e, 1, NULL);
        /* Nobody renews that one; each daemon may end it. */
        for (unsigned n = 0; n < 4000 && engine_get(&w->daemons[0].e, w->daemons[0].ks, "unleased").n_kvs; n++) {
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        engine_run(&w->daemons[i].e, 2, NULL);
                renew(w);
        }
        while (w->renewing)
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        engine_run(&w->daemons[i].e, 1, NULL);
        assert_int_equal(engine_get(&w->daemons[0].e, w->daemons[0].ks, "unleased").n_kvs, 0);
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                assert_int_equal(engine_get(&w->daemons[i].e, w->daemons[i].ks, "k0").result, KEYSPACE_OK);
                engine_run(&w->daemons[i].e, 100, NULL);
        }
        /* The whole history, as somebody saw it who was there from the beginning to the end. */
        all = &w->seen[WITNESS];
        assert_false(all->left_behind);
        print_message(
                "# %u migrations begun, %u switched, %u undone, %u seals lifted, %u daemons killed, %u compactions%s\n",
                w->n_started, w->n_switched, w->n_undone, w->n_lifted, w->n_killed, w->n_compactions,
                w->doubtful ? ", a lease was forgotten by this test" : "");
        n_ok = recorded_check(&w->recorded, all);
        print_message("# %u of %u operations answered, %zu events\n", n_ok, n_operations, all->n);
        assert_true(n_ok > n_operations / 3);
        check_seen(w, all);
        assert_true(w->n_switched > 0);

        fresh = new_keyspace(&w->daemons[0], 200);
        hash = hash_of(&w->daemons[0].e, fresh);
        check_state(w, all, fresh, &w->daemons[0].e, hash);
        for (unsigned i = 0; i < N_DAEMONS; i++)
                check_state(w, all, w->daemons[i].ks, &w->daemons[i].e, hash);
        engine_keyspace_close(&w->daemons[0].e, fresh);
        for (unsigned i = 0; i < N_DAEMONS; i++) {
                engine_keyspace_close(&w->daemons[i].e, w->daemons[i].ks);
                for (unsigned p = 1; p < N_PLACES; p++)
                        datastore_close(w->daemons[i].places[p], 5 * NSEC_PER_SEC);
                engine_close(&w->daemons[i].e);
        }
        for (unsigned p = 0; p < N_PLACES; p++)
                memory_reset(instances[p]);
        for (unsigned i = 0; i < w->n_seen; i++)
                free(w->seen[i].events);
        recorded_done(&w->recorded);
        free(w);
}

static void migrations(void **state) {
        struct memory_faults f = {.delay_us = 1000};

        (void)state;
        run(&f, false, 20000, 1 << 20);
}

static void migrations_with_refusals(void **state) {
        struct memory_faults f = {.stale = 0.1, .fail_load = 0.05, .fail_connect = 0.05, .delay_us = 1000};

        (void)state;
        run(&f, false, 20000, 1 << 20);
}

static void migrations_with_unknown_outcomes(void **state) {
        struct memory_faults f = {
                .unknown_landed = 0.05, .unknown_lost = 0.05, .unknown_late = 0.05, .late_after = 2, .delay_us = 1000};

        (void)state;
        run(&f, false, 20000, 1 << 20);
}

/* No value is in memory: each is read from where the log is. */
static void migrations_without_a_cache(void **state) {
        struct memory_faults f = {.delay_us = 500, .fail_load = 0.02};

        (void)state;
        run(&f, false, 20000, 1);
}

static void migrations_with_deaths(void **state) {
        struct memory_faults f = {.delay_us = 1000};

        (void)state;
        run(&f, true, 20000, 1 << 20);
}

static void migrations_with_everything(void **state) {
        struct memory_faults f = {.stale = 0.05,
                .fail_load = 0.05,
                .unknown_landed = 0.05,
                .unknown_lost = 0.05,
                .unknown_late = 0.05,
                .late_after = 3,
                .delay_us = 1000};

        (void)state;
        run(&f, true, 1000, 4000);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(migrations),
                cmocka_unit_test(migrations_with_refusals),
                cmocka_unit_test(migrations_with_unknown_outcomes),
                cmocka_unit_test(migrations_without_a_cache),
                cmocka_unit_test(migrations_with_deaths),
                cmocka_unit_test(migrations_with_everything),
        };
        const char *s = getenv("STOKEHOLD_SEED");

        seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
        s = getenv("STOKEHOLD_OPERATIONS");
        if (s)
                n_operations = (unsigned)strtoul(s, NULL, 10);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
