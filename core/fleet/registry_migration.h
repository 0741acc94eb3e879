#pragma once

/*
 * The parts of a tenant's record that its moves leave: copied, freed, printed and parsed with it. Private to the registry's files and to those that write
 * them (fleet/migration*.c). Any thread; owns nothing but what it makes.
 */

#include <jansson.h>

#include "fleet/registry.h"

struct registry_migration *registry_migration_copy(const struct registry_migration *m);
void registry_migration_free(struct registry_migration *m);
struct registry_previous *registry_previous_copy(const struct registry_previous *p);
void registry_previous_free(struct registry_previous *p);
struct registry_moved *registry_moved_copy(const struct registry_moved *m);
void registry_moved_free(struct registry_moved *m);

/* Adds what there is to the record's object. */
void registry_moves_print(const struct registry_record *record, json_t *object);
/* Into the record. -EBADMSG with the reason. */
int registry_moves_parse(json_t *object, struct registry_record *record, struct error *reterr);
