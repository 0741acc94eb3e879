/*
 * Installations: the driver's four functions as jobs. What decides runs on the loop; one job at a time, its records belong to it until it is done.
 *
 * A datastore that crashes may lose what was fed and not yet committed, without anybody's connection being cut in sight of us: what is fed after
 * that would leave a hole. So each feed, and the commit, first asks what is in, on the same connection.
 */

#include "keyspace/install.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/log.h"
#include "keyspace/record.h"

#define PATIENCE_NS (30 * NSEC_PER_SEC)
#define CALL_PATIENCE_NS (30 * NSEC_PER_SEC)
#define RETRY_NS (20 * NSEC_PER_MSEC)
#define LONGEST_RETRY_NS NSEC_PER_SEC
#define TELL_FAILURES 6 /* of one step: a second or so */
#define FEED_BYTES ((uint64_t)8 * 1024 * 1024)
#define GOES_ON 1

enum what { WHAT_NOTHING, WHAT_BEGIN, WHAT_LIMITS, WHAT_FEED, WHAT_COMMIT, WHAT_ABORT };

struct install {
        struct install_config config; /* without the strings */
        char *name;                   /* owned */
        struct stoke_keyspace keyspace;
        const struct stoke_driver *driver;
        struct datastore_job job;
        bool running, freed;
        enum what what;
        install_done_fn done;
        uint64_t since_ns; /* this function was asked for, or has got somewhere */
        unsigned n_failures;
        bool doubt; /* a commit of unknown outcome */
        struct loop_timer timer;
        struct loop_task late_task;
        int late_result;
        char late_reason[512];

        struct stoke_limits limits;
        uint64_t seq;               /* what is in */
        struct stream_piece *piece; /* owned: being fed */
        size_t at, n;               /* of its records: the batch */
        uint64_t commit_seq;
        int64_t commit_revision;
        struct stoke_record last;

        uint64_t found; /* the worker's: what is in */
};

void install_record(const uint8_t id[16], uint64_t seq, int64_t revision, struct stoke_record *ret) {
        *ret = (struct stoke_record){
                .seq = seq,
                .revision = revision,
                .kind = RECORD_INSTALLED,
                .key = id,
                .key_size = 16,
                .value = "",
                .origin.batch = 1,
        };
        memcpy(ret->origin.daemon, id, sizeof(ret->origin.daemon));
        ret->hash = record_hash(ret);
}

/* ---- on a worker */

static int fail_with(struct stoke_call *call, int code, const char *format, ...) printf_like(3, 4);
static int fail_with(struct stoke_call *call, int code, const char *format, ...) {
        va_list args;

        va_start(args, format);
        (void)vsnprintf(call->reason, call->reason_size, format, args);
        va_end(args);
        return code;
}

/* What is in must be what was fed. */
static int check_found(struct install *i, uint64_t expected, struct stoke_call *call) {
        if (i->found >= expected)
                return 0;
        return fail_with(call, -ESTALE, "the target has lost what was written to it: of %llu records it has %llu",
                (unsigned long long)expected, (unsigned long long)i->found);
}

static int run_feed(struct install *i, struct stoke_session *session, struct stoke_call *call) {
        int r;

        r = i->driver->install_begin(session, &i->keyspace, i->config.id, call, &i->found);
        if (r == 0)
                r = check_found(i, i->seq, call);
        if (r == 0)
                r = i->driver->install_feed(session, &i->keyspace, i->config.id, &i->piece->records[i->at], i->n, call);
        if (r == STOKE_MISSING)
                r = fail_with(call, -ESTALE, "the installation has gone");
        return r;
}

/* One that has ended is committed again all the same: the driver tells how it ended. */
static int run_commit(struct install *i, struct stoke_session *session, struct stoke_call *call) {
        int r;

        r = i->driver->install_begin(session, &i->keyspace, i->config.id, call, &i->found);
        if (r == 0)
                r = check_found(i, i->commit_seq, call);
        if (r == 0 && i->found > i->commit_seq + 1)
                r = fail_with(call, -EINVAL, "the target has records up to %llu, behind the end at %llu",
                        (unsigned long long)i->found, (unsigned long long)i->commit_seq);
        if (r != 0 && r != STOKE_ENDED && r != -EEXIST)
                return r;
        r = i->driver->install_commit(session, &i->keyspace, i->config.id, &i->last, call);
        if (r == STOKE_MISSING)
                r = fail_with(call, -ESTALE, "the installation has gone");
        return r;
}

static int run(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct install *i = container_of(job, struct install, job);

        switch (i->what) {
        case WHAT_BEGIN:
                return i->driver->install_begin(session, &i->keyspace, i->config.id, call, &i->found);
        case WHAT_LIMITS:
                return i->driver->server_limits(session, &i->keyspace, call, &i->limits);
        case WHAT_FEED:
                return run_feed(i, session, call);
        case WHAT_COMMIT:
                return run_commit(i, session, call);
        case WHAT_ABORT:
                return i->driver->install_abort(session, &i->keyspace, i->config.id, call);
        case WHAT_NOTHING:
                break;
        }
        return -EINVAL;
}

/* ---- on the loop */

static void maybe_free(struct install *i) {
        if (!i->freed || i->running)
                return;
        stream_piece_free(i->piece);
        free(i->name);
        free(i);
}

static void on_done(struct datastore_job *job);

static void submit(struct install *i) {
        i->running = true;
        i->job = (struct datastore_job){
                .class = JOB_BULK,
                .keyspace = &i->keyspace,
                .own_scope = i->what != WHAT_LIMITS,
                .deadline_ns = clock_now_ns() + CALL_PATIENCE_NS,
                .loop = i->config.loop,
                .run = run,
                .done = on_done,
        };
        datastore_submit(i->config.datastore, &i->job);
}

static void finish(struct install *i, int result, const char *reason) {
        install_done_fn done = i->done;

        i->what = WHAT_NOTHING;
        i->done = NULL;
        stream_piece_free(steal(i->piece));
        done(i->config.userdata, result, reason);
}

static void on_late(struct loop_task *task) {
        struct install *i = container_of(task, struct install, late_task);

        finish(i, i->late_result, i->late_reason);
}

/* With the reason in late_reason. */
static void finish_later(struct install *i, int result) {
        i->late_result = result;
        loop_defer(i->config.loop, &i->late_task);
}

/* The next batch of the piece; all is in: 0. */
static int next_batch(struct install *i) {
        struct stream_piece *p = i->piece;
        uint64_t bytes = 0, most = max_of(min_of(i->limits.batch_bytes / 2, FEED_BYTES), (uint64_t)1);

        i->at += i->n;
        i->n = 0;
        while (i->at < p->n && p->records[i->at].seq <= i->seq)
                i->at++;
        while (i->at + i->n < p->n && i->n < i->limits.batch_records) {
                const struct stoke_record *r = &p->records[i->at + i->n];
                uint64_t size = (uint64_t)r->key_size + r->value_size;

                if (size > i->limits.record_bytes || size > i->limits.batch_bytes) {
                        (void)snprintf(i->late_reason, sizeof(i->late_reason),
                                "record %llu has %llu bytes, more than the target takes (%llu)",
                                (unsigned long long)r->seq, (unsigned long long)size,
                                (unsigned long long)min_of(i->limits.record_bytes, i->limits.batch_bytes));
                        return -EMSGSIZE;
                }
                if (i->n && bytes + size > most)
                        break;
                bytes += size;
                i->n++;
        }
        return 0;
}

static void on_timer(struct loop_timer *timer) {
        submit(container_of(timer, struct install, timer));
}

static bool may_get_better(int result) {
        switch (result) {
        case -EEXIST:
        case -EMSGSIZE:
        case -ENOSPC:
        case -EACCES:
        case -EINVAL:
        case -ESTALE:
        case -EUCLEAN:
        case -ENOTSUP:
                return false;
        default:
                return result < 0 || result == STOKE_UNKNOWN;
        }
}

static bool server_tells_limits(const struct install *i) {
        return i->driver->size >= offsetof(struct stoke_driver, server_limits) + sizeof(i->driver->server_limits) &&
                i->driver->server_limits;
}

/* One step is done: how the function ends with it (0, negative errno with the reason in late_reason), or GOES_ON. */
static int step(struct install *i) {
        switch (i->what) {
        case WHAT_BEGIN:
                i->seq = i->found;
                if (!server_tells_limits(i))
                        return 0;
                i->what = WHAT_LIMITS;
                return GOES_ON;
        case WHAT_FEED:
                i->seq = max_of(i->seq, i->piece->records[i->at + i->n - 1].seq);
                if (next_batch(i) < 0)
                        return -EMSGSIZE;
                return i->n ? GOES_ON : 0;
        default:
                return 0;
        }
}

static const char *reason_of(const struct datastore_job *job) {
        if (job->reason[0])
                return job->reason;
        if (job->result < 0)
                return strerror(-job->result);
        return job->result == STOKE_ENDED ? "this installation has ended" : "";
}

static void on_done(struct datastore_job *job) {
        struct install *i = container_of(job, struct install, job);
        struct log_context context = {.tenant = i->name};
        uint64_t patience = i->config.patience_ns ? i->config.patience_ns : PATIENCE_NS;
        int r = job->result;

        i->running = false;
        if (i->freed) {
                maybe_free(i);
                return;
        }
        if (r == 0) {
                i->since_ns = clock_now_ns();
                i->n_failures = 0;
                r = step(i);
                if (r == GOES_ON)
                        submit(i);
                else
                        finish(i, r, r ? i->late_reason : ""); /* it may be gone by now */
                return;
        }
        i->doubt = i->doubt || (r == STOKE_UNKNOWN && i->what == WHAT_COMMIT);
        if (may_get_better(r) && clock_now_ns() - i->since_ns < patience) {
                if (i->n_failures == TELL_FAILURES)
                        log_at(LOG_LEVEL_WARNING, &context, "what is installed of it makes no progress: %s",
                                reason_of(job));
                loop_timer_set(i->config.loop, &i->timer,
                        clock_now_ns() + min_of(RETRY_NS << min_of(i->n_failures, 6u), LONGEST_RETRY_NS));
                i->n_failures++;
                return;
        }
        if (i->doubt && r != STOKE_ENDED)
                r = STOKE_UNKNOWN;
        finish(i, r, reason_of(job));
}

static void start(struct install *i, enum what what, install_done_fn done) {
        check(i->what == WHAT_NOTHING && !i->running);
        i->what = what;
        i->done = done;
        i->since_ns = clock_now_ns();
        i->n_failures = 0;
        i->doubt = false;
        i->late_reason[0] = '\0';
}

int install_new(const struct install_config *config, struct install **ret) {
        struct install *i = new0(struct install);

        i->config = *config;
        i->name = strdup(config->name);
        if (!i->name) {
                free(i);
                return -ENOMEM;
        }
        i->config.name = i->name;
        i->keyspace.name = i->name;
        memcpy(i->keyspace.incarnation, config->incarnation, sizeof(i->keyspace.incarnation));
        i->driver = datastore_driver(config->datastore);
        i->limits = i->driver->limits;
        i->timer.on_time = on_timer;
        i->late_task.run = on_late;
        *ret = i;
        return 0;
}

void install_free(struct install *i) {
        if (!i)
                return;
        loop_timer_clear(&i->timer);
        loop_undefer(i->config.loop, &i->late_task);
        i->freed = true;
        maybe_free(i);
}

void install_begin(struct install *i, install_done_fn done) {
        start(i, WHAT_BEGIN, done);
        submit(i);
}

void install_set_userdata(struct install *i, void *userdata) {
        i->config.userdata = userdata;
}

uint64_t install_seq(const struct install *i) {
        return i->seq;
}

const struct stoke_limits *install_limits(const struct install *i) {
        return &i->limits;
}

void install_feed(struct install *i, struct stream_piece *piece, install_done_fn done) {
        start(i, WHAT_FEED, done);
        i->piece = piece;
        i->at = i->n = 0;
        if (next_batch(i) < 0)
                finish_later(i, -EMSGSIZE);
        else if (i->n == 0)
                finish_later(i, 0);
        else
                submit(i);
}

void install_commit(struct install *i, uint64_t seq, int64_t revision, install_done_fn done) {
        start(i, WHAT_COMMIT, done);
        i->commit_seq = seq;
        i->commit_revision = revision;
        install_record(i->config.id, seq + 1, revision, &i->last);
        submit(i);
}

void install_abort(struct install *i, install_done_fn done) {
        start(i, WHAT_ABORT, done);
        submit(i);
}
