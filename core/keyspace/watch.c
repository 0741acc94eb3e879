/*
 * The watch hub. Watchers that are up to date are served together, right after the log was applied: each event is made once,
 * and an interval tree over their ranges finds who wants it. A watcher that is behind (it began in the past, its reader
 * is slow, or a previous value must be read first) goes over the history by itself, at its own pace, until it has caught up;
 * nobody waits for it, and what it has not read yet is kept nowhere but in the history.
 *
 * All events of a revision reach a watcher in one piece. The keyspace's loop only.
 */

#include <errno.h>

#include "base/log.h"
#include "keyspace/state.h"

#define PUBLISH_EVENTS 512 /* made at a time, whole revisions */
#define CATCH_UP_EVENTS 256
#define CATCH_UP_ITEMS 8192 /* of history looked at in a slice */
#define CATCH_UP_BYTES (1024 * 1024)

enum watcher_state {
        WATCHER_NEW,    /* waits for the keyspace to open, or for the deferred on_created */
        WATCHER_SYNCED, /* served by publish() */
        WATCHER_BEHIND, /* serves itself */
        WATCHER_DEAD,
};

struct watcher {
        TAILQ_ENTRY(watcher) link;
        struct keyspace *ks;
        struct watcher_config config;
        struct key_range range; /* of the copies below; a single key as [key, key\0) */
        uint8_t *bytes;         /* owned */
        enum watcher_state state;
        bool paused, freed, in_callback;
        int64_t next;            /* the first revision that was not delivered */
        struct loop_timer timer; /* goes on catching up */
        struct fetch fetch;
        bool fetching;

        /* During a publish: what is to be delivered. */
        struct watch_event **events; /* owned */
        size_t n_events, capacity;
        int64_t cut; /* the revision from which on it must serve itself; 0: none */
};

static void catch_up_later(struct watcher *w);

/* ---- events */

struct event_list {
        struct watch_event *events; /* owned; never moves while pointers to it are held */
        size_t n, capacity;
};

static void event_list_done(struct event_list *list) {
        for (size_t i = 0; i < list->n; i++) {
                blob_unref(list->events[i].kv.value);
                blob_unref(list->events[i].prev.value);
                blob_unref(list->events[i].packed[0]);
                blob_unref(list->events[i].packed[1]);
        }
        free(list->events);
        *list = (struct event_list){};
}

static struct watch_event *event_list_add(struct event_list *list) {
        if (list->n == list->capacity) {
                list->capacity = list->capacity ? list->capacity * 2 : 16;
                list->events = realloc(list->events, list->capacity * sizeof(*list->events));
                check(list->events);
        }
        list->events[list->n] = (struct watch_event){};
        return &list->events[list->n++];
}

enum event_result {
        EVENT_READY,
        EVENT_NEEDS_VALUES, /* not in memory: asked for with fetch_add(), if a fetch is given */
        EVENT_NO_PREV,      /* the previous version was compacted */
};

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

/* Makes the event of a history item, as far as its values are in memory. */
static enum event_result event_fill(struct keyspace *ks, const struct history_item *item, bool with_prev,
        const struct fetch *have, struct fetch *missing, struct watch_event *ret) {
        const struct key_version *v = key_entry_by_seq(item->entry, item->seq);
        const struct key_version *prev = v ? key_entry_before(item->entry, v) : NULL;
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
        if (!prev || prev->version == 0)
                return EVENT_NO_PREV;
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

static bool watcher_wants(const struct watcher *w, const struct history_item *item) {
        if (item->revision < w->next || !range_has(&w->range, key_entry_key(item->entry)))
                return false;
        if (w->config.no_put || w->config.no_delete) {
                const struct key_version *v = key_entry_by_seq(item->entry, item->seq);

                return v->version ? !w->config.no_put : !w->config.no_delete;
        }
        return true;
}

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

static void hub_enter(struct watch_hub *hub) {
        hub->busy++;
}

static void hub_leave(struct watch_hub *hub) {
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

static void set_state(struct watcher *w, enum watcher_state state) {
        if ((w->state == WATCHER_SYNCED) != (state == WATCHER_SYNCED))
                w->ks->hub.stale = true;
        w->state = state;
        if (state != WATCHER_BEHIND)
                loop_timer_clear(&w->timer);
}

static void watcher_cancel(struct watcher *w, enum keyspace_result result) {
        set_state(w, WATCHER_DEAD);
        w->config.on_cancelled(w->config.userdata, result, result == KEYSPACE_COMPACTED ? w->ks->compacted : 0);
}

/* False: the watcher is gone, or dead. */
static bool deliver(struct watcher *w, struct watch_event *const *events, size_t n, int64_t revision) {
        bool go_on;

        w->next = max_of(w->next, revision + 1);
        go_on = w->config.on_events(w->config.userdata, events, n, revision);
        if (w->freed || w->state == WATCHER_DEAD)
                return false;
        if (!go_on) {
                w->paused = true;
                set_state(w, WATCHER_BEHIND);
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
                (p->result == EVENT_NO_PREV && w->config.prev_kv)) {
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
        if (n && !deliver(w, w->events, n, cut ? cut - 1 : revision))
                return;
        if (cut) {
                w->next = max_of(w->next, cut);
                set_state(w, WATCHER_BEHIND);
                if (!w->paused)
                        catch_up_later(w);
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

/* ---- catching up */

static void catch_up(struct watcher *w);

static void on_fetched(struct fetch *fetch, int result) {
        struct watcher *w = container_of(fetch, struct watcher, fetch);

        w->fetching = false;
        if (result != 0) {
                fetch_done(&w->fetch);
                loop_timer_set(w->ks->loop, &w->timer, loop_now_ns(w->ks->loop) + NSEC_PER_SEC);
                return;
        }
        hub_enter(&w->ks->hub);
        catch_up(w);
        hub_leave(&w->ks->hub);
}

static void on_time(struct loop_timer *timer) {
        struct watcher *w = container_of(timer, struct watcher, timer);
        struct watch_hub *hub = &w->ks->hub;

        hub_enter(hub);
        catch_up(w);
        hub_leave(hub);
}

static void catch_up_later(struct watcher *w) {
        w->timer.on_time = on_time;
        if (!w->timer.position && !w->fetching)
                loop_timer_set(w->ks->loop, &w->timer, loop_now_ns(w->ks->loop) + 1);
}

/* One slice, under hub_enter(). */
static void catch_up(struct watcher *w) {
        struct keyspace *ks = w->ks;
        struct history *h = &ks->history;
        struct event_list list = {};
        struct fetch missing = {};
        struct watch_event **events;
        size_t i, n_looked = 0, bytes = 0;
        int64_t upto = ks->revision; /* all up to it is in the slice */
        bool no_prev = false, tried = w->fetch.blobs;

        if (w->freed || w->state != WATCHER_BEHIND || w->paused || w->fetching || !ks->open || ks->closing)
                return;
        if (w->next < ks->compacted) {
                watcher_cancel(w, KEYSPACE_COMPACTED);
                return;
        }

        for (i = history_find(h, w->next); i < h->n; i++, n_looked++) {
                struct history_item *item = history_at(h, i);
                struct watch_event *event;

                if ((list.n >= CATCH_UP_EVENTS || bytes > CATCH_UP_BYTES || n_looked >= CATCH_UP_ITEMS) &&
                        item->revision != history_at(h, i - 1)->revision) {
                        upto = item->revision - 1;
                        break;
                }
                if (!watcher_wants(w, item))
                        continue;
                event = event_list_add(&list);
                if (event_fill(ks, item, w->config.prev_kv, tried ? &w->fetch : NULL, &missing, event) ==
                        EVENT_NO_PREV) {
                        no_prev = true;
                        break;
                }
                bytes += event->kv.value_size + event->prev.value_size;
        }

        if (no_prev) {
                event_list_done(&list);
                fetch_done(&missing);
                watcher_cancel(w, KEYSPACE_COMPACTED);
                return;
        }
        if (missing.n) {
                event_list_done(&list);
                if (tried) {
                        /* Evicted, or compacted, between the answer and now; the next round asks for all of it. */
                        fetch_done(&w->fetch);
                        fetch_done(&missing);
                        catch_up_later(w);
                        return;
                }
                w->fetch = missing;
                w->fetch.done = on_fetched;
                w->fetching = true;
                fetch_start(ks, &w->fetch, UINT64_MAX);
                return;
        }
        fetch_done(&w->fetch);

        if (list.n) {
                bool alive;

                events = xcalloc(list.n, sizeof(struct watch_event *));
                for (size_t j = 0; j < list.n; j++)
                        events[j] = &list.events[j];
                alive = deliver(w, events, list.n, upto);
                free(events);
                event_list_done(&list);
                if (!alive || w->paused)
                        return;
        } else
                w->next = max_of(w->next, upto + 1);

        if (upto < ks->revision) {
                catch_up_later(w);
                return;
        }
        set_state(w, WATCHER_SYNCED);
        w->config.on_synced(w->config.userdata, upto);
}

void watcher_resume(struct watcher *w) {
        if (w->freed || !w->paused)
                return;
        w->paused = false;
        if (w->state == WATCHER_BEHIND)
                catch_up_later(w);
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
        set_state(w, w->next > ks->hub.published ? WATCHER_SYNCED : WATCHER_BEHIND);
        w->config.on_created(w->config.userdata, ks->revision);
        if (w->freed || w->state != WATCHER_BEHIND)
                return;
        if (w->next < ks->compacted)
                watcher_cancel(w, KEYSPACE_COMPACTED);
        else if (!w->paused)
                catch_up_later(w);
}

static void on_created(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, hub.created_task);
        struct watch_hub *hub = &ks->hub;
        struct watcher *w;

        if (ks->closing || ks->condition == KEYSPACE_HISTORY_LOST) {
                watch_end_all(ks, ks->closing ? KEYSPACE_STOPPED : KEYSPACE_LOST);
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
                set_state(w, WATCHER_BEHIND);
                catch_up_later(w);
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
