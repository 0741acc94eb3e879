#pragma once

/*
 * Prometheus metrics. A metric is found or made once (a lock, a hash), kept as a pointer, and then changed by any
 * thread with relaxed atomics. Metrics live until metric_drop(), which is for those of a tenant that has gone.
 */

#include "base/buf.h"
#include "base/macro.h"

struct metric;

/* labels: ready for print, such as tenant="a",code="OK" (metric_label() escapes a value), or NULL. The same name and labels give the same
 * metric; a name has one kind and one help text for ever. Never NULL. */
struct metric *metric_counter(const char *name, const char *help, const char *labels);
struct metric *metric_gauge(const char *name, const char *help, const char *labels);
/* bounds: ascending upper bounds, borrowed for ever (a static array). */
struct metric *metric_histogram(
        const char *name, const char *help, const char *labels, const double *bounds, size_t n_bounds);
/* 0.1 ms to 10 s, for durations in seconds. */
extern const double metric_seconds_bounds[];
extern const size_t metric_seconds_n_bounds;

void metric_add(struct metric *m, double n);
void metric_set(struct metric *m, double value);
void metric_observe(struct metric *m, double value);
double metric_get(struct metric *m);

/* Forgets all metrics with this label, for instance "tenant", "a"; pointers to them are dead. */
void metric_drop(const char *label, const char *value);
/* Appends NAME="VALUE" with the value escaped, after a comma if the buffer is not empty. */
int metric_label(struct buf *out, const char *name, const char *value);

/* The text exposition format 0.0.4, families in order of name. */
int metrics_print(struct buf *out);
