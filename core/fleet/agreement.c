#include "fleet/state.h"

/*
 * Definitions among several daemons. The registry keeps a generation and a fingerprint of each object in force; a daemon applies its files only if they
 * say the same. It puts them in force itself where its files are what has changed (what they said before was in force), where there is nobody else, or where
 * an operator says so; otherwise it shows the difference and applies nothing, until either side has changed.
 *
 * Where nobody else is there it depends on what this host remembers (in the copy of the registry): files that are the same as when it last
 * agreed, while the others have put another generation in force since, are old, and are not put in force by themselves.
 *
 * A daemon that has the registry for itself alone keeps nothing of this: what it reads is in force.
 */

#include <string.h>
#include <time.h>

#include "base/log.h"

#define RETRY_NS (2 * NSEC_PER_SEC)

static void set_reason(struct agreement *ag, const char *reason) {
        free(ag->reason);
        ag->reason = reason ? strdup(reason) : NULL;
        check(!reason || ag->reason);
}

void agreement_done(struct fleet *fleet) {
        struct agreement *ag = &fleet->agreement;

        check(!ag->busy);
        loop_timer_clear(&ag->timer);
        in_force_done(&ag->force);
        in_force_done(&ag->mine);
        in_force_done(&ag->proposal);
        set_reason(ag, NULL);
        free(ag->value);
        ag->value = NULL;
}

bool agreement_is_settled(const struct fleet *fleet) {
        const struct agreement *ag = &fleet->agreement;

        return !ag->busy && (ag->agreed || ag->differs || ag->is_unreadable);
}

bool agreement_has(const struct fleet *fleet, const struct datastore_definition *definition) {
        const struct in_force_object *o;

        if (!definition->base.file)
                return fleet->agreement.force.generation > 0; /* built in, the same everywhere */
        o = in_force_find(&fleet->agreement.force, "DataStore", definition->base.name);
        return o && o->fingerprint == definition->base.shared;
}

void agreement_problems(struct fleet *fleet, void (*visit)(void *userdata, const char *line), void *userdata) {
        const struct agreement *ag = &fleet->agreement;
        cleanup(freep) char *line = NULL;

        if (ag->reason) {
                check(asprintf(&line, "definitions: it is not known whether they are in force: %s", ag->reason) > 0);
                visit(userdata, line);
        }
        if (!ag->differs)
                return;
        free(line);
        check(asprintf(&line,
                      "definitions: the files here differ from what is in force (generation %lld, put in force by %s), and nothing of them is applied; "
                      "stokectl reload --enforce puts them in force",
                      (long long)ag->force.generation, ag->force.host_name ? ag->force.host_name : "?") > 0);
        visit(userdata, line);
        in_force_differences(&ag->force, &ag->mine, visit, userdata);
}

static void tell_log(void *userdata, const char *line) {
        (void)userdata;
        log_warning("%s", line);
}

/* ---- deciding */

static void settled(struct fleet *fleet) {
        set_reason(&fleet->agreement, NULL);
        fleet_answer_reloads(fleet);
        fleet_settle(fleet);
}

static void agree(struct fleet *fleet) {
        struct agreement *ag = &fleet->agreement;
        bool first = !ag->agreed;

        ag->agreed = true;
        ag->differs = false;
        ag->enforce = false;
        if (ag->agreed_generation != ag->force.generation ||
                ag->agreed_fingerprint != in_force_fingerprint(&ag->mine)) {
                ag->agreed_generation = ag->force.generation;
                ag->agreed_fingerprint = in_force_fingerprint(&ag->mine);
                fleet_copy_soon(fleet);
        }
        if (first) {
                if (fleet->shared_registry)
                        log_info("definitions of generation %lld are in force", (long long)ag->force.generation);
                fleet_adopt_definitions(fleet);
        }
        settled(fleet);
}

static void differ(struct fleet *fleet) {
        struct agreement *ag = &fleet->agreement;
        bool first = !ag->differs;

        ag->agreed = false;
        ag->differs = true;
        if (first)
                agreement_problems(fleet, tell_log, NULL);
        fleet_apply_datastores(fleet); /* those in which both say the same */
        settled(fleet);
}

static bool may_be_put(const struct fleet *fleet) {
        const struct agreement *ag = &fleet->agreement;
        bool alone = members_n_others(fleet->members) == 0;

        if (ag->enforce)
                return true;
        if (ag->force.generation == 0 ||
                (ag->agreed_generation == ag->force.generation &&
                        ag->agreed_fingerprint == in_force_fingerprint(&ag->force)))
                return ag->complete || alone;
        return alone &&
                !(ag->agreed_generation && ag->agreed_generation < ag->force.generation &&
                        ag->agreed_fingerprint == in_force_fingerprint(&ag->mine));
}

static void on_time(struct loop_timer *timer) {
        agreement_consider(container_of(timer, struct fleet, agreement.timer));
}

static void on_put(struct registry_put *p, int result, const char *reason) {
        struct fleet *fleet = container_of(p, struct fleet, agreement.put);
        struct agreement *ag = &fleet->agreement;

        ag->busy = false;
        if (result == 0 && p->mod_revision > ag->force_revision) {
                ag->force_revision = p->mod_revision;
                in_force_move(&ag->force, &ag->proposal);
        } else if (result == -ESTALE)
                agreement_value(fleet, p->current, p->mod_revision);
        else if (result < 0) {
                set_reason(ag, reason);
                ag->timer.on_time = on_time;
                if (fleet_is_running(fleet))
                        loop_timer_set(fleet->loop, &ag->timer, clock_now_ns() + RETRY_NS);
                return;
        }
        agreement_consider(fleet);
}

static void put(struct fleet *fleet) {
        struct agreement *ag = &fleet->agreement;
        cleanup(freep) char *copy = NULL;
        cleanup(error_done) struct error err = {};

        in_force_done(&ag->proposal);
        in_force_of(fleet->candidate ? fleet->candidate : fleet->definitions, &ag->proposal);
        ag->proposal.generation = ag->force.generation + 1;
        ag->proposal.host = strdup(fleet->host.id);
        ag->proposal.host_name = strdup(fleet->host.name);
        ag->proposal.since = time(NULL);
        check(ag->proposal.host && ag->proposal.host_name);
        free(ag->value);
        ag->value = in_force_print(&ag->proposal);
        ag->condition = (struct compare){.result = COMPARE_EQUAL,
                .target = COMPARE_MOD,
                .range = {.key = bytes_of_string(REGISTRY_DEFINITIONS_KEY)},
                .number = ag->force_revision};
        ag->put = (struct registry_put){.key = REGISTRY_DEFINITIONS_KEY,
                .value = ag->value,
                .conditions = &ag->condition,
                .n_conditions = 1,
                .done = on_put};
        ag->busy = true;
        log_notice("definitions: putting those of this host in force, as generation %lld",
                (long long)ag->proposal.generation);
        registry_put(fleet->registry, &ag->put);
}

void agreement_consider(struct fleet *fleet) {
        struct agreement *ag = &fleet->agreement;

        if (!fleet_is_running(fleet) || ag->busy || fleet->unfit)
                return;
        if (!fleet->shared_registry || (ag->force.generation && in_force_equal(&ag->force, &ag->mine))) {
                agree(fleet);
                return;
        }
        ag->agreed = false;
        if (ag->is_unreadable && !ag->enforce)
                return; /* as the reason says */
        if (!members_is_entered(fleet->members))
                return; /* its end goes on here; the others must see this daemon before what it decides */
        if (may_be_put(fleet))
                put(fleet);
        else
                differ(fleet);
}

void agreement_read(struct fleet *fleet, bool complete, bool enforce) {
        struct agreement *ag = &fleet->agreement;

        in_force_done(&ag->mine);
        in_force_of(fleet->candidate ? fleet->candidate : fleet->definitions, &ag->mine);
        ag->complete = complete;
        ag->enforce |= enforce;
        ag->agreed = ag->differs = false;
        agreement_consider(fleet);
}

void agreement_value(struct fleet *fleet, struct bytes value, int64_t revision) {
        struct agreement *ag = &fleet->agreement;
        cleanup(error_done) struct error err = {};
        struct in_force force = {};

        if (revision < ag->force_revision)
                return;
        ag->force_revision = value.data ? revision : 0;
        ag->is_unreadable = value.data && in_force_parse(value, &force, &err) < 0;
        if (ag->is_unreadable) {
                log_error("registry: " REGISTRY_DEFINITIONS_KEY " %s", error_text(&err));
                set_reason(ag, error_text(&err));
                return;
        }
        in_force_move(&ag->force, &force);
        fleet_copy_soon(fleet);
        agreement_consider(fleet);
}
