/*
 * A pump: a stream into an installation. One session reads from the source while another writes to the target: a piece is fed while the next
 * ones are being read, as many as the stream reads ahead. The loop only passes them on.
 *
 * Where the target has lost what was fed (it crashed), it is asked what it has, and the stream is begun again behind that.
 */

#include <errno.h>
#include <string.h>

#include "keyspace/install.h"
#include "keyspace/stream_piece.h"

#define PROGRESS_NS (200 * NSEC_PER_MSEC)
#define FEED_BYTES ((size_t)2 * 1024 * 1024) /* at a time, if so much waits */
#define MOST_LOSSES 5                        /* of the target, in one life of a pump */

struct pump {
        struct pump_config config;
        char *source_name; /* owned */
        struct stream *stream;
        struct install *install;
        bool feeding, ended, finishing;
        struct stoke_end finish;
        unsigned n_losses;
        size_t piece_records, piece_bytes;
        uint64_t piece_seq;
        int64_t piece_revision;
        uint64_t told; /* caught up with the source when it ended here; 0: not yet */
        struct loop_timer progress;
        struct loop_task task; /* looks what is to do */
        struct pump_status status;
};

static void on_begun(void *userdata, int result, const char *reason);

static void done(struct pump *p, int result, const char *reason) {
        if (p->ended)
                return;
        p->ended = true;
        loop_timer_clear(&p->progress);
        install_set_userdata(p->install, p->config.userdata); /* it is for others to end it */
        if (p->config.on_done)
                p->config.on_done(p->config.userdata, result, reason);
}

static void on_progress(struct loop_timer *timer) {
        struct pump *p = container_of(timer, struct pump, progress);

        if (p->config.on_progress)
                p->config.on_progress(p->config.userdata);
}

static void on_fed(void *userdata, int result, const char *reason) {
        struct pump *p = userdata;

        p->feeding = false;
        if (p->ended)
                return;
        if (result == -ESTALE && ++p->n_losses <= MOST_LOSSES) {
                stream_free(steal(p->stream));
                p->status.begun = p->status.caught_up = false;
                p->told = 0;
                install_begin(p->install, on_begun);
                return;
        }
        if (result != 0) {
                done(p, result, reason);
                return;
        }
        p->status.n_records += p->piece_records;
        p->status.bytes += p->piece_bytes;
        p->status.seq = install_seq(p->install);
        p->status.revision = max_of(p->status.revision, p->piece_revision);
        if (!p->progress.position)
                loop_timer_set(p->config.loop, &p->progress, loop_now_ns(p->config.loop) + PROGRESS_NS);
        loop_defer(p->config.loop, &p->task);
}

static void feed(struct pump *p, struct stream_piece *piece) {
        p->feeding = true;
        p->piece_records = piece->n;
        p->piece_bytes = piece->bytes;
        for (size_t k = 0; k < piece->n; k++)
                p->piece_revision = max_of(p->piece_revision, piece->records[k].revision);
        install_feed(p->install, piece, on_fed);
}

static void on_task(struct loop_task *task) {
        struct pump *p = container_of(task, struct pump, task);
        struct stream_piece *piece, *more;
        struct stream_status status;
        int r;

        if (p->feeding || p->ended || !p->stream)
                return;
        r = stream_next(p->stream, &piece);
        if (r == STREAM_PIECE) {
                /* With what else has been read meanwhile. */
                while (piece->bytes < FEED_BYTES && stream_next(p->stream, &more) == STREAM_PIECE)
                        check(stream_piece_join(piece, more) == 0);
                feed(p, piece);
                return;
        }
        stream_get_status(p->stream, &status);
        p->status.goal = status.goal;
        p->status.caught_up = status.caught_up;
        if (r != STREAM_WAIT) {
                done(p, r == STREAM_END ? 0 : r, status.reason);
        } else if (status.caught_up && status.goal.seq != p->told) {
                p->told = status.goal.seq;
                if (p->config.on_caught_up)
                        p->config.on_caught_up(p->config.userdata);
        }
}

static void on_ready(void *userdata) {
        struct pump *p = userdata;

        loop_defer(p->config.loop, &p->task);
}

static void on_begun(void *userdata, int result, const char *reason) {
        struct pump *p = userdata;
        struct stream_config source = p->config.source;
        int r;

        if (result != 0) {
                done(p, result, reason);
                return;
        }
        p->status.begun = true;
        p->status.seq = install_seq(p->install);
        source.name = p->source_name;
        source.loop = p->config.loop;
        source.after = install_seq(p->install);
        source.with_values = true;
        source.on_ready = on_ready;
        source.userdata = p;
        r = stream_new(&source, &p->stream);
        if (r < 0)
                done(p, r, r == -ENOTSUP ? "the source's driver cannot be read in parts" : strerror(-r));
        else if (p->finishing)
                stream_finish(p->stream, &p->finish);
}

int pump_new(const struct pump_config *config, struct pump **ret) {
        struct pump *p = new0(struct pump);
        struct install_config target = config->target;
        int r;

        p->config = *config;
        p->source_name = strdup(config->source.name);
        target.loop = config->loop;
        target.userdata = p;
        r = p->source_name ? install_new(&target, &p->install) : -ENOMEM;
        if (r < 0) {
                free(p->source_name);
                free(p);
                return r;
        }
        p->progress.on_time = on_progress;
        p->task.run = on_task;
        install_begin(p->install, on_begun);
        *ret = p;
        return 0;
}

void pump_free(struct pump *p) {
        if (!p)
                return;
        loop_timer_clear(&p->progress);
        loop_undefer(p->config.loop, &p->task);
        stream_free(p->stream);
        install_free(p->install);
        free(p->source_name);
        free(p);
}

void pump_get_status(struct pump *p, struct pump_status *ret) {
        struct stream_status status = {};

        if (p->stream) {
                stream_get_status(p->stream, &status);
                p->status.goal = status.goal;
        }
        *ret = p->status;
        ret->waiting_bytes = status.bytes > p->status.bytes ? status.bytes - p->status.bytes : 0;
        ret->caught_up = status.caught_up && status.end.seq == p->status.seq;
}

void pump_kick(struct pump *p) {
        if (p->stream)
                stream_kick(p->stream);
}

void pump_finish(struct pump *p, const struct stoke_end *end) {
        p->finishing = true;
        p->finish = *end;
        if (p->stream)
                stream_finish(p->stream, end);
}

struct install *pump_install(struct pump *p) {
        return p->install;
}
