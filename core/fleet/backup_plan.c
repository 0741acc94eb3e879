#include "fleet/backup_plan.h"

/*
 * A plan goes round: look at the directory (on a thread, since it may be slow), wait, back up, wait. One that fails waits for a shorter time. A plan that
 * is dropped while something runs for it is freed when that has ended.
 */

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "fleet/backup.h"
#include "fleet/backup_file.h"
#include "fleet/state.h"
#include "keyspace/record.h"

#define AT_ONCE 2                         /* backups by the clock that run on this daemon */
#define BUSY_NS NSEC_PER_SEC              /* until there is a place */
#define RETRY_MAX_NS (300 * NSEC_PER_SEC) /* after a failure */
#define JITTER_MAX_NS (600 * NSEC_PER_SEC)

struct backup_plan {
        struct assignment *assignment; /* borrowed; NULL: dropped */
        struct fleet *fleet;           /* borrowed */
        char *name, *directory;        /* owned */
        uint64_t every_ns;
        unsigned keep;
        struct loop_timer timer;
        bool looked; /* what is there is known */
        int64_t last, last_try;
        uint64_t bytes;
        double seconds; /* that the last good one took */
        char *reason;   /* owned; NULL: all is well */

        /* What runs. */
        bool looking;
        pthread_t thread;
        struct loop_task looked_task;
        struct backup_found found; /* the thread's, as the next */
        struct error look_error;
        struct backup *backup; /* borrowed */
        struct backup_file file;
        uint64_t began_ns;

        struct metric *age, *size, *duration, *failed;
};

static void plan_next(struct backup_plan *p);

static void plan_release(struct backup_plan *p) {
        if (p->looking || p->backup)
                return;
        loop_timer_clear(&p->timer);
        error_done(&p->look_error);
        free(p->reason);
        free(p->name);
        free(p->directory);
        free(p);
}

/* Between 0 and a tenth of the time, the same for a tenant each time. */
static uint64_t jitter(const struct backup_plan *p) {
        return hash_name(p->name, 0) % (min_of(p->every_ns / 10, JITTER_MAX_NS) + 1);
}

static void set_reason(struct backup_plan *p, const char *reason) {
        struct log_context context = {.tenant = p->name};

        if (reason && (!p->reason || strcmp(p->reason, reason) != 0))
                log_at(LOG_LEVEL_WARNING, &context, "no backup could be made in %s: %s", p->directory, reason);
        free(p->reason);
        p->reason = reason ? strdup(reason) : NULL;
        check(!reason || p->reason);
}

/* ---- looking */

static void *look(void *userdata) {
        struct backup_plan *p = userdata;

        if (backup_files_look(p->directory, p->name, &p->found, &p->look_error) < 0)
                p->found = (struct backup_found){};
        loop_post(p->fleet->loop, &p->looked_task);
        return NULL;
}

static void on_looked(struct loop_task *task) {
        struct backup_plan *p = container_of(task, struct backup_plan, looked_task);

        pthread_join(p->thread, NULL);
        p->looking = false;
        if (!p->assignment) {
                plan_release(p);
                return;
        }
        p->looked = !p->look_error.code;
        p->last = p->found.created;
        p->bytes = p->found.bytes;
        p->last_try = 0;
        if (!p->looked) {
                set_reason(p, error_text(&p->look_error));
                p->last_try = time(NULL);
        }
        error_done(&p->look_error);
        p->look_error = (struct error){};
        plan_next(p);
}

static void begin_look(struct backup_plan *p) {
        p->looked_task.run = on_looked;
        if (thread_start(&p->thread, "backup-look", look, p) == 0)
                p->looking = true;
        else
                loop_timer_set(p->fleet->loop, &p->timer, clock_now_ns() + BUSY_NS);
}

/* ---- backing up: the first three on the backup's thread */

static int on_write(void *userdata, struct bytes data, struct error *reterr) {
        struct backup_plan *p = userdata;

        return backup_file_write(&p->file, data, reterr);
}

static int on_close(void *userdata, struct error *reterr) {
        struct backup_plan *p = userdata;
        cleanup(error_done) struct error err = {};
        int r = backup_file_finish(&p->file, reterr);

        if (r == 0 && backup_files_prune(p->file.directory, p->file.tenant, p->keep, &err) < 0)
                log_warning("backups: %s", error_text(&err));
        return r;
}

static void on_begun(void *userdata, const struct archive_about *about, uint64_t bytes) {
        struct backup_plan *p = userdata;

        (void)bytes;
        backup_file_name(&p->file, about->created, about->revision);
}

static void on_done(void *userdata, int result, const char *reason, const struct archive_about *about,
        const struct archive_figures *figures) {
        struct backup_plan *p = userdata;
        struct log_context context = {.tenant = p->name};

        p->backup = NULL;
        p->fleet->n_backups--;
        if (result == 0) {
                p->seconds = (double)(clock_now_ns() - p->began_ns) / 1e9;
                p->last = about->created;
                p->bytes = figures->file_bytes;
                set_reason(p, NULL);
                log_at(LOG_LEVEL_INFO, &context, "backed up to %s: revision %lld, %llu records, %llu bytes",
                        p->file.path, (long long)about->revision, (unsigned long long)figures->n_records,
                        (unsigned long long)figures->file_bytes);
        } else if (p->assignment && result != -ECANCELED)
                set_reason(p, reason);
        backup_file_done(&p->file);
        if (!p->assignment) {
                plan_release(p);
                return;
        }
        backup_plan_publish(p->assignment);
        plan_next(p);
}

static void begin_backup(struct backup_plan *p) {
        struct backup_config config = {
                .name = p->name,
                .write = on_write,
                .close = on_close,
                .on_begun = on_begun,
                .done = on_done,
                .userdata = p,
        };

        if (p->fleet->n_backups >= AT_ONCE) {
                loop_timer_set(p->fleet->loop, &p->timer, clock_now_ns() + BUSY_NS);
                return;
        }
        p->fleet->n_backups++;
        p->last_try = time(NULL);
        p->began_ns = clock_now_ns();
        backup_file_init(&p->file, p->directory, p->name);
        p->backup = fleet_backup_tenant(p->fleet, &config);
}

/* ---- when */

/* This daemon is the one that makes them. */
static bool is_mine(const struct assignment *a) {
        const struct registry_record *record = assignment_record(a);

        if (!fleet_is_running(a->fleet) || !record || a->gone || assignment_is_elsewhere(a))
                return false;
        return !a->fleet->shared_registry || record->host[0] || members_is_first(a->fleet->members);
}

/* Sets the clock for what is next. */
static void plan_next(struct backup_plan *p) {
        int64_t now = time(NULL);
        uint64_t wait_ns = 0;

        if (p->looking || p->backup || !p->assignment)
                return;
        if (p->looked && p->last && now < p->last + (int64_t)(p->every_ns / NSEC_PER_SEC))
                wait_ns = p->every_ns - (uint64_t)max_of(now - p->last, INT64_C(0)) * NSEC_PER_SEC + jitter(p);
        else if (p->looked && !p->last)
                wait_ns = jitter(p);
        if (p->reason && p->last_try)
                wait_ns = max_of(wait_ns, min_of(max_of(p->every_ns / 4, NSEC_PER_SEC), RETRY_MAX_NS));
        loop_timer_set(p->fleet->loop, &p->timer, clock_now_ns() + wait_ns);
}

static void on_time(struct loop_timer *timer) {
        struct backup_plan *p = container_of(timer, struct backup_plan, timer);

        if (p->looking || p->backup)
                return;
        if (!is_mine(p->assignment)) {
                p->looked = false; /* another daemon does, until the members change */
                return;
        }
        if (!p->looked)
                begin_look(p);
        else
                begin_backup(p);
}

/* ---- life */

static void drop_plan(struct backup_plan *p) {
        p->assignment = NULL;
        loop_timer_clear(&p->timer);
        if (p->backup)
                backup_cancel(p->backup);
        plan_release(p);
}

void backup_plan_free(struct assignment *a) {
        struct backup_plan *p = steal(a->backup_plan);

        if (!p)
                return;
        if (p->age)
                metric_set(p->age, (double)NAN);
        drop_plan(p);
}

void backup_plan_update(struct assignment *a) {
        const struct tenant_definition *d = definitions_find_tenant(a->fleet->definitions, a->name);
        struct backup_plan *p = a->backup_plan;
        bool wanted = d && d->backup_directory && d->backup_every_ns;

        if (p &&
                (!wanted || p->every_ns != d->backup_every_ns || p->keep != d->backup_keep ||
                        strcmp(p->directory, d->backup_directory) != 0)) {
                backup_plan_free(a);
                p = NULL;
        }
        if (!wanted || p)
                return;
        p = a->backup_plan = new0(struct backup_plan);
        p->assignment = a;
        p->fleet = a->fleet;
        p->name = strdup(a->name);
        p->directory = strdup(d->backup_directory);
        check(p->name && p->directory);
        p->every_ns = d->backup_every_ns;
        p->keep = d->backup_keep;
        p->timer.on_time = on_time;
        loop_timer_set(a->fleet->loop, &p->timer, clock_now_ns());
}

void backup_plans_members_changed(struct fleet *fleet) {
        struct assignment *a;

        LIST_FOREACH(a, &fleet->assignments, entry)
                if (a->backup_plan && !a->backup_plan->looked && !a->backup_plan->looking && !a->backup_plan->backup)
                        loop_timer_set(fleet->loop, &a->backup_plan->timer, clock_now_ns());
}

/* ---- telling */

void backup_plan_get(const struct assignment *a, struct backup_plan_view *ret) {
        const struct backup_plan *p = a->backup_plan;

        *ret = (struct backup_plan_view){.reason = ""};
        if (!p)
                return;
        ret->last = p->last;
        ret->bytes = p->bytes;
        if (p->reason)
                ret->reason = p->reason;
}

void backup_plan_publish(struct assignment *a) {
        struct backup_plan *p = a->backup_plan;
        cleanup(buf_done) struct buf label = {};
        const char *l;

        if (!p || (!p->looked && !p->reason && !p->age))
                return;
        if (!p->age) {
                check(metric_label(&label, "tenant", a->name) >= 0 && buf_append(&label, "", 1) >= 0);
                l = (const char *)label.data;
                p->age = metric_gauge("stokehold_tenant_backup_age_seconds",
                        "Age of the tenant's last good backup by the clock; NaN: there is none, or another daemon makes them.",
                        l);
                p->size = metric_gauge("stokehold_tenant_backup_bytes", "Size of that file.", l);
                p->duration = metric_gauge("stokehold_tenant_backup_duration_seconds", "How long it took to make.", l);
                p->failed = metric_gauge(
                        "stokehold_tenant_backup_failed", "1 if the last attempt to make one has failed.", l);
        }
        metric_set(p->age, p->last && is_mine(a) ? (double)(time(NULL) - p->last) : (double)NAN);
        metric_set(p->size, (double)p->bytes);
        metric_set(p->duration, p->seconds);
        metric_set(p->failed, p->reason != NULL);
}
