#include "control/telling.h"

#include "control/method.h"

#define TELL_NS (500 * NSEC_PER_MSEC)
/* Who does not read need not be told everything. */
#define MOST_PENDING 16384

static void tell_later(struct telling *t) {
        loop_timer_set(grpc_call_loop(t->call), &t->timer, clock_now_ns() + TELL_NS);
}

static void on_time(struct loop_timer *timer) {
        struct telling *t = container_of(timer, struct telling, timer);
        struct blob *packed;

        if (grpc_call_ended(t->call))
                return;
        packed = grpc_call_pending(t->call) < MOST_PENDING ? t->pack(method_fleet(t->call), t->name) : NULL;
        if (packed)
                grpc_call_send(t->call, &packed, 1);
        tell_later(t);
}

void telling_begin(
        struct grpc_call *call, const char *name, struct blob *(*pack)(struct fleet *fleet, const char *name)) {
        struct telling *t = grpc_call_user(call);

        if (grpc_call_ended(call))
                return;
        t->call = call;
        t->name = name;
        t->pack = pack;
        t->timer.on_time = on_time;
        tell_later(t);
}

void telling_free(struct grpc_call *call) {
        struct telling *t = grpc_call_user(call);

        loop_timer_clear(&t->timer);
}
