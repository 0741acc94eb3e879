/* SPDX-License-Identifier: Apache-2.0 */
/* The words of by_hand.c's lines: numbers, ids, ends. Any thread; what cannot be read ends the program, as no test means it. */
#include "by_hand_words.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void by_hand_misused(const char *word) {
        fprintf(stderr, "driver-by-hand: not understood: %s\n", word);
        exit(2);
}

uint64_t by_hand_number(const char *word) {
        return strtoull(word, NULL, 10);
}

size_t by_hand_unhex(const char *text, uint8_t *ret, size_t size) {
        size_t n = 0;

        for (; n < size && isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1]); text += 2) {
                unsigned byte = 0;

                if (sscanf(text, "%2x", &byte) != 1)
                        break;
                ret[n++] = (uint8_t)byte;
        }
        return n;
}

void by_hand_id(const char *word, uint8_t ret[16]) {
        if (strlen(word) == 1)
                memset(ret, word[0], 16);
        else if (strlen(word) != 32 || by_hand_unhex(word, ret, 16) != 16)
                by_hand_misused(word);
}

struct stoke_end by_hand_end(const char *word) {
        const char *slash = strchr(word, '/');
        struct stoke_end end = {.seq = by_hand_number(word)};
        uint8_t bytes[24];

        if (!slash || by_hand_unhex(slash + 1, bytes, 24) != 24)
                by_hand_misused(word);
        memcpy(end.origin.daemon, bytes, 16);
        for (unsigned i = 0; i < 8; i++)
                end.origin.batch = end.origin.batch << 8 | bytes[16 + i];
        return end;
}

void by_hand_print_end(const char *before, const struct stoke_end *end) {
        printf("%s%llu/", before, (unsigned long long)end->seq);
        for (unsigned i = 0; i < 16; i++)
                printf("%02x", end->origin.daemon[i]);
        printf("%016llx\n", (unsigned long long)end->origin.batch);
}
