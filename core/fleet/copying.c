#include "fleet/copying.h"

/* The list of what reads a tenant. Main loop only. */

#include "fleet/state.h"

void copying_enter(struct copying *c, struct assignment *a) {
        c->assignment = a;
        c->store = a->store;
        LIST_INSERT_HEAD(&a->copies, c, entry);
}

void copying_leave(struct copying *c) {
        struct assignment *a = c->assignment;

        if (!a)
                return;
        c->assignment = NULL;
        c->store = NULL;
        LIST_REMOVE(c, entry);
        fleet_settle(a->fleet);
        if (a->copies_waited_for && LIST_EMPTY(&a->copies)) {
                a->copies_waited_for = false;
                assignment_step(a);
        }
}

bool copying_is_over(struct assignment *a, const char *reason) {
        struct copying *c, *following;

        for (c = LIST_FIRST(&a->copies); c; c = following) {
                following = LIST_NEXT(c, entry);
                c->cancel(c, reason);
        }
        a->copies_waited_for = !LIST_EMPTY(&a->copies);
        return !a->copies_waited_for;
}

bool copying_holds(const struct fleet *fleet, const struct fleet_store *store) {
        const struct assignment *a;
        const struct copying *c;

        LIST_FOREACH(a, &fleet->assignments, entry)
                LIST_FOREACH(c, &a->copies, entry)
                        if (c->store == store)
                                return true;
        return false;
}
