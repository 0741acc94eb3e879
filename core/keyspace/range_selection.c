/*
 * Which items a range comes to: filters, sorting and the limit, as etcd does it. The keyspace's loop only.
 */

#include "keyspace/range.h"

#include <errno.h>

void range_selection_init(struct range_selection *s, const struct range_request *request) {
        *s = (struct range_selection){.request = request};
}

void range_selection_done(struct range_selection *s) {
        for (size_t i = 0; i < s->n_items; i++)
                blob_unref(s->items[i].value);
        free(s->items);
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

/* Whether the limit is applied to the keys in their own order, before any sorting: etcd asks its store for more than the
 * limit only where an order or a filter is given. */
static bool cuts_first(const struct range_request *r) {
        return r->sort_order == SORT_NONE && !r->min_mod && !r->max_mod && !r->min_create && !r->max_create;
}

int range_selection_add(struct range_selection *s, struct bytes key, const struct key_version *v) {
        const struct range_request *r = s->request;

        s->count++;
        if (r->count_only || !range_request_passes(r, v))
                return 0;
        if ((!range_request_sorts(r) || cuts_first(r)) && r->limit > 0 && s->n_items == (size_t)r->limit) {
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

static int compare_items(const void *pa, const void *pb, void *userdata) {
        const struct range_item *a = pa, *b = pb;
        const struct range_request *request = userdata;
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

void range_selection_finish(struct range_selection *s) {
        const struct range_request *r = s->request;

        if (!range_request_sorts(r))
                return;
        if (s->n_items)
                qsort_r(s->items, s->n_items, sizeof(*s->items), compare_items, (void *)(uintptr_t)r);
        if (r->limit > 0 && s->n_items > (size_t)r->limit) {
                s->more = true;
                for (size_t i = (size_t)r->limit; i < s->n_items; i++)
                        blob_unref(s->items[i].value);
                s->n_items = (size_t)r->limit;
        }
}
