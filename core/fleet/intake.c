#include "fleet/intake.h"

/*
 * Records gather in pieces, which are fed one after the other. A section of the archive is unpacked as a whole, so there may be several pieces that
 * wait; whoever brings the bytes is told to stop when they are many.
 */

#include <errno.h>
#include <string.h>

#include "fleet/tail.h"
#include "keyspace/record.h"
#include "keyspace/stream_piece.h"

#define PIECE_BYTES ((size_t)512 * 1024)
#define PIECE_RECORDS 4096
#define FULL_BYTES ((size_t)2 * 1024 * 1024)
#define MAX_LEASES 1000000
#define PATIENCE_NS (60 * NSEC_PER_SEC)

struct waiting {
        struct stream_piece *piece; /* owned */
        struct waiting *next;
};

struct intake {
        struct intake_config config;
        struct install *install;       /* owned */
        struct archive_reader *reader; /* owned */
        struct archive_about about;
        char tenant[256], version[256], driver[256];
        bool has_about;
        struct lease_left *leases; /* owned */
        size_t n_leases, leases_capacity;

        struct stream_piece *filling;  /* owned */
        struct waiting *first, **last; /* owned */
        size_t waiting_bytes;
        uint64_t taken;
        bool begun, feeding, ended, fed, was_full, tail_fed;
        int64_t above;
        struct tail tail;

        int result;
        char *reason; /* owned */
        struct loop_task told;
};

/* ---- failing and being done: told later */

static void on_told(struct loop_task *task) {
        struct intake *in = container_of(task, struct intake, told);

        if (in->fed)
                return;
        in->fed = true;
        in->config.on_fed(in->config.userdata, in->result, in->reason ? in->reason : "");
}

static void fail(struct intake *in, int result, const char *reason) {
        if (in->result != 0)
                return;
        in->result = result < 0 ? result : -EIO;
        in->reason = strdup(reason && reason[0] ? reason : strerror(-in->result));
        check(in->reason);
        loop_defer(in->config.loop, &in->told);
}

/* ---- feeding */

static void go_on(struct intake *in);

static void on_fed(void *userdata, int result, const char *reason) {
        struct intake *in = userdata;

        in->feeding = false;
        if (result != 0)
                fail(in, result, result > 0 ? "the installation was ended by somebody else" : reason);
        go_on(in);
        if (in->was_full && !intake_is_full(in)) {
                in->was_full = false;
                in->config.on_room(in->config.userdata);
        }
}

static void on_begun(void *userdata, int result, const char *reason) {
        struct intake *in = userdata;

        in->begun = result == 0;
        if (result != 0)
                fail(in, result, result > 0 ? "the installation was ended by somebody else" : reason);
        go_on(in);
}

static void push(struct intake *in) {
        struct waiting *w = new0(struct waiting);

        w->piece = steal(in->filling);
        in->waiting_bytes += w->piece->bytes;
        *in->last = w;
        in->last = &w->next;
}

static struct stream_piece *pop(struct intake *in) {
        struct waiting *w = in->first;
        struct stream_piece *piece;

        if (!w)
                return NULL;
        in->first = w->next;
        if (!in->first)
                in->last = &in->first;
        piece = w->piece;
        in->waiting_bytes -= piece->bytes;
        free(w);
        return piece;
}

bool intake_is_full(const struct intake *in) {
        return in->result == 0 && in->waiting_bytes >= FULL_BYTES;
}

static void go_on(struct intake *in) {
        struct stream_piece *piece;

        if (in->result != 0 || !in->begun || in->feeding)
                return;
        if (!in->first && in->filling && in->ended)
                push(in);
        piece = pop(in);
        if (piece) {
                in->feeding = true;
                install_feed(in->install, piece, on_fed);
        } else if (in->ended)
                loop_defer(in->config.loop, &in->told);
}

/* ---- what the archive says */

static int take_about(void *userdata, const struct archive_about *about) {
        struct intake *in = userdata;

        in->about = *about;
        snprintf(in->tenant, sizeof(in->tenant), "%s", about->tenant);
        snprintf(in->version, sizeof(in->version), "%s", about->version);
        snprintf(in->driver, sizeof(in->driver), "%s", about->driver);
        in->about.tenant = in->tenant;
        in->about.version = in->version;
        in->about.driver = in->driver;
        in->has_about = true;
        return 0;
}

static int take_lease(void *userdata, const struct archive_lease *lease) {
        struct intake *in = userdata;

        if (in->n_leases == in->leases_capacity) {
                size_t capacity = in->leases_capacity ? in->leases_capacity * 2 : 64;
                struct lease_left *leases =
                        capacity <= 2 * MAX_LEASES ? reallocarray(in->leases, capacity, sizeof(*leases)) : NULL;

                if (!leases)
                        return -ENOMEM;
                in->leases = leases;
                in->leases_capacity = capacity;
        }
        in->leases[in->n_leases++] = (struct lease_left){lease->id, lease->ttl, lease->left_ms};
        return 0;
}

static int take_record(void *userdata, const struct stoke_record *record) {
        struct intake *in = userdata;
        int r;

        if (record_hash(record) != record->hash)
                return -EUCLEAN;
        if (!in->filling)
                in->filling = stream_piece_new();
        r = stream_piece_add(in->filling, record);
        if (r == 0 && (in->filling->bytes >= PIECE_BYTES || in->filling->n >= PIECE_RECORDS))
                push(in);
        return r;
}

void intake_feed(struct intake *in, struct bytes data) {
        cleanup(error_done) struct error err = {};
        struct archive_figures figures;
        int r;

        if (in->result != 0 || in->ended)
                return;
        r = archive_reader_feed(in->reader, data, &err);
        if (r == -EUCLEAN)
                fail(in, -EINVAL, "the backup is damaged: a record does not have its hash");
        else if (r == -EBADMSG || r == -EPROTONOSUPPORT)
                fail(in, -EINVAL, error_text(&err));
        else if (r < 0)
                fail(in, r, error_text(&err));
        archive_reader_figures(in->reader, &figures);
        in->taken = figures.file_bytes;
        in->was_full = in->was_full || intake_is_full(in);
        go_on(in);
}

void intake_end(struct intake *in) {
        cleanup(error_done) struct error err = {};

        if (in->result != 0 || in->ended)
                return;
        in->ended = true;
        if (archive_reader_finish(in->reader, &err) < 0)
                fail(in, -EINVAL, error_text(&err));
        go_on(in);
}

/* ---- committing */

static void on_committed(void *userdata, int result, const char *reason) {
        struct intake *in = userdata;

        in->config.on_committed(in->config.userdata, result, reason);
}

static void on_tail_fed(void *userdata, int result, const char *reason) {
        struct intake *in = userdata;

        if (result != 0)
                on_committed(in, result, reason);
        else
                install_commit(in->install, in->tail.seq, in->tail.revision, on_committed);
}

void intake_commit(struct intake *in, int64_t above) {
        struct tail_config config = {
                .seq = in->about.end,
                .revision = in->about.revision,
                .above = above,
                .leases = in->leases,
                .n_leases = in->n_leases,
        };

        check(in->fed && in->result == 0);
        memcpy(config.id, in->config.id, 16);
        check(tail_make(&config, &in->tail) == 0);
        if (in->tail.piece)
                install_feed(in->install, steal(in->tail.piece), on_tail_fed);
        else
                on_tail_fed(in, 0, "");
}

/* ---- life */

int intake_new(const struct intake_config *config, struct intake **ret) {
        static const struct archive_handler handler = {take_about, take_lease, take_record};
        cleanup(intake_freep) struct intake *in = new0(struct intake);
        struct install_config install = {
                .datastore = config->datastore,
                .name = config->name,
                .loop = config->loop,
                .patience_ns = PATIENCE_NS,
                .userdata = in,
        };
        int r;

        in->config = *config;
        in->last = &in->first;
        in->told.run = on_told;
        in->reader = archive_reader_new(&handler, in);
        memcpy(install.incarnation, config->incarnation, 16);
        memcpy(install.id, config->id, 16);
        r = install_new(&install, &in->install);
        if (r < 0)
                return r;
        install_begin(in->install, on_begun);
        *ret = steal(in);
        return 0;
}

void intake_free(struct intake *in) {
        struct stream_piece *piece;

        if (!in)
                return;
        loop_undefer(in->config.loop, &in->told);
        install_free(in->install);
        archive_reader_free(in->reader);
        while ((piece = pop(in)))
                stream_piece_free(piece);
        stream_piece_free(in->filling);
        stream_piece_free(in->tail.piece);
        free(in->leases);
        free(in->reason);
        free(in);
}

uint64_t intake_taken(const struct intake *in) {
        return in->taken;
}

const struct archive_about *intake_about(const struct intake *in) {
        return in->has_about ? &in->about : NULL;
}
