/*
 * The watch hub. Watchers that are up to date are served together, right after the log was applied: each event is made once,
 * and an interval tree over their ranges finds who wants it. A watcher that is behind (it began in the past, its reader
 * is slow, or a previous value must be read first) goes over the history by itself, at its own pace, until it has caught up;
 * nobody waits for it, and what it has not read yet is kept nowhere but in the history.
 *
 * All events of a revision reach a watcher in one piece. The keyspace's loop only.
 */

#include "keyspace/watch.h"

#include <errno.h>

#define PUBLISH_EVENTS 512 /* made at a time, whole revisions */

/* ---- callbacks: a watcher may be freed by its owner from within */

static void watcher_reap(struct watcher *w) {
        struct watch_hub *hub = &w->ks->hub;

        TAILQ_REMOVE(&hub->watchers, w, link);
        loop_timer_clear(&w->timer);
        fetch_done(&w->fetch);
        free(w->events);
        free(w->bytes);
        free(w);
}

void hub_enter(struct watch_hub *hub) {
        hub->busy++;
}

void hub_leave(struct watch_hub *hub) {
        struct watcher *w, *next;

        if (--hub->busy || !hub->reap)
                return;
        hub->reap = false;
        for (w = TAILQ_FIRST(&hub->watchers); w; w = next) {
                next = TAILQ_NEXT(w, link);
                if (w->freed)
                        watcher_reap(w);
        }
}

void watcher_set_state(struct watcher *w, enum watcher_state state) {
        if ((w->state == WATCHER_SYNCED) != (state == WATCHER_SYNCED))
                w->ks->hub.stale = true;
        w->state = state;
        if (state != WATCHER_BEHIND)
                loop_timer_clear(&w->timer);
}

void watcher_cancel(struct watcher *w, enum keyspace_result result) {
        watcher_set_state(w, WATCHER_DEAD);
        w->config.on_cancelled(w->config.userdata, result, result == KEYSPACE_COMPACTED ? w->ks->compacted : 0);
}

bool watcher_deliver(struct watcher *w, struct watch_event *const *events, size_t n, int64_t revision) {
        bool go_on;

        w->next = max_of(w->next, revision + 1);
        go_on = w->config.on_events(w->config.userdata, events, n, revision);
        if (w->freed || w->state == WATCHER_DEAD)
                return false;
        if (!go_on) {
                w->paused = true;
                watcher_set_state(w, WATCHER_BEHIND);
        }
        return true;
}

/* ---- publishing */

static int compare_starts(const void *a, const void *b) {
        const struct watcher *x = *(struct watcher *const *)a, *y = *(struct watcher *const *)b;

        return bytes_compare(x->range.key, y->range.key);
}

/* Whose range reaches further; endless ones furthest. */
static struct watcher *further(struct watcher *a, struct watcher *b) {
        if (!a || !b)
                return a ? a : b;
        if (range_is_endless(&a->range) || range_is_endless(&b->range))
                return range_is_endless(&a->range) ? a : b;
        return bytes_compare(a->range.end, b->range.end) >= 0 ? a : b;
}

static struct watcher *build_tree(struct watch_hub *hub, size_t low, size_t high) {
        size_t middle = low + (high - low) / 2;
        struct watcher *w;

        if (low == high)
                return NULL;
        w = further(build_tree(hub, low, middle), build_tree(hub, middle + 1, high));
        return hub->furthest[middle] = further(hub->sorted[middle], w);
}

static void sort_watchers(struct watch_hub *hub) {
        struct watcher *w;

        hub->n_sorted = 0;
        if (hub->sorted_capacity < hub->n_watchers) {
                hub->sorted_capacity = hub->n_watchers * 2;
                free(hub->sorted);
                free(hub->furthest);
                hub->sorted = xcalloc(hub->sorted_capacity, sizeof(struct watcher *));
                hub->furthest = xcalloc(hub->sorted_capacity, sizeof(struct watcher *));
        }
        TAILQ_FOREACH(w, &hub->watchers, link)
                if (w->state == WATCHER_SYNCED && !w->freed)
                        hub->sorted[hub->n_sorted++] = w;
        if (hub->n_sorted)
                qsort(hub->sorted, hub->n_sorted, sizeof(struct watcher *), compare_starts);
        build_tree(hub, 0, hub->n_sorted);
        hub->stale = false;
}

typedef void (*found_fn)(struct watcher *w, void *userdata);

static void find_watchers(
        struct watch_hub *hub, size_t low, size_t high, struct bytes key, found_fn found, void *userdata) {
        size_t middle = low + (high - low) / 2;

        if (low == high)
                return;
        if (!range_is_endless(&hub->furthest[middle]->range) &&
                bytes_compare(hub->furthest[middle]->range.end, key) <= 0)
                return;
        find_watchers(hub, low, middle, key, found, userdata);
        if (bytes_compare(hub->sorted[middle]->range.key, key) > 0)
                return;
        if (range_has(&hub->sorted[middle]->range, key))
                found(hub->sorted[middle], userdata);
        find_watchers(hub, middle + 1, high, key, found, userdata);
}

struct publishing {
        struct history_item *item;
        struct watch_event *event;
        bool wanted, with_prev;
        enum event_result result;
        struct watcher **touched; /* owned */
        size_t n_touched, capacity;
};

static void note_wanted(struct watcher *w, void *userdata) {
        struct publishing *p = userdata;

        if (w->cut || !watcher_wants(w, p->item))
                return;
        p->wanted = true;
        p->with_prev |= w->config.prev_kv;
}

static void touch(struct publishing *p, struct watcher *w) {
        if (w->n_events || w->cut)
                return;
        if (p->n_touched == p->capacity) {
                p->capacity = p->capacity ? p->capacity * 2 : 64;
                p->touched = realloc(p->touched, p->capacity * sizeof(struct watcher *));
                check(p->touched);
        }
        p->touched[p->n_touched++] = w;
}

static void note_event(struct watcher *w, void *userdata) {
        struct publishing *p = userdata;

        if (w->cut || !watcher_wants(w, p->item))
                return;
        touch(p, w);
        /* It can be sent to those who do not ask for what is missing. */
        if ((p->result == EVENT_NEEDS_VALUES && (!p->event->is_delete || w->config.prev_kv)) ||
                (!p->event->is_delete && !p->event->kv.value) || (p->result == EVENT_NO_PREV && w->config.prev_kv)) {
                w->cut = p->item->revision;
                while (w->n_events && w->events[w->n_events - 1]->kv.mod_revision == w->cut)
                        w->n_events--;
                return;
        }
        if (w->n_events == w->capacity) {
                w->capacity = w->capacity ? w->capacity * 2 : 4;
                w->events = realloc(w->events, w->capacity * sizeof(struct watch_event *));
                check(w->events);
        }
        w->events[w->n_events++] = p->event;
}

static void publish_to(struct watcher *w, int64_t revision) {
        size_t n = w->n_events;
        int64_t cut = w->cut;

        w->n_events = 0;
        w->cut = 0;
        if (w->freed || w->state != WATCHER_SYNCED)
                return;
        if (n && !watcher_deliver(w, w->events, n, cut ? cut - 1 : revision))
                return;
        if (cut) {
                w->next = max_of(w->next, cut);
                watcher_set_state(w, WATCHER_BEHIND);
                if (!w->paused)
                        watcher_catch_up(w);
        }
}

/* Delivers what was applied since the last time, whole revisions at a time. */
void watch_publish(struct keyspace *ks) {
        struct watch_hub *hub = &ks->hub;
        struct publishing p = {};

        hub_enter(hub);
        while (hub->published < ks->revision) {
                struct history *h = &ks->history;
                size_t i = history_find(h, hub->published + 1), n_most = 0;
                struct event_list list = {};
                int64_t revision = ks->revision;

                if (hub->stale)
                        sort_watchers(hub);
                if (hub->n_sorted == 0 || i == h->n) {
                        hub->published = ks->revision;
                        break;
                }
                /* So many items at most, but the last revision whole; the array must not move below the pointers. */
                for (n_most = 0; i + n_most < h->n; n_most++)
                        if (n_most >= PUBLISH_EVENTS &&
                                history_at(h, i + n_most)->revision != history_at(h, i + n_most - 1)->revision) {
                                revision = history_at(h, i + n_most - 1)->revision;
                                break;
                        }
                list.capacity = n_most;
                list.events = xcalloc(n_most, sizeof(*list.events));

                p.n_touched = 0;
                for (; n_most; n_most--, i++) {
                        struct bytes key;

                        p.item = history_at(h, i);
                        key = key_entry_key(p.item->entry);
                        p.wanted = p.with_prev = false;
                        find_watchers(hub, 0, hub->n_sorted, key, note_wanted, &p);
                        if (!p.wanted)
                                continue;
                        p.event = event_list_add(&list);
                        p.result = event_fill(ks, p.item, p.with_prev, NULL, NULL, p.event);
                        find_watchers(hub, 0, hub->n_sorted, key, note_event, &p);
                }
                hub->published = revision;
                for (size_t j = 0; j < p.n_touched; j++)
                        publish_to(p.touched[j], revision);
                event_list_done(&list);
        }
        free(p.touched);
        hub_leave(hub);
}

static void on_publish(struct loop_task *task) {
        watch_publish(container_of(task, struct keyspace, hub.task));
}

void watch_kick(struct keyspace *ks) {
        if (ks->open && !ks->closing && ks->hub.published < ks->revision) {
                ks->hub.task.run = on_publish;
                loop_defer(ks->loop, &ks->hub.task);
        }
}

void watcher_resume(struct watcher *w) {
        if (w->freed || !w->paused)
                return;
        w->paused = false;
        if (w->state == WATCHER_BEHIND)
                watcher_catch_up(w);
}

int64_t watcher_position(const struct watcher *w) {
        if (w->state == WATCHER_SYNCED && w->ks->hub.published > w->next - 1)
                return w->ks->hub.published;
        return w->state == WATCHER_NEW ? 0 : min_of(w->next - 1, w->ks->revision);
}

/* ---- life */

static void watcher_begin(struct watcher *w) {
        struct keyspace *ks = w->ks;

        w->next = w->config.start_revision > 0 ? w->config.start_revision : ks->revision + 1;
        /* Not yet published ones are older than this watch, or will be found in the history. */
        watcher_set_state(w, w->next > ks->hub.published ? WATCHER_SYNCED : WATCHER_BEHIND);
        w->config.on_created(w->config.userdata, ks->revision);
        if (w->freed || w->state != WATCHER_BEHIND)
                return;
        if (w->next < ks->compacted)
                watcher_cancel(w, KEYSPACE_COMPACTED);
        else if (!w->paused)
                watcher_catch_up(w);
}

static void on_created(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, hub.created_task);
        struct watch_hub *hub = &ks->hub;
        struct watcher *w;

        if (ks->closing || keyspace_is_over(ks)) {
                watch_end_all(ks, ks->closing ? KEYSPACE_STOPPED : keyspace_over_result(ks));
                return;
        }
        if (!ks->open && idle_is_refused(ks)) {
                watch_end_all(ks, KEYSPACE_UNAVAILABLE);
                return;
        }
        if (!ks->open) {
                load_open(ks);
                return;
        }
        hub_enter(hub);
        TAILQ_FOREACH_REVERSE(w, &hub->watchers, watcher_list, link) /* new ones are at the end */
        if (w->state != WATCHER_NEW)
                break;
        for (w = w ? TAILQ_NEXT(w, link) : TAILQ_FIRST(&hub->watchers); w; w = TAILQ_NEXT(w, link))
                if (w->state == WATCHER_NEW && !w->freed)
                        watcher_begin(w);
        hub_leave(hub);
}

int keyspace_watch(struct keyspace *ks, const struct watcher_config *config, struct watcher **ret) {
        size_t key_size = config->range.key.size, end_size = config->range.end.size;
        bool single = range_is_single(&config->range);
        struct watcher *w;
        uint8_t *bytes;

        bytes = malloc(key_size + (single ? key_size + 1 : end_size) + 1);
        w = calloc(1, sizeof(*w));
        if (!w || !bytes) {
                free(w);
                free(bytes);
                return -ENOMEM;
        }
        w->ks = ks;
        w->config = *config;
        w->bytes = bytes;
        if (key_size)
                memcpy(bytes, config->range.key.data, key_size);
        w->range.key = bytes_of(bytes, key_size);
        if (single) {
                if (key_size)
                        memcpy(bytes + key_size, config->range.key.data, key_size);
                bytes[key_size * 2] = 0;
                w->range.end = bytes_of(bytes + key_size, key_size + 1);
        } else {
                memcpy(bytes + key_size, config->range.end.data, end_size);
                w->range.end = bytes_of(bytes + key_size, end_size);
        }
        w->config.range = w->range;
        TAILQ_INSERT_TAIL(&ks->hub.watchers, w, link);
        ks->hub.n_watchers++;
        memory_used(ks->memory, loop_now_ns(ks->loop));
        ks->hub.created_task.run = on_created;
        loop_defer(ks->loop, &ks->hub.created_task);

        *ret = w;
        return 0;
}

void watcher_free(struct watcher *w) {
        struct watch_hub *hub;

        if (!w || w->freed)
                return;
        hub = &w->ks->hub;
        w->freed = true;
        hub->n_watchers--;
        memory_used(w->ks->memory, loop_now_ns(w->ks->loop)); /* it was, until now */
        if (w->state == WATCHER_SYNCED)
                hub->stale = true;
        fetch_done(&w->fetch);
        w->fetching = false;
        loop_timer_clear(&w->timer);
        if (hub->busy)
                hub->reap = true;
        else
                watcher_reap(w);
}

void watch_on_open(struct keyspace *ks) {
        ks->hub.published = ks->revision;
        ks->hub.created_task.run = on_created;
        loop_defer(ks->loop, &ks->hub.created_task);
}

/* Those that need what is gone learn it now; the others find what they need in the history still. */
void watch_on_compacted(struct keyspace *ks) {
        struct watch_hub *hub = &ks->hub;
        struct watcher *w;

        hub_enter(hub);
        TAILQ_FOREACH(w, &hub->watchers, link)
                if (w->state == WATCHER_BEHIND && !w->freed && w->next < ks->compacted)
                        watcher_cancel(w, KEYSPACE_COMPACTED);
        hub_leave(hub);
}

/* The history before the compaction went without being published. */
void watch_on_rebuilt(struct keyspace *ks) {
        struct watch_hub *hub = &ks->hub;
        struct watcher *w;

        hub_enter(hub);
        TAILQ_FOREACH(w, &hub->watchers, link) {
                if (w->state != WATCHER_SYNCED || w->freed)
                        continue;
                w->next = max_of(w->next, hub->published + 1);
                watcher_set_state(w, WATCHER_BEHIND);
                watcher_catch_up(w);
        }
        hub_leave(hub);
        hub->published = ks->revision;
        watch_on_compacted(ks);
}

void watch_end_all(struct keyspace *ks, enum keyspace_result result) {
        struct watch_hub *hub = &ks->hub;
        struct watcher *w;

        hub_enter(hub);
        TAILQ_FOREACH(w, &hub->watchers, link)
                if (w->state != WATCHER_DEAD && !w->freed)
                        watcher_cancel(w, result);
        hub_leave(hub);
}

void watch_done(struct keyspace *ks) {
        struct watch_hub *hub = &ks->hub;
        struct watcher *w;

        check(!hub->busy);
        if (ks->loop) {
                loop_undefer(ks->loop, &hub->task);
                loop_undefer(ks->loop, &hub->created_task);
        }
        while ((w = TAILQ_FIRST(&hub->watchers)))
                watcher_reap(w);
        free(hub->sorted);
        free(hub->furthest);
}
