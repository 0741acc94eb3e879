#include "fleet/installing.h"

/*
 * The life of a tenant in phase Installing, beside what brings its data. Main loop only.
 */

#include <string.h>

#include "base/log.h"
#include "fleet/state.h"
#include "fleet/uuid.h"
#include "keyspace/install.h"

#define LOOK_NS (5 * NSEC_PER_SEC)

void installing_enter(struct installing *installing, struct assignment *a) {
        installing->assignment = a;
        a->installing = installing;
        a->install_aborted = false;
}

static void become_ready(struct assignment *a) {
        a->next = registry_record_copy(a->record);
        a->next->phase = REGISTRY_READY;
        memset(a->next->installation, 0, 16);
        memset(a->next->installer, 0, 16);
}

void installing_leave(struct installing *installing, bool committed) {
        struct assignment *a = installing->assignment;

        if (!a)
                return;
        installing->assignment = NULL;
        a->installing = NULL;
        a->store = NULL;
        if (committed && !a->gone && !a->next)
                become_ready(a);
        loop_timer_clear(&a->retry);
        loop_timer_set(a->fleet->loop, &a->retry, clock_now_ns());
}

bool installing_is_over(struct assignment *a, const char *reason) {
        if (a->installing)
                a->installing->cancel(a->installing, reason);
        return !a->installing;
}

/* The daemon that the record names lives. */
static bool installer_lives(const struct assignment *a) {
        char text[UUID_TEXT_SIZE];
        const struct member *members;
        size_t n;

        if (memcmp(a->record->installer, a->fleet->config.daemon, 16) == 0)
                return false; /* ours, and nothing is under way */
        if (a->fleet->shared_registry && !members_is_entered(a->fleet->members))
                return true; /* as long as this is not known */
        uuid_print(a->record->installer, text);
        members = members_list(a->fleet->members, &n);
        for (size_t i = 0; i < n; i++)
                if (strcmp(members[i].daemon, text) == 0)
                        return true;
        return false;
}

static void on_aborted(void *userdata, int result, const char *reason) {
        struct assignment *a = userdata;
        cleanup(freep) char *text = NULL;

        /* The reason is the installation's. */
        if (result < 0)
                check(asprintf(&text, "what was not brought completely could not be removed yet: %s", reason) > 0);
        install_free(steal(a->abort));
        a->busy = false;
        a->store = NULL;
        if (result < 0) {
                assignment_fail(a, text);
                return;
        }
        if (result == STOKE_ENDED)
                become_ready(a); /* all of it was there, but nobody could say so any more */
        else
                a->install_aborted = true;
        assignment_well(a);
        assignment_step(a);
}

bool installing_step(struct assignment *a) {
        struct install_config config = {.name = a->name, .loop = a->fleet->loop, .userdata = a};
        struct fleet_store *store = fleet_find_store(a->fleet, a->record->datastore);
        struct log_context context = {.tenant = a->name};

        a->settled = true;
        fleet_settle(a->fleet);
        if (a->installing)
                return false;
        if (a->install_aborted)
                return true;
        if (installer_lives(a) || assignment_is_left(a)) {
                loop_timer_set(a->fleet->loop, &a->retry, clock_now_ns() + LOOK_NS);
                return false;
        }
        if (!store || !store->ds || store->leaving) {
                assignment_fail(a, "its datastore is not open: what was not brought completely is removed when it is");
                return false;
        }
        log_at(LOG_LEVEL_NOTICE, &context, "was not brought completely: removing what there is of it");
        config.datastore = store->ds;
        memcpy(config.incarnation, a->record->incarnation, 16);
        memcpy(config.id, a->record->installation, 16);
        check(install_new(&config, &a->abort) == 0);
        a->busy = true;
        a->store = store;
        install_abort(a->abort, on_aborted);
        return false;
}
