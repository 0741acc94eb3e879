#pragma once

/*
 * Requests of the KV service as the keyspace takes them, checked as etcd checks them, in its order. Everything returned points
 * into the message or the arena, and lives as long as both. Any thread.
 */

#include "base/arena.h"
#include "etcd/status.h"

/* A write's request, as it would stand in etcd's own log, is over the maximum. */
bool convert_too_large(struct bytes message, const struct keyspace_limits *limits);

/* The hottest request is decoded by hand. */
enum etcd_status convert_range(struct bytes message, struct range_request *ret);
enum etcd_status convert_put(
        struct arena *arena, struct bytes message, const struct keyspace_limits *limits, struct txn_op *ret);
enum etcd_status convert_delete(
        struct arena *arena, struct bytes message, const struct keyspace_limits *limits, struct txn_op *ret);
/* ret_read_only: all operations of both branches are ranges; then the size is not limited. */
enum etcd_status convert_txn(struct arena *arena, struct bytes message, const struct keyspace_limits *limits,
        struct txn *ret, bool *ret_read_only);
