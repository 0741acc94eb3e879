#pragma once

/*
 * What each kind of definition does, as definition.c uses it. Only inside fleet/, on the main thread.
 */

#include "fleet/definition_file.h"
#include "fleet/definition_node.h"
#include "fleet/definition.h"

/* Each reads a document into an object of its kind whose base has but the count yet. -EBADMSG with FILE:LINE: reason. */
int datastore_definition_parse(const struct document *document, const struct definitions_config *config,
        struct definition **ret, struct error *reterr);
int tenant_definition_parse(const struct document *document, const struct definitions_config *config,
        struct definition **ret, struct error *reterr);
int secret_definition_parse(const struct document *document, const struct definitions_config *config,
        struct definition **ret, struct error *reterr);

/* Frees what is the kind's own, then the object itself. */
void datastore_definition_free(struct datastore_definition *d);
DEFINE_FREEP(datastore_definition)
void tenant_definition_free(struct tenant_definition *t);
DEFINE_FREEP(tenant_definition)
void secret_definition_free(struct secret_definition *s);
DEFINE_FREEP(secret_definition)
void definition_base_done(struct definition *base);
struct definition *definition_base_ref(const struct definition *base);

/* The built-in datastore. */
int datastore_definition_new_embedded(const struct definitions_config *config, struct datastore_definition **ret);

/* Labels and annotations of the metadata, checked for their type. The annotation in which kubectl keeps a whole manifest, credentials
 * and all, is left out. */
int metadata_parse(const struct node_reader *reader, const struct node_at *top, struct definition_map *ret_labels,
        struct definition_map *ret_annotations);

/* The same text in another order of keys, or with nulls in it, has the same fingerprint. */
uint64_t node_fingerprint(const struct yaml_node *node, uint64_t seed);
/* Without the values of fields of this name, wherever they are; NULL: none. */
uint64_t node_fingerprint_without(const struct yaml_node *node, uint64_t seed, const char *field);
