#include "fleet/tap.h"

/*
 * The pin first, then the figures: what they say is in the log by then, and nothing that is in it goes away.
 */

#include <errno.h>
#include <string.h>

struct tap {
        struct tap_config config;
        struct pin *pin; /* owned */
        bool told;       /* on_open was called */
        struct tap_about about;
};

struct tap *tap_new(const struct tap_config *config) {
        struct tap *tap = new0(struct tap);

        tap->config = *config;
        return tap;
}

void tap_free(struct tap *tap) {
        if (!tap)
                return;
        check(!tap->pin);
        free(tap->about.leases);
        free(tap);
}

const struct tap_about *tap_about(const struct tap *tap) {
        return &tap->about;
}

static void on_pinned(void *userdata, const struct stoke_end *end, int64_t revision) {
        struct tap *tap = userdata;
        struct keyspace *ks = tap->config.keyspace;
        struct tap_about *about = &tap->about;
        struct keyspace_status status;

        (void)end;
        (void)revision;
        if (tap->told)
                return;
        tap->told = true;
        keyspace_get_status(ks, &status);
        about->end = status.end;
        about->bytes = status.bytes_log;
        about->leases = keyspace_leases_left(ks, &about->n_leases);
        about->datastore = keyspace_datastore(ks);
        memcpy(about->incarnation, keyspace_incarnation(ks), 16);
        about->archive = (struct archive_about){
                .tenant = keyspace_name(ks),
                .revision = status.revision,
                .compacted = status.compacted,
                .end = status.end.seq,
                .driver = datastore_driver(about->datastore)->name,
        };
        memcpy(about->archive.incarnation, about->incarnation, 16);
        memcpy(about->archive.cluster, tap->config.cluster, 16);
        if (about->n_leases && !about->leases)
                tap->config.on_open(tap->config.userdata, -ENOMEM, "no memory for its leases");
        else
                tap->config.on_open(tap->config.userdata, 0, "");
}

static void on_lost(void *userdata, const char *reason) {
        struct tap *tap = userdata;

        if (tap->told) {
                tap->config.on_lost(tap->config.userdata, reason);
                return;
        }
        tap->told = true;
        tap->config.on_open(tap->config.userdata, -EAGAIN, reason);
}

void tap_there_open(struct tap *tap) {
        struct pin_config pin = {.on_pinned = on_pinned, .on_lost = on_lost, .userdata = tap};

        keyspace_pin(tap->config.keyspace, &pin, &tap->pin);
}

void tap_there_close(struct tap *tap) {
        tap->told = true;
        keyspace_unpin(steal(tap->pin));
}
