#include "fleet/fleet.h"

/*
 * The fleet from its start to its stop. Start: plugins, definitions, datastores, the registry in one of them, then the tenants
 * that it knows, then those that definitions add. Stop is the reverse: tenants first (all at once), then the registry, then
 * datastores. In between everything happens by steps that end in fleet_settle(), which looks whether something that waited for
 * others (a start, a stop, a datastore to be closed) can go on.
 */

#include <dirent.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "fleet/state.h"
#include "fleet/uuid.h"

#define REGISTRY_RETRY_NS (2 * NSEC_PER_SEC)
#define CLOSE_GRACE_NS (2 * NSEC_PER_SEC)

/* ---- settling */

static bool store_is_held(const struct fleet_store *store) {
        struct assignment *a;

        if (store->check || (store->fleet->registry_store == store && store->fleet->stage != FLEET_STOPPED))
                return true;
        LIST_FOREACH(a, &store->fleet->assignments, entry)
                if (a->store == store)
                        return true;
        return false;
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

                        store_open(store);
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

static void finish_stop(struct fleet *fleet) {
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry)
                if (store->check || store_is_held(store))
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

static void on_settle(struct loop_task *task) {
        struct fleet *fleet = container_of(task, struct fleet, settle_task);
        struct assignment *a, *following;
        struct fleet_store *store;

        LIST_FOREACH(store, &fleet->stores, entry)
                store_update_use(store);

        switch (fleet->stage) {
        case FLEET_RUNNING:
                close_leaving(fleet);
                if (fleet->ready_told)
                        break;
                LIST_FOREACH(a, &fleet->assignments, entry)
                        if (!a->settled)
                                return;
                fleet->ready_told = true;
                if (fleet->config.on_ready)
                        fleet->config.on_ready(fleet->config.userdata);
                break;
        case FLEET_STOPPING:
                LIST_FOREACH(a, &fleet->assignments, entry)
                        if (a->busy || a->serving)
                                return;
                for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                        following = LIST_NEXT(a, entry);
                        assignment_free(a);
                }
                if (!fleet->registry_closing) {
                        fleet->registry_closing = true;
                        registry_close(fleet->registry, on_registry_closed, fleet);
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

static void registry_failed(struct fleet *fleet, const char *reason) {
        if (!fleet->registry_reason || strcmp(fleet->registry_reason, reason) != 0) {
                log_error("registry: %s; trying again", reason);
                free(fleet->registry_reason);
                fleet->registry_reason = strdup(reason);
                check(fleet->registry_reason);
        }
        loop_timer_set(fleet->loop, &fleet->registry_timer, clock_now_ns() + REGISTRY_RETRY_NS);
}

static void on_record(void *userdata, struct registry_record *record) {
        struct fleet *fleet = userdata;
        struct assignment *a = fleet_find_assignment(fleet, record->name);

        /* A registry that is opened again after a failure tells some for the second time. */
        if (!a)
                a = assignment_new(fleet, record->name);
        registry_record_free(a->record);
        a->record = record;
        assignment_update_manner(a);
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

static void on_registry_open(void *userdata, int result, const char *reason) {
        struct fleet *fleet = userdata;
        struct assignment *a, *following;
        size_t n = 0;

        fleet->registry_opening = false;
        if (fleet->stage == FLEET_STOPPING)
                return;
        if (result < 0) {
                registry_failed(fleet, reason);
                return;
        }
        free(fleet->registry_reason);
        fleet->registry_reason = NULL;
        fleet->stage = FLEET_RUNNING;
        LIST_FOREACH(a, &fleet->assignments, entry)
                n++;
        log_info("registry %s in datastore %s: %zu tenants", registry_id(fleet->registry),
                registry_datastore(fleet->registry), n);
        remove_stale(fleet);
        fleet_apply_tenants(fleet);
        for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                following = LIST_NEXT(a, entry);
                assignment_step(a);
        }
        fleet_settle(fleet);
}

static void open_registry(struct fleet *fleet) {
        const char *name = registry_datastore(fleet->registry);
        const struct registry_open open = {.on_record = on_record, .done = on_registry_open, .userdata = fleet};
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
        registry_open(fleet->registry, store->ds, &open);
}

/* ---- start and stop */

static void on_reload_time(struct loop_timer *timer) {
        fleet_reload(container_of(timer, struct fleet, reload_timer), NULL, NULL);
}

static void on_apply(struct loop_task *task) {
        struct fleet *fleet = container_of(task, struct fleet, apply_task);

        if (fleet_is_running(fleet))
                fleet_apply_tenants(fleet);
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
        fleet->limits = grpc_default_limits;
        fleet->limits.max_message = settings->limits.request_bytes + (512U << 10);
        fleet->limits.max_streams = settings->limits.streams;
        fleet->limits.max_connections = settings->limits.connections;
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

        r = plugin_table_new(&plugins, &fleet->plugins);
        if (r < 0)
                return error_set(reterr, r, "plugins: %s", strerror(-r));
        plugin_table_scan(fleet->plugins);
        fleet->known = known_logs_new(settings->state_dir);
        r = registry_new(fleet->loop, settings->state_dir, config->daemon, &fleet->registry, reterr);
        if (r < 0)
                return r;

        fleet->shards = xcalloc(settings->n_shards, sizeof(*fleet->shards));
        for (size_t i = 0; i < settings->n_shards; i++) {
                r = shard_new((unsigned)i, settings->cache_bytes / settings->n_shards, &fleet->shards[i]);
                if (r < 0)
                        return error_set(reterr, r, "shard %zu: %s", i, strerror(-r));
                fleet->n_shards++;
        }
        fleet->shard_cache = xcalloc(fleet->n_shards, sizeof(*fleet->shard_cache));

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
        for (size_t i = 0; i < fleet->n_shards; i++)
                shard_free(fleet->shards[i]);
        free(fleet->shards);
        free(fleet->shard_cache);
        registry_free(fleet->registry);
        known_logs_free(fleet->known);
        plugin_table_free(fleet->plugins);
        fleet_forget_definitions(fleet);
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
        open_registry(fleet);
        return 0;
}

void fleet_registry_hurry(struct fleet *fleet) {
        open_registry(fleet);
}

void fleet_stop(struct fleet *fleet, void (*done)(void *userdata), void *userdata) {
        struct assignment *a;

        fleet->stage = FLEET_STOPPING;
        fleet->stopped = done;
        fleet->stopped_userdata = userdata;
        loop_timer_clear(&fleet->registry_timer);
        loop_timer_clear(&fleet->reload_timer);
        loop_timer_clear(&fleet->collect_timer);
        loop_undefer(fleet->loop, &fleet->apply_task);
        LIST_FOREACH(a, &fleet->assignments, entry)
                assignment_hurry(a); /* only stops now, and frees nothing */
        fleet_settle(fleet);
}

/* ---- what the control service asks for */

/* An answer that is known at once, given later, so that done never comes from within. */
struct prompt {
        struct loop_task task;
        fleet_done_fn done;
        fleet_check_fn checked;
        void *userdata;
        int result;
        char *reason;
};

static void on_prompt(struct loop_task *task) {
        struct prompt *p = container_of(task, struct prompt, task);

        if (p->done)
                p->done(p->userdata, p->result, p->reason);
        else
                p->checked(p->userdata, p->result, p->reason, NULL, 0);
        free(p->reason);
        free(p);
}

static void refuse(struct fleet *fleet, fleet_done_fn done, fleet_check_fn checked, void *userdata, int result,
        const char *format, ...) printf_like(6, 7);
static void refuse(struct fleet *fleet, fleet_done_fn done, fleet_check_fn checked, void *userdata, int result,
        const char *format, ...) {
        struct prompt *p = new0(struct prompt);
        va_list ap;

        p->task.run = on_prompt;
        p->done = done;
        p->checked = checked;
        p->userdata = userdata;
        p->result = result;
        va_start(ap, format);
        if (vasprintf(&p->reason, format, ap) < 0)
                check(false);
        va_end(ap);
        loop_defer(fleet->loop, &p->task);
}

static bool refuse_unless_running(struct fleet *fleet, fleet_done_fn done, void *userdata) {
        if (fleet_is_running(fleet))
                return false;
        refuse(fleet, done, NULL, userdata, -EAGAIN,
                fleet->stage == FLEET_OPENING ? "the registry is not open yet: %s" : "the daemon is being stopped%s",
                fleet->stage != FLEET_OPENING    ? ""
                        : fleet->registry_reason ? fleet->registry_reason
                                                 : "it is being opened");
        return true;
}

struct assignment *fleet_assign(struct fleet *fleet, const char *name, const char *datastore, uint64_t quota_bytes,
        bool retain, const char *source, bool from_file) {
        struct registry_record *record = new0(struct registry_record);
        struct assignment *a = assignment_new(fleet, name);

        record->name = strdup(name);
        record->datastore = strdup(datastore);
        record->source = strdup(source);
        check(record->name && record->datastore && record->source);
        uuid_make(record->incarnation);
        record->phase = REGISTRY_PROVISIONING;
        record->quota_bytes = quota_bytes;
        record->retain = retain;
        record->from_file = from_file;
        record->created = time(NULL);
        a->next = record;
        assignment_update_manner(a);
        fleet_settle(fleet);
        return a;
}

void fleet_create_tenant(struct fleet *fleet, const struct fleet_create *create, fleet_done_fn done, void *userdata) {
        const char *datastore = create->datastore;
        struct fleet_store *store;
        struct assignment *a;

        if (refuse_unless_running(fleet, done, userdata))
                return;
        if (!tenant_name_is_valid(create->name)) {
                refuse(fleet, done, NULL, userdata, -EINVAL,
                        "\"%.80s\" is no name for a tenant: 1 to 63 of a-z, 0-9 and \"-\", neither beginning nor ending with \"-\"",
                        create->name);
                return;
        }
        if (strcmp(create->name, REGISTRY_KEYSPACE) == 0) {
                refuse(fleet, done, NULL, userdata, -EINVAL, "\"%s\" is the daemon's own keyspace", create->name);
                return;
        }
        if (create->quota_bytes > INT64_MAX) {
                refuse(fleet, done, NULL, userdata, -EINVAL, "quota is too large");
                return;
        }
        a = fleet_find_assignment(fleet, create->name);
        if (a) {
                refuse(fleet, done, NULL, userdata, -EEXIST, "tenant %s exists already, on datastore %s", a->name,
                        assignment_record(a) ? assignment_record(a)->datastore : "?");
                return;
        }
        if (!datastore || !datastore[0])
                datastore = fleet->definitions->default_datastore->base.name;
        store = fleet_find_store(fleet, datastore);
        if (!store || !store->wanted) {
                refuse(fleet, done, NULL, userdata, -ENOENT, "no such datastore: %.253s", datastore);
                return;
        }
        if (!store->ds && !store->leaving) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "datastore %s is not ready: %s", datastore,
                        store->validation.message);
                return;
        }
        if (store_refusal(store)) {
                refuse(fleet, done, NULL, userdata, -EBUSY,
                        "datastore %s is refused, %s; allowUnsafe in its definition would accept it", datastore,
                        store_refusal(store));
                return;
        }
        a = fleet_assign(fleet, create->name, datastore, create->quota_bytes, create->retain, "stokectl", false);
        assignment_wait(a, create->wait ? WAIT_SERVED : WAIT_RECORDED, done, userdata);
        assignment_step(a);
}

void fleet_delete_tenant(struct fleet *fleet, const char *name, bool keep_data, fleet_done_fn done, void *userdata) {
        const struct registry_record *record;
        struct assignment *a;

        if (refuse_unless_running(fleet, done, userdata))
                return;
        a = fleet_find_assignment(fleet, name);
        if (!a || a->gone) {
                refuse(fleet, done, NULL, userdata, -ENOENT, "no such tenant: %.80s", name);
                return;
        }
        record = assignment_record(a);
        if (fleet_is_declared(fleet, name)) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "tenant %s is declared in %s: remove it there", name,
                        record->source);
                return;
        }
        a->want_retain = keep_data || (a->want_delete ? a->want_retain : record->retain);
        a->want_delete = true;
        assignment_wait(a, WAIT_GONE, done, userdata);
        assignment_hurry(a);
}

void fleet_recover_tenant(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        const struct registry_record *record;
        struct assignment *a;

        if (refuse_unless_running(fleet, done, userdata))
                return;
        a = fleet_find_assignment(fleet, name);
        record = a && !a->gone ? assignment_record(a) : NULL;
        if (!record) {
                refuse(fleet, done, NULL, userdata, -ENOENT, "no such tenant: %.80s", name);
                return;
        }
        if (record->phase != REGISTRY_RECOVERING && a->figures.condition != KEYSPACE_HISTORY_LOST) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "tenant %s has not lost its history", name);
                return;
        }
        a->want_recover = record->phase != REGISTRY_RECOVERING;
        assignment_wait(a, WAIT_SERVED, done, userdata);
        assignment_hurry(a);
}

void fleet_check_datastore(struct fleet *fleet, const char *name, fleet_check_fn done, void *userdata) {
        struct fleet_store *store = fleet_find_store(fleet, name);

        if (!store)
                refuse(fleet, NULL, done, userdata, -ENOENT, "no such datastore: %.253s", name);
        else if (!store->ds || store->leaving || fleet->stage >= FLEET_STOPPING)
                refuse(fleet, NULL, done, userdata, -EAGAIN, "%s",
                        store->ds ? "it is being closed" : store->validation.message);
        else
                store_check(store, done, userdata);
}
