/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 and HMAC: see hash.h. Small, not fast: some hundred bytes at a time, once a connection. */
#include "hash.h"

#include <string.h>

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
        0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7,
        0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
        0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c,
        0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
        0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

struct sha256 {
        uint32_t state[8];
        uint64_t size;
        uint8_t block[64];
};

static uint32_t rotate(uint32_t x, unsigned n) {
        return x >> n | x << (32 - n);
}

static void compress(uint32_t state[8], const uint8_t block[64]) {
        uint32_t w[64], s[8];

        for (unsigned i = 0; i < 16; i++)
                w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                        (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
        for (unsigned i = 16; i < 64; i++) {
                uint32_t a = w[i - 15], b = w[i - 2];

                w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
                        (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
        }
        memcpy(s, state, sizeof(s));
        for (unsigned i = 0; i < 64; i++) {
                uint32_t one, two;

                one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                        ((s[4] & s[5]) ^ (~s[4] & s[6])) + round_constants[i] + w[i];
                two = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                        ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
                memmove(s + 1, s, 7 * sizeof(s[0]));
                s[4] += one;
                s[0] = one + two;
        }
        for (unsigned i = 0; i < 8; i++)
                state[i] += s[i];
}

static void begin(struct sha256 *h) {
        /* Of the square roots of the first eight primes. */
        *h = (struct sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                                     0x1f83d9ab, 0x5be0cd19}};
}

static void add(struct sha256 *h, const void *data, size_t size) {
        const uint8_t *p = data;

        for (size_t i = 0; i < size; i++) {
                h->block[h->size++ % 64] = p[i];
                if (h->size % 64 == 0)
                        compress(h->state, h->block);
        }
}

static void end(struct sha256 *h, uint8_t ret[SQL_SHA256]) {
        static const uint8_t one = 0x80, zero = 0;
        uint64_t bits = h->size * 8;
        uint8_t length[8];

        add(h, &one, 1);
        while (h->size % 64 != 56)
                add(h, &zero, 1);
        for (unsigned i = 0; i < 8; i++)
                length[i] = (uint8_t)(bits >> (56 - 8 * i));
        add(h, length, 8);
        for (unsigned i = 0; i < SQL_SHA256; i++)
                ret[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
        explicit_bzero(h, sizeof(*h));
}

void sql_sha256(const void *data, size_t size, uint8_t ret[SQL_SHA256]) {
        struct sha256 h;

        begin(&h);
        add(&h, data, size);
        end(&h, ret);
}

void sql_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, uint8_t ret[SQL_SHA256]) {
        uint8_t block[64] = {0}, pad[64], inner[SQL_SHA256];
        struct sha256 h;

        if (key_size > sizeof(block))
                sql_sha256(key, key_size, block);
        else if (key_size)
                memcpy(block, key, key_size);
        for (unsigned i = 0; i < sizeof(pad); i++)
                pad[i] = block[i] ^ 0x36;
        begin(&h);
        add(&h, pad, sizeof(pad));
        add(&h, data, size);
        end(&h, inner);
        for (unsigned i = 0; i < sizeof(pad); i++)
                pad[i] = block[i] ^ 0x5c;
        begin(&h);
        add(&h, pad, sizeof(pad));
        add(&h, inner, sizeof(inner));
        end(&h, ret);
        explicit_bzero(block, sizeof(block));
        explicit_bzero(pad, sizeof(pad));
}
