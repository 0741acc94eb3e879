#pragma once

/*
 * Times and sizes as people write them on the command line. Pure functions, any thread.
 */

#include <stdint.h>

/* "500ms", "10s", "2m", "1.5h", "3" (seconds); from a millisecond to a day. 0 or -EINVAL. */
int ctl_parse_time(const char *text, uint64_t *ret_ns);
/* The same from nothing to a year, "7d" too; in whole seconds. */
int ctl_parse_retention(const char *text, uint64_t *ret_ns);
/* Kubernetes' quantities, without exponents: "1073741824", "512Mi", "2G", "1.5Gi". 0, -EINVAL, -ERANGE. */
int ctl_parse_size(const char *text, uint64_t *ret);
/* From 1 to half of what etcd's revisions can be. 0 or -EINVAL. */
int ctl_parse_revision(const char *text, int64_t *ret);
/* A number of days, from 1 to 36500. 0 or -EINVAL. */
int ctl_parse_days(const char *text, uint32_t *ret);
