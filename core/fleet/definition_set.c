/*
 * Sets of definitions and their objects once they are made: counting, finding, names; and what all kinds have in common,
 * metadata and fingerprints. References may be taken and given back on any thread, the rest only looks.
 */

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fleet/definition_kind.h"

/* ---- counting */

struct definition *definition_base_ref(const struct definition *base) {
        struct definition *b = (struct definition *)base;

        __atomic_add_fetch(&b->n_refs, 1, __ATOMIC_RELAXED);
        return b;
}

static bool base_unref(struct definition *base) {
        return __atomic_sub_fetch(&base->n_refs, 1, __ATOMIC_ACQ_REL) == 0;
}

void definition_base_done(struct definition *base) {
        free(base->name);
        free(base->file);
        free(base->source);
}

/* base is the first member of all three. */
#define DEFINE_COUNTED(type)                                                                                           \
        struct type *type##_ref(const struct type *d) {                                                                \
                return (struct type *)definition_base_ref(&d->base);                                                   \
        }                                                                                                              \
        void type##_unref(const struct type *d) {                                                                      \
                if (d && base_unref(&((struct type *)d)->base))                                                        \
                        type##_free((struct type *)d);                                                                 \
        }
DEFINE_COUNTED(datastore_definition)
DEFINE_COUNTED(tenant_definition)
DEFINE_COUNTED(secret_definition)

void definitions_free(struct definitions *set) {
        if (!set)
                return;
        for (size_t i = 0; i < set->n_datastores; i++)
                datastore_definition_unref(set->datastores[i]);
        for (size_t i = 0; i < set->n_tenants; i++)
                tenant_definition_unref(set->tenants[i]);
        for (size_t i = 0; i < set->n_secrets; i++)
                secret_definition_unref(set->secrets[i]);
        free(set->datastores);
        free(set->tenants);
        free(set->secrets);
        free(set);
}

/* ---- finding */

static int find_compare(const void *name, const void *element) {
        return strcmp(name, (*(const struct definition *const *)element)->name);
}

static const void *find(const char *name, const void *array, size_t n) {
        const void *p = n ? bsearch(name, array, n, sizeof(void *), find_compare) : NULL;

        return p ? *(const void *const *)p : NULL;
}

const struct datastore_definition *definitions_find_datastore(const struct definitions *set, const char *name) {
        return find(name, set->datastores, set->n_datastores);
}

const struct tenant_definition *definitions_find_tenant(const struct definitions *set, const char *name) {
        return find(name, set->tenants, set->n_tenants);
}

const struct secret_definition *definitions_find_secret(
        const struct definitions *set, const char *namespace, const char *name) {
        cleanup(freep) char *full = NULL;

        if (asprintf(&full, "%s/%s", namespace, name) < 0) {
                full = NULL;
                return NULL;
        }
        return find(full, set->secrets, set->n_secrets);
}

/* ---- names */

/* Letters, digits and dashes, with a letter or digit at both ends. */
static bool is_label(const char *s, size_t n) {
        if (n == 0 || n > 63 || s[0] == '-' || s[n - 1] == '-')
                return false;
        for (size_t i = 0; i < n; i++)
                if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-'))
                        return false;
        return true;
}

bool tenant_name_is_valid(const char *name) {
        return is_label(name, strlen(name));
}

bool datastore_name_is_valid(const char *name) {
        if (strlen(name) > 253)
                return false;
        for (;;) {
                size_t n = strcspn(name, ".");

                if (!is_label(name, n))
                        return false;
                if (name[n] == '\0')
                        return true;
                name += n + 1;
        }
}

/* ---- metadata */

#define LAST_APPLIED "kubectl.kubernetes.io/last-applied-configuration"

/* Kubernetes' ObjectMeta. What the server fills in means nothing here. */
static const char *const metadata_fields[] = {"name", "generateName", "namespace", "selfLink", "uid", "resourceVersion",
        "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations",
        "ownerReferences", "finalizers", "managedFields", "clusterName", NULL};

int metadata_parse(const struct node_reader *reader, const struct node_at *top, struct definition_map *ret_labels,
        struct definition_map *ret_annotations) {
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "metadata", "metadata", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, metadata_fields, NULL);
        if (r < 0)
                return r;
        r = node_map(reader, &at, "labels", ret_labels);
        if (r < 0)
                return r;
        r = node_map(reader, &at, "annotations", ret_annotations);
        if (r < 0)
                return r;

        for (size_t i = 0; i < ret_annotations->n_pairs; i++) {
                struct definition_pair *p = &ret_annotations->pairs[i];

                if (strcmp(p->name, LAST_APPLIED) != 0)
                        continue;
                explicit_bzero(p->value, strlen(p->value));
                free(p->name);
                free(p->value);
                memmove(p, p + 1, (--ret_annotations->n_pairs - i) * sizeof(*p));
                break;
        }
        return 0;
}

/* ---- fingerprints */

static uint64_t hash_text(const char *text, uint64_t seed) {
        return XXH3_64bits_withSeed(text, strlen(text), seed);
}

uint64_t node_fingerprint_without(const struct yaml_node *node, uint64_t seed, const char *field) {
        uint64_t h = XXH3_64bits_withSeed(&seed, sizeof(seed), 0);

        if (!node || yaml_is_null(node))
                return h;
        h += (uint64_t)node->kind + 1;
        switch (node->kind) {
        case YAML_SCALAR:
                return hash_text(node->text, h);
        case YAML_SEQUENCE:
                for (size_t i = 0; i < node->n_items; i++)
                        h = node_fingerprint_without(node->items[i], h, field);
                return h;
        case YAML_MAPPING:
                /* A sum, so that the order is nothing to it. */
                for (size_t i = 0; i < node->n_items; i++) {
                        uint64_t key = hash_text(node->keys[i]->text, 0);

                        if (yaml_is_null(node->items[i]))
                                continue;
                        h += field && strcmp(node->keys[i]->text, field) == 0
                                ? key
                                : node_fingerprint_without(node->items[i], key, field);
                }
                return h;
        }
        return h;
}

uint64_t node_fingerprint(const struct yaml_node *node, uint64_t seed) {
        return node_fingerprint_without(node, seed, NULL);
}
