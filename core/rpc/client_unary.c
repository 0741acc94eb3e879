#include "rpc/client_call.h"

#include <errno.h>

/* One call at a time, for programs that have nothing else to do: runs the client's loop until the call's end. */

struct unary {
        struct loop *loop;
        void (*on_message)(void *userdata, struct bytes data);
        void *userdata;
        enum grpc_code code;
        struct error *reterr;
        bool ended;
};

static void unary_message(void *userdata, struct bytes data) {
        struct unary *u = userdata;

        if (u->on_message)
                u->on_message(u->userdata, data);
}

static void unary_end(void *userdata, enum grpc_code code, const char *message) {
        struct unary *u = userdata;

        u->ended = true;
        u->code = code;
        if (code != GRPC_OK)
                (void)error_set(u->reterr, -EREMOTEIO, "%s", *message ? message : grpc_code_name(code));
        loop_stop(u->loop);
}

enum grpc_code grpc_client_unary(struct grpc_client *c, const char *path, uint64_t timeout_ns, struct bytes request,
        void (*on_message)(void *userdata, struct bytes data), void *userdata, struct error *reterr) {
        static const struct grpc_client_handler handler = {.on_message = unary_message, .on_end = unary_end};
        struct unary u = {.loop = c->loop, .on_message = on_message, .userdata = userdata, .reterr = reterr};
        struct grpc_client_call *call;
        int r;

        r = grpc_client_start(c, path, timeout_ns, &handler, &u, &call);
        if (r < 0) {
                (void)error_set(reterr, r, "%s", strerror(-r));
                return GRPC_RESOURCE_EXHAUSTED;
        }
        r = grpc_client_send(call, request);
        if (r < 0) {
                grpc_client_cancel(call);
                (void)error_set(reterr, r, "%s", strerror(-r));
                return GRPC_RESOURCE_EXHAUSTED;
        }
        grpc_client_half_close(call);
        r = loop_run(c->loop);
        if (!u.ended) {
                /* Stopped by somebody else, or the loop failed. */
                grpc_client_cancel(call);
                (void)error_set(reterr, r < 0 ? r : -ECANCELED, "%s", strerror(r < 0 ? -r : ECANCELED));
        }
        return u.code;
}
