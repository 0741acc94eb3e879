#include "fleet/endpoint_state.h"

/*
 * From the door to the tenant. A transport belongs to one thread at a time: the door's, which posts it here; the main thread, which knows where its
 * tenant lives; the shard's. What is sent to a shard arrives there before a later errand that stops the tenant, so the tenant is there to take it.
 *
 * Between the handshake and here, and while a client waits, the policy may be replaced, and a tenant of the same name be another: so each try
 * compares with the policy in force. What is sent on is overtaken by no
 * errand that compares a tenant's connections with a newer one, for that comes later by the same way.
 *
 * A tenant that is being started is waited for; one that is not served here is answered by the refusal's server.
 */

#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/owner.h"

#define PATIENCE_NS (5 * NSEC_PER_SEC)
#define MAX_WAITING 16384
#define LOG_INTERVAL_NS (10 * NSEC_PER_SEC)

static void arrival_free(struct arrival *arrival) {
        if (arrival)
                transport_free(arrival->transport);
        free(arrival);
}

static const char *label_of(const struct arrival *arrival) {
        return tls_transport_peer(arrival->transport)->label;
}

/* ---- on the shard, and back */

static void enter_there(struct errand *errand) {
        struct arrival *arrival = errand->userdata;

        owner_set(arrival->owner); /* and so is whatever follows from it */
        tenant_accept(arrival->tenant, steal(arrival->transport));
        errand_return(errand);
}

static void enter_back(struct errand *errand) {
        arrival_free(errand->userdata);
}

static void enter(struct arrival *arrival, struct assignment *a) {
        arrival->tenant = a->serving;
        arrival->owner = a->owner;
        errand_send(a->shard->loop, a->fleet->loop, enter_there, enter_back, arrival);
}

/* ---- who is not served */

static void refuse(struct arrival *arrival, struct assignment *a, const char *why) {
        struct endpoint *e = arrival->endpoint;
        const struct tls_peer *peer = tls_transport_peer(arrival->transport);
        struct log_context context = {.tenant = peer->label, .peer = peer->name};
        uint64_t now = clock_now_ns();

        if (!a || now - a->refused_ns > LOG_INTERVAL_NS) {
                log_at(LOG_LEVEL_NOTICE, &context, "a TLS client is told that its tenant is unavailable: %s", why);
                if (a)
                        a->refused_ns = now;
        }
        refusal_take(e->refusal, steal(arrival->transport));
        arrival_free(arrival);
}

/* Why it is not served and will not be in a moment; NULL: it will. */
static const char *not_served(const struct assignment *a) {
        if (!a || a->gone || !a->record || a->record->phase == REGISTRY_DELETING)
                return "there is no such tenant any more";
        if (assignment_is_elsewhere(a))
                return "its datastore is another host's";
        if (a->fleet->unfit)
                return a->fleet->unfit;
        if (a->reason && !a->busy)
                return a->reason;
        if (a->settled && !a->busy && !a->serving)
                return "it is not served";
        return NULL;
}

/* True: it is out of our hands. */
static bool try_it(struct arrival *arrival, bool last) {
        struct endpoint *e = arrival->endpoint;
        struct assignment *a = fleet_find_assignment(e->fleet, label_of(arrival));
        cleanup(error_done) struct error err = {};
        const char *why;

        if (tls_transport_check(arrival->transport, e->policy, &err) < 0) {
                struct log_context context = {.tenant = label_of(arrival)};

                log_at(LOG_LEVEL_NOTICE, &context, "a TLS client was let go again: %s", error_text(&err));
                arrival_free(arrival);
                return true;
        }
        if (a && a->serving && !a->stopping) {
                enter(arrival, a);
                return true;
        }
        why = not_served(a);
        if (!why && last)
                why = "it is not ready yet";
        if (!why)
                return false;
        refuse(arrival, a, why);
        return true;
}

/* ---- waiting */

static void set_timer(struct endpoint *e) {
        struct arrival *first = STAILQ_FIRST(&e->waiting);

        if (first)
                loop_timer_set(e->fleet->loop, &e->waiting_timer, first->due_ns);
        else
                loop_timer_clear(&e->waiting_timer);
}

void admission_go(struct endpoint *e) {
        STAILQ_HEAD(, arrival) still = STAILQ_HEAD_INITIALIZER(still);
        uint64_t now = clock_now_ns();
        struct arrival *arrival;

        if (STAILQ_EMPTY(&e->waiting))
                return;
        while ((arrival = STAILQ_FIRST(&e->waiting))) {
                STAILQ_REMOVE_HEAD(&e->waiting, entry);
                if (try_it(arrival, arrival->due_ns <= now))
                        e->n_waiting--;
                else
                        STAILQ_INSERT_TAIL(&still, arrival, entry);
        }
        STAILQ_CONCAT(&e->waiting, &still);
        set_timer(e);
}

static void on_waiting_time(struct loop_timer *timer) {
        admission_go(container_of(timer, struct endpoint, waiting_timer));
}

/* ---- coming */

static void on_arrival(struct loop_task *task) {
        struct arrival *arrival = container_of(task, struct arrival, task);
        struct endpoint *e = arrival->endpoint;

        if (e->stopped) {
                arrival_free(arrival);
                return;
        }
        if (try_it(arrival, e->n_waiting >= MAX_WAITING))
                return;
        arrival->due_ns = clock_now_ns() + PATIENCE_NS;
        STAILQ_INSERT_TAIL(&e->waiting, arrival, entry);
        e->n_waiting++;
        e->waiting_timer.on_time = on_waiting_time;
        set_timer(e);
}

void admission_on_admitted(void *userdata, const char *label, struct transport *transport) {
        struct arrival *arrival = new0(struct arrival);

        (void)label; /* stays with the transport */
        arrival->endpoint = userdata;
        arrival->transport = transport;
        arrival->task.run = on_arrival;
        loop_post(arrival->endpoint->fleet->loop, &arrival->task);
}

void admission_stop(struct endpoint *e) {
        struct arrival *arrival;

        loop_timer_clear(&e->waiting_timer);
        while ((arrival = STAILQ_FIRST(&e->waiting))) {
                STAILQ_REMOVE_HEAD(&e->waiting, entry);
                arrival_free(arrival);
        }
        e->n_waiting = 0;
}
