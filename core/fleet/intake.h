#pragma once

/*
 * An archive (base/archive.h) taken in: bytes as they come, checked, unpacked, fed into an installation (keyspace/install.h), which nobody sees
 * before it is committed, which is not before the last byte was checked. Belongs to the main loop, as do the callbacks, which never come from within.
 */

#include "base/archive.h"
#include "driver/datastore.h"
#include "keyspace/install.h"

struct intake;

struct intake_config {
        struct loop *loop;           /* borrowed */
        struct datastore *datastore; /* borrowed: the target */
        const char *name;            /* copied: the tenant's */
        uint8_t incarnation[16];     /* the new one */
        uint8_t id[16];              /* of the installation */
        /* More bytes can be taken: intake_is_full() is over. */
        void (*on_room)(void *userdata);
        /* All is fed that the file has, and the file is good: intake_commit() is due. Or it has failed, and what is there is to be aborted. */
        void (*on_fed)(void *userdata, int result, const char *reason);
        void (*on_committed)(void *userdata, int result, const char *reason); /* as install_commit()'s */
        void *userdata;
};

int intake_new(const struct intake_config *config, struct intake **ret);
/* Callbacks end with this; what is installed stays as it is. Takes NULL. */
void intake_free(struct intake *intake);
DEFINE_FREEP(intake)
/* After a failure what comes is dropped; on_fed tells of it. */
void intake_feed(struct intake *intake, struct bytes data);
/* No more should be given before on_room. */
bool intake_is_full(const struct intake *intake);
/* There are no more bytes. */
void intake_end(struct intake *intake);
/* After on_fed: adds what its readers must know, and commits. above: as in tail.h. */
void intake_commit(struct intake *intake, int64_t above);
/* Bytes of the file that have come. */
uint64_t intake_taken(const struct intake *intake);
/* NULL: not come yet. */
const struct archive_about *intake_about(const struct intake *intake);
