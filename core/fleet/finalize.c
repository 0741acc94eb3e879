#include "fleet/state.h"

/*
 * Puts this daemon's newest format in use, for all: the registry's number is raised under the condition that no daemon has come since it was looked who there
 * is, and a daemon writes its record only while the number is the one that it has looked at. So no daemon that lives and cannot do it is ever
 * passed over; one that could not be reached for longer than its lease finds out when it is back, and serves nothing then.
 */

#include <string.h>

#include "base/log.h"

struct fleet_finalize {
        struct fleet *fleet; /* borrowed */
        fleet_done_fn done;
        void *userdata;
        struct registry_put put;
        struct compare conditions[2];
        char value[16];
        struct loop_task task; /* for an answer that is known at once */
        int result;
        char *reason; /* owned */
};

static void end(struct fleet_finalize *f, int result, const char *reason) {
        f->fleet->finalize = NULL;
        f->done(f->userdata, result, reason);
        free(f->reason);
        free(f);
}

static void on_put(struct registry_put *p, int result, const char *reason) {
        struct fleet_finalize *f = container_of(p, struct fleet_finalize, put);

        if (result == -ESTALE)
                end(f, -EBUSY, "a daemon has come, or the format in use was changed, at this moment: ask again");
        else
                end(f, result, reason);
}

static void on_task(struct loop_task *task) {
        struct fleet_finalize *f = container_of(task, struct fleet_finalize, task);

        end(f, f->result, f->reason ? f->reason : "");
}

static void refuse(struct fleet_finalize *f, int result, char *reason) {
        f->result = result;
        f->reason = reason;
        f->task.run = on_task;
        loop_defer(f->fleet->loop, &f->task);
}

/* Who cannot do it. Owned by the caller; NULL: all can. */
static char *who_cannot(const struct fleet *fleet, uint32_t format) {
        size_t n;
        const struct member *members = members_list(fleet->members, &n);
        char *text = NULL;

        for (size_t i = 0; i < n; i++) {
                const struct member *m = &members[i];

                if (format_is_known(&m->formats, format))
                        continue;
                check(asprintf(&text, "the daemon on %s (version %s) cannot do format %u: it does %u to %u", m->name,
                              m->version, format, m->formats.oldest, m->formats.current) > 0);
                return text;
        }
        return NULL;
}

void fleet_finalize_upgrade(struct fleet *fleet, fleet_done_fn done, void *userdata) {
        struct fleet_finalize *f = new0(struct fleet_finalize);
        uint32_t format = registry_formats(fleet->registry)->current;
        char *reason = NULL;

        f->fleet = fleet;
        f->done = done;
        f->userdata = userdata;
        if (!fleet_is_running(fleet) || fleet->unfit || fleet->finalize) {
                const char *why = fleet->finalize ? "it is under way already"
                        : fleet->unfit            ? fleet->unfit
                                                  : "the registry is not open";

                check(asprintf(&reason, "%s", why) > 0);
                refuse(f, fleet->finalize ? -EBUSY : -EAGAIN, reason);
                return;
        }
        if (registry_format(fleet->registry) == format) {
                refuse(f, 0, NULL);
                return;
        }
        if (fleet->shared_registry && !members_is_entered(fleet->members)) {
                check(asprintf(&reason, "the others do not know of this daemon yet") > 0);
                refuse(f, -EAGAIN, reason);
                return;
        }
        reason = who_cannot(fleet, format);
        if (reason) {
                refuse(f, -EBUSY, reason);
                return;
        }

        fleet->finalize = f;
        snprintf(f->value, sizeof(f->value), "%u", format);
        f->conditions[0] = (struct compare){.result = COMPARE_EQUAL,
                .target = COMPARE_MOD,
                .range = {.key = bytes_of_string(REGISTRY_FORMAT_KEY)},
                .number = members_format_revision(fleet->members)};
        f->conditions[1] = (struct compare){.result = COMPARE_LESS,
                .target = COMPARE_MOD,
                .range = {bytes_of_string(REGISTRY_DAEMONS_PREFIX), bytes_of_string(REGISTRY_DAEMONS_END)},
                .number = registry_revision(fleet->registry) + 1};
        f->put = (struct registry_put){.key = REGISTRY_FORMAT_KEY,
                .value = f->value,
                .conditions = f->conditions,
                .n_conditions = 2,
                .done = on_put};
        registry_put(fleet->registry, &f->put);
}
