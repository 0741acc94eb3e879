#include "fleet/registry.h"

/*
 * Opening goes through four steps, each asynchronous: find the keyspace (the file, else what the datastore lists, else
 * a new one that is written down first), make it if it may not have been made, read or write /meta/registry, visit the
 * records. A step that fails ends the opening with the reason; the owner asks again when he likes, and all steps are idempotent.
 *
 * A write is one transaction that compares the record's revision. Where its outcome was not known it is repeated by its owner; that it had
 * landed the first time is then seen from the record itself, which is answered in the transaction's other branch.
 */

#include <jansson.h>
#include <string.h>

#include "base/log.h"
#include "fleet/registry_file.h"
#include "fleet/uuid.h"

#define TENANT_PREFIX "/tenants/"
#define TENANT_PREFIX_END "/tenants0"
#define META_KEY "/meta/registry"
#define OPEN_TIMEOUT_NS (30 * NSEC_PER_SEC)
#define WRITE_TIMEOUT_NS (10 * NSEC_PER_SEC)
#define CACHE_BYTES (1U << 20)

struct registry {
        struct loop *loop; /* borrowed */
        char *state_dir;   /* owned */
        uint8_t daemon[16];
        struct registry_file file; /* datastore NULL: none yet */
        char id[UUID_TEXT_SIZE];

        struct value_cache *cache; /* owned */
        struct keyspace *keyspace; /* owned, NULL before it was found */
        struct datastore *ds;      /* borrowed while open or opening */

        struct registry_open opening; /* done NULL: not opening */
        struct datastore_job job;
        struct stoke_keyspace job_keyspace;
        bool job_running;
        /* What the job found. */
        unsigned n_listed;
        uint8_t listed[16];

        struct arena arena;
        struct txn_call meta;
        struct txn meta_txn;
        struct compare meta_compare;
        struct txn_op meta_put, meta_get;
        char *meta_json; /* owned */
        struct range_call range;

        void (*closed)(void *userdata);
        void *closed_userdata;
        bool closing;
};

const char *registry_datastore(const struct registry *r) {
        return r->file.datastore;
}

struct keyspace *registry_keyspace(struct registry *r) {
        return r->keyspace;
}

const char *registry_id(const struct registry *r) {
        return r->id;
}

static const char *result_text(enum keyspace_result result) {
        switch (result) {
        case KEYSPACE_NO_SPACE:
                return "no space is left for it";
        case KEYSPACE_TIMEOUT:
                return "the datastore did not answer in time";
        case KEYSPACE_STOPPED:
                return "it is being closed";
        case KEYSPACE_LOST:
                return "its history is lost or corrupt";
        default:
                return "the datastore cannot be reached";
        }
}

static int result_errno(enum keyspace_result result) {
        switch (result) {
        case KEYSPACE_NO_SPACE:
                return -ENOSPC;
        case KEYSPACE_TIMEOUT:
                return -ETIMEDOUT;
        case KEYSPACE_STOPPED:
                return -ECANCELED;
        case KEYSPACE_LOST:
                return -EBADMSG;
        default:
                return -EAGAIN;
        }
}

int registry_new(struct loop *loop, const char *state_dir, const uint8_t daemon[16], struct registry **ret,
        struct error *reterr) {
        cleanup(registry_freep) struct registry *registry = NULL;
        int r;

        registry = new0(struct registry);
        registry->loop = loop;
        registry->state_dir = strdup(state_dir);
        if (!registry->state_dir)
                return -ENOMEM;
        memcpy(registry->daemon, daemon, 16);
        arena_init(&registry->arena, 0);

        r = registry_file_read(state_dir, &registry->file, reterr);
        if (r < 0 && r != -ENOENT)
                return r;
        registry->cache = value_cache_new(CACHE_BYTES);
        if (!registry->cache)
                return -ENOMEM;

        *ret = steal(registry);
        return 0;
}

void registry_free(struct registry *r) {
        if (!r)
                return;
        check(!r->job_running);
        keyspace_free(r->keyspace);
        value_cache_free(r->cache);
        registry_file_done(&r->file);
        arena_done(&r->arena);
        free(r->meta_json);
        free(r->state_dir);
        free(r);
}

/* ---- opening */

static void open_end(struct registry *r, int result, const char *reason) {
        struct registry_open opening = r->opening;

        r->opening = (struct registry_open){};
        arena_done(&r->arena);
        if (opening.done)
                opening.done(opening.userdata, result, reason);
}

static void open_end_keyspace(struct registry *r, enum keyspace_result result) {
        struct keyspace_status status;
        const char *reason;

        keyspace_get_status(r->keyspace, &status);
        reason = status.reason && status.reason[0] ? status.reason : result_text(result);
        open_end(r, result_errno(result), reason);
}

static bool on_slice(struct range_call *call, const struct kv *kvs, size_t n_kvs) {
        struct registry *r = container_of(call, struct registry, range);
        const size_t prefix = strlen(TENANT_PREFIX);

        for (size_t i = 0; i < n_kvs; i++) {
                cleanup(error_done) struct error err = {};
                struct registry_record *record = NULL;
                struct bytes name = bytes_of(kvs[i].key.data + prefix, kvs[i].key.size - prefix);

                if (registry_record_parse(name, blob_bytes(kvs[i].value), &record, &err) < 0) {
                        /* The others are served all the same; this name cannot be used until somebody has looked. */
                        log_error("registry: the record of tenant %.*s %s", (int)name.size, (const char *)name.data,
                                error_text(&err));
                        continue;
                }
                record->mod_revision = kvs[i].mod_revision;
                r->opening.on_record(r->opening.userdata, record);
        }
        return true;
}

static void on_range_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry *r = container_of(container_of(call, struct range_call, call), struct registry, range);

        if (result != KEYSPACE_OK)
                open_end_keyspace(r, result);
        else
                open_end(r, 0, "");
}

static void on_meta_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry *r = container_of(container_of(call, struct txn_call, call), struct registry, meta);
        json_t *object = NULL;
        const char *id = NULL;

        if (result == KEYSPACE_OK && !r->meta.result.succeeded && r->meta.result.results[0].range.n_kvs == 1) {
                struct bytes json = blob_bytes(r->meta.result.results[0].range.kvs[0].value);

                object = json_loadb((const char *)json.data, json.size, 0, NULL);
                id = object ? json_string_value(json_object_get(object, "id")) : NULL;
                if (id && strlen(id) == UUID_TEXT_SIZE - 1)
                        memcpy(r->id, id, UUID_TEXT_SIZE);
        }
        if (result == KEYSPACE_OK)
                txn_result_release(&r->meta);
        if (object)
                json_decref(object);
        if (result != KEYSPACE_OK) {
                open_end_keyspace(r, result);
                return;
        }

        r->range = (struct range_call){
                .call = {.done = on_range_done, .deadline_ns = clock_now_ns() + OPEN_TIMEOUT_NS, .arena = &r->arena},
                .request = {.range = {bytes_of_string(TENANT_PREFIX), bytes_of_string(TENANT_PREFIX_END)}},
                .on_slice = on_slice,
        };
        keyspace_range(r->keyspace, &r->range);
}

static void open_keyspace(struct registry *r) {
        uint8_t id[16];
        int n;

        if (!r->keyspace) {
                struct keyspace_config config = {
                        .name = REGISTRY_KEYSPACE,
                        .datastore = r->ds,
                        .loop = r->loop,
                        .cache = r->cache,
                        .auto_compact_ns = 3600 * NSEC_PER_SEC,
                };
                int k;

                memcpy(config.incarnation, r->file.incarnation, 16);
                memcpy(config.daemon, r->daemon, 16);
                k = keyspace_new(&config, &r->keyspace);
                if (k < 0) {
                        open_end(r, k, strerror(-k));
                        return;
                }
        }

        /* The identity, made by whoever opens the registry first. */
        uuid_make(id);
        uuid_print(id, r->id);
        free(r->meta_json);
        n = asprintf(&r->meta_json, "{\"id\":\"%s\"}", r->id);
        check(n > 0);
        r->meta_compare = (struct compare){
                .result = COMPARE_EQUAL, .target = COMPARE_VERSION, .range = {.key = bytes_of_string(META_KEY)}};
        r->meta_put = (struct txn_op){.kind = OP_PUT};
        r->meta_put.put.key = bytes_of_string(META_KEY);
        r->meta_put.put.value = bytes_of_string(r->meta_json);
        r->meta_get = (struct txn_op){.kind = OP_RANGE};
        r->meta_get.range.range.key = bytes_of_string(META_KEY);
        r->meta_txn = (struct txn){.compares = &r->meta_compare,
                .n_compares = 1,
                .success = &r->meta_put,
                .n_success = 1,
                .failure = &r->meta_get,
                .n_failure = 1};
        r->meta = (struct txn_call){
                .call = {.done = on_meta_done, .deadline_ns = clock_now_ns() + OPEN_TIMEOUT_NS, .arena = &r->arena},
                .txn = &r->meta_txn,
        };
        keyspace_txn(r->keyspace, &r->meta);
}

static void submit(struct registry *r,
        int (*run)(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call),
        void (*done)(struct datastore_job *job), const struct stoke_keyspace *keyspace) {
        r->job = (struct datastore_job){
                .class = JOB_BULK,
                .own_scope = true,
                .keyspace = keyspace,
                .deadline_ns = clock_now_ns() + OPEN_TIMEOUT_NS,
                .loop = r->loop,
                .run = run,
                .done = done,
        };
        r->job_running = true;
        datastore_submit(r->ds, &r->job);
}

static const char *job_reason(const struct datastore_job *job) {
        if (job->reason[0])
                return job->reason;
        return job->result < 0 ? strerror(-job->result) : "an outcome that was not expected";
}

/* A worker's thread: only what is passed may be touched. */
static int run_create(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct registry *r = container_of(job, struct registry, job);
        struct stoke_record first;

        keyspace_first_record(r->daemon, &first);
        return datastore_driver(job->ds)->create(session, job->keyspace, &first, call);
}

/* The end of a job: true if the registry was closed meanwhile, which is then answered. */
static bool job_ended(struct registry *r) {
        r->job_running = false;
        if (!r->closing)
                return false;
        r->closed(r->closed_userdata);
        return true;
}

static void on_created(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);
        cleanup(error_done) struct error err = {};
        int k;

        if (job_ended(r))
                return;
        if (job->result != 0) {
                open_end(r, job->result < 0 ? job->result : -EIO, job_reason(job));
                return;
        }
        r->file.created = true;
        k = registry_file_write(r->state_dir, &r->file, &err);
        if (k < 0) {
                r->file.created = false;
                open_end(r, k, error_text(&err));
                return;
        }
        open_keyspace(r);
}

static void create(struct registry *r) {
        r->job_keyspace = (struct stoke_keyspace){.name = REGISTRY_KEYSPACE};
        memcpy(r->job_keyspace.incarnation, r->file.incarnation, 16);
        submit(r, run_create, on_created, &r->job_keyspace);
}

static int on_listed(void *userdata, const struct stoke_keyspace_info *info) {
        struct registry *r = userdata;

        if (strcmp(info->name, REGISTRY_KEYSPACE) == 0 && !info->installing) {
                r->n_listed++;
                memcpy(r->listed, info->incarnation, 16);
        }
        return 0;
}

static int run_list(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct registry *r = container_of(job, struct registry, job);

        /* The registry is touched by nobody else while its opening waits for this job. */
        r->n_listed = 0;
        return datastore_driver(job->ds)->list(session, call, on_listed, r);
}

static void on_list_done(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);
        cleanup(error_done) struct error err = {};
        char text[UUID_TEXT_SIZE];
        int k;

        if (job_ended(r))
                return;
        if (job->result != 0) {
                open_end(r, job->result < 0 ? job->result : -EIO, job_reason(job));
                return;
        }
        if (r->n_listed > 1) {
                open_end(r, -ENOTUNIQ, "registry.json is missing, and the datastore holds more than one registry");
                return;
        }

        r->file.datastore = strdup(datastore_name(r->ds));
        check(r->file.datastore);
        if (r->n_listed == 1) {
                memcpy(r->file.incarnation, r->listed, 16);
                r->file.created = true;
        } else {
                uuid_make(r->file.incarnation);
                r->file.created = false;
        }
        k = registry_file_write(r->state_dir, &r->file, &err);
        if (k < 0) {
                registry_file_done(&r->file);
                open_end(r, k, error_text(&err));
                return;
        }
        uuid_print(r->file.incarnation, text);
        if (r->n_listed == 1) {
                log_notice("registry.json was missing: adopted the registry %s that datastore %s holds", text,
                        r->file.datastore);
                open_keyspace(r);
        } else {
                log_notice("making a registry in datastore %s", r->file.datastore);
                create(r);
        }
}

void registry_open(struct registry *r, struct datastore *ds, const struct registry_open *open) {
        check(!r->opening.done && !r->closing && !r->job_running);
        check(!r->file.datastore || strcmp(r->file.datastore, datastore_name(ds)) == 0);
        r->opening = *open;
        r->ds = ds;
        if (!r->file.datastore)
                submit(r, run_list, on_list_done, NULL);
        else if (!r->file.created)
                create(r);
        else
                open_keyspace(r);
}

void registry_close(struct registry *r, void (*done)(void *userdata), void *userdata) {
        r->closing = true;
        r->closed = done;
        r->closed_userdata = userdata;
        r->opening.done = NULL;
        if (r->job_running)
                return; /* its end calls closed; there is no keyspace yet */
        if (r->keyspace)
                keyspace_close(r->keyspace, done, userdata);
        else
                done(userdata);
}

/* ---- writing */

static void write_end(struct registry_write *w, int result, const char *reason) {
        arena_done(&w->own.arena);
        free(w->own.key);
        free(w->own.json);
        w->own.key = w->own.json = NULL;
        w->done(w, result, reason);
}

static void on_write_done(struct keyspace_call *call, enum keyspace_result result) {
        struct registry_write *w =
                container_of(container_of(call, struct txn_call, call), struct registry_write, own.call);
        bool landed = false;
        int64_t mod = 0;

        if (result != KEYSPACE_OK) {
                struct keyspace_status status;

                keyspace_get_status(w->own.registry->keyspace, &status);
                write_end(w, result_errno(result),
                        status.reason && status.reason[0] ? status.reason : result_text(result));
                return;
        }

        if (w->own.call.result.succeeded) {
                landed = true;
                mod = call->revision;
        } else {
                /* Changed by somebody: by ourselves, if it is what we wanted. */
                const struct op_result *get = &w->own.call.result.results[0];

                if (w->remove)
                        landed = get->range.n_kvs == 0;
                else if (get->range.n_kvs == 1) {
                        landed = bytes_equal(blob_bytes(get->range.kvs[0].value), bytes_of_string(w->own.json));
                        mod = get->range.kvs[0].mod_revision;
                }
        }
        txn_result_release(&w->own.call);
        if (landed)
                w->record->mod_revision = mod;
        write_end(w, landed ? 0 : -ESTALE, landed ? "" : "the record was changed by somebody else");
}

void registry_write(struct registry *r, struct registry_write *w) {
        struct bytes key;
        int n;

        check(r->keyspace);
        w->own.registry = r;
        arena_init(&w->own.arena, 0);
        n = asprintf(&w->own.key, TENANT_PREFIX "%s", w->record->name);
        check(n > 0);
        key = bytes_of_string(w->own.key);
        w->own.json = w->remove ? NULL : registry_record_print(w->record);

        w->own.compare = (struct compare){.result = COMPARE_EQUAL,
                .target = COMPARE_MOD,
                .range = {.key = key},
                .number = w->record->mod_revision};
        if (w->remove) {
                w->own.put = (struct txn_op){.kind = OP_DELETE};
                w->own.put.delete.range.key = key;
        } else {
                w->own.put = (struct txn_op){.kind = OP_PUT};
                w->own.put.put.key = key;
                w->own.put.put.value = bytes_of_string(w->own.json);
        }
        w->own.get = (struct txn_op){.kind = OP_RANGE};
        w->own.get.range.range.key = key;
        w->own.txn = (struct txn){.compares = &w->own.compare,
                .n_compares = 1,
                .success = &w->own.put,
                .n_success = 1,
                .failure = &w->own.get,
                .n_failure = 1};
        w->own.call = (struct txn_call){
                .call = {.done = on_write_done,
                        .deadline_ns = clock_now_ns() + WRITE_TIMEOUT_NS,
                        .arena = &w->own.arena},
                .txn = &w->own.txn,
        };
        keyspace_txn(r->keyspace, &w->own.call);
}
