/*
 * Watchers that are behind: each goes over the history by itself, a slice an iteration, reading the values that it needs, until it
 * has all and is served with the others. Nobody waits for it, and it keeps nothing but its place. The keyspace's loop only.
 */

#include "base/log.h"
#include "keyspace/watch.h"

#define CATCH_UP_EVENTS 256
#define CATCH_UP_ITEMS 8192 /* of history looked at in a slice */
#define CATCH_UP_BYTES (1024 * 1024)
#define MAX_MISSED 8 /* times in a row that a value was not where it should be */

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

void watcher_catch_up(struct watcher *w) {
        w->timer.on_time = on_time;
        if (!w->timer.position && !w->fetching)
                loop_timer_set(w->ks->loop, &w->timer, loop_now_ns(w->ks->loop) + 1);
}

/* Makes the events of the next slice. With `tried`, values were read for it just now: what needs others still (more was appended
 * meanwhile) is left to the next slice, from its revision on. *ret_upto: all up to it is in the list. */
static enum event_result collect(
        struct watcher *w, bool tried, struct event_list *list, struct fetch *missing, int64_t *ret_upto) {
        struct keyspace *ks = w->ks;
        struct history *h = &ks->history;
        size_t n_looked = 0, bytes = 0;

        *ret_upto = ks->revision;
        for (size_t i = history_find(h, w->next); i < h->n; i++, n_looked++) {
                struct history_item *item = history_at(h, i);
                enum event_result result;
                struct watch_event *event;

                if ((list->n >= CATCH_UP_EVENTS || bytes > CATCH_UP_BYTES || n_looked >= CATCH_UP_ITEMS) &&
                        item->revision != history_at(h, i - 1)->revision) {
                        *ret_upto = item->revision - 1;
                        break;
                }
                if (!watcher_wants(w, item))
                        continue;
                event = event_list_add(list);
                result = event_fill(ks, item, w->config.prev_kv, tried ? &w->fetch : NULL, missing, event);
                if (result == EVENT_NO_PREV)
                        return result;
                if (result == EVENT_NEEDS_VALUES && tried) {
                        event_list_cut(list, item->revision);
                        *ret_upto = item->revision - 1;
                        return result;
                }
                bytes += event->kv.value_size + event->prev.value_size;
        }
        return missing->n ? EVENT_NEEDS_VALUES : EVENT_READY;
}

/* A value was asked for and is not there: compacted or evicted in between, so it is asked for again; but not for ever. */
static void try_again(struct watcher *w) {
        if (++w->n_missed <= MAX_MISSED) {
                watcher_catch_up(w);
                return;
        }
        log_error("%s: values that a watch needs are not in the datastore", w->ks->name);
        watcher_cancel(w, KEYSPACE_LOST);
}

/* One slice, under hub_enter(). */
static void catch_up(struct watcher *w) {
        struct keyspace *ks = w->ks;
        struct event_list list = {};
        struct fetch missing = {};
        struct watch_event **events;
        bool tried = w->fetch.blobs;
        enum event_result result;
        int64_t upto;

        if (w->freed || w->state != WATCHER_BEHIND || w->paused || w->fetching || !ks->open || ks->closing)
                return;
        if (w->next < ks->compacted) {
                watcher_cancel(w, KEYSPACE_COMPACTED);
                return;
        }

        result = collect(w, tried, &list, &missing, &upto);
        if (result == EVENT_NEEDS_VALUES && !tried) {
                event_list_done(&list);
                w->fetch = missing;
                w->fetch.done = on_fetched;
                w->fetching = true;
                fetch_start(ks, &w->fetch, UINT64_MAX);
                return;
        }
        fetch_done(&missing);
        fetch_done(&w->fetch);
        if (result == EVENT_NO_PREV) {
                event_list_done(&list);
                watcher_cancel(w, KEYSPACE_COMPACTED);
                return;
        }
        if (upto < w->next && result == EVENT_NEEDS_VALUES) {
                event_list_done(&list);
                try_again(w);
                return;
        }
        w->n_missed = 0;

        if (list.n) {
                bool alive;

                events = xcalloc(list.n, sizeof(struct watch_event *));
                for (size_t j = 0; j < list.n; j++)
                        events[j] = &list.events[j];
                alive = watcher_deliver(w, events, list.n, upto);
                free(events);
                event_list_done(&list);
                if (!alive || w->paused)
                        return;
        } else {
                event_list_done(&list); /* all that was in it may have been cut */
                w->next = max_of(w->next, upto + 1);
        }

        if (upto < ks->revision) {
                watcher_catch_up(w);
                return;
        }
        watcher_set_state(w, WATCHER_SYNCED);
        w->config.on_synced(w->config.userdata, upto);
}
