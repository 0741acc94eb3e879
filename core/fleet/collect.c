#include "fleet/state.h"

/*
 * Figures: every shard is asked, in one errand, for those of its tenants and of its cache; what comes back is kept with each tenant and
 * put into the metrics. A timer asks every few seconds, so that a scrape need not wait, and the control service asks when it
 * wants to be exact. The list of tenants is made on the main thread, and the tenants on it stay until the errand is
 * back: those that are being started or stopped (busy) are left out, and a stop goes to the shard behind the errand.
 */

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"

#define COLLECT_INTERVAL_NS (5 * NSEC_PER_SEC)
#define GIVE_BACK_BYTES ((uint64_t)16 << 20)

/* One shard's part. The names are looked up again when it is back, since tenants may have gone meanwhile. */
struct part {
        struct fleet *fleet;
        struct shard *shard;
        struct entry {
                char *name;             /* owned */
                struct tenant *serving; /* the shard's */
                struct tenant_figures figures;
        } * entries;
        size_t n_entries;
        struct value_cache_figures cache;
        struct collection *collection;
};

struct collection {
        size_t n_parts;
        void (*done)(void *userdata);
        void *userdata;
};

struct tenant_metrics {
        struct metric *revision, *keys, *bytes, *bytes_live, *memory, *watchers, *leases, *alarms, *connections,
                *serving;
};

void tenant_metrics_free(struct assignment *a) {
        if (!a->metrics)
                return;
        metric_drop("tenant", a->name);
        free(a->metrics);
        a->metrics = NULL;
}

static struct tenant_metrics *tenant_metrics_new(const char *name) {
        struct tenant_metrics *m = new0(struct tenant_metrics);
        struct buf label;
        const char *l;

        buf_init(&label, 0);
        check(metric_label(&label, "tenant", name) >= 0 && buf_append(&label, "", 1) >= 0);
        l = (const char *)label.data;
        m->revision = metric_gauge("stokehold_keyspace_revision", "Newest revision of the tenant's keyspace.", l);
        m->keys = metric_gauge("stokehold_keyspace_keys", "Living keys.", l);
        m->bytes = metric_gauge("stokehold_keyspace_log_bytes", "Keys and values of all records kept.", l);
        m->bytes_live = metric_gauge("stokehold_keyspace_live_bytes", "Keys and values of living keys.", l);
        m->memory = metric_gauge("stokehold_keyspace_memory_bytes", "Index and history, without cached values.", l);
        m->watchers = metric_gauge("stokehold_keyspace_watchers", "Watches that stand.", l);
        m->leases = metric_gauge("stokehold_keyspace_leases", "Leases granted and not expired.", l);
        m->alarms = metric_gauge("stokehold_keyspace_alarms", "Alarms that stand, such as NOSPACE.", l);
        m->connections = metric_gauge("stokehold_tenant_connections", "Connections of the tenant's clients.", l);
        m->serving = metric_gauge("stokehold_tenant_serving", "1 while the tenant's keyspace is open.", l);
        buf_done(&label);
        return m;
}

static void publish(struct assignment *a) {
        const struct tenant_figures *f = &a->figures;
        struct tenant_metrics *m;

        if (!a->metrics)
                a->metrics = tenant_metrics_new(a->name);
        m = a->metrics;
        metric_set(m->revision, (double)f->revision);
        metric_set(m->keys, (double)f->n_keys);
        metric_set(m->bytes, (double)f->bytes_log);
        metric_set(m->bytes_live, (double)f->bytes_live);
        metric_set(m->memory, (double)f->bytes_memory);
        metric_set(m->watchers, (double)f->n_watchers);
        metric_set(m->leases, (double)f->n_leases);
        metric_set(m->alarms, (double)f->n_alarms);
        metric_set(m->connections, (double)f->n_connections);
        metric_set(m->serving, f->condition == KEYSPACE_SERVING);
}

static void publish_cache(const struct part *part) {
        const struct value_cache_figures *f = &part->cache;
        char label[32];

        snprintf(label, sizeof(label), "shard=\"%u\"", part->shard->number);
        metric_set(metric_gauge("stokehold_cache_bytes", "Bytes of cached values.", label), (double)f->bytes);
        metric_set(metric_gauge("stokehold_cache_max_bytes", "What the cache may hold.", label), (double)f->max_bytes);
        metric_set(metric_gauge("stokehold_cache_values", "Cached values.", label), (double)f->n_values);
        metric_set(metric_gauge("stokehold_cache_hits", "Values found in the cache since the start.", label),
                (double)f->n_hits);
        metric_set(metric_gauge("stokehold_cache_misses", "Values fetched from a datastore since the start.", label),
                (double)f->n_misses);
}

static void publish_memory(const struct fleet *fleet) {
        struct memory_figures f;

        memory_get_figures(fleet->memory, &f);
        metric_set(metric_gauge("stokehold_memory_max_bytes",
                           "What keyspaces and cached values may take together; 0: there is no budget.", NULL),
                (double)f.max_bytes);
        metric_set(metric_gauge("stokehold_memory_keyspace_bytes", "What keyspaces take, without cached values.", NULL),
                (double)f.state_bytes);
        metric_set(
                metric_gauge("stokehold_memory_value_bytes", "What cached values take.", NULL), (double)f.value_bytes);
        metric_set(metric_gauge("stokehold_memory_closed_keyspaces",
                           "Idle keyspaces closed to make room for others, since the start.", NULL),
                (double)f.n_closed);
}

/* What was freed in pieces stays with the process until it is told to give it back. That takes milliseconds, in which others that
 * allocate may wait: so not for little. */
static void give_back(struct fleet *fleet) {
        struct memory_figures f;
        uint64_t began = clock_now_ns();

        memory_get_figures(fleet->memory, &f);
        if (f.freed_bytes - fleet->given_back < GIVE_BACK_BYTES)
                return;
        fleet->given_back = f.freed_bytes;
        (void)malloc_trim(0);
        log_debug("gave freed memory back to the system in %llu us",
                (unsigned long long)((clock_now_ns() - began) / NSEC_PER_USEC));
}

static void collect_there(struct errand *errand) {
        struct part *part = errand->userdata;

        for (size_t i = 0; i < part->n_entries; i++)
                tenant_get_figures(part->entries[i].serving, &part->entries[i].figures);
        value_cache_get_figures(part->shard->cache, &part->cache);
        errand_return(errand);
}

void collect_known(struct assignment *a, const struct tenant_figures *figures) {
        const struct keyspace_known known = {figures->end, figures->revision};

        if (a->record && figures->end.seq && memcmp(a->served, a->record->incarnation, 16) == 0 &&
                (figures->condition == KEYSPACE_SERVING || figures->condition == KEYSPACE_UNREACHABLE))
                known_logs_set(a->fleet->known, a->name, a->record->incarnation, a->record->recovery, &known);
}

/* Of the registry's log as well: a registry that went back would have tenants made anew that exist. */
void collect_registry(struct fleet *fleet) {
        static const uint8_t no_recovery[16];
        struct keyspace_known known = {};

        if (fleet_is_running(fleet))
                known = registry_known(fleet->registry);
        if (known.end.seq)
                known_logs_set(
                        fleet->known, REGISTRY_KEYSPACE, registry_incarnation(fleet->registry), no_recovery, &known);
}

void collect_save(struct fleet *fleet) {
        cleanup(error_done) struct error err = {};

        if (known_logs_save(fleet->known, &err) < 0)
                log_warning("%s", error_text(&err));
}

static void collect_back(struct errand *errand) {
        struct part *part = errand->userdata;
        struct collection *collection = part->collection;
        struct fleet *fleet = part->fleet;

        for (size_t i = 0; i < part->n_entries; i++) {
                struct assignment *a = fleet_find_assignment(fleet, part->entries[i].name);

                if (a && a->serving == part->entries[i].serving) {
                        a->figures = part->entries[i].figures;
                        collect_known(a, &a->figures);
                        publish(a);
                        backup_plan_publish(a);
                }
                free(part->entries[i].name);
        }
        publish_cache(part);
        fleet->shard_cache[part->shard->number] = part->cache;
        free(part->entries);
        free(part);

        if (--collection->n_parts > 0)
                return;
        publish_memory(fleet);
        memory_poke(fleet->memory); /* who was in use may not be any more */
        give_back(fleet);
        collection->done(collection->userdata);
        free(collection);
        fleet->n_collecting--;
        fleet_settle(fleet);
}

static struct part *part_new(struct fleet *fleet, struct shard *shard) {
        struct part *part = new0(struct part);
        struct assignment *a;

        part->fleet = fleet;
        part->shard = shard;
        part->entries = xcalloc(shard->n_tenants, sizeof(*part->entries));
        LIST_FOREACH(a, &fleet->assignments, entry) {
                if (a->shard != shard || !a->serving || a->busy)
                        continue;
                part->entries[part->n_entries].name = strdup(a->name);
                check(part->entries[part->n_entries].name);
                part->entries[part->n_entries++].serving = a->serving;
        }
        return part;
}

void fleet_collect(struct fleet *fleet, void (*done)(void *userdata), void *userdata) {
        struct collection *collection = new0(struct collection);

        collection->n_parts = fleet->n_shards;
        collection->done = done;
        collection->userdata = userdata;
        fleet->n_collecting++;
        for (size_t i = 0; i < fleet->n_shards; i++) {
                struct part *part = part_new(fleet, fleet->shards[i]);

                part->collection = collection;
                errand_send(fleet->shards[i]->loop, fleet->loop, collect_there, collect_back, part);
        }
}

/* ---- the process */

static double count_descriptors(void) {
        DIR *dir = opendir("/proc/self/fd");
        double n = 0;

        if (!dir)
                return 0;
        for (struct dirent *e = readdir(dir); e; e = readdir(dir))
                n += e->d_name[0] != '.';
        closedir(dir);
        return n - 1; /* the directory itself */
}

uint64_t fleet_resident_bytes(void) {
        unsigned long long size, resident = 0;
        FILE *f = fopen("/proc/self/statm", "re");

        if (!f)
                return 0;
        if (fscanf(f, "%llu %llu", &size, &resident) != 2)
                resident = 0;
        fclose(f);
        return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void fleet_publish_process(void) {
        struct rusage usage;

        metric_set(metric_gauge("process_resident_memory_bytes", "Resident memory.", NULL),
                (double)fleet_resident_bytes());
        metric_set(metric_gauge("process_open_fds", "Open file descriptors.", NULL), count_descriptors());
        if (getrusage(RUSAGE_SELF, &usage) == 0) {
                struct metric *cpu =
                        metric_counter("process_cpu_seconds_total", "Processor time, user and system.", NULL);
                double now = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                        (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;

                metric_add(cpu, now - metric_get(cpu));
        }
}

static void on_periodic(void *userdata) {
        struct fleet *fleet = userdata;
        struct assignment *a;
        size_t n = 0;

        LIST_FOREACH(a, &fleet->assignments, entry)
                n += a->serving != NULL;
        members_tell(fleet->members, n);
        collect_registry(fleet);
        collect_save(fleet);
        if (fleet->stage == FLEET_OPENING || fleet->stage == FLEET_RUNNING)
                loop_timer_set(fleet->loop, &fleet->collect_timer, clock_now_ns() + COLLECT_INTERVAL_NS);
}

static void on_collect_time(struct loop_timer *timer) {
        fleet_collect(container_of(timer, struct fleet, collect_timer), on_periodic,
                container_of(timer, struct fleet, collect_timer));
}

void collect_start(struct fleet *fleet) {
        fleet->collect_timer.on_time = on_collect_time;
        loop_timer_set(fleet->loop, &fleet->collect_timer, clock_now_ns());
}
