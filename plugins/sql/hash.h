/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* SHA-256 (FIPS 180-4) and HMAC (RFC 2104) over it, for names and derived passwords: no plugin links a cryptographic library for that. Any
 * thread, no state. */

#include <stddef.h>
#include <stdint.h>

#define SQL_SHA256 32

void sql_sha256(const void *data, size_t size, uint8_t ret[SQL_SHA256]);
void sql_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, uint8_t ret[SQL_SHA256]);
