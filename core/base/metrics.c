/*
 * The table of metrics: families in order of name, each with its metrics by label. The process owns the one table, made
 * at the first metric and never freed. A lock guards the table alone; values are relaxed atomics that any thread changes
 * without it, so a page shows each value as of some moment during its printing. Whoever keeps a pointer to a metric
 * across metric_drop() of its label has a bug: nothing here counts references.
 */

#include "base/metrics.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

static const char *const kind_names[] = {"counter", "gauge", "histogram"};

struct metric_family {
        char *name; /* owned */
        char *help; /* owned */
        enum metric_kind kind;
        const double *bounds; /* borrowed for ever; a histogram's */
        size_t n_bounds;
        struct metric *metrics; /* owned; a hash in the order of making */
        UT_hash_handle hh;
};

struct metric {
        struct metric_family *family; /* borrowed, lives for ever */
        char *labels;                 /* owned; "" if there are none */
        _Atomic double value;         /* a histogram's: the sum of what was observed */
        UT_hash_handle hh;
        _Atomic uint64_t buckets[]; /* not cumulated; the last one is beyond all bounds */
};

static pthread_mutex_t metrics_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family *families; /* owned, under the lock */

const double metric_seconds_bounds[] = {
        0.0001,
        0.00025,
        0.0005,
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
};
const size_t metric_seconds_n_bounds = n_elements(metric_seconds_bounds);

static struct metric *metric_find_or_make(enum metric_kind kind, const char *name, const char *help, const char *labels,
        const double *bounds, size_t n_bounds) {
        struct metric_family *f = NULL;
        struct metric *m = NULL;

        if (!labels)
                labels = "";

        pthread_mutex_lock(&metrics_lock);
        HASH_FIND_STR(families, name, f);
        if (!f) {
                f = new0(struct metric_family);
                f->name = xstrdup(name);
                f->help = xstrdup(help);
                f->kind = kind;
                f->bounds = bounds;
                f->n_bounds = n_bounds;
                HASH_ADD_KEYPTR(hh, families, f->name, strlen(f->name), f);
        }
        check(f->kind == kind && f->bounds == bounds && f->n_bounds == n_bounds);

        HASH_FIND_STR(f->metrics, labels, m);
        if (!m) {
                m = xcalloc(1, sizeof(*m) + (kind == METRIC_HISTOGRAM ? (n_bounds + 1) * sizeof(m->buckets[0]) : 0));
                m->family = f;
                m->labels = xstrdup(labels);
                HASH_ADD_KEYPTR(hh, f->metrics, m->labels, strlen(m->labels), m);
        }
        pthread_mutex_unlock(&metrics_lock);
        return m;
}

struct metric *metric_counter(const char *name, const char *help, const char *labels) {
        return metric_find_or_make(METRIC_COUNTER, name, help, labels, NULL, 0);
}

struct metric *metric_gauge(const char *name, const char *help, const char *labels) {
        return metric_find_or_make(METRIC_GAUGE, name, help, labels, NULL, 0);
}

struct metric *metric_histogram(
        const char *name, const char *help, const char *labels, const double *bounds, size_t n_bounds) {
        return metric_find_or_make(METRIC_HISTOGRAM, name, help, labels, bounds, n_bounds);
}

void metric_add(struct metric *m, double n) {
        double old = atomic_load_explicit(&m->value, memory_order_relaxed);

        while (!atomic_compare_exchange_weak_explicit(
                &m->value, &old, old + n, memory_order_relaxed, memory_order_relaxed))
                ;
}

void metric_set(struct metric *m, double value) {
        atomic_store_explicit(&m->value, value, memory_order_relaxed);
}

void metric_observe(struct metric *m, double value) {
        const struct metric_family *f = m->family;
        size_t i = 0;

        check(f->kind == METRIC_HISTOGRAM);
        /* Negated, so that what is no number lands beyond all bounds. */
        while (i < f->n_bounds && !(value <= f->bounds[i]))
                i++;
        atomic_fetch_add_explicit(&m->buckets[i], 1, memory_order_relaxed);
        metric_add(m, value);
}

double metric_get(struct metric *m) {
        return atomic_load_explicit(&m->value, memory_order_relaxed);
}

/* Whether the label stands among the metric's. A quote inside a value is always behind a backslash, so a match that
 * begins the labels or follows a comma cannot be inside a value. */
static bool metric_has_label(const struct metric *m, const char *label, size_t size) {
        const char *p = m->labels;

        while ((p = strstr(p, label))) {
                if ((p == m->labels || p[-1] == ',') && (p[size] == '\0' || p[size] == ','))
                        return true;
                p++;
        }
        return false;
}

void metric_drop(const char *label, const char *value) {
        struct metric_family *f, *next_f;
        struct metric *m, *next_m;
        struct buf wanted = {};

        check(metric_label(&wanted, label, value) == 0 && buf_append(&wanted, "", 1) == 0);

        pthread_mutex_lock(&metrics_lock);
        HASH_ITER(hh, families, f, next_f) {
                HASH_ITER(hh, f->metrics, m, next_m) {
                        if (!metric_has_label(m, (const char *)wanted.data, wanted.size - 1))
                                continue;
                        HASH_DEL(f->metrics, m);
                        free(m->labels);
                        free(m);
                }
        }
        pthread_mutex_unlock(&metrics_lock);
        buf_done(&wanted);
}

/* As the exposition format escapes: a label's value with its quotes, a help text without. */
static int append_escaped(struct buf *out, const char *s, bool quotes) {
        int r = 0;

        for (; *s && r == 0; s++)
                if (*s == '\\')
                        r = buf_append_string(out, "\\\\");
                else if (*s == '\n')
                        r = buf_append_string(out, "\\n");
                else if (*s == '"' && quotes)
                        r = buf_append_string(out, "\\\"");
                else
                        r = buf_append(out, s, 1);
        return r;
}

int metric_label(struct buf *out, const char *name, const char *value) {
        int r;

        r = buf_printf(out, "%s%s=\"", out->size ? "," : "", name);
        if (r < 0)
                return r;
        r = append_escaped(out, value, true);
        if (r < 0)
                return r;
        return buf_append_string(out, "\"");
}

/* The shortest form that reads back as the same number. */
static void number_text(double v, char out[static 32]) {
        if (isnan(v))
                snprintf(out, 32, "NaN");
        else if (isinf(v))
                snprintf(out, 32, v > 0 ? "+Inf" : "-Inf");
        else {
                snprintf(out, 32, "%.15g", v);
                if (strtod(out, NULL) != v)
                        snprintf(out, 32, "%.17g", v);
        }
}

static int print_sample(
        struct buf *out, const char *name, const char *suffix, const char *labels, const char *le, const char *value) {
        bool braces = *labels || le;

        return buf_printf(out, "%s%s%s%s%s%s%s%s%s %s\n", name, suffix, braces ? "{" : "", labels,
                *labels && le ? "," : "", le ? "le=\"" : "", le ? le : "", le ? "\"" : "", braces ? "}" : "", value);
}

static int print_histogram(struct buf *out, struct metric *m) {
        const struct metric_family *f = m->family;
        char bound[32], value[32];
        uint64_t n = 0;
        int r;

        for (size_t i = 0; i <= f->n_bounds; i++) {
                n += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
                number_text(i < f->n_bounds ? f->bounds[i] : INFINITY, bound);
                snprintf(value, sizeof(value), "%llu", (unsigned long long)n);
                r = print_sample(out, f->name, "_bucket", m->labels, bound, value);
                if (r < 0)
                        return r;
        }
        number_text(metric_get(m), value);
        r = print_sample(out, f->name, "_sum", m->labels, NULL, value);
        if (r < 0)
                return r;
        snprintf(value, sizeof(value), "%llu", (unsigned long long)n);
        return print_sample(out, f->name, "_count", m->labels, NULL, value);
}

/* A histogram that never saw anything is left out: each method of each tenant has one, and they are twenty lines each. */
static bool is_empty(const struct metric *m) {
        for (size_t i = 0; i <= m->family->n_bounds; i++)
                if (atomic_load_explicit(&m->buckets[i], memory_order_relaxed))
                        return false;
        return true;
}

static int print_family(struct buf *out, const struct metric_family *f) {
        char value[32];
        int r;

        r = buf_printf(out, "# HELP %s ", f->name);
        if (r < 0)
                return r;
        r = append_escaped(out, f->help, false);
        if (r < 0)
                return r;
        r = buf_printf(out, "\n# TYPE %s %s\n", f->name, kind_names[f->kind]);
        if (r < 0)
                return r;

        for (struct metric *m = f->metrics; m; m = m->hh.next) {
                if (f->kind == METRIC_HISTOGRAM)
                        r = is_empty(m) ? 0 : print_histogram(out, m);
                else {
                        number_text(metric_get(m), value);
                        r = print_sample(out, f->name, "", m->labels, NULL, value);
                }
                if (r < 0)
                        return r;
        }
        return 0;
}

static int family_compare(struct metric_family *a, struct metric_family *b) {
        return strcmp(a->name, b->name);
}

int metrics_print(struct buf *out) {
        int r = 0;

        pthread_mutex_lock(&metrics_lock);
        HASH_SORT(families, family_compare);
        for (struct metric_family *f = families; f && r == 0; f = f->hh.next)
                if (f->metrics)
                        r = print_family(out, f);
        pthread_mutex_unlock(&metrics_lock);
        return r;
}
