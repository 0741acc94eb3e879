#include "fleet/state.h"

/*
 * What the registry says, handed to those whom it concerns: records to the tenants' assignments, the rest to members, agreement and the check of
 * the format. And the copy that is kept of it, from which tenants are served while it cannot be opened.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fleet/endpoint.h"

#define COPY_DELAY_NS NSEC_PER_SEC

/* ---- listening */

static void on_begin(void *userdata) {
        struct fleet *fleet = userdata;

        fleet->listing++;
        fleet->agreement.is_listed = false;
        members_begin(fleet->members);
}

static void on_record(void *userdata, struct registry_record *record) {
        struct fleet *fleet = userdata;
        struct assignment *a = fleet_find_assignment(fleet, record->name);

        if (!a)
                a = assignment_new(fleet, record->name);
        a->listed = fleet->listing;
        fleet_copy_soon(fleet);
        assignment_take(a, record, record->mod_revision);
}

static void on_gone(void *userdata, const char *name, int64_t revision) {
        struct fleet *fleet = userdata;
        struct assignment *a = fleet_find_assignment(fleet, name);

        fleet_copy_soon(fleet);
        if (a)
                assignment_take(a, NULL, revision);
}

static void on_value(void *userdata, const char *key, struct bytes value, int64_t mod_revision) {
        struct fleet *fleet = userdata;

        if (strncmp(key, REGISTRY_DAEMONS_PREFIX, strlen(REGISTRY_DAEMONS_PREFIX)) == 0)
                members_value(fleet->members, key, value);
        else if (strcmp(key, REGISTRY_DEFINITIONS_KEY) == 0) {
                fleet->agreement.is_listed = true;
                agreement_value(fleet, value, mod_revision);
        } else if (strcmp(key, REGISTRY_FORMAT_KEY) == 0) {
                members_format(fleet->members, value.data ? mod_revision : 0);
                fleet_check_format(fleet);
        }
}

static void on_listed(void *userdata) {
        struct fleet *fleet = userdata;
        int64_t revision = registry_revision(fleet->registry);
        struct assignment *a, *following;

        members_listed(fleet->members);
        if (!fleet->agreement.is_listed)
                agreement_value(fleet, (struct bytes){}, revision);
        for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                following = LIST_NEXT(a, entry);
                if (a->listed != fleet->listing && a->record && a->record->mod_revision <= revision)
                        assignment_take(a, NULL, revision);
        }
        fleet_copy_soon(fleet);
}

static void on_lost(void *userdata, const char *reason) {
        struct fleet *fleet = userdata;

        fleet->copy.revision = registry_revision(fleet->registry);
        fleet->copy.saved = time(NULL);
        fleet->from_copy = true;
        fleet_registry_lost(fleet, reason);
}

void fleet_listener(struct fleet *fleet, struct registry_listener *ret) {
        *ret = (struct registry_listener){.on_begin = on_begin,
                .on_record = on_record,
                .on_gone = on_gone,
                .on_value = on_value,
                .on_listed = on_listed,
                .on_lost = on_lost,
                .userdata = fleet};
}

/* ---- the format in use */

static void step_all(struct fleet *fleet) {
        struct assignment *a, *following;

        for (a = LIST_FIRST(&fleet->assignments); a; a = following) {
                following = LIST_NEXT(a, entry);
                assignment_hurry(a);
        }
        fleet_settle(fleet);
}

void fleet_check_format(struct fleet *fleet) {
        const struct format_range *formats = registry_formats(fleet->registry);
        uint32_t format = registry_format(fleet->registry);

        free(fleet->unfit);
        fleet->unfit = NULL;
        if (!format_is_known(formats, format)) {
                check(asprintf(&fleet->unfit,
                              "the format in use is %u, and this version reads and writes %u to %u: nothing is served by it",
                              format, formats->oldest, formats->current) > 0);
                log_error("%s", fleet->unfit);
        } else if (fleet_is_running(fleet) && format != fleet->format)
                log_notice("format %u is in use from now on", format);
        fleet->format = format;
        if (fleet_is_running(fleet))
                step_all(fleet);
}

/* ---- the copy */

void fleet_copy_now(struct fleet *fleet) {
        const struct agreement *ag = &fleet->agreement;
        struct registry_copy copy = {};
        cleanup(error_done) struct error err = {};
        struct assignment *a;
        size_t n = 0;

        loop_timer_clear(&fleet->copy_timer);
        LIST_FOREACH(a, &fleet->assignments, entry)
                n++;
        copy.records = xcalloc(n, sizeof(struct registry_record *));
        LIST_FOREACH(a, &fleet->assignments, entry)
                if (a->record && !a->gone)
                        copy.records[copy.n_records++] = a->record;
        copy.datastore = (char *)registry_datastore(fleet->registry);
        memcpy(copy.id, fleet->identity.id, 16);
        memcpy(copy.incarnation, fleet->identity.incarnation, 16);
        copy.format = registry_format(fleet->registry);
        copy.revision = registry_revision(fleet->registry);
        copy.saved = time(NULL);
        copy.in_force = ag->force;
        copy.agreed_generation = ag->agreed_generation;
        copy.agreed_fingerprint = ag->agreed_fingerprint;
        if (registry_copy_write(fleet->config.settings->state_dir, &copy, &err) < 0)
                log_error("registry: no copy could be kept: %s", error_text(&err));
        free(copy.records);
}

static void on_copy_time(struct loop_timer *timer) {
        struct fleet *fleet = container_of(timer, struct fleet, copy_timer);

        if (fleet_is_running(fleet))
                fleet_copy_now(fleet);
}

void fleet_copy_soon(struct fleet *fleet) {
        if (fleet->stage == FLEET_STOPPING || fleet->stage == FLEET_STOPPED || fleet->copy_timer.position)
                return;
        fleet->copy_timer.on_time = on_copy_time;
        loop_timer_set(fleet->loop, &fleet->copy_timer, clock_now_ns() + COPY_DELAY_NS);
}

void fleet_serve_copy(struct fleet *fleet) {
        struct registry_copy *copy = &fleet->copy;
        struct assignment *a;

        if (!fleet->has_copy || fleet->from_copy || fleet->stage != FLEET_OPENING)
                return;
        fleet->from_copy = true;
        fleet->has_identity = true;
        fleet->identity = (struct governor_record){};
        memcpy(fleet->identity.id, copy->id, 16);
        memcpy(fleet->identity.incarnation, copy->incarnation, 16);
        in_force_move(&fleet->agreement.force, &copy->in_force);
        log_warning(
                "the registry cannot be reached: %zu tenants are served as its copy of revision %lld has them, and nothing is changed",
                copy->n_records, (long long)copy->revision);
        for (size_t i = 0; i < copy->n_records; i++) {
                if (fleet_find_assignment(fleet, copy->records[i]->name))
                        continue;
                a = assignment_new(fleet, copy->records[i]->name);
                a->record = steal(copy->records[i]);
                assignment_update_manner(a);
        }
        endpoint_changed(fleet);
        fleet_apply_datastores(fleet);
        for (struct fleet_store *store = LIST_FIRST(&fleet->stores); store; store = LIST_NEXT(store, entry))
                if (store->is_dialled)
                        governance_look(store);
        step_all(fleet);
}
