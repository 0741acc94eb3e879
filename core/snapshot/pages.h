#pragma once

/*
 * Reads a bbolt file that nobody vouches for. Nothing in it is believed: each number is held against the file's size, each page is visited once at
 * most (so there are no cycles, and no page serves twice), elements must follow each other within their page without overlapping, and keys must
 * ascend. What does not hold is -EBADMSG, with the page. Memory: a window of the file, the largest element, and a bit a page. The file is read
 * with pread(), so that one that is cut off meanwhile is an error and not a signal. One thread at a time.
 */

#include "base/buf.h"
#include "base/error.h"
#include "snapshot/bolt.h"

#define PAGES_MAX_DEPTH 32
#define PAGES_MAX_VALUE (256 * 1024 * 1024) /* bytes; etcd's largest request is 1.5 MiB by default */
#define PAGES_MAX_KEY (1024 * 1024)

struct pages {
        int fd;             /* borrowed */
        uint64_t file_size; /* without the checksum */
        uint32_t page_size;
        uint64_t root;    /* of the root bucket */
        uint64_t n_pages; /* all are below it */
        uint8_t *visited; /* owned: a bit a page */
        /* Bytes of the file that were read last: of headers and elements, which are small, and of what they point to. */
        struct window {
                uint8_t *data; /* owned */
                size_t size, capacity;
                uint64_t at;
        } elements, data;
};

/* size: of the file, without the checksum. Looks at the meta pages. */
int pages_open(struct pages *pages, int fd, uint64_t size, struct error *reterr);
void pages_done(struct pages *pages);

/* One walk over a bucket, from its first key to its last. */
struct bucket_level {
        uint64_t at; /* the page, in bytes */
        uint64_t page;
        uint64_t size; /* with what overflows */
        unsigned n, next;
        bool is_leaf;
        uint64_t data_at; /* where the next element's data may begin, from the page's start */
};
struct bucket_walk {
        struct pages *pages; /* borrowed */
        struct bucket_level levels[PAGES_MAX_DEPTH];
        unsigned depth; /* 0: the end */
        struct buf key, value, last_key;
        uint64_t value_at; /* in the file */
        uint32_t flags;
        bool begun;
};
/* Where a bucket is: its root's page; 0: a leaf within an element, of inline_size bytes at inline_at in the file. */
struct bucket_place {
        uint64_t root, inline_at, inline_size;
};
/* bucket_walk_done() is due whatever comes. */
int bucket_walk_init(
        struct bucket_walk *walk, struct pages *pages, const struct bucket_place *place, struct error *reterr);
void bucket_walk_done(struct bucket_walk *walk);
/* 1: the next element is in key, value and flags, until the next call; 0: the end. */
int bucket_walk_next(struct bucket_walk *walk, struct error *reterr);
