#pragma once

/*
 * The next set of definitions while it is being made, for definition.c and definition_conflict.c alone. Main thread.
 */

#include <uthash.h>

#include "fleet/definition_kind.h"

/* One object in the making: what was in force, what its documents say, what comes next. */
struct entry {
        const char *name; /* borrowed from a document or from previous */
        enum definition_kind kind;
        const struct definition *previous; /* borrowed from the previous set; NULL: new */
        struct document *first, *chosen;   /* borrowed; NULL: no document */
        struct definition *next;           /* owned ref; NULL: not in the next set */
        bool vanished;
        UT_hash_handle hh;
};

struct merge {
        const struct definitions_config *config;
        const struct definitions *previous; /* may be NULL */
        const struct document_list *list;
        struct definition_problems *problems;
        struct entry *entries[N_DEFINITION_KINDS]; /* owned; in the order of documents, then of those without */
};

/* Takes over next. */
void entry_set_next(struct entry *e, struct definition *next);
/* Back to what was in force, if anything was. */
void entry_keep(struct entry *e);
/* The tenant names a datastore that the next set does not have. */
bool entry_dangles(const struct merge *m, const struct entry *e);

/* definition_conflict.c: of two tenants that want the same, one is refused. */
int check_ports(struct merge *m);
int check_client_names(struct merge *m);
