#pragma once

/*
 * STATE/registry-copy.json: the last registry that this daemon saw. From it tenants are served when the daemon starts while the registry cannot be
 * reached, and nothing is changed then. It holds no secrets. It also remembers on which definitions this host agreed with the others, so
 * that after a restart it is known whether the files have changed or what is in force has. Main thread.
 */

#include "fleet/in_force.h"
#include "fleet/registry.h"

struct registry_copy {
        char *datastore; /* owned: where the registry is */
        uint8_t id[16], incarnation[16];
        uint32_t format; /* in use */
        int64_t revision;
        int64_t saved; /* seconds since 1970 */
        struct in_force in_force;
        /* The generation that this host's files agreed with last, and their fingerprint then. 0: none yet. */
        int64_t agreed_generation;
        uint64_t agreed_fingerprint;
        struct registry_record **records; /* owned */
        size_t n_records;
};
void registry_copy_done(struct registry_copy *copy);
/* Borrows the records; durable on return. */
int registry_copy_write(const char *state_dir, const struct registry_copy *copy, struct error *reterr);
/* -ENOENT: there is none. A copy that cannot be read is -EBADMSG, and as good as none. */
int registry_copy_read(
        const char *state_dir, const struct format_range *formats, struct registry_copy *ret, struct error *reterr);
