#include "ctl/stream.h"

/* A call with streams; its end is reported as that of any call. */

#include "ctl/connect.h"
#include "rpc/protobuf.h"

static void on_message(void *userdata, struct bytes data) {
        struct ctl_stream *s = userdata;

        if (!s->cancelled)
                s->on_message(s, data);
}

static void on_end(void *userdata, enum grpc_code code, const char *message) {
        struct ctl_stream *s = userdata;

        s->call = NULL;
        s->ended = true;
        s->result = s->cancelled ? CTL_OK : ctl_report(s->ctl, code, message, s->ctl->timeout_ns);
        loop_stop(s->ctl->loop);
}

static const struct grpc_client_handler handler = {.on_message = on_message, .on_end = on_end};

int ctl_stream_begin(struct ctl *ctl, struct ctl_stream *s, const char *method) {
        cleanup(freep) char *path = NULL;
        int r = ctl_connect(ctl);

        if (r != CTL_OK)
                return r;
        s->ctl = ctl;
        if (asprintf(&path, "/stokehold.control.v1.Control/%s", method) < 0 ||
                grpc_client_start(ctl->client, path, ctl->timeout_ns, &handler, s, &s->call) < 0)
                return ctl_fail(CTL_FAILED, "out of memory");
        return CTL_OK;
}

void ctl_stream_send(struct ctl_stream *s, const ProtobufCMessage *message) {
        cleanup(blob_unrefp) struct blob *packed = protobuf_pack(message);

        check(packed);
        if (s->call)
                (void)grpc_client_send(s->call, blob_bytes(packed));
}

int ctl_stream_run(struct ctl_stream *s) {
        while (!s->ended)
                if (loop_run(s->ctl->loop) < 0)
                        return ctl_fail(CTL_FAILED, "the event loop failed");
        return s->result;
}

void ctl_stream_cancel(struct ctl_stream *s) {
        s->cancelled = true;
        if (s->call)
                grpc_client_cancel(s->call);
}
