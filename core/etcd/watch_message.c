/*
 * WatchResponse, packed by hand. An event is packed once, by the first watcher that sends it, and its bytes are shared by all
 * others that want it the same way: to each watcher belongs only what stands before the events.
 */

#include "etcd/pack.h"
#include "etcd/watch.h"
#include "rpc/protobuf.h"

/* Where a watch asked for fragments, a response with more than one event stays below this: etcd's maximum with its overhead. */
#define FRAGMENT_BYTES ((size_t)2048 * 1024)
#define PARTS_INLINE 64

static struct blob *pack_head(struct watch_stream *s, const struct watch_message *m) {
        struct bytes reason = m->reason ? bytes_of_string(m->reason) : (struct bytes){};
        struct etcd_header header;
        struct blob *b;
        uint8_t *p;

        etcd_header_init(&header, s->ks, m->revision);
        b = blob_new(etcd_header_size(&header) + protobuf_field_varint_size((uint64_t)m->id) + (m->created ? 2 : 0) +
                (m->canceled ? 2 : 0) + protobuf_field_varint_size((uint64_t)m->compact_revision) +
                protobuf_field_bytes_size(reason.size) + (m->fragment ? 2 : 0));
        if (!b)
                return NULL;
        p = etcd_header_put(b->data, &header);
        p = protobuf_put_field_varint(p, 2, (uint64_t)m->id);
        p = protobuf_put_field_varint(p, 3, m->created);
        p = protobuf_put_field_varint(p, 4, m->canceled);
        p = protobuf_put_field_varint(p, 5, (uint64_t)m->compact_revision);
        p = protobuf_put_field_bytes(p, 6, reason);
        p = protobuf_put_field_varint(p, 7, m->fragment);
        check(p == b->data + b->size);
        return b;
}

bool watch_send(struct watch_stream *s, const struct watch_message *m) {
        struct blob *head = pack_head(s, m);

        if (!head) {
                watch_stream_fail(s, ETCD_NO_MEMORY);
                return false;
        }
        grpc_call_send(s->call, &head, 1);
        return true;
}

/* Where there is no previous version, both ways are the same. */
static struct blob **packed_of(const struct watch *w, struct watch_event *event) {
        return &event->packed[w->prev_kv && event->has_prev];
}

/* All must be packed. */
static bool send_some(struct watch *w, struct watch_event *const *events, size_t n, int64_t revision, bool fragment) {
        struct watch_stream *s = w->stream;
        struct watch_message m = {.revision = revision, .id = w->id, .fragment = fragment};
        struct blob *inline_parts[PARTS_INLINE], **parts = inline_parts;

        if (n + 1 > PARTS_INLINE) {
                parts = calloc(n + 1, sizeof(*parts));
                if (!parts)
                        goto no_memory;
        }
        parts[0] = pack_head(s, &m);
        if (!parts[0])
                goto no_memory;
        for (size_t i = 0; i < n; i++)
                parts[i + 1] = blob_ref(*packed_of(w, events[i]));
        grpc_call_send(s->call, parts, n + 1);
        if (parts != inline_parts)
                free(parts);
        return true;

no_memory:
        if (parts != inline_parts)
                free(parts);
        watch_stream_fail(s, ETCD_NO_MEMORY);
        return false;
}

bool watch_send_events(struct watch *w, struct watch_event *const *events, size_t n_events, int64_t revision) {
        size_t total = 0, begin = 0;

        for (size_t i = 0; i < n_events; i++) {
                struct blob **packed = packed_of(w, events[i]);

                if (!*packed)
                        *packed = pack_event(events[i], w->prev_kv);
                if (!*packed) {
                        watch_stream_fail(w->stream, ETCD_NO_MEMORY);
                        return false;
                }
                total += (*packed)->size;
        }
        if (!w->fragment || total + ETCD_HEADER_MAX < FRAGMENT_BYTES)
                return send_some(w, events, n_events, revision, false);

        while (begin < n_events) {
                size_t size = ETCD_HEADER_MAX, end = begin;

                do
                        size += (*packed_of(w, events[end++]))->size;
                while (end < n_events && size + (*packed_of(w, events[end]))->size < FRAGMENT_BYTES);
                if (!send_some(w, events + begin, end - begin, revision, end < n_events))
                        return false;
                begin = end;
        }
        return true;
}
