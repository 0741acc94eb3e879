#include "fleet/mover.h"

/*
 * All of it is the shard's but for what is under the mutex. Each step begins the next in its callback; whatever fails ends in fail(), which
 * leaves the rest as it is: the main thread looks, writes down what is to become of it, and stops the mover.
 */

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "base/owner.h"
#include "keyspace/install.h"
#include "keyspace/verify.h"

#define REST_RECORDS 2000              /* so much may be left when clients are held up */
#define FOLLOW_NS (600 * NSEC_PER_SEC) /* for so long a log may grow faster than it is copied */
#define HOLD_NS (5 * NSEC_PER_SEC)     /* for so long clients are held up, at most */
#define PATIENCE_NS (20 * NSEC_PER_SEC)

struct mover {
        struct mover_config config;
        char *name, *target_name; /* owned */

        /* The shard's. */
        bool running, pinned, caught_up, seal_sent, rest_fed;
        uint64_t caught_up_ns;
        struct pin *pin;         /* owned */
        struct pump *pump;       /* owned */
        struct verify *verify;   /* owned */
        struct install *install; /* owned: for the end; the pump has its own */
        bool verifying, held;
        bool learning; /* `learned` is on its way, before verifying up to learn_seq */
        struct keyspace_call learned;
        uint64_t learn_seq;
        struct seal_call seal;
        struct loop_timer hold_timer;

        /* Any thread's. */
        pthread_mutex_t mutex;
        struct mover_figures figures;
        bool posted;
        struct loop_task task, seal_task;
        uint32_t owner;
};

/* ---- what is told */

static void on_told(struct loop_task *task) {
        struct mover *m = container_of(task, struct mover, task);

        pthread_mutex_lock(&m->mutex);
        m->posted = false;
        pthread_mutex_unlock(&m->mutex);
        m->config.on_change(m->config.userdata);
}

static void set_stage(struct mover *m, enum mover_stage stage, const char *step) {
        struct log_context context = {.tenant = m->name};
        bool post;

        log_at(LOG_LEVEL_DEBUG, &context, "moving to datastore %s: stage %d, %s", m->target_name, (int)stage, step);

        pthread_mutex_lock(&m->mutex);
        m->figures.stage = stage;
        m->figures.step = step;
        post = !m->posted;
        m->posted = true;
        pthread_mutex_unlock(&m->mutex);
        if (!post)
                return;
        m->task.run = on_told;
        loop_post(m->config.home, &m->task);
}

static void set_step(struct mover *m, const char *step) {
        struct log_context context = {.tenant = m->name};

        log_at(LOG_LEVEL_DEBUG, &context, "moving to datastore %s: %s", m->target_name, step);
        pthread_mutex_lock(&m->mutex);
        m->figures.step = step;
        pthread_mutex_unlock(&m->mutex);
}

static enum mover_stage stage_of(struct mover *m) {
        enum mover_stage stage;

        pthread_mutex_lock(&m->mutex);
        stage = m->figures.stage;
        pthread_mutex_unlock(&m->mutex);
        return stage;
}

void mover_get(struct mover *m, struct mover_figures *ret) {
        pthread_mutex_lock(&m->mutex);
        *ret = m->figures;
        pthread_mutex_unlock(&m->mutex);
}

static void fail(struct mover *m, const char *what, const char *reason) {
        if (stage_of(m) == MOVER_FAILED || stage_of(m) == MOVER_COMMITTED)
                return;
        loop_timer_clear(&m->hold_timer);
        pthread_mutex_lock(&m->mutex);
        snprintf(m->figures.reason, sizeof(m->figures.reason), "%s%s%.200s", what, reason[0] ? ": " : "", reason);
        pthread_mutex_unlock(&m->mutex);
        set_stage(m, MOVER_FAILED, "");
}

/* From either end. */
static void fail_copying(struct mover *m, const char *reason) {
        char what[160];

        snprintf(what, sizeof(what), "copying to datastore %.100s", m->target_name);
        fail(m, what, reason);
}

static void fail_target(struct mover *m, int result, const char *reason) {
        char what[160];

        snprintf(what, sizeof(what), "datastore %.100s", m->target_name);
        fail(m, what,
                reason[0]            ? reason
                        : result < 0 ? strerror(-result)
                                     : "the installation was ended by somebody else");
}

static const char *why_not(enum keyspace_result result) {
        return result == KEYSPACE_STOPPED ? "it is being closed"
                : result == KEYSPACE_LOST ? "its history is lost"
                                          : "its datastore did not answer in time";
}

/* ---- sealing */

static void unlearn(struct mover *m);

static void on_hold_time(struct loop_timer *timer) {
        struct mover *m = container_of(timer, struct mover, hold_timer);

        fail(m, "what was left could not be brought over within 5 s, for which clients were held up", "");
}

static void on_committed(void *userdata, int result, const char *reason) {
        struct mover *m = userdata;

        if (result != 0) {
                fail_target(m, result, reason);
                return;
        }
        if (stage_of(m) != MOVER_SEALING)
                return;
        loop_timer_clear(&m->hold_timer);
        set_stage(m, MOVER_COMMITTED, "switching");
}

static void commit(struct mover *m) {
        set_step(m, "committing");
        install_commit(m->install, m->seal.end.seq, m->seal.revision, on_committed);
}

static void on_sealed(struct keyspace_call *call, enum keyspace_result result) {
        struct mover *m = container_of(container_of(call, struct seal_call, call), struct mover, seal);

        if (result != KEYSPACE_OK) {
                fail(m, "the log could not be sealed", why_not(result));
                return;
        }
        if (m->seal.outcome != SEAL_STANDS) {
                fail(m,
                        m->seal.outcome == SEAL_OTHER ? "the log is sealed by another migration"
                                                      : "the migration was given up by another daemon",
                        "");
                return;
        }
        pthread_mutex_lock(&m->mutex);
        m->figures.sealed = m->seal.end;
        m->figures.sealed_revision = m->seal.revision;
        pthread_mutex_unlock(&m->mutex);
        if (m->config.back) {
                loop_timer_clear(&m->hold_timer);
                set_stage(m, MOVER_COMMITTED, "switching");
        } else
                pump_finish(m->pump, &m->seal.end);
}

static void on_seal(struct loop_task *task) {
        struct mover *m = container_of(task, struct mover, seal_task);

        owner_set(m->owner);
        if (!m->running || stage_of(m) != MOVER_READY)
                return;
        m->seal_sent = true;
        unlearn(m); /* held, it would not be answered, and the seal tells more */
        pthread_mutex_lock(&m->mutex);
        m->figures.hold_began_ns = clock_now_ns();
        pthread_mutex_unlock(&m->mutex);
        set_stage(m, MOVER_SEALING, "sealing");
        keyspace_hold(m->config.keyspace);
        m->held = true;
        m->hold_timer.on_time = on_hold_time;
        loop_timer_set(m->config.loop, &m->hold_timer, clock_now_ns() + HOLD_NS);
        m->seal = (struct seal_call){
                .call = {.done = on_sealed, .deadline_ns = clock_now_ns() + HOLD_NS},
                .target = m->target_name,
        };
        memcpy(m->seal.id, m->config.id, 16);
        keyspace_seal(m->config.keyspace, &m->seal);
}

void mover_seal(struct mover *m) {
        m->seal_task.run = on_seal;
        loop_post(m->config.loop, &m->seal_task);
}

/* ---- copying */

static void look(struct mover *m);

static void verify_up_to_(struct mover *m, uint64_t seq) {
        m->verifying = true;
        verify_up_to(m->verify, seq);
}

static void on_learned(struct keyspace_call *call, enum keyspace_result result) {
        struct mover *m = container_of(call, struct mover, learned);

        m->learning = m->verifying = false;
        if (result == KEYSPACE_OK)
                verify_up_to_(m, m->learn_seq);
        else
                fail(m, "the log's end could not be learnt", why_not(result));
}

/* What was fed may be ahead of the keyspace: another daemon's records were copied before the keyspace has read them. */
static void learn_and_verify(struct mover *m, uint64_t seq) {
        m->learning = m->verifying = true;
        m->learn_seq = seq;
        m->learned = (struct keyspace_call){.done = on_learned, .deadline_ns = clock_now_ns() + PATIENCE_NS};
        keyspace_barrier(m->config.keyspace, &m->learned);
}

static void unlearn(struct mover *m) {
        if (!m->learning)
                return;
        m->learning = m->verifying = false;
        keyspace_cancel(&m->learned);
}

static void on_verified(void *userdata, int result, const char *reason) {
        struct mover *m = userdata;

        m->verifying = false;
        if (result != 0) {
                fail(m, "what was copied is not what is there", reason[0] ? reason : strerror(-result));
                return;
        }
        if (!m->rest_fed)
                look(m);
        else if (verify_seq(m->verify) < m->seal.end.seq) /* what was being read when the rest came ended before it */
                verify_up_to_(m, m->seal.end.seq);
        else
                commit(m);
}

/* Whether what is left is small enough; otherwise what has come is verified. */
static void look(struct mover *m) {
        struct pump_status status;

        if (!m->caught_up || m->verifying || m->seal_sent || stage_of(m) == MOVER_FAILED)
                return;
        pump_get_status(m->pump, &status);
        if (status.seq > verify_seq(m->verify) + REST_RECORDS || verify_seq(m->verify) == 0) {
                set_step(m, "verifying");
                learn_and_verify(m, status.seq);
                return;
        }
        if (status.goal.seq <= status.seq + REST_RECORDS) {
                if (stage_of(m) == MOVER_COPYING)
                        set_stage(m, MOVER_READY, "following");
                return;
        }
        set_step(m, "following");
        if (clock_now_ns() - m->caught_up_ns > FOLLOW_NS)
                fail(m, "the log grows faster than it is copied", "");
}

static void on_progress(void *userdata) {
        struct mover *m = userdata;
        struct pump_status status;

        pump_get_status(m->pump, &status);
        pthread_mutex_lock(&m->mutex);
        m->figures.bytes = status.bytes;
        m->figures.n_records = status.n_records;
        m->figures.records_to_go = status.goal.seq > status.seq ? status.goal.seq - status.seq : 0;
        pthread_mutex_unlock(&m->mutex);
        look(m);
}

static void on_caught_up(void *userdata) {
        struct mover *m = userdata;

        if (!m->caught_up)
                m->caught_up_ns = clock_now_ns();
        m->caught_up = true;
        on_progress(m);
}

static void on_done(void *userdata, int result, const char *reason) {
        struct mover *m = userdata;

        if (result != 0) {
                fail_copying(m,
                        reason[0]            ? reason
                                : result < 0 ? strerror(-result)
                                             : "the installation was ended by somebody else");
                return;
        }
        m->rest_fed = true;
        set_step(m, "verifying");
        /* One that is being read tells when it is done, which goes on here. */
        if (!m->verifying)
                verify_up_to_(m, m->seal.end.seq);
}

static void copy(struct mover *m) {
        struct pump_config config = {
                .source = {.datastore = m->config.source,
                        .name = m->name,
                        .follow = true,
                        .pinned = true,
                        .patience_ns = PATIENCE_NS,
                        .throttle = m->config.throttle},
                .target = {.datastore = m->config.target, .name = m->name, .patience_ns = PATIENCE_NS},
                .loop = m->config.loop,
                .on_progress = on_progress,
                .on_caught_up = on_caught_up,
                .on_done = on_done,
                .userdata = m,
        };
        struct verify_config verify = {
                .keyspace = m->config.keyspace,
                .datastore = m->config.target,
                .on_done = on_verified,
                .userdata = m,
        };
        int r;

        set_step(m, "copying");
        memcpy(config.source.incarnation, m->config.source_incarnation, 16);
        memcpy(config.target.incarnation, m->config.target_incarnation, 16);
        memcpy(config.target.id, m->config.id, 16);
        memcpy(verify.incarnation, m->config.target_incarnation, 16);
        memcpy(verify.installation, m->config.id, 16);
        config.target.loop = m->config.loop;
        config.target.userdata = m;
        r = verify_new(&verify, &m->verify);
        if (r == 0)
                r = install_new(&config.target, &m->install);
        if (r == 0)
                r = pump_new(&config, &m->pump);
        if (r < 0)
                fail_copying(m, strerror(-r));
}

static void on_pinned(void *userdata, const struct stoke_end *end, int64_t revision) {
        struct mover *m = userdata;
        struct keyspace_status status;

        (void)revision;
        if (m->pinned)
                return;
        m->pinned = true;
        keyspace_get_status(m->config.keyspace, &status);
        pthread_mutex_lock(&m->mutex);
        m->figures.bytes_all = status.bytes_log;
        m->figures.records_to_go = end->seq;
        pthread_mutex_unlock(&m->mutex);
        copy(m);
}

static void on_pin_lost(void *userdata, const char *reason) {
        fail(userdata, "the log could not be kept as it is", reason);
}

/* ---- life */

void mover_there_start(struct mover *m) {
        struct pin_config pin = {.on_pinned = on_pinned, .on_lost = on_pin_lost, .userdata = m};

        m->running = true;
        m->owner = owner_get();
        if (m->config.back)
                set_stage(m, MOVER_READY, "sealing");
        else
                keyspace_pin(m->config.keyspace, &pin, &m->pin);
}

void mover_there_stop(struct mover *m) {
        if (!m->running)
                return;
        m->running = false;
        loop_timer_clear(&m->hold_timer);
        if (m->seal_sent)
                keyspace_cancel(&m->seal.call);
        unlearn(m);
        verify_free(m->verify);
        m->verify = NULL;
        pump_free(m->pump);
        m->pump = NULL;
        install_free(m->install);
        m->install = NULL;
        keyspace_unpin(m->pin);
        m->pin = NULL;
        if (m->held)
                keyspace_release_hold(m->config.keyspace);
        m->held = false;
}

struct mover *mover_new(const struct mover_config *config) {
        struct mover *m = new0(struct mover);

        m->config = *config;
        m->name = strdup(config->name);
        m->target_name = strdup(config->target_name);
        check(m->name && m->target_name);
        m->config.name = m->name;
        m->config.target_name = m->target_name;
        pthread_mutex_init(&m->mutex, NULL);
        m->figures.step = "pinning";
        m->figures.began_ns = clock_now_ns();
        return m;
}

void mover_free(struct mover *m) {
        if (!m)
                return;
        check(!m->running && !m->posted);
        pthread_mutex_destroy(&m->mutex);
        free(m->name);
        free(m->target_name);
        free(m);
}
