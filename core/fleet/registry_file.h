#pragma once

/*
 * STATE/registry.json: where the registry is, and which one it is. It has to be known before the registry can be opened, so it is a
 * file. In a datastore that several daemons share it is but a pointer: the datastore's governor has the say. Main thread.
 */

#include "base/error.h"

struct registry_file {
        char *datastore; /* owned */
        uint8_t incarnation[16];
        bool created; /* false: written down before the keyspace was made, which may not have happened yet */
        bool has_id;
        uint8_t id[16];
};

/* 0; -ENOENT: there is none; -EBADMSG or another negative errno with the reason. */
int registry_file_read(const char *state_dir, struct registry_file *ret, struct error *reterr);
/* Durable on return. */
int registry_file_write(const char *state_dir, const struct registry_file *file, struct error *reterr);
void registry_file_done(struct registry_file *file);
