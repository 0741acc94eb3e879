#include "fleet/state.h"

/*
 * What others may see of migrations: of one that is done here, all; of another daemon's, what the record says. And what is counted of them.
 */

#include <string.h>
#include <time.h>

#include "base/metrics.h"
#include "fleet/migration_state.h"

/* What is copied and how fast, and for how long it will go on so. */
static void add_progress(const struct migration *mine, struct fleet_migration_view *view) {
        struct mover_figures f = mine->figures;
        double seconds;

        if (mine->mover)
                mover_get(mine->mover, &f);
        view->bytes = f.bytes;
        view->records = f.n_records;
        view->bytes_all = max_of(f.bytes_all, f.bytes);
        view->records_to_go = f.records_to_go;
        view->step = f.step ? f.step : "";
        seconds = f.began_ns ? (double)(clock_now_ns() - f.began_ns) / 1e9 : 0;
        if (seconds > 0.1)
                view->rate = (double)f.bytes / seconds;
        view->seconds_to_go = -1;
        if (view->rate > 1 && f.stage == MOVER_COPYING)
                view->seconds_to_go = (double)(view->bytes_all - f.bytes) / view->rate;
        if (f.stage >= MOVER_READY)
                view->seconds_to_go = 0;
        if (f.hold_began_ns)
                view->hold_ns = clock_now_ns() - f.hold_began_ns;
}

static bool fill(struct assignment *a, struct fleet_migration_view *view) {
        const struct registry_record *record = a->record;
        const struct registry_migration *m;
        const struct registry_previous *p;
        const struct registry_moved *moved;

        *view = (struct fleet_migration_view){.tenant = a->name, .step = "", .reason = "", .seconds_to_go = -1};
        if (!record || a->gone)
                return false;
        m = assignment_record(a)->migration ? assignment_record(a)->migration : record->migration;
        if (!m && a->want_move)
                m = a->want_move;
        p = record->previous;
        moved = record->moved;
        if (p) {
                view->former = p->datastore;
                view->former_until = p->until;
        }
        if (m) {
                view->id = m->id;
                view->phase = migration_phase_name(m->phase);
                view->is_running = true;
                view->back = m->back;
                view->from = record->datastore;
                view->to = m->datastore;
                view->reason = m->reason;
                view->started = m->started;
                view->owner = m->owner;
                view->is_here = memcmp(m->owner, a->fleet->config.daemon, 16) == 0;
                if (a->migration && view->is_here && memcmp(a->migration->id, m->id, 16) == 0) {
                        add_progress(a->migration, view);
                        if (!a->migration->mover && m->phase == MIGRATION_COPYING)
                                view->step = "waiting for its turn";
                }
                return true;
        }
        if (!moved)
                return false;
        view->id = moved->id;
        view->phase = moved->reason[0] ? "Failed" : "Done";
        view->from = moved->from;
        view->to = moved->to;
        view->reason = moved->reason;
        view->started = moved->started;
        view->finished = moved->finished;
        view->bytes = view->bytes_all = (uint64_t)moved->bytes;
        view->records = (uint64_t)moved->records;
        view->hold_ns = (uint64_t)moved->hold_us * NSEC_PER_USEC;
        if (moved->finished > moved->started)
                view->rate = (double)moved->bytes / (double)(moved->finished - moved->started);
        return true;
}

void fleet_each_migration(
        struct fleet *fleet, void (*visit)(void *userdata, const struct fleet_migration_view *view), void *userdata) {
        struct fleet_migration_view view;
        struct assignment *a;

        LIST_FOREACH(a, &fleet->assignments, entry)
                if (fill(a, &view))
                        visit(userdata, &view);
}

bool fleet_find_migration(struct fleet *fleet, const char *tenant,
        void (*visit)(void *userdata, const struct fleet_migration_view *view), void *userdata) {
        struct assignment *a = fleet_find_assignment(fleet, tenant);
        struct fleet_migration_view view;

        if (!a || !fill(a, &view))
                return false;
        visit(userdata, &view);
        return true;
}

/* ---- counted */

void migration_count(const char *result, const struct mover_figures *figures, uint64_t hold_ns) {
        char label[32];

        snprintf(label, sizeof(label), "result=\"%s\"", result);
        metric_add(metric_counter(
                           "stokehold_migrations_total", "Migrations that this daemon did, by how they ended.", label),
                1);
        metric_add(metric_counter("stokehold_migration_bytes_total", "Keys and values copied by migrations.", NULL),
                (double)figures->bytes);
        if (hold_ns)
                metric_observe(metric_histogram("stokehold_migration_hold_seconds",
                                       "For how long clients had to wait at a switch.", NULL, metric_seconds_bounds,
                                       metric_seconds_n_bounds),
                        (double)hold_ns / 1e9);
}

void migration_publish(const struct fleet *fleet) {
        metric_set(
                metric_gauge("stokehold_migrations_running", "Tenants that this daemon copies or switches now.", NULL),
                (double)fleet->n_movers);
}

bool migration_uses(const struct assignment *a, const struct fleet_store *store) {
        const struct registry_record *records[] = {a->record, a->next};

        for (size_t i = 0; i < n_elements(records); i++) {
                const struct registry_record *r = records[i];

                if (r && !a->gone &&
                        ((r->migration && strcmp(r->migration->datastore, store->name) == 0) ||
                                (r->previous && strcmp(r->previous->datastore, store->name) == 0)))
                        return true;
        }
        return false;
}

bool migration_holds(const struct assignment *a, const struct fleet_store *store) {
        return a->former == store || (a->migration && a->migration->store == store);
}
