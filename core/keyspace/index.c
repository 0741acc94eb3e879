#include "keyspace/index.h"

#define FANOUT 64

struct index_node {
        uint16_t n;
        bool is_leaf;
        struct index_node *next;         /* leaves: the right neighbour */
        struct key_entry *first[FANOUT]; /* leaf: its entries; inner: the first entry below each child */
};

struct index_inner {
        struct index_node node;
        struct index_node *child[FANOUT];
        size_t n_alive[FANOUT];
};

static inline struct index_inner *inner(const struct index_node *node) {
        return container_of((struct index_node *)(uintptr_t)node, struct index_inner, node);
}

const struct key_version *key_entry_at(const struct key_entry *e, int64_t revision) {
        size_t low = 0, high = e->n_older;

        if (e->last.mod_revision <= revision)
                return e->last.mod_revision ? &e->last : NULL;
        while (low < high) { /* the first that is newer */
                size_t middle = (low + high) / 2;

                if (e->older[middle].mod_revision <= revision)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low ? &e->older[low - 1] : NULL;
}

const struct key_version *key_entry_by_seq(const struct key_entry *e, uint64_t seq) {
        size_t low = 0, high = e->n_older;

        if (e->last.seq == seq)
                return &e->last;
        while (low < high) {
                size_t middle = (low + high) / 2;

                if (e->older[middle].seq < seq)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < e->n_older && e->older[low].seq == seq ? &e->older[low] : NULL;
}

const struct key_version *key_entry_before(const struct key_entry *e, const struct key_version *v) {
        if (v == &e->last)
                return e->n_older ? &e->older[e->n_older - 1] : NULL;
        return v > e->older ? v - 1 : NULL;
}

/* The array has room for the next power of two: no capacity need be kept. */
void key_entry_push(struct key_entry *e, const struct key_version *v) {
        if (e->last.mod_revision) {
                if ((e->n_older & (e->n_older - 1)) == 0) {
                        size_t capacity = e->n_older ? (size_t)e->n_older * 2 : 1;

                        e->older = realloc(e->older, capacity * sizeof(*e->older));
                        check(e->older);
                }
                e->older[e->n_older++] = e->last;
        }
        e->last = *v;
}

static size_t node_size(const struct index_node *node) {
        return node->is_leaf ? sizeof(struct index_node) : sizeof(struct index_inner);
}

static struct index_node *node_new(struct index *index, bool is_leaf) {
        struct index_node *node = is_leaf ? new0(struct index_node) : &new0(struct index_inner)->node;

        node->is_leaf = is_leaf;
        index->bytes += node_size(node);
        return node;
}

static void node_free(struct index *index, struct index_node *node) {
        index->bytes -= node->is_leaf ? sizeof(struct index_node) : sizeof(struct index_inner);
        free(node);
}

/* With what malloc adds. */
static size_t entry_bytes(size_t key_size) {
        return (sizeof(struct key_entry) + key_size + 8 + 15) / 16 * 16;
}

static void entry_free(struct index *index, struct key_entry *e) {
        index->bytes -= entry_bytes(e->key_size);
        free(e->older);
        free(e);
}

static void node_done(struct index *index, struct index_node *node) {
        for (unsigned i = 0; i < node->n; i++)
                if (node->is_leaf)
                        entry_free(index, node->first[i]);
                else
                        node_done(index, inner(node)->child[i]);
        node_free(index, node);
}

void index_done(struct index *index) {
        if (index->root)
                node_done(index, index->root);
        *index = (struct index){};
}

/* What is left of n. */
static size_t node_done_some(struct index *index, struct index_node *node, size_t n) {
        while (node->n && n) {
                if (node->is_leaf) {
                        entry_free(index, node->first[--node->n]);
                        n--;
                        continue;
                }
                n = node_done_some(index, inner(node)->child[node->n - 1], n);
                if (inner(node)->child[node->n - 1]->n == 0)
                        node_free(index, inner(node)->child[--node->n]);
        }
        return n;
}

bool index_done_some(struct index *index, size_t n) {
        if (index->root) {
                (void)node_done_some(index, index->root, n);
                if (index->root->n)
                        return false;
                node_free(index, index->root);
        }
        *index = (struct index){};
        return true;
}

/* How many of first[] are before key (or, with equal, not behind it). */
static unsigned node_search(const struct index_node *node, struct bytes key, bool or_equal) {
        unsigned low = 0, high = node->n;

        while (low < high) {
                unsigned middle = (low + high) / 2;
                int c = bytes_compare(key_entry_key(node->first[middle]), key);

                if (c < 0 || (or_equal && c == 0))
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* The child that key is in or belongs into. */
static unsigned child_of(const struct index_node *node, struct bytes key) {
        unsigned i = node_search(node, key, true);

        return i ? i - 1 : 0;
}

static size_t node_alive(const struct index_node *node) {
        size_t n = 0;

        for (unsigned i = 0; i < node->n; i++)
                n += node->is_leaf ? node->first[i]->alive : inner(node)->n_alive[i];
        return n;
}

struct key_entry *index_find(const struct index *index, struct bytes key) {
        const struct index_node *node = index->root;
        unsigned i;

        if (!node)
                return NULL;
        while (!node->is_leaf)
                node = inner(node)->child[child_of(node, key)];
        i = node_search(node, key, false);
        if (i < node->n && bytes_equal(key_entry_key(node->first[i]), key))
                return node->first[i];
        return NULL;
}

static void node_insert_at(
        struct index_node *node, unsigned i, struct key_entry *first, struct index_node *child, size_t n_alive) {
        unsigned behind = node->n - i;

        memmove(&node->first[i + 1], &node->first[i], behind * sizeof(node->first[0]));
        node->first[i] = first;
        if (!node->is_leaf) {
                memmove(&inner(node)->child[i + 1], &inner(node)->child[i], behind * sizeof(inner(node)->child[0]));
                memmove(&inner(node)->n_alive[i + 1], &inner(node)->n_alive[i],
                        behind * sizeof(inner(node)->n_alive[0]));
                inner(node)->child[i] = child;
                inner(node)->n_alive[i] = n_alive;
        }
        node->n++;
}

/* Moves what is behind `at` into a new right neighbour. Splitting at the very end keeps leaves full when keys come in
 * ascending order. */
static struct index_node *node_split(struct index *index, struct index_node *node, unsigned at) {
        struct index_node *right = node_new(index, node->is_leaf);
        unsigned n = node->n - at;

        memcpy(right->first, &node->first[at], n * sizeof(node->first[0]));
        if (node->is_leaf) {
                right->next = node->next;
                node->next = right;
        } else {
                memcpy(inner(right)->child, &inner(node)->child[at], n * sizeof(inner(node)->child[0]));
                memcpy(inner(right)->n_alive, &inner(node)->n_alive[at], n * sizeof(inner(node)->n_alive[0]));
        }
        right->n = (uint16_t)n;
        node->n = (uint16_t)at;
        return right;
}

/* Puts the entry below node; a node that was full is split, and its right half returned. */
static struct index_node *node_put(struct index *index, struct index_node *node, struct key_entry *e) {
        struct index_node *right = NULL, *target = node, *below;
        struct bytes key = key_entry_key(e);
        unsigned i;

        if (node->is_leaf) {
                i = node_search(node, key, false);
                if (node->n == FANOUT) {
                        right = node_split(index, node, i == FANOUT ? FANOUT - 1 : FANOUT / 2);
                        if (i > node->n) {
                                i -= node->n;
                                target = right;
                        }
                }
                node_insert_at(target, i, e, NULL, 0);
                return right;
        }

        i = child_of(node, key);
        below = node_put(index, inner(node)->child[i], e);
        node->first[i] = inner(node)->child[i]->first[0];
        if (!below)
                return NULL;

        inner(node)->n_alive[i] = node_alive(inner(node)->child[i]);
        i++;
        if (node->n == FANOUT) {
                right = node_split(index, node, i == FANOUT ? FANOUT - 1 : FANOUT / 2);
                if (i > node->n) {
                        i -= node->n;
                        target = right;
                }
        }
        node_insert_at(target, i, below->first[0], below, node_alive(below));
        return right;
}

struct key_entry *index_get(struct index *index, struct bytes key) {
        struct key_entry *e = index_find(index, key);
        struct index_node *right, *root;

        if (e)
                return e;
        e = xcalloc(1, sizeof(*e) + key.size);
        e->key_size = (uint32_t)key.size;
        if (key.size)
                memcpy(e->key, key.data, key.size);
        index->bytes += entry_bytes(key.size);
        index->n_entries++;

        if (!index->root)
                index->root = node_new(index, true);
        right = node_put(index, index->root, e);
        if (right) {
                root = node_new(index, false);
                node_insert_at(root, 0, index->root->first[0], index->root, node_alive(index->root));
                node_insert_at(root, 1, right->first[0], right, node_alive(right));
                index->root = root;
        }
        return e;
}

/* The leaf that ends just before the leaf at the end of `path`; the list is singly linked, since this is rare. */
static struct index_node *last_leaf(struct index_node *node) {
        while (!node->is_leaf)
                node = inner(node)->child[node->n - 1];
        return node;
}

/* True: node has become empty and was freed. left: the subtree to the left of node, at any height; NULL: none. */
static bool node_remove(struct index *index, struct index_node *node, struct key_entry *e, struct index_node *left) {
        struct bytes key = key_entry_key(e);
        unsigned i, behind;

        if (node->is_leaf) {
                i = node_search(node, key, false);
                check(i < node->n && node->first[i] == e);
        } else {
                i = child_of(node, key);
                if (!node_remove(index, inner(node)->child[i], e, i ? inner(node)->child[i - 1] : left)) {
                        node->first[i] = inner(node)->child[i]->first[0];
                        return false;
                }
        }

        behind = node->n - i - 1;
        memmove(&node->first[i], &node->first[i + 1], behind * sizeof(node->first[0]));
        if (!node->is_leaf) {
                memmove(&inner(node)->child[i], &inner(node)->child[i + 1], behind * sizeof(inner(node)->child[0]));
                memmove(&inner(node)->n_alive[i], &inner(node)->n_alive[i + 1],
                        behind * sizeof(inner(node)->n_alive[0]));
        }
        if (--node->n)
                return false;
        if (node->is_leaf && left)
                last_leaf(left)->next = node->next;
        node_free(index, node);
        return true;
}

void index_remove(struct index *index, struct key_entry *e) {
        struct index_node *root;

        index_set_alive(index, e, false);
        if (node_remove(index, index->root, e, NULL))
                index->root = NULL;
        while (index->root && !index->root->is_leaf && index->root->n == 1) {
                root = index->root;
                index->root = inner(root)->child[0];
                node_free(index, root);
        }
        index->n_entries--;
        entry_free(index, e);
}

void index_set_alive(struct index *index, struct key_entry *e, bool alive) {
        struct index_node *node;
        struct bytes key = key_entry_key(e);
        unsigned i;

        if (e->alive == alive)
                return;
        e->alive = alive;
        for (node = index->root; !node->is_leaf; node = inner(node)->child[i]) {
                i = child_of(node, key);
                inner(node)->n_alive[i] += alive ? 1 : SIZE_MAX;
        }
        index->n_alive += alive ? 1 : SIZE_MAX;
}

size_t index_rank(const struct index *index, struct bytes key) {
        const struct index_node *node = index->root;
        size_t rank = 0;
        unsigned n;

        if (!node)
                return 0;
        while (!node->is_leaf) {
                unsigned i = child_of(node, key);

                for (unsigned j = 0; j < i; j++)
                        rank += inner(node)->n_alive[j];
                node = inner(node)->child[i];
        }
        n = node_search(node, key, false);
        for (unsigned i = 0; i < n; i++)
                rank += node->first[i]->alive;
        return rank;
}

void index_seek(const struct index *index, struct bytes key, struct index_cursor *ret) {
        const struct index_node *node = index->root;

        *ret = (struct index_cursor){};
        if (!node)
                return;
        while (!node->is_leaf)
                node = inner(node)->child[child_of(node, key)];
        ret->leaf = node;
        ret->position = node_search(node, key, false);
}

struct key_entry *index_next(struct index_cursor *c) {
        while (c->leaf && c->position >= c->leaf->n) {
                c->leaf = c->leaf->next;
                c->position = 0;
        }
        return c->leaf ? c->leaf->first[c->position++] : NULL;
}
