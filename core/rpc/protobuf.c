#include "rpc/protobuf.h"

#include <errno.h>

/*
 * protobuf-c's unpack recurses once for each level of nesting, and allocates for each element whatever its structure takes. Both
 * are the sender's choice, so both are bounded here: the depth by a scan before, the memory by the arena's maximum.
 */

/* An element of two bytes may become a structure of a hundred and its note in the unpacker's list. */
#define UNPACK_FACTOR 48
#define UNPACK_SLACK (64 * 1024)

static bool read_varint(struct bytes *in, uint64_t *ret) {
        uint64_t v = 0;

        for (unsigned shift = 0; shift < 64; shift += 7) {
                uint8_t b;

                if (!in->size)
                        return false;
                b = *in->data++;
                in->size--;
                v |= (uint64_t)(b & 0x7f) << shift;
                if (!(b & 0x80)) {
                        *ret = v;
                        return true;
                }
        }
        return false;
}

static bool skip(struct bytes *in, uint64_t n) {
        if (n > in->size)
                return false;
        in->data += n;
        in->size -= n;
        return true;
}

int protobuf_read_field(struct bytes *in, struct protobuf_field *ret) {
        uint64_t tag, n;

        if (!in->size)
                return 0;
        *ret = (struct protobuf_field){};
        if (!read_varint(in, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
                return -EBADMSG;
        ret->number = (uint32_t)(tag >> 3);
        ret->type = (unsigned)(tag & 7);
        switch (ret->type) {
        case 0:
                return read_varint(in, &ret->value) ? 1 : -EBADMSG;
        case 1:
        case 5:
                n = ret->type == 1 ? 8 : 4;
                for (unsigned i = 0; i < n && i < in->size; i++)
                        ret->value |= (uint64_t)in->data[i] << (8 * i);
                return skip(in, n) ? 1 : -EBADMSG;
        case 2:
                if (!read_varint(in, &n) || n > in->size)
                        return -EBADMSG;
                ret->bytes = bytes_of(in->data, (size_t)n);
                (void)skip(in, n);
                return 1;
        default:
                return -EBADMSG; /* groups: protobuf-c does not know them */
        }
}

static bool has_messages(const ProtobufCMessageDescriptor *d) {
        for (unsigned i = 0; i < d->n_fields; i++)
                if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
                        return true;
        return false;
}

/* False: malformed, or deeper than left allows. */
static bool scan(const ProtobufCMessageDescriptor *d, struct bytes in, unsigned left) {
        struct protobuf_field field;
        int r;

        if (!left)
                return false;
        if (!has_messages(d))
                return true; /* unpack itself finds what is malformed */

        while ((r = protobuf_read_field(&in, &field)) > 0) {
                const ProtobufCFieldDescriptor *f;

                if (field.type != 2)
                        continue;
                f = protobuf_c_message_descriptor_get_field(d, field.number);
                if (f && f->type == PROTOBUF_C_TYPE_MESSAGE && !scan(f->descriptor, field.bytes, left - 1))
                        return false;
        }
        return r == 0;
}

static void *alloc_in_arena(void *userdata, size_t size) {
        return arena_alloc(userdata, size);
}

static void free_in_arena(void *userdata, void *data) {
        (void)userdata;
        (void)data;
}

ProtobufCMessage *protobuf_unpack(
        const ProtobufCMessageDescriptor *descriptor, struct arena *arena, struct bytes data) {
        ProtobufCAllocator allocator = {.alloc = alloc_in_arena, .free = free_in_arena, .allocator_data = arena};
        size_t max = arena->max, limit;
        ProtobufCMessage *m;

        if (!scan(descriptor, data, PROTOBUF_MAX_DEPTH))
                return NULL;

        limit = arena->total + data.size * UNPACK_FACTOR + UNPACK_SLACK;
        arena->max = max ? min_of(max, limit) : limit;
        m = protobuf_c_message_unpack(descriptor, &allocator, data.size, data.data);
        arena->max = max;
        return m;
}

struct blob *protobuf_pack(const ProtobufCMessage *message) {
        struct blob *b = blob_new(protobuf_c_message_get_packed_size(message));

        if (b)
                protobuf_c_message_pack(message, b->data);
        return b;
}
