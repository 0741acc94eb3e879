/*
 * Which items a range comes to: filters, sorting and the limit, as etcd does it. The keyspace's loop only.
 */

#include "keyspace/range.h"

#include <errno.h>

#define FIRST_RUN 16        /* sorted by insertion */
#define COMPARED_BYTES 1024 /* of two values, for a unit */

void range_selection_init(struct range_selection *s, const struct range_request *request) {
        *s = (struct range_selection){.request = request};
}

void range_selection_done(struct range_selection *s) {
        for (size_t i = 0; i < s->n_items; i++)
                blob_unref(s->items[i].value);
        free(s->items);
        free(s->order);
        free(s->spare);
        *s = (struct range_selection){};
}

bool range_request_passes(const struct range_request *r, const struct key_version *v) {
        return (!r->min_mod || v->mod_revision >= r->min_mod) && (!r->max_mod || v->mod_revision <= r->max_mod) &&
                (!r->min_create || v->create_revision >= r->min_create) &&
                (!r->max_create || v->create_revision <= r->max_create);
}

/* Keys come in ascending order by themselves. */
bool range_request_sorts(const struct range_request *r) {
        if (r->sort_target == SORT_KEY)
                return r->sort_order == SORT_DESCEND;
        return true; /* etcd: another target without an order sorts ascending */
}

/* Whether the limit is applied to the keys in their own order, before any sorting: etcd asks its store for all there are
 * only where an order or a filter is given; else for one more than the limit, and sorts that. */
static bool cuts_first(const struct range_request *r) {
        return r->sort_order == SORT_NONE && !r->min_mod && !r->max_mod && !r->min_create && !r->max_create;
}

static bool is_full(const struct range_selection *s) {
        const struct range_request *r = s->request;

        if (r->limit <= 0)
                return false;
        return range_request_sorts(r) ? cuts_first(r) && s->n_items == (size_t)r->limit + 1
                                      : s->n_items == (size_t)r->limit;
}

int range_selection_add(struct range_selection *s, struct bytes key, const struct key_version *v) {
        const struct range_request *r = s->request;

        s->count++;
        if (r->count_only || !range_request_passes(r, v))
                return 0;
        if (is_full(s)) {
                s->more = true;
                return 0;
        }
        if (s->n_items == s->capacity) {
                size_t capacity = s->capacity ? s->capacity * 2 : 16;
                struct range_item *items = realloc(s->items, capacity * sizeof(*items));

                if (!items)
                        return -ENOMEM;
                s->items = items;
                s->capacity = capacity;
        }
        s->items[s->n_items++] = (struct range_item){.key = key, .version = *v};
        return 0;
}

static int compare_items(const struct range_request *request, const struct range_item *a, const struct range_item *b) {
        int r = 0;

        switch (request->sort_target) {
        case SORT_KEY:
                break;
        case SORT_VERSION:
                r = (a->version.version > b->version.version) - (a->version.version < b->version.version);
                break;
        case SORT_CREATE:
                r = (a->version.create_revision > b->version.create_revision) -
                        (a->version.create_revision < b->version.create_revision);
                break;
        case SORT_MOD:
                r = (a->version.mod_revision > b->version.mod_revision) -
                        (a->version.mod_revision < b->version.mod_revision);
                break;
        case SORT_VALUE:
                r = bytes_compare(blob_bytes(a->value), blob_bytes(b->value));
                break;
        }
        if (request->sort_order == SORT_DESCEND)
                r = -r;
        if (r == 0 && request->sort_target == SORT_KEY)
                return request->sort_order == SORT_DESCEND ? bytes_compare(b->key, a->key)
                                                           : bytes_compare(a->key, b->key);
        return r ? r : bytes_compare(a->key, b->key); /* among equals the order of keys stays, either way */
}

/* What a comparison costs, in units. */
static int64_t cost(const struct range_request *request, const struct range_item *a, const struct range_item *b) {
        return 1 +
                (request->sort_target == SORT_VALUE
                                ? (int64_t)(min_of(blob_bytes(a->value).size, blob_bytes(b->value).size) /
                                          COMPARED_BYTES)
                                : 0);
}

static void sort_run(struct range_selection *s, int64_t *units) {
        const struct range_request *r = s->request;
        size_t end = min_of(s->at + FIRST_RUN, s->n_items);

        for (size_t i = s->at; i < end; i++) {
                size_t j;

                for (j = i; j > s->at; j--) {
                        *units -= cost(r, s->order[j - 1], &s->items[i]);
                        if (compare_items(r, s->order[j - 1], &s->items[i]) <= 0)
                                break;
                        s->order[j] = s->order[j - 1];
                }
                s->order[j] = &s->items[i];
        }
        s->at = end;
}

/* Goes on with the pair of runs at s->at; true: they are merged. */
static bool merge_some(struct range_selection *s, int64_t *units) {
        const struct range_request *r = s->request;
        size_t middle = min_of(s->at + s->width, s->n_items), end = min_of(middle + s->width, s->n_items);

        if (s->n_merged == 0) {
                s->left = s->at;
                s->right = middle;
        }
        for (size_t to = s->at + s->n_merged; to < end; to++, s->n_merged++) {
                if (*units <= 0)
                        return false;
                if (s->left == middle || s->right == end)
                        *units -= 1;
                else
                        *units -= cost(r, s->order[s->left], s->order[s->right]);
                if (s->right == end ||
                        (s->left < middle && compare_items(r, s->order[s->left], s->order[s->right]) <= 0))
                        s->spare[to] = s->order[s->left++];
                else
                        s->spare[to] = s->order[s->right++];
        }
        s->at = end;
        s->n_merged = 0;
        return true;
}

bool range_selection_sort(struct range_selection *s, int64_t *units) {
        const struct range_request *r = s->request;

        s->n_chosen = s->n_items;
        if (!range_request_sorts(r))
                return true;
        if (!s->order && s->n_items) {
                s->order = xcalloc(s->n_items, sizeof(struct range_item *));
                s->spare = xcalloc(s->n_items, sizeof(struct range_item *));
        }
        while (s->width == 0 && s->at < s->n_items) {
                if (*units <= 0)
                        return false;
                sort_run(s, units);
        }
        if (s->width == 0) {
                s->width = FIRST_RUN;
                s->at = 0;
        }
        while (s->width < s->n_items) {
                struct range_item **swap = s->order;

                while (s->at < s->n_items)
                        if (!merge_some(s, units))
                                return false;
                s->order = s->spare;
                s->spare = swap;
                s->width *= 2;
                s->at = 0;
        }
        if (r->limit > 0 && s->n_items > (size_t)r->limit) {
                s->more = true;
                s->n_chosen = (size_t)r->limit;
        }
        return true;
}

void range_selection_finish(struct range_selection *s) {
        int64_t units = INT64_MAX;

        while (!range_selection_sort(s, &units))
                units = INT64_MAX;
}

struct range_item *range_selection_get(const struct range_selection *s, size_t i) {
        check(i < s->n_chosen);
        return s->order ? s->order[i] : &s->items[i];
}
