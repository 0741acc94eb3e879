#include "fleet/registry.h"

/*
 * Opening goes through steps, each asynchronous: find the keyspace, make it if it may not have been made, read or write what is under /meta/,
 * check that the format in use is one that this daemon can do; then all keys are listed and followed (registry_follow.c). A step that
 * fails ends the opening with the reason; the owner asks again when he likes, and all steps are idempotent.
 */

#include <jansson.h>
#include <string.h>

#include "base/log.h"
#include "fleet/registry_state.h"

#define META_KEY "/meta/registry"
#define CACHE_BYTES (1U << 20)

const char *registry_datastore(const struct registry *r) {
        return r->file.datastore;
}

struct keyspace *registry_keyspace(struct registry *r) {
        return r->keyspace;
}

const char *registry_id(const struct registry *r) {
        return r->id;
}

const uint8_t *registry_incarnation(const struct registry *r) {
        return r->file.incarnation;
}

uint32_t registry_format(const struct registry *r) {
        return r->format;
}

const struct format_range *registry_formats(const struct registry *r) {
        return &r->formats;
}

int64_t registry_revision(const struct registry *r) {
        return r->revision;
}

const char *registry_result_text(enum keyspace_result result) {
        switch (result) {
        case KEYSPACE_NO_SPACE:
                return "no space is left for it";
        case KEYSPACE_TIMEOUT:
                return "the datastore did not answer in time";
        case KEYSPACE_STOPPED:
                return "it is being closed";
        case KEYSPACE_LOST:
                return "its history is lost or corrupt";
        case KEYSPACE_LEASE_NOT_FOUND:
                return "the lease has ended";
        default:
                return "the datastore cannot be reached";
        }
}

int registry_result_errno(enum keyspace_result result) {
        switch (result) {
        case KEYSPACE_NO_SPACE:
                return -ENOSPC;
        case KEYSPACE_TIMEOUT:
                return -ETIMEDOUT;
        case KEYSPACE_STOPPED:
                return -ECANCELED;
        case KEYSPACE_LOST:
                return -EBADMSG;
        case KEYSPACE_LEASE_NOT_FOUND:
                return -ENOKEY;
        default:
                return -EAGAIN;
        }
}

int registry_new(struct loop *loop, const char *state_dir, const uint8_t daemon[16], const struct format_range *formats,
        struct registry **ret, struct error *reterr) {
        cleanup(registry_freep) struct registry *registry = NULL;
        int r;

        registry = new0(struct registry);
        registry->loop = loop;
        registry->formats = *formats;
        registry->state_dir = strdup(state_dir);
        if (!registry->state_dir)
                return -ENOMEM;
        memcpy(registry->daemon, daemon, 16);
        arena_init(&registry->arena, 0);

        r = registry_file_read(state_dir, &registry->file, reterr);
        if (r < 0 && r != -ENOENT)
                return r;
        registry->cache = value_cache_new(CACHE_BYTES, NULL, NULL);
        if (!registry->cache)
                return -ENOMEM;

        *ret = steal(registry);
        return 0;
}

void registry_free(struct registry *r) {
        if (!r)
                return;
        check(!r->job_running);
        registry_unfollow(r);
        keyspace_free(r->keyspace);
        value_cache_free(r->cache);
        registry_file_done(&r->file);
        arena_done(&r->arena);
        free(r->meta_json);
        free(r->meta_format);
        free(r->state_dir);
        free(r);
}

/* ---- opening */

void registry_open_end(struct registry *r, int result, const char *reason) {
        struct registry_open opening = r->opening;

        r->opening = (struct registry_open){};
        arena_done(&r->arena);
        if (opening.done)
                opening.done(opening.userdata, result, reason);
}

void registry_open_end_keyspace(struct registry *r, enum keyspace_result result) {
        struct keyspace_status status;
        const char *reason;

        keyspace_get_status(r->keyspace, &status);
        reason = status.reason && status.reason[0] ? status.reason : registry_result_text(result);
        registry_open_end(r, registry_result_errno(result), reason);
}

bool registry_keeps_name(const char *name) {
        return strcmp(name, REGISTRY_KEYSPACE) == 0 || strcmp(name, GOVERNOR_KEYSPACE) == 0;
}

struct keyspace_known registry_known(struct registry *r) {
        struct keyspace_status status;

        if (!r->keyspace)
                return (struct keyspace_known){};
        keyspace_get_status(r->keyspace, &status);
        if (status.condition != KEYSPACE_SERVING && status.condition != KEYSPACE_UNREACHABLE)
                return (struct keyspace_known){};
        return (struct keyspace_known){status.end, status.revision};
}

uint32_t registry_format_parse(struct bytes text) {
        uint32_t n = 0;

        if (text.size == 0 || text.size > 9)
                return 0;
        for (size_t i = 0; i < text.size; i++) {
                if (text.data[i] < '0' || text.data[i] > '9')
                        return 0;
                n = n * 10 + (uint32_t)(text.data[i] - '0');
        }
        return n;
}

/* What was there already: the identity, and the format in use. */
static int read_meta(struct registry *r, struct error *reterr) {
        const struct op_result *results = r->meta.result.results;
        char id[UUID_TEXT_SIZE] = "";
        uint8_t binary[16];

        if (results[0].range.n_kvs == 1) {
                struct bytes json = blob_bytes(results[0].range.kvs[0].value);
                json_t *object = json_loadb((const char *)json.data, json.size, 0, NULL);
                const char *text = object ? json_string_value(json_object_get(object, "id")) : NULL;

                if (text && strlen(text) == UUID_TEXT_SIZE - 1)
                        memcpy(id, text, UUID_TEXT_SIZE);
                if (object)
                        json_decref(object);
        }
        if (uuid_parse(id, binary) < 0)
                return error_set(reterr, -EBADMSG, META_KEY " cannot be read");
        if (r->governor.is_governed && strcmp(id, r->id) != 0)
                return error_set(reterr, -EBADMSG, META_KEY " is of registry %s, and the datastore's governor names %s",
                        id, r->id);
        memcpy(r->id, id, UUID_TEXT_SIZE);
        r->format = 1;
        if (results[1].range.n_kvs == 1)
                r->format = registry_format_parse(blob_bytes(results[1].range.kvs[0].value));
        if (!r->format)
                return error_set(reterr, -EBADMSG, REGISTRY_FORMAT_KEY " cannot be read");
        return 0;
}

static int check_format(const struct registry *r, struct error *reterr) {
        if (format_is_known(&r->formats, r->format))
                return 0;
        return error_set(reterr, -EPROTONOSUPPORT,
                "the format in use is %u, and this version reads and writes %u to %u: nothing is served by it",
                r->format, r->formats.oldest, r->formats.current);
}

static void on_meta_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry *r = container_of(container_of(call, struct txn_call, call), struct registry, meta);
        cleanup(error_done) struct error err = {};
        int k = 0;

        if (result != KEYSPACE_OK) {
                registry_open_end_keyspace(r, result);
                return;
        }
        if (r->meta.result.succeeded)
                r->format = r->formats.current;
        else
                k = read_meta(r, &err);
        txn_result_release(&r->meta);
        if (k == 0)
                k = check_format(r, &err);
        if (k == 0 && !r->file.has_id) {
                check(uuid_parse(r->id, r->file.id) == 0);
                r->file.has_id = true;
                k = registry_file_write(r->state_dir, &r->file, &err);
        }
        if (k < 0) {
                registry_open_end(r, k, error_text(&err));
                return;
        }
        r->listener = r->opening.listener;
        registry_follow(r);
}

static void on_reopen(struct loop_task *task) {
        struct registry *r = container_of(task, struct registry, reopen);

        r->closing_lost = false;
        keyspace_free(r->keyspace);
        r->keyspace = NULL;
        if (r->closing)
                r->closed(r->closed_userdata);
        else
                registry_open_keyspace(r);
}

static void on_lost_closed(void *userdata) {
        struct registry *r = userdata;

        r->reopen.run = on_reopen;
        loop_defer(r->loop, &r->reopen);
}

/* One that was found lost or gone stays so: it is looked at anew by another. True: that is under way. */
static bool let_go_of_lost(struct registry *r) {
        struct keyspace_status status;

        if (!r->keyspace)
                return false;
        keyspace_get_status(r->keyspace, &status);
        if (status.condition != KEYSPACE_HISTORY_LOST && status.condition != KEYSPACE_DROPPED)
                return false;
        registry_unfollow(r);
        r->closing_lost = true;
        keyspace_close(r->keyspace, on_lost_closed, r);
        return true;
}

void registry_open_keyspace(struct registry *r) {
        uint8_t id[16];

        if (let_go_of_lost(r))
                return;
        if (!r->keyspace) {
                struct keyspace_config config = {
                        .name = REGISTRY_KEYSPACE,
                        .datastore = r->ds,
                        .loop = r->loop,
                        .cache = r->cache,
                        .auto_compact_ns = 3600 * NSEC_PER_SEC,
                        .known = r->opening.known,
                };
                int k;

                memcpy(config.incarnation, r->file.incarnation, 16);
                memcpy(config.daemon, r->daemon, 16);
                k = keyspace_new(&config, &r->keyspace);
                if (k < 0) {
                        registry_open_end(r, k, strerror(-k));
                        return;
                }
        }

        /* The identity: the governor's, or made by whoever opens the registry first. A new registry is in the newest format. */
        if (r->governor.is_governed)
                memcpy(id, r->governor.found.id, 16);
        else
                uuid_make(id);
        uuid_print(id, r->id);
        free(r->meta_json);
        free(r->meta_format);
        check(asprintf(&r->meta_json, "{\"id\":\"%s\"}", r->id) > 0);
        check(asprintf(&r->meta_format, "%u", r->formats.current) > 0);
        r->meta_compare = (struct compare){
                .result = COMPARE_EQUAL, .target = COMPARE_VERSION, .range = {.key = bytes_of_string(META_KEY)}};
        r->meta_puts[0] = r->meta_puts[1] = (struct txn_op){.kind = OP_PUT};
        r->meta_puts[0].put.key = bytes_of_string(META_KEY);
        r->meta_puts[0].put.value = bytes_of_string(r->meta_json);
        r->meta_puts[1].put.key = bytes_of_string(REGISTRY_FORMAT_KEY);
        r->meta_puts[1].put.value = bytes_of_string(r->meta_format);
        r->meta_gets[0] = r->meta_gets[1] = (struct txn_op){.kind = OP_RANGE};
        r->meta_gets[0].range.range.key = bytes_of_string(META_KEY);
        r->meta_gets[1].range.range.key = bytes_of_string(REGISTRY_FORMAT_KEY);
        r->meta_txn = (struct txn){.compares = &r->meta_compare,
                .n_compares = 1,
                .success = r->meta_puts,
                .n_success = 2,
                .failure = r->meta_gets,
                .n_failure = 2};
        r->meta = (struct txn_call){
                .call = {.done = on_meta_done,
                        .deadline_ns = clock_now_ns() + REGISTRY_OPEN_TIMEOUT_NS,
                        .arena = &r->arena},
                .txn = &r->meta_txn,
        };
        keyspace_txn(r->keyspace, &r->meta);
}

/* ---- life */

void registry_close_keyspace(struct registry *r) {
        if (r->keyspace)
                keyspace_close(r->keyspace, r->closed, r->closed_userdata);
        else
                r->closed(r->closed_userdata);
}

void registry_open(struct registry *r, struct datastore *ds, const struct registry_open *open) {
        check(!r->opening.done && !r->closing && !r->job_running);
        check(!r->file.datastore || strcmp(r->file.datastore, datastore_name(ds)) == 0);
        r->opening = *open;
        r->ds = ds;
        registry_find(r);
}

void registry_close(struct registry *r, void (*done)(void *userdata), void *userdata) {
        r->closing = true;
        r->closed = done;
        r->closed_userdata = userdata;
        r->opening.done = NULL;
        registry_unfollow(r);
        if (!r->job_running && !r->closing_lost) /* the end of either goes on here */
                registry_close_keyspace(r);
}
