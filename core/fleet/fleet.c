#include "fleet/fleet.h"

/*
 * The fleet from its start to its stop. Start: plugins, definitions, datastores, the registry in one of them, then the tenants
 * that it knows, then those that definitions add. Stop is the reverse: tenants first (all at once), then the registry, then
 * datastores. In between everything happens by steps that end in fleet_settle(), which looks whether something that waited for
 * others (a start, a stop, a datastore to be closed) can go on.
 */

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fleet/endpoint.h"
#include "fleet/state.h"
#include "fleet/uuid.h"

#define REGISTRY_RETRY_NS (2 * NSEC_PER_SEC)
#define REGISTRY_LOST_RETRY_NS (30 * NSEC_PER_SEC)
#define CLOSE_GRACE_NS (2 * NSEC_PER_SEC)
#define COPY_PATIENCE_NS (3 * NSEC_PER_SEC) /* for the registry, before tenants are served from its copy */
#define MEMORY_IDLE_NS NSEC_PER_SEC         /* a keyspace used since is not closed for another's sake */

/* ---- settling */

static bool store_is_held(const struct fleet_store *store) {
        struct assignment *a;

        if (store->check || store->governance.running ||
                (store->fleet->registry_store == store && store->fleet->stage != FLEET_STOPPED))
                return true;
        LIST_FOREACH(a, &store->fleet->assignments, entry)
                if (a->store == store || migration_holds(a, store))
                        return true;
        return copying_holds(store->fleet, store);
}

static void close_leaving(struct fleet *fleet) {
        struct fleet_store *store, *following;

        for (store = LIST_FIRST(&fleet->stores); store; store = following) {
                following = LIST_NEXT(store, entry);
                if (!store->leaving || store_is_held(store))
                        continue;
                store_close(store, CLOSE_GRACE_NS);
                if (store->wanted) {
                        struct assignment *a, *next;

                        fleet_open_store(store);
                        for (a = LIST_FIRST(&fleet->assignments); a; a = next) {
                                next = LIST_NEXT(a, entry);
                                assignment_hurry(a);
                        }
                } else
                        store_free(store);
        }
}

static void on_registry_closed(void *userdata) {
        struct fleet *fleet = userdata;

        fleet->stage = FLEET_STOPPED;
        fleet->registry_store = NULL;
        fleet_settle(fleet);
}

static void on_left(void *userdata) {
        struct fleet *fleet = userdata;

        registry_close(fleet->registry, on_registry_closed, fleet);
}

static void finish_stop(struct fleet *fleet) {
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry)
                if (store_is_held(store))
                        return;
        if (fleet->n_collecting || !fleet->stopped)
                return;
        collect_save(fleet);
        while ((store = LIST_FIRST(&fleet->stores))) {
                store_close(store, CLOSE_GRACE_NS);
                store_free(store);
        }
        fleet->stopped(fleet->stopped_userdata);
        fleet->stopped = NULL;
}

/* Every tenant is served, or has said why not. */
static void tell_ready(struct fleet *fleet) {
        struct assignment *a;

        if (fleet->ready_told)
                return;
        LIST_FOREACH(a, &fleet->assignments, entry)
                if (!a->settled)
                        return;
        fleet->ready_told = true;
        if (fleet->config.on_ready)
                fleet->config.on_ready(fleet->config.userdata);
}

static void on_settle(struct loop_task *task) {
        struct fleet *fleet = container_of(task, struct fleet, settle_task);
        struct assignment *a, *following;
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry)
                store_update_use(store);
        endpoint_settle(fleet);

        switch (fleet->stage) {
        case FLEET_RUNNING:
                close_leaving(fleet);
                if (agreement_is_settled(fleet) || fleet->unfit)
                        tell_ready(fleet);
                break;
        case FLEET_OPENING:
                if (fleet->from_copy)
                        tell_ready(fleet);
                break;
        case FLEET_STOPPING:
                if (!transfers_are_over(fleet))
                        return;
                LIST_FOREACH(a, &fleet->assignments, entry)
                        if (a->busy || a->serving || a->installing || a->reading || !migration_is_still(a))
                                return;
                for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                        following = LIST_NEXT(a, entry);
                        assignment_free(a);
                }
                transfers_done(fleet); /* they have heard now what became of their tenants */
                if (!fleet->registry_closing) {
                        fleet->registry_closing = true;
                        members_leave(fleet->members, on_left, fleet);
                }
                break;
        case FLEET_STOPPED:
                finish_stop(fleet);
                break;
        default:
                break;
        }
}

void fleet_settle(struct fleet *fleet) {
        loop_defer(fleet->loop, &fleet->settle_task);
}

/* ---- the registry */

static void open_registry(struct fleet *fleet);

static void on_registry_time(struct loop_timer *timer) {
        open_registry(container_of(timer, struct fleet, registry_timer));
}

/* Who waits for its opening hears what has become of it. */
static void answer_registry(struct fleet *fleet, int result, const char *reason) {
        struct claim_waiter *waiter = steal(fleet->registry_waiter);

        if (waiter)
                waiter->done(waiter->userdata, result, reason);
        free(waiter);
}

static void registry_failed(struct fleet *fleet, const char *reason) {
        if (!fleet->registry_reason || strcmp(fleet->registry_reason, reason) != 0) {
                log_error("registry: %s; trying again", reason);
                free(fleet->registry_reason);
                fleet->registry_reason = strdup(reason);
                check(fleet->registry_reason);
        }
        loop_timer_set(fleet->loop, &fleet->registry_timer,
                clock_now_ns() + (fleet->registry_is_lost ? REGISTRY_LOST_RETRY_NS : REGISTRY_RETRY_NS));
}

/* Folders of tenants that are gone, left behind by a crash between the registry's record and the folder. */
static void remove_stale(struct fleet *fleet) {
        DIR *dir = opendir(fleet->tenants_dir);

        if (!dir)
                return;
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                cleanup(freep) char *name = NULL;
                size_t n = strlen(e->d_name);

                if (e->d_name[0] == '.')
                        continue;
                if (n > 5 && strcmp(e->d_name + n - 5, ".sock") == 0)
                        n -= 5;
                name = strndup(e->d_name, n);
                check(name);
                if (!fleet_find_assignment(fleet, name))
                        tenant_remove_paths(fleet->tenants_dir, name);
        }
        closedir(dir);
}

static void stop_serving(struct fleet *fleet, const char *reason) {
        struct assignment *a;

        free(fleet->unfit);
        fleet->unfit = strdup(reason);
        check(fleet->unfit);
        LIST_FOREACH(a, &fleet->assignments, entry)
                assignment_hurry(a); /* only stops now */
}

static void on_registry_open(void *userdata, int result, const char *reason) {
        struct fleet *fleet = userdata;
        struct assignment *a, *following;
        struct fleet_store *store;
        size_t n = 0;

        fleet->registry_opening = false;
        if (fleet->stage == FLEET_STOPPING)
                return;
        fleet->registry_is_foreign = result == -EPERM;
        fleet->registry_is_lost = result == -EBADMSG;
        if (result < 0) {
                registry_failed(fleet, reason);
                if (fleet->registry_waiter_is_due)
                        answer_registry(fleet, -EAGAIN, reason);
                if (result == -EPROTONOSUPPORT)
                        stop_serving(fleet, reason);
                else
                        fleet_serve_copy(fleet);
                return;
        }
        free(fleet->registry_reason);
        fleet->registry_reason = NULL;
        loop_timer_clear(&fleet->copy_start_timer);
        answer_registry(fleet, 0, "");
        fleet->stage = FLEET_RUNNING;
        fleet->from_copy = false;
        free(fleet->unfit);
        fleet->unfit = NULL;
        registry_copy_done(&fleet->copy);
        fleet->has_copy = false;
        fleet->shared_registry = store_is_shared(fleet->registry_store);
        fleet->has_identity = true;
        check(uuid_parse(registry_id(fleet->registry), fleet->identity.id) == 0);
        memcpy(fleet->identity.incarnation, registry_incarnation(fleet->registry), 16);
        governance_is_ours(fleet->registry_store);
        LIST_FOREACH(a, &fleet->assignments, entry)
                n++;
        log_info("registry %s in datastore %s: %zu tenants", registry_id(fleet->registry),
                registry_datastore(fleet->registry), n);
        remove_stale(fleet);
        if (fleet->shared_registry)
                members_enter(fleet->members);
        LIST_FOREACH(store, &fleet->stores, entry)
                if (store->is_dialled)
                        governance_look(store);
        agreement_consider(fleet);
        endpoint_changed(fleet);
        if (fleet->shared_registry && !fleet->agreement.agreed)
                fleet_apply_datastores(fleet); /* those that are in force as they are here */
        for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                following = LIST_NEXT(a, entry);
                assignment_step(a);
        }
        fleet_settle(fleet);
}

static void open_registry(struct fleet *fleet) {
        static const uint8_t no_recovery[16];
        const char *name = registry_datastore(fleet->registry);
        struct registry_open open = {.claim = fleet->claim_registry, .done = on_registry_open, .userdata = fleet};
        cleanup(freep) char *text = NULL;
        struct fleet_store *store;

        if (fleet->stage != FLEET_OPENING || fleet->registry_opening)
                return;
        if (!name)
                name = fleet->definitions->system_datastore->base.name;
        store = fleet_find_store(fleet, name);
        if (!store || !store->ds || store->leaving) {
                if (store)
                        check(asprintf(&text, "datastore %s: %s", name, store->validation.message) > 0);
                else
                        check(asprintf(&text, "datastore %s, which holds it, is not defined", name) > 0);
                registry_failed(fleet, text);
                return;
        }
        fleet->registry_store = store;
        fleet->registry_opening = true;
        fleet->registry_waiter_is_due = fleet->registry_waiter;
        fleet->claim_registry = false;
        if (registry_datastore(fleet->registry))
                open.known = known_logs_get(
                        fleet->known, REGISTRY_KEYSPACE, registry_incarnation(fleet->registry), no_recovery);
        fleet_listener(fleet, &open.listener);
        registry_open(fleet->registry, store->ds, &open);
}

/* ---- start and stop */

static void on_reload_time(struct loop_timer *timer) {
        fleet_reload(container_of(timer, struct fleet, reload_timer), false, NULL, NULL);
}

static void on_reloads_time(struct loop_timer *timer) {
        fleet_answer_reloads(container_of(timer, struct fleet, reloads_timer));
}

/* The registry takes its time. */
static void on_copy_start_time(struct loop_timer *timer) {
        fleet_serve_copy(container_of(timer, struct fleet, copy_start_timer));
}

/* Who lives has changed, or this daemon is seen by the others now. */
static void on_members(void *userdata) {
        struct fleet *fleet = userdata;

        if (fleet_is_running(fleet)) {
                agreement_consider(fleet);
                migration_members_changed(fleet);
                backup_plans_members_changed(fleet);
        }
}

static void on_apply(struct loop_task *task) {
        struct fleet *fleet = container_of(task, struct fleet, apply_task);

        if (fleet_is_running(fleet) && fleet->agreement.agreed)
                fleet_apply_tenants(fleet);
}

/* What this daemon is among others, and what it remembers of the registry. */
static int know_oneself(struct fleet *fleet, struct error *reterr) {
        static const struct format_range built = {STOKE_FORMAT_OLDEST, STOKE_FORMAT_CURRENT};
        const struct format_range *formats = fleet->config.formats.current ? &fleet->config.formats : &built;
        const char *state_dir = fleet->config.settings->state_dir;
        cleanup(error_done) struct error err = {};
        struct members_config members = {.loop = fleet->loop,
                .host = &fleet->host,
                .version = fleet->config.version ? fleet->config.version : "",
                .on_changed = on_members,
                .userdata = fleet};
        int r;

        r = host_read(state_dir, &fleet->host, reterr);
        if (r < 0)
                return r;
        r = registry_new(fleet->loop, state_dir, fleet->config.daemon, formats, &fleet->registry, reterr);
        if (r < 0)
                return r;
        members.registry = fleet->registry;
        memcpy(members.daemon, fleet->config.daemon, 16);
        fleet->members = members_new(&members);
        r = registry_copy_read(state_dir, formats, &fleet->copy, &err);
        if (r < 0 && r != -ENOENT)
                log_warning("registry: the copy of it cannot be used: %s", error_text(&err));
        fleet->has_copy = r >= 0;
        if (fleet->has_copy) {
                fleet->agreement.agreed_generation = fleet->copy.agreed_generation;
                fleet->agreement.agreed_fingerprint = fleet->copy.agreed_fingerprint;
        }
        return 0;
}

/* How the last daemon ended, and with whom. */
static int open_crashes(struct fleet *fleet, struct error *reterr) {
        const struct settings *settings = fleet->config.settings;
        const struct crash_config config = {
                .state_dir = settings->state_dir,
                .vmstat = "/proc/vmstat",
                .boot_id = "/proc/sys/kernel/random/boot_id",
        };
        struct crash_report report;
        int r;

        r = crash_table_open(&config, &report, &fleet->crashes, reterr);
        if (r < 0)
                return r;
        fleet->quarantine = quarantine_new(fleet->loop, settings->state_dir, &settings->quarantine_ns, &report);
        crash_report_done(&report);
        return 0;
}

int fleet_new(const struct fleet_config *config, struct fleet **ret, struct error *reterr) {
        const struct settings *settings = config->settings;
        cleanup(fleet_freep) struct fleet *fleet = NULL;
        cleanup(freep) char *datastores = NULL;
        struct plugin_table_config plugins = {
                .directory = settings->plugins_dir,
                .root_only = settings->root_only,
                .experimental = (const char *const *)settings->experimental,
                .n_experimental = settings->n_experimental,
        };
        int r;

        fleet = new0(struct fleet);
        fleet->config = *config;
        fleet->loop = config->loop;
        LIST_INIT(&fleet->stores);
        LIST_INIT(&fleet->assignments);
        fleet->settle_task.run = on_settle;
        fleet->apply_task.run = on_apply;
        fleet->registry_timer.on_time = on_registry_time;
        fleet->reload_timer.on_time = on_reload_time;
        fleet->reloads_timer.on_time = on_reloads_time;
        fleet->copy_start_timer.on_time = on_copy_start_time;
        STAILQ_INIT(&fleet->reloads);
        fleet->limits = grpc_default_limits;
        fleet->limits.max_message = settings->limits.request_bytes + (512U << 10);
        fleet->limits.max_streams = settings->limits.streams;
        fleet->limits.max_connections = settings->limits.connections;
        fleet->keyspace_limits = (struct keyspace_limits){
                .request_bytes = settings->limits.request_bytes,
                .txn_operations = settings->limits.txn_operations,
                .txn_nesting = settings->limits.txn_nesting,
                .watches = settings->limits.watches,
                .stream_watches = settings->limits.stream_watches,
                .watch_bytes = settings->limits.watch_bytes,
                .leases = settings->limits.leases,
        };
        if (asprintf(&fleet->tenants_dir, "%s/tenants", settings->runtime_dir) < 0)
                return -ENOMEM;
        if (mkdir(fleet->tenants_dir, 0755) < 0 && errno != EEXIST)
                return error_set(reterr, -errno, "%s: %m", fleet->tenants_dir);
        if (chmod(fleet->tenants_dir, 0755) < 0)
                return error_set(reterr, -errno, "%s: %m", fleet->tenants_dir);

        if (asprintf(&datastores, "%s/datastores", settings->state_dir) < 0)
                return -ENOMEM;
        if (mkdir(datastores, 0700) < 0 && errno != EEXIST)
                return error_set(reterr, -errno, "%s: %m", datastores);

        r = open_crashes(fleet, reterr);
        if (r < 0)
                return r;
        r = plugin_table_new(&plugins, &fleet->plugins);
        if (r < 0)
                return error_set(reterr, r, "plugins: %s", strerror(-r));
        plugin_table_scan(fleet->plugins);
        fleet->known = known_logs_new(settings->state_dir);
        r = know_oneself(fleet, reterr);
        if (r < 0)
                return r;

        fleet->memory = memory_new(settings->memory_bytes, MEMORY_IDLE_NS);
        fleet->shards = xcalloc(settings->n_shards, sizeof(*fleet->shards));
        for (size_t i = 0; i < settings->n_shards; i++) {
                r = shard_new(
                        (unsigned)i, settings->cache_bytes / settings->n_shards, fleet->memory, &fleet->shards[i]);
                if (r < 0)
                        return error_set(reterr, r, "shard %zu: %s", i, strerror(-r));
                fleet->n_shards++;
        }
        fleet->shard_cache = xcalloc(fleet->n_shards, sizeof(*fleet->shard_cache));
        fleet->throttle = throttle_new(settings->migration.bandwidth_bytes);
        fleet->endpoint = endpoint_new(fleet, config->tls_fd > 0 ? config->tls_fd : -EBADF);

        *ret = steal(fleet);
        return 0;
}

void fleet_free(struct fleet *fleet) {
        if (!fleet)
                return;
        check(fleet->stage == FLEET_NEW || fleet->stage == FLEET_STOPPED);
        loop_timer_clear(&fleet->collect_timer);
        loop_timer_clear(&fleet->reload_timer);
        loop_undefer(fleet->loop, &fleet->settle_task);
        loop_undefer(fleet->loop, &fleet->apply_task);
        endpoint_free(fleet->endpoint);
        for (size_t i = 0; i < fleet->n_shards; i++)
                shard_free(fleet->shards[i]);
        free(fleet->shards);
        free(fleet->shard_cache);
        members_free(fleet->members);
        agreement_done(fleet);
        registry_copy_done(&fleet->copy);
        memory_free(fleet->memory);
        throttle_free(fleet->throttle);
        registry_free(fleet->registry);
        host_done(&fleet->host);
        free(fleet->unfit);
        known_logs_free(fleet->known);
        plugin_table_free(fleet->plugins);
        fleet_forget_definitions(fleet);
        quarantine_free(fleet->quarantine);
        crash_table_close(fleet->crashes);
        free(fleet->registry_reason);
        free(fleet->tenants_dir);
        free(fleet);
}

int fleet_start(struct fleet *fleet, struct error *reterr) {
        int r;

        r = fleet_start_definitions(fleet, reterr);
        if (r < 0)
                return r;
        fleet->stage = FLEET_OPENING;
        collect_start(fleet);
        if (fleet->has_copy)
                loop_timer_set(fleet->loop, &fleet->copy_start_timer, clock_now_ns() + COPY_PATIENCE_NS);
        open_registry(fleet);
        return 0;
}

void fleet_registry_lost(struct fleet *fleet, const char *reason) {
        if (!fleet_is_running(fleet))
                return;
        fleet->stage = FLEET_OPENING;
        registry_failed(fleet, reason);
}

bool fleet_registry_wait(struct fleet *fleet, fleet_done_fn done, void *userdata) {
        if (fleet->registry_waiter)
                return false;
        fleet->registry_waiter = new0(struct claim_waiter);
        fleet->registry_waiter->done = done;
        fleet->registry_waiter->userdata = userdata;
        return true;
}

void fleet_registry_hurry(struct fleet *fleet) {
        open_registry(fleet);
}

void fleet_stop(struct fleet *fleet, void (*done)(void *userdata), void *userdata) {
        struct assignment *a;

        if (fleet_is_running(fleet))
                fleet_copy_now(fleet);
        collect_registry(fleet);
        fleet->stage = FLEET_STOPPING;
        endpoint_stop(fleet);
        fleet->stopped = done;
        fleet->stopped_userdata = userdata;
        loop_timer_clear(&fleet->registry_timer);
        loop_timer_clear(&fleet->reload_timer);
        loop_timer_clear(&fleet->collect_timer);
        loop_timer_clear(&fleet->copy_timer);
        loop_timer_clear(&fleet->copy_start_timer);
        loop_timer_clear(&fleet->agreement.timer);
        loop_undefer(fleet->loop, &fleet->apply_task);
        answer_registry(fleet, -EAGAIN, "the daemon is being stopped");
        fleet_answer_reloads(fleet);
        transfers_stop(fleet);
        LIST_FOREACH(a, &fleet->assignments, entry)
                assignment_hurry(a); /* only stops now, and frees nothing */
        fleet_settle(fleet);
}
