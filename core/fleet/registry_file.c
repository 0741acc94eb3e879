#include "fleet/registry_file.h"

/*
 * A file that cannot be read as it should is an error and never replaced, for a registry made anew would forget all tenants.
 */

#include <jansson.h>
#include <string.h>

#include "fleet/state_file.h"
#include "fleet/uuid.h"

#define FILE_NAME "registry.json"
#define FILE_MAX (64U << 10)

void registry_file_done(struct registry_file *file) {
        free(file->datastore);
        *file = (struct registry_file){};
}

int registry_file_read(const char *state_dir, struct registry_file *ret, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *text = NULL;
        const char *datastore, *incarnation, *id = NULL;
        struct registry_file file = {};
        json_error_t problem;
        int created, r;

        r = state_file_read(state_dir, FILE_NAME, FILE_MAX, &text, reterr);
        if (r < 0)
                return r;
        object = json_loads(text, JSON_REJECT_DUPLICATES, &problem);
        if (!object)
                return error_set(reterr, -EBADMSG, "%s/" FILE_NAME ":%d: %s", state_dir, problem.line, problem.text);
        if (json_unpack_ex(object, &problem, 0, "{s:s s:s s:b s?s}", "datastore", &datastore, "incarnation",
                    &incarnation, "created", &created, "id", &id) < 0)
                return error_set(reterr, -EBADMSG, "%s/" FILE_NAME ": %s", state_dir, problem.text);
        if (uuid_parse(incarnation, file.incarnation) < 0)
                return error_set(reterr, -EBADMSG, "%s/" FILE_NAME ": incarnation is no UUID", state_dir);
        if (id && uuid_parse(id, file.id) < 0)
                return error_set(reterr, -EBADMSG, "%s/" FILE_NAME ": id is no UUID", state_dir);
        file.has_id = id;
        file.created = created;
        file.datastore = strdup(datastore);
        if (!file.datastore)
                return -ENOMEM;

        *ret = file;
        return 0;
}

int registry_file_write(const char *state_dir, const struct registry_file *file, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(freep) char *text = NULL;
        char incarnation[UUID_TEXT_SIZE], id[UUID_TEXT_SIZE];

        uuid_print(file->incarnation, incarnation);
        uuid_print(file->id, id);
        object = json_pack("{s:s s:s s:b s:s*}", "datastore", file->datastore, "incarnation", incarnation, "created",
                (int)file->created, "id", file->has_id ? id : NULL);
        if (!object)
                return -ENOMEM;
        text = json_dumps(object, JSON_INDENT(2) | JSON_SORT_KEYS);
        if (!text)
                return -ENOMEM;
        return state_file_write(state_dir, FILE_NAME, text, reterr);
}
