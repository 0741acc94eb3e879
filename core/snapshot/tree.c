#include "snapshot/tree.h"

static size_t pages_of_leaf(size_t bytes) {
        return (BOLT_PAGE_HEADER + bytes + BOLT_PAGE_SIZE - 1) / BOLT_PAGE_SIZE;
}

/* Whether another element goes into the next leaf: the one rule that plan and writer share. */
static bool leaf_is_full(unsigned n, size_t bytes, size_t key_size, size_t value_size) {
        return n > 0 && BOLT_PAGE_HEADER + bytes + BOLT_ELEMENT + key_size + value_size > TREE_LEAF_BYTES;
}

static uint64_t n_branches(uint64_t n_children) {
        return (n_children + TREE_FANOUT - 1) / TREE_FANOUT;
}

static void close_leaf(struct tree_plan *plan) {
        plan->n_leaves++;
        plan->n_pages += pages_of_leaf(plan->open_bytes);
        plan->n_open = 0;
        plan->open_bytes = 0;
}

void tree_plan_add(struct tree_plan *plan, size_t key_size, size_t value_size) {
        if (leaf_is_full(plan->n_open, plan->open_bytes, key_size, value_size))
                close_leaf(plan);
        plan->n_open++;
        plan->open_bytes += BOLT_ELEMENT + key_size + value_size;
        plan->n_elements++;
}

uint64_t tree_plan_finish(struct tree_plan *plan, uint64_t *ret_root) {
        if (plan->n_open)
                close_leaf(plan);
        for (uint64_t n = plan->n_leaves; n > 1;) {
                n = n_branches(n);
                plan->n_pages += n;
        }
        *ret_root = plan->n_leaves > 1 ? plan->n_pages - 1 : 0; /* a leaf that stands alone may be several pages */
        return plan->n_pages;
}

/* ---- leaves */

int leaf_add(
        struct buf *elements, struct buf *data, uint32_t flags, struct bytes key, size_t value_size, uint8_t **ret) {
        uint8_t *e;
        int r;

        if (value_size > UINT32_MAX)
                return -EMSGSIZE;
        r = buf_reserve(elements, BOLT_ELEMENT);
        if (r >= 0)
                r = buf_reserve(data, key.size + value_size);
        if (r < 0)
                return r;
        e = elements->data + elements->size;
        le_put32(e, flags);
        le_put32(e + 4, (uint32_t)data->size); /* from the data's start, until leaf_seal() */
        le_put32(e + 8, (uint32_t)key.size);
        le_put32(e + 12, (uint32_t)value_size);
        elements->size += BOLT_ELEMENT;
        memcpy(data->data + data->size, key.data, key.size);
        *ret = data->data + data->size + key.size;
        data->size += key.size + value_size;
        return 0;
}

void leaf_seal(struct buf *elements, unsigned n) {
        for (unsigned i = 0; i < n; i++) {
                uint8_t *e = elements->data + (size_t)i * BOLT_ELEMENT;

                le_put32(e + 4, le_get32(e + 4) + (uint32_t)((n - i) * BOLT_ELEMENT));
        }
}

int leaf_write(struct page_output *output, const struct buf *elements, const struct buf *data, unsigned n,
        struct error *reterr) {
        static const uint8_t zeros[BOLT_PAGE_SIZE];
        size_t bytes = elements->size + data->size, n_pages = pages_of_leaf(bytes);
        size_t rest = n_pages * BOLT_PAGE_SIZE - BOLT_PAGE_HEADER - bytes;
        uint8_t header[BOLT_PAGE_HEADER];
        int r;

        bolt_put_header(header, output->n_pages, BOLT_LEAF, (uint16_t)n, (uint32_t)(n_pages - 1));
        output->n_pages += n_pages;
        r = output->write(output->userdata, header, sizeof(header), reterr);
        if (r >= 0)
                r = output->write(output->userdata, elements->data, elements->size, reterr);
        if (r >= 0)
                r = output->write(output->userdata, data->data, data->size, reterr);
        if (r >= 0 && rest)
                r = output->write(output->userdata, zeros, rest, reterr);
        return r;
}

/* ---- a tree */

void tree_init(struct tree *tree, struct page_output *output) {
        *tree = (struct tree){.output = output};
        buf_init(&tree->elements, 0);
        buf_init(&tree->data, 0);
}

void tree_done(struct tree *tree) {
        buf_done(&tree->elements);
        buf_done(&tree->data);
        free(steal(tree->nodes));
}

static int add_node(struct tree *tree, uint64_t page, struct bytes key) {
        struct tree_node *node;

        if (tree->n_nodes == tree->capacity) {
                size_t capacity = tree->capacity ? tree->capacity * 2 : 64;
                struct tree_node *nodes = realloc(tree->nodes, capacity * sizeof(*nodes));

                if (!nodes)
                        return -ENOMEM;
                tree->nodes = nodes;
                tree->capacity = capacity;
        }
        node = &tree->nodes[tree->n_nodes++];
        node->page = page;
        node->key_size = (uint8_t)key.size;
        memcpy(node->key, key.data, key.size);
        return 0;
}

static int flush_leaf(struct tree *tree, struct error *reterr) {
        int r = add_node(tree, tree->output->n_pages, bytes_of(tree->data.data, le_get32(tree->elements.data + 8)));

        if (r < 0)
                return error_set(reterr, r, "no memory for the snapshot's branches");
        leaf_seal(&tree->elements, tree->n_open);
        r = leaf_write(tree->output, &tree->elements, &tree->data, tree->n_open, reterr);
        buf_clear(&tree->elements);
        buf_clear(&tree->data);
        tree->n_open = 0;
        return r;
}

int tree_add(struct tree *tree, struct bytes key, size_t value_size, uint8_t **ret, struct error *reterr) {
        int r = 0;

        check(key.size > 0 && key.size <= SNAPSHOT_TOMBSTONE);
        if (leaf_is_full(tree->n_open, tree->elements.size + tree->data.size, key.size, value_size))
                r = flush_leaf(tree, reterr);
        if (r < 0)
                return r;
        r = leaf_add(&tree->elements, &tree->data, 0, key, value_size, ret);
        if (r < 0)
                return error_set(reterr, r, "no memory for a value of %zu bytes", value_size);
        tree->n_open++;
        return 0;
}

/* Children [from, to) under one branch. */
static int write_branch(struct tree *tree, size_t from, size_t to, struct error *reterr) {
        uint8_t page[BOLT_PAGE_SIZE] = {};
        size_t n = to - from, at = BOLT_PAGE_HEADER + n * BOLT_ELEMENT;

        bolt_put_header(page, tree->output->n_pages++, BOLT_BRANCH, (uint16_t)n, 0);
        for (size_t i = 0; i < n; i++) {
                const struct tree_node *node = &tree->nodes[from + i];
                size_t element = BOLT_PAGE_HEADER + i * BOLT_ELEMENT;

                check(at + node->key_size <= sizeof(page));
                le_put32(page + element, (uint32_t)(at - element));
                le_put32(page + element + 4, node->key_size);
                le_put64(page + element + 8, node->page);
                memcpy(page + at, node->key, node->key_size);
                at += node->key_size;
        }
        return tree->output->write(tree->output->userdata, page, sizeof(page), reterr);
}

int tree_finish(struct tree *tree, uint64_t *ret_root, struct error *reterr) {
        int r = tree->n_open ? flush_leaf(tree, reterr) : 0;

        if (r < 0)
                return r;
        check(tree->n_nodes > 0);
        while (tree->n_nodes > 1) {
                uint64_t n_parents = n_branches(tree->n_nodes);

                /* As many to each: at least half a branch, where there are several. The level above overwrites this one. */
                for (uint64_t i = 0; i < n_parents; i++) {
                        size_t from = (size_t)(i * tree->n_nodes / n_parents);
                        uint64_t page = tree->output->n_pages;

                        r = write_branch(tree, from, (size_t)((i + 1) * tree->n_nodes / n_parents), reterr);
                        if (r < 0)
                                return r;
                        tree->nodes[i] = tree->nodes[from];
                        tree->nodes[i].page = page;
                }
                tree->n_nodes = (size_t)n_parents;
        }
        *ret_root = tree->nodes[0].page;
        return 0;
}
