#include "recorded.h"

static void next_operation(struct recorded *run, unsigned worker);

static void finish_operation(struct operation *o, enum keyspace_result result, int64_t revision) {
        struct recorded *run = o->recorded;

        o->done = true;
        o->result = result;
        o->revision = revision;
        if (result == KEYSPACE_OK && revision > run->told)
                run->told = revision;
        if (result == KEYSPACE_OK && (o->found || (!o->is_read && o->txn.result.succeeded)))
                run->guess[o->key[1] - '0'] = o->found ? o->seen_mod : o->is_delete ? 0 : revision;
        else if (result == KEYSPACE_OK)
                run->guess[o->key[1] - '0'] = 0;
        run->n_done++;
        if (run->answered)
                run->answered(run);
        if (run->n_done == run->n_operations)
                run->all_done = true;
        else
                next_operation(run, o->worker);
}

static void see(struct operation *o, const struct kv *kv) {
        o->found = true;
        o->seen_mod = kv->mod_revision;
        (void)snprintf(o->seen, sizeof(o->seen), "%.*s", (int)kv->value->size, (const char *)kv->value->data);
}

static void on_txn(struct keyspace_call *call, enum keyspace_result result) {
        struct operation *o = container_of(container_of(call, struct txn_call, call), struct operation, txn);

        if (result == KEYSPACE_OK && !o->txn.result.succeeded && o->txn.result.results[0].range.n_kvs)
                see(o, &o->txn.result.results[0].range.kvs[0]);
        finish_operation(o, result, call->revision);
        if (result == KEYSPACE_OK) {
                bool succeeded = o->txn.result.succeeded;

                txn_result_release(&o->txn);
                o->txn.result.succeeded = succeeded;
        }
}

static bool on_kv(struct range_call *call, const struct kv *kvs, size_t n) {
        assert_int_equal(n, 1);
        see(container_of(call, struct operation, range), kvs);
        return true;
}

static void on_range(struct keyspace_call *call, enum keyspace_result result) {
        struct operation *o = container_of(container_of(call, struct range_call, call), struct operation, range);

        finish_operation(o, result, call->revision);
}

static void next_operation(struct recorded *run, unsigned worker) {
        struct operation *o;
        struct keyspace *ks;
        unsigned key = (unsigned)rand_r(run->seed) % HISTORY_KEYS;
        uint64_t deadline = clock_now_ns() + run->patience_ns;

        if (run->n == run->n_operations)
                return;
        ks = run->keyspace(run, worker);
        o = &run->operations[run->n];
        o->number = run->n++;
        o->recorded = run;
        o->worker = worker;
        o->floor = run->told;
        arena_init(&o->arena, 0);
        (void)snprintf(o->key, sizeof(o->key), "k%u", key);
        (void)snprintf(o->value, sizeof(o->value), "v%u", o->number);

        if (rand_r(run->seed) % 3 == 0) {
                o->is_read = true;
                o->range.request.range.key = bytes_of_string(o->key);
                o->range.on_slice = on_kv;
                o->range.call.done = on_range;
                o->range.call.arena = &o->arena;
                o->range.call.deadline_ns = deadline;
                keyspace_range(ks, &o->range);
                return;
        }
        o->is_delete = rand_r(run->seed) % 4 == 0 && run->guess[key];
        o->expected_mod = run->guess[key];
        o->compare = (struct compare){
                .target = COMPARE_MOD, .range.key = bytes_of_string(o->key), .number = o->expected_mod};
        if (o->is_delete)
                o->ops[0] = (struct txn_op){.kind = OP_DELETE, .delete.range.key = bytes_of_string(o->key)};
        else
                o->ops[0] = (struct txn_op){
                        .kind = OP_PUT, .put = {.key = bytes_of_string(o->key), .value = bytes_of_string(o->value)}};
        o->ops[1] = (struct txn_op){.kind = OP_RANGE, .range.range.key = bytes_of_string(o->key)};
        o->tree = (struct txn){&o->compare, 1, &o->ops[0], &o->ops[1], 1, 1};
        o->txn.txn = &o->tree;
        o->txn.call.done = on_txn;
        o->txn.call.arena = &o->arena;
        o->txn.call.deadline_ns = deadline;
        keyspace_txn(ks, &o->txn);
}

static void log_created(void *userdata, int64_t revision) {
        (void)userdata;
        (void)revision;
}

static bool log_events(void *userdata, struct watch_event *const *events, size_t n, int64_t revision) {
        struct seen *log = userdata;

        for (size_t i = 0; i < n; i++) {
                struct seen_event *e;

                log->events = realloc(log->events, (log->n + 1) * sizeof(*log->events));
                e = &log->events[log->n++];
                *e = (struct seen_event){
                        .revision = events[i]->kv.mod_revision,
                        .key = (unsigned)(events[i]->kv.key.data[1] - '0'),
                        .is_delete = events[i]->is_delete,
                };
                if (!e->is_delete)
                        (void)snprintf(e->value, sizeof(e->value), "%.*s", (int)events[i]->kv.value->size,
                                (const char *)events[i]->kv.value->data);
                /* Ordered, unique; that nothing is left out is seen by comparing with others. */
                assert_true(log->n == 1 || e->revision > e[-1].revision);
        }
        log->revision = revision;
        return true;
}

static void log_synced(void *userdata, int64_t revision) {
        struct seen *log = userdata;

        log->synced = true;
        log->revision = revision;
}

static void log_cancelled(void *userdata, enum keyspace_result result, int64_t compact_revision) {
        struct seen *log = userdata;

        (void)compact_revision;
        if (result == KEYSPACE_COMPACTED)
                log->left_behind = true;
        else if (result != KEYSPACE_STOPPED)
                fail_msg("a watch was cancelled: %d", result);
}

struct watcher *seen_watch(struct keyspace *ks, struct seen *log) {
        struct watcher_config config = {
                .range = {bytes_of_string("k"), bytes_of_string("l")},
                .start_revision = 1,
                .userdata = log,
                .on_created = log_created,
                .on_events = log_events,
                .on_synced = log_synced,
                .on_cancelled = log_cancelled,
        };
        struct watcher *w;

        assert_int_equal(keyspace_watch(ks, &config, &w), 0);
        return w;
}

/* The state of a key once the log's events up to a revision were applied. */
const struct seen_event *seen_state(const struct seen *log, unsigned key, int64_t revision) {
        for (size_t i = log->n; i-- > 0;)
                if (log->events[i].revision <= revision && log->events[i].key == key)
                        return log->events[i].is_delete ? NULL : &log->events[i];
        return NULL;
}

static void check_operation(const struct operation *o, const struct seen *log) {
        unsigned key = (unsigned)(o->key[1] - '0'), n_found = 0;
        const struct seen_event *before, *at;

        for (size_t i = 0; i < log->n; i++)
                if (!log->events[i].is_delete && strcmp(log->events[i].value, o->value) == 0) {
                        n_found++;
                        before = seen_state(log, key, log->events[i].revision - 1);
                        assert_int_equal(before ? before->revision : 0, o->expected_mod);
                        assert_int_equal(log->events[i].key, key);
                }
        if (o->is_read || o->is_delete)
                assert_int_equal(n_found, 0);
        assert_true(n_found <= 1);
        if (o->result != KEYSPACE_OK) {
                assert_true(o->result == KEYSPACE_UNAVAILABLE || o->result == KEYSPACE_TIMEOUT ||
                        o->result == KEYSPACE_STOPPED);
                return;
        }

        assert_true(o->revision >= o->floor);
        at = seen_state(log, key, o->revision);
        if (!o->is_read && o->txn.result.succeeded) {
                assert_true(o->revision > o->floor);
                before = seen_state(log, key, o->revision - 1);
                assert_int_equal(before ? before->revision : 0, o->expected_mod);
                if (o->is_delete)
                        assert_null(at);
                else {
                        assert_int_equal(n_found, 1);
                        assert_int_equal(at->revision, o->revision);
                        assert_string_equal(at->value, o->value);
                }
                return;
        }
        if (!o->is_read) {
                assert_int_equal(n_found, 0);
                assert_int_not_equal(at ? at->revision : 0, o->expected_mod);
        }
        assert_int_equal(o->found, at != NULL);
        if (at) {
                assert_int_equal(o->seen_mod, at->revision);
                assert_string_equal(o->seen, at->value);
        }
}

void recorded_begin(struct recorded *h, unsigned n_workers) {
        h->operations = xcalloc(h->n_operations, sizeof(*h->operations));
        for (unsigned i = 0; i < n_workers; i++)
                next_operation(h, i);
}

void recorded_done(struct recorded *h) {
        for (unsigned i = 0; i < h->n_operations; i++)
                arena_done(&h->operations[i].arena);
        free(h->operations);
}

unsigned recorded_check(const struct recorded *h, const struct seen *all) {
        unsigned n_ok = 0;

        for (unsigned i = 0; i < h->n_operations; i++) {
                check_operation(&h->operations[i], all);
                n_ok += h->operations[i].result == KEYSPACE_OK;
        }
        return n_ok;
}
