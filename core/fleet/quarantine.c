#include "fleet/quarantine.h"

/*
 * Crashes are judged once, at the start; after that the list only gets shorter. The file is written whole, beside itself, and
 * renamed; it is small, and written when something happened that does not happen often.
 */

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"

#define CRASHES 2     /* so many are no chance any more */
#define MAX_OPENING 8 /* more than these at a time say nothing of any of them */

struct suspect {
        char *tenant;           /* owned */
        char *crashes[CRASHES]; /* owned: when, and what it was; the newest */
        unsigned n_crashes;
        bool quarantined;
        char *reason; /* owned: of the quarantine */
        LIST_ENTRY(suspect) entry;
};

struct quarantine {
        struct loop *loop;
        char *path; /* owned */
        const uint64_t *window_ns;
        uint64_t started_ns;
        struct loop_timer timer;
        LIST_HEAD(, suspect) suspects;
};

/* ---- suspects */

static struct suspect *find(const struct quarantine *q, const char *tenant) {
        struct suspect *s;

        LIST_FOREACH(s, &q->suspects, entry)
                if (strcmp(s->tenant, tenant) == 0)
                        return s;
        return NULL;
}

static struct suspect *get(struct quarantine *q, const char *tenant) {
        struct suspect *s = find(q, tenant);

        if (s)
                return s;
        s = new0(struct suspect);
        s->tenant = strdup(tenant);
        check(s->tenant);
        LIST_INSERT_HEAD(&q->suspects, s, entry);
        return s;
}

static void suspect_free(struct suspect *s) {
        LIST_REMOVE(s, entry);
        for (unsigned i = 0; i < s->n_crashes; i++)
                free(s->crashes[i]);
        free(s->reason);
        free(s->tenant);
        free(s);
}

/* For alerts; it goes with the tenant. */
static void publish(const char *tenant, bool quarantined) {
        struct buf label;

        buf_init(&label, 0);
        check(metric_label(&label, "tenant", tenant) >= 0 && buf_append(&label, "", 1) >= 0);
        metric_set(metric_gauge("stokehold_tenant_quarantined",
                           "1 while a tenant is not opened because the daemon has crashed with it.",
                           (const char *)label.data),
                quarantined);
        buf_done(&label);
}

static void set_quarantined(struct suspect *s) {
        s->quarantined = true;
        free(s->reason);
        if (asprintf(&s->reason,
                    "the daemon has crashed with it %u times (%s%s%s); it is not opened until somebody says: stokectl tenant resume %s",
                    s->n_crashes, s->crashes[0] ? s->crashes[0] : "", s->n_crashes > 1 ? "; " : "",
                    s->n_crashes > 1 ? s->crashes[1] : "", s->tenant) < 0)
                check(false);
        publish(s->tenant, true);
}

/* Takes over the text. */
static void add_crash(struct suspect *s, char *text) {
        if (s->n_crashes == CRASHES) {
                free(s->crashes[0]);
                memmove(&s->crashes[0], &s->crashes[1], (CRASHES - 1) * sizeof(s->crashes[0]));
                s->n_crashes--;
        }
        s->crashes[s->n_crashes++] = text;
}

/* ---- the file */

static void read_suspect(struct quarantine *q, const char *tenant, const json_t *value) {
        const json_t *crashes = json_object_get(value, "crashes");
        struct suspect *s = get(q, tenant);

        for (size_t i = 0; i < json_array_size(crashes); i++) {
                const char *text = json_string_value(json_array_get(crashes, i));
                char *copy = text ? strdup(text) : NULL;

                if (copy)
                        add_crash(s, copy);
        }
        if (json_is_true(json_object_get(value, "quarantined")))
                set_quarantined(s);
}

static void read_file(struct quarantine *q) {
        json_error_t error;
        const char *tenant;
        json_t *root, *value;

        if (access(q->path, F_OK) < 0 && errno == ENOENT)
                return;
        root = json_load_file(q->path, 0, &error);
        if (!root) {
                log_error("%s: line %d: %s: which tenants the daemon has crashed with is not known", q->path,
                        error.line, error.text);
                return;
        }
        json_object_foreach(json_object_get(root, "tenants"), tenant, value)
                read_suspect(q, tenant, value);
        json_decref(root);
}

static json_t *print(const struct quarantine *q) {
        json_t *root = json_object(), *tenants = json_object();
        struct suspect *s;

        check(root && tenants);
        json_object_set_new(root, "tenants", tenants);
        LIST_FOREACH(s, &q->suspects, entry) {
                json_t *value = json_object(), *crashes = json_array();

                check(value && crashes);
                for (unsigned i = 0; i < s->n_crashes; i++)
                        json_array_append_new(crashes, json_string(s->crashes[i]));
                json_object_set_new(value, "crashes", crashes);
                json_object_set_new(value, "quarantined", json_boolean(s->quarantined));
                json_object_set_new(tenants, s->tenant, value);
        }
        return root;
}

static void write_file(const struct quarantine *q) {
        cleanup(freep) char *temporary = NULL;
        json_t *root = print(q);
        int fd, r = 0;

        check(asprintf(&temporary, "%s.new", q->path) > 0);
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0 || json_dumpfd(root, fd, JSON_INDENT(2)) < 0 || fsync(fd) < 0)
                r = -errno;
        if (fd >= 0)
                close(fd);
        if (r >= 0 && rename(temporary, q->path) < 0)
                r = -errno;
        if (r < 0)
                log_error("%s: cannot be written: %s", q->path, strerror(-r));
        json_decref(root);
}

/* ---- judging */

static void accuse(struct quarantine *q, const char *tenant, const char *when, const char *what) {
        struct log_context context = {.tenant = tenant};
        struct suspect *s = get(q, tenant);
        char *text;

        check(asprintf(&text, "%s: %s", when, what) > 0);
        add_crash(s, text);
        if (!s->quarantined && s->n_crashes < CRASHES) {
                log_at(LOG_LEVEL_WARNING, &context,
                        "the daemon crashed with this tenant: %s; if it does so again, the tenant is not opened any more",
                        what);
                return;
        }
        set_quarantined(s);
        log_at(LOG_LEVEL_ERROR, &context, "quarantined: %s", s->reason);
}

static bool judge(struct quarantine *q, const struct crash_report *r) {
        char when[32] = "", what[128];
        time_t now = time(NULL);
        struct tm tm;

        if (r->kind == CRASH_NONE || r->kind == CRASH_KILLED)
                return false;
        if (gmtime_r(&now, &tm))
                strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
        if (r->kind == CRASH_MEMORY)
                snprintf(what, sizeof(what), "killed for want of memory while the tenant was being opened");
        else
                snprintf(what, sizeof(what), "SIG%s while it %s", sigabbrev_np(r->signo) ? sigabbrev_np(r->signo) : "?",
                        r->owner[0] ? "worked for the tenant" : "opened the tenant");
        log_error("the last daemon ended by %s",
                r->kind == CRASH_MEMORY ? "being killed for want of memory" : strsignal(r->signo));
        if (!*q->window_ns)
                return false;
        if (r->owner[0])
                accuse(q, r->owner, when, what);
        else if (r->n_opening <= MAX_OPENING)
                for (size_t i = 0; i < r->n_opening; i++)
                        accuse(q, r->opening[i], when, what);
        else
                log_warning("%zu tenants were being opened: it is not known whether it was one of them", r->n_opening);
        return r->owner[0] || r->n_opening;
}

/* It has run well for long enough. */
static void on_time(struct loop_timer *timer) {
        struct quarantine *q = container_of(timer, struct quarantine, timer);
        uint64_t due = q->started_ns + *q->window_ns;
        struct suspect *s, *following;
        bool changed = false;

        if (clock_now_ns() < due) {
                loop_timer_set(q->loop, timer, due);
                return;
        }
        for (s = LIST_FIRST(&q->suspects); s; s = following) {
                following = LIST_NEXT(s, entry);
                if (s->quarantined)
                        continue;
                suspect_free(s);
                changed = true;
        }
        if (changed)
                write_file(q);
}

struct quarantine *quarantine_new(
        struct loop *loop, const char *state_dir, const uint64_t *window_ns, const struct crash_report *report) {
        struct quarantine *q = new0(struct quarantine);

        q->loop = loop;
        q->window_ns = window_ns;
        q->started_ns = clock_now_ns();
        LIST_INIT(&q->suspects);
        check(asprintf(&q->path, "%s/quarantine.json", state_dir) > 0);
        read_file(q);
        if (judge(q, report))
                write_file(q);
        q->timer.on_time = on_time;
        loop_timer_set(loop, &q->timer, q->started_ns + *window_ns);
        return q;
}

void quarantine_free(struct quarantine *q) {
        if (!q)
                return;
        loop_timer_clear(&q->timer);
        while (!LIST_EMPTY(&q->suspects))
                suspect_free(LIST_FIRST(&q->suspects));
        free(q->path);
        free(q);
}

const char *quarantine_reason(const struct quarantine *q, const char *tenant) {
        const struct suspect *s = find(q, tenant);

        return s && s->quarantined ? s->reason : NULL;
}

void quarantine_forget(struct quarantine *q, const char *tenant) {
        struct suspect *s = find(q, tenant);

        if (!s)
                return;
        if (s->quarantined)
                publish(tenant, false);
        suspect_free(s);
        write_file(q);
}
