/*
 * ResponseHeader by hand. No state; any thread.
 */

#include "etcd/header.h"

#include "etcd/status.h"
#include "rpc/protobuf.h"

void etcd_header_init(struct etcd_header *header, const struct keyspace *ks, int64_t revision) {
        header->cluster_id = keyspace_cluster_id(ks);
        header->member_id = keyspace_member_id(ks);
        header->revision = revision;
}

static size_t body_size(const struct etcd_header *header) {
        return 1 + protobuf_varint_size(header->cluster_id) + 1 + protobuf_varint_size(header->member_id) +
                protobuf_field_varint_size((uint64_t)header->revision) + protobuf_field_varint_size(ETCD_RAFT_TERM);
}

size_t etcd_header_size(const struct etcd_header *header) {
        size_t body = body_size(header);

        return 1 + protobuf_varint_size(body) + body;
}

uint8_t *etcd_header_put(uint8_t *p, const struct etcd_header *header) {
        *p++ = 1 << 3 | 2;
        p = protobuf_put_varint(p, body_size(header));
        p = protobuf_put_field_varint(p, 1, header->cluster_id);
        p = protobuf_put_field_varint(p, 2, header->member_id);
        p = protobuf_put_field_varint(p, 3, (uint64_t)header->revision);
        return protobuf_put_field_varint(p, 4, ETCD_RAFT_TERM);
}

void etcd_reply_header(struct grpc_call *call, int64_t revision) {
        struct etcd_header header;
        struct blob *message;

        etcd_header_init(&header, grpc_call_server_userdata(call), revision);
        message = blob_new(etcd_header_size(&header));
        if (!message)
                return etcd_fail(call, ETCD_NO_MEMORY);
        etcd_header_put(message->data, &header);
        grpc_call_reply(call, message);
}
