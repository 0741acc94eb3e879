#include "fleet/registry_state.h"

/*
 * Listing and following: all keys at one revision, then a watch from the next one on, so that nothing is missed in between and nothing comes twice. A
 * watch that was overtaken by a compaction (this daemon was stopped for an hour) begins anew with a listing.
 */

#include <string.h>

#include "base/log.h"

#define ALL_BEGIN "/"
#define ALL_END "0"
#define RELIST_NS NSEC_PER_SEC

static void list(struct registry *r);

/* ---- what keys say */

static void tell_tenant(struct registry *r, struct bytes name, struct bytes json, int64_t mod_revision) {
        cleanup(error_done) struct error err = {};
        struct registry_record *record = NULL;

        if (registry_record_parse(name, json, &r->formats, &record, &err) < 0) {
                /* The others are served all the same; this name cannot be used until somebody has looked. */
                log_error("registry: the record of tenant %.*s %s", (int)name.size, (const char *)name.data,
                        error_text(&err));
                return;
        }
        record->mod_revision = mod_revision;
        r->listener.on_record(r->listener.userdata, record);
}

/* value.data NULL: removed. */
static void tell(struct registry *r, struct bytes key, struct bytes value, int64_t mod_revision) {
        const size_t prefix = strlen(REGISTRY_TENANTS);
        cleanup(freep) char *text = strndup((const char *)key.data, key.size);

        check(text);
        if (strlen(text) != key.size)
                return; /* none that we have written */
        if (strncmp(text, REGISTRY_TENANTS, prefix) == 0) {
                if (value.data)
                        tell_tenant(r, bytes_of(key.data + prefix, key.size - prefix), value, mod_revision);
                else
                        r->listener.on_gone(r->listener.userdata, text + prefix, mod_revision);
                return;
        }
        if (strcmp(text, REGISTRY_FORMAT_KEY) == 0 && value.data) {
                uint32_t format = registry_format_parse(value);

                if (format)
                        r->format = format;
        }
        r->listener.on_value(r->listener.userdata, text, value, mod_revision);
}

/* A value's bytes, also where it is empty. */
static struct bytes value_of(const struct kv *kv) {
        struct bytes value = blob_bytes(kv->value);

        return value.data ? value : bytes_of("", 0);
}

/* ---- watching */

static bool on_events(void *userdata, struct watch_event *const *events, size_t n_events, int64_t revision) {
        struct registry *r = userdata;

        for (size_t i = 0; i < n_events; i++) {
                const struct watch_event *e = events[i];

                tell(r, e->kv.key, e->is_delete ? (struct bytes){} : value_of(&e->kv), e->kv.mod_revision);
        }
        r->revision = max_of(r->revision, revision);
        return true;
}

static void on_watch_created(void *userdata, int64_t revision) {
        (void)userdata;
        (void)revision;
}

static void on_synced(void *userdata, int64_t revision) {
        (void)userdata;
        (void)revision;
}

static void on_relist_time(struct loop_timer *timer) {
        list(container_of(timer, struct registry, relist));
}

static void on_cancelled(void *userdata, enum keyspace_result result, int64_t compact_revision) {
        struct registry *r = userdata;
        struct keyspace_status status;

        (void)compact_revision;
        if (r->closing || result == KEYSPACE_STOPPED)
                return;
        if (result == KEYSPACE_COMPACTED) {
                r->relist.on_time = on_relist_time;
                loop_timer_set(r->loop, &r->relist, clock_now_ns());
                return;
        }
        keyspace_get_status(r->keyspace, &status);
        r->listener.on_lost(
                r->listener.userdata, status.reason && status.reason[0] ? status.reason : registry_result_text(result));
}

static int watch(struct registry *r) {
        const struct watcher_config config = {
                .range = {bytes_of_string(ALL_BEGIN), bytes_of_string(ALL_END)},
                .start_revision = r->revision + 1,
                .userdata = r,
                .on_created = on_watch_created,
                .on_events = on_events,
                .on_synced = on_synced,
                .on_cancelled = on_cancelled,
        };

        watcher_free(steal(r->watcher));
        return keyspace_watch(r->keyspace, &config, &r->watcher);
}

/* ---- listing */

static bool on_slice(struct range_call *call, const struct kv *kvs, size_t n_kvs) {
        struct registry *r = container_of(call, struct registry, range);

        for (size_t i = 0; i < n_kvs; i++)
                tell(r, kvs[i].key, value_of(&kvs[i]), kvs[i].mod_revision);
        return true;
}

static void on_range_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry *r = container_of(container_of(call, struct range_call, call), struct registry, range);
        bool opening = r->opening.done;
        int k;

        r->listing = false;
        if (!opening)
                arena_done(&r->arena);
        if (r->closing)
                return;
        if (result == KEYSPACE_OK) {
                r->revision = call->revision;
                k = watch(r);
                if (k < 0 && opening) {
                        registry_open_end(r, k, strerror(-k));
                        return;
                }
                result = k < 0 ? KEYSPACE_UNAVAILABLE : KEYSPACE_OK;
        }
        if (result == KEYSPACE_OK) {
                r->listener.on_listed(r->listener.userdata);
                if (opening)
                        registry_open_end(r, 0, "");
                return;
        }
        if (opening) {
                registry_open_end_keyspace(r, result);
                return;
        }
        r->relist.on_time = on_relist_time;
        loop_timer_set(r->loop, &r->relist, clock_now_ns() + RELIST_NS);
}

static void list(struct registry *r) {
        check(!r->listing);
        r->listing = true;
        r->listener.on_begin(r->listener.userdata);
        r->range = (struct range_call){
                .call = {.done = on_range_done,
                        .deadline_ns = clock_now_ns() + REGISTRY_OPEN_TIMEOUT_NS,
                        .arena = &r->arena},
                .request = {.range = {bytes_of_string(ALL_BEGIN), bytes_of_string(ALL_END)}},
                .on_slice = on_slice,
        };
        keyspace_range(r->keyspace, &r->range);
}

void registry_follow(struct registry *r) {
        list(r);
}

void registry_unfollow(struct registry *r) {
        loop_timer_clear(&r->relist);
        watcher_free(steal(r->watcher));
}
