#include "fleet/registry_copy.h"

/*
 * One JSON object, replaced as a whole. Records are in it as the registry stores them.
 */

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "fleet/state_file.h"
#include "fleet/uuid.h"

#define FILE_NAME "registry-copy.json"
#define FILE_MAX (256U << 20)
#define COPY_FORMAT 1

void registry_copy_done(struct registry_copy *copy) {
        for (size_t i = 0; i < copy->n_records; i++)
                registry_record_free(copy->records[i]);
        free(copy->records);
        free(copy->datastore);
        in_force_done(&copy->in_force);
        *copy = (struct registry_copy){};
}

static json_t *loaded(const char *text) {
        json_t *object = json_loads(text, 0, NULL);

        check(object);
        return object;
}

int registry_copy_write(const char *state_dir, const struct registry_copy *copy, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *text = NULL;
        char id[UUID_TEXT_SIZE], incarnation[UUID_TEXT_SIZE], hex[17];
        json_t *tenants = json_object(), *definitions = NULL;

        check(tenants);
        for (size_t i = 0; i < copy->n_records; i++) {
                cleanup(freep) char *record = registry_record_print(copy->records[i], copy->format);

                check(json_object_set_new(tenants, copy->records[i]->name, loaded(record)) == 0);
        }
        if (copy->in_force.generation) {
                cleanup(freep) char *printed = in_force_print(&copy->in_force);

                definitions = loaded(printed);
        }
        uuid_print(copy->id, id);
        uuid_print(copy->incarnation, incarnation);
        snprintf(hex, sizeof(hex), "%016" PRIx64, copy->agreed_fingerprint);
        object = json_pack("{s:i s:s s:s s:s s:i s:I s:I s:I s:s s:o s:o*}", "format", COPY_FORMAT, "datastore",
                copy->datastore, "registry", id, "incarnation", incarnation, "formatInUse", (int)copy->format,
                "revision", (json_int_t)copy->revision, "saved", (json_int_t)copy->saved, "agreedGeneration",
                (json_int_t)copy->agreed_generation, "agreedFingerprint", hex, "tenants", tenants, "definitions",
                definitions);
        if (!object)
                return -ENOMEM;
        text = json_dumps(object, JSON_INDENT(1) | JSON_SORT_KEYS);
        if (!text)
                return -ENOMEM;
        return state_file_write(state_dir, FILE_NAME, text, reterr);
}

static int bad(struct error *reterr, const char *state_dir, const char *reason) {
        return error_set(reterr, -EBADMSG, "%s/" FILE_NAME ": %s", state_dir, reason);
}

static int parse_records(
        json_t *tenants, const struct format_range *formats, struct registry_copy *copy, struct error *reterr) {
        const char *name;
        json_t *value;

        copy->records = xcalloc(json_object_size(tenants), sizeof(*copy->records));
        json_object_foreach(tenants, name, value) {
                cleanup(freep) char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
                int r;

                check(text);
                r = registry_record_parse(
                        bytes_of_string(name), bytes_of_string(text), formats, &copy->records[copy->n_records], reterr);
                if (r < 0)
                        return r;
                copy->n_records++;
        }
        return 0;
}

int registry_copy_read(
        const char *state_dir, const struct format_range *formats, struct registry_copy *ret, struct error *reterr) {
        cleanup(registry_copy_done) struct registry_copy copy = {};
        cleanup(error_done) struct error err = {};
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *text = NULL;
        const char *datastore, *id, *incarnation, *fingerprint;
        json_int_t revision, saved, generation;
        json_t *tenants, *definitions = NULL;
        json_error_t problem;
        int format, in_use, r;

        r = state_file_read(state_dir, FILE_NAME, FILE_MAX, &text, reterr);
        if (r < 0)
                return r;
        object = json_loads(text, JSON_REJECT_DUPLICATES, &problem);
        if (!object)
                return bad(reterr, state_dir, problem.text);
        if (json_unpack_ex(object, &problem, 0, "{s:i s:s s:s s:s s:i s:I s:I s:I s:s s:o s?o}", "format", &format,
                    "datastore", &datastore, "registry", &id, "incarnation", &incarnation, "formatInUse", &in_use,
                    "revision", &revision, "saved", &saved, "agreedGeneration", &generation, "agreedFingerprint",
                    &fingerprint, "tenants", &tenants, "definitions", &definitions) < 0)
                return bad(reterr, state_dir, problem.text);
        if (format != COPY_FORMAT || in_use < 1 || !format_is_known(formats, (uint32_t)in_use))
                return bad(reterr, state_dir, "is of a version that this one does not know");
        if (uuid_parse(id, copy.id) < 0 || uuid_parse(incarnation, copy.incarnation) < 0)
                return bad(reterr, state_dir, "an id is no UUID");
        if (!json_is_object(tenants) || parse_records(tenants, formats, &copy, &err) < 0)
                return bad(reterr, state_dir, error_text(&err));
        if (definitions) {
                cleanup(freep) char *printed = json_dumps(definitions, JSON_COMPACT | JSON_ENCODE_ANY);

                check(printed);
                if (in_force_parse(bytes_of_string(printed), &copy.in_force, &err) < 0)
                        return bad(reterr, state_dir, error_text(&err));
        }
        copy.datastore = strdup(datastore);
        check(copy.datastore);
        copy.format = (uint32_t)in_use;
        copy.revision = revision;
        copy.saved = saved;
        copy.agreed_generation = generation;
        copy.agreed_fingerprint = strtoull(fingerprint, NULL, 16);

        *ret = copy;
        copy = (struct registry_copy){};
        return 0;
}
