/*
 * Alarms, as etcd has them: a set of (member, type) that stands until a client takes it down. They are records, so every
 * daemon knows them in the same order, and they outlive restarts and compaction. NOSPACE is raised by the first write
 * that the quota has no room for, in the batch that refuses it; while it stands, whoever raised it, all that could grow
 * the keyspace is refused, also once there is room again. With CORRUPT, which only clients raise, nothing is changed.
 *
 * What counts against the quota is bytes_log, and what etcd reckons for the request. That falls when history is
 * compacted, as etcd's file does when it is compacted and defragmented.
 *
 * The keyspace's loop only. Looking costs a write two comparisons as long as there is neither a quota nor an alarm.
 */

#include <errno.h>

#include "base/log.h"
#include "keyspace/commit.h"

#define MAX_ALARMS 64
/* etcd's estimates of what is stored beside key and value. */
#define KV_OVERHEAD 256
#define LEASE_OVERHEAD 64

/* ---- state */

static struct alarm *find(struct alarms *a, uint64_t member, int32_t type) {
        for (size_t i = 0; i < a->n; i++)
                if (a->list[i].member == member && a->list[i].type == type)
                        return &a->list[i];
        return NULL;
}

static struct alarm alarm_of(const struct stoke_record *r) {
        return (struct alarm){.member = (uint64_t)r->lease, .type = (int32_t)r->create_revision, .seq = r->seq};
}

static void change(struct alarms *a, const struct stoke_record *r) {
        struct alarm new = alarm_of(r), *old = find(a, new.member, new.type);

        if (old) { /* the order of the others stays */
                size_t i = (size_t)(old - a->list);

                memmove(old, old + 1, (a->n - i - 1) * sizeof(*old));
                a->n--;
        }
        if (!r->version)
                return;
        a->list = realloc(a->list, (a->n + 1) * sizeof(*a->list));
        check(a->list);
        a->list[a->n++] = new;
}

void alarm_apply(struct keyspace *ks, const struct stoke_record *r) {
        struct log_context context = {.tenant = ks->name, .datastore = datastore_name(ks->datastore)};
        struct alarm new = alarm_of(r), *old = find(&ks->alarms, new.member, new.type);

        if (old)
                compaction_add(ks, old->seq, false);
        change(&ks->alarms, r);
        if (!r->version)
                compaction_add(ks, r->seq, true);
        if (ks->open)
                log_at(r->version ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, &context, "alarm %s is %s",
                        new.type == ALARM_NOSPACE           ? "NOSPACE"
                                : new.type == ALARM_CORRUPT ? "CORRUPT"
                                                            : "of an unknown type",
                        r->version ? "raised" : "disarmed");
}

void alarms_done(struct keyspace *ks) {
        free(ks->alarms.list);
        ks->alarms = (struct alarms){};
}

static bool stands(const struct batch *b, int32_t type) {
        const struct alarms *a = b->alarms_changed ? &b->alarms : &b->ks->alarms;

        for (size_t i = 0; i < a->n; i++)
                if (a->list[i].type == type)
                        return true;
        return false;
}

/* The alarms as the batch has them so far. */
static struct alarms *batch_alarms(struct batch *b) {
        return b->alarms_changed ? &b->alarms : &b->ks->alarms;
}

static void batch_alarm(struct batch *b, uint64_t member, int32_t type, bool raised) {
        if (!b->alarms_changed) {
                const struct alarms *a = &b->ks->alarms;

                b->alarms_changed = true;
                b->alarms.list = xcalloc(a->n + 1, sizeof(*a->list));
                b->alarms.n = a->n;
                if (a->n)
                        memcpy(b->alarms.list, a->list, a->n * sizeof(*a->list));
        }
        batch_add(b, RECORD_ALARM, b->revision, (struct bytes){}, NULL, type, raised, (int64_t)member);
        change(&b->alarms, &b->records[b->n_records - 1]);
}

/* ---- what an alarm, or the quota, does to writes */

static uint64_t cost_of_ops(const struct txn_op *ops, size_t n);

static uint64_t cost_of(const struct txn *txn) {
        uint64_t success = cost_of_ops(txn->success, txn->n_success);
        uint64_t failure = cost_of_ops(txn->failure, txn->n_failure);

        return max_of(success, failure);
}

static uint64_t cost_of_ops(const struct txn_op *ops, size_t n) {
        uint64_t cost = 0;

        for (size_t i = 0; i < n; i++)
                if (ops[i].kind == OP_PUT)
                        cost += KV_OVERHEAD + ops[i].put.key.size + ops[i].put.value.size;
                else if (ops[i].kind == OP_TXN)
                        cost += cost_of(ops[i].txn);
        return cost;
}

/* etcd's sense of it: a nested transaction counts as a write, whatever is in it. */
static bool is_read_only(const struct txn *txn) {
        for (size_t i = 0; i < txn->n_success; i++)
                if (txn->success[i].kind != OP_RANGE)
                        return false;
        for (size_t i = 0; i < txn->n_failure; i++)
                if (txn->failure[i].kind != OP_RANGE)
                        return false;
        return true;
}

static bool nothing_to_check(const struct batch *b) {
        return !b->ks->config.quota_bytes && !b->ks->alarms.n && !b->alarms_changed;
}

static enum keyspace_result check_cost(struct batch *b, uint64_t cost) {
        struct keyspace *ks = b->ks;
        uint64_t quota = ks->config.quota_bytes;

        if (cost && quota && ks->bytes_log + b->bytes + cost >= quota) {
                struct alarms *a = batch_alarms(b);

                if (!find(a, ks->member_id, ALARM_NOSPACE) && a->n < MAX_ALARMS)
                        batch_alarm(b, ks->member_id, ALARM_NOSPACE, true);
                return KEYSPACE_NO_SPACE;
        }
        if (stands(b, ALARM_CORRUPT))
                return KEYSPACE_LOST;
        return cost && stands(b, ALARM_NOSPACE) ? KEYSPACE_NO_SPACE : KEYSPACE_OK;
}

enum keyspace_result alarm_check_txn(struct batch *b, const struct txn *txn) {
        if (nothing_to_check(b) || is_read_only(txn))
                return KEYSPACE_OK;
        return check_cost(b, cost_of(txn));
}

enum keyspace_result alarm_check_grant(struct batch *b) {
        return nothing_to_check(b) ? KEYSPACE_OK : check_cost(b, LEASE_OVERHEAD);
}

enum keyspace_result alarm_check_change(struct batch *b) {
        return nothing_to_check(b) ? KEYSPACE_OK : check_cost(b, 0);
}

/* ---- the call */

static int answer(struct alarm_call *c, const struct alarm *list, size_t n) {
        c->alarms = arena_alloc(c->call.arena, max_of(n, (size_t)1) * sizeof(*c->alarms));
        if (!c->alarms)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                c->alarms[i] = (struct keyspace_alarm){.member = list[i].member, .type = list[i].type};
        c->n_alarms = n;
        return 0;
}

static int evaluate(struct keyspace_call *call, struct batch *b) {
        struct alarm_call *c = container_of(call, struct alarm_call, call);
        struct alarms *a = batch_alarms(b);
        struct alarm *old = find(a, c->member, c->type), one = {.member = c->member, .type = c->type};

        call->revision = b->revision;
        call->own.result = KEYSPACE_OK;
        c->n_alarms = 0;
        switch (c->action) {
        case ALARM_GET: {
                struct alarm some[MAX_ALARMS];
                size_t n = 0;

                for (size_t i = 0; i < a->n && n < MAX_ALARMS; i++)
                        if (c->type == ALARM_NONE || a->list[i].type == c->type)
                                some[n++] = a->list[i];
                return answer(c, some, n) < 0 ? -ENOMEM : EVALUATED;
        }
        case ALARM_ACTIVATE:
                if (c->type == ALARM_NONE)
                        return EVALUATED;
                if (!old && a->n >= MAX_ALARMS) {
                        call->own.result = KEYSPACE_TOO_MANY_REQUESTS;
                        return EVALUATED;
                }
                if (answer(c, &one, 1) < 0)
                        return -ENOMEM;
                if (!old)
                        batch_alarm(b, c->member, c->type, true);
                return EVALUATED;
        case ALARM_DEACTIVATE:
                if (!old)
                        return EVALUATED;
                if (answer(c, &one, 1) < 0)
                        return -ENOMEM;
                batch_alarm(b, c->member, c->type, false);
                return EVALUATED;
        }
        return EVALUATED;
}

void keyspace_alarm(struct keyspace *ks, struct alarm_call *c) {
        keyspace_queue(ks, &c->call, evaluate);
}

size_t keyspace_alarms(const struct keyspace *ks, struct keyspace_alarm *ret, size_t n_most) {
        size_t n = min_of(ks->alarms.n, n_most);

        for (size_t i = 0; i < n; i++)
                ret[i] = (struct keyspace_alarm){.member = ks->alarms.list[i].member, .type = ks->alarms.list[i].type};
        return n;
}
