#pragma once

/*
 * The credentials of a DataStore: spec.basicAuth and spec.tlsConfig, each of them a ContentRef, and what Kamaji's CEL rules ask of
 * them. Used by definition_datastore.c and definition_tenant.c, on the main thread. Contents are wiped when they are freed and are never part of a reason.
 */

#include "fleet/definition.h"
#include "fleet/definition_node.h"

void content_ref_done(struct content_ref *ref);

/* Into d->secrets and what says which of them there are. -EBADMSG with FILE:LINE: reason. */
int credentials_parse(const struct node_reader *reader, const struct node_at *spec, struct datastore_definition *d);

/* Kamaji's rules on spec, in its order and words, once it is parsed. stokehold/v1alpha1 asks for no credentials, but for whole ones. */
int credentials_check(
        const struct node_reader *reader, const struct node_at *spec, const struct datastore_definition *d);

/* A mapping (spec.x.y) of two ContentRefs: the first is required once the mapping is there, the second may be. */
int content_refs_parse(const struct node_reader *reader, const struct node_at *at, const char *first,
        const char *second, struct content_ref *ret_first, struct content_ref *ret_second);
