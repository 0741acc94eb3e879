#pragma once

/*
 * Where a connection's bytes go to and come from: a few functions over a descriptor, whose loop is told by it when to try again. Plain sockets are
 * here; TLS (rpc/tls.h) is a transport of its own which embeds this struct. A transport is on the heap, so that a connection hands it on as
 * it is. One thread at a time.
 */

#include <sys/types.h>
#include <sys/uio.h>

#include "base/macro.h"

struct transport;

struct transport_ops {
        /* Bytes read, 0 at the end of the stream, or a negative errno (-EAGAIN: nothing now). */
        ssize_t (*read)(struct transport *t, void *data, size_t size);
        /* Bytes taken (maybe fewer than given), or a negative errno (-EAGAIN: not now). After fewer the descriptor is waited for and the
         * same bytes come again, followed by others or not. */
        ssize_t (*write)(struct transport *t, const struct iovec *iov, size_t n_iov);
        /* Tells the peer that no more will come. */
        void (*end)(struct transport *t);
        /* There is something to be read that the descriptor does not tell of, since it was taken from it already. */
        bool (*pending)(const struct transport *t);
        /* Closes the descriptor and frees all. */
        void (*free)(struct transport *t);
};

struct transport {
        const struct transport_ops *ops;
        int fd; /* owned */
};

/* fd: a connected non-blocking socket, taken over; NULL: no memory, and it is closed. */
struct transport *transport_new_socket(int fd);
static inline ssize_t transport_read(struct transport *t, void *data, size_t size) {
        return t->ops->read(t, data, size);
}
static inline ssize_t transport_write(struct transport *t, const struct iovec *iov, size_t n_iov) {
        return t->ops->write(t, iov, n_iov);
}
static inline void transport_end(struct transport *t) {
        t->ops->end(t);
}
static inline bool transport_pending(const struct transport *t) {
        return t->ops->pending(t);
}
/* Takes NULL. Whoever watches the descriptor stops that first. */
static inline void transport_free(struct transport *t) {
        if (t)
                t->ops->free(t);
}
