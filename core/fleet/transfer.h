#pragma once

/*
 * A transfer: all keys of a living etcd (or kine, or k3s, or one of our own tenants), read at one revision, carried somewhere else, and then
 * followed by a watch until it is told to finish. An import carries them into the log of a new keyspace, with their revisions and leases; an export
 * carries a tenant's into another etcd, which gives revisions of its own.
 *
 * It runs on a thread of its own; its owner, on the main loop, records what becomes of the tenant. Nothing of it outlives the daemon: who begins
 * again, begins anew.
 */

#include <stokehold/driver.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/loop.h"
#include "driver/datastore.h"

struct transfer;

/* An etcd that is read or written. All is copied. */
struct transfer_end {
        const char *const *endpoints; /* as of etcd_client_config */
        size_t n_endpoints;
        struct bytes authorities, certificate, key; /* PEM, or empty */
        const char *server_name;                    /* NULL: the endpoint's */
};

enum transfer_phase {
        TRANSFER_READING,   /* the source's keys, at one revision */
        TRANSFER_CARRYING,  /* them to where they shall be */
        TRANSFER_FOLLOWING, /* what is written since */
        TRANSFER_FINISHING, /* up to the source's last revision */
        TRANSFER_DONE,
};
const char *transfer_phase_name(enum transfer_phase phase);

struct transfer_status {
        enum transfer_phase phase;
        char from[256], to[256];
        uint64_t n_keys, bytes;  /* of the first reading */
        uint64_t n_carried;      /* keys of it that are there */
        uint64_t n_events;       /* carried since */
        int64_t revision;        /* carried up to; 0: nothing yet. Of an import that is done: its log's */
        int64_t source_revision; /* as last known */
        int64_t compacted;       /* the first reading's: there is no history below it */
        char trouble[256];       /* why it did not finish when it was told to; "" */
};

struct transfer_config {
        struct loop *loop;     /* borrowed: the owner's; callbacks come there */
        const char *tenant;    /* copied */
        const char *directory; /* where what does not fit into memory is kept; copied */
        struct transfer_end source;
        struct bytes prefix; /* only keys that begin so; empty: all, or "/registry/" of a kine; copied */
        bool has_new_prefix;
        struct bytes new_prefix; /* stands in place of it; copied */
        /* Once. 0; or negative errno with the reason: -EINPROGRESS: whether it was committed is not known; otherwise it was not. */
        void (*on_done)(void *userdata, int result, const char *reason);
        void *userdata;
};

/* Into an installation, which is committed in the end: history does not come along, since an etcd tells only what its keys are now. So the log is
 * compacted at the revision of the first reading, and a watch that goes on from a revision behind that misses nothing. */
struct import_target {
        struct datastore *datastore; /* borrowed */
        uint8_t daemon[16];          /* for origins */
        uint8_t incarnation[16], id[16];
};
/* Both: -EINVAL with the reason: an endpoint or a certificate that is none. */
int import_start(const struct transfer_config *config, const struct import_target *target, struct transfer **ret,
        struct error *reterr);
/* Into another etcd, where no key may begin with the (new) prefix, unless overwrite: then what is there and not in the source goes. */
int export_start(const struct transfer_config *config, const struct transfer_end *target, bool overwrite,
        struct transfer **ret, struct error *reterr);

/* Carries nothing: whether another etcd has, or had at this revision of its own (0: now), the same keys, values and revisions. -EBADMSG: it has not. */
int comparison_start(const struct transfer_config *config, const struct transfer_end *target, int64_t revision,
        struct transfer **ret, struct error *reterr);

/* The owner's thread, all of these. */
void transfer_get_status(struct transfer *transfer, struct transfer_status *ret);
/* Nobody writes to the source any more: its revision now is the last one. */
void transfer_finish(struct transfer *transfer);
/* on_done comes soon, with -ECANCELED or what was decided before. */
void transfer_stop(struct transfer *transfer);
/* After on_done. Takes NULL. */
void transfer_free(struct transfer *transfer);
DEFINE_FREEP(transfer)
