#pragma once

/*
 * The definitions in force, as the registry keeps them for all daemons: a generation, and a fingerprint of each DataStore and Tenant (of what it
 * says, not of where it stands, and without secrets). So a daemon can tell whether its files say the same, and if not, in which objects. Any thread; a
 * set owns its memory.
 */

#include "base/error.h"
#include "base/format.h"
#include "fleet/definition.h"

struct in_force_object {
        char *name; /* owned: "DataStore/NAME", "Tenant/NAME" */
        uint64_t fingerprint;
};
struct in_force {
        int64_t generation;              /* 0: nothing was put in force yet */
        char *host;                      /* owned: id of the host that put it in force */
        char *host_name;                 /* owned */
        int64_t since;                   /* seconds since 1970 */
        struct in_force_object *objects; /* owned, in order of name */
        size_t n_objects;
};
void in_force_done(struct in_force *f);
/* Takes over what is in *from. */
void in_force_move(struct in_force *to, struct in_force *from);

/* Of what the files say: generation 0. */
void in_force_of(const struct definitions *set, struct in_force *ret);
/* As stored. Owned by the caller. */
char *in_force_print(const struct in_force *f);
/* -EBADMSG with the reason. */
int in_force_parse(struct bytes json, struct in_force *ret, struct error *reterr);

/* The same objects that say the same. */
bool in_force_equal(const struct in_force *a, const struct in_force *b);
uint64_t in_force_fingerprint(const struct in_force *f);
/* NULL: not among them. */
const struct in_force_object *in_force_find(const struct in_force *f, const char *kind, const char *name);
/* A line for each object in which the files differ: 'Tenant "a": is in no file here', …. */
void in_force_differences(const struct in_force *force, const struct in_force *files,
        void (*visit)(void *userdata, const char *line), void *userdata);
