#include "fleet/registry_migration.h"

/*
 * A record without moves has none of these fields: it is the same bytes as before there were any.
 */

#include <string.h>

#include "fleet/uuid.h"

static const char *const phase_names[] = {
        [MIGRATION_PREPARING] = "Preparing",
        [MIGRATION_COPYING] = "Copying",
        [MIGRATION_SEALING] = "Sealing",
        [MIGRATION_ABORTING] = "Aborting",
};

const char *migration_phase_name(enum migration_phase phase) {
        check((size_t)phase < n_elements(phase_names));
        return phase_names[phase];
}

struct registry_migration *registry_migration_copy(const struct registry_migration *m) {
        struct registry_migration *copy;

        if (!m)
                return NULL;
        copy = new0(struct registry_migration);
        *copy = *m;
        copy->datastore = xstrdup(m->datastore);
        copy->host = xstrdup(m->host);
        copy->host_name = xstrdup(m->host_name);
        copy->reason = xstrdup(m->reason);
        return copy;
}

void registry_migration_free(struct registry_migration *m) {
        if (!m)
                return;
        free(m->datastore);
        free(m->host);
        free(m->host_name);
        free(m->reason);
        free(m);
}

struct registry_previous *registry_previous_copy(const struct registry_previous *p) {
        struct registry_previous *copy;

        if (!p)
                return NULL;
        copy = new0(struct registry_previous);
        *copy = *p;
        copy->datastore = xstrdup(p->datastore);
        copy->host = xstrdup(p->host);
        copy->host_name = xstrdup(p->host_name);
        return copy;
}

void registry_previous_free(struct registry_previous *p) {
        if (!p)
                return;
        free(p->datastore);
        free(p->host);
        free(p->host_name);
        free(p);
}

struct registry_moved *registry_moved_copy(const struct registry_moved *m) {
        struct registry_moved *copy;

        if (!m)
                return NULL;
        copy = new0(struct registry_moved);
        *copy = *m;
        copy->from = xstrdup(m->from);
        copy->to = xstrdup(m->to);
        copy->reason = xstrdup(m->reason);
        return copy;
}

void registry_moved_free(struct registry_moved *m) {
        if (!m)
                return;
        free(m->from);
        free(m->to);
        free(m->reason);
        free(m);
}

/* ---- as JSON */

static void set(json_t *object, const char *key, json_t *value) {
        check(value);
        check(json_object_set_new(object, key, value) == 0);
}

static const char *text_of(const uint8_t id[16], char text[UUID_TEXT_SIZE]) {
        uuid_print(id, text);
        return text;
}

void registry_moves_print(const struct registry_record *record, json_t *object) {
        const struct registry_migration *m = record->migration;
        const struct registry_previous *p = record->previous;
        const struct registry_moved *moved = record->moved;
        char a[UUID_TEXT_SIZE], b[UUID_TEXT_SIZE], c[UUID_TEXT_SIZE];
        static const uint8_t none[16];
        bool has_host = p && p->host && p->host[0];

        if (memcmp(record->cluster, none, 16) != 0 && memcmp(record->cluster, record->incarnation, 16) != 0)
                set(object, "cluster", json_string(text_of(record->cluster, a)));
        if (m)
                set(object, "migration",
                        json_pack("{s:s s:s s:b s:s s:s s:s s:I s:I s:s s:s* s:s*}", "phase",
                                migration_phase_name(m->phase), "id", text_of(m->id, a), "back", (int)m->back,
                                "datastore", m->datastore, "incarnation", text_of(m->incarnation, b), "owner",
                                text_of(m->owner, c), "started", (json_int_t)m->started, "retention",
                                (json_int_t)m->retention, "reason", m->reason ? m->reason : "", "host",
                                m->host && m->host[0] ? m->host : NULL, "hostName",
                                m->host && m->host[0] ? m->host_name : NULL));
        if (m && m->restore)
                set(json_object_get(object, "migration"), "restore", json_true());
        if (p)
                set(object, "previous",
                        json_pack("{s:s s:s s:s s:b s:I s:s* s:s*}", "datastore", p->datastore, "incarnation",
                                text_of(p->incarnation, a), "migration", text_of(p->migration, b), "back", (int)p->back,
                                "until", (json_int_t)p->until, "host", has_host ? p->host : NULL, "hostName",
                                has_host ? p->host_name : NULL));
        if (p && p->restored)
                set(json_object_get(object, "previous"), "restored", json_true());
        if (moved)
                set(object, "moved",
                        json_pack("{s:s s:s s:s s:s s:I s:I s:I s:I s:I}", "id", text_of(moved->id, a), "from",
                                moved->from, "to", moved->to, "reason", moved->reason ? moved->reason : "", "started",
                                (json_int_t)moved->started, "finished", (json_int_t)moved->finished, "bytes",
                                (json_int_t)moved->bytes, "records", (json_int_t)moved->records, "holdUs",
                                (json_int_t)moved->hold_us));
}

static int parse_migration(json_t *object, struct registry_record *record, struct error *reterr) {
        const char *phase, *id, *datastore, *incarnation, *owner, *reason, *host = NULL, *host_name = NULL;
        struct registry_migration *m;
        json_int_t started, retention;
        json_error_t problem;
        int back;

        if (json_unpack_ex(object, &problem, 0, "{s:s s:s s:b s:s s:s s:s s:I s:I s:s s?s s?s}", "phase", &phase, "id",
                    &id, "back", &back, "datastore", &datastore, "incarnation", &incarnation, "owner", &owner,
                    "started", &started, "retention", &retention, "reason", &reason, "host", &host, "hostName",
                    &host_name) < 0)
                return error_set(reterr, -EBADMSG, "migration: %s", problem.text);
        m = record->migration = new0(struct registry_migration);
        m->datastore = xstrdup(datastore);
        m->reason = xstrdup(reason);
        m->host = xstrdup(host);
        m->host_name = xstrdup(host_name);
        m->back = back;
        m->restore = json_is_true(json_object_get(object, "restore"));
        m->started = started;
        m->retention = retention;
        if (uuid_parse(id, m->id) < 0 || uuid_parse(incarnation, m->incarnation) < 0 || uuid_parse(owner, m->owner) < 0)
                return error_set(reterr, -EBADMSG, "migration: an id is no UUID");
        m->phase = (enum migration_phase)n_elements(phase_names);
        for (size_t i = 0; i < n_elements(phase_names); i++)
                if (strcmp(phase, phase_names[i]) == 0)
                        m->phase = (enum migration_phase)i;
        if ((size_t)m->phase == n_elements(phase_names))
                return error_set(reterr, -EBADMSG, "migration: phase \"%s\" is not known", phase);
        return 0;
}

static int parse_previous(json_t *object, struct registry_record *record, struct error *reterr) {
        const char *datastore, *incarnation, *migration, *host = NULL, *host_name = NULL;
        struct registry_previous *p;
        json_error_t problem;
        json_int_t until;
        int back;

        if (json_unpack_ex(object, &problem, 0, "{s:s s:s s:s s:b s:I s?s s?s}", "datastore", &datastore, "incarnation",
                    &incarnation, "migration", &migration, "back", &back, "until", &until, "host", &host, "hostName",
                    &host_name) < 0)
                return error_set(reterr, -EBADMSG, "previous: %s", problem.text);
        p = record->previous = new0(struct registry_previous);
        p->datastore = xstrdup(datastore);
        p->host = xstrdup(host);
        p->host_name = xstrdup(host_name);
        p->until = until;
        p->back = back;
        p->restored = json_is_true(json_object_get(object, "restored"));
        if (uuid_parse(incarnation, p->incarnation) < 0 || uuid_parse(migration, p->migration) < 0)
                return error_set(reterr, -EBADMSG, "previous: an id is no UUID");
        return 0;
}

static int parse_moved(json_t *object, struct registry_record *record, struct error *reterr) {
        json_int_t started, finished, bytes, records, hold;
        const char *id, *from, *to, *reason;
        struct registry_moved *m;
        json_error_t problem;

        if (json_unpack_ex(object, &problem, 0, "{s:s s:s s:s s:s s:I s:I s:I s:I s:I}", "id", &id, "from", &from, "to",
                    &to, "reason", &reason, "started", &started, "finished", &finished, "bytes", &bytes, "records",
                    &records, "holdUs", &hold) < 0)
                return error_set(reterr, -EBADMSG, "moved: %s", problem.text);
        m = record->moved = new0(struct registry_moved);
        m->from = xstrdup(from);
        m->to = xstrdup(to);
        m->reason = xstrdup(reason);
        m->started = started;
        m->finished = finished;
        m->bytes = bytes;
        m->records = records;
        m->hold_us = hold;
        if (uuid_parse(id, m->id) < 0)
                return error_set(reterr, -EBADMSG, "moved: id is no UUID");
        return 0;
}

int registry_moves_parse(json_t *object, struct registry_record *record, struct error *reterr) {
        static const struct {
                const char *key;
                int (*parse)(json_t *object, struct registry_record *record, struct error *reterr);
        } parts[] = {{"migration", parse_migration}, {"previous", parse_previous}, {"moved", parse_moved}};
        const char *cluster = json_string_value(json_object_get(object, "cluster"));

        memcpy(record->cluster, record->incarnation, 16);
        if (cluster && uuid_parse(cluster, record->cluster) < 0)
                return error_set(reterr, -EBADMSG, "cluster is no UUID");
        for (size_t i = 0; i < n_elements(parts); i++) {
                json_t *part = json_object_get(object, parts[i].key);
                int r = part ? parts[i].parse(part, record, reterr) : 0;

                if (r < 0)
                        return r;
        }
        return 0;
}
