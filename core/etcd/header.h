#pragma once

/*
 * ResponseHeader, packed by hand: who answers (cluster, member), at which revision, in which term. The ids are the
 * keyspace's: so all daemons that serve a tenant are one
 * member to its clients. The term is a constant: no election ever takes place.
 */

#include "keyspace/keyspace.h"
#include "rpc/grpc.h"

struct etcd_header {
        uint64_t cluster_id, member_id;
        int64_t revision;
};

#define ETCD_RAFT_TERM 2
/* Tag, length and body of the largest header as a field of its response. */
#define ETCD_HEADER_MAX (2 + 4 * 11)

void etcd_header_init(struct etcd_header *header, const struct keyspace *ks, int64_t revision);
/* Bytes with tag and length, as field 1 of a response. */
size_t etcd_header_size(const struct etcd_header *header);
uint8_t *etcd_header_put(uint8_t *p, const struct etcd_header *header);

/* For what is packed by protobuf-c. */
#define ETCD_HEADER_FILL(pb, header)                                                                                   \
        do {                                                                                                           \
                (pb)->cluster_id = (header)->cluster_id;                                                               \
                (pb)->member_id = (header)->member_id;                                                                 \
                (pb)->revision = (header)->revision;                                                                   \
                (pb)->raft_term = ETCD_RAFT_TERM;                                                                      \
        } while (0)

/* Replies with a message that has the header and nothing else. */
void etcd_reply_header(struct grpc_call *call, int64_t revision);
