/*
 * Range and RangeStream. Each call's state is its user memory; the server's loop only.
 *
 * The keyspace gives an answer in slices. Each is packed into a chunk, so that a value is copied once on its way from the cache to the
 * socket, or not at all where a long answer would have to be held twice; the chunks are the parts of one message, or messages of their own. What is known only at the end (the
 * header's revision, more, count) is put behind the kvs: the order of fields is free. The last chunk is made with room
 * for it, so that the common answer, one key, is one allocation.
 *
 * A RangeStream's chunks are sent as they are made, but for the last one, which waits for the end: header, more and count
 * stand in the last message only. When the client is slow the walk over the keyspace pauses: at most LIST_HIGH_MARK is queued.
 */

#include "etcd/list.h"

#include "etcd/convert.h"
#include "etcd/pack.h"
#include "rpc/protobuf.h"

#define LIST_HIGH_MARK (1024 * 1024) /* bytes; above the server's low mark, or on_drained would not come */
/* An answer that holds more than LIST_LARGE takes values of more than LIST_SHARED, on the average of a slice, as they are in the cache,
 * and chunks of at least LIST_MAPPED, which malloc maps one by one: so they go back one by one, too. Giving back a heap of many
 * megabytes at once holds up the loop for milliseconds. */
#define LIST_LARGE ((size_t)4 * 1024 * 1024)
#define LIST_SHARED 2048
#define LIST_MAPPED (MALLOC_MAPPED + 4096)
#define TAIL_MAX (ETCD_HEADER_MAX + 2 + 11)

/* Takes the reference over; false: no memory, and it is dropped. */
static bool push_chunk(struct list *list, struct blob *chunk, size_t room) {
        if (chunk && list->n_chunks == list->capacity) {
                size_t capacity = list->capacity ? list->capacity * 2 : 4;
                struct blob **chunks = realloc(list->chunks, capacity * sizeof(*chunks));

                if (!chunks) {
                        blob_unref(chunk);
                        return false;
                }
                list->chunks = chunks;
                list->capacity = capacity;
        }
        if (!chunk)
                return false;
        list->n_bytes += chunk->size;
        list->room = room;
        list->chunks[list->n_chunks++] = chunk;
        return true;
}

/* A chunk with room for the tail; counted in the list. */
static struct blob *add_chunk(struct list *list, size_t size) {
        size_t room = max_of(size + TAIL_MAX, list->n_bytes > LIST_LARGE ? LIST_MAPPED : (size_t)0);
        struct blob *chunk = size <= UINT32_MAX - TAIL_MAX ? blob_new(room) : NULL;

        if (!chunk)
                return NULL;
        chunk->size = (uint32_t)size;
        return push_chunk(list, chunk, TAIL_MAX) ? chunk : NULL;
}

/* The kvs with their values as they are. */
static bool add_shared(struct list *list, const struct kv *kvs, size_t n_kvs) {
        for (size_t i = 0; i < n_kvs; i++) {
                size_t value_size = kvs[i].value ? kvs[i].value->size : 0;
                struct blob *head = blob_new(pack_kv_size(kvs + i) - value_size);
                uint8_t *end;

                if (!head)
                        return false;
                end = value_size ? pack_kv_head(head->data, 2, kvs + i) : pack_kv(head->data, 2, kvs + i);
                check(end == head->data + head->size);
                if (!push_chunk(list, head, 0))
                        return false;
                if (value_size && !push_chunk(list, blob_ref(kvs[i].value), 0))
                        return false;
        }
        return true;
}

static bool is_shared(const struct list *list, const struct kv *kvs, size_t n_kvs) {
        size_t bytes = 0;

        if (list->is_stream || list->n_bytes <= LIST_LARGE)
                return false;
        for (size_t i = 0; i < n_kvs; i++)
                bytes += kvs[i].value ? kvs[i].value->size : 0;
        return bytes / n_kvs >= LIST_SHARED;
}

static void drop_chunks(struct list *list) {
        for (size_t i = 0; i < list->n_chunks; i++)
                blob_unref(list->chunks[i]);
        list->n_chunks = 0;
}

/* Sends the chunks: RangeResponse, or as the one field of a RangeStreamResponse. */
static void send_chunks(struct list *list) {
        struct blob *parts[2];
        size_t size = 0;
        uint8_t *p;

        if (!list->is_stream) {
                grpc_call_send(list->call, list->chunks, list->n_chunks);
                list->n_chunks = 0;
                return;
        }
        for (size_t i = 0; i < list->n_chunks; i++) {
                size = list->chunks[i]->size;
                parts[0] = blob_new(1 + protobuf_varint_size(size));
                check(parts[0]);
                p = parts[0]->data;
                *p++ = 1 << 3 | 2;
                protobuf_put_varint(p, size);
                parts[1] = list->chunks[i];
                grpc_call_send(list->call, parts, 2);
        }
        list->n_chunks = 0;
        list->n_bytes = 0;
}

static bool on_slice(struct range_call *range, const struct kv *kvs, size_t n_kvs) {
        struct list *list = container_of(range, struct list, range);
        struct blob *chunk;

        if (list->failed)
                return true;
        if (is_shared(list, kvs, n_kvs)) {
                list->failed = !add_shared(list, kvs, n_kvs);
                if (list->failed)
                        drop_chunks(list);
                return true;
        }
        for (size_t i = 0; i < n_kvs;) {
                size_t size = 0, next = i;
                uint8_t *p;

                while (next < n_kvs) {
                        size_t kv_size = pack_kv_size(kvs + next);

                        if (next > i && size + kv_size > LIST_MAX_CHUNK)
                                break;
                        size += kv_size;
                        next++;
                }
                if (list->is_stream) /* what waited was not the last */
                        send_chunks(list);
                chunk = add_chunk(list, size);
                if (!chunk) {
                        /* Told at the end: the walk cannot be left from within. */
                        drop_chunks(list);
                        list->failed = true;
                        return true;
                }
                p = chunk->data;
                for (; i < next; i++)
                        p = pack_kv(p, 2, kvs + i);
                check(p == chunk->data + chunk->size);
        }
        return !list->is_stream || grpc_call_pending(list->call) < LIST_HIGH_MARK;
}

static void list_done(struct keyspace_call *kc, enum keyspace_result result) {
        struct list *list = container_of(kc, struct list, range.call);
        struct etcd_header header;
        struct blob *chunk;
        uint8_t *p;

        if (result != KEYSPACE_OK) {
                drop_chunks(list);
                return etcd_fail_result(list->call, result);
        }
        if (list->failed)
                return etcd_fail(list->call, ETCD_NO_MEMORY);
        chunk = list->n_chunks > 0 && list->room ? list->chunks[list->n_chunks - 1] : add_chunk(list, 0);
        if (!chunk)
                return etcd_fail(list->call, ETCD_NO_MEMORY);

        etcd_header_init(&header, grpc_call_server_userdata(list->call), kc->revision);
        p = chunk->data + chunk->size;
        p = etcd_header_put(p, &header);
        p = protobuf_put_field_varint(p, 3, list->range.more);
        p = protobuf_put_field_varint(p, 4, (uint64_t)list->range.count);
        check(p <= chunk->data + chunk->size + list->room);
        chunk->size = (uint32_t)(p - chunk->data);

        send_chunks(list);
        grpc_call_finish(list->call, GRPC_OK, NULL);
}

static void list_begin(struct list *list, struct grpc_call *call) {
        list->call = call;
        list->range.on_slice = on_slice;
        list->range.call.done = list_done;
        list->range.call.deadline_ns = grpc_call_deadline(call);
        list->range.call.arena = grpc_call_arena(call);
        keyspace_range(grpc_call_server_userdata(call), &list->range);
}

void range_on_message(struct grpc_call *call, struct bytes data) {
        struct list *list = grpc_call_user(call);
        enum etcd_status status = convert_range(data, &list->range.request);

        if (status != ETCD_OK)
                return etcd_fail(call, status);
        list_begin(list, call);
}

void range_stream_on_message(struct grpc_call *call, struct bytes data) {
        struct list *list = grpc_call_user(call);
        struct range_request *r = &list->range.request;
        enum etcd_status status = convert_range(data, r);

        if (status != ETCD_OK)
                return etcd_fail(call, status);
        if (r->sort_order == SORT_DESCEND || (r->sort_order == SORT_ASCEND && r->sort_target != SORT_KEY))
                return etcd_fail(call, ETCD_STREAM_SORT);
        if (r->min_mod || r->max_mod || r->min_create || r->max_create)
                return etcd_fail(call, ETCD_STREAM_FILTER);
        r->sort_target = SORT_KEY;
        r->sort_order = SORT_NONE;
        list->is_stream = true;
        list_begin(list, call);
}

void range_stream_on_drained(struct grpc_call *call) {
        struct list *list = grpc_call_user(call);

        if (list->call && !grpc_call_ended(call))
                keyspace_range_resume(&list->range);
}

void list_on_cancel(struct grpc_call *call) {
        struct list *list = grpc_call_user(call);

        if (list->call)
                keyspace_cancel(&list->range.call);
}

void list_on_free(struct grpc_call *call) {
        struct list *list = grpc_call_user(call);

        drop_chunks(list);
        free(list->chunks);
}
