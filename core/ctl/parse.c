/*
 * Times and sizes as people write them on the command line. Pure functions, any thread.
 */

#include "ctl/parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

/* Seconds; negative: no time. */
static double seconds_of(const char *text) {
        static const struct {
                const char *name;
                double seconds;
        } units[] = {{"ms", 1e-3}, {"s", 1}, {"", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
        double value;
        char *end;

        errno = 0;
        value = strtod(text, &end);
        if (errno || end == text)
                return -1;
        for (size_t i = 0; i < n_elements(units); i++)
                if (strcmp(end, units[i].name) == 0)
                        return value * units[i].seconds;
        return -1;
}

int ctl_parse_time(const char *text, uint64_t *ret_ns) {
        double seconds = seconds_of(text);

        /* Written so that NaN fails. */
        if (!(seconds >= 1e-3 && seconds <= 86400))
                return -EINVAL;
        *ret_ns = (uint64_t)(seconds * 1e9);
        return 0;
}

int ctl_parse_retention(const char *text, uint64_t *ret_ns) {
        double seconds = seconds_of(text);

        if (!(seconds >= 0 && seconds <= 366.0 * 86400))
                return -EINVAL;
        *ret_ns = (uint64_t)seconds * NSEC_PER_SEC;
        return 0;
}

int ctl_parse_size(const char *text, uint64_t *ret) {
        static const struct {
                const char *suffix;
                double factor;
        } units[] = {
                {"", 1},
                {"k", 1e3},
                {"M", 1e6},
                {"G", 1e9},
                {"T", 1e12},
                {"Ki", 1024.0},
                {"Mi", 1024.0 * 1024},
                {"Gi", 1024.0 * 1024 * 1024},
                {"Ti", 1024.0 * 1024 * 1024 * 1024},
        };
        double value;
        char *end;

        if (*text < '0' || *text > '9' || strpbrk(text, "xXeE"))
                return -EINVAL;
        errno = 0;
        value = strtod(text, &end);
        if (errno)
                return -EINVAL;
        for (size_t i = 0; i < n_elements(units); i++)
                if (strcmp(end, units[i].suffix) == 0) {
                        value *= units[i].factor;
                        if (!(value >= 1 && value < 9e18))
                                return -ERANGE;
                        *ret = (uint64_t)value;
                        return 0;
                }
        return -EINVAL;
}

int ctl_parse_revision(const char *text, int64_t *ret) {
        unsigned long long revision;

        if (!*text || strlen(text) > 19 || strspn(text, "0123456789") != strlen(text))
                return -EINVAL;
        revision = strtoull(text, NULL, 10);
        if (revision < 1 || revision > INT64_MAX / 2)
                return -EINVAL;
        *ret = (int64_t)revision;
        return 0;
}

int ctl_parse_days(const char *text, uint32_t *ret) {
        unsigned long days;

        if (!*text || strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
                return -EINVAL;
        days = strtoul(text, NULL, 10);
        if (days < 1 || days > 36500)
                return -EINVAL;
        *ret = (uint32_t)days;
        return 0;
}
