/*
 * Makes events of history items: the value and the one before it, as far as they are in memory. The keyspace's loop only.
 */

#include "keyspace/watch.h"

static void event_done(struct watch_event *e) {
        blob_unref(e->kv.value);
        blob_unref(e->prev.value);
        blob_unref(e->packed[0]);
        blob_unref(e->packed[1]);
}

void event_list_cut(struct event_list *list, int64_t revision) {
        while (list->n && list->events[list->n - 1].kv.mod_revision >= revision)
                event_done(&list->events[--list->n]);
}

void event_list_done(struct event_list *list) {
        for (size_t i = 0; i < list->n; i++)
                event_done(&list->events[i]);
        free(list->events);
        *list = (struct event_list){};
}

struct watch_event *event_list_add(struct event_list *list) {
        if (list->n == list->capacity) {
                list->capacity = list->capacity ? list->capacity * 2 : 16;
                list->events = realloc(list->events, list->capacity * sizeof(*list->events));
                check(list->events);
        }
        list->events[list->n] = (struct watch_event){};
        return &list->events[list->n++];
}

static struct blob *find_value(struct keyspace *ks, const struct fetch *fetch, uint64_t seq) {
        struct blob *blob = fetch ? fetch_get(fetch, seq) : NULL;

        return blob ? blob : values_get(&ks->values, seq);
}

static void fill_kv(struct kv *kv, const struct key_entry *e, const struct key_version *v) {
        *kv = (struct kv){
                .key = key_entry_key(e),
                .create_revision = v->create_revision,
                .mod_revision = v->mod_revision,
                .version = v->version,
                .lease = v->lease,
                .value_size = v->value_size,
        };
}

enum event_result event_fill(struct keyspace *ks, const struct history_item *item, bool with_prev,
        const struct fetch *have, struct fetch *missing, struct watch_event *ret) {
        const struct key_version *v = key_entry_by_seq(item->entry, item->seq);
        const struct key_version *before = v ? key_entry_before(item->entry, v) : NULL, *prev;
        enum event_result result = EVENT_READY;

        check(v);
        ret->is_delete = v->version == 0;
        fill_kv(&ret->kv, item->entry, v);
        if (!ret->is_delete) {
                ret->kv.value = find_value(ks, have, v->seq);
                if (!ret->kv.value) {
                        if (missing)
                                fetch_add(missing, v->seq);
                        result = EVENT_NEEDS_VALUES;
                }
        }
        if (!with_prev || (!ret->is_delete && v->create_revision == v->mod_revision))
                return result;
        /* One transaction may put and delete a key: what was before is what was before the transaction, which may be nothing (then
         * the version just before is this transaction's own, and the key's first or a tombstone). */
        prev = key_entry_at(item->entry, v->mod_revision - 1);
        if (!prev || prev->version == 0)
                return before && before->mod_revision == v->mod_revision && before->version <= 1 ? result
                                                                                                 : EVENT_NO_PREV;
        ret->has_prev = true;
        fill_kv(&ret->prev, item->entry, prev);
        ret->prev.value = find_value(ks, have, prev->seq);
        if (!ret->prev.value) {
                if (missing)
                        fetch_add(missing, prev->seq);
                result = EVENT_NEEDS_VALUES;
        }
        return result;
}

bool watcher_wants(const struct watcher *w, const struct history_item *item) {
        if (item->revision < w->next || !range_has(&w->range, key_entry_key(item->entry)))
                return false;
        if (w->config.no_put || w->config.no_delete) {
                const struct key_version *v = key_entry_by_seq(item->entry, item->seq);

                return v->version ? !w->config.no_put : !w->config.no_delete;
        }
        return true;
}
