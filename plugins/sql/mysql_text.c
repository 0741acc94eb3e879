/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a statement as it grows. See mysql_text.h. */
#include "mysql_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mysql.h>

#define KEPT (1u << 20)

void my_text_done(struct my_text *text) {
        free(text->data);
        *text = (struct my_text){};
}

void my_text_reset(struct my_text *text) {
        if (text->capacity > KEPT)
                my_text_done(text);
        text->size = 0;
        text->failed = false;
}

/* Room for so many bytes more, and a NUL. */
static bool reserve(struct my_text *text, size_t more) {
        size_t capacity;
        char *data;

        if (text->failed)
                return false;
        if (text->capacity - text->size > more)
                return true;
        capacity = text->capacity + text->capacity / 2;
        if (capacity < text->size + more + 1024)
                capacity = text->size + more + 1024;
        data = realloc(text->data, capacity);
        if (!data) {
                text->failed = true;
                return false;
        }
        text->data = data;
        text->capacity = capacity;
        return true;
}

void my_text_add(struct my_text *text, const char *string) {
        size_t size = strlen(string);

        if (!reserve(text, size))
                return;
        memcpy(text->data + text->size, string, size + 1);
        text->size += size;
}

void my_text_format(struct my_text *text, const char *format, ...) {
        size_t room = 512;

        for (int tries = 0; tries < 2; tries++) {
                va_list args;
                int n;

                if (!reserve(text, room))
                        return;
                va_start(args, format);
                n = vsnprintf(text->data + text->size, text->capacity - text->size, format, args);
                va_end(args);
                if (n >= 0 && (size_t)n < text->capacity - text->size) {
                        text->size += (size_t)n;
                        return;
                }
                if (n < 0)
                        break;
                room = (size_t)n;
        }
        text->failed = true;
}

void my_text_name(struct my_text *text, const char *name) {
        size_t size = strlen(name);

        if (!reserve(text, 2 * size + 2))
                return;
        text->data[text->size++] = '`';
        for (size_t i = 0; i < size; i++) {
                if (name[i] == '`')
                        text->data[text->size++] = '`';
                text->data[text->size++] = name[i];
        }
        text->data[text->size++] = '`';
}

void my_text_table(struct my_text *text, const char *database, const char *table) {
        my_text_name(text, database);
        my_text_add(text, ".");
        my_text_name(text, table);
}

void my_text_hex(struct my_text *text, const void *data, size_t size) {
        static const char digits[] = "0123456789abcdef";
        const uint8_t *p = data;
        char *to;

        if (!reserve(text, 2 * size + 3))
                return;
        to = text->data + text->size;
        *to++ = 'x';
        *to++ = '\'';
        for (size_t i = 0; i < size; i++) {
                *to++ = digits[p[i] >> 4];
                *to++ = digits[p[i] & 15];
        }
        *to++ = '\'';
        text->size += 2 * size + 3;
}

void my_text_bytes(struct my_text *text, void *mysql, const void *data, size_t size) {
        unsigned long n;

        my_text_add(text, "_binary'");
        if (!reserve(text, 2 * size + 2))
                return;
        if (size) {
                n = mysql_real_escape_string(mysql, text->data + text->size, data, size);
                if (n == (unsigned long)-1) { /* Oracle's, where the server's mode forbids backslashes */
                        text->failed = true;
                        return;
                }
                text->size += n;
        }
        text->data[text->size++] = '\'';
}
