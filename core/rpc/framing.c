#include "rpc/framing.h"

#include <errno.h>

static size_t entry_size(const struct send_entry *e) {
        return (e->first ? FRAMING_PREFIX : 0) + (e->blob ? e->blob->size : 0);
}

static int send_queue_grow(struct send_queue *q, size_t n) {
        struct send_entry *entries;
        uint32_t capacity;

        if (!q->entries) {
                q->entries = q->few;
                q->capacity = n_elements(q->few);
        }
        if (q->n + n <= q->capacity)
                return 0;

        for (capacity = q->capacity; capacity < q->n + n; capacity *= 2)
                if (capacity > UINT32_MAX / 4)
                        return -ENOMEM;
        entries = calloc(capacity, sizeof(*entries));
        if (!entries)
                return -ENOMEM;
        for (uint32_t i = 0; i < q->n; i++)
                entries[i] = q->entries[(q->head + i) & (q->capacity - 1)];
        if (q->entries != q->few)
                free(q->entries);
        q->entries = entries;
        q->capacity = capacity;
        q->head = 0;
        return 0;
}

int send_queue_push(struct send_queue *q, struct blob *const *parts, size_t n_parts) {
        uint64_t size = 0;
        int r;

        for (size_t i = 0; i < n_parts; i++)
                size += parts[i]->size;
        r = size > UINT32_MAX ? -EMSGSIZE : send_queue_grow(q, n_parts ? n_parts : 1);
        if (r < 0) {
                for (size_t i = 0; i < n_parts; i++)
                        blob_unref(parts[i]);
                return r;
        }

        /* An empty part behind the first would be left when all bytes have gone, as if the message had not ended. */
        for (size_t i = 0; i < n_parts || i == 0; i++)
                if (i > 0 && parts[i]->size == 0)
                        blob_unref(parts[i]);
                else
                        q->entries[(q->head + q->n++) & (q->capacity - 1)] = (struct send_entry){
                                .blob = n_parts ? parts[i] : NULL, .message = (uint32_t)size, .first = i == 0};
        q->size += size + FRAMING_PREFIX;
        return 0;
}

void send_queue_emit(struct send_queue *q, struct output_batch *batch, size_t n) {
        check(n <= q->size);
        q->size -= n;
        while (n) {
                struct send_entry *e = &q->entries[q->head];
                size_t prefix = e->first ? FRAMING_PREFIX : 0, size = entry_size(e), k;

                if (q->offset < prefix) {
                        uint8_t bytes[FRAMING_PREFIX] = {0, (uint8_t)(e->message >> 24), (uint8_t)(e->message >> 16),
                                (uint8_t)(e->message >> 8), (uint8_t)e->message};

                        k = min_of(prefix - q->offset, n);
                        output_batch_copy(batch, bytes + q->offset, k);
                        q->offset += k;
                        n -= k;
                }
                k = min_of(size - q->offset, n);
                if (k) {
                        output_batch_blob(batch, e->blob, q->offset - prefix, k);
                        q->offset += k;
                        n -= k;
                }
                if (q->offset == size) {
                        blob_unref(e->blob);
                        q->head = (q->head + 1) & (q->capacity - 1);
                        q->n--;
                        q->offset = 0;
                }
        }
        /* A stream that is idle keeps no ring. */
        if (!q->n && q->entries != q->few)
                send_queue_done(q);
}

bool send_queue_broken(const struct send_queue *q) {
        return q->n && (q->offset || !q->entries[q->head].first);
}

void send_queue_done(struct send_queue *q) {
        for (uint32_t i = 0; i < q->n; i++)
                blob_unref(q->entries[(q->head + i) & (q->capacity - 1)].blob);
        if (q->entries != q->few)
                free(q->entries);
        q->entries = NULL;
        q->head = q->n = q->capacity = 0;
        q->offset = q->size = 0;
}

int message_reader_feed(struct message_reader *reader, const uint8_t *data, size_t size, size_t max,
        bool (*on_message)(void *userdata, struct bytes message), void *userdata) {
        for (;;) {
                struct bytes message;
                size_t n;
                bool on;
                int r;

                if (reader->n_prefix < FRAMING_PREFIX) {
                        n = min_of(size, (size_t)(FRAMING_PREFIX - reader->n_prefix));
                        if (!n)
                                return 0;
                        memcpy(reader->prefix + reader->n_prefix, data, n);
                        reader->n_prefix = (uint8_t)(reader->n_prefix + n);
                        data += n;
                        size -= n;
                        if (reader->n_prefix < FRAMING_PREFIX)
                                return 0;
                        reader->size = (uint32_t)reader->prefix[1] << 24 | (uint32_t)reader->prefix[2] << 16 |
                                (uint32_t)reader->prefix[3] << 8 | reader->prefix[4];
                        if (reader->prefix[0])
                                return FRAMING_COMPRESSED;
                        if (reader->size > max)
                                return FRAMING_TOO_LARGE;
                }

                if (!reader->partial.size && size >= reader->size) {
                        message = bytes_of(data, reader->size);
                        n = reader->size;
                } else {
                        /* The buffer grows with what has come, not with what was announced. */
                        n = min_of(size, reader->size - reader->partial.size);
                        r = buf_append(&reader->partial, data, n);
                        if (r < 0)
                                return r;
                        if (reader->partial.size < reader->size)
                                return 0;
                        message = bytes_of(reader->partial.data, reader->size);
                }
                data += n;
                size -= n;

                on = on_message(userdata, message);
                reader->n_prefix = 0;
                if (reader->partial.capacity > 64 * 1024)
                        buf_done(&reader->partial);
                else
                        buf_clear(&reader->partial);
                if (!on) {
                        reader->left = size;
                        return FRAMING_STOPPED;
                }
                if (!size && reader->partial.data)
                        buf_done(&reader->partial); /* what is idle holds no memory */
        }
}

void message_reader_done(struct message_reader *reader) {
        buf_done(&reader->partial);
        *reader = (struct message_reader){};
}
