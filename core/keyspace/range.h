#pragma once

/*
 * What a range comes to: the items that pass the request's filters, sorted and cut as etcd does it. Shared by Range, which goes
 * over the index in slices, and by transactions, which go over the index with their batch on top.
 */

#include "keyspace/state.h"

struct range_item {
        struct bytes key; /* borrowed: valid while the index and the batch are not changed */
        struct key_version version;
        struct blob *value; /* a reference, or NULL: only for SORT_VALUE */
};

struct range_selection {
        const struct range_request *request;
        struct range_item *items; /* owned */
        size_t n_items, capacity;
        int64_t count; /* all keys of the range, whatever the filters and the limit */
        bool more;
};

void range_selection_init(struct range_selection *s, const struct range_request *request);
void range_selection_done(struct range_selection *s);
/* Counts the item, and keeps it if it passes the filters and can be in the answer. 0, -ENOMEM. */
int range_selection_add(struct range_selection *s, struct bytes key, const struct key_version *version);
/* Sorts and cuts. For SORT_VALUE the items have their values. */
void range_selection_finish(struct range_selection *s);
/* Whether all items must be seen before the first is known. */
bool range_request_sorts(const struct range_request *request);
bool range_request_passes(const struct range_request *request, const struct key_version *version);
