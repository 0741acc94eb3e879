/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The text of a statement as it grows: names quoted, bytes escaped by the client library. Once memory has run out it stays `failed`, and
 * nothing more is added: looked at when the statement is sent. One thread at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct my_text {
        char *data; /* owned */
        size_t size, capacity;
        bool failed;
};

void my_text_done(struct my_text *text);
/* Empty again. What is kept of the buffer is bounded. */
void my_text_reset(struct my_text *text);
void my_text_add(struct my_text *text, const char *string);
void my_text_format(struct my_text *text, const char *format, ...) __attribute__((__format__(__printf__, 2, 3)));
/* `name`, with backquotes doubled. */
void my_text_name(struct my_text *text, const char *name);
/* `database`.`table` */
void my_text_table(struct my_text *text, const char *database, const char *table);
/* x'…' */
void my_text_hex(struct my_text *text, const void *data, size_t size);
/* _binary'…', escaped as the connection wants it. mysql: a MYSQL. */
void my_text_bytes(struct my_text *text, void *mysql, const void *data, size_t size);
