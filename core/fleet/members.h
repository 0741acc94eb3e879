#pragma once

/*
 * The daemons that share the registry: each keeps a record under /daemons/HOST, bound to a lease that it renews, so that a daemon that has died is
 * known to be dead after half a minute. Renewing is one small record every ten seconds. Where one daemon alone can have the registry open nothing is
 * written, and this daemon is the only member. Belongs to the main loop, as do all callbacks.
 */

#include "fleet/host.h"
#include "fleet/registry.h"

struct members;

struct members_config {
        struct loop *loop; /* borrowed, as the rest */
        struct registry *registry;
        const struct host *host;
        const char *version;
        uint8_t daemon[16];
        /* Somebody has come or gone, or this daemon's record was written (for the first time, or after it was lost). */
        void (*on_changed)(void *userdata);
        void *userdata;
};
struct members *members_new(const struct members_config *config);
/* After the registry was closed. */
void members_free(struct members *m);
DEFINE_FREEP(members)

/* What the registry says: a listing that begins, a key below REGISTRY_DAEMONS_PREFIX (value.data NULL: removed), the listing's end. */
void members_begin(struct members *m);
void members_value(struct members *m, const char *key, struct bytes value);
void members_listed(struct members *m);
/* The key with the format in use has this revision: a record is only written while it has. */
void members_format(struct members *m, int64_t mod_revision);
int64_t members_format_revision(const struct members *m);

/* Writes this daemon's record, and renews it from now on. */
void members_enter(struct members *m);
/* Renews it no more, and tells the others where that is quickly done. done may be called at once. */
void members_leave(struct members *m, void (*done)(void *userdata), void *userdata);
/* The record was written and, as far as is known, stands. */
bool members_is_entered(const struct members *m);
int64_t members_since(const struct members *m);
/* For the record, when it is renewed: how many tenants are served here. */
void members_tell(struct members *m, size_t n_serving);

struct member {
        char *host;   /* owned, as all strings here: the host's id, */
        char *name;   /* and its name */
        char *daemon; /* incarnation, UUID */
        char *version;
        struct format_range formats; /* 0: not known, for its record cannot be read */
        int64_t since;               /* seconds since 1970 */
        uint64_t n_serving;
        bool listed; /* members.c */
};
/* In order of host id; this daemon is among them once it has entered. Valid until the next event. */
const struct member *members_list(const struct members *m, size_t *ret_n);
/* The others. */
size_t members_n_others(const struct members *m);
/* For what one of them should do: this daemon, as all see it. */
bool members_is_first(const struct members *m);
/* Somebody else writes the record of this host: its state directory was copied. NULL: no. */
const char *members_trouble(const struct members *m);
