#pragma once

/*
 * The registry: what daemons must remember of their tenants and of each other. It is itself a keyspace, named "registry", in the system
 * datastore; STATE/registry.json says where (the datastore's name and the keyspace's incarnation).
 *
 *     /meta/registry      {"id": UUID}: the registry's identity, which a move to another datastore keeps
 *     /meta/format        the number of the format in use (base/format.h)
 *     /meta/definitions   the definitions in force (fleet/in_force.h)
 *     /tenants/NAME       a struct registry_record, as JSON
 *     /daemons/HOST       a daemon that lives (fleet/members.h), under a lease
 *
 * In a datastore that takes several daemons any number of them have it open at once. Which registry it is, they learn from the datastore's
 * governor (fleet/governor.h); what one writes the others are told by a watch.
 *
 * Every step of a tenant's life is written here before it is taken, so that whoever starts after a crash, or sees the record, can finish it.
 * All functions are for the thread of the registry's loop; every done comes on it, never from within the function that asked.
 */

#include "base/error.h"
#include "base/format.h"
#include "base/loop.h"
#include "driver/datastore.h"
#include "keyspace/keyspace.h"

#define REGISTRY_KEYSPACE "registry"
#define REGISTRY_FORMAT_KEY "/meta/format"
#define REGISTRY_DEFINITIONS_KEY "/meta/definitions"
#define REGISTRY_DAEMONS_PREFIX "/daemons/"
#define REGISTRY_DAEMONS_END "/daemons0"

enum registry_phase {
        REGISTRY_PROVISIONING, /* the keyspace is being made, or may not have been made yet */
        REGISTRY_READY,        /* it exists */
        REGISTRY_RECOVERING, /* its history was lost, which was accepted: its log is being continued, or may not have been yet */
        REGISTRY_DELETING, /* it is being dropped, or may not have been dropped yet */
        REGISTRY_INSTALLING, /* it is being brought from a backup or another tenant by the daemon `installer`, or was not completely */
};
/* "Provisioning", "Ready", "Recovering", "Deleting", "Installing". */
const char *registry_phase_name(enum registry_phase phase);

/*
 * A move to another datastore, as far as it has come (fleet/migration.c). Each phase is written before its steps are taken; the one write that makes
 * the target the tenant's datastore ends it.
 */
enum migration_phase {
        MIGRATION_PREPARING, /* the target is being looked at */
        MIGRATION_COPYING,   /* an installation of this id may have been begun there */
        MIGRATION_SEALING,   /* the source may be sealed, the installation may be committed */
        MIGRATION_ABORTING,  /* it does not come to pass: what was made is being removed, the seal lifted */
};
/* "Preparing", "Copying", "Sealing", "Aborting". */
const char *migration_phase_name(enum migration_phase phase);

struct registry_migration {
        enum migration_phase phase;
        uint8_t id[16];          /* of the seal and of the installation; never used again */
        bool back;               /* nothing is copied: back to what `previous` says */
        bool restore;            /* nothing is copied: what is installed comes from a backup, and is another log */
        char *datastore;         /* owned, as all strings here: the target, */
        char *host, *host_name;  /* the one host that reaches it; "": all do */
        uint8_t incarnation[16]; /* of the keyspace that is installed there */
        uint8_t owner[16];       /* the daemon that does it */
        int64_t started;         /* seconds since 1970 */
        int64_t retention;       /* seconds that the source stays, sealed */
        char *reason;            /* Aborting: why; else "" */
};

/* Where the data was before: sealed, and dropped in time. */
struct registry_previous {
        char *datastore; /* owned, as all strings here */
        uint8_t incarnation[16], migration[16];
        bool back;              /* the tenant went back from here, to a log that has not what was written here */
        bool restored;          /* what followed it is another log, from a backup: nothing goes back to it */
        int64_t until;          /* seconds since 1970 */
        char *host, *host_name; /* as in the record */
};

/* The last migration that has ended, for people. */
struct registry_moved {
        uint8_t id[16];
        char *from, *to; /* owned, as all strings here */
        char *reason;    /* "": it succeeded */
        int64_t started, finished;
        int64_t bytes, records, hold_us; /* hold_us: the longest that clients were held up */
};

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
        char *host;            /* id of the one host that reaches its datastore (fleet/host.h); "": all do */
        char *host_name;       /* that host's, for people */
        uint8_t installation[16],
                installer[16]; /* Installing: the installation's id, and the daemon whose it is; else all zero */
        uint8_t cluster[16];   /* incarnation that clients know it by, which no move changes */
        struct registry_migration *migration; /* owned; NULL: none is under way */
        struct registry_previous *previous;   /* owned; NULL: there is none */
        struct registry_moved *moved;         /* owned; NULL: it was never moved */
        char **client_names;                  /* fleet/client_name.h; of a tenant that no file declares */
        size_t n_client_names;
        uint32_t format;      /* it was read in; 0: not read */
        int64_t mod_revision; /* the registry's; 0: not written yet */
};
struct registry_record *registry_record_copy(const struct registry_record *record);
void registry_record_free(struct registry_record *record);
DEFINE_FREEP(registry_record)
/* As stored, in a format. Owned by the caller. */
char *registry_record_print(const struct registry_record *record, uint32_t format);
/* mod_revision is left 0. -EBADMSG with the reason. */
int registry_record_parse(struct bytes name, struct bytes json, const struct format_range *formats,
        struct registry_record **ret, struct error *reterr);

struct registry;

/* Reads STATE/registry.json. state_dir is copied. -EBADMSG and the like with the reason. */
int registry_new(struct loop *loop, const char *state_dir, const uint8_t daemon[16], const struct format_range *formats,
        struct registry **ret, struct error *reterr);
/* After registry_close() is done, or before registry_open(). */
void registry_free(struct registry *r);
DEFINE_FREEP(registry)

/* No tenant may have it: the names of the daemons' own keyspaces. */
bool registry_keeps_name(const char *name);

/* The datastore that holds it, as written down; NULL: none yet, it will be the one given to registry_open(). */
const char *registry_datastore(const struct registry *r);
struct keyspace *registry_keyspace(struct registry *r);
/* UUID of the registry, and the incarnation of its keyspace, once open. */
const char *registry_id(const struct registry *r);
const uint8_t *registry_incarnation(const struct registry *r);
/* In use, once open. */
uint32_t registry_format(const struct registry *r);
const struct format_range *registry_formats(const struct registry *r);
/* What is known of its log now; zero while it is not open. */
struct keyspace_known registry_known(struct registry *r);
/* The newest revision that the listener was told of. */
int64_t registry_revision(const struct registry *r);

/* What the registry says, first all of it and then each change. The listing comes again where changes were missed (a compaction was
 * faster). */
struct registry_listener {
        /* A listing begins: what it does not name is not there. */
        void (*on_begin)(void *userdata);
        /* A tenant's record; taken over. One that cannot be read is logged, and nothing is said. */
        void (*on_record)(void *userdata, struct registry_record *record);
        /* A tenant's record was removed, at this revision. Not in a listing. */
        void (*on_gone)(void *userdata, const char *name, int64_t revision);
        /* All other keys. value: borrowed; data NULL: removed. */
        void (*on_value)(void *userdata, const char *key, struct bytes value, int64_t mod_revision);
        /* The listing is complete. */
        void (*on_listed)(void *userdata);
        /* Nothing more will come: the registry's history is lost. */
        void (*on_lost)(void *userdata, const char *reason);
        void *userdata;
};

struct registry_open {
        struct registry_listener listener;
        /* What was known of its log before; one that contradicts it is not opened. */
        struct keyspace_known known;
        /* The datastore is governed by another registry, and that shall end: ours governs from now on. */
        bool claim;
        /* 0: what follows comes to the listener; or a negative errno with the reason, and registry_open() may be called again. -EPERM: another
         * registry governs the datastore; -EBADMSG: its history is lost, or it is corrupt; -EPROTONOSUPPORT: the format in use is not one that this daemon can do. */
        void (*done)(void *userdata, int result, const char *reason);
        void *userdata;
};
/* Finds the keyspace (at the very first start: makes it; if registry.json is missing but the datastore has a registry: adopts that one), opens
 * it, lists and follows it. */
void registry_open(struct registry *r, struct datastore *ds, const struct registry_open *open);
/* Ends what is under way, and gives the keyspace back. */
void registry_close(struct registry *r, void (*done)(void *userdata), void *userdata);

/* One change of one key; embedded in the asker's structure, alive until done. */
struct registry_put {
        /* Set by the asker; borrowed until done. */
        const char *key;
        const char *value;                /* NULL: the key is removed */
        int64_t lease;                    /* 0: none */
        const struct compare *conditions; /* that must hold */
        size_t n_conditions;
        /* 0: durable, mod_revision is the key's. -ESTALE: a condition did not hold, and the key is not as wanted; `current` is what it is.
         * Other negative errno: the registry cannot be reached, and the write may or may not have happened: the same write may be repeated, until
         * it is known. */
        void (*done)(struct registry_put *p, int result, const char *reason);
        int64_t mod_revision; /* of the key, now; 0: it is not there */
        struct bytes current; /* -ESTALE: its value, borrowed during done; data NULL: it is not there */

        struct {
                struct registry *registry;
                struct arena arena;
                struct txn_call call;
                struct txn txn;
                struct txn_op put, get;
        } own;
};
void registry_put(struct registry *r, struct registry_put *p);

/* One change of a tenant's record; embedded in the asker's structure, alive until done. */
struct registry_write {
        struct registry_record *
                record; /* borrowed, not to be changed until done: to be put if it is as we last wrote it (mod_revision) */
        bool remove;
        /* 0: durable, record->mod_revision is the new one. -ESTALE: somebody else has changed the record, see `newer`. Otherwise as for a put. */
        void (*done)(struct registry_write *w, int result, const char *reason);
        /* -ESTALE: what it is now, the asker's to take; NULL: removed, or (unreadable) a record that cannot be read. */
        struct registry_record *newer;
        bool unreadable;

        struct {
                struct registry *registry;
                struct registry_put put;
                struct compare compare;
                char *key, *json;
        } own;
};
void registry_write(struct registry *r, struct registry_write *w);

/* A tenant's record as it is now, behind a barrier; embedded in the asker's structure, alive until done. */
struct registry_read {
        const char *name; /* borrowed until done */
        /* 0, or a negative errno as for a put; -EBADMSG: it cannot be read. */
        void (*done)(struct registry_read *rd, int result, const char *reason);
        struct registry_record *record; /* the asker's to take; NULL: there is none, */
        int64_t revision;               /* at this revision */

        struct {
                struct registry *registry;
                struct arena arena;
                struct txn_call call;
                struct txn txn;
                struct txn_op get;
                char *key;
        } own;
};
void registry_read(struct registry *r, struct registry_read *rd);
