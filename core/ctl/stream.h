#pragma once

/*
 * Calls with streams: any number of messages either way, on the connection of ctl.h. The only thread; callbacks come from within
 * ctl_stream_run().
 */

#include "ctl/ctl.h"

struct ctl_stream {
        /* Set by the caller. data is valid during the call. */
        void (*on_message)(struct ctl_stream *s, struct bytes data);
        /* The stream's own. */
        struct ctl *ctl;
        struct grpc_client_call *call; /* NULL: ended */
        int result;                    /* enum ctl_exit */
        bool ended, cancelled;
};

/* Begins stokehold.control.v1.Control/METHOD; without --timeout it may take as long as it does. CTL_OK, or what was reported. */
int ctl_stream_begin(struct ctl *ctl, struct ctl_stream *s, const char *method);
void ctl_stream_send(struct ctl_stream *s, const ProtobufCMessage *message);
/* Until the server ends it, or the caller has cancelled it: CTL_OK, or what was reported (cancelled: nothing is). */
int ctl_stream_run(struct ctl_stream *s);
/* From within a callback: it is over. */
void ctl_stream_cancel(struct ctl_stream *s);
