/*
 * From the documents of a directory and the set in force to the next set. The rule that all here serves: a mistake changes
 * nothing. A document that is bad, or that contradicts another, leaves its object as it was; an object whose document is gone goes
 * too, unless its datastore is used, or the file in which it was cannot be read as a whole.
 *
 * Runs on the main thread. The set that comes out never changes; objects that were kept are shared with the set before.
 */

#include "fleet/definition.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fleet/definition_file.h"
#include "fleet/definition_merge.h"
#include "fleet/secret.h"

typedef int (*parse_fn)(
        const struct document *, const struct definitions_config *, struct definition **, struct error *);
static const parse_fn parsers[N_DEFINITION_KINDS] = {
        [DEFINITION_SECRET] = secret_definition_parse,
        [DEFINITION_DATASTORE] = datastore_definition_parse,
        [DEFINITION_TENANT] = tenant_definition_parse,
};

/* ---- entries */

static void kind_unref(enum definition_kind kind, struct definition *base) {
        if (!base)
                return;
        switch (kind) {
        case DEFINITION_SECRET:
                secret_definition_unref((struct secret_definition *)base);
                break;
        case DEFINITION_DATASTORE:
                datastore_definition_unref((struct datastore_definition *)base);
                break;
        case DEFINITION_TENANT:
                tenant_definition_unref((struct tenant_definition *)base);
                break;
        }
}

void entry_set_next(struct entry *e, struct definition *next) {
        kind_unref(e->kind, e->next);
        e->next = next;
}

void entry_keep(struct entry *e) {
        entry_set_next(e, e->previous ? definition_base_ref(e->previous) : NULL);
}

static struct entry *entry_get(struct merge *m, enum definition_kind kind, const char *name) {
        struct entry *e;

        HASH_FIND_STR(m->entries[kind], name, e);
        if (!e) {
                e = new0(struct entry);
                e->name = name;
                e->kind = kind;
                HASH_ADD_KEYPTR(hh, m->entries[kind], e->name, strlen(e->name), e);
        }
        return e;
}

static void add_previous(struct merge *m, enum definition_kind kind, void *array, size_t n) {
        struct definition **objects = array;

        for (size_t i = 0; i < n; i++)
                entry_get(m, kind, objects[i]->name)->previous = objects[i];
}

/* Of several documents of one name: the one that is in force if it can be told by its file, else the first. */
static int choose(struct merge *m) {
        for (size_t i = 0; i < m->list->n_documents; i++) {
                struct document *d = &m->list->documents[i];
                struct entry *e = entry_get(m, d->kind, d->name);

                if (!e->first)
                        e->first = e->chosen = d;
                else if (e->previous && e->previous->file && strcmp(e->chosen->file, e->previous->file) != 0 &&
                        strcmp(d->file, e->previous->file) == 0)
                        e->chosen = d;
        }

        for (size_t i = 0; i < m->list->n_documents; i++) {
                struct document *d = &m->list->documents[i];
                struct entry *e = entry_get(m, d->kind, d->name);
                int r;

                if (d == e->chosen || d->refused)
                        continue;
                r = problem_add(m->problems, true, d->file, d->line, "%s is defined already, at %s:%u", d->subject,
                        e->chosen->file, e->chosen->line);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* ---- use */

static bool is_declared(void *next, const char *tenant) {
        const struct merge *m = next;
        const struct entry *e;

        HASH_FIND_STR(m->entries[DEFINITION_TENANT], tenant, e);
        return e && e->next;
}

static bool is_wanted_by_tenant(const struct merge *m, const char *datastore) {
        for (const struct entry *e = m->entries[DEFINITION_TENANT]; e; e = e->hh.next) {
                const struct tenant_definition *t = (const struct tenant_definition *)e->next;

                if (t && t->datastore && strcmp(t->datastore, datastore) == 0)
                        return true;
        }
        return false;
}

static enum definition_use use_of(struct merge *m, const char *datastore) {
        if (is_wanted_by_tenant(m, datastore))
                return DEFINITION_USED;
        return m->config->use ? m->config->use(m->config->userdata, datastore, is_declared, m) : DEFINITION_UNUSED;
}

/* ---- one document */

static bool same_string(const char *a, const char *b) {
        return a == b || (a && b && strcmp(a, b) == 0);
}

/* What may not change while it is there. */
static int check_datastore_change(struct merge *m, const struct entry *e, const struct datastore_definition *new) {
        const struct datastore_definition *old = (const struct datastore_definition *)e->previous;
        const struct document *d = e->chosen;
        int r;

        if (!old)
                return 0;
        if (strcmp(old->driver, new->driver) != 0) {
                r = problem_add(m->problems, true, d->file, new->driver_line,
                        "%s: spec.driver: driver is immutable and cannot be changed after creation (it is %s)",
                        d->subject, old->driver);
                return r < 0 ? r : 1;
        }
        if (old->dedicated != new->dedicated && use_of(m, e->name) != DEFINITION_UNUSED) {
                r = problem_add(m->problems, true, d->file, new->spec_line,
                        "%s: spec.credentials: cannot be changed while the datastore is used (it is %s)", d->subject,
                        old->dedicated ? "Dedicated" : "Shared");
                return r < 0 ? r : 1;
        }
        if (!same_string(old->path, new->path) && use_of(m, e->name) != DEFINITION_UNUSED) {
                r = problem_add(m->problems, true, d->file, new->spec_line,
                        "%s: spec.path: cannot be changed while the datastore is used (it is %s)", d->subject,
                        old->path ? old->path : "none");
                return r < 0 ? r : 1;
        }
        return 0;
}

static int base_complete(const struct entry *e, struct definition *base) {
        const struct document *d = e->chosen;
        int r;

        base->n_refs = 1;
        base->line = d->line;
        base->generation = 1;
        if (e->previous)
                base->generation = e->previous->generation + (e->previous->fingerprint != base->fingerprint);
        r = string_copy(d->file, &base->file);
        if (r < 0)
                return r;
        if (asprintf(&base->source, "%s:%u", d->file, d->line) < 0) {
                base->source = NULL;
                return -ENOMEM;
        }
        return 0;
}

static int take_document(struct merge *m, struct entry *e) {
        cleanup(error_done) struct error why = {};
        struct definition *base = NULL;
        int r;

        if (e->chosen->refused) {
                entry_keep(e);
                return 0;
        }
        r = parsers[e->kind](e->chosen, m->config, &base, &why);
        if (r == -EBADMSG) {
                entry_keep(e);
                return problem_add_text(m->problems, true, error_text(&why));
        }
        if (r < 0)
                return r;

        entry_set_next(e, base);
        r = base_complete(e, base);
        if (r < 0)
                return r;
        if (e->kind == DEFINITION_DATASTORE) {
                r = check_datastore_change(m, e, (struct datastore_definition *)base);
                if (r < 0)
                        return r;
                if (r > 0)
                        entry_keep(e);
        }
        return 0;
}

/* No document: gone, or hidden behind what could not be read. */
static void take_absence(struct merge *m, struct entry *e) {
        const struct document_file *file;

        if (!e->previous->file)
                return; /* the built-in one: see add_embedded() */
        file = document_list_find_file(m->list, e->previous->file);
        if (m->list->doubtful || (file && file->doubtful))
                entry_keep(e);
        else
                e->vanished = true;
}

static int take_all(struct merge *m) {
        for (size_t kind = 0; kind < N_DEFINITION_KINDS; kind++)
                for (struct entry *e = m->entries[kind]; e; e = e->hh.next) {
                        int r = 0;

                        if (e->chosen)
                                r = take_document(m, e);
                        else
                                take_absence(m, e);
                        if (r < 0)
                                return r;
                }
        return 0;
}

/* ---- the whole */

/* A datastore that goes together with its tenants stays until they are deleted: a set is made again then. */
static int keep_used_datastores(struct merge *m) {
        for (struct entry *e = m->entries[DEFINITION_DATASTORE]; e; e = e->hh.next) {
                enum definition_use use;
                int r;

                if (!e->vanished)
                        continue;
                use = use_of(m, e->name);
                if (use == DEFINITION_UNUSED)
                        continue;
                entry_keep(e);
                if (use == DEFINITION_LEAVING)
                        continue;
                r = problem_add(m->problems, true, e->previous->file, e->previous->line,
                        "DataStore \"%s\": DataStoreStillUsed: its document was removed, but it is still used by one (or more) "
                        "tenants, and stays as it was",
                        e->name);
                if (r < 0)
                        return r;
        }
        return 0;
}

static bool wants(const struct entry *e, bool system) {
        const struct datastore_definition *d = (const struct datastore_definition *)e->next;

        return d && (system ? d->wants_system : d->wants_default);
}

static bool had(const struct merge *m, const struct entry *e, bool system) {
        const struct datastore_definition *d = (const struct datastore_definition *)e->previous;

        return m->previous && d && d == (system ? m->previous->system_datastore : m->previous->default_datastore);
}

/* At most one datastore is the default one, and one the system's: the one that is, else the first. */
static int check_only_one(struct merge *m, bool system) {
        const struct entry *one = NULL;

        for (const struct entry *e = m->entries[DEFINITION_DATASTORE]; e; e = e->hh.next)
                if (wants(e, system) && (!one || had(m, e, system)))
                        one = e;

        for (struct entry *e = m->entries[DEFINITION_DATASTORE]; e; e = e->hh.next) {
                const struct datastore_definition *d = (const struct datastore_definition *)e->next;
                int r;

                if (e == one || !wants(e, system))
                        continue;
                r = problem_add(m->problems, true, d->base.file, system ? d->system_line : d->default_line,
                        "DataStore \"%s\": spec.%s: DataStore \"%s\" is the %s one already, at %s", e->name,
                        system ? "system" : "default", one->name, system ? "system" : "default", one->next->source);
                if (r < 0)
                        return r;
                entry_keep(e);
                if (wants(e, system))
                        entry_set_next(e, NULL);
        }
        return 0;
}

static bool anyone_wants(const struct merge *m, bool system) {
        for (const struct entry *e = m->entries[DEFINITION_DATASTORE]; e; e = e->hh.next)
                if (wants(e, system))
                        return true;
        return false;
}

/* The built-in datastore is there where nobody else is the default or the system's, and where it is used; also in the place of
 * a bad document of its name, if none was good before. What is in another path cannot be mistaken for it: a keyspace
 * is known by its incarnation. */
static int add_embedded(struct merge *m) {
        struct entry *e = entry_get(m, DEFINITION_DATASTORE, DEFINITION_EMBEDDED);
        struct datastore_definition *d;
        int r;

        if (e->next)
                return 0;
        if (anyone_wants(m, false) && anyone_wants(m, true) && use_of(m, e->name) == DEFINITION_UNUSED)
                return 0;
        if (e->previous && !e->previous->file) {
                entry_keep(e);
                return 0;
        }
        r = datastore_definition_new_embedded(m->config, &d);
        if (r < 0)
                return r;
        if (e->previous)
                d->base.generation = e->previous->generation + 1;
        entry_set_next(e, &d->base);
        return 0;
}

static const struct entry *find_next(const struct merge *m, const char *datastore) {
        const struct entry *e;

        HASH_FIND_STR(m->entries[DEFINITION_DATASTORE], datastore, e);
        return e && e->next ? e : NULL;
}

bool entry_dangles(const struct merge *m, const struct entry *e) {
        const struct tenant_definition *t = (const struct tenant_definition *)e->next;

        return t && t->datastore && !find_next(m, t->datastore);
}

static int check_references(struct merge *m) {
        for (struct entry *e = m->entries[DEFINITION_TENANT]; e; e = e->hh.next) {
                const struct tenant_definition *t = (const struct tenant_definition *)e->next;
                int r;

                if (!entry_dangles(m, e))
                        continue;
                r = problem_add(m->problems, true, t->base.file, t->datastore_line,
                        "Tenant \"%s\": spec.datastore: there is no DataStore \"%s\"", e->name, t->datastore);
                if (r < 0)
                        return r;
                entry_keep(e);
                if (entry_dangles(m, e))
                        entry_set_next(e, NULL);
        }
        return 0;
}

static int check_secrets(struct merge *m, const struct definitions *set) {
        for (size_t i = 0; i < set->n_datastores && m->config->secrets; i++) {
                const struct datastore_definition *d = set->datastores[i];
                cleanup(error_done) struct error why = {};
                const char *reason;
                unsigned line;
                int r;

                if (secret_check(m->config->secrets, set, d, &reason, &line, &why) == 0)
                        continue;
                r = problem_add(m->problems, false, d->base.file, line, "DataStore \"%s\": %s: %s", d->base.name,
                        reason, error_text(&why));
                if (r < 0)
                        return r;
        }
        return 0;
}

static void visit_nothing(void *visitor, const void *data, size_t size) {
        (void)visitor;
        (void)data;
        (void)size;
}

static int check_authorities(struct merge *m, const struct definitions *set) {
        for (size_t i = 0; i < set->n_tenants && m->config->secrets; i++) {
                const struct tenant_definition *t = set->tenants[i];
                const struct {
                        const struct content_ref *ref;
                        const char *field;
                } refs[] = {{&t->client_ca, "certificate"}, {&t->client_revocations, "revocations"}};

                for (size_t j = 0; j < n_elements(refs); j++) {
                        cleanup(error_done) struct error why = {};
                        int r;

                        if (!refs[j].ref->present ||
                                secret_resolve_in(m->config->secrets, set, refs[j].ref, visit_nothing, NULL, &why) == 0)
                                continue;
                        r = problem_add(m->problems, false, t->base.file, refs[j].ref->line,
                                "Tenant \"%s\": spec.endpoint.clientCA.%s: %s", t->base.name, refs[j].field,
                                error_text(&why));
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* What is taken and shown, but kept to by nobody yet: whoever wrote it must not rely on it. */
static int tell_without_effect(struct merge *m, const struct definitions *set) {
        for (size_t i = 0; i < set->n_datastores; i++) {
                const struct datastore_definition *d = set->datastores[i];
                const struct {
                        unsigned line;
                        const char *field;
                } fields[] = {{d->capacity_line, "capacity"}, {d->taints_line, "taints"}};

                for (size_t j = 0; j < n_elements(fields); j++) {
                        int r;

                        if (!fields[j].line)
                                continue;
                        r = problem_add(m->problems, false, d->base.file, fields[j].line,
                                "DataStore \"%s\": spec.%s: is shown, but has no effect yet in this version",
                                d->base.name, fields[j].field);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* ---- the set */

static int object_compare(const void *a, const void *b) {
        return strcmp((*(const struct definition *const *)a)->name, (*(const struct definition *const *)b)->name);
}

static int collect(struct merge *m, enum definition_kind kind, void *ret_array, size_t *ret_n) {
        struct definition **objects;
        size_t n = 0;

        objects = calloc((size_t)HASH_COUNT(m->entries[kind]) + 1, sizeof(*objects));
        if (!objects)
                return -ENOMEM;
        for (struct entry *e = m->entries[kind]; e; e = e->hh.next)
                if (e->next)
                        objects[n++] = steal(e->next);
        if (n)
                qsort(objects, n, sizeof(*objects), object_compare);
        *(struct definition ***)ret_array = objects;
        *ret_n = n;
        return 0;
}

static int collect_all(struct merge *m, struct definitions *set) {
        int r;

        r = collect(m, DEFINITION_SECRET, &set->secrets, &set->n_secrets);
        if (r < 0)
                return r;
        r = collect(m, DEFINITION_DATASTORE, &set->datastores, &set->n_datastores);
        if (r < 0)
                return r;
        r = collect(m, DEFINITION_TENANT, &set->tenants, &set->n_tenants);
        if (r < 0)
                return r;

        for (size_t i = 0; i < set->n_datastores; i++) {
                if (set->datastores[i]->wants_default)
                        set->default_datastore = set->datastores[i];
                if (set->datastores[i]->wants_system)
                        set->system_datastore = set->datastores[i];
        }
        if (!set->default_datastore)
                set->default_datastore = definitions_find_datastore(set, DEFINITION_EMBEDDED);
        if (!set->system_datastore)
                set->system_datastore = definitions_find_datastore(set, DEFINITION_EMBEDDED);
        return 0;
}

static void merge_done(struct merge *m) {
        for (size_t kind = 0; kind < N_DEFINITION_KINDS; kind++) {
                struct entry *e, *next;

                HASH_ITER(hh, m->entries[kind], e, next) {
                        HASH_DEL(m->entries[kind], e);
                        kind_unref(e->kind, e->next);
                        free(e);
                }
        }
}

static int merge_run(struct merge *m) {
        static int (*const steps[])(struct merge *) = {choose, take_all, keep_used_datastores};
        static int (*const checks[])(struct merge *) = {
                add_embedded, check_references, check_ports, check_client_names};
        int r = 0;

        if (m->previous) {
                add_previous(m, DEFINITION_SECRET, m->previous->secrets, m->previous->n_secrets);
                add_previous(m, DEFINITION_DATASTORE, m->previous->datastores, m->previous->n_datastores);
                add_previous(m, DEFINITION_TENANT, m->previous->tenants, m->previous->n_tenants);
        }
        for (size_t i = 0; i < n_elements(steps) && r >= 0; i++)
                r = steps[i](m);
        if (r >= 0)
                r = check_only_one(m, false);
        if (r >= 0)
                r = check_only_one(m, true);
        for (size_t i = 0; i < n_elements(checks) && r >= 0; i++)
                r = checks[i](m);
        return r;
}

int definitions_load(const struct definitions_config *config, const struct definitions *previous,
        struct definitions **ret, struct definition_problems *problems) {
        cleanup(document_list_done) struct document_list list = {};
        cleanup(definitions_freep) struct definitions *set = NULL;
        struct merge m = {.config = config, .previous = previous, .list = &list, .problems = problems};
        int r;

        r = document_list_read(config->directory, &list, problems);
        if (r < 0)
                return r;

        set = new0(struct definitions);
        r = merge_run(&m);
        if (r >= 0)
                r = collect_all(&m, set);
        if (r >= 0)
                r = check_secrets(&m, set);
        if (r >= 0)
                r = check_authorities(&m, set);
        if (r >= 0)
                r = tell_without_effect(&m, set);
        merge_done(&m);
        if (r < 0)
                return r;

        /* Whatever the documents say: tenants without a datastore and the registry have a place to go. */
        check(set->default_datastore && set->system_datastore);
        *ret = steal(set);
        return 0;
}
