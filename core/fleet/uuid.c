#include "fleet/uuid.h"

/*
 * UUIDs: made from getrandom(), so that two daemons never choose the same one, whatever their clocks say.
 */

#include <errno.h>
#include <string.h>
#include <sys/random.h>

void uuid_make(uint8_t ret[16]) {
        ssize_t n;

        do
                n = getrandom(ret, 16, 0);
        while (n < 0 && errno == EINTR);
        check(n == 16);

        ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40);
        ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80);
}

void uuid_print(const uint8_t uuid[16], char ret[UUID_TEXT_SIZE]) {
        static const char digits[] = "0123456789abcdef";
        char *p = ret;

        for (size_t i = 0; i < 16; i++) {
                if (i == 4 || i == 6 || i == 8 || i == 10)
                        *p++ = '-';
                *p++ = digits[uuid[i] >> 4];
                *p++ = digits[uuid[i] & 15];
        }
        *p = '\0';
}

static int digit_value(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

int uuid_parse(const char *text, uint8_t ret[16]) {
        uint8_t uuid[16];
        const char *p = text;

        for (size_t i = 0; i < 16; i++) {
                int high, low;

                if (i == 4 || i == 6 || i == 8 || i == 10)
                        if (*p++ != '-')
                                return -EINVAL;
                high = digit_value(p[0]);
                if (high < 0)
                        return -EINVAL;
                low = digit_value(p[1]);
                if (low < 0)
                        return -EINVAL;
                uuid[i] = (uint8_t)(high << 4 | low);
                p += 2;
        }
        if (*p != '\0')
                return -EINVAL;
        memcpy(ret, uuid, sizeof(uuid));
        return 0;
}
