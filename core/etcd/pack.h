#pragma once

/*
 * Answers packed by hand from what the keyspace gives: keys and values are copied once, into the blob that is sent. The
 * bytes are what protobuf's own packing of the same message would mean (fields may stand in another order). Any thread.
 */

#include "etcd/header.h"

/* A KeyValue as the given field of its parent, tag and length included. */
size_t pack_kv_size(const struct kv *kv);
uint8_t *pack_kv(uint8_t *p, unsigned field, const struct kv *kv);
/* All of it but the bytes of the value, which must follow; the value is not empty. */
uint8_t *pack_kv_head(uint8_t *p, unsigned field, const struct kv *kv);

/* Whole responses; NULL: no memory, or over 4 GiB. */
struct blob *pack_put_response(const struct etcd_header *header, const struct op_result *result);
struct blob *pack_delete_response(const struct etcd_header *header, const struct op_result *result);
/* txn: the request, which says what each result is. */
struct blob *pack_txn_response(
        struct arena *arena, const struct etcd_header *header, const struct txn *txn, const struct txn_result *result);

/* An event as a field of its WatchResponse, for all watchers that want it the same way. */
struct blob *pack_event(const struct watch_event *event, bool with_prev);
