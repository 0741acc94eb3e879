#pragma once

/*
 * The few lines between protobuf-c and the rest: unpacking into an arena after a scan for depth, packing into a blob, and
 * writing the hot messages by hand.
 */

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/buf.h"

#define PROTOBUF_MAX_DEPTH 100

/* NULL: malformed, deeper than PROTOBUF_MAX_DEPTH nested messages along the fields that the descriptor has (protobuf-c's
 * unpack itself recurses without a limit), or no memory. */
ProtobufCMessage *protobuf_unpack(const ProtobufCMessageDescriptor *descriptor, struct arena *arena, struct bytes data);
/* NULL: no memory. */
struct blob *protobuf_pack(const ProtobufCMessage *message);

/* Reading by hand, a field at a time. */
struct protobuf_field {
        uint32_t number;
        unsigned type;      /* the wire type: 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
        uint64_t value;     /* of types 0, 1 and 5 */
        struct bytes bytes; /* of type 2, within the input */
};
/* Takes the next field off the front. 1: there was one; 0: the end; -EBADMSG: malformed. */
int protobuf_read_field(struct bytes *in, struct protobuf_field *ret);

/* Writing by hand: sizes and writers for varints, tagged with field number and wire type. */
static inline size_t protobuf_varint_size(uint64_t v) {
        return (size_t)((63 - __builtin_clzll(v | 1)) / 7 + 1);
}
static inline uint8_t *protobuf_put_varint(uint8_t *p, uint64_t v) {
        while (v >= 0x80) {
                *p++ = (uint8_t)(v | 0x80);
                v >>= 7;
        }
        *p++ = (uint8_t)v;
        return p;
}
/* field < 16 for both. Zero is left out, as proto3 does. */
static inline size_t protobuf_field_varint_size(uint64_t v) {
        return v ? 1 + protobuf_varint_size(v) : 0;
}
static inline uint8_t *protobuf_put_field_varint(uint8_t *p, unsigned field, uint64_t v) {
        if (v) {
                *p++ = (uint8_t)(field << 3);
                p = protobuf_put_varint(p, v);
        }
        return p;
}
static inline size_t protobuf_field_bytes_size(size_t size) {
        return size ? 1 + protobuf_varint_size(size) + size : 0;
}
static inline uint8_t *protobuf_put_field_bytes(uint8_t *p, unsigned field, struct bytes b) {
        if (b.size) {
                *p++ = (uint8_t)(field << 3 | 2);
                p = protobuf_put_varint(p, b.size);
                memcpy(p, b.data, b.size);
                p += b.size;
        }
        return p;
}
