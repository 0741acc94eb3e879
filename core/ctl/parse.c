/*
 * Times and sizes as people write them on the command line. Pure functions, any thread.
 */

#include "ctl/parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

int ctl_parse_time(const char *text, uint64_t *ret_ns) {
        double value, unit = 1;
        char *end;

        errno = 0;
        value = strtod(text, &end);
        if (errno || end == text)
                return -EINVAL;
        if (strcmp(end, "ms") == 0)
                unit = 1e-3;
        else if (strcmp(end, "m") == 0)
                unit = 60;
        else if (*end && strcmp(end, "s") != 0)
                return -EINVAL;
        /* Written so that NaN fails. */
        if (!(value * unit >= 1e-3 && value * unit <= 86400))
                return -EINVAL;
        *ret_ns = (uint64_t)(value * unit * 1e9);
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
