#pragma once

/*
 * The registry: what the daemon must remember of its tenants. It is itself a keyspace, named "registry", in the system
 * datastore; STATE/registry.json says where (the datastore's name and the keyspace's incarnation).
 *
 *     /meta/registry    {"id": UUID}: the registry's identity, which a move to another datastore keeps
 *     /tenants/NAME     a struct registry_record, as JSON
 *
 * Every step of a tenant's life is written here before it is taken, so that whoever starts after a crash can finish it.
 * All functions are for the thread of the registry's loop; every done comes on it, never from within the function that asked.
 */

#include "base/error.h"
#include "base/loop.h"
#include "driver/datastore.h"
#include "keyspace/keyspace.h"

#define REGISTRY_KEYSPACE "registry"

enum registry_phase {
        REGISTRY_PROVISIONING, /* the keyspace is being made, or may not have been made yet */
        REGISTRY_READY,        /* it exists */
        REGISTRY_RECOVERING, /* its history was lost, which was accepted: its log is being continued, or may not have been yet */
        REGISTRY_DELETING, /* it is being dropped, or may not have been dropped yet */
};
/* "Provisioning", "Ready", "Recovering", "Deleting". */
const char *registry_phase_name(enum registry_phase phase);

struct registry_record {
        char *name; /* owned, as all strings here */
        char *datastore;
        uint8_t incarnation[16]; /* of the tenant's keyspace, made anew whenever the name is used again */
        enum registry_phase phase;
        uint64_t quota_bytes; /* 0: the daemon's default */
        char *source;         /* "FILE:LINE" of the definition, or "stokectl" */
        bool from_file;
        bool retain;           /* deletionPolicy: Retain */
        int64_t created;       /* seconds since 1970 */
        uint8_t recovery[16];  /* id of the last recovery; all zero: there was none */
        int64_t recover_above; /* its revisions begin above this one */
        int64_t mod_revision;  /* the registry's; 0: not written yet */
};
struct registry_record *registry_record_copy(const struct registry_record *record);
void registry_record_free(struct registry_record *record);
DEFINE_FREEP(registry_record)
/* As stored. Owned by the caller. */
char *registry_record_print(const struct registry_record *record);
/* mod_revision is left 0. -EBADMSG with the reason. */
int registry_record_parse(struct bytes name, struct bytes json, struct registry_record **ret, struct error *reterr);

struct registry;

/* Reads STATE/registry.json. state_dir is copied. -EBADMSG and the like with the reason. */
int registry_new(struct loop *loop, const char *state_dir, const uint8_t daemon[16], struct registry **ret,
        struct error *reterr);
/* After registry_close() is done, or before registry_open(). */
void registry_free(struct registry *r);
DEFINE_FREEP(registry)

/* The datastore that holds it, as written down; NULL: none yet, it will be the one given to registry_open(). */
const char *registry_datastore(const struct registry *r);
struct keyspace *registry_keyspace(struct registry *r);
/* UUID of the registry, once open. */
const char *registry_id(const struct registry *r);

struct registry_open {
        /* A record, when the registry is being opened; taken over. */
        void (*on_record)(void *userdata, struct registry_record *record);
        /* 0; or a negative errno with the reason, and registry_open() may be called again. */
        void (*done)(void *userdata, int result, const char *reason);
        void *userdata;
};
/* Finds the keyspace (at the very first start: makes it; if registry.json is missing but the datastore lists a registry: adopts that one), opens
 * it and visits all records. */
void registry_open(struct registry *r, struct datastore *ds, const struct registry_open *open);
/* Ends what is under way, and gives the keyspace back. */
void registry_close(struct registry *r, void (*done)(void *userdata), void *userdata);

/* One change; embedded in the asker's structure, alive until done. */
struct registry_write {
        struct registry_record *
                record; /* borrowed, not to be changed until done: to be put if it is as we last wrote it (mod_revision) */
        bool remove;
        /* 0: durable, record->mod_revision is the new one. -ESTALE: somebody else has changed the record. Other negative errno: the registry
         * cannot be reached, and the write may or may not have happened: the same write may be repeated, until it is known. */
        void (*done)(struct registry_write *w, int result, const char *reason);

        struct {
                struct registry *registry;
                struct arena arena;
                struct txn_call call;
                struct txn txn;
                struct compare compare;
                struct txn_op put, get;
                char *key, *json;
        } own;
};
void registry_write(struct registry *r, struct registry_write *w);
