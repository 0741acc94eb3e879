#include "fleet/in_force.h"

/*
 * As JSON with sorted keys: equal sets are equal bytes.
 */

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "keyspace/record.h"

#define IN_FORCE_FORMAT 1

void in_force_done(struct in_force *f) {
        for (size_t i = 0; i < f->n_objects; i++)
                free(f->objects[i].name);
        free(f->objects);
        free(f->host);
        free(f->host_name);
        *f = (struct in_force){};
}

void in_force_move(struct in_force *to, struct in_force *from) {
        in_force_done(to);
        *to = *from;
        *from = (struct in_force){};
}

static int compare(const void *a, const void *b) {
        return strcmp(((const struct in_force_object *)a)->name, ((const struct in_force_object *)b)->name);
}

static void add(struct in_force *f, const char *kind, const struct definition *d) {
        struct in_force_object *o = &f->objects[f->n_objects];

        if (!d->file)
                return; /* built in, everywhere */
        check(asprintf(&o->name, "%s/%s", kind, d->name) > 0);
        o->fingerprint = d->shared;
        f->n_objects++;
}

void in_force_of(const struct definitions *set, struct in_force *ret) {
        struct in_force f = {};

        f.objects = xcalloc(set->n_datastores + set->n_tenants, sizeof(*f.objects));
        for (size_t i = 0; i < set->n_datastores; i++)
                add(&f, "DataStore", &set->datastores[i]->base);
        for (size_t i = 0; i < set->n_tenants; i++)
                add(&f, "Tenant", &set->tenants[i]->base);
        qsort(f.objects, f.n_objects, sizeof(*f.objects), compare);
        *ret = f;
}

char *in_force_print(const struct in_force *f) {
        json_t *objects = json_object(), *object;
        char *text;

        check(objects);
        for (size_t i = 0; i < f->n_objects; i++) {
                char hex[17];

                snprintf(hex, sizeof(hex), "%016" PRIx64, f->objects[i].fingerprint);
                check(json_object_set_new(objects, f->objects[i].name, json_string(hex)) == 0);
        }
        object = json_pack("{s:i s:I s:s s:s s:I s:o}", "format", IN_FORCE_FORMAT, "generation",
                (json_int_t)f->generation, "host", f->host ? f->host : "", "hostName", f->host_name ? f->host_name : "",
                "since", (json_int_t)f->since, "objects", objects);
        check(object);
        text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
        check(text);
        json_decref(object);
        return text;
}

static int parse_objects(json_t *objects, struct in_force *f, struct error *reterr) {
        const char *name;
        json_t *value;

        f->objects = xcalloc(json_object_size(objects), sizeof(*f->objects));
        json_object_foreach(objects, name, value) {
                const char *hex = json_string_value(value);
                struct in_force_object *o = &f->objects[f->n_objects];
                char *end;

                if (!hex || strlen(hex) != 16)
                        return error_set(reterr, -EBADMSG, "the fingerprint of %s is none", name);
                o->fingerprint = strtoull(hex, &end, 16);
                if (*end)
                        return error_set(reterr, -EBADMSG, "the fingerprint of %s is none", name);
                o->name = strdup(name);
                check(o->name);
                f->n_objects++;
        }
        qsort(f->objects, f->n_objects, sizeof(*f->objects), compare);
        return 0;
}

int in_force_parse(struct bytes json, struct in_force *ret, struct error *reterr) {
        cleanup(json_decrefp) json_t *object = NULL;
        cleanup(in_force_done) struct in_force f = {};
        const char *host, *host_name;
        json_int_t generation, since;
        json_error_t problem;
        json_t *objects;
        int format, r;

        object = json_loadb((const char *)json.data, json.size, JSON_REJECT_DUPLICATES, &problem);
        if (!object)
                return error_set(reterr, -EBADMSG, "is no JSON: %s", problem.text);
        if (json_unpack_ex(object, &problem, 0, "{s:i}", "format", &format) < 0)
                return error_set(reterr, -EBADMSG, "%s", problem.text);
        if (format != IN_FORCE_FORMAT)
                return error_set(
                        reterr, -EBADMSG, "has format %d, and this version knows format %d", format, IN_FORCE_FORMAT);
        if (json_unpack_ex(object, &problem, 0, "{s:I s:s s:s s:I s:o}", "generation", &generation, "host", &host,
                    "hostName", &host_name, "since", &since, "objects", &objects) < 0)
                return error_set(reterr, -EBADMSG, "%s", problem.text);
        if (generation < 1 || !json_is_object(objects))
                return error_set(reterr, -EBADMSG, "generation or objects are none");
        r = parse_objects(objects, &f, reterr);
        if (r < 0)
                return r;
        f.generation = generation;
        f.since = since;
        f.host = strdup(host);
        f.host_name = strdup(host_name);
        check(f.host && f.host_name);

        *ret = f;
        f = (struct in_force){};
        return 0;
}

bool in_force_equal(const struct in_force *a, const struct in_force *b) {
        if (a->n_objects != b->n_objects)
                return false;
        for (size_t i = 0; i < a->n_objects; i++)
                if (strcmp(a->objects[i].name, b->objects[i].name) != 0 ||
                        a->objects[i].fingerprint != b->objects[i].fingerprint)
                        return false;
        return true;
}

uint64_t in_force_fingerprint(const struct in_force *f) {
        uint64_t h = f->n_objects;

        for (size_t i = 0; i < f->n_objects; i++)
                h = hash_name(f->objects[i].name, h ^ f->objects[i].fingerprint);
        return h;
}

const struct in_force_object *in_force_find(const struct in_force *f, const char *kind, const char *name) {
        cleanup(freep) char *full = NULL;
        struct in_force_object wanted;

        check(asprintf(&full, "%s/%s", kind, name) > 0);
        wanted.name = full;
        return f->n_objects ? bsearch(&wanted, f->objects, f->n_objects, sizeof(*f->objects), compare) : NULL;
}

static void tell(void (*visit)(void *userdata, const char *line), void *userdata, const struct in_force_object *o,
        const char *what) {
        const char *slash = strchr(o->name, '/');
        cleanup(freep) char *line = NULL;

        check(asprintf(&line, "%.*s \"%s\": %s", slash ? (int)(slash - o->name) : 0, o->name,
                      slash ? slash + 1 : o->name, what) > 0);
        visit(userdata, line);
}

void in_force_differences(const struct in_force *force, const struct in_force *files,
        void (*visit)(void *userdata, const char *line), void *userdata) {
        size_t i = 0, k = 0;

        while (i < force->n_objects || k < files->n_objects) {
                int order = i == force->n_objects ? 1
                        : k == files->n_objects   ? -1
                                                  : strcmp(force->objects[i].name, files->objects[k].name);

                if (order < 0)
                        tell(visit, userdata, &force->objects[i], "is in force, and in no file here");
                else if (order > 0)
                        tell(visit, userdata, &files->objects[k], "is in a file here, and not in force");
                else if (force->objects[i].fingerprint != files->objects[k].fingerprint)
                        tell(visit, userdata, &force->objects[i], "says something else here than what is in force");
                i += order <= 0;
                k += order >= 0;
        }
}
