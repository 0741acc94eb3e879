#include "fleet/state.h"

/*
 * A tenant among several daemons: what the registry says of it, which another daemon may have written, becomes what this one goes on from. While a step
 * is under way the news waits for its end. A wish or a record of this daemon's that was meant for an older one is void then, and made anew from what
 * there is.
 */

#include <string.h>

#include "fleet/endpoint.h"

#define TAKE_OVER_NS (3 * NSEC_PER_SEC)

bool assignment_is_elsewhere(const struct assignment *a) {
        const struct registry_record *record = assignment_record(a);

        return a->fleet->shared_registry && record && record->host[0] && strcmp(record->host, a->fleet->host.id) != 0;
}

/* Wherever its data is by now: a move gives it another incarnation, and is no end. */
static bool same_tenant(const struct registry_record *a, const struct registry_record *b) {
        return memcmp(a->cluster, b->cluster, 16) == 0;
}

static bool same_content(const struct registry_record *a, const struct registry_record *b) {
        cleanup(freep) char *x = registry_record_print(a, 1), *y = registry_record_print(b, 1);

        return strcmp(x, y) == 0;
}

/* The tenant has gone. What this daemon may have made of it after another had dropped it is dropped once more. */
static void end_incarnation(struct assignment *a) {
        if (a->made_here && !a->record->retain && !assignment_is_elsewhere(a)) {
                a->sweep = true;
                memcpy(a->sweep_incarnation, a->record->incarnation, 16);
                free(a->sweep_datastore);
                a->sweep_datastore = strdup(a->record->datastore);
                check(a->sweep_datastore);
        }
        a->made_here = a->dropped = false;
        a->want_delete = false;
        free(a->change_source);
        a->change_source = NULL;
}

/* What is to be written was meant for another record than the one that there is now. */
static void drop_next(struct assignment *a, const struct registry_record *now) {
        struct registry_record *next = steal(a->next);

        if (!next)
                return;
        if (now && same_content(next, now))
                assignment_answer(a, false, WAIT_RECORDED, 0, ""); /* it had landed */
        else if (now && !a->record)
                assignment_answer(a, true, 0, -EEXIST, "another daemon has made a tenant of this name");
        registry_record_free(next);
}

static void take(struct assignment *a, struct registry_record *record, int64_t revision) {
        int64_t known = a->record && !a->gone ? a->record->mod_revision : 0;

        if (!record) {
                if (!a->record || a->gone || revision < known)
                        return;
                drop_next(a, NULL);
                end_incarnation(a);
                a->gone = true;
                endpoint_changed(a->fleet);
                assignment_well(a);
                return;
        }
        if (known && record->mod_revision <= known) {
                registry_record_free(record); /* written here */
                return;
        }
        drop_next(a, record);
        if (a->record && !same_tenant(a->record, record)) {
                if (!a->gone)
                        end_incarnation(a);
                assignment_answer(a, true, 0, 0, "");
        }
        /* Other steps of its life change nothing in who reaches it. */
        if (!a->record || a->gone || a->record->created != record->created || record->phase == REGISTRY_DELETING)
                endpoint_changed(a->fleet);
        a->gone = false;
        if (record->phase == REGISTRY_READY)
                a->made_here = false;
        registry_record_free(a->record);
        a->record = record;
        a->told_ns = clock_now_ns();
        assignment_well(a);
        assignment_update_manner(a);
}

/* What was said meanwhile. */
void assignment_catch_up(struct assignment *a) {
        if (!a->has_newer)
                return;
        a->has_newer = false;
        loop_timer_clear(&a->retry);
        take(a, steal(a->newer), a->newer_revision);
}

void assignment_take(struct assignment *a, struct registry_record *record, int64_t revision) {
        registry_record_free(a->newer);
        a->has_newer = true;
        a->newer = record;
        a->newer_revision = revision;
        assignment_step(a);
}

/* ---- which daemon */

void assignment_claim_host(const struct assignment *a, struct registry_record *record) {
        free(record->host);
        free(record->host_name);
        record->host = strdup(a->fleet->host.id);
        record->host_name = strdup(a->fleet->host.name);
        check(record->host && record->host_name);
}

/* Left to another daemon for now. */
bool assignment_is_left(struct assignment *a) {
        uint64_t now = clock_now_ns(), until = a->told_ns + TAKE_OVER_NS;

        if (!a->told_ns || now >= until || !members_n_others(a->fleet->members))
                return false;
        if (a->record->host[0] && !assignment_is_elsewhere(a))
                return false; /* nobody else can */
        a->settled = true;
        fleet_settle(a->fleet);
        loop_timer_set(a->fleet->loop, &a->retry, until);
        return true;
}

bool assignment_host_lives(const struct assignment *a) {
        size_t n;
        const struct member *members = members_list(a->fleet->members, &n);

        for (size_t i = 0; i < n; i++)
                if (strcmp(members[i].host, a->record->host) == 0)
                        return true;
        return false;
}
