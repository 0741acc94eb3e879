#include "fleet/registry.h"

/*
 * A tenant's record as JSON. Written with sorted keys, so that equal records are equal bytes: a write whose outcome was
 * not known is recognised by that. Each record carries the number of the format that it was written in; a format that this version cannot read is refused by
 * that number alone. Any thread; owns nothing but the record that it makes.
 */

#include <jansson.h>

#include "fleet/registry_migration.h"
#include "fleet/uuid.h"

static const char *const phase_names[] = {
        [REGISTRY_PROVISIONING] = "Provisioning",
        [REGISTRY_READY] = "Ready",
        [REGISTRY_RECOVERING] = "Recovering",
        [REGISTRY_DELETING] = "Deleting",
        [REGISTRY_INSTALLING] = "Installing",
};

const char *registry_phase_name(enum registry_phase phase) {
        check((size_t)phase < n_elements(phase_names));
        return phase_names[phase];
}

struct registry_record *registry_record_copy(const struct registry_record *record) {
        struct registry_record *copy = new0(struct registry_record);

        *copy = *record;
        copy->name = xstrdup(record->name);
        copy->datastore = xstrdup(record->datastore);
        copy->source = xstrdup(record->source);
        copy->host = xstrdup(record->host);
        copy->host_name = xstrdup(record->host_name);
        copy->migration = registry_migration_copy(record->migration);
        copy->previous = registry_previous_copy(record->previous);
        copy->moved = registry_moved_copy(record->moved);
        copy->client_names = xcalloc(record->n_client_names, sizeof(*copy->client_names));
        for (size_t i = 0; i < record->n_client_names; i++)
                copy->client_names[i] = xstrdup(record->client_names[i]);
        return copy;
}

void registry_record_free(struct registry_record *record) {
        if (!record)
                return;
        free(record->name);
        free(record->datastore);
        free(record->source);
        free(record->host);
        free(record->host_name);
        registry_migration_free(record->migration);
        registry_previous_free(record->previous);
        registry_moved_free(record->moved);
        for (size_t i = 0; i < record->n_client_names; i++)
                free(record->client_names[i]);
        free(record->client_names);
        free(record);
}

char *registry_record_print(const struct registry_record *record, uint32_t format) {
        bool has_host = record->host && record->host[0];
        char incarnation[UUID_TEXT_SIZE], recovery[UUID_TEXT_SIZE];
        json_t *object;
        char *text;

        uuid_print(record->incarnation, incarnation);
        object = json_pack("{s:i s:s s:s s:s s:I s:s s:b s:s s:I s:s* s:s*}", "format", (int)format, "datastore",
                record->datastore, "incarnation", incarnation, "phase", registry_phase_name(record->phase), "quota",
                (json_int_t)record->quota_bytes, "source", record->source, "fromFile", (int)record->from_file,
                "deletionPolicy", record->retain ? "Retain" : "Delete", "created", (json_int_t)record->created, "host",
                has_host ? record->host : NULL, "hostName", has_host ? record->host_name : NULL);
        check(object);
        if (record->recover_above) {
                uuid_print(record->recovery, recovery);
                check(json_object_set_new(object, "recovery", json_string(recovery)) == 0 &&
                        json_object_set_new(object, "recoverAbove", json_integer(record->recover_above)) == 0);
        }
        if (record->phase == REGISTRY_INSTALLING) {
                uuid_print(record->installation, incarnation);
                uuid_print(record->installer, recovery);
                check(json_object_set_new(object, "installation", json_string(incarnation)) == 0 &&
                        json_object_set_new(object, "installer", json_string(recovery)) == 0);
        }
        registry_moves_print(record, object);
        if (record->n_client_names) {
                json_t *names = json_array();

                for (size_t i = 0; i < record->n_client_names; i++)
                        check(json_array_append_new(names, json_string(record->client_names[i])) == 0);
                check(json_object_set_new(object, "clientNames", names) == 0);
        }
        text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
        check(text);
        json_decref(object);
        return text;
}

static int parse_client_names(json_t *names, struct registry_record *record, struct error *reterr) {
        if (!names)
                return 0;
        if (!json_is_array(names))
                return error_set(reterr, -EBADMSG, "clientNames is no list");
        record->client_names = xcalloc(json_array_size(names), sizeof(*record->client_names));
        for (size_t i = 0; i < json_array_size(names); i++) {
                const char *name = json_string_value(json_array_get(names, i));

                if (!name)
                        return error_set(reterr, -EBADMSG, "clientNames has what is no string");
                record->client_names[record->n_client_names++] = xstrdup(name);
        }
        return 0;
}

int registry_record_parse(struct bytes name, struct bytes json, const struct format_range *formats,
        struct registry_record **ret, struct error *reterr) {
        cleanup(registry_record_freep) struct registry_record *record = NULL;
        cleanup(json_decrefp) json_t *object = NULL;
        const char *datastore, *incarnation, *phase, *source, *policy, *host = NULL, *host_name = NULL;
        const char *recovery = NULL, *installation = NULL, *installer = NULL;
        json_int_t quota, created, recover_above = 0;
        json_error_t problem;
        int format, from_file, r;

        object = json_loadb((const char *)json.data, json.size, JSON_REJECT_DUPLICATES, &problem);
        if (!object)
                return error_set(reterr, -EBADMSG, "is no JSON: %s", problem.text);
        if (json_unpack_ex(object, &problem, 0, "{s:i}", "format", &format) < 0)
                return error_set(reterr, -EBADMSG, "%s", problem.text);
        if (format < 0 || !format_is_known(formats, (uint32_t)format))
                return error_set(reterr, -EBADMSG, "has format %d, and this version knows %u to %u", format,
                        formats->oldest, formats->current);
        if (json_unpack_ex(object, &problem, 0, "{s:s s:s s:s s:I s:s s:b s:s s:I s?s s?s s?s s?I s?s s?s}",
                    "datastore", &datastore, "incarnation", &incarnation, "phase", &phase, "quota", &quota, "source",
                    &source, "fromFile", &from_file, "deletionPolicy", &policy, "created", &created, "host", &host,
                    "hostName", &host_name, "recovery", &recovery, "recoverAbove", &recover_above, "installation",
                    &installation, "installer", &installer) < 0)
                return error_set(reterr, -EBADMSG, "%s", problem.text);

        record = new0(struct registry_record);
        if (uuid_parse(incarnation, record->incarnation) < 0)
                return error_set(reterr, -EBADMSG, "incarnation is no UUID");
        record->phase = (enum registry_phase)n_elements(phase_names);
        for (size_t i = 0; i < n_elements(phase_names); i++)
                if (strcmp(phase, phase_names[i]) == 0)
                        record->phase = (enum registry_phase)i;
        if ((size_t)record->phase == n_elements(phase_names))
                return error_set(reterr, -EBADMSG, "phase \"%s\" is not known", phase);
        if (recovery && (uuid_parse(recovery, record->recovery) < 0 || recover_above <= 0))
                return error_set(reterr, -EBADMSG, "recovery is no UUID, or above no revision");
        if (record->phase == REGISTRY_INSTALLING &&
                (!installation || uuid_parse(installation, record->installation) < 0 || !installer ||
                        uuid_parse(installer, record->installer) < 0))
                return error_set(reterr, -EBADMSG, "installation or installer is no UUID");
        if (quota < 0)
                return error_set(reterr, -EBADMSG, "quota is negative");
        if (strcmp(policy, "Retain") != 0 && strcmp(policy, "Delete") != 0)
                return error_set(reterr, -EBADMSG, "deletionPolicy \"%s\" is not known", policy);

        r = parse_client_names(json_object_get(object, "clientNames"), record, reterr);
        if (r < 0)
                return r;

        record->name = strndup((const char *)name.data, name.size);
        check(record->name);
        record->datastore = xstrdup(datastore);
        record->source = xstrdup(source);
        record->host = xstrdup(host);
        record->host_name = xstrdup(host_name);
        record->quota_bytes = (uint64_t)quota;
        record->from_file = from_file;
        record->retain = strcmp(policy, "Retain") == 0;
        record->created = created;
        record->format = (uint32_t)format;
        record->recover_above = recover_above;
        r = registry_moves_parse(object, record, reterr);
        if (r < 0)
                return r;

        *ret = steal(record);
        return 0;
}
