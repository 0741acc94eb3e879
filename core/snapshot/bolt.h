#pragma once

/*
 * The format of a bbolt file, as far as a snapshot of etcd has it: pages of one size, numbered from 0. Page 0 and 1 are meta pages (the valid
 * one with the higher transaction counts), one lists the free pages, the others are trees: leaves with elements, branches with the first keys
 * of their children. A page's `overflow` says how many pages more it takes. The root's elements are the buckets, each of
 * which names the root of a tree of its own, or has a small leaf within its element. A snapshot is such a file with the SHA-256 of all of it behind it.
 *
 * bbolt writes the machine's byte order, and so all that exist are little-endian.
 */

#include <endian.h>
#include <string.h>

#include "base/little_endian.h"
#include "base/macro.h"

#define BOLT_MAGIC UINT32_C(0xED0CDAED)
#define BOLT_VERSION 2
#define BOLT_PAGE_SIZE 4096 /* of what is written */
#define BOLT_NO_FREELIST UINT64_MAX

enum bolt_page_kind {
        BOLT_BRANCH = 1,
        BOLT_LEAF = 2,
        BOLT_META = 4,
        BOLT_FREELIST = 16,
};

/* A page: its number (8 bytes), kind (2), how many elements (2), overflow (4). */
#define BOLT_PAGE_HEADER 16
/* Of a leaf: flags, position from its own start, bytes of the key, of the value (4 each). Of a branch: position, bytes of the key (4 each), page (8). */
#define BOLT_ELEMENT 16
#define BOLT_ELEMENT_IS_BUCKET 1
/* A bucket, as an element's value: its root's page, 0 for a leaf that follows (8), and a counter that etcd leaves alone (8). */
#define BOLT_BUCKET 16
/* A meta page behind its header: magic, version, page size, flags (4 each), the root bucket, page of the free list, the first page
 * behind all, transaction, FNV-1a over these (8 each but for the bucket). */
#define BOLT_META_SIZE 64
#define BOLT_META_SUMMED 56

#define SNAPSHOT_CHECKSUM 32
/* A file has the checksum if its size says so: pages are a multiple of this. */
#define SNAPSHOT_SECTOR 512

static inline void bolt_put_header(uint8_t *p, uint64_t page, enum bolt_page_kind kind, uint16_t n, uint32_t overflow) {
        le_put64(p, page);
        le_put16(p + 8, (uint16_t)kind);
        le_put16(p + 10, n);
        le_put32(p + 12, overflow);
}

static inline uint64_t bolt_meta_sum(const uint8_t *meta) {
        uint64_t sum = UINT64_C(0xcbf29ce484222325);

        for (size_t i = 0; i < BOLT_META_SUMMED; i++)
                sum = (sum ^ meta[i]) * UINT64_C(0x100000001b3);
        return sum;
}

/* ---- etcd's part: numbers in its keys and values are big-endian */

#define SNAPSHOT_REVISION 17  /* a key of the bucket `key`: main, '_', sub */
#define SNAPSHOT_TOMBSTONE 18 /* the same and a 't' */

static inline void bolt_put_big64(uint8_t *p, uint64_t v) {
        v = htobe64(v);
        memcpy(p, &v, sizeof(v));
}
static inline uint64_t bolt_get_big64(const uint8_t *p) {
        uint64_t v;

        memcpy(&v, p, sizeof(v));
        return be64toh(v);
}
/* Its size. */
static inline size_t snapshot_put_revision(uint8_t ret[SNAPSHOT_TOMBSTONE], int64_t main, int64_t sub, bool tombstone) {
        bolt_put_big64(ret, (uint64_t)main);
        ret[8] = '_';
        bolt_put_big64(ret + 9, (uint64_t)sub);
        ret[17] = 't';
        return tombstone ? SNAPSHOT_TOMBSTONE : SNAPSHOT_REVISION;
}
