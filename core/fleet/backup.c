#include "fleet/backup.h"

/*
 * One backup: an errand opens the tap on the tenant's shard; its end starts the thread, which reads the stream, packs, and writes; the thread's end
 * is posted back; an errand closes the tap; done. Cancelling makes the step that runs end early, and goes the same way.
 */

#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "base/owner.h"
#include "base/thread.h"
#include "fleet/state.h"
#include "fleet/tap.h"

#define PATIENCE_NS (30 * NSEC_PER_SEC)

struct backup {
        struct copying copying;
        struct fleet *fleet; /* borrowed */
        struct backup_config config;
        struct loop *shard;    /* borrowed */
        struct tenant *tenant; /* the shard's */
        struct datastore *ds;
        struct tap *tap;        /* owned */
        struct stream *stream;  /* owned; the shard's to make and to free */
        struct errand *opening; /* the errand that waits for the tap; the shard's */
        uint32_t owner;
        struct archive_about about;
        bool begun, closing;

        pthread_t thread;
        bool has_thread;
        struct loop_task ended, prompt;

        pthread_mutex_t mutex;
        bool cancelled;
        char *cancel_reason; /* owned; the first one counts */
        int result;
        char *reason; /* owned */
        struct archive_figures figures;
};

static void set_result(struct backup *b, int result, const char *reason) {
        pthread_mutex_lock(&b->mutex);
        if (b->result == 0 && result != 0) {
                b->result = result;
                b->reason = strdup(reason && reason[0] ? reason : strerror(-result));
                check(b->reason);
        }
        pthread_mutex_unlock(&b->mutex);
}

static bool is_cancelled(struct backup *b) {
        bool cancelled;

        pthread_mutex_lock(&b->mutex);
        cancelled = b->cancelled;
        pthread_mutex_unlock(&b->mutex);
        return cancelled;
}

static void finish(struct backup *b) {
        tap_free(b->tap);
        copying_leave(&b->copying);
        if (b->cancelled && b->result != 0) {
                b->result = -ECANCELED;
                free(b->reason);
                b->reason = steal(b->cancel_reason);
        }
        b->config.done(
                b->config.userdata, b->result, b->reason ? b->reason : "", b->begun ? &b->about : NULL, &b->figures);
        pthread_mutex_destroy(&b->mutex);
        free(b->cancel_reason);
        free(b->reason);
        free((char *)b->config.name);
        free((char *)b->about.tenant);
        free(b);
}

/* ---- the thread */

static int to_sink(void *userdata, struct bytes data) {
        struct backup *b = userdata;
        cleanup(error_done) struct error err = {};
        int r = is_cancelled(b) ? -ECANCELED : b->config.write(b->config.userdata, data, &err);

        if (r < 0)
                set_result(b, r, error_text(&err));
        return r;
}

static int write_leases(struct backup *b, struct archive_writer *w) {
        const struct tap_about *about = tap_about(b->tap);
        int r = 0;

        for (size_t i = 0; i < about->n_leases && r == 0; i++)
                r = archive_write_lease(w,
                        &(struct archive_lease){about->leases[i].id, about->leases[i].ttl, about->leases[i].left_ms});
        return r;
}

static int write_records(struct backup *b, struct archive_writer *w) {
        for (;;) {
                cleanup(stream_piece_freep) struct stream_piece *piece = NULL;
                struct stream_status status;
                int r = stream_take(b->stream, UINT64_MAX, &piece);

                if (r == STREAM_END)
                        return 0;
                if (r != STREAM_PIECE) {
                        stream_get_status(b->stream, &status);
                        if (r == -ENOENT) {
                                set_result(b, -EAGAIN, "it has moved, and where it was it is dropped: begin again");
                                return -EAGAIN;
                        }
                        set_result(b, r < 0 ? r : -EIO, status.reason);
                        return r < 0 ? r : -EIO;
                }
                for (size_t i = 0; i < piece->n; i++) {
                        r = archive_write_record(w, &piece->records[i]);
                        if (r == -EMSGSIZE)
                                set_result(b, r, "a record is larger than a backup can hold");
                        if (r < 0)
                                return r;
                }
                archive_writer_figures(w, &b->figures);
        }
}

static int make(struct backup *b) {
        cleanup(archive_writer_freep) struct archive_writer *w = NULL;
        cleanup(error_done) struct error err = {};
        int r;

        r = archive_writer_new(&b->about, to_sink, b, &w);
        if (r == 0)
                r = write_leases(b, w);
        if (r == 0)
                r = write_records(b, w);
        if (r == 0) {
                r = archive_write_end(w);
                if (r == -EBADMSG)
                        set_result(b, -EIO, "the datastore did not give all of its log");
        }
        if (w)
                archive_writer_figures(w, &b->figures);
        if (r == 0 && b->config.close) {
                r = b->config.close(b->config.userdata, &err);
                if (r < 0)
                        set_result(b, r, error_text(&err));
        }
        return r;
}

static void *run(void *userdata) {
        struct backup *b = userdata;
        int r;

        owner_set(b->owner);
        r = make(b);
        set_result(b, r, "");
        loop_post(b->fleet->loop, &b->ended);
        return NULL;
}

/* ---- on the shard */

static void open_stream(struct backup *b) {
        const struct tap_about *about = tap_about(b->tap);
        struct stream_config config = {
                .datastore = about->datastore,
                .name = about->archive.tenant,
                .loop = b->shard,
                .upto = about->end.seq,
                .with_values = true,
                .pinned = true,
                .patience_ns = PATIENCE_NS,
                .throttle = b->fleet->throttle,
        };
        int r;

        memcpy(config.incarnation, about->incarnation, 16);
        r = stream_new(&config, &b->stream);
        if (r < 0)
                set_result(b, r, "its log cannot be read in pieces");
}

static void on_tap_open(void *userdata, int result, const char *reason) {
        struct backup *b = userdata;
        struct errand *errand = steal(b->opening);

        set_result(b, result, reason);
        if (result == 0)
                open_stream(b);
        errand_return(errand);
}

static void on_tap_lost(void *userdata, const char *reason) {
        struct backup *b = userdata;

        set_result(b, -EAGAIN, reason);
        if (b->stream)
                stream_stop(b->stream);
}

static void open_there(struct errand *errand) {
        struct backup *b = errand->userdata;
        struct tap_config config = {
                .loop = b->shard,
                .keyspace = tenant_keyspace(b->tenant),
                .throttle = b->fleet->throttle,
                .on_open = on_tap_open,
                .on_lost = on_tap_lost,
                .userdata = b,
        };

        owner_set(b->owner);
        memcpy(config.cluster, b->about.cluster, 16);
        b->opening = errand;
        b->tap = tap_new(&config);
        tap_there_open(b->tap);
}

static void close_there(struct errand *errand) {
        struct backup *b = errand->userdata;
        struct errand *opening = steal(b->opening);

        owner_set(b->owner);
        stream_free(steal(b->stream));
        if (b->tap)
                tap_there_close(b->tap);
        if (opening)
                errand_return(opening);
        errand_return(errand);
}

static void close_back(struct errand *errand) {
        finish(errand->userdata);
}

/* ---- on the main thread */

static void close_tap(struct backup *b) {
        if (b->closing)
                return;
        b->closing = true;
        errand_send(b->shard, b->fleet->loop, close_there, close_back, b);
}

static void on_ended(struct loop_task *task) {
        struct backup *b = container_of(task, struct backup, ended);

        pthread_join(b->thread, NULL);
        b->has_thread = false;
        close_tap(b);
}

static void open_back(struct errand *errand) {
        struct backup *b = errand->userdata;
        const struct tap_about *about = tap_about(b->tap);
        int r;

        if (b->closing)
                return;
        if (b->result != 0) {
                close_tap(b);
                return;
        }
        b->about = about->archive;
        b->about.tenant = strdup(about->archive.tenant);
        check(b->about.tenant);
        b->about.created = time(NULL);
        b->about.version = b->fleet->config.version ? b->fleet->config.version : "";
        b->begun = true;
        if (b->config.on_begun)
                b->config.on_begun(b->config.userdata, &b->about, about->bytes);
        r = thread_start(&b->thread, "backup", run, b);
        b->has_thread = r == 0;
        if (r < 0) {
                set_result(b, r, "no thread");
                close_tap(b);
        }
}

static void cancel(struct backup *b, const char *reason) {
        bool before;

        pthread_mutex_lock(&b->mutex);
        before = b->cancelled;
        b->cancelled = true;
        if (!b->cancel_reason)
                b->cancel_reason = strdup(reason);
        pthread_mutex_unlock(&b->mutex);
        if (before || !b->copying.assignment)
                return;
        if (b->has_thread) {
                stream_stop(b->stream);
                if (b->config.cancel)
                        b->config.cancel(b->config.userdata);
        } else if (!b->closing) {
                set_result(b, -ECANCELED, "");
                close_tap(b);
        }
}

static void on_cancel(struct copying *c, const char *reason) {
        cancel(container_of(c, struct backup, copying), reason);
}

void backup_cancel(struct backup *b) {
        cancel(b, "nobody waits for it any more");
}

static void on_prompt(struct loop_task *task) {
        finish(container_of(task, struct backup, prompt));
}

static struct backup *refuse(struct backup *b, int result, const char *format, ...) printf_like(3, 4);
static struct backup *refuse(struct backup *b, int result, const char *format, ...) {
        va_list ap;

        b->result = result;
        va_start(ap, format);
        check(vasprintf(&b->reason, format, ap) >= 0);
        va_end(ap);
        b->prompt.run = on_prompt;
        loop_defer(b->fleet->loop, &b->prompt);
        return b;
}

struct backup *fleet_backup_tenant(struct fleet *fleet, const struct backup_config *config) {
        struct backup *b = new0(struct backup);
        struct assignment *a = fleet_find_assignment(fleet, config->name);

        b->fleet = fleet;
        b->config = *config;
        b->config.name = strdup(config->name);
        check(b->config.name);
        b->ended.run = on_ended;
        b->copying.cancel = on_cancel;
        pthread_mutex_init(&b->mutex, NULL);
        if (!a || a->gone || !assignment_record(a))
                return refuse(b, -ENOENT, "no such tenant: %.80s", config->name);
        if (assignment_is_elsewhere(a))
                return refuse(b, -EBUSY, "tenant %s is on host %s, whose daemon alone can read it", a->name,
                        assignment_record(a)->host_name);
        if (a->wanted.quarantined)
                return refuse(b, -EBUSY, "tenant %s is quarantined", a->name);
        if (!a->serving || a->busy)
                return refuse(b, -EAGAIN, "tenant %s is not served at this moment%s%s", a->name, a->reason ? ": " : "",
                        a->reason ? a->reason : "");
        memcpy(b->about.cluster, a->record->cluster, 16);
        b->owner = a->owner;
        b->shard = a->shard->loop;
        b->tenant = a->serving;
        copying_enter(&b->copying, a);
        errand_send(b->shard, fleet->loop, open_there, open_back, b);
        return b;
}
