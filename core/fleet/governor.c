#include "fleet/governor.h"

/*
 * Reads the log; where there is something to write, appends it behind the end that was read; where somebody else was first, reads again. What
 * is written is the same at each attempt, so an append whose outcome is not known may be repeated: if the first one lands late, the second
 * is refused, and the log says the same either way.
 */

#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <time.h>

#include "base/buf.h"
#include "fleet/uuid.h"
#include "keyspace/keyspace.h"
#include "keyspace/record.h"

#define GOVERNOR_FORMAT 1
#define GOVERNOR_KEY "/governor"
#define MAX_VALUE (64U << 10)
#define MAX_ATTEMPTS 64
#define PAUSE_NS (5 * NSEC_PER_MSEC)

/* "stokehold-govern" */
const uint8_t governor_incarnation[16] = {
        0x73, 0x74, 0x6f, 0x6b, 0x65, 0x68, 0x6f, 0x6c, 0x64, 0x2d, 0x67, 0x6f, 0x76, 0x65, 0x72, 0x6e};

static const struct stoke_keyspace keyspace = {.name = GOVERNOR_KEYSPACE,
        .incarnation = {
                0x73, 0x74, 0x6f, 0x6b, 0x65, 0x68, 0x6f, 0x6c, 0x64, 0x2d, 0x67, 0x6f, 0x76, 0x65, 0x72, 0x6e}};

/* Of the appends of this process: an origin is never used twice. */
static atomic_uint_least64_t last_batch;

struct log {
        struct stoke_end end;
        int64_t revision;
        int64_t created, version; /* of the key; 0: it is not there */
        struct buf value;
        bool damaged;
};

static int fail(struct stoke_call *call, int code, const char *reason) {
        if (call->reason && call->reason_size)
                snprintf(call->reason, call->reason_size, "%s: %s", GOVERNOR_KEYSPACE, reason);
        return code;
}

static int on_record(void *userdata, const struct stoke_record *r) {
        struct log *log = userdata;

        if (record_hash(r) != r->hash || r->value_size > MAX_VALUE) {
                log->damaged = true;
                return 1;
        }
        log->revision = r->revision;
        if (r->kind != RECORD_PUT)
                return 0;
        buf_clear(&log->value);
        if (buf_append(&log->value, r->value, r->value_size) < 0)
                return 1;
        log->created = r->create_revision;
        log->version = r->version;
        return 0;
}

static int read_log(
        const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call, struct log *log) {
        const struct stoke_end none = {};
        int r;

        buf_clear(&log->value);
        log->created = log->version = log->revision = 0;
        r = driver->load(session, &keyspace, &none, true, call, on_record, log, &log->end);
        if (log->damaged)
                return fail(call, -EUCLEAN, "a record is damaged");
        if (r == STOKE_MISSING)
                return fail(call, -ENOENT, "is not there");
        return r > 0 ? fail(call, -EIO, "its log cannot be read") : r;
}

static int parse(struct bytes json, struct governor_record *ret, struct stoke_call *call) {
        cleanup(json_decrefp) json_t *object = NULL;
        const char *id, *incarnation;
        struct governor_record record = {};
        int format, home, created;

        object = json_loadb((const char *)json.data, json.size, JSON_REJECT_DUPLICATES, NULL);
        if (!object || json_unpack(object, "{s:i}", "format", &format) < 0)
                return fail(call, -EBADMSG, "what it says cannot be read");
        if (format != GOVERNOR_FORMAT)
                return fail(call, -EBADMSG, "was written by a newer version");
        if (json_unpack(object, "{s:s s:s s:b s:b}", "registry", &id, "incarnation", &incarnation, "home", &home,
                    "created", &created) < 0 ||
                uuid_parse(id, record.id) < 0 || uuid_parse(incarnation, record.incarnation) < 0)
                return fail(call, -EBADMSG, "what it says cannot be read");
        record.home = home;
        record.created = created;
        *ret = record;
        return 0;
}

static char *print(const struct governor_record *record) {
        char id[UUID_TEXT_SIZE], incarnation[UUID_TEXT_SIZE];
        json_t *object;
        char *text;

        uuid_print(record->id, id);
        uuid_print(record->incarnation, incarnation);
        object = json_pack("{s:i s:s s:s s:b s:b}", "format", GOVERNOR_FORMAT, "registry", id, "incarnation",
                incarnation, "home", (int)record->home, "created", (int)record->created);
        check(object);
        text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
        check(text);
        json_decref(object);
        return text;
}

void governor_keyspace(struct stoke_keyspace *ret) {
        *ret = keyspace;
}

int governor_create(const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call,
        const uint8_t daemon[16]) {
        struct stoke_record first;
        int r;

        keyspace_first_record(daemon, &first);
        r = driver->create(session, &keyspace, &first, call);
        return r > 0 ? fail(call, -EIO, "it cannot be made") : r;
}

static int append(const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call,
        const struct governor *g, const struct log *log) {
        cleanup(freep) char *text = print(&g->wanted);
        struct stoke_record record = {
                .seq = log->end.seq + 1,
                .revision = log->revision + 1,
                .kind = RECORD_PUT,
                .create_revision = log->created ? log->created : log->revision + 1,
                .version = log->version + 1,
                .key = GOVERNOR_KEY,
                .key_size = strlen(GOVERNOR_KEY),
                .value = text,
                .value_size = strlen(text),
        };
        struct stoke_append a = {.size = sizeof(a), .expected = log->end, .records = &record, .n_records = 1};

        memcpy(record.origin.daemon, g->daemon, 16);
        record.origin.batch = atomic_fetch_add(&last_batch, 1) + 1;
        record.hash = record_hash(&record);
        return driver->append(session, &keyspace, &a, call);
}

static bool is_to_be_written(const struct governor *g) {
        switch (g->deed) {
        case GOVERNOR_SETTLE:
                return !g->is_governed;
        case GOVERNOR_CREATED:
                return g->is_governed && governor_same_registry(&g->found, &g->wanted) &&
                        g->found.created != g->wanted.created;
        case GOVERNOR_CLAIM:
                return !g->is_governed || !governor_same_registry(&g->found, &g->wanted) ||
                        g->found.home != g->wanted.home;
        case GOVERNOR_ASK:
                break;
        }
        return false;
}

static int try(const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call,
        struct governor *g, struct log *log) {
        const struct timespec pause = {.tv_nsec = PAUSE_NS};

        for (unsigned i = 0; i < MAX_ATTEMPTS; i++) {
                int r = read_log(driver, session, call, log);

                if (r < 0)
                        return r;
                g->is_governed = log->version > 0;
                if (g->is_governed) {
                        r = parse(bytes_of(log->value.data, log->value.size), &g->found, call);
                        if (r < 0)
                                return r;
                }
                if (!is_to_be_written(g))
                        return 0;
                r = append(driver, session, call, g, log);
                if (r < 0)
                        return r;
                if (r == STOKE_DONE) {
                        g->is_governed = g->wrote = true;
                        g->found = g->wanted;
                        return 0;
                }
                if (r != STOKE_STALE)
                        /* The session is of no use any more; the repetition finds out what has become of it. */
                        return call->reason && call->reason[0] ? -EIO
                                                               : fail(call, -EIO, "what was written is not known");
                nanosleep(&pause, NULL);
        }
        return fail(call, -EAGAIN, "others are at it");
}

int governor_run(
        const struct stoke_driver *driver, struct stoke_session *session, struct stoke_call *call, struct governor *g) {
        struct log log = {};
        int r;

        g->is_governed = g->wrote = false;
        buf_init(&log.value, 0);
        r = try(driver, session, call, g, &log);
        buf_done(&log.value);
        return r;
}
