#include "fleet/known.h"

/*
 * A table by name, and the whole of it as a file, written beside and renamed. It is not synced: after a crash of the machine an older one, or
 * none, is as good as no knowledge.
 */

#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <uthash.h>

#include "base/log.h"
#include "fleet/uuid.h"
#include "keyspace/record.h"

#define FORMAT 1

struct known_log {
        UT_hash_handle hh;
        char *name; /* owned */
        uint8_t incarnation[16], recovery[16];
        struct keyspace_known known;
        int64_t highest; /* revision, of this and of former logs */
        int64_t gone;    /* the log above is none since then, in seconds since 1970; 0: it is one */
};

struct known_logs {
        char *path; /* owned */
        struct known_log *table;
        bool dirty;
};

static struct known_log *find(const struct known_logs *logs, const char *name) {
        struct known_log *k;

        HASH_FIND_STR(logs->table, name, k);
        return k;
}

struct keyspace_known known_logs_get(
        const struct known_logs *logs, const char *name, const uint8_t incarnation[16], const uint8_t recovery[16]) {
        const struct known_log *k = find(logs, name);

        if (!k || k->gone || memcmp(k->incarnation, incarnation, 16) != 0 || memcmp(k->recovery, recovery, 16) != 0)
                return (struct keyspace_known){};
        return k->known;
}

static bool same(const struct keyspace_known *a, const struct keyspace_known *b) {
        return a->revision == b->revision && end_equal(&a->end, &b->end);
}

static struct known_log *get(struct known_logs *logs, const char *name) {
        struct known_log *k = find(logs, name);

        if (k)
                return k;
        k = new0(struct known_log);
        k->name = xstrdup(name);
        HASH_ADD_KEYPTR(hh, logs->table, k->name, strlen(k->name), k);
        return k;
}

void known_logs_set(struct known_logs *logs, const char *name, const uint8_t incarnation[16],
        const uint8_t recovery[16], const struct keyspace_known *known) {
        struct known_log *k = get(logs, name);

        if (!k->gone && same(&k->known, known) && memcmp(k->incarnation, incarnation, 16) == 0 &&
                memcmp(k->recovery, recovery, 16) == 0)
                return;
        memcpy(k->incarnation, incarnation, 16);
        memcpy(k->recovery, recovery, 16);
        k->known = *known;
        k->highest = max_of(k->highest, known->revision);
        k->gone = 0;
        logs->dirty = true;
}

static void drop(struct known_logs *logs, struct known_log *k) {
        HASH_DEL(logs->table, k);
        free(k->name);
        free(k);
}

void known_logs_forget(struct known_logs *logs, const char *name) {
        struct known_log *k = find(logs, name);

        if (!k || k->gone)
                return;
        k->gone = time(NULL);
        logs->dirty = true;
}

int64_t known_logs_highest(const struct known_logs *logs, const char *name) {
        const struct known_log *k = find(logs, name);

        return k ? k->highest : 0;
}

/* ---- the file */

static int out_of_range(json_error_t *problem, const char *name) {
        (void)snprintf(problem->text, sizeof(problem->text), "a value of %.64s is out of range", name);
        return -EBADMSG;
}

static int parse_gone(struct known_logs *logs, json_t *object, json_error_t *problem) {
        const char *name;
        json_t *entry;

        json_object_foreach(object, name, entry) {
                json_int_t highest, since;
                struct known_log *k;

                if (json_unpack_ex(entry, problem, 0, "{s:I s:I}", "highest", &highest, "since", &since) < 0)
                        return -EBADMSG;
                if (highest < 0 || since < 1)
                        return out_of_range(problem, name);
                k = get(logs, name);
                k->highest = highest;
                k->gone = since;
        }
        return 0;
}

static int parse(struct known_logs *logs, json_t *object, json_error_t *problem) {
        json_t *tenants, *gone = NULL, *entry;
        const char *name;
        int format;

        if (json_unpack_ex(object, problem, 0, "{s:i s:o s?o}", "format", &format, "tenants", &tenants, "gone", &gone) <
                0)
                return -EBADMSG;
        json_object_foreach(tenants, name, entry) {
                const char *incarnation, *recovery, *daemon;
                uint8_t ids[2][16];
                struct keyspace_known known = {};
                json_int_t seq, batch, revision, highest = 0;

                if (json_unpack_ex(entry, problem, 0, "{s:s s:s s:I s:s s:I s:I s?I}", "incarnation", &incarnation,
                            "recovery", &recovery, "seq", &seq, "daemon", &daemon, "batch", &batch, "revision",
                            &revision, "highest", &highest) < 0)
                        return -EBADMSG;
                if (uuid_parse(incarnation, ids[0]) < 0 || uuid_parse(recovery, ids[1]) < 0 ||
                        uuid_parse(daemon, known.end.origin.daemon) < 0 || seq < 1 || batch < 0 || revision < 0 ||
                        highest < 0)
                        return out_of_range(problem, name);
                known.end.seq = (uint64_t)seq;
                known.end.origin.batch = (uint64_t)batch;
                known.revision = revision;
                get(logs, name)->highest = highest;
                known_logs_set(logs, name, ids[0], ids[1], &known);
        }
        return parse_gone(logs, gone, problem);
}

struct known_logs *known_logs_new(const char *state_dir) {
        struct known_logs *logs = new0(struct known_logs);
        cleanup(json_decrefp) json_t *object = NULL;
        json_error_t problem = {};

        check(asprintf(&logs->path, "%s/known.json", state_dir) > 0);
        if (access(logs->path, F_OK) < 0)
                return logs;
        object = json_load_file(logs->path, JSON_REJECT_DUPLICATES, &problem);
        if (!object || parse(logs, object, &problem) < 0)
                log_warning("%s is not as it was written (%s): logs that went back are not noticed this time",
                        logs->path, problem.text);
        logs->dirty = false;
        return logs;
}

void known_logs_free(struct known_logs *logs) {
        struct known_log *k, *next;

        if (!logs)
                return;
        HASH_ITER(hh, logs->table, k, next)
                drop(logs, k);
        free(logs->path);
        free(logs);
}

static json_t *pack_log(const struct known_log *k) {
        char incarnation[UUID_TEXT_SIZE], recovery[UUID_TEXT_SIZE], daemon[UUID_TEXT_SIZE];

        uuid_print(k->incarnation, incarnation);
        uuid_print(k->recovery, recovery);
        uuid_print(k->known.end.origin.daemon, daemon);
        return json_pack("{s:s s:s s:I s:s s:I s:I s:I}", "incarnation", incarnation, "recovery", recovery, "seq",
                (json_int_t)k->known.end.seq, "daemon", daemon, "batch", (json_int_t)k->known.end.origin.batch,
                "revision", (json_int_t)k->known.revision, "highest", (json_int_t)k->highest);
}

static json_t *pack_gone(const struct known_log *k) {
        return json_pack("{s:I s:I}", "highest", (json_int_t)k->highest, "since", (json_int_t)k->gone);
}

int known_logs_save(struct known_logs *logs, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *beside = NULL;
        const int64_t now = time(NULL);
        struct known_log *k, *next;
        json_t *tenants, *gone;

        if (!logs->dirty)
                return 0;
        object = json_pack("{s:i s:{} s:{}}", "format", FORMAT, "tenants", "gone");
        tenants = json_object_get(object, "tenants");
        gone = json_object_get(object, "gone");
        check(tenants && gone);
        HASH_ITER(hh, logs->table, k, next) {
                if (k->gone && now - k->gone > KNOWN_GONE_SECONDS)
                        drop(logs, k);
                else
                        check(json_object_set_new(
                                      k->gone ? gone : tenants, k->name, k->gone ? pack_gone(k) : pack_log(k)) == 0);
        }
        check(asprintf(&beside, "%s.new", logs->path) > 0);
        if (json_dump_file(object, beside, JSON_INDENT(1) | JSON_SORT_KEYS) < 0 || rename(beside, logs->path) < 0)
                return error_set(reterr, -errno, "%s: %m", logs->path);
        logs->dirty = false;
        return 0;
}
