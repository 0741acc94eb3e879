#include "fleet/clone.h"

/*
 * The new tenant's record first, in phase Installing; then, on the old one's shard, a tap on its log and a pump into the new one's datastore; the record
 * is made Ready when all is committed. Whatever fails before that leaves a record in that phase, with which installing.c removes what there is.
 *
 * One errand stays on the shard from the tap's opening to the commit, or until a second one ends it.
 */

#include <pthread.h>
#include <string.h>

#include "base/owner.h"
#include "fleet/state.h"
#include "fleet/tail.h"
#include "fleet/tap.h"
#include "fleet/uuid.h"
#include "keyspace/install.h"

#define PATIENCE_NS (60 * NSEC_PER_SEC)

struct clone {
        struct copying copying;       /* of the source */
        struct installing installing; /* of the new one */
        struct fleet *fleet;          /* borrowed */
        struct clone_config config;
        char *source, *name; /* owned */
        bool refused, waits_recorded, closing, ended;
        int result;
        char *reason; /* owned */
        struct loop_task end_task;

        /* The shard's, from the first errand to the end of the second. */
        struct loop *shard;       /* borrowed */
        struct tenant *tenant;    /* the source */
        struct datastore *target; /* borrowed */
        uint8_t incarnation[16], id[16], cluster[16];
        struct errand *errand; /* the first; NULL: it has returned */
        struct tap *tap;       /* owned */
        struct pump *pump;     /* owned */
        struct tail tail;
        bool committed;
        uint32_t owner;

        pthread_mutex_t mutex;
        struct clone_figures figures;
};

static void set_result(struct clone *c, int result, const char *reason) {
        if (c->result != 0 || result == 0)
                return;
        c->result = result < 0 ? result : -EAGAIN;
        c->reason = strdup(reason && reason[0] ? reason : strerror(-c->result));
        check(c->reason);
}

static void finish(struct clone *c) {
        c->config.done(c->config.userdata, c->result, c->reason ? c->reason : "");
        check(!c->tap && !c->pump);
        pthread_mutex_destroy(&c->mutex);
        free(c->reason);
        free(c->source);
        free(c->name);
        free(c);
}

/* ---- on the shard */

static void return_errand(struct clone *c, int result, const char *reason) {
        struct errand *errand = steal(c->errand);

        if (!errand)
                return;
        errand->result = result;
        snprintf(errand->reason, sizeof(errand->reason), "%.250s", reason ? reason : "");
        errand_return(errand);
}

static void on_committed(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;

        c->committed = result == 0;
        return_errand(c, result, reason);
}

static void on_tail_fed(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;

        if (result != 0)
                return_errand(c, result, reason);
        else
                install_commit(pump_install(c->pump), c->tail.seq, c->tail.revision, on_committed);
}

static void on_pumped(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;
        const struct tap_about *about = tap_about(c->tap);
        struct tail_config tail = {
                .seq = about->end.seq,
                .revision = about->archive.revision,
                .leases = about->leases,
                .n_leases = about->n_leases,
        };

        if (result == -ENOENT) {
                return_errand(c, -EAGAIN, "it has moved, and where it was it is dropped: begin again");
                return;
        }
        if (result != 0) {
                return_errand(c, result, reason);
                return;
        }
        memcpy(tail.id, c->id, 16);
        check(tail_make(&tail, &c->tail) == 0);
        if (c->tail.piece)
                install_feed(pump_install(c->pump), steal(c->tail.piece), on_tail_fed);
        else
                on_tail_fed(c, 0, "");
}

static void on_progress(void *userdata) {
        struct clone *c = userdata;
        struct pump_status status;

        pump_get_status(c->pump, &status);
        pthread_mutex_lock(&c->mutex);
        c->figures.bytes = status.bytes;
        pthread_mutex_unlock(&c->mutex);
}

static void on_tap_open(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;
        const struct tap_about *about = tap_about(c->tap);
        struct pump_config config = {
                .source = {.datastore = about->datastore,
                        .name = c->source,
                        .upto = about->end.seq,
                        .pinned = true,
                        .patience_ns = PATIENCE_NS,
                        .throttle = c->fleet->throttle},
                .target = {.datastore = c->target, .name = c->name, .patience_ns = PATIENCE_NS},
                .loop = c->shard,
                .on_progress = on_progress,
                .on_done = on_pumped,
                .userdata = c,
        };

        if (result == 0) {
                pthread_mutex_lock(&c->mutex);
                c->figures.bytes_all = about->bytes;
                pthread_mutex_unlock(&c->mutex);
                memcpy(config.source.incarnation, about->incarnation, 16);
                memcpy(config.target.incarnation, c->incarnation, 16);
                memcpy(config.target.id, c->id, 16);
                result = pump_new(&config, &c->pump);
                reason = "its log cannot be read in pieces";
        }
        if (result != 0)
                return_errand(c, result, reason);
}

static void on_tap_lost(void *userdata, const char *reason) {
        struct clone *c = userdata;

        pump_free(steal(c->pump));
        return_errand(c, -EAGAIN, reason);
}

static void open_there(struct errand *errand) {
        struct clone *c = errand->userdata;
        struct tap_config config = {
                .loop = c->shard,
                .keyspace = tenant_keyspace(c->tenant),
                .on_open = on_tap_open,
                .on_lost = on_tap_lost,
                .userdata = c,
        };

        owner_set(c->owner);
        memcpy(config.cluster, c->cluster, 16);
        c->errand = errand;
        c->tap = tap_new(&config);
        tap_there_open(c->tap);
}

static void close_there(struct errand *errand) {
        struct clone *c = errand->userdata;

        owner_set(c->owner);
        pump_free(steal(c->pump));
        if (c->tap)
                tap_there_close(c->tap);
        tap_free(steal(c->tap));
        stream_piece_free(steal(c->tail.piece));
        return_errand(c, -ECANCELED, "");
        errand_return(errand);
}

/* ---- on the main thread */

static void on_served(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;

        set_result(c, result, reason);
        finish(c);
}

static void close_back(struct errand *errand) {
        struct clone *c = errand->userdata;
        struct assignment *a = c->installing.assignment;
        bool served = c->committed && a && !a->gone;

        copying_leave(&c->copying);
        installing_leave(&c->installing, c->committed);
        if (served)
                assignment_wait(a, WAIT_SERVED, on_served, c);
        else {
                set_result(c, -EAGAIN, "the new tenant was removed");
                finish(c);
        }
}

static void close_all(struct clone *c) {
        if (c->closing)
                return;
        c->closing = true;
        errand_send(c->shard, c->fleet->loop, close_there, close_back, c);
}

static void open_back(struct errand *errand) {
        struct clone *c = errand->userdata;

        if (errand->result != 0)
                set_result(c, errand->result,
                        errand->result > 0
                                ? "whether it was committed is not known yet; the new tenant says what becomes of it"
                                : errand->reason);
        close_all(c);
}

static void cancel(struct clone *c, const char *reason) {
        if (c->refused || c->ended)
                return;
        set_result(c, -ECANCELED, reason);
        if (!c->waits_recorded)
                close_all(c);
}

static void on_cancel_copying(struct copying *copying, const char *reason) {
        cancel(container_of(copying, struct clone, copying), reason);
}

static void on_cancel_installing(struct installing *installing, const char *reason) {
        cancel(container_of(installing, struct clone, installing), reason);
}

void clone_cancel(struct clone *c) {
        cancel(c, "nobody waits for it any more");
}

void clone_get(struct clone *c, struct clone_figures *ret) {
        pthread_mutex_lock(&c->mutex);
        *ret = c->figures;
        pthread_mutex_unlock(&c->mutex);
}

/* NULL: why not is the result. */
static struct assignment *find_source(struct clone *c) {
        struct assignment *a = fleet_find_assignment(c->fleet, c->source);
        cleanup(freep) char *text = NULL;
        int n, r = -EBUSY;

        if (!a || a->gone || !assignment_record(a)) {
                r = -ENOENT;
                n = asprintf(&text, "no such tenant: %.80s", c->source);
        } else if (assignment_is_elsewhere(a))
                n = asprintf(&text, "tenant %s is on host %s, whose daemon alone can read it", a->name,
                        assignment_record(a)->host_name);
        else if (a->wanted.quarantined)
                n = asprintf(&text, "tenant %s is quarantined", a->name);
        else if (!a->serving || a->busy) {
                r = -EAGAIN;
                n = asprintf(&text, "tenant %s is not served at this moment", a->name);
        } else
                return a;
        check(n > 0);
        set_result(c, r, text);
        return NULL;
}

static void on_end(struct loop_task *task) {
        finish(container_of(task, struct clone, end_task));
}

static void end_soon(struct clone *c) {
        c->ended = true;
        c->end_task.run = on_end;
        loop_defer(c->fleet->loop, &c->end_task);
}

static void on_recorded(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;
        struct assignment *a = fleet_find_assignment(c->fleet, c->name), *source;
        struct fleet_store *store;

        c->waits_recorded = false;
        set_result(c, result, reason);
        source = c->result == 0 ? find_source(c) : NULL;
        store = source ? fleet_find_store(c->fleet, a->record->datastore) : NULL;
        if (source && (!store || !store->ds || store->leaving))
                set_result(c, -EAGAIN, "the datastore is being closed");
        if (c->result != 0) {
                end_soon(c); /* what is recorded is removed, as nothing brings its data */
                return;
        }
        memcpy(c->incarnation, a->record->incarnation, 16);
        memcpy(c->id, a->record->installation, 16);
        memcpy(c->cluster, source->record->cluster, 16);
        c->target = store->ds;
        c->shard = source->shard->loop;
        c->tenant = source->serving;
        c->owner = source->owner;
        installing_enter(&c->installing, a);
        a->store = store;
        copying_enter(&c->copying, source);
        errand_send(c->shard, c->fleet->loop, open_there, open_back, c);
}

static void on_refused(void *userdata, int result, const char *reason) {
        struct clone *c = userdata;

        set_result(c, result, reason);
        finish(c);
}

struct clone *fleet_clone_tenant(struct fleet *fleet, const struct clone_config *config) {
        struct clone *c = new0(struct clone);
        struct fleet_store *store;
        struct assignment *a;

        c->fleet = fleet;
        c->config = *config;
        c->source = strdup(config->source);
        c->name = strdup(config->create.name);
        check(c->source && c->name);
        c->copying.cancel = on_cancel_copying;
        c->installing.cancel = on_cancel_installing;
        pthread_mutex_init(&c->mutex, NULL);
        if (fleet_is_running(fleet) && !find_source(c)) {
                end_soon(c);
                return c;
        }
        c->refused = true;
        store = fleet_place_tenant(fleet, &config->create, on_refused, c);
        if (!store)
                return c;
        c->refused = false;
        a = fleet_assign_installing(fleet, &config->create, store);
        c->waits_recorded = true;
        assignment_wait(a, WAIT_RECORDED, on_recorded, c);
        assignment_step(a);
        return c;
}
