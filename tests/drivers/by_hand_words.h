/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BY_HAND_WORDS_H
#define BY_HAND_WORDS_H

#include <stokehold/driver.h>

/* Says which word is not understood, and ends with 2. */
_Noreturn void by_hand_misused(const char *word);

uint64_t by_hand_number(const char *word);

/* At most `size` bytes of hexadecimal digits; how many there were. */
size_t by_hand_unhex(const char *text, uint8_t *ret, size_t size);

/* 32 digits, or one character that is all 16 bytes. */
void by_hand_id(const char *word, uint8_t ret[16]);

/* SEQ/ORIGIN, the latter 48 digits. */
struct stoke_end by_hand_end(const char *word);

/* The same, and the line's end. */
void by_hand_print_end(const char *before, const struct stoke_end *end);

#endif
