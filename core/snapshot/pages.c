#include "snapshot/pages.h"

#include <inttypes.h>
#include <unistd.h>

#define ELEMENTS_WINDOW 16384
#define DATA_WINDOW (128 * 1024)
#define LARGEST_PAGE (16 * 1024 * 1024)

static int damaged(struct error *reterr, uint64_t page, const char *what) {
        return error_set(reterr, -EBADMSG, "page %" PRIu64 ": %s", page, what);
}

/* ---- bytes */

static int read_at(const struct pages *p, uint64_t at, void *to, size_t size, struct error *reterr) {
        for (size_t n = 0; n < size;) {
                ssize_t r = pread(p->fd, (uint8_t *)to + n, size - n, (off_t)(at + n));

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return error_set(reterr, -errno, "reading at byte %" PRIu64 ": %s", at + n, strerror(errno));
                if (r == 0)
                        return error_set(
                                reterr, -EBADMSG, "the file ends at byte %" PRIu64 " while it is read", at + n);
                n += (size_t)r;
        }
        return 0;
}

/* size bytes at `at`, which must be within the file, valid until the window moves. */
static int look(
        const struct pages *p, struct window *w, uint64_t at, size_t size, const uint8_t **ret, struct error *reterr) {
        check(size <= w->capacity);
        if (at < w->at || at + size > w->at + w->size) {
                size_t n = (size_t)min_of((uint64_t)w->capacity, p->file_size - at);
                int r;

                w->size = 0;
                r = read_at(p, at, w->data, n, reterr);
                if (r < 0)
                        return r;
                w->at = at;
                w->size = n;
        }
        *ret = w->data + (at - w->at);
        return 0;
}

static int copy_at(struct pages *p, struct buf *to, uint64_t at, size_t size, struct error *reterr) {
        const uint8_t *data;
        int r;

        buf_clear(to);
        r = buf_reserve(to, max_of(size, (size_t)1));
        if (r < 0)
                return error_set(reterr, r, "no memory for an element of %zu bytes", size);
        if (size > p->data.capacity)
                r = read_at(p, at, to->data, size, reterr);
        else {
                r = look(p, &p->data, at, size, &data, reterr);
                if (r >= 0)
                        memcpy(to->data, data, size);
        }
        to->size = size;
        return r;
}

/* ---- the meta pages */

struct meta {
        uint64_t root, n_pages, transaction;
        uint32_t page_size;
};

/* Whether there is a valid meta page at this place. */
static bool read_meta(const struct pages *p, uint64_t at, uint64_t page, struct meta *ret) {
        uint8_t data[BOLT_PAGE_HEADER + BOLT_META_SIZE], *m = data + BOLT_PAGE_HEADER;

        if (p->file_size < sizeof(data) || at > p->file_size - sizeof(data) ||
                read_at(p, at, data, sizeof(data), NULL) < 0)
                return false;
        if (le_get64(data) != page || le_get16(data + 8) != BOLT_META || le_get32(m) != BOLT_MAGIC ||
                le_get32(m + 4) != BOLT_VERSION || le_get64(m + BOLT_META_SUMMED) != bolt_meta_sum(m))
                return false;
        *ret = (struct meta){
                .page_size = le_get32(m + 8),
                .root = le_get64(m + 16),
                .n_pages = le_get64(m + 40),
                .transaction = le_get64(m + 48),
        };
        return ret->page_size >= SNAPSHOT_SECTOR && ret->page_size <= LARGEST_PAGE &&
                (ret->page_size & (ret->page_size - 1)) == 0;
}

int pages_open(struct pages *p, int fd, uint64_t size, struct error *reterr) {
        struct meta first, second, *meta;
        bool has_first, has_second = false;

        *p = (struct pages){.fd = fd, .file_size = size};
        has_first = read_meta(p, 0, 0, &first);
        if (has_first)
                has_second = read_meta(p, first.page_size, 1, &second) && second.page_size == first.page_size;
        else /* the page's size is where the second one is */
                for (uint64_t at = SNAPSHOT_SECTOR; at <= LARGEST_PAGE && !has_second; at *= 2)
                        has_second = read_meta(p, at, 1, &second) && second.page_size == at;
        if (!has_first && !has_second)
                return error_set(reterr, -EBADMSG, "this is no etcd snapshot: it has no valid meta page");
        meta = has_first && (!has_second || first.transaction > second.transaction) ? &first : &second;
        p->page_size = meta->page_size;
        p->n_pages = meta->n_pages;
        p->root = meta->root;
        if (p->n_pages > size / p->page_size)
                return error_set(reterr, -EBADMSG,
                        "the file is cut off: it should have %" PRIu64 " pages of %u bytes, and has %" PRIu64,
                        p->n_pages, p->page_size, size / p->page_size);
        if (p->root < 2 || p->root >= p->n_pages)
                return damaged(reterr, p->root, "there is no such page for the root");
        p->elements = (struct window){.data = xcalloc(1, ELEMENTS_WINDOW), .capacity = ELEMENTS_WINDOW};
        p->data = (struct window){.data = xcalloc(1, DATA_WINDOW), .capacity = DATA_WINDOW};
        p->visited = calloc(1, (size_t)(p->n_pages / 8 + 1));
        if (!p->visited)
                return error_set(reterr, -ENOMEM, "no memory for %" PRIu64 " pages", p->n_pages);
        return 0;
}

void pages_done(struct pages *p) {
        free(steal(p->visited));
        free(steal(p->elements.data));
        free(steal(p->data.data));
}

/* ---- walking */

static int visit_page(struct pages *p, uint64_t page, uint64_t n, struct error *reterr) {
        for (uint64_t i = page; i < page + n; i++) {
                uint8_t bit = (uint8_t)(1U << (i & 7));

                if (p->visited[i / 8] & bit)
                        return damaged(reterr, i, "it is used twice");
                p->visited[i / 8] |= bit;
        }
        return 0;
}

/* Enters a page, or a leaf of an element's. */
static int enter(struct bucket_walk *w, uint64_t at, uint64_t page, uint64_t inline_size, struct error *reterr) {
        struct pages *p = w->pages;
        struct bucket_level *l;
        const uint8_t *header;
        unsigned kind;
        int r;

        if (w->depth == PAGES_MAX_DEPTH)
                return damaged(reterr, page, "the tree is too deep");
        r = look(p, &p->elements, at, BOLT_PAGE_HEADER, &header, reterr);
        if (r < 0)
                return r;
        l = &w->levels[w->depth];
        *l = (struct bucket_level){.at = at, .page = page, .size = inline_size, .n = le_get16(header + 10)};
        kind = le_get16(header + 8);
        if (!inline_size) {
                uint64_t n = (uint64_t)le_get32(header + 12) + 1;

                if (le_get64(header) != page)
                        return damaged(reterr, page, "it says that it is another one");
                if (n > p->n_pages - page)
                        return damaged(reterr, page, "it goes beyond the last page");
                r = visit_page(p, page, n, reterr);
                if (r < 0)
                        return r;
                l->size = n * p->page_size;
        }
        if (kind != BOLT_LEAF && (kind != BOLT_BRANCH || inline_size))
                return damaged(reterr, page, "it is neither a branch nor a leaf");
        if (kind == BOLT_BRANCH && l->n == 0)
                return damaged(reterr, page, "it is a branch without children");
        l->is_leaf = kind == BOLT_LEAF;
        l->data_at = BOLT_PAGE_HEADER + (uint64_t)l->n * BOLT_ELEMENT;
        if (l->data_at > l->size)
                return damaged(reterr, page, "its elements go beyond its end");
        w->depth++;
        return 0;
}

int bucket_walk_init(struct bucket_walk *w, struct pages *p, const struct bucket_place *place, struct error *reterr) {
        *w = (struct bucket_walk){.pages = p};
        buf_init(&w->key, 0);
        buf_init(&w->value, 0);
        buf_init(&w->last_key, 0);
        if (place->root) {
                if (place->root < 2 || place->root >= p->n_pages)
                        return damaged(reterr, place->root, "there is no such page");
                return enter(w, place->root * p->page_size, place->root, 0, reterr);
        }
        if (place->inline_size < BOLT_PAGE_HEADER)
                return damaged(reterr, place->inline_at / p->page_size, "a bucket without its leaf");
        return enter(w, place->inline_at, place->inline_at / p->page_size, place->inline_size, reterr);
}

void bucket_walk_done(struct bucket_walk *w) {
        buf_done(&w->key);
        buf_done(&w->value);
        buf_done(&w->last_key);
}

/* What the element points to must be behind what the one before it did, and within the page. */
static int take_data(struct bucket_level *l, uint64_t element, uint32_t position, uint64_t size, uint64_t *ret_at,
        struct error *reterr) {
        uint64_t at = element + position;

        if (at < l->data_at || size > l->size || at > l->size - size)
                return damaged(reterr, l->page, "an element's data overlaps another's, or goes beyond the page");
        l->data_at = at + size;
        *ret_at = l->at + at;
        return 0;
}

/* The next child of a branch. */
static int descend(struct bucket_walk *w, struct bucket_level *l, struct error *reterr) {
        struct pages *p = w->pages;
        uint64_t element = BOLT_PAGE_HEADER + (uint64_t)l->next++ * BOLT_ELEMENT, child, at;
        const uint8_t *e;
        int r = look(p, &p->elements, l->at + element, BOLT_ELEMENT, &e, reterr);

        if (r < 0)
                return r;
        child = le_get64(e + 8);
        r = take_data(l, element, le_get32(e), le_get32(e + 4), &at, reterr);
        if (r < 0)
                return r;
        if (child < 2 || child >= p->n_pages)
                return damaged(reterr, l->page, "it has a child that there is not");
        return enter(w, child * p->page_size, child, 0, reterr);
}

static int read_element(struct bucket_walk *w, struct bucket_level *l, struct error *reterr) {
        struct pages *p = w->pages;
        uint64_t element = BOLT_PAGE_HEADER + (uint64_t)l->next++ * BOLT_ELEMENT, at = 0;
        uint32_t key_size, value_size;
        const uint8_t *e;
        struct buf last;
        int r = look(p, &p->elements, l->at + element, BOLT_ELEMENT, &e, reterr);

        if (r < 0)
                return r;
        w->flags = le_get32(e);
        key_size = le_get32(e + 8);
        value_size = le_get32(e + 12);
        r = take_data(l, element, le_get32(e + 4), (uint64_t)key_size + value_size, &at, reterr);
        if (r < 0)
                return r;
        if (key_size == 0 || key_size > PAGES_MAX_KEY || value_size > PAGES_MAX_VALUE)
                return damaged(reterr, l->page, "a key or a value of an impossible size");
        last = w->last_key;
        w->last_key = w->key;
        w->key = last;
        r = copy_at(p, &w->key, at, key_size, reterr);
        if (r >= 0)
                r = copy_at(p, &w->value, at + key_size, value_size, reterr);
        if (r < 0)
                return r;
        w->value_at = at + key_size;
        if (w->begun &&
                bytes_compare(bytes_of(w->key.data, w->key.size), bytes_of(w->last_key.data, w->last_key.size)) <= 0)
                return damaged(reterr, l->page, "its keys do not ascend");
        w->begun = true;
        return 1;
}

int bucket_walk_next(struct bucket_walk *w, struct error *reterr) {
        while (w->depth) {
                struct bucket_level *l = &w->levels[w->depth - 1];
                int r;

                if (l->next == l->n)
                        w->depth--;
                else if (l->is_leaf)
                        return read_element(w, l, reterr);
                else {
                        r = descend(w, l, reterr);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}
