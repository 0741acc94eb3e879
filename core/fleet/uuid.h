#pragma once

/*
 * UUIDs of version 4: the incarnations of daemons and keyspaces. Any thread.
 */

#include "base/macro.h"

#define UUID_TEXT_SIZE 37 /* with the final NUL */

/* From the kernel's generator; cannot fail once the system has booted (check). */
void uuid_make(uint8_t ret[16]);
/* Lower case, with dashes. */
void uuid_print(const uint8_t uuid[16], char ret[UUID_TEXT_SIZE]);
/* 0 or -EINVAL; with dashes, either case. */
int uuid_parse(const char *text, uint8_t ret[16]);
