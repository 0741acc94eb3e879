#pragma once

/*
 * What the files of the watch hub share: the watcher, and the making of events. watch.c has the watchers' lives and serves those that are up
 * to date; watch_catchup.c those that are behind; watch_event.c makes events. The keyspace's loop only.
 */

#include "keyspace/state.h"

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
        unsigned n_missed; /* fetches in a row that did not bring all */

        /* During a publish: what is to be delivered. */
        struct watch_event **events; /* owned */
        size_t n_events, capacity;
        int64_t cut; /* the revision from which on it must serve itself; 0: none */
};

/* ---- watch_event.c */

struct event_list {
        struct watch_event *events; /* owned; never moves while pointers to it are held */
        size_t n, capacity;
};

void event_list_done(struct event_list *list);
/* Drops the events at and behind a revision. */
void event_list_cut(struct event_list *list, int64_t revision);
struct watch_event *event_list_add(struct event_list *list);

enum event_result {
        EVENT_READY,
        EVENT_NEEDS_VALUES, /* not in memory: asked for with fetch_add(), if a fetch is given */
        EVENT_NO_PREV,      /* the previous version was compacted */
};

/* Makes the event of a history item, as far as its values are in memory or in `have`. */
enum event_result event_fill(struct keyspace *ks, const struct history_item *item, bool with_prev,
        const struct fetch *have, struct fetch *missing, struct watch_event *ret);
/* Whether this item's event is for the watcher. */
bool watcher_wants(const struct watcher *w, const struct history_item *item);

/* ---- watch.c */

/* Between these a watcher may be freed by its owner from within a callback: it is reaped when the last has left. */
void hub_enter(struct watch_hub *hub);
void hub_leave(struct watch_hub *hub);
void watcher_set_state(struct watcher *w, enum watcher_state state);
void watcher_cancel(struct watcher *w, enum keyspace_result result);
/* False: the watcher is gone, or dead. */
bool watcher_deliver(struct watcher *w, struct watch_event *const *events, size_t n, int64_t revision);

/* ---- watch_catchup.c */

/* Goes over the history for it, beginning in the next iteration. */
void watcher_catch_up(struct watcher *w);
