/*
 * How people write sizes, durations and bytes in text. Pure functions, any thread. Nothing is guessed: what does not
 * fit exactly is refused, because a quota that was read as something else is found out too late.
 */

#include "fleet/quantity.h"

#include <ctype.h>
#include <errno.h>

struct unit {
        const char *name;
        uint64_t factor;
};

/* Digits only; -ERANGE when they are too many. *text moves behind them. */
static int digits_parse(const char **text, uint64_t *ret) {
        uint64_t v = 0;

        if (!isdigit((unsigned char)**text))
                return -EINVAL;
        for (; isdigit((unsigned char)**text); (*text)++)
                if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
                        __builtin_add_overflow(v, (uint64_t)(**text - '0'), &v))
                        return -ERANGE;
        *ret = v;
        return 0;
}

int size_parse(const char *text, uint64_t *ret) {
        static const struct unit units[] = {
                {"", 1},
                {"k", UINT64_C(1000)},
                {"M", UINT64_C(1000000)},
                {"G", UINT64_C(1000000000)},
                {"T", UINT64_C(1000000000000)},
                {"Ki", UINT64_C(1) << 10},
                {"Mi", UINT64_C(1) << 20},
                {"Gi", UINT64_C(1) << 30},
                {"Ti", UINT64_C(1) << 40},
        };
        uint64_t v;
        int r;

        r = digits_parse(&text, &v);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n_elements(units); i++)
                if (strcmp(units[i].name, text) == 0) {
                        /* Whoever computes with sizes does so in signed numbers sooner or later. */
                        if (__builtin_mul_overflow(v, units[i].factor, &v) || v > INT64_MAX)
                                return -ERANGE;
                        *ret = v;
                        return 0;
                }
        return -EINVAL;
}

void size_print(uint64_t bytes, char out[static 32]) {
        static const char *const names[] = {"", "Ki", "Mi", "Gi", "Ti"};
        size_t i = 0;

        while (bytes && bytes % 1024 == 0 && i + 1 < n_elements(names)) {
                bytes /= 1024;
                i++;
        }
        snprintf(out, 32, "%llu%s", (unsigned long long)bytes, names[i]);
}

/* Largest first: the order in which they must be written. */
static const struct unit duration_units[] = {
        {"d", 24 * 3600 * NSEC_PER_SEC},
        {"h", 3600 * NSEC_PER_SEC},
        {"m", 60 * NSEC_PER_SEC},
        {"s", NSEC_PER_SEC},
        {"ms", NSEC_PER_MSEC},
        {"us", NSEC_PER_USEC},
};

int duration_parse(const char *text, uint64_t *ret) {
        uint64_t total = 0, v;
        size_t next = 0, i;
        int r;

        if (strcmp(text, "0") == 0) {
                *ret = 0;
                return 0;
        }

        do {
                const char *name;
                size_t size;

                r = digits_parse(&text, &v);
                if (r < 0)
                        return r;
                name = text;
                while (isalpha((unsigned char)*text))
                        text++;
                size = (size_t)(text - name);
                for (i = next; i < n_elements(duration_units); i++)
                        if (strlen(duration_units[i].name) == size && memcmp(duration_units[i].name, name, size) == 0)
                                break;
                if (i == n_elements(duration_units))
                        return -EINVAL;
                next = i + 1;
                if (__builtin_mul_overflow(v, duration_units[i].factor, &v) ||
                        __builtin_add_overflow(total, v, &total) || total > INT64_MAX)
                        return -ERANGE;
        } while (*text);

        *ret = total;
        return 0;
}

void duration_print(uint64_t ns, char out[static 64]) {
        size_t used = 0;

        out[0] = '\0';
        for (size_t i = 0; i < n_elements(duration_units); i++) {
                uint64_t n = ns / duration_units[i].factor;

                if (n == 0)
                        continue;
                ns %= duration_units[i].factor;
                used += (size_t)snprintf(
                        out + used, 64 - used, "%llu%s", (unsigned long long)n, duration_units[i].name);
        }
        if (used == 0)
                snprintf(out, 64, "0");
}

static int base64_digit(char c) {
        if (c >= 'A' && c <= 'Z')
                return c - 'A';
        if (c >= 'a' && c <= 'z')
                return c - 'a' + 26;
        if (c >= '0' && c <= '9')
                return c - '0' + 52;
        return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(const char *text, uint8_t **ret, size_t *ret_size) {
        cleanup(freep) uint8_t *data = NULL;
        unsigned n = 0, n_padding = 0;
        uint32_t group = 0;
        size_t size = 0;

        data = malloc(strlen(text) / 4 * 3 + 4);
        if (!data)
                return -ENOMEM;

        for (; *text; text++) {
                int digit;

                if (*text == '\n' || *text == '\r')
                        continue;
                if (*text == '=') {
                        /* Only as the third or fourth of a group, and nothing may follow. */
                        if (n < 2 || ++n_padding + n > 4)
                                return -EINVAL;
                        continue;
                }
                digit = base64_digit(*text);
                if (digit < 0 || n_padding)
                        return -EINVAL;
                group = group << 6 | (uint32_t)digit;
                if (++n == 4) {
                        data[size++] = (uint8_t)(group >> 16);
                        data[size++] = (uint8_t)(group >> 8);
                        data[size++] = (uint8_t)group;
                        n = 0;
                        group = 0;
                }
        }
        if (n) {
                if (n + n_padding != 4)
                        return -EINVAL;
                data[size++] = (uint8_t)(group >> (n == 2 ? 4 : 10));
                if (n == 3)
                        data[size++] = (uint8_t)(group >> 2);
        }

        data[size] = '\0';
        *ret = steal(data);
        *ret_size = size;
        return 0;
}
