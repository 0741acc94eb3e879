/*
 * gRPC's length-prefixed messages: input is a stream of DATA, whose first two bytes say in which pieces it comes. However it is cut, the
 * reader must give the same messages and the same end; and what a send queue writes of these messages, also cut anywhere, must be
 * the stream again. A mistake here lets one message run into the next, or takes memory for what was only announced.
 */

#include "fuzz.h"
#include "rpc/framing.h"

#define MAX_MESSAGE 1024

struct seen {
        struct buf messages; /* each behind its size */
        size_t n;
        size_t stop_after; /* 0: never */
};

static bool on_message(void *userdata, struct bytes message) {
        struct seen *seen = userdata;

        check(message.size <= MAX_MESSAGE);
        check(buf_append(&seen->messages, &message.size, sizeof(message.size)) == 0);
        check(buf_append(&seen->messages, message.data, message.size) == 0);
        return ++seen->n != seen->stop_after;
}

static int feed(struct bytes stream, size_t piece, struct seen *seen, bool *ret_broken) {
        struct message_reader reader = {};
        int r = 0;

        for (size_t at = 0, n; at < stream.size && r == 0; at += n) {
                uint8_t *copy;

                n = min_of(piece, stream.size - at);
                copy = fuzz_copy(stream.data + at, n);
                r = message_reader_feed(&reader, copy, n, MAX_MESSAGE, on_message, seen);
                check(reader.partial.size <= MAX_MESSAGE);
                free(copy);
        }
        *ret_broken = message_reader_broken(&reader);
        message_reader_done(&reader);
        return r;
}

/* Sends what was seen in pieces of any size and holds it against the stream. */
static void send_back(const struct seen *seen, struct bytes stream, size_t piece) {
        struct output_batch *batch = output_batch_get();
        struct send_queue queue = {};
        size_t at = 0, total = 0;

        check(batch);
        for (size_t i = 0; i < seen->messages.size;) {
                size_t size, half;
                struct blob *parts[2];

                memcpy(&size, seen->messages.data + i, sizeof(size));
                i += sizeof(size);
                half = size / 2;
                parts[0] = blob_copy(seen->messages.data + i, half);
                parts[1] = blob_copy(seen->messages.data + i + half, size - half);
                check(send_queue_push(&queue, parts, 2) == 0);
                i += size;
                total += size + FRAMING_PREFIX;
        }
        check(queue.size == total && total <= stream.size);
        while (queue.size) {
                size_t n = min_of(min_of(piece, queue.size), (size_t)OUTPUT_FRAME - 64);

                send_queue_emit(&queue, batch, n);
                check(batch->total == n);
                for (size_t i = 0; i < batch->n_parts; i++) {
                        check(memcmp(batch->iov[i].iov_base, stream.data + at, batch->iov[i].iov_len) == 0);
                        at += batch->iov[i].iov_len;
                }
                output_batch_done(batch);
                batch = output_batch_get();
                check(batch);
        }
        check(at == total && !send_queue_broken(&queue));
        send_queue_done(&queue);
        output_batch_done(batch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct fuzz_input in = {data, size};
        size_t piece = 1 + fuzz_byte(&in), stop_after = fuzz_byte(&in) & 7;
        struct bytes stream = bytes_of(in.data, in.size);
        struct seen whole = {.stop_after = stop_after}, cut = {.stop_after = stop_after};
        bool whole_broken, cut_broken;
        int r;

        r = feed(stream, max_of(stream.size, 1), &whole, &whole_broken);
        check(r >= 0);
        check(feed(stream, piece, &cut, &cut_broken) == r);
        check(whole.n == cut.n && whole_broken == cut_broken);
        check(bytes_equal(
                bytes_of(whole.messages.data, whole.messages.size), bytes_of(cut.messages.data, cut.messages.size)));
        send_back(&whole, stream, piece);
        buf_done(&whole.messages);
        buf_done(&cut.messages);
        return 0;
}
