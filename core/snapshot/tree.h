#pragma once

/*
 * Writes one bucket's tree of pages as a stream, from elements that come in the order of their keys: leaves first, then each level of
 * branches, the root last. How many pages that will be is known from the sizes of the elements alone: tree_plan_add() for each, before the
 * first byte is written. One thread at a time; memory is a leaf, and 32 bytes a leaf for the branches.
 *
 * A leaf takes elements up to TREE_LEAF_BYTES, or one that is larger alone: several pages together, since with the usual objects of some KiB
 * single pages would be half empty. bbolt splits them as it changes them. No branch has a single child, which bbolt would not survive.
 */

#include "base/buf.h"
#include "base/error.h"
#include "snapshot/bolt.h"

#define TREE_LEAF_BYTES (4 * BOLT_PAGE_SIZE)
#define TREE_FANOUT 100

/* Where pages go, in order. */
struct page_output {
        /* 0, or a negative errno with the reason, which ends the writing. */
        int (*write)(void *userdata, const void *data, size_t size, struct error *reterr);
        void *userdata;
        uint64_t n_pages; /* written, or being written */
};

struct tree_plan {
        uint64_t n_elements;
        uint64_t n_leaves, n_pages; /* of those that are complete */
        unsigned n_open;            /* elements of the last leaf */
        size_t open_bytes;
};
void tree_plan_add(struct tree_plan *plan, size_t key_size, size_t value_size);
/* How many pages the tree has in all, and which of them, counted from 0, is the root. 0: there were no elements, and no tree. */
uint64_t tree_plan_finish(struct tree_plan *plan, uint64_t *ret_root);

struct tree_node {
        uint64_t page;
        uint8_t key[SNAPSHOT_TOMBSTONE]; /* its first */
        uint8_t key_size;
};

struct tree {
        struct page_output *output; /* borrowed */
        struct buf elements, data;  /* of the leaf being filled */
        unsigned n_open;
        struct tree_node *nodes; /* owned: the level below the one being written */
        size_t n_nodes, capacity;
};
void tree_init(struct tree *tree, struct page_output *output);
void tree_done(struct tree *tree);
/* key: at most SNAPSHOT_TOMBSTONE bytes. The value's room, to be filled at once by the caller, is in *ret. */
int tree_add(struct tree *tree, struct bytes key, size_t value_size, uint8_t **ret, struct error *reterr);
/* The tree's root. At least one element must have been added. */
int tree_finish(struct tree *tree, uint64_t *ret_root, struct error *reterr);

/* A leaf as pages of its own, the number of the first given: for the root bucket. n elements of BOLT_ELEMENT bytes and what
 * they point to (positions as if the data followed the elements). */
int leaf_write(struct page_output *output, const struct buf *elements, const struct buf *data, unsigned n,
        struct error *reterr);
/* Adds an element to a leaf that is being put together; its position is filled in by leaf_seal(). */
int leaf_add(
        struct buf *elements, struct buf *data, uint32_t flags, struct bytes key, size_t value_size, uint8_t **ret);
/* Positions, once their number is known. */
void leaf_seal(struct buf *elements, unsigned n);
